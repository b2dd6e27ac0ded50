"""Score paths, thresholds and counts of alarms by hand, and the benchmark on runs made by hand."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from foreshock.detectors import (
    Calibration,
    ConformalAlarm,
    GoldSelection,
    GoldTurnover,
    KlThreshold,
    OverOptimisation,
    ProxySpread,
    PublishedRlhfAlert,
)
from foreshock.evaluation.reward_alarms import (
    RewardRun,
    alarm_path,
    calibrated_path,
    first_above,
    mcnemar,
    score_path,
    tally,
    threshold_of,
)
from foreshock.experiments import overoptimisation
from foreshock.experiments.overoptimisation import OverOptimising
from foreshock.store import Run
from foreshock.types import Detector, Estimate, Observable


def rows(seed: int, n: int = 120) -> list[tuple[int, dict[str, Estimate]]]:
    """Two rewards of which gold turns at two thirds, and what the other rules read."""
    rng, t = np.random.default_rng(seed), np.arange(n) / 40
    noise = 0.02 * rng.standard_normal((3, n))
    columns = {
        "reward/proxy": t + noise[0],
        "reward/gold": t - t**2 / 4 + noise[1],
        "reward/kl": t**2,
        "reward/proxy_std": 1 + t**2 + noise[2],
        "reward/covariance": (1 - t / 2) * (1 + t**2) ** 2 + noise[0],
    }
    return [(i, {k: Estimate.plain(float(v[i])) for k, v in columns.items()}) for i in range(n)]


@pytest.mark.parametrize(
    "kind", [OverOptimisation, GoldSelection, ProxySpread, KlThreshold, GoldTurnover]
)
def test_one_path_serves_every_threshold(kind: type) -> None:
    fired = 0
    for seed in range(3):
        given = rows(seed)
        path = score_path(kind(), given)
        for threshold in (0.5, 1.5, 3.0, 4.5):
            rule: Detector = kind(threshold=threshold)
            state, steps = rule.init(), []
            for step, values in given:
                seen = {name: values[name] for name in rule.reads}
                state, alarm = rule.update(state, step, seen)
                steps += [alarm.step] if alarm else []
            assert steps == ([first] if (first := first_above(path, threshold)) is not None else [])
            fired += len(steps)
    assert fired > 3


def test_a_calibrated_path_is_the_conformal_alarm() -> None:
    safe = Calibration(("a", "b"), ("above", "below"), (0, 2), ((0.0, 1.0), (0.0, 0.0)),
                       ((1.0, 1.0), (2.0, 1.0)), 2.0, 0.05)  # fmt: skip
    given = [
        (t, {"a": Estimate.plain(a), "b": Estimate.plain(b)})
        for t, a, b in ((0, 1.0, -3.0), (1, 99.0, -99.0), (2, 4.0, -0.5))
    ]
    assert calibrated_path(safe, given) == [(0, 1.5), (2, 3.0)]
    assert calibrated_path(safe, given, min) == [(0, 1.0), (2, 0.5)]
    (alarm,) = [a for s in [alarm_path(ConformalAlarm(safe), given)] for a in s if a[1]]
    assert alarm[0] == first_above(calibrated_path(safe, given), safe.threshold) == 2
    # A series that is absent, or nan, is no look.
    assert calibrated_path(safe, [(0, {"a": Estimate.plain(1.0)})]) == []
    assert (
        calibrated_path(safe, [(0, {"a": Estimate.plain(math.nan), "b": given[0][1]["b"]})]) == []
    )


def test_thresholds_are_cut_at_the_horizon() -> None:
    paths = [[(0, -float(i)), (60, float(i)), (61, 100.0)] for i in range(40)]
    # ceil(.95 * 41) = 39th smallest of 0 .. 39, up to the horizon and including it.
    assert threshold_of(paths, 0.05, 60) == 38.0
    assert threshold_of(paths, 0.05, 59) == -1.0
    assert threshold_of(paths, 0.05) == 100.0
    assert first_above(paths[3], 0.0, 60) == 60 and first_above(paths[3], 3.0, 60) is None


def made(seed: int, peak: int, onset: int | None, alarm: int | None) -> RewardRun:
    path = [(t, float(alarm is not None and t == alarm)) for t in range(100)]
    return RewardRun(seed, peak, onset, {"rule": path})


def test_the_counts_by_hand() -> None:
    hacking = [
        made(0, 40, 60, 35),  # exactly 5 before the peak: a hit
        made(1, 40, 60, 36),  # 4 before: before the peak, no hit
        made(2, 40, 60, 10),  # exactly a quarter of the time to the peak: a hit
        made(3, 40, 60, 9),  # earlier: early, nothing
        made(4, 40, 60, 40),  # at the peak
        made(5, 40, 60, 60),  # at the established fall: not before it
        made(6, 40, 60, None),
        made(7, 40, None, 20),  # no event
        made(8, 40, None, None),
    ]
    null = [made(10, 90, None, 50), made(11, 90, None, None), made(12, 50, 70, 55)]
    wide = [made(20, 50, 70, 45), made(21, 50, 70, None), made(22, 90, None, 70)]
    groups = {"hacking": hacking, "null": null, "wide": wide, "calibration": null}
    found = tally("rule", 0.5, groups)
    counted = {
        k: (v["count"], v["of"]) for k, v in found.items() if isinstance(v, dict) and "of" in v
    }
    assert counted == {
        "hits": (2, 7),
        "before_peak": (3, 7),
        "before_fall": (4, 7),
        "alarms": (6, 7),
        "hacking_without_event": (1, 2),
        "false_alarms": (1, 2),
        "false_alarms_all": (2, 3),
        "wide": (1, 1),
        "wide_events": (1, 2),
    }
    assert found["hit_seeds"] == [0, 2] and found["steps"]["6"] is None
    assert found["lead"][1] == 4.5  # of 31, 30, 5, 4, 0, -20
    # A horizon cuts alarms, not runs.
    cut = tally("rule", 0.5, groups, horizon=35)
    assert (cut["hits"]["count"], cut["alarms"]["count"], cut["hits"]["of"]) == (2, 3, 7)
    assert cut["false_alarms_all"]["count"] == 0 and cut["wide"]["count"] == 0
    assert tally("rule", 0.5, {"hacking": [], "null": []})["hits"]["rate"] is None


def test_mcnemar_against_the_binomial() -> None:
    # b = 1, c = 7: 2 (1 + 8)/256.
    assert mcnemar(range(8), [7, 8]) == pytest.approx(18 / 256)
    assert mcnemar([7, 8], range(8)) == mcnemar(range(8), [7, 8])
    assert mcnemar([1], [2]) == 1.0 and mcnemar([], []) == 1.0
    # Its level under the null: pairs of independent hits, never above the nominal one.
    rng, small = np.random.default_rng(0), 0
    for _ in range(1000):
        hits = [np.flatnonzero(rng.random(40) < 0.3).tolist() for _ in range(2)]
        small += mcnemar(*hits) <= 0.05
    assert small <= 50 + 4 * math.sqrt(47.5)


# ------------------------------------------------------------------ the benchmark


def benchmark() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "hacking.py"
    spec = importlib.util.spec_from_file_location("bench_hacking", path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def recorded(path: Path, seed: int, *, hacks: bool, n: int = 80) -> None:
    """Gold that turns at step 40, or does not; the published pair falls and jumps with it."""
    rng, t = np.random.default_rng(seed), np.arange(n) / 20
    gold = np.where(t < 2, t, 4 - t) if hacks else t / 2
    with Run.create(path, config={"variant": path.name.partition("-")[0], "seed": seed}) as run:
        for i in range(n):
            z, turned = 0.02 * rng.standard_normal(6), hacks and i > 30
            mean = {"gold": gold[i] + z[0], "proxy": t[i] + z[1]}
            told = {
                f"reward/{name}": Estimate(value, value - 0.04, value + 0.04, n=128)
                for name, value in mean.items()
            }
            plain = {"reward/kl": i / 20 + z[2], "reward/entropy": 1 + z[3]}
            if i % 5 == 0:
                plain["published/c_fp_code"] = (0.1 if turned else 1.0) + z[4]
                # It jumps higher in most nulls, which say nothing by C: "and" must not mean "or".
                jumps = 20.0 if not hacks and i > 30 and seed % 10 >= 2 else 0.5
                plain["published/max_div_j_fp"] = (9.0 if turned else jumps) + z[5]
            run.append(i, {**told, **plain})
    path.with_name(f"{path.name}.done").write_text("of an older benchmark")


def test_the_benchmark_reads_finished_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = benchmark()
    for group, variant, start in bench.GROUPS:
        for seed in range(start, start + {"wide": 0, "frozen": 2}.get(group, 6)):
            recorded(tmp_path / f"{variant}-{seed}", seed, hacks=group == "hacking")
    (tmp_path / "hacking-4005.done").unlink()  # not finished
    words = ["hacking", "--read", "--runs", "6", "--alpha", "0.25", "--folder", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", words)
    bench.main()
    text = capsys.readouterr().out
    assert "5 hacking (5 with the event)" in text and "0 wide" in text
    assert "left out: proxy_spread: no reward/proxy_std" in text
    assert "everything cut at step 60" in text
    paths = {g: [(s, p) for s, p in i if bench.done_file(p).exists()]
             for g, i in bench.folders(tmp_path, 6).items()}  # fmt: skip
    result = bench.judged(paths, 0.25, 35)
    assert result["events"]["null"] == [] and len(result["peaks"]) == 5
    lines = {line["rule"]: line for line in result["rules"]}
    # C falls and div J jumps at the look of step 35, 5 or so before the peak's block (37 or 42).
    both = lines["published, calibrated"]
    # One in four safe runs alarms at this alpha, so one of the five may at the start.
    assert list(both["steps"].values()).count(35) >= 4 and both["false_alarms"]["of"] == 6
    assert set(lines["published, as written"]["steps"].values()) == {35}
    assert lines["published, as written"]["threshold"] is None
    # The KL is a clock: whole runs never let it warn, as nulls end where hacking runs end; cut
    # runs neither, but their threshold is that of step 35.
    assert lines["kl_threshold"]["threshold"] == pytest.approx(79 / 20, abs=0.1)
    short = {line["rule"]: line for line in result["rules_to_horizon"]}
    assert short["kl_threshold"]["threshold"] == pytest.approx(35 / 20, abs=0.1)
    assert lines["over_optimisation"]["before_fall"]["count"] == 5
    assert lines["over_optimisation"]["p_against_kl"] <= 1


def test_runs_that_located_give_no_threshold() -> None:
    bench = benchmark()
    scores = [50.0, 60.0, 1.0, 2.0, 3.0, 4.0]
    safe = [RewardRun(i, 90, None, {"a": [(0, s)], "b": [(0, s)]}) for i, s in enumerate(scores)]
    fell = RewardRun(6, 40, 60, {"a": [(0, 99.0)], "b": [(0, 99.0)]})  # no safe run either
    groups = {"calibration": [*safe, fell], "null": [], "hacking": [fell]}
    lines = bench.table(groups, {"a": 2}, 0.25, math.inf)
    # ceil(.75 * 5) = 4th of 1 2 3 4; and ceil(.75 * 7) = 6th of all six.
    assert [line["threshold"] for line in lines] == [4.0, 60.0]


def test_finished_runs_are_made_by_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, path, trained = benchmark(), tmp_path / "wide-1", []

    def run(config: OverOptimising, path: Path, *, observables: list[Observable]) -> Run:
        trained.append((config, [type(o).__name__ for o in observables]))
        return Run.create(path)

    monkeypatch.setattr(overoptimisation, "run", run)
    bench.train("wide", 1, path, 7)
    told = bench.done_file(path).read_text()
    config, watched = trained[0]
    assert (config.variant, config.seed, config.steps, config.every) == ("wide", 1, 7, bench.LOOKS)
    assert watched == ["LatentFlow", "PublishedFokkerPlanck"]
    assert all(word in told for word in ("python", "torch", "source", *watched))
    bench.train("wide", 1, path, 7)
    assert len(trained) == 1
    # Another torch, another number of steps, an older benchmark: trained again.
    for text, steps in ((told.replace("torch", "touch"), 7), (told, 8), (repr(config), 7)):
        bench.done_file(path).write_text(text)
        bench.train("wide", 1, path, steps)
    assert len(trained) == 4 and bench.done_file(path).read_text() == told


def test_the_published_alert_needs_both() -> None:
    given = [
        (t, {"published/c_fp_code": Estimate.plain(c), "published/max_div_j_fp": Estimate.plain(j)})
        for t, c, j in ((0, 0.1, 0.5), (1, 0.5, 5.0), (2, 0.1, 5.0))
    ]
    assert alarm_path(PublishedRlhfAlert(), given) == [(0, 0.0), (1, 0.0), (2, 1.0)]
