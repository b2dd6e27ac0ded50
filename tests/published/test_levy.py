"""levy.md: each published form against a literal transcription, and its defect as a number."""

import math
from itertools import pairwise

import numpy as np
import pytest

from foreshock.stats import published as pub

NORMS = np.random.default_rng(4).permutation(np.linspace(0.005, 1, 130) ** (-1 / 1.5))


def literal_hill(window: np.ndarray) -> float:
    ordered = sorted(window)
    k = int(0.1 * len(ordered))
    alpha = k / sum(math.log(v / ordered[-k - 1]) for v in ordered[-k:])
    return min(max(alpha, 1.1), 1.9)


def test_hill_levy() -> None:
    raw = literal_hill(NORMS[-100:])
    assert 1.1 < raw < 1.9
    assert pub.hill_levy(NORMS[-100:]) == pytest.approx(raw, abs=1e-6)
    with pytest.raises(ValueError, match="at least 10"):
        pub.hill_levy([1.0] * 9)
    assert pub.hill_levy([1.0] * 100) == 1.9  # k/0
    assert pub.hill_levy([1.0] * 9 + [2.0]) == pytest.approx(1 / math.log(2))  # k = 1
    # Defect: 200 of 200 windows of Gaussian norms (d = 100) print exactly 1.9.
    norms = np.linalg.norm(np.random.default_rng(0).normal(size=(200, 100, 100)), axis=2)
    assert {pub.hill_levy(row) for row in norms} == {1.9}


def test_d_levy() -> None:
    sigma, g, alpha = 0.7, 1.9, 1.45
    expected = math.exp(alpha * (math.log(sigma) - math.log(g)))
    assert pub.d_levy(sigma, g, alpha) == pytest.approx(expected, abs=1e-6)
    # Defect: units 10 times smaller: the diffusion sigma^alpha grows by 10^1.45 = 28, this by 1.
    assert pub.d_levy(10 * sigma, 10 * g, alpha) == pytest.approx(expected)


def test_c_levy_text() -> None:
    sigma, g, alpha, d = 0.7, 1.9, 1.45, 30
    expected = g * g / (2 * (sigma / g) ** alpha * d)
    assert pub.c_levy_text(g, sigma, alpha, d) == pytest.approx(expected, abs=1e-6)
    # Defect: loss times 10, the same training: C times 100, past both ends of [.8, 1.2].
    ratio = pub.c_levy_text(10 * g, 10 * sigma, alpha, d) / expected
    assert ratio == pytest.approx(100)


def test_c_levy_code() -> None:
    recent = NORMS[-100:]
    mean = sum(recent) / 100
    std = math.sqrt(sum((v - mean) ** 2 for v in recent) / 100)
    diffusion = (std / recent[-1]) ** literal_hill(recent)
    expected = recent[-1] ** 2 / (2 * diffusion * 100)
    assert pub.c_levy_code(NORMS) == pytest.approx(expected, rel=1e-9)
    with pytest.raises(ValueError, match="needs `window`"):
        pub.c_levy_code(NORMS[:99])
    # Defect: the window stands for d: with d = 100,000 parameters code and text differ by 1,000.
    text = pub.c_levy_text(float(recent[-1]), std, literal_hill(recent), 100_000)
    assert pub.c_levy_code(NORMS) / text == pytest.approx(1000)
    assert pub.c_levy_code(10 * NORMS) == pytest.approx(100 * expected)


def test_s_levy() -> None:
    assert pub.s_levy(0.02, 90.0) == pytest.approx(2 / 0.02 - 90.0, abs=1e-6)
    # Defect: eta lambda/2 = .99, one per cent inside the edge: S = 2 at eta = .01 ("stable"), but
    # .01 at eta = 2 ("edge").
    assert [pub.s_levy(eta, 0.99 * 2 / eta) for eta in (0.01, 2.0)] == pytest.approx([2.0, 0.01])


def test_s_band_levy() -> None:
    bands = [pub.s_band_levy(s) for s in (-0.2, -0.1, 0.0, 0.1, 0.3, 0.6)]
    assert bands == ["divergence", "edge", "edge", "edge", "unnamed", "stable"]
    # Defect: a run 1 % beyond the edge: named "divergence" at eta = .01, "edge" at eta = 2.
    beyond = [pub.s_band_levy(pub.s_levy(eta, 1.01 * 2 / eta)) for eta in (0.01, 2.0)]
    assert beyond == ["divergence", "edge"]


def test_rho_levy() -> None:
    values = [3.0, 0.5, 2e-6, 5e-7, 0.0, -1e-9]
    expected = sum(math.log(v) for v in values if v > 1e-6)
    assert pub.rho_levy(values) == pytest.approx(expected, abs=1e-6)
    # Defect: a change of 2e-12 in one eigenvalue moves rho by 13.8.
    jump = pub.rho_levy([1.0, 1e-6 - 1e-12]) - pub.rho_levy([1.0, 1e-6 + 1e-12])
    assert jump == pytest.approx(13.8155, abs=1e-3)


