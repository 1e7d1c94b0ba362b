"""The report: its numbers, its gaps, its spans, and that nothing a model wrote can become part of the page."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from agents.report import Stage, write_report
from agents.report.axes import make_axis, show_value, step_axis
from agents.report.charts import LABEL_GAP, LineChart, Series, line_chart, spread
from agents.report.markup import Markup, escaped, tag
from agents.report.stages import StageData, load_stage, read_metrics
from agents.report.transcripts import pick_cases, show_tokens
from retool_env.errors import UsageError
from retool_env.outcome import Outcome, ToolStatus
from retool_env.problems import Problem
from retool_env.record import CallRecord, EpisodeRecord, RewardPart
from retool_env.trajectory import Trajectory, append_trajectories
from retool_env.transcript import Role, Span, Transcript
from retool_env.verifier.verdict import Verdict

EASY = ("add",)
VOID = ("meta", "input", "br")
Metric = Mapping[str, float | str | None]


def pieces(ids: Sequence[int]) -> list[str]:
    return [chr(i) for i in ids]


def make_transcript(parts: Sequence[tuple[Role, str]]) -> Transcript:
    """One token for each character; policy tokens have probability one half."""
    spans: list[Span] = []
    for role, text in parts:
        start = spans[-1].end if spans else 0
        spans.append(Span(role=role, turn=0, start=start, end=start + len(text)))
    mask = np.concatenate([np.full(len(text), role == "assistant") for role, text in parts])
    return Transcript(
        token_ids=np.array([ord(char) for _, text in parts for char in text], dtype=np.int64),
        action_mask=mask,
        logprobs=np.where(mask, np.log(0.5), np.nan).astype(np.float32),
        policy_version=np.where(mask, 0, -1),
        spans=tuple(spans),
    )


def episode(
    name: str,
    family: str,
    *,
    right: bool,
    called: bool = False,
    text: str = "Hm.\n",
    outcome: Outcome = Outcome.ANSWERED,
) -> Trajectory:
    call = CallRecord(turn=0, name="python", code="print(7)", status=ToolStatus.OK, text="7")
    tool: list[tuple[Role, str]] = [("tool", "\n7\t\n")] if called else []
    transcript = make_transcript([("prompt", f"{name}?\n"), ("assistant", text), *tool, ("assistant", "7.")])
    record = EpisodeRecord(
        problem=Problem(id=name, prompt=f"{name}?", answer="7", family=family),
        outcome=outcome,
        turns=(text,),
        calls=(call,) if called else (),
        verdict=None if outcome.failed else Verdict(correct=right, answered=True, answer="7"),
        num_action_tokens=transcript.num_action_tokens,
        reward_parts=(RewardPart(name="pm1", raw=2.0 * right - 1, weight=1.0),),
    )
    return Trajectory(ticket=0, group=0, sample=0, record=record, transcript=transcript)


def sft_episodes() -> list[Trajectory]:
    """Right: both easy ones and one of the two hard ones. Called: one easy, one hard."""
    return [
        episode("a1", "add", right=True, called=True),
        episode("a2", "add", right=True),
        episode("g1", "gcd", right=False),
        episode("g2", "gcd", right=True, called=True),
    ]


def last_episodes() -> list[Trajectory]:
    """All right; calls for the hard ones only."""
    easy = [episode(name, "add", right=True) for name in ("a2", "a1")]
    return easy + [episode(name, "gcd", right=True, called=True) for name in ("g1", "g2")]


def train_rows() -> list[Metric]:
    """``gcd`` does not occur in the batch of step 3."""
    rows: list[Metric] = []
    for step in range(1, 6):
        families = {"accuracy/add": 0.9, "tool_rate/add": 0.5, "accuracy/gcd": 0.4, "tool_rate/gcd": 0.7}
        kept = {key: value for key, value in families.items() if step != 3 or "gcd" not in key}
        single = {"reward/mean": 0.1 * step, "actor/entropy": 0.2, "logprob_gap/max": 1e-6}
        rows.append({"phase": "train", "step": step, **single, **kept})
    return rows


def write_metrics(path: Path, rows: Sequence[Metric], torn: str = "") -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + torn, encoding="utf-8")
    return path


def make_stage(folder: Path, name: str, episodes: Sequence[Trajectory], rows: Sequence[Metric] | None = None) -> Stage:
    file = folder / f"{name}.jsonl"
    append_trajectories(file, episodes)
    metrics = None if rows is None else write_metrics(folder / f"{name}_metrics.jsonl", rows)
    evals = {"sampled": file, "greedy": file}
    return Stage(name=name, title=f"Stage {name}", description=f"About {name}.", metrics=metrics, evals=evals)


def render(folder: Path, stages: Sequence[Stage], facts: Mapping[str, str] | None = None) -> str:
    path = folder / "out" / "report.html"
    write_report(
        path, title="A run", lead="One.\n\nTwo.", stages=stages, facts=facts or {}, pieces=pieces, easy_families=EASY
    )
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    return path.read_text(encoding="utf-8")


def standard(folder: Path) -> str:
    loss: list[Metric] = [{"phase": "train", "step": step, "loss": 3.0 / step, "tokens": 10} for step in range(1, 5)]
    held_out: list[Metric] = [
        {"phase": "eval", "step": step, "eval/accuracy": 0.5, "eval/accuracy/gcd": 0.5, "eval/tool_rate/gcd": 0.5}
        for step in (0, 5)
    ]
    stages = [
        make_stage(folder, "sft", sft_episodes(), loss),
        make_stage(folder, "strategic", last_episodes(), [*train_rows(), *held_out]),
    ]
    return render(folder, stages, {"Seed": "0", "command": "retool demo --seed 0"})


class Page(HTMLParser):
    """Elements with their attributes and their text; fails where tags are not balanced."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[int] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.texts.append("")
        if tag not in VOID:
            self._open.append(len(self.elements) - 1)

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self._open.pop()][0] == tag

    def handle_data(self, data: str) -> None:
        for index in self._open:
            self.texts[index] += data

    def all(self, name: str, class_: str = "") -> list[str]:
        """The texts of all elements with that name and class."""
        found = zip(self.elements, self.texts, strict=True)
        return [text for (tag, attrs), text in found if tag == name and class_ in ["", *self.classes(attrs)]]

    @staticmethod
    def classes(attrs: Mapping[str, str | None]) -> list[str]:
        return (attrs.get("class") or "").split()

    @property
    def notes(self) -> str:
        return " ".join(self.all("p", "note"))


