"""Per-example norms against autograd, one example at a time, and refusals where there are none.

The oracle takes the reduced loss as a vector of one summand a row and differentiates each alone.
Norms agree to 1e-4 of the largest in float32 (some 1e-6 is measured), to 1e-10 in float64.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from foreshock.estimators import GradientNoise, per_example_rules
from foreshock.estimators.per_example import PerExample, per_example_norms
from foreshock.estimators.per_example_forms import form
from foreshock.estimators.per_example_hearing import plainly
from foreshock.estimators.per_example_rules import Outer, squares, summed_squares
from foreshock.probe import Probe
from foreshock.probe.moment import Moment
from foreshock.probe.view import ModelView
from foreshock.types import Flag
from tests.cases import CASES

IGNORED = -100
WIDTH, WORDS = 16, 11


def summands(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The reduced cross-entropy as one summand a row: (n,)."""
    inputs, labels = batch
    output = model(inputs)
    each = functional.cross_entropy(
        output.reshape(-1, output.shape[-1]),
        labels.reshape(-1),
        reduction="none",
        ignore_index=IGNORED,
    )
    return each.reshape(len(labels), -1).sum(1) / (labels != IGNORED).sum()


def loss(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The same as users write it."""
    inputs, labels = batch
    output = model(inputs)
    return functional.cross_entropy(
        output.reshape(-1, output.shape[-1]), labels.reshape(-1), ignore_index=IGNORED
    )


def exact(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Squared norms of n ∂L_i by autograd, (n, parameters) in float64."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    parts = summands(model, batch)
    rows = []
    for part in parts:
        found = torch.autograd.grad(
            part, parameters, retain_graph=True, materialize_grads=True, allow_unused=True
        )
        rows.append(torch.stack([g.double().square().sum() for g in found]))
    return torch.stack(rows) * len(parts) ** 2


class Convolutions(nn.Module):
    """Strides, groups, dilation, three kinds of padding, one to three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.group = nn.GroupNorm(2, 8, eps=0.1)
        self.grouped = nn.Conv2d(8, 12, 3, groups=4, padding=2, dilation=2, padding_mode="reflect")
        self.same = nn.Conv2d(12, 6, (3, 1), padding="same", bias=False)
        self.norm = nn.BatchNorm2d(6, eps=0.3)
        self.line = nn.Conv1d(6, 4, 3, stride=2)
        self.solid = nn.Conv3d(1, 2, 2)
        self.head = nn.Linear(36, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = functional.relu(self.group(self.plain(x)), inplace=True)
        h = self.norm(self.same(functional.gelu(self.grouped(h))))
        h = self.line(h.flatten(2))
        return self.head(self.solid(h.reshape(len(h), 1, 4, 3, 4)).flatten(1))


class Language(nn.Module):
    """Pre-norm transformer, embedding tied to the head and read a third time, positions both ways.

    Also a module used twice, a packed matrix cut in three, a class token, a bare matrix and scale.
    """

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH, padding_idx=3)
        self.places = nn.Embedding(8, WIDTH)
        self.offset = nn.Parameter(torch.randn(1, 8, WIDTH))
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, 0.0, batch_first=True, norm_first=True)
            for _ in range(2)
        )
        self.norm = nn.LayerNorm(WIDTH, eps=0.2)
        self.scale = nn.Parameter(torch.randn(WIDTH))
        self.packed = nn.Parameter(torch.randn(3 * WIDTH, WIDTH) / 4)
        self.twice = nn.Linear(WIDTH, WIDTH)
        self.rms = nn.RMSNorm(WIDTH, eps=0.2)
        self.matrix = nn.Parameter(torch.randn(WIDTH, WIDTH) / 4)
        self.head = nn.Linear(WIDTH, WORDS, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        x = self.embed(tokens) + self.places(torch.arange(length)) - self.offset[:, :length]
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        a, b, c = self.packed.chunk(3)
        x = x + functional.linear(x, a) + functional.linear(x, c) * functional.linear(x, b)
        x = self.norm(x) * self.scale
        x = self.twice(functional.gelu(self.twice(x)))
        x = (self.rms(x) @ self.matrix)[:, 1:]
        return self.head(x) + 0.1 * (x @ self.embed.weight.T)


class Crossed(nn.Module):
    """Attention of one sequence to another of another width: three separate projections."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, kdim=6, vdim=4, batch_first=True)
        self.packed = nn.MultiheadAttention(8, 2, batch_first=True, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.attention(x, x[:, :3, :6], x[:, :3, :4], need_weights=False)[0]
        return self.packed(h, x, x)[0]


class Sliced(nn.Module):
    """A table that is looked up and, in part, multiplied with."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        return torch.cat(
            [x @ self.embed.weight[:6].T, functional.linear(x, self.embed.weight[6:])], -1
        )


