"""What real loops hold: workers, checkpoints, frozen weights, wrappers, scaled gradients, hooks.

Oracle where training could notice: the same loop without the call, bitwise.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_full_backward_hook,
)
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from foreshock.documents import (
    CriticalityTracker,
    FokkerPlanckDynamics,
    FPETorchWrapper,
    RLHFMonitor,
    compute_consolidation_ratio,
    compute_loss,
    estimate_lambda_max,
    evaluate,
    hessian_vector_product,
    track_learning_dynamics,
)


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> Any:
    """A model whose making leaves the global generator alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def rows(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def norms() -> Any:
    """A model with batch norm, whose buffers a careless call would move."""
    return seeded(lambda: nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)))


def squares(model: Any, batch: Any) -> Tensor:
    return model(batch).square().mean()


# ------------------------------------------------------------------ loaders


def epoch(model: Any, loader: Any, optimizer: Any) -> None:
    for x, y in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


@pytest.mark.parametrize("measure", ["ratio", "track"])
def test_workers_that_persist_are_not_begun_by_a_measurement(measure: str) -> None:
    """A fresh loader with one real worker: its first epoch draws the seed of its workers."""

    def run(which: str | None) -> tuple[Tensor, Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.Linear(8, 2))
            data = TensorDataset(torch.randn(16, 2), torch.tensor([0, 1] * 8))
            loader = DataLoader(
                data, batch_size=4, shuffle=True, num_workers=1, persistent_workers=True
            )
            optimizer = torch.optim.SGD(model.parameters(), 0.1)
            if which == "track":
                track_learning_dynamics(
                    model, loader, loader, 1, report=lambda _: None,
                    train_epoch=lambda m, rows: epoch(m, rows, optimizer),
                )  # fmt: skip
            else:
                if which == "ratio":
                    compute_consolidation_ratio(model, loader, 2)
                    assert loader._iterator is None
                    assert multiprocessing.active_children() == []  # nor left behind
                epoch(model, loader, optimizer)
            return model[0].weight.detach().clone(), torch.get_rng_state()

    assert all(torch.equal(a, b) for a, b in zip(run(measure), run(None), strict=True))


def test_accuracy_holds_one_batch_at_a_time() -> None:
    class Lazy:
        alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
        most = 0

        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            for _ in range(20):
                x = rows(4, 2)
                self.alive.add(x)
                self.most = max(self.most, len(self.alive))
                yield x, torch.zeros(4, dtype=torch.long)
                del x

    loader = Lazy()
    assert 0 <= evaluate(nn.Linear(2, 2), loader) <= 1
    assert loader.most <= 2  # the one that is measured and the one that follows


