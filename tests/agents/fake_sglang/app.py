"""The HTTP side: SGLang's endpoints in front of a :class:`~tests.agents.fake_sglang.scheduler.Scheduler`."""

from __future__ import annotations

import asyncio
import base64
import json
import pickle
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.agents.fake_sglang.group import Receiver
from tests.agents.fake_sglang.job import Job
from tests.agents.fake_sglang.request import Params, Refused
from tests.agents.fake_sglang.scheduler import Scheduler

_OPEN = ("/health", "/health_generate", "/ready")
Handler = Callable[[Request], Awaitable[Response]]


class Api:
    def __init__(self, scheduler: Scheduler, *, api_key: str | None, health_seconds: float) -> None:
        self.scheduler = scheduler
        self.brain = scheduler.brain
        self.updating = False
        self.receiver = Receiver()
        self.broken = 0
        self._api_key, self._health_seconds = api_key, health_seconds

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                *(self._route(path, self.health, "GET") for path in ("/health", "/health_generate")),
                self._route("/ready", self.ready, "GET"),
                self._route("/generate", self.generate, "POST", "PUT"),
                self._route("/abort_request", self.abort, "POST"),
                self._route("/pause_generation", self.pause, "POST"),
                self._route("/continue_generation", self.resume, "POST"),
                self._route("/flush_cache", self.flush, "GET", "POST"),
                self._route("/update_weights_from_disk", self.update_disk, "POST"),
                self._route("/update_weights_from_tensor", self.update_tensor, "POST"),
                self._route("/init_weights_update_group", self.join_group, "POST"),
                self._route("/update_weights_from_distributed", self.update_group, "POST"),
                self._route("/destroy_weights_update_group", self.leave_group, "POST"),
                self._route("/update_weight_version", self.rename, "POST"),
                self._route("/begin_weight_update", partial(self.session, True), "POST"),
                self._route("/end_weight_update", partial(self.session, False), "POST"),
                self._route("/weights_checker", self.checksums, "POST"),
                *(self._route(path, self.model_info, "GET") for path in ("/model_info", "/get_model_info")),
                self._route("/server_info", self.server_info, "GET"),
                self._route("/v1/models", self.models, "GET"),
                self._route("/v1/loads", self.loads, "GET"),
                self._route("/fake/digests", self.digests, "GET"),
                self._route("/fake/break", self.break_down, "POST"),
            ]
        )

    def _route(self, path: str, handler: Handler, *methods: str) -> Route:
        async def guarded(request: Request) -> Response:
            allowed = self._api_key is None or request.headers.get("authorization") == f"Bearer {self._api_key}"
            if not allowed and path not in _OPEN:
                return JSONResponse({"error": "Unauthorized"}, status_code=401)
            try:
                return await handler(request)
            except Refused as refused:
                return refused.response()

        return Route(path, guarded, methods=list(methods))

    async def health(self, request: Request) -> Response:
        """Generates a token, so a paused server fails."""
        job = self._job(uuid.uuid4().hex, [0], Params(max_new_tokens=1), -1)
        self.scheduler.submit(job)
        try:
            await asyncio.wait_for(job.done.wait(), self._health_seconds)
        except TimeoutError:
            await run_in_threadpool(self.scheduler.abort, job.rid)
            return Response(status_code=503)
        return Response()

    async def ready(self, request: Request) -> Response:
        return Response(status_code=503 if self.scheduler.mode else 200)

    async def generate(self, request: Request) -> Response:
        if self.broken:
            self.broken -= 1
            return JSONResponse({"error": {"message": "The request queue is full."}}, status_code=503)
        body = await request.json()
        jobs, batch = self._jobs(body), isinstance(body.get("rid") or body.get("input_ids", [0])[0], list)
        await self._unpaused()
        for job in jobs:
            self.scheduler.submit(job)
        if body.get("stream"):
            return StreamingResponse(self._events(jobs[0]), media_type="text/event-stream")
        for job in jobs:
            while not job.done.is_set():
                await asyncio.wait([asyncio.ensure_future(job.done.wait())], timeout=0.5)
                if not job.done.is_set() and await request.is_disconnected():
                    await run_in_threadpool(self.scheduler.abort, job.rid)
        replies = [self._snapshot(job, final=True) for job in jobs]
        return JSONResponse(replies if batch or len(jobs) > 1 else replies[0])

    async def _unpaused(self) -> None:
        """New requests wait outside while the server is paused: no abort reaches them."""
        while self.scheduler.mode:
            await asyncio.sleep(0.01)

    async def _events(self, job: Job) -> AsyncIterator[str]:
        """Every chunk tells everything from the start."""
        told = -1
        while not job.done.is_set():
            if len(job.ids) > max(told, 0):
                told = len(job.ids)
                yield f"data: {json.dumps(self._snapshot(job, final=False))}\n\n"
            await asyncio.sleep(0.002)
        yield f"data: {json.dumps(self._snapshot(job, final=True))}\n\n"
        yield "data: [DONE]\n\n"

    def _snapshot(self, job: Job, *, final: bool) -> dict[str, Any]:
        with self.scheduler.lock:
            return job.snapshot(self.brain.tokenizer, version=self.scheduler.version, final=final)

    def _jobs(self, body: dict[str, Any]) -> list[Job]:
        if (body.get("text") is None) == (body.get("input_ids") is None):
            raise Refused("Either text or input_ids should be provided.")
        given = body.get("input_ids")
        if given is None:
            texts = body["text"] if isinstance(body["text"], list) else [body["text"]]
            given = [self.brain.tokenizer.encode(text) for text in texts]
        rows: list[list[int]] = given if given and isinstance(given[0], list) else [given]
        if not all(row and all(isinstance(token, int) for token in row) for row in rows):
            raise Refused("input_ids: Input should be a non-empty list of integers", shape="object")
        params = Params.read(body.get("sampling_params") or {})
        rids = body.get("rid") or [uuid.uuid4().hex for _ in rows]
        rids = [rids] if isinstance(rids, str) else rids
        start = body.get("logprob_start_len", -1)
        if params.n > 1:  # the samples of a prompt stand side by side, under names of their own
            rows = [row for row in rows for _ in range(params.n)]
            rids = [uuid.uuid4().hex for _ in rows]
        return [self._job(rid, row, params, start) for rid, row in zip(rids, rows, strict=True)]

    def _job(self, rid: str, ids: list[int], params: Params, logprob_start: int) -> Job:
        limit = self.brain.context_length
        budget = limit - len(ids) if params.max_new_tokens is None else params.max_new_tokens
        if len(ids) >= limit or len(ids) + budget > limit:
            raise Refused(f"Requested token count exceeds the model's maximum context length of {limit} tokens.")
        budget = max(0, min(budget, limit - 2 - len(ids)))  # without a word, two positions are kept free
        job = Job(rid=rid, input_ids=ids, params=params, budget=budget, logprob_start=logprob_start)
        loop = asyncio.get_running_loop()
        job.on_change = lambda: job.finish and loop.call_soon_threadsafe(job.done.set)
        return job

    async def abort(self, request: Request) -> Response:
        body = await request.json()
        everything = bool(body.get("abort_all"))
        await run_in_threadpool(self.scheduler.abort, body.get("rid", ""), everything=everything)
        return Response()

    async def pause(self, request: Request) -> Response:
        mode = (await request.json()).get("mode", "abort")
        await run_in_threadpool(self.scheduler.pause, mode)
        return JSONResponse({"message": f"Generation paused in {mode} mode.", "status": "ok"})

    async def resume(self, request: Request) -> Response:
        self.scheduler.resume()
        return JSONResponse({"message": "Generation continued.", "status": "ok"})

    async def flush(self, request: Request) -> Response:
        try:
            await run_in_threadpool(self.scheduler.flush, float(request.query_params.get("timeout", 0)))
        except Refused as refused:
            return PlainTextResponse(str(refused), status_code=400)
        return PlainTextResponse("Cache flushed.\n")

    async def update_disk(self, request: Request) -> Response:
        body = await request.json()

        def change() -> None:
            try:
                self.brain.load(body["model_path"])
            except OSError as error:
                raise Refused(f"Failed to load the model: {error}") from error
            self.scheduler.served = body["model_path"]

        return await self._update(change, body)

    async def update_tensor(self, request: Request) -> Response:
        body = await request.json()
        if not self.updating:
            raise Refused("update_weights_from_tensor must be called between begin_weight_update and end_weight_update")
        (packed,) = body["serialized_named_tensors"]
        return await self._update(lambda: self.brain.assign(pickle.loads(base64.b64decode(packed))), body)

    async def join_group(self, request: Request) -> Response:
        await run_in_threadpool(self.receiver.join, await request.json())
        return JSONResponse({"success": True, "message": "Succeeded to initialize custom process group."})

    async def leave_group(self, request: Request) -> Response:
        await run_in_threadpool(self.receiver.leave, (await request.json())["group_name"])
        return JSONResponse({"success": True, "message": ""})

    async def update_group(self, request: Request) -> Response:
        body = await request.json()

        def change() -> None:
            try:
                self.brain.assign(self.receiver.receive(body))
            except RuntimeError as error:
                raise Refused(f"Failed to update parameter online: {error}") from error

        return await self._update(change, body)

    async def _update(self, change: Callable[[], None], body: dict[str, Any]) -> Response:
        try:
            await run_in_threadpool(self.scheduler.update, change, body)
        except Refused as refused:
            return JSONResponse({"success": False, "message": str(refused)}, status_code=400)
        return JSONResponse(
            {"success": True, "message": "Succeeded to update model weights.", "num_paused_requests": 0}
        )

    async def rename(self, request: Request) -> Response:
        body = await request.json()
        if body.get("abort_all_requests", True):
            await run_in_threadpool(self.scheduler.abort, "", everything=True)
        self.scheduler.version = body["new_version"]
        return JSONResponse({"success": True, "message": "", "new_version": body["new_version"]})

    async def session(self, opened: bool, request: Request) -> Response:
        if self.updating == opened:
            message = f"{'a' if opened else 'no'} weight-update session is {'already ' if opened else ''}open"
            return JSONResponse({"success": False, "message": message}, status_code=400)
        self.updating = opened
        return JSONResponse({"success": True, "message": ""})

    async def checksums(self, request: Request) -> Response:
        return JSONResponse({"ranks": [{"checksums": dict(self.brain.checksums())}]})

    async def model_info(self, request: Request) -> Response:
        path, version = self.brain.path, self.scheduler.version
        info = {"model_path": path, "tokenizer_path": path, "served_model_name": self.scheduler.served}
        return JSONResponse({**info, "weight_version": version, "load_format": "auto"})

    async def server_info(self, request: Request) -> Response:
        return JSONResponse({"version": "0.5.23+fake", "model_path": self.brain.path, "tp_size": 1, "dp_size": 1})

    async def models(self, request: Request) -> Response:
        card = {"id": self.scheduler.served, "object": "model", "max_model_len": self.brain.context_length}
        return JSONResponse({"object": "list", "data": [card]})

    async def loads(self, request: Request) -> Response:
        with self.scheduler.lock:
            running, waiting = len(self.scheduler.running), len(self.scheduler.waiting)
        row = {"num_running_reqs": running, "num_waiting_reqs": waiting, "token_usage": 0.0}
        return JSONResponse({"loads": [row]})

    async def digests(self, request: Request) -> Response:
        """Not SGLang's: checksums of what came in and went out, for the tests."""
        with self.scheduler.lock:
            found, self.scheduler.digests = self.scheduler.digests, []
        return JSONResponse(found)

    async def break_down(self, request: Request) -> Response:
        """Not SGLang's: the next so many generations fail with 503."""
        self.broken = (await request.json())["times"]
        return Response()
