"""Lanczos for the top of a symmetric matrix that is known by its products only."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from foreshock.types import NAN

#: Error of an eigenvalue, relative to it, at which Lanczos stops.
TOLERANCE = 1e-2
#: A residual above this share of the value is no convergence, whatever the gap seems to be: the
#: gap comes from the same vectors.
LARGEST_RESIDUAL = 0.1
#: Fewest products before the gap is believed; two Ritz values say nothing about a third.
FEWEST = 3


@dataclass(frozen=True)
class Ritz:
    """Largest Ritz pair of a Lanczos run.

    Args:
        value: Ritz value θ; nan if a product was not finite.
        residual: |Hv − θv|: an eigenvalue lies within this distance of θ.
        vectors: The two leading Ritz vectors, ``(2, d)`` (one if one product was made).
        steps: Hessian-vector products spent.
        second: Second Ritz value; −inf if there is none.
        tolerance: Relative error that was asked for.
        scale: What the tolerance is relative to: |θ|, or the largest Ritz value in size.
        image: Hv of the leading vector as the products gave it, ``(d,)``; no product more.
    """

    value: float
    residual: float
    vectors: Tensor
    steps: int
    second: float = -math.inf
    tolerance: float = TOLERANCE
    scale: float = NAN
    image: Tensor | None = None

    @property
    def error(self) -> float:
        """Estimate of the error, min(r, r²/(θ − θ₂)): Temple's, with θ₂ for the second eigenvalue.

        An estimate, no bound: θ₂ may lie below the second eigenvalue, and both may lie below one
        that the start does not contain.
        """
        gap = self.value - self.second
        if self.steps < FEWEST or not gap > 0:
            return self.residual
        return min(self.residual, self.residual**2 / gap)

    @property
    def converged(self) -> bool:
        """Residual at most ``tolerance`` of the scale; or at most a tenth, and `error` half."""
        scale = self.scale if math.isfinite(self.scale) else abs(self.value)
        return self.residual <= self.tolerance * scale or (
            self.residual <= LARGEST_RESIDUAL * scale and self.error <= self.tolerance * scale / 2
        )


def lanczos(
    product: Callable[[Tensor], Tensor],
    start: Tensor,
    steps: int,
    *,
    tolerance: float | None = None,
    least: int = 1,
    falling: float | None = None,
    to_norm: bool = False,
) -> Ritz:
    """Algebraically largest Ritz pair of a symmetric H, from ``start``.

    Vectors are kept in the type of ``start`` and orthogonalised fully, twice; coefficients are
    float64. The coefficients of *all* basis vectors are kept, so the residual

        |Hv − θv|² = |T s − θ s|² + (β s_m)²,    v = V s,  HV = V T + β q e_m',

    is that of H as it was applied: what rounding makes asymmetric in H shows in it.

    Args:
        product: v ↦ Hv on flat vectors.
        start: Starting vector ``(d,)``.
        steps: Most products to spend.
        tolerance: Stop when `Ritz.converged` at this relative tolerance; ``None`` spends all steps.
        least: Fewest products before stopping.
        falling: Stop only where the last product brought the residual down to this share of the
            one before, or below a third of the tolerance.
        to_norm: Whether the tolerance is relative to the largest Ritz value in size instead of the
            pair's own, which may be 0.

    Returns:
        The leading pair; θ is never above the largest eigenvalue (up to the rounding of H). One
        small transfer a product, which decides whether to go on.

    References:
        Parlett, The symmetric eigenvalue problem (1998), ch. 10 (Temple) and 13.

    Examples:
        >>> import torch
        >>> diagonal = torch.tensor([3.0, 1.0, -5.0], dtype=torch.float64)
        >>> pair = lanczos(lambda v: diagonal * v, torch.ones(3, dtype=torch.float64), steps=3)
        >>> round(pair.value, 6), pair.residual < 1e-9
        (3.0, True)
    """
    asked = TOLERANCE if tolerance is None else tolerance
    krylov = Krylov(product, start)
    before = math.inf
    while krylov.grow() and krylov.size < min(steps, len(start)):
        if tolerance is None:
            continue
        top = krylov.top(asked, to_norm=to_norm)
        fell = falling is None or top.residual <= max(falling * before, asked / 3 * top.scale)
        if krylov.size >= least and top.converged and fell:
            break
        before = top.residual
    top = krylov.top(asked, to_norm=to_norm)
    if not math.isfinite(top.value):
        return top
    return krylov.with_vectors(top)


class Krylov:
    """An orthonormal basis of span{x, Hx, H²x, ...}, grown by one product at a time.

    Args:
        product: v ↦ Hv on flat vectors.
        start: Starting vector ``(d,)``.

    Examples:
        >>> import torch
        >>> krylov = Krylov(lambda v: 2 * v, torch.ones(3))
        >>> krylov.grow(), krylov.ritz()[0].tolist()  # the identity is exhausted at once
        (False, [2.0])
    """

    def __init__(self, product: Callable[[Tensor], Tensor], start: Tensor) -> None:
        self._product = product
        # One row more than products: the next vector is written where it will be used.
        self._basis = start.new_empty(min(5, len(start)), len(start))
        torch.div(start, start.norm(), out=self._basis[0])
        self._columns: list[list[float]] = []
        self._betas: list[float] = []
        self._scale = 0.0
        self.exhausted = False

    @property
    def size(self) -> int:
        """Products made."""
        return len(self._columns)

    @property
    def finite(self) -> bool:
        """Whether all products were."""
        return math.isfinite(self._scale)

    @property
    def basis(self) -> Tensor:
        """Orthonormal rows ``(size, d)``."""
        return self._basis[: self.size]

    def grow(self) -> bool:
        """Make one more product; false if the space is exhausted or a number is not finite."""
        j = self.size
        basis = self._basis[: j + 1]
        w = self._product(basis[j])
        first = basis @ w
        w = torch.addmv(w, basis.T, first, alpha=-1)  # a new tensor: w may be the caller's
        second = basis @ w
        w.addmv_(basis.T, second, alpha=-1)
        beta = torch.linalg.vector_norm(w)
        column = torch.cat([first + second, beta[None]]).double().tolist()
        length = column.pop()
        self._betas.append(length)
        self._columns.append(column)
        size = math.hypot(length, *column)
        self._scale = max(self._scale, size) if math.isfinite(size) else math.inf
        # What is left of an exhausted space is rounding. The factor is ad hoc.
        rounding = 50 * torch.finfo(w.dtype).eps * self._scale
        self.exhausted = not length > rounding
        if not math.isfinite(self._scale) or self.exhausted:
            return False
        rows, d = self._basis.shape
        if j + 1 == rows and rows < d:
            self._basis = torch.cat([self._basis, self._basis.new_empty(min(rows, d - rows), d)])
        if j + 1 < d:
            torch.div(w, beta, out=self._basis[j + 1])
        return True

    def projected(self) -> np.ndarray:
        """T = V'HV as it was computed ``(size, size)``, not made symmetric."""
        m = self.size
        matrix = np.zeros((m, m))
        for j, column in enumerate(self._columns):
            matrix[: j + 1, j] = column
        # The next basis vector is w/β, so β is the coefficient below the diagonal.
        matrix[range(1, m), range(m - 1)] = self._betas[: m - 1]
        return matrix

    def ritz(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ritz values in falling order, their residuals, and their coefficients as columns."""
        matrix = self.projected()
        values, mix = np.linalg.eigh((matrix + matrix.T) / 2)
        values, mix = values[::-1], mix[:, ::-1]
        inside = np.linalg.norm(matrix @ mix - mix * values, axis=0)
        return values, np.hypot(inside, self._betas[-1] * np.abs(mix[-1])), mix

    def top(self, tolerance: float, *, to_norm: bool = False) -> Ritz:
        """The leading pair so far, without its vectors."""
        nothing = self._basis[:0]
        if not self.finite:
            return Ritz(NAN, NAN, nothing, self.size, tolerance=tolerance)
        values, residuals, _ = self.ritz()
        second = float(values[1]) if len(values) > 1 else -math.inf
        return Ritz(
            float(values[0]),
            float(residuals[0]),
            nothing,
            self.size,
            second=second,
            tolerance=tolerance,
            scale=float(np.abs(values).max() if to_norm else abs(values[0])),
        )

    def with_vectors(self, top: Ritz) -> Ritz:
        """The same pair with the two leading Ritz vectors, and the image of the first."""
        mix = self.ritz()[2][:, :2]
        m = self.size
        rows = mix.T
        if not self.exhausted and m < self._basis.shape[1]:
            # H q_j = (basis) (column j of T) + β_j q_{j+1}: the next vector holds the rest.
            image = np.append(self.projected() @ mix[:, 0], self._betas[-1] * mix[-1, 0])
            rows = np.vstack([np.pad(rows, ((0, 0), (0, 1))), image])
        else:
            rows = np.vstack([rows, self.projected() @ mix[:, 0]])
        weights = torch.from_numpy(rows).to(self._basis)
        found = weights @ self._basis[: rows.shape[1]]
        return replace(top, vectors=found[:-1], image=found[-1])
