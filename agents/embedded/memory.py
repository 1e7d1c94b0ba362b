"""What can be used again: the keys and values of episodes between two turns, and prompts of one group.

A row that has finished is kept under its session; the next turn of that session goes on from there when its context
starts with all that is kept. When there are too many tokens the oldest rows are dropped.

The samples of one problem have their prompt in common: one row per group that is in flight is its *leader*, and a new
row of the group copies from it. Rows that have finished lead nothing, so that what a request is computed from, to the
last bit, depends on its episode and its batch, and not on what was asked before.
"""

from __future__ import annotations

from collections import OrderedDict

from agents.embedded.row import Row, common_prefix

__all__ = ["Memory"]

MIN_SHARED = 8


class Memory:
    """Finished rows by session, and a leader per group.

    Args:
        max_tokens: that finished rows hold, all together.
    """

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._num_tokens = 0
        self._finished: OrderedDict[int, Row] = OrderedDict()
        self._leaders: dict[int, Row] = {}

    def keep(self, row: Row) -> None:
        """Remember a row that has finished; it has a strip."""
        self._take(row.request.session)
        self._finished[row.request.session] = row
        self._num_tokens += row.num_known
        while self._num_tokens > self._max_tokens:
            self._take(next(iter(self._finished)))

    def take(self, row: Row) -> Row | None:
        """The row that ended the last turn of this row's session, if it can be continued; it is forgotten."""
        before = self._take(row.request.session)
        if before is not None and common_prefix(before.context, row.context[:-1]) >= before.num_known:
            return before
        return None

    def leader(self, row: Row) -> Row | None:
        """A row of the same group with more than a few ids in common; it may still be reading them."""
        leader = self._leaders.get(row.request.group)
        if leader is not None and common_prefix(leader.context, row.context) >= MIN_SHARED:
            return leader
        return None

    def lead(self, row: Row) -> None:
        """Make this row its group's leader if there is none."""
        self._leaders.setdefault(row.request.group, row)

    def dismiss(self, row: Row) -> None:
        """Let this row lead no more."""
        if self._leaders.get(row.request.group) is row:
            del self._leaders[row.request.group]

    def clear(self) -> None:
        self._finished.clear()
        self._leaders.clear()
        self._num_tokens = 0

    def _take(self, session: int) -> Row | None:
        row = self._finished.pop(session, None)
        if row is not None:
            self._num_tokens -= row.num_known
        return row
