"""Sweeps: nothing finished is lost or repeated, whatever is killed; and how long they will take.

Oracles: the identity, inode and time of run folders before and after; closed forms of packing; a
clock that only moves when told. Most trials are of a toy that sleeps, in real processes.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from foreshock.experiments import duration, experiment, kept, planning, sweep, trial
from foreshock.experiments.duration import Pace
from foreshock.experiments.planning import Trial
from foreshock.experiments.sweep import Status
from foreshock.store import Run, lock
from tests.experiments import toy

# Processes start within a second on an idle machine; a busy one is given far more.
PATIENCE = 120.0
PACE = Pace(1.0, 0.0)


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    toy.register(monkeypatch)


def plan(seeds: Any = (0,), variants: Any = ("works",), **grid: Any) -> list[Trial]:
    return planning.plan({"toy": toy.EXPERIMENT}, list(seeds), variants, grid)


def foresee(trials: list[Trial], out: Path, jobs: int = 2) -> sweep.Forecast:
    return sweep.foresee(trials, out, jobs=jobs, pace=lambda waiting, jobs: PACE)


def carry_out(trials: list[Trial], out: Path, **how: Any) -> sweep.Outcome:
    how = {"jobs": 2, **how}
    return sweep.carry_out(trials, out, foresee(trials, out, how["jobs"]), **how)


def until(true: Any) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def process(*words: str) -> subprocess.Popen[str]:
    """A sweep of the toy as a user starts it, in a process of its own."""
    command = [sys.executable, "-m", "tests.experiments.toy", "sweep", "toy", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def identities(out: Path) -> dict[str, tuple[Any, ...]]:
    """What would change if a run were made again."""
    found = {}
    for path in sorted(out.glob("[!.]*/run.json")):
        data = path.parent / "data.sqlite"
        stats = [os.stat(p) for p in (path.parent, path, data)]
        with Run.open(path.parent) as run:
            found[path.parent.name] = (run.id, *[(s.st_ino, s.st_mtime_ns) for s in stats])
    return found


# ------------------------------------------------------------------ what is planned


def test_a_plan_is_the_product_once() -> None:
    trials = plan([0, 1, 0], ["works", "null"], steps=[1, 2])
    assert len(trials) == 8 == len({one.name for one in trials})
    assert {one.settings for one in trials} == {
        one.settings for one in trials if not one.config.seed
    }
    assert trials[0].name.startswith("toy-works-0-")
    (small,) = planning.plan({"toy": toy.EXPERIMENT}, [5], ["null"], small=True)
    assert small.config == toy.Toy("null", 5, steps=2)


def test_every_field_is_in_the_name() -> None:
    changes = {"variant": "null", "seed": 1, "steps": 5, "pause": 0.1, "sizes": (1,), "fine": False}
    (one,) = plan()
    names = {replace(one, config=replace(one.config, **{k: v})).name for k, v in changes.items()}
    assert set(changes) == set(one.fields)
    assert len(names | {one.name}) == 1 + len(changes)


def test_what_is_no_variant_and_no_field_is_refused() -> None:
    with pytest.raises(ValueError, match="no variant lost. There are toy: works, null"):
        plan(variants=["works", "lost"])
    with pytest.raises(ValueError, match="Its fields are variant, seed, steps"):
        plan(depth=[3])


# ------------------------------------------------------------------ what is carried out


def test_finished_trials_are_kept_and_hold_what_was_asked(tmp_path: Path) -> None:
    trials = plan([0, 1], sizes=[(3, 4)])
    outcome = carry_out(trials, tmp_path)
    assert not outcome.crashed and set(outcome.took) == {one.name for one in trials}
    before = identities(tmp_path)
    assert set(before) == set(outcome.took)
    again = carry_out(trials, tmp_path)
    assert not again.took and identities(tmp_path) == before
    with Run.open(tmp_path / trials[1].name) as run:
        (asked,), (timing,) = run.events("trial"), run.events("timing")
        assert run.info["config"]["sizes"] == [3, 4] and run.last_step == 3
    assert asked.payload == {
        "experiment": "toy", "config": trials[1].fields, "small": False,
        "code": trial.code_of("tests.experiments.toy"),
    }  # fmt: skip
    assert 0 < timing.payload["seconds"] < outcome.took[trials[1].name]
    # What another seed will take is what these settings took.
    times = [there.seconds for there in kept.finished(tmp_path).values() if there]  # type: ignore
    forecast = foresee(plan([7], sizes=[(3, 4)]), tmp_path)
    assert forecast.seconds == pytest.approx(sum(times) / 2) and forecast.timed
    # On a machine that has become three times slower, three times as long, and a start.
    slow = sweep.foresee(
        plan([7], sizes=[(3, 4)]), tmp_path, jobs=2, pace=lambda waiting, jobs: Pace(3.0, 1.0)
    )
    assert slow.seconds == pytest.approx(3 * sum(times) / 2 + 1) and slow.jobs == 1
    assert not list(tmp_path.glob("*.log")) and not list((tmp_path / trial.HIDDEN).glob("toy*"))


def test_other_settings_do_not_reuse_a_run(tmp_path: Path) -> None:
    carry_out(plan(), tmp_path)
    (other,) = plan(steps=[5])
    assert foresee([other], tmp_path).kept == ()
    # Even under the same name: a run that holds another configuration is not this trial.
    (one,) = plan()
    os.rename(tmp_path / one.name, tmp_path / other.name)
    with pytest.raises(ValueError, match=r"its configuration is another\). Move it away"):
        foresee([other], tmp_path)


def test_a_crash_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    trials = plan([0, 1, 2], ["crashes"]) + plan([0], ["killed"])
    seen: list[Status] = []
    outcome = carry_out(trials, tmp_path, watch=seen.append)
    crashed = {crash.name.rpartition("-")[0]: crash for crash in outcome.crashed}
    assert set(crashed) == {"toy-crashes-1", "toy-killed-0"}
    assert crashed["toy-crashes-1"].code == 1 and crashed["toy-killed-0"].code == -signal.SIGKILL
    assert crashed["toy-crashes-1"].lines[-1] == "RuntimeError: the toy is broken"
    assert "the toy is broken" in crashed["toy-crashes-1"].log.read_text()
    assert len(identities(tmp_path)) == 2 and seen[-1].done == 4
    assert not list((tmp_path / trial.HIDDEN).glob("toy*"))  # nothing half-made stays


def test_kill_9_loses_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    words = ["--seed", "0..6", "--variant", "works", "--set", "pause=0.1", "--jobs", "2"]
    words += ["--out", str(tmp_path), "--json"]
    first = process(*words)
    until(lambda: len(list(tmp_path.glob("toy-*/run.json"))) >= 2 or first.poll() is not None)
    first.kill()
    first.communicate()
    # Trials die with their sweep: what is there now is all there will be.
    hidden = tmp_path / trial.HIDDEN
    until(lambda: not any(trial.in_work(tmp_path, p.name) for p in hidden.iterdir() if p.is_dir()))
    before = identities(tmp_path)
    assert 2 <= len(before) < 7
    second = process(*words)
    text, errors = second.communicate()
    assert second.returncode == 0, errors
    after = identities(tmp_path)
    assert len(after) == 7 and before.items() <= after.items()
    rows = {row["name"]: row["state"] for row in json.loads(text)["trials"]}
    assert {name for name, state in rows.items() if state == "kept"} == set(before)
    for name in after:
        with Run.open(tmp_path / name) as run:
            assert run.last_step == 3 and len(run.events("timing")) == 1
    assert not [path for path in hidden.iterdir() if path.is_dir()]


def test_two_sweeps_of_one_folder_share_the_work(tmp_path: Path) -> None:
    words = ["--seed", "0..4", "--variant", "works", "--set", "pause=0.05", "--jobs", "2"]
    words += ["--out", str(tmp_path), "--json"]
    both = [process(*words) for _ in range(2)]
    told = [(json.loads(one.communicate()[0]), one.returncode) for one in both]
    assert [code for _, code in told] == [0, 0]
    assert len(identities(tmp_path)) == 5
    # Each was run by one of them, or was found finished.
    for index in range(5):
        assert sum(found["trials"][index]["seconds"] is not None for found, _ in told) == 1


def test_a_trial_ends_when_its_pipe_closes(tmp_path: Path) -> None:
    # The parent lives, so that this is the pipe and not the signal of Linux.
    (one,) = plan(steps=[1000], pause=[1.0])
    child: Any = sweep.start_process(one, tmp_path, 1, 1.0)
    until(lambda: trial.told(tmp_path, one.name) > 0)
    assert trial.in_work(tmp_path, one.name)
    trial.clear(tmp_path)
    assert trial.in_work(tmp_path, one.name)  # what is in work is not cleared
    child._child.stdin.close()
    assert child._child.wait(PATIENCE) == 1
    assert not trial.in_work(tmp_path, one.name) and not (tmp_path / one.name).exists()
    trial.clear(tmp_path)
    assert not list((tmp_path / trial.HIDDEN).glob("toy*"))


def test_an_interrupted_sweep_ends_its_trials(tmp_path: Path) -> None:
    (one,) = plan(steps=[1000], pause=[1.0])

    def interrupt(status: Status) -> None:
        if any(status.running.values()):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out([one], tmp_path, watch=interrupt)
    assert not trial.in_work(tmp_path, one.name)
    assert not list((tmp_path / trial.HIDDEN).glob("toy*")) and not (tmp_path / one.name).exists()


def test_threads_are_set_before_anything_is_imported() -> None:
    assert {trial.environment(3)[name] for name in trial.THREADS} == {"3"}


# ------------------------------------------------------------------ where locks, code, logs matter


@pytest.mark.filterwarnings("ignore:The disk of")
def test_without_locks_a_crash_leaves_the_others_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # `fcntl` is there in the trials, so what they hold cannot be seen from here: nothing looks
    # alive, as on a disk without locks.
    monkeypatch.setattr(lock, "fcntl", None)
    trials = plan([1], ["crashes"]) + plan([0], steps=[30], pause=[0.1])
    outcome = carry_out(trials, tmp_path)
    assert [crash.name for crash in outcome.crashed] == [trials[0].name]
    assert list(outcome.took) == [trials[1].name] and len(identities(tmp_path)) == 1
    # What another sweep may have in work is not cleared.
    (tmp_path / trial.HIDDEN / "theirs").mkdir()
    trial.clear(tmp_path)
    assert (tmp_path / trial.HIDDEN / "theirs").is_dir()


def test_what_other_code_made_is_said_and_repeated_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (one,) = trials = plan()
    carry_out(trials, tmp_path)
    before = identities(tmp_path)
    assert foresee(trials, tmp_path).older == ()
    monkeypatch.setattr(trial, "code_of", lambda module: {"sources": "edited"})
    forecast = foresee(trials, tmp_path)
    assert forecast.older == forecast.kept == (one.name,) and not forecast.each
    again = sweep.foresee(trials, tmp_path, jobs=1, pace=lambda waiting, jobs: PACE, again=True)
    assert again.older == (one.name,) == tuple(again.each) and not again.kept
    assert identities(tmp_path) == before  # to say is not to do
    sweep.carry_out(trials, tmp_path, again, jobs=1)
    with Run.open(tmp_path / trial.REPEATED / one.name) as run:
        assert run.id == before[one.name][0]
    assert identities(tmp_path)[one.name][0] != before[one.name][0]


def test_code_is_a_module_and_what_it_imports_of_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "pack").mkdir()
    files = {"__init__": "", "c": "y = 1", "d": "z = 1"}
    files |= {"a": "import json\nfrom pack.b import x", "b": "from pack import c\nx = 1"}
    for name, text in files.items():
        (tmp_path / "pack" / f"{name}.py").write_text(text)
    digests = [trial.code_of("pack.a")["sources"]]
    for name in "dcba":
        (tmp_path / "pack" / f"{name}.py").write_text(files[name] + "\n")
        digests.append(trial.code_of("pack.a")["sources"])
    assert digests[0] == digests[1] and len(set(digests)) == 4  # d is not imported


def test_what_a_crashed_trial_recorded_is_kept(tmp_path: Path) -> None:
    trials = plan([1], ["crashes"]) + plan([0], ["killed"])
    outcome = carry_out(trials, tmp_path)
    assert len(outcome.crashed) == 2
    for crash in outcome.crashed:
        assert crash.run == tmp_path / trial.CRASHED / crash.name
        with Run.open(crash.run) as run:
            assert run.info["config"]["variant"] in crash.name
            # Rows that a killed process held in memory are gone.
            assert run.last_step == (3 if crash.code == 1 else -1)
    assert foresee(trials, tmp_path).kept == ()  # a recording, not a finished trial


def test_a_log_goes_when_its_trial_finishes_and_others_stay(tmp_path: Path) -> None:
    (one,) = trials = plan()
    trial.log_of(tmp_path, one.name).write_text("Traceback of an attempt before\n")
    (tmp_path / "train").mkdir()
    (tmp_path / "train.log").touch()
    carry_out(trials, tmp_path)
    assert [path.name for path in tmp_path.glob("*.log")] == ["train.log"]
    sweep._remove_empty(tmp_path / "removed by another sweep.log")


def test_a_folder_that_holds_something_else_says_what(tmp_path: Path) -> None:
    (one,) = trials = plan()
    with Run.create(tmp_path / one.name) as run:
        run.event("trial", "me", {"n": 1})
        run.event("timing", "me", {})
    with pytest.raises(ValueError, match=r"something else than this trial \(no sweep made it\)"):
        foresee(trials, tmp_path)
    with sqlite3.connect(tmp_path / one.name / "data.sqlite") as data:
        data.execute("pragma user_version=999")
    data.close()
    with pytest.raises(ValueError, match="schema version 999"):
        foresee(trials, tmp_path)


def test_numbers_have_the_type_of_their_field() -> None:
    assert len(plan(pause=[1, 1.0])) == 1
    assert plan(pause=[1])[0].name == plan(pause=[1.0])[0].name


def test_an_experiment_beside_a_script_can_be_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (
        "from dataclasses import replace\nfrom tests.experiments import toy\n"
        "def run(config, path, *, progress): return toy.run(config, path, progress=progress)\n"
        "EXPERIMENT = replace(toy.EXPERIMENT, run=run)\n"
    )
    (tmp_path / "beside.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    about = importlib.import_module("beside").EXPERIMENT
    trials = planning.plan({"beside": about}, variants=["works"])
    assert not carry_out(trials, tmp_path / "out").crashed
    monkeypatch.setattr(about.run, "__module__", "__main__")
    with pytest.raises(ValueError, match="put the experiment into a module beside the script"):
        carry_out(planning.plan({"beside": about}, [1], ["works"]), tmp_path / "out")


# ------------------------------------------------------------------ how long it takes


class FakeTrials:
    """Processes and a clock: a trial ends after its seconds of a clock that only `sleep` moves."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.now, self.seconds = 0.0, seconds
        self.order: list[str] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def start(self, one: Trial, out: Path, threads: int, pace: float) -> Any:
        self.order.append(one.name)
        return FakeChild(self, out / one.name, self.now + self.seconds[one.name])


