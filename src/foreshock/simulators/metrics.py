r"""Surfaces of constant curvature K in charts of the plane, and Brownian motion on them.

Brownian motion with the generator D times the Laplace-Beltrami operator is, in any chart, the Itô
process

    dx_i = D b_i dt + sqrt(2 D) (G^{-1/2} dW)_i,   b_i = |G|^{-1/2} d_j(|G|^{1/2} G^{ij}).

The *frozen-metric* step treats G as constant during a step, so it has no b. What it simulates
depends on the chart: in `ConformalChart` b is 0 in two dimensions and freezing costs nothing, in
`NormalChart` it is another process, however small the step. On the sphere of radius 1 in normal
coordinates E cos(angle) from a pole after D t = 0.25 is 0.532 for the frozen step and 0.6065 on
the surface.

Exact laws, from Laplacian cos(sqrt(K) r) = -2 K cos(sqrt(K) r) for the geodesic distance r from a
point: E cos(r) = e^{-2Dt} on the unit sphere, E cosh(r) = e^{2Dt} at K = -1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from foreshock.simulators.door import finite, positive
from foreshock.simulators.stepping import (
    Jump,
    State,
    leavers_lost,
    refuse_outside,
    standard_normal,
    with_jump,
)


class Chart(Protocol):
    """Coordinates x (n, 2) of a surface of constant curvature.

    Attributes:
        curvature: K, 1/length^2.
    """

    @property
    def curvature(self) -> float:
        """K."""
        ...

    def metric(self, x: Tensor) -> Tensor:
        """(n, 2) -> (n, 2, 2) G."""
        ...

    def inverse(self, x: Tensor) -> Tensor:
        """(n, 2) -> (n, 2, 2) G^-1."""
        ...

    def root_inverse(self, x: Tensor) -> Tensor:
        """(n, 2) -> (n, 2, 2) symmetric G^-1/2."""
        ...

    def correction(self, x: Tensor) -> Tensor:
        """(n, 2) -> (n, 2) b, the drift of Brownian motion at D = 1."""
        ...

    def distance(self, x: Tensor) -> Tensor:
        """(n, 2) -> (n,) geodesic distance from the origin."""
        ...

    def contains(self, x: Tensor) -> Tensor:
        """(n, 2) -> (n,) bool: where the metric is defined, as far as the precision of x tells."""
        ...


def _identity(factor: Tensor) -> Tensor:
    """(n,) -> (n, 2, 2) multiples of I."""
    return factor[..., None, None] * torch.eye(2, dtype=factor.dtype, device=factor.device)


@dataclass(frozen=True)
class ConformalChart:
    r"""G = lambda(x)^2 I with lambda = 2 / (1 + K |x|^2).

    For K > 0 the stereographic chart of a sphere of radius 1/sqrt(K) (the other pole lies at
    infinity), for K < 0 the Poincaré disk |x| < 1/sqrt(-K), for K = 0 the plane at scale 2.

    The rim of the disk is infinitely far away, but no number lies between the last one below 1 and
    1: at K = -1 the largest distance is 17.3 in float32 and 37.4 in float64. Neighbouring numbers
    are 0.01 apart at 12.0 and 32.1.

    Args:
        curvature: K.

    Raises:
        ValueError: If K is not finite.

    Examples:
        >>> chart = sphere(radius=1.0)
        >>> round(chart.distance(torch.tensor([[1.0, 0.0]])).item(), 4)  # the equator, pi/2
        1.5708
    """

    curvature: float

    def __post_init__(self) -> None:
        finite("ConformalChart", curvature=self.curvature)

    def _scale(self, x: Tensor) -> Tensor:
        return 2 / (1 + self.curvature * (x * x).sum(-1))

    def metric(self, x: Tensor) -> Tensor:
        """lambda^2 I."""
        return _identity(self._scale(x) ** 2)

    def inverse(self, x: Tensor) -> Tensor:
        """lambda^-2 I."""
        return _identity(self._scale(x) ** -2)

    def root_inverse(self, x: Tensor) -> Tensor:
        """lambda^-1 I."""
        return _identity(1 / self._scale(x))

    def correction(self, x: Tensor) -> Tensor:
        """0: in two dimensions sqrt|G| G^-1 = I in every conformal chart."""
        return torch.zeros_like(x)

    def distance(self, x: Tensor) -> Tensor:
        """2 atan(sqrt(K) |x|) / sqrt(K), with atanh below K = 0."""
        radius, k = x.norm(dim=-1), math.sqrt(abs(self.curvature))
        if self.curvature > 0:
            return 2 * torch.atan(k * radius) / k
        return 2 * torch.atanh(k * radius) / k if self.curvature < 0 else 2 * radius

    def contains(self, x: Tensor) -> Tensor:
        """Everywhere for K >= 0; below it inside of the disk, where lambda and r are finite."""
        if self.curvature >= 0:
            return torch.isfinite(x).all(-1)
        near = math.sqrt(-self.curvature) * x.norm(dim=-1) < 1
        return near & (1 + self.curvature * (x * x).sum(-1) > 0)


@dataclass(frozen=True)
class NormalChart:
    r"""Geodesic normal coordinates: straight lines through 0 are geodesics at their true length.

    With r = |x|, n = x/r and S(r) = sin(sqrt(K) r)/sqrt(K) (sinh for K < 0),
    G = n n' + (S/r)^2 (I - n n'), and b = n (S'/S - r/S^2), which is -2 K x / 3 near 0. On a sphere
    the metric is singular at the antipode, r = pi/sqrt(K), where a geodesic goes on and covers the
    sphere once more.

    Args:
        curvature: K.

    Raises:
        ValueError: If K is not finite.

    Examples:
        >>> chart = NormalChart(1.0)
        >>> round(chart.correction(torch.tensor([[0.03, 0.0]]))[0, 0].item(), 5)
        -0.02
    """

    curvature: float

    def __post_init__(self) -> None:
        finite("NormalChart", curvature=self.curvature)

    def _shrink(self, r: Tensor) -> Tensor:
        """S(r) / r."""
        angle = math.sqrt(abs(self.curvature)) * r
        if self.curvature > 0:
            return torch.sinc(angle / math.pi)
        series = 1 + angle * angle / 6  # exact to rounding below 1e-3 in float32
        return torch.where(angle < 1e-3, series, torch.sinh(angle) / angle.clamp_min(1e-3))

    def _split(self, x: Tensor, across: Tensor) -> Tensor:
        """N n' + across (I - n n'), (n, 2, 2)."""
        n = torch.nn.functional.normalize(x, dim=-1)
        along = n[..., :, None] * n[..., None, :]
        # At the origin n is 0 and across is 1: the identity, as it should be.
        return along + across[..., None, None] * (_identity(torch.ones_like(across)) - along)

    def metric(self, x: Tensor) -> Tensor:
        """G = n n' + (S/r)^2 (I - n n')."""
        return self._split(x, self._shrink(x.norm(dim=-1)) ** 2)

    def inverse(self, x: Tensor) -> Tensor:
        """G^-1 = n n' + (r/S)^2 (I - n n')."""
        return self._split(x, self._shrink(x.norm(dim=-1)) ** -2)

    def root_inverse(self, x: Tensor) -> Tensor:
        """G^-1/2 = n n' + (r/S) (I - n n')."""
        return self._split(x, 1 / self._shrink(x.norm(dim=-1)))

    def correction(self, x: Tensor) -> Tensor:
        """The drift n (S'/S - r/S^2)."""
        r = x.norm(dim=-1, keepdim=True)
        angle = math.sqrt(abs(self.curvature)) * r
        shrink = self._shrink(r)
        slope = torch.cos(angle) if self.curvature > 0 else torch.cosh(angle)
        # (S'/S - r/S^2)/r = (S' S/r - 1) / (r S/r)^2, a difference of near equals close to 0.
        near = angle < 0.1
        safe = torch.where(near, torch.ones_like(r), r * shrink)
        # Next term of the series: -4 K^3 r^4 / 315, 2e-6 of the first at the change; there the
        # difference has lost a factor of 150 of the precision.
        k = self.curvature
        series = -2 * k / 3 - 4 * k * k * r * r / 45
        return x * torch.where(near, series, (slope * shrink - 1) / (safe * safe))

    def distance(self, x: Tensor) -> Tensor:
        """|x|, folded at the antipodes of a sphere."""
        r = x.norm(dim=-1)
        if self.curvature <= 0:
            return r
        around = 2 * math.pi / math.sqrt(self.curvature)
        return (r - around * (r / around).round()).abs()

    def contains(self, x: Tensor) -> Tensor:
        """Everywhere: beyond the antipode the coordinates cover the sphere once more."""
        return torch.isfinite(x).all(-1)


def sphere(radius: float = 1.0) -> ConformalChart:
    """The sphere in its stereographic chart.

    Args:
        radius: R; the curvature is 1/R^2.

    Returns:
        The chart, whose origin is a pole and |x| = R the equator.

    Examples:
        >>> sphere(2.0).curvature
        0.25
    """
    positive("sphere", radius=radius)
    return ConformalChart(1 / radius**2)


def poincare_disk(radius: float = 1.0) -> ConformalChart:
    """The hyperbolic plane in the Poincaré disk.

    Args:
        radius: R, radius of the disk; the curvature is -1/R^2.

    Returns:
        The chart, |x| < R.

    Examples:
        >>> poincare_disk().curvature
        -1.0
    """
    positive("poincare_disk", radius=radius)
    return ConformalChart(-1 / radius**2)


@dataclass(frozen=True)
class RiemannianBrownian:
    r"""Brownian motion on a surface as Itô dynamics of its coordinates, for `EulerMaruyama`.

    Near the far pole of a sphere Euler's step explodes, and near its rim it leaves the Poincaré
    disk. Such particles become nan, so that they count as lost. Of 20,000 started at the origin
    with D = 0.5 and dt = 0.005 were lost by D t = 0.25, 1 and 4: 1, 856 and 8416 in the
    stereographic chart, 0, 1 and 814 in normal coordinates of the sphere, none at K = -1 in either.
    For longer runs use `GeodesicWalk`.

    Args:
        chart: The surface.
        diffusion: D; the generator is D times the Laplace-Beltrami operator.
        frozen: Leave out b, as the frozen-metric step does.

    Raises:
        ValueError: If `diffusion` is not positive.

    References:
        Hsu, Stochastic Analysis on Manifolds (2002), section 3.3; document "levy", which freezes
        the metric during a step.

    Examples:
        >>> motion = RiemannianBrownian(NormalChart(1.0), diffusion=1.0, frozen=True)
        >>> motion.drift(torch.ones(1, 2)).tolist()
        [[0.0, 0.0]]
    """

    chart: Chart
    diffusion: float
    frozen: bool = False

    def __post_init__(self) -> None:
        positive("RiemannianBrownian", diffusion=self.diffusion)

    def drift(self, x: Tensor) -> Tensor:
        """D b, or 0 when frozen."""
        return torch.zeros_like(x) if self.frozen else self.diffusion * self.chart.correction(x)

    def noise(self, x: Tensor, normal: Tensor) -> Tensor:
        """sqrt(2 D) G^-1/2 z."""
        turned = (self.chart.root_inverse(x) @ normal[..., None])[..., 0]
        return turned.mul_(math.sqrt(2 * self.diffusion))

    def stiffness(self, x: Tensor) -> float:
        """0: nothing relaxes."""
        return 0.0

    def contains(self, x: Tensor) -> Tensor:
        """Where the chart is."""
        return self.chart.contains(x)


@dataclass(frozen=True)
class GeodesicWalk:
    r"""A stepper on a surface: along the geodesic exp_x(v), v = sqrt(2 D dt) z (+ a jump).

    v is a tangent vector in an orthonormal frame, so that its norm is the length that is walked.
    The step needs no correction, keeps particles on the surface and is isotropic for jumps of any
    size. Weak order 1: on the unit sphere E cos r falls per step by exactly E cos \|v\|.

    Particles that walk further from the origin of the Poincaré disk than its numbers reach (17 in
    float32, 37 in float64 at K = -1, see `ConformalChart`) become nan, so that they count as lost.
    The distance grows as D t sqrt(-K), so use float64 and stop before that.

    Args:
        chart: The coordinates, conformal ones; the exponential map there is a Möbius addition.
        diffusion: D; the generator tends to D times the Laplace-Beltrami operator.
        dt: Time of a step.
        jump: A second tangent vector, `jump(shape, dt, generator, dtype)`.

    Raises:
        ValueError: If `diffusion` or `dt` is not positive, or the chart not conformal.

    References:
        Jørgensen, Z. Wahrscheinlichkeitstheorie 32 (1975) 1 (geodesic random walks); Ungar,
        Analytic Hyperbolic Geometry (2005), for the addition.

    Examples:
        >>> from foreshock.simulators.sde import integrate
        >>> walk = GeodesicWalk(poincare_disk(), diffusion=1.0, dt=1.0)
        >>> generator = torch.Generator().manual_seed(0)
        >>> path = integrate(walk, torch.zeros(100, 2), 3, generator=generator)
        >>> bool(path.values.norm(dim=-1).max() < 1)
        True
    """

    chart: ConformalChart
    diffusion: float
    dt: float
    jump: Jump | None = None

    def __post_init__(self) -> None:
        positive("GeodesicWalk", diffusion=self.diffusion, dt=self.dt)
        if not isinstance(self.chart, ConformalChart):
            raise ValueError(
                "`GeodesicWalk` knows the geodesics of a `ConformalChart` only. Got "
                f"{type(self.chart).__name__}. Use `sphere(radius)` or `poincare_disk(radius)`, or "
                "`RiemannianBrownian` in other charts."
            )

    def check(self, x: Tensor) -> None:
        """Refuse points outside of the disk, where K < 0."""
        refuse_outside("GeodesicWalk", self.chart, x)

    def start(self, x: Tensor, generator: torch.Generator) -> State:
        """The positions."""
        return (x,)

    def step(self, state: State, generator: torch.Generator) -> State:
        """One step."""
        (x,) = state
        v = standard_normal(x, generator).mul_(math.sqrt(2 * self.diffusion * self.dt))
        v = with_jump(v, self.jump, self.dt, generator)
        length, k = v.norm(dim=-1, keepdim=True), self.chart.curvature
        root = math.sqrt(abs(k))
        half = root * length / 2
        # The point at that distance from the origin, in the direction of v.
        if k > 0:
            reach = torch.tan(half) / root
        else:
            reach = torch.tanh(half) / root if k < 0 else length / 2
        y = reach * torch.nn.functional.normalize(v, dim=-1)
        both = (x * y).sum(-1, keepdim=True)
        xx, yy = (x * x).sum(-1, keepdim=True), (y * y).sum(-1, keepdim=True)
        new = (1 - 2 * k * both - k * yy) * x + (1 + k * xx) * y
        new = new / (1 - 2 * k * both + k * k * xx * yy)
        return (leavers_lost(self.chart, new),)
