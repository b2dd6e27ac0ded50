r"""Log-determinant, scale and rank of an empirical NTK on a fixed probe, with intervals and rates.

Input is the n x n Gram K = J J'/n of per-example output gradients (any reduction of the outputs
that gives one row per example). With scale s = tr K/n and eigenvalues λ_j of K:

    log_scale = log s            log_det = log det(K/s + ε I) = Σ_j log(λ_j/s + ε)
    effective rank = exp(-Σ q_j log q_j), q_j = λ_j/Σλ       stable rank = tr(K)/λ_1

The split matters: Σ log λ mixes the scale of the outputs with the shape of the kernel, and a
threshold on λ makes it jump by 13.8 at each crossing. K/s + ε I is free of the scale and of
thresholds.

**Uncertainty** is over which examples are in the probe: delete-a-group jackknife over `groups`
blocks of consecutive examples, t_{groups-1}. log_det grows with n, so the value without a group is
scaled by n/n_(-g). For the *rate* the same groups are deleted at both times and differenced
(paired): the probe is the same, so its choice mostly cancels, and the interval is far shorter than
that of log_det.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foreshock.stats.intervals import jackknife_se, t_quantile
from foreshock.types import Estimate, Flag

Array = NDArray[np.float64]

SERIES = (
    "ntk/log_det",
    "ntk/log_scale",
    "ntk/log_det_rate",
    "ntk/log_scale_rate",
    "ntk/effective_rank",
    "ntk/stable_rank",
)

#: A Gram matrix in float64 has eigenvalues above -n eps λ_1; one this negative is no Gram matrix.
NEGATIVE = 1e-8


@dataclass(frozen=True, slots=True)
class NtkState:
    """One record, whole and without each group: what the next record differences with.

    Args:
        log_det: log det(K/s + ε I).
        without: Its delete-one-group values, scaled to n examples.
        log_scale: log s.
        scale_without: Its delete-one-group values.
        n: Number of examples.
        epsilon: ε; records with another ε must not be differenced.
    """

    log_det: float
    without: tuple[float, ...]
    log_scale: float
    scale_without: tuple[float, ...]
    n: int
    epsilon: float


def ntk_summary(
    kernel: ArrayLike,
    *,
    epsilon: float,
    groups: int = 8,
    rows: int = 1,
    previous: NtkState | None = None,
    dt: float | None = None,
) -> tuple[dict[str, Estimate], NtkState | None]:
    r"""Scale-free log-determinant, log-scale, ranks, and the rate of the log-determinant.

    Formulas in the docstring of the module. The rate is (log_det - previous)/dt per step: positive
    = the kernel spreads over more directions ("expanding"), negative = it concentrates
    ("contracting").

    **Bias.** log_det of n examples is no estimate of anything at n = inf: it belongs to this n and
    ε. The effective rank is at most n and grows with it. Compare only along one run with one probe.
    **Null of the rate.** Redrawing the probe at every record: +- t sqrt(2) SE/dt, with the SE of
    log_det. A rate inside that band is less than the change of probe would make, although the
    paired interval may resolve it. **Cost.** One eigenproblem of n x n and `groups` of n(1 -
    1/groups): about 1.2 ms at n = 64.

    Args:
        kernel: (n, n) NTK Gram in float64, one row per probe example, n >= 2 `groups`.
        epsilon: ε > 0 relative to the mean diagonal, such as 1e-4: the floor of what is rank.
        groups: Blocks of the jackknife, at least 3.
        rows: Rows an example has, where its outputs lie beside each other: a block holds whole
            examples.
        previous: State of the previous record of the same probe; without it there is no rate.
        dt: Steps since then, > 0; required with `previous`.

    Returns:
        One `Estimate` per name in `SERIES`, and the state for the next record. If the kernel is not
        finite, is zero, or has an eigenvalue below -1e-8 λ_1, all are missing and the state is
        `None`. A rate across a change of n, ε or groups is missing.

    Raises:
        ValueError: If `kernel` is not symmetric n x n with n >= 2 `groups` (times `rows`, a divisor
            of n), `epsilon` <= 0, `groups` < 3, or `dt` is missing or not positive.

    References:
        Roy & Vetterli, EUSIPCO 2007, for the effective rank; Rudelson & Vershynin, J. ACM 54
        (2007), for the stable rank.

    Examples:
        K = 3 I: log det(I + ε I) = n log(1 + ε), and every rank is n.

        >>> out, state = ntk_summary(3 * np.eye(16), epsilon=1e-4)
        >>> bool(np.isclose(out["ntk/log_det"].value, 16 * np.log1p(1e-4)))
        True
        >>> round(out["ntk/effective_rank"].value, 9), round(out["ntk/log_scale"].value, 6)
        (16.0, 1.098612)
        >>> out, _ = ntk_summary(6 * np.eye(16), epsilon=1e-4, previous=state, dt=10)
        >>> abs(out["ntk/log_det_rate"].value) < 1e-9  # twice the scale is no change of shape
        True
    """
    matrix = np.asarray(kernel, dtype=np.float64)
    n = _check(matrix, epsilon, groups, rows)
    if previous is not None and (dt is None or not dt > 0):
        raise ValueError(
            f"The `dt` of `ntk_summary` must be positive where `previous` is given. Got {dt}."
        )
    if not np.isfinite(matrix).all():
        return _missing("An output gradient contains nan or inf.", n), None
    scale = float(np.trace(matrix)) / n
    if scale <= 0:
        return _missing("Every output gradient of the probe is zero.", n), None
    if not np.allclose(matrix, matrix.T, rtol=0, atol=1e-6 * scale * n):
        raise ValueError("The `kernel` of `ntk_summary` must be symmetric.")
    matrix = matrix / scale  # no overflow, and the mean diagonal is 1
    eigenvalues = np.linalg.eigvalsh(matrix)
    if eigenvalues[0] < -NEGATIVE * eigenvalues[-1]:
        return (
            _missing(
                f"The kernel has the eigenvalue {scale * float(eigenvalues[0]):.3g} < 0, which no "
                "Gram matrix has; compute it in float64.",
                n,
            ),
            None,
        )
    values = _functionals(eigenvalues, epsilon, n)
    # (groups, 4) the same without each block of consecutive examples
    without = np.array(
        [
            _functionals(np.linalg.eigvalsh(np.delete(np.delete(matrix, b, 0), b, 1)), epsilon, n)
            for b in _blocks(n, groups, rows)
        ]
    )
    quantile = t_quantile(groups - 1)
    errors = np.asarray(jackknife_se(without.T))
    offset = np.array([0.0, math.log(scale), 0.0, 0.0])
    log_det, log_scale, effective, stable = (
        Estimate(float(v), float(v - quantile * e), float(v + quantile * e), n=n)
        for v, e in zip(values + offset, errors, strict=True)
    )
    state = NtkState(
        log_det.value,
        tuple(float(x) for x in without[:, 0]),
        log_scale.value,
        tuple(float(x) for x in without[:, 1] + math.log(scale)),
        n,
        epsilon,
    )
    out = {
        "ntk/log_det": log_det,
        "ntk/log_scale": log_scale,
        "ntk/log_det_rate": _rate(state, previous, dt, quantile * float(errors[0]), "log_det"),
        "ntk/log_scale_rate": _rate(state, previous, dt, quantile * float(errors[1]), "log_scale"),
        "ntk/effective_rank": effective,
        "ntk/stable_rank": stable,
    }
    return out, state


def _functionals(eigenvalues: NDArray[np.floating], epsilon: float, n: int) -> Array:
    """log_det scaled to n examples, log of the mean eigenvalue, effective rank, stable rank."""
    values = np.maximum(eigenvalues, 0.0)
    scale = values.mean()
    if scale == 0:  # the group that is left out carried everything
        return np.array([n * math.log(epsilon), math.log(np.finfo(np.float64).tiny), 1.0, 1.0])
    share = values / values.sum()
    positive = share[share > 0]
    return np.array(
        [
            n * np.log(values / scale + epsilon).mean(),
            math.log(scale),
            math.exp(-float(positive @ np.log(positive))),
            values.sum() / values[-1],
        ]
    )


def _blocks(n: int, groups: int, rows: int) -> list[NDArray[np.intp]]:
    """Rows of consecutive examples."""
    return [
        (block[:, None] * rows + np.arange(rows)).reshape(-1)
        for block in np.array_split(np.arange(n // rows), groups)
    ]


def _rate(
    state: NtkState,
    previous: NtkState | None,
    dt: float | None,
    half_width: float,
    which: Literal["log_det", "log_scale"],
) -> Estimate:
    """Change per step, with the paired interval."""
    if previous is None or dt is None:
        return Estimate.missing("A rate needs a previous record of the same probe.", n=state.n)
    if (previous.n, previous.epsilon, len(previous.without)) != (
        state.n,
        state.epsilon,
        len(state.without),
    ):
        return Estimate.missing("The previous record had another probe, ε or grouping.", n=state.n)
    if which == "log_det":
        rate = (state.log_det - previous.log_det) / dt
        change = np.subtract(state.without, previous.without) / dt
    else:
        rate = (state.log_scale - previous.log_scale) / dt
        change = np.subtract(state.scale_without, previous.scale_without) / dt
    spread = t_quantile(len(change) - 1) * float(jackknife_se(change))
    half = math.sqrt(2) * half_width / dt
    unresolved = rate - spread <= 0 <= rate + spread
    return Estimate(
        rate,
        rate - spread,
        rate + spread,
        n=state.n,
        flags=Flag.UNRESOLVED if unresolved else Flag.NONE,
        reason="The interval of the rate contains 0." if unresolved else "",
        null=(-half, half),
    )


def _check(matrix: Array, epsilon: float, groups: int, rows: int) -> int:
    """The door: shapes and arguments. Returns n."""
    if groups < 3:
        raise ValueError(f"The `groups` of `ntk_summary` must be at least 3. Got {groups}.")
    least = 2 * groups * rows
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < least:
        raise ValueError(
            f"The `kernel` of `ntk_summary` must be n x n with n >= {least} for {groups} "
            f"groups. Got shape {matrix.shape}; pass fewer groups or a larger probe."
        )
    if len(matrix) % rows:
        raise ValueError(
            f"The `kernel` of `ntk_summary` must have {rows} `rows` an example. "
            f"Got {len(matrix)} rows in all."
        )
    if not epsilon > 0:
        raise ValueError(f"The `epsilon` of `ntk_summary` must be positive. Got {epsilon}.")
    return len(matrix)


def _missing(reason: str, n: int) -> dict[str, Estimate]:
    return {name: Estimate.missing(reason, n=n) for name in SERIES}
