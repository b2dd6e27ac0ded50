"""Synthetic losses: healthy ones, and ones in which something happens at a known step.

The logarithm of the loss is a curve plus noise; the noise of a run has a standard deviation of 1
to 10 %, drawn evenly on the logarithm, but in the three families that say otherwise, where it is as
large as the noise of small batches. Families in `UNSEEN` took no part in tuning.
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


def loud(rng: np.random.Generator) -> Array:
    """Stationary noise of .1 to 1, far beyond that of large batches."""
    return 10 * size(rng) * ar1(rng, float(rng.choice([0.0, 0.5, 0.9])))


def louder(rng: np.random.Generator) -> Array:
    """A power law whose noise grows along the run, by a factor of 3 to 30."""
    growth = rng.uniform(3, 30) ** (TIME / LENGTH)
    phi = float(rng.choice([0.0, 0.5, 0.9]))
    return power(rng) + np.minimum(size(rng) * growth, 1.0) * ar1(rng, phi)


def learned(rng: np.random.Generator) -> Array:
    """A tenfold fall within 100 to 800 steps, in which the noise grows by a factor of 3 to 10."""
    done = np.clip((TIME - rng.uniform(500, 3500)) / rng.uniform(100, 800), 0, 1)
    phi = float(rng.choice([0.0, 0.5, 0.9]))
    noise = np.minimum(size(rng) * rng.uniform(3, 10) ** done, 1.0)
    return noise * ar1(rng, phi) - math.log(10) * done


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
    "noise .1 to 1": loud,
    "noise that grows": louder,
    "fall, noise grows": learned,
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


def blow_up(rng: np.random.Generator, seed: int) -> tuple[Array, int]:
    """Growth from step 0 to 450 on with an e-fold of 20 to 100, and no further than by e⁵."""
    onset = int(rng.integers(0, 450))
    efold = 20 * 5 ** rng.uniform(0, 1)
    return ground(rng, seed) + np.clip((TIME - onset) / efold, 0, 5), onset


def fall_and_back(rng: np.random.Generator, seed: int) -> tuple[Array, int]:
    """A fall by e^1.5 within the first 50 to 150 steps, and in as many back to where it began."""
    turn = int(rng.integers(50, 150))
    curve = -1.5 * np.interp(TIME, [0, turn, 2 * turn], [0, 1, 0])
    place = (0, 1, 4)[seed % 3]  # grounds without a trend of their own
    return ground(rng, place) + curve, turn


def early_spike(rng: np.random.Generator, seed: int) -> tuple[Array, int]:
    """A threefold jump for 30 steps, from step 60 to 450 on."""
    onset = int(rng.integers(60, 450))
    held = (onset <= TIME) & (onset + 30 > TIME)
    return ground(rng, seed) + math.log(3) * held, onset


def no_number(rng: np.random.Generator, seed: int) -> Array:
    """Up to two values of 10 and 100 times the loss, then NaN or infinity for good."""
    logs = ground(rng, seed)
    huge = seed % 3
    logs[ONSET : ONSET + huge] += math.log(10) * np.arange(1, huge + 1)
    logs[ONSET + huge :] = math.nan if seed // 3 % 2 else math.inf
    return logs


def improvement(rng: np.random.Generator, seed: int) -> Array:
    """A tenfold fall within 1 to 500 steps; in every other run relative noise triples."""
    since, width = TIME - ONSET, 10 ** rng.uniform(0, 2.7)
    done = np.clip(since / width, 0, 1)
    noise = size(rng) * (ar1(rng, 0.9) if seed % 3 else ar1(rng, 0.0))
    return noise * (1 + 2 * done * (seed % 2)) - math.log(10) * done


def loud_improvement(rng: np.random.Generator, seed: int) -> Array:
    """The same fall while AR(1) noise of .9 grows from 5 to 50 %."""
    del seed
    done = np.clip((TIME - ONSET) / 10 ** rng.uniform(0, 2.7), 0, 1)
    return 0.05 * (1 + 9 * done) * ar1(rng, 0.9) - math.log(10) * done


Event = Callable[[np.random.Generator, int], Array | tuple[Array, int]]

#: Planted events: how to draw them, and within how many steps an alarm counts; the run ends there.
#: They are at `ONSET`, or where they say.
EVENTS: dict[str, tuple[Event, int]] = {
    "spike x3": (spike(3.0), 30),
    "spike x1.5": (spike(1.5), 30),
    "spike x3, early": (early_spike, 30),
    "divergence, e-fold 100": (divergence(100), 500),
    "divergence, e-fold 1,000": (divergence(1000), 2_500),
    "blow-up, early": (blow_up, 500),
    "fall and back, early": (fall_and_back, 500),
    "no number any more": (no_number, 30),
    "improvement x10": (improvement, 1_000),
    "improvement x10, noise too": (loud_improvement, 1_000),
}


def warm_restarts(rng: np.random.Generator) -> Array:
    """Cosine learning rates that start anew every 1,000 steps, and the loss with them."""
    rate = 0.5 * (1 + np.cos(np.pi * (TIME % 1000) / 1000))
    level = lfilter([0.05], [1, -0.95], rate, zi=[0.95])[0]
    return np.log(0.3 + 0.7 * level) - TIME / 3000 + 0.05 * ar1(rng, 0.0)


def other_data(rng: np.random.Generator) -> Array:
    """The loss of other data: 2.5 times as high, for good."""
    return size(rng) * ar1(rng, 0.5) + math.log(2.5) * (TIME >= 3000)


def mostly_learned(rng: np.random.Generator) -> Array:
    """A hundredfold fall of 95 % of the values, which become so one by one."""
    learned = rng.random(LENGTH) < np.clip((TIME - 1500) / 300, 0, 0.95)
    return 0.05 * ar1(rng, 0.0) - math.log(100) * learned


#: Nothing is wrong with these either, but the promise does not hold for them.
LIMITS: dict[str, Draw] = {
    "warm restarts, 4": warm_restarts,
    "other data, x2.5 for good": other_data,
    "95 % of values learned": mostly_learned,
    "AR .99, noise .2 to 1": lambda rng: 0.2 * 5 ** rng.uniform(0, 1) * ar1(rng, 0.99),
    "t3 through AR .9, 10 %": lambda rng: (
        0.1 * lfilter([1.0], [1.0, -0.9], math.sqrt(1 - 0.81) * t3(rng))
    ),
}


def healthy(family: str, seed: int) -> Array:
    """One healthy run: the loss, (LENGTH,)."""
    draw = (HEALTHY | UNSEEN | LIMITS)[family]
    place = list(HEALTHY | UNSEEN | LIMITS).index(family)
    return np.exp(draw(np.random.default_rng([seed, place])))


def planted(event: str, seed: int) -> tuple[Array, int]:
    """One run with an event, to the end of what counts: the loss, and the step of the event."""
    draw, within = EVENTS[event]
    drawn = draw(np.random.default_rng([seed, 100 + list(EVENTS).index(event)]), seed)
    logs, at = drawn if isinstance(drawn, tuple) else (drawn, ONSET)
    return np.exp(logs[: at + within]), at


def thinned(event: str, every: int, seed: int) -> tuple[Array, int]:
    """An event whose loss is logged every so many steps: the ground as it is, the event faster."""
    rng = np.random.default_rng([seed, 200 + every])
    since = (TIME - ONSET) * every + int(rng.integers(0, every))
    if event == "spike":
        curve = math.log(3) * ((since >= 0) & (since < 30))
        return np.exp((ground(rng, seed) + curve)[: ONSET + 30]), ONSET
    return np.exp((ground(rng, seed) + np.clip(since / 1000, 0, 5))[: ONSET + 1500]), ONSET
