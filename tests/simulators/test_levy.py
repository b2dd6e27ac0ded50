"""T7: stable draws against scipy, driven motions against their exact laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from foreshock.simulators.dynamics import GradientFlow
from foreshock.simulators.exact_levy import (
    cauchy_quartic_density,
    getoor_exit_time,
    imkeller_pavlyukevich_rate,
    ou_levy_scale,
    sphere_cosine,
)
from foreshock.simulators.levy import (
    ExactStableOU,
    StableNoise,
    StableOnChart,
    isotropic_stable,
    positive_stable,
    symmetric_stable,
)
from foreshock.simulators.metrics import ConformalChart, NormalChart
from foreshock.simulators.passage import Boundary, first_passage
from foreshock.simulators.potentials import Quadratic, Quartic
from foreshock.simulators.sde import EulerMaruyama, integrate
from foreshock.simulators.steppers import CubicSplitting


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def characteristic(x: Tensor, k: Tensor) -> tuple[float, float]:
    """Mean of cos(k.x) and its standard error."""
    values = (x.double() @ k.double()).cos()
    return float(values.mean()), float(values.std() / math.sqrt(len(values)))


@pytest.mark.parametrize("alpha", [0.6, 1.0, 1.5, 1.9])
def test_t7_draws_have_the_quantiles_of_levy_stable(alpha: float) -> None:
    from scipy.stats import levy_stable

    draws = symmetric_stable((40_000,), alpha, generator=seeded(), dtype=torch.float64)
    shares = np.array([0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98])
    points = levy_stable.ppf(shares, alpha, 0.0)
    below = (draws[:, None] < torch.from_numpy(points)).double().mean(0).numpy()
    # The empirical distribution at a true quantile is binomial; four standard errors each.
    assert np.all(np.abs(below - shares) < 4 * np.sqrt(shares * (1 - shares) / 40_000))


@pytest.mark.parametrize("index", [0.25, 0.5, 0.75, 0.95])
def test_positive_draws_have_their_laplace_transform(index: float) -> None:
    draws = positive_stable((40_000,), index, seeded(), torch.float64)
    assert bool((draws > 0).all())
    for u in (0.1, 1.0, 5.0):
        values = (-u * draws).exp()
        error = float(values.std()) / math.sqrt(len(values))
        assert abs(float(values.mean()) - math.exp(-(u**index))) < 4 * error


@pytest.mark.parametrize(("alpha", "dimension"), [(1.2, 2), (1.7, 5), (2.0, 3), (0.7, 2)])
def test_vectors_are_isotropic(alpha: float, dimension: int) -> None:
    """E exp(i k.X) = exp(-|k|^alpha) along an axis and along a diagonal alike."""
    x = isotropic_stable(40_000, dimension, alpha, generator=seeded(1), dtype=torch.float64)
    axis = torch.zeros(dimension)
    axis[0] = 1.0
    for k in (axis, torch.full((dimension,), 1 / math.sqrt(dimension)), 0.3 * axis):
        mean, error = characteristic(x, k)
        assert abs(mean - math.exp(-(float(k.norm()) ** alpha))) < 4 * error


def test_independent_coordinates_are_not_isotropic() -> None:
    """What the subordination is for: along the diagonal d^(1 - alpha/2) times too fast a decay."""
    alpha, d = 1.2, 5
    x = symmetric_stable((40_000, d), alpha, generator=seeded(), dtype=torch.float64)
    mean, error = characteristic(x, torch.full((d,), 1 / math.sqrt(d)))
    assert abs(mean - math.exp(-(d ** (1 - alpha / 2)))) < 4 * error
    assert abs(mean - math.exp(-1)) > 50 * error


def test_no_draw_is_nan_and_float32_keeps_the_tail() -> None:
    for alpha in (0.3, 1.0, 1.5, 2.0):
        x = isotropic_stable(200_000, 2, alpha, generator=seeded(2))
        assert x.dtype == torch.float32 and bool(x.isfinite().all())
    tail = symmetric_stable((400_000,), 1.5, generator=seeded(3)).abs()
    # P(|X| > 50) = 2 (c/alpha) 50^-1.5 up to 50^-3: 1.13e-3; 450 of 400,000.
    expected = 2 * 0.29920671 / 1.5 * 50**-1.5
    assert abs(float((tail > 50).double().mean()) - expected) < 4 * math.sqrt(expected / 400_000)


@pytest.mark.parametrize("alpha", [1.2, 1.7])
def test_t7_the_stable_ornstein_uhlenbeck_process_has_its_scale(alpha: float) -> None:
    noise = StableNoise(alpha, scale=0.7)
    exact = ExactStableOU(0.8, noise, dt=0.5)
    x = integrate(exact, torch.zeros(30_000, 2).double(), 20, generator=seeded(), every=20).values[
        -1
    ]
    scale = ou_levy_scale(0.8, alpha, scale=0.7)
    for k in (torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0])):
        mean, error = characteristic(x, k)
        assert abs(mean - math.exp(-((scale * float(k.norm())) ** alpha))) < 4 * error
    # Euler's scheme with the noise as a jump tends to the same law; dt k = .02 leaves 1 % of scale.
    flow = GradientFlow(Quadratic(0.8, dimension=1))
    euler = EulerMaruyama(flow, dt=0.025, jump=noise)
    x = integrate(
        euler, torch.zeros(20_000, 1).double(), 300, generator=seeded(), every=300
    ).values[-1]
    mean, error = characteristic(x, torch.tensor([1.0]))
    assert abs(mean - math.exp(-(scale**alpha))) < 4 * error + 0.01


def test_brownian_and_stable_noise_act_in_one_step() -> None:
    """Characteristic functions multiply: exp(-D k^2 t - s^alpha |k|^alpha t) without a drift."""
    from foreshock.simulators.dynamics import Langevin

    motion = Langevin(Quadratic(1e-9), temperature=0.5)
    stepper = EulerMaruyama(motion, dt=0.25, jump=StableNoise(1.5, 0.8))
    x = integrate(stepper, torch.zeros(40_000, 1).double(), 8, generator=seeded(), every=8).values[
        -1
    ]
    for k in (0.5, 1.0):
        mean, error = characteristic(x, torch.tensor([k]))
        assert abs(mean - math.exp(-(0.5 * k**2 + (0.8 * k) ** 1.5) * 2)) < 4 * error


def test_t7_the_cauchy_quartic_is_bimodal() -> None:
    """One minimum, two modes: 1/(pi (1 - x^2 + x^4)); the splitting does not explode."""
    stepper = CubicSplitting(GradientFlow(Quartic()), dt=0.02, jump=StableNoise(1.0))
    x = integrate(stepper, torch.zeros(30_000, 1).double(), 400, generator=seeded(), every=400)
    assert x.lost == 0
    values = x.values[-1].ravel().numpy()
    edges = np.linspace(-2.5, 2.5, 51)
    fine = np.linspace(-2.5, 2.5, 2001)
    exact = np.add.reduceat(
        cauchy_quartic_density(fine)[:-1] * (fine[1] - fine[0]), range(0, 2000, 40)
    )
    seen = np.histogram(values, edges)[0] / len(values)
    # L1: sampling gives sum sqrt(2 p/(pi n)) = .03; the splitting is of first order in dt = .02.
    assert np.abs(seen - exact).sum() < 0.03 + 0.03
    middle, side = seen[24:26].sum(), seen[31:33].sum()
    assert side > 1.15 * middle  # exact: .4244/.3183 = 1.33 at the very modes


@pytest.mark.parametrize(("alpha", "dimension"), [(1.5, 1), (1.2, 2)])
def test_t7_exit_from_a_ball_takes_the_time_of_getoor(alpha: float, dimension: int) -> None:
    flow = GradientFlow(Quadratic(1e-9, dimension=dimension))
    ball = Boundary(lambda x: x.norm(dim=1) - 1)
    exact = float(getoor_exit_time(0.0, alpha, dimension=dimension))
    means = []
    for dt in (0.01, 0.0025):
        stepper = EulerMaruyama(flow, dt, jump=StableNoise(alpha))
        found = first_passage(
            stepper,
            torch.zeros(6000, dimension).double(),
            ball,
            steps=int(6 / dt),
            generator=seeded(),
            bridge=False,
        )
        means.append(found.times.mean())
    # Looking only every dt exits too late by a share of order dt^(1/alpha) at alpha > 1: its
    # leading term is extrapolated away, which multiplies the standard error by about 2.
    ratio = 4 ** (1 / alpha)
    extrapolated = (ratio * means[1] - means[0]) / (ratio - 1)
    error = float(exact / math.sqrt(6000)) * 2
    assert extrapolated == pytest.approx(exact, abs=4 * error)
    assert means[0] > exact


def test_t7_weak_noise_leaves_by_one_jump() -> None:
    """Rate eps^alpha (c/alpha)(a^-alpha + b^-alpha), whatever the height of the barrier."""
    alpha, eps, left, right = 1.5, 0.05, 1.0, 2.0
    stepper = EulerMaruyama(GradientFlow(Quadratic(1.0)), dt=0.05, jump=StableNoise(alpha, eps))
    walls = [Boundary(lambda x: x[:, 0] - right), Boundary(lambda x: -left - x[:, 0])]
    found = first_passage(
        stepper,
        torch.zeros(3000, 1).double(),
        walls,
        steps=6000,
        generator=seeded(),
        bridge=False,
    )
    rate = found.events / found.exposure
    exact = imkeller_pavlyukevich_rate(alpha, eps, left, right)
    # Four Poisson errors and 5 % for dt = .05 and for the limit eps -> 0 not being reached.
    assert rate / exact == pytest.approx(1.0, abs=4 / math.sqrt(found.events) + 0.05)


def test_a_frozen_metric_is_another_motion_than_that_of_the_sphere() -> None:
    """Mean cosine after t = .5 in normal coordinates: .858 with the metric frozen, .8709 exactly.

    No smaller step mends it, as it would for Brownian motion: jumps do not shrink with the step.
    """
    chart, noise, time, n = NormalChart(1.0), StableNoise(1.5, 0.3), 0.5, 40_000
    exact, found = sphere_cosine(time, 1.5, scale=0.3), []
    for steps in (10, 40):
        stepper = StableOnChart(chart, noise, dt=time / steps)
        start = torch.zeros(n, 2).double()
        path = integrate(stepper, start, steps, generator=seeded(), every=steps)
        cosine = chart.distance(path.values[-1]).cos()
        found.append((float(cosine.mean()), float(cosine.std()) / math.sqrt(n)))
    for mean, error in found:
        assert exact - mean > 5 * error
    # The two step sizes are much nearer to each other than to the truth.
    assert abs(found[0][0] - found[1][0]) < 0.5 * (exact - found[1][0])


def test_a_frozen_metric_is_right_where_it_is_flat() -> None:
    """A chart of curvature 0 at scale 2: the Euclidean law with the noise halved, and the drift."""
    flat, noise = ConformalChart(0.0), StableNoise(1.5, 1.0)
    stepper = StableOnChart(flat, noise, dt=0.25)
    x = integrate(stepper, torch.zeros(40_000, 2).double(), 4, generator=seeded(), every=4).values[
        -1
    ]
    mean, error = characteristic(x, torch.tensor([1.0, 0.0]))
    assert abs(mean - math.exp(-(0.5**1.5))) < 4 * error
    tiny = StableNoise(1.5, 1e-12)
    pulled = StableOnChart(flat, tiny, dt=0.1, potential=Quadratic(1.0, dimension=2))
    (moved,) = pulled.step((torch.ones(1, 2).double(),), seeded())
    torch.testing.assert_close(moved, torch.full_like(moved, 1 - 0.1 / 4))  # G^-1 = I/4


def test_jumps_have_the_precision_of_the_particles() -> None:
    """At alpha = .05 one draw in 80 exceeds a float32; a float64 run keeps them all."""
    noise = StableNoise(0.05)
    stepper = EulerMaruyama(GradientFlow(Quadratic(1e-9)), dt=1.0, jump=noise)
    for dtype in (torch.float32, torch.float64):
        assert noise((5, 2), 0.1, seeded(), dtype).dtype == dtype
    path = integrate(stepper, torch.zeros(20_000, 1).double(), 1, generator=seeded())
    drawn = symmetric_stable((20_000, 1), 0.05, generator=seeded(1), dtype=torch.float64)
    assert path.lost == 0
    for beyond in (path.values[-1], drawn):
        assert 0.008 < float((beyond.abs() > 3.5e38).double().mean()) < 0.017
    # More digits than a float32 has.
    assert not torch.equal(path.values[-1].float().double(), path.values[-1])


@pytest.mark.parametrize("alpha", [0.0, -1.0, 2.1, math.nan])
def test_an_index_without_a_law_is_refused(alpha: float) -> None:
    for make in (
        lambda: StableNoise(alpha),
        lambda: symmetric_stable((1,), alpha, generator=seeded()),
        lambda: isotropic_stable(1, 2, alpha, generator=seeded()),
    ):
        with pytest.raises(ValueError, match=r"must be in \(0, 2\]"):
            make()
    with pytest.raises(ValueError, match="`index` of `positive_stable`"):
        positive_stable((1,), alpha, seeded(), torch.float64)
    with pytest.raises(ValueError, match="scale"):
        StableNoise(1.5, scale=0.0)
