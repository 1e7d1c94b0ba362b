"""``docs/troubleshooting.md`` quotes what the program says; here it says it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from algos.alarms import Alarms
from algos.hints import where_time_goes
from retool_env.cli import main
from retool_env.doctor.installation import explain_import
from retool_env.failures import explain_failure
from retool_env.outcome import ToolStatus
from tests.algos.test_alarms import HEALTHY, said, told
from tests.doc_commands import ROOT, blocks

PAGE = ROOT / "docs" / "troubleshooting.md"
QUOTED = {line for _, text in blocks(PAGE, "text") for line in text.splitlines()}
TRAIN = ("train", "env=tiny", "out=never")
ORACLE = ("eval", "arithmetic", "agent=oracle", "out=never")

MISTAKES = [
    (*TRAIN, "model.path=nowhere"),
    (*TRAIN, "model.path=no-tokenizer"),
    (*TRAIN, "model.path=no-weights"),
    (*TRAIN, "model.path=whole", "model.parallel.sequence=2"),
    ("train", "out=never", "model.path=whole"),
    (*ORACLE, "env.dialect=hermes", "env.tools=[my_tools.py]"),
    (*ORACLE, "env.reward=my_reward.py"),
    (*ORACLE, "env.max_context_tokens=80"),
    (*ORACLE, "env.sandbox=fusion:http://127.0.0.1:9"),
]
ALARMS = [
    said({"num_failed": 10.0}),
    said(*[{"tool_use/mean": 0.0}] * 3),
    said(*[{"tool_use/mean": 0.0, "tool_status/malformed": 1.0}] * 3),
    said(*[{"response_length/clip_ratio": 0.6}] * 5),
    said({"tool_use/mean": 0.5}, {"tool_use/mean": 0.01}),
    said(*[{"groups/zero_spread": 20.0, "accuracy/mean": 0.0}] * 5),
    said(*[{"reward/mean": -0.5}] * 50),
    said(*[{"actor/pg_clipfrac": 0.4}] * 5),
    said({"num_skipped_updates": 1.0}),
    said({"logprob_gap/max": 0.3}),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """A checkpoint, two that lack something, and files of tools and rewards that export nothing."""
    made = tmp_path_factory.mktemp("troubles")
    for name, missing in (("whole", ""), ("no-tokenizer", "tokenizer.json"), ("no-weights", "model.safetensors")):
        shutil.copytree(tiny_folder, made / name)
        (made / name / missing).unlink() if missing else None
    (made / "my_tools.py").write_text("def add(a: int) -> int:\n    '''Add.'''\n    return a\n")
    (made / "my_reward.py").write_text("reward = 3\n")
    return made


@pytest.mark.parametrize("arguments", MISTAKES, ids=lambda arguments: arguments[-1])
def test_mistakes(
    arguments: tuple[str, ...], folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    assert main(arguments) == 2
    assert capsys.readouterr().err.strip() in QUOTED


@pytest.mark.parametrize("steps", ALARMS, ids=lambda steps: steps[-1][0][:40])
def test_alarms(steps: list[list[str]]) -> None:
    (alarm,) = steps[-1]
    assert f"alarm: {alarm}" in QUOTED


def test_a_comparison_that_never_fits() -> None:
    alarms = Alarms(has_tools=True, tolerance=1e-4)
    episodes = [told("Error: no", "Sum: 42", ToolStatus.BAD_ARGUMENTS), told("Sum: 42.0", "Sum: 42")]
    (alarm,) = [alarms.look(HEALTHY, episodes) for _ in range(3)][-1]
    assert f"alarm: {alarm}" in QUOTED


def test_failures() -> None:
    for error in (
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        dist.DistStoreError("Timed out after 6 seconds waiting for clients. 1/2 clients joined."),
    ):
        assert f"retool: {explain_failure(error)}" in QUOTED


def test_time() -> None:
    stages = {"timing_s/step": 10.0, "timing_s/gen": 7.0, "timing_s/update_actor": 2.5}
    line = where_time_goes(stages | {"timing_s/agent_loop/tool_calls/mean": 0.25})
    assert f"step 5: {line}" in QUOTED


def test_a_missing_extra() -> None:
    """``tests/retool_env/test_doctor.py`` lets a command end like this."""
    error = ModuleNotFoundError("No module named 'torch'", name="torch")
    assert f"retool: {explain_import(error)}" in QUOTED


def test_every_quotation_is_checked() -> None:
    """One for each mistake and alarm above, the comparison, two failures, the time, the extra; nothing else."""
    assert len(QUOTED) == len(MISTAKES) + len(ALARMS) + 1 + 2 + 1 + 1
