"""Scores of probability forecasts beside baselines, with intervals over whole runs."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foreshock.evaluation.landmarks import Landmarks
from foreshock.stats.intervals import t_quantile
from foreshock.stats.logistic import fit_logistic
from foreshock.stats.sample import proportion
from foreshock.types import Estimate, Flag

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ForecastScore:
    """What a forecaster is worth on runs it has not seen; intervals over runs.

    Args:
        name: Of the forecaster.
        brier: Mean of (p − y)²; smaller is better.
        log_score: Mean of log P(what happened), nats a row; larger is better.
        skill: 1 − brier/(brier of the reference); 0 for the reference itself.
        gain: ``log_score`` minus that of the reference, on the same rows.
        slope: Of the logit of P(y) on the logit of p: 1 if calibrated, below 1 if overconfident.
        intercept: Of the same regression: 0 if calibrated.
        rows: Landmarks that count, those at which every forecaster compared gave a probability.
        events: How many of them have the event.
        runs: Runs they come from.
    """

    name: str
    brier: Estimate
    log_score: Estimate
    skill: Estimate
    gain: Estimate
    slope: Estimate
    intercept: Estimate
    rows: int
    events: int
    runs: int


@dataclass(frozen=True)
class ReliabilityBin:
    """Forecasts of about the same probability, and how often the event came.

    Args:
        forecast: Mean probability.
        observed: Share of rows with the event, with the Clopper-Pearson interval of independent
            rows; landmarks of one run are not, so it is too narrow by as much as they agree.
        rows: Landmarks.
        runs: Runs they come from.
    """

    forecast: float
    observed: Estimate
    rows: int
    runs: int


def score_forecasts(
    rows: Landmarks,
    forecasts: Mapping[str, ArrayLike],
    *,
    reference: str = "clock",
    pairwise: Collection[str] = (),
    resamples: int = 1000,
    seed: int = 0,
) -> list[ForecastScore]:
    """Brier score, log score, skill, gain over the reference and calibration of each forecaster.

    Only rows at which all of them gave a probability count, so that all are judged on the same; but
    those named in ``pairwise`` (published numbers, of series that may be sparse) are judged on what
    of these rows they have, beside the reference on the same, and take none from the others.
    Intervals resample whole runs and are percentiles at the level that makes the interval of a mean
    of R runs as long as Student's (Hesterberg, 2015). They hold for these fitted forecasters on new
    runs and leave out that other runs would have given another fit. Coverage in 500 simulated cases
    of 12 and 40 runs: gain 94 and 95 %, Brier score 93 and 94 %, slope 95 and 95 %.

    Args:
        rows: N landmarks.
        forecasts: By name: ``(N,)`` probabilities.
        reference: The one that skill and gain are against.
        pairwise: Names of forecasters that take no rows from the others; not the reference.
        resamples: Bootstrap samples.
        seed: Of the resampling.

    Returns:
        A score for each forecaster, in the order given.

    Raises:
        ValueError: If the reference is missing or pairwise, a probability is out of range, the
            shapes differ, or no row with the event is left.

    Examples:
        >>> from foreshock.evaluation import landmarks_of
        >>> runs = {"a": 40, "b": None, "c": 45}
        >>> rows = landmarks_of(dict.fromkeys(runs, []), runs, dict.fromkeys(runs, 60), within=10)
        >>> half = np.full(len(rows), 0.5)
        >>> sure = np.where(rows.outcome, 0.9, 0.1)
        >>> scores = score_forecasts(rows, {"clock": half, "sure": sure})
        >>> [round(score.brier.value, 2) for score in scores], round(scores[1].skill.value, 2)
        ([0.25, 0.01], 0.96)
    """
    common = {name: p for name, p in forecasts.items() if name not in pairwise}
    if reference not in common:
        raise ValueError(
            f"The forecasts need the reference {reference!r} among those that are not pairwise. "
            f"Got {', '.join(common) or 'none'}."
        )
    found = []
    for name, p in forecasts.items():
        table, y, run = _common(rows, common if name in common else {**common, name: p})
        weights = _weights(run, resamples, seed)
        by, one = (table[list({**common, name: p}).index(each)] for each in (reference, name))
        brier, against = (one - y) ** 2, (by - y) ** 2
        log = _log_scores(one, y)
        slope, intercept = _calibration(one, y, run, weights)
        found.append(
            ForecastScore(
                name,
                brier=_mean(brier, run, weights),
                log_score=_mean(log, run, weights),
                skill=_ratio(brier, against, run, weights, "The reference has a Brier score of 0"),
                gain=_mean(_difference(log, _log_scores(by, y)), run, weights),
                slope=slope,
                intercept=intercept,
                rows=len(y),
                events=int(y.sum()),
                runs=len(np.unique(run)),
            )
        )
    return found


def compare_forecasts(
    rows: Landmarks,
    forecasts: Mapping[str, ArrayLike],
    *,
    of: str = "forecast",
    pairwise: Collection[str] = (),
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Log score of one forecaster minus that of each other one, on the same rows.

    A forecaster that only knows the clock gains nothing over the clock, however good its score.

    Args:
        rows: N landmarks.
        forecasts: By name: ``(N,)`` probabilities.
        of: The one that is compared with the others.
        pairwise: As in `score_forecasts`; not ``of``.
        resamples: Bootstrap samples of whole runs.
        seed: Of the resampling.

    Returns:
        By name of the other: the difference in nats a row; its interval is above 0 if the one is
        better.

    Raises:
        ValueError: If there is no such forecaster, the probabilities do not fit, or no row with the
            event is left.

    Examples:
        >>> from foreshock.evaluation import landmarks_of
        >>> runs = {"a": 40, "b": None, "c": 45}
        >>> rows = landmarks_of(dict.fromkeys(runs, []), runs, dict.fromkeys(runs, 60), within=10)
        >>> half = np.full(len(rows), 0.5)
        >>> gains = compare_forecasts(rows, {"forecast": half, "clock": half})
        >>> gains["clock"].value
        0.0
    """
    common = {name: p for name, p in forecasts.items() if name not in pairwise}
    if of not in common:
        raise ValueError(
            f"There is no forecaster {of!r} but pairwise ones. Got {', '.join(common) or 'none'}."
        )
    found = {}
    for name, p in forecasts.items():
        if name == of:
            continue
        table, y, run = _common(rows, common if name in common else {**common, name: p})
        one, other = (table[list({**common, name: p}).index(each)] for each in (of, name))
        differences = _difference(_log_scores(one, y), _log_scores(other, y))
        found[name] = _mean(differences, run, _weights(run, resamples, seed))
    return found


