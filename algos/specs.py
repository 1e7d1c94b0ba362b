"""How TorchRL sees the environment's own spaces; importing this module tells it.

``GymWrapper(gymnasium.make("retool/MathTool-v0"))`` works once this is imported: token sequences become ragged int64
tensors, texts non-tensor data.
"""

from __future__ import annotations

from typing import Any

import torch
from torchrl.data import NonTensor, Unbounded
from torchrl.envs.libs.gym import register_gym_spec_conversion

from retool_env.envs.spaces import FreeText, TokenSequence

__all__: list[str] = []


@register_gym_spec_conversion(TokenSequence)  # type: ignore[untyped-decorator]
def _token_spec(spec: TokenSequence, device: torch.device | None = None, **_: Any) -> Unbounded:
    return Unbounded(shape=(-1,), dtype=torch.int64, device=device)


@register_gym_spec_conversion(FreeText)  # type: ignore[untyped-decorator]
def _text_spec(spec: FreeText, device: torch.device | None = None, **_: Any) -> NonTensor:
    return NonTensor(shape=(), device=device, example_data="")
