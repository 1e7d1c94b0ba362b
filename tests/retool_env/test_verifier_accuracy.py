"""The verifier against labelled cases, and against every gold answer of the real data files.

Three kinds of evidence: our own cases (``data/verifier_cases.jsonl``; labels decided from the policy in
``docs/verifier.md`` before the code was run), the shared development split, and properties over the golds of published
data sets.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from retool_env import verifier
from retool_env.data import read_rows
from retool_env.verifier import gold_problem, verify, verify_batch, warm_up

OWN = Path(__file__).parent / "data" / "verifier_cases.jsonl"
SHARED = Path(__file__).resolve().parents[3] / "shared"
CASES = SHARED / "verifier_cases.jsonl"
DATA = sorted((SHARED / "data").glob("*.jsonl")) + sorted((SHARED / "data").glob("*.parquet"))

MAX_SECONDS = 2.0
NEVER_REWARDED_WRONGLY = ("int", "dapo", "boxed", "tags", "messages", "transcript")

# Golds of the published files that cannot be graded, with the reason: two rows of one file have none.
UNGRADABLE = {("simplelr_math_35_train.parquet", "empty_gold"): 2}

needs_cases = pytest.mark.skipif(not CASES.exists(), reason="the shared labelled cases are not on this machine")
needs_data = pytest.mark.skipif(not DATA, reason="the published data files are not on this machine")


@pytest.fixture(scope="module", autouse=True)
def _workers() -> Iterator[None]:
    """Start the workers before anything is timed, and end them with the module."""
    warm_up()
    yield
    verifier.close()


def boxed(answer: str) -> str:
    return f"\\boxed{{{answer}}}"


def load(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def response_of(case: dict[str, Any]) -> Any:
    parts = case.get("pred_parts")
    pred = "".join(text * count for text, count in parts) if parts else case["pred"]
    return boxed(pred) if case["kind"] == "answer" else pred


def wrong_cases(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    verdicts = verify_batch([response_of(case) for case in cases], [case["gold"] for case in cases])
    pairs = zip(cases, verdicts, strict=True)
    return [case for case, verdict in pairs if verdict.correct != case["expected"] and "either" not in case["tags"]]


def test_our_own_cases() -> None:
    cases = load(OWN)
    assert len(cases) >= 2000
    wrong = wrong_cases(cases)
    assert not [case["id"] for case in wrong if not case["expected"]], "a wrong answer was rewarded"
    assert len(wrong) / len(cases) <= 0.005, [case["id"] for case in wrong]


@needs_cases
def test_core_and_policy_cases_of_the_development_split() -> None:
    cases = [case for case in load(CASES) if "bomb" not in case["tags"]]
    core = [case for case in cases if "policy" not in case["tags"]]
    wrong = wrong_cases(core)
    assert 1 - len(wrong) / len(core) >= 0.995, [case["id"] for case in wrong]
    rewarded = {tag for case in wrong if not case["expected"] for tag in case["tags"]}
    assert not rewarded & set(NEVER_REWARDED_WRONGLY)
    policy = [case for case in cases if "policy" in case["tags"]]
    wrong = wrong_cases(policy)
    assert 1 - len(wrong) / len(policy) >= 0.95, [case["id"] for case in wrong]


@needs_cases
def test_bombs_of_the_development_split() -> None:
    for case in load(CASES):
        if "bomb" in case["tags"]:
            verdict = verify(response_of(case), case["gold"])
            assert verdict.elapsed < MAX_SECONDS, (case["id"], verdict)
            assert case["expected"] or not verdict.correct or "either" in case["tags"], (case["id"], verdict)


@needs_cases
def test_answers_and_golds_may_be_exchanged() -> None:
    asymmetric = []
    for case in load(CASES):
        if case["kind"] != "answer" or {"bomb", "policy"} & set(case["tags"]) or not case["gold"].strip():
            continue
        there, back = verify(boxed(case["pred"]), case["gold"]), verify(boxed(case["gold"]), case["pred"])
        if there.correct != back.correct:
            asymmetric.append(case["id"])
    assert not asymmetric


def golds_of(path: Path) -> list[str]:
    return [gold for row in read_rows(path) for gold in row.golds]


@needs_data
@pytest.mark.parametrize("path", DATA, ids=lambda path: path.name)
def test_every_published_gold_can_be_graded_or_is_listed(path: Path) -> None:
    problems = Counter(problem for gold in golds_of(path) if (problem := gold_problem(gold)))
    assert {(path.name, reason): count for reason, count in problems.items()} == {
        key: count for key, count in UNGRADABLE.items() if key[0] == path.name
    }


def respelled(gold: str) -> Iterator[str]:
    """The same answer in other notations, none of which changes its meaning."""
    yield gold.replace("\\frac", "\\dfrac")
    yield re.sub(r"\\left|\\right", "", gold)
    yield f"${gold.strip('$')}$"
    yield f"{gold}."
    yield f"\\displaystyle {gold}"
    yield gold.replace("\\cdot", "\\times")
    yield gold.replace("^\\circ", "°").replace("^{\\circ}", "°")


@needs_data
@pytest.mark.parametrize(
    "name", ["math_500.jsonl", pytest.param("simplelr_math_35_train.parquet", marks=pytest.mark.slow)]
)
def test_respelled_golds_are_equal_and_changed_ones_are_not(name: str) -> None:
    golds = [gold for gold in dict.fromkeys(golds_of(SHARED / "data" / name)) if gold.strip()]
    same = [(text, gold) for gold in golds for text in dict.fromkeys(respelled(gold))]
    # "-0" is 0, and so is twice a column of zeros: such golds are left out of the negative half.
    nonzero = [gold for gold in golds if not re.match(r"0|\\begin\{pmatrix\}[ 0\\&]*\\end", gold)]
    changed = [(text, gold) for gold in nonzero for text in (f"{gold}, 1", f"-{gold}", f"2{gold}")]
    pairs = [*same, *changed]
    verdicts = verify_batch([boxed(text) for text, _ in pairs], [gold for _, gold in pairs])
    correct = [verdict.correct for verdict in verdicts]
    assert [pair for pair, right in zip(same, correct[: len(same)], strict=True) if not right] == []
    assert [pair for pair, right in zip(changed, correct[len(same) :], strict=True) if right] == []
