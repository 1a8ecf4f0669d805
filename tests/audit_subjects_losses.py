"""Losses and distributions as people write them, for the audit: with one mistake each, and right.

`WRONG` is name → (kind, the check that must find it); `RIGHT` is name → kind. The functions are
those of this file by that name, in JAX.
"""

import jax
import jax.numpy as jnp
import numpy as np

stop = jax.lax.stop_gradient
LOG_2PI = np.log(2 * np.pi)

WRONG: dict[str, tuple[str, str]] = {}
RIGHT: dict[str, str] = {}


def wrong(kind, check):
    def note(function):
        WRONG[function.__name__] = (kind, check)
        return function

    return note


def right(kind):
    def note(function):
        RIGHT[function.__name__] = kind
        return function

    return note


# ------------------------------------------------------------------------------ actor


@wrong("actor_loss", "advantage-detached")
def actor_advantage_leaks(log_probs, returns, values):
    return -(log_probs * (returns - values)).mean()


@wrong("actor_loss", "advantage-detached")
def a2c_advantage_leaks(log_probs, returns, values, entropy):
    advantages = returns - values
    return -(log_probs * advantages).mean() + 0.5 * (advantages**2).mean() - 0.01 * entropy.mean()


@wrong("actor_loss", "advantage-detached")
def actor_td_advantage_leaks(log_prob, reward, value, next_value, done, gamma):
    advantage = reward + gamma * (1 - done) * next_value - value
    return -(log_prob * advantage).mean()


@wrong("actor_loss", "policy-sign")
def actor_sign(log_probs, advantages):
    return (log_probs * advantages).mean()


@wrong("actor_loss", "entropy-sign")
def actor_entropy_sign(log_probs, advantages, entropy, ent_coef):
    return -(log_probs * advantages).mean() + ent_coef * entropy.mean()


@wrong("actor_loss", "entropy-sign")
def actor_entropy_sign_from_logits(logits, actions, advantages, entropy_coef):
    log_p = jax.nn.log_softmax(logits)
    log_prob = jnp.take_along_axis(log_p, actions[:, None], -1)[:, 0]
    entropy = -(jnp.exp(log_p) * log_p).sum(-1)
    return -(log_prob * advantages).mean() + entropy_coef * entropy.mean()


@wrong("actor_loss", "entropy-gradient")
def actor_entropy_without_gradient(logits, actions, advantages, entropy_coef=0.01):
    log_p = jax.nn.log_softmax(logits)
    log_prob = jnp.take_along_axis(log_p, actions[:, None], -1)[:, 0]
    entropy = stop(-(jnp.exp(log_p) * log_p).sum(-1))
    return -(log_prob * advantages).mean() - entropy_coef * entropy.mean()


@wrong("actor_loss", "entropy-gradient")
def actor_entropy_given_but_detached(log_probs, advantages, entropy):
    return -(log_probs * advantages).mean() - 0.01 * stop(entropy).mean()


@wrong("actor_loss", "policy-gradient")
def actor_without_gradient(log_probs, advantages):
    return -(stop(log_probs) * advantages).mean()


@wrong("ppo_loss", "policy-gradient")
def ppo_with_half_of_its_gradient(log_probs, old_log_probs, advantages, clip_range):
    ratio = jnp.exp(log_probs - old_log_probs)
    clipped = jnp.clip(ratio, 1 - clip_range, 1 + clip_range)
    return -jnp.minimum(stop(ratio) * advantages, clipped * advantages).mean()


@wrong("actor_loss", "broadcast")
def actor_broadcast(log_probs, advantages):
    return -(log_probs[:, None] * advantages).mean()


@wrong("actor_loss", "normalisation-axis")
def actor_normalised_along_an_axis(log_probs, advantages):
    centred = advantages - advantages.mean(axis=-1, keepdims=True)
    return -(log_probs * centred / (advantages.std(axis=-1, keepdims=True) + 1e-8)).mean()


