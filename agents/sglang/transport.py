"""HTTP to one SGLang server: requests, and the two ways in which they fail.

:class:`OutageError` means that another attempt, here or elsewhere, may work: nothing answered, the connection broke,
or the answer was 502, 503 or 504. :class:`RefusedError` is the server's considered no. Nothing is repeated here.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from typing import Final, TypeVar

import httpx
from pydantic import BaseModel, JsonValue

from agents.sglang.wire import error_message
from retool_env.errors import EngineError, UsageError
from retool_env.sandbox import Cancel
from retool_env.sandbox.fusion.courier import Courier, DroppedError
from retool_env.urls import check_url, mask_url

__all__ = ["Http", "OutageError", "RefusedError"]

_OUTAGES: Final = frozenset({502, 503, 504})
M = TypeVar("M", bound=BaseModel)


class OutageError(EngineError):
    """Nothing answered, or the answer was that nobody can at the moment."""


class RefusedError(EngineError):
    """The server answered no.

    Attributes:
        status: of HTTP.
        reason: what the server said.
    """

    def __init__(self, where: str, status: int, reason: str) -> None:
        super().__init__(f"{where} refused with status {status}: {reason}")
        self.status = status
        self.reason = reason


class Http:
    """Requests to the server at ``url``. Thread-safe; every request in flight has a connection of its own.

    Args:
        api_key: sent as bearer token.
        seconds: after which a request is given up, where it does not say otherwise.
        connect_seconds: until an address that does not answer at all is given up.
        max_connections: requests at the same time; further ones wait.

    Raises:
        UsageError: no http or https URL.
    """

    def __init__(
        self, url: str, *, api_key: str | None, seconds: float, connect_seconds: float, max_connections: int
    ) -> None:
        self._address = check_url(url, what="SGLang URL", example="http://host:30000", suffix="/generate")
        self.url = mask_url(self._address)
        self._seconds = seconds
        self._connect_seconds = connect_seconds
        self._max_connections = max_connections
        self._headers = {"content-type": "application/json"}
        if api_key:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._lock = threading.Lock()
        self._courier: Courier | None = None

    def model(
        self,
        kind: type[M],
        method: str,
        path: str,
        body: Mapping[str, JsonValue] | None = None,
        *,
        seconds: float | None = None,
    ) -> M:
        """The answer as a ``kind``; see :meth:`send`."""
        answer = self.send(method, path, body, seconds=seconds)
        try:
            return kind.model_validate_json(answer.content)
        except ValueError as error:
            raise EngineError(f"{self.url}: {path} answered what is not understood ({error})") from error

    def send(
        self,
        method: str,
        path: str,
        body: Mapping[str, JsonValue] | None = None,
        *,
        seconds: float | None = None,
        cancel: Cancel | None = None,
    ) -> httpx.Response:
        """The answer, which has status 200.

        Raises:
            OutageError: see the module.
            RefusedError: see the module.
            UsageError: the API key is missing or wrong.
            EngineError: cancelled or closed.
        """
        content = b"" if body is None else json.dumps(body).encode()
        where = f"{self.url}{path.partition('?')[0]}"
        try:
            answer = self._get_courier().send(method, path, content, seconds=seconds or self._seconds, cancel=cancel)
        except DroppedError as error:
            raise EngineError(
                f"{where}: the request was dropped, because the client was closed or cancelled"
            ) from error
        except TimeoutError as error:
            raise OutageError(f"{where}: no answer within {seconds or self._seconds:g} s") from error
        except httpx.RequestError as error:
            raise OutageError(f"{where}: {str(error) or type(error).__name__}") from error
        if answer.status_code in _OUTAGES:
            raise OutageError(f"{where}: status {answer.status_code}: {error_message(answer.content)}")
        if answer.status_code == 401:
            raise UsageError(f"{self.url} wants an API key, or another one: set agent.api_key (its --api-key)")
        if answer.status_code != 200:
            raise RefusedError(where, answer.status_code, error_message(answer.content))
        return answer

    def close(self) -> None:
        """Drop every request and connection; idempotent."""
        with self._lock:
            courier, self._courier = self._courier, None
        if courier is not None:
            courier.close()

    def _get_courier(self) -> Courier:
        """This process's own: a fork must not use its parent's connections."""
        with self._lock:
            if self._courier is None or self._courier.owner != os.getpid():
                self._courier = Courier(
                    self._address,
                    headers=self._headers,
                    max_connections=self._max_connections,
                    connect_seconds=self._connect_seconds,
                )
            return self._courier
