r"""Learning rate, diffusion and entropy weight as functions of time, published and corrected.

A schedule is a frozen value that is called with a time and returns a float. Sets of three are in
`foreshock.simulators.named_schedules`: `published_schedules` are those of the text of the document
"fokker_planck", `published_code_schedules` those of its code; `corrected_schedules` keep the
learning rate and replace the two that defeat their own purpose:

| | published | corrected | why |
|---|---|---|---|
| rate | eta_0 / (1 + t/tau) | the same | |
| entropy weight | beta / eta(t); code: constant | constant | eta multiplies both terms already |
| diffusion | D_0 exp(-t/tau_D) | eta(t) c / log(e + s(t)) | its integral is finite: it freezes |

s(t) = int_0^t eta, the time that the particles feel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from foreshock.simulators.door import positive


class Schedule(Protocol):
    """Anything that maps a time to a number."""

    def __call__(self, t: float) -> float:
        """The value at time t."""
        ...


class Clock(Protocol):
    """A schedule whose integral is known: the time that particles of this mobility feel."""

    def integral(self, t: float) -> float:
        """The integral from 0 to t."""
        ...


@dataclass(frozen=True)
class Constant:
    """One value for all times.

    Args:
        value: The value, at least 0.

    Raises:
        ValueError: If it is negative or not finite.

    Examples:
        >>> Constant(0.1)(5.0)
        0.1
    """

    value: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.value) and self.value >= 0):
            raise ValueError(
                f"The `value` of `Constant` must be finite and at least 0. Got {self.value}."
            )

    def __call__(self, t: float) -> float:
        """The value."""
        return self.value

    def integral(self, t: float) -> float:
        """The integral from 0 to t."""
        return self.value * t


@dataclass(frozen=True)
class InverseTime:
    """initial / (1 + t/tau): the learning rate of "fokker_planck".

    Its integral diverges as log t, so gradient descent goes on for ever, ever more slowly.

    Args:
        initial: Value at t = 0, positive.
        tau: Time after which it has halved, positive.

    Raises:
        ValueError: If one of them is not positive and finite.

    Examples:
        >>> InverseTime(0.01, 1000.0)(1000.0)
        0.005
    """

    initial: float
    tau: float

    def __post_init__(self) -> None:
        positive("InverseTime", initial=self.initial, tau=self.tau)

    def __call__(self, t: float) -> float:
        """The value at time t."""
        return self.initial / (1 + t / self.tau)

    def integral(self, t: float) -> float:
        """The integral from 0 to t, initial tau log(1 + t/tau)."""
        return self.initial * self.tau * math.log1p(t / self.tau)


@dataclass(frozen=True)
class Exponential:
    """initial * exp(-t/tau): the diffusion of "fokker_planck".

    Its integral over all times is initial * tau, so noise moves a particle by a finite distance
    however long it runs: sqrt(2 initial tau) per coordinate without drift. See `Logarithmic`.

    Args:
        initial: Value at t = 0, positive.
        tau: Time after which it is 1/e of that, positive.

    Raises:
        ValueError: If one of them is not positive and finite.

    Examples:
        >>> schedule = Exponential(1.0, 500.0)
        >>> round(schedule(500.0), 4), schedule.integral(math.inf)
        (0.3679, 500.0)
    """

    initial: float
    tau: float

    def __post_init__(self) -> None:
        positive("Exponential", initial=self.initial, tau=self.tau)

    def __call__(self, t: float) -> float:
        """The value at time t."""
        return self.initial * math.exp(-t / self.tau)

    def integral(self, t: float) -> float:
        """The integral from 0 to t, which may be infinite."""
        return self.initial * self.tau * -math.expm1(-t / self.tau)


@dataclass(frozen=True)
class Logarithmic:
    """depth / log(e + s(t)), s(t) = int_0^t clock: the slowest fall that simulated annealing needs.

    With T >= c / log s, and c at least the depth of the deepest minimum that is not global, the law
    of the particles concentrates on the global minima; with any faster fall it need not. What
    counts is int exp(-depth/T) ds, the number of escapes, which diverges: like log s at c = depth.
    The time s is that of the drift -grad L, int eta dt for a drift -eta grad L. With eta ~ 1/t it
    grows as log t; T = c / log t then falls as c/s, the number of escapes is finite, and it
    freezes.

    Args:
        depth: c, in units of the energy; also the value at t = 0. Positive.
        clock: eta(t), the mobility of the drift; 1 if left out.

    Raises:
        ValueError: If `depth` is not positive and finite.

    References:
        Hajek, Math. Oper. Res. 13, 311 (1988); Chiang, Hwang, Sheu, SIAM J. Control 25, 737 (1987).

    Examples:
        >>> Logarithmic(2.0)(0.0)
        2.0
        >>> eta = InverseTime(1.0, 10.0)  # s(1000) = 10 log 101 = 46
        >>> round(Logarithmic(2.0)(1000.0), 3), round(Logarithmic(2.0, eta)(1000.0), 3)
        (0.289, 0.514)
    """

    depth: float
    clock: Clock = Constant(1.0)  # frozen: shared by all without harm

    def __post_init__(self) -> None:
        positive("Logarithmic", depth=self.depth)

    def __call__(self, t: float) -> float:
        """The value at time t."""
        return self.depth / math.log(math.e + self.clock.integral(t))


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from `initial` at 0 to `final` at `horizon`, and `final` from there on.

    Args:
        initial: Value at t = 0, positive.
        final: Value at the end, at least 0.
        horizon: Time of the end, positive.

    Raises:
        ValueError: If one of them is out of range.

    Examples:
        >>> schedule = Cosine(1.0, 0.0, 10.0)
        >>> [round(schedule(t), 3) for t in (0.0, 5.0, 20.0)]
        [1.0, 0.5, 0.0]
    """

    initial: float
    final: float
    horizon: float

    def __post_init__(self) -> None:
        positive("Cosine", initial=self.initial, horizon=self.horizon)
        if not (math.isfinite(self.final) and self.final >= 0):
            raise ValueError(f"The `final` of `Cosine` must be at least 0. Got {self.final}.")

    def __call__(self, t: float) -> float:
        """The value at time t."""
        share = min(max(t / self.horizon, 0.0), 1.0)
        return self.final + (self.initial - self.final) * (1 + math.cos(math.pi * share)) / 2


