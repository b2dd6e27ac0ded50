"""Leads: the hit window, and what lies outside it."""

from __future__ import annotations

import math

import pytest

from foreshock.evaluation import lead


@pytest.mark.parametrize(
    ("alarm", "kind"),
    [
        (0, "early"),
        (149, "early"),
        (150, "warning"),  # onset / 4
        (580, "warning"),  # two evaluations before the onset
        (581, "detection"),
        (750, "detection"),
        (751, "late"),
    ],
)
def test_kinds_around_an_onset_at_600(alarm: int, kind: str) -> None:
    assert lead(alarm, 600, 750, every=10).kind == kind


def test_no_onset_makes_every_alarm_false() -> None:
    judged = lead(100, None, None, every=10)
    assert (judged.kind, judged.steps, judged.log_ratio) == ("false", None, None)


def test_lead_and_ratio() -> None:
    judged = lead(300, 600, None, every=10)
    assert judged.steps == 300
    assert judged.log_ratio == pytest.approx(math.log(2))
    assert lead(0, 600, None, every=10).log_ratio is None
