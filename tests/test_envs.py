"""The compiled environments against Gymnasium's own classes, and against their own promises."""

import itertools
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.envs.classic_control import (
    AcrobotEnv,
    CartPoleEnv,
    Continuous_MountainCarEnv,
    MountainCarEnv,
    PendulumEnv,
)
from gymnasium.utils.env_checker import check_env
from scipy import stats

from actorcritic.core.errors import UserError
from actorcritic.core.types import Environment
from actorcritic.envs import (
    COMPILED,
    Acrobot,
    AsGymnasium,
    CartPole,
    GridWorld,
    MountainCar,
    MountainCarContinuous,
    Pendulum,
    compiled_environment,
    probes,
)
from actorcritic.envs.classic.acrobot import AcrobotState
from actorcritic.envs.classic.cartpole import CartPoleState
from actorcritic.envs.classic.mountain_car import CarState
from actorcritic.envs.classic.pendulum import PendulumState
from actorcritic.envs.grid_world import MOVES, GridState, as_cell

PROBES = [
    probes.ConstantReward(),
    probes.ObservedReward(),
    probes.DelayedReward(),
    probes.ActionReward(),
    probes.MatchObservation(),
    probes.EndlessReward(),
    probes.FiniteReward(),
    probes.ContinuousTarget(),
]


@pytest.fixture(autouse=True)
def _strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


# --- Gymnasium's own classes -------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A compiled environment, Gymnasium's, and a box of states that reaches over the limits."""

    environment: Environment
    reference: gymnasium.Env
    low: tuple[float, ...]
    high: tuple[float, ...]

    def state(self, vectors: np.ndarray) -> Any:
        """Our states for an array [n, variables] of Gymnasium's."""
        kind = type(self.environment)
        if kind is Acrobot:
            return AcrobotState(*vectors.T)
        if kind is Pendulum:
            return PendulumState(*vectors.T)
        return (CartPoleState if kind is CartPole else CarState)(vectors)

    def vectors(self, state: Any) -> np.ndarray:
        """And back."""
        return np.asarray(state[0]) if len(state) == 1 else np.stack(state, axis=1)


CAR_BOX = ((-1.3, -0.08), (1.0, 0.08))
TURN = (math.pi, math.pi, 4 * math.pi, 9 * math.pi)
CASES = {
    "CartPole": Case(CartPole(), CartPoleEnv(), (-2.6, -3, -0.25, -3), (2.6, 3, 0.25, 3)),
    "Acrobot": Case(Acrobot(), AcrobotEnv(), tuple(-x for x in TURN), TURN),
    "MountainCar": Case(MountainCar(), MountainCarEnv(), *CAR_BOX),
    "MountainCar, fast goal": Case(MountainCar(0.03), MountainCarEnv(goal_velocity=0.03), *CAR_BOX),
    "MountainCarContinuous": Case(MountainCarContinuous(), Continuous_MountainCarEnv(), *CAR_BOX),
    "Pendulum": Case(Pendulum(), PendulumEnv(), (-10, -8), (10, 8)),
    "Pendulum, g=0": Case(Pendulum(gravity=0.0), PendulumEnv(g=0.0), (-10, -8), (10, 8)),
    "Pendulum, g=9.81": Case(Pendulum(gravity=9.81), PendulumEnv(g=9.81), (-10, -8), (10, 8)),
}
NEVER_ENDS = Pendulum


@dataclass(frozen=True)
class Transitions:
    """n transitions by Gymnasium's class, leading axis n."""

    state: np.ndarray
    action: np.ndarray
    after: np.ndarray
    observation: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray


