"""What the embedded engine refuses, before it could give wrong numbers."""

from __future__ import annotations

from transformers import PreTrainedModel

from agents.base import Request, check_request
from retool_env.errors import UsageError

__all__ = ["check_fits", "check_model"]


def check_model(model: PreTrainedModel) -> None:
    """Refuse what does not cache keys and values of every token.

    Raises:
        UsageError: encoder-decoders, sliding windows, state-space and hybrid layers.
    """
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if not kinds and not hasattr(config, "layer_types") and getattr(config, "sliding_window", None):
        kinds = {"sliding_attention"}
    if getattr(model.config, "is_encoder_decoder", False):
        kinds = {"encoder-decoder"}
    if kinds:
        raise UsageError(
            f"model type {model.config.model_type!r} has layers of kind {', '.join(sorted(kinds))}: the embedded "
            "engine knows full attention only; serve this model with SGLang"
        )


def check_fits(request: Request, model: PreTrainedModel) -> None:
    """Refuse what the model cannot read.

    Raises:
        UsageError: no ids, ids outside of the vocabulary, no budget, or more ids than the model has positions.
    """
    config = model.config.get_text_config()
    check_request(request, config.vocab_size)
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and len(request.token_ids) + request.budget > positions:
        raise UsageError(
            f"a request of {len(request.token_ids)} ids with a budget of {request.budget}: the model has {positions} "
            "positions; lower the budget or env.max_context_tokens"
        )
