"""The lab: finite Markov decision processes in which everything an agent estimates is known.

Values, advantages, the state distribution and the policy gradient come from linear solves in
float64; so do the bias and variance of the usual estimators. `measure` and `measure_gradient`
apply an estimator, the library's own or yours, to sampled trajectories and say how far it is from
the truth. Everything is NumPy, except for the estimators of `actorcritic.estimators` themselves.

S states, A actions. A policy is a table of probabilities [S, A]. docs/lab.md derives the formulas.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from actorcritic.envs.grid_world import GOAL_REWARD, MOVES, STEP_REWARD, GridWorld
from actorcritic.figures.statistics import Estimate
from actorcritic.types import UserError

ROUNDING = 1e-9  # how far the sum of probabilities may be from 1
TAIL = 1e-8  # what may be left of the discounted future at the end of a sampled trajectory
LONGEST = 20_000  # steps of a sampled trajectory
MOST_HELD = 4_000_000  # of an array that is held at once

# ------------------------------------------------------------------------------------ processes


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
        transition = _numbers("transition", self.transition)
        if (
            transition.ndim != 3
            or transition.shape[0] != transition.shape[2]
            or not transition.size
        ):
            raise UserError(
                f"An MDP's transition has the shape [S, A, S], not {list(transition.shape)}."
            )
        s, a, _ = transition.shape
        reward = _numbers("reward", self.reward)
        if reward.shape == (s, a):
            reward = np.broadcast_to(reward[:, :, None], (s, a, s))
        terminal = np.asarray(self.terminal)
        start, std = _numbers("start", self.start), _numbers("reward_std", self.reward_std)
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
        _check_probabilities("transition[s, a]", transition)
        _check_probabilities("start", start)
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
            _check_ends(self, np.full((s, a), 1 / a))

    @property
    def states(self) -> int:
        return self.transition.shape[0]

    @property
    def actions(self) -> int:
        return self.transition.shape[1]


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


# ------------------------------------------------------------------------------------ exact truth


def softmax(logits: Float[np.ndarray, "S A"]) -> Float[np.ndarray, "S A"]:
    """π(a|s) = exp θ[s, a] / Σ_b exp θ[s, b]."""
    logits = _numbers("logits", logits)
    if logits.ndim != 2:
        raise UserError(f"Logits have the shape [S, A], not {list(logits.shape)}.")
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def values(mdp: MDP, policy: Float[np.ndarray, "S A"]) -> Float[np.ndarray, " S"]:
    """V = (I − γ P_π)⁻¹ r_π, the solution of Bellman's equation (Sutton & Barto 2018, eq. 3.14)."""
    policy = _policy(mdp, policy)
    reward = np.einsum("sa,sax,sax->s", policy, mdp.transition, mdp.reward)
    return _solve(mdp.gamma * _going_on(mdp, policy), reward)


def action_values(mdp: MDP, policy: Float[np.ndarray, "S A"]) -> Float[np.ndarray, "S A"]:
    """Q(s, a) = Σ_s' P(s'|s, a) (R(s, a, s') + γ V(s')); 0 in terminal states."""
    return _one_step(mdp, values(mdp, policy))[0]


def advantages(mdp: MDP, policy: Float[np.ndarray, "S A"]) -> Float[np.ndarray, "S A"]:
    """A(s, a) = Q(s, a) − V(s)."""
    return action_values(mdp, policy) - values(mdp, policy)[:, None]


def objective(mdp: MDP, policy: Float[np.ndarray, "S A"]) -> float:
    """J = Σ_s start(s) V(s), the expected discounted return of an episode."""
    return float(mdp.start @ values(mdp, policy))


def discounted_distribution(mdp: MDP, policy: Float[np.ndarray, "S A"]) -> Float[np.ndarray, " S"]:
    """d(s) = Σ_t γ^t P(s_t = s), not normalised; 0 for terminal states, where nothing is decided.

    d = (I − γ P_πᵀ)⁻¹ start; where nothing terminates it sums to 1 / (1 − γ).
    """
    return _visits(mdp, _policy(mdp, policy), mdp.gamma)


