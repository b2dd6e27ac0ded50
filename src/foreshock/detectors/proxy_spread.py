"""Proxy spread: the responses of one batch differ more in their reward than at the start."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from foreshock.types import NAN, Alarm, Estimate

#: Records whose mean makes the origin, and records that are averaged.
_RECORDS = 5


@dataclass(frozen=True)
class ProxySpreadState:
    """Logarithms of the last spreads and their mean at the start, how many, score, and done."""

    origin: float = 0.0
    count: int = 0
    recent: tuple[float, ...] = ()
    score: float = NAN
    fired: bool = False


@dataclass(frozen=True)
class ProxySpread:
    """Alarm once, when the spread of the proxy reward has grown by a factor: no gold, no KL needed.

    A policy that is tilted towards its reward, pi ~ pi_0 exp(beta r), moves by the law
    d E[r]/d beta = Var[r], so the spread within a batch is the speed with which the next step
    raises the proxy. Under a Gaussian reward it stays as it is for every beta, and under a bounded
    one it shrinks; when responses with an enormous reward are found, which only some responses
    have yet, it grows before the mean does. The score is the factor: the geometric mean of the last
    5 spreads over that of the first 5.

    Scale free, causal, blind to the other thing that a reward model may do: err without a tail. A
    policy that finds a true skill, which only some responses show yet, widens its spread alike.
    TRL logs the spread as ``reward_std`` (`canonical`); verl logs none, so log it yourself, or
    that of `within_groups`.

    The default is a choice, without a false-alarm rate of its own; take the factor from known-safe
    runs. `foreshock bench hacking` shows how, and counts hits and false alarms.

    Args:
        series: Standard deviation of the proxy reward over the responses of a batch.
        threshold: Factor that alarms.
        name: Name of the detector.

    Raises:
        ValueError: If the threshold is not positive.

    Examples:
        >>> rule, alarms = ProxySpread(), []
        >>> state = rule.init()
        >>> for t in range(40):
        ...     spread = 0.3 * (1 + max(t - 20, 0) / 5)
        ...     state, alarm = rule.update(state, t, {"reward/proxy_std": Estimate(spread)})
        ...     alarms += [alarm.step] if alarm else []
        >>> alarms
        [28]
    """

    series: str = "reward/proxy_std"
    threshold: float = 2.0
    name: str = "proxy_spread"

    def __post_init__(self) -> None:
        if not self.threshold > 0:
            raise ValueError(
                "The `threshold` of `ProxySpread` is a factor and must be positive. Got "
                f"{self.threshold}."
            )

    @property
    def reads(self) -> tuple[str, ...]:
        """The one series."""
        return (self.series,)

    def init(self) -> ProxySpreadState:
        """Nothing seen."""
        return ProxySpreadState()

    def update(
        self, state: ProxySpreadState, step: int, values: Mapping[str, Estimate]
    ) -> tuple[ProxySpreadState, Alarm | None]:
        """Take one value; what is not positive and finite is passed over: it has no logarithm."""
        spread = values[self.series].value
        if not (math.isfinite(spread) and spread > 0):
            return state, None
        count = min(state.count + 1, _RECORDS)
        origin = state.origin
        if state.count < _RECORDS:
            origin += (math.log(spread) - origin) / count
        recent = (*state.recent, math.log(spread))[-_RECORDS:]
        if count < _RECORDS:
            return ProxySpreadState(origin, count, recent), None
        score = math.exp(sum(recent) / _RECORDS - origin)
        fires = score > self.threshold and not state.fired
        after = ProxySpreadState(origin, count, recent, score, state.fired or fires)
        if not fires:
            return after, None
        sentence = (
            f"{self.series} is {score:.2f} times what it was at the start: some responses earn far "
            "more than the others."
        )
        return after, Alarm(step, self.name, self.series, score, self.threshold, sentence)
