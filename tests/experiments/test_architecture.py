"""Architecture: variants that differ in their parts alone, and gradients that arrive or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from foreshock.experiments import architecture
from foreshock.experiments.architecture import Architecture, make_model
from foreshock.experiments.setup import conclude, outcome
from foreshock.store import Run

SMALL = {"depth": 2, "steps": 6, "observables": "none"}


def test_a_block_is_what_it_says() -> None:
    h = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    for variant in architecture.VARIANTS:
        block = architecture.Block(Architecture(variant)).eval()
        linear = block.linear
        inside = torch.nn.functional.layer_norm(h, (64,)) if block.norm is not None and (
            variant in ("norm", "norm_skip", "dropout")) else h  # fmt: skip
        naive = torch.relu(inside @ linear.weight.T + linear.bias)
        if variant in ("skip", "norm_skip", "dropout"):
            naive = naive + h
        assert torch.allclose(block(h), naive, atol=1e-6)  # float32 sums of 64 terms


def test_variants_of_a_seed_begin_with_the_same_weights() -> None:
    plain = dict(make_model(Architecture("plain", seed=4)).named_parameters())
    for variant in architecture.VARIANTS:
        other = dict(make_model(Architecture(variant, seed=4)).named_parameters())
        assert all(torch.equal(plain[name], other[name]) for name in plain)
        assert all(".norm." in name for name in other.keys() - plain.keys())


def test_dropout_drops_its_share_in_training_only() -> None:
    config = Architecture("dropout", rate=0.25)
    drop: Any = make_model(config).blocks[0].drop  # type: ignore[union-attr]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        gone = float((drop(torch.ones(20_000)) == 0).float().mean())
    assert abs(gone - 0.25) < 4 * (0.25 * 0.75 / 20_000) ** 0.5  # 4 standard errors
    assert make_model(Architecture("norm_skip", rate=0.25)).blocks[0].drop.p == 0  # type: ignore[union-attr]


def test_deep_and_plain_no_gradient_arrives_and_with_norm_and_skip_it_does(tmp_path: Path) -> None:
    found = {
        variant: outcome(
            architecture.run(Architecture(variant, steps=1, observables="none"), tmp_path / variant)
        )
        for variant in ("plain", "norm_skip")
    }
    ratios = {v: one["first_gradient"] / one["last_gradient"] for v, one in found.items()}
    # A layer of PyTorch's default weights shrinks a gradient by about 6^-1/2 on the way back
    # (variance 1/3 of the inputs' number, and half of the units silent): 6^-12 in 24 layers.
    assert ratios["plain"] < 1e-7
    assert ratios["norm_skip"] > 1e-2


def test_the_same_twice_and_watched_or_not(tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    losses = []
    for number, seen in enumerate(("none", "none", "standard")):
        config = Architecture("dropout", depth=2, steps=12, every=5, observables=seen)  # type: ignore[arg-type]
        run = architecture.run(config, tmp_path / str(number))
        losses.append(run.series("loss").value.tobytes())
    assert losses[0] == losses[1] == losses[2]
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_every_variant_runs_with_either_norm(norm: str, tmp_path: Path) -> None:
    for variant in architecture.VARIANTS:
        config = Architecture(variant, norm=norm, **SMALL)  # type: ignore[arg-type]
        run = architecture.run(config, tmp_path / variant)
        assert 0 <= outcome(run)["heldout_acc"] <= 1
        assert len(run.series("loss").value) == 6


def concluded(path: Path, variant: str, depth: int, seed: int, right: float) -> Run:
    """A recorded run which came to this held-out accuracy."""
    config = {"variant": variant, "depth": depth, "seed": seed}
    with Run.create(path, kind="architecture", config=config, seed=seed) as record:
        record.append(0, {"val_acc": right})
        conclude(record, {"heldout_acc": right, "first_gradient": 1.0, "last_gradient": 2.0})
    return Run.open(path)


def test_check_and_figure_on_any_runs(tmp_path: Path) -> None:
    assert architecture.check([]) == []
    architecture.figure([])
    ends = {("plain", 24): 0.1, ("norm_skip", 24): 0.95, ("plain", 2): 0.93, ("norm", 24): 0.5}
    runs = [
        concluded(tmp_path / f"{v}{d}-{s}", v, d, s, a)
        for (v, d), a in ends.items()
        for s in range(10)
    ]
    verdicts = {line.name: line.holds for line in architecture.check(runs)}
    assert verdicts["plain, depth 24"] and verdicts["norm_skip, depth 24"]
    assert verdicts["plain, depth 2"] and verdicts["norm, depth 24"] is None
    assert architecture.check(runs[:1])[0].holds is None
    learned = concluded(tmp_path / "bad", "plain", 24, 99, 0.4)
    verdicts = {line.name: line.holds for line in architecture.check([*runs, learned])}
    assert verdicts["plain, depth 24"] is False
    assert len(architecture.figure(runs[:1]).axes) == 3


@pytest.mark.parametrize(
    "bad", [{"variant": "wide"}, {"norm": "group"}, {"rate": 1.0}, {"depth": 0}, {"steps": 0}]
)
def test_the_door(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(bad))}`"):
        Architecture(**bad)  # type: ignore[arg-type]