def policy_gradient(mdp: MDP, logits: Float[np.ndarray, "S A"]) -> Float[np.ndarray, "S A"]:
    """dJ/dθ[s, a] = d(s) π(a|s) A(s, a) for π = softmax(θ) (Sutton et al. 2000, theorem 1)."""
    policy = softmax(logits)
    return discounted_distribution(mdp, policy)[:, None] * policy * advantages(mdp, policy)


def optimal_baseline(mdp: MDP, policy: Float[np.ndarray, "S A"]) -> Float[np.ndarray, " S"]:
    """b(s) = E[‖∇log π(a|s)‖² Q(s, a)] / E[‖∇log π(a|s)‖²], for a softmax of logits.

    Of all baselines it gives each term ∇log π (G − b) the least variance (after Greensmith,
    Bartlett & Baxter 2004; docs/lab.md has the two lines of algebra).
    """
    policy = _policy(mdp, policy)
    weight = policy * _score_norms(policy)
    total = weight.sum(1)
    # A policy that leaves no choice has no gradient, and any baseline is as good.
    q, v = action_values(mdp, policy), values(mdp, policy)
    return np.where(total > 0, (weight * q).sum(1) / np.where(total > 0, total, 1), v)


def clipped_policy(
    policy: Float[np.ndarray, "S A"], behaviour: Float[np.ndarray, "S A"], rho_clip: float
) -> Float[np.ndarray, "S A"]:
    """min(ρ̄ μ, π), normalised: whose values V-trace estimates (Espeholt et al. 2018, sec. 4.1)."""
    clipped = np.minimum(rho_clip * behaviour, policy)
    return clipped / clipped.sum(1, keepdims=True)


# ------------------------------------------------------------------------------------ trajectories


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
    policy = _policy(mdp, policy)
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
    going_on, left = _going_on(mdp, _policy(mdp, policy)), np.ones(mdp.states)
    for steps in range(1, LONGEST + 1):
        left = mdp.gamma * going_on @ left
        if left.max() < TAIL:
            return steps
    raise UserError(
        f"Trajectories would need more than {LONGEST:,} steps; take a smaller gamma, or a policy "
        "whose episodes end sooner."
    )


# ------------------------------------------------------------------------------------ critics


@dataclass(frozen=True, eq=False)
class Critic:
    """V̂(s) = `table[s]`, plus a normal error of deviation `std`, drawn anew for every occurrence.

    An occurrence is a moment of a trajectory: V̂(s_{t+1}) is the same number as the successor of
    step t and as the state of step t + 1. Terminal states have no value, whatever `table` says.
    """

    table: Float[np.ndarray, " S"]
    std: float = 0.0

    def shifted(self, bias: float) -> Critic:
        """Wrong by the same amount in every state."""
        return dataclasses.replace(self, table=self.table + bias)

    def scaled(self, factor: float) -> Critic:
        """Miscalibrated: every value times `factor`."""
        return dataclasses.replace(self, table=self.table * factor)

    def perturbed(self, std: float, rng: np.random.Generator) -> Critic:
        """With an error for each state, drawn once."""
        return dataclasses.replace(self, table=self.table + std * rng.normal(size=len(self.table)))

    def noisy(self, std: float) -> Critic:
        """With an error that is drawn anew for every occurrence."""
        if std < 0:
            raise UserError("A critic's std must not be negative.")
        return dataclasses.replace(self, std=float(std))


def exact_critic(mdp: MDP, policy: Float[np.ndarray, "S A"]) -> Critic:
    return Critic(values(mdp, policy))


def constant_critic(mdp: MDP, value: float = 0.0) -> Critic:
    return Critic(np.full(mdp.states, float(value)))


# ------------------------------------------------------------------------------------ estimators


class Batch(NamedTuple):
    """What an estimator may use."""

    steps: Trajectories
    value: Float[np.ndarray, "T B"]  # of the critic
    next_value: Float[np.ndarray, "T B"]
    ratio: Float[np.ndarray, "T B"]  # π(a|s) / μ(a|s), μ the policy that acted
    gamma: float


