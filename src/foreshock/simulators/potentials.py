r"""Potentials with the exact energy, gradient and Hessian, written by hand.

Conventions: `x` is (..., d), `energy(x)` (...), `gradient(x)` (..., d), `hessian(x)` (..., d, d),
all in the dtype and on the device of `x`. Coordinates are lengths, energies share the unit of the
temperature. Where the stationary points are known exactly, `minima` and `saddles` list them as
tuples of coordinates; a saddle has one unstable direction.

Landscapes in the plane and with many wells are in `foreshock.simulators.landscapes`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from foreshock.simulators.door import finite, positive

Points = tuple[tuple[float, ...], ...]


@runtime_checkable
class Potential(Protocol):
    """A differentiable energy landscape in `dimension` coordinates.

    Attributes:
        dimension: d.
    """

    @property
    def dimension(self) -> int:
        """Number of coordinates."""
        ...

    def energy(self, x: Tensor) -> Tensor:
        """(..., d) -> (...)."""
        ...

    def gradient(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., d)."""
        ...

    def hessian(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., d, d)."""
        ...


def require_dimension(owner: str, dimension: int, least: int = 1) -> None:
    """Refuse a dimension below `least`.

    Args:
        owner: Name of the class that asks.
        dimension: d.
        least: Smallest dimension that makes sense.

    Raises:
        ValueError: If `dimension` is not an integer of at least `least`.

    Examples:
        >>> require_dimension("Quartic", 3)
    """
    if int(dimension) != dimension or dimension < least:
        raise ValueError(
            f"The `dimension` of `{owner}` must be an integer, at least {least}. Got {dimension}."
        )


def _embedded(curvature: Tensor, x: Tensor, stiffness: float) -> Tensor:
    """Hessian (..., d, d) with `curvature` (...) in the first coordinate, `stiffness` after."""
    d = x.shape[-1]
    rest = x.new_full((*x.shape[:-1], d - 1), stiffness)
    return torch.diag_embed(torch.cat([curvature[..., None], rest], -1))


@dataclass(frozen=True, eq=False)
class Quadratic:
    r"""U(x) = x' K x / 2: the potential of the Ornstein-Uhlenbeck process, Gibbs law N(0, T K^-1).

    Args:
        curvature: K: a number (K I), a vector (d,) (the diagonal) or a symmetric matrix (d, d).
            Negative eigenvalues are allowed: a saddle. Arrays and lists become tensors of float64.
        dimension: d, needed only where `curvature` is a number; 1 by default.

    Raises:
        ValueError: If K is not finite, not symmetric, or does not match `dimension`.

    Examples:
        >>> bowl = Quadratic(torch.tensor([1.0, 4.0]))
        >>> bowl.energy(torch.ones(1, 2)).tolist(), bowl.gradient(torch.ones(1, 2)).tolist()
        ([2.5], [[1.0, 4.0]])
    """

    curvature: float | Tensor
    dimension: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.curvature, (Tensor, float, int)):  # an array, a list
            given = torch.as_tensor(self.curvature, dtype=torch.float64)
            object.__setattr__(self, "curvature", given)
        k = torch.as_tensor(self.curvature)
        if k.ndim > 2 or (k.ndim == 2 and k.shape[0] != k.shape[1]):
            raise ValueError(
                "The `curvature` of `Quadratic` must be a number, a vector (d,) or a square "
                f"matrix (d, d). Got shape {tuple(k.shape)}."
            )
        finite("Quadratic", curvature=k.detach().cpu().numpy())
        if k.ndim == 2 and not torch.allclose(k, k.T):
            raise ValueError(
                "The `curvature` of `Quadratic` must be symmetric, or the force has no potential. "
                "Use K = (A + A.T) / 2, or an `ItoProcess` with the drift -A x."
            )
        dimension = self.dimension or (len(k) if k.ndim else 1)
        if k.ndim and dimension != len(k):
            raise ValueError(
                f"The `dimension` of `Quadratic` is {dimension}, but `curvature` has {len(k)} rows."
            )
        require_dimension("Quadratic", dimension)
        object.__setattr__(self, "dimension", dimension)

    @property
    def minima(self) -> Points:
        """The origin, if K is positive definite."""
        return ((0.0,) * self.dimension,) if self._lowest() > 0 else ()

    def _lowest(self) -> float:
        k = torch.as_tensor(self.curvature, dtype=torch.float64)
        return float(torch.linalg.eigvalsh(k)[0] if k.ndim == 2 else k.min())

    def matrix(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """K as a matrix (d, d)."""
        k = torch.as_tensor(self.curvature, dtype=dtype)
        return k if k.ndim == 2 else torch.diag(k.expand(self.dimension))

    def energy(self, x: Tensor) -> Tensor:
        """Half of x' K x."""
        return (x * self.gradient(x)).sum(-1) / 2

    def gradient(self, x: Tensor) -> Tensor:
        """K x."""
        if isinstance(self.curvature, Tensor):
            k = self.curvature.to(x)
            return x @ k if k.ndim == 2 else x * k
        return x * self.curvature

    def hessian(self, x: Tensor) -> Tensor:
        """K, once for every point."""
        return self.matrix(x.dtype).to(x.device).expand(*x.shape, self.dimension)


