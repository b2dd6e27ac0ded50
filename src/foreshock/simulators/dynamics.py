r"""What moves a particle: an Itô drift and a noise amplitude, dx = a(x) dt + sqrt(2 D(x)) dW.

Everything here is **Itô**: the drift is evaluated where the step begins. There is one temperature
T; with the mobility M the diffusion is D = T M and the force -grad U moves a particle at the
velocity -M grad U (Einstein's relation). How a step of length dt is taken is the business of
`foreshock.simulators.sde`.

Where D depends on x, "dx = mu dt + sqrt(2 D(x)) dW" means nothing until a convention is named.
`ItoProcess` takes a drift and a convention, `StateDependentLangevin` a potential and a mode.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor

from foreshock.simulators.curvature import largest_curvature
from foreshock.simulators.fields import (
    Field,
    divergence,
    spread,
    symmetric_root,
    times,
    value_of,
)
from foreshock.simulators.potentials import Potential

Convention = Literal["ito", "stratonovich", "anti_ito", "fickian"]
Mode = Literal["gibbs", "published"]


@runtime_checkable
class Dynamics(Protocol):
    """An Itô process dx = drift dt + noise, whose particles do not feel each other.

    One that lives in a part of space only may also have `contains(x)`, (n, d) -> (n,) bool:
    `EulerMaruyama` and `TamedEuler` refuse to start elsewhere, and particles that leave become nan.
    """

    def drift(self, x: Tensor) -> Tensor:
        """(n, d) -> (n, d) Itô drift, length per time."""
        ...

    def noise(self, x: Tensor, normal: Tensor) -> Tensor:
        """(n, d) sqrt(2 D(x)) times standard normals, length per square root of time."""
        ...

    def stiffness(self, x: Tensor) -> float:
        """Largest relaxation rate at these points, 1/time; 0 where it is not known."""
        ...


@dataclass(frozen=True, eq=False)
class Langevin:
    r"""Overdamped motion in a potential: dx = -M grad U dt + sqrt(2 T M) dW, Gibbs law exp(-U/T).

    The mobility is constant, so Itô, Stratonovich and anti-Itô are the same process.

    Args:
        potential: U.
        temperature: T, an energy.
        mobility: M: a number, a vector (d,) or a positive semidefinite matrix (d, d); velocity per
            force. A learning rate is the mobility of a step of length dt = 1. Arrays and lists
            become tensors of float64.

    Raises:
        ValueError: If `temperature` is not positive, or `mobility` not positive semidefinite, not
            finite, or of the wrong shape.

    References:
        Risken, The Fokker-Planck Equation, 2nd ed. (1989); document "langevin", section 2.

    Examples:
        >>> from foreshock.simulators.potentials import Quadratic
        >>> motion = Langevin(Quadratic(2.0), temperature=0.5)
        >>> motion.drift(torch.ones(1, 1)).item(), motion.noise(torch.ones(1, 1), torch.ones(1, 1))
        (-2.0, tensor([[1.]]))
    """

    potential: Potential
    temperature: float
    mobility: float | Tensor = 1.0

    def __post_init__(self) -> None:
        require_temperature("Langevin", self.temperature)
        if not isinstance(self.mobility, (Tensor, float, int)):  # an array, a list
            given = torch.as_tensor(self.mobility, dtype=torch.float64)
            object.__setattr__(self, "mobility", given)
        m = torch.as_tensor(self.mobility, dtype=torch.float64)
        if not torch.isfinite(m).all():
            raise ValueError("The `mobility` of `Langevin` holds nan or inf.")
        if m.ndim and m.shape[0] != self.potential.dimension:
            raise ValueError(
                f"The `mobility` of `Langevin` has {m.shape[0]} rows, but the potential "
                f"{self.potential.dimension} dimensions."
            )
        if m.ndim < 2:
            if (m < 0).any() or not (m > 0).any():
                raise ValueError(f"The `mobility` of `Langevin` must be positive. Got {m.min()}.")
        else:
            symmetric_root(m, "Langevin", "mobility")

    @cached_property
    def root(self) -> float | Tensor:
        """sqrt(2 T M): a number, a vector, or a symmetric matrix in float64."""
        if not isinstance(self.mobility, Tensor):
            return math.sqrt(2 * self.temperature * self.mobility)
        scaled = 2 * self.temperature * self.mobility.double()
        return scaled.sqrt() if scaled.ndim < 2 else symmetric_root(scaled, "Langevin", "mobility")

    @cached_property
    def numbers(self) -> tuple[float, float] | None:
        """M and sqrt(2 T M) where the mobility is a number, else nothing."""
        if isinstance(self.mobility, Tensor):
            return None
        return self.mobility, math.sqrt(2 * self.temperature * self.mobility)

    def drift(self, x: Tensor) -> Tensor:
        """-M grad U."""
        return times(self.potential.gradient(x), self.mobility, -1)

    def noise(self, x: Tensor, normal: Tensor) -> Tensor:
        """sqrt(2 T M) z."""
        return times(normal, self.root)

    def stiffness(self, x: Tensor) -> float:
        """Largest eigenvalue of M Hess U over at most 32 of the points and the minima."""
        return largest_curvature(self.potential, x, self.root) / (2 * self.temperature)


@dataclass(frozen=True)
class GradientFlow:
    r"""Dynamics without Brownian noise, dx = -M grad U dt: what a stable noise alone is added to.

    Args:
        potential: U.
        mobility: M.

    Raises:
        ValueError: If the mobility is not positive.

    Examples:
        >>> from foreshock.simulators.potentials import Quadratic
        >>> GradientFlow(Quadratic(2.0)).drift(torch.ones(1, 1)).tolist()
        [[-2.0]]
    """

    potential: Potential
    mobility: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mobility) and self.mobility > 0):
            raise ValueError(
                f"The `mobility` of `GradientFlow` must be positive. Got {self.mobility}."
            )

    def drift(self, x: Tensor) -> Tensor:
        """-M grad U, (n, d)."""
        return times(self.potential.gradient(x), self.mobility, -1)

    def noise(self, x: Tensor, normal: Tensor) -> Tensor:
        """Nothing: zeros."""
        return torch.zeros_like(normal)

    def stiffness(self, x: Tensor) -> float:
        """M times the largest curvature over at most 32 of the points and the minima."""
        return self.mobility * largest_curvature(self.potential, x)


def require_temperature(owner: str, temperature: float) -> None:
    """Refuse a temperature that is not positive and finite.

    Args:
        owner: Name of the class that asks.
        temperature: T.

    Raises:
        ValueError: If T is not positive and finite.

    Examples:
        >>> require_temperature("Langevin", 0.5)
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(
            f"The `temperature` of `{owner}` must be positive and finite. Got {temperature}. "
            "For noiseless descent use `ItoProcess(velocity=lambda x: -potential.gradient(x))`."
        )