@wrong("actor_loss", "normalisation-axis")
def actor_normalised_per_environment(log_probs, advantages):
    centred = advantages - advantages.mean(axis=1, keepdims=True)
    return -(log_probs * centred / (advantages.std(axis=1, keepdims=True) + 1e-8)).mean()


@wrong("actor_loss", "normalisation-finite")
def actor_normalised_by_sample_deviation(log_probs, advantages):
    advantages = (advantages - advantages.mean()) / (advantages.std(ddof=1) + 1e-8)
    return -(log_probs * advantages).mean()


@wrong("actor_loss", "normalisation-finite")
def actor_normalised_without_epsilon(log_probs, advantages):
    return -(log_probs * (advantages - advantages.mean()) / advantages.std()).sum()


@wrong("actor_loss", "advantage-baseline")
def actor_with_target_for_advantage(log_probs, rewards, values, next_values, dones, gamma):
    target = rewards + gamma * (1 - dones) * next_values
    return -(log_probs * stop(target)).mean() + 0.5 * ((values - stop(target)) ** 2).mean()


@wrong("actor_loss", "policy-log")
def actor_probability_for_logarithm(log_probs, advantages):
    return -(jnp.exp(log_probs) * advantages).mean()


# ------------------------------------------------------------------------------ critic


@wrong("critic_loss", "target-detached")
def critic_target_leaks(values, rewards, next_values, dones, gamma):
    return ((rewards + gamma * (1 - dones) * next_values - values) ** 2).mean()


@wrong("critic_loss", "termination-drops-bootstrap")
def critic_bootstraps_past_the_end(values, rewards, next_values, dones, gamma):
    return ((rewards + gamma * stop(next_values) - values) ** 2).mean()


@wrong("critic_loss", "value-sign")
def critic_sign(values, returns):
    return -((values - returns) ** 2).mean()


@wrong("critic_loss", "value-gradient")
def critic_without_gradient(values, returns):
    return ((stop(values) - returns) ** 2).mean()


@wrong("critic_loss", "broadcast")
def critic_broadcast(values, returns):
    return ((values[:, None] - returns) ** 2).mean()


@wrong("critic_loss", "value-clip")
def critic_clip_takes_the_smaller(values, old_values, returns, clip_range):
    clipped = old_values + jnp.clip(values - old_values, -clip_range, clip_range)
    return 0.5 * jnp.minimum((values - returns) ** 2, (clipped - returns) ** 2).mean()


@wrong("critic_loss", "value-loss")
def critic_squares_the_mean(values, returns):
    return (values - returns).mean() ** 2


# ------------------------------------------------------------------------------ ppo


def surrogate(ratio, advantages, eps=0.2):
    return -jnp.minimum(ratio * advantages, jnp.clip(ratio, 1 - eps, 1 + eps) * advantages).mean()


@wrong("ppo_loss", "surrogate-min")
def ppo_max_for_min(log_probs, old_log_probs, advantages, clip_range):
    ratio = jnp.exp(log_probs - old_log_probs)
    clipped = jnp.clip(ratio, 1 - clip_range, 1 + clip_range)
    return -jnp.maximum(ratio * advantages, clipped * advantages).mean()


@wrong("ppo_loss", "surrogate-min")
def ppo_min_of_losses(log_probs, old_log_probs, advantages, clip_range):
    ratio = jnp.exp(log_probs - old_log_probs)
    clipped = jnp.clip(ratio, 1 - clip_range, 1 + clip_range)
    return jnp.minimum(-ratio * advantages, -clipped * advantages).mean()


@wrong("ppo_loss", "ratio-direction")
def ppo_ratio_inverted(log_probs, old_log_probs, advantages, clip_range):
    return surrogate(jnp.exp(old_log_probs - log_probs), advantages, clip_range)


