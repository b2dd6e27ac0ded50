"""The experiment: data without leaks, the nulls differ in one thing, and the phenomenon happens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import foreshock as fs
from foreshock.experiments import grokking
from foreshock.experiments.grokking import Grokking
from foreshock.types import Flag


def rows(pair: tuple[torch.Tensor, torch.Tensor]) -> set[tuple[int, ...]]:
    return {(*x, y) for x, y in zip(pair[0].tolist(), pair[1].tolist(), strict=True)}


@pytest.mark.parametrize("task", ["p59", "p23"])
@pytest.mark.parametrize("variant", ["grok", "labels", "latin", "decay", "data", "frozen"])
def test_the_two_halves_are_disjoint_and_whole(task: str, variant: str) -> None:
    config = Grokking(task, variant, seed=3)  # type: ignore[arg-type]
    data, p = grokking.make_data(config), config.modulus
    train, heldout = rows(data.train), rows(data.heldout)
    assert not {r[:2] for r in train} & {r[:2] for r in heldout}
    assert len(train) + len(heldout) == p * p
    assert len(train) == int((0.3 if variant == "data" else 0.5) * p * p)
    table = {r[:2]: r[2] for r in train | heldout}
    right = sum(table[a, b] == (a + b) % p for a, b in table) / p**2
    if variant in ("grok", "decay", "data", "frozen"):
        assert right == 1.0
    else:
        # chance 1/p; a random table agrees in p ± sqrt(p) of p² cells, ten sd above is still < .5
        assert right < 0.5
    if variant == "latin":
        for line in range(p):
            assert {table[line, b] for b in range(p)} == set(range(p))


def test_seeds_are_reproducible_and_leave_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    a, b = (grokking.make_model(Grokking(seed=5)).state_dict() for _ in range(2))
    other = grokking.make_model(Grokking(seed=6)).state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not torch.equal(a["embed.weight"], other["embed.weight"])
    assert torch.equal(state, torch.get_rng_state())


def test_the_twin_shares_everything_but_the_labels() -> None:
    one, twin = Grokking(seed=1), Grokking(seed=1, variant="labels")
    a, b = grokking.make_model(one).state_dict(), grokking.make_model(twin).state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)
    decay = {
        v: grokking.make_optimizer(Grokking(variant=v), torch.nn.Linear(1, 1)).param_groups[0]
        for v in ("grok", "labels", "latin", "data", "decay", "frozen")
    }
    assert {v: g["weight_decay"] for v, g in decay.items() if v != "decay"} == {
        "grok": 1.0, "labels": 1.0, "latin": 1.0, "data": 1.0, "frozen": 1.0
    }  # fmt: skip
    assert decay["decay"]["weight_decay"] == 0.0
    assert {v: g["lr"] for v, g in decay.items() if v != "frozen"} == {
        "grok": 5e-3, "labels": 5e-3, "latin": 5e-3, "data": 5e-3, "decay": 5e-3
    }  # fmt: skip


@pytest.mark.parametrize("task", ["p59", "p23"])
def test_in_the_frozen_null_no_weight_moves_by_a_bit(task: str) -> None:
    config = Grokking(task, "frozen", seed=4)  # type: ignore[arg-type]
    data, model = grokking.make_data(config), grokking.make_model(config)
    optimizer = grokking.make_optimizer(config, model)
    generator = torch.Generator().manual_seed(0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for _ in range(5):
        loss = grokking.loss_of(model, grokking.draw_batch(config, data, generator))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()  # decoupled weight decay is a factor 1 - 0 * 1
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_watching_does_not_change_the_experiment(tmp_path: Path) -> None:
    losses = []
    for observables in ("none", "full"):
        config = Grokking("p59", seed=2, steps=30, observables=observables)  # type: ignore[arg-type]
        with grokking.run(config, tmp_path / observables) as run:
            losses.append(run.series("loss").value.tolist())
    assert losses[0] == losses[1]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_p23_groks_and_its_nulls_do_not(seed: int, tmp_path: Path) -> None:
    reached = {}
    for variant in ("grok", "labels", "decay", "data"):
        config = Grokking("p23", variant, seed, observables="none")  # type: ignore[arg-type]
        with grokking.run(config, tmp_path / variant, detectors=()) as run:
            reached[variant] = {e.payload["name"]: e.step for e in run.events("milestone")}
    assert set(reached["grok"]) == {"memorised", "onset", "T50", "T90"}
    # Reference: memorised 30, onset 100 to 200, T50 500 to 1,000
    assert reached["grok"]["memorised"] <= 60
    assert 300 <= reached["grok"]["T50"] <= 1000
    for variant in ("labels", "decay", "data"):
        assert set(reached[variant]) == {"memorised"}


def test_p59_groks_with_a_plateau_and_its_twin_does_not(tmp_path: Path) -> None:
    # Golden positive control on a seed of the 30 in LOG.md; the alarm precedes the onset there.
    with grokking.run(Grokking(seed=0), tmp_path / "grok", observables=["heldout_signal"]) as run:
        reached = {e.payload["name"]: e.step for e in run.events("milestone")}
        alarms = {e.source: e.step for e in run.events("alarm")}
    assert 130 <= reached["memorised"] <= 190
    assert 500 <= reached["onset"] <= 750
    assert reached["T90"] - reached["memorised"] > 400  # a plateau, not one rise
    assert reached["memorised"] < alarms["heldout_signal"] < reached["onset"]
    with grokking.run(
        Grokking(seed=0, variant="labels"), tmp_path / "twin", observables=["heldout_signal"]
    ) as run:
        reached = {e.payload["name"]: e.step for e in run.events("milestone")}
        z = run.series("readout/heldout_signal").value
    assert set(reached) == {"memorised"}
    assert abs(z).max() < 5  # N(0, 1) at every evaluation, strongly dependent ones


def test_the_latents_of_a_layer_are_followed_beside_a_preset(tmp_path: Path) -> None:
    config = Grokking("p23", seed=1, steps=21, observables="free", every=2, latent="hidden")
    with grokking.run(config, tmp_path / "run") as run:
        drift, norm = run.series("latent/drift"), run.series("grad/norm")
        cloud = run.arrays("latent/z")
    # Of the preset nothing is lost; what is dear comes ten times as rarely.
    assert norm.step.tolist() == list(range(0, 21, 2))
    assert drift.step.tolist() == [0, 20]
    # 25 batches allow (25 - 1)/3 = 8 axes; AdamW has no metric before its first step.
    assert int(drift.n[-1]) == 25 and cloud[-1][1].shape[1] == 8
    # AdamW's second moments are young at step 20, and nothing else is said.
    assert drift.value[-1] > 0 and drift.flags[-1] == Flag.NONSTATIONARY


def test_in_the_frozen_null_nothing_of_the_latents_is_resolved(tmp_path: Path) -> None:
    config = Grokking("p23", "frozen", 1, 21, observables="none", every=2, latent="hidden")
    with grokking.run(config, tmp_path / "run", detectors=()) as run:
        assert run.series("latent/drift").value[-1] == 0.0
        for name in ("drift", "diffusion", "c", "entropy_production", "entropy_production_bound"):
            assert not run.series(f"latent/{name}").estimate(1).resolved


def test_configuration_is_checked() -> None:
    with pytest.raises(ValueError, match="`task` must be one of"):
        Grokking(task="p97")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`variant` must be one of"):
        Grokking(variant="hope")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`steps` must not be negative"):
        Grokking(steps=-1)


def test_run_folder_must_be_new(tmp_path: Path) -> None:
    config = Grokking("p23", steps=5, observables="none")
    grokking.run(config, tmp_path / "r").close()
    with pytest.raises(fs.StoreError):
        grokking.run(config, tmp_path / "r")
