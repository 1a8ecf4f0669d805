"""Trust-region policy optimisation: a natural gradient step of bounded KL divergence."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Key, PyTree

from actorcritic.algorithms.family import (
    LAMBDA,
    OPTIMIZERS,
    STANDARDISE,
    WHOLE_EPISODES,
    Carry,
    Learner,
    PolicyGradient,
    Rows,
    mean_of,
    standardised,
)
from actorcritic.algorithms.ppo import in_minibatches
from actorcritic.core.errors import UserError
from actorcritic.core.hyperparameters import hyperparameter, hyperparameters
from actorcritic.core.types import Collects, EnvSpec, Metrics, Transition
from actorcritic.maths import losses, optimizers
from actorcritic.maths.networks import ActorCritic


@hyperparameters
class TRPO(PolicyGradient):
    """Trust-region policy optimisation (Schulman et al. 2015): the largest step within a KL bound.

    The actor moves along F⁻¹g, g the gradient of E[ρ_t A_t] and F the Fisher matrix of the policy
    (the Hessian of the mean KL divergence at the old policy), found by conjugate gradients from
    Fisher-vector products. The step's length is √(2 max_kl / xᵀFx); it is shortened until the
    objective has risen and the divergence is within `max_kl`, and not made at all if that fails.
    The critic is regressed by minibatches beside it: `learning_rate`, `optimizer`, `num_epochs`,
    `num_minibatches` and `max_grad_norm` are the critic's.
    """

    name: ClassVar[str] = "trpo"
    spreads_rows: ClassVar[bool] = True

    whole_episodes: bool = hyperparameter(False, WHOLE_EPISODES)
    num_steps: int = hyperparameter(256, "steps of each environment before an update", "[1, 1e6]")
    gae_lambda: float = hyperparameter(0.95, LAMBDA, "[0, 1]")
    normalize_advantage: bool = hyperparameter(True, STANDARDISE)
    max_kl: float = hyperparameter(0.01, "bound on the mean KL(π_old ‖ π) of a step", "(0, 1e3]")
    cg_iterations: int = hyperparameter(15, "iterations of conjugate gradients", "[1, 1e4]")
    cg_damping: float = hyperparameter(0.1, "added to the Fisher matrix's diagonal", "[0, 1e3]")
    line_search_steps: int = hyperparameter(10, "lengths tried before giving up", "[1, 1e3]")
    line_search_shrink: float = hyperparameter(0.8, "factor from one length to the next", "(0, 1)")
    optimizer: optimizers.Kind = hyperparameter("adam", f"the critic's: {OPTIMIZERS}")
    learning_rate: float = hyperparameter(1e-3, "step size of the critic", "(0, 10]")
    num_epochs: int = hyperparameter(10, "the critic's passes over each batch", "[1, 1e6]")
    num_minibatches: int = hyperparameter(16, "parts of a pass, a step each", "[1, 1e6]")
    max_grad_norm: float = hyperparameter(1e9, "largest norm of the critic's gradient", "(0, 1e9]")

    @property
    def collects(self) -> Collects:
        return super().collects._replace(whole_episodes=self.whole_episodes)

    @property
    def _parts(self) -> int:
        return self.num_minibatches

    def advantages(
        self, batch: Transition, reward: Array, value: Array, next_value: Array
    ) -> tuple[Float[Array, "T B"], Float[Array, "T B"]]:
        return self._gae(batch, reward, value, next_value, self.gae_lambda)

    def check(self, spec: EnvSpec) -> None:
        super().check(spec)
        self._check_minibatches(spec, self.num_minibatches)
        if self.shared_network:
            raise UserError(
                "trpo needs separate networks: with shared_network a step of the critic would move "
                "the policy out of its trust region. Turn shared_network off."
            )

    def descend(
        self,
        learner: Learner,
        rows: Rows,
        rows_of: Callable[[PyTree], Rows],
        key: Key[Array, ""],
        progress: Float[Array, ""],
    ) -> tuple[Carry, Metrics]:
        """The actor's step, then the critic's epochs."""
        params, trust = self._natural_step(self._model(learner.spec), learner.params, rows)

        def step(carry: Carry, part: Rows) -> tuple[Carry, Metrics]:
            # The loss below has no gradient for the actor, so that the optimiser leaves it alone.
            return self.gradient_step(carry, learner, part, progress)

        def epoch(carry: Carry, key: Array) -> tuple[Carry, Metrics]:
            return in_minibatches(step, carry, rows, key, self.num_minibatches)

        keys = jax.random.split(key, self.num_epochs)
        carry, metrics = jax.lax.scan(epoch, (params, learner.optimizer), keys)
        return carry, jax.tree.map(jnp.mean, metrics) | trust

    def _natural_step(
        self, model: ActorCritic, params: dict[str, Any], rows: Rows
    ) -> tuple[dict[str, Any], Metrics]:
        mean = partial(mean_of, valid=rows.valid)
        advantage = rows.advantage
        if self.normalize_advantage:
            advantage = standardised(advantage, rows.valid, self.axis)
        actor, critic = ActorCritic.split(params)
        start, unravel = ravel_pytree(actor)
        old = jax.lax.stop_gradient(model.policy(params, rows.observation, rows.allowed))

        def over_devices(x: Array) -> Array:
            return x if self.axis is None else jax.lax.pmean(x, self.axis)

        def policy(vector: Array) -> Any:
            return model.policy(unravel(vector), rows.observation, rows.allowed)

        def objective(vector: Array) -> Array:
            """E[ρ_t A_t] + entropy_coefficient · entropy, to be raised."""
            now = policy(vector)
            rise = -losses.surrogate_loss(now.log_prob(rows.action), rows.old_log_prob, advantage)
            return mean(rise + self.entropy_coefficient * now.entropy())

        def divergence(vector: Array) -> Array:
            return mean(old.kl(policy(vector)))

        def fisher(v: Array) -> Array:
            product = jax.jvp(jax.grad(divergence), (start,), (v,))[1]
            return over_devices(product) + self.cg_damping * v

        before, gradient = jax.value_and_grad(objective)(start)
        before, gradient = over_devices(before), over_devices(gradient)
        x, _ = jax.scipy.sparse.linalg.cg(fisher, gradient, maxiter=self.cg_iterations)
        full = x * jnp.sqrt(2 * self.max_kl / jnp.maximum(x @ fisher(x), 1e-12))

        def attempt(search: Any) -> Any:
            tried, *_ = search
            vector = start + self.line_search_shrink ** tried.astype(full.dtype) * full
            kl = over_devices(divergence(vector))
            rose = over_devices(objective(vector)) > before
            return tried + 1, vector, kl, rose & (kl <= self.max_kl)  # False where they are NaN

        def more(search: Any) -> Array:
            tried, _, _, accepted = search
            return (tried < self.line_search_steps) & ~accepted

        zero = jnp.zeros(())
        search = (jnp.zeros((), jnp.int32), start, zero, jnp.asarray(False))
        tried, vector, kl, accepted = jax.lax.while_loop(more, attempt, search)
        metrics = {
            "policy_loss": -before,
            "entropy": mean(old.entropy()),
            "approx_kl": jnp.where(accepted, kl, 0.0),
            "accepted": accepted.astype(before.dtype),
            "line_search_steps": tried.astype(before.dtype),
            "policy_gradient_norm": jnp.linalg.norm(gradient),
        }
        return unravel(jnp.where(accepted, vector, start)) | critic, metrics

    def loss(
        self, params: PyTree, spec: EnvSpec, rows: Rows, progress: Float[Array, ""]
    ) -> tuple[Float[Array, ""], Metrics]:
        """The critic's alone."""
        value = self._model(spec).value(params, rows.observation)
        value_loss = mean_of(self.value_loss(value, rows, progress), rows.valid)
        return value_loss, {"value_loss": value_loss}
