r"""Heavy-tailed noise: isotropic alpha-stable vectors and the motions they drive.

Standard law of index alpha in (0, 2]: E exp(i k.X) = exp(-|k|^alpha). At alpha = 2 it is N(0, 2 I),
so a noise of scale s is Brownian motion with D = s^2. Over a time t a scale grows by t^{1/alpha}.

In d dimensions the vector is sqrt(A) G, G ~ N(0, 2 I) and A positive stable of index alpha/2
(subordination). Coordinates that are stable each by itself are another law: its jumps go along the
axes, so it is not isotropic.

Documents: levy. Sampling: Chambers, Mallows and Stuck, J. Am. Stat. Assoc. 71 (1976) 340; Kanter,
Ann. Probab. 3 (1975) 697.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from foreshock.simulators.door import positive, stability_index
from foreshock.simulators.exact_levy import ou_levy_scale
from foreshock.simulators.metrics import Chart
from foreshock.simulators.potentials import Potential
from foreshock.simulators.stepping import leavers_lost, refuse_outside


def positive_stable(
    shape: tuple[int, ...], index: float, generator: torch.Generator, dtype: torch.dtype
) -> Tensor:
    r"""Positive stable numbers A with E exp(-u A) = exp(-u^index), by Kanter's formula.

    Args:
        shape: Shape of the result.
        index: In (0, 1); at 1 the law is the constant 1.
        generator: Source of randomness, whose device is used.
        dtype: Floating-point type of the result.

    Returns:
        Draws of the given shape.

    Raises:
        ValueError: If the index is not in (0, 1].

    Examples:
        >>> draws = positive_stable((10_000,), 0.5, torch.Generator().manual_seed(0), torch.float64)
        >>> abs((-draws).exp().mean().item() - math.exp(-1)) < 0.012  # 4 standard errors
        True
    """
    if not 0 < index <= 1:
        raise ValueError(f"The `index` of `positive_stable` must be in (0, 1]. Got {index}.")
    device = generator.device
    if index == 1:
        return torch.ones(shape, dtype=dtype, device=device)
    # In float64 whatever the result: near its ends sin(angle) decides about the tail.
    angle = torch.rand(shape, generator=generator, dtype=torch.float64, device=device)
    angle = (angle.clamp_(min=2**-54) * math.pi).clamp_(max=math.pi * (1 - 2**-53))
    wait = torch.empty(shape, dtype=torch.float64, device=device).exponential_(generator=generator)
    power = (1 - index) / index
    # Logarithms, because for a small index the factors alone leave the range of a float.
    log_draw = (
        (index * angle).sin_().log_()
        - angle.sin().log_() / index
        + power * (((1 - index) * angle).sin_().log_() - wait.log_())
    )
    return log_draw.exp_().to(dtype)


def symmetric_stable(
    shape: tuple[int, ...],
    alpha: float,
    *,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    r"""Independent numbers of the standard symmetric law, E exp(i k X) = exp(-|k|^alpha).

    Args:
        shape: Shape of the result.
        alpha: Index in (0, 2].
        generator: Source of randomness, whose device is used.
        dtype: Floating-point type of the result.

    Returns:
        Draws of the given shape; a standard deviation exists only at alpha = 2, where it is
        sqrt(2).

    Examples:
        >>> draws = symmetric_stable((10_001,), 1.0, generator=torch.Generator().manual_seed(0))
        >>> bool((draws.abs().median() - 1).abs() < 0.07)  # Cauchy: quartiles at -1 and 1
        True
    """
    stability_index("symmetric_stable", alpha)
    device = generator.device
    if alpha == 2:
        normal = torch.randn(shape, generator=generator, dtype=dtype, device=device)
        return normal.mul_(math.sqrt(2))
    angle = torch.rand(shape, generator=generator, dtype=torch.float64, device=device)
    angle = (angle - 0.5).mul_(math.pi).clamp_(-math.pi / 2 * (1 - 2**-52), math.pi / 2)
    if alpha == 1:
        return angle.tan_().to(dtype)
    wait = torch.empty(shape, dtype=torch.float64, device=device).exponential_(generator=generator)
    cosine = angle.cos()
    scale = (((1 - alpha) * angle).cos_() / wait).pow_((1 - alpha) / alpha)
    return (alpha * angle).sin_().div_(cosine.pow_(1 / alpha)).mul_(scale).to(dtype)


def isotropic_stable(
    particles: int,
    dimension: int,
    alpha: float,
    *,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    r"""Isotropic alpha-stable vectors, E exp(i k.X) = exp(-|k|^alpha), by subordination.

    Args:
        particles: n.
        dimension: d.
        alpha: Index in (0, 2].
        generator: Source of randomness, whose device is used.
        dtype: Floating-point type of the result.

    Returns:
        (n, d) vectors.

    Examples:
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = isotropic_stable(20_000, 3, 1.5, generator=generator, dtype=torch.float64)
        >>> k = torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64)
        >>> abs((x @ k).cos().mean().item() - math.exp(-1)) < 0.02  # 4 standard errors
        True
    """
    stability_index("isotropic_stable", alpha)
    positive("isotropic_stable", particles=particles, dimension=dimension)
    if dimension == 1:
        return symmetric_stable((particles, 1), alpha, generator=generator, dtype=dtype)
    device = generator.device
    normal = torch.randn(particles, dimension, generator=generator, dtype=dtype, device=device)
    # The root is taken in float64: A itself leaves the range of float32 long before sqrt(A) does.
    spread = positive_stable((particles, 1), alpha / 2, generator, torch.float64)
    return normal.mul_(spread.mul_(2).sqrt_().to(dtype))


@dataclass(frozen=True, slots=True)
class StableNoise:
    r"""Isotropic alpha-stable noise as the `jump` of a stepper: Brownian and stable in one step.

    Its increment over dt is scale * dt^{1/alpha} times the standard law, exact for every dt. The
    steppers add it to their Brownian noise of variance 2 D dt.

    Args:
        alpha: Index in (0, 2].
        scale: Scale per unit of time^{1/alpha}.

    Raises:
        ValueError: If `alpha` is not in (0, 2] or the scale not positive.

    Examples:
        >>> from foreshock.simulators.dynamics import Langevin
        >>> from foreshock.simulators.potentials import Quadratic
        >>> from foreshock.simulators.sde import EulerMaruyama, integrate
        >>> motion = Langevin(Quadratic(1.0), temperature=0.1)
        >>> stepper = EulerMaruyama(motion, dt=0.01, jump=StableNoise(alpha=1.5, scale=0.2))
        >>> path = integrate(stepper, torch.zeros(16, 1), 100, generator=torch.Generator())
        >>> path.values.shape
        torch.Size([101, 16, 1])
    """

    alpha: float
    scale: float = 1.0

    def __post_init__(self) -> None:
        stability_index("StableNoise", self.alpha)
        positive("StableNoise", scale=self.scale)

    def __call__(
        self, shape: tuple[int, ...], dt: float, generator: torch.Generator, dtype: torch.dtype
    ) -> Tensor:
        """Increments over `dt`, (n, d) in the given type, that of the particles."""
        n, d = shape
        draws = isotropic_stable(n, d, self.alpha, generator=generator, dtype=dtype)
        return draws.mul_(self.scale * dt ** (1 / self.alpha))


@dataclass(frozen=True, slots=True)
class ExactStableOU:
    r"""The exact transition of dx = -k x dt + s dL: x' = e^{-k dt} x + s' X, X standard.

    s' = s ((1 - e^{-alpha k dt})/(alpha k))^{1/alpha}, isotropic in any dimension. A stepper for
    `integrate`; the law at the recorded times is exact for every dt.

    Args:
        stiffness: k > 0.
        noise: The driving noise.
        dt: Time of a step.

    Raises:
        ValueError: If `stiffness` or `dt` is not positive.

    Examples:
        >>> from foreshock.simulators.sde import integrate
        >>> stepper = ExactStableOU(1.0, StableNoise(1.5), dt=20.0)
        >>> path = integrate(stepper, torch.zeros(8, 2), 1, generator=torch.Generator())
        >>> path.values.shape
        torch.Size([2, 8, 2])
    """

    stiffness: float
    noise: StableNoise
    dt: float

    def __post_init__(self) -> None:
        positive("ExactStableOU", stiffness=self.stiffness, dt=self.dt)

    def check(self, x: Tensor) -> None:
        """Nothing to refuse."""

    def start(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """The positions."""
        return (x,)

    def step(self, state: tuple[Tensor, ...], generator: torch.Generator) -> tuple[Tensor, ...]:
        """One step."""
        (x,) = state
        n, d = x.shape
        alpha, scale = self.noise.alpha, self.noise.scale
        draws = isotropic_stable(n, d, alpha, generator=generator, dtype=x.dtype)
        scale = ou_levy_scale(self.stiffness, alpha, scale=scale, time=self.dt)
        return (x * math.exp(-self.stiffness * self.dt) + scale * draws,)


@dataclass(frozen=True)
class StableOnChart:
    r"""One step of stable noise on a curved chart, with the metric frozen over the step.

    x' = x - M G^-1 grad U dt + G(x)^{-1/2} s dt^{1/alpha} X: what document levy does ("treat G as
    constant, then update"). The jump is a straight line in the chart, however far it goes, so it
    depends on the chart, and no smaller `dt` mends that: jumps do not shrink. The isotropic process
    of the manifold itself is Brownian motion at a stable clock, with generator
    -s^alpha (-Laplace-Beltrami)^{alpha/2}; `exact_levy.sphere_cosine` is its law on a sphere. At
    alpha = 2 the frozen step lacks the drift of `RiemannianBrownian`. Particles that jump off the
    chart, such as out of the Poincaré disk, become nan, so that they count as lost.

    Args:
        chart: The metric.
        noise: The driving noise.
        potential: U of the drift, or none.
        dt: Time of a step.

    Raises:
        ValueError: If `dt` is not positive.

    Examples:
        >>> from foreshock.simulators.metrics import sphere
        >>> stepper = StableOnChart(sphere(), StableNoise(1.8, 0.1), dt=0.01)
        >>> (x,) = stepper.step((torch.zeros(4, 2),), torch.Generator())
        >>> x.shape
        torch.Size([4, 2])
    """

    chart: Chart
    noise: StableNoise
    dt: float
    potential: Potential | None = None

    def __post_init__(self) -> None:
        positive("StableOnChart", dt=self.dt)

    def check(self, x: Tensor) -> None:
        """Refuse points outside of the chart."""
        refuse_outside("StableOnChart", self.chart, x)

    def start(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """The positions."""
        return (x,)

    def step(self, state: tuple[Tensor, ...], generator: torch.Generator) -> tuple[Tensor, ...]:
        """One step."""
        (x,) = state
        jump = self.noise(tuple(x.shape), self.dt, generator, x.dtype)
        new = x + torch.einsum("nij,nj->ni", self.chart.root_inverse(x), jump)
        if self.potential is not None:
            slope = self.potential.gradient(x)
            new = new - self.dt * torch.einsum("nij,nj->ni", self.chart.inverse(x), slope)
        return (leavers_lost(self.chart, new),)
