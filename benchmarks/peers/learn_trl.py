"""TRL's ``GRPOTrainer`` in ``benchmarks/learning.py``: its generation, its loss and its loop in our environment.

Problems, prompts, interpreter, verifier and reward are those that ours learns with, ticket by ticket, through
``rollout_func``, so that what differs is who samples and who trains. Sampling is transformers' ``generate`` with a KV
cache, all episodes of a step in one batch; episodes that go on behind an interpreter's output are one batch again.

Settings: no gradient checkpointing, float32, no reference model, nothing logged or saved. ``updates`` optimizer steps
are made on the samples of each step, each on another part of them, as by ``algo.minibatches`` of ours; with one there
are no old log-probabilities to compute. ``accumulation`` micro-batches make one of them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clock import Clock
from datasets import Dataset
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from agents.base import Generation, Request, Sampling
from agents.recorder import Recorder
from agents.rollout import Slots
from retool_env.config import EnvConfig
from retool_env.feeder import Feeder
from retool_env.sources import open_source
from retool_env.trajectory import Trajectory


class Generate:
    """transformers' ``generate`` as a batch agent."""

    def __init__(self, model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, stop: str) -> None:
        self._model, self._pad = model, tokenizer.pad_token_id
        self._ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(stop)]

    def act(self, request: Request) -> Generation:
        return self.act_many([request])[0]

    @torch.no_grad()
    def act_many(self, requests: Sequence[Request]) -> list[Generation]:
        length = max(len(request.token_ids) for request in requests)
        token_ids = torch.full((len(requests), length), self._pad)
        mask = torch.zeros_like(token_ids)
        for row, request in enumerate(requests):
            token_ids[row, length - len(request.token_ids) :] = torch.from_numpy(request.token_ids)
            mask[row, length - len(request.token_ids) :] = 1
        out = self._model.generate(
            input_ids=token_ids,
            attention_mask=mask,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=max(request.budget for request in requests),
            eos_token_id=self._ends,
            pad_token_id=self._pad,
        )
        rows = out[:, length:].numpy()
        return [self._generation(ids[: request.budget]) for ids, request in zip(rows, requests, strict=True)]

    def _generation(self, ids: np.ndarray) -> Generation:
        ends = np.flatnonzero(np.isin(ids, self._ends))
        kept = ids[: ends[0] + 1] if len(ends) else ids
        return Generation(
            token_ids=kept.astype(np.int64),
            logprobs=np.zeros(len(kept), dtype=np.float32),  # GRPOTrainer reads none without a server
            finish_reason="stop" if len(ends) else "length",
            policy_version=np.zeros(len(kept), dtype=np.int64),
        )


class Rollouts:
    """``rollout_func``: the next tickets of the run, which the prompts must be those of."""

    def __init__(self, order: dict[str, Any], env: EnvConfig, agent: Generate) -> None:
        self._num, self._played = order["prompts"] * order["group_size"], 0
        recorder = Recorder()
        feeder = make_feeder(order, recorder)
        self._slots = Slots(feeder, recorder, agent, env=env, num_slots=self._num, sampling=Sampling())

    def __call__(self, prompts: list[str], trainer: GRPOTrainer) -> dict[str, list[Any]]:
        rounds = list(self._slots.run(self._played, self._num))
        self._played += self._num
        played = sorted((t for finished in rounds for t in finished), key=lambda t: t.ticket)
        assert [t.record.problem.question for t in played] == prompts, "TRL asks something else"
        return {
            "prompt_ids": [_part(t, t.transcript.token_ids, answer=False) for t in played],
            "completion_ids": [_part(t, t.transcript.token_ids, answer=True) for t in played],
            "env_mask": [_part(t, t.transcript.action_mask.astype(int), answer=True) for t in played],
            "logprobs": None,
            "episode_reward": [t.record.reward for t in played],
        }


def _part(trajectory: Trajectory, values: np.ndarray, *, answer: bool) -> list[int]:
    length = trajectory.transcript.prompt_length
    return values[length:].tolist() if answer else values[:length].tolist()


def make_feeder(order: dict[str, Any], recorder: Recorder | None = None) -> Feeder:
    """The tickets of the run, as ``retool train`` hands them out."""
    listener = {} if recorder is None else {"on_end": recorder.finish}
    source = open_source(**order["problems"])
    return Feeder(source, seed=order["seed"], group_size=order["group_size"], shuffle=True, **listener)


class Examination(TrainerCallback):
    """Has the weights looked at after a step, which is so many updates."""

    def __init__(self, clock: Clock, updates: int) -> None:
        self._clock, self._updates = clock, updates

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step, more = divmod(state.global_step, self._updates)
        if not more:
            control.should_training_stop = not self._clock.examine(step, kwargs["model"].save_pretrained)


def reward(completions: list[str], episode_reward: list[float | None], **columns: Any) -> list[float | None]:
    return episode_reward


def main() -> None:
    order = json.loads(sys.argv[1])
    torch.set_num_threads(order["threads"])
    env = EnvConfig(**order["env"])
    tokenizer = PreTrainedTokenizerFast.from_pretrained(env.tokenizer)
    model = Qwen2ForCausalLM.from_pretrained(env.tokenizer, dtype=torch.float32)
    samples = order["prompts"] * order["group_size"]
    tickets = islice(make_feeder(order).slot(0, 1), 0, order["steps"] * samples, order["group_size"])
    config = GRPOConfig(
        output_dir=order["folder"],
        seed=order["seed"],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=samples // (order["updates"] * order["accumulation"]),
        gradient_accumulation_steps=order["accumulation"],
        generation_batch_size=samples,
        num_generations=order["group_size"],
        max_steps=order["steps"] * order["updates"],
        shuffle_dataset=False,
        learning_rate=order["lr"],
        lr_scheduler_type="constant",
        adam_beta1=order["betas"][0],
        adam_beta2=order["betas"][1],
        max_grad_norm=order["max_grad_norm"],
        beta=0.0,
        epsilon_high=0.28,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    clock = Clock(Path(order["folder"]))
    trainer = GRPOTrainer(
        model,
        reward,
        args=config,
        train_dataset=Dataset.from_list([{"prompt": ticket.problem.question} for ticket in tickets]),
        processing_class=tokenizer,
        callbacks=[Examination(clock, order["updates"])],
        rollout_func=Rollouts(order, env, Generate(model, tokenizer, "</code>")),
    )
    clock.start()
    trainer.train()


if __name__ == "__main__":
    main()
