"""Weights through ``ServerWeights`` to one SGLang server: the fake, and a real one (see ``contestants``).

What several servers make of it is in ``tests/algos/sync``. Log-probabilities are compared with transformers in float64.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from agents.base import Generation, Request, Sampling
from agents.loading import load_model
from agents.sglang import SGLangAgent, SGLangServer
from agents.sglang.wire import GenerateReply, GenerateRequest, PauseMode
from algos.config import TinyModelConfig
from algos.sync.servers import ServerWeights
from algos.sync.session import Failures, on_all
from algos.sync.transports import BroadcastTransport, DiskTransport, TensorTransport, Transport
from algos.tiny import make_tiny
from retool_env.errors import InfrastructureError
from retool_env.tokenizer import Tokenizer, load_tokenizer
from tests.agents.contestants import Contestant, Maker, sglang_fake, sglang_real
from tests.agents.fake_server import fake_sglang
from tests.agents.serve_tools import eventually

PROMPT = np.arange(5, 25)
TOLERANCE = 1e-4
LONG = 400


@pytest.fixture(
    params=[
        pytest.param(sglang_fake, id="fake"),
        pytest.param(sglang_real, id="real", marks=pytest.mark.sglang),
    ]
)
def contestant(request: pytest.FixtureRequest, opened: dict[Maker, Contestant]) -> Contestant:
    return opened[request.param]


@pytest.fixture(scope="module")
def tokenizer(tiny_folder: Path) -> Tokenizer:
    return load_tokenizer(str(tiny_folder))


@contextmanager
def an_agent(contestant: Contestant, tokenizer: Tokenizer, pause_mode: PauseMode = "retract") -> Iterator[SGLangAgent]:
    """What its weights are when it begins is not known: every test publishes first."""
    agent = contestant.make(tokenizer)
    assert isinstance(agent, SGLangAgent)
    urls = [server.url for server in agent.servers]
    agent.close()
    agent = SGLangAgent(urls, tokenizer, patience=60.0, pause_mode=pause_mode)
    try:
        yield agent
    finally:
        agent.close()


def transport(kind: str, folder: Path, tiny_folder: Path) -> Transport:
    """Small pieces, so that there are several."""
    if kind == "disk":
        return DiskTransport(folder, tokenizer=str(tiny_folder))
    return TensorTransport(bucket_bytes=50_000) if kind == "tensor" else BroadcastTransport(backend="gloo")


def changed(model: nn.Module, seed: int) -> None:
    """Another policy: every parameter moves."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))


