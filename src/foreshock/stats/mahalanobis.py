r"""Signal to noise in the metric of the noise itself, from Gram matrices of standardised gradients.

C = |mu|^2/tr S adds up squares of weights in whatever units they have: rescale one layer by a and
the next by 1/a, which changes nothing of a ReLU network, and C changes. Two forms do not add units:

    diagonal      sum_j mu_j^2/s_j^2              every coordinate in units of its own noise
    ridge         mu' D^-1/2 (R + lambda)^-1 D^-1/2 mu      D = diag(S), R the correlation matrix

**Cross-fitted.** The metric that a gradient g_i meets is estimated from batches without its fold.
E g_i = mu is all that is used of it: at mu = 0 both estimates have mean 0 under *every* law. (With
v_j from all n batches, m_j^2/v_j - 1/n has mean 2/(n(n-3)) a coordinate even for Gaussian noise,
which over 10^6 weights buries the signal.) With k batches behind v_j and Gaussian noise,
E 1/v_j = (k-1)/((k-3) s_j^2), and v_j is independent of the mean of its own batches, so

    T = mean over i != l of (k_i-3)/(k_i-1) sum_j g_ij g_lj / v_j^(-fold of i)

is unbiased for the diagonal form, for any mu. The ridge form has no such constant; its target is
mu'E[M]mu with the metric M that k batches give, lambda = ridge x tr(R)/(k-1): the mean of the k-1
eigenvalues that k batches can see. It is a regularised quantity: compare it at equal n only.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foreshock.stats.gram_interval import SKEW, gram_moments
from foreshock.stats.intervals import jackknife_se, t_quantile
from foreshock.types import Estimate, Flag

Array = NDArray[np.float64]

#: Folds of the cross-fit where n allows: three quarters of the batches behind every metric.
FOLDS = 4

#: Least number of batches: 6 behind every metric, so that 1/v has a variance under Gaussian noise.
LEAST = 7

FEW = f"The metric of the noise needs at least {LEAST} batch gradients. Got {{n}}."


def metric_folds(n: int) -> list[NDArray[np.intp]]:
    """Which batches the metric of each fold leaves out: quarters, or one by one below 8.

    Args:
        n: Batches.

    Returns:
        Disjoint sets of indices that together are 0..n-1.

    Examples:
        >>> [fold.tolist() for fold in metric_folds(8)]
        [[0, 1], [2, 3], [4, 5], [6, 7]]
    """
    return np.array_split(np.arange(n), n if n < 2 * FOLDS else FOLDS)


def standardised_products(
    grams: ArrayLike, *, ridge: float | None = None, without: int | None = None
) -> Array:
    """Symmetric matrix whose off-diagonal mean estimates the signal in the metric of the noise.

    Row i holds g_i' M_i g_l with the metric M_i of the folds without i; then the matrix and its
    transpose are averaged, which leaves that mean as it is.

    Args:
        grams: (folds, n, n) products sum_j g_ij g_lj / v_j, with the v of the batches outside each
            of `metric_folds(n)`.
        ridge: ``None`` for the diagonal form; else lambda in units of tr(R)/(k-1), k the number of
            batches behind the metric.
        without: A batch to leave out of R and of the rows, for the jackknife.

    Returns:
        (n, n), or (n-1, n-1) without a batch.

    Raises:
        ValueError: If there are fewer than 7 gradients or the folds do not fit.

    Examples:
        >>> round(float(standardised_products(np.ones((4, 8, 8)))[0, 1]), 3)
        0.6
    """
    grams = np.asarray(grams, dtype=np.float64)
    n = grams.shape[-1]
    folds = metric_folds(n)
    if n < LEAST or grams.shape != (len(folds), n, n):
        raise ValueError(
            f"The `grams` of `standardised_products` must be (folds, n, n) with n >= {LEAST} and "
            f"the folds of `metric_folds`. Got shape {grams.shape}."
        )
    rows = np.empty((n, n))
    for fold, gram in zip(folds, grams, strict=True):
        others = np.setdiff1d(np.arange(n), fold)
        k = len(others)
        if ridge is None:
            rows[fold] = gram[fold] * ((k - 3) / (k - 1))
            continue
        seen = others if without is None else others[others != without]
        # (X'X/(k-1) + lambda)^-1 = (1 - X'(XX' + (k-1) lambda)^-1 X)/lambda, X the centred others
        cross = gram[seen] - gram[seen].mean(0)  # (k, n): x_a . g_l
        inner = cross[:, seen] - cross[:, seen].mean(1, keepdims=True)
        strength = ridge * float(np.trace(inner)) / (len(seen) - 1)  # (k-1) lambda
        if not strength > 0:
            rows[fold] = 0.0
            continue
        solved = np.linalg.solve(inner + strength * np.eye(len(seen)), cross)
        # k of the full sample even where one is left out: lambda depends on it.
        rows[fold] = (gram - cross.T @ solved)[fold] * ((k - 1) / strength)
    products = (rows + rows.T) / 2
    if without is None:
        return products
    return np.delete(np.delete(products, without, 0), without, 1)


def snr_in_noise_metric(
    grams: ArrayLike, leverage: ArrayLike, *, ridge: float = 1.0
) -> dict[str, Estimate]:
    """Both forms with their intervals.

    **Interval.** Delete-one jackknife over batches with the floor and the skewness term of
    `gram_interval`, on the matrix of `standardised_products`, which takes the metric as given; the
    influence of batch i on the metric is added to its delete-one value: a coordinate's v without i
    is smaller by (z_ij^2 - 1)/(n-1), so the sum is larger by (A_i - mean A)/(n-1), A the leverage.
    For the ridge form R is computed anew without each batch, and A is scaled to its value.

    **Coverage** by `foreshock bench coverage gradient_metrics`, n in {8, 20}, 300 weights with
    independent noise or correlation .3, mean mu_j^2/s_j^2 up to .1: Gaussian noise 95-100 % for the
    diagonal form, 97-100 % for the ridge. Where that mean is 1 the diagonal form covered 86 % at
    n = 8 and 93 % at n = 20 (300 cases each, not in the benchmark). Radial Student-t4: ridge
    97-100 %, diagonal 67-100 %, as E 1/v is larger than the Gaussian one and the sum reads high.
    Skewed noise biases the diagonal form downwards at small n, below 0 even: exponential noise with
    a truth of 18 reads -3.6 at n = 7, 1.8 at n = 8 and 15.8 at n = 20; take 16 batches or more.
    The null band is the plain jackknife's.

    Args:
        grams: (folds, n, n), as for `standardised_products`.
        leverage: (n,) A_i = sum_j ((n-3)/(n-1) m_j^2/v_j - 1/n) z_ij^2 with
            z_ij^2 = (g_ij - m_j)^2/v_j, mean and variance of all batches.
        ridge: lambda in units of tr(R)/(k-1).

    Returns:
        ``grad/snr_diagonal`` and ``grad/snr_mahalanobis``; missing below 7 gradients, where one is
        not finite, and where no coordinate has noise.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> g = rng.standard_normal((20, 300)) + 0.3  # sum of mu_j^2/s_j^2 = 27
        >>> v = [np.delete(g, fold, 0).var(0, ddof=1) for fold in metric_folds(20)]
        >>> m, s = g.mean(0), g.var(0, ddof=1)
        >>> leverage = (g - m) ** 2 / s @ (17 / 19 * m**2 / s - 1 / 20)
        >>> found = snr_in_noise_metric([(g / one) @ g.T for one in v], leverage)
        >>> found["grad/snr_diagonal"].low < 27 < found["grad/snr_diagonal"].high
        True
    """
    grams = np.asarray(grams, dtype=np.float64)
    pull = np.asarray(leverage, dtype=np.float64)
    n = grams.shape[-1]
    names = ("grad/snr_diagonal", "grad/snr_mahalanobis")
    if n < LEAST:
        return dict.fromkeys(names, Estimate.missing(FEW.format(n=n), n=n))
    if not (np.isfinite(grams).all() and np.isfinite(pull).all()):
        sentence = "A batch gradient contains nan or inf, so its products do too."
        return dict.fromkeys(names, Estimate.missing(sentence, n=n))
    pull = (pull - pull.mean()) / (n - 1)
    products = standardised_products(grams)
    without = gram_moments(products).signal_without + pull
    diagonal = _signal(products, without)
    products = standardised_products(grams, ridge=ridge)
    value = _off_diagonal(products)
    without = np.array(
        [_off_diagonal(standardised_products(grams, ridge=ridge, without=i)) for i in range(n)]
    )
    if diagonal.resolved and diagonal.value > 0:
        without = without + pull * value / diagonal.value
    return {names[0]: diagonal, names[1]: _signal(products, without)}


def _off_diagonal(products: Array) -> float:
    n = len(products)
    return float(products.sum() - np.trace(products)) / (n * (n - 1))


def _signal(products: Array, without: Array) -> Estimate:
    """Mean of the off-diagonal, with its delete-one values given."""
    n = len(products)
    if not np.abs(products).max() > 0:
        return Estimate.missing("No coordinate of the gradient has noise.", n=n)
    moments = gram_moments(products)
    value = float(moments.signal)
    floor = 2 * max(float(moments.trace_square), 0.0) / (n * (n - 1))
    jackknife = float(jackknife_se(without)) ** 2
    spread = t_quantile(n - 1) * math.sqrt(max(jackknife - floor, floor))
    low, high = value - spread, value + spread + SKEW * float(moments.top) / n
    # The plain jackknife, too wide at mu = 0 by up to sqrt(2): the floor is too narrow there, since
    # products that share a v of few batches are not independent.
    half = t_quantile(n - 1) * math.sqrt(max(jackknife, floor))
    if low <= 0 <= high:
        reason, flags = "The interval of the signal contains 0.", Flag.UNRESOLVED
    else:
        reason, flags = "", Flag.NONE
    return Estimate(value, low, high, n=n, flags=flags, reason=reason, null=(-half, half))