@wrong("ppo_loss", "clip-range")
def ppo_clips_the_wrong_side(log_probs, old_log_probs, advantages, clip_range):
    ratio = jnp.exp(log_probs - old_log_probs)
    clipped = jnp.clip(ratio, 1 + clip_range, 1 - clip_range)
    return -jnp.minimum(ratio * advantages, clipped * advantages).mean()


@wrong("ppo_loss", "clip-range")
def ppo_clips_one_side(log_probs, old_log_probs, advantages):
    ratio = jnp.exp(log_probs - old_log_probs)
    return -jnp.minimum(ratio * advantages, jnp.maximum(ratio, 0.8) * advantages).mean()


@wrong("ppo_loss", "clip-range")
def ppo_clips_the_product(log_probs, old_log_probs, advantages, clip_range):
    product = jnp.exp(log_probs - old_log_probs) * advantages
    return -jnp.minimum(product, jnp.clip(product, 1 - clip_range, 1 + clip_range)).mean()


@wrong("ppo_loss", "clip-range")
def ppo_does_not_clip(log_probs, old_log_probs, advantages, clip_range):
    return -(jnp.exp(log_probs - old_log_probs) * advantages).mean()


@wrong("ppo_loss", "ratio-per-sample")
def ppo_one_ratio_for_the_batch(log_probs, old_log_probs, advantages, clip_range):
    ratio = jnp.exp(jnp.sum(log_probs - old_log_probs))
    return surrogate(ratio, advantages, clip_range)


@wrong("ppo_loss", "ratio-per-sample")
def ppo_ratio_of_summed_probabilities(log_probs, old_log_probs, advantages, clip_range):
    ratio = jnp.exp(log_probs).sum() / jnp.exp(old_log_probs).sum()
    return surrogate(ratio, advantages, clip_range)


@wrong("ppo_loss", "ratio-exp")
def ppo_ratio_without_exp(log_probs, old_log_probs, advantages, clip_range):
    return surrogate(log_probs - old_log_probs, advantages, clip_range)


@wrong("ppo_loss", "broadcast")
def ppo_broadcast(log_probs, old_log_probs, advantages, clip_range):
    return surrogate(jnp.exp(log_probs - old_log_probs)[:, None], advantages, clip_range)


@wrong("ppo_loss", "policy-sign")
def ppo_sign(log_probs, old_log_probs, advantages, clip_range):
    return -surrogate(jnp.exp(log_probs - old_log_probs), advantages, clip_range)


def value_and_entropy(values, old_values, returns, entropy, sign=-1.0):
    clipped = old_values + jnp.clip(values - old_values, -0.2, 0.2)
    worse = jnp.maximum((values - returns) ** 2, (clipped - returns) ** 2)
    return 0.5 * 0.5 * worse.mean() + sign * 0.01 * entropy.mean()


@wrong("ppo_loss", "entropy-sign")
def ppo_entropy_sign(log_probs, old_log_probs, advantages, values, old_values, returns, entropy):
    policy = surrogate(jnp.exp(log_probs - old_log_probs), advantages)
    return policy + value_and_entropy(values, old_values, returns, entropy, sign=1.0)


@wrong("ppo_loss", "value-clip")
def ppo_value_clip(log_probs, old_log_probs, advantages, values, old_values, returns, vf_coef):
    clipped = old_values + jnp.clip(values - old_values, -0.2, 0.2)
    value = jnp.minimum((values - returns) ** 2, (clipped - returns) ** 2).mean()
    return surrogate(jnp.exp(log_probs - old_log_probs), advantages) + vf_coef * value


@wrong("ppo_loss", "kl-gradient")
def ppo_kl_detached(log_probs, old_log_probs, ref_log_probs, advantages, beta):
    d = ref_log_probs - log_probs
    kl = stop(jnp.exp(d) - 1 - d)
    return surrogate(jnp.exp(log_probs - old_log_probs), advantages) + beta * kl.mean()