def test_the_users_own_accuracy_moves_nothing_either() -> None:
    """It puts the live model in evaluation mode, learns its batch norm, and shuffles."""

    def mine(model: Any, loader: Any) -> float:
        model.eval()
        right = float(sum((model(x).argmax(-1) == y).sum() for x, y in loader))
        model.train()
        model(torch.ones(3, 4))
        model[2].eval()
        return right

    def run(how: Callable[[Any, Any], float] | None) -> list[Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = norms()
            data = TensorDataset(torch.randn(16, 4), torch.tensor([0, 1] * 8))
            loader = DataLoader(data, batch_size=4, shuffle=True)  # the global generator
            optimizer = torch.optim.SGD(model.parameters(), 0.1)
            for _ in range(1 if how else 2):
                if how:
                    history = track_learning_dynamics(
                        model, loader, loader, 2, evaluate=how, report=lambda _: None,
                        train_epoch=lambda m, rows: epoch(m, rows, optimizer),
                    )  # fmt: skip
                    assert all(0 <= row["train_acc"] <= 16 for row in history)
                else:
                    epoch(model, loader, optimizer)
            assert all(m.training for m in model.modules())
            return [*(t.clone() for t in model.state_dict().values()), torch.get_rng_state()]

    assert all(torch.equal(a, b) for a, b in zip(run(mine), run(None), strict=True))


# ------------------------------------------------------------------ losses and graphs


def test_a_loss_over_the_live_model_is_refused_and_moves_nothing() -> None:
    model, x = norms(), rows(6, 4)
    before = [b.clone() for b in model.buffers()]

    def over(_: Any, batch: Any) -> Tensor:
        return model(batch).square().mean()

    v = [torch.ones_like(p) for p in model.parameters()]
    for call in (
        lambda: compute_consolidation_ratio(model, [x] * 3, compute_loss=over),
        lambda: estimate_lambda_max(model, over, [x] * 5),
        lambda: hessian_vector_product(model, over, [x] * 5, v),
        lambda: CriticalityTracker(model).compute_S(lambda _: over(model, x), 0.1),
    ):
        with pytest.raises(ValueError, match="closes over the live model"):
            call()
        assert all(torch.equal(a, b) for a, b in zip(before, model.buffers(), strict=True))
    assert compute_consolidation_ratio(model, [x] * 3, compute_loss=squares)["C_alpha"] > 0


def test_a_graph_that_waits_for_its_backward_is_not_spoilt() -> None:
    """In evaluation mode batch norm keeps its buffers for the backward pass: no write to them."""
    model, x = norms().eval(), rows(6, 4)
    loss = squares(model, x)
    CriticalityTracker(model).compute_S(lambda m: squares(m, x), 0.1)
    compute_consolidation_ratio(model, [x] * 3, compute_loss=squares)
    loss.backward()


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_graph_with_checkpoints_is_not_run_again(reentrant: bool) -> None:
    class Frugal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.calls = norms(), []
            self.inner[0].register_forward_hook(lambda *_: self.calls.append(1))

        def forward(self, x: Tensor) -> Any:
            return checkpoint(self.inner, x, use_reentrant=reentrant)

    model = seeded(Frugal)
    tracker, x = CriticalityTracker(model), rows(6, 4).requires_grad_()
    loss = squares(model, x)
    loss.backward(retain_graph=True)
    before = [t.clone() for t in (*model.buffers(), *(p.grad for p in model.parameters()))]
    calls = list(model.calls)
    with pytest.warns(UserWarning, match="`compute_S` .* is nan at this step"):
        assert math.isnan(tracker.compute_S(loss, 0.1)[1])
    after = [*model.buffers(), *(p.grad for p in model.parameters())]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert model.calls == calls
    assert math.isfinite(tracker.compute_S(lambda m: squares(m, x.detach()), 0.1)[1])
    assert model.calls == calls
    if not reentrant:  # the user's graph is as good as before
        loss.backward()


def test_a_wrong_loss_is_refused_before_the_window_is_full() -> None:
    model, x = nn.Linear(3, 1), torch.eye(3)
    model(x).square().mean().backward()
    tracker = CriticalityTracker(model)  # a window of 100
    with pytest.raises(ValueError, match="`compute_S` of .* failed at its first call"):
        tracker.check_criticality(lambda m: m(x, 3).sum(), x, 0.1)
    # What works once and fails later is missing, whichever of its forms is new.
    tracker = CriticalityTracker(model, window=10)
    good = squares(model, x)
    for _ in range(9):
        assert tracker.check_criticality(good, x, 0.1) is None
    with pytest.warns(UserWarning, match="`compute_S` of .* is nan at this step"):
        found = tracker.check_criticality(lambda m: m(x, 3).sum(), x, 0.1)
    assert found is not None and math.isnan(found["S"])


def test_hooks_on_all_modules_are_not_called() -> None:
    model, x, calls = norms(), rows(6, 4), []
    tracker = CriticalityTracker(model)
    handle = register_module_forward_hook(lambda *_: calls.append(1), always_call=True)
    try:
        evaluate(model, [(x, torch.zeros(6, dtype=torch.long))])
        compute_consolidation_ratio(model, [x] * 3, compute_loss=squares)
        tracker.compute_S(lambda m: squares(m, x), 0.1)
        assert calls == []
        model(x)
        assert len(calls) == 4  # it is there again, once
    finally:
        handle.remove()
    handle = register_module_full_backward_hook(lambda *_: calls.append(1))
    try:
        loss, calls = squares(model, x), []
        with pytest.warns(UserWarning, match="backward hooks, which would be called"):
            assert math.isnan(tracker.compute_S(loss, 0.1)[1])
        assert calls == []
    finally:
        handle.remove()
    model(x)


@pytest.mark.parametrize("kind", ["no_grad", "inference", "autocast", "compiled"])
def test_where_it_is_called_does_not_matter(kind: str) -> None:
    """Oracle: the same numbers outside, of the plain model."""
    model, x = (
        seeded(lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))),
        rows(6, 4),
    )
    shown = torch.compile(model, backend="eager") if kind == "compiled" else model
    within: Any = {
        "no_grad": torch.no_grad,
        "inference": torch.inference_mode,
        "autocast": lambda: torch.autocast("cpu"),
        "compiled": contextlib.nullcontext,
    }[kind]

    batches = [x, 2 * x, -x]

    def numbers(seen: Any) -> list[float]:
        tracker = CriticalityTracker(seen)
        c = compute_consolidation_ratio(seen, batches, compute_loss=squares)["C_alpha"]
        top = estimate_lambda_max(seen, squares, [x], 3, 1)
        return [c, top, tracker.compute_rho(x)[0], *tracker.compute_S(lambda m: squares(m, x), 0.1)]

    expected = numbers(model)
    with within():
        assert numbers(shown) == expected


