"""What another policy would have earned, from the decisions of the one that acted.

Row i of a log has a context x_i, an action a_i drawn with probability μ_i, and its reward r_i. The
policy π to be evaluated must not depend on these rows. With w_i = π(a_i|x_i) / μ_i

    IPS     (1/n) Σ w_i r_i                                   (Horvitz & Thompson 1952)
    SNIPS   Σ w_i r_i / Σ w_i                                 (Swaminathan & Joachims 2015)
    DR      (1/n) Σ [ Σ_b π(b|x_i) q(x_i, b) + w_i (r_i − q(x_i, a_i)) ]
                                                              (Dudík, Langford & Li 2011)

IPS and DR are unbiased where μ is what it says and every action that π takes has μ > 0. The model q
of DR is cross-fitted: a row's q comes from the other folds, so that it knows nothing of the row.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from actorcritic.core.errors import UserError

Method = Literal["ips", "snips", "dr"]

FOLDS = 5
RIDGE = 1.0
NORMAL = 1.959964  # 97.5 % point of the normal distribution
FEWEST_EFFECTIVE = 50.0  # decisions, below which nothing is said
LEAST_WEIGHT = 0.9  # mean of w, which is 1 in expectation where every action is covered


class Logged(NamedTuple):
    """Decisions with known rewards, as arrays."""

    features: Float[np.ndarray, "n d"]
    allowed: Bool[np.ndarray, "n K"]
    action: Int[np.ndarray, " n"]
    probability: Float[np.ndarray, " n"]
    reward: Float[np.ndarray, " n"]


class Interval(NamedTuple):
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


class Evaluation(NamedTuple):
    """What a log says of a policy."""

    ips: Interval
    snips: Interval
    dr: Interval
    gain: Interval  # of DR over what the policy that acted earned on the same rows
    effective: float  # sample size: (Σ w)² / Σ w²
    mean_weight: Interval
    rows: int

    @property
    def answerable(self) -> bool:
        return self.effective >= FEWEST_EFFECTIVE and self.mean_weight.high >= LEAST_WEIGHT

    @property
    def verdict(self) -> str:
        """In words, without saying more than the data do."""
        if self.rows and self.mean_weight.high < LEAST_WEIGHT:
            return (
                "cannot be answered: about "
                f"{1 - self.mean_weight.value:.0%} of what it would do was never tried there"
            )
        if self.effective < FEWEST_EFFECTIVE:
            return (
                f"cannot be answered: the {self.rows:,} decisions count as {self.effective:.0f}; "
                f"it takes {FEWEST_EFFECTIVE:.0f}"
            )
        if self.gain.low > 0:
            return "better than what acted"
        return "worse than what acted" if self.gain.high < 0 else "not told apart from what acted"


def evaluate(
    logged: Logged,
    policy: Float[np.ndarray, "n K"],
    model: Float[np.ndarray, "n K"] | None = None,
) -> Evaluation:
    """Evaluate the probabilities that a policy gives each action in each row's context.

    `model` are predicted rewards; left out, they are cross-fitted here. Raises UserError where
    the rows are too few, or probabilities are none.
    """
    n = len(logged.reward)
    if n < 2:
        raise UserError(f"Evaluation needs 2 decisions with a reward or more; got {n}.")
    if not (logged.probability > 0).all() or not (logged.probability <= 1 + 1e-9).all():
        raise UserError("Each decision needs the probability of its action, above 0 and up to 1.")
    wrong = np.abs(policy.sum(1) - 1) > 1e-6
    if policy.shape != logged.allowed.shape or (policy < 0).any() or wrong.any():
        raise UserError(
            f"A policy to be evaluated has probabilities of the shape {list(logged.allowed.shape)} "
            "whose rows sum to 1."
        )
    if model is None:
        model = cross_fitted(logged)
    every = np.arange(n)
    weight = policy[every, logged.action] / logged.probability
    ips = weight * logged.reward
    direct = (policy * model).sum(1)
    dr = direct + weight * (logged.reward - model[every, logged.action])
    total = max(weight.sum(), 1e-300)
    snips = float(ips.sum() / total)
    influence = weight * (logged.reward - snips) * (n / total)
    squares = float((weight**2).sum())
    return Evaluation(
        mean_interval(ips),
        mean_interval(influence)._replace(
            value=snips,
            low=snips - _half_width(influence),
            high=snips + _half_width(influence),
        ),
        mean_interval(dr),
        mean_interval(dr - logged.reward),
        float(weight.sum() ** 2 / squares) if squares else 0.0,
        mean_interval(weight),
        n,
    )


def mean_interval(x: Float[np.ndarray, " n"]) -> Interval:
    """The mean and its 95 % interval, from its standard error."""
    mean, half = float(x.mean()), _half_width(x)
    return Interval(mean, mean - half, mean + half)


def _half_width(x: Float[np.ndarray, " n"]) -> float:
    return NORMAL * float(x.std(ddof=1)) / float(np.sqrt(len(x)))


def cross_fitted(logged: Logged, folds: int = FOLDS) -> Float[np.ndarray, "n K"]:
    """Rewards of all actions in all rows, each by a ridge regression on the other folds' rows.

    An action's rows are fitted by themselves, around the mean reward of the action, which is shrunk
    to the mean of all. A fold is a stretch of time: neighbours are alike.
    """
    n, actions = logged.allowed.shape
    found = np.zeros((n, actions))
    folds = min(folds, n)
    for rows in np.array_split(np.arange(n), folds):
        rest = np.ones(n, bool)
        rest[rows] = False
        found[rows] = RidgeModel.fit(logged, rest, actions).predict(logged.features[rows])
    return found


class RidgeModel(NamedTuple):
    """One linear function an action."""

    weight: Float[np.ndarray, "d K"]
    bias: Float[np.ndarray, " K"]

    @classmethod
    def fit(cls, logged: Logged, rows: Bool[np.ndarray, " n"], actions: int) -> RidgeModel:
        x, action, reward = logged.features[rows], logged.action[rows], logged.reward[rows]
        d, overall = x.shape[1], float(reward.mean())
        weight, bias = np.zeros((d, actions)), np.full(actions, overall)
        for a in np.unique(action):
            own = action == a
            r, z = reward[own], x[own].astype(np.float64)
            bias[a] = (r.sum() + RIDGE * overall) / (len(r) + RIDGE)
            # (Z'Z + λI)⁻¹ Z'r, or the same as Z'(ZZ' + λI)⁻¹ r where rows are fewer than features.
            if len(r) < d:
                dual = np.linalg.solve(z @ z.T + RIDGE * np.eye(len(r)), r - bias[a])
                weight[:, a] = z.T @ dual
            else:
                gram = z.T @ z + RIDGE * np.eye(d)
                weight[:, a] = np.linalg.solve(gram, z.T @ (r - bias[a]))
        return cls(weight, bias)

    def predict(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n K"]:
        return x @ self.weight + self.bias


def greedy(values: Float[np.ndarray, "n K"], allowed: Bool[np.ndarray, "n K"]) -> Any:
    """The policy that takes the allowed action of the greatest value."""
    best = np.where(allowed, values, -np.inf).argmax(1)
    return np.eye(values.shape[1])[best]


def uniform(allowed: Bool[np.ndarray, "n K"]) -> Float[np.ndarray, "n K"]:
    return allowed / allowed.sum(1, keepdims=True)
