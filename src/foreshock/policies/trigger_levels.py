"""Triggers on the level of a series: below a threshold, and turned after a minimum below it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from foreshock.policies.triggers import Cause, Stateless, trusted
from foreshock.types import Alarm, Estimate


@dataclass(frozen=True)
class BelowState:
    """Whether the series is below and has fired for it."""

    fired: bool = False


@dataclass(frozen=True)
class Below:
    """Fires at the first value below a threshold, and again only after a value not below it.

    Args:
        series: What to read.
        threshold: Below which it fires.

    Examples:
        >>> trigger, fired = Below("latent/c", 0.5), []
        >>> state = trigger.init()
        >>> for t, c in enumerate([0.9, 0.4, 0.3, 0.6, 0.2]):
        ...     state, cause = trigger.update(state, t, {"latent/c": Estimate(c)}, [])
        ...     fired += [t] if cause else []
        >>> fired
        [1, 4]
    """

    series: str
    threshold: float

    def __post_init__(self) -> None:
        _finite("Below", "threshold", self.threshold)

    @property
    def reads(self) -> tuple[str, ...]:
        """The one series."""
        return (self.series,)

    def init(self) -> BelowState:
        """Not below."""
        return BelowState()

    def update(
        self, state: BelowState, step: int, values: Mapping[str, Estimate], alarms: Sequence[Alarm]
    ) -> tuple[BelowState, Cause | None]:
        """Take one value."""
        x = trusted(values, self.series)
        if x is None:
            return state, None
        if x >= self.threshold:
            return BelowState(), None
        if state.fired:
            return state, None
        reason = f"{self.series} fell to {x:.4g}, below {self.threshold:.4g}."
        return BelowState(fired=True), Cause(self.series, x, self.threshold, reason)


@dataclass(frozen=True)
class PublishedBelow:
    """Fires at every step below the threshold, after step 10: the published rule, as its code is.

    The text says t* = argmin_t C(t) subject to C < threshold, which needs the whole future; the
    code says ``if C < threshold and step > 10``. Without a refractory period a C that stays low
    resets at every one of its steps: put it in `Guarded` to space them. `TurnsUp` is the causal
    form of what the text says.

    Args:
        series: What to read.
        threshold: Below which it fires; .5 as published, where no source is given for it.
        after: Last step at which it cannot fire.

    References:
        The document "fokker_planck", sections 5.1 and 12.

    Examples:
        >>> trigger = PublishedBelow()
        >>> low = {"published/c_wrapper_fp": Estimate(0.1)}
        >>> [t for t in range(14) if trigger.update(trigger.init(), t, low, [])[1]]
        [11, 12, 13]
    """

    series: str = "published/c_wrapper_fp"
    threshold: float = 0.5
    after: int = 10

    def __post_init__(self) -> None:
        _finite("PublishedBelow", "threshold", self.threshold)

    @property
    def reads(self) -> tuple[str, ...]:
        """The one series."""
        return (self.series,)

    def init(self) -> Stateless:
        """Nothing to remember."""
        return Stateless()

    def update(
        self, state: Stateless, step: int, values: Mapping[str, Estimate], alarms: Sequence[Alarm]
    ) -> tuple[Stateless, Cause | None]:
        """Compare one value."""
        x = trusted(values, self.series)
        if x is None or x >= self.threshold or step <= self.after:
            return state, None
        reason = f"{self.series} is {x:.4g}, below {self.threshold:.4g} (the published rule)."
        return state, Cause(self.series, x, self.threshold, reason)


@dataclass(frozen=True)
class TurnsUpState:
    """Running minimum, whether it fired for it, the last value, and the last differences."""

    lowest: float = math.inf
    fired: bool = False
    last: float | None = None
    differences: tuple[float, ...] = ()


@dataclass(frozen=True)
class TurnsUp:
    """Fires once a minimum below the threshold has turned: the causal form of t* = argmin C.

    A minimum is known only after it. It counts as turned when the series lies above its running
    minimum by more than both ``rise`` times its size and ``noise`` standard deviations of the
    series' own noise, sigma = 1.4826 median(abs differences)/sqrt(2) over the last ``span`` of
    them; with fewer than 5 differences nothing fires. It then waits until the series was at or
    above the threshold and begins anew. The value that fires may lie above the threshold: it is the
    minimum that must lie below.

    The price of causality is delay, and a first dip that turns is taken for the lowest one: on the
    way down to a lower minimum it has fired already. A series that merely fluctuates below the
    threshold turns as well, since the minimum of many values lies far out. Of 100 such runs of 500
    values with rise 0, 92, 32, 14 and 3 fired at noise 7, 10, 12 and 14 in white noise, and all 100
    at each of them in AR(1) noise of coefficient .9, whose differences understate how far it
    wanders: there ``rise`` has to exceed the fluctuations.

    Args:
        series: What to read.
        threshold: The minimum must lie below it.
        rise: Least rise over the size of the minimum, at least 0.
        noise: Least rise in standard deviations of the noise, at least 0.
        span: Differences that make the noise, at least 5.

    Raises:
        ValueError: If an argument is out of range.

    References:
        The document "fokker_planck", section 5.1 (the rule that looks ahead).

    Examples:
        >>> trigger, fired = TurnsUp("latent/c", 0.5), []
        >>> state = trigger.init()
        >>> for t in range(40):
        ...     c = 0.2 + 0.03 * abs(t - 20)
        ...     state, cause = trigger.update(state, t, {"latent/c": Estimate(c)}, [])
        ...     fired += [t] if cause else []
        >>> fired
        [28]
    """

    series: str
    threshold: float
    rise: float = 0.1
    noise: float = 7.0
    span: int = 20

    def __post_init__(self) -> None:
        _finite("TurnsUp", "threshold", self.threshold)
        for name in ("rise", "noise"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(
                    f"The `{name}` of `TurnsUp` must be finite and at least 0. "
                    f"Got {getattr(self, name)}."
                )
        if self.span < 5:
            raise ValueError(f"The `span` of `TurnsUp` must be at least 5. Got {self.span}.")

    @property
    def reads(self) -> tuple[str, ...]:
        """The one series."""
        return (self.series,)

    def init(self) -> TurnsUpState:
        """No minimum."""
        return TurnsUpState()

    def update(
        self,
        state: TurnsUpState,
        step: int,
        values: Mapping[str, Estimate],
        alarms: Sequence[Alarm],
    ) -> tuple[TurnsUpState, Cause | None]:
        """Take one value."""
        x = trusted(values, self.series)
        if x is None:
            return state, None
        if state.last is not None:
            kept = (*state.differences, x - state.last)[-self.span :]
            state = replace(state, differences=kept)
        state = replace(state, last=x)
        if state.fired:
            again = x >= self.threshold
            return (replace(state, fired=False, lowest=math.inf) if again else state), None
        if x < state.lowest:
            return replace(state, lowest=x), None
        if state.lowest >= self.threshold or len(state.differences) < 5:
            return state, None
        sigma = 1.4826 * median(abs(d) for d in state.differences) / math.sqrt(2)
        needed = max(self.rise * abs(state.lowest), self.noise * sigma)
        if x - state.lowest <= needed:
            return state, None
        bar = state.lowest + needed
        reason = (
            f"{self.series} turned: its minimum {state.lowest:.4g} lies below "
            f"{self.threshold:.4g}, and it has risen to {x:.4g}, past {bar:.4g}."
        )
        return replace(state, fired=True), Cause(self.series, x, bar, reason)


def _finite(owner: str, name: str, value: float) -> None:
    if not math.isfinite(value):
        raise ValueError(f"The `{name}` of `{owner}` must be finite. Got {value}.")
