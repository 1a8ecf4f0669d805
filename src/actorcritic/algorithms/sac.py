"""Soft actor-critic (Haarnoja et al. 2018, arXiv 1812.05905): off-policy, for continuous actions.

The policy maximises E[Σ γ^t (r_t + α H(π(·|s_t)))]. Every step is kept in a replay buffer, from
which a gradient step draws a minibatch, and in turn moves

  the critics    Q_i(s, a) towards r + γ (1 - terminated) (min_j Q'_j(s', a') - α log π(a'|s'))
  their targets  Q'_i by `tau` towards Q_i
  the actor      down E[α log π(a|s) - min_i Q_i(s, a)]
  α              so that the policy's entropy comes to `target_entropy`

with a ~ π(s), a' ~ π(s'). Inside, actions are in [-1, 1]^d and so is the policy's density, so that
entropies do not depend on the units of an environment's actions; `act` scales to its bounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key, PyTree

from actorcritic.algorithms.replay import Buffer, Stored
from actorcritic.core import machine
from actorcritic.core.errors import UserError
from actorcritic.core.hyperparameters import hyperparameter, hyperparameters
from actorcritic.core.types import (
    Action,
    Algorithm,
    Collects,
    Decision,
    EnvSpec,
    Metrics,
    Observation,
    Transition,
)
from actorcritic.maths import losses, optimizers, spaces
from actorcritic.maths.distributions import TanhGaussian
from actorcritic.maths.networks import MLP, ActorCritic, Dense, NetworkLike, check_network


class Sample(NamedTuple):
    """A minibatch; `inputs` are the critics': the encoded observation and the action."""

    inputs: Float[Array, "N features+d"]
    observation: Float[Array, "N features"]
    reward: Float[Array, " N"]
    terminated: Float[Array, " N"]
    next_observation: Float[Array, "N features"]
    own: Any = ()  # whatever else a variant's losses want


Critics = tuple[Any, Any]  # two, each apart: on a CPU, products of stacked matrices are slow


class Parameters(NamedTuple):
    actor: PyTree
    critics: Critics
    targets: Critics
    log_temperature: Float[Array, ""]


class Optimizer(NamedTuple):
    """States of Adam."""

    actor: Any
    critics: Any
    log_temperature: Any


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["params", "uniform", "warm_up"],
    meta_fields=["spec"],
)
@dataclass(frozen=True)
class Actor:
    """What acting needs of a learner."""

    params: PyTree  # the policy's
    uniform: Bool[Array, ""]  # whether actions are still random, before the learning
    warm_up: Key[Array, ""]
    spec: EnvSpec


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["params", "optimizer", "buffer", "warm_up"],
    meta_fields=["spec"],
)
@dataclass(frozen=True)
class Learner:
    """Everything that learning changes."""

    params: Parameters
    optimizer: Optimizer
    buffer: Buffer
    warm_up: Key[Array, ""]  # of the random actions before the learning, drawn anew each update
    spec: EnvSpec


def sizes(spec: EnvSpec) -> tuple[int, int]:
    """How many features an observation has, and how many dimensions an action."""
    return spaces.feature_count(spec.observation_space), math.prod(spec.action_space.shape or ())


