"""The example of ``docs/examples``: it loads, and each of its tools gives a figure from a table or a closed form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from retool_env.dialects import make_dialect
from retool_env.outcome import ToolStatus
from retool_env.tools import ToolBox, ToolCall, describe_tools, load_tools

FILE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "finance_tools.py"

CALLS = [
    # 1000 * 1.05^10; the textbook's 1628.89.
    ("compound_interest", {"principal": 1000, "annual_rate": 0.05, "years": 10}, "Future value: 1628.89"),
    # A 200,000 mortgage at 6% over 30 years, the standard example of payment tables.
    ("loan_payment", {"principal": 200000, "annual_rate": 0.06, "months": 360}, "Monthly payment: 1199.10"),
    ("loan_payment", {"principal": 1200, "annual_rate": 0, "months": 12}, "Monthly payment: 100.00"),
    # -100 + 60/1.1 + 60/1.21
    ("net_present_value", {"discount_rate": 0.1, "cash_flows": [-100, 60, 60]}, "NPV: 4.13"),
    # 100 grows to 121 in two years.
    ("internal_rate_of_return", {"cash_flows": [-100, 0, 121]}, "IRR: 10.00%"),
    # At the coupon rate a bond is worth its face value.
    (
        "bond_price",
        {"bond": {"face_value": 1000, "coupon_rate": 0.08, "years": 5}, "market_rate": 0.08},
        "Bond price: 1000.00",
    ),
    # A zero-coupon bond: 1000 / 1.05^2.
    (
        "bond_price",
        {"bond": {"face_value": 1000, "coupon_rate": 0, "years": 2, "coupons_per_year": 1}, "market_rate": 0.05},
        "Bond price: 907.03",
    ),
    (
        "portfolio_return",
        {
            "holdings": [
                {"name": "a", "value": 100, "rate_of_return": 0.1},
                {"name": "b", "value": 300, "rate_of_return": -0.02},
            ]
        },
        "Portfolio return: 1.00%",
    ),
    ("depreciation", {"cost": 1000, "salvage_value": 100, "life_years": 9, "year": 2}, "Depreciation: 100.00"),
    (
        "depreciation",
        {"cost": 1000, "salvage_value": 100, "life_years": 5, "year": 2, "method": "double_declining"},
        "Depreciation: 240.00",
    ),
    (
        "break_even",
        {"fixed_costs": 5000, "price_per_unit": 30, "cost_per_unit": 10},
        "Break-even units: 250.00",
    ),
]


@pytest.fixture(scope="module")
def box() -> ToolBox:
    return ToolBox(load_tools(str(FILE)))


def test_there_are_eight_and_all_are_called(box: ToolBox) -> None:
    assert [spec.name for spec in box.specs] == list(dict.fromkeys(name for name, _, _ in CALLS))
    assert len(box.specs) == 8


def test_calls_written_by_a_model_give_the_figures(box: ToolBox) -> None:
    bodies = [json.dumps({"name": name, "arguments": arguments}) for name, arguments, _ in CALLS]
    turn = make_dialect("hermes").parse("".join(f"<tool_call>\n{body}\n</tool_call>\n" for body in bodies))
    results = box.open().run(turn.calls, seed=0)
    assert [(result.status, result.text) for result in results] == [(ToolStatus.OK, text) for _, _, text in CALLS]


@pytest.mark.parametrize(
    ("name", "arguments", "status", "text"),
    [
        (
            "bond_price",
            {"bond": {"face_value": -1, "coupon_rate": 0.08, "years": 5}, "market_rate": 0.08},
            ToolStatus.BAD_ARGUMENTS,
            "Error: argument 'bond.face_value' of bond_price: expected greater than 0, got -1",
        ),
        (
            "break_even",
            {"fixed_costs": 1, "price_per_unit": 1, "cost_per_unit": 2},
            ToolStatus.ERROR,
            "ValueError: price_per_unit must be more than cost_per_unit",
        ),
        (
            "internal_rate_of_return",
            {"cash_flows": [1, 1]},
            ToolStatus.ERROR,
            "ValueError: the cash flows have no rate of return between -99% and 1000%",
        ),
    ],
)
def test_mistakes_are_told(name: str, arguments: dict, status: ToolStatus, text: str, box: ToolBox) -> None:
    (result,) = box.open().run([ToolCall(name=name, arguments=arguments)], seed=0)
    assert (result.status, result.text) == (status, text)


def test_every_argument_is_described_to_the_model(box: ToolBox) -> None:
    for spec in box.specs:
        properties = spec.parameters["properties"]
        assert isinstance(properties, dict)
        assert all(isinstance(schema, dict) and schema.get("description") for schema in properties.values()), spec.name
    assert "holdings: array of object" in describe_tools(box.specs)
