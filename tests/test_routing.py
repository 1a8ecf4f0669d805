"""Routing: the environment beside its tables, the best policy over beliefs, what PPO reaches."""

from __future__ import annotations

import itertools

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import actorcritic as ac
from actorcritic import lab
from actorcritic.core.errors import UserError
from actorcritic.envs import AsGymnasium, Routing
from actorcritic.studies.s11_decisions_and_routing import _followed, exact_share

SMALL = Routing(prior=(0.5, 0.3, 0.2), leaving=(0.0, 0.1, 0.4))


def returns_of(world: Routing, policy, episodes: int) -> np.ndarray:
    """Returns of a policy of observations, in the environment itself."""
    reset, step = jax.jit(jax.vmap(world.reset)), jax.jit(jax.vmap(world.step))
    state, x = reset(jax.random.split(jax.random.key(0), episodes))
    total, alive = np.zeros(episodes), np.ones(episodes, bool)
    for t in range(len(world.leaving) + 2):
        action = policy(np.asarray(x))
        keys = jax.random.split(jax.random.key(t + 1), episodes)
        state, found = step(keys, state, jnp.asarray(action))
        total += np.where(alive, np.asarray(found.reward), 0)
        alive &= ~np.asarray(found.terminated)
        x = found.observation
    assert not alive.any()
    return total


@pytest.mark.parametrize("world", [Routing(), SMALL], ids=["default", "small"])
def test_the_environment_is_the_process_of_the_lab(world):
    """Policies that use all of the observation have the exact value, within 4 standard errors."""
    pomdp = lab.from_routing(world)
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(world.spec.observation_space.shape[0], pomdp.actions))

    def mixed(x: np.ndarray) -> np.ndarray:
        return np.argmax(x @ weights, -1)

    policies = [mixed, *(lambda x, a=a: np.full(len(x), a) for a in range(pomdp.actions))]
    policies.append(
        lambda x: np.where(x[:, -1] < 1, world.answers, x[:, : world.answers].argmax(1))
    )
    for policy in policies:
        found = returns_of(world, policy, 20_000)
        exact = lab.value_of(
            pomdp,
            lambda h, policy=policy: np.eye(pomdp.actions)[
                policy(lab.routing_observation(world, h)[None])[0]
            ],
        )
        error = 4 * found.std() / np.sqrt(len(found)) + 1e-6
        assert abs(found.mean() - exact) < error


def test_the_best_policy_is_best_by_enumeration_of_all_policies():
    """A process with few histories: the best of every deterministic policy, one by one."""
    world = Routing(prior=(0.6, 0.4), leaving=(0.0, 0.3))
    pomdp = lab.from_routing(world)
    histories: set[tuple[int, ...]] = set()

    def even(history):
        histories.add(history)
        return np.full(pomdp.actions, 1 / pomdp.actions)

    lab.value_of(pomdp, even)
    keys = sorted({lab.routing_observation(world, h).tobytes() for h in histories})

    def value(choice: tuple[int, ...]) -> float:
        table = dict(zip(keys, choice, strict=True))

        def act(history):
            return np.eye(pomdp.actions)[table[lab.routing_observation(world, history).tobytes()]]

        return lab.value_of(pomdp, act)

    best = max(map(value, itertools.product(range(pomdp.actions), repeat=len(keys))))
    assert lab.solve(pomdp).value == pytest.approx(best, abs=1e-12)


def test_acting_by_the_solution_earns_its_value_and_beats_simpler_policies():
    world = Routing()
    pomdp = lab.from_routing(world)
    solution = lab.solve(pomdp)

    def best(history, without=None):
        q = solution.action_values(lab.belief_after(pomdp, history)).copy()
        if without is not None:
            q[without] = -np.inf
        return np.eye(pomdp.actions)[q.argmax()]

    assert lab.value_of(pomdp, best) == pytest.approx(solution.value, abs=1e-12)
    never = lab.value_of(pomdp, lambda h: best(h, world.answers))
    assert never < 0.9 * solution.value
    escalate = lab.value_of(pomdp, lambda h: np.eye(pomdp.actions)[world.answers + 1])
    assert escalate == pytest.approx(1 - world.escalation_cost)
    visited = lab.values_of(pomdp, best)
    firsts = [each for history, each in visited.items() if len(history) == 1]
    assert sum(each.reach for each in firsts) == pytest.approx(1)
    assert sum(each.reach * each.value for each in firsts) == pytest.approx(solution.value)
    every = {int(best(history).argmax()) for history in visited}
    assert {world.answers, world.answers + 1} < every  # it asks, it escalates, and it answers


