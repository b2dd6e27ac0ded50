"""Stability: torch's own optimizers on a quadratic, just below and just above the edge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from foreshock.estimators.spectrum import Spectrum
from foreshock.estimators.stability import Stability
from foreshock.probe import Probe
from foreshock.probe.moment import Moment
from foreshock.probe.optimizer import OptimizerView
from foreshock.probe.view import ModelView
from foreshock.types import Estimate, Flag
from tests.cases import CASES

D = 6


class Bowl(torch.nn.Module):
    """Two parameters, so that groups can differ; the loss below is a quadratic with Hessian A."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        start = torch.randn(D, generator=generator, dtype=torch.float64)
        self.first = torch.nn.Parameter(start[:2].clone())
        self.second = torch.nn.Parameter(start[2:].clone())

    def flat(self) -> torch.Tensor:
        return torch.cat([self.first, self.second])


def _matrix() -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    root = torch.randn(D, D, generator=generator, dtype=torch.float64)
    return root @ root.T + 0.1 * torch.eye(D, dtype=torch.float64)


MATRIX = _matrix()


def quadratic(model: Bowl, scale: float) -> torch.Tensor:
    theta = torch.cat([model.first, model.second])
    return scale * theta @ MATRIX @ theta / 2


def moment_of(model: Bowl, optimizer: torch.optim.Optimizer, scale: float) -> Moment:
    view = ModelView(model)
    return Moment(
        step=0,
        view=view,
        gradients=(None, None),
        learning_rates=(0.1,),
        optimizer=OptimizerView(optimizer, view),
        probe=Probe(loss=quadratic, batches=[scale]),
    )


def stability(model: Bowl, optimizer: torch.optim.Optimizer, scale: float):
    moment = moment_of(model, optimizer, scale)
    return (
        Stability(tolerance=1e-6).update(Stability().init(), moment)[1].scalars["hessian/stability"]
    )


def groups(model: Bowl) -> list[dict]:
    return [{"params": [model.first], "lr": 0.02}, {"params": [model.second], "lr": 0.07}]


SGD = torch.optim.SGD
OPTIMIZERS: dict[str, Callable[[Bowl], torch.optim.Optimizer]] = {
    "plain": lambda m: SGD(m.parameters(), lr=0.05),
    "heavy ball": lambda m: SGD(m.parameters(), lr=0.05, momentum=0.9),
    "dampening": lambda m: SGD(m.parameters(), lr=0.05, momentum=0.9, dampening=0.3),
    "nesterov": lambda m: SGD(m.parameters(), lr=0.05, momentum=0.9, nesterov=True),
    "coupled decay": lambda m: SGD(m.parameters(), lr=0.05, momentum=0.5, weight_decay=2.0),
    "two rates": lambda m: SGD(groups(m), lr=0.05, momentum=0.8),
}


def diverges(
    make: Callable[[Bowl], torch.optim.Optimizer], scale: float, *, freeze: bool = False
) -> bool:
    """Whether the weights grow from step 300 to 900.

    At 1 % from the edge the root near −1 is off by at least .02 (plain descent, the slowest here):
    a factor of 1.02^600 = 1e5, while all other modes only decay.
    """
    model = Bowl()
    optimizer = make(model)
    if freeze:
        settle(model, optimizer)
    middle = 0.0
    for step in range(900):
        if freeze:
            hold_metric(optimizer)
        optimizer.zero_grad()
        quadratic(model, scale).backward()
        optimizer.step()
        if step == 300:
            middle = model.flat().norm().item()
        if not model.flat().norm().item() < 1e6:
            return True
    return model.flat().norm().item() > middle


KEPT = [torch.tensor([0.4, 3.0]), torch.tensor([1.0, 0.2, 5.0, 2.0])]


def settle(model: Bowl, optimizer: torch.optim.Optimizer) -> None:
    """Give Adam a state as after very many steps, with second moments of our choice."""
    for parameter, kept in zip((model.first, model.second), KEPT, strict=True):
        optimizer.state[parameter] = {
            "step": torch.tensor(1e6),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": kept.double().square(),
        }


def hold_metric(optimizer: torch.optim.Optimizer) -> None:
    """Second moments back to where they were: β₂ so near 1 that a step does not move them."""
    for state, kept in zip(optimizer.state.values(), KEPT, strict=True):
        state["exp_avg_sq"].copy_(kept.double().square())


def test_edges_are_those_of_the_real_optimizers() -> None:
    for name, make in OPTIMIZERS.items():
        # Scale the quadratic to either side of the edge; with weight decay the part of the decay
        # does not scale, so look for the scale by two readings of an affine function.
        model = Bowl()
        one, two = (stability(model, make(model), s).value for s in (1.0, 2.0))
        edge = 1.0 + (1.0 - one) / (two - one)
        read = stability(model, make(model), edge)
        assert read.value == pytest.approx(1.0, abs=1e-5), name
        assert not diverges(make, 0.99 * edge), name
        assert diverges(make, 1.01 * edge), name


