r"""Likeness of two kernels on the same examples: alignment with another kernel or with labels.

For centred Gram matrices K~ = HKH and L~ = HLH with H = I - 11'/n,

    CKA(K, L) = <K~, L~> / (\|K~\| \|L~\|)          alignment = CKA(K, Y),  Y_ij = 1 if y_i = y_j

in Frobenius products: 1 for equal kernels up to scale, and free of scale and of a constant added to
all entries. Neither is 0 for unrelated kernels: both matrices are positive semi-definite, so a
relabelling at random has the mean tr K~ tr L~ / ((n-1) \|K~\| \|L~\|), which is why the null is by
permutation. Values depend on n and belong to this n.

**Uncertainty** is over which examples are in the probe: delete-a-group jackknife over blocks of
consecutive examples, of log(1 - CKA), or of the Fisher transform of the alignment, so that no
interval leaves the range.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foreshock.stats.intervals import jackknife_se, t_quantile
from foreshock.types import Estimate, Flag

Array = NDArray[np.float64]

#: 1 - CKA below which two kernels differ by the rounding of their products.
ROUNDING = 1e-12


def kernel_cka(first: ArrayLike, second: ArrayLike, *, groups: int = 8, rows: int = 1) -> Estimate:
    """Centred kernel alignment of two kernels on the same examples.

    Args:
        first: ``(n, n)`` Gram matrix.
        second: Another on the same examples.
        groups: Blocks of the jackknife, at least 3.
        rows: Rows an example has, where several outputs lie beside each other; a block holds whole
            examples.

    Returns:
        CKA in [0, 1], with the null (1, 1): the same kernel. ``n`` counts examples. Missing where a
        kernel is not finite or is the same number everywhere. Coverage of the mean over fresh
        probes of this n: see `benchmarks/coverages/ntk.py`.

    Raises:
        ValueError: If the kernels differ in shape, or hold fewer than two examples a group.

    References:
        Cortes, Mohri & Rostamizadeh, JMLR 13 (2012) 795; Kornblith et al., ICML 2019.

    Examples:
        >>> k = np.diag(np.arange(1.0, 17))
        >>> kernel_cka(k, 5 * k + 2).value
        1.0
    """
    one, two = (np.asarray(x, dtype=np.float64) for x in (first, second))
    n = _check(one, "first", "kernel_cka", groups, rows)
    if one.shape != two.shape:
        raise ValueError(
            "The kernels of `kernel_cka` must have one shape. "
            f"Got {one.shape} and {two.shape}; the probe must stay the same."
        )
    values, trouble = _over_groups(one, two, groups, rows)
    if values is None:
        return Estimate.missing(trouble, n=n)
    if np.all(1 - values < ROUNDING):
        return Estimate(1.0, 1.0, 1.0, n=n, null=(1.0, 1.0))
    logs = np.log(np.maximum(1 - values, ROUNDING))
    half = t_quantile(groups - 1) * float(jackknife_se(logs[1:]))
    low, high = (float(1 - np.exp(np.minimum(logs[0] + s * half, 0.0))) for s in (1, -1))
    return Estimate(float(values[0]), low, high, n=n, null=(1.0, 1.0))


def kernel_alignment(
    kernel: ArrayLike, labels: ArrayLike, *, groups: int = 8, draws: int = 199, seed: int = 0
) -> Estimate:
    """Centred alignment of a kernel with class labels, against relabelling at random.

    Args:
        kernel: ``(n, n)`` Gram matrix, one row an example.
        labels: ``(n,)`` Class of each example.
        groups: Blocks of the jackknife, at least 3.
        draws: Permutations of the labels that the null band is made from, at least 39.
        seed: Seed of the permutations.

    Returns:
        The alignment, its null the band of 95 % of the permutations. ``unresolved`` inside that
        band. Missing where the kernel is not finite or the same everywhere, or there is one class.

    Raises:
        ValueError: If the shapes disagree, or ``draws`` is too small.

    References:
        Cristianini et al., NIPS 2001; Cortes, Mohri & Rostamizadeh, JMLR 13 (2012) 795.

    Examples:
        >>> y = np.arange(32) % 2
        >>> aligned = kernel_alignment(y[:, None] == y, y)
        >>> round(aligned.value, 6), aligned.value > aligned.null[1]
        (1.0, True)
    """
    matrix, classes = np.asarray(kernel, dtype=np.float64), np.asarray(labels)
    n = _check(matrix, "kernel", "kernel_alignment", groups, 1)
    if classes.shape != (n,):
        raise ValueError(
            f"The `labels` of `kernel_alignment` must have shape ({n},), one class an example. "
            f"Got {classes.shape}."
        )
    if draws < 39:
        raise ValueError(f"The `draws` of `kernel_alignment` must be at least 39. Got {draws}.")
    target = (classes[:, None] == classes).astype(np.float64)
    values, trouble = _over_groups(matrix, target, groups, 1)
    if values is None:
        return Estimate.missing(trouble, n=n)
    unit = _centred(matrix) / (np.abs(_centred(matrix)).max())
    null = _relabelled(unit, classes, draws, seed)
    null /= np.linalg.norm(unit) * np.linalg.norm(_centred(target))
    low, high = (float(x) for x in np.quantile(null, [0.025, 0.975]))
    inside = low <= values[0] <= high
    with np.errstate(divide="ignore"):
        fisher = np.arctanh(np.clip(values, -1.0, 1.0))
    half = (
        t_quantile(groups - 1) * float(jackknife_se(fisher[1:]))
        if np.isfinite(fisher).all()
        else 0.0
    )
    ends = np.tanh([fisher[0] - half, fisher[0] + half])
    return Estimate(
        float(values[0]),
        min(float(ends[0]), float(values[0])),
        max(float(ends[1]), float(values[0])),
        n=n,
        flags=Flag.UNRESOLVED if inside else Flag.NONE,
        reason="Labels at random would align as well." if inside else "",
        null=(low, high),
    )


def _relabelled(centred: Array, classes: NDArray[Any], draws: int, seed: int) -> Array:
    """<HKH, Y> for classes in random order: Σ_c 1_c' HKH 1_c."""
    rng = np.random.default_rng(seed)
    # A band needs three digits: single precision is enough, and twice as fast.
    matrix = centred.astype(np.float32)
    members = (classes[:, None] == np.unique(classes)).astype(np.float32)
    orders = rng.permuted(np.tile(np.arange(len(classes)), (draws, 1)), axis=1)
    table = members[orders.T].reshape(len(classes), -1)  # (n, draws * classes)
    products = np.einsum("ij,ij->j", matrix @ table, table)
    return products.reshape(draws, -1).sum(1).astype(np.float64)


