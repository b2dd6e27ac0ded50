"""Addition: no pair leaks, the three measures are what they say, nulls differ in one thing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from foreshock.experiments import addition as experiment
from foreshock.experiments.addition import (
    EXPERIMENT,
    LIMIT,
    QUESTION,
    TOKENS,
    Addition,
    draw_batch,
    evaluate,
    make_data,
    make_model,
    make_optimizer,
    rate_factor,
    write,
)
from foreshock.experiments.setup import conclude, milestones_of, outcome
from foreshock.report import save_figure
from foreshock.store import Run

TINY: dict[str, Any] = {
    "size": "small", "steps": 12, "batch": 8, "heldout": 16, "evaluate_every": 4
}  # fmt: skip


@pytest.mark.parametrize("variant", ["reversed", "labels"])
def test_no_heldout_pair_is_trained_on_whichever_number_comes_first(variant: str) -> None:
    data = make_data(Addition(variant, seed=2))  # type: ignore[arg-type]
    heldout, train = set(data.heldout.tolist()), set(data.train.tolist())
    mirrored = {pair % LIMIT * LIMIT + pair // LIMIT for pair in heldout}
    assert len(heldout) == 500
    assert train.isdisjoint(heldout | mirrored)
    assert train | heldout | mirrored == set(range(LIMIT**2))


def test_what_is_written_can_be_read_back() -> None:
    pairs = torch.tensor([0, 999_999, 123_456, 7_080, 500_500])
    sums = pairs // LIMIT + pairs % LIMIT
    for variant in ("reversed", "plain"):
        tokens, labels = write(Addition(variant), pairs, sums)  # type: ignore[arg-type]
        assert tokens.shape == labels.shape == (5, 11)
        for pair, row, asked in zip(pairs.tolist(), tokens.tolist(), labels.tolist(), strict=True):
            text = "".join("0123456789+="[token] for token in row)
            a, b = text[:7].split("+")
            assert int(a) * LIMIT + int(b) == pair and text[7] == "="
            answer = "".join(str(digit) for digit in asked[7:])
            assert int(answer[::-1] if variant == "reversed" else answer) == int(a) + int(b)
            assert asked[:7] == [-100] * 7
            assert row[8:] == asked[7:-1]  # each digit is shown after it was asked


def test_twins_differ_in_exactly_one_thing() -> None:
    configs = {
        v: Addition(v, "small", seed=4)  # type: ignore[arg-type]
        for v in ("reversed", "plain", "labels", "frozen")
    }
    data = {v: make_data(config) for v, config in configs.items()}
    true = data["reversed"]
    for variant in ("plain", "frozen"):
        assert all(torch.equal(a, b) for a, b in zip(true, data[variant], strict=True))
    labels = data["labels"]
    assert torch.equal(labels.heldout, true.heldout) and torch.equal(labels.train, true.train)
    assert torch.equal(labels.sums.sort().values, true.sums.sort().values)
    # the sums of two random pairs agree with chance sum of squares of a triangle law, 2/3 a 1000th
    assert (labels.sums == true.sums).float().mean() < 0.001
    state = torch.get_rng_state()
    models = {v: make_model(config) for v, config in configs.items()}
    assert torch.equal(state, torch.get_rng_state())
    first = list(models["reversed"].parameters())
    for model in models.values():
        assert all(torch.equal(a, b) for a, b in zip(first, model.parameters(), strict=True))
    rates = {v: make_optimizer(configs[v], m).param_groups[0]["lr"] for v, m in models.items()}
    assert rates == {"reversed": 0.015, "plain": 0.015, "labels": 0.015, "frozen": 0.0}
    drawn = {
        v: draw_batch(configs[v], data[v], torch.Generator().manual_seed(1))[0][:, :QUESTION]
        for v in configs
    }
    assert all(torch.equal(drawn["reversed"], tokens) for tokens in drawn.values())


def clumsy(tokens: torch.Tensor) -> torch.Tensor:
    """Knows the sum and errs by one where the tokens so far add up to a multiple of 5; causal."""
    logits = torch.zeros(*tokens.shape, TOKENS)
    places = torch.tensor([100, 10, 1])
    total = (tokens[:, :3] * places).sum(1) + (tokens[:, 4:7] * places).sum(1)
    for place in range(QUESTION - 1, tokens.shape[1]):
        digit = total // 10 ** (place - QUESTION + 1) % 10
        slip = (tokens[:, : place + 1].sum(1) % 5 == 0).long()
        logits[:, place] = functional.one_hot((digit + slip) % 10, TOKENS).float()
    return logits


def test_exact_match_is_that_of_answers_written_digit_by_digit() -> None:
    config = Addition(seed=1)
    data = make_data(config)
    tokens, labels = write(config, data.heldout, data.sums[data.heldout])
    written = tokens[:, :QUESTION]
    for _ in range(4):
        written = torch.cat([written, clumsy(written)[:, -1:].argmax(2)], dim=1)
    exact = (written[:, QUESTION:] == labels[:, QUESTION - 1 :]).all(1).float().mean().item()
    told = evaluate(clumsy, (tokens, labels))  # type: ignore[arg-type]
    assert 0.3 < exact < 0.5  # (4/5)^4 = 0.41, standard error 0.02
    assert told["exact_match"] == exact
    right = sum(
        int(clumsy(tokens)[n, place].argmax()) == int(labels[n, place])
        for n in range(50)
        for place in range(QUESTION - 1, 11)
    )
    fifty = evaluate(clumsy, (tokens[:50], labels[:50]))  # type: ignore[arg-type]
    assert fifty["token_accuracy"] == pytest.approx(right / 200, abs=1e-6)
    # one logit of 1 and eleven of 0: right with e / (e + 11), wrong with 1 / (e + 11)
    e = 2.718281828
    loss = -torch.tensor([1 / (e + 11), e / (e + 11)]).log()
    share = told["token_accuracy"]
    expected = float(loss[1] * share + loss[0] * (1 - share))
    assert told["val_loss"] == pytest.approx(expected, rel=1e-5)


def test_the_same_configuration_gives_the_same_run_watched_or_not(tmp_path: Path) -> None:
    quiet = Addition(**TINY, observables="none")
    watched = Addition(**TINY, observables="standard", every=5)
    runs = [
        experiment.run(config, tmp_path / str(number))
        for number, config in enumerate((quiet, quiet, watched))
    ]
    told = [
        [run.series(name).value.tolist() for name in ("loss", *experiment.MEASURES)] for run in runs
    ]
    assert told[0] == told[1] == told[2]
    for name in ("grad/signal", "hessian/lambda_max", "readout/heldout_signal"):
        assert runs[2].series(name).value[-1] == runs[2].series(name).value[-1]  # not nan


def test_in_the_frozen_null_nothing_moves(tmp_path: Path) -> None:
    with experiment.run(Addition("frozen", **TINY, observables="none"), tmp_path / "a") as run:
        assert len(set(run.series("val_loss").value.tolist())) == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [("variant", "sums"), ("size", "huge"), ("steps", -1), ("batch", 0), ("heldout", 0),
     ("heldout", 600_000), ("evaluate_every", 0)],
)  # fmt: skip
def test_a_wrong_field_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"The `{field}` of `Addition` must .* Got"):
        Addition(**{field: value})


def made(path: Path, variant: str, seed: int, top: float) -> Run:
    """A run whose digits become right linearly, each for itself."""
    config = {"variant": variant, "size": "large", "seed": seed}
    with Run.create(path / f"{variant}-{seed}", kind="addition", config=config) as record:
        for step in range(0, 121):
            digit = top * min(1.0, step / 100)
            measures = {"exact_match": digit**4, "token_accuracy": digit, "val_loss": 1 - digit}
            record.append(step, measures)
        experiment.record_outcome(record, make_model(Addition(size="small")))
    return Run.open(path / f"{variant}-{seed}")


def test_check_and_figure_with_none_one_and_ten_seeds(tmp_path: Path) -> None:
    runs = [
        made(tmp_path, variant, seed, top)
        for seed in range(10)
        for variant, top in (("reversed", 1.0), ("labels", 0.2))
    ]
    # digit^4 reaches 0.1, 0.5, 0.9, 0.98 at 0.5623, 0.8409, 0.9740, 0.9950
    assert milestones_of(runs[0]) == {"onset": 57, "T50": 85, "T90": 98, "exact98": 100}
    told = outcome(runs[0])
    assert told["exact_match_rise"] == pytest.approx((98 - 57) / 85)
    # from 0.2 the digits are a tenth up at 0.28, half way at 0.6, nine tenths at 0.92
    # and rounding decides whether a step more is needed
    assert told["token_accuracy_rise"] == pytest.approx((92 - 28) / 60, abs=0.03)
    assert outcome(runs[1])["exact_match_rise"] is None
    for some, holds in ((runs, True), (runs[:2], None), ([], None)):
        checks = {one.name: one for one in EXPERIMENT.check(some)}
        assert checks["exact match, reversed, large"].holds is holds
        assert checks["null labels"].holds is holds
        assert checks["exact match, plain, large"].holds is None
        save_figure(EXPERIMENT.figure(some), tmp_path / "figure.png")
    short = [made(tmp_path / "short", "reversed", 0, 0.9)]
    checks = {one.name: one.holds for one in EXPERIMENT.check(short)}
    assert checks["exact match, reversed, large"] is False


def test_a_null_that_did_not_train_proves_nothing(tmp_path: Path) -> None:
    runs = []
    for seed in range(10):
        config = {"variant": "labels", "size": "large", "seed": seed}
        with Run.create(tmp_path / f"{seed}", kind="addition", config=config):
            pass  # nothing was trained
        runs.append(Run.open(tmp_path / f"{seed}"))
        short = tmp_path / f"{seed}-short"
        with Run.create(short, kind="addition", config=config | {"steps": 20}) as record:
            conclude(record, {"best_exact_match": 0.0})
        runs.append(Run.open(short))
    null = {check.name: check for check in EXPERIMENT.check(runs)}["null labels"]
    assert null.holds is None and "20 unfinished or of another size" in null.measured


def test_one_measure_is_abrupt_and_the_other_is_not_or_the_check_fails(tmp_path: Path) -> None:
    names = [f"(T90 - T10) / T50 of {name}" for name in ("exact match", "share of right digits")]
    for case, exact, digits, holds in (
        ("claim", 0.3, 1.2, [True, True]),
        ("both abrupt", 0.3, 0.4, [True, False]),
        ("neither", 1.5, 1.2, [False, True]),
        ("never", None, None, [None, None]),
    ):
        runs = []
        for seed in range(10):
            config = {"variant": "reversed", "size": "large", "seed": seed}
            path = tmp_path / case / str(seed)
            with Run.create(path, kind="addition", config=config) as record:
                numbers = {"exact_match_rise": exact, "token_accuracy_rise": digits}
                conclude(record, {**numbers, "steps_to_98": 250})
            runs.append(Run.open(path))
        checks = {one.name: one.holds for one in EXPERIMENT.check(runs)}
        assert [checks[name] for name in names] == holds, case


def test_every_label_of_a_sweep_has_its_seconds() -> None:
    # a null has the updates of its size, so the seconds too
    for size in ("medium", "small"):
        for variant in ("labels", "frozen"):
            assert EXPERIMENT.seconds[f"{variant}-{size}"] == EXPERIMENT.seconds[f"reversed-{size}"]


def test_the_small_size_works_and_a_run_without_an_evaluation_too(tmp_path: Path) -> None:
    config = EXPERIMENT.configured(small=True, observables="none")
    with experiment.run(config, tmp_path / "a") as run:
        told = outcome(run)
        assert told["val_loss"] < 2.48  # ln 12: it has learnt that answers are digits
    short = Addition(size="small", steps=1, batch=2, heldout=4, observables="none")
    with experiment.run(short, tmp_path / "b") as run:
        assert outcome(run) == {}
        EXPERIMENT.check([run]), EXPERIMENT.figure([run])


def test_the_rate_that_the_optimizer_has_is_the_ramp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[float, tuple[float, float]]] = []

    class Spied(torch.optim.AdamW):
        def step(self, closure: Any = None) -> Any:
            seen.append((self.param_groups[0]["lr"], self.param_groups[0]["betas"]))
            return super().step(closure)

    monkeypatch.setattr(torch.optim, "AdamW", Spied)
    experiment.run(Addition(**{**TINY, "steps": 80}, observables="none"), tmp_path / "a").close()
    rate = experiment.SIZES["small"].lr
    assert [lr for lr, _ in seen] == pytest.approx([rate * rate_factor(t, 80) for t in range(80)])
    assert {betas for _, betas in seen} == {(0.9, 0.98)}
    # Up over 30 updates, whole until three quarters, and down to a twentieth of a quarter's end.
    assert seen[29][0] == seen[60][0] == rate > seen[79][0] == pytest.approx(rate / 20)
