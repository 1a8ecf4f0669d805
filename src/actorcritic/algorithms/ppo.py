"""PPO: a clipped ratio, and several epochs of minibatches on each batch.

To read it from end to end: this file, `family.py` (the loss, the rows of a batch), `estimators.py`
with `losses.py`, and `runners/compiled.py` (what collects).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from actorcritic.algorithms.family import (
    LAMBDA,
    OPTIMIZERS,
    STANDARDISE,
    WHOLE_EPISODES,
    Carry,
    JointGradient,
    Learner,
    Rows,
    mean_of,
)
from actorcritic.core.hyperparameters import hyperparameter, hyperparameters
from actorcritic.core.types import Collects, EnvSpec, Metrics, Transition
from actorcritic.maths import losses, optimizers


@hyperparameters
class PPO(JointGradient):
    """Proximal policy optimisation (Schulman et al. 2017): A2C with a clipped ratio and epochs."""

    name: ClassVar[str] = "ppo"
    spreads_rows: ClassVar[bool] = True

    num_steps: int = hyperparameter(128, "steps of each environment before an update", "[1, 1e6]")
    whole_episodes: bool = hyperparameter(False, WHOLE_EPISODES)
    num_epochs: int = hyperparameter(4, "passes over each batch", "[1, 1e6]")
    num_minibatches: int = hyperparameter(4, "parts of a pass, a gradient step each", "[1, 1e6]")
    learning_rate: float = hyperparameter(2.5e-4, "step size of the optimiser", "(0, 10]")
    optimizer: optimizers.Kind = hyperparameter("adam", OPTIMIZERS)
    gae_lambda: float = hyperparameter(0.95, LAMBDA, "[0, 1]")
    clip_range: float = hyperparameter(0.2, "ε: the ratio is clipped to [1 - ε, 1 + ε]", "(0, 1e9]")
    clip_range_schedule: optimizers.Schedule = hyperparameter(
        "constant",
        "constant, or falling linearly to 0 at the end of the training",
        or_function=True,
    )
    clip_value: bool = hyperparameter(False, "clip the value's step by clip_range as well")
    target_kl: float | None = hyperparameter(
        None, "no further epoch once the mean KL divergence of one exceeds this", "(0, 1e9]"
    )
    recompute_advantages: bool = hyperparameter(
        False, "estimate advantages anew before every epoch, with the critic as it is then"
    )
    normalize_advantage: bool = hyperparameter(True, STANDARDISE)

    @property
    def collects(self) -> Collects:
        return super().collects._replace(whole_episodes=self.whole_episodes)

    @property
    def _parts(self) -> int:
        return self.num_minibatches

    def check(self, spec: EnvSpec) -> None:
        super().check(spec)
        self._check_minibatches(spec, self.num_minibatches)

    def advantages(
        self, batch: Transition, reward: Array, value: Array, next_value: Array
    ) -> tuple[Float[Array, "T B"], Float[Array, "T B"]]:
        return self._gae(batch, reward, value, next_value, self.gae_lambda)

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
            return super().value_loss(value, rows, progress)
        return losses.clipped_value_loss(
            value, rows.old_value, rows.target, self._clip(progress), self.huber_delta
        )

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

    def descend(
        self,
        learner: Learner,
        rows: Rows,
        rows_of: Callable[[PyTree], Rows],
        key: Key[Array, ""],
        progress: Float[Array, ""],
    ) -> tuple[Carry, Metrics]:
        """`num_epochs` passes over the rows, each in `num_minibatches` shuffled parts."""

        def step(carry: Carry, part: Rows) -> tuple[Carry, Metrics]:
            return self.gradient_step(carry, learner, part, progress)

        def epoch(carry: Carry, key: Array) -> tuple[Carry, Metrics]:
            of = rows
            if self.recompute_advantages:  # π_old and V_old stay those that collected
                now = rows_of(carry[0])
                of = rows._replace(advantage=now.advantage, target=now.target)
            return in_minibatches(step, carry, of, key, self.num_minibatches)

        carry = (learner.params, learner.optimizer)
        if self.num_epochs == 1:
            return epoch(carry, key)
        keys = jax.random.split(key, self.num_epochs)
        if self.target_kl is not None:
            return self._epochs_until(self.target_kl, epoch, carry, keys)
        carry, metrics = jax.lax.scan(epoch, carry, keys)
        return carry, jax.tree.map(jnp.mean, metrics)

    def _epochs_until(
        self, target_kl: float, epoch: Callable[..., Any], carry: Carry, keys: Array
    ) -> tuple[Carry, Metrics]:
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


def in_minibatches(
    step: Callable[[Carry, Rows], tuple[Carry, Metrics]],
    carry: Carry,
    rows: Rows,
    key: Key[Array, ""],
    number: int,
) -> tuple[Carry, Metrics]:
    """One pass over the rows in `number` shuffled parts, a step each; metrics are their means.

    Rows that are not valid are dealt out evenly, so that the others weigh alike.
    """
    if number == 1:
        return step(carry, rows)
    order = jax.random.permutation(key, rows.advantage.shape[0])
    parts = order.reshape(number, -1)
    if rows.valid is not None:
        dealt = order[jnp.argsort(~rows.valid[order], stable=True)]
        parts = dealt.reshape(-1, number).T
    carry, metrics = jax.lax.scan(
        lambda carry, part: step(carry, jax.tree.map(lambda x: x[part], rows)), carry, parts
    )
    return carry, jax.tree.map(jnp.mean, metrics)
