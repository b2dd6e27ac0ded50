"""Fit a `Hazard` on recorded runs, with the baselines it must beat."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from foreshock.detectors.hazard import Hazard
from foreshock.detectors.hazard_terms import STEP, Term
from foreshock.evaluation.landmarks import Forecaster, Landmarks, states
from foreshock.stats.logistic import clustered_covariance, fit_logistic

#: log(1 + step) and its square: a hazard that rises, or rises and falls again.
CLOCK = (Term(STEP, log=True), Term(STEP, "square", log=True))

#: What anybody logs: validation metric, its loss, and the training loss.
EVERYDAY = ("val_acc", "val_loss", "log:loss")

#: Penalties to choose from.
RIDGES = (1e-3, 1e-2, 0.1, 1.0, 10.0)

#: A penalty up to which the covariance over runs is claimed; beyond it the bias counts.
UNPENALISED = 1e-6


def fit_hazard(
    rows: Landmarks,
    series: str | Iterable[str] = (),
    *,
    clock: bool = True,
    ridge: float | None = None,
    window: int = 5,
    stale: int = 0,
) -> Hazard:
    """Logistic regression of "the event comes within h" on what is known at each landmark.

    Every series enters by its last reading and the slope of its last readings, both standardised
    over the landmarks, and with an indicator if any landmark lacks it (see `Term` and `Hazard` for
    the rule, and for what the cadence of the readings does). The clock, log(1 + step) and its
    square, enters as well unless ``clock`` is False, so that what a series adds is what it adds to
    the clock. Rows of one run are dependent: they enter as a composite likelihood, and the
    covariance is over runs.

    The penalty is chosen from five decades by the log score on left-out runs, for every forecaster
    by itself. A common one handicaps whoever needs steep coefficients, most of all the clock: on 12
    recorded runs of the p59 grokking task (h = 200) a penalty of 1 takes the clock's log score on
    12 others from -.209 to -.266 nats a row, and the gain over it grows by as much. An interval is
    claimed only where ``ridge`` is given and next to nothing (1e-6 or less): see `Hazard`.

    Args:
        rows: Landmarks of at least two runs.
        series: Names; ``log:NAME`` takes logarithms. None leaves the clock alone.
        clock: Whether the step is a covariate.
        ridge: Penalty, the precision of a normal prior on each standardised coefficient; chosen by
            `choose_ridge` if not given.
        window: Readings a slope is made of.
        stale: Age in steps beyond which a reading is not used; 0 for the horizon.

    Returns:
        The forecaster. A series that was never read, or an event that came at all landmarks or at
        none, is refused with a ValueError.

    Examples:
        Without covariates it is the share of rows with the event.

        >>> from foreshock.evaluation import landmarks_of
        >>> runs = {"a": 40, "b": None, "c": 45}
        >>> rows = landmarks_of(dict.fromkeys(runs, []), runs, dict.fromkeys(runs, 60), within=10)
        >>> constant = fit_hazard(rows, clock=False)
        >>> p = constant.at(constant.init(), 30).value
        >>> bool(abs(p - rows.outcome.mean()) < 1e-12)
        True
    """
    names = [series] if isinstance(series, str) else list(series)
    terms = list(CLOCK) if clock else []
    for name in names:
        log, plain = name.startswith("log:"), name.removeprefix("log:")
        terms += [Term(plain, kind, log) for kind in ("last", "slope", "missing")]  # type: ignore[arg-type]
    blank = Hazard(rows.event, rows.within, tuple(terms), (0.0,) * (len(terms) + 1), (), window)
    blank = replace(blank, stale=stale or rows.within)
    blank = replace(blank, cadence=tuple(_cadence(rows, name) for name in blank.reads))
    raw = raw_terms(rows, blank)
    kept, columns = [], []
    for term, x in zip(terms, raw.T, strict=True):
        fitted = _standardise(term, x)
        if fitted is not None:
            kept.append(fitted)
            columns.append([fitted.standardised(value) for value in x.tolist()])
    outcome = rows.outcome.astype(float)
    design = np.column_stack([np.ones(len(rows)), *columns])
    ridge = choose_ridge(rows, design) if ridge is None else ridge
    b = fit_logistic(design, outcome, ridge=ridge)
    covariance: list[list[float]] = []
    if ridge <= UNPENALISED:
        covariance = clustered_covariance(design, outcome, b, rows.run, ridge=ridge).tolist()
    events = len(np.unique(rows.run[rows.outcome]))
    # A series whose terms were all constant is read no more, and takes its cadence with it.
    cadence = dict(zip(blank.reads, blank.cadence, strict=True))
    reads = list(dict.fromkeys(t.series for t in kept if t.series != STEP))
    return replace(
        blank,
        terms=tuple(kept),
        coefficients=tuple(b.tolist()),
        covariance=tuple(map(tuple, covariance)),
        until=int(rows.step.max()) if clock else 0,
        runs=rows.ids,
        cadence=tuple(cadence[name] for name in reads),
        units=tuple(rows.units[name] for name in reads) if rows.units else (),
        setups=tuple(sorted(set(rows.setups))),
        versions=rows.versions,
        basis=(
            f"a logistic regression on {len(rows.ids)} runs of one set-up, {events} of them with "
            "the event; other set-ups have other coefficients"
        ),
    )


def choose_ridge(rows: Landmarks, design: NDArray[np.float64]) -> float:
    """The penalty of the best log score on left-out runs, five folds of whole runs.

    Args:
        rows: N landmarks.
        design: ``(N, 1 + terms)``, standardised over all of them.

    Returns:
        One of `RIDGES`; the largest if nothing tells them apart, 1 if no fold can be left out.

    Examples:
        Pure noise as a covariate is shrunk as far as the grid goes.

        >>> from foreshock.evaluation import landmarks_of
        >>> runs = {str(i): 20 + i if i % 2 else None for i in range(20)}
        >>> rows = landmarks_of(dict.fromkeys(runs, []), runs, dict.fromkeys(runs, 60), within=10)
        >>> noise = np.random.default_rng(0).standard_normal(len(rows))
        >>> choose_ridge(rows, np.column_stack([np.ones(len(rows)), noise]))
        10.0
    """
    if design.shape[1] == 1:
        return 0.0
    outcome, score = rows.outcome.astype(float), dict.fromkeys(RIDGES, 0.0)
    left_out = 0
    for fold in rows.folds(min(5, len(rows.ids))) if len(rows.ids) > 1 else []:
        held = np.isin(rows.run, [i for i, one in enumerate(rows.ids) if one in set(fold)])
        if not held.any() or outcome[~held].sum() in (0, (~held).sum()):
            continue
        left_out += 1
        for ridge in RIDGES:
            logit = design[held] @ fit_logistic(design[~held], outcome[~held], ridge=ridge)
            score[ridge] += float((outcome[held] * logit - np.logaddexp(0, logit)).sum())
    return max(reversed(RIDGES), key=lambda one: score[one]) if left_out else 1.0


def _cadence(rows: Landmarks, name: str) -> int:
    """Steps between finite readings of a series: the median of a run, the coarsest run's."""
    found = []
    for history in rows.histories:
        known = (values.get(name) for _, values in history)
        steps = [
            t for (t, _), e in zip(history, known, strict=True) if e and math.isfinite(e.value)
        ]
        if len(steps) > 1:
            found.append(int(np.median(np.diff(steps))))
    return max(found, default=1)


