"""Nulls of the update window: published histograms, effective dimension, sign test by its law."""

import math
import tracemalloc

import numpy as np
import pytest

from foreshock.stats.window_null import (
    NULLS,
    band,
    cosine_covariance,
    effective_dimension,
    lag_means,
    null_cosines,
    null_grams,
    scatter,
    scatter_law,
    sign_test,
    spiked_cosines,
    toeplitz,
)


def sigma(cosines: np.ndarray) -> np.ndarray:
    return np.sqrt(np.linalg.eigvalsh(cosines)[:, ::-1])


def cosines_of(updates: np.ndarray) -> np.ndarray:
    unit = updates / np.linalg.norm(updates, axis=1, keepdims=True)
    return unit @ unit.T


def test_iid_histogram_of_k_star() -> None:
    # Published: {1: .22, 2: .11, 3: .07, 4-6: ~.06, 7: .08, 8: .11, 9: .22} at any p. 2,000 Wishart
    # draws: sd of a share .22 is .009, of .11 .007; 4 sd of the difference to a table of two digits
    # (rounding .005, its own Monte-Carlo error alike): .04.
    s = sigma(null_cosines(10, round(math.log(1e5) / 0.05), 2000, 1))
    best = 1 + np.argmax(s[:, :-1] / s[:, 1:], axis=1)
    shares = np.bincount(best, minlength=10)[1:] / 2000
    published = [0.22, 0.11, 0.07, 0.06, 0.06, 0.06, 0.08, 0.11, 0.22]
    np.testing.assert_allclose(shares, published, atol=0.04)


def test_iid_shares_of_the_weighted_k_star() -> None:
    # Published: 1 in 81 %, 2 in 16 %, here at p = 1e4; sd of .81 over 2,000 draws .009, +-4 sd.
    s = sigma(null_cosines(10, round(math.log(1e4) / 0.05), 2000, 2))
    best = 1 + np.argmax(s[:, :-1] / s[:, 1:] * s[:, :-1], axis=1)
    shares = np.bincount(best, minlength=10)[1:] / 2000
    np.testing.assert_allclose(shares[:2], [0.81, 0.16], atol=0.036)


def test_bartlett_draws_are_those_of_explicit_vectors() -> None:
    # Mean square cosine in p dimensions is 1/p, fourth moment 3/(p (p+2)): 4,000 draws of 6 pairs,
    # relative sd of the mean square sqrt(2/24000) = .9 %, of the fourth moment 2.7 %.
    p = math.exp(80 * 0.05)
    off = null_cosines(4, 80, 4000, 3)[:, *np.triu_indices(4, 1)]
    assert (off**2).mean() == pytest.approx(1 / p, rel=0.04)
    assert (off**4).mean() == pytest.approx(3 / (p * (p + 2)), rel=0.12)
    assert not null_cosines(5, 100, 19, 0).flags.writeable


@pytest.mark.parametrize("null", NULLS)
def test_nulls_keep_the_norms(null: str) -> None:
    cosines = toeplitz(0.6 ** np.arange(6))
    for n in (6, 7):
        norms = np.linspace(1, 2, n)
        drawn = null_grams(cosines, norms, null=null, parameters=500, draws=19)
        laws = 1 if null == "norms" else 2
        assert drawn.shape == (laws, 19, n, n)
        diagonals = np.einsum("ldii->ldi", drawn)
        np.testing.assert_allclose(diagonals, np.broadcast_to(norms**2, diagonals.shape))


def test_the_toeplitz_null_has_the_autocorrelation_of_the_window() -> None:
    # p is at its ceiling where the cosines are exactly rho^l: every draw is the Toeplitz matrix.
    cosines = toeplitz(0.7 ** np.arange(8))
    drawn = null_grams(cosines, np.ones(8), null="toeplitz", draws=19)
    np.testing.assert_allclose(drawn, np.broadcast_to(cosines, drawn.shape), atol=1e-3)


@pytest.mark.parametrize("exponent", [0.0, 0.5])
def test_effective_dimension_of_a_power_law(exponent: float) -> None:
    values = np.arange(1, 2001.0) ** -exponent
    truth = values.sum() ** 2 / (values**2).sum()
    rng = np.random.default_rng(4)
    logs = []
    for _ in range(60):
        updates = rng.standard_normal((10, 2000)) * np.sqrt(values)
        updates /= np.linalg.norm(updates, axis=1, keepdims=True)
        logs.append(math.log(effective_dimension(updates @ updates.T) / truth))
    # sd of log p^ is sqrt(2/36) = .24 per window, .031 for the mean: 4 sd = .12, and .05 for
    # the skewness of cosines at finite p.
    assert abs(np.mean(logs)) < 0.17


