"""Gold selection: what the optimiser selects for is gold less and less."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from foreshock.types import NAN, Alarm, Estimate

#: Lengths of the windows, in records, and the fewest records before one.
WINDOWS = (5, 7, 10, 14, 20)
START = 5

#: Sums over records of c, v, c^2, c v, v^2; c the covariance, v the variance of the proxy.
Sums = tuple[float, float, float, float, float]


@dataclass(frozen=True)
class GoldSelectionState:
    """Sums over the records before the last ones, how many, the last ones, score, and done."""

    sums: Sums = (0.0, 0.0, 0.0, 0.0, 0.0)
    count: int = 0
    recent: tuple[tuple[float, float], ...] = ()
    score: float = NAN
    fired: bool = False


@dataclass(frozen=True)
class GoldSelection:
    """Alarm once, when the slope of gold on proxy within a batch has fallen below its average.

    A policy that is tilted towards its proxy reward, pi ~ pi_0 exp(beta r), moves by the laws
    d E[gold]/d beta = Cov[gold, r] and d E[r]/d beta = Var[r] (Price's equation for the selection
    among responses). So b = Cov[gold, r]/Var[r], the least-squares slope of gold on proxy over the
    responses of one batch, *is* the marginal gold per proxy, read off a batch instead of off a
    trajectory: it needs no rise to wait for, and passes 0 where gold peaks. With a Gaussian error b
    is the same for every beta; a heavy tail lets it fall as soon as responses appear whose reward
    is mostly error.

    With b0 = sum c/sum v over all records before a trailing window of k, and b1 the same within it,
    the score is (fraction·b0 − b1)/standard error, the largest over k = 5, 7, 10, 14, 20; the error
    is sqrt(1/k + fraction²/m) times the root mean square of (c − b0 v)/mean v over the m records
    before. It matters: as a plain share of the largest b so far, the rule alarms as surely where
    nothing changes and b only jumps about. The error does not cure that: of 300 series of 150
    independent batches of 128 whose proxy is gold plus a Student error of 2.5 degrees of freedom,
    all of one law, **19 % alarm at the default threshold** (58), and none with a Gaussian one.
    Where rewards have tails, take the threshold from known-safe runs; `foreshock bench hacking`
    shows how, and counts hits and false alarms.

    It needs the gold reward of the very responses that are optimised, and covariance and spread of
    the *same* responses in the same way: `within_groups` gives both, which are logged as
    ``reward/covariance`` and ``reward/proxy_std``. The covariance over a whole batch beside TRL's
    ``reward_std`` will not do: with several prompts it holds what lies between prompts, and
    ``reward_std`` is a mean of standard deviations within them, so b changes as soon as the prompts
    do. The model behind the rule is proxy = gold + error, with a slope of 1, which is also what
    `overoptimisation` does: a reward model that errs in another way need not let b fall first.

    Args:
        series: Covariance of gold and proxy over the responses of a batch.
        spread: Standard deviation of the proxy over the same.
        fraction: Of the average slope, in [0, 1).
        threshold: In standard errors.
        name: Name of the detector.

    Raises:
        ValueError: If an argument is out of range.

    Examples:
        >>> rule, alarms = GoldSelection(), []
        >>> state = rule.init()
        >>> for t in range(40):
        ...     c = 0.5 - max(t - 20, 0) / 20 + 0.1 * (-1) ** t
        ...     seen = {"reward/covariance": Estimate(c), "reward/proxy_std": Estimate(1.0)}
        ...     state, alarm = rule.update(state, t, seen)
        ...     alarms += [alarm.step] if alarm else []
        >>> alarms
        [29]
    """

    series: str = "reward/covariance"
    spread: str = "reward/proxy_std"
    fraction: float = 0.85
    threshold: float = 4.0
    name: str = "gold_selection"

    def __post_init__(self) -> None:
        if not 0 <= self.fraction < 1:
            raise ValueError(
                "The `fraction` of `GoldSelection` must lie in [0, 1): an alarm says that the "
                f"slope fell below it. Got {self.fraction}."
            )
        if math.isnan(self.threshold):
            raise ValueError("The `threshold` of `GoldSelection` must be a number. Got nan.")

    @property
    def reads(self) -> tuple[str, ...]:
        """The covariance and the spread."""
        return (self.series, self.spread)

    def init(self) -> GoldSelectionState:
        """Nothing seen."""
        return GoldSelectionState()

    def update(
        self, state: GoldSelectionState, step: int, values: Mapping[str, Estimate]
    ) -> tuple[GoldSelectionState, Alarm | None]:
        """Take the values of one step; without both nothing happens."""
        if not all(name in values and math.isfinite(values[name].value) for name in self.reads):
            return state, None
        covariance, spread = (values[name].value for name in self.reads)
        recent, sums, count = (
            (*state.recent, (covariance, spread * spread)),
            state.sums,
            state.count,
        )
        if len(recent) > WINDOWS[-1]:
            sums, count, recent = _plus(sums, *recent[0]), count + 1, recent[1:]
        score, before, now = self._score(sums, count, recent)
        fires = score > self.threshold and not state.fired
        after = GoldSelectionState(sums, count, recent, score, state.fired or fires)
        if not fires:
            return after, None
        sentence = (
            f"Among the responses of a batch gold rises by {now:.3g} for each unit of proxy, "
            f"against {before:.3g} on average before: less than {self.fraction:g} of it by "
            f"{score:.1f} standard errors."
        )
        return after, Alarm(step, self.name, self.series, score, self.threshold, sentence)

    def _score(
        self, sums: Sums, count: int, recent: tuple[tuple[float, float], ...]
    ) -> tuple[float, float, float]:
        """The largest score over the windows, its slope before and within it; nan for none."""
        best = (NAN, NAN, NAN)
        for length in range(len(recent), WINDOWS[0] - 1, -1):
            if length in WINDOWS and count >= START:
                window = recent[-length:]
                found = self._compare(sums, count, window)
                if found is not None and not found[0] <= best[0]:
                    best = found
            # What leaves the window belongs to the records before it.
            sums, count = _plus(sums, *recent[-length]), count + 1
        return best

    def _compare(
        self, sums: Sums, count: int, window: tuple[tuple[float, float], ...]
    ) -> tuple[float, float, float] | None:
        """One window; ``None`` where gold was never selected for, or nothing varies."""
        c, v, cc, cv, vv = sums
        inside = sum(pair[1] for pair in window)
        if not (c > 0 and v > 0 and inside > 0):
            return None
        before, now = c / v, sum(pair[0] for pair in window) / inside
        square = (cc - 2 * before * cv + before * before * vv) / (count - 1)
        if not square > 0:
            return None
        noise = math.sqrt(square) * count / v
        error = noise * math.sqrt(1 / len(window) + self.fraction**2 / count)
        return (self.fraction * before - now) / error, before, now


def _plus(sums: Sums, c: float, v: float) -> Sums:
    """The sums with one record more."""
    return (sums[0] + c, sums[1] + v, sums[2] + c * c, sums[3] + c * v, sums[4] + v * v)
