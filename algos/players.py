"""Who samples for the trainer, and how it gets the weights: from the sections ``agent`` and ``sync``.

========  =============================================  ==================================================
agent     sync                                           what travels
========  =============================================  ==================================================
embedded  shared                                         nothing: the engine reads the trainer's tensors, or, when
                                                         these are sharded, cast or have adapters, a copy on the
                                                         first rank
sglang    disk (the default), tensor, group              see :mod:`algos.sync.transports`
========  =============================================  ==================================================

An agent whose weights nobody can change (a chat endpoint, an oracle) cannot be trained and is refused here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import numpy as np
import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel

from agents.base import Engine
from agents.embedded import EmbeddedAgent
from agents.loading import load_model
from agents.registry import AgentSetup, make_agent
from agents.sglang import SGLangAgent
from algos.config import TrainConfig
from algos.policy.config import PolicyOptions
from algos.policy.world import World
from algos.rollouts import Rollouts
from algos.sync.base import CopiedWeights, EveryWeights, SharedWeights, WeightSync
from algos.sync.servers import ServerWeights
from algos.sync.transports import BroadcastTransport, DiskTransport, TensorTransport, Transport
from retool_env.config import EnvConfig
from retool_env.errors import UsageError
from retool_env.sources import open_source
from retool_env.tokenizer import load_tokenizer

__all__ = ["Player", "embedded_player", "make_player", "with_workers"]

PROBE: Final = "What is 12 * 34? Think first, then give the answer."


@dataclass(frozen=True, kw_only=True)
class Player:
    """Who plays episodes, as one rank sees it.

    Attributes:
        engine: samples; ``None`` on all ranks but the first.
        env: the environment, with the model's tokenizer.
        sync: brings the engine new weights; every rank takes part.
    """

    engine: Engine | None
    env: EnvConfig
    sync: WeightSync

    def close(self) -> None:
        """End the engine; servers go on running."""
        if self.engine is not None:
            self.engine.close()


def make_player(config: TrainConfig, env: EnvConfig, model: nn.Module, world: World, *, version: int) -> Player:
    """The player that ``config.agent`` and ``config.sync`` ask for, with ``model``'s weights under ``version``.

    Every rank must call this.

    Raises:
        UsageError: an agent that has no weights to change, or a way of sending them that it does not have.
        InfrastructureError: the servers did not take the weights.
    """
    kind = config.sync.kind or ("shared" if config.agent.name == "embedded" else "disk")
    if config.agent.name == "embedded":
        if kind != "shared" or config.agent.path:
            raise UsageError("agent=embedded trains with the trainer's own weights: leave out sync.kind, agent.path")
        assert config.model.path is not None, "train() sees to it"
        return embedded_player(config.model, config.model.path, env, model, world, version=version)
    if config.agent.name != "sglang":
        raise UsageError(
            f"agent={config.agent.name!r} has no weights that a trainer can change; train with "
            "agent=embedded or agent=sglang"
        )
    if kind == "shared":
        raise UsageError("sync.kind=shared needs agent=embedded; servers take disk, tensor or group")
    engine, sync = _servers(config, env, model, world, _transport(kind, config))
    sync.publish(version)
    return Player(engine=engine, env=env, sync=sync)


def with_workers(player: Player, rollouts: Rollouts | None, model: nn.Module, *, version: int) -> Player:
    """The player whose weights also reach the engines that Ray workers hold themselves."""
    from algos.ray_rollouts import RayRollouts, RayWeights

    if not isinstance(rollouts, RayRollouts) or not isinstance(player.engine, EmbeddedAgent):
        return player
    workers = RayWeights(rollouts, model)
    workers.publish(version)
    return Player(engine=player.engine, env=player.env, sync=EveryWeights((player.sync, workers)))


def embedded_player(
    options: PolicyOptions, path: str, env: EnvConfig, model: nn.Module, world: World, *, version: int
) -> Player:
    """A player with an engine in this process, with ``model``'s weights under ``version``.

    Args:
        options: those of the model.
        path: checkpoint folder that the model was made from.
    """
    engine, sync = _embedded(options, path, env, model, world)
    sync.publish(version)
    return Player(engine=engine, env=env, sync=sync)


def _embedded(
    options: PolicyOptions, path: str, env: EnvConfig, model: nn.Module, world: World
) -> tuple[EmbeddedAgent | None, WeightSync]:
    """An engine on the trainer's own tensors where these are whole and of the type that generates, else on a copy."""
    if isinstance(model, PreTrainedModel) and not isinstance(model, FSDPModule):
        engine = EmbeddedAgent(model, load_tokenizer(env.tokenizer))
        return engine, SharedWeights(engine)
    if not world.is_main:
        return None, CopiedWeights(None, model)
    copy = cast(nn.Module, load_model(path)).to(world.device, getattr(torch, options.compute_dtype))
    engine = EmbeddedAgent(cast(PreTrainedModel, copy.requires_grad_(False)), load_tokenizer(env.tokenizer))
    return engine, CopiedWeights(engine, model)


def _servers(
    config: TrainConfig, env: EnvConfig, model: nn.Module, world: World, transport: Transport
) -> tuple[SGLangAgent | None, WeightSync]:
    tokenizer = load_tokenizer(env.tokenizer)
    probe = np.array(tokenizer.encode(PROBE), dtype=np.int64) if config.sync.probe else None
    agent = None
    if world.is_main:
        setup = AgentSetup(config=config.agent, env=env, source=open_source(**config.problems.model_dump()))
        made = make_agent(setup)
        assert isinstance(made, SGLangAgent)
        agent = made
    return agent, ServerWeights(agent, model, transport, probe=probe, tolerance=config.sync.tolerance)


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
