"""What is measured of the flow of latents."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from foreshock.types import Estimate


@dataclass(frozen=True)
class MeasuredFlow:
    r"""What a cloud does under measured drift and diffusion. Estimates with 95 % intervals.

    With A = E[mu . D^-1 mu], X = E[mu . s], I = E[s . D s], s the score and v = mu - D s. The unit
    of time is one step. All but `drift` and `diffusion` are the same under z -> A z.

    Args:
        consolidation: C = sign(A) sqrt(|A|/I), 1/1; drift against diffusive pull. Unresolved where
            the interval of A holds 0.
        cosine: X/sqrt(A I), in [-1, 1]; with C it says where the cloud is: C = 1 and cosine 1 is
            equilibrium.
        irreversibility: EP/(A + I), in [0, 2]; as EP unresolved where the interval holds 0.
        entropy_production: EP = A - 2 X + I = E[v . D^-1 v], nats a step.
        entropy_production_bound: A lower bound of it that holds for any score; `low` is its
            one-sided 95 % end, `high` is inf. Unresolved where `low` <= 0.
        entropy_rate: dH/dt = I - X of the differential entropy, nats a step.
        drift_power: A, per step; unbiased, so it may be negative.
        fisher: I, per step.
        drift: Root mean square of mu, sign(x) sqrt(|x|) of the unbiased square x.
        diffusion: tr D.
        flux: Root mean square of v = mu - D s, the noise of mu and D taken off, as sign(x)
            sqrt(|x|); 0 at equilibrium, in the unit of the latents a step.
        common_noise: Mean squared correlation of the noise of two particles, mean over pairs of
            \|K_ij\|^2 over mean of \|K_ii\|^2 with K_ij = Cov(e_i, e_j) in D^-1 norm: 1 where the
            noise of one particle gives that of all (rigid, mirrored, one number that drives all),
            d/k where k numbers in all directions drive all, 0 where particles are independent;
            `null` is the band of independent noise. A rigid share p of the noise reads p^2.
        noise_correlation: The same with signs, mean over pairs of tr(K_ij)/d: 1 where all particles
            move alike, 0 where they are independent or where what they share cancels.
        diffusion_spread: How much D_i varies between particles in size, axes or shape: sign(x)
            sqrt(|x|) of x = E_i tr(D^-1 D_i - 1)^2/d, the noise of the batches taken off; 0 where D
            is one constant. Where its interval lies above .2 what takes D as constant is flagged.
        mean: (N, d) mu at the particles, in float64, as the others.
        tensor: (d, d) D.
        velocity: (N, d) v at the particles.
    """

    consolidation: Estimate
    cosine: Estimate
    irreversibility: Estimate
    entropy_production: Estimate
    entropy_production_bound: Estimate
    entropy_rate: Estimate
    drift_power: Estimate
    fisher: Estimate
    drift: Estimate
    diffusion: Estimate
    flux: Estimate
    common_noise: Estimate
    noise_correlation: Estimate
    diffusion_spread: Estimate
    mean: Tensor
    tensor: Tensor
    velocity: Tensor
