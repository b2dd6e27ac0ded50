"""Coverage of what follows from products of batch gradients beside the snr interval.

`grad/noise_d_eff`, `grad/snr_diagonal` and `grad/snr_mahalanobis`, `grad/weight_snr_median`, the
finite-population corrections of `signal_noise`, and `loss/cosine` and `loss/snr`.
"""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.coverages import Cell
from benchmarks.coverages.gradient_noise import DIMENSION, spectrum
from foreshock.estimators.gradient_metrics_products import metric_grams, sample_ratios
from foreshock.stats.gram import signal_noise
from foreshock.stats.loss_conflict import loss_conflict
from foreshock.stats.mahalanobis import metric_folds, snr_in_noise_metric
from foreshock.stats.noise_dimension import noise_d_eff
from foreshock.stats.weight_snr import QUANTILES, weight_snr_median
from foreshock.types import Estimate

WEIGHTS = 300
LAWS = ("gauss", "t4")


def radius(law: str, n: int, rng: np.random.Generator) -> np.ndarray:
    """(n, 1) Length of each gradient's noise: 1, or radial Student-t4 of unit mean square."""
    return np.sqrt(2 / rng.chisquare(4, (n, 1))) if law == "t4" else np.ones((n, 1))


def share(estimates: list[Estimate], truth: float) -> float:
    """How many intervals hold the truth."""
    return float(np.mean([e.low <= truth <= e.high for e in estimates]))


def dimension_cells(cases: int, seed: int) -> list[Cell]:
    found = []
    for law in LAWS:
        for n in (8, 20, 50):
            for d_eff in (2.5, 21.0, 500.0):
                rng = np.random.default_rng([seed, 1, n, int(10 * d_eff)])
                scale = np.sqrt(spectrum(d_eff)).astype(np.float32)
                seen = []
                for _ in range(cases):
                    noise = rng.standard_normal((n, DIMENSION), dtype=np.float32) * scale
                    noise = noise * radius(law, n, rng)
                    seen.append(noise_d_eff(noise @ noise.T))
                low, high, why = 0.92, 1.0, "the jackknife counts a degenerate part twice"
                if law == "t4":
                    low, why = 0.90, "S of t4 has no fourth moments"
                setting = f"n={n} d_eff={d_eff:g} {law}"
                covered = share(seen, d_eff)
                found.append(Cell("grad/noise_d_eff", setting, cases, covered, low, high, why))
    return found


def ridge_target(g: np.ndarray, mu: np.ndarray) -> float:
    """mu' M mu with the very metrics of the folds, whose average over cases is the target."""
    n, total = len(g), 0.0
    for fold in metric_folds(n):
        others = np.delete(g, fold, 0)
        k, v = len(others), others.var(0, ddof=1)
        x, m = (others - others.mean(0)) / np.sqrt(v), mu / np.sqrt(v)
        inner, along = x @ x.T, x @ m
        strength = np.trace(inner) / (k - 1)
        solved = np.linalg.solve(inner + strength * np.eye(k), along)
        total += len(fold) / n * (m @ m - along @ solved) * (k - 1) / strength
    return float(total)


def metric_cells(cases: int, seed: int) -> list[Cell]:
    """Noise of unit variance in 300 weights, independent or with correlation .3."""
    found = []
    for law, rho in (("gauss", 0.0), ("gauss", 0.3), ("t4", 0.0)):
        for n in (8, 20):
            for total in (0.0, 3.0, 30.0):
                rng = np.random.default_rng([seed, 2, n, int(10 * rho), int(total)])
                mu = rng.standard_normal(WEIGHTS)
                mu *= np.sqrt(total) / np.linalg.norm(mu)
                diagonal, ridge, targets = [], [], []
                for _ in range(cases):
                    common = rng.standard_normal((n, 1)) * np.sqrt(rho)
                    g = rng.standard_normal((n, WEIGHTS)) * np.sqrt(1 - rho) + common
                    g = mu + g * radius(law, n, rng)
                    grams = metric_grams([[row] for row in torch.as_tensor(g)], None)
                    one = snr_in_noise_metric(grams.noise.numpy(), grams.leverage.numpy())
                    diagonal.append(one["grad/snr_diagonal"])
                    ridge.append(one["grad/snr_mahalanobis"])
                    targets.append(ridge_target(g, mu))
                setting = f"n={n} rho={rho:g} sum={total:g} {law}"
                low, high, why = 0.92, 0.98, ""
                if total < 30 or rho > 0:
                    high, why = 1.0, "the jackknife counts a degenerate part twice"
                if law == "t4" and total > 0:
                    low, high, why = (
                        0.55,
                        1.0,
                        "E 1/v is not that of Gaussian noise: reads high",
                    )
                covered = share(diagonal, total)
                found.append(Cell("grad/snr_diagonal", setting, cases, covered, low, high, why))
                covered = share(ridge, float(np.mean(targets)))
                why = "conservative: R is computed anew without each batch"
                name = "grad/snr_mahalanobis"
                found.append(Cell(name, setting, cases, covered, 0.92, 1.0, why))
    return found


