"""Rules that tools in the field run by default, written anew from their public descriptions.

For comparison only, each named after what it does. A rule takes a whole loss and gives the steps at
which it alarms, using no later value; one that would alarm at every step of an excursion alarms
once, at its first.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Rule = Callable[[Array], list[int]]


def before(x: Array, window: int) -> Array:
    """Row t holds the ``window`` values before x_t, nan where there are none."""
    padded = np.concatenate([np.full(window, np.nan), x[:-1]])
    return np.lib.stride_tricks.sliding_window_view(padded, window)


def two_sided_cusum(x: Array) -> list[int]:
    """CUSUM in both directions against median and MAD of 200 values, slack 1, threshold 6."""
    with np.errstate(all="ignore"):
        rows = before(x, 200)[30:]
        middle = np.nanmedian(rows, axis=1)
        spread = 1.4826 * np.nanmedian(np.abs(rows - middle[:, None]), axis=1)
    z = (x[30:] - middle) / np.maximum(spread, 1e-12)
    alarms, up, down = [], 0.0, 0.0
    for t, one in enumerate(z.tolist(), start=30):
        up, down = max(0.0, up + one - 1.0), min(0.0, down + one + 1.0)
        if up >= 6.0 or down <= -6.0:
            alarms.append(t)
            up = down = 0.0
    return alarms


def z_score(x: Array) -> list[int]:
    """|x − mean| of 200 values beyond 3.5 standard deviations."""
    rows = before(x, 200)[30:]
    with np.errstate(all="ignore"):
        z = (x[30:] - np.nanmean(rows, axis=1)) / np.nanstd(rows, axis=1, ddof=1)
    return firsts(np.concatenate([np.zeros(30, bool), np.abs(z) > 3.5]))


def thrice_running_mean(x: Array) -> list[int]:
    """A rise to three times the mean of the last ten accepted values (relative tolerance 2)."""
    accepted: deque[float] = deque([float(x[0])], maxlen=10)
    found = np.zeros(len(x), bool)
    for t, one in enumerate(x[1:].tolist(), start=1):
        mean = math.fsum(accepted) / len(accepted)
        if one > accepted[-1] and abs(one - mean) >= 2.0 * mean:
            found[t] = True
        else:
            accepted.append(one)
    return firsts(found)


def twice_window_mean(x: Array) -> list[int]:
    """Five values in a row at twice the mean of the window before, or half a window above its cap.

    The window is a twentieth of the run and at least 100 values; the cap is the largest value of
    the first window.
    """
    window = max(100, len(x) // 20)
    rows = before(x, window)
    over = x >= 2.0 * rows.mean(axis=1)  # nan compares false: not before the first window is full
    cap = x[:window].max()
    high = (rows > cap).sum(1) >= window / 2
    high[: 2 * window] = False
    return sorted({t + 4 for t in runs(over, 5)} | set(firsts(high)))


def runs(found: NDArray[np.bool_], length: int) -> list[int]:
    """Where stretches of at least ``length`` begin."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], found.astype(int), [0]])))
    return [int(a) for a, b in zip(edges[::2], edges[1::2], strict=True) if b - a >= length]


def firsts(found: NDArray[np.bool_]) -> list[int]:
    """Where stretches begin."""
    return runs(found, 1)


PEERS: dict[str, Rule] = {
    "two-sided CUSUM": two_sided_cusum,
    "z-score 3.5": z_score,
    "3 x running mean": thrice_running_mean,
    "2 x window mean": twice_window_mean,
}
