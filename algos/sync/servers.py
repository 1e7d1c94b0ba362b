"""Publishing weights to SGLang servers: pause, send, flush, look, go on.

Whatever happens, the servers go on behind it, and none of them does so with other weights than the rest without being
noticed: a server that did not take the weights is out of use until it has them, and when no server has them the run
stops. Looking means three things, from cheap to sure: the name that a server gives its weights; checksums, which must
be equal on all servers that split the model alike; and a probe, a few tokens whose log-probabilities must be those of
the trainer's model.

A server that was restarted in the meantime comes back with the weights it was started with. With ``disk`` it loads the
current version before it is used again; with the others it waits for the next version.
"""

from __future__ import annotations

import contextlib
import logging
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import nn

from agents.base import Sampling
from agents.sglang.agent import SGLangAgent
from agents.sglang.server import RefusedError, SGLangServer
from agents.sglang.wire import GenerateRequest
from algos.policy.sharding import compute_device
from algos.sync.session import Failures, on_all
from algos.sync.transports import Transport
from retool_env.errors import EngineError, InfrastructureError

__all__ = ["ServerWeights"]

PROBE_TOKENS = 8
T = TypeVar("T")
_log = logging.getLogger(__name__)


class ServerWeights:
    """Weights for the servers of ``agent``, which is ``None`` on all ranks but the first.

    Args:
        model: what is trained.
        transport: how the weights travel.
        probe: prompt ids for the probe, ``[num_tokens]``; ``None`` for no probe.
        tolerance: of log-probabilities of the probe; servers compute in another order and often in bfloat16.
    """

    def __init__(
        self,
        agent: SGLangAgent | None,
        model: nn.Module,
        transport: Transport,
        *,
        probe: NDArray[np.int64] | None = None,
        tolerance: float = 0.1,
    ) -> None:
        self._agent, self._model, self._transport = agent, model, transport
        self._probe, self._tolerance = probe, tolerance
        self.gap = 0.0
        """Largest difference of a log-probability between servers and trainer in the last probe."""
        if agent is not None:
            agent.restore = lambda server: transport.restore(server, str(agent.policy_version))

    def guard(self) -> AbstractContextManager[None]:
        """The servers have tensors of their own; nothing is held up."""
        return nullcontext()

    def publish(self, version: int) -> None:
        """See :class:`~algos.sync.base.WeightSync`.

        Raises:
            InfrastructureError: no server has the new weights, or they compute something else with them.
        """
        with self._agent.paused() if self._agent else nullcontext():
            self._bring(str(version))
            if self._agent:
                self._agent.adopt(version)
        if self._probe is not None:
            self._compare(self._probe)

    def close(self) -> None:
        self._transport.close()

    def _bring(self, name: str) -> None:
        """Send, and send again to servers that are there but did not take it; every rank takes part."""
        servers = self._agent.servers if self._agent else []
        failures = self._transport.send(self._model, name, servers)
        again = [server for server in failures if server.alive()]
        if _agreed(bool(again)):
            lost = {server: error for server, error in failures.items() if server not in again}
            failures = lost | self._transport.send(self._model, name, again)
        if self._agent:
            self._check(self._agent, name, failures)

    def _check(self, agent: SGLangAgent, name: str, failures: Failures) -> None:
        servers = agent.servers
        failures |= _odd_ones([server for server in servers if server not in failures], name)
        for server, error in failures.items():
            _log.error("%s has not got weights %s: %s", server.url, name, error)
            _disown(server, name)
            agent.exclude(server, error)
        if len(failures) == len(servers):
            causes = "; ".join(str(error) for error in failures.values())
            raise InfrastructureError(
                f"no server has weights {name}: {causes}; restart them and go on with resume=true"
            )

    def _compare(self, prompt: NDArray[np.int64]) -> None:
        """Let every server sample a few tokens greedily and score them with the trainer's model."""
        replies: dict[str, tuple[list[int], list[float]]] = {}
        if self._agent:
            order = [int(token) for token in prompt]
            in_use, _ = on_all(self._agent.servers_in_use, lambda server: server.generate(_greedy(order)))
            replies = {s.url: (reply.output_ids, reply.logprobs) for s, reply in in_use.items()}
        self.gap = 0.0
        for url, (ids, logprobs) in _from_first(replies).items():
            gap = float(np.abs(_score(self._model, prompt, ids) - np.array(logprobs)).max())
            self.gap = max(self.gap, gap)
            if not gap <= self._tolerance:
                raise InfrastructureError(
                    f"{url} computes something else than the trainer: log-probabilities differ by {gap:.3g}, more than "
                    f"sync.tolerance={self._tolerance:g}; look at its model, its dtype and the tokenizer"
                )


def _odd_ones(servers: Sequence[SGLangServer], name: str) -> Failures:
    """Servers that call their weights otherwise, or whose checksums are not those of most servers like them."""
    infos, failures = on_all(servers, SGLangServer.model_info)
    for server, info in infos.items():
        if info.weight_version != name:
            failures[server] = EngineError(f"{server.url} calls its weights {info.weight_version!r}, not {name!r}")
    sums, lost = on_all([server for server in servers if server not in failures], _checksums)
    by_layout: dict[int, Counter[str]] = {}
    for found in sums.values():
        by_layout.setdefault(len(found), Counter())[repr(found)] += 1
    for server, found in sums.items():
        usual = by_layout[len(found)].most_common(1)[0][0]
        if found and repr(found) != usual:
            failures[server] = EngineError(f"{server.url} has other weights than most servers (checksums differ)")
    return failures | lost


def _disown(server: SGLangServer, name: str) -> None:
    """Take the name off what is not these weights: by it a server is found fit for use again."""
    with contextlib.suppress(EngineError):  # one that does not answer has failed before it could get the name
        if server.model_info().weight_version == name:
            server.set_weight_version(f"not-{name}")


def _checksums(server: SGLangServer) -> tuple[Mapping[str, str], ...]:
    """Of every rank; empty on servers that have no such endpoint."""
    try:
        return server.checksums()
    except RefusedError as error:
        if error.status in (400, 404, 405):
            return ()
        raise


def _greedy(prompt: list[int]) -> GenerateRequest:
    return GenerateRequest(
        rid=uuid.uuid4().hex,
        input_ids=prompt,
        max_new_tokens=PROBE_TOKENS,
        sampling=Sampling(temperature=0.0),
    )


def _score(model: nn.Module, prompt: NDArray[np.int64], ids: Sequence[int]) -> NDArray[np.float64]:
    """Log-probabilities of ``ids`` behind ``prompt``, ``[num_ids]``; every rank of a sharded model takes part."""
    row = _row(model, prompt, ids)
    training = model.training
    model.eval()
    with torch.no_grad():
        logits = model(input_ids=row, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
    model.train(training)
    chosen = logits.log_softmax(-1).gather(-1, row[0, len(prompt) :, None])[:, 0]
    scores: NDArray[np.float64] = chosen.double().cpu().numpy()
    return scores


def _row(model: nn.Module, prompt: NDArray[np.int64], ids: Sequence[int]) -> torch.Tensor:
    """``[1, num_ids]``, where the model computes: offloaded weights are elsewhere. That was not tried on a GPU."""
    return torch.tensor([[*prompt.tolist(), *ids]], device=compute_device(model))


def _agreed(mine: bool) -> bool:
    """What the first rank says."""
    return bool(_from_first(mine))


def _from_first(value: T) -> T:
    """The first rank's value, on every rank."""
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]
