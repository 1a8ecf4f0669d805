"""One suite for every registered algorithm: what each must do, whatever it computes.

An algorithm says for which actions it is (`action_spaces`), and is tried with those.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cache, cached_property, partial
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import actorcritic as ac
from actorcritic.algorithms import ALGORITHMS
from actorcritic.core.types import Algorithm, EnvSpec, Step, check_protocol
from actorcritic.envs import CartPole, Pendulum, probes
from actorcritic.maths import spaces
from actorcritic.runners import compiled
from actorcritic.runners.dataset import DatasetSession
from actorcritic.runners.seeds import CompiledSession
from actorcritic.runs import checkpoints
from actorcritic.runs.collecting import Part, recorded

ENVIRONMENTS = (CartPole(), Pendulum())
SMALL = {
    "num_envs": 4,
    "num_workers": 2,
    "lag": 3,
    "num_steps": 8,
    "num_minibatches": 4,
    "hidden_sizes": (8,),
    "activation": "tanh",
    "batch_size": 64,
    "buffer_size": 512,
    "learning_starts": 0,
}


def suits(name: str, environment: Any) -> bool:
    return isinstance(environment.spec.action_space, ALGORITHMS[name].action_spaces)


def suited(name: str) -> Any:
    """An environment with actions that the algorithm is for."""
    return next(environment for environment in ENVIRONMENTS if suits(name, environment))


every = pytest.mark.parametrize("name", ALGORITHMS)
FROM_DATA = [name for name, cls in ALGORITHMS.items() if cls().draws]
REWARDLESS = ("bc",)  # looks at no reward, and so at no end
everywhere = pytest.mark.parametrize(
    ("name", "environment"),
    [
        pytest.param(name, environment, id=f"{name}-{environment.spec.id}")
        for name in ALGORITHMS
        for environment in ENVIRONMENTS
        if suits(name, environment)
    ],
)


def make(name: str, **options: Any) -> Any:
    """The algorithm with those of the options that it has."""
    known = {field.name for field in fields(ALGORITHMS[name])}
    options = SMALL | options
    return ALGORITHMS[name](**{key: x for key, x in options.items() if key in known})


@cache
def data_of(environment: Any, steps: int = 512) -> ac.Dataset:
    """Uniformly random actions, for those that learn from data."""
    return recorded(environment, [Part("random", None, (), steps)], seed=0)


def session_of(algorithm: Any, environment: Any, seeds: list[int], steps: int) -> Any:
    if algorithm.draws is None:
        return CompiledSession(algorithm, environment, seeds, steps)
    data = data_of(environment, 4_096)
    return DatasetSession(algorithm, data, environment.spec, seeds, steps)


def plain(tree: Any) -> Any:
    """Everything as NumPy, random keys as their numbers."""

    def of(x: Any) -> np.ndarray:
        key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return np.array(jax.random.key_data(x) if key else x)

    return jax.tree.map(of, tree)


def same(a: Any, b: Any) -> bool:
    """Bit for bit."""
    equal = jax.tree.map(partial(np.array_equal, equal_nan=True), plain(a), plain(b))
    return all(jax.tree.leaves(equal))


class Counted:
    """A compiled function that counts how often it was traced."""

    def __init__(self, function: Callable) -> None:
        self.traces = 0
        self._function = function
        self._jitted = jax.jit(self._traced)

    def _traced(self, *arguments: Any) -> Any:
        self.traces += 1
        return self._function(*arguments)

    def __call__(self, *arguments: Any) -> Any:
        return self._jitted(*arguments)


class Parts:
    """An algorithm's methods, compiled, and a batch to learn from."""

    def __init__(self, name: str, environment: Any) -> None:
        self.algorithm = make(name)
        self.environment = environment
        spec = environment.spec
        self.init = Counted(lambda algorithm, key: algorithm.init(key, spec))
        self.act = Counted(lambda algorithm, *arguments: algorithm.act(*arguments))
        self.update = Counted(lambda algorithm, *arguments: algorithm.update(*arguments))
        self.learner = self.init(self.algorithm, jax.random.key(0))
        self.actor = self.algorithm.actor(self.learner)

        @jax.jit
        def collect(algorithm: Any, learner: Any) -> Any:
            count = algorithm.collects.num_envs
            now = compiled.reset(environment, jax.random.split(jax.random.key(1), count))
            actor = algorithm.behaviour(learner)
            return compiled.collect(algorithm, environment, actor, now, jax.random.key(2))[1]

        if self.algorithm.draws is not None:
            rows = np.random.default_rng(0).integers(512, size=64)
            self.batch = jax.tree.map(jnp.asarray, data_of(environment).at(rows))
        else:
            self.batch = collect(self.algorithm, self.learner)

    def observations(self, count: int, value: float = 0.0) -> Any:
        return jnp.full((count, *self.batch.observation.shape[2:]), value)

    def learn(self, learner: Any, key: int = 0, algorithm: Any = None) -> tuple[Any, Any]:
        algorithm = algorithm or self.algorithm
        return self.update(algorithm, learner, self.batch, jax.random.key(key), jnp.float32(0.5))


