"""The policy-gradient family: what REINFORCE, A2C, PPO, TRPO and the one-step actor-critics share.

All follow the gradient E[∇ log π(a_t|s_t) Ψ_t]. They differ in Ψ_t, in how experience is collected,
and in how often a batch is used:

              Ψ_t                               batch                   steps on a batch
  REINFORCE   G_t, or G_t - V(s_t)              whole episodes          one
  one-step    TD error, or Q(s_t, a_t)          num_steps × num_envs    one
  A2C         n-step or GAE(λ) advantage        num_steps × num_envs    one
  A3C         the same, at each one's snapshot  the same, a worker      one a worker
  IMPALA      V-trace advantage                 num_steps × num_envs    one
  PPO         GAE(λ), inside a clipped ratio    num_steps × num_envs    epochs × minibatches
  TRPO        GAE(λ)                            num_steps × num_envs    one, of bounded KL
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from statistics import NormalDist
from typing import Any, ClassVar, Literal, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key, PyTree

from actorcritic.core.errors import UserError
from actorcritic.core.hyperparameters import hyperparameter, hyperparameters
from actorcritic.core.types import (
    Algorithm,
    Collects,
    Decision,
    EnvSpec,
    Extras,
    Metrics,
    Observation,
    Transition,
)
from actorcritic.maths import estimators, losses, optimizers, spaces
from actorcritic.maths.distributions import Distribution, TanhGaussian
from actorcritic.maths.networks import (
    ActorCritic,
    Initialization,
    NetworkLike,
    Torso,
    check_network,
    default_network,
)

OPTIMIZERS = "adam (ε 1e-5), rmsprop (α 0.99, ε 1e-5) or sgd"
LAMBDA = "λ of GAE: 0 is the TD error, 1 the n-step return"
STANDARDISE = "shift and scale Ψ to mean 0, deviation 1"
VALUE_WEIGHT = "weight of the value loss"
WHOLE_EPISODES = "collect complete episodes; num_steps is then the longest one"

LEAST_INSIDE = 0.1  # of the first actions, in each dimension
FARTHEST_BOUND = 10.0  # in deviations of the first actions

# Observations that running statistics have to have seen before anything is learned from them.
FEWEST_OBSERVATIONS = 16
# Fewer rows of a gradient step on each device, and exchanging gradients costs more than it gains.
LEAST_ROWS_ON_A_DEVICE = 128
# β of the running moments of a critic's targets, merged once an update: about the last 100 count.
VALUE_DECAY = 0.99


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["params", "optimizer", "observations", "returns", "values", "past"],
    meta_fields=["spec"],
)
@dataclass(frozen=True)
class Learner:
    """Everything that learning changes."""

    params: PyTree
    optimizer: Any
    observations: estimators.RunningStatistics | None  # of the encoded observations
    returns: estimators.RunningStatistics | None  # of the discounted sums of rewards
    spec: EnvSpec
    past: Any = None  # what stale actors act with, where there are any
    values: estimators.Moments | None = None  # of the critic's targets


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["params", "observations"],
    meta_fields=["spec"],
)
@dataclass(frozen=True)
class Actor:
    """What acting needs of a learner."""

    params: PyTree  # without the critic's own
    observations: estimators.RunningStatistics | None
    spec: EnvSpec


def encoded(who: Learner | Actor, observation: Observation) -> Float[Array, "... features"]:
    """Observations as a network takes them, by the statistics of who has some."""
    space = who.spec.observation_space
    x = spaces.encode(space, observation)
    if who.observations is not None:
        numeric = spaces.is_numeric(space)
        normal = who.observations.normalize(x, clip=10.0)
        x = normal if numeric.all() else jnp.where(numeric, normal, x)
    return x


class Rows(NamedTuple):
    """A batch made ready for the loss: one row a step [N]."""

    observation: Float[Array, "N features"]
    allowed: Bool[Array, "N actions"] | None  # the mask of actions, where there is one
    action: Array  # as the policy drew it
    advantage: Float[Array, " N"]  # Ψ_t
    target: Float[Array, " N"]  # what V(s_t) is regressed on
    old_log_prob: Float[Array, " N"]  # by the policy that acted
    old_value: Float[Array, " N"]
    valid: Bool[Array, " N"] | None


Carry = tuple[PyTree, Any]  # parameters and the state of their optimiser


@hyperparameters
class PolicyGradient(Algorithm[Learner, Actor, Transition]):
    """What the family shares. A member says what Ψ is, and how it goes down on a batch."""

    name: ClassVar[str]
    spreads_rows: ClassVar[bool] = False  # set by each class for itself, see `spread`
    records_log_prob: ClassVar[bool] = False  # where another policy may have acted

    num_envs: int = hyperparameter(8, "environments stepped side by side", "[1, 1e6]")
    num_steps: int = hyperparameter(5, "steps of each environment before an update", "[1, 1e6]")
    learning_rate: float = hyperparameter(7e-4, "step size of the optimiser", "(0, 10]")
    learning_rate_schedule: optimizers.Schedule = hyperparameter(
        "constant",
        "constant, or falling linearly to 0 at the end of the training",
        or_function=True,
    )
    critic_learning_rate: float | None = hyperparameter(
        None, "step size of a separate critic; None: learning_rate", "(0, 10]"
    )
    optimizer: optimizers.Kind = hyperparameter("adam", OPTIMIZERS)
    max_grad_norm: float = hyperparameter(0.5, "largest norm of the whole gradient", "(0, 1e9]")
    gamma: float = hyperparameter(0.99, "discount factor γ", "(0, 1]")
    entropy_coefficient: float = hyperparameter(0.0, "weight of the entropy bonus", "[0, 1e3]")
    normalize_advantage: bool = hyperparameter(False, STANDARDISE)
    normalize_observation: bool = hyperparameter(False, "by running mean and deviation")
    normalize_reward: bool = hyperparameter(False, "by the deviation of the discounted return")
    normalize_value: bool = hyperparameter(False, "the critic learns its targets normalised")
    huber_delta: float | None = hyperparameter(
        None, "error beyond which the value loss is linear; None: squared", "(0, 1e9]"
    )
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

    @property
    def critic(self) -> Literal["state", "action"] | None:
        """What the critic learns: V(s), Q(s, a), or nothing."""
        return "state"

    def advantages(
        self, batch: Transition, reward: Array, value: Array, next_value: Array
    ) -> tuple[Float[Array, "T B"], Float[Array, "T B"]]:
        """Ψ_t, and the target of V(s_t)."""
        raise NotImplementedError

    def corrected(
        self, batch: Transition, reward: Array, value: Array, next_value: Array, ratio: Array
    ) -> tuple[Float[Array, "T B"], Float[Array, "T B"]]:
        """The same, where `ratio` π/μ [T, B] says that another policy acted: here it counts not."""
        return self.advantages(batch, reward, value, next_value)

    def policy_loss(
        self, log_prob: Float[Array, " N"], rows: Rows, progress: Float[Array, ""]
    ) -> Float[Array, " N"]:
        return losses.policy_gradient_loss(log_prob, rows.advantage)

    def value_loss(
        self, value: Float[Array, " N"], rows: Rows, progress: Float[Array, ""]
    ) -> Float[Array, " N"]:
        return losses.value_loss(value, rows.target, self.huber_delta)

    def diagnostics(
        self, log_prob: Float[Array, " N"], rows: Rows, progress: Float[Array, ""]
    ) -> Metrics:
        """Further numbers to record at each gradient step."""
        return {}

    def loss(
        self, params: PyTree, spec: EnvSpec, rows: Rows, progress: Float[Array, ""]
    ) -> tuple[Float[Array, ""], Metrics]:
        """What a gradient step goes down on, and numbers to record."""
        raise NotImplementedError

    def descend(
        self,
        learner: Learner,
        rows: Rows,
        rows_of: Callable[[PyTree], Rows],
        key: Key[Array, ""],
        progress: Float[Array, ""],
    ) -> tuple[Carry, Metrics]:
        """All gradient steps on a batch. `rows_of` makes its rows by other parameters.

        Here it is one step on the whole of it.
        """
        return self.gradient_step((learner.params, learner.optimizer), learner, rows, progress)

    # ------------------------------------------------------------------ the protocol

    @property
    def collects(self) -> Collects:
        discount = self.gamma if self.normalize_reward else None
        return Collects(self.num_envs, self.num_steps, discount=discount)

    def check(self, spec: EnvSpec) -> None:
        if self.network is not None:
            space = spec.observation_space
            for count in {spaces.feature_count(space), spaces.policy_feature_count(space)}:
                check_network(self.network, count)
        self._model(spec)
        if self.shared_network and spaces.has_global_state(spec.observation_space):
            raise UserError(
                f"shared_network is on, but {spec.id} has the key {spaces.GLOBAL!r} in its "
                "observations, which only the critic may see. Leave shared_network out."
            )
        if self.critic_learning_rate is not None and self.shared_network:
            raise UserError(
                "critic_learning_rate needs separate networks, but shared_network is on: its trunk "
                "has one step size. Leave one of the two out."
            )
        self._check_minibatches(spec, 1)

    def _check_minibatches(self, spec: EnvSpec, number: int) -> None:
        """UserError where a batch does not divide into so many parts, or they are too small."""
        length = self.collects.longest(spec)
        rows = self.num_envs * length * spec.columns
        steps = "num_steps" if length == self.num_steps else f"the time limit of {spec.id}"
        of = f"num_envs × {steps}" + " × agents" * bool(spec.agents)
        many = f" × {spec.columns}" * bool(spec.agents)
        if rows % number:
            raise UserError(
                f"{of} = {self.num_envs} × {length}{many} = {rows} rows do not divide "
                f"into num_minibatches = {number}; choose a divisor of {rows}."
            )
        if self.normalize_advantage and rows // number < 2:
            raise UserError(
                "normalize_advantage needs minibatches of at least 2 rows; got "
                f"{of} / num_minibatches = {rows // number}."
            )

    def notes(self, spec: EnvSpec) -> list[str]:
        said, box, limit = [], spec.action_space, spec.max_episode_steps
        if self.collects.whole_episodes and self.num_steps < (limit or 0):
            said.append(
                f"episodes of more than num_steps = {self.num_steps} steps are cut there; "
                f"{spec.id} allows {limit}."
            )
        if len({agent.team for agent in spec.agents}) > 1:
            said.append(
                f"{spec.id} has several teams, and {self.name} trains one policy for all of them; "
                "mappo and ippo train one for each."
            )
        if isinstance(box, gymnasium.spaces.Box) and not self.squash:
            said += notes_on_bounds(box, 0.0 if self.state_dependent_std else self.initial_log_std)
        return said

    def spread(self, axis: str, over: int, spec: EnvSpec) -> PolicyGradient | None:
        if not vars(type(self)).get("spreads_rows") or self.collects.whole_episodes:
            return None
        rows = self.num_envs * self.num_steps * spec.columns
        each, rest = divmod(rows, over * self._parts)
        if rest or self.num_envs % over or each < LEAST_ROWS_ON_A_DEVICE:
            return None
        return replace(self, axis=axis, num_envs=self.num_envs // over)

    @property
    def _parts(self) -> int:
        """Into how many minibatches a batch is divided."""
        return 1

    def init(self, key: Key[Array, ""], spec: EnvSpec) -> Learner:
        params = self._model(spec).init(key)
        features = spaces.feature_count(spec.observation_space)
        start = estimators.RunningStatistics.start
        return Learner(
            params=params,
            optimizer=optimizers.init(self.optimizer, params),
            observations=start((features,)) if self.normalize_observation else None,
            returns=start() if self.normalize_reward else None,
            spec=spec,
            values=estimators.Moments.start() if self.normalize_value else None,
        )

    def actor(self, learner: Learner) -> Actor:
        params, _ = ActorCritic.split(learner.params)
        observations, seen = learner.observations, spaces.for_policy(learner.spec)
        if observations is not None and seen is not learner.spec:
            observations = observations.first(spaces.feature_count(seen.observation_space))
        return Actor(params, observations, seen)

    def act(
        self, actor: Actor, observation: Observation, key: Key[Array, ""], *, explore: bool = True
    ) -> Decision:
        policy = self.policy(actor, observation)
        drawn = policy.sample(key) if explore else policy.mode()
        extras = Extras(log_prob=policy.log_prob(drawn) if self.records_log_prob else None)
        if isinstance(policy, TanhGaussian):  # the draw cannot be told from the squashed action
            return Decision(policy.action(drawn), extras._replace(draw=drawn))
        return Decision(drawn, extras)

    def update(
        self, learner: Learner, batch: Transition, key: Key[Array, ""], progress: Float[Array, ""]
    ) -> tuple[Learner, Metrics]:
        batch = batch.cleared()
        reward, returns = self._scaled_reward(learner, batch)
        value_key, key = jax.random.split(key)
        rows_of = partial(self._rows, learner, batch, reward, value_key)
        rows = rows_of(learner.params)
        explained = self._explained_variance(rows) if rows.target.size > 1 else None
        values = learner.values
        if values is not None:
            values = values.merge(rows.target, rows.valid, VALUE_DECAY, self.axis)
            rows = _normalised(rows, learner.values, values)
            learner = replace(learner, values=values)
            rows_of = partial(self._normalised_rows, learner, batch, reward, value_key)
        (params, optimizer), metrics = self.descend(learner, rows, rows_of, key, progress)
        metrics["learning_rate"] = self._rate(progress)
        if explained is not None:
            metrics["explained_variance"] = explained

        observations = learner.observations
        if observations is not None:
            # Before the statistics know anything, there is nothing to learn from.
            known = observations.count >= FEWEST_OBSERVATIONS
            before = learner.params, learner.optimizer
            params, optimizer = where(known, (params, optimizer), before)
            # Only now, so that the whole update saw what acted.
            observations = self._merge(observations, self._raw(learner, batch), batch.valid)
        learner = replace(
            learner, params=params, optimizer=optimizer, observations=observations, returns=returns
        )
        return learner, metrics

    # ------------------------------------------------------------------ for whoever looks inside

    def policy(self, actor: Actor, observation: Observation) -> Distribution:
        """π(·|s) for observations [..., *]."""
        x = self._encode(actor, observation)
        allowed = spaces.action_mask(actor.spec.observation_space, observation)
        return self._model(actor.spec).policy(actor.params, x, allowed)

    def value(
        self, learner: Learner, observation: Observation, action: Array | None = None
    ) -> Float[Array, "..."]:
        """V(s) for observations [..., *]; where the critic is one of actions, Q(s, action)."""
        return self._value(learner, self._encode(learner, observation), action)

    # ------------------------------------------------------------------ its parts

    def gradient_step(
        self, carry: Carry, learner: Learner, rows: Rows, progress: Float[Array, ""]
    ) -> tuple[Carry, Metrics]:
        """One step down the loss of some rows; none where none of them is valid."""
        params = carry[0]
        gradient, metrics = jax.grad(self.loss, has_aux=True)(params, learner.spec, rows, progress)
        after, norm = self._down(carry, gradient, self._rates(params, progress))
        if rows.valid is not None:
            after = where(jnp.any(rows.valid), after, carry)
        return after, metrics | {"gradient_norm": norm}

    def _down(self, carry: Carry, gradient: PyTree, rates: Any) -> tuple[Carry, Float[Array, ""]]:
        """One step of the optimiser, and the norm of the gradient before it was clipped."""
        params, state = carry
        after, after_state, norm = optimizers.step(
            self.optimizer, params, gradient, state, rates, self.max_grad_norm, self.axis
        )
        return (after, after_state), norm

    def _rate(self, progress: Array) -> Float[Array, ""]:
        return optimizers.scheduled(self.learning_rate, self.learning_rate_schedule, progress)

    def _rates(self, params: PyTree, progress: Array) -> Any:
        """One step size, or where the critic has its own, one for every parameter."""
        rate = self._rate(progress)
        if self.critic_learning_rate is None or self.critic is None:
            return rate
        critic_rate = optimizers.scheduled(
            self.critic_learning_rate, self.learning_rate_schedule, progress
        )
        actor, critic = ActorCritic.split(params)
        own = ((actor, rate), (critic, critic_rate))
        actor, critic = (jax.tree.map(lambda x, r=r: jnp.full(x.shape, r), p) for p, r in own)
        return actor | critic

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

    def _encode(
        self, who: Learner | Actor, observation: Observation
    ) -> Float[Array, "... features"]:
        return encoded(who, observation)

    def _value(
        self, learner: Learner, x: Float[Array, "... features"], action: Array | None = None
    ) -> Float[Array, "..."]:
        """The critic's value, in the units of the rewards."""
        value = self._model(learner.spec).value(learner.params, x, action)
        return value if learner.values is None else learner.values.denormalize(value)

    def _normalised_rows(
        self, learner: Learner, batch: Transition, reward: Array, key: Array, params: PyTree
    ) -> Rows:
        rows = self._rows(learner, batch, reward, key, params)
        return _normalised(rows, learner.values, learner.values)

    def _rows(
        self, learner: Learner, batch: Transition, reward: Array, key: Array, params: PyTree
    ) -> Rows:
        """The batch as rows, advantages and targets by the given parameters.

        π_old and V_old are computed here, by the parameters and statistics that acted: one large
        forward pass instead of one a step.
        """
        learner = replace(learner, params=params)
        observation = self._encode(learner, batch.observation)
        allowed = spaces.action_mask(learner.spec.observation_space, batch.observation)
        value, next_value = self._values(learner, batch, observation, key)
        policy = self._model(learner.spec).policy(params, observation, allowed)
        action = batch.action if batch.extras.draw is None else batch.extras.draw
        if isinstance(policy, TanhGaussian) and batch.extras.draw is None:
            raise UserError(
                f"{self.name} squashes its actions, and `act` did not record what it drew before "
                "that: return Decision(action, Extras(draw=…)), as PolicyGradient.act does."
            )
        log_prob = policy.log_prob(action)
        acted = log_prob if batch.extras.log_prob is None else batch.extras.log_prob
        ratio = jnp.exp(log_prob - acted)
        advantage, target = self.corrected(batch, reward, value, next_value, ratio)
        rows = Rows(observation, allowed, action, advantage, target, acted, value, batch.valid)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rows)

    def _values(
        self, learner: Learner, batch: Transition, observation: Array, key: Array
    ) -> tuple[Float[Array, "T B"], Float[Array, "T B"]]:
        """V(s_t) and V(s_{t+1}); the successor is the next row's state, but not at a cut."""
        if self.critic is None:
            return jnp.zeros_like(batch.reward), jnp.zeros_like(batch.reward)
        value = self._value(learner, observation)
        last = self.value(learner, jax.tree.map(lambda x: x[-1:], batch.next_observation))
        next_value = jax.lax.cond(
            jnp.any(batch.truncated[:-1]),
            lambda: self.value(learner, batch.next_observation),
            lambda: jnp.concatenate([value[1:], last]),
        )
        return value, next_value

    def _gae(
        self,
        batch: Transition,
        reward: Array,
        value: Array,
        next_value: Array,
        gae_lambda: float | Float[Array, ""],
    ) -> tuple[Float[Array, "T B"], Float[Array, "T B"]]:
        """GAE(λ), and advantage + value as the critic's target."""
        ends = batch.terminated, batch.truncated
        advantage = estimators.gae(reward, value, next_value, *ends, self.gamma, gae_lambda)
        return advantage, advantage + value

    def _explained_variance(self, rows: Rows) -> Float[Array, ""]:
        """1 - Var(target - V) / Var(target): 1 is a perfect critic, 0 as good as a constant."""
        residual = statistics(rows.target - rows.old_value, rows.valid, self.axis).variance
        spread = statistics(rows.target, rows.valid, self.axis).variance
        return 1 - residual / jnp.maximum(spread, 1e-8)

    def _scaled_reward(
        self, learner: Learner, batch: Transition
    ) -> tuple[Float[Array, "T B"], estimators.RunningStatistics | None]:
        """Rewards over the deviation of the discounted return, which they first help to tell."""
        if learner.returns is None:
            return batch.reward, None
        if batch.reward_sum is None:
            raise UserError(
                f"{self.name}: normalize_reward needs `reward_sum` in the batch; `collects` has to "
                "ask for it by its `discount`."
            )
        returns = self._merge(learner.returns, batch.reward_sum, batch.valid)
        scale = jax.lax.rsqrt(returns.variance + 1e-8)
        return jnp.clip(batch.reward * scale, -10.0, 10.0), returns

    def _raw(self, learner: Learner, batch: Transition) -> Float[Array, "T B features"]:
        return spaces.encode(learner.spec.observation_space, batch.observation)

    def _merge(
        self, known: estimators.RunningStatistics, x: Array, valid: Array | None
    ) -> estimators.RunningStatistics:
        x = x.reshape(-1, *known.mean.shape)
        weight = None if valid is None else valid.reshape(-1).astype(x.dtype)
        return known.merge(x, weight, self.axis)


