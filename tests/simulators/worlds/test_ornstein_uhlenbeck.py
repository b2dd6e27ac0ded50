"""The world whose every number is known: its intervals hold the truth, and its truth is right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from foreshock.simulators.worlds import OrnsteinUhlenbeck
from foreshock.store import Run, comparisons, figures


def test_what_is_recorded_agrees_with_the_closed_forms(tmp_path: Path) -> None:
    world = OrnsteinUhlenbeck(particles=1000, records=5, seed=3)
    ticks: list[tuple[int, int]] = []
    world.run(tmp_path / "a", progress=lambda done, total: ticks.append((done, total))).close()
    with Run.open(tmp_path / "a") as run:
        drawn, told = figures(run), comparisons(run)
        assert run.info["config"]["about"].startswith("dx = -k x dt")
        assert run.info["kind"] == "simulation" and run.info["config"]["seed"] == 3
        # First what the particles do and how they are spread, then every series.
        assert [figure.name for figure in drawn[:2]] == ["trajectories", "density"]
        paths, density, *drawn = drawn
        assert {f"latent/{figure.name}" for figure in drawn} == set(run.names())
        assert all(run.describe(name).title for name in run.names())
    assert ticks == [(i, 5) for i in range(1, 6)]
    assert len(told) == 7 and all(item.agrees for item in told)
    inside = [
        low <= exact <= high
        for figure in drawn
        for exact, low, high in zip(
            figure.curves[0].y, figure.curves[1].low, figure.curves[1].high, strict=True
        )
    ]
    # Of three paths of 301 points the share outside the band scatters by .02: they are correlated
    # over 1/k, a third of the time.
    band, *lines = paths.curves
    held = [
        low <= y <= high
        for line in lines
        for y, low, high in zip(line.y, band.low, band.high, strict=True)
    ]
    assert len(lines) == 3 and len(held) == 903 and np.mean(held) > 0.8
    # The exact densities are densities, and each bin's interval holds that of its time.
    for seen, law in zip(density.curves[:3], density.curves[4:], strict=True):
        assert np.trapezoid(law.y, law.x) == pytest.approx(1, abs=1e-3)
        true = np.interp(seen.x, law.x, law.y)
        bins = (np.array(seen.low) - 1e-3 <= true) & (true <= np.array(seen.high) + 1e-3)
        assert bins.mean() > 0.85
    # 30 intervals of 95 %, five correlated times of six series: below 25 has probability 1e-2 for
    # independent ones; the seed is fixed.
    assert sum(inside) >= 25


def test_the_truth_obeys_the_laws_between_its_parts() -> None:
    """dW2/dt <= 0, and the entropy production is the loss of free energy: d KL/dt = -EP."""
    world = OrnsteinUhlenbeck(dimension=3)
    times = np.linspace(0, 3, 61)
    distance = np.array([world.truth("w2", t) for t in times])
    assert (np.diff(distance) < 0).all()
    step = 1e-5
    rate = (world.truth("second_moment", 1 + step) - world.truth("second_moment", 1 - step)) / (
        2 * step
    )
    # Ito: d E[x^2]/dt = -2 k E[x^2] + 2 D.
    assert rate == pytest.approx(-2 * world.truth("second_moment", 1.0) + 1.0, rel=1e-6)
    assert world.truth("c", 50.0) == pytest.approx(1.0)
    assert world.truth("entropy_production", 50.0) == pytest.approx(0.0, abs=1e-12)


def test_one_seed_gives_one_run(tmp_path: Path) -> None:
    last = []
    for name in ("a", "b"):
        world = OrnsteinUhlenbeck(particles=200, records=2)
        with world.run(tmp_path / name) as run:
            run.flush()
            last.append(run.series("latent/w2").value[-1])
    assert last[0] == last[1]


@pytest.mark.parametrize("wrong", [{"stiffness": 0.0}, {"particles": 10}, {"dimension": 0}])
def test_senseless_numbers_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="world `ou`"):
        OrnsteinUhlenbeck(**wrong)  # type: ignore[arg-type]
