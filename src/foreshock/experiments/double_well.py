r"""Kramers: how long a particle takes to leave a well, at several temperatures.

dx = -V'(x) dt + sqrt(2 D) dW in V = x^4/4 - x^2/2, from the bottom at -1 until it first reaches the
other one at +1. The barrier is 1/4. The mean time is a double integral and known exactly at every
D; the formula of Eyring and Kramers is its limit for barriers that are high against D, so a
precise measurement must lie on the integral and exclude the formula.

The null ``high`` has a barrier eight times as high and is watched exactly as long: nobody may get
across, and what can be said is an upper end. It is a run with censoring only.

What it shows: that our simulators escape at the exact rate, and by how much the formula misses at
a finite barrier (10.7 % at a barrier of 4 D). What it cannot show: that training is such a
particle; no network has one coordinate, one barrier, or noise that is known and constant.

Sources: H. A. Kramers, Physica 7, 284 (1940); P. Hanggi, P. Talkner and M. Borkovec, Rev. Mod.
Phys. 62, 251 (1990).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch

from foreshock.experiments.seeds import LEAST, all_of
from foreshock.experiments.setup import Check, Experiment, at_least, conclude, having, one_of
from foreshock.report import paper_figure
from foreshock.report.figures import GREY, PALETTE
from foreshock.simulators.eyring_kramers import eyring_kramers_rate, finite_barrier_ratio
from foreshock.simulators.passage import PassageTimes
from foreshock.simulators.passage_estimates import mean_passage_time, survival_curve
from foreshock.simulators.worlds.double_well_escape import Well, passage
from foreshock.stats.intervals import t_quantile
from foreshock.store import Run
from foreshock.types import Estimate, Flag

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Variant = Literal["escape", "high"]
#: Barrier of each variant.
BARRIERS = {"escape": 0.25, "high": 2.0}
#: Temperatures; 1/16 is a quarter of the barrier.
TEMPERATURES = (0.05, 0.0625, 0.08, 0.1)
#: From then on the rate counts as constant: ten relaxation times 1/|V''(0)| on the barrier.
SETTLED = 10.0


@dataclass(frozen=True)
class DoubleWell:
    """Configuration of one run: particles at each of `TEMPERATURES`.

    Args:
        variant: ``escape``, or the null ``high``.
        seed: Seed of all noise.
        particles: How many at each temperature.
        dt: Step of Euler-Maruyama. At 0.02 its rates are 0.5 % too high, at every temperature.
        span: How long is watched, in exact mean times of ``escape``; later arrivals are censored.
    """

    variant: Variant = "escape"
    seed: int = 0
    particles: int = 500
    dt: float = 0.02
    span: float = 1.5

    def __post_init__(self) -> None:
        one_of(self, variant=BARRIERS)
        at_least(self, particles=20)
        if not 0 < self.dt <= 0.05:
            raise ValueError(
                "The `dt` of `DoubleWell` must be positive and at most 0.05, where Euler's step "
                f"makes rates 1.4 % too high. Got {self.dt}."
            )
        if not 0.5 <= self.span <= 10:
            raise ValueError(
                f"The `span` of `DoubleWell` must be 0.5 to 10 mean times. Got {self.span}."
            )

    @property
    def well(self) -> Well:
        """V up to a constant, b (x^2 - 1)^2; b is higher in the null."""
        return Well(BARRIERS[self.variant], self.particles, self.dt)

    def steps(self, temperature: float) -> int:
        """Steps that are watched, the same for both variants."""
        watched = Well(BARRIERS["escape"], self.particles, self.dt)
        return round(self.span * watched.exact_passage(temperature) / self.dt)


def rate_of(found: PassageTimes) -> Estimate:
    """1/mean passage time; without an arrival 0, with an upper end that holds.

    Args:
        found: The times.

    Returns:
        The rate, 1/time.

    Examples:
        >>> never = PassageTimes(np.full(100, 30.0), np.full(100, -1), 30.0)
        >>> round(rate_of(never).high, 5)  # 3.69 events at most, over a time of 3,000
        0.00123
    """
    if found.events == 0 and not found.lost:
        # Garwood's upper end for no event, two-sided: -log(0.025).
        high = -math.log(0.025) / found.exposure
        reason = f"None of {len(found.times)} particles arrived."
        return Estimate(0.0, 0.0, high, n=0, flags=Flag.UNRESOLVED, reason=reason)
    mean = mean_passage_time(found, exponential_after=SETTLED)
    if not mean.resolved:
        return Estimate.missing(mean.reason)
    return Estimate(1 / mean.value, 1 / mean.high, 1 / mean.low, n=mean.n)


def run(
    config: DoubleWell,
    path: str | Path,
    *,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Run:
    """Let particles escape at every temperature, and compare with the exact rate.

    Row k of the run is the k-th of `TEMPERATURES`.

    Args:
        config: What to simulate.
        path: Folder of the run.
        progress: Called with the steps done and their number.

    Returns:
        The run, closed and opened again for reading.

    Examples:
        >>> import tempfile
        >>> config = DoubleWell("high", particles=20, dt=0.05, span=0.5)
        >>> recorded = run(config, tempfile.mkdtemp() + "/a")
        >>> recorded.series("escape/arrived").value.tolist()
        [0.0, 0.0, 0.0, 0.0]
    """
    well, b = config.well, BARRIERS[config.variant]
    generator = torch.Generator().manual_seed(config.seed)
    counts = [config.steps(t) for t in TEMPERATURES]
    record = Run.create(path, kind="double_well", config=asdict(config), seed=config.seed)
    at = "row k is the k-th temperature"
    for name, title in {
        "escape/temperature": "Temperature D",
        "escape/rate": "Escape rate, measured, 1/time",
        "escape/exact": "Escape rate, exact quadrature, 1/time",
        "escape/kramers": "Escape rate, Eyring-Kramers, 1/time",
        "escape/arrived": "Share of the particles that arrived",
    }.items():
        record.declare(name, title=title, taken_at=at)
    rates = []
    with record:
        for row, (t, steps) in enumerate(zip(TEMPERATURES, counts, strict=True)):
            before = sum(counts[:row])

            def move(done: int, total: int, before: int = before) -> None:
                progress(before + done, sum(counts))

            found = passage(well, t, steps, generator, move)
            rates.append(rate_of(found))
            record.append(
                row,
                {
                    "escape/temperature": Estimate.exact(t),
                    "escape/rate": rates[-1],
                    "escape/exact": Estimate.exact(1 / well.exact_passage(t)),
                    "escape/kramers": Estimate.exact(eyring_kramers_rate(8 * b, 4 * b, b, t)),
                    "escape/arrived": Estimate.plain(
                        1 - survival_curve(found, [found.horizon])[0].value
                    ),
                },
            )
        progress(sum(counts), sum(counts))
        conclude(record, {"slope": slope([r.value for r in rates])})
    return Run.open(path)


def slope(rates: Sequence[float]) -> float | None:
    """Least-squares slope of log rate against 1/D; minus the barrier where that is high.

    Args:
        rates: One at each of `TEMPERATURES`.

    Returns:
        The slope; ``None`` if a rate is not positive.

    Examples:
        >>> round(slope(np.exp(-0.25 / np.array(TEMPERATURES))), 6)
        -0.25
    """
    if not all(rate > 0 for rate in rates):
        return None
    return float(np.polyfit(1 / np.array(TEMPERATURES), np.log(rates), 1)[0])


def _pooled(runs: Sequence[Run]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean rate over seeds, its standard error, and the exact rate, at each temperature.

    Over three seeds and more the error is that of the spread between them, else the intervals'.

    Args:
        runs: Of the variant ``escape``.

    Returns:
        Three times (m,).
    """
    series = [run.series("escape/rate") for run in runs]
    rates = np.array([s.value for s in series])
    exact = runs[0].series("escape/exact").value
    if len(runs) >= 3:
        return rates.mean(0), rates.std(0, ddof=1) / math.sqrt(len(runs)), exact
    widths = np.array([s.high - s.low for s in series]) / (2 * 1.96)
    return rates.mean(0), np.sqrt((widths**2).sum(0)) / len(runs), exact


