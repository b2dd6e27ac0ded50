"""Figures of a run: every curve in its place, numbers beside it, nothing that is not finite."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from foreshock.report import write_report
from foreshock.report.data import read_run
from foreshock.report.facts import headline
from foreshock.report.heatmap import SEQUENTIAL
from foreshock.report.plots import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, _ticks, compared, plot
from foreshock.store import Comparison, Curve, Field, Figure, Run, record
from foreshock.types import Estimate


def draw(*curves: Curve, **look: object) -> str:
    return str(plot(Figure("a", "A", "x", "y", curves, **look), "f"))  # type: ignore[arg-type]


def test_a_line_runs_from_corner_to_corner() -> None:
    text = draw(Curve("c", [0, 10], [0, 1]))
    room = 0.05 / 1.1 * (HEIGHT - TOP - BOTTOM)  # 5 % above and below the curve
    start = f"M{LEFT:.1f} {HEIGHT - BOTTOM - room:.1f}"
    assert f'd="{start}L{WIDTH - RIGHT:.1f} {TOP + room:.1f}"' in text


def test_a_logarithmic_axis_puts_the_geometric_mean_in_the_middle_and_drops_what_has_no_log() -> (
    None
):
    text = draw(Curve("c", [1, 10, 100, 0, 100], [1, 2, 3, 3, 1]), log_x=True)
    path = re.findall(r'd="(M[^"]+)" class="plot-line', text)[0]
    places = [float(x) for x in re.findall(r"[ML]([\d.]+) ", path)]
    assert places == pytest.approx([LEFT, (LEFT + WIDTH - RIGHT) / 2, *[WIDTH - RIGHT] * 2])
    assert path.count("M") == 2  # the pen is lifted over x = 0


def test_what_is_not_finite_lifts_the_pen_and_never_reaches_the_page() -> None:
    values = [1.0, math.nan, math.inf, 2.0, 3.0]
    for look in ("line", "dashed", "points", "steps"):
        text = draw(Curve("c", range(5), values, [0, 0, 0, math.nan, 0], [4] * 5, look=look))
        svg = text[text.index("<svg") : text.index("</svg>")]
        assert "nan" not in svg and "inf" not in svg
    assert draw(Curve("c", range(5), values, look="points")).count("<circle") == 3
    assert "no finite point" in draw(Curve("c", [1.0], [math.nan]))
    assert "no finite point" in draw()


def test_a_constant_and_a_single_point_have_axes() -> None:
    assert "<circle" in draw(Curve("c", [2.0], [3.0], look="points"))
    assert draw(Curve("c", [0, 1], [5, 5])).count("<text") >= 6


def test_extreme_numbers_are_drawn_and_their_ticks_differ() -> None:
    for values in ([1e17, 1e17], [1e-15, 5e-15], [-1e308, 1e308], [1e17, 1e17 + 64]):
        text = draw(Curve("c", [0.0, 1.0], values))
        svg = text[text.index("<svg") : text.index("</svg>")]
        assert "nan" not in svg and "inf" not in svg
    assert len(set(_ticks((1e-15, 5e-15), log=False))) >= 4
    assert _ticks((0.0, 0.5), log=False) == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
    assert len(set(_ticks((-12.3, -11.9), log=True))) >= 3


def test_a_logarithmic_axis_has_three_ticks_at_least_at_round_numbers() -> None:
    def ticks(low: float, high: float) -> list[float]:
        return _ticks((math.log10(low), math.log10(high)), log=True)

    assert ticks(0.04, 0.3) == [0.05, 0.1, 0.2]
    assert ticks(0.3, 15) == [0.5, 1.0, 2.0, 5.0, 10.0]  # 1.7 decades, two powers
    assert ticks(0.09, 11) == [0.1, 1.0, 10.0]
    assert ticks(1e-7, 1e7) == pytest.approx([1e-6, 1e-3, 1, 1e3, 1e6])
    assert ticks(2.1, 4.9) == [2.5, 3.0, 3.5, 4.0, 4.5]  # no digits inside: evenly spaced


def test_dots_keep_clear_of_the_edge_and_are_dots_in_the_key() -> None:
    text = draw(Curve("c", [0, 10], [0, 1], look="points"), Curve("d", [0, 10], [0, 1]))
    places = [float(x) for x in re.findall(r'cx="([\d.]+)"', text)]
    room = 0.02 / 1.04 * (WIDTH - LEFT - RIGHT)
    # Half a tenth is what the drawing rounds to; a dot has a radius of 2.6.
    assert places == pytest.approx([LEFT + room, WIDTH - RIGHT - room], abs=0.06) and room > 2.6
    assert re.findall(r'"swatch ([^"]+)"', text) == ["c0 points", "c1"]


def test_cells_take_the_colours_of_their_values() -> None:
    field = Field([0, 1, 2, 3], [0, 1, 2], [[1, 1, 2], [math.nan, 2, 2]], label="density")
    text = draw(Curve("path", [0, 3], [0, 2]), field=field)
    fills = {fill: d.count("M") for d, fill in re.findall(r'<path d="([^"]+)" fill="(#\w+)"', text)}
    # Two cells of 1 in one stretch; the 2s in a stretch of one and a stretch of two; nan is empty.
    assert fills == {SEQUENTIAL[0]: 1, SEQUENTIAL[-1]: 2}
    assert "density: 1" in text


def test_arrows_point_along_the_flow() -> None:
    field = Field([0, 1], [0, 1], [[1.0]], ((0.2, 0.5, 0.5, 0.0), (0.5, 0.5, 0.0, 0.0)))
    path = re.findall(r'd="([^"]+)" class="plot-arrows above"', draw(field=field))[0]
    (x0, y0), (x1, y1) = [tuple(map(float, p)) for p in re.findall(r"([\d.]+) ([\d.]+)", path)[:2]]
    assert x1 - x0 == pytest.approx(0.5 * (WIDTH - LEFT - RIGHT), abs=0.1) and y0 == y1
    assert path.count("M") == 2  # a shaft and a head; the flow of length 0 is not drawn


def test_the_table_says_who_agrees(tmp_path: Path) -> None:
    told = [
        Comparison("inside", Estimate(1.0, 0.9, 1.1), 1.05),
        Comparison("biased", Estimate(1.0, 0.9, 1.1), 1.15, bias=0.1),
        Comparison("outside", Estimate(1.0, 0.9, 1.1), 2.0),
        Comparison("as written", Estimate(1.0, 1.0, 1.0), 2.0, published=True),
        Comparison("open", Estimate.plain(1.0), 2.0),
    ]
    with Run.create(tmp_path / "a", kind="simulation") as run:
        run.append(0, {"x": 1.0})
        record(run, *told)
        data = read_run(run, "run")
    page = str(compared([data]))
    told_as = re.findall(r'data-label="measured">([^<]+)<', page)
    assert told_as == [*["1 [0.9, 1.1]"] * 3, "1, without noise", "1"]
    rows = re.findall(r'scope="row">([^<]+)</th>.*?data-label="verdict"[^>]*>([^<]+)<', page)
    assert dict(rows) == {
        "inside": "agrees",
        "biased": "agrees within the method&#x27;s own error of 0.1",
        "outside": "differs",
        "as written": "as published: differs",
        "open": "shown, not judged",
    }
    assert headline(data, None) == (
        "2 of 3 measured numbers agree with the exact ones; outside differs. "
        "Of 3 intervals of 95 %, 0.2 miss by chance. Of 1 published forms beside them 1 differs."
    )


def test_a_simulation_has_figures_and_no_sections_about_training(tmp_path: Path) -> None:
    for kind in ("simulation", "run"):
        with Run.create(
            tmp_path / kind, kind=kind, config={"name": "<well>", "about": "U < 1"}
        ) as run:
            run.append(0, {"sim/energy": 1.0})
            record(run, Figure("a", "<b>A", "<x>", "y", (Curve("<c>", [0, 1], [0, 1]),)))
        page = write_report(tmp_path / kind, tmp_path / f"{kind}.html").read_text(encoding="utf-8")
        sections = re.findall(r'<section id="(\w+)"', page)
        rest = ["series", "provenance"]
        if kind == "run":
            rest = ["alarms", "learning", "signal", "series", "cost", "provenance"]
        assert sections == ["figures", *rest]
        assert re.findall(r'<a href="#(\w+)">', page)[: len(sections)] == sections
        assert "<b>A" not in page and "&lt;c&gt;" in page
        assert '<p class="lead">U &lt; 1</p>' in page
        assert page.count("U &lt; 1") == 1  # not again among the configuration
