"""``-m``: a sweep from the command line to its last line.

``out`` (or ``hydra.sweep.dir``) is the folder of the sweep; without it a dated one below ``multirun/``. Everything that
Hydra can do with ``-m`` works: ranges, choices, globs, launchers, sweepers. What a cell returns to a sweeper that
optimises is its score; a cell that failed has none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf.errors import OmegaConfBaseException

from retool_env.compose import composing, hydra_overrides
from retool_env.config import Config
from retool_env.errors import InfrastructureError, UsageError
from retool_env.quoting import quoted
from retool_env.sweeps.cells import CellRecord, read_cell, read_cells, write_record
from retool_env.sweeps.plan import claim, folder_of, plan
from retool_env.sweeps.ray_launcher import register
from retool_env.sweeps.task import CellTask

__all__ = ["sweep"]

# What Hydra would write and say for each job is in the run folders, or said here.
_QUIET: Final = {
    "hydra/job_logging": "none",
    "hydra/hydra_logging": "none",
    "hydra.output_subdir": "null",
    "hydra.sweep.subdir": ".",
}


def sweep(name: str, kind: type[Config], overrides: Sequence[str], *, config: str, score: str) -> None:
    """Run command ``name`` for every combination of the values in ``overrides``.

    Args:
        kind: class of its configuration.
        config: import string of the same.
        score: import string of a function from a run folder to the number that a sweeper optimises; ``""`` for none.

    Raises:
        UsageError: a mistake in the overrides, or cells that ended by their user's mistake.
        InfrastructureError: cells that ended otherwise, or a launcher that failed.
    """
    folder, given = folder_of([override for override in overrides if override not in ("-m", "--multirun")])
    trouble = ""
    with composing(name, kind):
        if "hydra/launcher=ray" in given:
            register()
        written = hydra_overrides(name, kind, given)
        mine = {override.lstrip("+").partition("=")[0] for override in written}
        settings = [f"{key}={value}" for key, value in _QUIET.items() if key not in mine]
        line = [*written, *settings, f"hydra.sweep.dir={quoted(str(folder))}", "hydra.mode=MULTIRUN"]
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None, "composing() initialises it"
        composed = hydra.compose_config(config_name=name, overrides=line, run_mode=RunMode.MULTIRUN)
        record, planned = plan(name, written, composed)
        claim(folder, record)
        for cell in planned:  # so that one that is never begun is known by name
            if read_cell(folder / cell.folder) is None:
                write_record(folder / cell.folder, cell)
        alone = composed.hydra.runtime.choices["hydra/launcher"] == "basic"
        task = CellTask(command=name, config=config, score=score, folder=folder, axes=record.axes, show=alone)
        print(f"sweep: {folder} ({f'{len(planned)} cells' if planned else 'cells as they are chosen'})", flush=True)
        try:
            hydra.multirun(config_name=name, task_function=task, overrides=line)
        except (HydraException, OmegaConfBaseException):
            raise
        except KeyboardInterrupt:
            print(f"sweep: the same command with out={folder} goes on", flush=True)
            raise
        except Exception as error:  # noqa: BLE001 - launchers and sweepers are other people's
            trouble = f"{type(error).__name__}: {' '.join(str(error).split())}"
    _conclude(folder, planned, trouble)


def _conclude(folder: Path, planned: Sequence[CellRecord], trouble: str) -> None:
    """Say what there is; raises when a cell is not finished."""
    every = {record.label: record for record in read_cells(folder).values()}
    if planned:  # of more cells than these when an earlier call had more values
        every = {record.label: every[record.label] for record in planned}
    bad = [record for record in every.values() if record.status != "finished"]
    print(f"sweep: {folder}: {len(every) - len(bad)} of {len(every)} cells are finished", flush=True)
    scored = [record for record in every.values() if record.score is not None and not math.isnan(record.score)]
    if not planned and scored:
        best = max(scored, key=lambda record: record.score or 0.0)
        print(f"sweep: best: {best.label}, {100 * (best.score or 0.0):.1f} %")
    for record in bad:
        print(f"sweep: {record.label}: {record.why}")
    print(f"sweep: all together: retool report {folder}", flush=True)
    if not bad and not trouble:
        return
    text = f"{len(bad)} of {len(every)} cells did not finish"
    if bad:
        text += f", first {bad[0].label}: {bad[0].why}"
    text = f"the sweep ended early ({trouble}); {text}" if trouble else text
    text += f"; the same command with out={folder} goes on with them"
    codes = {record.attempts[-1].code if record.attempts else None for record in bad}
    raise UsageError(text) if codes == {2} and not trouble else InfrastructureError(text)
