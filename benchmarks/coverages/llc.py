"""Coverage of the interval of `llc/lambda` on quadratics, whose value at finite γ, step is known.

The chains are drawn in numpy from the very recursion (`sgld` is compared with it in the tests), all
cases of a cell at once.
"""

from __future__ import annotations

import numpy as np

from benchmarks.coverages import Cell
from foreshock.stats.llc import llc_quadratic, llc_summary

SPECTRA = {
    "20 equal directions": np.ones(20),
    "power law, 20 directions": np.arange(1, 21.0) ** -1.5,
}
SCHEDULES = {"15 + 30": (15, 30), "200 + 400": (200, 400)}
CHAINS, N_BETA, GAMMA = 4, 100.0, 10.0


def cells(cases: int, seed: int) -> list[Cell]:
    """One cell a spectrum and schedule, the step as the observable chooses it."""
    rng = np.random.default_rng(seed)
    out = []
    for spectrum, h in SPECTRA.items():
        a = N_BETA * h + GAMMA
        step = 0.2 / a.max()
        truth = llc_quadratic(h, N_BETA, GAMMA, step)
        for schedule, (burn_in, draws) in SCHEDULES.items():
            w = np.zeros((cases, CHAINS, len(h)))
            losses = np.empty((cases, CHAINS, draws))
            for move in range(burn_in + draws):
                w = w - step / 2 * a * w + np.sqrt(step) * rng.standard_normal(w.shape)
                if move >= burn_in:
                    losses[:, :, move - burn_in] = 0.5 * (h * w**2).sum(2)
            covered, flagged = 0, 0
            for trace in losses:
                found = llc_summary(trace, 0.0, N_BETA, np.zeros_like(trace))["llc/lambda"]
                covered += found.low <= truth <= found.high
                flagged += bool(found.flags)
            slow = schedule == "15 + 30" and spectrum.startswith("power")
            out.append(
                Cell(
                    "llc/lambda",
                    f"{spectrum}, {schedule}",
                    cases,
                    covered / cases,
                    0.0 if slow else 0.92,
                    why=f"flat directions not yet spread; flagged in {flagged / cases:.0%}"
                    if slow
                    else "",
                )
            )
    return out