@dataclass(frozen=True)
class ItoProcess:
    r"""dx = mu(x) dt + sqrt(2 D(x)) dW in a named convention, brought to the Itô form.

    The Itô drift is mu + c div D with c = 0 (`ito`), 1/2 (`stratonovich`), 1 (`anti_ito`, the noise
    amplitude of the end of the step). `fickian` is d_t rho = -div(mu rho) + div(D grad rho), which
    also has c = 1. For matrices D that are not diagonal, Stratonovich and anti-Itô depend on which
    square root is meant, so only `ito` and `fickian` are accepted.

    On a circle with mu = 0 the stationary densities are 1/D, 1/sqrt(D), and uniform.

    Args:
        velocity: mu: (n, d) -> (n, d); none by default.
        diffusion: D: (n, d) -> (n, d) (a diagonal) or (n, d, d); none by default, for noiseless
            descent or for jumps alone.
        convention: What the formula means.
        divergence: Exact div D, (n, d) -> (n, d); by automatic differentiation if it is not given.

    Raises:
        ValueError: If the convention is unknown.

    References:
        Lau & Lubensky, Phys. Rev. E 76 (2007) 011123; document "fokker_planck", section 2, whose
        two forms differ by div D wherever D depends on x.

    Examples:
        >>> process = ItoProcess(diffusion=lambda x: 1 + 0.5 * torch.sin(x), convention="fickian")
        >>> process.drift(torch.zeros(1, 1)).item()
        0.5
    """

    velocity: Field | None = None
    diffusion: Field | None = None
    convention: Convention = "ito"
    divergence: Field | None = None

    def __post_init__(self) -> None:
        if self.convention not in get_args(Convention):
            raise ValueError(
                f"The `convention` of `ItoProcess` must be one of {get_args(Convention)}. "
                f"Got {self.convention!r}."
            )

    def _diffusion(self, x: Tensor) -> Tensor:
        assert self.diffusion is not None
        return value_of(self.diffusion, x, "ItoProcess", "diffusion")

    def drift(self, x: Tensor) -> Tensor:
        """Itô drift mu + c div D."""
        total = torch.zeros_like(x) if self.velocity is None else self.velocity(x)
        if self.diffusion is None or self.convention == "ito":
            return total
        if self.convention != "fickian" and self._diffusion(x).ndim == 3:
            raise ValueError(
                f"`ItoProcess` cannot read {self.convention!r} for a matrix D: it depends on the "
                "square root. Use 'fickian', or 'ito' with the drift written out."
            )
        weight = 0.5 if self.convention == "stratonovich" else 1.0
        exact = self.divergence
        return total + weight * (exact(x) if exact else divergence(self.diffusion, x))

    def noise(self, x: Tensor, normal: Tensor) -> Tensor:
        """sqrt(2 D(x)) z."""
        if self.diffusion is None:
            return torch.zeros_like(x)
        return spread(self._diffusion(x), 1.0, normal, "ItoProcess", "diffusion")

    def stiffness(self, x: Tensor) -> float:
        """0: not known."""
        return 0.0


