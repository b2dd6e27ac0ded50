"""Split conformal calibration: a run-level alarm threshold from known-safe runs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foreshock.detectors.calibration import Calibration, Side, setup_digest
from foreshock.evaluation.conformal_ranks import conformal_threshold, runs_needed
from foreshock.store import Run

#: Median and mean absolute deviation of a normal law to its standard deviation.
_MAD, _MEAN = 1.4826, 1.2533
#: A spread below these shares, of the largest value at the step and of the typical spread of the
#: series, is rounding: to divide by it would make its step set the threshold alone.
_ROUNDING, _DEGENERATE = 1e-12, 1e-6
#: A step without which the threshold would be smaller by this factor is told.
_ALONE = 2.0
#: Milestones that no safe run has reached.
_UNSAFE = frozenset({"over_optimised"})


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

    Where half of the first third agree but for rounding (all runs start at 0, an accuracy has
    saturated at 1), the typical scale of the series stands in, the median over the other steps (the
    mean deviation where there are none): an alarm that looked away there would be blind for the
    rest of the run. Any scale that is made of
    the first third alone keeps the guarantee. ``notes`` counts these steps, and names a step
    without which the threshold would be less than half.

    A safe run that is infinite on the dangerous side has an infinite score.

    Args:
        grid: ``(T,)`` steps, increasing.
        values: ``(M, s, T)`` values of M runs, none of them nan.
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
    if np.isnan(table).any():
        raise ValueError("`fit` needs values; leave out the steps at which some run has none.")
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
    location, scale, notes = _standard(table[:third], series)
    located = np.isfinite(location).all(axis=0)  # not where most of the first third is infinite
    if not located.any():
        raise ValueError(f"{', '.join(series)} is infinite at every step in most of the runs.")
    blank = Calibration(
        series=tuple(series),
        sides=tuple(sides),
        grid=tuple(int(step) for step in steps[located]),
        location=tuple(tuple(map(float, row)) for row in location[:, located]),
        scale=tuple(tuple(map(float, row)) for row in scale[:, located]),
        threshold=0.0,
        alpha=alpha,
        located=tuple(names[:third]),
        calibrated=tuple(names[third:]),
    )
    z = standardised(blank, table[third:][..., located])
    scores = z.max(axis=1)
    threshold = conformal_threshold(scores, alpha)
    if not math.isfinite(threshold):
        raise ValueError(
            f"{int(np.isposinf(scores).sum())} of the {len(scores)} runs that give the threshold "
            f"are infinite on the dangerous side of {', '.join(series)}: no finite threshold has a "
            f"false-alarm rate of {alpha:g}. Are they known to be safe?"
        )
    at = int(z[int(np.flatnonzero(scores == threshold)[0])].argmax())
    without = np.delete(z, at, axis=1)
    rest = conformal_threshold(without.max(axis=1), alpha) if without.size else threshold
    if threshold > _ALONE * max(rest, 0.0):
        notes.append(
            f"Step {blank.grid[at]:,} alone sets the threshold: it is {threshold:.3g} scales, and "
            f"{rest:.3g} without that step. What the alarm misses elsewhere is due to it."
        )
    return replace(blank, threshold=threshold, notes=tuple(notes))


def _standard(
    table: NDArray[np.float64], series: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64], list[str]]:
    """Location and scale ``(s, T)`` of runs ``(m, s, T)``, and where the scale is borrowed."""
    with np.errstate(invalid="ignore"):
        location = np.median(table, axis=0)
        off = np.abs(table - location)
        scale = _MAD * np.median(off, axis=0)
    finite = np.where(np.isfinite(table), np.abs(table), 0.0).max(axis=0)
    notes = []
    for row, name in enumerate(series):
        varies = np.isfinite(scale[row]) & (scale[row] > _ROUNDING * finite[row])
        # Runs that differ at every step, but fewer than half of them, have a mean deviation only.
        pooled = _MEAN * float(off[:, row][np.isfinite(off[:, row])].mean())
        if not varies.any() and not pooled > _ROUNDING * finite[row].max():
            raise ValueError(
                f"{name} does not vary between the runs at any step, so nothing can be "
                "standardised. Are they copies of one run?"
            )
        typical = float(np.median(scale[row][varies])) if varies.any() else pooled
        varies &= scale[row] > _DEGENERATE * typical
        scale[row][~varies] = typical
        if not varies.all():
            notes.append(
                f"Half or more of the {len(table)} runs that locate {name} agree at "
                f"{int((~varies).sum()):,} of {len(varies):,} steps; its typical scale, "
                f"{typical:.3g}, stands in there."
            )
    return location, scale, notes


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

    The grid is the steps at which no run lacks a value of a series or has nan; ``notes`` says how
    many steps of the longest run that leaves out. Runs are used in
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
        common: Share of the longest run's steps that all runs must have a value at, in [0, 1].
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
    read = [[_known(run, name) for name in names] for run in runs]
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
    longest = max(len(set.intersection(*map(set, run))) for run in read)
    notes = fitted.notes
    if len(fitted.grid) < longest:
        left = longest - len(fitted.grid)
        notes += (f"{left:,} of {longest:,} steps are left out: not every run has a value there.",)
    return replace(
        fitted,
        units=units[0],
        setup=setup_digest(runs[0].info["config"]),
        versions=json.dumps(runs[0].info.get("versions", {}), sort_keys=True),
        notes=notes,
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
            f"No step has a value of {', '.join(names)} in all {len(runs)} runs. Log them "
            "at the same steps in every run, measured ones by `attach(..., every=10)`: a budget "
            "measures at other steps in every run."
        )
    worst = min(range(len(runs)), key=lambda i: len(own[i] & own[longest]))
    raise ValueError(
        f"The {len(runs)} runs share {len(steps)} of the {len(own[longest])} steps at which "
        f"{runs[longest].path} has a value of {', '.join(names)}, and less than {share:.0%} "
        f"of them is refused: an alarm looks at common steps only. {runs[worst].path} has fewest, "
        f"{len(own[worst] & own[longest])} of them. Leave it out, or record it again at the same "
        "steps, measured series by `attach(..., every=10)`: a budget measures at other steps in "
        "every run."
    )


def _known(run: Run, name: str) -> dict[int, float]:
    """Step to value of a series, without nan; what is infinite is known."""
    if name not in run.names():
        raise ValueError(
            f"The run {run.path} has no series {name!r}. It has {', '.join(run.names()[:12])}."
        )
    found = run.series(name)
    pairs = zip(found.step.tolist(), found.value.tolist(), strict=True)
    return {step: value for step, value in pairs if not math.isnan(value)}


def standardised(calibration: Calibration, values: ArrayLike) -> NDArray[np.float64]:
    """Scores of whole runs on the grid of a calibration, as `ConformalAlarm` sees them.

    Args:
        calibration: With s series on g steps.
        values: ``(..., s, g)``.

    Returns:
        ``(..., g)``, the largest z over the series, -inf where none has a value.

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
    return np.where(np.isnan(z), -np.inf, z).max(axis=-2)