def scores(model: nn.Module, context: Sequence[int], ids: Sequence[int]) -> np.ndarray:
    """Oracle: log-probabilities of ``ids`` behind ``context``, by one plain forward, ``[num_ids]``."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*context, *ids]])).logits[0, len(context) - 1 : -1]
    return logits.double().log_softmax(-1)[torch.arange(len(ids)), list(ids)].numpy()


def gap(model: nn.Module, got: GenerateReply) -> float:
    return float(np.abs(np.array(got.logprobs) - scores(model, PROMPT.tolist(), got.output_ids)).max())


def sample(server: SGLangServer, num_tokens: int = 40) -> GenerateReply:
    order = GenerateRequest(
        rid=uuid.uuid4().hex, input_ids=PROMPT.tolist(), max_new_tokens=num_tokens, sampling=Sampling()
    )
    return server.generate(order)


def copy_of(model: nn.Module, tiny_folder: Path) -> nn.Module:
    other = load_model(str(tiny_folder))
    other.load_state_dict(model.state_dict())
    return other


@pytest.mark.parametrize("kind", ["disk", "tensor", "group"])
def test_the_server_samples_from_what_was_published(
    kind: str, contestant: Contestant, tokenizer: Tokenizer, tiny_folder: Path, tmp_path: Path
) -> None:
    model = load_model(str(tiny_folder))
    with an_agent(contestant, tokenizer) as agent:
        (server,) = agent.servers
        sync = ServerWeights(
            agent, model, transport(kind, tmp_path, tiny_folder), probe=PROMPT[::-1].copy(), tolerance=TOLERANCE
        )
        sync.publish(0)
        gaps = []
        for version in (1, 2):
            sample(server)  # what it computes for the prompt now must not be used again
            before, sums = copy_of(model, tiny_folder), server.checksums()
            changed(model, version)
            sync.publish(version)
            reply = sample(server)
            assert reply.meta_info.cached_tokens == 0
            assert gap(before, reply) > 100 * TOLERANCE
            gaps += [gap(model, reply), sync.gap]
            assert server.model_info().weight_version == str(version)
            assert server.checksums() != sums
            turn = agent.act(Request(token_ids=PROMPT, budget=20))
            assert set(turn.policy_version.tolist()) == {version}
        print(f"{contestant.name}, {kind}: max |log-prob difference| {max(gaps):.1e}")
        assert max(gaps) <= TOLERANCE
        sync.close()


@pytest.mark.parametrize("kind", ["disk", "tensor", "group"])
@pytest.mark.parametrize("pause_mode", ["retract", "abort"])
def test_turns_in_flight_span_an_update(
    kind: str,
    pause_mode: PauseMode,
    contestant: Contestant,
    tokenizer: Tokenizer,
    tiny_folder: Path,
    tmp_path: Path,
) -> None:
    """Every id has the version, and the log-probability, of the weights that it was sampled from."""
    model = load_model(str(tiny_folder))
    with an_agent(contestant, tokenizer, pause_mode) as agent, ThreadPoolExecutor(4) as pool:
        (server,) = agent.servers
        sync = ServerWeights(agent, model, transport(kind, tmp_path, tiny_folder), probe=PROMPT, tolerance=TOLERANCE)
        sync.publish(1)
        old = copy_of(model, tiny_folder)
        changed(model, 7)
        orders = [Request(token_ids=PROMPT, budget=LONG, session=k, seed=k) for k in range(4)]
        running = [pool.submit(agent.act, order) for order in orders]
        eventually(lambda: server.loads()[0].num_running_reqs >= 3)
        time.sleep(0.1)
        sync.publish(2)
        turns = [future.result(300) for future in running]
        sync.close()
    gaps = [spanning_gap(turn, old, model) for turn in turns]
    print(f"{contestant.name}, {kind}, {pause_mode}: {sum(g is not None for g in gaps)} of 4 turns span the update")
    assert any(g is not None for g in gaps)
    assert max(g for g in gaps if g is not None) <= TOLERANCE


def spanning_gap(turn: Generation, old: nn.Module, new: nn.Module) -> float | None:
    """Largest difference of a log-probability to the model of its version; ``None`` for a turn of one version."""
    versions, ids = turn.policy_version.tolist(), turn.token_ids.tolist()
    assert turn.finish_reason in ("stop", "length")
    assert versions == sorted(versions) and set(versions) <= {1, 2}
    if len(set(versions)) == 1:
        return None
    cut = versions.index(2)
    context = PROMPT.tolist()
    expected = np.concatenate([scores(old, context, ids[:cut]), scores(new, context + ids[:cut], ids[cut:])])
    return float(np.abs(turn.logprobs - expected).max())


class Mistaken:
    """A transport that sends other weights, or another name, and says that all went well.

    Args:
        servers: of which it does so; ``None`` for all.
    """

    def __init__(
        self,
        inner: Transport,
        *,
        model: nn.Module | None = None,
        name: str | None = None,
        servers: Sequence[SGLangServer] | None = None,
    ) -> None:
        self._inner, self._model, self._name, self._servers = inner, model, name, servers

    def send(self, model: nn.Module, name: str, servers: Sequence[SGLangServer]) -> Failures:
        wrong = [server for server in servers if self._servers is None or server in self._servers]
        failures = self._inner.send(self._model or model, self._name or name, wrong)
        right = [server for server in servers if server not in wrong]
        return failures | (self._inner.send(model, name, right) if right else {})

    def restore(self, server: SGLangServer, name: str) -> None:
        self._inner.restore(server, name)

    def close(self) -> None:
        self._inner.close()


class Elsewhere(Mistaken):
    """A folder that only the trainer sees."""

    def send(self, model: nn.Module, name: str, servers: Sequence[SGLangServer]) -> Failures:
        return on_all(servers, lambda server: server.update_from_disk("/no/such/folder", version=name))[1]


def test_weights_that_did_not_arrive_are_noticed_and_the_next_ones_are_taken(
    contestant: Contestant, tokenizer: Tokenizer, tiny_folder: Path, tmp_path: Path
) -> None:
    model = load_model(str(tiny_folder))
    disk = transport("disk", tmp_path, tiny_folder)
    with an_agent(contestant, tokenizer) as agent:
        (server,) = agent.servers
        sync = ServerWeights(agent, model, disk, probe=PROMPT, tolerance=TOLERANCE)
        sync.publish(1)
        old = copy_of(model, tiny_folder)
        changed(model, 3)
        with pytest.raises(InfrastructureError, match=r"no server has weights 2.*resume=true"):
            ServerWeights(agent, model, Elsewhere(disk)).publish(2)
        assert agent.servers_in_use == [] and server.ready(), "out of use, and not left in a pause"
        assert server.model_info().weight_version == "1" and gap(old, sample(server)) <= TOLERANCE
        sync.publish(3)
        assert set(agent.act(Request(token_ids=PROMPT, budget=20)).policy_version.tolist()) == {3}
        assert gap(model, sample(server)) <= TOLERANCE


def test_other_weights_than_the_trainers_are_noticed(
    contestant: Contestant, tokenizer: Tokenizer, tiny_folder: Path, tmp_path: Path
) -> None:
    """Under the right name, so that only the probe can see it; and the right ones under another name."""
    model, other = load_model(str(tiny_folder)), load_model(str(tiny_folder))
    changed(other, 1)
    disk = transport("disk", tmp_path, tiny_folder)
    with an_agent(contestant, tokenizer) as agent:
        sync = ServerWeights(agent, model, Mistaken(disk, model=other), probe=PROMPT, tolerance=TOLERANCE)
        with pytest.raises(InfrastructureError, match=r"computes something else.*sync.tolerance"):
            sync.publish(1)
        sync = ServerWeights(agent, model, Mistaken(disk, name="7"), probe=PROMPT, tolerance=TOLERANCE)
        with pytest.raises(InfrastructureError, match=r"no server has weights 2.*calls its weights '7', not '2'"):
            sync.publish(2)


@pytest.mark.parametrize("kind", ["disk", "tensor"])
@pytest.mark.parametrize("shape", [{"intermediate_size": 160}, {"num_layers": 3}], ids=["wide", "deep"])
@pytest.mark.parametrize("contestant", [pytest.param(sglang_real, id="real", marks=pytest.mark.sglang)], indirect=True)
def test_a_real_server_takes_weights_of_another_shape_and_the_probe_tells(
    kind: str, shape: dict[str, int], contestant: Contestant, tokenizer: Tokenizer, tiny_folder: Path, tmp_path: Path
) -> None:
    """A wider layer is cut and a layer too many left out, without a word; nothing but the probe can see it."""
    small = {"hidden_size": 64, "intermediate_size": 128, "num_layers": 2}
    make_tiny(tmp_path / "other", TinyModelConfig(**{**small, **shape}), seed=1)
    model, other = load_model(str(tiny_folder)), load_model(str(tmp_path / "other"))
    with an_agent(contestant, tokenizer) as agent:
        way = transport(kind, tmp_path / "weights", tiny_folder)
        with pytest.raises(InfrastructureError, match="computes something else"):
            ServerWeights(agent, other, way, probe=PROMPT, tolerance=TOLERANCE).publish(1)
        ServerWeights(agent, model, way, probe=PROMPT, tolerance=TOLERANCE).publish(2)


@pytest.mark.parametrize("kind", ["tensor", "group"])
def test_what_a_dead_trainer_left_open_is_closed(
    kind: str, contestant: Contestant, tokenizer: Tokenizer, tiny_folder: Path, tmp_path: Path
) -> None:
    model = load_model(str(tiny_folder))
    with an_agent(contestant, tokenizer) as agent:
        agent.servers[0].begin_update()
        sync = ServerWeights(agent, model, transport(kind, tmp_path, tiny_folder), probe=PROMPT, tolerance=TOLERANCE)
        for version in (1, 2):
            sync.publish(version)
        assert len(agent.servers_in_use) == 1
        sync.close()


def test_a_server_with_other_weights_under_the_right_name_gets_the_right_ones(
    tokenizer: Tokenizer, tiny_folder: Path, tmp_path: Path
) -> None:
    """Checksums tell; only then is it used again."""
    model, other = load_model(str(tiny_folder)), load_model(str(tiny_folder))
    changed(other, 1)
    with ExitStack() as stack:
        urls = [stack.enter_context(fake_sglang(tiny_folder)).url for _ in range(3)]
        agent = SGLangAgent(urls, tokenizer, patience=60.0)
        stack.callback(agent.close)
        way = Mistaken(transport("disk", tmp_path, tiny_folder), model=other, servers=agent.servers[1:2])
        ServerWeights(agent, model, way, probe=PROMPT, tolerance=TOLERANCE).publish(1)
        assert [server.url for server in agent.servers_in_use] == [urls[0], urls[2]]
        turns = 0
        while len(agent.servers_in_use) < 3:
            turns += 1
            assert turns < 2000, "it never comes back"
            agent.act(Request(token_ids=PROMPT, budget=2, session=turns))
        assert all(gap(model, sample(server)) <= TOLERANCE for server in agent.servers)


def test_weights_of_which_only_a_part_arrived_have_no_name(
    tokenizer: Tokenizer, tiny_folder: Path, tmp_path: Path
) -> None:
    """A trainer whose model has a wider layer than the one that is served, which the fake does not take."""
    make_tiny(tmp_path / "wide", TinyModelConfig(hidden_size=64, intermediate_size=160, num_layers=2), seed=1)
    model, wide = load_model(str(tiny_folder)), load_model(str(tmp_path / "wide"))
    with fake_sglang(tiny_folder) as fake:
        agent = SGLangAgent([fake.url], tokenizer, patience=60.0)
        tensors = TensorTransport(bucket_bytes=50_000)
        with pytest.raises(InfrastructureError, match=r"no server has weights 1"):
            ServerWeights(agent, wide, tensors).publish(1)
        assert agent.servers[0].model_info().weight_version == "1-incomplete"
        ServerWeights(agent, model, tensors, probe=PROMPT, tolerance=TOLERANCE).publish(2)
        assert set(agent.act(Request(token_ids=PROMPT, budget=20)).policy_version.tolist()) == {2}
        agent.close()
