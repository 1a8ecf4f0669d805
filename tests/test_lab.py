"""The lab against independent routes: simulation, finite differences, definitions, formulas.

Where something is sampled, the bound is five standard errors: by chance one number is further off
in 6 of 10 million cases, and the seeds are fixed.
"""

import itertools

import jax
import numpy as np
import pytest

from actorcritic import lab
from actorcritic.core.errors import UserError
from actorcritic.envs import GridWorld
from actorcritic.envs.grid_world import MOVES

RNG = np.random.default_rng(20)


def random_policy(mdp, rng):
    return lab.softmax(rng.normal(size=(mdp.states, mdp.actions)))


def small(gamma=0.8, std=0.5):
    return lab.random_mdp(5, 3, 2, 0.1, np.random.default_rng(1), gamma=gamma, reward_std=std)


def loop_free():
    return lab.layers(4, 3, 2, np.random.default_rng(2), gamma=0.9, reward_std=0.4)


def rewards_by_state():
    """Rewards [S, A, S], a terminal state that is reached at random, no discount."""
    rng = np.random.default_rng(3)
    terminal = np.arange(5) == 2
    return lab.MDP(
        rng.dirichlet(np.ones(5), (5, 2)), rng.normal(size=(5, 2, 5)), terminal, np.eye(5)[0], 1.0
    )


PROCESSES = {
    "random": small,
    "layers": loop_free,
    "chain": lambda: lab.chain(6, reward_std=0.3),
    "cliff": lambda: lab.cliff(4, 3, gamma=0.9),
    "rewards by next state, γ = 1": rewards_by_state,
    "grid world": lambda: lab.from_grid_world(GridWorld(3, 3, walls=((1, 1),)), gamma=0.9),
}
each_process = pytest.mark.parametrize("make", PROCESSES.values(), ids=PROCESSES)


# ------------------------------------------------------------------------------ exact truth


@each_process
def test_optimal_values_solve_bellmans_optimality_equation(make):
    """V*(s) = max_a Σ_s' P(s'|s, a) (R(s, a, s') + γ V*(s')), which has one solution."""
    mdp = make()
    optimal = lab.optimal_values(mdp)
    for s in np.flatnonzero(~mdp.terminal):
        best = max(
            sum(
                p * (mdp.reward[s, a, x] + (0 if mdp.terminal[x] else mdp.gamma * optimal[x]))
                for x, p in enumerate(mdp.transition[s, a])
            )
            for a in range(mdp.actions)
        )
        assert optimal[s] == pytest.approx(best, abs=1e-10)
    assert (optimal[mdp.terminal] == 0).all()


@pytest.mark.parametrize("make", [small, rewards_by_state])
def test_optimal_values_are_the_best_of_all_deterministic_policies(make):
    mdp = make()
    choices = itertools.product(np.eye(mdp.actions), repeat=mdp.states)
    best = np.max([lab.values(mdp, np.array(policy)) for policy in choices], axis=0)
    np.testing.assert_allclose(lab.optimal_values(mdp), best, atol=1e-12)


@each_process
def test_values_solve_bellmans_equation_state_by_state(make):
    mdp = make()
    policy = random_policy(mdp, np.random.default_rng(0))
    v, q = lab.values(mdp, policy), lab.action_values(mdp, policy)
    for s in range(mdp.states):
        if mdp.terminal[s]:
            assert v[s] == 0
            assert (q[s] == 0).all()
            continue
        for a in range(mdp.actions):
            expected = sum(
                p * (mdp.reward[s, a, x] + (0 if mdp.terminal[x] else mdp.gamma * v[x]))
                for x, p in enumerate(mdp.transition[s, a])
            )
            assert q[s, a] == pytest.approx(expected, abs=1e-10)
        assert v[s] == pytest.approx(policy[s] @ q[s], abs=1e-10)
    mean = (policy * lab.advantages(mdp, policy)).sum(1)
    np.testing.assert_allclose(mean, 0, atol=1e-10)


