"""Charts of constant curvature: the metric, its drift, and the laws of Brownian motion."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.linalg import expm

from foreshock.simulators.levy import StableNoise, StableOnChart
from foreshock.simulators.metrics import (
    Chart,
    ConformalChart,
    GeodesicWalk,
    NormalChart,
    RiemannianBrownian,
    poincare_disk,
    sphere,
)
from foreshock.simulators.sde import EulerMaruyama, Stepper, integrate
from foreshock.simulators.steppers import TamedEuler

CHARTS: dict[str, Chart] = {
    "stereographic": sphere(1.3),
    "poincare": poincare_disk(1.5),
    "plane": ConformalChart(0.0),
    "normal-sphere": NormalChart(0.8),
    "normal-hyperbolic": NormalChart(-0.8),
}


def points(n: int = 9) -> torch.Tensor:
    x = torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) / 2
    return torch.cat([x, 0.01 * x])  # far from and close to the origin


@pytest.mark.parametrize("chart", CHARTS.values(), ids=CHARTS)
def test_metric_inverse_and_root_belong_together(chart: Chart) -> None:
    x = points()
    eye = torch.eye(2, dtype=torch.float64).expand(len(x), 2, 2)
    torch.testing.assert_close(chart.metric(x) @ chart.inverse(x), eye)
    torch.testing.assert_close(chart.root_inverse(x) @ chart.root_inverse(x), chart.inverse(x))


@pytest.mark.parametrize("chart", CHARTS.values(), ids=CHARTS)
def test_correction_is_the_one_of_laplace_beltrami(chart: Chart) -> None:
    """b_i = |G|^{-1/2} d_j(|G|^{1/2} G^ij), differentiated automatically."""
    x = points().requires_grad_(True)
    volume = torch.linalg.det(chart.metric(x)).sqrt()
    field = volume[:, None, None] * chart.inverse(x)
    expected = torch.stack(
        [
            sum(torch.autograd.grad(field[:, i, j].sum(), x, retain_graph=True)[0][:, j]
                for j in range(2))
            for i in range(2)
        ],
        1,
    ) / volume[:, None]  # fmt: skip
    # Near the origin the chart's own series leaves out a share of 1e-6.
    torch.testing.assert_close(
        chart.correction(x.detach()), expected.detach(), rtol=1e-5, atol=1e-9
    )


@pytest.mark.parametrize("curvature", [1.0, -1.0])
def test_the_charts_have_the_curvature_they_say(curvature: float) -> None:
    """Length of a small circle of geodesic radius r: 2 pi r (1 - K r^2 / 6 + ...)."""
    for chart in (ConformalChart(curvature), NormalChart(curvature)):
        # A point at the distance r = .2, found along an axis; sqrt(G) across times the radius.
        lengths = torch.linspace(0.0, 0.25, 100_001, dtype=torch.float64)
        axis = torch.stack([lengths, torch.zeros_like(lengths)], 1)
        at = int((chart.distance(axis) - 0.2).abs().argmin())
        across = chart.metric(axis[at : at + 1])[0, 1, 1].sqrt() * lengths[at]
        bent = (1 - float(across) / 0.2) * 6 / 0.2**2
        assert bent == pytest.approx(curvature, abs=5e-3)  # next term: K r^2 / 20 = 2e-3


LAWS = {
    "stereographic": (sphere(), 1.0),
    "normal-sphere": (NormalChart(1.0), 1.0),
    "poincare": (poincare_disk(), -1.0),
    "normal-hyperbolic": (NormalChart(-1.0), -1.0),
}


def run(chart: Chart, *, frozen: bool, n: int = 20_000) -> torch.Tensor:
    """Distances after D t = .25, 100 steps."""
    stepper = EulerMaruyama(RiemannianBrownian(chart, 0.5, frozen), 0.005)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`integrate` lost", RuntimeWarning)
        path = integrate(
            stepper,
            torch.zeros(n, 2),
            100,
            generator=torch.Generator().manual_seed(0),
            every=100,
            observe=chart.distance,
        )
    # Euler may lose a particle near the far pole of the stereographic chart; seen: 1.
    assert path.lost <= 2
    r = path.values[-1].double()
    return r[r.isfinite()]


@pytest.mark.parametrize("chart, curvature", LAWS.values(), ids=LAWS)
def test_brownian_motion_has_the_exact_law_in_every_chart(chart: Chart, curvature: float) -> None:
    """E cos r = e^{-2Dt} on the sphere, E cosh r = e^{2Dt} at K = -1."""
    r = run(chart, frozen=False)
    value = torch.cos(r) if curvature > 0 else torch.cosh(r)
    error = float(value.std()) / math.sqrt(len(r))
    # And .003 for Euler's bias, O(dt) = .5 % of a value near 1; not resolved at this n.
    assert abs(float(value.mean()) - math.exp(-2 * curvature * 0.25)) < 4 * error + 0.003


def frozen_law(curvature: float, time: float) -> float:
    """E cos r (cosh r) of the frozen step in normal coordinates, D = 1, by the radial generator.

    Without b, r follows dr = (r/S^2) dt + sqrt(2) dW: the trace of G^-1 across the radius.
    """
    r = (np.arange(600) + 0.5) * (2.9 / 600)
    dr = r[1] - r[0]
    s = np.sin(r) if curvature > 0 else np.sinh(r)
    drift = r / s**2
    up, down = 1 / dr**2 + drift / (2 * dr), 1 / dr**2 - drift / (2 * dr)
    down[0] = 0.0
    up[-1] = 0.0
    generator = np.diag(-up - down) + np.diag(up[:-1], 1) + np.diag(down[1:], -1)
    value = np.cos(r) if curvature > 0 else np.cosh(r)
    return float((expm(generator * time) @ value)[0])


@pytest.mark.parametrize("curvature", [1.0, -1.0])
def test_the_frozen_metric_is_another_process_in_normal_coordinates(curvature: float) -> None:
    """And it depends on the chart: in a conformal one freezing costs nothing at all."""
    r = run(NormalChart(curvature), frozen=True)
    value = torch.cos(r) if curvature > 0 else torch.cosh(r)
    error = float(value.std()) / math.sqrt(len(r))
    exact, frozen = math.exp(-2 * curvature * 0.25), frozen_law(curvature, 0.25)
    assert abs(float(value.mean()) - frozen) < 4 * error + 0.005
    assert abs(float(value.mean()) - exact) > 10 * error
    chart = ConformalChart(curvature)
    assert torch.equal(run(chart, frozen=True, n=50), run(chart, frozen=False, n=50))


@pytest.mark.parametrize("curvature", [0.49, -0.49, 0.0])
def test_the_geodesic_walk_has_its_exact_law(curvature: float) -> None:
    """E cos(sqrt(K) r) is multiplied by E cos(sqrt(K) |v|) a step, |v|^2 / (2 D dt) ~ chi^2_2."""
    n, steps, spread = 20_000, 20, 0.5
    chart = ConformalChart(curvature)
    walk = GeodesicWalk(chart, diffusion=1.0, dt=spread**2 / 2)
    path = integrate(
        walk, torch.zeros(n, 2, dtype=torch.float64), steps, every=steps,
        generator=torch.Generator().manual_seed(0), observe=chart.distance,
    )  # fmt: skip
    assert path.lost == 0
    r, root = path.values[-1], math.sqrt(abs(curvature))
    if curvature == 0:
        value, expected = r * r, 2 * spread**2 * steps
    else:
        value = torch.cos(root * r) if curvature > 0 else torch.cosh(root * r)
        wave = math.cos if curvature > 0 else math.cosh
        step = quad(
            lambda s: wave(root * s) * s / spread**2 * math.exp(-s * s / (2 * spread**2)), 0, 10
        )[0]
        expected = step**steps
        # dt -> 0 is Brownian motion: e^{-2 K D t}, here to O(dt).
        assert expected == pytest.approx(math.exp(-curvature * spread**2 * steps), rel=0.1)
    error = float(value.std()) / math.sqrt(n)
    assert abs(float(value.mean()) - expected) < 4 * error


def test_a_geodesic_jump_goes_as_far_as_it_is_long() -> None:
    def jump(
        shape: tuple[int, ...], dt: float, source: torch.Generator, dtype: torch.dtype
    ) -> torch.Tensor:
        return torch.tensor([0.9, 1.2], dtype=dtype).expand(shape)

    for chart in (sphere(), poincare_disk()):
        walk = GeodesicWalk(chart, diffusion=1e-12, dt=1e-6, jump=jump)
        x = torch.zeros(1, 2, dtype=torch.float64)
        (there,) = walk.step((x,), torch.Generator().manual_seed(0))
        assert float(chart.distance(there)) == pytest.approx(1.5, abs=1e-6)
        assert float(there[0, 1] / there[0, 0]) == pytest.approx(4 / 3, abs=1e-6)


@pytest.mark.parametrize("dtype, most", [(torch.float32, 17.33), (torch.float64, 37.43)])
def test_the_disk_ends_at_its_largest_distance(dtype: torch.dtype, most: float) -> None:
    """2 atanh(1 - eps/2) = ln(4/eps) to O(eps): 17.33 and 37.43."""
    disk, rim = poincare_disk(), torch.tensor([[1.0, 0.0]], dtype=dtype)
    last = torch.nextafter(rim, torch.zeros_like(rim))
    assert disk.distance(last).item() == pytest.approx(most, abs=0.01)
    assert disk.contains(last).item() and not disk.contains(rim).item()
    walk = GeodesicWalk(disk, diffusion=1.0, dt=1.0)
    # The distance grows by D t = 1 a step, and its spread is sqrt(2 D t): 4.5 of them are beyond.
    steps = round(most + 4.5 * math.sqrt(2 * most) + 20)
    with pytest.warns(RuntimeWarning, match="they left the chart"):
        path = integrate(
            walk,
            torch.zeros(500, 2, dtype=dtype),
            steps,
            generator=torch.Generator().manual_seed(0),
        )
    assert path.lost > 400
    there = path.values[path.values.isfinite().all(-1)]
    assert disk.contains(there).all() and disk.distance(there).isfinite().all()
    # Who is lost stays lost, and was near the rim before.
    lost = path.values.isnan().any(-1)
    assert (lost[1:] >= lost[:-1]).all() and not lost[5].any()


@pytest.mark.parametrize(
    "stepper",
    [
        EulerMaruyama(RiemannianBrownian(poincare_disk(), 1.0), 0.05),
        TamedEuler(RiemannianBrownian(poincare_disk(), 1.0), 0.05),
        StableOnChart(poincare_disk(), StableNoise(1.5), 0.1),
    ],
    ids=["euler", "tamed", "stable"],
)
def test_who_leaves_the_disk_is_lost(stepper: Stepper) -> None:
    with pytest.warns(RuntimeWarning, match="they left the chart"):
        path = integrate(
            stepper, torch.zeros(2000, 2), 100, generator=torch.Generator().manual_seed(0)
        )
    radius = path.values.norm(dim=-1)
    assert path.lost == int(radius[-1].isnan().sum()) > 50
    assert radius[radius.isfinite()].max() < 1


def test_normal_coordinates_fold_at_the_antipode() -> None:
    r = torch.tensor([0.5, 3.0, math.pi + 0.25, 2 * math.pi + 0.5], dtype=torch.float64)
    x = torch.stack([r, torch.zeros_like(r)], 1)
    expected = torch.acos(torch.cos(r))  # the angle between the two points of a unit sphere
    torch.testing.assert_close(NormalChart(1.0).distance(x), expected)
    torch.testing.assert_close(NormalChart(-1.0).distance(x), r)


def test_bad_input_is_refused() -> None:
    for stepper in (
        GeodesicWalk(poincare_disk(), 1.0, 0.1),
        EulerMaruyama(RiemannianBrownian(poincare_disk(), 1.0), 0.1),
        TamedEuler(RiemannianBrownian(poincare_disk(), 1.0), 0.1),
        StableOnChart(poincare_disk(), StableNoise(1.5), 0.1),
    ):
        with pytest.raises(ValueError, match="1 of 2 particles of .* outside of `ConformalChart`"):
            stepper.check(torch.tensor([[0.0, 0.0], [1.0, 0.0]]))
        with pytest.raises(ValueError, match=r"of shape \(n, 2\). Got \(2, 3\): .*`ConformalC"):
            integrate(stepper, torch.zeros(2, 3), 1, generator=torch.Generator())
    with pytest.raises(ValueError, match="geodesics of a `ConformalChart` only. Got NormalChart"):
        GeodesicWalk(NormalChart(1.0), 1.0, 0.1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`radius` of `sphere` must be positive"):
        sphere(0.0)
    with pytest.raises(ValueError, match="`diffusion` of `RiemannianBrownian` must be positive"):
        RiemannianBrownian(sphere(), 0.0)
