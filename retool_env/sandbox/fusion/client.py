"""The sandbox on a SandboxFusion server, ByteDance's or ours.

``FusionSandbox`` sends each program to ``/run_code``. What is only trouble on the way (no connection, status 429 or
5xx, ``SandboxError``) is tried again, at random growing intervals and not before the moment that the server names,
until a total deadline; how a program ended is never asked twice.

A server of ours is recognised by a header of its ``/v1/ping`` and then does everything that
:class:`~retool_env.sandbox.base.Sandbox` promises, sessions apart. A foreign one knows scripts, wall time and memory
only: notebooks and seeds are done by a wrapper that travels with the program (``remote``), results that it cut without
saying so are marked (``terms``), and processor time, ``stop_bytes``, ``disk_mb`` and the ban on sub-processes
are not enforced.
"""

from __future__ import annotations

import os
import random
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, NoReturn, Self

import httpx

from retool_env.errors import UsageError
from retool_env.sandbox.base import (
    Cancel,
    Fault,
    Limits,
    Mode,
    RunResult,
    RunStatus,
    Session,
    check_files,
    check_relative,
)
from retool_env.sandbox.fusion.courier import Courier, DroppedError, retry_after
from retool_env.sandbox.fusion.terms import Order, from_foreign, from_own
from retool_env.sandbox.fusion.wire import OWN_HEADER, RunCodeResponse
from retool_env.urls import check_url, mask_url

__all__ = ["DEFAULT_URL", "FusionSandbox"]

DEFAULT_URL: Final = "http://localhost:8080"
_URL_VARIABLE: Final = "SANDBOX_FUSION_ENDPOINT"
_TOKEN_VARIABLE: Final = "SANDBOX_FUSION_TOKEN"
_CONNECT_SECONDS: Final = 5.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0


@dataclass(frozen=True, kw_only=True)
class _Failure:
    """An attempt that may be repeated."""

    fault: Fault
    message: str
    pause: float = 0.0


