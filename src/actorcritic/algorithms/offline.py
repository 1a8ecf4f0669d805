"""What the algorithms share that learn from a data set: behaviour cloning, IQL and CQL.

They collect nothing. An update is one gradient step on rows that a runner draws from recorded
episodes; a step of their training is an update. Inside, continuous actions are in [-1, 1]^d.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key, PyTree

from actorcritic.algorithms.family import Actor, Learner, encoded
from actorcritic.algorithms.sac import bounds
from actorcritic.core.hyperparameters import hyperparameter, hyperparameters
from actorcritic.core.types import (
    Action,
    Algorithm,
    Decision,
    EnvSpec,
    Metrics,
    Observation,
    Transition,
)
from actorcritic.maths import estimators, optimizers, spaces
from actorcritic.maths.distributions import Distribution, Gaussian, TanhGaussian
from actorcritic.maths.networks import (
    CNN,
    ActorCritic,
    Dense,
    NetworkLike,
    check_network,
    default_network,
)

LEAST_LOG_STD, LARGEST_LOG_STD = -5.0, 2.0  # of a policy over [-1, 1]^d


class Rows(NamedTuple):
    """A minibatch, encoded. `own` is what a variant's losses want besides."""

    observation: Float[Array, "N features"]
    allowed: Bool[Array, "N actions"] | None  # the mask of actions, where there is one
    action: Array  # of a Box: in [-1, 1]^d; others count from 0
    reward: Float[Array, " N"]
    terminated: Float[Array, " N"]
    next_observation: Float[Array, "N features"]
    next_allowed: Bool[Array, "N actions"] | None
    own: Any = ()

    @property
    def inputs(self) -> Float[Array, "N features+d"]:
        """Observation and continuous action side by side, as a critic takes them."""
        return jnp.concatenate([self.observation, self.action], axis=-1)


@dataclass(frozen=True)
class Critic:
    """Q(s, a): of Discrete actions a value each, else of observation and action side by side."""

    spec: EnvSpec
    network: NetworkLike

    @property
    def _discrete(self) -> bool:
        return isinstance(self.spec.action_space, gymnasium.spaces.Discrete)

    def init(self, key: Key[Array, ""]) -> tuple[PyTree, Dense]:
        trunk_key, head_key = jax.random.split(key)
        features = spaces.feature_count(self.spec.observation_space)
        outputs = sum(spaces.choices(self.spec.action_space))
        if not self._discrete:
            features += outputs or math.prod(self.spec.action_space.shape or ())
        x = jnp.zeros((1, features))
        trunk = self.network.init(trunk_key, x)
        width = jax.eval_shape(self.network.apply, trunk, x).shape[-1]
        return trunk, Dense.init(head_key, width, outputs if self._discrete else 1, 1.0)

    def values(
        self, params: tuple[PyTree, Dense], x: Float[Array, "... features"]
    ) -> Float[Array, "... actions"]:
        """Of every Discrete action."""
        trunk, head = params
        return head(self.network.apply(trunk, x))

    def q(
        self, params: tuple[PyTree, Dense], x: Float[Array, "... features"], action: Array
    ) -> Float[Array, "..."]:
        if self._discrete:
            return chosen(self.values(params, x), action)
        sizes = spaces.choices(self.spec.action_space)
        if sizes:
            hot = [jax.nn.one_hot(action[..., k], n) for k, n in enumerate(sizes)]
            action = jnp.concatenate(hot, axis=-1)
        return self.values(params, jnp.concatenate([x, action], axis=-1)).squeeze(-1)


def chosen(values: Float[Array, "... actions"], action: Array) -> Float[Array, "..."]:
    """Of the values of all actions, that of one: a sum, because its gradient is no scatter."""
    return jnp.sum(values * jax.nn.one_hot(action, values.shape[-1]), axis=-1)


# Leaf by leaf, because of the size of the matrices.
_adam = partial(optimizers.step, "adam", flat=False, epsilon=1e-8)