def reference_transitions(case: Case, count: int = 10_000) -> Transitions:
    """Half from random episodes, half from states drawn from the case's box."""
    env, rng = case.reference, np.random.default_rng(0)
    discrete = isinstance(env.action_space, gymnasium.spaces.Discrete)
    rows = []
    env.reset(seed=0)
    for i in range(count):
        if i == count // 2 or (i < count // 2 and (not rows or rows[-1][-1] or i % 200 == 0)):
            env.reset()
        if i >= count // 2:
            env.state = rng.uniform(case.low, case.high)
        env.steps_beyond_terminated = None  # CartPole's: each of our steps stands alone
        state = np.array(env.state, np.float32).astype(np.float64)  # exact in both precisions
        env.state = state
        if discrete:
            action = rng.integers(env.action_space.n)
        else:  # beyond the bounds too
            bounds = 1.5 * env.action_space.low, 1.5 * env.action_space.high
            action = rng.uniform(*bounds).astype(np.float32).astype(np.float64)
        observation, reward, terminated, truncated, _ = env.step(action)
        assert not truncated
        rows.append((state, action, np.array(env.state), observation, reward, terminated))
    return Transitions(*map(np.array, zip(*rows, strict=True)))


@pytest.fixture(scope="module", params=CASES)
def case_and_transitions(request):
    case = CASES[request.param]
    return case, reference_transitions(case)


def our_transitions(case: Case, given: Transitions, dtype: type) -> tuple[np.ndarray, Any]:
    action = given.action.astype(np.int32 if given.action.ndim == 1 else dtype)
    state = jax.tree.map(jnp.asarray, case.state(given.state.astype(dtype)))
    step = jax.jit(jax.vmap(case.environment.step, in_axes=(None, 0, 0)))
    after, step = step(jax.random.key(0), state, jnp.asarray(action))
    leaves = jax.tree.leaves((after, step.observation, step.reward))
    assert {leaf.dtype for leaf in leaves} == {np.dtype(dtype)}
    assert not step.truncated.any()
    return case.vectors(after), step


def test_steps_as_gymnasium_does_in_float64(case_and_transitions):
    case, given = case_and_transitions
    with jax.enable_x64(True):
        after, step = our_transitions(case, given, np.float64)

    assert np.array_equal(step.terminated, given.terminated)
    if isinstance(case.environment, NEVER_ENDS):
        assert not given.terminated.any()
    else:
        assert 300 < given.terminated.sum() < 9_000
    np.testing.assert_allclose(step.reward, given.reward, rtol=1e-10, atol=1e-10)
    observation = np.asarray(step.observation).astype(np.float32)
    np.testing.assert_array_max_ulp(observation, given.observation, 1)
    if isinstance(case.environment, MountainCarContinuous):  # Gymnasium rounds its state there
        np.testing.assert_array_max_ulp(after.astype(np.float32), given.after, 1)
    else:
        np.testing.assert_allclose(after, given.after, rtol=1e-10, atol=1e-10)


