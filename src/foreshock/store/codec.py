"""How numbers, arrays and JSON are laid down in SQLite, so that every bit that matters comes back.

SQLite binds a nan as NULL and stores -0.0 as 0.0. The rule, for every column of floats:

- a finite number other than -0.0, and +-inf, is stored as REAL;
- -0.0 is the BLOB ``'-0.0'`` (a BLOB, because the REAL affinity would turn a TEXT into a number);
- NULL in ``value``, ``low``, ``high`` is nan: these always exist, and the interval of a number that
  a user logged is ``(nan, nan)``, so the commonest nan costs no byte and SQL aggregates skip it;
- NULL in ``null_low`` or ``null_high`` is "no null"; a nan there is the BLOB ``'nan'``.

The sign and payload bits of a nan are not kept: nothing in Foreshock gives them a meaning.
"""

from __future__ import annotations

import dataclasses
import json
import math
import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from foreshock.types import Estimate, Flag

Cell: TypeAlias = float | bytes | None
#: step, series_id, value, low, high, null_low, null_high, n, flags, note_id
Row: TypeAlias = tuple[int, int, Cell, Cell, Cell, Cell, Cell, int, int, int | None]

_NEGATIVE_ZERO = b"-0.0"
_NAN = b"nan"
_INT64 = 2**63
# Kinds of numpy dtype whose bytes mean the same in another process: bool, integers, floats,
# complex, dates and fixed-width text. Not objects (pointers) nor void (structs; also bfloat16).
_KINDS = "biufcmMSU"


def cell(x: float) -> Cell:
    """What is bound for a float that always exists (nan becomes NULL by SQLite's own doing)."""
    # `or` is the cheapest test for both zeros: this runs 3 times for every recorded scalar.
    return x or (_NEGATIVE_ZERO if math.copysign(1.0, x) < 0 else 0.0)


def null_cell(x: float) -> Cell:
    """What is bound for one end of a null band that exists."""
    return _NAN if x != x else cell(x)


def number(stored: Cell) -> float:
    """The float behind a cell; NULL reads as nan."""
    return math.nan if stored is None else float(stored)


def as_estimate(name: str, value: Any) -> Estimate:
    """A logged number as an `Estimate`; one that is not finite is kept and flagged.

    Args:
        name: Name of the series, for the message.
        value: An `Estimate`, or what `float` takes.

    Returns:
        The estimate.

    Raises:
        TypeError: If the value is not a number.
    """
    if isinstance(value, Estimate):
        return value
    try:
        x = float(value)
    except (TypeError, ValueError):
        raise TypeError(
            f"The value of `{name}` must be a number or an `Estimate`. Got {type(value).__name__}. "
            "Take `.item()` of a one-element tensor; use `append_array` for a numpy array."
        ) from None
    if math.isfinite(x):
        return Estimate(x)
    return Estimate(x, flags=Flag.UNRESOLVED, reason=f"The logged value is {x}.")


def encode(step: int, series_id: int, estimate: Estimate, note_id: int | None) -> Row:
    """One row of the table ``scalar``.

    Args:
        step: Optimizer step.
        series_id: Id of the series.
        estimate: What was measured.
        note_id: Id of its reason.

    Returns:
        The row, as it is bound.

    Raises:
        ValueError: If a count does not fit 64 bits, which would fail only at the commit.
    """
    null = estimate.null
    n, flags = operator.index(estimate.n), int(estimate.flags)  # np.int64 would not bind
    if not -_INT64 <= n < _INT64:
        raise ValueError(f"The `n` of an `Estimate` must fit 64 bits. Got {n}.")
    # float() because sqlite3 would store a np.float32 as a BLOB of its raw bytes.
    return (
        step,
        series_id,
        cell(float(estimate.value)),
        cell(float(estimate.low)),
        cell(float(estimate.high)),
        None if null is None else null_cell(float(null[0])),
        None if null is None else null_cell(float(null[1])),
        n,
        flags,
        note_id,
    )


def decode(row: tuple[Any, ...], reason: str) -> Estimate:
    """The `Estimate` of a row ``(value, low, high, null_low, null_high, n, flags)``."""
    value, low, high, null_low, null_high, n, flags = row
    null = None if null_low is None else (number(null_low), number(null_high))
    return Estimate(
        number(value),
        number(low),
        number(high),
        n,
        Flag(flags) if flags else Flag.NONE,
        reason,
        null,
    )


def floats(column: tuple[Cell, ...]) -> np.ndarray:
    """A column of cells as float64: numpy reads None as nan and a tag as the number it spells."""
    return np.array(column, dtype=np.float64)


def encode_array(name: str, array: Any) -> tuple[str, str, bytes]:
    """An array as SQLite keeps it.

    Args:
        name: Name of the series, for the message.
        array: What `numpy.asarray` takes.

    Returns:
        ``(dtype, shape, bytes)``: C order, the byte order is part of the dtype.

    Raises:
        TypeError: If the dtype has no meaning outside this process.
    """
    a = np.asarray(array)
    if a.dtype.kind not in _KINDS:
        raise TypeError(
            f"The array `{name}` must hold numbers, booleans, dates or text. Got dtype {a.dtype}. "
            "Convert it first, for example with `.astype(np.float32)`."
        )
    return a.dtype.str, json.dumps(a.shape), a.tobytes()


def decode_array(dtype: str, shape: str, data: bytes) -> np.ndarray:
    """The array behind ``(dtype, shape, bytes)``; a copy that may be written to."""
    out = np.empty(json.loads(shape), dtype=np.dtype(dtype))
    if out.size:
        out[...] = np.ndarray(out.shape, out.dtype, buffer=data)
    return out


def dumps(value: Any) -> str:
    """JSON as Python writes it: nan and infinities appear as ``NaN`` and ``Infinity``."""
    return json.dumps(value, default=_plain)


def _plain(value: Any) -> Any:
    """A JSON value for what a configuration may hold besides JSON; at worst its ``str``."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=str)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    return str(value)


def text(value: str) -> str:
    """The text with lone surrogates replaced: SQLite refuses them, and only at the commit."""
    return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")
