"""Advice on the batch size. Nothing here changes a loader: the advice is recorded, with why."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median, stdev
from typing import ClassVar

from foreshock.policies.rate_rules import at_least, positive
from foreshock.policies.resets import act
from foreshock.policies.triggers import Cause, trusted
from foreshock.types import Action, Alarm, Estimate


@dataclass(frozen=True)
class BatchState:
    """The last advice and its step, and the last values of a series."""

    BELIEVED: ClassVar[tuple[str, ...]] = ("advised", "last")

    advised: float = 0.0
    last: int | None = None
    recent: tuple[float, ...] = ()


@dataclass(frozen=True)
class BatchLimits:
    """Batch sizes that may be advised, the least change worth a word, and the spacing.

    Args:
        owner: Class that asks, for the error.
        least: Smallest batch.
        most: Largest batch.
        change: Least factor between the advice and the last one, above 1.
        refractory: Least steps between two actions.

    Raises:
        ValueError: If one is out of range.

    Examples:
        >>> BatchLimits("TargetBatch", 1, 4096, 1.25, 100).near(70.4)
        70.0
    """

    owner: str
    least: int
    most: int
    change: float
    refractory: int

    def __post_init__(self) -> None:
        at_least(self.owner, "least", self.least, 1)
        at_least(self.owner, "most", self.most, self.least)
        if not (math.isfinite(self.change) and self.change > 1):
            raise ValueError(f"The `change` of `{self.owner}` must exceed 1. Got {self.change}.")
        at_least(self.owner, "refractory", self.refractory, 1)

    def near(self, batch: float) -> float:
        """The nearest whole batch size that may be advised."""
        return float(round(min(max(batch, self.least), self.most)))

    def advise(
        self, state: BatchState, step: int, policy: str, now: float, batch: float, cause: Cause
    ) -> tuple[BatchState, tuple[Action, ...]]:
        """Advise a batch size, if it is another one than the last and the time has come.

        Args:
            state: With the last advice.
            step: Optimizer step.
            policy: Name of the policy.
            now: Batch size that the cause was measured at.
            batch: The one it leads to.
            cause: Why.

        Returns:
            The next state and the action, or none.
        """
        if state.last is not None and step - state.last < self.refractory:
            return state, ()
        batch, known = self.near(batch), state.advised or now
        if max(batch / known, known / batch) < self.change:
            return state, ()
        what = f"A batch of {batch:g} examples instead of {now:g}"
        action = act(step, policy, "advise_batch", {"batch": batch, "now": now}, what, cause)
        return replace(state, advised=batch, last=step), (action,)


@dataclass(frozen=True)
class LangevinBatch:
    """Halve the batch when the loss stagnates, double it when it is chaotic.

    Published in words only; what they mean is ours, on the last ``window`` losses with halves of
    mean m1, m2 and pooled standard deviation s: *chaotic* if s exceeds ``chaotic`` times
    abs(m2), or m2 exceeds m1 by 4 standard errors of independent losses; *stagnant* if m1 - m2 is
    within one of them, s sqrt(4/window). Losses of one run are not independent, so stagnation is
    called too rarely. The window begins anew after an advice. It assumes that its advice is
    followed: the next one starts from it.

    Args:
        batch: Batch size at the start of training.
        series: The training loss, positive.
        window: Losses looked at, at least 4.
        chaotic: Relative spread, positive.
        least: Smallest batch it advises.
        most: Largest batch it advises.
        refractory: Least steps between two actions.
        name: Name of the policy.

    References:
        The document "langevin", practical recommendations, 3, which starts from 128 to 512.

    Examples:
        >>> policy = LangevinBatch(batch=256, window=10)
        >>> state = policy.init()
        >>> for t in range(10):
        ...     loss = Estimate(1.0 + 0.01 * (-1) ** t)
        ...     state, actions = policy.update(state, t, {"loss": loss}, [])
        >>> actions[0].arguments["batch"]
        128.0
    """

    batch: int
    series: str = "loss"
    window: int = 50
    chaotic: float = 1.0
    least: int = 1
    most: int = 4096
    refractory: int = 200
    name: str = "langevin_batch"

    def __post_init__(self) -> None:
        at_least("LangevinBatch", "batch", self.batch, 1)
        at_least("LangevinBatch", "window", self.window, 4)
        positive("LangevinBatch", "chaotic", self.chaotic)
        self._limits()

    def _limits(self) -> BatchLimits:
        return BatchLimits("LangevinBatch", self.least, self.most, 1.01, self.refractory)

    @property
    def reads(self) -> tuple[str, ...]:
        """The loss."""
        return (self.series,)

    def init(self) -> BatchState:
        """No loss seen."""
        return BatchState()

    def update(
        self,
        state: BatchState,
        step: int,
        values: Mapping[str, Estimate],
        alarms: Sequence[Alarm],
    ) -> tuple[BatchState, tuple[Action, ...]]:
        """Take one loss."""
        x = trusted(values, self.series)
        if x is None:
            return state, ()
        state = replace(state, recent=(*state.recent, x)[-self.window :])
        if len(state.recent) < self.window:
            return state, ()
        half = self.window // 2
        first, second = state.recent[:half], state.recent[half:]
        m1, m2 = fmean(first), fmean(second)
        s = math.sqrt((stdev(first) ** 2 + stdev(second) ** 2) / 2)
        error = s * math.sqrt(4 / self.window)
        now = state.advised or float(self.batch)
        if s > self.chaotic * abs(m2):
            text = f"{self.series} is chaotic: it spreads by {s:.4g} about {m2:.4g}."
            batch, cause = now * 2, Cause(self.series, s, self.chaotic * abs(m2), text)
        elif m2 - m1 > 4 * error:
            text = f"{self.series} is chaotic: it rose from {m1:.4g} to {m2:.4g}."
            batch, cause = now * 2, Cause(self.series, m2, m1 + 4 * error, text)
        elif abs(m1 - m2) <= error:
            text = f"{self.series} stagnates: {m1:.4g}, then {m2:.4g}, within {error:.4g}."
            batch, cause = now / 2, Cause(self.series, m2, m1 - error, text)
        else:
            return state, ()
        state, found = self._limits().advise(state, step, self.name, now, batch, cause)
        return (replace(state, recent=()) if found else state), found


@dataclass(frozen=True)
class TargetBatch:
    """The batch at which C would lie in the published target band, 1.5 to 3.

    C is proportional to the batch size, so the advice is batch x target/C, at the middle of the
    band, sqrt(1.5 x 3) = 2.12. It is given when C and, where it has one, its whole 95 % interval
    lie outside the band; not where C is not positive, since no batch is then large enough.

    C falls along training, so the advised batch grows without end as a loss is fitted: "target C"
    is no law of good training. C must be measured at ``batch`` examples, the batch of the probe.

    Args:
        batch: Batch size at which C is measured.
        series: C.
        low: Lower end of the band, positive.
        high: Upper end of the band, above it.
        least: Smallest batch it advises.
        most: Largest batch it advises.
        refractory: Least steps between two actions.
        name: Name of the policy.

    Raises:
        ValueError: If an argument is out of range.

    References:
        The document "signal", section 12.2.

    Examples:
        >>> policy = TargetBatch(batch=64)
        >>> _, (action,) = policy.update(policy.init(), 7, {"grad/snr": Estimate(0.5)}, [])
        >>> action.arguments["batch"]
        272.0
    """

    batch: int
    series: str = "grad/snr"
    low: float = 1.5
    high: float = 3.0
    least: int = 1
    most: int = 4096
    refractory: int = 200
    name: str = "target_batch"

    def __post_init__(self) -> None:
        at_least("TargetBatch", "batch", self.batch, 1)
        positive("TargetBatch", "low", self.low)
        if not (math.isfinite(self.high) and self.high > self.low):
            raise ValueError(
                f"The `high` of `TargetBatch` must exceed its `low`, {self.low}. Got {self.high}."
            )
        self._limits()

    def _limits(self) -> BatchLimits:
        return BatchLimits("TargetBatch", self.least, self.most, 1.25, self.refractory)

    @property
    def reads(self) -> tuple[str, ...]:
        """C."""
        return (self.series,)

    def init(self) -> BatchState:
        """No advice given."""
        return BatchState()

    def update(
        self,
        state: BatchState,
        step: int,
        values: Mapping[str, Estimate],
        alarms: Sequence[Alarm],
    ) -> tuple[BatchState, tuple[Action, ...]]:
        """Take one C."""
        c = trusted(values, self.series)
        if c is None or c <= 0:
            return state, ()
        low, high = ends(values[self.series])
        if high >= self.low and low <= self.high:
            return state, ()
        edge = self.low if c < self.low else self.high
        span = f"{c:.4g}" if low == high else f"{c:.4g} ({low:.4g} to {high:.4g})"
        text = f"{self.series} is {span}, outside {self.low:g} to {self.high:g}."
        batch = self.batch * math.sqrt(self.low * self.high) / c
        cause = Cause(self.series, c, edge, text)
        return self._limits().advise(state, step, self.name, float(self.batch), batch, cause)


@dataclass(frozen=True)
class NoiseScaleBatch:
    """The batch at the noise scale B_simple, where half of the steps' progress is lost to noise.

    At B = B_simple a step makes half of the progress that a full batch would, at a rate tuned for
    each: the compromise between steps and examples of McCandlish and others, for SGD and a Hessian
    like the identity. The advice is the median of the last ``window`` values; it is given when the
    95 % interval of the last one lies outside a factor 2 of the batch. An unresolved noise scale
    (its interval is unbounded when the signal is not resolved) is flagged and no advice is given.

    Args:
        batch: Batch size of the training.
        series: B_simple in examples.
        window: Values of the median, at least 1.
        least: Smallest batch it advises.
        most: Largest batch it advises.
        refractory: Least steps between two actions.
        name: Name of the policy.

    References:
        McCandlish et al., arXiv:1812.06162.

    Examples:
        >>> policy = NoiseScaleBatch(batch=32, window=1)
        >>> scale = {"grad/noise_scale": Estimate(500.0, 300.0, 900.0, n=8)}
        >>> policy.update(policy.init(), 7, scale, [])[1][0].arguments["batch"]
        500.0
    """

    batch: int
    series: str = "grad/noise_scale"
    window: int = 5
    least: int = 1
    most: int = 4096
    refractory: int = 200
    name: str = "noise_scale_batch"

    def __post_init__(self) -> None:
        at_least("NoiseScaleBatch", "batch", self.batch, 1)
        at_least("NoiseScaleBatch", "window", self.window, 1)
        self._limits()

    def _limits(self) -> BatchLimits:
        return BatchLimits("NoiseScaleBatch", self.least, self.most, 1.25, self.refractory)

    @property
    def reads(self) -> tuple[str, ...]:
        """B_simple."""
        return (self.series,)

    def init(self) -> BatchState:
        """No advice given."""
        return BatchState()

    def update(
        self,
        state: BatchState,
        step: int,
        values: Mapping[str, Estimate],
        alarms: Sequence[Alarm],
    ) -> tuple[BatchState, tuple[Action, ...]]:
        """Take one noise scale."""
        scale = trusted(values, self.series)
        if scale is None or scale <= 0:
            return state, ()
        state = replace(state, recent=(*state.recent, scale)[-self.window :])
        low, high = ends(values[self.series])
        near = low <= 2 * self.batch and high >= self.batch / 2
        if near or len(state.recent) < self.window:
            return state, ()
        edge = 2.0 * self.batch if scale > self.batch else self.batch / 2
        text = (
            f"{self.series} is {scale:.4g} ({low:.4g} to {high:.4g}) examples, beyond a factor 2 "
            f"of the batch of {self.batch}."
        )
        cause = Cause(self.series, scale, edge, text)
        wanted = median(state.recent)
        return self._limits().advise(state, step, self.name, float(self.batch), wanted, cause)


def ends(estimate: Estimate) -> tuple[float, float]:
    """The interval of an estimate; its value twice if nobody claims one.

    Args:
        estimate: A finite value.

    Returns:
        Lower and upper end.

    Examples:
        >>> ends(Estimate(2.0)), ends(Estimate(2.0, 1.0, 4.0))
        ((2.0, 2.0), (1.0, 4.0))
    """
    if math.isnan(estimate.low) or math.isnan(estimate.high):
        return estimate.value, estimate.value
    return estimate.low, estimate.high
