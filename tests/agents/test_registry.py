"""Agents by name, in a file and installed; the ones that write; and evaluation with each of them."""

from __future__ import annotations

import io
import json
import threading
import time
from importlib.metadata import EntryPoint
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from agents import registry
from agents.base import Generation, Request
from agents.config import AgentConfig, EvalConfig
from agents.evaluation.evaluate import evaluate_agent
from agents.human import HumanAgent
from agents.openai_chat import OpenAIAgent
from agents.random_agent import RandomAgent
from agents.registry import AgentSetup, make_agent
from agents.rollout import play, play_rounds
from agents.scripted import ScriptedAgent
from agents.writing import write_turn
from retool_env.compose import compose
from retool_env.config import EnvConfig
from retool_env.errors import EngineError, UsageError
from retool_env.outcome import Outcome
from retool_env.problems import Problem
from retool_env.sandbox import Cancel
from retool_env.sources import ListSource, open_source
from retool_env.tokenizer import ByteTokenizer
from tests.agents.chat_server import chat_server
from tests.agents.fake_server import fake_sglang

TOKENIZER = ByteTokenizer()
ENV = EnvConfig(max_context_tokens=4000, max_turn_tokens=1000)
OWN = """
from agents.writing import write_turn

class Parrot:
    def __init__(self, setup, *, word="polly"):
        self.tokenizer, self.word = setup.tokenizer, word

    def act(self, request):
        return write_turn(self.word, request, self.tokenizer)

class Mute:
    def __init__(self, setup):
        pass

number = 3
"""


def setup(**settings) -> AgentSetup:
    return AgentSetup(config=AgentConfig(**settings), env=ENV, source=open_source(size=3, split="heldout"))


def ask(text: str = "What?\n", **settings) -> Request:
    return Request(**{"token_ids": np.array(TOKENIZER.encode(text), dtype=np.int64), "budget": 50, **settings})


def text_of(generation: Generation) -> str:
    return TOKENIZER.decode(generation.token_ids)


@pytest.fixture
def own_file(tmp_path: Path) -> Path:
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return path


