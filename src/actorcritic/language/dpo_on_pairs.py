"""DPO: preferences without a reward model or a critic, by the reward that a policy implies.

Since π* ∝ π_ref exp(r/β), a policy says what it takes the reward to be: β log π(y|x)/π_ref(y|x), up
to a number that depends on the prompt alone and falls out of a difference. DPO is the loss of a
reward model on that (Rafailov et al. 2023).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from actorcritic.core.hyperparameters import hyperparameter
from actorcritic.core.types import Metrics
from actorcritic.language import training
from actorcritic.language.policy import Network, log_probs
from actorcritic.language.training import PairSettings, Sums
from actorcritic.maths import losses


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


@dataclass(frozen=True)
class DPO(PairSettings):
    """Direct preference optimisation (Rafailov et al. 2023)."""

    name: ClassVar[str] = "dpo"

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
        return Learner(trained, fixed, self._optimizer.init(trained), network)

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

        def loss(params: PyTree, batch: PreferencePairs) -> Sums:
            return self.loss(params, learner, batch)

        gradient, metrics = training.gradient(loss, learner.params, batch, self.accumulate)
        change, state = self._optimizer.update(gradient, learner.optimizer, learner.params)
        params = optax.apply_updates(learner.params, change)
        metrics |= {"gradient_norm": optax.tree.norm(gradient)}
        return replace(learner, params=params, optimizer=state), metrics

    def loss(self, params: PyTree, learner: Learner, batch: PreferencePairs) -> Sums:
        """The losses of the pairs and numbers to record, as sums over the pairs."""
        both = _both(batch.chosen, batch.rejected)
        log_prob = log_probs(learner.network, params, learner.fixed, *both).sum(1)
        chosen, rejected = jnp.split(log_prob, 2)
        gains = chosen - batch.reference_chosen, rejected - batch.reference_rejected
        margin = gains[0] - gains[1]
        metrics = {
            "accuracy": (margin > 0).astype(jnp.float32),
            "margin": self.beta * margin,
            "chosen_reward": self.beta * gains[0],
            "rejected_reward": self.beta * gains[1],
            "chosen_log_prob": chosen,
        }
        return Sums(
            self.preference_loss(margin).sum(),
            jnp.asarray(len(margin), jnp.float32),
            {name: each.sum() for name, each in metrics.items()},
        )

    @property
    def _optimizer(self) -> optax.GradientTransformation:
        assert self.total_steps is not None  # set by the task, which knows the data
        return training.optimizer(self, self.total_steps)


@dataclass(frozen=True)
class IPO(DPO):
    """Identity preference optimisation: a margin to reach in place of one to exceed."""

    name: ClassVar[str] = "ipo"

    def preference_loss(self, log_ratio_margin: Float[Array, " B"]) -> Float[Array, " B"]:
        return losses.identity_preference_loss(log_ratio_margin, self.beta)


def _both(chosen: Answers, rejected: Answers) -> Answers:
    """Chosen and rejected as one batch: one pass through the network."""
    return jax.tree.map(lambda x, y: jnp.concatenate([x, y]), chosen, rejected)  # type: ignore[no-any-return]
