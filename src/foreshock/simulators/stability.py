"""What is looked at before particles move, and again on the way: schedules, step, kinks."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from foreshock.simulators.decoder import DecoderPotential
from foreshock.simulators.diffusion import ParticleFisher, SharedFisher, SharedMatrix
from foreshock.simulators.particles import Engine
from foreshock.simulators.potentials import Potential
from foreshock.simulators.stepping import SOON, coarse

Array = NDArray[np.float64]

#: Particles whose Hessians decide whether a step is stable at the start, at least: fewer than twice
#: as many.
PROBED = 16
#: Particles looked at on the way: to see a place that holds each for a hundredth of the time.
WATCHED = 256
#: Readings of the schedules at which the stiffest mode is computed, the worst ones.
READ = 16
#: Looks on the way, at most, so that they cost little beside the steps.
LOOKS = 8
#: Layers whose derivative jumps.
KINKED = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish,
    nn.Hardshrink, nn.Softshrink, nn.Threshold, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d,
)  # fmt: skip


def check_run(engine: Engine, z: Tensor, *, first: int = 0, steps: int = 1) -> Array:
    """Refuse a run that cannot end well, by its schedules, its step or its decoder.

    A step that is stable and so long that the law of the particles is far from the stated one is
    warned of (RuntimeWarning), by the curvature at the minima that the potential names.

    Args:
        engine: The engine.
        z: Particles at the start, (n, d).
        first: Steps taken before.
        steps: Steps to take.

    Returns:
        What `read` found, for `check_again`.
    """
    readings = read_torch(engine, z.dtype, first=first, steps=steps)
    product = _check_start(engine, z, readings)
    check_smooth(engine, z)
    if sentence := coarse("Engine", engine.dt, product, "a smaller learning rate"):
        warnings.warn(sentence, RuntimeWarning, stacklevel=3)
    return readings


def read(values: Iterable[tuple[float, float, float, float]]) -> Array:
    """What the size of a step depends on, step by step.

    Args:
        values: eta, D_0, eta lambda and the time of every step.

    Returns:
        (steps, 3): eta, the share of M in the mobility D_0/(D_0 + eta lambda), and the time.
    """
    rows = ((eta, base / (base + extra) if base + extra > 0 else 0.0, t)
            for eta, base, extra, t in values)  # fmt: skip
    return np.fromiter((x for row in rows for x in row), np.float64).reshape(-1, 3)


def read_torch(engine: Engine, dtype: torch.dtype, *, first: int, steps: int) -> Array:
    """The schedules of an engine at the steps `first` to `first + steps`, every one checked.

    Args:
        engine: The engine.
        dtype: Type of the particles.
        first: Steps taken before.
        steps: Steps to take.

    Returns:
        See `read`.
    """
    times = (k * engine.dt for k in range(first, first + steps))
    return read((*engine.readings(t, dtype)[:3], t) for t in times)


def worst(plain: Array, shaped: Array | None, readings: Array) -> tuple[float, float, Array]:
    """The reading at which the stiffest of some modes moves furthest in a step.

    Args:
        plain: (k, d, d) Hessians of the energy.
        shaped: M times them, where M is not I.
        readings: From `read`.

    Returns:
        eta and the time of that reading, and the largest curvature at each place, (k,).
    """
    if shaped is None:
        readings = readings * [1.0, 0.0, 1.0]

    @cache
    def stiffest(share: float) -> Array:
        if shaped is None:
            return np.asarray(np.linalg.eigvalsh(plain)[:, -1], np.float64)
        return np.linalg.eigvals(share * shaped + (1 - share) * plain).real.max(-1)

    # Pairs as complex numbers: rows of a matrix take ten times as long to sort.
    _, at = np.unique(readings[:, 0] + 1j * readings[:, 1], return_index=True)
    eta, share, time = readings[np.sort(at)].T
    # Above the stiffness where the Hessian is positive, convex in the share there; else a guess.
    chord = eta * ((1 - share) * stiffest(0.0).max())
    if shaped is not None:
        chord = chord + eta * share * stiffest(1.0).max()
    order = np.argsort(-chord, kind="stable")[:READ]
    most = max(order, key=lambda k: eta[k] * stiffest(float(share[k])).max())
    return float(eta[most]), float(time[most]), stiffest(float(share[most]))


def refuse(dt: float, eta: float, curvature: float, where: str) -> None:
    """Refuse a step that is unstable.

    Args:
        dt: The step.
        eta: Learning rate.
        curvature: Of the stiffest mode.
        where: That it was found at, for the sentence.

    Raises:
        ValueError: If eta dt times the curvature exceeds 2.
    """
    if eta * curvature * dt > 2:
        raise ValueError(
            f"The `dt` of `Engine` is {dt:g} and unstable{where}: the stiffest mode has "
            f"curvature {curvature:.3g}, so eta * dt must stay below 2 / {curvature:.3g}. "
            f"Use dt < {2 / (eta * curvature):.2g}, best a tenth of it."
        )


def check_stable(engine: Engine, z: Tensor, *, first: int = 0, steps: int = 1) -> None:
    """Refuse a step that is unstable for the stiffest mode at the start or at a minimum.

    Euler's step multiplies a mode of stiffness k by 1 - eta dt k, which grows for eta dt k > 2. In
    mode `gibbs` the mobility D/T = eta (D_0 M + eta lambda I)/(D_0 + eta lambda) stands in place of
    eta. Schedules are read at every step. Looked at are 16 to 31 evenly spaced particles, at the
    worst reading of the first 20 d steps, and `potential.minima`, to which particles go
    wherever they start, at the worst of all; other places and times are for `check_again`, and
    `run_engine` refuses what is not finite.

    Args:
        engine: The engine.
        z: Particles, (n, d).
        first: Steps taken before.
        steps: Steps to take.
    """
    _check_start(engine, z, read_torch(engine, z.dtype, first=first, steps=steps))


def _check_start(engine: Engine, z: Tensor, readings: Array) -> float:
    """The largest eta k at a minimum; it, and that at the start, refused where it is unstable."""
    chosen = spaced(len(z))
    few, potential = z[chosen], _of(engine, chosen)
    matrix = _matrix(engine, few, potential)
    plain = _hessians(potential, few)
    # They leave the start: a rate that has warmed up finds them elsewhere.
    parts = [worst(plain, _shaped(matrix, plain), readings[: SOON * z.shape[1]])]
    minima = getattr(potential, "minima", ())
    if minima:
        # M is that of the particles: it belongs to a decoder, which has no minima, or to no place.
        plain = _hessians(potential, few.new_tensor(minima))
        parts.append(worst(plain, _shaped(matrix, plain), readings))
    eta, t, curvatures = max(parts, key=lambda part: part[0] * part[2].max())
    refuse(engine.dt, eta, curvatures.max(), f" at t = {t:g}" if t > readings[0, 2] else "")
    if not minima:
        return 0.0
    eta, _, curvatures = parts[1]
    return eta * curvatures.max()


def check_again(engine: Engine, z: Tensor, readings: Array, *, look: int) -> None:
    """Refuse a run on its way, if its step is unstable where the particles now are.

    256 to 511 particles of a small d, down to 16 of a large one, and others at every look. One may
    be in a stiff place for a moment; two, and more than a hundredth, mean that the step makes the
    law.

    Args:
        engine: The engine.
        z: Particles, (n, d).
        readings: Of the steps to come, from `read`; nothing is done if there are none.
        look: Number of the look.
    """
    if not len(readings):
        return
    n, d = z.shape
    chosen = spaced(n, look, most(d))
    few, potential = z[chosen], _of(engine, chosen)
    plain = _hessians(potential, few)
    found = worst(plain, _shaped(_matrix(engine, few, potential), plain), readings)
    refuse_astray(engine.dt, *found)


def refuse_astray(dt: float, eta: float, t: float, curvatures: Array) -> None:
    """Refuse a step that is unstable for two and a hundredth of the particles looked at on the way.

    Args:
        dt: The step.
        eta: Learning rate.
        t: Time.
        curvatures: (k,) Largest curvature at each particle.
    """
    bad, looked = int((eta * dt * curvatures > 2).sum()), len(curvatures)
    if bad > min(max(1, looked // 100), looked - 1):
        where = f" at t = {t:g}, where {bad} of {looked} particles looked at have come to"
        refuse(dt, eta, curvatures.max(), where)


def looks(steps: int, dimension: int) -> int:
    """Steps between looks: a look costs d passes or so over some particles, a step one over all.

    Args:
        steps: Of the run.
        dimension: d.

    Returns:
        Least number of steps from a look to the next.
    """
    return max(SOON * dimension, -(-steps // LOOKS))


def most(dimension: int) -> int:
    """Particles to look at on the way, so that their eigenvalues cost as much at every d or less.

    Args:
        dimension: d.

    Returns:
        16 to 256.
    """
    return min(WATCHED, max(PROBED, 4096 // dimension))


def spaced(n: int, look: int = 0, least: int = PROBED) -> slice:
    """Some of n particles, evenly spaced; others at every look, and always as many.

    Args:
        n: How many there are.
        look: Number of the look.
        least: How many, at least: fewer than twice as many are taken, or all.

    Returns:
        Which of them.
    """
    stride = max(1, n // least)
    first = look % stride
    return slice(first, first + n // stride * stride, stride)


def _of(engine: Engine, chosen: slice) -> Potential:
    """The potential of some of the particles."""
    potential = engine.potential
    return potential.rows(chosen) if isinstance(potential, DecoderPotential) else potential


def _hessians(potential: Potential, points: Tensor) -> Array:
    found = potential.hessian(points).detach().double().cpu().numpy()
    if not np.isfinite(found).all():
        raise ValueError(
            f"The Hessian of `{type(potential).__name__}` holds nan or inf where the particles "
            "are. Look at what its energy, or its decoder, returns there."
        )
    return found


def _shaped(matrix: Tensor | None, plain: Array) -> Array | None:
    return None if matrix is None else matrix.detach().double().cpu().numpy() @ plain


def check_smooth(engine: Engine, z: Tensor) -> None:
    """Refuse `ParticleFisher` in mode `gibbs` for a decoder with kinks.

    There F jumps, and div F lies on the kinks, where no particle is and no derivative is taken: the
    drift would lack it and the particles would settle at another law. Seen are layers of a
    `torch.nn.Module` with a kink, and decoders whose F varies among evenly spaced particles while
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
    chosen = spaced(len(z))
    if not kinks and _piecewise_linear(potential.rows(chosen), z[chosen]):
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
