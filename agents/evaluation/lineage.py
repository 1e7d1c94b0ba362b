"""Was a checkpoint trained in the environment that it is evaluated in?

A trainer's run folder holds its configuration above ``checkpoints/NAME``. What differs from it in prompt, dialect,
tools or budgets is said, because it moves the number without anybody having meant it to.
Left out: checkpoints that lie elsewhere, of which nothing is known.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import yaml
from pydantic import ValidationError

from agents.config import EvalConfig
from retool_env.config import EnvConfig

__all__ = ["training_differences"]

# Who runs the programs and what is paid for them are no part of what the policy meets.
_ELSEWHERE: Final = {"tokenizer", "sandbox", "reward", "tool_cost"}


def training_differences(config: EvalConfig) -> list[str]:
    """``env.max_tool_rounds=3 then, 8 now`` for each setting that differs."""
    if config.agent.path is None:
        return []
    trained = _trained_env(Path(config.agent.path).resolve().parent.parent / "config.yaml")
    if trained is None:
        return []
    then, now = (env.model_dump(mode="json", exclude=_ELSEWHERE) for env in (trained, config.env))
    return [f"env.{name}={then[name]} then, {now[name]} now" for name in then if then[name] != now[name]]


def _trained_env(path: Path) -> EnvConfig | None:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        return EnvConfig.model_validate(values["env"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValidationError):
        return None
