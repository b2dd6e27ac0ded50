"""Norms out of the user's own backward pass: right, unperturbing, and refused where unclear."""

from __future__ import annotations

import copy
import gc
import io
import json
import math
import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import _get_current_function_mode_stack
from torch.utils.checkpoint import checkpoint

import foreshock as fs
from foreshock.estimators import GradientNoise
from foreshock.estimators.norm_rows import ALTERED, NOT_FINITE, ZERO
from foreshock.estimators.per_example import per_example_norms
from foreshock.monitor import examples as listening
from foreshock.monitor.examples import ENTANGLED, FROZEN, Examples, Inert
from foreshock.monitor.micro import MicroBatches
from foreshock.monitor.presets import choose
from foreshock.probe.examples import ExampleNorms
from foreshock.probe.moment import Moment
from foreshock.probe.view import ModelView
from foreshock.types import Flag
from tests.cases import CASES, Case, loss

INPUTS, LABELS = CASES["mlp"].batch(12, 3)


class Checkpointed(nn.Module):
    """The middle layer is run again in the backward pass; dropout draws in between."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 4)
        self.drop = nn.Dropout(0.3)
        self.reentrant = reentrant

    def inner(self, h: Tensor) -> Tensor:
        return self.drop(torch.relu(self.middle(h)))

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.last(checkpoint(self.inner, h, use_reentrant=self.reentrant))


def mlp() -> nn.Module:
    return CASES["mlp"].model()


def hear(
    model: nn.Module, step: Callable[[nn.Module], Any], clip: float | None = None
) -> ExampleNorms | None:
    """What is heard of one step of the user's."""
    examples = Examples(ModelView(model), model)
    examples.arm(True)
    model.zero_grad()
    step(model)
    if clip is not None:
        nn.utils.clip_grad_norm_(model.parameters(), clip)
    return examples.take([p.grad for p in model.parameters()])


def whole(model: nn.Module) -> None:
    loss(model, (INPUTS, LABELS)).backward()


def reference() -> ExampleNorms:
    return per_example_norms(ModelView(mlp()), loss, (INPUTS, LABELS))


def assert_same(a: ExampleNorms | None, b: ExampleNorms, factor: float = 1.0) -> None:
    assert a is not None and a.coverage == 1.0
    torch.testing.assert_close(a.squares, factor * b.squares, rtol=1e-4, atol=1e-12)
    torch.testing.assert_close(a.mean_squares, factor * b.mean_squares, rtol=1e-4, atol=1e-12)


def test_the_own_backward_pass_says_what_the_extra_pass_says() -> None:
    assert_same(hear(mlp(), whole), reference())


def test_several_passes_are_one_sample() -> None:
    def accumulate(model: nn.Module) -> None:
        for start in (0, 4, 8):
            part = slice(start, start + 4)
            (loss(model, (INPUTS[part], LABELS[part])) / 3).backward()

    assert_same(hear(mlp(), accumulate), reference())


def test_a_clipped_or_scaled_gradient_is_followed() -> None:
    exact = reference()
    norm = exact.mean_squares.sum().sqrt().item()
    assert_same(hear(mlp(), whole, clip=norm / 3), exact, factor=1 / 9)


def test_passes_without_a_backward_pass_are_left_out() -> None:
    def look_first(model: nn.Module) -> None:
        with torch.no_grad():
            model(INPUTS)
        model(INPUTS)  # with a graph that nobody uses
        whole(model)

    assert_same(hear(mlp(), look_first), reference())


def test_a_failing_forward_pass_leaves_no_mode_behind() -> None:
    def stumble(model: nn.Module) -> None:
        with pytest.raises(RuntimeError):
            model(INPUTS[:, :5])
        assert _get_current_function_mode_stack() == []
        whole(model)

    assert_same(hear(mlp(), stumble), reference())


def test_data_parallel_is_looked_through() -> None:
    assert_same(hear(nn.DataParallel(mlp()), whole), reference())


