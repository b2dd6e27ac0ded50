"""Spectrum of the last W updates: singular values, gaps, turning, and what noise would give."""

from __future__ import annotations

from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foreshock.estimators.update_ring import (
    Parts,
    exchange,
    exchange_sketch,
    parts_of,
    sketch_parts,
)
from foreshock.estimators.update_series import PARTS, window_series
from foreshock.probe.groups import Groups, check_groups
from foreshock.probe.moment import Moment
from foreshock.stats.window import window_pending, window_spectrum
from foreshock.stats.window_null import NULLS, Null
from foreshock.stats.window_turn import TURN_SERIES, window_turn
from foreshock.types import Estimate, Flag, Readings, SeriesInfo

#: Most weights whose updates are kept whole. Here an exact snapshot takes as long as the spectrum,
#: the turn and their nulls (.85 to 1 times, W = 10, one thread); beyond, it would be most of all.
EXACT_UP_TO = 2_000_000

#: Sketch taken above: 95 % error of σ .54 %, of a ratio 1.96/sqrt(2^16) = .77 %, in 6 MB.
AUTO_SKETCH = 1 << 16

#: Below this the error of a ratio exceeds 3 %, more than the edge of a walk with ρ_1 = .1.
LEAST_SKETCH = 4096

#: Wider windows cost much and tell little: the null takes 199 eigenproblems of W x W.
WIDEST = 64

#: Share of rounding in tr G above which every number is flagged: it moves a cosine by as much.
ROUNDING = 0.01

SIXTEEN_BITS = (str(torch.float16), str(torch.bfloat16))


@dataclass(eq=False)
class Ring:
    """The one large thing, written in place: a copy each time would cost a read of all of it.

    Args:
        last: Last snapshot, or its sketch.
        rows: W updates, or their sketches; nothing before the first.
        version: How often it was written. A state of another version is stale.
    """

    last: Tensor
    rows: Tensor | None = None
    version: int = 0


@dataclass(frozen=True)
class WindowState:
    """Table of products, and the ring they are of.

    The ring is shared by successive states. Each remembers its version, so that a state which was
    already continued raises instead of reading updates that came later.

    Args:
        ring: Updates and last snapshot.
        version: Version of the ring that this state belongs to.
        last_step: Step of the last snapshot.
        table: ``(1 + groups, W+1, W+1)`` Products of the last W+1 updates, oldest first.
        count: Updates so far.
        spacing: Steps between snapshots.
        weights: Which weights train: name, shape, type and device of each.
        note: Why the window began again, until it is full.
    """

    ring: Ring | None = None
    version: int = 0
    last_step: int = -1
    table: np.ndarray | None = None
    count: int = 0
    spacing: int = 0
    weights: tuple[tuple[str, tuple[int, ...], str, str], ...] = ()
    note: str = ""


