"""The gymnax adapter. Needs the extra: pip install "actorcritic[gymnax]"."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

gymnax = pytest.importorskip("gymnax")
pytestmark = pytest.mark.extras

from actorcritic.core.errors import UserError  # noqa: E402
from actorcritic.core.types import Environment  # noqa: E402
from actorcritic.envs import AsGymnasium, compiled_environment, from_gymnax  # noqa: E402
from actorcritic.envs.gymnax import to_gymnasium  # noqa: E402

BREAKOUT = "Breakout-MinAtar"


@pytest.fixture(autouse=True)
def _strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


def test_spec():
    spec = from_gymnax(BREAKOUT).spec
    assert spec.id == "gymnax:Breakout-MinAtar"
    assert spec.observation_space == gymnasium.spaces.Box(0, 1, (10, 10, 4), np.float32)
    assert spec.action_space == gymnasium.spaces.Discrete(3)
    assert spec.max_episode_steps == 1000


def test_equal_parameters_make_equal_environments():
    environment = from_gymnax(BREAKOUT, max_steps_in_episode=7)
    assert isinstance(environment, Environment)
    assert environment == compiled_environment(f"gymnax:{BREAKOUT}", max_steps_in_episode=7)
    assert hash(environment) == hash(from_gymnax(BREAKOUT, max_steps_in_episode=7))
    assert environment != from_gymnax(BREAKOUT)
    assert environment.spec.max_episode_steps == 7


def test_an_environment_of_gymnax_itself():
    from gymnax.environments.minatar.breakout import MinBreakout

    environment = from_gymnax(MinBreakout(use_minimal_action_set=False))
    assert environment.spec.id == f"gymnax:{BREAKOUT}"
    assert environment.spec.action_space == gymnasium.spaces.Discrete(6)


def rollout(environment, length, batch):
    """Steps [T, B] without any reset, the paddle left where it is."""

    @jax.jit
    def run(keys):
        state, first = jax.vmap(environment.reset)(keys)
        action = jnp.zeros(batch, jnp.int32)
        _, steps = jax.lax.scan(
            lambda state, _: jax.vmap(environment.step)(keys, state, action),
            state,
            length=length,
        )
        return first, steps

    return run(jax.random.split(jax.random.key(0), batch))


def test_it_steps_without_resetting():
    environment = from_gymnax(BREAKOUT)
    first, steps = rollout(environment, length=12, batch=4)
    assert first.shape == (4, 10, 10, 4)
    assert steps.observation.shape == (12, 4, 10, 10, 4)
    assert steps.observation.dtype == first.dtype == steps.reward.dtype == np.float32
    for observation in np.asarray(steps.observation).reshape(-1, 10, 10, 4):
        assert environment.spec.observation_space.contains(observation)
    # The same as gymnax's own steps, up to the end and at it.
    key = jax.random.split(jax.random.key(0), 4)[1]
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        env, params = gymnax.make(BREAKOUT)
        observation, state = env.reset(key, params)
        assert np.array_equal(observation, first[1])
        for t in range(12):
            _, state, reward, terminated, _, info = env.step(key, state, 0, params)
            assert np.array_equal(info["final_observation"], steps.observation[t, 1])
            assert reward == steps.reward[t, 1]
            assert terminated == steps.terminated[t, 1]
            if terminated:
                break
        assert terminated  # a paddle that stands still misses the ball


def test_the_time_limit_truncates_and_a_lost_ball_terminates():
    _, steps = rollout(from_gymnax(BREAKOUT), length=12, batch=4)
    lost = int(np.argmax(steps.terminated[:, 1])) + 1  # the length of the whole episode
    assert 2 < lost < 12
    assert not steps.truncated.any()

    limited = from_gymnax(BREAKOUT, max_steps_in_episode=lost - 1)
    _, steps = rollout(limited, length=lost, batch=4)
    assert np.array_equal(steps.truncated[:, 1], [False] * (lost - 2) + [True] * 2)
    assert np.array_equal(steps.terminated[:, 1], [False] * (lost - 1) + [True])

    env = AsGymnasium(from_gymnax(BREAKOUT, max_steps_in_episode=4))  # no ball falls that fast
    env.reset(seed=0)
    for t in range(1, 5):
        *_, terminated, truncated, _ = env.step(0)
        assert (terminated, truncated) == (False, t == 4)


@pytest.mark.parametrize(
    "name", ["CartPole-v1", "Pendulum-v1", "FourRooms-misc", "Catch-bsuite", "FrozenLake-misc"]
)
def test_other_families(name):
    """Among them some whose observations or rewards have other dtypes than their spaces say."""
    environment = from_gymnax(name)
    space, action = environment.spec.observation_space, environment.spec.action_space.sample()
    step = jax.jit(environment.step)
    state, observation = jax.jit(environment.reset)(jax.random.key(0))
    typed = jnp.asarray(action, jnp.float32 if np.ndim(action) else jnp.int32)
    for _ in range(3):
        before = jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), state)
        state, after = step(jax.random.key(1), state, typed)
        assert jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), state) == before
        for seen in (observation, after.observation):
            assert seen.shape == space.shape
            assert np.can_cast(seen.dtype, space.dtype)
        assert after.reward.dtype == np.float32
        assert after.terminated.dtype == after.truncated.dtype == bool


def test_spaces():
    from gymnax.environments import spaces

    largest = np.finfo(np.float32).max
    box = to_gymnasium(spaces.Box(jnp.array([-largest, -1.0]), jnp.array([largest, 1.0]), (2,)))
    assert box == gymnasium.spaces.Box(np.float32([-np.inf, -1]), np.float32([np.inf, 1]))
    both = to_gymnasium(spaces.Dict({"a": spaces.Discrete(3), "b": spaces.Box(0, 1, (2,))}))
    expected = {"a": gymnasium.spaces.Discrete(3), "b": gymnasium.spaces.Box(0, 1, (2,))}
    assert both == gymnasium.spaces.Dict(expected)
    pair = to_gymnasium(spaces.Tuple([spaces.Discrete(3)]))
    assert pair == gymnasium.spaces.Tuple([gymnasium.spaces.Discrete(3)])


def test_mistakes():
    with pytest.raises(UserError, match="Did you mean 'Breakout-MinAtar'"):
        from_gymnax("Breakout-MinAtari")
    with pytest.raises(UserError, match="Did you mean 'max_steps_in_episode'"):
        from_gymnax(BREAKOUT, max_steps=3)
    with pytest.raises(UserError, match=r"gymnax 1\.0 or newer"):
        from_gymnax(object())
