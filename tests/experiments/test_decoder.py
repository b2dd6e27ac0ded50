"""The decoder: causal, its attention is the textbook's, and it can be differentiated twice."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn import functional

from foreshock.experiments.decoder import Attention, Decoder, cross_entropy, parameters, token_loss


def small(**fields: Any) -> Decoder:
    settings: dict[str, Any] = {"width": 8, "heads": 2, "layers": 2, **fields}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Decoder(7, 6, **settings).double()


def some_tokens(count: int = 3) -> torch.Tensor:
    return torch.randint(7, (count, 6), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("mlp", [True, False])
def test_no_position_sees_what_comes_after_it(mlp: bool) -> None:
    model, tokens = small(mlp=mlp), some_tokens()
    other = tokens.clone()
    other[:, 4] = (other[:, 4] + 1) % 7
    with torch.no_grad():
        one, two = model(tokens), model(other)
    assert torch.equal(one[:, :4], two[:, :4])
    assert not torch.isclose(one[:, 4:], two[:, 4:]).all(2).any()


def test_attention_against_loops_and_against_the_fused_kernel() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        attention, x = Attention(8, 2).double(), torch.randn(2, 5, 8, dtype=torch.float64)
    with torch.no_grad():
        found = attention(x)
        q, k, v = (attention.queries_keys_values.weight @ x[..., None])[..., 0].split(8, dim=-1)
        mixed = torch.zeros(2, 5, 8, dtype=torch.float64)
        for n in range(2):
            for head in (slice(0, 4), slice(4, 8)):
                for t in range(5):
                    scores = [
                        math.exp(float(q[n, t, head] @ k[n, s, head]) / 2) for s in range(t + 1)
                    ]
                    for s in range(t + 1):
                        mixed[n, t, head] += scores[s] / sum(scores) * v[n, s, head]
        heads = [part.view(2, 5, 2, 4).transpose(1, 2) for part in (q, k, v)]
        fused = functional.scaled_dot_product_attention(
            heads[0], heads[1], heads[2], is_causal=True
        )
        # sums of at most 8 doubles of order 1
        torch.testing.assert_close(found, attention.out(mixed), rtol=0, atol=1e-12)
        whole = attention.out(fused.transpose(1, 2).flatten(2))
        torch.testing.assert_close(found, whole, rtol=0, atol=1e-12)


def test_the_weights_that_are_shown_are_those_that_are_used() -> None:
    model, tokens = small(layers=1), some_tokens()
    with torch.no_grad():
        (weights,) = model.attention(tokens)
    assert weights.shape == (3, 2, 6, 6)
    torch.testing.assert_close(weights.sum(3), torch.ones(3, 2, 6, dtype=torch.float64))
    assert not weights.triu(1).any()
    one = model.blocks[0]
    with torch.no_grad():
        x = one.norm(model.stream(tokens))  # type: ignore[operator]
        _, values = one.attention.weights(x)  # type: ignore[union-attr, operator]
        mixed = (weights @ values).transpose(1, 2).flatten(2)
        torch.testing.assert_close(one.attention(x), one.attention.out(mixed))  # type: ignore[operator, union-attr]


def test_a_hessian_product_is_the_difference_of_gradients() -> None:
    model, tokens = small(), some_tokens()
    weights = list(model.parameters())
    batch = (tokens[:, :-1], tokens[:, 1:])
    direction = [torch.full_like(w, 0.01) for w in weights]
    gradient = torch.autograd.grad(token_loss(model, batch), weights, create_graph=True)
    product = torch.autograd.grad(gradient, weights, direction, materialize_grads=True)
    step, sides = 1e-4, []
    for sign in (1, -1):
        with torch.no_grad():
            for w, d in zip(weights, direction, strict=True):
                w += sign * step * d
        sides.append(
            torch.autograd.grad(
                token_loss(model, batch), weights, materialize_grads=True, allow_unused=True
            )
        )
        with torch.no_grad():
            for w, d in zip(weights, direction, strict=True):
                w -= sign * step * d
    for exact, plus, minus in zip(product, *sides, strict=True):
        # rounding 1e-16 / 1e-4 and truncation (1e-6)^2 are both far below
        torch.testing.assert_close(exact, (plus - minus) / (2 * step), rtol=1e-5, atol=1e-8)


def test_numbers_of_parameters_are_those_of_the_reference() -> None:
    sizes = {(2, 64): 101_952, (1, 32): 13_792, (1, 16): 3_824}
    for (layers, width), count in sizes.items():
        assert parameters(Decoder(12, 11, width=width, heads=4, layers=layers)) == count
    without = Decoder(12, 11, width=16, heads=4, layers=1, mlp=False)
    # norm 2 * 16, and 16 to 64 to 16 with biases
    assert parameters(without) == 3_824 - (32 + 16 * 64 + 64 + 64 * 16 + 16)


def test_the_loss_is_over_what_is_asked_only() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    labels = torch.tensor([[-100, 1, 2], [3, -100, 0]])
    chances = logits.softmax(2)
    asked = [(0, 1, 1), (0, 2, 2), (1, 0, 3), (1, 2, 0)]
    by_hand = -sum(math.log(float(chances[place])) for place in asked) / 4
    assert cross_entropy(logits, labels).item() == pytest.approx(by_hand, rel=1e-12)


def test_a_width_that_heads_cannot_share_is_refused() -> None:
    with pytest.raises(ValueError, match=r"The `width` of `Decoder` must be a multiple .* Got 10"):
        Decoder(7, 6, width=10, heads=4, layers=1)


def test_a_network_may_have_any_precision() -> None:
    tokens = some_tokens()
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        logits = small().to(dtype)(tokens)
        assert logits.dtype == dtype
        # Eight bits of mantissa, and logits of order 1 through two layers.
        assert torch.allclose(logits.double(), small()(tokens), atol=0.1)