@dataclass(frozen=True)
class StateDependentLangevin:
    r"""Motion in a potential with a mobility M(x) that depends on the place; D = T M(x).

    - `gibbs`: Itô drift -M grad U + T div M. The law exp(-U/T) is stationary and no current flows.
    - `published`: drift -grad U whatever M is, D = T M(x) in the Itô sense. Unless M is a constant
      multiple of I this has another stationary law, and in general a current.

    Args:
        potential: U.
        temperature: T.
        mobility: M: (n, d) -> (n, d) (a diagonal) or (n, d, d), positive semidefinite.
        mode: See above.
        divergence: Exact div M; by automatic differentiation if it is not given.

    Raises:
        ValueError: If `temperature` is not positive or `mode` unknown.

    References:
        Ma, Chen & Fox, NeurIPS 2015; document "fokker_planck", whose D(z) = D_0 (I + gamma F) with
        the drift -eta grad L is the mode `published`.

    Examples:
        >>> from foreshock.simulators.potentials import Quadratic
        >>> motion = StateDependentLangevin(Quadratic(1.0), 0.5, lambda x: 1 + x * x)
        >>> motion.drift(torch.ones(1, 1)).item()  # -2 * 1 + 0.5 * 2
        -1.0
    """

    potential: Potential
    temperature: float
    mobility: Field
    mode: Mode = "gibbs"
    divergence: Field | None = None

    def __post_init__(self) -> None:
        require_temperature("StateDependentLangevin", self.temperature)
        if self.mode not in get_args(Mode):
            raise ValueError(
                f"The `mode` of `StateDependentLangevin` must be one of {get_args(Mode)}. "
                f"Got {self.mode!r}."
            )

    def _mobility(self, x: Tensor) -> Tensor:
        return value_of(self.mobility, x, "StateDependentLangevin", "mobility")

    def drift(self, x: Tensor) -> Tensor:
        """-M grad U + T div M, or -grad U as published."""
        gradient = self.potential.gradient(x)
        if self.mode == "published":
            return -gradient
        m = self._mobility(x)
        pulled = m * gradient if m.ndim == 2 else (m @ gradient[..., None])[..., 0]
        outward = self.divergence(x) if self.divergence else divergence(self.mobility, x)
        return self.temperature * outward - pulled

    def noise(self, x: Tensor, normal: Tensor) -> Tensor:
        """sqrt(2 T M(x)) z."""
        m, owner = self._mobility(x), "StateDependentLangevin"
        return spread(m, self.temperature, normal, owner, "mobility")

    def stiffness(self, x: Tensor) -> float:
        """Largest curvature times the largest mobility at the points: an upper bound."""
        top = largest_curvature(self.potential, x)
        if self.mode == "published":
            return top
        m = self._mobility(x)
        return top * float(m.max() if m.ndim == 2 else torch.linalg.matrix_norm(m, 2).max())
