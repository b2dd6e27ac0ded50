"""Coverage of `grad/snr` where several measurements go into it: looks at growing n, averages.

Looks: gradients mu + e with tr S = 1, C = |mu|^2, threshold 1, up to 64 batches; measuring stops at
the first look whose interval does not hold the threshold. Averages: 24 measurements with a memory
of 8, of n batches that are fresh or the same each time, while mu turns and grows by a half.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.coverages import Cell
from benchmarks.coverages.gradient_noise import noise_grams, spectrum
from foreshock.stats.gram_average import GramAverage
from foreshock.stats.gram_interval import gram_intervals
from foreshock.stats.gram_looks import look_sizes, look_widening

MOST = 64
THRESHOLD = 1.0
DIMENSION = 60
MEASUREMENTS, MEMORY = 24, 8


def looks(cases: int, seed: int) -> Iterator[Cell]:
    """The interval at the look where measuring stopped."""
    sizes = look_sizes(MOST)
    for d_eff in (2.5, 21.0, 500.0):
        rng = np.random.default_rng([seed, 1, int(10 * d_eff)])
        noise, along = noise_grams(MOST, d_eff, cases, rng)
        for snr in (0.0, 0.5, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0):
            cross = np.sqrt(snr) * along["random"]
            gram = noise + cross[:, :, None] + cross[:, None, :] + snr
            open_, hit, used = np.ones(cases, bool), np.zeros(cases), np.zeros(cases)
            for n in sizes:
                widen = look_widening(len(sizes), n)
                found = gram_intervals(gram[:, :n, :n], widen=widen)["snr"]
                stops = open_ & ((found.low > THRESHOLD) | (found.high < THRESHOLD) | (n == MOST))
                hit[stops] = ((found.low <= snr) & (snr <= found.high))[stops]
                used[stops] = n
                open_ &= ~stops
            setting = f"stopped, d_eff={d_eff:g} C={snr:g}: {used.mean():.0f} of {MOST} batches"
            why = "holds at all looks jointly, whichever is taken"
            yield Cell("grad/snr", setting, cases, float(hit.mean()), 0.92, 1.0, why)


def averages(cases: int, seed: int) -> Iterator[Cell]:
    """The ratio of averages against that of the true ones."""
    weights = (1 - 1 / MEMORY) ** np.arange(MEASUREMENTS)[::-1] / MEMORY
    for d_eff in (2.5, 21.0):
        scale = np.sqrt(spectrum(d_eff, DIMENSION))
        for kind in ("fresh", "frozen"):
            for n in (8, 20):
                for snr in (0.0, 0.1, 1.0, 4.0):
                    rng = np.random.default_rng([seed, 2, int(10 * d_eff), n, int(10 * snr)])
                    a, b = np.linalg.qr(rng.standard_normal((DIMENSION, 2)))[0].T
                    grow = np.linspace(1, 1.5, MEASUREMENTS)
                    angle = np.linspace(0, np.pi / 2, MEASUREMENTS)
                    mus = np.outer(grow * np.cos(angle), a) + np.outer(grow * np.sin(angle), b)
                    mus *= np.sqrt(snr)
                    truth = float(weights @ np.square(mus).sum(1) / weights.sum())
                    means = []
                    for _ in range(cases):
                        average = GramAverage()
                        kept = rng.standard_normal((n, DIMENSION)) * scale
                        for mu in mus:
                            if kind == "fresh":
                                kept = rng.standard_normal((n, DIMENSION)) * scale
                            g = mu + kept
                            average = average.add(g @ g.T, MEMORY)
                        means.append(average.mean)
                    found = gram_intervals(np.stack(means))["snr"]
                    hits = (found.low <= truth) & (truth <= found.high)
                    high, why = 0.98, ""
                    if snr < 1:
                        high, why = 1.0, "U is skewed and bounded below"
                    setting = f"{kind} batches, n={n} d_eff={d_eff:g} C={snr:g}"
                    yield Cell("grad/snr_ema", setting, cases, float(hits.mean()), 0.92, high, why)


def cells(cases: int = 1000, seed: int = 0) -> list[Cell]:
    """All settings.

    Args:
        cases: Simulated cases a cell.
        seed: Seed.
    """
    return [*looks(cases, seed), *averages(cases, seed)]
