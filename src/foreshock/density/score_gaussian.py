"""Gaussian part of a score: shrunk covariance, whitening, and leave-one-out scores in closed form.

Everything of size (d, d) is computed in float64, whatever the particles are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

#: With at most this many particles per dimension, and a few, the covariance is shrunk, by
#: Ledoit-Wolf towards its diagonal. That is not affine invariant and biases correlated clouds (all
#: correlations .9, d = 16, n = 100: no interval held E|s|^2). Where it is not needed it must not
#: act.
SHRINK_BELOW = 2
#: A particle whose leverage is within this of 1 carries a direction of the covariance alone.
LEVERAGE_MARGIN = 1e-6
#: Columns of a covariance at a time.
COLUMNS = 32


@dataclass(frozen=True)
class Gaussian:
    """A Gaussian fitted to particles, as the whitening z -> y = W (z - m) with W' W = Cov^-1.

    Args:
        mean: (d,) m.
        whitening: (d, d) W, lower triangular.
        log_det: log det W.
        shrinkage: Weight of the diagonal in the covariance, in [0, 1].
        n: How many particles it rests on.
    """

    mean: Tensor
    whitening: Tensor
    log_det: float
    shrinkage: float
    n: int

    @property
    def dimension(self) -> int:
        """Number of coordinates, d."""
        return len(self.mean)

    @property
    def hartlap(self) -> float:
        """What makes the inverse covariance unbiased: (n-d-2)/(n-1), less of it when shrunk.

        The factor corrects the noise of the sample covariance, whose share here is 1 - shrinkage.
        """
        return 1 - (1 - self.shrinkage) * (self.dimension + 1) / (self.n - 1)

    def whiten(self, points: Tensor) -> Tensor:
        """(m, d) points to (m, d) whitened points."""
        return (points - self.mean) @ self.whitening.T

    def colour(self, scores: Tensor) -> Tensor:
        """(m, d) scores in whitened coordinates to scores of the points themselves."""
        return scores @ self.whitening


def ledoit_wolf(centred: Tensor) -> float:
    r"""Weight of the identity that minimises the expected squared error of a covariance.

    min(b2, d2)/d2 with d2 = \|S - tr(S)/d I\|^2 and b2 = mean_i \|a_i a_i' - S\|^2 / n.

    Args:
        centred: (n, d) Particles minus their mean; standardised, for a target of the diagonal.

    Returns:
        The weight, in [0, 1].

    References:
        Ledoit & Wolf, J. Multivariate Anal. 88 (2004) 365.

    Examples:
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = torch.randn(200, 50, generator=generator, dtype=torch.float64)
        >>> ledoit_wolf(x - x.mean(0)) > 0.9  # the true covariance is the identity
        True
    """
    n, d = centred.shape
    sample = centred.T @ centred / n
    square = float(sample.square().sum())
    distance = square - float(sample.trace()) ** 2 / d
    noise = (float(centred.square().sum(1).square().mean()) - square) / n
    return min(max(noise, 0.0), distance) / distance if distance > 0 else 1.0


def fit_gaussian(z: Tensor, shrinkage: float | None = None) -> Gaussian | None:
    """Mean and whitening of particles; the covariance is shrunk where n < 2 d + 10.

    Cost O(n d^2 + d^3) in float64.

    Args:
        z: (n, d) Particles.
        shrinkage: Weight of the diagonal; by Ledoit-Wolf if None and n < 2 d + 10.

    Returns:
        The Gaussian, or None if the covariance is singular to working precision.

    References:
        Ledoit & Wolf, J. Multivariate Anal. 88 (2004) 365.

    Examples:
        >>> z = torch.tensor([[0.0], [2.0], [4.0]])
        >>> gaussian = fit_gaussian(z)
        >>> gaussian.whiten(z).flatten().tolist()  # few, but 1-D has nothing to shrink to
        [-1.0, 0.0, 1.0]
    """
    n, d = z.shape
    centred = z.to(torch.float64, copy=True)
    mean = centred.mean(0)
    centred.sub_(mean)
    covariance = _triangle(centred).div_(n - 1)
    variances = covariance.diagonal().clone()
    # Rounding of z itself limits what can be inverted: a direction thinner than that is none.
    # Squares are below 2 m^2 + 2 (n - 1) variances; only a thin cloud far out needs the largest.
    tiny = torch.finfo(z.dtype).eps ** 2
    if not bool((variances > 4 * tiny * mean.square()).all()):
        floor = tiny * z.abs().amax(0).double().square()
        if not bool((variances > floor).all()):
            return None
    scale = variances.sqrt()
    if shrinkage is None:
        shrinkage = ledoit_wolf(centred / scale) if shrinks(n, d) else 0.0
    if shrinkage:
        covariance.mul_(1 - shrinkage).diagonal().add_(variances, alpha=shrinkage)
    # The scale times the factor of the correlations, but for rounding: units do not spoil it.
    factor, info = torch.linalg.cholesky_ex(covariance)
    if int(info) or float((factor.diagonal() / scale).min()) < 1e-7:
        return None
    eye = torch.eye(d, dtype=torch.float64, device=z.device)
    whitening = torch.linalg.solve_triangular(factor, eye, upper=False)
    log_det = -float(factor.diagonal().log().sum())
    return Gaussian(mean.to(z.dtype), whitening.to(z.dtype), log_det, shrinkage, n)


def _triangle(rows: Tensor) -> Tensor:
    """(d, d) Lower triangle of rows' rows, all that a Cholesky factor reads; 0 above the blocks."""
    d = rows.shape[1]
    if d <= COLUMNS:
        return rows.T @ rows
    # By blocks of rows of the upper triangle, which torch multiplies best: .75 of the time at 128.
    upper = rows.new_zeros(d, d)
    for i in range(0, d, COLUMNS):
        torch.mm(rows[:, i : i + COLUMNS].T, rows[:, i:], out=upper[i : i + COLUMNS, i:])
    return upper.T


