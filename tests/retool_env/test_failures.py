"""Failures of machine and network become one line with what to do; everything else keeps its traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from retool_env.cli import main
from retool_env.failures import explain_failure

# What torch 2.13 says, word for word: gloo with a rank that dies, that is slow, that never comes; NCCL's watchdog.
GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/"
RANKS = [
    RuntimeError(f"{GLOO}pair.cc:537] Read error [127.0.0.1]:2972: Connection reset by peer. This is typically caused"),
    RuntimeError(f"{GLOO}pair.cc:553] Connection closed by peer [127.0.0.1]:15262. This is typically caused by a"),
    RuntimeError(f"{GLOO}unbound_buffer.cc:78] Timed out waiting 5000ms for recv operation to complete"),
    dist.DistStoreError("Timed out after 6 seconds waiting for clients. 1/2 clients joined."),
    dist.DistBackendError(
        "NCCL error in: ProcessGroupNCCL.cpp:3690, remote process exited or there was a network error"
    ),
]


def test_a_gpu_that_is_too_small() -> None:
    told = explain_failure(
        torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1.2 GiB"
        )
    )
    assert told is not None and told.startswith("out of GPU memory: CUDA out of memory.")
    for remedy in ("micro_batch_tokens", "gradient_checkpointing", "offload", "lora", "retool plan", "resume=true"):
        assert remedy in told


def test_a_machine_that_is_too_small() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**52)
    told = explain_failure(caught.value)
    assert told is not None and "you tried to allocate 18014398509481984 bytes" in told and "num_slots" in told
    assert (explain_failure(MemoryError()) or "").startswith("out of memory: the interpreter got no more.")


def test_a_full_disk() -> None:
    with pytest.raises(OSError) as caught:
        Path("/dev/full").write_text("x")
    assert (explain_failure(caught.value) or "").startswith("the disk is full")


@pytest.mark.parametrize("error", RANKS, ids=lambda error: str(error)[-30:])
def test_ranks_that_lose_each_other(error: RuntimeError) -> None:
    told = explain_failure(error)
    assert told is not None and told.startswith("the ranks lost each other: ")
    assert "NCCL_SOCKET_IFNAME" in told and "\n" not in told


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Timed out waiting for a person"),
        ValueError("NCCL error"),
        KeyError("gloo"),
        FileNotFoundError(2, "x"),
    ],
    ids=repr,
)
def test_what_is_not_known_is_not_explained(error: Exception) -> None:
    assert explain_failure(error) is None


def test_the_command_says_it_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model that fits into no machine."""
    shape = ["model.tiny.hidden_size=1073741824", "model.tiny.num_layers=1"]
    assert main(["sft", "experiment=tiny_sft", *shape, "traces.num=10", f"out={tmp_path / 'sft'}"]) == 3
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and error.startswith("retool: out of memory: ")
