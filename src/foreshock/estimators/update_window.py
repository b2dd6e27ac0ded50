"""Spectrum of the last W updates: singular values, gaps, turning, and what noise would give."""

from __future__ import annotations

from dataclasses import dataclass, replace
from numbers import Integral, Real
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
from foreshock.probe.groups import Groups, check_groups
from foreshock.probe.moment import Moment
from foreshock.stats.window import window_pending, window_spectrum
from foreshock.stats.window_null import NULLS, Null
from foreshock.stats.window_turn import TURN_SERIES, window_turn
from foreshock.types import Estimate, Flag, Readings, SeriesInfo

#: Sketch taken where the ring would not fit: 95 % error of a ratio 1.96/sqrt(2^16) = .8 %, in 6 MB.
AUTO_SKETCH = 1 << 16

#: Below this the error of a ratio exceeds 3 %, more than the edge of a walk with ρ_1 = .1.
LEAST_SKETCH = 4096

#: Sketches shift the seed by 20 bits, and keep 2^60 for the shifts of the blocks.
LARGEST_SEED = 1 << 40

#: Wider windows cost much and tell little: the null takes 199 eigenproblems of W x W.
WIDEST = 64

#: Share of rounding in tr G above which every number is flagged: it moves a cosine by as much.
ROUNDING = 0.01

#: What is read of every part of the model.
PARTS = ("update/sigma_1", "update/ratio", "update/k_star", "update/rho_1")

SIXTEEN_BITS = (str(torch.float16), str(torch.bfloat16))