@dataclass(frozen=True)
class DoubleWell:
    r"""U(x) = b ((x_1 / w)^2 - 1)^2 + s/2 sum_{i>1} x_i^2: wells at x_1 = -w and w, barrier b at 0.

    Curvature 8 b / w^2 in the wells, -4 b / w^2 on the barrier.

    Args:
        barrier: b, height of the barrier above the wells.
        width: w, distance of each well from the barrier.
        dimension: d.
        stiffness: s, curvature in the other coordinates.

    Raises:
        ValueError: If an argument is not positive.

    Examples:
        >>> well = DoubleWell(barrier=2.0)
        >>> x = torch.tensor([[0.0], [1.0]])
        >>> well.energy(x).tolist(), well.hessian(x).flatten().tolist()
        ([2.0, 0.0], [-8.0, 16.0])
    """

    barrier: float = 1.0
    width: float = 1.0
    dimension: int = 1
    stiffness: float = 1.0

    def __post_init__(self) -> None:
        positive("DoubleWell", barrier=self.barrier, width=self.width, stiffness=self.stiffness)
        require_dimension("DoubleWell", self.dimension)

    @property
    def minima(self) -> Points:
        """The wells, left and right."""
        rest = (0.0,) * (self.dimension - 1)
        return ((-self.width, *rest), (self.width, *rest))

    @property
    def saddles(self) -> Points:
        """The top of the barrier."""
        return ((0.0,) * self.dimension,)

    def energy(self, x: Tensor) -> Tensor:
        """Energy of every point."""
        well = self.barrier * ((x[..., 0] / self.width) ** 2 - 1) ** 2
        return well + self.stiffness / 2 * (x[..., 1:] ** 2).sum(-1)

    def gradient(self, x: Tensor) -> Tensor:
        """x_1 (4b/w^4 x_1^2 - 4b/w^2), and s x_i in the others."""
        slope = 4 * self.barrier / self.width**2
        # One fused pass and one in place on the fresh tensor: the inner loop of every benchmark.
        offset = x.new_full((), -slope)
        if x.shape[-1] == 1:
            return torch.addcmul(offset, x, x, value=slope / self.width**2).mul_(x)
        first = x[..., :1]
        force = torch.addcmul(offset, first, first, value=slope / self.width**2).mul_(first)
        return torch.cat([force, self.stiffness * x[..., 1:]], -1)

    def hessian(self, x: Tensor) -> Tensor:
        """4b/w^2 (3 (x_1/w)^2 - 1) in the first coordinate, s in the others."""
        slope = 4 * self.barrier / self.width**2
        return _embedded(slope * (3 * (x[..., 0] / self.width) ** 2 - 1), x, self.stiffness)


