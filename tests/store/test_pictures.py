"""Figures and comparisons survive the round trip through a run, and a broken one harms nothing."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from foreshock.store import Comparison, Curve, Field, Figure, Run, comparisons, figures, record
from foreshock.store.pictures import POINTS
from foreshock.types import Estimate, Flag


def test_what_was_recorded_is_read_back(tmp_path: Path) -> None:
    curve = Curve("seen", [1.0, 2.0], [0.5, math.nan], [0.4, 0.1], [0.6, math.inf], look="points")
    field = Field([0, 1, 2], [0, 1], [[1.0, math.nan]], ((0.0, 0.0, 1.0, 1.0),), "density")
    figure = Figure("a", "A", "x / m", "y", (curve,), field, log_y=True, caption="c")
    told = Comparison("rate", Estimate(1.0, 0.9, 1.2, n=7), 1.1, 0.01, "quadrature", published=True)
    with Run.create(tmp_path / "a") as run:
        record(run, figure, told)
    with Run.open(tmp_path / "a") as run:
        (found,) = figures(run)
        (number,) = comparisons(run)
    assert (found.title, found.x, found.log_x, found.log_y) == ("A", "x / m", False, True)
    np.testing.assert_array_equal(found.curves[0].y, curve.y)
    np.testing.assert_array_equal(found.curves[0].high, curve.high)
    assert found.curves[0].look == "points"
    assert found.field is not None and found.field.arrows == field.arrows
    np.testing.assert_array_equal(found.field.values, field.values)
    assert number == told


def test_a_long_curve_is_thinned_and_keeps_its_ends_and_its_spikes(tmp_path: Path) -> None:
    x = np.arange(10_001.0)
    y = np.zeros_like(x)
    y[4321], y[7000] = 1.0, -2.0
    with Run.create(tmp_path / "a") as run:
        record(run, Figure("a", "A", "x", "y", (Curve("c", x, y),)))
        (found,) = figures(run)
    (curve,) = found.curves
    assert len(curve.x) <= POINTS and (curve.x[0], curve.x[-1]) == (0, 10_000)
    assert (max(curve.y), min(curve.y)) == (1.0, -2.0)
    assert (np.diff(curve.x) > 0).all() and curve.y[list(curve.x).index(4321)] == 1.0


@pytest.mark.parametrize(
    ("low", "high", "exact", "bias", "agrees"),
    [
        (0.9, 1.1, 1.0, 0.0, True),
        (0.9, 1.1, 1.2, 0.0, False),
        (0.9, 1.1, 1.2, 0.2, True),
        (0.9, 1.1, 1.2, -0.2, True),
        (-math.inf, 1.1, -5.0, 0.0, True),
        (math.nan, math.nan, 1.0, 0.0, None),
        (0.9, 1.1, math.nan, 0.0, None),
    ],
)
def test_a_number_agrees_inside_its_interval_widened_by_the_bias(
    low: float, high: float, exact: float, bias: float, agrees: bool | None
) -> None:
    assert Comparison("a", Estimate(1.0, low, high), exact, bias).agrees is agrees


def test_a_number_that_could_not_be_computed_says_why(tmp_path: Path) -> None:
    with Run.create(tmp_path / "a") as run:
        record(run, Comparison("rate", Estimate.missing("Nobody escaped."), 1.0))
        (number,) = comparisons(run)
    assert math.isnan(number.measured.value) and number.measured.reason == "Nobody escaped."
    assert number.agrees is None


def test_a_foreign_payload_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    with Run.create(tmp_path / "a") as run:
        run.event("figure", "?", {"curves": [{"x": [1], "y": [1, 2]}, {"x": ["1"], "y": [None]}]})
        run.event("figure", "?", {"title": "t", "field": {"x": [0], "values": [[1]]}})
        run.event("figure", "?", {"curves": ["oops"]})
        run.event("figure", "?", {"curves": [{"x": 3}]})
        run.event("figure", "?", {"field": {"x": [0], "values": [1.0]}})
        run.event("comparison", "?", {"name": "n"})
        run.event("comparison", "?", {"n": "many"})
        first, second = figures(run)
        (number,) = comparisons(run)
    assert (
        len(first.curves) == 1 and first.curves[0].x == [1.0] and math.isnan(first.curves[0].y[0])
    )
    assert second.title == "t" and second.field is None
    assert math.isnan(number.measured.value) and number.agrees is None


def test_a_curve_or_a_field_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="must have one length. Got 2, 1, 0 and 0"):
        Curve("a", [1, 2], [1])
    with pytest.raises(ValueError, match="must have one length"):
        Curve("a", [1], [1], low=[0.5])
    with pytest.raises(ValueError, match="must have 1 rows of 2 cells"):
        Field([0, 1, 2], [0, 1], [[1.0]])


def test_flags_and_null_survive_and_a_flagged_number_is_not_judged(tmp_path: Path) -> None:
    told = Estimate(1.0, 0.9, 1.1, 5, Flag.INVALID_DENSITY, "Too few particles.", (0.0, 0.5))
    with Run.create(tmp_path / "a") as run:
        record(run, Comparison("c", told, 1.0))
        (found,) = comparisons(run)
    assert found.measured == told and found.agrees is None
