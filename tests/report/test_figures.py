"""The static picture: drawn without global state, the same bytes for the same run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from foreshock.report import demo_picture, figures
from foreshock.store import Run

matplotlib = pytest.importorskip("matplotlib")
Gcf = pytest.importorskip("matplotlib._pylab_helpers").Gcf


def test_svg_is_reproducible_and_touches_no_global_state(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    before = dict(matplotlib.rcParams)
    first = demo_picture(*pair, tmp_path / "a.svg").read_bytes()
    second = demo_picture(*pair, tmp_path / "b.svg").read_bytes()
    assert first == second and first.startswith(b"<?xml")
    assert dict(matplotlib.rcParams) == before
    assert Gcf.figs == {}  # pyplot, if anyone imported it, holds no figure of ours


@pytest.mark.parametrize("suffix", [".svg", ".pdf", ".png", ".PDF"])
def test_a_saved_figure_has_the_same_bytes_at_another_hour(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = []
    for hour in ("1000000000", "1000003600"):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", hour)  # what matplotlib dates files with
        figure, axes = figures.paper_figure(1, 1)
        axes[0, 0].plot([1, 2])
        files.append(figures.save_figure(figure, tmp_path / f"{hour}{suffix}").read_bytes())
    assert files[0] == files[1]


def test_png_without_a_twin(pair: tuple[Path, Path], tmp_path: Path) -> None:
    assert demo_picture(pair[0], None, tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_with_nothing_to_draw_is_refused(
    make_run: Callable[..., Run], tmp_path: Path
) -> None:
    with make_run() as run:
        run.append(0, {"mine": 1.0})
    with pytest.raises(ValueError, match="must hold `train_acc`.* Got mine"):
        demo_picture(tmp_path / "run", None, tmp_path / "a.svg")
