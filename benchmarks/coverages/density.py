"""Coverage of the intervals of `foreshock.density` on clouds whose law is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.coverages import Cell
from foreshock.density import entropy, fdt_ratio, fit_score, flow, w2
from foreshock.types import Estimate

BOUNDS = ("entropy_production_bound", "fisher_bound")
#: n, d, variance, mean of every coordinate: of N(m, s) in dx = -x dt + sqrt(2) dW.
CLOUDS = {
    "OU falling, n = 512, d = 2": (512, 2, 0.25, 1.0),
    "OU falling, n = 512, d = 32": (512, 32, 0.5, 1.0),
    "OU equilibrium, n = 256, d = 4": (256, 4, 1.0, 0.0),
}


def truths(d: int, a: float, i: float) -> dict[str, float]:
    """What `flow` should read for A and I, with E[b . s] = -E[div b] = d."""
    production = a - 2 * d + i
    return {
        "consolidation": math.sqrt(a / i),
        "cosine": d / math.sqrt(a * i),
        "irreversibility": production / (a + i),
        "entropy_production": production,
        "entropy_production_bound": production,
        "entropy_rate": i - d,
        "fisher": i,
        "fisher_bound": i,
    }


def normal(n: int, d: int, generator: torch.Generator) -> Tensor:
    return torch.randn(n, d, generator=generator)


def holds(estimate: Estimate, truth: float) -> bool:
    return estimate.low <= truth <= estimate.high


def tally(
    series: dict[str, float],
    setting: str,
    cases: int,
    draw: Callable[[], object],
    asked: Callable[[str], tuple[float, float, str]],
) -> list[Cell]:
    """One cell a name; `draw` gives an object with the estimates as attributes."""
    held = dict.fromkeys(series, 0)
    given = dict.fromkeys(series, 0)
    for _ in range(cases):
        found = draw()
        for name, truth in series.items():
            estimate = getattr(found, name)
            given[name] += not math.isnan(estimate.value)  # what was refused claims nothing
            held[name] += holds(estimate, truth)
    return [
        Cell(
            f"density/{name}", setting, given[name], held[name] / max(given[name], 1), *asked(name)
        )
        for name in series
    ]


def of_flow(setting: str) -> Callable[[str], tuple[float, float, str]]:
    """What is asked of each observable."""

    def asked(name: str) -> tuple[float, float, str]:
        if name in BOUNDS:
            return 0.92, 1.0, "a lower bound: its one-sided end must lie below the truth"
        if "equilibrium" in setting and name not in ("consolidation", "entropy_rate", "fisher"):
            return 0.92, 1.0, "at its edge the statistic is quadratic: the jackknife is too wide"
        if "wells" in setting:
            return (
                0.6,
                1.0,
                "smoothing by the kernel and its choice, which refits share; see `flow`",
            )
        return 0.92, 0.98, ""

    return asked


def cells(cases: int, seed: int) -> list[Cell]:
    generator = torch.Generator().manual_seed(seed)
    found: list[Cell] = []
    for setting, (n, d, variance, mean) in CLOUDS.items():

        def ou(n=n, d=d, variance=variance, mean=mean) -> object:
            x = mean + math.sqrt(variance) * normal(n, d, generator)
            source = torch.full((n,), -float(d))
            return flow(fit_score(x, "gaussian"), -x, 1.0, divergence_drift=source)

        exact = truths(d, d * (variance + mean**2), d / variance)
        found += tally(exact, setting, cases, ou, of_flow(setting))

    # N(+-2, 1) on a line: A = 5, I = E s^2 by quadrature.
    axis = torch.linspace(-12, 12, 24_001, dtype=torch.float64)
    density = torch.exp(-((axis - 2) ** 2) / 2) + torch.exp(-((axis + 2) ** 2) / 2)
    density /= density.sum()
    fisher = float((density * (2 * torch.tanh(2 * axis) - axis) ** 2).sum())

    def wells() -> object:
        x = normal(512, 1, generator)
        x += 2 * torch.sign(torch.rand(512, 1, generator=generator) - 0.5)
        score = fit_score(x)
        return flow(score, -x, 1.0, divergence_drift=-torch.ones(512))

    setting = "two wells, n = 512, d = 1"
    few = max(cases // 10, 1)  # a kernel score and 20 refits of it: slow
    found += tally(truths(1, 5.0, fisher), setting, few, wells, of_flow(setting))

    simple = {
        "entropy": (
            "N(0, I), n = 300, d = 3",
            1.5 * math.log(2 * math.pi * math.e),
            a_cloud_entropy,
        ),
        "fdt_ratio": ("quadratic 1:4, n = 300", 1.0, a_cloud_fdt),
        "w2 bures": ("N(0, I/4) to N(0, I), n = 300, d = 4", 1.0, bures_distance),
        "w2 sliced": ("N(0, I/4) to N(0, I), n = 300, d = 4", 1.0, sliced_distance),
    }
    for name, (setting, truth, draw) in simple.items():
        count = cases if "w2" not in name else max(cases // 5, 1)
        held = sum(holds(draw(generator), truth) for _ in range(count))
        found.append(Cell(f"density/{name}", setting, count, held / count))
    for method in ("bures", "sliced"):
        count, inside = max(cases // 5, 1), 0
        for _ in range(count):
            x, y = normal(300, 4, generator), normal(300, 4, generator)
            distance = w2(x, y, generator=generator, method=method, directions=16)
            inside += distance.null[0] <= distance.value <= distance.null[1]
        why = "the band is from halves of one draw of each cloud"
        found.append(
            Cell(f"density/w2 {method}, null", "one law, n = 300, d = 4", count, inside / count,
                 0.85, 1.0, why)
        )  # fmt: skip
    return found


def a_cloud_entropy(generator: torch.Generator) -> Estimate:
    return entropy(fit_score(normal(300, 3, generator), "gaussian"))


def a_cloud_fdt(generator: torch.Generator) -> Estimate:
    # L = (x^2 + 4 y^2)/2 at T = 1: variances 1 and 1/4; laplacians with Hutchinson-like noise.
    curvature = torch.tensor([1.0, 4.0])
    x = normal(300, 2, generator) / curvature.sqrt()
    return fdt_ratio(curvature * x, 5 + normal(300, 1, generator)[:, 0], 1.0)


def bures_distance(generator: torch.Generator) -> Estimate:
    x, y = normal(300, 4, generator) / 2, normal(300, 4, generator)
    return w2(x, y, generator=generator, method="bures", splits=10)


def sliced_distance(generator: torch.Generator) -> Estimate:
    x, y = normal(300, 4, generator) / 2, normal(300, 4, generator)
    return w2(x, y, generator=generator, directions=16, splits=10)
