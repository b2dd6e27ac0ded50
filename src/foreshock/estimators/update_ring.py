"""Products of successive weight updates in one pass: a ring of rows, or of sketches of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

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


class Hashing(NamedTuple):
    """Where a sketch puts every column, and with which sign.

    Args:
        signs: ``(pages, m)`` float64 ±1, one row for every m blocks.
        shifts: ``(blocks,)`` Rotation of every block of m columns, distinct within a page.
        flips: ``(blocks,)`` ±1, one sign for every block.
    """

    signs: Tensor
    shifts: np.ndarray
    flips: np.ndarray


def draw_hashing(columns: int, dimensions: int, seed: int, device: torch.device) -> Hashing:
    """Draw a `Hashing`: a few numbers a block, and one sign vector, whatever the device.

    Args:
        columns: Length of the vectors to sketch.
        dimensions: Length of the sketch, m.
        seed: Seed.
        device: Where the signs shall lie.

    Returns:
        The hashing; the same for the same arguments.

    Examples:
        >>> found = draw_hashing(1000, 64, 0, torch.device("cpu"))
        >>> len(found.shifts), len(set(found.shifts.tolist())), tuple(found.signs.shape)
        (16, 16, (1, 64))
    """
    # Not a torch generator: on the host it reads 32 bits of its seed only, and a model initialised
    # with the same ones would be sketched with the bits its own weights were made from.
    rng = np.random.default_rng([seed, dimensions])
    blocks = max(-(-columns // dimensions), 1)
    pages = -(-blocks // dimensions)
    signs = 2.0 * rng.integers(0, 2, (pages, dimensions)) - 1
    sizes = [min(dimensions, blocks - page * dimensions) for page in range(pages)]
    shifts = np.concatenate([rng.choice(dimensions, size, replace=False) for size in sizes])
    flips = 2 * rng.integers(0, 2, blocks) - 1
    return Hashing(torch.from_numpy(signs).to(device), shifts, flips)


def add_sketch(out: Tensor, start: int, values: Tensor, hashing: Hashing) -> None:
    """Add the sketch of consecutive columns of a long vector.

    Args:
        out: ``(m,)`` float64, written in place.
        start: First column.
        values: ``(n,)`` Numbers in columns ``start`` to ``start + n``; of any type and device.
        hashing: From `draw_hashing`.
    """
    size, done = len(out), 0
    buffer = out.new_empty(min(size, len(values)))
    while done < len(values):
        block, first = divmod(start + done, size)
        last = min(size, first + len(values) - done)
        piece = buffer[: last - first]
        piece.copy_(values[done : done + last - first])
        signs = hashing.signs[block // size]
        shift, flip = int(hashing.shifts[block]), int(hashing.flips[block])
        turn = min(max(size - shift, first), last)  # columns from here on come round to the front
        for low, high, place in ((first, turn, shift), (turn, last, shift - size)):
            if low < high:
                target = out[low + place : high + place]
                target.addcmul_(piece[low - first : high - first], signs[low:high], value=flip)
        done += last - first


def count_sketch(tensors: Sequence[Tensor], dimensions: int, seed: int) -> Tensor:
    r"""CountSketch of a long vector, in one read of it and with no hash of its length.

    The tensors are laid end to end and cut into blocks of m = ``dimensions`` columns. Column j of
    block b is added to sum (j + r_b) mod m with the sign a_j c_b: one vector of m random signs a
    for all blocks, which stays in the cache, and for every block a rotation r_b, all distinct, and
    a sign c_b. In float64, so that the difference of two sketches is the sketch of the update.

    **Unbiased**: ⟨Sx, Sy⟩ = ⟨x, y⟩ + Σ_{b≠b'} c_b c_b' T_bb', for within a block nothing meets, and
    the signs c of two blocks are independent.

    **Variance** at most (\|x\|²\|y\|² + ⟨x, y⟩²)/(m - 1), as of independent hashes. T_bb' = Σ_j a_j
    a_{j+s} x_b[j] y_b'[j+s] with s = r_b - r_b' ≠ 0 mod m; terms of other pairs of blocks have
    other signs c, and those of other j other signs a, so that squares add up:
    E T² = Σ_j x_b[j]² y_b'[j+s]². s takes every value but 0 equally often, which makes it at most
    \|x_b\|²\|y_b'\|²/(m-1); sum over b ≠ b', with the products T_bb' T_b'b. (For even m and
    s = m/2, j and j + s have the same pair of signs; vectors made for it reach twice the bound.)
    Were rotations not distinct, a would cancel at s = 0, and whole blocks would meet.

    After m blocks, m² columns, rotations repeat with a fresh a.

    **Several vectors at once.** S acts on their span of W dimensions, where it distorts every
    length by a factor of 1 ± sqrt(W/m) or so; singular values therefore err in proportion to
    *themselves*, however small beside the largest, by 1/sqrt(2m) (one standard deviation). Less if
    one block holds much of them; with heavier tails if a few hundred weights hold all of them
    (5 standard deviations once in 600).

    Args:
        tensors: Pieces of the vector, in order; of any floating type.
        dimensions: Length of the sketch.
        seed: Seed of the private generator.

    Returns:
        ``(dimensions,)`` float64 on the device of the first.

    Examples:
        >>> x = [torch.ones(10)]
        >>> round(count_sketch(x, 64, 0).square().sum().item(), 6)
        10.0
    """
    device = tensors[0].device if tensors else torch.device("cpu")
    out = torch.zeros(dimensions, dtype=torch.float64, device=device)
    hashing = draw_hashing(sum(t.numel() for t in tensors), dimensions, seed, device)
    start = 0
    for tensor in tensors:
        add_sketch(out, start, tensor.reshape(-1), hashing)
        start += tensor.numel()
    return out


def sketch_parts(parameters: Sequence[Tensor], parts: Parts, dimensions: int, seed: int) -> Tensor:
    """Sketch of the whole and of every group, in one read of the weights (heads are read again).

    Args:
        parameters: Weights now.
        parts: From `parts_of`.
        dimensions: Length of a sketch.
        seed: Seed.

    Returns:
        ``(1 + groups, dimensions)`` float64. Sketches of groups without overlap add up to that of
        the whole; their products do so within the error of a sketch only.
    """
    device = parameters[0].device
    rows = torch.zeros(parts.assign.shape[1], dimensions, dtype=torch.float64, device=device)
    hashing = draw_hashing(sum(parts.shape), dimensions, seed, device)
    for row, members, _ in parts.runs:
        for index in members:
            add_sketch(rows[row], parts.starts[index], parameters[index].reshape(-1), hashing)
    for row, index, group in parts.heads:
        taken = group.take(parameters[index]).reshape(-1)
        add_sketch(rows[row], parts.starts[index], taken, hashing)
    out = torch.zeros(len(parts.assign), dimensions, dtype=torch.float64, device=device)
    for target, used in zip(out, parts.assign, strict=True):
        for row in np.flatnonzero(used):
            target += rows[row]
    return out


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
    sums = []
    for part, now in enumerate(new):
        # Part by part, while it is in the cache.
        delta = now - last[part]
        own = torch.stack([torch.dot(delta, delta), torch.dot(now, now)])
        sums.append(torch.cat([ring[:, part] @ delta, own]))
        ring[slot, part] = delta
        last[part] = now
    return torch.stack(sums)
