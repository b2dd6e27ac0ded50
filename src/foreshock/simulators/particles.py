r"""The particle engine: a cloud of latent states that follows a Fokker-Planck equation.

    dz = mu dt + sqrt(2 D) dW   (Itô),      d_t rho = -div(mu rho) + sum_ij d_i d_j (D_ij rho)

with rate eta(t), diffusion D_0(t), entropy weight lambda(t) and shape M of the noise:

    D = D_0 M(z) + eta lambda I,      T = D_0/eta + lambda

**The entropy needs no density.** The free energy int rho L - lambda H has the velocity field
-grad L - lambda grad log rho, and -eta lambda grad log rho moves the density exactly as the noise
sqrt(2 eta lambda) dW does. So a step costs one gradient and one draw of noise, for any n.
("fokker_planck" writes the drift -eta (grad L + lambda grad H) with grad H = -grad log rho in
effect, which climbs the density: backward heat.)

| mode | drift | |
|---|---|---|
| `gibbs` | -(D/T) grad L + div D | exp(-L/T) is stationary, without a current, for any M(z) |
| `published` | -eta grad L | the same for M = I; else a current flows for ever |

`SharedFisher` is the exception: its M is a mean over the cloud, in which a particle has a part of
1/n. The div D of that part, D_0 gamma div F(z)/n, is left out, so the law is off by O(1/n).

The step is Euler-Maruyama: weak order 1, strong order 1 where D is constant in z, else 1/2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import torch
from torch import Tensor

from foreshock.simulators.decoder import DecoderPotential, Linearisation
from foreshock.simulators.diffusion import (
    Isotropic,
    ParticleFisher,
    SharedFisher,
    fisher_divergence,
)
from foreshock.simulators.diffusion_tensor import DiffusionTensor
from foreshock.simulators.potentials import Potential
from foreshock.simulators.resets import (
    CloudReset,
    PointReset,
    Resets,
    below,
    jumped,
    planned,
    redraw,
)
from foreshock.simulators.schedules import Schedules


class Shape(Protocol):
    """How the noise depends on direction and place; see `foreshock.simulators.diffusion`."""

    def tensor(
        self,
        z: Tensor,
        linear: Linearisation | None,
        base: float,
        extra: float = 0.0,
        *,
        generator: torch.Generator | None = None,
        noise_scale: float = 1.0,
    ) -> DiffusionTensor:
        """D = base M(z) + extra I at the particles."""
        ...


@dataclass(frozen=True, eq=False)
class Engine:
    """Everything that does not change while particles move.

    Args:
        potential: L: a potential, or a `DecoderPotential`.
        schedules: eta, D_0 and lambda as functions of time.
        dt: Time step, positive.
        shape: M of the noise.
        mode: `gibbs` or `published`; see the module.
        resets: What moves particles besides, or None.
        entropy_gradient: A field g(z, t) -> (n, d) that replaces the noise of the entropy term by
            the drift -eta lambda g. Only for twins of other authors' formulas.

    Raises:
        ValueError: If `dt`, the mode or the schedules are unfit, or the noise needs a decoder.

    Examples:
        Entropy weight 1 and no diffusion: the stationary variance of a unit well is T = 1.

        >>> from foreshock.simulators.schedules import constant_schedules
        >>> class Well:
        ...     dimension = 1
        ...     def energy(self, x): return x.square().sum(1) / 2
        ...     def gradient(self, x): return x
        ...     def hessian(self, x): return torch.eye(1).expand(len(x), 1, 1)
        >>> engine = Engine(Well(), constant_schedules(diffusion=0.0, entropy=1.0), dt=0.05)
        >>> generator = torch.Generator().manual_seed(0)
        >>> state = State(torch.zeros(4000, 1))
        >>> for _ in range(100):
        ...     state = step(engine, state, generator)
        >>> 0.9 < state.z.var().item() < 1.15
        True
    """

    potential: Potential
    schedules: Schedules
    dt: float
    shape: Shape = field(default_factory=Isotropic)
    mode: Literal["gibbs", "published"] = "gibbs"
    resets: Resets | None = None
    entropy_gradient: Callable[[Tensor, float], Tensor] | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.dt) and self.dt > 0):
            raise ValueError(f"The `dt` of `Engine` must be positive and finite. Got {self.dt}.")
        if self.mode not in ("gibbs", "published"):
            raise ValueError(
                f"The `mode` of `Engine` must be 'gibbs' or 'published'. Got {self.mode!r}."
            )
        self.schedules.at(0.0)
        if isinstance(self.resets, PointReset):
            self.resets.check(self.potential.dimension)
        needs_decoder = isinstance(self.shape, (SharedFisher, ParticleFisher))
        if needs_decoder and not isinstance(self.potential, DecoderPotential):
            raise ValueError(
                f"`{type(self.shape).__name__}` couples the noise to a decoder, and the potential "
                f"is a `{type(self.potential).__name__}`. Use a `DecoderPotential`, or the shapes "
                "`Isotropic()` and `SharedMatrix(matrix)`."
            )

    def readings(self, t: float, dtype: torch.dtype) -> tuple[float, float, float, float]:
        """The schedules at time t, every one checked.

        A diffusion that the float type of the particles cannot carry, below its smallest normal
        number over its resolution (1e-31 in float32), moves nothing and would make D/T nan: it is
        none.

        Args:
            t: Time.
            dtype: Type of the particles.

        Returns:
            eta, D_0, eta lambda as a part of the noise, and lambda.
        """
        eta, base, weight = self.schedules.at(t)
        extra = eta * weight if self.entropy_gradient is None else 0.0
        scale = torch.finfo(dtype)
        if base + extra < scale.tiny / scale.eps:
            base = extra = 0.0
        return eta, base, extra, weight


@dataclass(frozen=True, eq=False)
class State:
    """The particles at one moment.

    Args:
        z: Latent states, (n, d). Row i is the same particle for ever, resets included.
        steps: Steps taken.
        boosted_until: Time at which the boost of the last reset ends.
        last_reset: Time of the last cloud reset.
        redrawn: Which particles a reset moved in the last step, (n,), or None.
    """

    z: Tensor
    steps: int = 0
    boosted_until: float = -math.inf
    last_reset: float = -math.inf
    redrawn: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Motion:
    """Drift and diffusion of the particles at one moment: what moves them, and what is observed.

    Args:
        drift: mu, (n, d), with div D in it where the mode adds it.
        carried: That div D, estimated with random signs, (n, d), or None. `drift - carried` is
            exact.
        mobility: M in drift = -M grad L: a number, (d, d), or None where it depends on z or the
            drift has another part.
        tensor: D, the boost of a reset included.
        temperature: T = D_0/eta + lambda, without the boost.
        linear: The decoder at the particles, for noise that follows it.
    """

    drift: Tensor
    tensor: DiffusionTensor
    temperature: float
    mobility: float | Tensor | None
    carried: Tensor | None = None
    linear: Linearisation | None = None


def motion(engine: Engine, state: State, generator: torch.Generator) -> Motion:
    """Drift and diffusion at the particles.

    Args:
        engine: The engine.
        state: Where the particles are.
        generator: For shapes that are estimated (`SharedFisher`) and Hutchinson's div D.

    Returns:
        The motion.
    """
    z, t = state.z, state.steps * engine.dt
    decoder = _decoder(engine)
    eta, base, extra, lam = engine.readings(t, z.dtype)
    scale = 1.0 if decoder is None else decoder.noise_scale
    linear = None if decoder is None else decoder.pullback(z)
    tensor = engine.shape.tensor(z, linear, base, extra, generator=generator, noise_scale=scale)
    if decoder is None or linear is None:
        gradient = engine.potential.gradient(z)
    else:
        gradient = linear.pull(decoder.cotangent(linear.output), last=False)
    temperature = (base + extra) / eta
    carried = None
    mobility: float | Tensor | None = eta
    isotropic = tensor.matrix is None and tensor.constant
    # Without any noise D/T has no value: plain descent.
    if engine.mode == "published" or isotropic or temperature == 0:
        drift = gradient.mul(-eta)
    else:
        drift = tensor.product(z, gradient, decoder).mul_(-1 / temperature)
        if tensor.constant:
            mobility = tensor.value(z.shape[1]) / temperature
        else:
            assert decoder is not None
            mobility = None
            carried = fisher_divergence(decoder, z, generator).mul_(tensor.fisher)
            drift.add_(carried)
    if engine.entropy_gradient is not None and lam:
        drift.add_(engine.entropy_gradient(z, t), alpha=-eta * lam)
        mobility = None
    if t < state.boosted_until and isinstance(engine.resets, CloudReset):
        tensor = tensor.raised(engine.resets.boost)
    return Motion(drift, tensor, temperature, mobility, carried, linear)


def move(engine: Engine, state: State, flow: Motion, generator: torch.Generator) -> State:
    """One Euler-Maruyama step along a motion, then the resets that fall into it.

    Args:
        engine: The engine.
        state: Where the particles are.
        flow: Drift and diffusion there.
        generator: Source of the noise and of the resets.

    Returns:
        The next state.
    """
    decoder = _decoder(engine)
    scale = 1.0 if decoder is None else decoder.noise_scale
    z = flow.tensor.noise(state.z, 2 * engine.dt, generator, linear=flow.linear, noise_scale=scale)
    z.add_(flow.drift, alpha=engine.dt).add_(state.z)
    return _reset(engine, replace(state, z=z, steps=state.steps + 1, redrawn=None), generator)


def step(engine: Engine, state: State, generator: torch.Generator) -> State:
    """One step: drift, diffusion with the entropy in it, annealing, resets. No density estimate.

    **Cost** for a decoder: one forward and one backward pass and n d normals; `SharedFisher` one
    backward pass and a Cholesky factor more. `ParticleFisher` in mode `published` costs n x normals
    more and no further pass, since drift and noise are pulled back as one cotangent; in mode
    `gibbs` it takes about five passes more, six times as long in all.

    Args:
        engine: The engine.
        state: Where the particles are.
        generator: Source of all randomness.

    Returns:
        The next state.
    """
    decoder = _decoder(engine)
    fused = (
        decoder is not None
        and isinstance(engine.shape, ParticleFisher)
        and engine.mode == "published"
        and engine.entropy_gradient is None
    )
    if not fused or decoder is None:
        return move(engine, state, motion(engine, state, generator), generator)
    t, dt = state.steps * engine.dt, engine.dt
    eta, base, extra, _ = engine.readings(t, state.z.dtype)
    tensor = engine.shape.tensor(state.z, None, base, extra)
    if t < state.boosted_until and isinstance(engine.resets, CloudReset):
        tensor = tensor.raised(engine.resets.boost)
    linear = decoder.pullback(state.z)
    like = {"dtype": state.z.dtype, "device": state.z.device, "generator": generator}
    z = torch.randn(state.z.shape, **like).mul_(math.sqrt(2 * dt * tensor.scalar))
    loads = torch.randn(linear.output.shape, **like)
    loads.mul_(math.sqrt(2 * dt * tensor.fisher) / decoder.noise_scale)
    loads.add_(decoder.cotangent(linear.output), alpha=-eta * dt)
    z.add_(linear.pull(loads)).add_(state.z)
    return _reset(engine, replace(state, z=z, steps=state.steps + 1, redrawn=None), generator)


def reset_now(engine: Engine, state: State, generator: torch.Generator) -> State:
    """A cloud reset at this moment, on the word of a detector; the refractory time is obeyed.

    Args:
        engine: An engine whose `resets` is a `CloudReset`.
        state: Where the particles are.
        generator: Source of the redraw.

    Returns:
        The state after it, or the same state within the refractory time.

    Raises:
        ValueError: If the engine has no cloud reset.
    """
    reset, t = engine.resets, state.steps * engine.dt
    if not isinstance(reset, CloudReset):
        raise ValueError("`reset_now` needs an `Engine` with `resets=CloudReset(...)`.")
    if t - state.last_reset < reset.refractory:
        return state
    z, redrawn = redraw(reset, state.z, generator)
    until = t + reset.boost_time if reset.boost else -math.inf
    return replace(state, z=z, boosted_until=until, last_reset=t, redrawn=redrawn)


def event_due(engine: Engine, steps: int) -> bool:
    """Whether a planned reset falls into the step after so many steps.

    Args:
        engine: The engine.
        steps: Steps taken.

    Returns:
        Whether one does.
    """
    if engine.resets is None:
        return False
    # Half a step of slack on both sides, so that a plan at a multiple of dt fires at that multiple;
    # the first step takes what is planned before it too.
    start = (steps + 0.5) * engine.dt if steps else 0.0
    return planned(engine.resets.times, start, (steps + 1.5) * engine.dt)


def _decoder(engine: Engine) -> DecoderPotential | None:
    return engine.potential if isinstance(engine.potential, DecoderPotential) else None


def _reset(engine: Engine, state: State, generator: torch.Generator) -> State:
    """What the clocks of the resets do at the end of a step."""
    reset = engine.resets
    if reset is None:
        return state
    due = event_due(engine, state.steps - 1)
    if isinstance(reset, CloudReset):
        if reset.rate and not due:
            draw = torch.rand((), device=state.z.device, generator=generator)
            due = bool(below(draw, -math.expm1(-reset.rate * engine.dt), generator))
        return reset_now(engine, state, generator) if due else state
    if due:  # A planned event takes everyone along.
        everyone = torch.ones(len(state.z), dtype=torch.bool, device=state.z.device)
        z = reset.point.to(state.z).expand_as(state.z).clone()
        return replace(state, z=z, redrawn=everyone)
    z, redrawn = jumped(reset, state.z, engine.dt, generator)
    return replace(state, z=z, redrawn=redrawn)