def adam(model: Bowl) -> torch.optim.Optimizer:
    # eps as large as some of the metric, so that leaving it out would show.
    return torch.optim.Adam(
        model.parameters(), lr=0.3, betas=(0.9, 1 - 1e-12), eps=0.1, weight_decay=0.05
    )


def adamw(model: Bowl) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        model.parameters(), lr=0.3, betas=(0.8, 1 - 1e-12), eps=0.1, weight_decay=1.0
    )


@pytest.mark.parametrize("make", [adam, adamw])
def test_adam_with_a_frozen_metric(make: Callable[[Bowl], torch.optim.Optimizer]) -> None:
    def read(scale: float) -> float:
        model = Bowl()
        optimizer = make(model)
        settle(model, optimizer)
        return stability(model, optimizer, scale).value

    one, two = read(1.0), read(2.0)
    edge = 1.0 + (1.0 - one) / (two - one)
    for _ in range(20):  # R H R + a is affine only where a is a multiple of the identity
        now, slope = read(edge), (read(1.01 * edge) - read(edge)) / (0.01 * edge)
        edge += (1.0 - now) / slope
    assert read(edge) == pytest.approx(1.0, abs=1e-5)
    assert not diverges(make, 0.99 * edge, freeze=True)
    assert diverges(make, 1.01 * edge, freeze=True)


def test_unknown_absent_and_maximising_optimizers_get_a_sentence() -> None:
    model = Bowl()

    class Lion(torch.optim.SGD):
        pass

    for optimizer, words in (
        (Lion(model.parameters(), lr=0.1), "Lion is not one of"),
        (torch.optim.Adam(model.parameters(), lr=0.1), "has made no step yet"),
        (torch.optim.SGD(model.parameters(), lr=0.1, maximize=True), "maximises"),
    ):
        read = stability(model, optimizer, 1.0)
        assert Flag.UNRESOLVED in read.flags
        assert words in read.reason


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="`cold_every` of `Stability` must be at least 1. Got 0"):
        Stability(cold_every=0)
    with pytest.raises(ValueError, match="`on` of `Stability` must be"):
        Stability(on="all")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`tolerance` of `Stability`"):
        Stability(tolerance=0.0)


def test_a_part_has_the_edge_of_a_model_frozen_elsewhere() -> None:
    """With the rest of the weights still, a part is a model of its own."""
    case = CASES["mlp"]

    def moment_of(layer: str | None) -> Moment:
        model = case.model()
        for name, p in model.named_parameters():
            p.requires_grad_(layer is None or name.startswith(layer))
        view = ModelView(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        return Moment(0, view, (), (0.1,), OptimizerView(optimizer, view), probe=case.probe())

    def read(observable: Any, layer: str | None = None) -> dict[str, Estimate]:
        return dict(observable.update(observable.init(), moment_of(layer))[1].scalars)

    parts = read(Stability(tolerance=1e-5, groups="layer"))
    spectra = read(Spectrum(groups="layer"))
    for layer in ("body.0", "head"):
        alone = read(Stability(tolerance=1e-5), layer)["hessian/stability"].value
        assert parts[f"hessian/stability@{layer}"].value == pytest.approx(alone, rel=1e-4)
        dense = read(Spectrum(products=400), layer)  # more products than weights: exact
        trace = spectra[f"hessian/trace@{layer}"]
        # Twice the 95 % half-width: a t of 15 degrees of freedom lies beyond it in 6 of 10,000.
        error = abs(trace.value - dense["hessian/trace"].value)
        assert error <= trace.high - trace.low
        low = dense["hessian/lambda_min"]
        got = spectra[f"hessian/lambda_min@{layer}"]
        assert got.low <= low.high and low.low <= got.high
    assert parts["hessian/stability"].value >= max(
        parts[f"hessian/stability@{layer}"].value for layer in ("body.0", "head")
    )


@pytest.mark.parametrize("make", [adam, adamw])
def test_between_checks_the_metric_scales_the_cheaper_products_too(
    make: Callable[[Bowl], torch.optim.Optimizer],
) -> None:
    model = Bowl()
    optimizer = make(model)
    settle(model, optimizer)
    moment = moment_of(model, optimizer, 0.1)
    observable = Stability()
    state, first = observable.update(observable.init(), moment)
    _, second = observable.update(state, moment)
    exact, quick = (r.scalars["hessian/stability"] for r in (first, second))
    assert "differences" in quick.reason and "differences" not in exact.reason
    # A quadratic has no truncation, and float64's rounding is 1e-6 of it: the tolerance of Lanczos.
    assert quick.value == pytest.approx(exact.value, rel=0.01)
    assert quick.low <= exact.value <= quick.high