@each_process
def test_objective_values_and_visits_agree_with_simulation(make):
    mdp = make()
    rng = np.random.default_rng(4)
    policy = random_policy(mdp, rng)
    length, batch = lab.horizon(mdp, policy), 4000
    steps = lab.sample(mdp, policy, rng, steps=length, batch=batch, restart=False)
    discount = (mdp.gamma ** np.arange(length))[:, None] * steps.valid
    returns = (discount * steps.rewards).sum(0)
    measured = lab.Measured(returns.mean(), returns.std() / np.sqrt(batch))
    assert measured.agrees(lab.objective(mdp, policy))

    visits = lab.discounted_distribution(mdp, policy)
    for s in range(mdp.states):
        of_s = (discount * (steps.states == s)).sum(0)
        seen = lab.Measured(of_s.mean(), of_s.std() / np.sqrt(batch))
        # A state that was never seen has no standard error; it must be rare.
        assert seen.agrees(visits[s]) or (not of_s.any() and visits[s] < 20 / batch)
    # Step by step instead of by a solve.
    now, total = mdp.start.copy(), np.zeros(mdp.states)
    for t in range(length):
        total += mdp.gamma**t * np.where(mdp.terminal, 0, now)
        now = np.einsum("s,sa,sax->x", now, policy, mdp.transition)
    np.testing.assert_allclose(visits, total, atol=1e-4)

    # From a state and action of their own.
    s, a = (int(i) for i in np.unravel_index(np.argmax(visits[:, None] * policy), policy.shape))
    first = {"start": np.full(batch, s), "first_action": np.full(batch, a)}
    steps = lab.sample(mdp, policy, rng, steps=length, batch=batch, restart=False, **first)
    returns = (mdp.gamma ** np.arange(length)[:, None] * steps.valid * steps.rewards).sum(0)
    measured = lab.Measured(returns.mean(), returns.std() / np.sqrt(batch))
    assert measured.agrees(lab.action_values(mdp, policy)[s, a])


@each_process
def test_the_policy_gradient_is_the_slope_of_the_objective(make):
    mdp = make()
    logits = np.random.default_rng(5).normal(size=(mdp.states, mdp.actions))
    found, step = lab.policy_gradient(mdp, logits), 1e-5
    for i in np.ndindex(*logits.shape):
        nudge = np.zeros_like(logits)
        nudge[i] = step
        up, down = (lab.objective(mdp, lab.softmax(logits + d)) for d in (nudge, -nudge))
        assert found[i] == pytest.approx((up - down) / (2 * step), abs=1e-6)


def test_the_grid_world_is_the_environment_and_has_its_closed_formula():
    world = GridWorld(4, 3, walls=((1, 1), (2, 1)), start=(1, 0))
    gamma = 0.95
    mdp = lab.from_grid_world(world, gamma)
    for i, cell in enumerate(world.cells):
        if cell == world.goal:
            continue
        for a in range(4):
            after, step = world.step(jax.random.key(0), world.state(cell), np.int32(a))
            x = world.cells.index(tuple(int(c) for c in after.cell))
            assert mdp.transition[i, a, x] == 1
            assert mdp.reward[i, a, x] == pytest.approx(float(step.reward), abs=1e-7)
            assert mdp.terminal[x] == step.terminated
    # Of the policy that always goes nearer, every value is that of its distance.
    distance = np.array([world.distance(cell) for cell in world.cells])
    nearer = np.einsum("sax,x->sa", mdp.transition, distance) < distance[:, None]
    nearer[distance == 0] = True
    before = gamma ** (distance - 1.0)
    formula = np.where(distance > 0, before - 0.01 * (1 - before) / (1 - gamma), 0)
    np.testing.assert_allclose(
        lab.values(mdp, nearer / nearer.sum(1, keepdims=True)), formula, atol=1e-12
    )
    assert mdp.start[world.cells.index((1, 0))] == 1


def test_optimal_values_without_end_are_refused():
    stay_or_end = np.array([[[1.0, 0], [0, 1]], [[0, 1], [0, 1]]])
    pays = np.array([[1.0, 0], [0, 0]])
    world = [stay_or_end, pays, np.array([False, True]), np.array([1.0, 0])]
    np.testing.assert_allclose(lab.optimal_values(lab.MDP(*world, 0.9)), [10, 0])
    with pytest.raises(UserError, match="With γ = 1 every state must lead to a terminal one"):
        lab.optimal_values(lab.MDP(*world, 1.0))


WORLDS = [
    GridWorld(),
    GridWorld(5, 5, walls=((1, 1), (1, 2), (1, 3), (3, 2), (3, 3))),  # of study S5
    GridWorld(4, 2, walls=((1, 1),), start=(3, 1), goal=(0, 1)),
    GridWorld(3, 3, walls=((0, 1), (1, 2)), goal=(2, 2)),  # (0, 2) has no path
]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("gamma", [0.5, 0.95])
def test_values_of_a_grid_satisfy_bellman_s_equation(world, gamma):
    """By the environment's own `step`, cell by cell."""
    policy = np.random.default_rng(0).dirichlet(np.ones(4), len(world.cells))
    exact = lab.values(lab.from_grid_world(world, gamma), policy)
    values = dict(zip(world.cells, exact, strict=True))
    assert values[world.goal] == 0
    key = jax.random.key(0)
    for cell, chances in zip(world.cells, policy, strict=True):
        expected = 0.0
        for action, chance in enumerate(chances):
            after, step = world.step(key, world.state(cell), np.int32(action))
            goes_on = 0.0 if step.terminated else values[tuple(np.asarray(after.cell).tolist())]
            expected += chance * (float(step.reward) + gamma * goes_on)
        if cell != world.goal:
            assert values[cell] == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("world", WORLDS)
