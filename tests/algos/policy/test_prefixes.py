"""Prefix trees: the nodes are the distinct beginnings, and running them gives what whole rows give."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from algos.actor_critic import around
from algos.algo_config import AlgoConfig
from algos.batch import weighted
from algos.config import TrainConfig
from algos.isolation import check_layout, choose_layout
from algos.losses import PolicyLoss
from algos.policy.parts import recompute
from algos.policy.prefixes import prefix_tree, share_attention
from algos.scorer import Scorer
from algos.value import Critic, ValueLoss
from retool_env.errors import UsageError
from tests.algos.loss_tools import gradients, make_samples, relative_error, small_model


@st.composite
def padded_rows(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """Few different ids, so that rows often begin alike; sorted, as the plan does it."""
    rows = sorted(draw(st.lists(st.lists(st.integers(0, 2), min_size=2, max_size=7), min_size=1, max_size=8)))
    token_ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    trained = torch.zeros_like(token_ids, dtype=torch.bool)
    for k, row in enumerate(rows):
        token_ids[k, : len(row)] = torch.tensor(row)
        trained[k, 1 : len(row)] = torch.tensor(
            draw(st.lists(st.booleans(), min_size=len(row) - 1, max_size=len(row) - 1))
        )
    return token_ids, trained


@settings(deadline=None)
@given(batch=padded_rows())
def test_nodes_are_the_distinct_beginnings(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    token_ids, trained = batch
    tree = prefix_tree(token_ids, trained)
    beginnings, predicted = [], []
    for ids, mask in zip(token_ids.tolist(), trained.tolist(), strict=True):
        last = max([k for k, is_trained in enumerate(mask) if is_trained], default=1)
        beginnings += [tuple(ids[: k + 1]) for k in range(last)]
        predicted += [tuple(ids[: k + 1]) for k in range(len(ids)) if mask[k]]
    assert tree.token_ids.shape == tree.position_ids.shape == (1, len(set(beginnings)))
    joined = torch.cat([rows.flatten() for rows in tree.rows])
    assert joined[tree.places].tolist() == list(range(len(set(beginnings))))
    own = {}
    for row in [row for rows in tree.rows for row in rows.tolist()]:
        for k, node in enumerate(row):
            if tree.position_ids[0, node] == k:  # behind its end a row has node 0, which is at the start
                path = tuple(tree.token_ids[0, row[: k + 1]].tolist())
                assert own.setdefault(node, path) == path
    assert sorted(own.values()) == sorted(set(beginnings))
    found = [(*own[node], target) for node, target in zip(tree.before.tolist(), tree.targets.tolist(), strict=True)]
    assert len(found) == len(set(predicted)), "a pair comes once"
    assert [found[k] for k in tree.which.tolist()] == predicted


@pytest.mark.parametrize("recomputed", [False, True])
def test_gradients_are_those_of_whole_rows(recomputed: bool) -> None:
    """Several groups in one micro-batch, with answers that begin alike, and with recomputation."""
    samples = weighted([s for k in range(3) for s in make_samples(6, seed=k % 2)])
    plain, shared = small_model(), small_model()
    if recomputed:
        recompute(shared)
    whole = gradients(plain, PolicyLoss(Scorer(plain), entropy_coef=0.1), samples)
    loss = PolicyLoss(Scorer(shared, share_prompts=True), entropy_coef=0.1)
    for max_tokens in (60, 10_000):
        assert relative_error(gradients(shared, loss, samples, max_tokens=max_tokens, layout="shared"), whole) <= 1e-6


def test_windows_are_those_of_whole_rows() -> None:
    """Layers that look back at four tokens, and one that looks at all."""
    shape = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
    plain, shared = small_model(**shape), small_model(**shape)
    assert set(plain.config.layer_types) == {"full_attention", "sliding_attention"}
    samples = weighted(make_samples(9))
    whole = gradients(plain, PolicyLoss(Scorer(plain)), samples)
    loss = PolicyLoss(Scorer(shared, share_prompts=True))
    assert relative_error(gradients(shared, loss, samples, layout="shared"), whole) <= 1e-6
    full = small_model()
    assert relative_error(gradients(full, PolicyLoss(Scorer(full)), samples), whole) > 1e-2, "windows matter"


def test_a_critic_shares_too() -> None:
    samples = weighted(make_samples(6, extras=True) * 2)
    critic = Critic(small_model())
    nn.init.normal_(critic.head.weight)
    sharing = copy.deepcopy(critic)
    sharing.share_prompts()
    seen: list[int] = []
    sharing.backbone.layers[0].register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[1]))
    whole = gradients(critic, ValueLoss(critic), samples)
    assert relative_error(gradients(sharing, ValueLoss(sharing), samples, layout="shared"), whole) <= 1e-6
    assert sum(seen) <= sum(len(sample) for sample in samples) / 2, "every sample is there twice"


def test_without_a_tree_the_model_is_what_it_was() -> None:
    plain, switched = small_model(), small_model()
    share_attention(switched)
    ids = torch.randint(0, 60, (3, 9))
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    for arguments in ({"input_ids": ids}, {"input_ids": ids, "attention_mask": mask}):
        assert torch.equal(plain(**arguments).logits[:, 4:], switched(**arguments).logits[:, 4:])
    prompt = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(plain.generate(ids, **prompt), switched.generate(ids, **prompt))
    assert "shared" not in switched.config.to_json_string(), "it is no property of the checkpoint"


def test_the_layout_is_chosen_by_what_the_model_can() -> None:
    assert choose_layout(small_model()) == "shared"
    chunked = small_model()
    chunked.config.layer_types = ["full_attention", "chunked_attention"]
    assert choose_layout(chunked) == "sorted"
    for refused in (lambda: share_attention(chunked), lambda: check_layout(chunked, layout="shared", max_tokens=64)):
        with pytest.raises(
            UsageError, match="layout=shared needs 'sdpa' attention, over all tokens before or a window"
        ):
            refused()
    varlen = small_model()
    varlen.config._attn_implementation = "varlen"
    assert choose_layout(varlen) == "packed"


def test_a_setting_overrides_the_choice() -> None:
    assert around(small_model(), TrainConfig()).layout == "shared"
    assert around(small_model(), TrainConfig(algo=AlgoConfig(layout="sorted"))).layout == "sorted"
