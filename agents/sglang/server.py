"""One SGLang server: its endpoints as typed methods.

Nothing is repeated here, and nothing is decided: which server, how often and what a turn is made of belong to the
layers above, and the order of a weight update (pause, update, flush, continue) to whoever synchronises weights.
How a request fails is said in ``transport``.

Of health there are ``ready``, which a paused server is not, and ``alive``, which it is. ``/health`` generates a token:
a paused server fails it after 20 seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from pydantic import JsonValue

from agents.sglang.transport import Http, OutageError, RefusedError
from agents.sglang.wire import (
    Checksums,
    GenerateReply,
    GenerateRequest,
    Load,
    Loads,
    ModelInfo,
    ModelList,
    PauseMode,
    ServerInfo,
    UpdateReply,
    parse_replies,
)
from retool_env.errors import EngineError
from retool_env.sandbox import Cancel

__all__ = ["OutageError", "RefusedError", "SGLangServer"]

_UPDATED: Final = "Weights were updated"
MARGIN: Final = 30.0


class SGLangServer:
    """The endpoints of the server at ``url``. Thread-safe.

    Args:
        api_key: of ``--api-key``; ``None`` for a server without.
        seconds: for a control request; weight updates have limits of their own.
        connect_seconds: until an address that does not answer at all is given up.
        max_connections: requests at the same time; further ones wait.

    Raises:
        UsageError: no http or https URL.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        seconds: float = 60.0,
        connect_seconds: float = 5.0,
        max_connections: int = 4096,
    ) -> None:
        self._http = Http(
            url,
            api_key=api_key,
            seconds=seconds,
            connect_seconds=connect_seconds,
            max_connections=max_connections,
        )
        self.url = self._http.url

    def generate(
        self, request: GenerateRequest, *, seconds: float | None = None, cancel: Cancel | None = None
    ) -> GenerateReply:
        """Sample one continuation; returns when it has ended, whatever ended it.

        Args:
            seconds: until the answer is complete, a long turn or a pause included.
            cancel: closes the connection, upon which the server ends the request and what it sampled is lost;
                :meth:`abort` keeps it.
        """
        body = request.body()
        answer = self._http.send("POST", "/generate", body, seconds=seconds, cancel=cancel)
        try:
            (reply,) = parse_replies(answer.content)
        except ValueError as error:
            raise EngineError(f"{self.url}: /generate answered what is no generation ({error})") from error
        return reply

    def abort(self, rid: str) -> None:
        """End the request ``rid``: its own call returns what it has. An unknown rid does nothing."""
        assert rid, "an empty rid aborts nothing"
        self._http.send("POST", "/abort_request", {"rid": rid})

    def abort_all(self) -> None:
        """End every request."""
        self._http.send("POST", "/abort_request", {"abort_all": True})

    def pause(self, mode: PauseMode = "retract") -> None:
        """Stop generating; new requests wait. ``retract`` keeps what running requests have and recomputes their cache
        afterwards, ``abort`` ends them, ``in_place`` freezes them with the cache they have."""
        self._http.send("POST", "/pause_generation", {"mode": mode})

    def resume(self) -> None:
        """Go on after :meth:`pause`; harmless when nothing is paused."""
        self._http.send("POST", "/continue_generation", {})

    def flush_cache(self, *, seconds: float = 30.0) -> None:
        """Forget what was computed. Waits up to ``seconds`` for running requests; refused when some are left.

        In a pause of ``retract`` requests wait in the server's queue. A flush that waits would wait for them too, one
        that does not wait lets them be; so that is tried first.
        """
        try:
            self._http.send("POST", "/flush_cache")
        except RefusedError:
            self._http.send("POST", f"/flush_cache?timeout={seconds:g}", seconds=seconds + MARGIN)

    def begin_update(self) -> bool:
        """Open a session of weight updates. False on servers before 0.5.21, which need and have none."""
        return self._session("/begin_weight_update", {"selector": "all"})

    def end_update(self) -> bool:
        """Close what :meth:`begin_update` opened."""
        return self._session("/end_weight_update", {})

    def update_from_disk(
        self, path: str, *, version: str, flush_cache: bool = True, abort_all: bool = False, seconds: float = 600.0
    ) -> UpdateReply:
        """Load the checkpoint folder ``path`` of the server's own file system."""
        body: dict[str, JsonValue] = {"model_path": path, "abort_all_requests": abort_all}
        return self._update("/update_weights_from_disk", body, version, flush_cache, seconds)

    def update_from_tensors(
        self,
        serialized: Sequence[str],
        *,
        version: str,
        load_format: str | None = None,
        flush_cache: bool = True,
        seconds: float = 600.0,
    ) -> UpdateReply:
        """Take tensors by handle from a process of this machine; one base64 string for each tensor-parallel rank."""
        body: dict[str, JsonValue] = {"serialized_named_tensors": list(serialized), "load_format": load_format}
        return self._update("/update_weights_from_tensor", body, version, flush_cache, seconds)

    def update_from_group(
        self,
        names: Sequence[str],
        dtypes: Sequence[str],
        shapes: Sequence[Sequence[int]],
        *,
        group: str,
        version: str,
        flush_cache: bool = True,
        seconds: float = 600.0,
    ) -> UpdateReply:
        """Receive the named parameters, in this order, from rank 0 of a process group; blocks until it sent them."""
        body: dict[str, JsonValue] = {
            "names": list(names),
            "dtypes": list(dtypes),
            "shapes": [list(shape) for shape in shapes],
            "group_name": group,
        }
        return self._update("/update_weights_from_distributed", body, version, flush_cache, seconds)

    def init_group(
        self,
        *,
        address: str,
        port: int,
        rank_offset: int,
        world_size: int,
        group: str,
        backend: str = "nccl",
        seconds: float = 300.0,
    ) -> UpdateReply:
        """Join a process group whose rank 0 is the trainer. Blocks until all its members have joined."""
        body: dict[str, JsonValue] = {
            "master_address": address,
            "master_port": port,
            "rank_offset": rank_offset,
            "world_size": world_size,
            "group_name": group,
            "backend": backend,
        }
        return self._http.model(UpdateReply, "POST", "/init_weights_update_group", body, seconds=seconds)

    def destroy_group(self, group: str) -> UpdateReply:
        """Leave a process group."""
        return self._http.model(UpdateReply, "POST", "/destroy_weights_update_group", {"group_name": group})

    def set_weight_version(self, version: str) -> None:
        """Rename the weights that are loaded; running requests go on."""
        self._http.send("POST", "/update_weight_version", {"new_version": version, "abort_all_requests": False})

    def checksums(self) -> tuple[Mapping[str, str], ...]:
        """A checksum of every parameter, by name, for each rank."""
        found = self._http.model(Checksums, "POST", "/weights_checker", {"action": "checksum"})
        return tuple(rank.checksums for rank in found.ranks)

    def model_info(self) -> ModelInfo:
        """What is loaded, and what it is called."""
        try:
            return self._http.model(ModelInfo, "GET", "/model_info")
        except RefusedError as error:
            if error.status != 404:
                raise
            return self._http.model(ModelInfo, "GET", "/get_model_info")  # its name before 0.5.6

    def server_info(self) -> ServerInfo:
        """How the server was started."""
        return self._http.model(ServerInfo, "GET", "/server_info")

    def loads(self) -> tuple[Load, ...]:
        """How busy each replica is."""
        return self._http.model(Loads, "GET", "/v1/loads").loads

    def context_length(self) -> int | None:
        """Positions of its model, of which a request can use all but two; ``None`` when the server does not say."""
        try:
            return self._http.model(ModelList, "GET", "/v1/models").context_length
        except RefusedError:
            return None

    def ready(self, *, seconds: float = 5.0) -> bool:
        """Whether it takes new requests: not while it starts, and not in a pause."""
        try:
            self._http.send("GET", "/ready", seconds=seconds)
        except (OutageError, RefusedError):
            return False
        return True

    def alive(self) -> bool:
        """Whether it answers at all, paused or not."""
        try:
            self.model_info()
        except (OutageError, RefusedError):
            return False
        return True

    def close(self) -> None:
        """Drop every request and connection of this client; idempotent."""
        self._http.close()

    def _session(self, path: str, body: Mapping[str, JsonValue]) -> bool:
        try:
            self._http.send("POST", path, body)
        except RefusedError as error:
            if error.status == 404:
                return False
            raise
        return True

    def _update(
        self, path: str, body: Mapping[str, JsonValue], version: str, flush_cache: bool, seconds: float
    ) -> UpdateReply:
        """A weight update. A 400 that says that the weights *were* changed is a success without the flush."""
        settings: dict[str, JsonValue] = {"weight_version": version, "flush_cache": flush_cache}
        try:
            reply = self._http.model(UpdateReply, "POST", path, {**body, **settings}, seconds=seconds)
        except RefusedError as error:
            if error.status == 400 and _UPDATED in error.reason:
                return UpdateReply(success=True, message=error.reason, flushed=False)
            raise
        return reply.model_copy(update={"flushed": flush_cache})
