"""How it is acted: the networks as NumPy arrays, the floor under exploration, masks, fallback.

A call of JAX costs more than the few multiplications of one decision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

TRIAL = 10  # outcomes of an action after which half of its trial share is gone
CLIPPED = 10.0  # deviations from the mean, of a number of a vector
PRIOR = 10  # rows, that the scale of vectors is shrunk by
MANY_ROWS = 1_000  # from which on speed is all that counts: pages and evaluations
TINY = 1e-12


class Arrays(NamedTuple):
    """One network: a hidden layer, then one output an action."""

    weight: Float[np.ndarray, "d h"]
    bias: Float[np.ndarray, " h"]
    out_weight: Float[np.ndarray, "h K"]
    out_bias: Float[np.ndarray, " K"]

    def __call__(self, x: Float[np.ndarray, "N d"]) -> Float[np.ndarray, "N K"]:
        hidden = np.maximum(_product(x, self.weight) + self.bias, 0)
        hidden *= np.float32(1 / np.sqrt(self.weight.shape[1]))
        return _product(hidden, self.out_weight) + self.out_bias


def _product(x: Float[np.ndarray, "N n"], matrix: Float[np.ndarray, "n m"]) -> np.ndarray:
    """x @ matrix; of few rows without BLAS, row by row.

    BLAS would wake other threads for it, which takes milliseconds where a machine is busy, and its
    last bits depend on how many rows there are: a probability must not depend on which decisions
    share a transaction. Of a hashed text most numbers are 0, and are left out.
    """
    if len(x) > MANY_ROWS:
        return x @ matrix
    found = np.empty((len(x), matrix.shape[1]), np.float32)
    for i, row in enumerate(x):
        some = np.flatnonzero(row)
        if 2 * len(some) > len(row):
            found[i] = np.einsum("i,ij->j", row, matrix)
        else:
            found[i] = np.einsum("i,ij->j", row[some], matrix[some])
    return found


@dataclass
class Scale:
    """Sums over the vectors that were learned from, by which vectors are standardised.

    Each number loses its mean and is divided by its deviation and by √d, so that a vector has a
    length of about 1, as a hashed text has. Means are shrunk to 0, as if 10 rows of zeros had come
    before, so that one row is not its own mean.
    """

    count: float
    total: Float[np.ndarray, " d"]
    squares: Float[np.ndarray, " d"]

    @classmethod
    def start(cls, d: int) -> Scale:
        return cls(0.0, np.zeros(d), np.zeros(d))

    def add(self, x: Float[np.ndarray, " d"]) -> None:
        x = x.astype(np.float64)
        self.count, self.total, self.squares = (
            self.count + 1,
            self.total + x,
            self.squares + x * x,
        )

    def copy(self) -> Scale:
        return Scale(self.count, self.total, self.squares)  # arrays are replaced, never changed

    def fixed(self) -> Standard:
        """As it is now, ready to be applied."""
        n, d = self.count, len(self.total)
        overall = max(float(self.squares.sum() / max(n * d, 1)), TINY) if n else 1.0
        mean = self.total / (n + PRIOR)
        square = self.squares / max(n, 1)
        variance = np.where(square > 0, np.maximum(square - mean**2, 1e-6 * square), overall)
        deviation = np.sqrt(np.maximum(variance, TINY))
        return Standard(mean.astype(np.float32), (1 / deviation).astype(np.float32))


class Standard(NamedTuple):
    mean: Float[np.ndarray, " d"]
    inverse: Float[np.ndarray, " d"]

    def __call__(self, x: Float[np.ndarray, "N d"]) -> Float[np.ndarray, "N d"]:
        z = np.clip((x - self.mean) * self.inverse, -CLIPPED, CLIPPED)
        return z / np.float32(np.sqrt(len(self.mean)))


@dataclass(frozen=True)
class Policy:
    """What acts: everything that was learned from the first `learned` outcomes."""

    actor: Arrays | None  # None: nothing is learned
    critic: Arrays | None
    standard: Standard
    outcomes: Int[np.ndarray, " K"]  # of each action
    learned: int

    def scaled(
        self, features: Float[np.ndarray, "N d"], given: Bool[np.ndarray, " N"]
    ) -> Float[np.ndarray, "N d"]:
        """Vectors that were given are standardised; hashed features are as they are."""
        if not given.any():
            return features
        return np.where(given[:, None], self.standard(features), features)

    def logits(self, x: Float[np.ndarray, "N d"], actions: int) -> Float[np.ndarray, "N K"]:
        """Of so many actions; those that came later than what was learned have 0."""
        return _padded(self.actor(x) if self.actor else np.zeros((len(x), 0)), actions)

    def predicted(self, x: Float[np.ndarray, "N d"], actions: int) -> Float[np.ndarray, "N K"]:
        """The critic's reward of every action."""
        return _padded(self.critic(x) if self.critic else np.zeros((len(x), 0)), actions)

    def probabilities(
        self,
        x: Float[np.ndarray, "N d"],
        allowed: Bool[np.ndarray, "N K"],
        exploration: float,
        fallback: int | None,
        until: int,
    ) -> Float[np.ndarray, "N K"]:
        """π with its floor, in float64; rows sum to 1, and what is not allowed has 0.

        Every allowed action has at least `exploration` / (number of allowed actions); one with
        few outcomes, n, has at least 1 / (2 (1 + n / 10)) of an equal share. Before `until`
        outcomes are learned the fallback action acts in the place of the networks.
        """
        rows, actions = allowed.shape
        if self.learned < until or self.actor is None:
            policy = np.zeros((rows, actions))
            if fallback is not None:
                policy[:, fallback] = 1
            policy *= allowed
            lost = policy.sum(1) == 0  # no fallback, or one that is not allowed here
            policy[lost] = allowed[lost] / allowed[lost].sum(1, keepdims=True)
        else:
            policy = softmax(self.logits(x, actions), allowed)
        known = np.zeros(actions)
        known[: len(self.outcomes)] = self.outcomes[:actions]
        share = allowed / allowed.sum(1, keepdims=True)
        floor = np.maximum(exploration, 0.5 / (1 + known / TRIAL)) * share
        found = floor + (1 - floor.sum(1, keepdims=True)) * policy
        return found / found.sum(1, keepdims=True)


def softmax(
    logits: Float[np.ndarray, "N K"], allowed: Bool[np.ndarray, "N K"]
) -> Float[np.ndarray, "N K"]:
    logits = np.where(allowed, logits.astype(np.float64), -np.inf)
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def draw(
    probabilities: Float[np.ndarray, "N K"], rng: np.random.Generator
) -> Int[np.ndarray, " N"]:
    """One action a row."""
    steps = np.cumsum(probabilities, 1)
    drawn = (rng.random((len(steps), 1)) * steps[:, -1:] >= steps).sum(1)
    # Rounding must not choose what has no probability.
    last = probabilities.shape[1] - 1 - np.argmax(probabilities[:, ::-1] > 0, 1)
    return np.minimum(drawn, last)


def _padded(x: Float[np.ndarray, "N K"], actions: int) -> Float[np.ndarray, "N K2"]:
    if x.shape[1] >= actions:
        return x[:, :actions]
    return np.pad(x, ((0, 0), (0, actions - x.shape[1])))