class FakeChild:
    def __init__(self, owner: FakeTrials, path: Path, end: float) -> None:
        self.owner, self.path, self.when = owner, path, end

    def poll(self) -> int | None:
        # Rounding of a clock that adds up tenths.
        if self.owner.now < self.when - 1e-9:
            return None
        self.path.mkdir(parents=True)
        return 0

    def end(self) -> None: ...

    def said(self) -> tuple[str, ...]:
        return ()


def fake(
    trials: list[Trial], seconds: dict[str, float], out: Path, jobs: int, **how: Any
) -> tuple[FakeTrials, sweep.Outcome]:
    world = FakeTrials(seconds)
    ways = {"start": world.start, "clock": world.clock, "sleep": world.sleep, **how}
    forecast = sweep.Forecast(0.0, how.pop("expected", seconds), True, ())
    ways.pop("expected", None)
    return world, sweep.carry_out(trials, out, forecast, jobs=jobs, **ways)


@pytest.fixture
def draws() -> Iterator[random.Random]:
    yield random.Random(0)


def test_the_longest_is_started_first(tmp_path: Path) -> None:
    trials = plan(range(4))
    seconds = {one.name: float(s) for one, s in zip(trials, (2, 5, 1, 3), strict=True)}
    world, _ = fake(trials, seconds, tmp_path, jobs=2)
    assert [seconds[name] for name in world.order] == [5, 3, 2, 1]


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_exact_seconds_give_an_exact_forecast(
    tmp_path: Path, draws: random.Random, jobs: int
) -> None:
    trials = plan(range(12))
    seconds = {one.name: draws.uniform(5, 50) for one in trials}
    _, outcome = fake(trials, seconds, tmp_path, jobs)
    packed = duration.makespan(sorted(seconds.values(), reverse=True), jobs)
    # Ends are noticed a tick late, once a trial in a row: at most 12 of 0.1 s.
    assert packed <= outcome.seconds + 1e-6 and outcome.seconds <= packed + 12 * 0.1