def test_the_loop_of_levy_ends_with_the_weights_it_has_without_the_tracker() -> None:
    """The document's own: 10-50-50-2, a window of 100, 64 new examples a step, 32 of them shown."""

    def run(watched: bool) -> tuple[Any, list[Any]]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            relu, criterion = nn.ReLU(), nn.CrossEntropyLoss()
            model = nn.Sequential(
                nn.Linear(10, 50), relu, nn.Linear(50, 50), relu, nn.Linear(50, 2)
            )
            tracker = CriticalityTracker(model, window=100)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
            found = []
            for step in range(102):
                x, y = torch.randn(64, 10), torch.randint(0, 2, (64,))
                optimizer.zero_grad()
                loss = criterion(model(x), y)
                loss.backward(retain_graph=step == 100)
                if watched:
                    shown = loss if step == 100 else lambda m, x=x, y=y: criterion(m(x), y)
                    found.append(tracker.check_criticality(shown, x[:32], lr=0.01))
                optimizer.step()
            return [*(p.detach() for p in model.parameters()), torch.get_rng_state()], found

    ours, found = run(True)
    assert all(torch.equal(a, b) for a, b in zip(ours, run(False)[0], strict=True))
    assert [one is None for one in found] == [True] * 99 + [False] * 3
    # Defect: S is 2/0.01 less a curvature of order one, so its band of .1 about 0 is never met.
    assert all(190 < one["S"] < 210 and not one["is_critical"] for one in found[99:])


# ------------------------------------------------------------------ decoders


def test_a_decoder_without_trained_weights_is_seen_through_a_copy() -> None:
    """Frozen, or without any weight: in evaluation mode, no buffer moved and no hook called."""
    z = rows(9, 2)
    frozen = seeded(lambda: nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)))
    frozen.requires_grad_(False)
    bare = nn.Sequential(nn.BatchNorm1d(2, affine=False))
    for model, x in ((frozen, 3), (bare, 2)):
        calls: list[int] = []
        model[0].register_forward_hook(lambda *_, calls=calls: calls.append(1))
        before = [b.clone() for b in model.buffers()]
        fpe = FokkerPlanckDynamics(model)
        fpe.target_x = torch.zeros(x)
        flux = fpe._compute_flux(z, None, 0.0)
        fpe.train_epoch(z, None, n_steps=1)
        assert all(torch.equal(a, b) for a, b in zip(before, model.buffers(), strict=True))
        assert calls == [] and model.training
        model.eval()
        live = FokkerPlanckDynamics(lambda z, model=model: model(z))
        live.target_x = torch.zeros(x)
        torch.testing.assert_close(flux, live._compute_flux(z, None, 0.0))


def test_weights_frozen_midway_and_given_by_the_names_of_a_wrapper() -> None:
    model, z = seeded(lambda: nn.Linear(2, 3)), rows(9, 2)
    fpe = FokkerPlanckDynamics(model)
    fpe.target_x = torch.zeros(3)
    free = fpe._compute_flux(z, None, 0.0)
    model.bias.requires_grad_(False)
    assert torch.equal(fpe._compute_flux(z, None, 0.0), free)
    model.requires_grad_(False)
    assert torch.equal(fpe._compute_flux(z, None, 0.0), free)
    assert fpe.learning_rate(0.0) == 0.01
    # Weights of the call count, frozen or not.
    other = {name: p + 1 for name, p in model.named_parameters()}
    assert not torch.equal(fpe._compute_flux(z, other, 0.0), free)
    with pytest.raises(ValueError, match=r"There is no \['bias'\]"):
        fpe.consolidation_ratio(z, {"weight": model.weight}, 0.0)
    for wrapped in (nn.DataParallel(model), torch.compile(model, backend="eager")):
        fpe = FokkerPlanckDynamics(wrapped)
        fpe.target_x = torch.zeros(3)
        names = dict(wrapped.named_parameters())
        assert "weight" not in names
        assert torch.equal(fpe._compute_flux(z, names, 0.0), free)
        assert torch.equal(fpe._compute_flux(z, dict(model.named_parameters()), 0.0), free)


