"""A3C: workers that take turns, each with a snapshot of its own, on one set of parameters.

    worker w, turn k      acts for num_steps with its snapshot θ_w
                          g = ∇ loss(θ_w)                      at the snapshot
                          θ ← θ - α RMSProp(g)                 of the shared parameters
                          θ_w ← θ                              and on it goes

In between, each of the other workers has done the same once: θ is num_workers - 1 steps newer than
the θ_w that g is of. Nothing is left to chance, so that runs repeat and resume bit for bit. On a
cluster the same happens by itself, in whatever order the workers come.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Key, PyTree

from actorcritic.algorithms.family import (
    FEWEST_OBSERVATIONS,
    LAMBDA,
    OPTIMIZERS,
    Actor,
    JointGradient,
    Learner,
    where,
)
from actorcritic.core.hyperparameters import hyperparameter, hyperparameters
from actorcritic.core.types import Collects, Decision, Metrics, Observation, Transition
from actorcritic.maths import estimators, optimizers
from actorcritic.maths.networks import ActorCritic


class Workers(NamedTuple):
    """What each of several workers acts with: leaves [W, ...]."""

    actor: Actor


class Gradient(NamedTuple):
    """What a worker sends: the gradient of its batch at its snapshot, and what it saw."""

    gradient: PyTree
    counts: Bool[Array, ""] | None  # False: no row was experience, or no scale was known
    metrics: Metrics
    observations: estimators.RunningStatistics | None  # of this batch alone
    returns: estimators.RunningStatistics | None


@hyperparameters
class A3C(JointGradient):
    """Asynchronous advantage actor-critic (Mnih et al. 2016, algorithm S3).

    An update is one turn of each of the `num_workers` workers. With one worker it is A2C.
    """

    name: ClassVar[str] = "a3c"

    num_workers: int = hyperparameter(8, "workers, each with its own snapshot", "[1, 1e4]")
    num_envs: int = hyperparameter(1, "environments of each worker", "[1, 1e6]")
    optimizer: optimizers.Kind = hyperparameter("rmsprop", OPTIMIZERS)
    gae_lambda: float = hyperparameter(1.0, LAMBDA, "[0, 1]")

    @property
    def collects(self) -> Collects:
        return super().collects._replace(num_envs=self.num_workers * self.num_envs)

    def advantages(
        self, batch: Transition, reward: Array, value: Array, next_value: Array
    ) -> tuple[Float[Array, "T B"], Float[Array, "T B"]]:
        return self._gae(batch, reward, value, next_value, self.gae_lambda)

    # ------------------------------------------------------------------ a worker and the learner

    def worker(self) -> A3C:
        return replace(self, num_workers=1)

    def snapshot(self, learner: Learner) -> Learner:
        """All but what only the shared parameters need."""
        return replace(learner, optimizer=(), past=None)

    def prepare(
        self, snapshot: Learner, batch: Transition, key: Key[Array, ""], progress: Float[Array, ""]
    ) -> Gradient:
        batch = batch.cleared()
        reward, _ = self._scaled_reward(snapshot, batch)
        rows = self._rows(snapshot, batch, reward, key, snapshot.params)
        gradient, metrics = jax.grad(self.loss, has_aux=True)(
            snapshot.params, snapshot.spec, rows, progress
        )
        if rows.target.size > 1:
            metrics["explained_variance"] = self._explained_variance(rows)
        counts = None if rows.valid is None else jnp.any(rows.valid)
        observations = snapshot.observations
        if observations is not None:
            known = observations.count >= FEWEST_OBSERVATIONS
            counts = known if counts is None else counts & known
            raw = self._raw(snapshot, batch)
            nothing = estimators.RunningStatistics.start(observations.mean.shape)
            observations = self._merge(nothing, raw, batch.valid)
        returns = snapshot.returns
        if returns is not None and batch.reward_sum is not None:
            nothing = estimators.RunningStatistics.start()
            returns = self._merge(nothing, batch.reward_sum, batch.valid)
        return Gradient(gradient, counts, metrics, observations, returns)

    def absorb(
        self, learner: Learner, sent: Gradient, key: Key[Array, ""], progress: Float[Array, ""]
    ) -> tuple[Learner, Metrics]:
        return self._turn(learner, sent, self._rates(learner.params, progress), progress)

    def _turn(
        self, learner: Learner, sent: Gradient, rates: Any, progress: Float[Array, ""]
    ) -> tuple[Learner, Metrics]:
        """One step of the shared parameters. They may be one vector, as the gradient then is."""
        before = learner.params, learner.optimizer
        after, norm = self._down(before, sent.gradient, rates)
        params, optimizer = after if sent.counts is None else where(sent.counts, after, before)
        joined = [
            known if known is None or seen is None else known.joined(seen)
            for known, seen in (
                (learner.observations, sent.observations),
                (learner.returns, sent.returns),
            )
        ]
        learner = replace(
            learner, params=params, optimizer=optimizer, observations=joined[0], returns=joined[1]
        )
        more = {"gradient_norm": norm, "learning_rate": self._rate(progress)}
        return learner, sent.metrics | more

    # ------------------------------------------------------------------ all of them, by turns

    def init(self, key: Key[Array, ""], spec: Any) -> Learner:
        learner = super().init(key, spec)
        if self.num_workers == 1:
            return learner
        every = jax.tree.map(
            lambda x: jnp.broadcast_to(x, (self.num_workers, *x.shape)), self.snapshot(learner)
        )
        return replace(learner, past=every)

    def behaviour(self, learner: Learner) -> Actor | Workers:
        if learner.past is None:
            return self.actor(learner)
        params, _ = ActorCritic.split(learner.past.params)
        return Workers(Actor(params, learner.past.observations, learner.spec))

    def act(
        self,
        actor: Actor | Workers,
        observation: Observation,
        key: Key[Array, ""],
        *,
        explore: bool = True,
    ) -> Decision:
        if not isinstance(actor, Workers):
            return super().act(actor, observation, key, explore=explore)
        act = partial(super().act, explore=explore)
        keys = jax.random.split(key, self.num_workers)
        shares = jax.tree.map(lambda x: x.reshape(self.num_workers, -1, *x.shape[1:]), observation)
        decision = jax.vmap(act)(actor.actor, shares, keys)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), decision)

    def update(
        self, learner: Learner, batch: Transition, key: Key[Array, ""], progress: Float[Array, ""]
    ) -> tuple[Learner, Metrics]:
        if learner.past is None:
            sent = self.prepare(self.snapshot(learner), batch, key, progress)
            return self.absorb(learner, sent, key, progress)
        keys = jax.random.split(key, self.num_workers)

        def share(x: Array) -> Array:
            return jnp.moveaxis(x.reshape(len(x), self.num_workers, -1, *x.shape[2:]), 1, 0)

        prepare = partial(self.prepare, progress=progress)
        sent = jax.vmap(prepare)(learner.past, jax.tree.map(share, batch), keys)

        # As vectors, so that a turn is a few loops and not some for every matrix.
        params, shaped = ravel_pytree(learner.params)
        rates = self._rates(learner.params, progress)
        if isinstance(rates, dict):
            rates = ravel_pytree(rates)[0]
        sent = sent._replace(gradient=jax.vmap(lambda g: ravel_pytree(g)[0])(sent.gradient))

        def turn(learner: Learner, sent: Gradient) -> tuple[Learner, Any]:
            learner, metrics = self._turn(learner, sent, rates, progress)
            return learner, (self.snapshot(learner), metrics)

        shared = replace(learner, params=params, past=None)
        shared, (past, metrics) = jax.lax.scan(turn, shared, sent)
        past = replace(past, params=jax.vmap(shaped)(past.params))
        learner = replace(shared, params=shaped(shared.params), past=past)
        return learner, jax.tree.map(jnp.mean, metrics)
