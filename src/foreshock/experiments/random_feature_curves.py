"""Curves of test error over the number of random features: what they are held to, and a figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from foreshock.experiments.ridge_solution import isotropic_risk
from foreshock.experiments.seeds import LEAST, all_of
from foreshock.experiments.setup import Check, having
from foreshock.report.figures import GREY, PALETTE, paper_figure
from foreshock.stats.intervals import t_quantile
from foreshock.stats.sample import mean_interval, proportion
from foreshock.store import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
#: N/n nearer to 1 than this have risks with heavy tails: no mean of seeds is judged there.
NEAR = 0.1
#: How many times as high as the valleys on both sides a peak is at least: ripples are none.
PROMINENCE = 2.0
#: Share of seeds with the peak at N = n exactly, 18 of 20 in the reference of this set-up.
REFERENCE = (18, 20)


def curves(runs: Sequence[Run]) -> tuple[Array, Array]:
    """N of the grid and the test errors of runs of one configuration but for the seed.

    Args:
        runs: At least one.

    Returns:
        ``(points,)`` and ``(runs, points)``.
    """
    found = [run.series("test_mse") for run in runs]
    return found[0].step.astype(float), np.stack([series.value for series in found])


def peak(errors: Array) -> int | None:
    """Index of the interior maximum that stands out most, by `PROMINENCE` or more; else ``None``.

    The prominence is the factor to the higher of the lowest errors on either side, up to where the
    curve is as high again.

    Args:
        errors: ``(points,)`` test errors along the grid, positive.

    Returns:
        The index.

    Examples:
        >>> peak(np.array([1.0, 0.5, 9.0, 0.4])), peak(np.array([1.0, 0.5, 0.6, 0.4]))
        (2, None)
    """
    from scipy.signal import find_peaks

    with np.errstate(divide="ignore"):
        at, told = find_peaks(np.log(errors), prominence=np.log(PROMINENCE))
    return int(at[np.argmax(told["prominences"])]) if len(at) else None


def check(runs: Sequence[Run]) -> list[Check]:
    """Where the peak is, what the closed form says, and what the nulls do.

    Args:
        runs: Of any variants and seeds; of several settings of one variant the most frequent.

    Returns:
        Four checks; ``holds`` is ``None`` below ten seeds.
    """
    by = {v: _alike(runs, v) for v in ("relu", "isotropic", "ridge", "noiseless")}
    return [
        _peak(by["relu"]),
        _oracle(by["isotropic"]),
        _no_peak(by["ridge"]),
        _paired(
            by["noiseless"],
            by["relu"],
            (1.1, 1.1),
            name="noiseless: less of it",
            expected="without label noise the error at N = 1.1 n is lower, in every seed; a peak "
            "remains, the part of the target that N features miss",
        ),
    ]


def _alike(runs: Sequence[Run], variant: str) -> list[Run]:
    """The runs of a variant that differ in their seed alone: the most frequent setting."""
    groups: dict[str, list[Run]] = {}
    for run in having(runs, variant=variant):
        groups.setdefault(str({**run.info["config"], "seed": 0}), []).append(run)
    return max(groups.values(), key=len, default=[])


def _few(runs: Sequence[Run]) -> str:
    return f"{len(runs)} seeds; {LEAST} are needed"


def _peak(runs: Sequence[Run]) -> Check:
    name = "peak at N = n"
    expected = (
        f"the peak is exactly at N = n in {REFERENCE[0]} of {REFERENCE[1]} seeds, and so is that "
        "of the median over seeds (Belkin et al. 2019)"
    )
    if len(runs) < LEAST:
        return Check(name, expected, _few(runs), None)
    n = runs[0].info["config"]["examples"]
    points, errors = curves(runs)
    tops = [peak(row) for row in errors]
    found = proportion(sum(at is not None and points[at] == n for at in tops), len(runs))
    top = peak(np.median(errors, axis=0))
    where = "has no peak" if top is None else f"peaks at N = {int(points[top])}"
    told = (
        f"{round(found.value * found.n)} of {found.n} seeds [{found.low:.2f}, {found.high:.2f}]; "
        f"the median {where}, n = {n}"
    )
    agrees = found.low <= REFERENCE[0] / REFERENCE[1] <= found.high
    return Check(name, expected, told, bool(agrees and top is not None and points[top] == n))


def _no_peak(runs: Sequence[Run]) -> Check:
    """By the rule that finds the peak of the others."""
    name = "ridge: no peak"
    expected = (
        f"with the best ridge no peak by the same rule, {PROMINENCE:g} times its valleys, in any "
        "seed (Nakkiran et al. 2021)"
    )
    silent = [peak(row) is None for row in curves(runs)[1]] if runs else []
    return all_of(name, expected, silent)


def _oracle(runs: Sequence[Run]) -> Check:
    """Student's t at every N away from n, the level shared among them (Bonferroni)."""
    name = "isotropic: closed form"
    expected = "mean risk at every N/n outside (0.9, 1.1) as the inverse Wishart mean says"
    if len(runs) < LEAST:
        return Check(name, expected, _few(runs), None)
    config = runs[0].info["config"]
    points, errors = curves(runs)
    away = np.abs(points / config["examples"] - 1) >= NEAR - 1e-9
    level = 1 - 0.05 / int(away.sum())
    worst, inside = 0.0, 0
    for count, values in zip(points[away], errors.T[away], strict=True):
        exact = isotropic_risk(config["examples"], int(count), config["noise"])
        t = (values.mean() - exact) / (values.std(ddof=1) / np.sqrt(len(values)))
        worst = max(worst, abs(float(t)))
        inside += abs(t) <= t_quantile(len(values) - 1, level)
    told = (
        f"{inside} of {away.sum()} means of {len(runs)} seeds within their {100 * level:.1f} % "
        f"interval (95 % together); largest |t| {worst:.1f}"
    )
    return Check(name, expected, told, bool(inside == away.sum()))