def test_the_best_policy_of_a_grid_has_the_optimal_values(world):
    """Going one step closer everywhere is optimal: the linear solves and the formula agree."""
    gamma = 0.95
    mdp = lab.from_grid_world(world, gamma)
    optimal = lab.optimal_values(mdp)
    best = np.zeros((len(world.cells), 4))
    for i, cell in enumerate(world.cells):
        distance = world.distance(cell)
        closer = [
            a
            for a, (dx, dy) in enumerate(MOVES)
            if world.distance((cell[0] + dx, cell[1] + dy)) == (distance or 0) - 1
        ]
        best[i, (closer or [0])[0]] = 1
    lengths = [world.distance(cell) for cell in world.cells]
    reached = np.array([n is not None for n in lengths])
    formula = [
        gamma ** (n - 1) - 0.01 * sum(gamma**t for t in range(n - 1)) if n else 0.0
        for n in lengths
        if n is not None
    ]
    np.testing.assert_allclose(optimal[reached], formula, atol=1e-12)
    # Without a path every step costs the same, for ever.
    np.testing.assert_allclose(optimal[~reached], -0.01 / (1 - gamma))
    np.testing.assert_allclose(lab.values(mdp, best)[reached], optimal[reached], atol=1e-12)
    # And no other one is better: V* satisfies Bellman's optimality equation.
    rng = np.random.default_rng(1)
    for _ in range(5):
        policy = rng.dirichlet(np.ones(4), len(world.cells))
        assert (lab.values(mdp, policy) <= optimal + 1e-12).all()


def test_how_often_a_policy_is_in_a_cell_gives_its_return():
    """The value of the start is what the visited cells pay, discounted."""
    world, gamma = WORLDS[1], 0.9
    mdp = lab.from_grid_world(world, gamma)
    policy = np.random.default_rng(2).dirichlet(np.ones(4), len(world.cells))
    often = lab.discounted_distribution(mdp, policy)
    assert (often >= 0).all()
    goal, start = world.cells.index(world.goal), world.cells.index(world.start)
    transition = np.einsum("sa,sax->sx", policy, mdp.transition)
    reward = np.einsum("sa,sax,sax->s", policy, mdp.transition, mdp.reward)
    transition[goal], reward[goal] = 0, 0
    first = np.eye(len(often))[start]
    visits = np.linalg.solve(np.eye(len(often)) - gamma * transition.T, first)
    assert visits @ reward == pytest.approx(lab.values(mdp, policy)[start])
    visits[goal] = 0
    np.testing.assert_allclose(often, visits)


def test_the_cliff_costs_what_the_book_says():
    mdp = lab.cliff(gamma=1.0)
    assert mdp.states == 12 * 4 - 10
    up, right, down, _ = np.eye(4)
    # Along the upper edge of the cliff, as the book's optimal path: 13 steps.
    policy = np.tile(right, (mdp.states, 1))
    policy[0], policy[13::12] = up, down
    assert lab.objective(mdp, policy) == -13
    q = lab.action_values(mdp, policy)
    assert q[0, 1] == -113  # into the cliff, and again from the start
    assert q[0, 3] == -14  # into the border


def test_a_random_process_forgets_as_fast_as_it_was_told():
    rng = np.random.default_rng(6)
    for mixing in (0.0, 0.2, 0.7, 1.0):
        mdp = lab.random_mdp(8, 2, 1, mixing, rng)
        policy = random_policy(mdp, rng)
        moves = np.einsum("sa,sax->sx", policy, mdp.transition)
        for k in (1, 3):
            rows = np.linalg.matrix_power(moves, k)
            apart = max(abs(x - y).sum() / 2 for x in rows for y in rows)
            assert apart <= (1 - mixing) ** k + 1e-12
        if mixing == 0:
            np.testing.assert_allclose(mdp.transition.max(2), 1)  # one successor


# ------------------------------------------------------------------------------ trajectories


def test_trajectories_follow_the_process_and_mark_their_ends():
    mdp = rewards_by_state()
    rng = np.random.default_rng(7)
    policy = random_policy(mdp, rng)
    for restart in (True, False):
        steps = lab.sample(mdp, policy, rng, steps=40, batch=3000, restart=restart)
        went_on = ~steps.terminated[:-1]
        assert (steps.states[1:] == steps.next_states[:-1])[went_on].all()
        ended = steps.terminated[:-1]
        assert (steps.states[1:][ended] == (0 if restart else 2)).all()
        assert (steps.terminated == (steps.next_states == 2)).all()
        assert not steps.truncated[:-1].any()
        assert (steps.truncated[-1] == ~steps.terminated[-1]).all()
        assert steps.valid.all() == restart
        assert (steps.rewards[~steps.valid] == 0).all()
        s, a, x = steps.states, steps.actions, steps.next_states
        assert (steps.rewards[steps.valid] == mdp.reward[s, a, x][steps.valid]).all()
        for i in range(mdp.states):
            here = steps.valid & (s == i)
            if i == 2:
                assert not here.any()
                continue
            share = lab.Measured(
                np.bincount(a[here], minlength=2) / here.sum(),
                np.sqrt(policy[i] * (1 - policy[i]) / here.sum()),
            )
            assert share.agrees(policy[i])
            for j in range(2):
                both = here & (a == j)
                p = mdp.transition[i, j]
                share = lab.Measured(
                    np.bincount(x[both], minlength=5) / both.sum(),
                    np.sqrt(p * (1 - p) / both.sum()),
                )
                assert share.agrees(p)


