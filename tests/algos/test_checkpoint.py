"""Checkpoints: the same bits come back, on any number of ranks, and whenever the process was killed."""

from __future__ import annotations

import math
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from algos.actor_critic import ActorCritic, Trained, make_actor_critic
from algos.checkpoint import Checkpoints, Position
from algos.checkpoint.folders import latest
from algos.config import TrainConfig
from algos.policy.world import World
from algos.rollouts import RolloutState
from algos.setup import open_checkpoints
from algos.sync.export import named_weights
from retool_env.errors import InfrastructureError, UsageError
from tests.algos.ranks import run_ranks

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "lora": {"model": {"lora": {"r": 4}}},
    "critic": {"algo": {"advantage": {"name": "gae"}}},
    "shared critic": {"algo": {"advantage": {"name": "gae"}, "critic": {"shared": True}}},
    "reference": {"algo": {"kl": {"coef": 0.1, "refresh_every": 1}}},
    "bfloat16": {"model": {"compute_dtype": "bfloat16"}},
}


def settings(start: Path, kind: str, **more: Any) -> TrainConfig:
    values = KINDS[kind]
    return TrainConfig(**{**values, **more, "model": {**values.get("model", {}), "path": str(start)}})


def checkpoints_in(out: Path, config: TrainConfig, parts: Trained, world: World) -> Checkpoints:
    return open_checkpoints(config.model_copy(update={"out": str(out)}), parts, world)


class Run:
    """What trains, and its checkpoints."""

    def __init__(self, out: Path, config: TrainConfig, world: World) -> None:
        self.world = world
        self.parts = make_actor_critic(config, world)
        self.checkpoints = checkpoints_in(out, config, self.parts, world)

    def advance(self, seed: int) -> None:
        """An optimizer step of everything; ranks have different data."""
        parts = self.parts
        ids = (torch.arange(24).reshape(2, 12) * (seed + 3) + 5 * self.world.rank) % 30
        parts.model(input_ids=ids).logits.logsumexp(-1).square().mean().backward()
        if parts.critic is not None:
            (parts.critic.critic(ids, torch.arange(12).expand(2, 12) > 0) - 1).square().mean().backward()
        for optimizer in parts.optimizers.values():
            optimizer.step()
            optimizer.zero_grad()
        if parts.reference is not None and seed % 2:
            parts.reference.refresh()

    def snapshot(self) -> dict[str, torch.Tensor]:
        """All weights and all that optimizers hold, whole and copied."""
        modules = {"policy": self.parts.model}
        if self.parts.critic is not None:
            modules["critic"] = self.parts.critic.critic
        if self.parts.reference is not None:
            modules["reference"] = self.parts.reference.scorer.model
        held = {f"{kind} {name}": p for kind, module in modules.items() for name, p in module.named_parameters()}
        for whose, optimizer in self.parts.optimizers.items():
            for number, parameter in enumerate(optimizer.param_groups[0]["params"]):
                held |= {f"{whose} {number} {key}": v for key, v in optimizer.state.get(parameter, {}).items()}
        return {name: whole(value) for name, value in held.items()}


def whole(value: torch.Tensor) -> torch.Tensor:
    value = value.detach()
    return (value.full_tensor() if isinstance(value, DTensor) else value).clone()


def assert_same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    assert [name for name in one if not torch.equal(one[name], two[name])] == []


def names(out: Path) -> set[str]:
    return {path.name for path in (out / "checkpoints").iterdir()}


@pytest.fixture
def world() -> Iterator[World]:
    world = World.join(device="cpu")
    yield world
    world.leave()


