"""Phase transition: the consolidation ratio drops, entropy production spikes, the loss stands."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from foreshock.types import Alarm, Estimate

#: Median absolute deviation of a normal law to its standard deviation.
_MAD = 1.4826


@dataclass(frozen=True)
class PhaseTransitionState:
    """The last values of each series, oldest first, and how many are left of the pause."""

    c: tuple[float, ...] = ()
    production: tuple[float, ...] = ()
    loss: tuple[float, ...] = ()
    pause: int = 0


@dataclass(frozen=True)
class PhaseTransition:
    """Alarm when C drops and the entropy production spikes while the loss stands still.

    The causal form of the rule of "fokker_planck" (5.3). At every step that has all three series,
    with median and 1.48 MAD over the `window` values before it:

    1. z of C[t] - C[t-1] among the differences before it is below -`drop`;
    2. z of the entropy production among the values before it is above `spike`;
    3. |loss[t] - loss[t-lag]| is at most `plateau` sqrt(2) s, s the noise of the loss from one
       value to the next, by its detrended differences. So a loss that is all noise stands still in
       95 % of the steps, and one that falls by more than its noise over `lag` does not.

    Values that are not finite or not resolved are passed over, with all three series; a series that
    did not move at all in the window cannot drop or spike. After an alarm it rests for `refractory`
    such steps. Nothing after t enters.

    False alarms per 10,000 values as measured (``foreshock bench detectors``, defaults), for three
    independent series: 0 [0, 0.4] on white noise, 0.1 and 0.2 [0, 0.7] on AR(1) noise with
    coefficient .5 and .9, 0 on an exponential decay. Where the noise of the entropy production is
    that of C with the sign turned, the worst case: 6.2, 2.8, 1.0, and 9.3 on a decay with white
    noise. An alarm says that the three things happened together, not that a capability follows.

    Args:
        series: Consolidation ratio to read.
        production: Entropy production to read.
        loss: Loss to read.
        drop: Of the one-step change of C, in robust standard deviations.
        spike: Of the entropy production, in robust standard deviations.
        plateau: Of the change of the loss over `lag`, in standard deviations of such a change under
            noise alone.
        lag: Over how many values the loss must stand.
        window: Values that make the medians.
        refractory: Values after an alarm in which no other is raised.
        name: Name of the detector.

    Raises:
        ValueError: If an argument is out of range.

    References:
        The document "fokker_planck", 5.3; as published in `foreshock.stats.published`.

    Examples:
        >>> rule, alarms = PhaseTransition("c", "production", "loss"), []
        >>> state = rule.init()
        >>> for t in range(100):
        ...     wave = 0.1 * math.sin(7.0 * t)
        ...     c, production = 5.0 + wave, 1.0 + wave
        ...     if t == 80:
        ...         c, production = 1.0, 4.0
        ...     row = {"c": c, "production": production, "loss": 0.5 + 0.01 * wave}
        ...     row = {name: Estimate(value, n=1) for name, value in row.items()}
        ...     state, alarm = rule.update(state, t, row)
        ...     alarms += [alarm.step] if alarm else []
        >>> alarms
        [80]
    """

    series: str = "latent/c"
    production: str = "latent/entropy_production"
    loss: str = "loss"
    drop: float = 3.0
    spike: float = 3.0
    plateau: float = 2.0
    lag: int = 10
    window: int = 50
    refractory: int = 50
    name: str = "phase_transition"

    def __post_init__(self) -> None:
        for field in ("drop", "spike", "plateau"):
            value = getattr(self, field)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(
                    f"The `{field}` of `PhaseTransition` must be positive. Got {value}."
                )
        if self.lag < 1 or self.refractory < 0:
            raise ValueError(
                "The `lag` of `PhaseTransition` must be at least 1 and its `refractory` at least "
                f"0. Got {self.lag} and {self.refractory}."
            )
        if self.window < max(10, self.lag + 1):
            raise ValueError(
                "The `window` of `PhaseTransition` must be at least 10, for its medians, and "
                f"longer than its `lag` of {self.lag}. Got {self.window}."
            )

    @property
    def reads(self) -> tuple[str, ...]:
        """Consolidation ratio, entropy production, loss; a series named twice is read once."""
        return tuple(dict.fromkeys((self.series, self.production, self.loss)))

    def init(self) -> PhaseTransitionState:
        """Nothing seen."""
        return PhaseTransitionState()

    def update(
        self, state: PhaseTransitionState, step: int, values: Mapping[str, Estimate]
    ) -> tuple[PhaseTransitionState, Alarm | None]:
        """Take the values of one step; without all three nothing happens."""
        if not all(name in values and values[name].resolved for name in self.reads):
            return state, None
        c, production, loss = (
            values[name].value for name in (self.series, self.production, self.loss)
        )
        after = replace(
            state,
            # One value more of C and of the loss, so that they have `window` differences.
            c=(*state.c, c)[-self.window - 1 :],
            production=(*state.production, production)[-self.window :],
            loss=(*state.loss, loss)[-self.window - 1 :],
            pause=max(state.pause - 1, 0),
        )
        if state.pause or len(state.c) <= self.window:
            return after, None
        fall = _z(c - state.c[-1], _differences(state.c))
        rise = _z(production, state.production)
        if not (fall < -self.drop and rise > self.spike and self._stands(state.loss, loss)):
            return after, None
        sentence = (
            f"{self.series} dropped from {state.c[-1]:.3g} to {c:.3g} ({fall:.1f} robust standard "
            f"deviations) and {self.production} rose to {production:.3g} ({rise:+.1f}), while "
            f"{self.loss} stood still."
        )
        alarm = Alarm(step, self.name, self.series, fall, -self.drop, sentence)
        return replace(after, pause=self.refractory), alarm

    def _stands(self, past: Sequence[float], now: float) -> bool:
        """Whether the loss moved by no more over `lag` values than its own noise."""
        steps = _differences(past)
        centre = median(steps)
        # A difference of two independent values has sqrt(2) of the noise, over one step or ten.
        of_difference = _MAD * median(abs(x - centre) for x in steps)
        return abs(now - past[-self.lag]) <= self.plateau * of_difference


def _differences(values: Sequence[float]) -> list[float]:
    return [b - a for a, b in zip(values, values[1:], strict=False)]


def _z(value: float, past: Sequence[float]) -> float:
    """Robust z-score of a value among those before it; 0 where these do not vary."""
    centre = median(past)
    scale = _MAD * median(abs(x - centre) for x in past)
    return (value - centre) / scale if scale > 0 else 0.0
