"""Stable noise: closed forms against Fourier integrals, the operator itself, and limits."""

import math

import numpy as np
import pytest
from scipy.integrate import quad

from foreshock.simulators import exact_levy as levy
from foreshock.stats.stable_law import stable_density


@pytest.mark.parametrize("alpha", [0.7, 1.0, 1.5, 1.9])
def test_tail_constant_is_that_of_the_density(alpha: float) -> None:
    # The next term of the tail series is smaller by at most 10 x^-alpha.
    x = 1e5 if alpha < 1 else 1e3
    tail = float(stable_density(x, alpha)) * x ** (1 + alpha)
    assert levy.stable_tail_constant(alpha) == pytest.approx(tail, rel=12 * x**-alpha)
    assert levy.stable_tail_constant(2.0) == 0


@pytest.mark.parametrize("alpha", [0.6, 1.0, 1.4, 1.8])
def test_tail_constant_is_that_of_the_jump_rate(alpha: float) -> None:
    # Levy-Khintchine at k = 1: c * 2 int_0^inf (1 - cos x) x^{-1-alpha} dx = 1.
    near = quad(lambda x: 2 * math.sin(x / 2) ** 2 * x ** (-1 - alpha), 0, 1, limit=200)[0]
    ones = 1 / alpha
    waves = quad(lambda x: x ** (-1 - alpha), 1, np.inf, weight="cos", wvar=1.0)[0]
    assert levy.stable_tail_constant(alpha) * 2 * (near + ones - waves) == pytest.approx(
        1, rel=1e-7
    )


@pytest.mark.parametrize("k", [0.3, 1.0, 2.5])
def test_t7_cauchy_quartic_solves_its_equation_in_fourier_space(k: float) -> None:
    # 0 = d/dx(x^3 p) - |d/dx| p is phi''' = phi for k > 0; decaying, real, phi(0) = 1, phi'' real
    # and phi'(0) = 0 (symmetry): phi = (2/sqrt 3) exp(-k/2) cos(sqrt(3) k/2 - pi/6).
    def p(x: float) -> float:
        return float(levy.cauchy_quartic_density(x))

    transform = 2 * quad(p, 0, np.inf, weight="cos", wvar=k)[0]
    phi = 2 / math.sqrt(3) * math.exp(-k / 2) * math.cos(math.sqrt(3) / 2 * k - math.pi / 6)
    assert transform == pytest.approx(phi, abs=1e-7)


def test_t7_cauchy_quartic_is_bimodal() -> None:
    x = np.linspace(-3, 3, 60_001)
    p = levy.cauchy_quartic_density(x)
    top = abs(x[p.argmax()])
    assert top == pytest.approx(math.sqrt(0.5), abs=1e-4)
    assert p.max() == pytest.approx(4 / (3 * math.pi))
    assert quad(lambda y: float(levy.cauchy_quartic_density(y)), -np.inf, np.inf)[
        0
    ] == pytest.approx(1)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.5])
def test_t7_getoor_solves_its_equation_at_the_centre(alpha: float) -> None:
    # The generator on u at 0: sigma^alpha c int (u(y) - u(0))/|y|^{1+alpha} dy = -1.
    sigma, radius = 0.7, 1.3

    def u(y: float) -> float:
        return float(levy.getoor_exit_time(abs(y), alpha, radius=radius, scale=sigma))

    def drop(y: float) -> float:  # u(0) - u(y) without the cancellation near 0
        return -u(0) * math.expm1(alpha / 2 * math.log1p(-((y / radius) ** 2)))

    assert drop(0.8) == pytest.approx(u(0) - u(0.8))
    # y = z^4 flattens the singularity y^{1 - alpha} at 0.
    near = quad(
        lambda z: drop(z**4) * z ** (-4 * alpha - 1) * 4 if z else 0.0, 0, radius**0.25, limit=400
    )[0]
    far = u(0) * radius**-alpha / alpha
    jumps = sigma**alpha * levy.stable_tail_constant(alpha) * 2 * (near + far)
    assert jumps == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("dimension", [1, 2, 7])
def test_t7_getoor_at_alpha_two_is_brownian(dimension: int) -> None:
    # (R^2 - x^2)/(2 d D) with D = sigma^2.
    time = levy.getoor_exit_time([0.0, 0.6, 3.0], 2.0, dimension=dimension, radius=2.0, scale=0.5)
    expected = np.array([4.0, 3.64, 0.0]) / (2 * dimension * 0.25)
    assert time == pytest.approx(expected)


@pytest.mark.parametrize("alpha", [0.8, 1.5, 2.0])
def test_t7_ou_levy_scale_adds_up_the_decayed_jumps(alpha: float) -> None:
    # log cf at wave number q: -int_0^t |sigma q e^{-k s}|^alpha ds = -|scale q|^alpha.
    k, sigma, t = 1.3, 0.6, 0.9
    exponent = quad(lambda s: (sigma * math.exp(-k * s)) ** alpha, 0, t)[0]
    assert levy.ou_levy_scale(k, alpha, scale=sigma, time=t) ** alpha == pytest.approx(exponent)
    stationary = levy.ou_levy_scale(k, alpha, scale=sigma)
    assert stationary == pytest.approx(sigma / (alpha * k) ** (1 / alpha))
    if alpha == 2:  # variance 2 scale^2 is D/k with D = sigma^2
        assert 2 * stationary**2 == pytest.approx(sigma**2 / k)


def test_t7_weak_noise_escape_is_the_rate_of_long_jumps() -> None:
    alpha, sigma, left, right = 1.5, 0.05, 0.7, 2.0
    c = levy.stable_tail_constant(alpha)
    long_jumps = sum(
        sigma**alpha * quad(lambda x: c * x ** (-1 - alpha), edge, np.inf)[0]
        for edge in (left, right)
    )
    rate = levy.imkeller_pavlyukevich_rate(alpha, sigma, left, right)
    assert rate == pytest.approx(long_jumps, rel=1e-7)
    # A power law: half the noise, 2^-alpha of the rate. Kramers' would be an exponential.
    half = levy.imkeller_pavlyukevich_rate(alpha, sigma / 2, left, right)
    assert half / rate == pytest.approx(2**-alpha)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: levy.stable_tail_constant(2.5), "no stable law above"),
        (lambda: levy.getoor_exit_time(0.0, 0.0), "`alpha`"),
        (lambda: levy.imkeller_pavlyukevich_rate(2.0, 0.1, 1, 1), "eyring_kramers_rate"),
        (lambda: levy.ou_levy_scale(1.0, 1.0, time=-1.0), "`time`"),
    ],
)
def test_bad_input_is_refused(call, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()