@pytest.mark.parametrize("async_save", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_run_goes_on_to_the_same_bits(
    tiny_folder: Path, tmp_path: Path, world: World, kind: str, async_save: bool
) -> None:
    """What is saved is what there was when ``save`` was called, whatever is trained while it is written."""
    config = settings(tiny_folder, kind, async_save=async_save)
    torch.manual_seed(0)
    run = Run(tmp_path, config, world)
    assert run.checkpoints.load() == Position()
    for seed in range(3):
        run.advance(seed)
    saved, rollouts = run.snapshot(), RolloutState(waiting=("{}",), extra=7)
    run.checkpoints.save("step-000003", Position(step=3, rollouts=rollouts))
    run.advance(3)
    run.checkpoints.wait()
    assert names(tmp_path) == {"step-000003"}
    torch.manual_seed(1)  # adapters begin elsewhere
    other = Run(tmp_path, config, world)
    assert any(not torch.equal(saved[name], now) for name, now in other.snapshot().items())
    assert other.checkpoints.load() == Position(step=3, rollouts=rollouts)
    assert_same(other.snapshot(), saved)
    other.advance(3)
    assert_same(other.snapshot(), run.snapshot())


@pytest.mark.parametrize("kind", ["plain", "critic"])
def test_saving_before_the_first_step_changes_nothing(
    tiny_folder: Path, tmp_path: Path, world: World, kind: str
) -> None:
    run, untouched = (Run(tmp_path / str(k), settings(tiny_folder, kind), world) for k in range(2))
    run.checkpoints.save("step-000000", Position())
    other = Run(tmp_path / "0", settings(tiny_folder, kind), world)
    other.advance(5)  # what an optimizer held before must be gone
    assert other.checkpoints.load() == Position()
    for each in (run, untouched, other):
        each.advance(0)
    assert_same(run.snapshot(), untouched.snapshot())
    assert_same(other.snapshot(), untouched.snapshot())


def test_random_numbers_go_on(tiny_folder: Path, tmp_path: Path, world: World) -> None:
    def draw() -> tuple[float, ...]:
        return (random.gauss(0, 1), random.random(), np.random.normal(), np.random.random(), torch.rand(1).item())

    run = Run(tmp_path, settings(tiny_folder, "plain"), world)
    draw()  # leaves half a pair of normal numbers behind in Python and numpy
    run.checkpoints.save("final", Position())
    expected = [draw() for _ in range(2)]
    run.checkpoints.load()
    assert [draw() for _ in range(2)] == expected


@pytest.mark.parametrize("kind", ["plain", "lora"])
def test_a_checkpoint_is_a_model_to_start_from(tiny_folder: Path, tmp_path: Path, world: World, kind: str) -> None:
    run = Run(tmp_path, settings(tiny_folder, kind), world)
    run.advance(0)
    run.advance(1)
    run.checkpoints.save("final", Position(step=2))
    folder = tmp_path / "checkpoints" / "final"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.arange(12)[None]
    expected = {name: tensor.clone() for name, tensor in named_weights(run.parts.model)}
    assert_same({name: p.detach() for name, p in model.named_parameters()}, expected)
    assert torch.allclose(model(input_ids=ids).logits, run.parts.model(input_ids=ids).logits, atol=1e-5)
    assert AutoTokenizer.from_pretrained(folder).get_vocab() == AutoTokenizer.from_pretrained(tiny_folder).get_vocab()
    assert (folder / "generation_config.json").read_bytes() == (tiny_folder / "generation_config.json").read_bytes()
    warm = Run(tmp_path / "warm", settings(folder, "plain"), world)
    assert warm.checkpoints.load() == Position()
    assert_same({name: whole(p) for name, p in warm.parts.model.named_parameters()}, expected)


def exported(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def test_async_writes_what_sync_writes(tiny_folder: Path, tmp_path: Path, world: World) -> None:
    for name, async_save in (("sync", False), ("async", True)):
        torch.manual_seed(0)
        run = Run(tmp_path / name, settings(tiny_folder, "lora", async_save=async_save), world)
        for step in range(1, 4):  # one in flight at most, so the saves wait for each other
            run.advance(step)
            run.checkpoints.save(f"step-{step:06d}", Position(step=step))
        run.checkpoints.close()
        run.checkpoints.close()
    assert names(tmp_path / "sync") == names(tmp_path / "async") == {f"step-{step:06d}" for step in range(1, 4)}
    for name in names(tmp_path / "sync"):
        one, two = (tmp_path / kind / "checkpoints" / name for kind in ("sync", "async"))
        assert_same(exported(one), exported(two))
        assert (one / "rollouts.json.gz").read_bytes() == (two / "rollouts.json.gz").read_bytes()


def test_the_last_few_stay_and_the_best(tiny_folder: Path, tmp_path: Path, world: World) -> None:
    config = settings(tiny_folder, "plain", keep_last=2)
    run = Run(tmp_path, config, world)
    run.checkpoints.keep_best(Position(step=0), math.nan)
    values = [0.2, 0.6, math.nan, 0.6, 0.5]
    best = {}
    for step, value in enumerate(values, start=1):
        run.advance(step)
        run.checkpoints.keep_best(Position(step=step), value)
        best[step] = {name: whole(p) for name, p in run.parts.model.named_parameters()}
        run.checkpoints.save(f"step-{step:06d}", Position(step=step))
        assert f"step-{step:06d}" in names(tmp_path)
    assert names(tmp_path) == {"step-000004", "step-000005", "best"}
    assert_same(exported(tmp_path / "checkpoints" / "best"), best[2])
    other = Run(tmp_path, config, world)
    assert other.checkpoints.load().step == 5
    other.checkpoints.keep_best(Position(step=5), 0.55)
    assert_same(exported(tmp_path / "checkpoints" / "best"), best[2])
    other.checkpoints.keep_best(Position(step=5), 0.7)
    assert_same(exported(tmp_path / "checkpoints" / "best"), best[5])
    other.checkpoints.save("final", Position(step=6))
    other.checkpoints.save("final", Position(step=7))
    assert names(tmp_path) == {"step-000004", "step-000005", "best", "final"}
    assert Run(tmp_path, config, world).checkpoints.load().step == 7


def test_a_run_goes_on_from_the_checkpoint_that_is_furthest(tiny_folder: Path, tmp_path: Path) -> None:
    """A run that ended, went on with more steps and was killed has steps behind its ``final``."""
    config, world = settings(tiny_folder, "plain"), World()
    run = Run(tmp_path, config, world)
    for name, step in (("step-000008", 8), ("final", 9), ("step-000009", 9)):
        run.checkpoints.save(name, Position(step=step))
    assert latest(tmp_path / "checkpoints") == tmp_path / "checkpoints" / "final", "of two of one step"
    run.checkpoints.save("step-000010", Position(step=10))
    assert Run(tmp_path, config, world).checkpoints.load().step == 10
    run.checkpoints.save("final", Position(step=12))
    assert Run(tmp_path, config, world).checkpoints.load().step == 12


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "rollouts.json.gz").unlink(),
        lambda folder: cut(folder / "rollouts.json.gz"),
        lambda folder: shutil.rmtree(folder / "trainer"),
        lambda folder: cut(folder / "trainer" / ".metadata"),
        lambda folder: (folder / "trainer" / ".metadata").write_bytes(b"cno.such\nmodule\n."),
        lambda folder: (folder / "trainer" / "__0_0.distcp").unlink(),
        lambda folder: cut(folder / "trainer" / "__0_0.distcp"),
    ],
    ids=["no record", "half a record", "no tensors", "half an index", "another index", "no data", "half of the data"],
)
def test_a_damaged_checkpoint_says_what_to_do(tiny_folder: Path, tmp_path: Path, world: World, damage: Any) -> None:
    config = settings(tiny_folder, "plain")
    run = Run(tmp_path, config, world)
    for step in (1, 2):
        run.advance(step)
        run.checkpoints.save(f"step-{step:06d}", Position(step=step))
    last = tmp_path / "checkpoints" / "step-000002"
    damage(last)
    with pytest.raises(UsageError, match=f"^[^\n]* cannot be read [^\n]*; delete {last} to go on from the one before$"):
        Run(tmp_path, config, world).checkpoints.load()
    shutil.rmtree(last)
    assert Run(tmp_path, config, world).checkpoints.load().step == 1


