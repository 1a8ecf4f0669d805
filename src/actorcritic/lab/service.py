"""The routing of customers' requests, as a process whose best policy is known."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from actorcritic.envs.routing import Routing
from actorcritic.lab.beliefs import POMDP, History


def from_routing(world: Routing) -> POMDP:
    """States are (type, strain), type by type, then "done" and "left"; both end the episode.

    Observations are the signs; after a wrong answer nothing is seen but that it was wrong (the
    last observation). γ is 1.
    """
    types, answers, strains = world.types, world.answers, len(world.leaving) + 2
    done, left = types * strains, types * strains + 1
    count, actions, none = types * strains + 2, answers + 2, types
    transition, reward = np.zeros((count, actions, count)), np.zeros((count, actions, count))
    observation = np.zeros((actions, count, types + 1))
    observation[:, :, none] = 1.0
    first = np.zeros((count, types + 1))
    first[:, none] = 1.0
    start = np.zeros(count)
    transition[[done, left], :, [done, left]] = 1.0
    for kind in range(types):
        start[kind * strains] = world.prior[kind]
        here = slice(kind * strains, (kind + 1) * strains)
        first[here] = 0.0
        first[here, :types] = world.signs[kind]
        observation[answers, here] = first[here]
        for strain in range(strains):
            s = kind * strains + strain
            transition[s, answers + 1, done] = 1.0
            reward[s, answers + 1, done] = 1 - world.escalation_cost
            for action in range(answers + 1):
                if action == kind < answers:
                    transition[s, action, done] = reward[s, action, done] = 1.0
                    continue
                asked = action == answers
                cost = -world.ask_cost if asked else -world.wrong_cost
                under = strain + (1 if asked else 2)
                leaves = world.leaves(under)
                transition[s, action, left] = leaves
                reward[s, action, left] = cost - world.dissatisfaction
                ahead = kind * strains + min(under, strains - 1)  # never reached where they leave
                transition[s, action, ahead] += 1 - leaves
                reward[s, action, ahead] = cost
    terminal = np.zeros(count, bool)
    terminal[[done, left]] = True
    return POMDP(transition, reward, observation, first, terminal, start)


def routing_observation(world: Routing, history: History) -> Float[np.ndarray, " n"]:
    """What the environment shows after this history of `from_routing`."""
    evidence, tried = np.zeros(world.types), np.zeros(world.answers)
    evidence[history[0]] += 1
    strain = 0
    for action, sign in zip(history[1::2], history[2::2], strict=True):
        if action == world.answers:
            evidence[sign] += 1
            strain += 1
        else:
            tried[action] = 1
            strain += 2
    return np.concatenate([evidence, tried, [strain]]).astype(np.float32)
