"""From the command line to a checked configuration, by Hydra.

The schema and all defaults are the pydantic classes; ``configs/COMMAND.yaml`` and the recipes in
``configs/experiment/`` hold only what differs. Hydra composes and applies overrides, pydantic checks the result. What
either says about a mistake becomes one line that names key, value and fix.

``configs/`` lies beside the packages in a checkout and inside ``retool_env`` in a wheel; both are looked for.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from retool_env.config import Config, check_config
from retool_env.errors import InfrastructureError, UsageError, did_you_mean
from retool_env.resume import from_run, split_run

__all__ = ["compose", "config_folder", "sweep"]

C = TypeVar("C", bound=Config)


def config_folder() -> Path:
    """Where the YAML files are."""
    package = Path(__file__).resolve().parent
    found = [
        folder for folder in (package.parent / "configs", package / "configs") if (folder / "train.yaml").is_file()
    ]
    assert found, f"no configs/ beside or inside {package}"
    return found[0]


def compose(name: str, kind: type[C], overrides: Sequence[str]) -> C:
    """The configuration of command ``name``.

    Raises:
        UsageError: an unknown key, recipe or value.
    """
    run, overrides = split_run(overrides)
    if run is not None and not any(map(_is_group, overrides)):
        return from_run(name, kind, run, _short_forms(kind, overrides))
    if run is not None:
        overrides = [*overrides, f"out={run}", *(["resume=true"] if "resume" in kind.model_fields else [])]
    _store_schema(name, kind)
    try:
        with hydra.initialize_config_dir(str(config_folder()), version_base="1.3"):
            written = _short_forms(kind, overrides)
            composed = hydra.compose(name, overrides=written)
            return _checked(kind, composed, written)
    except (HydraException, OmegaConfBaseException) as error:
        raise UsageError(_explain(error, kind)) from error


def sweep(name: str, kind: type[C], overrides: Sequence[str], run: Callable[[C], Any]) -> None:
    """``-m``: every combination of comma-separated values, through Hydra's launchers.

    Each job's ``out`` is its own folder of the sweep unless ``out`` was set. Jobs that fail do not stop the others; the
    first failure is raised at the end.

    Raises:
        UsageError: one ``out`` for all jobs, or a job's own mistake.
    """
    _store_schema(name, kind)
    out = next((override for override in overrides if override.startswith("out=")), None)
    if out is not None and "," not in out:
        raise UsageError(f"{out} with -m: every job needs a folder of its own; leave it out, or give one per job")
    failures: list[UsageError | InfrastructureError] = []

    def job(composed: DictConfig) -> None:
        try:
            if out is None:
                composed.out = HydraConfig.get().runtime.output_dir
            run(_checked(kind, composed, HydraConfig.get().overrides.task))
        except (UsageError, InfrastructureError) as error:
            failures.append(error)

    decorated = hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=name)(job)
    sys.argv = ["retool", *_short_forms(kind, overrides)]
    decorated()
    if failures:
        raise failures[0]


def _checked(kind: type[C], composed: DictConfig, overrides: Sequence[str]) -> C:
    """The composed values as a configuration.

    An override of a free-form mapping (``problems.families={add: 1}``) replaces it; Hydra alone would merge the two.
    """
    values = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(values, dict)
    plain: dict[str, Any] = {str(key): value for key, value in values.items()}
    known = _keys(kind, "")
    mappings = [o for o in overrides if o.partition("=")[0].removeprefix("++") in known and "{" in o]
    for override in OverridesParser.create().parse_overrides(mappings):
        if isinstance(replacement := override.value(), dict):
            *sections, last = override.key_or_group.split(".")
            functools.reduce(dict.__getitem__, sections, plain)[last] = replacement
    return check_config(kind, plain)


def _store_schema(name: str, kind: type[Config]) -> None:
    store = ConfigStore.instance()
    store.store(name=f"{name}_schema", node=kind().model_dump(mode="json"))
    if name == "demo":
        for stage, field in kind.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, Config):
                store.store(group="schema", name=stage, node=field.annotation().model_dump(mode="json"))


def _short_forms(kind: type[Config], overrides: Sequence[str]) -> list[str]:
    """``agent=oracle`` for ``agent.name=oracle``: a section that has a name may be set by it. And a free-form mapping
    may get keys that a recipe's does not have, which Hydra refuses unless asked twice (``++``)."""
    known = _keys(kind, "")
    sections = {key.removesuffix(".name") for key in known if key.endswith(".name")}
    written = []
    for override in overrides:
        key, equals, value = override.partition("=")
        forced = "++" if key in known and value.startswith("{") else ""
        written.append(f"{key}.name={value}" if key in sections else forced + key + equals + value)
    return written


def _is_group(override: str) -> bool:
    """Whether it chooses one of the files of a folder in ``configs/``."""
    name = override.partition("=")[0].partition("@")[0].lstrip("+~/")
    return "." not in name and (config_folder() / name).is_dir()


def _explain(error: Exception, kind: type[Config]) -> str:
    text = str(error.__cause__ or error)
    if match := re.search(r"Could not override '([^']+)'", str(error)):
        key = match[1]
        return f"unknown config key {key!r}{did_you_mean(key, _keys(kind, ''))}"
    if match := re.search(r"Could not find '([^']+)'", str(error)):
        group, _, name = match[1].rpartition("/")
        known = [path.stem for path in sorted((config_folder() / group).glob("*.yaml"))]
        return f"{group}={name!r} is unknown{did_you_mean(name, known)}"
    return "config: " + " ".join(text.split())


def _keys(kind: type[Config], prefix: str) -> list[str]:
    keys = []
    for name, field in kind.model_fields.items():
        inner = field.annotation
        nested = isinstance(inner, type) and issubclass(inner, Config)
        keys += _keys(inner, f"{prefix}{name}.") if nested else [prefix + name]  # type: ignore[arg-type]
    return keys
