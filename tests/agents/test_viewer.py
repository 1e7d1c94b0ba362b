"""The page of a run, read back without a browser: nothing is lost, nothing a model wrote is markup, all is on board."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.viewer.command import main
from agents.viewer.episodes import OUTCOMES, STATUSES
from agents.viewer.packing import chunked
from agents.viewer.page import SCRIPTS, asset, write_view
from agents.viewer.pieces import Vocabulary
from agents.viewer.runs import ViewedRun, open_run, read_curves
from retool_env.cli import main as retool
from retool_env.errors import UsageError
from retool_env.outcome import Outcome, ToolStatus
from retool_env.record import CallRecord
from retool_env.tokenizer import ByteTokenizer, FileTokenizer
from retool_env.trajectory import Trajectory, append_trajectories, read_trajectories
from tests.agents.episodes import make_episode

EVIL = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'><!-- \u202e ]]> \x00"


class Page(HTMLParser):
    """Elements of a page, and the text of each script and style element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.texts.append("")

    def handle_data(self, data: str) -> None:
        if self.texts:
            self.texts[-1] += data

    def find(self, tag: str, **attributes: str) -> list[str]:
        return [
            text
            for (name, given_), text in zip(self.elements, self.texts, strict=True)
            if name == tag and attributes.items() <= given_.items()
        ]

    def block(self, name: str) -> Any:
        (text,) = self.find("script", id=name)
        return json.loads(zlib.decompress(base64.b64decode(text)))

    @property
    def rows(self) -> list[Any]:
        return [row for k in range(len(self.block("index")["chunks"])) for row in self.block(f"chunk-{k}")]


def a_call(status: ToolStatus = ToolStatus.OK) -> CallRecord:
    return CallRecord(turn=0, name="python", code="print(7)", status=status, text="7", wall_seconds=0.25, span=(4, 12))


def write_run(folder: Path, episodes: list[Trajectory]) -> ViewedRun:
    append_trajectories(folder / "trajectories.jsonl", episodes)
    return open_run(folder, "bytes")


def two_problems() -> list[Trajectory]:
    return [
        make_episode("a", right=True, ticket=0, sample=0, turns=("Run print(7) now", "It is 7."), calls=(a_call(),)),
        make_episode("a", right=False, ticket=1, sample=1),
        make_episode("b", right=False, ticket=2, group=1, outcome=Outcome.ENGINE_OUTAGE),
        make_episode("b", right=True, ticket=3, group=1, sample=1, calls=(a_call(ToolStatus.TIMEOUT),), version=3),
    ]


@pytest.fixture
def page(tmp_path: Path) -> Page:
    assert write_view(tmp_path / "view.html", [write_run(tmp_path / "run", two_problems())]) == 4
    return Page((tmp_path / "view.html").read_text())


def test_columns_are_what_the_list_needs(page: Page) -> None:
    index = page.block("index")
    episodes = index["episodes"]
    assert index["problems"]["id"] == ["a", "b"]
    assert episodes["problem"] == [0, 0, 1, 1]
    assert episodes["verdict"] == [1, 0, -1, 1]
    assert episodes["reward"] == [1.0, -1.0, None, 1.0]
    assert episodes["advantage"] == [1.0, -1.0, None, 0.0]
    assert [index["outcomes"][k] for k in episodes["outcome"]] == ["answered", "answered", "engine_outage", "answered"]
    assert [index["failed"][k] for k in episodes["outcome"]] == [False, False, True, False]
    assert episodes["statuses"] == [1, 0, 0, 1 << STATUSES.index(ToolStatus.TIMEOUT)]
    assert episodes["version"] == [0, 0, 0, 3]
    assert (index["outcomes"], index["statuses"]) == ([*OUTCOMES], [*STATUSES])


def test_what_failed_in_an_evaluation_is_there_and_counted(tmp_path: Path) -> None:
    """Its last failure, where no later try of it counts; a problem of which all failed is a problem all the same."""

    def failed(problem: str, ticket: int) -> Trajectory:
        return make_episode(problem, right=False, ticket=ticket, outcome=Outcome.ENGINE_OUTAGE)

    append_trajectories(tmp_path / "run" / "failures.jsonl", [failed("b", 1), failed("c", 2), failed("c", 2)])
    again = [make_episode("a", right=True, ticket=0), make_episode("b", right=True, ticket=1)]
    assert write_view(tmp_path / "view.html", [write_run(tmp_path / "run", again)]) == 3
    page = Page((tmp_path / "view.html").read_text())
    index = page.block("index")
    assert index["problems"]["id"] == ["a", "b", "c"]
    assert index["episodes"]["verdict"] == [1, 1, -1]
    facts = {fact["name"]: fact for fact in page.block("facts")["runs"][0]}
    assert facts["infrastructure failures"]["value"] == "1"
    assert facts["problems"]["about"].endswith("1 problems without one")
    one = open_run(tmp_path / "run" / "trajectories.jsonl", "bytes")
    assert write_view(tmp_path / "view.html", [one]) == 2  # a file is what is in it


