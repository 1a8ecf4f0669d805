"""TD3 (Fujimoto, van Hoof & Meger 2018, arXiv 1802.09477) in one file: off-policy, deterministic.

    actorcritic train docs.examples.td3:TD3 Pendulum-v1

Three ideas make DDPG stable: the smaller of two critics in the target, noise on the target's
action, and an actor that moves less often than the critics. Inside, actions are in [-1, 1].
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp

import actorcritic as ac
from actorcritic.algorithms.replay import Buffer
from actorcritic.maths import optimizers, spaces
from actorcritic.maths.networks import Dense


class Networks(NamedTuple):
    """Parameters of the actor and of two critics: each a torso and a head."""

    actor: Any
    critics: tuple[Any, Any]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Learner:
    """Everything that learning changes, and the spec, which is a constant of the program."""

    networks: Networks
    targets: Networks
    optimizers: Networks  # states of Adam
    buffer: Buffer
    spec: ac.EnvSpec = field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Actor:
    """What acting needs of a learner."""

    params: Any
    random: jax.Array  # whether actions are still random, before the learning
    spec: ac.EnvSpec = field(metadata={"static": True})


@ac.hyperparameters
class TD3(ac.Algorithm):
    """Twin delayed deep deterministic policy gradient."""

    name: ClassVar[str] = "td3"
    action_spaces: ClassVar[tuple[type, ...]] = (gymnasium.spaces.Box,)

    num_envs: int = ac.hyperparameter(1, "environments stepped side by side", "[1, 1e6]")
    num_steps: int = ac.hyperparameter(2, "steps of each environment before an update", "[1, 1e6]")
    gradient_steps: int = ac.hyperparameter(2, "steps of the critics in an update", "[1, 1e6]")
    policy_delay: int = ac.hyperparameter(2, "steps of the critics for one of the actor", "[1, 99]")
    batch_size: int = ac.hyperparameter(256, "transitions in a minibatch", "[1, 1e6]")
    buffer_size: int = ac.hyperparameter(100_000, "transitions that are kept", "[1, 1e9]")
    learning_starts: int = ac.hyperparameter(1_000, "random steps at first", "[1, 1e9]")
    learning_rate: float = ac.hyperparameter(1e-3, "step size of actor and critics", "(0, 10]")
    gamma: float = ac.hyperparameter(0.99, "discount factor γ", "(0, 1]")
    tau: float = ac.hyperparameter(0.005, "share that enters the targets", "(0, 1]")
    exploration_noise: float = ac.hyperparameter(0.1, "deviation of the noise in acting", "[0, 9]")
    target_noise: float = ac.hyperparameter(0.2, "deviation of the target's noise", "[0, 9]")
    target_noise_clip: float = ac.hyperparameter(0.5, "largest noise of the target", "[0, 9]")
    hidden_sizes: tuple[int, ...] = ac.hyperparameter((256, 256), "widths of the hidden layers")

    # ------------------------------------------------------------------ the protocol

    @property
    def collects(self) -> ac.Collects:
        return ac.Collects(self.num_envs, self.num_steps)

    def check(self, spec: ac.EnvSpec) -> None:
        if self.gradient_steps % self.policy_delay:
            raise ac.UserError(
                f"gradient_steps = {self.gradient_steps} must be a multiple of policy_delay = "
                f"{self.policy_delay}."
            )

    def init(self, key: jax.Array, spec: ac.EnvSpec) -> Learner:
        features, size = (
            spaces.feature_count(spec.observation_space),
            math.prod(spec.action_space.shape),
        )
        actor_key, first_key, second_key = jax.random.split(key, 3)
        networks = Networks(
            actor=self._network(actor_key, features, size, 0.01),
            critics=(
                self._network(first_key, features + size, 1, 1.0),
                self._network(second_key, features + size, 1, 1.0),
            ),
        )
        return Learner(
            networks=networks,
            targets=jax.tree.map(jnp.copy, networks),
            optimizers=Networks(*(optimizers.init("adam", part, flat=False) for part in networks)),
            buffer=Buffer.empty(spec.observation_space, size, self.buffer_size, self.num_envs),
            spec=spec,
        )

    def actor(self, learner: Learner) -> Actor:
        random = learner.buffer.seen < self.learning_starts
        return Actor(learner.networks.actor, random, learner.spec)

    def act(
        self, actor: Actor, observation: Any, key: jax.Array, *, explore: bool = True
    ) -> ac.Decision:
        x = spaces.encode(actor.spec.observation_space, observation)
        action = self._policy(actor.params, x)
        if explore:
            noise_key, uniform_key = jax.random.split(key)
            noise = self.exploration_noise * jax.random.normal(noise_key, action.shape)
            uniform = jax.random.uniform(uniform_key, action.shape, minval=-1.0)
            action = jnp.where(actor.random, uniform, jnp.clip(action + noise, -1.0, 1.0))
        middle, half = _bounds(actor.spec, action)
        return ac.Decision(middle + half * action)

    def update(
        self, learner: Learner, batch: ac.Transition, key: jax.Array, progress: jax.Array
    ) -> tuple[Learner, dict[str, jax.Array]]:
        middle, half = _bounds(learner.spec, batch.action)
        buffer = learner.buffer.insert(batch._replace(action=(batch.action - middle) / half))
        draw_key, noise_key = jax.random.split(key)
        rounds = self.gradient_steps // self.policy_delay
        drawn = buffer.draw(draw_key, (rounds, self.policy_delay, self.batch_size))

        def one_round(k: jax.Array, carry: Any) -> Any:
            learner, sums = carry
            learner, metrics = self._round(learner, drawn[k], jax.random.fold_in(noise_key, k))
            return learner, jax.tree.map(jnp.add, sums, metrics)

        learner = replace(learner, buffer=buffer)
        sums = dict.fromkeys(("value_loss", "q_value", "policy_loss"), jnp.zeros(()))
        begun = jnp.where(buffer.seen >= self.learning_starts, rounds, 0)
        learner, sums = jax.lax.fori_loop(0, begun, one_round, (learner, sums))
        return learner, {name: total / rounds for name, total in sums.items()}

    # ------------------------------------------------------------------ its parts

    def _round(
        self, learner: Learner, drawn: jax.Array, key: jax.Array
    ) -> tuple[Learner, dict[str, jax.Array]]:
        """`policy_delay` steps of the critics, then one of the actor and of all targets."""
        space, (actor, critics) = learner.spec.observation_space, learner.networks
        actor_state, critics_state = learner.optimizers
        for k in range(self.policy_delay):
            rows = learner.buffer.at(drawn[k])
            x, after = (
                spaces.encode(space, part) for part in (rows.observation, rows.next_observation)
            )
            target = self._target(learner.targets, rows, after, jax.random.fold_in(key, k))
            gradient, (value_loss, q_value) = jax.grad(self._critics_loss, has_aux=True)(
                critics, x, rows.action, target
            )
            critics, critics_state = self._adam(critics, gradient, critics_state)

        def actor_loss(actor: Any) -> jax.Array:
            return -jnp.mean(self._q(critics[0], x, self._policy(actor, x)))

        policy_loss, gradient = jax.value_and_grad(actor_loss)(actor)
        actor, actor_state = self._adam(actor, gradient, actor_state)
        networks = Networks(actor, critics)
        targets = jax.tree.map(lambda t, w: t + self.tau * (w - t), learner.targets, networks)
        states = Networks(actor_state, critics_state)
        learner = replace(learner, networks=networks, targets=targets, optimizers=states)
        return learner, {"value_loss": value_loss, "q_value": q_value, "policy_loss": policy_loss}

    def _target(self, targets: Networks, rows: Any, after: jax.Array, key: jax.Array) -> jax.Array:
        """r + γ (1 - terminated) min_i Q'_i(s', π'(s') + noise)."""
        action = self._policy(targets.actor, after)
        noise = self.target_noise * jax.random.normal(key, action.shape)
        noise = jnp.clip(noise, -self.target_noise_clip, self.target_noise_clip)
        action = jnp.clip(action + noise, -1.0, 1.0)
        next_q = jnp.minimum(*(self._q(critic, after, action) for critic in targets.critics))
        return rows.reward + self.gamma * jnp.where(rows.terminated, 0.0, next_q)

    def _critics_loss(
        self, critics: Any, x: jax.Array, action: jax.Array, target: jax.Array
    ) -> tuple[jax.Array, Any]:
        first, second = (self._q(critic, x, action) for critic in critics)
        loss = jnp.mean((first - target) ** 2) + jnp.mean((second - target) ** 2)
        return loss, (loss, jnp.mean(first))

    def _network(self, key: jax.Array, inputs: int, outputs: int, gain: float) -> Any:
        torso_key, head_key = jax.random.split(key)
        torso = self._torso.init(torso_key, jnp.zeros((1, inputs)))
        return torso, Dense.init(head_key, self.hidden_sizes[-1], outputs, gain)

    @property
    def _torso(self) -> ac.MLP:
        return ac.MLP(self.hidden_sizes, "relu")

    def _policy(self, params: Any, x: jax.Array) -> jax.Array:
        torso, head = params
        return jnp.tanh(head(self._torso.apply(torso, x)))

    def _q(self, params: Any, x: jax.Array, action: jax.Array) -> jax.Array:
        torso, head = params
        return head(self._torso.apply(torso, jnp.concatenate([x, action], -1))).squeeze(-1)

    def _adam(self, params: Any, gradient: Any, state: Any) -> tuple[Any, Any]:
        params, state, _ = optimizers.step(
            "adam", params, gradient, state, self.learning_rate, 1e9, flat=False, epsilon=1e-8
        )
        return params, state


def _bounds(spec: ac.EnvSpec, action: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The middle of the box of actions and half its width, in the shape of `action`."""
    box: Any = spec.action_space
    low, high = (jnp.asarray(end.reshape(-1), action.dtype) for end in (box.low, box.high))
    middle, half = (jnp.broadcast_to(x / 2, action.shape) for x in (high + low, high - low))
    return middle, half
