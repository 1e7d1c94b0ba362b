"""Stored episodes play again from their recorded tool outputs, id for id; anything else is found and located."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from agents.config import EvalConfig
from agents.evaluation.evaluate import evaluate_agent
from agents.evaluation.replay import main, replay_run
from retool_env import sandbox
from retool_env.compose import compose
from retool_env.errors import UsageError
from retool_env.outcome import Outcome
from retool_env.trajectory import append_trajectories, read_trajectories


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "eval"
    overrides = ["agent=oracle", "problems=arithmetic", "problems.size=6", "problems.split=heldout", f"out={out}"]
    evaluate_agent(compose("eval", EvalConfig, overrides))
    return out


def test_nothing_is_executed_and_the_ids_are_the_same(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("a replay runs nothing")

    monkeypatch.setattr(sandbox.local.LocalSandbox, "run", forbidden)
    total, differences = replay_run(run)
    assert (total, differences) == (6, [])
    assert main([str(run)]) == 0


def changed(run: Path, tmp_path: Path, **changes: object) -> Path:
    other = tmp_path / "changed"
    other.mkdir()
    (other / "run.json").write_text((run / "run.json").read_text())
    first, *rest = read_trajectories(run / "trajectories.jsonl")
    append_trajectories(other / "trajectories.jsonl", [dataclasses.replace(first, **changes), *rest])
    return other


def test_another_tool_output_is_found(run: Path, tmp_path: Path) -> None:
    first = next(iter(read_trajectories(run / "trajectories.jsonl")))
    call, *others = first.record.calls
    record = dataclasses.replace(first.record, calls=(dataclasses.replace(call, text="999"), *others))
    _, (found,) = replay_run(changed(run, tmp_path, record=record))
    start = next(span.start for span in first.transcript.spans if span.role == "tool")
    assert found.ticket == first.ticket
    assert found.token >= start
    assert "'tool'" in found.what


def test_another_prompt_is_found(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = next(iter(read_trajectories(run / "trajectories.jsonl")))
    problem = first.record.problem.model_copy(update={"prompt": "Something else?"})
    other = changed(run, tmp_path, record=dataclasses.replace(first.record, problem=problem))
    assert main([str(other)]) == 1
    assert "5 of 6 episodes" in capsys.readouterr().out


def test_a_lost_call_is_found(run: Path, tmp_path: Path) -> None:
    first = next(iter(read_trajectories(run / "trajectories.jsonl")))
    _, (found,) = replay_run(changed(run, tmp_path, record=dataclasses.replace(first.record, calls=())))
    assert "makes 1 calls, not the 0" in found.what


def test_files_of_before_play_too(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "old"
    other.mkdir()
    (other / "run.json").write_text((run / "run.json").read_text())
    rows = [json.loads(line) for line in (run / "trajectories.jsonl").read_text().splitlines()]
    for row in rows:
        del row["num_void_turns"]
        for call in row["calls"]:
            del call["arguments"], call["span"]
    (other / "trajectories.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert replay_run(other) == (6, [])


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no run folder"):
        main([str(tmp_path)])
    (tmp_path / "config.yaml").write_text("out: here\n")
    with pytest.raises(UsageError, match="no section 'env'"):
        main([str(tmp_path)])


def test_a_difference_behind_the_last_turn_is_found(run: Path, tmp_path: Path) -> None:
    """The engine failed after a tool's output: no later turn shows that the output differs."""
    first = next(iter(read_trajectories(run / "trajectories.jsonl")))
    whole = first.transcript
    spans = whole.spans[: [span.role for span in whole.spans].index("tool") + 1]
    end = spans[-1].end
    arrays = {n: getattr(whole, n)[:end] for n in ("token_ids", "action_mask", "logprobs", "policy_version")}
    call = dataclasses.replace(first.record.calls[0], text="999")
    record = dataclasses.replace(
        first.record, outcome=Outcome.ENGINE_OUTAGE, turns=first.record.turns[:1], calls=(call,), verdict=None
    )
    cut = dataclasses.replace(whole, spans=spans, **arrays)
    _, (found,) = replay_run(changed(run, tmp_path, record=record, transcript=cut))
    assert found.token >= spans[-1].start
