"""The numbers of an evaluation as ``summary.json``, and the readable part of them as Markdown.

``summary.json`` holds what was measured and with what, the metrics under verl's names, everything that
:class:`~agents.stats.Statistics` has, overall and by family, and under ``time`` the fields that differ between two runs
of one seed. A number that does not exist (NaN, infinite) is ``null`` there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import JsonValue, TypeAdapter

from agents.evaluation.folder import RunFile, read_run
from agents.evaluation.misses import count_misses
from agents.evaluation.played import TRAJECTORIES, Played
from agents.stats import Sample, Statistics, in_one_unit, statistics, verl_metrics
from retool_env.errors import UsageError
from retool_env.files import atomic

__all__ = ["EvalSummary", "read_summary", "unit_of", "write_summary"]

SUMMARY: Final = "summary.json"
SCHEMA: Final = 1
_TIMES: Final = ("seconds", "seconds_per_solved", "tool_seconds_per_solved")
_NUMBERS = TypeAdapter(Statistics)


@dataclass(frozen=True, kw_only=True)
class EvalSummary:
    """The numbers of one evaluation.

    Attributes:
        run: what was measured with.
        overall: ``None`` as long as there is no episode.
        families: by family of problems, where there are several.
        unit: what tokens are counted in, in every number here: ``bytes`` where nobody knows the policy's own.
        num_played: episodes that count; ``num_failed`` ended through infrastructure and were not played again.
        num_failures: all that ever ended so.
        misses: wrong answers by cause.
    """

    run: RunFile
    overall: Statistics | None
    families: Mapping[str, Statistics]
    unit: str
    num_played: int
    num_failed: int
    num_failures: int
    misses: str

    @classmethod
    def of(cls, run: RunFile, played: Played) -> EvalSummary:
        """The numbers of what was played by now."""
        rows = {**played.samples, **{ticket: sample for ticket, (sample, _) in played.failed.items()}}
        samples = in_one_unit([rows[ticket] for ticket in sorted(rows)])
        kinds = list(dict.fromkeys(sample.family for sample in samples if sample.family))
        groups = {kind: [sample for sample in samples if sample.family == kind] for kind in kinds}
        ks = run.config["ks"]
        return cls(
            run=run,
            overall=_statistics(samples, ks) if samples else None,
            families={kind: _statistics(group, ks) for kind, group in groups.items()} if len(kinds) > 1 else {},
            unit=unit_of(run, samples),
            num_played=len(played.samples),
            num_failed=len(played.failed),
            num_failures=played.attempts.total(),
            misses=count_misses([*played.misses.values(), *(miss for _, miss in played.failed.values())]),
        )

    @property
    def complete(self) -> bool:
        """Every episode counts."""
        return self.num_played == self.run.num_episodes

    def to_json(self) -> str:
        """The content of ``summary.json``."""
        stated = {
            "schema_version": SCHEMA,
            "hash": self.run.hash,
            "identity": self.run.identity.model_dump(mode="json"),
            "num_episodes": self.run.num_episodes,
            "num_played": self.num_played,
            "complete": self.complete,
            "num_failed": self.num_failed,
            "num_failures": self.num_failures,
            "unit": self.unit,
            "misses": self.misses,
        }
        numbers, time = _split(self.overall) if self.overall else (None, None)
        families = {kind: _split(found) for kind, found in self.families.items()}
        content = {
            **stated,
            "metrics": verl_metrics(self.overall) if self.overall else {},
            "statistics": numbers,
            "families": {kind: row for kind, (row, _) in families.items()},
            "time": {"overall": time, "families": {kind: row for kind, (_, row) in families.items()}},
        }
        return json.dumps(_finite(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write_summary(folder: Path, found: EvalSummary, readable: str) -> None:
    """``summary.json``, and ``summary.md`` with the readable part."""
    for name, text in (("summary.md", readable), (SUMMARY, found.to_json())):
        with atomic(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def read_summary(folder: Path) -> EvalSummary:
    """The numbers of a stored evaluation: from ``summary.json``, or from the episodes where these are newer.

    Raises:
        UsageError: no evaluation, or one that cannot be read.
    """
    run, path = read_run(folder), folder / SUMMARY
    episodes = folder / TRAJECTORIES
    if not path.is_file() or (episodes.is_file() and episodes.stat().st_mtime_ns > path.stat().st_mtime_ns):
        return EvalSummary.of(run, Played.read(folder))
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
        times = row["time"]
        overall = _joined(row["statistics"], times["overall"]) if row["statistics"] else None
        families = {kind: _joined(found, times["families"][kind]) for kind, found in row["families"].items()}
        kept = {name: row[name] for name in ("unit", "num_played", "num_failed", "num_failures", "misses")}
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path}: not the numbers of an evaluation ({error}); delete it to have them again") from error
    return EvalSummary(run=run, overall=overall, families=families, **kept)


def unit_of(run: RunFile, samples: Sequence[Sample]) -> str:
    """What the tokens of ``samples`` are counted in, together."""
    counted = all(sample.counted for sample in samples if not sample.outcome.failed)
    return "bytes" if _counts_bytes(run) and not counted else "tokens"


def _statistics(samples: Sequence[Sample], ks: JsonValue) -> Statistics:
    """At those of ``ks`` that there are enough scored samples for; a run that is not over yet has fewer."""
    if not isinstance(ks, list):
        return statistics(samples)
    scored: dict[str, int] = {}
    for sample in samples:
        scored[sample.problem] = scored.get(sample.problem, 0) + (not sample.outcome.failed)
    return statistics(samples, ks=[k for k in ks if isinstance(k, int) and k <= max(scored.values())])


def _counts_bytes(run: RunFile) -> bool:
    env = run.config["env"]
    return isinstance(env, dict) and env["tokenizer"] == "bytes"


def _split(found: Statistics) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a seed decides, and what the clock does."""
    row = asdict(found)
    return row, {name: row.pop(name) for name in _TIMES}


def _joined(numbers: Mapping[str, Any], time: Mapping[str, Any]) -> Statistics:
    return _NUMBERS.validate_python(_numbers({**numbers, **time}))


def _finite(value: Any) -> Any:
    """``value`` with ``None`` for what JSON has no word for."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _numbers(value: Any) -> Any:
    """The other way round: nothing else in these numbers is ``None``."""
    if isinstance(value, Mapping):
        return {key: _numbers(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_numbers(inner) for inner in value]
    return math.nan if value is None else value
