"""spectral_edge.md: each published form against a transcription, and its defect as a number."""

import math
from collections import Counter

import numpy as np
import pytest

from foreshock.stats import published as pub

SIGMA = [9.0, 7.0, 3.0, 2.5, 2.2, 1.0]


def noise_spectra(windows: int, p: int, w: int = 10) -> np.ndarray:
    """Descending singular values of windows of iid Gaussian updates."""
    x = np.random.default_rng(13).normal(size=(windows, w, p))
    return np.sqrt(np.linalg.eigvalsh(x @ x.transpose(0, 2, 1))[:, ::-1])


def ar_walk(rho: float, steps: int, p: int) -> np.ndarray:
    """Stationary AR(1) updates without any learning."""
    rng = np.random.default_rng(14)
    x = np.empty((steps, p))
    x[0] = rng.normal(size=p)
    for t in range(1, steps):
        x[t] = rho * x[t - 1] + math.sqrt(1 - rho**2) * rng.normal(size=p)
    return x


def test_k_star_raw() -> None:
    ratios = [SIGMA[j] / SIGMA[j + 1] for j in range(5)]
    assert pub.k_star_raw(SIGMA) == ratios.index(max(ratios)) + 1 == 2
    # Defect: iid noise always has one: 1 or 9 in 44 % of windows. 400 windows: four sd = .10.
    count = Counter(pub.k_star_raw(s) for s in noise_spectra(400, 1000))
    assert abs((count[1] + count[9]) / 400 - 0.44) < 0.10
    # Defect: an AR(1) walk with rho = .9, which learns nothing, reads 1.
    s = np.linalg.svd(ar_walk(0.9, 10, 20_000), compute_uv=False)
    assert pub.k_star_raw(s) == 1


def test_k_star_weighted() -> None:
    total = sum(SIGMA)
    scores = [SIGMA[j] / total * SIGMA[j] / SIGMA[j + 1] for j in range(5)]
    assert pub.k_star_weighted(SIGMA) == scores.index(max(scores)) + 1
    # Defect: pure noise reads 1 in about 81 % of windows (400: four sd = .08).
    share = np.mean([pub.k_star_weighted(s) == 1 for s in noise_spectra(400, 10_000)])
    assert abs(share - 0.81) < 0.08


def test_g_singular() -> None:
    assert pub.g_singular(SIGMA, 2) == pytest.approx(7.0 - 3.0, abs=1e-6)
    # Defect: updates in half the size halve it; it says nothing on the geometry.
    assert pub.g_singular(np.multiply(0.5, SIGMA), 2) == pytest.approx(2.0)


def test_g_eigenvalue() -> None:
    assert pub.g_eigenvalue(SIGMA, 2) == pytest.approx(49.0 - 9.0, abs=1e-6)
    # Defect: updates in half the size quarter it.
    assert pub.g_eigenvalue(np.multiply(0.5, SIGMA), 2) == pytest.approx(10.0)


def test_g_23() -> None:
    assert pub.g_23(SIGMA) == pytest.approx(7.0**2 - 3.0**2, abs=1e-6)
    # Defect: random directions whose norms decay e-fold in 15 updates "collapse" by e^(2*31/15) =
    # 62 in 31 windows, up to the scatter of one gap (at most a few-fold), with no learning.
    x = np.random.default_rng(15).normal(size=(41, 500)) * np.exp(-np.arange(41) / 15)[:, None]
    g = [pub.g_23(np.linalg.svd(x[t : t + 10], compute_uv=False)) for t in (0, 31)]
    assert g[0] / g[1] > 10


def test_alpha_clip() -> None:
    now, before = [9.0, 4.0, 1.0, 0.9], [8.5, 4.1, 1.2, 0.9]
    change = sum((a - b) ** 2 for a, b in zip(now, before, strict=True))
    expected = []
    for j in range(4):
        gap = min(abs(now[j] - now[k]) for k in range(4) if k != j)
        expected.append(max(0.0, 1 - 2.0 * change / gap**2))
    assert pub.alpha_clip(now, before, 2.0) == pytest.approx(expected, abs=1e-6)
    assert pub.alpha_clip([1.0, 1.0], [1.0, 1.0]) == pytest.approx([0, 0])
    # Defect: AR(1) noise, rho = .9: it reads above .9 on the first five modes, while the exact
    # cos^2 between the modes of adjacent windows falls to about .1 (.98 .87 .63 .33 .09).
    x = ar_walk(0.9, 11, 100_000)
    _, s0, v0 = np.linalg.svd(x[:10], full_matrices=False)
    _, s1, v1 = np.linalg.svd(x[1:], full_matrices=False)
    assert pub.alpha_clip(s1**2, s0**2)[:5].min() > 0.9
    assert (v0[4] @ v1[4]) ** 2 < 0.2


def test_alpha_halves() -> None:
    rng = np.random.default_rng(16)
    a, b = (np.linalg.qr(rng.normal(size=(6, 3)))[0].T for _ in range(2))
    expected = [abs(sum(a[j][i] * b[j][i] for i in range(6))) for j in range(3)]
    assert pub.alpha_halves(a, b) == pytest.approx(expected, abs=1e-6)
    # Defect: two equal modes swap: the plane is the same, alpha reads 0.
    plane = np.eye(2, 6)
    assert pub.alpha_halves(plane, plane[::-1]) == pytest.approx([0, 0])


