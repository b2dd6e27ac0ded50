"""(G + ε)⁻¹H: numpy's unsymmetric eigenvalues of dense matrices, and the published metric."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foreshock.estimators.natural import (
    NaturalStability,
    dense_hessian,
    largest_in_metric,
    output_metric,
)
from foreshock.probe.moment import Moment
from foreshock.probe.view import ModelView
from foreshock.types import Flag
from tests.cases import CASES, loss
from tests.estimators.test_curvature import dense

NAME = "hessian/natural_stability"


def measured(observable: NaturalStability, model: torch.nn.Module):
    probe = CASES["mlp"].probe(batches=2, size=8)
    view = ModelView(model)
    moment = Moment(0, view, tuple(None for _ in view.names), (0.1,), probe=probe)
    return observable.update(None, moment)[1].scalars[NAME], view, probe


def test_against_the_eigenvalues_of_the_quotient() -> None:
    model = CASES["mlp"].model().double()
    for module in model.modules():
        assert not isinstance(module, torch.nn.Dropout)
    case = CASES["mlp"]
    x, y = case.batch(8, seed=1)
    view = ModelView(model)
    h, method = dense_hessian(view, loss, (x.double(), y))
    assert method == "reverse"
    assert torch.allclose(h, dense(model, (x, y)), atol=1e-12)
    rows = []
    for one in x.double():
        summed = model.eval()(one[None]).sum()
        rows.append(
            torch.cat(
                [g.reshape(-1) for g in torch.autograd.grad(summed, list(model.parameters()))]
            )
        )
    g = (torch.stack(rows).T @ torch.stack(rows) / len(x)).numpy()
    probe = case.probe()
    assert np.allclose(output_metric(view, probe, x.double()).numpy(), g, atol=1e-12)
    epsilon = 0.01
    truth = np.abs(
        np.linalg.eigvals(np.linalg.solve(g + epsilon * np.eye(len(g)), h.numpy()))
    ).max()
    ours = largest_in_metric(h, torch.from_numpy(g), epsilon).item()
    # cond(G + ε) is about 1e4, so 1e-10 of float64 is left.
    assert ours == pytest.approx(truth, rel=1e-8)


def test_where_h_is_a_multiple_of_the_metric_it_is_that_multiple() -> None:
    root = torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    metric = root @ root.T
    eye = torch.eye(6, dtype=torch.float64)
    assert largest_in_metric(-3 * (metric + eye), metric, 1.0).item() == pytest.approx(3.0)


def test_the_observable_measures_small_models_and_refuses_large_ones() -> None:
    read, _, _ = measured(NaturalStability(), CASES["mlp"].model())
    assert read.value > 0 and not read.flags
    refused, _, _ = measured(NaturalStability(largest=100), CASES["mlp"].model())
    assert Flag.UNRESOLVED in refused.flags
    assert "trainable parameters" in refused.reason and "up to 100" in refused.reason


def test_weights_that_are_nan_get_a_sentence() -> None:
    model = CASES["mlp"].model()
    with torch.no_grad():
        model.head.weight.fill_(float("nan"))
    read, _, _ = measured(NaturalStability(), model)
    assert "not finite" in read.reason


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="`damping` of `NaturalStability` must be positive"):
        NaturalStability(damping=0.0)
    with pytest.raises(ValueError, match="`examples` of `NaturalStability` must be at least 1"):
        NaturalStability(examples=0)
    with pytest.raises(ValueError, match="`damping` of `largest_in_metric`"):
        largest_in_metric(torch.eye(2), torch.eye(2), 0.0)
