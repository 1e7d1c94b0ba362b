r"""Judge the answer of a response against a gold answer.

Purpose: the one source of truth for rewards. :func:`verify` finds the answer the response commits to
(:mod:`.extract`), brings both sides to one notation (:mod:`.latex`) and structure (:mod:`.shape`), compares them value
by value exactly where it can (:mod:`.exact`, :mod:`.compare`), and asks a computer algebra system in killable
processes (:mod:`.pool`) for the rest. A false positive is worse than a false negative: what is not understood is
wrong. What counts as equal is written down in ``docs/verifier.md``.

Contract: never raises for any text, is bounded in time (at most two seconds, aside from the start of the worker and the
queue for it), may be called from any thread, touches no signal handler, and imports no algebra library into the
caller's process. ``Verdict.reason`` is one of

* right: ``equal``;
* wrong value: ``different``, ``not_a_number`` (prose, variables or an unevaluated operator for a number as gold),
  ``list_for_scalar``, ``unparsable``;
* no answer: ``no_marker``, ``unclosed_box``, ``unclosed_think``, ``empty_answer``, ``template``, ``retracted``,
  ``no_final_message``;
* refused for its size: ``too_long``, ``too_deep``, ``too_big``;
* the gold: ``empty_gold``;
* not the model's fault: ``timeout``, ``crash`` (the algebra killed its process), ``outage`` (there is no worker).

Entry points: :func:`verify`, :func:`verify_batch`, :func:`verify_async`; :func:`gold_problem` and :func:`gradable` for
gold answers; :func:`warm_up` before the first call and :func:`close` after the last one, both optional.
Left out: rewards (a function of the verdict, :mod:`retool_env.rewards`) and other people's verifiers (:mod:`.others`).
"""

from __future__ import annotations

from retool_env.errors import InfrastructureError
from retool_env.verifier.extract import Extracted, extract_answer
from retool_env.verifier.judge import Response, Verifier, gold_problem, gradable, verify
from retool_env.verifier.many import verify_async, verify_batch
from retool_env.verifier.pool import shared_pool
from retool_env.verifier.verdict import Verdict

__all__ = [
    "Extracted",
    "Response",
    "Verdict",
    "Verifier",
    "close",
    "extract_answer",
    "gold_problem",
    "gradable",
    "verify",
    "verify_async",
    "verify_batch",
    "warm_up",
]


def warm_up(workers: int | None = None) -> None:
    """Start the worker processes now, about two seconds each, so that no check has to wait for them.

    Args:
        workers: how many; by default one per core that this process may use, at most four.

    Raises:
        UsageError: fewer than one worker.
        InfrastructureError: a worker does not start; math-verify or its dependencies are not importable.
    """
    pool = shared_pool(workers)
    running = pool.warm_up()
    if running < pool.size:
        raise InfrastructureError(
            f"{running} of {pool.size} verifier workers started; try: python -c 'import math_verify'"
        )


def close() -> None:
    """End the worker processes; they start again when they are needed."""
    shared_pool().close()
