"""The language model: disjoint stretches, entropies against a naive twin, nulls in one thing."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from foreshock.experiments import character_lm as experiment
from foreshock.experiments.character_lm import (
    EXPERIMENT,
    CharacterLM,
    draw_batch,
    make_model,
    make_optimizer,
    make_text,
    record_outcome,
    some_windows,
    stretch_loss,
    windows,
)
from foreshock.experiments.character_policy import CHARACTERS, encode, source_lines
from foreshock.experiments.decoder import token_loss
from foreshock.experiments.ngrams import ngram_entropy, window_entropies
from foreshock.experiments.setup import conclude, milestones_of, outcome
from foreshock.report import save_figure
from foreshock.store import Run

TINY: dict[str, Any] = {
    "steps": 12, "batch": 4, "context": 12, "width": 8, "layers": 1, "heldout": 8,
    "evaluate_every": 4,
}  # fmt: skip


def test_stretches_are_disjoint_pieces_of_the_source() -> None:
    text = make_text(CharacterLM())
    whole = encode("".join(source_lines()))
    assert torch.equal(torch.cat(text), whole)
    assert [round(len(part) / len(whole), 4) for part in text] == [0.8, 0.1, 0.1]


def test_batches_and_windows_never_leave_their_stretch() -> None:
    config = CharacterLM(context=7, batch=3000)
    stretch = torch.arange(100, 140)  # a character is its own place here
    tokens, following = draw_batch(config, stretch, torch.Generator().manual_seed(0))
    assert torch.equal(tokens[:, 1:], following[:, :-1])
    assert (tokens.diff(dim=1) == 1).all()
    # 33 places of 8 characters each; 3,000 draws leave one out with chance 33 (32/33)^3000 < 1e-38
    assert set(tokens[:, 0].tolist()) == set(range(100, 133))
    tokens, following = windows(config, stretch)
    assert tokens.flatten().tolist() == list(range(100, 135))  # 5 windows, without overlap
    assert torch.equal(following, tokens + 1)
    few, _ = some_windows(CharacterLM(context=7, heldout=3), stretch)
    assert few[:, 0].tolist() == [100, 114, 128]


def naive(train: str, heldout: str, order: int) -> float:
    """Witten and Bell with dictionaries."""

    def chance(history: str, character: str) -> float:
        after = Counter(
            train[i + len(history)]
            for i in range(len(train) - len(history))
            if train[i : i + len(history)] == history
        )
        shorter = chance(history[1:], character) if history else 1 / len(CHARACTERS)
        if not after:
            return shorter
        total = sum(after.values()) + len(after)
        return (after[character] + len(after) * shorter) / total

    grams = [heldout[i : i + order] for i in range(len(heldout) - order + 1)]
    return -sum(math.log(chance(gram[:-1], gram[-1])) for gram in grams) / len(grams)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_entropy_against_dictionaries(order: int) -> None:
    train, heldout = "the cat sat on the mat.\nthe hat\n", "that zebra sat.\n"
    found = ngram_entropy(encode(train), encode(heldout), order)
    assert found == pytest.approx(naive(train, heldout, order), rel=1e-12)


def test_entropies_of_windows_are_of_what_the_network_is_asked_and_shown() -> None:
    train, heldout = "the cat sat on the mat.\nthe hat\n", "that zebra sat.\n"
    config = CharacterLM(context=4)
    tokens, labels = windows(config, encode(heldout))
    found = window_entropies(encode(train), tokens, labels, 3)
    for order in (1, 2, 3):
        costs = []
        for shown, asked in zip(tokens.tolist(), labels.tolist(), strict=True):
            whole = "".join(CHARACTERS[i] for i in [*shown, asked[-1]])
            for place in range(1, len(whole)):
                gram = whole[max(0, place - order + 1) : place + 1]
                costs.append(naive(train, gram, len(gram)))
        assert found[order - 1] == pytest.approx(sum(costs) / len(costs), rel=1e-12)


def test_a_null_that_knows_frequencies_only_passes_nothing(tmp_path: Path) -> None:
    # A network that costs exactly what frequencies cost, on the windows evaluated; the windows of
    # some seeds are cheaper than their stretch, and then the stretch's entropy was passed.
    for seed in range(6):
        config = CharacterLM("shuffled", seed=seed, width=8, heldout=64)
        text = make_text(config)
        counts = text.train.bincount().double()
        labels = some_windows(config, text.validation)[1]
        loss = -(counts / counts.sum()).log()[labels].mean().item()
        with Run.create(tmp_path / str(seed), kind="character_lm", config={}) as record:
            for step in range(5):
                # half a thousandth for what fitting two frequencies of pairs by chance can save
                record.append(step, {"val_loss": loss + 5e-4})
            record_outcome(record, config, make_model(config), text)
            assert milestones_of(record) == {}, seed


def test_a_null_that_did_not_train_proves_nothing(tmp_path: Path) -> None:
    runs = []
    for variant in ("shuffled", "frozen"):
        for seed in range(10):
            config = {"variant": variant, "seed": seed, "steps": 20}
            path = tmp_path / f"{variant}-{seed}"
            with Run.create(path, kind="character_lm", config=config) as record:
                conclude(record, {"test_loss": 3.4, "unigram": 3.0, "bigram": 2.5})
            runs.append(Run.open(path))
    checks = [check for check in EXPERIMENT.check(runs) if check.name.startswith("null")]
    assert len(checks) == 4 and not any(check.holds for check in checks)
    assert all("10 unfinished or of another size" in check.measured for check in checks)


def test_a_law_over_characters_sums_to_one() -> None:
    train = encode("the cat sat on the mat.\nthe hat\n")
    for history in ("th", "q", "zz"):
        chances = [
            math.exp(-ngram_entropy(train, encode(history + c), len(history) + 1))
            for c in CHARACTERS
        ]
        assert sum(chances) == pytest.approx(1.0, rel=1e-12)


def test_the_stretch_loss_is_the_mean_over_all_its_characters() -> None:
    config = CharacterLM(**TINY)
    model = make_model(config)
    text = make_text(config).test[:4000]  # 333 windows: two parts
    with torch.no_grad():
        whole = token_loss(model, windows(config, text)).item()
    # means of 4,000 single-precision numbers of order 3
    assert stretch_loss(config, model, text) == pytest.approx(whole, rel=1e-5)


def test_twins_differ_in_exactly_one_thing() -> None:
    configs = {v: CharacterLM(v, seed=4, width=8) for v in ("text", "shuffled", "frozen")}  # type: ignore[arg-type]
    text = {v: make_text(config) for v, config in configs.items()}
    assert all(torch.equal(a, b) for a, b in zip(text["text"], text["frozen"], strict=True))
    counts = [torch.cat(text[v]).bincount().tolist() for v in ("text", "shuffled")]
    assert counts[0] == counts[1]
    assert [len(part) for part in text["text"]] == [len(part) for part in text["shuffled"]]
    # nothing is left to know but frequencies: pairs and single characters cost the same. Fitting
    # 30^2 numbers to n characters costs about 30^2 / 2n = 0.0003 nat, and their sampling as much.
    shuffled = text["shuffled"]
    entropies = [ngram_entropy(shuffled.train, shuffled.test, order) for order in (1, 2)]
    assert abs(entropies[1] - entropies[0]) < 0.002
    state = torch.get_rng_state()
    models = {v: make_model(config) for v, config in configs.items()}
    assert torch.equal(state, torch.get_rng_state())
    first = list(models["text"].parameters())
    for model in models.values():
        assert all(torch.equal(a, b) for a, b in zip(first, model.parameters(), strict=True))
    rates = {v: make_optimizer(configs[v], m).param_groups[0]["lr"] for v, m in models.items()}
    assert rates == {"text": 3e-3, "shuffled": 3e-3, "frozen": 0.0}


def test_the_same_configuration_gives_the_same_run_watched_or_not(tmp_path: Path) -> None:
    quiet = CharacterLM(**TINY, observables="none")
    watched = CharacterLM(**TINY, observables="standard", every=5)
    runs = [
        experiment.run(config, tmp_path / str(number))
        for number, config in enumerate((quiet, quiet, watched))
    ]
    told = [(run.series("loss").value.tolist(), outcome(run)["test_loss"]) for run in runs]
    assert told[0] == told[1] == told[2]  # the test loss is that of the last weights
    for name in ("grad/signal", "hessian/lambda_max", "readout/heldout_signal"):
        assert runs[2].series(name).value[-1] == runs[2].series(name).value[-1]  # not nan


def test_in_the_frozen_null_nothing_moves(tmp_path: Path) -> None:
    with experiment.run(CharacterLM("frozen", **TINY, observables="none"), tmp_path / "a") as run:
        assert len(set(run.series("val_loss").value.tolist())) == 1
        assert milestones_of(run) == {}


@pytest.mark.parametrize("field", ["variant", "steps", "batch", "context", "width", "heldout"])
def test_a_wrong_field_is_refused_by_name(field: str) -> None:
    with pytest.raises(ValueError, match=rf"The `{field}` of `CharacterLM` must be .* Got"):
        wrong: dict[str, Any] = {field: "latin" if field == "variant" else -1}
        CharacterLM(**wrong)


def made(path: Path, variant: str, seed: int, loss: float, passed: str = "") -> Run:
    config = {"variant": variant, "seed": seed}
    numbers = {"unigram": 3.0, "bigram": 2.5, "trigram": 2.0, "test_loss": loss, "val_bigram": 2.4}
    with Run.create(path / f"{variant}-{seed}", kind="character_lm", config=config) as record:
        for step in range(20):
            record.append(step, {"val_loss": 3.4 - (3.4 - loss) * min(1.0, step / 10)})
        if passed:
            experiment.milestone(record, passed, "made up", 10)
        experiment.conclude(record, numbers)
    return Run.open(path / f"{variant}-{seed}")


def test_check_and_figure_with_none_one_and_ten_seeds(tmp_path: Path) -> None:
    runs = [
        made(tmp_path, variant, seed, loss + seed / 1000)
        for seed in range(10)
        for variant, loss in (("text", 1.9), ("shuffled", 3.01), ("frozen", 3.8))
    ]
    for some, holds in ((runs, True), (runs[:3], None), ([], None)):
        checks = {one.name: one for one in EXPERIMENT.check(some)}
        silent = [f"null {variant} passes nothing" for variant in ("shuffled", "frozen")]
        for name in ("below the bigram entropy", "null shuffled", "null frozen", *silent):
            assert checks[name].holds is holds
        save_figure(EXPERIMENT.figure(some), tmp_path / "figure.png")
    poor = [made(tmp_path / "poor", "text", 0, 2.6), made(tmp_path / "poor", "shuffled", 0, 2.9)]
    checks = {one.name: one.holds for one in EXPERIMENT.check(poor)}
    assert checks["below the bigram entropy"] is False and checks["null shuffled"] is False
    loud = made(tmp_path / "loud", "shuffled", 0, 3.01, passed="unigram")
    checks = {one.name: one.holds for one in EXPERIMENT.check([loud])}
    assert checks["null shuffled passes nothing"] is False


def test_the_small_size_passes_the_uniform_law_and_names_what_it_passed(tmp_path: Path) -> None:
    config = EXPERIMENT.configured(small=True, observables="none")
    with experiment.run(config, tmp_path / "a") as run:
        assert run.series("val_loss").value[-1] < run.series("val_loss").value[0]
        assert {"unigram", "val_bigram", "test_loss", "parameters"} <= set(outcome(run))
    with experiment.run(
        CharacterLM(**TINY | {"steps": 1}), tmp_path / "b", observables="none"
    ) as run:
        assert milestones_of(run) == {}
        EXPERIMENT.check([run]), EXPERIMENT.figure([run])