XU = "Xu, arXiv:2603.28964; spectral_edge.md"
OURS = "ours, after Xu, arXiv:2603.28964"


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
    """Singular values, gaps, k* and turning of the last W updates, against noise of equal norms.

    An update is the difference of two weight snapshots ``stride`` steps apart (preconditioning,
    momentum and decay included), in float32, tied weights once, uncentred. k* = argmax σ_j/σ_{j+1}
    exists for pure noise as well, so a ratio inside the noise band is flagged ``no_edge``
    (`foreshock.stats.window`, with its measured level). Angles are exact and compared with windows
    of noise that share W-1 updates (`foreshock.stats.window_turn`); their first value takes one
    update more. Nothing here announces anything by itself; the level mostly reads the
    autocorrelation of the updates.

    Cost: one pass over W stored updates a snapshot, with products in float64, and W + 1 float32
    copies of the weights: 3.7 to 4.2 times one read of the ring (10 million weights, W = 10, one
    thread), bound by the conversion to float64 and the products in it. A sketch keeps
    W + 1 times ``sketch`` float64 numbers instead.

    Args:
        width: Updates in the window, W.
        stride: Steps between snapshots. A budget may lengthen it, which empties the window.
        draws: Monte Carlo draws of the null.
        groups: Parts of the model, each with its own Gram and null: σ_1, ratio, k* and ρ_1 as
            ``name@part``. The Grams of ``"layer"`` or ``"block"`` add up to that of the whole,
            exactly, unless sketched. About 3 ms a part.
        null: What ``no_edge`` and the bands refer to: ``"effective"``, ``"norms"`` or
            ``"toeplitz"``, see `foreshock.stats.window_null`.
        sketch: Keep CountSketches of this many dimensions, at least 4096, instead of the updates.
            ``None`` keeps the updates as long as they fit into ``memory``, else sketches of 65,536.
        memory: GiB that W + 1 float32 copies of the weights may take; 4 is 97 million weights.
        seed: Seed of the sketch and of the null.

    Raises:
        ValueError: If ``width`` is below 3, ``stride``, ``draws``, ``sketch`` or ``memory`` too
            small, or ``null`` or ``groups`` unknown.

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
    memory: float = 4.0
    seed: int = 0
    name: str = "update_window"
    needs: frozenset[str] = frozenset()
    price: float = 0.5

    def __post_init__(self) -> None:
        bounds = (
            ("width", 3),
            ("stride", 1),
            ("draws", 19),
            ("sketch", LEAST_SKETCH),
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
        if self.seed >= LARGEST_SEED:
            raise ValueError(
                f"The `seed` of `UpdateWindow` must be below 2^40. Got {self.seed}."
            )
        if not isinstance(self.memory, Real) or not self.memory >= 0:
            raise ValueError(
                f"The `memory` of `UpdateWindow` must not be negative. Got {self.memory!r}."
            )
        if self.null not in NULLS:
            raise ValueError(
                f"The `null` of `UpdateWindow` must be one of {NULLS}. Got {self.null!r}."
            )
        object.__setattr__(self, "groups", check_groups(self.groups, "UpdateWindow"))

    @property
    def series(self) -> tuple[SeriesInfo, ...]:
        """What every measurement writes."""
        return _series(
            {
                "effective": "independent updates of the same norms, in the effective dimension",
                "norms": "independent updates of the same norms, in as many dimensions as weights",
                "toeplitz": "noise of the same norms and the same autocorrelation",
            }[self.null]
        )

    def init(self) -> WindowState:
        """An empty window."""
        return WindowState()

    def dimensions(self, weights: int, itemsize: int = 4) -> int | None:
        """Length of the sketch for that many weights; ``None`` where the updates are kept whole.

        Args:
            weights: Number of trainable weights.
            itemsize: Bytes of one; 8 where updates are kept in float64.

        Returns:
            The length, or nothing.

        Examples:
            >>> UpdateWindow().dimensions(10**7), UpdateWindow().dimensions(10**9)
            (None, 65536)
        """
        if self.sketch is not None:
            return self.sketch
        fits = itemsize * (self.width + 1) * weights <= self.memory * 2**30
        return None if fits else AUTO_SKETCH

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
        dimensions = self.dimensions(sum(parts.shape), parts.dtype.itemsize)
        if dimensions is None:
            snapshot = None
        else:
            snapshot = sketch_parts(view, groups, dimensions, self.seed)
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
            mean_square = max(float(np.trace(gram)) / self.width, 1e-300)
            noise = state.spacing * parts.unit**2 * float(weight) / (3 * mean_square)
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


def _series(noise: str) -> tuple[SeriesInfo, ...]:
    """The catalogue's entries; `noise` is the null in words."""
    svd = "full SVD of the updates"
    shared = f"two windows of {noise} that share W-1 updates"

    def entry(
        name: str, title: str, unit: str, null: str, formula: str, oracle: str, source: str
    ) -> SeriesInfo:
        full = f"update/{name}"
        return SeriesInfo(
            full,
            title,
            unit,
            null,
            layered=full in PARTS,
            formula=formula,
            oracle=oracle,
            source=source,
        )

    def array(name: str, title: str, unit: str, null: str, formula: str, oracle: str) -> SeriesInfo:
        return SeriesInfo(
            f"update/{name}",
            title,
            unit,
            null,
            array=True,
            formula=formula,
            oracle=oracle,
            source=XU,
        )

    walk = "AR(1) walks in the limit of many weights: R 1.10, 1.19, 1.38, 2.25 at ρ .3, .5, .7, .9"
    return (
        entry("sigma_1", "largest singular value", "weight", noise, "σ_1 = sqrt λ_1(XX')", svd, XU),
        entry("sigma_2", "second singular value", "weight", noise, "σ_2 = sqrt λ_2(XX')", svd, XU),
        *(
            entry(
                f"gap_{j}",
                f"eigenvalue gap {j} over the trace",
                "1",
                noise,
                f"(λ_{j} − λ_{j + 1})/tr G",
                svd,
                OURS,
            )
            for j in (1, 2, 3)
        ),
        entry(
            "k_star",
            "position k* of the largest ratio",
            "1",
            noise,
            "argmax_j σ_j/σ_(j+1)",
            "k* of AR(1) walks: 5, 4, 3, 2, 2, 1, 1 at ρ .02, .1, .3, .5, .7, .9, .97",
            XU,
        ),
        entry(
            "ratio", "largest ratio of neighbouring σ", "1", noise, "max_j σ_j/σ_(j+1)", walk, XU
        ),
        entry(
            "k_star_weighted",
            "position of the largest weighted ratio",
            "1",
            noise,
            "argmax_j (σ_j/Σσ)(σ_j/σ_(j+1))",
            "independent updates: 1 in 81 %, 2 in 16 % of windows of 10",
            "scripts of Xu, arXiv:2603.28964",
        ),
        *(
            entry(
                f"rho_{lag}",
                f"autocorrelation of updates at lag {lag}",
                "1",
                "0 ± t/sqrt(p (W − l))",
                f"mean_i cos(δ_i, δ_(i+{lag}))",
                "products of the updates; coverage on AR(1) walks of known ρ",
                OURS,
            )
            for lag in (1, 2, 3)
        ),
        entry(
            "effective_rank",
            "effective rank of the window",
            "1",
            noise,
            "(tr G)²/tr(G²)",
            svd,
            OURS,
        ),
        entry(
            "norm", "rms norm of the updates", "weight", "0 at lr = 0", "sqrt(tr G/W)", svd, OURS
        ),
        *(
            entry(
                f"angle_{k}",
                f"turn of the span of the first {k} modes",
                "degree",
                shared,
                f"arccos of the least singular value of O[:{k}, :{k}], O_jk = ⟨v_j(t), v_k(t+1)⟩",
                "modes of a full SVD of both windows, to 1e-12; nested windows of drawn noise",
                XU,
            )
            for k in (1, 2, 3)
        ),
        entry(
            "turning_bound",
            "change of the window's operator over its gap at k*",
            "1",
            shared,
            "norm_F(ΔC)/(λ_k* − λ_(k*+1)), C = X'X, rows of norm 1",
            "ΔC formed in the space of the weights",
            OURS,
        ),
        array("spectrum", "all singular values", "weight", noise, "σ_1 ≥ … ≥ σ_W of X", svd),
        array("ratios", "all ratios of neighbouring σ", "1", noise, "R_j = σ_j/σ_(j+1)", svd),
        array(
            "overlap",
            "overlap of the modes of successive windows",
            "1",
            shared,
            "abs O, O = diag(1/σ) U' B[0:W, 1:W+1] V diag(1/σ′), G' = VΛ'V'",
            "modes of a full SVD of both windows, to 1e-12",
        ),
    )


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