def words(n: int, length: int, ignored: bool = True) -> tuple[Tensor, Tensor]:
    """Few distinct words, so that they repeat; some labels ignored, one row of them whole."""
    generator = torch.Generator().manual_seed(n)
    tokens = torch.randint(5, (n, length), generator=generator)
    labels = torch.randint(WORDS, (n, length), generator=generator)
    if ignored:
        labels[0, 1] = labels[-1, 2] = IGNORED
        labels[1] = IGNORED
    return tokens, labels


def vectors(n: int, length: int, width: int = WIDTH) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n)
    labels = torch.randint(width, (n, length), generator=generator)
    return torch.randn(n, length, width, generator=generator), labels


def images(n: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n)
    return torch.randn(n, 3, 10, 10, generator=generator), torch.arange(n) % 5


def encoder(norm_first: bool) -> nn.Module:
    return nn.TransformerEncoderLayer(WIDTH, 4, 32, 0.0, batch_first=True, norm_first=norm_first)


COVERED: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, Tensor]]] = {
    "mlp": (CASES["mlp"].model, CASES["mlp"].batch(9, 0)),
    "cnn": (CASES["cnn"].model, CASES["cnn"].batch(9, 0)),
    "convolutions": (Convolutions, images(7)),
    "tied transformer": (CASES["transformer"].model, CASES["transformer"].batch(9, 0)),
    "language": (Language, words(6, 4)),
    "language, n = length": (Language, words(5, 5)),
    "language, n = length + 1": (Language, words(6, 5)),
    "one example": (Language, words(1, 4, ignored=False)),
    "encoder layer, pre-norm": (lambda: encoder(True), vectors(6, 5)),
    "encoder layer, post-norm": (lambda: encoder(False), vectors(6, 5)),
    "encoder layer, n = length": (lambda: encoder(True), vectors(5, 5)),
    "table in slices": (Sliced, words(6, 4)),
    "cross attention": (Crossed, vectors(6, 5, 8)),
}


