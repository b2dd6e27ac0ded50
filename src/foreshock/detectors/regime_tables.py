"""The published tables of regimes: which numbers they read, the labels, and what they advise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from foreshock.stats import published as pub


@dataclass(frozen=True)
class RegimeTable:
    """One published table.

    Args:
        source: Document and section.
        reads: Series in the order of the numbers of `label`.
        label: From the numbers and the width of "about" to a regime.
        edges: Of the bands of the first number.
        width: Of "about", where the document gives none and we had to; 0 where none is needed.
        advice: What the document says of a regime, in our words.
    """

    source: str
    reads: tuple[str, ...]
    label: Callable[[Sequence[float], float], str]
    edges: tuple[float, ...]
    width: float = 0.0
    advice: Mapping[str, str] = field(default_factory=dict)


_STATES = ("failing", "sub-threshold", "critical", "learning", "strong")
_ADVICE = {state: pub.action_signal(state) for state in _STATES}

#: Every table of regimes that the documents publish.
TABLES: Mapping[str, RegimeTable] = MappingProxyType(
    {
        "signal_p": RegimeTable(
            "signal 12.1, by p",
            ("published/p_signal",),
            lambda x, _: pub.state_signal(x[0]),
            (0.40, 0.50, 0.60, 0.75),
            advice=_ADVICE,
        ),
        "signal_c": RegimeTable(
            "signal 12.1, by C",
            ("published/c_signal",),
            lambda x, _: pub.state_by_c_signal(x[0]),
            (0.67, 1.0, 1.5, 3.0),
            advice=_ADVICE,
        ),
        "signal_phase": RegimeTable(
            "signal 5",
            ("published/p_signal",),
            lambda x, width: pub.phase_signal(x[0], width),
            (0.5,),
            width=0.05,
            advice={
                "exploration": "noise is said to dominate",
                "transition": "grokking is said to happen here",
                "generalization": "steps are said to help more often than not",
            },
        ),
        "signal_i": RegimeTable(
            "signal 6.3",
            ("published/i_signal",),
            lambda x, _: pub.i_state_signal(x[0]),
            (0.0, 0.1, 0.5),
            advice={
                "divergence": "training is said to be unstable",
                "stagnation": "memorisation without structure",
                "transition": "a change is said to approach",
                "healthy": "healthy generalisation",
            },
        ),
        "langevin": RegimeTable(
            "langevin 3",
            ("published/c_langevin",),
            lambda x, width: pub.regime_langevin(x[0], width),
            (1.0, 10.0),
            width=0.2,
            advice={
                "deterministic": "plain descent into a local minimum",
                "transitional": "mixed dynamics, said to approach convergence",
                "critical": "phase transitions are said to occur here",
                "diffusive": "a random walk; reduce the learning rate",
            },
        ),
        "fokker_planck": RegimeTable(
            "fokker_planck 7.1",
            ("published/c_fp_code",),
            lambda x, _: pub.regime_fp(x[0]),
            (1.0, 10.0),
            advice={
                "exploitation": "the gradient is said to dominate",
                "balanced": "balanced learning",
                "exploration": "noise is said to dominate and to search for new basins",
            },
        ),
        "levy": RegimeTable(
            "levy, unified law",
            ("published/c_levy_code", "published/s_levy", "published/drho_levy"),
            lambda x, width: pub.partial_regime_levy(x[0], x[1], x[2], width),
            (0.8, 1.2),
            width=0.5,
            advice={
                "aligned": "a jump of generalisation is said to be likely",
                "exploratory": "exploring but stable, learning slowly",
                "edge-walking": "deterministic at the edge: risky, without exploration",
                "noisy flux": "the representation moves without consolidating",
            },
        ),
        "levy_s": RegimeTable(
            "levy, observable 2",
            ("published/s_levy",),
            lambda x, _: pub.s_band_levy(x[0]),
            (-0.1, 0.0, 0.1, 0.5),
            advice={
                "edge": "the edge of stability",
                "stable": "stable and conservative",
                "divergence": "divergence by the classical theory",
            },
        ),
        "spectral_edge": RegimeTable(
            "spectral_edge, adiabatic parameter",
            ("published/a_singular",),
            lambda x, width: pub.a_band(x[0], width),
            (1.0,),
            width=3.0,
            advice={
                "plateau": "learning is said to be stable",
                "transition": "a critical shift of the dynamics",
                "forgetting": "what was learned is said to be lost",
            },
        ),
    }
)
