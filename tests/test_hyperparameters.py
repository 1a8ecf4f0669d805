"""Hyperparameters: ranges, types, near names, and which fields are leaves."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.spaces import Discrete

import actorcritic as ac
from actorcritic.algorithms.catalogue import ALGORITHMS
from actorcritic.core.errors import UserError
from actorcritic.core.hyperparameters import (
    check,
    hyperparameter,
    hyperparameters,
    nearest,
    replace,
)
from actorcritic.envs import CartPole, Pendulum
from actorcritic.maths.optimizers import scheduled


@hyperparameters
class Settings:
    kind: ClassVar[str] = "settings"
    rate: float = hyperparameter(0.5, "a rate", "(0, 1]")
    share: float = hyperparameter(0.5, "a share", "[0, 1)")
    limit: float | None = hyperparameter(None, "a limit", "[0, 9]")
    count: int = hyperparameter(3, "a count", "[1, 10]")
    flag: bool = hyperparameter(False, "a flag")
    mode: Literal["slow", "fast"] = hyperparameter("slow", "a mode")
    sizes: tuple[int, ...] = hyperparameter((64, 64), "some sizes")


@pytest.mark.parametrize(
    "good",
    [
        {},
        {"rate": 1.0},
        {"rate": 1},  # a whole number is a number
        {"share": 0.0},
        {"limit": 9.0},
        {"limit": None},
        {"count": 10},
        {"flag": True},
        {"mode": "fast"},
        {"sizes": ()},
    ],
    ids=str,
)
def test_values_in_range_pass(good):
    check(Settings(**good))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"rate": 0.0}, r"Settings\.rate must lie in \(0, 1\]; got 0\.0"),
        ({"rate": 1.5}, r"rate must lie in \(0, 1\]; got 1\.5"),
        ({"rate": math.nan}, "rate must lie in"),
        ({"rate": "fast"}, "rate must be a number; got 'fast'"),
        ({"rate": True}, "rate must be a number; got True"),
        ({"rate": None}, "rate must be a number; got None"),
        ({"share": 1.0}, r"share must lie in \[0, 1\)"),
        ({"share": -0.1}, r"share must lie in \[0, 1\)"),
        ({"limit": math.inf}, "limit must lie in"),
        ({"limit": 10.0}, "limit must lie in"),
        ({"count": 0}, r"count must lie in \[1, 10\]; got 0"),
        ({"count": 2.0}, "count must be a whole number; got 2.0"),
        ({"count": True}, "count must be a whole number"),
        ({"flag": 1}, "flag must be True or False; got 1"),
        (
            {"sizes": (64, 0)},
            r"sizes must be a tuple of positive whole numbers, as \(64, 64\); got \(64, 0\)",
        ),
        ({"sizes": (64.0,)}, "sizes must be a tuple of positive whole numbers"),
        ({"sizes": 64}, r"sizes must be a tuple of positive whole numbers, as \(64, 64\); got 64"),
        ({"mode": "fats"}, r"mode must be one of 'slow', 'fast'; got 'fats'\. Did you mean 'fast'"),
    ],
    ids=str,
)
def test_values_out_of_range_are_named(bad, message):
    with pytest.raises(UserError, match=message):
        check(Settings(**bad))


def test_replace_names_the_nearest_hyperparameter():
    assert replace(Settings(), rate=0.25).rate == 0.25
    with pytest.raises(UserError, match=r"no hyperparameter 'Rat'\. Did you mean 'rate'\?.*count"):
        replace(Settings(), Rat=0.25)
    with pytest.raises(UserError, match=r"no hyperparameter 'kind'"):  # a class variable
        replace(Settings(), kind="other")


def test_nearest_offers_nothing_when_nothing_is_near():
    assert nearest("lambda", ["gae_lambda", "gamma"]) == " Did you mean 'gae_lambda'?"
    assert nearest("zzz", ["gae_lambda", "gamma"]) == ""


def test_settings_are_frozen():
    with pytest.raises(AttributeError):
        Settings().rate = 0.1


def test_float_fields_are_leaves_and_the_others_static():
    settings = Settings(limit=2.0)
    assert sorted(jax.tree.leaves(settings)) == [0.5, 0.5, 2.0]
    doubled = jax.tree.map(lambda x: 2 * x, settings)
    assert doubled == Settings(rate=1.0, share=1.0, limit=4.0)
    # A static field is part of the structure: another value is another program.
    assert jax.tree.structure(Settings()) != jax.tree.structure(Settings(count=4))
    assert jax.tree.structure(Settings()) == jax.tree.structure(Settings(rate=0.1))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_defaults_of_every_algorithm_are_in_their_own_range(name):
    algorithm = ALGORITHMS[name]()
    check(algorithm)
    environment = CartPole() if Discrete in algorithm.action_spaces else Pendulum()
    algorithm.check(environment.spec)


def test_a_schedule_may_be_a_function():
    def warm_up(progress):
        return jnp.minimum(1.0, progress / 0.1)

    algorithm = ac.PPO(learning_rate=0.5, learning_rate_schedule=warm_up)
    check(algorithm)
    np.testing.assert_allclose(
        [scheduled(0.5, warm_up, jnp.float32(p)) for p in (0.0, 0.05, 0.1, 1.0)],
        [0.0, 0.25, 0.5, 0.5],
    )
    still = ac.PPO(hidden_sizes=(8,), learning_rate_schedule=lambda progress: 0 * progress)
    settings = {"quiet": True, "evaluation_episodes": 0}
    one, two = (ac.train(still, "CartPole-v1", total_steps=n, **settings) for n in (1024, 2048))
    assert all(
        bool((np.asarray(x) == np.asarray(y)).all())
        for x, y in zip(jax.tree.leaves(one.actors), jax.tree.leaves(two.actors), strict=True)
    )
    for wrong, words in (
        (lambda: 1.0, "for 0.5 it gave .*takes 0 positional arguments"),
        (lambda p: np.ones(2), "for 0.5 it gave"),
        (lambda p: "fast", "for 0.5 it gave"),
    ):
        with pytest.raises(UserError, match=rf"clip_range_schedule must be a function.*{words}"):
            check(ac.PPO(clip_range_schedule=wrong))
    with pytest.raises(UserError, match="optimizer must be one of"):
        check(ac.PPO(optimizer=warm_up))


def test_the_structure_of_a_variant_is_its_own():
    """Else `jax.jit` could take the program of the class that it came from."""

    @hyperparameters
    class Variant(ac.PPO):
        pass

    mine, theirs = (jax.tree.structure(kind()) for kind in (Variant, ac.PPO))
    assert mine != theirs
    assert mine == jax.tree.structure(Variant(learning_rate=1.0))
    assert theirs != jax.tree.structure(ac.PPO(num_epochs=1))
    leaves, structure = jax.tree.flatten(Variant(num_epochs=1))
    assert jax.tree.unflatten(structure, leaves) == Variant(num_epochs=1)
