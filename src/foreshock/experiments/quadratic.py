r"""SGD on a quadratic with known gradient noise: everything the monitor measures has a closed form.

L(w) = sum_i lambda_i w_i^2/2; an example adds -xi . w with xi ~ N(0, sigma^2 I), so a batch of B
has the gradient Lambda w - mean(xi), whose noise of variance s^2 = sigma^2/B a coordinate does not
depend on w. Every coordinate is an AR(1) chain, w <- (1 - eta lambda) w + eta noise, with

    Var w = eta s^2/(lambda (2 - eta lambda)),  E|grad L|^2 = eta s^2 sum lambda/(2 - eta lambda),
    C = E|grad L|^2/(d s^2) = mean eta lambda/(2 - eta lambda).

For small eta lambda the second is D Tr H, D = eta s^2/2: fluctuation and dissipation. So C at rest
is a statement about eta lambda alone (0.12 in ``stable``, 4.6 in ``edge``), none about learning.

``stable``: the largest eta lambda is 0.5. ``edge``: 1.95, where the steepest direction flips sign
at every step and D Tr H is far too small. ``frozen``, the null: learning rate 0; nothing moves, and
the monitor still measures the curvature and a C. Runs start from the stationary law, so there is
nothing to forget.

What it cannot show: that a network is a quadratic, or that its noise does not depend on w.

Sources: S. Mandt, M. Hoffman and D. Blei, JMLR 18 (2017); S. Yaida (2018, arXiv:1810.00004).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from foreshock.experiments.seeds import LEAST, all_of
from foreshock.experiments.setup import (
    Check,
    Experiment,
    Preset,
    at_least,
    conclude,
    having,
    one_of,
    outcome,
    watch_training,
)
from foreshock.probe import Probe
from foreshock.report import paper_figure
from foreshock.report.figures import GREY, PALETTE
from foreshock.simulators.exact_linear import chain_variance
from foreshock.stats.intervals import t_quantile
from foreshock.stats.sample import mean_interval
from foreshock.store import Run
from foreshock.types import Detector, Observable, OnAlarm

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
Variant = Literal["stable", "edge", "frozen"]
#: eta lambda_max of each variant; the largest curvature is 1, so it is the learning rate too.
RATES = {"stable": 0.5, "edge": 1.95, "frozen": 0.0}
#: Smallest over largest curvature: the slowest coordinate forgets within 20 steps when stable.
FLATTEST = 0.1


#: Means that are judged: five of ``stable``, and of ``edge`` those that are other numbers.
JUDGED = 9


@dataclass(frozen=True)
class Quadratic:
    """Configuration of one run.

    Args:
        variant: ``stable``, ``edge``, or the null ``frozen``.
        seed: Seed of start and noise.
        steps: Updates.
        dimension: d; curvatures are spaced evenly in their logarithm from 0.1 to 1.
        batch: B.
        noise: sigma, standard deviation of an example's gradient coordinate.
        observables: Preset of the monitor, or ``none`` to train without it.
        every: Measure every so many steps; 0 for the budget.
        budget: Share of wall time, where ``every`` is 0.
    """

    variant: Variant = "stable"
    seed: int = 0
    steps: int = 4000
    dimension: int = 10
    batch: int = 8
    noise: float = 1.0
    observables: Preset = "standard"
    every: int = 200
    budget: float = 0.05

    def __post_init__(self) -> None:
        one_of(self, variant=RATES)
        at_least(self, steps=3, dimension=2, batch=1, every=0)
        if not 0 < self.noise < math.inf:
            raise ValueError(
                f"The `noise` of `Quadratic` must be positive and finite. Got {self.noise}."
            )

    @property
    def rate(self) -> float:
        """Learning rate, eta."""
        return RATES[self.variant]

    @property
    def curvatures(self) -> Array:
        """(d,) lambda, ascending to 1."""
        return np.geomspace(FLATTEST, 1.0, self.dimension)

    @property
    def variance(self) -> float:
        """s^2, variance of a batch's gradient coordinate."""
        return self.noise**2 / self.batch


@dataclass(frozen=True)
class Exact:
    """Moments of the stationary chain.

    Args:
        variance: (d,) Var w.
        gradient: E|grad L|^2.
        c: Signal over noise, E|grad L|^2/(d s^2).
        continuum: D Tr H, what E|grad L|^2 is for small eta lambda.
        memory: Correlation of the steepest coordinate with itself a step later.
    """

    variance: Array
    gradient: float
    c: float
    continuum: float
    memory: float


def exact(config: Quadratic) -> Exact:
    """The closed forms of a variant that moves; of ``frozen``, those it starts from (``stable``).

    Args:
        config: The variant and its numbers.

    Returns:
        The moments.

    Examples:
        >>> found = exact(Quadratic("stable", dimension=2, batch=1))
        >>> found.variance.round(4), round(found.gradient, 4), round(found.continuum, 4)
        (array([2.5641, 0.3333]), 0.359, 0.275)
    """
    curvatures, rate = config.curvatures, config.rate or RATES["stable"]
    s2 = config.variance
    variance = chain_variance(rate, curvatures, rate**2 * s2 / 2)
    gradient = float((curvatures**2 * variance).sum())
    continuum = rate * s2 / 2 * float(curvatures.sum())
    memory = 1 - config.rate * curvatures[-1]
    return Exact(variance, gradient, gradient / (config.dimension * s2), continuum, float(memory))