def test_a_adiabatic() -> None:
    assert pub.a_adiabatic(3.0, 0.01, 2.0) == pytest.approx(3.0 / (0.01 * 4.0), abs=1e-6)
    # Defect: updates and eta times 10, the same geometry: A / 10 with g of singular values and
    # A / 1000 with g of eigenvalues.
    x = np.random.default_rng(17).normal(size=(11, 50))

    def a(c: float, squared: bool) -> float:
        y = c * x
        change = float(np.linalg.norm(y[1:] @ y[1:].T - y[:-1] @ y[:-1].T))
        sigma = np.linalg.svd(y[1:], compute_uv=False)
        gap = pub.g_eigenvalue(sigma, 2) if squared else pub.g_singular(sigma, 2)
        return pub.a_adiabatic(change, 0.1 * c, gap)

    assert a(1, False) / a(10, False) == pytest.approx(10)
    assert a(1, True) / a(10, True) == pytest.approx(1000)


def test_a_band() -> None:
    bands = [pub.a_band(a, 4.0) for a in (0.2, 0.25, 1.0, 4.0, 5.0)]
    assert bands == ["plateau", "transition", "transition", "transition", "forgetting"]
    # Defect: one geometry is all three as c (updates and eta) goes 1/10, 1, 10, since A ~ 1/c.
    named = [pub.a_band(pub.a_adiabatic(c**2, c, c), 4.0) for c in (0.1, 1.0, 10.0)]
    assert named == ["forgetting", "transition", "plateau"]


def test_bbp_ratio() -> None:
    p = 1000
    nu2 = (2.5**2 + 2.2**2 + 1.0**2) / 3 / p
    threshold = math.sqrt(nu2) * (p * 5) ** 0.25
    assert pub.bbp_ratio(SIGMA, p) == pytest.approx(1.0 / threshold, rel=1e-6)
    # Defect: pure noise reads (p/(W-1))^(1/4), up to the spread of the spectrum: the smallest
    # sigma is below the rms of the lower half by O(sqrt(W/p)) = 1 %.
    p = 100_000
    ratio = pub.bbp_ratio(noise_spectra(1, p)[0], p)
    assert ratio == pytest.approx((p / 9) ** 0.25, rel=0.02)
    assert ratio > 10  # "every eigenvalue is signal"


def test_mode_importance() -> None:
    assert pub.mode_importance(0.4, -2.0, 3.0) == pytest.approx(-2.4, abs=1e-6)
    # Defect: over a basis the parts should add up to g.h; alpha = 1/2 loses half of it.
    g, h = np.random.default_rng(18).normal(size=(2, 6))
    pairs = list(zip(g, h, strict=True))
    parts = [sum(pub.mode_importance(a, x, y) for x, y in pairs) for a in (1.0, 0.5)]
    assert parts == pytest.approx([g @ h, g @ h / 2])


def test_gap_flow() -> None:
    eta, omega, w, (h1, h2), (d1, d2), (g1, g2) = 0.1, 0.2, 10, (3.0, 1.0), (2.0, 1.5), (0.7, 0.4)
    expected = (
        -eta * (h1 - h2) * (d1 + d2) / 2,
        -eta * ((h1 + h2) / 2 + omega) * (d1 - d2),
        eta * w * (g1 * g1 / d1 - g2 * g2 / d2),
    )
    got = pub.gap_flow(eta, omega, w, (h1, h2), (d1, d2), (g1, g2))
    assert got == pytest.approx(expected, abs=1e-6)
    # Defect: a linear loss (h = 0): two constant gradient components G = (2, 1) give d = eta
    # sqrt(W) G for ever, so dg/dt = 0; published: eta W (G_1 - G_2)/(eta sqrt(W)) = sqrt(10).
    d = [eta * math.sqrt(w) * g for g in (2.0, 1.0)]
    flow = pub.gap_flow(eta, 0.0, w, (0.0, 0.0), (d[0], d[1]), (2.0, 1.0))
    assert sum(flow) == pytest.approx(math.sqrt(10))


def test_sigma_steady() -> None:
    assert pub.sigma_steady(10, 2.5, 0.3) == pytest.approx(2 * 0.3, abs=1e-6)
    # Defect: W updates -eta G have sigma_1 = eta sqrt(W) |G| whatever h is: .0095 and .095 for
    # eta = .01 and .1; the formula has one value for both.
    for eta in (0.01, 0.1):
        x = -eta * 0.3 * np.ones((10, 1))
        sigma = np.linalg.svd(x, compute_uv=False)[0]
        assert sigma == pytest.approx(eta * math.sqrt(10) * 0.3)
        assert pub.sigma_steady(10, 2.5, 0.3) / sigma > 6


def test_krylov_bound() -> None:
    h = [200.0, 120.0, 60.0, 1.0, 0.2]
    assert pub.krylov_bound(h, 0.001, 10) == sum(x >= 1 / (0.001 * 10) for x in h) == 2
    # Defect: ten snapshots 200 steps apart are 2,000 steps, and the count is 4 instead of 2.
    assert pub.krylov_bound(h, 0.001, 10 * 200) == 4
