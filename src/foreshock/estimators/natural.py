"""Stability of the natural gradient, (G + εI)⁻¹H, on small networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from foreshock.estimators.hvp import DIFFERENCES, HessianProduct
from foreshock.estimators.ntk import probe_inputs
from foreshock.probe.moment import Moment
from foreshock.probe.quiet import quiet
from foreshock.probe.spec import Probe
from foreshock.probe.view import ModelView, forward_of
from foreshock.types import Estimate, Flag, Readings, SeriesInfo

SERIES = "hessian/natural_stability"


def dense_hessian(view: ModelView, loss: Callable, batch: object) -> tuple[Tensor, str]:
    """The Hessian ``(d, d)`` in float64, by d products, and how they were taken.

    Args:
        view: The live weights.
        loss: ``loss(model, batch) -> scalar``.
        batch: One batch.

    Returns:
        The matrix, made symmetric, on the device; and the method of `HessianProduct`.

    Examples:
        >>> import torch
        >>> view = ModelView(torch.nn.Linear(2, 1, bias=False))
        >>> x = torch.tensor([[1.0, 2.0]])
        >>> dense_hessian(view, lambda m, x: m(x).pow(2).sum() / 2, x)[0].tolist()
        [[1.0, 2.0], [2.0, 4.0]]
    """
    with quiet(view.seed):
        product = HessianProduct(view, loss, batch)
        d = product.dimension
        eye = torch.eye(d, dtype=product.dtype, device=product.device)
        # As many rows at once as make 8 million numbers a parameter copy: ad hoc.
        chunk = max(1, min(256, 8_000_000 // d))
        rows = torch.cat([product.rows(part) for part in eye.split(chunk)]).double()
    return (rows + rows.T) / 2, product.method


def output_metric(view: ModelView, probe: Probe, inputs: Tensor) -> Tensor:
    """G = (1/n) Σ_i ∇f(x_i) ∇f(x_i)', f the sum of the outputs: the published metric, ``(d, d)``.

    Args:
        view: The live weights.
        probe: For its ``forward``.
        inputs: n inputs.

    Returns:
        Float64, of rank at most n.
    """
    forward = forward_of(probe)
    with quiet(view.seed):
        leaves = view.leaves()
        rows = []
        for x in inputs:
            value = view.call(leaves, forward, x.unsqueeze(0)).sum()
            gradient = torch.autograd.grad(value, leaves, materialize_grads=True, allow_unused=True)
            rows.append(torch.cat([g.reshape(-1) for g in gradient]).double())
    jacobian = torch.stack(rows)
    return jacobian.T @ jacobian / len(inputs)


def largest_in_metric(hessian: Tensor, metric: Tensor, damping: float) -> Tensor:
    """Largest absolute eigenvalue of (G + εI)⁻¹H.

    It is that of the symmetric R⁻¹HR⁻ᵀ with G + εI = RR' (Cholesky), so all are real.

    Args:
        hessian: H ``(d, d)``, symmetric.
        metric: G ``(d, d)``, positive semidefinite.
        damping: ε > 0.

    Returns:
        ``()`` float64, on the device.

    Raises:
        ValueError: If ``damping`` is not positive.

    Examples:
        >>> import torch
        >>> h = torch.diag(torch.tensor([1.0, -6.0]).double())
        >>> g = torch.diag(torch.tensor([1.0, 2.0]).double())
        >>> round(largest_in_metric(h, g, 1.0).item(), 6)  # max(1/2, 6/3)
        2.0
    """
    if not damping > 0:
        raise ValueError(f"The `damping` of `largest_in_metric` must be positive. Got {damping}.")
    eye = torch.eye(len(metric), dtype=metric.dtype, device=metric.device)
    root = torch.linalg.cholesky(metric + damping * eye)
    half = torch.linalg.solve_triangular(root, hessian, upper=False)
    both = torch.linalg.solve_triangular(root, half.T, upper=False)
    return torch.linalg.eigvalsh((both + both.T) / 2).abs().max()


@dataclass(frozen=True)
class NaturalStability:
    """The stability criterion that Geometric Lévy Dynamics derives: eigenvalues of G⁻¹H.

    ``hessian/natural_stability`` = max |λ((G + εI)⁻¹H)|, G = (1/n) Σ ∇f_i ∇f_i' the published
    metric of the summed outputs over the probe's training inputs, H the Hessian on the first batch.
    The document asks for |1 − ηλ_i| < 1; multiply with η and compare with 2. It describes a run
    that steps along G⁻¹∇L, which no optimizer here does.

    G has rank at most n, so on all other directions ε alone decides: the number is of order
    |H|/ε off the span of the outputs, and it is a statement about ``damping`` first. Compare along
    a run only.

    **Cost.** d products, d²·8 bytes thrice, and d³: dense, so for at most ``largest`` parameters.

    Args:
        damping: ε relative to the mean of G's diagonal, tr G/d.
        examples: How many training inputs G is taken over.
        largest: Parameters beyond which nothing is measured.

    Raises:
        ValueError: If ``damping`` is not positive, or ``examples`` or ``largest`` below 1.

    References:
        Geometric Lévy Dynamics (the documents), section 2.

    Examples:
        >>> NaturalStability().series[0].name
        'hessian/natural_stability'
    """

    damping: float = 1e-3
    examples: int = 64
    largest: int = 5000
    name: str = "natural"
    needs: frozenset[str] = frozenset({"probe", "inputs", "batch"})
    price: float = 2000.0
    stride: int = 0

    def __post_init__(self) -> None:
        if not self.damping > 0:
            raise ValueError(
                f"The `damping` of `NaturalStability` must be positive. Got {self.damping}."
            )
        for field in ("examples", "largest"):
            if getattr(self, field) < 1:
                raise ValueError(
                    f"The `{field}` of `NaturalStability` must be at least 1. "
                    f"Got {getattr(self, field)}."
                )

    @property
    def series(self) -> tuple[SeriesInfo, ...]:
        """What every measurement writes."""
        return (
            SeriesInfo(
                SERIES,
                "largest |eigenvalue| of (G + ε)⁻¹H",
                "1/step size",
                "0 for a loss without curvature; of order |H|/ε otherwise",
                formula="max |λ((G + εI)⁻¹H)|, G = mean ∇f∇f', dense",
                oracle="numpy's unsymmetric eigenvalues of the dense quotient",
                source="levy.md 2",
            ),
        )

    def init(self) -> None:
        """No state."""

    def update(self, state: None, moment: Moment) -> tuple[None, Readings]:
        """Measure at one moment."""
        return state, Readings({SERIES: self._measure(moment)})

    def _measure(self, moment: Moment) -> Estimate:
        assert moment.probe is not None
        view, probe = moment.view, moment.probe
        d = sum(p.numel() for p in view.parameters)
        if d > self.largest:
            return Estimate.missing(
                f"The model has {d:,} trainable parameters; (G + ε)⁻¹H is dense and is taken up to "
                f"{self.largest:,}."
            )
        inputs = probe_inputs(probe, self.examples)
        if not len(inputs):
            return Estimate.missing("The probe has no training inputs, so there is no metric G.")
        metric = output_metric(view, probe, inputs)
        dense, method = dense_hessian(view, probe.loss, view.draw(probe, 0)[0])
        trace = metric.trace()
        # A metric that is not finite, or 0, would raise inside LAPACK: ask first, with one number.
        if not bool(torch.isfinite(dense).all() & torch.isfinite(metric).all() & (trace > 0)):
            return Estimate.missing("H or G is not finite, or no output depends on the weights.")
        value = largest_in_metric(dense, metric, self.damping * trace.item() / d).item()
        if method == "differences":
            return Estimate(
                value, value, value, n=d, flags=Flag.BELOW_PRECISION, reason=DIFFERENCES
            )
        return Estimate.exact(value, n=d)
