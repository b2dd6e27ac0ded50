"""Coverage of the tail indices: Hill on Pareto tails, the others on stable laws.

The last cells ask what happens where the premises fail: a k chosen by the data, and noise whose
coordinates share one amplitude a batch or lie in few directions.
"""

from __future__ import annotations

import zlib

import numpy as np

from benchmarks.coverages import Cell
from foreshock.stats.stable_law import stable_samples
from foreshock.stats.tails import hill
from foreshock.stats.tails_noise import noise_tails
from foreshock.stats.tails_stable import block, clt_scaling, log_moment, mcculloch
from foreshock.stats.tails_tests import tail_comparison
from foreshock.types import Estimate

ALPHAS = (1.2, 1.5, 1.8, 2.0)
NOISE = ("log_moment", "block", "clt", "mcculloch")
WIDE = "batches are few: a jackknife of averages over subsets of 4 is too wide"


def rng_of(seed: int, name: str) -> np.random.Generator:
    """A generator of each cell's own, the same in every process."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def covered(estimates: list[Estimate], truth: float) -> float:
    """Share of the resolved intervals that hold the truth."""
    return float(np.mean([e.low <= truth <= e.high for e in estimates if np.isfinite(e.value)]))


def noise_cells(cases: int, seed: int) -> list[Cell]:
    """`noise_tails` on independent coordinates, and on coordinates with one amplitude a batch."""
    found = []
    for n in (8, 16):
        for alpha in ALPHAS:
            rng = rng_of(seed, f"noise {n} {alpha}")
            # The quantile index reads the standardised law; its truth is that of many coordinates.
            many = noise_tails(stable_samples(alpha, (n, 20_000), rng))["mcculloch"].value
            truths = {**dict.fromkeys(NOISE, alpha), "mcculloch": many}
            runs = [noise_tails(stable_samples(alpha, (n, 64), rng)) for _ in range(cases)]
            for name in NOISE:
                share = covered([run[name] for run in runs], truths[name])
                setting = f"stable {alpha}, {n} batches x 64"
                found.append(Cell(f"noise {name}", setting, cases, share, 0.92, 1.0, WIDE))
            if alpha == 2.0:
                for name in NOISE:
                    bands = [run[name] for run in runs if np.isfinite(run[name].value)]
                    share = float(np.mean([e.null[0] <= e.value <= e.null[1] for e in bands]))
                    setting = f"null band, {n} batches x 64"
                    why = "the debiased correlation is cut at 0, which widens it"
                    found.append(Cell(f"noise {name}", setting, cases, share, 0.92, 1.0, why))
    rng = rng_of(seed, "amplitude")
    runs = []
    for _ in range(cases):
        # A positive stable law of index .75 times a Gaussian vector is stable with index 1.5.
        angle, wait = rng.uniform(0, np.pi, 8), rng.standard_exponential(8)
        amplitude = (np.sin(0.25 * angle) / wait) ** (1 / 3)
        amplitude *= np.sin(0.75 * angle) / np.sin(angle) ** (4 / 3)
        runs.append(noise_tails(np.sqrt(amplitude)[:, None] * rng.standard_normal((8, 512))))
    why = "8 amplitudes are the whole sample; stated in the docstring"
    for name in NOISE[:3]:
        share = covered([run[name] for run in runs], 1.5)
        setting = "stable 1.5, one amplitude a batch, 8 x 512"
        found.append(Cell(f"noise {name}", setting, cases, share, 0.5, 0.8, why))
    return found + dependent_cells(cases, seed)


def dependent_cells(cases: int, seed: int) -> list[Cell]:
    """`noise_tails` on few directions; and its quantile index against α, which it is not for."""
    found = []
    for alpha in (1.5, 2.0):
        rng = rng_of(seed, f"directions {alpha}")
        few = max(20, cases // 2)
        for rank in (16, 256):
            mixing = rng.standard_normal((rank, 512))
            runs = [noise_tails(stable_samples(alpha, (8, rank), rng) @ mixing) for _ in range(few)]
            setting = f"stable {alpha} in {rank} directions, 8 x 512"
            low, high = (0.5, 0.98) if alpha < 2 else (0.92, 1.0)
            why = "8 batches show few of the large values; flagged, and stated in the docstring"
            for name in NOISE[:3]:
                share = covered([run[name] for run in runs], alpha)
                found.append(Cell(f"noise {name}", setting, few, share, low, high, why))
        runs = [noise_tails(stable_samples(alpha, (8, 512), rng)) for _ in range(few)]
        share = covered([run["mcculloch"] for run in runs], alpha)
        setting = f"alpha of stable {alpha}, 8 x 512"
        why = "it is for what standardised values read, not for alpha; stated in the docstring"
        found.append(Cell("noise mcculloch", setting, few, share, 0.0, 0.85, why))
    return found


def cells(cases: int, seed: int) -> list[Cell]:
    """Every interval of the tail indices."""
    found = []
    for alpha, n, k in ((1.5, 100, 10), (1.5, 1000, 100), (4.0, 400, 100)):
        rng = rng_of(seed, f"pareto {alpha} {n}")
        rows = rng.pareto(alpha, (cases, n)) + 1
        setting = f"Pareto {alpha}, k={k} of {n}"
        found.append(Cell("hill", setting, cases, covered([hill(r, k) for r in rows], alpha)))
        share = covered([hill(r, "min_ks") for r in rows], alpha)
        why = "the choice of k is not in the interval; stated in the docstring"
        found.append(Cell("hill min_ks", f"Pareto {alpha}, n={n}", cases, share, 0.86, 0.98, why))
    for n in (200, 1000):
        for alpha in ALPHAS:
            rows = stable_samples(alpha, (cases, n), rng_of(seed, f"stable {alpha} {n}"))
            for read in (mcculloch, log_moment, block):
                share = covered([read(r) for r in rows], alpha)
                high, why = 0.98, ""
                if read is log_moment:
                    high, why = 1.0, "takes the larger of two variances"
                setting = f"stable {alpha}, n={n}"
                found.append(Cell(read.__name__, setting, cases, share, 0.92, high, why))
    for alpha in ALPHAS:
        rows = stable_samples(alpha, (cases, 1600), rng_of(seed, f"scaling {alpha}"))
        rises = [clt_scaling(r).rise for r in rows]
        why = "the two ends are taken as independent"
        setting = f"rise of stable {alpha}, n=1600"
        found.append(Cell("clt_scaling", setting, cases, covered(rises, 0.0), 0.92, 1.0, why))
    rng = rng_of(seed, "likelihood")
    truth = tail_comparison(rng.lognormal(size=400_000), 160_000)["lognormal"].value
    few = max(20, cases // 2)
    ratios = [tail_comparison(rng.lognormal(size=500), 200)["lognormal"] for _ in range(few)]
    why = "two fitted parameters move the mean ratio by 1/n"
    setting = "lognormal tail, k=200 of 500"
    found.append(Cell("vuong", setting, few, covered(ratios, truth), 0.85, 0.99, why))
    return found + noise_cells(cases, seed)
