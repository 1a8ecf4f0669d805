"""Networks: initialisation, heads, sharing, and a user's own (init, apply) pair."""

import re
import subprocess
import sys
from functools import partial

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from actorcritic.distributions import Categorical, Gaussian, MultiCategorical
from actorcritic.networks import MLP, ActorCritic, Dense, Network, orthogonal
from actorcritic.types import EnvSpec, UserError

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
from actorcritic.networks import MLP
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
    assert set(initialised(model(critic=False))) == {"policy_trunk", "policy_head"}


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
