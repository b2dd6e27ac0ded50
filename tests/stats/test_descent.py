"""Expected descent: textbook forms, unbiasedness by Monte Carlo, both sides of η λ_μ = 2."""

from __future__ import annotations

import math

import numpy as np
import pytest

from foreshock.stats.descent import (
    critical_snr,
    descent_factor,
    descent_pieces,
    expected_descent,
)
from foreshock.types import Flag

D = 6
CURVATURE = np.diag(np.linspace(0.5, 3.0, D))
SIGMA = np.diag(np.linspace(2.0, 0.1, D))
MU = np.linspace(-0.4, 0.6, D)


def draw(rng: np.random.Generator, n: int, mu: np.ndarray = MU) -> np.ndarray:
    return mu + rng.standard_normal((n, D)) @ np.sqrt(SIGMA)


def sgd(g: np.ndarray, rate: float) -> tuple[np.ndarray, np.ndarray]:
    return -rate * g @ g.T, rate**2 * g @ CURVATURE @ g.T


def test_one_hessian_gives_the_textbook_forms() -> None:
    n, rate = 9, 0.1
    g = draw(np.random.default_rng(0), n)
    pieces = descent_pieces(*sgd(g, rate))
    m, e = g.mean(0), g - g.mean(0)
    v = (e**2).sum() / (n - 1)
    t = np.einsum("ij,jk,ik->", e, CURVATURE, e) / (n - 1)
    q = m @ CURVATURE @ m - t / n
    s = m @ m - v / n
    assert pieces.drift[0] == pytest.approx(-rate * s, rel=1e-12)
    assert pieces.straight[0] == pytest.approx(rate**2 * q, rel=1e-12)
    assert pieces.noise[0] == pytest.approx(rate**2 * t / 2, rel=1e-12)
    expected = -rate * s + rate**2 / 2 * (q + t)
    assert pieces.expected[0] == pytest.approx(expected, rel=1e-12)
    for i in range(n):  # deleting is recomputing
        without = descent_pieces(*sgd(np.delete(g, i, 0), rate))
        assert pieces.expected[1 + i] == pytest.approx(without.expected[0], rel=1e-12)
        assert pieces.noise[1 + i] == pytest.approx(without.noise[0], rel=1e-12)


def test_a_ring_of_hessians_by_loops() -> None:
    n = 6
    rng = np.random.default_rng(1)
    a, k = rng.standard_normal((2, n, n))
    ring = (np.arange(n) + 1) % n
    pieces = descent_pieces(a, k, ring)
    for row, gone in enumerate([None, *range(n)]):
        kept = [i for i in range(n) if i != gone]
        columns = [j for j in kept if ring[j] != gone]
        drift = np.mean([a[i, j] for i in kept for j in kept if i != j])
        curvature = np.mean([k[j, j] for j in columns])
        straight = np.mean([k[i, j] for j in columns for i in kept if i not in (j, ring[j])])
        assert pieces.drift[row] == pytest.approx(drift, rel=1e-12)
        assert pieces.curvature[row] == pytest.approx(curvature, rel=1e-12)
        assert pieces.straight[row] == pytest.approx(straight, rel=1e-12)


def test_the_interval_is_the_jackknife_by_loops() -> None:
    n = 7
    rng = np.random.default_rng(8)
    g = rng.standard_normal((n, D)) + 1.0
    h = [np.diag(rng.uniform(0.5, 2.0, D)) for _ in range(n)]
    ring = [(j + 1) % n for j in range(n)]

    def both(kept: list[int], without: int | None = None) -> np.ndarray:
        """E ΔL and its noise part at η = 1; ``without``: a batch that gives no Hessian."""
        columns = [j for j in kept if ring[j] in kept and ring[j] != without]
        drift = -np.mean([g[i] @ g[j] for i in kept for j in kept if i != j])
        bend = np.mean([g[j] @ h[ring[j]] @ g[j] for j in columns])
        pairs = [(i, j) for j in columns for i in kept if i not in (j, ring[j])]
        return np.array(
            [drift + bend / 2, (bend - np.mean([g[i] @ h[ring[j]] @ g[j] for i, j in pairs])) / 2]
        )

    everyone = list(range(n))
    batch = np.array([both([i for i in everyone if i != gone]) for gone in everyone])
    column = np.array([both(everyone, gone) for gone in everyone])
    plain, twice = (((x - x.mean(0)) ** 2).sum(0) * (n - 1) / n for x in (batch, column))
    variance = np.array([plain[0] - min(twice[0], plain[0] / 2), plain[1]])
    curvatures = np.array([[g[i] @ h[ring[j]] @ g[j] for j in everyone] for i in everyone])
    found = expected_descent(-g @ g.T, curvatures, ring)
    student = 2.4469118511449692  # t_6
    for estimate, value, spread in zip(found.values(), both(everyone), variance, strict=True):
        assert estimate.value == pytest.approx(value, rel=1e-9)
        assert estimate.high - estimate.value == pytest.approx(student * spread**0.5, rel=1e-9)
        assert estimate.value - estimate.low == pytest.approx(student * spread**0.5, rel=1e-9)


