"""Published weights are what every server samples from, by any transport; a server without them is out of use."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor._dtensor_spec import DTensorSpec, TensorMeta

from agents.base import Request
from agents.loading import load_model
from agents.sglang import SGLangAgent
from algos.policy.config import ParallelConfig, PolicyOptions
from algos.policy.model import prepare
from algos.policy.world import World
from algos.sync.servers import ServerWeights, _row
from algos.sync.transports import BroadcastTransport, DiskTransport, TensorTransport, Transport
from algos.sync.wire import device_for
from retool_env.errors import InfrastructureError
from retool_env.tokenizer import Tokenizer, load_tokenizer
from tests.agents.fake_server import FakeServer, fake_sglang

PROBE = np.arange(5, 17)


@pytest.fixture(scope="module")
def tokenizer(tiny_folder: Path) -> Tokenizer:
    return load_tokenizer(str(tiny_folder))


@pytest.fixture(scope="module")
def servers(tiny_folder: Path) -> Iterator[tuple[FakeServer, FakeServer]]:
    """Two servers that all tests share: what their weights are when a test begins is not known."""
    with fake_sglang(tiny_folder) as first, fake_sglang(tiny_folder) as second:
        yield first, second


@pytest.fixture
def mortal(tiny_folder: Path) -> Iterator[tuple[FakeServer, FakeServer]]:
    """Two servers for a test that kills them."""
    with fake_sglang(tiny_folder) as first, fake_sglang(tiny_folder) as second:
        yield first, second


@contextlib.contextmanager
def an_agent(servers: tuple[FakeServer, ...], tokenizer: Tokenizer, **settings) -> Iterator[SGLangAgent]:
    agent = SGLangAgent([server.url for server in servers], tokenizer, patience=20.0, **settings)
    try:
        yield agent
    finally:
        agent.close()


def transports(folder: Path, tiny_folder: Path) -> dict[str, Transport]:
    return {
        "disk": DiskTransport(folder, tokenizer=str(tiny_folder)),
        "tensor": TensorTransport(bucket_bytes=50_000),
        "group": BroadcastTransport(backend="gloo", bucket_bytes=50_000),
    }


def changed(model: torch.nn.Module, seed: int) -> None:
    """Another policy: every parameter moves."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))


