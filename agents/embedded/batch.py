"""The running batch: requests join and leave between two steps, and each step gives every row that decodes one id.

A row *waits*, then its context is *read* (in pieces, beside the rows that decode, at most ``STEP_IDS`` ids a step),
then it *decodes*. How much has to be read depends on what is known: the last turn of its session, or the prompt of its
group. A row whose group's leader is reading their prompt waits for it. After an update of the weights nothing is known:
rows in flight keep what they sampled and are read anew.

No threads and no locks here; given the same rows in the same order, each step is the same to the bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from agents.embedded.feed import Feed, Forward, Piece
from agents.embedded.kv import KVShape, Shelf, Shelves, Strip
from agents.embedded.memory import Memory
from agents.embedded.row import Row, common_prefix
from agents.embedded.sampling import sample
from agents.embedded.stops import StopTable
from retool_env.errors import EngineError

__all__ = ["Batch"]

STEP_IDS = 4096


class Batch:
    """Steps through all requests that were added.

    Args:
        max_rows: that are read or decode at a time; others wait.
        cache_tokens: whose keys and values are kept for sessions that may go on.
    """

    def __init__(self, forward: Forward, stops: StopTable, shape: KVShape, *, max_rows: int, cache_tokens: int) -> None:
        self._forward, self._stops, self._shape = forward, stops, shape
        self._max_rows = max_rows
        self._shelves: Shelves[Row] = Shelves(shape)
        self._memory = Memory(cache_tokens)
        self._waiting: list[Row] = []
        self._reading: list[Row] = []
        self._gone: list[Row] = []  # finished, and perhaps still leaders

    @property
    def rows(self) -> list[Row]:
        """All that have not finished, those that decode first."""
        return [*(row for shelf in self._shelves.used() for row in shelf.members), *self._reading, *self._waiting]

    def add(self, rows: Iterable[Row]) -> None:
        self._waiting += rows

    def weights_changed(self) -> None:
        """Forget all keys and values; what is in flight will be read anew, in the order of the rows."""
        self._waiting, self._reading = self.rows, []
        for row in self._waiting:
            row.strip = row.shelf = None
        self._gone = []
        self._shelves.clear()
        self._memory.clear()

    def clear(self) -> None:
        """Forget everything, also what is in flight."""
        self.weights_changed()
        self._waiting = []

    def step(self, version: int) -> list[Row]:
        """One forward pass, one id for every row whose context is known; returns the rows that finished.

        Cancelled rows leave in a step of their own.

        Args:
            version: of the weights, noted with every id.

        Raises:
            EngineError: the model gives no numbers.
        """
        if cancelled := self._cancel():
            return cancelled
        self._admit()
        self._dismiss()
        self._widen()
        pieces = self._pieces()
        shelves = self._shelves.used()
        decoding = [row for shelf in shelves for row in shelf.members]
        if not decoding and not pieces:
            return []
        ids = np.array([row.last_id for row in decoding], dtype=np.int64)
        logits = self._forward(Feed(shelves=shelves, shelf_ids=ids, pieces=pieces))
        for shelf in shelves:
            shelf.lengths[: len(shelf.members)] += 1
        for piece in pieces:
            piece.strip.length += len(piece.ids)
        num_read = sum(piece.wanted for piece in pieces)  # the first that are being read
        sampled = [*decoding, *self._reading[:num_read]]
        if sampled:
            self._draw(sampled, logits, version)
        self._reading = self._reading[num_read:]
        ended = [row for row in sampled if row.reason]
        self._leave(ended)
        self._shelve(row for row in sampled[len(decoding) :] if not row.reason)
        if not self.rows:
            self._dismiss()
        return ended

    def _cancel(self) -> list[Row]:
        gone = [row for row in self.rows if row.request.cancel is not None and row.request.cancel.cancelled]
        for row in gone:
            row.reason = "abort"
        self._waiting = [row for row in self._waiting if not row.reason]
        self._reading = [row for row in self._reading if not row.reason]
        self._leave(gone)
        return gone

    def _admit(self) -> None:
        """Let waiting rows in, as far as there is room, with what is known of their contexts."""
        room = self._max_rows - len(self._reading) - sum(len(shelf.members) for shelf in self._shelves.used())
        kept = []
        for k, row in enumerate(self._waiting):
            if room == 0:
                kept += self._waiting[k:]
                break
            if self._open(row):
                room -= 1
            else:
                kept.append(row)
        self._waiting = kept

    def _open(self, row: Row) -> bool:
        """Start a row from its session or its group's leader; False: better wait for the leader."""
        context = row.context
        leader = self._memory.leader(row)
        if leader is not None and self._reads_on(leader, context):
            return False
        before = self._memory.take(row)
        known = self._known(context, [source for source in (before, leader) if source is not None])
        if known is not None and known.shape[-2] == len(context) - 1:
            self._put(row, known)
        else:
            row.strip = Strip.start(self._shape, len(context), known)
            self._reading.append(row)
        self._memory.lead(row)
        return True

    def _reads_on(self, leader: Row, context: NDArray[np.int64]) -> bool:
        """The leader will know more of ``context`` than it does now."""
        return leader in self._reading and common_prefix(leader.context, context[:-1]) > leader.num_known

    @staticmethod
    def _known(context: NDArray[np.int64], sources: Sequence[Row]) -> torch.Tensor | None:
        """The most of ``context`` but its last id that one of the sources holds."""
        best, most = None, 0
        for source in sources:
            length = min(common_prefix(source.context, context[:-1]), source.num_known)
            if length > most:
                best, most = source, length
        if best is None:
            return None
        return best.known[..., :most, :]

    def _pieces(self) -> list[Piece]:
        """What is read in this step, in the order of admission."""
        room = max(STEP_IDS - sum(len(shelf.members) for shelf in self._shelves.used()), 1)
        pieces = []
        for row in self._reading:
            assert row.strip is not None
            ids = row.context[row.strip.length :]
            pieces.append(Piece(strip=row.strip, ids=ids[:room], wanted=len(ids) <= room))
            room -= len(pieces[-1].ids)
            if room == 0:
                break
        return pieces

    def _draw(self, rows: list[Row], logits: torch.Tensor, version: int) -> None:
        uniforms = np.array([row.uniforms[len(row.ids)] for row in rows])
        samplings = [row.request.sampling for row in rows]
        ids, logprobs = sample(logits, torch.from_numpy(uniforms).to(logits.device), samplings)
        drawn = logprobs.cpu().numpy()
        if not np.isfinite(drawn).all():
            raise EngineError("the model's logits are not finite: its weights are broken, or its dtype is too narrow")
        for row, token, logprob in zip(rows, ids.tolist(), drawn.tolist(), strict=True):
            row.ids.append(token)
            row.logprobs.append(logprob)
            row.versions.append(version)
            if self._stops.ends(row.ids, row.request.stop):
                row.reason = "stop"
            elif len(row.ids) == row.request.budget:
                row.reason = "length"

    def _leave(self, rows: Sequence[Row]) -> None:
        """Take rows out of the batch and keep what they know for the next turn."""
        # From the back, so that the row which moves into a gap is never one that leaves too.
        for row in sorted(rows, key=lambda row: -row.place):
            if row.shelf is not None:
                strip = Strip(row.known.clone(), row.num_known)
                self._take_down(row)
                row.strip = strip
        for row in rows:
            if row.strip is not None:
                self._memory.keep(row)
        self._gone += rows

    def _dismiss(self) -> None:
        """Let finished rows lead no more. Those that waited for one of them could copy from it first."""
        for row in self._gone:
            self._memory.dismiss(row)
        self._gone = []

    def _shelve(self, rows: Iterable[Row]) -> None:
        for row in rows:
            self._put(row, row.known)

    def _widen(self) -> None:
        """Move rows that fill their shelf to a wider one."""
        for shelf in self._shelves.used():
            full = [row for row in shelf.members if row.num_known == shelf.columns]
            for row in sorted(full, key=lambda row: -row.place):
                place = row.place
                self._put(row, row.known)
                self._fill_gap(shelf, place)

    def _put(self, row: Row, known: torch.Tensor) -> None:
        shelf = self._shelves.for_length(known.shape[-2])
        row.place = len(shelf.members)
        shelf.add(row, known)
        row.shelf, row.strip = shelf, None

    def _take_down(self, row: Row) -> None:
        assert row.shelf is not None
        self._fill_gap(row.shelf, row.place)
        row.shelf = None

    @staticmethod
    def _fill_gap(shelf: Shelf[Row], place: int) -> None:
        mover = shelf.remove(place)
        if mover is not None:
            mover.place = place
