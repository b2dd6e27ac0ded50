"""The experiment: data without leaks, the nulls differ in one thing, and the phenomenon happens."""

from __future__ import annotations

from dataclasses import replace
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
@pytest.mark.parametrize("variant", ["grok", "labels", "latin", "decay", "data", "easy", "frozen"])
def test_the_two_halves_are_disjoint_and_whole(task: str, variant: str) -> None:
    config = Grokking(task, variant, seed=3)  # type: ignore[arg-type]
    data, p = grokking.make_data(config), config.modulus
    train, heldout = rows(data.train), rows(data.heldout)
    assert not {r[:2] for r in train} & {r[:2] for r in heldout}
    assert len(train) + len(heldout) == p * p
    assert len(train) == int({"data": 0.3, "easy": 0.8}.get(variant, 0.5) * p * p)
    table = {r[:2]: r[2] for r in train | heldout}
    right = sum(table[a, b] == (a + b) % p for a, b in table) / p**2
    if variant in ("grok", "decay", "data", "easy", "frozen"):
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


@pytest.mark.parametrize("task", ["p59", "p23", "parity"])
@pytest.mark.parametrize("seed", [1, 104])
def test_nulls_of_the_labels_see_the_same_inputs_in_the_same_order(task: str, seed: int) -> None:
    grok = grokking.make_data(Grokking(task, seed=seed))  # type: ignore[arg-type]
    both = torch.cat([grok.train[1], grok.heldout[1]])
    for variant in ("labels", "latin", "decay", "frozen"):
        if (task, variant) == ("parity", "latin"):
            continue
        null = grokking.make_data(Grokking(task, variant, seed))  # type: ignore[arg-type]
        assert torch.equal(null.train[0], grok.train[0])
        assert torch.equal(null.heldout[0], grok.heldout[0])
        labels = torch.cat([null.train[1], null.heldout[1]])
        # Each label as often as in the table, p times in one of a group.
        assert torch.equal(labels.bincount(), both.bincount())
        assert torch.equal(labels, both) == (variant in ("decay", "frozen"))


def test_few_pairs_and_many_are_parts_of_one_order() -> None:
    halves = [
        grokking.make_data(Grokking("p23", variant, 2)).train[0]  # type: ignore[arg-type]
        for variant in ("data", "grok", "easy")
    ]
    for less, more in zip(halves, halves[1:], strict=False):
        assert torch.equal(more[: len(less)], less)


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
    # Memorised at 30, T50 499 (289 to 719) on the development seeds (LOG.md).
    assert reached["grok"]["memorised"] <= 60
    assert 300 <= reached["grok"]["T50"] <= 720
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


def test_what_is_asked_for_is_measured_and_nothing_else(tmp_path: Path) -> None:
    quiet, loud = (Grokking("p23", steps=20, observables=o) for o in ("none", "standard"))
    with grokking.run(quiet, tmp_path / "a", observables=["norms"], detectors=()) as run:
        assert "norm/weights" in run.names() or "grad/norm" in run.names()
    with grokking.run(loud, tmp_path / "b", observables=[], detectors=()) as run:
        assert set(run.names()) == {"loss", "train_acc", "val_acc", "val_loss"}
    with grokking.run(loud, tmp_path / "c", observables=iter(["norms"]), detectors=()) as run:
        assert "grad/norm" in run.names()


def test_configuration_is_checked() -> None:
    with pytest.raises(ValueError, match="`task` of `Grokking` must be one of"):
        Grokking(task="p97")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`variant` of `Grokking` must be one of"):
        Grokking(variant="hope")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`steps` of `Grokking` must be at least 0"):
        Grokking(steps=-1)


