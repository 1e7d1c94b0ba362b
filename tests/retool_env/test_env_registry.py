"""Every registered id: Gymnasium's own checker, seeding, pickling, wrappers, and many at once in all modes."""

from __future__ import annotations

import copy
import pickle
import threading
import time
import warnings
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

import retool_env  # noqa: F401  registers the ids
from retool_env.envs.math_tool import MathToolEnv
from retool_env.envs.spaces import FreeText
from retool_env.envs.text import TextView
from retool_env.envs.wrappers import RecordTrajectories, TokenByToken
from retool_env.errors import UsageError
from retool_env.feeder import Feeder
from retool_env.problems import Problem
from retool_env.sources import open_source
from retool_env.tokenizer import ByteTokenizer, FileTokenizer
from retool_env.trajectory import read_trajectories

TOKENIZER = ByteTokenizer()
IDS = sorted(name for name in gymnasium.registry if name.startswith("retool/"))
TEXT_IDS = [name for name in IDS if "Text" in name]
TOKEN_IDS = [name for name in IDS if name not in TEXT_IDS]
PROBLEM = Problem(id="p", prompt="What is 6 * 7?", answer="42")
CALL = "<code>print(6 * 7)</code>"
ANSWER = r"<answer>\boxed{42}</answer>"


def action(text: str, *, end: bool = False) -> np.ndarray:
    return np.array(TOKENIZER.encode(text) + ([TOKENIZER.eos_id] if end else []), dtype=np.int64)


def turn(name: str, text: str, *, end: bool = False):
    return text if name in TEXT_IDS else action(text, end=end)


def test_all_ids_are_here() -> None:
    assert {"retool/MathTool-v0", "retool/MathToolText-v0", "retool/Arithmetic-v0"} <= set(IDS)


