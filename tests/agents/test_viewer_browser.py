"""The page in a real browser: what it shows, that it opens at once, that it obeys keys, and that nothing evil runs."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agents.viewer.page import write_view
from agents.viewer.runs import ViewedRun, open_run
from retool_env.outcome import Outcome, ToolStatus
from retool_env.record import CallRecord
from retool_env.trajectory import Trajectory, append_trajectories
from tests.agents.chromium import Chromium, find_chromium
from tests.agents.episodes import make_episode
from tests.agents.test_viewer import EVIL, evil_run
from tests.conftest import DATA

pytestmark = pytest.mark.slow

SOLUTION = (
    "Since $b+7 \\mid 56$ we get\n\\[ \\frac{9b+7}{b+7} = 9 - \\frac{56}{b+7}. \\]\nThe sum is \\boxed{70}; "
    "it costs $5 and $6, and $\\unknowncommand{x}$ stays.\n"
)
CODE = "# all bases\nbases = [b for b in range(10, 1_000) if (9 * b + 7) % (b + 7) == 0]\nprint(f'{sum(bases)}')\n"
TURN = f"{SOLUTION}<code>\n```python\n{CODE}```\n</code>"
SHOWN = "document.querySelector('.block') !== null"


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    program = find_chromium()
    if program is None:
        pytest.skip("Chromium is not installed")
    chromium = Chromium(program)
    yield chromium
    chromium.close()


def episodes(*, better: bool = False) -> list[Trajectory]:
    """Five problems with four samples each; the policy version rises by one with each."""
    call = CallRecord(
        turn=0, name="code_interpreter", code=CODE, status=ToolStatus.OK, text="70", wall_seconds=0.01,
        span=(len(SOLUTION), len(TURN)),
    )  # fmt: skip
    broken = CallRecord(turn=0, name="", code="", status=ToolStatus.MALFORMED, text="Error: no code", span=(0, 4))
    return [
        make_episode(
            f"p{problem}",
            right=better or sample < problem,
            ticket=4 * problem + sample,
            group=problem,
            sample=sample,
            prompt=f"Find the sum of all $b > {problem}$.",
            turns=(TURN, "<answer>\\boxed{70}</answer>") if sample else ("I give up.",),
            calls=(call,) if sample == 1 else (broken,) if sample == 2 else (),
            outcome=Outcome.MAX_TURNS if (problem, sample) == (0, 3) else Outcome.ANSWERED,
            version=problem,
        )
        for problem in range(5)
        for sample in range(4)
    ]


def write_run(folder: Path, trajectories: list[Trajectory]) -> ViewedRun:
    append_trajectories(folder / "trajectories.jsonl", trajectories)
    rows = [{"phase": "train", "step": k, "reward/mean": k / 10, "entropy": 1 / (k + 1)} for k in range(10)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return open_run(folder, "bytes")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page with one run and a page with two."""
    folder = tmp_path_factory.mktemp("view")
    one, two = write_run(folder / "one", episodes()), write_run(folder / "two", episodes(better=True))
    write_view(folder / "one.html", [one])
    write_view(folder / "two.html", [one, two])
    return {"one": folder / "one.html", "two": folder / "two.html"}


def text(browser: Chromium, selector: str) -> str:
    return str(browser.run(f"document.querySelector({json.dumps(selector)}).innerText"))


def texts(browser: Chromium, selector: str) -> list[str]:
    return list(browser.run(f"[...document.querySelectorAll({json.dumps(selector)})].map((e) => e.textContent)"))


def open_episode(browser: Chromium, page: Path, steps: int = 1, **settings: Any) -> None:
    browser.open(page, **settings)
    for _ in range(steps):
        browser.press("j")
    browser.wait(f"document.querySelectorAll('.row')[{steps - 1}].ariaSelected === 'true' && {SHOWN}")


def clean(browser: Chromium, page: Path) -> None:
    assert browser.complaints == []
    assert browser.requests == [page.resolve().as_uri()]


