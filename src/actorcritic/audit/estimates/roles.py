"""What estimators are given, and what people call it.

Names are read ever more loosely: a plural, and what stands before or after, need no name of
their own.
"""

from __future__ import annotations


def _named(**names: str) -> dict[str, tuple[str, ...]]:
    return {role: tuple(words.split()) for role, words in names.items()}


ROLES = _named(
    rewards="rews r_t",
    last_value="last_val bootstrap_value bootstrap final_value v_last last_v value_last "
    "bootstrap_v final_v",
    values="vals v_t value_preds v_preds state_values baseline critic_values value_estimates",
    next_values="next_val values_next value_next v_next v_tp1 values_tp1 next_state_values "
    "next_v_s v_t",
    dones="d ends episode_ends is_done done_flags done_mask end_flag finished",
    terminated="terminations terminals term is_terminal",
    truncated="truncations trunc timeout time_limits is_truncated",
    masks="not_done nonterminal continues continuations cont alive done_masks",
    discounts="discount_t",
    episode_starts="starts is_first firsts start_flags",
    last_done="next_dones final_done next_terminal last_terminated",
    gamma="discount discount_factor g discount_rate",
    lam="lambda lmbda lambd lamda gae_lambda gae_lam tau lambda_gae td_lambda trace_decay "
    "gae_lmbda gae_tau",
    num_steps="n_steps horizon steps buffer_size rollout_length num_rollout_steps length",
    num_envs="n_envs batch_size",
    advantages="advs",
    returns="rets targets value_targets returns_to_go",
)
# Of returns, n_steps is the n of the n-step return; of advantages it is the length of the batch.
N_ROLES = {role: names for role, names in ROLES.items() if role != "num_steps"} | _named(
    n="nsteps num_steps", num_steps="horizon buffer_size rollout_length length"
)
VTRACE_ROLES = {
    role: names for role, names in ROLES.items() if role not in ("advantages", "returns")
} | _named(
    log_ratio="log_rho log_is log_importance_weights",
    ratio="rho_t importance_weights is_ratios is_weights",
    target_log_prob="log_probs log_pi pi_log_prob target_action_log_probs new_log_probs logp "
    "learner_log_probs",
    behaviour_log_prob="old_log_probs log_mu mu_log_prob behavior_log_prob actor_log_probs "
    "behaviour_action_log_probs behavior_action_log_probs logp_old old_logp",
    rho_clip="clip_rho clip_rho_threshold rho_bar rho_max max_rho rho_threshold",
    c_clip="clip_c_threshold c_bar c_max max_c clip_cs c_threshold clip_cs_threshold",
    pg_rho_clip="clip_pg_rho clip_pg_rho_threshold pg_rho_bar",
)
OUTPUTS = _named(
    advantages="advs pg_advantages gae deltas",
    returns="rets value_targets returns_to_go vs v_target lambda_returns target",
)
