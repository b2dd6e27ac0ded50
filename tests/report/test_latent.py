"""The section on the cloud of latents: there when there is one, true to the record, and light."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from foreshock.report import write_report
from foreshock.report.data import read_run
from foreshock.report.latent_pictures import PICTURES, POINTS, chosen, planes
from foreshock.store import Run
from foreshock.types import Estimate
from tests.report.latent_runs import REASON, plane, write_latent
from tests.report.runs import HOSTILE
from tests.report.test_html import Page


def section(text: str, key: str = "latent") -> str:
    found = re.search(rf'<section id="{key}".*?</section>', text, re.DOTALL)
    return found.group() if found else ""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("latent")
    return write_latent(folder / "a"), write_latent(folder / "b", frozen=True, seed=1)


@pytest.fixture(scope="module")
def text(runs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("page") / "report.html"
    return write_report(runs, out).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def cells(page: Page, key: str) -> dict[str, dict[str, str | None]]:
    return {str(a[key]): a for _tag, a in page.elements if key in a}


def test_every_number_of_a_table_is_the_recorded_one(page: Page, runs: tuple[Path, Path]) -> None:
    parts, rest = cells(page, "data-part"), cells(page, "data-validity")
    published = cells(page, "data-published")
    assert len(parts) == 6 and set(rest) == {"latent/kernel_ess", "latent/common_noise"}
    assert set(published) == {"published/c_fp", "published/s_dot_fp"}
    with Run.open(runs[0]) as run:
        for name, cell in (rest | published).items():
            assert cell["data-value"] == repr(float(run.series(name).value[-1]))
        for name, cell in parts.items():
            series = run.series(name)
            good = np.flatnonzero(np.isfinite(series.value) & (series.flags & 1 == 0))
            if not good.size:
                assert cell["data-value"] == "nan" and name == "latent/entropy_production@class1"
                continue
            assert cell["data-value"] == repr(float(series.value[good[-1]]))
            assert cell["data-step"] == str(series.step[good[-1]])
        # The last resolved one, not the last: these stop at 900, the run at 1,950.
        assert parts["latent/entropy_production@class0"]["data-step"] == "900"
        flagged = int(np.count_nonzero(run.series("latent/entropy_production").flags))
        assert f"{flagged} of 40 records of latent/entropy_production are flagged" in page.text
        z, labels = run.arrays("latent/z"), run.arrays("latent/labels")[0][1]
        for _tag, cell in page.elements:
            if str(cell.get("data-cloud")).startswith("class"):
                rows = labels == int(str(cell["data-cloud"]).removeprefix("class "))
                cloud = dict(z)[int(str(cell["data-step"]))][rows].astype(float)
                shown = [float(value) for value in str(cell["data-mean"]).split()]
                assert shown == pytest.approx(cloud.mean(0).tolist(), abs=1e-12)


def test_a_twin_in_which_nothing_moves_is_a_sentence_and_no_line(page: Page) -> None:
    assert "In the null twin nothing moves that could be told from 0" in page.text
    assert REASON in page.text
    charts = {chart["key"]: chart for chart in page.data["charts"]}
    drawn = [line["label"] for line in charts["latent-entropy"]["lines"]]
    assert drawn == ["estimate", "lower bound"]
    assert [line["oneSided"] for line in charts["latent-entropy"]["lines"]] == [False, True]


def test_a_twin_that_moves_is_in_the_same_chart(tmp_path: Path) -> None:
    pair = [write_latent(tmp_path / name, records=5, seed=i) for i, name in enumerate("ab")]
    page = Page(write_report(pair, tmp_path / "r.html").read_text(encoding="utf-8"))
    chart = next(c for c in page.data["charts"] if c["key"] == "latent-entropy")
    assert [line["run"] for line in chart["lines"]] == [0, 0, 1, 1]
    assert "nothing moves" not in page.text


def test_a_run_without_latents_has_no_section(make_run: Callable[..., Run], tmp_path: Path) -> None:
    with make_run() as run:
        run.append(0, {"loss": 1.0, "published/c_fp": 2.0})
    text = write_report(tmp_path / "run", tmp_path / "r.html").read_text(encoding="utf-8")
    assert section(text) == "" and 'href="#latent"' not in text
    assert section(text, "actions") == "" and 'href="#actions"' not in text


def test_what_is_shown_here_is_not_shown_again_below(text: str) -> None:
    below = section(text, "series")
    for name in ("entropy_production", "entropy_production_bound", "c"):
        assert f">latent/{name}<" not in below
    for name in ("z", "basis", "labels", "plane", "plane_axes"):
        assert f"latent/{name}<" not in below
    assert "latent/w2_start" in below


def test_the_pictures_are_valid_svg_and_their_arrows_follow_the_flux(
    text: str, runs: tuple[Path, Path]
) -> None:
    drawings = re.findall(r"<svg viewBox.*?</svg>", section(text), re.DOTALL)
    assert len(drawings) == 4 + 2  # the flux at four steps, the cloud at two
    for drawing in drawings:
        root = ElementTree.fromstring(drawing)
        numbers = [float(n) for n in re.findall(r"-?\d+\.\d", drawing)]
        assert root.get("role") == "img" and all(map(math.isfinite, numbers))
    # The process turns clockwise: in the upper half of the last plane all arrows point right.
    marks = ElementTree.fromstring(drawings[3]).findall(".//path[@class='plot-arrows above']")
    arrows = re.findall(r"M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)M", str(marks[0].get("d")))
    ends = np.array(arrows, dtype=float)
    middle = (8 + 300 - 34) / 2  # of the drawing, whose vertical axis points down
    upper, lower = ends[ends[:, 1] < middle - 25], ends[ends[:, 1] > middle + 25]
    assert len(upper) > 10 and (upper[:, 2] > upper[:, 0]).all()
    assert len(lower) > 10 and (lower[:, 2] < lower[:, 0]).all()


def test_planes_keep_the_orientation_of_the_record(runs: tuple[Path, Path]) -> None:
    with Run.open(runs[0]) as run:
        found, refused = planes(read_run(run, "run"))
    assert (len(found), refused) == (40, 0)
    stack, axes = plane(50.0)
    one = found[1]
    assert one.step == 50 and np.allclose(one.x, axes[0]) and np.allclose(one.y, axes[1])
    assert np.allclose(one.density, stack[0]) and np.allclose(one.flux, stack[1:3])


def test_cells_lie_where_the_density_is_and_no_arrow_reaches_the_next(
    make_run: Callable[..., Run], tmp_path: Path
) -> None:
    """A cloud that is long across and flat, with a flux that points up only."""
    nodes = np.linspace(-1.0, 1.0, 11)
    x, y = np.meshgrid(nodes, nodes, indexing="ij")
    density = np.exp(-np.square(x) / 2 - np.square(y) / 0.02)  # below a thousandth at |y| = 0.4
    stack = np.stack([density, 0 * x, density, 0 * x, np.nan * x])
    with make_run() as run:
        run.append_array(0, "latent/plane", stack)
        run.append_array(0, "latent/plane_axes", np.stack([nodes, nodes]))
    text = section(write_report(tmp_path / "run", tmp_path / "r.html").read_text(encoding="utf-8"))
    cells = re.findall(r"M([\d.]+) ([\d.]+)H([\d.]+)V([\d.]+)H", text)
    left, foot, right, top = np.array(cells, dtype=float).T
    across, up = 560 - 58 - 12, 300 - 8 - 34
    assert right.max() - left.min() > 0.99 * across
    assert foot.max() - top.min() == pytest.approx(3 / 11 * up, abs=1)  # 3 rows of 11
    arrows = np.array(re.findall(r"M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)M", text), dtype=float)
    lengths = arrows[:, 1] - arrows[:, 3]  # the vertical axis points down
    assert (arrows[:, 0] == arrows[:, 2]).all() and (lengths > 0).all()
    assert lengths.max() == pytest.approx(0.95 * up / 11, abs=0.2)


def test_planes_without_a_density_are_counted_not_drawn(
    make_run: Callable[..., Run], tmp_path: Path
) -> None:
    with make_run() as run:
        run.append(0, {"latent/c": Estimate.missing("Too few particles.")})
        run.append_array(0, "latent/plane_axes", np.stack([np.arange(5.0)] * 2))
        for step, value in enumerate([np.nan, 0.0, np.inf, 1.0]):
            run.append_array(step, "latent/plane", np.full((5, 5, 5), value))
        run.append_array(4, "latent/plane", np.zeros((5, 4, 5)))
        run.append_array(5, "latent/plane", np.zeros(3))
    text = write_report(tmp_path / "run", tmp_path / "r.html").read_text(encoding="utf-8")
    assert "5 of 6 recorded planes have no density" in text
    assert section(text).count("<svg") == 1
    assert "latent/c could not be computed at any of 1 records." in text
    assert "Too few particles." in section(text)


@pytest.mark.parametrize("steps", [1, 2, 7, 400])
@pytest.mark.parametrize("marks", [[], [0], [3, 300, 301, 302, 303, 304, 399, 10**6]])
def test_the_first_and_the_last_picture_are_always_drawn(steps: int, marks: list[int]) -> None:
    picked = chosen(list(range(steps)), marks)
    assert picked == sorted(set(picked)) and len(picked) <= PICTURES
    assert picked[0] == 0 and picked[-1] == steps - 1
    if len(marks) == 1 or not marks:
        assert len(picked) == min(steps, 4)


@pytest.mark.parametrize("classes", [1, 3, 59])
def test_at_most_300_points_are_drawn_and_the_same_ones_twice(tmp_path: Path, classes: int) -> None:
    path = write_latent(tmp_path / "a", records=2, classes=classes, particles=1770)
    text = section(write_report(path, tmp_path / "r.html").read_text(encoding="utf-8"))
    counts = [
        sum(data.count("M") for data in re.findall(r'd="([^"]*)" class="cloud-dots', drawing))
        for drawing in re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    ]
    assert counts[-2:] == [POINTS, POINTS]
    assert ("the 55 others" in text) == (classes == 59)
    assert ("all particles" in text) == (classes == 1)


def test_labels_that_are_no_classes_are_one_cloud(
    make_run: Callable[..., Run], tmp_path: Path
) -> None:
    with make_run() as run:
        run.append_array(0, "latent/z", np.random.default_rng(0).standard_normal((50, 2)))
        run.append_array(0, "latent/labels", np.linspace(0.0, 1.0, 50))
    text = write_report(tmp_path / "run", tmp_path / "r.html").read_text(encoding="utf-8")
    assert "all particles" in section(text) and "Cloud, step 0" in text
    assert "Neither entropy production nor C was recorded." in text


@pytest.mark.parametrize(
    "cloud", [np.full((9, 3), np.nan), np.zeros((9, 2)), np.zeros((9, 1)), np.zeros(9)]
)
def test_clouds_that_cannot_be_drawn_leave_the_page_whole(
    make_run: Callable[..., Run], tmp_path: Path, cloud: np.ndarray
) -> None:
    with make_run() as run:
        for step in range(3):
            run.append_array(step, "latent/z", cloud)
    text = write_report(tmp_path / "run", tmp_path / "r.html").read_text(encoding="utf-8")
    page = Page(text)
    assert text.rstrip().endswith("</html>")
    # The sections that follow are there, and there is no drawing of what cannot be drawn.
    assert {a.get("id") for _tag, a in page.elements} >= {"cost", "provenance"}
    assert "NaN" not in section(text, "provenance") and "nan" not in "".join(
        a.get("d", "") + a.get("cx", "") for _tag, a in page.elements
    )


def test_actions_are_listed_and_marked_and_what_was_carried_out_is_said(
    page: Page, text: str
) -> None:
    rows = [a for _tag, a in page.elements if "data-policy" in a]
    assert [(a["data-step"], a["data-applied"]) for a in rows] == [
        ("200", "false"),
        ("300", "true"),
        ("400", "true"),
    ]
    words = section(text, "actions")
    assert "3 actions, 2 carried out" in words
    assert "layer = body.1, fraction = 0.25, value = nan" in words and "C fell below 1" in words
    # Of every policy the first action carried out and the first dry run are marked.
    marks = [m for m in page.data["runs"][0]["marks"] if m["kind"] == "action"]
    assert [(m["step"], m["label"]) for m in marks] == [
        (200, "latent_reset, not applied"),
        (300, "latent_reset"),
    ]
    strip = text[text.index('class="strip"') : text.index("</ol>")]
    assert strip.count('<li class="action') == 2


def test_hostile_names_and_payloads_stay_text(make_run: Callable[..., Run], tmp_path: Path) -> None:
    with make_run() as run:
        run.declare("latent/entropy_production", title=HOSTILE, unit=HOSTILE, taken_at=HOSTILE)
        run.declare("latent/kernel_ess", title=HOSTILE)
        run.declare("published/c_fp", title=HOSTILE, unit=HOSTILE)
        missing = Estimate.missing(HOSTILE)
        part = f"latent/c@{HOSTILE}".replace("\u2028", "")  # the store wants printable names
        names = ("latent/entropy_production", "latent/kernel_ess", "published/c_fp", part)
        run.append(0, dict.fromkeys(names, missing))
        for payload in (
            {"policy": HOSTILE, "kind": HOSTILE, "arguments": {HOSTILE: 1.0}, "reason": HOSTILE},
            {"arguments": HOSTILE, "applied": HOSTILE},
        ):
            run.event("action", HOSTILE, payload, step=0)
    page = Page(write_report(tmp_path / "run", tmp_path / "r.html").read_text(encoding="utf-8"))
    assert not [name for name, _ in page.elements if name == "img"]
    assert page.text.count("<img src=x onerror=") > 10
    # Only `true` says that something was done.
    assert all(a["data-applied"] == "false" for _tag, a in page.elements if "data-policy" in a)


def test_a_hundred_records_weigh_less_than_400_kb(tmp_path: Path) -> None:
    path = write_latent(tmp_path / "a", records=100, classes=59, particles=2000)
    text = write_report(path, tmp_path / "r.html").read_text(encoding="utf-8")
    assert 20_000 < len(section(text).encode()) < 400_000
