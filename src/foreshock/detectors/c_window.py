"""The published window of the consolidation ratio, C in [.8, 1.2]: as written, and resolved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from foreshock.detectors.reading import ends, resolved_row
from foreshock.types import Alarm, Estimate


@dataclass(frozen=True)
class PublishedCWindow:
    """Alarm at every record with `low` <= C <= `high`, exactly as published.

    Source: levy, observable 1 and the unified law. Reads the C of the listing; the form of the text
    is ``published/c_levy_text``. Kept to be tested, not to be followed: this C has the units of a
    squared gradient, so a loss in other units passes the window elsewhere or never, and a C that is
    on its way from 10 to .1 crosses it on every run, with or without an event.

    Alarms per 10,000 values as measured (``foreshock bench published_detectors``) on a C of 1 with
    a standard deviation of .2, where nothing happens: 6,800 on white noise and on AR(1) noise with
    coefficient .5 and .9; 810 on an exponential decay from 4. An alarm names C and the window.

    Args:
        series: C to read.
        low: Lower edge of the window, inside.
        high: Upper edge, inside.
        name: Name of the detector.

    Raises:
        ValueError: If the window is empty.

    Examples:
        >>> rule = PublishedCWindow()
        >>> [rule.update(None, 0, {rule.series: Estimate.plain(c)})[1] is None for c in (0.7, 1.0)]
        [True, False]
    """

    series: str = "published/c_levy_code"
    low: float = 0.8
    high: float = 1.2
    name: str = "published_c_window"

    def __post_init__(self) -> None:
        _check(self.low, self.high, "PublishedCWindow")

    @property
    def reads(self) -> tuple[str, ...]:
        """The one series."""
        return (self.series,)

    def init(self) -> None:
        """It has no memory."""

    def update(
        self, state: None, step: int, values: Mapping[str, Estimate]
    ) -> tuple[None, Alarm | None]:
        """Compare one value; what is not resolved is passed over."""
        row = resolved_row(self.reads, values)
        if row is None or not self.low <= row[0].value <= self.high:
            return None, None
        sentence = (
            f"{self.series} is {row[0].value:.3g}, inside the published window from {self.low:g} "
            f"to {self.high:g}, whose place depends on the unit of the loss."
        )
        return None, Alarm(step, self.name, self.series, row[0].value, self.low, sentence)


@dataclass(frozen=True)
class CWindowState:
    """Records in a row inside, and whether the entry was reported."""

    streak: int = 0
    inside: bool = False


@dataclass(frozen=True)
class CWindow:
    """Alarm when C has entered [`low`, `high`] for certain: once an entry, with its interval.

    The causal form of `PublishedCWindow` on the unbiased, unit-free C = |mu|^2/Tr(Sigma) of a
    batch: the whole 95 % interval lies inside at `confirm` records in a row. It is armed again by a
    record whose interval is wholly outside. Without an interval the value stands for it.

    Still no event: C is proportional to the batch size, so C = 1 says that the batch equals the
    noise scale, on healthy runs too. Where the interval is wider than the window it never fires. As
    measured with intervals of +-.1 about C = 1 it fires once in each of 10 runs of 5,000 records,
    on white and AR(1) noise alike, and once in each decay from 4: that is the entry, and no more.
    An alarm says that the batch is about the noise scale.

    Args:
        series: C to read, with its interval.
        low: Lower edge.
        high: Upper edge.
        confirm: Records in a row.
        name: Name of the detector.

    Raises:
        ValueError: If the window is empty or ``confirm`` below 1.

    Examples:
        >>> rule, alarms = CWindow(), []
        >>> state = rule.init()
        >>> for t, c in enumerate([2.0, 1.3, 1.1, 1.0, 1.0, 0.5]):
        ...     row = {"grad/snr": Estimate(c, c - 0.05, c + 0.05, n=500)}
        ...     state, alarm = rule.update(state, t, row)
        ...     alarms += [alarm.step] if alarm else []
        >>> alarms
        [3]
    """

    series: str = "grad/snr"
    low: float = 0.8
    high: float = 1.2
    confirm: int = 2
    name: str = "c_window"

    def __post_init__(self) -> None:
        _check(self.low, self.high, "CWindow")
        if self.confirm < 1:
            raise ValueError(
                f"The `confirm` of `CWindow` must be at least 1. Got {self.confirm}; 2 is the "
                "default."
            )

    @property
    def reads(self) -> tuple[str, ...]:
        """The one series."""
        return (self.series,)

    def init(self) -> CWindowState:
        """Outside."""
        return CWindowState()

    def update(
        self, state: CWindowState, step: int, values: Mapping[str, Estimate]
    ) -> tuple[CWindowState, Alarm | None]:
        """Take one value; what is not resolved is passed over."""
        row = resolved_row(self.reads, values)
        if row is None:
            return state, None
        low, high = ends(row[0])
        if high < self.low or low > self.high:
            return CWindowState(), None
        if low < self.low or high > self.high:
            return CWindowState(0, state.inside), None
        streak = min(state.streak + 1, self.confirm)
        if state.inside or streak < self.confirm:
            return CWindowState(streak, state.inside), None
        sentence = (
            f"{self.series} is {row[0].value:.3g} with its whole interval from {low:.3g} to "
            f"{high:.3g} inside [{self.low:g}, {self.high:g}]: the batch is about the noise scale."
        )
        alarm = Alarm(step, self.name, self.series, row[0].value, self.low, sentence)
        return CWindowState(streak, True), alarm


def _check(low: float, high: float, name: str) -> None:
    if not low < high:
        raise ValueError(
            f"The `low` of `{name}` must be less than its `high`. Got {low} and {high}; as "
            "published they are 0.8 and 1.2."
        )
