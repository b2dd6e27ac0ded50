"""Induction: words repeat, labels ask only what can be copied, nulls differ in one thing."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from foreshock.experiments import induction as experiment
from foreshock.experiments.induction import (
    EXPERIMENT,
    LENGTH,
    TOKENS,
    VARIANTS,
    Induction,
    Sequences,
    Variant,
    draw_sequences,
    evaluate,
    heldout_sequences,
    make_model,
    make_optimizer,
)
from foreshock.experiments.setup import conclude, milestones_of, outcome
from foreshock.report import save_figure
from foreshock.store import Run

TINY: dict[str, Any] = {"steps": 12, "batch": 4, "heldout": 8, "evaluate_every": 4}


def drawn(variant: str, count: int = 40) -> Sequences:
    generator = torch.Generator().manual_seed(5)
    return draw_sequences(Induction(variant), count, generator)  # type: ignore[arg-type]


def test_the_variants_are_those_of_the_type() -> None:
    assert get_args(Variant) == VARIANTS == EXPERIMENT.variants


def test_words_repeat_and_labels_ask_what_can_be_copied() -> None:
    sequences = drawn("two_layers", 400)
    labels = sequences.repeats()
    assert set(sequences.periods.tolist()) == set(range(8, 20))
    for tokens, following, asked, p in zip(*sequences[:2], labels, sequences.periods, strict=True):
        whole = [*tokens.tolist(), int(following[-1])]
        assert whole[1:] == following.tolist()
        assert all(whole[t] == whole[t - p] for t in range(p, LENGTH + 1))
        for place in range(LENGTH):
            # the token after this place was seen a word ago, and so was the token here
            expected = whole[place + 1] if place - p >= 0 else -100
            assert int(asked[place]) == expected


def test_no_token_is_twice_in_a_word() -> None:
    for variant in VARIANTS:
        sequences = drawn(variant, 200)
        for tokens, p in zip(sequences.tokens, sequences.periods, strict=True):
            assert len(set(tokens[:p].tolist())) == p
    # every token may come first: 32 shares of 1/32 in 4,000 words, 5 standard errors
    first = drawn("two_layers", 4000).tokens[:, 0].bincount(minlength=TOKENS) / 4000
    assert ((first - 1 / 32).abs() < 5 * (1 / 32 / 4000) ** 0.5).all()


def test_in_the_shuffled_null_every_repeat_has_the_tokens_of_the_word_in_another_order() -> None:
    sequences, twin = drawn("shuffled"), drawn("two_layers")
    assert torch.equal(sequences.periods, twin.periods)
    moved = 0
    for tokens, others, p in zip(sequences.tokens, twin.tokens, sequences.periods, strict=True):
        word = tokens[:p].tolist()
        assert word == others[:p].tolist()
        for start in range(int(p), LENGTH - int(p) + 1, int(p)):
            repeat = tokens[start : start + p].tolist()
            assert sorted(repeat) == sorted(word)
            moved += repeat != word
    assert moved > 80  # 40 sequences of 2 to 6 words; an order agrees by chance in 1 of 8! or fewer


def test_twins_see_the_same_words_and_start_from_the_same_weights() -> None:
    tokens = {v: drawn(v).tokens for v in VARIANTS}
    assert torch.equal(tokens["two_layers"], tokens["one_layer"])
    assert torch.equal(tokens["two_layers"], tokens["frozen"])
    assert torch.equal(tokens["two_layers"][:, :8], tokens["shuffled"][:, :8])
    assert torch.equal(tokens["two_layers"][:, :8], tokens["fixed_period"][:, :8])
    assert set(drawn("fixed_period").periods.tolist()) == {13}
    state = torch.get_rng_state()
    models = {v: make_model(Induction(v, seed=3)) for v in VARIANTS}  # type: ignore[arg-type]
    assert torch.equal(state, torch.get_rng_state())
    layers = {v: len(model.blocks) for v, model in models.items()}
    assert layers == dict.fromkeys(("two_layers", "shuffled", "frozen"), 2) | dict.fromkeys(
        ("one_layer", "fixed_period"), 1
    )
    for variant in ("shuffled", "frozen"):
        pairs = zip(models["two_layers"].parameters(), models[variant].parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    told = {
        v: [
            (name, value)
            for name, value in make_optimizer(Induction(v), m).param_groups[0].items()  # type: ignore[arg-type]
            if name != "params"
        ]
        for v, m in models.items()
    }
    differing = set(told["frozen"]) ^ set(told["two_layers"])
    assert differing == {("lr", 0.0), ("lr", 3e-3)}
    assert all(told[v] == told["two_layers"] for v in VARIANTS if v != "frozen")


def test_no_heldout_word_is_trained_on() -> None:
    config = Induction(seed=1)
    heldout = {tuple(row) for row in heldout_sequences(config).tokens.tolist()}
    assert len(heldout) == config.heldout
    generator = torch.Generator().manual_seed(config.seed)
    for _ in range(config.steps):
        batch = draw_sequences(config, config.batch, generator).tokens
        assert heldout.isdisjoint(map(tuple, batch.tolist()))


class Copier:
    """What two perfect heads would do: copy the token after the last place of the present one."""

    def __init__(self, sequences: Sequences, *, uniform: bool = False) -> None:
        self.sequences, self.uniform = sequences, uniform

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        source = torch.arange(LENGTH) - self.sequences.periods[:, None] + 1
        copied = tokens.gather(1, source.clamp_min(0))
        return 50.0 * torch.nn.functional.one_hot(copied, TOKENS)

    def attention(self, tokens: torch.Tensor) -> list[torch.Tensor]:
        n, place = len(tokens), torch.arange(LENGTH)
        if self.uniform:
            even = torch.ones(LENGTH, LENGTH).tril() / (place[:, None] + 1)
            return [even.expand(n, 1, LENGTH, LENGTH)] * 2
        back = torch.nn.functional.one_hot((place - 1).clamp_min(0), LENGTH).float()
        source = (place - self.sequences.periods[:n, None] + 1).clamp_min(0)
        match = torch.nn.functional.one_hot(source, LENGTH).float()
        idle = torch.zeros(n, 1, LENGTH, LENGTH)
        first = torch.cat([idle, back.expand(n, 1, LENGTH, LENGTH)], dim=1)
        return [first, torch.cat([match[:, None], idle], dim=1)]


def test_evaluate_against_heads_that_are_perfect_and_heads_that_look_everywhere() -> None:
    sequences = drawn("two_layers", 20)
    told = evaluate(Copier(sequences), sequences)  # type: ignore[arg-type]
    assert told["val_acc"] == 1.0 and told["val_loss"] < 1e-6
    assert told["attention/previous"] == told["attention/induction"] == 1.0
    told = evaluate(Copier(sequences, uniform=True), sequences)  # type: ignore[arg-type]
    even = [1 / (t + 1) for t in range(LENGTH)]
    assert told["attention/previous"] == pytest.approx(sum(even[1:]) / 47, rel=1e-5)
    repeated = [even[t] for p in sequences.periods.tolist() for t in range(p, LENGTH)]
    assert told["attention/induction"] == pytest.approx(sum(repeated) / len(repeated), rel=1e-5)
    wrong = evaluate(Copier(sequences), drawn("shuffled", 20))  # type: ignore[arg-type]
    assert wrong["val_acc"] < 0.3  # of 8 to 19 tokens the right one by chance


def last(run: Run) -> tuple[list[float], float]:
    return run.series("loss").value.tolist(), run.series("val_loss").value[-1]


def test_the_same_configuration_gives_the_same_run_watched_or_not(tmp_path: Path) -> None:
    quiet = Induction(**TINY, observables="none")
    watched = Induction(**TINY, observables="standard", every=5)
    runs = [
        experiment.run(config, tmp_path / str(number))
        for number, config in enumerate((quiet, quiet, watched))
    ]
    assert last(runs[0]) == last(runs[1]) == last(runs[2])
    for name in ("grad/signal", "hessian/lambda_max", "readout/heldout_signal"):
        assert runs[2].series(name).value[-1] == runs[2].series(name).value[-1]  # not nan
    # the monitor's own accuracy is ours, on the same places
    ours = dict(
        zip(*(getattr(runs[2].series("val_loss"), k) for k in ("step", "value")), strict=True)
    )
    assert set(ours) == {3, 7, 11}


def test_in_the_frozen_null_nothing_moves(tmp_path: Path) -> None:
    with experiment.run(Induction("frozen", **TINY, observables="none"), tmp_path / "a") as run:
        assert len(set(run.series("val_loss").value.tolist())) == 1
        assert milestones_of(run) == {} or "T50" not in milestones_of(run)


@pytest.mark.parametrize("field", ["variant", "steps", "batch", "heldout", "evaluate_every"])
def test_a_wrong_field_is_refused_by_name(field: str) -> None:
    with pytest.raises(ValueError, match=rf"The `{field}` of `Induction` must be .* Got"):
        wrong: dict[str, Any] = {field: "three" if field == "variant" else -1}
        Induction(**wrong)


def made(path: Path, variant: str, seed: int, top: float, every: int = 1) -> Run:
    """A run whose accuracy rises to `top` halfway."""
    config = {"variant": variant, "seed": seed}
    with Run.create(path / f"{variant}-{seed}", kind="induction", config=config) as record:
        for step in range(40):
            share = min(1.0, step / 20)
            for name in ("val_acc", "attention/previous", "attention/induction"):
                record.append(every * step, {name: top * share})
        experiment.record_outcome(record, make_model(Induction(variant)))  # type: ignore[arg-type]
    return Run.open(path / f"{variant}-{seed}")


def test_check_and_figure_with_none_one_and_ten_seeds(tmp_path: Path) -> None:
    runs = [
        made(tmp_path, variant, seed, top)
        for seed in range(10)
        for variant, top in (("two_layers", 1.0), ("one_layer", 0.23), ("shuffled", 0.1))
    ]
    assert set(milestones_of(runs[0])) == {"onset", "T50", "T90"}
    assert milestones_of(runs[1]) == {}
    assert outcome(runs[0])["steps_to_50"] == 10
    for some, holds in ((runs, True), (runs[:3], None), ([], None)):
        checks = {one.name: one for one in EXPERIMENT.check(some)}
        assert checks["two layers learn"].holds is holds
        assert checks["one layer does not"].holds is holds
        save_figure(EXPERIMENT.figure(some), tmp_path / "figure.png")
    swapped = [made(tmp_path / "swapped", "two_layers", 0, 0.2)]
    assert {c.name: c.holds for c in EXPERIMENT.check(swapped)}["two layers learn"] is False


def test_a_null_that_did_not_train_proves_nothing(tmp_path: Path) -> None:
    runs = []
    for variant in ("one_layer", "shuffled", "frozen"):
        for seed in range(10):
            path = tmp_path / f"{variant}-{seed}"
            with Run.create(path, kind="induction", config={"variant": variant, "seed": seed}):
                pass  # nothing was trained
            runs.append(Run.open(path))
            short = path.with_name(path.name + "-short")
            config = {"variant": variant, "seed": seed, "steps": 20}
            with Run.create(short, kind="induction", config=config) as record:
                conclude(record, {"accuracy": 0.03})
            runs.append(Run.open(short))
    checks = EXPERIMENT.check(runs)
    assert not any(check.holds for check in checks)
    assert "20 unfinished or of another size" in checks[1].measured


def test_learning_late_or_badly_does_not_hold(tmp_path: Path) -> None:
    # 40 evaluations 10 steps apart: 90 % at step 180 of a rise that ends at 200
    runs = [made(tmp_path, "two_layers", seed, 1.0, every=10) for seed in range(10)]
    checks = {one.name: one.holds for one in EXPERIMENT.check(runs)}
    assert checks["steps to 90 %"] is True and checks["final accuracy, two_layers"] is True
    late = [made(tmp_path / "late", "two_layers", seed, 0.92, every=30) for seed in range(10)]
    checks = {one.name: one.holds for one in EXPERIMENT.check(late)}
    assert checks["steps to 90 %"] is False and checks["final accuracy, two_layers"] is False
    assert checks["two layers learn"] is False  # 0.925 is nine tenths of the way


def test_the_small_size_works_and_a_run_without_an_evaluation_too(tmp_path: Path) -> None:
    config = EXPERIMENT.configured(small=True, observables="none")
    done: list[tuple[int, int]] = []
    with experiment.run(
        config, tmp_path / "a", progress=lambda n, total: done.append((n, total))
    ) as run:
        assert done[-1] == (config.steps, config.steps)
        assert 0 < outcome(run)["accuracy"] < 0.25
    with experiment.run(Induction(steps=1, batch=2, observables="none"), tmp_path / "b") as run:
        assert outcome(run) == {}
        EXPERIMENT.check([run]), EXPERIMENT.figure([run])
