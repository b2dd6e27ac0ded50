"""Descent: the loss change a step was expected to make, the one it made, and how updates diffuse.

Measured right after the step θ_t → θ_{t+1} = θ_t + u, at the weights after it. From that end

    L(θ_{t+1}) − L(θ_t) = μ·u − ½u'Hu + O(|u|³),     μ, H at θ_{t+1}

since θ_t = θ_{t+1} − u: the sign of the second term is not that of the formula at the old weights.
Both are exact on a quadratic. The gradients of the probe's batches are there already, at these very
weights; the old weights, θ_{t+1} − u, are only needed for the losses that were really there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from foreshock.estimators.gradient_noise import CHUNK
from foreshock.estimators.hvp import DIFFERENCES, HessianProduct
from foreshock.probe.moment import BatchGradient, Moment
from foreshock.probe.optimizer import OptimizerView
from foreshock.probe.quiet import quiet
from foreshock.probe.response import responses
from foreshock.probe.view import ModelView
from foreshock.stats.descent import CRITICAL, LEAST, critical_snr, descent_pieces, expected_descent
from foreshock.stats.fluctuation import BLOCKS, diffusion, fluctuation_dissipation
from foreshock.stats.sample import mean_interval
from foreshock.types import Estimate, Flag, Readings, SeriesInfo

YAIDA = "Yaida 2019, arXiv:1810.00004"
SERIES = (
    SeriesInfo(
        "grad/descent",
        "loss change of the step, to second order",
        "loss",
        "0 at lr = 0",
        formula="μ·u − ½u'Hu at the weights after the step u = θ_{t+1} − θ_t",
        oracle="exact change of a quadratic; change of the whole loss over runs of SGD and AdamW",
        source=YAIDA,
    ),
    SeriesInfo(
        "grad/descent_measured",
        "loss change of the step, measured",
        "loss",
        "0 at lr = 0",
        formula="L(θ_{t+1}) − L(θ_t) on the probe's batches, two forward passes each",
        oracle="losses of the live model before and after the step",
        source="definition",
    ),
    SeriesInfo(
        "grad/descent_expected",
        "loss change expected of the next step",
        "loss",
        "0 on average at stationarity",
        formula="μ·E u + ½E u'Hu over the update u that a fresh batch would cause",
        oracle="Monte Carlo of E ΔL on a quadratic with known μ, Σ, H",
        source=YAIDA,
    ),
    SeriesInfo(
        "grad/descent_noise",
        "loss change that the noise of the next step adds",
        "loss",
        "0 for a full batch",
        formula="½ tr(H Cov u); ½η² tr(HΣ) for SGD",
        oracle="closed form on a quadratic; linear response (1 − β1)/P of Adam",
        source=YAIDA,
    ),
    SeriesInfo(
        "grad/critical_snr",
        "signal / noise above which plain SGD descends",
        "1",
        "0 at lr = 0",
        formula="η λ_Σ/(2 − η λ_μ), +inf where η λ_μ ≥ 2",
        oracle="closed form on a quadratic, both sides of η λ_μ = 2",
        source=YAIDA,
    ),
    SeriesInfo(
        "grad/critical_margin",
        "margin of descent of plain SGD, in units of C",
        "1",
        "0: the step neither descends nor ascends",
        formula="C(1 − η λ_μ/2) − η λ_Σ/2 = −E ΔL/(η tr Σ)",
        oracle="closed form on a quadratic",
        source=YAIDA,
    ),
    SeriesInfo(
        "grad/fdt",
        "fluctuation-dissipation ratio",
        "1",
        "1 at stationarity",
        formula="−2 Σ μ·E u / Σ E u'Hu over measurements; 2E|μ|²/(η E[μ'Hμ + tr HΣ]) for SGD",
        oracle="1 on stationary SGD, anisotropic quadratic and noise, small and large η",
        source=YAIDA,
    ),
    SeriesInfo(
        "grad/d_effective",
        "diffusion of the next update, D",
        "weight²/step",
        "0 for a full batch",
        formula="½ tr Cov of the update over batches, at frozen weights and optimizer state",
        oracle="copies of model and optimizer, each stepped on one batch",
        source="langevin document, FAQ",
    ),
    SeriesInfo(
        "grad/d_sgd",
        "diffusion of plain SGD at this learning rate",
        "weight²/step",
        "0 for a full batch",
        formula="½ η² V, V the noise of the gradient",
        oracle="definition",
        source="langevin document, section 3",
    ),
)
EXPECTED = ("grad/descent_expected", "grad/descent_noise")

#: Rounding of a loss, in units of its type's epsilon: a forward pass sums, and two are subtracted.
LOSS_ROUNDING = 4.0


class Record(NamedTuple):
    """What one measurement brings to the host, float64.

    Args:
        slopes: ``(n,)`` g_b · u of the step made.
        bends: ``(n,)`` u'H_b u.
        after: ``(n,)`` losses of the batches after the step.
        before: ``(n,)`` losses before it.
        scaled: ``(n, n)`` products of η g_b.
        products: ``(n, n)`` g_i · u_j with the updates u_j that the optimizer would make next.
        curvatures: ``(n, n)`` u_i · H_{j+1} u_j.
        spread: ``(n, n)`` u_i · u_j.
        method: How the Hessian products were taken.
    """

    slopes: np.ndarray
    bends: np.ndarray
    after: np.ndarray
    before: np.ndarray
    scaled: np.ndarray
    products: np.ndarray
    curvatures: np.ndarray
    spread: np.ndarray
    method: str


def cross(left: Tensor, right: Tensor, weight: Tensor | None = None) -> Tensor:
    """Products of the rows of two matrices, accumulated in float64 by blocks of columns.

    Args:
        left: ``(n, d)`` of any float type.
        right: ``(m, d)`` of any float type.
        weight: ``(d,)`` weights of the columns; all 1 if not given.

    Returns:
        ``(n, m)`` float64 on their device.

    Examples:
        >>> import torch
        >>> cross(torch.eye(2), torch.tensor([[1.0, 2.0]])).tolist()
        [[1.0], [2.0]]
    """
    total = torch.zeros(len(left), len(right), dtype=torch.float64, device=left.device)
    for start in range(0, left.shape[1], CHUNK):
        columns = slice(start, start + CHUNK)
        block = left[:, columns].double()
        if weight is not None:
            block = block * weight[columns]
        total.addmm_(block, right[:, columns].double().T)
    return total


def losses_at(
    view: ModelView, leaves: Sequence[Tensor], loss: Callable, batches: Sequence[object]
) -> Tensor:
    """Losses of several batches at given weights, without a graph.

    Each starts from the random numbers that the gradient of a batch starts from, so a loss that
    draws some changes by the weights only.

    Args:
        view: The live weights, for the structure.
        leaves: One tensor a trainable parameter.
        loss: ``loss(model, batch) -> scalar``.
        batches: n batches.

    Returns:
        ``(n,)`` float64 on the device.

    Examples:
        >>> import torch
        >>> view = ModelView(torch.nn.Linear(1, 1, bias=False))
        >>> one, batch = torch.ones(1, 1), torch.ones(2, 1)
        >>> losses_at(view, [one], lambda m, x: m(x).sum(), [batch]).tolist()
        [2.0]
    """
    found = []
    for batch in batches:
        with quiet(view.seed), torch.no_grad():
            found.append(view.loss(leaves, loss, batch).double())
    return torch.stack(found)


def step_record(
    view: ModelView,
    loss: Callable,
    taken: Sequence[BatchGradient],
    update: Sequence[Tensor],
    rates: Sequence[float],
    planned: Tensor | None,
) -> Record:
    """Everything that the series of one step are made of, in one transfer.

    H of the step made is that of every batch in turn, so u'H_b u has the spread of the batches. The
    Hessian for update u_j is that of the next batch, j + 1, round in a ring: independent of u_j.

    Cost: a batch takes one gradient with a graph, two Hessian-vector products and one forward pass;
    together they take n copies of the weights twice, besides those of the gradients and updates.

    Args:
        view: The live weights, after the step.
        loss: ``loss(model, batch) -> scalar``.
        taken: Gradients of the n probe batches at these weights.
        update: The step that was made, one tensor a parameter.
        rates: Learning rate of each parameter.
        planned: ``(n, d)`` updates that the optimizer would make with each gradient, or ``None``.

    Returns:
        The numbers; those that need ``planned`` are nan without it.
    """
    n = len(taken)
    made = torch.cat([part.reshape(-1) for part in update]).double()
    gradients = torch.stack([torch.cat([g.reshape(-1) for g in one.gradient]) for one in taken])
    squares = torch.cat(
        [made.new_full((part.numel(),), r**2) for part, r in zip(update, rates, strict=True)]
    )
    bends, images, method = [], [], "reverse"
    for index, one in enumerate(taken):
        with quiet(view.seed):
            product = HessianProduct(view, loss, one.batch, method=method)
            bends.append(made @ product(made))
            if planned is not None:
                images.append(product(planned[index - 1]))
            method = product.method
            del product  # the graph of one batch at a time
    old = [now - part for now, part in zip(view.parameters, update, strict=True)]
    nothing = made.new_full((n, n), float("nan"))
    parts = [
        cross(gradients, made[None])[:, 0],
        torch.stack(bends),
        torch.stack([one.loss for one in taken]).double(),
        losses_at(view, old, loss, [one.batch for one in taken]),
        cross(gradients, gradients, squares),
        nothing if planned is None else cross(gradients, planned),
        # Batch b gave the Hessian of update b - 1: column j is the image on batch j + 1.
        nothing if planned is None else cross(planned, torch.stack(images)).roll(-1, dims=1),
        nothing if planned is None else cross(planned, planned),
    ]
    host = torch.cat([part.reshape(-1) for part in parts]).cpu().numpy()
    found: list[np.ndarray] = []
    start = 0
    for part in parts:
        found.append(host[start : start + part.numel()].reshape(part.shape))
        start += part.numel()
    return Record(*found, method=method)


@dataclass(frozen=True)
class DescentState:
    """Drift and curvature along the steps of the last measurements, oldest first."""

    drifts: tuple[float, ...] = ()
    curvatures: tuple[float, ...] = ()


@dataclass(frozen=True)
class Descent:
    """Loss change of the step made and of the step to come, their noise part, and diffusion.

    **Of the step that was made**, for any optimizer: ``grad/descent`` = μ·u − ½u'Hu along u =
    θ_{t+1} − θ_t at the weights after it, n values, one a probe batch, with Student's interval;
    and ``grad/descent_measured`` from the losses before and after, on the same batches. Their
    difference is of third order in u: where it is not small, no second-order quantity means much.

    **Of the step to come**, over a fresh batch: the update that the optimizer would make from its
    present state with each of the n probe gradients, not linearised. ``grad/descent_expected`` is
    μ·E u + ½E u'Hu, ``grad/descent_noise`` the part ½ tr(H Cov u) of it that a full batch would not
    have, ``grad/d_effective`` = ½ tr Cov u. One step at a frozen state: over many steps momentum
    diffuses 1/(1 − β)² as much, because a buffer hands each batch on. ``grad/fdt`` averages over
    the last ``window`` measurements. For SGD, Adam, AdamW, RMSprop and Adagrad; others (Muon,
    LBFGS) get the step made, and a sentence. ``critical_snr`` and ``critical_margin`` are for plain
    SGD: no momentum, no decay, one learning rate.

    The probe's batches must be as large as those of the training loop, since the noise is theirs,
    and the probe's gradients are not clipped. Learning rates are those of now, before a scheduler
    steps. Losses are those of evaluation mode, before and after with the buffers of now.

    Cost of a probe batch: one gradient (shared with other observables measured after the update),
    one with a graph, two Hessian-vector products, one forward pass; half of the products without a
    known response. About 45 training steps for 8 batches of 256 and an MLP of 235,000 weights under
    AdamW.

    Args:
        window: Measurements that ``grad/fdt`` averages over, at most.

    Raises:
        ValueError: If ``window`` is below 16.

    Examples:
        >>> Descent(window=3)
        Traceback (most recent call last):
        ...
        ValueError: The `window` of `Descent` must be at least 16. Got 3.
    """

    window: int = 64
    stride: int = 0
    name: str = "descent"
    needs: frozenset[str] = frozenset({"update", "probe"})
    price: float = 45.0

    def __post_init__(self) -> None:
        if self.window < 2 * BLOCKS:
            raise ValueError(
                f"The `window` of `Descent` must be at least {2 * BLOCKS}. Got {self.window}."
            )

    @property
    def series(self) -> tuple[SeriesInfo, ...]:
        """What every measurement writes."""
        return SERIES

    def init(self) -> DescentState:
        """Nothing averaged yet."""
        return DescentState()

    def update(self, state: DescentState, moment: Moment) -> tuple[DescentState, Readings]:
        """Measure the step that was just made, and the one to come."""
        if moment.update is None or moment.probe is None or moment.optimizer is None:
            absent = Estimate.missing("There is no update, no probe or no optimizer to look at.")
            return state, Readings({s.name: absent for s in SERIES})
        view, optimizer, taken = moment.view, moment.optimizer, moment.batch_gradients
        if not taken:
            empty = Estimate.missing("The probe drew no batch at this step.")
            return state, Readings({s.name: empty for s in SERIES})
        planned, unknown = None, f"An interval needs at least {LEAST} probe batches."
        if len(taken) >= LEAST:
            planned, unknown = responses(optimizer, view, [one.gradient for one in taken])
        rates = optimizer.learning_rates
        record = step_record(view, moment.probe.loss, taken, moment.update, rates, planned)
        scalars = {
            "grad/descent": mean_interval(record.slopes - record.bends / 2),
            "grad/descent_measured": _measured(record, view.dtype),
            "grad/d_sgd": diffusion(record.scaled),
        }
        if planned is None:
            names = (*EXPECTED, *CRITICAL, "grad/fdt", "grad/d_effective")
            scalars |= {name: Estimate.missing(unknown, n=len(taken)) for name in names}
            return state, Readings(_flagged(scalars, record.method))
        ring = (np.arange(len(taken)) + 1) % len(taken)
        scalars |= expected_descent(record.products, record.curvatures, ring)
        scalars |= _critical(record, optimizer, ring)
        scalars["grad/d_effective"] = diffusion(record.spread)
        if not scalars["grad/descent_expected"].resolved:
            scalars["grad/fdt"] = Estimate.missing(scalars["grad/descent_expected"].reason)
            return state, Readings(_flagged(scalars, record.method))
        pieces = descent_pieces(record.products, record.curvatures, ring)
        after = DescentState(
            (*state.drifts, float(pieces.drift[0]))[-self.window :],
            (*state.curvatures, float(pieces.curvature[0]))[-self.window :],
        )
        scalars["grad/fdt"] = fluctuation_dissipation(after.drifts, after.curvatures)
        return after, Readings(_flagged(scalars, record.method))


def _flagged(scalars: dict[str, Estimate], method: str) -> dict[str, Estimate]:
    """The same readings, with a word on those that rest on differences of gradients."""
    if method != "differences":
        return scalars
    curved = ("grad/descent", *EXPECTED, *CRITICAL, "grad/fdt")
    return scalars | {
        name: replace(
            scalars[name],
            flags=scalars[name].flags | Flag.BELOW_PRECISION,
            reason=f"{scalars[name].reason} {DIFFERENCES}".strip(),
        )
        for name in curved
        if np.isfinite(scalars[name].value)
    }


def _measured(record: Record, dtype: torch.dtype) -> Estimate:
    """Mean loss change, flagged where the losses are too coarse to show it."""
    found = mean_interval(record.after - record.before)
    coarse = LOSS_ROUNDING * torch.finfo(dtype).eps * float(np.abs(record.after).mean())
    if not found.resolved or abs(found.value) > coarse:
        return found
    return Estimate(
        found.value,
        found.low,
        found.high,
        n=found.n,
        flags=Flag.BELOW_PRECISION,
        reason=f"The losses are known to about {coarse:.1g} in {dtype}, and change by less.",
    )


def _critical(record: Record, optimizer: OptimizerView, ring: np.ndarray) -> dict[str, Estimate]:
    """The critical ratio, where the optimizer is the one it is a formula for."""
    rates = set(optimizer.learning_rates)
    plain = optimizer.name == "SGD" and all(
        not any(settings.get(key) for key in ("momentum", "weight_decay", "maximize"))
        for settings in optimizer.settings
    )
    if not plain or len(rates) != 1:
        sentence = (
            "The critical ratio is a formula for SGD without momentum or decay, at one learning "
            "rate. The sign of `grad/descent_expected` answers the same question here."
        )
        return {name: Estimate.missing(sentence, n=len(record.after)) for name in CRITICAL}
    rate = rates.pop()
    square = rate**2 or 1.0  # at a rate of 0 all products are 0, and `critical_snr` says so
    return critical_snr(record.scaled / square, record.curvatures / square, rate, ring)
