"""The documents' usage examples, rewritten: training ends bitwise as it would without them.

Oracle: the same loop without the call. The model has what a careless measurement would move: batch
norm, dropout (which draws from the global generator), a frozen weight, hooks that count. Compared
are weights, gradients, buffers, the optimizer's state, all global generators and the loader's,
train/eval flags, requires_grad, the hooks themselves and how often they were called.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from foreshock.documents import (
    CriticalityTracker,
    FokkerPlanckDynamics,
    FPETorchWrapper,
    RLHFMonitor,
    StochasticHarmonicLearning,
    adiabatic_parameter,
    compute_consolidation_ratio,
    detect_phase_transition,
    estimate_lambda_max,
    estimate_tail_index,
    evaluate,
    get_adaptive_lr,
    hessian_vector_product,
    k_star,
    should_stop_early,
    track_learning_dynamics,
)

STEPS = 14


class Run:
    """A small training run with everything that a measurement could disturb."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        self.model = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Tanh(), nn.Linear(8, 3)
        )
        self.model[0].bias.requires_grad_(False)
        self.model[2].eval()  # a mode set by hand: one flag differs from the others
        self.model[2].train()
        self.model[1].momentum = 0.3
        self.calls = 0
        self.model[3].register_forward_hook(self.count)
        self.model[4].weight.register_post_accumulate_grad_hook(self.count)
        self.optimizer = torch.optim.Adam(
            [p for p in self.model.parameters() if p.requires_grad], lr=0.01
        )
        x = torch.randn(48, 4)
        data = TensorDataset(x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long())
        self.generator = torch.Generator().manual_seed(5)
        self.loader = DataLoader(
            data, batch_size=8, sampler=RandomSampler(data, generator=self.generator)
        )
        self.shuffled = DataLoader(data, batch_size=8, shuffle=True)  # draws from the global one
        self.inputs, self.labels = data.tensors
        self.criterion = nn.CrossEntropyLoss()

    def count(self, *_: Any) -> None:
        self.calls += 1

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        at = slice(8 * (step % 6), 8 * (step % 6) + 8)
        return self.inputs[at], self.labels[at]

    def forward(self, step: int) -> Tensor:
        x, y = self.batch(step)
        self.optimizer.zero_grad()
        return self.criterion(self.model(x), y)

    def state(self) -> dict[str, Any]:
        """Everything, copied."""
        modules = list(self.model.modules())
        return {
            "weights": [p.detach().clone() for p in self.model.parameters()],
            "gradients": [
                None if p.grad is None else p.grad.clone() for p in self.model.parameters()
            ],
            "buffers": [b.clone() for b in self.model.buffers()],
            "optimizer": [
                v.clone() if isinstance(v, Tensor) else v
                for s in self.optimizer.state.values()
                for v in s.values()
            ],
            "groups": [g["lr"] for g in self.optimizer.param_groups],
            "torch": torch.get_rng_state(),
            "numpy": np.random.get_state()[1].copy(),
            "place": np.random.get_state()[2],
            "python": random.getstate(),
            "loader": self.generator.get_state(),
            "modes": [m.training for m in modules],
            "learns": [p.requires_grad for p in self.model.parameters()],
            "calls": self.calls,
            "hooks": [sum(map(len, self.hooks())), len(self.hooks())],
            "handles": self.hooks(),  # their numbers, which count on from run to run
            "tensors": [p._backward_hooks for p in self.model.parameters()],
        }

    def hooks(self) -> list[list[int]]:
        return [
            sorted(getattr(m, kind))
            for m in self.model.modules()
            for kind in (
                "_forward_hooks",
                "_forward_pre_hooks",
                "_backward_hooks",
                "_backward_pre_hooks",
            )
        ]


