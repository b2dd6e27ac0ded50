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
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor

from foreshock.simulators.potentials import Potential

Field = Callable[[Tensor], Tensor]
Convention = Literal["ito", "stratonovich", "anti_ito", "fickian"]
Mode = Literal["gibbs", "published"]

#: Points at which the curvature is looked at before a run.
_LOOKS = 32


@runtime_checkable
class Dynamics(Protocol):
    """An Itô process dx = drift dt + noise, whose particles do not feel each other."""

    def drift(self, x: Tensor) -> Tensor:
        """(n, d) -> (n, d) Itô drift, length per time."""
        ...

    def noise(self, x: Tensor, normal: Tensor) -> Tensor:
        """(n, d) sqrt(2 D(x)) times standard normals, length per square root of time."""
        ...

    def stiffness(self, x: Tensor) -> float:
        """Largest relaxation rate at these points, 1/time; 0 where it is not known."""
        ...


def _root(matrix: Tensor, owner: str, name: str) -> Tensor:
    """Symmetric square root of a symmetric positive semidefinite matrix, or a refusal."""
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(
            f"The `{name}` of `{owner}` must be a number, a vector (d,) or a matrix (d, d). "
            f"Got shape {tuple(matrix.shape)}."
        )
    if not torch.allclose(matrix, matrix.T):
        raise ValueError(f"The `{name}` of `{owner}` must be symmetric.")
    values, vectors = torch.linalg.eigh(matrix)
    # Rounding of eigh in float64 is ~ d eps |matrix|; 1e-10 leaves room for d ~ 10^5.
    if values[0] < -1e-10 * values[-1].abs():
        raise ValueError(
            f"The `{name}` of `{owner}` must be positive semidefinite. Its lowest eigenvalue is "
            f"{float(values[0]):.3g}. Use its projection V max(L, 0) V', or add a multiple of I."
        )
    return vectors @ torch.diag(values.clamp_min(0).sqrt()) @ vectors.T


def divergence(field: Field, x: Tensor) -> Tensor:
    r"""(div D)_i = sum_j d_j D_ij by automatic differentiation: exact, d backward passes.

    Args:
        field: D: (n, d) -> (n, d), a diagonal, or -> (n, d, d). Each point by itself.
        x: (n, d).

    Returns:
        (n, d).

    Examples:
        >>> x = torch.tensor([[2.0, 3.0]])
        >>> divergence(lambda x: x * x, x).tolist()
        [[4.0, 6.0]]
    """
    n, d = x.shape
    with torch.enable_grad():
        at = x.detach().requires_grad_(True)
        value = field(at)
        if not value.requires_grad:  # a constant
            return torch.zeros_like(x)
        columns = []
        for i in range(d):
            # A row of a full matrix is read with d passes, its divergence is the diagonal's sum.
            row = value[:, i] if value.ndim == 3 else value[:, i : i + 1]
            total = torch.zeros(n, dtype=x.dtype, device=x.device)
            for j in range(row.shape[1]):
                along = j if value.ndim == 3 else i
                (slope,) = torch.autograd.grad(row[:, j].sum(), at, retain_graph=True)
                total = total + slope[:, along]
            columns.append(total)
    return torch.stack(columns, 1).detach()


def _spread(diffusion: Tensor, normal: Tensor) -> Tensor:
    """sqrt(2 D) z for a diagonal (n, d) or matrices (n, d, d)."""
    if diffusion.ndim == 2:
        return (2 * diffusion).sqrt().mul_(normal)
    return (torch.linalg.cholesky(2 * diffusion) @ normal[..., None])[..., 0]


