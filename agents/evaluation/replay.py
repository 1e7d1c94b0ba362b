"""``retool replay RUN``: does the code of today turn a stored run into the same token ids?

Nothing is sampled and no program is run; what tools said is taken from the recording.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agents.console import make_console
from agents.run_folder import stored_config
from retool_env.config import EnvConfig, check_config
from retool_env.dialects import make_dialect
from retool_env.envs.toolbox import tool_specs
from retool_env.errors import UsageError
from retool_env.replay import Difference, replay_trajectory
from retool_env.terminal import Parser
from retool_env.tokenizer import load_tokenizer
from retool_env.trajectory import read_trajectories

__all__ = ["main", "replay_run"]

_EXAMPLES = """\
examples:
  retool replay runs/eval
      every stored episode of an evaluation, against its recorded tool outputs
  retool replay runs/grpo --tokenizer runs/sft/checkpoints/final
      with a tokenizer that lies elsewhere by now

exit code: 0 every episode has the ids that were stored, 1 some do not
"""


def main(arguments: Sequence[str]) -> int:
    """``retool replay ARGUMENTS``; returns the exit code. Raises :class:`UsageError`."""
    parser = Parser(
        prog="retool replay",
        description="play a stored run again without sampling or executing anything, and compare the token ids",
        epilog=_EXAMPLES,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of an evaluation or a training")
    parser.add_argument("--tokenizer", metavar="DIR", help="default: the one that the run's configuration names")
    try:
        options = parser.parse_args(list(arguments))
    except SystemExit as stop:  # argparse, after it has printed the help
        return int(stop.code or 0)
    total, differences = replay_run(options.run, tokenizer=options.tokenizer)
    console = make_console()
    for found in differences:
        console.print(f"  episode {found.ticket}, token {found.token}: {found.what}", markup=False)
    console.print(f"{total - len(differences)} of {total} episodes have the ids that were stored")
    return 1 if differences else 0


def replay_run(run: Path, *, tokenizer: str | None = None) -> tuple[int, list[Difference]]:
    """How many episodes the run has, and those that come out differently.

    Raises:
        UsageError: the folder is no run, or its tokenizer is not where it was.
    """
    config = _read_config(run)
    env = check_config(EnvConfig, config["env"], where="env")
    loaded = load_tokenizer(tokenizer or _tokenizer_of(config, env))
    dialect, tools = make_dialect(env.dialect, instructions=env.instructions), tool_specs(env)
    total, differences = 0, []
    for trajectory in read_trajectories(run / "trajectories.jsonl"):
        total += 1
        found = replay_trajectory(trajectory, dialect=dialect, tokenizer=loaded, limits=env.episode_limits, tools=tools)
        differences += [found] if found else []
    return total, differences


def _read_config(run: Path) -> Mapping[str, Any]:
    config = stored_config(run)
    if config is None:
        raise UsageError(f"{run} is no run folder: it has neither run.json nor config.yaml")
    if "env" not in config:
        raise UsageError(f"{run}: its configuration has no section 'env'; give an evaluation or a training")
    return config


def _tokenizer_of(config: Mapping[str, Any], env: EnvConfig) -> str:
    """Trainers and evaluations take the tokenizer of the model that they were given."""
    for part in ("model", "agent"):
        section = config.get(part)
        if isinstance(section, dict) and section.get("path"):
            return str(section["path"])
    return env.tokenizer
