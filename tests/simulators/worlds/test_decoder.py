"""The world of a decoder: its intervals hold the truth, and its closed forms are right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from foreshock.simulators.decoder import DecoderPotential
from foreshock.simulators.exact_linear import lyapunov_covariance, lyapunov_entropy_production
from foreshock.simulators.particles import Engine, State, step
from foreshock.simulators.schedules import constant_schedules
from foreshock.simulators.worlds.decoder import DecoderWorld
from foreshock.simulators.worlds.linear_decoder import Cloud
from foreshock.simulators.worlds.tanh_decoder import Plane, tanh_decoder
from foreshock.store import Comparison, Run, comparisons, figures

SMALL = DecoderWorld(particles=240, dt=0.02, time=1.2, records=4, seed=2)
STIFFNESS, NOISE = np.array([[2.0, 0.8], [0.8, 1.0]]), np.diag([1.0, 0.1])
START = Cloud(np.array([1.0, -0.5]), 0.2 * np.eye(2), STIFFNESS, NOISE, STIFFNESS)


def recorded(path: Path) -> list[Comparison]:
    with Run.open(path) as run:
        return comparisons(run)


def simulate(seed: int, path: Path) -> None:
    ticks: list[int] = []
    world = replace(SMALL, seed=seed)
    world.run(path, progress=lambda done, total: ticks.append(done)).close()
    assert ticks and ticks == sorted(ticks)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Runs of four seeds."""
    found = {seed: tmp_path_factory.mktemp("decoder") / "run" for seed in (1, 2, 3, 4)}
    for seed, path in found.items():
        simulate(seed, path)
    return found


def test_what_is_recorded_agrees_with_the_exact_answers(paths: dict[int, Path]) -> None:
    told = [recorded(path) for path in paths.values()]
    assert len({rows[0].measured.value for rows in told}) == 4
    ours = [[item for item in rows if not item.published] for rows in told]
    assert [len(rows) for rows in ours] == [17] * 4
    # The tanh decoder's two productions may be shown only; all others are judged.
    assert all(sum(item.agrees is None for item in rows) <= 2 for rows in ours)
    # 68 of 95 %: more than eight outside has probability .7 %, more than three of 17 .9 %.
    outside = [sum(item.agrees is False for item in rows) for rows in ours]
    assert sum(outside) <= 8 and max(outside) <= 3
    for rows in told:
        published = {item.name: item.agrees for item in rows if item.published}
        assert len(published) == 5
        # The published reset widens as much as ours; everything else published differs.
        differs = [name for name, agrees in published.items() if agrees is False]
        assert set(published) - set(differs) <= {"The same by the published reset"}


def test_series_and_figures_are_described(paths: dict[int, Path]) -> None:
    with Run.open(paths[1]) as run:
        drawn = figures(run)
        assert all(run.describe(name).title for name in run.names()) and len(run.names()) == 7
    assert {"current", "entropy_sign", "flux_end", "targets"} <= {figure.name for figure in drawn}


