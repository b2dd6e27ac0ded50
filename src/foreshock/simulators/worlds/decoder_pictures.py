"""Latent particles under a decoder one by one, and how the cloud is spread over an axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from foreshock.simulators.door import Array
from foreshock.simulators.particles import Engine
from foreshock.simulators.recording import run_engine
from foreshock.simulators.worlds.recorded import laws
from foreshock.store import Curve, Field, Figure

if TYPE_CHECKING:
    from foreshock.simulators.worlds.linear_decoder import Cloud
    from foreshock.simulators.worlds.tanh_decoder import Plane

#: Particles that are drawn one by one, and points of their paths.
_DRAWN, _POINTS = 3, 300
#: Standard deviations that hold 95 % of a Gaussian.
_INSIDE = 1.959964
#: Height, in temperatures, up to which a loss is coloured.
_SHOWN = 6.0


def paths(
    engine: Engine, start: Tensor, steps: int, generator: torch.Generator
) -> tuple[Array, Array]:
    """A few particles at many times: the records of the cloud are too few for a path.

    Args:
        engine: What moves them.
        start: (k, d).
        steps: How many.
        generator: Of all noise.

    Returns:
        (r,) Times and (r, k, d) places.
    """
    every = max(1, steps // _POINTS)
    found = run_engine(engine, start, steps, generator=generator, every=every, observed=False)
    return np.array(found.times), found.path.numpy()


def over_the_band(
    engine: Engine, draw: Callable[[int], Tensor], begin: Cloud, steps: int, noise: torch.Generator
) -> Figure:
    """The first coordinate of some particles of a linear decoder, over its exact band.

    Args:
        engine: What moves them.
        draw: So many particles of the start.
        begin: The Gaussian of the start.
        steps: How many.
        noise: Of all noise.

    Returns:
        The figure.
    """
    times, places = paths(engine, draw(_DRAWN), steps, noise)
    clouds = [begin.after(time) for time in times.tolist()]
    mean = np.array([cloud.mean[0] for cloud in clouds])
    reach = _INSIDE * np.sqrt([cloud.covariance[0, 0] for cloud in clouds])
    at = times.tolist()
    band = Curve(
        "exact mean, and where 95 % are",
        at,
        mean.tolist(),
        (mean - reach).tolist(),
        (mean + reach).tolist(),
        look="dashed",
    )
    lines = [Curve(f"particle {i + 1}", at, places[:, i, 0].tolist()) for i in range(_DRAWN)]
    caption = (
        "Of the corrected engine with noise that follows the Fisher information. The cloud is "
        "Gaussian at every time, so that mean and band are known."
    )
    title = "Particles one by one, linear decoder"
    return Figure("linear_trajectories", title, "time", "z1", (band, *lines), caption=caption)


def in_the_plane(
    engine: Engine, start: Tensor, plane: Plane, steps: int, noise: torch.Generator
) -> Figure:
    """Paths of some particles over the loss of a decoder in the plane.

    Args:
        engine: What moves them.
        start: (k, 2) Where they start.
        plane: The loss.
        steps: How many.
        noise: Of all noise.

    Returns:
        The figure.
    """
    _, places = paths(engine, start, steps, noise)
    energy = (plane.energy - plane.energy.min()) / plane.temperature
    low, high = places.min((0, 1)) - 0.3, places.max((0, 1)) + 0.3
    near = np.argwhere(energy < _SHOWN)
    low = np.minimum(low, plane.axis[near.min(0)])
    high = np.maximum(high, plane.axis[near.max(0)])
    parts = [(plane.axis >= low[i]) & (plane.axis <= high[i]) for i in range(2)]
    gap = float(plane.axis[1] - plane.axis[0])
    edges = [
        np.append(plane.axis[part] - gap / 2, plane.axis[part][-1] + gap / 2).tolist()
        for part in parts
    ]
    values = np.where(energy < _SHOWN, energy, np.nan)[np.ix_(*parts)].T
    seen = places[::2]  # in the plane a path of many points is a knot
    lines = [
        Curve(f"particle {i + 1}", seen[:, i, 0].tolist(), seen[:, i, 1].tolist())
        for i in range(places.shape[1])
    ]
    ends = Curve("where they end", *places[-1].T.tolist(), look="points")
    field = Field(edges[0], edges[1], values.tolist(), label="(loss − least) / T")
    caption = (
        f"From the start of the cloud down to the valley of the loss. Colours end {_SHOWN:g} "
        "temperatures above its bottom, where few particles are."
    )
    title = "Particles one by one, tanh decoder"
    curves = (*lines, ends)
    return Figure("trajectories", title, "z1", "z2", curves, field=field, caption=caption)


def linear_density(
    times: Sequence[float], clouds: Sequence[Tensor], exact: Sequence[Cloud], rest: float
) -> Figure:
    """The first coordinate of the cloud of a linear decoder over its Gaussian.

    Args:
        times: Of the records.
        clouds: The particles then.
        exact: Their Gaussians.
        rest: Variance of the Gibbs law.

    Returns:
        The figure.
    """
    which = _places(len(times))
    lines = [(float(exact[i].mean[0]), math.sqrt(exact[i].covariance[0, 0])) for i in which]
    spread = math.sqrt(rest)
    ends = [mean + side * 4 * s for mean, s in (*lines, (0.0, spread)) for side in (-1, 1)]
    x = np.linspace(min(ends), max(ends), 301)

    def gaussian(mean: float, s: float) -> list[float]:
        density = np.exp(-((x - mean) ** 2) / (2 * s * s)) / (s * math.sqrt(2 * math.pi))
        return np.asarray(density).tolist()

    return laws(
        "linear_density",
        "Density of z1, linear decoder",
        "z1",
        [times[i] for i in which],
        [clouds[i][:, 0].numpy() for i in which],
        np.linspace(x[0], x[-1], 51),
        x.tolist(),
        [gaussian(*line) for line in lines],
        solution="exact",
        rest=Curve("Gibbs", x.tolist(), gaussian(0.0, spread), look="dashed"),
        caption=(
            "Histograms of the particles with 95 % bands over the Gaussian in closed form. It "
            "ends in the Gibbs law exp(−L/T)/Z though the noise follows the Fisher information."
        ),
    )


def tanh_density(times: Sequence[float], clouds: Sequence[Tensor], plane: Plane) -> Figure:
    """The first coordinate of the cloud of a tanh decoder over that of the grid.

    Args:
        times: Of the records.
        clouds: The particles then.
        plane: The grid.

    Returns:
        The figure.
    """
    which = _places(len(times))
    gap = float(plane.axis[1] - plane.axis[0])

    def marginal(law: Array) -> Array:
        mass = (law * plane.grid.volume).sum(1)
        return np.asarray(mass / mass.sum() / gap)

    above = (plane.energy - plane.energy.min()) / plane.temperature
    gibbs = marginal(np.exp(-np.minimum(above, 600)))
    densities = [marginal(plane.densities[i]) for i in which]
    seen = np.max([gibbs, *densities], axis=0) > 1e-3
    reached = plane.axis[seen]
    low, high = float(reached[0]) - 3 * gap, float(reached[-1]) + 3 * gap
    inside = (plane.axis >= low) & (plane.axis <= high)
    x = plane.axis[inside].tolist()
    left = float(np.abs(densities[-1] - gibbs).sum()) * gap / 2
    return laws(
        "density",
        "Density of z1, tanh decoder",
        "z1",
        [times[i] for i in which],
        [clouds[i][:, 0].numpy() for i in which],
        np.linspace(low, high, 51),
        x,
        [law[inside].tolist() for law in densities],
        solution="grid",
        rest=Curve("Gibbs", x, gibbs[inside].tolist(), look="dashed"),
        caption=(
            "Histograms of the particles with 95 % bands, and the solution of the Fokker-Planck "
            f"equation on the plane, summed over z2. At the end {left:.1%} of it is still away "
            "from the Gibbs law exp(−L/T)/Z."
        ),
    )


def _places(count: int) -> list[int]:
    """The first, an early and the last record."""
    return sorted({0, max(1, count // 12), count - 1})
