"""Loops and models that once broke the monitor, or were misread by it."""

from __future__ import annotations

import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import foreshock as fs
from foreshock.detectors import PCrossesHalf, resolve
from foreshock.estimators import GradientNoise, Norms
from foreshock.probe.view import ModelView, norm
from foreshock.types import Alarm
from tests.cases import CASES, loss

CASE = CASES["mlp"]


def weights(model: nn.Module) -> bytes:
    return b"".join(p.detach().numpy().tobytes() for p in model.parameters())


def sgd(model: nn.Module, **options: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), **{"lr": 0.1, **options})


def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int = 0) -> torch.Tensor:
    value = loss(model, CASE.batch(8, seed))
    optimizer.zero_grad()
    value.backward()
    optimizer.step()
    return value


# ------------------------------------------------------------------ law 1, in odd cases


def test_hooks_of_the_user_do_not_run_in_measurements(tmp_path: Path) -> None:
    def train(watched: bool) -> tuple[bytes, int]:
        model, calls, ema = CASE.model(), [], torch.zeros(16)

        def collect(module: nn.Module, args: Any, output: torch.Tensor) -> None:
            calls.append(1)
            ema.mul_(0.9).add_(output.detach().mean(0))

        model.body[0].register_forward_hook(collect)
        optimizer = sgd(model)
        watch = None
        if watched:
            watch = fs.attach(
                model,
                optimizer,
                run=tmp_path / "r",
                probe=CASE.probe(),
                observables="full",
                every=1,
            )
        for seed in range(5):
            value = loss(model, CASE.batch(8, seed)) + ema.sum() * model.head.weight.sum()
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        if watch is not None:
            watch.close()
        return weights(model), len(calls)

    assert train(False) == train(True)
    with fs.Run.open(tmp_path / "r") as run:
        texts = [e.payload["text"] for e in run.events("note")]
        assert any("A hook of yours" in text and "body.0" in text for text in texts)


def test_spectral_norm_is_a_hook_of_torch_and_stays() -> None:
    model = nn.Sequential(nn.utils.spectral_norm(nn.Linear(4, 4))).eval()
    x = torch.randn(3, 4)
    _, gradient = ModelView(model).gradient(lambda m, b: m(b).square().sum(), x)
    expected = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    assert all(torch.allclose(a, b) for a, b in zip(gradient, expected, strict=True))


