"""What TRL's own trainers make of a few rows: losses, gradients and advantages, as ``goldens.json``.

TRL wants other versions of some packages than this project, so its numbers are stored, and this script makes them in an
environment of its own::

    python -m venv TRL && TRL/bin/pip install 'trl==1.16.*' 'torch==2.13.0'
    TRL/bin/python tests/algos/trl/make_goldens.py

A real :class:`trl.GRPOTrainer` gets its rows by ``rollout_func`` and its rewards by ``reward_funcs``, computes
advantages, log-probabilities and loss, and differentiates a real model. Between sampling and loss the weights are
changed, as another optimizer step would, so that ratios leave 1. :class:`trl.RLOOTrainer` has no ``rollout_func``; its
``_generate`` is given the rows instead.

Rows, settings and models are here for both sides; only :func:`main` needs TRL.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

GOLDENS = Path(__file__).with_name("goldens.json")
VOCAB, EOS, PAD = 60, 1, 0
GROUP_SIZE = 3
MAX_LENGTH = 12  # of a completion: what dr_grpo divides by
SAMPLED, TRAINED, REFERENCE = 0.0, 0.06, -0.06
"""How far the weights of the three policies are from each other, see :func:`make_model`."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One sample; ``written`` is 1 where the policy wrote the token and 0 where a tool did."""

    prompt: list[int]
    completion: list[int]
    written: list[int]
    rewards: list[float]


