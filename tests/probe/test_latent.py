"""Latents: against forward passes, decoders and central differences that are written by hand."""

from __future__ import annotations

import copy
import dataclasses
import random
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from foreshock.probe import LatentSite, Probe
from foreshock.probe.latent import decode, latents, loss_gradients, moves
from foreshock.probe.latent_layer import first_tensor, replaced
from foreshock.probe.view import ModelView, forward_of
from tests.cases import CASES, CLASSES

N, T = 5, 4


class Encoder(nn.Module):
    """A layer of torch's own, with a fused path in evaluation mode that skips what is inside."""

    def __init__(self, vocabulary: int = 12) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(tokens)).mean(1))


@dataclasses.dataclass
class Output(OrderedDict):
    """As the model outputs of Hugging Face: a mapping whose entries are attributes, too."""

    last_hidden_state: Any = None
    logits: Any = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) is not None:
                self[field.name] = getattr(self, field.name)

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        super().__setattr__(key, value)

    def __reduce__(self) -> Any:
        return Output, tuple(getattr(self, f.name) for f in dataclasses.fields(self))


class Body(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 6)
        self.mix = nn.Linear(6, 6)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Output:
        return Output(last_hidden_state=torch.tanh(self.mix(self.embed(input_ids))))


class Language(nn.Module):
    """Called with a mapping, answers with one; the last kept token decides."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Body()
        self.score = nn.Linear(6, CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Any = None) -> dict:
        hidden = self.body(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        last = attention_mask.sum(1) - 1
        kept = hidden * attention_mask.unsqueeze(2)
        return {"logits": self.score(hidden[torch.arange(len(last)), last] + kept.sum(1))}


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 5, batch_first=True)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class Shared(nn.Module):
    """One module called twice, under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(6, 6)
        self.again = self.mix
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.mix(torch.tanh(self.again(x)))))


