"""Penalised logistic regression, with a covariance over clusters of rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

#: Newton's method converges quadratically; who needs more than this has no minimum.
_ITERATIONS = 100


def fit_logistic(
    x: ArrayLike, y: ArrayLike, *, ridge: float = 0.0, weights: ArrayLike | None = None
) -> Array:
    r"""Coefficients b that maximise Σ wᵢ log P(yᵢ) − (ridge/2) Σ_{k>0} b_k², P(1) = 1/(1+e^{−x·b}).

    Newton's method (iteratively reweighted least squares) with step halving. The first column is
    taken for the intercept and not penalised. The penalty is the log density of N(0, 1/ridge)
    priors; it biases towards 0 by about ridge·Cov(b)·b, which vanishes as rows are added.

    Args:
        x: ``(n, k)``, the first column all ones.
        y: ``(n,)`` of 0 and 1.
        ridge: Strength of the penalty.
        weights: ``(n,)``, not negative; 1 if not given.

    Returns:
        ``(k,)``.

    Raises:
        ValueError: If there is no finite maximum: one outcome never occurs, the covariates separate
            the outcomes without a penalty, or two columns are the same.

    Examples:
        With nothing but an intercept, b is the log odds of the share.

        >>> share = fit_logistic(np.ones((4, 1)), [1, 0, 0, 0])
        >>> bool(np.isclose(share[0], np.log(1 / 3)))
        True
    """
    a, t = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    w = np.ones(len(t)) if weights is None else np.asarray(weights, dtype=np.float64)
    events = float(w @ t)
    if not 0 < events < w.sum():
        raise ValueError(
            "A logistic regression needs rows with the event and rows without. Got "
            f"{events:g} with it of {w.sum():g}."
        )
    penalty = np.full(a.shape[1], float(ridge))
    penalty[0] = 0.0
    b = np.zeros(a.shape[1])
    share = events / w.sum()
    b[0] = np.log(share / (1 - share))
    goal = _objective(a, t, w, penalty, b)
    for _ in range(_ITERATIONS):
        p = _expit(a @ b)
        gradient = a.T @ (w * (t - p)) - penalty * b
        try:
            move = np.asarray(np.linalg.solve(_information(a, w, p, penalty), gradient), float)
        except np.linalg.LinAlgError:
            break
        scale = 1.0
        while (after := _objective(a, t, w, penalty, b + scale * move)) < goal - 1e-12 * abs(goal):
            scale /= 2
            if scale < 1e-10:
                break
        b, goal = b + scale * move, after
        if np.abs(b).max() > 1e3:
            break
        if np.abs(move).max() < 1e-9 * (1 + np.abs(b).max()):
            return b
    raise ValueError(
        "The logistic regression has no finite maximum: the covariates separate the outcomes, or "
        "two of them are the same. Use a larger `ridge`, fewer covariates, or more runs."
    )


def clustered_covariance(
    x: ArrayLike, y: ArrayLike, coefficients: ArrayLike, cluster: ArrayLike, *, ridge: float = 0.0
) -> Array:
    """Covariance of `fit_logistic`'s coefficients when only clusters of rows are independent.

    H⁻¹ (Σ_r s_r s_rᵀ) H⁻¹ · R/(R − 1), with the score s_r of cluster r (Liang & Zeger, 1986). Too
    small with few clusters: below about 30 the intervals of this covariance cover less than 95 %.

    Args:
        x: ``(n, k)``.
        y: ``(n,)``.
        coefficients: ``(k,)``.
        cluster: ``(n,)`` labels of R clusters.
        ridge: The penalty that was used.

    Returns:
        ``(k, k)``.

    Raises:
        ValueError: If there is only one cluster.

    Examples:
        >>> covariance = clustered_covariance(np.ones((4, 1)), [1, 0, 1, 0], [0.0], [0, 0, 1, 1])
        >>> covariance.tolist()
        [[0.0]]
    """
    a, t = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    labels = np.unique(np.asarray(cluster), return_inverse=True)[1]
    count = int(labels.max()) + 1
    if count < 2:
        raise ValueError("A covariance over clusters needs at least two of them. Got 1.")
    penalty = np.full(a.shape[1], float(ridge))
    penalty[0] = 0.0
    p = _expit(a @ np.asarray(coefficients, dtype=np.float64))
    scores = np.zeros((count, a.shape[1]))
    np.add.at(scores, labels, a * (t - p)[:, None])
    scores -= scores.mean(axis=0)  # with a penalty they do not sum to 0
    bread = np.linalg.inv(_information(a, np.ones(len(t)), p, penalty))
    meat = scores.T @ scores * (count / (count - 1))
    return np.asarray(bread @ meat @ bread, dtype=np.float64)


def _expit(x: Array) -> Array:
    from scipy.special import expit

    return expit(x)


def _information(a: Array, w: Array, p: Array, penalty: Array) -> Array:
    return (a.T * (w * p * (1 - p))) @ a + np.diag(penalty)


def _objective(a: Array, t: Array, w: Array, penalty: Array, b: Array) -> float:
    logit = a @ b
    return float(w @ (t * logit - np.logaddexp(0, logit))) - 0.5 * float(penalty @ (b * b))