class PairMoments(NamedTuple):
    """Mean and variance of an estimate, given its state and action."""

    mean: Float[np.ndarray, "S A"]
    variance: Float[np.ndarray, "S A"]


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
        return _lambda_moments(mdp, policy, critic, 1.0)

    return Estimator("Monte Carlo", "V", estimate, None, exact)


def td() -> Estimator:
    """r_t + γ V̂(s_{t+1}), the target of TD(0): `estimators.td_errors` plus V̂(s_t)."""

    def estimate(batch: Batch) -> np.ndarray:
        return np.asarray(td_error().estimate(batch)) + batch.value

    return Estimator(
        "TD(0)", "V", estimate, 1, lambda mdp, policy, critic: _n_moments(mdp, policy, critic, 1)
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
        lambda mdp, policy, critic: _n_moments(mdp, policy, critic, n),
    )


def lambda_return(lam: float) -> Estimator:
    """TD(λ)'s forward view (Sutton & Barto 2018, eq. 12.2): `estimators.gae` plus V̂(s_t)."""
    advantage = gae(lam)
    return Estimator(
        f"TD({lam:g})",
        "V",
        lambda batch: np.asarray(advantage.estimate(batch)) + batch.value,
        None,
        lambda mdp, policy, critic: _lambda_moments(mdp, policy, critic, lam),
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
        lambda mdp, policy, critic: _less_value(_n_moments(mdp, policy, critic, 1), critic),
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
        lambda mdp, policy, critic: _less_value(_lambda_moments(mdp, policy, critic, lam), critic),
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


# ------------------------------------------------------------------------------------ exact moments


class Moments(NamedTuple):
    """Bias and variance of an estimate, by the closed form: [S] for values, [S, A] for advantages.

    Those of a value given the state, of an advantage given state and action.
    """

    bias: Float[np.ndarray, "..."]
    variance: Float[np.ndarray, "..."]

    @property
    def mse(self) -> Float[np.ndarray, "..."]:
        return self.bias**2 + self.variance


def moments(
    mdp: MDP, policy: Float[np.ndarray, "S A"], estimator: Estimator, critic: Critic
) -> Moments:
    """What `measure` should find, by linear solves."""
    policy = _policy(mdp, policy)
    found = _exact(mdp, policy, estimator, critic)
    if estimator.of == "A":
        bias, variance = found.mean - advantages(mdp, policy), found.variance
    else:
        mean, variance = _over_actions(policy, found)
        bias = mean - values(mdp, policy)
    # In a terminal state nothing is estimated.
    over = mdp.terminal.reshape(-1, *[1] * (bias.ndim - 1))
    return Moments(np.where(over, 0.0, bias), np.where(over, 0.0, variance))


class GradientMoments(NamedTuple):
    """Bias and total variance of a policy gradient of one episode, by the closed form."""

    bias: Float[np.ndarray, "S A"]
    trace: float  # of the covariance matrix


def gradient_moments(
    mdp: MDP, logits: Float[np.ndarray, "S A"], estimator: Estimator, critic: Critic
) -> GradientMoments:
    """What `measure_gradient` should find, in a process in which no state comes twice.

    tr Cov = Σ_s d₂(s) Σ_a π(a|s) ‖∇log π(a|s)‖² E[Ψ² | s, a] − ‖E[g]‖²,
    with d₂(s) = Σ_t γ^2t P(s_t = s).
    """
    policy = softmax(logits)
    follows, path = _going_on(mdp, policy) > 0, np.ones(mdp.states, bool)
    for _ in range(mdp.states):  # from which states there are paths of so many steps
        path = np.any(follows & path, axis=1)
    if path.any():
        raise UserError(
            "The variance of a policy gradient is known exactly only where no state can come "
            "twice in an episode, as in `chain` and `layers`; use measure_gradient."
        )
    found = _exact(mdp, policy, estimator, critic)
    # E[∇log π Ψ] of the logits of a state: π(a) (E[Ψ | a] − Σ_b π(b) E[Ψ | b]).
    centred = found.mean - (policy * found.mean).sum(1, keepdims=True)
    mean = discounted_distribution(mdp, policy)[:, None] * policy * centred
    second = (policy * _score_norms(policy) * (found.mean**2 + found.variance)).sum(1)
    trace = _visits(mdp, policy, mdp.gamma**2) @ second - (mean**2).sum()
    return GradientMoments(mean - policy_gradient(mdp, logits), float(trace))


def _exact(mdp: MDP, policy: np.ndarray, estimator: Estimator, critic: Critic) -> PairMoments:
    if estimator.exact is None:
        raise UserError(f"There is no closed form for {estimator.name}; use measure.")
    return estimator.exact(mdp, policy, critic)


def _one_step(
    mdp: MDP, after: Float[np.ndarray, " S"]
) -> tuple[Float[np.ndarray, "S A"], Float[np.ndarray, "S A"]]:
    """Mean and variance of r + γ after(s') given (s, a); `after` counts as 0 where it ends."""
    target = mdp.reward + mdp.gamma * np.where(mdp.terminal, 0.0, after)
    mean = (mdp.transition * target).sum(2)
    variance = (mdp.transition * (target - mean[:, :, None]) ** 2).sum(2) + mdp.reward_std**2
    return mean, variance


def _over_actions(policy: np.ndarray, pair: PairMoments) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance given the state alone, by the law of total variance."""
    mean = (policy * pair.mean).sum(1)
    return mean, (policy * (pair.variance + (pair.mean - mean[:, None]) ** 2)).sum(1)


def _n_moments(mdp: MDP, policy: np.ndarray, critic: Critic, n: int) -> PairMoments:
    """Of the n-step return: of one step ahead of the (n − 1)-step return; 0 steps are V̂."""
    mean, variance = critic.table, np.full(mdp.states, critic.std**2)
    for _ in range(n):
        pair = _backed_up(mdp, mean, variance)
        mean, variance = _over_actions(policy, pair)
    return pair


def _lambda_moments(mdp: MDP, policy: np.ndarray, critic: Critic, lam: float) -> PairMoments:
    """Of the λ-return G_t = r_t + γ ((1 − λ) V̂(s_{t+1}) + λ G_{t+1}), without an end.

    Given s_{t+1}, the critic's error there and G_{t+1} are independent: G_{t+1} begins with V̂ of
    the state after that.
    """
    going_on = _going_on(mdp, policy)
    mixed = (1 - lam) * critic.table
    first, _ = _over_actions(policy, PairMoments(*_one_step(mdp, mixed)))
    mean = _solve(mdp.gamma * lam * going_on, first)
    own = np.full(mdp.states, ((1 - lam) * critic.std) ** 2)
    ahead = mixed + lam * mean
    _, first = _over_actions(policy, _backed_up(mdp, ahead, own))
    variance = _solve((mdp.gamma * lam) ** 2 * going_on, first)
    return _backed_up(mdp, ahead, own + lam**2 * variance)


def _backed_up(mdp: MDP, mean: np.ndarray, variance: np.ndarray) -> PairMoments:
    """Moments of r + γ X(s') from those of X, which is 0 in terminal states."""
    ahead, spread = _one_step(mdp, mean)
    after = mdp.transition @ np.where(mdp.terminal, 0.0, variance)
    after = np.where(mdp.terminal[:, None], 0.0, after)
    return PairMoments(ahead, spread + mdp.gamma**2 * after)


def _less_value(pair: PairMoments, critic: Critic) -> PairMoments:
    """Of an advantage, from the return: V̂(s_t) is subtracted, whose error is independent of it."""
    return PairMoments(pair.mean - critic.table[:, None], pair.variance + critic.std**2)


# ------------------------------------------------------------------------------------ measurements


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
    policy = _policy(mdp, policy)
    acting = policy if behaviour is None else _policy(mdp, behaviour)
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
        batch = _evaluated(mdp, steps, critic, policy / np.where(acting > 0, acting, 1), rng)
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
    _policy(mdp, policy)
    if episodes < 2:
        raise UserError("A measurement needs at least two episodes.")
    length = length or horizon(mdp, policy)
    exact = policy_gradient(mdp, logits)
    blocks = -(-episodes * (length + mdp.states * mdp.actions) // MOST_HELD)
    each = -(-episodes // blocks)
    gradients = []
    for _ in range(blocks):
        steps = sample(mdp, policy, rng, steps=length, batch=each, restart=False)
        batch = _evaluated(mdp, steps, critic, np.ones_like(policy), rng)
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
        behaviour = _policy(mdp, behaviour)
        ratio = _policy(mdp, policy) / np.where(behaviour > 0, behaviour, 1)
    return _evaluated(mdp, steps, critic, ratio, rng)


def _evaluated(
    mdp: MDP, steps: Trajectories, critic: Critic, ratio: np.ndarray, rng: np.random.Generator
) -> Batch:
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


# ------------------------------------------------------------------------------------ parts


@cache
def _compiled(name: str) -> Callable[..., Any]:
    import jax

    from actorcritic import estimators

    return jax.jit(getattr(estimators, name))


def _library(name: str, *arguments: Any) -> Any:
    """What a function of `actorcritic.estimators` gives, in float64."""
    import jax

    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, _compiled(name)(*(np.asarray(x) for x in arguments)))


def _numbers(name: str, array: Any) -> np.ndarray:
    try:
        numbers = np.asarray(array, np.float64)
    except (TypeError, ValueError):
        raise UserError(f"{name} must be an array of numbers.") from None
    if not np.isfinite(numbers).all():
        raise UserError(f"{name} has numbers that are not finite.")
    return numbers


def _check_probabilities(name: str, rows: np.ndarray) -> None:
    if (rows < 0).any():
        raise UserError(f"{name} has probabilities below 0.")
    off = np.abs(rows.sum(-1) - 1)
    if off.max() > ROUNDING:
        where = [int(i) for i in np.unravel_index(np.argmax(off), off.shape)]
        place = f" at {where}" if where else ""
        raise UserError(f"The probabilities {name}{place} sum to {rows.sum(-1)[tuple(where)]:g}.")


def _policy(mdp: MDP, policy: Any) -> Float[np.ndarray, "S A"]:
    policy = _numbers("The policy", policy)
    if policy.shape != (mdp.states, mdp.actions):
        raise UserError(
            f"A policy of this MDP has the shape [{mdp.states}, {mdp.actions}], not "
            f"{list(policy.shape)}."
        )
    _check_probabilities("The policy", policy)
    if mdp.gamma == 1:
        _check_ends(mdp, policy)
    return policy


def _check_ends(mdp: MDP, policy: np.ndarray) -> None:
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


def _going_on(mdp: MDP, policy: np.ndarray) -> Float[np.ndarray, "S S"]:
    """P(s', and the episode goes on | s), 0 in the rows of terminal states too."""
    moves = np.einsum("sa,sax->sx", policy, mdp.transition)
    return np.where(mdp.terminal[:, None] | mdp.terminal, 0.0, moves)


def _solve(matrix: np.ndarray, x: np.ndarray) -> np.ndarray:
    """y = x + matrix y."""
    return np.linalg.solve(np.eye(len(x)) - matrix, x)


def _visits(mdp: MDP, policy: np.ndarray, factor: float) -> Float[np.ndarray, " S"]:
    """Σ_t factor^t P(s_t = s) of states that are not terminal."""
    return _solve(factor * _going_on(mdp, policy).T, mdp.start)


def _score_norms(policy: np.ndarray) -> Float[np.ndarray, "S A"]:
    """‖∇log π(a|s)‖² of logits: 1 − 2 π(a|s) + Σ_b π(b|s)²."""
    return 1 - 2 * policy + (policy**2).sum(1, keepdims=True)


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
