"""The page in Chromium: opens from disk without a network, draws, and does what it says."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foreshock.report import write_report
from foreshock.store import Run
from foreshock.types import Estimate
from tests.report.latent_runs import write_latent
from tests.report.runs import HOSTILE

if os.environ.get("CI") == "true":
    import playwright.sync_api as api  # in CI its absence is a failure
else:
    api = pytest.importorskip("playwright.sync_api")

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser(chromium: Path) -> Iterator[Any]:
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(chromium), args=FLAGS)
        yield browser
        browser.close()


class Visit:
    """A page opened offline, with everything it complained about."""

    def __init__(
        self, browser: Any, path: Path, *, width: int = 1200, scheme: str = "light"
    ) -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True
        )
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("html[data-ready]", state="attached", timeout=20_000)

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *error: object) -> None:
        self.context.close()

    def axis(self, key: str) -> dict[str, float]:
        """Axis range of a chart, from its element."""
        data = self.page.evaluate(f"({{...document.querySelector('#plot-{key}').dataset}})")
        return {name: float(data[name]) for name in ("xMin", "xMax", "yMin", "yMax")}

    def drag(self, key: str, start: float, stop: float) -> None:
        """Drags across a chart between two shares of its plotting area."""
        over = self.page.locator(f"#plot-{key} .u-over")
        over.scroll_into_view_if_needed()
        box = over.bounding_box()
        y = box["y"] + box["height"] / 2
        self.page.mouse.move(box["x"] + start * box["width"], y)
        self.page.mouse.down()
        self.page.mouse.move(box["x"] + stop * box["width"], y, steps=5)
        self.page.mouse.up()

    def readouts(self, key: str) -> list[str]:
        """What the key of a chart says now."""
        return self.page.locator(f"figure:has(#plot-{key}) .key li").all_inner_texts()


@pytest.fixture(scope="module")
def report(pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(pair, tmp_path_factory.mktemp("browser") / "report.html")


@pytest.fixture
def visit(browser: Any, report: Path) -> Iterator[Visit]:
    with Visit(browser, report) as visit:
        yield visit
        assert visit.complaints == []
        assert visit.requests == [report.as_uri()]


def test_every_series_is_drawn_and_its_numbers_are_in_the_dom(
    visit: Visit, pair: tuple[Path, Path]
) -> None:
    rows = visit.page.eval_on_selector_all(
        "[data-series]", "rows => rows.map(row => ({...row.dataset}))"
    )
    found = {(row["series"], int(row["run"])): row for row in rows}
    for index, path in enumerate(pair):
        with Run.open(path) as run:
            for name in run.names():
                series = run.series(name)
                assert found[name, index]["n"] == str(len(series.step))
                assert float(found[name, index]["last"]) == series.value[-1]
    plots = visit.page.locator(".plot").count()
    assert plots == visit.page.locator(".plot canvas").count() == 2 + 5 + 25


def test_a_canvas_is_really_painted(visit: Visit) -> None:
    colours = visit.page.evaluate(
        """() => [...document.querySelectorAll('.plot canvas')].map((canvas) => {
             const context = canvas.getContext('2d'), seen = new Set();
             const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
             for (let i = 0; i < data.length; i += 4)
               if (data[i + 3] === 255) seen.add(data[i] << 16 | data[i + 1] << 8 | data[i + 2]);
             return [...seen];
           })"""
    )
    assert len(colours) == 32
    for seen in colours:
        assert 0x0072B2 in seen  # the run's own line, in the first colour of the palette


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark")])
def test_the_latent_section_draws_and_fits(
    browser: Any, tmp_path: Path, width: int, scheme: str
) -> None:
    pair = [write_latent(tmp_path / "a", records=9), write_latent(tmp_path / "b", frozen=True)]
    page = write_report(pair, tmp_path / "report.html")
    with Visit(browser, page, width=width, scheme=scheme) as visit:
        assert visit.complaints == []
        assert visit.page.locator("#latent .plot canvas").count() == 3
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
        # A picture has the width of its column: none is cut off, none lies on its neighbour.
        boxes = [found.bounding_box() for found in visit.page.locator("#latent svg").all()]
        assert len(boxes) == 6
        for box in boxes:
            assert box["x"] >= 0 and box["x"] + box["width"] <= width and box["height"] > 100
        assert visit.page.locator(".action-table tbody tr[data-policy]").count() == 3


def test_hover_moves_the_cursor_of_every_chart_to_the_same_step(
    visit: Visit, pair: tuple[Path, Path]
) -> None:
    resting = visit.readouts("loss")
    over = visit.page.locator("#plot-accuracy .u-over")
    over.scroll_into_view_if_needed()
    box = over.bounding_box()
    # Steps 0 to 1999 span the box, and the runs were measured every 10 steps.
    visit.page.mouse.move(box["x"] + box["width"] * 1000 / 1999, box["y"] + 40)
    visit.page.wait_for_function(
        "document.querySelector('figure:has(#plot-loss) .where').textContent === 'step 1,000'"
    )
    with Run.open(pair[0]) as run:
        series = run.series("val_acc")
        value = series.value[np.flatnonzero(series.step == 1000)[0]]
    assert f"{value:.4g}" in visit.readouts("accuracy")[1]
    assert all("step 1,000" in text for text in visit.readouts("c") + visit.readouts("loss"))
    visit.page.mouse.move(2, 2)
    visit.page.wait_for_function(
        "document.querySelector('figure:has(#plot-loss) .where').textContent.startsWith('last')"
    )
    assert visit.readouts("loss") == resting


def test_dragging_zooms_all_charts_and_a_double_click_shows_everything(visit: Visit) -> None:
    whole = visit.axis("loss")
    assert (whole["xMin"], whole["xMax"]) == (0, 1999)
    visit.drag("accuracy", 0.25, 0.5)
    # A pixel is 2 steps on a chart this wide; 12 allows for three at each end.
    for key in ("accuracy", "loss", "c", "i"):
        axis = visit.axis(key)
        assert axis["xMin"] == pytest.approx(1999 * 0.25, abs=12)
        assert axis["xMax"] == pytest.approx(1999 * 0.5, abs=12)
    assert visit.axis("loss")["yMin"] > whole["yMin"]  # the vertical axis follows what is in view
    assert visit.page.locator("#reset").is_visible()
    visit.page.locator("#plot-loss .u-over").dblclick()
    assert visit.axis("accuracy")["xMax"] == 1999 and visit.axis("loss") == whole
    assert not visit.page.locator("#reset").is_visible()


def test_keyboard_moves_zooms_and_resets(visit: Visit) -> None:
    plot = visit.page.locator("#plot-accuracy")
    plot.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowRight"):
        visit.page.keyboard.press(key)
    visit.page.wait_for_function(
        "document.querySelector('figure:has(#plot-loss) .where').textContent === 'step 20'"
    )
    visit.page.keyboard.press("+")
    assert visit.axis("loss")["xMax"] < 1999
    visit.page.keyboard.press("Escape")
    assert visit.axis("loss")["xMax"] == 1999
    visit.page.keyboard.press("Tab")
    focused = "getComputedStyle(document.activeElement).outlineStyle"
    assert visit.page.evaluate(focused) == "solid"


def test_log_button_changes_the_axis_of_its_chart(visit: Visit) -> None:
    linear_floor = visit.axis("i")["yMin"]
    assert linear_floor < 0
    button = visit.page.locator("figure:has(#plot-i) .log")
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    assert visit.axis("i")["yMin"] > 0
    button.click()
    assert visit.axis("i")["yMin"] == linear_floor


def test_filter_leaves_what_was_asked_for(visit: Visit) -> None:
    visit.page.locator("#filter").fill("hessian")
    visible = visit.page.locator(".family figure:visible .names").all_inner_texts()
    assert visible == ["hessian/lambda_max", "hessian/eta_lambda_half"]
    assert visit.page.locator("#filter-count").inner_text() == "2 of 25"
    visit.page.locator("#filter").fill("")
    assert visit.page.locator(".family figure:visible").count() == 25


def test_dark_follows_the_system_and_the_button_turns_it(browser: Any, report: Path) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    with Visit(browser, report) as light, Visit(browser, report, scheme="dark") as dark:
        bright, dim = light.page.evaluate(ground), dark.page.evaluate(ground)
        assert bright != dim
        for visit, expected in ((light, dim), (dark, bright)):
            visit.page.locator("#theme").click()
            assert visit.page.evaluate(ground) == expected
        assert light.page.locator("#theme").get_attribute("aria-pressed") == "true"
        assert light.complaints == dark.complaints == []


@pytest.mark.parametrize("width", [400, 768])
def test_nothing_overflows_a_narrow_screen(browser: Any, report: Path, width: int) -> None:
    with Visit(browser, report, width=width) as visit:
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
        wide = visit.page.evaluate(
            "[...document.querySelectorAll('.plot')]"
            ".filter(plot => plot.scrollWidth > plot.clientWidth + 1).length"
        )
        assert wide == 0 and visit.complaints == []


def test_charts_follow_the_window(visit: Visit) -> None:
    canvas = "document.querySelector('#plot-loss canvas').getBoundingClientRect().width"
    before = visit.page.evaluate(canvas)
    visit.page.set_viewport_size({"width": 700, "height": 800})
    visit.page.wait_for_function(f"{canvas} < {before} - 100")
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 700


@pytest.mark.parametrize("case", ["empty", "nan", "one", "hostile", "reduced"])
def test_awkward_runs_open_without_complaint(
    browser: Any, make_run: Callable[..., Run], tmp_path: Path, case: str
) -> None:
    with make_run(config={"name": HOSTILE if case == "hostile" else case}) as run:
        if case == "nan":
            for step in range(5):
                values = {"loss": Estimate.missing("Diverged."), "a/b": Estimate.exact(np.inf)}
                run.append(step, values)
        if case == "one":
            run.append(7, {"loss": 1.0, "a/b": Estimate(1.0, -np.inf, np.inf, n=3)})
        if case == "hostile":
            run.append(0, {"loss": 1.0, "a/b": Estimate.missing(HOSTILE)})
            alarm = {
                "series": HOSTILE,
                "value": 1,
                "threshold": 0,
                "reason": HOSTILE,
                "forecast": None,
            }
            run.event("alarm", HOSTILE, alarm, step=0)
        if case == "reduced":
            for step in range(5000):
                run.append(step, {"loss": float(step)})
    page = write_report([tmp_path / "run"], tmp_path / "report.html")
    with Visit(browser, page) as visit:
        assert visit.complaints == []
        assert visit.page.evaluate("window.hacked === undefined")
        if case != "hostile":
            assert visit.page.locator("h1").inner_text() == case
        else:
            assert visit.page.locator("h1").text_content() == HOSTILE
        assert visit.page.locator("img").count() == 0
        if case == "reduced":
            text = visit.page.locator("footer").inner_text()
            assert "1 series of more than 2,000 points" in text
            visit.page.locator("#plot-loss").focus()
            visit.page.keyboard.press("ArrowRight")
            # 5000 rows in 2000 buckets: the first holds the steps 0 and 1, mean 0.5.
            visit.page.wait_for_function(
                "document.querySelector('.readout').textContent.startsWith('mean 0.5 · 0 to 1')"
            )
