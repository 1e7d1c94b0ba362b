"""Text on Hydra's command line comes out as it went in."""

from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st

from agents.config import EvalConfig
from retool_env.compose import compose
from retool_env.quoting import literal, quoted

text = st.text(st.characters(exclude_categories=["C", "Z"]) | st.sampled_from("\\${}' "))


@given(st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="$")))
def test_a_quoted_value_comes_back(value: str) -> None:
    assert OverridesParser.create().parse_override(f"out={quoted(value)}").value() == value


@given(text)
@example("${oc.env:HOME}")
@example("\\${oc.env:HOME}\\")
@example("a\\'")
def test_a_literal_value_is_resolved_to_itself(value: str) -> None:
    overrides = [f"agent.model={literal(value)}", f"agent.options={{a: [{literal(value)}]}}"]
    agent = compose("eval", EvalConfig, overrides).agent
    assert agent.model == value and agent.options == {"a": [value]}


def test_a_variable_in_quotes_is_one_also_inside_of_a_mapping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHERE", "here")
    overrides = [f"agent.model={quoted('${oc.env:WHERE}')}", f"agent.options={{a: {quoted('${agent.model}!')}}}"]
    agent = compose("eval", EvalConfig, overrides).agent
    assert agent.model == "here" and agent.options == {"a": "here!"}
