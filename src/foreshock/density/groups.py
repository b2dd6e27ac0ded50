"""Groups of particles for jackknives, folds and halves."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

#: Why nothing is said of copies.
CLONED = (
    "Many particles are copies of others, so they are not independent and no interval is honest; "
    "keep one of each, or wait until they have moved apart."
)
#: Particles whose neighbours are looked at, and the neighbour that the first is compared with.
ASKED, FAR = 256, 20


@lru_cache(maxsize=16)
def _labels(n: int, groups: int) -> Tensor:
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    return order % groups


def folds(n: int, groups: int, device: torch.device | str = "cpu") -> Tensor:
    """Group of every particle: equal sizes up to one, in an order that is always the same.

    Not every groups-th particle: particles often come in a cyclic order (a class or a well each),
    and groups of one kind each make intervals several times too wide.

    Args:
        n: Particles.
        groups: Groups.
        device: Where the labels are wanted.

    Returns:
        (n,) Numbers 0 to groups - 1.

    Examples:
        >>> folds(6, 3).bincount().tolist()
        [2, 2, 2]
    """
    return _labels(n, groups).to(device)


def copied(z: Tensor) -> bool:
    """Whether more than a tenth or so of the particles are copies of others.

    The nearest of the others must not be 1000 times nearer than the 20th. That happens to 2 % of
    independent particles on a line and to none elsewhere; 256 particles are asked. Copies that have
    moved apart by more than a thousandth of the distance between the others are not seen.

    Cost: 256 n d.

    Args:
        z: (n, d) Particles.

    Returns:
        Whether they are.

    Examples:
        >>> z = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
        >>> copied(z), copied(torch.cat([z, z]))
        (False, True)
    """
    n = len(z)
    if n < 2 * FAR:
        return False
    asked = z[folds(n, max(n // ASKED, 1), z.device) == 0][:ASKED]
    scale = z.std(0).clamp(min=torch.finfo(z.dtype).tiny)
    # Not by a Gram matrix, whose rounding would hide a distance of 0.
    distances = torch.cdist(asked / scale, z / scale, compute_mode="donot_use_mm_for_euclid_dist")
    nearest = distances.topk(FAR + 1, dim=1, largest=False, sorted=True).values
    # The nearest of all is the particle itself.
    share = float((nearest[:, 1] <= 1e-3 * nearest[:, FAR]).double().mean())
    null = 1 - (1 - 1e-3) ** (FAR - 1)
    return share > 0.03 + null + 4 * math.sqrt(null / len(asked))
