"""Transcripts: the same problems side by side across the stages, token by token.

What is shown is chosen by rule, not by hand: of each family the first problem that the first stage got wrong and the
last got right, and two easy ones that the last stage answers right without a call, preferably where the stage before
it did call. Every token is one element whose text is exactly its piece; the signs for line ends are drawn by the style
sheet. Transcripts are shown in full, however long they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agents.report.markup import Markup, join, tag
from agents.report.stages import StageData
from retool_env.problems import Problem
from retool_env.record import EpisodeRecord, RewardPart
from retool_env.trajectory import Trajectory
from retool_env.transcript import Role

__all__ = ["CLASSES", "LIKELY", "Case", "Pieces", "pick_cases", "show_case", "show_tokens"]

Pieces = Callable[[Sequence[int]], list[str]]
MODE = "sampled"
NUM_SPARED = 2
CLASSES: dict[Role, str] = {"prompt": "prompt", "assistant": "policy", "tool": "interpreter"}
LIKELY = (0.99, 0.9, 0.5, 0.1)  # a policy token's shade is how many of these its probability stays below


@dataclass(frozen=True, kw_only=True)
class Case:
    """One problem, why it is shown, and an episode for each stage (``None`` where there is none)."""

    problem: Problem
    reason: str
    episodes: tuple[Trajectory | None, ...]


def pick_cases(stages: Sequence[StageData], families: Sequence[str], easy: Sequence[str]) -> list[Case]:
    """The problems to show; the same ones for the same evaluations."""
    indexes = [_by_problem(data) for data in stages]
    known = [index for index in indexes if index]
    if not known:
        return []
    learnt = _learnt(known[0], known[-1])
    by_family = [[p for p in learnt if known[-1][p].record.problem.family == family] for family in families]
    chosen = {found[0]: "wrong at first, right in the end" for found in by_family if found}
    spared = [p for p in _spared(known[-2:], easy) if p not in chosen]
    chosen |= dict.fromkeys(spared[:NUM_SPARED], "easy: right without a call")
    return [
        Case(problem=known[-1][p].record.problem, reason=reason, episodes=tuple(index.get(p) for index in indexes))
        for p, reason in chosen.items()
    ]


def show_case(case: Case, stages: Sequence[StageData], pieces: Pieces) -> Markup:
    """The problem, and under it one column for each stage."""
    problem = case.problem
    family = [tag("span", problem.family, class_="badge")] if problem.family else []
    about = tag("p", *family, f" {case.reason}; the answer is ", tag("b", problem.answer), class_="about")
    pairs = zip(stages, case.episodes, strict=True)
    columns = [_column(data.stage.title, problem, episode, pieces) for data, episode in pairs]
    heading = tag("h3", problem.question)
    return tag("article", heading, about, tag("div", *columns, class_="columns"), class_="case")


def show_tokens(trajectory: Trajectory, pieces: Pieces) -> Markup:
    """The transcript, one span for each token."""
    transcript = trajectory.transcript
    ids: list[int] = transcript.token_ids.tolist()
    logprobs: list[float] = transcript.logprobs.tolist()
    texts = pieces(ids)
    assert len(texts) == len(ids), f"{len(texts)} pieces for {len(ids)} ids"
    tokens = [
        _token(CLASSES[span.role], ids[k], logprobs[k], texts[k])
        for span in transcript.spans
        for k in range(span.start, span.end)
    ]
    return join(tokens)


def _by_problem(data: StageData) -> dict[str, Trajectory]:
    """The first judged episode of each problem, in file order."""
    index: dict[str, Trajectory] = {}
    for trajectory in data.evals.get(MODE, ()):
        if trajectory.record.verdict is not None and not trajectory.record.outcome.failed:
            index.setdefault(trajectory.record.problem.id, trajectory)
    return index


def _learnt(first: dict[str, Trajectory], last: dict[str, Trajectory]) -> list[str]:
    return [p for p, t in last.items() if t.record.correct and p in first and not first[p].record.correct]


def _spared(last_two: Sequence[dict[str, Trajectory]], easy: Sequence[str]) -> list[str]:
    """Easy problems answered right without a call, those first for which the stage before did call."""
    before, last = last_two[0], last_two[-1]
    records = {p: t.record for p, t in last.items() if t.record.problem.family in easy}
    found = [p for p, record in records.items() if record.correct and not record.num_tool_calls]
    return sorted(found, key=lambda p: not (p in before and before[p].record.num_tool_calls))


def _column(title: str, problem: Problem, trajectory: Trajectory | None, pieces: Pieces) -> Markup:
    if trajectory is None:
        return tag("section", tag("h4", title), tag("p", "No judged episode of this problem.", class_="note"))
    label = f"{title}: {problem.question}"
    tokens = tag("div", show_tokens(trajectory, pieces), class_="tokens", role="region", aria_label=label, tabindex=0)
    return tag("section", tag("h4", title), _badges(trajectory.record), tokens)


def _badges(record: EpisodeRecord) -> Markup:
    """Verdict, outcome, calls and reward parts."""
    verdict = ("✓ right", "good") if record.correct else ("✗ wrong", "bad")
    calls = record.num_tool_calls
    texts = [
        verdict,
        *([(f"says {record.verdict.answer}", "")] if record.verdict and record.verdict.answered else []),
        (record.outcome.replace("_", " "), ""),
        (f"{calls} call{'' if calls == 1 else 's'}" if calls else "no call", ""),
        *((f"call: {call.status.replace('_', ' ')}", "bad") for call in record.calls if call.status != "ok"),
        *((_reward_text(part), "") for part in record.reward_parts),
    ]
    return tag("p", *(tag("span", text, class_=f"badge {kind}".rstrip()) for text, kind in texts), class_="badges")


def _reward_text(part: RewardPart) -> str:
    value = "unscored" if part.raw is None else f"{part.raw:g}"
    return f"reward {part.name} {value}" + ("" if part.weight == 1 else f" × {part.weight:g}")


def _token(role: str, token_id: int, logprob: float, piece: str) -> Markup:
    given = math.isfinite(logprob)
    shade = f" q{sum(math.exp(logprob) < p for p in LIKELY)}" if given else ""
    title = f"id {token_id}" + (
        f", log-probability {logprob:.4f}, probability {math.exp(logprob):.4f}" if given else ""
    )
    return tag("span", _with_signs(piece), class_=f"t {role}{shade}", title=title)


def _with_signs(piece: str) -> Markup:
    """The piece, with an empty element in front of each line end and tab, for the style sheet to draw a sign in."""
    first, *lines = piece.split("\n")
    parts: list[str] = [_with_tabs(first)]
    for line in lines:
        parts += [tag("i", class_="nl"), "\n", _with_tabs(line)]
    return join(parts)


def _with_tabs(text: str) -> Markup:
    first, *rest = text.split("\t")
    return join([first, *(part for text in rest for part in (tag("i", class_="tab"), "\t", text))])
