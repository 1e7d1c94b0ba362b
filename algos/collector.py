"""Rollouts through TorchRL's collector: one thread per environment, each with one request in flight.

``GymWrapper(MathToolEnv)`` runs under ``AsyncBatchedCollector``; :class:`DirectTransport` calls the policy in the
environment's own thread. There a scheduler holds the turn at the gate and gets it generated: in lock-step
(:mod:`agents.lockstep`), which gives the same bits as the plain loop, or each thread for itself (:mod:`agents.free`),
where no turn waits for another.

TorchRL's part is concurrency. What a trajectory *is* comes from the recorder, in the environment's thread; the
transitions that the collector yields are compared with it, so that neither can drift.

**What a step takes.** The first complete groups, as many as a step has, in ticket order. With staleness 0 these are all
tickets of the step. With more, a group that waits for a slow episode does not hold up the step while others are
complete; it is taken by a later step, where what has become too old is withheld (:func:`algos.groups.withhold`). Every
ticket is taken by exactly one step.

Engine failures are outcomes of episodes; whatever else is raised in a thread is raised again by ``collect``. Not
handled here: environments on other machines.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torchrl.collectors import AsyncBatchedCollector
from torchrl.envs import GymWrapper
from torchrl.modules.inference_server import InferenceTransport

from agents.base import Generation, Request
from agents.gate import Gate, Stopped
from agents.recorder import Recorder
from agents.requests import Asker
from algos import specs as _specs  # noqa: F401  TorchRL learns the environment's spaces
from algos.groups import GroupBuffer
from algos.rollouts import RolloutState
from retool_env.config import EnvConfig
from retool_env.envs.math_tool import MathToolEnv
from retool_env.errors import EngineError, UsageError
from retool_env.feeder import Feeder, FeederState, OnEnd
from retool_env.trajectory import Trajectory

__all__ = ["CollectorRollouts", "DirectTransport", "Scheduler", "TurnPolicy"]

OBSERVATION_KEYS = ("token_ids", "budget", "ticket", "turn")


class Scheduler(Protocol):
    """What stands between environment threads and an engine: :class:`Lockstep` or :class:`FreeRun`."""

    def act(self, ticket: int, request: Request) -> Generation: ...

    def serve(self, done: Callable[[], bool]) -> None: ...

    def set_version(self, version: int) -> None: ...

    def poke(self) -> None: ...

    def close(self) -> None: ...


class TurnPolicy(TensorDictModuleBase):  # type: ignore[misc]
    """One turn of one environment as a TorchRL policy: called in its thread, waits for gate and engine."""

    in_keys: ClassVar[list[str]] = list(OBSERVATION_KEYS)
    out_keys: ClassVar[list[str]] = ["action"]

    def __init__(self, env: MathToolEnv, asker: Asker, scheduler: Scheduler, recorder: Recorder) -> None:
        super().__init__()
        self._env, self._asker, self._scheduler, self._recorder = env, asker, scheduler, recorder

    def forward(self, td: TensorDictBase) -> TensorDictBase:
        observation = {key: td[key].numpy() for key in OBSERVATION_KEYS}
        ticket = int(observation["ticket"][0])
        assert ticket == self._env.ticket.index, "the observation is of another environment"
        try:
            generation = self._scheduler.act(ticket, self._asker.request(self._env, observation))
        except Stopped:
            raise
        except EngineError:
            generation = Generation.aborted()
        played = self._recorder.add(ticket, generation)
        return td.copy().set("action", torch.from_numpy(played.token_ids))


class DirectTransport(InferenceTransport):  # type: ignore[misc]
    """Runs each environment's policy in its own thread, so that every environment has its own request in flight.

    TorchRL's own server waits to fill a batch and then for the slowest member of it; batching belongs to the engine.
    """

    def __init__(self, policies: Sequence[TurnPolicy]) -> None:
        self._policies = iter(policies)
        self._idle = threading.Event()

    def client(self) -> Callable[[TensorDictBase], TensorDictBase]:
        """The next environment's policy: TorchRL asks for one client per environment, in their order."""
        return next(self._policies).forward

    def submit(self, td: TensorDictBase) -> Future[TensorDictBase]:
        raise AssertionError("clients call their policy themselves")

    def drain(self, max_items: int) -> tuple[list[TensorDictBase], list[Any]]:
        return [], []

    def wait_for_work(self, timeout: float) -> None:
        self._idle.wait(max(timeout, 0.05))

    def resolve(self, callback: Future[TensorDictBase], result: TensorDictBase) -> None:
        callback.set_result(result)

    def resolve_exception(self, callback: Future[TensorDictBase], exc: BaseException) -> None:
        callback.set_exception(exc)


