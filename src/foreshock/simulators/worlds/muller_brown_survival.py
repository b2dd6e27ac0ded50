"""How long particles stay in a well of the plane: counted, on a grid, and by Kramers."""

from __future__ import annotations

import numpy as np

from foreshock.simulators.grid_cells import Grid, point_mass, total_mass
from foreshock.simulators.grid_solvers import evolve
from foreshock.simulators.passage import PassageTimes
from foreshock.simulators.passage_estimates import survival_curve
from foreshock.simulators.worlds.recorded import measured_curve
from foreshock.store import Curve, Figure
from foreshock.types import Estimate

#: Times at which particles are counted.
_COUNTS = 24


def survival(
    name: str,
    route: str,
    found: PassageTimes,
    grid: Grid,
    start: tuple[float, ...],
    kramers: Estimate,
    published: float,
) -> Figure:
    """Share of the particles that have not arrived, over the grid and the formulas.

    Args:
        name: Identifier of the figure.
        route: From where to where.
        found: The passages.
        grid: The plane, absorbing where they arrive.
        start: Where they start.
        kramers: Time of Eyring and Kramers; nothing is drawn if it is missing.
        published: The published time; nothing is drawn if it is 0.

    Returns:
        The figure.
    """
    times = np.linspace(0, found.horizon, _COUNTS + 1)[1:]
    density = point_mass(grid, *start) / grid.volume
    left = []
    for gap in np.diff(times, prepend=0.0):
        density = evolve(grid, density, float(gap), method="tr_bdf2", steps=8)
        left.append(total_mass(grid, density))
    at = times.tolist()
    curves = [
        Curve("grid", at, left, look="dashed"),
        measured_curve("particles, 95 %", at, survival_curve(found, times)),
    ]
    # An exponential leaves the picture soon where its time is much too short.
    for label, time in (("Eyring-Kramers", kramers.value), ("as published", published)):
        if time > 0:
            fine = np.linspace(0, min(found.horizon, 4 * time), 41)
            curves.append(Curve(label, fine.tolist(), np.exp(-fine / time).tolist()))
    caption = (
        f"Share of {len(found.times):,} particles that have not yet arrived {route}, and the "
        "Fokker-Planck equation in the plane. The formulas are exponentials: of one barrier that "
        "is high, and as published, of a difference of energies without a prefactor."
    )
    if kramers.reason:
        caption += f" Of the former: {kramers.reason.split('. ')[0]}."
    return Figure(name, f"Survival {route}", "time", "share", curves, log_y=True, caption=caption)