@pytest.mark.parametrize("name", IDS)
def test_check_env_finds_nothing(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = gymnasium.make(name)
        check_env(made.unwrapped)
        made.close()


@pytest.mark.parametrize("name", IDS)
def test_specification_survives_json(name: str) -> None:
    spec = gymnasium.spec(name)
    assert gymnasium.envs.registration.EnvSpec.from_json(spec.to_json()).make().reset(seed=1)[1]


@pytest.mark.parametrize("name", IDS)
def test_seed_fixes_the_episodes(name: str) -> None:
    def play() -> list:
        made = gymnasium.make(name)
        seen = [made.reset(seed=11), made.reset(), made.step(turn(name, CALL))]
        made.close()
        return seen

    first, second = play(), play()
    assert repr(first) == repr(second)
    made = gymnasium.make(name)
    assert repr(made.reset(seed=12)) != repr(first[0])
    made.close()


@pytest.mark.parametrize("name", IDS)
def test_pickles_and_copies_play_the_same(name: str) -> None:
    made = gymnasium.make(name)
    made.reset(seed=5)
    made.step(turn(name, CALL))
    for clone in (pickle.loads(pickle.dumps(made.unwrapped)), copy.deepcopy(made.unwrapped)):
        assert repr(clone.reset(seed=5)) == repr(made.reset(seed=5))
        assert repr(clone.step(turn(name, CALL))) == repr(made.step(turn(name, CALL)))
        clone.close()
    made.close()


@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_many_at_once_in_every_mode(name: str, mode: AutoresetMode) -> None:
    many = gymnasium.make_vec(name, num_envs=3, autoreset_mode=mode, max_turn_tokens=200, max_invalid_calls=10)
    assert many.metadata["autoreset_mode"] is mode
    observations, _ = many.reset(seed=1)
    assert many.single_observation_space.contains(one(observations, 1))
    steps = [(turn(name, CALL),) * 3, (turn(name, r"\boxed{1}", end=True), turn(name, CALL), turn(name, CALL))]
    many.step(steps[0])
    observations, rewards, terminated, truncated, infos = many.step(steps[1])
    assert terminated.tolist() == [True, False, False]
    assert not truncated.any()
    assert rewards[1:].tolist() == [0.0, 0.0]
    if mode is AutoresetMode.SAME_STEP:
        assert infos["final_info"]["outcome"][0] == "answered"
        assert "problem_id" in infos
    else:
        assert infos["outcome"][0] == "answered"
    after = many.step(steps[0])
    if mode is AutoresetMode.DISABLED:
        assert after[2].tolist() == [True, False, False]
        assert repr(one(after[0], 0)) == repr(one(observations, 0))
        assert after[1][0] == 0.0
        mask = np.array([True, False, False])
        again, _ = many.reset(options={"reset_mask": mask})
        assert len(repr(one(again, 0))) != len(repr(one(after[0], 0)))
        assert not many.step(steps[0])[2].any()
    elif mode is AutoresetMode.NEXT_STEP:
        assert not after[2].any()
        assert "problem_id" in after[4]
    many.close()


def one(observations, index: int):
    """The observation of one environment out of those of many."""
    if isinstance(observations, dict):
        return {key: value[index] for key, value in observations.items()}
    return observations[index]


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("name", IDS)
def test_gymnasiums_own_vectorisers_agree_with_ours(name: str, mode: str) -> None:
    """The trap: with shared memory, text observations would silently be constant."""
    extra = {"shared_memory": False} if mode == "async" else {}
    theirs = gymnasium.make_vec(name, num_envs=2, vectorization_mode=mode, vector_kwargs=extra)
    ours = gymnasium.make_vec(name, num_envs=2)
    try:
        assert repr(one(theirs.reset(seed=3)[0], 1)) == repr(one(ours.reset(seed=3)[0], 1))
        steps = (turn(name, CALL), turn(name, "<code>print(5)</code>"))
        assert repr(one(theirs.step(steps)[0], 1)) == repr(one(ours.step(steps)[0], 1))
    finally:
        theirs.close()
        ours.close()


def test_tools_of_different_episodes_run_at_the_same_time() -> None:
    """Each program waits until all have begun, which one after the other they never would."""
    num = 2
    many = gymnasium.make_vec("retool/MathTool-v0", num_envs=num)
    barrier = threading.Barrier(num, timeout=30)
    for env in many.envs:
        inner = env.unwrapped._run

        def together(calls, inner=inner):
            barrier.wait()
            inner(calls)

        env.unwrapped._run = together
    many.reset(seed=0)
    observations, *_ = many.step((action(CALL),) * num)
    assert all("42" in TOKENIZER.decode(ids) for ids in observations["token_ids"])
    many.close()


def test_statistics_wrapper_works_unchanged() -> None:
    made = gymnasium.wrappers.RecordEpisodeStatistics(gymnasium.make("retool/MathTool-v0"))
    made.reset(options={"problem": PROBLEM})
    made.step(action(CALL))
    *_, info = made.step(action(ANSWER, end=True))
    assert (info["episode"]["r"], info["episode"]["l"]) == (1.0, 2)
    many = gymnasium.wrappers.vector.RecordEpisodeStatistics(
        gymnasium.make_vec("retool/MathTool-v0", num_envs=2, autoreset_mode="NextStep")
    )
    many.reset(seed=0, options={"problem": PROBLEM})
    *_, infos = many.step((action(ANSWER, end=True), action("no", end=True)))
    assert infos["episode"]["r"].tolist() == [1.0, -1.0]
    many.close()


def test_time_limit_counts_turns() -> None:
    made = gymnasium.make("retool/MathTool-v0", max_episode_steps=1)
    made.reset(seed=0)
    assert made.step(action(CALL))[2:4] == (False, True)
    made.close()


def test_text_view_tells_what_is_new() -> None:
    made = TextView(gymnasium.make("retool/MathTool-v0"))
    prompt, info = made.reset(options={"problem": PROBLEM})
    assert prompt.endswith("What is 6 * 7?\n")
    assert info == {"problem_id": "p"}
    text, reward, *ended = made.step("I compute. " + CALL + " and what follows was never sampled")[:4]
    assert (text, reward, ended) == ("\n<interpreter>\n42\n</interpreter>\n", 0.0, [False, False])
    assert made.step(ANSWER)[:4] == ("", 1.0, True, False)
    with pytest.raises(UsageError, match="must be a str"):
        made.step(np.array([1]))
    with pytest.raises(UsageError, match="needs a token environment"):
        TextView(gymnasium.make("retool/MathToolText-v0"))
    made.close()


def test_long_text_is_cut_like_a_models_turn() -> None:
    made = gymnasium.make("retool/MathToolText-v0", max_turn_tokens=20)
    made.reset(options={"problem": PROBLEM})
    *_, truncated, info = made.step("x" * 100)
    assert (truncated, info["outcome"]) == (True, "turn_too_long")
    made.close()


def test_both_views_play_the_same_episode() -> None:
    tokens, text = gymnasium.make("retool/MathTool-v0"), gymnasium.make("retool/MathToolText-v0")
    ids, _ = tokens.reset(seed=9)
    prompt, _ = text.reset(seed=9)
    assert TOKENIZER.decode(ids["token_ids"]) == prompt
    for program in (CALL, "<code>import random; print(random.random())</code>"):
        ids, *_ = tokens.step(action(program))
        prompt += program + text.step(program)[0]
        assert TOKENIZER.decode(ids["token_ids"]) == prompt
    assert tokens.step(action(ANSWER, end=True))[1:] == text.step(ANSWER)[1:]
    tokens.close()
    text.close()


def test_token_by_token_plays_the_same_episode() -> None:
    made = TokenByToken(gymnasium.make("retool/MathTool-v0"))
    assert made.action_space == gymnasium.spaces.Discrete(257)
    observation, _ = made.reset(options={"problem": PROBLEM})
    prompt = len(observation["token_ids"])
    whole = gymnasium.make("retool/MathTool-v0")
    whole.reset(options={"problem": PROBLEM})
    for number, token in enumerate(action(CALL)):
        budget = observation["budget"][0]
        observation, reward, terminated, truncated, _ = made.step(token)
        assert (reward, terminated, truncated) == (0.0, False, False)
        assert made.observation_space.contains(observation)
        if number < len(CALL) - 1:
            assert len(observation["token_ids"]) == prompt + number + 1
            assert observation["budget"][0] == budget - 1
    assert np.array_equal(observation["token_ids"], whole.step(action(CALL))[0]["token_ids"])
    for token in action(ANSWER, end=True):
        observation, reward, terminated, truncated, info = made.step(token)
    assert (reward, terminated, info["outcome"]) == (1.0, True, "answered")
    made.close()
    whole.close()


def bytes_and_a_merge(folder: Path) -> FileTokenizer:
    """A tokenizer of bytes and one more token: ``>`` with an end of line, as byte-pair vocabularies have."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={byte: number for number, byte in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<eos>"])
    backend.add_tokens([AddedToken(">\n", normalized=False)])
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<eos>"}')
    return FileTokenizer(folder)


def test_token_by_token_sees_a_stop_inside_of_a_token(tmp_path) -> None:
    tokenizer = bytes_and_a_merge(tmp_path)
    made = TokenByToken(MathToolEnv(tokenizer=str(tmp_path)))
    observation, _ = made.reset(options={"problem": PROBLEM})
    ids = tokenizer.encode(CALL + "\n")
    for token in ids:
        assert observation["turn"].tolist() == [0]
        observation, *_ = made.step(token)
    assert tokenizer.decode(ids[-1:]) == ">\n"
    assert observation["turn"].tolist() == [1]
    assert tokenizer.decode(observation["token_ids"]).endswith("\n<interpreter>\n42\n</interpreter>\n")
    made.close()


def test_token_by_token_stops_at_the_budget() -> None:
    made = TokenByToken(gymnasium.make("retool/MathTool-v0", max_turn_tokens=3))
    made.reset(options={"problem": PROBLEM})
    flags = [made.step(np.int64(120))[2:4] for _ in range(3)]
    assert flags == [(False, False), (False, False), (False, True)]
    made.close()


def test_recording_wrapper_writes_what_happened(tmp_path) -> None:
    path = tmp_path / "out" / "episodes.jsonl"
    made = RecordTrajectories(gymnasium.make("retool/MathTool-v0"), path)
    for answer in (ANSWER, "no"):
        made.reset(options={"problem": PROBLEM})
        made.step(action(CALL))
        observation, *_ = made.step(action(answer, end=True))
    good, bad = read_trajectories(path)
    assert [t.record.reward for t in (good, bad)] == [1.0, -1.0]
    assert bad.transcript.token_ids.tolist() == observation["token_ids"].tolist()
    assert good.transcript.action_mask.sum() == len(CALL) + len(ANSWER) + 1
    assert good.record.calls[0].text == "42"
    made.close()


def test_recording_under_a_time_limit_writes_the_episode_that_was_cut(tmp_path) -> None:
    """The trap: on ``truncated`` the environment's record was still that of the episode before."""
    path = tmp_path / "episodes.jsonl"
    ended = []
    feeder = Feeder(
        open_source(size=4, split="heldout"), on_end=lambda ticket, _, record: ended.append((ticket, record))
    )
    made = RecordTrajectories(
        gymnasium.make("retool/Math-v0", max_episode_steps=1, max_void_turns=5, feeder=feeder), path
    )
    for text in (ANSWER, "hm"):
        made.reset()
        observation, reward, *_ = made.step(action(text, end=True))
    whole, cut = read_trajectories(path)
    assert [t.record.outcome for t in (whole, cut)] == ["answered", "cancelled"]
    assert cut.record.problem.id == feeder.ticket(1).problem.id
    assert cut.record.turns == ("hm",)
    assert cut.record.num_action_tokens == cut.transcript.num_action_tokens == 3
    assert (cut.record.reward, reward, observation["scored"].tolist()) == (None, 0.0, [0])
    assert [ticket.index for ticket, _ in ended] == [0, 1]
    assert ended[1][1].outcome == "cancelled"
    assert feeder.state_dict()["first"] == 2
    made.close()


def test_a_first_episode_can_be_cut_too(tmp_path) -> None:
    path = tmp_path / "episodes.jsonl"
    made = RecordTrajectories(gymnasium.make("retool/MathTool-v0", max_episode_steps=1), path)
    made.reset(options={"problem": PROBLEM})
    assert made.step(action(CALL))[2:4] == (False, True)
    (cut,) = read_trajectories(path)
    assert (cut.record.outcome, cut.record.calls[0].text) == ("cancelled", "42")
    with pytest.raises(UsageError, match="has ended already"):
        made.unwrapped.cancel()
    made.reset(options={"problem": PROBLEM})
    with pytest.raises(UsageError, match="not ended yet"):
        made.unwrapped.record  # noqa: B018
    made.close()


def test_render_modes() -> None:
    made = gymnasium.make("retool/MathTool-v0", render_mode="html", instructions=False)
    made.reset(options={"problem": Problem(id="q", prompt="Is 1 < 2 & 3?", answer="1")})
    made.step(action(CALL))
    page = made.render()
    assert page.count("<section") == 3
    assert "Is 1 &lt; 2 &amp; 3?" in page
    assert "&lt;interpreter&gt;" in page
    made.close()


def test_free_text_takes_what_gymnasiums_text_refuses() -> None:
    question = "Löse ∑ xᵢ² = 5\n\twith $x > 0$"
    space = FreeText(100, seed=0)
    assert question in space
    assert question not in gymnasium.spaces.Text(100)
    assert "x" * 101 not in space
    assert 5 not in space
    assert all(space.sample() in space for _ in range(50))
    assert space.from_jsonable(space.to_jsonable([question])) == [question]
    assert space == FreeText(100) != FreeText(101)


def test_checking_long_sequences_is_an_array_operation() -> None:
    """The trap: ``Sequence(Discrete)`` looks at ids one by one in Python; compared in one run, not by the clock."""
    ids = np.zeros(16_000, dtype=np.int64)
    ours = gymnasium.make("retool/MathTool-v0").unwrapped.action_space
    theirs = gymnasium.spaces.Sequence(gymnasium.spaces.Discrete(257), stack=True)

    def seconds(space) -> float:
        start = time.perf_counter()
        assert space.contains(ids)
        return time.perf_counter() - start

    assert min(seconds(ours) for _ in range(3)) < min(seconds(theirs) for _ in range(3)) / 10


def test_unpickled_environment_has_no_sandbox_of_its_own_yet() -> None:
    made = MathToolEnv()
    made.reset(seed=0)
    made.step(action(CALL))
    clone = pickle.loads(pickle.dumps(made))
    with pytest.raises(UsageError, match="call reset"):
        clone.step(action(CALL))
    made.close()


def test_no_tool_baseline_promises_none_and_runs_none() -> None:
    made = gymnasium.make("retool/Math-v0", render_mode="ansi")
    made.reset(options={"problem": PROBLEM})
    assert "<code>" not in made.render()
    made.step(action(CALL))
    assert "there is no tool 'code_interpreter'; there are no tools" in made.render()
    *_, info = made.step(action(ANSWER, end=True))
    assert info["outcome"] == "answered"
    made.close()


def test_variables_are_kept_when_asked_for() -> None:
    for stateful, seen in ((True, "41"), (False, "NameError")):
        made = gymnasium.make("retool/MathTool-v0", stateful=stateful, render_mode="ansi")
        made.reset(options={"problem": PROBLEM})
        made.step(action("<code>kept = 41</code>"))
        made.step(action("<code>kept</code>"))
        assert seen in made.render().rsplit("<interpreter>", 1)[1]
        made.reset(options={"problem": PROBLEM})
        made.step(action("<code>kept</code>"))
        assert "NameError" in made.render().rsplit("<interpreter>", 1)[1]
        made.close()


def test_functions_of_a_file_are_tools(tmp_path) -> None:
    file = tmp_path / "tools.py"
    file.write_text(
        'def double(number: int) -> int:\n    """Twice a number.\n\n    Args:\n        number: Any integer.\n    """\n'
        "    return 2 * number\n\n\nTOOL_FUNCTIONS = [double]\n"
    )
    made = gymnasium.make("retool/MathTool-v0", tools=[str(file)], dialect="hermes", render_mode="ansi")
    made.reset(options={"problem": PROBLEM})
    assert "Any integer." in made.render()
    call = '<tool_call>\n{"name": "double", "arguments": {"number": 21}}\n</tool_call>'
    made.step(action(call, end=True))
    assert "42" in made.render().split(call)[1]
    made.step(action(call.replace("21", '"many"'), end=True))
    assert "number" in made.render().rsplit("</tool_call>", 1)[1]
    *_, info = made.step(action(r"\boxed{42}", end=True))
    assert info["outcome"] == "answered"
    clone = pickle.loads(pickle.dumps(made.unwrapped))
    clone.reset(options={"problem": PROBLEM})
    clone.close()
    made.close()
