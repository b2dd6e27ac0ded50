"""The catapult: at a rate between 2 and 4 over the curvature the loss grows, and ends flatter.

f = u.v/sqrt(m) on one example with target 0 and loss f^2/2, full-batch gradient descent. With the
tangent kernel lambda = (|u|^2 + |v|^2)/m one step is exactly

    f' = f (1 - eta lambda + eta^2 f^2/m),
    lambda' = lambda + (eta f^2/m) (eta lambda - 4).

Below eta lambda = 2 the loss falls; between 2 and 4 it grows until f^2 is of order m, which lowers
lambda until the loss falls again; above 4 lambda grows as well and the run diverges (Lewkowycz et
al. 2020, arXiv 2003.02218). The boundaries hold for m to infinity.

``catapult``, and its nulls: ``lazy``, at a rate below 2, in the same steps; ``divergent``, above 4.
A run has one rate, given as eta lambda at the start; where it is given it decides on the variant.
What it cannot show: that networks with more
than one direction do the same; and nothing here warns of the peak but the rate itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from foreshock.experiments.seeds import all_of
from foreshock.experiments.setup import (
    Check,
    Experiment,
    Preset,
    at_least,
    conclude,
    having,
    milestone,
    one_of,
    outcome,
    watch_training,
)
from foreshock.probe import Probe
from foreshock.store import Run
from foreshock.types import Detector, Observable, OnAlarm

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Variant = Literal["catapult", "lazy", "divergent"]
VARIANTS: tuple[str, ...] = get_args(Variant)
#: Rates of each variant, as eta lambda at the start. The first is the default.
GRID = {
    "catapult": (3.0, 2.05, 2.1, 3.8, 3.95),
    "lazy": (1.9, 1.95),
    "divergent": (4.2, 4.05),
}
RATES = tuple(sorted(rate for rates in GRID.values() for rate in rates))
PEAK = "step of the largest loss, if it exceeds the first and the loss falls below that again"


@dataclass(frozen=True)
class Catapult:
    """Configuration of one run.

    Args:
        variant: ``catapult``, or the null: ``lazy``, ``divergent``. It gives the rate where
            ``eta_lambda`` is 0, the first of `GRID`, and follows from the rate otherwise.
        eta_lambda: Learning rate times the tangent kernel at the start, or 0.
        seed: Of the initial weights.
        width: m.
        steps: Updates.
        observables: A preset, or ``none``.
        every: Steps between measurements, 0 for the budget.
        budget: Share of wall time, where ``every`` is 0.
    """

    variant: Variant = "catapult"
    eta_lambda: float = 0.0
    seed: int = 0
    width: int = 512
    steps: int = 200
    observables: Preset = "standard"
    every: int = 5
    budget: float = 0.05

    def __post_init__(self) -> None:
        one_of(self, variant=VARIANTS)
        at_least(self, width=1, steps=1, every=0)
        if not 0 <= self.eta_lambda < math.inf or self.eta_lambda in (2, 4):
            raise ValueError(
                "The `eta_lambda` of `Catapult` must be positive, finite and not 2 or 4, where "
                f"nothing is decided, or 0 for the rate of the variant. Got {self.eta_lambda}."
            )
        if self.eta_lambda:
            object.__setattr__(self, "variant", fate_of(self.eta_lambda))

    @property
    def start(self) -> float:
        """Learning rate times the tangent kernel at the start."""
        return self.eta_lambda or GRID[self.variant][0]


def fate_of(eta_lambda: float) -> Variant:
    """The variant a rate belongs to, as for an infinite width.

    Args:
        eta_lambda: Learning rate times the tangent kernel at the start, not 2 or 4.

    Returns:
        The variant.

    Examples:
        >>> [fate_of(rate) for rate in (1.9, 3.0, 4.2)]
        ['lazy', 'catapult', 'divergent']
    """
    return "lazy" if eta_lambda < 2 else "catapult" if eta_lambda < 4 else "divergent"


class Product(nn.Module):
    """f = u.v/sqrt(m), times the input."""

    def __init__(self, width: int, generator: torch.Generator) -> None:
        super().__init__()
        u, v = torch.randn(2, width, generator=generator, dtype=torch.float64)
        self.u, self.v = nn.Parameter(u), nn.Parameter(v)

    def forward(self, x: Tensor) -> Tensor:
        """Inputs ``(n, 1)`` to outputs ``(n, 1)``."""
        return x * (self.u @ self.v) / math.sqrt(len(self.u))

    @property
    def tangent_kernel(self) -> float:
        """Squared norm of the gradient of f at x = 1."""
        with torch.no_grad():
            return float((self.u @ self.u + self.v @ self.v) / len(self.u))


def loss_of(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Half the squared distance."""
    return 0.5 * (model(batch[0]) - batch[1]).square().mean()


