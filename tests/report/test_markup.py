"""Escaping: whatever a run carries stays text, in elements and inside the data script."""

from __future__ import annotations

import json
import math

import pytest

from foreshock.report.markup import Html, interval, join, number, script_json, tag
from tests.report.runs import HOSTILE


def test_children_and_attributes_are_escaped_and_safe_html_is_not() -> None:
    made = tag("p", HOSTILE, tag("b", "x"), title=HOSTILE)
    assert "<img" not in made
    assert made.count("<b>x</b>") == 1
    assert made.count("<") == 4  # <p>, <b>, </b>, </p>


def test_none_disappears_and_iterables_are_joined() -> None:
    assert join([None, "a<", [Html("<i>"), 3]]) == "a&lt;<i>3"


def test_attributes_that_are_false_are_left_out() -> None:
    assert tag("td", hidden=False, data_n=3, open=True, class_=None) == '<td data-n="3" open></td>'


@pytest.mark.parametrize("text", [HOSTILE, "</script>", "<!--", "]]>", "\u2028\u2029", "&lt;"])
def test_json_in_a_script_can_neither_end_it_nor_change(text: str) -> None:
    made = script_json({"k": text})
    assert not set(made) & set("<>&\u2028\u2029")
    assert json.loads(made) == {"k": text}


def test_nan_must_be_packed_before_it_reaches_json() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        script_json(math.nan)


@pytest.mark.parametrize(
    "value, text",
    [
        (0.0, "0"),
        (-0.5, "−0.5"),
        (0.00012, "1.2e−4"),
        (123456.7, "123,457"),
        (2e9, "2e9"),
        (math.nan, "nan"),
        (math.inf, "+inf"),
        (-math.inf, "−inf"),
        (1000.0, "1,000"),
        (None, "–"),
    ],
)
def test_number(value: float | None, text: str) -> None:
    assert number(value) == text


def test_interval_is_empty_only_where_no_uncertainty_is_claimed() -> None:
    assert interval(math.nan, math.nan) == ""
    assert interval(0.0, math.inf) == "[0, +inf]"
