"""One training step: every setting reaches the weights, the cut of a step does not, nor what is not finite."""

from __future__ import annotations

import functools
import inspect
import math
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from algos.actor_critic import make_actor_critic
from algos.advantages import ESTIMATORS
from algos.algo_config import AlgoConfig
from algos.batch import LAYOUTS, Sample
from algos.config import OptimConfig, TrainConfig
from algos.learn import Learner
from algos.losses import OBJECTIVES
from algos.policy.world import World
from algos.update import minibatches, update
from retool_env.outcome import Outcome
from retool_env.record import EpisodeRecord, RewardPart
from retool_env.trajectory import Trajectory
from retool_env.transcript import Span, Transcript
from retool_env.verifier.verdict import Verdict
from tests.algos.test_groups import PROBLEM

PARTS = ("pm1", "length")


def played(
    ticket: int, group: int, *, reward: float, outcome: Outcome, void: int, rng: np.random.Generator
) -> Trajectory:
    """A prompt, a turn, a tool's output, a turn; lengths differ."""
    first, tool, last = rng.integers(2, 9, 3)
    ends = np.cumsum([4, first, tool, last]).tolist()
    mask = np.zeros(ends[-1], dtype=np.bool_)
    mask[ends[0] : ends[1]] = mask[ends[2] : ends[3]] = True
    ids = rng.integers(0, 500, ends[-1])
    ids[:4] = group + np.arange(4)
    transcript = Transcript(
        token_ids=ids,
        action_mask=mask,
        logprobs=np.where(mask, -7.2 + rng.normal(0, 0.4, ends[-1]), np.nan).astype(np.float32),
        policy_version=np.where(mask, 0, -1),
        spans=(
            Span(role="prompt", turn=0, start=0, end=ends[0]),
            Span(role="assistant", turn=0, start=ends[0], end=ends[1]),
            Span(role="tool", turn=0, start=ends[1], end=ends[2]),
            Span(role="assistant", turn=1, start=ends[2], end=ends[3]),
        ),
    )
    record = EpisodeRecord(
        problem=PROBLEM,
        outcome=outcome,
        turns=("a", "b"),
        calls=(),
        verdict=Verdict(correct=reward > 0, answered=True),
        num_action_tokens=int(mask.sum()),
        reward_parts=(
            RewardPart(name="pm1", raw=reward, weight=1.0),
            RewardPart(name="length", raw=float(last), weight=0.01),
        ),
        num_void_turns=void,
    )
    return Trajectory(ticket=ticket, group=group, sample=ticket % 4, record=record, transcript=transcript)


def step_of_trajectories(low: float = -1.0) -> list[Trajectory]:
    rng = np.random.default_rng(0)
    rewards = [1, 1, -1, -1, 1, -1, -1, -1, 1, 1, 1, -1, 1, 1, 1, 1]
    return [
        played(
            ticket,
            ticket // 4,
            reward=float(max(reward, low)),
            outcome=Outcome.CONTEXT_FULL if ticket == 3 else Outcome.ANSWERED,
            void=int(ticket == 5),
            rng=rng,
        )
        for ticket, reward in enumerate(rewards)
    ]


def config_of(folder: Path, *, algo: dict | None = None, optim: dict | None = None, **rest) -> TrainConfig:
    """Two passes, so that ratios leave 1."""
    algo = {"prompts_per_step": 4, "group_size": 4, "epochs": 2, "steps": 10} | (algo or {})
    optim = {"lr": 1e-3, "betas": (0.5, 0.9)} | (optim or {})
    return TrainConfig(model={"path": str(folder)}, algo=AlgoConfig(**algo), optim=OptimConfig(**optim), **rest)


@functools.lru_cache(maxsize=256)
def learnt_from(config: str, steps: int, low: float) -> tuple[torch.Tensor, dict[str, float]]:
    return learn_steps(TrainConfig.model_validate_json(config), steps, low)


def learnt(config: TrainConfig, *, steps: int = 2, low: float = -1.0) -> tuple[torch.Tensor, dict[str, float]]:
    """The same settings are only learnt from once."""
    return learnt_from(config.model_dump_json(exclude_unset=True), steps, low)


