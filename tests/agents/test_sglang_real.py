"""The real SGLang server, on this machine's processor: what the client and weight synchronisation rely on.

Log-probabilities are compared with transformers in float64 on the same checkpoint. Every test that needs certain
weights loads them first, so the order of the tests does not matter.
"""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

from agents.base import Sampling
from agents.serve import ServerProcess
from agents.sglang import RefusedError, SGLangServer
from agents.sglang.wire import GenerateReply, GenerateRequest, PauseMode
from tests.agents.real_sglang import shared_sglang
from tests.agents.serve_tools import eventually

pytestmark = pytest.mark.sglang

PROMPT = "What is 12 + 345?"
LONG = 400
TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model on disk and in memory."""

    folder: Path
    model: Qwen2ForCausalLM

    def logprobs(self, context: list[int], sampled: list[int], temperature: float = 1.0) -> np.ndarray:
        """Of ``sampled`` after ``context``, teacher-forced, in float64."""
        with torch.no_grad():
            logits = self.model(torch.tensor([context + sampled])).logits[0, len(context) - 1 : -1] / temperature
        return torch.log_softmax(logits, -1).gather(1, torch.tensor(sampled)[:, None])[:, 0].numpy()


def make_checkpoint(folder: Path, seed: int) -> Checkpoint:
    """Random weights, larger than usual: with small ones a greedy model repeats one token."""
    from algos.config import TinyModelConfig
    from algos.tiny import make_tiny

    make_tiny(folder, TinyModelConfig(hidden_size=64, intermediate_size=128, num_layers=2), seed=seed)
    model = Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "_proj.weight" in name:
                weight.mul_(12)
    model.save_pretrained(folder)
    return Checkpoint(folder=folder, model=model.double().eval())


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return make_checkpoint(tmp_path_factory.mktemp("first"), seed=1)


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return make_checkpoint(tmp_path_factory.mktemp("second"), seed=2)


@pytest.fixture(scope="module")
def prompt(first: Checkpoint) -> list[int]:
    ids: list[int] = PreTrainedTokenizerFast.from_pretrained(first.folder)(PROMPT).input_ids
    return ids


@pytest.fixture(scope="module")
def endless(first: Checkpoint) -> list[int]:
    """A prompt that the first checkpoint, when it is greedy, continues with :data:`LONG` ids and no end."""
    for start in range(300, 400):
        ids = list(range(start, start + 10))
        with torch.no_grad():
            generated = first.model.generate(torch.tensor([ids]), max_new_tokens=LONG, do_sample=False)
        if generated.shape[1] == len(ids) + LONG:
            return ids
    raise AssertionError("every prompt comes to an end")


@pytest.fixture(scope="module")
def process(tiny_folder: Path) -> ServerProcess:
    """Its model has the shape of both checkpoints."""
    return shared_sglang(tiny_folder)


@pytest.fixture
def server(process: ServerProcess, first: Checkpoint, request: pytest.FixtureRequest) -> Iterator[SGLangServer]:
    """The client of the server, which has the first checkpoint as version 0."""
    failed = request.session.testsfailed
    client = SGLangServer(process.url, seconds=120)
    client.flush_cache()
    client.update_from_disk(str(first.folder), version="0")
    yield client
    client.resume()
    client.close()
    if request.session.testsfailed > failed:
        print("\n".join(process.tail()))


def order(ids: list[int], budget: int, *, temperature: float = 1.0, stop: tuple[str, ...] = ()) -> GenerateRequest:
    sampling = Sampling(temperature=temperature)
    return GenerateRequest(rid=uuid.uuid4().hex, input_ids=ids, max_new_tokens=budget, sampling=sampling, stop=stop)


def gap(reply: GenerateReply, ids: list[int], checkpoint: Checkpoint, temperature: float = 1.0) -> float:
    """Largest difference of the server's log-probabilities to those of the checkpoint."""
    assert reply.output_ids
    expected = checkpoint.logprobs(ids, reply.output_ids, temperature)
    return float(np.abs(np.array(reply.logprobs) - expected).max())


