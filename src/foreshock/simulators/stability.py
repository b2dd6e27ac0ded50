"""What is looked at before particles move: every schedule, the step, the kinks of a decoder."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from foreshock.simulators.decoder import DecoderPotential
from foreshock.simulators.diffusion import ParticleFisher, SharedFisher, SharedMatrix
from foreshock.simulators.particles import Engine

#: Particles whose Hessians decide whether a step is stable.
PROBED = 16
#: Readings of the schedules at which the stiffest mode is computed, the worst ones.
READ = 16
#: Layers whose derivative jumps.
KINKED = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish,
    nn.Hardshrink, nn.Softshrink, nn.Threshold, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d,
)  # fmt: skip


def check_run(engine: Engine, z: Tensor, *, first: int = 0, steps: int = 1) -> None:
    """Refuse a run that cannot end well: by its schedules, its step or its decoder.

    Args:
        engine: The engine.
        z: Particles at the start, (n, d).
        first: Steps taken before.
        steps: Steps to take.
    """
    check_stable(engine, z, first=first, steps=steps)
    check_smooth(engine, z)


def check_stable(engine: Engine, z: Tensor, *, first: int = 0, steps: int = 1) -> None:
    """Refuse a step that is unstable for the stiffest mode at the first particles.

    Euler's step multiplies a mode of stiffness k by 1 - eta dt k, which grows for eta dt k > 2. In
    mode `gibbs` the mobility D/T = eta (D_0 M + eta lambda I)/(D_0 + eta lambda) stands in place of
    eta. Schedules are read at every step, and the step is judged at the worst readings. Only 16
    particles are looked at, so a stiffer place elsewhere goes unnoticed; `run_engine` then refuses
    what is not finite.

    Args:
        engine: The engine.
        z: Particles, (n, d).
        first: Steps taken before.
        steps: Steps to take.

    Raises:
        ValueError: If dt is too large for one of the 16.
    """
    few, potential = z[:PROBED], engine.potential
    if isinstance(potential, DecoderPotential):
        potential = potential.rows(slice(0, PROBED))
    plain = potential.hessian(few).double()
    matrix = _matrix(engine, few, potential)
    shaped = plain if matrix is None else matrix.double() @ plain

    @cache
    def stiffest(share: float) -> float:
        mixed = share * shaped + (1 - share) * plain
        return float(torch.linalg.eigvals(mixed).real.max())

    ends = (stiffest(0.0), stiffest(0.0 if matrix is None else 1.0))
    readings: dict[tuple[float, float], float] = {}
    for k in range(first, first + steps):
        eta, base, extra, _ = engine.readings(k * engine.dt, z.dtype)
        share = base / (base + extra) if matrix is not None and base + extra > 0 else 0.0
        readings.setdefault((eta, share), k * engine.dt)

    def chord(reading: tuple[float, float]) -> float:
        # Above the stiffness itself, which is convex in the share.
        eta, share = reading
        return eta * ((1 - share) * ends[0] + share * ends[1])

    product = t = curvature = 0.0
    for eta, share in sorted(readings, key=chord, reverse=True)[:READ]:
        here = stiffest(share)
        if eta * here > product:
            product, t, curvature = eta * here, readings[eta, share], here
    if product * engine.dt > 2:
        when = f" at t = {t:g}" if t > first * engine.dt else ""
        raise ValueError(
            f"The `dt` of `Engine` is {engine.dt:g} and unstable{when}: the stiffest mode has "
            f"curvature {curvature:.3g}, so eta * dt must stay below 2 / {curvature:.3g}. "
            f"Use dt < {2 / product:.2g}, best a tenth of it."
        )


def check_smooth(engine: Engine, z: Tensor) -> None:
    """Refuse `ParticleFisher` in mode `gibbs` for a decoder with kinks.

    There F jumps, and div F lies on the kinks, where no particle is and no derivative is taken: the
    drift would lack it and the particles would settle at another law. Seen are layers of a
    `torch.nn.Module` with a kink, and decoders whose F varies among the first 16 particles while
    div F is 0 at all of them; a kink in a function beside curved parts goes unnoticed.

    Args:
        engine: The engine.
        z: Particles, (n, d).

    Raises:
        ValueError: If the decoder has kinks.
    """
    potential, shape = engine.potential, engine.shape
    if engine.mode != "gibbs" or not isinstance(shape, ParticleFisher) or not shape.gamma:
        return
    assert isinstance(potential, DecoderPotential)
    decode = potential.decode
    layers = decode.modules() if isinstance(decode, nn.Module) else ()
    kinks = sorted({type(layer).__name__ for layer in layers if isinstance(layer, KINKED)})
    if not kinks and _piecewise_linear(potential.rows(slice(0, PROBED)), z[:PROBED]):
        kinks = ["it is linear in pieces"]
    if kinks:
        raise ValueError(
            f"The decoder has kinks ({', '.join(kinks)}). In mode 'gibbs' `ParticleFisher` needs "
            "div F, which lies on the kinks, where no particle is: the law would not be "
            "exp(-L/T). Use a smooth activation such as `Softplus` or `Tanh`, the shape "
            "`SharedFisher`, or mode 'published'."
        )


def _piecewise_linear(potential: DecoderPotential, few: Tensor) -> bool:
    """Whether F differs from particle to particle, and its derivative is 0 at all of them."""
    fisher = potential.fisher(few)
    # Equal ones differ by the rounding of a sum over the outputs.
    if (fisher - fisher[:1]).abs().max() <= 1e-4 * fisher.abs().max():
        return False
    alternating = torch.ones_like(few)
    alternating[:, 1::2] = -1
    probes = (torch.ones_like(few), alternating)
    return not any(potential.fisher_divergence(few, e).any() for e in probes)


def _matrix(engine: Engine, few: Tensor, potential: object) -> Tensor | None:
    """M of the mobility at a few particles, or None where it is I."""
    shape = engine.shape
    if engine.mode != "gibbs":
        return None
    if isinstance(shape, SharedMatrix):
        return shape.tensor(few, None, 1.0).matrix
    if isinstance(shape, (SharedFisher, ParticleFisher)) and shape.gamma:
        assert isinstance(potential, DecoderPotential)
        fisher = potential.fisher(few)
        if isinstance(shape, SharedFisher):
            fisher = fisher.mean(0, keepdim=True)
        return torch.eye(few.shape[1], dtype=few.dtype, device=few.device) + shape.gamma * fisher
    return None
