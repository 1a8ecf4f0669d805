"""IMPALA: actors that are behind, and V-trace, which corrects for it.

Compiled, an actor is `lag` updates behind, exactly: the learner keeps its latest policies in a
ring. On a cluster actors are as far behind as they happen to be.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from actorcritic.algorithms.family import OPTIMIZERS, Actor, JointGradient, Learner, Rows, mean_of
from actorcritic.core.hyperparameters import hyperparameter, hyperparameters
from actorcritic.core.types import EnvSpec, Metrics, Ring, Transition
from actorcritic.maths import estimators, optimizers


@hyperparameters
class IMPALA(JointGradient):
    """Importance weighted actor-learner architecture (Espeholt et al. 2018).

    With λ = 1 and lag 0 it is n-step A2C: all ratios π/μ are then 1.
    """

    name: ClassVar[str] = "impala"
    records_log_prob: ClassVar[bool] = True

    lag: int = hyperparameter(0, "updates by which what acts is older", "[0, 1e6]")
    vtrace: bool = hyperparameter(True, "correct for that; off: as if the newest policy had acted")
    rho_clip: float = hyperparameter(1.0, "ρ̄, the largest weight of a TD error", "(0, 1e9]")
    c_clip: float = hyperparameter(1.0, "c̄, the largest factor of a trace", "(0, 1e9]")
    gae_lambda: float = hyperparameter(1.0, "λ, a further factor of each trace", "[0, 1]")
    optimizer: optimizers.Kind = hyperparameter("rmsprop", OPTIMIZERS)

    def corrected(
        self, batch: Transition, reward: Array, value: Array, next_value: Array, ratio: Array
    ) -> tuple[Float[Array, "T B"], Float[Array, "T B"]]:
        ends = batch.terminated, batch.truncated
        ratio = ratio if self.vtrace else jnp.ones_like(ratio)
        target, advantage = estimators.vtrace(
            reward,
            value,
            next_value,
            *ends,
            ratio,
            self.gamma,
            self.gae_lambda,
            self.rho_clip,
            self.c_clip,
        )
        return advantage, target

    def diagnostics(
        self, log_prob: Float[Array, " N"], rows: Rows, progress: Float[Array, ""]
    ) -> Metrics:
        mean = partial(mean_of, valid=rows.valid)
        log_ratio = jax.lax.stop_gradient(log_prob) - rows.old_log_prob
        ratio = jnp.exp(log_ratio)
        clipped = (ratio > self.rho_clip).astype(ratio.dtype)
        # E[(ρ - 1) - log ρ] is the KL divergence, never negative (Schulman 2020, estimator k3).
        return {"behaviour_kl": mean(ratio - 1 - log_ratio), "rho_clipped": mean(clipped)}

    # ------------------------------------------------------------------ actors that are behind

    def init(self, key: Key[Array, ""], spec: EnvSpec) -> Learner:
        learner = super().init(key, spec)
        if self.lag == 0:
            return learner
        rows = jax.tree.map(
            lambda x: jnp.zeros((self.lag + 1, *x.shape), x.dtype), self.actor(learner)
        )
        return self._remember(replace(learner, past=Ring(rows, jnp.zeros((), jnp.int32))))

    def _remember(self, learner: Learner) -> Learner:
        """With the policy of now as the newest in the ring: row n is that after n updates."""
        row = jax.tree.map(lambda x: x[None], self.actor(learner))
        return replace(learner, past=learner.past.append(row, jnp.ones(1, bool))[0])

    def behaviour(self, learner: Learner) -> Actor:
        if learner.past is None:
            return self.actor(learner)
        return learner.past.at(jnp.maximum(learner.past.count - 1 - self.lag, 0))

    def update(
        self, learner: Learner, batch: Transition, key: Key[Array, ""], progress: Float[Array, ""]
    ) -> tuple[Learner, Metrics]:
        learner, metrics = super().update(learner, batch, key, progress)
        return (learner if learner.past is None else self._remember(learner)), metrics

    # ------------------------------------------------------------------ a worker and the learner

    def worker(self) -> IMPALA:
        return replace(self, lag=0)

    def snapshot(self, learner: Learner) -> Actor:
        return self.actor(learner)

    def prepare(
        self, snapshot: Any, batch: Transition, key: Key[Array, ""], progress: Float[Array, ""]
    ) -> Transition:
        """The batch, which has the log-probabilities of the policy that acted."""
        return batch

    def absorb(
        self, learner: Learner, sent: Transition, key: Key[Array, ""], progress: Float[Array, ""]
    ) -> tuple[Learner, Metrics]:
        return self.update(learner, sent, key, progress)
