"""The console command ``retool``.

Commands are a table of import strings, so that ``retool --help`` imports nothing of them and no layer is broken: this
module is in the lowest package and never imports the others by name. Arguments are Hydra overrides (``key=value``);
flags that the founding guides show are aliases of keys, from one table.

Exit codes: 0 done; 2 a mistake that the user can fix, told in one line; 3 sandbox, engine or verifier failed too often;
130 interrupted.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from retool_env.errors import InfrastructureError, UsageError, did_you_mean

__all__ = ["main"]


@dataclass(frozen=True, kw_only=True)
class Command:
    """One subcommand: ``run`` takes a config of class ``config``; both are ``module:name``."""

    summary: str
    config: str
    run: str
    examples: tuple[tuple[str, str], ...]


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
        examples=(
            ("retool sft experiment=tiny_sft out=runs/sft", "a tiny model from random weights"),
            ("retool sft experiment=tiny_sft traces.num=5000", "fewer traces"),
        ),
    ),
    "train": Command(
        summary="reinforcement learning from a checkpoint",
        config="algos.config:TrainConfig",
        run="algos.train:train",
        examples=(
            ("retool train experiment=tiny_grpo model.path=runs/sft/checkpoints/final", "GRPO on the tiny model"),
            ("retool train experiment=tiny_strategic model.path=...", "with a price on tool calls"),
            ("retool train experiment=tiny_grpo model.path=... algo.mask_tool_tokens=false", "the ablation"),
            ("retool train experiment=tiny_grpo model.path=... --max_samples 10", "a quick try: ten problems, once"),
            ("retool train --resume runs/train", "go on with a run that was stopped, as it was configured"),
            ("retool train -m experiment=tiny_grpo model.path=... seed=0,1,2", "a sweep"),
        ),
    ),
    "eval": Command(
        summary="play problems once or more and report accuracy with intervals",
        config="agents.config:EvalConfig",
        run="agents.evaluate:evaluate_agent",
        examples=(
            ("retool eval agent.path=CHECKPOINT problems.split=heldout problems.size=500", "a checkpoint"),
            ("retool eval agent=oracle problems=gsm8k problems.path=test.jsonl", "check data, sandbox and verifier"),
        ),
    ),
}

# Commands with sub-commands and flags of their own: ``module:function``, from their arguments to an exit code.
GROUPS = {
    "plan": (
        "how much memory a training would need, and whether it fits, before it is paid for",
        "algos.plan.command:main",
    ),
    "sandbox": ("run a program in the sandbox, or serve it over HTTP", "retool_env.sandbox.cli:main"),
    "serve": ("start SGLang servers, keep them alive and stop them", "agents.serve.cli:main"),
    "data": ("check, prepare, filter and convert data files", "retool_env.data.cli:main"),
    "replay": ("play a stored run again from its recorded tool outputs and compare the ids", "agents.replay:main"),
    "rescore": ("grade a run's answers again with several verifiers", "agents.rescore:main"),
    "compare": ("compare two runs over the same problems, paired by problem", "agents.compare:main"),
    "view": ("write a run as one HTML file to look at: episodes, tokens, groups, curves", "agents.viewer.command:main"),
}

# Flags of the founding guides, as aliases of keys. A flag means the same key in every command that has it.
ALIASES = {
    "--max_samples": "problems.size",
    "--max-samples": "problems.size",
    "--agent": "agent.name",
    "--samples": "samples",
    "--model_path": "model.path",
    "--output_dir": "out",
    "--seed": "seed",
    "--resume": "resume",
}

# What `--max_samples N` stands for where it is to be a quick try of everything: N problems of training and evaluation
# once, or N traces.
SMOKE = {
    "train": ("problems.size={}", "eval.problems.size={}", "algo.num_epochs=1"),
    "sft": ("traces.num={}", "eval.problems.size={}"),
}

# Keys as verl writes them.
OTHER_KEYS = {"trainer.dry_run": "dry_run"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(arguments)
    except UsageError as error:
        print(f"retool: {error}", file=sys.stderr)
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

        print(
            command_help(name, COMMANDS[name].summary, COMMANDS[name].examples, _load(COMMANDS[name].config), ALIASES)
        )
        return 0
    return _run(name, _overrides(rest, name))


def _run(name: str, overrides: list[str]) -> int:
    from retool_env.compose import compose, sweep

    command = COMMANDS[name]
    kind = _load(command.config)
    if "-m" in overrides or "--multirun" in overrides:
        sweep(name, kind, overrides, lambda config: _load(command.run)(config))
    else:
        config = compose(name, kind, overrides)
        _load(command.run)(config)
    return 0


def _overrides(arguments: list[str], command: str = "") -> list[str]:
    """Aliases turned into ``key=value``; everything else as it is."""
    overrides: list[str] = []
    queue = list(arguments)
    while queue:
        argument = queue.pop(0)
        flag, equals, value = argument.partition("=")
        if argument in ("-m", "--multirun") or not argument.startswith("-"):
            overrides.append(f"{OTHER_KEYS[flag]}={value}" if flag in OTHER_KEYS else argument)
        elif flag not in ALIASES:
            raise UsageError(f"unknown flag {flag!r}{did_you_mean(flag, ALIASES)}; settings are written key=value")
        elif not equals and not queue:
            raise UsageError(f"{flag} needs a value")
        else:
            overrides += _meaning(flag, value if equals else queue.pop(0), command, arguments)
    return overrides


def _meaning(flag: str, value: str, command: str, arguments: Sequence[str]) -> list[str]:
    """What a flag stands for, as far as it is not said otherwise."""
    if ALIASES[flag] != "problems.size" or command not in SMOKE:
        return [f"{ALIASES[flag]}={value}"]
    said = {argument.partition("=")[0] for argument in arguments}
    said |= {"algo.num_epochs"} if "algo.steps" in said else set()
    return [override.format(value) for override in SMOKE[command] if override.partition("=")[0] not in said]


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