@pytest.fixture(scope="module")
def parts() -> Callable:
    made: dict[tuple[str, str], Parts] = {}

    def of(name: str, environment: Any = None) -> Parts:
        environment = environment or suited(name)
        at = (name, environment.spec.id)
        if at not in made:
            made[at] = Parts(name, environment)
        return made[at]

    return of


# ------------------------------------------------------------------------------- the protocol


@every
def test_it_is_an_algorithm(name):
    algorithm = make(name)
    assert isinstance(algorithm, Algorithm)
    check_protocol(algorithm)
    assert algorithm.name == name
    assert hash(algorithm) == hash(make(name))
    floats = {type(leaf) for leaf in jax.tree.leaves(algorithm)}
    assert floats == {float}


@everywhere
@pytest.mark.long
def test_update_keeps_the_learners_structure_and_gives_finite_numbers(name, environment, parts):
    it = parts(name, environment)
    learned, metrics = it.learn(it.learner)
    kinds = [jax.tree.map(jax.typeof, learner) for learner in (it.learner, learned)]
    assert kinds[0] == kinds[1]
    assert metrics
    for metric, value in metrics.items():
        assert value.shape == (), metric
        assert np.isfinite(value), metric
    assert not same(learned.params, it.learner.params)


# ------------------------------------------------------------------------------------- acting

# What a learner calls the parts that only learning needs.
LEARNING = ("value", "critic", "target", "optimizer", "buffer", "returns", "temperature")


