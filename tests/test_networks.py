"""Networks: initialisation, heads, sharing, and a user's own (init, apply) pair."""

import re
import subprocess
import sys
from dataclasses import replace
from functools import partial

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from actorcritic.core.errors import UserError
from actorcritic.core.types import EnvSpec
from actorcritic.maths.distributions import Categorical, Gaussian, MultiCategorical
from actorcritic.maths.networks import (
    CNN,
    MLP,
    ActorCritic,
    Convolution,
    Dense,
    Network,
    default_network,
    initial_weight,
    orthogonal,
)

BOX = gymnasium.spaces.Box(-1.0, 1.0, (3,))
DISCRETE = gymnasium.spaces.Discrete(4)


def model(actions=DISCRETE, **options) -> ActorCritic:
    options = {"network": MLP((8,))} | options
    return ActorCritic(EnvSpec("test", BOX, actions), **options)


@partial(jax.jit, static_argnums=0)
def initialised(network: ActorCritic) -> dict:
    return network.init(jax.random.key(0))


def observations(n: int = 5) -> jax.Array:
    return jax.random.normal(jax.random.key(9), (n, 3))


# -------------------------------------------------------------------------------- orthogonal


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 7), (6, 2), (64, 64), (3, 40)])
def test_orthogonal_has_orthonormal_rows_or_columns(rows, columns):
    q = np.asarray(orthogonal(jax.random.key(1), rows, columns, 1.5), np.float64) / 1.5
    gram = q.T @ q if rows >= columns else q @ q.T
    np.testing.assert_allclose(gram, np.eye(min(rows, columns)), atol=1e-5)


def test_orthogonal_is_uniform_over_orthogonal_matrices():
    """For the uniform (Haar) measure on 3 × 3 matrices, every entry is uniform on [-1, 1]
    (Archimedes), and determinants +1 and -1 are equally likely."""
    keys = jax.random.split(jax.random.key(0), 1000)
    q = np.asarray(jax.jit(jax.vmap(lambda k: orthogonal(k, 3, 3, 1.0)))(keys))
    for i in range(3):
        for j in range(3):
            entry = stats.kstest(q[:, i, j], stats.uniform(-1, 2).cdf)
            assert entry.pvalue > 0.001, (i, j)
    positive = int((np.linalg.det(q) > 0).sum())
    assert stats.binomtest(positive, 1000).pvalue > 0.001


def test_initialisation_compiles_without_lapack():
    """Batched LAPACK calls can hang XLA's CPU thread pool on two cores."""
    keys = jax.random.split(jax.random.key(0), 4)

    def lapack_calls(function) -> list[str]:
        program = jax.jit(jax.vmap(function)).lower(keys).compile().as_text()
        called = re.findall(r'custom_call_target="([^"]*)"', program)
        return [name for name in called if "lapack" in name.lower()]

    assert lapack_calls(lambda key: jnp.linalg.qr(jax.random.normal(key, (3, 3))))  # can be seen
    assert not lapack_calls(model().init)


def test_many_initialisations_on_two_devices_do_not_hang():
    script = """
import jax, jax.numpy as jnp
jax.config.update("jax_num_cpu_devices", 2)
from jax.sharding import NamedSharding, PartitionSpec as P
from actorcritic.maths.networks import MLP
mesh = jax.make_mesh((2,), ("seeds",), axis_types=(jax.sharding.AxisType.Auto,))
keys = jax.device_put(jax.random.split(jax.random.key(0), 32), NamedSharding(mesh, P("seeds")))
init = jax.jit(jax.vmap(lambda key: MLP((64, 64)).init(key, jnp.zeros((1, 4)))))
jax.block_until_ready([init(keys) for _ in range(5)])
print("done")
"""
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.stdout.strip() == "done", ran.stderr


# -------------------------------------------------------------------------------- layers


def test_mlp_by_hand():
    network = MLP((2,), "relu")
    layer = Dense(jnp.asarray([[1.0, -1.0], [2.0, 0.5]]), jnp.asarray([0.5, 0.25]))
    y = network.apply([layer], jnp.asarray([[1.0, 1.0], [0.0, -1.0]]))
    np.testing.assert_allclose(y, [[3.5, 0.0], [0.0, 0.0]])


