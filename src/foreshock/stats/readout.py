"""Does a network know held-out labels? A z-score of its logits, and of a ridge readout."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foreshock.stats.intervals import Z95, jackknife_se, t_quantile
from foreshock.stats.permutation import checked, shuffled_moments
from foreshock.types import Estimate, Flag

Array = NDArray[np.float64]

#: Below this many examples the z-score is far from normal; `true_label_rank_p` is exact there.
SMALLEST_N = 8

#: Ridge strengths tried, as multiples of the mean eigenvalue of the features' Gram: a decade
#: apart, from "no ridge" in double precision to "predict the mean".
LAMBDA_GRID = tuple(float(x) for x in np.logspace(-6, 2, 9))


def heldout_signal(logits: ArrayLike, labels: ArrayLike, *, standardise: bool = False) -> Estimate:
    r"""How far the true labels' logits stand above 0, in standard errors of pure chance.

    Rows of the logits are centred to Z (a shift of a row changes no prediction); then

        z = sqrt(n) * mean_i Z[i, y_i] / rms(Z),      rms^2 = mean of Z^2 over all n K entries.

    If labels carry no information about the logits and classes are balanced, each Z[i, y_i] has
    mean 0 and mean square rms^2, so z ~ N(0, 1) for large n. Scale-free: multiplying logits changes
    nothing. A memorised fit has z = 0 on held-out labels, and accuracy moves only once the mean
    shift is of the order of one standard deviation, while z needs 3/sqrt(n) of it.

    **Uncertainty.** Delete-one jackknife of mean/rms in closed form, t_{n-1} quantile. It says what
    another held-out set of this size would read, which is not the null: where the signal is strong
    it is wider or narrower than +- 1.96.

    **Null.** Unbalanced classes together with a bias of the logits towards the frequent ones give a
    large z without any knowledge of single examples. So the null is the band of z over permutations
    of these labels, whose mean and variance are exact (`shuffled_moments`; about +- 1.96 where
    classes are balanced), and a z inside a band that such a bias has moved away from 0 is flagged.
    Leakage (a commutative table cut at random) reads as knowledge, which it is.

    **Cost.** O(nK).

    Args:
        logits: (n, K) Held-out logits, n >= 8, K >= 2.
        labels: (n,) Integers 0..K-1.
        standardise: Whether to take z by the mean and standard deviation over permutations of the
            labels instead of 0 and rms: mean 0 and variance 1 exactly, whatever the imbalance.

    Returns:
        z with the permutation band as null; flagged `unresolved` when its interval contains 0, or
        when it is inside a null band whose middle is beyond +- 1. Missing for n < 8,
        K < 2, logits that are not finite, or constant in every row. Shapes or labels that do not
        fit raise `ValueError`.

    Examples:
        A weak shift of the true logit by .3 sd, far below what accuracy shows at K = 23:

        >>> rng = np.random.default_rng(0)
        >>> labels = rng.integers(23, size=400)
        >>> logits = rng.standard_normal((400, 23)) + 0.3 * np.eye(23)[labels]
        >>> heldout_signal(logits, labels).value > 3
        True
        >>> heldout_signal(np.ones((9, 2)), np.zeros(9, int)).reason
        'The logits are the same for every class.'
    """
    scores, targets = checked(logits, labels, "heldout_signal")
    n, classes = scores.shape
    if n < SMALLEST_N:
        return Estimate.missing(
            f"A held-out signal needs at least {SMALLEST_N} examples. Got {n}.", n=n
        )
    if classes < 2:
        return Estimate.missing(f"A held-out signal needs at least 2 classes. Got {classes}.", n=n)
    largest = float(np.abs(scores).max())
    if not math.isfinite(largest):
        return Estimate.missing("A logit is nan or inf.", n=n)
    # Scaled first, so that squares neither overflow nor vanish.
    scores = scores / (largest or 1.0)
    centred = scores - scores.mean(1, keepdims=True)
    # What centring leaves of a constant row is rounding, of order eps in these units.
    if np.abs(centred).max() <= 8 * np.finfo(np.float64).eps:
        return Estimate.missing("The logits are the same for every class.", n=n)
    hit = centred[np.arange(n), targets]  # (n,)
    power = np.einsum("ij,ij->i", centred, centred) / classes  # (n,)
    hits, powers = float(hit.sum()), float(power.sum())
    value = hits / math.sqrt(powers)  # = sqrt(n) mean / rms
    mean, variance = shuffled_moments(centred, targets)
    middle, chance = mean / math.sqrt(powers), math.sqrt(max(variance, 0.0) / powers)
    if chance < 1e-12:  # rounding of what is exactly 0
        sentence = "All rows of logits are alike, or all labels: permuting them changes nothing."
        if standardise:
            return Estimate.missing(sentence, n=n)
        null = (middle, middle)
        return Estimate(value, n=n, flags=Flag.UNRESOLVED, reason=sentence, null=null)
    rest = (powers - power) / (n - 1)
    if rest.min() <= 1e-12 * powers / n:  # all power in one row: the others have no scale
        return Estimate(
            value,
            n=n,
            flags=Flag.UNRESOLVED,
            reason="All but one row of logits is constant.",
            null=(middle - Z95 * chance, middle + Z95 * chance),
        )
    without = (hits - hit) / (n - 1) / np.sqrt(rest)
    spread = t_quantile(n - 1) * math.sqrt(n) * float(jackknife_se(without))
    null = (middle - Z95 * chance, middle + Z95 * chance)
    if standardise:
        value, spread = (value - middle) / chance, spread / chance
        middle, null = 0.0, (-Z95, Z95)
    reason = ""
    if value - spread <= 0 <= value + spread:
        reason = "The interval of the signal contains 0."
    elif abs(middle) > 1 and null[0] <= value <= null[1]:
        reason = (
            f"Logits that only favour the frequent classes would give z = {middle:.1f}: no "
            "knowledge of single examples shows."
        )
    flags = Flag.UNRESOLVED if reason else Flag.NONE
    return Estimate(value, value - spread, value + spread, n, flags, reason, null)


def ridge_readout(
    train_features: ArrayLike, train_labels: ArrayLike, heldout_features: ArrayLike, classes: int
) -> tuple[Array, float]:
    r"""Ridge regression of one-hot labels on features, its strength chosen by leave-one-out.

    Minimises |Y - 1b' - F W|^2 + λ|W|^2 with a free intercept b. With centred features F and
    eigenvectors V, eigenvalues e of F'F (m x m if m < n; otherwise of FF', n x n), the hat matrix
    is H = 11'/n + Σ_j u_j u_j' e_j/(e_j + λ), and the exact leave-one-out error of *every* λ
    follows from one eigendecomposition,

        LOO(λ) = Σ_i |y_i - y^_i|^2 / (1 - H_ii)^2.

    λ is the best of 9 strengths, 1e-6 to 100 times the mean eigenvalue, a decade apart. The error
    is flat near its minimum: half a decade off costs it little.

    **Cost.** n min(n, m)^2 + 9 n min(n, m) K multiply-adds and one eigendecomposition:
    about 30 ms for n = 1740, m = 256, K = 59 on one core.

    Args:
        train_features: (n, m).
        train_labels: (n,) Integers 0..classes-1.
        heldout_features: (h, m).
        classes: K.

    Returns:
        Predictions (h, K) for the held-out features, which play the role of logits in
        `heldout_signal`, and λ. Constant features give the class frequencies and λ = inf.

    Raises:
        ValueError: If shapes or labels do not fit, n < 2, or a feature is not finite.

    References:
        Allen, Technometrics 16 (1974) 125 (the PRESS statistic).

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> labels = np.arange(300) % 3
        >>> features = rng.standard_normal((300, 5)) + 3 * np.eye(3, 5)[labels]
        >>> scores, strength = ridge_readout(features[:200], labels[:200], features[200:], 3)
        >>> bool((scores.argmax(1) == labels[200:]).mean() > 0.9)
        True
    """
    features = np.asarray(train_features, dtype=np.float64)
    heldout = np.asarray(heldout_features, dtype=np.float64)
    targets = np.asarray(train_labels)
    if features.ndim != 2 or targets.shape != features.shape[:1] or len(features) < 2:
        raise ValueError(
            "`ridge_readout` needs train_features (n, m) and train_labels (n,), n >= 2. "
            f"Got {features.shape} and {targets.shape}."
        )
    if heldout.ndim != 2 or heldout.shape[1] != features.shape[1]:
        raise ValueError(
            f"The `heldout_features` of `ridge_readout` must be (h, {features.shape[1]}). "
            f"Got {heldout.shape}."
        )
    checked(np.empty((len(targets), classes)), targets, "ridge_readout")
    if not (np.isfinite(features).all() and np.isfinite(heldout).all()):
        raise ValueError("The features of `ridge_readout` must be finite. Got nan or inf.")
    n, m = features.shape
    centre = features.mean(0)
    features = features - centre
    scale = float(np.abs(features).max()) or 1.0  # squares must neither vanish nor overflow
    features = features / scale
    heldout = (heldout - centre) / scale
    frequency = np.bincount(targets, minlength=classes) / n  # the mean of the one-hot targets
    target = np.zeros((n, classes))
    target[np.arange(n), targets] = 1.0
    target -= frequency
    primal = m < n
    values, vectors = np.linalg.eigh(features.T @ features if primal else features @ features.T)
    mean = float(values.sum()) / min(n, m)
    # Directions below rounding carry nothing but noise of the arithmetic.
    kept = values > max(n, m) * np.finfo(np.float64).eps * max(float(values[-1]), 0.0)
    if mean <= 0 or not kept.any():
        return np.tile(frequency, (len(heldout), 1)), math.inf
    values, vectors = values[kept], vectors[:, kept]
    # Where 1 - H_ii stays away from 0, single precision decides among decades of λ as well, in half
    # the time; near interpolation the left-out error is 0/0 and needs every digit.
    work = np.float32 if primal and n >= 2 * m else np.float64
    if primal:
        orthonormal = vectors / np.sqrt(values)
        left = features.astype(work) @ orthonormal.astype(work)  # (n, r)
    else:
        left = vectors
    coefficients = left.T @ target.astype(work)  # (r, K)
    goal = target.astype(work)
    squares = left * left
    best, strength = math.inf, LAMBDA_GRID[-1] * mean  # kept if every strength interpolates
    for factor in LAMBDA_GRID:
        shrink = (values / (values + factor * mean)).astype(work)  # (r,)
        residual = goal - left @ (shrink[:, None] * coefficients)  # (n, K)
        slack = (1 - 1 / n - squares @ shrink).astype(np.float64)  # 1 - H_ii
        if slack.min() <= 1e-10:  # interpolation of a row: its left-out error is 0/0
            continue
        error = float((np.einsum("ik,ik->i", residual, residual) / slack**2).sum())
        if error < best:
            best, strength = error, factor * mean
    # The solution itself, in double: V (e+λ)^-1 V' F'Y, or F' U (e+λ)^-1 U' Y.
    source = features.T @ target if primal else target
    solution = vectors @ ((vectors.T @ source) / (values + strength)[:, None])
    weights = solution if primal else features.T @ solution  # (m, K)
    return heldout @ weights + frequency, strength * scale * scale
