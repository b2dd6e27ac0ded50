"""Expected descent: textbook forms, unbiasedness by Monte Carlo, both sides of η λ_μ = 2."""

from __future__ import annotations

import math

import numpy as np
import pytest

from foreshock.stats.descent import critical_snr, descent_pieces, expected_descent
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
STEEP = 2.31


def steep(n: int, rng: np.random.Generator, slope: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Gradients along the first axis with curvature slope/η there, 1 elsewhere; true E ΔL."""
    rate, mu, h = 0.5, np.zeros(D), np.eye(D)
    mu[0], h[0, 0] = 1.0, slope / 0.5
    sigma = np.full(D, 0.5)
    g = mu + rng.standard_normal((n, D)) * np.sqrt(sigma)
    truth = -rate + rate**2 / 2 * (h[0, 0] + sigma @ np.diagonal(h))
    return g @ g.T, g @ h @ g.T, truth


def test_no_ratio_suffices_beyond_two() -> None:
    gram, curved, truth = steep(400, np.random.default_rng(4), STEEP)
    found = critical_snr(gram, curved, 0.5)
    ratio, margin = found["grad/critical_snr"], found["grad/critical_margin"]
    lam_sigma = (STEEP / 0.5 + D - 1) / D
    published = 0.5 * lam_sigma / (2 - STEEP)
    snr = 1 / (0.5 * D)
    assert published < 0 < snr  # "C > critical" holds, and the step ascends:
    assert truth > 0
    assert ratio.value == math.inf and ratio.low > snr
    assert ratio.flags & Flag.UNRESOLVED and "≥ 2" not in ratio.reason and ">= 2" in ratio.reason
    exact = -truth / (0.5 * 0.5 * D)
    assert margin.low <= exact <= margin.high < 0


def test_below_two_it_is_the_closed_form() -> None:
    gram, curved, truth = steep(900, np.random.default_rng(5), 0.6)
    found = critical_snr(gram, curved, 0.5)
    ratio, margin = found["grad/critical_snr"], found["grad/critical_margin"]
    closed = 0.5 * ((0.6 / 0.5 + D - 1) / D) / (2 - 0.6)
    assert ratio.low <= closed <= ratio.high and not ratio.flags
    assert ratio.value == pytest.approx(closed, rel=0.1)
    assert margin.low <= -truth / (0.5 * 0.5 * D) <= margin.high
    expected = expected_descent(-0.5 * gram, 0.25 * curved)["grad/descent_expected"]
    noise = np.trace(gram) / 900 - (gram.sum() - np.trace(gram)) / (900 * 899)
    assert margin.value == pytest.approx(-expected.value / (0.5 * noise), rel=1e-9)


def test_near_two_the_interval_is_unbounded_above_and_never_negative() -> None:
    gram, curved, _ = steep(30, np.random.default_rng(6), 1.9)
    ratio = critical_snr(gram, curved, 0.5)["grad/critical_snr"]
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
