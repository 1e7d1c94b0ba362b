"""Token-exactness (invariants 1 and 2) through the whole chain: random ids, a server in another process, tools between
the turns. What the server received and sampled is compared with what the trajectories hold.

Random bytes are mostly no UTF-8, so one decoding and encoding on the way would change the ids.
"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from agents.rollout import play
from agents.sglang import SGLangAgent
from retool_env.config import EnvConfig
from retool_env.outcome import Outcome
from retool_env.problems import Problem
from retool_env.sources import ListSource
from retool_env.tokenizer import ByteTokenizer
from retool_env.trajectory import Trajectory
from tests.agents.fake_server import fake_sglang
from tests.agents.fake_sglang.scheduler import digest

HERE = Path(__file__).parent
ENV = EnvConfig(
    dialect=f"{HERE / 'shout_dialect.py'}:ShoutDialect",
    tools=(str(HERE / "shout_dialect.py"),),
    instructions=False,
    max_context_tokens=400,
    max_turn_tokens=60,
    max_tool_rounds=5,
    max_tool_tokens=48,
)
BOOSTS = {ord("!"): 3.0, 256: 2.0}
CHANCES = np.exp([BOOSTS.get(token, 0.0) for token in range(257)])


def pieces(trajectory: Trajectory) -> list[tuple[list[int], list[int]]]:
    """The context and the sampled ids of every turn, from the spans alone."""
    ids = trajectory.transcript.token_ids.tolist()
    spans = [span for span in trajectory.transcript.spans if span.role == "assistant"]
    return [(ids[: span.start], ids[span.start : span.end]) for span in spans]


def check_transcript(trajectory: Trajectory, tokenizer: ByteTokenizer) -> None:
    transcript = trajectory.transcript
    mask = np.zeros(len(transcript), dtype=np.bool_)
    for span in transcript.spans:
        mask[span.start : span.end] = span.role == "assistant"
    assert np.array_equal(transcript.action_mask, mask)
    expected = np.log(CHANCES / CHANCES.sum())[transcript.token_ids[mask]]
    assert np.allclose(transcript.logprobs[mask], expected, atol=1e-5)
    assert np.isnan(transcript.logprobs[~mask]).all()
    assert (transcript.policy_version[mask] == 0).all() and (transcript.policy_version[~mask] == -1).all()
    first = transcript.spans[0]
    assert transcript.token_ids[first.start : first.end].tolist() == tokenizer.encode(f"{question(trajectory)}\n")
    for before, after in zip(transcript.spans, transcript.spans[1:], strict=False):
        if after.role == "tool":
            shouted = tokenizer.decode(transcript.token_ids[before.start : before.end])
            said = tokenizer.decode(transcript.token_ids[after.start : after.end])
            assert "tokens cut" in said or said == f"[{tokenizer.escape(shouted[::-1])}]"


def question(trajectory: Trajectory) -> str:
    return trajectory.record.problem.question


def drift(num_episodes: int) -> Counter[Outcome]:
    """Play, compare everything, and say how the episodes ended."""
    source = ListSource(
        name="random", problems=tuple(Problem(id=f"{k}", prompt=f"Q{k}", answer="1") for k in range(100))
    )
    boosts = [f"{token}={logit}" for token, logit in BOOSTS.items()]
    tokenizer = ByteTokenizer()
    with fake_sglang("--random", "--max-running-requests", 64, "--boost", *boosts) as server:
        agent = SGLangAgent([server.url], tokenizer, patience=60.0)
        trajectories = play(
            source, agent, env=ENV, num_episodes=num_episodes, group_size=math.ceil(num_episodes / 100), num_slots=64
        )
        agent.close()
        served = Counter((context, ids) for context, ids in server.get("/fake/digests").json())
    assert [trajectory.ticket for trajectory in trajectories] == list(range(num_episodes))
    held = Counter((digest(context), digest(ids)) for t in trajectories for context, ids in pieces(t))
    assert held == served, "what the server received or sampled is not what the trajectories hold"
    for trajectory in trajectories:
        check_transcript(trajectory, tokenizer)
    turns = [len(pieces(trajectory)) for trajectory in trajectories]
    assert np.mean(turns) > 2 and max(turns) == 6
    return Counter(trajectory.record.outcome for trajectory in trajectories)


def test_a_hundred_episodes_without_drift() -> None:
    assert not drift(100)[Outcome.ENGINE_OUTAGE]


@pytest.mark.slow
def test_ten_thousand_episodes_without_drift() -> None:
    outcomes = drift(10_000)
    print(dict(outcomes))
    assert not outcomes[Outcome.ENGINE_OUTAGE] and outcomes[Outcome.ANSWERED] > 1000
