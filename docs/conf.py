"""Sphinx: a small site whose examples run, and whose catalogues are written from the code."""

from __future__ import annotations

import importlib
import inspect
from importlib.metadata import version as installed_version
from pathlib import Path
from types import ModuleType
from typing import Any

project = "Foreshock"
author = "The Foreshock developers"
version = release = installed_version("foreshock")

extensions = ["myst_parser", "sphinx.ext.doctest", "sphinx_gallery.gen_gallery"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
# The examples run while the site is built, and what they draw and print is the page.
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_signature": False,
    "show_memory": False,
    "capture_repr": (),
    "min_reported_time": 1e9,
}
exclude_patterns = [
    "_build",
    "_generated",
    "sg_execution_times.rst",
    "gallery/sg_execution_times.rst",
    "Thumbs.db",
]

html_theme = "furo"
html_title = f"Foreshock {version}"
html_show_sphinx = False
html_copy_source = False

GENERATED = Path(__file__).parent / "_generated"
PARTS = (
    ("foreshock", "What most users need"),
    ("foreshock.types", "Nouns and protocols"),
    ("foreshock.stats", "Statistics on numbers"),
    ("foreshock.store", "Runs"),
    ("foreshock.probe", "The model, seen safely"),
    ("foreshock.detectors", "Rules on recorded series"),
    ("foreshock.estimators", "Estimators and observables"),
    ("foreshock.policies", "Rules that act"),
    ("foreshock.evaluation", "Events, leads and calibration"),
    ("foreshock.density", "The density of a cloud"),
    ("foreshock.simulators", "Simulators"),
    ("foreshock.report", "Reports"),
    ("foreshock.experiments", "Experiments"),
    ("foreshock.documents", "The documents' own names"),
)


def write_generated(_app: object = None) -> None:
    """Writes what the pages include. They are not committed, so they cannot be out of date."""
    GENERATED.mkdir(exist_ok=True)
    (GENERATED / "observables.md").write_text(observables())
    (GENERATED / "api.md").write_text("\n\n".join(filter(None, map(api_of, PARTS))) + "\n")


def observables() -> str:
    """One section per observable: what it needs and costs, and a table of what it promises."""
    sections = []
    for observable, presets in known_observables():
        needs = ", ".join(f"`{need}`" for need in sorted(observable.needs)) or "nothing"
        where = ", ".join(f"`{preset}`" for preset in presets)
        rows = [
            f"| {series_name(s)}<br>{cell(s.title)}, {unit_text(s.unit)} | {cell(s.formula)}"
            f"<br>*When nothing happens:* {cell(s.null)}<br>*Tested against:* {cell(s.oracle)}"
            f"<br>*Source:* {cell(s.source)} |"
            for s in observable.series
        ]
        head = ["| series | formula, null, oracle, source |", "|:-|:-|"]
        sections += [
            f"## `{observable.name}`",
            first_sentence(observable),
            f"Needs {needs}. Cost: {cost_class(observable.price)}, assumed to be "
            f"{observable.price:g} training steps until it is measured."
            + (f" In the presets {where}." if where else " In no preset; asked for by name."),
            "\n".join([*head, *rows]),
        ]
    return "\n\n".join(sections or ["This version has no observables."]) + "\n"


def unit_text(unit: str) -> str:
    """A unit in words: a pure number says so."""
    return "pure number" if unit in ("1", "") else f"in {cell(unit)}"


def series_name(series: Any) -> str:
    """The name, marked where parts of the model or arrays are written."""
    name = f"`{series.name}`" + (" `@part`" if series.layered else "")
    return name + (" (array)" if series.array else "")


def cost_class(steps: float) -> str:
    """A word for a cost in training steps."""
    for limit, word in ((0.2, "free"), (2, "cheap"), (15, "moderate")):
        if steps <= limit:
            return word
    return "dear"


def known_observables() -> list[tuple[Any, list[str]]]:
    """Every observable, as it is without arguments, and the names of the presets it is in."""
    estimators = part_or_none("foreshock.estimators")
    everything = [
        one
        for name in ("catalogue", "published_catalogue")
        for one in getattr(estimators, name, list)()
    ]
    presets = getattr(part_or_none("foreshock.monitor.presets"), "PRESETS", {})
    return [(one, [name for name in presets if type(one) in presets[name]]) for one in everything]


def api_of(part: tuple[str, str]) -> str:
    """A table of the public names of one part, or nothing if this version lacks it."""
    name, title = part
    module = part_or_none(name)
    names = getattr(module, "__all__", None) or own_public_names(module)
    documented = [n for n in sorted(names) if inspect.getmodule(getattr(module, n)) is not None]
    rows = [f"| `{n}` | {first_sentence(getattr(module, n))} |" for n in documented]
    head = [f"## {title}: `{name}`", "\n".join(["| name | what it is |", "|-|-|", *rows])]
    return "\n\n".join(head) if rows else ""


def part_or_none(name: str) -> ModuleType | None:
    """The module if this version has it. A module that is there but broken breaks the build."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        return None


def own_public_names(module: ModuleType | None) -> list[str]:
    """Public functions and classes defined in the module or below it."""
    return [
        name
        for name, value in vars(module or object).items()
        if not name.startswith("_")
        and (inspect.isfunction(value) or inspect.isclass(value))
        and f"{value.__module__}.".startswith(f"{getattr(module, '__name__', '')}.")
    ]


def first_sentence(value: object) -> str:
    """The summary line of a docstring, made safe for a Markdown table."""
    text = inspect.getdoc(value) or ""
    return cell(text.split("\n\n")[0].replace("\n", " "))


def cell(text: str) -> str:
    """Markdown that stays in its cell; the docstrings' double backquotes become single."""
    return text.replace("``", "`").replace("|", r"\|") or "-"


def setup(app: Any) -> dict[str, bool]:
    """Sphinx calls this."""
    app.connect("builder-inited", write_generated)
    return {"parallel_read_safe": True}