def learn_steps(config: TrainConfig, steps: int, low: float) -> tuple[torch.Tensor, dict[str, float]]:
    """Weights after some steps on the same trajectories, and the last metrics."""
    torch.manual_seed(0)
    parts = make_actor_critic(config, World())
    learner = Learner(parts=parts, config=config, world=World())
    for step in range(steps):
        trajectories = step_of_trajectories(low)
        for t in trajectories:
            t.transcript.policy_version[t.transcript.action_mask] = step
        metrics = learner.learn(trajectories, step=step)
    return torch.cat([p.detach().flatten() for p in parts.model.parameters()]), metrics


def differ(one: torch.Tensor, two: torch.Tensor) -> bool:
    return float((one - two).abs().max()) > 1e-6


def advantage(name: str, **options: float) -> dict:
    return {"advantage": {"name": name, "options": options} if options else {"name": name}}


def objective(name: str, **options: float) -> dict:
    """With the aggregation that goes with it."""
    chosen = {"objective": {"name": name, "options": options} if options else {"name": name}}
    return chosen | ({"aggregation": "sequence_mean"} if name.startswith("gspo") else {})


GAE = advantage("gae")
SELECTED = {"covariance": {"share": 0.5}}
KNOBS: dict[str, tuple[dict, dict]] = {
    **{
        f"advantage {name}": ({}, {"advantage": {"name": name}})
        for name in (
            "dr_grpo",
            "rloo",
            "maxrl",
            "lite_ppo",
            "gdpo",
            "reinforce_pp",
            "reinforce_pp_baseline",
            "gae",
            "vapo",
        )
    },
    "gamma": (GAE, advantage("gae", gamma=0.9)),
    "lam": (GAE, advantage("gae", lam=0.9)),
    "normalise": (GAE, advantage("gae", normalise=0)),
    "gamma of vapo": (advantage("vapo"), advantage("vapo", gamma=0.9)),
    "normalise of vapo": (advantage("vapo"), advantage("vapo", normalise=0)),
    "alpha": (advantage("vapo", alpha=0.5), advantage("vapo", alpha=5)),
    "critic_lam": (advantage("vapo"), advantage("vapo", critic_lam=0.5)),
    "gamma of reinforce_pp": (advantage("reinforce_pp"), advantage("reinforce_pp", gamma=0.9)),
    **{f"objective {name}": ({}, {"objective": {"name": name}}) for name in ("cispo", "sapo", "dppo", "kl_cov")},
    "gspo": (
        {"aggregation": "sequence_mean"},
        {"aggregation": "sequence_mean", "objective": {"name": "gspo"}},
    ),
    "gspo_token": (
        {"aggregation": "sequence_mean"},
        {"aggregation": "sequence_mean", "objective": {"name": "gspo_token", "options": {"low": 0.2, "high": 0.3}}},
    ),
    **{
        f"{name} of {kind}": (objective(kind), objective(kind, **{name: value}))
        for kind, name, value in (
            ("clip", "low", 0.01),
            ("clip", "high", 0.01),
            ("clip", "ratio_cap", 1.3),
            ("gspo", "low", 0.2),
            ("gspo", "high", 0.3),
            ("gspo", "ratio_cap", 1.001),
            ("gspo_token", "low", 0.2),
            ("gspo_token", "high", 0.3),
            ("gspo_token", "ratio_cap", 1.001),
            ("cispo", "max_ratio", 1.0),
            ("sapo", "tau_positive", 3.0),
            ("sapo", "tau_negative", 3.0),
            ("dppo", "low", 1e-5),
            ("dppo", "high", 1e-5),
            ("clip_cov", "low", 0.01),
            ("clip_cov", "high", 0.01),
        )
    },
    "covariance share": (
        {"objective": {"name": "clip_cov"}, "covariance": {"share": 0.01}},
        {"objective": {"name": "clip_cov"}, "covariance": {"share": 0.5}},
    ),
    "covariance band": (
        {"objective": {"name": "clip_cov"}, "covariance": {"share": 0.5}},
        {"objective": {"name": "clip_cov"}, "covariance": {"share": 0.5, "band": (-0.1, 0.1)}},
    ),
    "kl_cov coef": (objective("kl_cov") | SELECTED, objective("kl_cov", coef=5.0) | SELECTED),
    **{f"aggregation {name}": ({}, {"aggregation": name}) for name in ("sequence_mean", "sequence_sum", "prompt_mean")},
    "aggregation_length": (
        {"aggregation": "sequence_sum"},
        {"aggregation": "sequence_sum", "aggregation_length": 10},
    ),
    "rescore": ({}, {"rescore": True}),
    "weight_cap": ({"rescore": True}, {"correction": {"weight_cap": 1.0}}),
    "token_band": ({"rescore": True}, {"correction": {"token_band": (0.8, 1.2)}}),
    "sequence_cap": ({"rescore": True}, {"correction": {"sequence_cap": 1.0}}),
    "geometric_band": ({"rescore": True}, {"correction": {"geometric_band": (0.99, 1.01)}}),
    "off_policy_gap": ({}, {"correction": {"off_policy_gap": 1e-4}}),
    "kl coef": ({}, {"kl": {"coef": 1.0}}),
    **{
        f"kl estimator {name}": ({"kl": {"coef": 1.0}}, {"kl": {"coef": 1.0, "estimator": name}})
        for name in ("k1", "k2", "k3")
    },
    "kl place": ({"kl": {"coef": 1.0}}, {"kl": {"coef": 1.0, "place": "reward"}}),
    "kl refresh": ({"kl": {"coef": 1.0}}, {"kl": {"coef": 1.0, "refresh_every": 1}}),
    "entropy_coef": ({}, {"entropy_coef": 0.1}),
    "mask_overlong": ({}, {"mask_overlong": True}),
    "mask_void": ({}, {"mask_void": True}),
    "mask_tool_tokens": ({}, {"mask_tool_tokens": False}),
    "epochs": ({"epochs": 2}, {"epochs": 1}),
    "minibatches": ({}, {"minibatches": 2}),
    "critic shared": (GAE, GAE | {"critic": {"shared": True}}),
    "critic clip": (GAE | {"critic": {"lr": 0.01}}, GAE | {"critic": {"lr": 0.01, "clip": 1e-3}}),
    "critic coef": (GAE | {"critic": {"shared": True}}, GAE | {"critic": {"shared": True, "coef": 2.0}}),
    "critic lr": (GAE, GAE | {"critic": {"lr": 0.01}}),
    "critic warmup_steps": (GAE, GAE | {"critic": {"warmup_steps": 1}}),
}


