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
FEW = "fewer cases: three standard errors below 95 %"
#: n, d, variance, mean of every coordinate, all correlations, method, share of the cases: of
#: N(m, S) in dx = -x dt + sqrt(2) dW.
CLOUDS = {
    "OU falling, n = 512, d = 2, gaussian": (512, 2, 0.25, 1.0, 0.0, "gaussian", 0.6),
    "OU falling, n = 128, d = 2, default": (128, 2, 0.25, 1.0, 0.0, "residual", 1.0),
    "OU equilibrium, n = 256, d = 4, gaussian": (256, 4, 1.0, 0.0, 0.0, "gaussian", 0.6),
    "correlations .9, n = 100, d = 16, default": (100, 16, 1.0, 1.0, 0.9, "residual", 0.3),
    "OU falling, n = 320, d = 32, gaussian": (320, 32, 0.5, 1.0, 0.0, "gaussian", 0.2),
}


def truths(d: int, a: float, i: float, x: float | None = None) -> dict[str, float]:
    """What `flow` should read for A and I, with X = E[b . s] = -E[div b] = d by default."""
    x = d if x is None else x
    production = a - 2 * x + i
    return {
        "consolidation": math.sqrt(a / i),
        "cosine": x / math.sqrt(a * i),
        "irreversibility": production / (a + i),
        "entropy_production": production,
        "entropy_production_bound": production,
        "entropy_rate": i - x,
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
    asked: Callable[[str, int], tuple[float, float, str]],
    *,
    honest: bool = False,
) -> list[Cell]:
    """One cell a name; `draw` gives an object with the estimates as attributes.

    Of `honest` cells a flagged or refused estimate claims nothing and counts as right: what must
    not happen is an interval that misses without a word.
    """
    held = dict.fromkeys(series, 0)
    given = dict.fromkeys(series, 0)
    for _ in range(cases):
        found = draw()
        for name, truth in series.items():
            estimate = getattr(found, name)
            silent = math.isnan(estimate.value) or (honest and bool(estimate.flags))
            given[name] += honest or not silent  # what was refused claims nothing
            held[name] += (honest and silent) or holds(estimate, truth)
    return [
        Cell(
            f"density/{name}",
            setting,
            given[name],
            held[name] / max(given[name], 1),
            *asked(name, given[name]),
        )
        for name in series
    ]


def of_flow(setting: str) -> Callable[[str, int], tuple[float, float, str]]:
    """What is asked of each observable."""

    def asked(name: str, count: int) -> tuple[float, float, str]:
        # Three binomial standard errors, where they exceed .03.
        least = min(0.92, 0.95 - 3 * math.sqrt(0.0475 / max(count, 1)))
        few = FEW if least < 0.92 else ""
        if name in BOUNDS:
            return least, 1.0, "a lower bound: its one-sided end must lie below the truth"
        if "honest" in setting:
            return least, 1.0, "held, flagged or refused: it must not miss without a word"
        if "equilibrium" in setting and name not in ("consolidation", "entropy_rate", "fisher"):
            return least, 1.0, "at its edge the statistic is quadratic: the jackknife is too wide"
        if "d = 16" in setting or "d = 32" in setting:
            return least, 1.0, "groups of n/20 are few for d^2/2 moments: refits scatter too much"
        return least, 0.98 if not few else 1.0, few

    return asked


