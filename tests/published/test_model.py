"""Published forms that need a model, against transcriptions in plain torch and numpy.

Everything runs in float64, so that the transcription and ours differ by rounding only (1e-6).
Defects that show on numbers alone are in the tests of `foreshock.stats.published`; here are those
that need a model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from foreshock.estimators import (
    PublishedEdge,
    PublishedFokkerPlanck,
    PublishedLangevin,
    PublishedLevy,
    PublishedSignal,
    consolidation_ratio,
    lambda_power,
    metric_log_det,
)
from foreshock.probe import Probe
from foreshock.probe.moment import Moment
from foreshock.probe.optimizer import OptimizerView
from foreshock.probe.view import ModelView
from foreshock.types import Readings

LR = 0.05


def mse(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    return (model(batch[0]) - batch[1]).square().mean()


def make(outputs: int = 2) -> tuple[nn.Module, Probe]:
    """A small network of 4*12+12+12*2+2 = 86 or more weights, and a probe of 6 batches."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, outputs)).double()
    g = torch.Generator().manual_seed(1)

    def pair(n: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(n, 4, generator=g, dtype=torch.float64)
        return x, torch.randn(n, outputs, generator=g, dtype=torch.float64)

    train = pair(40)
    probe = Probe(loss=mse, batches=[pair(8) for _ in range(6)], train=train, heldout=pair(20))
    return model, probe


def train_and_measure(
    observable: Any, steps: int, also: Callable[[nn.Module, Probe, int], Any]
) -> tuple[list[Readings], list[Any]]:
    """Full-batch gradient descent; each step measured by the observable and by a transcription."""
    model, probe = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    view, state = ModelView(model), observable.init()
    ours, theirs = [], []
    for step in range(steps):
        optimizer.zero_grad()
        assert probe.train is not None
        mse(model, probe.train).backward()
        gradients = tuple(p.grad.clone() for p in model.parameters())
        moment = Moment(step, view, gradients, (LR,), OptimizerView(optimizer, view), probe=probe)
        state, readings = observable.update(state, moment)
        ours.append(readings)
        theirs.append(also(model, probe, step))
        optimizer.zero_grad()
        mse(model, probe.train).backward()
        optimizer.step()
    return ours, theirs


def flat(tensors: Any) -> Tensor:
    return torch.cat([t.flatten() for t in tensors])


def hvp(model: nn.Module, batch: Any, v: Tensor) -> Tensor:
    params = list(model.parameters())
    grad = flat(torch.autograd.grad(mse(model, batch), params, create_graph=True))
    return flat(torch.autograd.grad((grad * v).sum(), params))


def agree(readings: Readings, expected: dict[str, float]) -> None:
    """Every expected name, to 1e-6 relative (and 1e-9 absolute where the value is 0)."""
    for name, value in expected.items():
        got = readings.scalars[f"published/{name}"].value
        assert got == pytest.approx(float(value), rel=1e-6, abs=1e-9), name


class Tracker:
    """levy.md's listing, line for line, with the window as an argument."""

    def __init__(self, window: int) -> None:
        self.window = window
        self.norms: list[float] = []
        self.rhos: list[float] = []

    def c_alpha(self) -> tuple[float, float] | None:
        if len(self.norms) < self.window:
            return None
        recent = np.array(self.norms[-self.window :])
        ordered = np.sort(recent)
        k = int(0.1 * len(ordered))
        alpha = k / np.sum(np.log(ordered[-k:] / ordered[-k - 1]))
        alpha = np.clip(alpha, 1.1, 1.9)
        diffusion = (np.std(recent) / recent[-1]) ** alpha
        return recent[-1] ** 2 / (2 * diffusion * len(recent)), alpha

    def s(self, model: nn.Module, batch: Any, seed: int) -> tuple[float, float]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            v = torch.cat([torch.randn_like(p.flatten()) for p in model.parameters()])
        v = v / v.norm()
        for _ in range(5):
            v = hvp(model, batch, v)
            v = v / v.norm()
        top = (v * hvp(model, batch, v)).sum().item()
        return 2.0 / LR - top, top

    def rho(self, model: nn.Module, x: Tensor) -> tuple[float, float]:
        outputs = model(x)
        rows = []
        for i in range(min(len(x), 32)):
            grads = torch.autograd.grad(
                outputs[i].sum(), list(model.parameters()), retain_graph=True
            )
            rows.append(flat(grads))
        g = torch.stack(rows)
        values = torch.linalg.eigvalsh(g.T @ g / len(rows))
        self.rhos.append(torch.log(values[values > 1e-6]).sum().item())
        return self.rhos[-1], self.rhos[-1] - self.rhos[-2] if len(self.rhos) > 1 else 0.0

    def __call__(self, model: nn.Module, probe: Probe, step: int) -> dict[str, float]:
        grad = flat(torch.autograd.grad(mse(model, probe.train), list(model.parameters())))
        self.norms.append(grad.norm().item())
        s, top = self.s(model, probe.draw(step)[0], seed=step)
        assert probe.train is not None
        rho, rate = self.rho(model, probe.train[0])
        out = {"s_levy": s, "lambda_power5": top, "rho_levy": rho, "drho_levy": rate}
        found = self.c_alpha()
        if found is None:
            return out
        c, alpha = found
        flags = (0.8 <= c <= 1.2, -0.1 <= s <= 0.1, abs(rate) > 0.5)
        dimension = sum(p.numel() for p in model.parameters())
        phi = -((c - 1) ** 2 / (2 * 0.3**2) + s**2 / (2 * 0.15**2) + (rate - 1) ** 2 / (2 * 0.5**2))
        return out | {
            "c_levy_code": c,
            "c_levy_text": c * self.window / dimension,  # d where the listing has the window
            "hill_levy": alpha,
            "drho_levy_text": rate,  # one step apart
            "stochastic_levy": flags[0],
            "spectral_levy": flags[1],
            "geometric_levy": flags[2],
            "is_critical_levy": all(flags),
            "phi_levy": math.exp(phi),
            "s_band_levy": 1.0 if abs(s) <= 0.1 else 0.0 if s < 0 else 3.0 if s > 0.5 else 2.0,
        }


def test_tracker() -> None:
    observable = PublishedLevy(window=12)
    ours, theirs = train_and_measure(observable, 15, Tracker(window=12))
    for got, expected in zip(ours, theirs, strict=True):
        agree(got, expected)
    # Nothing is left out: at the end every series was compared.
    assert {s.name for s in observable.series} == {f"published/{n}" for n in theirs[-1]}
    assert ours[5].scalars["published/c_levy_code"].flags  # before the window is full
    # Defect: a plain descent on a quadratic loss, far from any transition, is "stable" by 30 bands
    # of S, since 2/η = 40 swamps λ: S is no margin but an inverse learning rate.
    s = [r.scalars["published/s_levy"].value for r in ours]
    assert min(s) > 30 and max(s) < 2 / LR


def test_lambda_power() -> None:
    model, probe = make()
    view, batches = ModelView(model), probe.draw(0)

    def transcription(seed: int, iterations: int, used: int) -> float:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            v = flat([torch.randn_like(p) for p in model.parameters()])
        v = v / v.norm()
        estimate = math.nan
        for _ in range(iterations):
            image = sum(hvp(model, batch, v) for batch in batches[:used]) / used
            estimate = (v * image).sum().item()
            v = image / image.norm()
        return estimate

    for seed in (0, 3):
        got = lambda_power(view, mse, batches[:5], products=20, seed=seed)
        assert got == pytest.approx(transcription(seed, 20, 5), rel=1e-6)
    # Defect: on a spectrum +2, -2.2 it finds the largest size, -2.2: "far below the edge".
    weights = nn.Linear(40, 1, bias=False).double()
    bends = torch.linspace(-0.5, 0.5, 40, dtype=torch.float64)
    bends[0], bends[1] = 2.0, -2.2

    def saddle(m: Any, _: Any) -> Tensor:
        return (bends * m.weight.square()).sum() / 2

    after = lambda_power(ModelView(weights), saddle, [None], products=200, seed=0)
    assert after == pytest.approx(-2.2, abs=1e-6)
    # Defect: five iterations between +2 and -1.9 read below 1.5 in most of 40 starts.
    bends[1] = -1.9
    five = [lambda_power(ModelView(weights), saddle, [None], products=6, seed=s) for s in range(40)]
    assert sum(value < 1.5 for value in five) > 20


def test_metric_log_det() -> None:
    model, probe = make()
    assert probe.train is not None
    x = probe.train[0][:20]
    expected = Tracker(1).rho(model, x)[0]
    assert metric_log_det(ModelView(model), probe, x) == pytest.approx(expected, rel=1e-6)
    # Defect: one eigenvalue pushed from above to below 1e-6, at outputs smaller by a millionth:
    # ρ jumps by 13.8, the spectrum hardly moved.
    line = nn.Linear(2, 1, bias=False).double()
    view = ModelView(line)
    above, below = (
        torch.tensor([[1.0, 0.0], [0.0, math.sqrt(2 * size)]], dtype=torch.float64)
        for size in (1.000001e-6, 0.999999e-6)
    )
    jump = metric_log_det(view, probe, below) - metric_log_det(view, probe, above)
    assert jump == pytest.approx(13.8, abs=0.1)


def test_consolidation_ratio() -> None:
    model, probe = make()
    params = list(model.parameters())
    grads = torch.stack([flat(torch.autograd.grad(mse(model, b), params)) for b in probe.draw(0)])
    signal = (grads.mean(dim=0) ** 2).sum().item()
    noise = grads.var(dim=0).sum().item()
    got = consolidation_ratio([[row] for row in grads])
    assert got.c == pytest.approx(signal / (noise + 1e-10), rel=1e-6)
    assert (got.signal, got.noise) == pytest.approx((signal, noise), rel=1e-6)
    # Defect: pure noise reads 1/n instead of 0: .05 at n = 20, .2 at n = 5 (standard error over
    # 400 draws in 400 dimensions: about .05 sqrt(2/400)/20 = 2e-4 and 8e-4).
    g = torch.Generator().manual_seed(0)
    for n, bias, error in ((20, 0.05, 1e-3), (5, 0.2, 4e-3)):
        values = [
            consolidation_ratio(
                [[row] for row in torch.randn(n, 400, generator=g, dtype=torch.float64)]
            ).c
            for _ in range(400)
        ]
        assert np.mean(values) == pytest.approx(bias, abs=error)


def test_signal() -> None:
    def transcription(model: nn.Module, probe: Probe, step: int) -> dict[str, float]:
        params, batches = list(model.parameters()), probe.draw(step)
        grads = torch.stack([flat(torch.autograd.grad(mse(model, b), params)) for b in batches])
        signal = (grads.mean(dim=0) ** 2).sum().item()
        noise = grads.var(dim=0).sum().item()
        c = signal / (noise + 1e-10)
        p = c / (1 + c)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(step)
            v = flat([torch.randn_like(q) for q in params])
        v, top = v / v.norm(), math.nan
        for _ in range(20):
            image = sum(hvp(model, b, v) for b in batches[:5]) / 5
            top = (v * image).sum().item()
            v = image / image.norm()
        ordered = np.sort(np.abs(grads[0].numpy()))[::-1]
        alpha = 1 / (np.mean(np.log(ordered[:100] / (ordered[100] + 1e-10))) + 1e-10)
        alpha = float(np.clip(alpha, 1.0, 2.0))
        s, d_h = 2 * LR - top, min(len(grads[0]), alpha)
        i = p * s / d_h
        loss = float(np.mean([mse(model, b).item() for b in batches]))
        states = sum(p >= edge for edge in (0.4, 0.5, 0.6, 0.75))
        return {
            "signal_signal": signal,
            "noise_signal": noise,
            "c_signal": c,
            "p_signal": p,
            "p_gauss_signal": 0.5 * (1 + math.erf(math.sqrt(c) / math.sqrt(2))),
            "odds_signal": c,
            "phase_signal": 1 if abs(p - 0.5) <= 0.05 else 0 if p < 0.5 else 2,
            "state_signal": states,
            "state_by_c_signal": sum(c >= edge for edge in (0.67, 1, 1.5, 3)),
            "lambda_power20": top,
            "s_signal": s,
            "hill_signal": alpha,
            "d_h_signal": d_h,
            "i_placeholder_signal": p * 0.1 / 1.5,
            "i_signal": i,
            "i_state_signal": 0 if i < 0 else 1 if i < 0.1 else 2 if i <= 0.5 else 3,
            "lv_signal": -signal + noise,
            "lambda_eff_signal": LR * c * math.sqrt(signal),
            "mu_pl_signal": signal / (2 * loss),
            "order_parameter_signal": p - 0.5,
            "type_two_error_signal": 1 - p,
            "mutual_information_signal": math.log(1 + c),
        }

    observable = PublishedSignal()
    ours, theirs = train_and_measure(observable, 6, transcription)
    for got, expected in zip(ours, theirs, strict=True):
        agree(got, expected)
    assert {s.name for s in observable.series} == {f"published/{n}" for n in theirs[0]}
    for readings in ours:
        value = {n.partition("/")[2]: e.value for n, e in readings.scalars.items()}
        # Defect: a descent that goes well "diverges" by I with what it measures, and "stagnates"
        # with its placeholders, at every step.
        assert value["i_state_signal"] == 0 and value["i_placeholder_signal"] < 0.1


def test_langevin() -> None:
    thetas: list[np.ndarray] = []
    before: list[float] = []

    def transcription(model: nn.Module, probe: Probe, step: int) -> dict[str, float]:
        params, batches = list(model.parameters()), probe.draw(step)
        grads = torch.stack([flat(torch.autograd.grad(mse(model, b), params)) for b in batches])
        squared = (grads.mean(dim=0) ** 2).sum().item()
        variance, d = grads.var(dim=0).mean().item(), grads.shape[1]
        thetas.append(flat(params).detach().numpy().copy())
        c = squared / (variance / 2 * d)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(step)
            v = flat([torch.randn_like(q) for q in params])
        v, top = v / v.norm(), math.nan
        for _ in range(20):
            image = hvp(model, batches[0], v)
            top = (v * image).sum().item()
            v = image / image.norm()
        out = {
            "d_langevin": variance / 2,
            "c_langevin": c,
            "regime_langevin": 1 if abs(c - 1) <= 0.2 else 0 if c < 1 else 3 if c > 10 else 2,
            "d_eff_langevin": LR**2 * variance / 8,
            "lambda_power20_langevin": top,
            "alpha_opt_langevin": 2 * (variance / 2) / top,
        }
        if before:
            out["alert_langevin"] = c < 2 and c < before[-1]
            diffusion = np.var(thetas, axis=0, ddof=1).mean() / len(thetas)
            out["d_parameters_langevin"] = diffusion
            out["c_parameters_langevin"] = squared / (diffusion * d)
        before.append(c)
        return out

    observable = PublishedLangevin()
    ours, theirs = train_and_measure(observable, 6, transcription)
    for got, expected in zip(ours, theirs, strict=True):
        agree(got, expected)
    assert {s.name for s in observable.series} == {f"published/{n}" for n in theirs[-1]}
    # Defect: C(t) is no second witness: it is twice the C of signal.md, to rounding.
    model, probe = make()
    view = ModelView(model)
    moment = Moment(0, view, (), (LR,), probe=probe)
    langevin = observable.update(observable.init(), moment)[1].scalars["published/c_langevin"]
    signal = PublishedSignal().update(None, moment)[1].scalars["published/c_signal"]
    assert langevin.value == pytest.approx(2 * signal.value, rel=1e-6)


def test_edge() -> None:
    width, stride = 4, 1
    thetas: list[np.ndarray] = []

    def transcription(model: nn.Module, probe: Probe, step: int) -> dict[str, float]:
        params = list(model.parameters())
        thetas.append(flat(params).detach().numpy().copy())
        if len(thetas) < width + 2:
            return {}
        deltas = np.diff(np.array(thetas), axis=0)
        x, old = deltas[-width:], deltas[-width - 1 : -1]
        _, sigma, modes = np.linalg.svd(x, full_matrices=False)
        previous = np.linalg.svd(old, compute_uv=False)
        k = int(np.argmax(sigma[:-1] / sigma[1:])) + 1
        weighted = int(np.argmax(sigma[:-1] / sigma.sum() * sigma[:-1] / sigma[1:])) + 1
        gaps = {
            "singular": sigma[k - 1] - sigma[k],
            "eigenvalue": sigma[k - 1] ** 2 - sigma[k] ** 2,
            "23": sigma[1] ** 2 - sigma[2] ** 2,
        }
        change = np.linalg.norm(x @ x.T - old @ old.T)
        distance = np.min(np.abs(sigma[k - 1] ** 2 - np.delete(sigma, k - 1) ** 2))
        alpha = max(0.0, 1 - ((sigma**2 - previous**2) ** 2).sum() / distance**2)
        halves = [np.linalg.svd(part, full_matrices=False)[2][0] for part in (x[:2], x[2:])]
        nu = math.sqrt((sigma[-2:] ** 2).mean() / len(modes[0]))
        batch = probe.draw(step)[0]
        vectors = [torch.from_numpy(m.copy()) for m in modes]
        bends = [float(v @ hvp(model, batch, v)) for v in vectors]
        train, held = (
            flat(torch.autograd.grad(mse(model, b), params)) for b in (batch, probe.heldout)
        )
        along = [float(v @ train) for v in vectors]
        (h1, h2), (d1, d2) = bends[k - 1 : k + 1], sigma[k - 1 : k + 1]
        g1, g2 = along[k - 1 : k + 1]
        out = {
            "k_star_raw": k,
            "k_star_weighted": weighted,
            "alpha_clip": alpha,
            "alpha_halves": abs(halves[0] @ halves[1]),
            "bbp_ratio": sigma[-1] / (nu * (len(modes[0]) * (width - 1)) ** 0.25),
            "krylov_bound": sum(h >= 1 / (LR * width) for h in bends),
            "mode_importance": alpha * g1 * float(vectors[k - 1] @ held),
            "gap_curvature": -LR * (h1 - h2) * (d1 + d2) / 2,
            "gap_damping": -LR * ((h1 + h2) / 2 + 0.0) * (d1 - d2),
            "gap_driving": LR * width * (g1**2 / d1 - g2**2 / d2),
            "sigma_steady": math.sqrt(width / h1) * abs(g1) if h1 > 0 else math.inf,
        }
        for name, gap in gaps.items():
            out[f"g_{name}"] = gap
            out[f"a_{name}"] = change / (LR * gap**2)
        return out

    observable = PublishedEdge(width=width, stride=stride)
    ours, theirs = train_and_measure(observable, 9, transcription)
    for got, expected in zip(ours, theirs, strict=True):
        for name, value in expected.items():
            estimate = got.scalars[f"published/{name}"].value
            assert estimate == pytest.approx(value, rel=1e-6, abs=1e-12), name
    assert {s.name for s in observable.series} == {f"published/{n}" for n in theirs[-1]}

    # Defect: the same path in weights ten times larger (δ → 10 δ, η → 10 η): A falls by 10 or by
    # 1,000, depending on which g is meant.
    gram = np.diag([9.0, 4.0, 1.0, 0.25])
    state = type(observable.init())(gram=np.diag([8.0, 4.0, 1.0, 0.25]))
    sigma = np.sqrt(np.diag(gram))
    small = observable._window(state, gram, sigma, 100, LR)
    state = type(observable.init())(gram=100 * np.diag([8.0, 4.0, 1.0, 0.25]))
    large = observable._window(state, 100 * gram, 10 * sigma, 100, 10 * LR)
    for name, factor in (("a_singular", 10), ("a_eigenvalue", 1000), ("a_23", 1000)):
        ratio = small[f"published/{name}"].value / large[f"published/{name}"].value
        assert ratio == pytest.approx(factor)


class Dynamics:
    """fokker_planck.md's listing, line for line, in torch; its decoder is the identity here.

    ``loss_at_z`` takes each particle's own target where the listing has one for all.
    """

    def __init__(self, target: Tensor, h: float = 0.1) -> None:
        self.target_x, self.kde_bandwidth = target, h
        self.eta_0, self.tau_eta, self.lambda_reg = 0.01, 1000.0, 0.001
        self.D_0, self.tau_D, self.gamma = 1.0, 500.0, 0.05

    def density(self, z: Tensor) -> Tensor:
        h = self.kde_bandwidth
        n, d = z.shape
        difference = z[:, None, :] - z[None, :, :]
        kernel = torch.exp(-(difference**2).sum(-1) / (2 * h**2))
        return kernel.sum(1) / (n * (2 * math.pi * h**2) ** (d / 2))

    def entropy_gradient(self, z: Tensor) -> Tensor:
        h = self.kde_bandwidth
        n, d = z.shape
        constant = n * (2 * math.pi * h**2) ** (d / 2)
        difference = z[:, None, :] - z[None, :, :]
        kernel = torch.exp(-(difference**2).sum(-1) / (2 * h**2))
        rho_grad = -(kernel[:, :, None] * difference).sum(1) / (h**2 * constant)
        rho = kernel.sum(1, keepdim=True) / constant
        return -rho_grad * (1.0 + torch.log(rho + 1e-10))

    def slopes(self, z: Tensor) -> Tensor:
        rows = []
        for one, target in zip(z, self.target_x, strict=True):
            leaf = one.clone().requires_grad_()
            rows.append(torch.autograd.grad((leaf - target).square().mean(), leaf)[0])
        return torch.stack(rows)

    def drift(self, z: Tensor, t: float) -> Tensor:
        eta = self.eta_0 / (1.0 + t / self.tau_eta)
        return -eta * (self.slopes(z) + self.lambda_reg * self.entropy_gradient(z))

    def diffusion(self, z: Tensor, t: float) -> Tensor:
        scores = -self.slopes(z)
        fisher = scores.T @ scores / len(z)
        decay = self.D_0 * math.exp(-t / self.tau_D)
        matrix = decay * (torch.eye(z.shape[1], dtype=z.dtype) + self.gamma * fisher)
        return matrix[None].repeat(len(z), 1, 1)

    def grad_rho(self, z: Tensor, eps: float = 1e-4) -> Tensor:
        base, columns = self.density(z), []
        for i in range(z.shape[1]):
            moved = z.clone()
            moved[:, i] += eps
            columns.append((self.density(moved) - base) / eps)
        return torch.stack(columns, -1)

    def flux(self, z: Tensor, t: float) -> Tensor:
        carried = torch.einsum("bij,bj->bi", self.diffusion(z, t), self.grad_rho(z))
        return self.drift(z, t) * self.density(z)[:, None] - carried

    def divergence(self, z: Tensor, t: float, eps: float = 1e-4) -> Tensor:
        total = torch.zeros(len(z), dtype=z.dtype)
        for i in range(z.shape[1]):
            forward, backward = z.clone(), z.clone()
            forward[:, i] += eps
            backward[:, i] -= eps
            total = total + (self.flux(forward, t)[:, i] - self.flux(backward, t)[:, i]) / (2 * eps)
        return total

    def production(self, z: Tensor, flux: Tensor) -> float:
        rho = self.density(z) + 1e-10
        gradient = -self.entropy_gradient(z) / (1.0 + torch.log(rho)[:, None] + 1e-10)
        return float((flux * gradient).sum(-1).mean())


def test_fokker_planck() -> None:
    """fokker_planck.md 7, 11.1, 12.1 and 12.2 on a live model, latents = the outputs (d = 2)."""
    model, probe = make()
    assert probe.train is not None
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    mse(model, probe.train).backward()
    gradients = tuple(p.grad.clone() for p in model.parameters())
    t = 40.0
    moment = Moment(
        int(t), ModelView(model), gradients, (LR,), OptimizerView(optimizer, ModelView(model)),
        probe=probe,
    )  # fmt: skip
    observable = PublishedFokkerPlanck("2")
    particles, readings = observable.update(observable.init(), moment)
    x, y = particles.batches[0]
    z = model(x).detach()
    theirs = Dynamics(y)
    drift, diffusion = theirs.drift(z, t), theirs.diffusion(z, t)
    rho = theirs.density(z)
    # ∇ρ as meant: the query moves, the particles do not.
    h, eps = 0.1, 1e-4

    def at(queries: Tensor) -> Tensor:
        square = (queries[:, None] - z[None]).square().sum(-1)
        return torch.exp(-square / (2 * h**2)).sum(1) / (len(z) * 2 * math.pi * h**2)

    steps = torch.eye(2, dtype=z.dtype) * eps
    meant = torch.stack([(at(z + step) - rho) / eps for step in steps], -1)
    carried = torch.einsum("bij,bj->bi", diffusion, meant)
    flux = drift * rho[:, None] - carried
    analytic = -theirs.entropy_gradient(z) / (1 + torch.log(rho + 1e-10))[:, None]
    wrapper = flat(gradients).norm() / (0.01 * math.exp(-t / 500) * analytic.norm() + 1e-8)
    mean = [torch.autograd.grad(mse(model, b), list(model.parameters())) for b in probe.draw(0)]
    update = [-LR * torch.stack(parts).mean(0) for parts in zip(*mean, strict=True)]
    moved = torch.func.jvp(
        lambda *p: torch.func.functional_call(
            model, dict(zip(dict(model.named_parameters()), p, strict=True)), (x,)
        ),
        tuple(p.detach() for p in model.parameters()),
        tuple(update),
    )[1]
    cosine = float((moved * drift).sum() / (moved.norm() * drift.norm()))
    agree(
        readings,
        {
            "c_fp": (drift.norm() + 1e-8) / (carried.norm() + 1e-8),
            "j_fp": flux.square().sum(1).mean().sqrt(),
            "s_dot_fp_text": ((flux / rho[:, None]) * (meant / rho[:, None])).sum(1).mean(),
            "t_eff_fp": (diffusion.diagonal(dim1=1, dim2=2).sum(1) / drift.norm(dim=1)).median(),
            "c_wrapper_fp": wrapper,
            "drift_cosine_fp": cosine,
            "regime_fp": 2.0,
            "alert_fp": 0.0,
        },
    )
    found = {k.partition("/")[2]: e.value for k, e in readings.scalars.items()}
    # What rests on the coded ∇ρ is rounding, which two orders of summation share in size only.
    code = torch.einsum("bij,bj->bi", diffusion, theirs.grad_rho(z)).norm() + 1e-8
    assert found["c_fp_code"] == pytest.approx(float(drift.norm() / code), rel=0.5)
    assert found["s_dot_fp"] == pytest.approx(theirs.production(z, theirs.flux(z, t)), rel=1e-3)
    largest = float(theirs.divergence(z, t).abs().max())
    assert found["max_div_j_fp"] == pytest.approx(largest, rel=1e-3)
    # Defect: C as coded is thousands of times C as meant, so it always reads "exploitation".
    assert found["c_fp_code"] > 1e4 * found["c_fp"]
    # Defect: the document's drift is not what the latents do: the network couples them.
    assert abs(cosine) < 0.9