def test_unbiased_also_where_hessian_and_gradient_of_a_batch_go_together() -> None:
    # Batch b has the curvature (1 + ε_b·a) H where its gradient is μ + ε_b: with its own Hessian
    # the mean of u'Hu would be off by E[ε·a (μ+ε)'H(μ+ε)] = 2 μ'HΣa.
    rng = np.random.default_rng(2)
    rate, n, draws = 0.3, 5, 4000
    along = 2 * MU
    ring = (np.arange(n) + 1) % n
    found, own = [], []
    for _ in range(draws):
        g = draw(rng, n)
        stiffness = 1 + (g - MU) @ along
        bare = rate**2 * g @ CURVATURE @ g.T
        pieces = descent_pieces(-rate * g @ g.T, bare * stiffness[ring][None, :], ring)
        found.append((pieces.expected[0], pieces.noise[0], pieces.straight[0]))
        own.append(np.diagonal(bare * stiffness[None, :]).mean() / 2 + pieces.drift[0])
    q, t = MU @ CURVATURE @ MU, np.trace(CURVATURE @ SIGMA)
    truth = np.array([-rate * MU @ MU + rate**2 / 2 * (q + t), rate**2 / 2 * t, rate**2 * q])
    values = np.array(found)
    error = values.std(0, ddof=1) / math.sqrt(draws)
    assert (np.abs(values.mean(0) - truth) < 4 * error).all()  # 4 sigma, three numbers
    bias = rate**2 / 2 * 2 * MU @ CURVATURE @ SIGMA @ along
    assert abs(np.mean(own) - truth[0] - bias) < 4 * np.std(own) / math.sqrt(draws)
    assert bias > 4 * error[0]  # what the ring is for


def test_the_formula_is_the_loss_change_of_a_quadratic() -> None:
    # L(θ) = ½ θ'Hθ at θ = H⁻¹μ, stepped with fresh gradients: the oracle is the loss itself.
    rng = np.random.default_rng(3)
    rate, steps = 0.4, 200_000
    theta = np.linalg.solve(CURVATURE, MU)

    def loss(x: np.ndarray) -> np.ndarray:
        return np.einsum("...i,ij,...j->...", x, CURVATURE, x) / 2

    change = loss(theta - rate * draw(rng, steps)) - loss(theta)
    found = expected_descent(*sgd(draw(rng, 1500), rate))["grad/descent_expected"]
    assert found.low <= change.mean() <= found.high
    # the interval is that of 1,500 gradients: it is 0.02 wide on a change that is not
    assert found.high - found.low < 0.3 * abs(change.mean())


#: The case in which the published formula says "descends": η λ_μ = 2.31, E ΔL > 0.
STEEP, RATE, SPREAD = 2.31, 0.4, 3.125