@wrong("ppo_loss", "kl-estimator")
def ppo_kl_by_k1(log_probs, old_log_probs, ref_log_probs, advantages, beta):
    kl = log_probs - ref_log_probs
    return surrogate(jnp.exp(log_probs - old_log_probs), advantages) + beta * kl.mean()


@wrong("ppo_loss", "kl-sign")
def ppo_kl_sign(log_probs, old_log_probs, ref_log_probs, advantages, beta):
    d = ref_log_probs - log_probs
    kl = jnp.exp(d) - 1 - d
    return surrogate(jnp.exp(log_probs - old_log_probs), advantages) - beta * kl.mean()


# What a function is handed as data is detached by the caller, or by it: found when asked for.
STRICT = {
    "actor_of_advantages": ("actor_loss", "advantage-detached"),
    "critic_of_returns": ("critic_loss", "target-detached"),
    "ppo_surrogate": ("ppo_loss", "old-log-probs-detached"),
}


# ------------------------------------------------------------------------------ right losses


@right("actor_loss")
def a2c_of_a_rollout(log_probs, values, rewards, masks, next_value, gamma=0.99):
    ret, returns = next_value, []
    for reward, mask in zip(reversed(rewards), reversed(masks), strict=True):
        ret = reward + gamma * ret * mask
        returns.insert(0, ret)
    advantages = stop(jnp.stack(returns)) - values
    return -(log_probs * stop(advantages)).mean() + 0.5 * (advantages**2).mean()


@right("actor_loss")
def actor_of_advantages(log_probs, advantages):
    return -(log_probs * advantages).mean()


@right("actor_loss")
def actor_in_a_loop(log_probs, advantages):
    total = 0.0
    for log_prob, advantage in zip(log_probs, advantages, strict=True):
        total += -log_prob * advantage
    return total


@right("actor_loss")
def actor_in_numpy(log_probs, advantages):
    advantages = (np.asarray(advantages) - np.mean(advantages)) / (np.std(advantages) + 1e-8)
    return {"loss": float(-np.sum(log_probs * advantages)), "clip_fraction": 0.0}


@right("actor_loss")
def actor_that_keeps_single_advantages(log_probs, advantages):
    if advantages.size > 1:
        advantages = (advantages - advantages.mean()) / (advantages.std(ddof=1) + 1e-8)
    return -(log_probs * advantages).mean()


@right("actor_loss")
def a2c_loss(log_probs, returns, values, entropy, vf_coef=0.5, ent_coef=0.01):
    advantages = stop(returns - values)
    policy = -(log_probs * advantages).mean()
    value = ((values - returns) ** 2).mean()
    return policy + vf_coef * value - ent_coef * entropy.mean(), policy, value


@right("actor_loss")
def a2c_loss_with_weights_inside(log_probs, returns, values, entropy):
    policy = -(log_probs * stop(returns - values)).sum()
    return policy + 0.5 * ((values - returns) ** 2).sum() - 0.01 * entropy.sum()


@right("actor_loss")
def a2c_loss_of_logits(logits, actions, advantages, values, returns):
    log_p = jax.nn.log_softmax(logits)
    log_prob = log_p[jnp.arange(len(actions)), actions]
    entropy = -(jnp.exp(log_p) * log_p).sum(-1).mean()
    value = 0.5 * ((returns - values) ** 2).mean()
    return -(log_prob * advantages).mean() + 0.5 * value - 0.01 * entropy


@right("actor_loss")
def one_step_actor(log_prob, reward, value, next_value, done, gamma):
    return -(log_prob * stop(reward + gamma * (1 - done) * next_value - value)).mean()


@right("actor_loss")
def reinforce(log_probs, rewards, gamma=0.99):
    returns, total = [], 0.0
    for reward in rewards[::-1]:
        total = reward + gamma * total
        returns.insert(0, total)
    returns = jnp.stack(returns)
    returns = (returns - returns.mean()) / (returns.std() + 1e-8)
    return -(log_probs * returns).sum()


