"""Coverage of the intervals of the tangent kernel: examples are draws from a population.

Row i of J is a draw from a population of d = 400 features, as at frozen weights; the truth is the
mean of the reading over all simulated probes, of the same n. For the rates a second J is the first
with its features stretched, which moves the spectrum while the examples stay. For CKA the second J
has a share of other features. For the alignment class c shifts its examples along one feature.
"""

from __future__ import annotations

import numpy as np

from benchmarks.coverages import Cell
from foreshock.stats.kernels import kernel_alignment, kernel_cka
from foreshock.stats.ntk import ntk_summary
from foreshock.types import Estimate

EPSILON = 1e-4
FEATURES = 400
#: Name, n, exponent of the spectrum, degrees of freedom of a radial t law (0: Gaussian).
SETTINGS = (
    ("n=64 spectrum j^-1", 64, 1.0, 0),
    ("n=64 flat spectrum", 64, 0.0, 0),
    ("n=32 spectrum j^-1", 32, 1.0, 0),
    ("n=64 j^-1, radial t_8", 64, 1.0, 8),
)


def features(n: int, exponent: float, df: int, rng: np.random.Generator) -> np.ndarray:
    """``(n, d)`` output gradients of n examples, around a common direction."""
    scale = np.arange(1.0, FEATURES + 1) ** (-exponent / 2)
    rows = rng.standard_normal((n, FEATURES)) * scale
    if df:
        rows /= np.sqrt(rng.chisquare(df, (n, 1)) / df)
    rows[:, 1] += 0.5
    return rows


def readings(n: int, exponent: float, df: int, rng: np.random.Generator) -> dict[str, Estimate]:
    """All intervals of one probe."""
    rows = features(n, exponent, df, rng)
    labels = rng.integers(0, 4, n)
    rows[:, 0] += 1.5 * (labels % 2)
    stretch = 1 + 0.3 * np.sin(np.arange(FEATURES))
    later = rows * stretch
    mixed = rows + 0.7 * rows[:, ::-1] * np.arange(1.0, FEATURES + 1) ** (-exponent / 2)
    _, state = ntk_summary(rows @ rows.T / n, epsilon=EPSILON)
    found, _ = ntk_summary(later @ later.T / n, epsilon=EPSILON, previous=state, dt=1)
    found["ntk/cka_start"] = kernel_cka(mixed @ mixed.T, rows @ rows.T)
    found["ntk/alignment"] = kernel_alignment(rows @ rows.T, labels, draws=39)
    return found


def cells(cases: int = 1000, seed: int = 0) -> list[Cell]:
    """Coverage of each interval in each setting.

    Args:
        cases: Simulated probes a setting.
        seed: Seed.
    """
    found = []
    for index, (setting, n, exponent, df) in enumerate(SETTINGS):
        rng = np.random.default_rng([seed, index])
        reads = [readings(n, exponent, df, rng) for _ in range(cases)]
        for name in reads[0]:
            truth = float(np.mean([read[name].value for read in reads]))
            share = np.mean([read[name].low <= truth <= read[name].high for read in reads])
            low, high, why = 0.92, 0.98, ""
            if exponent == 0:
                high, why = 1.0, "no shared directions: pairs fluctuate, the jackknife is too long"
            if df:
                low, why = 0.90, "rare long examples, which the probe may not hold"
            found.append(Cell(name, setting, cases, float(share), low, high, why))
    return found
