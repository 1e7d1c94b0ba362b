"""Ours: ``retool eval`` from the configuration to ``summary.md``, with a scripted agent; and its sandbox alone.

The whole command runs for every measurement, in a new folder: prompts checked, identity taken, every episode played,
graded and appended, all numbers written. The sandbox is warm, as it is from the second episode of a run on; what its
start costs is a case of its own.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from pathlib import Path

from driver import AT_ONCE, CODE, GOLD, NUM_SAMPLES, QUESTION, Play, serve

from agents.config import AgentConfig, EvalConfig
from agents.evaluation.evaluate import evaluate_agent
from retool_env.config import EnvConfig, ProblemsConfig
from retool_env.sandbox import LocalSandbox, RunStatus, shared_sandbox

logging.disable()
FOLDER = Path(tempfile.mkdtemp(dir="."))
PROBLEMS = FOLDER / "problems.jsonl"
PROBLEMS.write_text(json.dumps({"prompt": QUESTION, "answer": GOLD}) + "\n")
ANSWER = rf"After some checks, the product is \boxed{{{GOLD}}}."


def evaluation(*turns: str) -> Play:
    config = EvalConfig(
        samples=NUM_SAMPLES,
        num_slots=AT_ONCE,
        agent=AgentConfig(name="scripted", options={"turns": list(turns)}),
        problems=ProblemsConfig(name="file", path=str(PROBLEMS)),
    )

    def play() -> int:
        out = FOLDER / "run"
        (total,) = evaluate_agent(config.model_copy(update={"out": str(out)}))
        assert (total.accuracy.mean, total.accuracy.num, total.num_failed) == (1.0, NUM_SAMPLES, 0)
        shutil.rmtree(out)
        return NUM_SAMPLES

    return play


def bare_call() -> Play:
    sandbox, limits = shared_sandbox(), EnvConfig().sandbox_limits

    def play() -> int:
        run = sandbox.run(CODE, mode="notebook", limits=limits)
        assert (run.status, run.stdout) == (RunStatus.OK, f"{GOLD}\n"), run
        return 1

    return play


def start() -> Play:
    def play() -> int:
        with LocalSandbox() as sandbox:
            assert sandbox.run(CODE).stdout == f"{GOLD}\n"
        return 1

    return play


serve(
    {
        "answer": evaluation(ANSWER),
        "tool": evaluation(f"<code>\n{CODE}\n</code>", ANSWER),
        "sandbox call": bare_call(),
        "sandbox start": start(),
    }
)
