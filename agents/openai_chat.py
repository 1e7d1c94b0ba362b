"""Models behind a chat endpoint (OpenAI's protocol), for evaluation.

The endpoint reads the episode as a conversation: the prompt, what it wrote, what its tools said. A structured tool call
is written down in the episode's dialect, so that it is parsed, run, counted and shown like any other; text and call are
encoded once, with the episode's tokenizer (bytes, where the model's is not known), and never again. There are no
log-probabilities: such episodes cannot be trained on.

Tried again are outages and full endpoints (no connection, 408, 409, 429, 5xx, a generation that the server gave up), at
growing intervals and not before the moment that the endpoint names. A turn that a content filter stopped is a failure
of its episode, for what is left is not what the policy wrote. So is a refusal of one request (400, 413, 422) by an
endpoint that has answered others; of an episode that has outgrown the endpoint's context it is the end, as a turn cut
by length. Every other refusal is the user's mistake and stops the run.

Left out: streaming, and reasoning that it reports beside the text.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Mapping
from typing import Final

import httpx
from pydantic import JsonValue

from agents.base import Generation, Request, check_request
from agents.chat_messages import as_calls, chat_messages, cut_turn, with_calls, with_stop
from agents.openai_wire import Choice, Completion, Models, read_completion, says_full, told
from agents.writing import write_turn
from retool_env.dialects import Dialect
from retool_env.errors import EngineError, UsageError
from retool_env.sandbox import Cancel
from retool_env.sandbox.fusion.courier import Courier, DroppedError, retry_after
from retool_env.terminal import shorten
from retool_env.tokenizer import Tokenizer
from retool_env.urls import check_url, mask_url

__all__ = ["OpenAIAgent"]

_CONNECT_SECONDS: Final = 10.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_AGAIN: Final = frozenset({408, 409, 429})
_OF_ONE_REQUEST: Final = frozenset({400, 413, 422})
_KEY_REFUSED: Final = frozenset({401, 403})


class _FullError(Exception):
    """Prompt and budget are more than the endpoint's context."""


