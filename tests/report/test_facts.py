"""Sentences about a run: every combination of alarms, milestones, twin; and never a claim."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest

from foreshock.report import facts
from foreshock.report.data import Milestone, RunData
from foreshock.types import Alarm, Forecast

EMPTY = RunData(
    label="run",
    info={},
    state="closed",
    last_step=2000,
    columns={},
    alarms=(),
    milestones=(),
    family={},
    left_out=(),
    switched_off=(),
    notes=(),
    schedule={},
)
HELDOUT = Alarm(210, "heldout_signal", "readout/heldout_signal", 3.4, 3.0, "z > 3 twice")
ONSET = Milestone("onset", 600, "val_acc >= 0.1")
TWIN = replace(EMPTY, label="random-label twin")


def test_headline_of_an_alarm_before_the_onset_with_a_silent_twin() -> None:
    run = replace(EMPTY, alarms=(HELDOUT,), milestones=(ONSET,))
    assert facts.headline(run, TWIN) == (
        "Held-out signal fired at step 210; onset of generalisation at 600 (390 steps later). "
        "In the random-label twin it did not fire."
    )


def test_headline_says_how_far_a_shorter_twin_was_watched() -> None:
    run = replace(EMPTY, alarms=(HELDOUT,), milestones=(ONSET,))
    assert "did not fire (watched up to step 150)" in facts.headline(
        run, replace(TWIN, last_step=150)
    )


def test_headline_of_a_twin_that_fired_too() -> None:
    run = replace(EMPTY, alarms=(HELDOUT,), milestones=(ONSET,))
    twin = replace(TWIN, alarms=(replace(HELDOUT, step=340),))
    assert facts.headline(run, twin).endswith("the same detector fired too, at step 340.")


def test_headline_without_alarm_milestone_or_step() -> None:
    assert facts.headline(EMPTY, None) == (
        "No detector fired up to step 2,000, and no milestone was recorded."
    )
    assert facts.headline(replace(EMPTY, last_step=-1), TWIN) == "No step was recorded."


def test_headline_of_an_alarm_after_the_onset_says_earlier() -> None:
    late = replace(HELDOUT, step=700)
    run = replace(EMPTY, alarms=(late,), milestones=(ONSET,))
    assert "(100 steps earlier)" in facts.headline(run, None)


def test_every_headline_is_sentences_and_never_claims_skill() -> None:
    alarm_sets = ((), (HELDOUT,), (HELDOUT, replace(HELDOUT, detector="turnover", step=900)))
    milestone_sets = ((), (ONSET,), (Milestone("memorised", 160, ""),))
    twins = (None, TWIN, replace(TWIN, last_step=-1), replace(TWIN, alarms=alarm_sets[2][1:]))
    states = ("closed", "crashed", "open")
    texts = {
        facts.headline(replace(EMPTY, alarms=a, milestones=m, state=s), t)
        for a, m, t, s in itertools.product(alarm_sets, milestone_sets, twins, states)
    }
    assert len(texts) == 3 * 3 * 4 * 2  # open and closed read alike, everything else differs
    for text in texts:
        assert text.endswith(".") and ".." not in text and "predict" not in text.lower()
        assert ("crashed" in text) == ("The run crashed" in text)


@pytest.mark.parametrize(
    "step, expected",
    [
        (210, ("390 steps", "2.857")),
        (600, ("0 steps", "1")),
        (601, ("1 step late", "0.9983")),
        (0, ("600 steps", "–")),
    ],
)
def test_lead_is_arithmetic_on_recorded_steps(step: int, expected: tuple[str, str]) -> None:
    run = replace(EMPTY, milestones=(ONSET,))
    assert facts.lead(replace(HELDOUT, step=step), run) == expected


def test_lead_without_onset() -> None:
    assert facts.lead(HELDOUT, EMPTY) == ("no onset", "–")


@pytest.mark.parametrize(
    "forecast, text",
    [
        (
            Forecast("onset", 560, 380, 840, ""),
            "onset came at 600: 40 steps early, inside the interval",
        ),
        (
            Forecast("onset", 900, 700, 990, ""),
            "onset came at 600: 300 steps late, outside the interval",
        ),
        (Forecast("onset", 600, math.nan, math.nan, ""), "onset came at 600: on the step"),
        (Forecast("T90", 600, 1, 2, ""), "T90 was not recorded"),
    ],
)
def test_forecast_against_outcome(forecast: Forecast, text: str) -> None:
    assert facts.forecast_outcome(replace(HELDOUT, forecast=forecast), (ONSET,)) == text


def test_twin_outcome_needs_the_same_detector_on_the_same_series() -> None:
    assert facts.twin_outcome(HELDOUT, None) == "no twin"
    assert facts.twin_outcome(HELDOUT, TWIN) == "silent to 2,000"
    other = replace(TWIN, alarms=(replace(HELDOUT, series="other"),))
    assert facts.twin_outcome(HELDOUT, other) == "silent to 2,000"
    fired = replace(TWIN, alarms=(replace(HELDOUT, step=9),))
    assert facts.twin_outcome(HELDOUT, fired) == "fired at 9"
    assert "only to 100" in facts.twin_outcome(HELDOUT, replace(TWIN, last_step=100))