@hyperparameters
class Offline(Algorithm[Learner, Actor, Transition]):
    """What they share. A member says what is learned (`begin`) and what an update is (`learn`)."""

    name: ClassVar[str]

    batch_size: int = hyperparameter(256, "rows of the data set in an update", "[1, 1e6]")
    learning_rate: float = hyperparameter(3e-4, "step size of Adam", "(0, 10]")
    learning_rate_schedule: optimizers.Schedule = hyperparameter(
        "constant",
        "constant, or falling linearly to 0 at the end of the training",
        or_function=True,
    )
    max_grad_norm: float = hyperparameter(
        1e9, "each network's gradient is scaled down to this norm", "(0, 1e9]"
    )
    normalize_observation: bool = hyperparameter(
        False, "by mean and deviation of the rows that were drawn so far"
    )
    hidden_sizes: tuple[int, ...] = hyperparameter(
        (256, 256), "widths of the hidden layers; none: everything is linear"
    )
    activation: Literal["tanh", "relu", "swish", "gelu"] = hyperparameter("relu", "between layers")
    network: NetworkLike | None = hyperparameter(
        None, "an (init, apply) pair in place of hidden_sizes and activation (Python only)"
    )

    # ------------------------------------------------------------------ what a member decides

    def begin(self, key: Key[Array, ""], spec: EnvSpec) -> tuple[Any, Any]:
        """Parameters, of which `policy` is what acts; and the states of Adam."""
        raise NotImplementedError

    def learn(
        self, learner: Learner, rows: Rows, key: Key[Array, ""], progress: Float[Array, ""]
    ) -> tuple[Learner, Metrics]:
        """One gradient step of each part; where the rows come from, it does not know."""
        raise NotImplementedError

    # ------------------------------------------------------------------ the protocol

    @property
    def draws(self) -> int:
        return self.batch_size

    def check(self, spec: EnvSpec) -> None:
        if self.network is not None:
            check_network(self.network, spaces.feature_count(spec.observation_space))

    def init(self, key: Key[Array, ""], spec: EnvSpec) -> Learner:
        params, optimizer = self.begin(key, spec)
        start = estimators.RunningStatistics.start((spaces.feature_count(spec.observation_space),))
        observations = start if self.normalize_observation else None
        return Learner(params, optimizer, observations, returns=None, spec=spec)

    def actor(self, learner: Learner) -> Actor:
        return Actor(learner.params.policy, learner.observations, learner.spec)

    def act(
        self, actor: Actor, observation: Observation, key: Key[Array, ""], *, explore: bool = True
    ) -> Decision:
        policy = self.policy(actor, observation)
        drawn = policy.sample(key) if explore else policy.mode()
        if isinstance(policy, TanhGaussian):
            drawn = policy.action(drawn)
        return Decision(outside(actor.spec, drawn))

    def update(
        self, learner: Learner, batch: Transition, key: Key[Array, ""], progress: Float[Array, ""]
    ) -> tuple[Learner, Metrics]:
        batch = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch)
        if learner.observations is not None:
            raw = spaces.encode(learner.spec.observation_space, batch.observation)
            learner = replace(learner, observations=learner.observations.merge(raw))
        return self.learn(learner, self._rows(learner, batch), key, progress)

    # ------------------------------------------------------------------ for whoever looks inside

    def policy(self, actor: Actor, observation: Observation) -> Distribution:
        """π(·|s) for observations [..., *], of continuous actions over [-1, 1]^d."""
        allowed = spaces.action_mask(actor.spec.observation_space, observation)
        return self._policy(actor.spec, actor.params, encoded(actor, observation), allowed)

    # ------------------------------------------------------------------ its parts

    def _policy(
        self,
        spec: EnvSpec,
        params: PyTree,
        x: Float[Array, "... features"],
        allowed: Bool[Array, "... actions"] | None = None,
    ) -> Distribution:
        """Of continuous actions a Gaussian, whose mean tanh keeps in [-1, 1]^d."""
        policy = self._actor(spec).policy(params, x, allowed)
        if not isinstance(policy, Gaussian):
            return policy
        log_std = jnp.clip(policy.log_std, LEAST_LOG_STD, LARGEST_LOG_STD)
        return Gaussian(jnp.tanh(policy.mean), log_std)

    def _actor(self, spec: EnvSpec) -> ActorCritic:
        network = self._network(spec)
        if isinstance(spec.action_space, gymnasium.spaces.Box):
            inside = gymnasium.spaces.Box(-1.0, 1.0, (math.prod(spec.action_space.shape),))
            spec = replace(spec, action_space=inside)
        return ActorCritic(spec, network, critic=None)

    def _critic(self, spec: EnvSpec) -> Critic:
        network = self._network(spec)
        if isinstance(network, CNN) and not isinstance(
            spec.action_space, gymnasium.spaces.Discrete
        ):
            network = replace(network, start=network.start or 0)  # the action stands behind
        return Critic(spec, network)

    def _network(self, spec: EnvSpec) -> NetworkLike:
        return self.network or default_network(
            spec.observation_space, "auto", self.hidden_sizes, self.activation, "orthogonal"
        )

    def _rows(self, learner: Learner, batch: Transition) -> Rows:
        space = learner.spec.observation_space
        return Rows(
            observation=encoded(learner, batch.observation),
            allowed=spaces.action_mask(space, batch.observation),
            action=inside(learner.spec, batch.action),
            reward=batch.reward,
            terminated=batch.terminated.astype(batch.reward.dtype),
            next_observation=encoded(learner, batch.next_observation),
            next_allowed=spaces.action_mask(space, batch.next_observation),
            own=batch.extras.own,
        )

    def _descend(
        self,
        loss: Callable[[Any], tuple[Float[Array, ""], Any]],
        params: PyTree,
        state: Any,
        rate: Float[Array, ""],
    ) -> tuple[PyTree, Any, Any, Float[Array, ""]]:
        """One step of Adam: parameters, its state, what the loss says besides, the norm."""
        gradient, said = jax.grad(loss, has_aux=True)(params)
        params, state, norm = _adam(params, gradient, state, rate, self.max_grad_norm)
        return params, state, said, norm

    def _rate(self, rate: Any, progress: Array) -> Float[Array, ""]:
        return optimizers.scheduled(rate, self.learning_rate_schedule, progress)


def adam_states(*parts: PyTree) -> tuple[Any, ...]:
    """A fresh state of Adam for each part."""
    return tuple(optimizers.init("adam", part, flat=False) for part in parts)


def inside(spec: EnvSpec, action: Action) -> Array:
    """Continuous actions of an environment's as the networks have them, in [-1, 1]^d."""
    if not isinstance(spec.action_space, gymnasium.spaces.Box):
        return action
    middle, half = bounds(spec, action)
    return jnp.clip((action - middle) / half, -1.0, 1.0)


def outside(spec: EnvSpec, action: Array) -> Action:
    """The inverse."""
    if not isinstance(spec.action_space, gymnasium.spaces.Box):
        return action
    middle, half = bounds(spec, action)
    return middle + half * action


def imitation(policy: Distribution, action: Array) -> Metrics:
    """How far a policy is from the actions of the data: of discrete ones the share that are its
    own, else the mean distance in a dimension, where the box is 2 wide."""
    if isinstance(policy, Gaussian):
        return {"action_gap": jnp.mean(jnp.abs(policy.mode() - action))}
    same = (policy.mode() == action).reshape(action.shape[0], -1).all(axis=-1)
    return {"agreement": jnp.mean(same.astype(jnp.float32))}
