"""Coverage of the block jackknife of `foreshock.stats.norm_noise`: norms of examples and of ranks.

Each case is a block of steps with fresh per-example gradients g = mu + e, tr S = 1, |mu|^2 = C_1.
The share of stationary blocks that the drift test flags is measured beside it.
"""

from __future__ import annotations

import numpy as np

from benchmarks.coverages import Cell
from foreshock.stats.norm_noise import NormRow, norm_noise
from foreshock.types import Flag

DIMENSION = 24
#: Name to (steps, examples in a step, small batch).
BLOCKS = {"16 steps": (16, 32, 1), "64 steps": (64, 32, 1), "64 steps, 4 ranks": (64, 32, 8)}
#: Eigenvalues j^-a: effective dimensions 24 and 2.4.
SPECTRA = {"flat": 0.0, "steep": 2.0}
SNR = (0.0, 0.02, 1.0)  # of an example


def rows(rng: np.random.Generator, block: tuple[int, int, int], scale: np.ndarray, snr: float):
    """One block of steps."""
    steps, n, small = block
    g = rng.standard_normal((steps, n, len(scale)), dtype=np.float32) * scale
    mu = np.zeros(len(scale), dtype=np.float32)
    mu[:] = np.sqrt(snr / len(scale))
    parts = (g + mu).reshape(steps, n // small, small, -1).mean(2)
    norms = np.square(parts, dtype=np.float64).sum(2).mean(1)
    big = np.square(parts.mean(1), dtype=np.float64).sum(1)
    return [NormRow(float(a), float(b), small, n) for a, b in zip(norms, big, strict=True)]


def cells(cases: int = 1000, seed: int = 0) -> list[Cell]:
    """Signal, noise and ratio, and the level of the drift test.

    Args:
        cases: Simulated blocks a cell.
        seed: Seed of the grid.
    """
    found = []
    for b, (name, block) in enumerate(BLOCKS.items()):
        for s, (spectrum, power) in enumerate(SPECTRA.items()):
            eigenvalues = np.arange(1.0, DIMENSION + 1) ** -power
            scale = np.sqrt(eigenvalues / eigenvalues.sum()).astype(np.float32)
            for c, snr in enumerate(SNR):
                rng = np.random.default_rng([seed, b, s, c])
                hits = dict.fromkeys(("grad/signal", "grad/noise", "grad/snr_per_example"), 0)
                truth = {"grad/signal": snr, "grad/noise": 1 / block[1]}
                flagged = 0
                for _ in range(cases):
                    out = norm_noise(rows(rng, block, scale, snr))
                    for series in hits:
                        e = out[series]
                        hits[series] += e.low <= truth.get(series, snr) <= e.high
                    flagged += bool(out["grad/snr"].flags & Flag.NONSTATIONARY)
                setting = f"{name}, {spectrum}, C_1={snr:g}"
                # U of a step is a quadratic form of the noise of its mean: where that has two
                # directions and no signal, it is as skewed as a chi-squared with 2.4 degrees.
                skewed = spectrum == "steep" and snr < 1
                for series, count in hits.items():
                    low, why = 0.92, ""
                    if skewed and series != "grad/noise":
                        low = 0.86 if block[0] == 16 else 0.89
                        why = "U of a step is skewed where noise has few directions"
                    found.append(Cell(series, setting, cases, count / cases, low, 0.98, why))
                level = 1 - flagged / cases
                why = "share of stationary blocks not flagged nonstationary, level 1 %"
                found.append(Cell("drift test", setting, cases, level, 0.97, 1.0, why))
    return found