def test_a_class_in_a_file(own_file: Path) -> None:
    agent = make_agent(setup(name=f"{own_file}:Parrot", options={"word": "hello"}))
    assert text_of(agent.act(ask())) == "hello<eos>"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("oracel", {}, "did you mean 'oracle'"),
        ("{file}:Parot", {}, "no class or function 'Parot' in it; did you mean 'Parrot'"),
        ("{file}:number", {}, "no class or function 'number'"),
        ("{file}:Mute", {}, "Mute has no method act"),
        ("{file}:Parrot", {"wrod": 1}, "unexpected keyword argument 'wrod'"),
        ("nowhere.py:X", {}, "no such file"),
        ("oracle", {"x": 1}, "unexpected keyword argument 'x'"),
        ("scripted", {}, "missing a required argument: 'turns'"),
        ("scripted", {"turns": []}, "give at least one text"),
        ("sglang", {}, "agent.url is not set"),
        ("embedded", {}, "agent.path is not set"),
        ("random", {"mean_length": 0}, "must be at least 1"),
    ],
)
def test_mistakes_are_told(own_file: Path, name: str, options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_agent(setup(name=name.format(file=own_file), options=options))


@pytest.mark.parametrize("name", ["sglang", "openai"])
def test_a_server_that_is_not_there_is_told(name: str) -> None:
    with pytest.raises(UsageError, match="is the server running"):
        make_agent(setup(name=name, url="http://127.0.0.1:9", model="m"))


def test_an_endpoint_with_one_model_needs_no_name() -> None:
    with chat_server() as server:
        agent = make_agent(setup(name="openai", url=server.url))
        assert isinstance(agent, OpenAIAgent) and agent.model_name == "tiny"
        server.models = ["one", "two"]
        with pytest.raises(UsageError, match=r"agent.model is not set, and .* has no single model: one, two"):
            make_agent(setup(name="openai", url=server.url))
        server.models = []
        with pytest.raises(UsageError, match=r"none are named there \(status 200\)"):
            make_agent(setup(name="openai", url=server.url))
        with pytest.raises(UsageError, match="asks one endpoint"):
            make_agent(setup(name="openai", url=(server.url, server.url)))


def test_what_the_recipe_guide_takes_for_granted(monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint at localhost:8000/v1 with the key EMPTY."""
    asked: list[tuple[str, str]] = []

    def connect(agent: OpenAIAgent) -> None:
        asked.append((agent.url, agent._courier._headers["authorization"]))

    monkeypatch.setattr(OpenAIAgent, "connect", connect)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    make_agent(setup(name="openai"))
    assert asked == [("http://localhost:8000/v1", "Bearer EMPTY")]


def test_a_server_with_a_smaller_context_is_told() -> None:
    with (
        fake_sglang("--random", "--context-length", 1000) as server,
        pytest.raises(UsageError, match=r"env.max_context_tokens=998 or less"),
    ):
        make_agent(setup(name="sglang", url=server.url))


def test_an_installed_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint(name="mine", value="agents.random_agent:make_none", group="retool.agents"),
        EntryPoint(name="yours", value="agents.factories:random", group="retool.agents"),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group == "retool.agents" else [])
    assert isinstance(make_agent(setup(name="yours")), RandomAgent)
    with pytest.raises(UsageError, match=r"'mine' \(agents.random_agent:make_none\) cannot be loaded"):
        make_agent(setup(name="mine"))
    with pytest.raises(UsageError, match="did you mean 'yours'"):
        make_agent(setup(name="your"))


def test_a_key_is_never_written_down(tmp_path: Path) -> None:
    with fake_sglang("--random", "--api-key", "geheim") as server:
        overrides = [f"out={tmp_path}", "agent=sglang", f"agent.url={server.url}", "agent.api_key=geheim"]
        overrides += ["problems.size=3", "problems.split=heldout", "env.max_context_tokens=4000", "num_slots=3"]
        evaluate_agent(compose("eval", EvalConfig, [*overrides, "env.max_turn_tokens=20"]))
    assert json.loads((tmp_path / "run.json").read_text())["config"]["agent"]["api_key"] == "**********"
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and "geheim" in path.read_text()]


@pytest.mark.parametrize("name", ["random", "scripted", "openai"])
def test_evaluation_with_any_agent(tmp_path: Path, name: str) -> None:
    overrides = [f"out={tmp_path}", f"agent={name}", "problems.size=6", "problems.split=heldout", "samples=2"]
    with chat_server() as server:
        overrides += {
            "random": ["agent.options={text: true}"],
            "scripted": [r"agent.options={turns: ['<code>print(1)</code>', '\\boxed{2}']}"],
            "openai": [f"agent.url={server.url}", "agent.model=m"],
        }[name]
        summary = evaluate_agent(compose("eval", EvalConfig, overrides))[0]
    assert summary.num_failed == 0


def test_several_urls_are_a_list() -> None:
    config = compose("eval", EvalConfig, ["agent.url=[http://a:1,http://b:2]"])
    assert config.agent.urls == ("http://a:1", "http://b:2")
    assert compose("eval", EvalConfig, ["agent.url=http://a:1"]).agent.urls == ("http://a:1",)


class Counting:
    """An agent behind a network: takes a while, and says how many turns were in flight at most."""

    def __init__(self) -> None:
        self.in_flight = self.most = 0
        self._lock = threading.Lock()

    def act(self, request: Request) -> Generation:
        with self._lock:
            self.in_flight += 1
            self.most = max(self.most, self.in_flight)
        time.sleep(0.3 if request.session == 0 else 0.02)
        with self._lock:
            self.in_flight -= 1
        text = f"<code>print({request.turn})</code>" if request.turn < 2 else f"\\boxed{{{request.session}}}"
        return write_turn(text, request, TOKENIZER)


def test_turns_of_other_episodes_do_not_wait_for_a_slow_one() -> None:
    source = ListSource(name="x", problems=tuple(Problem(id=str(k), prompt="?", answer=str(k)) for k in range(20)))
    agent = Counting()
    trajectories = list(chain.from_iterable(play_rounds(source, agent, env=ENV, num_episodes=20, num_slots=4)))
    order = [t.ticket for t in trajectories]
    assert sorted(order) == list(range(20))
    assert all(t.record.correct and t.record.num_tool_calls == 2 for t in trajectories)
    assert agent.most == 4
    assert order.index(0) > 4, "somebody waited for the slow episode"


def test_what_is_played_does_not_depend_on_the_number_of_slots() -> None:
    source = open_source(size=5, split="heldout")
    agent = RandomAgent(TOKENIZER, text=True)
    one, many = (play(source, agent, env=ENV, num_episodes=10, num_slots=n, group_size=2) for n in (1, 10))
    assert [t.transcript.token_ids.tolist() for t in one] == [t.transcript.token_ids.tolist() for t in many]
    assert [(t.group, t.sample) for t in many] == [(k // 2, k % 2) for k in range(10)]


def test_a_mistake_in_one_slot_ends_them_all() -> None:
    class Failing:
        def act(self, request: Request) -> Generation:
            if request.session == 3:
                raise UsageError("this one")
            assert request.cancel is not None
            bell = threading.Event()
            request.cancel.add(bell.set)
            assert bell.wait(30), "the other slots were not told"
            return Generation.aborted()

    with pytest.raises(UsageError, match="this one"):
        play(open_source(size=8, split="heldout"), Failing(), env=ENV, num_episodes=8, num_slots=8)


def test_an_agent_that_reads_messages_gets_the_conversation() -> None:
    seen: list[Request] = []

    class Reader(ScriptedAgent):
        reads_messages = True

        def act(self, request: Request) -> Generation:
            seen.append(request)
            return super().act(request)

    agent = Reader(lambda _, turn: "<code>print(6*7)</code>" if turn == 0 else "\\boxed{42}", TOKENIZER)
    env = ENV.model_copy(update={"instructions": False})
    play(
        ListSource(name="x", problems=(Problem(id="p", prompt="Six by seven?", answer="42"),)),
        agent,
        env=env,
        num_episodes=1,
    )
    assert [[(m.role, m.content) for m in request.messages] for request in seen] == [
        [("user", "Six by seven?")],
        [("user", "Six by seven?"), ("assistant", "<code>print(6*7)</code>"), ("tool", "42")],
    ]
    assert [tool.name for tool in seen[0].tools] == ["code_interpreter"]


def test_void_turns_are_in_the_conversation() -> None:
    seen: list[Request] = []

    class Reader(ScriptedAgent):
        reads_messages = True

        def act(self, request: Request) -> Generation:
            seen.append(request)
            return super().act(request)

    env = EnvConfig(max_void_turns=3, instructions=False)
    play(open_source(size=1, split="heldout"), Reader(lambda *_: "hm", TOKENIZER), env=env, num_episodes=1)
    assert [message.role for message in seen[-1].messages] == ["user", "assistant", "user", "assistant", "user"]


@pytest.mark.parametrize(
    ("text", "settings", "ids", "finish"),
    [
        ("ab", {}, "ab<eos>", "stop"),
        ("ab</x>cd", {"stop": ("</x>",)}, "ab</x>", "stop"),
        ("abc", {"budget": 2}, "ab", "length"),
        ("abc", {"budget": 3}, "abc", "length"),
        ("", {}, "<eos>", "stop"),
        ("b</x>a</y>", {"stop": ("</y>", "</x>")}, "b</x>", "stop"),
    ],
)
def test_how_text_becomes_a_turn(text: str, settings: dict, ids: str, finish: str) -> None:
    got = write_turn(text, ask(**settings), TOKENIZER)
    assert (text_of(got), got.finish_reason) == (ids, finish)


def test_a_person_types_turns_and_sees_what_is_new() -> None:
    screen = io.StringIO()
    agent = HumanAgent(TOKENIZER, source=io.StringIO("one\ntwo\n.\n\\boxed{2}\n"), target=screen)
    first = agent.act(ask("What?\n", session=1))
    assert text_of(first) == "one\ntwo<eos>"
    longer = TOKENIZER.decode([*TOKENIZER.encode("What?\n"), *first.token_ids.tolist()]) + "\nNEW"
    second = agent.act(ask(longer, session=1, turn=1))
    assert text_of(second) == "\\boxed{2}<eos>"
    shown = screen.getvalue()
    assert shown.count("What?") == 1 and "NEW" in shown and "turn 2" in shown
    with pytest.raises(EngineError, match="the input ended"):
        agent.act(ask())


def test_random_turns_are_fixed_by_their_seeds() -> None:
    for text in (False, True):
        agent, other = RandomAgent(TOKENIZER, seed=1, text=text), RandomAgent(TOKENIZER, seed=2, text=text)
        turns = [agent.act(ask(seed=k, budget=500)).token_ids.tolist() for k in range(200)]
        assert turns == [agent.act(ask(seed=k, budget=500)).token_ids.tolist() for k in range(200)]
        assert len({tuple(turn) for turn in turns}) > 190
        assert turns[:5] != [other.act(ask(seed=k, budget=500)).token_ids.tolist() for k in range(5)]
        assert 20 < np.mean([len(turn) for turn in turns]) < 50
    cancel = Cancel()
    cancel()
    assert agent.act(ask(cancel=cancel)).finish_reason == "abort"


def test_outages_are_outcomes_in_every_slot() -> None:
    class Broken:
        def act(self, request: Request) -> Generation:
            raise EngineError("no route to host")

    trajectories = play(open_source(size=9, split="heldout"), Broken(), env=ENV, num_episodes=9, num_slots=3)
    assert {t.record.outcome for t in trajectories} == {Outcome.ENGINE_OUTAGE} and len(trajectories) == 9
