"""Series of the update window, for the catalogue: titles, formulas, nulls and oracles."""

from __future__ import annotations

from foreshock.types import SeriesInfo

#: What is read of every part of the model.
PARTS = ("update/sigma_1", "update/ratio", "update/k_star", "update/rho_1")

XU = "Xu, arXiv:2603.28964; spectral_edge.md"
OURS = "ours, after Xu, arXiv:2603.28964"


def window_series(noise: str, level: str, ratio: str) -> tuple[SeriesInfo, ...]:
    """The catalogue's entries.

    Args:
        noise: The null in words.
        level: Measured share of it outside the bands, in words.
        ratio: The same of the largest ratio.

    Returns:
        One entry a series.

    Examples:
        >>> len(window_series("noise", "5 % outside", "5 % outside"))
        20
    """
    svd = "full SVD of the updates"
    shared = f"two windows of {noise} that share W-1 updates; {level}"
    largest = f"{noise}; {ratio}"
    noise = f"{noise}; {level}"

    def entry(
        name: str, title: str, unit: str, null: str, formula: str, oracle: str, source: str
    ) -> SeriesInfo:
        full = f"update/{name}"
        return SeriesInfo(
            full,
            title,
            unit,
            null,
            layered=full in PARTS,
            formula=formula,
            oracle=oracle,
            source=source,
        )

    def array(name: str, title: str, unit: str, null: str, formula: str, oracle: str) -> SeriesInfo:
        return SeriesInfo(
            f"update/{name}",
            title,
            unit,
            null,
            array=True,
            formula=formula,
            oracle=oracle,
            source=XU,
        )

    walk = "AR(1) walks in the limit of many weights: R 1.10, 1.19, 1.38, 2.25 at ρ .3, .5, .7, .9"
    return (
        entry("sigma_1", "largest singular value", "weight", noise, "σ_1 = sqrt λ_1(XX')", svd, XU),
        entry("sigma_2", "second singular value", "weight", noise, "σ_2 = sqrt λ_2(XX')", svd, XU),
        *(
            entry(
                f"gap_{j}",
                f"eigenvalue gap {j} over the trace",
                "1",
                noise,
                f"(λ_{j} − λ_{j + 1})/tr G",
                svd,
                OURS,
            )
            for j in (1, 2, 3)
        ),
        entry(
            "k_star",
            "position k* of the largest ratio",
            "1",
            noise,
            "argmax_j σ_j/σ_(j+1)",
            "k* of AR(1) walks: 5, 4, 3, 2, 2, 1, 1 at ρ .02, .1, .3, .5, .7, .9, .97",
            XU,
        ),
        entry(
            "ratio", "largest ratio of neighbouring σ", "1", largest, "max_j σ_j/σ_(j+1)", walk, XU
        ),
        entry(
            "k_star_weighted",
            "position of the largest weighted ratio",
            "1",
            noise,
            "argmax_j (σ_j/Σσ)(σ_j/σ_(j+1))",
            "independent updates: 1 in 81 %, 2 in 16 % of windows of 10",
            "scripts of Xu, arXiv:2603.28964",
        ),
        *(
            entry(
                f"rho_{lag}",
                f"autocorrelation of updates at lag {lag}",
                "1",
                "0 ± t/sqrt(p (W − l))",
                f"mean_i cos(δ_i, δ_(i+{lag}))",
                "products of the updates; coverage on AR(1) walks of known ρ",
                OURS,
            )
            for lag in (1, 2, 3)
        ),
        entry(
            "effective_rank",
            "effective rank of the window",
            "1",
            noise,
            "(tr G)²/tr(G²)",
            svd,
            OURS,
        ),
        entry(
            "norm", "rms norm of the updates", "weight", "0 at lr = 0", "sqrt(tr G/W)", svd, OURS
        ),
        *(
            entry(
                f"angle_{k}",
                f"turn of the span of the first {k} modes" if k > 1 else "turn of the first mode",
                "degree",
                shared,
                f"arccos of the least singular value of O[:{k}, :{k}], O_jk = ⟨v_j(t), v_k(t+1)⟩",
                "modes of a full SVD of both windows, to 1e-12; nested windows of drawn noise",
                XU,
            )
            for k in (1, 2, 3)
        ),
        entry(
            "turning_bound",
            "change of the window's operator over its gap at k*",
            "1",
            shared,
            "norm_F(ΔC)/(λ_k* − λ_(k*+1)), C = X'X, rows of norm 1",
            "ΔC formed in the space of the weights",
            OURS,
        ),
        array("spectrum", "all singular values", "weight", noise, "σ_1 ≥ … ≥ σ_W of X", svd),
        array("ratios", "all ratios of neighbouring σ", "1", noise, "R_j = σ_j/σ_(j+1)", svd),
        array(
            "overlap",
            "overlap of the modes of successive windows",
            "1",
            shared,
            "abs O, O = diag(1/σ) U' B[0:W, 1:W+1] V diag(1/σ′), G' = VΛ'V'",
            "modes of a full SVD of both windows, to 1e-12",
        ),
    )
