"""The published detector of phase transitions, its formulas by the letter, on the past only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from foreshock.detectors.reading import resolved_row
from foreshock.stats.published import transitions_fp
from foreshock.types import Alarm, Estimate


@dataclass(frozen=True)
class PublishedTransitionsState:
    """The last values of C, of the entropy production and of the loss, oldest first."""

    c: tuple[float, ...] = ()
    production: tuple[float, ...] = ()
    loss: tuple[float, ...] = ()


@dataclass(frozen=True)
class PublishedTransitions:
    """Alarm when the published function finds a transition at the newest index it can.

    Source: fokker_planck 5.3. At each record `foreshock.stats.published.transitions_fp` is run on
    the last `horizon` records, this one among them, so its means and deviations are of the past;
    the document takes them over the whole run, future included. The newest index it can return, of
    the last difference of C, stands for this record; the entropy production that is matched with it
    is that of the record before, as published. Of several series it needs all three at a record.

    Kept to be tested, not to be followed: its "plateau" is the tenth difference of the loss, below
    1e-4 in the unit of the loss. That multiplies noise by 430 and removes every trend up to the
    ninth power, so with noise of 1e-3 in the loss it practically never fires, and on a smooth
    falling loss the condition is empty. `PhaseTransition` is the causal form. Alarms per 10,000
    values as measured (``foreshock bench published_detectors``), three independent series, noise of
    .01 in the loss: 0 [0, .7] on white noise, on AR(1) noise, and on exponential decays.

    Args:
        series: C to read.
        production: Entropy production to read.
        loss: Loss to read.
        window: Order of the difference, called a window.
        drop: Of the difference of C, in its standard deviations.
        spike: Of the entropy production, in its standard deviations.
        tolerance: Of the loss, absolute.
        horizon: Records it looks back.
        name: Name of the detector.

    Raises:
        ValueError: If ``window`` is below 1 or ``horizon`` not beyond it.

    Examples:
        >>> rule, alarms = PublishedTransitions(), []
        >>> state = rule.init()
        >>> for t in range(30):
        ...     row = (5.0 if t < 15 else 1.0, 9.0 if t == 14 else 0.0, 1.0)
        ...     row = dict(zip(rule.reads, map(Estimate.plain, row)))
        ...     state, alarm = rule.update(state, t, row)
        ...     alarms += [alarm.step] if alarm else []
        >>> alarms
        [15]
    """

    series: str = "published/c_fp_code"
    production: str = "published/s_dot_fp"
    loss: str = "loss"
    window: int = 10
    drop: float = 0.5
    spike: float = 2.0
    tolerance: float = 1e-4
    horizon: int = 50
    name: str = "published_transitions"

    def __post_init__(self) -> None:
        if self.window < 1 or self.horizon < self.window + 2:
            raise ValueError(
                "The `window` of `PublishedTransitions` must be at least 1 and its `horizon` at "
                f"least 2 longer. Got {self.window} and {self.horizon}."
            )

    @property
    def reads(self) -> tuple[str, ...]:
        """Consolidation ratio, entropy production, loss; a series named twice is read once."""
        return tuple(dict.fromkeys((self.series, self.production, self.loss)))

    def init(self) -> PublishedTransitionsState:
        """Nothing seen."""
        return PublishedTransitionsState()

    def update(
        self, state: PublishedTransitionsState, step: int, values: Mapping[str, Estimate]
    ) -> tuple[PublishedTransitionsState, Alarm | None]:
        """Take the values of one step; without all three nothing happens."""
        if resolved_row(self.reads, values) is None:
            return state, None
        after = PublishedTransitionsState(
            (*state.c, values[self.series].value)[-self.horizon :],
            (*state.production, values[self.production].value)[-self.horizon :],
            (*state.loss, values[self.loss].value)[-self.horizon :],
        )
        newest = len(after.c) - 2
        if newest < self.window - 1:
            return after, None
        found = transitions_fp(
            after.c,
            after.production,
            after.loss,
            self.window,
            self.drop,
            self.spike,
            self.tolerance,
        )
        if newest not in found:
            return after, None
        fall = after.c[-1] - after.c[-2]
        sentence = (
            f"{self.series} fell by {-fall:.3g} after {self.production} had spiked at "
            f"{after.production[-2]:.3g}, and the difference of order {self.window} of {self.loss} "
            f"is below {self.tolerance:g}: the published criteria on the last {len(after.c)} "
            "records."
        )
        return after, Alarm(step, self.name, self.series, after.c[-1], after.c[-2], sentence)
