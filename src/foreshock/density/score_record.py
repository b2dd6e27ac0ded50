"""What a score was chosen by, and whether it can be believed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

#: Fewer effective neighbours than this make a kernel estimate of a gradient meaningless. Ad hoc.
LEAST_ESS = 10.0
#: Above this leverage a particle carries a direction of the covariance alone.
MOST_LEVERAGE = 1 - 1e-3
#: Largest relative miss of the Stein identity beyond 4 of its standard errors. Ad hoc.
STEIN_SLACK = 0.1
#: Standard errors of skewness or kurtosis beyond which a cloud is not Gaussian. Of Gaussian clouds
#: 0 to 1 % lie beyond, (n, d) from (30, 2) to (640, 64); most at n < 5 d.
LEAST_DEPARTURE = 4.0


@dataclass(frozen=True)
class Validity:
    """What can be said about a score without knowing the true one. All numbers are whitened.

    ``valid`` means that nothing was caught, not that the score is right: structure that n particles
    cannot resolve in d dimensions leaves no trace here. Stein's identity holds for any cloud with a
    Gaussian fit, so that fit is held against skewness and kurtosis too.

    Args:
        valid: Whether the score may be used.
        reason: The sentence that says why not; empty if valid.
        ess: Median effective number of neighbours under the kernel; inf without a kernel part.
        j_loo: Leave-one-out Hyvärinen score mean(|s|^2/2 + div s); lower is better.
        j_gauss: The same of the Gaussian alone; -d/2 for a perfect fit of a Gaussian.
        stein: mean(s . (z - m)), which is -d for the true score. A residual chosen on these very
            particles satisfies it by choice; a reused one, which has gone stale, need not.
        stein_error: Standard error of `stein` if the score were exact.
        shrinkage: Weight of the diagonal in the covariance.
        leverage: Largest leverage of a particle, in [0, 1].
        skewness: Of the cloud, in standard errors under a Gaussian; nan where not computed.
        kurtosis: The same.
        bias: The sentence that says which bias the score has that no interval holds (smoothing by
            the kernel, shrinkage); empty if none is known. Estimates that rest on it carry it.
    """

    valid: bool
    reason: str
    ess: float = math.nan
    j_loo: float = math.nan
    j_gauss: float = math.nan
    stein: float = math.nan
    stein_error: float = math.nan
    shrinkage: float = math.nan
    leverage: float = math.nan
    skewness: float = math.nan
    kurtosis: float = math.nan
    bias: str = ""

    @property
    def gap(self) -> float:
        """J_loo - J_gauss: what the kernel part, or the mixture, gains; 0 if there is none."""
        return self.j_loo - self.j_gauss


@dataclass(frozen=True)
class Selection:
    """What was chosen from the data and may be reused while the cloud changes little.

    Args:
        bandwidth: h of the kernel, in whitened units.
        weight: lambda of the kernel residual; 0 switches it off, and its cost.
        components: Number of mixture components; 0 for other methods.
        shrinkage: Weight of the diagonal in the covariance.
        pull: Weight of the Gaussian score beside an active residual.
    """

    bandwidth: float = 1.0
    weight: float = 0.0
    components: int = 0
    shrinkage: float = 0.0
    pull: float = 1.0


def judge(found: Validity, n: int, d: int, *, gaussian: bool = False) -> Validity:
    """The record with its verdict.

    Args:
        found: The record.
        n: Particles.
        d: Dimension.
        gaussian: Whether the score is that of one Gaussian, so that the cloud must be one.

    Returns:
        The same with `valid`, `reason` and `bias`.

    Examples:
        >>> record = Validity(True, "", j_loo=-1.0, stein=-2.0, stein_error=0.1, skewness=9.0)
        >>> judge(record, 500, 2, gaussian=True).valid, judge(record, 500, 2).valid
        (False, True)
    """
    reason = ""
    numbers = (found.j_loo, found.stein)
    if n <= d + 2:
        reason = (
            f"{n} particles cannot resolve a covariance in {d} dimensions; "
            f"project to at most {max(1, (n - 1) // 3)} or take more particles."
        )
    elif not all(map(math.isfinite, numbers)):
        reason = "The score is not finite at every particle; standardise the axes or use float64."
    elif found.leverage > MOST_LEVERAGE and n > 2 * d + 10:
        reason = "One particle carries a direction of the covariance alone; remove the outlier."
    elif found.ess < LEAST_ESS:
        reason = (
            f"The kernel part rests on {found.ess:.1f} effective neighbours, fewer than "
            f"{LEAST_ESS:.0f}; take more particles, fewer dimensions or method='gaussian'."
        )
    elif abs(found.stein + d) > STEIN_SLACK * d + 4 * found.stein_error:
        reason = (
            f"Stein's identity fails: mean s.(z-m) is {found.stein:.2f} and should be {-d}; "
            "the bandwidth is too wide, or the fit too coarse, for this cloud."
        )
    elif gaussian and max(found.skewness, found.kurtosis) > LEAST_DEPARTURE:
        reason = (
            f"The cloud is not Gaussian (skewness {found.skewness:.0f}, kurtosis "
            f"{found.kurtosis:.0f} standard errors off) and the score is that of a Gaussian; fit "
            "with method 'mixture', or take more particles, so that a kernel part can be resolved."
        )
    bias = found.bias
    if found.shrinkage > 0:
        bias = (
            "The covariance is shrunk towards its diagonal, a bias no interval holds; take more "
            f"than {2 * d + 10} particles or fewer dimensions."
        )
    elif math.isfinite(found.ess):
        bias = "The kernel smooths the density, a bias the interval does not hold."
    return replace(found, valid=not reason, reason=reason, bias=bias)
