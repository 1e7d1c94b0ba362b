"""inspect-ai: a task with its ``python`` tool in the ``local`` sandbox, its mock model, ``includes`` as scorer.

Set to what costs it least: no display, no realtime log, a log on disk in its own format as always. Its tool starts a
login shell with a new interpreter for each call, and does not isolate it.
"""

from __future__ import annotations

import shutil
import tempfile
from typing import Any

from driver import AT_ONCE, CODE, GOLD, NUM_SAMPLES, QUESTION, Play, serve
from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import ModelOutput, ModelUsage, get_model
from inspect_ai.scorer import includes
from inspect_ai.solver import generate, use_tools
from inspect_ai.tool import python

ANSWER = rf"After some checks, the product is \boxed{{{GOLD}}}."
USAGE = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)  # without one it downloads a tokenizer


def write(messages: Any, tools: Any, tool_choice: Any, config: Any) -> ModelOutput:
    """Calls the tool first if it is offered, then answers."""
    name = "mockllm/model"
    if tools and messages[-1].role != "tool":
        output = ModelOutput.for_tool_call(name, "python", {"code": CODE})
    else:
        output = ModelOutput.from_content(name, ANSWER)
    output.usage = USAGE
    return output


def evaluation(*solvers: Any) -> Play:
    samples = [Sample(input=QUESTION, target=GOLD) for _ in range(NUM_SAMPLES)]
    model = get_model("mockllm/model", custom_outputs=write)

    def play() -> int:
        logs = tempfile.mkdtemp(dir=".")
        task = Task(dataset=samples, solver=[*solvers, generate()], scorer=includes(), sandbox="local")
        (log,) = eval(
            task,
            model=model,
            log_dir=logs,
            display="none",
            log_realtime=False,
            max_samples=AT_ONCE,
            max_connections=AT_ONCE,
            max_subprocesses=AT_ONCE,
        )
        assert log.status == "success" and log.results is not None, log.error
        assert log.results.scores[0].metrics["accuracy"].value == 1.0
        assert log.results.completed_samples == NUM_SAMPLES
        shutil.rmtree(logs)
        return NUM_SAMPLES

    return play


serve({"answer": evaluation(), "tool": evaluation(use_tools(python()))})
