"""Parameter names, defaults and keys of the documents, transcribed; extras are keyword-only."""

from __future__ import annotations

import inspect
from inspect import Parameter
from typing import Any

import pytest

from foreshock import documents

NONE = Parameter.empty

#: Name: parameters in order with their defaults, as the documents have them (without self).
SIGNATURES: dict[str, dict[str, Any]] = {
    # levy
    "CriticalityTracker": {"model": NONE, "window": 100},
    "CriticalityTracker.compute_C_alpha": {},
    "CriticalityTracker.compute_S": {"loss": NONE, "lr": NONE},
    "CriticalityTracker.compute_rho": {"X": NONE},
    "CriticalityTracker.check_criticality": {"loss": NONE, "X": NONE, "lr": NONE},
    # signal
    "compute_consolidation_ratio": {"model": NONE, "dataloader": NONE, "n_samples": 20},
    "compute_loss": {"model": NONE, "batch": NONE},
    "evaluate": {"model": NONE, "dataloader": NONE},
    "track_learning_dynamics": {
        "model": NONE,
        "train_loader": NONE,
        "test_loader": NONE,
        "epochs": 100,
    },
    "get_adaptive_lr": {"base_lr": NONE, "p": NONE},
    "should_stop_early": {"history": NONE, "window": 10},
    "estimate_tail_index": {"gradients_flat": NONE, "n_tail": 100},
    "estimate_lambda_max": {
        "model": NONE,
        "loss_fn": NONE,
        "dataloader": NONE,
        "n_iter": 20,
        "n_batches": 5,
    },
    "hessian_vector_product": {
        "model": NONE,
        "loss_fn": NONE,
        "dataloader": NONE,
        "v": NONE,
        "n_batches": 5,
    },
    # langevin
    "StochasticHarmonicLearning": {
        "loss_fn": NONE,
        "grad_fn": NONE,
        "dim": NONE,
        "lr": 0.01,
        "noise_scale": 0.01,
    },
    "StochasticHarmonicLearning.step": {"theta": NONE, "dt": 1.0},
    "StochasticHarmonicLearning.consolidation_ratio": {"theta": NONE},
    "StochasticHarmonicLearning.estimate_barrier_height": {
        "theta_current": NONE,
        "theta_target": NONE,
    },
    "StochasticHarmonicLearning.escape_time": {"barrier_height": NONE},
    "StochasticHarmonicLearning.train": {
        "theta_init": NONE,
        "n_steps": 1000,
        "dt": 1.0,
        "adaptive_noise": True,
        "C_threshold": 0.5,
    },
    # fokker_planck
    "FPEMetrics": {
        "C": NONE,
        "S_dot": NONE,
        "rho_mean": NONE,
        "step": NONE,
        "transition": NONE,
    },
    "FokkerPlanckDynamics": {
        "model": NONE,
        "eta_0": 0.01,
        "tau_eta": 1000.0,
        "lambda_reg": 0.001,
        "D_0": 1.0,
        "tau_D": 500.0,
        "gamma": 0.05,
        "C_threshold": 0.5,
        "alpha_reset": 0.2,
        "beta_reset": 3.0,
        "kde_bandwidth": 0.1,
    },
    "FokkerPlanckDynamics.learning_rate": {"t": NONE},
    "FokkerPlanckDynamics.consolidation_ratio": {"z": NONE, "params": NONE, "t": NONE},
    "FokkerPlanckDynamics._compute_flux": {"z": NONE, "params": NONE, "t": NONE},
    "FokkerPlanckDynamics.entropy_production": {"z": NONE, "J": NONE},
    "FokkerPlanckDynamics.apply_reset": {"z": NONE, "t": NONE, "key": NONE},
    "FokkerPlanckDynamics.train_epoch": {
        "z_init": NONE,
        "params": NONE,
        "n_steps": 100,
        "dt": 0.01,
        "seed": 0,
    },
    "detect_phase_transition": {
        "metrics_history": NONE,
        "window": 10,
        "drop_threshold": 0.5,
        "entropy_sigma": 2.0,
        "loss_plateau_tol": 1e-4,
    },
    "RLHFMonitor": {
        "base_model": NONE,
        "fpe": NONE,
        "C_alert_threshold": 0.3,
        "div_J_threshold": 1.0,
    },
    "RLHFMonitor.detect_misalignment_risk": {"z_responses": NONE, "params": NONE, "t": NONE},
    "FPETorchWrapper": {
        "model": NONE,
        "latent_extractor": NONE,
        "eta_0": 0.01,
        "lambda_reg": 0.001,
        "C_threshold": 0.5,
        "kde_bandwidth": 0.1,
    },
    "FPETorchWrapper.consolidation_ratio": {"z_batch": NONE, "t": NONE},
    "FPETorchWrapper.apply_reset": {"model": NONE, "alpha": 0.15, "noise_scale": 0.01},
}
#: The document "spectral_edge" has symbols and no functions.
OURS = {"k_star", "adiabatic_parameter"}


def published_parameters(name: str) -> dict[str, Any]:
    value: Any = documents
    for part in name.split("."):
        value = getattr(value, part)
    parameters = list(inspect.signature(value).parameters.values())
    assert all(
        p.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY) for p in parameters
    )
    # A method of a class is a function that begins with self.
    return {
        p.name: p.default
        for p in parameters
        if p.kind is Parameter.POSITIONAL_OR_KEYWORD and p.name != "self"
    }


@pytest.mark.parametrize("name", SIGNATURES)
def test_the_signature_is_that_of_the_document(name: str) -> None:
    found = published_parameters(name)
    # Names, their order, defaults and the types of these.
    assert list(found.items()) == list(SIGNATURES[name].items())
    assert all(type(found[k]) is type(SIGNATURES[name][k]) for k in found)


def test_the_table_knows_every_name() -> None:
    assert {name.partition(".")[0] for name in SIGNATURES} | OURS == set(documents.__all__)
    for name in set(documents.__all__) - OURS:
        value = getattr(documents, name)
        if inspect.isclass(value) and name != "FPEMetrics":
            methods = {n for n, m in vars(value).items() if inspect.isfunction(m) and n[0] != "_"}
            assert {f"{name}.{m}" for m in methods} <= set(SIGNATURES)


@pytest.mark.parametrize("name", sorted(documents.__all__))
def test_each_says_what_is_wrong_and_what_to_use_instead(name: str) -> None:
    text = getattr(documents, name).__doc__
    if name in ("compute_loss", "evaluate"):  # the document calls them and does not define them
        assert "do not define" in text
        return
    assert "What the published form gets wrong" in text and "**Ours instead**" in text, name
    assert "predict" not in text.lower(), name
    assert 'The document "' in text, name


@pytest.mark.parametrize(
    "name", [n for n in SIGNATURES if "." in n and n.split(".")[1] not in ("learning_rate",)]
)
def test_each_method_says_what_is_wrong(name: str) -> None:
    owner, method = name.split(".")
    assert "**Wrong with it**" in getattr(getattr(documents, owner), method).__doc__
