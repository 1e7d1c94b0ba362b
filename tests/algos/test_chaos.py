"""Twenty steps of a real training run in which an engine, both sandboxes and a rollout worker are killed.

Everything is a process: the trainer (``retool train``), two servers of the same model, two Ray workers with a sandbox
each. All deaths are by SIGKILL, in the middle of work.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from agents.run_folder import read_metrics
from retool_env.outcome import Outcome
from retool_env.trajectory import Trajectory, read_trajectories
from tests.agents.fake_server import FakeServer, fake_sglang
from tests.algos.processes import ray_workers, sandboxes

pytest.importorskip("ray", reason="Ray is not installed: pip install 'retool-env[ray]'")
pytestmark = pytest.mark.slow

STEPS, PROMPTS, SIZE = 20, 8, 8
TICKETS = PROMPTS * SIZE  # of a step


class Run:
    """``retool train`` as whoever kills its parts sees it."""

    def __init__(self, folder: Path, checkpoint: Path, servers: list[FakeServer]) -> None:
        self.folder = folder
        overrides = [
            "experiment=tiny_grpo",
            "threads=1",
            f"out={folder}",
            f"model.path={checkpoint}",
            "agent.name=sglang",
            f"agent.url=[{','.join(server.url for server in servers)}]",
            "sync.kind=disk",
            "rollout.ray.workers=2",
            "rollout.staleness=1",  # so that the workers play at any moment
            f"algo.steps={STEPS}",
            f"algo.prompts_per_step={PROMPTS}",
            f"algo.group_size={SIZE}",
            "optim.lr=1e-3",
            "algo.max_failed_share=1",  # with many cores most of a step's programs are in the sandboxes when these die
            "threads=1",
            "save_every=0",
            "eval.every=0",
            "eval.problems.size=8",
            "eval.greedy=false",
        ]
        self.log = folder.with_suffix(".log")
        with self.log.open("w") as log:
            command = [sys.executable, "-m", "retool_env.cli", "train", *overrides]
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)

    def rows(self) -> list[dict]:
        return [row for row in read_metrics(self.folder / "metrics.jsonl") if row["phase"] == "train"]

    def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            assert self.process.poll() is None, self.log.read_text()[-4000:]
            time.sleep(0.02)

    def until_step(self, step: int) -> None:
        """Returns when ``step`` is trained: the workers have just begun with the episodes of a later one."""
        self.until(lambda: len(self.rows()) > step)

    def trajectories(self) -> list[list[Trajectory]]:
        files = [self.folder / "rollouts" / f"step-{step:06d}.jsonl.gz" for step in range(STEPS)]
        return [list(read_trajectories(path)) for path in files]

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def started(folder: Path, checkpoint: Path, servers: list[FakeServer]) -> Iterator[Run]:
    run = Run(folder, checkpoint, servers)
    try:
        yield run
    finally:
        run.end()


def busy(server: FakeServer) -> bool:
    return server.get("/v1/loads").json()["loads"][0]["num_running_reqs"] > 0


def quiet(servers: list[FakeServer]) -> bool:
    """Nobody asks for a turn, now and half a second later: whoever plays waits for a program."""
    for _ in range(6):
        if any(map(busy, servers)):
            return False
        time.sleep(0.1)
    return True


def kill_sandboxes(run: Run, servers: list[FakeServer]) -> list[int]:
    """Stopped first, until programs wait inside, so that some are lost for certain."""
    run.until(lambda: any(map(busy, servers)))
    victims = sandboxes(run.process.pid)
    send(signal.SIGSTOP, victims)
    run.until(lambda: quiet(servers))
    send(signal.SIGKILL, victims)
    return victims


def send(number: signal.Signals, victims: list[int]) -> None:
    for victim in victims:
        with contextlib.suppress(ProcessLookupError):  # a program that has just ended
            os.kill(victim, number)


def test_training_survives_the_death_of_every_part(cold_start: Path, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(fake_sglang(cold_start)) for _ in range(2)]
        run = stack.enter_context(started(tmp_path / "run", cold_start, servers))

        run.until_step(3)
        run.until(lambda: busy(servers[1]))
        servers[1].kill()
        run.until_step(6)
        back = stack.enter_context(fake_sglang(cold_start, "--port", str(servers[1].port)))

        run.until_step(10)
        dead = kill_sandboxes(run, [servers[0], back])
        run.until_step(14)
        alive = set(sandboxes(run.process.pid))
        assert dead and alive and not alive & set(dead), "others took their place"
        os.kill(ray_workers(run.process.pid)[0], signal.SIGKILL)
        run.until_step(16)
        back.get("/fake/digests")  # forgets what it served so far

        run.until_step(STEPS - 1)
        assert run.process.wait(600) == 0, run.log.read_text()[-4000:]
        name, served = back.get("/model_info").json()["weight_version"], len(back.get("/fake/digests").json())

    steps, rows = run.trajectories(), run.rows()
    every_ticket_once(steps)
    losses_are_counted([Counter(trajectory.record.outcome for trajectory in step) for step in steps], rows)
    assert (name, served > 0) == (str(STEPS), True), "the restarted server works, with the weights of the day"
    reward_rises(steps)


def every_ticket_once(steps: list[list[Trajectory]]) -> None:
    assert [len(step) for step in steps] == [TICKETS] * STEPS
    assert sorted(trajectory.ticket for step in steps for trajectory in step) == list(range(STEPS * TICKETS))


def losses_are_counted(outcomes: list[Counter[Outcome]], rows: list[dict]) -> None:
    """A program that died with its sandbox takes its episode along, which is unscored; a turn that died with its
    server is asked for again elsewhere; an episode that died with its worker is played again."""
    failed, lost = [row["num_failed"] for row in rows], [row["num_lost"] for row in rows]
    total = sum(outcomes, Counter())
    print(f"failed {failed}\nlost with a worker {lost}\noutcomes {dict(total)}")
    assert failed == [sum(num for outcome, num in step.items() if outcome.failed) for step in outcomes]
    assert sum(failed[:11]) == 0 < sum(failed) == total[Outcome.SANDBOX_OUTAGE]
    assert sum(lost[:15]) == 0 < sum(lost)
    assert sum(lost) % SIZE == 0


def reward_rises(steps: list[list[Trajectory]]) -> None:
    """By more than noise can: five standard errors of the difference between the first and the last three steps."""
    first, last = (
        np.array([t.record.reward for step in part for t in step if t.scored]) for part in (steps[:3], steps[-3:])
    )
    error = np.sqrt(first.var(ddof=1) / len(first) + last.var(ddof=1) / len(last))
    print(f"reward {first.mean():.2f} to {last.mean():.2f}, standard error of the difference {error:.2f}")
    assert last.mean() - first.mean() > 5 * error
