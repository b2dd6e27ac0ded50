"""What the experiments share: the door of a configuration, and modules made from a seed."""

from __future__ import annotations

import math
import typing
from dataclasses import fields
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch

from foreshock.experiments import NAMES, experiment
from foreshock.experiments.setup import at_least, one_of, seeded

CONFIGS = [experiment(name).config for name in NAMES]


@pytest.mark.parametrize("least", [0, 1])
@pytest.mark.parametrize("got", [-1, -0.5, math.nan, math.inf, -math.inf])
def test_too_small_infinite_and_nan_are_refused(got: float, least: int) -> None:
    with pytest.raises(ValueError, match=r"The `lr` of `SimpleNamespace` must be .*at least") as e:
        at_least(SimpleNamespace(lr=got), lr=least)
    assert str(e.value).endswith(f"at least {least}. Got {got}.")
    assert ("finite and" in str(e.value)) is not math.isfinite(got)
    at_least(SimpleNamespace(lr=least, steps=10**30), lr=least, steps=least)


def test_an_unknown_value_is_refused_and_the_known_ones_named() -> None:
    one_of(SimpleNamespace(size="small"), size={"small": 1, "large": 2})
    with pytest.raises(ValueError) as e:
        one_of(SimpleNamespace(size="vast"), size={"small": 1, "large": 2})
    told = "The `size` of `SimpleNamespace` must be one of ('small', 'large'). Got 'vast'."
    assert str(e.value) == told


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.__name__)
def test_every_door_names_field_and_class(config: Any) -> None:
    hints = typing.get_type_hints(config)
    for field in fields(config):
        if field.name in ("seed", "budget", "observables"):
            continue  # any seed is one; `attach` looks at what is measured
        kind = hints[field.name]
        bad = [-1, math.nan] if kind in (int, float) else ["nonsense"] if get_args(kind) else []
        for value in bad:
            with pytest.raises(ValueError, match=f"`{field.name}` of `{config.__name__}` must"):
                config(**{field.name: value})


def test_what_is_made_from_a_seed_is_that_of_torch_and_moves_nothing() -> None:
    before = torch.get_rng_state()
    made = seeded(5, lambda: torch.nn.Linear(3, 2)).weight
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ZeroDivisionError):
        seeded(5, lambda: torch.rand(3) / (1 // 0))
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        assert torch.equal(made, torch.nn.Linear(3, 2).weight)
