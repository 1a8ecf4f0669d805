"""What a finite Markov decision process is, and what a policy of it has to be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from actorcritic.core.errors import UserError

ROUNDING = 1e-9  # how far the sum of probabilities may be from 1


@dataclass(frozen=True, eq=False)
class MDP:
    """A finite Markov decision process.

    After action a in state s comes s' with probability `transition[s, a, s']` and the reward
    `reward[s, a, s']` plus normal noise of deviation `reward_std[s, a]`. An episode starts in s
    with probability `start[s]` and ends on entering a state that is `terminal`, whose value is 0.
    Rewards may be given as [S, A], the deviation as one number. γ = 1 needs episodes that end.
    """

    transition: Float[np.ndarray, "S A S"]
    reward: Float[np.ndarray, "S A S"]
    terminal: Bool[np.ndarray, " S"]
    start: Float[np.ndarray, " S"]
    gamma: float
    reward_std: Float[np.ndarray, "S A"] = 0.0  # type: ignore[assignment]

    def __post_init__(self) -> None:
        transition = numbers("transition", self.transition)
        if (
            transition.ndim != 3
            or transition.shape[0] != transition.shape[2]
            or not transition.size
        ):
            raise UserError(
                f"An MDP's transition has the shape [S, A, S], not {list(transition.shape)}."
            )
        s, a, _ = transition.shape
        reward = numbers("reward", self.reward)
        if reward.shape == (s, a):
            reward = np.broadcast_to(reward[:, :, None], (s, a, s))
        terminal = np.asarray(self.terminal)
        start, std = numbers("start", self.start), numbers("reward_std", self.reward_std)
        if std.ndim == 0:
            std = np.full((s, a), float(std))
        for name, array, shape in [
            ("reward", reward, (s, a, s)),
            ("terminal", terminal, (s,)),
            ("start", start, (s,)),
            ("reward_std", std, (s, a)),
        ]:
            if array.shape != shape:
                raise UserError(
                    f"An MDP of {s} states and {a} actions needs {name} of the shape "
                    f"{list(shape)}, not {list(array.shape)}."
                )
        if terminal.dtype != bool:
            raise UserError("An MDP's terminal is an array of booleans, one for each state.")
        gamma = float(self.gamma)
        if not 0 <= gamma <= 1:
            raise UserError(f"An MDP's gamma is in [0, 1], not {gamma:g}.")
        if (std < 0).any():
            raise UserError("An MDP's reward_std must not be negative.")
        # A terminal state is where it ends, whatever was said of what follows it.
        transition, reward, std = transition.copy(), reward.copy(), std.copy()
        transition[terminal] = np.eye(s)[terminal][:, None, :]
        reward[terminal], std[terminal] = 0.0, 0.0
        check_probabilities("transition[s, a]", transition)
        check_probabilities("start", start)
        if start[terminal].sum() > 0:
            raise UserError("An MDP must not start in a terminal state.")
        for name, value in [
            ("transition", transition),
            ("reward", reward),
            ("terminal", terminal.copy()),
            ("start", start.copy()),
            ("gamma", gamma),
            ("reward_std", std),
        ]:
            if isinstance(value, np.ndarray):
                value.flags.writeable = False
            object.__setattr__(self, name, value)
        if gamma == 1:
            check_ends(self, np.full((s, a), 1 / a))

    @property
    def states(self) -> int:
        return self.transition.shape[0]

    @property
    def actions(self) -> int:
        return self.transition.shape[1]


def checked_policy(mdp: MDP, policy: Any) -> Float[np.ndarray, "S A"]:
    """The policy in float64, or a UserError that says why this process has no such policy."""
    policy = numbers("The policy", policy)
    if policy.shape != (mdp.states, mdp.actions):
        raise UserError(
            f"A policy of this MDP has the shape [{mdp.states}, {mdp.actions}], not "
            f"{list(policy.shape)}."
        )
    check_probabilities("The policy", policy)
    if mdp.gamma == 1:
        check_ends(mdp, policy)
    return policy


def check_ends(mdp: MDP, policy: np.ndarray) -> None:
    """With γ = 1 every state must lead to an end."""
    moves = np.einsum("sa,sax->sx", policy, mdp.transition) > 0
    ends = mdp.terminal.copy()
    for _ in range(mdp.states):
        ends = ends | (moves & ends).any(1)
    if not ends.all():
        raise UserError(
            f"With γ = 1 every state must lead to a terminal one; state {np.argmin(ends)} does "
            "not under this policy. Take a smaller gamma."
        )


def check_probabilities(name: str, rows: np.ndarray) -> None:
    """Each row is a distribution over its last axis."""
    if (rows < 0).any():
        raise UserError(f"{name} has probabilities below 0.")
    off = np.abs(rows.sum(-1) - 1)
    if off.max() > ROUNDING:
        where = [int(i) for i in np.unravel_index(np.argmax(off), off.shape)]
        place = f" at {where}" if where else ""
        raise UserError(f"The probabilities {name}{place} sum to {rows.sum(-1)[tuple(where)]:g}.")


def numbers(name: str, array: Any) -> np.ndarray:
    """The array in float64, all of it finite."""
    try:
        numbers = np.asarray(array, np.float64)
    except (TypeError, ValueError):
        raise UserError(f"{name} must be an array of numbers.") from None
    if not np.isfinite(numbers).all():
        raise UserError(f"{name} has numbers that are not finite.")
    return numbers
