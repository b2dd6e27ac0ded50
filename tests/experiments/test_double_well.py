"""Kramers: the rates are the quadrature's, the null is watched as long and nobody arrives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from foreshock.experiments import double_well
from foreshock.experiments.double_well import (
    EXPERIMENT,
    TEMPERATURES,
    DoubleWell,
    kramers_ratio,
    rate_of,
    slope,
)
from foreshock.experiments.setup import outcome
from foreshock.simulators.passage import PassageTimes
from foreshock.store import Run

SMALL = {"particles": 100, "dt": 0.05, "span": 0.5}


def small(variant: str, seed: int, path: Path) -> Run:
    return double_well.run(DoubleWell(variant, seed, **SMALL), path)  # type: ignore[arg-type]


def test_the_well_is_the_quartic_of_the_docstring_and_the_exact_rates_are_its_integrals() -> None:
    well = DoubleWell().well
    x = np.linspace(-2, 2, 9)
    np.testing.assert_allclose(well.energy(x) - 1 / 4, x**4 / 4 - x**2 / 2, atol=1e-14)
    # The double integral by a plain trapezoid sum, on a grid of 4,000: error of order h^2 ~ 1e-6.
    grid = np.linspace(-2.6, 1, 4001)
    h, v = grid[1] - grid[0], grid**4 / 4 - grid**2 / 2
    for t in TEMPERATURES:
        inner = np.cumsum(np.exp(-v / t)) * h - np.exp(-v / t) * h / 2
        outer = np.exp(v / t) * inner
        start = grid >= -1 - 1e-12
        trapezoid = (outer[start].sum() - outer[start][[0, -1]].sum() / 2) * h / t
        assert trapezoid == pytest.approx(well.exact_passage(t), rel=1e-4)


def test_finite_barriers() -> None:
    assert kramers_ratio(0.0625) == pytest.approx(1.107, abs=5e-4)
    assert slope(np.exp(-0.25 / np.array(TEMPERATURES)).tolist()) == pytest.approx(-0.25)
    assert slope([0.0, 1.0, 1.0, 1.0]) is None


def test_rate_of_times_whose_rate_is_known() -> None:
    times = np.random.default_rng(0).exponential(40.0, 4000)
    arrived = np.where(times < 60, 0, -1)
    rate = rate_of(PassageTimes(np.minimum(times, 60.0), arrived, 60.0))
    assert rate.low < 1 / 40 < rate.high
    assert rate.high - rate.low < 0.1 / 40  # 2 * 1.96/sqrt(3,000 events)


def test_a_run_lies_on_the_exact_rates_and_its_null_is_silent(tmp_path: Path) -> None:
    state = torch.get_rng_state()
    run, null = small("escape", 3, tmp_path / "a"), small("high", 3, tmp_path / "b")
    assert torch.equal(state, torch.get_rng_state())
    rate, exact = run.series("escape/rate"), run.series("escape/exact").value
    # 20 events and more each: 4 standard errors of the logarithm, and the 1.4 % of dt = 0.05.
    assert (abs(np.log(rate.value / exact)) < 4 / np.sqrt(rate.n) + 0.014).all()
    assert (rate.n >= 20).all()
    assert null.series("escape/arrived").value.max() == 0
    assert (null.series("escape/rate").high > 0).all()
    assert outcome(run)["slope"] < 0 and outcome(null)["slope"] is None
    for runs in ([], [run], [run, null]):
        checks = {c.name: c for c in EXPERIMENT.check(runs)}
        assert checks["Eyring-Kramers over exact hopping rate at a barrier of 4 D"].holds
        others = [c for name, c in checks.items() if "Eyring" not in name]
        assert len(others) == 6 and all(c.holds is None for c in others)  # ten seeds can say
        assert EXPERIMENT.figure(runs).axes
    run.close()
    null.close()


def made(folder: Path, seed: int, factor: float, variant: str = "escape") -> Run:
    """A whole run whose rates are the exact ones times a factor and 1 % of scatter."""
    config = DoubleWell(variant, seed)  # type: ignore[arg-type]
    path = folder / f"{variant}-{seed}-{factor}"
    with Run.create(path, kind="double_well", config=vars(config), seed=seed) as run:
        for row, t in enumerate(TEMPERATURES):
            exact = 1 / config.well.exact_passage(t)
            rate = exact * factor * (1 + 0.01 * np.sin(3.0 * seed + row))
            run.append(
                row, {"escape/rate": rate, "escape/exact": exact, "escape/arrived": float(seed > 5)}
            )
    return Run.open(path)


def test_one_run_decides_nothing_and_ten_do(tmp_path: Path) -> None:
    right = [made(tmp_path, seed, 1.0) for seed in range(10)]
    wrong = [made(tmp_path, seed, 1.1) for seed in range(10)]
    name = "rate at D = 0.08"
    assert {c.name: c for c in EXPERIMENT.check(right[:1])}[name].holds is None
    assert {c.name: c for c in EXPERIMENT.check(right)}[name].holds is True
    assert {c.name: c for c in EXPERIMENT.check(wrong)}[name].holds is False
    nulls = [made(tmp_path, seed, 1.0, "high") for seed in range(10)]  # of 6 to 9 some arrived
    assert {c.name: c for c in EXPERIMENT.check(nulls)}["high barrier"].holds is False


def test_the_same_seed_gives_the_same_rates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(double_well, "TEMPERATURES", (0.08, 0.1))
    found = []
    for seed, name in ((3, "a"), (3, "b"), (4, "c")):
        with small("escape", seed, tmp_path / name) as run:
            found.append(run.series("escape/rate").value.tolist())
    assert found[0] == found[1] != found[2]


def test_both_variants_are_watched_as_long() -> None:
    for t in TEMPERATURES:
        assert DoubleWell("high").steps(t) == DoubleWell("escape").steps(t)


def test_configuration_is_checked() -> None:
    with pytest.raises(ValueError, match="`variant` of `DoubleWell` must be one of"):
        DoubleWell("flat")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`particles` of `DoubleWell` must be at least 20"):
        DoubleWell(particles=3)
    with pytest.raises(ValueError, match="`dt` of `DoubleWell` must be positive and at most"):
        DoubleWell(dt=0.2)
    with pytest.raises(ValueError, match="`span` of `DoubleWell` must be"):
        DoubleWell(span=0.0)
