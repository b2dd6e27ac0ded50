r"""Steppers for special cases: tamed drifts, the exact cubic flow, the exact Gaussian transition.

Conventions as in `foreshock.simulators.sde`, which runs them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from foreshock.simulators.door import positive
from foreshock.simulators.dynamics import Dynamics, GradientFlow, Langevin
from foreshock.simulators.fields import symmetric_root
from foreshock.simulators.potentials import Quadratic, Quartic
from foreshock.simulators.stepping import (
    Jump,
    State,
    leavers_lost,
    refuse_outside,
    standard_normal,
    with_jump,
)


@dataclass(frozen=True)
class TamedEuler:
    r"""Euler's step with the drift bounded: x' = x + a dt / (1 + dt \|a\|) + sqrt(2 D dt) z.

    Converges (strong order 1/2) where the drift grows faster than linearly and Euler's scheme
    explodes. Every step is stable, not every step is accurate: at dt \|a\| ~ 1 the force is halved.

    Args:
        dynamics: What moves the particles.
        dt: Time of a step.
        jump: A second noise in the same step.

    Raises:
        ValueError: If `dt` is not positive.

    References:
        Hutzenthaler, Jentzen & Kloeden, Ann. Appl. Probab. 22 (2012) 1611.

    Examples:
        >>> from foreshock.simulators.sde import integrate
        >>> motion = Langevin(Quartic(), temperature=1.0)
        >>> generator = torch.Generator().manual_seed(0)
        >>> path = integrate(TamedEuler(motion, 0.1), torch.full((8, 1), 100.0), 50,
        ...                  generator=generator, every=50)
        >>> path.lost
        0
    """

    dynamics: Dynamics
    dt: float
    jump: Jump | None = None

    def __post_init__(self) -> None:
        positive("TamedEuler", dt=self.dt)

    def check(self, x: Tensor) -> None:
        """Refuse a start outside of where the dynamics live."""
        refuse_outside("TamedEuler", self.dynamics, x)

    def start(self, x: Tensor, generator: torch.Generator) -> State:
        """The positions."""
        return (x,)

    def step(self, state: State, generator: torch.Generator) -> State:
        """One step."""
        (x,) = state
        drift = self.dynamics.drift(x)
        new = x + drift * (self.dt / (1 + self.dt * drift.norm(dim=-1, keepdim=True)))
        new.add_(self.dynamics.noise(x, standard_normal(x, generator)), alpha=self.dt**0.5)
        return (leavers_lost(self.dynamics, with_jump(new, self.jump, self.dt, generator)),)


def cubic_flow(x: Tensor, time: float | Tensor) -> Tensor:
    r"""The exact solution of dx/dt = -x^3 after `time`: x / sqrt(1 + 2 x^2 time), elementwise.

    Args:
        x: Where it starts.
        time: t times the strength of the potential and the mobility, 1/length^2, not negative; a
            number or (d,).

    Returns:
        Where it is, in the shape of x; +-1 / sqrt(2 time) from infinity.

    Examples:
        >>> cubic_flow(torch.tensor([1.0]), 1.5).item()
        0.5
    """
    # As 1 / hypot(1/x, sqrt(2t)), in which no square overflows.
    root = torch.as_tensor(2 * time, dtype=x.dtype, device=x.device).sqrt()
    return torch.copysign(1 / torch.hypot(1 / x, root), x)


@dataclass(frozen=True)
class CubicSplitting:
    r"""On a `Quartic`: the exact cubic flow over dt, then the noise over dt (Lie splitting).

    Stable for every dt and every jump, however large, where Euler's scheme explodes. Weak order 1.

    Args:
        dynamics: `Langevin` on a `Quartic`, or `GradientFlow` for jumps alone; the mobility is a
            number or a vector.
        dt: Time of a step.
        jump: A second noise in the same step.

    Raises:
        ValueError: If `dt` is not positive, or the dynamics are not as above.

    Examples:
        >>> from foreshock.simulators.sde import integrate
        >>> stepper = CubicSplitting(Langevin(Quartic(), temperature=1.0), dt=0.5)
        >>> generator = torch.Generator().manual_seed(0)
        >>> path = integrate(stepper, torch.full((8, 1), 1e6), 10, generator=generator)
        >>> bool(path.values[-1].abs().max() < 5)
        True
    """

    dynamics: Langevin | GradientFlow
    dt: float
    jump: Jump | None = None

    def __post_init__(self) -> None:
        positive("CubicSplitting", dt=self.dt)
        m = self.dynamics.mobility
        if not isinstance(self.dynamics.potential, Quartic) or (
            isinstance(m, Tensor) and m.ndim == 2
        ):
            raise ValueError(
                "`CubicSplitting` needs `Langevin` on a `Quartic` with a mobility that acts on "
                "each coordinate by itself. Use `TamedEuler` for other steep potentials."
            )

    def check(self, x: Tensor) -> None:
        """Nothing to refuse."""

    def start(self, x: Tensor, generator: torch.Generator) -> State:
        """The positions."""
        return (x,)

    def step(self, state: State, generator: torch.Generator) -> State:
        """One step."""
        (x,) = state
        potential, m = self.dynamics.potential, self.dynamics.mobility
        assert isinstance(potential, Quartic)  # checked at birth
        time = potential.strength * self.dt * (m.to(x) if isinstance(m, Tensor) else m)
        new = cubic_flow(x, time)
        new.add_(self.dynamics.noise(x, standard_normal(x, generator)), alpha=self.dt**0.5)
        return (with_jump(new, self.jump, self.dt, generator),)


def _relaxed(rate: Tensor, time: float) -> Tensor:
    """Integral of e^{-rate s} over s from 0 to `time`."""
    flat = rate.abs() * time < 1e-12  # free diffusion
    safe = torch.where(flat, torch.ones_like(rate), rate)
    return torch.where(flat, torch.full_like(rate, time), -torch.expm1(-safe * time) / safe)


@dataclass(frozen=True)
class ExactOU:
    r"""The exact transition of the Ornstein-Uhlenbeck process: x' = e^{-MK dt} x + L z.

    L L' = integral_0^dt of e^{-MK s} 2 T M e^{-KM s} ds. Right for every dt, singular and negative
    K and singular M included; only the law at the recorded times is drawn, nothing in between.

    Args:
        dynamics: `Langevin` on a `Quadratic`.
        dt: Time of a step.

    Raises:
        ValueError: If `dt` is not positive or the potential not quadratic.

    References:
        Uhlenbeck & Ornstein, Phys. Rev. 36 (1930) 823.

    Examples:
        >>> stepper = ExactOU(Langevin(Quadratic(1.0), temperature=1.0), dt=50.0)
        >>> decay, spread = stepper.transition
        >>> bool(decay.abs().max() < 1e-20), round(spread.item(), 6)
        (True, 1.0)
    """

    dynamics: Langevin
    dt: float

    def __post_init__(self) -> None:
        positive("ExactOU", dt=self.dt)
        if not isinstance(self.dynamics.potential, Quadratic):
            raise ValueError(
                "`ExactOU` is exact for a `Quadratic` potential only. Got "
                f"{type(self.dynamics.potential).__name__}. Use `EulerMaruyama`."
            )

    @cached_property
    def transition(self) -> tuple[Tensor, Tensor]:
        """e^{-MK dt} and L in float64: two vectors (d,) if M and K are diagonal, else matrices."""
        potential, m = self.dynamics.potential, torch.as_tensor(self.dynamics.mobility).double()
        assert isinstance(potential, Quadratic)  # checked at birth
        d, temperature = potential.dimension, self.dynamics.temperature
        k = torch.as_tensor(potential.curvature).double()
        if k.ndim < 2 and m.ndim < 2:
            rate = (k * m).expand(d)
            time = _relaxed(2 * rate, self.dt)
            return torch.exp(-rate * self.dt), (2 * temperature * m * time).sqrt()
        # With R = M^1/2 and S = R K R symmetric, (MK)^n = R S^(n-1) R K: every power of a decay
        # is taken of a number, so that no growing exponential appears, and M may be singular.
        root = symmetric_root(m, "Langevin", "mobility") if m.ndim == 2 else m.sqrt().expand(d)
        root = root if root.ndim == 2 else torch.diag(root)
        k = potential.matrix().to(root.device)
        rate, vectors = torch.linalg.eigh(root @ k @ root)
        turned = root @ vectors
        decay = torch.eye(d, dtype=k.dtype, device=k.device)
        decay = decay - (turned * _relaxed(rate, self.dt)) @ turned.T @ k
        return decay, turned * (2 * temperature * _relaxed(2 * rate, self.dt)).sqrt()

    def check(self, x: Tensor) -> None:
        """Nothing to refuse."""

    def start(self, x: Tensor, generator: torch.Generator) -> State:
        """The positions."""
        return (x,)

    def step(self, state: State, generator: torch.Generator) -> State:
        """One step."""
        (x,) = state
        decay, spread = (part.to(x) for part in self.transition)
        normal = standard_normal(x, generator)
        if decay.ndim == 2:
            return (torch.addmm(x @ decay.T, normal, spread.T),)
        return (torch.addcmul(x * decay, normal, spread),)
