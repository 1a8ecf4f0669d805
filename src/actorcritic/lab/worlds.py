"""Processes to measure in: a grid world, a chain, a cliff, random ones."""

from __future__ import annotations

import numpy as np

from actorcritic.core.errors import UserError
from actorcritic.envs.grid_world import GOAL_REWARD, MOVES, STEP_REWARD, GridWorld
from actorcritic.lab.process import MDP


def from_grid_world(world: GridWorld, gamma: float = 0.99) -> MDP:
    """The grid world, without its time limit; state i is `world.cells[i]`."""
    cells = world.cells
    index = {cell: i for i, cell in enumerate(cells)}
    transition = np.zeros((len(cells), len(MOVES), len(cells)))
    for (x, y), i in index.items():
        for a, (dx, dy) in enumerate(MOVES):
            transition[i, a, index.get((x + dx, y + dy), i)] = 1.0
    terminal = np.array([cell == world.goal for cell in cells])
    reward = np.where(terminal, GOAL_REWARD, STEP_REWARD) + np.zeros_like(transition)
    start = np.array([float(cell == world.start) for cell in cells])
    return MDP(transition, reward, terminal, start, gamma)


def chain(
    length: int,
    action_rewards: tuple[float, ...] = (0.0, 1.0),
    *,
    reward_std: float = 0.0,
    gamma: float = 0.9,
) -> MDP:
    """States 0, 1, …, `length`, of which the last is terminal; every action leads one further.

    Action a is paid `action_rewards[a]`, plus normal noise of deviation `reward_std`. What follows
    depends on nothing, so that sums over it can be written down.
    """
    if length < 1 or not action_rewards:
        raise UserError("A chain needs a length of at least 1 and the reward of an action.")
    transition = np.zeros((length + 1, len(action_rewards), length + 1))
    transition[np.arange(length), :, np.arange(1, length + 1)] = 1.0
    transition[length, :, length] = 1.0
    reward = np.broadcast_to(np.asarray(action_rewards, float), transition.shape[:2])
    terminal = np.arange(length + 1) == length
    return MDP(transition, reward, terminal, np.eye(length + 1)[0], gamma, np.array(reward_std))


def cliff(width: int = 12, height: int = 4, gamma: float = 0.99) -> MDP:
    """The cliff of Sutton & Barto 2018, example 6.6: from the lower left to the lower right.

    The cells between them are the cliff: a step onto it costs 100 and leads back to the start;
    every other step costs 1. States are the other cells, row by row from below; actions are those
    of the grid world (up, right, down, left).
    """
    if width < 3 or height < 2:
        raise UserError("A cliff needs a width of at least 3 and a height of at least 2.")
    cells = [(x, y) for y in range(height) for x in range(width) if y or x in (0, width - 1)]
    index = {cell: i for i, cell in enumerate(cells)}
    transition = np.zeros((len(cells), len(MOVES), len(cells)))
    reward = np.full((len(cells), len(MOVES)), -1.0)
    for (x, y), i in index.items():
        for a, (dx, dy) in enumerate(MOVES):
            ahead = (min(max(x + dx, 0), width - 1), min(max(y + dy, 0), height - 1))
            if ahead not in index:
                reward[i, a], ahead = -100.0, (0, 0)
            transition[i, a, index[ahead]] = 1.0
    terminal = np.arange(len(cells)) == index[width - 1, 0]
    return MDP(transition, reward, terminal, np.eye(len(cells))[0], gamma)


def random_mdp(
    states: int,
    actions: int,
    branching: int,
    mixing: float,
    rng: np.random.Generator,
    *,
    gamma: float = 0.9,
    reward_std: float = 0.0,
) -> MDP:
    """A continuing process that forgets its state at the rate `mixing`, from 0 to 1.

    With probability `mixing` the next state is uniform over all states; otherwise it is one of the
    `branching` successors that were drawn for (s, a), with Dirichlet(1) probabilities. So for every
    policy two copies of the process, wherever they start, differ after k steps by at most
    (1 − mixing)^k in total variation. Rewards of (s, a) are standard normal; starts are uniform.
    """
    if states < 1 or actions < 1 or not 1 <= branching <= states or not 0 <= mixing <= 1:
        raise UserError(
            "A random MDP needs a state, an action, 1 ≤ branching ≤ states and 0 ≤ mixing ≤ 1."
        )
    transition = np.full((states, actions, states), mixing / states)
    for s in range(states):
        for a in range(actions):
            successors = rng.choice(states, branching, replace=False)
            transition[s, a, successors] += (1 - mixing) * rng.dirichlet(np.ones(branching))
    return MDP(
        transition,
        rng.normal(size=(states, actions)),
        np.zeros(states, bool),
        np.full(states, 1 / states),
        gamma,
        np.array(reward_std),
    )


def layers(
    depth: int,
    width: int,
    actions: int,
    rng: np.random.Generator,
    *,
    gamma: float = 0.95,
    reward_std: float = 0.0,
) -> MDP:
    """A process without loops: `depth` layers of `width` states, then a terminal state.

    Each action leads to a random mixture (Dirichlet(1)) of the next layer's states; rewards of
    (s, a) are standard normal; an episode starts in the first state and takes `depth` steps. No
    state comes twice, so that even the variance of a policy gradient has a closed form.
    """
    if min(depth, width, actions) < 1:
        raise UserError("Layers need a depth, a width and a number of actions of at least 1.")
    count = depth * width + 1
    transition = np.zeros((count, actions, count))
    for layer in range(depth):
        here = slice(layer * width, (layer + 1) * width)
        if layer == depth - 1:
            transition[here, :, -1] = 1.0
        else:
            ahead = slice((layer + 1) * width, (layer + 2) * width)
            transition[here, :, ahead] = rng.dirichlet(np.ones(width), (width, actions))
    transition[-1, :, -1] = 1.0
    reward = rng.normal(size=(count, actions))
    terminal = np.arange(count) == count - 1
    return MDP(transition, reward, terminal, np.eye(count)[0], gamma, np.array(reward_std))
