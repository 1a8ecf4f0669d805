"""What recorded steps can support: which actions they hold, and how good a policy that allows."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from actorcritic.core.errors import UserError
from actorcritic.lab.exact import one_step, values
from actorcritic.lab.process import MDP


def seen(
    mdp: MDP, states: Int[np.ndarray, " N"], actions: Int[np.ndarray, " N"]
) -> Bool[np.ndarray, "S A"]:
    """Which actions were taken in which states."""
    found = np.zeros((mdp.states, mdp.actions), bool)
    found[states, actions] = True
    return found


def supported_values(mdp: MDP, support: Bool[np.ndarray, "S A"]) -> Float[np.ndarray, " S"]:
    """V(s) of the best policy that takes supported actions only, by policy iteration.

    In states without a supported action, which such a policy does not come to from where the data
    begin, it takes any. UserError where the shape is another.
    """
    if support.shape != (mdp.states, mdp.actions):
        raise UserError(f"A support of this MDP has the shape [{mdp.states}, {mdp.actions}].")
    allowed = np.where(support.any(axis=1, keepdims=True), support, True)
    policy = allowed / allowed.sum(axis=1, keepdims=True)
    before = np.full(mdp.states, -np.inf)
    while True:
        v = values(mdp, policy)
        q = np.where(allowed, one_step(mdp, v)[0], -np.inf)
        rounding = 1e-12 * (1 + np.abs(v).max())
        better = q.max(axis=1) > v + rounding
        if not better.any() or np.max(v - before) <= rounding:
            return v
        policy[better] = np.eye(mdp.actions)[q[better].argmax(axis=1)]
        before = v
