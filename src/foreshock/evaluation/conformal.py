"""Split conformal calibration: a run-level alarm threshold from known-safe runs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foreshock.detectors.calibration import Calibration, Side, setup_digest
from foreshock.store import Run

#: Median absolute deviation of a normal law to its standard deviation.
_MAD = 1.4826
#: Milestones that no safe run has reached.
_UNSAFE = frozenset({"over_optimised"})


def conformal_threshold(scores: ArrayLike, alpha: float) -> float:
    """The number that the score of one more run exceeds with probability at most ``alpha``.

    The k-th smallest of M scores, k = ceil((1 − alpha)(M + 1)). If the new score and the M are
    exchangeable, the probability to exceed it is exactly 1 − k/(M + 1) for continuous scores and
    less with ties, for every law of the scores.

    Args:
        scores: ``(M,)``, one for each run; -inf for a run that never had one.
        alpha: In (0, 1).

    Returns:
        The threshold.

    Raises:
        ValueError: If alpha is out of range, a score is nan, or there are too few.

    Examples:
        >>> conformal_threshold(range(1, 20), alpha=0.05)
        19.0
        >>> conformal_threshold(range(18), alpha=0.05)
        Traceback (most recent call last):
        ...
        ValueError: 18 calibration scores cannot give a false-alarm rate of 0.05: at least 19 are \
