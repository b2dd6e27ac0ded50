"""Moments of a Gram matrix against loops, their unbiasedness, and the coverage of the intervals."""

import math

import numpy as np
import pytest

from benchmarks.coverages import gradient_noise as coverage
from foreshock.stats.gram_interval import gram_intervals, gram_moments
from tests import oracles


def test_moments_are_the_naive_ones() -> None:
    gradients = np.random.default_rng(0).standard_normal((7, 5)) + 0.4
    naive = oracles.gram_moments(gradients)
    moments = gram_moments(gradients @ gradients.T)
    for name, value in naive.items():
        np.testing.assert_allclose(getattr(moments, name), value, rtol=1e-9, atol=1e-12)


def test_a_stack_is_its_matrices_one_by_one() -> None:
    g = np.random.default_rng(1).standard_normal((4, 6, 9)) + 0.2
    grams = g @ g.swapaxes(1, 2)
    together = gram_intervals(grams)
    for i in range(4):
        alone = gram_intervals(grams[i])
        for name, interval in together.items():
            np.testing.assert_allclose([end[i] for end in interval], alone[name], rtol=1e-10)


@pytest.mark.parametrize("n", [3, 8])
@pytest.mark.parametrize("heavy", [False, True])
def test_u_v_and_trace_square_are_unbiased(n: int, heavy: bool) -> None:
    rng = np.random.default_rng(2)
    values = np.array([1.0, 0.5, 0.25, 0.1])
    mu = np.array([0.3, 0.0, 0.2, -0.1])
    noise = rng.standard_normal((20_000, n, 4)) * np.sqrt(values)
    if heavy:  # radial two-point mixture of variance 1 and kurtosis far from Gaussian
        noise *= np.sqrt(np.where(rng.random((20_000, n, 1)) < 0.1, 5.5, 0.5))
    g = mu + noise
    moments = gram_moments(g @ g.swapaxes(1, 2))
    truths = (mu @ mu, values.sum(), (values**2).sum())
    measured = (moments.signal, moments.noise, moments.trace_square)
    if n == 3 and heavy:  # tr(S^2) needs 4 gradients; its Gaussian stand-in is biased here
        truths, measured = truths[:2], measured[:2]
    for value, truth in zip(measured, truths, strict=True):
        # 4 standard errors of the mean of 20,000 draws: one false failure in 16,000 per comparison
        assert abs(value.mean() - truth) < 4 * value.std() / math.sqrt(len(value))


def test_variance_of_snr_is_the_gaussian_formula_with_its_cross_term() -> None:
    # The formula is first order in 1/n. At n = 50, d_eff = 21 the next order is of relative size
    # 1/(n d_eff)^(1/2) ~ 3 % for the SD; 2,000 draws add 1/sqrt(4000) = 1.6 %, times 3. Bound: 8 %.
    values = coverage.spectrum(21.0)
    rng = np.random.default_rng(3)
    noise, along = coverage.noise_grams(50, 21.0, 2000, rng)
    for snr in (0.0, 0.1, 1.0):
        cross = math.sqrt(snr) * along["top"]
        gram = noise + cross[:, :, None] + cross[:, None, :] + snr
        ratio = gram_intervals(gram)["snr"].value
        formula = oracles.snr_variance(50, snr, values, np.eye(len(values))[0])
        assert ratio.std() == pytest.approx(math.sqrt(formula), rel=0.08)


@pytest.mark.parametrize("d_eff", coverage.D_EFF)
def test_coverage_of_a_subset_of_the_benchmark(d_eff: float) -> None:
    # 500 cases: the share of a cell whose true coverage just meets the requirement r has standard
    # deviation sqrt(r(1-r)/500) = .012 (.92), .015 (.87). 3 of them allow one false failure in 700
    # at the boundary itself; measured cells lie at least .01 inside it (8,000 cases).
    rows = coverage.run(500, seed=5, sizes=(8, 20), d_effs=(d_eff,), snrs=(0.0, 0.1, 1.0), slow=0)
    assert len(rows) == 24
    for row in rows:
        if row.law == "t4":
            assert row.coverage > 0.87 - 0.045, row
        else:
            assert row.coverage > 0.92 - 0.036, row
            if row.snr >= 1:
                assert row.coverage < 0.98 + 0.019, row  # 3 sqrt(.98 .02/500)
            else:
                assert row.width < 1.8 * 1.1, row  # SD of 500 cases: 1/sqrt(1000), times 3
        if row.snr == 0:
            assert row.unresolved > 0.95 - 0.03, row


def test_null_band_holds_what_snr_reads_without_signal() -> None:
    # Spectrum with d_eff = 2.5, the most skewed case: at least 93 % inside (95 % nominal, first
    # order), 2,000 cases leave sd .005.
    noise, _ = coverage.noise_grams(20, 2.5, 2000, np.random.default_rng(6))
    intervals = gram_intervals(noise)
    value, null = intervals["snr"].value, intervals["null"]
    assert np.mean((null.low <= value) & (value <= null.high)) > 0.93 - 0.02


@pytest.mark.parametrize("shape", [(2, 2), (3, 4), (5,)])
def test_shapes_are_checked(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must be \\(..., n, n\\) with n >= 3"):
        gram_moments(np.zeros(shape))