# What must not reach the weights is in test_the_cut_of_a_step_changes_nothing. How many episodes there are, and which,
# is decided before a step: test_train, test_collector, test_credit; when a run ends with an error: test_groups.
NOT_OF_THE_LOSS = {
    *("layout", "micro_batch_tokens", "score_tokens", "head_rows", "head_columns"),
    *("steps", "num_epochs", "prompts_per_step", "group_size", "resample_rounds", "max_failed_share"),
}


def leaves(values: object, prefix: str = "") -> dict[str, object]:
    """Values by dotted name, those of the options of advantage and objective included."""
    if not isinstance(values, dict) or not values:
        return {prefix: values}
    return {k: v for key, value in values.items() for k, v in leaves(value, f"{prefix}.{key}".lstrip(".")).items()}


def knobs() -> set[str]:
    """Every knob that there is, from the configuration and from the functions that take its options."""
    named = {name for name in leaves(AlgoConfig().model_dump()) if name not in NOT_OF_THE_LOSS}
    options = {name for name in named if name.endswith(".options")}
    for name, function in ESTIMATORS.items():
        known = list(inspect.signature(function).parameters)[1:]
        options |= {f"advantage.options.{name}.{option}" for option in known if option != "function"}
    for name, (kind, _) in OBJECTIVES.items():
        options |= {f"objective.options.{name}.{f.name}" for f in fields(kind) if f.name != "level"}
    return (named | options) - {"advantage.options", "objective.options"}


