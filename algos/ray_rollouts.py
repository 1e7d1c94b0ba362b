"""Rollouts on several machines: Ray actors that play whole groups, under supervision.

The driver, in the trainer's process, gives out groups that the gate admits, to the worker that has the fewest; workers
have sandbox, environments and agent, and give back finished trajectories. A worker that dies, or a machine that goes
away, loses the episodes it was playing: they are counted, another worker is started in its place, and the groups are
played again from their tickets. So no ticket is lost and none is taken twice.

Workers are actors of ours rather than TorchRL's ``RayCollector``, which ends with ``ActorDiedError`` when one of its
collectors is killed (0.14.1: ``_async_iterator`` gets the failed result without a guard, and nothing restarts it).

Weights: agents that talk to servers need only the version. An embedded engine in a worker gets a copy through Ray's
object store (:class:`RayWeights`).

Not handled: a driver that dies (the run goes on from its checkpoint), and episodes that move between workers.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn

from agents.config import AgentConfig
from agents.gate import Gate
from agents.player import Plan
from algos.config import RayConfig
from algos.groups import GroupBuffer
from algos.ray_worker import RolloutWorker
from algos.rollouts import RolloutState
from algos.sync.export import named_weights
from retool_env.errors import InfrastructureError, MissingExtraError, UsageError
from retool_env.feeder import FeederState
from retool_env.trajectory import Trajectory

__all__ = ["RayRollouts", "RayWeights"]

MAX_DEATHS: Final = 5
"""Of each worker, without a finished group in between: then something is wrong that a new worker does not cure."""
WAIT_SECONDS: Final = 60.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Order:
    """A group that is being played, without the tickets in ``skip``."""

    group: int
    skip: tuple[int, ...]


@dataclass(eq=False)
class _Worker:
    """An actor and the groups that it plays, by the reference of the result."""

    actor: Any
    groups: dict[Any, _Order] = field(default_factory=dict)


class RayRollouts:
    """The driver. Implements :class:`~algos.rollouts.Replaying`.

    Args:
        plan: what is played.
        agent: who answers, made anew in every worker.
        config: how many workers, and where.
        gate: which tickets may begin.
        groups_per_step: complete groups that a step takes.
        threads: of torch in each worker.

    Raises:
        MissingExtraError: Ray is not installed.
    """

    def __init__(
        self,
        plan: Plan,
        agent: AgentConfig,
        config: RayConfig,
        *,
        gate: Gate,
        groups_per_step: int,
        threads: int | None = None,
    ) -> None:
        self._ray = _import_ray()
        self._plan, self._agent, self._config, self._threads = plan, agent, config, threads
        self._gate, self._groups_per_step = gate, groups_per_step
        self._feeder = plan.feeder()
        self._buffer = GroupBuffer(plan.group_size)
        self._next = 0
        self._kept: dict[int, tuple[int, ...]] = {}  # members of begun groups that need not be played again
        self._published: tuple[int, Any] | None = None  # version and weights, for a worker that starts late
        self._deaths = 0
        self._lost = 0
        self._is_lost = _signs_of_death(self._ray)
        self._owns_ray = not self._ray.is_initialized()
        self._start_ray()
        self._workers = [_Worker(self._spawn()) for _ in range(config.workers)]

    def collect(self, step: int) -> list[Trajectory]:
        return self._collected(self._groups_per_step)

    def more(self, num_groups: int) -> list[Trajectory]:
        self._gate.admit_more(num_groups * self._plan.group_size)
        return self._collected(num_groups)

    def _collected(self, num_groups: int) -> list[Trajectory]:
        while self._buffer.num_complete < num_groups:
            self._hand_out()
            pending = [result for worker in self._workers for result in worker.groups]
            assert pending, "the gate admits what a step takes"
            done, _ = self._ray.wait(pending, num_returns=1, timeout=WAIT_SECONDS)
            if not done:
                _log.warning("no group ended for %g s; %d are played, or wait for a worker", WAIT_SECONDS, len(pending))
            for result in done:
                self._take(result)
        return self._buffer.take(num_groups)

    def set_version(self, version: int) -> None:
        """See :class:`~algos.rollouts.Rollouts`; workers whose agent talks to servers learn the number."""
        if self._published is None or self._published[0] != version:
            self.publish(version, None)
        self._gate.set_version(version)
        self._hand_out()

    def publish(self, version: int, weights: Mapping[str, Tensor] | None) -> None:
        """Give every worker the version, and these weights if its engine is its own; returns when all have them."""
        shared = None if weights is None else self._ray.put(dict(weights))
        self._published = (version, shared)
        waiting = {worker.actor.set_version.remote(version, shared): worker for worker in self._workers}
        for result, worker in waiting.items():
            try:
                self._get(result)
            except self._is_lost as error:
                self._replace(worker, error)

    def take_lost(self) -> int:
        lost, self._lost = self._lost, 0
        return lost

    def state_dict(self) -> RolloutState:
        waiting = tuple(trajectory.to_json() for trajectory in self._buffer.waiting())
        feeder = FeederState.model_validate(self._feeder.state_dict())
        return RolloutState(feeder=feeder, waiting=waiting, extra=self._gate.extra)

    def load_state_dict(self, state: RolloutState) -> None:
        self._gate.admit_more(state.extra)
        if state.feeder is None:
            return
        self._feeder.load_state_dict(state.feeder.model_dump())
        for line in state.waiting:
            self._buffer.add(Trajectory.from_json(line))
        self._next = state.feeder.first // self._plan.group_size
        end = max((state.feeder.first, *(ticket + 1 for ticket in state.feeder.finished)))
        for ticket in range(self._next * self._plan.group_size, end):
            if state.feeder.is_finished(ticket):
                group = ticket // self._plan.group_size
                self._kept[group] = (*self._kept.get(group, ()), ticket)

    def close(self) -> None:
        workers, self._workers = self._workers, []
        for worker in workers:
            self._ray.kill(worker.actor, no_restart=True)
        if self._owns_ray:
            self._ray.shutdown()

    def _hand_out(self) -> None:
        """Give the next admitted groups to the workers with the fewest."""
        size = self._plan.group_size
        while self._workers:
            if not self._gate.is_open(self._next * size):
                return
            worker = min(self._workers, key=lambda candidate: len(candidate.groups))
            if len(worker.groups) >= self._config.groups:
                return
            kept = self._kept.pop(self._next, ())
            if len(kept) < size:
                self._submit(worker, self._next, kept)
            self._next += 1

    def _submit(self, worker: _Worker, group: int, skip: tuple[int, ...]) -> None:
        worker.groups[worker.actor.play.remote(group, skip)] = _Order(group=group, skip=skip)

    def _take(self, result: Any) -> None:
        """A group is played, or its worker is dead."""
        worker = next(worker for worker in self._workers if result in worker.groups)
        try:
            trajectories: list[Trajectory] = self._get(result)
        except self._is_lost as error:
            self._replace(worker, error)
            return
        self._deaths = 0
        del worker.groups[result]
        for trajectory in trajectories:
            self._buffer.add(trajectory)
            self._feeder.mark_finished(trajectory.ticket)

    def _get(self, result: Any) -> Any:
        """What a worker returned. What its code raised is raised here, a mistake of the user as it was."""
        known = self._ray.exceptions
        try:
            return self._ray.get(result)
        except known.RayActorError as error:
            if not error.actor_init_failed:
                raise
            failure = error.args[0]  # no death: another worker would fail to start in the same way
        except known.RayTaskError as error:
            failure = error
        raise failure.cause if isinstance(failure.cause, UsageError) else failure from None

    def _replace(self, worker: _Worker, error: Exception) -> None:
        """Start another worker and give it the groups of the dead one."""
        self._deaths += 1
        lost = sum(self._plan.group_size - len(order.skip) for order in worker.groups.values())
        self._lost += lost
        reason = " ".join(str(error).split())[:300]
        _log.error("a rollout worker died (%s); %d episodes are played again", reason, lost)
        if self._deaths > MAX_DEATHS * len(self._workers):
            raise InfrastructureError(
                f"{self._deaths} rollout workers died without finishing a group ({reason}); look at the logs of Ray, "
                "most often memory, and go on with resume=true"
            )
        orders, worker.groups = list(worker.groups.values()), {}
        self._ray.kill(worker.actor, no_restart=True)  # it may be alive and out of reach, and hold what the next needs
        worker.actor = self._spawn()
        for order in orders:
            self._submit(worker, order.group, order.skip)

    def _spawn(self) -> Any:
        """A new actor; it is there when its first call returns."""
        config = self._config
        options = {
            "num_cpus": config.num_cpus,
            "num_gpus": config.num_gpus,
            "max_concurrency": config.groups + 2,  # set_version must get through while groups are played
            "max_restarts": 0,  # a restarted actor would have lost its weights; it is replaced here
        }
        actor = self._ray.remote(RolloutWorker).options(**options)
        return actor.remote(self._plan, self._agent, self._threads, *(self._published or ()))

    def _start_ray(self) -> None:
        if not self._owns_ray:
            return
        config = self._config
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # or Ray tells its makers about every run
        cpus = max(1, math.ceil(config.num_cpus * config.workers))
        where = {"address": config.address} if config.address else {"num_cpus": cpus, "include_dashboard": False}
        try:
            self._ray.init(log_to_driver=False, logging_level=logging.ERROR, configure_logging=False, **where)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UsageError(f"rollout.ray.address={config.address!r}: no cluster there ({error})") from error


class RayWeights:
    """Copies for engines that workers hold themselves. A :class:`~algos.sync.base.WeightSync`."""

    def __init__(self, rollouts: RayRollouts, model: nn.Module, *, dtype: torch.dtype | None = None) -> None:
        self._rollouts, self._model, self._dtype = rollouts, model, dtype

    def guard(self) -> AbstractContextManager[None]:
        """Workers have tensors of their own."""
        return nullcontext()

    def publish(self, version: int) -> None:
        weights = {name: tensor.cpu() for name, tensor in named_weights(self._model, dtype=self._dtype)}
        self._rollouts.publish(version, weights)


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("rollout.ray.workers", "ray") from error
    return ray


def _signs_of_death(ray: Any) -> tuple[type[Exception], ...]:
    """What a result raises whose worker is gone: killed, with its machine, or by Ray when memory runs out."""
    known = ray.exceptions
    return (known.RayActorError, known.OutOfMemoryError, known.NodeDiedError, known.ObjectLostError)
