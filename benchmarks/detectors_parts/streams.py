"""Synthetic losses: healthy ones, and ones in which something happens at a known step.

The logarithm of the loss is a curve plus noise; the noise of a run has a standard deviation of 1
to 10 %, drawn evenly on the logarithm. Families in `UNSEEN` took no part in tuning.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

Array = NDArray[np.float64]
Draw = Callable[[np.random.Generator], Array]

LENGTH = 5_000
#: Where something happens.
ONSET = 2_000
TIME = np.arange(LENGTH, dtype=np.float64)


def ar1(rng: np.random.Generator, phi: float) -> Array:
    """A stationary AR(1) series of unit variance."""
    shocks = rng.standard_normal(LENGTH) * math.sqrt(1 - phi * phi)
    shocks[0] /= math.sqrt(1 - phi * phi)
    return lfilter([1.0], [1.0, -phi], shocks)


def t3(rng: np.random.Generator) -> Array:
    """Independent values of Student's t with three degrees of freedom, of unit variance."""
    return rng.standard_t(3, LENGTH) / math.sqrt(3)


def size(rng: np.random.Generator) -> float:
    """Relative noise of a run, .01 to .1."""
    return 10 ** rng.uniform(-2, -1)


def exponential(rng: np.random.Generator) -> Array:
    """Exponential decay from 1 to .05, time constant 200 to 2,000."""
    tau = 200 * 10 ** rng.uniform(0, 1)
    return np.log(0.05 + 0.95 * np.exp(-TIME / tau))


def power(rng: np.random.Generator) -> Array:
    """Power-law decay with exponent .1 to .5."""
    return -rng.uniform(0.1, 0.5) * np.log1p(TIME / 50)


def drops(rng: np.random.Generator) -> Array:
    """A slow decay and three drops by a factor 1.3 to 3, as a learning-rate schedule makes."""
    curve = -0.1 * np.log1p(TIME / 50)
    for at in np.sort(rng.choice(np.arange(500, 4500), 3, replace=False)):
        width = rng.uniform(2, 50)
        curve -= math.log(rng.uniform(1.3, 3)) * (1 - np.exp(-np.clip(TIME - at, 0, None) / width))
    return curve


def plateaus(rng: np.random.Generator) -> Array:
    """Level, sigmoid descent by a factor 2 to 10, level, another descent, level."""
    curve = np.zeros(LENGTH)
    for at in (rng.uniform(800, 2000), rng.uniform(3000, 4200)):
        width = 10 ** rng.uniform(1, 2.3)
        curve -= math.log(rng.uniform(2, 10)) / (1 + np.exp(-(TIME - at) / width))
    return curve


def regimes(rng: np.random.Generator) -> Array:
    """Factor 1, 2 or 3 on the noise, anew after 200 to 1,000 steps."""
    factor, at = np.ones(LENGTH), 0
    while at < LENGTH:
        to = at + int(rng.integers(200, 1000))
        factor[at:to] = rng.integers(1, 4)
        at = to
    return factor


HEALTHY: dict[str, Draw] = {
    "white": lambda rng: size(rng) * ar1(rng, 0.0),
    "AR .5": lambda rng: size(rng) * ar1(rng, 0.5),
    "AR .9": lambda rng: size(rng) * ar1(rng, 0.9),
    "AR .99": lambda rng: size(rng) * ar1(rng, 0.99),
    "t3": lambda rng: size(rng) * t3(rng),
    "exponential + AR .9": lambda rng: exponential(rng) + size(rng) * ar1(rng, 0.9),
    "power law + AR .5": lambda rng: power(rng) + size(rng) * ar1(rng, 0.5),
    "LR drops + AR .5": lambda rng: drops(rng) + size(rng) * ar1(rng, 0.5),
    "plateaus + AR .9": lambda rng: plateaus(rng) + size(rng) * ar1(rng, 0.9),
}
UNSEEN: dict[str, Draw] = {
    "power law, noise regimes": lambda rng: (
        power(rng) + size(rng) * regimes(rng) * ar1(rng, 0.5) / 2
    ),
    "LR drops + t3": lambda rng: drops(rng) + size(rng) * t3(rng),
}

#: What an event is planted in, in turn.
GROUNDS = ("white", "AR .9", "exponential + AR .9", "power law + AR .5", "t3")


def ground(rng: np.random.Generator, seed: int) -> Array:
    """The healthy run that something is planted in."""
    return HEALTHY[GROUNDS[seed % len(GROUNDS)]](rng)


def spike(factor: float) -> Callable[[np.random.Generator, int], Array]:
    """A jump: every other one holds for 30 steps, the rest decay with a time constant of 10."""

    def draw(rng: np.random.Generator, seed: int) -> Array:
        since = TIME - ONSET
        held = (since >= 0) & (since < 30)
        decaying = np.where(since >= 0, np.exp(-np.clip(since, 0, None) / 10), 0.0)
        share = held if seed // len(GROUNDS) % 2 else decaying
        return ground(rng, seed) + np.log1p((factor - 1) * share)

    return draw


def divergence(efold: float) -> Callable[[np.random.Generator, int], Array]:
    """Exponential growth that does not end."""
    return lambda rng, seed: ground(rng, seed) + np.clip(TIME - ONSET, 0, None) / efold


def improvement(rng: np.random.Generator, seed: int) -> Array:
    """A fall by a factor of ten within 1 to 50 steps; in every other run relative noise triples."""
    since, width = TIME - ONSET, 10 ** rng.uniform(0, 1.7)
    noise = size(rng) * (ar1(rng, 0.9) if seed % 3 else ar1(rng, 0.0))
    if seed % 2:
        noise = np.where(since >= 0, 3.0, 1.0) * noise
    return noise - math.log(10) * np.clip(since / width, 0, 1)


#: Planted events: how to draw them, and within how many steps an alarm counts; the run ends there.
EVENTS: dict[str, tuple[Callable[[np.random.Generator, int], Array], int]] = {
    "spike x3": (spike(3.0), 30),
    "spike x1.5": (spike(1.5), 30),
    "divergence, e-fold 100": (divergence(100), 500),
    "divergence, e-fold 1,000": (divergence(1000), 2_500),
    "improvement x10": (improvement, 500),
}


def healthy(family: str, seed: int) -> Array:
    """One healthy run: the loss, (LENGTH,)."""
    draw = (HEALTHY | UNSEEN)[family]
    place = list(HEALTHY | UNSEEN).index(family)
    return np.exp(draw(np.random.default_rng([seed, place])))


def planted(event: str, seed: int) -> Array:
    """One run with an event at `ONSET`: the loss, to the end of what counts."""
    draw, within = EVENTS[event]
    rng = np.random.default_rng([seed, 100 + list(EVENTS).index(event)])
    return np.exp(draw(rng, seed)[: ONSET + within])