@dataclass(frozen=True, eq=False)
class Langevin:
    r"""Overdamped motion in a potential: dx = -M grad U dt + sqrt(2 T M) dW, Gibbs law exp(-U/T).

    The mobility is constant, so Itô, Stratonovich and anti-Itô are the same process.

    Args:
        potential: U.
        temperature: T, an energy.
        mobility: M: a number, a vector (d,) or a positive semidefinite matrix (d, d); velocity per
            force. A learning rate is the mobility of a step of length dt = 1.

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
            _root(m, "Langevin", "mobility")

    @cached_property
    def root(self) -> float | Tensor:
        """sqrt(2 T M): a number, a vector, or a symmetric matrix in float64."""
        if not isinstance(self.mobility, Tensor):
            return math.sqrt(2 * self.temperature * self.mobility)
        scaled = 2 * self.temperature * self.mobility.double()
        return scaled.sqrt() if scaled.ndim < 2 else _root(scaled, "Langevin", "mobility")

    @cached_property
    def numbers(self) -> tuple[float, float] | None:
        """M and sqrt(2 T M) where the mobility is a number, else nothing."""
        if isinstance(self.mobility, Tensor):
            return None
        return self.mobility, math.sqrt(2 * self.temperature * self.mobility)

    def drift(self, x: Tensor) -> Tensor:
        """-M grad U."""
        return _times(self.potential.gradient(x), self.mobility, -1)

    def noise(self, x: Tensor, normal: Tensor) -> Tensor:
        """sqrt(2 T M) z."""
        return _times(normal, self.root, 1)

    def stiffness(self, x: Tensor) -> float:
        """Largest eigenvalue of M Hess U over at most 32 of the points."""
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
        return _times(self.potential.gradient(x), self.mobility, -1)

    def noise(self, x: Tensor, normal: Tensor) -> Tensor:
        """Nothing: zeros."""
        return torch.zeros_like(normal)

    def stiffness(self, x: Tensor) -> float:
        """M times the largest curvature over at most 32 of the points."""
        return self.mobility * largest_curvature(self.potential, x)


def _times(x: Tensor, factor: float | Tensor, sign: int) -> Tensor:
    """Sign times x (n, d) with a number, a diagonal, or a symmetric matrix."""
    if not isinstance(factor, Tensor):
        return x * (sign * factor)
    matched = sign * factor.to(x)
    return x @ matched if factor.ndim == 2 else x * matched


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


def largest_curvature(potential: Potential, x: Tensor, root: float | Tensor = 1.0) -> float:
    r"""Largest eigenvalue of R Hess U R over at most 32 evenly spaced points; R symmetric.

    By the eigenvalues of the Hessian up to d = 512, above by 30 power iterations on differences of
    the gradient (a lower bound, which converges slowly where the top of the spectrum is crowded).

    Args:
        potential: U.
        x: (n, d) Points.
        root: R: a number, a diagonal (d,), or a matrix (d, d); sqrt(2 T M) for rates.

    Returns:
        The eigenvalue, in units of U / x^2 times R^2.

    Examples:
        >>> from foreshock.simulators.potentials import DoubleWell
        >>> largest_curvature(DoubleWell(), torch.tensor([[-1.0], [0.0]]))
        8.0
    """
    points = x[:: max(1, -(-len(x) // _LOOKS))].double()
    d = points.shape[1]
    r = torch.as_tensor(root, dtype=torch.float64, device=points.device)
    if d <= 512:
        r = r if r.ndim == 2 else torch.diag(r.expand(d))
        # Point by point: 32 Hessians of 512 x 512 at once would be 64 MB.
        tops = [torch.linalg.eigvalsh(r @ potential.hessian(p) @ r)[-1] for p in points]
        return float(torch.stack(tops).max())
    direction = torch.cos(torch.arange(d, dtype=torch.float64, device=points.device))
    direction = (direction / direction.norm()).expand(points.shape)
    step = 1e-6 * (1 + points.norm(dim=1, keepdim=True))  # ~ eps^(1/3) of a central difference
    top = torch.zeros(len(points), dtype=torch.float64, device=points.device)
    for _ in range(30):
        along = _times(direction, r if r.ndim else float(r), 1)
        up, down = (
            potential.gradient(points + step * along),
            potential.gradient(points - step * along),
        )
        image = _times((up - down) / (2 * step), r if r.ndim else float(r), 1)
        top = (direction * image).sum(1)
        direction = image / image.norm(dim=1, keepdim=True).clamp_min(1e-300)
    return float(top.max())


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

    def drift(self, x: Tensor) -> Tensor:
        """Itô drift mu + c div D."""
        total = torch.zeros_like(x) if self.velocity is None else self.velocity(x)
        if self.diffusion is None or self.convention == "ito":
            return total
        if self.convention != "fickian" and self.diffusion(x).ndim == 3:
            raise ValueError(
                f"`ItoProcess` cannot read {self.convention!r} for a matrix D: it depends on the "
                "square root. Use 'fickian', or 'ito' with the drift written out."
            )
        weight = 0.5 if self.convention == "stratonovich" else 1.0
        exact = self.divergence
        return total + weight * (exact(x) if exact else divergence(self.diffusion, x))

    def noise(self, x: Tensor, normal: Tensor) -> Tensor:
        """sqrt(2 D(x)) z."""
        return torch.zeros_like(x) if self.diffusion is None else _spread(self.diffusion(x), normal)

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

    def drift(self, x: Tensor) -> Tensor:
        """-M grad U + T div M, or -grad U as published."""
        gradient = self.potential.gradient(x)
        if self.mode == "published":
            return -gradient
        m = self.mobility(x)
        pulled = m * gradient if m.ndim == 2 else (m @ gradient[..., None])[..., 0]
        spread = self.divergence(x) if self.divergence else divergence(self.mobility, x)
        return self.temperature * spread - pulled

    def noise(self, x: Tensor, normal: Tensor) -> Tensor:
        """sqrt(2 T M(x)) z."""
        return _spread(self.temperature * self.mobility(x), normal)

    def stiffness(self, x: Tensor) -> float:
        """Largest curvature times the largest mobility at the points: an upper bound."""
        top = largest_curvature(self.potential, x)
        if self.mode == "published":
            return top
        m = self.mobility(x)
        return top * float(m.max() if m.ndim == 2 else torch.linalg.matrix_norm(m, 2).max())
