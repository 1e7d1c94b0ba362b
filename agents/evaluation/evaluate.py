"""``retool eval``: play problems with any agent, report accuracy with intervals, list what was missed and why.

Episodes are appended as they finish, so a run that was stopped goes on where it was: what is played is what the folder
does not hold yet (:mod:`agents.evaluation.folder`). An episode that infrastructure ended is played again, ``attempts``
times in all, and never scored; when too many end so, the run stops, or ends as failed, because an accuracy over what is
left would look normal.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from agents.base import Agent
from agents.config import EvalConfig
from agents.console import make_console
from agents.evaluation.folder import EvalFolder, RunFile, is_evaluation, read_run
from agents.evaluation.identity import identify
from agents.evaluation.lineage import training_differences
from agents.evaluation.misses import write_misses
from agents.evaluation.played import Played
from agents.evaluation.summary import EvalSummary, read_summary, write_summary
from agents.evaluation.text import markdown
from agents.factories import BYTES_PER_TOKEN
from agents.registry import AgentSetup, make_agent
from agents.rollout import play_rounds
from agents.stats import Summary, summarise_samples
from retool_env.config import EnvConfig
from retool_env.envs.check import check_prompts, check_sandbox
from retool_env.errors import InfrastructureError, UsageError
from retool_env.feeder import ProblemSource
from retool_env.outcome import Outcome
from retool_env.sources import open_source
from retool_env.trajectory import Trajectory

__all__ = ["evaluate_agent"]

_FEW = 20  # finished episodes before a share of failures says anything about those to come
_log = logging.getLogger(__name__)


def evaluate_agent(config: EvalConfig) -> list[Summary]:
    """Run ``retool eval``; returns accuracy and tool use, overall and by family.

    Raises:
        UsageError: a file or value that cannot work.
        InfrastructureError: more episodes failed than ``max_failed_share``; what was finished is kept.
    """
    source = open_source(**config.problems.model_dump())
    if source.size is None:
        raise UsageError(f"problems={source.name!r} never ends; set problems.size (and problems.split=heldout)")
    env = config.env.model_copy(update={"tokenizer": config.agent.path}) if config.agent.path else config.env
    if _is_finished(config, env, source):
        return _tell_again(Path(config.out))
    setup = AgentSetup(config=config.agent, env=env, source=source, seed=config.seed, threads=config.threads)
    agent = make_agent(setup)
    try:
        env = _with_room(env, agent)
        check_sandbox(env)
        check_prompts(source, env)
        identity = identify(config, env, source, model=getattr(agent, "model_name", None))
        config = config.model_copy(update={"env": env})
        with closing(EvalFolder(config.out, config, identity, total=source.size * config.samples)) as folder:
            _play_and_report(config, source, agent, folder)
            return _summaries(folder.played)
    finally:
        if callable(close := getattr(agent, "close", None)):
            close()


def _is_finished(config: EvalConfig, env: EnvConfig, source: ProblemSource) -> bool:
    """The folder holds all of this evaluation, which can be said without loading a model or asking a server."""
    if not is_evaluation(Path(config.out)):
        return False
    run = read_run(Path(config.out))
    # What an endpoint calls its only model can be known from the folder alone; a model that was asked for counts more.
    model = config.agent.model or _model_of(run)
    wanted = [identify(config, one, source, model=model) for one in (env, _in_bytes(env))]
    same = run.identity in wanted and run.config["ks"] == (None if config.ks is None else list(config.ks))
    return same and read_summary(Path(config.out)).complete


def _model_of(run: RunFile) -> str | None:
    return str(named) if (named := run.identity.agent.get("model")) else None


def _tell_again(folder: Path) -> list[Summary]:
    console = make_console()
    of = f" of the model {model!r}" if (model := _model_of(read_run(folder))) else ""
    console.print(f"{folder} holds all episodes{of} already; nobody was asked, this is what is stored:", markup=False)
    console.print(markdown(read_summary(folder)), markup=False)
    return _summaries(Played.read(folder))


def _summaries(played: Played) -> list[Summary]:
    return summarise_samples([played.samples[ticket] for ticket in sorted(played.samples)])


def _with_room(env: EnvConfig, agent: Agent) -> EnvConfig:
    """Budgets are meant in tokens. Where an endpoint's are not known and bytes are counted instead, four to a token."""
    return _in_bytes(env) if getattr(agent, "reads_messages", False) else env


