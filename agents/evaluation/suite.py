"""``retool eval --suite FILE``: agents x data sets x seeds, each cell a run folder of its own, one table at the end.

.. code-block:: yaml

    out: runs/suite                     # cells lie in runs/suite/AGENT/DATASET/seed-N
    agents:                             # the settings of `agent`, and any other with a dot in its name
      base: {name: openai, url: http://localhost:8000/v1, model: base}
      grpo: {path: runs/grpo/checkpoints/final, env.instructions: false}
    datasets: [aime_2024, {name: problems.jsonl, samples: 4}]
    seeds: [0, 1, 2]
    settings: {samples: 32}             # of every cell

Contract: later settings count: a data set's recipe, ``settings``, the data set's own, the agent's, the command line's.
Every cell is a process, so nothing of one reaches the next, not even its end: a cell that fails is named, the others
are played, and the command fails at the end. The same command goes on where a suite was stopped. What stands in the
file is what arrives: nothing in it is a variable. Keys and passwords are on no command line.
Left out: cells side by side; an endpoint is kept busy by the episodes of one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml
from pydantic import Field, JsonValue

from agents.config import EvalConfig
from agents.console import make_console
from agents.evaluation.report import is_evaluation, report_evaluations
from retool_env.compose import compose
from retool_env.config import Config, check_config
from retool_env.errors import InfrastructureError, UsageError
from retool_env.files import atomic
from retool_env.quoting import literal
from retool_env.sources.benchmarks import dataset_overrides
from retool_env.sweeps import process

__all__ = ["Cell", "SuiteConfig", "read_suite", "run_suite"]

_KEY: Final = re.compile(r"[\w.@/-]+")
_PLAIN: Final = re.compile(r"[A-Za-z][\w./:+@-]*")
Settings = dict[str, JsonValue]


class SuiteConfig(Config):
    """The file of a suite.

    Attributes:
        out: folder for all of it.
        agents: by the name that the table shows.
        datasets: what ``retool eval`` takes as DATASET; with settings, its name is ``name``.
        seeds: repetitions.
        settings: of every cell.
    """

    out: str
    agents: dict[str, Settings] = Field(min_length=1)
    datasets: tuple[str | Settings, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    settings: Settings = Field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One evaluation of a suite: its name, its folder, and the overrides that make it."""

    name: str
    folder: Path
    overrides: tuple[str, ...]


def run_suite(file: str, overrides: Sequence[str]) -> None:
    """Play every cell, and print the table of those that there is something of.

    Args:
        overrides: of every cell; ``out=`` is the folder of the suite.

    Raises:
        UsageError: the file cannot be read, or the settings of a cell cannot be.
        InfrastructureError: a cell failed, for whatever reason; told once the others are played.
    """
    cells = read_suite(Path(file), overrides)
    for cell in cells:
        compose("eval", EvalConfig, cell.overrides)  # mistakes of the file are told before anything is played
    console = make_console()
    failures: dict[str, str] = {}
    for number, cell in enumerate(cells, start=1):
        console.print(f"cell {number} of {len(cells)}: {cell.name}", markup=False)
        if why := _play_apart(cell):
            failures[cell.name] = why
            console.print(f"cell {cell.name} failed: {why}", markup=False)
    found = [cell.folder for cell in cells if is_evaluation(cell.folder)]
    report = report_evaluations(found) if found else ""
    report += "".join(f"\ncell {name} failed: {why}\n" for name, why in failures.items())
    suite = _common_folder(file, overrides)
    with atomic(suite / "suite.md") as temporary:
        temporary.write_text(report, encoding="utf-8")
    console.print(report, markup=False)
    console.print(f"written to {suite / 'suite.md'}", markup=False)
    if failures:
        raise InfrastructureError(f"{len(failures)} of {len(cells)} cells failed: {', '.join(failures)}")


def read_suite(file: Path, overrides: Sequence[str] = ()) -> list[Cell]:
    """The cells of a file, in its order: agents, then data sets, then seeds.

    Raises:
        UsageError: the file cannot be read, or does not say what it must.
    """
    suite, folder = _read(file), _common_folder(str(file), overrides)
    rest = [override for override in overrides if not override.startswith("out=")]
    cells = []
    for label, agent in suite.agents.items():
        for dataset, first, own in _datasets(suite):
            for seed in suite.seeds:
                name = f"{label}/{dataset}/seed-{seed}"
                made = [*first, *_written(suite.settings), *_written(own), *_agent(agent), f"seed={seed}", *rest]
                out = folder / name
                cells.append(Cell(name=name, folder=out, overrides=(*made, _override("out", str(out)))))
    if twice := {cell.name for cell in cells if sum(other.name == cell.name for other in cells) > 1}:
        raise UsageError(f"{file}: {', '.join(sorted(twice))} is there twice; data sets need different names")
    return cells


def _read(file: Path) -> SuiteConfig:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UsageError(f"suite {str(file)!r} cannot be read ({_why(error)})") from error
    if not isinstance(values, dict):
        raise UsageError(f"suite {str(file)!r}: expected a mapping with out, agents and datasets")
    return check_config(SuiteConfig, values, where=str(file))


def _why(error: Exception) -> str:
    """In one line, and without the piece of the file that YAML would show: there may be a key in it."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"{error.problem}, line {error.problem_mark.line + 1}"
    return " ".join(str(error).split())


def _common_folder(file: str, overrides: Sequence[str]) -> Path:
    given = [override.removeprefix("out=").strip("'") for override in overrides if override.startswith("out=")]
    return Path(given[-1] if given else _read(Path(file)).out)


def _datasets(suite: SuiteConfig) -> Iterator[tuple[str, list[str], Settings]]:
    """Label, recipe, and settings of its own."""
    for entry in suite.datasets:
        settings: Settings = {"name": entry} if isinstance(entry, str) else dict(entry)
        name = settings.pop("name", None)
        if not isinstance(name, str):
            raise UsageError(f"datasets: {entry!r} has no name; give what `retool eval` takes as DATASET")
        label = str(settings.pop("label", Path(name.removeprefix("hf:")).stem))
        yield label, [_override(*pair) for pair in map(_parts, dataset_overrides(name))], settings


def _parts(override: str) -> tuple[str, JsonValue]:
    key, _, value = override.partition("=")
    return key, value


def _agent(settings: Mapping[str, JsonValue]) -> list[str]:
    return _written({key if "." in key else f"agent.{key}": value for key, value in settings.items()})


def _written(settings: Mapping[str, JsonValue]) -> list[str]:
    return [_override(key, value) for key, value in settings.items()]


def _override(key: str, value: JsonValue) -> str:
    if not _KEY.fullmatch(key):
        raise UsageError(f"{key!r} is no key; settings are written as env.max_tool_rounds: 8")
    return f"{key}={_hydra(value)}"


def _hydra(value: JsonValue) -> str:
    """A value in the words of Hydra's command line."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_hydra(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_hydra, value)) + "]"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str):
        plain = _PLAIN.fullmatch(value) and value.lower() not in ("null", "true", "false", "nan", "inf")
        return value if plain else literal(value)
    return repr(value)


def _play_apart(cell: Cell) -> str:
    """Play a cell in a process of its own; why it failed, or ``""``."""
    ended = process.run(process.begin(), ["eval", *cell.overrides])
    if ended.code == process.INTERRUPTED:
        raise KeyboardInterrupt
    return "" if ended.code == 0 else ended.error or f"its process ended with {ended.code}"
