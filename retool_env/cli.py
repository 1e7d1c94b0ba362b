"""The console command ``retool``.

Commands are a table of import strings, so that ``retool --help`` imports nothing of them and no layer is broken: this
module is in the lowest package and never imports the others by name. Arguments are Hydra overrides (``key=value``);
flags that the founding guides show are aliases of keys, from one table.

Exit codes: 0 done; 2 a mistake that the user can fix, told in one line; 3 sandbox, engine or verifier failed too often,
a cell of a sweep died, or memory, disk or network did not suffice; 130 interrupted.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from retool_env.errors import InfrastructureError, UsageError, did_you_mean

__all__ = ["main", "run_command"]

_PLAIN = re.compile(r"[\w./:,+@%*-]*")


@dataclass(frozen=True, kw_only=True)
class Positional:
    """An argument without a key; ``overrides`` is the ``module:function`` that turns it into settings."""

    name: str
    meaning: str
    overrides: str


@dataclass(frozen=True, kw_only=True)
class Command:
    """One subcommand: ``run`` takes a config of class ``config``; both are ``module:name``, as are the others.

    Attributes:
        positional: what may be given without a key.
        suite: runs the command many times, from a file of cells (``--suite``) and overrides.
        score: makes one number of the run folder that the command leaves, for sweeps.
        quick_try: what ``--max_samples N`` stands for, where that is more than the number of problems.
    """

    summary: str
    config: str
    run: str
    examples: tuple[tuple[str, str], ...]
    positional: Positional | None = None
    suite: str = ""
    score: str = ""
    quick_try: tuple[str, ...] = ()


DATASET = Positional(
    name="DATASET",
    meaning="aime_2024, aime_2025, math_500, gsm8k or arithmetic, each with the settings of its recipe in "
    "configs/benchmark; or a file, or hf:owner/name, with the settings of aime_2024",
    overrides="retool_env.sources.benchmarks:dataset_overrides",
)

COMMANDS = {
    "demo": Command(
        summary="teach a tiny model when to call Python, on two CPU cores, and show how it went",
        config="algos.config:DemoConfig",
        run="algos.demo:demo",
        examples=(
            ("retool demo", "the whole job; ends with runs/demo/report.html"),
            ("retool demo seed=1 out=runs/demo-1", "again, with other random numbers"),
        ),
    ),
    "sft": Command(
        summary="cold start: supervised training on recorded tool-use conversations",
        config="algos.config:SftConfig",
        run="algos.sft:sft",
        quick_try=("traces.num={}", "eval.problems.size={}"),
        score="algos.report.runs:accuracy",
        examples=(
            ("retool sft experiment=tiny_sft out=runs/sft", "a tiny model from random weights"),
            ("retool sft experiment=tiny_sft traces.num=5000", "fewer traces"),
        ),
    ),
    "train": Command(
        summary="reinforcement learning from a checkpoint",
        config="algos.config:TrainConfig",
        run="algos.train:train",
        score="algos.report.runs:accuracy",
        quick_try=("problems.size={}", "eval.problems.size={}", "algo.num_epochs=1"),
        examples=(
            ("retool train experiment=tiny_grpo model.path=runs/sft/checkpoints/final", "GRPO on the tiny model"),
            ("retool train experiment=tiny_strategic model.path=...", "with a price on tool calls"),
            ("retool train experiment=tiny_grpo model.path=... algo.mask_tool_tokens=false", "the ablation"),
            ("retool train experiment=tiny_grpo model.path=... --max_samples 10", "a quick try: ten problems, once"),
            ("retool train --resume runs/train", "go on with a run that was stopped, as it was configured"),
            (
                "retool train -m experiment=tiny_grpo model=tiny_sft algo=grpo,ppo 'seed=range(3)' out=runs/sweep",
                "a sweep",
            ),
        ),
    ),
    "eval": Command(
        summary="play problems once or more and report accuracy with intervals",
        config="agents.config:EvalConfig",
        run="agents.evaluation.evaluate:evaluate_agent",
        score="algos.report.runs:accuracy",
        examples=(
            ("retool eval aime_2024 --agent openai", "30 problems x 32 samples, from http://localhost:8000/v1"),
            ("retool eval problems.jsonl --agent openai --base-url URL --model NAME --samples 8", "your own problems"),
            ("retool eval gsm8k agent.path=CHECKPOINT", "a checkpoint, in this process"),
            ("retool eval gsm8k --agent oracle problems.path=test.jsonl", "check data, sandbox and verifier"),
            ("retool eval --suite suite.yaml", "agents x data sets x seeds; see docs/evaluation.md"),
        ),
        positional=DATASET,
        suite="agents.evaluation.suite:run_suite",
    ),
    "play": Command(
        summary="solve a problem yourself, as the agent, with the interpreter at hand",
        config="agents.config:PlayConfig",
        run="agents.play:play_at_terminal",
        examples=(
            ("retool play", "a made-up problem"),
            ("retool play aime_2024 index=3", "the fourth problem of a benchmark"),
            ("retool play out=runs/play", "keep the episodes, for `retool view runs/play`"),
        ),
        positional=Positional(
            name="DATASET",
            meaning="arithmetic (the default), aime_2024, aime_2025, math_500 or gsm8k; a file; or hf:owner/name",
            overrides="retool_env.sources.benchmarks:problem_overrides",
        ),
    ),
}

# Commands with sub-commands and flags of their own: ``module:function``, from their arguments to an exit code.
GROUPS = {
    "doctor": (
        "what of this machine and installation stands in the way, and what to do about it",
        "retool_env.doctor.command:main",
    ),
    "plan": (
        "how much memory a training would need, and whether it fits, before it is paid for",
        "algos.plan.command:main",
    ),
    "sandbox": ("run a program in the sandbox, or serve it over HTTP", "retool_env.sandbox.cli:main"),
    "serve": ("start SGLang servers, keep them alive and stop them", "agents.serve.cli:main"),
    "data": ("check, prepare, filter and convert data files", "retool_env.data.cli:main"),
    "replay": (
        "play a stored run again from its recorded tool outputs and compare the ids",
        "agents.evaluation.replay:main",
    ),
    "rescore": ("grade a run's answers again with several verifiers", "agents.evaluation.rescore:main"),
    "compare": ("compare two runs over the same problems, paired by problem", "agents.evaluation.compare:main"),
    "report": (
        "what a sweep came to: its cells pooled over seeds, in one table and one plot",
        "algos.report.command:main",
    ),
    "view": ("write a run as one HTML file to look at: episodes, tokens, groups, curves", "agents.viewer.command:main"),
}

# Flags of the founding guides, as aliases of keys, with what stands in front of the value, if anything. A flag means
# the same key in every command that has it, and may be written with ``_`` for ``-``.
ALIASES = {
    "--agent": "agent.name",
    "--model": "agent.model",
    "--base-url": "agent.url",
    "--api-key": "agent.api_key",
    "--samples": "samples",
    "--max-turns": "env.max_tool_rounds",
    "--temperature": "sampling.temperature",
    "--concurrency": "num_slots",
    "--sandbox-url": "env.sandbox=fusion:",
    "--max-samples": "problems.size",
    "--model-path": "model.path",
    "--out": "out",
    "--output-dir": "out",
    "--seed": "seed",
    "--resume": "resume",
}
SUITE = "--suite"

# Names under which documents know a key.
OTHER_KEYS = {"trainer.dry_run": "dry_run", "rollouts.replay": "rollout.replay"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    # Before torch is loaded: its threads shall sleep while they wait for each other. Spinning, two runs on the same
    # cores keep each other from running, and both take ten times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(arguments)
    except UsageError as error:
        print(f"retool: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        from retool_env.doctor.installation import explain_import

        if (reason := explain_import(error)) is None:
            raise
        print(f"retool: {reason}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `retool train --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except InfrastructureError as error:
        print(f"retool: {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("retool: interrupted; what was finished is kept", file=sys.stderr)
        return 130
    except Exception as error:
        from retool_env.failures import explain_failure

        if (reason := explain_failure(error)) is None:
            raise
        print(f"retool: {reason}", file=sys.stderr)
        return 3


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if arguments[0] in ("-V", "--version"):
        import retool_env

        print(retool_env.__version__)
        return 0
    name, rest = arguments[0], arguments[1:]
    if name in GROUPS:
        code: int = _load(GROUPS[name][1])(rest)
        return code
    if name not in COMMANDS:
        raise UsageError(f"unknown command {name!r}{did_you_mean(name, [*COMMANDS, *GROUPS])}")
    if any(argument in ("-h", "--help") for argument in rest):
        from retool_env.cli_help import command_help

        print(_help(name, command_help))
        return 0
    return _run(name, rest)


def _help(name: str, command_help: Callable[..., str]) -> str:
    command = COMMANDS[name]
    arguments = [(command.positional.name, command.positional.meaning)] if command.positional else []
    if command.suite:
        arguments.append((f"{SUITE} FILE", "cells of agents, data sets and seeds, one after the other"))
    kind = _load(command.config)
    return command_help(name, command.summary, command.examples, kind, ALIASES, arguments=arguments)


def _run(name: str, arguments: list[str]) -> int:
    command = COMMANDS[name]
    suite, arguments = _suite(arguments) if command.suite else ("", arguments)
    overrides = _overrides(arguments, command)
    if suite:
        _load(command.suite)(suite, overrides)
    elif "-m" in overrides or "--multirun" in overrides:
        from retool_env.sweeps.multirun import sweep

        sweep(name, _load(command.config), overrides, config=command.config, score=command.score)
    else:
        run_command(name, overrides)
    return 0


def run_command(name: str, overrides: list[str]) -> None:
    """Run one of :data:`COMMANDS` with these overrides. Raises what it raises."""
    from retool_env.compose import compose

    command = COMMANDS[name]
    config = compose(name, _load(command.config), overrides)
    _load(command.run)(config)


def _suite(arguments: list[str]) -> tuple[str, list[str]]:
    """The file of ``--suite``, ``""`` without one, and the other arguments."""
    for place, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag == SUITE:
            if not equals and place + 1 == len(arguments):
                raise UsageError(f"{SUITE} needs a file")
            rest = arguments[:place] + arguments[place + (1 if equals else 2) :]
            return value if equals else arguments[place + 1], rest
    return "", arguments


def _overrides(arguments: list[str], command: Command) -> list[str]:
    """Aliases and what has no key turned into ``key=value``; everything else as it is."""
    first: list[str] = []
    overrides: list[str] = []
    queue = list(arguments)
    while queue:
        argument = queue.pop(0)
        flag, equals, value = argument.partition("=")
        if argument in ("-m", "--multirun") or (equals and not argument.startswith("-")) or argument.startswith("~"):
            overrides.append(f"{OTHER_KEYS.get(flag, flag)}{equals}{value}")
        elif not argument.startswith("-"):
            first += _positional(argument, command, given=bool(first))
        elif (flag := flag.replace("_", "-")) not in ALIASES:
            raise UsageError(f"unknown flag {flag!r}{did_you_mean(flag, ALIASES)}; settings are written key=value")
        elif not equals and not queue:
            raise UsageError(f"{flag} needs a value")
        else:
            overrides += _meaning(flag, value if equals else queue.pop(0), command, arguments)
    return first + overrides  # the later one counts


def _meaning(flag: str, value: str, command: Command, arguments: Sequence[str]) -> list[str]:
    """What a flag stands for. A quick try leaves out what is said otherwise."""
    key, _, before = ALIASES[flag].partition("=")
    if key != "problems.size" or not command.quick_try:
        return [f"{key}={_quoted(before + value)}"]
    said = {argument.partition("=")[0] for argument in arguments}
    said |= {"algo.num_epochs"} if "algo.steps" in said else set()
    return [override.format(value) for override in command.quick_try if override.partition("=")[0] not in said]


def _positional(argument: str, command: Command, *, given: bool) -> list[str]:
    if command.positional is None or given:
        what = f"a second {command.positional.name}" if command.positional else "an argument"
        raise UsageError(f"{argument!r}: {what} is not understood; settings are written key=value")
    found: list[str] = _load(command.positional.overrides)(argument)
    return [f"{key}={_quoted(value)}" for key, _, value in (override.partition("=") for override in found)]


def _quoted(value: str) -> str:
    """``value`` in quotes where Hydra would read more into it than the text."""
    if _PLAIN.fullmatch(value) or value[:1] in ("[", "{", "'", '"'):
        return value
    from retool_env.quoting import quoted

    return quoted(value)


def _load(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _overview() -> str:
    summaries = {name: command.summary for name, command in COMMANDS.items()}
    summaries |= {name: summary for name, (summary, _) in GROUPS.items()}
    width = max(map(len, summaries))
    rows = "\n".join(f"  {name:{width}}  {summary}" for name, summary in summaries.items())
    return (
        "retool: teach language models when and how to run code while they solve maths problems\n\n"
        "usage: retool COMMAND [key=value ...]\n\n"
        f"commands:\n{rows}\n\n"
        "`retool COMMAND --help` lists every setting with its default. Start with: retool demo"
    )


if __name__ == "__main__":
    sys.exit(main())
