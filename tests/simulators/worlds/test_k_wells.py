"""The world of many wells: its intervals hold the truth, and its line is right."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from foreshock.simulators.dynamics import Langevin
from foreshock.simulators.exact_kramers import mean_first_passage_time
from foreshock.simulators.exact_resets import reset_slope
from foreshock.simulators.passage import coordinate_boundary, first_passage
from foreshock.simulators.resets import PointReset
from foreshock.simulators.schedules import Constant
from foreshock.simulators.sde import EulerMaruyama
from foreshock.simulators.worlds.k_wells import KWellsWorld
from foreshock.simulators.worlds.k_wells_arrivals import Returning
from foreshock.simulators.worlds.row_of_wells import Row, passage_exact, passage_of_chain
from foreshock.store import Run, comparisons, figures

#: Low barriers, so that everything is over soon.
ROW = Row((0.0, 2.8, 5.6), (0.0, 0.0, 0.6), 0.4)
SMALL = KWellsWorld(
    wells=3, spacing=2.8, depth=0.6, particles=300, dt=0.1, time=30.0, records=5, seed=2
)


def test_what_is_recorded_agrees_with_the_line(tmp_path: Path) -> None:
    ticks: list[tuple[int, int]] = []
    SMALL.run(tmp_path / "a", progress=lambda done, total: ticks.append((done, total))).close()
    with Run.open(tmp_path / "a") as run:
        told, drawn = comparisons(run), figures(run)
        assert len(run.names()) == SMALL.wells + 1
        shares = sum(run.series(f"cloud/well_{k + 1}").value for k in range(3))
    assert shares == pytest.approx(np.ones(5), abs=1e-6)
    assert [done for done, _ in ticks] == sorted(done for done, _ in ticks)
    assert [figure.name for figure in drawn] == [
        "occupation",
        "density",
        "landscape",
        "trajectories",
        "cloud_resets",
        "cooling",
        "resets",
        "escape",
    ]
    ours = [item for item in told if not item.published]
    # 18 of 95 %, partly of one cloud: four outside has probability 1 %; the seed is fixed.
    judged = [item for item in ours if item.agrees is not None]
    assert len(judged) == 18 and sum(bool(item.agrees) for item in judged) >= 15
    assert len(ours) == 19  # Kramers' time is shown and not judged: it is asymptotic
    # Resets are not necessary, and freezing leaves particles outside: as published, both differ.
    assert [item.agrees for item in told if item.published] == [False] * 3
    by_name = {figure.name: figure for figure in drawn}
    exact, seen, kramers, _ = by_name["escape"].curves
    # Four escapes over the exact line, and Kramers' below it by less as the barrier grows.
    true = np.interp(seen.x, exact.x, np.log(exact.y))
    assert np.log(seen.y) == pytest.approx(true, abs=0.25)
    off = np.array(kramers.y) / np.array(exact.y)
    assert (np.diff(off) > 0).all() and 0.5 < off[-1] < 1
    density = by_name["density"]
    for drawn_law, law in zip(density.curves[:3], density.curves[4:], strict=True):
        assert np.trapezoid(law.y, law.x) == pytest.approx(1, abs=2e-3)
        inside = np.interp(drawn_law.x, law.x, law.y)
        held = (np.array(drawn_law.low) - 0.01 <= inside) & (
            inside <= np.array(drawn_law.high) + 0.01
        )
        assert held.mean() > 0.85  # the chain of so coarse a step is wider than the diffusion
    paths = by_name["trajectories"].curves
    assert [line.y[0] for line in paths] == pytest.approx([0.0, 0.0, 5.6])


def test_the_density_of_the_line_is_that_of_its_shares() -> None:
    """Of the grid and of the chain, whose laws tend to Gibbs' mixture."""
    for followed in ROW.follow(Constant(0.4), 0.1, [20, 5_000]):
        for density, shares in zip(followed.density, followed.shares, strict=True):
            width = np.gradient(followed.places)
            assert density @ width == pytest.approx(1, abs=1e-6)
            assert (density * width) @ ROW.weights(followed.places) == pytest.approx(shares)
        gibbs = ROW.gibbs_density(followed.places)
        # Half the distance in the L1 norm: 0 but for the step of the chain, and the grid.
        assert np.abs(followed.density[-1] - gibbs) @ width / 2 < 0.02