@hyperparameters
class JointGradient(PolicyGradient):
    """The members whose actor and critic go down on one loss together."""

    value_coefficient: float = hyperparameter(0.5, VALUE_WEIGHT, "[0, 1e3]")

    def loss(
        self, params: PyTree, spec: EnvSpec, rows: Rows, progress: Float[Array, ""]
    ) -> tuple[Float[Array, ""], Metrics]:
        """policy loss + value_coefficient · value loss - entropy_coefficient · entropy."""
        model, mean = self._model(spec), partial(mean_of, valid=rows.valid)
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


def where(condition: Bool[Array, ""], new: Carry, old: Carry) -> Carry:
    """The new parameters and state of the optimiser where the condition holds, else the old."""
    return jax.tree.map(lambda new, old: jnp.where(condition, new, old), new, old)


def _normalised(rows: Rows, old: Any, new: Any) -> Rows:
    """Rows in the units of the critic's own output, which was of the `old` moments."""
    return rows._replace(target=new.normalize(rows.target), old_value=old.normalize(rows.old_value))


def mean_of(x: Float[Array, " N"], valid: Bool[Array, " N"] | None) -> Float[Array, ""]:
    """The mean of the valid rows; 0 where there are none."""
    if valid is None:
        return jnp.mean(x)
    return jnp.sum(x, where=valid) / jnp.maximum(jnp.sum(valid, dtype=x.dtype), 1)


