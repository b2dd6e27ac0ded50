"""langevin.md: each published form against a literal transcription, and its defect as a number."""

import math
import statistics
from itertools import pairwise

import numpy as np
import pytest

from foreshock.stats import published as pub

G = np.random.default_rng(7).normal(0.3, 1.0, (12, 5))


def literal_variance(rows: np.ndarray) -> float:
    columns = [[float(v) for v in column] for column in rows.T]
    return sum(statistics.variance(column) for column in columns) / len(columns)


def test_d_gradients_langevin() -> None:
    assert pub.d_gradients_langevin(G) == pytest.approx(literal_variance(G) / 2, abs=1e-6)
    # Defect: no learning rate: the steps -eta g diffuse with eta^2 Var/2, 10^4 times less at .01.
    steps = pub.d_gradients_langevin(-0.01 * G)
    assert pub.d_gradients_langevin(G) / steps == pytest.approx(1e4)


def test_d_parameters_langevin() -> None:
    assert pub.d_parameters_langevin(G) == pytest.approx(literal_variance(G) / 12, abs=1e-6)
    # Defect: free diffusion with D = 1 (steps of variance 2): E = D (T+1)/(3T) = .337 at T = 100.
    # 4,000 walks; the sample variance of a walk has a relative sd of about .63, so four sd of the
    # mean are .337 * 4 * .63/63 = .0135.
    steps = math.sqrt(2) * np.random.default_rng(8).normal(size=(100, 4000))
    assert abs(pub.d_parameters_langevin(steps.cumsum(0)) - 101 / 300) < 0.0135
    # Defect: a stationary process reads 0 in the limit: var/T, here 1/T.
    still = np.random.default_rng(9).normal(size=(2000, 200))
    assert pub.d_parameters_langevin(still) == pytest.approx(1 / 2000, rel=0.02)


def test_c_langevin() -> None:
    assert pub.c_langevin(3.0, 0.2, 7) == pytest.approx(3.0 / (0.2 * 7), abs=1e-6)
    # Defect: with D = Var/2 it is 2 C_signal, identically (up to the 1e-10 there).
    mean = G.mean(0)
    c = pub.c_langevin(float(mean @ mean), pub.d_gradients_langevin(G), G.shape[1])
    assert c / pub.c_signal(G) == pytest.approx(2, rel=1e-9)
    # Defect: equilibrium on h x^2/2 has Var = D/h, so E|grad|^2/(D d) = h^2 (D/h)/D = h, not 1.
    h, d = 5.0, 0.01
    assert pub.c_langevin(h**2 * d / h, d, 1) == pytest.approx(5.0)


def test_regime_langevin() -> None:
    regimes = [pub.regime_langevin(c, 0.2) for c in (0.5, 0.8, 1.2, 1.3, 10.0, 11.0)]
    assert regimes == [
        "diffusive",
        "critical",
        "critical",
        "transitional",
        "transitional",
        "deterministic",
    ]
    # Defect: one equilibrium, C = h, passes through all four as the unit of theta changes.
    named = [pub.regime_langevin(pub.c_langevin(h, 1.0, 1), 0.2) for h in (0.5, 1.0, 5.0, 50.0)]
    assert len(set(named)) == 4


def test_d_eff_langevin() -> None:
    assert pub.d_eff_langevin(0.1, 3.0, 8) == pytest.approx(0.1 * 0.1 * 3.0 / 8, abs=1e-6)
    # Defect: steps of variance alpha^2 sigma^2/B diffuse with half of that per step.
    alpha, sigma, batch = 0.1, 2.0, 4
    rng = np.random.default_rng(10)
    steps = -alpha * sigma * rng.normal(size=(40_000, batch)).mean(1)
    measured = float(np.mean(steps**2)) / 2  # relative sd sqrt(2/40000) = .007
    assert pub.d_eff_langevin(alpha, sigma**2, batch) / measured == pytest.approx(2, rel=0.03)


def test_lr_for_batch_langevin() -> None:
    assert pub.lr_for_batch_langevin(0.05, 32, 288) == pytest.approx(0.05 * math.sqrt(9), abs=1e-6)
    # Defect: D_eff stays, the temperature alpha/B of the Gibbs law falls by 2 as B grows by 4.
    lr = pub.lr_for_batch_langevin(0.1, 32, 128)
    same = pub.d_eff_langevin(lr, 1.0, 128) / pub.d_eff_langevin(0.1, 1.0, 32)
    assert same == pytest.approx(1)
    assert (lr / 128) / (0.1 / 32) == pytest.approx(0.5)


