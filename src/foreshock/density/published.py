"""fokker_planck.md's observables, exactly as written, so that its claims can be tested.

Plain numbers and tensors, fixed bandwidth, self terms and added 1e-10 included. Each docstring says
what is wrong; `tests/published/test_fokker_planck_density.py` shows it by a number. Nothing here is
recommended for use: the corrected quantities are `fit_score`, `flow`, `flux` and `w2`.

All take O(n^2 d) time and build one (n, n) matrix per call, not the published (n, n, d).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def _kernel(queries: Tensor, particles: Tensor, bandwidth: float) -> Tensor:
    """(m, n) exp(-|q - z|^2/2h^2) from explicit differences, one coordinate at a time."""
    square = queries.new_zeros(len(queries), len(particles))
    for i in range(queries.shape[1]):
        square += (queries[:, i, None] - particles[None, :, i]).square()
    return torch.exp(-square / (2 * bandwidth**2))


def _constant(n: int, d: int, bandwidth: float) -> float:
    return n * (2 * math.pi * bandwidth**2) ** (d / 2)


def rho_fp(z: Tensor, bandwidth: float = 0.1) -> Tensor:
    r"""Kernel density at the particles, self term kept: sum_j K_h(z_i - z_j)/n. fokker_planck.md.

    **Wrong with it**: h = .1 is in the units of z, and at that h the self term is all there is from
    d = 8 on (N(0, I), n = 2048): rho is a constant. It is infinite in float32 where
    n (2 pi h^2)^(d/2) is below 3e-39: there from d = 70 on, and from d = 66 with n = 8.

    Args:
        z: (n, d) Particles.
        bandwidth: h.

    Returns:
        (n,) Density.

    Examples:
        >>> rho_fp(torch.zeros(1, 1), 1.0)
        tensor([0.3989])
    """
    n, d = z.shape
    return _kernel(z, z, bandwidth).sum(1) / _constant(n, d, bandwidth)


def grad_rho_code_fp(z: Tensor, bandwidth: float = 0.1, step: float = 1e-4) -> Tensor:
    r"""Density gradient as coded: (rho(z + eps e_i) - rho(z))/eps, ALL particles shifted.

    fokker_planck.md 12.1, `consolidation_ratio` and `_compute_flux`.

    **Wrong with it**: a kernel density moves with its particles, so the true answer is 0 and what
    is returned is rounding noise over eps: its size depends on the float type.

    Args:
        z: (n, d) Particles.
        bandwidth: h.
        step: eps.

    Returns:
        (n, d) Rounding noise.

    Examples:
        >>> z = torch.tensor([[0.0], [0.1]], dtype=torch.float64)
        >>> bool(grad_rho_code_fp(z).abs().max() < 1e-7)
        True
    """
    base = rho_fp(z, bandwidth)
    columns = []
    for i in range(z.shape[1]):
        moved = z.clone()
        moved[:, i] += step
        columns.append((rho_fp(moved, bandwidth) - base) / step)
    return torch.stack(columns, -1)


def grad_rho_queries_fp(z: Tensor, bandwidth: float = 0.1, step: float = 1e-4) -> Tensor:
    r"""What that code means: the same with only the query shifted. fokker_planck.md 12.1.

    **Wrong with it**: a one-sided difference of a density with its self term, which pulls the
    gradient towards 0 everywhere; in float32 it still holds rounding noise of eps_machine rho/eps.

    Args:
        z: (n, d) Particles.
        bandwidth: h.
        step: eps.

    Returns:
        (n, d) grad rho.

    Examples:
        >>> z = torch.tensor([[0.0], [0.1]], dtype=torch.float64)
        >>> bool(grad_rho_queries_fp(z)[0, 0] > 1)
        True
    """
    n, d = z.shape
    base = rho_fp(z, bandwidth)
    columns = []
    for i in range(d):
        moved = z.clone()
        moved[:, i] += step
        shifted = _kernel(moved, z, bandwidth).sum(1) / _constant(n, d, bandwidth)
        columns.append((shifted - base) / step)
    return torch.stack(columns, -1)


def entropy_gradient_code_fp(z: Tensor, bandwidth: float = 0.1) -> Tensor:
    r"""Gradient of the entropy as coded: -grad rho (1 + log rho). fokker_planck.md 12.1.

    **Wrong with it**: the velocity field of the entropy is -grad log rho. This one has another
    unit, and turns round where rho = 1/e, so a change of unit changes its sign.

    Args:
        z: (n, d) Particles.
        bandwidth: h.

    Returns:
        (n, d).

    Examples:
        >>> entropy_gradient_code_fp(torch.tensor([[0.0], [1.0]]), 1.0)
        tensor([[ 0.0167],
                [-0.0167]])
    """
    gradient, density = _analytic(z, bandwidth)
    return -gradient * (1 + torch.log(density + 1e-10))[:, None]


def entropy_gradient_text_fp(z: Tensor, bandwidth: float = 0.1) -> Tensor:
    r"""The same as the text has it: -grad rho (1 + log rho)/rho. fokker_planck.md 3.2.

    **Wrong with it**: -grad log rho times (1 + log rho): right only where rho = 1, in any unit.
    And in the drift -eta lambda (...) even the right field would climb the density.

    Args:
        z: (n, d) Particles.
        bandwidth: h.

    Returns:
        (n, d).

    Examples:
        >>> entropy_gradient_text_fp(torch.tensor([[0.0], [1.0]]), 1.0)
        tensor([[ 0.0521],
                [-0.0521]])
    """
    gradient, density = _analytic(z, bandwidth)
    return -gradient * (1 + torch.log(density))[:, None] / density[:, None]


def _analytic(z: Tensor, bandwidth: float) -> tuple[Tensor, Tensor]:
    """Gradient of the kernel density by its formula, and the density."""
    n, d = z.shape
    constant = _constant(n, d, bandwidth)
    kernel = _kernel(z, z, bandwidth)
    columns = [
        -(kernel * (z[:, i, None] - z[None, :, i])).sum(1) / (bandwidth**2 * constant)
        for i in range(d)
    ]
    return torch.stack(columns, -1), kernel.sum(1) / constant


def c_fp(drift: Tensor, diffusion: Tensor, grad_rho: Tensor) -> float:
    r"""Consolidation ratio \|mu\|/\|D grad rho\|, norms over all particles. fokker_planck.md 7.1.

    **Wrong with it**: a velocity over a flux: it has the unit of a volume and changes by 2^d under
    z -> 2 z. `flow` has the dimensionless form.

    Args:
        drift: (n, d) mu.
        diffusion: (n, d, d) D.
        grad_rho: (n, d) By either of the two.

    Returns:
        C.

    Examples:
        >>> c_fp(torch.ones(1, 1), torch.ones(1, 1, 1), torch.full((1, 1), 0.5))
        2.0
    """
    carried = torch.einsum("nij,nj->ni", diffusion, grad_rho)
    return float((drift.norm() + 1e-8) / (carried.norm() + 1e-8))


def j_fp(drift: Tensor, diffusion: Tensor, rho: Tensor, grad_rho: Tensor) -> Tensor:
    r"""Flux mu rho - D grad rho. fokker_planck.md 7.2.

    **Wrong with it**: as a formula right for constant D only (Itô: - rho div D is missing); as code
    it is mu rho, since the coded grad rho is noise. "div J = 0" is stationarity, not an attractor.

    Args:
        drift: (n, d) mu.
        diffusion: (n, d, d) D.
        rho: (n,).
        grad_rho: (n, d).

    Returns:
        (n, d) J.

    Examples:
        >>> one = torch.ones(1, 1)
        >>> j_fp(2 * one, one[None], torch.ones(1), one)
        tensor([[1.]])
    """
    return drift * rho[:, None] - torch.einsum("nij,nj->ni", diffusion, grad_rho)


def s_dot_fp(rho: Tensor, entropy_gradient: Tensor, flux: Tensor) -> float:
    r"""Entropy production as mean_i J_i . grad log rho_i, as coded. fokker_planck.md 12.1.

    grad log rho is taken as -entropy_gradient/(1 + log rho + 1e-10), rho with 1e-10 added.

    **Wrong with it**: int J . grad log rho is -dH/dt, zero in a driven steady state; as an average
    over particles it has rho twice; what is called grad log rho is grad rho; and there is a pole at
    rho = 1/e.

    Args:
        rho: (n,) Density.
        entropy_gradient: (n, d) By `entropy_gradient_code_fp`.
        flux: (n, d) J.

    Returns:
        S_dot.

    Examples:
        >>> s_dot_fp(torch.ones(1), torch.ones(1, 1), torch.ones(1, 1))
        -1.0
    """
    logs = torch.log(rho + 1e-10)
    gradient = -entropy_gradient / (1 + logs[:, None] + 1e-10)
    return float((flux * gradient).sum(-1).mean())


def t_eff_fp(drift: Tensor, diffusion: Tensor) -> Tensor:
    r"""Effective temperature Tr(D)/\|mu\| at every particle. fokker_planck.md 6.1.

    **Wrong with it**: a length, not a temperature, so loss/T_eff has a unit; and infinite at a
    minimum, where mu = 0. For mu = -eta grad L it is T = D/eta.

    Args:
        drift: (n, d) mu.
        diffusion: (n, d, d) D.

    Returns:
        (n,) T_eff.

    Examples:
        >>> t_eff_fp(torch.tensor([[3.0, 4.0]]), torch.eye(2)[None])
        tensor([0.4000])
    """
    return diffusion.diagonal(dim1=1, dim2=2).sum(1) / drift.norm(dim=1)


def div_j_fp(z: Tensor, flux: Callable[[Tensor], Tensor], step: float = 1e-4) -> Tensor:
    r"""Flux divergence by central differences of a recomputed flux. fokker_planck.md 11.1.

    **Wrong with it**: all particles are shifted, so what is differentiated is the drift along a
    rigid motion of the cloud: rho div mu, without rho's own gradient and without diffusion.

    Args:
        z: (n, d) Particles.
        flux: (n, d) -> (n, d), the whole pipeline.
        step: eps.

    Returns:
        (n,).

    Examples:
        >>> div_j_fp(torch.ones(2, 2, dtype=torch.float64), lambda z: z).round(decimals=6)
        tensor([2., 2.], dtype=torch.float64)
    """
    total = torch.zeros_like(z[:, 0])
    for i in range(z.shape[1]):
        forward, backward = z.clone(), z.clone()
        forward[:, i] += step
        backward[:, i] -= step
        total += (flux(forward)[:, i] - flux(backward)[:, i]) / (2 * step)
    return total


def c_wrapper_fp(
    z: Tensor, gradient: Tensor | None, t: float, bandwidth: float = 0.1, eta_0: float = 0.01
) -> float:
    r"""C(t) of the PyTorch wrapper: \|parameter gradient\|/(eta_0 e^{-t/500} \|grad rho\| + 1e-8).

    fokker_planck.md 12.2; 1.0 without a gradient, as there.

    **Wrong with it**: a norm in parameter space over one in latent space, so C scales with the loss
    and the width of the network; a learning rate stands for D; t is a step here and a time there;
    1.0 hides missing data.

    Args:
        z: (n, d) Latents.
        gradient: All parameter gradients, flattened, or None.
        t: Training step.
        bandwidth: h.
        eta_0: Learning rate, used as D_0.

    Returns:
        C.

    Examples:
        >>> c_wrapper_fp(torch.zeros(2, 1), None, 0)
        1.0
    """
    if gradient is None:
        return 1.0
    slope, _ = _analytic(z, bandwidth)
    diffusion = eta_0 * math.exp(-t / 500.0)
    return float(gradient.norm()) / (diffusion * float(slope.norm()) + 1e-8)


__all__ = [
    "c_fp",
    "c_wrapper_fp",
    "div_j_fp",
    "entropy_gradient_code_fp",
    "entropy_gradient_text_fp",
    "grad_rho_code_fp",
    "grad_rho_queries_fp",
    "j_fp",
    "rho_fp",
    "s_dot_fp",
    "t_eff_fp",
]
