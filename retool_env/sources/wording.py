"""Questions without the instructions that data sets wrap them in, and when two of them are the same.

Data sets tell the model how to answer, and not in the same way: DAPO wants a line ``Answer: ...`` and pays for a box,
others want ``####``, or a box with quotes in it. The answer format is the dialect's to explain, so the instructions are
taken off and there is one format.

Contract: pure text functions. Only wordings that are listed here are taken off; another one stays in the question.
Left out: questions that are the same in other words.
"""

from __future__ import annotations

import re

__all__ = ["bare_question", "question_key"]

_TEMPLATES = re.compile(
    r"\ASolve the following math problem step by step\..*?answer to the problem\.\s*"
    r"|Remember to put your answer on its own line after \"Answer:\"\.\s*\Z"
    r"|Please reason step by step, and put your final answer within \\boxed\{\}\.?"
    r"|Let's think step by step and output the final answer (?:after \"####\"|within \\boxed\{\})\.?\s*\Z"
    r"|The answer format must be:? \\boxed\{'?The final answer goes here\.'?\}\s*\Z"
    r"|<\|im_start\|>(?:system\n.*?<\|im_end\|>\s*<\|im_start\|>)?user|<\|im_end\|>\s*(?:<\|im_start\|>assistant\s*)?",
    re.DOTALL,
)
_LOOKS = r"(?:\\(?:left|right|displaystyle|,|!|;)|\.(?![0-9])|[^\w+\-*/^<>=.]|_)"
_BETWEEN_DIGITS = re.compile(rf"(?<=[0-9]){_LOOKS}+(?=[0-9])")
_ELSEWHERE = re.compile(_LOOKS)


def bare_question(question: str) -> str:
    r"""The question without the instructions of a template.

    >>> bare_question("What is 6 * 7?\n\nPlease reason step by step, and put your final answer within \\boxed{}.")
    'What is 6 * 7?'
    """
    return _TEMPLATES.sub("", question).strip()


def question_key(question: str) -> str:
    r"""What two writings of one question have in common: its letters, digits and operators.

    Digits that stand apart stay apart: ``\frac{1}{23}`` is not ``\frac{12}{3}``.

    >>> question_key("What is $6 \\cdot 7$?") == question_key("what is  6 \\cdot 7")
    True
    """
    apart = _BETWEEN_DIGITS.sub("~", bare_question(question))
    return "~".join(_ELSEWHERE.sub("", part) for part in apart.split("~")).casefold()
