"""The actor-critic of one-step episodes: what is learned from decisions and their rewards.

It is an `Algorithm` whose `update` takes decisions out of a log, of whichever policy: μ(a|x) is
stored beside each. The critic learns Q(x, a); the actor goes up the doubly robust estimate of its
own value (Dudík, Langford & Li 2011), in which the critic is the baseline:

    J(π) = E_μ[ Σ_b π(b|x) Q(x, b) + ρ (r − Q(x, a)) ] + α H(π(·|x)),   ρ = π(a|x) / μ(a|x)

Its gradient is unbiased for any fixed Q, and has little variance where Q is good. ρ is clipped from
above, as in V-trace: rare actions of long ago must not outweigh everything else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from actorcritic.core.errors import UserError
from actorcritic.core.hyperparameters import hyperparameter, hyperparameters
from actorcritic.core.types import Algorithm, Decision, EnvSpec, Extras, Metrics
from actorcritic.maths import losses, optimizers, spaces
from actorcritic.maths.distributions import Categorical
from actorcritic.maths.networks import Dense


class Decisions(NamedTuple):
    """Decisions whose rewards are known, one a row."""

    features: Float[Array, "N d"]  # of length about 1
    allowed: Bool[Array, "N K"]
    action: Int[Array, " N"]
    log_prob: Float[Array, " N"]  # log μ(a|x), of the policy that acted
    reward: Float[Array, " N"]


class Head(NamedTuple):
    """A function of features and action: one hidden layer, then one output an action."""

    hidden: Dense
    output: Dense

    @classmethod
    def init(cls, key: Key[Array, ""], d: int, width: int, actions: int) -> Head:
        # Features have length 1, so that weights of variance 2 keep it; outputs start at 0.
        hidden = Dense(jnp.sqrt(2.0) * jax.random.normal(key, (d, width)), jnp.zeros(width))
        return cls(hidden, Dense(jnp.zeros((width, actions)), jnp.zeros(actions)))

    def __call__(self, x: Float[Array, "N d"]) -> Float[Array, "N K"]:
        width = self.hidden.weight.shape[-1]
        return self.output(jax.nn.relu(self.hidden(x)) / jnp.sqrt(width).astype(x.dtype))

    def widened(self, actions: int) -> Head:
        """The same function, with new actions whose outputs are 0."""
        more = [(0, 0), (0, actions - self.output.bias.shape[-1])]
        weight, bias = (np.pad(x, more[-x.ndim :]) for x in map(np.asarray, self.output))
        return self._replace(output=Dense(jnp.asarray(weight), jnp.asarray(bias)))


class Networks(NamedTuple):
    actor: Head
    critic: Head


@partial(jax.tree_util.register_dataclass, data_fields=["params", "optimizer"], meta_fields=[])
@dataclass(frozen=True)
class Learner:
    """Everything that learning changes."""

    params: Networks
    optimizer: Any

    @property
    def actions(self) -> int:
        return int(self.params.actor.output.bias.shape[-1])


@hyperparameters
class DecisionActorCritic(Algorithm[Learner, Head, Decisions]):
    """One gradient step of actor and critic on a batch of decisions (see the module)."""

    name: ClassVar[str] = "decision-actor-critic"
    action_spaces: ClassVar[tuple[type, ...]] = (gymnasium.spaces.Discrete,)

    learning_rate: float = hyperparameter(2e-3, "step size of Adam", "(0, 10]")
    entropy_coefficient: float = hyperparameter(0.15, "weight of the entropy bonus", "[0, 1e3]")
    hidden_size: int = hyperparameter(256, "width of the hidden layer of each network", "[1, 4096]")
    batch_size: int = hyperparameter(64, "decisions of a gradient step", "[1, 1e5]")
    ratio_clip: float = hyperparameter(10.0, "largest π / μ of an old decision", "[1, 1e9]")
    max_grad_norm: float = hyperparameter(10.0, "largest norm of the gradient", "(0, 1e9]")

    def check(self, spec: EnvSpec) -> None:
        if not isinstance(spec.action_space, gymnasium.spaces.Discrete):
            raise UserError(f"{self.name} chooses one of several actions, not {spec.action_space}.")

    def init(self, key: Key[Array, ""], spec: EnvSpec) -> Learner:
        d = spaces.feature_count(spec.observation_space)
        actions = int(spec.action_space.n)  # type: ignore[attr-defined]
        params = Networks(
            *(Head.init(k, d, self.hidden_size, actions) for k in jax.random.split(key))
        )
        return Learner(params, optimizers.init("adam", params, flat=False))

    def actor(self, learner: Learner) -> Head:
        return learner.params.actor

    def act(
        self, actor: Head, observation: Any, key: Key[Array, ""], *, explore: bool = True
    ) -> Decision:
        policy = Categorical(actor(observation))
        action = policy.sample(key) if explore else policy.mode()
        return Decision(action, Extras(log_prob=policy.log_prob(action)))

    def update(
        self, learner: Learner, batch: Decisions, key: Key[Array, ""], progress: Float[Array, ""]
    ) -> tuple[Learner, Metrics]:
        gradient, metrics = jax.grad(self.loss, has_aux=True)(learner.params, batch)
        params, optimizer, norm = optimizers.step(
            "adam",
            learner.params,
            gradient,
            learner.optimizer,
            self.learning_rate,
            self.max_grad_norm,
            flat=False,
        )
        return Learner(params, optimizer), metrics | {"gradient_norm": norm}

    def loss(self, params: Networks, batch: Decisions) -> tuple[Float[Array, ""], Metrics]:
        """−J + ½ E[(Q(x, a) − r)²]."""
        policy = Categorical(params.actor(batch.features)).masked(batch.allowed)
        q = params.critic(batch.features)
        chosen = jax.nn.one_hot(batch.action, q.shape[-1], dtype=q.dtype)
        q_chosen = jnp.sum(q * chosen, axis=-1)
        fixed = jax.lax.stop_gradient(q)
        error = batch.reward - jnp.sum(fixed * chosen, axis=-1)
        value = jnp.sum(jax.nn.softmax(policy.logits) * fixed, axis=-1)
        log_prob = policy.log_prob(batch.action)
        # A ratio above the clip counts as the clip: raise the μ that it is taken with.
        least = jax.lax.stop_gradient(log_prob) - jnp.log(jnp.asarray(self.ratio_clip, q.dtype))
        behaviour = jnp.maximum(batch.log_prob, least)
        correction = losses.surrogate_loss(log_prob, behaviour, error)
        policy_loss, entropy = jnp.mean(correction - value), jnp.mean(policy.entropy())
        value_loss = jnp.mean(losses.value_loss(q_chosen, batch.reward))
        loss = policy_loss - self.entropy_coefficient * entropy + value_loss
        return loss, {"policy_loss": policy_loss, "entropy": entropy, "value_loss": value_loss}

    @staticmethod
    def widened(learner: Learner, actions: int) -> Learner:
        """The same learner, with room for more actions."""
        # Adam's moments are shaped as the parameters: those of what was never used are 0.
        grow: Any = lambda x: x.widened(actions) if isinstance(x, Head) else x  # noqa: E731
        tree: PyTree = jax.tree.map(grow, learner, is_leaf=lambda x: isinstance(x, Head))
        return replace(learner, params=tree.params, optimizer=tree.optimizer)
