"""Episodes for tests of what reads them: one token for each character, nothing played."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from retool_env.outcome import Outcome
from retool_env.problems import Problem
from retool_env.record import CallRecord, EpisodeRecord, RewardPart
from retool_env.trajectory import Trajectory
from retool_env.transcript import Role, Span, Transcript
from retool_env.verifier.verdict import Verdict

__all__ = ["make_episode"]


def make_episode(
    problem: str,
    *,
    right: bool,
    ticket: int = 0,
    group: int = 0,
    sample: int = 0,
    gold: str = "7",
    prompt: str = "What is 3 + 4?",
    turns: Sequence[str] = ("It is 7.",),
    calls: Sequence[CallRecord] = (),
    outcome: Outcome = Outcome.ANSWERED,
    version: int = 0,
) -> Trajectory:
    """An episode whose turns, and the output of their calls, follow the prompt; ids are bytes, log-probs random."""
    parts: list[tuple[Role, str]] = [("prompt", prompt)]
    for turn, text in enumerate(turns):
        parts.append(("assistant", text))
        parts += [("tool", call.text) for call in calls if call.turn == turn]
    transcript = _transcript(parts, version, seed=ticket)
    record = EpisodeRecord(
        problem=Problem(id=problem, prompt=prompt, answer=gold, source="tests", family="sum"),
        outcome=outcome,
        turns=tuple(turns),
        calls=tuple(calls),
        verdict=None if outcome.failed else Verdict(correct=right, answered=True, answer=gold if right else "8"),
        num_action_tokens=transcript.num_action_tokens,
        reward_parts=(RewardPart(name="pm1", raw=2.0 * right - 1, weight=1.0),),
        ticket=ticket,
    )
    return Trajectory(ticket=ticket, group=group, sample=sample, record=record, transcript=transcript)


def _transcript(parts: Sequence[tuple[Role, str]], version: int, *, seed: int) -> Transcript:
    spans: list[Span] = []
    ids: list[int] = []
    for role, text in parts:
        ids += text.encode()
        turn = sum(span.role == "assistant" for span in spans)
        spans.append(
            Span(role=role, turn=max(turn - (role == "tool"), 0), start=spans[-1].end if spans else 0, end=len(ids))
        )
    mask = np.zeros(len(ids), dtype=np.bool_)
    for span in spans:
        mask[span.start : span.end] = span.role == "assistant"
    chances = np.random.default_rng(seed).beta(1, 0.3, len(ids)).clip(1e-6)
    return Transcript(
        token_ids=np.array(ids, dtype=np.int64),
        action_mask=mask,
        logprobs=np.where(mask, np.log(chances), np.nan).astype(np.float32),
        policy_version=np.where(mask, version, -1),
        spans=tuple(spans),
    )
