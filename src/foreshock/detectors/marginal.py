"""What one more unit of x buys in y lately, against what it bought on average since the start."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

#: Blocks kept; when they are full, neighbours are merged and every block is twice as long.
BLOCKS = 64
#: Records that make the origin, and the fewest in one half of a window.
START = 5
#: Memory of the noise, in records.
SPAN = 50


@dataclass(frozen=True)
class MarginalState:
    """Everything a rule remembers of a path of pairs (x, y), in bounded memory.

    Args:
        count: Pairs seen.
        origin: Mean of the first `START` of them.
        noise: Variances of one x and one y, from successive differences.
        last: The last pair.
        size: Pairs in a block.
        blocks: Means of the complete blocks since the origin, oldest first.
        filling: Pairs in the block that is not complete, and their sums.
    """

    count: int = 0
    origin: tuple[float, float] = (0.0, 0.0)
    noise: tuple[float, float] = (0.0, 0.0)
    last: tuple[float, float] = (0.0, 0.0)
    size: int = 1
    blocks: tuple[tuple[float, float], ...] = ()
    filling: tuple[int, float, float] = (0, 0.0, 0.0)


class Marginal(NamedTuple):
    """One comparison of two halves of a trailing window.

    Attributes:
        contrast: fraction · average · dx − dy, in the unit of y.
        error: Its standard error.
        average: Mean gain of y per gain of x, from the origin to the first half of the window.
        recent: dy/dx between the halves; infinite or nan where x stood still.
        dx_z: Rise of x between the halves, in standard errors.
        gain_z: Gains of x and y since the origin, in standard errors, the smaller of the two.
    """

    contrast: float
    error: float
    average: float
    recent: float
    dx_z: float
    gain_z: float


def take(state: MarginalState, x: float, y: float) -> MarginalState:
    """The next pair.

    Args:
        state: Before it.
        x: Finite.
        y: Finite.

    Returns:
        The state after it.
    """
    n = state.count + 1
    noise = state.noise
    if state.count:
        # Half the mean square of a difference is the variance of one of its parts (von Neumann).
        weight = 1 / min(state.count, SPAN)
        halves = ((x - state.last[0]) ** 2 / 2, (y - state.last[1]) ** 2 / 2)
        noise = (
            noise[0] + weight * (halves[0] - noise[0]),
            noise[1] + weight * (halves[1] - noise[1]),
        )
    if n <= START:
        origin = (
            state.origin[0] + (x - state.origin[0]) / n,
            state.origin[1] + (y - state.origin[1]) / n,
        )
        return MarginalState(n, origin, noise, (x, y))
    size, blocks = state.size, state.blocks
    full, sx, sy = state.filling[0] + 1, state.filling[1] + x, state.filling[2] + y
    if full == size:
        blocks, full, sx, sy = (*blocks, (sx / size, sy / size)), 0, 0.0, 0.0
        if len(blocks) == BLOCKS:
            pairs = zip(blocks[::2], blocks[1::2], strict=True)
            blocks = tuple(((a[0] + b[0]) / 2, (a[1] + b[1]) / 2) for a, b in pairs)
            size *= 2
    return MarginalState(n, state.origin, noise, (x, y), size, blocks, (full, sx, sy))


def largest(
    state: MarginalState, *, fraction: float, score: Callable[[Marginal], float]
) -> tuple[float, Marginal | None]:
    """The largest score over trailing windows of many lengths.

    With (x0, y0) the origin and (x1, y1), (x2, y2) the means of the two halves of a window that
    ends at the last complete block, average = (y1 − y0)/(x1 − x0) and contrast =
    fraction · average · (x2 − x1) − (y2 − y1). It is positive where y gained less than the fraction
    of what it used to gain for this rise of x, and needs no division by the rise, which may be 0
    (Fieller's way). Halves grow by a factor of about 1.4 from `START` records to a third of the
    path: noise asks for long windows, an abrupt turn for short ones, and neither is known before.

    The standard error is that of the six means to first order, for noise that is independent from
    record to record. Noise that x and y share (means over one batch) makes the true error smaller
    where the average is positive; noise that lasts makes it larger. The largest of several scores
    is not one score: a threshold on it is to be calibrated.

    Args:
        state: Of `take`.
        fraction: Of the average slope.
        score: From one comparison to its score, nan for none.

    Returns:
        The largest score (nan if there is none) and its comparison.
    """
    best: tuple[float, Marginal | None] = (math.nan, None)
    sums = [(0.0, 0.0)]
    for x, y in reversed(state.blocks):
        sums.append((sums[-1][0] + x, sums[-1][1] + y))
    half = -(-START // state.size)
    while 2 * half < len(sums) and 3 * half <= len(state.blocks) + START // state.size:
        found = _compare(state, sums, half, fraction)
        value = score(found) if found is not None else math.nan
        if value > best[0] or (math.isnan(best[0]) and not math.isnan(value)):
            best = (value, found)
        half = max(half + 1, math.ceil(1.4 * half))
    return best


def _compare(
    state: MarginalState, sums: list[tuple[float, float]], half: int, fraction: float
) -> Marginal | None:
    """One window; ``None`` while the two series do not vary."""
    x2, y2 = (s / half for s in sums[half])
    x1, y1 = ((b - a) / half for a, b in zip(sums[half], sums[2 * half], strict=True))
    (vx, vy), n = state.noise, half * state.size
    dx, dy, gain_x, gain_y = x2 - x1, y2 - y1, x1 - state.origin[0], y1 - state.origin[1]
    if not (vx > 0 and vy > 0 and gain_x != 0):
        return None
    average, r = gain_y / gain_x, dx / gain_x
    f, fa = fraction, fraction * average
    variance = vy * ((f * r) ** 2 / START + ((1 + f * r) ** 2 + 1) / n) + vx * fa**2 * (
        r**2 / START + ((1 + r) ** 2 + 1) / n
    )
    gain = 1 / START + 1 / n
    return Marginal(
        contrast=fa * dx - dy,
        error=math.sqrt(variance),
        average=average,
        recent=dy / dx if dx else math.nan,
        dx_z=dx / math.sqrt(2 * vx / n),
        gain_z=min(gain_x / math.sqrt(vx * gain), gain_y / math.sqrt(vy * gain)),
    )
