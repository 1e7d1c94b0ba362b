"""The agents that have to pass the conformance suite, each with what it needs to run for real."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from agents.base import Agent
from agents.embedded import EmbeddedAgent
from agents.human import HumanAgent
from agents.loading import load_model
from agents.openai_chat import OpenAIAgent
from agents.random_agent import RandomAgent
from agents.scripted import OracleAgent, ScriptedAgent
from agents.sglang import SGLangAgent, SGLangServer
from retool_env.dialects import make_dialect
from retool_env.problems import Problem
from retool_env.tokenizer import Tokenizer
from tests.agents.chat_server import chat_server
from tests.agents.fake_server import fake_sglang
from tests.agents.real_sglang import shared_sglang

QUESTION = "What is 3 + 4?"
TEXT = "The sum of three and four is seven, so the answer is seven."


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """An agent that has to pass.

    Attributes:
        make: an agent with this tokenizer; called as often as a test likes, closed by the suite.
        weights: folder of the checkpoint that it samples from; ``None`` for one that writes.
        stop: a stop string that it will write; ``None`` when any text of it will do.
        reserved: positions of the model's context that it does not use.
    """

    name: str
    make: Callable[[Tokenizer], Agent]
    weights: Path | None = None
    stop: str | None = None
    reserved: int = 0


class Endless(io.TextIOBase):
    """A person who always types the same turn."""

    def __init__(self, lines: tuple[str, ...]) -> None:
        self._lines, self._next = lines, 0

    def readline(self, size: int | None = -1) -> str:  # type: ignore[override]
        line = self._lines[self._next % len(self._lines)]
        self._next += 1
        return line + "\n"


@contextmanager
def embedded(folder: Path) -> Iterator[Contestant]:
    model = load_model(str(folder))
    yield Contestant(
        name="embedded",
        make=lambda tokenizer: EmbeddedAgent(model, tokenizer),
        weights=folder,
    )


@contextmanager
def sglang_fake(folder: Path) -> Iterator[Contestant]:
    with fake_sglang(folder) as server:
        yield _sglang("sglang-fake", server.url, folder)


@contextmanager
def sglang_real(folder: Path) -> Iterator[Contestant]:
    """The server at RETOOL_SGLANG_URL, or one that RETOOL_SGLANG_PYTHON runs on this machine's processor."""
    if url := os.environ.get("RETOOL_SGLANG_URL"):
        yield _sglang("sglang-real", url, Path(SGLangServer(url).model_info().model_path))
        return
    url = shared_sglang(folder).url
    client = SGLangServer(url)
    client.update_from_disk(str(folder), version="default")  # whatever other tests have left behind
    client.close()
    yield _sglang("sglang-real", url, folder)


def _sglang(name: str, url: str, folder: Path) -> Contestant:
    return Contestant(
        name=name,
        make=lambda tokenizer: SGLangAgent([url], tokenizer, patience=60.0),
        weights=folder,
        reserved=2,
    )


@contextmanager
def scripted(folder: Path) -> Iterator[Contestant]:
    yield Contestant(name="scripted", make=lambda tokenizer: ScriptedAgent(lambda *_: TEXT, tokenizer))


@contextmanager
def oracle(folder: Path) -> Iterator[Contestant]:
    problem = Problem(id="p", prompt=QUESTION, answer="7", metadata={"expression": "3 + 4"})
    yield Contestant(name="oracle", make=lambda tokenizer: OracleAgent([problem], tokenizer))


@contextmanager
def random_ids(folder: Path) -> Iterator[Contestant]:
    yield Contestant(name="random", make=lambda tokenizer: RandomAgent(tokenizer, seed=1, mean_length=200))


@contextmanager
def random_text(folder: Path) -> Iterator[Contestant]:
    yield Contestant(name="random-text", make=lambda tokenizer: RandomAgent(tokenizer, text=True, mean_length=200))


@contextmanager
def openai(folder: Path) -> Iterator[Contestant]:
    with chat_server() as server:
        server.seconds = 0.3

        def make(tokenizer: Tokenizer) -> Agent:
            return OpenAIAgent(server.url, "any", tokenizer, make_dialect("retool"), structured=False)

        yield Contestant(name="openai", make=make, stop="</code>")


@contextmanager
def human(folder: Path) -> Iterator[Contestant]:
    def make(tokenizer: Tokenizer) -> Agent:
        return HumanAgent(tokenizer, source=Endless((TEXT, "Really.", ".")), target=io.StringIO())

    yield Contestant(name="human", make=make)


Maker = Callable[[Path], AbstractContextManager[Contestant]]
SAMPLERS: tuple[Maker, ...] = (embedded, sglang_fake, sglang_real)
CONTESTANTS: tuple[Maker, ...] = (*SAMPLERS, scripted, oracle, random_ids, random_text, openai, human)


def of(makers: Sequence[Maker]) -> pytest.MarkDecorator:
    """Run a test for each of these; a real SGLang server takes part in ``make test-sglang`` only."""
    rows = [
        pytest.param(make, id=make.__name__, marks=[pytest.mark.sglang] if make is sglang_real else [])
        for make in makers
    ]
    return pytest.mark.parametrize("contestant", rows, indirect=True)


def close(agent: Agent) -> None:
    """As whoever made an agent does."""
    if callable(end := getattr(agent, "close", None)):
        end()