class CollectorRollouts:
    """``AsyncBatchedCollector`` over ``num_slots`` environment threads, which start at the first ``set_version``.

    Args:
        make_feeder: from the listener to the feeder; with a shared row unless the scheduler is in lock-step.
        scheduler: where the threads' turns are generated.
        gate: the scheduler's.
        asker: makes the requests.
        groups_per_step: complete groups that a step takes.
    """

    def __init__(
        self,
        make_feeder: Callable[[OnEnd], Feeder],
        scheduler: Scheduler,
        gate: Gate,
        asker: Asker,
        *,
        env: EnvConfig,
        num_slots: int,
        groups_per_step: int,
    ) -> None:
        recorder = Recorder(self._finished)
        self._feeder = make_feeder(recorder.finish)
        self._buffer = GroupBuffer(self._feeder.group_size)
        self._unchecked: dict[int, NDArray[np.int64]] = {}  # ids by ticket, until the collector has yielded them too
        self._scheduler, self._gate = scheduler, gate
        self._groups_per_step = groups_per_step
        settings = env.model_dump()
        # Kept here, because shutting the collector down does not close them.
        self._envs = [
            MathToolEnv(feeder=self._feeder, slot=s, num_slots=num_slots, **settings) for s in range(num_slots)
        ]
        self._collector = self._make_collector([TurnPolicy(made, asker, scheduler, recorder) for made in self._envs])
        self._failure: Exception | None = None
        self._closing = False
        self._drain = threading.Thread(target=self._receive, name="collector", daemon=True)

    def _make_collector(self, policies: Sequence[TurnPolicy]) -> AsyncBatchedCollector:
        return AsyncBatchedCollector(
            [functools.partial(GymWrapper, made) for made in self._envs],
            policy=policies[0],
            transport=DirectTransport(policies),
            env_backend="threading",
            yield_completed_trajectories=True,
            policy_version_key=None,
            # With whole trajectories this only bounds the result queue: room for every thread, so that none is
            # held up by a driver that looks away.
            frames_per_batch=4 * len(self._envs),
            total_frames=-1,
        )

    def collect(self, step: int) -> list[Trajectory]:
        return self._take(self._groups_per_step)

    def more(self, num_groups: int) -> list[Trajectory]:
        self._gate.admit_more(num_groups * self._feeder.group_size)
        self._scheduler.poke()
        return self._take(num_groups)

    def set_version(self, version: int) -> None:
        self._scheduler.set_version(version)
        if not self._drain.is_alive() and not self._closing and self._failure is None:
            self._drain.start()

    def state_dict(self) -> RolloutState:
        """Finished episodes travel along; those in flight do not."""
        feeder = FeederState.model_validate(self._feeder.state_dict())
        # Episodes go on ending meanwhile. Asked in this order the buffer holds at least what the feeder calls finished.
        waiting = [t for t in self._buffer.waiting() if feeder.is_finished(t.ticket)]
        return RolloutState(feeder=feeder, waiting=tuple(t.to_json() for t in waiting), extra=self._gate.extra)

    def load_state_dict(self, state: RolloutState) -> None:
        assert not self._drain.is_alive(), "episodes have begun already"
        self._gate.admit_more(state.extra)
        if state.feeder is not None:
            self._feeder.load_state_dict(state.feeder.model_dump())
        for line in state.waiting:
            self._buffer.add(Trajectory.from_json(line))

    def close(self) -> None:
        """Stop the threads. The scheduler goes first: a thread that waits in it cannot see the collector's flag."""
        if self._closing:
            return
        self._closing = True
        self._scheduler.close()
        self._shut_down()
        if self._drain.is_alive():
            self._drain.join()
        for made in self._envs:
            made.close()

    def _shut_down(self) -> None:
        """A step may be complete from what a checkpoint held before all threads have begun, and TorchRL (0.14.1) joins
        them all, started or not."""
        while True:
            try:
                return self._collector.shutdown()  # type: ignore[no-any-return]
            except RuntimeError as error:
                if "before it is started" not in str(error):
                    raise
            time.sleep(0.01)

    def _take(self, num_groups: int) -> list[Trajectory]:
        self._scheduler.serve(lambda: self._buffer.num_complete >= num_groups)
        if self._failure is not None:
            raise self._failure
        return self._buffer.take(num_groups)

    def _finished(self, trajectory: Trajectory) -> None:
        """An episode ended; called in its environment's thread, before that waits for anything again."""
        self._unchecked[trajectory.ticket] = trajectory.transcript.token_ids
        self._buffer.add(trajectory)
        self._scheduler.poke()

    def _receive(self) -> None:
        """Take what TorchRL yields; runs in its own thread, because the caller's waits for something else."""
        try:
            for transitions in self._collector:
                last = transitions[-1]
                ids = self._unchecked.pop(int(last["ticket"]))
                assert np.array_equal(last["next", "token_ids"].numpy(), ids), "collector and recorder differ in ids"
        except Exception as error:  # noqa: BLE001 - whatever user code in a thread raised is raised again by collect()
            if not self._closing:
                # TorchRL wraps what a thread raised; a mistake of the user is told as it was.
                self._failure = error.__cause__ if isinstance(error.__cause__, UsageError) else error
                self._scheduler.close()
