"""Likelihood ratios and goodness of fit: other libraries' densities, levels, and power."""

import math

import numpy as np
import pytest
from scipy.stats import kstest, lognorm, t

from foreshock.stats import tails_tests
from foreshock.stats.stable_law import stable_samples
from foreshock.stats.tails_tests import (
    ks_distance,
    ks_pareto,
    ks_stable,
    stable_comparison,
    tail_comparison,
    vuong,
)


def excess(samples: np.ndarray, k: int) -> tuple[np.ndarray, float]:
    top = np.sort(samples)[-k - 1 :]
    return np.log(top[1:] / top[0]), top[0]


def test_the_lognormal_tail_is_fitted_at_least_as_well_as_the_truth() -> None:
    y, threshold = excess(np.random.default_rng(0).lognormal(0.3, 1.2, 2000), 400)
    x = threshold * np.exp(y)
    law = lognorm(1.2, scale=math.exp(0.3))
    true = law.logpdf(x) + np.log(x) - law.logsf(threshold)
    gain = tails_tests._lognormal_tail(y).sum() - true.sum()
    # Twice the gain of a maximum over the truth is about chi^2 with 2 degrees: below 13.8 in all
    # but a thousandth of samples; and never negative beyond the tolerance of the search.
    assert -1e-2 < gain < 7


def test_the_student_tail_is_fitted_at_least_as_well_as_the_truth() -> None:
    y, threshold = excess(np.abs(np.random.default_rng(1).standard_t(3, 2000)), 400)
    x = threshold * np.exp(y)
    true = t(3).logpdf(x) + np.log(x) - t(3).logsf(threshold)
    assert -1e-2 < tails_tests._student_tail(y).sum() - true.sum() < 7


def test_vuong_by_hand() -> None:
    first, second = np.array([1.0, 2.0, 4.0, 5.0]), np.zeros(4)
    found = vuong(first, second)
    half = 1.959964 * math.sqrt(((4 + 1 + 1 + 4) / 3) / 4)
    assert (found.value, found.low, found.high) == pytest.approx((3, 3 - half, 3 + half))
    assert not found.flags and vuong(first - 3, second).flags


def test_pareto_tails_are_unresolved_and_other_tails_are_not_pareto() -> None:
    rng = np.random.default_rng(2)
    rows = [tail_comparison(rng.pareto(1.5, 1000) + 1, 200) for _ in range(30)]
    for name in ("lognormal", "student_t"):
        # Both rivals hold the Pareto law as a limit: never worse, and by at most chi^2_1/(2k)
        # better: 13/400 in all but 3 of 10,000. No verdict.
        assert all(-0.0325 < row[name].value < 1e-3 for row in rows)
        assert np.mean([bool(row[name].flags) for row in rows]) > 0.9
    gaussian = tail_comparison(np.abs(rng.standard_normal(5000)), 500)
    assert gaussian["lognormal"].high < 0 and gaussian["student_t"].high < 0


def test_stable_against_student() -> None:
    rng = np.random.default_rng(3)
    student = stable_comparison(rng.standard_t(4, 4000))
    assert student["student_t"].high < 0 < student["normal"].low
    stable = stable_comparison(stable_samples(1.5, 12_000, rng))
    assert stable["student_t"].low > 0 and stable["normal"].low > 0.1
    normal = stable_comparison(rng.standard_normal(500))
    assert normal["normal"].flags and abs(normal["normal"].value) < 0.02  # α = 2 is the normal law


def test_an_index_below_the_grid_is_missing_and_not_clamped() -> None:
    rng = np.random.default_rng(8)
    for alpha in (0.2, 0.6):  # the first beyond the table of quantiles too
        x = stable_samples(alpha, 1000, rng)
        for found in (ks_stable(x, draws=9), *stable_comparison(x).values()):
            assert math.isnan(found.value) and "at or below 0.7" in found.reason
    x = stable_samples(0.9, 1000, rng)
    assert ks_stable(x, draws=9).resolved and stable_comparison(x)["normal"].resolved


def test_the_normal_law_is_a_stable_one() -> None:
    rng = np.random.default_rng(9)
    found = [stable_comparison(rng.standard_normal(150))["normal"] for _ in range(40)]
    # Nested: never worse, and "better" in fewer than 5 % (none of 300, measured).
    assert min(one.value for one in found) >= 0
    assert not any(one.resolved for one in found)
    # A difference as clear and as small as of a search that stops early: floored, not resolved.
    terms = np.abs(rng.standard_normal(50)) * 1e-10
    for sign in (-1, 1):
        one = tails_tests._against_normal(sign * terms, np.zeros(50))
        assert one.value >= 0 and not one.resolved
    assert "free index gains by chance" in one.reason


def test_ks_distance_against_another_library() -> None:
    x = np.sort(np.random.default_rng(4).uniform(size=77))
    assert ks_distance(x) == pytest.approx(kstest(x, "uniform").statistic, rel=1e-12)


def test_ks_pareto_is_uniform_on_pareto_tails() -> None:
    rng = np.random.default_rng(5)
    p = [ks_pareto(rng.pareto(2.0, 300) + 1, 60, draws=99, seed=i).value for i in range(150)]
    # Exact: P(p <= .1) = .1 and mean .505; 150 cases: 4 sd are .098 and .095.
    assert abs(np.mean(np.array(p) <= 0.1) - 0.1) < 0.098
    assert abs(np.mean(p) - 0.505) < 0.095
    assert ks_pareto(rng.lognormal(size=1000), 400).value == 0.005


def test_ks_stable_accepts_stable_and_refuses_two_bumps() -> None:
    rng = np.random.default_rng(6)
    p = [ks_stable(stable_samples(1.5, 300, rng), draws=39, seed=i).value for i in range(60)]
    assert np.mean(np.array(p) <= 0.05) < 0.17  # level about .05: 60 cases, 4 sd
    assert 0.3 < np.mean(p) < 0.7
    bumps = rng.choice([-1, 1], 600) + rng.normal(0, 0.2, 600)
    assert ks_stable(bumps).value == 0.01


def test_p_values_are_reproducible_and_private() -> None:
    x = np.random.default_rng(7).pareto(2.0, 200) + 1
    before = np.random.get_state()[1].copy()
    assert ks_pareto(x, 50, seed=1) == ks_pareto(x, 50, seed=1)
    assert ks_stable(x, draws=9) == ks_stable(x, draws=9)
    np.testing.assert_array_equal(before, np.random.get_state()[1])


def test_what_cannot_be_compared_is_missing() -> None:
    for found in (
        *tail_comparison(np.ones(500)).values(),
        *tail_comparison(np.arange(1.0, 100)).values(),
        *tail_comparison(np.linspace(-1, 5, 900)).values(),
        *stable_comparison(np.ones(100)).values(),
        ks_pareto(np.ones(50), 10),
        ks_pareto(np.linspace(-1, 5, 900), 50),
        ks_stable(np.ones(50)),
    ):
        assert math.isnan(found.value) and found.reason
    with pytest.raises(ValueError, match="5 <= k < n. Got draws=99, k=60, n=50"):
        ks_pareto(np.ones(50), 60, draws=99)
    with pytest.raises(ValueError, match="`draws` of `ks_stable`"):
        ks_stable(np.ones(50), draws=0)
