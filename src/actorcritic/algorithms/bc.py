"""Behaviour cloning: the policy under which the recorded actions are the most likely.

It maximises E[log π(a|s)] over the data set, and looks at no reward: what is learned is as good as
what was recorded, and the comparison that offline reinforcement learning is held against.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from actorcritic.algorithms.family import Learner
from actorcritic.algorithms.offline import Offline, Rows, adam_states, imitation
from actorcritic.core.hyperparameters import hyperparameter, hyperparameters
from actorcritic.core.types import EnvSpec, Metrics


class Parameters(NamedTuple):
    policy: PyTree


class Optimizer(NamedTuple):
    """The state of Adam."""

    policy: Any


@hyperparameters
class BC(Offline):
    """Behaviour cloning: maximum likelihood of the recorded actions."""

    name: ClassVar[str] = "bc"

    entropy_coefficient: float = hyperparameter(0.0, "weight of the entropy bonus", "[0, 1e3]")

    def begin(self, key: Key[Array, ""], spec: EnvSpec) -> tuple[Parameters, Optimizer]:
        params = Parameters(self._actor(spec).init(key))
        return params, Optimizer(*adam_states(params.policy))

    def learn(
        self, learner: Learner, rows: Rows, key: Key[Array, ""], progress: Float[Array, ""]
    ) -> tuple[Learner, Metrics]:
        """One step down on E[-log π(a|s)], less the weighted entropy."""

        def loss(params: PyTree) -> tuple[Float[Array, ""], Metrics]:
            policy = self._policy(learner.spec, params, rows.observation, rows.allowed)
            log_prob, entropy = jnp.mean(policy.log_prob(rows.action)), jnp.mean(policy.entropy())
            said = {"policy_loss": -log_prob, "entropy": entropy}
            return -log_prob - self.entropy_coefficient * entropy, said | imitation(
                policy, rows.action
            )

        rate = self._rate(self.learning_rate, progress)
        policy, state, said, norm = self._descend(
            loss, learner.params.policy, learner.optimizer.policy, rate
        )
        learner = replace(learner, params=Parameters(policy), optimizer=Optimizer(state))
        return learner, said | {"gradient_norm": norm, "learning_rate": rate}