def test_episodes_are_whole(page: Page) -> None:
    rows, first = page.rows, two_problems()[0]
    assert len(rows) == 4
    assert rows[0]["turns"] == ["Run print(7) now", "It is 7."]
    assert rows[0]["calls"][0]["span"] == [4, 12]
    assert rows[0]["calls"][0]["status"] == "ok"
    tokens = rows[0]["tokens"]
    assert tokens["ids"] == first.transcript.token_ids.tolist()
    assert [value for value, times in tokens["mask"] for _ in range(times)] == first.transcript.action_mask.tolist()
    given_logprobs = [None if math.isnan(x) else round(x, 4) for x in first.transcript.logprobs.tolist()]
    assert tokens["logprobs"] == pytest.approx(given_logprobs, abs=1e-4)
    vocabulary = page.block("vocabulary-0")
    texts = [tokens["texts"].get(str(k), vocabulary[str(i)]) for k, i in enumerate(tokens["ids"])]
    assert "".join(texts) == "What is 3 + 4?Run print(7) now7It is 7."


@given(st.lists(st.sampled_from("aé∑🙂\n<\u202e"), max_size=30).map("".join), st.binary(max_size=6))
def test_texts_of_tokens_make_the_transcript(text: str, broken: bytes) -> None:
    ids = [*text.encode(), *broken]
    vocabulary = Vocabulary(ByteTokenizer())
    joined = vocabulary.joined(ids)
    texts = [joined.get(k, vocabulary.texts[token]) for k, token in enumerate(ids)]
    assert "".join(texts).startswith(text)  # whatever broken bytes follow
    assert broken or "".join(texts) == text


def test_texts_of_tokens_of_a_file_tokenizer(tiny_folder: Path) -> None:
    tokenizer = FileTokenizer(tiny_folder)
    ids = tokenizer.encode("Let me run code. <code>\nprint('∑é🙂')\n</code>")
    vocabulary = Vocabulary(tokenizer)
    joined = vocabulary.joined([*ids, tokenizer.vocab_size + 5])
    texts = [joined.get(k, vocabulary.texts[token]) for k, token in enumerate([*ids, tokenizer.vocab_size + 5])]
    assert "".join(texts) == tokenizer.decode(ids) + f"⟨{tokenizer.vocab_size + 5}⟩"


def evil_run(folder: Path) -> ViewedRun:
    call = CallRecord(turn=0, name=EVIL, code=EVIL, status=ToolStatus.ERROR, text=EVIL, arguments={EVIL: EVIL})
    return write_run(folder, [make_episode(EVIL, right=False, gold=EVIL, prompt=EVIL, turns=(EVIL,), calls=(call,))])


def test_what_a_model_wrote_is_never_markup(tmp_path: Path) -> None:
    write_view(tmp_path / "plain.html", [write_run(tmp_path / "plain", two_problems()[:1])])
    write_view(tmp_path / "evil.html", [evil_run(tmp_path / EVIL.split("/")[0])])
    text = (tmp_path / "evil.html").read_text()
    shapes = [
        [(name, sorted(given_)) for name, given_ in Page(page).elements]
        for page in ((tmp_path / "plain.html").read_text(), text)
    ]
    assert shapes[0] == shapes[1]
    assert "hacked" not in text
    assert Page(text).rows[0]["turns"] == [EVIL]


def test_only_our_own_script_and_style_are_allowed(page: Page) -> None:
    (policy,) = [attributes["content"] for name, attributes in page.elements if "http-equiv" in attributes]
    assert policy is not None
    scripts = [t for (n, a), t in zip(page.elements, page.texts, strict=True) if n == "script" and "type" not in a]
    for kind, texts in (("script", scripts), ("style", page.find("style"))):
        (text,) = texts
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy


def test_the_assets_never_parse_html_and_load_nothing() -> None:
    sources = {name: asset(f"{name}.js") for name in SCRIPTS} | {"style": asset("viewer.css")}
    for name, source in sources.items():
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacent|document\.write|DOMParser|\beval\(|Function\(", source
        ), name
        assert not re.search(r"fetch\(|XMLHttp|WebSocket|@import|url\(", source), name
        addresses = re.findall(r"https?://\S+?(?=\")", source)
        assert set(addresses) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1998/Math/MathML"}, name


def test_the_same_run_gives_the_same_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", two_problems())
    for name in ("one", "two"):
        write_view(tmp_path / name, [run])
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_two_runs_share_their_problems(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, two_problems()) for name in "ab"]
    assert write_view(tmp_path / "view.html", runs) == 8
    page = Page((tmp_path / "view.html").read_text())
    assert page.block("index")["episodes"]["run"] == [0] * 4 + [1] * 4
    assert page.block("index")["problems"]["id"] == ["a", "b"]
    facts = page.block("facts")
    assert facts["compared"][0]["name"] == "difference, B minus A"
    assert {"problems", "mean@2", "pass@2", "infrastructure failures"} <= {fact["name"] for fact in facts["runs"][1]}


