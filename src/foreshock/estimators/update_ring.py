"""Products of successive weight updates in one pass: a ring of rows, or of sketches of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from foreshock.probe.groups import Group, Groups, resolve_groups
from foreshock.probe.view import ModelView

#: Columns converted to float64 at a time; measured best of 4 Ki to 128 Ki at ten rows.
CHUNK = 1 << 16


def update_dots(updates: Tensor, new: Tensor) -> Tensor:
    """Dot products of one update with several, accumulated in float64.

    Near-collinear updates need it: a float32 Gram can misread σ₂ by an order of magnitude.

    Args:
        updates: ``(w, d)``.
        new: ``(d,)``.

    Returns:
        ``(w,)`` float64 on the device, in one pass over ``updates``.

    Examples:
        >>> import torch
        >>> update_dots(torch.eye(2), torch.tensor([3.0, 4.0])).tolist()
        [3.0, 4.0]
    """
    total = torch.zeros(len(updates), dtype=torch.float64, device=updates.device)
    for start in range(0, len(new), CHUNK):
        columns = slice(start, start + CHUNK)
        total += updates[:, columns].double() @ new[columns].double()
    return total


@dataclass(frozen=True)
class Parts:
    """How the weights fall into parts whose products are summed apart.

    Args:
        names: Names of the groups.
        runs: Consecutive parameters of the same groups, as (row of the sums, indices, columns).
        heads: Heads, which need their own products: (row, index, group).
        starts: First column of every parameter.
        assign: ``(1 + groups, rows)`` Zeros and ones: which sums make the whole, and each group.
        shape: Sizes of the parameters.
        weights: Name, shape, type and device of every parameter, to notice that others train.
        unit: Largest relative rounding of a weight, 2^-24 where float32 is the coarsest.
    """

    names: tuple[str, ...]
    runs: tuple[tuple[int, tuple[int, ...], slice], ...]
    heads: tuple[tuple[int, int, Group], ...]
    starts: tuple[int, ...]
    assign: np.ndarray
    shape: tuple[int, ...]
    weights: tuple[tuple[str, tuple[int, ...], str, str], ...]
    unit: float

    @property
    def dtype(self) -> torch.dtype:
        """Type of the updates: float64 if a weight is, else float32."""
        wide = any(kind == str(torch.float64) for _, _, kind, _ in self.weights)
        return torch.float64 if wide else torch.float32


def parts_of(view: ModelView, groups: Groups) -> Parts:
    """Cut the trainable weights by group, small neighbours together.

    Args:
        view: The live weights.
        groups: As `check_groups` gives them.

    Returns:
        The parts.

    Examples:
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
        >>> parts_of(ModelView(model), "layer").assign.tolist()
        [[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]]
    """
    found = resolve_groups(groups, view)
    parameters = view.parameters
    sizes = tuple(p.numel() for p in parameters)
    owners: list[tuple[int, ...]] = [() for _ in sizes]
    heads = []
    for place, members in enumerate(found.values()):
        for index, group in members:
            if group.head is None:
                owners[index] += (place,)
            else:
                heads.append((place, index, group))
    rows = {owner: row for row, owner in enumerate(dict.fromkeys(owners))}
    runs: list[tuple[int, tuple[int, ...], slice]] = []
    starts, start = [], 0
    for index, (owner, size) in enumerate(zip(owners, sizes, strict=True)):
        starts.append(start)
        row, stop = rows[owner], start + size
        if runs and runs[-1][0] == row and stop - runs[-1][2].start <= CHUNK:
            _, members, columns = runs.pop()
            runs.append((row, (*members, index), slice(columns.start, stop)))
        else:
            runs.append((row, (index,), slice(start, stop)))
        start = stop
    assign = np.zeros((1 + len(found), len(rows) + len(heads)))
    for owner, row in rows.items():
        assign[0, row] = 1
        for place in owner:
            assign[1 + place, row] = 1
    for extra, (place, _, _) in enumerate(heads):
        assign[1 + place, len(rows) + extra] = 1
    return Parts(
        tuple(found),
        tuple(runs),
        tuple((len(rows) + i, index, group) for i, (_, index, group) in enumerate(heads)),
        tuple(starts),
        assign,
        sizes,
        tuple(
            (name, tuple(p.shape), str(p.dtype), str(p.device))
            for name, p in zip(view.names, parameters, strict=True)
        ),
        max(torch.finfo(p.dtype).eps for p in parameters) / 2,
    )


def exchange(
    ring: Tensor, slot: int, last: Tensor, parameters: Sequence[Tensor], parts: Parts
) -> Tensor:
    """Put the newest update in place of the oldest, and take its products with all on the way.

    One pass: reads the ring, the last snapshot and the weights, writes one row and the snapshot.

    Args:
        ring: ``(w, d)`` Updates, of `Parts.dtype`; row ``slot`` is overwritten after it was used.
        slot: Row of the oldest.
        last: ``(d,)`` Snapshot before, of the same type; overwritten by this one.
        parameters: Weights now.
        parts: From `parts_of`.

    Returns:
        ``(rows, w + 2)`` float64 For every row of the parts: products of the newest update with the
        rows of the ring as they were, its square, and the square of the weights.
    """
    width = len(ring)
    sums = torch.zeros(parts.assign.shape[1], width + 2, dtype=torch.float64, device=ring.device)
    for row, index, group in parts.heads:
        weights = parameters[index]
        columns = slice(parts.starts[index], parts.starts[index] + weights.numel())
        new = group.take(weights.to(last.dtype)).reshape(-1)
        delta = new - group.take(last[columns].view(weights.shape)).reshape(-1)
        old = [group.take(one.view(weights.shape)).reshape(-1) for one in ring[:, columns]]
        sums[row, : width + 1] += update_dots(torch.stack([*old, delta]), delta)
        sums[row, -1] += new.double().square().sum()
    buffer = torch.empty(width + 1, CHUNK, dtype=torch.float64, device=ring.device)
    for row, members, columns in parts.runs:
        if len(members) == 1:
            weights = parameters[members[0]].reshape(-1)
        else:
            weights = torch.cat([parameters[i].reshape(-1) for i in members])
        for start in range(0, len(weights), CHUNK):
            new = weights[start : start + CHUNK].to(last.dtype)
            here = slice(columns.start + start, columns.start + start + len(new))
            delta = new - last[here]
            block = buffer[:, : len(new)]
            block[:width].copy_(ring[:, here])
            block[width].copy_(delta)
            sums[row, : width + 1] += block @ block[width]
            sums[row, -1] += torch.dot(new, new)
            ring[slot, here] = delta
            last[here] = new
    return sums


def count_sketch(tensors: Sequence[tuple[int, Tensor]], dimensions: int, seed: int) -> Tensor:
    r"""CountSketch of a long vector: each weight goes to one of some sums, with a random sign.

    Linear, so the sketch of an update is a difference of sketches. ⟨Sx, Sy⟩ is unbiased for ⟨x, y⟩
    with variance at most (\|x\|²\|y\|² + ⟨x, y⟩²)/dimensions. Blocks of ``dimensions`` weights
    share one random cyclic shift: two weights still meet with probability 1/dimensions across
    blocks, and never within one, so the variance is that of independent hashes or less. Signs and
    shifts are drawn again each time from the seed; nothing of the size of the weights is kept.

    Args:
        tensors: Pairs (index of the parameter, its values); the index chooses signs and shifts.
        dimensions: Length of the sketch.
        seed: Seed of the private generator.

    Returns:
        ``(dimensions,)`` float64 on the device.

    Examples:
        >>> x = [(0, torch.ones(10))]
        >>> round(count_sketch(x, 64, 0).square().sum().item(), 6)
        10.0
    """
    device = tensors[0][1].device if tensors else torch.device("cpu")
    out = torch.zeros(dimensions, dtype=torch.float64, device=device)
    generator = torch.Generator(device)
    bits = torch.arange(32, dtype=torch.int32, device=device)
    for index, tensor in tensors:
        generator.manual_seed((seed << 20) + index)
        flat = tensor.reshape(-1)
        blocks = -(-len(flat) // dimensions)
        # Shifts stay on the host: they choose slices, and cost no transfer there. Their seed is
        # not that of the signs, or both would be read off the same random words.
        host = torch.Generator().manual_seed((seed << 20) + index + (1 << 60))
        shifts = torch.randint(dimensions, (blocks,), generator=host).numpy()
        for block, shift in enumerate(shifts):
            values = flat[block * dimensions : (block + 1) * dimensions].double()
            words = torch.randint(
                -(2**31),
                2**31 - 1,
                (-(-len(values) // 32), 1),
                generator=generator,
                dtype=torch.int32,
                device=device,
            )
            signs = ((words >> bits) & 1).reshape(-1)[: len(values)]
            signed = torch.where(signs.bool(), values, -values)
            first = min(dimensions - int(shift), len(signed))
            out[shift : shift + first] += signed[:first]
            out[: len(signed) - first] += signed[first:]
    return out


def sketch_parts(view: ModelView, groups: Groups, dimensions: int, seed: int) -> Tensor:
    """Sketch of the whole and of every group.

    Args:
        view: The live weights.
        groups: As `check_groups` gives them.
        dimensions: Length of a sketch.
        seed: Seed.

    Returns:
        ``(1 + groups, dimensions)`` float64. Products of the groups' sketches add up to those of
        the whole within the error of a sketch only.
    """
    parameters = view.parameters
    rows = [count_sketch(list(enumerate(parameters)), dimensions, seed)]
    for members in resolve_groups(groups, view).values():
        taken = [(index, group.take(parameters[index])) for index, group in members]
        rows.append(count_sketch(taken, dimensions, seed).to(rows[0].device))
    return torch.stack(rows)


def exchange_sketch(ring: Tensor, slot: int, last: Tensor, new: Tensor) -> Tensor:
    """`exchange` for sketches.

    Args:
        ring: ``(w, parts, dimensions)`` float64; row ``slot`` is overwritten.
        slot: Row of the oldest.
        last: ``(parts, dimensions)`` Sketches before; overwritten.
        new: Sketches now.

    Returns:
        ``(parts, w + 2)`` as from `exchange`.
    """
    delta = new - last
    dots = torch.einsum("wpd,pd->pw", ring, delta)
    own = delta.square().sum(1, keepdim=True)
    size = new.square().sum(1, keepdim=True)
    ring[slot] = delta
    last.copy_(new)
    return torch.cat([dots, own, size], 1)