def sampled_gap(server: SGLangServer, ids: list[int], checkpoint: Checkpoint) -> float:
    return gap(server.generate(order(ids, 50)), ids, checkpoint)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sampled_logprobs_are_those_of_transformers(
    temperature: float, server: SGLangServer, prompt: list[int], first: Checkpoint
) -> None:
    contexts = [[*prompt, *range(20, 20 + 7 * k)] for k in range(8)]
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda ids: server.generate(order(ids, 60, temperature=temperature)), contexts))
    gaps = [gap(reply, ids, first, temperature) for reply, ids in zip(replies, contexts, strict=True)]
    print(f"temperature {temperature}: max |log-prob difference| {max(gaps):.1e}")
    assert max(gaps) <= TOLERANCE


def test_greedy_ids_are_those_of_transformers(server: SGLangServer, prompt: list[int], first: Checkpoint) -> None:
    reply = server.generate(order(prompt, 100, temperature=0))
    context = torch.tensor([prompt])
    with torch.no_grad():
        generated = first.model.generate(context, max_new_tokens=100, do_sample=False)[0, len(prompt) :].tolist()
    assert reply.output_ids == generated
    assert len(set(generated)) > 20, "the test needs a model that does not repeat itself"
    difference = gap(reply, prompt, first)
    print(f"{len(generated)} greedy ids: the same; max |log-prob difference| {difference:.1e}")
    assert difference <= TOLERANCE


def test_a_second_turn_reuses_the_first(server: SGLangServer, prompt: list[int], first: Checkpoint) -> None:
    reply = server.generate(order(prompt, 40))
    longer = [*prompt, *reply.output_ids, *range(100, 110)]
    again = server.generate(order(longer, 40))
    assert again.meta_info.cached_tokens >= len(prompt) + len(reply.output_ids) - 1
    assert gap(again, longer, first) <= TOLERANCE


def test_a_stop_string_ends_the_turn_and_its_ids_stay(server: SGLangServer, prompt: list[int]) -> None:
    plain = server.generate(order(prompt, 60, temperature=0))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(server.model_info().model_path)
    position = next(k for k in range(10, 60) if tokenizer.decode(plain.output_ids[k : k + 1]).strip().isdigit())
    stop = tokenizer.decode(plain.output_ids[position - 3 : position + 1])
    reply = server.generate(order(prompt, 60, temperature=0, stop=(stop,)))
    assert reply.meta_info.finish_reason.type == "stop" and reply.meta_info.finish_reason.matched == stop
    assert reply.output_ids == plain.output_ids[: position + 1]
    assert stop not in reply.text


def test_update_from_disk(server: SGLangServer, prompt: list[int], first: Checkpoint, second: Checkpoint) -> None:
    assert sampled_gap(server, prompt, first) <= TOLERANCE
    before = server.checksums()
    reply = server.update_from_disk(str(second.folder), version="1")
    assert reply.success and reply.flushed
    after = server.generate(order(prompt, 50))
    assert after.meta_info.cached_tokens == 0
    assert after.version_names == ["1"] * len(after.output_ids)
    assert gap(after, prompt, second) <= TOLERANCE < gap(after, prompt, first)
    assert server.model_info().weight_version == "1"
    assert server.checksums() != before


def test_an_update_from_nowhere_leaves_the_weights(server: SGLangServer, prompt: list[int], first: Checkpoint) -> None:
    with pytest.raises(RefusedError):
        server.update_from_disk("/no/such/checkpoint", version="1")
    assert sampled_gap(server, prompt, first) <= TOLERANCE
    assert server.model_info().weight_version == "0"


def named(checkpoint: Checkpoint) -> list[tuple[str, torch.Tensor]]:
    return [(name, weight.detach().float()) for name, weight in checkpoint.model.named_parameters()]


def test_update_from_tensors(server: SGLangServer, prompt: list[int], second: Checkpoint) -> None:
    torch.multiprocessing.set_sharing_strategy("file_system")
    weights = named(second)
    handles = base64.b64encode(bytes(ForkingPickler.dumps(weights))).decode()
    with pytest.raises(RefusedError, match="begin_weight_update"):
        server.update_from_tensors([handles], version="1")
    assert server.begin_update()
    assert server.update_from_tensors([handles], version="1").success
    assert server.end_update()
    assert sampled_gap(server, prompt, second) <= TOLERANCE
    assert server.model_info().weight_version == "1"