def test_steps_as_gymnasium_does_in_float32(case_and_transitions):
    case, given = case_and_transitions
    _, step = our_transitions(case, given, np.float32)
    assert np.array_equal(step.terminated, given.terminated)
    np.testing.assert_allclose(step.reward, given.reward, rtol=1e-5, atol=1e-5)
    rows = np.full(len(given.state), True)
    if isinstance(case.environment, Acrobot):
        # A Runge–Kutta step of 0.2 s amplifies rounding where the links whirl around, at speeds
        # that episodes rarely see.
        rows = np.abs(given.state[:, 2:]).max(axis=1) < 2 * math.pi
        assert rows.sum() > 5_000
        np.testing.assert_allclose(step.observation, given.observation, rtol=1e-2, atol=1e-2)
    ours = np.asarray(step.observation)
    np.testing.assert_allclose(ours[rows], given.observation[rows], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("id", [id for id in COMPILED if id in gymnasium.registry])
def test_spec_is_gymnasiums(id):
    spec, reference = COMPILED[id]().spec, gymnasium.make(id)
    assert spec.id == id
    assert spec.observation_space == reference.observation_space
    assert spec.action_space == reference.action_space
    assert spec.max_episode_steps == reference.spec.max_episode_steps
    reference.close()


@pytest.mark.parametrize(
    ("environment", "reference", "low", "high"),
    [
        (CartPole(), CartPoleEnv(), [-0.05] * 4, [0.05] * 4),
        (Acrobot(), AcrobotEnv(), [-0.1] * 4, [0.1] * 4),
        (MountainCar(), MountainCarEnv(), [-0.6, 0], [-0.4, 0]),
        (MountainCarContinuous(), Continuous_MountainCarEnv(), [-0.6, 0], [-0.4, 0]),
        (Pendulum(), PendulumEnv(), [-math.pi, -1], [math.pi, 1]),
    ],
    ids=lambda x: type(x).__name__,
)
def test_start_distribution_is_gymnasiums(environment, reference, low, high):
    count = 20_000
    state, observation = jax.jit(jax.vmap(environment.reset))(
        jax.random.split(jax.random.key(3), count)
    )
    ours = Case(environment, reference, (), ()).vectors(state)
    assert ours.dtype == observation.dtype == np.float32
    reference.reset(seed=3)
    theirs = np.array([(reference.reset(), np.array(reference.state))[1] for _ in range(2_000)])

    for i, (lowest, highest) in enumerate(zip(low, high, strict=True)):
        assert np.float32(lowest) <= ours[:, i].min() <= ours[:, i].max() <= np.float32(highest)
        if lowest == highest:
            assert np.all(theirs[:, i] == lowest)
            continue
        uniform = stats.uniform(lowest, highest - lowest)
        assert stats.kstest(ours[:, i], uniform.cdf).pvalue > 0.01
        assert stats.ks_2samp(ours[:, i], theirs[:, i]).pvalue > 0.01
    varied = ours[:, np.array(low) < np.array(high)]
    correlations = np.corrcoef(varied, rowvar=False) - np.eye(varied.shape[1])
    assert np.abs(correlations).max() < 4 / math.sqrt(count)

    # The first observation is Gymnasium's of the same state.
    for i in range(50):
        reference.state = ours[i].astype(np.float64)
        observe = getattr(reference, "_get_obs", None) or getattr(reference, "_get_ob", None)
        observed = observe() if observe else reference.state
        np.testing.assert_allclose(observation[i], observed, rtol=1e-6, atol=1e-7)


# --- What every compiled environment promises --------------------------------------------------

EVERY = [make() for make in COMPILED.values()] + PROBES


def sampled(spec, *lead):
    """Actions [*lead], of each agent where there are several."""
    shape = (*lead, len(spec.agents)) if spec.agents else lead
    actions = np.stack([spec.action_space.sample() for _ in range(math.prod(shape))])
    actions = actions.reshape((*shape, *spec.action_space.shape))
    return actions.astype(np.int32 if actions.dtype == np.int64 else np.float32)


@pytest.mark.parametrize("environment", EVERY, ids=lambda e: e.spec.id)
class TestEveryEnvironment:
    def test_equal_parameters_make_equal_environments(self, environment):
        twin = replace(environment)
        assert isinstance(environment, Environment)
        assert twin is not environment
        assert twin == environment
        assert hash(twin) == hash(environment)
        assert twin.spec == environment.spec
        assert hash(twin.spec) == hash(environment.spec)

    def test_runs_under_jit_vmap_and_scan(self, environment):
        spec, batch, length = environment.spec, 3, 4
        agents = (len(spec.agents),) if spec.agents else ()
        actions = sampled(spec, length, batch)

        @jax.jit
        def rollout(key):
            keys = jax.random.split(key, batch)
            state, first = jax.vmap(environment.reset)(keys)
            state, steps = jax.lax.scan(
                lambda state, action: jax.vmap(environment.step)(keys, state, action),
                state,
                actions,
            )
            return first, steps

        first, steps = rollout(jax.random.key(1))
        parts = spec.observation_space.spaces if agents else {"": spec.observation_space}
        for name, part in parts.items():
            one, many = (x[name] if agents else x for x in (first, steps.observation))
            assert one.shape == (batch, *agents, *part.shape)
            assert many.shape == (length, *one.shape)
            kept = np.dtype(np.int32) if part.dtype == np.int64 else part.dtype
            assert many.dtype == one.dtype == kept
        assert steps.reward.shape == steps.terminated.shape == (length, batch, *agents)
        assert steps.reward.dtype == np.float32
        assert steps.terminated.dtype == steps.truncated.dtype == bool

    def test_types_hold_from_step_to_step(self, environment):
        """Not even weak types may change, or a program's loop would not accept the state."""
        key = jax.random.key(0)
        state, observation = jax.eval_shape(environment.reset, key)
        action = jnp.asarray(sampled(environment.spec))
        after, step = jax.eval_shape(environment.step, key, state, action)
        assert jax.tree.structure(after) == jax.tree.structure(state)
        leaves = zip(
            jax.tree.leaves((after, step.observation)),
            jax.tree.leaves((state, observation)),
            strict=True,
        )
        for new, old in leaves:
            assert (new.shape, new.dtype, new.weak_type) == (old.shape, old.dtype, old.weak_type)


def test_registry():
    assert compiled_environment("Pendulum-v1", gravity=0) == Pendulum(gravity=0.0)
    assert (
        compiled_environment("CartPole-v1", max_episode_steps=None).spec.max_episode_steps is None
    )
    grid = compiled_environment("GridWorld-v0", width=3, walls=[[1, 1]], goal=[2, 0])
    assert grid == GridWorld(width=3, walls=((1, 1),), goal=(2, 0))
    assert compiled_environment("LunarLander-v3") is None
    for id, make in COMPILED.items():
        assert compiled_environment(id) == make()
        assert make().spec.id == id


@pytest.mark.parametrize(
    ("id", "options", "message"),
    [
        ("Pendulum-v1", {"gravty": 0.0}, "Did you mean 'gravity'?"),
        ("Pendulum-v1", {"gravity": "none"}, "gravity must be a number, not 'none'"),
        ("GridWorld-v0", {"width": "5"}, "width must be a whole number, not '5'"),
        ("CartPole-v1", {"max_episode_steps": 9.5}, "must be a whole number or None, not 9.5"),
    ],
)
def test_bad_options(id, options, message):
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        compiled_environment(id, **options)


def test_gymnax_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnax", None)  # as if it were not installed
    with pytest.raises(UserError, match=r'pip install "actorcritic\[gymnax\]"'):
        compiled_environment("gymnax:Some-environment")


# --- The grid world ----------------------------------------------------------------------------


def walk(grid: GridWorld, actions: list[int]) -> tuple[list[tuple[int, int]], list[float], bool]:
    step = jax.jit(grid.step)
    state, _ = grid.reset(jax.random.key(0))
    cells, rewards, terminated = [], [], False
    for action in actions:
        assert not terminated
        state, after = step(jax.random.key(0), state, jnp.asarray(action, jnp.int32))
        assert np.array_equal(after.observation, state.cell)
        cells.append(tuple(map(int, state.cell)))
        rewards.append(float(after.reward))
        terminated = bool(after.terminated)
    return cells, rewards, terminated


UP, RIGHT, DOWN, LEFT = range(4)


class TestGridWorld:
    def test_borders_and_walls_hold_the_agent(self):
        grid = GridWorld(width=3, height=2, walls=((1, 0),))
        cells, rewards, terminated = walk(grid, [LEFT, DOWN, RIGHT, UP, UP, LEFT, RIGHT, DOWN])
        assert cells == [(0, 0), (0, 0), (0, 0), (0, 1), (0, 1), (0, 1), (1, 1), (1, 1)]
        np.testing.assert_allclose(rewards, -0.01)
        assert not terminated

    def test_the_goal_ends_the_episode_and_pays(self):
        cells, rewards, terminated = walk(GridWorld(width=3, height=2), [UP, RIGHT, RIGHT])
        assert cells[-1] == (2, 1)
        np.testing.assert_allclose(rewards, [-0.01, -0.01, 1.0])
        assert terminated

    def test_spec(self):
        spec = GridWorld(width=7, height=4).spec
        space = gymnasium.spaces.MultiDiscrete([7, 4], dtype=np.int32)
        assert spec.observation_space == space
        assert spec.action_space == gymnasium.spaces.Discrete(4)
        assert spec.max_episode_steps == 100

    @pytest.mark.parametrize("gamma", [1.0, 0.9])
    def test_a_shortest_path_has_the_return_of_the_docstring(self, gamma):
        # Around the end of a wall: 4 columns, the wall open at the top only.
        grid = GridWorld(width=4, height=3, walls=((1, 0), (1, 1)), goal=(3, 0))
        path = [UP, UP, RIGHT, RIGHT, DOWN, DOWN, RIGHT]
        _, rewards, terminated = walk(grid, path)
        assert terminated
        n = grid.distance(grid.start)
        assert n == len(path)
        lost = n - 1 if gamma == 1 else (1 - gamma ** (n - 1)) / (1 - gamma)
        value = sum(gamma**t * reward for t, reward in enumerate(rewards))
        assert value == pytest.approx(gamma ** (n - 1) - 0.01 * lost, abs=1e-6)

    def test_optimal_values_found_by_enumeration_are_those_of_the_docstring(self):
        grid, gamma = GridWorld(width=4, height=4, walls=((1, 1), (2, 1), (1, 2))), 0.95
        assert len(grid.cells) == 13
        assert grid.goal in grid.cells
        states = jnp.asarray(grid.cells, jnp.int32)
        actions = jnp.arange(len(MOVES), dtype=jnp.int32)
        after = jax.vmap(  # [cells, actions, 2]
            lambda cell: jax.vmap(lambda a: grid.move(GridState(cell), a).cell)(actions)
        )(states)
        number = {cell: i for i, cell in enumerate(grid.cells)}
        successor = np.array([[number[tuple(map(int, cell))] for cell in row] for row in after])
        goal = number[grid.goal]

        values = np.zeros(len(grid.cells))  # the goal's stays 0: the episode is over there
        for _ in range(50):
            q = np.where(successor == goal, 1.0, -0.01 + gamma * values[successor])
            values = q.max(axis=1)
            values[goal] = 0
        for cell, value in zip(grid.cells, values, strict=True):
            if cell != grid.goal:
                power = gamma ** (grid.distance(cell) - 1)
                assert value == pytest.approx(power - 0.01 * (1 - power) / (1 - gamma))

    def test_walls_in_any_order_are_the_same_world(self):
        grid = GridWorld(walls=((3, 1), (2, 2)))
        assert grid == GridWorld(walls=((2, 2), (3, 1), (2, 2)), goal=(4, 4))
        assert hash(grid) == hash(GridWorld(walls=((2, 2), (3, 1))))
        assert grid != GridWorld()

    def test_a_closed_room_has_no_distance(self):
        grid = GridWorld(width=3, height=3, walls=((0, 1), (1, 2)), goal=(2, 2))
        assert grid.distance((0, 2)) is None
        assert grid.distance((2, 2)) == 0

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"width": 0}, "width and height of at least 1, not 0×5"),
            ({"height": -1}, "not 5×-1"),
            ({"goal": (5, 0)}, r"goal \(5, 0\) is outside the grid: x counts from 0 to 4"),
            ({"start": (0, -1)}, r"start \(0, -1\) is outside"),
            ({"goal": (2, 2), "walls": ((2, 2),)}, r"goal \(2, 2\) is a wall"),
            ({"start": (2, 2), "walls": ((2, 2),)}, r"start \(2, 2\) is a wall"),
            ({"walls": ((9, 9),)}, r"wall \(9, 9\) is outside"),
            ({"walls": ((0, 1), (1, 0))}, "cut the goal"),
            ({"goal": (0, 0)}, "same cell"),
        ],
    )
    def test_impossible_worlds(self, options, message):
        with pytest.raises(UserError, match=message):
            GridWorld(**options)

    def test_cells_are_pairs_of_whole_numbers(self):
        assert as_cell("start", [np.int64(3), 1]) == (3, 1)
        for value in [(1, 2, 3), (0.5, 1), 7, "12"]:
            with pytest.raises(UserError, match=r"GridWorld's start: .* is not a cell"):
                as_cell("start", value)

    def test_picture(self):
        grid = GridWorld(width=3, height=2, walls=((1, 0),))
        picture = grid.render(grid.state((0, 0)))
        assert picture.shape == (64, 96, 3)
        assert picture.dtype == np.uint8
        lower, upper = picture[48], picture[16]  # the middles of the two rows of cells
        assert lower[16, 2] > lower[16, 0]  # the agent: blue
        assert lower[48].max() < 100  # the wall: dark
        assert lower[80].min() == 255  # a free cell: white
        assert upper[80, 1] > upper[80, 0]  # the goal: green


