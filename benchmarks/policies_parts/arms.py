"""Ways to train: schedules, policies, and placebos that measure like one and do nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from foreshock.estimators import Descent, GradientNoise
from foreshock.policies import (
    DescentMargin,
    Guarded,
    LangevinRate,
    LangevinReduce,
    NoiseScaleBatch,
    PhaseRate,
    PoissonRate,
    PublishedEarlyStop,
    TargetBatch,
    TurnsUp,
    WeightReset,
)
from foreshock.stats.published import c_langevin, c_signal, i_signal, p_signal
from foreshock.types import Estimate, Observable, Policy, Readings, SeriesInfo

BATCH = 64
#: Probe batches of a measurement. The documents name 20 and leave the price of a measurement out.
PROBES = 8
PUBLISHED = (
    "published/c_signal",
    "published/p_signal",
    "published/i_placeholder_signal",
    "published/c_langevin",
)


@dataclass
class Purse:
    """What is left of a run's budget, in units."""

    left: float


@dataclass(frozen=True)
class Paid:
    """An observable that takes its price from the purse, and measures nothing it cannot pay."""

    inner: Observable
    purse: Purse

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def series(self) -> tuple[SeriesInfo, ...]:
        return self.inner.series

    @property
    def needs(self) -> frozenset[str]:
        return self.inner.needs

    @property
    def price(self) -> float:
        return self.inner.price

    @property
    def stride(self) -> int:
        return self.inner.stride

    def init(self) -> Any:
        return self.inner.init()

    def update(self, state: Any, moment: Any) -> tuple[Any, Readings]:
        if self.purse.left < self.inner.price + 1:
            spent = Estimate.missing("The budget of the run is spent.")
            return state, Readings({info.name: spent for info in self.inner.series})
        self.purse.left -= self.inner.price
        return self.inner.update(state, moment)


@dataclass(frozen=True)
class Noise:
    """`GradientNoise`, and what the documents compute of the same gradients.

    |m|^2 = U + V/n is their plug-in signal; D of "langevin" is V/(2 d). ``trusting``: as written,
    without flags; otherwise each number carries the flags of the signal and the noise.
    """

    dimension: int
    trusting: bool
    inner: GradientNoise = field(default_factory=GradientNoise)
    name: str = "noise"
    stride: int = 0

    @property
    def price(self) -> float:
        return self.inner.price

    @property
    def needs(self) -> frozenset[str]:
        return self.inner.needs

    @property
    def series(self) -> tuple[SeriesInfo, ...]:
        return (*self.inner.series, *(SeriesInfo(name, name) for name in PUBLISHED))

    def init(self) -> Any:
        return self.inner.init()

    def update(self, state: Any, moment: Any) -> tuple[Any, Readings]:
        state, read = self.inner.update(state, moment)
        return state, replace(read, scalars={**read.scalars, **self._published(read)})

    def _published(self, read: Readings) -> dict[str, Estimate]:
        signal, noise = read.scalars["grad/signal"], read.scalars["grad/noise"]
        square, v = signal.value + noise.value / PROBES, noise.value
        if not (math.isfinite(square + v) and square >= 0 and v > 0):
            return {name: Estimate.missing("No finite signal and noise.") for name in PUBLISHED}
        # Two gradients in one dimension with this mean and variance, for the listing itself.
        half = math.sqrt(v / 2)
        c = c_signal(np.array([[math.sqrt(square) - half], [math.sqrt(square) + half]]))
        found = (c, p_signal(c), i_signal(p_signal(c)),
                 c_langevin(square, v / 2 / self.dimension, self.dimension))  # fmt: skip
        flags, why = signal.flags | noise.flags, signal.reason or noise.reason
        return {
            name: Estimate.plain(x)
            if self.trusting or not flags
            else replace(Estimate.plain(x), flags=flags, reason=why)
            for name, x in zip(PUBLISHED, found, strict=True)
        }


@dataclass(frozen=True)
class Arm:
    """A way to train.

    Args:
        name: Of the row.
        policy: From the seed to a policy on a constant rate; none for a schedule or a placebo.
        measures: ``noise``, ``trusted noise`` (published numbers without flags), ``descent``.
        cosine: A cosine schedule to zero in place of a constant rate.
    """

    name: str
    policy: Callable[[int], Policy] | None = None
    measures: str = ""
    cosine: bool = False

    @property
    def placebo(self) -> str:
        """The arm that measures the same and does nothing; empty if nothing is measured."""
        return {"": "", "descent": "placebo_descent"}.get(self.measures, "placebo_noise")


def observable(measures: str, dimension: int) -> Observable | None:
    """What an arm measures."""
    if measures == "descent":
        return Descent(window=16)
    return Noise(dimension, measures == "trusted noise") if measures else None


WRITTEN, FLAGGED = "trusted noise", "noise"
ARMS = {
    arm.name: arm
    for arm in (
        Arm("constant"),
        Arm("cosine", cosine=True),
        Arm("placebo_noise", measures=FLAGGED),
        Arm("placebo_descent", measures="descent"),
        Arm("phase_rate as written", lambda _: PhaseRate(), WRITTEN),
        Arm("phase_rate", lambda _: PhaseRate(), FLAGGED),
        Arm("langevin_rate as written", lambda _: LangevinRate(), WRITTEN),
        Arm("langevin_rate", lambda _: LangevinRate(), FLAGGED),
        Arm("langevin_reduce as written", lambda _: LangevinReduce(), WRITTEN),
        Arm("langevin_reduce", lambda _: LangevinReduce(), FLAGGED),
        Arm("descent_margin", lambda _: DescentMargin(), "descent"),
        Arm("early_stop as written", lambda _: PublishedEarlyStop(), WRITTEN),
        # Two standard deviations: at the seven of its default it never fires on runs this short.
        Arm("reset_when_c_turns", lambda _: Guarded(
            WeightReset(on=TurnsUp("published/c_signal", 0.5, noise=2.0)), most=5), WRITTEN),
        Arm("reset_poisson",
            lambda seed: Guarded(WeightReset(on=PoissonRate(0.003, seed=seed)), most=5)),
        Arm("target_batch", lambda _: TargetBatch(BATCH, most=1024), FLAGGED),
        Arm("noise_scale_batch", lambda _: NoiseScaleBatch(BATCH, most=1024), FLAGGED),
    )
}  # fmt: skip
