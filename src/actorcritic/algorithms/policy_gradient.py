"""The policy-gradient family, and in it A2C and PPO.

Further members: `reinforce.py`, `one_step.py` (TD and Q actor-critic), `trpo.py`. All follow the
gradient E[∇ log π(a_t|s_t) Ψ_t]. They differ in Ψ_t, in how experience is collected, and in how
often a batch is used:

              Ψ_t                               batch                   steps on a batch
  REINFORCE   G_t, or G_t - V(s_t)              whole episodes          one
  A2C         n-step or GAE(λ) advantage        num_steps × num_envs    one
  PPO         GAE(λ), inside a clipped ratio    num_steps × num_envs    epochs × minibatches
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key, PyTree

from actorcritic import estimators, losses, optimizers, spaces
from actorcritic.distributions import Distribution, TanhGaussian
from actorcritic.hyperparameters import hyperparameter, hyperparameters
from actorcritic.networks import (
    ActorCritic,
    Initialization,
    NetworkLike,
    Torso,
    default_network,
)
from actorcritic.types import Action, EnvSpec, Metrics, Observation, Transition, UserError

OPTIMIZERS = "adam (ε 1e-5), rmsprop (α 0.99, ε 1e-5) or sgd"
LAMBDA = "λ of GAE: 0 is the TD error, 1 the n-step return"
STANDARDISE = "shift and scale Ψ to mean 0, deviation 1"


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["params", "optimizer", "observations", "returns", "running_return"],
    meta_fields=["spec"],
)
@dataclass(frozen=True)
class Learner:
    """Everything that learning changes."""

    params: PyTree
    optimizer: Any
    observations: estimators.RunningStatistics | None  # of the encoded observations
    returns: estimators.RunningStatistics | None  # of the discounted sums of rewards
    running_return: Float[Array, " B"] | None  # those sums, of the episodes under way
    spec: EnvSpec


class Rows(NamedTuple):
    """A batch made ready for the loss: one row a step [N]."""

    observation: Float[Array, "N features"]
    allowed: Bool[Array, "N actions"] | None  # the mask of actions, where there is one
    action: Array  # as the policy drew it
    advantage: Float[Array, " N"]  # Ψ_t
    target: Float[Array, " N"]  # what V(s_t) is regressed on
    old_log_prob: Float[Array, " N"]
    old_value: Float[Array, " N"]
    valid: Bool[Array, " N"] | None


@hyperparameters
class PolicyGradient:
    """What the family shares. A member says what Ψ is and what its policy loss is."""

    name: ClassVar[str]
    action_spaces: ClassVar[tuple[type, ...]] = spaces.ACTION_SPACES
    critic: ClassVar[Literal["state", "action"] | None] = "state"  # V(s), Q(s, a), or none
    whole_episodes: ClassVar[bool] = False
    num_epochs: ClassVar[int] = 1
    num_minibatches: ClassVar[int] = 1
    recompute_advantages: ClassVar[bool] = False
    target_kl: ClassVar[float | None] = None

    num_envs: int = hyperparameter(8, "environments stepped side by side", "[1, 1e6]")
    num_steps: int = hyperparameter(5, "steps of each environment before an update", "[1, 1e6]")
    learning_rate: float = hyperparameter(7e-4, "step size of the optimiser", "(0, 10]")
    learning_rate_schedule: optimizers.Schedule = hyperparameter(
        "constant", "constant, or falling linearly to 0 at the end of the training"
    )
    critic_learning_rate: float | None = hyperparameter(
        None, "step size of a separate critic; None: learning_rate", "(0, 10]"
    )
    optimizer: optimizers.Kind = hyperparameter("adam", OPTIMIZERS)
    max_grad_norm: float = hyperparameter(0.5, "largest norm of the whole gradient", "(0, 1e9]")
    gamma: float = hyperparameter(0.99, "discount factor γ", "(0, 1]")
    entropy_coefficient: float = hyperparameter(0.0, "weight of the entropy bonus", "[0, 1e3]")
    value_coefficient: float = hyperparameter(0.5, "weight of the value loss", "[0, 1e3]")
    normalize_advantage: bool = hyperparameter(False, STANDARDISE)
    normalize_observation: bool = hyperparameter(False, "by running mean and deviation")
    normalize_reward: bool = hyperparameter(False, "by the deviation of the discounted return")
    torso: Torso = hyperparameter("auto", "mlp, cnn, or auto: cnn for images of bytes, else mlp")
    hidden_sizes: tuple[int, ...] = hyperparameter(
        (64, 64), "widths of the hidden layers; none: actor and critic are linear"
    )
    activation: Literal["tanh", "relu", "swish", "gelu"] = hyperparameter("tanh", "between layers")
    initialization: Initialization = hyperparameter("orthogonal", "of the weights")
    shared_network: bool = hyperparameter(False, "one trunk for policy and value")
    state_dependent_std: bool = hyperparameter(
        False, "continuous actions: log σ from the network, clamped to [-20, 2]"
    )
    initial_log_std: float = hyperparameter(
        0.0, "continuous actions: log σ at the start, unless it depends on the state", "[-20, 2]"
    )
    squash: bool = hyperparameter(
        False, "continuous actions: squash the Gaussian into the bounds by tanh"
    )
    network: NetworkLike | None = hyperparameter(None, "your own (init, apply) pair (Python only)")
    axis: str | None = hyperparameter(None, "mesh axis of a spread batch (set by the runner)")

    # ------------------------------------------------------------------ what a member decides

    def advantages(
        self, batch: Transition, reward: Array, value: Array, next_value: Array
    ) -> tuple[Float[Array, "T B"], Float[Array, "T B"]]:
        """Ψ_t, and the target of V(s_t)."""
        raise NotImplementedError

    def policy_loss(
        self, log_prob: Float[Array, " N"], rows: Rows, progress: Float[Array, ""]
    ) -> Float[Array, " N"]:
        return losses.policy_gradient_loss(log_prob, rows.advantage)

    def value_loss(
        self, value: Float[Array, " N"], rows: Rows, progress: Float[Array, ""]
    ) -> Float[Array, " N"]:
        return losses.value_loss(value, rows.target)

    # ------------------------------------------------------------------ the protocol

    def check(self, spec: EnvSpec) -> None:
        """Raise UserError where hyperparameters do not fit each other, or the environment."""
        self._model(spec)
        if self.critic_learning_rate is not None and self.shared_network:
            raise UserError(
                "critic_learning_rate needs separate networks, but shared_network is on: its trunk "
                "has one step size. Leave one of the two out."
            )
        rows = self.num_envs * self.num_steps
        if rows % self.num_minibatches:
            raise UserError(
                f"num_envs × num_steps = {self.num_envs} × {self.num_steps} = {rows} rows do not "
                f"divide into num_minibatches = {self.num_minibatches}; choose a divisor of {rows}."
            )
        if self.normalize_advantage and rows // self.num_minibatches < 2:
            raise UserError(
                "normalize_advantage needs minibatches of at least 2 rows; got "
                f"num_envs × num_steps / num_minibatches = {rows // self.num_minibatches}."
            )

    def init(self, key: Key[Array, ""], spec: EnvSpec) -> Learner:
        params = self._model(spec).init(key)
        features = spaces.feature_count(spec.observation_space)
        start = estimators.RunningStatistics.start
        return Learner(
            params=params,
            optimizer=optimizers.init(self.optimizer, params),
            observations=start((features,)) if self.normalize_observation else None,
            returns=start() if self.normalize_reward else None,
            running_return=jnp.zeros(self.num_envs) if self.normalize_reward else None,
            spec=spec,
        )

    def act(
        self,
        learner: Learner,
        observation: Observation,
        key: Key[Array, ""],
        *,
        explore: bool = True,
    ) -> tuple[Action, Any]:
        policy = self._policy(learner, observation)
        drawn = policy.sample(key) if explore else policy.mode()
        # Of an action that was squashed, the draw is kept: it cannot be told from the action.
        return (policy.action(drawn), drawn) if isinstance(policy, TanhGaussian) else (drawn, ())

    def update(
        self, learner: Learner, batch: Transition, key: Key[Array, ""], progress: Float[Array, ""]
    ) -> tuple[Learner, Metrics]:
        batch = batch.cleared()
        reward, returns, running_return = self._scaled_reward(learner, batch)
        value_key, key = jax.random.split(key)
        rows_of = partial(self._rows, learner, batch, reward, value_key)
        rows = rows_of(learner.params)
        params, optimizer, metrics = self._descend(learner, rows, rows_of, key, progress)

        if rows.target.size > 1:
            metrics["explained_variance"] = self._explained_variance(rows)
        observations = learner.observations
        if observations is not None:  # only now, so that the whole update saw what acted
            raw = spaces.encode(learner.spec.observation_space, batch.observation)
            observations = self._merge(observations, raw, batch.valid)
        learner = replace(
            learner,
            params=params,
            optimizer=optimizer,
            observations=observations,
            returns=returns,
            running_return=running_return,
        )
        return learner, metrics

    # ------------------------------------------------------------------ its parts

    def _model(self, spec: EnvSpec) -> ActorCritic:
        network = self.network or default_network(
            spec.observation_space,
            self.torso,
            self.hidden_sizes,
            self.activation,
            self.initialization,
        )
        return ActorCritic(
            spec,
            network,
            self.shared_network,
            self.critic,
            self.state_dependent_std,
            self.initial_log_std,
            self.squash,
            self.initialization,
        )

    def _encode(self, learner: Learner, observation: Observation) -> Float[Array, "... features"]:
        space = learner.spec.observation_space
        x = spaces.encode(space, observation)
        if learner.observations is not None:
            numeric = spaces.is_numeric(space)
            normal = learner.observations.normalize(x, clip=10.0)
            x = normal if numeric.all() else jnp.where(numeric, normal, x)
        return x

    def _policy(self, learner: Learner, observation: Observation) -> Distribution:
        x = self._encode(learner, observation)
        allowed = spaces.action_mask(learner.spec.observation_space, observation)
        return self._model(learner.spec).policy(learner.params, x, allowed)

    def _rows(
        self, learner: Learner, batch: Transition, reward: Array, key: Array, params: PyTree
    ) -> Rows:
        """The batch as rows, advantages and targets by the given parameters."""
        learner = replace(learner, params=params)
        observation = self._encode(learner, batch.observation)
        allowed = spaces.action_mask(learner.spec.observation_space, batch.observation)
        action = batch.action if isinstance(batch.extras, tuple) else batch.extras
        value, next_value = self._values(learner, batch, observation, key)
        policy = self._model(learner.spec).policy(params, observation, allowed)
        log_prob = policy.log_prob(action)
        advantage, target = self.advantages(batch, reward, value, next_value)
        rows = Rows(observation, allowed, action, advantage, target, log_prob, value, batch.valid)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rows)

    def _values(
        self, learner: Learner, batch: Transition, observation: Array, key: Array
    ) -> tuple[Float[Array, "T B"], Float[Array, "T B"]]:
        """V(s_t) and V(s_{t+1}); the successor is the next row's state, but not at a cut."""
        if self.critic is None:
            return jnp.zeros_like(batch.reward), jnp.zeros_like(batch.reward)

        def value_of(x: Observation) -> Array:
            return model.value(learner.params, self._encode(learner, x))

        model = self._model(learner.spec)
        value = model.value(learner.params, observation)
        last = value_of(jax.tree.map(lambda x: x[-1:], batch.next_observation))
        next_value = jax.lax.cond(
            jnp.any(batch.truncated[:-1]),
            lambda: value_of(batch.next_observation),
            lambda: jnp.concatenate([value[1:], last]),
        )
        return value, next_value

    def _explained_variance(self, rows: Rows) -> Float[Array, ""]:
        """1 - Var(target - V) / Var(target): 1 is a perfect critic, 0 as good as a constant."""
        residual = _statistics(rows.target - rows.old_value, rows.valid, self.axis).variance
        spread = _statistics(rows.target, rows.valid, self.axis).variance
        return 1 - residual / jnp.maximum(spread, 1e-8)

    def _scaled_reward(
        self, learner: Learner, batch: Transition
    ) -> tuple[Float[Array, "T B"], Any, Any]:
        """Rewards over the deviation of the discounted return, which they first help to tell."""
        if learner.returns is None or learner.running_return is None:
            return batch.reward, None, None
        carry = learner.running_return * (0.0 if self.whole_episodes else 1.0)
        sums, carry = estimators.discounted_reward_sums(
            batch.reward, batch.terminated | batch.truncated, carry, self.gamma
        )
        returns = self._merge(learner.returns, sums, batch.valid)
        scale = jax.lax.rsqrt(returns.variance + 1e-8)
        return jnp.clip(batch.reward * scale, -10.0, 10.0), returns, carry

    def _merge(
        self, statistics: estimators.RunningStatistics, x: Array, valid: Array | None
    ) -> estimators.RunningStatistics:
        x = x.reshape(-1, *statistics.mean.shape)
        weight = None if valid is None else valid.reshape(-1).astype(x.dtype)
        return statistics.merge(x, weight, self.axis)

    def _descend(
        self,
        learner: Learner,
        rows: Rows,
        rows_of: Callable[[PyTree], Rows],
        key: Key[Array, ""],
        progress: Float[Array, ""],
    ) -> tuple[PyTree, Any, Metrics]:
        """`num_epochs` passes over the rows, each in `num_minibatches` shuffled parts."""
        model = self._model(learner.spec)
        rate = optimizers.scheduled(self.learning_rate, self.learning_rate_schedule, progress)
        rates = self._rates(learner.params, rate, progress)

        def descend(carry: tuple[PyTree, Any], rows: Rows) -> tuple[tuple[PyTree, Any], Metrics]:
            params, state = carry
            gradient, metrics = jax.grad(self._loss, argnums=1, has_aux=True)(
                model, params, rows, progress
            )
            params, state, norm = optimizers.step(
                self.optimizer, params, gradient, state, rates, self.max_grad_norm, self.axis
            )
            return (params, state), metrics | {"gradient_norm": norm}

        def epoch(carry: tuple[PyTree, Any], key: Array) -> tuple[tuple[PyTree, Any], Metrics]:
            part_of = rows
            if self.recompute_advantages:  # π_old and V_old stay those that collected
                now = rows_of(carry[0])
                part_of = rows._replace(advantage=now.advantage, target=now.target)
            if self.num_minibatches == 1:
                return descend(carry, part_of)
            order = jax.random.permutation(key, rows.advantage.shape[0])
            parts = order.reshape(self.num_minibatches, -1)
            carry, metrics = jax.lax.scan(
                lambda carry, part: descend(carry, jax.tree.map(lambda x: x[part], part_of)),
                carry,
                parts,
            )
            return carry, jax.tree.map(jnp.mean, metrics)

        carry = (learner.params, learner.optimizer)
        if self.num_epochs == 1:
            (params, state), metrics = epoch(carry, key)
            return params, state, metrics | {"learning_rate": rate}
        keys = jax.random.split(key, self.num_epochs)
        if self.target_kl is None:
            (params, state), metrics = jax.lax.scan(epoch, carry, keys)
            metrics = jax.tree.map(jnp.mean, metrics)
        else:
            (params, state), metrics = self._epochs_until(self.target_kl, epoch, carry, keys)
        return params, state, metrics | {"learning_rate": rate}

    def _epochs_until(
        self, target_kl: float, epoch: Callable[..., Any], carry: Any, keys: Array
    ) -> tuple[Any, Metrics]:
        """Epochs until the policy has moved by more than `target_kl`; means over those made."""

        def body(now: tuple[Any, Metrics, Array, Array]) -> tuple[Any, Metrics, Array, Array]:
            carry, sums, made, _ = now
            carry, metrics = epoch(carry, keys[made])
            kl = metrics["approx_kl"]
            kl = kl if self.axis is None else jax.lax.pmean(kl, self.axis)
            return carry, jax.tree.map(jnp.add, sums, metrics), made + 1, kl

        def more(now: tuple[Any, Metrics, Array, Array]) -> Array:
            return (now[2] < self.num_epochs) & (now[3] <= target_kl)

        metrics = jax.eval_shape(epoch, carry, keys[0])[1]
        sums = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), metrics)
        start = (carry, sums, jnp.zeros((), jnp.int32), jnp.zeros(()))
        carry, sums, made, _ = jax.lax.while_loop(more, body, start)
        epochs = made.astype(jnp.float32)
        return carry, jax.tree.map(lambda x: x / epochs, sums) | {"epochs": epochs}

    def _rates(self, params: PyTree, rate: Array, progress: Array) -> Any:
        """One step size, or where the critic has its own, one for every parameter."""
        if self.critic_learning_rate is None or self.critic is None:
            return rate
        critic_rate = optimizers.scheduled(
            self.critic_learning_rate, self.learning_rate_schedule, progress
        )
        actor, critic = ActorCritic.split(params)
        own = ((actor, rate), (critic, critic_rate))
        actor, critic = (jax.tree.map(lambda x, r=r: jnp.full(x.shape, r), p) for p, r in own)
        return actor | critic

    def _loss(
        self, model: ActorCritic, params: PyTree, rows: Rows, progress: Float[Array, ""]
    ) -> tuple[Float[Array, ""], Metrics]:
        """policy loss + value_coefficient · value loss - entropy_coefficient · entropy."""
        mean = partial(mean_of, valid=rows.valid)
        if self.normalize_advantage:
            rows = rows._replace(advantage=standardised(rows.advantage, rows.valid, self.axis))
        policy = model.policy(params, rows.observation, rows.allowed)
        log_prob = policy.log_prob(rows.action)
        policy_loss = mean(self.policy_loss(log_prob, rows, progress))
        entropy = mean(policy.entropy())
        loss = policy_loss - self.entropy_coefficient * entropy
        metrics = {"policy_loss": policy_loss, "entropy": entropy}
        if self.critic is not None:
            value = model.value(params, rows.observation, rows.action)
            value_loss = mean(self.value_loss(value, rows, progress))
            loss = loss + self.value_coefficient * value_loss
            metrics["value_loss"] = value_loss
        return loss, metrics | self.diagnostics(log_prob, rows, progress)

    def diagnostics(
        self, log_prob: Float[Array, " N"], rows: Rows, progress: Float[Array, ""]
    ) -> Metrics:
        """Further numbers to record at each gradient step."""
        return {}


