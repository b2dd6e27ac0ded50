"""Whether a whitened cloud is Gaussian: its third and fourth moments against their exact nulls.

A score that fits mean and covariance satisfies Stein's identity whatever the cloud is, so that
identity cannot tell a Gaussian cloud from another one. These moments can, at the cost of one
more covariance.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: Directions and iterations of the search for a flat projection, and the largest d it is made at.
STARTS, ITERATIONS, MOST_PURSUED = 8, 3, 32


def departures(y: Tensor) -> tuple[float, float]:
    r"""How far skewness and kurtosis lie from those of Gaussian clouds, in standard errors.

    Invariant under z -> A z, since a whitened cloud is known up to a rotation. Skewness is
    \|E[\|y\|^2 y]\|^2 (d numbers, chi-square). Kurtosis is the largest of Mardia's E\|y\|^4, with
    its exact mean and variance at finite n and d; of the traceless part of E[\|y\|^2 y y'], which
    sees a direction that differs from the others; and of the least kurtosis of any projection,
    found from the lowest eigenvectors of that matrix, which sees two wells along one of many
    directions (+-2, n = 512: always at d = 8, mostly at 16, not at 32). Chi-squares become normal
    by the cube root. Cost n d^2, and 64 n d for the projections.

    Args:
        y: (n, d) Particles, whitened by their own covariance (divisor n - 1).

    Returns:
        Both numbers; for Gaussian particles about N(0, 1) and, the largest of three, below 4.

    References:
        Mardia, Biometrika 57 (1970) 519; Mori, Rohatgi & Szekely, Theory Probab. Appl. 38 (1993)
        547; Hyvarinen, IEEE Trans. Neural Netw. 10 (1999) 626; Wilson & Hilferty, PNAS 17 (1931)
        684.

    Examples:
        >>> y = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0))
        >>> skewness, kurtosis = departures(y)
        >>> skewness < 3, kurtosis < 3
        (True, True)
        >>> departures(y.exp())[0] > 30
        True
    """
    n, d = y.shape
    if n <= d + 3:
        return math.nan, math.nan
    radii = y.square().sum(1)
    # Both products at once; what |y|^2 - d leaves out is what whitening has fixed (0 and 1).
    moments = (y * (radii - d)[:, None]).T @ y
    third = (radii @ y).double() / n
    spread = float(radii.double().square().mean())
    small = n / (n - 1)  # from the divisor n - 1 to n, for which the nulls are written
    # Finite-size shares of the asymptotic variances 2 (d + 2)/n and 2 (d + 4)/n.
    room = 1 - d / n
    third_null = 2 * (d + 2) / n * room
    skewness = _normal(float(third.square().sum()) * small**3 / third_null, d)
    mean = d * (d + 2) * (n - 1) / (n + 1)
    variance = 8 * d * (d + 2) * (n - 3) / (n + 1) ** 2 * (n - d - 1) / (n + 3) * (n - d + 1)
    kurtosis = abs(spread * small**2 - mean) / math.sqrt(variance / (n + 5))
    if d > 1:
        fourth = moments.double() * (small**2 / n)
        square = float(fourth.square().sum()) - float(fourth.trace()) ** 2 / d
        count = (d - 1) * (d + 2) / 2
        square /= 4 * (d + 4) / n * room * count
        # Fourth moments of few particles scatter more than a chi-square: its variance is larger by
        # 1.5 at (n, d) = (512, 2), 2.9 at (100, 16), 3.8 at (512, 32), 5.6 at (160, 64).
        count /= 1 + 2 * d / math.sqrt(n)
        kurtosis = max(kurtosis, _normal(square * count, count))
        if d <= MOST_PURSUED:
            kurtosis = max(kurtosis, _flattest(y, moments))
    return skewness, kurtosis


def _flattest(y: Tensor, moments: Tensor) -> float:
    """Least kurtosis of a projection, scaled so that 4 is where none of a Gaussian cloud lies."""
    n, d = y.shape
    # Without structure the least of many directions lies at -2.8, -3.0, -4.2 and -5.2 sqrt(24/n) in
    # the worst of 40 to 200 clouds of d = 2, 4, 8 and 16.
    axes = torch.linalg.eigh(moments / n).eigenvectors[:, :STARTS]
    for _ in range(ITERATIONS):
        along = y @ axes
        axes = y.T @ (along * along * along) / n - 3 * axes
        axes = axes / torch.linalg.vector_norm(axes, dim=0)
    along = (y @ axes).square()
    least = float((along.square().mean(0) / along.mean(0).square()).min()) - 3
    return -4 * least / math.sqrt(24 / n) / (2.3 + 0.75 * math.sqrt(d))


def _normal(square: float, count: float) -> float:
    """Chi-square of `count` degrees of freedom to a standard normal number."""
    width = 2 / (9 * count)
    return (max(square, 0.0) / count) ** (1 / 3) / math.sqrt(width) - (1 - width) / math.sqrt(width)
