"""Over-optimisation: the held-out reward gains ever less for what the proxy gains."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from foreshock.detectors.marginal import Marginal, MarginalState, largest, take
from foreshock.types import NAN, Alarm, Estimate


@dataclass(frozen=True)
class OverOptimisationState:
    """The path so far, the last score (nan before there is one), and done."""

    seen: MarginalState = field(default_factory=MarginalState)
    score: float = NAN
    fired: bool = False


@dataclass(frozen=True)
class OverOptimisation:
    """Alarm once, when the marginal gold per proxy falls below a fraction of its average.

    At the peak of the held-out (gold) reward d gold/d proxy = 0 by definition, so it must pass
    every fraction of its early value before. Where the proxy is gold plus a light-tailed error the
    marginal stays: for a Gaussian one E[gold] is linear in E[proxy] however far one optimises, and
    saturation in time, which both share, is no alarm. With dg and dp the rises between the two
    halves of a trailing window, and a the average gain of gold per gain of proxy from the start to
    that window, the score is (fraction·a·dp − dg)/standard error, the largest over windows of
    10 records to two thirds of the run (`foreshock.detectors.marginal`). An alarm says that the
    upper end of an interval of dg/dp lies below fraction·a. Windows count only while the proxy
    rises in them, and after both rewards had gained 3 standard errors: a gold reward that never
    rose has no peak.

    Causal, scale free in both rewards, needs no KL. It is blind where no held-out reward is logged.
    It tells of diminishing returns, not of a fall: gold that saturates while the proxy goes on,
    gold = 1 - exp(-proxy), alarms in 100 of 100 runs and never falls. False alarms where gold
    saturates in proportion to the proxy, 300 records: none in 300 runs whose noise is independent
    from record to record (26 at a threshold of 3), as means over fresh batches are. Noise that
    lasts is taken for a turn: of 100 runs 15 alarm at an
    autocorrelation of .3, 87 at .5 and all at .8. So log the values themselves and no
    running means, and take the threshold from known-safe runs: `foreshock bench hacking` shows how,
    and counts hits and false alarms.

    Args:
        series: Held-out reward.
        proxy: Reward that is optimised.
        fraction: Of the average marginal gold, in [0, 1); 0 waits until gold turns.
        threshold: In standard errors.
        rising: Least rise of the proxy within a window, in standard errors.
        name: Name of the detector.

    Raises:
        ValueError: If an argument is out of range.

    Examples:
        >>> import math
        >>> rule, alarms = OverOptimisation(), []
        >>> state = rule.init()
        >>> for t in range(300):  # gold peaks at proxy = 2.5, at step 250
        ...     p, noise = t / 100, 0.01 * math.sin(12.9 * t * t)
        ...     gold = p - p * p / 5
        ...     seen = {"reward/proxy": Estimate(p + noise), "reward/gold": Estimate(gold - noise)}
        ...     state, alarm = rule.update(state, t, seen)
        ...     alarms += [alarm.step] if alarm else []
        >>> len(alarms), 150 < alarms[0] < 250
        (1, True)
    """

    series: str = "reward/gold"
    proxy: str = "reward/proxy"
    fraction: float = 0.5
    threshold: float = 4.0
    rising: float = 2.0
    name: str = "over_optimisation"

    def __post_init__(self) -> None:
        if not 0 <= self.fraction < 1:
            raise ValueError(
                "The `fraction` of `OverOptimisation` must lie in [0, 1): an alarm says that the "
                f"marginal fell below it. Got {self.fraction}."
            )
        check_threshold("OverOptimisation", self.threshold)

    @property
    def reads(self) -> tuple[str, ...]:
        """The two rewards."""
        return (self.series, self.proxy)

    def init(self) -> OverOptimisationState:
        """Nothing seen."""
        return OverOptimisationState()

    def update(
        self, state: OverOptimisationState, step: int, values: Mapping[str, Estimate]
    ) -> tuple[OverOptimisationState, Alarm | None]:
        """Take the values of one step; without both rewards nothing happens."""
        if not all(name in values and math.isfinite(values[name].value) for name in self.reads):
            return state, None
        gold, proxy = (values[name].value for name in self.reads)
        seen = take(state.seen, proxy, gold)
        score, found = largest(seen, fraction=self.fraction, score=self._score)
        fires = score > self.threshold and not state.fired
        after = OverOptimisationState(seen, score, state.fired or fires)
        if not fires or found is None:
            return after, None
        sentence = (
            f"{self.series} now gains {found.recent:.3g} for each unit of {self.proxy}, against "
            f"{found.average:.3g} on average before: less than {self.fraction:g} of it by "
            f"{score:.1f} standard errors, while {self.proxy} still rises."
        )
        return after, Alarm(step, self.name, self.series, score, self.threshold, sentence)

    def _score(self, found: Marginal) -> float:
        """Standard errors below the fraction; nan where there is nothing to compare."""
        if found.gain_z < 3 or found.dx_z < self.rising:
            return NAN
        return found.contrast / found.error


def check_threshold(who: str, threshold: float) -> None:
    """Refuse a threshold that nothing can be compared with.

    Args:
        who: Name of the rule.
        threshold: In its unit.

    Raises:
        ValueError: If it is nan.
    """
    if math.isnan(threshold):
        raise ValueError(f"The `threshold` of `{who}` must be a number. Got nan.")
