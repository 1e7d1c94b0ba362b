"""Rewards, trajectories, tickets, seeds and tokenizers."""

from __future__ import annotations

import dataclasses
import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retool_env.errors import UsageError
from retool_env.feeder import Feeder
from retool_env.outcome import Outcome, ToolStatus
from retool_env.problems import Message, Problem
from retool_env.record import CallRecord, EpisodeRecord
from retool_env.rewards import make_reward
from retool_env.sandbox.base import Limits
from retool_env.seeding import derive
from retool_env.sources import ListSource, open_source
from retool_env.tokenizer import ByteTokenizer, FileTokenizer, load_tokenizer
from retool_env.trajectory import Trajectory, append_trajectories, drop_torn_line, read_trajectories
from retool_env.transcript import Span, Transcript
from retool_env.verifier import Verdict

PROBLEM = Problem(id="p", prompt="?", answer="1", family="add")


def record(correct: bool | None, calls: int = 0, outcome: Outcome = Outcome.ANSWERED) -> EpisodeRecord:
    call = CallRecord(turn=0, name="code_interpreter", code="print(1)", status=ToolStatus.OK, text="1")
    verdict = None if correct is None else Verdict(correct=correct, answered=True, answer="1", elapsed=0.5)
    return EpisodeRecord(
        problem=PROBLEM, outcome=outcome, turns=("x",), calls=(call,) * calls, verdict=verdict, num_action_tokens=2
    )


@pytest.mark.parametrize(
    ("reward", "correct", "calls", "value"),
    [
        ("accuracy", True, 1, 1.0),
        ("accuracy", False, 0, 0.0),
        ("pm1", True, 3, 1.0),
        ("pm1", False, 0, -1.0),
        ("strategic", True, 0, 1.0),
        ("strategic", True, 1, 0.5),
        ("strategic", True, 3, 0.0),
        ("strategic", False, 0, 0.0),
        ("strategic", False, 3, 0.0),
        ({"pm1": 0.5, "accuracy": 2.0}, True, 0, 2.5),
    ],
)
def test_rewards_by_hand(reward: dict | str, correct: bool, calls: int, value: float) -> None:
    assert make_reward(reward).score(record(correct, calls)).reward == value


def test_unscored_is_none_never_zero() -> None:
    failed = make_reward("pm1").score(record(None, outcome=Outcome.SANDBOX_OUTAGE))
    assert failed.reward is None
    assert failed.reward_parts[0].weighted is None


def test_the_price_of_a_call_can_be_set() -> None:
    assert make_reward("strategic", tool_cost=0.1).score(record(True, 2)).reward == pytest.approx(0.8)


def transcript() -> Transcript:
    return Transcript(
        token_ids=np.array([5, 6, 7], dtype=np.int64),
        action_mask=np.array([False, True, True]),
        logprobs=np.array([np.nan, -0.1, -1 / 3], dtype=np.float32),
        policy_version=np.array([-1, 4, 4], dtype=np.int64),
        spans=(Span(role="prompt", turn=0, start=0, end=1), Span(role="assistant", turn=0, start=1, end=3)),
    )


def trajectory(ticket: int = 3) -> Trajectory:
    scored = make_reward("pm1").score(record(True, 1))
    return Trajectory(ticket=ticket, group=1, sample=1, record=scored, transcript=transcript())


def test_trajectories_round_trip_to_the_bit() -> None:
    one = trajectory()
    two = Trajectory.from_json(one.to_json())
    assert two.record == one.record
    assert two.transcript.spans == one.transcript.spans
    for name in ("token_ids", "action_mask", "logprobs", "policy_version"):
        left, right = getattr(one.transcript, name), getattr(two.transcript, name)
        assert left.dtype == right.dtype
        assert left.tobytes() == right.tobytes()


@given(st.floats(width=32, max_value=0, allow_nan=False, allow_infinity=False))
def test_log_probabilities_survive_json(value: float) -> None:
    base = transcript()
    changed = Transcript(**{**vars(base), "logprobs": np.array([np.nan, value, value], dtype=np.float32)})
    one = Trajectory(ticket=0, group=0, sample=0, record=record(True), transcript=changed)
    assert Trajectory.from_json(one.to_json()).transcript.logprobs.tobytes() == changed.logprobs.tobytes()


def test_an_episode_that_was_written_needs_no_list_of_nothing() -> None:
    written = Transcript(
        **{
            **vars(transcript()),
            "logprobs": np.full(3, np.nan, dtype=np.float32),
            "policy_version": np.full(3, -1, dtype=np.int64),
        }
    )
    one = Trajectory(ticket=0, group=0, sample=0, record=record(True), transcript=written, num_counted=7)
    row = json.loads(one.to_json())
    assert row["logprobs"] is None and row["policy_version"] is None
    two = Trajectory.from_json(one.to_json())
    assert two.transcript.logprobs.tobytes() == written.logprobs.tobytes()
    assert two.transcript.policy_version.tobytes() == written.policy_version.tobytes()
    assert (two.num_counted, two.failure) == (7, "")


@pytest.mark.parametrize("whole", [0, 1, 3])
def test_a_torn_line_longer_than_a_block_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: int
) -> None:
    monkeypatch.setattr("retool_env.trajectory._BLOCK", 100)
    path = tmp_path / "t.jsonl"
    append_trajectories(path, [trajectory(k) for k in range(whole)])
    before = path.read_bytes()
    with path.open("a") as file:
        file.write(trajectory(9).to_json()[:350])
    drop_torn_line(path)
    assert path.read_bytes() == before
    drop_torn_line(path)
    assert path.read_bytes() == before


