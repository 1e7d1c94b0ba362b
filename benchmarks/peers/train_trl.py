"""TRL in ``benchmarks/training.py``: ``GRPOTrainer`` on episodes that are given, in an environment of its own.

Set to what costs it least: no reference, no recomputation, no tables of completions, and as many micro-batches as there
are between two rollouts, so that it needs no forward pass of its own for the old log-probabilities. What counts of a
step is the CPU time from its beginning to its end without the rollout: neither sampling nor padding nor rewards nor
advantages, but every pass of the model, the loss and the optimizer.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from turns import Turns

turns = Turns()

import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, TrainerCallback  # noqa: E402
from trl import GRPOConfig, GRPOTrainer  # noqa: E402

MOST_STEPS = 10_000


class Trainer(GRPOTrainer):
    """Knows how much CPU time is not the trainer's."""

    elsewhere = 0.0

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        start = time.process_time()
        out = super()._generate_and_score_completions(inputs)
        self.elsewhere += time.process_time() - start
        return out

    def _get_per_token_logps_and_entropies(self, *args: Any, **settings: Any) -> Any:
        start = time.process_time()
        out = super()._get_per_token_logps_and_entropies(*args, **settings)
        if not torch.is_grad_enabled():  # called from the above, but the trainer's own
            self.elsewhere -= time.process_time() - start
        return out


class Steps(TrainerCallback):
    """A step when it is our turn."""

    trainer: Trainer

    def on_step_begin(self, *args: Any, **more: Any) -> None:
        turns.wait()
        self._start = time.process_time() - self.trainer.elsewhere

    def on_step_end(self, *args: Any, **more: Any) -> None:
        self._seconds = time.process_time() - self.trainer.elsewhere - self._start

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **more: Any) -> None:
        turns.answer(seconds=self._seconds, loss=float(logs["loss"]), grad_norm=float(logs["grad_norm"]))


class Rollouts:
    """``rollout_func``: the episodes of the next step, as if they had just been sampled."""

    def __init__(self, steps: list[list[dict[str, Any]]]) -> None:
        self._steps, self._next = steps, 0

    def __call__(self, prompts: list[str], trainer: GRPOTrainer) -> dict[str, list[Any]]:
        rows = self._steps[self._next % len(self._steps)]
        self._next += 1
        assert len(prompts) == len(rows)
        return {
            "prompt_ids": [row["token_ids"][: row["prompt_length"]] for row in rows],
            "completion_ids": [row["token_ids"][row["prompt_length"] :] for row in rows],
            "env_mask": [row["trained"][row["prompt_length"] :] for row in rows],
            "logprobs": None,  # reads none without a server
            "given": [row["reward"] for row in rows],
        }


def reward(completions: list[str], given: list[float], **columns: Any) -> list[float]:
    return given


def main() -> None:
    order = json.loads(sys.argv[1])
    work = json.loads(Path(order["work"]).read_text())
    torch.set_num_threads(1)
    num = len(work["steps"][0])
    parts = num // order["rows"]
    config = GRPOConfig(
        output_dir=str(Path(order["work"]).parent / "trl"),
        use_cpu=True,
        bf16=order["bf16"],
        gradient_checkpointing=False,
        per_device_train_batch_size=order["rows"],
        gradient_accumulation_steps=parts,
        steps_per_generation=parts,
        num_generations=work["group_size"],
        max_steps=MOST_STEPS,
        shuffle_dataset=False,
        learning_rate=work["lr"],
        lr_scheduler_type="constant",
        adam_beta1=work["betas"][0],
        adam_beta2=work["betas"][1],
        max_grad_norm=work["max_grad_norm"],
        beta=0.0,
        loss_type="dapo",
        epsilon_high=0.28,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    prompts = [str(k) for k in range(num // work["group_size"])]
    steps = Steps()
    steps.trainer = Trainer(
        AutoModelForCausalLM.from_pretrained(work["model"], dtype=torch.float32),
        reward,
        args=config,
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=PreTrainedTokenizerFast.from_pretrained(work["model"]),
        callbacks=[steps],
        rollout_func=Rollouts(work["steps"]),
    )
    steps.trainer.train()


if __name__ == "__main__":
    main()