def raw_terms(rows: Landmarks, forecaster: Hazard) -> NDArray[np.float64]:
    """Covariates of every row before they are standardised, ``(N, terms)``, nan where missing."""
    found = states(rows, forecaster)
    raw = [forecaster.raw(state, t) for state, t in zip(found, rows.step.tolist(), strict=True)]
    return np.array(raw, dtype=float).reshape(len(rows), len(forecaster.terms))


def _standardise(term: Term, x: NDArray[np.float64]) -> Term | None:
    """The term with its location and scale; ``None`` if it is constant over the rows."""
    if term.kind == "missing":
        return term if 0 < x.sum() < len(x) else None
    known = x[np.isfinite(x)]
    if not len(known) and term.kind != "slope":
        raise ValueError(
            f"{term.title} has no finite value at any landmark. Is {term.series!r} a series of "
            "these runs?"
        )
    scale = float(known.std()) if len(known) else 0.0
    # Rounding leaves a spread of some 1e-16 of the size where there is none.
    if not scale > 1e-12 * float(np.abs(known).max(initial=0.0)):
        return None
    return replace(term, location=float(known.mean()), scale=scale)


def forecast(rows: Landmarks, forecaster: Forecaster) -> NDArray[np.float64]:
    """The probability at every row, as the forecaster gave it online.

    Args:
        rows: N landmarks of runs the forecaster was not fitted on.
        forecaster: `Hazard`, `PublishedProbability`, or yours.

    Returns:
        ``(N,)``; nan where it could not say.

    Raises:
        ValueError: If it forecasts something else, or was fitted on one of these runs.

    Examples:
        >>> from foreshock.evaluation import landmarks_of
        >>> runs = {"a": 40, "b": None, "c": 45}
        >>> rows = landmarks_of(dict.fromkeys(runs, []), runs, dict.fromkeys(runs, 60), within=10)
        >>> forecast(rows, fit_hazard(rows))
        Traceback (most recent call last):
        ...
        ValueError: 3 of the runs to score were used to fit this forecaster (a, b, c). Score it on
        others, or use `crossfit`.
    """
    if (forecaster.event, forecaster.within) != (rows.event, rows.within):
        raise ValueError(
            f"The forecaster is of {forecaster.event} within {forecaster.within} steps, the "
            f"landmarks are of {rows.event} within {rows.within}."
        )
    seen = [one for one in rows.ids if one in set(getattr(forecaster, "runs", ()))]
    if seen:
        raise ValueError(
            f"{len(seen)} of the runs to score were used to fit this forecaster "
            f"({', '.join(seen[:3])}). Score it on others, or use `crossfit`."
        )
    for name, unit in zip(forecaster.reads, getattr(forecaster, "units", ()), strict=False):
        if rows.units.get(name, unit) != unit:
            raise ValueError(
                f"The forecaster was fitted on {name} in {unit}, the runs to score have it in "
                f"{rows.units[name]}."
            )
    return _values(rows, forecaster)


