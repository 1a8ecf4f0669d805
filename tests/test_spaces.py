"""Encodings against gymnasium's own `flatten`, and actions against the space they must be in."""

import json
import re

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces as gym
from hypothesis import example, given, settings
from hypothesis import strategies as st

from actorcritic.core.errors import UserError
from actorcritic.core.types import EnvSpec
from actorcritic.maths import spaces
from actorcritic.maths.networks import MLP, ActorCritic

SHAPES = st.sampled_from([(), (1,), (3,), (2, 2)])
SIMPLE = st.one_of(
    st.builds(lambda shape: gym.Box(-2.0, 5.0, shape), SHAPES),
    st.builds(lambda shape: gym.Box(0, 255, shape, np.uint8), SHAPES),
    st.builds(lambda n, start: gym.Discrete(n, start=start), st.integers(1, 4), st.integers(-3, 3)),
    st.builds(gym.MultiDiscrete, st.sampled_from([[2], [3, 2], [[2, 3], [1, 4]]])),
    st.builds(gym.MultiBinary, st.sampled_from([1, 3, (2, 2)])),
)
SPACES = st.recursive(
    SIMPLE,
    lambda parts: st.one_of(
        st.dictionaries(st.sampled_from("zab"), parts, min_size=1, max_size=3).map(
            lambda parts: gym.Dict(list(parts.items()))  # a list, so that keys stay unsorted
        ),
        st.lists(parts, min_size=1, max_size=3).map(gym.Tuple),
    ),
    max_leaves=4,
)


def sampled(space: gymnasium.Space, seed: int, count: int) -> list:
    space.seed(seed)
    return [space.sample() for _ in range(count)]


def stacked(observations: list, *lead: int):
    return jax.tree.map(
        lambda *x: np.stack([np.asarray(y) for y in x]).reshape(*lead, *np.shape(x[0])),
        *observations,
    )


@given(SPACES, st.integers(0, 99))
@settings(max_examples=40)
def test_encode_is_gymnasiums_flatten(space, seed):
    observations = sampled(space, seed, 6)
    expected = np.stack([gym.flatten(space, o) for o in observations]).astype(np.float32)
    expected *= scale(space)
    assert spaces.feature_count(space) == gym.flatdim(space) == expected.shape[1]

    encoded = spaces.encode(space, stacked(observations, 2, 3))
    assert encoded.dtype == jnp.float32
    np.testing.assert_array_equal(encoded, expected.reshape(2, 3, -1))
    np.testing.assert_array_equal(spaces.encode(space, observations[0]), expected[0])


def scale(space: gymnasium.Space) -> np.ndarray:
    """What each number of a flattened observation is multiplied by: 1/255 for bytes."""
    if isinstance(space, gym.Dict | gym.Tuple):
        parts = space.spaces.values() if isinstance(space, gym.Dict) else space.spaces
        return np.concatenate([scale(part) for part in parts])
    factor = 1 / 255 if space.dtype == np.uint8 else 1.0
    return np.full(gym.flatdim(space), factor, np.float32)


@pytest.mark.parametrize(("high", "expected"), [(255, 0.2), (51, 1.0)])
def test_bytes_are_scaled_by_their_largest_bound(high, expected):
    space = gym.Box(0, high, (2,), np.uint8)
    np.testing.assert_allclose(spaces.encode(space, [51, 0]), [expected, 0.0])
    mixed = gym.Box(np.array([0, 0], np.uint8), np.array([1, high], np.uint8), dtype=np.uint8)
    np.testing.assert_allclose(spaces.encode(mixed, [0, 51]), [0.0, expected])


def test_a_board_of_zeros_and_ones_stays_one():
    np.testing.assert_array_equal(spaces.encode(gym.Box(0, 1, (2,), np.uint8), [1, 0]), [1, 0])
    np.testing.assert_array_equal(spaces.encode(gym.Box(0, 0, (2,), np.uint8), [0, 0]), [0, 0])


LARGE = 2**32


@pytest.mark.parametrize(
    ("low", "high", "dtype", "kept"),
    [
        (-LARGE, LARGE, np.int64, np.float32),
        (-LARGE, 0, np.int64, np.float32),
        (0, LARGE, np.uint64, np.float32),
        (0, 2**32 - 1, np.uint32, np.float32),
        (0, 2**31 - 1, np.int64, np.int32),
        (-(2**31), 0, np.int64, np.int32),
        (-np.inf, np.inf, np.float64, np.float32),
        (0, 255, np.uint8, np.uint8),
    ],
)
def test_integers_beyond_32_bits_are_kept_as_floats(low, high, dtype, kept):
    space = gym.Box(low, high, (2,), dtype)
    assert spaces.kept_dtype(space) == kept
    for batch in ([0, high], [[low, high]]):
        x = np.asarray(batch, dtype)
        held = spaces.as_kept(space, x)
        assert jnp.asarray(held).dtype == kept
        np.testing.assert_array_equal(jnp.asarray(held), x.astype(kept))
        expected = x.astype(np.float32) / (255 if dtype == np.uint8 else 1)
        np.testing.assert_allclose(spaces.encode(space, x), expected)


def test_whole_numbers_for_a_box_of_floats_do_not_wrap():
    encoded = spaces.encode(gym.Box(0.0, 1e12, (2,)), [LARGE, 1])
    np.testing.assert_array_equal(encoded, [LARGE, 1])


def test_multidiscrete_observations_count_from_their_start():
    space = gym.MultiDiscrete([2, 3], start=[5, -1])
    encoded = spaces.encode(space, jnp.asarray([[5, -1], [6, 1]]))
    np.testing.assert_array_equal(encoded, [[1, 0, 1, 0, 0], [0, 1, 0, 0, 1]])


