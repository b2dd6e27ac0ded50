"""What a trigger is: when a policy acts. Causal; a nan or flagged estimate never fires one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from foreshock.types import Alarm, Estimate


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a trigger fired.

    Args:
        series: What it read; empty for a clock.
        value: The value that fired it.
        threshold: What it was compared with.
        reason: A sentence for a person.
    """

    series: str
    value: float
    threshold: float
    reason: str


@runtime_checkable
class Trigger(Protocol):
    """When to act: ``init`` and ``update`` on values, like a detector."""

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the series it reads."""
        ...

    def init(self) -> Any:
        """The state before the first value."""
        ...

    def update(
        self, state: Any, step: int, values: Mapping[str, Estimate], alarms: Sequence[Alarm]
    ) -> tuple[Any, Cause | None]:
        """The next state, and the cause if this step fires."""
        ...


def trusted(values: Mapping[str, Estimate], series: str) -> float | None:
    """The value of a series at this step if it is there, finite and without any flag.

    Args:
        values: The values of a step.
        series: Which one.

    Returns:
        The value, or None.

    Examples:
        >>> trusted({"loss": Estimate(2.0)}, "loss")
        2.0
        >>> trusted({"loss": Estimate.missing("no batch")}, "loss") is None
        True
    """
    estimate = values.get(series)
    if estimate is None or estimate.flags or not math.isfinite(estimate.value):
        return None
    return estimate.value


def as_trigger(on: str | Trigger, owner: str) -> Trigger:
    """A trigger, or the alarms of the detector of this name.

    Args:
        on: Name of a detector, or a trigger.
        owner: Who asks, for the error.

    Returns:
        The trigger.

    Raises:
        ValueError: If it is neither.

    Examples:
        >>> as_trigger("turnover", "WeightReset")
        Alarmed(detector='turnover')
    """
    if isinstance(on, str):
        return Alarmed(on)
    if isinstance(on, type) or not isinstance(on, Trigger):
        raise ValueError(
            f"The `on` of `{owner}` must be the name of a detector or a trigger such as "
            f"`fs.policies.TurnsUp('latent/c', 0.5)`. Got {on!r}."
        )
    return on


@dataclass(frozen=True)
class Stateless:
    """The state of a trigger that remembers nothing."""


@dataclass(frozen=True)
class Alarmed:
    """Fires whenever the detector of this name raises an alarm.

    A detector that a policy waits for is shown no flagged estimate, so that none has a part in its
    alarms (`foreshock.detectors.Judge`). An alarm whose value is not finite, or whose series is
    flagged at that step, fires nothing.

    Args:
        detector: Name of a detector that is attached to the same run.

    Raises:
        ValueError: If the name is empty.

    Examples:
        >>> trigger = Alarmed("cusum")
        >>> alarm = Alarm(7, "cusum", "loss", 11.0, 10.0, "It rose.")
        >>> trigger.update(trigger.init(), 7, {}, [alarm])[1].reason
        'cusum raised an alarm: It rose.'
    """

    detector: str

    def __post_init__(self) -> None:
        if not self.detector:
            raise ValueError("The `detector` of `Alarmed` must be the name of a detector. Got ''.")

    @property
    def reads(self) -> tuple[str, ...]:
        """Nothing but alarms."""
        return ()

    def init(self) -> Stateless:
        """Nothing to remember."""
        return Stateless()

    def update(
        self, state: Stateless, step: int, values: Mapping[str, Estimate], alarms: Sequence[Alarm]
    ) -> tuple[Stateless, Cause | None]:
        """Look for an alarm of this detector."""
        for alarm in alarms:
            flagged = alarm.series in values and trusted(values, alarm.series) is None
            if alarm.detector == self.detector and math.isfinite(alarm.value) and not flagged:
                reason = f"{alarm.detector} raised an alarm: {alarm.reason}"
                return state, Cause(alarm.series, alarm.value, alarm.threshold, reason)
        return state, None
