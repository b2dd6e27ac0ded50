"""d_eff of the noise: the U-statistics against loops, planted spectra, what it refuses."""

import itertools
import math

import numpy as np
import pytest

from benchmarks.coverages.gradient_noise import spectrum
from foreshock.stats.noise_dimension import inverse_dimension, noise_d_eff
from foreshock.types import Flag


def test_both_halves_are_the_sums_over_distinct_indices() -> None:
    g = np.random.default_rng(0).standard_normal((6, 4)) + 0.5
    gram = g @ g.T
    above = below = 0.0
    for i, j, k, m in itertools.permutations(range(6), 4):
        above += gram[i, j] ** 2 - 2 * gram[i, j] * gram[j, k] + gram[i, j] * gram[k, m]
        first, second = g[i] - g[j], g[k] - g[m]
        below += (first @ first / 2) * (second @ second / 2)
    assert float(inverse_dimension(gram)) == pytest.approx(above / below, rel=1e-9)


def test_planted_dimension_beyond_the_plug_ins_cap() -> None:
    # 400 Grams of 20 gradients with d_eff = 100: the plug-in tr(K)^2/|K|^2 is at most 19. Both
    # halves are unbiased and averaged apart; 4 standard errors of the mean of 1/d_eff.
    rng = np.random.default_rng(1)
    g = rng.standard_normal((400, 20, 600)) * np.sqrt(spectrum(100.0))
    inverse = inverse_dimension(g @ g.swapaxes(1, 2))
    assert abs(inverse.mean() - 0.01) < 4 * inverse.std() / 20
    assert inverse.std() < 0.01  # else the line above says nothing
    medians = [noise_d_eff(one).value for one in (g @ g.swapaxes(1, 2))[:50]]
    assert 60 < np.median(medians) < 170


def test_scale_and_order_do_not_matter() -> None:
    g = np.random.default_rng(2).standard_normal((9, 30))
    one, other = noise_d_eff(g @ g.T), noise_d_eff(1e6 * (g @ g.T)[::-1, ::-1])
    assert (one.value, one.low) == pytest.approx((other.value, other.low), rel=1e-9)


def test_an_open_end_is_said() -> None:
    g = np.random.default_rng(3).standard_normal((6, 400))
    found = noise_d_eff(g @ g.T)
    assert math.isinf(found.high) and Flag.UNRESOLVED in found.flags and found.reason


@pytest.mark.parametrize(
    ("gram", "sentence"),
    [
        pytest.param(np.eye(4), "at least 5 batch gradients. Got 4", id="few"),
        pytest.param(np.ones((6, 6)), "too few batches", id="alike"),
        pytest.param(np.diag([1.0, 0, 0, 0, 0, 0]), "too few batches", id="one-carries-all"),
    ],
)
def test_nothing_to_compute_is_said(gram: np.ndarray, sentence: str) -> None:
    found = noise_d_eff(gram)
    assert math.isnan(found.value) and sentence in found.reason


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="must be \\(..., n, n\\) with n >= 4"):
        inverse_dimension(np.eye(3))


@pytest.mark.parametrize("n", [8, 20])
@pytest.mark.parametrize("d_eff", [2.5, 21.0])
def test_coverage_of_a_subset_of_the_benchmark(n: int, d_eff: float) -> None:
    # 200 cases of at least 92 %: sd .019, 3 of them below
    rng = np.random.default_rng([n, int(d_eff)])
    scale = np.sqrt(spectrum(d_eff))
    found = [noise_d_eff(g @ g.T) for g in rng.standard_normal((200, n, 600)) * scale]
    assert np.mean([e.low <= d_eff <= e.high for e in found]) > 0.92 - 0.058
    assert any(e.resolved for e in found)
