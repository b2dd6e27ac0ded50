"""The law of `Estimate.times`: a multiple keeps its interval in order, and its doubts."""

from __future__ import annotations

import math
from dataclasses import astuple, replace

import pytest

from foreshock.types import Estimate, Flag

FLAGGED = Estimate(2.0, -1.0, math.inf, n=7, flags=Flag.UNRESOLVED, reason="Few.", null=(-0.5, 3.0))


@pytest.mark.parametrize("factor", [2.0, 0.25, -0.5, -8.0, -1, 0.0])
def test_a_multiple_keeps_its_order_and_its_doubts(factor: float) -> None:
    plain = Estimate(2.0, -1.0, 4.0, n=7, flags=Flag.NONSTATIONARY, reason="It drifts.")
    found = plain.times(factor)
    assert (found.value, found.low, found.high) == (
        2 * factor,
        min(-factor, 4 * factor),
        max(-factor, 4 * factor),
    )
    assert (found.n, found.flags, found.reason, found.null) == (
        7,
        Flag.NONSTATIONARY,
        "It drifts.",
        None,
    )


@pytest.mark.parametrize("factor", [1.0, 4.0, -1.0, -0.5])
def test_back_again_is_the_estimate(factor: float) -> None:
    """Powers of 2, so exactly; unbounded ends and the null go both ways too."""
    assert FLAGGED.times(factor).times(1 / factor) == FLAGGED


def test_a_minus_turns_interval_and_null_round() -> None:
    assert astuple(FLAGGED.times(-1))[1:3] == (-math.inf, 1.0)
    assert FLAGGED.times(-1).null == (-3.0, 0.5)


def test_what_claims_nothing_goes_on_claiming_nothing() -> None:
    found = Estimate.plain(3.0).times(-2.0)
    assert found.value == -6.0 and math.isnan(found.low) and math.isnan(found.high)
    missing = Estimate.missing("No gradient.", n=3).times(-2.0)
    assert math.isnan(missing.value) and (missing.n, missing.reason) == (3, "No gradient.")


def test_zero_times_what_is_unbounded_is_zero() -> None:
    found = replace(FLAGGED, null=(-math.inf, 1.0)).times(0)
    assert (found.value, found.low, found.high, found.null) == (0, 0, 0, (0, 0))


def test_a_nan_factor_is_refused() -> None:
    with pytest.raises(ValueError, match="A nan `Estimate` must be flagged"):
        Estimate.plain(3.0).times(math.nan)
