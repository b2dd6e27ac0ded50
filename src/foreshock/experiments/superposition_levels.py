"""The toy model of superposition in expectation: its exact loss, its levels, and plateaus.

For f(x) = ReLU(W'Wx + b) with W of 2 by 6 and x = mu e_i, i uniform and mu uniform in [0, 1]. The
levels are critical points of the expected loss, the regular polygons of Chen et al. 2023,
arXiv 2310.06301.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

FEATURES, HIDDEN = 6, 2
#: A plateau: at least so many epochs in which the loss changes by less than this share.
LENGTH, CHANGE = 200, 0.01
#: Two plateaus with a drop between them differ by at least this share.
DROP = 0.03
RULE = (
    "first epoch with a loss below the middle of two successive plateaus that differ by at least "
    "3 %; a plateau is at least 200 epochs in which the loss changes by less than 1 %"
)


def expected_loss(weight: Tensor, bias: Tensor) -> Tensor:
    """The loss in expectation over x = mu e_i, exactly and differentiably.

    Output j of feature i is the positive part of g mu + b, g = (W'W)_ij. Where it is positive, an
    interval of mu, the squared error is (g mu + b - delta mu)^2, elsewhere delta mu^2. Both are
    equal at the ends of that interval, so that its ends need no derivative.

    Args:
        weight: W, ``(m, n)``.
        bias: b, ``(n,)``.

    Returns:
        The loss, a scalar.

    Examples:
        A silent feature costs E mu^2 / 6 = 1/18; six cost 1/3.

        >>> round(float(expected_loss(torch.zeros(2, 6), -torch.ones(6))), 6)
        0.333333
    """
    gram = weight.T @ weight
    same = torch.eye(len(bias), dtype=weight.dtype)
    with torch.no_grad():
        root = (-bias / torch.where(gram == 0, 1, gram)).clamp(0, 1)
        low = torch.where(gram > 0, root, 0)
        high = torch.where(gram < 0, root, 1)
        high = torch.where((gram == 0) & (bias <= 0), 0, high)
    slope = gram - same

    def antiderivative(mu: Tensor) -> Tensor:
        return (slope**2 - same) * mu**3 / 3 + slope * bias * mu**2 + bias**2 * mu

    return (antiderivative(high) - antiderivative(low) + same / 3).sum() / len(bias)


@dataclass(frozen=True)
class Level:
    """A critical point of the expected loss.

    Args:
        name: ``5+`` is a pentagon with one of the other features at the bias 1/12.
        loss: Its expected loss.
        corners: k, features on the polygon.
        positive: How many of the others have the bias 1/12; the rest are dead.
        norm: Of the represented features.
        bias: Of the represented features.
    """

    name: str
    loss: float
    corners: int
    positive: int
    norm: float
    bias: float

    @property
    def point(self) -> tuple[Tensor, Tensor]:
        """W and b."""
        shape = torch.tensor([self.norm, self.bias], dtype=torch.float64)
        return polygon(shape, self.corners, self.positive)


def polygon(shape: Tensor, corners: int, positive: int) -> tuple[Tensor, Tensor]:
    """W and b of a regular polygon.

    Args:
        shape: Norm and bias of the represented features, ``(2,)``.
        corners: k.
        positive: Silent features with the bias 1/12; the others have -1.

    Returns:
        W ``(2, 6)`` and b ``(6,)``.
    """
    angle = 2 * math.pi / corners * torch.arange(corners, dtype=shape.dtype)
    silent = FEATURES - corners
    weight = torch.cat(
        [shape[0] * torch.stack([angle.cos(), angle.sin()]), shape.new_zeros(2, silent)], 1
    )
    rest = torch.full((silent,), -1.0, dtype=shape.dtype)
    rest[:positive] = 1 / 12
    return weight, torch.cat([shape[1].expand(corners), rest])


@functools.cache
def levels() -> tuple[Level, ...]:
    """Regular polygons of 2 to 6 corners with any number of positive biases, lowest loss first.

    Up to four corners every angle is at least a right one: the norm 1 and the bias 0 represent
    without loss. A pentagon or hexagon interferes with itself; its norm and bias minimise the loss,
    and by symmetry that minimum is a critical point in all 18 parameters.

    Returns:
        The levels.

    Examples:
        >>> {level.name: round(level.loss, 4) for level in levels() if level.corners > 3}
        {'6': 0.0482, '5+': 0.0618, '5': 0.0687, '4++': 0.0972, '4+': 0.1042, '4': 0.1111}
    """
    from scipy.optimize import minimize

    def value_and_gradient(at: ArrayLike, corners: int) -> tuple[float, Any]:
        shape = torch.tensor(at, dtype=torch.float64, requires_grad=True)
        loss = expected_loss(*polygon(shape, corners, 0))
        (slope,) = torch.autograd.grad(loss, shape)
        return loss.item(), slope.numpy()

    found = []
    for corners in range(2, FEATURES + 1):
        norm, bias = 1.0, 0.0
        if corners > 4:
            best = minimize(value_and_gradient, [1.2, -0.3], (corners,), jac=True,
                            options={"gtol": 1e-10})  # fmt: skip
            norm, bias = map(float, best.x)
        for positive in range(FEATURES - corners + 1):
            at = polygon(torch.tensor([norm, bias], dtype=torch.float64), corners, positive)
            loss = float(expected_loss(*at))
            found.append(Level(f"{corners}{'+' * positive}", loss, corners, positive, norm, bias))
    return tuple(sorted(found, key=lambda level: level.loss))


def nearest(loss: float) -> Level:
    """The level nearest to an expected loss."""
    return min(levels(), key=lambda level: abs(level.loss - loss))


def plateaus(loss: ArrayLike) -> list[tuple[int, int]]:
    """Stretches of at least 200 epochs in which the loss changes by less than 1 %, from the left.

    Args:
        loss: Of every epoch; it may not rise.

    Returns:
        First epoch and the one after the last of each.

    Examples:
        >>> plateaus([1.0] * 300 + [0.9, 0.8] + [0.5] * 250)
        [(0, 300), (302, 552)]
    """
    falling = -np.minimum.accumulate(np.asarray(loss, dtype=float))  # increasing: can be searched
    found, start = [], 0
    while start < len(falling):
        stop = int(np.searchsorted(falling, falling[start] * (1 - CHANGE), "right"))
        if stop - start >= LENGTH:
            found.append((start, stop))
            start = stop
        else:
            start += 1
    return found


def drops(loss: ArrayLike) -> list[int]:
    """The drops between plateaus: `RULE`.

    Args:
        loss: Of every epoch.

    Returns:
        Epochs.

    Examples:
        >>> drops([1.0] * 300 + [0.9, 0.8, 0.7] + [0.5] * 250)
        [302]
    """
    value = np.asarray(loss, dtype=float)
    middles = [float(np.median(value[start:stop])) for start, stop in plateaus(value)]
    return [
        int((value < (high + low) / 2).argmax())
        for high, low in zip(middles, middles[1:], strict=False)
        if low < high * (1 - DROP)
    ]
