"""Update window: the running dot table against the window built from snapshots at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foreshock.estimators import UpdateWindow, update_dots
from foreshock.probe.moment import Moment
from foreshock.probe.view import ModelView
from foreshock.stats.window import window_spectrum


class Cloud(torch.nn.Module):
    """Weights that a test moves by hand."""

    def __init__(self, d: int = 500) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(d))


def walk(observable: UpdateWindow, deltas: torch.Tensor, steps: list[int] | None = None) -> list:
    model = Cloud(deltas.shape[1])
    view, state, found = ModelView(model), observable.init(), []
    for index in range(len(deltas) + 1):
        step = index * observable.stride if steps is None else steps[index]
        state, readings = observable.update(state, Moment(step, view, (None,), (0.1,)))
        found.append(readings)
        if index < len(deltas):
            with torch.no_grad():
                model.weight += deltas[index]
    return found


def test_the_ring_equals_the_window_at_once() -> None:
    deltas = torch.randn(9, 500, generator=torch.Generator().manual_seed(0))
    found = walk(UpdateWindow(width=4, stride=5), deltas)
    snapshots = torch.cat([torch.zeros(1, 500), deltas.cumsum(0)])
    exact = (snapshots[1:] - snapshots[:-1]).double().numpy()
    for index in range(4, 10):
        window = exact[index - 4 : index]
        expected = window_spectrum(window @ window.T)
        # cumsum and += round float32 weights of size 3 in another order: 1e-6 of an update
        for name, estimate in expected.scalars.items():
            got = found[index].scalars[name].value
            assert got == pytest.approx(estimate.value, rel=1e-4, abs=1e-5, nan_ok=True), name
        np.testing.assert_allclose(
            found[index].arrays["update/spectrum"], expected.arrays["update/spectrum"], rtol=1e-4
        )


def test_says_how_full_it_is_and_nothing_else() -> None:
    found = walk(UpdateWindow(width=3, stride=2), torch.randn(4, 50))
    reasons = [r.scalars["update/k_star"].reason for r in found]
    assert [("0 of 3" in reasons[0]), ("2 of 3" in reasons[2])] == [True, True]
    assert all("filling" not in reason for reason in reasons[3:])


def test_an_uneven_step_empties_the_window() -> None:
    found = walk(UpdateWindow(width=3, stride=1), torch.randn(5, 50), [0, 1, 2, 4, 5, 6])
    assert "0 of 3" in found[3].scalars["update/k_star"].reason
    assert "2 of 3" in found[5].scalars["update/k_star"].reason


def test_scale_free_outputs_do_not_move_with_the_learning_rate() -> None:
    deltas = torch.randn(4, 500, generator=torch.Generator().manual_seed(1))
    small, large = (
        walk(UpdateWindow(width=4, stride=1), factor * deltas)[-1] for factor in (1, 64)
    )
    for name in ("k_star", "ratio", "gap_1", "rho_1", "effective_rank"):
        a, b = small.scalars[f"update/{name}"].value, large.scalars[f"update/{name}"].value
        assert a == pytest.approx(b, rel=1e-4, abs=1e-5), name  # 64 is exact, sums are not
    assert large.scalars["update/norm"].value == pytest.approx(
        64 * small.scalars["update/norm"].value, rel=1e-4
    )


def test_noise_has_no_edge_and_a_drift_has_one() -> None:
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn(10, 2000, generator=generator)
    drift = noise + 3 * torch.randn(1, 2000, generator=generator)
    quiet_, moving = (walk(UpdateWindow(stride=1), d)[-1].scalars for d in (noise, drift))
    assert "no_edge" in quiet_["update/k_star"].flags.names
    assert moving["update/k_star"].value == 1
    assert "no_edge" not in moving["update/k_star"].flags.names


def test_dots_are_accumulated_in_float64() -> None:
    # 1 + 2^-24 · 2^20 ones: a float32 running sum of small terms onto a large one loses them
    row = torch.full((1, 1 << 20), 2.0**-12)
    row[0, 0] = 2.0**12
    assert update_dots(row, row[0]).item() == 2.0**24 + ((1 << 20) - 1) * 2.0**-24


def test_coarse_weights_are_flagged() -> None:
    model = Cloud(50).bfloat16()
    view, observable = ModelView(model), UpdateWindow(width=3, stride=1)
    state = observable.init()
    for step in range(5):
        state, readings = observable.update(state, Moment(step, view, (None,), (0.1,)))
        with torch.no_grad():
            model.weight += torch.randn(50).bfloat16()
    assert "below_precision" in readings.scalars["update/k_star"].flags.names


def test_arguments() -> None:
    with pytest.raises(ValueError, match="`width` of `UpdateWindow` must be at least 3. Got 1"):
        UpdateWindow(width=1)
    with pytest.raises(ValueError, match="`stride` of `UpdateWindow` must be at least 1. Got 0"):
        UpdateWindow(stride=0)
