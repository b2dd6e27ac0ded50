"""Page-Hinkley: a cumulative sum against the mean of everything so far (Hinkley, 1971)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from foreshock.detectors.baseline import Baseline
from foreshock.types import Alarm, Estimate


@dataclass(frozen=True)
class PageHinkleyState:
    """The values so far, and how far the sum stands above its lowest."""

    baseline: Baseline = Baseline()
    total: float = 0.0


@dataclass(frozen=True)
class PageHinkley:
    """Alarm when the sum of deviations from the mean of all values has turned round.

    m_t = Σ_s (±r_s − drift) with residuals r_s = (x_s − x̄_{s−1})/σ_{s−1} against mean and standard
    deviation of *all* values before, and the alarm is m_t − min_s m_s > threshold; then everything
    starts anew. Against `CUSUM` the baseline is never forgotten and the allowance is small, for
    small lasting changes. The textbook leaves the unit of x in; here ``drift`` and ``threshold``
    are in standard deviations.

    False alarms per 10,000 values as measured (``foreshock bench detectors``), upwards: 0 [0, 1.5]
    on white noise, .4 on AR(1) noise with coefficient .5, 24 with .9, 21 with .99; 0 on exponential
    and power-law decays, whose mean of everything lies above them, which is also why it sees a
    spike late in a decay least: a jump by 3 was found in 33 of 50 runs.

    Args:
        series: Series to read.
        direction: ``"up"`` or ``"down"``.
        drift: Allowance, in standard deviations.
        threshold: Height that alarms, in standard deviations.
        warmup: Values that only make the baseline.
        name: Name of the detector; from series and direction if not given.

    Raises:
        ValueError: If an argument is out of range.

    References:
        Page, Biometrika 41 (1954) 100; Hinkley, Biometrika 58 (1971) 509.

    Examples:
        >>> rule = PageHinkley("loss", warmup=20)
        >>> state, alarms = rule.init(), []
        >>> for t in range(300):
        ...     x = 1.0 + 0.1 * (-1) ** t + (0.3 if t >= 200 else 0.0)
        ...     state, alarm = rule.update(state, t, {"loss": Estimate(x, n=1)})
        ...     alarms += [alarm.step] if alarm else []
        >>> alarms
        [220]
    """

    series: str = "loss"
    direction: Literal["up", "down"] = "up"
    drift: float = 0.1
    threshold: float = 50.0
    warmup: int = 50
    name: str = ""

    def __post_init__(self) -> None:
        if self.direction not in ("up", "down"):
            raise ValueError(
                f"The `direction` of `PageHinkley` must be 'up' or 'down'. Got {self.direction!r}."
            )
        for field in ("drift", "threshold"):
            if not getattr(self, field) > 0:
                raise ValueError(
                    f"The `{field}` of `PageHinkley` must be positive. Got {getattr(self, field)}."
                )
        if self.warmup < 2:
            raise ValueError(
                f"The `warmup` of `PageHinkley` must be at least 2. Got {self.warmup}."
            )
        if not self.name:
            object.__setattr__(self, "name", f"page_hinkley({self.series} {self.direction})")

    @property
    def reads(self) -> tuple[str, ...]:
        """The one series."""
        return (self.series,)

    def init(self) -> PageHinkleyState:
        """No values."""
        return PageHinkleyState()

    def update(
        self, state: PageHinkleyState, step: int, values: Mapping[str, Estimate]
    ) -> tuple[PageHinkleyState, Alarm | None]:
        """Take one value; what is not resolved is passed over."""
        one = values[self.series]
        if not one.resolved:
            return state, None
        x = one.value
        total, baseline = 0.0, state.baseline
        if baseline.count >= self.warmup and baseline.deviation > 0:
            residual = baseline.residual(x)
            signed = residual if self.direction == "up" else -residual
            # m_t − min m_s, without the two: the sum held at 0 from below.
            total = max(0.0, state.total + signed - self.drift)
            if total > self.threshold:
                side = "risen" if self.direction == "up" else "fallen"
                sentence = (
                    f"{self.series} has {side} from the mean {baseline.mean:.3g} of all its "
                    f"{baseline.count} values: the sum of deviations turned by {total:.1f} "
                    "standard deviations."
                )
                alarm = Alarm(step, self.name, self.series, total, self.threshold, sentence)
                return PageHinkleyState(), alarm
            x = baseline.usual(x)
        return PageHinkleyState(baseline.followed_by(x, math.inf), total), None
