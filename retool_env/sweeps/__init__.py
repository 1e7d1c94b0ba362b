"""Sweeps: one command, every combination of values, each a run of its own.

``retool train -m algo=grpo,ppo seed=range(5) out=runs/sweep`` is ten *cells*. Hydra makes the combinations (or Optuna's
sweeper chooses them) and hands them to a launcher: one after the other, or joblib's processes, submitit's jobs, Ray's
workers. Whoever launches it, a cell is one process of the plain command, ``retool train ... algo=ppo seed=3``, in a
run folder of its own below ``out``.

- :mod:`.multirun`: the sweep as a whole.
- :mod:`.cells`: what is kept of a cell, in ``cell.json`` beside what its run leaves.
- :mod:`.process`: one cell's process.
- :mod:`.ray_launcher`: ``hydra/launcher=ray``.

Contract: a cell that fails, or is killed, ends nothing but itself and is named at the end. The same command again goes
on with what is not finished, from each run's last checkpoint, and leaves finished cells alone. A folder holds one
sweep: other settings are refused, more values are not.
Left out: cells that are several processes themselves (``torchrun``); give those to a launcher one by one.
"""

from __future__ import annotations

from retool_env.sweeps.cells import Attempt, CellRecord, SweepRecord, is_sweep, read_cells, read_sweep

__all__ = ["Attempt", "CellRecord", "SweepRecord", "is_sweep", "read_cells", "read_sweep"]
