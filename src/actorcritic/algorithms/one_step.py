"""The textbook's actor-critics: one step of experience, one step of learning.

        the critic's error δ                               the actor follows
  TD    r + γ (1 - terminated) V(s') - V(s)                ∇log π(a|s) δ
  Q     r + γ (1 - terminated) Q(s', a') - Q(s, a)         ∇log π(a|s) Q(s, a)

Both are members of the family in `family.py`.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from gymnasium import spaces as gym_spaces
from jaxtyping import Array, Float

from actorcritic.algorithms.family import STANDARDISE, VALUE_WEIGHT, JointGradient, Learner
from actorcritic.core.hyperparameters import hyperparameter, hyperparameters
from actorcritic.core.types import Transition
from actorcritic.maths import estimators


@hyperparameters
class TDActorCritic(JointGradient):
    """One-step actor-critic (Sutton & Barto 2018, sec. 13.5): the advantage is the TD error.

    It learns at every step, from one environment. Actor and critic are separate networks, each
    with its own step size and, as Adam works number by number, its own optimiser. With
    `hidden_sizes=()`, `optimizer="sgd"` and features s a step is the textbook's:
    w += α_w δ s, θ_b += α_θ δ (1[a = b] - π(b|s)) s. The factor γ^t of its episodic form is left
    out, as everywhere in this field.
    """

    name: ClassVar[str] = "td-actor-critic"
    spreads_rows: ClassVar[bool] = True

    num_envs: int = hyperparameter(1, "environments stepped side by side", "[1, 1e6]")
    num_steps: int = hyperparameter(1, "steps of each environment before an update", "[1, 1e6]")
    learning_rate: float = hyperparameter(3e-4, "step size of the actor", "(0, 10]")
    critic_learning_rate: float | None = hyperparameter(
        1e-3, "step size of the critic; none: learning_rate", "(0, 10]"
    )
    value_coefficient: float = hyperparameter(1.0, VALUE_WEIGHT, "[0, 1e3]")
    max_grad_norm: float = hyperparameter(1e9, "largest norm of the whole gradient", "(0, 1e9]")

    def advantages(
        self, batch: Transition, reward: Array, value: Array, next_value: Array
    ) -> tuple[Float[Array, "T B"], Float[Array, "T B"]]:
        delta = estimators.td_errors(reward, value, next_value, batch.terminated, self.gamma)
        return delta, delta + value


@hyperparameters
class QActorCritic(JointGradient):
    """Q actor-critic: the critic learns Q(s, a) on-policy, and the actor follows ∇log π Q(s, a).

    The critic's target is r + γ Q(s', a') with a' drawn from the policy at the true
    successor s'. Discrete actions only. Without a baseline the actor's gradient is noisy:
    `normalize_advantage` takes the batch's mean of Q for one.
    """

    name: ClassVar[str] = "q-actor-critic"
    action_spaces: ClassVar[tuple[type, ...]] = (gym_spaces.Discrete,)
    spreads_rows: ClassVar[bool] = True

    learning_rate: float = hyperparameter(3e-4, "step size of the actor, α_θ", "(0, 10]")
    critic_learning_rate: float | None = hyperparameter(
        2e-3, "step size of the critic, α_w; none: learning_rate", "(0, 10]"
    )
    normalize_advantage: bool = hyperparameter(True, STANDARDISE)

    @property
    def critic(self) -> Literal["state", "action"]:
        return "action"

    def advantages(
        self, batch: Transition, reward: Array, value: Array, next_value: Array
    ) -> tuple[Float[Array, "T B"], Float[Array, "T B"]]:
        delta = estimators.td_errors(reward, value, next_value, batch.terminated, self.gamma)
        return value, delta + value

    def _values(
        self, learner: Learner, batch: Transition, observation: Array, key: Array
    ) -> tuple[Float[Array, "T B"], Float[Array, "T B"]]:
        """Q(s_t, a_t), and Q(s_{t+1}, a') with a' from the policy."""
        action = self.policy(self.actor(learner), batch.next_observation).sample(key)
        value = self._value(learner, observation, batch.action)
        return value, self.value(learner, batch.next_observation, action)
