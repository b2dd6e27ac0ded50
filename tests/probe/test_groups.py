"""Groups: parts cut by hand, names of modules and blocks, and names that collide."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from foreshock.probe.groups import Group, Groups, check_groups, resolve_groups
from foreshock.probe.view import ModelView
from tests.cases import CASES


def found(groups: Groups, model: nn.Module) -> dict[str, list[str]]:
    """Names of the parameters of every part."""
    view = ModelView(model)
    parts = resolve_groups(check_groups(groups, "Test"), view)
    names = view.names
    return {part: [names[i] for i, _ in members] for part, members in parts.items()}


def numbered(*shape: int) -> Tensor:
    """Every entry another number."""
    return torch.arange(float(torch.Size(shape).numel())).reshape(shape)


HEADS, WIDTH = 3, 4  # a model width of 12


@pytest.mark.parametrize("head", range(HEADS))
def test_heads_of_a_packed_projection(head: int) -> None:
    rows = [slice(12 * p + WIDTH * head, 12 * p + WIDTH * (head + 1)) for p in range(3)]
    part = Group("h", "qkv", head=(head, HEADS), stacked=3)
    for packed in (numbered(36, 12), numbered(36)):  # weight and bias
        expected = torch.cat([packed[r] for r in rows])
        assert torch.equal(part.take(packed).reshape(expected.shape), expected)


@pytest.mark.parametrize("head", range(HEADS))
def test_heads_of_one_projection_and_of_the_output(head: int) -> None:
    weight, mine = numbered(12, 12), slice(WIDTH * head, WIDTH * (head + 1))
    query = Group("h", "q", head=(head, HEADS)).take(weight)
    assert torch.equal(query.reshape(WIDTH, 12), weight[mine])
    output = Group("h", "out", head=(head, HEADS), dim=1)
    assert torch.equal(output.take(weight).reshape(12, WIDTH), weight[:, mine])
    assert output.take(numbered(12)).numel() == 0  # the bias of the output belongs to no head


def test_heads_are_those_of_the_forward_pass() -> None:
    # Silence a head's query, key and value: then only its part of the next weight has no gradient.
    model = CASES["transformer"].model()
    block = model.blocks[0]
    part = Group("h", "qkv", head=(1, model.heads), stacked=3)
    with torch.no_grad():
        for packed in (block["qkv"].weight, block["qkv"].bias):
            part.take(packed.detach()).zero_()  # a view of the weight
    tokens = CASES["transformer"].batch(4, 0)[0]
    gradient = torch.autograd.grad(model(tokens).square().sum(), block["out"].weight)[0]
    of = [Group("h", "out", head=(i, model.heads), dim=1).take(gradient) for i in range(2)]
    assert of[0].abs().min() > 0 and of[1].abs().max() == 0


def test_heads_partition_a_tensor() -> None:
    packed = numbered(36, 5)
    parts = [Group("h", ".", head=(i, HEADS), stacked=3).take(packed) for i in range(HEADS)]
    together = torch.cat([part.reshape(-1) for part in parts]).sort().values
    assert torch.equal(together, packed.reshape(-1))
    assert Group("all", ".").take(packed) is packed


def test_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="'h' divides a dimension of 10 into 1 x 3 equal parts"):
        Group("h", ".", head=(0, 3)).take(numbered(10, 2))


TRANSFORMER_BLOCK = ("norm1", "qkv", "out", "norm2", "up", "down")


def test_layers_and_blocks_of_models() -> None:
    mlp = CASES["mlp"].model()
    assert found("layer", mlp) == {
        "body.0": ["body.0.weight", "body.0.bias"],
        "body.2": ["body.2.weight", "body.2.bias"],
        "head": ["head.weight", "head.bias"],
    }
    assert list(found("layer", CASES["cnn"].model())) == ["conv", "norm", "head"]
    transformer = CASES["transformer"].model()
    layers = [f"blocks.{i}.{name}" for i in range(2) for name in TRANSFORMER_BLOCK]
    # `unembed` is tied: its only weight is that of `embed`, which comes first.
    assert list(found("layer", transformer)) == ["embed", *layers, "head"]
    blocks = found("block", transformer)
    assert list(blocks) == ["embed", "blocks.0", "blocks.1", "head"]
    assert blocks["embed"] == ["embed.weight"] and len(blocks["blocks.1"]) == 12


@pytest.mark.parametrize("kind", ["layer", "block"])
@pytest.mark.parametrize("name", CASES)
def test_layers_and_blocks_partition_the_parameters(name: str, kind: str) -> None:
    view = ModelView(CASES[name].model())
    parts = resolve_groups(kind, view)
    indices = [i for members in parts.values() for i, _ in members]
    assert sorted(indices) == list(range(len(view.parameters)))
    for members in parts.values():
        assert all(group.take(view.parameters[i]).numel() for i, group in members)


def test_patterns_search_overlap_and_may_find_nothing() -> None:
    model = CASES["transformer"].model()
    parts = found({"attention": r"qkv|out\.", "first": r"^blocks\.0\.", "no": "missing"}, model)
    assert parts["attention"] == [
        f"blocks.{i}.{name}.{kind}"
        for i in range(2)
        for name in ("qkv", "out")
        for kind in ("weight", "bias")
    ]
    assert len(parts["first"]) == 12
    assert parts["no"] == []
    assert found([Group("tied", "unembed")], model) == {"tied": []}  # named by `embed`
    assert resolve_groups(None, ModelView(model)) == {}


def test_frozen_parameters_belong_to_no_part() -> None:
    model = CASES["mlp"].model()
    model.head.requires_grad_(False)
    model.body[0].bias.requires_grad_(False)
    assert found("layer", model) == {
        "body.0": ["body.0.weight"],
        "body.2": ["body.2.weight", "body.2.bias"],
    }


def test_a_parameter_of_the_model_itself_is_its_own_part() -> None:
    model = nn.Module()
    model.scale = nn.Parameter(torch.ones(1))
    assert found("layer", model) == found("block", model) == {"scale": ["scale"]}


def test_names_that_become_one_stay_apart() -> None:
    model = nn.ModuleDict({name: nn.Linear(1, 1) for name in ("Head", "head", "HEAD", "é", "è")})
    parts = found("layer", model)
    assert list(parts) == ["head", "head~2", "head~3", "u00e9", "u00e8"]
    assert [members[0] for members in parts.values()] == [
        f"{name}.weight" for name in ("Head", "head", "HEAD", "é", "è")
    ]
    # A module that is already called what another would get.
    taken = nn.ModuleDict({name: nn.Linear(1, 1) for name in ("a~2", "A", "a")})
    assert [members[0] for members in found("layer", taken).values()] == [
        f"{name}.weight" for name in ("a~2", "A", "a")
    ]
    assert len(found("layer", taken)) == 3


def test_groups_become_values() -> None:
    assert check_groups(None, "X") is None
    assert check_groups("layer", "X") == "layer" and check_groups("block", "X") == "block"
    as_dict = check_groups({"a": "x", "b": "y"}, "X")
    assert as_dict == check_groups([Group("a", "x"), Group("b", "y")], "X")
    assert hash(as_dict) == hash((Group("a", "x"), Group("b", "y")))


@pytest.mark.parametrize("wrong", ["layers", [], {}, ["a"], 3, [Group("a", "x"), "b"]])
def test_what_is_no_group_is_refused(wrong: Groups) -> None:
    with pytest.raises(ValueError, match="The `groups` of `Mine` must be 'layer', 'block'"):
        check_groups(wrong, "Mine")


def test_one_name_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="must have distinct names. Got 'a' twice"):
        check_groups([Group("a", "x"), Group("b", "x"), Group("a", "y")], "Mine")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"name": ""}, "lower-case ASCII"),
        ({"name": "Head"}, "lower-case ASCII"),
        ({"name": "é"}, "lower-case ASCII"),
        ({"name": "a\nb"}, "printable"),
        ({"pattern": "("}, "is no regular expression"),
        ({"head": (2, 2)}, r"\(i, of\) with 0 <= i < of"),
        ({"head": (-1, 2)}, r"\(i, of\) with 0 <= i < of"),
        ({"stacked": 0}, "`stacked` of `Group` must be at least 1. Got 0"),
        ({"dim": -1}, "`dim` of `Group` must be at least 0. Got -1"),
    ],
)
def test_a_group_that_cannot_be_is_refused(options: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Group(**({"name": "a", "pattern": "."} | options))
