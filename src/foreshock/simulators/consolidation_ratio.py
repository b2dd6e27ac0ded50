"""The corrected consolidation ratio of replicas, and what it says about their mean loss."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from foreshock.density import fdt_ratio
from foreshock.simulators.potentials import Potential
from foreshock.types import Estimate

#: Replicas below which a ratio has no interval.
_REPLICAS = 8


def laplacian(potential: Potential, theta: Tensor) -> Tensor:
    """Trace of the Hessian at every replica, exactly, a few replicas at a time.

    Args:
        potential: The loss.
        theta: (n, d) Parameters.

    Returns:
        (n,) Traces. Memory: at most about 16 million numbers at once, or one Hessian.

    Examples:
        >>> from foreshock.simulators.potentials import Quadratic
        >>> laplacian(Quadratic(3.0, dimension=2), torch.zeros(1, 2)).tolist()
        [6.0]
    """
    rows = max(1, 2**24 // theta.shape[1] ** 2)
    return torch.cat(
        [potential.hessian(x).diagonal(dim1=-2, dim2=-1).sum(-1) for x in theta.split(rows)]
    )


def consolidation(gradients: Tensor, laplacian: Tensor, temperature: float) -> Estimate:
    r"""The corrected consolidation ratio: E|grad L|^2/(T E[lap L]), over replicas.

    `foreshock.density.fdt_ratio` with the refusals of a training run and its null: above 1 the mean
    loss falls, at 1 it rests, below 1 it rises. Dimensionless, unlike the published
    |grad L|^2/(D d), which rests at tr(H)/d.

    Args:
        gradients: (n, d) grad L of each replica, one time.
        laplacian: (n,) Trace of the Hessian there.
        temperature: T.

    Returns:
        The ratio with its 95 % interval and the null (1, 1); missing where T = 0, where the mean
        curvature is not positive, or with fewer than 8 replicas.

    References:
        Yaida, ICLR 2019.

    Examples:
        >>> z = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0)) * 0.5**0.5
        >>> consolidation(z, torch.full((4000,), 3.0), temperature=0.5).resolved
        True
    """
    if not temperature > 0:
        return Estimate.missing("The temperature is 0: there is no noise to compare with.")
    n = len(gradients)
    if n < _REPLICAS:
        return Estimate.missing(f"{n} replicas; an interval needs {_REPLICAS}. Run more of them.")
    if not bool(torch.isfinite(gradients).all() and torch.isfinite(laplacian).all()):
        return Estimate.missing("A gradient or a curvature is not finite.")
    if not float(laplacian.double().sum()) > 0:
        return Estimate.missing("The mean curvature is not positive: there is no rest to compare.")
    return replace(fdt_ratio(gradients, laplacian, temperature), null=(1.0, 1.0))


def regime(ratio: Estimate) -> str:
    """What the corrected ratio says about the mean loss.

    Args:
        ratio: From `consolidation`.

    Returns:
        ``"falling"``, ``"stationary"`` (the interval holds 1), ``"rising"`` or ``"unresolved"``.

    Examples:
        >>> regime(Estimate(1.3, 1.1, 1.5)), regime(Estimate(1.02, 0.97, 1.07))
        ('falling', 'stationary')
    """
    if not ratio.resolved:
        return "unresolved"
    if ratio.low > 1:
        return "falling"
    return "rising" if ratio.high < 1 else "stationary"