@dataclass(frozen=True)
class Model:
    """A policy π(a|s) over [-1, 1]^d and critics Q(s, a), over encoded observations.

    The policy is a Gaussian squashed by tanh, with log σ from the network, clamped to [-20, 2]. A
    critic takes observation and action side by side.
    """

    spec: EnvSpec
    network: NetworkLike

    def init(self, key: Key[Array, ""], temperature: float | Float[Array, ""]) -> Parameters:
        actor_key, *critic_keys = jax.random.split(key, 3)
        features, d = sizes(self.spec)
        x = jnp.zeros((1, features + d))

        def critic(key: Key[Array, ""]) -> tuple[PyTree, Dense]:
            trunk_key, head_key = jax.random.split(key)
            trunk = self.network.init(trunk_key, x)
            width = jax.eval_shape(self.network.apply, trunk, x).shape[-1]
            return trunk, Dense.init(head_key, width, 1, 1.0)

        first, second = map(critic, critic_keys)
        return Parameters(
            actor=self._actor.init(actor_key),
            critics=(first, second),
            targets=jax.tree.map(jnp.copy, (first, second)),  # what is donated must not be shared
            log_temperature=jnp.log(jnp.asarray(temperature, x.dtype)),
        )

    @property
    def _actor(self) -> ActorCritic:
        inside = gymnasium.spaces.Box(-1.0, 1.0, sizes(self.spec)[1:])
        spec = replace(self.spec, action_space=inside)
        return ActorCritic(spec, self.network, critic=None, state_dependent_std=True, squash=True)

    def policy(self, actor: PyTree, x: Float[Array, "... features"]) -> TanhGaussian:
        policy = self._actor.policy(actor, x)
        assert isinstance(policy, TanhGaussian)
        return policy

    def draw(
        self, actor: PyTree, x: Float[Array, "... features"], noise: Float[Array, "... d"]
    ) -> tuple[Float[Array, "... d"], Float[Array, "..."]]:
        """Actions as functions of the actor and standard normal noise, and their log-densities."""
        policy = self.policy(actor, x)
        u = policy.mean + jnp.exp(policy.log_std) * noise
        return policy.action(u), policy.log_prob(u)

    def q(
        self, critic: tuple[PyTree, Dense], inputs: Float[Array, "... features+d"]
    ) -> Float[Array, "..."]:
        trunk, head = critic
        return head(self.network.apply(trunk, inputs)).squeeze(-1)

    def least_q(
        self, critics: Critics, x: Float[Array, "... features"], action: Float[Array, "... d"]
    ) -> Float[Array, "..."]:
        inputs = jnp.concatenate([x, action], axis=-1)
        return jnp.minimum(*(self.q(critic, inputs) for critic in critics))


# Leaf by leaf, because of the size of the matrices.
_adam = partial(optimizers.step, "adam", flat=False, epsilon=1e-8)


