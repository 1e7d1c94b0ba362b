"""Tokenizer and model of the demo."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from algos.config import SftConfig, TinyModelConfig
from algos.sft_data import trace_samples
from algos.tiny import build_tokenizer, make_tiny
from retool_env.config import EnvConfig
from retool_env.dialects import make_dialect
from retool_env.envs.math_tool import MathToolEnv
from retool_env.problems import Problem
from retool_env.sources.arithmetic import ArithmeticSource
from retool_env.tokenizer import FileTokenizer

SHAPE = TinyModelConfig(hidden_size=32, intermediate_size=64, num_layers=1)


@pytest.fixture(scope="module")
def tokenizer(tiny_folder: Path) -> FileTokenizer:
    return FileTokenizer(tiny_folder)


@given(text=st.text())
def test_every_text_round_trips(tokenizer: FileTokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_numbers_below_1000_are_one_token(tokenizer: FileTokenizer) -> None:
    assert all(len(tokenizer.encode(str(number))) == 1 for number in range(1000))


def test_control_tokens_are_one_token_and_can_be_escaped(tokenizer: FileTokenizer) -> None:
    for text in ("<code>", "</code>", "<interpreter>", "</interpreter>", "<answer>", "</answer>", "<eos>"):
        assert len(tokenizer.encode(text)) == 1
        assert len(tokenizer.encode(tokenizer.escape(text))) > 1
    assert tokenizer.encode("<eos>") == [tokenizer.eos_id]


def test_no_word_of_a_problem_is_spelled_out(tokenizer: FileTokenizer) -> None:
    source = ArithmeticSource(seed=5)
    for index in range(200):
        ids = tokenizer.encode(source.problem(index).question)
        assert all(len(tokenizer.decode([i])) > 1 or not tokenizer.decode([i]).isalpha() for i in ids)


def test_the_tokenizer_is_the_same_every_time() -> None:
    assert build_tokenizer().get_vocab() == build_tokenizer().get_vocab()


def test_traces_train_policy_tokens_only(tokenizer: FileTokenizer, tiny_env: EnvConfig) -> None:
    config = SftConfig(traces={"num": 200}, env=tiny_env)
    samples, total = trace_samples(config, tiny_env)
    assert total == 200
    for sample in samples:
        trained = tokenizer.decode(sample.token_ids[sample.trained])
        rest = tokenizer.decode(sample.token_ids[~sample.trained])
        assert "<interpreter>" not in trained
        assert trained.endswith("</answer><eos>")
        assert "<code>" not in rest
        assert not sample.trained[0]


@pytest.mark.parametrize("name", ["hermes", "markdown"])
def test_traces_in_other_dialects(name: str, tiny_env: EnvConfig, tmp_path: Path) -> None:
    make_tiny(tmp_path, SHAPE, seed=0, dialect=make_dialect(name))
    env = tiny_env.model_copy(update={"dialect": name, "tokenizer": str(tmp_path)})
    other = FileTokenizer(tmp_path)
    samples, _ = trace_samples(SftConfig(traces={"num": 60}, env=env), env)
    for sample in samples:
        trained = other.decode(sample.token_ids[sample.trained])
        rest = other.decode(sample.token_ids[~sample.trained])
        assert re.fullmatch(r".*\\boxed\{\d+\}" + re.escape(other.decode([other.eos_id])), trained, re.DOTALL)
        assert "<tool_response>" not in trained
        assert ("Tools: code_interpreter" in rest) == (name == "hermes")


def test_a_trace_begins_with_the_prompt_of_the_environment(tmp_path: Path) -> None:
    """Tools of the user's own are in the prompt of a trace as they are in that of a rollout."""
    tools = str(Path(__file__).resolve().parents[2] / "docs" / "examples" / "finance_tools.py")
    call = {
        "function": {"name": "break_even", "arguments": {"fixed_costs": 8, "price_per_unit": 3, "cost_per_unit": 1}}
    }
    messages = [
        {"role": "user", "content": "When does it break even?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "Break-even units: 4.00"},
        {"role": "assistant", "content": "\\boxed{4}"},
    ]
    file = tmp_path / "traces.jsonl"
    file.write_text(json.dumps({"messages": messages}) + "\n")
    make_tiny(tmp_path / "model", SHAPE, seed=0, dialect=make_dialect("hermes"))
    env = EnvConfig(dialect="hermes", tools=(tools,), tokenizer=str(tmp_path / "model"))
    samples, _ = trace_samples(SftConfig(traces={"path": str(file)}, env=env), env)
    (sample,) = samples
    world = MathToolEnv(**env.model_dump())
    problem = Problem(id="p", prompt="When does it break even?", answer="4")
    prompt = world.reset(options={"problem": problem})[0]["token_ids"]
    world.close()
    assert sample.token_ids[: len(prompt)].tolist() == prompt.tolist()
    assert sample.trained.argmax() == len(prompt)


def test_words_of_texts_are_tokens_and_the_rest_stays_as_it_was() -> None:
    plain, more = build_tokenizer(), build_tokenizer(texts=["an amortisation of 12345"])
    assert set(plain.get_vocab()) < set(more.get_vocab())
    assert len(more.encode(" amortisation")) == 1 < len(plain.encode(" amortisation"))
