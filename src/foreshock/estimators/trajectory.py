"""Dimension of the path: how many directions successive updates use."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from foreshock.estimators.gradient_noise import add_gram
from foreshock.estimators.update_ring import count_sketch
from foreshock.probe.moment import Moment
from foreshock.probe.view import ModelView
from foreshock.stats.trajectory import SMALLEST_CLOUD, gram_dimension
from foreshock.types import Estimate, Flag, Readings, SeriesInfo


def trajectory_dimension(
    updates: Tensor | ArrayLike,
    *,
    dimension: float | None = None,
    draws: int = 199,
    seed: int = 0,
) -> dict[str, Estimate]:
    """`gram_dimension` of n updates in order of time.

    Args:
        updates: ``(n, d)``, a tensor of any float type or an array.
        dimension: Number of dimensions of the null; d by default.
        draws: Number of walks that the null is made from.
        seed: Seed of the null.

    Returns:
        See `gram_dimension`. Cost of the Gram: n² d/2 products.

    Raises:
        ValueError: If the updates are no matrix, or as in `gram_dimension`.

    Examples:
        Two hundred independent updates in 3 of 1,000 dimensions:

        >>> rng = np.random.default_rng(0)
        >>> cloud = rng.standard_normal((200, 3)) @ np.eye(3, 1000)
        >>> got = trajectory_dimension(cloud)
        >>> ratio = got["trajectory/participation_ratio"]
        >>> round(ratio.value, 1), ratio.null[0] > 100  # the walk has all 1,000 to itself
        (3.0, True)
        >>> 2.4 < got["trajectory/correlation_dimension"].value < 3.2
        True
    """
    if isinstance(updates, Tensor):
        rows = updates.detach()
    else:
        rows = torch.from_numpy(np.array(updates, dtype=np.float64))
    if rows.ndim != 2:
        raise ValueError(
            "The `updates` of `trajectory_dimension` must be a matrix (n, d). "
            f"Got shape {tuple(rows.shape)}."
        )
    gram = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
    add_gram(gram, rows)
    return gram_dimension(
        gram.cpu().numpy(),
        dimension=rows.shape[1] if dimension is None else dimension,
        draws=draws,
        seed=seed,
    )


@dataclass(frozen=True)
class PathState:
    """The last snapshots, oldest first, and the steps between them."""

    snapshots: Tensor | None = None
    last_step: int = -1
    spacing: int = 0
    weights: int = 0


@dataclass(frozen=True)
class Trajectory:
    """Dimension of the path of the last W updates, against an AR(1) walk of equal autocorrelation.

    An update is the difference of two weight snapshots ``stride`` steps apart, tied weights once,
    uncentred; readings, intervals and null are those of `gram_dimension`, with the number of
    trainable weights as dimension of the walk. That walk is isotropic: noise with a spectrum of its
    own lies below it, so a low reading says that something has few dimensions, not that it learns.
    With many weights the band is a few thousandths wide, and most runs lie below it.

    Where there are more weights than ``sketch``, snapshots are CountSketches (`count_sketch`). They
    are linear and keep every squared distance to a relative error of sqrt(2/``sketch``), 1.1 % at
    16,384 (one standard deviation). An isotropic walk seen through one is again an isotropic walk,
    in ``sketch`` dimensions, and that is its null. Smaller models are kept exactly.

    Cost: a pass over the weights a snapshot, and ``draws`` walks of W steps a record, which is most
    of it for small models. Memory: W + 1 times ``sketch`` float64 numbers.

    Args:
        width: Updates in the window, W; the correlation dimension asks for 20.
        stride: Steps between snapshots. A budget may lengthen it, which empties the window.
        draws: Walks that the null is made from.
        sketch: Numbers kept of a snapshot.
        seed: Seed of the sketch and of the null.

    Raises:
        ValueError: If ``width`` is below 3, ``stride`` below 1, ``draws`` below 39 or ``sketch``
            below 1,024.

    Examples:
        >>> Trajectory(width=2)
        Traceback (most recent call last):
        ...
        ValueError: The `width` of `Trajectory` must be at least 3. Got 2.
    """

    width: int = 32
    stride: int = 10
    draws: int = 199
    sketch: int = 16384
    seed: int = 0
    name: str = "trajectory"
    needs: frozenset[str] = frozenset()
    price: float = 1.0

    def __post_init__(self) -> None:
        for field, least in (("width", 3), ("stride", 1), ("draws", 39), ("sketch", 1024)):
            if getattr(self, field) < least:
                raise ValueError(
                    f"The `{field}` of `Trajectory` must be at least {least}. "
                    f"Got {getattr(self, field)}."
                )

    @property
    def series(self) -> tuple[SeriesInfo, ...]:
        """What every measurement writes."""
        return _SERIES

    def init(self) -> PathState:
        """No snapshot."""
        return PathState()

    def update(self, state: PathState, moment: Moment) -> tuple[PathState, Readings]:
        """Take a snapshot, and read the path once there are W updates."""
        view = moment.view
        snapshot = self._snapshot(view)[None]
        weights = sum(p.numel() for p in view.parameters)
        gap = moment.step - state.last_step
        kept = state.snapshots
        if kept is None or state.weights != weights or state.spacing not in (0, gap):
            # The first snapshot, or the distance changed: updates of unequal length do not mix.
            return PathState(snapshot, moment.step, 0, weights), Readings(self._pending(0))
        kept = torch.cat([kept[-self.width :], snapshot])
        after = PathState(kept, moment.step, gap, weights)
        if len(kept) <= self.width:
            return after, Readings(self._pending(len(kept) - 1))
        updates = kept.diff(dim=0)
        gram = updates @ updates.T
        # The weights' own square rides along: one transfer for the record.
        *flat, square = torch.cat([gram.reshape(-1), kept[-1].square().sum()[None]]).tolist()
        table = np.array(flat).reshape(self.width, self.width)
        # The blocks of the sketch add up equally many weights each: the null is that walk's image.
        size = min(weights, self.sketch)
        read = gram_dimension(table, dimension=size, draws=self.draws, seed=self.seed)
        # A weight is rounded by half a unit of itself at either end of an update.
        unit = torch.finfo(view.dtype).eps / 2
        rounding = 2 * unit**2 * square / 3
        if np.isfinite(table).all() and rounding > 0.01 * np.diagonal(table).mean():
            sentence = f"Weights are stored as {view.dtype}; their differences lose the update."
            read = {name: _coarse(e, sentence) for name, e in read.items()}
        return after, Readings(read)

    def _snapshot(self, view: ModelView) -> Tensor:
        """The weights, or their sketch, in float64."""
        parameters = view.parameters
        if sum(p.numel() for p in parameters) <= self.sketch:
            return torch.cat([p.reshape(-1).double() for p in parameters])
        return count_sketch(parameters, self.sketch, self.seed)

    def _pending(self, have: int) -> dict[str, Estimate]:
        """Nothing yet, and for how long."""
        sentence = f"The path is short: {have} of {self.width} updates so far."
        return {info.name: Estimate.missing(sentence, n=have) for info in _SERIES}


def _coarse(estimate: Estimate, sentence: str) -> Estimate:
    """The same number, flagged."""
    return replace(
        estimate,
        flags=estimate.flags | Flag.BELOW_PRECISION,
        reason=f"{estimate.reason} {sentence}".strip(),
    )


_WALK = "an AR(1) walk of the same autocorrelation in as many dimensions as weights"
_SERIES = (
    SeriesInfo(
        "trajectory/participation_ratio",
        "participation ratio of the path",
        "1",
        _WALK,
        formula="(tr G)²/tr(G²), G the Gram matrix of the last W updates",
        oracle="closed form of a known spectrum",
        source="levy.md, prediction 4",
    ),
    SeriesInfo(
        "trajectory/correlation_dimension",
        "correlation dimension of the path",
        "1",
        _WALK,
        formula=f"1/mean log(r_c/r_ij) over the closest 5 % of pairs, W >= {SMALLEST_CLOUD}",
        oracle="line, disc and ball; the finite-radius mean by quadrature",
        source="levy.md, prediction 4; Grassberger & Procaccia 1983; Takens 1985",
    ),
    SeriesInfo(
        "trajectory/rho_1",
        "autocorrelation of successive updates",
        "1",
        "0 within 1.96/sqrt(d (W-1)): independent updates",
        formula="Σ δ_t'δ_{t+1}/Σ (|δ_t|² + |δ_{t+1}|²)/2",
        oracle="ρ of an AR(1) walk",
        source="levy.md, prediction 4",
    ),
)
