"""Which published name comes from which document and is tested where: no row may be empty."""

import ast
from pathlib import Path

import pytest

from foreshock.estimators import published_catalogue
from foreshock.stats import published

#: Test module of each document.
MODULES = {
    "signal.md": "test_signal.py",
    "levy.md": "test_levy.py",
    "langevin.md": "test_langevin.py",
    "spectral_edge.md": "test_edge.py",
    "fokker_planck.md": "test_fokker_planck.py",
}

#: Published name, document, test in its module. Every test holds a literal transcription of the
#: formula or listing, and at least one assertion that shows its defect by a number.
TABLE = (
    ("c_signal", "signal.md", "test_c_signal"),
    ("c_signal_text", "signal.md", "test_c_signal_text"),
    ("p_signal", "signal.md", "test_p_signal"),
    ("p_gauss_signal", "signal.md", "test_p_gauss_signal"),
    ("odds_signal", "signal.md", "test_odds_signal"),
    ("phase_signal", "signal.md", "test_phase_signal"),
    ("state_signal", "signal.md", "test_state_signal"),
    ("state_by_c_signal", "signal.md", "test_state_by_c_signal"),
    ("action_signal", "signal.md", "test_action_signal"),
    ("s_signal", "signal.md", "test_s_signal"),
    ("d_h_signal", "signal.md", "test_d_h_signal"),
    ("i_signal", "signal.md", "test_i_signal"),
    ("i_state_signal", "signal.md", "test_i_state_signal"),
    ("adaptive_lr_signal", "signal.md", "test_adaptive_lr_signal"),
    ("early_stop_signal", "signal.md", "test_early_stop_signal"),
    ("hill_signal", "signal.md", "test_hill_signal"),
    ("lv_signal", "signal.md", "test_lv_signal"),
    ("lambda_eff_signal", "signal.md", "test_lambda_eff_signal"),
    ("convergence_signal", "signal.md", "test_convergence_signal"),
    ("mu_pl_signal", "signal.md", "test_mu_pl_signal"),
    ("order_parameter_signal", "signal.md", "test_order_parameter_signal"),
    ("type_two_error_signal", "signal.md", "test_type_two_error_signal"),
    ("mutual_information_signal", "signal.md", "test_mutual_information_signal"),
    ("ticket_ratio_signal", "signal.md", "test_ticket_ratio_signal"),
    ("hill_levy", "levy.md", "test_hill_levy"),
    ("d_levy", "levy.md", "test_d_levy"),
    ("c_levy_text", "levy.md", "test_c_levy_text"),
    ("c_levy_code", "levy.md", "test_c_levy_code"),
    ("s_levy", "levy.md", "test_s_levy"),
    ("s_band_levy", "levy.md", "test_s_band_levy"),
    ("rho_levy", "levy.md", "test_rho_levy"),
    ("drho_levy_text", "levy.md", "test_drho_levy_text"),
    ("drho_levy_code", "levy.md", "test_drho_levy_code"),
    ("components_levy", "levy.md", "test_components_levy"),
    ("is_critical_levy", "levy.md", "test_is_critical_levy"),
    ("partial_regime_levy", "levy.md", "test_partial_regime_levy"),
    ("phi_levy", "levy.md", "test_phi_levy"),
    ("d_gradients_langevin", "langevin.md", "test_d_gradients_langevin"),
    ("d_parameters_langevin", "langevin.md", "test_d_parameters_langevin"),
    ("c_langevin", "langevin.md", "test_c_langevin"),
    ("regime_langevin", "langevin.md", "test_regime_langevin"),
    ("d_eff_langevin", "langevin.md", "test_d_eff_langevin"),
    ("lr_for_batch_langevin", "langevin.md", "test_lr_for_batch_langevin"),
    ("alpha_opt_langevin", "langevin.md", "test_alpha_opt_langevin"),
    ("kramers_rate_langevin", "langevin.md", "test_kramers_rate_langevin"),
    ("escape_time_langevin", "langevin.md", "test_escape_time_langevin"),
    ("error_bound_langevin", "langevin.md", "test_error_bound_langevin"),
    ("uncertainty_bound_langevin", "langevin.md", "test_uncertainty_bound_langevin"),
    ("adaptive_lr_langevin", "langevin.md", "test_adaptive_lr_langevin"),
    ("alert_langevin", "langevin.md", "test_alert_langevin"),
    ("k_star_raw", "spectral_edge.md", "test_k_star_raw"),
    ("k_star_weighted", "spectral_edge.md", "test_k_star_weighted"),
    ("g_singular", "spectral_edge.md", "test_g_singular"),
    ("g_eigenvalue", "spectral_edge.md", "test_g_eigenvalue"),
    ("g_23", "spectral_edge.md", "test_g_23"),
    ("alpha_clip", "spectral_edge.md", "test_alpha_clip"),
    ("alpha_halves", "spectral_edge.md", "test_alpha_halves"),
    ("a_adiabatic", "spectral_edge.md", "test_a_adiabatic"),
    ("a_band", "spectral_edge.md", "test_a_band"),
    ("bbp_ratio", "spectral_edge.md", "test_bbp_ratio"),
    ("mode_importance", "spectral_edge.md", "test_mode_importance"),
    ("gap_flow", "spectral_edge.md", "test_gap_flow"),
    ("sigma_steady", "spectral_edge.md", "test_sigma_steady"),
    ("krylov_bound", "spectral_edge.md", "test_krylov_bound"),
    ("plateaus_fp", "fokker_planck.md", "test_t12_np_diff_is_no_plateau_fp"),
    ("transitions_fp", "fokker_planck.md", "test_transitions_fp"),
    ("reset_step_fp", "fokker_planck.md", "test_reset_step_fp"),
    ("reset_steps_fp", "fokker_planck.md", "test_reset_steps_fp"),
    ("regime_fp", "fokker_planck.md", "test_regime_fp"),
    ("alert_fp", "fokker_planck.md", "test_alert_fp"),
)


