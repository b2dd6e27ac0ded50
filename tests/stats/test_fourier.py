"""Fourier measures: hand-built tables, a transform by loops, projection by least squares."""

from __future__ import annotations

import math

import numpy as np
import pytest

from foreshock.stats.fourier import (
    Loss,
    Operation,
    concentration_null,
    rows_concentration,
    table_measures,
)


def circle(p: int, frequencies: list[int], sign: int = 1, height: float = 9.0) -> np.ndarray:
    """Logits of a network that computes the answer on the given circles."""
    a, b, c = np.ogrid[:p, :p, :p]
    return sum(height * np.cos(2 * np.pi * k * (a + sign * b - c) / p) for k in frequencies)


def naive_loss(table: np.ndarray, sign: int, loss: Loss) -> np.ndarray:
    p = len(table)
    out = np.zeros((p, p))
    for a in range(p):
        for b in range(p):
            row, y = table[a, b], (a + sign * b) % p
            if loss == "squared":
                out[a, b] = np.mean((row - np.eye(p)[y]) ** 2)
            else:
                out[a, b] = math.log(sum(math.exp(x) for x in row)) - row[y]
    return out


@pytest.mark.parametrize("operation", ["add", "subtract"])
@pytest.mark.parametrize("p", [7, 12, 13])
def test_a_hand_built_network(p: int, operation: Operation) -> None:
    sign = 1 if operation == "add" else -1
    found = table_measures(circle(p, [1, 3], sign), operation=operation, top=2)
    assert set(found.frequencies) == {1, 3}
    assert found.concentration == pytest.approx(1.0, abs=1e-12)
    assert found.restricted == pytest.approx(found.loss, rel=1e-9)
    assert found.excluded == pytest.approx(math.log(p), rel=1e-9)  # nothing is left: uniform
    assert found.loss < 0.1
    # the other operation finds nothing there: its directions hold no power
    wrong = table_measures(
        circle(p, [1, 3], sign), operation="subtract" if operation == "add" else "add", top=2
    )
    assert wrong.concentration < 1e-12 and wrong.restricted == pytest.approx(math.log(p))


def test_the_frequency_without_a_conjugate_counts_once() -> None:
    found = table_measures(circle(8, [4]), top=1)
    assert found.frequencies == (4,) and found.concentration == pytest.approx(1.0)


@pytest.mark.parametrize("loss", ["cross_entropy", "squared"])
@pytest.mark.parametrize("operation", ["add", "subtract"])
def test_any_table_by_projection_on_written_out_waves(operation: Operation, loss: Loss) -> None:
    p, top, sign = 7, 2, 1 if operation == "add" else -1
    rng = np.random.default_rng(0)
    table = (
        rng.standard_normal((p, p, p)) + 0.3 * circle(p, [2], sign, 1.0) + rng.standard_normal(p)
    )
    seen = rng.random((p, p)) < 0.5
    found = table_measures(table, operation=operation, top=top, loss=loss, pairs=seen)
    a, b = (x.ravel() for x in np.meshgrid(np.arange(p), np.arange(p), indexing="ij"))
    rows = table.reshape(p * p, p)
    centred = rows - rows.mean(1, keepdims=True)
    waves = {
        k: np.stack([f(2 * np.pi * k * (a + sign * b) / p) for f in (np.cos, np.sin)], 1)
        for k in range(1, p // 2 + 1)
    }

    def projected(basis: np.ndarray, values: np.ndarray) -> np.ndarray:
        return basis @ np.linalg.lstsq(basis, values, rcond=None)[0]

    power = {k: (projected(w, centred) ** 2).sum() for k, w in waves.items()}
    keys = sorted(power, key=lambda k: -power[k])[:top]
    assert list(found.frequencies) == keys
    rest = ((centred - centred.mean(0)) ** 2).sum()
    assert found.concentration == pytest.approx(sum(power[k] for k in keys) / rest)
    part = projected(np.concatenate([waves[k] for k in keys], 1), rows)
    restricted = (part + rows.mean(0)).reshape(p, p, p)
    assert found.loss == pytest.approx(naive_loss(table, sign, loss).mean())
    assert found.restricted == pytest.approx(naive_loss(restricted, sign, loss).mean())
    excluded = naive_loss((rows - part).reshape(p, p, p), sign, loss)
    assert found.excluded == pytest.approx(excluded[seen].mean())


def test_a_scale_changes_no_concentration_and_a_constant_table_has_none() -> None:
    table = np.random.default_rng(1).standard_normal((11, 11, 11))
    one, other = (table_measures(f * table).concentration for f in (1.0, 1e-6))
    assert one == pytest.approx(other)
    assert math.isnan(table_measures(np.zeros((11, 11, 11))).concentration)


@pytest.mark.parametrize("p", [11, 12])
def test_the_null_band_holds_random_tables(p: int) -> None:
    # 300 tables of noise in a 95 % band: sd .0126 of the share, the band's own ends add as much;
    # four of both together .07
    rng = np.random.default_rng(2)
    low, high = concentration_null(p, p - 1)
    shares = np.array(
        [table_measures(rng.standard_normal((p, p, p))).concentration for _ in range(300)]
    )
    assert abs(np.mean((low <= shares) & (shares <= high)) - 0.95) < 0.07
    low, high = concentration_null(p, 6, 2, table=False)
    shares = np.array([rows_concentration(rng.standard_normal((p, 6)), 2) for _ in range(300)])
    assert abs(np.mean((low <= shares) & (shares <= high)) - 0.95) < 0.07


@pytest.mark.parametrize("p", [9, 10])
def test_rows_by_projection(p: int) -> None:
    x = np.random.default_rng(3).standard_normal((p, 4)) + 5.0
    t, centred = np.arange(p), x - x.mean(0)
    power = []
    for k in range(1, p // 2 + 1):
        basis = np.stack([f(2 * np.pi * k * t / p) for f in (np.cos, np.sin)], 1)
        fit = basis @ np.linalg.lstsq(basis, centred, rcond=1e-9)[0]
        power.append((fit**2).sum())
    expected = sum(sorted(power)[-2:]) / (centred**2).sum()
    assert rows_concentration(x, 2) == pytest.approx(expected)
    assert math.isnan(rows_concentration(np.ones((p, 3)), 1))


@pytest.mark.parametrize(
    ("table", "top", "sentence"),
    [
        (np.zeros((5, 5, 4)), 1, "must be \\(p, p, p\\)"),
        (np.full((5, 5, 5), np.nan), 1, "finite"),
        (np.zeros((5, 5, 5)), 3, "lie in 1..2. Got 3"),
    ],
)
def test_the_door(table: np.ndarray, top: int, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        table_measures(table, top=top)
    with pytest.raises(ValueError, match="1..2"):
        rows_concentration(np.ones((5, 2)), 3)
