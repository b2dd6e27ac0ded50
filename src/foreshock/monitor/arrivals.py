"""`Arrivals`: each parameter's gradient as it arrived, against what the optimizer is about to use.

A backward pass hands out gradients; before the optimizer uses them they may be clipped, unscaled or
replaced. Every change of the memory that torch knows of (its version counter, another tensor) is
compared at the step it happens. What looks untouched was written to, if at all, past that counter:
through ``.data``, by a kernel of one's own, or by the unscaling of `torch.amp.GradScaler`. It is
compared at the first `FIRST` listened steps and at every `PERIOD`-th after, and at every step from
then on once it was found changed. In between only the norm of the smallest gradient is, which tells
of one factor on all of them. So what goes unseen, for at most ``PERIOD - 1`` listened steps, is a
writer past the counter that *starts* after `FIRST` listened steps and is no such factor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from foreshock.estimators.per_example_forms import NARROW, form, stacked

#: Part of a parameter's gradient that may differ from one factor times what was heard, and of its
#: norm. In 16 bits a scaled gradient is rounded again.
DIFFERENCE, NORMS = {True: 0.05, False: 0.02}, {True: 0.02, False: 0.002}
#: Gradients that look untouched are compared at so many listened steps to begin with,
FIRST = 8
#: and then at every so many. A full comparison reads all gradients twice: some 0.04 steps of a
#: small MLP.
PERIOD = 8


class Arrived(NamedTuple):
    """One parameter's gradients of this step.

    Args:
        form: Bilinear form of their sum.
        norm: Norm of their sum.
        memory: Where the only one arrived. Not the memory itself, which would then be copied
            instead of becoming the parameter's ``.grad``.
        place: Address and strides there.
        version: How often torch had written there.
    """

    form: Tensor
    norm: Tensor
    memory: StorageWeakRef | None = None
    place: tuple[int, tuple[int, ...]] = (0, ())
    version: int = 0

    def untouched(self, gradient: Tensor | None) -> bool:
        """Whether a gradient is the memory that arrived, and torch has not written to it since."""
        return (
            gradient is not None
            and self.memory is not None
            and gradient.layout is torch.strided
            and gradient._version == self.version
            and (gradient.data_ptr(), gradient.stride()) == self.place
            and gradient.untyped_storage()._cdata == self.memory.cdata
        )


class Arrivals:
    """The gradients of one step as they arrived; `compare` says what became of them."""

    def __init__(self) -> None:
        self.held: dict[int, Arrived] = {}
        #: Full comparisons so far, and steps without one since the last.
        self._compared = self._skipped = 0
        #: Whether steps may go without one: nobody has written past torch's counter yet.
        self._trusted = True
        #: The same as found last, on the device until it is needed.
        self._changed: Tensor | None = None
        #: Which gradient is looked at even then.
        self._smallest = 0

    def keep(self, index: int, gradient: Tensor, held: Tensor | None) -> tuple[Tensor, Tensor]:
        """Remember what one backward pass gives a parameter.

        Args:
            index: Which parameter.
            gradient: Its gradient of this pass, dense.
            held: What the parameter's ``.grad`` holds, to which it will be added.

        Returns:
            Form and norm of this gradient.
        """
        wide = gradient.float() if gradient.dtype in NARROW else gradient
        seen, norm = form(wide), torch.linalg.vector_norm(wide)
        earlier = self.held.get(index)
        if earlier is not None:  # an earlier pass of this step
            whole = norm if held is None else norms_of([gradient + held])[0]
            self.held[index] = Arrived(seen + earlier.form, whole)
        else:
            memory = StorageWeakRef(gradient.untyped_storage())
            place = (gradient.data_ptr(), gradient.stride())
            self.held[index] = Arrived(seen, norm, memory, place, gradient._version)
        return seen, norm

    def forget(self) -> None:
        """The step is over."""
        self.held = {}

    def compare(
        self, gradients: Sequence[Tensor | None]
    ) -> tuple[Tensor, Tensor | float, Tensor | None]:
        """What was heard against what the optimizer uses.

        Args:
            gradients: What the optimizer is about to use; at least one is not ``None``.

        Returns:
            The norm of each parameter's gradient as it was heard, the factor between the two, and
            which parameters are not at that factor (``None`` where all look untouched and it is
            not this step's turn to look closer). On an accelerator, a factor that the smallest
            gradient tells of between two comparisons makes all of them count as changed.
        """
        arrived = [self.held.get(index) for index in range(len(gradients))]
        untouched = [a for a, g in zip(arrived, gradients, strict=True) if a and a.untouched(g)]
        looks_untouched = len(untouched) == len(gradients)
        if looks_untouched and self._may_skip():
            spot = gradients[self._smallest]
            assert spot is not None
            norm = untouched[self._smallest].norm
            apart = (norms_of([spot])[0] - norm).abs_() > NORMS[spot.dtype in NARROW] * norm
            there = not _on_host(apart)
            if there or not apart.item():
                self._skipped += 1
                heard = stacked([one.norm for one in untouched])
                return heard, 1.0, apart.expand(len(heard)) if there else None
        heard, factor, altered = _compared(arrived, gradients)
        self._compared += 1
        self._skipped = 0
        if looks_untouched and self._trusted:
            changed = altered.any() | ((factor - 1).abs() > NORMS[True])
            self._changed = changed if self._changed is None else self._changed | changed
            sizes = [gradient.numel() for gradient in gradients if gradient is not None]
            self._smallest = sizes.index(min(sizes))
        return heard, factor, altered

    def _may_skip(self) -> bool:
        if not self._trusted or self._compared < FIRST or self._skipped >= PERIOD - 1:
            return False
        if self._changed is not None:
            # One transfer after a full comparison, of what the device has finished by now.
            self._trusted, self._changed = not self._changed.item(), None
        return self._trusted


def _compared(
    arrived: Sequence[Arrived | None], gradients: Sequence[Tensor | None]
) -> tuple[Tensor, Tensor, Tensor]:
    present = [_dense(g) for g in gradients if g is not None]
    zero = torch.zeros((), device=present[0].device)
    nothing = Arrived(zero, zero)
    unused = [g is None for g in gradients]
    totals = [
        nothing if one is None or empty else one for one, empty in zip(arrived, unused, strict=True)
    ]
    heard = stacked([t.norm for t in totals])
    norms, along = iter(norms_of(present)), iter([form(g) for g in present])
    used = stacked([zero if empty else next(norms) for empty in unused])
    size = (heard * heard).sum()
    factor = torch.where(size > 0, (used * used).sum() / size, 1.0).sqrt()
    ranks = torch.distributed.is_available() and torch.distributed.is_initialized()
    if ranks and torch.distributed.get_world_size() > 1:
        return heard, torch.ones_like(factor), heard < 0
    narrow = any(g.dtype in NARROW for g in present)
    scale = factor * heard
    least = 1e-6 * factor * size.sqrt()  # a parameter whose gradient is rounding alone
    seen = stacked([zero if empty else next(along) for empty in unused])
    expected = factor * stacked([t.form for t in totals])
    far = (seen - expected).abs() > DIFFERENCE[narrow] * scale + least
    return heard, factor, far | ((used - scale).abs() > NORMS[narrow] * scale + least)


def _on_host(tensor: Tensor) -> bool:
    return tensor.is_cpu


def _dense(tensor: Tensor) -> Tensor:
    return tensor.to_dense() if tensor.is_sparse else tensor


def norms_of(tensors: list[Tensor]) -> Sequence[Tensor]:
    """Norm of each tensor, without overflow of 16-bit numbers."""
    return torch._foreach_norm([t.float() if t.dtype in NARROW else t for t in tensors])