def cells(cases: int, seed: int) -> list[Cell]:
    generator = torch.Generator().manual_seed(seed)
    found: list[Cell] = []
    for setting, (n, d, variance, mean, correlation, method, share) in CLOUDS.items():
        covariance = torch.full((d, d), correlation * variance)
        covariance += (1 - correlation) * variance * torch.eye(d)
        factor = torch.linalg.cholesky(covariance)

        def ou(n=n, d=d, factor=factor, mean=mean, method=method) -> object:
            x = mean + normal(n, d, generator) @ factor.T
            source = torch.full((n,), -float(d))
            return flow(fit_score(x, method), -x, 1.0, divergence_drift=source)

        fisher = float(torch.linalg.inv(covariance.double()).trace())
        exact = truths(d, d * (variance + mean**2), fisher)
        found += tally(exact, setting, max(int(share * cases), 1), ou, of_flow(setting))
    for setting, (n, d, law, exact) in others().items():

        def other(n=n, d=d, law=law) -> object:
            x = law(n, d, generator)
            return flow(fit_score(x), -x, 1.0, divergence_drift=torch.full((n,), -float(d)))

        # A kernel score and 20 refits of it: slow.
        few = max(cases // 12, 1)
        found += tally(exact, setting, few, other, of_flow(setting), honest=True)

    simple = {
        "entropy": (
            "N(0, I), n = 300, d = 3",
            1.5 * math.log(2 * math.pi * math.e),
            a_cloud_entropy,
        ),
        "entropy, d^2 > n": (
            "N(0, I), n = 150, d = 16",
            8 * math.log(2 * math.pi * math.e),
            a_wide_cloud_entropy,
        ),
        "fdt_ratio": ("quadratic 1:4, n = 300", 1.0, a_cloud_fdt),
        "fdt_ratio, quartic": ("x^4/4, n = 100", 1.0, a_quartic_fdt),
        "w2 bures": ("N(0, I/4) to N(0, I), n = 300, d = 4", 1.0, bures_distance),
        "w2 sliced": ("N(0, I/4) to N(0, I), n = 300, d = 4", 1.0, sliced_distance),
        "w2 sliced, one axis": ("shift by 2 along one axis, n = 300, d = 16", 2.0, one_axis),
    }
    for name, (setting, truth, draw) in simple.items():
        count = cases if "w2" not in name else max(cases // 5, 1)
        held = sum(holds(draw(generator), truth) for _ in range(count))
        least, most, why = 0.92, 0.98, ""
        if "w2" in name:
            least, most, why = 0.885, 1.0, FEW
        elif "quartic" in name:
            least, why = 0.9, "x^6 has long tails: Hall's correction is of the first order"
        found.append(Cell(f"density/{name}", setting, count, held / count, least, most, why))
    for method in ("bures", "sliced"):
        for law in (normal, heavy):
            count, inside = max(cases // 5, 1), 0
            for _ in range(count):
                x, y = law(200, 4, generator), law(200, 4, generator)
                distance = w2(x, y, generator=generator, method=method, directions=8, splits=39)
                inside += distance.null[0] <= distance.value <= distance.null[1]
            found.append(
                Cell(
                    f"density/w2 {method}, null",
                    f"one law ({law.__name__}), n = 200, d = 4",
                    count,
                    inside / count,
                    0.885,
                    1.0,
                    FEW,
                )
            )
    return found


def others() -> dict[str, tuple[int, int, Callable[..., Tensor], dict[str, float]]]:
    """Clouds that are not Gaussian: n, d, law and truths in dx = -x dt + sqrt(2) dW."""
    axis = torch.linspace(-12, 12, 24_001, dtype=torch.float64)
    density = torch.exp(-((axis - 2) ** 2) / 2) + torch.exp(-((axis + 2) ** 2) / 2)
    density /= density.sum()
    # I of N(+-2, 1) on a line, by quadrature.
    fisher = float((density * (2 * torch.tanh(2 * axis) - axis) ** 2).sum())
    gumbel = math.pi**2 / 6 + 0.5772156649015329**2
    return {
        "two wells, n = 512, d = 1, honest": (512, 1, wells, truths(1, 5.0, fisher)),
        "two wells, n = 512, d = 8, honest": (512, 8, wells, truths(8, 12.0, fisher + 7)),
        "Gumbel, n = 256, d = 4, honest": (256, 4, skewed, truths(4, 4 * gumbel, 4.0)),
        # Student, 3 degrees: E x^2 = 3, I = 4/6 a coordinate.
        "Student 3, n = 256, d = 4, honest": (256, 4, heavy, truths(4, 12.0, 8 / 3)),
    }


def wells(n: int, d: int, generator: torch.Generator) -> Tensor:
    x = normal(n, d, generator)
    x[:, 0] += 2 * torch.sign(torch.rand(n, generator=generator) - 0.5)
    return x


def skewed(n: int, d: int, generator: torch.Generator) -> Tensor:
    levels = torch.rand(n, d, generator=generator, dtype=torch.float64).clamp(1e-12, 1 - 1e-12)
    return (-(-levels.log()).log()).float()


def heavy(n: int, d: int, generator: torch.Generator) -> Tensor:
    squares = torch.randn(n, 3, d, generator=generator).square().mean(1)
    return normal(n, d, generator) / squares.sqrt()


def a_cloud_entropy(generator: torch.Generator) -> Estimate:
    return entropy(fit_score(normal(300, 3, generator), "gaussian"))


def a_wide_cloud_entropy(generator: torch.Generator) -> Estimate:
    return entropy(fit_score(normal(150, 16, generator), "gaussian"))


def a_quartic_fdt(generator: torch.Generator) -> Estimate:
    # Density exp(-x^4/4), by its quantiles.
    draws = torch.rand(100, generator=generator, dtype=torch.float64)
    axis = torch.linspace(-4, 4, 8001, dtype=torch.float64)
    distribution = torch.exp(-(axis**4) / 4).cumsum(0)
    x = axis[torch.searchsorted(distribution / distribution[-1], draws)][:, None]
    return fdt_ratio(x**3, (3 * x * x)[:, 0], 1.0)


def one_axis(generator: torch.Generator) -> Estimate:
    x, y = normal(300, 16, generator), normal(300, 16, generator)
    y[:, 0] += 2
    return w2(x, y, generator=generator, splits=4)


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
