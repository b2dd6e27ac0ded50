"""The series of the latent flow: names, units, nulls, formulas, oracles, sources."""

from __future__ import annotations

from foreshock.types import SeriesInfo

_OU = "Ornstein-Uhlenbeck latents, closed form"
_FP = "fokker_planck.md"


def _info(
    name: str,
    title: str,
    unit: str,
    null: str,
    formula: str,
    *,
    oracle: str = _OU,
    source: str = _FP,
    layered: bool = False,
) -> SeriesInfo:
    return SeriesInfo(
        f"latent/{name}",
        title,
        unit,
        null,
        layered=layered,
        formula=formula,
        oracle=oracle,
        source=source,
    )


#: What rests on the score, and is written for classes and clusters too.
FLOW = (
    _info(
        "c",
        "latent consolidation ratio C",
        "1",
        "unresolved at lr = 0; 1 with v = 0 is equilibrium",
        "C² = E[μ·D⁻¹μ]/E[s·Ds], signed root; s = ∇log ρ",
        source="fokker_planck.md 7.1, corrected: invariant under z → Az",
        layered=True,
    ),
    _info(
        "cosine",
        "cosine of drift and diffusive pull",
        "1",
        "unresolved at lr = 0",
        "E[μ·s]/√(E[μ·D⁻¹μ] E[s·Ds])",
        source="fokker_planck.md 7.1, corrected",
        layered=True,
    ),
    _info(
        "irreversibility",
        "irreversibility",
        "1",
        "unresolved at lr = 0; 0 at equilibrium",
        "E|v|²/(E|μ|² + E|Ds|²) in D⁻¹ norm, in [0, 2]",
        source="fokker_planck.md 7.3, corrected",
        layered=True,
    ),
    _info(
        "entropy_production",
        "entropy production",
        "nat/step",
        "unresolved at lr = 0; 0 at equilibrium",
        "E[v·D⁻¹v], v = μ − Ds",
        source="fokker_planck.md 7.3, corrected; Seifert, RPP 75 (2012) 126001",
        layered=True,
    ),
    _info(
        "entropy_production_bound",
        "lower bound of the entropy production",
        "nat/step",
        "unresolved at lr = 0",
        "held-out 2E[v·w] − E[w·Dw] for a fitted field w; one-sided",
        source="variational form; Boffi & Vanden-Eijnden, arXiv:2309.12991",
        layered=True,
    ),
    _info(
        "entropy_rate",
        "rate of the entropy dH/dt",
        "nat/step",
        "unresolved at lr = 0",
        "E[div v] = E[s·Ds] − E[μ·s]",
        source="fokker_planck.md 7.3, corrected",
        layered=True,
    ),
    _info(
        "drift_power",
        "drift against noise E[μ·D⁻¹μ]",
        "1/step",
        "0: unbiased, so noise alone scatters around it",
        "mean of μ̂·D̂⁻¹μ̂, less 2d/n, D̂⁻¹ unbiased",
        oracle="OU closed form; coverage of 0 under pure noise",
        source="ours",
        layered=True,
    ),
    _info(
        "fisher",
        "diffusive pull E[s·Ds]",
        "1/step",
        "unresolved at lr = 0",
        "E[s·Ds]",
        source="ours",
        layered=True,
    ),
    _info(
        "drift",
        "drift of the latents",
        "latent/step",
        "0 at lr = 0, exactly",
        "√E|μ|², less what noise adds to it",
        oracle="linear regression under SGD, closed form",
        source="ours: mean of Jδθ over the probe's batches",
        layered=True,
    ),
    _info(
        "diffusion",
        "diffusion of the latents tr D",
        "latent²/step",
        "0 at lr = 0, exactly",
        "half the trace of the covariance of Jδθ over batches",
        oracle="linear regression under SGD, closed form",
        source="ours",
        layered=True,
    ),
    _info(
        "common_noise",
        "correlation of the noise of two particles",
        "1",
        "0 ± the band of independent noise",
        "mean over pairs of tr(D⁻¹ Cov(δz_i, δz_j))/2d",
        oracle="rigid and independent noise, closed form",
        source="ours: the one-particle equation assumes 0",
        layered=True,
    ),
    _info(
        "diffusion_spread",
        "how much D differs between particles",
        "1",
        "0: the part that sampling makes is taken off",
        "relative spread of D_i around the pooled D",
        oracle="constant D: 0 within its interval",
        source="ours: the equation is solved for constant D",
        layered=True,
    ),
)

