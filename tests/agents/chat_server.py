"""A chat endpoint on loopback in OpenAI's protocol: solves ``What is EXPRESSION?`` with a tool, if it is given one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

_QUESTION = re.compile(r"What is (.+?)\?")


class ChatServer:
    """What it was asked, and how it should misbehave.

    Attributes:
        bodies: of all requests.
        failures: statuses of the next answers, with headers, before it works; 200 lets one through.
        reasons: why the next texts end, whatever they are, before it says the truth.
        refusal: what those answers say, if not their status.
        seconds: that every answer takes.
        names_stop: says which stop string ended the text, as SGLang does.
        bare_calls: writes programs as text also when tools are offered.
        models: that it says it has.
        counts: says how many words it wrote, as its tokens.
        arguments: of its calls, whatever they are; ``...`` for those that belong there.
        raw: bytes of every answer.
        key: that it wants.
        seen: the headers ``authorization`` of all requests.
    """

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.failures: list[tuple[int, dict[str, str]]] = []
        self.reasons: list[str | None] = []
        self.seconds = 0.0
        self.names_stop = False
        self.bare_calls = False
        self.models = ["tiny"]
        self.counts = False
        self.arguments: Any = ...
        self.raw = b""
        self.key = ""
        self.seen: list[str] = []
        self.refusal = ""
        self.url = ""

    async def answer(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        await asyncio.sleep(self.seconds)
        self.seen.append(request.headers.get("authorization", ""))
        status, headers = self.failures.pop(0) if self.failures else (200, {})
        if status != 200:
            return JSONResponse({"error": {"message": self.refusal or f"told to fail with {status}"}}, status, headers)
        if self.raw:
            return Response(self.raw, media_type="application/json")
        choice = self._choice(body)
        if self.reasons:
            choice["finish_reason"] = self.reasons.pop(0)
        usage = {"usage": {"completion_tokens": len(str(choice["message"]).split())}} if self.counts else {}
        return JSONResponse({"choices": [choice], **usage})

    async def list_models(self, request: Request) -> Response:
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            return JSONResponse({"error": {"message": "that is not the key"}}, 401)
        return JSONResponse({"object": "list", "data": [{"id": name, "object": "model"} for name in self.models]})

    def _choice(self, body: dict[str, Any]) -> dict[str, Any]:
        last = body["messages"][-1]
        outputs = [m["content"] for m in body["messages"] if m["role"] == "tool" or m["content"].startswith("Output:")]
        if last["role"] != "user" or outputs:
            return self._write(rf"So it is \boxed{{{outputs[-1].removeprefix('Output:').strip()}}}.", body)
        if not (asked := _QUESTION.findall(last["content"])):
            return self._write("I do not know.", body)
        program = f"print({asked[-1]})"
        if not body.get("tools") or self.bare_calls:
            return self._write(f"Let me see. <code>\n{program}\n</code>", body)
        name = body["tools"][0]["function"]["name"]
        arguments = json.dumps({"code": program}) if self.arguments is ... else self.arguments
        call = {"id": "x", "type": "function", "function": {"name": name, "arguments": arguments}}
        message = {"role": "assistant", "content": "Let me see. ", "tool_calls": [call]}
        return {"index": 0, "message": message, "finish_reason": "tool_calls"}

    def _write(self, text: str, body: dict[str, Any]) -> dict[str, Any]:
        matched = [stop for stop in body.get("stop", ()) if stop in text]
        text = text[: text.index(matched[0])] if matched else text
        words = re.findall(r"\s*\S+\s*", text)
        cut = len(words) > body["max_tokens"]
        message = {"role": "assistant", "content": "".join(words[: body["max_tokens"]])}
        named = {"matched_stop": matched[0]} if matched and self.names_stop and not cut else {}
        return {"index": 0, "message": message, "finish_reason": "length" if cut else "stop", **named}


@contextlib.contextmanager
def chat_server() -> Iterator[ChatServer]:
    chat = ChatServer()
    routes = [Route("/v1/chat/completions", chat.answer, methods=["POST"]), Route("/v1/models", chat.list_models)]
    app = Starlette(routes=routes)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        chat.url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield chat
        finally:
            server.should_exit = True
            thread.join(10)