def steep(n: int, rng: np.random.Generator, slope: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Gradients along the first axis, curvature slope/η there and .891 elsewhere; true E ΔL."""
    mu, h = np.zeros(D), 0.891 * np.eye(D)
    mu[0], h[0, 0] = 1.0, slope / RATE
    sigma = np.full(D, SPREAD / D)
    g = mu + rng.standard_normal((n, D)) * np.sqrt(sigma)
    truth = -RATE + RATE**2 / 2 * (h[0, 0] + sigma @ np.diagonal(h))
    return g @ g.T, g @ h @ g.T, truth


def closed_form(slope: float) -> float:
    """η λ_Σ/(2 - η λ_μ) of `steep`."""
    return RATE * (slope / RATE + 0.891 * (D - 1)) / D / (2 - slope)


def test_no_ratio_suffices_beyond_two() -> None:
    gram, curved, truth = steep(400, np.random.default_rng(4), STEEP)
    found = critical_snr(gram, curved, RATE)
    ratio, margin = found["grad/critical_snr"], found["grad/critical_margin"]
    snr = 1 / SPREAD
    # "C > critical", -2.2, holds, and yet the step ascends. The loss itself says so:
    assert closed_form(STEEP) == pytest.approx(-2.2, abs=0.01)
    noise = np.random.default_rng(40).standard_normal((100_000, D)) * math.sqrt(SPREAD / D)
    steps = -RATE * (np.eye(D)[0] + noise)
    h = np.array([STEEP / RATE, *[0.891] * (D - 1)])
    change = steps[:, 0] + steps**2 @ h / 2
    assert abs(change.mean() - truth) < 4 * change.std() / math.sqrt(100_000)
    assert truth == pytest.approx(0.49, abs=0.01)
    assert ratio.value == math.inf and ratio.low > snr
    assert ratio.flags & Flag.UNRESOLVED and ">= 2: no signal-to-noise ratio" in ratio.reason
    assert margin.low <= -truth / (RATE * SPREAD) <= margin.high < 0


def test_below_two_it_is_the_closed_form() -> None:
    gram, curved, truth = steep(900, np.random.default_rng(5), 0.6)
    found = critical_snr(gram, curved, RATE)
    ratio, margin = found["grad/critical_snr"], found["grad/critical_margin"]
    assert ratio.low <= closed_form(0.6) <= ratio.high and not ratio.flags
    assert ratio.value == pytest.approx(closed_form(0.6), rel=0.1)
    assert margin.low <= -truth / (RATE * SPREAD) <= margin.high
    expected = expected_descent(-RATE * gram, RATE**2 * curved)["grad/descent_expected"]
    noise = np.trace(gram) / 900 - (gram.sum() - np.trace(gram)) / (900 * 899)
    assert margin.value == pytest.approx(-expected.value / (RATE * noise), rel=1e-9)


def test_near_two_the_interval_is_unbounded_above_and_never_negative() -> None:
    gram, curved, _ = steep(30, np.random.default_rng(6), 1.9)
    ratio = critical_snr(gram, curved, RATE)["grad/critical_snr"]
    assert 0 < ratio.low <= ratio.value and ratio.high == math.inf


def test_says_what_is_missing() -> None:
    g = draw(np.random.default_rng(7), 8)
    few = expected_descent(*sgd(g[:3], 0.1))
    assert all("at least 4 probe batches. Got 3" in e.reason for e in few.values())
    broken = g.copy()
    broken[0, 0] = math.nan
    assert "nan" in expected_descent(*sgd(broken, 0.1))["grad/descent_noise"].reason
    gram, curved = g @ g.T, g @ CURVATURE @ g.T
    assert "learning rate is 0" in critical_snr(gram, curved, 0.0)["grad/critical_snr"].reason
    same = np.ones((8, 8))
    assert "identical" in critical_snr(same, same, 0.1)["grad/critical_margin"].reason
    saddle = critical_snr(gram, -curved, 0.1)
    assert "along the noise is not positive" in saddle["grad/critical_snr"].reason
    assert saddle["grad/critical_margin"].value > 0
    with pytest.raises(ValueError, match="must name another batch"):
        descent_pieces(gram, curved, np.arange(8))
    with pytest.raises(ValueError, match="must both be n x n"):
        descent_pieces(gram, curved[:4])


def test_the_best_factor_is_that_of_the_minimum_over_rates() -> None:
    """Against the expected change at every factor, computed anew: the least one is at f*."""
    g = draw(np.random.default_rng(1), 12)
    found = descent_factor(*sgd(g, 0.05))
    grid = found.value * np.linspace(0.5, 1.5, 101)
    change = [descent_pieces(*sgd(g, 0.05 * f)).expected[0] for f in grid]
    assert grid[int(np.argmin(change))] == pytest.approx(found.value)
    # Half of what the slope alone promises, and twice the factor gives nothing.
    slope = descent_pieces(*sgd(g, 0.05 * found.value)).drift[0]
    assert min(change) == pytest.approx(slope / 2)
    assert descent_pieces(*sgd(g, 0.1 * found.value)).expected[0] == pytest.approx(0, abs=1e-12)


def test_the_best_factor_of_many_batches_is_the_closed_form() -> None:
    g = draw(np.random.default_rng(2), 1500)
    truth = (MU @ MU) / (0.05 * (MU @ CURVATURE @ MU + np.trace(CURVATURE @ SIGMA)))
    found = descent_factor(*sgd(g, 0.05))
    # Twice the 95 % interval is 4 standard errors.
    half = found.high - found.low
    assert found.value - half < truth < found.value + half
    assert half < truth  # and it says something


def test_no_factor_is_best_without_curvature_and_none_is_sure_without_signal() -> None:
    g = draw(np.random.default_rng(3), 12)
    drift, curved = sgd(g, 0.05)
    assert np.isnan(descent_factor(drift, -curved).value)
    assert "not positive" in descent_factor(drift, -curved).reason
    assert np.isnan(descent_factor(drift[:2, :2], curved[:2, :2]).value)
    mixed = np.diag([3.0, -2.9, 0.1, 0.0, 0.2, -0.1, 1.0, -0.9])
    found = descent_factor(-np.ones((8, 8)), mixed)
    assert found.flags & Flag.UNRESOLVED and found.high == np.inf
