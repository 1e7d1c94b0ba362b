"""Eight financial tools: functions with types and Google docstrings, from plain numbers to nested structures.

Each is pure and returns one short line, so that a data set can hold the expected output as its answer. Rates are
fractions a year (0.05 is five per cent). A wrong value raises; the model reads the message.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

Money = Annotated[float, Field(ge=0)]
Rate = Annotated[float, Field(gt=-1, lt=10)]


class Bond(BaseModel):
    """A bond with a fixed coupon."""

    face_value: Annotated[float, Field(gt=0, description="Amount paid back at maturity.")]
    coupon_rate: Annotated[float, Field(ge=0, description="Coupon per year, as a fraction of the face value.")]
    years: Annotated[int, Field(ge=1, le=100, description="Years to maturity.")]
    coupons_per_year: Literal[1, 2, 4] = 2


class Holding(BaseModel):
    """A part of a portfolio."""

    name: str
    value: Annotated[float, Field(gt=0, description="Value at the beginning.")]
    rate_of_return: Annotated[float, Field(ge=-1, description="Return over the period, as a fraction.")]


def compound_interest(principal: Money, annual_rate: Rate, years: int, periods_per_year: int = 1) -> str:
    """Value of a deposit after some years of compound interest.

    Args:
        principal: Amount at the beginning.
        annual_rate: Interest per year, as a fraction.
        years: Number of years.
        periods_per_year: How often interest is added in a year.
    """
    if years < 0 or periods_per_year < 1:
        raise ValueError("years must be at least 0 and periods_per_year at least 1")
    value = principal * (1 + annual_rate / periods_per_year) ** (periods_per_year * years)
    return f"Future value: {value:.2f}"


def loan_payment(principal: Money, annual_rate: Rate, months: Annotated[int, Field(ge=1, le=1200)]) -> str:
    """Monthly payment that pays back a loan in equal instalments.

    Args:
        principal: Amount of the loan.
        annual_rate: Interest per year, as a fraction.
        months: Number of payments.
    """
    rate = annual_rate / 12
    payment = principal / months if rate == 0 else principal * rate / (1 - (1 + rate) ** -months)
    return f"Monthly payment: {payment:.2f}"


def net_present_value(discount_rate: Rate, cash_flows: list[float]) -> str:
    """Net present value of yearly cash flows, the first of them today.

    Args:
        discount_rate: Discount per year, as a fraction.
        cash_flows: One amount for each year; money that is paid is negative.
    """
    return f"NPV: {_present_value(discount_rate, cash_flows):.2f}"


def internal_rate_of_return(cash_flows: Annotated[list[float], Field(min_length=2)]) -> str:
    """Discount rate at which yearly cash flows are worth nothing today.

    Args:
        cash_flows: One amount for each year, the first of them today; an investment first, then what it returns.
    """
    low, high = -0.99, 10.0
    if _present_value(low, cash_flows) * _present_value(high, cash_flows) > 0:
        raise ValueError("the cash flows have no rate of return between -99% and 1000%")
    falling = _present_value(low, cash_flows) > 0
    for _ in range(200):
        middle = (low + high) / 2
        if (_present_value(middle, cash_flows) > 0) == falling:
            low = middle
        else:
            high = middle
    return f"IRR: {100 * low:.2f}%"


def bond_price(bond: Bond, market_rate: Rate) -> str:
    """Fair price of a bond at a market rate.

    Args:
        bond: The bond.
        market_rate: Yield per year that the market asks for, as a fraction.
    """
    count, rate = bond.years * bond.coupons_per_year, market_rate / bond.coupons_per_year
    coupon = bond.face_value * bond.coupon_rate / bond.coupons_per_year
    flows = [0.0, *[coupon] * (count - 1), coupon + bond.face_value]
    return f"Bond price: {_present_value(rate, flows):.2f}"


def portfolio_return(holdings: Annotated[list[Holding], Field(min_length=1)]) -> str:
    """Return of a portfolio, weighted by the value of its parts.

    Args:
        holdings: The parts.
    """
    total = sum(holding.value for holding in holdings)
    gained = sum(holding.value * holding.rate_of_return for holding in holdings)
    return f"Portfolio return: {100 * gained / total:.2f}%"


def depreciation(
    cost: Money,
    salvage_value: Money,
    life_years: Annotated[int, Field(ge=1, le=200)],
    year: Annotated[int, Field(ge=1)],
    method: Literal["straight_line", "double_declining"] = "straight_line",
) -> str:
    """Depreciation of an asset in one year of its life.

    Args:
        cost: Price of the asset.
        salvage_value: What it is worth at the end of its life.
        life_years: Years of its life.
        year: Which year, counted from 1.
        method: Equal amounts, or twice the straight rate of what is left.
    """
    if salvage_value > cost or year > life_years:
        raise ValueError("salvage_value must not exceed cost, nor year life_years")
    if method == "straight_line":
        return f"Depreciation: {(cost - salvage_value) / life_years:.2f}"
    left, amount = cost, 0.0
    for _ in range(year):
        amount = min(left * 2 / life_years, left - salvage_value)
        left -= amount
    return f"Depreciation: {amount:.2f}"


def break_even(fixed_costs: Money, price_per_unit: Money, cost_per_unit: Money) -> str:
    """Number of units at which revenue covers all costs.

    Args:
        fixed_costs: Costs that do not depend on the number of units.
        price_per_unit: Price of one unit.
        cost_per_unit: Cost of one unit.
    """
    if price_per_unit <= cost_per_unit:
        raise ValueError("price_per_unit must be more than cost_per_unit")
    return f"Break-even units: {fixed_costs / (price_per_unit - cost_per_unit):.2f}"


def _present_value(rate: float, flows: list[float]) -> float:
    return sum(flow / (1 + rate) ** year for year, flow in enumerate(flows))


TOOL_FUNCTIONS = [
    compound_interest,
    loan_payment,
    net_present_value,
    internal_rate_of_return,
    bond_price,
    portfolio_return,
    depreciation,
    break_even,
]
