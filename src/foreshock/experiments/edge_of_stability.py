"""The edge of stability: gradient descent sharpens until eta lambda_max = 2, and then stays there.

Full-batch gradient descent on the Chebyshev polynomial of a degree at 20 points of [-1, 1], by a
tanh network 1-50-50-1, loss = 1/2 mean |f - y|^2. On a quadratic it would diverge from 2/eta on;
here lambda_max rises to 2/eta (progressive sharpening), then fluctuates about it while the loss
goes on falling, unevenly (Cohen et al. 2021, arXiv 2103.00065).

``edge``: as above. The nulls: ``mixture``, ten Gaussian clusters in 20 dimensions by the same
network and rate, which converges without ever coming there; ``frozen``, learning rate 0.

What it cannot show: that anything of it warns of something. lambda_max lies at the threshold for
thousands of steps in which nothing jumps. It speaks of full batches and plain rates: with small
batches training stays below 2/eta, and adaptive methods have another threshold, on the
preconditioned Hessian.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from foreshock.experiments.setup import (
    Check,
    Experiment,
    Preset,
    conclude,
    having,
    milestone,
    milestones_of,
    outcome,
    watch_training,
)
from foreshock.probe import Probe
from foreshock.stats.intervals import clopper_pearson
from foreshock.store import Run
from foreshock.types import Detector, Observable, OnAlarm

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Variant = Literal["edge", "mixture", "frozen"]
VARIANTS: tuple[str, ...] = get_args(Variant)
#: What is needed to see the edge, and no more.
CURVATURE = ("norms", "step_norm", "curvature")
ARRIVAL = "first of 2 consecutive measurements of the full batch's lambda_max at or above 2/eta"


@dataclass(frozen=True)
class EdgeOfStability:
    """Configuration of one run.

    Args:
        variant: ``edge``, or the null: ``mixture``, ``frozen``.
        degree: Of the Chebyshev polynomial; the mixture has none.
        seed: Of the initial weights, and of the mixture.
        steps: Updates.
        lr: Learning rate eta; 0 in the ``frozen`` null whatever is said here.
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
        if self.variant not in VARIANTS:
            raise ValueError(f"The `variant` must be one of {VARIANTS}. Got {self.variant!r}.")
        for field, least in (("degree", 1), ("steps", 0), ("every", 0), ("lr", 0)):
            if not getattr(self, field) >= least:
                got = getattr(self, field)
                raise ValueError(f"The `{field}` must be at least {least}. Got {got}.")

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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return nn.Sequential(
            nn.Linear(inputs, 50), nn.Tanh(), nn.Linear(50, 50), nn.Tanh(), nn.Linear(50, outputs)
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
    """The first of two consecutive measurements at or above the threshold.

    Args:
        steps: Of the measurements.
        ratio: eta lambda_max/2.

    Returns:
        The step, or ``None``.

    Examples:
        >>> arrival(np.arange(5), np.array([0.9, 1.1, 0.9, 1.0, 1.2]))
        3
    """
    above = ratio >= 1
    both = above[:-1] & above[1:]
    return int(steps[both.argmax()]) if both.any() else None


def check(runs: Sequence[Run]) -> list[Check]:
    """Arrival at the edge, the level after it, and the nulls that never come there.

    Args:
        runs: Runs of this experiment.

    Returns:
        One line for each degree and arm, one for each null.
    """
    told = []
    for degree in (3, 4, 5):
        found = map(outcome, having(runs, variant="edge", degree=degree))
        numbers = [n for n in found if n.get("largest")]
        if not numbers:
            continue
        medians = [n["after_median"] for n in numbers if n["after_median"] is not None]
        good = sum(0.95 <= m <= 1.05 for m in medians)
        spread = f", medians {min(medians):.3f} to {max(medians):.3f}" if medians else ""
        told.append(
            Check(
                f"edge, degree {degree}",
                "eta lambda_max/2 has a median in [.95, 1.05] after arrival",
                f"{good} of {len(numbers)} seeds, {len(medians)} arrived{spread}",
                good == len(numbers),
            )
        )
    for variant in ("mixture", "frozen"):
        found = [run for run in having(runs, variant=variant) if outcome(run).get("largest")]
        if found:
            arrived = sum("arrival" in milestones_of(run) for run in found)
            high = clopper_pearson(arrived, len(found))[1]
            largest = max(outcome(run)["largest"] for run in found)
            told.append(
                Check(
                    f"null: {variant}",
                    "never arrives",
                    f"{arrived} of {len(found)} arrived (below {high:.2f}), "
                    f"largest ratio {largest:.2f}",
                    arrived == 0,
                )
            )
    return told


def figure(runs: Sequence[Run]) -> Figure:
    """Sharpness over its threshold, and the loss, of the first seed of every variant.

    Args:
        runs: Runs of this experiment.

    Returns:
        Two panels beside each other; the shade holds the interval of each measurement.
    """
    from foreshock.report.figures import GREY, PALETTE, paper_figure

    drawn, axes = paper_figure(1, 2, size=(8.2, 3.0))
    sharp, loss = axes[0]
    chosen: dict[str, Run] = {}
    for run in sorted(runs, key=lambda one: one.info["config"]["seed"]):
        config = EdgeOfStability(**run.info["config"])
        degree = f", degree {config.degree}" if config.variant == "edge" else ""
        chosen.setdefault(config.variant + degree, run)
    colours = iter(PALETTE)
    for name, run in sorted(chosen.items()):
        config = EdgeOfStability(**run.info["config"])
        null = config.variant in ("mixture", "frozen")
        style = {"color": GREY if null else next(colours), "lw": 1.0, "label": name}
        if config.variant == "frozen":
            style["ls"] = ":"
        column = run.series("loss")
        loss.semilogy(column.step + 1, column.value, **style)
        if "hessian/lambda_max" in run.names():
            found = run.series("hessian/lambda_max")
            sharp.plot(found.step + 1, found.value / config.threshold, **style)
            low, high = found.low / config.threshold, found.high / config.threshold
            sharp.fill_between(found.step + 1, low, high, color=style["color"], alpha=0.2, lw=0)
    sharp.axhline(1, color="black", lw=0.8, ls="--")
    sharp.set_ylabel("$\\eta\\lambda_{max}/2$")
    loss.set_ylabel("training loss")
    for one in axes[0]:
        one.set_xscale("log")
        one.set_xlabel("optimizer step")
    if chosen:
        loss.legend(frameon=False, fontsize=7.5)
    else:
        sharp.text(0.5, 0.5, "no runs", transform=sharp.transAxes, ha="center")
    return drawn


EXPERIMENT = Experiment(
    config=EdgeOfStability,
    run=run,
    label=lambda c: f"{c.variant}-{c.degree}" if c.variant == "edge" else c.variant,
    variants=VARIANTS,
    check=check,
    figure=figure,
    small={"steps": 600},
    seconds={"": 5.0},
)