needed.
    """
    values = np.sort(np.asarray(scores, dtype=float).ravel())
    if np.isnan(values).any():
        raise ValueError(
            "A calibration score is nan. Write -inf for a run whose score never existed."
        )
    k = _rank(len(values), alpha)
    if k > len(values):
        raise ValueError(
            f"{len(values)} calibration scores cannot give a false-alarm rate of {alpha:g}: at "
            f"least {_scores_needed(alpha)} are needed."
        )
    return float(values[k - 1])


def false_alarm_bound(scores: int, alpha: float, confidence: float = 0.95) -> float:
    """What the false-alarm rate of one calibration stays below, with a confidence.

    ``alpha`` holds on average over sets of safe runs. Given one set of M scores the rate of its
    threshold, the k-th smallest, has the law Beta(M + 1 − k, k) for continuous scores.

    Args:
        scores: M, how many runs gave the threshold.
        alpha: As asked for, in (0, 1).
        confidence: In (0, 1).

    Returns:
        The quantile of that law.

    Raises:
        ValueError: If alpha is out of range, or M too small for it.

    Examples:
        >>> round(false_alarm_bound(20, 0.05), 3), round(false_alarm_bound(40, 0.05), 3)
        (0.139, 0.113)
    """
    from scipy.special import betaincinv

    k = _rank(scores, alpha)
    if k > scores:
        raise ValueError(
            f"{scores} calibration scores cannot give a false-alarm rate of {alpha:g}: at least "
            f"{_scores_needed(alpha)} are needed."
        )
    return float(betaincinv(scores + 1 - k, k, confidence))


def runs_needed(alpha: float) -> int:
    """Fewest safe runs for `calibrate`: a third of them gives location and scale.

    Args:
        alpha: False-alarm rate, in (0, 1).

    Returns:
        How many runs.

    Examples:
        >>> runs_needed(0.05), runs_needed(0.01)
        (30, 150)
    """
    scores = _scores_needed(alpha)
    # Rounded up to whole thirds, so that every number from here on is enough; a scale needs two.
    return 3 * max(math.ceil(scores / 2), 2)


def fit(
    grid: ArrayLike,
    values: ArrayLike,
    *,
    series: Sequence[str],
    sides: Sequence[Side],
    alpha: float = 0.05,
    ids: Sequence[str] = (),
) -> Calibration:
    """Calibrate from arrays: the first third of the runs locates, the others give the threshold.

    At each step the median and 1.4826·(median absolute deviation) of the first third standardise
    all others; the score of a run is its largest z over steps and series; the threshold is
    `conformal_threshold` of these scores. The split keeps both exchangeable with a new run: ranks
    of every run among all the others at each step are not (with 60 runs and an autocorrelation of
    .9 that recipe alarms in 68 % of safe runs at a nominal 5 %, or never, when normalised).

    A step where the first third does not vary (all runs start at 0) has no scale and is left out.

    Args:
        grid: ``(T,)`` steps, increasing.
        values: ``(M, s, T)`` finite values of M runs.
        series: s names.
        sides: s sides.
        alpha: False-alarm rate of a whole run.
        ids: M identities, for the record.

    Returns:
        The calibration.

    Raises:
        ValueError: If there are too few runs, or shapes or values do not fit.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> safe = fit(range(50), rng.standard_normal((30, 1, 50)), series=["x"], sides=["above"])
        >>> len(safe.located), len(safe.calibrated), len(safe.grid)
        (10, 20, 50)
    """
    steps, table = np.asarray(grid, dtype=np.int64), np.asarray(values, dtype=float)
    if table.ndim != 3 or table.shape[1:] != (len(series), len(steps)):
        raise ValueError(
            f"`fit` needs values of shape (runs, {len(series)} series, {len(steps)} steps). Got "
            f"{table.shape}."
        )
    if not np.isfinite(table).all():
        raise ValueError(
            "`fit` needs finite values; leave out the steps at which some run has none."
        )
    count, needed = len(table), runs_needed(alpha)
    if count < needed:
        raise ValueError(
            f"{count} known-safe runs cannot give a false-alarm rate of {alpha:g}: {needed} are "
            f"needed, of which one third gives location and scale. Record more, or ask for a "
            f"larger alpha."
        )
    names = [str(name) for name in ids] or [str(i) for i in range(count)]
    if len(names) != count:
        raise ValueError(f"`fit` needs one identity for each run. Got {len(names)} for {count}.")
    third = count // 3
    location = np.median(table[:third], axis=0)
    scale = _MAD * np.median(np.abs(table[:third] - location), axis=0)
    varies = (scale > 0).all(axis=0)
    if not varies.any():
        raise ValueError(
            f"{', '.join(series)} does not vary between the runs at any step, so nothing can be "
            "standardised. Are they copies of one run?"
        )
    location, scale, steps = location[:, varies], scale[:, varies], steps[varies]
    z = (table[third:][..., varies] - location) / scale
    for row, side in enumerate(sides):
        z[:, row] = {"above": z[:, row], "below": -z[:, row], "both": np.abs(z[:, row])}[side]
    return Calibration(
        series=tuple(series),
        sides=tuple(sides),
        grid=tuple(int(step) for step in steps),
        location=tuple(tuple(map(float, row)) for row in location),
        scale=tuple(tuple(map(float, row)) for row in scale),
        threshold=conformal_threshold(z.max(axis=(1, 2)), alpha),
        alpha=alpha,
        located=tuple(names[:third]),
        calibrated=tuple(names[third:]),
    )


def calibrate(
    runs: Sequence[Run],
    series: str | Sequence[str],
    *,
    alpha: float = 0.05,
    side: Side | Sequence[Side] = "above",
    common: float = 0.9,
    force: bool = False,
) -> Calibration:
    """Calibrate `ConformalAlarm` from recorded runs in which nothing bad happened.

    The grid is the steps at which every run has a finite value of every series. Runs are used in
    the order given, the first third for location and scale: that order must not depend on what the
    runs show (seeds are fine). See `fit` for the method and its guarantee.

    A guarantee for runs like these needs runs that are alike: they must be closed, share their
    configuration but for the seed and the units of the series, have been over-optimised by no
    milestone, and be logged at the same steps: one short run would cut all others.

    Args:
        runs: Known-safe runs of one set-up, at least `runs_needed`.
        series: Name or names; the alarm takes the largest z over them.
        alpha: Probability that a safe run ever alarms.
        side: Which side is dangerous; one for all, or one for each series.
        common: Share of the longest run's steps that all runs must have, in [0, 1].
        force: Take runs of different configurations, and runs with such a milestone; mix their
            order yourself, as the first third locates.

    Returns:
        The calibration, to be saved or given to `ConformalAlarm`.

    Raises:
        ValueError: If runs are too few or given twice, unlike or not closed, a series is missing,
            or too few steps are common.

    Examples:
        >>> import tempfile
        >>> folder, rng, runs = tempfile.mkdtemp(), np.random.default_rng(0), []
        >>> for seed in range(6):
        ...     with Run.create(f"{folder}/{seed}") as run:
        ...         for step, kl in enumerate(rng.standard_normal(20)):
        ...             run.append(step, {"reward/kl": kl})
        ...     runs.append(Run.open(f"{folder}/{seed}"))
        >>> calibrate(runs, "reward/kl", alpha=0.25).calibrated == tuple(r.id for r in runs[2:])
        True
        >>> for run in runs:
        ...     run.close()
    """
    names = [series] if isinstance(series, str) else list(series)
    sides: list[Side] = [side] * len(names) if isinstance(side, str) else list(side)
    if not names or len(sides) != len(names):
        raise ValueError(
            f"`calibrate` needs at least one series, and one side for each or one for all. Got "
            f"{len(names)} series and {len(sides)} sides."
        )
    if len(set(names)) < len(names):
        raise ValueError(f"`calibrate` got a series twice: {', '.join(names)}.")
    unknown = [one for one in sides if one not in ("above", "below", "both")]
    if unknown:
        raise ValueError(
            f"The `side` of `calibrate` must be 'above', 'below' or 'both'. Got {unknown[0]!r}."
        )
    if len(runs) < runs_needed(alpha):
        raise ValueError(
            f"{len(runs)} known-safe runs cannot give a false-alarm rate of {alpha:g}: "
            f"{runs_needed(alpha)} are needed, of which one third gives location and scale. Record "
            "more, or ask for a larger alpha."
        )
    ids = [run.id for run in runs]
    if len(set(ids)) < len(ids):
        raise ValueError(
            "A run is given twice to `calibrate`; one run is one draw, however often it is read."
        )
    for run in runs:
        if not run.events("closed"):
            raise ValueError(
                f"The run {run.path} was not closed: it goes on, or it crashed. Leave it out, or "
                "record it again."
            )
    if not force:
        _refuse_unlike(runs)
    read = [[_finite(run, name) for name in names] for run in runs]
    units = [tuple(run.describe(name).unit for name in names) for run in runs]
    for run, unit in zip(runs, units, strict=True):
        if unit != units[0]:
            raise ValueError(
                f"The runs {runs[0].path} and {run.path} logged {', '.join(names)} in the units "
                f"{', '.join(units[0])} and {', '.join(unit)}. Calibrate runs of one unit."
            )
    steps = _common_steps(runs, names, read, common)
    values = [[[found[step] for step in steps] for found in run] for run in read]
    fitted = fit(steps, values, series=names, sides=sides, alpha=alpha, ids=ids)
    told = json.dumps(runs[0].info.get("versions", {}), sort_keys=True)
    return replace(
        fitted, units=units[0], setup=setup_digest(runs[0].info["config"]), versions=told
    )


def _refuse_unlike(runs: Sequence[Run]) -> None:
    """Runs of another set-up, or runs that are known not to be safe."""
    first = runs[0]
    for run in runs:
        reached = {event.payload["name"] for event in run.events("milestone")} & _UNSAFE
        if reached:
            raise ValueError(
                f"The run {run.path} reached the milestone {', '.join(sorted(reached))}: it is not "
                "known to be safe. Leave it out, or ask for it with `force` (--force)."
            )
        one, other = first.info["config"], run.info["config"]
        if setup_digest(one) != setup_digest(other):
            names = sorted(
                name
                for name in {*one, *other} - {"seed"}
                if one.get(name, _UNSAFE) != other.get(name, _UNSAFE)
            )
            raise ValueError(
                f"The runs {first.path} and {run.path} differ in their configuration: "
                f"{', '.join(names)}. The false-alarm rate is one of runs that differ in the seed "
                "only. Calibrate them apart, or ask for it with `force` (--force)."
            )


def _common_steps(
    runs: Sequence[Run], names: Sequence[str], read: list[list[dict[int, float]]], share: float
) -> list[int]:
    """Steps at which every run has every series; refused where one run cuts the others."""
    own = [set.intersection(*map(set, run)) for run in read]
    steps = sorted(set.intersection(*own))
    longest = max(range(len(runs)), key=lambda i: len(own[i]))
    if steps and len(steps) >= share * len(own[longest]):
        return steps
    if not own[longest]:
        raise ValueError(
            f"No step has a finite value of {', '.join(names)} in all {len(runs)} runs. Log them "
            "at the same steps in every run."
        )
    worst = min(range(len(runs)), key=lambda i: len(own[i] & own[longest]))
    raise ValueError(
        f"The {len(runs)} runs share {len(steps)} of the {len(own[longest])} steps at which "
        f"{runs[longest].path} has a finite value of {', '.join(names)}, and less than {share:.0%} "
        f"of them is refused: an alarm looks at common steps only. {runs[worst].path} has fewest, "
        f"{len(own[worst] & own[longest])} of them. Leave it out, or record it again at the same "
        "steps."
    )


def _finite(run: Run, name: str) -> dict[int, float]:
    """Step to finite value of a series."""
    if name not in run.names():
        raise ValueError(
            f"The run {run.path} has no series {name!r}. It has {', '.join(run.names()[:12])}."
        )
    found = run.series(name)
    pairs = zip(found.step.tolist(), found.value.tolist(), strict=True)
    return {step: value for step, value in pairs if math.isfinite(value)}


def standardised(calibration: Calibration, values: ArrayLike) -> NDArray[np.float64]:
    """Scores of whole runs on the grid of a calibration, as `ConformalAlarm` sees them.

    Args:
        calibration: With s series on g steps.
        values: ``(..., s, g)``.

    Returns:
        ``(..., g)``, the largest z over the series.

    Examples:
        >>> safe = Calibration(("x",), ("below",), (0, 1), ((0.0, 1.0),), ((1.0, 2.0),), 3.0, 0.05)
        >>> standardised(safe, [[-2.0, 1.0]]).tolist()
        [2.0, -0.0]
    """
    z = (np.asarray(values, dtype=float) - np.asarray(calibration.location)) / np.asarray(
        calibration.scale
    )
    for row, side in enumerate(calibration.sides):
        if side != "above":
            z[..., row, :] = -z[..., row, :] if side == "below" else np.abs(z[..., row, :])
    return z.max(axis=-2)


def _rank(count: int, alpha: float) -> int:
    """ceil((1 − alpha)(count + 1)), not one more because 0.95·20 is 19.000000000000004."""
    if not 0 < alpha < 1:
        raise ValueError(f"The `alpha` of a calibration must lie in (0, 1). Got {alpha:g}.")
    return math.ceil((1 - alpha) * (count + 1) - 1e-9)


def _scores_needed(alpha: float) -> int:
    """Fewest scores whose largest is exceeded with probability at most alpha."""
    if not 0 < alpha < 1:
        raise ValueError(f"The `alpha` of a calibration must lie in (0, 1). Got {alpha:g}.")
    return math.ceil(1 / alpha - 1e-9) - 1
