"""PPO on tokens: the same clipped loss, GAE and critic; an episode is a response.

The state is the prompt and the tokens so far, the action the next token, γ is 1. The score comes
with the last token; each token costs β times its share of the KL divergence from the reference. To
read it beside PPO on environments: `algorithms/ppo.py` and `algorithms/family.py`, whose names
these are; `maths/estimators.py` and `maths/losses.py` serve both. docs/rlhf.md goes through it line
by line, with the details of Huang et al. 2024 (arXiv 2403.17031).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Key, PyTree

from actorcritic.algorithms.family import LAMBDA, STANDARDISE, VALUE_WEIGHT
from actorcritic.core.errors import UserError
from actorcritic.core.hyperparameters import hyperparameter
from actorcritic.core.types import Metrics
from actorcritic.language import training
from actorcritic.language.policy import (
    Experience,
    Network,
    Responses,
    head_of,
    log_probs,
    masked_mean,
    masked_standardised,
    states,
    value_head,
)
from actorcritic.language.training import Sums, TrainingSettings
from actorcritic.maths import estimators, losses

KL_IN = "where the KL to the reference goes: k1 into each token's reward, or k3 into the loss"
KL_STEP = 0.2  # most that one batch counts of how far the KL is from its target (Ziegler et al.)


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["params", "fixed", "optimizer", "kl_coefficient"],
    meta_fields=["network"],
)
@dataclass(frozen=True)
class Learner:
    """Everything that learning changes, and the reference, which it does not."""

    params: PyTree  # "policy": all of it or an adapter; "value": the head of the critic
    fixed: PyTree  # the reference's parameters
    optimizer: Any
    kl_coefficient: Float[Array, ""]  # β as it is now
    network: Network


class Rows(NamedTuple):
    """A batch made ready for the loss: a row a response, a column a token."""

    of: Experience
    advantage: Float[Array, "B N"]
    target: Float[Array, "B N"]
    old_log_prob: Float[Array, "B N"]
    old_value: Float[Array, "B N"]


@dataclass(frozen=True)
class PPO(TrainingSettings):
    """Proximal policy optimisation of tokens (Ziegler et al. 2019; Ouyang et al. 2022)."""

    name: ClassVar[str] = "ppo"

    total_steps: int = hyperparameter(200, "updates, each on a batch of responses", "[1, 1e9]")
    batch_size: int = hyperparameter(64, "responses of an update", "[1, 65536]")
    accumulate: int = hyperparameter(
        1, "parts of a minibatch, one in memory at a time: the same step", "[1, 65536]"
    )
    learning_rate: float = hyperparameter(1e-5, "Adam's, at its highest", "[0, 10]")
    schedule: Literal["constant", "linear", "cosine"] = hyperparameter(
        "linear", "how the learning rate falls to 0, after the warm-up"
    )
    warmup: float = hyperparameter(0.0, "share of the steps in which it rises from 0", "[0, 1]")
    adam_epsilon: float = hyperparameter(1e-5, "ε beside the root of the second moment", "(0, 1]")
    max_new_tokens: int = hyperparameter(64, "tokens of a response, at most", "[1, 65536]")
    max_prompt_tokens: int = hyperparameter(
        512, "tokens of a prompt; of a longer one, the last", "[1, 1048576]"
    )
    num_epochs: int = hyperparameter(4, "passes over each batch", "[1, 1e6]")
    num_minibatches: int = hyperparameter(1, "parts of a pass, a gradient step each", "[1, 1e6]")
    gamma: float = hyperparameter(1.0, "discount factor γ, a token", "(0, 1]")
    gae_lambda: float = hyperparameter(0.95, LAMBDA, "[0, 1]")
    clip_range: float = hyperparameter(0.2, "ε: the ratio is clipped to [1 - ε, 1 + ε]", "(0, 1e9]")
    clip_value: bool = hyperparameter(True, "clip the value's step by clip_range as well")
    value_coefficient: float = hyperparameter(0.1, VALUE_WEIGHT, "[0, 1e3]")
    entropy_coefficient: float = hyperparameter(0.0, "weight of the entropy bonus", "[0, 1e3]")
    normalize_advantage: bool = hyperparameter(True, f"{STANDARDISE}, over the batch's tokens")
    whiten_rewards: bool = hyperparameter(
        False, "scale the tokens' rewards to deviation 1, their mean as it is"
    )
    kl_coefficient: float = hyperparameter(0.05, "β: what a nat of KL costs", "[0, 1e6]")
    kl_in: Literal["reward", "loss"] = hyperparameter("reward", KL_IN)
    kl_target: float | None = hyperparameter(
        None, "KL of a response, in nats, that β is adapted to; None: β stays", "(0, 1e6]"
    )
    kl_horizon: float = hyperparameter(
        10_000.0, "responses after which β may have changed by a fifth", "(0, 1e12]"
    )
    temperature: float = hyperparameter(
        1.0, "divides the logits of policy and reference alike", "(0, 100]"
    )
    no_end_score: float | None = hyperparameter(
        -1.0, "score of a response that was cut off; None: as any other's", "[-1e9, 1e9]"
    )

    def check(self) -> None:
        super().check()
        each, rest = divmod(self.batch_size, self.num_minibatches)
        if rest or each % self.accumulate:
            raise UserError(
                f"batch_size ({self.batch_size}) must divide into num_minibatches "
                f"({self.num_minibatches}) times accumulate ({self.accumulate})."
            )

    # ------------------------------------------------------------------ init, act, update

    def init(
        self, key: Key[Array, ""], network: Network, trained: PyTree, fixed: PyTree
    ) -> Learner:
        """A learner that starts as the policy `trained`, with a fresh critic."""
        params = {"policy": trained, "value": value_head(key, network.width)}
        return Learner(
            params,
            fixed,
            self._optimizer.init(params),
            jnp.asarray(self.kl_coefficient, jnp.float32),
            network,
        )

    def act(
        self, learner: Learner, prompt: Array, prompt_valid: Array, key: Key[Array, ""]
    ) -> Responses:
        """Responses of the policy to prompts [B, P] that are padded on the left."""
        return learner.network.respond(
            learner.params["policy"], learner.fixed, prompt, prompt_valid, key, self.temperature
        )

    def batch(
        self,
        learner: Learner,
        prompt: Array,
        prompt_valid: Array,
        said: Responses,
        score: Float[Array, " B"],
    ) -> Experience:
        """What `update` learns from: the responses, their scores, and log π_ref of each token."""
        if self.no_end_score is not None:
            score = jnp.where(said.stopped, score, self.no_end_score)
        network, fixed = learner.network, learner.fixed
        of = (prompt, prompt_valid, said.tokens, said.valid)
        reference = network.reference(learner.params["policy"], fixed)
        log_prob = log_probs(network, reference, fixed, *of, self.temperature)
        return Experience(*of, said.stopped, log_prob, score)

    def update(
        self, learner: Learner, batch: Experience, key: Key[Array, ""], progress: Float[Array, ""]
    ) -> tuple[Learner, Metrics]:
        """Learn from a batch; `progress` is the share of the training done when it began."""
        rows, metrics = self.rows(learner, batch)
        (params, optimizer), more = self.descend(learner, rows, key, progress)
        coefficient = self._adapted(learner.kl_coefficient, metrics["kl"], len(batch.score))
        learner = replace(learner, params=params, optimizer=optimizer, kl_coefficient=coefficient)
        return learner, metrics | more

    # ------------------------------------------------------------------ what a variant may override

    def advantages(
        self, reward: Float[Array, "B N"], value: Float[Array, "B N"], valid: Bool[Array, "B N"]
    ) -> tuple[Float[Array, "B N"], Float[Array, "B N"]]:
        """GAE(λ), and advantage + value as the critic's target; the last token is terminal."""
        value = jnp.where(valid, value, 0.0)
        next_value = jnp.concatenate([value[:, 1:], jnp.zeros_like(value[:, :1])], 1)
        following = jnp.concatenate([valid[:, 1:], jnp.zeros_like(valid[:, :1])], 1)
        reward_t, value_t, next_t, terminated = (
            x.T for x in (reward, value, next_value, ~following)
        )
        never = jnp.zeros_like(terminated)
        advantage = estimators.gae(
            reward_t, value_t, next_t, terminated, never, self.gamma, self.gae_lambda
        ).T
        return advantage, advantage + value

    def policy_loss(
        self, log_prob: Float[Array, "B N"], rows: Rows, progress: Float[Array, ""]
    ) -> Float[Array, "B N"]:
        return losses.clipped_surrogate_loss(
            log_prob, rows.old_log_prob, rows.advantage, self.clip_range
        )

    def value_loss(
        self, value: Float[Array, "B N"], rows: Rows, progress: Float[Array, ""]
    ) -> Float[Array, "B N"]:
        if not self.clip_value:
            return losses.value_loss(value, rows.target)
        return losses.clipped_value_loss(value, rows.old_value, rows.target, self.clip_range)

    # ------------------------------------------------------------------ its parts

    def rows(self, learner: Learner, batch: Experience) -> tuple[Rows, Metrics]:
        """Advantages and targets by the parameters that drew the batch, and numbers to record.

        π_old and V_old are computed here, by the very function whose gradient is taken: so the
        ratio of the first gradient step is 1.
        """
        log_prob, value, entropy = self._evaluated(learner, learner.params, batch)
        log_prob = jnp.where(batch.valid, log_prob, 0.0)
        cost = learner.kl_coefficient if self.kl_in == "reward" else 0.0
        reward = estimators.kl_shaped_rewards(
            batch.score, log_prob.T, batch.reference_log_prob.T, batch.valid.T, cost
        ).T
        if self.whiten_rewards:
            reward = masked_standardised(reward, batch.valid, shift=False)
        advantage, target = self.advantages(reward, value, batch.valid)
        mean = partial(masked_mean, valid=batch.valid)
        kl = jnp.sum(losses.kl_k1(log_prob, batch.reference_log_prob), 1)  # both 0 in padding
        residual = mean((target - value - mean(target - value)) ** 2)
        metrics = {
            "score": batch.score.mean(),
            "kl": kl.mean(),
            "objective": (batch.score - learner.kl_coefficient * kl).mean(),
            "entropy": mean(entropy),
            "length": batch.valid.sum(1).mean(dtype=jnp.float32),
            "stopped": batch.stopped.mean(dtype=jnp.float32),
            "kl_coefficient": learner.kl_coefficient,
            "explained_variance": 1
            - residual / jnp.maximum(mean((target - mean(target)) ** 2), 1e-8),
        }
        if self.normalize_advantage:
            advantage = masked_standardised(advantage, batch.valid)
        return Rows(batch, advantage, target, log_prob, value), metrics

    def loss(
        self, params: PyTree, learner: Learner, rows: Rows, progress: Float[Array, ""]
    ) -> Sums:
        """policy loss + value_coefficient · value loss - entropy_coefficient · entropy.

        As sums over the valid tokens, which the mean over a minibatch is made of.
        """
        valid = rows.of.valid
        log_prob, value, entropy = self._evaluated(learner, params, rows.of)
        total = partial(jnp.sum, where=valid)
        policy_loss = total(self.policy_loss(log_prob, rows, progress))
        value_loss = total(self.value_loss(value, rows, progress))
        loss = policy_loss + self.value_coefficient * value_loss
        loss = loss - self.entropy_coefficient * total(entropy)
        if self.kl_in == "loss":
            kl = losses.kl_k3(jnp.where(valid, log_prob, 0.0), rows.of.reference_log_prob)
            loss = loss + learner.kl_coefficient * total(kl)
        log_ratio = jnp.where(valid, jax.lax.stop_gradient(log_prob) - rows.old_log_prob, 0.0)
        ratio = jnp.exp(log_ratio)
        clipped = (jnp.abs(ratio - 1) > self.clip_range).astype(jnp.float32)
        metrics = {
            "policy_loss": policy_loss,
            "value_loss": value_loss,
            "approx_kl": total(ratio - 1 - log_ratio),
            "clip_fraction": total(clipped),
            "ratio": total(ratio),
        }
        return Sums(loss, total(jnp.ones_like(ratio)), metrics)

    def gradient_step(
        self,
        carry: tuple[PyTree, Any],
        learner: Learner,
        rows: Rows,
        progress: Float[Array, ""],
    ) -> tuple[tuple[PyTree, Any], Metrics]:
        """One step down the loss of a minibatch."""
        params, state = carry

        def loss(params: PyTree, rows: Rows) -> Sums:
            return self.loss(params, learner, rows, progress)

        gradient, metrics = training.gradient(loss, params, rows, self.accumulate)
        change, state = self._optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, change)
        return (params, state), metrics | {"gradient_norm": optax.tree.norm(gradient)}

    def descend(
        self, learner: Learner, rows: Rows, key: Key[Array, ""], progress: Float[Array, ""]
    ) -> tuple[tuple[PyTree, Any], Metrics]:
        """`num_epochs` passes over the responses, each in `num_minibatches` shuffled parts."""
        count = len(rows.of.score)

        def step(carry: Any, part: Array) -> tuple[Any, Metrics]:
            chosen = rows if self.num_minibatches == 1 else jax.tree.map(lambda x: x[part], rows)
            return self.gradient_step(carry, learner, chosen, progress)

        orders = [jax.random.permutation(k, count) for k in jax.random.split(key, self.num_epochs)]
        parts = jnp.stack(orders).reshape(self.num_epochs * self.num_minibatches, -1)
        carry, metrics = jax.lax.scan(step, (learner.params, learner.optimizer), parts)
        return carry, jax.tree.map(jnp.mean, metrics)

    def _evaluated(
        self, learner: Learner, params: PyTree, of: Experience
    ) -> tuple[Float[Array, "B N"], Float[Array, "B N"], Float[Array, "B N"]]:
        """log π, V and the entropy of π at each token."""
        network, policy, fixed = learner.network, params["policy"], learner.fixed
        at = states(network, policy, fixed, of.prompt, of.prompt_valid, of.response, of.valid)
        scores = network.scores(policy, fixed, at, of.response, self.temperature)
        return scores.log_prob, head_of(params["value"], at), scores.entropy

    def _adapted(self, coefficient: Array, kl: Array, responses: int) -> Float[Array, ""]:
        """β (1 + clip(KL/target - 1, ±0.2) n/horizon) after n responses (Ziegler et al., 2.2)."""
        if self.kl_target is None:
            return coefficient
        error = jnp.clip(kl / self.kl_target - 1, -KL_STEP, KL_STEP)
        return coefficient * (1 + error * responses / self.kl_horizon)

    @property
    def _optimizer(self) -> optax.GradientTransformation:
        steps = self.total_steps * self.num_epochs * self.num_minibatches
        return training.optimizer(self, steps)
