"""Looks at growing n: sizes, Pocock's levels by simulation, and what stopping does without them."""

import math

import numpy as np
import pytest

from foreshock.stats.gram import signal_noise
from foreshock.stats.gram_looks import FIRST, LEVELS, look_sizes, look_widening, settled
from foreshock.stats.intervals import t_quantile
from foreshock.types import Estimate


@pytest.mark.parametrize("most", [1, 8, 15, 16, 33, 64, 1000])
def test_sizes_double_up_to_all_there_are(most: int) -> None:
    sizes = look_sizes(most)
    assert sizes[-1] == most and 1 <= len(sizes) <= len(LEVELS)
    for small, large in zip(sizes, sizes[1:], strict=False):
        assert small == math.ceil(large / 2) and small >= FIRST
    # and no look is left out that would fit
    assert len(sizes) == len(LEVELS) or sizes[0] < 2 * FIRST


def test_levels_are_those_of_pocock() -> None:
    # Critical values of his table 1 for 2 to 5 looks, 5 % two-sided, with many degrees of freedom.
    for looks, critical in ((1, 1.960), (2, 2.178), (3, 2.289), (4, 2.361), (5, 2.413)):
        # levels have 3 digits: .0001/2 on the level moves the quantile by .001
        expected = pytest.approx(critical / 1.95996, abs=0.002)
        assert look_widening(looks, 10**7) == expected
    with pytest.raises(ValueError, match="must be 1 to 5. Got 6"):
        look_widening(6, 8)


def test_intervals_hold_at_all_looks_jointly() -> None:
    # Means of Gaussian values, whose t interval is exact at each look.
    cases, sizes = 10_000, look_sizes(64)
    x = np.random.default_rng(0).standard_normal((cases, 64))
    joint, plain = np.ones((2, cases), bool)
    for n in sizes:
        mean, se = x[:, :n].mean(1), x[:, :n].std(1, ddof=1) / math.sqrt(n)
        plain &= np.abs(mean) <= t_quantile(n - 1) * se
        joint &= np.abs(mean) <= look_widening(len(sizes), n) * t_quantile(n - 1) * se
    # 4 standard errors of .0022; steps that double cost .5 % against the equal ones of the table,
    # which is what is measured here and allowed for.
    assert 0.95 - 0.0088 - 0.005 < joint.mean() < 0.95 + 0.0088
    assert plain.mean() < 0.89  # stopping when it suits: wrong in more than 11 % instead of 5 %


def test_the_intervals_of_a_gram_are_as_much_wider() -> None:
    g = np.random.default_rng(1).standard_normal((12, 40)) + 0.3
    plain, wide = (signal_noise(g @ g.T, batch_size=4, looks=looks) for looks in (1, 3))
    factor = look_widening(3, 12)
    for name in ("grad/signal", "grad/snr", "grad/snr_per_example"):
        a, b = plain[name], wide[name]
        assert b.value == a.value and b.null == a.null
        assert b.high - b.value == pytest.approx(factor * (a.high - a.value))
        assert b.value - b.low == pytest.approx(factor * (a.value - a.low))
    a, b = plain["grad/noise"], wide["grad/noise"]
    assert math.log(b.high / b.value) == pytest.approx(factor * math.log(a.high / a.value))


def test_what_settles() -> None:
    assert settled(Estimate(2.0, 1.1, 2.9), 1.0) and settled(Estimate(0.1, -0.4, 0.6), 1.0)
    assert not settled(Estimate(2.0, 0.9, 3.1), 1.0)
    assert settled(Estimate.missing("A batch gradient contains nan."), 1.0)
