"""spectral_edge.md's quantities as an observable: k*, gaps, stability, A, and the gap's flow."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from foreshock.estimators.curvature import hessian
from foreshock.estimators.published import series
from foreshock.probe.moment import Moment
from foreshock.probe.quiet import quiet
from foreshock.stats import published as pub
from foreshock.types import Estimate, Readings

SOURCE = "spectral_edge.md"

SERIES = (
    series("k_star_raw", "k*", "argmax σ_j/σ_(j+1)", SOURCE),
    series("k_star_weighted", "k*, weighted", "argmax (σ_j/Σσ)(σ_j/σ_(j+1))", SOURCE),
    series("g_singular", "gap g, singular values", "σ_k* − σ_(k*+1)", SOURCE, unit="weight"),
    series("g_eigenvalue", "gap g, eigenvalues", "σ_k*² − σ_(k*+1)²", SOURCE, unit="weight²"),
    series("g_23", "gap g, fixed position", "σ_2² − σ_3²", SOURCE, unit="weight²"),
    series("alpha_clip", "stability of mode k*", "max(0, 1 − Σ Δλ²/gap²)", SOURCE),
    series("alpha_halves", "stability of mode 1, halves", "|⟨v_1, v_1'⟩| of half-windows", SOURCE),
    series(
        "a_singular", "A with g of singular values", "‖ΔG‖_F/(η g²)", SOURCE, unit="loss/weight²"
    ),
    series("a_eigenvalue", "A with g of eigenvalues", "‖ΔG‖_F/(η g²)", SOURCE, unit="loss/weight⁴"),
    series("a_23", "A with g at 2-3", "‖ΔG‖_F/(η g²)", SOURCE, unit="loss/weight⁴"),
    series("bbp_ratio", "σ_W over the BBP threshold", "σ_W/(ν (p (W−1))^¼)", SOURCE),
    series("krylov_bound", "bound on k*", "#{j: v_j'Hv_j ≥ 1/(ηW)}", SOURCE),
    series(
        "mode_importance",
        "loss decomposition at k*",
        "α G_train G_val",
        SOURCE,
        unit="(loss/weight)²",
    ),
    series(
        "gap_curvature", "gap flow: curvature", "−η (h_k − h_(k+1)) d", SOURCE, unit="weight/step"
    ),
    series("gap_damping", "gap flow: damping", "−η (h + ω) g", SOURCE, unit="weight/step"),
    series(
        "gap_driving",
        "gap flow: driving",
        "η W (G_k²/d_k − G_(k+1)²/d_(k+1))",
        SOURCE,
        unit="loss/weight/step",
    ),
    series("sigma_steady", "steady σ_k*", "√(W/h) |G|", SOURCE, unit="√loss"),
)


@dataclass(frozen=True)
class EdgeState:
    """The last snapshot, the updates so far (oldest first), and the Gram before."""

    last: Tensor | None = None
    last_step: int = -1
    updates: tuple[Tensor, ...] = ()
    gram: np.ndarray | None = None
    spacing: int = 0
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class PublishedEdge:
    """spectral_edge.md's k*, g, α_j, A, loss decomposition and gap flow, as its scripts have them.

    Updates are differences of all trainable weights ``stride`` steps apart, uncentred. g has three
    meanings, α_j two, A one for each g. h_j = v_j'Hv_j and G_j = v_j'∇L on the probe's first batch,
    G_val on the held-out pair. For these the modes are formed: W + 1 copies of the weights and W
    Hessian-vector products a measurement. η and ω are those of the first parameter group.

    What is wrong with each number is said in `foreshock.stats.published` and shown by a test: in
    short, k* exists for noise, A depends on the unit of the weights, and pure noise passes the BBP
    comparison. The corrected quantities are those of `UpdateWindow`.

    Args:
        width: W.
        stride: Steps between snapshots.

    Raises:
        ValueError: If ``width`` is below 4 or ``stride`` below 1.

    Examples:
        >>> PublishedEdge(width=3)
        Traceback (most recent call last):
        ...
        ValueError: The `width` of `PublishedEdge` must be at least 4. Got 3.
    """

    width: int = 10
    stride: int = 10
    name: str = "published_edge"
    needs: frozenset[str] = frozenset({"probe"})
    price: float = 40.0

    def __post_init__(self) -> None:
        for field, least in (("width", 4), ("stride", 1)):
            if getattr(self, field) < least:
                raise ValueError(
                    f"The `{field}` of `PublishedEdge` must be at least {least}. "
                    f"Got {getattr(self, field)}."
                )

    @property
    def series(self) -> tuple:
        """What every measurement writes."""
        return SERIES

    def init(self) -> EdgeState:
        """An empty window."""
        return EdgeState()

    def update(self, state: EdgeState, moment: Moment) -> tuple[EdgeState, Readings]:
        """Take a snapshot, and read the window once it is full."""
        snapshot = torch.cat([p.reshape(-1) for p in moment.view.parameters]).double()
        names, spacing = tuple(moment.view.names), moment.step - state.last_step
        evenly = not state.updates or spacing == state.spacing
        if state.last is None or state.names != names or not evenly:
            # Updates over unequal distances, or of other weights, do not mix.
            return EdgeState(snapshot, moment.step, names=names), _missing(0, self.width)
        updates = (*state.updates, snapshot - state.last)[-self.width :]
        if len(updates) < self.width:
            after = EdgeState(snapshot, moment.step, updates, None, spacing, names)
            return after, _missing(len(updates), self.width)
        rows = torch.stack(updates)
        gram = (rows @ rows.T).cpu().numpy()
        after = EdgeState(snapshot, moment.step, updates, gram, spacing, names)
        values, vectors = np.linalg.eigh(np.where(np.isfinite(gram), gram, 0.0))
        values, vectors = values[::-1], vectors[:, ::-1]
        if not np.isfinite(gram).all() or values[-1] <= 0:
            sentence = "The updates of the window are not finite, or not independent."
            missing = Estimate.missing(sentence, n=self.width)
            return after, Readings({info.name: missing for info in SERIES})
        sigma = np.sqrt(values)
        found = self._window(state, gram, sigma, len(snapshot), moment.learning_rates[0])
        modes = torch.from_numpy((vectors / sigma).T.copy()).to(rows) @ rows
        alpha = found["published/alpha_clip"].value
        found |= self._flow(moment, sigma, modes, alpha)
        return after, Readings({info.name: found[info.name] for info in SERIES})

    def _window(
        self, state: EdgeState, gram: np.ndarray, sigma: np.ndarray, parameters: int, lr: float
    ) -> dict[str, Estimate]:
        """What follows from the Gram alone."""
        k = pub.k_star_raw(sigma)
        gaps = {
            "singular": pub.g_singular(sigma, k),
            "eigenvalue": pub.g_eigenvalue(sigma, k),
            "23": pub.g_23(sigma),
        }
        out = {
            "published/k_star_raw": Estimate.plain(k),
            "published/k_star_weighted": Estimate.plain(pub.k_star_weighted(sigma)),
            "published/g_singular": Estimate.plain(gaps["singular"]),
            "published/g_eigenvalue": Estimate.plain(gaps["eigenvalue"]),
            "published/g_23": Estimate.plain(gaps["23"]),
            "published/alpha_halves": Estimate.plain(_halves(gram)),
            "published/bbp_ratio": Estimate.plain(pub.bbp_ratio(sigma, parameters)),
        }
        if state.gram is None or not np.isfinite(state.gram).all() or not lr:
            missing = Estimate.missing("A change of the Gram needs an earlier window and η > 0.")
            names = ("alpha_clip", "a_singular", "a_eigenvalue", "a_23")
            return out | {f"published/{name}": missing for name in names}
        before = np.linalg.eigvalsh(state.gram)[::-1]
        change = float(np.linalg.norm(gram - state.gram))
        out["published/alpha_clip"] = Estimate.plain(float(pub.alpha_clip(sigma**2, before)[k - 1]))
        for name, gap in gaps.items():
            out[f"published/a_{name}"] = Estimate.plain(pub.a_adiabatic(change, lr, gap))
        return out

    def _flow(
        self, moment: Moment, sigma: np.ndarray, modes: Tensor, alpha: float
    ) -> dict[str, Estimate]:
        """What needs curvature and gradients along the modes."""
        assert moment.probe is not None
        names = [info.name for info in SERIES[11:]]
        lr = moment.learning_rates[0]
        batches = moment.view.draw(moment.probe, moment.step)[:1]
        if not batches:
            missing = Estimate.missing("The probe returned no batch at this step.")
            return dict.fromkeys(names, missing)
        batch = batches[0]
        _, train = moment.view.gradient(moment.probe.loss, batch)
        along = (modes @ torch.cat([g.reshape(-1) for g in train]).double()).tolist()
        with quiet(moment.view.seed):
            product, _, _ = hessian(moment.view, moment.probe.loss, batch)
            bends = [(mode @ product(mode)).item() for mode in modes]
        if not all(map(math.isfinite, (*along, *bends))) or not lr:
            missing = Estimate.missing("Curvature or gradient is not finite, or η is zero.")
            return dict.fromkeys(names, missing)
        i = pub.k_star_raw(sigma) - 1
        decay = moment.optimizer.decay[0][0] if moment.optimizer is not None else 0.0
        flow = pub.gap_flow(
            lr,
            decay,
            self.width,
            (bends[i], bends[i + 1]),
            (float(sigma[i]), float(sigma[i + 1])),
            (abs(along[i]), abs(along[i + 1])),
        )
        steady = pub.sigma_steady(self.width, bends[i], abs(along[i])) if bends[i] > 0 else math.inf
        out = {
            "published/krylov_bound": Estimate.plain(pub.krylov_bound(bends, lr, self.width)),
            "published/gap_curvature": Estimate.plain(flow[0]),
            "published/gap_damping": Estimate.plain(flow[1]),
            "published/gap_driving": Estimate.plain(flow[2]),
            "published/sigma_steady": Estimate.plain(steady),
            "published/mode_importance": Estimate.missing(
                "It needs an earlier window and `Probe(heldout=...)` that the loss accepts."
            ),
        }
        if moment.probe.heldout is not None and math.isfinite(alpha):
            _, held = moment.view.gradient(moment.probe.loss, moment.probe.heldout)
            val = (modes[i] @ torch.cat([g.reshape(-1) for g in held]).double()).item()
            out["published/mode_importance"] = Estimate.plain(
                pub.mode_importance(alpha, along[i], val)
            )
        return out


def _halves(gram: np.ndarray) -> float:
    """|⟨v_1 of the first half-window, v_1 of the second⟩| from the Gram of the whole one."""
    half = len(gram) // 2
    tops = []
    for part in (gram[:half, :half], gram[-half:, -half:]):
        values, vectors = np.linalg.eigh(part)
        tops.append(vectors[:, -1] / math.sqrt(max(values[-1], 1e-300)))
    # v = X'u/σ, so the overlap of the halves is u'(X X')u' of the corner block.
    return abs(float(tops[0] @ gram[:half, -half:] @ tops[1]))


def _missing(have: int, width: int) -> Readings:
    sentence = f"The update window is filling: {have} of {width} updates so far."
    missing = Estimate.missing(sentence, n=have)
    return Readings({info.name: missing for info in SERIES})