def test_a_transcript_has_formulas_code_and_output(browser: Chromium, pages: dict[str, Path]) -> None:
    open_episode(browser, pages["one"], 2)
    browser.wait("document.querySelector('.output') !== null")
    assert browser.run("document.querySelectorAll('.model math').length") == 4
    assert browser.run("document.querySelectorAll('.model math mfrac').length") == 2
    assert texts(browser, ".model .tex") == ["$\\unknowncommand{x}$"]
    assert "it costs $5 and $6" in text(browser, ".model .prose")
    assert texts(browser, ".call code") == [CODE.rstrip("\n") + "\n"]
    assert texts(browser, ".call .comment") == ["# all bases"]
    assert texts(browser, ".output") == ["70"]
    assert "ok" in texts(browser, ".call .badge")
    clean(browser, pages["one"])


def test_a_malformed_call_is_shown_as_it_was_written(browser: Chromium, pages: dict[str, Path]) -> None:
    open_episode(browser, pages["one"], 3)
    browser.wait("document.querySelector('.call .badge.bad') !== null")
    assert texts(browser, ".call .badge.bad") == ["malformed"]
    assert texts(browser, ".call code") == ["Sinc"]


def test_tokens_are_the_transcript_in_every_colour(browser: Chromium, pages: dict[str, Path]) -> None:
    episode = episodes()[1]
    open_episode(browser, pages["one"], 2)
    browser.press("t")
    browser.wait("document.querySelector('.tokens') !== null")
    assert "".join(texts(browser, ".tokens .t")) == bytes(episode.transcript.token_ids.tolist()).decode()
    assert len(texts(browser, ".tokens .acted")) == episode.transcript.num_action_tokens
    seen = []
    for _ in range(4):
        layer = browser.run("document.querySelector('.tokens').dataset.layer")
        tints = (
            "new Set([...document.querySelectorAll('.tokens .acted')].map((e) => getComputedStyle(e).backgroundColor))"
        )
        seen.append((layer, browser.run(f"{tints}.size"), browser.run("document.querySelector('.legend').innerText")))
        browser.press("c")
    assert [layer for layer, _, _ in seen] == ["role", "logprob", "advantage", "version"]
    colours = {layer: num for layer, num, _ in seen}
    assert (colours["role"], colours["logprob"], colours["advantage"], colours["version"]) == (2, 5, 1, 1)
    legends = {layer: legend for layer, _, legend in seen}
    assert "reward minus the mean of its group: 0" in legends["advantage"] and "version 0" in legends["version"]


def test_a_token_says_what_it_is(browser: Chromium, pages: dict[str, Path]) -> None:
    episode = episodes()[1]
    open_episode(browser, pages["one"], 2)
    browser.press("t")
    first = episode.transcript.prompt_length
    browser.run("document.querySelector('.tokens').focus()")
    for _ in range(first + 1):
        browser.press("ArrowRight")
    logprob = f"{episode.transcript.logprobs[first]:.4f}"
    told = text(browser, ".readout")
    assert told.startswith(f'token {first} · id {ord("S")} · "S" · policy, turn 1 · sampled · log-prob ')
    assert float(told.split("log-prob ")[1].split(" ")[0]) == pytest.approx(float(logprob), abs=1.1e-4)


