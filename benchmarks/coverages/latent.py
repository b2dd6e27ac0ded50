"""Coverage of the intervals of the latent flow on Ornstein-Uhlenbeck clouds of known noise."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.coverages import Cell
from foreshock.density import fit_score, measured_flow
from foreshock.estimators.latent_plane import rate_of_change
from foreshock.estimators.latent_potential import against_loss
from foreshock.types import Estimate

PARTICLES = 192
#: Mean and variance of every coordinate, and k, of dz = -k z dt + sqrt(2) dW.
STATES = {"falling": (1.0, 0.25, 1.0), "equilibrium": (0.0, 1.0, 1.0), "no drift": (0.0, 1.0, 0.0)}
#: State, d, n, and the share of the noise that all particles have in common.
SETTINGS = [
    *(("falling", 1, 16, share) for share in (0.0, 0.5, 1.0)),
    *(("falling", 2, 16, share) for share in (0.5, 1.0)),
    *(("falling", 2, 32, share) for share in (0.0, 1.0)),
    *(("falling", 8, 32, share) for share in (0.0, 0.5, 1.0)),
    ("no drift", 1, 16, 1.0),
    ("no drift", 2, 32, 0.0),
    ("no drift", 8, 32, 1.0),
    ("equilibrium", 1, 16, 1.0),
    ("equilibrium", 2, 32, 0.5),
    # What the number of batches allows: (n - 1)/3 axes.
    *(("falling", 2, 8, share) for share in (0.5, 1.0)),
    *(("falling", 8, 25, share) for share in (0.5, 1.0)),
    ("equilibrium", 8, 25, 0.5),
]
NOISE = {0.0: "own", 0.5: "half", 1.0: "common"}
#: The same with Student's t of 3 degrees of freedom, whose fourth moment is infinite.
HEAVY = [("falling", 2, 8), ("falling", 2, 16), ("falling", 8, 25)]
#: Mobility of a drift along the loss slope.
MOBILITIES = [(2, 8, 1.0), (2, 16, 0.3), (8, 25, 0.3)]


def gaussian(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator)


def student(generator: torch.Generator, *shape: int) -> Tensor:
    """Student's t of 3 degrees of freedom and unit variance, one radius for all axes."""
    squares = torch.randn(3, *shape[:-1], 1, generator=generator).square().sum(0)
    return torch.randn(*shape, generator=generator) / squares.sqrt()


def cloud(
    generator: torch.Generator, d: int, n: int, share: float, state: str, law=gaussian
) -> tuple[Tensor, Tensor]:
    """Particles and moves of dz = -k z dt + sqrt(2) dW at one moment."""
    mean, variance, stiffness = STATES[state]
    z = mean + math.sqrt(variance) * torch.randn(PARTICLES, d, generator=generator)
    common, own = law(generator, n, 1, d), law(generator, n, PARTICLES, d)
    noise = math.sqrt(share) * common + math.sqrt(1 - share) * own
    return z, -stiffness * z + math.sqrt(2) * noise


def truths(d: int, share: float, state: str) -> dict[str, float]:
    mean, variance, k = STATES[state]
    a, i, x = d * k**2 * (variance + mean**2), d / variance, d * k
    production = a - 2 * x + i
    found = {
        "consolidation": math.sqrt(a / i),
        "irreversibility": production / (a + i),
        "entropy_production": production,
        "entropy_production_bound": production,
        "entropy_rate": i - x,
        "drift_power": a,
        "fisher": i,
        "drift": math.sqrt(a),
        "diffusion": float(d),
        "flux": math.sqrt(production),
        "common_noise": share**2,
        "noise_correlation": share,
        "diffusion_spread": 0.0,
    }
    return found | ({"cosine": x / math.sqrt(a * i)} if k else {})


def asked(n: int, share: float, count: int, *, heavy: bool = False) -> tuple[float, float, str]:
    """What is asked of a cell; all may be conservative, as where noise is the particles' own."""
    few = n < 32 and share > 0
    usual = 0.92 if few else 0.95
    # Three binomial standard errors, where they exceed .03.
    margin = 3 * math.sqrt(usual * (1 - usual) / max(count, 1))
    least = min(0.92, usual - margin)
    if heavy:
        # 64 to 100 % at 100 clouds a cell; three standard errors below.
        least = 0.65 - 3 * math.sqrt(0.65 * 0.35 / max(count, 1))
        return least, 1.0, "of an infinite fourth moment the jackknife misses most"
    if n < 16:
        return 0.85 - margin, 1.0, "7 squares of a shared noise are too few"
    if few:
        return least, 1.0, "15 squares of a shared noise are few: 90 to 98 % at 200 clouds a cell"
    return least, 1.0, "own noise is counted by both jackknives; three standard errors"


class Counts:
    """How many intervals hold, name by name."""

    def __init__(self) -> None:
        self.held: dict[str, int] = {}
        self.given: dict[str, int] = {}

    def add(self, name: str, estimate: Estimate, truth: float) -> None:
        given = not math.isnan(estimate.value)  # what was refused claims nothing
        self.given[name] = self.given.get(name, 0) + given
        self.held[name] = self.held.get(name, 0) + (estimate.low <= truth <= estimate.high)

    def cells(self, setting: str, n: int, share: float, *, heavy: bool = False) -> Iterator[Cell]:
        for name, count in self.given.items():
            share_held = self.held[name] / max(count, 1)
            yield Cell(name, setting, count, share_held, *asked(n, share, count, heavy=heavy))


def cells(cases: int, seed: int) -> list[Cell]:
    generator = torch.Generator().manual_seed(seed)
    count, found = max(cases // 10, 1), []
    runs = [(*setting, gaussian) for setting in SETTINGS]
    runs += [(state, d, n, 0.5, student) for state, d, n in HEAVY]
    for state, d, n, share, law in runs:
        exact, counts = truths(d, share, state), Counts()
        for _ in range(count):
            z, moves = cloud(generator, d, n, share, state, law)
            flow = measured_flow(fit_score(z, "gaussian"), moves)
            for name, truth in exact.items():
                counts.add(f"latent/{name}", getattr(flow, name), truth)
            if d == 2:
                mean, variance, k = STATES[state]
                # As the rates of mean and variance in units of the cloud's own width.
                rate = 2 * (k * mean) ** 2 / variance + 4 * (1 / variance - k) ** 2
                counts.add("latent/flux_divergence", rate_of_change(z, moves), math.sqrt(rate))
        kind = NOISE[share] + (", Student t3" if law is student else "")
        setting = f"OU {state}, d = {d}, n = {n}, noise {kind}"
        found += counts.cells(setting, n, share, heavy=law is student)
    for d, n, mobility in MOBILITIES:
        for share in (0.0, 0.5, 1.0):
            counts = Counts()
            for _ in range(count):
                slopes = 1 + torch.randn(PARTICLES, d, generator=generator)
                noise = math.sqrt(share) * gaussian(generator, n, 1, d)
                noise = noise + math.sqrt(1 - share) * gaussian(generator, n, PARTICLES, d)
                measured = against_loss(-mobility * slopes + math.sqrt(2) * noise, slopes)
                counts.add("latent/loss_cosine", measured["latent/loss_cosine"], 1.0)
                counts.add("latent/temperature", measured["latent/temperature"], 1 / mobility)
            setting = f"mobility {mobility}, d = {d}, n = {n}, noise {NOISE[share]}"
            found += counts.cells(setting, n, share)
    return found
