"""Coverage of the intervals of the readouts: z of logits and of ridge fits, accuracy, rank p."""

from __future__ import annotations

import math

import numpy as np

from benchmarks.coverages import Cell
from foreshock.stats.kernels import kernel_alignment
from foreshock.stats.permutation import true_label_rank_p
from foreshock.stats.readout import heldout_signal, ridge_readout
from foreshock.stats.sample import mean_interval, proportion

CLASSES = 8


def cells(cases: int, seed: int) -> list[Cell]:
    """One cell a quantity, strength and size."""
    rng = np.random.default_rng(seed)
    out = [*_heldout(cases, rng), *_ridge(cases, rng), *_accuracy(cases, rng), *_loss(cases, rng)]
    return [*out, *_rank(cases, rng), *_alignment(cases, rng), *_entropy(cases, rng)]


def _heldout(cases: int, rng: np.random.Generator) -> list[Cell]:
    """Gaussian logits with the true one raised: the value of the population is known."""
    out = []
    for n in (50, 400):
        for shift in (0.0, 0.2, 2.0):
            mean = shift * (1 - 1 / CLASSES)
            truth = math.sqrt(n) * mean / math.sqrt(1 - 1 / CLASSES + shift * mean / CLASSES)
            hit = 0
            for _ in range(cases):
                labels = rng.integers(CLASSES, size=n)
                logits = rng.standard_normal((n, CLASSES)) + shift * np.eye(CLASSES)[labels]
                z = heldout_signal(logits, labels)
                hit += z.low <= truth <= z.high
            out.append(
                Cell("readout/heldout_signal", f"n = {n}, shift {shift}", cases, hit / cases)
            )
    return out


def _ridge(cases: int, rng: np.random.Generator) -> list[Cell]:
    """One fit, many held-out sets: the mean of z over them is what the interval is about."""
    n, m = 100, 10
    features = np.eye(CLASSES, m)

    def draw(size: int) -> tuple[np.ndarray, np.ndarray]:
        labels = rng.integers(CLASSES, size=size)
        return features[labels] + rng.standard_normal((size, m)), labels

    out = []
    for name in ("readout/ridge_signal", "readout/probe_signal"):
        fit_x, fit_y = draw(150)
        big_x, big_y = draw(100_000)
        scores, _ = ridge_readout(fit_x, fit_y, big_x, CLASSES)
        centred = name.endswith("probe_signal")
        scores = scores - scores.mean(0) if centred else scores
        truth = heldout_signal(scores, big_y).value * math.sqrt(n / len(big_y))
        hit = 0
        for _ in range(cases):
            x, y = draw(n)
            scores, _ = ridge_readout(fit_x, fit_y, x, CLASSES)
            z = heldout_signal(scores - scores.mean(0) if centred else scores, y)
            hit += z.low <= truth <= z.high
        out.append(Cell(name, f"n = {n}, one fit", cases, hit / cases))
    return out


def _accuracy(cases: int, rng: np.random.Generator) -> list[Cell]:
    """Clopper-Pearson."""
    out = []
    for n, p in ((50, 0.05), (50, 0.5), (1000, 0.99)):
        found = [proportion(int(hits), n) for hits in rng.binomial(n, p, cases)]
        hit = float(np.mean([e.low <= p <= e.high for e in found]))
        out.append(
            Cell("readout/probe_accuracy", f"n = {n}, p = {p}", cases, hit, 0.94, 1.0, "exact")
        )
    return out


def _loss(cases: int, rng: np.random.Generator) -> list[Cell]:
    """Student's t of cross-entropies, which are skewed: many small ones, a few large."""
    out = []
    for n, scale in ((265, 1.0), (265, 4.0), (1740, 4.0)):
        logits = scale * rng.standard_normal((200_000, 10))
        logits -= logits.max(1, keepdims=True)
        losses = np.log(np.exp(logits).sum(1)) - logits[:, 0]
        truth = float(losses.mean())
        found = [mean_interval(rng.choice(losses, n)) for _ in range(cases)]
        hit = float(np.mean([e.low <= truth <= e.high for e in found]))
        out.append(Cell("readout/heldout_loss", f"n = {n}, logits of size {scale:g}", cases, hit))
    return out


def _rank(cases: int, rng: np.random.Generator) -> list[Cell]:
    """The Monte-Carlo interval against 20,000 permutations of the same data."""
    n, hit, count = 30, 0, 0
    for _ in range(max(cases // 25, 4)):
        labels = rng.integers(CLASSES, size=n)
        logits = rng.standard_normal((n, CLASSES)) + 0.4 * np.eye(CLASSES)[labels]
        truth = true_label_rank_p(logits, labels, draws=20_000, seed=1).value
        for seed in range(25):
            p = true_label_rank_p(logits, labels, draws=199, seed=seed + 2)
            hit += p.low <= truth <= p.high
            count += 1
    return [Cell("readout/rank_p", f"n = {n}, 199 draws", count, hit / count, 0.93, 1.0, "exact")]


def _alignment(cases: int, rng: np.random.Generator) -> list[Cell]:
    """Mean over fresh examples, from 4,000 of them."""
    out = []
    for n in (32, 128):

        def draw(n: int = n) -> tuple[np.ndarray, np.ndarray]:
            labels = rng.integers(4, size=n)
            x = rng.standard_normal((n, 6)) + 1.5 * np.eye(4, 6)[labels]
            return x @ x.T, labels

        truth = float(np.mean([kernel_alignment(*draw(), draws=39).value for _ in range(cases)]))
        found = [kernel_alignment(*draw(), draws=39) for _ in range(cases)]
        hit = float(np.mean([e.low <= truth <= e.high for e in found]))
        out.append(Cell("features/alignment", f"n = {n}, 4 classes", cases, hit))
    return out


def _entropy(cases: int, rng: np.random.Generator) -> list[Cell]:
    """Means over examples of bounded, lopsided values."""
    out = []
    for a, b in ((8.0, 2.0), (0.5, 5.0)):
        truth = a / (a + b)
        found = [mean_interval(rng.beta(a, b, 32)) for _ in range(cases)]
        hit = float(np.mean([e.low <= truth <= e.high for e in found]))
        lopsided = a < 1
        out.append(
            Cell(
                "attention/entropy",
                f"32 examples, Beta({a}, {b})",
                cases,
                hit,
                0.88 if lopsided else 0.92,
                why="a skew of 1.6: heads that look at one key" if lopsided else "",
            )
        )
    return out
