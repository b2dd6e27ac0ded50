"""Spectrum of the last W updates: singular values, gaps, and what pure noise would give."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from foreshock.probe.moment import Moment
from foreshock.stats.window import window_pending, window_spectrum
from foreshock.types import Estimate, Flag, Readings, SeriesInfo

#: Columns converted to float64 at a time: 64 Ki doubles a row stay in the cache.
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
class WindowState:
    """Ring of updates, their dot products, and where the ring stands. Consumed by the next call."""

    last: Tensor | None = None
    last_step: int = -1
    ring: Tensor | None = None
    gram: np.ndarray | None = None
    count: int = 0
    spacing: int = 0


@dataclass(frozen=True)
class UpdateWindow:
    """Singular values, gaps and k* of the last W updates, against noise of equal norms.

    An update is the difference of two weight snapshots ``stride`` steps apart (preconditioning,
    momentum and decay included), in float32, tied weights once, uncentred. k* = argmax σ_j/σ_{j+1}
    exists for pure noise as well, so a ratio inside the noise band is flagged ``no_edge``. Nothing
    here announces anything by itself; the level mostly reads the autocorrelation of the updates.

    Cost: one pass over W stored updates a snapshot, and W + 1 float32 copies of the weights.

    Args:
        width: Updates in the window, W.
        stride: Steps between snapshots. A budget may lengthen it, which empties the window.
        draws: Monte Carlo draws of the null.

    Raises:
        ValueError: If ``width`` is below 3, or ``stride`` or ``draws`` is too small.

    Examples:
        >>> UpdateWindow(width=2)
        Traceback (most recent call last):
        ...
        ValueError: The `width` of `UpdateWindow` must be at least 3. Got 2.
    """

    width: int = 10
    stride: int = 10
    draws: int = 199
    name: str = "update_window"
    needs: frozenset[str] = frozenset()
    price: float = 0.5

    def __post_init__(self) -> None:
        for field, least in (("width", 3), ("stride", 1), ("draws", 19)):
            if getattr(self, field) < least:
                raise ValueError(
                    f"The `{field}` of `UpdateWindow` must be at least {least}. "
                    f"Got {getattr(self, field)}."
                )

    @property
    def series(self) -> tuple[SeriesInfo, ...]:
        """What every measurement writes."""
        noise = "independent updates of the same norms"
        return (
            SeriesInfo("update/sigma_1", "largest singular value", "weight", noise),
            SeriesInfo("update/sigma_2", "second singular value", "weight", noise),
            *(
                SeriesInfo(f"update/gap_{j}", f"eigenvalue gap {j} over the trace", "1", noise)
                for j in (1, 2, 3)
            ),
            SeriesInfo("update/k_star", "position k* of the largest ratio", "1", noise),
            SeriesInfo("update/ratio", "largest ratio of neighbouring σ", "1", noise),
            *(
                SeriesInfo(f"update/rho_{lag}", f"autocorrelation at lag {lag}", "1", "0")
                for lag in (1, 2, 3)
            ),
            SeriesInfo("update/effective_rank", "effective rank of the window", "1", noise),
            SeriesInfo("update/norm", "rms norm of the updates", "weight", "0 at lr = 0"),
            SeriesInfo("update/spectrum", "all singular values", "weight", noise, array=True),
        )

    def init(self) -> WindowState:
        """An empty window."""
        return WindowState()

    def update(self, state: WindowState, moment: Moment) -> tuple[WindowState, Readings]:
        """Take a snapshot, and read the window once it is full."""
        snapshot = torch.cat([p.reshape(-1) for p in moment.view.parameters]).float()
        gap = moment.step - state.last_step
        evenly = state.count == 0 or gap == state.spacing
        if state.last is None or len(state.last) != len(snapshot) or not evenly:
            # The first snapshot, or the distance changed: updates of unequal length do not mix.
            start = WindowState(last=snapshot, last_step=moment.step)
            return start, Readings(window_pending(0, self.width))
        delta = snapshot - state.last
        ring = state.ring
        if ring is None:
            ring = snapshot.new_zeros(self.width, len(snapshot))
        slot = state.count % self.width
        ring[slot] = delta
        # The weights' own norm rides along: one transfer for the record.
        size = snapshot.double().square().sum()[None]
        *dots, weight = torch.cat([update_dots(ring, delta), size]).tolist()
        gram = np.zeros((self.width, self.width)) if state.gram is None else state.gram.copy()
        gram[slot, :] = gram[:, slot] = dots
        after = WindowState(snapshot, moment.step, ring, gram, state.count + 1, gap)
        if after.count < self.width:
            return after, Readings(window_pending(after.count, self.width))
        # Oldest first, so that lag l stands on the l-th diagonal.
        order = [(slot + 1 + i) % self.width for i in range(self.width)]
        # A float32 weight is rounded by 2^-24 of itself, so a difference of snapshots carries noise
        # of norm 2^-24 |θ|: what lies below that is rounding, not an update.
        rounding = 2.0**-48 * weight / max(float(np.trace(gram)) / self.width, 1e-300)
        read = window_spectrum(
            gram[np.ix_(order, order)], draws=self.draws, precision=max(2.0**-52, rounding)
        )
        if moment.view.dtype in (torch.float16, torch.bfloat16):
            coarse = {name: _coarse(e, moment.view.dtype) for name, e in read.scalars.items()}
            read = Readings(coarse, read.arrays)
        return after, read


def _coarse(estimate: Estimate, dtype: torch.dtype) -> Estimate:
    """The same number, flagged: differences of 16-bit weights lose most of the update."""
    return Estimate(
        estimate.value,
        estimate.low,
        estimate.high,
        n=estimate.n,
        flags=estimate.flags | Flag.BELOW_PRECISION,
        reason=f"Weights are stored as {dtype}; their differences lose the update.",
        null=estimate.null,
    )
