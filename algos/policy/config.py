"""What can be set about how a model is held while it is trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from retool_env.config import Config

__all__ = ["LoraConfig", "ParallelConfig", "PolicyOptions"]


class LoraConfig(Config):
    """Low-rank adapters; all other weights are frozen.

    Attributes:
        r: rank.
        alpha: the product of the two factors is scaled by ``alpha / r``.
        dropout: of the adapters' input, while the model is in training mode. Reinforcement learning keeps it in
            evaluation mode, because the ratio compares with what an engine sampled without dropout.
        targets: ``all-linear`` for every linear layer but the head, or names of modules (``q_proj``), the head's not
            among them.
    """

    r: PositiveInt = 16
    alpha: PositiveFloat = 32.0
    dropout: float = Field(default=0.05, ge=0, lt=1)
    targets: Literal["all-linear"] | Annotated[tuple[str, ...], Field(min_length=1)] = "all-linear"


class ParallelConfig(Config):
    """How a model lies on the ranks that ``torchrun`` started. Data-parallel ranks are those that are left.

    Attributes:
        sequence: ranks that share each sequence (Ulysses); divides the ranks and the model's attention heads.
        reshard: free a layer's gathered weights after its forward pass and gather them again for its backward pass;
            off, they stay: less communication, more memory.
        offload: weights, gradients and optimizer state stay in the memory of the CPU, where the optimizer then runs
            too; a layer's weights visit the GPU when they are used.
    """

    sequence: PositiveInt = 1
    reshard: bool = True
    offload: bool = False


class PolicyOptions(Config):
    """How a model is held while it is trained.

    Attributes:
        lora: train adapters; ``null`` for all weights.
        gradient_checkpointing: compute a layer's activations again in the backward pass.
        compute_dtype: of the forward and backward pass. Weights, their sums of gradients and optimizer state are
            float32 always, log-probabilities too. ``float16`` is more precise than ``bfloat16`` and has a smaller
            range; gradients are not scaled, so small ones can vanish.
        attention: ``varlen`` (:mod:`algos.policy.varlen`, for ``algo.layout=packed``), or an implementation as
            transformers names it (``sdpa``, ``flash_attention_2``, ``flex_attention``); ``null`` for the model's
            default.
        parallel: how it lies on the ranks.
    """

    lora: LoraConfig | None = None
    gradient_checkpointing: bool = False
    compute_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    attention: str | None = None
    parallel: ParallelConfig = ParallelConfig()
