"""Rate, mean and survival from the passage times of a finite run, the censored ones included."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from foreshock.simulators.door import finite, not_negative
from foreshock.simulators.passage import PassageTimes
from foreshock.stats.sample import mean_interval, proportion
from foreshock.types import Estimate, Flag


def poisson_interval(events: int, exposure: float, level: float = 0.95) -> tuple[float, float]:
    r"""Exact interval for the rate of a Poisson process: chi-squared quantiles over 2 exposure.

    Covers at least `level` where the exposure is fixed. With censored passage times the exposure is
    random; measured coverage is then 95 to 97 % (`benchmarks/coverages/passage.py`).

    Args:
        events: How many, >= 0.
        exposure: Time watched, > 0.
        level: Coverage.

    Returns:
        `(low, high)`; low is 0 without an event.

    Raises:
        ValueError: If `events` is negative or `exposure` not positive and finite.

    References:
        Garwood, Biometrika 28 (1936) 437.

    Examples:
        >>> low, high = poisson_interval(0, 1.0)
        >>> low, bool(np.isclose(high, -np.log(0.025)))
        (0.0, True)
    """
    from scipy.special import gammaincinv

    if events < 0 or not (math.isfinite(exposure) and exposure > 0):
        raise ValueError(
            "`poisson_interval` needs `events` >= 0 and a positive `exposure`. "
            f"Got {events} and {exposure}."
        )
    tail = (1 - level) / 2
    low = float(gammaincinv(events, tail)) / exposure if events else 0.0
    return low, float(gammaincinv(events + 1, 1 - tail)) / exposure


def exponential_rate(passage: PassageTimes, *, after: float = 0.0) -> Estimate:
    r"""Rate of escape, events / exposure, censored particles included.

    The maximum-likelihood rate of exponential times. Escape from a well is exponential only after
    the well has been forgotten, a few of its relaxation times; `after` leaves what came earlier
    out. Bias: a share 1/events of the rate, towards larger rates, where nothing is censored.

    Args:
        passage: The times.
        after: Time from which on particles are watched, not negative.

    Returns:
        The rate, 1/time, with the interval of `poisson_interval`; `n` is the number of events.
        Missing if no particle was watched or some are lost; flagged `unresolved` without an event,
        with an upper end that holds.

    Examples:
        >>> times = np.random.default_rng(0).exponential(2.0, 1000)
        >>> side = np.where(times < 3, 0, -1)
        >>> rate = exponential_rate(PassageTimes(np.minimum(times, 3), side, 3.0))
        >>> rate.low < 0.5 < rate.high
        True
    """
    not_negative("exponential_rate", after=after)
    if passage.lost:
        return Estimate.missing(passage.refusal, n=len(passage.times))
    watched = passage.times > after
    exposure = float((passage.times[watched] - after).sum())
    if exposure <= 0:
        return Estimate.missing(f"No particle was still inside at the time {after:g}.")
    events = int((passage.side[watched] >= 0).sum())
    low, high = poisson_interval(events, exposure)
    if events == 0:
        reason = f"No crossing in {exposure:g} units of time: only the upper end says something."
        return Estimate(0.0, low, high, n=0, flags=Flag.UNRESOLVED, reason=reason)
    return Estimate(events / exposure, low, high, n=events)


def mean_passage_time(passage: PassageTimes, *, exponential_after: float | None = None) -> Estimate:
    r"""Mean first-passage time.

    Without `exponential_after` the mean of the times with Student's t interval, refused where one
    is censored. With it, times beyond a = `exponential_after` are taken to be exponential, as those
    of an escape from a well are once the well is forgotten: mean of min(t, a) plus the share inside
    at a over `exponential_rate`. The interval is that of the rate, and neglects the spread of the
    first term: choose a small against the mean.

    Args:
        passage: The times.
        exponential_after: Time from which on the rate is constant; a few relaxation times.

    Returns:
        The mean; missing if particles are lost.

    Examples:
        >>> done = PassageTimes(np.array([1.0, 2.0, 3.0]), np.zeros(3, dtype=np.int64), 10.0)
        >>> mean_passage_time(done).value
        2.0
    """
    n = len(passage.times)
    if passage.lost:
        return Estimate.missing(passage.refusal, n=n)
    if exponential_after is not None:
        rate = exponential_rate(passage, after=exponential_after)
        if not rate.resolved:
            return Estimate.missing(rate.reason, n=n)
        before = float(np.minimum(passage.times, exponential_after).mean())
        share = float((passage.times > exponential_after).mean())
        value, low, high = (before + share / r for r in (rate.value, rate.high, rate.low))
        return Estimate(value, low, high, n=rate.n)
    left = n - passage.events
    if left:
        return Estimate.missing(
            f"{left} of {n} particles had not crossed at {passage.horizon:g}. Run longer, or give "
            "`exponential_after`, which counts them.",
            n=n,
        )
    return mean_interval(passage.times)


def survival_curve(passage: PassageTimes, times: ArrayLike) -> tuple[Estimate, ...]:
    """Share of particles still inside at each time, with Clopper-Pearson intervals.

    The intervals hold one by one, not all at once.

    Args:
        passage: The times.
        times: (m,) When to look, up to the horizon.

    Returns:
        (m,) Shares; missing beyond the horizon, and everywhere if particles are lost.

    Examples:
        >>> done = PassageTimes(np.array([1.0, 2.0, 3.0, 5.0]), np.array([0, 0, 0, -1]), 5.0)
        >>> [share.value for share in survival_curve(done, [0.5, 2.5, 5.0])]
        [1.0, 0.5, 0.25]
    """
    finite("survival_curve", times=times)
    ordered = np.sort(passage.times[passage.side >= 0])
    n = len(passage.times)
    curve = []
    for time in np.asarray(times, dtype=np.float64):
        if passage.lost:
            curve.append(Estimate.missing(passage.refusal, n=n))
        elif time > passage.horizon:
            reason = f"The run ended at {passage.horizon:g}, before {time:g}."
            curve.append(Estimate.missing(reason, n=n))
        else:
            curve.append(proportion(n - int(np.searchsorted(ordered, time, side="right")), n))
    return tuple(curve)