def test_gibbs_weights_are_those_of_the_late_cloud_and_of_the_mixture() -> None:
    grid, chain = ROW.follow(Constant(0.4), 0.1, [5_000])
    # Weights e^(e/T) by hand; the slowest mode is gone after 500 units of time.
    weights = np.array([1, 1, math.exp(1.5)]) / (2 + math.exp(1.5))
    assert ROW.gibbs_weights() == pytest.approx(weights)
    # The grid is exact at its nodes but is of second order in time; the chain has dt = .1.
    assert grid.shares[-1] == pytest.approx(weights, abs=2e-3)
    assert chain.shares[-1] == pytest.approx(weights, abs=2e-2)


def test_passage_times_are_the_quadratures_and_the_criterion_holds() -> None:
    for start in (0.0, 2.8):
        found = passage_exact(ROW, start, 0.0)
        exact = mean_first_passage_time(ROW.energy, 0.4, start, 5.6)
        # Second order in the spacing of 800 cells over 10 lengths.
        assert found.mean == pytest.approx(exact, rel=2e-3)
        second = found.mean**2 * (1 + found.variation**2)
        slope = (passage_exact(ROW, start, 1e-4).mean - found.mean) / 1e-4
        assert slope == pytest.approx(reset_slope(found.mean, second), rel=0.05)


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_the_chain_is_the_one_that_first_passage_runs(rate: float) -> None:
    dt, start = 0.1, 2.8
    world = KWellsWorld(wells=3, spacing=2.8, depth=0.6, dt=dt)
    assert world.row == ROW
    x = torch.tensor([[start, 0.0]]).repeat(3000, 1)
    plain = EulerMaruyama(Langevin(world.potential, 0.4), dt)
    stepper = Returning(plain, PointReset(x[0], rate)) if rate else plain
    found = first_passage(
        stepper,
        x,
        coordinate_boundary(5.6),
        steps=20_000,
        generator=torch.Generator().manual_seed(5),
        bridge=False,
    )
    chain = passage_of_chain(world.row, start, rate, dt)
    error = found.times.std() / math.sqrt(3000)
    assert found.events == 3000
    assert found.times.mean() == pytest.approx(chain.mean, abs=4 * error)
    # And the chain is late by a share of order sqrt(dt), for it is looked at every dt only.
    assert 1.0 < chain.mean / passage_exact(world.row, start, rate).mean < 1.2


def test_a_row_separates_from_the_other_coordinates() -> None:
    """The gradient in d dimensions is the drift of the line, and a bowl across."""
    world = KWellsWorld(dimension=3)
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) + 3
    slope = world.potential.gradient(x)
    assert slope[:, 0].numpy() == pytest.approx(-world.row.drift(x[:, 0].numpy()), abs=1e-4)
    assert slope[:, 1:].numpy() == pytest.approx(x[:, 1:].numpy(), abs=1e-4)
    # The barrier by brute force on a finer line.
    line = np.linspace(world.row.centres[-2] - 0.5, world.row.centres[-1], 100_001)
    u = world.row.energy(line)
    inside = u[np.searchsorted(line, world.row.centres[-2]) :]
    assert world.row.barrier == pytest.approx(inside.max() - u[: len(u) // 3].min(), abs=1e-3)


@pytest.mark.parametrize(
    "wrong", [{"wells": 1}, {"temperature": 5.0}, {"depth": 0.0}, {"dt": 1.0}, {"particles": 10}]
)
def test_senseless_numbers_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="world `k-wells`"):
        KWellsWorld(**wrong)  # type: ignore[arg-type]