@dataclass(frozen=True)
class UpdateWindow:
    r"""Singular values, gaps, k* and turning of the last W updates, against noise of equal norms.

    An update is the difference of two weight snapshots ``stride`` steps apart (preconditioning,
    momentum and decay included), in float32 (float64 if a weight is), tied weights once, uncentred.
    k* = argmax σ_j/σ_{j+1} exists for pure noise as well, so a ratio inside the noise band is
    flagged ``no_edge`` (`foreshock.stats.window`, with its measured level). Angles are compared
    with windows of noise that share W-1 updates (`foreshock.stats.window_turn`); their first value
    takes one update more. Nothing here announces anything by itself; the level mostly reads the
    autocorrelation of the updates.

    The window begins again, and says why until it is full, when other weights train (by name,
    shape, type or device) or snapshots come at another distance. All numbers are flagged
    ``below_precision`` once rounding of the weights, at most s 2^-48 \|θ\|²/3 of an update of s
    steps in float32, exceeds 1 % of the squared updates; it moves cosines and ρ by that share.

    A state shares its ring with the next one, so that each can be continued once; a second time
    raises. Copy it (``copy.deepcopy``) to continue it twice.

    **Sketches.** Above two million weights (``exact``) the ring holds CountSketches of 65,536 sums
    in float64 (`foreshock.estimators.update_ring.count_sketch`) in place of updates. They are
    linear, so that every σ_j errs by a share of *itself*, .54 % (95 %, 1.96/sqrt(2 m)), however
    small it is: measured for planted spectra down to 1e-5 σ_1, in 7 structures, at .4 to 1.2 times
    that. Every interval holds the error and every ``reason`` states it. Cosines err by 1/sqrt(m),
    .4 %, so that an autocorrelation below that is seen in exact windows only.

    **Cost**, in reads of W = 10 float32 updates of 10 million weights, one thread: a snapshot by
    default .7 to .95 (one read of the weights; 1.3 to 1.4 in ten layers; some 55 reads of the ring
    of sketches, which is 76 times smaller), an exact one 4.1 to 5.0, bound by the conversion to
    float64 and the products in it. A ring in float64 takes 3.5 and twice the memory; products
    summed in float32 over 65,536 columns take 2.1 to 2.5 but err by 1e-6 of the largest, which
    hides σ_j < 1e-3 σ_1; over 1,024 columns, 8e-9, they take longer than float64. Spectrum, turn
    and their nulls add 1.25 to 1.4 once the window is full: 14 ms, whatever the number of weights.
    Memory: W + 1 copies of the weights, or W + 1 times ``sketch`` float64 numbers, for the whole
    and for every group.

    Args:
        width: Updates in the window, W, at most 64. The null takes 15 ms at 10, 90 at 30, 350 at
            64.
        stride: Steps between snapshots. A budget may lengthen it, which empties the window; the
            series say how many steps are to go.
        draws: Monte Carlo draws of the null.
        groups: Parts of the model, each with its own Gram and null: σ_1, ratio, k* and ρ_1 as
            ``name@part``. The Grams of ``"layer"`` or ``"block"`` add up to that of the whole,
            exactly, unless sketched. About 4 ms a part.
        null: What ``no_edge`` and the bands refer to: ``"effective"``, ``"norms"`` or
            ``"toeplitz"``, see `foreshock.stats.window_null`.
        sketch: Keep CountSketches of this many dimensions, at least 4096, instead of the updates.
            ``None`` keeps updates whole up to ``exact`` weights, else sketches of 65,536.
        exact: Most weights whose updates are kept whole, at W + 1 copies of them; 0 always
            sketches, and 10**12 never does.
        seed: Seed of the sketch and of the null.

    Raises:
        ValueError: If ``width`` is not between 3 and 64, ``stride``, ``draws``, ``sketch``,
            ``exact`` or ``seed`` too small, one of them no whole number, or ``null`` or ``groups``
            unknown.

    Examples:
        >>> UpdateWindow(width=2)
        Traceback (most recent call last):
        ...
        ValueError: The `width` of `UpdateWindow` must be at least 3. Got 2.
    """

    width: int = 10
    stride: int = 10
    draws: int = 199
    groups: Groups = None
    null: Null = "effective"
    sketch: int | None = None
    exact: int = EXACT_UP_TO
    seed: int = 0
    name: str = "update_window"
    needs: frozenset[str] = frozenset()
    price: float = 3.0

    def __post_init__(self) -> None:
        bounds = (
            ("width", 3),
            ("stride", 1),
            ("draws", 19),
            ("sketch", LEAST_SKETCH),
            ("exact", 0),
            ("seed", 0),
        )
        for field, least in bounds:
            value = getattr(self, field)
            if field == "sketch" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, Integral):
                raise ValueError(
                    f"The `{field}` of `UpdateWindow` must be a whole number. Got {value!r}."
                )
            if value < least:
                raise ValueError(
                    f"The `{field}` of `UpdateWindow` must be at least {least}. Got {value}."
                )
        if self.width > WIDEST:
            raise ValueError(
                f"The `width` of `UpdateWindow` must be at most {WIDEST}: the null takes one "
                f"eigenproblem of that size a draw. Got {self.width}; lengthen `stride` instead."
            )
        if self.null not in NULLS:
            raise ValueError(
                f"The `null` of `UpdateWindow` must be one of {NULLS}. Got {self.null!r}."
            )
        object.__setattr__(self, "groups", check_groups(self.groups, "UpdateWindow"))

    @property
    def series(self) -> tuple[SeriesInfo, ...]:
        """What every measurement writes."""
        noise = {
            "effective": "independent updates of the same norms, in their effective dimension",
            "norms": "independent updates of the same norms, in as many dimensions as weights",
            "toeplitz": "noise of the same norms and the same autocorrelation",
        }[self.null]
        if self.null == "norms":
            level = "2 to 11 % of isotropic noise outside the band, nearly all of other noise"
            return window_series(noise, level, level)
        level = "0 to 6 % of noise of any spectrum outside the band, from 67 dimensions up"
        ratio = "2 to 32 % of noise outside the band, by its spectrum: read the flag"
        return window_series(noise, level, ratio)

    def init(self) -> WindowState:
        """An empty window."""
        return WindowState()

    def dimensions(self, weights: int) -> int | None:
        """Length of the sketch for that many weights; ``None`` where the updates are kept whole.

        Args:
            weights: Number of trainable weights.

        Returns:
            The length, or nothing.

        Examples:
            >>> UpdateWindow().dimensions(10**6), UpdateWindow().dimensions(10**7)
            (None, 65536)
        """
        if self.sketch is not None:
            return self.sketch
        return None if weights <= self.exact else AUTO_SKETCH

    def update(self, state: WindowState, moment: Moment) -> tuple[WindowState, Readings]:
        """Take a snapshot, and read the window once it is full.

        Args:
            state: From `init` or the last call. Its ring is written in place: each state can be
                continued once.
            moment: Where training stands.

        Returns:
            The next state and the readings.

        Raises:
            ValueError: If the state was continued before.
        """
        view = moment.view
        groups: Any = self.groups  # `check_groups` made it a value
        parts = parts_of(view, groups)
        dimensions = self.dimensions(sum(parts.shape))
        if dimensions is None:
            snapshot = None
        else:
            snapshot = sketch_parts(view.parameters, parts, dimensions, self.seed)
        gap = moment.step - state.last_step
        note = state.note
        if state.ring is not None and state.weights != parts.weights:
            note = f"The trainable weights changed at step {moment.step}."
        elif state.count and gap != state.spacing:
            note = (
                f"The window began again at step {moment.step}: the distance of snapshots changed "
                f"from {state.spacing} to {gap} steps."
            )
        if state.ring is None or note != state.note:
            # Updates of unequal length, or of other weights, do not mix.
            if snapshot is None:
                snapshot = torch.cat([p.reshape(-1).to(parts.dtype) for p in view.parameters])
            start = WindowState(
                Ring(snapshot), last_step=moment.step, weights=parts.weights, note=note
            )
            return start, Readings(self._pending(start))
        ring = state.ring
        if ring.version != state.version:
            raise ValueError(
                "This state of `UpdateWindow` was continued before, and its ring of updates has "
                "moved on. Pass the state that the last call returned, or begin with `init()`."
            )
        ring.version += 1  # before the first write: what fails half way leaves a stale state
        if ring.rows is None:
            ring.rows = ring.last.new_zeros(self.width, *ring.last.shape)
        slot = state.count % self.width
        if snapshot is None:
            sums = exchange(ring.rows, slot, ring.last, view.parameters, parts)
            host = parts.assign @ np.array(sums.tolist())
        else:
            host = np.array(exchange_sketch(ring.rows, slot, ring.last, snapshot).tolist())
        table = np.zeros((len(host), self.width + 1, self.width + 1))
        if state.table is not None:
            table[:, :-1, :-1] = state.table[:, 1:, 1:]
        # Oldest first, so that lag l stands on the l-th diagonal.
        order = [(slot + i) % self.width for i in range(self.width)] + [self.width]
        table[:, -1, :] = table[:, :, -1] = host[:, order]
        after = replace(
            state,
            version=ring.version,
            last_step=moment.step,
            table=table,
            count=state.count + 1,
            spacing=gap,
        )
        if after.count < self.width:
            return after, Readings(self._pending(after))
        return after, self._read(after, host[:, -1], parts, dimensions)

    def _pending(self, state: WindowState) -> dict[str, Estimate]:
        """Nothing yet, and for how long; the angles need one update more."""
        about = {"spacing": state.spacing, "note": state.note}
        turn = window_pending(state.count, self.width + 1, TURN_SERIES, **about)
        return {**window_pending(state.count, self.width, **about), **turn}

    def _read(
        self, state: WindowState, weights: np.ndarray, parts: Parts, dimensions: int | None
    ) -> Readings:
        """Everything, of the whole and of its parts."""
        assert state.table is not None
        scalars: dict[str, Estimate] = {}
        arrays: dict[str, np.ndarray] = {}
        for place, (table, weight) in enumerate(zip(state.table, weights, strict=True)):
            gram = table[1:, 1:]
            # Every step rounds each weight by at most half a unit in the last place, whose mean
            # square is between 1/12 and 1/3 of (unit times the weight)²: an update of s steps
            # holds noise of at most s unit² |θ|²/3, however exact the difference of snapshots.
            mean_square = float(np.trace(gram)) / self.width
            noise = 0.0  # weights that stand still have no rounding either
            if mean_square > 0:
                # The sums of a sketch, of so many weights each, round in float64.
                sums = 0 if dimensions is None else sum(parts.shape) / dimensions
                relative = state.spacing * parts.unit**2 + sums * 2.0**-106
                noise = relative * float(weight) / (3 * mean_square)
            settings: dict[str, Any] = {
                "null": self.null,
                "parameters": sum(parts.shape),
                "sketch": dimensions,
                "draws": self.draws,
                "seed": self.seed,
                # The spectrum leaves out eigenvalues below W times this: twice that of the noise.
                "precision": max(2.0**-52, 2 * noise / self.width),
            }
            read = window_spectrum(gram, **settings)
            if place:
                part = parts.names[place - 1]
                found = {f"{name}@{part}": read.scalars[name] for name in PARTS}
            else:
                found = dict(read.scalars)
                arrays |= read.arrays
                if state.count > self.width:
                    turn = window_turn(table, **settings)
                    found |= turn.scalars
                    arrays |= turn.arrays
                else:
                    found |= window_pending(
                        state.count, self.width + 1, TURN_SERIES, spacing=state.spacing
                    )
            sentence = _rounded(noise, parts)
            scalars |= {n: _coarse(e, sentence) for n, e in found.items()} if sentence else found
        return Readings(scalars, arrays)


def _rounded(noise: float, parts: Parts) -> str:
    """Why no number can be trusted: rounding of the weights is no small part of the updates."""
    coarse = next((kind for _, _, kind, _ in parts.weights if kind in SIXTEEN_BITS), "")
    if coarse:
        return f"Weights are stored as {coarse}; their differences lose the update."
    if noise > ROUNDING:
        return f"Rounding of the weights makes up to {min(noise, 1):.2g} of the squared updates."
    return ""


def _coarse(estimate: Estimate, sentence: str) -> Estimate:
    """The same number, flagged."""
    return replace(
        estimate,
        flags=estimate.flags | Flag.BELOW_PRECISION,
        reason=f"{sentence} {estimate.reason}".strip(),
    )