# --- Probes ------------------------------------------------------------------------------------


def best_return(step: Callable, state: Any, gamma: float, actions: list) -> float:
    """The optimal value of a state by trying every sequence of actions to the end."""
    best = -math.inf
    for action in actions:
        after, given = step(jax.random.key(0), state, action)
        rest = 0.0 if given.terminated else best_return(step, after, gamma, actions)
        best = max(best, float(given.reward) + gamma * rest)
    return best


BOTH = [jnp.asarray(0, jnp.int32), jnp.asarray(1, jnp.int32)]
GRID = [jnp.asarray([a], jnp.float32) for a in np.linspace(-1, 1, 9)]
GAMMA = 0.9
DISCOUNTED = {t: (1 - GAMMA ** (5 - t)) / (1 - GAMMA) for t in range(5)}


@pytest.mark.parametrize(
    ("probe", "value"),
    [
        (probes.ConstantReward(), lambda o: 1.0),
        (probes.ObservedReward(), lambda o: o),
        (probes.DelayedReward(), lambda o: GAMMA if o == 0 else 1.0),
        (probes.ActionReward(), lambda o: 1.0),
        (probes.MatchObservation(), lambda o: 1.0),
        (probes.FiniteReward(steps=5), lambda o: DISCOUNTED[round(5 * o)]),
        (probes.ContinuousTarget(target=0.25), lambda o: 0.0),
    ],
    ids=lambda x: x.spec.id if hasattr(x, "spec") else "",
)
def test_probe_values_are_those_of_the_docstrings(probe, value):
    actions = BOTH if isinstance(probe.spec.action_space, gymnasium.spaces.Discrete) else GRID
    step, seen = jax.jit(probe.step), set()
    for seed in range(8):
        state, observation = probe.reset(jax.random.key(seed))
        terminated = False
        while not terminated:  # at every observation on the way
            o = float(observation[0])
            if o not in seen:
                assert best_return(step, state, GAMMA, actions) == pytest.approx(value(o), abs=1e-5)
            seen.add(o)
            state, given = step(jax.random.key(0), state, actions[-1])
            observation, terminated = given.observation, bool(given.terminated)
    starts_anywhere = isinstance(probe, probes.ObservedReward | probes.MatchObservation)
    assert not starts_anywhere or seen == {-1.0, 1.0}
    assert not isinstance(probe, probes.FiniteReward) or len(seen) == 5