@hyperparameters
class A2C(PolicyGradient):
    """Advantage actor-critic (Mnih et al. 2016, synchronous).

    `gae_lambda` 1 is the n-step form: the return to the end of the `num_steps` steps,
    bootstrapped there; below 1 it is GAE(λ); 0 is the TD error. With `whole_episodes` a batch is
    one complete episode of each environment: λ = 1 is then the Monte Carlo return.
    """

    name: ClassVar[str] = "a2c"

    whole_episodes: bool = hyperparameter(  # type: ignore[misc]
        False, "collect complete episodes; num_steps is then the longest one"
    )
    optimizer: optimizers.Kind = hyperparameter("rmsprop", OPTIMIZERS)
    gae_lambda: float = hyperparameter(1.0, LAMBDA, "[0, 1]")

    def advantages(
        self, batch: Transition, reward: Array, value: Array, next_value: Array
    ) -> tuple[Float[Array, "T B"], Float[Array, "T B"]]:
        advantage = estimators.gae(
            reward,
            value,
            next_value,
            batch.terminated,
            batch.truncated,
            self.gamma,
            self.gae_lambda,
        )
        return advantage, advantage + value


@hyperparameters
class PPO(A2C):
    """Proximal policy optimisation (Schulman et al. 2017): A2C with a clipped ratio and epochs."""

    name: ClassVar[str] = "ppo"

    num_steps: int = hyperparameter(128, "steps of each environment before an update", "[1, 1e6]")
    num_epochs: int = hyperparameter(4, "passes over each batch", "[1, 1e6]")  # type: ignore[misc]
    num_minibatches: int = hyperparameter(4, "parts of a pass, a gradient step each", "[1, 1e6]")  # type: ignore[misc]
    learning_rate: float = hyperparameter(2.5e-4, "step size of the optimiser", "(0, 10]")
    optimizer: optimizers.Kind = hyperparameter("adam", OPTIMIZERS)
    gae_lambda: float = hyperparameter(0.95, LAMBDA, "[0, 1]")
    clip_range: float = hyperparameter(0.2, "ε: the ratio is clipped to [1 - ε, 1 + ε]", "(0, 1e9]")
    clip_range_schedule: optimizers.Schedule = hyperparameter(
        "constant", "constant, or falling linearly to 0 at the end of the training"
    )
    clip_value: bool = hyperparameter(False, "clip the value's step by clip_range as well")
    target_kl: float | None = hyperparameter(  # type: ignore[misc]
        None, "no further epoch once the mean KL divergence of one exceeds this", "(0, 1e9]"
    )
    recompute_advantages: bool = hyperparameter(  # type: ignore[misc]
        False, "estimate advantages anew before every epoch, with the critic as it is then"
    )
    normalize_advantage: bool = hyperparameter(True, STANDARDISE)

    def policy_loss(
        self, log_prob: Float[Array, " N"], rows: Rows, progress: Float[Array, ""]
    ) -> Float[Array, " N"]:
        return losses.clipped_surrogate_loss(
            log_prob, rows.old_log_prob, rows.advantage, self._clip(progress)
        )

    def value_loss(
        self, value: Float[Array, " N"], rows: Rows, progress: Float[Array, ""]
    ) -> Float[Array, " N"]:
        if not self.clip_value:
            return losses.value_loss(value, rows.target)
        return losses.clipped_value_loss(value, rows.old_value, rows.target, self._clip(progress))

    def diagnostics(
        self, log_prob: Float[Array, " N"], rows: Rows, progress: Float[Array, ""]
    ) -> Metrics:
        mean = partial(mean_of, valid=rows.valid)
        log_ratio = jax.lax.stop_gradient(log_prob) - rows.old_log_prob
        ratio = jnp.exp(log_ratio)
        clipped = (jnp.abs(ratio - 1) > self._clip(progress)).astype(ratio.dtype)
        # E[(ρ - 1) - log ρ] is the KL divergence, never negative (Schulman 2020, estimator k3).
        return {"approx_kl": mean(ratio - 1 - log_ratio), "clip_fraction": mean(clipped)}

    def _clip(self, progress: Float[Array, ""]) -> Float[Array, ""]:
        return optimizers.scheduled(self.clip_range, self.clip_range_schedule, progress)


def mean_of(x: Float[Array, " N"], valid: Bool[Array, " N"] | None) -> Float[Array, ""]:
    """The mean of the valid rows; 0 where there are none."""
    if valid is None:
        return jnp.mean(x)
    return jnp.sum(x, where=valid) / jnp.maximum(jnp.sum(valid, dtype=x.dtype), 1)


def _statistics(x: Array, valid: Array | None, axis: str | None) -> estimators.RunningStatistics:
    """Mean and population variance of the valid rows, over all devices."""
    weight = None if valid is None else valid.astype(x.dtype)
    return estimators.RunningStatistics.start().merge(x, weight, axis)


def standardised(x: Array, valid: Array | None, axis: str | None) -> Array:
    statistics = _statistics(x, valid, axis)
    return (x - statistics.mean) / (jnp.sqrt(statistics.variance) + 1e-8)
