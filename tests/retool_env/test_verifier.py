"""The verifier: extraction, exact and symbolic equality, and the worker's behaviour under hostile input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retool_env import verifier
from retool_env.verifier import Verdict, extract_answer, gradable, symbolic, verify

REPO = Path(__file__).resolve().parents[2]
CASES = REPO.parent / "shared" / "verifier_cases.jsonl"

# Reached: 100 % of the 836 core cases, no false positive.
MIN_CORE_ACCURACY = 0.99
MAX_CORE_FALSE_POSITIVES = 1
MAX_SECONDS = 2.0

# The guards let it through, and math-verify works on it for much longer than the limit.
SLOW = (" ".join(rf"\sin {n}x" for n in range(1, 9)), " ".join(rf"\cos {n}x" for n in range(1, 9)))

EXACT_EQUAL = [
    ("34", "34"), ("034", "34"), ("34.", "34"), ("+34", "34"), ("34.0", "34"), ("−3", "-3"), ("- 3", "-3"),
    ("３４", "34"), ("1,024", "1024"), ("1{,}024", "1024"), (r"1\,024", "1024"), (r"16,\!386.20", "16386.2"),
    ("1 024", "1024"), (r"\text{34}", "34"), ("**34**", "34"), ("'34'", "34"), (r"\$34", "34"), ("34%", "34"),
    (r"28\%", "0.28"), ("62.5%", r"\frac58"), (r"34 \text{ cm}^2", "34"), ("34", "34 square units"),
    (r"90^\circ", "90"), (r"12^{\text{th}}", "12"), ("n = 34", "34"), ("m+n = 34", "34"), ("x = y = 34", "34"),
    ("P(A) = 3/8", r"\frac38"), (r"N \equiv 34 \pmod{1000}", "34"), (r"\frac12", "0.5"), (".5", "1/2"),
    (r"\frac{68}{2}", "34"), (r"3\frac12", "3.5"), ("3 1/2", "7/2"), (r"0.1\overline{6}", r"\frac16"),
    ("0.333333", r"\frac13"), ("1e3", "1000"), (r"2 \times 10^{-10}", "2 × 10^(-10)"), ("2^10", "1024"),
    ("5!", "120"), (r"\sqrt{1156}", "34"), (r"\left|-34\right|", "34"), (r"\lfloor 34.7 \rfloor", "34"),
    (r"\binom{5}{2}", "10"), ("1+" * 59 + "1", "60"), ("9" * 40, "9" * 40), ("14:64", "7:32"),
    (r"\text{(C)}", "C"), ("C.", "C"), (r"\textbf{(C)}\ 34", "C"), ("evelyn", r"\text{Evelyn}"),
    (r"\{1,2\}", "2, 1"), ("1 and 2", "1, 2"), ("x=1 or x=2", "1,2"), ("100,200", "100, 200"), ("(1,2)", "( 1, 2 )"),
    ("(1,2),(3,4)", "(3,4),(1,2)"), ("(0.5, 2]", r"(\frac12,2]"), (r"x \le 3", r"(-\infty, 3]"),
    ("-2<x<7", "(-2,7)"), (r"\{x|-2<x<7\}", "(-2,7)"), (r"x \in [0,1)", "[0,1)"), (r"\pm 3", "-3, 3"),
    (r"x<0 \text{ or } x>1", r"(-\infty,0)\cup(1,\infty)"), (r"\mathbb{R}", r"(-\infty,\infty)"), ("204_{5}", "204_5"),
    (r"\begin{bmatrix}1&2\\3&0.5\end{bmatrix}", r"\begin{pmatrix}1&2\\3&\frac12\\\end{pmatrix}"),
    ("1", r"\boxed{1}"), ("sqrt(2)", r"\sqrt{2}"), ("2π", r"2\pi"), ("f(x) = 2x", "2x"),
    (r"\frac13 \approx 0.33", r"\frac13"), (r"\sum_{k=1}^n k", r"\sum_{k=1}^{n} k"),
]  # fmt: skip

EXACT_DIFFERENT = [
    ("35", "34"), ("34", "-34"), ("1.024", "1024"), ("102,4", "1024"), ("3 4", "34"), ("32, 349", "32349"),
    ("9" * 39 + "8", "9" * 40), ("10^{23}", "1" + "0" * 22 + "1"), ("33.999999", "34"), ("0.333", r"\frac13"),
    ("0.0000001", "0"), ("10^{-50}", "0"), ("28", "0.28"), ("0.28%", "28%"), ("15 m", "15 cm"),
    ("34, 35", "34"), ("34 or 35", "34"), (r"\{34, 35\}", "34"), ("(34, 35)", "34"), (r"34 \pm 1", "34"),
    ("34;35", "34"), (r"34\quad 35", "34"), (r"34\\35", "34"), ("34|35", "34"), ("x > 34", "34"), (r"\neq 34", "34"),
    ("34...", "34"), ("not 34", "34"), (r"34 \text{ is wrong}", "34"), (r"34 \text{ or more}", "34"), ("x+34", "34"),
    ("34_8", "34"), ("34'", "34"), ("{34", "34"), ("34)", "34"),
    ("x = 33 = 34", "34"), ("34 = 35", "34"), (r"\sum_{k=1}^{100} k", "5050"),
    (r"7^{2023} \bmod 100", "43"), ("D", "C"), ("A or C", "C"),
    (r"\text{(A) or (B)}", "A"), (r"\text{not even}", "even"), ("1,2", "1,2,3"), ("1,1,2", "1,2,2"), ("(2,1)", "(1,2)"),
    ("1,2", "(1,2)"), ("[0,1]", "[0,1)"), ("(1,2)", "1.2"), (r"\{0\}", r"\emptyset"), ("3", r"\pm 3"),
    ("x=1", "y=1"), ("x=1, y=2", "x=2, y=1"), ("x>3", "y>3"), ("x<3", r"x \le 3"), ("204_6", "204_5"),
    ("34", ""), ("", "34"), ("34", " "), (r"\text{}", r"\text{}"), ("34", r"\boxed{}"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1&2\end{pmatrix}"), ("2003^{2002^{2001}}", "9"),
]  # fmt: skip

SYMBOLIC_EQUAL = [
    (r"\frac{1}{1+\sqrt2}", r"\sqrt{2}-1"), (r"\log_2 8", "3"), (r"e^{\ln 5}", "5"), ("34 + 0i", "34"),
    (r"e^{i\pi}", "-1"), ("(1+i)^2", "2i"), ("1.41421356", r"\sqrt2"), (r"\sqrt{17}", "4.123105625617661"),
    ("n(n+1)/2", r"\frac{n^2+n}{2}"), (r"\binom{n}{2}", r"\frac{n(n-1)}{2}"),
    ("2x - y + 1 = 0", "y=2x+1"), ("x^2/16 + y^2/12 = 1/4", "x^2/4 + y^2/3 = 1"),
    ("2x > 6", "x > 3"), ("-x > -1", "x < 1"), (r"1 \pm \sqrt{5}, -2", r"\{-2, 1-\sqrt5, 1+\sqrt5\}"),
    (r"\begin{pmatrix} \sqrt{8} \\ 1 \end{pmatrix}", r"\begin{pmatrix} 2\sqrt2 \\ 1 \end{pmatrix}"),
    (r"(2+\sqrt{2}, \frac{1}{1+\sqrt2})", r"(\sqrt2(\sqrt2+1), \sqrt2-1)"),
]  # fmt: skip

SYMBOLIC_DIFFERENT = [
    ("1.414", r"\sqrt2"), (r"\frac{0}{0}", "0"), ("1/0", "0"), (r"\frac{355}{113}", r"\pi"), ("10^{-7}x", "0x"),
    (r"34\pi", "34"), ("-i", "i"), ("(x+1)^2", "x^2+1"), ("0", "a+3z=0"), ("11a+c", "7 = 11a+c"), ("x = x", "x = 5"),
    ("x=2", "x^2=4"), ("2x < 6", "x > 3"), ("x+y=2", "x+y=1"), (r"x \ne 1", r"x \ne 2"), ("x_1", "x_2"), ("A", "A^T"),
    (r"\overline{AB}", "AB"), ("x'", "x"), ("204_6x", "204_5x"), (r"\sin^2 x", r"\sin x^2"),
]  # fmt: skip

EXTRACTED = [
    (r"so \boxed{34}.", "34", "boxed"),
    (r"First \boxed{33}, no: \boxed{34}", "34", "boxed"),
    (r"\boxed{\boxed{34}}", r"\boxed{34}", "boxed"),
    (r"\boxed{\frac{1}{\{2\}}}", r"\frac{1}{\{2\}}", "boxed"),
    (r"\boxed 34, as wanted", "34,", "boxed"),
    (r"\fbox{7}", "7", "boxed"),
    (r"\boxed{'34'}", "34", "boxed"),
    (r"\boxed{1} and \boxed{2}", "1, 2", "boxed"),
    (r"\boxed{34} or \boxed{34}", "34", "boxed"),
    (r"\boxed{(2, 2)} \quad \text{and} \quad \boxed{(6, 2)}", "(2, 2), (6, 2)", "boxed"),
    (r"\boxed{1} and not, as before, \boxed{2}", "2", "boxed"),
    ("<answer>34</answer>", "34", "answer_tag"),
    ("<answer>\nThe sum is \\boxed{'34'} cm\n</answer><|im_end|>", "34", "answer_tag"),
    ("<answer>34</answer>\n\\boxed{35}", "35", "boxed"),
    ("...\n**Answer:** 34", "34", "answer_line"),
    ("...\nFinal Answer： $34$ ", "$34$", "answer_line"),
    ("Answer:\n\\[\n34\n\\]", "34", "answer_line"),
    ("Answer: 33\nNo.\nAnswer: 34", "34", "answer_line"),
    ("Answer: \\boxed{34} cm", "34", "answer_line"),
    ("Answer: 588<|im_end|>\nAnswer: 7", "588", "answer_line"),
    ("\\boxed{33}</think>\n\\boxed{34}", "34", "boxed"),
    ("\\boxed{34}\n```python\nprint(r'\\boxed{35}')", "34", "boxed"),
    ("\\boxed{34}<tool_response>\\boxed{35}</tool_response>", "34", "boxed"),
    ("x <code>\n```python\nprint(1)\n```\n</code>\n<interpreter>\n1\n</interpreter>\n<answer>\\boxed{1}</answer>", "1",
     "answer_tag"),
]  # fmt: skip

NOT_EXTRACTED = [
    ("", "no_marker"),
    ("the result is 34", "no_marker"),
    ("It checks our answer: 34 is right", "no_marker"),
    ('put it after "Answer:".\n34', "no_marker"),
    ("</answer>34<answer>", "no_marker"),
    ("```\n\\boxed{34}\n```", "no_marker"),
    ("<interpreter>\nAnswer: 34\n</interpreter>", "no_marker"),
    ("<interpreter>\n</think>\\boxed{34}\n</interpreter>", "no_marker"),
    ("<|im_end|>\\boxed{34}", "no_marker"),
    (r"\boxed{33} \boxed{34", "unclosed_box"),
    (r"<answer>\boxed{34</answer>", "unclosed_box"),
    (r"{\boxed}{34}", "unclosed_box"),
    (r"<think>it is \boxed{34}", "unclosed_think"),
    (r"34 is not it, \boxed{ }", "empty_answer"),
    ("<answer></answer>", "empty_answer"),
    ("Answer: $Answer (without quotes)", "template"),
    (r"<answer>\boxed{'The final answer goes here.'}</answer>", "template"),
]

REASONS = [
    (r"\boxed{34}", "34", "exact", "equal"),
    (r"\boxed{\log_2 8}", "3", "symbolic", "equal"),
    (r"\boxed{34, 35}", "34", "exact", "list_for_scalar"),
    (r"\boxed{it is 34}", "34", "exact", "not_a_number"),
    (r"\boxed{10^{10^{10}}}", "34", "exact", "too_big"),
    (r"\boxed{x^{10^{10}}}", "x", "exact", "too_big"),
    (r"\boxed{" + "1" * 2000 + "}", "34", "none", "too_long"),
    (r"\boxed{" + "(" * 200 + "}", "34", "none", "too_deep"),
    (r"\boxed{\vec{x}}", "x", "exact", "unparsable"),
    (r"\boxed{34}", "  ", "none", "empty_gold"),
    ("34", "34", "none", "no_marker"),
]


def boxed(answer: str) -> str:
    return f"\\boxed{{{answer}}}"


@pytest.fixture(scope="module", autouse=True)
def _worker() -> Iterator[None]:
    """Start the worker before anything is timed, and end it with the module."""
    symbolic.ask("x+1", "1+x", seconds=30.0)
    yield
    verifier.close()


@pytest.mark.parametrize(("pred", "gold"), EXACT_EQUAL)
def test_equal_without_algebra(pred: str, gold: str) -> None:
    verdict = verify(boxed(pred), gold)
    assert (verdict.correct, verdict.method) == (True, "exact"), verdict


@pytest.mark.parametrize(("pred", "gold"), EXACT_DIFFERENT)
def test_different_without_algebra(pred: str, gold: str) -> None:
    verdict = verify(boxed(pred), gold)
    assert not verdict.correct, verdict
    assert verdict.method in ("exact", "none"), verdict


@pytest.mark.parametrize(("pred", "gold"), SYMBOLIC_EQUAL)
def test_equal_by_algebra(pred: str, gold: str) -> None:
    verdict = verify(boxed(pred), gold)
    assert (verdict.correct, verdict.method) == (True, "symbolic"), verdict


@pytest.mark.parametrize(("pred", "gold"), SYMBOLIC_DIFFERENT)
def test_different_by_algebra(pred: str, gold: str) -> None:
    assert not verify(boxed(pred), gold).correct


@pytest.mark.parametrize(("text", "answer", "marker"), EXTRACTED)
def test_extracted(text: str, answer: str, marker: str) -> None:
    found = extract_answer(text)
    assert (found.answer, found.marker, found.reason) == (answer, marker, "")


@pytest.mark.parametrize(("text", "reason"), NOT_EXTRACTED)
def test_not_extracted(text: str, reason: str) -> None:
    found = extract_answer(text)
    assert (found.answer, found.reason) == ("", reason)


def test_only_a_final_assistant_message_counts() -> None:
    right: dict[str, object] = {"role": "assistant", "content": r"\boxed{34}"}
    assert verify([{"role": "tool", "content": "33"}, right], "34").correct
    for last in ({"role": "tool", "content": r"\boxed{34}"}, {"role": "assistant", "content": None}, {}):
        assert verify([right, last], "34").reason == "no_final_message"
    assert verify([], "34").reason == "no_final_message"


@pytest.mark.parametrize(("text", "gold", "method", "reason"), REASONS)
def test_reason_and_method(text: str, gold: str, method: str, reason: str) -> None:
    verdict = verify(text, gold)
    assert (verdict.method, verdict.reason) == (method, reason)
    assert verdict.correct == (reason == "equal")
    assert "``" + reason + "``" in str(verifier.__doc__)


def test_gradable() -> None:
    assert all(gradable(gold) for gold in ("34", r"\frac{1}{2}", "C", "x+1", "(1,2)", r"\text{even}", r"\$5"))
    assert not any(gradable(gold) for gold in ("", "  ", r"\text{}", r"\boxed{}", "{", "1" * 2000))


# No deadline: the machines are shared, and the time is bounded by tests of its own.
UNHURRIED = settings(max_examples=150, deadline=None)
RATIONALS = st.fractions(max_denominator=10**6).filter(lambda value: abs(value) < 10**12)


def spellings(value: Fraction) -> list[str]:
    top, bottom, sign = abs(value.numerator), value.denominator, "-" if value < 0 else ""
    texts = [f"{value}", rf"{sign}\frac{{{top}}}{{{bottom}}}", rf"\dfrac{{{sign}{top * 3}}}{{{bottom * 3}}}",
             f"x = {value}", rf"\left({value}\right)", f"${value}$."]  # fmt: skip
    if bottom == 1:
        texts += [f"{value.numerator:,}", f"{sign}00{top}", f"{value}.0", rf"{value} \text{{ cm}}"]
    if sign:
        texts.append("−" + str(value)[1:])
    return texts


@UNHURRIED
@given(RATIONALS)
def test_every_spelling_of_a_rational_is_equal(value: Fraction) -> None:
    for pred in spellings(value):
        for gold in (str(value), spellings(value)[1]):
            assert verify(boxed(pred), gold).correct, (pred, gold)


@UNHURRIED
@given(st.integers(), st.integers())
def test_integers_are_equal_exactly_when_they_are(left: int, right: int) -> None:
    verdict = verify(boxed(str(left)), str(right))
    assert (verdict.correct, verdict.method) == (left == right, "exact")


@UNHURRIED
@given(st.integers(0, 10**30), st.integers(1, 10**6))
def test_close_integers_are_not_equal(value: int, difference: int) -> None:
    assert not verify(boxed(str(value)), f"{value + difference:,}").correct


SOUP = st.lists(
    st.sampled_from(
        [*r"0123456789+-*/^_=<>(){}[]|!.,:;&\$%~'", " ", "\n", "x", "e", "i", r"\frac", r"\sqrt", r"\pm", r"\cup",
         r"\in", r"\le", r"\text{", r"\boxed{", r"\fbox", r"\{", r"\}", r"\left(", r"\right]", r"\begin{pmatrix}",
         r"\end{pmatrix}", r"\\", "and", "or", "cm", "Answer:", "<answer>", "</answer>", "<code>", "</code>", "```",
         "</think>", "<think>", r"\approx", r"\equiv", r"\pmod", r"\overline", "²", "½", "−", "\x00", "\ud800"]
    ),
    max_size=30,
).map("".join)  # fmt: skip


@UNHURRIED
@given(st.one_of(st.text(), SOUP), st.one_of(st.text(max_size=20), SOUP))
def test_never_raises(text: str, gold: str) -> None:
    for response in (text, boxed(text)):
        assert isinstance(verify(response, gold), Verdict)


REGIONS = [
    ("```python\n", "\n```"), ("<code>", "</code>"), ("<interpreter>", "</interpreter>"),
    ("<tool_call>", "</tool_call>"), ("<tool_response>", "</tool_response>"),
]  # fmt: skip
PLAIN = st.text(alphabet="abc 12.\n$", max_size=30)
MARKED = st.sampled_from([r"\boxed{35}", r"\boxed{35", "Answer: 35\n", "<answer>35</answer>", "print(35)"])


@UNHURRIED
@given(PLAIN, st.sampled_from(REGIONS), st.lists(MARKED, max_size=3), PLAIN)
def test_code_and_tool_regions_are_ignored(before: str, region: tuple[str, str], inside: list[str], after: str) -> None:
    hidden = region[0] + " ".join(inside) + region[1]
    assert extract_answer(f"{before}{hidden}{after}\n").reason == "no_marker"
    assert extract_answer(f"{before} \\boxed{{34}} {hidden}{after}").answer == "34"
    assert extract_answer(f"{before}{hidden}{after} \\boxed{{34}}").answer == "34"


@pytest.mark.parametrize(
    "text",
    ["{" * 10**6, "\\boxed{" * 150_000, "Answer: " * 125_000, "```" * 330_000, "<answer>" * 125_000, "\\" * 10**6,
     "</code>" * 140_000, "\\boxed{34}, " * 80_000],
)  # fmt: skip
def test_a_megabyte_is_no_problem(text: str) -> None:
    assert verify(text, "35").elapsed < 0.5


@pytest.mark.parametrize(
    "bomb",
    ["2003^{2002^{2001}}", "10^{10^{10}}", "1E+1000000000", "(10^9)!", r"\binom{1000000000}{500000000}",
     "34" + "!" * 50, r"\sum_{k=1}^{1000000000} k^k", r"[2^{1/2^{1000}}, \infty)", "((x+1)^{100}+1)^{100}",
     r"\sin(10^{10^{10}})", SLOW[0], "(x+" * 29 + "1" + ")" * 29, "__import__('os').system('touch pwned')"],
)  # fmt: skip
def test_bombs_are_bounded(bomb: str) -> None:
    for gold in ("34", SLOW[1], bomb + "+1"):
        verdict = verify(boxed(bomb), gold)
        assert not verdict.correct
        assert verdict.elapsed < MAX_SECONDS, verdict


def working_children() -> list[int]:
    """The processes that compute: the children of the worker."""
    process = symbolic._WORKER._process
    assert process
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def test_a_hanging_question_is_killed_and_the_next_one_works() -> None:
    before = working_children()
    started = time.monotonic()
    assert symbolic.ask(*SLOW, seconds=0.4).verdict == "timeout"
    assert 0.4 <= time.monotonic() - started < 0.9
    assert symbolic.ask("x+1", "1+x", seconds=1.0).verdict == "equal"
    assert time.monotonic() - started < 1.5
    after = working_children()
    assert len(before) == len(after) == 1
    assert before != after
    assert not Path(f"/proc/{before[0]}").exists()


def test_a_timeout_is_its_own_verdict() -> None:
    verdict = verify(boxed(SLOW[0]), SLOW[1])
    assert (verdict.correct, verdict.method, verdict.reason) == (False, "none", "timeout")


def test_a_worker_that_stops_answering_is_replaced() -> None:
    worker = symbolic.SymbolicWorker()
    assert worker.ask("x+1", "1+x", seconds=5.0).verdict == "equal"
    assert worker._process
    os.kill(worker._process.pid, signal.SIGSTOP)
    assert worker.ask("x+1", "1+x", seconds=0.2).verdict == "timeout"
    assert worker.ask("x+1", "1+x", seconds=5.0).verdict == "equal"
    os.kill(worker._process.pid, signal.SIGKILL)
    assert worker.ask("x+1", "1+x", seconds=5.0).verdict == "equal"
    worker.close()


def test_a_dead_child_is_a_crash_and_is_replaced() -> None:
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(symbolic.ask, *SLOW, seconds=5.0)
        time.sleep(0.3)
        os.kill(working_children()[0], signal.SIGKILL)
        assert answer.result().verdict == "crash"
    assert symbolic.ask("x+1", "1+x", seconds=1.0).verdict == "equal"


@pytest.mark.parametrize(
    "script", ["raise SystemExit(1)", "print('hello', flush=True)", "print('{}', flush=True)", "print(3)"]
)
def test_a_worker_that_cannot_start_is_an_outage(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "worker.py"
    path.write_text(script)
    monkeypatch.setattr(symbolic, "_WORKER", symbolic.SymbolicWorker(path))
    for _ in range(4):
        verdict = verify(r"\boxed{x+1}", "1+x")
        assert (verdict.correct, verdict.method, verdict.reason) == (False, "none", "outage")
    assert verdict.elapsed < 0.01, "a worker that keeps failing is left alone"
    assert verify(r"\boxed{34}", "34").correct


def test_threads_get_the_verdicts_of_a_serial_run() -> None:
    jobs = [*EXACT_EQUAL, *EXACT_DIFFERENT, *SYMBOLIC_EQUAL, *SYMBOLIC_DIFFERENT, SLOW]

    def judge(job: tuple[str, str]) -> tuple[bool, str, str]:
        verdict = verify(boxed(job[0]), job[1])
        return verdict.correct, verdict.method, verdict.reason

    serial = [judge(job) for job in jobs]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(judge, jobs)) == serial


def test_the_callers_alarm_still_fires() -> None:
    fired: list[int] = []
    previous = signal.signal(signal.SIGALRM, lambda number, _: fired.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        assert symbolic.ask(*SLOW, seconds=0.6).verdict == "timeout"
        assert fired == [signal.SIGALRM]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def run_script(body: str) -> dict[str, Any]:
    """Run a script in a fresh interpreter; it prints one JSON object."""
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    command = [sys.executable, "-c", textwrap.dedent(body)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_no_algebra_library_enters_the_callers_process() -> None:
    result = run_script(
        r"""
        import json, sys, time
        import dataclasses, fractions, functools, re, select, threading, typing  # what any trainer has imported
        import retool_env
        started = time.perf_counter()
        from retool_env import verifier
        seconds = time.perf_counter() - started
        correct = verifier.verify(r"\boxed{\log_2 8}", "3").correct
        heavy = [name for name in ("sympy", "math_verify", "latex2sympy2_extended", "antlr4") if name in sys.modules]
        print(json.dumps({"seconds": seconds, "correct": correct, "heavy": heavy}))
        """
    )
    assert result["correct"]
    assert result["heavy"] == []
    assert result["seconds"] < 0.15  # about 0.02 on a quiet core


def test_a_forked_child_has_a_worker_of_its_own() -> None:
    result = run_script(
        r"""
        import json, os
        from retool_env.verifier import symbolic, verify
        ours = verify(r"\boxed{\log_2 8}", "3").correct
        pid = os.fork()
        if pid == 0:
            theirs = symbolic._WORKER._process is None and verify(r"\boxed{\log_2 16}", "4").correct
            os._exit(0 if theirs else 1)
        theirs = os.waitpid(pid, 0)[1] == 0
        still = verify(r"\boxed{\log_2 32}", "5").correct
        print(json.dumps({"ours": ours, "theirs": theirs, "still": still}))
        """
    )
    assert result == {"ours": True, "theirs": True, "still": True}


def test_the_worker_dies_with_its_parent() -> None:
    result = run_script(
        r"""
        import json, os
        from retool_env.verifier import symbolic, verify
        verify(r"\boxed{\log_2 8}", "3")
        print(json.dumps({"pid": symbolic._WORKER._process.pid}), flush=True)
        os._exit(0)
        """
    )
    deadline = time.monotonic() + 10
    while is_running(result["pid"]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(result["pid"])


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def response_of(case: dict[str, Any]) -> Any:
    parts = case.get("pred_parts")
    pred = "".join(text * count for text, count in parts) if parts else case["pred"]
    return boxed(pred) if case["kind"] == "answer" else pred


@pytest.mark.skipif(not CASES.exists(), reason="the shared labelled cases are not on this machine")
def test_accuracy_on_the_labelled_cases() -> None:
    right: list[dict[str, Any]] = []
    wrong: list[dict[str, Any]] = []
    for line in CASES.read_text().splitlines():
        case = json.loads(line)
        verdict = verify(response_of(case), case["gold"])
        assert verdict.elapsed < MAX_SECONDS, (case["id"], verdict)
        if "bomb" in case["tags"]:
            assert case["expected"] or not verdict.correct or "either" in case["tags"], (case["id"], verdict)
        elif "policy" not in case["tags"]:
            (right if verdict.correct == case["expected"] else wrong).append(case)
    false_positives = [case["id"] for case in wrong if not case["expected"]]
    assert len(right) / (len(right) + len(wrong)) >= MIN_CORE_ACCURACY, [case["id"] for case in wrong]
    assert len(false_positives) <= MAX_CORE_FALSE_POSITIVES, false_positives
    assert not [case["id"] for case in wrong if {"aime", "transcript"} & set(case["tags"])]
