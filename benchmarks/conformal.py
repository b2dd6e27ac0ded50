"""The conformal alarm on real fresh runs: how often does it alarm where nothing happens?

``foreshock bench conformal`` records p23 with random labels (safe by design) and p23 proper. One
calibration on the first ``--calibration`` safe runs judges the others, replayed through the
detector as `attach` runs it. Such a rate belongs to one set of calibration runs and scatters with
it, so it is also averaged over random splits of all safe runs, which is what the theorem speaks of:
the mean is at most alpha and at least alpha - 1/(M + 1), M the scores that gave the threshold.

Runs are kept in ``--out`` and not made twice.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from scipy.stats import betabinom

from foreshock.detectors import ConformalAlarm
from foreshock.detectors.calibration import Side
from foreshock.evaluation import calibrate
from foreshock.evaluation.conformal import fit
from foreshock.evaluation.replay import replay
from foreshock.experiments.grokking import Grokking
from foreshock.experiments.grokking import run as train
from foreshock.stats.intervals import clopper_pearson
from foreshock.store import Run, StoreError

#: Series, and the side on which grokking shows.
SERIES: dict[str, Side] = {
    "readout/heldout_signal": "above", "loss": "below", "val_loss": "below",
}  # fmt: skip
FIRST = 7000


def recorded(folder: Path, variant: str, seed: int, steps: int) -> Run:
    """A run, made if it is not there."""
    path = folder / f"{variant}-{seed}"
    config = Grokking("p23", variant, seed, steps=steps)  # type: ignore[arg-type]
    try:
        return Run.open(path)
    except (StoreError, OSError):
        return train(config, path, observables=["heldout_signal"], detectors=[])


def main() -> None:
    """Record, calibrate, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--safe", type=int, default=260, help="safe runs in all")
    parser.add_argument("--calibration", type=int, default=60, help="of them, for the calibration")
    parser.add_argument("--events", type=int, default=40, help="runs that do grok")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--alpha", type=float, default=0.05)
    parser.add_argument("--splits", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path("runs/conformal"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    seeds = range(FIRST, FIRST + options.safe)
    safe = [recorded(options.out, "labels", seed, options.steps) for seed in seeds]
    events = [
        recorded(options.out, "grok", seed, options.steps) for seed in seeds[: options.events]
    ]
    first, fresh = safe[: options.calibration], safe[options.calibration :]
    for name, side in SERIES.items():
        rule = ConformalAlarm(calibrate(first, name, side=side, alpha=options.alpha))
        false = sum(bool(replay(run, [rule])) for run in fresh)
        hits = sum(bool(replay(run, [rule])) for run in events)
        low, high = clopper_pearson(false, len(fresh))
        # Of one file with M scores the rate has the law Beta(M + 1 - k, k), so the count is
        # beta-binomial: wider than binomial, the more the fewer scores there are.
        scores = options.calibration - options.calibration // 3
        k = math.ceil((1 - options.alpha) * (scores + 1))
        due = betabinom(len(fresh), scores + 1 - k, k).ppf([0.025, 0.975])
        print(f"{name:26} false alarms {false} of {len(fresh)} fresh safe runs "
              f"[{low:.3f}, {high:.3f}] (one file: {due[0]:.0f} to {due[1]:.0f} are due), "
              f"alarms in {hits} of {len(events)} that grok")  # fmt: skip
        grid = safe[0].series(name).step
        table = np.stack([run.series(name).value for run in safe])[:, None]
        rng, rates = np.random.default_rng(0), []
        for _ in range(options.splits):
            order = rng.permutation(len(safe))
            one = fit(grid, table[order[: options.calibration]], series=[name], sides=[side],
                      alpha=options.alpha)  # fmt: skip
            keep = np.isin(grid, one.grid)
            z = (table[order[options.calibration :], 0][:, keep] - one.location[0]) / one.scale[0]
            z = -z if side == "below" else z
            rates.append(float((z.max(1) > one.threshold).mean()))
        least, low, high = options.alpha - 1 / (scores + 1), *np.quantile(rates, [0.05, 0.95])
        print(f"{'':26} over {options.splits} random splits: mean {np.mean(rates):.4f} (theorem: "
              f"{least:.4f} to {options.alpha:.4f}), 5 to 95 % of them {low:.3f} to {high:.3f}",
              flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
