"""Milestones: the protocol's definitions on hand-made accuracies."""

from __future__ import annotations

import numpy as np
import pytest

from foreshock.evaluation import milestones


def test_a_lucky_evaluation_is_no_onset() -> None:
    heldout = [0, 0, 0.9, 0, 0, 0, 0.2, 0.3, 0.4, 0.6, 1.0]
    found = milestones(range(0, 110, 10), [1.0] * 11, heldout)
    assert found.onset == 60  # the spike at 20 is taken out by the median
    assert found.t50 == 90


def test_onset_needs_three_in_a_row_and_fits_in_the_run() -> None:
    found = milestones(range(6), [1.0] * 6, [0, 0, 0, 0, 0.5, 0.5])
    assert found.onset is None  # only two evaluations are left
    found = milestones(range(7), [1.0] * 7, [0, 0, 0, 0, 0.5, 0.5, 0.5])
    assert found.onset == 4


def test_levels_are_measured_from_chance() -> None:
    chance = 1 / 4
    heldout = np.linspace(chance, 1, 101) + 1e-9  # above the rounding of the grid
    found = milestones(range(101), np.ones(101), heldout, low=chance)
    assert (found.onset, found.t50, found.t90) == (10, 50, 90)


def test_a_run_without_events_is_censored() -> None:
    found = milestones(range(5), [0.5] * 5, [0.0] * 5)
    assert list(found.items()) == []


@pytest.mark.parametrize("n", [0, 1, 2])
def test_short_runs(n: int) -> None:
    found = milestones(range(n), [1.0] * n, [1.0] * n)
    assert found.onset is None
    assert found.memorised == (0 if n else None)


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="one accuracy of each kind a step"):
        milestones([1, 2], [1.0], [1.0, 1.0])
