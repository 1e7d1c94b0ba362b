"""From the command line to a checked configuration, by Hydra.

The schema and all defaults are the pydantic classes; ``configs/COMMAND.yaml``, the options of groups and the recipes in
``configs/experiment/`` hold only what differs. Hydra composes and applies overrides, pydantic checks the result. What
either says about a mistake becomes one line that names key, value and fix.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from retool_env.choices import written
from retool_env.config import Config, check_config, is_secret
from retool_env.errors import UsageError, did_you_mean
from retool_env.groups import GROUPS, config_folder, group_names, option, option_names, said_last
from retool_env.quoting import quoted
from retool_env.resume import from_run, split_run

__all__ = ["checked", "compose", "composing", "config_folder", "hydra_overrides"]

C = TypeVar("C", bound=Config)


def compose(name: str, kind: type[C], overrides: Sequence[str]) -> C:
    """The configuration of command ``name``.

    Raises:
        UsageError: an unknown key, recipe or value.
    """
    run, overrides = split_run(name, kind, overrides)
    if run is not None:
        keys = [key for override in overrides for key in _logger_keys(override)]
        if not any(map(_is_group, keys)):
            return from_run(name, kind, run, _short_forms(kind, keys))
        overrides = [*overrides, f"out={run}", "resume=true"]
    with composing(name, kind):
        given = hydra_overrides(name, kind, overrides)
        return checked(kind, hydra.compose(name, overrides=given), given)


@contextmanager
def composing(name: str, kind: type[Config]) -> Iterator[None]:
    """Hydra is initialised for command ``name`` in the block, and what it refuses is told in one line."""
    _store_schema(name, kind)
    try:
        with hydra.initialize_config_dir(str(config_folder()), version_base="1.3", job_name=name):
            yield
    except (HydraException, OmegaConfBaseException) as error:
        raise UsageError(_explain(error, name, kind)) from error


def checked(kind: type[C], composed: DictConfig, overrides: Sequence[str]) -> C:
    """The composed values as a configuration.

    A free-form mapping that an override or an option sets (``problems.families={add: 1}``) replaces what was there;
    Hydra alone would merge the two. So does all that an algorithm says, which Hydra would put in front of the recipe.

    Raises:
        UsageError: an unknown key, or a value of the wrong kind.
    """
    values = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(values, dict)
    plain: dict[str, Any] = {str(key): value for key, value in values.items()}
    for key, value in _replacements(composed, overrides, _keys(kind, "")):
        *sections, last = key.split(".")
        if isinstance(value, dict):
            value = OmegaConf.to_container(OmegaConf.create(value, parent=composed), resolve=True)
        functools.reduce(_section, sections, plain)[last] = value
    return check_config(kind, plain)


def _replacements(composed: DictConfig, overrides: Sequence[str], known: Sequence[str]) -> list[tuple[str, Any]]:
    """What takes the place of a composed value, by key: what options say last, mappings that were given as a whole,
    and what was given inside of either."""
    names = [override.partition("=")[0].lstrip("+") for override in overrides]
    said = {key: value for key, value in said_last(overrides) if key in known and key not in names}
    mappings = [o for o, name in zip(overrides, names, strict=True) if name in known and "{" in o]
    parsed = [(one.key_or_group, one.value()) for one in OverridesParser.create().parse_overrides(mappings)]
    inside = [name for name in names if any(name.startswith(f"{key}.") for key in said)]
    given = [(key, value) for key, value in parsed if isinstance(value, dict)]
    return [*said.items(), *given, *((name, OmegaConf.select(composed, name)) for name in inside)]


def _section(values: dict[str, Any], name: str) -> dict[str, Any]:
    if values.get(name) is None:
        values[name] = {}
    section: dict[str, Any] = values[name]
    return section


def _store_schema(name: str, kind: type[Config]) -> None:
    store = ConfigStore.instance()
    store.store(name=f"{name}_schema", node=kind().model_dump(mode="json"))
    if name == "demo":
        for stage, field in kind.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, Config):
                store.store(group="schema", name=stage, node=field.annotation().model_dump(mode="json"))


def hydra_overrides(name: str, kind: type[Config], overrides: Sequence[str]) -> list[str]:
    """What was written on the command line, in Hydra's terms: short forms and options of groups. Inside
    :func:`composing`. Of several choices of one group the last one counts, as with keys."""
    last = {override.partition("=")[0]: k for k, override in enumerate(overrides) if _is_group(override)}
    kept = [o for k, o in enumerate(overrides) if last.get(o.partition("=")[0], k) == k]
    return _short_forms(kind, written(name, kind, kept))


def _short_forms(kind: type[Config], overrides: Sequence[str]) -> list[str]:
    """``agent=oracle`` for ``agent.name=oracle``: a section that has a name may be set by it. And a free-form mapping
    may get keys that a recipe's does not have, which Hydra refuses unless asked twice (``++``). A secret is text, also
    one of digits."""
    known = _keys(kind, "")
    sections = {key.removesuffix(".name") for key in known if key.endswith(".name")}
    result = []
    for override in overrides:
        key, equals, value = override.partition("=")
        if is_secret(kind, key.lstrip("+").split(".")):
            value = _as_text(value)
        forced = "++" if key in known and value.startswith("{") else ""
        result.append(f"{key}.name={value}" if key in sections else forced + key + equals + value)
    return result


def _logger_keys(override: str) -> list[str]:
    """``logger=wandb`` as keys: it says nothing of what a run is, so a run goes on with another one."""
    group, _, name = override.partition("=")
    found = option(group, name) if group == "logger" else None
    return [f"logger.{key}={json.dumps(value)}" for key, value in found.values.items()] if found else [override]


def _as_text(value: str) -> str:
    """``value`` in quotes; not what has them already, what stands for another value, and what stands for none."""
    return value if value in ("", "null") or value.startswith(("'", '"', "${")) else quoted(value)


def _is_group(override: str) -> bool:
    """Whether it chooses an option of a group."""
    return override.partition("=")[0].partition("@")[0].lstrip("+~/") in GROUPS


def _explain(error: Exception, name: str, kind: type[Config]) -> str:
    text = str(error.__cause__ or error)
    if match := re.search(r"Could not override '([^']+)'", str(error)):
        key = match[1]
        return f"unknown config key {key!r}{did_you_mean(key, [*_keys(kind, ''), *group_names(name, kind)])}"
    if match := re.search(r"Could not find '([^']+)'", str(error)):
        group, _, option = match[1].rpartition("/")
        known = option_names(group) if group in GROUPS else []
        return f"{group}={option!r} is unknown{did_you_mean(option, known)}{_remedy(group, option)}"
    return "config: " + " ".join(text.split())


def _remedy(group: str, option: str) -> str:
    """What to do about a value that is no option: install a plugin of Hydra, or set the group's own key."""
    extras = {"joblib": "joblib", "submitit_local": "submitit", "submitit_slurm": "submitit", "optuna": "optuna"}
    if group.startswith("hydra/") and option in extras:
        return f"; it needs the [{extras[option]}] extra: pip install 'retool-env[{extras[option]}]'"
    keys = {"dialect": "env.dialect", "tools": "env.tools", "sandbox": "env.sandbox", "reward": "env.reward"}
    keys |= {"verifier": "env.verifier", "data": "problems.path", "model": "model.path"}
    return f"; one of your own is {keys[group]}=..." if group in keys else ""


def _keys(kind: type[Config], prefix: str) -> list[str]:
    keys = []
    for name, field in kind.model_fields.items():
        inner = field.annotation
        nested = isinstance(inner, type) and issubclass(inner, Config)
        keys += _keys(inner, f"{prefix}{name}.") if nested else [prefix + name]  # type: ignore[arg-type]
    return keys
