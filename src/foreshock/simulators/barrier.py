r"""The barrier between two wells: the lowest pass over all paths, and how long crossing it takes.

The height of a barrier is a minimum over paths of a maximum along the path, so it is found with a
path: the string method, then a climb to the saddle. A difference of two losses is not a barrier: it
is 0 between wells of equal depth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from foreshock.simulators.eyring_kramers import eyring_kramers_rate_nd
from foreshock.simulators.potentials import Potential
from foreshock.types import Estimate, Flag

#: Newton steps that are enough near a stationary point; beyond, the start was not near one.
_NEWTON = 60
#: What other wells and saddles may add to the time, of what is not flagged.
_SHARE = 0.05
#: Depth of a dip of the path, in units of T, below which it is none.
_RIPPLE = 0.1


@dataclass(frozen=True, eq=False)
class Barrier:
    """A path of least resistance from one well to another.

    Args:
        path: (images, d) The path, from minimum to minimum, evenly spaced.
        energies: (images,) Energy along it.
        start: (d,) The minimum it leaves.
        saddle: (d,) Highest stationary point on it.
        height: Energy of the saddle above the start; flagged `not_converged` where the pass is not
            a saddle of index 1 or the path did not settle.
        curvature: (d,) Eigenvalues of the Hessian at the saddle, ascending.
    """

    path: Tensor
    energies: Tensor
    start: Tensor
    saddle: Tensor
    height: Estimate
    curvature: Tensor


def string_method(
    potential: Potential,
    start: Tensor,
    end: Tensor,
    *,
    images: int = 41,
    tolerance: float = 1e-3,
    max_steps: int = 20_000,
) -> Barrier:
    r"""Find the path of least resistance between two wells, its saddle and the barrier.

    Both ends are relaxed to their minima; a string of images then slides down the gradient and is
    respaced evenly after every step (the simplified string method), which leaves only the motion
    across the path. From its highest image Newton's method goes to the saddle. Where the path runs
    over several saddles the highest counts. The path found is a local optimum: another first guess
    may find a lower pass, so the height is an upper bound of the barrier.

    Args:
        potential: The landscape.
        start: (d,) A point in the first well.
        end: (d,) A point in the second well.
        images: Points of the path.
        tolerance: Largest motion of an image in a step, in units of the spacing, at which the path
            counts as settled.
        max_steps: Steps before giving up; the result is then flagged.

    Returns:
        Path, saddle and height, in float64.

    Raises:
        ValueError: If the ends do not fit the potential, lie in one well, or do not relax to
            minima.

    References:
        E, Ren and Vanden-Eijnden, J. Chem. Phys. 126 (2007) 164103.

    Examples:
        >>> from foreshock.simulators.potentials import DoubleWell
        >>> well = DoubleWell(barrier=2.0)
        >>> found = string_method(well, torch.tensor([-0.9]), torch.tensor([0.8]))
        >>> round(found.height.value, 6), [round(x, 6) + 0.0 for x in found.saddle.tolist()]
        (2.0, [0.0])
    """
    if images < 5:
        raise ValueError(f"The `images` of `string_method` must be at least 5. Got {images}.")
    ends = []
    for name, point in (("start", start), ("end", end)):
        point = torch.as_tensor(point, dtype=torch.float64).reshape(-1)
        if point.numel() != potential.dimension or not bool(torch.isfinite(point).all()):
            raise ValueError(
                f"The `{name}` of `string_method` must be {potential.dimension} finite "
                f"coordinates. Got {point.tolist()}."
            )
        ends.append(relax(potential, point))
    first, last = ends
    span = float((last - first).norm())
    if span < 1e-6 * (1 + float(first.norm())):
        raise ValueError(
            "`start` and `end` of `string_method` relax to one minimum, "
            f"{[round(x, 4) for x in first.tolist()]}: there is no barrier between them. "
            "Start in two different wells."
        )
    share = torch.linspace(0, 1, images, dtype=torch.float64)[:, None]
    path, settled = (1 - share) * first + share * last, False
    for _ in range(max_steps):
        # Half the stable step of the stiffest place: an image never overshoots the valley.
        stiffest = float(torch.linalg.eigvalsh(potential.hessian(path)).abs().max())
        moved = path - potential.gradient(path) / stiffest
        moved[0], moved[-1] = first, last
        moved = _respaced(moved)
        change = float((moved - path).norm(dim=1).max()) / (span / (images - 1))
        path = moved
        if change < tolerance:
            settled = True
            break
    energies = potential.energy(path)
    top = int(energies[1:-1].argmax()) + 1
    saddle = _stationary(potential, path[top])
    curvature = torch.linalg.eigvalsh(potential.hessian(saddle[None])[0])
    height = float(potential.energy(saddle[None])[0] - energies[0])
    # Newton's method goes to any stationary point; it must be the pass that the path showed.
    near = float((saddle - path).norm(dim=1).min()) < 2 * span / (images - 1)
    if not settled:
        why = f"The path still moved after {max_steps:,} steps; allow more `max_steps`."
    elif not (near and int((curvature < 0).sum()) == 1):
        why = "The highest point of the path did not lead to a saddle of index 1; use more images."
    else:
        why = ""
    if why:
        height = float(energies[top] - energies[0])
        told = Estimate(height, height, math.inf, n=1, flags=Flag.NOT_CONVERGED, reason=why)
    else:
        told = Estimate.exact(height)
    return Barrier(path, energies, first, saddle, told, curvature)


def escape_time(
    potential: Potential, barrier: Barrier, temperature: float, *, mobility: float = 1.0
) -> Estimate:
    r"""Mean time to leave the well over the barrier, with its prefactor: 1/k of Eyring and Kramers.

    Asymptotic for barrier >> T. At barrier/T = 4, 8, 10, 20 the rate of U = (x^2 - 1)^2 is 10.7,
    5.6, 4.3 and 2.0 % above the exact one; below 3 the estimate is flagged. No interval is
    claimed: the error is the formula's, not one of sampling. In one dimension
    `exact_kramers.mean_first_passage_time` is exact at any temperature.

    The formula knows one well and one saddle. Where the path runs through another well, the time
    is a sum over pairs of a well and a later saddle, each by exp((U_saddle - U_well)/T); the
    estimate is flagged where the other pairs make up more than 5 % of the one it is for, and
    refused where they make up more than that one, as where the path crosses a well deeper than the
    start. Wells between two images are not seen.

    Args:
        potential: The landscape.
        barrier: From `string_method`.
        temperature: T.
        mobility: M, so that D = T M.

    Returns:
        The time, in the time of the SDE.

    Raises:
        ValueError: If the temperature or the mobility is not positive.

    Examples:
        >>> from foreshock.simulators.potentials import DoubleWell
        >>> well = DoubleWell()
        >>> found = string_method(well, torch.tensor([-1.0]), torch.tensor([1.0]))
        >>> round(escape_time(well, found, 1 / 8).value, 1)
        3311.0
    """
    if not (temperature > 0 and mobility > 0):
        raise ValueError(
            "The `temperature` and the `mobility` of `escape_time` must be positive. Got "
            f"{temperature} and {mobility}: without noise nothing crosses a barrier."
        )
    if barrier.height.flags or not barrier.height.value > 0:
        why = barrier.height.reason or f"The barrier is {barrier.height.value:.3g}, not positive."
        return Estimate.missing(why, flags=Flag.UNRESOLVED | Flag.NOT_CONVERGED)
    others, elsewhere = _detained(barrier, temperature)
    if others > 1:
        return Estimate.missing(elsewhere, flags=Flag.UNRESOLVED | Flag.NOT_CONVERGED)
    points = torch.stack([barrier.start, barrier.saddle])
    at_well, at_saddle = potential.hessian(points).numpy()
    height = barrier.height.value
    rate = eyring_kramers_rate_nd(at_well, at_saddle, height, temperature, mobility=mobility)
    if rate == 0:
        return Estimate.missing(f"exp(-{height / temperature:.0f}) is below the smallest number.")
    if height < 3 * temperature:
        reason = (
            f"The barrier is {height / temperature:.2g} T; the formula needs several. Measure the "
            "first passage, or in one dimension use `mean_first_passage_time`."
        )
        return Estimate(1 / rate, flags=Flag.NOT_CONVERGED, reason=reason)
    if others > _SHARE:
        return Estimate(1 / rate, flags=Flag.NOT_CONVERGED, reason=elsewhere)
    return Estimate.plain(1 / rate)


def _detained(barrier: Barrier, temperature: float) -> tuple[float, str]:
    """What other wells and saddles of the path add to the time, as a share, and which they are."""
    energies = barrier.energies.tolist()
    # Ripples below a tenth of T hold nobody; the ends are minima.
    turns = [0]
    for index in range(1, len(energies)):
        rising = len(turns) % 2 == 1  # the last turn is a well, the next one a saddle
        gain = energies[index] - energies[turns[-1]]
        if (gain > 0) != rising and (gain < 0 or len(turns) > 1):
            turns[-1] = index  # on along the same slope
        elif abs(gain) > _RIPPLE * temperature:
            turns.append(index)
    wells, saddles = turns[::2], turns[1::2]
    if not saddles:  # a barrier below the ripples; `escape_time` says that it is too low
        return 0.0, ""
    pairs = [(i, j) for i in wells for j in saddles if j > i]
    climbs = {(i, j): energies[j] - energies[i] for i, j in pairs}
    own = barrier.height.value
    top = max(saddles, key=energies.__getitem__)
    others = {pair: climb for pair, climb in climbs.items() if pair != (0, top)}
    share = sum(math.exp(min((c - own) / temperature, 700.0)) for c in others.values())
    if share <= _SHARE:
        return share, ""
    well, saddle = max(others, key=others.__getitem__)
    place = "the start"
    if well:
        at = [round(v, 3) for v in barrier.path[well].tolist()]
        place = f"another well at {at}, {energies[well] - energies[0]:+.3g} from the start"
    return share, (
        f"Besides the barrier of {own:.3g} the path has a climb of {others[well, saddle]:.3g} from "
        f"{place}: one well and one saddle do not make the time. Find the barriers from well to "
        "well with a `string_method` each, or measure the first passage."
    )


def relax(potential: Potential, point: Tensor, *, max_steps: int = 100_000) -> Tensor:
    """The minimum whose basin a point lies in, by gradient descent and a few Newton steps.

    Args:
        potential: The landscape.
        point: (d,) Where to start.
        max_steps: Steps of descent before giving up.

    Returns:
        (d,) The minimum, float64.

    Raises:
        ValueError: If no minimum was reached.

    Examples:
        >>> from foreshock.simulators.potentials import DoubleWell
        >>> relax(DoubleWell(), torch.tensor([0.3])).tolist()
        [1.0]
    """
    x = torch.as_tensor(point, dtype=torch.float64).reshape(1, -1)
    for _ in range(max_steps):
        hessian = potential.hessian(x)[0]
        values = torch.linalg.eigvalsh(hessian)
        step = potential.gradient(x)
        if values[0] > 0:
            newton = torch.linalg.solve(hessian, step[0])[None]
            # Newton only where it lowers the energy by what the quadratic model says, or nearly.
            expected = float((newton * step).sum()) / 2
            drop = float(potential.energy(x) - potential.energy(x - newton))
            if abs(drop - expected) <= 0.25 * expected + 1e-14:
                x = x - newton
                if float(newton.norm()) < 1e-12 * (1 + float(x.norm())):
                    return x[0]
                continue
        x = x - step / values.abs().max()
        if float(step.norm()) == 0:  # exactly on a saddle or on a flat place: descent ends there
            break
    raise ValueError(
        f"No minimum was reached from {[round(v, 4) for v in torch.as_tensor(point).tolist()]}. "
        "Start off the saddle, or where the landscape has a minimum."
    )


def _stationary(potential: Potential, point: Tensor) -> Tensor:
    """Newton's method for a zero of the gradient, whatever its index."""
    x = point[None]
    for _ in range(_NEWTON):
        step = torch.linalg.lstsq(potential.hessian(x)[0], potential.gradient(x)[0]).solution
        x = x - step
        if float(step.norm()) < 1e-13 * (1 + float(x.norm())):
            break
    return x[0]


def _respaced(path: Tensor) -> Tensor:
    """The same polygon with its corners at equal distances along it."""
    legs = (path[1:] - path[:-1]).norm(dim=1)
    along = torch.cat([legs.new_zeros(1), legs.cumsum(0)])
    wanted = torch.linspace(0, float(along[-1]), len(path), dtype=path.dtype)
    place = torch.searchsorted(along, wanted).clamp(1, len(path) - 1)
    length = (along[place] - along[place - 1]).clamp(min=torch.finfo(path.dtype).tiny)
    share = ((wanted - along[place - 1]) / length)[:, None]
    return path[place - 1] + share * (path[place] - path[place - 1])
