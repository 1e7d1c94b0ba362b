"""The critic: where a value is read, its clipped loss by hand, layouts, and that it learns what follows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torch import nn

from algos.advantages import Episodes, make_advantage
from algos.batch import micro_batches, weighted
from algos.per_token import per_token
from algos.value import Critic, ValueLoss, explained_variance
from retool_env.errors import UsageError
from tests.algos.loss_tools import VOCAB, gradients, make_samples, relative_error, small_model


class ValueTable(nn.Module):
    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.tensor(values, dtype=torch.float64))

    def forward(self, token_ids: torch.Tensor, trained: torch.Tensor, position_ids: torch.Tensor | None = None):
        return self.values


def one_token(old: float, returns: float, weight: float = 1.0) -> TensorDict:
    values = {
        "token_ids": torch.zeros(1, 2, dtype=torch.long),
        "trained": torch.tensor([[False, True]]),
        "values": torch.tensor([[9.0, old]], dtype=torch.float64),
        "returns": torch.tensor([[9.0, returns]], dtype=torch.float64),
        "weights": torch.tensor([[0.0, weight]], dtype=torch.float64),
    }
    return TensorDict(values, batch_size=[1, 2])


@pytest.mark.parametrize(
    ("value", "old", "returns", "clip", "loss", "gradient", "clipped"),
    [
        (0.1, 0.0, 1.0, 0.2, 0.405, -0.9, 0),
        (0.5, 0.0, 1.0, 0.2, 0.32, 0.0, 1),  # it has moved far enough towards the return
        (0.5, 0.0, 1.0, None, 0.125, -0.5, 0),
        (-0.5, 0.0, 1.0, 0.2, 1.125, -1.5, 0),  # it moved the wrong way: nothing holds it back
        (0.5, 0.0, 1.0, 0.5, 0.125, -0.5, 0),
    ],
)
def test_the_clipped_loss_by_hand(
    value: float, old: float, returns: float, clip: float | None, loss: float, gradient: float, clipped: float
) -> None:
    critic = ValueTable([value])
    out = ValueLoss(critic, clip=clip)(one_token(old, returns, weight=2.0))
    out["loss_objective"].backward()
    assert out["loss_objective"].item() == pytest.approx(2 * loss)
    assert critic.values.grad.item() == pytest.approx(2 * gradient)
    assert out["clip_fraction"].item() == 2 * clipped
    assert out["value"].item() == pytest.approx(2 * value)


def test_explained_variance_by_hand() -> None:
    (sample,) = make_samples(1)
    trained = np.zeros(len(sample), dtype=np.bool_)
    trained[1:5] = True
    returns = np.full(len(sample), 1e9)
    returns[1:5] = [1.0, 2.0, 3.0, 4.0]
    one = replace(sample, trained=trained, returns=returns)
    assert explained_variance([replace(one, values=returns)]) == 1.0
    assert explained_variance([replace(one, values=np.zeros_like(returns))]) == 0.0
    assert explained_variance([replace(one, values=returns + 5.0)]) == pytest.approx(1.0)
    off = returns + np.where(np.arange(len(returns)) % 2, 1.0, -1.0)
    assert explained_variance([replace(one, values=off)]) == pytest.approx(1 - 1 / 1.25)
    assert explained_variance([replace(one, returns=np.ones(len(sample)), values=returns)]) == 0.0


def test_a_value_is_that_of_the_state_before_its_token() -> None:
    critic = Critic(small_model())
    nn.init.normal_(critic.head.weight)
    ids = torch.arange(12)[None] % VOCAB
    trained = torch.zeros(1, 12, dtype=torch.bool)
    trained[0, 7] = True
    value = critic(ids, trained)
    for place, same in [(8, True), (7, True), (6, False), (0, False)]:
        other = ids.clone()
        other[0, place] = 50
        assert torch.equal(critic(other, trained), value) is same, place


def test_a_new_critic_says_zero_and_leaves_the_policy_alone() -> None:
    model = small_model()
    samples = [replace(s, values=s.behaviour_logprobs, returns=s.behaviour_logprobs) for s in make_samples(3)]
    critic = Critic(model)
    assert all(
        (row[s.trained] == 0).all() for row, s in zip(per_token(critic, samples, max_tokens=50), samples, strict=True)
    )
    nn.init.normal_(critic.head.weight)
    gradients(critic, ValueLoss(critic), samples)
    assert all(p.grad is None for p in model.parameters())
    shared = Critic(model, shared=True)
    nn.init.normal_(shared.head.weight)
    gradients(shared, ValueLoss(shared), samples)
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


def test_neither_layout_nor_what_is_masked_changes_the_gradient() -> None:
    critic = Critic(small_model())
    nn.init.normal_(critic.head.weight)
    loss = ValueLoss(critic)
    samples = weighted(make_samples(7, extras=True))
    whole = gradients(critic, loss, samples)
    for layout, max_tokens in [("sorted", 40), ("packed", 60), ("packed", 1000)]:
        assert relative_error(gradients(critic, loss, samples, max_tokens=max_tokens, layout=layout), whole) <= 1e-6
    spoilt = [
        replace(s, values=np.where(s.trained, s.values, np.nan), returns=np.where(s.trained, s.returns, np.nan))
        for s in samples
    ]
    assert torch.equal(gradients(critic, loss, spoilt), whole)


def test_the_critic_learns_which_token_pays() -> None:
    """Episodes that hold token 7 are worth 1, others nothing: values before it stay between, behind it they part."""
    model = small_model().float()
    critic = Critic(model)
    rng = np.random.default_rng(0)
    samples = []
    for s in make_samples(24, 3):
        ids = np.where(s.token_ids == 7, 8, s.token_ids)
        if good := rng.random() < 0.5:
            ids[3] = 7
        trained = np.arange(len(ids)) >= 2
        samples.append(replace(s, token_ids=ids, trained=trained, advantage=float(good)))
    optimizer = torch.optim.Adam(critic.parameters(), lr=1e-2)
    loss = ValueLoss(critic)
    for _ in range(40):
        values = per_token(critic, samples, max_tokens=1000)
        episodes = Episodes(
            rewards=np.array([float(s.advantage) for s in samples]),
            groups=np.arange(len(samples)),
            trained=[s.trained for s in samples],
            values=[row.astype(np.float64) for row in values],
        )
        credit = make_advantage("gae")(episodes)
        assert credit.returns is not None
        filled = [replace(s, values=v, returns=r) for s, v, r in zip(samples, values, credit.returns, strict=True)]
        optimizer.zero_grad()
        for batch in micro_batches(weighted(filled), max_tokens=500):
            loss(batch)["loss_objective"].backward()
        optimizer.step()
    assert explained_variance(filled) > 0.5
    early = [v[3] for v in values]  # before token 7 can be seen
    late = [(v[5], float(s.advantage)) for v, s in zip(values, samples, strict=True) if len(s) > 5]
    assert np.mean([v for v, good in late if good]) - np.mean([v for v, good in late if not good]) > 0.7
    assert 0.2 < np.mean(early) < 0.8


def test_a_clip_that_means_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="value clip 0: expected a number > 0"):
        ValueLoss(ValueTable([0.0]), clip=0)