def test_mlp_initialisation_has_gain_root_2_and_no_bias():
    layers = MLP((16, 8)).init(jax.random.key(0), jnp.zeros((1, 3)))
    assert [layer.weight.shape for layer in layers] == [(3, 16), (16, 8)]
    for layer in layers:
        singular = np.linalg.svd(np.asarray(layer.weight), compute_uv=False)
        np.testing.assert_allclose(singular, np.sqrt(2), rtol=1e-5)
        assert not np.asarray(layer.bias).any()


@pytest.mark.parametrize(
    ("initialization", "variance"),
    # Of a convolution, 3 · 3 numbers of each of the 20 inputs and 50 outputs are connected.
    [("lecun", 1 / 180), ("he", 2 / 180), ("glorot", 2 / (180 + 450)), ("zeros", 0.0)],
)
def test_initialisations_have_their_variance(initialization, variance):
    kernel = initial_weight(jax.random.key(0), (3, 3, 20, 50), 9.0, initialization)
    assert kernel.shape == (3, 3, 20, 50)
    assert abs(np.mean(kernel)) < 4 * np.sqrt(variance / kernel.size) + 1e-9
    np.testing.assert_allclose(np.var(kernel), variance, rtol=0.05)

    factor = {"lecun": 1 / 100, "he": 2 / 100, "glorot": 2 / 400, "zeros": 0.0}[initialization]
    (layer,) = MLP((300,), "relu", initialization).init(jax.random.key(1), jnp.zeros((1, 100)))
    np.testing.assert_allclose(np.var(layer.weight), factor, rtol=0.05)
    assert not np.asarray(layer.bias).any()


@pytest.mark.parametrize("network", [MLP((8, 8)), CNN((4, 4, 3), (8,), channels=(2, 2))])
def test_the_initialisation_is_that_of_every_layer(network):
    network = replace(network, initialization="zeros")
    params = network.init(jax.random.key(0), jnp.zeros((1, 48)))
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(params))


def test_an_orthogonal_kernel_is_orthogonal_over_its_receptive_field():
    kernel = np.asarray(initial_weight(jax.random.key(0), (3, 3, 4, 16), 1.5, "orthogonal"))
    np.testing.assert_allclose(
        np.einsum("ijcm,ijcn->mn", kernel, kernel), 1.5**2 * np.eye(16), atol=1e-5
    )


def test_without_hidden_layers_policy_and_value_are_linear():
    network = model(network=MLP(()))
    params = initialised(network)
    assert params["policy_trunk"] == params["value_trunk"] == []
    x, head = observations(), params["policy_head"]
    logits = np.asarray(x, np.float64) @ np.asarray(head.weight, np.float64)
    expected = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    log_prob = network.policy(params, x).log_prob(jnp.zeros(5, jnp.int32))
    np.testing.assert_allclose(log_prob, expected[:, 0], rtol=1e-5)
    np.testing.assert_allclose(
        network.value(params, x), (x @ params["value_head"].weight)[:, 0], rtol=1e-5
    )


# -------------------------------------------------------------------------------- images


def images(*shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(5), shape)


