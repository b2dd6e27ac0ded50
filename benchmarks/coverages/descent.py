"""Coverage of the intervals of `foreshock.stats.descent` and `foreshock.stats.fluctuation`.

Linear regression with Gaussian inputs x ~ N(0, Λ) and residual x·δ + ε: the gradient g_b, the
Hessian H_b = X'X/B of a batch and their means, and Σ by Wick's theorem, are known exactly. Gradient
and Hessian of a batch go together, as in a network. "far" from the minimum, "near" it, and at the
"minimum", μ = 0, where every product is degenerate. The step made is one with a foreign batch.
`grad/fdt` is averaged over 64 measurements of a stationary run of SGD, as far apart as said.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from benchmarks.coverages import Cell
from foreshock.stats.descent import critical_snr, descent_factor, expected_descent
from foreshock.stats.fluctuation import diffusion, fluctuation_dissipation
from foreshock.stats.sample import mean_interval
from foreshock.types import Estimate

D = 20
LAMBDA = np.geomspace(4.0, 0.05, D)
EPSILON = 0.5
SIZE = 16
RATE = 0.1
WHERE = {"far": 0.5, "near": 0.05, "minimum": 0.0}  # |δ| in each direction


def truth(delta: np.ndarray, rate: float) -> dict[str, float]:
    """Every quantity of SGD in closed form."""
    mu = LAMBDA * delta
    residual = float(LAMBDA @ delta**2) + EPSILON**2
    noise = (float(mu @ mu) + residual * LAMBDA.sum()) / SIZE  # tr Σ
    across = (float(LAMBDA @ mu**2) + residual * float(LAMBDA @ LAMBDA)) / SIZE  # tr HΣ
    signal, along = float(mu @ mu), float(LAMBDA @ mu**2)
    expected = -rate * signal + rate**2 / 2 * (along + across)
    found = {
        "grad/descent_expected": expected,
        "grad/descent_noise": rate**2 / 2 * across,
        "grad/critical_margin": -expected / (rate * noise),
        "grad/d_effective": rate**2 * noise / 2,
        "grad/descent_factor": signal / (rate * (along + across)),
    }
    if signal:
        found["grad/critical_snr"] = rate * across / noise / (2 - rate * along / signal)
    return found


def batches(rng: np.random.Generator, n: int, delta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, B, d) Inputs, (n, d) gradients."""
    x = rng.standard_normal((n, SIZE, D)) * np.sqrt(LAMBDA)
    residual = x @ delta + EPSILON * rng.standard_normal((n, SIZE))
    return x, np.einsum("nbd,nb->nd", x, residual) / SIZE


def measured(rng: np.random.Generator, n: int, delta: np.ndarray) -> dict[str, Estimate]:
    """One measurement at δ, with a ring of Hessians."""
    x, g = batches(rng, n, delta)
    ring = (np.arange(n) + 1) % n
    images = np.einsum("nbd,nb->nd", x[ring], np.einsum("nbd,nd->nb", x[ring], g)) / SIZE
    gram, curved = g @ g.T, g @ images.T
    step = -RATE * batches(rng, 1, delta)[1][0]
    bends = np.square(x @ step).mean(1)
    # δ stands after the step here, so the change is that of the step that led there.
    return {
        "grad/descent": mean_interval(g @ step - bends / 2),
        "truth": Estimate.exact(float((LAMBDA * delta) @ step - LAMBDA @ step**2 / 2)),
        **expected_descent(-RATE * gram, RATE**2 * curved, ring),
        **critical_snr(gram, curved, RATE, ring),
        "grad/descent_factor": descent_factor(-RATE * gram, RATE**2 * curved, ring),
        "grad/d_effective": diffusion(RATE**2 * gram),
    }


def share(intervals: list[Estimate], exact: list[float]) -> float:
    """Share of the intervals there are that hold the truth."""
    hits = [e.low <= x <= e.high for e, x in zip(intervals, exact, strict=True) if e.resolved]
    return float(np.mean(hits)) if hits else math.nan


DEGENERATE = "at μ = 0 the jackknife doubles the variance of products of two batches"
ASKED = {
    "grad/descent_noise": (0.92, 0.99, "skewed; the plain jackknife errs on the long side"),
    "grad/descent_factor": (0.92, 1.0, "where resolved; the plain jackknife errs on the long side"),
    "grad/critical_snr": (0.92, 1.0, "where resolved; the jackknife of a ratio of ratios is long"),
}


def single(cases: int, seed: int) -> Iterator[Cell]:
    """One measurement."""
    for n in (8, 20):
        for where, size in WHERE.items():
            delta = np.full(D, size)
            exact = truth(delta, RATE)
            rng = np.random.default_rng([seed, n, int(100 * size)])
            found = [measured(rng, n, delta) for _ in range(cases)]
            setting = f"n={n} {where}"
            step_made = [one["grad/descent"] for one in found]
            truths = [one["truth"].value for one in found]
            yield Cell("grad/descent", setting, cases, share(step_made, truths))
            for name, value in exact.items():
                some = [one[name] for one in found]
                resolved = sum(e.resolved for e in some)
                if resolved < 0.25 * cases:
                    continue
                asked = ASKED.get(name, (0.92, 0.98, ""))
                if where == "minimum" and name in ("grad/descent_expected", "grad/critical_margin"):
                    asked = (0.92, 1.0, DEGENERATE)
                got = share(some, [value] * cases)
                yield Cell(name, setting, resolved, got, *asked)