@pytest.mark.parametrize("seed", range(5))
def test_a_forecast_errs_no_more_than_its_trials(tmp_path: Path, seed: int) -> None:
    # Law: taking the next trial when free, ends rise with every duration, so durations within a
    # factor of what was expected give an end within this factor.
    draw = random.Random(seed)
    trials = plan(range(20))
    expected = {one.name: draw.uniform(20, 200) for one in trials}
    seconds = {name: value * draw.uniform(0.75, 1.28) for name, value in expected.items()}
    _, outcome = fake(trials, seconds, tmp_path, 3, expected=expected)
    packed = duration.makespan(sorted(expected.values(), reverse=True), 3)
    assert abs(outcome.seconds / packed - 1) < 0.3


@pytest.mark.parametrize("factor", [0.3, 3.0])
def test_the_forecast_is_refined(tmp_path: Path, draws: random.Random, factor: float) -> None:
    # Half of the trials have ended; all take what was expected times a factor nobody knew of.
    trials = plan(range(10), ["works", "null"])
    expected = {one.name: draws.uniform(9, 11) for one in trials}
    seconds = {name: value * factor for name, value in expected.items()}
    seen: list[tuple[float, float]] = []

    def watch(status: Status) -> None:
        if status.done >= 10 and not seen:
            seen.append((world_clock(), status.left))

    world = FakeTrials(seconds)
    world_clock = world.clock
    outcome = sweep.carry_out(
        trials, tmp_path, sweep.Forecast(0.0, expected, True, ()), jobs=2,
        start=world.start, clock=world.clock, sleep=world.sleep, watch=watch,
    )  # fmt: skip
    ((when, left),) = seen
    # A trial in work at the time may be off by one duration, a tenth of the ten that are left.
    assert left == pytest.approx(outcome.seconds - when, rel=0.3)


