"""Tokenizer and model of the demo."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from algos.config import SftConfig
from algos.sft import trace_samples
from algos.tiny import build_tokenizer
from retool_env.config import EnvConfig
from retool_env.sources.arithmetic import ArithmeticSource
from retool_env.tokenizer import FileTokenizer


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
