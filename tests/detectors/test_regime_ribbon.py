"""Labels of the published tables, band by band, and when a change of regime is one."""

from __future__ import annotations

import math

import pytest

from foreshock.detectors import Judge, RegimeRibbon, resolve
from foreshock.detectors.record import alarm_record, recorded_alarms
from foreshock.detectors.regime_tables import TABLES
from foreshock.types import Alarm, Estimate

#: One number inside every band of each table, and the label that the document's table prints.
BANDS = {
    "signal_p": [
        (0.3, "failing"), (0.45, "sub-threshold"), (0.55, "critical"), (0.7, "learning"),
        (0.8, "strong"),
    ],
    "signal_c": [
        (0.5, "failing"), (0.8, "sub-threshold"), (1.2, "critical"), (2.0, "learning"),
        (4.0, "strong"),
    ],
    "signal_phase": [(0.2, "exploration"), (0.5, "transition"), (0.8, "generalization")],
    "signal_i": [
        (-0.1, "divergence"), (0.05, "stagnation"), (0.3, "transition"), (0.6, "healthy"),
    ],
    "langevin": [
        (20.0, "deterministic"), (5.0, "transitional"), (1.0, "critical"), (0.3, "diffusive"),
    ],
    "fokker_planck": [(20.0, "exploitation"), (5.0, "balanced"), (0.5, "exploration")],
    "levy_s": [(0.0, "edge"), (0.6, "stable"), (-0.5, "divergence"), (0.3, "unnamed")],
    "spectral_edge": [(0.01, "plateau"), (1.0, "transition"), (50.0, "forgetting")],
}  # fmt: skip


def run(rule: RegimeRibbon, rows: list[dict[str, Estimate]]) -> list[Alarm]:
    judge = Judge([rule])
    return [alarm for step, row in enumerate(rows) for alarm in judge.feed(step, row)]


def single(rule: RegimeRibbon, values: list[float]) -> list[Alarm]:
    return run(rule, [{rule.series: Estimate.plain(x)} for x in values])


def test_every_table_is_here() -> None:
    assert set(BANDS) | {"levy"} == set(TABLES)


@pytest.mark.parametrize("table", BANDS)
def test_labels_of_a_table(table: str) -> None:
    numbers, labels = zip(*BANDS[table], strict=True)
    found = single(RegimeRibbon(table), list(numbers))
    assert [alarm.label for alarm in found] == list(labels)
    for before, alarm in zip(found, found[1:], strict=False):
        assert f"from {before.label} to {alarm.label}" in alarm.reason
        assert TABLES[table].advice.get(alarm.label, "no word") in alarm.reason


def test_the_partial_regimes_read_three_numbers() -> None:
    rule = RegimeRibbon("levy")
    triples = [(1.0, 2.0, 0.0), (5.0, 0.0, 0.0), (0.1, 2.0, 0.9), (1.0, 0.0, 0.9), (9.0, 2.0, 0.0)]
    rows = [
        {n: Estimate.plain(x) for n, x in zip(rule.reads, triple, strict=True)}
        for triple in triples
    ]
    labels = ["exploratory", "edge-walking", "noisy flux", "aligned", "unnamed"]
    assert [alarm.label for alarm in run(rule, rows)] == labels
    assert run(rule, [{n: row[n] for n in rule.reads[:2]} for row in rows]) == []


def test_only_changes_alarm_and_nan_is_no_regime() -> None:
    rule = RegimeRibbon("signal_p")
    rows = [{rule.series: Estimate.plain(x)} for x in (0.3, 0.31, 0.8, 0.8)]
    gap = {rule.series: Estimate.missing("No gradient.")}
    found = run(rule, [rows[0], gap, rows[1], gap, rows[2], rows[3]])
    assert [(a.step, a.label) for a in found] == [(0, "failing"), (4, "strong")]
    assert [a.threshold for a in found] == [0.4, 0.4]


def test_a_new_regime_can_be_asked_to_stand() -> None:
    rule = RegimeRibbon("signal_p", persist=3)
    # Two records of another, two of a third, then three of it in a row.
    values = [0.3, 0.8, 0.8, 0.3, 0.8, 0.8, 0.55, 0.55, 0.55, 0.55]
    found = single(rule, values)
    assert [(a.step, a.label) for a in found] == [(0, "failing"), (8, "critical")]


def test_widths_of_about() -> None:
    assert single(RegimeRibbon("langevin", width=0.01), [1.1])[0].label == "transitional"
    assert single(RegimeRibbon("langevin"), [1.1])[0].label == "critical"
    assert single(RegimeRibbon("spectral_edge", width=100.0), [50.0])[0].label == "transition"


def test_a_table_or_a_series_by_name() -> None:
    assert resolve("regime_ribbon:langevin") == RegimeRibbon("langevin")
    assert resolve("regime_ribbon:grad/p_published").reads == ("grad/p_published",)


def test_bad_arguments_are_refused() -> None:
    for wrong, words in (
        ({"table": "astrology"}, "must be one of signal_p"),
        ({"persist": 0}, "at least 1"),
        ({"width": -1.0}, "positive"),
        ({"table": "spectral_edge", "width": 0.5}, "a factor"),
    ):
        with pytest.raises(ValueError, match=words):
            RegimeRibbon(**wrong)


def test_a_label_survives_the_record_and_others_have_none() -> None:
    alarm = single(RegimeRibbon(), [0.3])[0]
    plain = Alarm(3, "cusum", "loss", 11.0, 10.0, "It rose.")
    assert "label" not in alarm_record(plain)

    class Event:
        def __init__(self, alarm: Alarm) -> None:
            self.step, self.source, self.payload = alarm.step, alarm.detector, alarm_record(alarm)

    assert recorded_alarms([Event(alarm), Event(plain)]) == [alarm, plain]


def test_an_alarm_names_the_edge_that_was_crossed_first() -> None:
    # Strong is above .75 and learning above .6; a first regime has the nearest edge.
    found = single(RegimeRibbon("signal_p"), [0.9, 0.61, 0.9, 0.3, 0.55])
    assert [a.threshold for a in found] == [0.75, 0.75, 0.75, 0.75, 0.40]
    # "About 1" has no edge of its own: the nearest.
    assert [a.threshold for a in single(RegimeRibbon("langevin"), [3.0, 1.1])] == [1.0, 1.0]
    # C stays where it is, and the other two decide.
    rule = RegimeRibbon("levy")
    rows = [dict(zip(rule.reads, map(Estimate.plain, (c, 0.0, 0.9)), strict=True)) for c in (1, 5)]
    rows += [dict(zip(rule.reads, map(Estimate.plain, (5, 2.0, 0.9)), strict=True))]
    first, second, third = run(rule, rows)
    assert second.threshold == 1.2 and math.isnan(third.threshold)
    assert first.label != second.label != third.label
