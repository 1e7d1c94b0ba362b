"""What is installed: the interpreter, the optional dependency groups, and who owns the names of our packages.

Facts come from the metadata of installed distributions; nothing is imported to be looked at.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions, requires, version
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement

import retool_env
from retool_env.doctor.finding import Finding

__all__ = ["examine_extras", "examine_names", "examine_program", "explain_import"]

DISTRIBUTION: Final = "retool-env"
PACKAGES: Final = ("retool_env", "agents", "algos")
_FOR: Final = {
    "train": "`retool demo`, `sft`, `train`, and `eval` of checkpoints",
    "tokens": "a model's own tokenizer and chat template",
    "sandbox": "programs that import numpy, scipy or sympy",
    "serve": "`retool sandbox serve`",
    "data": ".parquet files",
    "hub": "`problems.path=hf:owner/name`",
    "ray": "`rollout.ray.workers`",
    "sglang": "SGLang in this environment; it usually has one of its own (`retool serve --install DIR`)",
    "joblib": "`hydra/launcher=joblib`: cells of a sweep side by side",
    "submitit": "`hydra/launcher=submitit_local` and `submitit_slurm`",
    "optuna": "`hydra/sweeper=optuna`: values that are looked for",
    "sweeps": "all of joblib, submitit and optuna",
    "wandb": "`logger=wandb`",
    "swanlab": "`logger=swanlab`",
    "docs": "`make docs`",
    "dev": "`make test`",
}
_ROOT: Final = Path(retool_env.__file__).resolve().parents[1]


def examine_program() -> Finding:
    """Which retool this is, and whether the shell finds the same one."""
    said = f"retool {retool_env.__version__} in {_ROOT}, Python {sys.version.split()[0]} in {sys.prefix}"
    found = shutil.which("retool")
    if found is None or Path(found).parent.samefile(Path(sys.executable).parent):
        return Finding(topic="installation", said=said)
    return Finding(
        topic="installation",
        said=f"{said}; the shell's `retool` is another one, {found}",
        level="note",
        fix=f"activate the environment: . {sys.prefix}/bin/activate",
    )


def examine_extras() -> list[Finding]:
    """Every optional dependency group: complete, absent, or at a version that was not meant."""
    return [_examine_extra(extra, needed) for extra, needed in _extras().items()]


def _extras() -> dict[str, list[Requirement]]:
    """Requirements by group, in the order of ``_FOR``."""
    try:
        found = [Requirement(line) for line in requires(DISTRIBUTION) or ()]
    except PackageNotFoundError:  # run from a folder on the path, without metadata
        return {}
    extras = distribution(DISTRIBUTION).metadata.get_all("Provides-Extra") or []
    ordered = [*(name for name in _FOR if name in extras), *sorted(set(extras) - set(_FOR))]
    return {extra: [need for need in found if _belongs(need, extra)] for extra in ordered}


def _belongs(need: Requirement, extra: str) -> bool:
    marker = need.marker
    return marker is not None and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""})


def _examine_extra(extra: str, needed: list[Requirement]) -> Finding:
    missing = [need.name for need in needed if _installed(need.name) is None]
    other = [
        f"{need.name} {_installed(need.name)} (expected {need.specifier})"
        for need in needed
        if (found := _installed(need.name)) is not None and not need.specifier.contains(found, prereleases=True)
    ]
    purpose, install = _FOR.get(extra, "other uses"), f"pip install 'retool-env[{extra}]'"
    if other and not (extra == "sglang" and missing):
        return Finding(topic=f"[{extra}]", said=f"not as tested: {', '.join(other)}", level="wrong", fix=install)
    if missing:
        said = f"not there: {', '.join(missing)}; needed for {purpose}"
        return Finding(topic=f"[{extra}]", said=said, level="note", fix=install)
    key = next((f"{need.name} {_installed(need.name)}" for need in needed if need.name == "torch"), "")
    return Finding(topic=f"[{extra}]", said=f"complete{key and ', '}{key}; for {purpose}")


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def examine_names() -> Finding:
    """Our top-level packages are ours: another distribution (openai-agents) installs an ``agents`` too."""
    wrong = list(_collisions())
    if not wrong:
        return Finding(topic="names", said=f"{', '.join(PACKAGES)} are this installation's")
    fix = "pip uninstall the other one, or give retool an environment of its own; a folder of that name in the current "
    return Finding(topic="names", said="; ".join(wrong), level="wrong", fix=f"{fix}directory must be renamed")


def _collisions() -> Iterator[str]:
    owners = packages_distributions()
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        origin = Path(spec.origin).resolve().parent if spec is not None and spec.origin else None
        others = sorted(set(owners.get(name, ())) - {DISTRIBUTION})
        if origin is None:
            yield f"the package {name!r} is missing or has no __init__.py"
        elif origin.parent != _ROOT:
            yield f"`import {name}` finds {origin}, which is not ours" + (f" but {others[0]}'s" if others else "")
        elif others:
            yield f"{others[0]} also installs {name!r}; what is imported depends on the order of the path"


def explain_import(error: ModuleNotFoundError) -> str | None:
    """One line for a module that is missing because of how things were installed; ``None`` for any other module.

    >>> explain_import(ModuleNotFoundError("No module named 'uvicorn'", name="uvicorn"))
    "this needs the [serve] extra (uvicorn is missing): pip install 'retool-env[serve]'"
    """
    cause: BaseException | None = error
    while cause is not None:
        name = (getattr(cause, "name", None) or "").split(".")[0]
        if name in PACKAGES and (wrong := next(_collisions(), None)):
            return f"{wrong}; run `python -m retool_env.cli doctor`"
        for extra, needed in _extras().items():
            if name and any(need.name == name for need in needed):
                return f"this needs the [{extra}] extra ({name} is missing): pip install 'retool-env[{extra}]'"
        cause = cause.__cause__ or cause.__context__
    return None
