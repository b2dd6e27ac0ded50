"""One of several ranks that train together and watch the noise between them; run by a test.

Arguments: rank, ranks, file of the rendezvous, folder. Prints what was measured and what the exact
local gradients say.
"""

from __future__ import annotations

import json
import sys
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn

import foreshock as fs
from foreshock.estimators import GradientNoise
from foreshock.stats.norm_noise import NormRow, norm_noise

SIZE, STEPS, CLIP = 8, 17, 0.05


def main(rank: int, ranks: int, meeting: str, folder: str) -> None:
    limit = timedelta(seconds=60)
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=ranks, timeout=limit
    )
    torch.set_num_threads(1)
    torch.manual_seed(0)
    bare = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 4))
    model = nn.parallel.DistributedDataParallel(bare)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    observable = GradientNoise("ranks", batch_size=SIZE)
    watch = fs.attach(
        model, optimizer, run=f"{folder}/run{rank}", observables=[observable], every=1
    )
    data = torch.Generator().manual_seed(100 + rank)
    rows = []
    for _ in range(STEPS):
        x = torch.randn(SIZE, 6, generator=data)
        y = torch.randint(4, (SIZE,), generator=data)
        parameters = list(bare.parameters())
        own = torch.autograd.grad(nn.functional.cross_entropy(bare(x), y), parameters)
        flat = torch.cat([g.reshape(-1) for g in own])
        everyone = [torch.zeros_like(flat) for _ in range(ranks)]
        dist.all_gather(everyone, flat)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), CLIP).item()
        factor = min(1.0, CLIP / (norm + 1e-6))
        g = factor * torch.stack(everyone).double()
        small, big = g.square().sum(1).mean().item(), g.mean(0).square().sum().item()
        rows.append(NormRow(small, big, SIZE, SIZE * ranks))
        optimizer.step()
    watch.close()
    expected = norm_noise(rows)
    out = {}
    with fs.Run.open(f"{folder}/run{rank}") as run:
        assert run.events("observable_off") == []
        for name, exact in expected.items():
            series = run.series(name)
            got = series.estimate(len(series.step) - 1)
            out[name] = [got.value, got.low, got.high, exact.value, exact.low, exact.high]
    print(json.dumps(out))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
