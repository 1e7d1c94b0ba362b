"""The calls of a turn: one result for each, in order, whatever becomes of the others."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence

import pytest
from pydantic import JsonValue

from retool_env.errors import SandboxError, UsageError
from retool_env.outcome import ToolStatus
from retool_env.tools import ToolBox, ToolCall, ToolContext, ToolReply, ToolSpec, function_tool
from retool_env.tools.base import Arguments


def square(x: int) -> int:
    """Square a number."""
    return x * x


def crash(x: int) -> int:
    """Crash."""
    raise RuntimeError("no")


def call(name: str, **arguments: JsonValue) -> ToolCall:
    return ToolCall(name=name, arguments=arguments)


class Counter:
    """A tool with a state for each episode; it writes down how it is used."""

    pure = False
    spec = ToolSpec(name="count", description="Count.", parameters={"type": "object", "properties": {}})

    def __init__(self) -> None:
        self.log: list[str] = []

    def open(self, context: ToolContext) -> CounterHandle:
        self.log.append(f"open {context.key} {json.dumps(dict(context.kwargs))}")
        return CounterHandle(self)


class CounterHandle:
    def __init__(self, tool: Counter) -> None:
        self.tool, self.count = tool, 0

    def call(self, arguments: Arguments, *, seed: int) -> ToolReply:
        self.count += 1
        self.tool.log.append(f"call {seed}")
        return ToolReply(status=ToolStatus.OK, text=str(self.count), cpu_seconds=1.0, wall_seconds=2.0)

    def close(self) -> None:
        self.tool.log.append("close")


class Down:
    """A tool whose service is not there."""

    pure = True
    spec = ToolSpec(name="down", description="Down.", parameters={})

    def open(self, context: ToolContext) -> CounterHandle:
        raise SandboxError("connection refused")


@pytest.fixture
def counter() -> Counter:
    return Counter()


@pytest.fixture
def box(counter: Counter) -> Iterator[ToolBox]:
    made = ToolBox([function_tool(square), function_tool(crash), counter, Down()])
    yield made
    made.close()


def texts(box: ToolBox, calls: Sequence[ToolCall], **kwargs: JsonValue) -> list[tuple[ToolStatus, str]]:
    return [(result.status, result.text) for result in box.open().run(calls, seed=0)]


def test_every_call_gets_its_own_result_in_order(box: ToolBox) -> None:
    calls = [
        call("square", x=3),
        ToolCall(name="", problem="Error: no JSON", span=(0, 4)),
        call("sqare", x=1),
        call("count"),
        call("square", x="3"),
        call("crash", x=1),
        ToolCall(name="square", problem="Error: not an object", status=ToolStatus.BAD_ARGUMENTS),
        call("down"),
        call("count"),
        call("square", x=4),
    ]
    session = box.open()
    results = session.run(calls, seed=0)
    assert [result.call for result in results] == calls
    assert [(result.status, result.text) for result in results] == [
        (ToolStatus.OK, "9"),
        (ToolStatus.MALFORMED, "Error: no JSON"),
        (ToolStatus.UNKNOWN_TOOL, "Error: there is no tool 'sqare'; did you mean 'square'?. Nothing was run."),
        (ToolStatus.OK, "1"),
        (ToolStatus.BAD_ARGUMENTS, "Error: argument 'x' of square: expected a valid integer, got \"3\""),
        (ToolStatus.ERROR, "RuntimeError: no"),
        (ToolStatus.BAD_ARGUMENTS, "Error: not an object"),
        (ToolStatus.OUTAGE, "[down is not available]"),
        (ToolStatus.OK, "2"),
        (ToolStatus.OK, "16"),
    ]
    assert (results[3].cpu_seconds, results[3].wall_seconds) == (1.0, 2.0)


def test_an_unknown_name_far_from_any_lists_what_there_is(box: ToolBox) -> None:
    assert texts(box, [call("zzzzzz")])[0][1] == (
        "Error: there is no tool 'zzzzzz'; known: count, crash, down, square. Nothing was run."
    )
    assert texts(ToolBox([]), [call("a")])[0][1] == "Error: there is no tool 'a'; there are no tools. Nothing was run."


def test_pure_calls_of_a_turn_meet(counter: Counter) -> None:
    """Each of four calls waits until all four are there: only calls at the same time can get through."""
    barrier = threading.Barrier(4, timeout=60)

    def meet(k: int) -> int:
        """Meet."""
        barrier.wait()
        return k

    box = ToolBox([function_tool(meet, timeout=None), counter], workers=4)
    calls = [call("meet", k=0), call("count"), *(call("meet", k=k) for k in (1, 2, 3)), call("count")]
    assert [text for _, text in texts(box, calls)] == ["0", "1", "1", "2", "3", "2"]
    box.close()


def test_calls_that_are_not_pure_run_one_after_another_in_the_caller() -> None:
    running: list[int] = []
    seen: list[tuple[int, str]] = []

    def step(k: int) -> int:
        """Step."""
        running.append(k)
        seen.append((k, threading.current_thread().name))
        assert running == [k]
        running.remove(k)
        return k

    box = ToolBox([function_tool(step, pure=False, timeout=None)])
    assert [text for _, text in texts(box, [call("step", k=k) for k in range(20)])] == [str(k) for k in range(20)]
    assert seen == [(k, threading.current_thread().name) for k in range(20)]


def test_workers_bound_how_many_run_at_once() -> None:
    lock, now, most = threading.Lock(), [0], [0]

    def work(k: int) -> int:
        """Work."""
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        threading.Event().wait(0.02)
        with lock:
            now[0] -= 1
        return k

    box = ToolBox([function_tool(work)], workers=3)
    sessions = [box.open() for _ in range(4)]
    calls = [call("work", k=k) for k in range(6)]
    threads = [threading.Thread(target=session.run, args=(calls,), kwargs={"seed": 0}) for session in sessions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    box.close()
    assert 1 < most[0] <= 3


def test_a_tool_is_opened_when_it_is_first_called_and_closed_with_the_episode(box: ToolBox, counter: Counter) -> None:
    session = box.open(key="episode 1")
    session.run([call("square", x=1)], seed=0)
    session.close()
    assert counter.log == []
    session = box.open(key="episode 2")
    for _ in range(2):
        session.run([call("count")], seed=0)
    session.close()
    assert [line.split()[0] for line in counter.log] == ["open", "call", "call", "close"]
    assert texts(box, [call("count")]) == [(ToolStatus.OK, "1")], "a new episode starts anew"


@pytest.mark.parametrize("nested", [True, False])
def test_a_problems_settings_reach_the_tool_and_the_gold_does_not(nested: bool, box: ToolBox, counter: Counter) -> None:
    settings: dict[str, JsonValue] = {"level": 3, "ground_truth": "42"}
    given = {"create_kwargs": settings} if nested else settings
    session = box.open(tools_kwargs={"count": given, "elsewhere": {"a": 1}}, key="k")
    session.run([call("count")], seed=0)
    assert counter.log[0] == 'open k {"level": 3}'


def test_seeds_are_functions_of_the_seed_and_the_place(box: ToolBox, counter: Counter) -> None:
    def seeds(seed: int) -> list[str]:
        counter.log.clear()
        box.open().run([call("count"), call("square", x=1), call("count")], seed=seed)
        return counter.log[1:]

    first = seeds(1)
    assert len(set(first)) == 2
    assert seeds(1) == first
    assert not set(seeds(2)) & set(first)


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(UsageError, match="two tools are called 'square'"):
        ToolBox([function_tool(square), function_tool(crash, name="square")])


def test_text_that_no_file_can_hold_is_mended(box: ToolBox) -> None:
    def half() -> str:
        """Half a character."""
        return "a\ud83d"

    ((_, text),) = texts(ToolBox([function_tool(half)]), [call("half")])
    assert text == "a?"
    ((_, unknown),) = texts(box, [call("\ud83d")])
    unknown.encode()


def test_a_closed_box_opens_its_threads_again(box: ToolBox) -> None:
    calls = [call("square", x=k) for k in range(3)]
    before = texts(box, calls)
    box.close()
    assert texts(box, calls) == before
