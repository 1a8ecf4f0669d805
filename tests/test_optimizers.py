"""Gradient steps against optax on the same tree, and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from actorcritic.maths import optimizers

PARAMS = {"w": jnp.asarray([[1.0, -2.0], [0.5, 3.0]]), "b": jnp.asarray([0.1, 0.2])}
TRUTH = {
    "adam": lambda rate: optax.adam(rate, eps=1e-5),
    "rmsprop": lambda rate: optax.rmsprop(rate, decay=0.99, eps=1e-5, eps_in_sqrt=False),
}


def gradients(step: int, scale: float) -> dict:
    rng = np.random.default_rng(step)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape) * scale, x.dtype), PARAMS)


@pytest.mark.parametrize("kind", ["adam", "rmsprop"])
@pytest.mark.parametrize("scale", [0.01, 10.0])
def test_steps_are_those_of_optax_with_clipping_by_global_norm(kind, scale):
    chain = optax.chain(optax.clip_by_global_norm(0.5), TRUTH[kind](0.1))
    expected, truth = PARAMS, chain.init(PARAMS)
    params, state = PARAMS, optimizers.init(kind, PARAMS)
    for k in range(3):
        gradient = gradients(k, scale)
        with jax.numpy_dtype_promotion("standard"):  # optax.adam itself promotes
            update, truth = chain.update(gradient, truth)
        expected = optax.apply_updates(expected, update)
        params, state, norm = optimizers.step(kind, params, gradient, state, 0.1, 0.5)
        length = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(gradient)))
        np.testing.assert_allclose(norm, length, rtol=1e-5)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), params, expected
        )


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("epsilon", [1e-5, 1e-8])
def test_leaf_by_leaf_and_with_another_epsilon(flat, epsilon):
    chain = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(0.1, eps=epsilon))
    expected, truth = PARAMS, chain.init(PARAMS)
    params, state = PARAMS, optimizers.init("adam", PARAMS, flat=flat)
    assert len(jax.tree.leaves(state)) == (3 if flat else 5)
    for k in range(3):
        gradient = gradients(k, 1e-6)  # so small that the epsilon matters
        with jax.numpy_dtype_promotion("standard"):
            update, truth = chain.update(gradient, truth)
        expected = optax.apply_updates(expected, update)
        params, state, _ = optimizers.step(
            "adam", params, gradient, state, 0.1, 0.5, flat=flat, epsilon=epsilon
        )
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), params, expected
        )


def test_the_first_steps_by_hand():
    """From zero moments: Adam moves each parameter by ±rate, RMSprop by ±rate / √(1 - 0.99)."""
    gradient = {"x": jnp.asarray([0.3, -0.1])}
    for kind, size in (("adam", 0.1), ("rmsprop", 1.0)):
        start = {"x": jnp.zeros(2)}
        moved, _, _ = optimizers.step(kind, start, gradient, optimizers.init(kind, start), 0.1, 1e9)
        np.testing.assert_allclose(moved["x"], [-size, size], rtol=2e-3)


def test_clipping_keeps_the_direction_of_the_whole_gradient():
    """RMSprop's state tells what came through: (1 - 0.99) g²."""
    start = {"x": jnp.zeros(2), "y": jnp.zeros(1)}
    gradient = {"x": jnp.asarray([3.0, 0.0]), "y": jnp.asarray([4.0])}  # norm 5
    for limit, seen in ((1.0, [0.6, 0.0, 0.8]), (10.0, [3.0, 0.0, 4.0])):
        _, state, norm = optimizers.step(
            "rmsprop", start, gradient, optimizers.init("rmsprop", start), 0.1, limit
        )
        np.testing.assert_allclose(state.nu, 0.01 * np.square(seen), rtol=1e-5)
        assert float(norm) == pytest.approx(5.0)  # before clipping


def test_a_zero_gradient_moves_nothing():
    gradient = jax.tree.map(jnp.zeros_like, PARAMS)
    params, _, _ = optimizers.step(
        "adam", PARAMS, gradient, optimizers.init("adam", PARAMS), 0.1, 0.5
    )
    jax.tree.map(np.testing.assert_array_equal, params, PARAMS)


def test_devices_average_their_gradients_before_clipping():
    several = jax.tree.map(lambda *g: jnp.stack(g), gradients(0, 3.0), gradients(1, 3.0))
    mean = jax.tree.map(lambda g: g.mean(axis=0), several)
    state = optimizers.init("adam", PARAMS)
    expected, _, norm = optimizers.step("adam", PARAMS, mean, state, 0.1, 0.5)

    spread = jax.vmap(
        lambda g: optimizers.step("adam", PARAMS, g, state, 0.1, 0.5, axis="rows"),
        axis_name="rows",
    )
    params, _, norms = spread(several)
    np.testing.assert_allclose(norms, [norm, norm], rtol=1e-6)
    for device in range(2):
        jax.tree.map(
            lambda a, b, d=device: np.testing.assert_allclose(a[d], b, rtol=1e-6), params, expected
        )


def test_schedules():
    for progress, linear in ((0.0, 0.2), (0.25, 0.15), (1.0, 0.0)):
        now = jnp.asarray(progress)
        assert float(optimizers.scheduled(0.2, "constant", now)) == pytest.approx(0.2)
        assert float(optimizers.scheduled(0.2, "linear", now)) == pytest.approx(linear)