def open_group(server: SGLangServer, group: str) -> dist.ProcessGroupGloo:
    """A group of this process (rank 0) and the server, keyed in the store as SGLang and torch key theirs."""
    store = dist.TCPStore("127.0.0.1", 0, 2, is_master=True, wait_for_workers=False)
    where = {"address": "127.0.0.1", "port": store.port}
    with ThreadPoolExecutor(1) as pool:
        joined = pool.submit(
            lambda: server.init_group(**where, rank_offset=1, world_size=2, group=group, backend="gloo")
        )
        keys = dist.PrefixStore("cpu/", dist.PrefixStore(f"{group}/", dist.PrefixStore(group, store)))
        mine = dist.ProcessGroupGloo(keys, 0, 2, timeout=dt.timedelta(seconds=60))
        assert joined.result().success
    return mine


def test_update_from_a_process_group(server: SGLangServer, prompt: list[int], second: Checkpoint) -> None:
    group = uuid.uuid4().hex
    mine = open_group(server, group)
    weights = named(second)
    names, tensors = [name for name, _ in weights], [weight for _, weight in weights]
    assert server.begin_update()
    with ThreadPoolExecutor(1) as pool:
        shapes = [tuple(tensor.shape) for tensor in tensors]
        received = pool.submit(
            lambda: server.update_from_group(names, ["float32"] * len(names), shapes, group=group, version="1")
        )
        for tensor in tensors:
            mine.broadcast(tensor, 0).wait()
        assert received.result().success
    assert server.end_update()
    assert sampled_gap(server, prompt, second) <= TOLERANCE
    assert server.model_info().weight_version == "1"
    assert server.destroy_group(group).success


def started(server: SGLangServer, endless: list[int]) -> tuple[Future[GenerateReply], str, ThreadPoolExecutor]:
    """A long request, under way."""
    request = order(endless, LONG, temperature=0)
    pool = ThreadPoolExecutor(2)
    future = pool.submit(server.generate, request)
    eventually(lambda: server.loads()[0].num_running_reqs > 0)
    return future, request.rid, pool


@contextlib.contextmanager
def paused(server: SGLangServer, mode: PauseMode) -> Iterator[None]:
    server.pause(mode)
    try:
        yield
    finally:
        server.resume()


def test_abort_gives_back_what_was_sampled(server: SGLangServer, endless: list[int], first: Checkpoint) -> None:
    future, rid, pool = started(server, endless)
    with pool:
        server.abort(rid)
        reply = future.result()
    assert reply.meta_info.finish_reason.type == "abort"
    assert 0 < len(reply.output_ids) < LONG
    assert gap(reply, endless, first) <= TOLERANCE


@pytest.mark.parametrize("mode", ["retract", "in_place"])
def test_a_paused_request_goes_on(mode: PauseMode, server: SGLangServer, endless: list[int], first: Checkpoint) -> None:
    future, _, pool = started(server, endless)
    with pool, paused(server, mode):
        late = pool.submit(server.generate, order(endless, 5))
        assert not server.ready()  # 503, which is an answer: it lives, and takes nothing new
        assert server.model_info().weight_version == "0"
        assert not future.done()
    assert gap(future.result(), endless, first) <= TOLERANCE
    assert late.result().output_ids


def test_a_request_spans_an_update(
    server: SGLangServer, endless: list[int], first: Checkpoint, second: Checkpoint
) -> None:
    future, _, pool = started(server, endless)
    with pool, paused(server, "retract"):
        assert server.update_from_disk(str(second.folder), version="1").flushed
    reply = future.result()
    names = reply.version_names
    cut = names.index("1")
    assert names == ["0"] * cut + ["1"] * (len(names) - cut) and 0 < cut < len(names)
    ids, logprobs = reply.output_ids, np.array(reply.logprobs)
    assert np.abs(logprobs[:cut] - first.logprobs(endless, ids[:cut])).max() <= TOLERANCE
    assert np.abs(logprobs[cut:] - second.logprobs([*endless, *ids[:cut]], ids[cut:])).max() <= TOLERANCE


def test_pause_by_abort_ends_every_request(server: SGLangServer, endless: list[int]) -> None:
    future, _, pool = started(server, endless)
    with pool, paused(server, "abort"):
        reply = future.result()
    assert reply.meta_info.finish_reason.type == "abort" and len(reply.output_ids) < LONG
