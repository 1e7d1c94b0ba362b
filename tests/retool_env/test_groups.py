"""Groups of settings: every option composes, says what it is, beats the recipe and loses to a key."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from agents.config import EvalConfig
from algos.config import DemoConfig, SftConfig, TrainConfig
from retool_env.cli import main
from retool_env.compose import compose
from retool_env.config import Config
from retool_env.errors import UsageError
from retool_env.groups import GROUPS, Option, config_folder, group_names, options

KINDS: dict[str, type[Config]] = {"train": TrainConfig, "eval": EvalConfig, "sft": SftConfig}
# Options that are tried alone, because they set what others set too, or go with another command than `train`.
ALONE = {"env": "train", "trainer": "train", "tools/notebook": "train", "sampling/greedy": "eval"}
TRIED_ELSEWHERE = ("algo", "experiment", "benchmark")  # tests/test_recipes.py, tests/agents/evaluation/test_suite.py


def option_sets() -> list[tuple[str, list[Option]]]:
    """Command and options to try with it: every option once, as many together as go together."""
    alone: list[tuple[str, list[Option]]] = []
    columns: dict[str, list[Option]] = {}
    for group in (group for group in GROUPS if group not in TRIED_ELSEWHERE):
        for option in options("train", TrainConfig, group):
            command = ALONE.get(group) or ALONE.get(f"{group}/{option.name}")
            if command:
                alone.append((command, [option]))
            else:
                columns.setdefault(group, []).append(option)
    rows = range(max(map(len, columns.values())))
    return alone + [("train", [column[k % len(column)] for column in columns.values()]) for k in rows]


def train(*overrides: str) -> TrainConfig:
    return compose("train", TrainConfig, overrides)


def at(config: Config, key: str) -> Any:
    return functools.reduce(lambda part, name: part[name], key.split("."), config.model_dump(mode="json"))


@pytest.mark.parametrize(("command", "chosen"), option_sets())
def test_options_set_what_their_files_say(command: str, chosen: list[Option]) -> None:
    config = compose(command, KINDS[command], [f"{option.group}={option.name}" for option in chosen])

    def check(values: Mapping[str, Any], prefix: str) -> None:
        for key, value in values.items():
            if isinstance(value, dict) and key != "reward":
                check(value, f"{prefix}{key}.")
            else:
                assert at(config, f"{prefix}{key}") == value

    for option in chosen:
        place = "rollout.sampling" if (command, option.group) == ("train", "sampling") else option.package
        check(option.values, f"{place}." if place else "")


def test_every_file_is_an_option_of_some_command_and_says_what_it_is() -> None:
    files = {f"{path.parent.name}/{path.stem}" for path in config_folder().glob("*/*.yaml")}
    found = [one for name, kind in KINDS.items() for group in GROUPS for one in options(name, kind, group)]
    assert {f"{one.group}/{one.name}" for one in found} == files
    assert all(10 < len(one.about) <= 100 for one in found)
    assert set(group_names("train", TrainConfig)) == set(GROUPS) - {"benchmark"}
    assert group_names("demo", DemoConfig) == []


def test_a_command_has_only_options_whose_keys_it_has() -> None:
    assert "data" not in group_names("sft", SftConfig) and "algo" not in group_names("eval", EvalConfig)
    assert [one.name for one in options("eval", EvalConfig, "experiment")] == ["finance_eval", "tiny_eval"]


def test_an_option_beats_the_recipe_and_loses_to_a_key() -> None:
    recipe = "experiment=tiny_strategic"
    assert train(recipe).env.reward == "strategic"
    assert train(recipe, "reward=pm1").env.reward == "pm1"
    assert train("reward=pm1", recipe).env.reward == "pm1"
    assert train(recipe, "reward=pm1", "env.reward=accuracy").env.reward == "accuracy"
    assert train(recipe, "reward=pm1").env.max_context_tokens == 256  # the rest of the recipe stays


def test_an_option_takes_the_place_of_the_one_that_a_recipe_chose() -> None:
    config = train("experiment=tiny_strategic", "env=published")
    assert config.env.max_context_tokens == 18432 and config.env.dialect == "hermes"
    assert config.env.instructions  # nothing of env=tiny is left
    assert config.env.reward == "strategic"  # what the recipe says itself is


def test_a_mapping_of_an_option_replaces_the_recipes() -> None:
    recipe = "experiment=finance_grpo"
    assert train(recipe).env.reward == {"accuracy": 1.0, "tool_partial": 0.5, "tool_selection": 0.5}
    assert train(recipe, "reward=format").env.reward == {"pm1": 1.0, "format": 0.1}
    assert train(recipe, "reward=format", "env.reward={pm1: 2}").env.reward == {"pm1": 2}


def test_an_option_can_be_put_elsewhere() -> None:
    config = train("data=dapo", "data@eval.problems=aime_2025", "sampling=train")
    assert config.problems.path == "data/data/dapo-math-17k.parquet"
    assert (config.eval.problems.name, config.eval.problems.split) == ("aime_2025", "heldout")


def test_an_option_beats_a_benchmark() -> None:
    config = compose("eval", EvalConfig, ["benchmark=math_500", "sampling=greedy"])
    assert (config.samples, config.sampling.temperature, config.problems.name) == (4, 0.0, "math_500")


def test_agents_without_a_file_are_still_named_by_the_short_form() -> None:
    assert compose("eval", EvalConfig, ["agent=mine.py:Mine"]).agent.name == "mine.py:Mine"
    assert compose("eval", EvalConfig, ["agent=sglang"]).agent.urls == ("http://127.0.0.1:30000",)
    assert compose("eval", EvalConfig, ["agent=sglang", "agent.url=http://b:1"]).agent.urls == ("http://b:1",)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["dialect=hermess"],
            "dialect='hermess' is unknown; did you mean 'hermes'?; one of your own is env.dialect=...",
        ),
        (["reward=acuracy"], "reward='acuracy' is unknown; did you mean 'accuracy'?"),
        (["algo=gropo"], "algo='gropo' is unknown; did you mean 'grpo'?"),
        (["rewrd=pm1"], "unknown config key 'rewrd'; did you mean 'reward'?"),
        (["logger=wandbb"], "logger='wandbb' is unknown; did you mean 'wandb'?"),
        (["env.verifier=retol"], "env.verifier='retol': no verifier 'retol'; did you mean 'retool'?"),
        (["logger.backends=[tensorbord]"], "logger.backends.0='tensorbord': input should be"),
        (["logger.backends=[tensorbord]"], "'swanlab'; did you mean 'tensorboard'?"),
        (["logger.console=perhaps"], "logger.console='perhaps': input should be a valid boolean"),
        (["env.sandbx=fork"], "unknown config key 'env.sandbx'; did you mean 'env.sandbox'?"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_mistakes_name_the_nearest(overrides: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        train(*overrides)
    assert message in str(caught.value)


def test_a_group_that_a_command_does_not_have_is_an_unknown_key() -> None:
    with pytest.raises(UsageError, match="unknown config key 'data'"):
        compose("sft", SftConfig, ["data=gsm8k"])


def test_help_lists_groups_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    shown = capsys.readouterr().out
    for group in group_names("train", TrainConfig):
        assert f"\n  {group}: {GROUPS[group]}\n" in shown
    for line in ("    drgrpo  ", "    hermes  ", "    strategic  ", "    tiny_strategic  "):
        assert f"\n{line}" in shown
    assert max(map(len, shown.split("settings (with defaults")[0].splitlines())) <= 120


def test_recipes_of_a_sweep_that_differ_in_their_own_choice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["train", "-m", "experiment=tiny_grpo,rlvr_tools_qwen2.5_0.5b", "env=published", f"out={tmp_path / 'sweep'}"]
    assert main(line) == 2
    assert "only some recipes of this sweep choose their own env; sweep them apart" in capsys.readouterr().err
