"""Partially observed processes that end: the best policy over beliefs, and the value of any other.

What an agent can know is the sequence of its actions and observations; all that it needs of it is
the belief b(s) = P(s | that sequence) (Åström 1965). With

    b'(s') ∝ O(o | a, s') Σ_s b(s) P(s' | s, a)

the process is a Markov decision process over beliefs (Kaelbling, Littman & Cassandra 1998), and

    V(b) = max_a Σ_s b(s) Σ_s' P(s'|s,a) [ R(s,a,s') + γ Σ_o O(o|a,s') V(b') ].

Where every policy ends after finitely many steps, few beliefs can be reached, and V is a recursion
over them: exact, in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from actorcritic.core.errors import UserError
from actorcritic.lab.process import check_probabilities, numbers

MOST_BELIEFS = 200_000
DIGITS = 12  # of a belief, by which two are the same

History = tuple[int, ...]  # first observation, action, observation, action, observation, …
Policy = Callable[[History], Float[np.ndarray, " A"]]  # probabilities of actions


@dataclass(frozen=True, eq=False)
class POMDP:
    """A process of which observations are seen, and the end, but no state.

    `first[s, o]` is the probability of the observation o in a start s, `observation[a, s', o]`
    that of o after action a led to s'; the rest is as in `MDP`.
    """

    transition: Float[np.ndarray, "S A S"]
    reward: Float[np.ndarray, "S A S"]
    observation: Float[np.ndarray, "A S O"]
    first: Float[np.ndarray, "S O"]
    terminal: Bool[np.ndarray, " S"]
    start: Float[np.ndarray, " S"]
    gamma: float = 1.0

    def __post_init__(self) -> None:
        transition = numbers("transition", self.transition)
        observation, first = numbers("observation", self.observation), numbers("first", self.first)
        if transition.ndim != 3 or transition.shape[0] != transition.shape[2]:
            raise UserError(f"transition has the shape [S, A, S], not {list(transition.shape)}.")
        s, a, _ = transition.shape
        for name, array, shape in [
            ("reward", self.reward, (s, a, s)),
            ("observation", observation, (a, s, first.shape[-1])),
            ("first", first, (s, first.shape[-1])),
            ("terminal", self.terminal, (s,)),
            ("start", self.start, (s,)),
        ]:
            if np.shape(array) != shape:
                raise UserError(f"{name} has the shape {list(shape)}, not {list(np.shape(array))}.")
        check_probabilities("transition[s, a]", transition)
        check_probabilities("observation[a, s']", observation)
        check_probabilities("first[s]", first)
        check_probabilities("start", numbers("start", self.start))

    @property
    def actions(self) -> int:
        return self.transition.shape[1]

    def beginnings(self) -> list[tuple[int, Float[np.ndarray, " S"]]]:
        """Each first observation, with P(it, s)."""
        joint = self.start[:, None] * self.first
        return [(o, joint[:, o]) for o in range(joint.shape[1]) if joint[:, o].sum() > 0]

    def after(
        self, weight: Float[np.ndarray, " S"], action: int
    ) -> tuple[float, list[tuple[int, Float[np.ndarray, " S"]]]]:
        """Of the measure `weight` over states: its mean reward of an action; and each observation
        that may follow, with the measure over states in which it does, where nothing has ended.
        """
        moves = weight[:, None] * self.transition[:, action]
        going_on = np.where(self.terminal, 0.0, moves.sum(0))
        joint = going_on[:, None] * self.observation[action]
        follows = [(o, joint[:, o]) for o in range(joint.shape[1]) if joint[:, o].sum() > 0]
        return float((moves * self.reward[:, action]).sum()), follows


@dataclass(frozen=True)
class Solution:
    """The best that can be done. `values` of beliefs that can be reached are per unit of belief."""

    value: float  # expected return from the start
    values: dict[tuple[float, ...], Float[np.ndarray, " A"]]  # of every action in a belief

    def action_values(self, belief: Float[np.ndarray, " S"]) -> Float[np.ndarray, " A"]:
        """Q(b, a), with the best afterwards. KeyError where nothing leads to this belief."""
        return self.values[_key(belief)]


def _key(weight: Float[np.ndarray, " S"]) -> tuple[float, ...]:
    belief = np.asarray(weight, np.float64) / np.sum(weight)
    return tuple(np.round(belief, DIGITS).tolist())


def solve(pomdp: POMDP) -> Solution:
    """The best policy over beliefs, by recursion.

    UserError where more than 200,000 beliefs can be reached, as where episodes need not end.
    """
    values: dict[tuple[float, ...], np.ndarray] = {}
    open_now: set[tuple[float, ...]] = set()

    def best(weight: Float[np.ndarray, " S"]) -> float:
        key, total = _key(weight), float(weight.sum())
        if key not in values:
            if key in open_now or len(values) + len(open_now) > MOST_BELIEFS:
                raise UserError(
                    "Beliefs of this process come again or are too many to list: only processes "
                    "whose episodes surely end are solved here."
                )
            open_now.add(key)
            found = np.zeros(pomdp.actions)
            for action in range(pomdp.actions):
                reward, follows = pomdp.after(weight / total, action)
                found[action] = reward + pomdp.gamma * sum(best(joint) for _, joint in follows)
            open_now.remove(key)
            values[key] = found
        return total * float(values[key].max())

    try:
        value = sum(best(joint) for _, joint in pomdp.beginnings())
    except RecursionError:
        raise UserError(
            "Episodes of this process are too long to be solved by recursion over beliefs."
        ) from None
    return Solution(value, values)


class Visited(NamedTuple):
    """A history that a policy comes to."""

    reach: float  # the probability of it
    value: float  # V: the expected return from there on


def values_of(pomdp: POMDP, policy: Policy) -> dict[History, Visited]:
    """Every history that a policy of what was seen comes to, by enumeration."""
    found: dict[History, Visited] = {}

    def value(weight: Float[np.ndarray, " S"], reach: float, history: History) -> float:
        """Of the measure `weight`; the policy comes here with `reach` times its sum."""
        total = 0.0
        for action, probability in enumerate(policy(history)):
            if probability > 0:
                reward, follows = pomdp.after(weight, action)
                rest = sum(
                    value(joint, reach * float(probability), (*history, action, o))
                    for o, joint in follows
                )
                total += float(probability) * (reward + pomdp.gamma * rest)
        mass = float(weight.sum())
        found[history] = Visited(reach * mass, total / mass)
        return total

    for o, joint in pomdp.beginnings():
        value(joint, 1.0, (o,))
    return found


def value_of(pomdp: POMDP, policy: Policy) -> float:
    """The expected return of a policy of what was seen."""
    found = values_of(pomdp, policy)
    return sum(each.reach * each.value for history, each in found.items() if len(history) == 1)


def belief_after(pomdp: POMDP, history: History) -> Float[np.ndarray, " S"]:
    """P(s | history), by Bayes' rule."""
    weight = dict(pomdp.beginnings())[history[0]]
    for action, observation in zip(history[1::2], history[2::2], strict=True):
        weight = dict(pomdp.after(weight, action)[1])[observation]
    return weight / weight.sum()
