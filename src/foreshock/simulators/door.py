"""Checks at the door of the simulators: one sentence form, one place."""

from __future__ import annotations

import operator

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

Array = NDArray[np.float64]

#: What to type instead, by the name of the argument.
REMEDIES = {
    "temperature": "Without noise there is no law to sample: descend along the gradient instead.",
    "diffusion": "Without noise use a small one, or the drift alone.",
    "mobility": "A negative one climbs: turn the sign of the potential instead.",
    "dt": "Steps go forward in time.",
    "scale": "Leave the noise out instead.",
    "stiffness": "Without a trap there is no stationary law.",
    "barrier": "Without a barrier nothing is escaped from: measure a first passage.",
}


def finite(function: str, **values: ArrayLike) -> None:
    """Refuse a nan or an infinity.

    Args:
        function: Who asks, as the user typed it.
        **values: The arguments by name.

    Raises:
        ValueError: If one of them is not finite.

    Examples:
        >>> finite("ou_mean", time=[0.0, 1.0])
    """
    for name, value in values.items():
        if not np.all(np.isfinite(np.asarray(value, dtype=np.float64))):
            raise ValueError(
                f"The `{name}` of `{function}` must be finite. Got {value}: a closed form would "
                "carry the nan on without a trace; remove it before the call."
            )


def positive(function: str, **values: ArrayLike) -> None:
    """Refuse what is not finite and above 0.

    Args:
        function: Who asks, as the user typed it.
        **values: The arguments by name.

    Raises:
        ValueError: If one of them is not positive.

    Examples:
        >>> positive("ou_kl", lr=-1.0)
        Traceback (most recent call last):
        ...
        ValueError: The `lr` of `ou_kl` must be positive. Got -1.0.
    """
    finite(function, **values)
    for name, value in values.items():
        if not np.all(np.asarray(value, dtype=np.float64) > 0):
            remedy = REMEDIES.get(name, "")
            raise ValueError(
                f"The `{name}` of `{function}` must be positive. Got {value}. {remedy}".rstrip()
            )


def not_negative(function: str, **values: ArrayLike) -> None:
    """Refuse what is not finite or below 0.

    Args:
        function: Who asks, as the user typed it.
        **values: The arguments by name.

    Raises:
        ValueError: If one of them is negative.

    Examples:
        >>> not_negative("ou_mean", time=0.0)
    """
    finite(function, **values)
    for name, value in values.items():
        if not np.all(np.asarray(value, dtype=np.float64) >= 0):
            raise ValueError(f"The `{name}` of `{function}` must not be negative. Got {value}.")


def counts(function: str, **values: object) -> None:
    """Refuse what is not a whole number of at least 1.

    Args:
        function: Who asks, as the user typed it.
        **values: The arguments by name.

    Raises:
        ValueError: If one of them is not.

    Examples:
        >>> counts("train", steps=3.0)
        Traceback (most recent call last):
        ...
        ValueError: The `steps` of `train` must be at least 1 and a whole number. Got 3.0.
    """
    for name, value in values.items():
        try:
            fits = operator.index(value) >= 1  # pyrefly: ignore[bad-argument-type]
        except TypeError:
            fits = False
        if not fits:
            raise ValueError(
                f"The `{name}` of `{function}` must be at least 1 and a whole number. "
                f"Got {value!r}."
            )


def stability_index(function: str, alpha: float, *, below: float = 2.0) -> None:
    """Refuse an index that no symmetric stable law has.

    Args:
        function: Who asks, as the user typed it.
        alpha: The index.
        below: Largest index; 2 is allowed only where the formula has a Gaussian limit.

    Raises:
        ValueError: If alpha is outside (0, `below`].

    Examples:
        >>> stability_index("getoor_exit_time", 1.5)
    """
    if not 0 < alpha <= below:
        raise ValueError(
            f"The `alpha` of `{function}` must be in (0, {below:g}]. Got {alpha}. "
            "alpha = 2 is Brownian motion; there is no stable law above it."
        )


def movable(function: str, name: str, x: Tensor, mover: object) -> None:
    """Refuse particles that nothing can move.

    Args:
        function: Who asks, as the user typed it.
        name: What the particles are called there.
        x: The particles.
        mover: What is to move them: an engine, an optimizer, a stepper. Its chart or its potential
            says how many columns there are; without one any number will do.

    Raises:
        ValueError: If they are not finite, in float32 or float64, and of shape (n, d), n >= 1.

    Examples:
        >>> from foreshock.simulators.dynamics import ItoProcess
        >>> movable("integrate", "x", torch.zeros(3), ItoProcess())
        Traceback (most recent call last):
        ...
        ValueError: The `x` of `integrate` must be of shape (n, d). Got (3,): ...
    """
    motion, whose = getattr(mover, "dynamics", mover), f"The `{name}` of `{function}`"
    chart, potential = (getattr(motion, part, None) for part in ("chart", "potential"))
    d = 2 if chart is not None else getattr(potential, "dimension", None)
    if x.ndim != 2 or x.numel() == 0 or x.shape[1] != (d or x.shape[1]):
        line = f" Use `{name}[:, None]` for particles on a line."
        hint = line if d in (None, 1) else f" Use `{name}[None]` for one particle."
        raise ValueError(
            f"{whose} must be of shape (n, {d or 'd'}). Got {tuple(x.shape)}: a row for each of "
            "n >= 1 particles, a column for each dimension of "
            f"`{type(chart or potential or motion).__name__}`." + (hint if x.ndim == 1 else "")
        )
    if x.dtype not in (torch.float32, torch.float64):
        why = ""
        if x.is_floating_point():
            why = ", whose rounding is as large as a step of the noise: the law would be another"
        raise ValueError(
            f"{whose} must be float32 or float64. Got {x.dtype}{why}. Use `{name}.float()`."
        )
    bad = int((~x.isfinite().all(1)).sum())
    if bad:
        raise ValueError(
            f"{whose} must be finite. It holds nan or inf in {bad} of {len(x)} rows: look at where "
            "they come from."
        )
