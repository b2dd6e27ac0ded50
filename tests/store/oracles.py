"""Slow and obvious readings of a run's file, to compare the store with."""

from __future__ import annotations

import math
import sqlite3
from pathlib import Path

import numpy as np


def query(folder: Path, sql: str) -> list[tuple]:
    """Rows of a query on the file of a run, through a connection that only reads."""
    db = sqlite3.connect(f"file:{folder}/data.sqlite?mode=ro", uri=True)
    try:
        return db.execute(sql).fetchall()
    finally:
        db.close()


def number(cell: object) -> float:
    """A cell as a float, by the documented rule."""
    return math.nan if cell is None else float(cell)  # type: ignore[arg-type]


def assert_rollups_match(folder: Path) -> int:
    """Compares the table ``rollup`` with the scalars, bucket by bucket; returns their number."""
    values: dict[tuple[int, int], list[float]] = {}
    for step, series, value in query(folder, "SELECT step, series_id, value FROM scalar"):
        values.setdefault((series, step // 64), []).append(number(value))
    found = {
        (series, bucket): fields
        for series, bucket, *fields in query(
            folder, "SELECT series_id, bucket, min, max, mean, n FROM rollup"
        )
    }
    assert found.keys() == values.keys()
    for key, (low, high, mean, n) in found.items():
        finite = np.array([v for v in values[key] if math.isfinite(v)])
        assert n == len(finite)
        if n == 0:
            assert (low, high, mean) == (None, None, None)
            continue
        assert (number(low), number(high)) == (finite.min(), finite.max())
        # A running mean of n <= 64 values: each of its 3 n roundings is relative to a number no
        # larger than 2 max|v|, and eps = 2.2e-16.
        bound = 6 * n * np.finfo(float).eps * np.abs(finite).max()
        assert abs(number(mean) - math.fsum(v / n for v in finite)) <= bound + 5e-324 * n
    return len(found)


def same(a: float, b: float) -> bool:
    """Equal as values that mean something: nan equals nan, and -0.0 differs from 0.0."""
    return (a != a and b != b) or (a == b and math.copysign(1, a) == math.copysign(1, b))
