"""The page as a document: complete, closed to the network, and every number in it as text."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foreshock.report import write_report
from foreshock.report.data import read_run
from foreshock.report.html import page as write_page
from foreshock.store import Run
from foreshock.types import Estimate
from tests.report.runs import HOSTILE, column, curves, write_pair

VOID = {"meta", "input", "br", "hr", "link"}


class Page(HTMLParser):
    """Elements with their attributes, the text outside scripts, and whether tags balance."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append((dict(attrs), ""))
        if tag not in VOID and not self._in_svg(tag):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._in_svg(tag):
            return
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "script":
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)
        elif self._open and self._open[-1] != "style":
            self.text += data + " "

    @staticmethod
    def _in_svg(tag: str) -> bool:
        return tag in {"svg", "path"}

    @property
    def data(self) -> Any:
        return json.loads(
            next(text for attributes, text in self.scripts if attributes.get("id") == "data")
        )

    @property
    def rows(self) -> dict[tuple[str, int], dict[str, str | None]]:
        return {
            (str(a["data-series"]), int(str(a["data-run"]))): a
            for _tag, a in self.elements
            if "data-series" in a
        }


def report(runs: Sequence[Run | Path], folder: Path, **options: Any) -> tuple[Page, Path]:
    path = write_report(runs, folder / "report.html", **options)
    return Page(path.read_text(encoding="utf-8")), path


