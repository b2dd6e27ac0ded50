"""Heat maps: every part is a row, colours follow the values, and the numbers stand beside them."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest

from foreshock.report import write_report
from foreshock.report.data import read_run
from foreshock.report.heatmap import COLUMNS, DIVERGING, SEQUENTIAL, draw, heat_maps
from foreshock.store import Run
from foreshock.types import Estimate


def record(path: Path, values: dict[str, list[Estimate | float]]) -> Run:
    run = Run.create(path, config={"name": "parts"})
    series = [{"name": "grad/snr", "layered": True}]
    promised = {"observables": [{"name": "gradient_noise", "series": series}], "left_out": []}
    run.event("observables", "monitor", promised)
    for part in values:
        run.declare(f"grad/snr@{part}", title=f"signal / noise, {part}", unit="1")
    for step in range(max(map(len, values.values()))):
        run.append(
            10 * step, {f"grad/snr@{p}": v[step] for p, v in values.items() if step < len(v)}
        )
    run.flush()
    return run


def test_one_row_a_part_and_one_colour_a_value(tmp_path: Path) -> None:
    with record(tmp_path / "a", {"low": [1.0, 1.0], "high": [1.0, 9.0]}) as run:
        (heat,) = heat_maps([read_run(run, "run")])
        text = str(draw(heat))
    assert heat.parts == ("low", "high") and heat.title == "signal / noise"
    assert re.findall(r"<li title=\"(\w+)\">", text) == ["low", "high"]
    # 1 to 9 on a linear scale: three cells of the first colour in two stretches, one of the last.
    paths = dict((fill, d) for d, fill in re.findall(r'<path d="([^"]+)" fill="(#\w+)"', text))
    assert set(paths) == {SEQUENTIAL[0], SEQUENTIAL[-1]}
    assert paths[SEQUENTIAL[0]].count("M") == 2 and paths[SEQUENTIAL[-1]].count("M") == 1
    assert 'data-last="9.0"' in text


def test_values_of_both_signs_get_white_at_zero(tmp_path: Path) -> None:
    with record(tmp_path / "a", {"a": [-2.0], "b": [1.0]}) as run:
        text = str(draw(heat_maps([read_run(run, "run")])[0]))
    assert "white is 0" in text
    assert DIVERGING[0] in text and DIVERGING[6] in text  # 1 is half of the largest size


def test_what_is_not_resolved_stays_blank(tmp_path: Path) -> None:
    nothing = Estimate.missing("no gradient")
    with record(tmp_path / "a", {"a": [1.0, nothing], "b": [nothing, nothing]}) as run:
        text = str(draw(heat_maps([read_run(run, "run")])[0]))
    coloured = re.findall(r'<path d="([^"]+)" fill=', text)
    assert len(coloured) == 1 and coloured[0].count("M") == 1  # a single cell is painted
    assert re.findall(r'<path d="([^"]+)" class="heat-blank"', text)[0].count("M") == 2
    assert ">2 of 2<" in text
    with record(tmp_path / "b", {"a": [nothing], "b": [math.nan]}) as run:
        text = str(draw(heat_maps([read_run(run, "run")])[0]))
    assert "No part has a value" in text


def test_long_runs_are_averaged_into_few_columns(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    many = [float(v) for v in rng.lognormal(size=2000) * 100]
    with record(tmp_path / "a", {"a": many, "b": [v + 1 for v in many]}) as run:
        text = str(draw(heat_maps([read_run(run, "run")])[0]))
    stretches = sum(d.count("M") for d in re.findall(r'<path d="([^"]+)"', text))
    assert COLUMNS / 2 < stretches <= 2 * COLUMNS
    assert len(text) < 40_000


@pytest.mark.parametrize("twin", [False, True])
def test_the_report_draws_parts_as_one_map_and_not_as_charts(tmp_path: Path, twin: bool) -> None:
    runs = []
    for name in ("a", "b") if twin else ("a",):
        record(tmp_path / name, {"0.weight": [1.0, 2.0], "1.weight": [3.0, 2.0]}).close()
        runs.append(tmp_path / name)
    page = write_report(runs, tmp_path / "r.html").read_text(encoding="utf-8")
    assert page.count('class="chart heat"') == 1
    assert page.count('class="heat-map"') == len(runs)
    assert 'data-title="signal / noise, 0.weight"' not in page


def test_sparse_and_late_measurements_leave_no_holes(tmp_path: Path) -> None:
    """A cell lasts until the next measurement, and the map begins at the first one."""
    with record(tmp_path / "a", {"a": [], "b": []} | {"a": [1.0], "b": [2.0]}) as run:
        for step in (1000, 1001, 2048):
            run.append(step, {"grad/snr@a": 1.0, "grad/snr@b": 2.0})
        run.flush()
        text = str(draw(heat_maps([read_run(run, "run")])[0]))
    rows = re.findall(r"M0.0 \d+h([\d.]+)v", text)
    assert [float(width) for width in rows] == [640.0, 640.0]  # one stretch a row, all of it
    assert "heat-blank" not in text


def test_what_the_user_logged_with_an_at_is_a_chart(tmp_path: Path) -> None:
    with Run.create(tmp_path / "a") as run:
        run.append(0, {"val/acc@1": 0.5, "val/acc@5": 0.9})
    page = write_report(tmp_path / "a", tmp_path / "r.html").read_text(encoding="utf-8")
    assert 'class="chart heat"' not in page and 'data-title="val/acc@5"' in page


def test_a_single_part_is_a_chart_and_no_map(tmp_path: Path) -> None:
    with record(tmp_path / "a", {"only": [1.0]}) as run:
        assert heat_maps([read_run(run, "run")]) == ()
    page = write_report(tmp_path / "a", tmp_path / "r.html").read_text(encoding="utf-8")
    assert 'data-title="signal / noise, only"' in page