def test_two_forward_passes_before_one_backward_pass_are_refused() -> None:
    def pairs(model: nn.Module) -> None:
        (loss(model, (INPUTS, LABELS)) + loss(model, (2 * INPUTS, LABELS))).backward()

    norms = hear(mlp(), pairs)
    assert norms is not None and norms.n == 0 and norms.reason == ENTANGLED


def test_a_pass_that_nobody_walks_back_does_not_entangle_another() -> None:
    def look_between(model: nn.Module) -> None:
        value = loss(model, (INPUTS, LABELS))
        model(2 * INPUTS).sum().item()  # begun later, with a graph, never walked back
        value.backward()

    assert_same(hear(mlp(), look_between), reference())


def test_nothing_is_kept_of_passes_without_a_backward_pass() -> None:
    model = mlp()
    examples = Examples(ModelView(model), model)
    examples.arm(True)
    outputs = weakref.WeakSet(model(INPUTS) for _ in range(60))
    gc.collect()
    alive = [one for one in examples._quiet if one() is not None]
    assert len(outputs) == 0 and len(alive) == 0 and not examples._passes
    model(INPUTS)
    assert len(examples._quiet) == 1
    examples.remove()


def frozen_at(place: str) -> Callable[[nn.Module], None]:
    def step(model: nn.Module) -> None:
        first = next(model.parameters())
        if place == "before the forward pass":
            first.requires_grad_(False)
        value = loss(model, (INPUTS, LABELS))
        if place == "after it":
            first.requires_grad_(False)
        value.backward()
        if place == "after the first of two":
            first.requires_grad_(False)
            loss(model, (INPUTS, LABELS)).backward()

    return step


@pytest.mark.parametrize("place", ["before the forward pass", "after it", "after the first of two"])
def test_freezing_within_a_step_is_refused_and_never_raises(place: str) -> None:
    model = mlp()
    norms = hear(model, frozen_at(place))
    assert norms is not None and norms.n == 0 and norms.reason == FROZEN
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    assert_same(hear(model, whole), reference())


def test_micro_batches_of_a_step_with_freezing_are_none() -> None:
    model = mlp()
    micro = MicroBatches(ModelView(model))
    micro.arm(True)
    frozen_at("after the first of two")(model)
    assert micro.take([p.grad for p in model.parameters() if p.requires_grad]) == ()
    assert micro.uneven and micro.total == ()
    micro.arm(True)
    frozen_at("before the forward pass")(model)
    assert len(micro.take([p.grad for p in model.parameters() if p.requires_grad])) == 1
    micro.remove()


