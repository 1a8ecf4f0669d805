"""Fitted Q evaluation: what a policy is worth, from data that another one recorded.

Q goes towards r + γ (1 - terminated) E_{a' ~ π(s')}[Q'(s', a')] on the recorded steps, as fitted Q
iteration (Ernst et al. 2005) with a policy in the place of the maximum (Le, Voloshin & Yue 2019).
It is an instrument, not an algorithm to train by name: π's choices at s' come with each row.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from actorcritic.algorithms.family import Learner, encoded
from actorcritic.algorithms.offline import Offline, Rows, adam_states, inside
from actorcritic.core.hyperparameters import hyperparameter, hyperparameters
from actorcritic.core.types import EnvSpec, Metrics, Observation
from actorcritic.maths import losses


class Choices(NamedTuple):
    """What a policy does at a state: the probability of every Discrete action, or some draws."""

    probability: Float[Array, "... actions"] | None = None
    draws: Array | None = None  # [..., K, d], as the environment takes them


class Parameters(NamedTuple):
    policy: Any  # of Q: nothing acts here
    targets: Any


@hyperparameters
class FittedQ(Offline):
    """Q of a fixed policy. The batch's `extras.own` are its `Choices` at the successors."""

    name: ClassVar[str] = "fitted-q"

    learning_rate: float = hyperparameter(1e-3, "step size of Adam", "(0, 10]")
    gamma: float = hyperparameter(0.99, "discount factor γ", "(0, 1]")
    tau: float = hyperparameter(0.01, "share of Q that enters its target", "(0, 1]")

    def begin(self, key: Key[Array, ""], spec: EnvSpec) -> tuple[Parameters, Any]:
        q = self._critic(spec).init(key)
        # What is donated must not be shared.
        return Parameters(q, jax.tree.map(jnp.copy, q)), adam_states(q)

    def learn(
        self, learner: Learner, rows: Rows, key: Key[Array, ""], progress: Float[Array, ""]
    ) -> tuple[Learner, Metrics]:
        params, critic = learner.params, self._critic(learner.spec)
        ahead = self._expected(learner, params.targets, rows.next_observation, rows.own)
        target = rows.reward + self.gamma * (1 - rows.terminated) * ahead

        def loss(q: Any) -> tuple[Float[Array, ""], Metrics]:
            found = critic.q(q, rows.observation, rows.action)
            loss = jnp.mean(losses.value_loss(found, target))
            return loss, {"value_loss": loss, "q_value": jnp.mean(found)}

        rate = self._rate(self.learning_rate, progress)
        q, state, said, norm = self._descend(loss, params.policy, learner.optimizer[0], rate)
        targets = jax.tree.map(lambda t, q: t + self.tau * (q - t), params.targets, q)
        learner = replace(learner, params=Parameters(q, targets), optimizer=(state,))
        return learner, said | {"gradient_norm": norm}

    def worth(
        self, learner: Learner, observation: Observation, choices: Choices
    ) -> Float[Array, "..."]:
        """E_{a ~ π(s)}[Q'(s, a)] for observations [..., *]; the targets are smoother than Q."""
        x = encoded(learner, observation)
        return self._expected(learner, learner.params.targets, x, choices)

    def _expected(
        self, learner: Learner, q: Any, x: Float[Array, "N features"], choices: Choices
    ) -> Float[Array, " N"]:
        critic = self._critic(learner.spec)
        if choices.probability is not None:
            return jnp.sum(critic.values(q, x) * choices.probability, axis=-1)
        assert choices.draws is not None
        action = inside(learner.spec, choices.draws)
        wide = jnp.broadcast_to(x[:, None], (*action.shape[:2], x.shape[-1]))
        return jnp.mean(critic.q(q, wide, action), axis=1)