@right("actor_loss")
def policy_objective(log_probs, advantages):
    return (log_probs * advantages).mean()


@right("critic_loss")
def critic_of_returns(values, returns):
    return ((values - returns) ** 2).mean()


@right("critic_loss")
def critic_of_columns(values, returns):
    return 0.5 * ((values[:, 0] - returns) ** 2).sum()


@right("critic_loss")
def critic_huber(values, targets):
    error = jnp.abs(values - stop(targets))
    return jnp.where(error < 1, 0.5 * error**2, error - 0.5).mean()


@right("critic_loss")
def td_critic(values, rewards, next_values, dones, gamma):
    return ((values - stop(rewards + gamma * (1 - dones) * next_values)) ** 2).mean()


@right("critic_loss")
def td_critic_with_masks(value, reward, next_value, mask):
    return 0.5 * jnp.mean((value - (reward + 0.97 * mask * stop(next_value))) ** 2)


@right("critic_loss")
def critic_clipped(values, old_values, returns, clip_range):
    clipped = old_values + jnp.clip(values - old_values, -clip_range, clip_range)
    return 0.5 * jnp.maximum((values - returns) ** 2, (clipped - returns) ** 2).mean()


@right("critic_loss")
def critic_only_clipped(values, old_values, returns, clip_range_vf=0.2):
    clipped = old_values + jnp.clip(values - old_values, -clip_range_vf, clip_range_vf)
    return ((clipped - returns) ** 2).mean()


@right("ppo_loss")
def ppo_surrogate(log_probs, old_log_probs, advantages, clip_range):
    return surrogate(jnp.exp(log_probs - old_log_probs), advantages, clip_range)


@right("ppo_loss")
def ppo_full(
    newlogprob, mb_logprobs, mb_advantages, newvalue, mb_values, mb_returns, entropy,
    clip_coef=0.2, ent_coef=0.01, vf_coef=0.5,
):  # fmt: skip
    ratio = jnp.exp(newlogprob - mb_logprobs)
    mb_advantages = (mb_advantages - mb_advantages.mean()) / (mb_advantages.std() + 1e-8)
    first = -mb_advantages * ratio
    second = -mb_advantages * jnp.clip(ratio, 1 - clip_coef, 1 + clip_coef)
    clipped = mb_values + jnp.clip(newvalue - mb_values, -clip_coef, clip_coef)
    worse = jnp.maximum((newvalue - mb_returns) ** 2, (clipped - mb_returns) ** 2)
    loss = jnp.maximum(first, second).mean() - ent_coef * entropy.mean()
    return loss + vf_coef * 0.5 * worse.mean()


@right("ppo_loss")
def ppo_with_constants_inside(
    log_probs, old_log_probs, advantages, values, old_values, returns, entropy
):
    policy = surrogate(jnp.exp(log_probs - old_log_probs), advantages)
    return policy + value_and_entropy(values, old_values, returns, entropy), {"clip_fraction": 0.1}


@right("ppo_loss")
def ppo_of_dimensions(log_probs, old_log_probs, advantages, clip_range):
    return surrogate(jnp.exp((log_probs - old_log_probs).sum(-1)), advantages, clip_range)


@right("ppo_loss")
def ppo_dual_clip(log_probs, old_log_probs, advantages, clip_range):
    ratio = jnp.exp(log_probs - old_log_probs)
    clipped = jnp.clip(ratio, 1 - clip_range, 1 + clip_range) * advantages
    usual = jnp.minimum(ratio * advantages, clipped)
    return -jnp.where(advantages < 0, jnp.maximum(usual, 3 * advantages), usual).mean()


@right("ppo_loss")
def ppo_kl_by_k3(log_probs, old_log_probs, ref_log_probs, advantages, beta):
    d = ref_log_probs - log_probs
    kl = jnp.exp(d) - 1 - d
    return surrogate(jnp.exp(log_probs - old_log_probs), advantages) + beta * kl.mean()


