"""Fluctuation and dissipation: 1 on stationary SGD at any rate; diffusion in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest

from foreshock.stats.descent import descent_pieces
from foreshock.stats.fluctuation import diffusion, equal_rows, fluctuation_dissipation
from foreshock.types import Flag

# Anisotropic, and the noise is large where the curvature is small, so no isotropic form can pass.
CURVATURE = np.array([4.0, 2.0, 1.0, 0.5])
SIGMA = np.array([0.2, 0.5, 1.0, 3.0])


def stationary(rate: float, measurements: int, spacing: int, n: int, seed: int) -> dict[str, list]:
    """SGD on ½ θ'Hθ, begun in its stationary law; n probe gradients at every measurement."""
    rng = np.random.default_rng(seed)
    # Var θ = (1-ηh)² Var θ + η² σ² per direction
    spread = rate**2 * SIGMA / (1 - (1 - rate * CURVATURE) ** 2)
    theta = rng.standard_normal(4) * np.sqrt(spread)
    found: dict[str, list] = {"drift": [], "curvature": [], "signal": [], "noise": []}
    for _ in range(measurements):
        for _ in range(spacing):
            theta = theta - rate * (CURVATURE * theta + rng.standard_normal(4) * np.sqrt(SIGMA))
        g = CURVATURE * theta + rng.standard_normal((n, 4)) * np.sqrt(SIGMA)
        pieces = descent_pieces(-rate * g @ g.T, rate**2 * (g * CURVATURE) @ g.T)
        found["drift"].append(pieces.drift[0])
        found["curvature"].append(pieces.curvature[0])
        found["signal"].append(-pieces.drift[0] / rate)
        found["noise"].append(g.var(0, ddof=1).sum())
    return found


@pytest.mark.parametrize("rate", [0.05, 0.3])
def test_is_one_at_stationarity_and_the_naive_form_is_not(rate: float) -> None:
    run = stationary(rate, 4000, spacing=3, n=8, seed=0)
    ratio = fluctuation_dissipation(run["drift"], run["curvature"])
    assert ratio.low <= 1 <= ratio.high
    assert ratio.high - ratio.low < 0.5
    # E|μ|²/(D tr H) with D = V/2d has the dimension of a rate: it reads about η, not 1.
    naive = np.mean(run["signal"]) / (np.mean(run["noise"]) / 8 * CURVATURE.sum())
    exact = np.sum(rate * CURVATURE * SIGMA / (2 - rate * CURVATURE)) / (
        SIGMA.sum() / 8 * CURVATURE.sum()
    )
    assert naive == pytest.approx(exact, rel=0.1)
    assert 0.3 * rate < naive < 2 * rate


def test_is_one_for_momentum_too() -> None:
    # The law is E ΔL = 0 with the update as it is, so a buffer changes nothing.
    rate, beta, k = 0.1, 0.8, 6000
    rng = np.random.default_rng(0)
    theta, buffer = np.zeros(4), np.zeros(4)
    drifts, curvatures = [], []
    for step in range(-500, k):
        mu = CURVATURE * theta
        fresh = mu + rng.standard_normal(4) * np.sqrt(SIGMA)
        if step >= 0:
            g = mu + rng.standard_normal((6, 4)) * np.sqrt(SIGMA)
            u = -rate * (beta * buffer + g)
            pieces = descent_pieces(g @ u.T, (u * CURVATURE) @ u.T)
            drifts.append(pieces.drift[0])
            curvatures.append(pieces.curvature[0])
        buffer = beta * buffer + fresh
        theta = theta - rate * buffer
    ratio = fluctuation_dissipation(drifts, curvatures)
    assert ratio.low <= 1 <= ratio.high
    assert ratio.high - ratio.low < 0.5


def test_above_one_while_it_falls_and_flagged_while_it_drifts() -> None:
    fall = -np.geomspace(10.0, 1.0, 64)
    ratio = fluctuation_dissipation(fall, np.ones(64))
    assert ratio.value > 2
    assert ratio.flags & Flag.NONSTATIONARY and "descent along the steps" in ratio.reason


def test_false_alarms_of_the_drift_test_stay_at_five_percent() -> None:
    rng = np.random.default_rng(2)
    flagged = [
        bool(fluctuation_dissipation(-x[0], 2 * x[1]).flags & Flag.NONSTATIONARY)
        for x in rng.gamma(4.0, 0.25, (1000, 2, 64))
    ]
    assert 0.03 < np.mean(flagged) < 0.071  # 1-(1-.025)² = .049, 3 binomial errors of .0068


def test_the_interval_is_the_jackknife_by_loops() -> None:
    rng = np.random.default_rng(3)
    d, c = -rng.uniform(1, 2, 24), rng.uniform(1, 2, 24)
    found = fluctuation_dissipation(d, c, blocks=6)
    left = [
        -2
        * np.delete(d, range(4 * b, 4 * b + 4)).sum()
        / np.delete(c, range(4 * b, 4 * b + 4)).sum()
        for b in range(6)
    ]
    error = math.sqrt(5 / 6 * sum((x - np.mean(left)) ** 2 for x in left))
    assert found.high - found.value == pytest.approx(2.570581835636314 * error, rel=1e-9)  # t_5


def test_says_what_is_missing() -> None:
    early = fluctuation_dissipation([-1.0] * 9, [1.0] * 9)
    assert "9 of the 16 measurements" in early.reason
    assert "not positive" in fluctuation_dissipation([-1.0] * 16, [-1.0] * 16).reason
    assert "nan" in fluctuation_dissipation([math.nan] * 16, [1.0] * 16).reason
    with pytest.raises(ValueError, match="`blocks` .* at least 4. Got 2"):
        fluctuation_dissipation([1.0], [1.0], blocks=2)
    with pytest.raises(ValueError, match="one length"):
        fluctuation_dissipation([1.0], [1.0, 2.0])


def test_diffusion_is_half_the_trace_of_the_covariance() -> None:
    rng = np.random.default_rng(4)
    u = 5.0 + rng.standard_normal((12, 300)) * 1e-4
    found = diffusion(u @ u.T)
    # products of about 7,500 round to 1e-12, the noise is 3e-6
    assert found.value == pytest.approx(u.var(0, ddof=1).sum() / 2, rel=1e-4)
    assert found.low < found.value < found.high
    equal = diffusion(np.ones((5, 5)))
    assert equal.value == 0 and equal.flags & Flag.BELOW_PRECISION
    assert diffusion(np.zeros((5, 5))).value == 0
    assert "at least 3" in diffusion(np.ones((2, 2))).reason
    assert "nan" in diffusion(np.full((5, 5), math.nan)).reason


@pytest.mark.parametrize("n", [2, 3, 6, 64])
def test_equal_rows_are_told_from_nearly_equal_ones(n: int) -> None:
    rows = np.repeat(np.random.default_rng(5).standard_normal((1, 50)), n, axis=0)
    for scale in (1e-200, 1.0, 1e200):
        assert equal_rows(scale * rows @ rows.T)
    # Products of float64 round to 1e-16 of 1: a difference of 1e-5 in one row of 64, whose square
    # over n is 1e-12, is above 64 n times that.
    rows[0] *= 1 + 1e-5
    assert not equal_rows(rows @ rows.T)
    assert equal_rows(np.zeros((4, 4)))
    assert not equal_rows(np.full((4, 4), math.nan))
    assert equal_rows([[2.0]])
