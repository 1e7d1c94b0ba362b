"""The folder of an evaluation: what was measured with, every episode, every failure.

===================  ================================================================================
run.json             configuration, identity and its hash, versions, every launch with its times
trajectories.jsonl   the episodes that count, one line each (``retool_env.trajectory``), appended
failures.jsonl       those that infrastructure ended, the same with ``attempt``; never scored
summary.json         all numbers (:mod:`agents.evaluation.summary`); ``summary.md`` the readable part
misses.md            every wrong answer with its cause
===================  ================================================================================

Contract: an episode goes to exactly one of three places: success to ``trajectories.jsonl``, failure of infrastructure
to ``failures.jsonl``, and a kill nowhere. So what is left to play is a difference of sets, after any kill, and a line
torn by one is dropped. An episode is noted once it is written (:mod:`agents.evaluation.lines`), so the numbers never
tell of more than the files hold. One that JSON has no words for is a failure. One process at a time writes in a folder.
Left out: numbers; and what a power failure leaves.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

import retool_env
from agents.config import EvalConfig
from agents.evaluation.identity import Identity, differences
from agents.evaluation.lines import Lines, as_line
from agents.evaluation.played import FAILURES, TRAJECTORIES, Played
from retool_env.errors import UsageError
from retool_env.files import atomic, lock_folder
from retool_env.trajectory import Trajectory

__all__ = ["EvalFolder", "Launch", "RunFile", "is_evaluation", "read_run"]

RUN: Final = "run.json"
SCHEMA: Final = 1
_LIBRARIES: Final = ("torch", "transformers", "math-verify", "sympy", "numpy", "gymnasium")


class Launch(BaseModel):
    """One start of the command.

    Attributes:
        started: UTC; ``ended`` is ``None`` for one that was killed, or still runs.
        num_before: episodes that were there already.
    """

    model_config = ConfigDict(frozen=True)

    started: str
    ended: str | None = None
    seconds: float | None = None
    num_before: int
    host: str
    cores: int
    platform: str
    versions: dict[str, str]


class RunFile(BaseModel):
    """``run.json``."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = SCHEMA
    kind: str = "evaluation"
    hash: str
    num_episodes: int
    identity: Identity
    config: dict[str, JsonValue]
    launches: tuple[Launch, ...] = ()


class EvalFolder:
    """A folder that this process writes; a run that was begun in it goes on.

    Args:
        path: made if it does not exist.
        config: with the environment as it is played.
        total: episodes when all are played.

    Attributes:
        played: what is in it.

    Raises:
        UsageError: the folder cannot be made, holds something else, or a run that differs; another process writes it.
    """

    def __init__(self, path: str | Path, config: EvalConfig, identity: Identity, *, total: int) -> None:
        self.path = Path(path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"out={str(path)!r} cannot be made a run folder ({error.strerror})") from error
        self._check(identity)
        self._lock = lock_folder(self.path)
        self.played = Played.read(self.path)
        self._began = time.monotonic()
        old = read_run(self.path).launches if (self.path / RUN).is_file() else ()
        self._run = RunFile(
            hash=identity.hash,
            num_episodes=total,
            identity=identity,
            config=config.model_dump(mode="json"),
            launches=(*old, _launch(len(self.played.samples))),
        )
        self._write_run()  # before there are other files, which without it would be somebody else's
        self._trajectories, self._failures = Lines(self.path / TRAJECTORIES), Lines(self.path / FAILURES)

    @property
    def run(self) -> RunFile:
        """What ``run.json`` says."""
        return self._run

    def keep(self, trajectories: Iterable[Trajectory]) -> list[Trajectory]:
        """Append each to the file that it belongs in; what was handed over survives a kill.

        Returns:
            them as they are kept.

        Raises:
            UsageError: one could not be written; it was not played, and those before it were.
        """
        kept = []
        for finished in trajectories:
            trajectory, line = as_line(finished)
            if trajectory.record.outcome.failed:
                row = {"attempt": self.played.attempts[trajectory.ticket] + 1, "time": _now()}
                self._failures.append(json.dumps(json.loads(line) | row, ensure_ascii=False))
            else:
                self._trajectories.append(line)
            self.played.note(trajectory)
            kept.append(trajectory)
        return kept

    def close(self) -> None:
        """End this launch; idempotent."""
        if self._lock.closed:
            return
        *before, last = self._run.launches
        ended = last.model_copy(update={"ended": _now(), "seconds": round(time.monotonic() - self._began, 3)})
        self._run = self._run.model_copy(update={"launches": (*before, ended)})
        self._write_run()
        self._trajectories.close()
        self._failures.close()
        self._lock.close()

    def _check(self, identity: Identity) -> None:
        """Refuse a folder with something else in it."""
        if (self.path / RUN).is_file():
            if found := differences(read_run(self.path).identity, identity):
                raise UsageError(
                    f"out={str(self.path)!r} holds a run with another configuration ({'; '.join(found)}); "
                    "give another out=..., or delete the folder"
                )
        elif other := next((name for name in ("config.yaml", TRAJECTORIES, FAILURES) if _holds(self.path / name)), ""):
            raise UsageError(
                f"out={str(self.path)!r} holds a run that is no evaluation of this version ({other} without {RUN}); "
                "give another out=..."
            )

    def _write_run(self) -> None:
        with atomic(self.path / RUN) as temporary:
            temporary.write_text(self._run.model_dump_json(indent=1) + "\n", encoding="utf-8")


def is_evaluation(folder: Path) -> bool:
    """Whether an evaluation was begun in the folder."""
    return (folder / RUN).is_file()


def read_run(folder: Path) -> RunFile:
    """``run.json`` of an evaluation's folder.

    Raises:
        UsageError: there is none, or none that this version understands.
    """
    path = folder / RUN
    if not path.is_file():
        raise UsageError(f"{str(folder)!r} holds no evaluation: it has no {RUN}")
    try:
        return RunFile.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise UsageError(f"{path}: not the record of an evaluation ({error.errors()[0]['msg']})") from error


def _holds(path: Path) -> bool:
    """Something; an empty file may be all that an older version got to."""
    return path.is_file() and path.stat().st_size > 0


def _launch(num_before: int) -> Launch:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Launch(
        started=_now(),
        num_before=num_before,
        host=platform.node(),
        cores=cores,
        platform=f"{platform.system()} {platform.machine()}",
        versions=_versions(),
    )


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "retool": retool_env.__version__}
    root = Path(retool_env.__file__).resolve().parents[1]
    if (root / ".git").exists():
        with suppress(OSError, subprocess.SubprocessError):
            git = ["git", "-C", str(root), "rev-parse", "HEAD"]
            found["commit"] = subprocess.run(git, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    for name in _LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
