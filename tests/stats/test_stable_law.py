"""The symmetric stable law against another library's integrals, and closed forms."""

import numpy as np
import pytest
from scipy.stats import cauchy, kstest, levy_stable, norm

from foreshock.stats.stable_law import stable_density, stable_distribution, stable_samples

X = np.array([0.0, 0.3, 1.0, 3.0, 8.0, 15.0, 29.0, 31.0, 200.0])  # both sides of the seam at 30


@pytest.mark.parametrize("alpha", [0.7, 0.9, 1.2, 1.5, 1.8, 1.95])
def test_another_library(alpha: float) -> None:
    # Interpolation on a grid of .0096: f'' h^2/8 ~ 2e-5 of f near 0 at α = .7.
    np.testing.assert_allclose(stable_density(X, alpha), levy_stable.pdf(X, alpha, 0), rtol=4e-5)
    np.testing.assert_allclose(
        stable_distribution(-X, alpha), levy_stable.cdf(-X, alpha, 0), atol=1e-5
    )


def test_cauchy_and_normal() -> None:
    np.testing.assert_allclose(stable_density(X, 1.0), cauchy.pdf(X), rtol=4e-5)
    np.testing.assert_allclose(stable_distribution(X, 1.0), cauchy.cdf(X), atol=1e-5)
    np.testing.assert_allclose(stable_density(X, 2.0), norm.pdf(X, scale=2**0.5), rtol=1e-12)
    np.testing.assert_allclose(stable_distribution(X, 2.0), norm.cdf(X, scale=2**0.5), atol=1e-5)


@pytest.mark.parametrize("alpha", [0.9, 1.0, 1.6, 2.0])
def test_samples_follow_the_distribution(alpha: float) -> None:
    x = stable_samples(alpha, 5000, np.random.default_rng(0))
    # A fixed seed: p is one uniform number; .001 would fail one seed in a thousand.
    assert kstest(x, lambda q: stable_distribution(q, alpha)).pvalue > 1e-3


def test_arguments() -> None:
    with pytest.raises(ValueError, match="`alpha` of `stable_density` must lie between 0.7 and 2"):
        stable_density(0.0, 0.5)
    with pytest.raises(ValueError, match="`alpha` of `stable_distribution`"):
        stable_distribution(0.0, 2.1)
    with pytest.raises(ValueError, match="`alpha` of `stable_samples` must lie in"):
        stable_samples(0.0, 3, np.random.default_rng(0))