def test_effective_dimension_is_not_fooled_by_drift() -> None:
    # cosines rho^l: their mean square says p = 4, their scatter within a lag says p = infinity.
    lags = np.abs(np.subtract.outer(np.arange(10), np.arange(10)))
    assert effective_dimension(0.9**lags) > 1e9


def test_effective_dimension_of_an_autocorrelated_walk() -> None:
    # Scatter of AR(1) cosines over its law: within 15 % of p = 800 in the mean of logs over 80
    # windows of ρ = .6 (ν = 14: sd of a log .4, of the mean .045; plug-in error of R besides).
    # Taken for independent the same cosines read 1.6 p.
    rng = np.random.default_rng(1)
    logs, naive = [], []
    for _ in range(80):
        updates = rng.standard_normal((10, 800))
        for i in range(1, 10):
            updates[i] = 0.6 * updates[i - 1] + 0.8 * updates[i]
        cosines = cosines_of(updates)
        correlation = toeplitz(lag_means(cosines))
        logs.append(math.log(effective_dimension(cosines, correlation) / 800))
        naive.append(math.log(effective_dimension(cosines) / 800))
    assert abs(np.mean(logs)) < 0.2
    assert np.mean(naive) > 0.3


def test_covariance_of_cosines_is_that_of_drawn_walks() -> None:
    # p Cov over 3,000 walks in 300 dimensions, entries of order 1: sd sqrt(2/3000) = .026, first
    # order in 1/p; +-5 sd.
    rng = np.random.default_rng(2)
    correlation = toeplitz(0.7 ** np.arange(5))
    root = np.linalg.cholesky(correlation)
    first, second = np.array([0, 1, 0, 2]), np.array([1, 2, 3, 4])
    seen = []
    for _ in range(3000):
        seen.append(cosines_of(root @ rng.standard_normal((5, 300)))[first, second])
    measured = 300 * np.cov(np.array(seen).T)
    np.testing.assert_allclose(measured, cosine_covariance(correlation, first, second), atol=0.13)


def test_law_of_the_scatter() -> None:
    assert scatter_law(np.eye(20)) == pytest.approx((171.0, 171.0))  # (W-1)(W-2)/2
    rng = np.random.default_rng(3)
    correlation = toeplitz(0.5 ** np.arange(10))
    mean, freedom = scatter_law(correlation)
    root = np.linalg.cholesky(correlation)
    seen = np.array(
        [1000 * scatter(cosines_of(root @ rng.standard_normal((10, 1000)))) for _ in range(600)]
    )
    # Mean of 600: relative sd sqrt(2/ν/600) = 1.4 % at ν = 17; variance: 2 mean²/ν within 25 %
    # (its own sd is about sqrt((2 + 12/ν)/600) = 7 %).
    assert seen.mean() == pytest.approx(mean, rel=0.06)
    assert seen.var() == pytest.approx(2 * mean**2 / freedom, rel=0.28)


@pytest.mark.parametrize("exponent", [0.0, 1.0, 1.5])
def test_sign_test_is_exact_whatever_the_covariance(exponent: float) -> None:
    # P(p <= .05) <= .05 for independent symmetric noise; 400 windows: 20 +- 4.4, at most +4 sd, and
    # more than 4, as the test is not idle.
    rng = np.random.default_rng(4)
    scale = np.arange(1, 301.0) ** (-exponent / 2)
    windows = (rng.standard_normal((10, 300)) * scale for _ in range(400))
    small = sum(sign_test(cosines_of(one)) <= 0.05 for one in windows)
    assert 4 < small <= 38


@pytest.mark.parametrize(
    "order",
    [
        pytest.param(0.3 ** np.arange(10), id="momentum"),
        pytest.param((-0.5) ** np.arange(10), id="oscillation"),
        pytest.param(np.r_[1.0, np.full(9, 0.2)], id="drift"),
        pytest.param(np.cos(0.9 * np.arange(10)), id="rotation"),
        pytest.param(1.0 * (np.arange(10) % 2 == 0), id="two directions in turn"),
    ],
)
def test_sign_test_sees_order(order: np.ndarray) -> None:
    assert sign_test(toeplitz(order)) <= 8 / 512


