"""What the worlds share: how a measured series and its exact answer become a figure."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from foreshock.stats.sample import mean_interval
from foreshock.store import Curve, Figure, Run
from foreshock.store.pictures import Look
from foreshock.types import Estimate

#: Called with (done, total).
Progress = Callable[[int, int], None]


class Configured(Protocol):
    """A world: a documented dataclass of numbers with a seed."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def seed(self) -> int:
        """Seed of all noise."""
        ...


def started(path: str | Path, name: str, world: Configured) -> Run:
    """A new run of a world, open for writing, which says what is simulated.

    Args:
        path: Its folder.
        name: Name of the world on the command line.
        world: Its numbers; the first paragraph of its docstring is what a reader is told.

    Returns:
        The run.

    Examples:
        >>> import tempfile
        >>> from foreshock.simulators.worlds import OrnsteinUhlenbeck
        >>> with started(tempfile.mkdtemp() + "/a", "ou", OrnsteinUhlenbeck()) as run:
        ...     run.info["config"]["about"]
        'dx = -k x dt + sqrt(2 D) dW from N(m, s): Gaussian at every time.'
    """
    about = " ".join((inspect.getdoc(type(world)) or "").split("\n\n")[0].split())
    config = {"name": name, "about": about} | asdict(world)
    return Run.create(path, kind="simulation", config=config, seed=world.seed)


def noise_of(seed: int, part: str) -> torch.Generator:
    """Source of one part of a world alone: what another part draws does not change it.

    Args:
        seed: Of the world.
        part: Name of the part.

    Returns:
        The generator.

    Examples:
        >>> a, b = (torch.rand(1, generator=noise_of(0, part)) for part in ("paths", "noise"))
        >>> bool(a != b)
        True
    """
    words = np.random.SeedSequence([seed % 2**64, *part.encode()]).generate_state(2)
    return torch.Generator().manual_seed(int(words[0]) << 32 | int(words[1]))


def measured(values: Tensor) -> Estimate:
    """Mean of independent particles with its Student interval.

    Args:
        values: (n,) One number a particle, n >= 2.

    Returns:
        The mean.

    Examples:
        >>> import torch
        >>> measured(torch.tensor([1.0, 3.0])).value
        2.0
    """
    return mean_interval(values.detach().cpu().numpy())


def measured_curve(
    label: str, places: Sequence[float], values: Sequence[Estimate], *, look: Look = "points"
) -> Curve:
    """Estimates with their intervals.

    Args:
        label: Its name in the key.
        places: Where the estimates stand.
        values: The estimates.
        look: How they are drawn.

    Returns:
        The curve.

    Examples:
        >>> measured_curve("seen", [0.0], [Estimate(2.0, 1.0, 4.0)])
        Curve(label='seen', x=[0.0], y=[2.0], low=[1.0], high=[4.0], look='points')
    """
    y, low, high = ([getattr(e, end) for e in values] for end in ("value", "low", "high"))
    return Curve(label, places, y, low, high, look)


def told(
    name: str,
    title: str,
    x: str,
    y: str,
    places: Sequence[float],
    values: Sequence[Estimate],
    truth: Sequence[float],
    *,
    caption: str = "",
    look: Look = "points",
    log_x: bool = False,
    log_y: bool = False,
) -> Figure:
    """A figure of estimates with their intervals over the exact curve.

    Args:
        name: Identifier.
        title: A few words.
        x: Horizontal axis.
        y: Vertical axis.
        places: Where the estimates stand.
        values: The estimates.
        truth: The exact values at the same places.
        caption: Sentences below.
        look: How the estimates are drawn.
        log_x: Whether the horizontal axis is logarithmic.
        log_y: Whether the vertical axis is logarithmic.

    Returns:
        The figure.

    Examples:
        >>> told("a", "A", "t", "y", [0.0], [Estimate.exact(1.0)], [1.0]).curves[0].label
        'exact'
    """
    curves = (
        Curve("exact", places, truth, look="dashed"),
        measured_curve("measured, 95 %", places, values, look=look),
    )
    return Figure(name, title, x, y, curves, log_x=log_x, log_y=log_y, caption=caption)


