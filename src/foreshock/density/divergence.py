"""Divergences of a drift and of a diffusion by automatic differentiation: exact or Hutchinson."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

#: Up to this dimension the divergence is exact by default: d passes, no noise.
EXACT_DIMENSION = 16


def _probes(z: Tensor, count: int, generator: torch.Generator | None) -> list[Tensor]:
    """Independent (n, d) rows of random signs."""
    if generator is None:
        raise ValueError(
            "Hutchinson's divergence draws random signs: pass `generator=torch.Generator()"
            ".manual_seed(0)`, or `probes=0` for the exact one at d passes."
        )
    draws = (
        torch.randint(0, 2, z.shape, generator=generator, device=generator.device)
        for _ in range(count)
    )
    return [draw.to(z) * 2 - 1 for draw in draws]


def drift_divergence(
    drift: Callable[[Tensor], Tensor],
    z: Tensor,
    *,
    probes: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Divergence of mu at every particle, for a drift that treats particles one by one.

    Hutchinson: mean over random signs e of e . d(mu . e)/dz, one backward pass each; unbiased, with
    variance 2 sum_{i != j} S_ij^2 / probes per particle, S the symmetric part of the Jacobian.
    Exact: the d diagonal entries by d backward passes.

    Random signs without a generator are refused (ValueError).

    Args:
        drift: (n, d) -> (n, d), differentiable; row i may depend on row i only.
        z: (n, d) Particles.
        probes: Random signs; 0 for exact; None for exact up to d = 16, else 1.
        generator: Where the signs come from.

    Returns:
        (n,) Divergences.

    References:
        Hutchinson, Commun. Stat. Simul. 18 (1989) 1059.

    Examples:
        >>> drift_divergence(lambda x: -x**3, torch.tensor([[1.0, 2.0]]))
        tensor([-15.])
    """
    count = (0 if z.shape[1] <= EXACT_DIMENSION else 1) if probes is None else probes
    signs = _probes(z, count, generator) if count else []
    with torch.enable_grad():
        x = z.detach().requires_grad_()
        value = drift(x)
        if not value.requires_grad:
            return torch.zeros_like(z[:, 0])
        result = torch.zeros_like(z[:, 0])
        if count:
            for sign in signs:
                (pull,) = torch.autograd.grad(value, x, sign, retain_graph=True)
                result += (pull * sign).sum(1) / count
            return result
        for i in range(z.shape[1]):
            (row,) = torch.autograd.grad(value[:, i].sum(), x, retain_graph=True)
            result += row[:, i]
    return result


def ito_divergence(
    diffusion: Callable[[Tensor], Tensor],
    z: Tensor,
    *,
    probes: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """(div D)_i = sum_j d D_ij / d z_j at every particle, what an Itô drift exceeds a flux by.

    Hutchinson: mean over random signs e of the directional derivative of D(z) e along e, two
    backward passes each, unbiased. Exact: sum over unit vectors, d passes.

    Random signs without a generator are refused (ValueError).

    Args:
        diffusion: (n, d) -> (n, d, d), or (n, d) for a diagonal D, differentiable; row i may depend
            on row i only.
        z: (n, d) Particles.
        probes: Random signs; 0 for exact; None for exact up to d = 16, else 1.
        generator: Where the signs come from.

    Returns:
        (n, d) div D.

    References:
        Delong, Balboa Usabiaga, Delgado-Buscalioni, Griffith & Donev, J. Chem. Phys. 140 (2014)
        134110, for the random finite difference this is the limit of.

    Examples:
        >>> ito_divergence(lambda x: 1 + x**2, torch.tensor([[0.5, 2.0]]))  # diagonal
        tensor([[1., 4.]])
    """
    n, d = z.shape
    count = (0 if d <= EXACT_DIMENSION else 1) if probes is None else probes
    if count:
        directions = _probes(z, count, generator)
    else:
        directions = [row.expand(n, d).contiguous() for row in torch.eye(d).to(z)]
    result = torch.zeros_like(z)
    for direction in directions:
        result += _along(diffusion, z, direction)
    return result / len(directions) if count else result


def _along(diffusion: Callable[[Tensor], Tensor], z: Tensor, direction: Tensor) -> Tensor:
    """(n, d) Derivative of D(z) e along e, as a derivative of a backward pass."""
    # Not `torch.func.jvp`, whose first call in a process compiles for seconds.
    with torch.enable_grad():
        x = z.detach().requires_grad_()
        value = diffusion(x)
        if value.dim() == 3:
            value = torch.einsum("nij,nj->ni", value, direction)
        else:
            value = value * direction
        if not value.requires_grad:
            return torch.zeros_like(z)
        weights = torch.zeros_like(value, requires_grad=True)
        (pull,) = torch.autograd.grad(value, x, weights, create_graph=True)
        (change,) = torch.autograd.grad(pull, weights, direction, materialize_grads=True)
    return change
