"""Split conformal calibration: its exact false-alarm rate, its power, its refusals."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from foreshock import Run
from foreshock.detectors import Calibration
from foreshock.evaluation import (
    calibrate,
    runs_needed,
)
from foreshock.evaluation.conformal import fit, standardised


def ar1(rng: np.random.Generator, shape: tuple[int, ...], phi: float) -> np.ndarray:
    """Stationary, unit variance, along the last axis."""
    x, shocks = np.empty(shape), rng.standard_normal(shape) * math.sqrt(1 - phi * phi)
    x[..., 0] = rng.standard_normal(shape[:-1])
    for t in range(1, shape[-1]):
        x[..., t] = phi * x[..., t - 1] + shocks[..., t]
    return x


def rates(runs: int, repeats: int, phi: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Share of 20 fresh runs that alarm, without and with a bump of 4 sd for 10 steps."""
    rng, false, hit = np.random.default_rng(seed), [], []
    for _ in range(repeats):
        x = ar1(rng, (runs + 20, 1, 200), phi)
        safe = fit(range(200), x[:runs], series=["x"], sides=["above"])
        bumped = x[runs:].copy()
        bumped[..., 100:110] += 4
        for found, fresh in ((false, x[runs:]), (hit, bumped)):
            found.append(np.mean(standardised(safe, fresh).max(-1) > safe.threshold))
    return np.array(false), np.array(hit)


def within(shares: np.ndarray, expected: float) -> bool:
    # Fresh runs of one repeat share a threshold, so the repeat is the unit of the standard error.
    return abs(shares.mean() - expected) < 4 * shares.std(ddof=1) / math.sqrt(len(shares))


@pytest.mark.parametrize("phi", [0.0, 0.9, 0.99])
def test_the_false_alarm_rate_is_the_exact_one_whatever_the_autocorrelation(phi: float) -> None:
    # 60 runs: 20 locate, 40 calibrate; a fresh score is above the 39th of 40 with probability
    # 1 - 39/41, for every law.
    false, _ = rates(60, 150, phi, seed=1)
    assert within(false, 2 / 41)
    assert false.mean() < 0.08  # and the test has the power to see a rate of 10 %


def test_the_smallest_number_of_runs_keeps_the_rate() -> None:
    false, _ = rates(30, 150, 0.9, seed=2)
    assert within(false, 1 / 21)


def test_the_power_for_a_bump() -> None:
    # .64 by an independent program for this very setting, a Monte-Carlo figure of its own: +-.06
    # besides 4 standard errors.
    _, hit = rates(60, 150, 0.9, seed=3)
    assert abs(hit.mean() - 0.64) < 0.06 + 4 * hit.std() / math.sqrt(len(hit))


def test_a_change_of_units_changes_no_alarm() -> None:
    rng = np.random.default_rng(4)
    x = ar1(rng, (50, 1, 100), 0.9)
    scale = np.exp(rng.standard_normal(100))  # another unit at every step
    one = fit(range(100), x[:40], series=["x"], sides=["above"])
    other = fit(range(100), scale * x[:40] - 7, series=["x"], sides=["above"])
    np.testing.assert_allclose(one.threshold, other.threshold, rtol=1e-9)
    np.testing.assert_allclose(
        standardised(one, x[40:]), standardised(other, scale * x[40:] - 7), rtol=1e-6, atol=1e-9
    )


def test_sides_and_the_maximum_over_series() -> None:
    rng = np.random.default_rng(5)
    x = rng.standard_normal((40, 2, 30))
    above = fit(range(30), x, series=["a", "b"], sides=["above", "below"])
    mirrored = x * np.array([1.0, -1.0])[:, None]
    same = fit(range(30), mirrored, series=["a", "b"], sides=["above", "above"])
    assert above.threshold == same.threshold
    both = fit(range(30), x, series=["a", "b"], sides=["both", "both"])
    # By hand: |z| of the last 27 runs, the 27th of ceil(.95 * 28) = 27.
    location = np.median(x[:13], axis=0)
    scale = 1.4826 * np.median(np.abs(x[:13] - location), axis=0)
    largest = np.sort(np.abs((x[13:] - location) / scale).max(axis=(1, 2)))
    assert both.threshold == pytest.approx(largest[26], rel=1e-12)


def test_a_step_without_spread_takes_the_typical_scale() -> None:
    x = np.random.default_rng(6).standard_normal((30, 1, 5))
    x[:, :, 0] = 0.0
    safe = fit(range(0, 50, 10), x, series=["x"], sides=["above"])
    assert safe.grid == (0, 10, 20, 30, 40) and "agree at 1 of 5 steps" in safe.notes[0]
    assert safe.scale[0][0] == np.median(safe.scale[0][1:])
    # What the first third shows is all that the scale is made of: the others may not move it.
    other = np.concatenate([x[:10], 7 * x[10:]])
    assert fit(range(5), other, series=["x"], sides=["above"]).scale == safe.scale
    with pytest.raises(ValueError, match="does not vary between the runs"):
        fit(range(5), np.ones((30, 1, 5)), series=["x"], sides=["above"])


