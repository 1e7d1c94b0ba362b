"""Rollouts with scripted agents: recorder, feeder, oracle, and outages."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from agents.base import Generation, Request
from agents.recorder import Recorder
from agents.rollout import play, play_rounds
from agents.scripted import OracleAgent, ScriptedAgent, program_for
from retool_env.config import EnvConfig
from retool_env.errors import EngineError, UsageError
from retool_env.outcome import Outcome, ToolStatus
from retool_env.problems import Problem
from retool_env.sources import ListSource, open_source
from retool_env.tokenizer import ByteTokenizer
from retool_env.trajectory import Trajectory

TOKENIZER = ByteTokenizer()
ENV = EnvConfig(max_context_tokens=4000, max_turn_tokens=1000)


def test_the_oracle_solves_every_arithmetic_family() -> None:
    """The independent check of generator, dialect, sandbox and verifier: nothing here knows the gold."""
    source = open_source(size=50, split="heldout")
    agent = OracleAgent(map(source.problem, range(50)), TOKENIZER)
    trajectories = play(source, agent, env=ENV, num_episodes=50, num_slots=16)
    assert [t.ticket for t in trajectories] == list(range(50))
    assert all(t.record.correct and t.record.num_tool_calls == 1 for t in trajectories)


def test_episodes_that_are_handed_on_are_not_kept() -> None:
    source = open_source(size=6, split="heldout")
    agent = OracleAgent(map(source.problem, range(6)), TOKENIZER)
    before: list[weakref.ref[Trajectory]] = []
    for finished in play_rounds(source, agent, env=ENV, num_episodes=6, num_slots=2):
        gc.collect()
        assert not [kept for kept in before if kept() is not None]
        before += map(weakref.ref, finished)
        del finished
    assert len(before) == 6


def test_sessions_are_counted_from_where_they_are_told_to() -> None:
    """So that an evaluation does not get the cache of an episode that is being trained on."""
    source, seen = open_source(size=3, split="heldout"), set()

    class Watching(OracleAgent):
        def act(self, request: Request) -> Generation:
            seen.add((request.session, request.group))
            return super().act(request)

    agent = Watching(map(source.problem, range(3)), TOKENIZER)
    trajectories = play(source, agent, env=ENV, num_episodes=6, group_size=2, num_slots=2, first_session=100)
    assert [t.ticket for t in trajectories] == list(range(6))
    assert seen == {(100 + ticket, 100 + ticket // 2) for ticket in range(6)}


@pytest.mark.parametrize("num_slots", [1, 3, 7])
def test_trajectories_do_not_depend_on_the_number_of_slots(num_slots: int) -> None:
    source = open_source(size=7, split="heldout")
    agent = OracleAgent(map(source.problem, range(7)), TOKENIZER)
    trajectories = play(source, agent, env=ENV, num_episodes=14, group_size=2, num_slots=num_slots)
    assert [(t.group, t.sample) for t in trajectories] == [(i // 2, i % 2) for i in range(14)]
    assert [t.record.problem.id for t in trajectories] == [source.problem(i // 2).id for i in range(14)]


def test_what_was_played_is_skipped() -> None:
    source = open_source(size=6, split="heldout")
    agent = OracleAgent(map(source.problem, range(6)), TOKENIZER)
    assert [t.ticket for t in play(source, agent, env=ENV, num_episodes=6, skip={0, 2, 5})] == [1, 3, 4]


def test_the_recorder_joins_logprobs_to_their_ids() -> None:
    class Numbered:
        """Gives every sampled id its own log-probability and a version per turn."""

        def act(self, request: Request) -> Generation:
            text = "<code>print(1)</code>" if request.turn == 0 else r"\boxed{1}"
            ids = TOKENIZER.encode(text) + ([TOKENIZER.eos_id] if request.turn else [])
            logprobs = -np.arange(1, len(ids) + 1, dtype=np.float32) - 100 * request.turn
            version = np.full(len(ids), request.turn, dtype=np.int64)
            ids_array = np.array(ids, dtype=np.int64)
            return Generation(token_ids=ids_array, logprobs=logprobs, finish_reason="stop", policy_version=version)

    problem = Problem(id="p", prompt="?", answer="1")
    (trajectory,) = play(ListSource(name="x", problems=(problem,)), Numbered(), env=ENV, num_episodes=1)
    transcript = trajectory.transcript
    assert [span.role for span in transcript.spans] == ["prompt", "assistant", "tool", "assistant"]
    for span in transcript.spans:
        logprobs = transcript.logprobs[span.start : span.end]
        if span.role == "assistant":
            assert logprobs.tolist() == [-k - 100.0 * span.turn for k in range(1, len(logprobs) + 1)]
            assert set(transcript.policy_version[span.start : span.end].tolist()) == {span.turn}
        else:
            assert np.isnan(logprobs).all()
            assert set(transcript.policy_version[span.start : span.end].tolist()) == {-1}


def test_an_engine_outage_is_unscored() -> None:
    class Broken:
        def act(self, request: Request) -> Generation:
            raise EngineError("no route to host")

    source = open_source(size=2, split="heldout")
    trajectories = play(source, Broken(), env=ENV, num_episodes=2)
    assert {t.record.outcome for t in trajectories} == {Outcome.ENGINE_OUTAGE}
    assert all(t.record.reward is None and t.record.verdict is None and not t.scored for t in trajectories)


class GivesUp:
    """Returns what it has of a turn, as a server that ends requests for reasons of its own."""

    def act(self, request: Request) -> Generation:
        return replace(Generation.written(TOKENIZER.encode("let me th")), finish_reason="abort")


class GivesUpInRounds(GivesUp):
    def act_many(self, requests: Sequence[Request]) -> list[Generation]:
        return [self.act(request) for request in requests]


@pytest.mark.parametrize("agent", [GivesUp(), GivesUpInRounds()])
def test_a_part_of_a_turn_is_an_engine_outage(agent: GivesUp) -> None:
    trajectories = play(open_source(size=2, split="heldout"), agent, env=ENV, num_episodes=2)
    assert {t.record.outcome for t in trajectories} == {Outcome.ENGINE_OUTAGE}
    assert all(t.record.reward is None and not t.transcript.action_mask.any() for t in trajectories)


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("logprobs", np.zeros(1, np.float32)),
        ("logprobs", np.float32(0)),
        ("policy_version", np.zeros(1, np.int64)),
        ("token_ids", np.zeros((1, 9), np.int64)),
    ],
)
def test_arrays_of_other_lengths_are_told_to_be_the_agents_mistake(field: str, given: object) -> None:
    """NumPy would write one number for all nine ids."""

    class Careless:
        def act(self, request: Request) -> Generation:
            return replace(Generation.written(TOKENIZER.encode("123456789")), **{field: given})

    with pytest.raises(UsageError, match=r"the agent's Generation has .* \[num_new\]"):
        play(open_source(size=1, split="heldout"), Careless(), env=ENV, num_episodes=1)


def test_statuses_reach_the_record() -> None:
    programs = {
        "ok": "print(1)",
        "error": "1/0",
        "timeout": "while True: pass",
        "malformed": "",
    }
    problems = tuple(Problem(id=name, prompt=name, answer="1") for name in programs)

    def write(context: str, turn: int) -> str:
        name = context.split("\n")[0]
        return f"<code>{programs[name]}</code>" if turn == 0 else r"\boxed{1}"

    env = ENV.model_copy(update={"instructions": False, "cpu_seconds": 0.3})
    agent = ScriptedAgent(write, TOKENIZER)
    for trajectory in play(ListSource(name="x", problems=problems), agent, env=env, num_episodes=4):
        (call,) = trajectory.record.calls
        assert call.status == ToolStatus(trajectory.record.problem.id)
        assert trajectory.record.outcome is Outcome.ANSWERED


def test_a_mismatch_of_ids_is_our_bug() -> None:
    source = open_source(size=1, split="heldout")
    agent = OracleAgent([source.problem(0)], TOKENIZER)

    class Liar(Recorder):
        def add(self, ticket: int, generation: Generation) -> Generation:
            super().add(ticket, Generation.written(generation.token_ids.tolist()[::-1]))
            return generation

    from agents.base import Sampling
    from agents.rollout import Slots
    from retool_env.feeder import Feeder

    liar = Liar()
    feeder = Feeder(source, num_tickets=1, on_end=liar.finish)
    slots = Slots(feeder, liar, agent, env=ENV, num_slots=1, sampling=Sampling())
    with pytest.raises(AssertionError, match="episode and engine differ in ids"):
        list(slots.run(0, 1))
    slots.close()


@pytest.mark.parametrize(
    ("solution", "program"),
    [
        ("a <<48/2=24>>24 b <<48+24=72>>", "print(48/2)\nprint(48+24)"),
        ("<<20%*50=10>>", "print((20/100)*50)"),
        ("<<007+1=8>>", "print(7+1)"),
        ("<<0.5*100=50>>", "print(0.5*100)"),
        ("<<1,000+5=1005>>", "print(1000+5)"),
        ("no annotation", ""),
    ],
)
def test_annotations_as_programs(solution: str, program: str) -> None:
    assert program_for(Problem(id="p", prompt="?", answer="1", metadata={"solution": solution})) == program
