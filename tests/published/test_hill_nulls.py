"""What the two clipped forms of Hill's estimator print where nothing is heavy: mostly a stop."""

import math

import numpy as np
import pytest
from scipy.stats import gamma

from foreshock.stats import published as pub
from foreshock.stats.stable_law import stable_samples

#: Draws here, and behind the shares elsewhere; each draw is a window of n = 100 with k = 10.
DRAWS = 4000


def gaussian_norms(dimension: int) -> np.ndarray:
    return np.sqrt(np.random.default_rng(dimension).chisquare(dimension, (DRAWS, 100)))


def lognormal_norms(sigma: float) -> np.ndarray:
    return np.random.default_rng(7).lognormal(sigma=sigma, size=(DRAWS, 100))


def stable_coordinates(alpha: float) -> np.ndarray:
    return np.abs(stable_samples(alpha, (DRAWS, 100), np.random.default_rng(4)))


def decay(factor: float) -> np.ndarray:
    return factor ** (-np.arange(100) / 100)[None]


def levy(rows: np.ndarray) -> np.ndarray:
    return np.array([pub.hill_levy(row) for row in rows])


def signal(rows: np.ndarray, k: int = 10) -> np.ndarray:
    return np.array([pub.hill_signal(row, k) for row in rows])


def error(share: float) -> float:
    """4 standard errors of the difference of two shares of `DRAWS`, and half a printed percent."""
    return 4 * math.sqrt(2 * share * (1 - share) / DRAWS) + 0.005


@pytest.mark.parametrize(
    ("rows", "share"),
    [
        pytest.param(stable_coordinates(1.5), 0.42, id="stable 1.5"),
        pytest.param(stable_coordinates(1.7), 0.76, id="stable 1.7"),
        pytest.param(stable_coordinates(1.9), 0.98, id="stable 1.9"),
        pytest.param(gaussian_norms(1), 1.00, id="|N(0, 1)|"),
        pytest.param(gaussian_norms(10), 1.00, id="Gaussian norms, d = 10"),
        pytest.param(gaussian_norms(100), 1.00, id="Gaussian norms, d = 100"),
        pytest.param(gaussian_norms(3202), 1.00, id="Gaussian norms, d = 3202"),
        pytest.param(lognormal_norms(0.3), 1.00, id="lognormal .3"),
        pytest.param(lognormal_norms(1.0), 0.66, id="lognormal 1"),
        pytest.param(decay(3.0), 1.00, id="decay to 1/3"),
        pytest.param(decay(100.0), 1.00, id="decay to 1/100"),
    ],
)
def test_share_that_prints_the_upper_stop(rows: np.ndarray, share: float) -> None:
    at_stop = np.mean(levy(rows) == 1.9)
    assert abs(at_stop - share) < error(share)
    # The other form's stop is higher, 2, so fewer windows reach it, and those that do print 2.
    values = signal(rows)
    assert np.mean(values == 2.0) <= at_stop
    if share == 1.0:  # "whatever happens"; to within the half percent that was rounded away
        assert np.mean(values == 2.0) > 0.99


@pytest.mark.parametrize("k", [10, 100])
def test_both_stops_on_an_exact_tail(k: int) -> None:
    # Hill on Pareto tails is α k/G with G of a gamma law of shape k: both shares are known.
    alpha, n = 1.5, 10 * k
    draws = DRAWS if k == 10 else 1000
    rows = np.random.default_rng(8).pareto(alpha, (draws, n)) + 1
    for values, low, high in ((levy(rows), 1.1, 1.9), (signal(rows, k), 1.0, 2.0)):
        for found, exact in (
            (np.mean(values == high), gamma.cdf(alpha * k / high, k)),
            (np.mean(values == low), gamma.sf(alpha * k / low, k)),
        ):
            # 4 standard errors; one draw where nearly none is expected (α/√k = .15 at k = 100).
            assert abs(found - exact) < 4 * math.sqrt(exact * (1 - exact) / draws) + 1 / draws
    if k == 10:  # and the shares printed elsewhere from as many draws: 27 % and 13 %
        assert abs(np.mean(levy(rows) == 1.9) - 0.27) < error(0.27)
        assert abs(np.mean(levy(rows) == 1.1) - 0.13) < error(0.13)
