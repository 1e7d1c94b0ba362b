"""`retool sft` on the traces of a file: the very samples of the synthetic ones, and what cannot work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agents.run_folder import read_metrics
from algos.config import SftConfig
from algos.sft import sft
from algos.sft_data import trace_samples
from retool_env.cli import main
from retool_env.compose import compose
from retool_env.config import EnvConfig
from retool_env.errors import UsageError
from retool_env.recorded import Recording
from retool_env.sources.traces import TracePhase, arithmetic_traces


def raw_row(recording: Recording) -> str:
    """A recording as ReTool-SFT would have published it."""
    turns = [
        t.text + "".join(f"\n<interpreter>\n{out}\n</interpreter>\n" for out in t.outputs) for t in recording.turns
    ]
    user = f"Solve it.\n*user question:*\n{recording.problem.question}"
    messages = [{"role": "user", "content": user}, {"role": "assistant", "content": "".join(turns)}]
    return json.dumps({"messages": messages}) + "\n"


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    phases = [TracePhase(share=1, tool_easy=0.5, tool_hard=0.5, no_print=0.1, repair=0.2)]
    raw = tmp_path / "raw.jsonl"
    raw.write_text("".join(map(raw_row, arithmetic_traces(60, seed=3, phases=phases))))
    out = tmp_path / "traces.jsonl"
    assert main(["data", "sft", str(raw), "--out", str(out)]) == 0
    return out


def config(traces: Path, *overrides: str) -> SftConfig:
    folder = traces.parent
    where = [
        "experiment=tiny_sft",
        "threads=1",
        f"out={folder / 'run'}",
        f"traces.path={traces}",
        "eval.problems.size=5",
    ]
    return compose("sft", SftConfig, [*where, *overrides])


def test_samples_of_a_file_are_those_of_the_recordings(traces: Path, tiny_env: EnvConfig) -> None:
    phases = "[{share: 1, tool_easy: 0.5, tool_hard: 0.5, no_print: 0.1, repair: 0.2}]"
    synthetic = compose("sft", SftConfig, ["seed=3", "traces.num=60", f"traces.phases={phases}"])
    expected, _ = trace_samples(synthetic, tiny_env)
    found, total = trace_samples(config(traces, "traces.epochs=2"), tiny_env)
    rows = list(found)
    assert len(rows) == total == 120
    assert [row.order for row in rows] == list(range(120))
    first, second = (sorted((tuple(r.token_ids), tuple(r.trained)) for r in half) for half in (rows[:60], rows[60:]))
    assert first == second == sorted((tuple(r.token_ids), tuple(r.trained)) for r in expected)
    assert [tuple(r.token_ids) for r in rows[:60]] != [tuple(r.token_ids) for r in rows[60:]]


def test_training_on_a_file(traces: Path) -> None:
    checkpoint = sft(config(traces, "traces.num=50", "traces.epochs=2"))
    assert (checkpoint / "model.safetensors").is_file()
    rows = [row for row in read_metrics(checkpoint.parent.parent / "metrics.jsonl") if row["phase"] == "train"]
    assert rows[-1]["traces"] == 100


def test_what_does_not_fit_is_left_out(traces: Path, tiny_env: EnvConfig, caplog: pytest.LogCaptureFixture) -> None:
    short = tiny_env.model_copy(update={"max_tool_rounds": 1})
    found, total = trace_samples(config(traces), short)
    assert 0 < len(list(found)) == total < 60
    assert f"{60 - total} recordings left out; the first: " in caplog.text
    nothing = tiny_env.model_copy(update={"max_context_tokens": 2})
    with pytest.raises(UsageError, match=r"no recording fits; the first: .* its prompt has"):
        trace_samples(config(traces), nothing)


def test_a_missing_file_is_named_before_anything_is_written(tmp_path: Path) -> None:
    settings = ["experiment=tiny_sft", "threads=1", f"out={tmp_path / 'run'}", "traces.path=nowhere.jsonl"]
    with pytest.raises(UsageError, match=r"traces.path='nowhere.jsonl': no such file; make it with `retool data sft`"):
        sft(compose("sft", SftConfig, settings))
    assert not (tmp_path / "run").exists()
