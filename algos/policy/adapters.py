"""Low-rank adapters (LoRA, 2106.09685) through peft: all other weights are frozen, so no optimizer holds them.

Weights leave the trainer with adapters merged (:func:`algos.sync.export.named_weights`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from torch import nn
from transformers import PreTrainedModel

from algos.policy.config import LoraConfig
from retool_env.errors import UsageError

__all__ = ["adapters_off", "drop_out", "has_adapters", "with_adapters"]


def with_adapters(model: PreTrainedModel, options: LoraConfig) -> nn.Module:
    """The model with adapters that change nothing yet.

    Raises:
        UsageError: peft is missing, the model has no module of a target's name, or a target is its head, whose weight
            scorers multiply with themselves.
    """
    try:
        import peft
        from peft.tuners.tuners_utils import BaseTunerLayer
    except ImportError as error:
        raise UsageError("model.lora needs peft; install it: pip install peft") from error
    targets = options.targets if isinstance(options.targets, str) else list(options.targets)
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=options.r,
        lora_alpha=options.alpha,  # type: ignore[arg-type]  # any number works
        lora_dropout=options.dropout,
        target_modules=targets,
    )
    try:
        adapted = cast(nn.Module, peft.get_peft_model(model, config, autocast_adapter_dtype=False))
    except ValueError as error:
        raise UsageError(f"model.lora.targets={targets}: {' '.join(str(error).split())}") from error
    if isinstance(model.get_output_embeddings(), BaseTunerLayer):
        raise UsageError(
            f"model.lora.targets={targets}: one of them is the model's head, and adapters of the head are not trained "
            "here; leave it out (lm_head), or take all-linear, every linear layer but the head"
        )
    for parameter in adapted.parameters():  # peft does not look at the type of weights on the meta device
        parameter.data = parameter.data.to(model.dtype)
    return adapted.eval()


def has_adapters(model: nn.Module) -> bool:
    """Whether peft put adapters into it."""
    return hasattr(model, "peft_config")


def drop_out(model: nn.Module) -> None:
    """Switch the adapters' dropout on, and no other: a model's own dropout stays off in all training."""
    model.eval()
    for name, module in model.named_modules():
        if ".lora_dropout" in name:
            module.train()


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """The model that the adapters were put into."""
    with cast(Any, model).disable_adapter():
        yield