def _log_scores(p: Array, y: NDArray[np.bool_]) -> Array:
    with np.errstate(divide="ignore"):
        return np.where(y, np.log(p), np.log1p(-p))


def reliability(
    rows: Landmarks, probabilities: ArrayLike, *, bins: int = 10
) -> list[ReliabilityBin]:
    """The reliability curve: share of events against forecast, in bins of equally many rows.

    Args:
        rows: N landmarks.
        probabilities: ``(N,)``; rows without one are left out.
        bins: At most so many; equal probabilities are never split.

    Returns:
        The bins, by probability.

    Examples:
        >>> from foreshock.evaluation import landmarks_of
        >>> runs = {"a": 40, "b": None, "c": 45}
        >>> rows = landmarks_of(dict.fromkeys(runs, []), runs, dict.fromkeys(runs, 60), within=10)
        >>> curve = reliability(rows, np.where(rows.outcome, 0.9, 0.1))
        >>> [(round(one.forecast, 9), one.observed.value) for one in curve]
        [(0.1, 0.0), (0.9, 1.0)]
    """
    (p,), y, run = _common(rows, {"": probabilities})
    edges = np.unique(np.quantile(p, np.linspace(0, 1, bins + 1)[1:-1], method="lower"))
    label = np.searchsorted(edges, p, side="left")
    found = []
    for one in np.unique(label):
        here = label == one
        observed = proportion(int(y[here].sum()), int(here.sum()))
        mean, count = float(p[here].mean()), len(np.unique(run[here]))
        found.append(ReliabilityBin(mean, observed, int(here.sum()), count))
    return found


def _common(
    rows: Landmarks, forecasts: Mapping[str, ArrayLike]
) -> tuple[Array, NDArray[np.bool_], NDArray[np.intp]]:
    """Probabilities ``(forecasters, n)``, outcomes and runs of the rows that all have."""
    arrays = [np.asarray(p, dtype=float) for p in forecasts.values()]
    if any(p.shape != (len(rows),) for p in arrays):
        raise ValueError(
            f"Every forecast needs one probability for each of the {len(rows)} landmarks. Got "
            f"{', '.join(str(p.shape) for p in arrays)}."
        )
    table = np.stack(arrays)
    if (table < 0).any() or (table > 1).any():
        raise ValueError("A probability lies outside [0, 1].")
    kept = ~np.isnan(table).any(axis=0)
    if not rows.outcome[kept].any():
        told = ", ".join(
            f"{n} {int((~np.isnan(p)).sum())}" for n, p in zip(forecasts, arrays, strict=True)
        )
        raise ValueError(
            f"Of {len(rows)} landmarks {int(kept.sum())} have a probability of every forecaster, "
            f"none of them with the event{f' ({told})' if len(forecasts) > 1 else ''}. Leave out "
            "the forecaster that rarely says, or score it pairwise."
        )
    return table[:, kept], rows.outcome[kept], rows.run[kept]


