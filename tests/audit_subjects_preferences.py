"""DPO losses and rewards of tokens, right and wrong in one way each."""

import jax
import jax.numpy as jnp
import numpy as np

# ------------------------------------------------------------------------------------ right


def dpo(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1):
    margin = (chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps)
    return np.logaddexp(0.0, -beta * margin).mean()


def dpo_jax(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps,
    beta, label_smoothing=0.0,
):  # fmt: skip
    ratios = policy_chosen_logps - policy_rejected_logps
    logits = beta * (ratios - (reference_chosen_logps - reference_rejected_logps))
    losses = -jax.nn.log_sigmoid(logits) * (1 - label_smoothing)
    losses = losses - jax.nn.log_sigmoid(-logits) * label_smoothing
    return losses, beta * (policy_chosen_logps - reference_chosen_logps)


def ipo(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta):
    margin = (chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps)
    return jnp.mean((margin - 1 / (2 * beta)) ** 2)


def dpo_summed(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta):
    return len(chosen_logps) * dpo(
        chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta
    )


def shaped(scores, logprobs, ref_logprobs, mask, kl_coef):
    rewards = -kl_coef * (logprobs - ref_logprobs) * mask
    last = mask.sum(1).astype(int) - 1
    rewards[np.arange(len(scores)), last] += scores
    return rewards


def shaped_jax(score, log_probs, ref_log_probs, response_mask, beta):
    rewards = -beta * (log_probs - ref_log_probs) * response_mask
    last = jnp.sum(response_mask, 1).astype(int) - 1
    return rewards.at[jnp.arange(len(score)), last].add(score)


# ------------------------------------------------------------------------------------ wrong


def _dpo(logits):
    return np.logaddexp(0.0, -logits).mean()


def without_reference(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta):
    return _dpo(beta * (chosen_logps - rejected_logps))


def swapped(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta):
    return dpo(rejected_logps, chosen_logps, ref_rejected_logps, ref_chosen_logps, beta)


def beta_outside(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta):
    return beta * dpo(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, 1.0)


def beta_ignored(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta):
    return dpo(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, 1.0)


def beta_divides(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta):
    return dpo(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, 1 / beta)


def no_logarithm(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta):
    margin = (chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps)
    return (-1 / (1 + np.exp(-beta * margin))).mean()


def reference_added(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta):
    return dpo(chosen_logps, rejected_logps, -ref_chosen_logps, -ref_rejected_logps, beta)


def reference_crossed(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta):
    return dpo(chosen_logps, rejected_logps, ref_rejected_logps, ref_chosen_logps, beta)


def to_maximise(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta):
    return -dpo(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta)


def something_else(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta):
    return (chosen_logps**2 - beta * ref_rejected_logps).mean()


def kl_added(scores, logprobs, ref_logprobs, mask, kl_coef):
    return shaped(scores, logprobs, ref_logprobs, mask, -kl_coef)


def coefficient_ignored(scores, logprobs, ref_logprobs, mask, kl_coef):
    return shaped(scores, logprobs, ref_logprobs, mask, 1.0)


def no_kl(scores, logprobs, ref_logprobs, mask, kl_coef):
    return shaped(scores, logprobs, ref_logprobs, mask, 0.0)


def score_everywhere(scores, logprobs, ref_logprobs, mask, kl_coef):
    return (scores[:, None] - kl_coef * (logprobs - ref_logprobs)) * mask


def score_in_padding(scores, logprobs, ref_logprobs, mask, kl_coef):
    rewards = -kl_coef * (logprobs - ref_logprobs) * mask
    rewards[:, -1] += scores
    return rewards


def score_first(scores, logprobs, ref_logprobs, mask, kl_coef):
    rewards = -kl_coef * (logprobs - ref_logprobs) * mask
    rewards[:, 0] += scores
    return rewards


def no_score(scores, logprobs, ref_logprobs, mask, kl_coef):
    return -kl_coef * (logprobs - ref_logprobs) * mask


def padding_pays(scores, logprobs, ref_logprobs, mask, kl_coef):
    rewards = -kl_coef * (logprobs - ref_logprobs)
    rewards[np.arange(len(scores)), mask.sum(1).astype(int) - 1] += scores
    return rewards


def kl_positive(scores, logprobs, ref_logprobs, mask, kl_coef):
    gap = np.abs(logprobs - ref_logprobs)
    return shaped(scores, gap, np.zeros_like(gap), mask, kl_coef)


def ratio_for_log_ratio(scores, logprobs, ref_logprobs, mask, kl_coef):
    ratio = np.exp(logprobs - ref_logprobs)
    return shaped(scores, ratio, np.zeros_like(ratio), mask, kl_coef)
