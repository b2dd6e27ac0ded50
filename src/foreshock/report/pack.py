"""Series on their way into the page: reduced to what a chart can show, packed as base64.

A chart is at most some thousand pixels wide, so a long series travels as buckets of
``(min, mean, max)``; a short one travels point by point.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from foreshock.report.data import Column

#: Tried in turn until the arrays of the page fit `ARRAY_BYTES`. 2000 is twice the width of a wide
#: chart; below 250 buckets a 600-pixel chart shows its steps, so we stop there and grow instead.
POINTS = (2000, 1400, 1000, 700, 500, 350, 250)

#: Base64 adds a third: 1.9 MB of arrays is 2.5 MB of page, which leaves 0.5 MB for the rest.
ARRAY_BYTES = 1_900_000

#: Float32 resolves 6e-8 of a value; a series that varies by less than 1e-4 of its size would show
#: fewer than ~1700 distinct levels, so it travels as Float64.
_NARROW = 1e-4


@dataclass(slots=True)
class Packer:
    """Collects packed arrays; the same step axis is stored once however many series share it."""

    points: int
    axes: list[Any] = field(default_factory=list)
    size: int = 0
    _seen: dict[bytes, int] = field(default_factory=dict)

    def series(self, column: Column) -> dict[str, Any]:
        """One series for the page, point by point if it is short enough, else in buckets."""
        rows = len(column.step)
        exact = rows <= self.points
        # Equal numbers of rows per bucket: where a series was measured densely it stays detailed.
        starts = np.arange(rows) if exact else np.arange(self.points) * rows // self.points
        ends = np.append(starts[1:], rows) - 1
        claimed = ~(np.isnan(column.low) & np.isnan(column.high))
        certain = (column.low == column.value) & (column.high == column.value)
        nulls = ~(np.isnan(column.null_low) & np.isnan(column.null_high))
        packed: dict[str, Any] = {
            "x": self.axis(column.step[starts]),
            "y": self.numbers(_means(column.value, starts)),
            "n": self.numbers(np.maximum.reduceat(column.n, starts)),
        }
        if not exact:
            packed["x2"] = self.axis(column.step[ends])
            packed["min"] = self.numbers(np.fmin.reduceat(column.value, starts))
            packed["max"] = self.numbers(np.fmax.reduceat(column.value, starts))
        if np.any(claimed & ~certain):
            packed["lo"] = self.numbers(_means(column.low, starts))
            packed["hi"] = self.numbers(_means(column.high, starts))
        elif np.any(certain):
            packed["exact"] = True
        if np.any(nulls):
            packed["nlo"] = self.numbers(_means(column.null_low, starts))
            packed["nhi"] = self.numbers(_means(column.null_high, starts))
        if np.any(column.flags):
            packed["flags"] = self.numbers(np.bitwise_or.reduceat(column.flags, starts))
        return packed

    def axis(self, steps: np.ndarray) -> int:
        """Index of a step axis in the page, stored on first sight."""
        key = hashlib.sha256(np.ascontiguousarray(steps).tobytes()).digest()
        if key not in self._seen:
            self._seen[key] = len(self.axes)
            self.axes.append(self.numbers(steps))
        return self._seen[key]

    def numbers(self, array: np.ndarray) -> dict[str, Any]:
        """An array as base64 of the narrowest type that shows the same picture.

        Little-endian, as the typed arrays of every browser are today.

        Args:
            array: Numbers, nan and infinities included.

        Returns:
            ``{"t": type, "b": base64}``, or ``{"k": number, "length": n}`` if all are equal.
        """
        if array.size and np.all((array == array[0]) | (np.isnan(array) & np.isnan(array[0]))):
            return {"k": repr(float(array[0])), "length": int(array.size)}
        if array.dtype.kind in "iu":
            kind = "u1" if 0 <= array.min() and array.max() < 256 else "i4"
            kind = kind if np.abs(array).max() < 2**31 else "f8"
        else:
            kind = "f4" if _float32_suffices(array) else "f8"
        raw = array.astype(f"<{kind}").tobytes()
        self.size += len(raw)
        return {"t": kind, "b": base64.b64encode(raw).decode("ascii")}


def _float32_suffices(array: np.ndarray) -> bool:
    finite = np.abs(array[np.isfinite(array)])
    if finite.size == 0:
        return True
    top = float(finite.max())
    nonzero = finite[finite > 0]
    small = float(nonzero.min()) if nonzero.size else 1.0
    spread = float(np.ptp(array[np.isfinite(array)]))
    return top < 3e38 and small > 1.2e-38 and spread > _NARROW * top


def _means(array: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Mean of the finite entries of each bucket; a bucket with none keeps its first entry.

    An unbounded end of an interval makes the end of its bucket unbounded only if no entry of the
    bucket is finite; the pale min-max band and the flags still show the rest.

    Args:
        array: (rows,) float64.
        starts: First row of each bucket, increasing from 0.

    Returns:
        One number for each bucket.
    """
    if len(starts) == len(array):
        return array
    finite = np.isfinite(array)
    count = np.add.reduceat(finite.astype(np.int64), starts)
    # Halved before the sum so that a bucket of values near the largest float does not overflow.
    scale = np.fmax.reduceat(np.where(finite, np.abs(array), 0.0), starts)
    safe = np.where(scale > 0, scale, 1.0)
    lengths = np.diff(np.append(starts, len(array)))
    relative = np.where(finite, array, 0.0) / np.repeat(safe, lengths)
    means = np.add.reduceat(relative, starts) / np.maximum(count, 1) * safe
    return np.where(count > 0, means, array[starts])
