"""verifiers 0.1: ``ToolEnv`` with its ``MathRubric`` and a scripted client.

Its own ``PythonEnv`` needs a hosted sandbox, so the tool is the plainest local one: a new interpreter for each call.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any

import verifiers as vf
from datasets import Dataset
from driver import AT_ONCE, CODE, GOLD, QUESTION, Play, answers, serve
from verifiers.clients import Client
from verifiers.types import Response, ResponseMessage, ToolCall, Usage


def python(code: str) -> str:
    """Run a Python program.

    Args:
        code: The program.
    """
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=10)
    return done.stdout


class Scripted(Client[None, Any, Any, Any]):
    """Calls the tool first if it is offered, then answers."""

    def __init__(self) -> None:
        super().__init__(None)
        self._answers = answers()

    def setup_client(self, config: Any) -> None:
        return None

    async def to_native_tool(self, tool: Any) -> Any:
        return tool

    async def to_native_prompt(self, messages: Any) -> tuple[Any, dict[str, Any]]:
        return messages, {}

    async def get_native_response(
        self, prompt: Any, model: str, sampling_args: Any, tools: Any = None, **_: Any
    ) -> ResponseMessage:
        if not tools or prompt[-1].role == "tool":
            return ResponseMessage(content=next(self._answers), finish_reason="stop", is_truncated=False)
        call = ToolCall(id="call", name="python", arguments=json.dumps({"code": CODE}))
        return ResponseMessage(content="", tool_calls=[call], finish_reason="tool_calls", is_truncated=False)

    async def raise_from_native_response(self, response: Any) -> None:
        return None

    async def from_native_response(self, response: ResponseMessage) -> Response:
        usage = Usage(prompt_tokens=1, reasoning_tokens=0, completion_tokens=1, total_tokens=2)
        return Response(id="response", created=0, model="scripted", usage=usage, message=response)

    async def close(self) -> None:
        return None


loop = asyncio.new_event_loop()


def episodes(env: Any, *, steps: int, at_once: int = 1) -> Play:
    client = Scripted()
    rows = [env.get_dataset()[0]] * at_once

    async def run() -> list[Any]:
        return await asyncio.gather(*(env.run_rollout(row, client, "scripted", {}) for row in rows))

    def play() -> int:
        outputs = loop.run_until_complete(run())
        assert all(output["reward"] == 1.0 for output in outputs), outputs
        return steps * at_once

    return play


rows = Dataset.from_dict({"question": [QUESTION], "answer": [GOLD]})
rubric = vf.MathRubric()
single = vf.SingleTurnEnv(dataset=rows, rubric=rubric, parser=rubric.parser)
rubric = vf.MathRubric()
tools = vf.ToolEnv(dataset=rows, rubric=rubric, parser=rubric.parser, tools=[python])
serve(
    {
        "answer": episodes(single, steps=1),
        "tool": episodes(tools, steps=2),
        f"tool, {AT_ONCE} at once": episodes(tools, steps=2, at_once=AT_ONCE),
    }
)
