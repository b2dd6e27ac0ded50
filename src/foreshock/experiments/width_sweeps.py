"""What a sweep over widths comes to: where the test error peaks, where training reaches 0.

A sweep is the runs of one variant and batch size at several widths and seeds; a seed counts once it
has been run at every width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from foreshock.experiments.seeds import LEAST
from foreshock.experiments.setup import Check, having, outcome
from foreshock.report.figures import GREY, PALETTE, paper_figure
from foreshock.stats.sample import mean_interval, proportion
from foreshock.store import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
#: Grid of widths, factors of 4/3 to 2 apart. With 51 h + 10 parameters, as many as there are
#: outputs to fit, 1,000 examples times 10 classes, lie at h = 196.
WIDTHS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
#: Batch size that is spoken of where there is no run.
DEFAULT_BATCH = 100


class Sweep(NamedTuple):
    """Runs of one variant and batch size: final errors ``(seeds, widths)``.

    Seeds without a run at every width of the sweep are left out.
    """

    widths: tuple[int, ...]
    seeds: tuple[int, ...]
    train: Array
    test: Array


def gather(runs: Sequence[Run], variant: str, batch: int) -> Sweep:
    """The finished runs of one variant and batch size as tables, over `WIDTHS`.

    Runs of other widths are left out. Of runs that differ in examples, updates or rate those of the
    most frequent setting count and no others: they are other sweeps.

    Args:
        runs: Of any configuration.
        variant: Which variant.
        batch: Which batch size.

    Returns:
        The tables.
    """
    groups: dict[tuple[float, ...], dict[tuple[int, int], Any]] = {}
    for run in having(runs, variant=variant, batch=batch):
        told, config = outcome(run), run.info["config"]
        if told and config["width"] in WIDTHS:
            setting = tuple(config[name] for name in ("examples", "steps", "lr"))
            groups.setdefault(setting, {})[config["seed"], config["width"]] = told
    cells = max(groups.values(), key=len, default={})
    widths = WIDTHS
    seeds = sorted({seed for seed, _ in cells})
    whole = tuple(seed for seed in seeds if all((seed, width) in cells for width in widths))

    def table(name: str) -> Array:
        rows = [[cells[seed, width][name] for width in widths] for seed in whole]
        return np.array(rows, dtype=float).reshape(len(whole), len(widths))

    return Sweep(widths, whole, table("train_error"), table("test_error"))


def peak(curve: Array) -> int | None:
    """Index of the interior maximum that stands out most; ``None`` for a curve without one.

    The narrowest networks fit nothing and may have the largest error of all: a peak has lower
    errors on both sides, and its prominence is the smaller of the two descents from it.

    Args:
        curve: Errors along the widths.

    Returns:
        The index.

    Examples:
        >>> peak(np.array([0.9, 0.6, 0.7, 0.5, 0.55, 0.4])), peak(np.array([3.0, 2.0, 1.0]))
        (2, None)
    """
    from scipy.signal import find_peaks

    at, told = find_peaks(curve, prominence=0.0)
    return int(at[np.argmax(told["prominences"])]) if len(at) else None


def threshold(train_error: Array) -> int | None:
    """Index of the narrowest width with a training error of 0; ``None`` if there is none.

    Args:
        train_error: Final errors along the widths.

    Returns:
        The index.

    Examples:
        >>> threshold(np.array([0.5, 0.1, 0.0, 0.0])), threshold(np.array([0.5, 0.1]))
        (2, None)
    """
    return int(np.argmax(train_error == 0)) if (train_error == 0).any() else None


def check(runs: Sequence[Run]) -> list[Check]:
    """Whether the test error peaks where the training error reaches 0, at every batch size.

    Args:
        runs: Of any variants, widths, batch sizes and seeds.

    Returns:
        Two checks a batch size that occurs, and one where the null was run as well.
    """
    seen = {run.info["config"]["batch"] for run in runs} or {DEFAULT_BATCH}
    found = []
    for batch in sorted(seen):
        noisy = gather(runs, "noisy", batch)
        found += [_place(noisy, batch), _height(noisy, batch)]
        clean = gather(runs, "clean", batch)
        if clean.seeds or len(seen) == 1:  # the null is asked for at one batch size at least
            found.append(_null(noisy, clean, batch))
    return found


def _few(seeds: int) -> str:
    return f"{seeds} seeds with every width; {LEAST} are needed"


def _place(sweep: Sweep, batch: int) -> Check:
    name = f"peak at the threshold, B = {batch}"
    expected = (
        "the mean test error peaks at the width where the training error first reaches 0, within "
        "one step of the grid (Belkin et al. 2019)"
    )
    if len(sweep.seeds) < LEAST:
        return Check(name, expected, _few(len(sweep.seeds)), None)
    first = [threshold(row) for row in sweep.train]
    there = [at for at in first if at is not None]
    top = peak(sweep.test.mean(0))
    if top is None or len(there) <= len(first) / 2:
        told = f"{len(there)} of {len(first)} seeds reach 0; {'a' if top else 'no'} peak"
        return Check(name, expected, told, False)
    tops = [peak(row) for row in sweep.test]
    near = [
        a is not None and b is not None and abs(a - b) <= 1
        for a, b in zip(tops, first, strict=True)
    ]
    share, middle = proportion(sum(near), len(near)), int(np.median(there))
    told = (
        f"mean of {len(near)} seeds peaks at width {sweep.widths[top]}, training error 0 first at "
        f"{sweep.widths[middle]} (median; {sweep.widths[min(there)]} to "
        f"{sweep.widths[max(there)]}); seed by seed within one step {sum(near)} of {len(near)} "
        f"[{share.low:.2f}, {share.high:.2f}]"
    )
    return Check(name, expected, told, abs(top - middle) <= 1)


def _height(sweep: Sweep, batch: int) -> Check:
    """At the threshold, which the test errors did not choose, against narrower and wider."""
    name = f"two descents, B = {batch}"
    expected = (
        "more test errors at the first training error of 0 than at a quarter of that width and at "
        "the widest network, both intervals above 0"
    )
    if len(sweep.seeds) < LEAST:
        return Check(name, expected, _few(len(sweep.seeds)), None)
    first = [at for at in map(threshold, sweep.train) if at is not None]
    if not first:
        return Check(name, expected, "no training error of 0", False)
    at = int(np.median(first))
    quarter = int(np.argmin(np.abs(np.log(np.array(sweep.widths) * 4 / sweep.widths[at]))))
    rises = [mean_interval(100 * (sweep.test[:, at] - sweep.test[:, o])) for o in (quarter, -1)]
    told = ", ".join(
        f"{e.value:.1f} points [{e.low:.1f}, {e.high:.1f}] above width {sweep.widths[o]}"
        for e, o in zip(rises, (quarter, -1), strict=True)
    )
    told = f"width {sweep.widths[at]}: {told}; {len(sweep.seeds)} seeds"
    return Check(name, expected, told, all(e.low > 0 for e in rises))


def _null(noisy: Sweep, clean: Sweep, batch: int) -> Check:
    name = f"clean: a smaller rise, B = {batch}"
    expected = (
        "without wrong labels the test error rises less from a quarter of the noisy threshold to "
        "the threshold, paired by seed (Nakkiran et al. 2019)"
    )
    seeds = sorted(set(noisy.seeds) & set(clean.seeds))
    first = [at for at in map(threshold, noisy.train) if at is not None]
    if len(seeds) < LEAST or not first:
        return Check(name, expected, _few(len(seeds)), None)
    width = noisy.widths[int(np.median(first))]
    rises = []
    for sweep in (noisy, clean):
        grid = np.array(sweep.widths)
        wide, narrow = (int(np.argmin(np.abs(np.log(grid / w)))) for w in (width, width / 4))
        rows = [sweep.seeds.index(seed) for seed in seeds]
        rises.append(100 * (sweep.test[rows, wide] - sweep.test[rows, narrow]))
    told = [mean_interval(values) for values in (*rises, rises[0] - rises[1])]
    words = [f"{e.value:.1f} [{e.low:.1f}, {e.high:.1f}]" for e in told]
    measured = (
        f"noisy {words[0]}, clean {words[1]}, difference {words[2]} points; {len(seeds)} seeds"
    )
    return Check(name, expected, measured, told[2].low > 0)


def figure(runs: Sequence[Run]) -> Figure:
    """Test error above and training error below against the width, a column a batch size.

    Lines are means over seeds, bands reach from the lowest to the highest, the null is grey, and
    the dotted line stands where the training error first is 0 (median over seeds).

    Args:
        runs: Of any variants, widths, batch sizes and seeds.

    Returns:
        Two rows, as many columns as batch sizes occur, at least one.
    """
    batches = sorted({run.info["config"]["batch"] for run in runs}) or [DEFAULT_BATCH]
    size = (1.2 + 2.6 * max(1.5, len(batches)), 4.2)
    drawn, axes = paper_figure(2, len(batches), size=size, sharex=True, sharey="row")
    for (top, bottom), batch in zip(axes.T, batches, strict=True):
        found = {variant: gather(runs, variant, batch) for variant in ("noisy", "clean")}
        styles = {
            "noisy": ("15 % wrong labels", PALETTE[0], "-"),
            "clean": ("null: right labels", GREY, "--"),
        }
        for variant, (label, colour, style) in styles.items():
            sweep = found[variant]
            for one, errors in ((top, sweep.test), (bottom, sweep.train)):
                if not len(errors):
                    continue
                low, high, x = errors.min(0), errors.max(0), sweep.widths
                one.plot(x, errors.mean(0), style, color=colour, lw=1.5, label=label)
                one.fill_between(x, low, high, color=colour, alpha=0.18, lw=0)
        first = [at for at in map(threshold, found["noisy"].train) if at is not None]
        for one in (top, bottom):
            if first:
                place = found["noisy"].widths[int(np.median(first))]
                one.axvline(place, color=GREY, lw=0.8, ls=(0, (2, 2)), zorder=0)
            if not one.has_data():
                told = "no seed with every width"
                one.text(0.5, 0.5, told, transform=one.transAxes, ha="center", color=GREY)
        title = f"batch {batch}, {len(found['noisy'].seeds)} seeds"
        top.set_title(title, loc="left", fontsize=9.5)
        ticks = [8, 32, 128, 512]
        bottom.set(xscale="log", xlabel="hidden units")
        bottom.set_xticks(ticks, labels=[str(width) for width in ticks])
        bottom.minorticks_off()
    axes[0, 0].set_ylabel("test error")
    axes[1, 0].set_ylabel("training error")
    fullest = max(axes[1], key=lambda one: len(one.get_legend_handles_labels()[1]))
    if fullest.get_legend_handles_labels()[1]:
        fullest.legend(frameon=False, fontsize=7.5)
    return drawn
