"""Intervals: exact binomial coverage, Fieller's inequality, jackknife against the mean."""

import math

import numpy as np
import pytest
from scipy import stats

from foreshock.stats.intervals import clopper_pearson, fieller, jackknife_se, t_quantile
from tests import oracles


@pytest.mark.parametrize("df", [1, 7, 49.5])
def test_t_quantile_is_scipys(df: float) -> None:
    assert t_quantile(df) == pytest.approx(stats.t.ppf(0.975, df), rel=1e-12)


def test_t_quantile_refuses_no_freedom() -> None:
    with pytest.raises(ValueError, match="The `df` of `t_quantile` must be positive. Got 0."):
        t_quantile(0)


@pytest.mark.parametrize("p", [0.01, 0.3, 0.5, 0.97])
def test_clopper_pearson_covers_at_least_its_level_exactly(p: float) -> None:
    n = 20  # exact coverage: sum of binomial probabilities of the outcomes that cover p
    covered = sum(
        stats.binom.pmf(k, n, p)
        for k in range(n + 1)
        if clopper_pearson(k, n)[0] <= p <= clopper_pearson(k, n)[1]
    )
    assert covered >= 0.95


def test_clopper_pearson_is_scipys() -> None:
    for k in (0, 3, 20):
        ours = clopper_pearson(k, 20)
        theirs = stats.binomtest(k, 20).proportion_ci(0.95, "exact")
        assert ours == pytest.approx((theirs.low, theirs.high), abs=1e-12)


@pytest.mark.parametrize(("successes", "trials"), [(3, 2), (-1, 2), (0, 0)])
def test_clopper_pearson_refuses_impossible_counts(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match="`successes`"):
        clopper_pearson(successes, trials)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param((2.0, 1.0, 0.01, 0.01, 0.003), id="bounded"),
        pytest.param((2.0, -1.0, 0.01, 0.01, 0.003), id="bounded negative"),
        pytest.param((3.0, 0.5, 0.01, 0.1, 0.0), id="complement"),
        pytest.param((0.1, 0.5, 1.0, 1.0, 0.2), id="line"),
    ],
)
def test_fieller_is_the_solution_set_of_its_inequality(case: tuple[float, ...]) -> None:
    a, b, var_a, var_b, cov = case
    q = 2.1
    pieces = fieller(*case, q)
    for r in np.tan(np.linspace(-1.57, 1.57, 2001)):  # the whole line, far out too
        inside = (a - r * b) ** 2 <= q * q * (var_a - 2 * r * cov + r * r * var_b)
        assert inside == any(low <= r <= high for low, high in pieces)


def test_fieller_at_the_boundary_is_a_half_line() -> None:
    # b^2 = q^2 Var b: the quadratic degenerates.
    assert fieller(1.0, 1.0, 0.0, 1.0, 0.0, 1.0) == ((0.5, math.inf),)
    assert fieller(-1.0, 1.0, 0.0, 1.0, 0.0, 1.0) == ((-math.inf, -0.5),)
    assert fieller(0.0, 1.0, 1.0, 1.0, 0.0, 1.0) == ((-math.inf, math.inf),)


def test_fieller_refuses_negative_variance() -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        fieller(1.0, 1.0, -1.0, 1.0, 0.0)


def test_jackknife_of_a_mean_is_its_standard_error_and_of_stacks_its_rows() -> None:
    x = np.random.default_rng(0).standard_normal((3, 12)) ** 3
    without = (x.sum(1, keepdims=True) - x) / 11
    expected = x.std(1, ddof=1) / math.sqrt(12)
    np.testing.assert_allclose(jackknife_se(without), expected, rtol=1e-12)
    assert jackknife_se(without[0]) == pytest.approx(oracles.jackknife_se(without[0]))
    with pytest.raises(ValueError, match="at least 2"):
        jackknife_se([1.0])