def made(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().eval()


def check(model: nn.Module, batch: tuple[Tensor, Tensor], tolerance: float) -> None:
    norms = per_example_norms(ModelView(model), loss, batch)
    assert norms.reason == "" and norms.coverage == 1.0 and norms.n == len(batch[0])
    truth = exact(model, batch)
    top = truth.max(0).values
    assert ((norms.squares - truth).abs() <= tolerance * top + 1e-12).all()
    gradient = ModelView(model).gradient(loss, batch)[1]
    mean = torch.stack([g.double().square().sum() for g in gradient])
    torch.testing.assert_close(norms.mean_squares, mean, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("name", COVERED)
def test_every_parameter_agrees_with_autograd(name: str) -> None:
    make, batch = COVERED[name]
    check(made(make), batch, 1e-4)


def test_float64_to_rounding() -> None:
    check(made(Language).double(), words(6, 4), 1e-10)


@pytest.mark.parametrize("cheaper", [True, False])
def test_both_ways_of_squaring(cheaper: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Gram form and the formed matrix, in portions of a few examples."""
    monkeypatch.setattr(per_example_rules, "gram_is_cheaper", lambda *_: cheaper)
    monkeypatch.setattr(per_example_rules, "PORTION", 700)
    for name in ("convolutions", "tied transformer", "language"):
        make, batch = COVERED[name]
        check(made(make), batch, 1e-4)
    left, right = torch.randn(4, 3, 5), torch.randn(4, 3, 6)
    formed = torch.einsum("ntl,ntr->nlr", left, right).square().sum((1, 2))
    torch.testing.assert_close(squares(Outer(left, right)), formed)
    # Twice the same term: four times the square, which leaving out cross products would halve.
    torch.testing.assert_close(summed_squares([Outer(left, right)] * 2), 4 * formed)


def test_frozen_parameters_are_left_out() -> None:
    model = made(Language)
    model.norm.weight.requires_grad_(False)
    check(model, words(6, 4), 1e-4)


class Way(nn.Module):
    """A layer before and one after something that may move examples, and a table of constants."""

    def __init__(self, way: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.way = way
        self.a, self.b = nn.Linear(5, 5), nn.Linear(5, 5)
        self.pick, self.scale = nn.Embedding(6, 5), nn.Parameter(torch.randn(5))
        self.cell = nn.GRU(5, 5, batch_first=True)
        self.register_buffer("rows", torch.randn(6, 5))
        self.frozen = nn.Parameter(torch.randn(6, 5), requires_grad=False)
        self.register_buffer("weights", torch.rand(6, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.way(self, x)


LOOSE = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
#: (n, positions, features) of equal n and positions: how a layer is used, and whether that is told.
WAYS: dict[str, tuple[Callable[[Any, Tensor], Tensor], bool]] = {
    "stack over positions": (
        lambda m, x: m.a(torch.stack([x[:, t] for t in range(6)])).tanh().mean(0),
        False,
    ),
    "stack of unbound": (lambda m, x: m.a(torch.stack(x.unbind(1))).tanh().transpose(0, 1), False),
    "einsum turns": (lambda m, x: m.a(torch.einsum("btd->tbd", x)).tanh().sum(0), False),
    "cat and view": (
        lambda m, x: m.a(torch.cat([x[:, t] for t in range(6)]).view(6, 6, 5)).tanh().sum(0),
        False,
    ),
    "swapaxes": (lambda m, x: m.a(x.swapaxes(0, 1)).tanh().sum(0), False),
    "permute": (lambda m, x: m.a(x.permute(1, 0, 2)).tanh().movedim(0, 1), False),
    "constants from outside": (lambda m, x: (x + m.a(LOOSE)).tanh(), False),
    "constants of the buffer": (lambda m, x: (x + m.a(m.rows)).tanh(), False),
    "a frozen table": (lambda m, x: (x + m.a(m.frozen)).tanh(), False),
    "new constants": (
        lambda m, x: (x + m.a(x.new_ones(6, 5) * torch.arange(6)[:, None])).tanh(),
        False,
    ),
    "rows of examples": (lambda m, x: torch.stack([m.a(e) for e in x]), False),
    "shuffled": (lambda m, x: m.a(m.a(x).tanh()[torch.tensor([1, 2, 3, 4, 5, 0])]), False),
    "flipped": (lambda m, x: m.a(m.a(x).tanh().flip(0)), False),
    "running sums": (lambda m, x: m.a(x.cumsum(0)), False),
    "sorted": (lambda m, x: m.a(x.sort(0).values), False),
    "there and back": (lambda m, x: m.a(torch.stack(m.b(x).unbind(1)).transpose(0, 1)), True),
    "mixed by heads": (
        lambda m, x: m.a(m.b(x).view(6, 6, 1, 5).transpose(1, 2).reshape(6, 6, 5)),
        True,
    ),
    "last position": (lambda m, x: m.a(m.b(x)[:, -1]), True),
    "einsum of rows": (lambda m, x: m.a(torch.einsum("btd,bsd->bts", m.b(x), x)[..., :5]), True),
    "flattened": (lambda m, x: m.a(m.b(x.reshape(-1, 5)).tanh()).view(6, 6, 5), True),
    "in place": (lambda m, x: m.a(torch.relu_(m.b(x))), True),
    "in place, subtracted": (lambda m, x: m.b(x).sub_(m.scale).tanh(), True),
    "lookup at fixed places": (
        lambda m, x: x + m.pick(torch.ones_like(x[0, :, 0]).cumsum(0).long() - 1),
        True,
    ),
    "minus the batch's mean input": (lambda m, x: m.a(x - x.mean(0)), True),
    "written position by position": (lambda m, x: m.a(written(m.b(x))), True),
    "attention by hand": (lambda m, x: attended(m, x), True),
    "scaled by a buffer": (lambda m, x: m.a(m.b(x) * m.weights), True),
    "after a recurrent layer": (lambda m, x: m.a(m.cell(x)[0].detach() + m.b(x)), True),
}


def attended(m: Any, x: Tensor) -> Tensor:
    """The bias of the keys has gradient 0 but for rounding, which must not look like a mistake."""
    q, k = (layer(x).view(6, 6, 1, 5).transpose(1, 2) for layer in (m.a, m.b))
    return ((q @ k.transpose(-1, -2)).softmax(-1) @ x.unsqueeze(1)).transpose(1, 2).flatten(2)


def written(h: Tensor) -> Tensor:
    out = torch.zeros(6, 6, 5)
    for t in range(6):
        out[:, 5 - t] = h[:, t]
    return out


@pytest.mark.parametrize("name", WAYS)
def test_what_is_covered_is_right_where_lengths_coincide(name: str) -> None:
    """n = positions = rows of every table: only following the examples tells them apart."""
    way, known = WAYS[name]
    model = made(lambda: Way(way))
    x = torch.randn(6, 6, 5, generator=torch.Generator().manual_seed(0))

    def each(m: Any, x: Tensor) -> Tensor:
        return m(x).flatten(1).sin().sum(1)

    norms = per_example_norms(ModelView(model), lambda m, x: each(m, x).mean(), x)
    parameters = [p for p in model.parameters() if p.requires_grad]
    used = torch.autograd.grad(each(model, x).sum(), parameters, allow_unused=True)
    rows = []
    for part in each(model, x):
        found = torch.autograd.grad(
            part, parameters, retain_graph=True, materialize_grads=True, allow_unused=True
        )
        rows.append(torch.stack([g.double().square().sum() for g in found]))
    truth = torch.stack(rows)
    held = torch.tensor([norms.covered[i] for i in range(len(used))])
    assert norms.n == 6
    torch.testing.assert_close(norms.squares[:, held], truth[:, held], rtol=1e-4, atol=1e-8)
    ours = [i for i, g in enumerate(used) if g is not None]
    assert all(norms.covered[i] for i in ours) == known


@pytest.mark.parametrize(
    "join",
    [
        lambda m, x: (h := m.a(x)) - h.mean(0),
        lambda m, x: (h := m.a(x)) + h.flip(0),
        lambda m, x: (h := m.a(x)) + h.transpose(0, 1),
        lambda m, x: m.a(x).softmax(0),
        lambda m, x: (h := m.a(x).mean(1)) + torch.softmax(h @ h.T, -1) @ h,
    ],
)
def test_examples_that_take_part_in_each_other_are_refused(join: Any) -> None:
    model = made(lambda: Way(join))
    x = torch.randn(6, 6, 5, generator=torch.Generator().manual_seed(0))
    norms = per_example_norms(ModelView(model), lambda m, x: m(x).sin().mean(), x)
    assert norms.n == 0 and norms.flags == Flag.COUPLED_EXAMPLES
    assert "may take part in the loss of another" in norms.reason


@pytest.mark.parametrize("how", ["sliced", "expanded", "grouped", "tied"])
def test_a_second_use_in_the_loss_is_noticed(how: str) -> None:
    """A penalty on one weight of each kind: its norms are nan, those of the others are right."""
    index = {"sliced": "packed", "expanded": "token", "grouped": "grouped.weight", "tied": "embed"}
    make, batch = COVERED["convolutions" if how == "grouped" else "language"]
    model = made(make).train()
    if how == "grouped":
        model.norm.eval()
    named = [(n, p) for n, p in model.named_parameters()]
    mode = PerExample([p for _, p in named], [n for n, _ in named], len(batch[0]), given=batch)
    with mode:
        value = loss(model, batch)
    chosen = [i for i, (n, _) in enumerate(named) if n.startswith(index[how])]
    found = torch.autograd.grad(
        value + 0.1 * named[chosen[0]][1].square().sum(), [p for _, p in named]
    )
    for i, g in enumerate(found):
        mode.heard.gradient(i, g, form(g), g.norm())
    squared, missed = mode.heard.norms([True] * len(named))
    assert missed == {}
    assert squared.isnan().any(0).nonzero().flatten().tolist() == chosen[:1]


@pytest.mark.parametrize("chosen", [0, 1])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_a_second_use_of_a_layer_at_one_position_is_noticed(chosen: int, kind: Any) -> None:
    """Matrix and bias share what is computed of the error, and are still told apart."""
    model, (x, labels) = made(CASES["mlp"].model).to(kind), CASES["mlp"].batch(9, 0)
    named, batch = list(model.named_parameters()), (x.to(kind), labels)
    mode = PerExample([p for _, p in named], [n for n, _ in named], len(x), given=batch)
    with mode:
        value = loss(model, batch)
    # The penalty moves the gradient by more than its own length, above what 16 bits lose.
    found = torch.autograd.grad(value + 10 * named[chosen][1].square().sum(), [p for _, p in named])
    for i, g in enumerate(found):
        mode.heard.gradient(i, g, form(g), g.norm())
    squared, missed = mode.heard.norms([True] * len(named))
    assert missed == {}
    assert squared.isnan().any(0).nonzero().flatten().tolist() == [chosen]


def test_inputs_are_let_go_of_once_the_error_has_arrived() -> None:
    """The graph is alive as long as its output, and the hooks as long as the graph."""
    model = made(lambda: nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 4)))
    kept: list[weakref.ref[Tensor]] = []
    model[2].register_forward_pre_hook(lambda _, args: kept.append(weakref.ref(args[0])))
    x = torch.randn(5, 6)
    with PerExample(list(model.parameters()), ["a", "b", "c", "d"], 5, given=x) as mode:
        output = model(x)
    mode.heard.forget()
    assert kept[0]() is not None
    output.square().mean().backward()
    assert kept[0]() is None and output.grad_fn is not None


def live(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[PerExample, Tensor, list[str]]:
    """One ordinary forward and backward pass under the mode, in training mode."""
    model.train()
    named = list(model.named_parameters())
    names, buffers = [n for n, _ in named], model.named_buffers
    mode = PerExample([p for _, p in named], names, len(batch[0]), buffers, batch)
    with mode:
        value = loss(model, batch)
    value.backward()
    for index, (_, p) in enumerate(named):
        if p.grad is not None:
            with plainly(p.device):
                mode.heard.gradient(index, p.grad, form(p.grad), p.grad.norm())
    found, missed = mode.heard.norms([p.grad is not None for _, p in named])
    return mode, found, [f"{named[i][0]}: {why}" for i, why in sorted(missed.items())]


@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_in_training_mode_is_refused_by_name(affine: bool) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8, affine=affine), nn.Linear(8, 4))
    mode, _, _ = live(model, CASES["mlp"].batch(9, 0))
    assert mode.heard.flags == Flag.COUPLED_EXAMPLES
    assert mode.heard.trouble.startswith("1 normalises with the statistics of the batch")


class Hidden(torch.autograd.Function):
    """A matrix product that autograd does not look into."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight.T

    @staticmethod
    def backward(ctx: Any, error: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return error @ weight, error.T @ x


class Odd(nn.Module):
    """One known layer, and one way to use a matrix that is not known."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.first = nn.Linear(6, 6)
        self.matrix = nn.Parameter(torch.randn(6, 6) / 2)
        self.last = nn.Linear(6, 4)
        if how == "recurrent":
            self.cell = nn.GRU(6, 6, batch_first=True)
        if how == "weight norm":
            self.first = nn.utils.parametrizations.weight_norm(self.first)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.how == "einsum":
            x = torch.einsum("ni,ij->nj", x, self.matrix)
        elif self.how == "product of parameters":
            x = x @ (self.matrix * self.last.weight.sum())
        elif self.how == "custom function":
            x = Hidden.apply(x, self.matrix) + functional.linear(x, self.matrix)
        elif self.how == "recurrent":
            x = self.cell(x[:, None])[0][:, 0]
        elif self.how == "rows elsewhere":
            x = (self.matrix @ x.T).T
        return self.last(x)


@pytest.mark.parametrize(
    ("how", "blamed"),
    [
        ("einsum", {"matrix": "einsum"}),
        ("product of parameters", {"matrix": "mul", "last.weight": "sum"}),
        ("custom function", {"matrix": "without a graph"}),
        (
            "recurrent",
            {f"cell.{w}_{k}_l0": "gru" for w in ("weight", "bias") for k in ("ih", "hh")},
        ),
        ("rows elsewhere", {"matrix": "matmul"}),
        ("weight norm", {f"first.parametrizations.weight.original{i}": "" for i in (0, 1)}),
    ],
)
def test_what_is_not_known_is_named_and_the_rest_is_right(how: str, blamed: dict[str, str]) -> None:
    model = made(lambda: Odd(how))
    batch = CASES["mlp"].batch(9, 0)
    _, found, missed = live(model, batch)
    named = {line.partition(": ")[0]: line.partition(": ")[2] for line in missed}
    assert named.keys() == blamed.keys()
    assert all(word in named[name] for name, word in blamed.items())
    truth = exact(model, batch) / len(batch[0]) ** 2
    for column, (name, _) in enumerate(model.named_parameters()):
        if name not in blamed:
            torch.testing.assert_close(found[:, column], truth[:, column], rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("length", [5, 6])
def test_examples_in_the_second_dimension_are_refused(length: int) -> None:
    """With 6 positions and 6 examples nothing but attention itself tells them apart."""
    model = made(lambda: nn.TransformerEncoderLayer(WIDTH, 4, 32, 0.0, batch_first=False))
    norms = per_example_norms(ModelView(model), loss, vectors(6, length))
    assert norms.n == 0 and norms.coverage == 0
    assert "batch_first=True" in norms.reason


def test_a_moved_batch_dimension_is_seen_even_at_equal_lengths() -> None:
    class Moved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.outer(torch.tanh(self.inner(x.transpose(0, 1))).transpose(0, 1))

    model = made(Moved)
    norms = per_example_norms(ModelView(model), loss, vectors(5, 5, 8))
    assert norms.covered == (False, False, True, True)  # inner, outer
    assert "inner.weight" in norms.reason and "dimension 0" in norms.reason
    truth = exact(model, vectors(5, 5, 8))
    torch.testing.assert_close(norms.squares[:, 2:], truth[:, 2:], rtol=1e-4, atol=1e-12)


def test_sixteen_bits_are_summed_in_float32() -> None:
    """Under autocast x and error have 8 bits: each norm is off by some of 2^-8, not more."""
    model, batch = made(CASES["mlp"].model), CASES["mlp"].batch(32, 0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, found, missed = live(model, batch)
    assert missed == []
    truth = exact(model, batch) / 32**2
    assert ((found - truth).abs().sum(0) < 0.03 * truth.sum(0)).all()


def test_gradient_noise_from_examples_is_that_of_exact_gradients() -> None:
    """U and V of one step from the norms, against the variance of per-sample gradients."""
    model, batch = made(CASES["transformer"].model), CASES["transformer"].batch(12, 0)
    view = ModelView(model)
    observable = GradientNoise("examples", groups="layer")
    probe = Probe(loss=loss, batches=[batch] * 3)
    state = observable.init()
    for step in range(16):
        state, readings = observable.update(
            state, Moment(step, view, (None,) * len(view.names), (0.1,), probe=probe)
        )
    parameters = list(model.parameters())
    rows = [
        torch.cat(
            [g.reshape(-1) for g in torch.autograd.grad(12 * s, parameters, retain_graph=True)]
        )
        for s in summands(model, batch)
    ]
    g = torch.stack(rows).double()
    noise = g.var(0, correction=1).sum() / 12  # of a batch
    signal = g.mean(0).square().sum() - noise
    assert readings.scalars["grad/noise"].value == pytest.approx(noise.item(), rel=1e-5)
    assert readings.scalars["grad/signal"].value == pytest.approx(signal.item(), rel=1e-4)
    names = [n for n, _ in model.named_parameters()]
    spans = torch.tensor([p.numel() for p in parameters]).cumsum(0).tolist()
    at = names.index("blocks.1.qkv.weight")
    part = g[:, spans[at - 1] : spans[at + 1]]  # weight and bias
    expected = part.var(0, correction=1).sum() / 12
    got = readings.scalars["grad/noise@blocks.1.qkv"].value
    assert got == pytest.approx(expected.item(), rel=1e-5)
    assert readings.scalars["grad/p_align"].flags == Flag.UNRESOLVED


def test_an_uncovered_part_is_missing_and_the_others_are_there() -> None:
    model = made(lambda: Odd("einsum"))
    batch = CASES["mlp"].batch(9, 0)
    observable = GradientNoise("examples", groups="layer")
    probe = Probe(loss=loss, batches=[batch] * 3)
    state, view = observable.init(), ModelView(model)
    for step in range(16):
        state, readings = observable.update(
            state, Moment(step, view, (None,) * 5, (0.1,), probe=probe)
        )
    whole = readings.scalars["grad/noise"]
    assert whole.flags == Flag.UNRESOLVED and "matrix (used by einsum)" in whole.reason
    assert readings.scalars["grad/noise@matrix"].flags == Flag.UNRESOLVED
    assert readings.scalars["grad/noise@last"].value > 0
