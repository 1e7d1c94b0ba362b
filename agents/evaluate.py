"""``retool eval``: play problems with any agent, report accuracy with intervals, list what was missed and why.

Episodes are appended as they finish, so a run that was stopped goes on where it was: what is played is what is not yet
in the file. Three files result: ``trajectories.jsonl``, ``summary.json`` and ``misses.md``, which sorts every wrong
answer by where it went wrong: the sandbox, the parser, the verifier, infrastructure, or none of them, in which case the
agent's own program or answer was wrong.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from agents.base import Agent
from agents.config import EvalConfig
from agents.console import make_console
from agents.registry import AgentSetup, make_agent
from agents.rollout import play
from agents.run_folder import RunFolder
from agents.stats import Summary, summarise
from retool_env.config import EnvConfig
from retool_env.envs.check import check_prompts
from retool_env.errors import UsageError
from retool_env.feeder import ProblemSource
from retool_env.files import atomic
from retool_env.outcome import Outcome, ToolStatus
from retool_env.sources import open_source
from retool_env.trajectory import Trajectory, append_trajectories, drop_torn_line, read_trajectories

__all__ = ["evaluate_agent", "miss_cause", "summary_table"]


def evaluate_agent(config: EvalConfig) -> list[Summary]:
    """Run ``retool eval``.

    Raises:
        UsageError: a file or value that cannot work.
    """
    source = open_source(**config.problems.model_dump())
    if source.size is None:
        raise UsageError(f"problems={source.name!r} never ends; set problems.size (and problems.split=heldout)")
    env = config.env
    if config.agent.path:
        env = env.model_copy(update={"tokenizer": config.agent.path})
    setup = AgentSetup(config=config.agent, env=env, source=source, seed=config.seed, threads=config.threads)
    agent = make_agent(setup)
    try:
        check_prompts(source, env)
        run = RunFolder(config.out, config, resume=True)
        played = _play_missing(config, source, agent, env, run, source.size * config.samples)
    finally:
        if callable(close := getattr(agent, "close", None)):
            close()
    summaries = summarise(played)
    _write_summary(run.path / "summary.json", summaries)
    _write_misses(run.path / "misses.md", played)
    console = make_console()
    console.print(summary_table(summaries))
    console.print(f"misses by cause: {_count_misses(played) or 'none'}; listed in {run.path / 'misses.md'}")
    return summaries


def _play_missing(
    config: EvalConfig, source: ProblemSource, agent: Agent, env: EnvConfig, run: RunFolder, total: int
) -> list[Trajectory]:
    """Play what the file does not hold yet; returns everything in ticket order."""
    drop_torn_line(run.trajectories)
    played = list(read_trajectories(run.trajectories)) if run.trajectories.is_file() else []
    done = {trajectory.ticket for trajectory in played if not trajectory.record.outcome.failed}
    columns = (TextColumn("eval"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    console = make_console()
    if done:
        console.print(f"{len(done)} of {total} episodes are there already; playing the rest")
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("eval", total=total, completed=len(done))

        def keep(finished: list[Trajectory]) -> None:
            append_trajectories(run.trajectories, finished)
            progress.advance(bar, len(finished))

        new = play(
            source,
            agent,
            env=env,
            num_episodes=total,
            seed=config.seed,
            group_size=config.samples,
            num_slots=config.num_slots,
            sampling=config.sampling,
            skip=done,
            on_round=keep,
        )
    kept = [trajectory for trajectory in played if not trajectory.record.outcome.failed]
    return sorted([*kept, *new], key=lambda trajectory: trajectory.ticket)


def summary_table(summaries: Sequence[Summary]) -> Table:
    """Accuracy and tool use with 95 % intervals, overall and by family."""
    table = Table("", "n", "accuracy [95 %]", "tool-call rate [95 %]", "calls", "tokens", "failed")
    for row in summaries:
        table.add_row(
            row.family or "all",
            str(row.accuracy.num),
            str(row.accuracy),
            str(row.tool_rate),
            f"{row.num_tool_calls:.2f}",
            f"{row.num_action_tokens:.1f}",
            str(row.num_failed),
        )
    return table


def miss_cause(trajectory: Trajectory) -> str:
    """Where a wrong answer comes from; ``""`` for a right one."""
    record = trajectory.record
    if record.correct:
        return ""
    if record.outcome.failed:
        return f"infrastructure: {record.outcome}"
    statuses = {call.status for call in record.calls}
    if limits := statuses & {ToolStatus.TIMEOUT, ToolStatus.MEMORY, ToolStatus.KILLED, ToolStatus.OUTPUT_LIMIT}:
        return "sandbox limit: " + ", ".join(sorted(limits))
    if any(call.status.invalid for call in record.calls):
        return "parser: malformed call"
    if record.outcome is not Outcome.ANSWERED:
        return f"no answer: {record.outcome}"
    assert record.verdict is not None
    if record.verdict.reason in ("timeout", "outage"):
        return f"verifier: {record.verdict.reason}"
    if ToolStatus.ERROR in statuses:
        return "program: raised an error"
    return "program or answer: wrong value" if record.calls else "answer: wrong value"


def _count_misses(played: Sequence[Trajectory]) -> str:
    counts = Counter(cause for trajectory in played if (cause := miss_cause(trajectory)))
    return ", ".join(f"{cause} {count}" for cause, count in counts.most_common())


def _write_summary(path: Path, summaries: Sequence[Summary]) -> None:
    with atomic(path) as temporary:
        temporary.write_text(json.dumps([asdict(row) for row in summaries], indent=1) + "\n", encoding="utf-8")


def _write_misses(path: Path, played: Sequence[Trajectory]) -> None:
    lines = [
        "# Misses",
        "",
        _count_misses(played) or "none",
        "",
        "| problem | cause | gold | answer | verdict | statuses |",
    ]
    lines.append("|---|---|---|---|---|---|")
    for trajectory in played:
        if cause := miss_cause(trajectory):
            record = trajectory.record
            answer, reason = (record.verdict.answer, record.verdict.reason) if record.verdict else ("", "")
            statuses = " ".join(call.status for call in record.calls)
            cells = [record.problem.id, cause, record.problem.answer, answer, reason, statuses]
            lines.append("| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |")
    with atomic(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
