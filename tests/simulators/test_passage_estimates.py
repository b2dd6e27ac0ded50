"""Rates, means and survival from passage times: the censored ones count, bad times do not."""

from __future__ import annotations

import math

import numpy as np
import pytest

from foreshock.simulators.passage import PassageTimes
from foreshock.simulators.passage_estimates import (
    exponential_rate,
    mean_passage_time,
    poisson_interval,
    survival_curve,
)
from foreshock.types import Flag


def test_rate_counts_the_censored_and_the_mean_refuses_them() -> None:
    times = np.random.default_rng(0).exponential(2.0, 4_000)
    side = np.where(times < 1.0, 0, -1)
    passage = PassageTimes(np.minimum(times, 1.0), side, 1.0)
    rate = exponential_rate(passage)
    assert rate.n == passage.events and rate.value == passage.events / passage.exposure
    assert rate.low < 0.5 < rate.high
    refused = mean_passage_time(passage)
    assert not refused.resolved and "had not crossed at 1" in refused.reason
    mean = mean_passage_time(passage, exponential_after=0.1)
    assert mean.low < 2.0 < mean.high
    assert "before 2" in survival_curve(passage, [2.0])[0].reason
    nobody = exponential_rate(PassageTimes(np.ones(5), np.full(5, -1), 1.0))
    assert nobody.flags & Flag.UNRESOLVED and nobody.high == pytest.approx(-math.log(0.025) / 5)
    assert not exponential_rate(passage, after=1.0).resolved


def test_poisson_interval_inverts_the_poisson_law() -> None:
    from scipy.stats import poisson

    low, high = poisson_interval(7, 2.0)
    assert poisson.sf(6, 2 * low) == pytest.approx(0.025)
    assert poisson.cdf(7, 2 * high) == pytest.approx(0.025)


def test_bad_times_are_refused_with_a_remedy() -> None:
    done = PassageTimes(np.ones(10), np.zeros(10, dtype=np.int64), 5.0)
    for after in (-9.0, math.nan):
        with pytest.raises(ValueError, match="`after` of `exponential_rate` must"):
            exponential_rate(done, after=after)
    with pytest.raises(ValueError, match="`times` of `survival_curve` must be finite"):
        survival_curve(done, [1.0, math.nan])
