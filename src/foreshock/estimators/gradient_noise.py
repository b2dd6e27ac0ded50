"""Gradient signal and noise: how far the gradient of a batch can be trusted.

``gradient_gram`` turns n batch gradients into the n x n matrix of their dot products, which is all
that the estimates and their intervals need (`foreshock.stats.gram`). Two sources feed it: extra
backward passes on the probe's batches, and the micro-batches of gradient accumulation. Two more
know norms only: per-example norms within the step's own backward pass, and data-parallel ranks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreshock.estimators.gradient_noise_series import (
    AVERAGED,
    PER_PART,
    PER_PART_AND_EXAMPLE,
    PROBE_LOSS,
    SERIES,
)
from foreshock.estimators.norm_rows import NormBlock, from_examples, from_ranks
from foreshock.estimators.norms import NO_GRADIENT
from foreshock.probe.groups import Group, Groups, check_groups, resolve_groups
from foreshock.probe.moment import BatchGradient, Moment
from foreshock.probe.view import batch_size
from foreshock.stats.gram import finite_population, signal_noise
from foreshock.stats.gram_average import GramAverage
from foreshock.stats.gram_looks import look_sizes, settled
from foreshock.stats.norm_noise import NO_GRAM
from foreshock.stats.sample import mean_interval
from foreshock.types import Estimate, Readings, SeriesInfo

UNEVEN = "Parameters took part in different numbers of backward passes: no common micro-batches."
#: What each source uses of the run.
NEEDS = {
    "probe": frozenset({"probe"}),
    "accumulation": frozenset({"micro"}),
    "examples": frozenset({"examples"}),
    "ranks": frozenset({"micro", "ranks"}),
}
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


def part_grams(
    gradients: Sequence[Sequence[Tensor]], parts: Mapping[str, Sequence[tuple[int, Group]]]
) -> Tensor:
    """Gram matrices of the whole gradient and of parts of it, in one pass over the gradients.

    One matrix a parameter is summed, over all of them and over those of a part; only heads, which
    cut a parameter, need products of their own. So parts that partition the parameters sum to the
    whole. Extra memory: one n x n matrix a parameter.

    Args:
        gradients: n gradients, each one tensor a parameter, on one device.
        parts: Name of a part to pairs (index of a parameter, group), from `resolve_groups`.

    Returns:
        ``(1 + parts, n, n)`` in float64: the whole first, then the parts in their order.

    Examples:
        >>> import torch
        >>> g = [[torch.tensor([1.0, 0.0]), torch.tensor([2.0])], [torch.ones(2), torch.ones(1)]]
        >>> part_grams(g, {"a": [(0, Group("a", "."))], "b": [(1, Group("b", "."))]})[:, 0].tolist()
        [[5.0, 3.0], [1.0, 1.0], [4.0, 2.0]]
    """
    grams = [gradient_gram([[one] for one in tensors]) for tensors in zip(*gradients, strict=True)]
    found = [torch.stack(grams).sum(0)]
    for members in parts.values():
        gram = torch.zeros_like(grams[0])
        for index, group in members:
            if group.head is None:
                gram += grams[index]
            else:
                add_gram(gram, torch.stack([group.take(g[index]).reshape(-1) for g in gradients]))
        found.append(gram)
    return torch.stack(found)


class Taken(NamedTuple):
    """What one measurement gave.

    Args:
        scalars: The estimates.
        grams: ``(1 + parts, n, n)`` on the host, or ``None`` where nothing was measured.
        size: Examples in a batch, if known.
    """

    scalars: dict[str, Estimate]
    grams: NDArray[np.float64] | None = None
    size: int | None = None


@dataclass(frozen=True)
class GradientNoise:
    """Signal, noise and consolidation ratio of the gradient, with intervals from the Gram matrix.

    With n batch gradients, mean m and V the summed unbiased variance: signal U = |m|² − V/n,
    noise V, C = U/V at the batch size of the probe, B_simple = V·B/U, p_published = C/(1+C) (the
    published formula; the probability it is named after is `p_align`). U is unbiased and may be
    negative. "C = 1" says no more than "the batch size equals the noise scale".

    **Examples.** With ``source="examples"`` an example is one row of dimension 0 of what the model
    is given, and its gradient what flows back through that row. The rows are followed through the
    forward pass; a parameter used where that cannot be done is named and the number is missing.
    Gradients from elsewhere are not part of any example, so where there are some the number is
    missing too, and the block begins anew: a penalty in the loss, ``.grad`` changed by hand or not
    set to zero, clipping by value or of a part. One factor for all parameters is followed: clipping
    by the norm of the whole, a loss scale. Under data parallelism the latter is not checked.

    **Unequal passes.** Batches that are weighted alike but differ in size have different noise.
    The backward passes of a step must have equal numbers of examples: with ``"examples"`` a step
    where they do not is missing. With ``"accumulation"`` and ``"ranks"`` the sizes are unknown, so
    **nothing flags** unequal ones (a short last micro-batch, token counts that vary), and signal
    and noise are then wrong.

    Args:
        source: ``"probe"`` takes one extra backward pass a probe batch, in evaluation mode, at
            frozen weights. ``"accumulation"`` takes the micro-batches of this very step as the
            optimizer sees them (training mode, dropout included), for one copy each; it needs at
            least 3 backward passes a step. ``"examples"`` takes the norms of per-example gradients
            out of the step's own backward pass (`per_example_norms`), ``"ranks"`` those of the
            gradients of data-parallel ranks, which must all be attached with one fixed ``every``.
            These two know norms only, so their intervals need a block of 16 to 64 measured steps
            (`foreshock.stats.norm_noise`), and ``p_align`` and ``noise_d_eff`` are missing.
        batch_size: Examples in one batch; read off the probe's batches if not given. Accumulation
            cannot know it, nor can ranks, where it is the batch of one rank.
        groups: Parts of the model to measure beside the whole, as ``grad/snr@part``: ``"layer"``,
            ``"block"``, a dict of name to pattern, or a list of `Group`. Costs n x n numbers a
            parameter and about half a millisecond a part, and no further backward pass.
        population: Examples in the training set, to correct for batches drawn without replacement
            from it as `Probe.sampling` says (see `signal_noise`); probe only.
        threshold: Take only as many of the probe's batches as it needs to tell on which side of
            this value C lies: 8 or more at first, then twice as many at a time while the interval
            of ``grad/snr`` holds the threshold, up to all that the probe has. Intervals are those
            of `foreshock.stats.gram_looks`, 1.1 to 1.3 times as long, which hold whenever one
            stops; those of ``p_align`` and ``noise_d_eff`` are the plain ones.
            Takes a transfer to the host a look. Saves backward passes only where no other
            observable needs all of them; give the probe 32 or 64 batches. Probe only.
        memory: Write ``grad/snr_ema`` and ``grad/noise_scale_ema`` too: the ratio of exponential
            moving averages of U and V, whose weight falls by 1 − 1/memory a measurement
            (`foreshock.stats.gram_average`). It lags by about ``memory`` measurements. Probe and
            accumulation only, whose ratios are those of one step; not with ``threshold``, since the
            number of batches must stay.

    Raises:
        ValueError: If ``source`` is none of the four, ``groups`` cannot be used, ``population`` is
            not a positive number, or an option meets a source that it is not for.

    Examples:
        >>> GradientNoise().needs == frozenset({"probe"})
        True
    """

    source: Literal["probe", "accumulation", "examples", "ranks"] = "probe"
    batch_size: int | None = None
    stride: int = 0
    groups: Groups = None
    population: int | None = None
    threshold: float | None = None
    memory: float | None = None

    def __post_init__(self) -> None:
        if self.source not in NEEDS:
            raise ValueError(
                f"The `source` of `GradientNoise` must be one of {tuple(NEEDS)}. "
                f"Got {self.source!r}."
            )
        if self.source == "ranks" and self.groups is not None:
            raise ValueError(
                "The `groups` of `GradientNoise` need source='probe', 'accumulation' or "
                "'examples': ranks exchange norms of the whole gradient only."
            )
        if self.population is not None and (self.population < 1 or self.source != "probe"):
            raise ValueError(
                "The `population` of `GradientNoise` must be the size of the training set, and "
                f"needs source='probe'. Got {self.population} and {self.source!r}."
            )
        if self.threshold is not None and (
            not math.isfinite(self.threshold) or self.source != "probe"
        ):
            raise ValueError(
                "The `threshold` of `GradientNoise` must be a finite signal-to-noise ratio, and "
                f"needs source='probe'. Got {self.threshold} and {self.source!r}."
            )
        if self.memory is not None and (
            not 1 <= self.memory < math.inf
            or self.source not in ("probe", "accumulation")
            or self.threshold is not None
        ):
            raise ValueError(
                "The `memory` of `GradientNoise` must be a number of measurements from 1 on, and "
                "needs source='probe' or 'accumulation' and no `threshold`. "
                f"Got {self.memory}, {self.source!r} and threshold={self.threshold}."
            )
        object.__setattr__(self, "groups", check_groups(self.groups, "GradientNoise"))

    @property
    def name(self) -> str:
        """Family name."""
        return "gradient_noise"

    @property
    def needs(self) -> frozenset[str]:
        """The probe, or the gradients or norms of the step's own backward passes."""
        return NEEDS[self.source]

    @property
    def price(self) -> float:
        """About one training step a batch; the other sources only listen."""
        return 8.0 if self.source == "probe" else 0.5

    @property
    def series(self) -> tuple[SeriesInfo, ...]:
        """What every measurement writes."""
        loss = (PROBE_LOSS,) if self.source == "probe" else ()
        return (*SERIES, *loss, *(() if self.memory is None else AVERAGED))

    def init(self) -> NormBlock | GramAverage | None:
        """The block of steps of the sources that know norms only, or the average of a memory."""
        if self.source in ("examples", "ranks"):
            return NormBlock()
        return None if self.memory is None else GramAverage()

    def update(self, state: NormBlock | GramAverage | None, moment: Moment) -> tuple[Any, Readings]:
        """Measure at one moment."""
        if isinstance(state, NormBlock):
            return self._from_norms(state, moment)
        if self.source == "accumulation":
            taken = self._from_accumulation(moment)
        else:
            taken = self._from_probe(moment)
        if state is None:
            return state, Readings(taken.scalars)
        state, averaged = self._average(state, taken, moment)
        return state, Readings(taken.scalars | averaged)

    def _from_probe(self, moment: Moment) -> Taken:
        assert moment.probe is not None
        if self.threshold is None:
            return self._from_batches(moment.batch_gradients, moment, 1)
        batches = moment.view.draw(moment.probe, moment.step)
        # What another observable has had taken is there already, and the same.
        taken = list(vars(moment).get("batch_gradients", ()))
        sizes = look_sizes(len(batches))
        for n in sizes:
            for batch in batches[len(taken) : n]:
                found = moment.view.gradient(moment.probe.loss, batch)
                taken.append(BatchGradient(*found, batch_size(batch), batch))
            result = self._from_batches(taken[:n], moment, len(sizes))
            if settled(result.scalars["grad/snr"], self.threshold):
                break
        return result

    def _from_batches(self, taken: Sequence[BatchGradient], moment: Moment, looks: int) -> Taken:
        if not taken:
            empty = Estimate.missing("The probe returned no batch at this step.")
            return Taken({**self._missing(empty.reason, moment), "probe/loss": empty})
        losses = torch.stack([one.loss.double() for one in taken])
        size = self.batch_size or next((one.size for one in taken if one.size), None)
        grams = self._grams([one.gradient for one in taken], moment)
        # Losses ride along with the Gram matrices: one transfer for the whole record.
        host = torch.cat([grams.reshape(-1), losses]).cpu().numpy()
        n = len(taken)
        found = self._read(host[:-n].reshape(-1, n, n), moment, size, looks)
        found.scalars["probe/loss"] = mean_interval(host[-n:])
        return found

    def _from_accumulation(self, moment: Moment) -> Taken:
        if not moment.micro:
            return Taken(self._missing(UNEVEN if moment.uneven else NO_GRADIENT, moment))
        if len(moment.micro) < 3:
            sentence = (
                "The step was made of fewer than 3 backward passes, too few for a variance. "
                "Accumulate gradients, or pass a `Probe` with at least 3 batches."
            )
            return Taken(self._missing(sentence, moment))
        grams = self._grams(moment.micro, moment).cpu().numpy()
        return self._read(grams, moment, self.batch_size, 1)

    def _from_norms(self, block: NormBlock, moment: Moment) -> tuple[NormBlock, Readings]:
        if self.source == "examples":
            block, found = from_examples(block, moment, self._parts(moment))
        else:
            block, found = from_ranks(block, moment, self.batch_size)
        per_part = (*PER_PART, *PER_PART_AND_EXAMPLE)
        scalars = {s.name: Estimate.missing(NO_GRAM) for s in SERIES}
        scalars |= {n: e for n, e in found.items() if "@" not in n or n.split("@")[0] in per_part}
        return block, Readings(scalars)

    def _parts(self, moment: Moment) -> dict[str, list[tuple[int, Group]]]:
        return resolve_groups(self.groups, moment.view)

    def _grams(self, gradients: Sequence[Sequence[Tensor]], moment: Moment) -> Tensor:
        if self.groups is None:
            return gradient_gram(gradients)[None]
        return part_grams(gradients, self._parts(moment))

    def _sampling(self, moment: Moment) -> str:
        return moment.probe.sampling if self.source == "probe" and moment.probe else "replacement"

    def _read(
        self, grams: NDArray[np.float64], moment: Moment, size: int | None, looks: int
    ) -> Taken:
        """Estimates of the whole and of the parts from their Gram matrices on the host."""
        sampling, population = self._sampling(moment), self.population
        try:
            finite_population(grams.shape[-1], size, sampling, population)
        except ValueError as error:
            return Taken(self._missing(str(error), moment))

        def of(gram: NDArray[np.float64]) -> dict[str, Estimate]:
            return signal_noise(
                gram, batch_size=size, sampling=sampling, population=population, looks=looks
            )

        scalars = of(grams[0])
        per_part = PER_PART if size is None else (*PER_PART, *PER_PART_AND_EXAMPLE)
        for (part, members), gram in zip(self._parts(moment).items(), grams[1:], strict=True):
            empty = Estimate.missing(f"The group {part!r} finds no trainable parameter.")
            found = of(gram) if members else {}
            scalars |= {f"{name}@{part}": found.get(name, empty) for name in per_part}
        return Taken(scalars, grams, size)

    def _average(
        self, state: GramAverage, taken: Taken, moment: Moment
    ) -> tuple[GramAverage, dict[str, Estimate]]:
        """The ratios of averages, with this measurement in them if there is one."""
        assert self.memory is not None
        tails = ["", *(f"@{part}" for part in self._parts(moment))]
        names = ("grad/snr", "grad/noise_scale")
        if taken.grams is None or not np.isfinite(taken.grams).all():
            lack = Estimate.missing(taken.scalars["grad/snr"].reason)
            return state, {f"{name}_ema{tail}": lack for tail in tails for name in names}
        state = state.add(taken.grams, self.memory)
        averaged: dict[str, Estimate] = {}
        for tail, gram in zip(tails, state.mean, strict=True):
            found = signal_noise(
                gram,
                batch_size=taken.size,
                sampling=self._sampling(moment),
                population=self.population,
            )
            averaged |= {f"{name}_ema{tail}": found[name] for name in names}
        return state, averaged

    def _missing(self, sentence: str, moment: Moment) -> dict[str, Estimate]:
        names = [s.name for s in SERIES]
        names += [f"{name}@{part}" for part in self._parts(moment) for name in PER_PART]
        return {name: Estimate.missing(sentence) for name in names}