def _weights(run: NDArray[np.intp], resamples: int, seed: int) -> Array:
    """How often each run is drawn, ``(resamples, R)``."""
    size = len(np.unique(run))
    rng = np.random.default_rng(seed)
    return rng.multinomial(size, np.full(size, 1 / size), size=resamples).astype(np.float64)


def _sums(x: Array, run: NDArray[np.intp]) -> Array:
    return np.bincount(np.unique(run, return_inverse=True)[1], x).astype(np.float64)


def _mean(x: Array, run: NDArray[np.intp], weights: Array) -> Estimate:
    """Mean over rows, resampled by runs."""
    runs = weights.shape[1]
    if not np.isfinite(x).all():
        sentence = "What happened had been given a probability of 0 at some landmark."
        value = float(x[~np.isfinite(x)].sum()) if not np.isnan(x).any() else math.nan
        if math.isnan(value):
            return Estimate.missing(sentence, n=runs)
        return Estimate(value, n=runs, flags=Flag.UNRESOLVED, reason=sentence)
    drawn = (weights @ _sums(x, run)) / (weights @ _sums(np.ones_like(x), run))
    return _interval(float(x.mean()), drawn, runs)


def _difference(one: Array, other: Array) -> Array:
    """One minus the other; where both are −inf they are equally wrong."""
    with np.errstate(invalid="ignore"):
        return np.where(one == other, 0.0, one - other)


def _ratio(x: Array, by: Array, run: NDArray[np.intp], weights: Array, why: str) -> Estimate:
    """1 − mean(x)/mean(by), resampled by runs."""
    if not by.sum() > 0:
        return Estimate.missing(why + ".", n=weights.shape[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = 1 - (weights @ _sums(x, run)) / (weights @ _sums(by, run))
    return _interval(1 - float(x.sum() / by.sum()), drawn[np.isfinite(drawn)], weights.shape[1])


def _calibration(
    p: Array, y: NDArray[np.bool_], run: NDArray[np.intp], weights: Array
) -> tuple[Estimate, Estimate]:
    """Slope and intercept of the logit of y on the logit of p (Cox, 1958)."""
    runs, labels = weights.shape[1], np.unique(run, return_inverse=True)[1]
    if (p <= 0).any() or (p >= 1).any():
        refused = Estimate.missing("A probability of 0 or 1 has no logit.", n=runs)
        return refused, refused
    x = np.column_stack([np.ones(len(p)), np.log(p) - np.log1p(-p)])
    try:
        a, b = fit_logistic(x, y)
    except ValueError:
        refused = Estimate.missing(
            "No regression on the logit: it is constant or separates the outcomes.", n=runs
        )
        return refused, refused
    drawn = _resampled_lines(x[:, 1], y, weights[:, labels], np.array([a, b]))
    if len(drawn) < 0.9 * len(weights):
        sentence = "In more than a tenth of the resamples no finite regression exists."
        cut = {"n": runs, "flags": Flag.UNRESOLVED, "reason": sentence}
        return Estimate(float(b), **cut), Estimate(float(a), **cut)
    return _interval(float(b), drawn[:, 1], runs), _interval(float(a), drawn[:, 0], runs)


def _resampled_lines(x: Array, y: NDArray[np.bool_], weights: Array, start: Array) -> Array:
    """Logistic lines ``(a, b)`` of each row of ``weights``, all at once; only those that exist."""
    from scipy.special import expit

    lines = np.tile(start, (len(weights), 1))
    moved = np.full(len(weights), np.inf)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        for _ in range(12):
            p = expit(lines[:, :1] + lines[:, 1:] * x)
            left, curved = weights * (y - p), weights * p * (1 - p)
            g0, g1 = left.sum(axis=1), left @ x
            h0, h1, h2 = curved.sum(axis=1), curved @ x, curved @ (x * x)
            determinant = h0 * h2 - h1 * h1
            move = np.stack([h2 * g0 - h1 * g1, h0 * g1 - h1 * g0], axis=1)
            move /= determinant[:, None]
            lines = lines + move
            moved = np.abs(move).max(axis=1) / (1 + np.abs(lines).max(axis=1))
    return lines[moved < 1e-6]


def _interval(value: float, drawn: Array, runs: int) -> Estimate:
    """Percentiles, wider than 95 % as Student's interval is for so few runs."""
    from scipy.special import ndtr

    if runs < 2 or len(drawn) < 20:
        sentence = "One run has no spread to judge it by."
        return Estimate(value, n=runs, flags=Flag.UNRESOLVED, reason=sentence)
    tail = float(ndtr(-math.sqrt(runs / (runs - 1)) * t_quantile(runs - 1)))
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Estimate(value, float(low), float(high), n=runs)
