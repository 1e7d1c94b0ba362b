"""One episode as a pure state machine: sampled ids go in; calls to run, ids to append or an outcome come out.

It never waits, opens no socket and imports no engine. ``MathToolEnv.step`` runs the calls and feeds the results back;
the SFT builder drives the same object with recorded turns. So one code path builds every token sequence of the
project, and its invariant holds everywhere: the context of turn k+1 is the context of turn k, then exactly the ids
the policy sampled, then the ids of the tool output. Nothing is ever re-encoded, trimmed or rendered again.

    act(ids) -> calls            the policy sampled ids; run these
    observe(results)             their output is appended
    outcome is not None          it ended

No calls and no outcome means that the turn was void and the policy may go on.

Conventions of the token view: an empty action is an engine outage, and an action that ends neither in the
end-of-turn token nor in a stop string of the dialect is a turn that was cut by length.

Where verl differs: its limit of 8 assistant turns runs at most 7 programs, and the last call is thrown away. Here
``max_tool_rounds`` counts executed rounds; the last one is executed and may be answered. A call that verl cannot parse
ends the episode as if it were an answer; here it is answered with what is wrong.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from retool_env.dialects import Dialect
from retool_env.errors import UsageError
from retool_env.outcome import Outcome
from retool_env.problems import Message, Problem
from retool_env.tokenizer import Tokenizer
from retool_env.tools import ToolCall, ToolResult, ToolSpec, interpreter_spec
from retool_env.transcript import Role, Span

__all__ = ["Episode", "EpisodeLimits"]

_FIRST_ROOM: Final = 1024
VOID_NOTE: Final = "There was neither a tool call nor a final answer. Please go on."


@dataclass(frozen=True, kw_only=True)
class EpisodeLimits:
    """Budgets of one episode.

    Attributes:
        max_context_tokens: prompt, sampled and tool tokens together; at most what the model can attend to.
        max_turn_tokens: sampled tokens of one turn.
        max_tool_rounds: executed rounds of calls; one more assistant turn may follow them.
        max_tool_tokens: tokens of one tool output; a longer one keeps head and tail, and says so.
        max_invalid_calls: turns in a row without a single well-formed call before the episode is given up.
        max_calls_per_turn: calls of one turn that are run; the others are answered with a word about that.
        max_void_turns: turns with neither a call nor an answer. The default ends the episode with the first one, as
            ``no_answer``; above 1 the model is told in one line and goes on, and the last one ends it as
            ``void_turns``.
    """

    max_context_tokens: int = 16384
    max_turn_tokens: int = 8192
    max_tool_rounds: int = 8
    max_tool_tokens: int = 2048
    max_invalid_calls: int = 3
    max_calls_per_turn: int = 16
    max_void_turns: int = 1


class Episode:
    """One run of the policy at one problem.

    Args:
        tools: what the policy may call, for the prompt; by default the code interpreter, none for ``()``.

    Attributes:
        rounds: ``rounds[k]`` answers the calls of turn ``k``; empty for a void turn.
        num_void_turns: turns with neither a call nor an answer.

    Raises:
        UsageError: the prompt leaves no room for an answer, the dialect cannot call one of the tools, or the chat
            template and the end-of-turn token do not fit together.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        dialect: Dialect,
        tokenizer: Tokenizer,
        limits: EpisodeLimits,
        tools: Sequence[ToolSpec] | None = None,
    ) -> None:
        self.problem = problem
        self.dialect = dialect
        self.tokenizer = tokenizer
        self.limits = limits
        self.token_ids: list[int] = []
        self.action_mask: list[bool] = []
        self._context = np.empty(_FIRST_ROOM, dtype=np.int64)  # begins with token_ids, so that a copy is cheap
        self.spans: list[Span] = []
        self.turn_texts: list[str] = []
        self.rounds: list[tuple[ToolResult, ...]] = []
        self.num_void_turns = 0
        self.outcome: Outcome | None = None
        self._pending: tuple[ToolCall, ...] = ()
        self._stopped = False
        self._invalid_in_a_row = 0
        prompt = self._encode_prompt((interpreter_spec(),) if tools is None else tools)
        if len(prompt) >= limits.max_context_tokens:
            raise UsageError(
                f"problem {problem.id!r}: its prompt has {len(prompt)} tokens and max_context_tokens is "
                f"{limits.max_context_tokens}; raise env.max_context_tokens or drop the problem"
            )
        if dialect.replies or limits.max_void_turns > 1:
            tokenizer.reply([Message(role="user", content=VOID_NOTE)])  # raises now what it would raise in mid-episode
        self._append("prompt", prompt)

    def context(self) -> NDArray[np.int64]:
        """``token_ids`` as an array ``[n]`` that belongs to the caller."""
        return self._context[: len(self.token_ids)].copy()

    @property
    def turn(self) -> int:
        """Number of assistant turns so far."""
        return len(self.turn_texts)

    @property
    def num_action_tokens(self) -> int:
        """How many of the ids the policy sampled."""
        return sum(span.end - span.start for span in self.spans if span.role == "assistant")

    @property
    def num_executed_rounds(self) -> int:
        """Rounds in which something was run; malformed calls alone are none."""
        return sum(any(not result.status.invalid for result in results) for results in self.rounds)

    @property
    def budget(self) -> int:
        """How many ids the next turn may have; 0 once the episode ended."""
        room = self.limits.max_context_tokens - len(self.token_ids)
        return 0 if self.outcome else min(self.limits.max_turn_tokens, room)

    @property
    def final_text(self) -> str:
        """What the policy wrote in its last turn: the only text that a maths reward may read."""
        return self.turn_texts[-1] if self.turn_texts else ""

    def act(self, ids: Sequence[int]) -> tuple[ToolCall, ...]:
        """Append one sampled turn; returns the calls to run, or ``()`` when the episode ended or the turn was void.

        Raises:
            UsageError: more ids than the budget, or an id outside of the vocabulary.
        """
        assert self.outcome is None and not self._pending, "act() on an episode that waits for results or has ended"
        if not len(ids):
            self.outcome = Outcome.ENGINE_OUTAGE
            return ()
        self._check(ids)
        cut_by = Outcome.TURN_TOO_LONG if self.budget == self.limits.max_turn_tokens else Outcome.CONTEXT_FULL
        ended = ids[-1] == self.tokenizer.eos_id
        text = self.tokenizer.decode(ids[:-1] if ended else ids)
        turn = self.dialect.parse(text)
        self._append("assistant", ids)
        self.turn_texts.append(text)
        self._stopped = turn.stopped
        if not (ended or turn.stopped):
            self.outcome = cut_by
        elif turn.void:
            self._pass_over()
        elif turn.answer and not turn.calls:
            self.outcome = Outcome.ANSWERED
        elif self.num_executed_rounds >= self.limits.max_tool_rounds:
            self.outcome = Outcome.MAX_TURNS
        else:
            self._pending = self._bounded(turn.calls)
        return self._pending

    def observe(self, results: Sequence[ToolResult]) -> None:
        """Append the results of the calls that ``act`` returned, in the same order."""
        assert [result.call for result in results] == list(self._pending), "results must answer the pending calls"
        self.rounds.append(tuple(results))
        self._pending = ()
        self._invalid_in_a_row = self._invalid_in_a_row + 1 if all(r.status.invalid for r in results) else 0
        if self._invalid_in_a_row >= self.limits.max_invalid_calls:
            self.outcome = Outcome.INVALID_CALLS
            return
        fitting = [replace(result, text=self.fit(result.text)) for result in results]
        self._show(self.dialect.render(fitting, stopped=self._stopped, tokenizer=self.tokenizer))

    def fail(self, outcome: Outcome, results: Sequence[ToolResult] = ()) -> None:
        """End the episode for a reason outside of the policy; ``results`` are kept, not shown."""
        assert outcome.failed or outcome is Outcome.WALL_TIME, f"{outcome} is not for the outside to say"
        self._pending = ()
        self.rounds += [tuple(results)] if results else []
        self.outcome = outcome

    def _encode_prompt(self, tools: Sequence[ToolSpec]) -> list[int]:
        messages = self.dialect.build_prompt(self.problem, tools)
        return self.tokenizer.encode_chat(messages, tools if self.dialect.chat_tools else ())

    def _pass_over(self) -> None:
        """A void turn: the end, or a word about it."""
        self.num_void_turns += 1
        if self.limits.max_void_turns <= 1:
            self.outcome = Outcome.NO_ANSWER
        elif self.num_void_turns >= self.limits.max_void_turns:
            self.outcome = Outcome.VOID_TURNS
        else:
            self.rounds.append(())
            self._show(self.tokenizer.reply([Message(role="user", content=VOID_NOTE)]))

    def _bounded(self, calls: Sequence[ToolCall]) -> tuple[ToolCall, ...]:
        """The calls; those beyond the limit become a problem that is told to the model."""
        most = self.limits.max_calls_per_turn
        problem = f"Error: a turn may have {most} calls; this one was not run."
        return (*calls[:most], *(replace(call, problem=call.problem or problem) for call in calls[most:]))

    def _show(self, text: str) -> None:
        """Append what the environment says after a turn."""
        ids = self.tokenizer.encode(text)
        if len(self.token_ids) + len(ids) >= self.limits.max_context_tokens:
            self.outcome = Outcome.CONTEXT_FULL
        else:
            self._append("tool", ids)

    def _append(self, role: Role, ids: Sequence[int]) -> None:
        start, end = len(self.token_ids), len(self.token_ids) + len(ids)
        self.token_ids += ids
        self.action_mask += [role == "assistant"] * len(ids)
        if end > len(self._context):
            self._context = np.concatenate([self._context, np.empty(2 * end - start, dtype=np.int64)])
        # Half of the time that NumPy takes to read a list.
        self._context[start:end] = np.frombuffer(struct.pack(f"{len(ids)}q", *ids), dtype=np.int64)
        turn = self.turn - 1 if role == "tool" else self.turn  # a result belongs to the turn that called
        self.spans.append(Span(role=role, turn=turn, start=start, end=end))

    def _check(self, ids: Sequence[int]) -> None:
        if len(ids) > self.budget:
            raise UsageError(f"action of {len(ids)} ids, but the budget in the observation was {self.budget}")
        if min(ids) < 0 or max(ids) >= self.tokenizer.vocab_size:
            raise UsageError(f"action has ids outside of [0, {self.tokenizer.vocab_size}): {min(ids)}..{max(ids)}")

    def fit(self, output: str) -> str:
        """What a tool said, with control tokens disarmed and cut to the token limit, head and tail kept."""
        text = self.tokenizer.escape(output)
        ids = self.tokenizer.encode(text)
        limit = self.limits.max_tool_tokens
        if len(ids) > limit:
            head, tail = ids[: limit - limit // 2], ids[len(ids) - limit // 2 :]
            marker = f"\n[... {len(ids) - limit} tokens cut ...]\n"
            text = self.tokenizer.escape(self.tokenizer.decode(head) + marker + self.tokenizer.decode(tail))
        return text
