"""What a launcher calls for each cell."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from retool_env.compose import checked
from retool_env.errors import UsageError
from retool_env.quoting import quoted
from retool_env.sweeps import process
from retool_env.sweeps.cells import CellRecord, locked, read_cell, write_record
from retool_env.sweeps.plan import values_of

__all__ = ["CellTask"]


@dataclass(frozen=True, kw_only=True)
class CellTask:
    """What a launcher calls for each cell, in whatever process; it can be pickled.

    Attributes:
        show: the cell prints to this process's terminal, rather than to ``output.log``.
    """

    command: str
    config: str
    score: str
    folder: Path
    axes: tuple[str, ...]
    show: bool

    def __call__(self, composed: DictConfig) -> float | None:
        """Run the cell, unless it is finished; returns its score."""
        given = [str(override) for override in HydraConfig.get().overrides.task]
        cell = CellRecord(values=values_of(given, self.axes), overrides=tuple(given))
        folder = self.folder / cell.folder
        with locked(folder) as lock:
            if lock is None:
                return self._say(cell, "another process is at it", None)
            known = read_cell(folder) or cell
            if known.status == "finished":
                return self._say(cell, "finished before, kept", known.score)
            cell = cell.model_copy(update={"attempts": known.attempts})
            if self.show:
                self._say(cell, "goes on" if known.attempts else "begins", None)
            cell = self._attempt(cell, folder, composed, lock)
        if cell.status != "finished":
            if cell.attempts[-1].code == process.INTERRUPTED:
                raise KeyboardInterrupt
            return self._say(cell, f"FAILED: {cell.why}", None)
        scored = "" if cell.score is None else f", {100 * cell.score:.1f} %"
        return self._say(cell, f"finished in {cell.attempts[-1].seconds:.0f} s{scored}", cell.score)

    def _attempt(self, cell: CellRecord, folder: Path, composed: DictConfig, lock: int) -> CellRecord:
        attempt = process.begin()
        running = cell.model_copy(update={"attempts": (*cell.attempts, attempt)})
        write_record(folder, running)
        try:
            kind = _load(self.config)
            checked(kind, composed, cell.overrides)
        except UsageError as error:  # told without starting a process for it
            ended = attempt.model_copy(update={"seconds": 0.0, "cpu_seconds": 0.0, "code": 2, "error": str(error)})
        else:
            here = [f"out={quoted(str(folder))}"]
            if "resume" in kind.model_fields and (folder / "config.yaml").is_file():
                here.append("resume=true")
            log = None if self.show else folder / "output.log"
            ended = process.run(attempt, [self.command, *cell.overrides, *here], log=log, lock=lock)
        score = _load(self.score)(folder) if ended.code == 0 and self.score else None
        cell = cell.model_copy(update={"attempts": (*cell.attempts, ended), "score": score})
        write_record(folder, cell)
        return cell

    def _say(self, cell: CellRecord, text: str, score: float | None) -> float | None:
        print(f"sweep: {cell.label}: {text}", flush=True)
        return score


def _load(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)
