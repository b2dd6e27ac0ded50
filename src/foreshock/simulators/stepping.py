"""What the steppers share: their state, their noise, and the starts and steps they refuse.

The steppers are in `foreshock.simulators.sde`, `steppers`, `inertia`, `levy` and `metrics`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

State = tuple[Tensor, ...]
Jump = Callable[[tuple[int, ...], float, torch.Generator, torch.dtype], Tensor]

#: Steps a dimension after which particles count as having left their start.
SOON = 20


def refuse_unstable(
    owner: str,
    dt: float,
    rate: float,
    limit: float = 2.0,
    *,
    name: str = "dt",
    instead: str = "`TamedEuler`, which bounds the drift of a step",
) -> None:
    """Refuse a step that an explicit scheme multiplies the stiffest mode's error by.

    Args:
        owner: Name of the stepper.
        dt: Its step.
        rate: Largest relaxation rate M lambda_max, 1/time.
        limit: Largest stable dt * rate.
        name: What the step is called there.
        instead: What else can be done about it.

    Raises:
        ValueError: If dt * rate >= limit.

    Examples:
        >>> refuse_unstable("EulerMaruyama", 0.5, 8.0)
        Traceback (most recent call last):
        ...
        ValueError: The `dt` of `EulerMaruyama` is unstable for the stiffest mode at the start or
        at a minimum: dt * rate = 0.5 * 8 = 4, and must stay below 2. Use dt < 0.25, better
        dt < 0.025; or `TamedEuler`, which bounds the drift of a step.
    """
    if dt * rate >= limit:
        raise ValueError(
            f"The `{name}` of `{owner}` is unstable for the stiffest mode at the start or at a "
            f"minimum: {name} * rate = {dt:g} * {rate:g} = {dt * rate:g}, and must stay below "
            f"{limit:g}. Use {name} < {limit / rate:.3g}, better {name} < {limit / rate / 10:.3g}; "
            f"or {instead}."
        )


def coarse(owner: str, dt: float, rate: float, instead: str) -> str:
    r"""What is to be said of a step that is stable and long: dt * rate above 1.

    Euler's stationary variance in a mode is 1/(1 - dt * rate/2) times the exact one: 2 at 1, where
    every step passes the minimum, and without bound as dt * rate goes to 2. Between, the paths are
    right for what they are, and their law is not the one that was asked for.

    Args:
        owner: Name of the stepper.
        dt: Its step.
        rate: Largest relaxation rate, 1/time.
        instead: What else can be done about it.

    Returns:
        A sentence, or nothing where dt * rate is at most 1.

    Examples:
        >>> coarse("EulerMaruyama", 0.5, 2.0, "")
        ''
        >>> coarse("EulerMaruyama", 0.96, 2.0, "`ExactOU`")[-69:]
        'variance 25 times the exact one. Use dt < 0.1 for 11 %, or `ExactOU`.'
    """
    product = dt * rate
    if not 1 + 1e-9 < product < 2:  # 1 itself is rounded either way
        return ""
    return (
        f"The `dt` of `{owner}` is stable but long: dt * rate = {product:.3g} for the stiffest "
        f"mode, in which Euler's step makes the variance {1 / (1 - product / 2):.3g} times the "
        f"exact one. Use dt < {0.2 / rate:.2g} for 11 %, or {instead}."
    )


def standard_normal(x: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normals in the shape, dtype and device of x.

    Args:
        x: What they shall look like.
        generator: Their source.

    Returns:
        A fresh tensor.

    Examples:
        >>> standard_normal(torch.zeros(3, 2), torch.Generator().manual_seed(0)).shape
        torch.Size([3, 2])
    """
    return torch.empty_like(x).normal_(generator=generator)


def with_jump(x: Tensor, jump: Jump | None, dt: float, generator: torch.Generator) -> Tensor:
    """Add the second noise of a step, if there is one.

    Args:
        x: (n, d) Positions after everything else; changed in place.
        jump: The second noise.
        dt: Time of the step.
        generator: Source of its randomness.

    Returns:
        `x`.

    Examples:
        >>> with_jump(torch.zeros(2, 1), None, 0.1, torch.Generator()).shape
        torch.Size([2, 1])
    """
    return x if jump is None else x.add_(jump(tuple(x.shape), dt, generator, x.dtype).to(x))


def refuse_outside(owner: str, part: object, x: Tensor) -> None:
    """Refuse positions that `part.contains` excludes, where it has that method.

    Args:
        owner: Name of the stepper.
        part: Dynamics or a chart.
        x: (n, d) Positions.

    Raises:
        ValueError: If a particle is outside.

    Examples:
        >>> from foreshock.simulators.metrics import poincare_disk
        >>> refuse_outside("GeodesicWalk", poincare_disk(), torch.ones(1, 2))
        Traceback (most recent call last):
        ...
        ValueError: 1 of 1 particles of `GeodesicWalk` are outside of `ConformalChart`, or too near
        its edge for the precision of torch.float32: the first at [1.0, 1.0]. Scale the points to
        lie inside, or use `x.double()`.
    """
    contains = getattr(part, "contains", None)
    if contains is None:
        return
    outside = ~contains(x)
    if outside.any():
        chart = type(getattr(part, "chart", part)).__name__
        raise ValueError(
            f"{int(outside.sum())} of {len(x)} particles of `{owner}` are outside of `{chart}`, or "
            f"too near its edge for the precision of {x.dtype}: the first at "
            f"{x[outside][0].tolist()}. Scale the points to lie inside, or use `x.double()`."
        )


def leavers_lost(part: object, x: Tensor) -> Tensor:
    """Positions with nan for the particles that `part.contains` excludes, where it has that method.

    Args:
        part: Dynamics or a chart.
        x: (n, d) Positions.

    Returns:
        (n, d).

    Examples:
        >>> from foreshock.simulators.metrics import poincare_disk
        >>> leavers_lost(poincare_disk(), torch.tensor([[0.5, 0.0], [1.5, 0.0]])).tolist()
        [[0.5, 0.0], [nan, nan]]
    """
    contains = getattr(part, "contains", None)
    return x if contains is None else x.masked_fill(~contains(x)[:, None], torch.nan)