@pytest.mark.parametrize(("height", "width"), [(4, 6), (5, 3), (1, 2)])
def test_a_convolution_is_a_sum_over_3_by_3_neighbourhoods(height, width):
    kernel, bias = images(3, 3, 2, 4), jnp.arange(4.0)
    x = images(1, height, width, 2)
    y = np.asarray(Convolution(kernel, bias)(x))[0]
    assert y.shape == (-(-height // 2), -(-width // 2), 4)
    # An odd side is padded by a zero at both ends, an even one only at its far end.
    padded = np.zeros((height + 3, width + 3, 2))
    top, left = height % 2, width % 2
    padded[top : top + height, left : left + width] = x[0]
    for i, j in np.ndindex(y.shape[:2]):
        window = padded[2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
        expected = np.einsum("ijc,ijcm->m", window, kernel) + bias
        np.testing.assert_allclose(y[i, j], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("height", "width", "channels", "features"),
    [(4, 6, 1, 1), (5, 3, 2, 4), (1, 2, 3, 2), (10, 10, 4, 16), (7, 8, 16, 3)],
)
def test_a_convolution_and_its_gradients_are_those_of_jax(height, width, channels, features, dtype):
    def native(x, kernel, bias):
        y = jax.lax.conv_general_dilated(
            x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return y + bias.reshape(1, 1, 1, -1)

    def ours(x, kernel, bias):
        return Convolution(kernel, bias)(x)

    def outputs(function, arguments):
        y, pull = jax.vjp(function, *arguments)
        return y, *pull(jnp.cos(y))

    rng = np.random.default_rng(0)
    shapes = [(3, height, width, channels), (3, 3, channels, features), (features,)]
    with jax.enable_x64(dtype == np.float64):
        arguments = [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]
        pairs = zip(outputs(ours, arguments), outputs(native, arguments), strict=True)
        tolerance = 1e-12 if dtype == np.float64 else 1e-4
        for got, expected in pairs:
            assert got.dtype == dtype
            np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


def test_a_convolution_is_a_product_of_matrices():
    """Inside of a loop on a CPU, XLA takes 10 to 30 times as long for a convolution's gradient."""
    network = CNN((10, 10, 4), (5,))
    x = jnp.zeros((2, 400))
    params = jax.eval_shape(network.init, jax.random.key(0), x[:1])
    gradient = jax.grad(lambda params: jnp.sum(network.apply(params, x)))
    assert "conv_general_dilated" not in str(jax.make_jaxpr(gradient)(params))


@pytest.mark.parametrize(
    ("shape", "features"), [((10, 10, 4), 2 * 2 * 32), ((84, 84, 4), 11 * 11 * 32)]
)
def test_cnn_takes_any_leading_axes(shape, features):
    network = CNN(shape, (7,), "relu")
    x = images(6, int(np.prod(shape)))
    params = jax.jit(network.init)(jax.random.key(0), x[:1])
    assert [c.kernel.shape[2:] for c in params["convolutions"]] == [
        (4, 16),
        (16, 32),
        (32, 32),
    ]
    assert params["dense"][0].weight.shape == (features, 7)
    apply = jax.jit(network.apply)
    y = apply(params, x)
    assert y.shape == (6, 7)
    np.testing.assert_allclose(apply(params, x[0]), y[0], rtol=1e-4, atol=1e-5)
    several = apply(params, x.reshape(2, 3, -1))
    np.testing.assert_allclose(several, y.reshape(2, 3, 7), rtol=1e-4, atol=1e-5)

    gradient = jax.jit(jax.grad(lambda p: jnp.sum(network.apply(p, x) ** 2)))(params)
    for leaf in jax.tree.leaves(gradient):
        assert np.isfinite(leaf).all()
        assert np.asarray(leaf).any()


def test_cnn_by_hand():
    network = CNN((4, 6, 2), (), "relu", channels=(3,))
    x = images(2, 48)
    params = network.init(jax.random.key(0), x[:1])
    (convolution,) = params["convolutions"]
    expected = np.maximum(convolution(x.reshape(2, 4, 6, 2)), 0).reshape(2, -1)
    np.testing.assert_allclose(network.apply(params, x), expected, rtol=1e-5)


def test_cnn_moves_channels_last_where_they_are_first():
    last, first = CNN((8, 9, 3), (5,)), CNN((3, 8, 9), (5,))
    x = images(4, 8, 9, 3)
    flat, flat_first = x.reshape(4, -1), jnp.moveaxis(x, -1, 1).reshape(4, -1)
    params = jax.jit(last.init)(jax.random.key(0), flat[:1])
    shapes = jax.eval_shape(first.init, jax.random.key(0), flat_first[:1])
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, params)
    y, apply_first = jax.jit(last.apply)(params, flat), jax.jit(first.apply)
    np.testing.assert_allclose(apply_first(params, flat_first), y, rtol=1e-5, atol=1e-6)
    assert not np.allclose(apply_first(params, flat), y, atol=1e-2)


def test_an_image_beside_other_numbers_is_convolved_alone():
    alone, beside = (
        CNN((5, 6, 2), (3,), channels=(4,)),
        CNN((5, 6, 2), (3,), channels=(4,), start=7),
    )
    x = images(2, 3, 70)  # 7 numbers, an image, and 3 numbers
    params = beside.init(jax.random.key(0), x[0, :1])
    assert params["dense"][0].weight.shape == (7 + 3 * 3 * 4 + 3, 3)
    before, image, after = jnp.split(x, [7, 67], axis=-1)
    (dense,) = params["dense"]
    weights = jnp.split(dense.weight, [7, 43])
    of_image = {**params, "dense": [dense._replace(weight=weights[1])]}
    expected = jnp.arctanh(alone.apply(of_image, image)) + before @ weights[0] + after @ weights[2]
    got = jnp.arctanh(beside.apply(params, x))
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(beside.apply(params, x[0, 0]), jnp.tanh(got[0, 0]), atol=1e-5)


def test_cnn_learns_where_a_dot_is():
    """Which quarter of the picture: a linear map of the features, fitted by gradient descent."""
    rng = np.random.default_rng(0)
    row, column = rng.integers(10, size=(2, 200))
    pictures = np.zeros((200, 10, 10, 1), np.float32)
    pictures[np.arange(200), row, column] = 1.0
    x = jnp.asarray(pictures.reshape(200, -1))
    target = jnp.asarray(np.stack([row >= 5, column >= 5], axis=-1), jnp.float32)
    network = CNN((10, 10, 1), (16,), "relu", channels=(8, 8))
    params = network.init(jax.random.key(0), x[:1]), jnp.zeros((16, 2))

    def loss(params):
        return jnp.mean((network.apply(params[0], x) @ params[1] - target) ** 2)

    @jax.jit
    def descend(params):
        gradient = jax.grad(loss)(params)
        return jax.tree.map(lambda p, g: p - 0.2 * g, params, gradient)

    before = float(loss(params))
    for _ in range(300):
        params = descend(params)
    assert float(loss(params)) < 0.1 * before


@pytest.mark.parametrize("initialization", ["orthogonal", "lecun", "he", "glorot"])
def test_cnn_is_part_of_an_actor_critic(initialization):
    space = gymnasium.spaces.Box(0, 255, (10, 10, 4), np.uint8)
    network = default_network(space, "cnn", (8,), "tanh", initialization)
    actor_critic = ActorCritic(EnvSpec("test", space, DISCRETE), network)
    params = initialised(actor_critic)
    x = 100 + 50 * images(3, 400)
    assert actor_critic.policy(params, x).entropy().shape == (3,)
    assert np.isfinite(actor_critic.value(params, x)).all()


BYTES = gymnasium.spaces.Box(0, 255, (84, 84, 4), np.uint8)
FLOATS = gymnasium.spaces.Box(0.0, 1.0, (10, 10, 4))


@pytest.mark.parametrize(
    ("space", "torso", "expected"),
    [
        (BYTES, "auto", CNN((84, 84, 4), (9,), "relu", "he")),
        (BYTES, "cnn", CNN((84, 84, 4), (9,), "relu", "he")),
        (BYTES, "mlp", MLP((9,), "relu", "he")),
        (FLOATS, "auto", MLP((9,), "relu", "he")),
        (FLOATS, "cnn", CNN((10, 10, 4), (9,), "relu", "he")),
        (gymnasium.spaces.Box(0, 255, (8,), np.uint8), "auto", MLP((9,), "relu", "he")),
        (gymnasium.spaces.Dict({"image": BYTES}), "auto", CNN((84, 84, 4), (9,), "relu", "he")),
        (gymnasium.spaces.Dict({"image": BYTES}), "mlp", MLP((9,), "relu", "he")),
        (
            gymnasium.spaces.Dict({"image": BYTES, "action_mask": gymnasium.spaces.MultiBinary(4)}),
            "auto",
            CNN((84, 84, 4), (9,), "relu", "he"),
        ),
        (
            gymnasium.spaces.Dict({"a": BOX, "b": gymnasium.spaces.Tuple([DISCRETE, BYTES])}),
            "auto",
            CNN((84, 84, 4), (9,), "relu", "he", start=7),
        ),
        (
            gymnasium.spaces.Dict({"a": FLOATS, "b": DISCRETE}),
            "cnn",
            CNN((10, 10, 4), (9,), "relu", "he", start=0),
        ),
        (gymnasium.spaces.Dict({"a": FLOATS, "b": DISCRETE}), "auto", MLP((9,), "relu", "he")),
        (gymnasium.spaces.Tuple([BYTES, BYTES]), "auto", MLP((9,), "relu", "he")),
    ],
)
def test_the_space_decides_the_default_network(space, torso, expected):
    network = default_network(space, torso, (9,), "relu", "he")
    assert network == expected
    assert hash(network) == hash(expected)  # part of a compiled program's key


@pytest.mark.parametrize("space", [BOX, DISCRETE, gymnasium.spaces.Tuple([BYTES, BYTES])])
def test_a_cnn_without_images_names_the_space(space):
    with pytest.raises(UserError, match=re.escape(f"the observation space is {space}")):
        default_network(space, "cnn", (9,), "relu", "he")


# -------------------------------------------------------------------------------- policies


def test_policy_starts_near_uniform_and_value_head_has_gain_1():
    network = model()
    params = initialised(network)
    entropy = network.policy(params, observations()).entropy()
    np.testing.assert_allclose(entropy, np.log(4), rtol=1e-3)
    for head, gain in (("policy_head", 0.01), ("value_head", 1.0)):
        singular = np.linalg.svd(np.asarray(params[head].weight), compute_uv=False)
        np.testing.assert_allclose(singular, gain, rtol=1e-4)


@pytest.mark.parametrize(
    ("actions", "kind", "shape"),
    [
        (DISCRETE, Categorical, ()),
        (gymnasium.spaces.MultiDiscrete([2, 3]), MultiCategorical, (2,)),
        (gymnasium.spaces.MultiDiscrete([[2, 3], [4, 2]]), MultiCategorical, (4,)),
        (gymnasium.spaces.MultiBinary(3), MultiCategorical, (3,)),
        (gymnasium.spaces.Box(-1.0, 1.0, (2,)), Gaussian, (2,)),
        (gymnasium.spaces.Box(-1.0, 1.0, (2, 2)), Gaussian, (4,)),
    ],
)
def test_action_space_decides_the_distribution(actions, kind, shape):
    network = model(actions)
    params = initialised(network)

    def outputs(params, x):
        policy = network.policy(params, x)
        assert isinstance(policy, kind)
        action = policy.sample(jax.random.key(1))
        return action, policy.log_prob(action), policy.entropy(), network.value(params, x)

    shapes = [x.shape for x in jax.eval_shape(outputs, params, observations(5))]
    assert shapes == [(5, *shape), (5,), (5,), (5,)]


def test_log_std_is_a_parameter_or_comes_from_the_state():
    box = gymnasium.spaces.Box(-1.0, 1.0, (2,))
    network = model(box, initial_log_std=-0.5)
    params = initialised(network)
    policy = network.policy(params, observations())
    np.testing.assert_allclose(policy.log_std, np.full((5, 2), -0.5))

    network = model(box, state_dependent_std=True)
    params = initialised(network)
    assert "log_std" not in params
    head = params["policy_head"]
    spread = head._replace(weight=head.weight * 1e5)
    log_std = np.asarray(network.policy(params | {"policy_head": spread}, observations()).log_std)
    assert log_std.min() == -20
    assert log_std.max() == 2
    assert network.policy(params, observations()).log_std.std() > 0


def test_separate_networks_do_not_touch_each_other():
    network = model()
    params = initialised(network)
    by_value = jax.grad(lambda p: network.value(p, observations()).sum())(params)
    by_policy = jax.grad(
        lambda p: network.policy(p, observations()).log_prob(jnp.zeros(5, jnp.int32)).sum()
    )(params)
    for name in params:
        touched = [any(np.any(x) for x in jax.tree.leaves(g[name])) for g in (by_value, by_policy)]
        assert touched == ["value" in name, "policy" in name], name


def test_a_shared_trunk_is_moved_by_both():
    network = model(shared=True)
    params = initialised(network)
    assert set(params) == {"trunk", "policy_head", "value_head"}
    for output in (
        lambda p: network.value(p, observations()).sum(),
        lambda p: network.policy(p, observations()).log_prob(jnp.zeros(5, jnp.int32)).sum(),
    ):
        assert all(np.any(x.weight) for x in jax.grad(output)(params)["trunk"])


def test_without_a_critic_there_is_no_value_head():
    assert set(initialised(model(critic=None))) == {"policy_trunk", "policy_head"}


# ----------------------------------------------------------------------- a user's own network


def test_a_users_pair_is_used_for_both_trunks():
    own = Network(
        init=lambda key, x: {"scale": jnp.ones((1, x.shape[-1]))},
        apply=lambda params, x: x * params["scale"],
    )
    network = model(network=own)
    params = initialised(network)
    assert params["value_trunk"]["scale"].shape == (1, 3)
    x, head = observations(), params["value_head"]
    doubled = params | {"value_trunk": {"scale": jnp.full((1, 3), 2.0)}}
    np.testing.assert_allclose(network.value(doubled, x), 2 * (x @ head.weight)[:, 0], rtol=1e-5)


def test_a_network_with_the_wrong_output_is_named():
    flat = Network(init=lambda key, x: {}, apply=lambda params, x: x.reshape(-1))
    with pytest.raises(UserError, match=r"shape \(1, 3\) into \(3,\).*expected features \[1, n\]"):
        model(network=flat).init(jax.random.key(0))
