"""Packing: nothing is lost but detail in buckets, and nan, infinities and flags survive."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest

from foreshock.report.pack import Packer
from tests.report.runs import column


def unpack(packed: dict[str, Any]) -> np.ndarray:
    """What the browser does, in numpy."""
    if "k" in packed:
        return np.full(packed["length"], float(packed["k"]))
    return np.frombuffer(base64.b64decode(packed["b"]), dtype=f"<{packed['t']}").astype(float)


def test_short_series_travels_point_by_point_with_nan_and_inf() -> None:
    value = np.array([1.0, np.nan, np.inf, -np.inf, 2.5])
    packer = Packer(10)
    packed = packer.series(column(value))
    np.testing.assert_array_equal(unpack(packed["y"]), value)
    np.testing.assert_array_equal(unpack(packer.axes[packed["x"]]), np.arange(5))
    assert "x2" not in packed


def test_buckets_hold_every_value_between_their_min_and_max() -> None:
    rng = np.random.default_rng(0)
    value = rng.standard_normal(1003)
    packer = Packer(100)
    packed = packer.series(column(value))
    first, last = unpack(packer.axes[packed["x"]]), unpack(packer.axes[packed["x2"]])
    assert first[0] == 0 and last[-1] == 1002
    np.testing.assert_array_equal(first[1:], last[:-1] + 1)  # no step lost or doubled
    for low, high, mean, a, b in zip(
        *(unpack(packed[k]) for k in ("min", "max", "y")), first, last, strict=True
    ):
        inside = value[int(a) : int(b) + 1]
        # Float32 rounds to 2^-24 = 6e-8 of the value; 1e-6 is ten roundings.
        np.testing.assert_allclose(
            [low, high, mean], [inside.min(), inside.max(), inside.mean()], rtol=1e-6, atol=1e-6
        )


def test_a_bucket_of_nan_stays_a_gap_and_nan_does_not_eat_its_neighbours() -> None:
    value = np.ones(40)
    value[10:20] = np.nan
    value[25] = np.nan
    packed = Packer(4).series(column(value))
    np.testing.assert_array_equal(unpack(packed["y"]), [1, np.nan, 1, 1])


def test_mean_of_huge_values_does_not_overflow() -> None:
    packed = Packer(2).series(column(np.array([1.6e308, 1.7e308, 1.0, 1.0])))
    np.testing.assert_allclose(unpack(packed["y"]), [1.65e308, 1.0], rtol=1e-12)


@pytest.mark.parametrize(
    "value", [[1e300, 2.0], [1e-300, 0.0], [1e9 + 1, 1e9 + 2]], ids=["huge", "tiny", "offset"]
)
def test_what_float32_cannot_show_travels_as_float64(value: list[float]) -> None:
    packed = Packer(10).numbers(np.array(value))
    np.testing.assert_array_equal(unpack(packed), value)


def test_constant_arrays_cost_nothing_and_shared_steps_are_stored_once() -> None:
    packer = Packer(10)
    for name in ("a", "b"):
        packer.series(column(np.full(8, np.nan), name=name))
    assert len(packer.axes) == 1
    assert packer.size == 8  # the steps, one byte each


def test_flags_of_a_bucket_are_the_union() -> None:
    flags = np.array([0, 1, 0, 8, 0, 0])
    packed = Packer(2).series(column(np.arange(6.0), flags=flags, reason=["why"] * 6))
    np.testing.assert_array_equal(unpack(packed["flags"]), [1, 8])