def statistics(x: Array, valid: Array | None, axis: str | None) -> estimators.RunningStatistics:
    """Mean and population variance of the valid rows, over all devices."""
    weight = None if valid is None else valid.astype(x.dtype)
    return estimators.RunningStatistics.start().merge(x, weight, axis)


def standardised(x: Array, valid: Array | None, axis: str | None) -> Array:
    found = statistics(x, valid, axis)
    return (x - found.mean) / (jnp.sqrt(found.variance) + 1e-8)


def notes_on_bounds(box: gymnasium.spaces.Box, log_std: float) -> list[str]:
    """Of a Gaussian that starts as N(0, σ²) in the environment's own units."""
    sigma = math.exp(log_std)
    ends = [np.asarray(end, np.float64).reshape(-1) / sigma for end in (box.low, box.high)]
    low, high = (np.array([NormalDist().cdf(x) for x in end]) for end in ends)
    inside, farthest = np.min(high - low), np.max(np.abs(ends))
    starts = f"the policy starts as a normal distribution around 0 with deviation {sigma:g}"
    todo = (
        "try squash=True, or rescale the actions: gymnasium.wrappers.RescaleAction(env, -1, 1) "
        "makes the bounds -1 and 1."
    )
    if inside < LEAST_INSIDE or (ends[0] > 0).any() or (ends[1] < 0).any():
        share = "less than 0.1 %" if inside < 1e-3 else f"{100 * inside:.2g} %"
        return [f"{starts}, of which {share} falls inside the bounds {box}; {todo}"]
    if farthest > FARTHEST_BOUND:
        return [
            f"{starts}, but the bounds {box} are up to {farthest:.3g} deviations away, where "
            f"exploration does not reach; {todo}"
        ]
    return []
