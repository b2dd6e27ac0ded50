"""Catalogue of the update window: what it promises, with the measured level of the bands."""

from __future__ import annotations

from foreshock.estimators.update_series import PARTS, window_series
from foreshock.stats.window import SERIES
from foreshock.stats.window_turn import TURN_SERIES


def test_entries_are_the_series_that_are_computed() -> None:
    found = window_series("noise", "5 % outside", "30 % outside")
    assert {one.name for one in found if not one.array} == {*SERIES, *TURN_SERIES}
    assert {one.name for one in found if one.layered} == set(PARTS)


def test_the_ratio_states_a_level_of_its_own() -> None:
    nulls = {one.name: one.null for one in window_series("noise", "5 % outside", "30 % outside")}
    assert nulls["update/ratio"] == "noise; 30 % outside"
    assert nulls["update/sigma_1"] == nulls["update/gap_2"] == "noise; 5 % outside"
    assert "share W-1 updates; 5 % outside" in nulls["update/angle_1"]
