"""Norms of small and large batches of one step, from per-example norms or from ranks.

Both feed `foreshock.stats.norm_noise`, which needs a block of steps; the block is the state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from foreshock.estimators.per_example import per_example_norms, squared_norm
from foreshock.probe.examples import ExampleNorms
from foreshock.probe.groups import Group
from foreshock.probe.moment import Moment
from foreshock.stats.norm_noise import BLOCK, NormRow, norm_noise
from foreshock.types import Estimate, Flag

Parts = Mapping[str, Sequence[tuple[int, Group]]]
NOTHING_HEARD = (
    "No forward pass of the model could be listened to in this step: it is compiled, or its parts "
    "are called one by one. Give `attach` a Probe, for one extra eager pass instead."
)
NOT_FINITE = (
    "A per-example gradient contains nan or inf, or a parameter is also used outside the model's "
    "forward pass (a penalty in the loss), where nobody listened."
)
ALTERED = (
    "What the optimizer uses is not one factor times the gradient of this step's backward passes: "
    "`.grad` was changed, clipped in part, or not set to zero before them."
)
ZERO = "All gradients of this step are zero: does no example count (ignored targets)?"
HEADS = "Per-example norms are taken parameter by parameter and cannot be cut into heads."


@dataclass(frozen=True)
class NormBlock:
    """The last measured steps, for the whole (``""``) and for each part.

    Args:
        kind: Where the norms come from; a block never mixes two sources.
        rows: Steps by part, oldest first.
    """

    kind: str = ""
    rows: Mapping[str, tuple[NormRow, ...]] = field(default_factory=dict)

    def add(self, kind: str, rows: Mapping[str, NormRow]) -> NormBlock:
        """The block with one more step; a new one where the source changed."""
        old = self.rows if kind == self.kind else {}
        new = {name: (*old.get(name, ()), row)[-BLOCK:] for name, row in rows.items()}
        return NormBlock(kind, {**old, **new})

    def without(self, parts: Sequence[str]) -> NormBlock:
        """The block, with some parts begun anew."""
        return NormBlock(self.kind, {n: r for n, r in self.rows.items() if n not in parts})


def from_examples(
    block: NormBlock, moment: Moment, parts: Parts
) -> tuple[NormBlock, dict[str, Estimate]]:
    """Signal and noise with single examples as the small batches.

    Uses the norms of the step's own backward pass. Of a model that cannot be listened to, since it
    is compiled or its parts are called one by one, it takes those of one extra eager pass on the
    probe's first batch, in evaluation mode.

    Args:
        block: The steps so far.
        moment: This step.
        parts: Parts of the model to give beside the whole.

    Returns:
        The next block, and estimates as ``name`` and ``name@part``. What is not covered in full is
        missing and says what is in the way.
    """
    norms, kind = moment.examples, "backward"
    if norms is None and moment.probe is not None:
        batches = moment.view.draw(moment.probe, moment.step)[:1]
        if not batches:
            empty = "The probe returned no batch at this step."
            return block, _missing(empty, Flag.UNRESOLVED, parts)
        norms, kind = per_example_norms(moment.view, moment.probe.loss, batches[0]), "probe"
    if norms is None:
        return block, _missing(NOTHING_HEARD, Flag.UNRESOLVED, parts)
    if not norms.n:
        return block, _missing(norms.reason, norms.flags, parts)
    members: dict[str, list[int]] = {"": list(range(len(norms.names)))}
    members |= {part: [index for index, _ in found] for part, found in parts.items()}
    whys = {
        part: why
        for part, chosen in members.items()
        if (why := _not_covered(norms, chosen, parts.get(part, ())))
    }
    usable = [part for part in members if part not in whys]
    rows: dict[str, NormRow] = {}
    if usable:
        pairs = [norms.total(members[part]) for part in usable]
        none = torch.zeros((), dtype=torch.float64, device=norms.squares.device)
        changed = [
            none if norms.altered is None else norms.altered[members[part]].any().double()
            for part in usable
        ]
        host = torch.stack(
            [
                torch.stack([small.mean(), big, other])
                for (small, big), other in zip(pairs, changed, strict=True)
            ]
        ).tolist()
        for part, (small, big, other) in zip(usable, host, strict=True):
            rows[part] = NormRow(small, big, 1, norms.n)
            if other:
                whys[part] = ALTERED
            elif small == 0.0:
                whys[part] = ZERO
    for part, row in rows.items():
        if part not in whys and not row.usable:
            whys[part] = (
                "One example has no variance: measure with a batch of at least 2."
                if norms.n < 2
                else NOT_FINITE
            )
    # One step with a gradient from elsewhere tells of others where it was not noticed.
    block = block.without([part for part in rows if whys.get(part) in (ALTERED, NOT_FINITE)])
    block = block.add(kind, {part: row for part, row in rows.items() if part not in whys})
    out: dict[str, Estimate] = {}
    for part in members:
        if part in whys:
            out |= _named(part, norm_noise([]), whys[part])
        else:
            out |= _named(part, norm_noise(block.rows[part]))
    return block, out


def from_ranks(
    block: NormBlock, moment: Moment, batch_size: int | None
) -> tuple[NormBlock, dict[str, Estimate]]:
    """Signal and noise with the batches of the data-parallel ranks as the small ones.

    Each rank's own gradient is heard before the average. One all-reduce of five numbers, in which
    **every** rank has to take part: attach on all of them, with one fixed ``every``. Ranks are
    taken to have batches of one size. What the optimizer uses is g = f mean_r(g_r) with an unknown
    f (clipping, loss scale), recovered as f = |g|²/(mean_r(g_r)·g).

    Args:
        block: The steps so far.
        moment: This step, with the gradient of this rank in ``local``.
        batch_size: Examples in one rank's step, if known.

    Returns:
        The next block and the estimates.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        sentence = "There is one process: noise from ranks needs torch.distributed."
        return block, _missing(sentence, Flag.UNRESOLVED, {})
    used = [g for g in moment.gradients if g is not None]
    own = [t for t, g in zip(moment.local, moment.gradients, strict=False) if g is not None]
    device = moment.view.live_parameters[0].device
    numbers = torch.full((3,), float("nan"), dtype=torch.float64, device=device)
    if used and len(own) == len(used):
        along = [(t.double() * g.double()).sum() for t, g in zip(own, used, strict=True)]
        numbers = torch.stack([_square(own), torch.stack(along).sum(), _square(used)])
    # A rank without a gradient still takes part, or the others would wait for it.
    ranks = torch.distributed.get_world_size()
    torch.distributed.all_reduce(numbers)
    small, along, big = (numbers / ranks).tolist()
    unit = float(batch_size or 1)
    factor = big / along if along else 1.0
    row = NormRow(small * factor**2, big, unit, unit * ranks)
    if not row.usable:
        sentence = (
            "There is one rank, so nothing to compare."
            if ranks == 1
            else "A rank had no gradient at this step, or one that is not finite."
        )
        return block, _missing(sentence, Flag.UNRESOLVED, {})
    block = block.add("ranks", {"": row})
    return block, norm_noise(block.rows[""], sized=batch_size is not None)


def _square(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack([squared_norm(t) for t in tensors]).sum()


def _not_covered(
    norms: ExampleNorms, chosen: Sequence[int], members: Sequence[tuple[int, Group]]
) -> str:
    if not chosen:
        return "The group finds no trainable parameter."
    if any(group.head is not None for _, group in members):
        return HEADS
    if all(norms.covered[i] for i in chosen):
        return ""
    return f"{norms.reason} Covered: {norms.coverage:.0%} of the weights. Use source='probe'."


def _named(part: str, found: Mapping[str, Estimate], why: str = "") -> dict[str, Estimate]:
    tail = f"@{part}" if part else ""
    return {f"{n}{tail}": Estimate.missing(why) if why else e for n, e in found.items()}


def _missing(reason: str, flags: Flag, parts: Parts) -> dict[str, Estimate]:
    missing = Estimate.missing(reason, flags=flags | Flag.UNRESOLVED)
    tails = ["", *(f"@{part}" for part in parts)]
    return {f"{name}{tail}": missing for tail in tails for name in norm_noise([])}