def test_latents_of_inference_mode_are_taken() -> None:
    model = seeded(lambda: nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)))
    plain = rows(9, 2)
    with torch.inference_mode():
        z, target = plain.clone(), torch.zeros(1)
    fpe = FokkerPlanckDynamics(model)
    fpe.target_x = torch.zeros(1)
    expected = fpe.consolidation_ratio(plain, None, 0.0)
    fpe.target_x = target
    with torch.inference_mode():
        assert fpe.consolidation_ratio(z, None, 0.0) == expected
    eager = RLHFMonitor(None, fpe, C_alert_threshold=math.inf)
    assert eager.detect_misalignment_risk(z, None, 0.0)["C"] == expected
    assert eager.detect_misalignment_risk(z, None, 0.0)["max_divergence"] > 0
    ours, theirs = (CriticalityTracker(model).compute_rho(at) for at in (z, plain))
    assert ours == theirs
    squares(model, plain).backward()
    wrapper = FPETorchWrapper(model, model)
    assert wrapper.consolidation_ratio(z, 0) == wrapper.consolidation_ratio(plain, 0)


# ------------------------------------------------------------------ gradients


def test_gradients_are_read_as_they_stand() -> None:
    """Scaled before `unscale_`, partial before the last micro-batch: the docstrings say when."""
    model, x = seeded(lambda: nn.Linear(2, 1)), rows(8, 2)

    def size(wrapper: FPETorchWrapper) -> float:
        return wrapper.consolidation_ratio(x, 0)

    wrapper = FPETorchWrapper(model, model)
    squares(model, x).backward()
    whole = size(wrapper)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    optimizer.zero_grad()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(squares(model, x)).backward()
    assert size(wrapper) == pytest.approx(1024 * whole, rel=1e-6)
    scaler.unscale_(optimizer)
    assert size(wrapper) == pytest.approx(whole, rel=1e-6)
    optimizer.zero_grad()
    for half in x.split(4):
        (squares(model, half) / 2).backward()
    assert size(wrapper) == pytest.approx(whole, rel=1e-5)


def test_sparse_gradients_have_a_norm() -> None:
    """Oracle: the same model with dense ones; a row that is met twice counts as its sum."""
    found = []
    for sparse in (True, False):
        model = seeded(lambda sparse=sparse: nn.Embedding(5, 2, sparse=sparse))
        model(torch.tensor([1, 3, 1])).square().sum().backward()
        found.append(FPETorchWrapper(model, model).consolidation_ratio(rows(6, 2), 0))
    assert found[0] == pytest.approx(found[1], rel=1e-6)


# ------------------------------------------------------------------ shapes


def test_loss_and_accuracy_agree_on_where_the_classes_are() -> None:
    """As many positions as classes: the last dimension is that of the classes, for both."""
    identity = nn.Identity()
    identity.weight = nn.Parameter(torch.zeros(()))
    labels = torch.tensor([[1, 2, 0]])
    logits = 50 * nn.functional.one_hot(labels, 3).float()
    assert evaluate(identity, [(logits, labels)]) == 1.0
    assert compute_loss(identity, (logits, labels)).item() == pytest.approx(0, abs=1e-6)
    for outputs, wrong in (
        (rows(4, 7)[None], torch.zeros(1, 7, dtype=torch.long)),
        (rows(4, 1), torch.zeros(4)),
    ):
        with pytest.raises(ValueError, match="classes in the last dimension"):
            compute_loss(identity, (outputs, wrong))
    with pytest.raises(ValueError, match="classes in the last dimension"):
        evaluate(identity, [(rows(4, 7)[None], torch.zeros(1, 7, dtype=torch.long))])


def test_targets_of_any_number_type() -> None:
    z, flux = 0.2 * rows(10, 2), rows(10, 2, 1)

    def production(target: Any) -> float:
        fpe = FokkerPlanckDynamics(lambda z: z)
        fpe.target_x = target
        return fpe.entropy_production(z, flux)

    expected = production(torch.zeros(2))
    assert expected != 0
    assert production(torch.zeros(2, dtype=torch.long)) == expected
    assert production(np.zeros(2, dtype=np.float32)) == expected
    assert production(np.zeros(2)) == pytest.approx(expected, rel=1e-3)
    assert production([0, 0]) == expected
    wide = FokkerPlanckDynamics(seeded(lambda: nn.Linear(2, 3).double()))
    wide.target_x = torch.zeros(3)
    assert math.isfinite(wide.consolidation_ratio(z.double(), None, 0.0))
    assert wide._compute_flux(z, None, 0.0).dtype == torch.float64
