"""Problems for the eight financial tools, and conversations that call them: ``python finance_problems.py DIR``.

Three files are written, the same for everyone. ``train.jsonl`` and ``heldout.jsonl``: a question, the line that the
right call returns, and the name of the tool. ``traces.jsonl``: a conversation about each problem of ``train.jsonl``,
for a cold start. Questions name every number as the tool takes it, because they are meant for a very small model.
"""

from __future__ import annotations

import argparse
import itertools
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from retool_env.data.tables import RawRow, write_table
from retool_env.tools import ToolBox, ToolCall, ToolSession, load_tools

TOOLS = Path(__file__).with_name("finance_tools.py")
Arguments = dict[str, JsonValue]
Task = tuple[str, Arguments]


def _rate(rng: random.Random) -> float:
    return rng.randint(1, 12) / 100


def _amount(rng: random.Random) -> int:
    return 10 * rng.randint(10, 99)


def _compound_interest(rng: random.Random) -> Task:
    principal, rate, years = _amount(rng), _rate(rng), rng.randint(2, 30)
    question = f"What is a deposit of {principal} worth after {years} years at {rate} a year?"
    return question, {"principal": principal, "annual_rate": rate, "years": years}


def _loan_payment(rng: random.Random) -> Task:
    principal, rate, months = _amount(rng), _rate(rng), 12 * rng.randint(1, 30)
    question = f"What is the monthly payment for a loan of {principal} at {rate} a year over {months} months?"
    return question, {"principal": principal, "annual_rate": rate, "months": months}


def _flows(rng: random.Random) -> list[JsonValue]:
    first = _amount(rng)
    return [-first, first // 2 + rng.randint(1, 99), first // 2 + rng.randint(1, 99)]


def _net_present_value(rng: random.Random) -> Task:
    rate, flows = _rate(rng), _flows(rng)
    question = f"What is the net present value of {', '.join(map(str, flows))} at a discount rate of {rate}?"
    return question, {"discount_rate": rate, "cash_flows": flows}


def _internal_rate_of_return(rng: random.Random) -> Task:
    flows = _flows(rng)
    return f"What is the internal rate of return of {', '.join(map(str, flows))}?", {"cash_flows": flows}


def _bond_price(rng: random.Random) -> Task:
    face, coupon, years, rate = _amount(rng), _rate(rng), rng.randint(2, 30), _rate(rng)
    question = (
        f"What is a bond of {face} with a coupon of {coupon} over {years} years worth at a market rate of {rate}?"
    )
    return question, {"bond": {"face_value": face, "coupon_rate": coupon, "years": years}, "market_rate": rate}


def _portfolio_return(rng: random.Random) -> Task:
    parts = [(name, _amount(rng), _rate(rng)) for name in ("gold", "oil")]
    held = " and ".join(f"{value} of {name} that returned {rate}" for name, value, rate in parts)
    holdings: list[JsonValue] = [{"name": name, "value": value, "rate_of_return": rate} for name, value, rate in parts]
    return f"What did a portfolio of {held} return?", {"holdings": holdings}


def _depreciation(rng: random.Random) -> Task:
    cost, salvage, life = _amount(rng), rng.randint(10, 90), rng.randint(3, 12)
    year = rng.randint(1, life)
    question = f"How much is a machine of {cost} written off in year {year} of {life}, down to {salvage}?"
    return question, {"cost": cost, "salvage_value": salvage, "life_years": life, "year": year}


def _break_even(rng: random.Random) -> Task:
    fixed, cost, price = _amount(rng), rng.randint(1, 40), rng.randint(41, 99)
    question = f"How many units at {price} cover fixed costs of {fixed} when a unit costs {cost}?"
    return question, {"fixed_costs": fixed, "price_per_unit": price, "cost_per_unit": cost}


DRAW: dict[str, Callable[[random.Random], Task]] = {
    "compound_interest": _compound_interest,
    "loan_payment": _loan_payment,
    "net_present_value": _net_present_value,
    "internal_rate_of_return": _internal_rate_of_return,
    "bond_price": _bond_price,
    "portfolio_return": _portfolio_return,
    "depreciation": _depreciation,
    "break_even": _break_even,
}


@dataclass(frozen=True, kw_only=True)
class Example:
    """A question, the call that answers it, and the line that the call returns."""

    question: str
    tool: str
    arguments: Arguments
    line: str


def examples(count: int, *, seed: str, tools: ToolSession, taken: Collection[str] = ()) -> list[Example]:
    """``count`` examples with different questions, none of them ``taken``; the tools in turn."""
    rng = random.Random(seed)
    found: dict[str, Example] = {}
    while len(found) < count:
        tool = list(DRAW)[len(found) % len(DRAW)]
        question, arguments = DRAW[tool](rng)
        if question not in taken and question not in found:
            (result,) = tools.run([ToolCall(name=tool, arguments=arguments)], seed=0)
            found[question] = Example(question=question, tool=tool, arguments=arguments, line=result.text)
    return list(found.values())


def problem_row(example: Example) -> RawRow:
    """The example as a row to train or evaluate on."""
    return {"prompt": example.question, "answer": example.line, "family": example.tool, "tool": example.tool}


def trace_row(number: int, example: Example) -> RawRow:
    """A conversation in which the right tool is called with the right numbers."""
    call = {"type": "function", "function": {"name": example.tool, "arguments": example.arguments}}
    messages: list[dict[str, object]] = [
        {"role": "user", "content": example.question},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": example.line},
        {"role": "assistant", "content": f"\\boxed{{{example.line}}}"},
    ]
    return {"id": f"trace/{number}", "answer": example.line, "messages": messages}


def main() -> None:
    """Write the three files."""
    parser = argparse.ArgumentParser(description="Write problems for the eight financial tools.")
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--problems", type=int, default=8000, help="to train on (default: %(default)s)")
    options = parser.parse_args()
    box = ToolBox(load_tools(str(TOOLS)))
    tools = box.open()
    heldout = examples(200, seed="heldout", tools=tools)
    taken = {example.question for example in heldout}
    train = examples(options.problems, seed="train", tools=tools, taken=taken)
    for name, rows in {
        "heldout": map(problem_row, heldout),
        "train": map(problem_row, train),
        "traces": itertools.starmap(trace_row, enumerate(train)),
    }.items():
        write_table(options.folder / f"{name}.jsonl", rows)
    tools.close()
    box.close()


if __name__ == "__main__":
    main()
