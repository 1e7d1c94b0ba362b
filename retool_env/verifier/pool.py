"""The worker processes of the verifier, shared by all threads.

Purpose: as many questions to the algebra system at a time as there are workers, and no more processes than are needed.
Contract: lazy (an integer-only run never starts a process), thread-safe, and never raises. A question waits for a free
worker for as long as that takes; its time limit counts from its dispatch. The worker used last is taken first, so a
serial caller has one process however large the pool. A forked child of the caller begins with an empty pool. No signal
handler of the caller is touched.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from retool_env.errors import UsageError
from retool_env.verifier.symbolic import WORKER_SCRIPT, Reply, SymbolicWorker

__all__ = ["WorkerPool", "shared_pool"]

_MAX_DEFAULT_WORKERS = 4


class WorkerPool:
    """Up to ``workers`` processes (by default one per core that this process may use, at most four).

    Args:
        workers: how many.
        script: what a worker runs.

    Raises:
        UsageError: fewer than one worker.
    """

    def __init__(self, workers: int | None = None, *, script: Path = WORKER_SCRIPT) -> None:
        if workers is not None and workers < 1:
            raise UsageError(f"workers={workers}: the verifier needs at least one worker")
        self.size = workers or min(_MAX_DEFAULT_WORKERS, len(os.sched_getaffinity(0)))
        self._workers = [SymbolicWorker(script) for _ in range(self.size)]
        self._reset()

    @property
    def pids(self) -> list[int]:
        """The processes that were started and not closed since."""
        return [worker.pid for worker in self._workers if worker.pid is not None]

    def ask(self, pred: str, gold: str, *, seconds: float, plain: bool = False) -> Reply:
        """Whether two expressions are equal; waits for a free worker first (``plain``: see :class:`SymbolicWorker`)."""
        with self._free:
            # The semaphore counts the idle workers, so there is one; pop() and append() are atomic.
            worker = self._idle.pop()
            try:
                return worker.ask(pred, gold, seconds=seconds, plain=plain)
            finally:
                self._idle.append(worker)

    def warm_up(self) -> int:
        """Start every worker now, at the same time; returns how many run."""
        running: list[bool] = []
        threads = [threading.Thread(target=lambda w=worker: running.append(w.warm_up())) for worker in self._workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(running)

    def close(self) -> None:
        """End the processes; a later question starts one again."""
        for worker in self._workers:
            worker.close()

    def after_fork(self) -> None:
        """In a forked child: the processes and the locks belong to the parent."""
        for worker in self._workers:
            worker.after_fork()
        self._reset()

    def _reset(self) -> None:
        self._idle = list(reversed(self._workers))
        self._free = threading.BoundedSemaphore(self.size)


_POOL = WorkerPool()
os.register_at_fork(after_in_child=lambda: _POOL.after_fork())


def shared_pool(workers: int | None = None) -> WorkerPool:
    """The pool of this process; with ``workers``, one of that size, which takes the place of the old one."""
    global _POOL
    if workers is not None and workers != _POOL.size:
        old, _POOL = _POOL, WorkerPool(workers)
        old.close()
    return _POOL
