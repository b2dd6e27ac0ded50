"""The edge of stability: gradient descent sharpens until eta lambda_max = 2, and then stays there.

Full-batch gradient descent on the Chebyshev polynomial of a degree at 20 points of [-1, 1], by a
tanh network 1-50-50-1, loss = 1/2 mean |f - y|^2. On a quadratic it would diverge from 2/eta on;
here lambda_max rises to 2/eta (progressive sharpening), then fluctuates about it while the loss
goes on falling, unevenly (Cohen et al. 2021, arXiv 2103.00065).

``edge``: as above. The null ``frozen``: learning rate 0. ``mixture`` is another problem, ten normal
clusters in 20 dimensions by a network 20-50-50-10 at the same rate, which converges and as a rule
does not come there. Some networks lie above 2/eta before the first step; an arrival is a crossing
from below.

What it cannot show: that anything of it warns of something. lambda_max lies at the threshold for
thousands of steps in which nothing jumps. It speaks of full batches and plain rates: with small
batches training stays below 2/eta, and adaptive methods have another threshold, on the
preconditioned Hessian.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from foreshock.experiments.seeds import all_of
from foreshock.experiments.setup import (
    Check,
    Experiment,
    Preset,
    at_least,
    conclude,
    having,
    milestone,
    milestones_of,
    one_of,
    outcome,
    seeded,
    watch_training,
)
from foreshock.probe import Probe
from foreshock.store import Run
from foreshock.types import Detector, Observable, OnAlarm

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Variant = Literal["edge", "mixture", "frozen"]
VARIANTS: tuple[str, ...] = get_args(Variant)
#: What is needed to see the edge, and no more.
CURVATURE = ("norms", "step_norm", "curvature")
#: Degrees of the reference.
DEGREES = (3, 4, 5)
ARRIVAL = (
    "first of 2 consecutive measurements of the full batch's lambda_max at or above 2/eta, after "
    "one below it"
)


@dataclass(frozen=True)
class EdgeOfStability:
    """Configuration of one run.

    Args:
        variant: ``edge``, the other problem ``mixture``, or the null ``frozen``.
        degree: Of the Chebyshev polynomial; the mixture has none.
        seed: Of the initial weights, and of the mixture.
        steps: Updates.
        lr: Learning rate eta, positive; 0 in the ``frozen`` null whatever is said here.
        observables: ``curvature`` (with the free norms), a preset, or ``none``.
        every: Steps between measurements.
        budget: Share of wall time, where ``every`` is 0.
    """

    variant: Variant = "edge"
    degree: int = 4
    seed: int = 0
    steps: int = 8000
    lr: float = 0.2
    observables: Preset | Literal["curvature"] = "curvature"
    every: int = 20
    budget: float = 0.05

    def __post_init__(self) -> None:
        one_of(self, variant=VARIANTS)
        if not 0 < self.lr < math.inf:
            raise ValueError(
                "The `lr` of `EdgeOfStability` must be positive and finite: 2/lr is the threshold. "
                f"Got {self.lr}. For a rate of 0 use the `variant` 'frozen'."
            )
        at_least(self, degree=1, steps=0, every=0)

    @property
    def rate(self) -> float:
        """Learning rate that is used."""
        return 0.0 if self.variant == "frozen" else self.lr

    @property
    def threshold(self) -> float:
        """lambda_max above which a quadratic diverges, 2/eta; of ``frozen`` that of its twin."""
        return 2 / self.lr


def make_data(config: EdgeOfStability) -> tuple[Tensor, Tensor]:
    """Inputs ``(n, d)`` and targets ``(n, k)``.

    Args:
        config: Variant, degree and seed.

    Returns:
        20 points and T_degree of them; or 300 points of ten clusters and their one-hot labels.

    Examples:
        >>> x, y = make_data(EdgeOfStability(degree=2))
        >>> bool(torch.allclose(y, 2 * x**2 - 1, atol=1e-5))
        True
    """
    if config.variant == "mixture":
        generator = torch.Generator().manual_seed(config.seed)
        centres = 1.5 * torch.randn(10, 20, generator=generator)
        labels = torch.arange(300) % 10
        x = centres[labels] + 0.5 * torch.randn(300, 20, generator=generator)
        return x, functional.one_hot(labels, 10).float()
    x = torch.linspace(-1, 1, 20, dtype=torch.float64)[:, None]
    return x.float(), torch.cos(config.degree * torch.arccos(x)).float()


def make_model(config: EdgeOfStability) -> nn.Module:
    """Two tanh layers of 50, initialised from the seed without moving the global generator."""
    inputs, outputs = (20, 10) if config.variant == "mixture" else (1, 1)
    return seeded(
        config.seed,
        lambda: nn.Sequential(
            nn.Linear(inputs, 50), nn.Tanh(), nn.Linear(50, 50), nn.Tanh(), nn.Linear(50, outputs)
        ),
    )


def loss_of(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Half the squared distance, mean over examples."""
    return 0.5 * (model(batch[0]) - batch[1]).square().sum(1).mean()


