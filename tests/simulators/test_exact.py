"""Closed forms of the Ornstein-Uhlenbeck process against its equations, quadrature and scipy."""

import math

import numpy as np
import pytest
from scipy.integrate import quad, solve_ivp
from scipy.stats import chi, norm

from foreshock.simulators import exact

CASES = {
    "one coordinate": ([1.3], 0.4, 2.0, 0.7),
    "isotropic, d = 8": (np.linspace(-1, 2, 8), 0.3, 1.5, 0.8),
    "each its own": ([0.5, -1.0, 0.0], [0.2, 1.0, 3.0], [0.5, 1.0, 4.0], [1.0, 0.1, 2.0]),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_t1_ou_moments_solve_their_equations(case: tuple) -> None:
    m, s, k, d = (np.broadcast_to(np.float64(v), np.shape(case[0])) for v in case)
    n = m.size

    def rates(_: float, y: np.ndarray) -> np.ndarray:
        return np.concatenate((-k * y[:n], 2 * d - 2 * k * y[n:]))

    end = solve_ivp(rates, (0, 0.7), np.concatenate((m, s)), rtol=1e-10, atol=1e-12).y[:, -1]
    assert exact.ou_mean(m, k, 0.7) == pytest.approx(end[:n], rel=1e-7, abs=1e-9)
    assert exact.ou_variance(s, k, d, 0.7) == pytest.approx(end[n:], rel=1e-7)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_t1_kl_falls_by_exactly_the_entropy_production(case: tuple) -> None:
    m, s, k, d = case
    rate, production = exact.ou_kl_rate(m, s, k, d), exact.ou_entropy_production(m, s, k, d)
    assert rate == pytest.approx(-production, rel=1e-12)
    # Both against the difference quotient of the closed form: error O(h^2) + rounding/h.
    h = 1e-4
    later, earlier = (
        exact.ou_kl(exact.ou_mean(m, k, t), exact.ou_variance(s, k, d, t), k, d) for t in (2 * h, 0)
    )
    middle = exact.ou_entropy_production(
        exact.ou_mean(m, k, h), exact.ou_variance(s, k, d, h), k, d
    )
    assert (later - earlier) / (2 * h) == pytest.approx(-middle, rel=1e-5)


def test_t1_relaxation_slopes_of_kl_are_2k_for_a_mean_and_4k_for_a_variance() -> None:
    k, d, late = 1.3, 0.6, 5.0

    def slope(mean: float, variance: float) -> float:
        kl = [
            exact.ou_kl(exact.ou_mean(mean, k, t), exact.ou_variance(variance, k, d, t), k, d)
            for t in (late, late + 0.1)
        ]
        return math.log(kl[1] / kl[0]) / 0.1

    assert slope(1.0, d / k) == pytest.approx(-2 * k, rel=1e-6)
    # Of the variance the rate is asymptotic: corrections of relative size exp(-2 k t) = 2e-6.
    assert slope(0.0, 2 * d / k) == pytest.approx(-4 * k, rel=1e-5)


def test_t1_kl_and_w2_against_quadrature_in_one_dimension() -> None:
    m, s, k, d = 0.7, 0.3, 2.0, 1.0
    p, q = norm(m, math.sqrt(s)), norm(0, math.sqrt(d / k))
    kl = quad(lambda x: p.pdf(x) * (p.logpdf(x) - q.logpdf(x)), -6, 6, epsabs=1e-12)[0]
    assert exact.ou_kl([m], s, k, d) == pytest.approx(kl, rel=1e-9)
    # In one dimension W2^2 is the mean squared difference of the quantile functions.
    w2 = quad(lambda u: (p.ppf(u) - q.ppf(u)) ** 2, 1e-12, 1 - 1e-12, epsabs=1e-10, limit=200)[0]
    assert exact.ou_w2_squared([m], s, k, d) == pytest.approx(w2, rel=1e-6)
    assert exact.gaussian_entropy([s, 2.0]) == pytest.approx(
        float(p.entropy()) + float(norm(0, math.sqrt(2)).entropy())
    )


def test_t1_consolidation_ratio_of_an_isotropic_trap() -> None:
    m, s, k, d = np.array([0.5, 0.1, -0.3]), 0.4, 1.5, 0.7
    expected = k**2 * s * (s + m @ m / 3) / d**2
    assert exact.ou_consolidation(m, s, k, d) ** 2 == pytest.approx(expected, rel=1e-13)
    # Invariant under z -> A z: lengths times 3 multiply m by 3, s and D by 9.
    assert exact.ou_consolidation(3 * m, 9 * s, k, 9 * d) == pytest.approx(expected**0.5)
    assert exact.ou_entropy_production(3 * m, 9 * s, k, 9 * d) == pytest.approx(
        exact.ou_entropy_production(m, s, k, d)
    )
    assert exact.ou_consolidation(0 * m, d / k, k, d) == pytest.approx(1)


def test_a14_entropy_production_is_not_the_entropy_rate() -> None:
    # The audit's case: d = 2, k = D = 1, s = 1/4.
    assert exact.ou_entropy_production([0.0, 0.0], 0.25, 1.0, 1.0) == pytest.approx(4.5)
    assert exact.ou_entropy_rate([0.25, 0.25], 1.0, 1.0) == pytest.approx(6.0)
    # dH/dt against the entropy itself; the rest, heat/T = E[mu D^-1 mu + div mu], closes it.
    h = 1e-5
    entropies = [
        exact.gaussian_entropy(exact.ou_variance([0.25, 0.25], 1, 1, t)) for t in (0, h, 2 * h)
    ]
    now = exact.ou_variance([0.25, 0.25], 1, 1, h)
    assert (entropies[2] - entropies[0]) / (2 * h) == pytest.approx(
        exact.ou_entropy_rate(now, 1, 1), rel=1e-6
    )
    heat = 2 * (0.25 - 1)
    assert 4.5 == pytest.approx(6.0 + heat)


@pytest.mark.parametrize("d", [1, 2, 3, 10, 300])
def test_free_diffusion_radius_is_the_mean_of_a_chi(d: int) -> None:
    radius = exact.free_diffusion_radius(d, 0.3, 1.7)
    scale = math.sqrt(2 * 0.3 * 1.7)
    assert radius == pytest.approx(scale * float(chi(d).mean()), rel=1e-9)
    assert scale * math.sqrt(d - 0.5) <= radius <= scale * math.sqrt(d)


def test_gibbs_density_does_not_overflow() -> None:
    x = np.linspace(-3, 3, 601)
    p = exact.gibbs_density(x, 1e5 * (x**2 - 1) ** 2 - 1e7, 1.0)
    assert np.all(np.isfinite(p))
    assert np.trapezoid(p, x) == pytest.approx(1)
    assert np.trapezoid(p * x, x) == pytest.approx(0, abs=1e-12)


def test_leading_axes_are_kept() -> None:
    times = np.array([[0.0], [0.5], [1.0]])
    s = exact.ou_variance(np.ones(4), 2.0, 1.0, times)
    assert s.shape == (3, 4)
    kl = exact.ou_kl(np.zeros(4), s, 2.0, 1.0)
    assert isinstance(kl, np.ndarray) and kl.shape == (3,) and np.all(np.diff(kl) < 0)


@pytest.mark.parametrize(
    "call",
    [
        lambda: exact.ou_kl([0.0], 1.0, -1.0, 1.0),
        lambda: exact.ou_kl([0.0], 0.0, 1.0, 1.0),
        lambda: exact.ou_mean([math.nan], 1.0, 1.0),
        lambda: exact.ou_variance(1.0, 1.0, -1.0, 1.0),
        lambda: exact.gibbs_density([0, 1], [0, 1], 0.0),
        lambda: exact.gibbs_density([0, 1, 2], [0, 1], 1.0),
    ],
)
def test_bad_input_is_refused_with_the_name_of_the_argument(call) -> None:
    with pytest.raises(ValueError, match="`"):
        call()


def test_gibbs_density_refuses_nodes_that_its_rule_does_not_fit() -> None:
    for nodes in ([1.0, 0.0, -1.0], [0.0, 0.0, 0.0], [0.0, 1.0, 3.0], [0.0]):
        with pytest.raises(ValueError, match="increasing and equally spaced"):
            exact.gibbs_density(nodes, np.zeros(len(nodes)), 1.0)