class OpenAIAgent:
    """Asks ``url``/chat/completions. Thread-safe.

    Args:
        url: with its version, as ``https://api.openai.com/v1``; a user and password in it are sent instead of the key.
        model: what the endpoint calls the model; ``None`` for the only one that it has, which :meth:`connect` finds.
        tokenizer: the episode's.
        dialect: the episode's.
        api_key: sent as bearer token.
        structured: offer the tools and show calls as structured ones; off for endpoints that know no tools, which then
            have to be told in the prompt how calls are written.
        extra: further fields of the request; ``None`` as a value leaves a field out.
        seconds: for one turn with all its attempts.
        max_attempts: of one turn.
        ids_per_token: how many of the episode's ids a token of the endpoint is taken for, in what it is allowed to
            write: 1 with the model's own tokenizer, about 4 with bytes.

    Attributes:
        url: as it may be shown.
        model_name: what the endpoint calls the model; "" before it was found out.

    Raises:
        UsageError: no http or https URL.
    """

    reads_messages = True

    def __init__(
        self,
        url: str,
        model: str | None,
        tokenizer: Tokenizer,
        dialect: Dialect,
        *,
        api_key: str | None = None,
        structured: bool = True,
        extra: Mapping[str, JsonValue] | None = None,
        seconds: float = 600.0,
        max_attempts: int = 8,
        max_connections: int = 1024,
        ids_per_token: int = 1,
    ) -> None:
        address = check_url(url, what="chat endpoint", example="https://host/v1", suffix="/chat/completions")
        self.url = mask_url(address)
        self._tokenizer, self._dialect, self._ids_per_token = tokenizer, dialect, ids_per_token
        self._structured, self._extra = structured, dict(extra or {})
        self._seconds, self._max_attempts = seconds, max_attempts
        headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {api_key}"} if api_key else {})
        self._courier = Courier(
            address, headers=headers, max_connections=max_connections, connect_seconds=_CONNECT_SECONDS
        )
        self._answered = False
        self.model_name = model or ""

    def connect(self) -> None:
        """Find out whether anything is there, and which model it has, where that was not said.

        Raises:
            UsageError: nothing answers, or it has no model, or several, and none was named, or it wants another key.
        """
        try:
            answer = self._courier.send("GET", "/models", seconds=_CONNECT_SECONDS)
        except (httpx.RequestError, TimeoutError) as error:
            raise UsageError(
                f"agent.url={self.url!r}: nothing answers there ({_why(error)}); is the server running?"
            ) from error
        if self.model_name:
            return
        if answer.status_code in _KEY_REFUSED:
            raise self._refusal(answer)
        try:
            names = [model.id for model in Models.model_validate_json(answer.content).data]
        except ValueError:
            names = []
        if len(names) != 1:
            found = shorten(", ".join(names), 200) or f"none are named there (status {answer.status_code})"
            raise UsageError(f"agent.model is not set, and {self.url} has no single model: {found}")
        self.model_name = names[0]

    def act(self, request: Request) -> Generation:
        """One turn; see :class:`~agents.base.Agent`.

        Raises:
            UsageError: the request has no messages, or the endpoint refuses what the user has set.
            EngineError: the endpoint did not answer, refuses this one request, or filtered what the policy wrote.
        """
        check_request(request, self._tokenizer.vocab_size)
        if not request.messages:
            raise UsageError("a chat endpoint reads messages, and this request has none; only evaluation writes them")
        cancel = request.cancel or Cancel()
        if cancel.cancelled:
            return Generation.aborted()
        try:
            completion = self._ask(self._body(request), cancel)
        except DroppedError:
            if cancel.cancelled:
                return Generation.aborted()
            raise EngineError(f"{self.url}: the client was closed") from None
        except _FullError as error:
            return self._no_room(request, error)
        choice = completion.choices[0]
        ended = choice.finish_reason != "length"
        return write_turn(self._text(choice), request, self._tokenizer, ended=ended, num_counted=completion.num_counted)

    def close(self) -> None:
        """Drop every request and connection; idempotent."""
        self._courier.close()

    def _body(self, request: Request) -> bytes:
        body: dict[str, JsonValue] = {
            "model": self.model_name,
            "messages": chat_messages(request.messages, self._dialect, structured=self._structured),
            "max_tokens": max(1, request.budget // self._ids_per_token),
            "temperature": request.sampling.temperature,
            "top_p": request.sampling.top_p,
            "top_k": request.sampling.top_k or None,  # no word of OpenAI's, but of every open server
            "seed": request.seed % 2**31,
            "stop": list(request.stop) or None,
            "tools": [tool.openai() for tool in request.tools] if self._structured and request.tools else None,
            **self._extra,
        }
        return json.dumps({name: value for name, value in body.items() if value is not None}).encode()

    def _no_room(self, request: Request, error: _FullError) -> Generation:
        """A turn that is cut by length at once. Not the first one: a prompt that does not fit is not the policy's
        doing, and to score it as wrong would hide that the endpoint's context is smaller than what was set."""
        if request.turn == 0:
            raise EngineError(f"{error}; lower env.max_turn_tokens, or give the server a larger context") from error
        return write_turn(" ", request, self._tokenizer, ended=False)

    def _text(self, choice: Choice) -> str:
        text = choice.message.content or ""
        functions = [(call.function.name, call.function.arguments) for call in choice.message.tool_calls or ()]
        if choice.finish_reason == "length":
            return cut_turn(text, functions, self._dialect)
        if functions:
            return with_calls(text, as_calls(functions), self._dialect)
        matched = choice.matched_stop if choice.matched_stop is not None else choice.stop_reason
        return with_stop(text, matched, self._dialect)

    def _ask(self, body: bytes, cancel: Cancel) -> Completion:
        """The answer, with a choice in it, after as many attempts as it takes."""
        deadline = time.monotonic() + self._seconds
        bell = threading.Event()
        cancel.add(bell.set)
        try:
            for attempt in range(1, self._max_attempts + 1):
                found = self._try(body, deadline, cancel)
                if isinstance(found, Completion):
                    return found
                trouble, named = found
                pause = max(named, random.uniform(0.5, 1.0) * min(_FIRST_PAUSE * 2 ** (attempt - 1), _LONGEST_PAUSE))
                if attempt == self._max_attempts or time.monotonic() + pause > deadline:
                    raise EngineError(f"{self.url}: {trouble} (given up after {attempt} attempts)")
                if bell.wait(pause):
                    raise DroppedError
            raise AssertionError("the last attempt returns or raises")
        finally:
            cancel.remove(bell.set)

    def _try(self, body: bytes, deadline: float, cancel: Cancel) -> Completion | tuple[str, float]:
        """The answer, or what went wrong and how long the endpoint asks to wait."""
        left = max(deadline - time.monotonic(), 0.001)
        try:
            answer = self._courier.send("POST", "/chat/completions", body, seconds=left, cancel=cancel)
        except TimeoutError:
            return "no answer in time", 0.0
        except httpx.RequestError as error:
            return _why(error), 0.0
        if answer.status_code in _AGAIN or answer.status_code >= 500:
            return f"status {answer.status_code}: {told(answer)}", retry_after(answer)
        if answer.status_code != 200:
            raise self._refusal(answer)
        completion = self._read(answer)
        choice = completion.choices[0]
        return (f"no whole turn (finish_reason {choice.finish_reason!r})", 0.0) if choice.failed else completion

    def _read(self, answer: httpx.Response) -> Completion:
        """The completion, which has a choice that no filter has cut."""
        try:
            completion = read_completion(answer.content)
        except ValueError as error:
            raise EngineError(f"{self.url} answered what is no chat completion: {answer.text[:200]!r}") from error
        if not completion.choices:
            raise EngineError(f"{self.url} answered a completion without a choice: {answer.text[:200]!r}")
        self._answered = True
        if completion.choices[0].finish_reason == "content_filter":
            raise EngineError(f"{self.url}: its content filter stopped the turn (finish_reason 'content_filter')")
        return completion

    def _refusal(self, answer: httpx.Response) -> Exception:
        """What to raise: whose mistake it is depends on what is refused, and on whether anything was ever answered."""
        said = f"{self.url} refused with status {answer.status_code}: {told(answer)}"
        if answer.status_code in _OF_ONE_REQUEST:
            if says_full(answer):
                return _FullError(said)
            if self._answered:
                return EngineError(said)
        key = answer.status_code in _KEY_REFUSED
        return UsageError(f"{said}; {'set agent.api_key' if key else 'see agent.url, agent.model and options'}")


def _why(error: Exception) -> str:
    """Why there was no connection. Proxies are never used (:mod:`~retool_env.sandbox.fusion.courier`), which has to be
    said where one is set."""
    names = [name for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY") if {name, name.lower()} & os.environ.keys()]
    note = f"; {' and '.join(names)} is not used: endpoints are asked directly" if names else ""
    return (str(error) or type(error).__name__) + note