def _values(
    rows: Landmarks, forecaster: Forecaster, until: float = math.inf
) -> NDArray[np.float64]:
    """The probability at every row, where the clock of a row stops at ``until``."""
    found = zip(states(rows, forecaster), rows.step.tolist(), strict=True)
    values = (forecaster.at(state, min(t, until)).value for state, t in found)  # type: ignore[arg-type]
    return np.array(list(values), dtype=float)


def crossfit(
    rows: Landmarks,
    series: str | Iterable[str] = (),
    *,
    folds: int = 5,
    clock: bool = True,
    ridge: float | None = None,
    window: int = 5,
    stale: int = 0,
) -> NDArray[np.float64]:
    """Probabilities at every row by forecasters fitted on the runs of the other folds.

    Runs are dealt whole, so no row of a run helps to forecast another of the same run; terms are
    standardised anew in each fold. Where the others end earlier (the latest onset is left out, and
    they have no landmarks so late) the clock of the row stops at their last landmark: to leave such
    rows out would drop those just before the latest events. Scores of different folds share runs of
    the fits and are slightly dependent, which their interval over runs does not see.

    Args:
        rows: N landmarks.
        series: As in `fit_hazard`.
        folds: Number of folds; the number of runs leaves one out at a time.
        clock: As in `fit_hazard`.
        ridge: As in `fit_hazard`.
        window: As in `fit_hazard`.
        stale: As in `fit_hazard`.

    Returns:
        ``(N,)``.

    Examples:
        >>> from foreshock.evaluation import landmarks_of
        >>> runs = {"a": 40, "b": None, "c": 45, "d": None}
        >>> rows = landmarks_of(dict.fromkeys(runs, []), runs, dict.fromkeys(runs, 60), within=10)
        >>> crossfit(rows, folds=2).shape == (len(rows),)
        True
    """
    names = [series] if isinstance(series, str) else list(series)
    found = np.full(len(rows), math.nan)
    for fold in rows.folds(folds):
        held = set(fold)
        fitted = fit_hazard(
            rows.only(one for one in rows.ids if one not in held),
            names,
            clock=clock,
            ridge=ridge,
            window=window,
            stale=stale,
        )
        place = np.isin(rows.run, [i for i, one in enumerate(rows.ids) if one in held])
        found[place] = _values(rows.only(held), fitted, fitted.until or math.inf)
    return found


def fit_baselines(
    rows: Landmarks, series: Sequence[str] = EVERYDAY, *, ridge: float | None = None
) -> dict[str, Hazard]:
    """What a forecaster must beat: the clock alone, and the clock with one everyday series each.

    Args:
        rows: Landmarks, the same the forecaster is fitted on.
        series: Everyday series; those that no run has are left out.
        ridge: As in `fit_hazard`.

    Returns:
        ``"clock"``, then one forecaster for each series, by name.

    Examples:
        >>> from foreshock.evaluation import landmarks_of
        >>> runs = {"a": 40, "b": None, "c": 45}
        >>> rows = landmarks_of(dict.fromkeys(runs, []), runs, dict.fromkeys(runs, 60), within=10)
        >>> list(fit_baselines(rows))
        ['clock']
    """
    there = {name for history in rows.histories for _, values in history for name in values}
    found = {"clock": fit_hazard(rows, ridge=ridge)}
    for name in series:
        if name.removeprefix("log:") in there:
            found[name] = fit_hazard(rows, name, ridge=ridge)
    return found
