"""Gaussian mixture as a density: chosen by BIC, fitted by scikit-learn, evaluated in torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

#: Random starts of the fit to all particles; the best likelihood counts.
STARTS = 3


@dataclass(frozen=True)
class Mixture:
    """A Gaussian mixture, sum_k p_k N(m_k, P_k^-1).

    Args:
        log_weights: (k,) log p_k.
        means: (k, d) m_k.
        factors: (k, d, d) Upper triangular R_k with P_k = R_k R_k'.
    """

    log_weights: Tensor
    means: Tensor
    factors: Tensor

    def _parts(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """(m, k, d) P_k (x - m_k), and (m, k) log of p_k N(x; m_k)."""
        d = points.shape[1]
        offsets = points[:, None, :] - self.means
        scaled = torch.einsum("mkd,kde->mke", offsets, self.factors)
        log_det = self.factors.diagonal(dim1=1, dim2=2).log().sum(1)
        logs = self.log_weights + log_det - 0.5 * d * math.log(2 * math.pi)
        logs = logs - 0.5 * scaled.square().sum(2)
        return torch.einsum("kde,mke->mkd", self.factors, scaled), logs

    def score(self, points: Tensor) -> Tensor:
        """(m, d) grad log density."""
        pulls, logs = self._parts(points)
        return -(logs.softmax(1)[:, :, None] * pulls).sum(1)

    def divergence(self, points: Tensor, metric: Tensor) -> Tensor:
        """(m,) tr(M grad s) = sum_k r_k (a_k' M a_k - tr(M P_k)) - s' M s, a_k = P_k (x - m_k)."""
        pulls, logs = self._parts(points)
        share = logs.softmax(1)
        precision = self.factors @ self.factors.mT
        traces = (precision * metric).sum((1, 2))
        inner = torch.einsum("mkd,de,mke->mk", pulls, metric, pulls)
        score = -(share[:, :, None] * pulls).sum(1)
        return (share * (inner - traces)).sum(1) - ((score @ metric) * score).sum(1)

    def log_density(self, points: Tensor) -> Tensor:
        """(m,) log density."""
        return self._parts(points)[1].logsumexp(1)


def _initial(start: Mixture | None) -> dict[str, Any]:
    """Where scikit-learn is to start from."""
    if start is None:
        return {}
    precisions = start.factors @ start.factors.mT
    return {
        "weights_init": start.log_weights.double().softmax(0).cpu().numpy(),
        "means_init": start.means.double().cpu().numpy(),
        "precisions_init": precisions.double().cpu().numpy(),
    }


def fit_mixture(
    z: Tensor, components: int | None, most: int, seed: int, start: Mixture | None = None
) -> tuple[Mixture, int]:
    """Fits 1 to `most` components and keeps the number with the least BIC.

    Args:
        z: (n, d) Particles.
        components: Number of components, to skip the choice.
        most: Largest number tried.
        seed: Seed of the starts.
        start: A mixture of as many `components` to start from, in place of random starts.

    Returns:
        The mixture and its number of components.

    Raises:
        ImportError: If scikit-learn is not installed.

    References:
        Schwarz, Ann. Stat. 6 (1978) 461 (BIC).

    Examples:
        >>> generator = torch.Generator().manual_seed(0)
        >>> z = torch.randn(400, 1, generator=generator)
        >>> z[:200] += 8
        >>> mixture, k = fit_mixture(z, None, 3, 0)
        >>> k, sorted(round(float(m)) for m in mixture.means)
        (2, [0, 8])
    """
    try:
        from sklearn.mixture import GaussianMixture
    except ImportError as error:
        raise ImportError(
            "`fit_score` with `method='mixture'` needs scikit-learn, which is optional. "
            "Type: pip install 'foreshock[mixture]'"
        ) from error

    data = z.detach().cpu().double().numpy()
    most = min(most, max(1, len(data) // (2 * z.shape[1] + 2)))
    tried = [components] if components else range(1, most + 1)
    # A tenth of scikit-learn's floor on variances would do; relative, so that units do not matter.
    floor = 1e-6 * float(data.var(0).mean()) + 1e-300
    # k-means++ draws its starts: plain k-means would start in one same local optimum every time.
    fits = {
        k: GaussianMixture(
            k,
            reg_covar=floor,
            random_state=seed,
            n_init=1 if start else STARTS,
            init_params="k-means++",
            **_initial(start),
        ).fit(data)
        for k in tried
    }
    count = min(fits, key=lambda k: fits[k].bic(data))
    best = fits[count]

    def tensor(array: object) -> Tensor:
        return torch.as_tensor(array, dtype=z.dtype, device=z.device)

    mixture = Mixture(
        tensor(best.weights_).log(), tensor(best.means_), tensor(best.precisions_cholesky_)
    )
    return mixture, count
