"""What the noise of the batches is like: shared by particles or their own, alike or not.

All by U-statistics over different batches, so neither the drift nor the noise of a batch with
itself is in them, whatever the law of the noise. D^-1 only sets the units.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from foreshock.density.moves_intervals import (
    NOTHING,
    Interval,
    Replicas,
    linear,
    logit,
    signed_root,
)
from foreshock.density.moves_parts import ROUNDING, Parts, estimate
from foreshock.density.moves_terms import Array, Sums, Terms, factor
from foreshock.types import Estimate

#: Particles whose noise is compared with that of each other.
PAIRED = 128
#: Spread of D beyond which what takes it as constant is flagged.
VARYING = 0.2
CANCELS = "The noise of the particles cancels in their mean: see `common_noise`."


def noise_correlation(terms: Terms) -> float:
    """Mean correlation of the noise of two particles, in D^-1 norm: 1 rigid, 0 independent."""
    whitening = factor(terms.scatter)
    if whitening is None:
        return float("nan")
    n, d, particles = terms.batches, len(whitening), terms.particles
    ratio = (n - 1) / n * float(np.trace(whitening @ terms.shared @ whitening.T)) / d
    return (particles * ratio - 1) / (particles - 1)


def correlation(parts: Parts) -> Estimate:
    """`noise_correlation` with its interval and its null."""
    count, n, d = parts.whole.particles, parts.whole.batches, len(parts.whole.square)
    # As the share that the mean of N particles has of the noise, which is in (0, 1).
    shares = parts.replicas(lambda t: (1 + (count - 1) * noise_correlation(t)) / count)
    freedom = (n - 1) * d
    found = _share(shares)
    if not math.isfinite(found.value):
        return Estimate.missing(CANCELS, n=n)
    found = found.map(lambda p: (count * p - 1) / (count - 1))
    return estimate(parts, found, null=_null(freedom, count))


def common(parts: Parts, whitening: Array) -> Estimate:
    r"""Mean squared correlation of the noise of two particles, \|K_ij\|^2 over \|K_ii\|^2.

    K_ij = Cov(e_i, e_j) in whitened coordinates. Of batches b, c with g_i = e_ib . D^-1 e_ic,
    (sum_i g_i)^2 has the mean sum_ij \|K_ij\|^2 and sum_i g_i^2 has sum_i \|K_ii\|^2. `PAIRED`
    particles at most are looked at.

    Args:
        parts: What was measured.
        whitening: (d, d) W with W' W proportional to D^-1.

    Returns:
        The share, with its interval and the null of independent noise.
    """
    sums = parts.sums
    n = sums.batches
    if n < 5:
        return Estimate.missing(f"Noise in common needs at least 5 batches. There are {n}.", n=n)
    keep = [group[:, : -(-PAIRED // sums.groups)] for group in sums.inside(sums.deviation)]
    rows = torch.cat(keep, 1)
    count = rows.shape[1]
    sizes = np.array([group.shape[1] for group in keep])

    def share(every: float, own: float, kept: int) -> float:
        # Of any number of particles as the share that the mean of `count` would have.
        found = (every / own - 1) / (kept - 1) if own > 0 else math.nan
        return (1 + (count - 1) * found) / count

    whole, grams = _products(rows, whitening)
    own = np.array([part.sum() for part in np.split(whole, np.cumsum(sizes)[:-1])])
    lines = torch.stack([gram.sum(2) for gram in grams.split(sizes.tolist(), 2)]).cpu().numpy()
    gram = lines.sum(0)
    groups = [
        share(_one(gram - lines[g]), float(own.sum() - own[g]), count - int(size))
        for g, size in enumerate(sizes)
    ]
    batches = []
    for b in range(n):
        # D anew: with few batches it is what biases the share most.
        left = np.arange(n) != b
        metric = factor(parts.batches[b].scatter)
        if metric is None:
            batches.append(math.nan)
            continue
        alone, part = _products(rows[torch.as_tensor(left)], metric)
        batches.append(share(_one(part.sum(2).cpu().numpy()), float(alone.sum()), count))
    shares = Replicas(
        share(_one(gram), float(own.sum()), count), np.array(batches), np.array(groups)
    )
    # Independent noise makes n(n-3)/2 free products of batches.
    found = _share(shares).map(lambda p: (count * p - 1) / (count - 1))
    return estimate(parts, found, null=_null(n * (n - 3) / 2, count))


def spread(parts: Parts, whitening: Array) -> Estimate:
    """Variation of the diffusion between particles, with its interval."""
    sums, count = parts.sums, parts.whole.particles
    pairs = sums.batches // 2
    if pairs < 3:
        reason = f"{sums.batches} batches make {pairs} pairs; at least 6 are needed."
        return Estimate.missing(reason, n=sums.batches)
    products, matrices = _pairs(sums, whitening)
    product, matrix = products.sum(0), matrices.sum(0)
    rest = [np.delete(np.arange(pairs), pair) for pair in range(pairs)]
    replicas = Replicas(
        relative_spread(product, matrix, count),
        np.array([relative_spread(product[np.ix_(k, k)], matrix[k], count) for k in rest]),
        np.array(
            [
                relative_spread(product - products[g], matrix - matrices[g], count - size)
                for g, size in enumerate(sums.counts)
            ]
        ),
    )
    found = linear(replicas, batches=False) if replicas.finite else NOTHING
    found = Interval(found.value, found.low - ROUNDING**2, found.high + ROUNDING**2)
    return estimate(parts, found.map(signed_root))


def relative_spread(products: Array, matrices: Array, count: int) -> float:
    r"""Mean of tr (D^-1 D_i - 1)^2 over its size d, the noise of the batches taken off.

    Args:
        products: (P, P) sum_i (y_ip . y_iq)^2, y_ip = W (x_ia - x_ib) of a pair p of batches.
        matrices: (P, d, d) sum_i y_ip y_ip'.
        count: How many particles.

    Returns:
        The ratio of U-statistics over different pairs, whose noises are independent: unbiased
        top and bottom for any law of the noise, shared or not. nan where fewer than two pairs
        differ.
    """
    flat = matrices.reshape(len(matrices), -1)
    outer = flat @ flat.T / count
    between = (products - outer) / (count - 1)
    off = ~np.eye(len(flat), dtype=bool)
    level = float(outer[off].sum()) / count
    return float(between[off].sum()) / level if level > 0 else float("nan")


def _share(shares: Replicas) -> Interval:
    least = min(shares.whole, float(shares.batches.min()), float(shares.particles.min()))
    if not least > 0 or not shares.finite:  # not finite, or the moves of all particles cancel
        return NOTHING
    most = max(shares.whole, float(shares.batches.max()), float(shares.particles.max()))
    if most > 1 - ROUNDING:
        return Interval(shares.whole, shares.whole - ROUNDING, shares.whole + ROUNDING)
    return logit(shares)


def _null(freedom: float, count: int) -> tuple[float, float]:
    from scipy.special import chdtri

    low, high = ((float(chdtri(freedom, p)) / freedom - 1) / (count - 1) for p in (0.975, 0.025))
    return low, high


def _products(rows: Tensor, whitening: Array) -> tuple[Array, Tensor]:
    r"""(N,) \|K_ii\|^2 and (n, n, N) e_ib . D^-1 e_ic of (n, N, d) rows e."""
    white = rows @ torch.as_tensor(whitening).to(rows).T
    grams = torch.einsum("bid,cid->bci", white, white)
    return _unbiased(grams).cpu().numpy(), grams


def _one(gram: Array) -> float:
    return float(_unbiased(torch.as_tensor(gram)[:, :, None])[0])


def _unbiased(grams: Tensor) -> Tensor:
    """Mean over different a, b, c, e of ((x_a - x_b) . (x_c - x_e))^2/4: tr K^2 without bias.

    Args:
        grams: (n, n, N) Gram matrices x_a . x_b, whatever the mean of x.

    Returns:
        (N,) The means.

    References:
        Chen, Zhang & Zhong, J. Am. Stat. Assoc. 105 (2010) 810.
    """
    n = len(grams)
    diagonal = grams.diagonal(dim1=0, dim2=1)
    lines = grams.sum(1) - diagonal.T
    one = grams.square().sum((0, 1)) - diagonal.square().sum(1)
    two, three = lines.square().sum(0), lines.sum(0).square()
    pairs = n * (n - 1)
    chains = (two - one) / (pairs * (n - 2))
    quads = (three - 4 * two + 2 * one) / (pairs * (n - 2) * (n - 3))
    return one / pairs - 2 * chains + quads


def _pairs(sums: Sums, whitening: Array) -> tuple[Array, Array]:
    """Of every group: (G, P, P) sum_i (y_ip . y_iq)^2 and (G, P, d, d) sum_i y_ip y_ip'."""
    pairs = sums.batches // 2
    difference = sums.moves[0 : 2 * pairs : 2] - sums.moves[1 : 2 * pairs : 2]
    rows = difference @ torch.as_tensor(whitening).to(difference).T
    inside = sums.inside(rows)
    products = [torch.einsum("pid,qid->pqi", y, y).square().sum(2) for y in inside]
    matrices = [y.mT @ y for y in inside]
    return torch.stack(products).cpu().numpy(), torch.stack(matrices).cpu().numpy()


def varies(measured: Estimate) -> str:
    """The sentence for what takes D as constant, where it surely is not; empty otherwise."""
    if not measured.low > VARYING:
        return ""
    return (
        f"D varies by {100 * measured.value:.0f} % between particles; div D is not in the velocity."
    )
