"""Turning of the modes: full SVD twin to 1e-12, the operator in weight space, shared-row null."""

import math

import numpy as np
import pytest

from foreshock.stats.window_turn import (
    TURN_SERIES,
    mode_overlaps,
    principal_angles,
    window_turn,
)
from foreshock.types import Flag


def walk(rho: float, p: int, rng: np.random.Generator, n: int = 11) -> np.ndarray:
    """(n, p) AR(1) updates of unit variance."""
    updates = rng.standard_normal((n, p))
    for i in range(1, n):
        updates[i] = rho * updates[i - 1] + math.sqrt(1 - rho**2) * updates[i]
    return updates


def test_overlaps_are_those_of_the_modes_themselves() -> None:
    updates = walk(0.6, 300, np.random.default_rng(0)) * np.linspace(0.5, 2, 11)[:, None]
    found = mode_overlaps(updates @ updates.T)
    before = np.linalg.svd(updates[:-1], full_matrices=False)
    after = np.linalg.svd(updates[1:], full_matrices=False)
    np.testing.assert_allclose(
        np.abs(found.products), np.abs(before[2] @ after[2].T), rtol=0, atol=1e-12
    )
    np.testing.assert_allclose(found.before, before[1], rtol=1e-12)
    np.testing.assert_allclose(found.after, after[1], rtol=1e-12)
    readings = window_turn(updates @ updates.T)
    np.testing.assert_allclose(readings.arrays["update/overlap"], np.abs(found.products), 0, 1e-12)
    from scipy.linalg import subspace_angles

    for k in (1, 2, 3):
        # scipy's own principal angles, by QR and SVD in weight space; arccos near 1 loses half
        # the digits, and these angles are of order 1
        exact = np.degrees(subspace_angles(before[2][:k].T, after[2][:k].T))
        np.testing.assert_allclose(principal_angles(found.products, k), exact[::-1], rtol=1e-9)
        assert readings.scalars[f"update/angle_{k}"].value == pytest.approx(exact[0], rel=1e-9)


def test_the_whole_span_shares_all_rows_but_one() -> None:
    # W - 1 common rows: W - 1 principal angles between the whole spans are 0.
    updates = np.random.default_rng(1).standard_normal((7, 100))
    angles = principal_angles(mode_overlaps(updates @ updates.T).products, 6)
    assert angles[:5].max() < 1e-5 and angles[5] > 30  # arccos(1 - 1e-15) is 3e-6 degrees


def test_change_of_the_trace_is_what_enters_less_what_leaves() -> None:
    updates = walk(0.5, 50, np.random.default_rng(2), 6) * np.arange(1, 7.0)[:, None]
    found = mode_overlaps(updates @ updates.T)
    change = (found.after**2).sum() - (found.before**2).sum()
    assert change == pytest.approx((updates[-1] ** 2).sum() - (updates[0] ** 2).sum())


def test_the_bound_is_that_of_the_operator_in_weight_space() -> None:
    updates = walk(0.7, 60, np.random.default_rng(3), 7) * np.linspace(1, 3, 7)[:, None]
    out = window_turn(updates @ updates.T)
    sigma = np.linalg.svd(updates[1:], compute_uv=False)
    k = int(np.argmax(sigma[:-1] / sigma[1:]))
    unit = updates / np.linalg.norm(updates, axis=1, keepdims=True)
    now, before = unit[1:].T @ unit[1:], unit[:-1].T @ unit[:-1]
    values, vectors = np.linalg.eigh(now)
    gap = values[::-1][k] - values[::-1][k + 1]
    bound = np.linalg.norm(now - before) / gap
    assert out.scalars["update/turning_bound"].value == pytest.approx(bound, rel=1e-9)
    # Davis-Kahan: it bounds the sine of the turn of the first k + 1 modes of this operator.
    _, old = np.linalg.eigh(before)
    lead, was = vectors[:, ::-1][:, : k + 1], old[:, ::-1][:, : k + 1]
    sines = np.sqrt(1 - np.linalg.svd(lead.T @ was, compute_uv=False) ** 2)
    assert np.linalg.norm(sines) <= math.sqrt(2) * bound


