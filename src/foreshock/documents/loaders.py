"""Batches taken from a user's loader for a measurement, with the loader left where it stood."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import torch

from foreshock.probe.quiet import quiet


def borrow(dataloader: Iterable[Any], count: int | None, *, seed: int) -> list[Any]:
    """The first batches of a loader, drawn with private random numbers.

    The global generators, and those of a `torch.utils.data.DataLoader` and its samplers, stand
    afterwards as they stood. A generator that a dataset keeps to itself cannot be seen: where there
    is one, pass a list of batches.

    Args:
        dataloader: A loader, or a list of batches.
        count: How many; all if None.
        seed: Of the order of the examples.

    Returns:
        Batches, fewer than `count` if there are no more.

    Raises:
        ValueError: If it is an iterator, whose batches would be taken away from training.

    Examples:
        >>> borrow([1.0, 2.0, 3.0], 2, seed=0)
        [1.0, 2.0]
    """
    if isinstance(dataloader, Iterator) or not isinstance(dataloader, Iterable):
        raise ValueError(
            "The `dataloader` must be a loader or a list of batches, which can be read again. Got "
            f"{type(dataloader).__name__}; the batches of an iterator would be missing in training."
        )
    generators = _generators(dataloader)
    states = [generator.get_state() for generator in generators]
    if getattr(dataloader, "_iterator", None) is not None:
        # Persistent workers serve one pass at a time: theirs may be under way.
        dataloader = copy.copy(dataloader)
        object.__setattr__(dataloader, "_iterator", None)
    try:
        with quiet(seed):
            for generator in generators:
                generator.manual_seed(seed)
            return list(islice(iter(dataloader), count))
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


def _generators(loader: Any) -> list[torch.Generator]:
    """The generators of a loader, its sampler and its batch sampler, each once."""
    batches = getattr(loader, "batch_sampler", None)
    places = (loader, getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None))
    found = [getattr(place, "generator", None) for place in places]
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())
