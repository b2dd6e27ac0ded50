"""Norms against numpy, and the step norm of an optimizer whose step is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import foreshock as fs
from tests.cases import CASES, loss


def test_norms_and_step_of_plain_sgd(tmp_path: Path) -> None:
    case, rate = CASES["transformer"], 0.05
    model = case.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    expected = []
    with fs.attach(model, optimizer, run=tmp_path / "r", observables="free", every=1):
        for step in range(4):
            optimizer.zero_grad()
            loss(model, case.batch(16, step)).backward()
            flat = [
                np.concatenate([t.detach().double().numpy().ravel() for t in tensors])
                for tensors in ([p.grad for p in model.parameters()], list(model.parameters()))
            ]
            expected.append([np.linalg.norm(v) for v in flat])
            optimizer.step()
    with fs.Run.open(tmp_path / "r") as run:
        gradient, weight = np.array(expected).T
        # float32 sums of squares inside one parameter: 1e-6
        np.testing.assert_allclose(run.series("grad/norm").value, gradient, rtol=1e-5)
        np.testing.assert_allclose(run.series("weight/norm").value, weight, rtol=1e-5)
        # a difference of float32 weights is rounded by 2^-24 of a weight, some 1e-4 of a step here
        np.testing.assert_allclose(run.series("update/step_norm").value, rate * gradient, rtol=1e-3)
        assert run.series("optim/lr").value.tolist() == [rate] * 4
        assert (np.diff(run.series("clock/seconds").value) > 0).all()


def test_tied_weights_count_once(tmp_path: Path) -> None:
    model = CASES["transformer"].model()
    assert model.unembed.weight is model.embed.weight
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with fs.attach(model, optimizer, run=tmp_path / "r", observables=["norms"], every=1):
        optimizer.step()
    total = sum(p.detach().double().square().sum() for p in model.parameters()).sqrt().item()
    with fs.Run.open(tmp_path / "r") as run:
        assert run.series("weight/norm").value[0] == pytest.approx(total, rel=1e-5)


def test_sixteen_bit_steps_are_flagged(tmp_path: Path) -> None:
    model = CASES["mlp"].model().bfloat16()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = CASES["mlp"].batch(8, 0)
    with fs.attach(model, optimizer, run=tmp_path / "r", observables=["step_norm"], every=1):
        loss(model, (x.bfloat16(), y)).backward()
        optimizer.step()
    with fs.Run.open(tmp_path / "r") as run:
        assert "below_precision" in run.series("update/step_norm").estimate(0).flags.names
