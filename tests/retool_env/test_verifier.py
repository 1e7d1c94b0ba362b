"""The verifier: extraction, and exact and symbolic equality."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retool_env import verifier
from retool_env.verifier import Verdict, extract_answer, gold_problem, gradable, verify, warm_up

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
    ("1000,99", "1000.99"), ("1 000,99", "1000.99"), ("1.000,99", "1000.99"), ("0.111", "0,111"),
    ("20:34", "20:34:00"), (r"2:30 \text{ PM}", "14:30"), (r"2:30 \text{ p.m.}", "2:30 PM"), ("1:2:3", "2:4:6"),
    (r"3 \text{ million}", "3000000"), (r"\text{70 cm}", "70"), (r"30 \text{ mph}", r"30 \text{ miles per hour}"),
    (r"25 \text{ cm}^2", r"25 \text{ square centimeters}"), ("15", "15th Day"), ("34^{th}", "34"), ("75¢", "75"),
    (r"3\sqrt2 \text{ cm}", r"3\sqrt2"), ("34 = n", "34"), ("34", "m+n = 34"), ("100a+10b+c = 725", "725"),
    (r"\frac34 = 75\%", r"\frac34"), ("y = 2x + 3", "f(x) = 2x + 3"), ("x=2, y=3", "(2,3)"), ("(2,3)", "y=3, x=2"),
    ("Minimum: 1, Maximum: 3", "1,3"), (r"\{1,2,2\}", r"\{1,2\}"), (r"\mathbb{R} \setminus \{0\}", r"x \ne 0"),
    (r"(-\infty,0)\cup(0,\infty)", r"\mathbb{R} \setminus \{0\}"), ("|x| < 1", "(-1,1)"),
    ("(-7,5)", r"\begin{pmatrix}-7\\5\end{pmatrix}"),
    (r"\begin{cases}x=1\\y=2\end{cases}", "x=1, y=2"), (r"x \equiv 12 \pmod 7", r"x \equiv 5 \pmod 7"),
    ("(204)_5", "204_5"),
    (r"\text{Option C}", "C"), ("C. 34", "C"), ("C", "(C) 34"), (r"\text{no}", "no"), (r"\text{Yes.}", "yes"),
    (r"\text{line segment and circle}", "circle, line segment"), (r"\text{an ellipse}", "ellipse"),
    (r"\text{no solution}", r"\emptyset"), (r"\text{all real numbers}", r"\mathbb{R}"),
    ("DNE", r"\text{does not exist}"),
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
    ("1,2", "1.2"), ("(1,2)", "1,2"), ("1000,9", "1000.99"), ("1,024", "1.024"), ("20:34:01", "20:34"),
    ("2:30 AM", "2:30 PM"),
    ("1:2:3", "1:2:4"), (r"5 \text{ million}", "5"), (r"15 \text{ cm}", r"15 \text{ cm}^2"),
    (r"30 \text{ km/h}", r"30 \text{ mph}"),
    ("1", "x+y = 1"), (r"\frac34 = 0.8", r"\frac34"), ("x=3, y=2", "(2,3)"),
    ("Wrong: 34", "34"), ("not: 34", "34"), ("(1,2)", r"\begin{pmatrix}2\\1\end{pmatrix}"),
    (r"x \equiv 12 \pmod 7", r"x \equiv 5 \pmod 8"), (r"-\text{Evelyn}", r"\text{Evelyn}"),
    (r"\text{(E)}+1", "E"),
    (r"\text{yes and no}", "yes"), ("30", r"30 \text{ or } 31"), ("34", ""), ("", "34"), ("34", " "),
    (r"\text{}", r"\text{}"), ("34", r"\boxed{}"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1&2\end{pmatrix}"), ("2003^{2002^{2001}}", "9"),
]  # fmt: skip

SYMBOLIC_EQUAL = [
    (r"\frac{1}{1+\sqrt2}", r"\sqrt{2}-1"), (r"\log_2 8", "3"), (r"e^{\ln 5}", "5"), ("34 + 0i", "34"),
    (r"e^{i\pi}", "-1"), ("(1+i)^2", "2i"), ("1.41421356", r"\sqrt2"), (r"\sqrt{17}", "4.123105625617661"),
    (r"\frac{\pi}{2}", r"90^\circ"), (r"45^\circ", r"\frac{\pi}{4}"), (r"\sin 30^\circ", r"\frac12"),
    (r"\cos(x)", r"\sin(90^{\circ}-x)"), (r"\tan 45^{\circ}", "1"), ("1/2 x", r"\frac{x}{2}"),
    (r"4/3\pi", r"\frac{4\pi}{3}"),
    (r"\sqrt{18} \text{ cm}", r"3\sqrt{2}"), ("2x - y = -1", "y = 2x+1"), ("2x+2y=4", "x+y=2"),
    ("n(n+1)/2", r"\frac{n^2+n}{2}"), (r"\binom{n}{2}", r"\frac{n(n-1)}{2}"),
    ("2x - y + 1 = 0", "y=2x+1"), ("x^2/16 + y^2/12 = 1/4", "x^2/4 + y^2/3 = 1"),
    ("2x > 6", "x > 3"), ("-x > -1", "x < 1"), (r"1 \pm \sqrt{5}, -2", r"\{-2, 1-\sqrt5, 1+\sqrt5\}"),
    (r"\begin{pmatrix} \sqrt{8} \\ 1 \end{pmatrix}", r"\begin{pmatrix} 2\sqrt2 \\ 1 \end{pmatrix}"),
    (r"(2+\sqrt{2}, \frac{1}{1+\sqrt2})", r"(\sqrt2(\sqrt2+1), \sqrt2-1)"),
]  # fmt: skip

SYMBOLIC_DIFFERENT = [
    ("-CD", "CD"), ("R", "r"), ("R+r", "2R"), ("R-r", "r-R"), (r"\Theta", r"\theta"), ("AB", "ab"),
    ("0", "a+3z = 0"), ("y = 2x", "z = 2x"), (r"x \ne 0", r"x \ne 1"),
    ("30", r"\frac{\pi}{6}"), (r"90", r"\frac{\pi}{2}"), (r"46^\circ", r"\frac{\pi}{4}"), (r"\sin 30", r"\frac12"),
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
    (r"It is not hard to get \boxed{34}", "34", "boxed"),
    (r"\boxed{34}. This is correct, and 33 is wrong.", "34", "boxed"),
    (r"\boxed{33} is wrong; \boxed{34}", "34", "boxed"),
    (r"\boxed{5}. This is not true for \(n=1\).", "5", "boxed"),
    (r"\boxed{5}. This is not valid for other triangles.", "5", "boxed"),
    (r"\boxed{5}. It is false that others work", "5", "boxed"),
    (r"\boxed{5}. The answer is not correct if we allow 0, but we do not.", "5", "boxed"),
    (r"So \boxed{5}, which is not the answer I expected at first.", "5", "boxed"),
    (r"\boxed{5} (it is not the answer with repetition)", "5", "boxed"),
    (r"\boxed{5}. That isn't true in general.", "5", "boxed"),
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
    (r"\boxed{34} is wrong", "retracted"),
    (r"$\boxed{34}$. But that is not correct.", "retracted"),
    (r"It is not $\boxed{34}$", "retracted"),
    (r"\boxed{34}, not \boxed{33}", "retracted"),
    ("<answer>34</answer> is incorrect", "retracted"),
    ("Answer: 34\nNo, that is wrong.", "retracted"),
    (r"\boxed{34}. This is not the answer that we are looking for.", "retracted"),
    (r"\boxed{34}, which is incorrect; the sum is odd.", "retracted"),
    (r"\boxed{34} is wrong because the sum is odd", "retracted"),
    (r"\boxed{34}. This is not true.", "retracted"),
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
    (r"\boxed{34} is wrong", "34", "none", "retracted"),
    (r"\boxed{\vec{x}}", "x", "exact", "unparsable"),
    (r"\boxed{34}", "  ", "none", "empty_gold"),
    ("34", "34", "none", "no_marker"),
]


def boxed(answer: str) -> str:
    return f"\\boxed{{{answer}}}"


@pytest.fixture(scope="module", autouse=True)
def _worker() -> Iterator[None]:
    """Start a worker before anything is timed, and end it with the module."""
    warm_up(2)
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


def test_gold_problems_are_reasons() -> None:
    problems = {"": "empty_gold", r"\text{}": "different", "{": "unclosed_box", "1" * 2000: "too_long", "34": ""}
    assert {gold: gold_problem(gold) for gold in problems} == problems


def test_any_of_several_golds_is_right() -> None:
    golds = [r"\frac12", "50"]
    assert [verify(boxed(pred), golds).correct for pred in ("0.5", "50", "5")] == [True, True, False]
    assert verify(boxed("0.5"), ["", "0.5"]).correct
    assert [verify(boxed("34"), gold).reason for gold in ([], ["", " "])] == ["empty_gold", "empty_gold"]
    assert [gold_problem(gold) for gold in (golds, ["34", "{"], [])] == ["", "unclosed_box", "empty_gold"]


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
