"""Bias and variance of estimators and policy gradients, measured on sampled trajectories."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from actorcritic.core.errors import UserError
from actorcritic.figures.statistics import Estimate
from actorcritic.lab.critics import Critic
from actorcritic.lab.estimators import Batch, Estimator, evaluated
from actorcritic.lab.exact import (
    advantages,
    discounted_distribution,
    policy_gradient,
    softmax,
    values,
)
from actorcritic.lab.process import MDP, checked_policy
from actorcritic.lab.sampling import Trajectories, horizon, sample

MOST_HELD = 4_000_000  # of an array that is held at once


class Measured(NamedTuple):
    """Numbers that were measured, and their standard errors; of independent samples."""

    value: Any  # a float or an array
    error: Any

    @property
    def estimate(self) -> Estimate:
        """With the interval that holds the truth in 95 % of cases, by normal theory."""
        return Estimate(self.value, self.value - 1.96 * self.error, self.value + 1.96 * self.error)

    def agrees(self, truth: Any, deviations: float = 5.0) -> bool:
        """Whether all are within so many standard errors of the truth, and rounding.

        Five: one number is that far off by chance in 6 of 10 million cases.
        """
        allowed = deviations * np.asarray(self.error) + 1e-6 * (1 + np.abs(truth))
        return bool(np.all(np.abs(np.asarray(self.value) - truth) <= allowed))

    def __str__(self) -> str:
        return str(self.estimate) if np.ndim(self.value) == 0 else repr(self)


class Quality(NamedTuple):
    """How good an estimator is. In each cell: [S] for values, [S, A] for advantages; and overall.

    The overall numbers are means over cells with the weights of `discounted_distribution`, for
    advantages times π. The mean squared error is the squared bias and the variance together; the
    bias itself may be 0 overall because that of one cell undoes that of another.
    """

    bias: Measured
    variance: Measured
    mse: Measured
    overall_bias: Measured
    overall_squared_bias: Measured  # unbiased: it may be below 0
    overall_variance: Measured
    overall_mse: Measured


def measure(
    mdp: MDP,
    policy: Float[np.ndarray, "S A"],
    estimator: Estimator,
    critic: Critic,
    rng: np.random.Generator,
    *,
    samples: int = 1000,
    states: Sequence[int] | None = None,
    behaviour: Float[np.ndarray, "S A"] | None = None,
    length: int | None = None,
) -> Quality:
    """Bias, variance and mean squared error of an estimator, against exact values of `policy`.

    From each cell (a state, or for advantages a state and an action) start `samples` trajectories
    of their own, of which the first row is the estimate: all samples are independent, and standard
    errors are those of means. Trajectories are `length` steps long, by default as long as needed;
    shorter, they end in a truncation, as a rollout does. `behaviour` acts in the place of `policy`.
    Terminal states, and all but `states` where they are given, are cells without samples: all
    their numbers are 0.
    """
    policy = checked_policy(mdp, policy)
    acting = policy if behaviour is None else checked_policy(mdp, behaviour)
    if samples < 2:
        raise UserError("A measurement needs at least two samples.")
    if np.shape(critic.table) != (mdp.states,):
        raise UserError(f"The critic's table needs {mdp.states} values, one for each state.")
    if ((policy > 0) & (acting == 0)).any():
        raise UserError("The behaviour policy must give every action of the policy a chance.")
    if length is None:
        length = estimator.rows or horizon(mdp, acting)

    pairs = estimator.of == "A"
    truth = (advantages if pairs else values)(mdp, policy)
    weight = discounted_distribution(mdp, policy)
    weight = weight[:, None] * policy if pairs else weight
    asked = ~mdp.terminal
    if states is not None:
        if not set(states) <= set(np.flatnonzero(asked).tolist()) or not states:
            raise UserError(
                f"Measured can be some of the states 0 to {mdp.states - 1} that are not terminal, "
                f"not {list(states)}."
            )
        asked = np.isin(np.arange(mdp.states), states)
    kept = np.flatnonzero(np.broadcast_to(asked, truth.T.shape).T)
    start, first = (kept // mdp.actions, kept % mdp.actions) if pairs else (kept, None)

    blocks = -(-samples * len(kept) * (length + mdp.states) // MOST_HELD)
    each = -(-samples // blocks)
    errors = np.zeros((len(kept), each * blocks))
    for i in range(blocks):
        steps = sample(
            mdp,
            acting,
            rng,
            steps=length,
            batch=len(kept) * each,
            restart=False,
            start=np.repeat(start, each),
            first_action=None if first is None else np.repeat(first, each),
        )
        batch = evaluated(mdp, steps, critic, rng, policy, acting)
        found = _checked(estimator, batch)[0].reshape(len(kept), each)
        errors[:, i * each : (i + 1) * each] = found - truth.flat[kept][:, None]
    return _quality(errors, kept, truth.shape, weight.flat[kept])


def _quality(
    errors: Float[np.ndarray, "C N"],
    kept: Int[np.ndarray, " C"],
    shape: tuple[int, ...],
    weight: Float[np.ndarray, " C"],
) -> Quality:
    count = errors.shape[1]
    bias, variance = errors.mean(1), errors.var(1, ddof=1)
    squares = (errors - bias[:, None]) ** 2
    standard = variance / count
    found = [
        (bias, np.sqrt(standard)),
        (variance, squares.std(1) / np.sqrt(count)),
        ((errors**2).mean(1), (errors**2).std(1) / np.sqrt(count)),
        # The mean of N squared is on average the squared bias and a share of the variance.
        (bias**2 - standard, _error_of_square(bias**2 * standard, standard**2)),
    ]
    # States that were asked for and are never visited count alike.
    weight = weight if weight.any() else np.ones_like(weight)
    weight = weight / weight.sum()
    cells, overall = [], []
    for value, error in found:
        full = np.zeros((2, *shape))
        full.reshape(2, -1)[:, kept] = value, error
        cells.append(Measured(*full))
        overall.append(Measured(float(weight @ value), float(np.sqrt(weight**2 @ error**2))))
    bias_, variance_, mse, squared_bias = overall
    return Quality(cells[0], cells[1], cells[2], bias_, squared_bias, variance_, mse)


def _error_of_square(along: Any, of_mean: Any) -> Any:
    """The standard error of ‖x‖² less its share of noise, x a mean of covariance C and truth b.

    Its variance is 4 bᵀCb + 2 tr C² where x is normal; `along` is xᵀCx, whose mean is bᵀCb + tr C²,
    and `of_mean` is tr C².
    """
    return np.sqrt(np.maximum(4 * along - 2 * of_mean, 2 * of_mean))


class GradientQuality(NamedTuple):
    """How good a policy gradient of one episode is, beside the exact one."""

    exact: Float[np.ndarray, "S A"]
    bias: Measured  # [S, A]
    covariance: Float[np.ndarray, "SA SA"]
    variance: Measured  # [S, A], the covariance's diagonal
    trace: Measured  # of the covariance
    squared_bias: Measured  # ‖E[g] − dJ/dθ‖², unbiased: it may be below 0


def measure_gradient(
    mdp: MDP,
    logits: Float[np.ndarray, "S A"],
    estimator: Estimator,
    critic: Critic,
    rng: np.random.Generator,
    *,
    episodes: int = 10_000,
    length: int | None = None,
) -> GradientQuality:
    """Bias and covariance of g = Σ_t γ^t ∇log π(a_t|s_t) Ψ_t, one episode a sample.

    Ψ is any estimator: `monte_carlo()` is REINFORCE without a baseline, `gae(1)` has the critic as
    its baseline, `td_error()` is the one-step actor-critic. The factor γ^t is the one of the
    policy-gradient theorem for the discounted return, which most code leaves out.
    """
    policy = softmax(logits)
    checked_policy(mdp, policy)
    if episodes < 2:
        raise UserError("A measurement needs at least two episodes.")
    length = length or horizon(mdp, policy)
    exact = policy_gradient(mdp, logits)
    blocks = -(-episodes * (length + mdp.states * mdp.actions) // MOST_HELD)
    each = -(-episodes // blocks)
    gradients = []
    for _ in range(blocks):
        steps = sample(mdp, policy, rng, steps=length, batch=each, restart=False)
        batch = evaluated(mdp, steps, critic, rng)
        psi = _checked(estimator, batch)
        factor = mdp.gamma ** np.arange(length)[:, None]
        gradients.append(_episode_gradients(policy, steps, np.where(steps.valid, factor * psi, 0)))
    found = np.concatenate(gradients)
    return _gradient_quality(found.reshape(len(found), -1), exact)


def _episode_gradients(
    policy: np.ndarray, steps: Trajectories, weight: Float[np.ndarray, "T B"]
) -> Float[np.ndarray, "B S A"]:
    """Σ_t weight_t ∇log π(a_t|s_t), where ∇log π(a|s) = 1[a] − π(·|s) for the logits of s."""
    (s, a), b = policy.shape, weight.shape[1]
    visited = (np.arange(b) * s + steps.states).ravel()
    chosen = visited * a + steps.actions.ravel()
    of_states = np.bincount(visited, weight.ravel(), b * s).reshape(b, s, 1)
    of_pairs = np.bincount(chosen, weight.ravel(), b * s * a).reshape(b, s, a)
    return of_pairs - of_states * policy


def _gradient_quality(found: Float[np.ndarray, "N SA"], exact: np.ndarray) -> GradientQuality:
    count = len(found)
    covariance = np.atleast_2d(np.cov(found, rowvar=False))
    error = found.mean(0) - exact.ravel()
    squares = (found - found.mean(0)) ** 2
    trace = float(np.trace(covariance))
    distances = squares.sum(1)
    # Of a mean of N: E‖error‖² = ‖bias‖² + tr Cov / N, which is subtracted.
    squared = error @ covariance @ error / count, (covariance**2).sum() / count**2
    return GradientQuality(
        exact,
        Measured(
            error.reshape(exact.shape), np.sqrt(np.diag(covariance) / count).reshape(exact.shape)
        ),
        covariance,
        Measured(
            np.diag(covariance).reshape(exact.shape),
            (squares.std(0) / np.sqrt(count)).reshape(exact.shape),
        ),
        Measured(trace, float(distances.std() / np.sqrt(count))),
        Measured(float(error @ error - trace / count), float(_error_of_square(*squared))),
    )


def _checked(estimator: Estimator, batch: Batch) -> Float[np.ndarray, "T B"]:
    found = np.asarray(estimator.estimate(batch), np.float64)
    if found.shape != batch.value.shape:
        raise UserError(
            f"The estimator {estimator.name} gave the shape {list(found.shape)} for a batch "
            f"[T, B] = {list(batch.value.shape)}."
        )
    if not np.isfinite(found[batch.steps.valid]).all():
        raise UserError(f"The estimator {estimator.name} gave numbers that are not finite.")
    return found
