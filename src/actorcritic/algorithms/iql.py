"""Implicit Q-learning (Kostrikov, Nair & Levine 2021, arXiv 2110.06169): from a data set alone.

No action is ever valued that the data set does not hold. V(s) is an upper expectile of Q(s, a)
over the recorded actions, so that it comes near the best of them; Q learns from V; and the policy
imitates the recorded actions, each weighted by how much better than V it was. In turn,

  V        down E[|τ - 1(u < 0)| u²],  u = min_i Q'_i(s, a) - V(s)                    (eq. 5)
  π        down E[-w log π(a|s)],  w = min(exp(β (min_i Q'_i(s, a) - V(s))), w_max)   (eq. 7)
  Q_i      towards r + γ (1 - terminated) V(s')                                       (eq. 6)
  Q'_i     by `tau` towards Q_i

Q' are the targets of the critics; π and Q learn with the V of the same update. The weights are
those of advantage-weighted regression (Peng et al. 2019), β its inverse temperature.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from actorcritic.algorithms.family import Learner, encoded
from actorcritic.algorithms.offline import Offline, Rows, adam_states, imitation
from actorcritic.core.hyperparameters import hyperparameter, hyperparameters
from actorcritic.core.types import EnvSpec, Metrics, Observation
from actorcritic.maths import losses
from actorcritic.maths.networks import Dense, NetworkLike
from actorcritic.maths.spaces import feature_count

Critics = tuple[Any, Any]  # two, each apart: on a CPU, products of stacked matrices are slow


class Parameters(NamedTuple):
    policy: PyTree
    critics: Critics
    targets: Critics
    value: tuple[PyTree, Dense]


class Optimizer(NamedTuple):
    """States of Adam."""

    policy: Any
    critics: Any
    value: Any


@hyperparameters
class IQL(Offline):
    """Implicit Q-learning, for every kind of action."""

    name: ClassVar[str] = "iql"

    critic_learning_rate: float | None = hyperparameter(
        None, "step size of V and the critics; None: learning_rate", "(0, 10]"
    )
    gamma: float = hyperparameter(0.99, "discount factor γ", "(0, 1]")
    expectile: float = hyperparameter(
        0.7, "τ of V: 0.5 is the mean over the recorded actions, towards 1 the best", "(0, 1)"
    )
    inverse_temperature: float = hyperparameter(
        3.0, "β: 0 is behaviour cloning, larger follows the advantage", "[0, 1e4]"
    )
    largest_weight: float = hyperparameter(100.0, "of an action that is imitated", "(0, 1e9]")
    tau: float = hyperparameter(0.005, "share of the critics that enters their targets", "(0, 1]")

    def begin(self, key: Key[Array, ""], spec: EnvSpec) -> tuple[Parameters, Optimizer]:
        policy_key, value_key, *critic_keys = jax.random.split(key, 4)
        first, second = map(self._critic(spec).init, critic_keys)
        params = Parameters(
            policy=self._actor(spec).init(policy_key),
            critics=(first, second),
            targets=jax.tree.map(jnp.copy, (first, second)),  # what is donated must not be shared
            value=_begin_value(self._network(spec), value_key, spec),
        )
        return params, Optimizer(*adam_states(params.policy, params.critics, params.value))

    def learn(
        self, learner: Learner, rows: Rows, key: Key[Array, ""], progress: Float[Array, ""]
    ) -> tuple[Learner, Metrics]:
        """One gradient step of V, then of π and Q with that V."""
        params, optimizer, spec = learner.params, learner.optimizer, learner.spec
        critic, network = self._critic(spec), self._network(spec)
        x, rate = rows.observation, self._rate(self.learning_rate, progress)
        critic_rate = rate
        if self.critic_learning_rate is not None:
            critic_rate = self._rate(self.critic_learning_rate, progress)
        target_q = jnp.minimum(*(critic.q(each, x, rows.action) for each in params.targets))

        def value_loss(value: Any) -> tuple[Float[Array, ""], Any]:
            u = target_q - _value(network, value, x)
            loss = jnp.mean(losses.expectile_loss(u, self.expectile))
            return loss, loss

        value, value_state, of_value, value_norm = self._descend(
            value_loss, params.value, optimizer.value, critic_rate
        )
        advantage = target_q - _value(network, value, x)
        weight = jnp.minimum(jnp.exp(self.inverse_temperature * advantage), self.largest_weight)

        def policy_loss(policy: Any) -> tuple[Float[Array, ""], Metrics]:
            found = self._policy(spec, policy, x, rows.allowed)
            loss = jnp.mean(losses.policy_gradient_loss(found.log_prob(rows.action), weight))
            said = {"policy_loss": loss, "entropy": jnp.mean(found.entropy())}
            return loss, said | imitation(found, rows.action)

        policy, policy_state, said, policy_norm = self._descend(
            policy_loss, params.policy, optimizer.policy, rate
        )
        ahead = _value(network, value, rows.next_observation)
        target = rows.reward + self.gamma * (1 - rows.terminated) * ahead

        def critics_loss(critics: Any) -> tuple[Float[Array, ""], Any]:
            q = jnp.stack([critic.q(each, x, rows.action) for each in critics])
            loss = jnp.sum(jnp.mean(losses.value_loss(q, target[None]), axis=-1))
            return loss, (loss, jnp.mean(q))

        critics, critics_state, (q_loss, q_value), critics_norm = self._descend(
            critics_loss, params.critics, optimizer.critics, critic_rate
        )
        targets = jax.tree.map(lambda t, q: t + self.tau * (q - t), params.targets, critics)
        norms = jnp.stack([value_norm, policy_norm, critics_norm])
        metrics = said | {
            "value_loss": q_loss,
            "expectile_loss": of_value,
            "q_value": q_value,
            "advantage": jnp.mean(advantage),
            "weight": jnp.mean(weight),
            "gradient_norm": jnp.linalg.norm(norms),
            "learning_rate": rate,
        }
        learner = replace(
            learner,
            params=Parameters(policy, critics, targets, value),
            optimizer=Optimizer(policy_state, critics_state, value_state),
        )
        return learner, metrics

    # ------------------------------------------------------------------ for whoever looks inside

    def value(
        self, learner: Learner, observation: Observation, action: Array | None = None
    ) -> Float[Array, "..."]:
        """V(s) for observations [..., *]."""
        network = self._network(learner.spec)
        return _value(network, learner.params.value, encoded(learner, observation))


def _begin_value(network: NetworkLike, key: Key[Array, ""], spec: EnvSpec) -> tuple[PyTree, Dense]:
    trunk_key, head_key = jax.random.split(key)
    x = jnp.zeros((1, feature_count(spec.observation_space)))
    trunk = network.init(trunk_key, x)
    width = jax.eval_shape(network.apply, trunk, x).shape[-1]
    return trunk, Dense.init(head_key, width, 1, 1.0)


def _value(
    network: NetworkLike, params: tuple[PyTree, Dense], x: Float[Array, "... features"]
) -> Float[Array, "..."]:
    trunk, head = params
    return head(network.apply(trunk, x)).squeeze(-1)
