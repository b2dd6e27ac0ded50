"""The published rules of early stopping by p, C and I, exactly as written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from foreshock.detectors.reading import resolved_row
from foreshock.stats.published import early_stop_signal
from foreshock.types import Alarm, Estimate

_BECAUSE = {
    "p": "p was below .45 at each of the last {n} records",
    "c": "C never rose and fell over the last {n} records",
    "i": "I = {i:.3g} is negative, called divergence",
}


@dataclass(frozen=True)
class PublishedEarlyStopState:
    """The last values of p, C and I, oldest first, and whether it said stop."""

    p: tuple[float, ...] = ()
    c: tuple[float, ...] = ()
    i: tuple[float, ...] = ()
    fired: bool = False


@dataclass(frozen=True)
class PublishedEarlyStop:
    """Alarm once, when one of the three published rules says stop; uses the past only.

    Source: signal 11.4. p < .45 throughout the last `window` records, or C never rising in them and
    lower at the end, or I < 0; in this order. The value of the alarm is the number of the rule that
    fired.

    Kept to be tested, not to be followed: p grows with the batch size, so the first rule stops
    healthy runs of small batches at the first moment it can; I is positive by construction with the
    shipped placeholders (``published/i_placeholder_signal``) and negative in every stable run with
    the measured S, so the third never fires or always. As measured (``foreshock bench
    published_detectors``) in runs of 5,000 records where nothing happens, p = .5, C = 1 and I = .1
    with standard deviations of .1, .2 and .1: in 10 of 10, on white noise, AR(1) noise and
    exponential decays. An alarm says stop, and which rule.

    Args:
        series: p to read.
        ratio: C to read.
        coefficient: I to read.
        window: Records looked at, from 2 to 50.
        name: Name of the detector.

    Raises:
        ValueError: If ``window`` is out of range.

    Examples:
        >>> rule, alarms = PublishedEarlyStop(), []
        >>> state = rule.init()
        >>> for t in range(12):
        ...     row = dict(zip(rule.reads, map(Estimate.plain, (0.3, 0.43, 0.02))))
        ...     state, alarm = rule.update(state, t, row)
        ...     alarms += [alarm.step] if alarm else []
        >>> alarms
        [9]
    """

    series: str = "published/p_signal"
    ratio: str = "published/c_signal"
    coefficient: str = "published/i_signal"
    window: int = 10
    name: str = "published_early_stop"

    def __post_init__(self) -> None:
        if not 2 <= self.window <= 50:
            raise ValueError(
                "The `window` of `PublishedEarlyStop` must be from 2 to 50 records. Got "
                f"{self.window}; as published it is 10."
            )

    @property
    def reads(self) -> tuple[str, ...]:
        """p, C and I."""
        return (self.series, self.ratio, self.coefficient)

    def init(self) -> PublishedEarlyStopState:
        """Nothing seen."""
        return PublishedEarlyStopState()

    def update(
        self, state: PublishedEarlyStopState, step: int, values: Mapping[str, Estimate]
    ) -> tuple[PublishedEarlyStopState, Alarm | None]:
        """Take the numbers of one step; without all three nothing happens."""
        row = resolved_row(self.reads, values)
        if row is None or state.fired:
            return state, None
        numbers = tuple(one.value for one in row)
        p, c, i = (
            (*past, new)[-self.window :]
            for past, new in zip((state.p, state.c, state.i), numbers, strict=True)
        )
        stops, rule = early_stop_signal(p, c, i, self.window)
        if not stops:
            return PublishedEarlyStopState(p, c, i), None
        place = "pci".index(rule)
        threshold = (0.45, c[0], 0.0)[place]
        sentence = f"Stop: {_BECAUSE[rule].format(n=self.window, i=i[-1])}."
        alarm = Alarm(step, self.name, self.reads[place], numbers[place], threshold, sentence)
        return PublishedEarlyStopState(fired=True), alarm
