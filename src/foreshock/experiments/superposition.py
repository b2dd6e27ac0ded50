"""Superposition: six features in two dimensions, learned by falling from polygon to polygon.

The toy model of superposition, f(x) = ReLU(W'Wx + b) with W of 2 by 6, on x = mu e_i: one feature
i at a time, uniform, with mu uniform in [0, 1]. Loss |f(x) - x|^2, full-batch gradient descent on
1,000 examples. The critical points of the *expected* loss are known (Chen et al. 2023,
arXiv 2310.06301): k features on a regular polygon of norm l and bias b, every other one silent, at
a cost of 1/18 if its bias is dead and of 1/18 - 1/144 with the bias 1/12. `superposition_levels`
computes them; training stays near one, falls, and stays near another.

``superposition``: as above. The nulls: ``dense``, all features at once, where nothing is won by
sharing and W'W becomes a projection on two dimensions, of squared norm 2, as in PCA;
``frozen``, learning rate 0.

What it cannot show: that a drop can be seen coming; that every plateau is one of those levels,
which are the regular polygons: there are other critical points, and slow drifts that look like
them; or anything of networks in which features have to be found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from foreshock.experiments.seeds import LEAST, all_of, spread
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
from foreshock.experiments.superposition_levels import (
    FEATURES,
    HIDDEN,
    RULE,
    drops,
    expected_loss,
    levels,
    nearest,
    plateaus,
)
from foreshock.probe import Probe
from foreshock.store import Run
from foreshock.types import Detector, Observable, OnAlarm

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Variant = Literal["superposition", "dense", "frozen"]
VARIANTS: tuple[str, ...] = get_args(Variant)
EVALUATE = 50


@dataclass(frozen=True)
class Superposition:
    """Configuration of one run.

    Args:
        variant: ``superposition``, or the null: ``dense``, ``frozen``.
        seed: Of examples and initial weights.
        samples: Examples.
        steps: Updates; each is an epoch.
        lr: Learning rate; 0 in the ``frozen`` null whatever is said here.
        scale: Standard deviation of the initial weights.
        bias_scale: Of the initial biases. With 0 none of them is ever dead.
        observables: A preset, or ``none``.
        every: Steps between measurements, 0 for the budget.
        budget: Share of wall time, where ``every`` is 0.
    """

    variant: Variant = "superposition"
    seed: int = 0
    samples: int = 1000
    steps: int = 4500
    lr: float = 0.05
    scale: float = 0.5
    bias_scale: float = 0.1
    observables: Preset = "standard"
    every: int = 0
    budget: float = 0.05

    def __post_init__(self) -> None:
        one_of(self, variant=VARIANTS)
        at_least(self, samples=8, steps=1, every=0, lr=0, scale=0, bias_scale=0)


class Toy(nn.Module):
    """ReLU(W'Wx + b)."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)  # (m, n), (n,)

    def forward(self, x: Tensor) -> Tensor:
        """Inputs ``(batch, n)`` to outputs ``(batch, n)``."""
        return torch.relu(x @ self.weight.T @ self.weight + self.bias)


def make_data(config: Superposition, stream: int = 0) -> Tensor:
    """Examples ``(samples, 6)``, which are also their targets.

    Args:
        config: Variant, number and seed.
        stream: 0 for the training examples, 1 for the held-out ones.

    Returns:
        One feature each, or all of them in the ``dense`` null.

    Examples:
        >>> x = make_data(Superposition(samples=100))
        >>> x.shape, int((x > 0).sum(1).max())
        (torch.Size([100, 6]), 1)
    """
    generator = torch.Generator().manual_seed(2 * config.seed + stream)
    mu = torch.rand(config.samples, FEATURES, generator=generator, dtype=torch.float64)
    if config.variant == "dense":
        return mu
    which = torch.randint(FEATURES, (config.samples,), generator=generator)
    return mu * torch.eye(FEATURES, dtype=mu.dtype)[which]


def make_model(config: Superposition) -> Toy:
    """Gaussian weights and biases of standard deviations ``scale`` and ``bias_scale``."""
    generator = torch.Generator().manual_seed(1_000_003 + config.seed)
    weight = torch.randn(HIDDEN, FEATURES, generator=generator, dtype=torch.float64)
    bias = torch.randn(FEATURES, generator=generator, dtype=torch.float64)
    return Toy(config.scale * weight, config.bias_scale * bias)


def losses_of(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Squared distance of every example, ``(batch,)``."""
    return (model(batch[0]) - batch[1]).square().sum(1)


def loss_of(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Squared distance, mean over examples."""
    return losses_of(model, batch).mean()


def run(
    config: Superposition,
    path: str | Path,
    *,
    observables: Iterable[str | Observable] | str | None = None,
    detectors: Iterable[str | Detector] = (),
    on_alarm: OnAlarm | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Run:
    """Descend with the monitor attached, beside the exact expected loss.

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
        >>> config = Superposition(steps=200, observables="none")
        >>> recorded = run(config, tempfile.mkdtemp() + "/a")
        >>> bool(outcome(recorded)["loss"] < recorded.series("loss").value[0])
        True
    """
    x, fresh = make_data(config), make_data(config, 1)
    data, model = (x, x), make_model(config)
    rate = 0.0 if config.variant == "frozen" else config.lr
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    record = Run.create(path, kind="superposition", config=asdict(config), seed=config.seed)
    record.declare("expected_loss", title="Expected loss of the weights, exactly")
    record.declare("loss_stderr", title="Standard error of the loss over the examples")
    watch = watch_training(
        config,
        record,
        model,
        optimizer,
        Probe(
            loss=loss_of,
            batches=[(part, part) for part in x.chunk(8)],
            heldout=(fresh, fresh),
            train=data,
            sampling="disjoint",
        ),
        observables=observables,
        detectors=detectors,
        on_alarm=on_alarm,
    )
    losses = np.empty(config.steps)
    with watch:
        for step in range(config.steps):
            each = losses_of(model, data)
            loss = each.mean()
            evaluated: dict[str, Any] = {}
            if step % EVALUATE == 0 or step == config.steps - 1:
                with torch.no_grad():
                    evaluated["loss_stderr"] = float(each.std() / math.sqrt(len(each)))
                    if config.variant != "dense":
                        evaluated["expected_loss"] = float(expected_loss(model.weight, model.bias))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[step] = loss.item()
            watch.log(loss=losses[step], **evaluated)
            progress(step + 1, config.steps)
        watch.flush()
        for number, step in enumerate(drops(losses), 1):
            milestone(record, f"drop{number}", RULE, step)
        norms = model.weight.detach().square().sum(0)
        conclude(
            record,
            {
                "loss": losses[-1],
                "expected_loss": evaluated.get("expected_loss"),
                "represented": int((norms > 0.25).sum()),
                "squared_norm": float(norms.sum()),
                "largest_rise": float(np.diff(losses).max()) if config.steps > 1 else 0.0,
                "plateaus": len(plateaus(losses)),
            },
        )
    return Run.open(path)


def plateaus_of(run: Run) -> list[tuple[float, float, float]]:
    """Loss, its standard error, and expected loss in the middle of every plateau of a run.

    Args:
        run: A run with one feature at a time.

    Returns:
        One row a plateau.
    """
    loss, exact, error = (run.series(n) for n in ("loss", "expected_loss", "loss_stderr"))
    told = []
    for start, stop in plateaus(loss.value):
        at = int(np.abs(exact.step - (start + stop - 1) / 2).argmin())
        told.append((loss.value[exact.step[at]], error.value[at], exact.value[at]))
    return [(float(a), float(b), float(c)) for a, b, c in told]


def check(runs: Sequence[Run]) -> list[Check]:
    """Plateaus against the levels, the descent against itself, and the nulls.

    Args:
        runs: Runs of this experiment.

    Returns:
        Lines for whatever there is.
    """
    done = [run for run in having(runs, variant="superposition") if outcome(run)]
    told = []
    if done:
        enough = len(done) >= LEAST
        rows = [row for run in done for row in plateaus_of(run)]
        far = [abs(loss - nearest(loss).loss) / error for loss, error, _ in rows]
        within = sum(one <= 4 for one in far)
        told.append(
            Check(
                "plateaus, sampled loss",
                "each within 4 standard errors of a level (Chen et al. 2023)",
                f"{within} of {len(rows)} plateaus of {len(done)} runs"
                + (f", largest {max(far):.1f}" if far else ""),
                False if within < len(rows) else (True if enough and rows else None),
            )
        )
        off = [abs(exact - nearest(exact).loss) for _, _, exact in rows]
        if off:
            close = sum(one < 0.001 for one in off)
            low, high = (min(r[2] for r in rows), max(r[2] for r in rows))
            chance = _covered(low, high, 0.001)
            told.append(
                Check(
                    "plateaus, expected loss",
                    "most within 0.001 of a level, which lie 0.007 and more apart",
                    f"{close} of {len(off)}, median {np.median(off):.4f}, largest "
                    f"{max(off):.4f}; {chance:.0%} of all losses between would be",
                    bool(close > len(off) / 2) if enough else None,
                )
            )
        ends = [f"{run.info['config']['seed']}: {outcome(run)['expected_loss']:.4f} "
                f"({nearest(outcome(run)['expected_loss']).name})" for run in done]  # fmt: skip
        told.append(Check("last expected loss, level", "shown", "; ".join(ends), None))
        counts = [outcome(run)["represented"] for run in done]
        told.append(all_of("superposed", "more than 2 features in 2 dimensions",
                           [count > HIDDEN for count in counts]))  # fmt: skip
        # Float64 sums of 1,000 terms below 1 round at 1e-13.
        told.append(all_of("descent", "the loss never rises by more than rounding (1e-12)",
                           [outcome(run)["largest_rise"] < 1e-12 for run in done]))  # fmt: skip
    dense = [outcome(run) for run in having(runs, variant="dense") if outcome(run)]
    if dense:
        norms = [one["squared_norm"] for one in dense]
        told.append(
            Check(
                "null: dense",
                "the squared norm of W is 2 within 0.3, a projection; four corners have 4",
                f"{spread(norms, 2)}, n = {len(norms)}",
                all(abs(one - 2) < 0.3 for one in norms) if len(norms) >= LEAST else None,
            )
        )
    still = [run for run in having(runs, variant="frozen") if outcome(run)]
    if still:
        flat = [bool(np.ptp(run.series("loss").value) == 0) for run in still]
        told.append(all_of("null: frozen", "the loss never moves", flat))
    return told


def _covered(low: float, high: float, margin: float) -> float:
    """Share of [low, high] that lies within a margin of a level."""
    if high <= low:
        return 1.0
    grid = np.linspace(low, high, 2001)
    return float(np.mean([abs(nearest(one).loss - one) < margin for one in grid]))


def figure(runs: Sequence[Run]) -> Figure:
    """Expected loss of every seed over the levels; and the sampled loss of phenomenon and nulls.

    Args:
        runs: Runs of this experiment.

    Returns:
        Two panels.
    """
    from foreshock.report.figures import GREY, PALETTE, paper_figure

    drawn, axes = paper_figure(1, 2, size=(8.2, 3.2))
    exact, every = axes[0]
    done = having(runs, variant="superposition")
    for level in levels():
        if level.corners > 3:
            exact.axhline(level.loss, color=GREY, lw=0.8, ls="--")
            exact.text(1.01, level.loss, level.name, fontsize=7.5, va="center", color=GREY,
                       transform=exact.get_yaxis_transform())  # fmt: skip
    for number, run in enumerate(done):
        if "expected_loss" in run.names():
            column = run.series("expected_loss")
            exact.plot(column.step, column.value, lw=1.1, color=PALETTE[number % len(PALETTE)],
                       alpha=0.9)  # fmt: skip
    exact.set_ylim(0.04, 0.16)
    exact.set_title(f"{len(done)} seeds; dashed: polygons of k corners", loc="left", fontsize=9)
    styles = {"superposition": PALETTE[0], "dense": PALETTE[1], "frozen": GREY}
    for variant, colour in styles.items():
        for number, run in enumerate(having(runs, variant=variant)):
            column = run.series("loss")
            label = variant if number == 0 else None
            every.plot(column.step + 1, column.value, color=colour, lw=0.9, alpha=0.7, label=label)
    every.set_xscale("log")
    every.set_ylabel("training loss, squared distance")
    exact.set_ylabel("expected loss, squared distance")
    for one in axes[0]:
        one.set_xlabel("epoch")
    if runs:
        every.legend(frameon=False, fontsize=7.5)
    else:
        every.text(0.5, 0.5, "no runs", transform=every.transAxes, ha="center")
    return drawn


EXPERIMENT = Experiment(
    config=Superposition,
    run=run,
    label=lambda config: config.variant,
    variants=VARIANTS,
    check=check,
    figure=figure,
    small={"steps": 400, "samples": 200},
    seconds={"small": 1.2} | dict.fromkeys(VARIANTS, 1.9),
)