def same(a: Any, b: Any) -> bool:
    if isinstance(a, (Tensor, np.ndarray)):
        return type(a) is type(b) and bool((a == b).all())
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def differing(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """What two runs do not share."""
    names = [name for name in ours if name != "handles"]
    return [name for name in names if not same(ours[name], theirs[name])]


def train(extra: Callable[[Run, int, Tensor], object] | None, *, keep: bool = False) -> Run:
    """The loop, with a call between backward and step; every step's state compared as it goes."""
    run = Run()
    for step in range(STEPS):
        loss = run.forward(step)
        loss.backward(retain_graph=keep)
        if extra is not None:
            before = run.state()
            extra(run, step, loss)
            after = run.state()
            assert [name for name in before if not same(before[name], after[name])] == []
        run.optimizer.step()
    return run


def check(extra: Callable[[Run, int, Tensor], object], *, keep: bool = False) -> None:
    run, torch_after = train(extra, keep=keep), torch.get_rng_state()
    kept = run.state()
    plain = train(None)
    theirs = plain.state()
    assert differing(kept, theirs) == []
    assert torch.equal(torch_after, torch.get_rng_state())
    with torch.no_grad():  # an oracle that sees nothing would prove nothing
        plain.model[0].weight[0, 0] += 1e-7
    assert not same(run.state()["weights"], plain.state()["weights"])


def loss_of(run: Run, step: int) -> Callable[[nn.Module], Tensor]:
    x, y = run.batch(step)
    return lambda model: run.criterion(model(x), y)


def test_levy_example_with_a_function() -> None:
    tracker: list[CriticalityTracker] = []
    found = []

    def look(run: Run, step: int, loss: Tensor) -> None:
        if not tracker:
            tracker.append(CriticalityTracker(run.model, window=10))
        found.append(tracker[0].check_criticality(loss_of(run, step), run.batch(step)[0], lr=0.01))

    check(look)
    assert [one is None for one in found] == [True] * 9 + [False] * (STEPS - 9)
    keys = ["C_alpha", "alpha", "S", "lambda_max", "rho", "drho_dt", "is_critical", "components"]
    assert list(found[-1]) == keys
    assert list(found[-1]["components"]) == ["stochastic", "spectral", "geometric"]
    assert all(np.isfinite(found[-1][key]) for key in keys[:6])


def test_levy_example_as_published_with_the_loss_tensor() -> None:
    tracker: list[CriticalityTracker] = []
    tops = []

    def look(run: Run, step: int, loss: Tensor) -> None:
        if not tracker:
            tracker.append(CriticalityTracker(run.model, window=10))
        result = tracker[0].check_criticality(loss, run.batch(step)[0], lr=0.01)
        tops.append(result["lambda_max"] if result else None)

    check(look, keep=True)
    assert np.isfinite(tops[-1])


@pytest.mark.filterwarnings("ignore:`compute_S`")
def test_levy_example_with_a_freed_graph_is_nan_and_no_exception() -> None:
    tracker: list[CriticalityTracker] = []
    found = []

    def look(run: Run, step: int, loss: Tensor) -> None:
        if not tracker:
            tracker.append(CriticalityTracker(run.model, window=10))
        found.append(tracker[0].check_criticality(loss, run.batch(step)[0], lr=0.01))

    check(look)
    assert np.isnan(found[-1]["S"]) and found[-1]["is_critical"] is False


def test_signal_examples() -> None:
    def look(run: Run, step: int, loss: Tensor) -> None:
        loader = run.loader if step % 2 else run.shuffled
        stats = compute_consolidation_ratio(run.model, loader, n_samples=4)
        assert list(stats) == ["C_alpha", "p", "signal", "noise", "I"]
        assert 0 < get_adaptive_lr(0.1, stats["p"]) <= 0.2
        assert should_stop_early([stats] * 5)[0] is False
        flat = torch.cat([p.grad.flatten() for p in run.model.parameters() if p.grad is not None])
        assert 1 <= estimate_tail_index(flat, n_tail=20) <= 2
        assert 0 <= evaluate(run.model, loader) <= 1

        def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
            return run.criterion(model(batch[0]), batch[1])

        top = estimate_lambda_max(run.model, loss_fn, loader, n_iter=3, n_batches=2)
        v = [torch.ones_like(p) for p in run.model.parameters() if p.requires_grad]
        image = hessian_vector_product(run.model, loss_fn, loader, v, n_batches=2)
        assert np.isfinite(top) and [a.shape for a in image] == [b.shape for b in v]
        assert not any(a.requires_grad for a in image)

    check(look)


def test_signal_loop_ends_with_the_weights_of_its_epochs_alone() -> None:
    def epoch(run: Run) -> Callable[[nn.Module, Any], None]:
        def one(model: nn.Module, loader: Any) -> None:
            for x, y in loader:
                run.optimizer.zero_grad()
                run.criterion(model(x), y).backward()
                run.optimizer.step()

        return one

    for which in ("loader", "shuffled"):
        run, said = Run(), []
        loader = getattr(run, which)
        history = track_learning_dynamics(
            run.model, loader, loader, epochs=3, train_epoch=epoch(run), report=said.append
        )
        ours = run.state()
        plain = Run()
        for _ in range(3):
            epoch(plain)(plain.model, getattr(plain, which))
        theirs = plain.state()
        assert differing(ours, theirs) == []
        keys = ["C_alpha", "p", "signal", "noise", "I", "epoch", "train_acc", "test_acc"]
        assert [list(row) for row in history] == [keys] * 3
        assert [row["epoch"] for row in history] == [0, 1, 2]


def test_langevin_example() -> None:
    def look(run: Run, step: int, loss: Tensor) -> None:
        bowl = StochasticHarmonicLearning(
            loss_fn=lambda x: 0.5 * np.sum(x**2),
            grad_fn=lambda x: x,
            dim=10,
            lr=0.01,
            noise_scale=0.001,
        )
        start = np.ones(10)
        results = bowl.train(start, n_steps=60, adaptive_noise=True, C_threshold=np.inf)
        assert (start == 1).all() and results["interventions"] == list(range(51, 60))
        keys = ["trajectory", "losses", "consolidations", "interventions"]
        assert list(results) == [*keys, "final_theta", "final_loss"]
        assert results["trajectory"].shape == (61, 10) and len(results["losses"]) == 60

    check(look)


def test_fokker_planck_examples() -> None:
    def look(run: Run, step: int, loss: Tensor) -> None:
        wrapper = FPETorchWrapper(run.model, run.model[:4])
        z = run.inputs[:16, :2].clone()
        assert wrapper.consolidation_ratio(z, step) > 0
        if step % 6:
            return  # the rest is dear
        fpe = FokkerPlanckDynamics(run.model)
        fpe.target_x = torch.zeros(3)
        latents = run.inputs[:10]
        moved, history = fpe.train_epoch(latents, None, n_steps=13, seed=3)
        assert moved.shape == latents.shape and not moved.requires_grad
        assert {"C", "S_dot", "transitions"} | {"loss"} == set(history)
        assert detect_phase_transition(history).dtype.kind == "i"
        monitor = RLHFMonitor(run.model, fpe, C_alert_threshold=np.inf)
        weights = dict(run.model.named_parameters())
        risk = monitor.detect_misalignment_risk(latents, weights, 0.0)
        assert list(risk) == ["alert", "C", "max_divergence", "recommendation"]
        assert risk["max_divergence"] > 0

    check(look)


def test_spectral_edge_example() -> None:
    snapshots: list[Tensor] = []

    def look(run: Run, step: int, loss: Tensor) -> None:
        snapshots.append(torch.cat([p.detach().flatten() for p in run.model.parameters()]))
        if len(snapshots) < 8:
            return
        moves = torch.stack(snapshots).diff(dim=0)
        now, before = (rows @ rows.T for rows in (moves[-6:], moves[-7:-1]))
        sigma = torch.linalg.eigvalsh(now).flip(0).clamp(min=0).sqrt().tolist()
        k = k_star(sigma)
        gap = sigma[k - 1] - sigma[k]
        assert 1 <= k <= 5
        assert adiabatic_parameter(float((now - before).norm()), 0.01, gap) > 0

    check(look)


def test_a_reset_changes_the_weights_it_is_asked_to_and_nothing_else() -> None:
    run = Run()
    run.forward(0).backward()
    before = run.state()
    wrapper = FPETorchWrapper(run.model, run.model)
    wrapper.apply_reset(run.model, alpha=0.5, noise_scale=0.1)
    after = run.state()
    assert [n for n in before if not same(before[n], after[n])] == ["weights"]
    moved = [
        (a != b).double().mean() for a, b in zip(before["weights"], after["weights"], strict=True)
    ]
    assert moved[1] == 0  # the frozen bias
    assert 0 < float(moved[0]) < 1
    wrapper.apply_reset(run.model, alpha=0.5, noise_scale=0.1)  # another draw, not the same one
    first = after["weights"][0] - before["weights"][0]
    assert not torch.equal(run.state()["weights"][0] - after["weights"][0], first)


def test_the_published_tracker_steps_on_another_gradient() -> None:
    """Defect, and that this harness sees it: zero_grad and backward as in the listing of levy."""

    def careless(run: Run, step: int, loss: Tensor) -> None:
        outputs = run.model(run.batch(step)[0])
        run.model.zero_grad()
        outputs[0].sum().backward(retain_graph=True)

    with pytest.raises(AssertionError, match="gradients"):
        check(careless)


def test_a_loader_with_workers_that_persist_goes_on_where_it_was() -> None:
    run = Run()
    rows = iter(run.loader)
    first = next(rows)
    twin = iter(Run().loader)
    assert torch.equal(first[0], next(twin)[0])
    compute_consolidation_ratio(run.model, run.loader, n_samples=3)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(rows, twin, strict=True))

    class Persistent(DataLoader):
        """As with persistent workers: one iterator, begun anew by every `iter`."""

        def __iter__(self) -> Any:
            if self._iterator is None:
                self._iterator = super().__iter__()
            else:
                self._iterator._reset(self)
            return self._iterator

    loader = Persistent(TensorDataset(torch.arange(12.0)), batch_size=2)
    under_way = iter(loader)
    assert next(under_way)[0].tolist() == [0, 1]
    from foreshock.documents.loaders import borrow

    assert [b[0].tolist() for b in borrow(loader, 2, seed=0)] == [[0, 1], [2, 3]]
    assert next(under_way)[0].tolist() == [2, 3]