def median_cells(cases: int, seed: int) -> list[Cell]:
    """Target: what n batches show on average, over the cases; and the null band at mean 0."""
    found = []
    for rho in (0.0, 0.3):
        for n in (8, 20):
            for mean in (0.0, 0.3):
                rng = np.random.default_rng([seed, 3, n, int(10 * rho), int(10 * mean)])
                seen = []
                for _ in range(cases):
                    common = rng.standard_normal((n, 1)) * np.sqrt(rho)
                    g = rng.standard_normal((n, WEIGHTS)) * np.sqrt(1 - rho) + common + mean
                    r = sample_ratios(torch.as_tensor(g)).numpy()
                    gram = r[6 + n :].reshape(n, n)
                    seen.append(weight_snr_median(r[2], r[6 : 6 + n], gram, int(r[5])))
                truth = float(np.mean([e.value for e in seen]))
                setting = f"n={n} rho={rho:g} mean={mean:g}"
                low, why = 0.92, "every weight's ratio has its own noise, which the median averages"
                if rho > 0 and mean > 0:
                    low, why = (
                        0.80,
                        "the noise in common moves all weights, and few batches show it",
                    )
                name = "grad/weight_snr_median"
                found.append(Cell(name, setting, cases, share(seen, truth), low, 1.0, why))
                if mean == 0:
                    inside = [e.null[0] <= e.value <= e.null[1] for e in seen if e.null]
                    cell = Cell(name, f"{setting} null band", cases, float(np.mean(inside)))
                    found.append(cell)
    assert len(QUANTILES) == 5
    return found


def population_cells(cases: int, seed: int) -> list[Cell]:
    """A training set of 600 examples, batches of 25, snr of its own mean gradient."""
    size, examples = 25, 600
    found = []
    for sampling, n in (
        ("replacement", 12),
        ("independent", 12),
        ("disjoint", 12),
        ("disjoint", 24),
    ):
        rng = np.random.default_rng([seed, 4, n])
        pool = rng.standard_normal((examples, 30)) + 0.2
        truth = float((pool.mean(0) ** 2).sum() / (pool.var(0).sum() / size))
        seen = []
        for _ in range(cases):
            if sampling == "replacement":
                rows = rng.integers(examples, size=(n, size))
            elif sampling == "independent":
                rows = np.stack([rng.permutation(examples)[:size] for _ in range(n)])
            else:
                rows = rng.permutation(examples)[: n * size].reshape(n, size)
            g = pool[rows].mean(1)
            one = signal_noise(g @ g.T, batch_size=size, sampling=sampling, population=examples)
            seen.append(one["grad/snr"])
        high, why = 0.99, "the skewness term is that of the worst direction of mu"
        if sampling == "disjoint":
            high, why = 1.0, f"{n * size} of {examples} were seen, the jackknife does not know"
        setting = f"{sampling} n={n} B={size} N={examples}"
        found.append(Cell("grad/snr", setting, cases, share(seen, truth), 0.92, high, why))
    return found


def conflict_cells(cases: int, seed: int) -> list[Cell]:
    """Two losses in 100 weights, their noise correlated by .5, means at a planted angle."""
    found, d = [], 100
    settings = [(n, d_eff) for n in (8, 20) for d_eff in (2.5, 100.0)]
    for n, d_eff in settings:
        scale = np.sqrt(spectrum(d_eff, d) * d) if d_eff < d else np.ones(d)
        for cosine in (-0.8, 0.0, 0.8):
            for signal in (0.1, 1.0):  # |mu|^2 over the trace of the noise
                rng = np.random.default_rng(
                    [seed, 5, n, int(10 * cosine + 10), int(10 * signal), int(d_eff)]
                )
                a, b = np.linalg.qr(rng.standard_normal((d, 2)))[0].T * np.sqrt(signal * d)
                b = cosine * a + np.sqrt(1 - cosine**2) * b
                cosines, snrs = [], []
                for _ in range(cases):
                    shared, *own = rng.standard_normal((3, n, d)) * scale / 2**0.5
                    g = np.concatenate([a + shared + own[0], b + shared + own[1]])
                    one = loss_conflict(g @ g.T, ["a", "b"])
                    cosines.append(one.cosine["a", "b"])
                    snrs.append(one.snr["a", "b"])
                setting = f"n={n} d_eff={d_eff:g} cos={cosine:g} C={signal:g}"
                known = [e for e in cosines if e.resolved or np.isfinite(e.low)]
                why = "unresolved intervals are (-1, 1)"
                covered = share(known, cosine)
                found.append(Cell("loss/cosine", setting, len(known), covered, 0.92, 1.0, why))
                covered = share(snrs, cosine * signal)
                why = "the jackknife counts a degenerate part twice"
                found.append(Cell("loss/snr", setting, cases, covered, 0.92, 1.0, why))
    return found


def cells(cases: int = 500, seed: int = 0) -> list[Cell]:
    """All of the above.

    Args:
        cases: Simulated cases a cell.
        seed: Seed of the grid.
    """
    parts = (dimension_cells, metric_cells, median_cells, population_cells, conflict_cells)
    # Half of the cases where each one takes two dozen small solves.
    counts = (cases, (cases + 1) // 2, cases, cases, cases)
    return [cell for part, n in zip(parts, counts, strict=True) for cell in part(n, seed)]