def recursion(
    f: float, kernel: float, *, eta: float, width: int, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """The exact f and lambda before each step and after the last.

    Args:
        f: At the start.
        kernel: lambda at the start.
        eta: Learning rate.
        width: m.
        steps: How many.

    Returns:
        Two arrays ``(steps + 1,)``; a run that diverges ends in infinities and nan.

    Examples:
        At m to infinity lambda stays and f is a geometric series.

        >>> f, kernel = recursion(1.0, 2.0, eta=0.25, width=10**12, steps=2)
        >>> f.round(6).tolist(), kernel.round(6).tolist()
        ([1.0, 0.5, 0.25], [2.0, 2.0, 2.0])
    """
    told = np.empty((2, steps + 1))
    told[:, 0] = f, kernel
    with np.errstate(over="ignore", invalid="ignore"):
        for t in range(steps):
            f, kernel = told[:, t]
            told[0, t + 1] = f * (1 - eta * kernel + eta**2 * f**2 / width)
            told[1, t + 1] = kernel + eta * f**2 / width * (eta * kernel - 4)
    return told[0], told[1]


def run(
    config: Catapult,
    path: str | Path,
    *,
    observables: Iterable[str | Observable] | str | None = None,
    detectors: Iterable[str | Detector] = (),
    on_alarm: OnAlarm | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Run:
    """Descend with the monitor attached, beside the exact recursion.

    Args:
        config: What to train.
        path: Folder of the run.
        observables: Overrides the preset of the configuration.
        detectors: Rules to run live.
        on_alarm: Called with every alarm.
        progress: Called with the steps done and their number.

    Returns:
        The run, closed and opened again for reading.

    Examples:
        >>> import tempfile
        >>> recorded = run(Catapult(observables="none"), tempfile.mkdtemp() + "/a")
        >>> found = outcome(recorded)
        >>> found["peak_loss"] > 10 * found["first_loss"] > found["last_loss"]
        True
    """
    model = Product(config.width, torch.Generator().manual_seed(config.seed))
    one = torch.ones(1, 1, dtype=torch.float64)
    batch = (one, 0 * one)
    eta, kernel = config.start / model.tangent_kernel, model.tangent_kernel
    f, kernels = recursion(
        float(model(one).detach()), kernel, eta=eta, width=config.width, steps=config.steps
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=eta)
    record = Run.create(path, kind="catapult", config=asdict(config), seed=config.seed)
    record.declare("tangent_kernel", title="Tangent kernel of the example, before the step")
    watch = watch_training(
        config,
        record,
        model,
        optimizer,
        Probe(loss=loss_of, batches=[batch], train=batch, sampling="disjoint"),
        observables=observables,
        detectors=detectors,
        on_alarm=on_alarm,
    )
    losses, seen = np.empty(config.steps), np.empty(config.steps)
    with watch:
        for step in range(config.steps):
            seen[step] = model.tangent_kernel
            loss = loss_of(model, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[step] = loss.item()
            watch.log(loss=losses[step], tangent_kernel=seen[step])
            progress(step + 1, config.steps)
        watch.flush()
        finite = np.isfinite(losses)
        peak = int(np.argmax(np.where(finite, losses, -1)))
        grew = peak > 0 and losses[peak] > losses[0]
        converged = bool(finite.all()) and losses[-1] < losses[0]
        milestone(record, "peak", PEAK, peak if grew and converged else None)
        # Once the loss is far below the first one, rounding is all that differs.
        told = finite & (losses > 1e-12 * losses[0]) & np.isfinite(f[:-1]) & (losses < 1e6)
        off = np.abs(losses[told] / (f[:-1][told] ** 2 / 2) - 1)
        conclude(
            record,
            {
                "first_loss": losses[0],
                "peak_loss": losses[peak],
                "last_loss": losses[-1],
                "grew": float(grew),
                "converged": float(converged),
                "first_kernel": kernel,
                "last_kernel": model.tangent_kernel,
                "last_eta_lambda": eta * model.tangent_kernel,
                "off_recursion": float(off.max()),
            },
        )
    return Run.open(path)


#: What each variant does: whether the loss grows, and whether it converges.
FATE = {"lazy": (0.0, 1.0), "catapult": (1.0, 1.0), "divergent": (1.0, 0.0)}


def check(runs: Sequence[Run]) -> list[Check]:
    """The fate on either side of both boundaries, flatter ends, and the recursion.

    Args:
        runs: Runs of this experiment; those of fewer updates than by default are left out.

    Returns:
        One line for each rate of `RATES` and any other that was run, one for the exact recursion.
    """
    by_rate: dict[float, list[dict[str, Any]]] = {rate: [] for rate in RATES}
    for run in having(runs):
        config, ends = Catapult(**run.info["config"]), outcome(run)
        if ends and config.steps >= Catapult().steps:
            by_rate.setdefault(config.start, []).append(ends)
    words = {
        "lazy": "below 2: the loss never grows and converges",
        "catapult": "between 2 and 4: grows first, converges, and ends below 2",
        "divergent": "above 4: diverges",
    }
    told = []
    for start, found in sorted(by_rate.items()):
        variant = fate_of(start)
        good = [
            (n["grew"], n["converged"]) == FATE[variant]
            and (variant != "catapult" or n["last_eta_lambda"] < 2)
            for n in found
        ]
        line = all_of(f"eta lambda = {start:g}", words[variant], good)
        if found and variant == "catapult":
            peaks = np.median([n["peak_loss"] for n in found])
            ends = np.median([n["last_eta_lambda"] for n in found])
            more = f"median peak loss {peaks:.3g}, eta lambda {start:g} to {ends:.2g}"
            line = replace(line, measured=f"{line.measured}; {more}")
        told.append(line)
    off = [n["off_recursion"] for found in by_rate.values() for n in found]
    line = all_of("exact recursion", "the loss of every step within 1e-6", [x < 1e-6 for x in off])
    if off:
        line = replace(line, measured=f"{line.measured}; largest difference {max(off):.1g}")
    return [*told, line]


def figure(runs: Sequence[Run]) -> Figure:
    """Loss and curvature at every rate: seeds thin, their median thick.

    Args:
        runs: Runs of this experiment.

    Returns:
        Two panels beside each other; grey lines are the exact recursion's boundaries.
    """
    from matplotlib import colormaps

    from foreshock.report.figures import GREY, paper_figure

    drawn, axes = paper_figure(1, 2, size=(8.2, 3.0))
    groups: dict[float, list[Run]] = {}
    for run in having(runs):
        groups.setdefault(Catapult(**run.info["config"]).start, []).append(run)
    shades = colormaps["viridis"](np.linspace(0, 0.92, len(groups)))
    for colour, (start, found) in zip(shades, sorted(groups.items()), strict=True):
        losses = [run.series("loss").value for run in found]
        kernels = [run.series("tangent_kernel").value for run in found]
        scaled = [start * kernel / kernel[0] for kernel in kernels]
        for one, seeds in ((axes[0, 0], losses), (axes[0, 1], scaled)):
            shown = [np.where(values < 1e8, values, np.nan) for values in seeds]
            length = min(map(len, shown))
            for values in shown if len(shown) > 1 else ():
                one.plot(values, color=colour, lw=0.4, alpha=0.3)
            median = np.median([values[:length] for values in shown], axis=0)
            one.plot(median, color=colour, lw=1.4, label=f"{start:g} ({len(shown)})")
    axes[0, 0].set_ylabel("training loss")
    axes[0, 1].set_ylabel("$\\eta\\lambda$")
    axes[0, 0].set_yscale("log")
    axes[0, 0].set_ylim(1e-12, 1e5)
    axes[0, 1].set_ylim(0, 5.5)
    for edge in (2, 4):
        axes[0, 1].axhline(edge, color=GREY, lw=0.8, ls="--")
    for one in axes[0]:
        one.set_xlim(0, 60)
        one.set_xlabel("optimizer step")
    if groups:
        axes[0, 1].legend(
            title="$\\eta\\lambda$ at the start (seeds)", frameon=False, fontsize=7.5, ncols=2
        )
    else:
        axes[0, 0].text(0.5, 0.5, "no runs", transform=axes[0, 0].transAxes, ha="center")
    return drawn


EXPERIMENT = Experiment(
    config=Catapult,
    run=run,
    label=lambda config: f"{config.variant}-{config.start:g}",
    variants=VARIANTS,
    check=check,
    figure=figure,
    grid={"eta_lambda": RATES},
    small={"steps": 60},
    seconds={"small": 1.1} | {f"{fate_of(rate)}-{rate:g}": 1.2 for rate in RATES},
)
