"""Every float64, dtype and text comes back from SQLite as it went in."""

from __future__ import annotations

import dataclasses
import math
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshock.store import Run, codec
from foreshock.types import Estimate, Flag
from tests.store.oracles import query, same

SPECIAL = [0.0, -0.0, 5e-324, -5e-324, 1e308, -1e308, math.inf, -math.inf, math.nan, 2.0**53, 1 / 3]
any_float = st.one_of(st.sampled_from(SPECIAL), st.floats(width=64), st.floats(width=64).map(float))
nulls = st.none() | st.tuples(any_float, any_float)


def estimates() -> st.SearchStrategy[Estimate]:
    """Every estimate that its own rules allow."""
    flagged = st.builds(
        Estimate,
        any_float,
        any_float,
        any_float,
        n=st.integers(0, 2**63 - 1),
        flags=st.integers(1, 127).map(Flag),
        reason=st.text(min_size=1),
        null=nulls,
    )
    plain = st.builds(
        Estimate,
        any_float.filter(lambda x: x == x),
        any_float,
        any_float,
        n=st.integers(0, 10),
        null=nulls,
    )
    return flagged | plain


def assert_same(a: Estimate, b: Estimate) -> None:
    assert all(map(same, (a.value, a.low, a.high), (b.value, b.low, b.high)))
    assert (a.null is None) == (b.null is None)
    if a.null is not None and b.null is not None:
        assert all(map(same, a.null, b.null))
    assert (a.n, a.flags, a.reason) == (b.n, b.flags, b.reason)


@settings(derandomize=True, database=None, deadline=None, max_examples=60)
@given(st.lists(estimates(), min_size=1, max_size=30))
def test_estimates_survive_the_file(
    tmp_path_factory: pytest.TempPathFactory, given: list[Estimate]
) -> None:
    path = tmp_path_factory.mktemp("runs") / "run"
    with Run.create(path) as run:
        for step, estimate in enumerate(given):
            run.append(step, {"x": estimate})
    with Run.open(path) as run:
        series = run.series("x")
        replayed = [values["x"] for _, values in run.rows()]
        for i, estimate in enumerate(given):
            assert_same(series.estimate(i), estimate)
            assert_same(replayed[i], estimate)


@settings(derandomize=True, database=None, max_examples=300)
@given(any_float)
def test_every_float_survives_a_real_column(x: float) -> None:
    db = sqlite3.connect(":memory:")
    db.execute("CREATE TABLE t(always REAL, optional REAL)")
    db.execute("INSERT INTO t VALUES (?, ?)", (codec.cell(x), codec.null_cell(x)))
    ((always, optional),) = db.execute("SELECT * FROM t").fetchall()
    db.close()
    assert same(codec.number(always), x)
    # An optional nan is there, unlike an absent one.
    assert optional is not None
    assert same(codec.number(optional), x)
    assert same(float(codec.floats((optional,))[0]), x)


def test_an_absent_null_differs_from_a_nan_null(tmp_path: Path) -> None:
    with Run.create(tmp_path / "run") as run:
        run.append(0, {"x": Estimate(1.0)})
        run.append(1, {"x": Estimate(1.0, null=(math.nan, math.nan))})
        series = run.series("x")
    assert series.has_null.tolist() == [False, True]
    assert np.isnan(series.null_low).all()
    assert series.estimate(0).null is None
    assert series.estimate(1).null is not None


def test_the_commonest_nan_costs_nothing_and_is_skipped_by_sql(tmp_path: Path) -> None:
    with Run.create(tmp_path / "run") as run:
        run.append(0, {"loss": 2.0})
        run.append(1, {"loss": math.nan})
    assert query(tmp_path / "run", "SELECT avg(value), count(value), count(*) FROM scalar") == [
        (2.0, 1, 2)
    ]


@pytest.mark.parametrize(
    "value", [1, True, 0.5, np.float32(0.5), np.int64(3), np.array(2.0)], ids=repr
)
def test_logged_numbers_become_floats(tmp_path: Path, value: object) -> None:
    with Run.create(tmp_path / "run") as run:
        run.append(0, {"x": value})  # type: ignore[dict-item]
        assert run.series("x").estimate(0).value == float(value)  # type: ignore[arg-type]


