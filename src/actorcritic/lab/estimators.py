"""Estimators of values and advantages: the library's own, and a form for yours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from actorcritic.core.errors import UserError
from actorcritic.lab.critics import Critic
from actorcritic.lab.process import MDP, checked_policy
from actorcritic.lab.return_moments import PairMoments, lambda_moments, less_value, n_step_moments
from actorcritic.lab.sampling import Trajectories


class Batch(NamedTuple):
    """What an estimator may use."""

    steps: Trajectories
    value: Float[np.ndarray, "T B"]  # of the critic
    next_value: Float[np.ndarray, "T B"]
    ratio: Float[np.ndarray, "T B"]  # π(a|s) / μ(a|s), μ the policy that acted
    gamma: float


def evaluated(
    mdp: MDP,
    steps: Trajectories,
    critic: Critic,
    rng: np.random.Generator,
    policy: Float[np.ndarray, "S A"] | None = None,
    behaviour: Float[np.ndarray, "S A"] | None = None,
) -> Batch:
    """Trajectories with the critic's values, and π/μ where both policies are given."""
    ratio = np.ones((mdp.states, mdp.actions))
    if policy is not None and behaviour is not None:
        behaviour = checked_policy(mdp, behaviour)
        ratio = checked_policy(mdp, policy) / np.where(behaviour > 0, behaviour, 1)
    value, next_value = critic.table[steps.states], critic.table[steps.next_states]
    if critic.std > 0:
        length, count = value.shape
        error = critic.std * rng.standard_normal((length + 1, count))
        # After an episode's end the next row is another moment.
        over = steps.terminated | steps.truncated
        other = critic.std * rng.standard_normal(value.shape)
        value = value + error[:-1]
        next_value = next_value + np.where(over, other, error[1:])
    return Batch(steps, value, next_value, ratio[steps.states, steps.actions], mdp.gamma)


Exact = Callable[[MDP, "Float[np.ndarray, 'S A']", Critic], PairMoments]


@dataclass(frozen=True, eq=False)
class Estimator:
    """A way to estimate V(s_t) (`of` "V") or A(s_t, a_t) (`of` "A") in every row of a batch.

    `rows` is how many rows it looks ahead, None if to the end. `exact`, where there is a closed
    form, gives the moments that it has on trajectories without end.
    """

    name: str
    of: Literal["V", "A"]
    estimate: Callable[[Batch], Any]
    rows: int | None = None
    exact: Exact | None = None

    def minus(self, baseline: Float[np.ndarray, " S"], name: str) -> Estimator:
        """The same less b(s_t), as an estimate of the advantage."""
        exact = self.exact

        def estimate(batch: Batch) -> np.ndarray:
            return np.asarray(self.estimate(batch)) - baseline[batch.steps.states]

        def less(mdp: MDP, policy: np.ndarray, critic: Critic) -> PairMoments:
            assert exact is not None
            found = exact(mdp, policy, critic)
            return found._replace(mean=found.mean - baseline[:, None])

        return Estimator(name, "A", estimate, self.rows, less if exact else None)


def monte_carlo() -> Estimator:
    """G_t = Σ_k γ^k r_{t+k}, by `estimators.monte_carlo_returns`; uses no critic."""

    def estimate(batch: Batch) -> np.ndarray:
        s = batch.steps
        arrays = (s.rewards, np.zeros_like(batch.next_value), s.terminated, s.truncated)
        return _library("monte_carlo_returns", *arrays, batch.gamma)

    def exact(mdp: MDP, policy: np.ndarray, critic: Critic) -> PairMoments:
        return lambda_moments(mdp, policy, critic, 1.0)

    return Estimator("Monte Carlo", "V", estimate, None, exact)


def td() -> Estimator:
    """r_t + γ V̂(s_{t+1}), the target of TD(0): `estimators.td_errors` plus V̂(s_t)."""

    def estimate(batch: Batch) -> np.ndarray:
        return np.asarray(td_error().estimate(batch)) + batch.value

    return Estimator(
        "TD(0)",
        "V",
        estimate,
        1,
        lambda mdp, policy, critic: n_step_moments(mdp, policy, critic, 1),
    )


def n_step(n: int) -> Estimator:
    """Σ_{k<n} γ^k r_{t+k} + γ^n V̂(s_{t+n}), fewer terms where the episode or batch ends."""
    if n < 1:
        raise UserError(f"An n-step return needs n of at least 1, not {n}.")
    return Estimator(
        f"{n}-step",
        "V",
        lambda batch: n_step_returns(batch, n),
        n,
        lambda mdp, policy, critic: n_step_moments(mdp, policy, critic, n),
    )


