"""What the observable of gradient noise writes: names, units, nulls, formulas and oracles."""

from __future__ import annotations

from foreshock.types import SeriesInfo

MCCANDLISH = "McCandlish et al., arXiv:1812.06162; signal.md"
SERIES = (
    SeriesInfo(
        "grad/signal",
        "gradient signal |μ|²",
        "(loss/weight)²",
        "0: no common direction",
        layered=True,
        formula="U = |m|² − V/n, the mean of g_i·g_j over i ≠ j",
        oracle="mean of exact per-sample gradients; loops over pairs",
        source=MCCANDLISH,
    ),
    SeriesInfo(
        "grad/noise",
        "gradient noise Tr Σ",
        "(loss/weight)²",
        "0 for a full batch",
        layered=True,
        formula="V = Σ_i |g_i − m|²/(n − 1)",
        oracle="variance of exact per-sample gradients",
        source=MCCANDLISH,
    ),
    SeriesInfo(
        "grad/snr",
        "signal / noise of a batch, C",
        "1",
        "0 ± the degenerate band",
        layered=True,
        formula="C = U/V at the batch size of the probe",
        oracle="exact per-sample gradients of a whole population; variance by the Gaussian formula",
        source="signal.md 3-4; levy.md",
    ),
    SeriesInfo(
        "grad/snr_per_example",
        "signal / noise of one example",
        "1",
        "0",
        layered=True,
        formula="C_1 = C/B",
        oracle="exact per-sample gradients of a whole population",
        source=MCCANDLISH,
    ),
    SeriesInfo(
        "grad/noise_scale",
        "noise scale B_simple",
        "examples",
        "unbounded",
        layered=True,
        formula="B_simple = V·B/U",
        oracle="reciprocal set of the interval of C_1",
        source=MCCANDLISH,
    ),
    SeriesInfo(
        "grad/p_published",
        "p = C/(1+C), as published",
        "1",
        "0: C = 0",
        formula="p = C/(1 + C)",
        oracle="the formula on the numbers of the definitions",
        source="signal.md 4",
    ),
    SeriesInfo(
        "grad/p_align",
        "share of batches that point along the others",
        "1",
        "0.5",
        layered=True,
        formula="share of i with g_i·m_(−i) > 0",
        oracle="Φ(√d·C·√((n − 1)/(nC + 1))) for isotropic Gaussian noise; a loop",
        source="signal.md 4, the probability it is about",
    ),
    SeriesInfo(
        "grad/noise_d_eff",
        "effective dimension of the noise",
        "directions",
        "none: 1 to the number of weights",
        formula="tr(Σ)²/tr(Σ²), both unbiased for any law",
        oracle="planted spectra; sums over distinct indices by loops",
        source="signal.md 3; Chen, Zhang & Zhong, JASA 105 (2010) 810",
    ),
)
#: What is written besides with a memory.
AVERAGED = (
    SeriesInfo(
        "grad/snr_ema",
        "signal / noise averaged over measurements",
        "1",
        "0 ± the degenerate band",
        layered=True,
        formula="EMA of U over EMA of V: the ratio of averages, not the average of ratios",
        oracle="sums over measurements one by one; C of the gradients of all of them in one vector",
        source=MCCANDLISH,
    ),
    SeriesInfo(
        "grad/noise_scale_ema",
        "noise scale from averages over measurements",
        "examples",
        "unbounded",
        layered=True,
        formula="B_simple = B·EMA of V over EMA of U",
        oracle="reciprocal of grad/snr_ema times the batch size",
        source="McCandlish et al., arXiv:1812.06162, appendix A.1",
    ),
)
PROBE_LOSS = SeriesInfo(
    "probe/loss",
    "loss on the probe's batches",
    "loss",
    "its value at lr = 0",
    formula="mean of the n losses, with Student's t interval",
    oracle="the mean",
    source="the loss of the `Probe`",
)
#: What is written for a part of the model; the last two need the batch size.
PER_PART = ("grad/signal", "grad/noise", "grad/snr", "grad/p_align")
PER_PART_AND_EXAMPLE = ("grad/snr_per_example", "grad/noise_scale")
