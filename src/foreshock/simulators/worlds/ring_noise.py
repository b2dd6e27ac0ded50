"""A ring whose noise varies with the place: two laws for two conventions, and a current in none."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreshock.simulators.door import Array
from foreshock.simulators.dynamics import Convention, ItoProcess
from foreshock.simulators.grid import drift_grid
from foreshock.simulators.grid_entropy import entropy_production
from foreshock.simulators.sde import EulerMaruyama, integrate
from foreshock.simulators.worlds.euler_chain import chain_stationary, euler_kernel
from foreshock.simulators.worlds.recorded import Progress, density_curve, measured
from foreshock.stats.intervals import jackknife_se, t_quantile
from foreshock.store import Comparison, Curve, Figure, Run, record
from foreshock.types import Estimate

#: Circumference.
TURN = 2 * math.pi
#: Angles whose crossings are counted.
PLACES = np.arange(12) * TURN / 12
#: Harmonics of the fitted score, and independent groups of particles it is fitted in.
_HARMONICS, _GROUPS = 4, 20


def ring_nodes(diffusion: float, dt: float) -> Array:
    """Nodes of the ring, four to the standard deviation of a step.

    Args:
        diffusion: Smallest D.
        dt: Step.

    Returns:
        (k,) Angles.

    Examples:
        >>> len(ring_nodes(0.5, 0.01))
        252
    """
    count = math.ceil(4 * TURN / math.sqrt(2 * diffusion * dt))
    return np.arange(count, dtype=np.float64) * (TURN / count)


def ring_kernel(
    nodes: Array, drift: Callable[[Array], Array], diffusion: Callable[[Array], Array], dt: float
) -> Array:
    """One step of Euler's chain round the ring: `euler_kernel`.

    Args:
        nodes: (k,) Angles.
        drift: a, Itô.
        diffusion: D.
        dt: Step.

    Returns:
        (k, k) Probabilities.

    Examples:
        >>> x = ring_nodes(0.5, 0.01)
        >>> bool(np.allclose(ring_kernel(x, np.cos, lambda x: 0.5 + 0 * x, 0.01).sum(1), 1))
        True
    """
    return euler_kernel(nodes, drift, diffusion, dt, period=TURN)


def drawn(nodes: Array, law: Array, count: int, generator: torch.Generator) -> Tensor:
    """Independent angles from probabilities of nodes: a node, and a place in its cell.

    Args:
        nodes: (k,) Angles.
        law: (k,) Probabilities.
        count: n.
        generator: Source of the draws.

    Returns:
        (n, 1) Angles, float64.

    Examples:
        >>> law = np.array([0.0, 1.0])
        >>> x = drawn(np.array([0.0, np.pi]), law, 9, torch.Generator().manual_seed(0))
        >>> bool(((x > 1.5) & (x < 4.8)).all())
        True
    """
    picks = torch.multinomial(torch.from_numpy(law), count, True, generator=generator)
    inside = torch.rand(count, generator=generator, dtype=torch.float64) - 0.5
    return (torch.from_numpy(nodes)[picks] + inside * float(nodes[1]))[:, None]


def crossings(start: Tensor, end: Tensor, span: float) -> list[Estimate]:
    """Net crossings of some angles, a particle and unit of time: the flux.

    Args:
        start: (n, 1) Unrolled angles at the start.
        end: (n, 1) At the end.
        span: Time between.

    Returns:
        One estimate for each of `PLACES`.

    Examples:
        >>> once = crossings(torch.zeros(3, 1) + 0.1, torch.full((3, 1), 0.1 + TURN), 2.0)
        >>> {e.value for e in once}
        {0.5}
    """
    x, y = start[:, 0].numpy(), end[:, 0].numpy()
    net = [np.floor((y - p) / TURN) - np.floor((x - p) / TURN) for p in PLACES]
    return [measured(torch.from_numpy(count / span)) for count in net]


def unequal_noise(
    run: Run,
    contrast: float,
    particles: int,
    dt: float,
    generator: torch.Generator,
    moves: list[Progress],
) -> list[Estimate]:
    """D(x) = 1 + c sin x without a drift: Itô's law is 1/D, the Fickian one uniform.

    Args:
        run: Open for writing: figure and comparisons go there.
        contrast: c.
        particles: n.
        dt: Step.
        generator: Source of all noise.
        moves: Progress of the two readings.

    Returns:
        Flux through some angles in the Itô reading, once it is at rest.
    """
    c, n = contrast, particles
    steps = round(10 / dt)
    nodes = ring_nodes(1 - c, dt)
    level = 1 + c * np.sin(nodes)
    laws = {"ito": 1 / level, "fickian": np.ones_like(nodes)}
    names = {"ito": "Itô", "fickian": "Fickian"}
    edges = np.linspace(0, TURN, 41)
    seen, exact, rest = [], [], []
    for (key, law), move in zip(laws.items(), moves, strict=True):
        convention: Convention = "ito" if key == "ito" else "fickian"
        process = ItoProcess(
            diffusion=lambda x: 1 + c * torch.sin(x),
            convention=convention,
            divergence=lambda x: c * torch.cos(x),
        )
        # Started in the law of the other convention, so that it has to move.
        other = laws["fickian" if key == "ito" else "ito"]
        cloud = drawn(nodes, other / other.sum(), n, generator)
        stepper = EulerMaruyama(process, dt)
        path = integrate(stepper, cloud, steps, generator=generator, every=steps, progress=move)
        end = path.values[-1][:, 0]
        share = 0.0 if key == "ito" else 1.0
        kernel = ring_kernel(
            nodes,
            lambda x, share=share: share * c * np.cos(x),
            lambda x: 1 + c * np.sin(x),
            dt,
        )
        chain = chain_stationary(kernel)
        true = law / law.sum()
        bias = abs(float((chain - true) @ np.sin(nodes)))
        label = f"Mean of sin x, D(x) read as {names[key]}"
        source = "density 1/D" if key == "ito" else "uniform density"
        sine = measured(torch.sin(end))
        truth = float(true @ np.sin(nodes)) if key == "ito" else 0.0
        record(run, Comparison(label, sine, truth, bias, source))
        wrapped = np.mod(end.numpy(), TURN)
        seen.append(density_curve(names[key], wrapped, edges))
        density = (true / nodes[1]).tolist()
        label = "1/D" if key == "ito" else "uniform"
        exact.append(Curve(label, nodes.tolist(), density, look="dashed"))
        if key == "ito":
            record(run, *_at_rest(c, end.numpy(), nodes, chain))
            later = integrate(stepper, path.values[-1], steps, generator=generator, every=steps)
            rest = crossings(path.values[-1], later.values[-1], steps * dt)
        move(steps, steps)
    caption = (
        "The same D(x) and no drift, read in two conventions. Each started in the law of the "
        "other, and in neither does a current flow."
    )
    record(
        run,
        Figure(
            "density_noise",
            "Noise that depends on the place",
            "angle",
            "density",
            (*seen, *exact),
            caption=caption,
        ),
    )
    return rest


def _at_rest(
    contrast: float, x: Array, nodes: Array, chain: Array
) -> tuple[Comparison, Comparison]:
    """Entropy production of the Itô ring, 0, and what leaving div D out makes of it."""
    c = contrast
    level, slope = 1 + c * np.sin(nodes), c * np.cos(nodes)
    grid = drift_grid(nodes, 0.0, level, period=TURN)
    # The chain's law is not quite 1/D; and of the score of 1/D the harmonics above the fourth,
    # of size 2 r^k, are left out.
    r = (1 - math.sqrt(1 - c * c)) / c
    bias = entropy_production(grid, chain / nodes[1]) + 2 * r ** (2 * _HARMONICS + 2)
    without = float(np.mean(slope**2 / level / level) / np.mean(1 / level))
    label = "Entropy production of the ring with D(x)"
    true = Comparison(label, rest_production(x, c, 1.0), 0.0, bias, "v = μ − div D − D s = 0")
    source = f"0; the omission reads {without:.3f}"
    label += ", without div D"
    return true, Comparison(label, rest_production(x, c, 0.0), 0.0, 0.0, source, published=True)


def rest_production(x: Array, contrast: float, weight: float) -> Estimate:
    r"""E[v^2/D], v = -(w D' + D s), s a sum of harmonics fitted by score matching.

    The score is fitted in independent groups and the square is a product of two different ones, so
    that the noise of the fit adds nothing on average (a U-statistic over pairs of groups).

    Args:
        x: (n,) Angles.
        contrast: c.
        weight: w: 1 is right, 0 leaves div D out.

    Returns:
        The production; jackknife over the groups.

    Examples:
        >>> x = np.random.default_rng(0).uniform(0, TURN, 4000)  # the Fickian law: a current in Ito
        >>> rest_production(x, 0.5, 1.0).low > 0
        True
    """
    level, slope = 1 + contrast * np.sin(x), contrast * np.cos(x)
    k = np.arange(1, _HARMONICS + 1)
    turn = k * x[:, None]
    first = np.concatenate((-k * np.sin(turn), k * np.cos(turn)), 1)
    second = np.concatenate((-(k**2) * np.cos(turn), -(k**2) * np.sin(turn)), 1)
    group = np.arange(len(x)) % _GROUPS
    # Hyvarinen: E[s^2/2 + s'] is least where E[g g'] c = -E[g'], g the slopes of the harmonics.
    fits = np.array(
        [
            np.linalg.solve(first[own].T @ first[own], -second[own].sum(0))
            for own in (group == g for g in range(_GROUPS))
        ]
    )

    def statistic(groups: NDArray[np.int64]) -> float:
        own = np.isin(group, groups)
        c, count = fits[groups], len(groups)
        square = (level[own, None] * first[own]).T @ first[own] / own.sum()
        cross = (slope[own] @ first[own]) / own.sum()
        pairs = (c.sum(0) @ square @ c.sum(0) - np.einsum("gi,ij,gj->", c, square, c)) / (
            count * (count - 1)
        )
        alone = float((slope[own] ** 2 / level[own]).mean())
        return float(weight**2 * alone + 2 * weight * cross @ c.mean(0) + pairs)

    everyone = np.arange(_GROUPS)
    parts = [statistic(np.delete(everyone, g)) for g in range(_GROUPS)]
    half = t_quantile(_GROUPS - 1) * float(jackknife_se(parts))
    value = statistic(everyone)
    return Estimate(value, value - half, value + half, n=len(x))
