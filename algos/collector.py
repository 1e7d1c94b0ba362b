"""Rollouts for training, behind one small interface: the plain loop, and TorchRL's collector.

``collect(step)`` returns every trajectory of one training step in ticket order; ``set_version`` says that the policy
changed. :class:`PlainRollouts` is the oracle, a loop over ``env.step`` in this thread. :class:`CollectorRollouts` is
the way it runs: ``GymWrapper(MathToolEnv)`` in one thread per slot under ``AsyncBatchedCollector``, each thread with
one request in flight through :class:`DirectTransport`, batched and gated by :class:`agents.lockstep.Lockstep`. In
deterministic mode both give the same bits.

TorchRL's part is concurrency. What a trajectory *is* comes from the recorder; the transitions that the collector
yields are compared with it, so that neither can drift.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torchrl.collectors import AsyncBatchedCollector
from torchrl.envs import GymWrapper
from torchrl.modules.inference_server import InferenceTransport

from agents.base import BatchAgent, Generation, Sampling
from agents.lockstep import Lockstep, Stopped
from agents.recorder import Recorder
from agents.rollout import Slots, make_request
from algos import specs as _specs  # noqa: F401  TorchRL learns the environment's spaces
from retool_env.config import EnvConfig
from retool_env.envs.math_tool import MathToolEnv
from retool_env.errors import EngineError, UsageError
from retool_env.feeder import Feeder
from retool_env.trajectory import Trajectory

__all__ = ["CollectorRollouts", "DirectTransport", "PlainRollouts", "Rollouts", "TurnPolicy"]

OBSERVATION_KEYS = ("token_ids", "budget", "ticket", "turn")


class Rollouts(Protocol):
    """Where a trainer gets its trajectories."""

    def collect(self, step: int) -> list[Trajectory]:
        """All trajectories of one training step, in ticket order; steps are asked for in order."""
        ...

    def set_version(self, version: int) -> None:
        """The policy has been updated ``version`` times and may be sampled from; called before every ``collect``."""
        ...

    def close(self) -> None: ...


class PlainRollouts:
    """Rounds over ``env.step`` in this thread."""

    def __init__(
        self,
        feeder: Feeder,
        recorder: Recorder,
        agent: BatchAgent,
        *,
        env: EnvConfig,
        sampling: Sampling,
        num_slots: int,
        tickets_per_step: int,
    ) -> None:
        self._slots = Slots(feeder, recorder, agent, env=env, num_slots=num_slots, sampling=sampling)
        self._tickets_per_step = tickets_per_step

    def collect(self, step: int) -> list[Trajectory]:
        rounds = self._slots.run(step * self._tickets_per_step, self._tickets_per_step)
        return sorted((t for finished in rounds for t in finished), key=lambda trajectory: trajectory.ticket)

    def set_version(self, version: int) -> None:
        """Nothing waits for a version here."""

    def close(self) -> None:
        self._slots.close()


class TurnPolicy(TensorDictModuleBase):  # type: ignore[misc]
    """One turn as a TorchRL policy: called in the environment's own thread, waits for gate and batch."""

    in_keys: ClassVar[list[str]] = list(OBSERVATION_KEYS)
    out_keys: ClassVar[list[str]] = ["action"]

    def __init__(
        self,
        scheduler: Lockstep,
        recorder: Recorder,
        feeder: Feeder,
        *,
        num_slots: int,
        stop: tuple[str, ...],
        sampling: Sampling,
    ) -> None:
        super().__init__()
        self._scheduler, self._recorder, self._feeder = scheduler, recorder, feeder
        self._num_slots, self._stop, self._sampling = num_slots, stop, sampling

    def forward(self, td: TensorDictBase) -> TensorDictBase:
        observation = {key: td[key].numpy() for key in OBSERVATION_KEYS}
        ticket = int(observation["ticket"][0])
        seed = self._feeder.sampling_seed(ticket)
        request = make_request(observation, sampling_seed=seed, stop=self._stop, sampling=self._sampling)
        try:
            generation = self._scheduler.act(self._feeder.slot_of(ticket, self._num_slots), ticket, request)
        except Stopped:
            raise
        except EngineError:
            generation = Generation.aborted()
        self._recorder.add(ticket, generation)
        return td.copy().set("action", torch.from_numpy(generation.token_ids))


