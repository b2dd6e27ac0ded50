"""Presets: every name resolves, what lacks something says what to pass, nothing is named twice."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from foreshock.estimators import (
    Curvature,
    GradientNoise,
    LossConflict,
    Norms,
    catalogue,
    published_catalogue,
)
from foreshock.monitor.presets import BY_NAME, PRESETS, REMEDY, choose
from foreshock.probe import Probe
from tests.cases import CASES, loss

CASE = CASES["mlp"]
BATCHES = [CASE.batch(8, i) for i in range(4)]
INPUTS, LABELS = CASE.batch(8, 9)
#: Offers all that a probe can.
WHOLE = Probe(
    loss,
    BATCHES,
    heldout=(INPUTS, LABELS),
    train=(INPUTS, LABELS),
    losses={"one": loss, "two": lambda m, b: m(b[0]).square().mean()},
)
#: A probe that offers everything but one thing, for each thing that can be lacking.
LACKING: dict[str, Probe | None] = {
    "probe": None,
    "heldout": Probe(loss, BATCHES, losses=WHOLE.losses),
    "train": Probe(loss, [INPUTS] * 4, heldout=WHOLE.heldout, losses=WHOLE.losses),
    "inputs": Probe(
        loss, BATCHES, heldout=WHOLE.heldout, train=([{"x": 1}] * 8, LABELS), losses=WHOLE.losses
    ),
    "losses": Probe(loss, BATCHES, heldout=WHOLE.heldout, losses={"one": loss}),
}


def names(asked: Any, probe: Probe | None) -> list[str]:
    return [one.name for one in choose(asked, probe).observables]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_whole_probe_leaves_nothing_out(preset: str) -> None:
    choice = choose(preset, WHOLE)
    assert choice.left_out == ()
    assert [type(one) for one in choice.observables] == list(PRESETS[preset])


def test_each_preset_holds_the_cheaper_one() -> None:
    order = [set(PRESETS[name]) for name in ("free", "standard", "full", "research")]
    assert all(less < more for less, more in zip(order, order[1:], strict=False))


def test_published_observables_are_asked_for_by_name_only() -> None:
    published = {type(one) for one in published_catalogue()}
    assert published and all(not published & set(preset) for preset in PRESETS.values())
    for one in published_catalogue():
        assert names([one.name], WHOLE) == [one.name]


def test_every_member_of_the_catalogue_is_reachable_by_name() -> None:
    members = [*catalogue(), *published_catalogue()]
    assert sorted(BY_NAME) == sorted(one.name for one in members)
    for one in members:
        (found,) = choose([one.name], WHOLE).observables
        assert found == one


def test_of_a_preset_without_a_probe_the_micro_batches_remain() -> None:
    for preset in PRESETS:
        chosen = choose(preset, None).observables
        sources = [one.source for one in chosen if isinstance(one, GradientNoise)]
        assert sources == ["accumulation"]
        assert all("probe" not in one.needs for one in chosen)


@pytest.mark.parametrize("thing", REMEDY)
def test_what_lacks_something_is_left_out_with_the_remedy(thing: str) -> None:
    choice = choose("research", LACKING[thing])
    needing = {one.name for one in catalogue() if thing in one.needs} - {"gradient_noise"}
    left = {name: sentence for name, sentence in choice.left_out if thing in sentence.split(":")[0]}
    assert needing and set(left) == needing
    for sentence in left.values():
        assert sentence.startswith("needs ") and REMEDY[thing] in sentence
    kept = {one.name for one in choice.observables}
    assert not kept & {name for name, _ in choice.left_out}
    expected = {one.name for one in catalogue()}
    assert kept | {name for name, _ in choice.left_out} == expected


@pytest.mark.parametrize("thing", REMEDY)
def test_what_is_named_must_be_possible(thing: str) -> None:
    for one in catalogue():
        if thing in one.needs:
            with pytest.raises(ValueError, match=f"The observable '{one.name}' needs") as caught:
                choose([one.name], LACKING[thing])
            assert REMEDY[thing] in str(caught.value)


def test_batches_of_pairs_stand_in_for_training_examples() -> None:
    probe = Probe(loss, BATCHES, heldout=WHOLE.heldout)
    assert names(["ridge_signal"], probe) == ["ridge_signal"]
    fresh = Probe(loss, lambda step: BATCHES, heldout=WHOLE.heldout)  # has no fixed examples
    with pytest.raises(ValueError, match="train=.inputs, labels"):
        choose(["ridge_signal"], fresh)


@pytest.mark.parametrize("kind", [torch.float32, torch.complex64])
def test_targets_of_a_regression_are_no_classes(kind: torch.dtype) -> None:
    probe = Probe(loss, BATCHES, heldout=(INPUTS, LABELS.to(kind)), train=(INPUTS, LABELS.to(kind)))
    with pytest.raises(ValueError, match="class indices as labels"):
        choose(["heldout_signal"], probe)
    left = dict(choose("full", probe).left_out)
    assert {"heldout_signal", "ridge_signal"} <= set(left) and "ntk" not in left


def test_labels_may_be_a_list_of_numbers() -> None:
    probe = Probe(loss, BATCHES, heldout=(INPUTS, LABELS.tolist()))
    assert names(["heldout_signal"], probe) == ["heldout_signal"]


def test_two_that_write_one_series_are_refused() -> None:
    for pair in (["norms", Norms()], [GradientNoise(), GradientNoise("accumulation")]):
        with pytest.raises(ValueError, match="both write .* Keep one of them"):
            choose(pair, WHOLE)


def test_names_and_objects_mix_in_their_order() -> None:
    mine = Curvature(cold_every=5)
    chosen = choose(["norms", mine, LossConflict()], WHOLE).observables
    assert chosen == (Norms(), mine, LossConflict())
    assert choose([], WHOLE).observables == ()
    assert names(iter(["norms"]), None) == ["norms"]


def test_what_is_not_understood_is_said() -> None:
    with pytest.raises(ValueError, match=r"one of \['free', .* write observables=\['norms'\]"):
        choose("norms", WHOLE)
    with pytest.raises(ValueError, match="no observable 'norm'. The names are .*'norms'"):
        choose(["norm"], WHOLE)
    for wrong in (Norms, 3):
        with pytest.raises(ValueError, match="must be names or objects such as"):
            choose([wrong], WHOLE)  # type: ignore[list-item]
