"""fokker_planck.md's decisions on recorded series, exactly as written, so that they can be tested.

Plain numbers in, plain numbers out. Each docstring says what is wrong; a test beside it shows it by
a number. The causal detector is `foreshock.detectors.PhaseTransition`; the observables that need
particles are in `foreshock.density.published`, the simulator in `foreshock.simulators`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def plateaus_fp(
    loss: Sequence[float], window: int = 10, tolerance: float = 1e-4
) -> NDArray[np.intp]:
    r"""Criterion 3, "loss plateau": \|np.diff(loss, n=window)\| < tolerance. fokker_planck.md 5.3.

    Indices as published: those of the differences, shifted by window - 1.

    **Wrong with it**: `n` is the order of the difference, not a lag, and was so before the
    document's own "bug fix". The tenth difference multiplies the noise by sqrt(C(20, 10)) = 430 and
    removes every trend up to the ninth power: a noisy plateau is not found, a falling loss is.

    Args:
        loss: Loss at every step.
        window: Called a window.
        tolerance: Absolute, in the unit of the loss.

    Returns:
        Indices.

    Examples:
        >>> plateaus_fp([1.0 - 0.01 * t for t in range(13)]).tolist()  # falls by 1 % every step
        [9, 10, 11]
    """
    if len(loss) <= window:
        return np.array([], dtype=np.intp)
    changes = np.abs(np.diff(np.asarray(loss, dtype=float), n=window))
    return np.where(changes < tolerance)[0] + (window - 1)


def transitions_fp(
    c: Sequence[float],
    s_dot: Sequence[float],
    loss: Sequence[float],
    window: int = 10,
    drop_threshold: float = 0.5,
    entropy_sigma: float = 2.0,
    loss_plateau_tol: float = 1e-4,
) -> NDArray[np.intp]:
    r"""Phase transitions of a whole run: C drops, S_dot spikes, the loss stands. fokker_planck.md.

    Section 5.3: dC < -drop_threshold std(dC), S_dot > mean + entropy_sigma std, and `plateaus_fp`,
    all at one index.

    **Wrong with it**: means and deviations are those of the whole run, so what fires at step t
    depends on what comes after t; index i of a difference is step i + 1 and is matched with step i
    of S_dot; for the third criterion see `plateaus_fp`. The published `train_epoch` gives no loss,
    so called as intended it raises KeyError.

    Args:
        c: C at every step.
        s_dot: Entropy production.
        loss: Loss.
        window: For the third criterion.
        drop_threshold: In standard deviations of the differences of C.
        entropy_sigma: In standard deviations of S_dot.
        loss_plateau_tol: In the unit of the loss.

    Returns:
        Indices.

    Examples:
        >>> c = [5.0] * 15 + [1.0] * 15
        >>> s_dot = [0.0] * 14 + [9.0] + [0.0] * 15
        >>> transitions_fp(c, s_dot, [1.0] * 30).tolist()
        [14]
    """
    changes = np.diff(np.asarray(c, dtype=float))
    production = np.asarray(s_dot, dtype=float)
    drops = np.where(changes < -drop_threshold * np.std(changes))[0]
    high = np.mean(production) + entropy_sigma * np.std(production)
    spikes = np.where(production > high)[0]
    both = np.intersect1d(drops, spikes)
    return np.intersect1d(both, plateaus_fp(loss, window, loss_plateau_tol))


def reset_step_fp(c: Sequence[float], c_threshold: float = 0.5) -> int | None:
    r"""Time of the reset t* = argmin C(t) subject to C(t) < theta. fokker_planck.md 5.1.

    **Wrong with it**: whether step t is the minimum is known at the end of the run only.

    Args:
        c: C at every step of the run.
        c_threshold: theta.

    Returns:
        The step, or None if C never falls below theta.

    Examples:
        >>> reset_step_fp([2.0, 0.4, 0.1, 0.3]), reset_step_fp([2.0])
        (2, None)
    """
    step = int(np.argmin(np.asarray(c, dtype=float)))
    return step if c[step] < c_threshold else None


def reset_steps_fp(c: Sequence[float], c_threshold: float = 0.5) -> list[int]:
    r"""Steps at which the code resets: C < theta and step > 10. fokker_planck.md 12.1.

    **Wrong with it**: another rule than the text's argmin; without a refractory period it fires at
    every step below theta, and redraws the fraction alpha of the cloud every time.

    Args:
        c: C at every step.
        c_threshold: theta.

    Returns:
        Steps.

    Examples:
        >>> reset_steps_fp([0.1] * 14)
        [11, 12, 13]
    """
    return [step for step, value in enumerate(c) if value < c_threshold and step > 10]


def regime_fp(c: float) -> str:
    r"""Regime by C: above 10, from 1 to 10, below 1. fokker_planck.md 7.1.

    **Wrong with it**: its C has the unit of a volume, so the unit of z chooses the regime; and with
    a C that has none, C = 1 with no current is equilibrium, not "exploration".

    Args:
        c: C.

    Returns:
        ``"exploitation"``, ``"balanced"`` or ``"exploration"``.

    Examples:
        >>> regime_fp(11.0), regime_fp(1.0), regime_fp(0.9)
        ('exploitation', 'balanced', 'exploration')
    """
    if c > 10:
        return "exploitation"
    return "balanced" if c >= 1 else "exploration"


def alert_fp(
    c: float,
    max_divergence: float,
    c_alert_threshold: float = 0.3,
    div_j_threshold: float = 1.0,
) -> str | None:
    r"""Alert of the RLHF monitor: C < .3 and max \|div J\| > 1. fokker_planck.md 11.1.

    **Wrong with it**: both numbers have units (a volume, and a density per time), and the text
    calls div J = 0 the sign of an attractor and then large div J that of a new one. Its class reads
    `model.params`, which its models do not have, and takes D and eta at t = 0 for ever.

    Args:
        c: C of the responses.
        max_divergence: Largest \|div J\| over them.
        c_alert_threshold: Below it, div J is looked at.
        div_j_threshold: Above it, the alert.

    Returns:
        The published word, or None.

    Examples:
        >>> alert_fp(0.2, 3.0), alert_fp(0.2, 0.5)
        ('POTENTIAL_REWARD_HACKING', None)
    """
    hit = c < c_alert_threshold and max_divergence > div_j_threshold
    return "POTENTIAL_REWARD_HACKING" if hit else None