class Bowl(nn.Module):
    """One loss an example: sum lambda w^2/2 - xi . w.

    Args:
        curvatures: (d,) lambda.
        start: (d,) The first w.
    """

    curvatures: Tensor

    def __init__(self, curvatures: Tensor, start: Tensor) -> None:
        super().__init__()
        self.register_buffer("curvatures", curvatures)
        self.weight = nn.Parameter(start.clone())

    def forward(self, noise: Tensor) -> Tensor:
        """Noise ``(n, d)`` to losses ``(n,)``."""
        return (self.curvatures * self.weight.square()).sum() / 2 - noise @ self.weight


def loss_of(model: Any, batch: Tensor) -> Tensor:
    """Mean loss of a batch."""
    return model(batch).mean()


def make_model(config: Quadratic) -> Bowl:
    """The bowl, its weights drawn from the stationary law."""
    generator = torch.Generator().manual_seed(config.seed)
    spread = torch.from_numpy(np.sqrt(exact(config).variance))
    start = spread * torch.randn(config.dimension, generator=generator, dtype=torch.float64)
    return Bowl(torch.from_numpy(config.curvatures), start)


def draw_batch(config: Quadratic, generator: torch.Generator) -> Tensor:
    """Noise of B examples, ``(B, d)``."""
    shape = (config.batch, config.dimension)
    return config.noise * torch.randn(shape, generator=generator, dtype=torch.float64)