def test_beliefs_follow_bayes_rule():
    world = Routing()
    pomdp = lab.from_routing(world)
    belief = lab.belief_after(pomdp, (1, world.answers, 1, world.answers, 2))
    types = belief[:-2].reshape(world.types, -1).sum(1)
    weight = np.array(world.prior) * world.signs[:, 1] ** 2 * world.signs[:, 2]
    np.testing.assert_allclose(types, weight / weight.sum(), atol=1e-12)
    after = lab.belief_after(pomdp, (1, 1, world.types))  # answer 1 was wrong
    types = after[:-2].reshape(world.types, -1).sum(1)
    weight = np.array(world.prior) * world.signs[:, 1] * [1, 0, 1, 1]
    np.testing.assert_allclose(types, weight / weight.sum(), atol=1e-12)


def test_processes_that_need_not_end_are_refused():
    forever = lab.POMDP(
        np.ones((1, 1, 1)), np.ones((1, 1, 1)), np.ones((1, 1, 1)), np.ones((1, 1)),
        np.zeros(1, bool), np.ones(1), 0.9,
    )  # fmt: skip
    with pytest.raises(UserError, match="surely end"):
        lab.solve(forever)
    with pytest.raises(UserError, match="observation has the shape"):
        lab.POMDP(
            np.ones((1, 1, 1)), np.ones((1, 1, 1)), np.ones((2, 1, 1)), np.ones((1, 1)),
            np.zeros(1, bool), np.ones(1),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"prior": (0.5, 0.4)}, "sum to 1"),
        ({"prior": (1.0,)}, "2 or more"),
        ({"clarity": 1.5}, "clarity"),
        ({"leaving": ()}, "leaving"),
    ],
)
def test_options_that_make_no_world(options, said):
    with pytest.raises(UserError, match=said):
        Routing(**options)


def test_it_is_a_gymnasium_environment():
    environment = AsGymnasium(Routing())
    from gymnasium.utils.env_checker import check_env

    check_env(environment, skip_render_check=True)
    assert isinstance(environment.action_space, gymnasium.spaces.Discrete)


def test_following_a_policy_counts_what_it_does():
    world = Routing()
    escalate = _followed(world, lambda x: np.full(len(x), world.answers + 1))
    assert (escalate.questions, escalate.escalated) == (0, pytest.approx(1))
    assert escalate.share * lab.solve(lab.from_routing(world)).value == pytest.approx(0.2)


@pytest.mark.parametrize("seed", range(4))
def test_following_a_policy_earns_what_enumeration_says(seed):
    """Policies that give a wrong answer again, and such as nobody would have."""
    world, pomdp = Routing(), lab.from_routing(Routing())
    rng = np.random.default_rng(seed)
    weights = rng.integers(0, 97, world.types + world.answers + 1)

    def policy(x):
        return np.zeros(len(x), int) if seed == 0 else (x @ weights).astype(int) % pomdp.actions

    def of_history(history):
        return np.eye(pomdp.actions)[policy(lab.routing_observation(world, history)[None])[0]]

    share = _followed(world, policy).share
    assert share * lab.solve(pomdp).value == pytest.approx(lab.value_of(pomdp, of_history))


@pytest.mark.learning
def test_ppo_comes_near_the_best_policy():
    run = ac.train("ppo", "routing", seeds=5, evaluation_episodes=0, quiet=True)
    shares = [exact_share(Routing(), run.policy(seed)) for seed in run.seeds]
    assert np.median(shares) >= 0.97
