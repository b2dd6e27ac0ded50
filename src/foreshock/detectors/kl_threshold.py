"""KL threshold: the policy is further from its reference than allowed. The baseline to beat."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from foreshock.types import NAN, Alarm, Estimate


@dataclass(frozen=True)
class KlThresholdState:
    """The last score, which is the KL itself, and done."""

    score: float = NAN
    fired: bool = False


@dataclass(frozen=True)
class KlThreshold:
    """Alarm once, when the KL divergence to the reference exceeds a threshold.

    A baseline rule, and the one in use: gold turns at some distance from the reference, so a bound
    on it is a clock that runs as fast as the policy moves. It knows nothing of the reward: a run
    that goes as far without harm alarms alike. No number of nats is right for two models, so the
    threshold is one of known-safe runs (``foreshock calibrate``, or the ``foreshock bench hacking``
    way): the default is a placeholder, without a false-alarm rate of its own. A trainer that does
    not log the KL leaves this rule silent (`blind_spots` says so): TRL does not at ``beta=0``.

    Args:
        series: KL divergence to the reference policy.
        threshold: In its unit, nats a token or a response.
        name: Name of the detector.

    Raises:
        ValueError: If the threshold is nan.

    Examples:
        >>> rule = KlThreshold(threshold=1.0)
        >>> state, alarms = rule.init(), []
        >>> for t, kl in enumerate([0.0, 0.4, 0.9, 1.1, 1.5]):
        ...     state, alarm = rule.update(state, t, {"reward/kl": Estimate(kl)})
        ...     alarms += [alarm.step] if alarm else []
        >>> alarms
        [3]
    """

    series: str = "reward/kl"
    threshold: float = 1.0
    name: str = "kl_threshold"

    def __post_init__(self) -> None:
        if math.isnan(self.threshold):
            raise ValueError("The `threshold` of `KlThreshold` must be a number. Got nan.")

    @property
    def reads(self) -> tuple[str, ...]:
        """The one series."""
        return (self.series,)

    def init(self) -> KlThresholdState:
        """Nothing seen."""
        return KlThresholdState()

    def update(
        self, state: KlThresholdState, step: int, values: Mapping[str, Estimate]
    ) -> tuple[KlThresholdState, Alarm | None]:
        """Take one value; values that are not finite are passed over."""
        kl = values[self.series].value
        if not math.isfinite(kl):
            return state, None
        fires = kl > self.threshold and not state.fired
        after = KlThresholdState(kl, state.fired or fires)
        if not fires:
            return after, None
        sentence = (
            f"{self.series} is {kl:.3g}, above {self.threshold:.3g}: the policy is that far from "
            "its reference."
        )
        return after, Alarm(step, self.name, self.series, kl, self.threshold, sentence)
