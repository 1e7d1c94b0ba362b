"""What a training step costs, and what TorchRL's collector adds to the plain loop.

    python benchmarks/rollout.py [CHECKPOINT]

Plays the same tickets with the same weights through both, in one process, in turns, so that the machine's mood hits
both alike. Without a checkpoint (say runs/demo/grpo/checkpoints/final) a random model is used, whose episodes are
longer and call nothing.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

from agents.embedded import EmbeddedAgent
from agents.loading import load_model, setup_torch
from algos.config import TinyModelConfig, TrainConfig
from algos.tiny import make_tiny
from algos.train import make_rollouts
from retool_env.compose import compose
from retool_env.tokenizer import load_tokenizer

STEPS = 6


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = sys.argv[1] if len(sys.argv) > 1 else folder
        if path == folder:
            make_tiny(Path(folder), TinyModelConfig(), seed=0)
        setup_torch(seed=0, threads=2, deterministic=True)
        agent = EmbeddedAgent(load_model(path), load_tokenizer(path))
        seconds: dict[str, list[float]] = {"plain": [], "torchrl": []}
        tokens = 0
        rollouts = {}
        for name in seconds:
            overrides = ["experiment=tiny_grpo", f"model.path={path}", f"rollout.collector={name}"]
            config = compose("train", TrainConfig, overrides)
            rollouts[name] = make_rollouts(config, config.env.model_copy(update={"tokenizer": path}), agent)
        for step in range(STEPS):
            for name, rollout in rollouts.items():
                agent.set_version(step)
                start = time.perf_counter()
                rollout.set_version(step)
                trajectories = rollout.collect(step)
                seconds[name].append(time.perf_counter() - start)
                tokens = sum(t.record.num_action_tokens for t in trajectories)
        for rollout in rollouts.values():
            rollout.close()
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    for name, median in medians.items():
        print(f"{name:8s} {median:6.2f} s per step of 160 episodes, {tokens / median:8.0f} sampled tokens/s")
    print(f"torchrl / plain: {medians['torchrl'] / medians['plain']:.2f}")


if __name__ == "__main__":
    main()
