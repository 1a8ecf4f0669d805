"""Trajectories, drawn from a process and a policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from actorcritic.core.errors import UserError
from actorcritic.lab.exact import going_on
from actorcritic.lab.process import MDP, checked_policy

TAIL = 1e-8  # what may be left of the discounted future at the end of a sampled trajectory
LONGEST = 20_000  # steps of a sampled trajectory


class Trajectories(NamedTuple):
    """Sampled steps; column b is one agent, row t its step t. Rewards and states are those of t."""

    states: Int[np.ndarray, "T B"]
    actions: Int[np.ndarray, "T B"]
    rewards: Float[np.ndarray, "T B"]
    next_states: Int[np.ndarray, "T B"]  # the true successors, also at an episode's end
    terminated: Bool[np.ndarray, "T B"]
    truncated: Bool[np.ndarray, "T B"]  # the last row, where the episode had not ended
    valid: Bool[np.ndarray, "T B"]  # False after the end of the episode, without restart


def sample(
    mdp: MDP,
    policy: Float[np.ndarray, "S A"],
    rng: np.random.Generator,
    *,
    steps: int,
    batch: int,
    restart: bool = True,
    start: Int[np.ndarray, " B"] | None = None,
    first_action: Int[np.ndarray, " B"] | None = None,
) -> Trajectories:
    """`batch` independent agents, `steps` steps each.

    With `restart` a new episode follows an old one at once. Without, a column is one episode, and
    rows after its end are not valid (terminated, reward 0). `start` and `first_action` are the
    state and action of row 0, where they should not be drawn.
    """
    policy = checked_policy(mdp, policy)
    if steps < 1 or batch < 1:
        raise UserError("Trajectories need at least one step and one agent.")
    # A state that has no probability must not be drawn, whatever rounding left of the sum.
    choose = _sampler(policy)
    move = _sampler(mdp.transition.reshape(-1, mdp.states))
    begin = _sampler(mdp.start[None])
    none = np.zeros(batch, np.int64)

    states, actions, next_states = (np.zeros((steps, batch), np.int64) for _ in range(3))
    rewards = np.zeros((steps, batch))
    terminated, truncated = (np.zeros((steps, batch), bool) for _ in range(2))
    valid = np.ones((steps, batch), bool)
    state = begin(none, rng) if start is None else np.asarray(start, np.int64)
    for t in range(steps):
        action = choose(state, rng)
        if t == 0 and first_action is not None:
            action = np.asarray(first_action, np.int64)
        after = move(state * mdp.actions + action, rng)
        noise = mdp.reward_std[state, action] * rng.standard_normal(batch)
        states[t], actions[t], next_states[t] = state, action, after
        rewards[t] = mdp.reward[state, action, after] + noise
        terminated[t] = mdp.terminal[after]
        valid[t] = ~mdp.terminal[state]
        state = np.where(terminated[t], begin(none, rng), after) if restart else after
    truncated[-1] = ~terminated[-1]
    return Trajectories(states, actions, rewards, next_states, terminated, truncated, valid)


def horizon(mdp: MDP, policy: Float[np.ndarray, "S A"]) -> int:
    """Steps after which less than 1e-8 is left: the greatest γ^T P(not over after T steps)."""
    onward, left = going_on(mdp, checked_policy(mdp, policy)), np.ones(mdp.states)
    for steps in range(1, LONGEST + 1):
        left = mdp.gamma * onward @ left
        if left.max() < TAIL:
            return steps
    raise UserError(
        f"Trajectories would need more than {LONGEST:,} steps; take a smaller gamma, or a policy "
        "whose episodes end sooner."
    )


def _sampler(
    rows: Float[np.ndarray, "R K"],
) -> Callable[[Int[np.ndarray, " B"], np.random.Generator], Int[np.ndarray, " B"]]:
    """Draws from the distribution in each one's row."""
    ends = np.cumsum(rows, axis=1)
    # No draw is beyond the last that has a probability, whatever rounding left of the sum.
    last = rows.shape[1] - 1 - np.argmax(rows[:, ::-1] > 0, axis=1)

    def draw(row: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        below = (rng.random(len(row))[:, None] >= ends[row]).sum(1)
        return np.minimum(below, last[row])

    return draw