class FusionSandbox:
    """Runs programs on a SandboxFusion server. Thread-safe.

    Args:
        url: the server; ``SANDBOX_FUSION_ENDPOINT`` when not given, http://localhost:8080 when that is not set. A
            trailing ``/run_code`` is left out, because verl's configuration has it.
        token: sent as bearer token; ``SANDBOX_FUSION_TOKEN`` when not given, none when that is not set.
        max_connections: requests at the same time; further ones wait here.
        max_attempts: of one run, full queues (status 429) not counted.
        deadline_seconds: for one run with all its waiting and attempts; four times its wall limit and a minute when
            not given.
        plain: use nothing but SandboxFusion's own words, also with a server of ours.

    Raises:
        UsageError: no http or https URL.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        token: str | None = None,
        max_connections: int = 256,
        max_attempts: int = 5,
        deadline_seconds: float | None = None,
        plain: bool = False,
    ) -> None:
        url = url or os.environ.get(_URL_VARIABLE) or DEFAULT_URL
        self._address = check_url(url, what="sandbox URL", example="http://host:8080", suffix="/run_code")
        self.url = mask_url(self._address)
        self._token = token or os.environ.get(_TOKEN_VARIABLE)
        if max_connections < 1 or max_attempts < 1:
            raise UsageError(f"max_connections={max_connections}, max_attempts={max_attempts}: must be at least 1")
        self._max_connections = max_connections
        self._max_attempts = max_attempts
        self._deadline_seconds = deadline_seconds
        self._lock = threading.Lock()
        self._closing = Cancel()
        self._plain = plain
        self._own: bool | None = None
        self._courier: Courier | None = None

    def run(
        self,
        code: str,
        *,
        mode: Mode = "script",
        limits: Limits | None = None,
        stdin: str = "",
        files: Mapping[str, bytes] | None = None,
        fetch: Sequence[str] = (),
        seed: int = 0,
        cancel: Cancel | None = None,
        key: str = "",
    ) -> RunResult:
        """See :class:`~retool_env.sandbox.base.Sandbox`. ``key`` is the server's business and not sent.

        Raises:
            UsageError: a file name that is not relative, a wrong address or token, a limit that the server refuses.
        """
        check_files(files or {})
        check_relative(fetch)
        limits = limits or Limits()
        order = Order(
            code=code, mode=mode, limits=limits, stdin=stdin, files=dict(files or {}), fetch=tuple(fetch), seed=seed
        )
        if self._closing.cancelled:
            return _sandbox_error("closed", "the client was closed")
        return self._insist(order, cancel or Cancel())

    def _insist(self, order: Order, cancel: Cancel) -> RunResult:
        """Until it works, cannot work, or the deadline is over."""
        seconds = self._deadline_seconds or 4 * order.limits.wall_seconds + 60
        deadline = time.monotonic() + seconds
        bell = threading.Event()
        for switch in (cancel, self._closing):
            switch.add(bell.set)
        failures, pause = 0, _FIRST_PAUSE
        try:
            while True:
                outcome = self._try(order, deadline, cancel)
                if isinstance(outcome, RunResult):
                    return outcome
                failures += outcome.fault != "busy"
                wait = max(outcome.pause, random.uniform(0, pause))
                pause = min(2 * pause, _LONGEST_PAUSE)
                if failures >= self._max_attempts or time.monotonic() + wait >= deadline:
                    return _sandbox_error(outcome.fault, f"{outcome.message} ({self.url}; given up)")
                if bell.wait(wait):
                    return RunResult(status=RunStatus.CANCELLED, stderr="cancelled between two attempts")
        except DroppedError:
            return RunResult(status=RunStatus.CANCELLED, stderr="the request was dropped")
        finally:
            for switch in (cancel, self._closing):
                switch.remove(bell.set)

    def _try(self, order: Order, deadline: float, cancel: Cancel) -> RunResult | _Failure:
        try:
            own = self._is_own(deadline, cancel)
            body = order.body(own=own)
            answer = self._get_courier().send(
                "POST", "/run_code", body, seconds=deadline - time.monotonic(), cancel=cancel
            )
        except TimeoutError:
            return _sandbox_error("unavailable", f"{self.url} did not answer within the total deadline")
        except httpx.RequestError as error:
            # The program may have run; to run it again does no harm, because nothing of it is left.
            return _Failure(fault="unavailable", message=str(error) or type(error).__name__)
        return self._read(answer, order)

    def _read(self, answer: httpx.Response, order: Order) -> RunResult | _Failure:
        if answer.status_code == 429 or answer.status_code >= 500:
            fault: Fault = "busy" if answer.status_code == 429 else "lost"
            message = f"the server answered with status {answer.status_code}"
            return _Failure(fault=fault, message=message, pause=retry_after(answer))
        if answer.status_code in (400, 401, 403, 404, 405, 413, 422):
            raise UsageError(_refusal(self.url, answer))
        try:
            response = RunCodeResponse.model_validate_json(answer.content)
        except ValueError:
            return self._nonsense(answer)
        if response.status == "SandboxError":
            fault = response.retool.fault if response.retool else ""
            return _Failure(fault=fault or "lost", message=response.message or "SandboxError")
        result = from_own(response) if response.retool else from_foreign(response, order.limits)
        return result or self._nonsense(answer)

    def _nonsense(self, answer: httpx.Response) -> RunResult:
        text = f"{self.url} answered what no SandboxFusion server would: {answer.text[:200]!r}"
        return _sandbox_error("protocol", text)

    def _is_own(self, deadline: float, cancel: Cancel) -> bool:
        """Whether the server is ours; asked once."""
        if self._plain:
            return False
        if self._own is None:
            answer = self._get_courier().send("GET", "/v1/ping", seconds=deadline - time.monotonic(), cancel=cancel)
            if answer.status_code >= 500:
                return False
            self._own = answer.headers.get(OWN_HEADER) == "1"
        return self._own

    def _get_courier(self) -> Courier:
        """This process's own: a fork must not use its parent's connections."""
        with self._lock:
            if self._closing.cancelled:
                raise DroppedError
            if self._courier is None or self._courier.owner != os.getpid():
                headers = {"content-type": "application/json"}
                if self._token:
                    headers["authorization"] = f"Bearer {self._token}"
                self._courier = Courier(
                    self._address,
                    headers=headers,
                    max_connections=self._max_connections,
                    connect_seconds=_CONNECT_SECONDS,
                )
                weakref.finalize(self, self._courier.close)
            return self._courier

    def open_session(self, *, limits: Limits | None = None, seed: int = 0, key: str = "") -> Session:
        """Always raises :class:`UsageError`: the protocol keeps no state between requests."""
        raise UsageError(f"{self.url}: a SandboxFusion server keeps no state between programs; for sessions use 'fork'")

    def health(self) -> RunResult:
        """Ask the server whether it is there, then run a one-line program."""
        self._own = None
        return self.run("print('ok')")

    def close(self) -> None:
        """Drop every request and every connection: runs in flight return ``cancelled``."""
        with self._lock:
            self._closing()
            courier = self._courier
        if courier is not None:
            courier.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a FusionSandbox cannot be pickled: send its name and call open_sandbox(name) on the other side"
        )


def _sandbox_error(fault: Fault, message: str) -> RunResult:
    return RunResult(status=RunStatus.SANDBOX_ERROR, fault=fault, stderr=message)


def _refusal(url: str, answer: httpx.Response) -> str:
    if answer.status_code == 401:
        return f"{url} wants a token: set token, or the environment variable {_TOKEN_VARIABLE}"
    try:
        detail = answer.json()["detail"]
        told = detail if isinstance(detail, str) else f"{'.'.join(map(str, detail[0]['loc'][1:]))}: {detail[0]['msg']}"
    except (ValueError, LookupError, TypeError):
        told = answer.text[:200]
    return f"{url} refused the request with status {answer.status_code}: {told}"
