r"""Log-probabilities and entropies of the trained tokens under the current weights.

One forward of the backbone, then the LM head on the trained positions only, in float32 and in chunks that are
recomputed in the backward pass, so that logits of the whole batch never exist at once. The log-probability of token
``t`` comes from the logits at ``t - 1``, divided by the sampling temperature.

Rows are padded on the right. Causal attention cannot look at what comes behind, so no attention mask is needed, and
positions count from 0 in every row.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

__all__ = ["Scorer"]


class Scorer(nn.Module):
    """Scores tokens with a causal language model.

    Args:
        model: any transformers causal LM whose head is a linear map of the last hidden state.
        temperature: that the tokens were sampled at.
        chunk: trained positions per piece of the head.
    """

    def __init__(self, model: PreTrainedModel, *, temperature: float = 1.0, chunk: int = 4096) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature
        self.chunk = chunk

    def forward(self, token_ids: torch.Tensor, trained: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Score the trained positions.

        Args:
            token_ids: ``[num_rows, length]``, padded on the right.
            trained: bool ``[num_rows, length]``; False at column 0, which no logits predict.

        Returns:
            Log-probabilities ``[num_trained]`` in row-major order, and the entropies of the distributions they were
            drawn from (without gradient).
        """
        hidden = self.model.base_model(input_ids=token_ids, use_cache=False).last_hidden_state
        hidden = hidden[:, :-1][trained[:, 1:]]  # [num_trained, hidden_size]
        targets = token_ids[trained]
        head = self.model.get_output_embeddings().weight
        if len(targets) <= self.chunk or not torch.is_grad_enabled():
            return self._piece(hidden, targets, head)
        pairs = zip(hidden.split(self.chunk), targets.split(self.chunk), strict=True)
        pieces = [checkpoint(self._piece, h, t, head, use_reentrant=False) for h, t in pairs]
        return torch.cat([p[0] for p in pieces]), torch.cat([p[1] for p in pieces])

    def _piece(
        self, hidden: torch.Tensor, targets: torch.Tensor, head: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logprobs = (F.linear(hidden, head).float() / self.temperature).log_softmax(-1)  # [num, vocab]
        with torch.no_grad():
            entropy = -(logprobs.exp() * logprobs).sum(-1)
        return logprobs.gather(-1, targets[:, None])[:, 0], entropy