def _paired(
    lower: Sequence[Run],
    higher: Sequence[Run],
    ratios: tuple[float, float],
    *,
    name: str,
    expected: str,
) -> Check:
    """In how many seeds the error of one run at one N/n is below that of another."""
    one = {run.info["config"]["seed"]: run for run in lower}
    two = {run.info["config"]["seed"]: run for run in higher}
    seeds = sorted(one.keys() & two.keys())
    if len(seeds) < LEAST:
        return Check(name, expected, f"{len(seeds)} seeds; {LEAST} are needed", None)
    found = []
    for runs, ratio in zip((one, two), ratios, strict=True):
        points, errors = curves([runs[seed] for seed in seeds])
        n = runs[seeds[0]].info["config"]["examples"]
        found.append(errors[:, int(np.argmin(np.abs(points - ratio * n)))])
    share = proportion(int(np.sum(found[0] < found[1])), len(seeds))
    quotient = mean_interval(np.log(found[0] / found[1]))
    low, middle, high = np.exp([quotient.low, quotient.value, quotient.high])
    told = (
        f"{round(share.value * share.n)} of {share.n} seeds [{share.low:.2f}, {share.high:.2f}]; "
        f"geometric mean of the ratio {middle:.2f} [{low:.2f}, {high:.2f}]"
    )
    return Check(name, expected, told, share.value == 1.0)


def figure(runs: Sequence[Run]) -> Figure:
    """Test error against N/n with its nulls, and the oracle with its closed form.

    Args:
        runs: Of any variants and seeds, one size.

    Returns:
        Two panels.
    """
    drawn, axes = paper_figure(1, 2, size=(7.6, 3.2))
    left, right = axes[0]
    titles = {"relu": "no ridge", "noiseless": "null: noiseless", "ridge": "null: best ridge"}
    styles = {"relu": (PALETTE[0], "-"), "noiseless": (PALETTE[1], "--"), "ridge": (GREY, ":")}
    for variant, (colour, style) in styles.items():
        found = _alike(runs, variant)
        if not found:
            continue
        points, errors = curves(found)
        x = points / found[0].info["config"]["examples"]
        low, middle, high = np.quantile(errors, [0.25, 0.5, 0.75], axis=0)
        label = f"{titles[variant]} ({len(found)})"
        left.plot(x, middle, style, color=colour, lw=1.5, label=label)
        left.fill_between(x, low, high, color=colour, alpha=0.2, lw=0)
    left.set_title("Random ReLU features (seeds): median, quartiles", loc="left", fontsize=9.5)
    found = _alike(runs, "isotropic")
    if found:
        config = found[0].info["config"]
        n, noise = config["examples"], config["noise"]
        points, errors = curves(found)
        near = np.abs(points - n) <= 1
        means = [mean_interval(column) for column in errors.T]
        fine = np.unique(np.round(np.geomspace(points[0], points[-1], 2000))).astype(int)
        for part in (fine[fine < n - 1], fine[fine > n + 1]):
            exact = [isotropic_risk(n, int(count), noise) for count in part]
            label = "exact mean" if part[0] < n else None
            right.plot(part / n, exact, color="#1D2126", lw=1.0, label=label)
        x, told = points[~near] / n, [e for e, drop in zip(means, near, strict=True) if not drop]
        y = np.array([e.value for e in told])
        # A Student interval that reaches below 0 has no place on a logarithmic axis.
        low = np.array([max(e.low, e.value / 10) if len(found) > 1 else e.value for e in told])
        high = np.array([e.high if len(found) > 1 else e.value for e in told])
        label = f"mean of {len(found)} seeds, 95 %"
        right.errorbar(x, y, [y - low, high - y], fmt="o", ms=3, color=PALETTE[2], label=label)
    right.set_title("Oracle: isotropic least squares", loc="left", fontsize=9.5)
    for one in (left, right):
        one.set(xscale="log", yscale="log", xlabel="features per example, N/n")
        one.set_xticks([0.1, 0.3, 1, 3, 10], labels=["0.1", "0.3", "1", "3", "10"])
        one.minorticks_off()
        one.axvline(1, color=GREY, lw=0.8, ls=(0, (2, 2)), zorder=0)
        if one.has_data() and one.get_legend_handles_labels()[1]:
            one.legend(frameon=False, fontsize=7.5)
        else:
            one.text(0.5, 0.5, "no run", transform=one.transAxes, ha="center", color=GREY)
    left.set_ylabel("excess test error (mean square)")
    return drawn