def test_page_is_balanced_and_refers_to_nothing_outside(tmp_path: Path) -> None:
    text = standard(tmp_path)
    page = Page(text)
    for outside in ("http:", "https:", "src=", "href=", "@import", "url(", "<script", "<link"):
        assert outside not in text
    assert page.all("h1") == ["A run"]
    assert page.all("p", "lead") == ["One.", "Two."]
    headings = ["Results", "Learning curves", "Strategic tool use", "Transcripts", "Reproduce"]
    assert page.all("h2") == headings
    assert page.all("dt") == ["Seed"]
    assert page.all("code") == ["retool demo --seed 0"]
    assert page.notes == ""


def test_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert standard(tmp_path / "a") == standard(tmp_path / "b")


def test_every_drawing_is_named_and_every_header_has_a_scope(tmp_path: Path) -> None:
    page = Page(standard(tmp_path))
    drawings = [attrs for tag, attrs in page.elements if tag == "svg"]
    assert drawings
    assert all("aria-label" in attrs or "aria-hidden" in attrs for attrs in drawings)
    assert all("scope" in attrs for tag, attrs in page.elements if tag == "th")


def test_tables_show_the_numbers_computed_by_hand(tmp_path: Path) -> None:
    """Wilson: 3 of 4 is 30.1 to 95.4, 1 of 2 is 9.5 to 90.5, 2 of 2 is 34.2 to 100, 0 of 2 is 0 to 65.8."""
    cells = Page(standard(tmp_path)).all("td")
    half, three, all_two, none = "50.0 %9.5 – 90.5", "75.0 %30.1 – 95.4", "100.0 %34.2 – 100.0", "0.0 %0.0 – 65.8"
    assert cells[:6] == [three, three, half, half, half, half]
    assert cells[6:12] == ["100.0 %51.0 – 100.0"] * 2 + [none, none, all_two, all_two]
    add_sft, add_last, gcd_sft, gcd_last = (cells[k : k + 4] for k in range(12, 28, 4))
    assert add_sft == [all_two, all_two, half, half]
    assert add_last == [all_two, all_two, none, none]
    assert gcd_sft == [half] * 4
    assert gcd_last == [all_two] * 4
    assert len(cells) == 28


def test_bars_carry_the_same_rates(tmp_path: Path) -> None:
    titles = Page(standard(tmp_path)).all("title")
    assert "sft, easy: 50.0 % (9.5 to 90.5), 2 episodes" in titles
    assert "strategic, hard: 100.0 % (34.2 to 100.0), 2 episodes" in titles