@pytest.mark.parametrize(
    ("probe", "reward"),
    [
        (probes.ActionReward(), lambda o, a: 2 * a - 1),
        (probes.MatchObservation(), lambda o, a: 1 if (o > 0) == (a == 1) else -1),
    ],
    ids=["ActionReward", "MatchObservation"],
)
def test_probe_action_values(probe, reward):
    for seed, action in itertools.product(range(6), (0, 1)):
        state, observation = probe.reset(jax.random.key(seed))
        _, step = probe.step(jax.random.key(0), state, jnp.asarray(action, jnp.int32))
        assert step.terminated
        assert float(step.reward) == reward(float(observation[0]), action)


def test_the_time_limit_probe_and_its_twin():
    endless = AsGymnasium(probes.EndlessReward(max_episode_steps=3))
    finite = AsGymnasium(probes.FiniteReward(steps=3))
    endless.reset(seed=0)
    finite.reset(seed=0)
    for t in range(1, 4):
        observation, reward, terminated, truncated, _ = endless.step(1)
        assert (float(observation[0]), reward, terminated, truncated) == (0, 1, False, t == 3)
        observation, reward, terminated, truncated, _ = finite.step(1)
        assert float(observation[0]) == pytest.approx(t / 3)
        assert (reward, terminated, truncated) == (1, t == 3, False)

    # Were there no limit, the discounted rewards would go on to 1 / (1 − γ).
    probe = replace(probes.EndlessReward(), max_episode_steps=None)
    state, _ = probe.reset(jax.random.key(0))
    _, steps = jax.lax.scan(
        lambda s, _: probe.step(jax.random.key(0), s, BOTH[0]), state, length=300
    )
    assert not steps.terminated.any()
    rewards = np.asarray(steps.reward, np.float64)
    assert rewards @ GAMMA ** np.arange(300) == pytest.approx(1 / (1 - GAMMA))


