"""The published rule "p crosses 0.5": generalisation is said to begin when p = C/(1+C) does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from foreshock.detectors.reading import resolved_row
from foreshock.types import NAN, Alarm, Estimate


@dataclass(frozen=True)
class PCrossesHalf:
    """Alarm at every upward crossing of p through 0.5, exactly as published.

    Fires when the previous value was at most 0.5 and this one is above it. Since p = C/(1+C), it
    fires when the batch size passes the noise scale, on runs that generalise and on those that
    cannot: doubling the batch size moves the crossing. Kept to be tested, not to be followed.

    Args:
        series: Series to read.
        name: Name of the detector.

    Examples:
        >>> rule = PCrossesHalf()
        >>> state = rule.init()
        >>> state, first = rule.update(state, 0, {"grad/p_published": Estimate(0.4, n=8)})
        >>> state, second = rule.update(state, 10, {"grad/p_published": Estimate(0.6, n=8)})
        >>> first is None, second.step
        (True, 10)
    """

    series: str = "grad/p_published"
    name: str = "p_crosses_half"

    @property
    def reads(self) -> tuple[str, ...]:
        """The one series."""
        return (self.series,)

    def init(self) -> float:
        """No previous value."""
        return NAN

    def update(
        self, state: float, step: int, values: Mapping[str, Estimate]
    ) -> tuple[float, Alarm | None]:
        """Compare with the previous value; what is not resolved is passed over."""
        row = resolved_row(self.reads, values)
        if row is None:
            return state, None
        p = row[0].value
        if state <= 0.5 < p:
            sentence = (
                f"p rose from {state:.2f} to {p:.2f}: the batch size now exceeds the noise scale."
            )
            return p, Alarm(step, self.name, self.series, p, 0.5, sentence)
        return p, None
