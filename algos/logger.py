"""One place that every number of a run goes through: ``metrics.jsonl``, boards (:mod:`algos.boards`), the terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from agents.console import make_console
from agents.run_folder import RunFolder
from algos.boards import open_boards
from algos.config import LoggerConfig, SftConfig, TrainConfig
from algos.policy.world import World
from retool_env.errors import UsageError

__all__ = ["RunLogger", "open_run"]


def open_run(config: SftConfig | TrainConfig, world: World) -> RunFolder | None:
    """The run folder, on the first rank; what it refuses, all ranks refuse.

    Raises:
        UsageError: the folder holds a run, or one with another configuration.
    """
    run, error = None, None
    if world.is_main:
        try:
            run = RunFolder(config.out, config, resume=config.resume)
        except UsageError as refused:
            error = refused
    error = world.from_main(error)
    if error is not None:
        raise error
    return run


class RunLogger:
    """Writes metrics of a run and shows its progress.

    Args:
        run: where the files go.
        total: steps of the bar.
        label: name of the bar.
        first: step that a resumed run begins with.
        config: which boards, and whether the terminal is told.
    """

    def __init__(
        self, run: RunFolder, *, total: int, label: str, first: int = 0, config: LoggerConfig | None = None
    ) -> None:
        config = config or LoggerConfig()
        self.run = run
        self.console = make_console()
        self._talks = config.console
        self._boards = open_boards(config, run.path, first=first)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            disable=not self.console.is_terminal or not self._talks,
        )
        self._bar = self._progress.add_task(label, total=total, note="")
        self._label, self._total, self._tenths = label, total, 10 * first // total
        self._begun = time.perf_counter()

    def __enter__(self) -> RunLogger:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        for board in self._boards:
            board.close()

    def log(self, phase: str, step: int, metrics: Mapping[str, float]) -> None:
        """One row of numbers."""
        self.run.log(phase, step, metrics)
        for board in self._boards:
            board.log({f"{phase}/{name}": value for name, value in metrics.items()}, step)

    def advance(self, step: int, note: str) -> None:
        """Move the bar to ``step``; without a terminal, say so at every tenth of the way."""
        self._progress.update(self._bar, completed=step, note=note)
        tenth = 10 * step // self._total
        if not self.console.is_terminal and tenth > self._tenths:
            self._tenths = tenth
            self.say(f"{self._label}: {step} of {self._total}, {time.perf_counter() - self._begun:.0f} s, {note}")

    def say(self, text: str, *, always: bool = False) -> None:
        """A line for people; ``always`` for one that has to be read also where the terminal is not told."""
        if self._talks or always:
            self.console.print(text)
