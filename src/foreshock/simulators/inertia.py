r"""Motion with inertia: underdamped Langevin dynamics (BAOAB), and gradient descent with momentum.

dx = v dt, m dv = -grad U dt - gamma m v dt + sqrt(2 gamma m T) dW. The Gibbs law is
exp(-U/T) times a Gaussian of variance T/m for every velocity. For large friction gamma the position
moves as overdamped Langevin dynamics with the mobility 1 / (gamma m).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from foreshock.simulators.curvature import largest_curvature
from foreshock.simulators.door import positive
from foreshock.simulators.dynamics import require_temperature
from foreshock.simulators.potentials import Potential
from foreshock.simulators.stepping import State, refuse_unstable, standard_normal


@dataclass(frozen=True)
class BAOAB:
    r"""Underdamped Langevin dynamics, split as kick, drift, friction and noise, drift, kick.

    One gradient a step (the state keeps the last one). Averages of positions are second order in
    dt, and exact on a quadratic potential for every stable dt; there the kinetic temperature
    m <v^2> is T (1 - k dt^2 / (4 m)): the configurational one is the one to trust. The state is
    (x, v, grad U(x)), velocities start from their Gibbs law.

    Args:
        potential: U.
        temperature: T.
        dt: Time of a step.
        friction: gamma, 1/time.
        mass: m.

    Raises:
        ValueError: If an argument is not positive.

    References:
        Leimkuhler & Matthews, Appl. Math. Res. Express 2013, 34.

    Examples:
        >>> from foreshock.simulators.potentials import Quadratic
        >>> from foreshock.simulators.sde import integrate
        >>> stepper = BAOAB(Quadratic(1.0), temperature=2.0, dt=1.0)
        >>> generator = torch.Generator().manual_seed(0)
        >>> path = integrate(stepper, torch.zeros(4000, 1), 50, generator=generator, every=50)
        >>> bool(abs(path.values[-1].var() / 2 - 1) < 4 * (2 / 4000) ** 0.5)
        True
    """

    potential: Potential
    temperature: float
    dt: float
    friction: float = 1.0
    mass: float = 1.0

    def __post_init__(self) -> None:
        require_temperature("BAOAB", self.temperature)
        positive("BAOAB", dt=self.dt, friction=self.friction, mass=self.mass)

    @property
    def mobility(self) -> float:
        """1 / (gamma m): drift velocity per force, D = T M."""
        return 1 / (self.friction * self.mass)

    @cached_property
    def _ou(self) -> tuple[float, float]:
        """Decay of a velocity over dt, and the spread it gains."""
        decay = math.exp(-self.friction * self.dt)
        return decay, math.sqrt(self.temperature / self.mass * (1 - decay * decay))

    def check(self, x: Tensor) -> None:
        """Refuse dt * frequency >= 2 at the start points and the minima."""
        frequency = math.sqrt(max(largest_curvature(self.potential, x), 0.0) / self.mass)
        instead = "a larger `mass`, which slows every mode"
        refuse_unstable("BAOAB", self.dt, frequency, instead=instead)

    def start(self, x: Tensor, generator: torch.Generator) -> State:
        """Positions, Gibbs velocities, gradient."""
        spread = math.sqrt(self.temperature / self.mass)
        return x, standard_normal(x, generator).mul_(spread), self.potential.gradient(x)

    def step(self, state: State, generator: torch.Generator) -> State:
        """One step."""
        x, v, gradient = state
        kick, half = self.dt / (2 * self.mass), self.dt / 2
        decay, spread = self._ou
        v = torch.add(v, gradient, alpha=-kick)
        x = torch.add(x, v, alpha=half)
        v.mul_(decay).add_(standard_normal(x, generator), alpha=spread)
        x.add_(v, alpha=half)
        gradient = self.potential.gradient(x)
        return x, v.add_(gradient, alpha=-kick), gradient


@dataclass(frozen=True)
class HeavyBall:
    r"""Gradient descent with momentum and noise: v' = beta v - alpha grad U + s z, x' = x + v'.

    A step is the unit of time. On U = k x^2/2 this is an autoregression of order two, with

        <x^2> = s^2 (1 + beta) / ((1 - beta) alpha k (2 (1 + beta) - alpha k)),

    so at small steps the positions follow a Gibbs law of temperature s^2 / (2 alpha (1 - beta)).
    `temperature` states that T and s = sqrt(2 alpha (1 - beta) T) follows from it. As physics it is
    underdamped motion with alpha = dt^2 / m and friction (1 - beta)/dt.

    Args:
        potential: U.
        temperature: T, of positions at small alpha.
        learning_rate: alpha.
        momentum: beta, in [0, 1).

    Raises:
        ValueError: If an argument is not positive, or `momentum` outside [0, 1).

    References:
        Polyak, USSR Comput. Math. Math. Phys. 4 (1964) 1; document "langevin", advanced topic 3.

    Examples:
        >>> from foreshock.simulators.potentials import Quadratic
        >>> ball = HeavyBall(Quadratic(1.0), temperature=1.0, learning_rate=0.1, momentum=0.9)
        >>> round(ball.noise_scale, 3), round(ball.temperature_at(1.0), 3)
        (0.141, 1.027)
    """

    potential: Potential
    temperature: float
    learning_rate: float
    momentum: float = 0.9

    def __post_init__(self) -> None:
        require_temperature("HeavyBall", self.temperature)
        positive("HeavyBall", learning_rate=self.learning_rate)
        if not 0 <= self.momentum < 1:
            raise ValueError(
                f"The `momentum` of `HeavyBall` must be in [0, 1). Got {self.momentum}."
            )

    @classmethod
    def published(
        cls,
        potential: Potential,
        learning_rate: float,
        momentum: float,
        diffusion: float,
        dt: float = 1.0,
    ) -> HeavyBall:
        r"""The noise sqrt(2 D dt) z that document "langevin" adds to its step, in its own letters.

        D is no temperature: positions follow T = D dt / (alpha (1 - beta)), which is 100 D at
        alpha = 0.1, beta = 0.9 and dt = 1.

        Args:
            potential: U.
            learning_rate: alpha.
            momentum: beta.
            diffusion: D.
            dt: dt, which enters the noise and nothing else.

        Returns:
            The same stepper, with its temperature stated.

        Examples:
            >>> from foreshock.simulators.potentials import Quadratic
            >>> ball = HeavyBall.published(Quadratic(1.0), 0.1, 0.9, diffusion=0.01)
            >>> round(ball.temperature, 9), round(ball.noise_scale**2, 9)
            (1.0, 0.02)
        """
        positive("HeavyBall.published", diffusion=diffusion, dt=dt, learning_rate=learning_rate)
        temperature = diffusion * dt / (learning_rate * (1 - momentum)) if momentum < 1 else 1.0
        return cls(potential, temperature, learning_rate, momentum)

    @property
    def dt(self) -> float:
        """1: a step."""
        return 1.0

    @property
    def noise_scale(self) -> float:
        """Amplitude s = sqrt(2 alpha (1 - beta) T)."""
        return math.sqrt(2 * self.learning_rate * (1 - self.momentum) * self.temperature)

    @property
    def mobility(self) -> float:
        """M = alpha / (1 - beta) per step, D = T M."""
        return self.learning_rate / (1 - self.momentum)

    def temperature_at(self, curvature: float) -> float:
        """On U = k x^2/2 the value k <x^2> = 2 (1 + beta) T / (2 (1 + beta) - alpha k)."""
        self._refuse_unstable(curvature)
        room = 2 * (1 + self.momentum)
        return self.temperature * room / (room - self.learning_rate * curvature)

    def check(self, x: Tensor) -> None:
        """Refuse alpha * curvature >= 2 (1 + beta) at the start points and the minima."""
        self._refuse_unstable(largest_curvature(self.potential, x))

    def _refuse_unstable(self, curvature: float) -> None:
        refuse_unstable(
            "HeavyBall",
            self.learning_rate,
            curvature,
            2 * (1 + self.momentum),
            name="learning_rate",
            instead="a larger `momentum`, which raises the limit up to 4",
        )

    def start(self, x: Tensor, generator: torch.Generator) -> State:
        """Positions at rest."""
        return x, torch.zeros_like(x)

    def step(self, state: State, generator: torch.Generator) -> State:
        """One step."""
        x, v = state
        v = torch.mul(v, self.momentum)
        v.add_(self.potential.gradient(x), alpha=-self.learning_rate)
        v.add_(standard_normal(x, generator), alpha=self.noise_scale)
        return x + v, v