def cut(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("kind", "then"), [("plain", "lora"), ("lora", "plain"), ("plain", "critic"), ("critic", "shared critic")]
)
def test_other_trainable_weights_are_refused(
    tiny_folder: Path, tmp_path: Path, world: World, kind: str, then: str
) -> None:
    Run(tmp_path, settings(tiny_folder, kind), world).checkpoints.save("final", Position())
    other = Run(tmp_path, settings(tiny_folder, then), world)
    before = other.snapshot()
    with pytest.raises(UsageError, match=r"final holds other trainable weights than this run .*was model.lora"):
        other.checkpoints.load()
    assert_same(other.snapshot(), before)


@pytest.mark.parametrize("async_save", [False, True], ids=["sync", "async"])
def test_a_full_disk_is_an_error_and_leaves_the_one_before(
    tiny_folder: Path, tmp_path: Path, world: World, async_save: bool
) -> None:
    config = settings(tiny_folder, "plain", async_save=async_save)
    run = Run(tmp_path, config, world)
    save(run, 1)
    message = r"checkpoints/step-000002 could not be written .* go on with resume=true"
    for limit in (1_000, 500_000):  # in the model, and in the tensors
        with files_of_at_most(limit), pytest.raises(InfrastructureError, match=message):
            save(run, 2)
        assert Run(tmp_path, config, world).checkpoints.load().step == 1
        assert names(tmp_path) == {"step-000001"}


@contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    """Writing more is an error of the system in this process."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def save(run: Run, step: int) -> None:
    run.checkpoints.save(f"step-{step:06d}", Position(step=step))
    run.checkpoints.wait()


def on_two_ranks(rank: int, start: str, out: str, kinds: list[str], async_save: bool) -> None:
    """Save on two ranks, load on two, and load what one process saved."""
    world = World.join(device="cpu")
    for kind in kinds:
        config = settings(Path(start), kind, async_save=async_save)
        path = Path(out) / kind
        torch.manual_seed(0)
        run = Run(path, config, world)
        for seed in range(2):
            run.advance(seed)
        saved = run.snapshot()
        torch.manual_seed(100 + rank)
        rollouts = RolloutState(extra=5) if rank == 0 else RolloutState()
        run.checkpoints.save("final", Position(step=2, rollouts=rollouts))
        drawn = torch.rand(3)
        run.advance(2)
        run.checkpoints.wait()
        if rank == 0:
            torch.save(saved, path / "expected.pt")
        other = Run(path, config, world)
        assert other.checkpoints.load() == Position(step=2, rollouts=rollouts)
        assert torch.equal(torch.rand(3), drawn)  # each rank has its own
        assert_same(other.snapshot(), saved)
        other.advance(2)
        assert_same(other.snapshot(), run.snapshot())
        other.checkpoints.keep_best(Position(step=3), 0.5 if rank == 0 else math.nan)
        other.checkpoints.keep_best(Position(step=4), 0.4 if rank == 0 else 0.9)
        other.checkpoints.wait()
        single = Run(Path(out) / f"{kind} of one", config, world)
        assert single.checkpoints.load().step == 2
        assert_same(single.snapshot(), torch.load(Path(out) / f"{kind} of one" / "expected.pt"))
    fails_together(rank, Path(out) / "failed", settings(Path(start), "plain", async_save=async_save), world)


def fails_together(rank: int, out: Path, config: TrainConfig, world: World) -> None:
    """What one rank cannot write, and what the first one cannot read, stops both."""
    run = Run(out, config, world)
    save(run, 1)
    limit = files_of_at_most(20_000) if rank == 1 else nullcontext()
    with limit, pytest.raises(InfrastructureError, match="step-000002 could not be written"):
        save(run, 2)
    assert Run(out, config, world).checkpoints.load().step == 1
    world.barrier()
    if rank == 0:
        cut(out / "checkpoints" / "step-000001" / "rollouts.json.gz")
    with pytest.raises(UsageError, match=r"delete .*step-000001 to go on"):
        Run(out, config, world).checkpoints.load()
    world.barrier()
    if rank == 0:
        shutil.rmtree(out / "checkpoints")
        (out / "checkpoints").touch()
    with pytest.raises(InfrastructureError, match=r"step-000003 could not be written .*File exists"):
        save(run, 3)


@pytest.mark.parametrize(
    ("kinds", "async_save"),
    [(["critic", "lora"], False), (["shared critic", "reference"], True)],
    ids=["sync", "async"],
)
def test_two_ranks(tiny_folder: Path, tmp_path: Path, world: World, kinds: list[str], async_save: bool) -> None:
    """Two ranks go on where two were, or one; one goes on where two were."""
    for kind in kinds:
        path = tmp_path / f"{kind} of one"
        single = Run(path, settings(tiny_folder, kind), world)
        for seed in range(2):
            single.advance(seed)
        single.checkpoints.save("final", Position(step=2))
        torch.save(single.snapshot(), path / "expected.pt")
    run_ranks(on_two_ranks, 2, str(tiny_folder), str(tmp_path), kinds, async_save)
    for kind in kinds:
        path = tmp_path / kind
        assert len([*(path / "checkpoints" / "final" / "trainer").glob("*.distcp")]) == 2
        assert names(path) == {"final", "best"}
        other = Run(path, settings(tiny_folder, kind), world)
        assert other.checkpoints.load() == Position(step=2, rollouts=RolloutState(extra=5))
        assert_same(other.snapshot(), torch.load(path / "expected.pt"))
        merged = {name: tensor.clone() for name, tensor in named_weights(other.parts.model)}
        assert_same(exported(path / "checkpoints" / "final"), merged)
        shutil.copytree(path / "checkpoints" / "best", path / "best" / "checkpoints" / "final")
        assert Run(path / "best", settings(tiny_folder, kind), world).checkpoints.load().step == 3


def killed_everywhere(start: str, out: str, async_save: bool) -> None:
    """Kill a process that saves before each thing it does to files, and look at what it left."""
    torch.set_num_threads(1)
    world, root = World(), Path(out)
    config = settings(Path(start), "plain", keep_last=1, async_save=async_save)
    run = Run(root / "before", config, world)
    run.advance(0)
    states = {1: run.snapshot()}
    run.checkpoints.save("step-000001", Position(step=1))
    run.checkpoints.keep_best(Position(step=1), 0.1)
    run.checkpoints.wait()
    run.advance(1)
    states[2] = run.snapshot()
    other = Run(root / "other", config, world)
    steps, bests = set(), set()
    for moment in range(1_000):
        case = root / str(moment)
        shutil.copytree(root / "before", case)
        if not killed_while_saving(case, config, run.parts, moment):
            break
        steps.add(step := found(case, config, other, states))
        assert names(case) in ({"best", f"step-{step:06d}"}, {"best", "step-000001", "step-000002"})
        (case / "best" / "checkpoints").mkdir(parents=True)
        (case / "checkpoints" / "best").rename(case / "best" / "checkpoints" / "final")
        bests.add(found(case / "best", config, other, states))
        shutil.rmtree(case)
    assert 20 < moment < 999
    assert steps == bests == {1, 2}


def killed_while_saving(case: Path, config: TrainConfig, parts: ActorCritic, moment: int) -> bool:
    """Fork, save there and kill that process at its ``moment``-th event; whether it came to that."""
    pid = os.fork()
    if pid == 0:
        left = iter(range(moment, -1, -1))

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            changes = event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree", "open")
            if changes and (event in ("os.remove", "os.rmdir") or str(case) in str(arguments)) and next(left) == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        checkpoints = checkpoints_in(case, config, parts, World())
        sys.addaudithook(watch)
        checkpoints.save("step-000002", Position(step=2))
        checkpoints.keep_best(Position(step=2), 0.9)
        checkpoints.wait()
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def found(case: Path, config: TrainConfig, other: Run, states: dict[int, dict[str, torch.Tensor]]) -> int:
    """The step that is gone on from; nothing of it may be missing."""
    other.advance(7)
    step = checkpoints_in(case, config, other.parts, World()).load().step
    assert_same(other.snapshot(), states[step])
    return step


@pytest.mark.parametrize("async_save", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["sync", "async"])
def test_a_process_killed_at_any_moment_leaves_complete_checkpoints(
    tiny_folder: Path, tmp_path: Path, async_save: bool
) -> None:
    """SIGKILL before every file that is opened, and every folder that is made, renamed or removed."""
    spawn = multiprocessing.get_context("spawn")
    process = spawn.Process(target=partial(killed_everywhere, str(tiny_folder), str(tmp_path), async_save))
    process.start()
    process.join()
    assert process.exitcode == 0