def check(runs: Sequence[Run]) -> list[Check]:
    """Rates against the quadrature, their slope, the finite-barrier ratio, and the null.

    Args:
        runs: Any runs of this experiment; those watched for less time than by default are left out.

    Returns:
        One line a temperature, the slope, the ratio and the null.
    """
    runs = [run for run in having(runs) if run.info["config"]["span"] >= DoubleWell().span]
    escapes = having(runs, variant="escape")
    found = []
    pooled = _pooled(escapes) if escapes else None
    for row, t in enumerate(TEMPERATURES):
        expected = "within 3 standard errors of the exact quadrature"
        if pooled is None:
            found.append(Check(f"rate at D = {t:g}", expected, "no runs", None))
            continue
        rate, error, exact = (float(one[row]) for one in pooled)
        z = (rate - exact) / error if error else math.inf
        told = f"{rate:.5f} ± {error:.5f} against {exact:.5f}, z = {z:+.1f}, n = {len(escapes)}"
        holds = abs(z) < 3 if len(escapes) >= LEAST else None
        found.append(Check(f"rate at D = {t:g}", expected, told, holds))
    slopes = [
        s for run in escapes if (s := slope(run.series("escape/rate").value.tolist())) is not None
    ]
    expected, told, holds = "within 5 % of the exact one's; the barrier is 0.25", "no runs", None
    if pooled is not None and slopes:
        exact, mean = slope(pooled[2].tolist()), float(np.mean(slopes))
        assert exact is not None
        half = (
            t_quantile(len(slopes) - 1) * np.std(slopes, ddof=1) / math.sqrt(len(slopes))
            if (len(slopes) > 1)
            else math.nan
        )
        told = f"{mean:.4f} ± {half:.4f} against {exact:.4f} (n = {len(slopes)})"

        # One run's slope has a standard error of 4 %: only several decide.
        holds = abs(mean / exact - 1) < 0.05 if len(slopes) >= LEAST else None
    found.append(Check("slope of log rate against 1/D", expected, told, holds))
    ratio = kramers_ratio(0.0625)
    found.append(
        Check(
            "Eyring-Kramers over exact hopping rate at a barrier of 4 D",
            "1.107",
            f"{ratio:.4f} (two quadratures, no sampling)",
            abs(ratio - 1.107) < 5e-4,
        )
    )
    nulls = having(runs, variant="high")
    arrived = [float(run.series("escape/arrived").value.max()) for run in nulls]
    none = [not arrival for arrival in arrived]
    found.append(all_of("high barrier", "nobody arrives in any run", none))
    return found


