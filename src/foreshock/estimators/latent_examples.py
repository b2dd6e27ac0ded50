"""Which examples of a probe become particles."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreshock.probe.moment import Moment
from foreshock.probe.view import batch_size

Examples = Literal["auto", "train", "heldout", "batch", "fresh"]
EXAMPLES = ("auto", "train", "heldout", "batch", "fresh")
Labels = NDArray[np.int64] | None
#: Of so many batches one may hold particles: it gives no displacement then.
BATCHES_FOR_ONE = 8


class NoParticlesError(ValueError):
    """There is nothing to follow; the sentence says why."""


@dataclass(frozen=True)
class Chosen:
    """Batches for the loss.

    Args:
        batches: What the loss is given.
        labels: Classes of their rows where they are known.
        drawn: How many of the moment's batches they are made of: these were the first ones.
    """

    batches: tuple[Any, ...]
    labels: Labels
    drawn: int = 0


def examples_of(moment: Moment, examples: Examples, count: int, seed: int) -> Chosen:
    """Batches for the loss that hold ``count`` examples or some more, where there are as many.

    Twice as many are taken where a batch can be cut, since copies are left out later. Of the
    probe's own batches at most one in eight is used.

    Args:
        moment: When; its batches are drawn already.
        examples: Which, as in `LatentFlow`.
        count: How many particles are wanted.
        seed: Of the choice among more.

    Returns:
        The batches.

    Raises:
        NoParticlesError: If the probe does not have such examples.
    """
    probe = moment.probe
    assert probe is not None
    drawn = [one.batch for one in moment.batch_gradients]
    pairs = bool(drawn) and all(_is_pair(batch) for batch in drawn)
    if examples == "auto":
        # The loss is made for the probe's batches; other examples fit it only if they look alike.
        examples = "batch"
        if pairs and _is_pair(probe.train):
            examples = "train"
        elif pairs and _is_pair(probe.heldout):
            examples = "heldout"
    if examples in ("train", "heldout"):
        pair = probe.train if examples == "train" else probe.heldout
        if not _is_pair(pair):
            raise NoParticlesError(
                f"`examples={examples!r}` needs Probe({examples}=(inputs, labels)) of two tensors."
            )
        return replace(_thinned([pair], 2 * count, seed, pairs=True), drawn=0)
    if not drawn:
        raise NoParticlesError("The probe returned no batch at this step.")
    if examples == "fresh":
        seed = (seed * 1_000_003 + moment.step) % 2**63
    return _thinned(drawn, 2 * count, seed, pairs=pairs)


def _thinned(drawn: list[Any], count: int, seed: int, *, pairs: bool) -> Chosen:
    """Rows of the first batch if it is large enough and can be cut; else the first batches."""
    size = batch_size(drawn[0]) or 1
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    first = cut(drawn[0], order[:count].sort().values) if size > count else None
    needed, rows = 0, 0
    most = max(1, len(drawn) // BATCHES_FOR_ONE)
    while needed < most and rows < count:
        rows += batch_size(drawn[needed]) or 1
        needed += 1
    batches = drawn[:needed] if first is None else [first]
    labels = [_classes(batch[1]) for batch in batches] if pairs else []
    known = [one for one in labels if one is not None]
    whole = np.concatenate(known) if known and len(known) == len(batches) else None
    return Chosen(tuple(batches), whole, len(batches))


def cut(batch: Any, rows: Tensor) -> Any | None:
    """Some rows of a batch: of every tensor in it, which all must have one row an example.

    Args:
        batch: A tensor, or tuples, lists and mappings of them.
        rows: (m,) Which.

    Returns:
        A batch of the same form, or None if a part of it is not one row an example.

    Examples:
        >>> cut({"x": torch.arange(4), "name": "a"}, torch.tensor([0, 2]))
        {'x': tensor([0, 2]), 'name': 'a'}
        >>> cut((torch.ones(4, 2), torch.ones(3)), torch.tensor([0])) is None
        True
    """
    size = batch_size(batch)
    try:
        return None if size is None else _cut(batch, rows, size)
    except _OtherLengthError:
        return None


class _OtherLengthError(Exception):
    """A tensor in the batch has not one row an example."""


def _cut(part: Any, rows: Tensor, size: int) -> Any:
    if isinstance(part, Tensor):
        if part.ndim == 0 or len(part) != size:
            raise _OtherLengthError
        return part[rows.to(part.device)]
    if isinstance(part, Mapping):
        fresh = copy.copy(part)
        for key, value in part.items():
            fresh[key] = _cut(value, rows, size)  # pyrefly: ignore
        return fresh
    if isinstance(part, (tuple, list)):
        parts = [_cut(one, rows, size) for one in part]
        return type(part)(*parts) if hasattr(part, "_fields") else type(part)(parts)
    return part


def _is_pair(batch: Any) -> TypeGuard[tuple[Tensor, Tensor]]:
    """Whether a batch is (inputs, targets), row by row."""
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        return False
    x, y = batch
    return isinstance(x, Tensor) and isinstance(y, Tensor) and x.ndim > 0 and len(x) == len(y)


def _classes(labels: Tensor) -> Labels:
    """Class indices, one a row; None for regression targets and sequences of tokens."""
    if labels.ndim != 1 or labels.dtype.is_floating_point or labels.dtype.is_complex:
        return None
    return labels.cpu().numpy().astype(np.int64)