def test_noise_of_rewards_has_its_deviation():
    mdp = lab.chain(1, (2.0,), reward_std=0.7)
    r = lab.sample(mdp, np.ones((2, 1)), np.random.default_rng(8), steps=1, batch=20_000).rewards[0]
    assert lab.Measured(r.mean(), 0.7 / np.sqrt(20_000)).agrees(2.0)
    assert lab.Measured(r.var(), 0.49 * np.sqrt(2 / 20_000)).agrees(0.49)


def test_an_error_of_the_critic_is_the_same_from_both_sides_of_a_step():
    mdp = small()
    policy = random_policy(mdp, np.random.default_rng(0))
    steps = lab.sample(mdp, policy, RNG, steps=50, batch=200)
    exact = lab.exact_critic(mdp, policy)
    batch = lab.evaluated(mdp, steps, exact.noisy(0.5), RNG)
    assert (batch.value[1:] == batch.next_value[:-1]).all()
    error = batch.value - exact.table[steps.states]
    assert lab.Measured(error.std(), 0.5 / np.sqrt(2 * error.size)).agrees(0.5)
    # The next episode's start is another moment than the end of the one before.
    mdp = lab.chain(3)
    steps = lab.sample(mdp, np.full((4, 2), 0.5), RNG, steps=9, batch=5)
    batch = lab.evaluated(mdp, steps, lab.constant_critic(mdp).noisy(1.0), RNG)
    same = batch.value[1:] == batch.next_value[:-1]
    assert (same == ~steps.terminated[:-1]).all()


# ------------------------------------------------------------------------------ estimators

ESTIMATORS = [
    lab.monte_carlo(),
    lab.td(),
    lab.n_step(3),
    lab.lambda_return(0.6),
    lab.td_error(),
    lab.gae(0.7),
    lab.gae(1.0),
]


def by_definition(batch, row, column, n):
    """An n-step return as a sum over the trajectory, by hand."""
    s, total, factor = batch.steps, 0.0, 1.0
    for t in range(row, min(row + n, len(s.rewards))):
        total += factor * s.rewards[t, column]
        factor *= batch.gamma
        if s.terminated[t, column]:
            return total
        end = s.truncated[t, column]
        if end:
            break
    return total + factor * batch.next_value[t, column]


def test_every_estimator_is_its_definition_on_every_row():
    mdp, rng = rewards_by_state(), np.random.default_rng(9)
    mdp = lab.MDP(mdp.transition, mdp.reward, mdp.terminal, mdp.start, 0.9)
    policy = random_policy(mdp, rng)
    steps = lab.sample(mdp, policy, rng, steps=12, batch=6)
    assert steps.terminated[:-1].any(0).sum() in range(2, 6)
    batch = lab.evaluated(mdp, steps, lab.exact_critic(mdp, policy).noisy(1.0), rng)
    one, three, mc = lab.td(), lab.n_step(3), lab.monte_carlo()
    mixed, gae = lab.lambda_return(0.6), lab.gae(0.6)
    found = {e.name: e.estimate(batch) for e in (one, three, mc, mixed, gae, lab.td_error())}
    no_critic = batch._replace(next_value=np.zeros_like(batch.value))
    for t, b in np.ndindex(*batch.value.shape):
        returns = [by_definition(batch, t, b, n) for n in range(1, 13)]
        assert found[one.name][t, b] == pytest.approx(returns[0])
        assert found[three.name][t, b] == pytest.approx(returns[2])
        assert found[mc.name][t, b] == pytest.approx(by_definition(no_critic, t, b, 12))
        # Sutton & Barto 2018, eq. 12.3; beyond the end all n-step returns are the last one.
        weighted = 0.4 * sum(0.6**i * g for i, g in enumerate(returns)) + 0.6**12 * returns[-1]
        assert found[mixed.name][t, b] == pytest.approx(weighted)
        assert found[gae.name][t, b] == pytest.approx(weighted - batch.value[t, b])
        delta = returns[0] - batch.value[t, b]
        assert found[lab.td_error().name][t, b] == pytest.approx(delta)


