"""Advantages by name, with their options; a name may be a user's own function.

Contract: what :func:`make_advantage` returns maps :class:`~algos.advantages.episodes.Episodes` to
:class:`~algos.advantages.episodes.Credit`. A user's function (``file.py:name`` or ``package.module:name``) gets the
episodes and its options, and returns one number per episode, or one array ``[num_tokens]`` per episode; an episode is
then used when any of its advantages is not zero.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from algos.advantages.batch import by_group, gdpo, lite_ppo, reinforce_pp_baseline
from algos.advantages.episodes import Advantage, Credit, Episodes, has_actions
from algos.advantages.gae import gae, reinforce_pp, vapo
from algos.advantages.group import ADVANTAGES, maxrl
from retool_env.errors import UsageError, did_you_mean
from retool_env.modules import load_module, split_source

__all__ = ["ESTIMATORS", "make_advantage", "needs_critic"]

ESTIMATORS: Mapping[str, Callable[..., Credit]] = {
    **{name: functools.partial(by_group, function=function) for name, function in ADVANTAGES.items()},
    "maxrl": functools.partial(by_group, function=maxrl),
    "lite_ppo": lite_ppo,
    "gdpo": gdpo,
    "reinforce_pp": reinforce_pp,
    "reinforce_pp_baseline": reinforce_pp_baseline,
    "gae": gae,
    "vapo": vapo,
}


def needs_critic(name: str) -> bool:
    """Whether the estimator reads values."""
    return name in ("gae", "vapo")


def make_advantage(name: str, **options: float) -> Advantage:
    """The estimator called ``name``.

    Args:
        options: keyword arguments of the estimator's function.

    Raises:
        UsageError: an unknown name or option, or a file that cannot be loaded.
    """
    location, attribute = split_source(name)
    own = bool(attribute)
    function = _load(location, attribute, name) if own else ESTIMATORS.get(name)
    if function is None:
        raise UsageError(f"no advantage {name!r}{did_you_mean(name, ESTIMATORS)}; or give file.py:function")
    signature = inspect.signature(function)
    known = [key for key, value in list(signature.parameters.items())[1:] if key != "function"]
    for key in options:
        if key not in known:
            raise UsageError(f"advantage {name!r} has no option {key!r}{did_you_mean(key, known)}")
    return functools.partial(_checked, function, name, options) if own else functools.partial(function, **options)


def _load(location: str, attribute: str, name: str) -> Callable[..., Any]:
    function = getattr(load_module(location, what="advantage"), attribute, None)
    if not callable(function):
        raise UsageError(f"advantage={name!r}: no function {attribute!r} there; define one that takes the episodes")
    return function  # type: ignore[no-any-return]


def _checked(function: Callable[..., Any], name: str, options: Mapping[str, float], episodes: Episodes) -> Credit:
    """What a user's function says, as a credit."""
    try:
        rows = [np.asarray(row, dtype=np.float64) for row in function(episodes, **options)]
    except Exception as error:
        raise UsageError(f"advantage={name!r} failed with {type(error).__name__}: {error}") from error
    if len(rows) != len(episodes):
        raise UsageError(f"advantage={name!r} gave {len(rows)} rows for {len(episodes)} episodes; give one each")
    for k, (row, mask) in enumerate(zip(rows, episodes.trained, strict=True)):
        if row.shape not in ((), mask.shape):
            raise UsageError(f"advantage={name!r}: row {k} has shape {row.shape}; give a number or {mask.shape}")
        if not np.isfinite(row[mask] if row.shape else row).all():
            raise UsageError(f"advantage={name!r}: row {k} is not finite; give finite advantages")
    advantages = [np.where(mask, row, 0.0) for row, mask in zip(rows, episodes.trained, strict=True)]
    used = has_actions(episodes) & np.array([row.any() for row in advantages], dtype=np.bool_)
    return Credit(advantages=advantages, used=used)
