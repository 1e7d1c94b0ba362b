"""Does a slow tool hold up the others? ``python benchmarks/longtail.py [--help]``.

64 environments play episodes of two tool calls and an answer. A call takes 0.05 to 5 seconds, drawn log-uniformly from
a seed; a turn of the policy takes 20 ms. Everything is real but for what waits: environment, episode, tool box,
recorder, TorchRL's collector, gate and group buffer.

**Ideal** is what the drawn seconds of the counted episodes come to when 64 slots are never idle: their sum divided by
64. Counted are the episodes that training steps took, from the first ticket on: the start, where nothing is finished
yet, counts against us, and so do episodes that are in flight at the end. Between two steps the "trainer" takes 0.2 s.

**Turn-synchronous** is the same environments and agent in rounds: all 64 take a turn at once, each in a thread of its
own, and the next round begins when the slowest is back. It is given a fixed number of episodes per slot, so no slot is
ever without one.

With staleness 0 a step is on-policy and has to wait for its slowest episode, whatever collects it; that figure is
printed for comparison.
"""

from __future__ import annotations

import argparse
import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agents.base import Generation, Request, Sampling
from agents.requests import Asker, Observation
from algos.config import AlgoConfig, RolloutConfig, TrainConfig
from algos.setup import make_rollouts
from retool_env.config import EnvConfig
from retool_env.dialects import make_dialect
from retool_env.envs.math_tool import MathToolEnv
from retool_env.feeder import Feeder
from retool_env.seeding import derive
from retool_env.sources import open_source
from retool_env.tokenizer import ByteTokenizer
from retool_env.tools import ToolCall

SLOTS = 64
CALLS = 2
SHORTEST, LONGEST = 0.05, 5.0
TURN_SECONDS = 0.02
UPDATE_SECONDS = 0.2
PROMPTS, GROUP_SIZE = 16, 8
BAR = 0.9

TOKENIZER = ByteTokenizer()
DIALECT = make_dialect("hermes")
ENV = EnvConfig(
    dialect="hermes",
    tools=(str(Path(__file__).with_name("wait_tool.py")),),
    instructions=False,
    max_context_tokens=4000,
    max_turn_tokens=500,
)


def tool_seconds(ticket: int, turn: int) -> float:
    """How long a call takes; the same whoever plays the ticket."""
    rng = np.random.default_rng(derive(0, "tool", ticket, turn) % 2**32)
    return float(math.exp(rng.uniform(math.log(SHORTEST), math.log(LONGEST))))


def episode_seconds(ticket: int) -> float:
    """What an episode waits for when nothing else holds it up."""
    return sum(tool_seconds(ticket, turn) for turn in range(CALLS)) + (CALLS + 1) * TURN_SECONDS


class WaitingAgent:
    """Calls the tool ``CALLS`` times, then answers."""

    def act(self, request: Request) -> Generation:
        time.sleep(TURN_SECONDS)
        text = r"\boxed{1}"
        if request.turn < CALLS:
            seconds = tool_seconds(request.session, request.turn)
            text = DIALECT.write("", [ToolCall(name="wait", arguments={"seconds": seconds})])
        return Generation.written([*TOKENIZER.encode(text), TOKENIZER.eos_id])


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One way to play, and how long it took."""

    name: str
    episodes: int
    ideal: float
    seconds: float
    cpu: float  # seconds of this process, all threads

    @property
    def share(self) -> float:
        """Throughput relative to the ideal."""
        return self.ideal / self.seconds

    def __str__(self) -> str:
        return (
            f"{self.name:28s} {self.episodes:5d} episodes  ideal {self.ideal:6.1f} s  took {self.seconds:6.1f} s  "
            f"{self.episodes / self.seconds:5.1f} episodes/s  {self.share:6.1%} of ideal  (CPU {self.cpu:.1f} s)"
        )


def measure_collector(steps: int, staleness: int) -> Measured:
    """``steps`` training steps of the real collector."""
    config = TrainConfig(
        deterministic=False,
        algo=AlgoConfig(prompts_per_step=PROMPTS, group_size=GROUP_SIZE, steps=10 * steps),
        rollout=RolloutConfig(num_slots=SLOTS, staleness=staleness),
        env=ENV,
    )
    rollouts = make_rollouts(config, ENV, WaitingAgent())
    start, cpu = time.perf_counter(), time.process_time()
    taken = []
    try:
        for step in range(steps):
            rollouts.set_version(step)
            taken += rollouts.collect(step)
            seconds = time.perf_counter() - start
            time.sleep(UPDATE_SECONDS)
    finally:
        rollouts.close()
    assert all(len(t.record.calls) == CALLS and t.record.calls[0].text == "done" for t in taken)
    work = sum(episode_seconds(t.ticket) for t in taken)
    return Measured(
        name=f"collector, staleness {staleness}",
        episodes=len(taken),
        ideal=work / SLOTS,
        seconds=seconds,
        cpu=time.process_time() - cpu,
    )


def measure_rounds(episodes_per_slot: int) -> Measured:
    """All environments take a turn together, and wait for the slowest."""
    agent = WaitingAgent()
    asker = Asker(agent, ENV, Sampling())
    total = SLOTS * episodes_per_slot
    feeder = Feeder(open_source(size=1000), group_size=GROUP_SIZE, num_tickets=total)
    envs = [MathToolEnv(feeder=feeder, slot=s, num_slots=SLOTS, **ENV.model_dump()) for s in range(SLOTS)]

    def turn(env: MathToolEnv, observation: Observation) -> Observation:
        return env.step(agent.act(asker.request(env, observation)).token_ids)[0]

    start, cpu = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(SLOTS) as threads:
        for _ in range(episodes_per_slot):
            observations = [env.reset()[0] for env in envs]
            for _ in range(CALLS + 1):
                observations = list(threads.map(turn, envs, observations))
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    for env in envs:
        env.close()
    ideal = sum(map(episode_seconds, range(total))) / SLOTS
    return Measured(name="turn-synchronous rounds", episodes=total, ideal=ideal, seconds=seconds, cpu=cpu)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=16, help=f"of {PROMPTS * GROUP_SIZE} episodes (default: 16)")
    parser.add_argument("--staleness", type=int, default=2, help="of the collector that is measured (default: 2)")
    options = parser.parse_args()
    print(measure_rounds(max(2, options.steps // 4)))
    print(measure_collector(max(2, options.steps // 4), 0))
    measured = measure_collector(options.steps, options.staleness)
    print(measured)
    print(f"bar: at least {BAR:.0%} of ideal: {'met' if measured.share >= BAR else 'MISSED'}")
    return 0 if measured.share >= BAR else 1


if __name__ == "__main__":
    raise SystemExit(main())