class DirectTransport(InferenceTransport):  # type: ignore[misc]
    """Runs the policy in the calling thread, so that every environment has its own request in flight.

    TorchRL's own server waits to fill a batch and then for the slowest member of it; batching belongs to the engine.
    """

    def __init__(self, policy: TurnPolicy) -> None:
        self._policy = policy
        self._idle = threading.Event()

    def client(self) -> Callable[[TensorDictBase], TensorDictBase]:
        return self._policy.forward

    def submit(self, td: TensorDictBase) -> Future[TensorDictBase]:
        future: Future[TensorDictBase] = Future()
        future.set_result(self._policy(td))
        return future

    def drain(self, max_items: int) -> tuple[list[TensorDictBase], list[Any]]:
        return [], []

    def wait_for_work(self, timeout: float) -> None:
        self._idle.wait(max(timeout, 0.05))

    def resolve(self, callback: Future[TensorDictBase], result: TensorDictBase) -> None:
        callback.set_result(result)

    def resolve_exception(self, callback: Future[TensorDictBase], exc: BaseException) -> None:
        callback.set_exception(exc)


class CollectorRollouts:
    """``AsyncBatchedCollector`` over one environment thread per slot.

    Args:
        staleness: how many versions older than its step the policy of a sample may be; 0 is on-policy.
    """

    def __init__(
        self,
        feeder: Feeder,
        recorder: Recorder,
        agent: BatchAgent,
        *,
        env: EnvConfig,
        sampling: Sampling,
        num_slots: int,
        tickets_per_step: int,
        staleness: int = 0,
    ) -> None:
        self._recorder = recorder
        self._tickets_per_step = tickets_per_step
        self._closing = False
        self._scheduler = Lockstep(agent, num_slots=num_slots, tickets_per_step=tickets_per_step, staleness=staleness)
        settings = env.model_dump()
        # Kept here, because shutting the collector down does not close them.
        self._envs = [MathToolEnv(feeder=feeder, slot=s, num_slots=num_slots, **settings) for s in range(num_slots)]
        stop = self._envs[0].dialect.stop
        policy = TurnPolicy(self._scheduler, recorder, feeder, num_slots=num_slots, stop=stop, sampling=sampling)
        self._collector = AsyncBatchedCollector(
            [functools.partial(GymWrapper, made) for made in self._envs],
            policy=policy,
            transport=DirectTransport(policy),
            env_backend="threading",
            yield_completed_trajectories=True,
            policy_version_key=None,
            # With whole trajectories this only bounds the result queue: room for every thread, so that none is
            # held up by a driver that looks away.
            frames_per_batch=4 * num_slots,
            total_frames=-1,
        )
        self._arrived: dict[int, Trajectory] = {}
        self._failure: Exception | None = None
        self._drain = threading.Thread(target=self._receive, name="collector", daemon=True)
        self._drain.start()

    def collect(self, step: int) -> list[Trajectory]:
        first = step * self._tickets_per_step
        wanted = range(first, first + self._tickets_per_step)
        self._scheduler.serve(lambda: self._failure is not None or all(ticket in self._arrived for ticket in wanted))
        if self._failure is not None:
            raise self._failure
        return [self._arrived.pop(ticket) for ticket in wanted]

    def set_version(self, version: int) -> None:
        self._scheduler.set_version(version)

    def close(self) -> None:
        """Stop the threads. The scheduler goes first: a thread that waits in it cannot see the collector's flag."""
        self._closing = True
        self._scheduler.close()
        self._collector.shutdown()
        self._drain.join()
        for made in self._envs:
            made.close()

    def _receive(self) -> None:
        """Take what TorchRL yields; runs in its own thread, because the caller's generates meanwhile."""
        try:
            for transitions in self._collector:
                self._take(transitions[-1])
                self._scheduler.poke()
        except Exception as error:  # noqa: BLE001 - whatever user code in a thread raised is raised again by collect()
            if not self._closing:
                # TorchRL wraps what a thread raised; a mistake of the user is told as it was.
                self._failure = error.__cause__ if isinstance(error.__cause__, UsageError) else error
                self._scheduler.poke()

    def _take(self, last: TensorDictBase) -> None:
        trajectory = self._recorder.take(int(last["ticket"]))
        seen = last["next", "token_ids"].numpy()
        assert np.array_equal(seen, trajectory.transcript.token_ids), "collector and recorder differ in ids"
        self._arrived[trajectory.ticket] = trajectory