@pytest.mark.parametrize(
    ("spent", "share", "left"),
    [(4.0, 0.0, 6.0), (12.0, 0.0, 0.0), (4.0, 0.5, 5.0), (20.0, 0.8, 5.0)],
)
def test_what_is_left_of_a_trial_in_work(spent: float, share: float, left: float) -> None:
    # Of 10 expected: the plan alone; the plan is over; half of each, 6 and 4; by its steps alone.
    assert sweep._left(10.0, spent, share) == pytest.approx(left)


def test_a_variant_that_refuses_what_is_asked_is_left_out_unless_it_is_named() -> None:
    about = {"grokking": experiment("grokking")}

    def plan(variants: Any = (), **grid: Any) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for one in planning.plan(about, (0, 1), variants, grid):
            found.setdefault(one.config.task, set()).add(one.config.variant)
        return found

    every = set(about["grokking"].variants)
    assert plan(task=["parity"]) == {"parity": every - {"latin"}}
    assert plan(task=["p23", "parity"]) == {"p23": every, "parity": every - {"latin"}}
    with pytest.raises(ValueError, match="'latin'"):
        plan(["grok", "latin"], task=["parity"])
    # What no variant accepts is wrong, even beside a value that is right.
    with pytest.raises(ValueError, match="`steps` of `Grokking` must be at least 0. Got -1"):
        plan(steps=[10, -1])
    with pytest.raises(ValueError, match="`steps` of `Minima` must lie"):
        planning.plan({"minima": experiment("minima")}, grid={"steps": [0]})


def test_an_experiment_brings_its_own_grid() -> None:
    full = planning.plan(
        {name: experiment(name) for name in ("catapult", "minima", "edge-of-stability")}
    )
    labels = [one.about.label(one.config) for one in full]
    assert len({one.name for one in full}) == len(full)
    assert len([one for one in labels if one.startswith("grid-")]) == 72
    assert len([one for one in labels if one.startswith("edge-")]) == 3
    rates = [t.config.start for t in full if t.experiment == "catapult"]
    assert sorted(rates) == sorted(set(rates)) and min(rates) < 2 < 4 < max(rates)
    # What the caller names, and the small size, go without it.
    assert len(planning.plan({"minima": experiment("minima")}, variants=["grid"], small=True)) == 1
    one = planning.plan(
        {"edge-of-stability": experiment("edge-of-stability")}, (0,), ["edge"], {"degree": [4]}
    )
    assert [trial.config.degree for trial in one] == [4]