def _in_bytes(env: EnvConfig) -> EnvConfig:
    if env.tokenizer != "bytes":
        return env
    names = ("max_context_tokens", "max_turn_tokens", "max_tool_tokens")
    return env.model_copy(update={name: BYTES_PER_TOKEN * getattr(env, name) for name in names})


def _play_and_report(config: EvalConfig, source: ProblemSource, agent: Agent, folder: EvalFolder) -> None:
    """Play what is missing; whatever ends it, the numbers of what there is are written."""
    console = make_console()
    for difference in training_differences(config):
        _log.warning("the checkpoint was trained with another environment: %s", difference)
    try:
        _play_missing(config, source, agent, folder, console)
    finally:
        found = EvalSummary.of(folder.run, folder.played)
        readable = markdown(found)
        write_summary(folder.path, found, readable)
        misses = {**folder.played.misses, **{ticket: miss for ticket, (_, miss) in folder.played.failed.items()}}
        write_misses(folder.path / "misses.md", [misses[ticket] for ticket in sorted(misses)])
        console.print(readable, markup=False)


def _play_missing(
    config: EvalConfig, source: ProblemSource, agent: Agent, folder: EvalFolder, console: Console
) -> None:
    """Passes over what is missing, until nothing is or every attempt was made."""
    total = folder.run.num_episodes
    if folder.played.samples:
        console.print(f"{len(folder.played.samples):,} of {total:,} episodes are there already; playing the rest")
    columns = (TextColumn("eval"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[right]}"))
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, *times, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("eval", total=total, completed=len(folder.played.samples), right="")
        missing = [ticket for ticket in range(total) if ticket not in folder.played.samples]
        for attempt in range(config.attempts if missing else 0):
            # Those that failed a moment ago may well fail again, which says nothing new about the whole.
            guard = _Guard(config.max_failed_share if attempt == 0 else 1.0)

            with closing(_rounds(config, source, agent, missing, total)) as rounds:
                for finished in rounds:
                    kept = folder.keep(finished)
                    num, num_wrong = len(folder.played.samples), len(folder.played.misses)
                    progress.update(bar, completed=num, right=f"{1 - num_wrong / max(num, 1):.1%} right")
                    guard.check(kept)
            if not (missing := sorted(folder.played.failed)):
                return
    if failed := list(folder.played.failed.values()):
        sample, miss = failed[-1]
        _check_share(len(failed), total, _why(sample.outcome, miss.reason), config.max_failed_share)


def _rounds(
    config: EvalConfig, source: ProblemSource, agent: Agent, missing: Sequence[int], total: int
) -> Generator[list[Trajectory]]:
    return play_rounds(
        source,
        agent,
        env=config.env,
        num_episodes=total,
        seed=config.seed,
        group_size=config.samples,
        num_slots=config.num_slots,
        sampling=config.sampling,
        skip=set(range(total)).difference(missing),
    )


class _Guard:
    """Stops a pass in which too many episodes fail."""

    def __init__(self, most: float) -> None:
        self._most = most
        self._finished = self._failed = 0

    def check(self, finished: list[Trajectory]) -> None:
        failures = [trajectory for trajectory in finished if trajectory.record.outcome.failed]
        self._finished, self._failed = self._finished + len(finished), self._failed + len(failures)
        if failures and self._finished >= _FEW:
            last = failures[-1]
            _check_share(self._failed, self._finished, _why(last.record.outcome, last.failure), self._most)


def _check_share(num_failed: int, num: int, why: str, most: float) -> None:
    if num_failed > most * num:
        raise InfrastructureError(
            f"{num_failed} of {num} episodes failed ({why}), more than max_failed_share={most:g}; repair it, the same "
            "command goes on"
        )


def _why(outcome: Outcome, said: str) -> str:
    return f"{outcome}: {said}" if said else str(outcome)
