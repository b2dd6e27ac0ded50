"""What descent is made of: against loops, closed forms and the live model."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foreshock.estimators.descent_record import cross, losses_at, step_record
from foreshock.estimators.gradient_noise import CHUNK
from foreshock.probe.moment import BatchGradient
from foreshock.probe.view import ModelView
from tests.cases import CASES, loss


def test_products_of_rows_over_blocks() -> None:
    # Integers: exact in float64 whatever the order, so a lost or doubled column shows.
    rng = torch.Generator().manual_seed(0)
    left = torch.randint(-9, 9, (2, CHUNK + 3), generator=rng).float()
    right = torch.randint(-9, 9, (3, CHUNK + 3), generator=rng).float()
    weight = torch.randint(0, 9, (CHUNK + 3,), generator=rng).double()
    assert torch.equal(cross(left, right), left.double() @ right.double().T)
    assert torch.equal(cross(left, right, weight), (left * weight) @ right.double().T)


def test_losses_at_other_weights_and_from_one_seed() -> None:
    case = CASES["cnn"]
    model, other = case.model(), case.model(seed=1)
    leaves = [p.detach() for p in other.parameters()]
    other.load_state_dict(dict(model.named_buffers()), strict=False)
    batches = [case.batch(8, i) for i in range(3)]
    found = losses_at(ModelView(model), leaves, loss, batches)
    expected = [loss(other.eval(), b).item() for b in batches]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)

    def drawn(model: Any, batch: Any) -> Tensor:
        return loss(model, batch) * torch.rand(())

    first, again = losses_at(ModelView(model), leaves, drawn, [batches[0]] * 2).tolist()
    assert first == again


def test_a_record_is_what_a_quadratic_says() -> None:
    # L_b = w'H_b w/2 + c_b'w: gradients H_b w + c_b, and Hessians that differ from batch to batch.
    rng = np.random.default_rng(1)
    n, d = 5, 4
    roots = rng.standard_normal((n, d, d))
    h, c = roots @ roots.transpose(0, 2, 1), rng.standard_normal((n, d))
    w, u, planned = rng.standard_normal(d), rng.standard_normal(d), rng.standard_normal((n, d))
    model = nn.Linear(d, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.as_tensor(w)[None])

    def bowl(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
        x = model.weight[0]
        return x @ batch[0] @ x / 2 + batch[1] @ x

    view = ModelView(model)
    batches = [(torch.as_tensor(h[i]), torch.as_tensor(c[i])) for i in range(n)]
    taken = [BatchGradient(*view.gradient(bowl, b), 1, b) for b in batches]
    update, rates = (torch.as_tensor(u)[None],), (0.5,)
    record = step_record(view, bowl, taken, update, rates, torch.as_tensor(planned))
    g = h @ w + c

    def value(x: np.ndarray) -> np.ndarray:
        return np.einsum("i,nij,j->n", x, h, x) / 2 + c @ x

    following = np.roll(h, -1, axis=0)  # the Hessian for update j is that of batch j + 1
    expected = {
        "slopes": g @ u,
        "bends": np.einsum("i,nij,j->n", u, h, u),
        "after": value(w),
        "before": value(w - u),
        "scaled": 0.25 * g @ g.T,
        "products": g @ planned.T,
        "curvatures": np.einsum("ik,jkl,jl->ij", planned, following, planned),
        "spread": planned @ planned.T,
    }
    for name, numbers in expected.items():
        where = record if name in ("after", "before") else record.whole
        np.testing.assert_allclose(getattr(where, name), numbers, rtol=1e-10, err_msg=name)
    assert record.method == "reverse"
    without = step_record(view, bowl, taken, update, rates, None)
    assert np.isnan(without.whole.products).all() and np.isnan(without.whole.curvatures).all()
    np.testing.assert_allclose(without.whole.bends, expected["bends"], rtol=1e-10)
