"""The table of docs/forecasting.md: forecasters of the onset of p59, beside what they must beat.

``foreshock bench forecasts`` records seeds 0 to 11 of ``grokking`` and their random-label twins
(preset ``standard`` every 10 steps), fits on every other run of either kind, scores on the others,
then leaves each run that groks out of a fit on the other eleven. Runs are kept in ``--out``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from foreshock.detectors import ForecastAlarm, PublishedProbability
from foreshock.evaluation import (
    Landmarks,
    compare_forecasts,
    crossfit,
    fit_baselines,
    fit_hazard,
    forecast,
    landmarks,
    replay,
    score_forecasts,
)
from foreshock.experiments.grokking import Grokking
from foreshock.experiments.grokking import run as train
from foreshock.stats.sample import proportion
from foreshock.store import Run, StoreError
from foreshock.types import Estimate

SIGNAL = "readout/heldout_signal"
#: Forecasters by what the table calls them; the clock and `EVERYDAY` stand beside them.
OTHERS = {"weight/norm": "weight/norm", "gradient SNR": "grad/snr"}
EVERY = 10


def recorded(folder: Path, variant: str, seed: int) -> Run:
    """A run, made if it is not there; one that broke off is no run."""
    path = folder / f"{variant}-{seed:02}"
    try:
        run = Run.open(path)
    except (StoreError, OSError):
        return train(Grokking("p59", variant, seed), path, detectors=[])  # type: ignore[arg-type]
    if not run.events("closed"):
        raise SystemExit(f"{path} was not closed. Delete it, and it is recorded again.")
    return run


def said(one: Estimate) -> str:
    """Value and interval."""
    return f"{one.value:.3f} [{one.low:.3f}, {one.high:.3f}]"


def table(rows: Landmarks, found: dict[str, np.ndarray], pairwise: tuple[str, ...] = ()) -> None:
    """Scores, and what the held-out signal gains over each."""
    scores = score_forecasts(rows, found, pairwise=pairwise)
    gains = compare_forecasts(rows, found, pairwise=pairwise)
    print(f"{scores[0].rows} of {len(rows)} landmarks, {scores[0].events} with the event")
    for one in scores:
        gain = said(gains[one.name]) if one.name in gains else ""
        print(f"  {one.name:14} Brier {one.brier.value:.4f}  log score {one.log_score.value:.4f}  "
              f"skill {said(one.skill)}  signal gains {gain}")  # fmt: skip


def halves(runs: list[Run], within: int, *, ridge: float | None = None) -> None:
    """Fit on every other run of either kind, score and alarm on the others."""
    rows = landmarks(runs, "onset", within, every=EVERY)
    fit, held = rows.halves()
    models = {"forecast": fit_hazard(fit, SIGNAL, ridge=ridge), **fit_baselines(fit, ridge=ridge)}
    models |= {name: fit_hazard(fit, series, ridge=ridge) for name, series in OTHERS.items()}
    found = {name: forecast(held, one) for name, one in models.items()}
    found["p as published"] = forecast(held, PublishedProbability.p("onset", within))
    print(f"\nh = {within}{f', penalty {ridge:g}' if ridge else ''}:", end=" ")
    table(held, found, ("p as published",))
    if ridge:
        return
    for name, one in models.items():
        if not one.reads:
            continue
        leads, false, twins = [], 0, 0
        for run in (run for run in runs if run.id in held.ids):
            alarms = replay(run, [ForecastAlarm(one)])
            onsets = [e.step for e in run.events("milestone") if e.payload["name"] == "onset"]
            twins, false = twins + (not onsets), false + (bool(alarms) and not onsets)
            leads += [onsets[0] - alarms[0].step] if alarms and onsets else []
        high = proportion(false, twins).high
        print(f"  alarm of {name}: leads {sorted(leads)}, {false} of {twins} twins (to {high:.2f})")


def main() -> None:
    """Record, fit, score."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--out", type=Path, default=Path("runs/forecasts"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    groks = [recorded(options.out, "grok", seed) for seed in range(options.seeds)]
    twins = [recorded(options.out, "labels", seed) for seed in range(options.seeds)]
    for within in (200, 50, 100):
        halves([*groks, *twins], within)
    halves([*groks, *twins], 200, ridge=1.0)
    rows = landmarks(groks, "onset", 200, every=EVERY)
    names = {"forecast": SIGNAL, "clock": (), "val_acc": "val_acc", "val_loss": "val_loss"}
    found = {name: crossfit(rows, one, folds=len(groks)) for name, one in names.items()}
    print("\nwithout the twins, each run left out once:", end=" ")
    table(rows, found)


if __name__ == "__main__":
    main()
