"""The audit of fokker_planck.md and langevin.md: every claim that is wrong, and where it is shown.

A and B: fokker_planck.md, mathematics and code; C: langevin.md. Each test shows the number of the
published form, the truth, and ours. `test_audit.py` checks that every number has a row and every
test exists.
"""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """One finding."""

    number: str
    what: str
    tests: tuple[str, ...]
    untested: str = ""


_ENGINE = "tests/simulators/test_engine_formulas.py::"
_CLAIMS = "tests/simulators/test_published_formulas.py::"
_SYSTEM = "tests/simulators/test_published_fokker_planck.py::"
_CORRECTED = "tests/simulators/test_corrected_fokker_planck.py::"
_DENSITY = "tests/published/test_fokker_planck_density.py::"
_SERIES = "tests/published/test_fokker_planck.py::"
_REST = "tests/published/test_audit_rest.py::"
_LANGEVIN = "tests/published/test_langevin.py::"
_HARMONIC = "tests/simulators/test_harmonic.py::"

ROWS = (
    Row(
        "A1",
        "div(D grad rho) is the equation of the Itô SDE for constant D only",
        (
            _ENGINE + "test_a1_fickian_diffusion_needs_div_d_in_the_drift",
            "tests/simulators/test_dynamics.py::test_t5_state_dependent_diffusion_on_the_ring",
            "tests/simulators/test_grid_entropy.py::test_t5_the_three_conventions_of_a_varying_diffusion",
        ),
    ),
    Row(
        "A2",
        "D ~ Sigma/B lacks the learning rate",
        (_ENGINE + "test_a2_diffusion_of_sgd_has_the_learning_rate_in_it",),
    ),
    Row(
        "A3",
        "the Fisher estimate is empirical, shared by all particles and of another scale",
        (
            _ENGINE
            + "test_a3_fisher_from_the_data_vanishes_at_a_perfect_fit_and_has_another_scale",
            "tests/simulators/test_diffusion.py::test_t6_fisher_of_a_linear_decoder_is_exact",
        ),
    ),
    Row(
        "A4",
        "one target for all particles pulls them to the mean of the data",
        (_ENGINE + "test_a4_a_shared_target_pulls_every_particle_to_the_mean_of_the_data",),
    ),
    Row(
        "A5",
        "the entropy gradient has the wrong form, sign and unit",
        (
            _ENGINE + "test_a5_entropy_term_spreads_the_cloud_and_does_not_contract_it",
            _ENGINE + "test_t12_entropy_sign_stationary_variance_of_ou_has_the_weight_added",
            _DENSITY + "test_entropy_gradient_code_fp",
            _DENSITY + "test_entropy_gradient_text_fp",
            _HARMONIC + "test_the_entropy_term_adds_to_the_temperature",
        ),
    ),
    Row(
        "A6",
        "lambda = beta/eta does not keep the ratio of entropy to loss",
        (_ENGINE + "test_a6_beta_over_eta_does_not_keep_the_ratio_of_entropy_to_loss_constant",),
    ),
    Row(
        "A7",
        "theorem 1 (drift-entropy coupling) is violated",
        (
            _CLAIMS + "test_a7_drift_entropy_bound_is_violated",
            _CLAIMS + "test_a7_entropy_rate_identity_holds_on_a_grid",
        ),
    ),
    Row(
        "A8",
        "proposition 2: no upper bound on gamma is needed",
        (
            _CLAIMS + "test_a8_every_positive_gamma_keeps_the_diffusion_positive",
            "tests/simulators/test_diffusion.py"
            "::test_a8_a_positive_gamma_is_never_too_large_and_a_negative_one_can_be",
        ),
    ),
    Row(
        "A9",
        "theorem 3 (exploration radius) turns Jensen round, and fails under drift",
        (
            _CLAIMS + "test_a9_exploration_radius_fails_for_free_diffusion",
            _CLAIMS + "test_a9_exploration_radius_fails_under_drift",
        ),
    ),
    Row(
        "A10",
        "T_eff is a length; the published drift and diffusion have no detailed balance",
        (
            _CLAIMS + "test_a10_effective_temperature_depends_on_the_unit_and_is_not_d_over_eta",
            _ENGINE + "test_t3_lyapunov_matrix_noise_with_plain_descent_has_a_current",
            _DENSITY + "test_t_eff_fp",
            "tests/simulators/test_exact_linear.py::test_a10_lyapunov_covariance_and_its_current",
            "tests/simulators/test_grid_plane.py::test_a10_lyapunov_entropy_production_on_the_grid",
        ),
    ),
    Row(
        "A11",
        "the annealing freezes; at the defaults it is Brownian motion",
        (
            _ENGINE + "test_a11_published_annealing_freezes_and_the_corrected_does_not",
            "tests/simulators/test_named_schedules.py"
            "::test_a11_escapes_under_the_shipped_schedule_never_stop",
            _ENGINE + "test_a11_published_defaults_are_brownian_motion",
        ),
    ),
    Row(
        "A12",
        "theorem 4: the rate is that of the lower curvature, whatever D",
        (
            _CLAIMS + "test_a12_kl_rate_depends_on_the_lower_curvature_only",
            _CLAIMS + "test_a12_lower_curvature_bounds_the_decay_of_a_quartic",
        ),
    ),
    Row(
        "A13",
        "C is a volume, not a number; C = 1 without a current is equilibrium",
        (
            _DENSITY + "test_c_fp",
            _SERIES + "test_regime_fp",
            _CORRECTED + "test_at_equilibrium_ours_reads_one_and_published_reads_rounding",
            "tests/density/test_flow.py"
            "::test_t9_c_and_entropy_production_do_not_depend_on_the_frame",
        ),
    ),
    Row(
        "A14",
        "S_dot is -dH/dt with rho twice, and 0 in a driven steady state",
        (
            _DENSITY + "test_s_dot_fp",
            "tests/simulators/test_exact.py::test_a14_entropy_production_is_not_the_entropy_rate",
            _CLAIMS + "test_a14_a15_entropy_sum_is_the_kl_and_the_published_one_is_not",
        ),
    ),
    Row(
        "A15",
        "int S_dot is no bound on the KL: entropy production adds up to it exactly",
        (
            _CLAIMS + "test_a14_a15_entropy_sum_is_the_kl_and_the_published_one_is_not",
            _CLAIMS + "test_a15_entropy_sum_is_the_kl_in_a_double_well",
        ),
    ),
    Row(
        "A16",
        "div J = 0 is stationarity, driven or not, and no attractor",
        (
            _REST + "test_a16_no_divergence_is_stationarity_and_not_an_attractor",
            "tests/density/test_flux.py::test_a_driven_steady_state_circulates_without_divergence",
        ),
    ),
    Row(
        "A17",
        "W2^2 <= 2 T KL and the mixing time of theorem 5 lack the curvature",
        (
            _CLAIMS + "test_a17_talagrand_needs_the_curvature",
            _CLAIMS + "test_a17_mixing_time_needs_the_rate",
        ),
    ),
    Row(
        "A18",
        "theorem 6: no reset is necessary, and none helps below a CV of 1",
        (
            _REST + "test_a18_four_wells_are_searched_without_a_reset",
            _CLAIMS + "test_a18_no_reset_is_needed_to_reach_the_global_minimum",
            "tests/simulators/test_exact_resets.py"
            "::test_t8_resets_help_exactly_where_the_cv_is_above_one",
            "tests/simulators/test_grid_solvers.py::test_t8_cv_criterion_on_the_grid",
        ),
    ),
    Row(
        "A19",
        "resets: not causal, at every step, rows permuted, 1.1 and not 1.5 times the covariance",
        (
            _SERIES + "test_reset_step_fp",
            _SERIES + "test_reset_steps_fp",
            _SYSTEM + "test_a19_reset_permutes_rows_and_widens_by_half_alpha",
            _SYSTEM + "test_a19_published_epoch_resets_at_every_step_below_the_threshold",
            _ENGINE + "test_a19_published_reset_permutes_rows_and_ours_does_not",
            "tests/simulators/test_resets.py"
            "::test_t8_covariance_after_a_cloud_reset_is_one_plus_half_alpha",
        ),
    ),
    Row(
        "A20",
        "Euler-Maruyama: strong order 1/2, 1 for additive noise; weak order 1",
        (
            _REST + "test_a20_strong_order_of_euler_is_one_half_or_one",
            "tests/simulators/test_sde.py::test_t2_weak_order_in_the_double_well",
        ),
    ),
    Row(
        "A21",
        "empirical W2 has a bias of n^(-1/d)",
        (
            _REST + "test_a21_empirical_w2_sees_a_distance_where_there_is_none",
            "tests/density/test_transport.py::test_two_samples_of_one_law_are_not_resolved",
        ),
    ),
    Row(
        "B1",
        "grad rho is rounding noise, since all particles are shifted; so are C and J's second term",
        (
            _DENSITY + "test_grad_rho_code_fp",
            _DENSITY + "test_j_fp",
            _CORRECTED + "test_at_equilibrium_ours_reads_one_and_published_reads_rounding",
            _SYSTEM + "test_flux_and_entropy_production_are_those_of_the_listing",
            "tests/density/test_score.py"
            "::test_t10_shifting_the_queries_changes_the_score_and_shifting_all_does_not",
        ),
    ),
    Row(
        "B2",
        "the kernel's self term is all of the density from d = 8 on; underflow and nan at d = 128",
        (
            _DENSITY + "test_t12_kde_self_term_of_rho_fp",
            _DENSITY + "test_grad_rho_queries_fp",
            "tests/density/test_score.py::test_t11_no_nan_at_any_dimension_or_bandwidth",
            "tests/simulators/test_particles.py"
            "::test_t11_the_step_needs_no_density_and_so_survives_where_the_published_one_is_nan",
        ),
    ),
    Row(
        "B3",
        "np.diff(n=window) is the tenth difference; look-ahead; off by one",
        (
            _SERIES + "test_t12_np_diff_is_no_plateau_fp",
            _SERIES + "test_transitions_fp",
            "tests/contracts/test_detectors.py::test_causal",
        ),
    ),
    Row(
        "B4",
        "the history has no 'loss', so the detector raises KeyError",
        (_SERIES + "test_b4_published_history_has_no_loss_and_ours_has",),
    ),
    Row(
        "B5",
        "n Cholesky factors of n equal matrices",
        (
            _SYSTEM + "test_b5_tiled_cholesky_factors_are_copies_of_one",
            "tests/simulators/test_particles.py"
            "::test_b5_one_factor_serves_all_particles_of_a_shared_matrix",
        ),
        untested="That `jax.random.KeyArray` is gone and nothing is jitted are facts about "
        "a listing and about JAX, which is no dependency of the tests.",
    ),
    Row(
        "B6",
        "the wrapper divides a parameter norm by a latent one, and reads 1.0 without a gradient",
        (_DENSITY + "test_c_wrapper_fp",),
    ),
    Row(
        "B7",
        "the RLHF monitor: all particles shifted, t = 0 for ever, thresholds with units",
        (
            _DENSITY + "test_div_j_fp",
            _SERIES + "test_alert_fp",
            _REST + "test_b7_the_monitor_reads_its_schedules_at_time_zero_for_ever",
        ),
    ),
    Row(
        "B8",
        "the timings exceed the machine they name by a factor of 28",
        (_REST + "test_b8_the_table_of_timings_exceeds_the_machine_it_names",),
        untested="The other numbers of sections 9 and 13 have no source that could be tested.",
    ),
    Row(
        "C1",
        "the temperature of the chain is D dt/lr, not D",
        (
            _HARMONIC + "test_t12_the_temperature_of_the_published_chain_is_not_its_noise_scale",
            "tests/simulators/test_exact_linear.py"
            "::test_c1_chain_variance_is_the_fixed_point_of_its_recursion",
            "tests/simulators/test_exact_linear.py"
            "::test_c1_the_temperature_of_langevins_chain_is_d_dt_over_lr",
        ),
    ),
    Row(
        "C2",
        "the boosted noise is never restored",
        ("tests/simulators/test_noise_control.py::test_t12_adaptive_noise_is_restored",),
    ),
    Row(
        "C3",
        "Kramers' rate lacks the curvature of the barrier; the barrier is no difference of losses",
        (
            _CLAIMS + "test_c3_published_kramers_rate_lacks_the_barrier_curvature",
            "tests/simulators/test_barrier.py::test_c3_a_barrier_is_no_difference_of_losses",
            _LANGEVIN + "test_kramers_rate_langevin",
            _LANGEVIN + "test_escape_time_langevin",
        ),
    ),
    Row(
        "C4",
        "theorem 1 (uncertainty) fails out of equilibrium",
        (
            _CLAIMS + "test_c4_uncertainty_relation_fails_out_of_equilibrium",
            _LANGEVIN + "test_uncertainty_bound_langevin",
        ),
    ),
    Row(
        "C5",
        "theorem 4: the floor has the wrong unit and is violated by a parabola",
        (
            _CLAIMS + "test_c5_convergence_floor_is_violated_by_a_parabola",
            _CLAIMS + "test_c5_convergence_bound_holds_in_a_quartic",
            _LANGEVIN + "test_error_bound_langevin",
        ),
    ),
    Row(
        "C6",
        "C has the unit of a rate",
        (
            "tests/simulators/test_consolidation_ratio.py"
            "::test_c6_the_published_ratio_has_a_unit_and_ours_has_none",
            _LANGEVIN + "test_c_langevin",
            _LANGEVIN + "test_regime_langevin",
        ),
    ),
    Row(
        "C7",
        "alpha ~ sqrt(B) does not keep the temperature; alpha_opt and D_eff",
        (
            _CLAIMS + "test_c7_square_root_scaling_does_not_keep_the_temperature",
            _HARMONIC + "test_c7_a_constant_temperature_needs_a_rate_in_proportion_to_the_batch",
            _LANGEVIN + "test_alpha_opt_langevin",
            _LANGEVIN + "test_d_eff_langevin",
        ),
    ),
    Row(
        "C8",
        "D = variance(theta)/T reads D/3 or 0",
        (
            _HARMONIC + "test_c8_diffusion_is_read_from_increments_and_not_from_the_spread",
            _LANGEVIN + "test_d_parameters_langevin",
        ),
    ),
    Row(
        "C9",
        "the rules contradict each other",
        (
            _HARMONIC + "test_c9_the_published_rules_contradict_each_other",
            _LANGEVIN + "test_adaptive_lr_langevin",
        ),
    ),
    Row(
        "C10",
        "one D is not exact for SGD: its noise has a shape",
        (_REST + "test_c10_sgd_is_no_langevin_dynamics_with_one_temperature",),
        untested="The numbers of the section on experiments have no data behind them.",
    ),
)
