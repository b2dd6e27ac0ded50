"""Batches taken from a user's loader for a measurement, with the loader left where it stood."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import torch

from foreshock.probe.quiet import quiet


def borrow(dataloader: Iterable[Any], count: int, *, seed: int) -> list[Any]:
    """The first batches of a loader, drawn with private random numbers; see `lent`.

    Args:
        dataloader: A loader, or a list of batches.
        count: How many.
        seed: Of the order of the examples.

    Returns:
        Batches, fewer than `count` if there are no more.

    Examples:
        >>> borrow([1.0, 2.0, 3.0], 2, seed=0)
        [1.0, 2.0]
    """
    check_loader(dataloader)
    with lent(dataloader, seed=seed) as batches:
        return list(islice(iter(batches), count))


def check_loader(dataloader: Any) -> None:
    """Refuse what cannot be read again.

    Args:
        dataloader: A loader, or a list of batches.

    Raises:
        ValueError: If it is an iterator, whose batches would be taken away from training.
    """
    if isinstance(dataloader, Iterator) or not isinstance(dataloader, Iterable):
        raise ValueError(
            "The `dataloader` must be a loader or a list of batches, which can be read again. Got "
            f"{type(dataloader).__name__}; the batches of an iterator would be missing in training."
        )


@contextlib.contextmanager
def lent(dataloader: Any, *, seed: int) -> Iterator[Any]:
    """A loader to read within the block, which is `quiet`, one batch at a time.

    The global generators, and those of a `torch.utils.data.DataLoader` and its samplers, stand
    afterwards as they stood, and workers of its own serve this reading. A generator that a dataset
    keeps to itself, or a dataset that can be read once, cannot be seen: where there is one, pass a
    list of batches.

    Args:
        dataloader: A loader, a list, or anything else, which is handed through.
        seed: Of the order of the examples.

    Yields:
        The loader, or one like it.

    Examples:
        >>> with lent([1.0, 2.0], seed=0) as batches:
        ...     sum(batches)
        3.0
    """
    generators = _generators(dataloader)
    states = [generator.get_state() for generator in generators]
    if hasattr(dataloader, "_iterator"):
        # Persistent workers serve one pass at a time, and theirs may be under way; where they are
        # not begun yet, their seeds would be drawn here instead of in training.
        dataloader = copy.copy(dataloader)
        object.__setattr__(dataloader, "_iterator", None)
    try:
        with quiet(seed):
            for generator in generators:
                generator.manual_seed(seed)
            yield dataloader
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


def _generators(loader: Any) -> list[torch.Generator]:
    """The generators of a loader, its sampler and its batch sampler, each once."""
    batches = getattr(loader, "batch_sampler", None)
    places = (loader, getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None))
    found = [getattr(place, "generator", None) for place in places]
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())