def test_the_list_is_filtered_and_sorted(browser: Chromium, pages: dict[str, Path]) -> None:
    browser.open(pages["one"])
    view = "view.views.episodes"
    listed = f"{view}.list.items"

    def choose(label: str, value: str) -> list[int]:
        script = (
            "(() => { const named = (e) => e.firstChild.textContent === '%s'; "
            "const field = [...document.querySelectorAll('.picker')].find(named).querySelector('select, input'); "
            "field.value = '%s'; field.dispatchEvent(new Event(field.tagName === 'INPUT' ? 'input' : 'change')); "
            "return %s; })()"
        )
        return list(browser.run(script % (label, value, listed)))

    assert choose("outcome", "max_turns") == [3]
    assert choose("outcome", "") == list(range(20))
    assert choose("tool status", "malformed") == [2, 6, 10, 14, 18]
    assert choose("tool status", "no call") == [k for k in range(20) if k % 4 in (0, 3)]
    assert choose("tool status", "") == list(range(20))
    right = [4 * problem + sample for problem in range(5) for sample in range(4) if sample < problem]
    assert choose("verdict", "right") == right == choose("reward from", "0.5")
    choose("verdict", "")
    choose("reward from", "")
    wrong = [k for k in range(20) if k not in right]
    assert choose("sort by", "reward") == [*wrong, *right]
    browser.run("document.querySelector('.ordering button').click()")
    assert browser.run(listed) == [*right, *wrong]
    browser.press("/")
    for key in "p3":
        browser.press(key)
    assert sorted(browser.run(listed)) == [12, 13, 14, 15]
    assert text(browser, ".count") == "4 of 20 episodes"


def test_everything_can_be_done_with_keys(browser: Chromium, pages: dict[str, Path]) -> None:
    open_episode(browser, pages["one"], 2)
    assert browser.run("location.hash") == "#episode=1"
    browser.press("k")
    assert browser.run("location.hash") == "#episode=0"
    browser.press("Enter")
    assert browser.run("document.activeElement.className") == "detail"
    browser.press("Escape")
    assert browser.run("document.activeElement.className") == "list"
    browser.press("End")
    assert browser.run("location.hash") == "#episode=19"
    browser.press("g")
    browser.wait("document.querySelector('.sample .block') !== null")
    assert browser.run("location.hash") == "#problem=4"
    browser.run("history.back()")
    browser.wait("location.hash === '#episode=19' && document.querySelector('.choices') !== null")
    browser.press("3")
    browser.wait("document.querySelector('table') !== null")
    browser.press("?")
    assert browser.run("document.querySelector('dialog').open")
    browser.press("Escape")
    assert not browser.run("document.querySelector('dialog').open")


def test_all_samples_of_a_problem_stand_side_by_side(browser: Chromium, pages: dict[str, Path]) -> None:
    browser.open(pages["one"])
    browser.press("2")
    browser.press("j")
    browser.wait("document.querySelector('.sample .block') !== null")
    boxes = browser.run("[...document.querySelectorAll('.sample')].map((e) => [e.offsetTop, e.offsetLeft])")
    assert len(boxes) == 4
    assert len({top for top, _ in boxes}) == 1 and sorted(boxes) == boxes
    browser.run(
        "document.querySelector('.samples').scrollTo(9999, 0)"
    )  # those out of sight are filled when they come up
    browser.wait("[...document.querySelectorAll('.sample')].every((e) => e.querySelector('.block'))")


def test_the_run_has_numbers_and_curves(browser: Chromium, pages: dict[str, Path]) -> None:
    browser.open(pages["one"])
    browser.press("3")
    browser.wait("document.querySelector('table') !== null")
    assert "mean@4" in texts(browser, "tbody th")
    browser.run("document.querySelector('.grid').scrollIntoView()")
    browser.wait("document.querySelectorAll('.chart').length === 2")
    assert texts(browser, ".chart strong") == ["entropy", "reward/mean"]
    assert browser.run("document.querySelector('.chart polyline').getAttribute('points').split(' ').length") == 10