@dataclass(frozen=True)
class Tilted:
    r"""A double well with a slope: U(x) = b ((x_1/w)^2 - 1)^2 + f x_1 + s/2 sum_{i>1} x_i^2.

    A positive slope makes the left well the deeper one. Two wells exist while
    |f| < 8 b / (3 sqrt(3) w).

    Args:
        slope: f, energy per length.
        barrier: b, as in `DoubleWell`.
        width: w.
        dimension: d.
        stiffness: s.

    Raises:
        ValueError: If an argument is not positive, or `slope` not finite.

    Examples:
        >>> tilted = Tilted(slope=0.5)
        >>> left, right = tilted.minima
        >>> x = torch.tensor([left, right], dtype=torch.float64)
        >>> bool(tilted.gradient(x).abs().max() < 1e-12), bool(tilted.energy(x).diff() > 0)
        (True, True)
    """

    slope: float
    barrier: float = 1.0
    width: float = 1.0
    dimension: int = 1
    stiffness: float = 1.0

    def __post_init__(self) -> None:
        finite("Tilted", slope=self.slope)
        self._well()

    def _well(self) -> DoubleWell:
        return DoubleWell(self.barrier, self.width, self.dimension, self.stiffness)

    def _stationary(self) -> list[float]:
        """Real roots of 4b/w^4 x^3 - 4b/w^2 x + f, ascending."""
        slope = 4 * self.barrier / self.width**2
        roots = np.roots([slope / self.width**2, 0.0, -slope, self.slope])
        return sorted(float(r.real) for r in roots if abs(r.imag) < 1e-9 * self.width)

    @property
    def minima(self) -> Points:
        """The wells, left and right; one if the slope has erased the other."""
        rest = (0.0,) * (self.dimension - 1)
        return tuple((x, *rest) for x in self._stationary()[::2])

    @property
    def saddles(self) -> Points:
        """The top of the barrier, if there is one."""
        rest = (0.0,) * (self.dimension - 1)
        return tuple((x, *rest) for x in self._stationary()[1::2])

    def energy(self, x: Tensor) -> Tensor:
        """Energy of every point."""
        return self._well().energy(x) + self.slope * x[..., 0]

    def gradient(self, x: Tensor) -> Tensor:
        """The double well's, plus f in the first coordinate."""
        gradient = self._well().gradient(x)
        gradient[..., 0] += self.slope
        return gradient

    def hessian(self, x: Tensor) -> Tensor:
        """The double well's."""
        return self._well().hessian(x)


@dataclass(frozen=True)
class Quartic:
    r"""U(x) = k/4 sum_i x_i^4: steeper than any bowl, so that Euler's explicit step explodes.

    Args:
        strength: k, energy per length^4.
        dimension: d.

    Raises:
        ValueError: If an argument is not positive.

    Examples:
        >>> Quartic().gradient(torch.tensor([[2.0]])).item()
        8.0
    """

    strength: float = 1.0
    dimension: int = 1

    def __post_init__(self) -> None:
        positive("Quartic", strength=self.strength)
        require_dimension("Quartic", self.dimension)

    @property
    def minima(self) -> Points:
        """The origin, where the Hessian vanishes."""
        return ((0.0,) * self.dimension,)

    def energy(self, x: Tensor) -> Tensor:
        """k/4 sum x_i^4."""
        return self.strength / 4 * (x**4).sum(-1)

    def gradient(self, x: Tensor) -> Tensor:
        """The cubes, k x_i^3."""
        return self.strength * x * x * x

    def hessian(self, x: Tensor) -> Tensor:
        """3 k x_i^2 on the diagonal."""
        return torch.diag_embed(3 * self.strength * x * x)