def test_the_null_knows_that_windows_share_rows() -> None:
    # Independent updates, W = 5: the audit's mean angles of v1, v2, v3 are 42, 57, 58 degrees for
    # the modes one by one. The band of angle_1 must hold 42, and 95 % of such windows.
    rng = np.random.default_rng(4)
    inside, values = np.zeros(3), []
    for _ in range(150):
        updates = rng.standard_normal((6, 2000))
        out = window_turn(updates @ updates.T).scalars
        values.append(out["update/angle_1"].value)
        for k in (1, 2, 3):
            one = out[f"update/angle_{k}"]
            inside[k - 1] += one.null[0] <= one.value <= one.null[1]
    assert np.mean(values) == pytest.approx(42, abs=6)  # sd of one about 20 degrees
    # 150 at .95: sd .018; the band itself has the error of 199 draws, .015: -4 sd together.
    assert inside.min() / 150 > 0.95 - 4 * math.hypot(0.018, 0.015)
    # A persistent direction turns less than the null allows, two unrelated halves more.
    still = rng.standard_normal((11, 2000)) + 3 * rng.standard_normal((1, 2000))
    one = window_turn(still @ still.T).scalars["update/angle_1"]
    assert one.value < one.null[0]


def test_scale_free() -> None:
    table = (u := walk(0.5, 100, np.random.default_rng(5))) @ u.T
    one = window_turn(table).scalars
    for factor in (1e-120, 1e100):
        other = window_turn(table * factor).scalars
        for name in TURN_SERIES:
            assert other[name].value == pytest.approx(one[name].value, rel=1e-9)
            assert other[name].null == pytest.approx(one[name].null, rel=1e-9)


def test_modes_below_rounding_have_no_angle() -> None:
    updates = np.random.default_rng(6).standard_normal((5, 2)) @ np.eye(2, 50)
    readings = window_turn(updates @ updates.T)
    assert readings.scalars["update/angle_2"].value < 1e-3  # the same plane, digits of a root
    assert Flag.BELOW_PRECISION in readings.scalars["update/angle_3"].flags
    overlap = readings.arrays["update/overlap"]
    assert np.isfinite(overlap[:2, :2]).all() and np.isnan(overlap[2:]).all()
    nothing = window_turn(np.eye(5), precision=0.5).scalars  # W precision above 1: no mode at all
    assert all(Flag.BELOW_PRECISION in one.flags for one in nothing.values())
    line = window_turn(np.ones((5, 5))).scalars
    assert "Only one singular value" in line["update/turning_bound"].reason


def test_a_gap_of_norms_alone_has_no_bound() -> None:
    out = window_turn(np.diag([1.0, 4.0, 9.0, 16.0])).scalars["update/turning_bound"]
    assert "norms alone" in out.reason and math.isnan(out.value)


def test_intervals_of_a_sketch_hold_the_turn_of_the_updates() -> None:
    # Wishart tables R ZZ'R'/m, what a Gaussian sketch of m dimensions gives. 100 cases at 95 %:
    # 95 +- 2.2, bound at -4 sd. At ρ = .5, k* of a third of these sketches is not that of the
    # updates: with k* held, 62 % of the intervals of the bound hold it.
    rng = np.random.default_rng(7)
    held = dict.fromkeys(TURN_SERIES, 0)
    for _ in range(100):
        table = (u := walk(0.5, 2000, rng)) @ u.T
        root, z = np.linalg.cholesky(table), rng.standard_normal((len(table), 4096))
        exact = window_turn(table, draws=19).scalars
        out = window_turn(root @ z @ z.T @ root.T / 4096, sketch=4096, draws=19).scalars
        for name, one in out.items():
            held[name] += one.low <= exact[name].value <= one.high
            assert one.low < one.value < one.high and "4,096 dimensions" in one.reason
            assert exact[name].low == exact[name].high and not exact[name].reason
    assert min(held.values()) >= 86, held


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        pytest.param(np.full((4, 4), np.nan), "nan or inf", id="nan"),
        pytest.param(np.diag([1.0, 0.0, 2.0, 3.0]), "Update 2 of the window", id="zero"),
        pytest.param(np.eye(3), "at least 3 updates", id="narrow"),
    ],
)
def test_nothing_to_compute_is_missing(table: np.ndarray, sentence: str) -> None:
    readings = window_turn(table)
    assert tuple(readings.scalars) == TURN_SERIES and not readings.arrays
    assert all(sentence in e.reason for e in readings.scalars.values())


def test_the_door() -> None:
    with pytest.raises(ValueError, match="`null` of `window_turn` must be one of"):
        window_turn(np.eye(4), null="iid")
    with pytest.raises(ValueError, match="`table` of `window_turn` must be symmetric"):
        window_turn(np.tril(np.ones((4, 4))))
