"""Pictures of a cloud of latents: the flux on its first two components, and the cloud itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from foreshock.report.data import Records, RunData
from foreshock.report.facts import milestone_name
from foreshock.report.markup import Html, number, tag
from foreshock.report.plots import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axes, plot
from foreshock.store import Field, Figure

#: Pictures of the flux: the first and the last, and what fits between them.
PICTURES = 6
#: Arrows along an axis; a grid of more nodes shows every second or third.
ARROWS = 13
#: A cell or an arrow below these shares of the largest is left out.
FAINT_DENSITY, FAINT_FLUX = 1e-3, 0.03
#: Particles shown of a cloud; classes with a colour of their own, and particles shown of each.
POINTS, COLOURS, OF_A_CLASS = 300, 4, 50
_ACROSS, _UP = "first principal component", "second principal component"


@dataclass(frozen=True, slots=True)
class Plane:
    """The flux of one record on a rectangle of the plane.

    Args:
        step: When.
        x: (a,) nodes along the first component.
        y: (b,) nodes along the second.
        density: (a, b) rho per area.
        flux: (2, a, b) J, per length and step.
    """

    step: int
    x: np.ndarray
    y: np.ndarray
    density: np.ndarray
    flux: np.ndarray


def planes(run: RunData) -> tuple[list[Plane], int]:
    """The records of the flux that can be drawn, and how many cannot.

    Args:
        run: With arrays `latent/plane` (k, g, g), first density, J_x and J_y, by place along the
            first and then the second axis, and `latent/plane_axes` (2, g).

    Returns:
        Planes by step; records without a finite density, or of another shape.
    """
    axes = run.clouds.get("latent/plane_axes", ())
    found, refused = [], 0
    for step, stack in run.clouds.get("latent/plane", ()):
        # Recorded once, or again when they move: the last ones so far count.
        nodes = next((a for at, a in reversed(axes) if at <= step), None)
        plane = _plane(step, stack, nodes) if nodes is not None else None
        refused += plane is None
        if plane is not None:
            found.append(plane)
    return found, refused


def _plane(step: int, stack: np.ndarray, nodes: np.ndarray) -> Plane | None:
    if nodes.ndim != 2 or len(nodes) != 2 or nodes.shape[1] < 2 or stack.ndim != 3:
        return None
    if len(stack) < 3 or stack.shape[1:] != (nodes.shape[1],) * 2:
        return None
    x, y, values = nodes[0].astype(float), nodes[1].astype(float), stack.astype(float)
    rising = np.isfinite(nodes).all() and (np.diff(x) > 0).all() and (np.diff(y) > 0).all()
    if not rising or not (np.nan_to_num(values[0], posinf=0.0) > 0).any():
        return None
    return Plane(int(step), x, y, values[0], values[1:3])


def chosen(steps: Sequence[int], milestones: Sequence[int]) -> list[int]:
    """Which records are drawn: the first, the last, those nearest to milestones, then between.

    Args:
        steps: Of the records, ascending.
        milestones: Their steps.

    Returns:
        At most `PICTURES` indices, ascending.

    Examples:
        >>> chosen([0, 100, 200, 300, 400, 500], [310])
        [0, 2, 3, 5]
        >>> chosen([7], [])
        [0]
    """
    if not steps:
        return []
    last = len(steps) - 1
    picked = {0, last}
    for milestone in milestones:
        if len(picked) < PICTURES:
            picked.add(min(range(last + 1), key=lambda i: abs(steps[i] - milestone)))
    for share in (1 / 3, 2 / 3):
        if len(picked) < 4:
            picked.add(round(share * last))
    return sorted(picked)


def flux_pictures(run: RunData) -> list[Html]:
    """Density as colour and flux as arrows, at a handful of steps.

    Args:
        run: The run.

    Returns:
        Figures; none where nothing was recorded.
    """
    found, _ = planes(run)
    picked = chosen([plane.step for plane in found], [mark.step for mark in run.milestones])
    return [
        plot(_figure(found[i], _title(found, i, run)), f"latent-{place}")
        for place, i in enumerate(picked)
    ]


def _title(found: Sequence[Plane], index: int, run: RunData) -> str:
    steps = [plane.step for plane in found]
    near = [
        f"{milestone_name(mark.name)} at {mark.step:,}"
        for mark in run.milestones
        if min(range(len(steps)), key=lambda i: abs(steps[i] - mark.step)) == index
    ]
    return f"Flux, step {steps[index]:,}" + (f" ({', '.join(near)})" if near else "")


def _figure(plane: Plane, title: str) -> Figure:
    peak = float(np.nanmax(np.where(np.isfinite(plane.density), plane.density, np.nan)))
    shown = np.isfinite(plane.density) & (plane.density >= FAINT_DENSITY * peak)
    arrows, longest = _arrows(plane, shown)
    said = (
        f"Of the two leading axes alone. The longest arrow stands for a flux of {number(longest)} "
        "per unit of length and step."
        if arrows
        else "No flux: none was computed, or it is 0 everywhere."
    )
    return Figure(
        name="flux",
        title=title,
        x=_ACROSS,
        y=_UP,
        field=Field(
            _edges(plane.x),
            _edges(plane.y),
            # The rows of a field go up, the second index of a plane does.
            np.where(shown, plane.density, np.nan).T.tolist(),
            arrows,
            "density",
        ),
        caption=said,
    )


def _arrows(
    plane: Plane, shown: np.ndarray
) -> tuple[tuple[tuple[float, float, float, float], ...], float]:
    """Arrows in the units of the axes, the longest one spacing long, and what it stands for."""
    picks = [_every(len(nodes)) for nodes in (plane.x, plane.y)]
    size = np.hypot(*plane.flux)
    places = [
        (i, j)
        for i in picks[0].tolist()
        for j in picks[1].tolist()
        if shown[i, j] and math.isfinite(size[i, j])
    ]
    longest = max((float(size[i, j]) for i, j in places), default=0.0)
    if not longest > 0:
        return (), 0.0
    gaps = [float(np.diff(n[p]).min()) for n, p in zip((plane.x, plane.y), picks, strict=True)]
    # As long as fits between two arrows along either axis; one factor, so directions stay true.
    reach = max(
        max(abs(plane.flux[0, i, j]) / gaps[0], abs(plane.flux[1, i, j]) / gaps[1])
        for i, j in places
    )
    scale = 0.95 / reach
    kept = tuple(
        (
            float(plane.x[i]),
            float(plane.y[j]),
            float(scale * plane.flux[0, i, j]),
            float(scale * plane.flux[1, i, j]),
        )
        for i, j in places
        if size[i, j] >= FAINT_FLUX * longest
    )
    return kept, longest


def _every(count: int) -> np.ndarray:
    """Indices of at most `ARROWS` nodes, evenly spaced and centred."""
    stride = -(-count // ARROWS)
    return np.arange(((count - 1) % stride) // 2, count, stride)


def _edges(nodes: np.ndarray) -> list[float]:
    """Edges of cells around nodes: half way between, and as far beyond the ends."""
    middle = (nodes[1:] + nodes[:-1]) / 2
    ends = (2 * nodes[0] - middle[0], 2 * nodes[-1] - middle[-1])
    return [float(ends[0]), *middle.tolist(), float(ends[1])]


def clouds(run: RunData) -> Html | None:
    """The cloud at the first and at the last record, in the same axes, coloured by class.

    Args:
        run: With arrays `latent/z` and, if there are classes, `latent/labels`.

    Returns:
        Two figures and a table of centroids, or ``None``.
    """
    records = [(s, z) for s, z in run.clouds.get("latent/z", ()) if z.ndim == 2 and z.shape[1] > 1]
    ends = [records[0], records[-1]] if len(records) > 1 else records
    ends = [(step, z[:, :2].astype(float)) for step, z in ends if np.isfinite(z[:, :2]).any()]
    if not ends or len({len(z) for _, z in ends}) != 1:
        return None
    groups = _groups(_labels(run.clouds.get("latent/labels", ()), len(ends[0][1])))
    whole = np.concatenate([z[np.isfinite(z).all(1)] for _, z in ends])
    axes = Axes(*(_span(whole[:, k]) for k in (0, 1)), log_x=False, log_y=False)
    drawn = [
        _cloud(axes, z, groups, f"Cloud, step {step:,}", f"cloud-{place}")
        for place, (step, z) in enumerate(ends)
    ]
    return tag("div", tag("div", drawn, class_="grid"), _centroids(ends, groups))


@dataclass(frozen=True, slots=True)
class _Group:
    label: str
    colour: int
    rows: np.ndarray  # all particles of it
    shown: np.ndarray  # those that are drawn


def _labels(records: Records, count: int) -> np.ndarray:
    """A class of every particle; one class for all where none were recorded, or of other form."""
    labels = records[0][1] if records else np.zeros(0)
    if labels.shape != (count,) or not np.array_equal(labels, np.round(labels)):
        return np.full(count, -1)
    return labels.astype(np.int64)


def _groups(labels: np.ndarray) -> list[_Group]:
    """The most frequent classes with a colour each, and the rest in grey, which is drawn first."""
    names, counts = np.unique(labels, return_counts=True)
    if len(names) == 1:
        rows = np.arange(len(labels))
        return [_Group("all particles", 0, rows, _thin(rows, POINTS))]
    top = names[np.argsort(-counts, kind="stable")][:COLOURS]
    own = [np.flatnonzero(labels == name) for name in np.sort(top)]
    rest = np.flatnonzero(~np.isin(labels, top))
    limit = OF_A_CLASS if len(rest) else POINTS // len(own)
    found = [
        _Group(f"class {name}", place, rows, _thin(rows, limit))
        for place, (name, rows) in enumerate(zip(np.sort(top).tolist(), own, strict=True))
    ]
    if len(rest):
        left = POINTS - sum(len(group.shown) for group in found)
        found.insert(0, _Group(f"the {len(names) - len(top)} others", 9, rest, _thin(rest, left)))
    return found


def _thin(rows: np.ndarray, most: int) -> np.ndarray:
    """At most so many of the rows, evenly spaced, the same at every step."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int))]