def test_batches_drawn_at_random_leave_the_generator_alone_and_are_fresh(tmp_path: Path) -> None:
    x, y = CASE.batch(100, 0)
    drawn: list[bytes] = []

    def draw(at: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        rows = torch.randint(100, (4, 8))
        drawn.append(rows.numpy().tobytes())
        return [(x[r], y[r]) for r in rows]

    torch.manual_seed(3)
    model = CASE.model()
    optimizer = sgd(model)
    state = torch.get_rng_state()
    probe = fs.Probe(loss, draw)
    with fs.attach(
        model, optimizer, run=tmp_path / "r", probe=probe, observables=["gradient_noise"], every=1
    ):
        for seed in range(3):
            step(model, optimizer, seed)
    assert torch.equal(state, torch.get_rng_state())
    assert len(set(drawn)) == 3  # one a step; the check at the door draws those of step 0


def test_a_loss_that_also_calls_the_live_model_is_refused_in_any_mode(tmp_path: Path) -> None:
    case = CASES["cnn"]
    model = case.model().eval()

    def sneaky(m: Any, batch: Any) -> torch.Tensor:
        return loss(m, batch) + 0 * model(batch[0]).sum().detach()

    probe = fs.Probe(sneaky, [case.batch(8, 0)])
    with pytest.raises(ValueError, match="closes over the live model"):
        fs.attach(model, sgd(model), run=tmp_path / "r", probe=probe)
    assert not any(m._forward_pre_hooks for m in model.modules())


# ------------------------------------------------------------------ nothing lost or misfiled


def test_values_of_another_time_are_refused_and_harm_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = CASE.model()
    optimizer = sgd(model)
    with caplog.at_level(logging.WARNING, "foreshock"):
        with fs.attach(
            model, optimizer, run=tmp_path / "r", observables=["norms"], every=1
        ) as watch:
            for seed in range(6):
                step(model, optimizer, seed)
                watch.log(loss=float(seed))
                watch.log(far=1.0, step=1000)
                watch.log(past=1.0, step=max(seed - 2, -1))
    with fs.Run.open(tmp_path / "r") as run:
        assert run.series("grad/norm").step.tolist() == list(range(6))
        assert run.series("loss").value.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
        assert "far" not in run.names()
    assert len(caplog.records) == 1


def test_logging_before_training_does_not_shift_what_comes_after(tmp_path: Path) -> None:
    model = CASE.model()
    optimizer = sgd(model)
    with fs.attach(model, optimizer, run=tmp_path / "r", observables=["norms"], every=1) as watch:
        watch.log(val=0.5)
        for seed in range(3):
            step(model, optimizer, seed)
            watch.log(loss=1.0)
            watch.log(val=0.6)
    with fs.Run.open(tmp_path / "r") as run:
        assert run.series("loss").step.tolist() == [0, 1, 2]
        assert run.series("val").step.tolist() == [0, 1, 2, 3]  # of the weights it was taken at


class Grumpy:
    def __float__(self) -> float:
        raise MemoryError("not today")


def test_strange_values_are_skipped_and_the_watch_goes_on(tmp_path: Path) -> None:
    model = CASE.model()
    optimizer = sgd(model)
    with fs.attach(model, optimizer, run=tmp_path / "r", observables=["norms"], every=1) as watch:
        for seed in range(3):
            step(model, optimizer, seed)
            watch.log({"": 1.0, 3: 2.0, "big": 10**400, "complex": torch.tensor(1j)})  # type: ignore[dict-item]
            watch.log(meta=torch.empty((), device="meta"), grumpy=Grumpy(), fine=1.0)
    with fs.Run.open(tmp_path / "r") as run:
        assert len(run.series("fine")) == len(run.series("grad/norm")) == 3


CHILD = """
import os, sys, time, torch
import foreshock as fs
model = torch.nn.Linear(2, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
watch = fs.attach(model, optimizer, run=sys.argv[1], observables=["norms"], every=1)
for step in range(3):
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    watch.log(loss=float(step))
    time.sleep(0.7)
print("ready", flush=True)
if sys.argv[2] == "kill":
    time.sleep(60)
"""


@pytest.mark.parametrize(("end", "kept"), [("kill", 2), ("exit", 3)])
def test_a_process_that_ends_keeps_all_but_the_last_seconds(
    end: str, kept: int, tmp_path: Path
) -> None:
    # Steps of 0.7 s: a row waits for 0.5 s at most, so killing loses the step under way only.
    command = [sys.executable, "-c", textwrap.dedent(CHILD), str(tmp_path / "r"), end]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        if end == "kill":
            os.kill(child.pid, signal.SIGKILL)
    with fs.Run.open(tmp_path / "r") as run:
        assert run.series("loss").step.tolist() == list(range(kept))


# ------------------------------------------------------------------ law 4, across a crash


def attach_loss(run: Any, rules: list, values: list[float], *, finish: bool = True) -> list[Alarm]:
    model = CASE.model()
    optimizer = sgd(model)
    watch = fs.attach(model, optimizer, run=run, observables=["norms"], every=1, detectors=rules)
    for value in values:
        optimizer.step()
        watch.log(p=value)
    if finish:
        watch.close()
    else:
        watch.flush()
        watch._detach()
        watch._closed = True
        watch.run._close(finished=False)  # as a kill leaves it: rows on disk, no end
    return watch.alarms


@pytest.mark.parametrize("journal", ["wal", "truncate"])
def test_an_alarm_lost_with_the_process_is_found_on_resuming(journal: Any, tmp_path: Path) -> None:
    rule = PCrossesHalf(series="p")
    first = fs.Run.create(tmp_path / "r", journal=journal)
    assert attach_loss(first, [rule], [0.1, 0.9], finish=False) == []
    resumed = fs.Run.open(tmp_path / "r", "a", journal=journal)
    assert [a.step for a in attach_loss(resumed, [rule], [0.1, 0.9])] == [1, 3]
    with fs.Run.open(tmp_path / "r") as run:
        assert [e.step for e in run.events("alarm")] == [1, 3]
        assert [a.step for a in fs.replay(run, [rule])] == [1, 3]


def test_a_rule_added_on_resuming_judges_the_past_too(tmp_path: Path) -> None:
    attach_loss(tmp_path / "r", [], [0.1, 0.9])
    rule = PCrossesHalf(series="p")
    attach_loss(fs.Run.open(tmp_path / "r", "a"), [rule], [0.2])
    with fs.Run.open(tmp_path / "r") as run:
        assert [e.step for e in run.events("alarm")] == [1]


def test_a_series_that_never_came_stops_neither_replay_nor_resume_and_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rule = resolve("turnover")
    with caplog.at_level(logging.WARNING, "foreshock"):
        attach_loss(tmp_path / "r", [rule], [0.1])
    assert "turnover never read val_loss, train_acc" in caplog.text
    attach_loss(fs.Run.open(tmp_path / "r", "a"), [rule], [0.2])
    with fs.Run.open(tmp_path / "r") as run:
        assert fs.replay(run, [rule]) == []


def test_rows_are_on_disk_before_the_alarm_they_caused(tmp_path: Path) -> None:
    seen: list[list[int]] = []
    model = CASE.model()
    optimizer = sgd(model)

    def look(alarm: Alarm) -> None:
        watch.run.flush()
        with fs.Run.open(tmp_path / "r") as run:
            seen.append(run.series("p").step.tolist())

    watch = fs.attach(
        model,
        optimizer,
        run=tmp_path / "r",
        observables=["norms"],
        every=1,
        detectors=["p_crosses_half:p"],
        on_alarm=look,
    )
    for value in (0.1, 0.9, 0.9):
        optimizer.step()
        watch.log(p=value)
    watch.close()
    assert seen == [[0, 1]]


# ------------------------------------------------------------------ no wrong number without a flag


@pytest.mark.parametrize("make", [sgd, lambda m: torch.optim.LBFGS(m.parameters(), max_iter=2)])
def test_a_closure_hides_the_gradient_and_the_record_says_so(
    make: Callable[[nn.Module], torch.optim.Optimizer], tmp_path: Path
) -> None:
    model = CASE.model()
    optimizer = make(model)
    with fs.attach(model, optimizer, run=tmp_path / "r", observables="free", every=1):
        for seed in range(3):

            def closure(seed: int = seed) -> torch.Tensor:
                optimizer.zero_grad()
                value = loss(model, CASE.batch(8, seed))
                value.backward()
                return value

            optimizer.step(closure)
    with fs.Run.open(tmp_path / "r") as run:
        norms = run.series("grad/norm")
        assert np.isnan(norms.value).all() and "closure" in norms.reason[1]
        assert (run.series("update/step_norm").value > 0).all()


def test_micro_batches_follow_a_loss_scale_and_a_clipping(tmp_path: Path) -> None:
    found = {}
    for scale, clip in ((1.0, None), (1024.0, None), (1.0, 0.01)):
        model = CASE.model()
        optimizer = sgd(model, lr=0.0)
        observable = GradientNoise("accumulation", batch_size=8)
        folder = tmp_path / f"{scale}-{clip}"
        with fs.attach(model, optimizer, run=folder, observables=[observable], every=1):
            for part in range(4):
                (scale * loss(model, CASE.batch(8, part)) / 4).backward()
            for p in model.parameters():
                p.grad /= scale  # as `GradScaler.unscale_` does
            if clip:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            used = norm([p.grad for p in model.parameters()]).item() ** 2
            optimizer.step()
        with fs.Run.open(folder) as run:
            signal, noise = (run.series(f"grad/{n}").value[0] for n in ("signal", "noise"))
            snr = run.series("grad/snr").value[0]
        assert signal + noise / 4 == pytest.approx(used, rel=1e-4)  # the mean is what is used
        found[scale, clip] = snr
    assert list(found.values()) == pytest.approx([found[1.0, None]] * 3, rel=1e-4)


def test_parameters_that_took_no_part_have_zeros_and_uneven_ones_a_sentence(tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(6, 4), nn.Linear(6, 4)

        def forward(self, x: torch.Tensor, both: bool = False) -> torch.Tensor:
            return self.used(x) + (self.unused(x) if both else 0)

    model = Two()
    optimizer = sgd(model)
    with fs.attach(
        model, optimizer, run=tmp_path / "r", observables=[GradientNoise("accumulation")], every=1
    ):
        for uneven in (False, True):
            optimizer.zero_grad()
            for part in range(3):
                x, y = CASE.batch(8, part)
                nn.functional.cross_entropy(model(x, uneven and part == 0), y).backward()
            optimizer.step()
    with fs.Run.open(tmp_path / "r") as run:
        first, second = (run.series("grad/snr").estimate(i) for i in (0, 1))
        assert math.isfinite(first.value)
        assert "different numbers of backward passes" in second.reason


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_norms_of_sixteen_bit_weights_neither_overflow_nor_round(kind: torch.dtype) -> None:
    parts = [torch.full((10_000,), 1000.0, dtype=kind)]
    assert norm(parts).item() == pytest.approx(1e5, rel=2e-5)  # float32 sums; bfloat16: 4e-3


def test_curvature_looks_at_one_batch_all_along(tmp_path: Path) -> None:
    x, y = CASE.batch(200, 0)

    def draw(at: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        rows = torch.randint(200, (4, 8))
        return [(x[r], y[r]) for r in rows]

    model = CASE.model()
    optimizer = sgd(model, lr=0.0)
    probe = fs.Probe(loss, draw)
    with fs.attach(
        model, optimizer, run=tmp_path / "r", probe=probe, observables=["curvature"], every=1
    ):
        for seed in range(4):
            step(model, optimizer, seed)
    with fs.Run.open(tmp_path / "r") as run:
        top = run.series("hessian/lambda_max")
        # Two errors of 1 % at frozen weights; fresh batches differ by more.
        assert np.ptp(top.value) <= 2e-2 * top.value.max()
        assert "always the same one batch of 8" in run.describe("hessian/lambda_max").taken_at


# ------------------------------------------------------------------ models that change or differ


def test_freezing_and_unfreezing_costs_nothing_but_the_steps_it_lasts(tmp_path: Path) -> None:
    model = CASE.model()
    optimizer = sgd(model)
    with fs.attach(
        model, optimizer, run=tmp_path / "r", probe=CASE.probe(), observables="full", every=1
    ):
        for at, frozen in enumerate(["", "body", "all", ""]):
            for name, p in model.named_parameters():
                p.requires_grad_(not (frozen == "all" or (frozen and name.startswith(frozen))))
            if frozen == "all":
                optimizer.step()
            else:
                step(model, optimizer, at)
    with fs.Run.open(tmp_path / "r") as run:
        assert run.events("observable_off") == []
        top = run.series("hessian/lambda_max")
        assert np.isfinite(top.value).tolist() == [True, True, False, True]
        assert "No parameter of the model requires a gradient" in top.reason[2]


class Locked(nn.Linear):
    """Holds what cannot be copied."""

    def __init__(self) -> None:
        super().__init__(6, 4)
        self.lock = __import__("threading").Lock()


def test_a_model_that_cannot_be_copied_is_watched_without_a_probe(tmp_path: Path) -> None:
    model = Locked()
    with pytest.raises(ValueError, match="use observables='free' and no probe"):
        fs.attach(model, sgd(model), run=tmp_path / "r", probe=CASE.probe())
    optimizer = sgd(model)
    with fs.attach(model, optimizer, run=tmp_path / "r", observables="free", every=1):
        step(model, optimizer)
    with fs.Run.open(tmp_path / "r") as run:
        assert math.isfinite(run.series("grad/norm").value[0])


def test_what_a_preset_cannot_feed_is_left_out_not_switched_off(tmp_path: Path) -> None:
    model = nn.Linear(6, 1)
    optimizer = sgd(model)
    x, target = torch.randn(40, 6), torch.randn(40, 1)

    def squared(m: Any, batch: Any) -> torch.Tensor:
        return (m(batch[0]) - batch[1]).square().mean()

    probe = fs.Probe(squared, [(x, target)] * 4, heldout=(x, target))
    with fs.attach(model, optimizer, run=tmp_path / "r", probe=probe, observables="full", every=1):
        squared(model, (x, target)).backward()
        optimizer.step()
    with fs.Run.open(tmp_path / "r") as run:
        assert run.events("observable_off") == []
        (event,) = run.events("observables")
        left_out = {row["name"]: row["reason"] for row in event.payload["left_out"]}
        assert set(left_out) == {"heldout_signal", "ridge_signal", "probe_signal"}
        assert "class indices" in left_out["heldout_signal"]
        assert math.isfinite(run.series("ntk/log_det").value[0])


def test_ignored_labels_do_not_count(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Embedding(5, 8), nn.Linear(8, 5))
    tokens = torch.randint(5, (20, 7), generator=torch.Generator().manual_seed(2))
    labels = tokens.clone()
    labels[:, 3:] = -100

    def cross_entropy(m: Any, batch: Any) -> torch.Tensor:
        return nn.functional.cross_entropy(m(batch[0]).flatten(0, 1), batch[1].flatten())

    probe = fs.Probe(cross_entropy, [(tokens, labels)] * 4, heldout=(tokens, labels))
    optimizer = sgd(model)
    with fs.attach(
        model, optimizer, run=tmp_path / "r", probe=probe, observables="standard", every=1
    ):
        cross_entropy(model, (tokens, labels)).backward()
        optimizer.step()
    with fs.Run.open(tmp_path / "r") as run:
        assert run.events("observable_off") == []
        assert run.series("readout/heldout_signal").n[0] == 60


def test_listeners_are_checked_before_a_folder_is_made(tmp_path: Path) -> None:
    model = CASE.model()
    for options, sentence in (
        ({"policies": [object()]}, "`policies` of `attach`"),
        ({"sinks": [object()]}, "`sinks` of `attach`"),
        ({"on_alarm": 3}, "`on_alarm` of `attach`"),
    ):
        with pytest.raises(ValueError, match=sentence):
            fs.attach(model, sgd(model), run=tmp_path / "r", **options)
        assert not (tmp_path / "r").exists()


def test_a_watched_optimizer_can_be_replaced_by_a_new_watch(tmp_path: Path) -> None:
    model = CASE.model()
    optimizer = sgd(model)
    for folder in ("a", "b"):
        with fs.attach(model, optimizer, run=tmp_path / folder, observables=[Norms()], every=1):
            step(model, optimizer)
    assert len(fs.list_runs(tmp_path)) == 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # dynamo's own
@pytest.mark.filterwarnings("ignore::UserWarning:torch")
def test_a_compiled_optimizer_step_calls_the_hooks(tmp_path: Path) -> None:
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler, and there is none")
    model = CASE.model()
    optimizer = sgd(model)
    compiled = torch.compile(optimizer.step)
    with fs.attach(
        model, optimizer, run=tmp_path / "r", probe=CASE.probe(), observables="standard", every=1
    ):
        for seed in range(2):
            optimizer.zero_grad()
            loss(model, CASE.batch(8, seed)).backward()
            compiled()
    with fs.Run.open(tmp_path / "r") as run:
        assert run.events("observable_off") == []
        assert np.isfinite(run.series("hessian/lambda_max").value).tolist() == [True, True]
