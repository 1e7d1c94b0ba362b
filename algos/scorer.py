r"""Log-probabilities and entropies of the trained tokens under the current weights.

One forward of the backbone, then the LM head on the trained positions only (:mod:`algos.head`: in tiles, float32,
recomputed in the backward pass), so that logits of the whole batch never exist at once. The log-probability of token
``t`` comes from the logits at ``t - 1``, divided by the temperature, and with ``top_p`` or ``top_k`` renormalised on
what these leave. Engines report the whole distribution (:mod:`agents.base`), so a policy that samples from a part of
the vocabulary cannot take its behaviour's log-probabilities from them; :func:`algos.per_token.per_token` gives them.

Batches are padded on the right, or packed with positions that restart. Causal attention cannot look at what comes
behind, so padding needs no attention mask, and packed sequences are told apart by their positions; both only without
a KV cache. With ``share_prompts``, what rows begin with in common runs once, and padding never
(:mod:`algos.policy.prefixes`).

The model may be sharded, have adapters, and share its sequences with other ranks (:mod:`algos.policy`); then every rank
of a sequence scores its slice, and all get all results.

Logits that a model scales (Cohere, Granite) are a matter of temperature. Left out: heads that are more than a linear
map otherwise (a bias, soft-capped logits). Whether a model can be scored in a layout is not believed but tried:
:func:`algos.isolation.check_scorer`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from algos.head import HeadSpec, score_tokens
from algos.policy.parts import causal_lm
from algos.policy.prefixes import prefix_tree, run_tree, share_attention
from algos.policy.sharding import inside
from algos.policy.ulysses import slice_of

__all__ = ["Scorer", "read_states"]

Scores = tuple[torch.Tensor, ...]


class Scorer(nn.Module):
    """Scores tokens with a causal language model.

    Args:
        model: any transformers causal LM whose head is a linear map of the last hidden state, or a peft model
            around it.
        temperature: that the tokens were sampled at.
        top_p: as sampled.
        top_k: as sampled.
        chunk: trained positions per tile of the head.
        vocab_chunk: vocabulary entries per tile. Small tiles are the fastest on CPU; a GPU wants larger ones.
        keep: logits of a batch up to which none is computed again in the backward pass.
        share_prompts: run what rows of a batch begin with in common once. Changes the model's attention for good.

    Raises:
        UsageError: prompts cannot be shared with the attention of this model.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        chunk: int = 256,
        vocab_chunk: int = 4096,
        keep: int = 2**24,
        share_prompts: bool = False,
    ) -> None:
        super().__init__()
        if share_prompts:
            share_attention(causal_lm(model))
        self.model = model
        tiles = {"rows": chunk, "columns": vocab_chunk, "keep": keep}
        self.spec = HeadSpec(temperature=temperature / _logit_scale(model), top_p=top_p, top_k=top_k, **tiles)
        self.share_prompts = share_prompts

    def forward(
        self, token_ids: torch.Tensor, trained: torch.Tensor, position_ids: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Score the trained positions.

        Args:
            token_ids: ``[num_rows, length]``, padded on the right or packed.
            trained: bool ``[num_rows, length]``; False at the first token of every sequence, which no logits predict.
            position_ids: ``[num_rows, length]``, when packed.

        Returns:
            Log-probabilities ``[num_trained]`` in row-major order, and the entropies of the distributions they were
            drawn from.
        """
        logprobs, entropy = inside(self.model, self._scores, token_ids, trained, position_ids)
        return logprobs, entropy

    def over(self, model: nn.Module) -> Scorer:
        """A scorer of another model with the same settings."""
        other = Scorer(model, share_prompts=self.share_prompts)
        other.spec = self.spec
        return other

    def _scores(self, token_ids: torch.Tensor, trained: torch.Tensor, position_ids: torch.Tensor | None) -> Scores:
        model = causal_lm(self.model)
        weight = model.get_output_embeddings().weight

        def read(hidden: torch.Tensor, targets: torch.Tensor) -> Scores:
            return score_tokens(hidden, weight, targets, self.spec)

        return read_states(model.base_model, token_ids, trained, position_ids, read, share=self.share_prompts)


def _logit_scale(model: nn.Module) -> float:
    """What the model multiplies its logits with."""
    config = getattr(causal_lm(model), "config", None)
    return float(getattr(config, "logit_scale", 1.0)) / float(getattr(config, "logits_scaling", 1.0))


def read_states(
    backbone: nn.Module,
    token_ids: torch.Tensor,
    trained: torch.Tensor,
    position_ids: torch.Tensor | None,
    read: Callable[[torch.Tensor, torch.Tensor], Scores],
    *,
    share: bool = False,
) -> Scores:
    """What ``read`` makes of the last hidden states that the trained tokens are predicted from, and these tokens.

    Args:
        read: from ``[num, hidden_size]`` and ``[num]`` to tensors ``[num]``. With sequence parallelism it is called
            with this rank's part.

    Returns:
        The tensors, ``[num_trained]``, row-major.
    """
    if share:
        assert position_ids is None, "rows of a prefix tree are padded"
        tree = prefix_tree(token_ids, trained)
        states = run_tree(backbone, tree)
        return tuple(values[tree.which] for values in read(states.index_select(0, tree.before), tree.targets))
    part = slice_of(backbone, token_ids, trained, position_ids)
    if part is None:
        # An attention mask, even one of ones, or a cache would make packed sequences see each other.
        hidden = backbone(input_ids=token_ids, position_ids=position_ids, use_cache=False).last_hidden_state
        return read(hidden[:, :-1][trained[:, 1:]], token_ids[trained])
    hidden = backbone(
        input_ids=part.token_ids, position_ids=part.position_ids, use_cache=False, ulysses=part.whole
    ).last_hidden_state
    return tuple(part.join(values) for values in read(hidden[part.before], part.targets))
