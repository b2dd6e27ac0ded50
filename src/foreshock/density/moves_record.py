"""What is measured of the flow of latents."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from foreshock.types import Estimate


@dataclass(frozen=True)
class MeasuredFlow:
    """What a cloud does under measured drift and diffusion. Estimates with 95 % intervals.

    With A = E[mu . D^-1 mu], X = E[mu . s], I = E[s . D s], s the score and v = mu - D s. The unit
    of time is one step. All but `drift` and `diffusion` are the same under z -> A z.

    Args:
        consolidation: C = sign(A) sqrt(|A|/I), 1/1; drift against diffusive pull. Unresolved where
            the interval of A holds 0.
        cosine: X/sqrt(A I), in [-1, 1]; with C it says where the cloud is: C = 1 and cosine 1 is
            equilibrium.
        irreversibility: EP/(A + I), in [0, 2].
        entropy_production: EP = A - 2 X + I = E[v . D^-1 v], nats a step.
        entropy_production_bound: A lower bound of it that holds for any score; `low` is its
            one-sided 95 % end, `high` is inf.
        entropy_rate: dH/dt = I - X of the differential entropy, nats a step.
        drift_power: A, per step; unbiased, so it may be negative.
        fisher: I, per step.
        drift: Root mean square of mu, sign(x) sqrt(|x|) of the unbiased square x.
        diffusion: tr D.
        common_noise: Correlation of the noise of two particles in D^-1 norm: 1 where all particles
            move alike, 0 where they are independent; `null` is the band of independent noise.
        diffusion_spread: How much tr(D^-1 D_i) varies between particles, relative to its mean, the
            noise of the batches taken off, as sign(x) sqrt(|x|); 0 where D is one constant.
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
    common_noise: Estimate
    diffusion_spread: Estimate
    mean: Tensor
    tensor: Tensor
    velocity: Tensor
