"""The same quantities by other libraries, on an MLP of the shape of our own rows.

At its initialisation, on Gaussian inputs and random labels, with weights that do not move and plain
SGD as the step: kinder to the peers' iterations than a training run. Run with a folder of peers on
``PYTHONPATH``; prints JSON. A peer that fails says how.
"""

from __future__ import annotations

import io
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any

import torch
from torch import nn
from torch.nn import functional

BATCH = 256


def mlp() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """784-256-128-10 GELU, 235k parameters, one batch of 256."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(784, 256), nn.GELU(), nn.Linear(256, 128), nn.GELU(), nn.Linear(128, 10)
    )
    return model, torch.randn(BATCH, 784), torch.randint(10, (BATCH,))


def alternating(ours: Callable[[], Any], step: Callable[[], Any], rounds: int) -> float:
    """Median cost of a call over the median cost of a training step, taken in turn."""
    cost, base = [], []
    ours()
    for _ in range(rounds):
        for function, record in ((step, base), (ours, cost)):
            start = time.perf_counter()
            function()
            record.append(time.perf_counter() - start)
    return statistics.median(cost) / statistics.median(base)


def row(peer: str, what: str, make: Callable[[], Callable[[], Any]], rounds: int = 5) -> dict:
    """One line of the table."""
    model, x, y = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def step() -> None:
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            steps = alternating(make(), step, rounds)
    except Exception as error:
        return {"what": what, "peer": peer, "fails": f"{type(error).__name__}: {error}"[:160]}
    return {"what": what, "peer": peer, "model": "MLP 235k", "steps": steps}


def by_curvlinops() -> Callable[[], Any]:
    from curvlinops import HessianLinearOperator
    from scipy.sparse.linalg import eigsh

    model, x, y = mlp()
    params = [p for p in model.parameters() if p.requires_grad]
    operator = HessianLinearOperator(
        model, nn.CrossEntropyLoss(), params, [(x, y)], check_deterministic=False
    )
    return lambda: eigsh(operator.to_scipy(), k=1, which="LA", tol=1e-2)


def by_pyhessian() -> Callable[[], Any]:
    from pyhessian import hessian

    model, x, y = mlp()
    return lambda: hessian(model, nn.CrossEntropyLoss(), data=(x, y), cuda=False).eigenvalues(
        maxIter=100, tol=1e-2
    )


def by_backpack() -> Callable[[], Any]:
    from backpack import backpack, extend
    from backpack.extensions import BatchL2Grad

    model, x, y = mlp()
    model, loss = extend(model), extend(nn.CrossEntropyLoss())

    def call() -> None:
        model.zero_grad()
        with backpack(BatchL2Grad()):
            loss(model(x), y).backward()

    return call


def by_backpack_on_attention() -> Callable[[], Any]:
    from backpack import backpack, extend
    from backpack.extensions import BatchL2Grad

    model = extend(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0.0))
    loss = extend(nn.MSELoss())
    x = torch.randn(8, 5, 32)

    def call() -> None:
        with backpack(BatchL2Grad()):
            loss(model(x), x).backward()

    call()
    missing = [n for n, p in model.named_parameters() if not hasattr(p, "batch_l2")]
    if missing:
        raise NotImplementedError(f"no per-example norm for {', '.join(missing)}")
    return call


def by_gns_pytorch() -> Callable[[], Any]:
    from gns_pytorch import compute_gns

    model, x, y = mlp()

    def call() -> None:
        model.zero_grad()
        losses = functional.cross_entropy(model(x), y, reduction="none")
        losses.mean().backward(retain_graph=True)
        compute_gns(losses, model)

    return call


def by_vmap() -> Callable[[], Any]:
    model, x, _ = mlp()
    params = {n: p.detach() for n, p in model.named_parameters()}

    def summed(p: Any, one: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(model, p, (one[None],)).sum()

    def call() -> Any:
        rows = torch.func.vmap(torch.func.grad(summed), in_dims=(None, 0))(params, x[:64])
        jacobian = torch.cat([r.flatten(1) for r in rows.values()], 1)
        return torch.linalg.slogdet(jacobian @ jacobian.T + 1e-4 * torch.eye(64))

    return call


def agreement() -> dict:
    """Our λ_max against curvlinops and eigsh, both to 1e-6, on the same batch and weights."""
    from curvlinops import HessianLinearOperator
    from scipy.sparse.linalg import eigsh

    from foreshock.estimators import lambda_max
    from foreshock.probe.view import ModelView

    model, x, y = mlp()
    params = [p for p in model.parameters() if p.requires_grad]
    loss = nn.CrossEntropyLoss()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        operator = HessianLinearOperator(
            model, loss, params, [(x, y)], check_deterministic=False
        ).to_scipy()
        theirs = float(eigsh(operator, k=1, which="LA", tol=1e-6, return_eigenvectors=False)[0])
    _, ours = lambda_max(
        ModelView(model), lambda m, batch: loss(m(batch[0]), batch[1]), (x, y), tolerance=1e-6
    )
    return {
        "what": "λ_max agrees",
        "peer": "curvlinops + eigsh, both tol 1e-6",
        "relative_difference": abs(ours.value - theirs) / theirs,
    }


def rows() -> list[dict]:
    """Every peer that can be had."""
    return [
        agreement(),
        row("curvlinops + eigsh, tol 1e-2", "λ_max", by_curvlinops),
        row("PyHessian, tol 1e-2", "λ_max", by_pyhessian, rounds=3),
        row("BackPACK BatchL2Grad (whole step)", "per-example norms", by_backpack),
        row(
            "BackPACK on nn.TransformerEncoderLayer", "per-example norms", by_backpack_on_attention
        ),
        row("gns-pytorch, default (whole step)", "per-example norms", by_gns_pytorch, rounds=3),
        row("torch.func recipe", "NTK log-det, n = 64", by_vmap),
    ]


if __name__ == "__main__":
    torch.set_num_threads(1)
    json.dump(rows(), sys.stdout)