@dataclass(frozen=True)
class OverRate:
    """beta / rate(t): the entropy weight of "fokker_planck".

    The document says that this keeps the ratio of entropy to loss constant. The drift
    -eta (grad L + lambda grad ...) multiplies both by eta, so the ratio is lambda itself, and this
    schedule makes it grow as 1/eta. What is constant is eta * lambda, the added diffusion. For a
    constant ratio use `Constant`.

    Args:
        beta: Numerator, at least 0.
        rate: Schedule of the learning rate.

    Raises:
        ValueError: If `beta` is negative or not finite.

    Examples:
        >>> schedule = OverRate(0.01, InverseTime(0.1, 10.0))
        >>> round(schedule(0.0), 6), round(schedule(10.0), 6)
        (0.1, 0.2)
    """

    beta: float
    rate: Schedule

    def __post_init__(self) -> None:
        if not (math.isfinite(self.beta) and self.beta >= 0):
            raise ValueError(f"The `beta` of `OverRate` must be at least 0. Got {self.beta}.")

    def __call__(self, t: float) -> float:
        """The value at time t."""
        return self.beta / self.rate(t)


@dataclass(frozen=True)
class Product:
    """first(t) * second(t): a diffusion eta(t) T(t) from a learning rate and a temperature.

    Args:
        first: One schedule.
        second: Another.

    Examples:
        >>> Product(Constant(0.1), Constant(3.0))(1.0)
        0.30000000000000004
    """

    first: Schedule
    second: Schedule

    def __call__(self, t: float) -> float:
        """The value at time t."""
        return self.first(t) * self.second(t)


@dataclass(frozen=True)
class Schedules:
    """The three schedules of an engine.

    Args:
        name: `published`, `corrected`, or your own.
        rate: eta(t), mobility: the drift is -eta grad L.
        diffusion: D(t), the coefficient of the isotropic noise sqrt(2 D) dW.
        entropy: lambda(t), the weight of the entropy in L - lambda H; it acts as an added
            diffusion eta lambda.
    """

    name: str
    rate: Schedule
    diffusion: Schedule
    entropy: Schedule

    def at(self, t: float) -> tuple[float, float, float]:
        """Rate, diffusion and entropy weight at time t, for a step of an engine.

        Args:
            t: Time.

        Returns:
            eta, D and lambda.

        Raises:
            ValueError: If the rate is not positive, or another not at least 0.
        """
        rate = self.rate(t)
        if not (math.isfinite(rate) and rate > 0):
            raise ValueError(
                f"The rate of the `schedules` of `Engine` must be positive. Got {rate} at t = {t:g}"
                ", where nothing would move any more: end the run before, or above 0."
            )
        diffusion, entropy = self.diffusion(t), self.entropy(t)
        for name, value in (("diffusion", diffusion), ("entropy", entropy)):
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(
                    f"The {name} of the `schedules` of `Engine` must be at least 0. "
                    f"Got {value} at t = {t:g}."
                )
        return rate, diffusion, entropy

    def temperature(self, t: float) -> float:
        """T(t) = D/eta + lambda, the temperature of the Gibbs law exp(-L/T) at frozen schedules."""
        return self.diffusion(t) / self.rate(t) + self.entropy(t)


def constant_schedules(
    rate: float = 1.0, diffusion: float = 1.0, entropy: float = 0.0
) -> Schedules:
    """Nothing changes with time: the setting in which stationary laws are exact.

    Args:
        rate: eta.
        diffusion: D.
        entropy: lambda.

    Returns:
        The schedules.

    Examples:
        >>> constant_schedules(rate=0.1, diffusion=0.2, entropy=1.0).temperature(0.0)
        3.0
    """
    positive("constant_schedules", rate=rate)
    return Schedules("constant", Constant(rate), Constant(diffusion), Constant(entropy))
