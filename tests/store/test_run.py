"""A run as its user sees it: write, read, resume, and a sentence for everything that is refused."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

from foreshock.store import (
    ClosedError,
    Counts,
    FolderNotWritableError,
    LockedError,
    NotARunError,
    ReadOnlyError,
    Run,
    RunExistsError,
    SeriesRecord,
    StoreError,
    UnknownSeriesError,
)
from foreshock.types import Estimate, Flag


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "exp1"


def test_a_run_is_read_as_it_was_written(path: Path) -> None:
    with Run.create(path, kind="grokking", config={"lr": 0.1}, seed=3) as run:
        run.declare("grad/norm", title="norm", unit="loss", taken_at="before clipping", null="0")
        run.append(0, {"grad/norm": Estimate.exact(2.0), "loss": 1.5})
        run.append(5, {"loss": Estimate(1.0, 0.5, 1.5, n=3, flags=Flag.NO_EDGE, reason="why")})
        run.event("alarm", "turnover", {"value": math.inf, "low": math.nan}, step=5)
        identity = run.id
    with Run.open(path) as run:
        assert (run.id, run.mode, run.path) == (identity, "r", path)
        assert run.info["kind"] == "grokking" and run.info["config"] == {"lr": 0.1}
        assert run.info["seed"] == 3 and run.info["schema"] == 1
        assert set(run.info["versions"]) == {"foreshock", "python", "torch", "numpy", "platform"}
        assert run.last_step == 5
        assert run.names() == ["grad/norm", "loss"]
        assert run.describe("grad/norm") == SeriesRecord(
            "grad/norm", "norm", "loss", "before clipping", "0"
        )
        assert run.describe("loss") == SeriesRecord("loss")
        assert run.series("loss").step.tolist() == [0, 5]
        assert run.series("loss").estimate(1) == Estimate(
            1.0, 0.5, 1.5, n=3, flags=Flag.NO_EDGE, reason="why"
        )
        alarm, closed = run.events()
        assert (alarm.id, alarm.step, alarm.kind, alarm.source) == (1, 5, "alarm", "turnover")
        assert alarm.payload["value"] == math.inf and math.isnan(alarm.payload["low"])
        assert (closed.kind, closed.step) == ("closed", -1)
        assert run.events("closed") == run.events(after=1) == [closed]
        assert run.counts == Counts()


def test_an_empty_run_reads_as_empty(path: Path) -> None:
    Run.create(path).close()
    with Run.open(path) as run:
        assert (run.last_step, run.names(), list(run.rows())) == (-1, [], [])
        with pytest.raises(UnknownSeriesError, match=r"has no series `x`. Its series: none"):
            run.series("x")


def test_a_writer_reads_its_own_rows(path: Path) -> None:
    with Run.create(path) as run:
        run.append(0, {"x": 1.0})
        assert run.series("x").value.tolist() == [1.0]
        run.append(1, {"x": 2.0})
        assert run.last_step == 1
        assert [values["x"].value for _, values in run.rows()] == [1.0, 2.0]


def test_several_appends_of_one_step_add_up_and_the_first_value_is_kept(path: Path) -> None:
    with Run.create(path) as run:
        run.append(0, {"x": 1.0})
        run.append(0, {"x": 2.0, "y": 3.0})
        run.flush()
        run.append(0, {"x": 4.0})
        run.append_array(0, "x", [1])  # type: ignore[arg-type]
        run.append_array(0, "x", [2])  # type: ignore[arg-type]
    with Run.open(path, "a") as run:
        run.append(0, {"y": 5.0})
        run.append_array(0, "x", [3])  # type: ignore[arg-type]
        assert [values for _, values in run.rows()] == [{"x": Estimate(1.0), "y": Estimate(3.0)}]
        assert [array.tolist() for _, array in run.arrays("x")] == [[1]]
        assert run.counts == Counts(duplicates=5)
    with Run.open(path) as run:
        assert run.counts == Counts(duplicates=5)


@pytest.mark.parametrize("step", [-1, 6])
def test_steps_never_go_back(path: Path, step: int) -> None:
    with Run.create(path) as run:
        run.append(7, {"x": 1.0})
        needed = 0 if step < 0 else 7
        with pytest.raises(ValueError, match=rf"must be at least {needed}.* Got {step}"):
            run.append(step, {"x": 1.0})
        with pytest.raises(ValueError, match=r"The `step` of `Run.append_array`"):
            run.append_array(step, "x", [1])  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"The `step` of `Run.event`"):
            run.event("note", "test", {}, step=-2)
        assert run.last_step == 7


def test_a_step_must_be_an_integer(path: Path) -> None:
    with Run.create(path) as run, pytest.raises(TypeError, match="integer"):
        run.append(1.5, {"x": 1.0})  # type: ignore[arg-type]


def test_resuming_goes_on_after_the_last_step(path: Path) -> None:
    with Run.create(path) as run:
        for step in range(100):
            run.append(step, {"x": float(step)})
    with Run.open(path, "a") as run:
        assert (run.last_step, run.mode) == (99, "a")
        with pytest.raises(ValueError, match="must be at least 99, the last one written. Got 98"):
            run.append(98, {"x": 0.0})
        run.append(100, {"x": 100.0, "y": Estimate.missing("new")})
    with Run.open(path) as run:
        assert run.series("x").value.tolist() == [float(step) for step in range(101)]
        assert run.series("y").reason == ["new"]
        assert [event.kind for event in run.events()] == ["closed", "resumed", "closed"]


def test_declaring_is_idempotent_and_blanks_erase_nothing(path: Path) -> None:
    with Run.create(path) as run:
        run.append(0, {"x": 1.0})
        run.declare("x", title="a title", unit="nat")
        run.declare("x", unit="nat", null="0")
        run.declare("x", title="a title", unit="nat")
        assert run.describe("x") == SeriesRecord("x", "a title", "nat", "", "0")
        with pytest.raises(ValueError, match=r"The `unit` of the series `x` is 'nat'.* 'bit'"):
            run.declare("x", unit="bit")
    with Run.open(path) as run:
        assert run.describe("x") == SeriesRecord("x", "a title", "nat", "", "0")


@pytest.mark.parametrize("name", ["", "a\nb", "\ud800"])
def test_a_name_must_be_printable(path: Path, name: str) -> None:
    with Run.create(path) as run:
        with pytest.raises(ValueError, match=r"The `name` of a series must be a printable text"):
            run.declare(name)
        run.append(0, {"x": 1.0})


def test_creating_over_something_is_refused(path: Path, tmp_path: Path) -> None:
    Run.create(path).close()
    with pytest.raises(RunExistsError, match=r'already holds a run. Type `Run.open\(".*", "a"\)`'):
        Run.create(path)
    with pytest.raises(RunExistsError, match="already exists and is not empty"):
        Run.create(tmp_path / "runs")
    (tmp_path / "empty").mkdir()
    Run.create(tmp_path / "empty").close()


@pytest.mark.parametrize("where", ["file/run", "file/a/b", "/proc/run", "/proc/1/run"])
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FolderNotWritableError, match=r"cannot be created \(.*foreshock doctor"):
        Run.create(tmp_path / where)


def test_what_is_no_run_is_not_opened(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(NotARunError, match=r"is not a run: it has no run.json.*foreshock ls"):
            Run.open(path)


def test_a_run_has_one_writer(path: Path) -> None:
    run = Run.create(path)
    with pytest.raises(LockedError, match="A run has one writer"):
        Run.open(path, "a")
    code = (
        "import sys; from foreshock.store import Run, LockedError\n"
        "try: Run.open(sys.argv[1], 'a')\n"
        "except LockedError: print('locked')"
    )
    source = str(Path(sys.modules["foreshock"].__file__ or "").parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code, path],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": source},
    )
    assert (done.stdout, done.stderr) == ("locked\n", "")
    run.close()
    Run.open(path, "a").close()


def test_a_reader_does_not_write(path: Path) -> None:
    Run.create(path).close()
    with Run.open(path) as run:
        for write in (
            lambda: run.append(0, {}),
            lambda: run.declare("x"),
            lambda: run.event("note", "test", {}),
            run.flush,
        ):
            with pytest.raises(ReadOnlyError, match=r'Type `Run.open\(".*", "a"\)`'):
                write()


def test_a_closed_run_says_so_and_closing_again_is_harmless(path: Path) -> None:
    run = Run.create(path)
    run.close()
    run.close()
    with pytest.raises(ClosedError, match=r"`Run.append` was called after `close\(\)`"):
        run.append(0, {"x": 1.0})
    with pytest.raises(ClosedError, match=r"This run was closed. Type `Run.open"):
        run.names()
    reader = Run.open(path)
    reader.close()
    with pytest.raises(ClosedError):
        reader.last_step  # noqa: B018


def test_the_monitors_own_closing_event_is_not_doubled(path: Path) -> None:
    with Run.create(path) as run:
        run.event("closed", "monitor", {"steps": 3})
        run.event("note", "test", {})
    with Run.open(path) as run:
        assert [(event.kind, event.source) for event in run.events()] == [
            ("closed", "monitor"),
            ("note", "test"),
        ]


def test_arguments_of_writing_are_not_ignored_when_reading(path: Path) -> None:
    Run.create(path).close()
    with pytest.raises(ValueError, match="belong to writing"):
        Run.open(path, on_commit=print)
    with pytest.raises(ValueError, match=r'The `mode` of `Run.open` must be "r" or "a". Got \'w\''):
        Run.open(path, "w")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="The `array_bytes` of `Run` must be at least 0. Got -1"):
        Run.open(path, "a", array_bytes=-1)


def test_every_error_of_the_store_is_a_store_error_with_a_plain_message() -> None:
    import foreshock.store as store

    errors = [e for e in vars(store).values() if isinstance(e, type) and issubclass(e, Exception)]
    assert len(errors) == 12 and all(issubclass(e, StoreError) for e in errors)
    assert str(UnknownSeriesError("a sentence")) == "a sentence"