def test_missing_value_is_a_gap_and_not_a_zero() -> None:
    points = ((1, 0.5), (2, 0.6), (3, None), (4, 0.7), (5, 0.8), (6, None), (7, 0.9))
    text = line_chart(LineChart(title="t", caption="", series=(Series(label="gcd", points=points),)))
    page = Page(text)
    assert len(page.all("polyline")) == 2
    assert len(page.all("circle", "dot")) == 1
    assert page.all("title")[2] == "step 3"
    assert page.all("title")[3] == "step 4\ngcd: 0.7"


def test_family_that_misses_a_batch_has_two_thin_lines_on_the_page(tmp_path: Path) -> None:
    text = standard(tmp_path)
    gcd = text.split("Accuracy by family", 1)[1].split('class="line thin c1"')[1].split("</g>")[0]
    assert gcd.count("<polyline") == 2


def test_tokens_are_spans_by_who_wrote_them_and_give_back_the_pieces() -> None:
    trajectory = episode("g1", "gcd", right=True, called=True, text="a\n\tb")
    page = Page(show_tokens(trajectory, pieces))
    assert page.all("span", "prompt") == list("g1?\n")
    assert page.all("span", "policy") == list("a\n\tb7.")
    assert page.all("span", "interpreter") == list("\n7\t\n")
    assert "".join(page.all("span", "t")) == "".join(pieces(trajectory.transcript.token_ids.tolist()))
    titles = [attrs["title"] for tag, attrs in page.elements if tag == "span"]
    assert titles[0] == f"id {ord('g')}"
    assert titles[4] == f"id {ord('a')}, log-probability -0.6931, probability 0.5000"


