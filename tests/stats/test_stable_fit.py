"""Fit of a stable law: loops over subsets, exact moments, level, and laws of another shape."""

import itertools
import math

import numpy as np
import pytest

from foreshock.stats.stable_fit import (
    log_ratio_transform,
    looks_stable,
    mean_squared_correlation,
    scale_free_kernels,
    stable_fit,
    subsets,
)
from foreshock.stats.stable_law import stable_samples


def test_kernels_agree_with_a_loop_over_every_subset() -> None:
    x = np.random.default_rng(0).standard_normal((6, 400))
    variance, growth = [], []
    for a, b, c, d in itertools.permutations(range(6), 4):
        first, second = x[a] - x[b], x[c] - x[d]
        one, two = np.log(abs(first)), np.log(abs(second))
        variance.append((one - two) ** 2 / 2)
        growth.append((np.log(abs(first + second)) - (one + two) / 2) / math.log(2))
    kernels = scale_free_kernels(x)
    # 64 random of the 360 subsets: the two means differ by chance, over 64 correlated subsets by
    # at most 4 sd/sqrt(64) of the subset means.
    for ours, every in ((kernels.log_variance, variance), (kernels.growth, growth)):
        each = np.mean(every, axis=1)
        assert abs(ours.mean() - each.mean()) < 4 * each.std() / 8
    # And one subset exactly.
    a, b, c, d = subsets(6, 4)[0]
    here = list(itertools.permutations(range(6), 4)).index((a, b, c, d))
    np.testing.assert_allclose(kernels.growth[0], growth[here])
    np.testing.assert_allclose(kernels.log_variance[0], variance[here])


def test_late_kernels_are_those_of_sums_of_two_differences() -> None:
    x = np.random.default_rng(1).standard_normal((9, 20))
    kernels = scale_free_kernels(x)
    a, b, c, d, e, f, g, h = x[subsets(9, 8)[3]]
    one, two = a - b + c - d, e - f + g - h
    ratio = np.log(np.abs(one / two))
    growth = np.log((one + two) ** 2 / np.abs(one * two)) / 2 / math.log(2)
    np.testing.assert_allclose(kernels.late_ratio[3], ratio)
    np.testing.assert_allclose(kernels.late_growth[3], growth, atol=1e-12)


@pytest.mark.parametrize("alpha", [0.8, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("t", [0.5, 1.0])
def test_the_transform_against_moments_of_the_law(alpha: float, t: float) -> None:
    from scipy.special import gamma

    # E|X|^s = 2^s Γ((1+s)/2) Γ(1−s/α) / (Γ(1/2) Γ(1−s/2)) at s = it.
    s = 1j * t
    moment = gamma((1 + s) / 2) * gamma(1 - s / alpha) / (gamma(0.5) * gamma(1 - s / 2))
    assert log_ratio_transform(t, alpha) == pytest.approx(abs(moment) ** 2, rel=1e-12)
    x, y = stable_samples(alpha, (2, 40_000), np.random.default_rng(2))
    # A mean of 40,000 cosines: sd at most .0036; 4 sd.
    assert np.cos(t * np.log(np.abs(x / y))).mean() == pytest.approx(
        float(log_ratio_transform(t, alpha)), abs=0.0145
    )


@pytest.mark.parametrize("alpha", [1.2, 2.0])
@pytest.mark.parametrize("n", [5, 8])
def test_level_on_stable_laws_of_any_scales(alpha: float, n: int) -> None:
    rng = np.random.default_rng(3)
    scales = rng.lognormal(0, 3, 256)
    p = [
        stable_fit(scale_free_kernels(stable_samples(alpha, (n, 256), rng) * scales), 1 / 256)
        for _ in range(80)
    ]
    assert np.mean(np.array(p) > 0.05) > 0.82  # at least .92 measured: 80 cases, sd .03
    assert min(p) < 0.6  # and p is not always large


def test_other_shapes_are_refused() -> None:
    rng = np.random.default_rng(4)
    for x in (
        rng.standard_normal((8, 512)) * rng.lognormal(size=(8, 512)),
        rng.standard_normal((8, 512)) * np.where(rng.random((8, 512)) < 0.05, 1, 0.01),
    ):
        assert stable_fit(scale_free_kernels(x), 1 / 512) < 0.001
        assert not looks_stable(x.T.ravel())
    stable = [looks_stable(row) for row in stable_samples(1.5, (30, 4000), rng)]
    assert np.mean(stable) > 0.45  # p > .2 in about .75: 30 cases, 4 sd are .31


def test_equal_columns_refuse_nothing_and_few_runs_say_no() -> None:
    column = np.random.default_rng(5).standard_normal((8, 1))
    assert 0 <= stable_fit(scale_free_kernels(np.tile(column, (1, 20))), 1.0) <= 1
    assert not looks_stable(np.random.default_rng(6).standard_cauchy(120))
    assert not looks_stable(np.ones(800))


def low_rank(n: int, m: int, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise whose 512 coordinates depend on each other through 20 directions."""
    scales = np.arange(1.0, 21) ** -0.5
    return (rng.standard_normal((n, 20)) * scales) @ rng.standard_normal((20, m))


def test_mean_squared_correlation_is_debiased() -> None:
    rng = np.random.default_rng(7)
    x = low_rank(2000, 100, rng)
    truth = np.corrcoef(x.T)
    truth = (np.sum(truth**2) - 100) / 9900
    few = [mean_squared_correlation(x[8 * i : 8 * i + 8]) for i in range(250)]
    # 1/7 of the naive mean is chance; what is left after debiasing agrees with 2,000 rows. Means of
    # 250 with sd .04: .01; a correlation of Gaussians from 8 rows is low by 1/(2n) of itself: .01.
    assert np.mean(few) == pytest.approx(truth, abs=0.02)
