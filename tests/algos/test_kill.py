"""SIGKILL at any moment, then ``resume=true``: the run ends with the bits of one that was never stopped."""

from __future__ import annotations

import importlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agents.run_folder import read_metrics
from algos.config import TrainConfig
from retool_env.compose import compose
from tests.algos.test_train import assert_same_run

pytestmark = pytest.mark.slow

STEPS = 6
TRIALS = 20
# Everything that has a state: a critic, a reference that changes, several updates per step, further groups.
SETTINGS = [
    "experiment=tiny_grpo",
    "threads=1",
    f"algo.steps={STEPS}",
    "algo.prompts_per_step=3",
    "algo.group_size=4",
    "algo.advantage=gae",
    "algo.rescore=true",
    "algo.kl.coef=0.01",
    "algo.kl.refresh_every=2",
    "algo.minibatches=2",
    "algo.resample_rounds=1",
    "optim.lr=1e-3",
    "save_every=2",
    "keep_best=true",
    "eval.every=3",
    "eval.problems.size=10",
]
# Where a run may be hit: a function of the phase, by module, owner and name.
PHASES = {
    "rollout": ("agents.embedded.agent", "EmbeddedAgent", "act_many"),
    "scoring": ("algos.learn", None, "per_token"),
    "update": ("algos.update", None, "accumulate"),
    "saving": ("algos.checkpoint.checkpoints", "Checkpoints", "_write"),
}


def config(out: Path, start: Path, *overrides: str) -> TrainConfig:
    return compose("train", TrainConfig, [*SETTINGS, f"out={out}", f"model.path={start}", *overrides])


def in_a_child(function: Callable[[], Any]) -> int:
    """Run it in a fork of this process, which has imported everything; returns how that ended, as ``waitpid`` says."""
    pid = os.fork()
    if pid == 0:
        try:
            function()
        except BaseException:  # noqa: BLE001 - a child must not go on as pytest
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def wrapped(phase: str, around: Callable[[Callable[[], Any]], Any]) -> None:
    """From now on ``around`` is called in place of the phase's function, with a function that calls it."""
    module, owner, name = PHASES[phase]
    place = importlib.import_module(module)
    place = getattr(place, owner) if owner else place
    function = getattr(place, name)
    setattr(place, name, lambda *args, **kwargs: around(lambda: function(*args, **kwargs)))


def watched(phase: str, file: Path) -> None:
    """Every call of the phase writes how long it took."""

    def timing(call: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = call()
        with file.open("a") as out:
            out.write(f"{phase} {time.perf_counter() - start}\n")
        return result

    wrapped(phase, timing)


def dies_in(phase: str, *, call: int, seconds: float) -> None:
    """From now on: a moment after the ``call``-th call of the phase has begun, this process is gone."""
    calls = iter(range(call, -1, -1))

    def counting(function: Callable[[], Any]) -> Any:
        if next(calls, -1) == 0:
            threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
        return function()

    wrapped(phase, counting)


def moments(file: Path, num: int, seed: int) -> list[tuple[str, int, float]]:
    """Phases in random order, each as often as the others; a random call of it and a moment in the middle of that."""
    took = defaultdict[str, list[float]](list)
    for phase, seconds in map(str.split, file.read_text().splitlines()):
        took[phase].append(float(seconds))
    assert took.keys() == PHASES.keys() and min(map(len, took.values())) >= 4
    choice = random.Random(seed)
    phases = [sorted(PHASES)[k % len(PHASES)] for k in range(num)]
    choice.shuffle(phases)
    calls = [(phase, choice.randrange(len(took[phase]))) for phase in phases]
    return [(phase, call, choice.uniform(0, took[phase][call])) for phase, call in calls]


def test_twenty_kills_in_every_phase(cold_start: Path, tmp_path: Path) -> None:
    from algos.train import train

    def run_whole() -> None:
        for phase in PHASES:
            watched(phase, tmp_path / "phases")
        train(config(tmp_path / "whole", cold_start))

    assert in_a_child(run_whole) == 0
    killed = []
    for trial, (phase, call, seconds) in enumerate(moments(tmp_path / "phases", TRIALS, seed=7)):

        def run(phase: str = phase, call: int = call, seconds: float = seconds, trial: int = trial) -> None:
            dies_in(phase, call=call, seconds=seconds)
            train(config(tmp_path / str(trial), cold_start))

        status = in_a_child(run)
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, (phase, call, seconds)
        killed += [phase] * os.WIFSIGNALED(status)
        resumed = config(tmp_path / str(trial), cold_start, "resume=true")
        assert in_a_child(lambda resumed=resumed: train(resumed)) == 0, (phase, call, seconds)
        assert_same_run(tmp_path / "whole", tmp_path / str(trial))
        shutil.rmtree(tmp_path / str(trial))
    assert len(killed) >= TRIALS - 2, f"runs were over before they were hit: {killed}"
    assert set(killed) == set(PHASES)


def test_kills_of_two_ranks(cold_start: Path, tmp_path: Path) -> None:
    """``torchrun`` with sharded weights; all processes die at once, at a moment of the clock."""

    def command(name: str, *overrides: str) -> list[str]:
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        where = [f"out={tmp_path / name}", f"model.path={cold_start}"]
        return [*launch, "-m", "retool_env.cli", "train", *SETTINGS, *where, *overrides]

    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command("whole"), check=True, capture_output=True, env=environment)
    for trial, after in enumerate((2, 3, 5)):
        name = f"killed-{trial}"
        metrics = tmp_path / name / "metrics.jsonl"
        process = subprocess.Popen(
            command(name), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment, start_new_session=True
        )
        while sum(row["phase"] == "train" for row in read_metrics(metrics)) < after:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
        time.sleep(random.Random(trial).uniform(0, 0.3))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        subprocess.run(["pkill", "-KILL", "-f", str(tmp_path / name)], check=False)  # ranks have sessions of their own
        subprocess.run(command(name, "resume=true"), check=True, capture_output=True, env=environment)
        assert_same_run(tmp_path / "whole", tmp_path / name)