def lambda_return(lam: float) -> Estimator:
    """TD(λ)'s forward view (Sutton & Barto 2018, eq. 12.2): `estimators.gae` plus V̂(s_t)."""
    advantage = gae(lam)
    return Estimator(
        f"TD({lam:g})",
        "V",
        lambda batch: np.asarray(advantage.estimate(batch)) + batch.value,
        None,
        lambda mdp, policy, critic: lambda_moments(mdp, policy, critic, lam),
    )


def td_error() -> Estimator:
    """δ_t = r_t + γ V̂(s_{t+1}) − V̂(s_t), by `estimators.td_errors`."""

    def estimate(batch: Batch) -> np.ndarray:
        s = batch.steps
        arrays = (s.rewards, batch.value, batch.next_value, s.terminated)
        return _library("td_errors", *arrays, batch.gamma)

    return Estimator(
        "TD error",
        "A",
        estimate,
        1,
        lambda mdp, policy, critic: less_value(n_step_moments(mdp, policy, critic, 1), critic),
    )


def gae(lam: float) -> Estimator:
    """Generalised advantage estimation, by `estimators.gae`."""
    if not 0 <= lam <= 1:
        raise UserError(f"λ is in [0, 1], not {lam:g}.")

    def estimate(batch: Batch) -> np.ndarray:
        s = batch.steps
        arrays = (s.rewards, batch.value, batch.next_value, s.terminated, s.truncated)
        return _library("gae", *arrays, batch.gamma, lam)

    return Estimator(
        f"GAE({lam:g})",
        "A",
        estimate,
        None,
        lambda mdp, policy, critic: less_value(lambda_moments(mdp, policy, critic, lam), critic),
    )


def vtrace(rho_clip: float = 1.0, c_clip: float = 1.0) -> Estimator:
    """V-trace's value target, by `estimators.vtrace`, from trajectories of another policy.

    v_t = V̂(s_t) + Σ_k γ^k (Π_{i<k} c_{t+i}) ρ_{t+k} δ_{t+k}, with ρ = min(ρ̄, π/μ) and
    c = min(c̄, π/μ) (Espeholt et al. 2018, eq. 1). `clipped_policy` is the policy whose value it
    estimates.
    """
    if not 0 < c_clip <= rho_clip:
        raise UserError(f"V-trace needs 0 < c̄ ≤ ρ̄, not c̄ = {c_clip:g} and ρ̄ = {rho_clip:g}.")

    def estimate(batch: Batch) -> np.ndarray:
        s = batch.steps
        arrays = (s.rewards, batch.value, batch.next_value, s.terminated, s.truncated, batch.ratio)
        return _library("vtrace", *arrays, batch.gamma, 1.0, rho_clip, c_clip)[0]

    return Estimator(f"V-trace({rho_clip:g}, {c_clip:g})", "V", estimate)


def exact_estimator(name: str, table: Float[np.ndarray, "S A"]) -> Estimator:
    """What an oracle says of (s_t, a_t), such as `action_values` or `advantages`."""
    return Estimator(
        name,
        "A",
        lambda batch: table[batch.steps.states, batch.steps.actions],
        1,
        lambda mdp, policy, critic: PairMoments(table, np.zeros_like(table)),
    )


def n_step_returns(batch: Batch, n: int) -> Float[np.ndarray, "T B"]:
    """By the definition, a sum for each row (Sutton & Barto 2018, eq. 7.1)."""
    s = batch.steps
    length = len(s.rewards)
    after = np.where(s.terminated, 0.0, batch.next_value)
    returns = np.zeros_like(s.rewards)
    over = s.terminated | s.truncated
    for t in range(length):
        running = np.ones_like(s.valid[0])
        for k in range(min(n, length - t)):
            last = over[t + k] | (k == n - 1) | (t + k == length - 1)
            term = s.rewards[t + k] + np.where(last, batch.gamma * after[t + k], 0.0)
            returns[t] += np.where(running, batch.gamma**k * term, 0.0)
            running = running & ~over[t + k]
    return returns


@cache
def _compiled(name: str) -> Callable[..., Any]:
    import jax

    from actorcritic.maths import estimators

    return jax.jit(getattr(estimators, name))


def _library(name: str, *arguments: Any) -> Any:
    """What a function of `actorcritic.maths.estimators` gives, in float64."""
    import jax

    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, _compiled(name)(*(np.asarray(x) for x in arguments)))