def test_no_rule_waits_where_nothing_is_measured(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = Grokking("p23", steps=110, observables="none")
    alone = grokking.run(config, tmp_path / "alone")
    assert not alone.events("detectors")[0].payload["detectors"] and not alone.events("note")
    assert "blind" not in caplog.text
    asked = grokking.run(config, tmp_path / "asked", detectors=["turnover"])
    assert [d["name"] for d in asked.events("detectors")[0].payload["detectors"]] == ["turnover"]
    measured = grokking.run(replace(config, steps=2, observables="free"), tmp_path / "measured")
    assert len(measured.events("detectors")[0].payload["detectors"]) == 4
    waits = replace(config, observables="free")
    grokking.run(waits, tmp_path / "waits")
    assert "blind" in caplog.text  # so that its absence above says something


def test_run_folder_must_be_new(tmp_path: Path) -> None:
    config = Grokking("p23", steps=5, observables="none")
    grokking.run(config, tmp_path / "r").close()
    with pytest.raises(fs.StoreError):
        grokking.run(config, tmp_path / "r")


# ------------------------------------------------------------------ transfer tasks, seeds 0 to 2


@pytest.mark.parametrize(("task", "share"), [("p31", 0.5), ("transformer", 0.56), ("parity", 0.5)])
def test_transfer_data_are_disjoint_and_right(task: str, share: float) -> None:
    config = Grokking(task, seed=1)  # type: ignore[arg-type]
    data, p = grokking.make_data(config), config.modulus
    inputs = torch.cat([data.train[0], data.heldout[0]])
    labels = torch.cat([data.train[1], data.heldout[1]])
    assert len(torch.unique(inputs, dim=0)) == len(inputs)  # nothing is on both sides
    assert len(data.train[1]) == int(share * len(labels))
    if task == "parity":
        signs, target = 1.0 - 2 * inputs.double(), 1.0 - 2 * labels.double()
        # One bit alone tells nothing: 30 correlations of 3,000 signs, sd 0.018 each, 4.5 of them.
        assert ((signs.T @ target) / len(target)).abs().max() < 4.5 * len(target) ** -0.5
        keys = torch.randperm(30, generator=torch.Generator().manual_seed(1))[:3]
        assert torch.equal(signs[:, keys].prod(1), target)
    else:
        sign = -1 if task == "transformer" else 1
        assert torch.equal((inputs[:, 0] + sign * inputs[:, 1]) % p, labels)


@pytest.mark.parametrize("task", ["p31", "transformer", "parity"])
def test_transfer_tasks_learn_their_training_half(task: str) -> None:
    config = Grokking(task, seed=0)  # type: ignore[arg-type]
    data, model = grokking.make_data(config), grokking.make_model(config)
    optimizer = grokking.make_optimizer(config, model)
    losses = []
    for _ in range(15):
        loss = grokking.loss_of(model, data.train)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.99 * losses[0]


def test_the_transformer_attends_as_torch_does() -> None:
    model = grokking.make_model(Grokking("transformer", seed=2)).double()
    pairs = torch.tensor([[3, 5], [5, 3], [0, 46]])
    tokens = torch.cat([pairs, torch.full((3, 1), 47)], 1)
    x = model.embed(tokens) + model.place.weight
    heads = torch.nn.MultiheadAttention(48, 4, bias=False, batch_first=True).double()
    heads.in_proj_weight.data = model.attend.weight.data
    heads.out_proj.weight.data = model.project.weight.data
    x = (x + heads(x, x, x, need_weights=False)[0])[:, -1]
    expected = model.readout(x + model.back(torch.relu(model.hidden(x))))
    torch.testing.assert_close(model(pairs), expected)


# ------------------------------------------------------------------ optimizers


@pytest.mark.parametrize("task", ["p59", "p23"])
def test_muon_and_adamw_as_one_are_the_two(task: str) -> None:
    config = Grokking(task, seed=1, optimizer="muon")  # type: ignore[arg-type]
    data = grokking.make_data(config)
    one, two = grokking.make_model(config), grokking.make_model(config)
    whole = grokking.make_optimizer(config, one)
    linear = [m.weight for m in two.modules() if isinstance(m, torch.nn.Linear)]
    rest = [p for p in two.parameters() if all(p is not weight for weight in linear)]
    rate, decay = {"p59": (0.02, 0.3), "p23": (0.02, 1.0)}[task]
    parts: list[torch.optim.Optimizer] = [torch.optim.Muon(linear, lr=rate, weight_decay=decay)]
    if rest:
        parts.append(torch.optim.AdamW(rest, lr=5e-3, betas=(0.9, 0.98), weight_decay=1.0))
    for _ in range(4):
        for model, steppers in ((one, [whole]), (two, parts)):
            model.zero_grad()
            grokking.loss_of(model, data.train).backward()
            for stepper in steppers:
                stepper.step()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    owned = [id(p) for group in whole.param_groups for p in group["params"]]
    assert sorted(owned) == sorted(id(p) for p in one.parameters())
    before = [p.clone() for p in one.parameters()]
    for group in whole.param_groups:  # what a policy does
        group["lr"] = 0.0
    whole.step()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), before, strict=True))


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "muon"])
def test_watching_does_not_change_an_arm(optimizer: str, tmp_path: Path) -> None:
    losses = []
    for observables in ("none", "standard"):
        config = Grokking(
            "p23", seed=2, steps=12, every=5, observables=observables, optimizer=optimizer  # type: ignore[arg-type]
        )  # fmt: skip
        with grokking.run(config, tmp_path / observables) as run:
            losses.append(run.series("loss").value.tolist())
            assert not [e for e in run.events() if e.kind == "observable_off"]
    assert losses[0] == losses[1] and losses[0][-1] < losses[0][0]


