"""Reading a run: everything it recorded arrives, and summaries state exact numbers."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from foreshock.report.data import read_run, summarise
from foreshock.store import Run
from foreshock.types import Estimate, Flag
from tests.report.runs import column


def test_summary_counts_everything_that_is_not_an_ordinary_number() -> None:
    value = np.array([1.0, np.nan, np.inf, -np.inf, 7.0])
    flags = np.array([0, 1, 1, 1, 5])
    summary = summarise(column(value, flags=flags, reason=["", "a", "b", "b", "c"]))
    assert summary is not None
    assert (summary.rows, summary.nan, summary.above, summary.below) == (5, 1, 1, 1)
    assert (summary.minimum, summary.maximum) == (1.0, 7.0)
    assert summary.flags == (("unresolved", 4), ("below_precision", 1))
    assert summary.last_flags == ("unresolved", "below_precision")
    assert summary.reasons[0] == ("b", 2)
    assert summarise(column(np.array([]))) is None


def test_reading_keeps_what_the_run_recorded(make_run: Callable[..., Run]) -> None:
    with make_run(kind="grokking", config={"experiment": "mod 7"}, seed=3) as run:
        run.declare("a/b", title="T", unit="u", taken_at="here", null="zero")
        run.append(0, {"a/b": Estimate(1.0, 0.5, math.inf, n=4, null=(-1.0, 1.0)), "loss": 2.0})
        run.append(5, {"a/b": Estimate.missing("No gradient.", flags=Flag.NOT_CONVERGED)})
        run.event(
            "alarm",
            "d",
            {"series": "a/b", "value": "nan", "threshold": 1, "reason": "r", "forecast": None},
            step=5,
        )
        run.event("milestone", "e", {"name": "onset", "rule": "x"}, step=7)
        run.event("observable_off", "ntk", {"name": "ntk", "reason": "boom"}, step=3)
        run.flush()
        data = read_run(run, "mine")
    assert data.name == "mod 7" and data.last_step == 5 and data.label == "mine"
    read = data.columns["a/b"]
    assert (read.title, read.unit, read.taken_at, read.null) == ("T", "u", "here", "zero")
    assert read.high[0] == math.inf and math.isnan(read.value[1]) and read.null_low[0] == -1
    assert math.isnan(data.alarms[0].value) and data.alarms[0].threshold == 1
    assert data.milestone("onset") is not None and data.milestone("T50") is None
    assert data.switched_off == (("ntk", "boom", 3),)
