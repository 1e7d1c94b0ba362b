"""An OpenAI-compatible endpoint in a process of its own that answers from a checkpoint.

    python -m tests.agents.checkpoint_server FOLDER [--port PORT]

It prints ``serving http://127.0.0.1:PORT/v1`` once it listens. Conversations become the text that the tiny model was
trained on: question, its own turns, and between the tags of the interpreter what came back. Sampled requests run
together in the engine's batch. Greedy ones run alone, and the same one is computed once, so that its answer depends on
nothing else: that is what makes the endpoint deterministic.
"""

from __future__ import annotations

import argparse
import ctypes
import signal
import socket
import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agents.base import Request, Sampling
from agents.embedded import EmbeddedAgent
from agents.loading import load_model, setup_torch
from retool_env.dialects import make_dialect
from retool_env.errors import UsageError
from retool_env.outcome import ToolStatus
from retool_env.tokenizer import FileTokenizer
from retool_env.tools import ToolCall, ToolResult

_PR_SET_PDEATHSIG = 1
OUTPUT = "Output:\n"


@dataclass(kw_only=True)
class Endpoint:
    """The model ``tiny``."""

    agent: EmbeddedAgent
    tokenizer: FileTokenizer
    lock: threading.Lock = field(default_factory=threading.Lock)
    known: dict[tuple[bytes, int], list[int]] = field(default_factory=dict)
    next_session: int = 0

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        ids = np.array(self.tokenizer.encode(self._prompt(body["messages"])), dtype=np.int64)
        written = self._generate(ids, body)
        ended = written[-1] == self.tokenizer.eos_id
        text = self.tokenizer.decode(written[:-1] if ended else written)
        stop = next((word for word in body.get("stop") or () if text.endswith(word)), None)
        reason = "stop" if ended or stop else "length"
        message = {"role": "assistant", "content": text.removesuffix(stop or "")}
        choice = {"index": 0, "message": message, "finish_reason": reason, "stop_reason": stop}
        usage = {"prompt_tokens": len(ids), "completion_tokens": len(written)}
        return {"object": "chat.completion", "model": "tiny", "choices": [choice], "usage": usage}

    def _generate(self, ids: np.ndarray, body: dict[str, Any]) -> list[int]:
        with self.lock:
            self.next_session += 1
            request = Request(
                token_ids=ids,
                budget=min(body["max_tokens"], 64),
                stop=tuple(body.get("stop") or ()),
                sampling=Sampling(temperature=body["temperature"]),
                seed=body["seed"],
                session=self.next_session,
                group=self.next_session,
            )
            key = (ids.tobytes(), request.budget)
            if not body["temperature"] and key not in self.known:
                self.known[key] = self.agent.act_many([request])[0].token_ids.tolist()
        if not body["temperature"]:
            return self.known[key]
        return self.agent.act(request).token_ids.tolist()

    def _prompt(self, messages: list[dict[str, str]]) -> str:
        dialect, text = make_dialect("retool"), f"{messages[0]['content']}\n"
        for message in messages[1:]:
            said = message["content"]
            if message["role"] == "assistant":
                text += said
                continue
            result = ToolResult(call=ToolCall(), status=ToolStatus.OK, text=said.removeprefix(OUTPUT))
            text += dialect.render([result], stopped=True, tokenizer=self.tokenizer)
        return text


def app(endpoint: Endpoint) -> Starlette:
    async def complete(request: HttpRequest) -> Response:
        try:
            body = await request.json()
        except ClientDisconnect:  # a client that was killed
            return Response(status_code=499)
        try:
            return JSONResponse(await run_in_threadpool(endpoint.answer, body))
        except UsageError as error:  # more than the model's positions; a traceback each would fill a pipe nobody reads
            return JSONResponse({"error": {"message": str(error)}}, status_code=500)

    async def models(_: HttpRequest) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": "tiny", "object": "model"}]})

    return Starlette(
        routes=[Route("/v1/chat/completions", complete, methods=["POST"]), Route("/v1/models", models, methods=["GET"])]
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # no server outlives its test
    setup_torch(seed=0, threads=1, deterministic=True)
    tokenizer = FileTokenizer(options.folder)
    endpoint = Endpoint(agent=EmbeddedAgent(load_model(options.folder), tokenizer), tokenizer=tokenizer)
    with socket.create_server(("127.0.0.1", options.port), backlog=1024) as listener:
        print(f"serving http://127.0.0.1:{listener.getsockname()[1]}/v1", flush=True)
        uvicorn.Server(uvicorn.Config(app(endpoint), log_level="warning")).run(sockets=[listener])


if __name__ == "__main__":
    main()