def test_half_a_surrogate_pair_can_be_written(tmp_path: Path) -> None:
    kept = dataclasses.replace(trajectory(0), failure="half \ud800")
    append_trajectories(tmp_path / "t.jsonl", [kept])
    assert next(read_trajectories(tmp_path / "t.jsonl")).failure == "half \ud800"


def test_a_torn_line_is_left_out_and_can_be_dropped(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    append_trajectories(path, [trajectory(0), trajectory(1)])
    with path.open("a") as file:
        file.write(trajectory(2).to_json()[:50])
    assert [t.ticket for t in read_trajectories(path)] == [0, 1]
    drop_torn_line(path)
    append_trajectories(path, [trajectory(3)])
    assert [t.ticket for t in read_trajectories(path)] == [0, 1, 3]
    path.write_text("{}\n" + path.read_text())
    with pytest.raises(UsageError, match=r"t.jsonl:1: not a trajectory"):
        list(read_trajectories(path))


@pytest.mark.parametrize(
    "change",
    [
        {"logprobs": np.zeros(3, dtype=np.float32)},
        {"action_mask": np.array([True])},
        {"spans": (Span(role="prompt", turn=0, start=0, end=2),)},
    ],
)
def test_a_transcript_that_contradicts_itself_cannot_be_made(change: dict) -> None:
    with pytest.raises(AssertionError):
        Transcript(**{**vars(transcript()), **change})


def test_tickets_are_functions_of_their_number() -> None:
    source = open_source(size=10, split="heldout")
    feeder = Feeder(source, seed=5, group_size=4, shuffle=True)
    tickets = [feeder.ticket(i) for i in range(80)]
    assert [t.group for t in tickets[:9]] == [0, 0, 0, 0, 1, 1, 1, 1, 2]
    assert len({t.problem.id for t in tickets[:4]}) == 1
    epochs = [[tickets[4 * g].problem.id for g in range(start, start + 10)] for start in (0, 10)]
    assert sorted(epochs[0]) == sorted(epochs[1])
    assert epochs[0] != epochs[1]
    assert len({t.sampling_seed for t in tickets}) == len({t.sandbox_seed for t in tickets}) == 80
    assert [Feeder(source, seed=5, group_size=4, shuffle=True).ticket(i) for i in reversed(range(80))][::-1] == tickets
    # Jumping between epochs in any order gives the same problems.
    assert [feeder.ticket(i) for i in (79, 3, 41)] == [tickets[i] for i in (79, 3, 41)]


def test_slots_share_out_the_tickets() -> None:
    source = ListSource(name="x", problems=(PROBLEM,))
    feeder = Feeder(source, first=10, num_tickets=20, skip={13, 14})
    taken = [[t.index for t in feeder.slot(s, 3)] for s in range(3)]
    assert taken == [[10, 16, 19], [11, 17], [12, 15, 18]]


def test_a_shared_row_gives_the_next_ticket_to_whoever_asks() -> None:
    feeder = Feeder(ListSource(name="x", problems=(PROBLEM,)), first=10, num_tickets=17, skip={13}, shared=True)
    slots = [feeder.slot(s, 3) for s in range(3)]
    assert [next(slots[s]).index for s in (2, 0, 0, 1, 0)] == [10, 11, 12, 14, 15]
    assert [t.index for s in slots for t in s] == [16]


def test_threads_share_a_row_without_a_ticket_twice() -> None:
    feeder = Feeder(ListSource(name="x", problems=(PROBLEM,)), num_tickets=2000, shared=True)
    with ThreadPoolExecutor(8) as threads:
        taken = list(threads.map(lambda s: [t.index for t in feeder.slot(s, 8)], range(8)))
    assert sorted(index for row in taken for index in row) == list(range(2000))


def test_seeds_of_streams_are_unrelated_and_fixed() -> None:
    assert derive(0, "sampling", 1) == derive(0, "sampling", 1)
    values = {derive(s, name, i) for s in range(5) for name in ("sampling", "sandbox") for i in range(100)}
    assert len(values) == 1000
    assert all(0 <= value < 2**63 for value in values)


@given(st.text())
def test_bytes_round_trip(text: str) -> None:
    tokenizer = ByteTokenizer()
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.eos_id not in tokenizer.encode(tokenizer.escape(text))


def test_chat_templates_are_rendered(tmp_path: Path, tiny_folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tiny_folder / name).read_bytes())
    template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}>{% endif %}"
    )
    (tmp_path / "chat_template.jinja").write_text(template)
    tokenizer = FileTokenizer(tmp_path)
    ids = tokenizer.encode_chat([Message(role="system", content="a"), Message(role="user", content="b")])
    assert tokenizer.decode(ids) == "[system]a[user]b>"


def test_tokenizer_mistakes_are_named(tmp_path: Path, tiny_folder: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((tiny_folder / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<nope>"}')
    with pytest.raises(UsageError, match="eos_token '<nope>' is not in the vocabulary"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_sandbox_limits_are_checked(value: float) -> None:
    with pytest.raises(UsageError, match="sandbox limit wall_seconds"):
        Limits(wall_seconds=value)