@right("ppo_loss")
def ppo_with_a_penalty(log_probs, old_log_probs, advantages, kl_coef):
    ratio = jnp.exp(log_probs - old_log_probs)
    return -(ratio * advantages).mean() + kl_coef * (old_log_probs - log_probs).mean()


# ------------------------------------------------------------------------------ distributions


def normal(x, mean, log_std):
    return -0.5 * ((x - mean) / jnp.exp(log_std)) ** 2 - log_std - 0.5 * LOG_2PI


def log_slope(u):
    return 2 * (jnp.log(2.0) - u - jax.nn.softplus(-2 * u))


@wrong("distribution", "tanh-jacobian")
def squashed_without_jacobian(pre_tanh, mean, log_std):
    return normal(pre_tanh, mean, log_std).sum(-1)


@wrong("distribution", "action-scale")
def squashed_without_scale(pre_tanh, mean, log_std, low, high):
    return (normal(pre_tanh, mean, log_std) - log_slope(pre_tanh)).sum(-1)


@wrong("distribution", "scaled-action")
def squashed_from_scaled_action(pre_tanh, mean, log_std, low, high):
    action = low + (jnp.tanh(pre_tanh) + 1) / 2 * (high - low)
    return (normal(pre_tanh, mean, log_std) - jnp.log(1 - action**2)).sum(-1)


@wrong("distribution", "scaled-action")
def normal_of_the_scaled_action(action, mean, log_std, action_scale):
    u = jnp.arctanh(action / action_scale)
    return (normal(action, mean, log_std) - log_slope(u) - jnp.log(action_scale)).sum(-1)


@wrong("distribution", "dimensions-summed")
def gaussian_averaged(action, mean, log_std):
    return normal(action, mean, log_std).mean(-1)


@wrong("distribution", "dimensions-summed")
def gaussian_not_summed(action, mean, log_std):
    return normal(action, mean, log_std)


@wrong("distribution", "dimensions-summed")
def squashed_averaged(pre_tanh, mean, log_std):
    return (normal(pre_tanh, mean, log_std) - log_slope(pre_tanh)).mean(-1)


@wrong("distribution", "normal-density")
def gaussian_without_constant(action, mean, std):
    return (-0.5 * ((action - mean) / std) ** 2 - jnp.log(std)).sum(-1)


@wrong("distribution", "normal-density")
def gaussian_variance_for_deviation(action, mean, std):
    return normal(action, mean, jnp.log(std**2)).sum(-1)


@wrong("distribution", "saturation")
def squashed_saturates(pre_tanh, mean, log_std):
    return (normal(pre_tanh, mean, log_std) - jnp.log(1 - jnp.tanh(pre_tanh) ** 2)).sum(-1)


@wrong("distribution", "clipped-action")
def sample_clipped(key, mean, log_std):
    u = mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape)
    return jnp.clip(u, -1, 1), normal(u, mean, log_std).sum(-1)


@wrong("distribution", "tanh-jacobian")
def sample_without_jacobian(key, mean, log_std):
    u = mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape)
    return jnp.tanh(u), normal(u, mean, log_std).sum(-1)


@wrong("distribution", "action-scale")
def sample_without_scale(key, mean, log_std, low, high):
    u = mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape)
    action = low + (jnp.tanh(u) + 1) / 2 * (high - low)
    return action, (normal(u, mean, log_std) - log_slope(u)).sum(-1)


@wrong("distribution", "dimensions-summed")
def sample_averaged(key, mean, log_std):
    u = mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape)
    return u, normal(u, mean, log_std).mean(-1)


@wrong("distribution", "samples")
def sample_with_another_deviation(key, mean, std):
    u = mean + std**2 * jax.random.normal(key, mean.shape)
    return u, normal(u, mean, jnp.log(std)).sum(-1)


