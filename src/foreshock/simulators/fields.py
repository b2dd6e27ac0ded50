"""Constant and state-dependent matrices: products, square roots, divergences."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Field = Callable[[Tensor], Tensor]

#: Negative eigenvalues and asymmetries up to this share of the largest value are rounding: that of
#: float32, in which a matrix may have been computed.
_ROUNDING = 1e-5


def times(x: Tensor, factor: float | Tensor, sign: int = 1) -> Tensor:
    """Sign times x (n, d) with a number, a diagonal (d,), or a symmetric matrix (d, d).

    Args:
        x: (n, d).
        factor: What it is multiplied by, in any dtype.
        sign: 1 or -1.

    Returns:
        (n, d).

    Examples:
        >>> times(torch.ones(1, 2), torch.tensor([1.0, 2.0]), -1).tolist()
        [[-1.0, -2.0]]
    """
    if not isinstance(factor, Tensor):
        return x * (sign * factor)
    matched = sign * factor.to(x)
    return x @ matched if factor.ndim == 2 else x * matched


def symmetric_root(matrix: Tensor, owner: str, name: str) -> Tensor:
    """Symmetric square roots of symmetric positive semidefinite matrices (..., d, d).

    Eigenvalues below 0 by no more than rounding count as 0.

    Args:
        matrix: The matrices, finite.
        owner: Class that asks.
        name: What the matrix is called there.

    Returns:
        The roots.

    Raises:
        ValueError: If a matrix is not square, not symmetric, or not positive semidefinite.

    Examples:
        >>> root = symmetric_root(torch.full((2, 2), 2.0), "Langevin", "mobility")
        >>> torch.allclose(root, torch.ones(2, 2))
        True
    """
    if matrix.ndim < 2 or matrix.shape[-2] != matrix.shape[-1]:
        raise ValueError(
            f"The `{name}` of `{owner}` must be a number, a vector (d,) or a matrix (d, d). "
            f"Got shape {tuple(matrix.shape)}."
        )
    _refuse_asymmetric(matrix, owner, name)
    values, vectors = torch.linalg.eigh(matrix)
    scale = values.abs().amax(-1, keepdim=True)
    _refuse_negative(values, scale, owner, name, "lowest eigenvalue")
    return (vectors * values.clamp_min(0).sqrt()[..., None, :]) @ vectors.mT


def _refuse_asymmetric(matrix: Tensor, owner: str, name: str) -> None:
    """Refuse matrices (..., d, d) that are not symmetric; nan passes."""
    apart = (matrix - matrix.mT).abs().amax((-1, -2))
    if (apart > _ROUNDING * matrix.abs().amax((-1, -2))).any():
        raise ValueError(f"The `{name}` of `{owner}` must be symmetric. Use (A + A.T) / 2.")


def _refuse_negative(values: Tensor, scale: Tensor, owner: str, name: str, what: str) -> None:
    """Refuse values below 0 by more than the rounding of numbers as large as `scale`."""
    if (values < -_ROUNDING * scale).any():
        raise ValueError(
            f"The `{name}` of `{owner}` must be positive semidefinite. Its {what} is "
            f"{float(values.nan_to_num(0.0).min()):.3g}. Use its projection V max(L, 0) V', or add "
            "a multiple of I."
        )


def value_of(field: Field, x: Tensor, owner: str, name: str) -> Tensor:
    """The field at x, if it is a diagonal (n, d) or matrices (n, d, d), one a particle.

    Args:
        field: (n, d) -> (n, d) or (n, d, d).
        x: (n, d).
        owner: Class that asks.
        name: What the field is called there.

    Returns:
        Its value.

    Raises:
        ValueError: If the value has another shape, such as that of a constant matrix (d, d).

    Examples:
        >>> value_of(torch.ones_like, torch.zeros(3, 2), "ItoProcess", "diffusion").shape
        torch.Size([3, 2])
    """
    n, d = x.shape
    value = field(x)
    if value.ndim == 2 and n == d > 1:
        # A constant matrix looks like a diagonal where n = d; one particle tells them apart.
        right = field(x[:1]).shape == (1, d)
    else:
        right = value.shape in ((n, d), (n, d, d))
    if not right:
        raise ValueError(
            f"The `{name}` of `{owner}` must return a diagonal (n, d) or matrices (n, d, d) for "
            f"positions {(n, d)}. Got shape {tuple(value.shape)}. For a constant matrix use "
            "`matrix.expand(len(x), d, d)`."
        )
    return value


def spread(mobility: Tensor, temperature: float, normal: Tensor, owner: str, name: str) -> Tensor:
    """sqrt(2 T M) z for a diagonal (n, d) or matrices (n, d, d), singular ones included.

    A particle whose M is not finite, because it is lost already, gets nan. An M that is not
    positive semidefinite is refused as by `symmetric_root`.

    Args:
        mobility: M, or D if T is 1.
        temperature: T.
        normal: (n, d) z.
        owner: Class that asks.
        name: What M is called there.

    Returns:
        (n, d).

    Examples:
        >>> d = torch.full((1, 2), 2.0)
        >>> spread(d, 1.0, torch.ones(1, 2), "ItoProcess", "diffusion").tolist()
        [[2.0, 2.0]]
    """
    if mobility.ndim == 2:
        if (mobility < 0).any():
            scale = mobility.nan_to_num(0.0, 0.0).max()
            _refuse_negative(mobility, scale, owner, name, "lowest entry")
            mobility = mobility.clamp_min(0)
        return (2 * temperature * mobility).sqrt_().mul_(normal)
    _refuse_asymmetric(mobility, owner, name)
    # Any root R with R R' = M gives the same law, and Cholesky's is the fast one: a sixth of the
    # time for matrices of 2 x 2. It does not exist where M is singular.
    root, failed = torch.linalg.cholesky_ex(mobility)
    if failed.any():
        singular = (failed != 0) & torch.isfinite(mobility).flatten(1).all(1)
        root[failed != 0] = torch.nan
        root[singular] = symmetric_root(mobility[singular], owner, name)
    return (root @ normal[..., None])[..., 0].mul_((2 * temperature) ** 0.5)


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
        value = value_of(field, at, "divergence", "field")
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
