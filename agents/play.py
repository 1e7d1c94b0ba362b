"""``retool play``: a person solves problems at the terminal, as the agent.

The environment is the real one: programs run in the sandbox, their output is cut as a model's would be, and the
verifier judges the last turn. Contract: ends after one problem, or, at a terminal and without ``index``, when the
person has had enough; leaving in the middle of a problem (end of input, ``:quit``) leaves no episode.
Left out: a clock.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

from rich.console import Console

from agents.base import Sampling
from agents.config import PlayConfig
from agents.console import make_console, standard_input
from agents.human import HumanAgent
from agents.recorder import Recorder
from agents.rollout import Slots
from agents.run_folder import stored_config
from retool_env.dialects import make_dialect
from retool_env.envs.check import check_prompts
from retool_env.errors import UsageError
from retool_env.feeder import Feeder, ProblemSource
from retool_env.outcome import Outcome
from retool_env.sources import open_source
from retool_env.tokenizer import load_tokenizer
from retool_env.trajectory import Trajectory, append_trajectories

__all__ = ["play_at_terminal", "verdict_text"]

_ENDLESS = 2**20
QUIT = (":quit", ":q")


class _LeftError(Exception):
    """The person has gone."""


class _Keyboard:
    """Lines of standard input, with editing and history at a terminal; its end, and ``:quit``, are raised."""

    def __init__(self) -> None:
        self._lines = standard_input()
        self.is_terminal = self._lines.isatty() and sys.stdout.isatty()
        if self.is_terminal:
            import readline  # noqa: F401 - input() is better for it

    def readline(self) -> str:
        line = self._typed("> ") if self.is_terminal else self._lines.readline()
        if not line or line.strip() in QUIT:
            raise _LeftError
        return line

    def agrees(self, question: str) -> bool:
        return self._typed(f"{question} [Y/n] ").strip().lower() in ("", "y", "yes")

    def _typed(self, prompt: str) -> str:
        try:
            return input(prompt) + "\n"
        except EOFError as error:
            print()
            raise _LeftError from error


def play_at_terminal(config: PlayConfig) -> None:
    """Run ``retool play``.

    Raises:
        UsageError: a problem that does not exist, or a file or value that cannot work.
    """
    source = open_source(**config.problems.model_dump())
    size = source.size or _ENDLESS
    if config.index is not None and config.index >= size:
        raise UsageError(f"index={config.index}: the source has problems 0..{size - 1}")
    if config.out is not None and stored_config(Path(config.out)) is not None:
        raise UsageError(f"out={config.out!r} holds another run; give another out=...")
    keyboard, console, choice = _Keyboard(), make_console(), random.Random(config.seed)
    try:
        while True:
            index = choice.randrange(size) if config.index is None else config.index
            _play_one(config, source, index, keyboard, console)
            if config.index is not None or not keyboard.is_terminal or not keyboard.agrees("Another problem?"):
                return
    except _LeftError:
        console.print("Left.")


def _play_one(config: PlayConfig, source: ProblemSource, index: int, keyboard: _Keyboard, console: Console) -> None:
    problem = source.problem(index)
    check_prompts(_Only(source, index), config.env)
    console.rule(f"problem {index}: {problem.id}", align="left")
    console.print(problem.question, markup=False)
    console.print("[dim]:help says how to call the interpreter and how to answer; :quit leaves[/dim]")
    recorder = Recorder()
    seed = 0 if config.seed is None else config.seed
    feeder = Feeder(source, seed=seed, first=index, num_tickets=index + 1, on_end=recorder.finish)
    dialect = make_dialect(config.env.dialect, instructions=config.env.instructions)
    agent = HumanAgent(load_tokenizer(config.env.tokenizer), dialect, source=keyboard, quiet=True)
    with closing(Slots(feeder, recorder, agent, env=config.env, num_slots=1, sampling=Sampling())) as slots:
        (trajectory,) = (one for finished in slots.run(index, 1) for one in finished)
    console.print(verdict_text(trajectory), markup=False)
    if config.out is not None:
        path = Path(config.out) / "trajectories.jsonl"
        append_trajectories(path, [trajectory])
        console.print(f"kept in {path}", markup=False)


class _Only:
    """One problem of a source."""

    size = 1

    def __init__(self, source: ProblemSource, index: int) -> None:
        self.name = source.name
        self.problem = lambda _: source.problem(index)


def verdict_text(trajectory: Trajectory) -> str:
    """What became of an episode, for the person who played it."""
    record = trajectory.record
    gold = f"the answer is {record.problem.answer}"
    if record.outcome.failed:
        head = f"Not scored ({record.outcome}): {trajectory.failure or 'something outside of the game failed'}"
    elif record.correct:
        head = f"Right: {gold}."
    elif record.outcome is Outcome.ANSWERED and record.verdict is not None:
        head = f"Wrong: {gold}, and you said {record.verdict.answer or 'nothing that could be read'}."
    else:
        head = f"Wrong ({record.outcome}): {gold}."
    calls = Counter(str(call.status) for call in record.calls)
    said = ", ".join(f"{count} {status}" for status, count in calls.items()) or "none"
    parts = ", ".join(f"{part.name} {part.weighted:+g}" for part in record.reward_parts if part.weighted is not None)
    return f"{head}\n{_turns(len(record.turns))} in {record.seconds:.0f} s; calls: {said}; reward: {parts or 'none'}"


def _turns(count: int) -> str:
    return "1 turn" if count == 1 else f"{count} turns"
