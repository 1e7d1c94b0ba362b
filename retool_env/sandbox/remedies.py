"""What to do when a host refuses a wall: from the kernel's refusal to advice that a person can follow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from retool_env.errors import UsageError

__all__ = ["TierError", "remedy"]

_REMEDIES: Final = (
    (
        "unshare(",
        "this host refuses namespaces: in docker add `--security-opt seccomp=unconfined` and, for root, "
        "`--cap-add SYS_ADMIN`; on Ubuntu 24.04 `sysctl kernel.apparmor_restrict_unprivileged_userns=0`; elsewhere "
        "check user.max_user_namespaces and kernel.unprivileged_userns_clone",
    ),
    (
        "mount",
        "this host refuses mounts in a new namespace: in docker add `--security-opt apparmor=unconfined` and, for "
        "root, `--cap-add SYS_ADMIN`",
    ),
    ("pivot_root", "in docker add `--security-opt apparmor=unconfined`"),
    ("Landlock", 'start the kernel (5.13 or later) with lsm=landlock,..., or do with tier "T1\'"'),
    ("landlock", 'start the kernel (5.13 or later) with lsm=landlock,..., or do with tier "T1\'"'),
    ("prctl(22", "this host refuses seccomp filters; only tier 'T3' (unsafe) works here"),
    ("uid_map", "this host does not let processes name the users of a new user namespace"),
    ("Permission denied", "the interpreter must lie where an unprivileged user may read it"),
)


def remedy(refusal: str) -> str:
    """Advice for one refusal; empty when there is none better than the refusal itself."""
    return next((advice for key, advice in _REMEDIES if key in refusal), "")


class TierError(UsageError):
    """No tier that was asked for can be had on this host. ``refused``: what the host said, by tier."""

    def __init__(self, refused: Mapping[str, str]) -> None:
        self.refused = dict(refused)
        reasons = "; ".join(f"{tier}: {why}" for tier, why in refused.items())
        advice = next(filter(None, map(remedy, refused.values())), "")
        hint = f". {advice[0].upper()}{advice[1:]}" if advice else ""
        weaker = "" if "T3" in refused else ". `unsafe=True` allows tier T3: limits, but no isolation"
        super().__init__(f"the sandbox cannot isolate programs on this host ({reasons}){hint}{weaker}")
