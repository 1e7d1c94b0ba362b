"""What sequences begin with in common runs once, and nothing runs for padding.

The state of a token depends on the tokens before it and on nothing else. The rows of a batch are therefore paths of a
prefix tree: a *node* is a token behind a certain beginning, and a prompt with many answers, or answers that begin
alike, are fewer nodes than tokens. Linear maps, norms and MLPs, which are most of the work, run over nodes. Attention
alone looks at whole rows: it gathers them, those of similar length together, attends causally, and hands every node
what it got in the row where it came first.

Contract: :func:`share_attention` switches a model over, once; from then on its backbone takes a :class:`PrefixTree` as
``prefixes``, beside the tree's ids and positions. Without one it does what it did before. Nothing is approximated: a
token that is trained in several rows has one log-probability, and gets the gradients of all of them.

The rows that attention gathers take memory, too: queries, keys and values of every token. Left out: attention in
chunks or without a softmax, attention split over ranks, and every implementation but ``sdpa``; all are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from retool_env.errors import UsageError

__all__ = ["NAME", "PrefixTree", "can_share", "prefix_tree", "refusal", "run_tree", "share_attention"]

NAME = "shared_sdpa"
INNER = "sdpa"
KINDS = {"full_attention", "sliding_attention"}
STRETCH = 1.25
"""How much longer than the shortest row the longest may be that attention takes together with it."""


@dataclass(frozen=True, kw_only=True)
class PrefixTree:
    """Some rows as a tree.

    Attributes:
        token_ids: of the nodes, ``[1, num_nodes]``; what lies behind the last token that a row is trained on is none.
        position_ids: the same shape.
        rows: nodes of the rows, ``[num_rows, length]`` each, of which every row is in one; behind its end a row has
            node 0.
        places: where a node is in all rows, flat and one tensor behind the other; the first such place,
            ``[num_nodes]``.
        before: nodes that something is predicted from, ``[num_targets]``.
        targets: what is: pairs of these two come once, however many rows are trained on one.
        which: the target of every trained token, ``[num_trained]``, row-major.
    """

    token_ids: torch.Tensor
    position_ids: torch.Tensor
    rows: Sequence[torch.Tensor]
    places: torch.Tensor
    before: torch.Tensor
    targets: torch.Tensor
    which: torch.Tensor


def prefix_tree(token_ids: torch.Tensor, trained: torch.Tensor) -> PrefixTree:
    """The tree of rows that are padded on the right.

    Rows are compared with the one above them, so those that begin alike must be neighbours to be found.

    Args:
        token_ids: ``[num_rows, length]``.
        trained: bool, the same shape; False in the first column.
    """
    columns = torch.arange(token_ids.shape[1], device=token_ids.device).expand_as(token_ids)
    lengths = (trained * columns).amax(1).clamp_(min=1)  # nothing looks back at a row's last trained token
    inside = columns < lengths[:, None]
    starts, nodes = _number(token_ids, inside)
    rows, places = _gathered(nodes, lengths)
    first = torch.full_like(columns[starts], places.numel() * 2).scatter_reduce(
        0, nodes[inside], places[inside], "amin"
    )
    size = token_ids.max() + 1
    pairs = nodes[:, :-1][trained[:, 1:]] * size + token_ids[trained]
    targets, which = pairs.unique(return_inverse=True)
    return PrefixTree(
        token_ids=token_ids[starts][None],
        position_ids=columns[starts][None],
        rows=rows,
        places=first,
        before=targets // size,
        targets=targets % size,
        which=which,
    )


def _number(token_ids: torch.Tensor, inside: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One place for each node, bool, and the node of every token inside; both ``[num_rows, length]``.

    Rows may end and go on again below, so what counts is the ids, and that some row with these is inside.
    """
    again = F.pad((token_ids[1:] == token_ids[:-1]).long().cumprod(1), (0, 0, 1, 0)).bool()  # as the row above, so far
    row = torch.arange(len(token_ids), device=token_ids.device)[:, None]
    origin = row.expand_as(token_ids).masked_fill(again, 0).cummax(0).values  # the row that this began in
    starts = torch.zeros_like(token_ids).scatter_reduce(0, origin, inside.long(), "amax").bool()
    numbers = (starts.flatten().cumsum(0) - 1).view_as(token_ids)
    return starts, numbers.gather(0, origin)