# ------------------------------------------------------------------ verdicts


def made(
    folder: Path, task: str, variant: str, seed: int, steps: dict[str, int], arm: str = "adamw"
) -> fs.Run:
    """A run with these milestones."""
    config = {"task": task, "variant": variant, "seed": seed, "optimizer": arm}
    path = folder / f"{task}-{variant}-{arm}-{seed}"
    with fs.Run.create(path, kind="grokking", config=config, seed=seed) as run:
        run.append(0, {"loss": 1.0})
        for name, step in steps.items():
            run.append(step, {"val_acc": 0.5, "train_acc": 1.0})
            run.event("milestone", "grokking", {"name": name, "rule": "made up"}, step=step)
    return fs.Run.open(path)


def test_verdicts_and_figure_on_made_up_runs(tmp_path: Path) -> None:
    grok = {"memorised": 29, "onset": 170, "T50": 500, "T90": 1000}
    easy = {"onset": 19, "memorised": 29, "T50": 49, "T90": 89}
    runs = [made(tmp_path, "p23", "grok", seed, grok) for seed in range(10)]
    runs += [made(tmp_path, "p23", "labels", seed, {"memorised": 39}) for seed in range(10)]
    runs += [made(tmp_path, "p23", "easy", seed, easy) for seed in range(10)]
    held = {c.name: c.holds for c in grokking.check(runs)}
    for name in ("groks", "labels is silent", "memorised", "onset", "T50", "easy"):
        assert held[f"p23 {name}"] is True
    assert held["p23 latin is silent"] is None and held["p59 groks"] is None
    bad = [*runs, made(tmp_path, "p23", "labels", 10, {"memorised": 39, "onset": 400})]
    assert {c.name: c.holds for c in grokking.check(bad)}["p23 labels is silent"] is False
    few = {c.name: c.holds for c in grokking.check(runs[:1])}
    assert few["p23 groks"] is None
    for some in ([], runs[:1], runs):
        assert grokking.figure(some).axes
    for run in bad:
        run.close()


def test_an_easy_null_that_never_generalises_fails(tmp_path: Path) -> None:
    grok = {"memorised": 29, "onset": 170, "T50": 500, "T90": 1000}
    runs = [made(tmp_path, "p23", "grok", seed, grok) for seed in range(10)]
    lines = {c.name: c for c in grokking.check(runs)}
    assert lines["p23 easy"].holds is None and "no runs" in lines["p23 easy"].measured
    runs += [made(tmp_path, "p23", "easy", seed, {"memorised": 29}) for seed in range(10)]
    lines = {c.name: c for c in grokking.check(runs)}
    assert lines["p23 easy"].holds is False and "0 of 10" in lines["p23 easy"].measured
    for run in runs:
        run.close()


def test_an_arm_that_learns_nothing_fails_and_one_that_groks_is_counted(tmp_path: Path) -> None:
    full, part = {"memorised": 29, "onset": 170, "T90": 1000}, {"memorised": 29}
    runs = [made(tmp_path, "p23", "grok", s, full if s < 7 else part, "sgd") for s in range(10)]
    runs += [made(tmp_path, "p23", "grok", s, {"onset": 9}, "muon") for s in range(2)]
    lines = {c.name: c for c in grokking.check(runs)}
    assert lines["p23 sgd"].holds is True
    # Clopper-Pearson of 7 in 10: 0.348 to 0.933
    assert "grokked 7 of 10 (95 %: 0.35 to 0.93)" in lines["p23 sgd"].measured
    assert lines["p23 muon"].holds is False
    assert lines["p23 momentum"].holds is None
    assert len(grokking.figure(runs).axes) == 3
    for run in runs:
        run.close()


def test_what_an_optimizer_and_a_task_refuse() -> None:
    with pytest.raises(ValueError, match="`optimizer` of `Grokking` must be one of"):
        Grokking(optimizer="adam")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'muon' of `Grokking` has a learning rate for the tasks"):
        Grokking("parity", optimizer="muon")
    with pytest.raises(ValueError, match="'latin' of `Grokking` needs a table of a group"):
        Grokking("parity", "latin")