def scores(model: torch.nn.Module, ids: list[int], sampled: list[int]) -> np.ndarray:
    """Oracle: one plain forward in float64."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids + sampled])).logits[0].double().log_softmax(-1)
    return np.array([float(logits[len(ids) + k - 1, token]) for k, token in enumerate(sampled)])


def sample(agent: SGLangAgent, session: int, budget: int = 6):
    return agent.act(Request(token_ids=PROBE, budget=budget, session=session, seed=session))


@pytest.mark.parametrize("kind", ["disk", "tensor", "group"])
def test_every_server_samples_from_what_was_published(
    kind: str, servers, tokenizer: Tokenizer, tiny_folder: Path, tmp_path: Path
) -> None:
    model = load_model(str(tiny_folder))
    with an_agent(servers, tokenizer) as agent:
        sync = ServerWeights(agent, model, transports(tmp_path, tiny_folder)[kind], probe=PROBE, tolerance=1e-4)
        before = sample(agent, 0)
        for version in (1, 2):
            changed(model, version)
            sync.publish(version)
            assert sync.gap <= 1e-4
            for session in range(8):  # both servers take some
                generation = sample(agent, session)
                assert set(generation.policy_version.tolist()) == {version}
                oracle = scores(model, PROBE.tolist(), generation.token_ids.tolist())
                assert np.abs(generation.logprobs - oracle).max() <= 1e-4
        assert len(before.token_ids) and len(agent.servers_in_use) == 2
        sync.close()
    checks = [server.post("/weights_checker", {"action": "checksum"}).json() for server in servers]
    assert checks[0] == checks[1]


def test_requests_in_flight_go_on_with_the_new_weights(
    servers, tokenizer: Tokenizer, tiny_folder: Path, tmp_path: Path
) -> None:
    model = load_model(str(tiny_folder))
    with an_agent(servers, tokenizer) as agent:
        sync = ServerWeights(agent, model, DiskTransport(tmp_path, tokenizer=str(tiny_folder)))
        results = {}
        threads = [
            threading.Thread(target=lambda s=s: results.update({s: sample(agent, s, budget=200)})) for s in range(6)
        ]
        for thread in threads:
            thread.start()
        time.sleep(0.4)
        changed(model, 1)
        sync.publish(1)
        for thread in threads:
            thread.join()
    spanning = 0
    for generation in results.values():
        versions = generation.policy_version.tolist()
        assert versions == sorted(versions, key=lambda version: version == 1)  # once new, always new
        spanning += len(set(versions)) == 2
    assert len(results) == 6
    assert spanning


def test_only_the_last_versions_lie_on_disk(servers, tokenizer: Tokenizer, tiny_folder: Path, tmp_path: Path) -> None:
    model = load_model(str(tiny_folder))
    with an_agent(servers, tokenizer) as agent:
        sync = ServerWeights(agent, model, DiskTransport(tmp_path, tokenizer=str(tiny_folder), keep=2))
        for version in range(1, 5):
            sync.publish(version)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["v000003", "v000004"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["disk", "tensor", "group"])
def test_a_dead_server_is_left_out_and_the_others_get_the_weights(
    kind: str, mortal, tokenizer: Tokenizer, tiny_folder: Path, tmp_path: Path
) -> None:
    model = load_model(str(tiny_folder))
    with an_agent(mortal, tokenizer) as agent:
        sync = ServerWeights(agent, model, transports(tmp_path, tiny_folder)[kind], probe=PROBE, tolerance=1e-4)
        sync.publish(1)
        mortal[0].kill()
        changed(model, 2)
        sync.publish(2)
        assert [server.url for server in agent.servers_in_use] == [mortal[1].url]
        generation = sample(agent, 3)
        assert set(generation.policy_version.tolist()) == {2}
        sync.close()


@pytest.mark.slow
def test_a_restarted_server_loads_the_current_weights_before_it_is_used(
    mortal, tokenizer: Tokenizer, tiny_folder: Path, tmp_path: Path
) -> None:
    model = load_model(str(tiny_folder))
    with an_agent(mortal, tokenizer) as agent:
        sync = ServerWeights(agent, model, DiskTransport(tmp_path, tokenizer=str(tiny_folder)))
        changed(model, 1)
        sync.publish(1)
        mortal[0].kill()
        mortal[1].kill()
        with fake_sglang(tiny_folder, "--port", str(mortal[0].port)):
            generation = sample(agent, 0)
        assert set(generation.policy_version.tolist()) == {1}
        oracle = scores(model, PROBE.tolist(), generation.token_ids.tolist())
        assert np.abs(generation.logprobs - oracle).max() <= 1e-4


@pytest.mark.slow
def test_no_server_at_all_stops_the_run(mortal, tokenizer: Tokenizer, tiny_folder: Path, tmp_path: Path) -> None:
    model = load_model(str(tiny_folder))
    with an_agent(mortal, tokenizer) as agent:
        sync = ServerWeights(agent, model, DiskTransport(tmp_path, tokenizer=str(tiny_folder)))
        for server in mortal:
            server.kill()
        with pytest.raises(InfrastructureError, match=r"no server has weights 1.*resume=true"):
            sync.publish(1)


def test_servers_go_on_after_a_failure(servers, tokenizer: Tokenizer, tiny_folder: Path) -> None:
    """Weights that cannot be written: nobody stays paused, and the old weights stay in use."""
    model = load_model(str(tiny_folder))

    class Full(DiskTransport):
        def send(self, *arguments):
            raise OSError("no space left on device")

    with an_agent(servers, tokenizer) as agent:
        before = set(sample(agent, 0).policy_version.tolist())
        sync = ServerWeights(agent, model, Full(Path("/nowhere"), tokenizer=str(tiny_folder)))
        with pytest.raises(OSError, match="no space"):
            sync.publish(1)
        assert set(sample(agent, 0).policy_version.tolist()) == before


def test_a_server_that_computes_something_else_stops_the_run(
    servers, tokenizer: Tokenizer, tiny_folder: Path, tmp_path: Path
) -> None:
    """The name is right and all servers agree, but the trainer's model is another one: only the probe can see it."""
    model, other = load_model(str(tiny_folder)), load_model(str(tiny_folder))
    changed(other, 1)
    with an_agent(servers, tokenizer) as agent:
        sync = ServerWeights(agent, model, DiskTransport(tmp_path, tokenizer=str(tiny_folder)), probe=PROBE)
        sync._transport.send = lambda _, name, urls: DiskTransport.send(sync._transport, other, name, urls)
        with pytest.raises(InfrastructureError, match=r"computes something else.*sync.tolerance"):
            sync.publish(1)


