"""Coverage of the intervals of `measured_flow` on Ornstein-Uhlenbeck clouds of known noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from benchmarks.coverages import Cell
from foreshock.density import fit_score, measured_flow

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
]
NOISE = {0.0: "own", 0.5: "half", 1.0: "common"}


def cloud(
    generator: torch.Generator, d: int, n: int, share: float, state: str
) -> tuple[Tensor, Tensor]:
    """Particles and moves of dz = -k z dt + sqrt(2) dW at one moment."""
    mean, variance, stiffness = STATES[state]
    z = mean + math.sqrt(variance) * torch.randn(PARTICLES, d, generator=generator)
    common = torch.randn(n, 1, d, generator=generator)
    own = torch.randn(n, PARTICLES, d, generator=generator)
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
        "common_noise": share,
        "diffusion_spread": 0.0,
    }
    return found | ({"cosine": x / math.sqrt(a * i)} if k else {})


def asked(n: int, share: float, count: int) -> tuple[float, float, str]:
    """What is asked of a cell; all may be conservative, as where noise is the particles' own."""
    few = n < 32 and share > 0
    usual = 0.92 if few else 0.95
    # Three binomial standard errors, where they exceed .03.
    least = min(0.92, usual - 3 * math.sqrt(usual * (1 - usual) / max(count, 1)))
    if few:
        return least, 1.0, "15 squares of a shared noise are few: 90 to 98 % at 200 clouds a cell"
    return least, 1.0, "own noise is counted by both jackknives; three standard errors"


def cells(cases: int, seed: int) -> list[Cell]:
    generator = torch.Generator().manual_seed(seed)
    found = []
    for state, d, n, share in SETTINGS:
        exact = truths(d, share, state)
        held, given = dict.fromkeys(exact, 0), dict.fromkeys(exact, 0)
        for _ in range(max(cases // 5, 1)):
            z, moves = cloud(generator, d, n, share, state)
            flow = measured_flow(fit_score(z, "gaussian"), moves)
            for name, truth in exact.items():
                estimate = getattr(flow, name)
                given[name] += not math.isnan(estimate.value)  # what was refused claims nothing
                held[name] += estimate.low <= truth <= estimate.high
        setting = f"OU {state}, d = {d}, n = {n}, noise {NOISE[share]}"
        for name in exact:
            count = given[name]
            limits = asked(n, share, count)
            found.append(
                Cell(f"latent/{name}", setting, count, held[name] / max(count, 1), *limits)
            )
    return found