def test_two_runs_are_set_against_each_other(browser: Chromium, pages: dict[str, Path]) -> None:
    browser.open(pages["two"])
    browser.press("2")
    browser.press("j")
    browser.wait("document.querySelector('.sample .block') !== null")
    assert browser.run("document.querySelectorAll('.sample').length") == 8
    assert texts(browser, ".detail h3")[0] == "A: one"
    # The problem of which none was solved and now all are comes first.
    assert browser.run("location.hash") == "#problem=0"
    assert text(browser, ".row .reward") == "0% → 100%"
    browser.run("document.querySelectorAll('.samples')[1].scrollIntoView()")
    browser.wait("document.querySelector('.parting') !== null")
    assert text(browser, ".parting") == "writes the same as sample 0 of A"
    rows = json.dumps([{"turns": ["a", "It is 5."]}, {"turns": ["a", "It is 7.", "Sure."]}])
    parting = browser.run(f"(([one, two]) => showDifference(one, two, 3).textContent)({rows})")
    assert parting == "parts from sample 3 of A in turn 2, after It is : there 5., here 7."
    browser.press("3")
    browser.wait("document.querySelector('table') !== null")
    assert text(browser, "tbody th") == "difference, B minus A"
    clean(browser, pages["two"])


def test_nothing_a_model_wrote_runs(browser: Chromium, tmp_path: Path) -> None:
    write_view(tmp_path / "evil.html", [evil_run(tmp_path / "run")])
    open_episode(browser, tmp_path / "evil.html")
    assert "<script>window.hacked = 1" in text(browser, ".model")
    assert "⟨U+202E⟩" in text(browser, ".model") and "␀" in text(browser, ".model")
    for key in "tgj23":
        browser.press(key)
    browser.wait("document.querySelector('table') !== null")
    assert browser.run("typeof window.hacked") == "undefined"
    assert browser.run("document.querySelectorAll('img').length") == 0
    clean(browser, tmp_path / "evil.html")
    # And if some day text became markup after all, the browser would refuse to run it.
    browser.run(
        "document.body.append(Object.assign(document.createElement('script'), { textContent: 'window.hacked = 1' }))"
    )
    assert browser.run("typeof window.hacked") == "undefined"
    assert EVIL in browser.run("view.store.problems.id[0]")


@pytest.mark.parametrize(
    "source", ["{" * 3000, "\\frac" * 900, "\\left(" * 600, "x^" * 1500, "\\begin{align}" * 90, "\\", "\\constructor x"]
)
def test_hostile_formulas_fall_back_to_their_source(browser: Chromium, pages: dict[str, Path], source: str) -> None:
    browser.open(pages["one"])
    assert browser.run(f"renderTex({json.dumps(source)}, false)") is None


def test_every_symbol_can_be_seen(browser: Chromium, pages: dict[str, Path]) -> None:
    browser.open(pages["one"])
    tables = "[LETTERS, OPERATORS, LIMITED, INTEGRALS, ACCENTS].flatMap((table) => Object.values(table))"
    assert browser.run(f"{tables}.filter((symbol) => typeof symbol !== 'string' || clean(symbol) !== symbol)") == []


def test_nearly_every_formula_of_real_solutions_is_rendered(browser: Chromium, pages: dict[str, Path]) -> None:
    path = DATA / "math_500.jsonl"
    if not path.is_file():
        pytest.skip(f"MATH-500 is not at {path}")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    browser.open(pages["one"])
    written = json.dumps([f"{row['problem']}\n{row['solution']}" for row in rows])
    browser.run(f"window.box = el('div', null, {written}.map((text) => prose(text))); 0")
    rendered, left = (browser.run(f"box.querySelectorAll('{kind}').length") for kind in ("math", ".tex"))
    print(f"{rendered} of {rendered + left} formulas rendered")
    assert rendered > 5000
    assert left / (rendered + left) < 0.01


@pytest.mark.parametrize(
    "source", [CODE, "x = '''a\n# b", "f'{x!r}' @ y", "@a\ndef f(): 0x1F + 1e-3 .5", "print.print('\\'')"]
)
def test_coloured_code_is_the_code(browser: Chromium, pages: dict[str, Path], source: str) -> None:
    browser.open(pages["one"])
    assert browser.run(f"el('code', null, highlightPython({json.dumps(source)})).textContent") == source