def shrinks(n: int, d: int) -> bool:
    """Whether so few particles are shrunk by default."""
    return d > 1 and n < SHRINK_BELOW * d + 10


def square_bias(n: int, d: int) -> float:
    r"""E[s.Ds] of leave-one-out scores over its truth, exactly, for Gaussian clouds unshrunk.

    By the second moment of an inverse Wishart matrix with v = n - 2 degrees of freedom,
    E[W^-2] = (v-1)/((v-d)(v-d-1)(v-d-3)): (v-1)(v-d-1)/((v-d)(v-d-3)) n/(n-1), about 1 + (d+2)/n.
    The same for every covariance, mean and D.

    Args:
        n: Particles.
        d: Dimension.

    Returns:
        The factor; nan where n <= d + 5, its mean does not exist.

    References:
        von Rosen, Scand. J. Stat. 15 (1988) 97.

    Examples:
        >>> round(square_bias(512, 32), 4)
        1.0714
    """
    v = n - 2
    if v - d - 3 <= 0:
        return float("nan")
    return (v - 1) * (v - d - 1) / ((v - d) * (v - d - 3)) * n / (n - 1)


def log_bias(n: int, d: int) -> float:
    r"""E of leave-one-out log densities less their truth, exactly, for Gaussian clouds unshrunk.

    -(E log det S/Sigma + E[\|z - m\|^2_S] - d)/2 with v = n - 2 degrees of freedom: log det gives
    sum_j psi((v - j + 1)/2) + d log(2/v), the square v d/(v - d - 1) n/(n - 1). About -d^2/(4 n).

    Args:
        n: Particles.
        d: Dimension.

    Returns:
        The bias, negative; nan where n <= d + 3.

    Examples:
        >>> round(log_bias(1000, 1), 5)
        -0.001
    """
    v = n - 2
    if v - d - 1 <= 0:
        return float("nan")
    digamma = torch.digamma((v - torch.arange(d, dtype=torch.float64)) / 2)
    log_det = float((digamma + math.log(2 / v)).sum())
    return -0.5 * (log_det + v * d / (v - d - 1) * n / (n - 1) - d)


def leave_one_out(gaussian: Gaussian, squares: Tensor) -> tuple[Tensor, Tensor, float]:
    r"""Scores and divergences of the Gaussians without particle i, at particle i, whitened.

    With leverage q_i = |y_i|^2 n (1-a)/(n-1)^2 (a: shrinkage) the rank-one downdate gives
    s_i = -H c y_i/(1 - q_i), c = n (n-2)/(n-1)^2 and H the Hartlap factor at n - 1: every score is
    its particle times a number. Exact for a = 0; otherwise the shrinkage is kept as fitted. Then
    E[s_i . (z_i - m)] = -d exactly for Gaussian particles.

    Args:
        gaussian: The fit to all particles.
        squares: (n,) |y_i|^2 of the particles, whitened by it.

    Returns:
        (n,) Factors f of the scores s_i = f_i y_i, their divergences (n,), the largest leverage.

    Examples:
        >>> z = torch.tensor([[-1.0], [0.0], [1.0], [3.0]])
        >>> gaussian = fit_gaussian(z)
        >>> factors, _, _ = leave_one_out(gaussian, gaussian.whiten(z).square().sum(1))
        >>> without = fit_gaussian(z[:3])  # N(0, 1), Hartlap factor 0
        >>> float(factors[3]), without.hartlap
        (-0.0, 0.0)
    """
    n, d = gaussian.n, gaussian.dimension
    kept = 1 - gaussian.shrinkage
    leverage = squares * (kept * n / (n - 1) ** 2)
    room = (1 - leverage).clamp_(min=LEVERAGE_MARGIN)
    hartlap = 1 - kept * (d + 1) / (n - 2)
    factors = (-hartlap * n * (n - 2) / (n - 1) ** 2) / room
    divergence = (leverage / room).add_(d).mul_(-hartlap * (n - 2) / (n - 1))
    return factors, divergence, float(leverage.max())
