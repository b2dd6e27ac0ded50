r"""Fourier measures of a network that adds modulo p: what its logit table is made of.

The table holds the logits of all p² pairs, T[a, b, c]. Its two-dimensional transform over (a, b) is
T^[k, l, c]; a network that computes cos(2πk(a + b − c)/p) has power only at (k, k) and (−k, −k),
the *direction* k. For subtraction the directions are (k, −k) and (−k, k).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Loss = Literal["cross_entropy", "squared"]
Operation = Literal["add", "subtract"]

#: Frequencies called key unless told otherwise: as many as Nanda et al. found in their network.
TOP = 5
#: Draws behind a null band: its ends are known to 2 % of its width.
NULL_DRAWS = 2000


@dataclass(frozen=True)
class TableMeasures:
    """Progress measures of one logit table.

    Args:
        frequencies: The key frequencies, largest power first.
        concentration: Share of the table's power that lies in their directions.
        loss: Mean loss over all pairs.
        restricted: Loss with nothing but the constant and the key directions left.
        excluded: Loss with the key directions taken away, over the pairs asked for.
    """

    frequencies: tuple[int, ...]
    concentration: float
    loss: float
    restricted: float
    excluded: float


def table_measures(
    table: ArrayLike,
    *,
    operation: Operation = "add",
    top: int = TOP,
    loss: Loss = "cross_entropy",
    pairs: ArrayLike | None = None,
) -> TableMeasures:
    r"""Fourier concentration, restricted and excluded loss of a table of logits.

    * Power: rows are centred over c (a shift of a row changes no prediction) and the constant
      T^[0, 0, c] is left out. P_k = Σ_c |T^[k, ±k, c]|² + its conjugate; the key frequencies are
      the ``top`` of 1..p/2 with the largest P_k, and concentration = Σ_key P_k / Σ_{(k,l)≠0} P.
    * Restricted loss: mean over all pairs, of the table with every component set to 0 but the
      constant and those in the key directions.
    * Excluded loss: mean over ``pairs``, of the table without the key directions.

    A table of cos(2πk(a + b − c)/p) has concentration 1, restricted loss = loss, excluded loss =
    log p (cross-entropy): nothing is left. Key frequencies are chosen from the table itself, so the
    concentration of pure noise is above ``top``·2/(p² − 1): `concentration_null` gives its band.

    Cost: O(p³ log p).

    Args:
        table: (p, p, p) Logits T[a, b, c].
        operation: The label of (a, b) is a + b or a − b modulo p.
        top: Number of key frequencies, at most p/2.
        loss: ``cross_entropy`` of the logits, or their mean ``squared`` distance to one-hot.
        pairs: (p, p) Whether a pair counts in the excluded loss; all by default. Published for the
            training pairs.

    Returns:
        The measures.

    Raises:
        ValueError: If the table is not (p, p, p) with p >= 3 and finite, or ``top`` does not fit.

    References:
        Nanda, Chan, Lieberum, Smith & Steinhardt, ICLR 2023, arXiv:2301.05217, section 5.1.

    Examples:
        >>> a, b, c = np.ogrid[:7, :7, :7]
        >>> found = table_measures(30 * np.cos(2 * np.pi * 2 * (a + b - c) / 7), top=1)
        >>> found.frequencies, round(found.concentration, 9), round(found.excluded, 9)
        ((2,), 1.0, 1.945910149)
    """
    logits = np.asarray(table, dtype=np.float64)
    p = len(logits)
    if logits.shape != (p, p, p) or p < 3:
        raise ValueError(f"The `table` of logits must be (p, p, p), p >= 3. Got {logits.shape}.")
    if not np.isfinite(logits).all():
        raise ValueError("The `table` of logits must be finite. Got nan or inf.")
    if not 1 <= top <= p // 2:
        raise ValueError(f"The `top` of `table_measures` must lie in 1..{p // 2}. Got {top}.")
    transform = np.fft.fft2(logits, axes=(0, 1))
    # Centring over c commutes with the transform over (a, b).
    centred = transform - transform.mean(2, keepdims=True)
    power = (centred.real**2 + centred.imag**2).sum(2)  # (p, p)
    power[0, 0] = 0.0
    k = np.arange(1, p // 2 + 1)
    other = k if operation == "add" else -k % p
    mirror = np.where(2 * k == p, 0.0, power[-k % p, -other % p])  # p/2 is its own conjugate
    directions = power[k, other] + mirror
    order = np.argsort(-directions, kind="stable")[:top]
    keys = k[order]
    total = float(power.sum())
    mask = np.zeros((p, p), dtype=bool)
    mask[keys, other[order]] = True
    mask[-keys % p, -other[order] % p] = True
    kept = np.where(mask[..., None], transform, 0.0)
    key_part = np.fft.ifft2(kept, axes=(0, 1)).real
    constant = logits.mean((0, 1))
    a, b = np.ogrid[:p, :p]
    labels = (a + b if operation == "add" else a - b) % p
    counted = np.ones((p, p), bool) if pairs is None else np.asarray(pairs, dtype=bool)
    return TableMeasures(
        tuple(int(key) for key in keys),
        float(directions[order].sum()) / total if total > 0 else float("nan"),
        float(_losses(logits, labels, loss).mean()),
        float(_losses(key_part + constant, labels, loss).mean()),
        float(_losses(logits - key_part, labels, loss)[counted].mean()),
    )


def _losses(table: Array, labels: NDArray[np.int64], loss: Loss) -> Array:
    """(p, p) Loss of every pair."""
    true = np.take_along_axis(table, labels[..., None], axis=2)[..., 0]
    if loss == "squared":
        # |T − onehot|² = |T|² − 2 T_y + 1, meaned over classes as torch does
        return ((table**2).sum(2) - 2 * true + 1) / table.shape[2]
    largest = table.max(2, keepdims=True)
    return np.log(np.exp(table - largest).sum(2)) + largest[..., 0] - true


def rows_concentration(matrix: ArrayLike, top: int = TOP) -> float:
    """Share of a token table's power in its ``top`` strongest frequencies over the tokens.

    The mean over tokens is left out. An embedding that holds nothing but ``top`` circles reads 1.

    Args:
        matrix: (p, m) One row a token.
        top: Number of frequencies, at most p/2.

    Returns:
        The share; nan if the rows are all the same.

    Raises:
        ValueError: If ``top`` does not fit.

    Examples:
        >>> turn = 2 * np.pi * 3 * np.arange(11) / 11
        >>> round(rows_concentration(np.stack([np.cos(turn), np.sin(turn)], 1), top=1), 9)
        1.0
    """
    x = np.asarray(matrix, dtype=np.float64)
    p = len(x)
    if not 1 <= top <= p // 2:
        raise ValueError(f"The `top` of `rows_concentration` must lie in 1..{p // 2}. Got {top}.")
    spectrum = np.fft.rfft(x - x.mean(0), axis=0)
    power = (np.abs(spectrum) ** 2).sum(1)[1:]
    if p % 2 == 0:
        power[-1] /= 2  # p/2 has no conjugate; the others stand for two
    total = float(power.sum())
    return float(np.sort(power)[-top:].sum()) / total if total > 0 else float("nan")


@lru_cache(maxsize=64)
def concentration_null(
    p: int, columns: int, top: int = TOP, *, table: bool = True
) -> tuple[float, float]:
    r"""95 % band of the concentration when the entries are independent Gaussian noise.

    The power of a direction is then σ² χ² with 2·columns degrees of freedom (half of it at p/2),
    so the band is that of the ``top`` largest of p/2 of them over the sum of all, by simulation
    with a private generator.

    Args:
        p: Modulus.
        columns: Independent columns: classes − 1 for a table (rows are centred), the width for an
            embedding.
        top: Number of key frequencies.
        table: Whether the rest of a p × p table is in the sum, or frequencies alone.

    Returns:
        ``(low, high)``.

    Examples:
        >>> low, high = concentration_null(23, 22)
        >>> 5 * 2 / (23**2 - 1) < low < high < 0.03
        True
    """
    rng = np.random.default_rng(0)
    freedom = np.full(p // 2, 2.0 * columns)
    if p % 2 == 0:
        freedom[-1] /= 2
    powers = rng.chisquare(freedom, (NULL_DRAWS, p // 2))
    rest = (p * p - 1) * columns - freedom.sum() if table else 0.0
    total = powers.sum(1) + (rng.chisquare(rest, NULL_DRAWS) if rest > 0 else 0.0)
    share = np.sort(powers, axis=1)[:, -top:].sum(1) / total
    low, high = np.quantile(share, [0.025, 0.975])
    return float(low), float(high)