def test_a_saturated_series_is_watched_to_its_end() -> None:
    # An accuracy that reaches 1 in every safe run: a fall to 0 must be seen, long after.
    rng = np.random.default_rng(10)
    x = np.ones((30, 2, 100))
    x[:, 0, :20] -= 0.01 * rng.random((30, 20))
    x[:, 1] = rng.standard_normal((30, 100))  # the other series loses no step to it
    safe = fit(range(100), x, series=["acc", "x"], sides=["below", "above"])
    assert safe.grid == tuple(range(100))
    fallen = x[-1:].copy()
    fallen[:, 0, 50:] = 0.0
    assert standardised(safe, fallen).argmax() >= 50
    assert standardised(safe, fallen).max() > safe.threshold
    assert not (standardised(safe, x[:10])[:, 50:] > safe.threshold).any()
    # Fewer than half differ at any step, and yet they do: counts of a rare thing.
    rare = (rng.random((30, 1, 50)) < 0.1).astype(float)
    assert math.isfinite(fit(range(50), rare, series=["x"], sides=["above"]).threshold)


def test_a_scale_of_rounding_noise_does_not_set_the_threshold() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 1, 100))
    noisy = x.copy()
    noisy[:, 0, 0] = np.where(rng.random(60) < 0.1, 1e-3, 1e-17 * rng.standard_normal(60))
    clean = fit(range(100), x, series=["x"], sides=["above"])
    found = fit(range(100), noisy, series=["x"], sides=["above"])
    # A step of 100 less: the largest of 99 is below the largest of 100 by little.
    assert clean.notes == () and found.threshold == pytest.approx(clean.threshold, rel=0.1)
    # A spread that is small but no rounding is divided by, and its step is named.
    noisy[:, 0, 3] = np.where(rng.random(60) < 0.1, 1.0, 1e-3 * rng.standard_normal(60))
    alone = fit(range(100), noisy, series=["x"], sides=["above"])
    assert alone.threshold > 100 and "Step 3 alone sets the threshold" in alone.notes[-1]


def test_infinite_values_of_safe_runs_count() -> None:
    # One in a hundred values is +inf, one run in five. Were these steps left out, fresh runs would
    # be judged where no safe run was infinite, and above alpha. The 25th of 40 scores: 1 - 25/41.
    rng, false = np.random.default_rng(11), []
    for _ in range(150):
        x = rng.standard_normal((80, 1, 20))
        x[rng.random(x.shape) < 0.01] = math.inf
        safe = fit(range(20), x[:60], series=["x"], sides=["above"], alpha=0.4)
        false.append(np.mean(standardised(safe, x[60:]).max(-1) > safe.threshold))
    assert within(np.array(false), 16 / 41)
    x = rng.standard_normal((30, 1, 20))
    x[10:12, 0, 5] = math.inf
    with pytest.raises(ValueError, match="2 of the 20 runs .* are infinite on the dangerous side"):
        fit(range(20), x, series=["x"], sides=["above"])
    assert fit(range(20), x, series=["x"], sides=["below"]).threshold < 10  # the safe side


@pytest.mark.parametrize(
    ("alpha", "runs"), [(0.05, 30), (0.01, 150), (0.1, 15), (0.5, 6), (0.2, 6)]
)
def test_how_many_runs_are_needed_is_what_fit_accepts(alpha: float, runs: int) -> None:
    assert runs_needed(alpha) == runs
    x = np.random.default_rng(7).standard_normal((runs, 1, 4))
    for count in (runs, runs + 1, runs + 2):
        more = np.concatenate([x, x + 1])[:count] if count > runs else x
        fit(range(4), more, series=["x"], sides=["above"], alpha=alpha)
    with pytest.raises(ValueError, match=f"{runs - 1} known-safe runs .*: {runs} are needed"):
        fit(range(4), x[1:], series=["x"], sides=["above"], alpha=alpha)


def safe_run(
    path: Path,
    seed: int,
    steps: int = 20,
    *,
    config: dict | None = None,
    unit: str = "nats",
    milestone: str = "",
) -> Run:
    """One run of a KL, closed and opened again."""
    told = {"lr": 0.1, "source": "abc"} if config is None else config
    with Run.create(path, config={**told, "seed": seed}, seed=seed) as run:
        run.declare("reward/kl", unit=unit)
        for t, value in enumerate(np.random.default_rng(seed).standard_normal(steps)):
            run.append(t, {"reward/kl": float(value)})
        if milestone:
            run.event("milestone", "test", {"name": milestone, "rule": "By hand."}, step=3)
    return Run.open(path)


