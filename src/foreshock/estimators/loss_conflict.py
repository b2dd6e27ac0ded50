"""Several losses on one model: whose gradients pull against whose."""

from __future__ import annotations

from dataclasses import dataclass

from foreshock.estimators.gradient_noise import gradient_gram
from foreshock.probe.moment import Moment
from foreshock.stats.loss_conflict import loss_conflict
from foreshock.types import Estimate, Readings, SeriesInfo

SERIES = (
    SeriesInfo(
        "loss/cosine",
        "cosine between gradients of two losses, the lowest",
        "1",
        "0: orthogonal; 1 for a loss with itself",
        layered=True,
        formula="U_ab/√(U_aa·U_bb), U_ab the mean of g_ai·g_bj over i ≠ j",
        oracle="planted gradients of two losses",
        source="Yu et al., arXiv:2001.06782 (conflicting gradients); signal.md 12, C_ab",
    ),
    SeriesInfo(
        "loss/snr",
        "common signal of two losses over their noise, the lowest",
        "1",
        "0 ± the degenerate band",
        layered=True,
        formula="C_ab = U_ab/√(V_a·V_b)",
        oracle="grad/snr for a = b; planted gradients",
        source="signal.md 12, C as a matrix",
    ),
    SeriesInfo(
        "loss/cosine_matrix",
        "cosines between gradients of losses, in the order of `Probe.losses`",
        "1",
        "0 off the diagonal",
        array=True,
        formula="as loss/cosine",
        oracle="as loss/cosine",
        source="as loss/cosine",
    ),
    SeriesInfo(
        "loss/snr_matrix",
        "C_ab of losses, in the order of `Probe.losses`",
        "1",
        "0",
        array=True,
        formula="as loss/snr",
        oracle="as loss/snr",
        source="as loss/snr",
    ),
)
NO_LOSSES = "Needs at least two losses: pass `Probe(..., losses={name: loss, ...})`."


@dataclass(frozen=True)
class LossConflict:
    """Signal, noise and direction of the gradients of several losses, as matrices.

    For the losses of `Probe.losses` and the batches of the probe: C_ab = U_ab/√(V_a·V_b) and the
    cosine of the mean gradients, both without the noise that losses on one batch share. Written as
    ``loss/cosine@a,b`` and ``loss/snr@a,b`` for every pair of losses, ``loss/snr@a,a`` included.
    The series without a pair hold the lowest one, which is biased downwards by being picked.

    Cost: one backward pass a loss and batch, and all their gradients in memory at once.

    Examples:
        >>> LossConflict().needs == frozenset({"probe", "losses"})
        True
    """

    stride: int = 0

    @property
    def name(self) -> str:
        """Family name."""
        return "loss_conflict"

    @property
    def needs(self) -> frozenset[str]:
        """The probe and its losses."""
        return frozenset({"probe", "losses"})

    @property
    def price(self) -> float:
        """Two losses, eight batches."""
        return 16.0

    @property
    def series(self) -> tuple[SeriesInfo, ...]:
        """What every measurement writes."""
        return SERIES

    def init(self) -> None:
        """No state."""

    def update(self, state: None, moment: Moment) -> tuple[None, Readings]:
        """Measure at one moment."""
        probe = moment.probe
        losses = dict(probe.losses or {}) if probe is not None else {}
        if probe is None or len(losses) < 2:
            absent = Estimate.missing(NO_LOSSES)
            return state, Readings({s.name: absent for s in SERIES if not s.array})
        batches = moment.view.draw(probe, moment.step)
        if not batches:
            absent = Estimate.missing("The probe returned no batch at this step.")
            return state, Readings({s.name: absent for s in SERIES if not s.array})
        gradients = [
            moment.view.gradient(loss, batch)[1] for loss in losses.values() for batch in batches
        ]
        found = loss_conflict(gradient_gram(gradients).cpu().numpy(), list(losses))
        cosine, snr = found.worst()
        scalars = {"loss/cosine": cosine, "loss/snr": snr}
        scalars |= {f"loss/cosine@{_part(pair)}": e for pair, e in found.cosine.items()}
        scalars |= {f"loss/snr@{_part(pair)}": e for pair, e in found.snr.items()}
        arrays = {"loss/cosine_matrix": found.cosine_matrix, "loss/snr_matrix": found.snr_matrix}
        return state, Readings(scalars, arrays)


def _part(pair: tuple[str, str]) -> str:
    """Names of series are lower-case ASCII."""
    return ",".join(pair).lower().encode("ascii", "replace").decode()