def test_text_of_a_model_stays_text(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=1>\u202e\x00"
    before = episode(evil, "gcd", right=False, text=evil)
    after = episode(evil, evil, right=True, text='"><b>' + evil)
    text = render(tmp_path, [make_stage(tmp_path, "sft", [before]), make_stage(tmp_path, evil[:4], [after])])
    page = Page(text)
    assert not {"script", "img"} & {tag for tag, _ in page.elements}
    assert all(attrs.keys().isdisjoint({"onerror", "src"}) for _, attrs in page.elements)
    assert "\u202e" not in text
    assert "\x00" not in text
    assert evil[:25] in "".join(page.all("span", "policy"))


def test_markup_escapes_whatever_is_not_markup() -> None:
    inner = tag("b", "<i>")
    assert inner == "<b>&lt;i&gt;</b>"
    assert tag("p", inner) == "<p><b>&lt;i&gt;</b></p>"
    assert not isinstance(inner + "<u>", Markup)
    assert escaped(f"{inner}").startswith("&lt;b&gt;")
    assert tag("p", title='"', class_=None, x=1.25, tabindex=0) == '<p title="&quot;" x="1.2" tabindex="0"></p>'


def test_torn_last_line_is_ignored_and_other_unreadable_lines_are_counted(tmp_path: Path) -> None:
    rows: list[Metric] = [{"phase": "train", "step": 1, "loss": 2.0}, {"phase": "train", "step": 1, "loss": 1.0}]
    metrics = read_metrics(write_metrics(tmp_path / "m.jsonl", rows, torn='{"phase": "train", "st'))
    assert metrics.series("train", "loss") == ((1, 1.0),)
    assert metrics.num_unreadable == 0
    other = '{"phase": "eval_greedy", "step": 1}'
    text = f'nonsense\n{other}\n{{"phase": "train"}}\n{{"step": 2, "loss": NaN, "ok": true, "tokens": 3}}'
    (tmp_path / "m.jsonl").write_text(text, encoding="utf-8")
    metrics = read_metrics(tmp_path / "m.jsonl")
    assert metrics.num_unreadable == 2
    assert metrics.rows[0].values == {"tokens": 3.0}
    assert metrics.series("train", "loss") == ()


def test_missing_things_are_notes(tmp_path: Path) -> None:
    lost = Stage(name="sft", title="Lost", description="", metrics=tmp_path / "no.jsonl", evals={})
    empty = make_stage(tmp_path, "grpo", [], [{"phase": "train", "step": 1, "other": 1.0}])
    (tmp_path / "grpo_metrics.jsonl").open("a").write("broken\n")
    failed = make_stage(
        tmp_path, "last", [episode("g", "gcd", right=False, outcome=Outcome.SANDBOX_OUTAGE)], train_rows()
    )
    notes = Page(render(tmp_path, [lost, empty, failed])).notes
    for expected in (
        "Lost, sampled: not evaluated.",
        "Stage grpo, greedy: the evaluation has no episodes.",
        "Stage last, sampled: 1 episodes ended by infrastructure are left out.",
        "No metrics file was found (no.jsonl)",
        "Unreadable lines of the metrics file, left out: 1.",
        "neither a reward nor a loss",
        "No problem tells the stages apart.",
    ):
        assert expected in notes


def test_chart_of_what_was_not_recorded_says_so(tmp_path: Path) -> None:
    rows: list[Metric] = [{"phase": "train", "step": 1, "reward/mean": 1.0, "actor/entropy": None}]
    notes = Page(render(tmp_path, [make_stage(tmp_path, "grpo", [], rows)])).notes
    assert notes.count("Nothing was recorded.") == 4
    assert "There are no stages." in Page(render(tmp_path, [])).notes


def test_evaluations_of_different_problems_are_pointed_out(tmp_path: Path) -> None:
    stages = [make_stage(tmp_path, "a", sft_episodes()), make_stage(tmp_path, "b", sft_episodes()[1:])]
    assert "not of the same problems" in Page(render(tmp_path, stages)).notes


def test_missing_evaluation_file_is_a_usage_error(tmp_path: Path) -> None:
    stage = Stage(name="a", title="A", description="", metrics=None, evals={"sampled": tmp_path / "no.jsonl"})
    with pytest.raises(UsageError, match="no such trajectory file"):
        render(tmp_path, [stage])
    assert not (tmp_path / "out").exists()


def test_old_report_survives_a_failure(tmp_path: Path) -> None:
    text = standard(tmp_path)
    broken: Callable[[Sequence[int]], list[str]] = lambda ids: []  # noqa: E731
    stage = make_stage(tmp_path, "x", last_episodes())
    path = tmp_path / "out" / "report.html"
    with pytest.raises(AssertionError, match="pieces"):
        write_report(path, title="", lead="", stages=[stage], facts={}, pieces=broken, easy_families=EASY)
    assert path.read_text(encoding="utf-8") == text


def test_cases_are_chosen_by_rule(tmp_path: Path) -> None:
    stages: list[StageData] = [
        load_stage(make_stage(tmp_path, "sft", sft_episodes())),
        load_stage(Stage(name="none", title="None", description="", metrics=None, evals={})),
        load_stage(make_stage(tmp_path, "last", last_episodes())),
    ]
    cases = pick_cases(stages, ["add", "gcd"], EASY)
    assert [case.problem.id for case in cases] == ["g1", "a1", "a2"]  # a1 before a2: the stage before called
    assert [episode is None for episode in cases[0].episodes] == [False, True, False]


def test_axes_end_at_round_numbers() -> None:
    loss = make_axis("linear", [0.31, 5.9], start=100, end=0)
    assert [text for _, text in loss.ticks] == ["0", "2", "4", "6"]
    assert (loss(0), loss(6)) == (100, 0)
    assert next(text for _, text in make_axis("linear", [-1.0, 0.96], start=0, end=1).ticks) == "−1.0"
    assert make_axis("linear", [2.0], start=0, end=1)(2.0) == 0.5
    assert [text for _, text in step_axis([0, 60], start=0, end=1).ticks] == ["0", "20", "40", "60"]
    assert step_axis([7], start=0, end=2)(7) == 1


def test_logarithmic_axis_has_a_place_for_zero_and_for_the_bound() -> None:
    axis = make_axis("log", [0.0, 3e-6], start=100, end=0, bound=1e-4)
    assert [text for _, text in axis.ticks] == ["0", "10⁻⁶", "10⁻⁵", "10⁻⁴"]
    assert axis(0.0) == 100
    assert axis(1e-4) == 0
    assert make_axis("log", [0.0], start=100, end=0, bound=1e-4)(0.0) == 100
    assert show_value(3.1e-6, "log") == "3.1 · 10⁻⁶"
    assert show_value(0.5, "percent") == "50.0 %"


def test_long_label_leaves_room_for_the_lines() -> None:
    series = Series(label="family" * 40, points=((0, 0.5), (9, 0.5)), slot=0)
    text = line_chart(LineChart(title="t", caption="", series=(series,), scale="percent"))
    assert Page(text).all("text", "label") == ["familyfamilyfamil…"]
    assert 'points="44.0,113.0 298.8,113.0"' in text


def test_labels_are_moved_apart_as_little_as_possible() -> None:
    gap = LABEL_GAP
    assert spread([50.0, 50.0, 150.0], low=0, high=200) == [50 - gap / 2, 50 + gap / 2, 150.0]
    assert spread([1.0, 1.0], low=0, high=200) == [0.0, gap]
    assert spread([200.0, 200.0], low=0, high=200) == [200 - gap, 200.0]