def test_numpy_numbers_inside_an_estimate_are_bound_as_numbers(tmp_path: Path) -> None:
    odd = Estimate(np.float32(0.5), np.float32(0.25), np.float64(1), n=np.int64(7))  # type: ignore[arg-type]
    with Run.create(tmp_path / "run") as run:
        run.append(0, {"x": odd})
        assert run.series("x").estimate(0) == Estimate(0.5, 0.25, 1.0, n=7)


def test_a_logged_nan_is_kept_and_flagged(tmp_path: Path) -> None:
    with Run.create(tmp_path / "run") as run:
        run.append(0, {"loss": math.nan, "acc": -math.inf})
        loss, acc = run.series("loss").estimate(0), run.series("acc").estimate(0)
    assert math.isnan(loss.value) and acc.value == -math.inf
    assert loss.flags == acc.flags == Flag.UNRESOLVED
    assert acc.reason == "The logged value is -inf."


@pytest.mark.parametrize("value", ["a", None, [1.0, 2.0], np.zeros(3)], ids=repr)
def test_what_is_not_a_number_is_refused_with_advice(tmp_path: Path, value: object) -> None:
    with Run.create(tmp_path / "run") as run:
        with pytest.raises(TypeError, match=r"The value of `x` must be a number or an `Estimate`"):
            run.append(0, {"good": 1.0, "x": value})  # type: ignore[dict-item]
        # Nothing of the refused step was kept.
        assert run.last_step == -1 and run.names() == []


DTYPES = "?bBhHiIqQefdgFDmMSU"


@pytest.mark.parametrize("code", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (5,), (2, 3, 4)], ids=str)
def test_arrays_of_every_dtype_and_shape_survive(
    tmp_path: Path, code: str, shape: tuple[int, ...]
) -> None:
    dtype = np.dtype({"m": "m8[s]", "M": "M8[ns]", "S": "S3", "U": "U2"}.get(code, code))
    generator = np.random.default_rng(0)
    raw = generator.integers(0, 2, size=shape)
    array = np.asarray(raw.astype("i8").astype(dtype))
    with Run.create(tmp_path / "run") as run:
        run.append_array(4, "x", array)
        ((step, found),) = run.arrays("x")
    assert step == 4
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(found, array)
    assert found.flags.writeable


def test_arrays_keep_nan_byte_order_and_values_of_a_transposed_view(tmp_path: Path) -> None:
    array = np.array([[1.0, np.nan, -0.0], [np.inf, 5e-324, 2.0]], dtype=">f8").T
    with Run.create(tmp_path / "run") as run:
        run.append_array(0, "x", array)
        ((_, found),) = run.arrays("x")
    assert found.dtype == np.dtype(">f8")
    assert found.tobytes() == array.tobytes()


@pytest.mark.parametrize(
    "array", [np.array([object()]), np.zeros(2, dtype="i4,f8")], ids=["O", "V"]
)
def test_arrays_without_meaning_elsewhere_are_refused(tmp_path: Path, array: np.ndarray) -> None:
    with Run.create(tmp_path / "run") as run:
        with pytest.raises(TypeError, match=r"The array `x` must hold numbers.*`\.astype"):
            run.append_array(0, "x", array)


def test_json_keeps_what_a_configuration_holds() -> None:
    @dataclasses.dataclass
    class Config:
        lr: float = 0.1

    import json

    found = json.loads(
        codec.dumps(
            {
                "a": np.float32(0.5),
                "b": np.arange(2),
                "c": Path("x"),
                "d": Config(),
                "e": {3},
                "f": math.inf,
                "g": print,
            }
        )
    )
    expected = {"a": 0.5, "b": [0, 1], "c": "x", "d": {"lr": 0.1}, "e": [3], "f": math.inf}
    assert found == expected | {"g": str(print)}


def test_text_that_sqlite_would_refuse_does_not_block_the_run(tmp_path: Path) -> None:
    with Run.create(tmp_path / "run") as run:
        run.append(0, {"x": Estimate.missing("lone \ud800 surrogate")})
        run.event("note", "\udfff", {"text": "\ud800"})
        run.flush()
        assert run.series("x").reason == ["lone ? surrogate"]
        assert run.events("note")[0].payload == {"text": "\ud800"}
