"""Critical slowing down: a rising variance or memory of the fluctuations, against surrogates."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from foreshock.stats.autocorrelation import memory
from foreshock.stats.detrend import detrend
from foreshock.types import Alarm, Estimate

Array = NDArray[np.float64]
Indicator = Literal["variance", "memory"]

#: Surrogate series, and the grid of lag-1 coefficients they are simulated on.
SURROGATES, GRID = 4000, 0.05

_PACK = struct.Struct("=d").pack


def kendall(rows: Array) -> Array:
    """Kendall's τ of each row with time.

    Args:
        rows: (m, n) Series.

    Returns:
        (m,) Share of rising pairs less share of falling ones; ties count as neither.

    Examples:
        >>> kendall(np.array([[1.0, 2.0, 3.0], [3.0, 1.0, 2.0]])).round(3).tolist()
        [1.0, -0.333]
    """
    n = rows.shape[1]
    total = np.zeros(len(rows))
    for gap in range(1, n):
        total += np.sign(rows[:, gap:] - rows[:, :-gap]).sum(1)
    return total / (n * (n - 1) / 2)


def rolling(rows: Array, width: int, indicator: Indicator) -> Array:
    """An indicator in every window of a length.

    Args:
        rows: (m, n) Detrended series.
        width: Length of the windows.
        indicator: Variance, or lag-1 autocorrelation, both about the mean of the window.

    Returns:
        (m, n − width + 1) The indicator, oldest window first.

    Examples:
        >>> rolling(np.array([[1.0, -1.0, 2.0, -2.0]]), 2, "variance").tolist()
        [[1.0, 2.25, 4.0]]
    """

    def means(x: Array, w: int) -> Array:
        sums = np.concatenate([np.zeros((len(x), 1)), np.cumsum(x, axis=1)], axis=1)
        return (sums[:, w:] - sums[:, :-w]) / w

    mean = means(rows, width)
    variance = means(rows**2, width) - mean**2
    if indicator == "variance":
        return variance
    products = means(rows[:, 1:] * rows[:, :-1], width - 1)
    return (products - mean**2) / np.maximum(variance, 1e-300)


@lru_cache(maxsize=256)
def surrogate_trends(window: int, bandwidth: float, indicator: Indicator, phi: float) -> Array:
    """What τ reads on stationary AR(1) series, treated like the recorded one.

    Args:
        window: Length of a series.
        bandwidth: Width of the kernel that detrends.
        indicator: What trends.
        phi: Lag-1 coefficient.

    Returns:
        (`SURROGATES`,) sorted τ. The generator is private and fixed, so a replay finds the same.
    """
    from scipy.signal import lfilter

    rng = np.random.default_rng([2012, window])
    shocks = rng.standard_normal((window, SURROGATES))
    shocks[0] /= math.sqrt(1 - phi * phi)
    series = np.asarray(lfilter([1.0], [1.0, -phi], shocks, axis=0), dtype=np.float64)
    residuals = _without_trend(series, bandwidth)
    return np.sort(kendall(rolling(residuals.T, window // 2, indicator)))


def _without_trend(series: Array, bandwidth: float) -> Array:
    """Columns without what a Gaussian kernel smooths."""
    return detrend(series, "gaussian", bandwidth).values


class CriticalSlowingState(NamedTuple):
    """The last values as bytes, how many came since a test, and whether an alarm stands."""

    values: bytes = b""
    since: int = 0
    standing: bool = False


@dataclass(frozen=True)
class CriticalSlowing:
    """Alarm when fluctuations grow, or slow down, more than stationary noise ever seems to.

    Every ``every`` values the last ``window`` are detrended with a Gaussian kernel of width
    ``window``/5; variance or lag-1 autocorrelation is taken in rolling windows of half the length,
    and Kendall's τ of it with time is compared with 4,000 AR(1) surrogates of the same lag-1
    coefficient (bias-corrected, to .05) treated the same way. Rolling windows overlap, so τ
    scatters several times wider than its textbook formula, which is why surrogates must be the
    judge. The alarm is a one-sided p below ``level``; another needs a test above it first.

    A rise of either is what the approach to a bifurcation looks like, and also what a larger
    learning rate or a smaller batch looks like: the alarm says that fluctuations changed.

    False alarms per 10,000 values as measured (``foreshock bench detectors``, 134,000 values):
    variance 1.0 [0.3, 1.9], mostly where the noise is large or changes (5 on noise of .1 to 1, 3 on
    noise with regimes), memory 0.8 [0.4, 1.5]. Its power is
    small: a variance that grew by e⁴ within 500 values was found in 40 of 40 series, a coefficient
    that grew from .2 to .95 in 7 of 40 (memory) or 5 of 40 (variance). A test costs 1.3 ms.

    Args:
        series: Series to read.
        indicator: ``"variance"`` or ``"memory"`` (lag-1 autocorrelation).
        level: p that alarms.
        window: Values a test looks at, 40 to 200.
        every: Values between tests.
        name: Name of the detector; from series and indicator if not given.

    Raises:
        ValueError: If an argument is out of range.

    References:
        Dakos et al., PLoS ONE 7 (2012) e41010; Boettiger & Hastings, J. R. Soc. Interface 9 (2012)
        2527.

    Examples:
        >>> rule = CriticalSlowing("loss")
        >>> rng = np.random.default_rng(0)
        >>> state, alarms = rule.init(), []
        >>> for t in range(600):
        ...     x = rng.standard_normal() * (1.0 if t < 400 else math.exp((t - 400) / 50))
        ...     state, alarm = rule.update(state, t, {"loss": Estimate(x, n=1)})
        ...     alarms += [alarm.step] if alarm else []
        >>> alarms
        [499]
    """

    series: str = "loss"
    indicator: Indicator = "variance"
    level: float = 0.001
    window: int = 200
    every: int = 20
    name: str = ""

    def __post_init__(self) -> None:
        if self.indicator not in ("variance", "memory"):
            raise ValueError(
                "The `indicator` of `CriticalSlowing` must be 'variance' or 'memory'. "
                f"Got {self.indicator!r}."
            )
        if not 1 / SURROGATES < self.level < 1:
            raise ValueError(
                f"The `level` of `CriticalSlowing` must be in (1/{SURROGATES}, 1): fewer than one "
                f"surrogate lies beyond it. Got {self.level}."
            )
        if not 40 <= self.window <= 200:
            raise ValueError(
                f"The `window` of `CriticalSlowing` must be 40 to 200. Got {self.window}."
            )
        if self.every < 1:
            raise ValueError(
                f"The `every` of `CriticalSlowing` must be at least 1. Got {self.every}."
            )
        if not self.name:
            object.__setattr__(self, "name", f"critical_slowing({self.series} {self.indicator})")

    @property
    def reads(self) -> tuple[str, ...]:
        """The one series."""
        return (self.series,)

    def init(self) -> CriticalSlowingState:
        """No values."""
        return CriticalSlowingState()

    def chance(self, values: Array) -> tuple[float, float]:
        """Kendall's τ of the indicator in a window, and its p against the surrogates.

        Args:
            values: (window,) Values, oldest first; not constant.

        Returns:
            τ and the share of surrogates, itself included, that rise as steadily.
        """
        bandwidth = self.window / 5
        residuals = _without_trend(values, bandwidth)
        rows = rolling(residuals[None], self.window // 2, self.indicator)
        trend = float(kendall(rows)[0])
        phi = GRID * round(min(max(memory(values), 0.0), 0.95) / GRID)
        null = surrogate_trends(self.window, bandwidth, self.indicator, round(phi, 3))
        above = len(null) - int(np.searchsorted(null, trend - 1e-12))
        return trend, (1 + above) / (1 + len(null))

    def update(
        self, state: CriticalSlowingState, step: int, values: Mapping[str, Estimate]
    ) -> tuple[CriticalSlowingState, Alarm | None]:
        """Take one value; what is not resolved is passed over."""
        one = values[self.series]
        if not one.resolved:
            return state, None
        recent = (state.values + _PACK(one.value))[-8 * self.window :]
        since = state.since + 1
        if len(recent) < 8 * self.window or since < self.every:
            return CriticalSlowingState(recent, since, state.standing), None
        window = np.frombuffer(recent)
        if float(np.ptp(window)) <= 1e-6 * float(np.abs(window).max()):
            return CriticalSlowingState(recent, 0, False), None
        trend, p = self.chance(window)
        standing = p <= self.level
        kept = CriticalSlowingState(recent, 0, standing)
        if not standing or state.standing:
            return kept, None
        sentence = (
            f"The {self.indicator} of {self.series} has risen through the last {self.window} "
            f"values: Kendall's tau {trend:.2f}, p = {p:.1g} against stationary noise."
        )
        return kept, Alarm(step, self.name, self.series, p, self.level, sentence)
