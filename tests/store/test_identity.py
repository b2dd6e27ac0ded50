"""The folder of a run appears whole or not at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import foreshock
from foreshock.store import FolderNotWritableError, Run, RunExistsError, identity, schema


def test_nothing_is_left_of_a_run_that_could_not_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(db: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(schema, "create", full)
    with pytest.raises(FolderNotWritableError, match="No space left on device"):
        Run.create(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_of_two_makers_one_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = os.rename

    def late(source: Path, target: Path) -> None:
        monkeypatch.undo()
        Run.create(target, seed=1).close()
        rename(source, target)

    monkeypatch.setattr(identity.os, "rename", late)
    with pytest.raises(RunExistsError, match="already holds a run"):
        Run.create(tmp_path / "run", seed=2)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["seed"] == 1


def test_what_a_killed_maker_left_is_swept_by_the_next_one(tmp_path: Path) -> None:
    for name in (".run.tmp-old", ".run.tmp-new", ".other.tmp-old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text("{")
        if name.endswith("old"):
            os.utime(tmp_path / name, (1.0, 1.0))
    assert [path.name for path in identity.leftovers(tmp_path)] == [
        ".other.tmp-old",
        ".run.tmp-old",
    ]
    Run.create(tmp_path / "run").close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".other.tmp-old",
        ".run.tmp-new",
        "run",
    ]


def test_a_moved_run_keeps_its_identity(tmp_path: Path) -> None:
    with Run.create(tmp_path / "a b#?%41") as run:
        run.append(0, {"x": 1.0})
        identity_before = run.id
    os.rename(tmp_path / "a b#?%41", tmp_path / "ü")
    with Run.open(tmp_path / "ü") as run:
        assert run.id == identity_before
        assert len(run.series("x")) == 1


def test_the_store_imports_no_torch_and_starts_quickly(tmp_path: Path) -> None:
    code = (
        "import sys; from foreshock.store import Run; Run.create(sys.argv[1]).close()\n"
        "heavy = {'torch', 'scipy', 'matplotlib', 'pandas'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "run"],
        capture_output=True,
        text=True,
        env=dict(os.environ, PYTHONPATH=str(Path(foreshock.__file__).parents[1])),
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