@pytest.mark.parametrize("make", [small, loop_free, rewards_by_state])
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: e.name)
@pytest.mark.long
def test_measurements_agree_with_the_closed_form(make, estimator):
    mdp = make()
    rng = np.random.default_rng(10)
    policy = random_policy(mdp, rng)
    critic = lab.exact_critic(mdp, policy).perturbed(0.5, rng).shifted(0.4).noisy(0.6)
    found = lab.measure(mdp, policy, estimator, critic, rng, samples=2000)
    exact = lab.moments(mdp, policy, estimator, critic)
    assert found.bias.agrees(exact.bias)
    assert found.variance.agrees(exact.variance)
    assert found.mse.agrees(exact.mse)
    weight = lab.discounted_distribution(mdp, policy)
    weight = weight[:, None] * policy if estimator.of == "A" else weight
    weight = weight / weight.sum()
    assert found.overall_bias.agrees((weight * exact.bias).sum())
    assert found.overall_variance.agrees((weight * exact.variance).sum())
    assert found.overall_squared_bias.agrees((weight * exact.bias**2).sum())
    assert found.overall_mse.agrees((weight * exact.mse).sum())
    # Overall is the weighted mean of the cells, and the squared error is made of the two others.
    for overall, cells in [(found.overall_bias, found.bias), (found.overall_mse, found.mse)]:
        assert overall.value == pytest.approx((weight * cells.value).sum())
    parts = found.overall_squared_bias.value + found.overall_variance.value
    assert found.overall_mse.value == pytest.approx(parts)
    # The intervals are narrow enough to tell something.
    assert not found.variance.agrees(1.5 * exact.variance)


def test_n_step_returns_on_a_chain_have_the_formula_of_the_docs():
    length, gamma, b, s, sigma = 12, 0.9, 0.5, 0.8, 0.6
    mdp = lab.chain(length, (1.0,), reward_std=sigma, gamma=gamma)
    policy = np.ones((length + 1, 1))
    critic = lab.exact_critic(mdp, policy).shifted(b).noisy(s)
    rng = np.random.default_rng(11)
    for n in (1, 2, 5, 11, 12, 40):
        alive = n < length  # the return from the start ends before the critic is asked
        bias = gamma**n * b * alive
        rewards = sigma**2 * sum(gamma ** (2 * k) for k in range(min(n, length)))
        variance = rewards + gamma ** (2 * n) * s**2 * alive
        exact = lab.moments(mdp, policy, lab.n_step(n), critic)
        assert exact.bias[0] == pytest.approx(bias)
        assert exact.variance[0] == pytest.approx(variance)
        first = {"samples": 20_000, "states": [0]}
        found = lab.measure(mdp, policy, lab.n_step(n), critic, rng, **first)
        assert found.overall_bias.agrees(bias)
        assert found.overall_variance.agrees(variance)
        assert found.overall_squared_bias.agrees(bias**2)
        assert not found.bias.value[1:].any()  # of states that were not asked for


def test_the_limits_of_gae():
    length, gamma, b, s, sigma = 9, 0.9, 0.5, 0.8, 0.6
    mdp = lab.chain(length, (1.0,), reward_std=sigma, gamma=gamma)
    policy = np.ones((length + 1, 1))
    critic = lab.exact_critic(mdp, policy).shifted(b).noisy(s)
    td, mc = (lab.moments(mdp, policy, lab.gae(lam), critic) for lam in (0.0, 1.0))
    assert td.bias[0, 0] == pytest.approx(-b + gamma * b)
    assert td.variance[0, 0] == pytest.approx(sigma**2 + s**2 + gamma**2 * s**2)
    assert mc.bias[0, 0] == pytest.approx(-b)  # the baseline's, and nothing else
    rewards = sigma**2 * sum(gamma ** (2 * k) for k in range(length))
    assert mc.variance[0, 0] == pytest.approx(rewards + s**2)
    # λ = 0 is the TD error itself, λ = 1 the Monte Carlo return minus V̂, on each trajectory.
    steps = lab.sample(mdp, policy, RNG, steps=length, batch=20)
    batch = lab.evaluated(mdp, steps, critic, RNG)
    zero, one = (lab.gae(lam).estimate(batch) for lam in (0.0, 1.0))
    np.testing.assert_allclose(zero, lab.td_error().estimate(batch), atol=1e-12)
    returns = lab.monte_carlo().estimate(batch) - batch.value
    np.testing.assert_allclose(one, returns, atol=1e-12)
    # In between, the formula of the docs.
    lam = 0.7
    mid = lab.moments(mdp, policy, lab.gae(lam), critic)
    bootstraps = [(gamma * lam) ** k for k in range(length - 1)]
    assert mid.bias[0, 0] == pytest.approx(b * (gamma * (1 - lam) * sum(bootstraps) - 1))
    left = gamma**2 * (1 - lam) ** 2 * sum(x**2 for x in bootstraps)
    rewards = sigma**2 * sum((gamma * lam) ** (2 * k) for k in range(length))
    assert mid.variance[0, 0] == pytest.approx(rewards + s**2 * (1 + left))