def _gathered(nodes: torch.Tensor, lengths: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Rows of similar length together, and where each token is in them, ``[num_rows, length]``.

    Args:
        nodes: ``[num_rows, length]``.
        lengths: of the rows.
    """
    known = lengths.tolist()
    parts: list[list[int]] = []
    for k in sorted(range(len(known)), key=known.__getitem__):
        if parts and known[k] <= STRETCH * known[parts[-1][0]]:
            parts[-1].append(k)
        else:
            parts.append([k])
    columns = torch.arange(nodes.shape[1], device=nodes.device)
    rows, places, start = list[torch.Tensor](), torch.zeros_like(nodes), 0
    for part in parts:
        length, mine = known[part[-1]], torch.tensor(part, device=nodes.device)
        outside = columns[:length] >= lengths[mine][:, None]
        rows.append(nodes[mine, :length].masked_fill(outside, 0))
        places[mine, :length] = start + torch.arange(outside.numel(), device=nodes.device).view_as(outside)
        start += outside.numel()
    return rows, places


def run_tree(backbone: nn.Module, tree: PrefixTree) -> torch.Tensor:
    """Last hidden states of the nodes, ``[num_nodes, hidden_size]``.

    Args:
        backbone: of a model that :func:`share_attention` switched over.
    """
    # Four dimensions: transformers takes it for a finished mask, and builds none of all pairs of nodes.
    no_mask = torch.empty((1, 1, 1, 1), device=tree.token_ids.device)
    out = backbone(
        input_ids=tree.token_ids,
        position_ids=tree.position_ids,
        attention_mask=no_mask,
        use_cache=False,
        prefixes=tree,
    )
    states: torch.Tensor = out.last_hidden_state[0]
    return states


def can_share(model: PreTrainedModel) -> bool:
    """Whether :func:`share_attention` will take the model."""
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    return model.config._attn_implementation in (INNER, NAME) and kinds <= KINDS


def share_attention(model: PreTrainedModel) -> None:
    """Let the model's attention take prefix trees; may be called again.

    Raises:
        UsageError: its attention is another one than ``sdpa``, or neither causal nor over a window.
    """
    if NAME not in ALL_ATTENTION_FUNCTIONS:
        ALL_ATTENTION_FUNCTIONS.register(NAME, _attend)
        ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS[INNER])
    if can_share(model) and model.config._attn_implementation != NAME:
        model.set_attn_implementation(NAME)
    if model.config._attn_implementation != NAME:
        raise refusal(model)


def refusal(model: PreTrainedModel) -> UsageError:
    """What to tell the user when :func:`can_share` says no."""
    return UsageError(
        f"layout=shared needs {INNER!r} attention, over all tokens before or a window of them, and "
        f"{type(model).__name__} has {model.config._attn_implementation!r}; take layout=sorted or packed"
    )


def _attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    prefixes: PrefixTree | None = None,
    **settings: Any,
) -> tuple[torch.Tensor, None]:
    """An attention function, as transformers calls it: states are ``[1, num_heads, num_nodes, head_dim]``."""
    if prefixes is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
    window, parts = _window(module, settings), []
    for rows in prefixes.rows:
        q, k, v = (_rows_of(x, rows) for x in (query, key, value))
        mask = None if window is None or rows.shape[1] <= window else _band(rows.shape[1], window, rows.device)
        out, _ = sdpa_attention_forward(module, q, k, v, mask, **settings)  # [num_rows, length, num_heads, head_dim]
        parts.append(out.flatten(2).flatten(0, 1))
    joined = torch.cat(parts).index_select(0, prefixes.places)
    return joined.view(1, query.shape[2], query.shape[1], -1), None


def _window(module: nn.Module, settings: dict[str, Any]) -> int | None:
    """How many tokens this layer looks back at; ``None`` for all."""
    config: Any = module.config
    kinds = getattr(config, "layer_types", None)
    windowed = "sliding_attention" in kinds if kinds else getattr(config, "sliding_window", None) is not None
    if windowed and "sliding_window" not in settings:
        raise UsageError(
            f"layout=shared: {type(module).__name__} does not tell its attention of windows; take layout=sorted"
        )
    window: int | None = settings.get("sliding_window")
    return window


def _band(length: int, window: int, device: torch.device) -> torch.Tensor:
    """What a token sees of its row, bool ``[1, 1, length, length]``."""
    places = torch.arange(length, device=device)
    back = places[:, None] - places
    return ((back >= 0) & (back < window))[None, None]


def _rows_of(states: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """From ``[1, num_heads, num_nodes, head_dim]`` to ``[num_rows, num_heads, length, head_dim]``."""
    _, num_heads, num_nodes, head_dim = states.shape
    flat = states[0].transpose(0, 1).reshape(num_nodes, num_heads * head_dim)
    return flat.index_select(0, rows.flatten()).view(*rows.shape, num_heads, head_dim).transpose(1, 2)