def _row(k: int, *, prompt: int, written: list[int], rewards: list[float], ends: bool = True) -> Row:
    ids = [2 + (5 * (k // GROUP_SIZE) + 13 * t) % (VOCAB - 2) for t in range(prompt)]
    completion = [2 + (7 * k + 11 * t + 3 * t * t) % (VOCAB - 2) for t in range(len(written))]
    if ends:
        completion[-1] = EOS
    return Row(prompt=ids, completion=completion, written=written, rewards=rewards)


ROWS = [
    _row(0, prompt=4, written=[1, 1, 1, 1, 1], rewards=[1.0, 0.2]),
    _row(1, prompt=4, written=[1, 1, 0, 0, 0, 1, 1], rewards=[0.0, 0.5]),
    _row(2, prompt=4, written=[1, 1], rewards=[0.0, 0.1]),
    _row(3, prompt=6, written=[1, 1, 1, 0, 0, 1, 1, 1, 1], rewards=[1.0, 0.3], ends=False),
    _row(4, prompt=6, written=[1], rewards=[1.0, 0.9]),
    _row(5, prompt=6, written=[1, 0, 1, 1], rewards=[0.0, 0.4]),
]


@dataclass(frozen=True, kw_only=True)
class Case:
    """Settings of TRL: ``config`` goes to ``GRPOConfig``, ``attributes`` to the trainer that was made with it."""

    config: dict[str, Any] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)


def _engine(mode: str, *, low: float | None = None, high: float) -> dict[str, Any]:
    """As if vLLM had sampled, and the trainer corrected for it."""
    return {
        "use_vllm": True,
        "vllm_importance_sampling_correction": True,
        "vllm_importance_sampling_mode": mode,
        "vllm_importance_sampling_clip_min": low,
        "vllm_importance_sampling_clip_max": high,
    }


DAPO = {"loss_type": "dapo"}
SEQUENCE = {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.02, "epsilon_high": 0.03}
CASES: dict[str, Case] = {
    "grpo": Case(config={"loss_type": "grpo"}),
    "dapo": Case(config=DAPO | {"epsilon_high": 0.28}),
    "bnpo": Case(config={"loss_type": "bnpo"}),
    "dr_grpo": Case(config={"loss_type": "dr_grpo", "scale_rewards": "none"}),
    "delta": Case(config=DAPO | {"delta": 1.3}),
    "gspo": Case(config=SEQUENCE),
    "cispo": Case(config={"loss_type": "cispo", "epsilon_high": 1.2}),
    "sapo": Case(config={"loss_type": "sapo", "sapo_temperature_pos": 1.0, "sapo_temperature_neg": 1.05}),
    "k3": Case(config=DAPO | {"use_bias_correction_kl": False}, attributes={"beta": 0.3}),
    "k3_unbiased": Case(config=DAPO | {"use_bias_correction_kl": True}, attributes={"beta": 0.3}),
    "entropy": Case(config=DAPO | {"entropy_coef": 0.2}),
    "temperature": Case(config=DAPO | {"temperature": 0.7}),
    "batch_std": Case(config=DAPO | {"scale_rewards": "batch"}),
    "gdpo": Case(config=DAPO | {"multi_objective_aggregation": "normalize_then_sum", "reward_weights": [1.0, 0.5]}),
    "truncated": Case(config=DAPO | {"mask_truncated_completions": True}),
    "token_truncate": Case(config=DAPO, attributes=_engine("token_truncate", high=1.2)),
    "token_mask": Case(config=DAPO, attributes=_engine("token_mask", low=0.8, high=1.3)),
    "sequence_mask": Case(config=DAPO, attributes=_engine("sequence_mask", high=1.5)),
    "off_policy": Case(config=DAPO, attributes={"off_policy_mask_threshold": 0.05}),
}


def make_model(shift: float) -> Qwen2ForCausalLM:
    """A Qwen2 whose weights are a formula, the same with every version of torch and transformers.

    Args:
        shift: along one direction of all weights.
    """
    config = Qwen2Config(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
        eos_token_id=EOS,
        pad_token_id=PAD,
        bos_token_id=None,
    )
    config._attn_implementation = "sdpa"
    model = Qwen2ForCausalLM(config)
    for number, (_, parameter) in enumerate(sorted(model.named_parameters())):
        steps = torch.arange(parameter.numel(), dtype=torch.float64)
        wave = torch.sin(1.7 * number + 0.37 * steps + 0.011 * steps**2)
        other = torch.cos(0.9 * number + 0.23 * steps + 0.007 * steps**2)
        values = (0.35 * wave + shift * other).view(parameter.shape)
        parameter.data.copy_(1 + 0.3 * values if parameter.ndim == 1 else values)
    return model


def sampler_logprobs() -> list[list[float]]:
    """What an engine that differs from the sampling weights says of each token, by hand of a wave."""
    model, rows = make_model(SAMPLED), []
    for k, row in enumerate(ROWS):
        ids = torch.tensor([row.prompt + row.completion])
        with torch.no_grad():
            logprobs = model(input_ids=ids, use_cache=False).logits[0, :-1].log_softmax(-1)
        own = logprobs.gather(-1, ids[0, 1:, None])[len(row.prompt) - 1 :, 0].tolist()
        rows.append([round(value + 0.3 * math.sin(12.9898 * (t + 1) + 78.233 * k), 4) for t, value in enumerate(own)])
    return rows


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {"<pad>": PAD, "<eos>": EOS} | {f"t{k}": k for k in range(2, VOCAB)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


def _usual(folder: str) -> dict[str, Any]:
    return {
        "output_dir": folder,
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "per_device_train_batch_size": len(ROWS),
        "num_generations": GROUP_SIZE,
        "max_completion_length": MAX_LENGTH,
        "gradient_checkpointing": False,
        "beta": 0.0,
        "epsilon": 0.2,
        "temperature": 1.0,
        "reward_weights": [1.0, 1.0],
    }


def _parts() -> dict[str, Any]:
    """What both trainers are made from."""
    from datasets import Dataset

    def first(completions: list[str], **_: Any) -> list[float]:
        return [row.rewards[0] for row in ROWS]

    def second(completions: list[str], **_: Any) -> list[float]:
        return [row.rewards[1] for row in ROWS]

    return {
        "model": make_model(SAMPLED),
        "reward_funcs": [first, second],
        "train_dataset": Dataset.from_dict({"prompt": ["t2"] * len(ROWS)}),
        "processing_class": _tokenizer(),
    }


def _grpo_trainer(case: Case, folder: str) -> Any:
    from trl import GRPOConfig, GRPOTrainer

    rollouts = {
        "prompt_ids": [row.prompt for row in ROWS],
        "completion_ids": [row.completion for row in ROWS],
        "logprobs": sampler_logprobs(),
        "env_mask": [row.written for row in ROWS],
    }
    trainer = GRPOTrainer(
        **_parts(),
        args=GRPOConfig(**_usual(folder) | case.config),
        rollout_func=lambda prompts, trainer: dict(rollouts),
    )
    for name, value in case.attributes.items():
        assert hasattr(trainer, name), name
        setattr(trainer, name, value)
    trainer._last_loaded_step = trainer.state.global_step  # there is no vLLM that weights could be brought to
    trainer.current_gradient_accumulation_steps = 1
    trainer.ref_model = _reference(trainer)
    return trainer


def _reference(trainer: Any) -> Any:
    """The reference with TRL's own head, as it gives one that it loads itself."""
    from trl.trainer.utils import add_fused_lm_head

    model = make_model(REFERENCE)
    add_fused_lm_head(model, temperature=trainer.temperature)
    return model


def golden(case: Case, folder: str) -> dict[str, Any]:
    """Advantages, scores, factors, loss and norms of gradients of a case."""
    trainer = _grpo_trainer(case, folder)
    trainer.model.train()
    batch = trainer._generate_and_score_completions([{"prompt": "t2"} for _ in ROWS])
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    seen = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    length = batch["completion_ids"].shape[1]
    with torch.no_grad():
        logprobs, entropies, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model, ids, seen, length, compute_entropy=True
        )
    batch["old_per_token_logps"] = logprobs
    if "off_policy_mask_threshold" in case.attributes:
        sampler = torch.zeros_like(logprobs)
        for target, values in zip(sampler, sampler_logprobs(), strict=True):
            target[: len(values)] = torch.tensor(values)
        batch["sampling_per_token_logps"] = sampler
    trainer.model.load_state_dict(make_model(TRAINED).state_dict())
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    factors = batch.get("importance_sampling_ratio")
    return {
        "advantages": _rounded(batch["advantages"]),
        "logprobs": _cut(logprobs),
        "entropies": _cut(entropies),
        "factors": None if factors is None else _cut(factors.expand(-1, length)),
        "loss": _rounded(loss),
        "gradient_norms": {name: _rounded(p.grad.norm()) for name, p in trainer.model.named_parameters()},
    }


def rloo(beta: float, folder: str) -> dict[str, Any]:
    """Advantages of RLOO, with the KL penalty that it takes off the reward."""
    from trl import RLOOConfig, RLOOTrainer

    class Given(RLOOTrainer):  # type: ignore[misc]
        def _generate(self, prompts: list[Any]) -> tuple[list[list[int]], list[list[int]], list[str]]:
            return [row.prompt for row in ROWS], [row.completion for row in ROWS], [""] * len(ROWS)

    trainer = Given(**_parts(), args=RLOOConfig(**_usual(folder)))
    trainer.beta, trainer.ref_model = beta, _reference(trainer)
    trainer.model.train()
    batch = trainer._generate_and_score_completions([{"prompt": "t2"} for _ in ROWS])
    return {"advantages": _rounded(batch["advantages"])}


def _cut(padded: torch.Tensor) -> list[list[float]]:
    return [_rounded(values[: len(row.completion)]) for values, row in zip(padded, ROWS, strict=True)]


def _rounded(values: torch.Tensor) -> Any:
    """To eight digits, which is what float32 has."""
    numbers = [float(f"{value:.8g}") for value in values.detach().flatten().tolist()]
    return numbers if values.ndim else numbers[0]


def main() -> None:
    """Write ``goldens.json``."""
    import tempfile

    import trl

    with tempfile.TemporaryDirectory() as folder:
        found = {name: golden(case, folder) for name, case in CASES.items()}
        found |= {f"rloo {beta:g}": rloo(beta, folder) for beta in (0.0, 0.3)}
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(values)}" for name, values in found.items())
    head = {"trl": trl.__version__, "torch": torch.__version__, "sampler": sampler_logprobs()}
    text = f'{json.dumps(head)[:-1]}, "cases": {{\n{lines}\n}}}}\n'
    GOLDENS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
