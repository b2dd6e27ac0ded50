"""Coverage of the intervals of `foreshock.stats.window`: autocorrelation, and sketched spectra.

ρ_l: AR(1) walks of W = 10 updates in 2,000 dimensions whose noise has the spectrum j^-a, truth ρ^l.
Bands: independent updates of noise with the spectrum j^-a in 20,000 directions; the share inside
the band of the null.
Sketches: windows in 80,000 dimensions, truth from the exact Gram, one sketch (another seed) a case.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from benchmarks.coverages import Cell
from foreshock.estimators.update_ring import count_sketch
from foreshock.stats.window import window_spectrum
from foreshock.stats.window_turn import window_turn
from foreshock.types import Estimate

WIDTH = 10
DIMENSION = 2000
SKETCH = 4096
LONG = 80_000  # 20 blocks: weights of one block never meet, which takes 1/20 off the variance
SKETCHED = ("sigma_1", "sigma_2", "gap_1", "gap_2", "effective_rank", "norm", "ratio")
TURNS = ("angle_1", "angle_2", "angle_3", "turning_bound")


def walk(rho: float, scale: np.ndarray, rng: np.random.Generator, width: int = WIDTH) -> np.ndarray:
    """(W, p) Stationary AR(1) updates with standard deviations `scale`."""
    updates = rng.standard_normal((width, len(scale)))
    for i in range(1, width):
        updates[i] = rho * updates[i - 1] + math.sqrt(1 - rho**2) * updates[i]
    return updates * scale


def cells(cases: int = 1000, seed: int = 0) -> list[Cell]:
    """Coverage, cell by cell.

    Args:
        cases: Simulated windows a cell.
        seed: Seed.
    """
    return autocorrelation(cases, seed) + bands(cases // 2, seed) + sketched(cases, seed)


def autocorrelation(cases: int, seed: int) -> list[Cell]:
    """ρ_1 to ρ_3 of AR(1) walks."""
    found = []
    for exponent in (0.0, 0.5, 1.0):
        values = np.arange(1, DIMENSION + 1.0) ** -exponent
        p = values.sum() ** 2 / (values**2).sum()
        for rho in (0.0, 0.3, 0.6, 0.9):
            rng = np.random.default_rng([seed, int(10 * exponent), int(10 * rho)])
            held = np.zeros(3)
            for _ in range(cases):
                updates = walk(rho, np.sqrt(values), rng)
                out = window_spectrum(updates @ updates.T, draws=19).scalars
                for lag in (1, 2, 3):
                    one = out[f"update/rho_{lag}"]
                    held[lag - 1] += one.low <= rho**lag <= one.high
            for lag in (1, 2, 3):
                setting = f"AR(1) {rho:g}, p_eff {p:.0f}"
                share = float(held[lag - 1]) / cases
                high, why = 0.98, ""
                if rho == 0.9:
                    high, why = 1.0, "over-covers where updates are nearly equal"
                found.append(Cell(f"update/rho_{lag}", setting, cases, share, 0.92, high, why))
    return found


def bands(cases: int, seed: int) -> list[Cell]:
    """Level of every band of the default null on pure noise."""
    found = []
    for exponent in (0.0, 0.6, 1.0):
        values = np.arange(1, 20_001.0) ** -exponent
        p = values.sum() ** 2 / (values**2).sum()
        rng = np.random.default_rng([seed, 7, int(10 * exponent)])
        held: dict[str, int] = {}
        for _ in range(cases):
            updates = rng.standard_normal((WIDTH + 1, len(values))) * np.sqrt(values)
            table = updates @ updates.T
            out = {**window_spectrum(table[1:, 1:]).scalars, **window_turn(table).scalars}
            for name, one in out.items():
                if one.null is not None:
                    inside = one.null[0] <= one.value <= one.null[1]
                    held[name] = held.get(name, 0) + inside
        for name, count in held.items():
            # Half the cases: a share of .95 has a standard error of 1.4 % at 250.
            low, why = 0.90, "the wider of two extremes of the noise"
            if name == "update/ratio" and exponent > 0:
                low, why = 0.6, "band of isotropic noise; the sign test decides beyond it"
            setting = f"band, noise with p_eff {p:.0f}"
            found.append(Cell(name, setting, cases, count / cases, low, 1.0, why))
    return found


def sketched(cases: int, seed: int) -> list[Cell]:
    """Spectra and turns from sketches, against the exact ones."""
    found = []
    for rho in (0.5, 0.9):
        rng = np.random.default_rng([seed, 99, int(10 * rho)])
        held = dict.fromkeys((*SKETCHED, *TURNS, "k_star"), 0)
        for case in range(cases):
            updates = walk(rho, np.ones(LONG), rng, WIDTH + 1)
            rows = torch.from_numpy(updates)
            short = torch.stack([count_sketch([row], SKETCH, case) for row in rows]).numpy()
            truth, out = read(updates @ updates.T, None), read(short @ short.T, SKETCH)
            for name in held:
                one = out[f"update/{name}"]
                held[name] += one.low <= truth[f"update/{name}"].value <= one.high
        for name, count in held.items():
            setting = f"AR(1) {rho:g}, sketch of {SKETCH}"
            high, why = 0.98, ""
            if name == "k_star":
                high, why = 1.0, "a range of positions"
            if name in ("angle_2", "angle_3", "turning_bound"):
                high, why = 1.0, "wide where modes of nearly equal σ mix, or k* may lie elsewhere"
            found.append(Cell(f"update/{name}", setting, cases, count / cases, 0.92, high, why))
    return found


def read(table: np.ndarray, sketch: int | None) -> dict[str, Estimate]:
    """Spectrum and turn of a table of W + 1 updates."""
    spectrum = window_spectrum(table[1:, 1:], draws=19, sketch=sketch).scalars
    return {**spectrum, **window_turn(table, draws=19, sketch=sketch).scalars}