@pytest.mark.parametrize("where", ["_begin", "_keep", "_compare"])
def test_an_error_of_ours_becomes_a_reason(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble(*_: Any) -> None:
        raise IndexError("list index out of range")

    monkeypatch.setattr(Examples, where, stumble)
    norms = hear(mlp(), whole)
    assert norms is not None and norms.n == 0
    assert norms.reason.startswith("IndexError: list index out of range: the per-example norms")


def penalty(model: nn.Module) -> None:
    (
        loss(model, (INPUTS, LABELS)) + 0.1 * sum(p.pow(2).sum() for p in model.parameters())
    ).backward()


def decay(model: nn.Module) -> None:
    whole(model)
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.grad.add_(parameter.detach(), alpha=0.3)


def stale(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.01)
    whole(model)


def clip_one_layer(model: nn.Module) -> None:
    whole(model)
    nn.utils.clip_grad_norm_(model.head.parameters(), 1e-3)


def turn(model: nn.Module) -> None:
    whole(model)  # every norm stays as it is
    for parameter in model.head.parameters():
        assert parameter.grad is not None
        parameter.grad.neg_()


def clip_values(model: nn.Module) -> None:
    whole(model)
    nn.utils.clip_grad_value_(model.parameters(), 1e-3)


@pytest.mark.parametrize(
    ("step", "sentence"),
    [
        (penalty, NOT_FINITE),
        (decay, ALTERED),
        (stale, ALTERED),
        (clip_one_layer, ALTERED),
        (clip_values, ALTERED),
        (turn, ALTERED),
        (lambda model: (0 * model(INPUTS)).sum().backward(), ZERO),
    ],
)
def test_a_gradient_that_was_not_heard_leaves_no_number(
    step: Callable[[nn.Module], None], sentence: str
) -> None:
    """Without the check every one of these is finite and wrong, except the last, which is 0."""
    model = mlp()
    view, observable = ModelView(model), GradientNoise("examples")
    clean = Moment(0, view, (None,) * len(view.names), (0.1,), examples=hear(model, whole))
    state = observable.init()
    for _ in range(20):
        state, readings = observable.update(state, clean)
    assert state is not None and len(state.rows[""]) == 20
    moment = Moment(0, view, (None,) * len(view.names), (0.1,), examples=hear(model, step))
    state, readings = observable.update(state, moment)
    assert readings.scalars["grad/noise"].reason == sentence
    # A gradient from elsewhere may have been overlooked before: the block begins anew.
    assert len(state.rows.get("", ())) == (20 if sentence == ZERO else 0)


def test_unequal_passes_are_refused_and_equal_ones_are_not() -> None:
    def unequal(model: nn.Module) -> None:
        for part in (slice(0, 8), slice(8, 12)):
            (loss(model, (INPUTS[part], LABELS[part])) / 2).backward()

    norms = hear(mlp(), unequal)
    assert norms is not None and norms.n == 0 and "(8, 4)" in norms.reason


def test_a_parameter_whose_gradient_is_dropped_counts_as_zero() -> None:
    def drop(model: nn.Module) -> None:
        whole(model)
        next(model.parameters()).grad = None

    norms, exact = hear(mlp(), drop), reference()
    assert norms is not None and norms.coverage == 1.0
    assert (norms.squares[:, 0] == 0).all() and norms.mean_squares[0] == 0
    torch.testing.assert_close(norms.squares[:, 1:], exact.squares[:, 1:], rtol=1e-4, atol=1e-12)


def test_keyword_arguments_are_heard() -> None:
    class Keyed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = mlp()

        def forward(self, *, inputs: Tensor) -> Tensor:
            return self.inner(inputs)

    def step(model: nn.Module) -> None:
        functional.cross_entropy(model(inputs=INPUTS), LABELS).backward()

    assert_same(hear(Keyed(), step), reference())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_copies_and_exports_of_an_armed_model_carry_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listening, "_somebody_compiles", lambda: False)
    model = mlp()
    examples = Examples(ModelView(model), model)
    bare = len(io.BytesIO(_saved(model)).getvalue())
    examples.arm(True)
    twin = copy.deepcopy(model)
    assert not twin._forward_hooks and not twin._forward_pre_hooks
    assert all(not p._backward_hooks for p in twin.parameters())
    twin(INPUTS).sum().backward()
    assert len(_saved(model)) <= bare + 200  # one number of a hook at most
    torch.jit.script(model)
    torch.jit.trace(model, INPUTS)
    assert not examples._passes and not examples._quiet
    model.zero_grad()
    whole(model)
    assert_same(examples.take([p.grad for p in model.parameters()]), reference())
    assert not torch.nn.modules.module._global_forward_pre_hooks
    assert not torch.nn.modules.module._global_forward_hooks
    assert not model._forward_pre_hooks_with_kwargs


