"""The page as a whole: head, index, script, and behind them the chunks of episodes.

The index and the script come first, so that the list is there while the browser still reads the chunks. Nothing but
the page's own script and style is allowed to run or to be loaded: the content security policy names them by hash.
The same runs give the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path

from agents.evaluation.played import read_episodes
from agents.report.markup import Markup, join, tag
from agents.stats import Sample
from agents.viewer.episodes import OUTCOMES, STATUSES, Columns, ProblemTable, episode_json
from agents.viewer.facts import comparison_facts, run_facts
from agents.viewer.packing import block, chunked
from agents.viewer.pieces import Vocabulary
from agents.viewer.runs import ViewedRun, read_curves
from retool_env.errors import UsageError
from retool_env.files import atomic

__all__ = ["SCRIPTS", "asset", "write_view"]

# Put behind each other in this order; each uses what stands before it, and app.js starts everything.
SCRIPTS = (
    *("dom", "store", "texsymbols", "tex", "texcommands", "python", "transcript", "tokens"),
    *("list", "split", "filters", "episodes", "problems", "chart", "run", "app"),
)


def write_view(path: Path, runs: Sequence[ViewedRun]) -> int:
    """Write the page; returns how many episodes are on it.

    Args:
        path: of the HTML file; replaced as a whole.
        runs: one, or two to compare.

    Raises:
        UsageError: a trajectory file is broken, or there are no episodes, or ``path`` cannot be written.
    """
    assert 1 <= len(runs) <= 2, len(runs)
    content = _Content(runs)
    content.columns.fill_advantages()
    if not content.columns.run:
        raise UsageError(f"{runs[0].file} holds no episodes yet; let the run finish some first")
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(_head(" and ".join(run.name for run in runs)))
        file.write(block("index", content.index()))
        file.write(tag("script", _script()))
        file.writelines(content.blocks())
        file.write("\n</body></html>\n")
    return len(content.columns.run)


def asset(name: str) -> str:
    """A script or style sheet of the page."""
    return resources.files("agents.viewer").joinpath("assets", name).read_text(encoding="utf-8")


class _Content:
    """The data of a page. Episodes are packed as they are read, so that no run has to be in memory with its tokens."""

    def __init__(self, runs: Sequence[ViewedRun]) -> None:
        self._runs = runs
        self._samples: list[list[Sample]] = [[] for _ in runs]
        self._vocabularies = [Vocabulary(run.tokenizer) if run.tokenizer else None for run in runs]
        self._problems = ProblemTable()
        self.columns = Columns()
        packed = [(num, block(f"chunk-{k}", data)) for k, (num, data) in enumerate(chunked(self._episodes()))]
        self._chunk_sizes = [num for num, _ in packed]
        self._chunks = [markup for _, markup in packed]

    def index(self) -> bytes:
        """What the list needs, as JSON."""
        problems = asdict(self._problems)
        del problems["index"]
        return _json(
            {
                "runs": [{"name": run.name, "config": run.config} for run in self._runs],
                "outcomes": OUTCOMES,
                "failed": [outcome.failed for outcome in OUTCOMES],
                "statuses": STATUSES,
                "problems": problems,
                "episodes": asdict(self.columns),
                "chunks": self._chunk_sizes,
            }
        )

    def blocks(self) -> Iterator[Markup]:
        """Everything that is read later."""
        yield from self._chunks
        for k, (run, vocabulary) in enumerate(zip(self._runs, self._vocabularies, strict=True)):
            yield block(f"vocabulary-{k}", _json(vocabulary.texts if vocabulary else None))
            yield block(f"curves-{k}", _json(read_curves(run.metrics) if run.metrics else {}))
        facts = [[asdict(fact) for fact in run_facts(samples)] for samples in self._samples]
        compared = [asdict(fact) for fact in comparison_facts(*self._samples)] if len(self._samples) == 2 else []
        yield block("facts", _json({"runs": facts, "compared": compared}))

    def _episodes(self) -> Iterator[bytes]:
        for k, run in enumerate(self._runs):
            for trajectory in read_episodes(run.path):
                self._samples[k].append(Sample.of(trajectory))
                self.columns.add(trajectory, run=k, problem=self._problems.place(trajectory.record.problem))
                yield episode_json(trajectory, self._vocabularies[k])


def _json(value: object) -> bytes:
    # Lone surrogates have no UTF-8; their backslash spelling is JSON's own.
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", errors="backslashreplace")


def _script() -> Markup:
    text = '"use strict";\n' + "\n".join(asset(f"{name}.js") for name in SCRIPTS)
    assert "</" not in text and "<!--" not in text, "this would end the script element"
    return Markup(text)


def _head(name: str) -> Markup:
    style = Markup(asset("viewer.css"))
    allowed = f"default-src 'none'; script-src {_hash(_script())}; style-src {_hash(style)}"
    policy = f"{allowed}; base-uri 'none'; form-action 'none'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{name}: ReTool view"),
        tag("style", style),
    )
    noscript = tag("noscript", tag("p", "This page unpacks its episodes with a script; allow scripts to read them."))
    opening = Markup('<!doctype html>\n<html lang="en">')
    return join([opening, head, Markup("<body>"), noscript, tag("div", id="app")])


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