def test_alpha_opt_langevin() -> None:
    assert pub.alpha_opt_langevin(0.3, 7.0) == pytest.approx(0.6 / 7, abs=1e-6)
    # Defect: loss x 10 makes Var(g) x 100 and lambda x 10: ten times the rate, needed a tenth.
    base = pub.alpha_opt_langevin(pub.d_gradients_langevin(G), 7.0)
    scaled = pub.alpha_opt_langevin(pub.d_gradients_langevin(10 * G), 70.0)
    assert scaled / base == pytest.approx(10)


def test_kramers_rate_langevin() -> None:
    expected = 2.0 / (2 * math.pi) * math.exp(-0.25 / 0.05)
    assert pub.kramers_rate_langevin(2.0, 0.25, 0.05) == pytest.approx(expected, rel=1e-6)
    # Defect: (x^2-1)^2/4 has U''(1) = 2, U''(0) = -1, dE = 1/4. The exact mean first-passage time
    # from -1 to 0 is (1/D) int_-1^0 dy e^{U(y)/D} int_-inf^y e^{-U(z)/D} dz, and the escape rate is
    # 1/(2 that). At D = .01 the published rate is 1.41 times it; finite-D terms are O(D) ~ 3 %.
    diffusion = 0.01
    x = np.linspace(-2.0, 0.0, 40_001)
    u = (x**2 - 1) ** 2 / 4 / diffusion
    inner = np.cumsum(np.exp(-u)) * (x[1] - x[0])
    from_well = x >= -1
    time = np.sum((np.exp(u) * inner)[from_well]) * (x[1] - x[0]) / diffusion
    exact = 1 / (2 * time)
    ratio = pub.kramers_rate_langevin(2.0, 0.25, diffusion) / exact
    assert ratio == pytest.approx(math.sqrt(2), rel=0.06)


def test_escape_time_langevin() -> None:
    assert pub.escape_time_langevin(0.3, 0.1) == pytest.approx(math.exp(3), rel=1e-6)
    assert pub.escape_time_langevin(9e-11, 0.1) == 0
    # Defect: rate times time is omega/(2 pi), not 1; and 0 becomes 1 at dE = 1e-10.
    product = pub.kramers_rate_langevin(2.0, 0.3, 0.1) * pub.escape_time_langevin(0.3, 0.1)
    assert product == pytest.approx(1 / math.pi)
    assert pub.escape_time_langevin(1.1e-10, 0.1) == pytest.approx(1)


def test_error_bound_langevin() -> None:
    expected = 2.0 * math.exp(-0.5 * 3) + 0.1 * 4 / 0.5
    assert pub.error_bound_langevin(2.0, 0.5, 3.0, 0.1, 4) == pytest.approx(expected, abs=1e-6)
    # Defect: on 8 |x|^2/2 in d = 4 equilibrium has E L = D d/2 = .2; the bound tends to .05.
    equilibrium = 0.5 * 8 * 4 * (0.1 / 8)
    assert equilibrium == pytest.approx(0.2)
    assert pub.error_bound_langevin(1.0, 8.0, 100.0, 0.1, 4) == pytest.approx(0.05)


def test_uncertainty_bound_langevin() -> None:
    assert pub.uncertainty_bound_langevin(0.3) == pytest.approx(0.15, abs=1e-6)
    # Defect: theta of sd .001 on theta^2/2: sd(theta) sd(grad) = 1e-6, far below D/2 = .05.
    theta = 1e-3 * np.random.default_rng(11).normal(size=1000)
    assert theta.std() * theta.std() < 1e-4 * pub.uncertainty_bound_langevin(0.1)


def test_adaptive_lr_langevin() -> None:
    for c, factor in ((0.49, 1.5), (0.5, 1.0), (20.0, 1.0), (20.1, 0.7)):
        assert pub.adaptive_lr_langevin(0.2, c) == pytest.approx(0.2 * factor, abs=1e-6)
    # Defect: the same gradients (C_signal = .2, so .4 here) get 1.5 from this rule, .1 from the
    # other document: 15 apart.
    other = pub.adaptive_lr_signal(1.0, pub.p_signal(0.2))
    assert pub.adaptive_lr_langevin(1.0, 2 * 0.2) / other == pytest.approx(15)


def test_alert_langevin() -> None:
    assert pub.alert_langevin(1.9, 1.95) and not pub.alert_langevin(1.9, 1.8)
    assert not pub.alert_langevin(2.0, 3.0)
    # Defect: iid noise around 1: fires at half of all steps. 10,000 steps; four sd < .02.
    c = 1 + 0.1 * np.random.default_rng(12).normal(size=10_001)
    fired = np.mean([pub.alert_langevin(float(b), float(a)) for a, b in pairwise(c)])
    assert abs(fired - 0.5) < 0.02
