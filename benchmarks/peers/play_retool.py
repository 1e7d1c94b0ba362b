"""Ours: ``retool/MathTool-v0`` through ``gymnasium.make``, with the default settings, and what it is made of."""

from __future__ import annotations

import itertools

import gymnasium
import numpy as np
from driver import ANSWERS, AT_ONCE, CODE, GOLD, QUESTION, Play, answers, serve
from numpy.typing import NDArray

from retool_env.config import EnvConfig
from retool_env.envs import register_envs
from retool_env.problems import Problem
from retool_env.sandbox import RunStatus, shared_sandbox
from retool_env.tokenizer import load_tokenizer
from retool_env.verifier import verify

register_envs()
PROBLEM = Problem(id="product", prompt=QUESTION, answer=GOLD)


def turn(text: str) -> NDArray[np.int64]:
    return np.array(load_tokenizer("bytes").encode(text))


# As ids, because that is what a policy hands over.
CALL = turn(f"<code>\n{CODE}\n</code>")
LAST_TURNS = [turn(f"{answer}<eos>") for answer in ANSWERS]


def episode(*calls: NDArray[np.int64]) -> Play:
    env = gymnasium.make("retool/MathTool-v0")
    script = itertools.cycle(LAST_TURNS)

    def play() -> int:
        env.reset(options={"problem": PROBLEM})
        for call in calls:
            env.step(call)
        _, reward, terminated, _, _ = env.step(next(script))
        assert reward == 1.0 and terminated
        return len(calls) + 1

    return play


def episodes_at_once() -> Play:
    env = gymnasium.make_vec("retool/MathTool-v0", num_envs=AT_ONCE)
    script = itertools.cycle(LAST_TURNS)

    def play() -> int:
        env.reset(options={"problem": PROBLEM})
        env.step((CALL,) * AT_ONCE)
        _, rewards, *_ = env.step(tuple(itertools.islice(script, AT_ONCE)))
        assert (rewards == 1.0).all(), rewards
        return 2 * AT_ONCE

    return play


def reset() -> Play:
    env = gymnasium.make("retool/MathTool-v0")

    def play() -> int:
        env.reset(options={"problem": PROBLEM})
        return 1

    return play


def grade() -> Play:
    script = answers()

    def play() -> int:
        assert verify(next(script), GOLD).correct
        return 1

    return play


def bare_call() -> Play:
    sandbox, limits = shared_sandbox(), EnvConfig().sandbox_limits

    def play() -> int:
        run = sandbox.run(CODE, mode="notebook", limits=limits)
        assert (run.status, run.stdout) == (RunStatus.OK, f"{GOLD}\n"), run
        return 1

    return play


serve(
    {
        "answer": episode(),
        "tool": episode(CALL),
        f"tool, {AT_ONCE} at once": episodes_at_once(),
        "reset alone": reset(),
        "verifier alone": grade(),
        "sandbox alone": bare_call(),
    }
)
