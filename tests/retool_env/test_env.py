"""The Gymnasium side: registration, contract, seeding, pickling, and what a step returns."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import retool_env  # noqa: F401  registers the ids
from retool_env.envs.math_tool import MathToolEnv
from retool_env.envs.spaces import TokenSequence
from retool_env.errors import UsageError
from retool_env.feeder import Feeder
from retool_env.outcome import Outcome
from retool_env.problems import Problem
from retool_env.sandbox import open_sandbox
from retool_env.sources import open_source
from retool_env.tokenizer import ByteTokenizer
from retool_env.verifier import Verdict

TOKENIZER = ByteTokenizer()
IDS = ["retool/MathTool-v0", "retool/Arithmetic-v0"]
PROBLEM = Problem(id="p", prompt="What is 6 * 7?", answer="42")


def action(text: str, *, end: bool = False) -> np.ndarray:
    return np.array(TOKENIZER.encode(text) + ([TOKENIZER.eos_id] if end else []), dtype=np.int64)


@pytest.fixture
def env():
    made = gymnasium.make("retool/MathTool-v0", max_context_tokens=2000, max_turn_tokens=500)
    yield made
    made.close()


@pytest.mark.parametrize("name", IDS)
def test_check_env_finds_nothing(name: str) -> None:
    made = gymnasium.make(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(made.unwrapped)
    made.close()


def test_an_episode_with_a_call(env: gymnasium.Env) -> None:
    observation, info = env.reset(options={"problem": PROBLEM})
    assert info == {"problem_id": "p"}
    prompt = observation["token_ids"]
    call = action("<code>print(6 * 7)</code>")
    observation, reward, terminated, truncated, info = env.step(call)
    assert (reward, terminated, truncated, info) == (0.0, False, False, {})
    context = observation["token_ids"]
    assert np.array_equal(context[: len(prompt) + len(call)], np.concatenate([prompt, call]))
    assert TOKENIZER.decode(context[len(prompt) + len(call) :]) == "\n<interpreter>\n42\n</interpreter>\n"
    observation, reward, terminated, truncated, info = env.step(action(r"<answer>\boxed{42}</answer>", end=True))
    assert (reward, terminated, truncated) == (1.0, True, False)
    assert info == {"outcome": "answered", "reward_parts": {"pm1": 1.0}}
    assert observation["scored"].tolist() == [1]
    with pytest.raises(UsageError, match=r"the episode ended \(answered\); call reset"):
        env.unwrapped.step(call)


@pytest.mark.parametrize(
    ("text", "end", "reward", "terminated", "outcome", "scored"),
    [
        (r"\boxed{41}", True, -1.0, True, Outcome.ANSWERED, 1),
        ("no idea", True, -1.0, True, Outcome.NO_ANSWER, 1),
        (r"cut off \boxed{42}", False, -1.0, False, Outcome.TURN_TOO_LONG, 1),
        ("", False, 0.0, False, Outcome.ENGINE_OUTAGE, 0),
    ],
)
def test_ends(env, text: str, end: bool, reward: float, terminated: bool, outcome: Outcome, scored: int) -> None:
    env.reset(options={"problem": PROBLEM})
    observation, got, term, trunc, info = env.step(action(text, end=end))
    assert (got, term, trunc) == (reward, terminated, not terminated)
    assert info["outcome"] == outcome
    assert observation["scored"].tolist() == [scored]


def test_the_answer_of_the_interpreter_is_not_the_policys(env: gymnasium.Env) -> None:
    """Invariant 8: a program that prints a box is not an answer."""
    env.reset(options={"problem": PROBLEM})
    env.step(action(r"<code>print(r'<answer>\boxed{42}</answer>')</code>"))
    _, reward, terminated, _, info = env.step(action("done", end=True))
    assert (reward, terminated, info["outcome"]) == (-1.0, True, "no_answer")


def test_a_dead_sandbox_is_an_outcome_not_an_error(env: gymnasium.Env) -> None:
    env.reset(options={"problem": PROBLEM})
    env.step(action("<code>print(1)</code>"))
    with open_sandbox("fork") as own:  # the shared one is everybody's
        handle = env.unwrapped._session._handles["code_interpreter"]
        dead = dataclasses.replace(handle.tool, sandbox=own)
        env.unwrapped._session._handles["code_interpreter"] = dataclasses.replace(handle, tool=dead)
    observation, reward, terminated, truncated, info = env.step(action("<code>print(2)</code>"))
    assert (reward, terminated, truncated, info["outcome"]) == (0.0, False, True, "sandbox_outage")
    assert observation["scored"].tolist() == [0]
    assert [call.status for row in env.unwrapped.episode.rounds for call in row] == ["ok", "outage"]


def test_the_seed_fixes_the_episode() -> None:
    first, second = (gymnasium.make("retool/Arithmetic-v0") for _ in range(2))
    ids = [[e.reset(seed=7)[0]["token_ids"].tolist(), e.reset()[0]["token_ids"].tolist()] for e in (first, second)]
    assert ids[0] == ids[1]
    assert ids[0][0] != ids[0][1]


def test_programs_are_seeded_by_the_episode() -> None:
    outputs = []
    for seed in (1, 1, 2):
        made = gymnasium.make("retool/Arithmetic-v0")
        made.reset(seed=seed)
        observation, *_ = made.step(action("<code>import random; print(random.random())</code>"))
        outputs.append(TOKENIZER.decode(observation["token_ids"]).rsplit("<interpreter>", 1)[1])
        made.close()
    assert outputs[0] == outputs[1] != outputs[2]


def test_options(env: gymnasium.Env) -> None:
    one = env.reset(options={"index": 3})[1]
    assert env.reset(options={"index": 3})[1] == one
    with pytest.raises(UsageError, match=r"\['indx'\] are unknown; known: 'index', 'problem'"):
        env.reset(options={"indx": 3})
    with pytest.raises(UsageError, match=r"reset option problem=.* give a retool_env.problems.Problem"):
        env.reset(options={"problem": {"prompt": "?"}})


def test_options_beside_a_feeder_read_its_source_and_take_none_of_its_tickets() -> None:
    ended = []
    feeder = Feeder(open_source(size=10, split="heldout"), on_end=lambda ticket, *_: ended.append(ticket.index))
    made = MathToolEnv(feeder=feeder, tools=[])
    for options, name in (
        ({"index": 3}, feeder.source.problem(3).id),
        ({"problem": PROBLEM}, "p"),
        (None, feeder.ticket(0).problem.id),
    ):
        assert made.reset(options=options)[1] == {"problem_id": name}
        made.step(action(r"\boxed{1}", end=True))
    assert ended == [0]
    assert feeder.state_dict()["first"] == 1
    with pytest.raises(UsageError, match=r"index=10: the source has problems 0\.\.9"):
        made.reset(options={"index": 10})
    made.close()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (
            {"_dummy": "x"},
            "problem 'p': correct its tools_kwargs: code_interpreter has no setting '_dummy'; known: files",
        ),
        ({"files": {"a": "1", "a/b": "2"}}, "problem 'p': correct its tools_kwargs: .* files 'a' and 'a/b'"),
    ],
)
def test_a_problems_wrong_settings_are_named_before_anything_is_sampled(env, kwargs: dict, message: str) -> None:
    env.reset(options={"problem": PROBLEM})
    settings = {"code_interpreter": {"create_kwargs": kwargs}}
    with pytest.raises(UsageError, match=message):
        env.reset(options={"problem": PROBLEM.model_copy(update={"tools_kwargs": settings})})
    with pytest.raises(UsageError, match="call reset"):
        env.step(action("<code>1</code>"))


def test_pickle_and_deepcopy_leave_heavy_objects_behind(env: gymnasium.Env) -> None:
    env.reset(seed=1)
    env.step(action("<code>print(1)</code>"))
    for clone in (pickle.loads(pickle.dumps(env.unwrapped)), copy.deepcopy(env.unwrapped)):
        assert isinstance(clone, MathToolEnv)
        assert clone.config == env.unwrapped.config
        clone.reset(seed=1)
        clone.step(action("<code>print(1)</code>"))
        clone.close()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_tool_round": 3}, r"unknown key 'max_tool_round'; did you mean 'max_tool_rounds'\?"),
        ({"problems": "gsm9k"}, "problems='gsm9k' is unknown"),
        ({"problems": {"name": "gsm8k", "path": "nowhere.jsonl"}}, r"problems.path='nowhere.jsonl': no such file"),
        ({"reward": "pm2"}, r"reward='pm2': no reward part 'pm2'; did you mean 'pm1'\?"),
        ({"tokenizer": "nowhere"}, "tokenizer='nowhere': no tokenizer.json there"),
        ({"max_context_tokens": 0}, "max_context_tokens=0: input should be greater than 0"),
        ({"wall_seconds": 1.0}, "wall_seconds=1 must be at least cpu_seconds=5"),
        ({"max_context_tokens": 10}, "its prompt has"),
        ({"sandbox": "fokr"}, "did you mean 'fork'"),
        ({"sandbox": "fusion", "stateful": True}, "stateful=true needs sandbox=fork"),
        ({"tools": ["nowhere.py"]}, "nowhere.py"),
        ({"verifier": "boxed"}, r"verifier='boxed': no verifier 'boxed'; did you mean 'boxed_exact'\?"),
        ({"verifier": "nowhere.py"}, "verifier='nowhere.py': no such file"),
        ({"verifier": "retool_env.errors"}, "has no function verify"),
    ],
)
def test_mistakes_are_named(settings: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        MathToolEnv(**settings).reset(seed=0)


def ends_with(text: str, **settings: object) -> MathToolEnv:
    """The environment after an episode of one turn, whose gold is 42."""
    env = MathToolEnv(**settings)
    env.reset(options={"problem": PROBLEM})
    env.step(action(text, end=True))
    env.close()
    return env


def test_the_verifier_can_be_chosen() -> None:
    """The same value in another notation: equal for ours, another string for verl's strict mode."""
    said = r"<answer>\boxed{42.0}</answer>"
    assert ends_with(said).record.correct
    record = ends_with(said, verifier="boxed_exact").record
    assert not record.correct and record.verdict is not None and record.verdict.reason == "different"
    assert ends_with(said, verifier="math_verify").record.correct


