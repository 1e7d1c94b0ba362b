"""Sequence parallelism: every rank of a group holds a slice of the tokens, and for attention a share of the heads.

Before attention an all-to-all exchanges tokens for heads, so each rank sees whole sequences for its heads, and the
attention itself is any that transformers has; behind it another all-to-all brings the heads of the own tokens back.
The backward pass is the same with roles exchanged (2309.14509). All else in a model works on single tokens.

Contract: :func:`split_attention` switches a model over; from then on :func:`slice_of` cuts a batch for it, and
:meth:`Slice.join` gives every rank the results of all. Tokens are cut *after* the targets have been shifted, so a
token at the start of a slice is predicted from the last state of the slice before. Losses see whole sequences on every
rank and need not know.

With fewer key and value heads than ranks these are repeated. Left out: windowed and linear attention, refused by
:func:`algos.policy.world.check_heads`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.masking_utils import create_causal_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from retool_env.errors import UsageError

__all__ = ["Slice", "slice_of", "split_attention"]

PREFIX = "ulysses_"


@dataclass(frozen=True, kw_only=True)
class Slice:
    """This rank's share of a batch.

    Attributes:
        token_ids: ``[num_rows, num_local]``.
        position_ids: the same shape.
        before: bool, the same shape: states that a trained token is predicted from.
        targets: those tokens, ``[num_local_trained]``, row-major.
        whole: what attention knows of all tokens.
    """

    token_ids: torch.Tensor
    position_ids: torch.Tensor
    before: torch.Tensor
    targets: torch.Tensor
    whole: _Whole
    _places: torch.Tensor
    _num_trained: int

    def join(self, values: torch.Tensor) -> torch.Tensor:
        """From ``[num_local_trained]`` on each rank to ``[num_trained]`` of the whole batch, row-major, on all.

        A gradient goes to the rank that the value came from: every rank must put the same loss on all of them.
        """
        joined: torch.Tensor = _Join.apply(values, self._places, self._num_trained, self.whole.group)
        return joined


@dataclass(frozen=True, kw_only=True)
class _Whole:
    """Of all tokens of a batch: positions ``[num_rows, length]`` and the mask for them, if attention needs one."""

    group: dist.ProcessGroup
    position_ids: torch.Tensor
    mask: Any


class _Ulysses:
    """An attention function, as transformers calls it, around another one."""

    def __init__(self, inner: str, group: dist.ProcessGroup, config: PreTrainedConfig) -> None:
        self.inner = inner
        self.group = group
        self.size = group.size()
        self.config = copy.copy(config)  # masks and kernels ask it which attention this is
        self.config._attn_implementation_internal = inner

    def mask(self, position_ids: torch.Tensor, like: torch.Tensor) -> Any:
        """That the inner attention takes for rows that may be packed."""
        shape = torch.empty((*position_ids.shape, 0), dtype=like.dtype, device=position_ids.device)
        return create_causal_mask(self.config, shape, None, None, position_ids)

    def __call__(
        self,
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: Any,
        ulysses: _Whole | None = None,
        **settings: Any,
    ) -> tuple[torch.Tensor, None]:
        """Arguments and result as transformers defines them: states are ``[num_rows, num_heads, num_local, size]``."""
        attend = cast(Callable[..., Any], ALL_ATTENTION_FUNCTIONS[self.inner])
        if ulysses is None:  # called outside of a scorer: every rank has whole sequences
            positions = settings.get("position_ids")
            mask = None if positions is None else self.mask(positions, query)
            whole: tuple[torch.Tensor, None] = attend(
                self._inner_module(module, 1), query, key, value, mask, **settings
            )
            return whole
        repeat = _repeats(query.shape[1], key.shape[1], self.size)
        key, value = (x.repeat_interleave(repeat, 1) if repeat > 1 else x for x in (key, value))
        query, key, value = (_exchange(x, 1, 2, self.group) for x in (query, key, value))
        settings["position_ids"] = ulysses.position_ids
        out, _ = attend(self._inner_module(module, repeat), query, key, value, ulysses.mask, **settings)
        return _exchange(out, 1, 2, self.group), None

    def _inner_module(self, module: nn.Module, repeat: int) -> nn.Module:
        """The attention layer as the inner function should see it."""
        inner: Any = copy.copy(module)
        inner.config = self.config
        if hasattr(module, "num_key_value_groups"):
            inner.num_key_value_groups = cast(int, module.num_key_value_groups) // repeat
        return cast(nn.Module, inner)


def split_attention(model: PreTrainedModel, group: dist.ProcessGroup) -> None:
    """Let the model's attention run over the ranks of the group.

    Raises:
        UsageError: this model does not let its attention be replaced, or has its own.
    """
    inner = model.config._attn_implementation
    name = f"{PREFIX}{inner}"
    if inner == "eager":
        raise UsageError(
            "attention=eager cannot be split over ranks; use sdpa, flash_attention_2 or flex_attention, or set "
            "parallel.sequence=1"
        )
    ALL_ATTENTION_FUNCTIONS.register(name, _Ulysses(inner, group, model.config))
    model.set_attn_implementation(name)
    if model.config._attn_implementation != name:
        raise UsageError(
            f"{type(model).__name__} does not let its attention be replaced; set parallel.sequence=1 for this model"
        )


def slice_of(
    backbone: nn.Module, token_ids: torch.Tensor, trained: torch.Tensor, position_ids: torch.Tensor | None
) -> Slice | None:
    """This rank's share; ``None`` when the backbone's attention is not split. Arguments as a scorer takes them."""
    name = getattr(getattr(backbone, "config", None), "_attn_implementation", None) or ""
    attention = ALL_ATTENTION_FUNCTIONS.get(name) if name.startswith(PREFIX) else None
    if not isinstance(attention, _Ulysses):
        return None
    num_rows, length = token_ids.shape
    padding = -length % attention.size
    if position_ids is None:
        position_ids = torch.arange(length + padding, device=token_ids.device).expand(num_rows, -1)
    else:  # what fills up packed rows is a sequence of its own
        behind = torch.arange(padding, device=token_ids.device).expand(num_rows, -1)
        position_ids = torch.cat([position_ids, behind], dim=1)
    targets = F.pad(token_ids[:, 1:], (0, 1))
    before = F.pad(trained[:, 1:], (0, 1))
    places = before.flatten().cumsum(0).sub_(1).view_as(before)
    mine = [
        F.pad(x, (0, padding)).chunk(attention.size, dim=1)[attention.group.rank()]
        for x in (token_ids, before, targets, places)
    ]
    like = next(backbone.parameters())
    return Slice(
        token_ids=mine[0],
        position_ids=position_ids.chunk(attention.size, dim=1)[attention.group.rank()],
        before=mine[1],
        targets=mine[2][mine[1]],
        whole=_Whole(group=attention.group, position_ids=position_ids, mask=attention.mask(position_ids, like)),
        _places=mine[3][mine[1]],
        _num_trained=int(trained[:, 1:].sum()),
    )


def _repeats(heads: int, kv_heads: int, ranks: int) -> int:
    """How often every key and value head is repeated so that the ranks can share them; heads divide by the ranks."""
    groups = heads // kv_heads
    return next(n for n in range(1, groups + 1) if groups % n == 0 and kv_heads * n % ranks == 0)


def _exchange(states: torch.Tensor, scatter: int, gather: int, group: dist.ProcessGroup) -> torch.Tensor:
    """Give away parts of dimension ``scatter`` and put together what comes along dimension ``gather``."""
    exchanged: torch.Tensor = _Exchange.apply(states, scatter, gather, group)
    return exchanged


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, scatter: int, gather: int, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.back = (gather, scatter, group)
        return _all_to_all(states, scatter, gather, group)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        return _all_to_all(grad, *ctx.back), None, None, None


def _all_to_all(states: torch.Tensor, scatter: int, gather: int, group: dist.ProcessGroup) -> torch.Tensor:
    parts = torch.stack(states.chunk(group.size(), scatter))
    received = torch.empty_like(parts)
    dist.all_to_all_single(received, parts, group=group)
    return torch.cat(received.unbind(0), dim=gather)


class _Join(torch.autograd.Function):
    """Sums of vectors that are 0 but at each rank's own places."""

    @staticmethod
    def forward(
        ctx: Any, values: torch.Tensor, places: torch.Tensor, total: int, group: dist.ProcessGroup
    ) -> torch.Tensor:
        ctx.save_for_backward(places)
        joined = values.new_zeros(total)
        joined[places] = values
        dist.all_reduce(joined, group=group)
        return joined

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (places,) = ctx.saved_tensors
        return grad[places], None, None, None