@pytest.fixture
def world() -> Iterator[World]:
    world = World.join()
    yield world
    world.leave()


@pytest.mark.parametrize("kind", ["disk", "tensor", "group"])
def test_offloaded_weights_are_published(
    kind: str, servers, tokenizer: Tokenizer, tiny_folder: Path, tmp_path: Path, world: World
) -> None:
    model = prepare(load_model(str(tiny_folder)), PolicyOptions(parallel=ParallelConfig(offload=True)), world)
    with an_agent(servers, tokenizer) as agent:
        sync = ServerWeights(agent, model, transports(tmp_path, tiny_folder)[kind], probe=PROBE, tolerance=1e-4)
        changed(model, 1)
        sync.publish(1)
        assert sync.gap <= 1e-4 and len(agent.servers_in_use) == 2
        sync.close()


@pytest.mark.parametrize(
    ("backend", "held", "expected"),
    [("nccl", "cpu", "cuda"), ("nccl", "cuda:1", "cuda:1"), ("gloo", "cpu", "cpu"), ("gloo", "cuda:1", "cuda:1")],
)
def test_tensors_move_only_where_the_backend_cannot_read(backend: str, held: str, expected: str) -> None:
    assert device_for(backend, torch.device(held)) == torch.device(expected)


def test_an_offloaded_tensor_is_where_the_backend_reads_when_it_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that reads a device which every machine has stands for NCCL."""
    sent: list[torch.Tensor] = []
    monkeypatch.setattr(dist, "broadcast", lambda tensor, **_: sent.append(tensor))
    monkeypatch.setitem(dist.Backend.backend_capability, "elsewhere", ["meta"])
    weight = torch.empty(3, 2).T
    assert BroadcastTransport(backend="elsewhere")._send_piece([("weight", weight)], "1", []) == {}
    assert [(t.device.type, t.shape, t.is_contiguous()) for t in sent] == [("meta", (2, 3), True)]


def test_the_probe_goes_where_an_offloaded_model_computes() -> None:
    """Shards in the memory of the CPU, of a mesh of a device without any, which every machine has."""
    spec = DTensorSpec(
        DeviceMesh("meta", [0], _init_backend=False, _rank=0),
        (Replicate(),),
        tensor_meta=TensorMeta(torch.Size([2]), (1,), torch.float32),
    )
    model = torch.nn.Module()
    model.weight = torch.nn.Parameter(DTensor(torch.zeros(2), spec, requires_grad=False), requires_grad=False)
    assert model.weight.to_local().device.type == "cpu"
    row = _row(model, PROBE, [1, 2])
    assert (row.device.type, row.shape) == ("meta", (1, len(PROBE) + 2))