def _check(matrix: Array, name: str, function: str, groups: int, rows: int) -> int:
    """The door: number of examples."""
    if groups < 3:
        raise ValueError(f"The `groups` of `{function}` must be at least 3. Got {groups}.")
    if (
        matrix.ndim != 2
        or matrix.shape[0] != matrix.shape[1]
        or len(matrix) % rows
        or len(matrix) < 2 * groups * rows
    ):
        raise ValueError(
            f"The `{name}` of `{function}` must be a square matrix of at least {2 * groups} "
            f"examples for {groups} groups. Got shape {matrix.shape}."
        )
    return len(matrix) // rows


def _centred(matrix: Array) -> Array:
    """H K H."""
    mean = matrix.mean(0)
    return matrix - mean - mean[:, None] + mean.mean()


def _over_groups(first: Array, second: Array, groups: int, rows: int) -> tuple[Array | None, str]:
    """CKA of all, then without each block of examples; or the sentence that says why not."""
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        return None, "A kernel contains nan or inf."
    size = len(first)
    values = []
    blocks = [b for b in np.array_split(np.arange(size // rows), groups)]
    for block in [np.array([], dtype=int), *blocks]:
        gone = (block[:, None] * rows + np.arange(rows)).reshape(-1)
        kept = np.setdiff1d(np.arange(size), gone)
        one, two = (_centred(x[np.ix_(kept, kept)]) for x in (first, second))
        # Scaled apart, so that products of tiny kernels do not vanish.
        one, two = (x / (np.abs(x).max() or 1.0) for x in (one, two))
        norms = float(np.linalg.norm(one) * np.linalg.norm(two))
        if norms == 0 or not math.isfinite(norms):
            return None, "A kernel, or the labels, are the same for all examples."
        values.append(float((one * two).sum()) / norms)
    return np.array(values), ""
