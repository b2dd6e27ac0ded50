"""Coverage of the correlation dimension and of the null of the path.

Clouds of known dimension k (uniform points of the k-ball in 10 dimensions), where the truth is k;
and stationary AR(1) walks, whose readings the null band is to hold.
"""

from __future__ import annotations

import math

import numpy as np

from benchmarks.coverages import Cell
from foreshock.stats.trajectory import gram_dimension

HULL = "hull of two intervals, so conservative"


def ball(n: int, k: int, rng: np.random.Generator) -> np.ndarray:
    """Uniform points of the k-ball."""
    x = rng.standard_normal((n, k))
    return x * rng.random((n, 1)) ** (1 / k) / np.linalg.norm(x, axis=1, keepdims=True)


def walk(n: int, p: int, rho: float, rng: np.random.Generator) -> np.ndarray:
    """A stationary AR(1) sequence."""
    x = rng.standard_normal((n, p))
    for t in range(1, n):
        x[t] = rho * x[t - 1] + math.sqrt(1 - rho**2) * x[t]
    return x


def cells(cases: int = 1000, seed: int = 0) -> list[Cell]:
    """Intervals of the dimension, and bands of the null.

    Args:
        cases: Simulated paths a setting.
        seed: Seed.
    """
    found = []
    name = "trajectory/correlation_dimension"
    for n, k in ((32, 1), (60, 2)):
        rng = np.random.default_rng([seed, n, k])
        hits = 0
        for _ in range(cases):
            points = ball(n, k, rng)
            got = gram_dimension(points @ points.T, dimension=k, draws=39)[name]
            hits += got.low <= k <= got.high
        found.append(Cell(name, f"n={n} ball of dimension {k}", cases, hits / cases, 0.92, 1, HULL))
    for n, p, rho in ((32, 1000, 0.0), (32, 20, 0.9)):
        rng = np.random.default_rng([seed, n, p, int(10 * rho)])
        inside = dict.fromkeys(("trajectory/participation_ratio", name), 0)
        for case in range(cases):
            x = walk(n, p, rho, rng)
            read = gram_dimension(x @ x.T, dimension=p, draws=199, seed=case)
            for series in inside:
                low, high = read[series].null
                inside[series] += low <= read[series].value <= high
        why = "a band of 199 draws holds 94.5 %; rho is fitted to the same path, which widens it"
        for series, count in inside.items():
            setting = f"null band, walk p={p} rho={rho:g}"
            found.append(Cell(series, setting, cases, count / cases, 0.91, 1, why))
    return found
