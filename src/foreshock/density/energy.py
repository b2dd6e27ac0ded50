"""Entropy and free energy of a cloud of particles, and fluctuation against dissipation."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from foreshock.density.diffusion_tensor import row_products
from foreshock.density.groups import CLONED, copied
from foreshock.density.jackknife import BAD, groups_without, jackknife, refit
from foreshock.density.score import Score
from foreshock.density.score_gaussian import log_bias
from foreshock.stats.intervals import Z95, fieller
from foreshock.types import Estimate, Flag


def entropy(score: Score, *, refits: int = 20) -> Estimate:
    """Differential entropy H = -E log rho in nats, by leave-one-out log densities.

    Bias-corrected and barred by the jackknife as in `flow`. H of z in another unit is shifted.

    Args:
        score: Of a method with a density: gaussian, kde, mixture, or residual without a kernel.
        refits: Groups of the jackknife, at least 5.

    Returns:
        H; refused with a sentence where the score is invalid or has no density.

    Examples:
        >>> from foreshock.density import fit_score
        >>> z = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0))
        >>> h = entropy(fit_score(z))
        >>> h.low < 1 + math.log(2 * math.pi) < h.high
        True
    """
    return _log_mean(score, torch.zeros_like(score.particles[:, 0]), -1.0, refits)


def free_energy(
    score: Score, energies: Tensor, temperature: float, *, refits: int = 20
) -> Estimate:
    """Free energy F = E[U] - T H, at least -T log Z, with equality for exp(-U/T)/Z only.

    One jackknife over both terms: near equilibrium U + T log rho is almost constant, so F is known
    far better than either.

    Args:
        score: Of a method with a density.
        energies: (n,) U at the particles.
        temperature: T > 0.
        refits: Groups of the jackknife, at least 5.

    Returns:
        F in units of U; refused with a sentence where there is no density.

    Raises:
        ValueError: If `temperature` is not positive and finite, or `energies` does not fit or is
            not finite.

    References:
        Jordan, Kinderlehrer & Otto, SIAM J. Math. Anal. 29 (1998) 1.

    Examples:
        >>> from foreshock.density import fit_score
        >>> z = torch.randn(2000, 1, generator=torch.Generator().manual_seed(0))
        >>> f = free_energy(fit_score(z), z.square().sum(1) / 2, 1.0)
        >>> abs(f.value + math.log(2 * math.pi) / 2) < 0.01
        True
    """
    if not 0 < temperature < math.inf:
        raise ValueError(
            f"The `temperature` of `free_energy` must be positive and finite. Got {temperature}."
        )
    if energies.shape != score.particles[:, 0].shape:
        raise ValueError(
            f"The `energies` of `free_energy` must have the shape ({len(score.particles)},), one a "
            f"particle. Got {tuple(energies.shape)}."
        )
    if broken := int((~torch.isfinite(energies.detach())).sum()):
        raise ValueError(
            f"The `energies` of `free_energy` must be finite. Got nan or inf at {broken} of "
            f"{len(energies)} particles: they are where U is not defined, or overflows."
        )
    return _log_mean(score, energies.detach(), temperature, refits)


def _log_mean(score: Score, energies: Tensor, temperature: float, refits: int) -> Estimate:
    """E[U + T log rho]; with U = 0 and T = -1 that is the entropy."""
    n = len(score.particles)
    if copied(score.particles):
        return Estimate.missing(CLONED, flags=BAD, n=n)
    if not score.validity.valid:
        return Estimate.missing(score.validity.reason, flags=BAD, n=n)
    if score.log_values is None:
        return Estimate.missing(
            "A Gaussian with an active kernel residual has no normalised density; "
            "fit with method 'mixture', or 'kde' for d <= 3.",
            n=n,
        )
    # The one bias known exactly; the jackknife takes others to first order in d^2/n.
    exact = score.method != "mixture" and not score.selection.weight
    exact = exact and not score.selection.shrinkage

    def mean(values: Tensor, logs: Tensor) -> float:
        bias = log_bias(len(logs), score.particles.shape[1]) if exact else 0.0
        return float((values + temperature * logs).double().mean()) - temperature * bias

    whole = mean(energies, score.log_values)
    parts = []
    for keep in groups_without(score, refits):
        logs = refit(score, keep).log_values
        assert logs is not None  # the same method and choice as the whole, which has them
        parts.append(mean(energies[keep], logs))
    return jackknife(whole, parts, n, bias=score.validity.bias)


def fdt_ratio(gradients: Tensor, laplacians: Tensor, diffusion: float) -> Estimate:
    r"""Fluctuation against dissipation, E\|grad L\|^2/(D E[lap L]): 1 at stationarity, exactly.

    For dx = -grad L dt + sqrt(2 D) dW with scalar D; above 1 the loss still falls, below 1 it
    rises: dE[L]/dt = -E\|grad L\|^2 + D E[lap L]. Dimensionless. Noise in Hutchinson laplacians is
    within the interval. It is Hall's, of the linearised ratio with its skewness: \|grad L\|^2 of a
    steep potential has long tails (x^6 in x^4/4, where an interval that is symmetric, Fieller's
    included, held 83 to 87 % at n = 100). Independent particles are assumed.

    Args:
        gradients: (n, d) grad L at the particles.
        laplacians: (n,) lap L there.
        diffusion: D > 0.

    Returns:
        The ratio; flagged where the mean laplacian is not resolved from 0 (interval unbounded).

    Raises:
        ValueError: If D is not positive, shapes do not fit or n < 2.

    References:
        Yaida, ICLR 2019; Hall, J. R. Stat. Soc. B 54 (1992) 221. Corrects the C of langevin.md,
        which has the unit of a rate.

    Examples:
        >>> x = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
        >>> ratio = fdt_ratio(x, 2 * torch.ones(4000), 1.0)  # L = |x|^2/2 at D = 1
        >>> ratio.low < 1 < ratio.high
        True
    """
    n = len(gradients)
    if not diffusion > 0:
        raise ValueError(f"The `diffusion` of `fdt_ratio` must be positive. Got {diffusion}.")
    if n < 2 or gradients.dim() != 2 or laplacians.shape != (n,):
        raise ValueError(
            "`fdt_ratio` needs gradients (n, d) and laplacians (n,) with n >= 2. "
            f"Got {tuple(gradients.shape)} and {tuple(laplacians.shape)}."
        )
    top = row_products(gradients.detach(), gradients.detach()).cpu().numpy()
    bottom = (diffusion * laplacians.detach().double()).cpu().numpy()
    over, under = float(top.mean()), float(bottom.mean())
    for what, values, mean in (("gradients", top, over), ("laplacians", bottom, under)):
        if not math.isfinite(mean):
            broken = int((~np.isfinite(values)).sum())
            why = f"The {what} of {broken} of {n} particles are not finite, or their squares are."
            if not broken:
                why = f"The mean of the {what} overflows."
            return Estimate.missing(f"{why} Leave these particles out, or rescale them.", n=n)
    if under == 0:
        return Estimate.missing("The mean laplacian is 0: there is no ratio to it.", n=n)
    covariance = np.cov(top, bottom) / n
    pieces = fieller(over, under, covariance[0, 0], covariance[1, 1], covariance[0, 1], Z95)
    if len(pieces) == 1 and math.isfinite(pieces[0][0]) and math.isfinite(pieces[0][1]):
        ratio = over / under
        lower, upper = _hall(top / over - bottom / under) if over else (0.0, 0.0)
        ends = sorted([ratio * (1 + lower), ratio * (1 + upper)])
        return Estimate(ratio, ends[0], ends[1], n=n)
    return Estimate(
        over / under,
        -math.inf,
        math.inf,
        n=n,
        flags=Flag.UNRESOLVED,
        reason="The mean laplacian is not resolved from 0; take more particles.",
    )


def _hall(errors: np.ndarray) -> tuple[float, float]:
    """95 % interval around 0 for minus the mean of linearised errors, corrected for skewness."""
    n = len(errors)
    centred = errors - errors.mean()
    deviation = float(np.sqrt((centred**2).mean()))
    if deviation == 0:
        return 0.0, 0.0
    # T + a T^2 + a^2 T^3/3 + a/2 is normal to order 1/n, a = skewness/(3 root n); T by its inverse.
    a = float((centred**3).mean()) / deviation**3 / (3 * math.sqrt(n))
    error = deviation / math.sqrt(n - 1)
    ends = []
    for quantile in (Z95, -Z95):
        x = quantile - a / 2
        ends.append(-error * (x if abs(a) < 1e-9 else float(np.cbrt(1 + 3 * a * x) - 1) / a))
    return ends[0], ends[1]
