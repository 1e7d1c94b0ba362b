"""Who samples for the trainer, and how it gets the weights: from the sections ``agent`` and ``sync``.

========  =============================================  ==================================================
agent     sync                                           what travels
========  =============================================  ==================================================
embedded  shared                                         nothing: the engine reads the trainer's tensors
sglang    disk (the default), tensor, group              see :mod:`algos.sync.transports`
========  =============================================  ==================================================

An agent whose weights nobody can change (a chat endpoint, an oracle) cannot be trained and is refused here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from transformers import PreTrainedModel

from agents.base import Engine
from agents.embedded import EmbeddedAgent
from agents.registry import AgentSetup, make_agent
from agents.sglang import SGLangAgent
from algos.config import TrainConfig
from algos.rollouts import Rollouts
from algos.sync.base import EveryWeights, SharedWeights, WeightSync
from algos.sync.servers import ServerWeights
from algos.sync.transports import BroadcastTransport, DiskTransport, TensorTransport, Transport
from retool_env.config import EnvConfig
from retool_env.errors import UsageError
from retool_env.sources import open_source
from retool_env.tokenizer import load_tokenizer

__all__ = ["Player", "make_player", "with_workers"]

PROBE: Final = "What is 12 * 34? Think first, then give the answer."


@dataclass(frozen=True, kw_only=True)
class Player:
    """Who plays episodes.

    Attributes:
        engine: samples.
        env: the environment, with the model's tokenizer.
        sync: brings it new weights.
    """

    engine: Engine
    env: EnvConfig
    sync: WeightSync

    def close(self) -> None:
        """End the engine; servers go on running."""
        self.engine.close()


def make_player(config: TrainConfig, env: EnvConfig, model: PreTrainedModel, *, version: int) -> Player:
    """The player that ``config.agent`` and ``config.sync`` ask for, with ``model``'s weights under ``version``.

    Raises:
        UsageError: an agent that has no weights to change, or a way of sending them that it does not have.
        InfrastructureError: the servers did not take the weights.
    """
    kind = config.sync.kind or ("shared" if config.agent.name == "embedded" else "disk")
    if config.agent.name == "embedded":
        if kind != "shared" or config.agent.path:
            raise UsageError("agent=embedded trains with the trainer's own tensors: leave out sync.kind and agent.path")
        engine = EmbeddedAgent(model, load_tokenizer(env.tokenizer))
        engine.set_version(version)
        return Player(engine=engine, env=env, sync=SharedWeights(engine))
    setup = AgentSetup(config=config.agent, env=env, source=open_source(**config.problems.model_dump()))
    agent = make_agent(setup)
    if not isinstance(agent, SGLangAgent):
        raise UsageError(
            f"agent={config.agent.name!r} has no weights that a trainer can change; train with "
            "agent=embedded or agent=sglang"
        )
    if kind == "shared":
        raise UsageError("sync.kind=shared needs agent=embedded; servers take disk, tensor or group")
    sync = _server_weights(config, agent, model, _transport(kind, config))
    sync.publish(version)
    return Player(engine=agent, env=env, sync=sync)


def with_workers(player: Player, rollouts: Rollouts, model: PreTrainedModel, *, version: int) -> Player:
    """The player whose weights also reach the engines that Ray workers hold themselves."""
    from algos.ray_rollouts import RayRollouts, RayWeights

    if not isinstance(rollouts, RayRollouts) or not isinstance(player.engine, EmbeddedAgent):
        return player
    workers = RayWeights(rollouts, model)
    workers.publish(version)
    return Player(engine=player.engine, env=player.env, sync=EveryWeights((player.sync, workers)))


def _server_weights(
    config: TrainConfig, agent: SGLangAgent, model: PreTrainedModel, transport: Transport
) -> ServerWeights:
    probe = np.array(agent.tokenizer.encode(PROBE), dtype=np.int64) if config.sync.probe else None
    return ServerWeights(agent, model, transport, probe=probe, tolerance=config.sync.tolerance)


def _transport(kind: str, config: TrainConfig) -> Transport:
    sync = config.sync
    dtype: torch.dtype | None = getattr(torch, sync.dtype) if sync.dtype else None
    if kind == "tensor":
        return TensorTransport(dtype=dtype)
    if kind == "group":
        return BroadcastTransport(backend=sync.backend, dtype=dtype, address=sync.address)
    assert config.model.path is not None, "the trainer has checked it"
    root = Path(sync.folder or Path(config.out) / "weights")
    return DiskTransport(root, tokenizer=config.model.path, dtype=dtype, keep=sync.keep)
