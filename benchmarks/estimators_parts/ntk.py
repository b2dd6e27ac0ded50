"""Cost of the tangent kernel in training steps of the same run, alternating with them.

One step is forward, backward and the update of SGD at batch 256 (sequences of 32 tokens for the
transformer). A measurement is all that `Ntk` does at n = 64: the Gram matrix, its check, the
eigenvalues with the jackknife, alignment and CKA.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from foreshock.estimators import Ntk
from foreshock.estimators.ntk import KernelState
from foreshock.estimators.ntk_layers import _by_examples
from foreshock.probe import Probe
from foreshock.probe.moment import Moment
from foreshock.probe.quiet import quiet
from foreshock.probe.view import ModelView

ROUNDS = 15
SEQUENCE, VOCABULARY = 32, 97


def mlp() -> nn.Module:
    """784-256-128-10 with GELU: 235,146 parameters."""
    return nn.Sequential(
        nn.Linear(784, 256), nn.GELU(), nn.Linear(256, 128), nn.GELU(), nn.Linear(128, 10)
    )


class Transformer(nn.Module):
    """Four pre-norm blocks of width 144: 1.0 M parameters, embedding tied to the head."""

    def __init__(self, width: int = 144, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.embed = nn.Embedding(VOCABULARY, width)
        self.position = nn.Parameter(0.02 * torch.randn(SEQUENCE, width))
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm1": nn.LayerNorm(width),
                    "qkv": nn.Linear(width, 3 * width),
                    "out": nn.Linear(width, width),
                    "norm2": nn.LayerNorm(width),
                    "up": nn.Linear(width, 4 * width),
                    "down": nn.Linear(4 * width, width),
                }
            )
            for _ in range(4)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, VOCABULARY, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.position
        for block in self.blocks:
            b, t, w = x.shape
            qkv = block["qkv"](block["norm1"](x)).reshape(b, t, 3, self.heads, w // self.heads)
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            seen = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + block["out"](seen.transpose(1, 2).reshape(b, t, w))
            x = x + block["down"](functional.gelu(block["up"](block["norm2"](x))))
        return self.head(self.norm(x))


def image_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy."""
    return functional.cross_entropy(model(batch[0]), batch[1])


def token_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy of every token."""
    return functional.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())


def cases() -> dict[str, tuple[nn.Module, Callable[..., Tensor], tuple[Tensor, Tensor]]]:
    """Model, loss and one batch of 256."""
    torch.manual_seed(0)
    tokens = torch.randint(VOCABULARY, (256, SEQUENCE))
    images = torch.randn(256, 784), torch.randint(10, (256,))
    return {
        "MLP 235k, batch 256": (mlp(), image_loss, images),
        "transformer 1.0M, batch 256 x 32": (Transformer(), token_loss, (tokens, tokens)),
    }


def rows() -> list[dict]:
    """One row a measurement and model: what, model, steps."""
    found = []
    for model_name, (model, loss, batch) in cases().items():
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        view = ModelView(model)
        probe = Probe(loss, [batch], train=(batch[0][:64], torch.arange(64) % 7))
        ntk = Ntk()
        moment = Moment(0, view, tuple(None for _ in view.names), (1e-3,), probe=probe)
        state, _ = ntk.update(ntk.init(), moment)
        later = Moment(10, view, moment.gradients, (1e-3,), probe=probe)

        def step(
            model: nn.Module = model,
            optimizer: torch.optim.Optimizer = optimizer,
            loss: Callable[..., Tensor] = loss,
            batch: tuple[Tensor, Tensor] = batch,
        ) -> None:
            optimizer.zero_grad()
            loss(model, batch).backward()
            optimizer.step()

        def measure(ntk: Ntk = ntk, state: KernelState = state, moment: Moment = later) -> None:
            ntk.update(state, moment)

        def vmapped(view: ModelView = view, probe: Probe = probe) -> None:
            with quiet(0):
                _by_examples(view, probe, probe.train[0], list(range(len(view.names))), "sum")

        ours = {"ntk, n = 64, sum": measure, "Gram by torch.vmap alone": vmapped}
        times: dict[str, list[float]] = {"step": [], **{name: [] for name in ours}}
        for round_ in range(ROUNDS):
            for name, run in {"step": step, **ours}.items():
                if name == "Gram by torch.vmap alone" and round_ >= 4:
                    continue
                start = time.perf_counter()
                run()
                times[name].append(time.perf_counter() - start)
        unit = statistics.median(times["step"][1:])
        found += [
            {
                "what": name,
                "model": model_name,
                "steps": statistics.median(times[name][1:]) / unit,
                "milliseconds": 1e3 * statistics.median(times[name][1:]),
            }
            for name in times
        ]
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    for row in rows():
        print(
            f"{row['what']:<28} {row['model']:<34} {row['steps']:>7.2f} steps "
            f"{row['milliseconds']:>8.1f} ms"
        )