def _span(values: np.ndarray) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    room = 0.04 * (high - low) or 0.5 * max(1.0, abs(low))
    return low - room, high + room


def _cloud(axes: Axes, z: np.ndarray, groups: Sequence[_Group], title: str, key: str) -> Html:
    figure = Figure(name=key, title=title, x=_ACROSS, y=_UP)
    marks = []
    for group in groups:
        across, up = axes.across(z[group.shown, 0].tolist()), axes.up(z[group.shown, 1].tolist())
        data = "".join(
            f"M{x:.1f} {y:.1f}h0"
            for x, y in zip(across, up, strict=True)
            if math.isfinite(x) and math.isfinite(y)
        )
        marks.append(tag("path", d=data, class_=f"cloud-dots c{group.colour}") if data else None)
    keys = [
        tag(
            "li",
            tag("span", class_=f"swatch points c{group.colour}"),
            tag("span", group.label, class_="who"),
            tag("span", f"{len(group.shown):,} of {len(group.rows):,} shown", class_="where"),
        )
        for group in groups
    ]
    clip, across, down = f"clip-{key}", WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    return tag(
        "figure",
        tag("figcaption", tag("h3", title, id=f"title-{key}")),
        tag("ul", keys, class_="key"),
        tag(
            "svg",
            tag("clipPath", tag("rect", x=LEFT, y=TOP, width=across, height=down), id=clip),
            axes.grid(),
            tag("g", marks, clip_path=f"url(#{clip})"),
            axes.labels(figure),
            viewBox=f"0 0 {WIDTH} {HEIGHT}",
            role="img",
            aria_label=f"{title}: particles on the first two principal components. The table "
            "below has the mean of every class.",
        ),
        class_="chart plotted",
        data_title=title,
    )


def _centroids(ends: Sequence[tuple[int, np.ndarray]], groups: Sequence[_Group]) -> Html:
    rows = [
        tag(
            "tr",
            tag("th", group.label, scope="row"),
            tag("td", f"{step:,}"),
            tag("td", f"{len(group.rows):,}"),
            [tag("td", number(value)) for value in [*mean.tolist(), float(spread)]],
            data_cloud=group.label,
            data_step=step,
            data_mean=" ".join(map(repr, mean.tolist())),
        )
        for group in groups
        for step, z in ends
        for rows in [z[group.rows][np.isfinite(z[group.rows]).all(1)]]
        if len(rows)
        for mean, spread in [(rows.mean(0), np.sqrt(rows.var(0).sum()))]
    ]
    heads = ("class", "step", "particles", "mean, first", "mean, second", "spread (rms)")
    head = tag("thead", tag("tr", [tag("th", name, scope="col") for name in heads]))
    return tag(
        "details",
        tag("summary", "Numbers: mean and spread of every class, over all of its particles"),
        tag("div", tag("table", head, tag("tbody", rows)), class_="scroll"),
    )
