"""DPO: preferences without a reward model or a critic, by the reward that a policy implies.

Since π* ∝ π_ref exp(r/β), a policy says what it takes the reward to be: r(x, y) = β log π(y|x) /
π_ref(y|x), up to a number that depends on the prompt alone and falls out of a difference. DPO is the
reward model's loss on that (Rafailov et al. 2023).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from actorcritic.core.hyperparameters import hyperparameter, hyperparameters
from actorcritic.core.types import Metrics
from actorcritic.language.policy import Network, log_probs
from actorcritic.maths import losses, optimizers


class Answers(NamedTuple):
    """A batch of prompts with one response each."""

    prompt: Int[Array, "B P"]
    prompt_valid: Bool[Array, "B P"]
    response: Int[Array, "B N"]
    valid: Bool[Array, "B N"]


class PreferencePairs(NamedTuple):
    """B pairs; the reference's log-probabilities of whole responses are computed once."""

    chosen: Answers
    rejected: Answers
    reference_chosen: Float[Array, " B"]
    reference_rejected: Float[Array, " B"]


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["params", "fixed", "optimizer"],
    meta_fields=["network"],
)
@dataclass(frozen=True)
class Learner:
    """Everything that learning changes, and the reference, which it does not."""

    params: PyTree
    fixed: PyTree
    optimizer: Any
    network: Network


@hyperparameters
class DPO:
    """Direct preference optimisation (Rafailov et al. 2023)."""

    name: ClassVar[str] = "dpo"

    learning_rate: float = hyperparameter(1e-5, "step size of Adam (ε 1e-5)", "(0, 10]")
    learning_rate_schedule: optimizers.Schedule = hyperparameter(
        "linear", "constant, or falling linearly to 0 at the end of the training", or_function=True
    )
    accumulation: int = hyperparameter(
        1, "parts of a batch whose gradients are added up: less memory, the same step", "[1, 1e6]"
    )
    max_grad_norm: float = hyperparameter(1.0, "largest norm of the whole gradient", "(0, 1e9]")
    beta: float = hyperparameter(0.1, "β: what a nat of KL costs", "(0, 1e6]")
    label_smoothing: float = hyperparameter(
        0.0, "share of the labels that are taken to be the wrong way round", "[0, 0.5)"
    )

    def preference_loss(self, log_ratio_margin: Float[Array, " B"]) -> Float[Array, " B"]:
        """-log σ(β h), h = log π/π_ref (chosen) - log π/π_ref (rejected) (ibid., eq. 7)."""
        return losses.preference_loss(self.beta * log_ratio_margin, self.label_smoothing)

    # ------------------------------------------------------------------ init, update

    def init(self, network: Network, trained: PyTree, fixed: PyTree) -> Learner:
        """A learner that starts as the policy `trained`."""
        return Learner(trained, fixed, optimizers.init("adam", trained, flat=False), network)

    def pairs(self, learner: Learner, chosen: Answers, rejected: Answers) -> PreferencePairs:
        """What `update` learns from: the answers, with log π_ref of each."""
        network, fixed = learner.network, learner.fixed
        reference = network.reference(learner.params, fixed)
        of_both = _both(chosen, rejected)
        log_prob = log_probs(network, reference, fixed, *of_both).sum(1)
        return PreferencePairs(chosen, rejected, *jnp.split(log_prob, 2))

    def update(
        self,
        learner: Learner,
        batch: PreferencePairs,
        key: Key[Array, ""],
        progress: Float[Array, ""],
    ) -> tuple[Learner, Metrics]:
        """One gradient step on a batch of pairs; nothing is drawn, so the key is not used."""
        gradient_of = jax.grad(self.loss, has_aux=True)
        if self.accumulation == 1:
            gradient, metrics = gradient_of(learner.params, learner, batch)
        else:
            parts = jax.tree.map(lambda x: x.reshape(self.accumulation, -1, *x.shape[1:]), batch)
            first = jax.tree.map(lambda x: x[0], parts)
            shapes = jax.eval_shape(gradient_of, learner.params, learner, first)
            nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

            def part(total: Any, rows: PreferencePairs) -> tuple[Any, None]:
                found = gradient_of(learner.params, learner, rows)
                return jax.tree.map(jnp.add, total, found), None

            total, _ = jax.lax.scan(part, nothing, parts)
            gradient, metrics = jax.tree.map(lambda x: x / self.accumulation, total)
        rate = optimizers.scheduled(self.learning_rate, self.learning_rate_schedule, progress)
        params, state, norm = optimizers.step(
            "adam", learner.params, gradient, learner.optimizer, rate, self.max_grad_norm, flat=False
        )
        metrics = metrics | {"gradient_norm": norm, "learning_rate": rate}
        return replace(learner, params=params, optimizer=state), metrics

    def loss(
        self, params: PyTree, learner: Learner, batch: PreferencePairs
    ) -> tuple[Float[Array, ""], Metrics]:
        """The mean over the pairs, and numbers to record."""
        both = _both(batch.chosen, batch.rejected)
        log_prob = log_probs(learner.network, params, learner.fixed, *both).sum(1)
        chosen, rejected = jnp.split(log_prob, 2)
        gains = chosen - batch.reference_chosen, rejected - batch.reference_rejected
        margin = gains[0] - gains[1]
        loss = self.preference_loss(margin).mean()
        return loss, {
            "loss": loss,
            "accuracy": (margin > 0).mean(dtype=jnp.float32),
            "margin": self.beta * margin.mean(),
            "chosen_reward": self.beta * gains[0].mean(),
            "rejected_reward": self.beta * gains[1].mean(),
            "chosen_log_prob": chosen.mean(),
        }


@hyperparameters
class IPO(DPO):
    """Identity preference optimisation: a margin to reach in place of one to exceed."""

    name: ClassVar[str] = "ipo"

    def preference_loss(self, log_ratio_margin: Float[Array, " B"]) -> Float[Array, " B"]:
        return losses.identity_preference_loss(log_ratio_margin, self.beta)


def _both(chosen: Answers, rejected: Answers) -> Answers:
    """Chosen and rejected as one batch: one pass through the network."""
    return jax.tree.map(lambda x, y: jnp.concatenate([x, y]), chosen, rejected)  # type: ignore[no-any-return]
