"""Signal in the metric of the noise: unbiased for planted means, right against a dense solve."""

import math

import numpy as np
import pytest

from foreshock.stats.mahalanobis import (
    metric_folds,
    snr_in_noise_metric,
    standardised_products,
)


def products(g: np.ndarray) -> np.ndarray:
    """(folds, n, n) by the definition."""
    folds = metric_folds(len(g))
    return np.stack([(g / np.delete(g, fold, 0).var(0, ddof=1)) @ g.T for fold in folds])


def off_diagonal(matrix: np.ndarray) -> float:
    n = len(matrix)
    return float(matrix.sum() - np.trace(matrix)) / (n * (n - 1))


def leverage(g: np.ndarray) -> np.ndarray:
    n, m, v = len(g), g.mean(0), g.var(0, ddof=1)
    return (g - m) ** 2 / v @ ((n - 3) / (n - 1) * m**2 / v - 1 / n)


@pytest.mark.parametrize("n", [7, 8, 21])
@pytest.mark.parametrize("total", [0.0, 4.0])
def test_diagonal_form_is_unbiased_under_gaussian_noise(n: int, total: float) -> None:
    rng = np.random.default_rng(n)
    d, scale = 40, np.geomspace(0.01, 100.0, 40)
    mu = math.sqrt(total / d) * scale
    found = [
        off_diagonal(standardised_products(products(mu + scale * rng.standard_normal((n, d)))))
        for _ in range(1500)
    ]
    # 4 standard errors of the mean of 1,500 draws
    assert abs(np.mean(found) - total) < 4 * np.std(found) / math.sqrt(1500)


def test_no_bias_at_zero_mean_under_a_lopsided_law() -> None:
    # Exponential noise minus its mean: with v from all batches m^2/v is off by more than its own
    # noise here; cross-fitted, E g_i = 0 is all that is needed. 4 standard errors.
    rng = np.random.default_rng(3)
    crossed, plain = [], []
    n = 8
    for _ in range(1500):
        g = rng.exponential(size=(n, 60)) - 1
        crossed.append(off_diagonal(standardised_products(products(g))))
        plain.append(float((5 / 7 * g.mean(0) ** 2 / g.var(0, ddof=1) - 1 / n).sum()))
    assert abs(np.mean(crossed)) < 4 * np.std(crossed) / math.sqrt(1500)
    assert abs(np.mean(plain)) > 8 * np.std(plain) / math.sqrt(1500)


@pytest.mark.parametrize("n", [7, 11])
def test_ridge_form_is_the_dense_solve(n: int) -> None:
    g = np.random.default_rng(4).standard_normal((n, 25)) + 0.3
    found = standardised_products(products(g), ridge=0.7)
    dense = np.empty((n, n))
    for fold in metric_folds(n):
        others = np.delete(g, fold, 0)
        root = others.std(0, ddof=1)
        correlation = np.corrcoef(others.T)
        strength = 0.7 * 25 / (len(others) - 1)  # tr R = 25
        inverse = np.linalg.inv(correlation + strength * np.eye(25))
        dense[fold] = (g[fold] / root) @ inverse @ (g / root).T
    # float64 solves of condition < 100
    np.testing.assert_allclose(found, (dense + dense.T) / 2, rtol=1e-9, atol=1e-9)


def test_any_rescaling_of_coordinates_leaves_both_forms() -> None:
    rng = np.random.default_rng(5)
    g = rng.standard_normal((12, 50)) + 0.4
    scaled = g * 10.0 ** rng.uniform(-6, 6, 50)
    one = snr_in_noise_metric(products(g), leverage(g))
    other = snr_in_noise_metric(products(scaled), leverage(scaled))
    for name in one:
        assert one[name].low < one[name].value < one[name].high
        for field in ("value", "low", "high"):
            assert getattr(other[name], field) == pytest.approx(getattr(one[name], field), rel=1e-7)


def test_what_cannot_be_measured_is_said() -> None:
    few = snr_in_noise_metric(np.ones((6, 6, 6)), np.ones(6))
    assert all("at least 7 batch gradients. Got 6" in e.reason for e in few.values())
    nan = snr_in_noise_metric(np.full((4, 8, 8), math.nan), np.ones(8))
    assert all("nan or inf" in e.reason for e in nan.values())
    still = snr_in_noise_metric(np.zeros((4, 8, 8)), np.zeros(8))
    assert all("No coordinate" in e.reason and math.isnan(e.value) for e in still.values())
    with pytest.raises(ValueError, match="must be \\(folds, n, n\\) with n >= 7"):
        standardised_products(np.ones((3, 8, 8)))


def test_the_interval_knows_that_the_metric_is_estimated() -> None:
    # Every coordinate's own ratio is 1, the case where the noise of v weighs most: 92 % of 300
    # cases with the leverage, 78 % without. Of 150: sd .022 (.92), 3 of them below; the difference
    # is of paired cases, sd .03.
    rng = np.random.default_rng(6)
    covered = {True: 0, False: 0}
    for _ in range(150):
        g = rng.standard_normal((20, 100)) + 1
        grams = products(g)
        for known in covered:
            pull = leverage(g) if known else np.zeros(20)
            found = snr_in_noise_metric(grams, pull)["grad/snr_diagonal"]
            covered[known] += found.low <= 100 <= found.high
    assert covered[True] / 150 > 0.92 - 0.066
    assert (covered[True] - covered[False]) / 150 > 0.05
