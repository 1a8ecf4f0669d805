"""The particle world against the package it is written after, step for step."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from mpe2 import simple_speaker_listener_v4, simple_spread_v3, simple_tag_v3

import actorcritic as ac
from actorcritic.core.errors import UserError
from actorcritic.envs import AsGymnasium, SimpleSpeakerListener, SimpleSpread, SimpleTag
from actorcritic.envs.columns import AGENT, OWN
from actorcritic.envs.host.environment import HostEnvironment
from actorcritic.envs.particles import Particles, _observed
from actorcritic.maths.spaces import GLOBAL, MASK
from actorcritic.runners.host import HostSession
from actorcritic.runners.seeds import CompiledSession

TWINS = {
    "spread": (SimpleSpread(), simple_spread_v3.parallel_env),
    "spread of 2": (
        SimpleSpread(agents=2, local_ratio=0.25),
        partial(simple_spread_v3.parallel_env, N=2, local_ratio=0.25),
    ),
    "spread of 6": (SimpleSpread(agents=6), partial(simple_spread_v3.parallel_env, N=6)),
    "speaker and listener": (SimpleSpeakerListener(), simple_speaker_listener_v4.parallel_env),
    "tag": (SimpleTag(), simple_tag_v3.parallel_env),
    "tag of two and two": (
        SimpleTag(good=2, adversaries=2, obstacles=1),
        partial(simple_tag_v3.parallel_env, num_good=2, num_adversaries=2, num_obstacles=1),
    ),
}


def world_of(environment: Any) -> Any:
    return environment.unwrapped.world


def as_particles(world: Any) -> Particles:
    """The state that mpe2's world is in."""
    position = np.array([entity.state.p_pos for entity in world.entities])
    velocity = np.array([agent.state.p_vel for agent in world.agents])
    goal = getattr(world.agents[0], "_goal_b", None)
    if goal is None:
        return Particles(jnp.asarray(position), jnp.asarray(velocity))
    where = jnp.asarray(world.landmarks.index(goal), jnp.int32)
    return Particles(jnp.asarray(position), jnp.asarray(velocity), where, jnp.zeros(3))


def drawn(theirs: Any, random: np.random.Generator, meet: bool) -> dict[str, int]:
    """Random actions; to `meet`, most agents go towards the next one."""
    found, agents = {}, world_of(theirs).agents
    for k, name in enumerate(theirs.possible_agents):
        count = int(theirs.action_space(name).n)
        found[name] = int(random.integers(count))
        if meet and count == 5 and random.random() < 0.8:
            x, y = agents[(k + 1) % len(agents)].state.p_pos - agents[k].state.p_pos
            found[name] = (1 + int(x > 0)) if abs(x) > abs(y) else (3 + int(y > 0))
    return found


@pytest.mark.parametrize("name", TWINS)
def test_every_step_is_that_of_mpe2(name: str) -> None:
    ours, make = TWINS[name]
    theirs = make()
    names = theirs.possible_agents
    touched = 0
    with jax.enable_x64(True):
        step = jax.jit(ours.step)
        for seed in range(8):
            observations, _ = theirs.reset(seed=seed)
            world, random = world_of(theirs), np.random.default_rng(seed)
            state = as_particles(world)
            seen = _observed(ours.spec, ours._seen(state))
            for t in range(25):
                for k, agent in enumerate(names):
                    own = observations[agent]
                    np.testing.assert_allclose(seen[OWN][k][: len(own)], own, atol=2e-6)
                    assert not np.any(seen[OWN][k][len(own) :])
                np.testing.assert_allclose(seen[GLOBAL][0], theirs.state(), atol=2e-6)
                action = drawn(theirs, random, meet=seed % 2 == 0)
                observations, rewards, terminated, truncated, _ = theirs.step(action)
                moves = jnp.asarray([action[agent] for agent in names], jnp.int32)
                state, found = step(None, state, moves)
                seen = found.observation
                expected = as_particles(world)
                for part, other in zip(state[:2], expected[:2], strict=True):
                    np.testing.assert_allclose(part, other, rtol=1e-9, atol=1e-11)
                reward = [rewards[agent] for agent in names]
                np.testing.assert_allclose(found.reward, reward, rtol=1e-6, atol=1e-6)
                assert not any(terminated.values())
                assert all(truncated.values()) is (t + 1 == ours.spec.max_episode_steps)
                touched += int(np.sum(ours.bodies.touching(state))) - len(names)
    assert touched > 0 or name == "speaker and listener"


