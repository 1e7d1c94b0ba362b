"""``--resume RUN``, which is ``resume=RUN``: go on with the run in a folder.

The run's own ``config.yaml`` is the configuration; nothing of the command line that began it has to be said again. What
is said besides is put on top of it, and the run folder then refuses what differs and names it (but for what is shown:
``logger=wandb`` may be said of any run). Where a recipe or another group of settings is among it
(``experiment=tiny_grpo``), that command line is the whole configuration, as it was when the run began.

Left out: what can be resumed, which is the business of checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from retool_env.config import Config, check_config
from retool_env.errors import UsageError, did_you_mean

__all__ = ["from_run", "split_run"]

C = TypeVar("C", bound=Config)
SWITCH = ("true", "false", "on", "off", "yes", "no", "1", "0", "null", "")


def split_run(name: str, kind: type[Config], overrides: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The run to go on with, if one is named, and the other overrides. ``resume=true`` names none.

    Raises:
        UsageError: there is no run in the folder, or the command does not resume so.
    """
    run, rest = None, list[str]()
    for override in overrides:
        key, _, value = override.partition("=")
        if key == "resume" and value.lower() not in SWITCH:
            run = Path(value.strip("'\""))
        else:
            rest.append(override)
    if run is None:
        return None, rest
    if "resume" not in kind.model_fields:
        raise UsageError(f"`retool {name}` goes on by itself: say what you said before, with out={run}")
    if not (run / "config.yaml").is_file():
        raise UsageError(f"resume={str(run)!r}: no config.yaml there; give the folder of a run, its out=...")
    return run, rest


def from_run(name: str, kind: type[C], run: Path, overrides: Sequence[str]) -> C:
    """The configuration of a run, with the overrides of keys on top of it.

    Args:
        name: of the command.

    Raises:
        UsageError: the run is one of another command, or an override is not one of its keys.
    """
    values = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    if not isinstance(values, dict) or (foreign := sorted(set(values) - set(kind.model_fields))):
        raise UsageError(
            f"resume={str(run)!r} is no run of `retool {name}`"
            + (f": its configuration has {foreign[0]!r}" if isinstance(values, dict) else "")
        )
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        _put(values, override.key_or_group, override.value())
    return check_config(kind, {**values, "resume": True, "out": str(run)})


def _put(values: dict[str, Any], key: str, value: object) -> None:
    *sections, last = key.split(".")
    inner: Any = values
    for section in sections:
        inner = inner.setdefault(section, {}) if isinstance(inner, dict) else None
    if not isinstance(inner, dict):
        raise UsageError(f"unknown config key {key!r}{did_you_mean(sections[0], values)}")
    inner[last] = value