def test_hooks_on_the_module_are_inert_in_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where something was compiled, global hooks would make compiled models warn."""
    monkeypatch.setattr(listening, "_somebody_compiles", lambda: True)
    model = mlp()
    examples = Examples(ModelView(model), model)
    examples.arm(True)
    assert len(model._forward_pre_hooks) == len(model._forward_hooks) == 1
    file = io.BytesIO(_saved(model))
    for twin in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        twin(INPUTS).sum().backward()
        assert not any(isinstance(h, Inert) for h in twin._forward_hooks.values())
    assert not examples._passes and not examples._quiet
    model.zero_grad()
    whole(model)
    assert_same(examples.take([p.grad for p in model.parameters()]), reference())
    assert not model._forward_pre_hooks and not model._forward_hooks


def _saved(model: nn.Module) -> bytes:
    file = io.BytesIO()
    torch.save(model, file)
    return file.getvalue()


def test_another_compiled_model_is_left_alone() -> None:
    """A teacher compiled without graph breaks runs before, while and after the student is heard."""
    teacher = torch.compile(mlp(), backend="eager", fullgraph=True)
    model = mlp()
    examples = Examples(ModelView(model), model)
    assert listening._somebody_compiles()
    expected = teacher(INPUTS)
    examples.arm(True)
    assert torch.equal(teacher(INPUTS), expected)
    whole(model)
    assert_same(examples.take([p.grad for p in model.parameters()]), reference())
    assert torch.equal(teacher(INPUTS), expected)


def test_two_backward_passes_through_one_graph_are_refused() -> None:
    def twice(model: nn.Module) -> None:
        output = model(INPUTS)
        functional.cross_entropy(output, LABELS).backward(retain_graph=True)
        output.square().mean().backward()

    norms = hear(mlp(), twice)
    assert norms is not None and norms.n == 0 and "more than once" in norms.reason


def test_non_reentrant_checkpoints_are_covered_and_reentrant_ones_named() -> None:
    model = Checkpointed(False)
    model.drop.p = 0.0
    exact = per_example_norms(ModelView(model), loss, (INPUTS, LABELS))
    assert_same(hear(model, whole), exact)
    model.reentrant = True
    norms = hear(model, whole)
    assert norms is not None and norms.covered == (True, True, False, False, True, True)
    assert "middle.weight" in norms.reason and "reentrant" in norms.reason
    torch.testing.assert_close(norms.squares[:, 0], exact.squares[:, 0], rtol=1e-4, atol=1e-12)


class TiedLoss(nn.Module):
    """The embedding is read once more by a loss outside the forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix = nn.Embedding(12, 8), nn.Linear(8, 8)

    def forward(self, tokens: Tensor) -> Tensor:
        return torch.tanh(self.mix(self.embed(tokens)))


def test_a_weight_that_is_also_read_outside_has_no_norms() -> None:
    tokens, labels = CASES["transformer"].batch(9, 0)

    def outside(model: nn.Module) -> None:
        logits = model(tokens).mean(1) @ model.embed.weight.T
        functional.cross_entropy(logits, labels).backward()

    norms = hear(TiedLoss(), outside)
    assert norms is not None and norms.names[0] == "embed.weight"
    assert norms.squares[:, 0].isnan().all()  # would be right only for the lookup
    assert norms.squares[:, 1:].isfinite().all() and (norms.squares[:, 1:] > 0).all()


def test_hooks_are_there_on_armed_steps_only() -> None:
    model = mlp()
    examples = Examples(ModelView(model), model)

    def hooks() -> int:
        on_parameters = sum(len(p._backward_hooks or ()) for p in model.parameters())
        return on_parameters + len(model._forward_hooks) + len(model._forward_pre_hooks)

    assert hooks() == 0
    examples.arm(True)
    assert hooks() > 0
    whole(model)
    assert examples.take([p.grad for p in model.parameters()]) is not None
    assert hooks() == 0
    assert examples.take([p.grad for p in model.parameters()]) is None
    assert not examples._passes and not examples._arrivals.held


def test_parts_called_one_by_one_are_not_heard() -> None:
    def parts(model: nn.Module) -> None:
        functional.cross_entropy(model.head(model.body(INPUTS)), LABELS).backward()

    assert hear(mlp(), parts) is None


def bits(tensor: Tensor | None) -> bytes:
    return b"" if tensor is None else tensor.detach().contiguous().numpy().tobytes()


def train(
    make: Callable[[], nn.Module], case: Case, run: Path | None, *, compiled: bool = False
) -> list[Any]:
    """Everything that listening must not change after 17 steps, step by step."""
    torch.manual_seed(1)
    bare = make().train()
    optimizer = torch.optim.AdamW(bare.parameters(), lr=0.01)
    model = torch.compile(bare, backend="aot_eager") if compiled else bare
    watch = None
    if run is not None:
        probe = case.probe() if compiled else None
        observables = [GradientNoise("examples", groups="layer")]
        watch = fs.attach(model, optimizer, run=run, probe=probe, observables=observables, every=1)
    seen: list[Any] = []
    for step in range(17):
        optimizer.zero_grad()
        value = loss(model, case.batch(16, step))
        value.backward()
        seen += [bits(value), *(bits(p.grad) for p in bare.parameters())]
        optimizer.step()
    seen += [bits(v) for v in bare.state_dict().values()]
    seen += [torch.rand(1).item(), [m.training for m in bare.modules()]]
    if watch is not None:
        watch.close()
    return seen


