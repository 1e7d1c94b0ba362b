"""From overrides to a sweep: its folder, its axes, its cells."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from retool_env.errors import UsageError
from retool_env.sweeps.cells import CellRecord, SweepRecord, read_sweep, write_record

__all__ = ["claim", "folder_of", "plan", "values_of"]

_FOLDER = ("out=", "hydra.sweep.dir=")


def folder_of(overrides: Sequence[str]) -> tuple[Path, list[str]]:
    """The folder of the sweep, and the overrides that do not name it.

    Raises:
        UsageError: several folders.
    """
    parsed = _parse([override for override in overrides if override.startswith(_FOLDER)])
    rest = [override for override in overrides if not override.startswith(_FOLDER)]
    if len(parsed) > 1 or any(override.is_sweep_override() for override in parsed):
        raise UsageError("out with -m is one folder, that of the sweep; cells lie in it by their names. Give one value")
    if parsed:
        return Path(str(parsed[0].value())), rest
    return Path("multirun") / datetime.now().strftime("%Y-%m-%d/%H-%M-%S"), rest


def plan(name: str, written: Sequence[str], composed: DictConfig) -> tuple[SweepRecord, list[CellRecord]]:
    """What the sweep is about, and its cells; none where a sweeper chooses them as it goes.

    Args:
        written: overrides in Hydra's terms.
        composed: configuration of the sweep, Hydra's own included.
    """
    parsed = [one for one in _parse(written) if not _of_hydra(one)]
    chosen = OmegaConf.select(composed, "hydra.sweeper.params") or {}
    swept = {_axis(one): one for one in parsed if one.is_sweep_override()}
    axes = tuple(sorted({*swept, *map(str, chosen)}, key=lambda axis: (axis == "seed", axis)))
    fixed = sorted(f"{_axis(one)}={one.get_value_element_as_str()}" for one in parsed if not one.is_sweep_override())
    record = SweepRecord(command=name, axes=axes, fixed=tuple(fixed))
    basic = composed.hydra.runtime.choices["hydra/sweeper"] == "basic"
    if not basic or chosen or not all(one.is_discrete_sweep() for one in swept.values()):
        return record, []
    values = [[str(value) for value in swept[axis].sweep_string_iterator()] for axis in axes]
    cells = [dict(zip(axes, combination, strict=True)) for combination in itertools.product(*values)]
    return record, [CellRecord(values=_plain(cell), overrides=()) for cell in cells]


def claim(folder: Path, record: SweepRecord) -> None:
    """Make the folder this sweep's.

    Raises:
        UsageError: it is another sweep's, or a run's.
    """
    if (folder / "config.yaml").is_file():
        raise UsageError(f"out={str(folder)!r} holds a run; a sweep needs a folder of its own, give another out=...")
    old = read_sweep(folder)
    if old is not None and old != record:
        before, now = ({one.command, *one.axes, *one.fixed} for one in (old, record))
        raise UsageError(
            f"out={str(folder)!r} holds a sweep with other settings ({', '.join(sorted(before ^ now))} differ); give "
            "another out=..., or delete the folder"
        )
    write_record(folder, record)


def values_of(overrides: Sequence[str], axes: Sequence[str]) -> dict[str, str]:
    """The cell's value on every axis."""
    by_axis = {_axis(one): one.get_value_element_as_str() for one in _parse(overrides)}
    return _plain({axis: by_axis[axis] for axis in axes})


def _parse(overrides: Sequence[str]) -> list[Override]:
    parsed: list[Override] = OverridesParser.create().parse_overrides(list(overrides))
    return parsed


def _plain(values: dict[str, str]) -> dict[str, str]:
    """Without the quotes of the command line."""
    return {axis: value.strip("'\"") for axis, value in values.items()}


def _axis(override: Override) -> str:
    """``algo`` for ``+algo=...``, ``sampling`` for ``+sampling@rollout.sampling=...``."""
    group, _, place = str(override.get_key_element()).lstrip("+").partition("@")
    return group if not place or place.endswith(f".{group}") else f"{group}@{place}"


def _of_hydra(override: Override) -> bool:
    return str(override.key_or_group).partition(".")[0].partition("/")[0] == "hydra"