def made(settings: dict) -> AlgoConfig:
    """With the passes of :func:`config_of`, without which some settings are refused."""
    return AlgoConfig(**{"epochs": 2} | settings)


def turned(one: dict, two: dict) -> set[str]:
    """Knobs in which two settings differ."""
    configs = [made(settings) for settings in (one, two)]
    values = []
    for config in configs:
        held = leaves(config.model_dump())
        for section in ("advantage", "objective"):
            name = held[f"{section}.name"]
            for key in [key for key in held if key.startswith(f"{section}.options.")]:
                held[f"{section}.options.{name}.{key.rpartition('.')[2]}"] = held.pop(key)
        values.append(held)
    return {key for key in values[0].keys() | values[1].keys() if values[0].get(key) != values[1].get(key)}


def test_no_setting_is_left_out() -> None:
    assert {name for pair in KNOBS.values() for name in turned(*pair)} >= knobs()
    assert set(AlgoConfig.model_fields) >= NOT_OF_THE_LOSS
    names = {config.advantage.name for pair in KNOBS.values() for config in (made(s) for s in pair)}
    assert names == set(ESTIMATORS)
    chosen = {config.objective.name for pair in KNOBS.values() for config in (made(s) for s in pair)}
    assert chosen == set(OBJECTIVES)


@pytest.mark.parametrize("name", KNOBS)
def test_every_setting_of_the_algorithm_reaches_the_weights(tiny_folder: Path, name: str) -> None:
    low = 0.0 if "maxrl" in name else -1.0
    one, two = (learnt(config_of(tiny_folder, algo=settings), low=low) for settings in KNOBS[name])
    assert differ(one[0], two[0])
    assert all(math.isfinite(value) for metrics in (one[1], two[1]) for value in metrics.values())


@pytest.mark.parametrize(
    "settings",
    [
        {"lr": 2e-3},
        {"betas": (0.9, 0.99)},
        {"weight_decay": 0.5},
        {"max_grad_norm": 1e-9},
        {"warmup_steps": 8},
        {"schedule": "linear"},
        {"schedule": "cosine", "lr_floor": 0.9},
    ],
)
def test_every_setting_of_the_optimizer_reaches_the_weights(tiny_folder: Path, settings: dict) -> None:
    assert differ(learnt(config_of(tiny_folder))[0], learnt(config_of(tiny_folder, optim=settings))[0])


@pytest.mark.parametrize(
    "algo", [{}, GAE, {"kl": {"coef": 0.1}, "correction": {"weight_cap": 2.0}}], ids=["grpo", "gae", "kl"]
)
def test_the_cut_of_a_step_changes_nothing(tiny_folder: Path, algo: dict) -> None:
    whole, metrics = learnt(config_of(tiny_folder, algo=algo), steps=1)
    for layout in LAYOUTS:
        for tokens, rows, columns in ((40, 256, 4096), (512, 7, 100)):
            cut = {"layout": layout, "micro_batch_tokens": tokens, "head_rows": rows, "head_columns": columns}
            cut |= algo | {"score_tokens": 3 * tokens}
            other, theirs = learnt(config_of(tiny_folder, algo=cut), steps=1)
            # Adam's first steps are of the size of the learning rate, whatever the gradient: compare with that.
            assert float((whole - other).abs().max()) < 0.05 * 1e-3
            assert theirs["actor/loss"] == pytest.approx(metrics["actor/loss"], rel=1e-4, abs=1e-6)
            assert theirs["actor/grad_norm"] == pytest.approx(metrics["actor/grad_norm"], rel=1e-3)


def test_a_critic_that_warms_up_leaves_the_policy_alone(tiny_folder: Path) -> None:
    config = config_of(tiny_folder, algo=GAE | {"critic": {"warmup_steps": 5}})
    before = torch.cat([p.detach().flatten() for p in make_actor_critic(config, World()).model.parameters()])
    after, metrics = learnt(config)
    assert torch.equal(before, after)
    assert metrics["critic/vf_loss"] > 0
    assert "actor/loss" not in metrics
    for shared in (False, True):
        settings = GAE | {"critic": {"warmup_steps": 5, "shared": shared}}
        assert torch.equal(before, learnt(config_of(tiny_folder, algo=settings))[0])


