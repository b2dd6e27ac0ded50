"""Long series in few numbers: minimum, maximum, mean and count over buckets of 64 steps.

Only finite values count. A bucket of which every value is nan or infinite is kept with ``n = 0``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TypeAlias

import numpy as np

from foreshock.store.codec import number
from foreshock.store.records import Rollup, Series

#: Steps per bucket, fixed in every file: a chart 2000 pixels wide reads rollups from 128 000 steps
#: on, and a bucket adds one row to 64.
WIDTH = 64

#: bucket, min, max, mean, n. A bucket without a finite value is (bucket, nan, nan, nan, 0).
Bucket: TypeAlias = tuple[int, float, float, float, int]


def extend(
    current: Mapping[int, Bucket], rows: Iterable[tuple[int, int, float]]
) -> tuple[dict[int, Bucket], list[tuple[int, Bucket]]]:
    """Folds rows into the buckets, without changing ``current``: a commit may fail.

    Args:
        current: Series id to its newest bucket.
        rows: ``(step, series_id, value)`` by step.

    Returns:
        The newest bucket of every series touched, and the full ones left behind.
    """
    newest: dict[int, Bucket] = {}
    full: list[tuple[int, Bucket]] = []
    for step, series_id, value in rows:
        index = step // WIDTH
        bucket = newest.get(series_id) or current.get(series_id)
        if bucket is None or bucket[0] != index:
            if series_id in newest:
                full.append((series_id, newest[series_id]))
            bucket = (index, math.nan, math.nan, math.nan, 0)
        if math.isfinite(value):
            _, low, high, mean, n = bucket
            n += 1
            if n == 1:
                bucket = (index, value, value, value, 1)
            else:
                low, high = min(low, value), max(high, value)
                # Running mean in the form that cannot overflow, held inside the range by hand
                # because its rounding could leave it.
                mean += value / n - mean / n
                bucket = (index, low, high, min(max(mean, low), high), n)
        newest[series_id] = bucket
    return newest, full


def exact(series: Series) -> Rollup:
    """Every row a bucket of its own."""
    finite = np.isfinite(series.value)
    value = np.where(finite, series.value, np.nan)
    return Rollup(series.step, series.step, value, value, value, finite.astype(np.int64))


def merge(buckets: list[tuple], points: int, last_step: int) -> Rollup:
    """Stored buckets ``(bucket, min, max, mean, n)`` as at most ``points`` wider ones.

    The width is ``WIDTH`` times a power of two: the buckets of a growing run stay where they are.

    Args:
        buckets: By bucket.
        points: How many to return at most.
        last_step: Last step of the run, where the last bucket ends.

    Returns:
        The wider buckets.
    """
    index = np.array([b[0] for b in buckets], dtype=np.int64)
    low, high, mean = (
        np.array([number(b[i]) for b in buckets], dtype=np.float64) for i in (1, 2, 3)
    )
    n = np.array([b[4] for b in buckets], dtype=np.int64)
    factor = 1
    while len(np.unique(index // factor)) > points:
        factor *= 2
    group, start = np.unique(index // factor, return_index=True)
    total = np.add.reduceat(n, start) if len(start) else n
    # Shares first: the sum of the means times their n could overflow.
    share = n / np.repeat(np.maximum(total, 1), np.diff(np.append(start, len(n))))
    weighted = np.where(n > 0, mean, 0.0) * share

    def reduced(ufunc: np.ufunc, column: np.ndarray) -> np.ndarray:
        out = ufunc.reduceat(column, start) if len(start) else column
        return np.where(total > 0, out, np.nan)

    return Rollup(
        step_low=group * factor * WIDTH,
        step_high=np.minimum((group + 1) * factor * WIDTH - 1, last_step),
        min=reduced(np.fmin, low),
        max=reduced(np.fmax, high),
        mean=reduced(np.add, weighted),
        n=total,
    )