def test_monte_carlo_is_unbiased_and_a_critics_error_biases_the_rest():
    mdp, rng = small(), np.random.default_rng(12)
    policy = random_policy(mdp, rng)
    critic = lab.constant_critic(mdp, 3.0)
    assert lab.measure(mdp, policy, lab.monte_carlo(), critic, rng).bias.agrees(0)
    assert not lab.measure(mdp, policy, lab.td(), critic, rng).bias.agrees(0)
    exact = lab.exact_critic(mdp, policy)
    assert lab.measure(mdp, policy, lab.td(), exact, rng).bias.agrees(0)
    # A rollout that is cut short bootstraps: λ = 1 is then as biased as an n-step return.
    cut = lab.measure(mdp, policy, lab.lambda_return(1.0), critic, rng, length=3)
    assert cut.bias.agrees(lab.moments(mdp, policy, lab.n_step(3), critic).bias)


def test_a_wrong_estimator_of_your_own_is_found_out():
    def past_the_end(batch):
        return batch.steps.rewards + batch.gamma * batch.next_value

    def right(batch):
        after = np.where(batch.steps.terminated, 0, batch.next_value)
        return batch.steps.rewards + batch.gamma * after

    mdp = lab.chain(3, (1.0,), reward_std=0.1)
    policy, critic = np.ones((4, 1)), lab.Critic(np.array([2.71, 1.9, 1.0, 5.0]))
    for function, clean in ((right, True), (past_the_end, False)):
        mine = lab.Estimator("mine", "V", function, rows=1)
        found = lab.measure(mdp, policy, mine, critic, np.random.default_rng(0))
        assert found.bias.agrees(0) == clean
    assert found.bias.value[2] == pytest.approx(4.5, abs=0.05)  # γ · 5, at the last state only
    with pytest.raises(UserError, match="no closed form"):
        lab.moments(mdp, policy, mine, critic)


def test_vtrace_of_the_own_policy_is_the_return_to_the_end():
    mdp, rng = rewards_by_state(), np.random.default_rng(13)
    policy = random_policy(mdp, rng)
    steps = lab.sample(mdp, policy, rng, steps=20, batch=30)
    critic = lab.exact_critic(mdp, policy).noisy(1.0)
    batch = lab.evaluated(mdp, steps, critic, rng, policy, policy)
    np.testing.assert_allclose(
        lab.vtrace().estimate(batch), lab.lambda_return(1.0).estimate(batch), atol=1e-12
    )
    np.testing.assert_allclose(lab.vtrace().estimate(batch), lab.n_step(20).estimate(batch))


def test_vtrace_is_its_definition_on_every_row():
    mdp, rng = rewards_by_state(), np.random.default_rng(18)
    policy, behaviour = random_policy(mdp, rng), random_policy(mdp, rng)
    steps = lab.sample(mdp, behaviour, rng, steps=10, batch=8)
    critic = lab.exact_critic(mdp, policy).noisy(1.0)
    batch = lab.evaluated(mdp, steps, critic, rng, policy, behaviour)
    ratio = policy[steps.states, steps.actions] / behaviour[steps.states, steps.actions]
    np.testing.assert_allclose(batch.ratio, ratio)
    assert ratio.min() < 0.7 < 1.3 < ratio.max()
    found = lab.vtrace(1.3, 0.7).estimate(batch)
    for t, b in np.ndindex(10, 8):
        total, factor = batch.value[t, b], 1.0
        for k in range(t, 10):
            after = 0 if steps.terminated[k, b] else batch.next_value[k, b]
            delta = steps.rewards[k, b] + mdp.gamma * after - batch.value[k, b]
            total += factor * min(1.3, ratio[k, b]) * delta
            factor *= mdp.gamma * min(0.7, ratio[k, b])
            if steps.terminated[k, b]:
                break
        assert found[t, b] == pytest.approx(total)


def test_vtrace_estimates_the_value_of_the_clipped_policy():
    mdp, rng = small(gamma=0.7), np.random.default_rng(14)
    policy, behaviour = random_policy(mdp, rng), random_policy(mdp, rng)
    clipped = lab.clipped_policy(policy, behaviour, 1.0)
    fixed_point = lab.values(mdp, clipped)
    gap = fixed_point - lab.values(mdp, policy)
    assert abs(gap).max() > 0.1
    critic = lab.Critic(fixed_point)
    found = lab.measure(mdp, policy, lab.vtrace(), critic, rng, samples=4000, behaviour=behaviour)
    assert found.bias.agrees(gap)  # Espeholt et al. 2018, theorem 1: unbiased for that policy
    assert not found.bias.agrees(0)
    # Without clipping it is importance sampling, unbiased for π with any critic.
    free, wrong = lab.vtrace(1e9, 1e9), lab.constant_critic(mdp, 1.0)
    found = lab.measure(mdp, policy, free, wrong, rng, samples=8000, behaviour=behaviour, length=4)
    going_on = np.einsum("sa,sax->sx", policy, mdp.transition)
    tail = 0.7**4 * np.linalg.matrix_power(going_on, 4) @ (1.0 - lab.values(mdp, policy))
    assert found.bias.agrees(tail)
    # Clipped at different heights, ρ̄ decides on the fixed point and c̄ does not.
    found = lab.measure(
        mdp, policy, lab.vtrace(1.0, 0.3), critic, rng, samples=4000, behaviour=behaviour
    )
    assert found.bias.agrees(gap)


