"""The triple by layer: what its three parts read on their own, and on a model frozen elsewhere."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from foreshock.estimators import Curvature, GradientNoise, Ntk, Triple
from foreshock.probe.moment import Moment
from foreshock.probe.view import ModelView
from tests.cases import CASES, loss


def moments(frozen_but: str | None = None) -> list[Moment]:
    """Two moments of one training path, three steps apart; measured on all or on one layer."""
    case = CASES["mlp"]
    model, probe = case.model(), replace(case.probe(), train=case.batch(32, 7))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    found = []
    for step in (0, 3):
        twin = case.model()
        twin.load_state_dict(model.state_dict())
        for name, p in twin.named_parameters():
            p.requires_grad_(frozen_but is None or name.startswith(frozen_but))
        found.append(Moment(step, ModelView(twin), (), (0.3,), probe=probe))
        for i in range(3):
            optimizer.zero_grad()
            loss(model, case.batch(16, i)).backward()
            optimizer.step()
    return found


def test_the_parts_are_what_each_observable_reads_alone() -> None:
    triple, noise = Triple(), GradientNoise(groups="layer")
    curvature, ntk = Curvature(groups="layer", cold_every=25), Ntk()
    states = [triple.init(), None, curvature.init(), ntk.init()]
    for moment in moments():
        states[0], got = triple.update(states[0], moment)
        _, c = noise.update(None, moment)
        states[2], s = curvature.update(states[2], moment)
        states[3], rho = ntk.update(states[3], moment)
        for layer in ("", "@body.0", "@body.2", "@head"):
            assert got.scalars[f"triple/c{layer}"] == c.scalars[f"grad/snr{layer}"]
            top = s.scalars[f"hessian/lambda_max{layer}"]
            assert got.scalars[f"triple/s{layer}"].value == pytest.approx(top.value * 0.15)
        assert repr(got.scalars["triple/rho"]) == repr(rho.scalars["ntk/log_det_rate"])
    assert got.scalars["triple/rho@head"].value == got.scalars["triple/rho@head"].value


@pytest.mark.parametrize("layer", ["body.0", "head"])
def test_a_part_reads_what_a_model_frozen_elsewhere_reads(layer: str) -> None:
    """Freezing the rest leaves the same loss as a function of this layer alone."""
    triple, ntk, curvature = Triple(), Ntk(), Curvature(tolerance=1e-4)
    exact = Curvature(tolerance=1e-4, groups="layer")
    state, alone, bend, blocks = triple.init(), ntk.init(), curvature.init(), exact.init()
    for whole, part in zip(moments(), moments(frozen_but=layer), strict=True):
        state, got = triple.update(state, whole)
        alone, kernel = ntk.update(alone, part)
        bend, top = curvature.update(bend, part)
        blocks, block = exact.update(blocks, whole)
        _, noise = GradientNoise().update(None, part)
        assert got.scalars[f"triple/c@{layer}"].value == pytest.approx(
            noise.scalars["grad/snr"].value, rel=1e-5
        )
        # Both converged to 1e-4 of the same eigenvalue.
        assert block.scalars[f"hessian/lambda_max@{layer}"].value == pytest.approx(
            top.scalars["hessian/lambda_max"].value, rel=3e-4
        )
    rate = got.scalars[f"triple/rho@{layer}"]
    expected = kernel.scalars["ntk/log_det_rate"]
    # The kernel is of the same float32 gradients; the small eigenvalues carry their rounding.
    assert rate.value == pytest.approx(expected.value, rel=1e-3, abs=1e-5)


def test_refuses_what_it_cannot_divide() -> None:
    with pytest.raises(ValueError, match="must name parts"):
        Triple(groups=None)
    with pytest.raises(ValueError, match="at least 16"):
        Triple(examples=8)