def test_every_published_name_has_one_full_row() -> None:
    assert sorted(row[0] for row in TABLE) == sorted(published.__all__)
    assert all(all(row) for row in TABLE)


def test_every_public_function_is_exported() -> None:
    found = set()
    for path in Path(published.__file__).parent.glob("published_*.py"):
        tree = ast.parse(path.read_text())
        functions = (node.name for node in tree.body if isinstance(node, ast.FunctionDef))
        found |= {name for name in functions if not name.startswith("_")}
    assert found == set(published.__all__)


def test_every_row_names_its_document_and_a_test_that_shows_a_defect() -> None:
    for name, document, test in TABLE:
        documented = getattr(published, name).__doc__
        # The companions of spectral_edge.md are named beside it; all forms say what is wrong.
        assert document in documented or document == "spectral_edge.md", name
        assert "**Wrong with it**" in documented and ">>>" in documented, name
        source = (Path(__file__).parent / MODULES[document]).read_text()
        body = [n for n in ast.parse(source).body if getattr(n, "name", "") == test]
        assert len(body) == 1, test
        text = ast.get_source_segment(source, body[0]) or ""
        assert "# Defect" in text and f"pub.{name}(" in text, test


#: Published series that need tensors or a model: observable, its transcription in test_model.py,
#: and for each series the test that shows its defect by a number.
MODEL = {
    "published_levy": (
        "test_tracker",
        {
            "lambda_power5": "test_lambda_power",
            "rho_levy": "test_metric_log_det",
            "drho_levy": "test_drho_levy_code",
            "stochastic_levy": "test_components_levy",
            "spectral_levy": "test_components_levy",
            "geometric_levy": "test_components_levy",
        },
    ),
    "published_signal": (
        "test_signal",
        {
            "signal_signal": "test_consolidation_ratio",
            "noise_signal": "test_consolidation_ratio",
            "lambda_power20": "test_lambda_power",
            "i_placeholder_signal": "test_signal",
        },
    ),
    "published_langevin": (
        "test_langevin",
        {
            "d_langevin": "test_d_gradients_langevin",
            "c_parameters_langevin": "test_d_parameters_langevin",
            "lambda_power20_langevin": "test_lambda_power",
        },
    ),
    "published_edge": (
        "test_edge",
        {
            "a_singular": "test_edge",
            "a_eigenvalue": "test_edge",
            "a_23": "test_edge",
            "gap_curvature": "test_gap_flow",
            "gap_damping": "test_gap_flow",
            "gap_driving": "test_gap_flow",
        },
    ),
    "published_fokker_planck": (
        "test_fokker_planck",
        {
            "c_fp_code": "test_grad_rho_code_fp",
            "s_dot_fp_text": "test_s_dot_fp",
            "max_div_j_fp": "test_div_j_fp",
            "drift_cosine_fp": "test_fokker_planck",
        },
    ),
}


def defects_shown() -> set[str]:
    """Names of all tests here whose source shows a defect."""
    found = set()
    for path in Path(__file__).parent.glob("test_*.py"):
        text = path.read_text()
        for node in ast.parse(text).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                if "# Defect" in (ast.get_source_segment(text, node) or ""):
                    found.add(node.name)
    return found


@pytest.mark.parametrize("observable", published_catalogue(), ids=lambda o: o.name)
def test_every_published_series_has_a_transcription_and_a_defect(observable) -> None:
    transcription, defects = MODEL[observable.name]
    source = (Path(__file__).parent / "test_model.py").read_text()
    body = [n for n in ast.parse(source).body if getattr(n, "name", "") == transcription]
    assert len(body) == 1
    known = defects_shown()
    for info in observable.series:
        name = info.name.removeprefix("published/")
        # The test compares every series of the observable; it asserts that itself.
        assert defects.get(name, f"test_{name}") in known, name
        assert info.formula and info.source in {row[1] for row in TABLE}


def test_the_table_of_models_has_no_empty_row_and_no_stranger() -> None:
    assert set(MODEL) == {o.name for o in published_catalogue()}
    for observable in published_catalogue():
        names = {info.name.removeprefix("published/") for info in observable.series}
        assert set(MODEL[observable.name][1]) <= names