def of_a_part(cases: int, seed: int) -> Iterator[Cell]:
    """Half of the weights, in a basis where their Hessian has cross terms with the other half."""
    q = np.linalg.qr(np.random.default_rng(seed).standard_normal((D, D)))[0][:, : D // 2]
    part = q @ q.T  # sums over the weights of the part are products with this projection
    for n in (8, 20):
        for where, size in WHERE.items():
            delta = np.full(D, size)
            mu = LAMBDA * delta
            residual = float(LAMBDA @ delta**2) + EPSILON**2
            sigma = (np.outer(mu, mu) + residual * np.diag(LAMBDA)) / SIZE
            across = float(np.trace(part @ (LAMBDA[:, None] * sigma)))
            along = float(mu @ part @ (LAMBDA * mu))
            exact = {
                "grad/descent_expected": -RATE * float(mu @ part @ mu)
                + RATE**2 / 2 * (along + across),
                "grad/descent_noise": RATE**2 / 2 * across,
                "grad/d_effective": RATE**2 / 2 * float(np.trace(part @ sigma)),
            }
            rng = np.random.default_rng([seed, 2, n, int(100 * size)])
            ring = (np.arange(n) + 1) % n
            found: dict[str, list[Estimate]] = {name: [] for name in ("grad/descent", *exact)}
            truths = []
            for _ in range(cases):
                x, g = batches(rng, n, delta)
                images = np.einsum("nbd,nb->nd", x[ring], np.einsum("nbd,nd->nb", x[ring], g))
                step = -RATE * batches(rng, 1, delta)[1][0]
                bends = np.einsum("nbd,nb->nd", x, x @ step) / SIZE @ part @ step
                found["grad/descent"].append(mean_interval(g @ part @ step - bends / 2))
                truths.append(float(mu @ part @ step - (LAMBDA * step) @ part @ step / 2))
                curved = g @ part @ images.T / SIZE
                gram = g @ part @ g.T
                one = expected_descent(-RATE * gram, RATE**2 * curved, ring)
                one["grad/d_effective"] = diffusion(RATE**2 * gram)
                for name in exact:
                    found[name].append(one[name])
            setting = f"n={n} {where}"
            yield Cell("grad/descent@part", setting, cases, share(found["grad/descent"], truths))
            for name, value in exact.items():
                asked = ASKED.get(name, (0.92, 0.98, ""))
                if where == "minimum" and name == "grad/descent_expected":
                    asked = (0.92, 1.0, DEGENERATE)
                got = share(found[name], [value] * cases)
                yield Cell(f"{name}@part", setting, cases, got, *asked)


def averaged(cases: int, seed: int) -> Iterator[Cell]:
    """The ratio over a stationary run, all cases at once."""
    count = 64
    for rate, spacing, n in ((0.05, 40, 8), (0.3, 10, 8), (0.3, 1, 8), (0.05, 1, 8), (0.05, 1, 64)):
        rng = np.random.default_rng([seed, int(100 * rate), spacing, n])
        # Gaussian noise with Σ = ε²Λ/B: Var δ = η² Σ/(1 - (1 - ηλ)²). No direction is as slow as
        # the slowest of LAMBDA, which a run would have to be thousands of steps long to average.
        curvature = np.geomspace(4.0, 0.5, D)
        sigma = EPSILON**2 * curvature[::-1] / SIZE
        spread = np.sqrt(rate**2 * sigma / (1 - (1 - rate * curvature) ** 2))
        delta = rng.standard_normal((cases, D)) * spread
        drifts, curvatures = np.empty((2, cases, count))
        for k in range(count):
            for _ in range(spacing):
                kick = rng.standard_normal((cases, D)) * np.sqrt(sigma)
                delta = delta - rate * (curvature * delta + kick)
            g = (curvature * delta)[:, None] + rng.standard_normal((cases, n, D)) * np.sqrt(sigma)
            total, squares = g.sum(1), np.square(g).sum(1)
            drifts[:, k] = -rate * (np.square(total) - squares).sum(1) / (n * (n - 1))
            curvatures[:, k] = rate**2 * (squares @ curvature) / n
        found = [fluctuation_dissipation(a, b) for a, b in zip(drifts, curvatures, strict=True)]
        low, why = 0.92, ""
        if (rate, spacing) == (0.05, 1):
            low, why = 0.75 if n == 64 else 0.9, "8 steps a block; the run remembers 1/(ηλ) = 40"
        got = share(found, [1.0] * cases)
        setting = f"SGD η={rate:g}, n={n}, every {spacing} steps"
        yield Cell("grad/fdt", setting, cases, got, low, 0.98, why)


def cells(cases: int = 1000, seed: int = 0) -> list[Cell]:
    """All settings.

    Args:
        cases: Simulated cases a cell.
        seed: Seed.
    """
    return [*single(cases, seed), *of_a_part(cases, seed), *averaged(cases, seed)]
