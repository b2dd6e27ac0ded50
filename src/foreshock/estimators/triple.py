"""The triple (C, S, ρ) by part of the model: signal to noise, stability, and the kernel's rate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from foreshock.estimators.curvature import Curvature
from foreshock.estimators.gradient_noise import GradientNoise
from foreshock.estimators.ntk import probe_inputs
from foreshock.estimators.ntk_layers import parameter_grams
from foreshock.estimators.tracking import CurvatureState
from foreshock.probe.groups import Group, Groups, check_groups, resolve_groups
from foreshock.probe.moment import Moment
from foreshock.stats.ntk import NtkState, ntk_summary
from foreshock.types import Estimate, Readings, SeriesInfo

SERIES = (
    SeriesInfo(
        "triple/c",
        "signal / noise of a batch, C",
        "1",
        "0 ± the degenerate band",
        layered=True,
        formula="U/V of the part's gradient, as grad/snr",
        oracle="GradientNoise of the same part",
        source="levy.md 1, corrected; signal.md 12.2",
    ),
    SeriesInfo(
        "triple/s",
        "ηλ_max/2 of the diagonal block",
        "1",
        "the span of two Lanczos starts",
        layered=True,
        formula="η λ_max/2: largest η in the part, block of the Hessian that belongs to it",
        oracle="Curvature of the same part",
        source="levy.md 2, corrected",
    ),
    SeriesInfo(
        "triple/rho",
        "rate of the kernel's log-determinant",
        "nat/step",
        "0 at lr = 0",
        layered=True,
        formula="change of log det(K/s + εI) of the part's kernel a step, as ntk/log_det_rate",
        oracle="Ntk of a model with all other parts frozen",
        source="levy.md 3, corrected",
    ),
)


@dataclass(frozen=True)
class TripleState:
    """What the curvature and the kernels of the parts are compared with, and when they were."""

    curvature: CurvatureState = field(default_factory=CurvatureState)
    kernels: Mapping[str, NtkState] = field(default_factory=dict)
    step: int = -1
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Triple:
    """levy.md's three observables by part of the model, each in its corrected form, side by side.

    The document's claim is that sudden change needs all three to be critical at once, and it leaves
    open whether layers are critical on their own. This measures what that would look like: C = U/V
    of the part's gradient (the published one divides by what it calls a diffusion),
    S = ηλ_max/2 of the part's diagonal block of the Hessian with the part's own learning rate (edge
    of plain SGD at 1; the block's eigenvalue never exceeds that of the whole), and ρ, the rate at
    which the log-determinant of the part's tangent kernel changes, free of scale. The report draws
    them as heat maps. Nothing here says that alignment announces anything; that is for a ledger.

    The values of the whole model stand beside them under the same names without a part. Uncertainty
    is that of `GradientNoise`, `Curvature` and `Ntk`.

    Cost: one backward pass a probe batch, one Lanczos run a part, and one kernel.

    Args:
        groups: Parts of the model: ``"layer"``, ``"block"``, a dict of patterns, or groups without
            heads.
        examples: Inputs of the kernel.
        epsilon: Ridge of the log-determinant, relative to the mean eigenvalue.
        cold_every: Distance of cold checks of the curvature, in measurements.
        seed: Seed of the random starts.

    Raises:
        ValueError: If ``groups`` is ``None`` or holds heads, or ``examples`` is below 16.

    Examples:
        >>> [s.name for s in Triple().series]
        ['triple/c', 'triple/s', 'triple/rho']
    """

    groups: Groups = "layer"
    examples: int = 64
    epsilon: float = 1e-4
    cold_every: int = 25
    seed: int = 0
    name: str = "triple"
    needs: frozenset[str] = frozenset({"probe", "batch", "inputs"})
    price: float = 100.0
    stride: int = 0

    def __post_init__(self) -> None:
        groups = check_groups(self.groups, "Triple")
        if groups is None or (
            not isinstance(groups, str) and any(g.head is not None for g in groups)
        ):
            raise ValueError(
                "The `groups` of `Triple` must name parts without heads: 'layer', 'block', or "
                "patterns. For the whole model use GradientNoise, Curvature and Ntk."
            )
        if self.examples < 16:
            raise ValueError(
                f"The `examples` of `Triple` must be at least 16. Got {self.examples}."
            )
        object.__setattr__(self, "groups", groups)

    @property
    def series(self) -> tuple[SeriesInfo, ...]:
        """What every measurement writes."""
        return SERIES

    def init(self) -> TripleState:
        """Nothing to compare with."""
        return TripleState()

    def update(self, state: TripleState, moment: Moment) -> tuple[TripleState, Readings]:
        """Measure at one moment."""
        parts = resolve_groups(self.groups, moment.view)
        names = tuple(moment.view.names)
        if state.names != names:  # other weights train: another Hessian, and other kernels
            state = TripleState(names=names)
        _, noise = GradientNoise(groups=self.groups).update(None, moment)
        curvature, bends = Curvature(
            groups=self.groups, cold_every=self.cold_every, seed=self.seed
        ).update(state.curvature, moment)
        rates, kernels = self._rates(state, moment, parts)
        scalars = {"triple/c": noise.scalars["grad/snr"]}
        largest = max(moment.learning_rates)
        scalars["triple/s"] = bends.scalars["hessian/lambda_max"].times(largest / 2)
        scalars["triple/rho"] = rates[""]
        for part, members in parts.items():
            rate = _learning_rate(moment, [i for i, _ in members]) / 2
            scalars[f"triple/c@{part}"] = noise.scalars[f"grad/snr@{part}"]
            scalars[f"triple/s@{part}"] = bends.scalars[f"hessian/lambda_max@{part}"].times(rate)
            scalars[f"triple/rho@{part}"] = rates[part]
        return TripleState(curvature, kernels, moment.step, names), Readings(scalars)

    def _rates(
        self,
        state: TripleState,
        moment: Moment,
        parts: Mapping[str, list[tuple[int, Group]]],
    ) -> tuple[dict[str, Estimate], dict[str, NtkState]]:
        """Rate of the log-determinant of the whole kernel (under "") and of each part's."""
        assert moment.probe is not None
        inputs = probe_inputs(moment.probe, self.examples)
        if len(inputs) < 16:
            sentence = "The probe has fewer than 16 training inputs, too few for an interval."
            missing = Estimate.missing(sentence, n=len(inputs))
            return dict.fromkeys(("", *parts), missing), {}
        grams = parameter_grams(moment.view, moment.probe, inputs)
        zero = torch.zeros_like(grams[0])
        sums = [sum(grams, zero)]
        sums += [sum((grams[i] for i, _ in members), zero) for members in parts.values()]
        host: NDArray[np.float64] = (torch.stack(sums) / len(inputs)).cpu().numpy()
        rates, kernels = {}, {}
        for name, kernel in zip(("", *parts), host, strict=True):
            previous = state.kernels.get(name)
            found, summary = ntk_summary(
                kernel,
                epsilon=self.epsilon,
                previous=previous,
                dt=None if previous is None else moment.step - state.step,
            )
            rates[name] = found["ntk/log_det_rate"]
            if summary is not None:
                kernels[name] = summary
        return rates, kernels


def _learning_rate(moment: Moment, members: list[int]) -> float:
    """The largest learning rate among the parameters of a part."""
    if moment.optimizer is None or not members:
        return max(moment.learning_rates)
    rates = moment.optimizer.learning_rates
    return max(rates[i] for i in members)