def test_runs_over_other_problems_are_shown_and_not_compared(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, [make_episode(name, right=True)]) for name in "ab"]
    write_view(tmp_path / "view.html", runs)
    (fact,) = Page((tmp_path / "view.html").read_text()).block("facts")["compared"]
    assert fact["name"] == "no paired comparison" and "not over the same problems" in fact["about"]


@given(st.lists(st.integers(0, 60), max_size=30), st.integers(1, 100))
def test_chunks_hold_every_row_once_and_in_order(sizes: list[int], limit: int) -> None:
    rows = [json.dumps("x" * size).encode() for size in sizes]
    chunks = [(num, json.loads(data)) for num, data in chunked(rows, limit=limit)]
    assert [row for _, found in chunks for row in found] == ["x" * size for size in sizes]
    assert all(num == len(found) for num, found in chunks)


def test_curves_survive_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"phase": "train", "step": 1, "loss": 2.0, "name": "x", "flag": true}\n{"step": 0, "loss": 1}\nnonsense\n[3]\n'
        '{"step": 1, "loss": 3.0, "nothing": null}\n{"step": 2, "lo'
    )
    assert read_curves(path) == {"loss": ((0, 1.0), (1, 3.0))}


def test_the_parts_of_a_run_are_found(tmp_path: Path, tiny_folder: Path) -> None:
    append_trajectories(tmp_path / "run" / "eval" / "greedy.jsonl", two_problems())
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 0, "loss": 1}\n')
    (tmp_path / "run" / "config.yaml").write_text(f"model: {{path: {tiny_folder}}}\nenv: {{tokenizer: bytes}}\n")
    run = open_run(tmp_path / "run" / "eval" / "greedy.jsonl")
    assert run.metrics == tmp_path / "run" / "metrics.jsonl"
    assert isinstance(run.tokenizer, FileTokenizer)
    (tmp_path / "run" / "config.yaml").write_text("env: {tokenizer: bytes}\n")
    assert isinstance(open_run(run.file).tokenizer, ByteTokenizer)


def test_without_a_tokenizer_tokens_are_ids(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    append_trajectories(tmp_path / "trajectories.jsonl", two_problems())
    (tmp_path / "config.yaml").write_text("model: {path: nowhere}\n")
    assert main([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "4 episodes" in printed
    assert "tokens are shown by their ids (tokenizer='nowhere'" in printed
    page = Page((tmp_path / "view.html").read_text())
    assert page.block("vocabulary-0") is None and page.rows[0]["tokens"]["texts"] == {}


def test_mistakes_are_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "broken.jsonl").write_text("{}\n")
    append_trajectories(tmp_path / "fine.jsonl", two_problems())
    (tmp_path / "file").touch()
    cases = {
        "no such trajectory file": [str(tmp_path / "none")],
        "holds no episodes yet": [str(tmp_path / "empty.jsonl")],
        "not a trajectory": [str(tmp_path / "broken.jsonl")],
        "cannot be written": [str(tmp_path / "fine.jsonl"), "--out", str(tmp_path / "file" / "view.html")],
        "no tokenizer.json there": [str(tmp_path / "fine.jsonl"), "--tokenizer", str(tmp_path)],
        "see `retool view --help`": [str(tmp_path / "fine.jsonl"), "--nonsense"],
    }
    for message, arguments in cases.items():
        assert retool(["view", *arguments]) == 2
        told = capsys.readouterr().err
        assert message in told and told.count("\n") == 1, told


def test_lone_surrogates_are_no_crash(tmp_path: Path) -> None:
    episode = make_episode("a", right=True, prompt="half")
    path = tmp_path / "trajectories.jsonl"
    append_trajectories(path, [episode])
    path.write_text(path.read_text().replace("It is 7.", "It is \\ud800."))
    assert next(read_trajectories(path)).record.turns == ("It is \ud800.",)
    write_view(tmp_path / "view.html", [open_run(path, "bytes")])
    assert Page((tmp_path / "view.html").read_text()).rows[0]["turns"] == ["It is \ud800."]


def test_a_run_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give a run folder or a file of trajectories"):
        open_run(tmp_path)