CONTRAST = """
(() => {
  const pen = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const over = (colours) => {
    pen.clearRect(0, 0, 1, 1);
    for (const colour of colours) { pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1); }
    return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility() || element.closest("script, option")) continue;
    const grounds = [];
    for (let e = element; e; e = e.parentElement) grounds.unshift(getComputedStyle(e).backgroundColor);
    const ground = over(grounds);
    const ink = over([...grounds, getComputedStyle(element).color]);
    const [high, low] = [light(ground), light(ink)].sort((a, b) => b - a);
    const ratio = (high + 0.05) / (low + 0.05);
    const shown = walker.currentNode.data.trim().slice(0, 30);
    if (ratio < 4.5) found.push(`${ratio.toFixed(2)} ${element.className || element.tagName}: ${shown}`);
  }
  return [...new Set(found)];
})()
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280], ids=["phone", "desktop"])
def test_every_view_fits_and_can_be_read(browser: Chromium, pages: dict[str, Path], width: int, dark: bool) -> None:
    open_episode(browser, pages["two"], 2, width=width, dark=dark)
    for key, shown in (
        ("Enter", SHOWN),
        ("t", "document.querySelector('.tokens') !== null"),
        ("c", SHOWN),
        ("c", SHOWN),
        ("c", SHOWN),
        ("2", "document.querySelector('.row') !== null"),
        ("j", "document.querySelector('.sample') !== null"),
        ("3", "document.querySelector('table') !== null"),
        ("?", "document.querySelector('dialog').open"),
    ):
        browser.press(key)
        browser.wait(shown if key != "c" and key != "Enter" else "true")
        assert browser.run("document.documentElement.scrollWidth") <= width, key
        assert browser.run(CONTRAST) == [], key


def test_every_control_has_a_name(browser: Chromium, pages: dict[str, Path]) -> None:
    open_episode(browser, pages["two"], 2)
    roles = {"button", "link", "combobox", "searchbox", "listbox", "spinbutton", "textbox", "option", "region", "group"}
    for key in ("t", "2", "3"):
        tree = browser.call("Accessibility.getFullAXTree")["nodes"]
        controls = [node for node in tree if not node["ignored"] and node["role"]["value"] in roles]
        assert len(controls) > 4
        unnamed = [
            node for node in controls if not node.get("name", {}).get("value") and node["role"]["value"] != "group"
        ]
        assert unnamed == [], key
        browser.press(key)
        browser.wait("true")


def test_ten_thousand_episodes_open_without_being_unpacked(browser: Chromium, tmp_path: Path) -> None:
    """Lazy: rows that are seen, and the chunk that is looked at. How long that takes is printed."""
    words = ["the", "sum", "of", "all", "integer", "bases", "is", "therefore", "$x^2+1$", "divides", "with", "code"]

    def many() -> Iterator[Trajectory]:
        for k in range(10_000):
            chance = random.Random(k)
            said = [" ".join(chance.choices(words, k=20)) for _ in range(2)]
            yield make_episode(
                f"p{k // 8}", right=chance.random() < 0.4, ticket=k, group=k // 8, sample=k % 8, turns=said
            )

    append_trajectories(tmp_path / "trajectories.jsonl", many())
    write_view(tmp_path / "view.html", [open_run(tmp_path / "trajectories.jsonl", "bytes")])
    seconds = browser.open(tmp_path / "view.html")
    assert text(browser, ".count") == "10000 episodes"
    assert browser.run("document.querySelectorAll('.row').length") < 60
    assert browser.run("view.store.chunks.size") == 0
    browser.run("view.view.list.select(9999)")
    browser.wait("document.querySelector('.detail p.quiet')?.textContent.includes('episode 9999')")
    assert browser.run("view.store.chunks.size") == 1
    assert browser.run("document.querySelectorAll('.row').length") < 60
    size = (tmp_path / "view.html").stat().st_size
    print(f"10,000 episodes, {size / 2**20:.1f} MiB: the list is there after {seconds:.2f} s")