# ------------------------------------------------------------------------------ gradients


def gradient_forms(mdp, policy):
    return {
        "no baseline": lab.monte_carlo(),
        "critic as baseline": lab.gae(1.0),
        "optimal baseline": lab.monte_carlo().minus(lab.optimal_baseline(mdp, policy), "optimal"),
        "TD error": lab.td_error(),
        "GAE": lab.gae(0.5),
        "Q": lab.exact_estimator("Q", lab.action_values(mdp, policy)),
        "A": lab.exact_estimator("A", lab.advantages(mdp, policy)),
    }


@pytest.mark.parametrize("name", gradient_forms(loop_free(), lab.softmax(np.zeros((13, 2)))))
@pytest.mark.parametrize("good", [True, False], ids=["exact critic", "bad critic"])
def test_gradients_have_the_bias_and_covariance_of_the_closed_form(name, good):
    mdp, rng = loop_free(), np.random.default_rng(15)
    logits = rng.normal(size=(mdp.states, mdp.actions))
    policy = lab.softmax(logits)
    critic = lab.exact_critic(mdp, policy)
    critic = critic if good else critic.perturbed(2.0, rng).noisy(0.7)
    form = gradient_forms(mdp, policy)[name]
    found = lab.measure_gradient(mdp, logits, form, critic, rng, episodes=8000)
    exact = lab.gradient_moments(mdp, logits, form, critic)
    assert found.bias.agrees(exact.bias)
    assert found.trace.agrees(exact.trace)
    assert not found.trace.agrees(1.2 * exact.trace)
    assert found.squared_bias.agrees((exact.bias**2).sum())
    assert found.variance.value.sum() == pytest.approx(found.trace.value)
    assert found.covariance.shape == (logits.size, logits.size)
    biased = not good and name in ("TD error", "GAE")
    assert np.allclose(exact.bias, 0, atol=1e-10) != biased
    assert found.bias.agrees(0) != biased


def test_gradients_are_unbiased_where_states_come_again():
    mdp, rng = small(gamma=0.6), np.random.default_rng(16)
    logits = rng.normal(size=(mdp.states, mdp.actions))
    policy = lab.softmax(logits)
    critic = lab.exact_critic(mdp, policy)
    for form in gradient_forms(mdp, policy).values():
        found = lab.measure_gradient(mdp, logits, form, critic, rng, episodes=4000)
        assert found.bias.agrees(0), form.name
        np.testing.assert_array_equal(found.exact, lab.policy_gradient(mdp, logits))
    with pytest.raises(UserError, match="come twice"):
        lab.gradient_moments(mdp, logits, form, critic)


def test_the_squared_bias_of_few_episodes_is_right_on_average():
    mdp, rng = loop_free(), np.random.default_rng(19)
    logits = rng.normal(size=(mdp.states, mdp.actions))
    critic = lab.exact_critic(mdp, lab.softmax(logits))
    found = [
        lab.measure_gradient(mdp, logits, lab.n_step(2), critic, rng, episodes=20).squared_bias
        for _ in range(300)
    ]
    values, errors = (np.array(column) for column in zip(*found, strict=True))
    mean = lab.Measured(values.mean(), values.std() / np.sqrt(len(values)))
    assert mean.agrees(0)
    # The share of the variance that is subtracted would have been seen.
    trace = lab.gradient_moments(mdp, logits, lab.n_step(2), critic).trace
    assert trace / 20 > 10 * mean.error
    assert 0.5 < errors.mean() / values.std() < 2


def test_no_baseline_of_a_state_leaves_less_variance_than_the_optimal_one():
    mdp, rng = loop_free(), np.random.default_rng(17)
    logits = rng.normal(size=(mdp.states, mdp.actions))
    policy = lab.softmax(logits)
    best, critic = lab.optimal_baseline(mdp, policy), lab.exact_critic(mdp, policy)

    def trace(baseline):
        form = lab.monte_carlo().minus(baseline, "some")
        return lab.gradient_moments(mdp, logits, form, critic).trace

    least = trace(best)
    assert least < trace(critic.table) < trace(critic.table + 2)
    for s in np.flatnonzero(lab.discounted_distribution(mdp, policy)):
        for nudge in (0.05, -0.05):
            assert trace(best + nudge * np.eye(mdp.states)[s]) > least
    # With two actions of one probability, it is V.
    even = np.full_like(policy, 0.5)
    np.testing.assert_allclose(lab.optimal_baseline(mdp, even), lab.values(mdp, even))


