"""What a number was measured with: whatever can change a score changes the identity."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.config import EvalConfig
from agents.evaluation.identity import Identity, identify
from retool_env.config import EnvConfig
from retool_env.sources import open_source

SOURCE = open_source(size=2, split="heldout")
OTHER = {
    "dialect": "hermes",
    "instructions": False,
    "tokenizer": "tiny",
    "sandbox": "fusion",
    "tools": (),
    "stateful": True,
    "interpreter_mode": "script",
    "traceback": "short",
    "reward": "strategic",
    "tool_cost": 0.25,
    "verifier": "boxed_exact",
    "max_context_tokens": 8000,
    "max_turn_tokens": 4000,
    "max_tool_rounds": 3,
    "max_tool_tokens": 1000,
    "max_invalid_calls": 2,
    "max_calls_per_turn": 4,
    "max_void_turns": 2,
    "cpu_seconds": 2.0,
    "wall_seconds": 10.0,
    "memory_mb": 256,
}
PAID = {"reward", "tool_cost"}  # what an episode earns is no part of what was measured with


def identity(**settings: object) -> Identity:
    return identify(EvalConfig(), EnvConfig.model_validate(settings), SOURCE)


def test_every_setting_of_an_environment_has_another_value_here() -> None:
    assert OTHER.keys() == EnvConfig.model_fields.keys(), "say in OTHER how a new setting can differ"


@pytest.mark.parametrize("name", OTHER)
def test_whatever_can_change_a_score_changes_the_identity(name: str, tiny_folder: Path) -> None:
    value = str(tiny_folder) if name == "tokenizer" else OTHER[name]
    usual, other = identity(), identity(**{name: value})
    assert other != usual
    assert (other.hash == usual.hash) is (name in PAID)


def test_a_verifier_of_ones_own_is_known_by_its_code(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text("def verify(response, gold):\n    return True\n")
    first = identity(verifier=str(mine))
    assert first.verifier["name"] == str(mine) and "mine.py" in first.verifier
    mine.write_text("def verify(response, gold):\n    return False\n")
    assert identity(verifier=str(mine)).hash != first.hash
