"""The largest eigenvalue of a matrix that changes a little from call to call."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from foreshock.estimators.gradient_differences import disagreement
from foreshock.estimators.hvp import DIFFERENCES, Product
from foreshock.estimators.lanczos import FEWEST, TOLERANCE, Ritz, lanczos
from foreshock.estimators.probe_hessian import PartProduct, part_index
from foreshock.probe.groups import Groups, resolve_groups
from foreshock.probe.moment import Moment
from foreshock.types import Estimate, Flag

#: Most products of one Lanczos run. A spectrum that needs more has no top eigenvalue to speak of.
MOST = 64
#: Length of the random vector that is added to a unit start, and of the second Ritz vector. Without
#: it a start that has converged stays on its eigenvector for ever, whatever overtakes it.
ADMIXTURE = 0.1
#: Products by differences serve where their error is at most this share of the tolerance.
ALLOWED = 0.3
#: Fewest products by differences of one run, and by what the last must shrink the residual. They
#: cost half of an exact one or less; and two eigenvalues within 3 to 7 % of each other, the warm
#: start on the wrong one, show from the fourth product on, by a residual that stops falling.
FEWEST_DIFFERENCES = 4
FALLING = 0.8

EMPTY_GROUP = "The group {name!r} finds no trainable parameter."


@dataclass(frozen=True)
class CurvatureState:
    """What one measurement hands to the next: where to start, and when the last check was.

    Args:
        vectors: The two leading Ritz vectors, ``(2, d)``.
        count: Measurements made.
        checked_at: Step of the last cold check.
        warm: Whether warm starts save products; decided anew at every cold check.
        off: Relative error of a product by differences at the last check; inf before any.
        groups: States of the parts, by name.
    """

    vectors: Tensor | None = None
    count: int = 0
    checked_at: int = -1
    warm: bool = True
    off: float = math.inf
    groups: Mapping[str, CurvatureState] = field(default_factory=dict)


def track(
    product: Product,
    state: CurvatureState | None = None,
    *,
    step: int = 0,
    cold_every: int = 25,
    tolerance: float = TOLERANCE,
    seed: int = 0,
    to_norm: bool = False,
) -> tuple[CurvatureState, Estimate]:
    """Largest eigenvalue of a symmetric matrix that changes from call to call.

    The start is v₁ + v₂/10 from the last call, with 10 % of random admixture. The first call
    and every ``cold_every``-th also run from a random start (the first from two) and take the
    larger value. A random start serves between checks, too, when the last check found that warm
    starts save nothing: so it is where many eigenvalues crowd at the top and swap.

    A matrix that knows cheaper products (`Product.by_differences`) is asked for them. The first
    call and every check compare one with an exact product along the vector that was found; they
    serve from there to the next check if their error is at most 30 % of the tolerance, and the
    error widens every interval. A run of them that does not converge, or whose error at a check has
    become larger, is done again by exact products.

    Args:
        product: v ↦ Hv, with its dimension, device and dtype. Call within `quiet`.
        state: From the previous call; ``None`` at the first.
        step: For the sentence that says when the last cold check was.
        cold_every: Distance of cold checks, in calls.
        tolerance: Relative error at which Lanczos stops.
        seed: Seed of the random starts.
        to_norm: Whether the tolerance is relative to the norm of the matrix instead of θ.

    Returns:
        Next state, and θ with interval θ ± residual; flagged ``not_converged`` where Lanczos
        stopped short, or where two starts of a check disagree. ``n`` is the number of products.
        ``null``, at a check, is the span of the starts' values.

    Examples:
        >>> from foreshock.estimators.hvp import hessian
        >>> from foreshock.probe.quiet import quiet
        >>> from foreshock.probe.view import ModelView
        >>> model, x = torch.nn.Linear(2, 1, bias=False), torch.tensor([[3.0, 0.0], [0.0, 1.0]])
        >>> with quiet(0):
        ...     view = ModelView(model)
        ...     product, _, _ = hessian(view, lambda m, x: m(x).pow(2).sum() / 2, x)
        ...     _, top = track(product)
        >>> round(top.value, 4)
        9.0
    """
    state = state or CurvatureState()
    if state.vectors is not None and state.vectors.shape[1] != product.dimension:
        state = CurvatureState()  # parameters were frozen or unfrozen: another matrix
    check = state.vectors is None or state.count % cold_every == 0
    limit = ALLOWED * tolerance

    def runs_of(matrix: Product, least: int, falling: float | None) -> list[Ritz]:
        def run(start: Tensor) -> Ritz:
            return lanczos(
                matrix,
                start,
                MOST,
                tolerance=tolerance,
                least=least,
                falling=falling,
                to_norm=to_norm,
            )

        return [run(start) for start in _starts(matrix, state, check, seed)]

    quick = product.by_differences() if check or state.off <= limit else None
    runs: list[Ritz] = []
    off, widening, lost = state.off, 0.0, 0
    if quick is not None and state.off <= limit:
        runs = runs_of(quick, FEWEST_DIFFERENCES, FALLING)
        if check:
            off = _disagreement(product, quick, runs)
        widening = off
    if not (runs and off <= limit and all(run.converged for run in runs)):
        lost = sum(run.steps for run in runs)
        runs, widening = runs_of(product, FEWEST, None), 0.0
        if check:
            off = math.inf if quick is None else _disagreement(product, quick, runs)
    best = _best(runs)
    checked = check or not state.warm
    after = CurvatureState(
        vectors=best.vectors if math.isfinite(best.value) else None,
        count=state.count + 1,
        checked_at=step if checked else state.checked_at,
        warm=runs[0].steps < runs[1].steps
        if check and state.vectors is not None and len(runs) > 1
        else state.warm,
        off=off,
        groups=state.groups,
    )
    return after, _estimate(state, after, runs, check, product.method, widening, lost)


def _starts(product: Product, state: CurvatureState, check: bool, seed: int) -> list[Tensor]:
    """Where Lanczos starts: from the last vectors, at random, or both."""
    generator = torch.Generator(device=product.device).manual_seed(seed * 1_000_003 + state.count)

    def random() -> Tensor:
        shape, kind = product.dimension, product.dtype
        noise = torch.randn(shape, generator=generator, device=product.device, dtype=kind)
        return noise.div_(torch.linalg.vector_norm(noise))

    starts = []
    if state.vectors is not None and (state.warm or check):
        vectors = state.vectors.to(product.dtype)
        start = vectors[0]
        if len(vectors) > 1:
            start = torch.add(start, vectors[1], alpha=ADMIXTURE)
        start = start / torch.linalg.vector_norm(start)
        starts.append(start.add_(random(), alpha=ADMIXTURE))
    if check or not state.warm:
        starts.append(random())
    if state.vectors is None:
        starts.append(random())
    return starts


def _best(runs: list[Ritz]) -> Ritz:
    return max(runs, key=lambda one: (math.isfinite(one.value), one.value))


def _disagreement(product: Product, quick: Product, runs: list[Ritz]) -> float:
    """Error of products by differences along what was found; inf where nothing can tell."""
    best = _best(runs)
    if not math.isfinite(best.value):
        return math.inf
    off = disagreement(product, quick, best.vectors[0])
    # Without a second derivative the "exact" product is one of differences, too.
    return math.inf if product.method == "differences" else off


def _estimate(
    state: CurvatureState,
    after: CurvatureState,
    runs: list[Ritz],
    check: bool,
    method: str,
    widening: float,
    lost: int,
) -> Estimate:
    best = _best(runs)
    if not math.isfinite(best.value):
        return Estimate.missing("The Hessian of the probe's loss is not finite.")
    allowed = best.tolerance * best.scale
    flags, sentences = Flag.NONE, []
    if not best.converged:
        flags |= Flag.NOT_CONVERGED
        sentences.append(
            f"Lanczos stopped after {best.steps} products with a residual of "
            f"{best.residual:.2g}: an eigenvalue lies within it, the largest may be another."
        )
    elif not all(run.converged for run in runs):
        flags |= Flag.NOT_CONVERGED
        sentences.append("The cold check did not converge, so the value may not be the largest.")
    elif check and max(abs(run.value - best.value) for run in runs) > allowed:
        flags |= Flag.NOT_CONVERGED
        sentences.append(
            "A cold start and the other start disagree: another direction overtook since the "
            f"check at step {state.checked_at}."
            if state.checked_at >= 0
            else "Two random starts disagree; the larger is given."
        )
    if method == "differences":
        flags |= Flag.BELOW_PRECISION
        sentences.append(DIFFERENCES)
    if not flags:  # no flag, but what the number claims depends on it
        sentences.append(f"The largest eigenvalue by the cold check at step {after.checked_at}.")
    if widening:
        sentences.append(
            f"Products are differences of gradients, {100 * widening:.2g} % off an exact one "
            "at the last comparison."
        )
    half = best.residual + widening * abs(best.value)
    return Estimate(
        best.value,
        best.value - half,
        best.value + half,
        n=lost + sum(run.steps for run in runs),
        flags=flags,
        reason=" ".join(sentences),
        null=(min(r.value for r in runs), max(r.value for r in runs)) if check else None,
    )


def track_blocks(
    found: Mapping[str, PartProduct | None],
    states: Mapping[str, CurvatureState],
    series: str,
    options: Mapping[str, Any],
) -> tuple[dict[str, CurvatureState], dict[str, Estimate]]:
    """`track` for every block, each from its own state.

    Args:
        found: As `blocks` gives them.
        states: Of the earlier call, by part.
        series: Name of the series; parts are written behind its ``@``.
        options: Of `track`.

    Returns:
        Next states, and estimates by series.
    """
    after, scalars = {}, {}
    for name, block in found.items():
        if block is None:
            scalars[f"{series}@{name}"] = Estimate.missing(EMPTY_GROUP.format(name=name))
        else:
            after[name], scalars[f"{series}@{name}"] = track(block, states.get(name), **options)
    return after, scalars


def blocks(product: Product, groups: Groups, moment: Moment) -> dict[str, PartProduct | None]:
    """The diagonal blocks of a matrix over the weights that belong to parts of the model.

    Args:
        product: The whole matrix.
        groups: As an observable keeps them.
        moment: For its view.

    Returns:
        Name of the part to its block; ``None`` for a part that finds no trainable parameter.
    """
    found = resolve_groups(groups, moment.view)
    indices = {name: part_index(moment.view, members) for name, members in found.items()}
    return {name: PartProduct(product, i) if len(i) else None for name, i in indices.items()}


def scaled(estimate: Estimate, factor: float) -> Estimate:
    """An estimate times a number >= 0, interval, null and flags with it.

    Args:
        estimate: Any estimate.
        factor: At least 0.

    Returns:
        The product.

    Examples:
        >>> scaled(Estimate(2.0, 1.0, 3.0), 0.5).high
        1.5
    """
    null = estimate.null
    return Estimate(
        estimate.value * factor,
        estimate.low * factor,
        estimate.high * factor,
        n=estimate.n,
        flags=estimate.flags,
        reason=estimate.reason,
        null=None if null is None else (null[0] * factor, null[1] * factor),
    )