def test_drho_levy_text() -> None:
    assert pub.drho_levy_text(-3.0, 1.5, 10.0) == pytest.approx(-0.45, abs=1e-6)
    # Defect: fresh probes of 32 inputs see one frozen linear model (d = 64, gradient = x):
    # log det moves by more than the threshold .5 in most pairs, although nothing changed.
    x = np.random.default_rng(6).normal(size=(200, 32, 64))
    rho = [pub.rho_levy(np.linalg.eigvalsh(g @ g.T / 32)) for g in x]
    moves = [abs(pub.drho_levy_text(b, a, 1.0)) for a, b in pairwise(rho)]
    assert np.mean(np.array(moves) > 0.5) > 0.5


def test_drho_levy_code() -> None:
    assert pub.drho_levy_code([1.0, 4.0, 2.5]) == pytest.approx(2.5 - 4.0, abs=1e-6)
    assert pub.drho_levy_code([1.0]) == 0.0
    # Defect: a steady drift of .1 per step is "lazy" logged every step, "critical" every tenth.
    drift = [0.1 * t for t in range(31)]
    rates = [pub.drho_levy_code(drift), pub.drho_levy_code(drift[::10])]
    assert rates == pytest.approx([0.1, 1.0])
    assert [pub.components_levy(1, 0, r)["geometric"] for r in rates] == [False, True]


def test_components_levy() -> None:
    for c in (0.79, 0.8, 1.2, 1.21):
        for s in (-0.11, -0.1, 0.1, 0.11):
            for r in (-0.6, 0.5, 0.6):
                flags = pub.components_levy(c, s, r)
                expected = (0.8 <= c <= 1.2, -0.1 <= s <= 0.1, abs(r) > 0.5)
                assert tuple(flags.values()) == expected
    # Defect: a loss in units 10 times smaller (lr / 10, S times 10, C times 100) clears two flags.
    assert sum(pub.components_levy(1.0, 0.05, 1.0).values()) == 3
    assert sum(pub.components_levy(100.0, 0.5, 1.0).values()) == 1


def test_is_critical_levy() -> None:
    assert pub.is_critical_levy(1.1, -0.05, -0.7)
    assert not pub.is_critical_levy(1.1, -0.05, -0.7, threshold=0.8)
    assert not pub.is_critical_levy(1.3, -0.05, -0.7)
    # Defect: it depends on the unit of the loss: the run at twice the loss and half the lr is the
    # same run, with C times 4.
    g, sigma = 1.0, 0.5
    d = 1 / (2 * pub.d_levy(sigma, g, 1.5))  # "dimension" that puts C at 1
    cs = [f**2 / (2 * pub.d_levy(f * sigma, f * g, 1.5) * d) for f in (1, 2)]
    assert cs == pytest.approx([1, 4])
    assert [pub.is_critical_levy(c, 0.0, 1.0) for c in cs] == [True, False]


def test_partial_regime_levy() -> None:
    triples = [
        (1.0, 0.0, 0.7),
        (1.0, 0.6, 0.0),
        (1.0, 0.6, 0.7),
        (5.0, 0.05, 0.0),
        (0.2, 9.0, -1.0),
    ]
    named = [pub.partial_regime_levy(*triple) for triple in triples]
    assert named == ["aligned", "exploratory", "exploratory", "edge-walking", "noisy flux"]
    # C ~ 1 alone, an S that has no name, and a quiet kernel away from both: no words for them.
    nameless = [(1.0, 0.3, 0.7), (1.0, 0.0, 0.2), (5.0, 1.0, 0.7), (0.2, 0.0, 0.1)]
    assert {pub.partial_regime_levy(*triple) for triple in nameless} == {"unnamed"}
    # Defect: a loss times 10 with a tenth of the learning rate is the same training: C times 100,
    # S times 10, and "exploratory" has no name any more.
    assert pub.partial_regime_levy(100 * 1.0, 10 * 0.6, 0.0) == "unnamed"


def test_phi_levy() -> None:
    c, s, r = 1.2, -0.1, 0.4
    bracket = (c - 1) ** 2 / (2 * 0.09) + s**2 / (2 * 0.0225) + (r - 1.0) ** 2 / (2 * 0.25)
    assert pub.phi_levy(c, s, r) == pytest.approx(math.exp(-bracket), abs=1e-6)
    other = math.exp(-((c - 1) ** 2 / 2 + s**2 / 8 + (r - 5) ** 2 / 18))
    assert pub.phi_levy(c, s, r, 1.0, 2.0, 3.0, 5.0) == pytest.approx(other, abs=1e-6)
    # Defect: r = -1 sets every flag, as r = 1 does; Phi is e^8 = 2981 times smaller there.
    assert pub.is_critical_levy(1.0, 0.0, -1.0) and pub.is_critical_levy(1.0, 0.0, 1.0)
    ratio = pub.phi_levy(1.0, 0.0, 1.0) / pub.phi_levy(1.0, 0.0, -1.0)
    assert ratio == pytest.approx(math.exp(8))
