"""Gradient signal and noise: how far the gradient of a batch can be trusted.

``gradient_gram`` turns n batch gradients into the n x n matrix of their dot products, which is all
that the estimates and their intervals need (`foreshock.stats.gram`). Two sources feed it: extra
backward passes on the probe's batches, and the micro-batches of gradient accumulation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from foreshock.estimators.norms import NO_GRADIENT
from foreshock.probe.moment import Moment
from foreshock.stats.gram import signal_noise
from foreshock.stats.sample import mean_interval
from foreshock.types import Estimate, Readings, SeriesInfo

SERIES = (
    SeriesInfo("grad/signal", "gradient signal |μ|²", "(loss/weight)²", "0: no common direction"),
    SeriesInfo("grad/noise", "gradient noise Tr Σ", "(loss/weight)²", "0 for a full batch"),
    SeriesInfo("grad/snr", "signal / noise of a batch, C", "1", "0 ± the degenerate band"),
    SeriesInfo("grad/snr_per_example", "signal / noise of one example", "1", "0"),
    SeriesInfo("grad/noise_scale", "noise scale B_simple", "examples", "unbounded"),
    SeriesInfo("grad/p_published", "p = C/(1+C), as published", "1", "0: C = 0"),
    SeriesInfo("grad/p_align", "share of batches that point along the others", "1", "0.5"),
)
UNEVEN = "Parameters took part in different numbers of backward passes: no common micro-batches."
PROBE_LOSS = SeriesInfo("probe/loss", "loss on the probe's batches", "loss", "its value at lr = 0")


#: Columns converted to float64 at a time, so that a block of some dozen rows stays in the cache.
CHUNK = 1 << 13


def add_gram(gram: Tensor, rows: Tensor) -> None:
    """Add the products of rows ``(n, d)`` of any float type to a float64 Gram matrix, in place."""
    for start in range(0, rows.shape[1], CHUNK):
        block = rows[:, start : start + CHUNK].double()
        gram.addmm_(block, block.T)


def gradient_gram(gradients: Sequence[Sequence[Tensor]]) -> Tensor:
    """Dot products of n gradients, accumulated in float64.

    Args:
        gradients: n gradients, each one tensor a parameter, on one device.

    Returns:
        Symmetric matrix ``(n, n)`` in float64, on the device of the gradients. The extra memory is
        n copies of the largest parameter.

    Examples:
        >>> import torch
        >>> g = [[torch.tensor([1.0, 0.0])], [torch.tensor([1.0, 2.0])]]
        >>> gradient_gram(g).tolist()
        [[1.0, 1.0], [1.0, 5.0]]
    """
    n = len(gradients)
    gram = torch.zeros(n, n, dtype=torch.float64, device=gradients[0][0].device)
    for parts in zip(*gradients, strict=True):
        add_gram(gram, torch.stack([part.reshape(-1) for part in parts]))
    return gram


@dataclass(frozen=True)
class GradientNoise:
    """Signal, noise and consolidation ratio of the gradient, with intervals from the Gram matrix.

    With n batch gradients, mean m and V the summed unbiased variance: signal U = |m|² − V/n,
    noise V, C = U/V at the batch size of the probe, B_simple = V·B/U, p_published = C/(1+C) (the
    published formula; the probability it is named after is `p_align`). U is unbiased and may be
    negative. "C = 1" says no more than "the batch size equals the noise scale".

    Args:
        source: ``"probe"`` takes one extra backward pass a probe batch, in evaluation mode, at
            frozen weights. ``"accumulation"`` takes the micro-batches of this very step as the
            optimizer sees them (training mode, dropout included), for one copy each; it needs at
            least 3 backward passes a step.
        batch_size: Examples in one batch; read off the probe's batches if not given. Accumulation
            cannot know it.

    Raises:
        ValueError: If ``source`` is neither of the two.

    Examples:
        >>> GradientNoise().needs == frozenset({"probe"})
        True
    """

    source: Literal["probe", "accumulation"] = "probe"
    batch_size: int | None = None
    stride: int = 0

    def __post_init__(self) -> None:
        if self.source not in ("probe", "accumulation"):
            raise ValueError(
                "The `source` of `GradientNoise` must be 'probe' or 'accumulation'. "
                f"Got {self.source!r}."
            )

    @property
    def name(self) -> str:
        """Family name."""
        return "gradient_noise"

    @property
    def needs(self) -> frozenset[str]:
        """The probe, or the gradients of the step's own backward passes."""
        return frozenset({"probe"} if self.source == "probe" else {"micro"})

    @property
    def price(self) -> float:
        """About one training step a batch; accumulation only copies."""
        return 8.0 if self.source == "probe" else 0.5

    @property
    def series(self) -> tuple[SeriesInfo, ...]:
        """What every measurement writes."""
        return (*SERIES, PROBE_LOSS) if self.source == "probe" else SERIES

    def init(self) -> None:
        """No state."""

    def update(self, state: None, moment: Moment) -> tuple[None, Readings]:
        """Measure at one moment."""
        if self.source == "accumulation":
            return state, self._from_accumulation(moment)
        assert moment.probe is not None
        taken = moment.batch_gradients
        losses = [one.loss.double() for one in taken]
        gradients = [one.gradient for one in taken]
        size = self.batch_size or next((one.size for one in taken if one.size), None)
        n = len(gradients)
        # Losses ride along with the Gram matrix: one transfer for the whole record.
        record = torch.cat([gradient_gram(gradients).reshape(-1), torch.stack(losses)])
        host = record.cpu().numpy()
        scalars = signal_noise(host[:-n].reshape(n, n), batch_size=size)
        return state, Readings({**scalars, "probe/loss": mean_interval(host[-n:])})

    def _from_accumulation(self, moment: Moment) -> Readings:
        if not moment.micro:
            sentence = UNEVEN if moment.uneven else NO_GRADIENT
            return Readings({s.name: Estimate.missing(sentence) for s in SERIES})
        if len(moment.micro) < 3:
            sentence = (
                "The step was made of fewer than 3 backward passes, too few for a variance. "
                "Accumulate gradients, or pass a `Probe` with at least 3 batches."
            )
            return Readings({s.name: Estimate.missing(sentence) for s in SERIES})
        gram = gradient_gram(moment.micro).cpu().numpy()
        return Readings(signal_noise(gram, batch_size=self.batch_size))
