"""How stiff a potential is: the largest curvature, which limits the step of explicit schemes."""

from __future__ import annotations

import torch
from torch import Tensor

from foreshock.simulators.fields import times
from foreshock.simulators.potentials import Potential

#: Points at which the curvature is looked at before a run.
LOOKS = 32
#: Dimensions up to which Hessians are decomposed: 2 MB each in float64.
_DENSE = 512
#: Power iterations on each of the two spectra.
_ITERATIONS = 30


def largest_curvature(potential: Potential, x: Tensor, root: float | Tensor = 1.0) -> float:
    r"""Largest eigenvalue of R Hess U R over at most 32 evenly spaced points and the minima.

    `potential.minima` are looked at where they exist, because particles go there wherever they
    start: at the top of a barrier the curvature is negative and no step is too long. What lies
    between or beyond is not seen.

    By the eigenvalues of the Hessian up to d = 512. Above by 30 power iterations on differences of
    the gradient, and by 30 more on the spectrum shifted up by the largest modulus, without which a
    large negative curvature would hide the positive ones: a lower bound, which converges slowly
    where the top of the spectrum is crowded.

    Args:
        potential: U.
        x: (n, d) Points.
        root: R, symmetric: a number, a diagonal (d,), or a matrix (d, d); sqrt(2 T M) for rates.

    Returns:
        The eigenvalue, in units of U / x^2 times R^2.

    Examples:
        >>> from foreshock.simulators.potentials import DoubleWell
        >>> largest_curvature(DoubleWell(), torch.tensor([[0.0]]))  # 8 in its wells, -4 here
        8.0
    """
    points = x[:: max(1, -(-len(x) // LOOKS))].double()
    d = points.shape[1]
    minima = getattr(potential, "minima", ())
    if minima:
        points = torch.cat([points, points.new_tensor(minima)])
    if d > _DENSE:
        return _by_powers(potential, points, root)
    r = torch.as_tensor(root, dtype=torch.float64, device=points.device)
    r = r if r.ndim == 2 else torch.diag(r.expand(d))
    if d <= 32:  # 32 Hessians at once; larger ones point by point, for the sake of memory
        return float(torch.linalg.eigvalsh(r @ potential.hessian(points) @ r).max())
    tops = [torch.linalg.eigvalsh(r @ potential.hessian(p) @ r)[-1] for p in points]
    return float(torch.stack(tops).max())


def _by_powers(potential: Potential, points: Tensor, root: float | Tensor) -> float:
    """The largest of the Rayleigh quotients of all iterations, each of which is a lower bound."""
    d = points.shape[1]
    start = torch.cos(torch.arange(d, dtype=torch.float64, device=points.device))
    start = (start / start.norm()).expand(points.shape)
    step = 1e-6 * (1 + points.norm(dim=1, keepdim=True))  # ~ eps^(1/3) of a central difference

    def curved(direction: Tensor) -> Tensor:
        along = step * times(direction, root)
        slope = potential.gradient(points + along) - potential.gradient(points - along)
        return times(slope / (2 * step), root)

    best = torch.full_like(points[:, 0], -torch.inf)
    shift = torch.zeros_like(step)
    for _ in range(2):
        direction, size = start, shift
        for _ in range(_ITERATIONS):
            image = curved(direction)
            best = torch.maximum(best, (direction * image).sum(1))
            image = image + shift * direction
            size = image.norm(dim=1, keepdim=True)
            direction = image / size.clamp_min(1e-300)
        shift = size
    return float(best.max())