# By hand: (model, inputs, delta) -> latents and logits, delta (N, D) added to the latents.
def mlp(m: Any, x: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    z = m.body[0](x)
    return z, m.head(torch.tanh(m.body[2](torch.relu(z + delta))))


def mlp_input(m: Any, x: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    z = torch.tanh(m.body[2](torch.relu(m.body[0](x))))
    return z, m.head(z + delta)


def cnn(m: Any, x: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    h = m.norm(m.conv(x))
    moved = torch.relu(h + delta[:, :, None, None])
    return h.mean((2, 3)), m.head(functional.avg_pool2d(moved, 2).flatten(1))


def cnn_flat(m: Any, x: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    h = m.norm(m.conv(x))
    moved = torch.relu(h + delta.reshape(h.shape))
    return h.flatten(1), m.head(functional.avg_pool2d(moved, 2).flatten(1))


def blocks(pick: Any) -> Callable[..., tuple[Tensor, Tensor]]:
    def run(m: Any, tokens: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        x = m.embed(tokens)
        h = x
        for i, block in enumerate(m.blocks):
            b, t, w = x.shape
            qkv = block["qkv"](block["norm1"](x)).reshape(b, t, 3, m.heads, w // m.heads)
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            scores = (q @ k.mT / (w // m.heads) ** 0.5).masked_fill(
                torch.ones(t, t).triu(1).bool(), -torch.inf
            )
            x = x + block["out"]((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, t, w))
            h = block["up"](block["norm2"](x))
            if i == 0:
                z = h.mean(1) if pick == "mean" else h[:, pick]
                where = torch.ones(t) if pick == "mean" else torch.eye(t)[pick]
                h = h + where.to(h)[None, :, None] * delta[:, None]
            x = x + block["down"](functional.gelu(h))
        pooled = x.mean(1)
        return z, m.head(pooled) + m.unembed(pooled)[:, :CLASSES]

    return run


def encoder(m: Any, tokens: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    x, layer = m.embed(tokens), m.layer
    attention = layer.self_attn
    qkv = functional.linear(x, attention.in_proj_weight, attention.in_proj_bias)
    q, k, v = qkv.unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4)
    attended = ((q @ k.mT / 2).softmax(-1) @ v).transpose(1, 2).flatten(2)
    x = layer.norm1(x + layer.self_attn.out_proj(attended))
    h = layer.linear1(x)
    y = layer.norm2(x + layer.linear2(torch.relu(h + delta[:, None])))
    return h.mean(1), m.head(y.mean(1))


def language(pick: str) -> Callable[..., tuple[Tensor, Tensor]]:
    def run(m: Any, x: Any, delta: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(m.body.mix(m.body.embed(x["input_ids"])))
        mask = x["attention_mask"]
        rows, logits = [], []
        for i, length in enumerate(mask.sum(1)):
            kept = h[i, :length]
            rows.append(kept.mean(0) if pick == "mean" else kept[-1])
            where = torch.ones(len(kept)) if pick == "mean" else torch.eye(len(kept))[-1]
            kept = kept + where.to(h)[:, None] * delta[i]
            logits.append(m.score(kept[-1] + kept.sum(0)))
        return torch.stack(rows), torch.stack(logits)

    return run


def recurrent(m: Any, x: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    w_i, w_h, b_i, b_h = m.lstm._flat_weights
    h = c = x.new_zeros(len(x), 5)
    for t in range(x.shape[1]):
        i, f, g, o = (x[:, t] @ w_i.T + b_i + h @ w_h.T + b_h).chunk(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
    return h, m.head(h + delta)


def shared(m: Any, x: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    z = m.mix(torch.tanh(m.mix(x)))
    return z, m.head(torch.tanh(z + delta))


def tokens(seed: int) -> Tensor:
    return torch.randint(12, (N, T), generator=torch.Generator().manual_seed(seed))


def real(*shape: int) -> Callable[[int], Tensor]:
    return lambda seed: torch.randn(
        N, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def padded(seed: int) -> dict[str, Tensor]:
    lengths = torch.tensor([4, 1, 3, 2, 4])
    mask = (torch.arange(T) < lengths[:, None]).long()
    return {"input_ids": tokens(seed), "attention_mask": mask}


@dataclass(frozen=True)
class Case:
    make: Callable[[], nn.Module]
    inputs: Callable[[int], Any]
    site: LatentSite
    width: int
    hand: Callable[..., tuple[Tensor, Tensor]]

    def model(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            model = self.make().double()
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):  # not those of initialisation
                    module.running_mean.normal_()
                    module.running_var.uniform_(0.5, 2)
        return model.train()

    def batch(self) -> tuple[Any, Tensor]:
        labels = torch.randint(CLASSES, (N,), generator=torch.Generator().manual_seed(2))
        return self.inputs(1), labels

    def by_hand(self, model: nn.Module, delta: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Latents and logits of a copy in evaluation mode."""
        twin = copy.deepcopy(model).eval()
        delta = torch.zeros(N, self.width, dtype=torch.float64) if delta is None else delta
        return self.hand(twin, self.inputs(1), delta)


_cnn, _transformer = CASES["cnn"].make, CASES["transformer"].make
ALL = {
    "before in-place ReLU": Case(CASES["mlp"].make, real(6), LatentSite("body.0"), 16, mlp),
    "input": Case(CASES["mlp"].make, real(6), LatentSite("head", side="input"), 16, mlp_input),
    "feature maps": Case(_cnn, real(1, 8, 8), LatentSite("norm"), 4, cnn),
    "flattened": Case(_cnn, real(1, 8, 8), LatentSite("norm", "flatten"), 256, cnn_flat),
    "mean of tokens": Case(_transformer, tokens, LatentSite("blocks.0.up"), 16, blocks("mean")),
    "last token": Case(_transformer, tokens, LatentSite("0.up", pick="last"), 16, blocks(-1)),
    "second token": Case(_transformer, tokens, LatentSite(r".*0\.up", pick=1), 16, blocks(1)),
    "fused encoder": Case(Encoder, tokens, LatentSite("layer.linear1"), 16, encoder),
    "padded mean": Case(Language, padded, LatentSite("body"), 6, language("mean")),
    "padded last": Case(Language, padded, LatentSite("body", "last"), 6, language("last")),
    "recurrent": Case(Recurrent, real(T, 6), LatentSite("lstm", -1), 5, recurrent),
    "shared": Case(Shared, real(6), LatentSite("again"), 6, shared),
}
each = pytest.mark.parametrize("name", ALL)


def loss(model: Any, batch: tuple[Any, Tensor]) -> Tensor:
    """Cross-entropy of whatever the model answers, by the probe's own way of calling it."""
    forward = forward_of(Probe(loss=loss, batches=[0]))
    return functional.cross_entropy(forward(model, batch[0]), batch[1])


def flat(model: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach()


def directions(model: nn.Module, n: int = 3) -> Tensor:
    """Random updates, the second a million times smaller than the first."""
    draw = torch.randn(n, len(flat(model)), generator=torch.Generator().manual_seed(5)).double()
    draw[1] *= 1e-6
    return draw / 10


def shifted(model: nn.Module, update: Tensor) -> nn.Module:
    twin = copy.deepcopy(model)
    nn.utils.vector_to_parameters(flat(model) + update, twin.parameters())
    return twin


def central(item: Case, model: nn.Module, update: Tensor) -> Tensor:
    """(z(θ + hû) − z(θ − hû))|u|/2h of the forward pass by hand; h = 1e-6 in float64."""
    unit = update / update.norm()
    with torch.no_grad():
        plus, minus = (item.by_hand(shifted(model, s * 1e-6 * unit))[0] for s in (1, -1))
    return (plus - minus) * (update.norm() / 2e-6)


@each
def test_latents_are_those_of_the_forward_pass(name: str) -> None:
    item = ALL[name]
    model = item.model()
    z = latents(ModelView(model), item.site, loss, item.batch())
    expected = item.by_hand(model)[0].detach()
    assert z.shape == expected.shape and not z.requires_grad
    # both are sums of < 300 terms about 1 in float64: 300 * 2^-53 = 3e-14
    torch.testing.assert_close(z, expected, rtol=1e-12, atol=1e-12)


@each
@pytest.mark.parametrize("chunk", [1, 2])
def test_moves_are_the_derivative_along_the_update(name: str, chunk: int) -> None:
    item = ALL[name]
    model = item.model()
    updates = directions(model)
    found = moves(ModelView(model), item.site, loss, item.batch(), updates, chunk=chunk)
    assert (found.how, found.reason) == ("jvp", "")
    for row, update in zip(found.values, updates, strict=True):
        expected = central(item, model, update)
        # rounding 2^-53/1e-6 = 1e-10 of the latents along a unit vector, so 1e-10 |u| sqrt(N D),
        # truncation 1e-12; latents are about 1, N D < 1300: asked 2e-8 |u|
        assert (row - expected).norm() <= 2e-8 * update.norm()
        assert row.norm() > 1e-3 * update.norm()


@each
def test_gradients_are_those_of_the_decoder_by_hand(name: str) -> None:
    item = ALL[name]
    model, batch = item.model(), item.batch()
    z, found = loss_gradients(ModelView(model), item.site, loss, batch)
    torch.testing.assert_close(z, item.by_hand(model)[0].detach(), rtol=1e-12, atol=1e-12)
    delta = torch.zeros(N, item.width, dtype=torch.float64, requires_grad=True)
    own = functional.cross_entropy(item.by_hand(model, delta)[1], batch[1], reduction="none")
    for i in range(N):  # the loss of example i alone, with respect to all latents
        (expected,) = torch.autograd.grad(own[i], delta, retain_graph=True)
        torch.testing.assert_close(found[i], expected[i], rtol=1e-10, atol=1e-12)
        assert expected[i].norm() > 0 and not expected[[j for j in range(N) if j != i]].any()


@each
def test_a_shift_and_given_latents_arrive_in_the_decoder(name: str) -> None:
    item = ALL[name]
    model, batch = item.model(), item.batch()
    view = ModelView(model)
    shift = torch.randn(N, item.width, generator=torch.Generator().manual_seed(8)).double()
    start, logits = item.by_hand(model, shift)
    z, found = loss_gradients(view, item.site, loss, batch, shift)
    torch.testing.assert_close(z, start.detach() + shift, rtol=1e-12, atol=1e-12)
    leaf = shift.clone().requires_grad_()
    value = functional.cross_entropy(item.by_hand(model, leaf)[1], batch[1], reduction="sum")
    (expected,) = torch.autograd.grad(value, leaf)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    forward = forward_of(Probe(loss=loss, batches=[0]))
    decoded = decode(view, item.site, lambda m, b: forward(m, b[0]), batch, z)
    torch.testing.assert_close(decoded, logits.detach(), rtol=1e-10, atol=1e-12)


def test_one_shift_for_all_is_that_shift_for_each() -> None:
    item = ALL["input"]
    view, batch = ModelView(item.model()), item.batch()
    shift = torch.linspace(-1, 1, 16).double()
    one = loss_gradients(view, item.site, loss, batch, shift)
    each_its_own = loss_gradients(view, item.site, loss, batch, shift.expand(N, 16))
    for a, b in zip(one, each_its_own, strict=True):
        assert torch.equal(a, b)


@each
def test_steps_differences_and_projections(name: str) -> None:
    item = ALL[name]
    model, batch = item.model(), item.batch()
    view, updates = ModelView(model), directions(model)
    start = item.by_hand(model)[0].detach()
    step = moves(view, item.site, loss, batch, updates, how="step")
    for row, update in zip(step.values, updates, strict=True):
        expected = item.by_hand(shifted(model, update))[0].detach() - start
        torch.testing.assert_close(row, expected, rtol=1e-9, atol=1e-12)
    exact = moves(view, item.site, loss, batch, updates)
    basis = torch.linalg.qr(
        torch.randn(item.width, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    )[0]
    for how in ("jvp", "step", "difference"):
        full = moves(view, item.site, loss, batch, updates, how=how)
        cut = moves(view, item.site, loss, batch, updates, basis, how=how)
        assert full.how == cut.how == how and cut.values.shape == (3, N, 3)
        # differences lose up to 2^-53/h with h = 6e-6 |θ| > 6e-6, of latents about 1: 2e-11 |u|
        torch.testing.assert_close(cut.values, full.values @ basis, rtol=1e-6, atol=1e-9)
    if "ReLU" not in name:  # a difference of 6e-6 |θ| may step over a kink of what is before
        near = moves(view, item.site, loss, batch, updates, how="difference").values
        assert (near - exact.values).norm() <= 1e-6 * exact.values.norm()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_moves_of_a_linear_model_are_exact(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1)).to(dtype)
    x = torch.tensor([[1.0, 2.0, -1.0], [0.5, 0.0, 4.0]], dtype=dtype)
    draw = torch.Generator().manual_seed(0)
    updates = torch.randint(-4, 5, (3, 11), generator=draw).double() / 8  # exact in every type
    updates[1] *= 2.0**-140  # vanishes in float32 unless it is scaled
    found = moves(ModelView(model), LatentSite("0"), lambda m, b: m(b).mean(), x, updates)
    w, b = updates[:, :6].reshape(3, 2, 3), updates[:, 6:8]
    expected = torch.einsum("nij,bj->nbi", w, x.double()) + b[:, None]
    assert found.how == "jvp"
    wide = torch.promote_types(dtype, torch.float32)
    assert found.values.dtype == wide
    # sums of four products of numbers with few bits; bfloat16 rounds the result to 2^-9
    tolerance = 2.0**-8 if dtype == torch.bfloat16 else 0
    for row, target in zip(found.values.double(), expected, strict=True):
        # 2^-140 is subnormal in float32, with 9 bits left
        rtol = max(tolerance, 0.0 if target.norm() > 1e-30 or dtype == torch.float64 else 2.0**-8)
        torch.testing.assert_close(row, target, rtol=rtol, atol=0)


class _Bent(torch.autograd.Function):
    """Differentiable backward only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.sin(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * torch.cos(ctx.saved_tensors[0])


class Custom(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(6, 5), nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(_Bent.apply(self.first(x)))


def test_differences_where_an_operation_has_no_forward_derivative() -> None:
    model = Custom().double()
    draw = torch.Generator().manual_seed(0)
    x, update = real(6)(1), torch.randn(2, 59, generator=draw, dtype=torch.float64)
    site = LatentSite("head", side="input")
    found = moves(ModelView(model), site, lambda m, b: m(b).sum(), x, update)
    assert found.how == "difference" and found.reason.startswith("The model has no forward")
    inner = model.first(x)
    w, b = update[:, :30].reshape(2, 5, 6), update[:, 30:35]
    expected = inner.cos() * (torch.einsum("nij,bj->nbi", w, x) + b[:, None])
    # h = 6e-6 |θ|: truncation h²/6, rounding 1e-16/h = 1e-11, both relative to |u|
    assert (found.values - expected).norm() <= 1e-8 * update.norm()


def test_recurrent_layers_of_fused_kernels_have_a_derivative() -> None:
    item = ALL["recurrent"]
    model = item.model()
    updates = directions(model)
    expected = torch.stack([central(item, model, update) for update in updates])
    x, labels = item.batch()
    fused = torch.backends.mkldnn.enabled
    view = ModelView(model.float())  # float64 has no fused kernel
    found = moves(view, item.site, loss, (x.float(), labels), updates)
    assert found.how == "jvp" and torch.backends.mkldnn.enabled == fused
    for row, target in zip(found.values, expected, strict=True):
        # weights and 4 steps of 12 products in float32: 100 * 2^-24 = 6e-6
        assert (row - target).norm() <= 1e-5 * target.norm()


def state(model: nn.Module) -> list[Any]:
    """Everything about a model and the process that a measurement must leave alone."""
    tensors = [*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters())]
    hooks = [
        list(getattr(m, kind).items())
        for m in model.modules()
        for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    ]
    return [
        [id(t) for t in tensors],
        [t.detach().numpy().tobytes() for t in tensors],
        [t._version for t in tensors],
        [p.requires_grad for p in model.parameters()],
        [m.training for m in model.modules()],
        hooks,
        random.getstate(),
        [part.tolist() if hasattr(part, "tolist") else part for part in np.random.get_state()],
        torch.get_rng_state().tolist(),
        torch.backends.mha.get_fastpath_enabled(),
        torch.backends.mkldnn.enabled,
        torch.backends.cudnn.enabled,
        torch.is_grad_enabled(),
    ]


@each
@pytest.mark.parametrize("grad", [True, False])
def test_nothing_live_is_touched(name: str, grad: bool) -> None:
    item = ALL[name]
    model, batch = item.model(), item.batch()
    seen: list[Any] = []
    for module in model.modules():
        module.register_forward_hook(lambda *_: seen.append(1))
    loss(model, batch).backward()
    seen.clear()
    view, updates = ModelView(model), directions(model)
    with torch.set_grad_enabled(grad):
        before = state(model)
        z = latents(view, item.site, loss, batch)
        moved = [moves(view, item.site, loss, batch, updates, how=h).values for h in HOWS]
        gradients = loss_gradients(view, item.site, loss, batch)
        gradients += loss_gradients(view, item.site, loss, batch, torch.ones(item.width))
        decode(view, item.site, loss, batch, z)
        with pytest.raises(ValueError, match="not in the model"):
            latents(view, LatentSite("nowhere"), loss, batch)
        with pytest.raises(ZeroDivisionError):
            latents(view, item.site, lambda m, b: loss(m, b) / (1 // 0), batch)
        assert state(model) == before
    assert not seen
    hooks = (m._forward_hooks | m._forward_pre_hooks for m in view.shadow.modules())
    assert not any(hooks)  # all of ours are off the copy again
    for tensor in (z, *moved, *gradients):
        assert not tensor.requires_grad
    again = moves(view, item.site, loss, batch, updates).values
    assert torch.equal(again, moved[0])


HOWS = ("jvp", "step", "difference")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # dynamo's own, when it is imported
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # and when it looks at an activation
@pytest.mark.parametrize("part", ["whole", "layer"])
def test_compiled_modules_are_looked_through(part: str) -> None:
    item = ALL["shared"]
    bare = item.model()
    expected = item.by_hand(bare)[0].detach()
    target: Any = bare
    if part == "whole":
        target = torch.compile(bare, backend="eager")
    else:
        bare.mix = bare.again = torch.compile(bare.mix, backend="eager")
    batch = item.batch()
    loss(target, batch).backward()  # compiled by now
    view = ModelView(target)
    torch.testing.assert_close(latents(view, item.site, loss, batch), expected)
    found = moves(view, item.site, loss, batch, directions(bare))
    assert found.how == "jvp" and found.values.shape == (3, N, 6)
    assert loss_gradients(view, item.site, loss, batch)[1].abs().sum() > 0


def test_a_function_gives_latents_but_no_decoder() -> None:
    item = ALL["mean of tokens"]
    model, batch = item.model(), item.batch()
    view = ModelView(model)
    for site in (
        LatentSite(lambda m, b: m.embed(b[0]).mean(1)),
        LatentSite(lambda m, b: m.embed(b[0])),
        LatentSite("embed", pick=lambda h: h.mean(1)),
    ):
        expected = model.embed(batch[0]).mean(1).detach()
        torch.testing.assert_close(latents(view, site, loss, batch), expected)
        found = moves(view, site, loss, batch, directions(model)).values
        rows = directions(model)[:, : 12 * 8].reshape(3, 12, 8)[:, batch[0]].mean(2)
        assert view.names[0] == "embed.weight"
        torch.testing.assert_close(found, rows)
        with pytest.raises(ValueError, match="cannot be put back into the model"):
            loss_gradients(view, site, loss, batch)
        with pytest.raises(ValueError, match="cannot be put back into the model"):
            decode(view, site, loss, batch, expected)


class Pair(NamedTuple):
    first: Any
    second: Any


@dataclass(frozen=True)
class Frozen:
    inside: Any


@pytest.mark.parametrize(
    "wrap",
    [
        lambda t: t,
        lambda t: (None, [t]),
        lambda t: Pair("a", t),
        lambda t: {"a": Frozen(t)},
        lambda t: Output(last_hidden_state=t),
    ],
    ids=["tensor", "tuple", "named tuple", "frozen dataclass", "model output"],
)
def test_a_tensor_is_found_and_replaced_in_a_copy(wrap: Any) -> None:
    old, new = torch.zeros(N, 2), torch.ones(N, 2)
    tree = wrap(old)
    path, found = first_tensor(tree, N)
    fresh = replaced(tree, path, new)
    assert found is old and type(fresh) is type(tree)
    assert first_tensor(tree, N)[1] is old and first_tensor(fresh, N)[1] is new
    if isinstance(fresh, Output):
        assert fresh.last_hidden_state is new and tree.last_hidden_state is old
        assert fresh.logits is None


def test_time_major_outputs_need_a_function() -> None:
    model = nn.LSTM(3, 4)
    x = torch.randn(7, N, 3)  # (time, batch, features)
    view, mean = ModelView(model), lambda m, b: m(b[1])[0].mean()
    batch = [torch.zeros(N), x]
    with pytest.raises(ValueError, match=r"whose first axis is that of the 5 examples.*h\[-1\]"):
        latents(view, LatentSite(""), mean, batch)
    z = latents(view, LatentSite("", pick=lambda h: h[-1]), mean, batch)
    torch.testing.assert_close(z, model(x)[0][-1].detach())


@pytest.mark.parametrize(
    "site, sentence",
    [
        (LatentSite("blocks.0.ip"), r"'blocks.0.ip' is not in the model. Its layers are: 'blocks"),
        (LatentSite("up"), r"finds 2 layers: 'blocks.0.up', 'blocks.1.up'. Name one of them"),
        (LatentSite("blocks"), r"'blocks' is in the model, but the loss .* does not call it"),
        (LatentSite("unembed["), r"is no regular expression: unterminated"),
        (LatentSite("embed", side="input"), r"no tensor of real numbers .*\(5, 4\) of int64"),
        (LatentSite("0.up", pick=4), r"asks for token 4, but the layer '0.up' gives 4 tokens"),
        (LatentSite("embed", pick=lambda h: h), r"must return real numbers \(N, D\)"),
    ],
)
def test_what_cannot_be_taken_is_explained(site: LatentSite, sentence: str) -> None:
    item = ALL["mean of tokens"]
    with pytest.raises(ValueError, match=sentence):
        latents(ModelView(item.model()), site, loss, item.batch())


def test_bad_numbers_are_refused() -> None:
    item = ALL["input"]
    model, batch = item.model(), item.batch()
    view, site = ModelView(model), item.site
    with pytest.raises(ValueError, match=r"shape \(n, 452\), one column"):
        moves(view, site, loss, batch, torch.zeros(2, 3))
    with pytest.raises(ValueError, match="must be finite"):
        moves(view, site, loss, batch, torch.full((1, 452), torch.nan))
    with pytest.raises(ValueError, match=r"shape \(16, d\)"):
        moves(view, site, loss, batch, torch.zeros(1, 452), torch.zeros(3, 2))
    with pytest.raises(ValueError, match="`how` of `moves`"):
        moves(view, site, loss, batch, torch.zeros(1, 452), how="exact")
    with pytest.raises(ValueError, match=r"`shift` must have the shape \(5, 16\) or \(16,\)"):
        loss_gradients(view, site, loss, batch, torch.zeros(3))
    with pytest.raises(ValueError, match=r"`z` of `decode` must have the shape \(5, 16\)"):
        decode(view, site, loss, batch, torch.zeros(3))
    with pytest.raises(ValueError, match="does not depend on what the layer 'head' gives"):
        loss_gradients(view, LatentSite("head"), lambda m, b: m(b[0]).detach().mean(), batch)
    assert moves(view, site, loss, batch, torch.zeros(0, 452)).values.shape == (0, N, 16)
    assert not moves(view, site, loss, batch, torch.zeros(2, 452)).values.any()
    with torch.no_grad():
        model.body[0].weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match="not finite: nan or infinity in 5 of 5 examples"):
        latents(view, site, loss, batch)


@pytest.mark.parametrize(
    "given", [{"layer": 3}, {"layer": "a", "pick": True}, {"layer": "a", "side": "left"}]
)
def test_a_site_is_checked_at_the_door(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="of `LatentSite` must be"):
        LatentSite(**given)