def kramers_ratio(temperature: float) -> float:
    """Eyring-Kramers rate of hopping over the exact one, in V.

    Args:
        temperature: D.

    Returns:
        The ratio; it falls to 1 for high barriers.

    Examples:
        >>> round(kramers_ratio(0.0625), 3), round(kramers_ratio(0.25 / 20), 2)
        (1.107, 1.02)
    """
    b = BARRIERS["escape"]
    return finite_barrier_ratio(Well(b, 1, 1.0).energy, temperature, -1.0, 0.0, 8 * b, 4 * b)


def figure(runs: Sequence[Run]) -> Figure:
    """Rates against 1/D on the exact curve, and measured over exact.

    Args:
        runs: Any runs of this experiment.

    Returns:
        Two panels.
    """
    drawn, axes = paper_figure(1, 2, size=(7.4, 3.0))
    left, right = axes[0]
    b = BARRIERS["escape"]
    fine = np.linspace(0.045, 0.11, 30)
    exact = np.array([1 / Well(b, 1, 1.0).exact_passage(t) for t in fine])
    kramers = np.array([eyring_kramers_rate(8 * b, 4 * b, b, t) for t in fine])
    left.semilogy(1 / fine, exact, color=GREY, lw=1.5, label="exact quadrature")
    left.semilogy(1 / fine, kramers, color=PALETTE[1], lw=1.2, ls="--", label="Eyring-Kramers")
    right.axhline(1, color=GREY, lw=1.5)
    right.plot(1 / fine, kramers / exact, color=PALETTE[1], lw=1.2, ls="--")
    places = 1 / np.array(TEMPERATURES)
    escapes, nulls = having(runs, variant="escape"), having(runs, variant="high")
    if escapes:
        rate, error, truth = _pooled(escapes)
        for axes_, scale in ((left, 1.0), (right, truth)):
            axes_.errorbar(
                places, rate / scale, 1.96 * error / scale, fmt="o", ms=4, lw=1.2,
                color=PALETTE[0], label=f"measured, 95 % (seeds: {len(escapes)})",
            )  # fmt: skip
        for run in escapes:
            right.plot(places, run.series("escape/rate").value / truth, ".", ms=2.5, color=GREY)
    if nulls:
        high = np.min([run.series("escape/rate").high for run in nulls], axis=0)
        left.plot(places, high, "v", ms=4, color=PALETTE[2], label="null: upper end, no arrival")
    if not runs:
        right.text(0.5, 0.9, "no runs", ha="center", transform=right.transAxes, color=GREY)
    left.set_ylabel("escape rate, 1/time")
    right.set_ylabel("rate over the exact one")
    for one in (left, right):
        one.set_xlabel("1/D")
    left.legend(frameon=False, fontsize=7)
    return drawn


EXPERIMENT = Experiment(
    config=DoubleWell,
    run=run,
    label=lambda config: config.variant,
    variants=get_args(Variant),
    check=check,
    figure=figure,
    small={"particles": 50, "dt": 0.05, "span": 0.5},
    seconds={"small": 0.61, "escape": 5.1, "high": 4.4},
)