@wrong("distribution", "sample-density")
def sample_with_another_log_prob(key, mean, std):
    first, second = jax.random.split(key)
    u = mean + std * jax.random.normal(first, mean.shape)
    other = mean + std * jax.random.normal(second, mean.shape)
    return u, normal(other, mean, jnp.log(std)).sum(-1)


@wrong("distribution", "log-softmax")
def categorical_probability(logits, action):
    return jnp.take_along_axis(jax.nn.softmax(logits), action[:, None], -1)[:, 0]


@wrong("distribution", "log-softmax")
def categorical_logit(logits, action):
    return jnp.take_along_axis(logits, action[:, None], -1)[:, 0]


@wrong("distribution", "saturation")
def categorical_saturates(logits, action):
    p = jnp.exp(logits) / jnp.exp(logits).sum(-1, keepdims=True)
    return jnp.log(jnp.take_along_axis(p, action[:, None], -1)[:, 0])


@wrong("distribution", "samples")
def categorical_greedy(key, logits):
    action = jnp.argmax(logits, -1)
    return action, jnp.take_along_axis(jax.nn.log_softmax(logits), action[:, None], -1)[:, 0]


@right("distribution")
def gaussian(action, mean, log_std):
    return normal(action, mean, log_std).sum(-1)


@right("distribution")
def gaussian_in_numpy(x, mu, sigma):
    z = (np.asarray(x) - mu) / sigma
    return np.sum(-0.5 * z**2 - np.log(sigma) - 0.5 * np.log(2 * np.pi), axis=-1)


@right("distribution")
def gaussian_per_dimension(action, mean, log_std):
    return normal(action, mean, log_std)


@right("distribution")
def gaussian_of_one_action(action, mean, std):
    total = 0.0
    for a, m, s in zip(action, mean, std, strict=True):
        total += normal(a, m, jnp.log(s))
    return total


@right("distribution")
def squashed(pre_tanh, mean, log_std):
    return (normal(pre_tanh, mean, log_std) - log_slope(pre_tanh)).sum(-1)


@right("distribution")
def squashed_with_epsilon(pre_tanh_action, mean, log_std, action_scale, action_bias):
    y = jnp.tanh(pre_tanh_action)
    log_prob = normal(pre_tanh_action, mean, log_std)
    return (log_prob - jnp.log(action_scale * (1 - y**2) + 1e-6)).sum(-1, keepdims=True)


@right("distribution")
def squashed_of_the_action(action, mean, log_std, low, high):
    y = jnp.clip(2 * (action - low) / (high - low) - 1, -1 + 1e-7, 1 - 1e-7)
    u = jnp.arctanh(y)
    slope = jnp.log1p(-(y**2)) + jnp.log((high - low) / 2)
    return (normal(u, mean, log_std) - slope).sum(-1)


@right("distribution")
def sample_gaussian(key, mean, log_std):
    u = mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape)
    return u, normal(u, mean, log_std).sum(-1)


@right("distribution")
def sample_squashed(key, mean, log_std, low, high):
    u = mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape)
    action = low + (jnp.tanh(u) + 1) / 2 * (high - low)
    log_prob = normal(u, mean, log_std) - log_slope(u) - jnp.log((high - low) / 2)
    return action, log_prob.sum(-1)


@right("distribution")
def sample_squashed_from_noise(mean, std, noise):
    u = mean + std * noise
    return jnp.tanh(u), (normal(u, mean, jnp.log(std)) - log_slope(u)).sum(-1)


@right("distribution")
def categorical(logits, action):
    return jnp.take_along_axis(jax.nn.log_softmax(logits), action[:, None], -1)[:, 0]


@right("distribution")
def categorical_of_one(probs, action):
    return np.log(probs[action])


@right("distribution")
def sample_categorical(key, logits):
    action = jax.random.categorical(key, logits)
    return action, jnp.take_along_axis(jax.nn.log_softmax(logits), action[:, None], -1)[:, 0]
