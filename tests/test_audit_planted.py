"""The errors that the audit promises to find, each by a named check; docs/audit.md lists them."""

import re
from pathlib import Path

import audit_subjects_estimates as estimates
import audit_subjects_losses as losses
import audit_subjects_preferences as preferences
import audit_subjects_rollouts as rollouts
import jax
import pytest

from actorcritic import audit

PAGE = Path(__file__).parents[1] / "docs" / "audit.md"

# What is wrong; the kind of audit; functions that have it; the check that names it.
PLANTED = [
    (
        "truncation zeroes the bootstrap",
        "advantages",
        ["truncation_zeroes"],
        "truncation-bootstraps",
    ),
    (
        "termination bootstraps",
        "advantages",
        ["termination_bootstraps"],
        "termination-drops-bootstrap",
    ),
    (
        "bootstrap from the observation after a reset",
        "advantages",
        ["reset_observation"],
        "bootstrap-from-true-successor",
    ),
    ("done flag shifted by one", "advantages", ["done_late", "done_early"], "done-flag-aligned"),
    ("trace not cut at truncation", "advantages", ["leaking_trace"], "trace-cut-at-episode-end"),
    (
        "λ omitted, or applied twice",
        "advantages",
        ["no_lambda", "lambda_twice"],
        "lambda-applied-once",
    ),
    (
        "γ missing on the bootstrap",
        "advantages",
        ["bootstrap_not_discounted"],
        "bootstrap-discounted",
    ),
    ("last bootstrap doubled", "advantages", ["last_doubled"], "last-bootstrap-once"),
    ("last bootstrap dropped", "advantages", ["last_dropped"], "last-bootstrap-used"),
    ("time and environment axes swapped", "advantages", ["axes_swapped"], "time-axis"),
    ("returns without + V", "advantages", ["returns_without_value"], "returns-include-value"),
    (
        "the advantage's gradient reaches the critic",
        "actor_loss",
        ["actor_advantage_leaks"],
        "advantage-detached",
    ),
    ("critic target not detached", "critic_loss", ["critic_target_leaks"], "target-detached"),
    ("entropy sign", "actor_loss", ["actor_entropy_sign"], "entropy-sign"),
    ("surrogate with max for min", "ppo_loss", ["ppo_max_for_min"], "surrogate-min"),
    ("ratio inverted", "ppo_loss", ["ppo_ratio_inverted"], "ratio-direction"),
    ("value clip with min", "critic_loss", ["critic_clip_takes_the_smaller"], "value-clip"),
    (
        "normalisation over the wrong axis",
        "advantages",
        ["normalised_by_environment", "normalised_by_time"],
        "normalisation-axis",
    ),
    (
        "normalisation undefined for one element",
        "advantages",
        ["nan_for_one"],
        "normalisation-of-one-element",
    ),
    ("(B,) × (B, 1) broadcast", "critic_loss", ["critic_broadcast"], "broadcast"),
    ("tanh Jacobian missing", "distribution", ["squashed_without_jacobian"], "tanh-jacobian"),
    ("action scale missing", "distribution", ["squashed_without_scale"], "action-scale"),
    (
        "log-probability averaged over dimensions",
        "distribution",
        ["gaussian_averaged"],
        "dimensions-summed",
    ),
    (
        "clipped action with the unclipped log-probability",
        "distribution",
        ["sample_clipped"],
        "clipped-action",
    ),
    (
        "clipped action stored with the unclipped log-probability",
        "rollout",
        ["clipped_action_stored"],
        "action-as-drawn",
    ),
    ("KL term detached", "ppo_loss", ["ppo_kl_detached"], "kl-gradient"),
    ("the k1 estimator used as a loss", "ppo_loss", ["ppo_kl_by_k1"], "kl-estimator"),
    ("V-trace's ρ and c clips swapped", "vtrace", ["clips_swapped"], "rho-and-c-clips"),
    ("reset rows kept", "rollout", ["reset_rows_kept"], "reset-rows-dropped"),
    ("aliased observations", "rollout", ["aliased"], "observations-copied"),
    ("environments seeded alike", "rollout", ["seeded_alike"], "environments-seeded-apart"),
    ("reference left out of DPO's loss", "dpo_loss", ["without_reference"], "reference-used"),
    ("DPO's reference added, or swapped", "dpo_loss", ["reference_added"], "reference-subtracted"),
    ("chosen and rejected swapped", "dpo_loss", ["swapped"], "chosen-over-rejected"),
    ("β outside of the sigmoid", "dpo_loss", ["beta_outside"], "beta-in-the-margin"),
    ("σ in the place of log σ", "dpo_loss", ["no_logarithm"], "log-of-sigmoid"),
    ("DPO's loss to be maximised", "dpo_loss", ["to_maximise"], "loss-to-minimise"),
    ("the KL of a token is paid for", "token_rewards", ["kl_added"], "kl-is-a-cost"),
    (
        "β left out of a token's reward",
        "token_rewards",
        ["coefficient_ignored"],
        "kl-coefficient-used",
    ),
    ("no token pays for its KL", "token_rewards", ["no_kl"], "kl-used"),
    ("another number than the log-ratio", "token_rewards", ["kl_positive"], "kl-estimate"),
    ("the score lies in padding", "token_rewards", ["score_in_padding"], "score-at-the-end"),
    ("the score is left out", "token_rewards", ["no_score"], "score-used"),
    ("padding has a KL", "token_rewards", ["padding_pays"], "padding-left-out"),
]


def subject(kind, name):
    if kind in ("advantages", "vtrace"):
        return getattr(estimates, name)
    if kind in ("dpo_loss", "token_rewards"):
        return getattr(preferences, name)
    return getattr(rollouts if kind == "rollout" else losses, name)


@pytest.mark.parametrize(("error", "kind", "names", "check"), PLANTED, ids=[p[0] for p in PLANTED])
@pytest.mark.long
def test_found_by_its_check_and_no_other(error, kind, names, check):
    for name in names:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            report = getattr(audit, kind)(subject(kind, name))
        assert [found.check for found in report.findings] == [check], str(report)


def test_the_page_lists_them():
    rows = re.findall(r"^\| (.+?) \| `(.+?)` \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == [(error, check) for error, _, _, check in PLANTED]
