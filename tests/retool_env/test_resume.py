"""``--resume RUN`` is the run's own configuration; what is said besides is on top of it, or all of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from agents.config import EvalConfig
from agents.run_folder import RunFolder
from algos.config import SftConfig, TrainConfig
from retool_env.compose import compose
from retool_env.errors import UsageError

BEGUN = ["experiment=tiny_grpo", "model.path=there", "algo=ppo", "problems.families={add: 1}", "model.lora={r: 4}"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    RunFolder(folder, compose("train", TrainConfig, [*BEGUN, f"out={folder}"]))
    return folder


def test_the_folder_is_enough(run: Path) -> None:
    resumed = compose("train", TrainConfig, [f"resume={run}"])
    begun = compose("train", TrainConfig, [*BEGUN, f"out={run}", "resume=true"])
    assert resumed == begun


def test_it_may_have_been_moved(run: Path) -> None:
    moved = run.rename(run.with_name("elsewhere"))
    assert compose("train", TrainConfig, [f"resume={moved}"]).out == str(moved)


def test_keys_are_put_on_top(run: Path) -> None:
    changes = ["algo.steps=9", "agent.name=sglang", "problems.families={gcd: 1}", "cluster.gpus=4", "model.lora.r=8"]
    config = compose("train", TrainConfig, [f"resume={run}", *changes])
    assert (config.algo.steps, config.agent.name, config.cluster.gpus) == (9, "sglang", 4)
    assert config.problems.families == {"gcd": 1}
    assert config.model.lora is not None and config.model.lora.r == 8
    assert config.algo.advantage.name == "gae", "the rest is the run's"


def test_the_command_line_that_began_it_does_as_well(run: Path) -> None:
    assert compose("train", TrainConfig, [*BEGUN, f"resume={run}"]) == compose("train", TrainConfig, [f"resume={run}"])
    other = compose("train", TrainConfig, ["experiment=tiny_grpo", f"resume={run}"])
    with pytest.raises(UsageError, match=r"another configuration \(.*model\.path, .*it has .*model\.path=there"):
        RunFolder(run, other, resume=True)


def test_it_is_shown_where_it_was_or_elsewhere(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    begun = ["algo=ppo", f"out={folder}", "logger=wandb", "logger.project=mine"]
    RunFolder(folder, compose("train", TrainConfig, begun))
    logger = compose("train", TrainConfig, [f"resume={folder}"]).logger
    assert (logger.backends, logger.project) == (("tensorboard", "wandb"), "mine")
    changed = compose("train", TrainConfig, [f"resume={folder}", "logger=quiet"])
    assert (changed.logger.backends, changed.logger.console, changed.logger.project) == ((), False, "mine")
    assert changed.algo.advantage.name == "gae", "the rest is the run's"
    RunFolder(folder, changed, resume=True)
    assert compose("train", TrainConfig, [f"resume={folder}"]).logger == changed.logger


HOLD = """
import sys
from agents.run_folder import RunFolder
from algos.config import TrainConfig
from retool_env.compose import compose
run = RunFolder(sys.argv[1], compose("train", TrainConfig, ["resume=" + sys.argv[1]]), resume=True)
print("held", flush=True)
sys.stdin.read()
"""


def test_two_processes_do_not_write_one_run(run: Path) -> None:
    """A job that was put into the queue again while the old one still runs would remove its checkpoints."""
    resumed = compose("train", TrainConfig, [f"resume={run}"])
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        with pytest.raises(UsageError, match="another process is writing there"):
            RunFolder(run, resumed, resume=True)
        other.kill()
    RunFolder(run, resumed, resume=True)


def test_a_switch_is_a_switch() -> None:
    assert compose("train", TrainConfig, ["resume=true"]).resume is True
    assert compose("train", TrainConfig, ["resume=false"]).resume is False


def test_a_key_that_the_run_is_older_than_has_its_usual_value(run: Path) -> None:
    stored = (run / "config.yaml").read_text()
    assert "keep_best: false\n" in stored
    (run / "config.yaml").write_text(stored.replace("keep_best: false\n", ""))
    RunFolder(run, compose("train", TrainConfig, [f"resume={run}"]), resume=True)
    (run / "config.yaml").write_text(stored.replace("keep_best: false\n", ""))
    with pytest.raises(UsageError, match=r"\(keep_best differ\): it has keep_best=false, and this is keep_best=true"):
        RunFolder(run, compose("train", TrainConfig, [f"resume={run}", "keep_best=true"]), resume=True)


def test_an_evaluation_goes_on_by_itself() -> None:
    with pytest.raises(UsageError, match=r"`retool eval` goes on by itself: .*out=runs/eval"):
        compose("eval", EvalConfig, ["resume=runs/eval"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["resume=nowhere"], "resume='nowhere': no config.yaml there; give the folder of a run"),
        (["resume=RUN", "algo.stepz=9"], r"unknown key 'algo\.stepz'; did you mean 'steps'"),
        (["resume=RUN", "seed.x=9"], r"unknown config key 'seed\.x'; did you mean 'seed'"),
        (["resume=RUN", "algo.steps=many"], "algo.steps='many'"),
        (["resume=RUN", "experiment=tiny_grpoo"], "did you mean 'tiny_grpo'"),
    ],
)
def test_mistakes_are_named(run: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        compose("train", TrainConfig, [override.replace("RUN", str(run)) for override in overrides])


def test_a_run_of_another_command_is_refused(run: Path) -> None:
    with pytest.raises(UsageError, match=r"is no run of `retool sft`: its configuration has 'agent'"):
        compose("sft", SftConfig, [f"resume={run}"])
