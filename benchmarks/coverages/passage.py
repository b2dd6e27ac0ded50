"""Coverage of the intervals of first-passage times: rates with censoring, means, survival."""

from __future__ import annotations

import math

import numpy as np

from benchmarks.coverages import Cell
from foreshock.simulators.passage import PassageTimes
from foreshock.simulators.passage_estimates import (
    exponential_rate,
    mean_passage_time,
    survival_curve,
)


def _passage(times: np.ndarray, horizon: float) -> PassageTimes:
    return PassageTimes(
        np.minimum(times, horizon), np.where(times < horizon, 0, -1).astype(np.int64), horizon
    )


def cells(cases: int, seed: int) -> list[Cell]:
    """Exponential times of mean 1, n of them, watched until a horizon."""
    rng = np.random.default_rng(seed)
    out = []
    for n, horizon in ((10, 1.0), (50, 0.3), (50, 50.0), (1000, 0.5)):
        rates, means, shares = 0, 0, 0
        look = 0.5 * horizon if horizon < 1 else 0.5
        for _ in range(cases):
            passage = _passage(rng.exponential(size=n), horizon)
            rate = exponential_rate(passage)
            rates += rate.low <= 1.0 <= rate.high
            mean = mean_passage_time(passage, exponential_after=0.02)
            means += mean.low <= 1.0 <= mean.high
            (share,) = survival_curve(passage, [look])
            shares += share.low <= math.exp(-look) <= share.high
        setting = f"n = {n}, until {horizon:g} of the mean"
        exact = "Clopper-Pearson and Garwood are exact, hence conservative"
        out += [
            Cell("passage/rate", setting, cases, rates / cases, 0.92, 1.0, exact),
            Cell("passage/mean", setting, cases, means / cases, 0.92, 1.0, exact),
            Cell("passage/survival", setting, cases, shares / cases, 0.93, 1.0, exact),
        ]
    for n in (20, 400):
        found = [mean_passage_time(_passage(rng.exponential(size=n), 1e9)) for _ in range(cases)]
        hit = float(np.mean([e.low <= 1.0 <= e.high for e in found]))
        skew = "20 exponential times: Student's t meets a skew of 2" if n == 20 else ""
        low = 0.88 if n == 20 else 0.92
        out.append(Cell("passage/mean", f"n = {n}, Student's t", cases, hit, low, 0.98, skew))
    return out