def make_probe(config: Quadratic, *, batches: int = 8) -> Probe:
    """Fresh independent batches at every measurement, as training draws them."""

    def draw(step: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed((config.seed + 1) * 1_000_003 + step)
        return [draw_batch(config, generator) for _ in range(batches)]

    return Probe(loss=loss_of, batches=draw, sampling="independent")


def run(
    config: Quadratic,
    path: str | Path,
    *,
    observables: Iterable[str | Observable] | str | None = None,
    detectors: Iterable[str | Detector] = (),
    on_alarm: OnAlarm | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Run:
    """Run SGD with the monitor attached and conclude with moments over their exact values.

    Args:
        config: What to run.
        path: Folder of the run.
        observables: Overrides the preset of the configuration.
        detectors: Rules to run live.
        on_alarm: Called with every alarm.
        progress: Called with the steps done and their number.

    Returns:
        The run, closed and opened again for reading.

    Examples:
        >>> import tempfile
        >>> config = Quadratic("frozen", steps=20, observables="none")
        >>> recorded = run(config, tempfile.mkdtemp() + "/a")
        >>> outcome(recorded)["moved"]
        0.0
    """
    model, truth = make_model(config), exact(config)
    optimizer = torch.optim.SGD(model.parameters(), lr=config.rate)
    generator = torch.Generator().manual_seed(config.seed + 1_000_000)
    record = Run.create(path, kind="quadratic", config=asdict(config), seed=config.seed)
    watch = watch_training(
        config,
        record,
        model,
        optimizer,
        make_probe(config),
        observables=observables,
        detectors=detectors,
        on_alarm=on_alarm,
    )
    squares, products = np.zeros(config.dimension), np.zeros(config.dimension)
    before = start = model.weight.detach().numpy().copy()
    with watch:
        for step in range(config.steps):
            squares += before**2
            gradient = float(((config.curvatures * before) ** 2).sum())
            loss = loss_of(model, draw_batch(config, generator))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            after = model.weight.detach().numpy().copy()
            products += before * after
            before = after
            watch.log({"quadratic/gradient": gradient}, loss=loss)
            progress(step + 1, config.steps)
        watch.flush()
        variance = squares / config.steps
        seen = float((config.curvatures**2 * variance).sum())
        conclude(
            record,
            {
                "variance_ratio": float((variance / truth.variance).mean()),
                "gradient_ratio": seen / truth.gradient,
                "continuum_ratio": seen / truth.continuum,
                "c": seen / (config.dimension * config.variance),
                "memory": float(products[-1] / squares[-1]),
                "moved": float(np.abs(before - start).max()),
            },
        )
    return Run.open(path)


def check(runs: Sequence[Run]) -> list[Check]:
    """Moments against the exact chain, the monitor against both, and that the null does not move.

    Args:
        runs: Any runs of this experiment.

    Returns:
        The lines of each variant.
    """
    found = []
    for variant in ("stable", "edge"):
        mine = [run for run in having(runs, variant=variant) if outcome(run)]
        config = Quadratic(variant)  # type: ignore[arg-type]
        truths = [exact(Quadratic(**run.info["config"])) for run in mine]
        ends = [(outcome(run), truth) for run, truth in zip(mine, truths, strict=True)]
        watched = [
            (run, Quadratic(**run.info["config"]), truth)
            for run, truth in zip(mine, truths, strict=True)
            if "grad/signal" in run.names()
        ]
        # D Tr H over E|grad L|^2 and C are that moment times a constant, so not judged again.
        told = {
            "variance": [e["variance_ratio"] for e, _ in ends],
            "E|grad L|^2, and C with it,": [e["c"] / truth.c for e, truth in ends],
            "memory of the steepest direction": [e["memory"] / truth.memory for e, truth in ends],
            "the monitor's signal": [
                float(run.series("grad/signal").value.mean()) / truth.gradient
                for run, _, truth in watched
            ],
        }
        if variant == "stable":  # both variants draw the same noise
            told["the monitor's noise"] = [
                float(run.series("grad/noise").value.mean()) / (one.dimension * one.variance)
                for run, one, _ in watched
            ]
        for name, values in told.items():
            found.append(_agrees(f"{variant}: {name} over the exact one", values))
        edges = [
            config.rate * float(np.median(run.series("hessian/lambda_max").value)) / 2
            for run in mine
            if "hessian/lambda_max" in run.names()
        ]
        right = [abs(edge - config.rate / 2) < 1e-3 for edge in edges]
        name = f"{variant}: eta lambda_max/2 of the monitor"
        found.append(all_of(name, f"{config.rate / 2:g}, within 0.001", right))
    still = [outcome(run).get("moved") == 0 for run in having(runs, variant="frozen")]
    found.append(all_of("frozen: no weight moves", "by no bit", still))
    return found


def _agrees(name: str, values: list[float]) -> Check:
    """Whether the mean over seeds of measured over exact is 1 by Student's t, all lines at once."""
    expected = f"1; within Student's 95 % for all {JUDGED} such lines together (Bonferroni)"
    if len(values) < 2:
        return Check(name, expected, f"{len(values)} runs; 2 are needed", None)
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(len(values)))
    interval = mean_interval(values)
    measured = f"{mean:.4g} (95 %: {interval.low:.4g} to {interval.high:.4g}, n = {len(values)})"
    far = t_quantile(len(values) - 1, 1 - 0.05 / JUDGED) * error
    holds = bool(abs(mean - 1) <= far) if len(values) >= LEAST else None
    return Check(name, expected, measured, holds)


def figure(runs: Sequence[Run]) -> Figure:
    """Measured moments over exact ones, and |grad L|^2 in time with its levels.

    Args:
        runs: Any runs of this experiment, of the default sizes.

    Returns:
        Two panels.
    """
    drawn, axes = paper_figure(1, 2, size=(8.0, 3.0))
    left, right = axes[0]
    names = {
        "variance_ratio": "Var w",
        "gradient_ratio": "E|grad L|²",
        "continuum_ratio": "over D Tr H",
    }
    shades = {"stable": PALETTE[0], "edge": PALETTE[1], "frozen": GREY}
    for row, (variant, colour) in enumerate(list(shades.items())[:2]):
        ends = [end for run in having(runs, variant=variant) if (end := outcome(run))]
        for place, name in enumerate(names):
            values = [end[name] for end in ends]
            at = np.full(len(values), place + 0.24 * (row - 0.5))
            left.plot(at, values, ".", color=colour, ms=5, label=None if place else variant)
    truth = {v: exact(Quadratic(v)) for v in ("stable", "edge")}  # type: ignore[arg-type]
    left.axhline(1, color=GREY, lw=1)
    for row, (variant, one) in enumerate(truth.items()):
        place = 2 + 0.24 * (row - 0.5)
        ends = [place - 0.1, place + 0.1]
        left.plot(ends, [one.gradient / one.continuum] * 2, color=shades[variant], lw=1.2)
    left.set_xticks(range(3), list(names.values()))
    left.set_xlim(-0.5, 2.5)
    left.set_yscale("log")
    left.set_ylabel("measured over exact (bars: exact)")
    if runs:
        left.legend(frameon=False, fontsize=7, loc="upper left")
    for variant, colour in shades.items():
        for run in having(runs, variant=variant)[:1]:
            series = run.series("quadratic/gradient")
            right.semilogy(series.step, series.value, color=colour, lw=0.6, label=variant)
        if variant in truth:
            right.axhline(truth[variant].gradient, color=colour, lw=1.2, ls="--")
    right.set_xlabel("update")
    right.set_ylabel("|grad L|² (dashed: exact mean)")
    if right.get_legend_handles_labels()[0]:
        right.legend(frameon=False, fontsize=7)
    else:
        right.text(0.5, 0.5, "no runs", ha="center", transform=right.transAxes, color=GREY)
    return drawn


EXPERIMENT = Experiment(
    config=Quadratic,
    run=run,
    label=lambda config: config.variant,
    variants=get_args(Variant),
    check=check,
    figure=figure,
    small={"steps": 300, "every": 50},
    seconds={"small": 1.3} | dict.fromkeys(get_args(Variant), 1.9),
)