#: What is written for the whole cloud only.
WHOLE = (
    _info(
        "entropy",
        "differential entropy H of the latents",
        "nat",
        "constant at lr = 0",
        "−E log ρ, leave-one-out; missing where the score has no density",
        source="fokker_planck.md 3.1",
    ),
    _info(
        "temperature",
        "temperature of the latents",
        "loss",
        "unresolved at lr = 0",
        "tr D/(d m), m the mobility: regression of μ on −∇_z loss",
        oracle="linear regression under SGD",
        source="fokker_planck.md 6.1, corrected: T = D/mobility",
    ),
    _info(
        "free_energy",
        "free energy F of the latents",
        "loss",
        "constant at lr = 0",
        "E[loss] − T H at the temperature measured now",
        oracle="free_energy on a Gibbs cloud",
        source="Jordan, Kinderlehrer & Otto (1998)",
    ),
    _info(
        "loss_cosine",
        "cosine of drift and −∇_z loss",
        "1",
        "unresolved at lr = 0",
        "E[−μ·∇_z ℓ]/√(E|μ|² E|∇_z ℓ|²), E|μ|² less its noise",
        oracle="1 where the latents are the weights",
        source="how far the document's drift −η∇_zℒ is from what the latents do",
    ),
    _info(
        "flux",
        "speed of the density",
        "latent/step",
        "that of diffusion alone at zero drift",
        "√E|v|² = √E|J/ρ|²; no interval claimed",
        source="fokker_planck.md 7.2, corrected",
    ),
    _info(
        "flux_divergence",
        "divergence of the flux in the leading plane",
        "1/step",
        "0 in a steady state, driven or not",
        "√E(div J/ρ)² over the plane; no interval claimed",
        oracle="plane_flux on a driven steady state",
        source="fokker_planck.md 7.2, corrected: stationarity, not an attractor",
    ),
    _info(
        "w2_start",
        "W₂ to the first record",
        "latent",
        "band of a split of both clouds pooled",
        "between Gaussians of the same moments (Bures), less its bias; a lower bound",
        source="Gelbrich (1990); fokker_planck.md 7.4",
    ),
    _info(
        "w2_start_sliced",
        "sliced W₂ to the first record",
        "latent",
        "band of a split of both clouds pooled",
        "√d times the RMS of W₂ along random directions, less its bias",
        source="Bonneel et al. (2015); fokker_planck.md 7.4",
    ),
    _info(
        "w2_previous",
        "W₂ to the previous record",
        "latent",
        "band of a split of both clouds pooled",
        "as w2_start",
        source="fokker_planck.md 7.4",
    ),
    _info(
        "pca_share",
        "share of the variance in the axes kept",
        "1",
        "1 where nothing is left out",
        "variance in the axes of the first record over all of it, now",
        oracle="principal components of the first record",
        source="ours",
    ),
    _info(
        "distinct",
        "share of the examples that are no copies",
        "1",
        "constant where the examples are kept",
        "different latents over all examples looked at",
        oracle="counted on planted copies",
        source="ours: with examples='fresh', how diverse the responses are",
    ),
    _info(
        "kernel_ess",
        "effective neighbours of the score's kernel",
        "1",
        "missing where the score is one Gaussian's",
        "median of (Σw)²/Σw²",
        oracle="fit_score",
        source="ours",
    ),
    _info(
        "score_gap",
        "what the kernel adds to a Gaussian score",
        "1",
        "0: the score is one Gaussian's",
        "leave-one-out Hyvärinen score less that of the Gaussian",
        oracle="fit_score",
        source="Hyvärinen (2005)",
    ),
    _info(
        "stein",
        "Stein identity of the score, over −d",
        "1",
        "1 for the true score",
        "mean s·(z − m)/(−d); the interval is its scatter, were the score exact",
        oracle="fit_score",
        source="Stein (1972)",
    ),
)

#: Fields and latents themselves.
ARRAYS = tuple(
    SeriesInfo(f"latent/{name}", title, unit, null, array=True, formula=f, oracle=o, source=_FP)
    for name, title, unit, null, f, o in (
        ("z", "latents in the kept axes", "latent", "constant at lr = 0", "(N, d)", "forward pass"),
        ("basis", "origin and kept axes", "1", "constant", "(1 + d, D), once", "SVD"),
        ("labels", "class of each particle", "1", "constant", "(N,), once", "the probe"),
        (
            "plane",
            "density, flux and its divergence in the leading plane",
            "mixed",
            "no flux at lr = 0",
            "(4, g, g): ρ, J_x, J_y, div J",
            "plane_flux",
        ),
        ("plane_axes", "grid lines of the plane", "latent", "-", "(2, g)", "plane_flux"),
    )
)

SERIES = (*FLOW, *WHOLE, *ARRAYS)
