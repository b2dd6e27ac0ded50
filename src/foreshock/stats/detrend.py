"""Take a trend from a series, and know what it takes along from a series with memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Kind = Literal["mean", "linear", "gaussian"]


@dataclass(frozen=True)
class Residuals:
    """A detrended series.

    Args:
        values: (n,) What is left, Dx.
        kind: How it was detrended.
        bandwidth: Width of the kernel, if there is one.
    """

    values: Array
    kind: Kind
    bandwidth: float

    @property
    def freedom(self) -> float:
        """Degrees of freedom the trend took: 1 for a mean, 2 for a line."""
        return len(self.values) - self.left(0.0)

    def left(self, phi: float) -> float:
        """E[sum of squares]/σ² for an AR(1) series: n less what the trend takes."""
        n = len(self.values)
        decay = np.float64(phi) ** np.arange(n)
        if self.kind == "gaussian":
            matrix = _kernel_detrender(n, self.bandwidth)
            lags = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
            return float(((matrix.T @ matrix) * decay[lags]).sum())
        basis = [np.full(n, n**-0.5)]
        if self.kind == "linear":
            t = np.arange(n) - (n - 1) / 2
            basis.append(t / float(np.linalg.norm(t)))
        return n - sum(quadratic_form(q, decay) for q in basis)


def quadratic_form(q: Array, decay: Array) -> float:
    """Σ_ts q_t q_s φ^|t−s| from the powers of φ, by the autocovariance of q."""
    n = len(q)
    overlap = np.fft.irfft(np.abs(np.fft.rfft(q, 2 * n)) ** 2, 2 * n)[:n]
    return float(overlap[0] * decay[0] + 2 * (overlap[1:] @ decay[1:]))


def detrend(values: ArrayLike, kind: Kind = "linear", bandwidth: float = 0.0) -> Residuals:
    r"""Take the mean, a line or a Gaussian-kernel smooth from a series.

    The smoother is S_ts = w(t − s)/Σ_s w(t − s), w(u) = exp(−u²/2h²), normalised at the ends
    (Nadaraya-Watson), on what a line has left, since a kernel mean lags behind a trend at the ends.
    What is slower than h is lost from every statistic of the residuals; h must be long against the
    memory one wants to see.

    Args:
        values: (n,).
        kind: ``mean``, ``linear`` or ``gaussian``.
        bandwidth: h in samples, for ``gaussian``.

    Returns:
        Residuals. Cost O(n), with a kernel O(n²) memory and time.

    Raises:
        ValueError: If `kind` is unknown or a Gaussian kernel has no positive bandwidth.

    Examples:
        >>> found = detrend(3.0 * np.arange(9) + 1)
        >>> bool(np.abs(found.values).max() < 1e-12), round(found.freedom, 9)
        (True, 2.0)
    """
    x = np.asarray(values, dtype=np.float64)
    if kind not in ("mean", "linear", "gaussian"):
        raise ValueError(
            f"The `kind` of `detrend` must be 'mean', 'linear' or 'gaussian'. Got {kind!r}."
        )
    if kind == "gaussian" and not bandwidth > 0:
        raise ValueError(f"The `bandwidth` of `detrend` must be positive. Got {bandwidth}.")
    return Residuals(detrended(x, kind, float(bandwidth)), kind, float(bandwidth))


def detrended(x: Array, kind: Kind, bandwidth: float) -> Array:
    """Dx along the first axis."""
    n = len(x)
    if kind == "gaussian":
        return _kernel_detrender(n, bandwidth) @ x
    rest = x - x.mean(0)
    if kind == "mean":
        return rest
    t = np.arange(n) - (n - 1) / 2
    return rest - np.multiply.outer(t, t @ rest / max(float(t @ t), 1.0))


@lru_cache(maxsize=4)
def _kernel_detrender(n: int, bandwidth: float) -> Array:
    """D of the kernel, (n, n). The line goes first: at its ends a kernel mean lags behind it."""
    t = np.arange(n) - (n - 1) / 2
    smoother = np.exp(-0.5 * ((t[:, None] - t) / bandwidth) ** 2)
    matrix = np.eye(n) - smoother / smoother.sum(1, keepdims=True)
    return detrended(matrix.T, "linear", 0.0).T  # the projection on a line is symmetric