def test_only_box_features_are_numeric():
    space = gym.Dict(
        b=gym.Tuple([gym.Discrete(2), gym.Box(0.0, 1.0, (2,))]),
        a=gym.MultiBinary(1),
        c=gym.Dict(z=gym.Box(0.0, 1.0, ()), y=gym.MultiDiscrete([2])),
    )  # keyword arguments keep their order
    expected = [False, False, True, True, False, True, False, False]
    np.testing.assert_array_equal(spaces.is_numeric(space), expected)


@given(SPACES)
@example(gym.MultiBinary(1))
@example(gym.MultiBinary([2, 1]))
@example(gym.Dict([("z", gym.Discrete(2)), ("a", gym.Box(0.0, np.inf, (1,)))]))
def test_a_space_survives_being_saved(space):
    loaded = spaces.from_json(json.loads(json.dumps(spaces.to_json(space))))
    assert loaded == space
    (observation,) = sampled(space, 0, 1)
    np.testing.assert_array_equal(  # the order of a Dict's parts is part of what a policy learned
        spaces.encode(loaded, observation), spaces.encode(space, observation)
    )


# ------------------------------------------------------------------------------------- actions

ACTIONS = [  # and how many different ones there are
    (gym.Discrete(3), 3),
    (gym.Discrete(3, start=-2), 3),
    (gym.MultiDiscrete([2, 3]), 6),
    (gym.MultiDiscrete([[2, 3], [1, 2]], start=[[0, 1], [2, -3]]), 12),
    (gym.MultiBinary(3), 8),
    (gym.MultiBinary((2, 1)), 4),
    (gym.Box(-0.5, 1.0, (2,)), None),
    (gym.Box(np.asarray([[-1.0], [0.0]], "f4"), np.asarray([[0.1], [9.0]], "f4")), None),
    (gym.Box(-1.0, 1.0, ()), None),
]


@pytest.mark.parametrize(("space", "count"), ACTIONS, ids=str)
@pytest.mark.long
def test_drawn_actions_become_ones_the_environment_accepts(space, count):
    model = ActorCritic(EnvSpec("test", gym.Box(-1.0, 1.0, (2,)), space), MLP((4,)))
    params = model.init(jax.random.key(0))
    action = model.policy(params, jnp.zeros((200, 2))).sample(jax.random.key(1))
    taken = np.asarray(spaces.executable(space, action))
    assert taken.shape == (200, *space.shape)
    assert all(space.contains(np.asarray(a, space.dtype)) for a in taken)
    if count is not None:
        assert len(np.unique(taken, axis=0)) == count


def test_executable_by_hand():
    box = gym.Box(np.asarray([-1.0, 0.0], np.float32), np.asarray([1.0, 0.5], np.float32))
    action = spaces.executable(box, jnp.asarray([[0.3, 0.3], [-7.0, 7.0], [2.0, -2.0]]))
    np.testing.assert_allclose(action, [[0.3, 0.3], [-1.0, 0.5], [1.0, 0.0]])
    action = spaces.executable(gym.Discrete(3, start=-2), jnp.asarray([0, 2]))
    np.testing.assert_array_equal(action, [-2, 0])
    space = gym.MultiDiscrete([[2, 3], [1, 4]], start=[[0, 1], [2, -3]])
    action = spaces.executable(space, jnp.asarray([[1, 2, 0, 3]]))
    np.testing.assert_array_equal(action, [[[1, 3], [2, 0]]])


# --------------------------------------------------------------------------------------- check


@pytest.mark.parametrize("space", [space for space, _ in ACTIONS], ids=str)
def test_supported_spaces_pass(space):
    spaces.check(EnvSpec("test", gym.Dict(a=gym.Discrete(2), b=gym.Box(0, 1, (2,))), space))


@pytest.mark.parametrize(
    ("observations", "actions", "message"),
    [
        (
            gym.Discrete(2),
            gym.Tuple([gym.Discrete(2)]),
            r"odd has the action space Tuple.*expected",
        ),
        (gym.Discrete(2), gym.Box(-np.inf, np.inf, (1,)), "unbounded actions.*TransformAction"),
        (gym.Discrete(2), gym.Box(0.0, np.inf, (1,)), "unbounded actions"),
        (gym.Discrete(2), gym.Box(1.0, 1.0, (1,)), "low >= high"),
        (gym.Text(5), gym.Discrete(2), r"space Text.*not supported"),
        (gym.Dict(a=gym.Tuple([gym.Text(5)])), gym.Discrete(2), r"space Text.*not supported"),
    ],
)
def test_other_spaces_are_refused_by_name(observations, actions, message):
    with pytest.raises(UserError, match=message):
        spaces.check(EnvSpec("odd", observations, actions))


@pytest.mark.parametrize("low", [-np.inf, 0.0])
def test_what_is_advised_for_unbounded_actions_works(low):
    class Endless(gymnasium.Env):
        observation_space = gym.Discrete(2)
        action_space = gym.Box(low, np.inf, (2, 1))

        def step(self, action):
            return 0, float(action.sum()), False, False, {}

    def spec_of(env):
        return EnvSpec("endless", env.observation_space, env.action_space)

    with pytest.raises(UserError) as error:
        spaces.check(spec_of(Endless()))
    (advice,) = re.findall(r"gymnasium\.wrappers\..*\)\)", str(error.value))
    wrapped = eval(advice, {"gymnasium": gymnasium, "env": Endless()})
    spaces.check(spec_of(wrapped))
    assert wrapped.action_space == gym.Box(-10, 10, (2, 1))
    action = np.asarray(spaces.executable(wrapped.action_space, jnp.asarray([3.0, 70.0])))
    assert wrapped.step(action)[1] == 13.0