def test_the_critic_learns_what_comes_of_a_state(tiny_folder: Path) -> None:
    algo = {"advantage": {"name": "gae"}, "critic": {"warmup_steps": 100, "clip": None, "lr": 1e-2}, "epochs": 4}
    _, first = learnt(config_of(tiny_folder, algo=algo), steps=1)
    _, last = learnt(config_of(tiny_folder, algo=algo), steps=12)
    assert last["critic/vf_loss"] < 0.3 * first["critic/vf_loss"]
    assert first["critic/vf_explained_var"] == pytest.approx(0.0, abs=1e-3), "it starts at zero everywhere"
    assert last["critic/vf_explained_var"] > 0.5


def test_a_nucleus_is_scored_by_the_trainer(tiny_folder: Path) -> None:
    sampling = {"sampling": {"temperature": 0.7, "top_p": 0.9}}
    _, metrics = learnt(config_of(tiny_folder, rollout=sampling, algo={"epochs": 1}), steps=1)
    assert metrics["actor/ppo_kl"] == pytest.approx(0.0, abs=1e-5), "ratios are against what was sampled from"
    _, whole = learnt(config_of(tiny_folder, algo={"epochs": 1}), steps=1)
    assert abs(whole["actor/ppo_kl"]) > 1e-3, "the made-up behaviour is another policy"


def test_what_is_not_finite_changes_nothing_and_is_counted(tiny_folder: Path) -> None:
    config = config_of(tiny_folder)
    parts = make_actor_critic(config, World())
    before = [p.detach().clone() for p in parts.model.parameters()]
    ids = np.arange(8)
    bad = Sample(
        token_ids=ids,
        trained=ids > 0,
        behaviour_logprobs=np.full(8, -1.0, dtype=np.float32),
        advantage=float("inf"),
    )
    metrics = update(parts, [bad], config, World(), step=0)
    assert metrics["num_skipped_updates"] == 2, "one in each pass"
    assert all(torch.equal(p, q) for p, q in zip(parts.model.parameters(), before, strict=True))
    metrics = update(parts, [replace(bad, advantage=1.0)], config, World(), step=0)
    assert metrics["num_skipped_updates"] == 0
    assert not all(torch.equal(p, q) for p, q in zip(parts.model.parameters(), before, strict=True))


def test_a_step_without_samples_still_publishes(tiny_folder: Path) -> None:
    published = []

    class Sync:
        def guard(self):
            raise AssertionError("nothing changes")

        def publish(self, version: int) -> None:
            published.append(version)

    config = config_of(tiny_folder)
    parts = make_actor_critic(config, World())
    group = step_of_trajectories()[12:]
    same = [replace(t, record=group[0].record) for t in group]
    metrics = Learner(parts=parts, config=config, world=World(), sync=Sync()).learn(same, step=0)
    assert published == [1]
    assert metrics["groups/zero_spread"] == 1
    assert "actor/loss" not in metrics