@pytest.fixture(scope="module")
def page(pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Page:
    return report(pair, tmp_path_factory.mktemp("page"))[0]


def test_every_series_of_both_runs_is_in_the_page_with_its_numbers(
    page: Page, pair: tuple[Path, Path]
) -> None:
    for index, path in enumerate(pair):
        with Run.open(path) as run:
            for name in run.names():
                series, row = run.series(name), page.rows[name, index]
                finite = series.value[np.isfinite(series.value)]
                assert row["data-n"] == str(len(series.step))
                assert row["data-first"] == repr(float(series.value[0]))
                assert row["data-last"] == repr(float(series.value[-1]))
                assert row["data-min"] == repr(float(finite.min()))
                assert row["data-max"] == repr(float(finite.max()))
                assert row["data-low"] == repr(float(series.low[-1]))


def test_the_headline_states_the_recorded_steps(page: Page) -> None:
    assert "Held-out signal fired at step 210; onset of generalisation at 600" in page.text
    assert "In the null twin the held-out signal did not fire, but turnover did" in page.text


def test_no_claim_is_made(page: Page) -> None:
    assert not re.search(r"predict", page.text, re.IGNORECASE)


def test_sections_are_in_order_and_every_chart_has_title_and_unit(page: Page) -> None:
    sections = [a["id"] for tag, a in page.elements if tag == "section"]
    assert sections == ["alarms", "learning", "signal", "series", "cost", "provenance"]
    figures = [a for tag, a in page.elements if tag == "figure"]
    units = [a for tag, a in page.elements if tag == "span" and a.get("class") == "unit"]
    assert len(figures) == len(units) == 2 + 5 + (34 - 4 - 5)  # 34 series, 9 of them above
    assert all(a["data-title"] for a in figures)


def test_the_published_coefficient_is_a_fifteenth_of_p(page: Page) -> None:
    p, i = page.rows["grad/p_published", 0], page.rows["published/i", 0]
    for key in ("data-last", "data-min", "data-max"):
        assert float(str(i[key])) == pytest.approx(float(str(p[key])) / 15, rel=1e-12)
    assert "p / 15" in page.text and "carries nothing more" in page.text


def test_nothing_is_loaded_and_only_our_scripts_may_run(page: Page) -> None:
    policy = next(a["content"] for t, a in page.elements if t == "meta" and "http-equiv" in a)
    assert policy is not None and policy.startswith("default-src 'none'")
    for _tag, attributes in page.elements:
        assert "src" not in attributes
        assert not [key for key in attributes if key.startswith("on")]
        assert (attributes.get("href") or "#").startswith("#")
    ours = [text for attributes, text in page.scripts if attributes.get("id") != "data"]
    hashes = {base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in ours}
    assert len(ours) == 4 and hashes == set(re.findall(r"sha256-([^']+)", policy))


def test_the_licence_of_the_chart_library_travels_with_it(
    pair: Sequence[Path], tmp_path: Path
) -> None:
    text = report(pair[:1], tmp_path)[1].read_text(encoding="utf-8")
    assert "Permission is hereby granted" in text and "Leon Sorokin" in text


def test_ids_are_unique_and_references_resolve(page: Page) -> None:
    ids = Counter(a["id"] for _t, a in page.elements if a.get("id"))
    assert set(ids.values()) == {1}
    for _tag, attributes in page.elements:
        for key in ("aria-labelledby", "aria-describedby"):
            for wanted in (attributes.get(key) or "").split():
                assert wanted in ids


def test_hostile_strings_stay_text(make_run: Callable[..., Run], tmp_path: Path) -> None:
    with make_run(kind=HOSTILE, config={"name": HOSTILE, HOSTILE: {HOSTILE: HOSTILE}}) as run:
        run.declare("a/b", title=HOSTILE, unit=HOSTILE, taken_at=HOSTILE, null=HOSTILE)
        run.append(0, {"a/b": Estimate.missing(HOSTILE), "loss": 1.0})
        run.event(
            "alarm",
            HOSTILE,
            {
                "series": HOSTILE,
                "value": 1,
                "threshold": 2,
                "reason": HOSTILE,
                "forecast": {"event": HOSTILE, "step": 3, "low": 1, "high": 9, "basis": HOSTILE},
            },
            step=0,
        )
        run.event("milestone", "x", {"name": HOSTILE, "rule": HOSTILE}, step=0)
        run.event("note", "x", {"text": HOSTILE})
        run.event(
            "observables",
            "x",
            {
                "observables": [{"name": HOSTILE, "series": [{"name": "a/b"}]}],
                "left_out": [{"name": HOSTILE, "reason": HOSTILE}],
            },
        )
        run.event("observable_off", "x", {"name": HOSTILE, "reason": HOSTILE}, step=0)
        run.event(
            "schedule",
            "x",
            {"mode": HOSTILE, "observables": [{"name": HOSTILE, "verdict": HOSTILE}]},
        )
    page, path = report([tmp_path / "run"], tmp_path, labels=[HOSTILE])
    assert not [tag for tag, _ in page.elements if tag == "img"]
    assert len(page.scripts) == 5
    assert page.text.count("<img src=x onerror=") > 12
    assert "<img" not in path.read_text(encoding="utf-8")


def test_a_run_without_a_single_step(make_run: Callable[..., Run], tmp_path: Path) -> None:
    make_run().close()
    page, _ = report([tmp_path / "run"], tmp_path)
    assert "No step was recorded." in page.text and page.data["charts"] == []


def test_only_logged_scalars(make_run: Callable[..., Run], tmp_path: Path) -> None:
    with make_run() as run:
        for step in range(3):
            run.append(step, {"loss": 1.0 / (step + 1), "mine": float(step)})
    page, _ = report([tmp_path / "run"], tmp_path)
    assert [chart["key"] for chart in page.data["charts"]][0] == "loss"
    assert set(page.rows) == {("loss", 0), ("mine", 0)}
    assert "grad/snr was not recorded in this run." in page.text
    assert "No detector fired up to step 2" in page.text


def test_every_chart_that_is_sent_has_its_place_on_the_page(
    make_run: Callable[..., Run], tmp_path: Path
) -> None:
    """One without stops the script, and then no chart is drawn: accuracies, but no gradients."""
    with make_run() as run:
        for step in range(3):
            run.append(step, {"loss": 1.0, "val_acc": 0.5, "train_acc": 0.5, "latent/c": 1.0})
    page, _ = report([tmp_path / "run"], tmp_path)
    places = {a["data-chart"] for _tag, a in page.elements if "data-chart" in a}
    assert {chart["key"] for chart in page.data["charts"]} == places
    assert {"accuracy", "loss", "latent-c"} <= places


def test_nan_everywhere_and_infinities(make_run: Callable[..., Run], tmp_path: Path) -> None:
    with make_run() as run:
        for step in range(4):
            bad = Estimate.exact(math.inf) if step == 2 else Estimate.missing("No gradient.")
            run.append(step, {"val_loss": Estimate.missing("Diverged."), "a/b": bad})
    page, _ = report([tmp_path / "run"], tmp_path)
    row = page.rows["val_loss", 0]
    assert (row["data-n"], row["data-last"], row["data-min"]) == ("4", "nan", "nan")
    assert "4 not computable" in page.text
    assert "+inf once, first at step 2" in page.text and "No gradient." in page.text


def test_a_run_that_is_still_written_reads_as_open(
    make_run: Callable[..., Run], tmp_path: Path
) -> None:
    with make_run() as run:
        run.append(0, {"loss": 1.0})
        run.flush()
        page, _ = report([run], tmp_path)
        assert "open" in page.text.split("state", 1)[1][:20]


def test_a_run_left_by_an_exception_reads_as_crashed(
    make_run: Callable[..., Run], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt), make_run() as run:
        run.append(0, {"loss": 1.0})
        raise KeyboardInterrupt
    page, _ = report([tmp_path / "run"], tmp_path)
    assert "The run crashed; its last recorded step is 0." in page.text


def test_pair_of_different_lengths_and_series(make_run: Callable[..., Run], tmp_path: Path) -> None:
    for name, length in (("a", 50), ("b", 20)):
        with make_run(name) as run:
            for step in range(length):
                run.append(step, {"loss": 1.0, f"only/{name}": float(step)})
    page, _ = report([tmp_path / "a", tmp_path / "b"], tmp_path)
    assert (page.rows["loss", 0]["data-n"], page.rows["loss", 1]["data-n"]) == ("50", "20")
    assert set(page.rows) == {("loss", 0), ("loss", 1), ("only/a", 0), ("only/b", 1)}
    assert page.data["last"] == 49


def test_wrong_numbers_of_runs_and_labels_are_refused(pair: Sequence[Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be one run, or a run and its twin. Got 0"):
        write_report([], tmp_path / "x.html")
    with pytest.raises(ValueError, match="must name each of the 2 runs. Got 1"):
        write_report(pair, tmp_path / "x.html", labels=["a"])


def test_a_long_pair_with_every_series_at_every_step_stays_under_3_mb(
    pair: tuple[Path, Path],
) -> None:
    runs = []
    for twin, path in enumerate(pair):
        with Run.open(path) as run:
            data = read_run(run, f"run {twin}")
        values = curves(20_000, twin=bool(twin), seed=twin)
        values["update/sigma_3"] = values["update/sigma_2"] / 2
        # The worst case: every series with an interval and a null that change at every step.
        columns = {
            name: column(
                value,
                name=name,
                low=value - 0.1,
                high=value + 0.2,
                null_low=value / 3,
                null_high=value / 2,
                flags=(value > 1).astype(np.int64),
                reason=["why"] * 20_000,
            )
            for name, value in values.items()
        }
        runs.append(replace(data, columns=columns, last_step=19_999))
    text = write_page(runs)
    page = Page(text)
    assert len(page.rows) == 2 * (35 + 1)  # and published/i
    assert all(row["data-n"] == "20000" for row in page.rows.values())
    assert len(text.encode()) < 3e6
    assert page.data["points"] >= 500  # still as fine as a small chart


def test_existing_report_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    paths = write_pair(tmp_path / "runs", steps=40, every=1)
    out = tmp_path / "out" / "report.html"
    write_report(paths[:1], out)
    write_report(paths[1:], out)
    assert [file.name for file in out.parent.iterdir()] == ["report.html"]


def test_a_forecast_of_a_probability_is_in_its_column(tmp_path: Path) -> None:
    with Run.create(tmp_path / "run") as run:
        run.append(0, {"x": 1.0})
        payload = {"series": "P(onset within 40)", "value": 0.875, "threshold": 0.5, "reason": "r"}
        run.event("alarm", "forecast(onset within 40)", payload, step=0)
    text = write_report([tmp_path / "run"], tmp_path / "r.html").read_text(encoding="utf-8")
    assert "P(onset within 40) = 0.875" in text and "none made" not in text
