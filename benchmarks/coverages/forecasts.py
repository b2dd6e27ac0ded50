"""Coverage of the intervals of `Hazard` and of the scores of forecasts, over simulated runs."""

from __future__ import annotations

import numpy as np

from benchmarks.coverages import Cell
from foreshock.evaluation import Landmarks, fit_hazard, landmarks_of, score_forecasts
from foreshock.types import Estimate

H = 10


def simulated(
    rng: np.random.Generator, runs: int, a: float = -1.5, b: float = 1.0, blocks: int = 12
) -> tuple[Landmarks, np.ndarray]:
    """Landmarks H apart and P(event in the next H steps) = logistic(a + b x), x AR(1) at .8."""
    histories, events, ends, truth = {}, {}, {}, []
    shocks, draws = rng.standard_normal((runs, blocks + 1)), rng.random((runs, blocks + 1))
    for r in range(runs):
        x = shocks[r].tolist()
        for k in range(1, blocks + 1):
            x[k] = 0.8 * x[k - 1] + 0.6 * x[k]
        came = None
        for k in range(1, blocks):
            if came is None:
                p = float(1 / (1 + np.exp(-(a + b * x[k]))))
                truth.append(p)
                came = H * k + 1 if draws[r, k] < p else None
        one = str(r)
        histories[one] = [(H * k, {"x": Estimate(x[k])}) for k in range(blocks + 1)]
        events[one], ends[one] = came, H * blocks
    return landmarks_of(histories, events, ends, within=H, every=H), np.array(truth)


def cells(cases: int, seed: int) -> list[Cell]:
    """Probability of a fitted hazard; Brier score, gain and slope of fixed forecasters."""
    rng = np.random.default_rng(seed)
    found = []
    few = "the covariance over few runs is too small"
    for runs, share, whole, low, why in (
        (100, 2, False, 0.92, ""),
        (30, 2, False, 0.88, few),
        (100, 5, True, 0.92, ""),  # with the slope and the clock, as by default
        (30, 5, True, 0.82, few),
    ):
        hits, many = 0, max(cases // share, 1)
        for _ in range(many):
            rows, _ = simulated(rng, runs)
            fitted = fit_hazard(rows, "x", clock=whole, ridge=1e-6, window=5 if whole else 1)
            state = fitted.init()
            for t in (10, 20, 30, 40):  # a path that stands still: a slope of 0
                state = fitted.take(state, t, {"x": Estimate(1.0)})
            _, p = fitted.update(state, 50, {"x": Estimate(1.0)})
            hits += p.low <= 1 / (1 + np.exp(0.5)) <= p.high
        setting = f"{runs} runs, hazard at x = 1{', slope and clock' if whole else ''}"
        found.append(Cell("Hazard probability", setting, many, hits / many, low, 0.98, why))
    # Scores of fixed forecasters: the truth, and two that are wrong to the same degree.
    big, truth = simulated(np.random.default_rng(1), 5_000)
    exact = _numbers(big, truth, np.random.default_rng(2))
    for runs in (12, 40):
        hits = np.zeros(3)
        for _ in range(cases):
            rows, truth = simulated(rng, runs)
            scores = score_forecasts(rows, _forecasts(truth, rng), resamples=400)
            brier, gain, slope = scores[0].brier, scores[1].gain, scores[0].slope
            told = (brier, gain, slope)
            hits += [e.low <= v <= e.high for e, v in zip(told, exact, strict=True)]
        names = ("ForecastScore.brier", "ForecastScore.gain", "ForecastScore.slope")
        for name, share in zip(names, hits / cases, strict=True):
            found.append(Cell(name, f"{runs} runs", cases, float(share), *ASKED[name, runs]))
    return found


#: Least and largest coverage that is asked for, and why.
ASKED: dict[tuple[str, int], tuple[float, float, str]] = {
    (name, runs): (0.92, 0.98, "")
    for name in ("ForecastScore.brier", "ForecastScore.gain", "ForecastScore.slope")
    for runs in (12, 40)
}
ASKED["ForecastScore.brier", 12] = (0.86, 0.98, "the sum over few runs is skewed")
ASKED["ForecastScore.slope", 12] = (0.88, 0.98, "percentiles of a regression on few runs")
ASKED["ForecastScore.slope", 40] = (0.88, 0.98, "percentiles of a regression on few runs")


def _forecasts(truth: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    logit = np.log(truth / (1 - truth))
    noisy = [1 / (1 + np.exp(-logit - 0.7 * rng.standard_normal(len(truth)))) for _ in range(2)]
    return {"clock": noisy[0], "other": noisy[1]}


def _numbers(rows: Landmarks, truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brier score, gain and slope in 5,000 runs; the gain of equals is exactly 0."""
    scores = score_forecasts(rows, _forecasts(truth, rng), resamples=20)
    return np.array([scores[0].brier.value, 0.0, scores[0].slope.value])
