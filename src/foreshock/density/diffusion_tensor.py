"""The diffusion D of dx = mu dt + sqrt(2 D) dW in its four shapes, and what is done with it.

A number (isotropic), (d,) (diagonal), (d, d) (shared by all particles) or (n, d, d) (one each).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def check_diffusion(diffusion: float | Tensor, z: Tensor) -> Tensor:
    """The diffusion as a tensor like the particles, refused unless symmetric positive definite.

    Refused (ValueError) as well where the shape fits none of the four.

    Args:
        diffusion: A number, (d,), (d, d) or (n, d, d).
        z: (n, d) Particles.

    Returns:
        (), (d,), (d, d) or (n, d, d).

    Examples:
        >>> check_diffusion(0.5, torch.zeros(4, 2))
        tensor(0.5000)
    """
    return rooted(diffusion, z)[0]


def rooted(diffusion: float | Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """`check_diffusion`, with a root R of D, R R' = D, as the check found it.

    Args:
        diffusion: A number, (d,), (d, d) or (n, d, d).
        z: (n, d) Particles.

    Returns:
        D, and R of the same shape: square roots, or lower Cholesky factors.

    Raises:
        ValueError: If the shape fits none of these, or D is not symmetric positive definite.

    Examples:
        >>> rooted(4 * torch.eye(1), torch.zeros(4, 1))[1]
        tensor([[2.]])
    """
    n, d = z.shape
    tensor = torch.as_tensor(diffusion, dtype=z.dtype, device=z.device).detach()
    if tuple(tensor.shape) not in ((), (d,), (d, d), (n, d, d)):
        raise ValueError(
            f"The `diffusion` must be a number, ({d},), ({d}, {d}) or ({n}, {d}, {d}) for these "
            f"particles. Got {tuple(tensor.shape)}."
        )
    if tensor.dim() < 2:
        root = tensor.sqrt()
        good = bool((tensor > 0).all()) and bool(torch.isfinite(tensor).all())
    else:
        scale = torch.linalg.vector_norm(tensor.diagonal(dim1=-2, dim2=-1), math.inf)
        lopsided = torch.linalg.vector_norm(tensor - tensor.mT, math.inf)
        root, failed = torch.linalg.cholesky_ex(tensor)
        # What is not finite fails here too: nan, or inf - inf, makes the comparison false.
        good = float(lopsided) <= 1e-4 * float(scale) < math.inf and not bool(failed.any())
    if not good:
        raise ValueError(
            "The `diffusion` must be symmetric positive definite and finite. A direction without "
            "noise has no score term; project it out, or add a small multiple of the identity."
        )
    return tensor, root


def check_carried(diffusion: Tensor, carried: Tensor | None) -> None:
    """Refuses a D of every particle's own without its divergence, which is part of the velocity.

    Args:
        diffusion: A checked diffusion.
        carried: (n, d) div D, or None.

    Raises:
        ValueError: If D is (n, d, d) and div D is not given.

    Examples:
        >>> check_carried(torch.tensor(1.0), None)
    """
    if diffusion.dim() == 3 and carried is None:
        raise ValueError(
            "A `diffusion` (n, d, d) of every particle's own needs `divergence_diffusion`: div D "
            "is part of the velocity. Compute it by `ito_divergence`; pass `torch.zeros_like(z)` "
            "if it is 0 or already taken from the drift."
        )


def contravariant(root: Tensor, rows: Tensor) -> Tensor:
    """(n, d) velocities x_i to R_i^-1 x_i, where D is the identity: x . D^-1 x is their square.

    Never negative then, and with an error of the condition of R where x . (D^-1 x) has that of D.

    Args:
        root: R, by `rooted`.
        rows: (n, d) Drifts or velocities.

    Returns:
        (n, d).

    Examples:
        >>> contravariant(torch.tensor([1.0, 2.0]), torch.ones(1, 2))
        tensor([[1.0000, 0.5000]])
    """
    if root.dim() < 2:
        return rows / root
    if root.dim() == 2:
        # A product with the inverse takes less time than a triangular solve of many rows.
        eye = torch.eye(len(root), dtype=root.dtype, device=root.device)
        return rows @ torch.linalg.solve_triangular(root, eye, upper=False).T
    return torch.linalg.solve_triangular(root, rows[:, :, None], upper=False)[:, :, 0]


def covariant(root: Tensor, rows: Tensor) -> Tensor:
    """(n, d) gradients g_i to R_i' g_i, where D is the identity: g . D g is their square.

    Args:
        root: R, by `rooted`; or D itself, which is symmetric, for D g.
        rows: (n, d) Scores or gradients.

    Returns:
        (n, d); with R their products with `contravariant` velocities are x . g.

    Examples:
        >>> covariant(torch.tensor([1.0, 2.0]), torch.ones(1, 2))
        tensor([[1., 2.]])
    """
    if root.dim() < 2:
        return rows * root
    if root.dim() == 2:
        return rows @ root
    return torch.einsum("nji,nj->ni", root, rows)


def matrix(diffusion: Tensor, dimension: int) -> Tensor:
    """A shared diffusion as a (d, d) matrix.

    Args:
        diffusion: (), (d,) or (d, d).
        dimension: d.

    Returns:
        (d, d).

    Examples:
        >>> matrix(torch.tensor(2.0), 2)
        tensor([[2., 0.],
                [0., 2.]])
    """
    if diffusion.dim() == 2:
        return diffusion
    return torch.diag(diffusion.expand(dimension))


def row_products(left: Tensor, right: Tensor) -> Tensor:
    """(n,) Inner products of rows, in float64: sums over many particles are taken of them."""
    return (left * right).sum(1).double()


def finite_rows(name: str, rows: Tensor, z: Tensor) -> Tensor:
    """Detached rows (n, d) like the particles.

    Args:
        name: Name of the argument.
        rows: What was given.
        z: (n, d) Particles.

    Returns:
        The rows.

    Raises:
        ValueError: If the shape differs, or a number is not finite.

    Examples:
        >>> finite_rows("drift", torch.ones(2, 1), torch.zeros(2, 1)).shape
        torch.Size([2, 1])
    """
    if rows.shape != z.shape or not math.isfinite(float(rows.detach().sum())):
        raise ValueError(
            f"The `{name}` must be finite and {tuple(z.shape)}, a row per particle. "
            f"Got {tuple(rows.shape)}."
        )
    return rows.detach().to(z.dtype)