def run(
    config: EdgeOfStability,
    path: str | Path,
    *,
    observables: Iterable[str | Observable] | str | None = None,
    detectors: Iterable[str | Detector] = (),
    on_alarm: OnAlarm | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Run:
    """Descend with the monitor attached, and record when the edge was reached.

    Args:
        config: What to train.
        path: Folder of the run.
        observables: Overrides those of the configuration.
        detectors: Rules to run live.
        on_alarm: Called with every alarm.
        progress: Called with the steps done and their number.

    Returns:
        The run, closed and opened again for reading.

    Examples:
        >>> import tempfile
        >>> recorded = run(EdgeOfStability(steps=40, every=10), tempfile.mkdtemp() + "/a")
        >>> recorded.series("hessian/lambda_max").step.tolist()
        [0, 10, 20, 30]
    """
    data, model = make_data(config), make_model(config)
    optimizer = torch.optim.SGD(model.parameters(), lr=config.rate)
    if observables is None and config.observables == "curvature":
        observables = CURVATURE
    record = Run.create(path, kind="edge_of_stability", config=asdict(config), seed=config.seed)
    watch = watch_training(
        config,
        record,
        model,
        optimizer,
        Probe(loss=loss_of, batches=[data], train=data, sampling="disjoint"),
        observables=observables,
        detectors=detectors,
        on_alarm=on_alarm,
    )
    with watch:
        for step in range(config.steps):
            loss = loss_of(model, data)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            watch.log(loss=loss)
            progress(step + 1, config.steps)
        watch.flush()
        steps, ratio = ratios(record, config)
        arrived = arrival(steps, ratio)
        milestone(record, "arrival", ARRIVAL, arrived)
        after = ratio[steps > arrived] if arrived is not None else np.empty(0)
        low, median, high = np.quantile(after, [0.05, 0.5, 0.95]) if len(after) else [None] * 3
        conclude(
            record,
            {
                "largest": float(ratio.max()) if len(ratio) else None,
                "after_low": low,
                "after_median": median,
                "after_high": high,
                "loss": record.series("loss").value[-1] if config.steps else None,
            },
        )
    return Run.open(path)


def ratios(record: Run, config: EdgeOfStability) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Ratio eta lambda_max/2 where it was measured.

    Args:
        record: A run.
        config: Its configuration.

    Returns:
        Steps and ratios; empty without curvature.
    """
    if "hessian/lambda_max" not in record.names():
        return np.empty(0, np.int64), np.empty(0)
    found = record.series("hessian/lambda_max")
    there = np.isfinite(found.value)
    return found.step[there], found.value[there] / config.threshold


def arrival(steps: NDArray[np.int64], ratio: NDArray[np.float64]) -> int | None:
    """The first of two consecutive measurements at or above the threshold, after one below it.

    A run that starts above it has not come there.

    Args:
        steps: Of the measurements.
        ratio: eta lambda_max/2.

    Returns:
        The step, or ``None``.

    Examples:
        >>> arrival(np.arange(5), np.array([0.9, 1.1, 0.9, 1.0, 1.2]))
        3
        >>> arrival(np.arange(5), np.array([1.2, 1.1, 0.9, 1.0, 1.2]))
        3
    """
    above = ratio >= 1
    both = above[:-1] & above[1:] & np.logical_or.accumulate(~above)[:-1]
    return int(steps[both.argmax()]) if both.any() else None


def check(runs: Sequence[Run]) -> list[Check]:
    """Arrival at the edge, the level after it, and what must not come there.

    Args:
        runs: Runs of this experiment; those of fewer updates than by default are left out.

    Returns:
        One line for each degree, one for each other variant, and whether ``mixture`` converges.
    """
    told = []
    seen = {run.info["config"]["degree"] for run in _full(runs, "edge")}
    for degree in sorted({*DEGREES, *seen}):
        found = [outcome(run)["after_median"] for run in _full(runs, "edge", degree)]
        line = all_of(
            f"edge, degree {degree}",
            "eta lambda_max/2 has a median in [.95, 1.05] after arrival",
            [m is not None and 0.95 <= m <= 1.05 for m in found],
        )
        medians = [m for m in found if m is not None]
        if medians:
            spread = f"{len(medians)} arrived, medians {min(medians):.3f} to {max(medians):.3f}"
            line = replace(line, measured=f"{line.measured}; {spread}")
        told.append(line)
    for variant in VARIANTS[1:]:
        mine = _full(runs, variant)
        silent = ["arrival" not in milestones_of(run) for run in mine]
        line = all_of(f"{variant}: silent", "never arrives", silent)
        if mine:
            largest = max(outcome(run)["largest"] for run in mine)
            line = replace(line, measured=f"{line.measured}; largest ratio {largest:.2f}")
        told.append(line)
    falls = [run.series("loss").value for run in _full(runs, "mixture")]
    name, expected = "mixture: converges", "to a hundredth of the first loss"
    told.append(all_of(name, expected, [bool(v[-1] < v[0] / 100) for v in falls]))
    return told


def _full(runs: Sequence[Run], variant: str, degree: int | None = None) -> list[Run]:
    """Finished runs with curvature and all the updates, of a variant."""
    fields = {"variant": variant} | ({} if degree is None else {"degree": degree})
    least = EdgeOfStability().steps
    return [
        run
        for run in having(runs, **fields)
        if outcome(run).get("largest") is not None and run.info["config"]["steps"] >= least
    ]


def figure(runs: Sequence[Run]) -> Figure:
    """Sharpness over its threshold, and the loss: every seed thin, the median of a variant thick.

    Args:
        runs: Runs of this experiment.

    Returns:
        Two panels beside each other.
    """
    from foreshock.report.figures import GREY, PALETTE, paper_figure

    drawn, axes = paper_figure(1, 2, size=(8.2, 3.0))
    sharp, loss = axes[0]
    groups: dict[str, list[Run]] = {}
    for run in having(runs):
        config = run.info["config"]
        degree = f", degree {config['degree']}" if config["variant"] == "edge" else ""
        groups.setdefault(config["variant"] + degree, []).append(run)
    colours = itertools.cycle(PALETTE)
    for name, found in sorted(groups.items()):
        colour = next(colours) if name.startswith("edge") else GREY
        style = {"color": colour, "ls": ":" if name == "frozen" else "-"}
        losses = [run.series("loss") for run in found]
        label = f"{name} ({len(found)})"
        _curves(loss, [(s.step, s.value) for s in losses], label, **style)
        ratio = [ratios(run, EdgeOfStability(**run.info["config"])) for run in found]
        _curves(sharp, ratio, label, **style)
    sharp.axhline(1, color="black", lw=0.8, ls="--")
    sharp.set_ylabel("$\\eta\\lambda_{max}/2$")
    loss.set_ylabel("training loss")
    loss.set_yscale("log")
    for one in axes[0]:
        one.set_xscale("log")
        one.set_xlabel("optimizer step")
    if groups:
        loss.legend(frameon=False, fontsize=7.5, title="seeds in brackets", title_fontsize=7.5)
    else:
        sharp.text(0.5, 0.5, "no runs", transform=sharp.transAxes, ha="center")
    return drawn


def _curves(
    axes: Axes,
    curves: Sequence[tuple[NDArray[np.int64], NDArray[np.float64]]],
    label: str,
    **style: Any,
) -> None:
    curves = [(step, value) for step, value in curves if len(step)]
    for step, value in curves if len(curves) > 1 else ():
        axes.plot(step + 1, value, lw=0.4, alpha=0.3, **style)
    if curves:
        length = min(len(step) for step, _ in curves)
        median = np.median([value[:length] for _, value in curves], axis=0)
        axes.plot(curves[0][0][:length] + 1, median, lw=1.2, label=label, **style)


EXPERIMENT = Experiment(
    config=EdgeOfStability,
    run=run,
    label=lambda c: f"{c.variant}-{c.degree}" if c.variant == "edge" else c.variant,
    variants=VARIANTS,
    check=check,
    figure=figure,
    grid={"degree": DEGREES},
    small={"steps": 600},
    seconds={
        "small": 1.3,
        "edge-3": 3.9,
        "edge-4": 4.1,
        "edge-5": 4.0,
        "mixture": 5.9,
        "frozen": 3.9,
    },
)
