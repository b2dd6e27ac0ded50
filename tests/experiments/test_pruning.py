"""Masks and scores: counts, and the Gauss-Newton diagonal against automatic differentiation."""

from __future__ import annotations

import math

import torch
from torch import nn

from foreshock.experiments import pruning
from foreshock.experiments.digits import load_digits
from foreshock.experiments.lottery_ticket import loss_of


def tiny() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


def test_fourteen_rounds_leave_a_twenty_third() -> None:
    model, masks = tiny(), [torch.ones(300, 64), torch.ones(100, 300)]
    for number in range(14):
        generator = torch.Generator().manual_seed(number)
        masks = pruning.pruned(masks, [torch.rand(m.shape, generator=generator) for m in masks])
    # 0.8^14, each round to a whole weight: at most half a weight a round, 14 in all.
    for mask in masks:
        assert abs(mask.sum().item() - 0.8**14 * mask.numel()) <= 14
    assert len(pruning.whole(model)) == 2  # weight matrices, no biases


def test_what_is_gone_stays_gone_and_the_least_goes() -> None:
    mask = torch.tensor([1.0, 0, 1, 1, 1, 1])
    score = torch.tensor([0.3, 0.0, 0.2, 0.9, 0.8, 0.7])
    (told,) = pruning.pruned([mask], [score])
    assert told.tolist() == [1, 0, 0, 1, 1, 1]


def test_gauss_newton_diagonal_is_the_hessian_of_a_linear_model() -> None:
    # For logits linear in the weights the Gauss-Newton matrix is the Hessian.
    torch.manual_seed(1)
    layer, x, y = nn.Linear(4, 3), torch.randn(7, 4), torch.randint(3, (7,))
    bias = layer.bias.detach()

    def loss(flat: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(x @ flat.reshape(3, 4).T + bias, y)

    exact = torch.autograd.functional.hessian(loss, layer.weight.detach().flatten()).diagonal()
    (found,) = pruning.gauss_newton_diagonal(nn.Sequential(layer), x)
    assert torch.allclose(found.flatten(), exact, atol=1e-6)


def test_gauss_newton_diagonal_through_a_hidden_layer() -> None:
    model, x = tiny(), torch.randn(6, 4)
    p = model(x).softmax(1).detach()
    exact = [torch.zeros_like(w) for w in pruning.matrices(model)]
    for i in range(len(x)):
        logits = model(x[i : i + 1])[0]
        rows = [torch.autograd.grad(z, pruning.matrices(model), retain_graph=True) for z in logits]
        for k, one in enumerate(exact):
            g = torch.stack([row[k] for row in rows])
            weight = p[i][:, None, None]
            one += (weight * g.square()).sum(0) - (weight * g).sum(0).square()
    for found, want in zip(pruning.gauss_newton_diagonal(model, x), exact, strict=True):
        assert torch.allclose(found, want / len(x), atol=1e-6)


def test_a_masked_layer_is_the_layer_without_those_weights() -> None:
    torch.manual_seed(2)
    plain = nn.Linear(4, 3)
    model = nn.Sequential(pruning.MaskedLinear(4, 3))
    model[0].load_state_dict(plain.state_dict(), strict=False)  # all but the mask
    mask, x = torch.tensor([[1.0, 0, 1, 0]] * 3), torch.randn(5, 4)
    pruning.apply(model, [mask])
    want = x @ (plain.weight * mask).T + plain.bias
    assert torch.allclose(model(x), want, atol=1e-6)
    model(x).square().sum().backward()
    assert (pruning.matrices(model)[0].grad[mask == 0] == 0).all()  # type: ignore[index]


def test_initial_weights_keep_the_variance_of_what_passes_through() -> None:
    torch.manual_seed(3)
    layer = pruning.MaskedLinear(300, 200)
    # The variance of 60,000 normal numbers is off by sqrt(2/60,000) = .6 %; five of these.
    assert abs(layer.weight.var().item() * 300 / 2 - 1) < 0.03
    assert not layer.bias.any()


def test_snr_of_known_gradients() -> None:
    model = nn.Sequential(nn.Linear(1, 1, bias=False))

    def loss(one: nn.Module, batch: float) -> torch.Tensor:
        return one[0].weight.sum() * batch  # type: ignore[index]

    (found,) = pruning.gradient_snr(model, loss, [1.0, 2.0, 3.0])
    assert math.isclose(found.item(), 4.0, rel_tol=1e-6)  # mean 2, variance 1


def test_a_pixel_that_is_always_black_has_no_snr() -> None:
    train, _ = load_digits(0)
    black = (train[0].max(0).values == 0).nonzero()[:, 0]
    assert len(black) > 0
    model = nn.Sequential(nn.Linear(64, 10))
    batches = [(train[0][i : i + 32], train[1][i : i + 32]) for i in (0, 32, 64)]
    (found,) = pruning.gradient_snr(model, loss_of, batches)
    assert (found[:, black] == 0).all() and torch.isfinite(found).all()
