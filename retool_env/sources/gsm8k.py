"""The worked solutions of GSM8K.

A solution holds calculator annotations (``<<48/2=24>>``). They are kept apart from the question by the reader of the
layout (``metadata["solution"]``) and never reach a prompt; an oracle replays them as code to check the whole chain on
real data.
"""

from __future__ import annotations

import re

from retool_env.problems import Problem

__all__ = ["calculator_annotations"]

_ANNOTATION = re.compile(r"<<([^<>=]+)=[^<>]*>>")


def calculator_annotations(problem: Problem) -> tuple[str, ...]:
    """The left-hand sides of the calculator annotations of a problem, in order; ``()`` when it has none.

    >>> solution = "He has 48/2 = <<48/2=24>>24 left, and 24+48 = <<24+48=72>>72 in all."
    >>> calculator_annotations(Problem(id="p", prompt="?", answer="72", metadata={"solution": solution}))
    ('48/2', '24+48')
    """
    return tuple(match[1].strip() for match in _ANNOTATION.finditer(problem.metadata.get("solution", "")))