@hyperparameters
class SAC(Algorithm[Learner, Actor, Transition]):
    """Soft actor-critic with two critics and a learned temperature α.

    `gradient_steps` follow each num_envs × num_steps environment steps: the update-to-data ratio
    is gradient_steps / (num_envs × num_steps). Until the buffer holds `learning_starts`
    transitions, actions are uniformly random and nothing is learned; an environment holds such an
    action for the `num_steps` steps of a rollout, which explores further than one that trembles.
    """

    name: ClassVar[str] = "sac"
    action_spaces: ClassVar[tuple[type, ...]] = (gymnasium.spaces.Box,)

    num_envs: int = hyperparameter(1, "environments stepped side by side", "[1, 1e6]")
    num_steps: int = hyperparameter(1, "steps of each environment before an update", "[1, 1e6]")
    gradient_steps: int = hyperparameter(1, "minibatches that an update learns from", "[1, 1e6]")
    batch_size: int = hyperparameter(256, "transitions in a minibatch", "[1, 1e6]")
    buffer_size: int = hyperparameter(1_000_000, "transitions that are kept", "[1, 1e9]")
    learning_starts: int = hyperparameter(
        100, "steps with random actions before the learning", "[0, 1e9]"
    )
    learning_rate: float = hyperparameter(3e-4, "step size of the actor", "(0, 10]")
    critic_learning_rate: float = hyperparameter(3e-4, "step size of the critics", "(0, 10]")
    temperature_learning_rate: float = hyperparameter(3e-4, "step size of log α", "(0, 10]")
    max_grad_norm: float = hyperparameter(
        1e9, "the actor's and the critics' gradients are each scaled down to this norm", "(0, 1e9]"
    )
    gamma: float = hyperparameter(0.99, "discount factor γ", "(0, 1]")
    tau: float = hyperparameter(0.005, "share of the critics that enters their targets", "(0, 1]")
    learn_temperature: bool = hyperparameter(True, "adjust α to the target entropy")
    initial_temperature: float = hyperparameter(1.0, "the weight α of the entropy", "(0, 1e3]")
    target_entropy: float | None = hyperparameter(
        None, "of the policy over [-1, 1]^d, in nats; none: -d", "[-1e6, 1e6]"
    )
    hidden_sizes: tuple[int, ...] = hyperparameter((256, 256), "widths of the hidden layers")
    activation: Literal["tanh", "relu", "swish", "gelu"] = hyperparameter("relu", "between layers")
    network: NetworkLike | None = hyperparameter(
        None, "an (init, apply) pair in place of hidden_sizes and activation (Python only)"
    )

    # ------------------------------------------------------------------ the protocol

    @property
    def collects(self) -> Collects:
        return Collects(self.num_envs, self.num_steps)

    def check(self, spec: EnvSpec) -> None:
        spaces.check_one_agent(spec, self.name)
        if self.network is not None:
            check_network(self.network, sizes(spec)[0])
        batch = self.num_envs * self.num_steps
        least = max(batch, self.batch_size, self.learning_starts)
        if self.buffer_size < least:
            raise UserError(
                f"buffer_size = {self.buffer_size} is too small for batch_size = "
                f"{self.batch_size}, learning_starts = {self.learning_starts} and num_envs × "
                f"num_steps = {batch}; it must be at least {least}."
            )
        room = jax.eval_shape(lambda: self._buffer(spec)).nbytes
        memory = machine.memory()
        if memory is not None and room > memory:
            fits = int(self.buffer_size * (memory / 2) / room)
            raise UserError(
                f"buffer_size = {self.buffer_size} would take {room / 1e9:,.1f} GB of memory on "
                f"{spec.id}, and this machine has {memory / 1e9:,.1f} GB. Half of it is enough for "
                f"buffer_size = {fits}."
            )

    def init(self, key: Key[Array, ""], spec: EnvSpec) -> Learner:
        key, warm_up = jax.random.split(key)
        params = self._model(spec).init(key, self.initial_temperature)
        parts = params.actor, params.critics, params.log_temperature
        return Learner(
            params=params,
            optimizer=Optimizer(*(optimizers.init("adam", part, flat=False) for part in parts)),
            buffer=self._buffer(spec),
            warm_up=warm_up,
            spec=spec,
        )

    def actor(self, learner: Learner) -> Actor:
        uniform = learner.buffer.seen < self.learning_starts
        return Actor(learner.params.actor, uniform, learner.warm_up, learner.spec)

    def act(
        self, actor: Actor, observation: Observation, key: Key[Array, ""], *, explore: bool = True
    ) -> Decision:
        x = spaces.encode(actor.spec.observation_space, observation)
        model = self._model(actor.spec)
        policy = model.policy(actor.params, x)
        action = policy.action(policy.mode())
        if explore:
            noise = jax.random.normal(key, action.shape, action.dtype)
            action, _ = model.draw(actor.params, x, noise)
            uniform = jax.random.uniform(actor.warm_up, action.shape, minval=-1.0)
            action = jnp.where(actor.uniform, uniform, action)
        middle, half = bounds(actor.spec, action)
        return Decision(middle + half * action)

    def update(
        self, learner: Learner, batch: Transition, key: Key[Array, ""], progress: Float[Array, ""]
    ) -> tuple[Learner, Metrics]:
        buffer = self._stored(learner, batch)
        draw_key, learn_key, warm_up = jax.random.split(key, 3)
        drawn = buffer.draw(draw_key, (self.gradient_steps, self.batch_size))

        def step(k: Array, carry: Any) -> Any:
            params, optimizer, sums = carry
            sample = _sample(learner.spec, buffer.at(drawn[k]))
            now = replace(learner, params=params, optimizer=optimizer)
            now, metrics = self.learn(now, sample, jax.random.fold_in(learn_key, k))
            return now.params, now.optimizer, jax.tree.map(jnp.add, sums, metrics)

        # A loop of no steps, and not `cond`, which would copy all that it may change.
        begun = buffer.seen >= max(self.learning_starts, 1)
        steps = jnp.where(begun, self.gradient_steps, 0)
        names = ("policy_loss", "value_loss", "entropy", "temperature", "q_value", "gradient_norm")
        sums = dict.fromkeys(names, jnp.zeros((), batch.reward.dtype))
        params, optimizer, sums = jax.lax.fori_loop(
            0, steps, step, (learner.params, learner.optimizer, sums)
        )
        metrics = {name: total / self.gradient_steps for name, total in sums.items()}
        learner = replace(
            learner, params=params, optimizer=optimizer, buffer=buffer, warm_up=warm_up
        )
        return learner, metrics

    def learn(
        self, learner: Learner, sample: Sample, key: Key[Array, ""]
    ) -> tuple[Learner, Metrics]:
        """One gradient step of each part, each with what the ones before it have become.

        It stands by itself: where the minibatch comes from, it does not know.
        """
        model = self._model(learner.spec)
        params, optimizer = learner.params, learner.optimizer
        actor, critics, targets, log_temperature = params
        temperature = jnp.exp(log_temperature)
        # For the actions in the targets, and for those in the actor's loss.
        size = (2, sample.reward.shape[0], sizes(learner.spec)[1])
        noise = jax.random.normal(key, size, sample.reward.dtype)

        target = self._target(model, params, sample, noise[0])
        gradient, said = jax.grad(partial(self._critics_loss, model), has_aux=True)(
            critics, sample, target
        )
        critics, critics_state, critics_norm = _adam(
            critics, gradient, optimizer.critics, self.critic_learning_rate, self.max_grad_norm
        )
        targets = jax.tree.map(lambda t, q: t + self.tau * (q - t), targets, critics)

        gradient, (policy_loss, log_prob) = jax.grad(
            partial(self._actor_loss, model), has_aux=True
        )(actor, critics, temperature, sample.observation, noise[1])
        actor, actor_state, actor_norm = _adam(
            actor, gradient, optimizer.actor, self.learning_rate, self.max_grad_norm
        )

        temperature_state = optimizer.log_temperature
        if self.learn_temperature:
            gradient = jax.grad(partial(self._temperature_loss, model))(log_temperature, log_prob)
            log_temperature, temperature_state, _ = _adam(
                log_temperature, gradient, temperature_state, self.temperature_learning_rate, 1e9
            )
        metrics = said | {
            "policy_loss": policy_loss,
            "entropy": -jnp.mean(log_prob),
            "temperature": temperature,
            "gradient_norm": jnp.hypot(critics_norm, actor_norm),
        }
        learner = replace(
            learner,
            params=Parameters(actor, critics, targets, log_temperature),
            optimizer=Optimizer(actor_state, critics_state, temperature_state),
        )
        return learner, metrics

    def remember(self, learner: Learner, batch: Transition) -> Learner:
        middle, half = bounds(learner.spec, batch.action)
        batch = batch._replace(action=(batch.action - middle) / half)
        alone = learner.buffer._replace(latest=jnp.full(batch.reward.shape[1], -1, jnp.int32))
        buffer = alone.insert(batch)._replace(latest=jnp.full_like(learner.buffer.latest, -1))
        return replace(learner, buffer=buffer)

    # ------------------------------------------------------------------ for whoever looks inside

    def policy(self, actor: Actor, observation: Observation) -> TanhGaussian:
        """π(·|s) over the environment's own actions, for observations [..., *]."""
        x = spaces.encode(actor.spec.observation_space, observation)
        policy = self._model(actor.spec).policy(actor.params, x)
        box: Any = actor.spec.action_space
        low, high = (jnp.asarray(end.reshape(-1), x.dtype) for end in (box.low, box.high))
        return replace(policy, low=low, high=high)

    def value(
        self, learner: Learner, observation: Observation, action: Array
    ) -> Float[Array, "..."]:
        """min_i Q_i(s, a) for observations [..., *] and actions as `act` gives them."""
        x = spaces.encode(learner.spec.observation_space, observation)
        middle, half = bounds(learner.spec, action)
        model = self._model(learner.spec)
        return model.least_q(learner.params.critics, x, (action - middle) / half)

    # ------------------------------------------------------------------ its parts

    def _target(
        self, model: Model, params: Parameters, sample: Sample, noise: Float[Array, "N d"]
    ) -> Float[Array, " N"]:
        action, log_prob = model.draw(params.actor, sample.next_observation, noise)
        next_q = model.least_q(params.targets, sample.next_observation, action)
        temperature = jnp.exp(params.log_temperature)
        return losses.soft_target(
            sample.reward, sample.terminated, next_q, log_prob, temperature, self.gamma
        )

    def _critics_loss(
        self, model: Model, critics: Critics, sample: Sample, target: Float[Array, " N"]
    ) -> tuple[Float[Array, ""], Metrics]:
        q = jnp.stack([model.q(critic, sample.inputs) for critic in critics])
        loss = jnp.sum(jnp.mean(losses.value_loss(q, target[None]), axis=-1))
        return loss, {"value_loss": loss, "q_value": jnp.mean(q)}

    def _actor_loss(
        self,
        model: Model,
        actor: PyTree,
        critics: Critics,
        temperature: Float[Array, ""],
        observation: Float[Array, "N features"],
        noise: Float[Array, "N d"],
    ) -> tuple[Float[Array, ""], Any]:
        action, log_prob = model.draw(actor, observation, noise)
        q = model.least_q(critics, observation, action)
        loss = jnp.mean(losses.soft_policy_loss(q, log_prob, temperature))
        return loss, (loss, log_prob)

    def _temperature_loss(
        self, model: Model, log_temperature: Float[Array, ""], log_prob: Float[Array, " N"]
    ) -> Float[Array, ""]:
        target = self.target_entropy
        target = -float(sizes(model.spec)[1]) if target is None else target
        return jnp.mean(losses.temperature_loss(log_temperature, log_prob, target))

    def _model(self, spec: EnvSpec) -> Model:
        return Model(spec, self.network or MLP(self.hidden_sizes, self.activation))

    def _buffer(self, spec: EnvSpec) -> Buffer:
        return Buffer.empty(spec.observation_space, sizes(spec)[1], self.buffer_size, self.num_envs)

    def _stored(self, learner: Learner, batch: Transition) -> Buffer:
        """The buffer with the batch, its actions scaled to [-1, 1]."""
        middle, half = bounds(learner.spec, batch.action)
        return learner.buffer.insert(batch._replace(action=(batch.action - middle) / half))


def bounds(spec: EnvSpec, action: Action) -> tuple[Array, Array]:
    """The middle of the box of actions and half its width, like `action`."""
    space: Any = spec.action_space
    low, high = space.low.reshape(-1) / 2, space.high.reshape(-1) / 2
    middle, half = (jnp.asarray(x, action.dtype) for x in (low + high, high - low))
    return jnp.broadcast_to(middle, action.shape), jnp.broadcast_to(half, action.shape)


def _sample(spec: EnvSpec, rows: Stored) -> Sample:
    """What is drawn from the buffer, encoded."""
    space = spec.observation_space
    observation = spaces.encode(space, rows.observation)
    return Sample(
        inputs=jnp.concatenate([observation, rows.action], axis=-1),
        observation=observation,
        reward=rows.reward,
        terminated=rows.terminated.astype(rows.reward.dtype),
        next_observation=spaces.encode(space, rows.next_observation),
    )