def test_minibatches_keep_groups_whole_and_use_every_sample() -> None:
    ids = np.arange(4)
    samples = [
        Sample(token_ids=ids, trained=ids > 0, behaviour_logprobs=np.zeros(4, np.float32), group=k // 3, order=k)
        for k in range(21)
    ]
    parts = minibatches(samples, 3, seed=1)
    assert Counter(s.order for part in parts for s in part) == Counter(range(21))
    assert sorted(len(part) for part in parts) == [6, 6, 9]
    assert all(Counter(s.group for s in part).most_common()[-1][1] == 3 for part in parts)
    again, other = minibatches(samples, 3, seed=1), minibatches(samples, 3, seed=2)
    assert [[s.order for s in p] for p in again] == [[s.order for s in p] for p in parts]
    assert [[s.order for s in p] for p in other] != [[s.order for s in p] for p in parts]
    assert minibatches(samples, 1, seed=1) == [samples]
    assert len(minibatches(samples[:3], 3, seed=1)) == 1, "a part without a group is no part"


def test_minibatches_share_out_the_groups_that_are_read_and_those_that_are_counted() -> None:
    ids = np.arange(4)
    samples = [
        Sample(
            token_ids=ids,
            trained=ids > 0,
            behaviour_logprobs=np.zeros(4, np.float32),
            group=k // 2,
            order=k,
            read=k // 2 in (3, 4, 8),
        )
        for k in range(18)
    ]
    for seed in range(5):
        parts = minibatches(samples, 3, seed=seed)
        assert Counter(s.order for part in parts for s in part) == Counter(range(18))
        assert [(len(part), sum(s.read for s in part)) for part in parts] == [(6, 2)] * 3
    (part,) = minibatches([replace(s, read=s.group == 3) for s in samples], 3, seed=0)
    assert (len(part), sum(s.read for s in part)) == (6, 2), "the others would make no step; their samples go with them"
    assert minibatches([replace(s, read=False) for s in samples], 1, seed=0) == []


def agreeing(trajectories: list[Trajectory]) -> list[Trajectory]:
    """All with the record of the last one, so that no group differs."""
    return [replace(t, record=trajectories[-1].record) for t in trajectories]


def learnt_once(folder: Path, trajectories: list[Trajectory], **algo: object) -> dict[str, float]:
    """Metrics of the first update."""
    config = config_of(folder, algo={"epochs": 1} | algo)
    return Learner(parts=make_actor_critic(config, World()), config=config, world=World()).learn(trajectories, step=0)


@pytest.mark.parametrize("aggregation", ["sequence_sum", "sequence_mean", "token_mean", "prompt_mean"])
def test_groups_that_agree_count_in_the_denominator_and_run_through_no_model(
    tiny_folder: Path, aggregation: str
) -> None:
    played_out = step_of_trajectories()
    every = [*played_out[:12], *agreeing(played_out[12:])]
    tokens = [int(t.transcript.action_mask.sum()) for t in every]
    share = {"token_mean": sum(tokens[:12]) / sum(tokens)}.get(aggregation, 12 / 16)
    with_it, without = (learnt_once(tiny_folder, ts, aggregation=aggregation) for ts in (every, every[:12]))
    assert with_it["num_samples"] == without["num_samples"] == 12
    assert with_it["num_tokens/trained"] == sum(tokens[:12])
    for name in ("actor/loss", "actor/grad_norm"):
        assert with_it[name] == pytest.approx(share * without[name], rel=1e-4)
    assert with_it["actor/entropy"] == pytest.approx(without["actor/entropy"], rel=1e-5), "a mean over what is read"


def test_an_entropy_bonus_reads_groups_that_agree(tiny_folder: Path) -> None:
    mixed, same = step_of_trajectories(), agreeing(step_of_trajectories())
    alone = learnt_once(tiny_folder, same, entropy_coef=0.5)
    assert alone["actor/loss"] == pytest.approx(-0.5 * alone["actor/entropy"], rel=1e-5)
    assert alone["num_samples"] == 16
    plain, bonus = (learnt_once(tiny_folder, mixed, entropy_coef=coef) for coef in (0.0, 0.5))
    assert bonus["actor/loss"] - plain["actor/loss"] == pytest.approx(alone["actor/loss"], rel=1e-4)


def test_a_kl_term_reads_groups_that_agree(tiny_folder: Path) -> None:
    kl = {"coef": 0.5, "estimator": "k1"}
    config = config_of(tiny_folder, algo={"epochs": 2, "kl": kl}, optim={"lr": 1e-2})
    learner = Learner(parts=make_actor_critic(config, World()), config=config, world=World())
    metrics = learner.learn(agreeing(step_of_trajectories()), step=0)
    assert metrics["num_samples"] == 16
    assert abs(metrics["actor/kl_loss"]) > 1e-4, "the second pass is away from the reference"
    assert metrics["actor/loss"] == pytest.approx(0.5 * metrics["actor/kl_loss"], rel=1e-4)
