"""``retool/MathTool-v0``: problems, interpreter and verifier as one Gymnasium environment over token ids.

One step is one model turn. The action is the ids the policy sampled, up to and including its stop; the observation
holds the whole context as ids, so the next prompt is exactly the last prompt, the sampled ids and the tool's ids.
Everything that decides is in :class:`~retool_env.episode.Episode`; this class does the waiting: it runs the calls,
asks the verifier and applies the reward.

``step`` does not raise for what a model writes or for a dead sandbox; those become outcomes. ``terminated`` means
that the policy ended the episode; ``truncated`` that a budget or a failing infrastructure did. The reward of an
unscored episode is 0.0 with ``observation["scored"] == 0``, because Gymnasium has no "no reward".

Problems come from ``np_random`` in bare Gymnasium use, so ``reset(seed=...)`` fixes the episode; training injects a
:class:`~retool_env.feeder.Feeder` and a slot instead. Heavy objects are made at the first reset, shared in the
process, and dropped when the environment is pickled or copied.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from retool_env.config import EnvConfig, ProblemsConfig, check_config
from retool_env.dialects import make_dialect
from retool_env.envs.ending import unscored_record
from retool_env.envs.render import episode_html
from retool_env.envs.spaces import TokenSequence
from retool_env.envs.toolbox import SharedTools
from retool_env.episode import Episode
from retool_env.errors import UsageError
from retool_env.feeder import Feeder, ProblemSource, Ticket
from retool_env.outcome import Outcome, ToolStatus
from retool_env.problems import Problem
from retool_env.record import EpisodeRecord
from retool_env.rewards import make_reward
from retool_env.seeding import derive
from retool_env.sources import open_source
from retool_env.tokenizer import load_tokenizer
from retool_env.tools import ToolBox, ToolCall, ToolSession
from retool_env.verifier import Verdict
from retool_env.verifier.others import load_verifier

__all__ = ["MathToolEnv", "Observation"]

Observation = dict[str, NDArray[np.int64]]
_HEAVY = ("_episode", "_ticket", "_tickets", "_tools", "_session", "_source", "_record")


class MathToolEnv(gymnasium.Env[Observation, NDArray[np.int64]]):
    """Solve a maths problem with a Python interpreter at hand.

    Observation: ``token_ids`` ``[n]`` is the context; ``budget``, ``ticket``, ``turn`` and ``scored`` are ``[1]``:
    how many ids the next action may have, which episode this is, how many turns were taken, and, at the end, whether
    the reward counts. Action: sampled ids ``[m]``, ``m <= budget``; an empty action says that the engine failed.

    Args:
        problems: name of the problem source, or the fields of a :class:`~retool_env.config.ProblemsConfig`.
        feeder: gives out tickets instead of ``np_random``; ``slot`` of ``num_slots`` says which ones.
        render_mode: ``render()`` returns the transcript so far, as text (``"ansi"``) or as a fragment of HTML
            (``"html"``).

    All other keywords are the fields of :class:`~retool_env.config.EnvConfig`; one that does not exist is an error.

    Raises:
        UsageError: a name, file or limit that cannot work; the message names it.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["ansi", "html"], "render_fps": 1}  # type: ignore[misc]

    def __init__(
        self,
        *,
        problems: Mapping[str, Any] | str = "arithmetic",
        feeder: Feeder | None = None,
        slot: int = 0,
        num_slots: int = 1,
        render_mode: str | None = None,
        **settings: Any,
    ) -> None:
        chosen = {"name": problems} if isinstance(problems, str) else problems
        self.problems = check_config(ProblemsConfig, chosen, where="problems")
        self.config = check_config(EnvConfig, settings)
        self.render_mode = render_mode
        self.feeder = feeder
        self.slot, self.num_slots = slot, num_slots
        self._limits = self.config.episode_limits
        self._reward = make_reward(self.config.reward, tool_cost=self.config.tool_cost)
        self.dialect = make_dialect(self.config.dialect, instructions=self.config.instructions)
        vocab = load_tokenizer(self.config.tokenizer)
        length = self.config.max_context_tokens
        count = spaces.Box(0, np.iinfo(np.int64).max, (1,), np.int64)
        self.observation_space = spaces.Dict(  # type: ignore[assignment]
            {
                "token_ids": TokenSequence(vocab.vocab_size, length),
                "budget": count,
                "ticket": count,
                "turn": count,
                "scored": spaces.Box(0, 1, (1,), np.int64),
            }
        )
        self.action_space = TokenSequence(vocab.vocab_size, length, end_id=vocab.eos_id)
        self._episode: Episode | None = None
        self._ticket: Ticket | None = None
        self._dealt = False  # by the feeder
        self._tickets: Iterator[Ticket] | None = None
        self._tools: SharedTools | None = None
        self._session: ToolSession | None = None
        self._source: ProblemSource | None = None
        self._record: EpisodeRecord | None = None
        self._began = 0.0

    @property
    def episode(self) -> Episode:
        """The running episode."""
        if self._episode is None:
            raise UsageError("no episode yet; call reset() first")
        return self._episode

    @property
    def ticket(self) -> Ticket:
        """The ticket of the running episode."""
        assert self._ticket is not None, "reset() sets it"
        return self._ticket

    @property
    def record(self) -> EpisodeRecord:
        """What became of the episode, once it has ended."""
        if self._record is None:
            raise UsageError("the episode has not ended yet")
        return self._record

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode.

        Args:
            options: ``{"index": i}`` plays problem ``i`` of the source (the feeder's, if there is a feeder),
                ``{"problem": Problem(...)}`` plays that one. Such an episode is none of the feeder's tickets, and the
                feeder does not hear of it.

        Raises:
            UsageError: an unknown option, a prompt longer than the context, or settings of the problem's that a tool
                cannot take.
            StopIteration: the feeder has no more tickets for this slot.
        """
        super().reset(seed=seed)
        self._began = time.perf_counter()
        self._record = None
        self._ticket = self._next_ticket(options or {})
        self._episode = None  # so that step() refuses when what follows does
        if self._tools is None:
            self._tools = SharedTools(self.config)
        self._end_session()
        self._session = self._open_session(self._tools.box)
        self._episode = Episode(
            self._ticket.problem,
            dialect=self.dialect,
            tokenizer=load_tokenizer(self.config.tokenizer),
            limits=self._limits,
            tools=self._tools.box.specs,
        )
        return self._observe(scored=False), {"problem_id": self._ticket.problem.id}

    def step(self, action: NDArray[np.int64]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Take one turn; see the class for what comes back."""
        episode = self.episode
        if episode.outcome is not None:
            raise UsageError(f"the episode ended ({episode.outcome}); call reset() before step()")
        calls = episode.act(np.asarray(action).tolist())
        if calls:
            self._run(calls)
        if episode.outcome is None:
            return self._observe(scored=False), 0.0, False, False, {}
        record = self._finish(episode.outcome)
        reward = record.reward
        info = {"outcome": str(record.outcome), "reward_parts": {p.name: p.weighted for p in record.reward_parts}}
        terminated = record.outcome.terminated
        return self._observe(scored=reward is not None), reward or 0.0, terminated, not terminated, info

    def cancel(self) -> EpisodeRecord:
        """End the running episode from outside, as ``cancelled`` and unscored; its record, which the feeder gets too.

        For wrappers that cut an episode off, which :meth:`step` knows nothing of.

        Raises:
            UsageError: no episode is running.
        """
        if self.episode.outcome is not None:
            raise UsageError(f"the episode has ended already ({self.episode.outcome})")
        self.episode.fail(Outcome.CANCELLED)
        return self._finish(Outcome.CANCELLED)

    def render(self) -> str | None:
        """The transcript; see ``render_mode``."""
        if self.render_mode == "html":
            return episode_html(self.episode)
        return self.episode.tokenizer.decode(self.episode.token_ids) if self.render_mode == "ansi" else None

    def close(self) -> None:
        """End the episode's tools and give the sandbox back."""
        self._end_session()
        if self._tools is not None:
            self._tools.close()
            self._tools = None

    def _open_session(self, box: ToolBox) -> ToolSession:
        problem = self.ticket.problem
        try:
            return box.open(seed=self.ticket.sandbox_seed, tools_kwargs=problem.tools_kwargs)
        except UsageError as error:
            raise UsageError(f"problem {problem.id!r}: correct its tools_kwargs: {error}") from error

    def _end_session(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def __getstate__(self) -> dict[str, Any]:
        return {name: None if name in _HEAVY else value for name, value in self.__dict__.items()}

    def _next_ticket(self, options: dict[str, Any]) -> Ticket:
        if unknown := set(options) - {"index", "problem"}:
            raise UsageError(f"reset options {sorted(unknown)} are unknown; known: 'index', 'problem'")
        self._dealt = self.feeder is not None and not options
        if self.feeder is not None and self._dealt:
            if self._tickets is None:
                self._tickets = self.feeder.slot(self.slot, self.num_slots)
            return next(self._tickets)
        if "problem" in options:
            if not isinstance(problem := options["problem"], Problem):
                raise UsageError(f"reset option problem={problem!r}: give a retool_env.problems.Problem")
            return self._make_ticket(0, problem)
        source = self._own_source() if self.feeder is None else self.feeder.source
        bound = source.size or 2**31
        index = int(options["index"]) if "index" in options else int(self.np_random.integers(bound))
        if not 0 <= index < bound:
            raise UsageError(f"reset option index={index}: the source has problems 0..{bound - 1}")
        return self._make_ticket(index, source.problem(index))

    def _own_source(self) -> ProblemSource:
        if self._source is None:
            self._source = open_source(**self.problems.model_dump())
        return self._source

    def _make_ticket(self, index: int, problem: Problem) -> Ticket:
        seed = int(self.np_random.integers(2**31))
        return Ticket(
            index=index,
            group=index,
            sample=0,
            problem=problem,
            sampling_seed=derive(seed, "sampling"),
            sandbox_seed=derive(seed, "sandbox") % 2**32,
        )

    def _run(self, calls: tuple[ToolCall, ...]) -> None:
        assert self._session is not None, "reset() opens it"
        results = self._session.run(calls, seed=derive(self.ticket.sandbox_seed, "round", len(self.episode.rounds)))
        if any(result.status is ToolStatus.OUTAGE for result in results):
            self.episode.fail(Outcome.SANDBOX_OUTAGE, results)
        else:
            self.episode.observe(results)

    def _finish(self, outcome: Outcome) -> EpisodeRecord:
        self._end_session()
        verdict = self._judge(outcome)
        if verdict is not None and verdict.reason == "outage":
            outcome = self.episode.outcome = Outcome.VERIFIER_OUTAGE
            verdict = None
        seconds = time.perf_counter() - self._began
        facts = unscored_record(self.episode, self.ticket, outcome=outcome, verdict=verdict, seconds=seconds)
        record = self._reward.score(facts)
        self._record = record
        if self.feeder is not None and self._dealt:
            self.feeder.on_end(self.ticket, self.episode, record)
        return record

    def _judge(self, outcome: Outcome) -> Verdict | None:
        if outcome.failed:
            return None
        if outcome.truncated:
            return Verdict(correct=False, answered=False, reason="truncated")
        return load_verifier(self.config.verifier)(self.episode.final_text, self.ticket.problem.answer)

    def _observe(self, *, scored: bool) -> Observation:
        episode = self.episode
        # One array and four views of it, because making an array costs a microsecond.
        numbers = np.array([[episode.budget], [self.ticket.index], [episode.turn], [scored]], dtype=np.int64)
        budget, ticket, turn, counts = numbers
        return {"token_ids": episode.context(), "budget": budget, "ticket": ticket, "turn": turn, "scored": counts}
