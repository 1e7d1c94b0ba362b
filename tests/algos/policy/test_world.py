"""Ranks find their place, exchange values, and are refused where the grid cannot be."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, Qwen2Config

from algos.policy.world import World, check_grid, check_heads
from retool_env.errors import UsageError

SCRIPT = """
import sys
from algos.policy.world import World
world = World.join(device="cpu")
world.barrier()
with open(f"{sys.argv[1]}/{world.rank}", "w") as file:
    file.write(repr((world.size, world.num_data_ranks, world.gather(world.data_rank))))
world.leave()
"""


def test_a_single_process_exchanges_with_itself() -> None:
    world = World.join(device="cpu")
    assert (world.size, world.num_data_ranks, world.num_sequence_ranks) == (1, 1, 1)
    assert world.is_main and world.mesh is None and world.sequence_group is None
    assert world.gather("x") == ["x"] and world.broadcast("y") == world.from_main("y") == "y"
    assert world.sum(0.25) == world.max(0.25) == 0.25
    assert math.isnan(world.max(math.nan))
    world.barrier()
    world.leave()
    assert not torch.distributed.is_initialized()


def exchange(rank: int) -> None:
    world = World.join(sequence_parallel=2, device="cpu")
    data, sequence = divmod(rank, 2)
    assert (world.rank, world.size, world.is_main) == (rank, 4, rank == 0)
    assert world.gather((world.data_rank, world.sequence_rank)) == [(0, sequence), (1, sequence)]
    assert world.sum(data + 0.5) == 2.0
    assert world.max(float(data)) == 1.0
    assert math.isnan(world.max(math.nan if data else 1.0))
    assert world.broadcast(f"of {(data, sequence)}") == f"of {(data, 0)}"
    assert world.from_main(f"from {rank}") == "from 0"
    world.barrier()
    world.leave()
    assert torch.distributed.is_initialized(), "the process group was made by someone else"


def test_torchrun_starts_ranks(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    root = str(Path(__file__).resolve().parents[3])
    environment = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(script), str(tmp_path)], env=environment, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for rank in range(2):
        assert (tmp_path / str(rank)).read_text() == repr((2, 2, [0, 1]))


def test_ranks_that_do_not_divide_are_refused() -> None:
    for size, sequence in [(1, 1), (8, 1), (8, 4), (6, 3)]:
        check_grid(size, sequence)
    with pytest.raises(
        UsageError, match=r"parallel\.sequence=3 does not divide 8 ranks; set it to one of \[1, 2, 4, 8\]"
    ):
        check_grid(8, 3)
    with pytest.raises(UsageError, match=r"does not divide 1 rank; .*torchrun"):
        World.join(sequence_parallel=2, device="cpu")


def test_more_ranks_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    count = torch.cuda.device_count()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(count + 1))
    with pytest.raises(UsageError, match=rf"{count + 1} ranks on a machine with {count} GPU.*--nproc-per-node"):
        World.join(device="cuda")
    with pytest.raises(UsageError, match="device 'tpu': expected cpu or cuda"):
        World.join(device="tpu")


def test_heads_that_do_not_divide_are_refused(tmp_path: Path) -> None:
    config = Qwen2Config(num_attention_heads=28, num_key_value_heads=4, num_hidden_layers=2)
    for ranks in (1, 2, 4, 7, 14, 28):
        check_heads(config, ranks)
    with pytest.raises(
        UsageError, match=r"parallel\.sequence=8 does not divide the model's 28 attention heads.*\[1, 2, 4, 7"
    ):
        check_heads(config, 8)
    config.save_pretrained(tmp_path)
    check_heads(AutoConfig.from_pretrained(tmp_path), 4)


def test_windowed_attention_is_refused_only_where_it_would_be_split() -> None:
    config = Qwen2Config(num_attention_heads=4, num_hidden_layers=2, use_sliding_window=True, max_window_layers=1)
    check_heads(config, 1)
    with pytest.raises(UsageError, match="sliding_attention"):
        check_heads(config, 2)