def test_impossible_probes():
    with pytest.raises(UserError, match="at least 1 step"):
        probes.FiniteReward(steps=0)
    with pytest.raises(UserError, match="target must lie"):
        probes.ContinuousTarget(target=2.0)


# --- As a Gymnasium environment ----------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "environment", [CartPole(), Pendulum(), GridWorld()], ids=lambda e: e.spec.id
)
def test_gymnasiums_checker_accepts_it(environment):
    mode = "rgb_array" if isinstance(environment, GridWorld) else None
    check_env(AsGymnasium(environment, render_mode=mode))


@pytest.mark.parametrize(
    ("environment", "action"),
    [(CartPole(max_episode_steps=6), 1), (probes.ObservedReward(), 0), (Pendulum(), [0.5])],
    ids=lambda x: x.spec.id if hasattr(x, "spec") else "",
)
def test_keys_are_drawn_as_the_compiled_runner_draws_them(environment, action):
    env, key = AsGymnasium(environment), jax.random.key(11)
    limit = environment.spec.max_episode_steps
    typed = jnp.asarray(action, jnp.float32 if isinstance(action, list) else jnp.int32)
    seed = 11
    for _ in range(3):
        key = jax.random.fold_in(key, 2**31 - 1)  # the scheme that envs/keys.py states
        state, observation = jax.jit(environment.reset)(jax.random.fold_in(key, 0))
        seen, _ = env.reset(seed=seed)
        seed = None
        assert np.array_equal(seen, observation)
        for length in range(8):
            step_key = jax.random.fold_in(key, length + 1)
            state, step = jax.jit(environment.step)(step_key, state, typed)
            truncated = limit is not None and length + 1 >= limit
            seen, *rest, info = env.step(np.asarray(action))
            assert seen.dtype == environment.spec.observation_space.dtype
            assert np.array_equal(seen, step.observation)
            assert rest == [float(step.reward), bool(step.terminated), truncated]
            assert info == {}
            if step.terminated or truncated:
                break


def test_where_the_first_key_comes_from():
    def first(env: AsGymnasium, **reset: Any) -> np.ndarray:
        return env.reset(**reset)[0]

    key = jax.random.key(5)
    assert np.array_equal(
        first(AsGymnasium(CartPole(), key)), first(AsGymnasium(CartPole()), seed=5)
    )
    given = first(AsGymnasium(CartPole(), key), seed=6)
    assert np.array_equal(given, first(AsGymnasium(CartPole()), seed=6))
    assert not np.array_equal(first(AsGymnasium(CartPole())), first(AsGymnasium(CartPole())))


def test_pictures_only_where_there_is_a_painter():
    env = AsGymnasium(GridWorld(width=2, height=2), render_mode="rgb_array")
    env.reset(seed=0)
    assert env.render().shape == (64, 64, 3)
    assert AsGymnasium(GridWorld()).render() is None
    with pytest.raises(ValueError, match="no render mode"):
        AsGymnasium(CartPole(), render_mode="rgb_array")