def test_a_perfect_critic_leaves_variance():
    mdp = lab.chain(1, (0.0, 1.0), reward_std=0.5)
    logits = np.zeros((2, 2))
    critic = lab.exact_critic(mdp, lab.softmax(logits))
    # ‖∇log π‖² = ½, A = ±½, so that E[½ (¼ + ¼)] = ¼, less ‖∇J‖² = 2 (¼)².
    exact = lab.gradient_moments(mdp, logits, lab.gae(1.0), critic)
    assert exact.trace == pytest.approx(0.25 - 0.125)


# ------------------------------------------------------------------------------ bad input


def mdp_with(**changes):
    fields = {
        "transition": np.full((2, 1, 2), 0.5),
        "reward": np.zeros((2, 1)),
        "terminal": np.zeros(2, bool),
        "start": np.array([1.0, 0.0]),
        "gamma": 0.9,
    }
    return lab.MDP(**(fields | changes))


EVEN = np.ones((2, 1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mdp_with(transition=np.full((2, 1, 2), 0.6)), r"at \[0, 0\] sum to 1.2"),
        (lambda: mdp_with(transition=np.array([[[2.0, -1]], [[0, 1]]])), "below 0"),
        (lambda: mdp_with(transition=np.ones((2, 2))), r"\[S, A, S\]"),
        (lambda: mdp_with(transition=[["a"]]), "numbers"),
        (lambda: mdp_with(reward=np.zeros((2, 3))), r"reward of the shape"),
        (lambda: mdp_with(reward=np.full((2, 1), np.nan)), "not finite"),
        (lambda: mdp_with(terminal=np.zeros(2)), "booleans"),
        (lambda: mdp_with(terminal=np.array([True, False])), "start in a terminal"),
        (lambda: mdp_with(start=np.array([0.5, 0.4])), "sum to 0.9"),
        (lambda: mdp_with(gamma=1.2), r"\[0, 1\]"),
        (lambda: mdp_with(gamma=1.0), "lead to a terminal"),
        (lambda: mdp_with(reward_std=-1.0), "negative"),
        (lambda: lab.values(mdp_with(), np.ones((1, 2))), "shape"),
        (lambda: lab.values(mdp_with(), np.full((2, 1), 0.9)), "sum to 0.9"),
        (lambda: lab.softmax(np.zeros(3)), r"\[S, A\]"),
        (lambda: lab.chain(0), "length"),
        (lambda: lab.cliff(2, 2), "width"),
        (lambda: lab.layers(0, 1, 1, RNG), "depth"),
        (lambda: lab.random_mdp(3, 2, 4, 0.1, RNG), "branching"),
        (lambda: lab.sample(mdp_with(), EVEN, RNG, steps=0, batch=1), "one step"),
        (lambda: lab.horizon(mdp_with(gamma=0.99999), EVEN), "smaller gamma"),
        (lambda: lab.n_step(0), "at least 1"),
        (lambda: lab.gae(1.5), r"\[0, 1\]"),
        (lambda: lab.vtrace(1.0, 2.0), "c̄ ≤ ρ̄"),
        (lambda: lab.constant_critic(mdp_with()).noisy(-1), "negative"),
        (
            lambda: lab.measure(mdp_with(), EVEN, lab.td(), lab.Critic(np.zeros(3)), RNG),
            "2 values",
        ),
        (
            lambda: lab.measure(
                mdp_with(), EVEN, lab.td(), lab.constant_critic(mdp_with()), RNG, states=[2]
            ),
            "states 0 to 1",
        ),
        (
            lambda: lab.measure(
                mdp_with(), EVEN, lab.td(), lab.constant_critic(mdp_with()), RNG, samples=1
            ),
            "two samples",
        ),
        (
            lambda: lab.measure(
                mdp_with(),
                EVEN,
                lab.Estimator("odd", "V", lambda batch: batch.value[0]),
                lab.constant_critic(mdp_with()),
                RNG,
            ),
            "odd gave the shape",
        ),
        (
            lambda: lab.measure(
                mdp_with(),
                EVEN,
                lab.Estimator("odd", "V", lambda batch: batch.value / 0),
                lab.constant_critic(mdp_with()),
                RNG,
            ),
            "not finite",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:.*encountered in divide")
def test_a_mistake_is_named(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_with_gamma_1_a_policy_that_never_ends_is_refused():
    mdp = lab.cliff(3, 2, gamma=1.0)
    with pytest.raises(UserError, match="state 0 does not"):
        lab.values(mdp, np.tile(np.eye(4)[3], (mdp.states, 1)))


def test_the_behaviour_must_try_what_the_policy_does():
    mdp = lab.chain(2)
    even, never = np.full((3, 2), 0.5), np.tile([1.0, 0.0], (3, 1))
    critic = lab.constant_critic(mdp)
    with pytest.raises(UserError, match="a chance"):
        lab.measure(mdp, even, lab.vtrace(), critic, RNG, behaviour=never)