@pytest.mark.parametrize("name", TWINS)
def test_agents_and_spaces_are_those_of_mpe2(name: str) -> None:
    ours, make = TWINS[name]
    theirs, spec = make(), ours.spec
    assert [agent.name for agent in spec.agents] == theirs.possible_agents
    host = HostEnvironment(make).spec
    assert host.agents == spec.agents
    for part in (OWN, AGENT, GLOBAL):
        assert host.observation_space[part].shape == spec.observation_space[part].shape  # type: ignore[index]
    assert (MASK in host.observation_space.spaces) == (MASK in spec.observation_space.spaces)  # type: ignore[attr-defined]
    assert host.action_space == spec.action_space


def test_starts_are_uniform() -> None:
    for world, within in ((SimpleSpread(), 1.0), (SimpleTag(), 0.9)):
        state, _ = jax.vmap(world.reset)(jax.random.split(jax.random.key(0), 4000))
        agents = np.asarray(state.position[:, : world.agents])
        marks = np.asarray(state.position[:, world.agents :])
        assert not np.any(np.asarray(state.velocity))
        for places, end in ((agents, 1.0), (marks, within)):
            np.testing.assert_allclose(places.mean(axis=0), 0.0, atol=0.05)
            np.testing.assert_allclose(places.std(axis=0), end / np.sqrt(3), rtol=0.05)
            assert np.abs(places).max() <= end


def test_goals_are_drawn_evenly() -> None:
    state, _ = jax.vmap(SimpleSpeakerListener().reset)(jax.random.split(jax.random.key(0), 3000))
    shares = np.bincount(np.asarray(state.goal), minlength=3) / 3000
    np.testing.assert_allclose(shares, 1 / 3, atol=0.04)


class Keyed(AsGymnasium):
    """Keeps the key that it was made with."""

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return super().reset(options=options)


@pytest.mark.long
def test_the_host_learns_the_same() -> None:
    environment = SimpleTag()
    algorithm = ac.MAPPO(num_envs=3, num_steps=30, num_minibatches=1, hidden_sizes=(8,))
    seed, total = 3, 180
    compiled = CompiledSession(algorithm, environment, [seed], total)
    keys = jax.random.split(jax.random.split(jax.random.key(seed), 3)[2], algorithm.num_envs)
    vector = SyncVectorEnv(
        [partial(Keyed, environment, key) for key in keys], autoreset_mode=AutoresetMode.DISABLED
    )
    host = HostSession(algorithm, HostEnvironment(vector), [seed], total)
    for session in (compiled, host):
        while not session.finished:
            session.advance(10.0)
    assert host.steps.tolist() == compiled.steps.tolist() == [180]
    vector.close()
    learners = (jax.tree.leaves(session.state.learner) for session in (host, compiled))
    for a, b in zip(*learners, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-4)


def test_the_host_knows_it_by_its_name() -> None:
    world = HostEnvironment("simple-spread", options={"agents": 2})
    assert world.spec == SimpleSpread(2).spec
    assert world.spec.max_episode_steps == 25


@pytest.mark.parametrize("world", [SimpleSpread(), SimpleSpeakerListener(), SimpleTag()])
def test_pictures_have_trails(world: Any) -> None:
    state, _ = world.reset(jax.random.key(1))
    path = [state]
    for _ in range(6):
        state, _ = world.step(None, state, jnp.full(len(world.spec.agents), 2, jnp.int32))
        path.append(state)
    alone, trailed = world.render(state), world.render(state, path[:-1])
    assert alone.shape == trailed.shape
    assert alone.dtype == np.uint8
    assert (alone != trailed).any()


@pytest.mark.parametrize(
    ("cls", "options", "wanted"),
    [
        (SimpleSpread, {"agents": 7}, "2 to 6"),
        (SimpleSpread, {"agents": 1}, "2 to 6"),
        (SimpleSpread, {"local_ratio": 1.5}, r"\[0, 1\]"),
        (SimpleTag, {"good": 0}, "at least 1"),
    ],
)
def test_options_are_checked(cls: Any, options: dict[str, Any], wanted: str) -> None:
    with pytest.raises(UserError, match=wanted):
        cls(**options)