def test_particles_are_drawn_one_by_one_and_the_cloud_over_its_density(
    paths: dict[int, Path],
) -> None:
    for path in paths.values():
        with Run.open(path) as run:
            drawn = {figure.name: figure for figure in figures(run)}
        band, *lines = drawn["linear_trajectories"].curves
        held = [
            low <= y <= high
            for line in lines
            for y, low, high in zip(line.y, band.low, band.high, strict=True)
        ]
        # .95 of correlated points: three paths of about three independent ones each.
        assert len(lines) == 3 and np.mean(held) > 0.6
        plane = drawn["trajectories"]
        assert plane.field is not None and len(plane.curves) == 4
        for line, end in zip(plane.curves[:3], range(3), strict=True):
            assert (line.x[-1], line.y[-1]) == (plane.curves[3].x[end], plane.curves[3].y[end])
        # The start is N(1.5, .2) and N(1.5, .49): closed forms, whatever the grid.
        for name, mean, variance in (("linear_density", 1.5, 0.2), ("density", 1.5, 0.49)):
            curves = drawn[name].curves
            law = curves[4]
            x, y = np.array(law.x), np.array(law.y)
            assert np.trapezoid(y, x) == pytest.approx(1, abs=2e-3)
            exact = np.exp(-((x - mean) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
            assert y == pytest.approx(exact, abs=2e-3)
            for seen, law in zip(curves[:3], curves[4:], strict=True):
                true = np.interp(seen.x, law.x, law.y)
                bins = (np.array(seen.low) - 0.02 <= true) & (true <= np.array(seen.high) + 0.02)
                assert bins.mean() > 0.8


def test_parts_draw_apart(paths: dict[int, Path], tmp_path: Path) -> None:
    """A wider tanh layer takes more draws; what has no tanh in it stays bit for bit."""
    replace(SMALL, hidden=13).run(tmp_path / "wide").close()
    one, other = recorded(paths[SMALL.seed]), recorded(tmp_path / "wide")
    same = {a.name for a, b in zip(one, other, strict=True) if a.measured == b.measured}
    tanh = {item.name for item in one if "tanh" in item.name or "Fisher" in item.name}
    assert tanh and same == {item.name for item in one} - tanh


def test_the_cloud_tends_to_the_lyapunov_solution() -> None:
    late = START.after(40.0)
    assert late.covariance == pytest.approx(lyapunov_covariance(STIFFNESS, NOISE), abs=1e-9)
    exact = lyapunov_entropy_production(STIFFNESS, NOISE)
    assert late.entropy_production == pytest.approx(exact, rel=1e-9)
    # At Gibbs' law under its own mobility nothing is produced, and C = 1.
    gibbs = Cloud(np.zeros(2), np.linalg.inv(STIFFNESS), NOISE @ STIFFNESS, NOISE, STIFFNESS)
    assert gibbs.entropy_production == pytest.approx(0, abs=1e-12)
    assert gibbs.consolidation == pytest.approx(1)
    assert gibbs.energy == pytest.approx(1.0)  # T d/2


def test_the_chain_is_of_first_order_and_is_what_the_engine_runs() -> None:
    exact = START.after(0.4).covariance[0, 0]
    errors = [START.after_steps(n, 0.4 / n).covariance[0, 0] - exact for n in (20, 40, 80)]
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.1)
    assert errors[1] / errors[2] == pytest.approx(2, abs=0.05)
    dt, n = 0.1, 40_000
    root = torch.from_numpy(np.linalg.cholesky(STIFFNESS))
    target = torch.zeros(2, dtype=torch.float64)
    bowl = DecoderPotential(lambda z: z @ root, target, 2, single_target=True)
    engine = Engine(bowl, constant_schedules(1.0, 0.5), dt)
    generator = torch.Generator().manual_seed(0)
    state = State(torch.zeros(n, 2, dtype=torch.float64))
    for _ in range(10):
        state = step(engine, state, generator)
    still = Cloud(np.zeros(2), np.zeros((2, 2)), STIFFNESS, 0.5 * np.eye(2), STIFFNESS)
    chain = still.after_steps(10, dt)
    seen = (state.z.T @ state.z / n).numpy()
    # Standard error of a second moment, sqrt((S_ii S_jj + S_ij^2)/n).
    diagonal = np.diag(chain.covariance)
    error = np.sqrt((np.outer(diagonal, diagonal) + chain.covariance**2) / n)
    assert (np.abs(seen - chain.covariance) < 4 * error).all()


def test_dkl_is_minus_the_entropy_production() -> None:
    """In detailed balance the production is the loss of free energy, d(E U - T H)/dt = -T EP."""
    drift = NOISE @ STIFFNESS
    cloud = Cloud(START.mean, START.covariance, drift, NOISE, STIFFNESS)

    def free(time: float) -> float:
        now = cloud.after(time)
        return now.energy - float(np.linalg.slogdet(now.covariance)[1]) / 2

    slope = (free(0.5 + 1e-5) - free(0.5 - 1e-5)) / 2e-5
    assert slope == pytest.approx(-cloud.after(0.5).entropy_production, rel=1e-6)


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_the_plane_ends_at_gibbs_law(seed: int) -> None:
    decode = tanh_decoder(6, torch.Generator().manual_seed(seed))
    target = torch.zeros(4, dtype=torch.float64)
    potential = DecoderPotential(decode, target, 2, noise_scale=0.7, single_target=True)
    # Hot and long: some of these decoders have two minima and a barrier of several units.
    plane = Plane.of(potential, 2.0, [0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0], 40)
    gibbs = np.exp(-(plane.energy - plane.energy.min()) / 2)
    gibbs /= (gibbs * plane.grid.volume).sum()
    # Exact at the nodes by construction; the slowest decoder's rate is .16, e^-26 of it is left.
    assert plane.densities[-1] == pytest.approx(gibbs, abs=1e-6 * gibbs.max())
    productions = plane.productions()
    assert productions[0] > productions[2] > 0 and productions[-1] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    "wrong", [{"gamma": -1.0}, {"dt": 0.5}, {"particles": 10}, {"hidden": 1}, {"diffusion": 0.0}]
)
def test_senseless_numbers_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="world `decoder`"):
        DecoderWorld(**wrong)  # type: ignore[arg-type]
