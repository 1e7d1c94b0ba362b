"""Compare two answers part by part.

Purpose: walk the structures of answer and gold together, decide each pair of values exactly where that is possible,
and ask the algebra system for the rest within one time budget.
Contract: :meth:`Comparison.nodes` returns ``equal`` or the reason why not. A scalar gold is never met by a list; names
must agree where both sides give one; unordered parts are matched one to one.
Left out: readings on which the two sides must first agree (:mod:`.readings`), the algebra itself (:mod:`.symbolic`) and
finding the answer (:mod:`.extract`).
"""

from __future__ import annotations

from typing import Protocol

from retool_env.verifier.exact import decide, number
from retool_env.verifier.expressions import expressions, left_to_right
from retool_env.verifier.guards import refused
from retool_env.verifier.readings import agree, congruent, is_equation_of_sums, same_name
from retool_env.verifier.shape import LEAF, LIST, UNION, Node
from retool_env.verifier.symbolic import Reply

__all__ = ["EQUAL", "FATAL", "Ask", "Comparison"]

EQUAL = "equal"
FATAL = ("timeout", "outage", "crash")


class Ask(Protocol):
    """The algebra system."""

    def __call__(self, pred: str, gold: str, *, seconds: float) -> Reply:
        """Whether two expressions are equal, found out within so many seconds."""
        ...


class Comparison:
    """One comparison of an answer with a gold; remembers whether algebra was needed."""

    def __init__(self, ask: Ask, *, seconds: float) -> None:
        self._ask = ask
        self._seconds = seconds
        self.asked = False

    def nodes(self, pred: Node, gold: Node) -> str:
        """``equal``, or why these two parts are not."""
        pred, gold = agree(pred, gold)
        if not _same_kind(pred, gold):
            return self._other_kind(pred, gold)
        if not same_name(pred.name, gold.name):
            return self._other_name(pred, gold)
        if is_equation_of_sums(gold.name) and not pred.name:
            return self._algebra(pred.source, gold.source) if "=" in pred.source else "different"
        if gold.kind == LEAF:
            return self._leaves(pred, gold)
        if len(pred.items) != len(gold.items):
            return "different"
        return self._unordered(pred, gold) if gold.kind in (LIST, UNION) else self._ordered(pred, gold)

    def _other_kind(self, pred: Node, gold: Node) -> str:
        intervals = pred.kind[0] in "([" and gold.kind[0] in "(["
        if _is_relation(pred) and _is_relation(gold) and not intervals:
            return self._algebra(pred.source, gold.source)
        return "list_for_scalar" if gold.kind == LEAF else "different"

    def _other_name(self, pred: Node, gold: Node) -> str:
        numeric = number(pred.text) is not None and number(gold.text) is not None and not (pred.sums or gold.sums)
        if pred.kind != LEAF or numeric:
            return "different"
        return self._algebra(pred.source, gold.source)

    def _leaves(self, pred: Node, gold: Node) -> str:
        if bool(pred.name) != bool(gold.name) and "=" in pred.source and "=" in gold.source:
            return self._algebra(pred.source, gold.source)
        if congruent(pred, gold):
            return EQUAL
        return decide(pred.text, gold.text) or self._algebra(*expressions(pred.text, gold.text))

    def _ordered(self, pred: Node, gold: Node) -> str:
        verdicts = (self.nodes(left, right) for left, right in zip(pred.items, gold.items, strict=True))
        return next((verdict for verdict in verdicts if verdict != EQUAL), EQUAL)

    def _unordered(self, pred: Node, gold: Node) -> str:
        left = list(pred.items)
        for right in gold.items:
            # The likely partner first: each unlikely one may cost a question to the algebra system.
            for item in sorted(left, key=lambda node: node.source != right.source):
                verdict = self.nodes(item, right)
                if verdict == EQUAL:
                    left.remove(item)
                    break
                if verdict in FATAL:
                    return verdict
            else:
                return "different"
        return EQUAL

    def _algebra(self, pred: str, gold: str) -> str:
        reason = refused(pred) or refused(gold)
        if reason:
            return reason
        if self._seconds <= 0:
            return "timeout"
        self.asked = True
        reply = self._ask(left_to_right(pred), left_to_right(gold), seconds=self._seconds)
        self._seconds -= reply.seconds
        return reply.verdict


def _same_kind(pred: Node, gold: Node) -> bool:
    if {pred.kind, gold.kind} == {LIST, UNION}:
        # "x < 1 or x = 3" is a union, spelled as a list of intervals and of values of one name.
        listed = (pred if pred.kind == LIST else gold).items
        return any(item.kind != LEAF for item in listed) and all(item.kind != LEAF or item.name for item in listed)
    return pred.kind == gold.kind


def _is_relation(node: Node) -> bool:
    return any(sign in node.source for sign in ("=", "<", ">", "\\le ", "\\ge ", "\\ne "))
