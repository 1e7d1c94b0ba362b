"""``retool doctor``: what of this machine and this installation stands in the way, and what to do about it.

Purpose: answer the questions of every troubleshooting list by looking, before a run is paid for.
Contract: each examination returns :class:`Finding` objects and raises nothing for what it finds; nothing is changed.
torch is never imported, so a broken one can be examined. The parts: what is installed (:mod:`.installation`), the
machine (:mod:`.machine`), servers (:mod:`.servers`) and checkpoints (:mod:`.checkpoint`).
Left out: whether a model fits, which is ``retool plan``; data files, ``retool data check``; every tier of isolation,
``retool sandbox doctor``.
"""

from __future__ import annotations

from retool_env.doctor.finding import Finding, Level

__all__ = ["Finding", "Level"]