def density_curve(label: str, samples: ArrayLike, edges: ArrayLike) -> Curve:
    """A histogram as a density with the binomial 95 % band of every bin.

    Args:
        label: Its name in the key.
        samples: Independent positions; those outside the edges count in the total.
        edges: Edges of the bins.

    Returns:
        The curve, drawn as steps.

    Examples:
        >>> density_curve("seen", [0.1, 0.2, 0.9, 2.0], [0.0, 0.5, 1.0]).y
        [1.0, 0.5]
    """
    from foreshock.stats.intervals import clopper_pearson

    at = np.asarray(edges, np.float64)
    values = np.asarray(samples, np.float64).ravel()
    counts, _ = np.histogram(values, at)
    widths = np.diff(at)
    ends = np.array([clopper_pearson(int(k), values.size) for k in counts])
    return Curve(
        label,
        ((at[1:] + at[:-1]) / 2).tolist(),
        (counts / values.size / widths).tolist(),
        (ends[:, 0] / widths).tolist(),
        (ends[:, 1] / widths).tolist(),
        look="steps",
    )


def laws(
    name: str,
    title: str,
    x: str,
    times: Sequence[float],
    clouds: Sequence[ArrayLike],
    edges: ArrayLike,
    places: Sequence[float],
    exact: Sequence[Sequence[float]],
    *,
    solution: str,
    rest: Curve | None = None,
    caption: str = "",
) -> Figure:
    """Histograms of a cloud at some times, each over the density it should have.

    Args:
        name: Identifier.
        title: A few words.
        x: Horizontal axis.
        times: At most three.
        clouds: Positions along the axis at each of them.
        edges: Edges of the bins.
        places: Where the exact densities are known.
        exact: These, one at each time.
        solution: What they come from, in a word.
        rest: The law that the cloud ends in.
        caption: Sentences below.

    Returns:
        The figure.

    Examples:
        >>> seen = laws("a", "A", "x", [0.0], [[0.5]], [0.0, 1.0], [0.0, 1.0], [[1.0, 1.0]],
        ...             solution="exact")
        >>> [curve.label for curve in seen.curves]
        ['t = 0', 'exact, 0']
    """
    # The report has four colours: a histogram and its solution share one.
    seen = [
        density_curve(f"t = {time:.3g}", cloud, edges)
        for time, cloud in zip(times, clouds, strict=True)
    ]
    solved = [
        Curve(f"{solution}, {time:.3g}", places, law, look="dashed")
        for time, law in zip(times, exact, strict=True)
    ]
    between = () if rest is None else (rest,)
    return Figure(name, title, x, "density", (*seen, *between, *solved), caption=caption)


def kramers_figure(
    title: str,
    heights: Sequence[float],
    seen: Sequence[Estimate],
    fine: Sequence[float],
    exact: Sequence[float],
    kramers: Sequence[float],
    *,
    caption: str,
) -> Figure:
    """Mean times of escape by the height of the barrier, and the formulas beside them.

    Args:
        title: A few words.
        heights: Barrier/T of the particles.
        seen: Their mean times.
        fine: Barrier/T of the formulas.
        exact: Times by quadrature.
        kramers: Times of Eyring and Kramers.
        caption: Sentences below.

    Returns:
        The figure, with the published time exp(barrier/T).

    Examples:
        >>> seen, at = [Estimate.exact(9.0)], [2.0]
        >>> figure = kramers_figure("A", at, seen, at, [8.0], [7.0], caption="")
        >>> round(figure.curves[-1].y[0], 2)
        7.39
    """
    curves = (
        Curve("exact", fine, exact, look="dashed"),
        measured_curve("particles, 95 %", heights, seen),
        Curve("Eyring-Kramers", fine, kramers),
        Curve("as published, exp(ΔU/T)", fine, np.exp(fine).tolist()),
    )
    return Figure("escape", title, "barrier / T", "time", curves, log_y=True, caption=caption)


def stages(progress: Progress | None, lengths: Sequence[int]) -> list[Progress]:
    """One callback for each stage of a simulation, that together count up to the sum.

    Args:
        progress: What is called with (done, total) of the whole, or nothing.
        lengths: Steps of each stage.

    Returns:
        Callbacks of (done, steps) within a stage; `steps` is not looked at.

    Examples:
        >>> first, second = stages(lambda done, total: print(done, total), [10, 5])
        >>> first(10, 10)
        10 15
        >>> second(2, 5)
        12 15
    """
    total = sum(lengths)
    moves: list[Progress] = []
    for index, length in enumerate(lengths):
        before = sum(lengths[:index])

        def move(done: int, _steps: int, before: int = before, length: int = length) -> None:
            if progress is not None:
                progress(before + min(done, length), total)

        moves.append(move)
    return moves
