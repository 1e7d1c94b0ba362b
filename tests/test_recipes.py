"""Every recipe composes, says what its source says, and fits the machines that it names."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from agents.config import EvalConfig
from algos.algo_config import AdvantageConfig, AlgoConfig, ObjectiveConfig
from algos.config import SftConfig, TrainConfig
from algos.plan.command import main
from retool_env.compose import compose, config_folder
from retool_env.config import Config
from retool_env.errors import UsageError

EXPERIMENTS = sorted(path.stem for path in (config_folder() / "experiment").glob("*.yaml"))
ALGORITHMS = sorted(path.stem for path in (config_folder() / "algo").glob("*.yaml"))
LARGE = [name for name in EXPERIMENTS if "qwen2.5" in name]
KINDS: dict[str, type[Config]] = {"sft": SftConfig, "eval": EvalConfig, "train": TrainConfig}

# The published scripts: actor lr, prompts, samples, mini-batch prompts, turns, sequence ranks; clips are all alike.
PUBLISHED = {
    "retool_qwen2.5_32b_grpo": (1e-6, 512, 16, 64, 8, 8),
    "retool_qwen2.5_32b_ppo": (1e-6, 1024, 1, 256, 8, 4),
    "retool_qwen2.5_7b_grpo": (1e-6, 64, 16, 16, 16, 4),
    "retool_qwen2.5_7b_ppo": (1e-6, 1024, 1, 256, 8, 4),
}


def command_of(name: str) -> str:
    ending = name.rpartition("_")[2]
    return ending if ending in ("sft", "eval") else "train"


def text_of(name: str) -> str:
    return (config_folder() / "experiment" / f"{name}.yaml").read_text(encoding="utf-8")


def train_config(name: str) -> TrainConfig:
    return compose("train", TrainConfig, [f"experiment={name}"])


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_recipe_composes(name: str) -> None:
    command = command_of(name)
    config = compose(command, KINDS[command], [f"experiment={name}"])
    written = yaml.safe_load(text_of(name))
    assert set(written) - {"defaults"} <= set(KINDS[command].model_fields)
    for key in ("threads", "out", "save_every", "deterministic"):
        if key in written:
            assert getattr(config, key) == written[key]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_algorithm_composes(name: str) -> None:
    overrides = ["env.reward=accuracy"] if name == "maxrl" else []
    default, chosen = (compose("train", TrainConfig, [*overrides, *more]) for more in ([], [f"algo={name}"]))
    assert (chosen.algo == default.algo) is (name == "grpo")


def test_an_algorithm_can_be_put_into_a_recipe() -> None:
    config = compose("train", TrainConfig, ["experiment=tiny_grpo", "threads=1", "algo=ppo"])
    assert config.algo.advantage.name == "gae" and config.algo.steps == 60


def parts_of(algo: AlgoConfig) -> dict[str, object]:
    names = ("advantage", "objective", "aggregation", "covariance", "correction", "resample_rounds", "mask_overlong")
    return {name: getattr(algo, name) for name in names}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_algorithm_beats_what_a_recipe_says_of_its_own(name: str) -> None:
    """Its parts are those that it has without a recipe; only the range of a clip that it does not name is kept."""
    more = ["env.reward=accuracy"] if name == "maxrl" else []
    recipe = "experiment=retool_qwen2.5_7b_grpo"
    own, alone, there = (
        compose("train", TrainConfig, [*more, *chosen]).algo
        for chosen in ([recipe], [f"algo={name}"], [recipe, f"algo={name}"])
    )
    wanted = parts_of(alone)
    if alone.objective.name == "clip" and alone.objective.options is None:
        wanted["objective"] = own.objective
    assert parts_of(there) == wanted
    assert (there.steps, there.minibatches, there.micro_batch_tokens) == (270, 4, 73728)  # sizes are the recipe's
    assert (there == own) is (name == "grpo")


def test_the_algorithm_of_a_recipe_says_nothing_new() -> None:
    recipe = "experiment=retool_qwen2.5_7b_ppo"
    assert train_config("retool_qwen2.5_7b_ppo") == compose("train", TrainConfig, [recipe, "algo=ppo"])
    with pytest.raises(UsageError, match="group_size=1: advantage='grpo' compares the samples of one problem"):
        compose("train", TrainConfig, [recipe, "algo=grpo"])
    config = compose("train", TrainConfig, [recipe, "algo=gspo", "algo.group_size=4", "algo.objective.options.low=0.1"])
    assert config.algo.advantage == AdvantageConfig()
    assert config.algo.objective == ObjectiveConfig(name="gspo", options={"low": 0.1})


@pytest.mark.parametrize("name", PUBLISHED)
def test_settings_are_the_published_ones(name: str) -> None:
    lr, prompts, samples, mini_batch, turns, sequence = PUBLISHED[name]
    config = train_config(name)
    algo, env = config.algo, config.env
    assert config.optim.lr == lr
    assert (algo.prompts_per_step, algo.group_size) == (prompts, samples)
    assert algo.prompts_per_step // algo.minibatches == mini_batch
    assert algo.objective.options == {"low": 0.2, "high": 0.28, "ratio_cap": 10}
    assert algo.kl.coef == 0 and algo.aggregation == "token_mean" and algo.epochs == 1
    assert env.max_tool_rounds + 1 == turns
    assert env.max_context_tokens == 2048 + 16384 and env.max_turn_tokens == 16384
    assert config.model.parallel.sequence == sequence
    assert config.rollout.sampling.temperature == 1 and config.rollout.sampling.top_p == 1
    assert (env.dialect, env.reward, config.agent.name) == ("hermes", "retool_shaped", "sglang")
    budget = {True: 2, False: 1}[algo.needs_critic] * env.max_context_tokens  # of one GPU
    assert algo.micro_batch_tokens == budget * sequence
    assert algo.score_tokens == 4 * env.max_context_tokens * sequence
    assert algo.needs_proximal and not any(value is not None for _, value in algo.correction)
    assert (config.optim.betas, config.optim.weight_decay, config.optim.max_grad_norm) == ((0.9, 0.999), 0.01, 1.0)
    assert (config.optim.schedule, config.optim.warmup_steps, algo.entropy_coef) == ("constant", 0, 0)
    assert (env.cpu_seconds, env.memory_mb) == (30, 1024)


@pytest.mark.parametrize(
    ("name", "save", "test", "problems"),
    [
        ("retool_qwen2.5_32b_grpo", 30, 5, 30),
        ("retool_qwen2.5_32b_ppo", 30, 5, 30),
        ("retool_qwen2.5_7b_grpo", 20, 10, 60),
        ("retool_qwen2.5_7b_ppo", 30, 5, 30),
    ],
)
def test_validation_is_the_published_one(name: str, save: int, test: int, problems: int) -> None:
    """AIME, thirty samples of each problem, temperature 1, top-p 0.6; the 7B script takes two years of it."""
    config = train_config(name)
    assert (config.save_every, config.eval.every, config.eval.samples) == (save, test, 30)
    assert (config.eval.sampling.temperature, config.eval.sampling.top_p) == (1.0, 0.6)
    assert config.eval.problems.size == problems and "aime" in str(config.eval.problems.path)


@pytest.mark.parametrize("size", ["7b", "32b"])
def test_ppo_has_a_critic_of_its_own(size: str) -> None:
    config = train_config(f"retool_qwen2.5_{size}_ppo")
    algo = config.algo
    assert algo.needs_critic and not algo.critic.shared
    assert algo.advantage.options == {"gamma": 1.0, "lam": 1.0}
    assert (algo.critic.lr, algo.critic.warmup_steps, algo.critic.clip) == (2e-6, 20, 0.5)
    assert config.model.parallel.offload


@pytest.mark.parametrize("size", ["7b", "32b"])
def test_cold_start_settings_are_the_published_ones(size: str) -> None:
    config = compose("sft", SftConfig, [f"experiment=retool_qwen2.5_{size}_sft"])
    optim = config.optim
    assert (optim.lr, optim.betas, optim.weight_decay, optim.max_grad_norm) == (1e-5, (0.9, 0.95), 0.01, 1.0)
    assert (optim.schedule, config.traces.epochs, config.model.parallel.sequence) == ("cosine", 6, 4)
    assert config.env.max_context_tokens == 16384
    assert (config.batch_traces, optim.warmup_steps, optim.lr_floor) == (32, 37, 0.0)
    assert config.save_every == (62 if size == "7b" else 0)


def test_settings_of_the_adapter_guide() -> None:
    config = train_config("grpo_qwen2.5_math_1.5b_lora")
    lora, sampling = config.model.lora, config.rollout.sampling
    assert lora is not None
    assert (lora.r, lora.alpha, lora.dropout) == (16, 32, 0.05)
    assert (config.algo.group_size, config.algo.kl.coef, config.optim.lr) == (2, 0.05, 5e-6)
    assert (sampling.temperature, sampling.top_p) == (0.7, 0.9)
    assert config.algo.tickets_per_step == 4 * 4 and config.algo.steps == 7110
    assert (config.env.max_turn_tokens, config.env.reward, config.env.tools) == (2048, "pm1_noanswer", ())


def test_settings_of_the_tool_calling_guide() -> None:
    config = train_config("rlvr_tools_qwen2.5_0.5b")
    assert config.optim.lr == 5e-7 and config.algo.tickets_per_step == 2 * 8
    assert config.env.max_turn_tokens == 512 and config.env.reward == "tool_partial"
    assert config.algo.num_epochs == 3


@pytest.mark.parametrize("name", LARGE)
def test_recipe_fits_the_machines_it_names(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"experiment={name}"]) == 0, capsys.readouterr().out


@pytest.mark.parametrize("name", LARGE)
def test_the_commands_of_a_recipe_are_its_own(name: str) -> None:
    """Commands in its comments name this recipe and compose; folders and data are the ones it reads."""
    text = text_of(name)
    lines = re.sub(r" \\\n# +", " ", text).splitlines()
    found = [line for line in lines if re.match(r"#   .*\bretool (plan|train|sft) ", line)]
    inherits = re.search(r"commands as in (\S+)\.\n", text)
    assert found or (inherits and inherits[1] in EXPERIMENTS)
    for line in found:
        _, command, *overrides = shlex.split(line[line.index("retool ") :], comments=True)
        assert f"experiment={name}" in overrides
        kind = command_of(name) if command == "plan" else command
        compose(kind, KINDS[kind], overrides)
    for path in re.findall(r"models/[\w.-]+", text):
        assert Path(path).name in text.split("path: models/")[1].splitlines()[0]