def test_runs_that_are_unlike_or_unsafe_are_refused(tmp_path: Path) -> None:
    runs = [safe_run(tmp_path / f"s{seed}", seed) for seed in range(6)]
    safe = calibrate(runs, "reward/kl", alpha=0.25)
    assert safe.units == ("nats",) and len(safe.setup) == 12 and "python" in safe.versions
    short = safe_run(tmp_path / "short", 9, steps=17)
    other = safe_run(tmp_path / "other", 9, config={"lr": 0.2, "source": "abc"})
    source = safe_run(tmp_path / "source", 9, config={"lr": 0.1, "source": "xyz"})
    token = safe_run(tmp_path / "token", 9, unit="nats/token")
    hacked = safe_run(tmp_path / "hacked", 9, milestone="over_optimised")
    peaked = safe_run(tmp_path / "peaked", 9, milestone="memorised")
    for odd, sentence in (
        (short, r"share 17 of the 20 steps .*short has fewest, 17 of them"),
        (other, "other differ in their configuration: lr[.]"),
        (source, "differ in their configuration: source[.]"),
        (token, "in the units nats and nats/token"),
        (hacked, "hacked reached the milestone over_optimised"),
    ):
        with pytest.raises(ValueError, match=sentence):
            calibrate([*runs, odd], "reward/kl", alpha=0.25)
    # Asked for, and what needs no asking: other milestones, and one step less of twenty.
    almost = safe_run(tmp_path / "almost", 9, steps=19)
    for odd, arguments in (
        (other, {"force": True}),
        (hacked, {"force": True}),
        (short, {"common": 0.5}),
        (peaked, {}),
        (almost, {}),
    ):
        found = calibrate([*runs, odd], "reward/kl", alpha=0.25, **arguments)  # type: ignore[arg-type]
        assert len(found.grid) == {"short": 17, "almost": 19}.get(odd.path.name, 20)
    with pytest.raises(ValueError, match="got a series twice"):
        calibrate(runs, ["reward/kl", "reward/kl"], alpha=0.25)
    for run in (*runs, short, other, source, token, hacked, peaked, almost):
        run.close()


def test_a_run_that_goes_on_or_crashed_is_refused(tmp_path: Path) -> None:
    runs = [safe_run(tmp_path / f"s{seed}", seed) for seed in range(5)]
    with pytest.raises(RuntimeError, match="power"):
        with Run.create(tmp_path / "crashed", config={"lr": 0.1, "source": "abc"}) as crashed:
            for t in range(20):
                crashed.append(t, {"reward/kl": 1.0})
            raise RuntimeError("power")
    read = Run.open(tmp_path / "crashed")
    with pytest.raises(ValueError, match="crashed was not closed"):
        calibrate([*runs, read], "reward/kl", alpha=0.25)
    for run in (*runs, read):
        run.close()


def recorded(folder: Path, count: int) -> list[Run]:
    """Runs of an AR(1) KL at 30 common steps, and one step of their own."""
    x = 1 + ar1(np.random.default_rng(8), (count, 30), 0.9)
    for i, row in enumerate(x):
        with Run.create(folder / f"safe{i:02}") as run:
            for t, value in enumerate(row):
                run.append(10 * t, {"reward/kl": float(value), "loss": math.nan})
            run.append(1000 + i, {"reward/kl": 0.0})
    return [Run.open(folder / f"safe{i:02}") for i in range(count)]


def test_recorded_runs_on_their_common_steps(tmp_path: Path) -> None:
    runs = recorded(tmp_path, 30)
    safe = calibrate(runs, "reward/kl", alpha=0.05, side="both")
    assert safe.grid == tuple(range(0, 300, 10))
    assert safe.located + safe.calibrated == tuple(run.id for run in runs)
    assert (len(safe.located), safe.sides, safe.alpha) == (10, ("both",), 0.05)
    safe.save(tmp_path / "safe.json")
    assert Calibration.load(tmp_path / "safe.json") == safe  # every bit

    for given, arguments, sentence in (
        (runs[:29], {"series": "reward/kl"}, "29 known-safe runs .* 30 are needed"),
        ([*runs[:29], runs[0]], {"series": "reward/kl"}, "given twice"),
        (runs, {"series": "reward/gold"}, "has no series 'reward/gold'. It has reward/kl, loss"),
        (runs, {"series": "loss"}, "No step has a value of loss in all 30 runs. .*attach"),
        (runs, {"series": "reward/kl", "side": "left"}, "Got 'left'"),
        (runs, {"series": "reward/kl", "alpha": 0.0}, "must lie in .0, 1.. Got 0"),
        (runs, {"series": []}, "at least one series"),
    ):
        with pytest.raises(ValueError, match=sentence):
            calibrate(given, **arguments)  # type: ignore[arg-type]
    for run in runs:
        run.close()


def test_unfit_arrays_are_refused() -> None:
    for values, sentence in (
        (np.ones((30, 2, 4)), r"shape \(runs, 1 series, 4 steps\)"),
        (np.full((30, 1, 4), math.nan), "needs values"),
    ):
        with pytest.raises(ValueError, match=sentence):
            fit(range(4), values, series=["x"], sides=["above"])
    x = np.random.default_rng(9).standard_normal((30, 1, 4))
    with pytest.raises(ValueError, match="one identity for each run. Got 2 for 30"):
        fit(range(4), x, series=["x"], sides=["above"], ids=["a", "b"])