def test_a_verifier_of_ones_own(tmp_path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from retool_env.verifier import Verdict\n"
        "def verify(response, gold): return '41' in response\n"
        "def full(response, gold): return Verdict(correct=True, answered=True, answer=gold, reason='equal')\n"
        "def broken(response, gold): return 1 / 0\n"
        "def vague(response, gold): return 'yes'\n"
    )
    record = ends_with(r"<answer>\boxed{41}</answer>", verifier=str(file)).record
    assert record.correct and record.verdict is not None
    assert (record.verdict.answer, record.verdict.marker) == ("41", "answer_tag")
    assert ends_with("Nothing.", verifier=f"{file}:full").record.verdict == Verdict(
        correct=True, answered=True, answer="42", reason="equal"
    )
    with pytest.raises(UsageError, match=r"mine.py:broken raised ZeroDivisionError: division by zero"):
        ends_with("Nothing.", verifier=f"{file}:broken")
    with pytest.raises(UsageError, match=r"mine.py:vague returned 'yes'; return True, False or a Verdict"):
        ends_with("Nothing.", verifier=f"{file}:vague")


def test_render() -> None:
    made = gymnasium.make("retool/MathTool-v0", instructions=False, render_mode="ansi")
    made.reset(options={"problem": PROBLEM})
    assert made.render() == "What is 6 * 7?\n"


def test_token_sequence_space() -> None:
    space = TokenSequence(10, 4, end_id=9, seed=0)
    samples = [space.sample() for _ in range(50)]
    assert all(s in space and s[-1] == 9 for s in samples)
    assert np.array([], dtype=np.int64) in space
    for bad in (np.array([10]), np.array([-1]), np.arange(5), np.array([1.0]), np.array([[1]]), [1, 2]):
        assert bad not in space
    assert [a.tolist() for a in space.from_jsonable(space.to_jsonable(samples))] == [a.tolist() for a in samples]
    assert space == TokenSequence(10, 4, end_id=9)
    assert space != TokenSequence(11, 4, end_id=9)
