"""Over-optimisation: the rewards are what they say, only the proxy is seen, the null differs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import foreshock as fs
from foreshock.experiments import overoptimisation as experiment
from foreshock.experiments.character_policy import (
    CHARACTERS,
    CONTEXT,
    Texts,
    encode,
    pretrained,
    sample,
    source_digest,
    source_lines,
)
from foreshock.experiments.overoptimisation import OverOptimising
from foreshock.experiments.setup import conclude
from foreshock.experiments.text_rewards import (
    error_reward,
    error_table,
    gold_reward,
    real_words,
)

REWARDS = ("proxy", "gold", "kl", "entropy", "length", "proxy_std")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_pretraining_is_deterministic_and_knows_the_language() -> None:
    state = torch.get_rng_state()
    model = pretrained()
    assert torch.equal(state, torch.get_rng_state())
    windows = encode("\n" * CONTEXT + "".join(source_lines())).unfold(0, CONTEXT + 1, 1)
    window = windows[torch.randint(len(windows), (4096,), generator=seeded(1))]
    own = window[:, :-1].clone()
    for row in own:  # a text begins after line ends only
        last = (row == 0).nonzero()
        if len(last):
            row[: last[-1]] = 0
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(model(own), window[:, -1]).item()
    counts = torch.bincount(windows[:, -1], minlength=len(CHARACTERS)) / len(windows)
    entropy = -(counts * counts.clamp_min(1e-12).log()).sum().item()
    assert entropy > 2.7  # what a guess without context costs
    assert loss < 2.1  # the sd of the mean of 4,096 rows is about 0.03


def test_sampling_has_the_law_of_the_softmax() -> None:
    model = pretrained()
    texts = sample(model, 20_000, 1, seeded(0))
    with torch.no_grad():
        chances = model(torch.zeros(1, CONTEXT, dtype=torch.long)).softmax(1)[0]
    seen = torch.bincount(texts.tokens[:, -1], minlength=len(CHARACTERS)) / 20_000
    # 30 binomial shares: 4.5 standard errors each
    assert ((seen - chances).abs() < 4.5 * (chances * (1 - chances) / 20_000).sqrt() + 1e-4).all()


def test_texts_stop_at_their_line_end_and_rows_are_their_places() -> None:
    texts = sample(pretrained(), 200, 24, seeded(1))
    for tokens, written, string in zip(*texts, texts.strings(), strict=True):
        line = tokens[CONTEXT:].tolist()
        end = line.index(0) if 0 in line else 24
        assert set(line[end:]) <= {0} and len(string) == end
        assert written.sum() == min(end + 1, 24)
    contexts, characters = texts.rows()
    assert contexts.shape == (200 * 24, CONTEXT)
    assert torch.equal(contexts[24 + 5], texts.tokens[1, 5 : 5 + CONTEXT])
    assert characters[24 + 5] == texts.tokens[1, CONTEXT + 5]


def test_rewards_against_loops() -> None:
    texts = sample(pretrained(), 100, 24, seeded(2))
    table = error_table("student", 1.0, 5)
    errors, golds = [], []
    for string in texts.strings():
        numbers = [CHARACTERS.index(c) for c in string]
        triples = zip(numbers, numbers[1:], numbers[2:], strict=False)
        errors.append(sum(float(table[t]) for t in triples) / 24)
        words = "".join(c if c.isalpha() else " " for c in string).split()
        golds.append(sum(len(w) for w in set(words) if len(w) > 2 and w in real_words()) / 24)
    # sums of 24 float32 numbers up to 1e3: rounding of 1e-4
    torch.testing.assert_close(error_reward(texts, table), torch.tensor(errors), rtol=0, atol=1e-4)
    torch.testing.assert_close(gold_reward(texts.strings(), 24), torch.tensor(golds))


def test_the_null_differs_in_the_tails_only() -> None:
    hacks, null = (error_table(e, 0.5, 3)[1:, 1:, 1:].flatten() for e in ("student", "gaussian"))
    for table in (hacks, null):
        # quartiles of 24,389 draws: se sqrt(3/16/n)/density < 0.006 for either law
        assert table.quantile(0.75).item() == pytest.approx(0.5 * 0.6745, abs=0.024)
    assert hacks.max() > 10 * null.max()
    assert not error_table("none", 0.5, 3).any()
    assert not error_table("student", 0.5, 3)[0].any()  # nothing to gain from line ends


def test_the_loss_is_the_policy_gradient() -> None:
    # The gradient of sum_text pi(text) r(text) over all texts of two characters, by enumeration,
    # against its unbiased estimate from samples with the reward itself as advantage.
    config = OverOptimising(length=2)
    model = pretrained().double()
    n = len(CHARACTERS)
    first = torch.arange(n).repeat_interleave(n)
    second = torch.where(first == 0, 0, torch.arange(n).repeat(n))
    keep = (first != 0) | (torch.arange(n * n) == 0)
    tokens = torch.zeros(n * n, CONTEXT + 2, dtype=torch.long)
    tokens[:, -2], tokens[:, -1] = first, second
    written = torch.stack([torch.ones(n * n), (first != 0).float()], 1)
    whole = Texts(tokens[keep], written[keep])
    reward = (whole.tokens[:, -2] % 3 + whole.tokens[:, -1] % 2).double()

    def logs(texts: Texts) -> torch.Tensor:
        contexts, characters = texts.rows()
        every = experiment.log_chances(model, contexts, texts)
        picked = every.gather(2, characters.reshape(-1, 2, 1))[..., 0]
        return (picked * texts.written).sum(1)

    value = logs(whole).exp()
    assert value.sum().item() == pytest.approx(1.0, abs=1e-9)
    (exact,) = torch.autograd.grad((value * reward).sum(), [model.readout.bias])
    estimates = []
    for seed in range(40):
        texts = sample(model, 500, config.length, seeded(seed))
        got = (texts.tokens[:, -2] % 3 + texts.tokens[:, -1] % 2).double()
        weights = (got[:, None] * texts.written).reshape(-1)
        batch = experiment.Batch(*texts.rows(), weights)
        (g,) = torch.autograd.grad(experiment.loss_of(model, batch), [model.readout.bias])
        estimates.append(-g * config.length)  # the loss is a mean over places
    found = torch.stack(estimates)
    error = found.std(0) / 40**0.5
    assert ((found.mean(0) - exact).abs() < 4.5 * error).all()


def test_optimisation_never_sees_gold(monkeypatch: pytest.MonkeyPatch) -> None:
    # Another gold reward under the same proxy: other numbers are logged, the batch is bit for bit
    # the same.
    config, model = OverOptimising(batch=16), pretrained()
    table = error_table("student", 1.0, 0)
    one, told = experiment.write_batch(config, model, pretrained(), table, seeded(3))
    original = experiment.judge

    def other(*arguments: Any) -> experiment.Judged:
        judged = original(*arguments)
        return experiment.Judged(judged.proxy, -3 * judged.gold)

    monkeypatch.setattr(experiment, "judge", other)
    two, changed = experiment.write_batch(config, model, pretrained(), table, seeded(3))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert told["reward/gold"] != changed["reward/gold"]
    assert told["reward/proxy"] == changed["reward/proxy"]


def test_kl_is_zero_at_the_start_and_the_penalty_enters_the_advantage() -> None:
    config, model = OverOptimising(batch=64), pretrained()
    table = error_table("none", 1.0, 0)
    batch, told = experiment.write_batch(config, model, pretrained(), table, seeded(3))
    kl = told["reward/kl"]
    assert isinstance(kl, fs.Estimate) and kl.value == 0.0
    assert told["reward/gold"] == told["reward/proxy"]  # without an error they are one
    assert batch.advantages.shape == (64 * 24,)
    proxy, ratio = torch.tensor([0.0, 1.0]), torch.tensor([0.0, 40.0])
    free, held = (experiment.advantages(OverOptimising(beta=b), proxy, ratio) for b in (0.0, 0.05))
    assert free[1] > 0 > free[0] and held[1] < 0 < held[0]


@pytest.mark.parametrize("observables", ["free", "standard"])
def test_watching_does_not_change_the_experiment(tmp_path: Path, observables: str) -> None:
    found = []
    for asked in ("none", observables):
        config = OverOptimising(seed=2, steps=6, batch=16, observables=asked, every=2)  # type: ignore[arg-type]
        with experiment.run(config, tmp_path / asked) as run:
            assert {f"reward/{name}" for name in REWARDS} <= set(run.names())
            found.append({n: run.series(f"reward/{n}").value.tolist() for n in REWARDS})
            off = [e for e in run.events() if e.kind == "observable_off"]
            assert not off
    assert found[0] == found[1]


def test_the_probe_measures_without_touching() -> None:
    config = OverOptimising(batch=16)
    model = pretrained()
    with torch.no_grad():
        model.readout.bias[3] += 2.0
    before = {k: v.clone() for k, v in model.state_dict().items()}
    calls: list[int] = []
    model.second.register_forward_hook(lambda *_: calls.append(1))
    state = torch.get_rng_state()
    probe = experiment.make_probe(config, model, error_table("student", 1.0, 0), batches=2)
    a, b, other = probe.draw(4), probe.draw(4), probe.draw(5)
    assert torch.equal(a[0].contexts, b[0].contexts) and not calls
    assert not torch.equal(a[0].contexts, other[0].contexts)
    assert not torch.equal(a[0].contexts, a[1].contexts)
    # It writes with the weights of the moment: the favoured letter is written more often.
    plain = experiment.make_probe(config, pretrained(), error_table("student", 1.0, 0), batches=2)
    assert (a[0].characters == 3).sum() > 2 * (plain.draw(4)[0].characters == 3).sum()
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_frozen_does_not_move(tmp_path: Path) -> None:
    config = OverOptimising("frozen", seed=1, steps=20, batch=16)
    with experiment.run(config, tmp_path / "f") as run:
        assert run.info["config"]["lr"] == 0.0  # what was trained, not what was asked for
        assert not run.series("reward/kl").value.any()
        assert not run.events("milestone")
        assert np.ptp(run.series("reward/proxy").value) > 0  # only sampling noise


def test_the_wide_null_has_the_spread_of_hacking(tmp_path: Path) -> None:
    # Means of 4,096 texts of the pre-trained policy over 20 tables: a median of .31 with Student
    # errors, of .17 and .31 with Gaussian ones. The median of 20 whose quartiles are .28 and .36
    # has a standard error of 1.25 (.08/1.35)/sqrt(20) = .017.
    texts = sample(pretrained(), 1024, 24, seeded(7))
    gold = gold_reward(texts.strings(), 24)

    def spread(variant: str) -> float:
        config = experiment.effective(OverOptimising(variant))  # type: ignore[arg-type]
        law = experiment.ERRORS[variant]
        tables = (error_table(law, config.scale, seed) for seed in range(1000, 1020))
        return float(np.median([(gold + error_reward(texts, t)).std().item() for t in tables]))

    assert spread("wide") == pytest.approx(spread("hacking"), abs=0.06)
    assert spread("gaussian") < 0.65 * spread("hacking")
    with experiment.run(OverOptimising("wide", steps=1, batch=8), tmp_path / "w") as run:
        assert run.info["config"]["scale"] == experiment.WIDE


def test_a_run_that_is_too_short_is_not_judged(tmp_path: Path) -> None:
    with experiment.run(OverOptimising(steps=19, batch=4), tmp_path / "s") as run:
        assert experiment.judge_run(run) is None
    with experiment.run(OverOptimising(steps=0), tmp_path / "n") as run:
        assert experiment.judge_run(run) is None


@pytest.mark.skipif(
    source_digest() != "6dfa6c2a56c5",
    reason="the seeds were counted with the library source of Python 3.11.7",
)
def test_it_hacks_and_its_null_does_not(tmp_path: Path) -> None:
    # One seed of the 20 + 20 that were counted (16 and 0 events), for as long as it needs.
    found = {}
    for variant in ("hacking", "gaussian"):
        config = OverOptimising(variant, seed=2, steps=90)  # type: ignore[arg-type]
        with experiment.run(config, tmp_path / variant) as run:
            found[variant] = experiment.judge_run(run)
            reached = {e.payload["name"]: e.step for e in run.events("milestone")}
            assert bool(reached) == (variant == "hacking")
    hacking, null = found["hacking"], found["gaussian"]
    assert hacking is not None and hacking.happened and hacking.lost > 0.5
    assert null is not None and not null.happened and null.gold[2] > 0.3


def test_configuration_is_checked() -> None:
    with pytest.raises(ValueError, match="`variant` of `OverOptimising` must be one of"):
        OverOptimising(variant="honest")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`batch` of `OverOptimising` must be at least 2"):
        OverOptimising(batch=1)
    with pytest.raises(ValueError, match="`lr` of `OverOptimising` must be finite and at least 0"):
        OverOptimising(lr=float("nan"))


def test_verdicts_and_figure_on_made_up_runs(tmp_path: Path) -> None:
    runs = []
    for variant, step in (("hacking", 40), ("gaussian", None)):
        for seed in range(10):
            path = tmp_path / f"{variant}-{seed}"
            config = {"variant": variant, "seed": seed}
            with fs.Run.create(path, kind="overoptimisation", config=config, seed=seed) as run:
                run.append(0, {"reward/gold": 0.1, "reward/proxy": 0.1})
                if step is not None and seed < 8:
                    payload = {"name": "over_optimised", "rule": "made up"}
                    run.event("milestone", "overoptimisation", payload, step=step)
                end = 0.01 if variant == "hacking" else 0.5
                conclude(run, {"gold_start": 0.1, "gold_end": end})
            runs.append(fs.Run.open(path))
    about = experiment.EXPERIMENT
    for some in ([], runs[:1], runs):
        held = {c.name: c.holds for c in about.check(some)}
        assert about.figure(some).axes
    for name in ("hacking is over-optimised", "gaussian is not", "gold at the end"):
        assert held[name] is True
    assert held["frozen is not"] is None
    assert about.variants == tuple(experiment.ERRORS)
    for run in runs:
        run.close()


def made(path: Path, variant: str, seed: int, numbers: dict[str, float], **config: Any) -> fs.Run:
    told = {"variant": variant, "seed": seed, **config}
    with fs.Run.create(path / f"{variant}-{seed}", kind="overoptimisation", config=told) as run:
        conclude(run, numbers)
    return fs.Run.open(path / f"{variant}-{seed}")


def test_a_null_that_did_not_train_proves_nothing(tmp_path: Path) -> None:
    runs = [
        made(tmp_path / case, variant, seed, numbers, **config)
        for case, numbers, config in (
            ("empty", {}, {}),
            ("short", {"gold_start": 1.0}, {"steps": 20}),
        )
        for variant in ("gaussian", "gold", "frozen")
        for seed in range(10)
    ]
    checks = {check.name: check for check in experiment.EXPERIMENT.check(runs)}
    for variant in ("gaussian", "gold", "frozen"):
        assert checks[f"{variant} is not"].holds is None
        assert "20 unfinished or of another size" in checks[f"{variant} is not"].measured


def test_a_run_that_starts_without_gold_has_no_ratio(tmp_path: Path) -> None:
    numbers = {"gold_start": 0.0, "gold_peak": 0.1, "gold_end": 0.1, "lost": 0.0}
    runs = [made(tmp_path, "hacking", 0, numbers)]
    last = experiment.EXPERIMENT.check(runs)[-1]
    assert last.name == "gold at the end" and last.measured == "no runs"


def test_it_is_watched_by_default_as_the_others_are() -> None:
    config = OverOptimising()
    assert (config.observables, config.every, config.budget) == ("standard", 0, 0.05)