def test_sign_test_does_not_move_with_signs_of_noise_alone() -> None:
    # All 2^(W-1) flips of one window hold the same p-values together: uniform but for ties.
    rng = np.random.default_rng(5)
    cosines = cosines_of(rng.standard_normal((7, 50)))
    found = []
    for pattern in range(64):
        signs = np.array([1 - 2 * (pattern >> bit & 1) for bit in range(7)])
        found.append(sign_test(cosines * np.outer(signs, signs)))
    expected = np.repeat(np.arange(1, 33) / 32, 2)
    np.testing.assert_allclose(np.sort(found), expected)


def test_wide_windows_draw_their_signs() -> None:
    assert sign_test(toeplitz(0.5 ** np.arange(20))) == 1 / 4096


def dense_law(correlation: np.ndarray) -> tuple[float, float]:
    """The law of the scatter by all pairs at once: C Σ C with matrices of W²/2 squared."""
    width = len(correlation)
    lags = [np.arange(width - lag) for lag in range(1, width - 1)]
    first = np.concatenate(lags)
    lag = np.repeat(np.arange(1, width - 1), [len(one) for one in lags])
    covariance = cosine_covariance(correlation, first, first + lag)
    centring = np.eye(len(lag)) - (lag[:, None] == lag[None, :]) / (width - lag)[:, None]
    a = centring @ covariance @ centring
    return np.trace(a), np.trace(a) ** 2 / (a * a).sum()


@pytest.mark.parametrize("width", [3, 4, 10, 17])
def test_law_of_the_scatter_is_that_of_all_pairs(width: int) -> None:
    means = np.random.default_rng(width).uniform(-0.5, 0.5, width)
    means[0] = 1
    for one in (means, 0.9 ** np.arange(width), (-0.4) ** np.arange(width)):
        # sums of the same numbers in another order
        assert scatter_law(toeplitz(one)) == pytest.approx(dense_law(toeplitz(one)), rel=1e-9)


def test_law_of_the_scatter_needs_no_table_of_all_pairs() -> None:
    # 1,952 pairs of a window of 64: one table of them is 30 MB, the sums by lag below 2 MB.
    correlation = toeplitz(0.5 ** np.arange(64))
    tracemalloc.start()
    scatter_law(correlation)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6


def test_spiked_draws_have_the_effective_dimension_in_one_or_three_directions() -> None:
    # Mean square cosine 1/p to first order in f = 1/sqrt(m p): 4,000 draws of 6 pairs of heavy tail
    # (fourth moment 9 times the squared second for m = 1): relative sd of the mean 2 %; the norms
    # bend it by about 2 f = 1.6 %.
    p = math.exp(190 * 0.05)
    drawn = spiked_cosines(4, 190, 4000, 3)
    off = drawn[:, *np.triu_indices(4, 1)]
    for start, number in ((0, 1), (1, 3)):
        assert (off[start::2] ** 2).mean() == pytest.approx(1 / p, rel=0.12)
        # one direction: c_12 c_23 c_31 = (z_1 z_2 z_3)² > 0, always
        triangles = drawn[start::2, 0, 1] * drawn[start::2, 1, 2] * drawn[start::2, 2, 0]
        assert (triangles > 0).all() == (number == 1)
    assert not drawn.flags.writeable


def test_a_sketch_limits_the_dimensions_of_the_null_by_norms() -> None:
    # 199 draws of 45 pairs: relative sd of the mean square sqrt(2/8955) = 1.5 %, p in steps of 5 %.
    for parameters, sketch, p in ((10**8, 4096, 4096), (4096, 4096, 2048), (4096, None, 4096)):
        drawn = null_grams(
            np.eye(10), np.ones(10), null="norms", parameters=parameters, sketch=sketch
        )
        off = drawn[0][:, *np.triu_indices(10, 1)]
        assert p * (off**2).mean() == pytest.approx(1, rel=0.1)


def test_bands_are_the_widest_of_the_laws() -> None:
    assert band(np.array([[0.0, 1.0], [0.5, 3.0]])) == pytest.approx((0.025, 2.9375))