SCENES: dict[str, tuple[Callable[[], nn.Module], str, bool]] = {
    "in-place relu": (CASES["mlp"].model, "mlp", False),
    "batch norm and dropout": (CASES["cnn"].model, "cnn", False),
    "fused attention, tied": (CASES["transformer"].model, "transformer", False),
    "checkpoints": (lambda: Checkpointed(False), "mlp", False),
    "reentrant checkpoints": (lambda: Checkpointed(True), "mlp", False),
    "compiled": (CASES["transformer"].model, "transformer", True),
}


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.filterwarnings("ignore::UserWarning:torch")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_training_is_bitwise_unperturbed(scene: str, tmp_path: Path) -> None:
    make, data, compiled = SCENES[scene]
    case = CASES[data]
    bare = train(make, case, None, compiled=compiled)
    assert bare == train(make, case, tmp_path / "run", compiled=compiled)
    assert bare == train(make, case, None, compiled=compiled), "the comparison is not deterministic"
    with fs.Run.open(tmp_path / "run") as run:
        assert run.events("observable_off") == []
        series = run.series("grad/noise")
        last = series.estimate(len(series.step) - 1)
        part = run.series(
            "grad/noise@head" if data != "mlp" or "relu" in scene else "grad/noise@last"
        )
        there = math.isfinite(part.value[-1])
    assert series.step.tolist() == list(range(17))
    if scene == "batch norm and dropout":
        assert last.flags == Flag.UNRESOLVED | Flag.COUPLED_EXAMPLES
        assert last.reason.startswith("norm normalises") and not there
    elif scene == "reentrant checkpoints":
        assert math.isnan(last.value) and "reentrant" in last.reason and there
    else:
        assert last.value > 0 and there


def test_offered_to_every_run() -> None:
    assert choose([GradientNoise("examples")], None).left_out == ()


def test_ranks_need_a_fixed_rhythm(tmp_path: Path) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="waits for all ranks"):
        fs.attach(model, optimizer, run=tmp_path / "r", observables=[GradientNoise("ranks")])


def test_one_process_has_no_ranks(tmp_path: Path) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    observables = [GradientNoise("ranks")]
    with fs.attach(model, optimizer, run=tmp_path / "r", observables=observables, every=1):
        whole(model)
        optimizer.step()
    with fs.Run.open(tmp_path / "r") as run:
        assert "There is one process" in run.series("grad/snr").estimate(0).reason


def test_two_ranks_agree_with_their_exact_gradients(tmp_path: Path) -> None:
    """Two gloo processes, clipping included; exact local gradients gathered beside it."""
    child = Path(__file__).with_name("ranks_child.py")
    root = str(Path(__file__).parents[2] / "src")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    commands = [
        [sys.executable, str(child), str(rank), "2", str(tmp_path / "meet"), str(tmp_path)]
        for rank in range(2)
    ]
    processes = [
        subprocess.Popen(c, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for c in commands
    ]
    try:
        answers = [process.communicate(timeout=90) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [p.returncode for p in processes] == [0, 0], answers[0][1][-2000:].decode()
    first, second = (json.loads(out.decode().splitlines()[-1]) for out, _ in answers)
    assert first == second  # every rank knows the same
    assert math.isfinite(first["grad/snr"][0])
    for name, numbers in first.items():
        got, exact = numbers[:3], numbers[3:]
        # clip_grad_norm_ divides by norm + 1e-6, 2e-5 of the norm here, and squares it.
        assert got == pytest.approx(exact, rel=1e-4, abs=1e-9), name