def paths(tree: Any) -> list[str]:
    return [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


@everywhere
def test_an_actor_holds_no_critic_optimiser_or_buffer(name, environment):
    algorithm = make(name, normalize_observation=True, normalize_reward=True)
    learner = algorithm.init(jax.random.key(0), environment.spec)
    actor = algorithm.actor(learner)
    assert any(part in path for path in paths(learner) for part in LEARNING)
    assert not [path for path in paths(actor) if any(part in path for part in LEARNING)]
    assert 0 < len(paths(actor)) < len(paths(learner))


@every
@pytest.mark.long
def test_an_actor_acts_the_same_before_and_after_a_save(name, tmp_path, monkeypatch):
    algorithm = make(name, normalize_observation=True)
    out, environment = tmp_path / "run", suited(name)
    options = {"total_steps": 128, "seeds": 2, "evaluation_episodes": 0, "quiet": True}
    data = data_of(environment) if algorithm.draws else None
    run = ac.train(algorithm, environment, out=out, data=data, **options)
    read = []

    def load(folder: Any, like: Any, *rest: Any, **options: Any) -> Any:
        read.append(paths(like))
        return checkpoints_load(folder, like, *rest, **options)

    checkpoints_load = checkpoints.load
    monkeypatch.setattr(checkpoints, "load", load)
    opened = ac.open_run(out)
    assert same(opened.actors, run.actors)
    assert len(read[-1]) < len(paths(run.learners))  # and nothing else was looked at

    learners = [jax.tree.map(lambda x, s=s: x[s], run.learners) for s in (0, 1)]
    space = environment.spec.observation_space
    observation = np.stack([space.sample() for _ in range(16)])
    for s, learner in enumerate(learners):
        of_opened = jax.tree.map(lambda x, s=s: x[s], opened.actors)
        for explore in (True, False):
            decisions = [
                algorithm.act(actor, observation, jax.random.key(1), explore=explore)
                for actor in (algorithm.actor(learner), of_opened)
            ]
            assert same(*decisions)
        policy = ac.load(out, seed=s)
        # Compiled as a whole, the last bit may be rounded otherwise.
        expected = executable(environment, decisions[0])
        np.testing.assert_allclose(policy(observation), expected, rtol=1e-6, atol=1e-6)


def executable(environment: Any, decision: Any) -> np.ndarray:
    return np.asarray(spaces.executable(environment.spec.action_space, decision.action))


# ------------------------------------------------------------------------------------- keys


@every
def test_the_same_key_repeats_bit_for_bit_and_different_keys_differ(name, parts):
    it = parts(name)
    assert same(it.init(it.algorithm, jax.random.key(0)), it.learner)
    assert not same(it.init(it.algorithm, jax.random.key(1)).params, it.learner.params)

    observation = it.observations(64)
    actions = [it.act(it.algorithm, it.actor, observation, jax.random.key(k)) for k in (0, 0, 1)]
    assert same(actions[0], actions[1])
    assert not same(actions[0], actions[2])
    assert same(it.learn(it.learner), it.learn(it.learner))


@everywhere
def test_the_most_likely_action_needs_no_luck(name, environment, parts):
    it = parts(name, environment)
    observation = it.observations(5, 1.0)
    actions = [
        it.algorithm.act(it.actor, observation, jax.random.key(k), explore=False).action
        for k in (0, 1)
    ]
    assert same(actions[0], actions[1])


@every
def test_no_key_is_used_twice(name, parts):
    it = parts(name)
    with jax.debug_key_reuse(True):
        it.init(it.algorithm, jax.random.key(0))
        it.act(it.algorithm, it.actor, it.batch.observation[0], jax.random.key(1))
        it.learn(it.learner, key=2)


# ------------------------------------------------------------------------------ one program


@everywhere
def test_later_updates_and_other_hyperparameters_need_no_recompilation(name, environment, parts):
    it = parts(name, environment)
    learner, _ = it.learn(it.learner)
    actor = it.algorithm.actor(learner)
    it.act(it.algorithm, actor, it.batch.observation[0], jax.random.key(0))
    traces = it.update.traces, it.act.traces

    again, _ = it.learn(learner)
    changed = jax.tree.map(lambda x: 0.5 * x, it.algorithm)
    other, _ = it.learn(learner, algorithm=changed)
    it.act(changed, changed.actor(again), it.batch.observation[-1], jax.random.key(1))
    assert (it.update.traces, it.act.traces) == traces
    assert not same(again.params, other.params)


@every
@pytest.mark.long
def test_it_runs_under_vmap_over_keys_and_learning_rates(name, parts):
    it = parts(name)

    def train(key, rate):
        algorithm = replace(it.algorithm, learning_rate=rate)
        init_key, key = jax.random.split(key)
        learner = algorithm.init(init_key, it.environment.spec)
        return algorithm.update(learner, it.batch, key, jnp.float32(0))[0].params

    keys = jax.random.split(jax.random.key(7), 2)
    rates = jnp.asarray([1e-3, 1e-2])
    grid = jax.jit(jax.vmap(jax.vmap(train, (None, 0)), (0, None)))(keys, rates)
    for at in np.ndindex(2, 2):
        init_key, key = jax.random.split(keys[at[0]])
        algorithm = replace(it.algorithm, learning_rate=float(rates[at[1]]))
        learner = it.init(algorithm, init_key)
        alone, _ = it.update(algorithm, learner, it.batch, key, jnp.float32(0))
        jax.tree.map(
            lambda a, b, at=at: np.testing.assert_allclose(a[at], b, rtol=1e-3, atol=1e-5),
            grid,
            alone.params,
        )
    moved = [jax.tree.map(lambda x, at=at: x[at], grid) for at in ((0, 0), (0, 1), (1, 0))]
    assert not same(moved[0], moved[1])
    assert not same(moved[0], moved[2])


# ------------------------------------------------------------------------------ ends of episodes


@every
def test_a_time_limit_is_not_a_terminal_state(name, parts):
    if name in REWARDLESS:
        pytest.skip("it looks at no reward, and so at no end")
    it = parts(name)
    ends = it.batch.terminated | it.batch.truncated
    ends = ends.at[-1].set(True)
    learned = [
        it.update(
            it.algorithm,
            it.learner,
            it.batch._replace(terminated=ends & flag, truncated=ends & ~jnp.asarray(flag)),
            jax.random.key(0),
            jnp.float32(0),
        )[0].params
        for flag in (True, False)
    ]
    assert not same(*learned)


# ------------------------------------------------------------------------------------- probes


@dataclass(frozen=True)
class MatchBoth:
    """One step; action [2 choices, 3 choices]. The first must match the sign of the observation,
    the second must be 2: half a point each. v* = 1."""

    @cached_property
    def spec(self) -> EnvSpec:
        return EnvSpec(
            "MatchBoth",
            gymnasium.spaces.Box(-1.0, 1.0, (1,)),
            gymnasium.spaces.MultiDiscrete([2, 3], start=[0, 4]),
        )

    def reset(self, key):
        sign = jax.random.rademacher(key, (1,)).astype(float)
        return sign, sign

    def step(self, key, state, action):
        asked = jnp.asarray([(state[0] > 0).astype(action.dtype), 6])
        reward = jnp.mean((action == asked).astype(float))
        return state, Step(state, reward, jnp.asarray(True), jnp.asarray(False))


@dataclass(frozen=True)
class Idle:
    """A probe whose rewards do not depend on the action, with an action in [-1, 1]."""

    probe: Any

    @cached_property
    def spec(self) -> EnvSpec:
        return replace(self.probe.spec, action_space=gymnasium.spaces.Box(-1.0, 1.0, (1,)))

    def reset(self, key):
        return self.probe.reset(key)

    def step(self, key, state, action):
        return self.probe.step(key, state, jnp.zeros((), jnp.int32))


GAMMA = 0.8
FINITE = ([0.0, 1 / 3, 2 / 3], [2.44, 1.8, 1.0], None)
ENDLESS = ([0.0], [5.0], None)
# The probe, observations of it, their exact values, and the best actions there.
PROBES: dict[str, tuple[Any, list, list | None, list | None]] = {
    "finite": (probes.FiniteReward(3), *FINITE),
    "finite, continuous": (Idle(probes.FiniteReward(3)), *FINITE),
    "endless": (probes.EndlessReward(3), *ENDLESS),
    "endless, continuous": (Idle(probes.EndlessReward(3)), *ENDLESS),
    "match": (probes.MatchObservation(), [-1.0, 1.0], [1.0, 1.0], [0, 1]),
    "both": (MatchBoth(), [-1.0, 1.0], [1.0, 1.0], [[0, 2], [1, 2]]),
    "target": (probes.ContinuousTarget(0.5), [0.0], None, [[0.5]]),
}
TRIED = [
    (name, probe)
    for name in ALGORITHMS
    for probe in PROBES
    if suits(name, PROBES[probe][0]) and name not in REWARDLESS
]


@pytest.mark.parametrize(("name", "probe"), TRIED)
@pytest.mark.long
def test_probes_are_learned(name, probe):
    """Exact values and best actions, to 0.05. (Ten seeds each were off by less than 0.045.)"""
    environment, observations, values, actions = PROBES[probe]
    options = {
        "num_steps": 6,
        "gamma": GAMMA,
        "learning_rate": 1e-2,
        "critic_learning_rate": 1e-2,
        "learning_rate_schedule": "linear",
        # Where a policy is paid for its entropy, as good as nothing.
        "learn_temperature": False,
        "initial_temperature": 1e-3,
        "tau": 0.05,
        "gradient_steps": 2,
        # From random data: near the best action of those recorded, none valued below its worth.
        "expectile": 0.99,
        "inverse_temperature": 20.0,
        "conservative_weight": 0.0,
        "policy_learning_rate": None,
    }
    if probe == "target":
        # As σ shrinks, large steps along normalised advantages overshoot; and while it is large,
        # clipping at the bounds draws the mean towards them.
        options |= {"learning_rate": 3e-3, "normalize_advantage": False, "initial_log_std": -1.0}
        options |= {"initial_temperature": 0.1}  # without entropy, a policy may settle anywhere
    algorithm = make(name, **options)
    steps = 24_000 if probe == "target" else 12_000
    if algorithm.draws is not None:
        steps = 8_000 if probe == "target" else 3_000  # as many gradient steps as SAC makes
    session = session_of(algorithm, environment, [0], steps)
    while not session.finished:
        session.advance(5.0)
    learner = jax.tree.map(lambda x: x[0], session.state.learner)
    x = jnp.asarray(observations)[:, None]
    best, _ = algorithm.act(algorithm.actor(learner), x, jax.random.key(0), explore=False)
    if values is not None:  # V(s), or Q(s, a) of the best action
        learned = algorithm.value(learner, x, best)
        np.testing.assert_allclose(learned, values, atol=0.05)
    if actions is not None:
        np.testing.assert_allclose(best, actions, atol=0.05)


# ------------------------------------------------------------------------------------- resuming


@every
@pytest.mark.long
def test_resuming_equals_never_having_stopped(name):
    algorithm = make(name, normalize_observation=True, normalize_reward=True)
    steps = 12 * 32

    def session() -> Any:
        return session_of(algorithm, suited(name), [3, 4], steps)

    straight = session()
    straight.advance(0.0)
    saved = straight.state
    stored = plain(saved)  # what a checkpoint would hold
    while not straight.finished:
        straight.advance(5.0)
    second = session()
    second.state = jax.tree.map(
        lambda x, y: (
            jax.random.wrap_key_data(jnp.asarray(y))
            if jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
            else jnp.asarray(y)
        ),
        second.state,
        stored,
    )
    assert 0 < second.steps.max() < steps
    while not second.finished:
        second.advance(0.01)
    assert same(second.state, straight.state)
    assert not same(
        *(jax.tree.map(lambda x, s=s: x[s], second.state.learner.params) for s in (0, 1))
    )
