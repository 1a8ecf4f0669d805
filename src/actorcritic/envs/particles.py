"""The particle world: several agents in a plane that push themselves, and each other, around.

Lowe et al. 2017 (arXiv 1706.02275), after Mordatch & Abbeel 2018. Step for step these are the
environments of the package mpe2 (simple_spread_v3, simple_speaker_listener_v4, simple_tag_v3),
with their 25 steps as a time limit.

A step moves every agent by its velocity, damps the velocity, and adds the forces: an agent's own,
and those of bodies that touch. Forces are those of the positions before the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8

from actorcritic.core.errors import UserError
from actorcritic.core.types import Agent, EnvSpec, Observation, Step
from actorcritic.envs import columns
from actorcritic.maths.spaces import GLOBAL, MASK

TIME_STEP, DAMPING = 0.1, 0.25
CONTACT_FORCE, CONTACT_MARGIN = 100.0, 1e-3
# Actions 0 to 4: nothing, left, right, down, up.
MOVES = ((0.0, 0.0), (-1.0, 0.0), (1.0, 0.0), (0.0, -1.0), (0.0, 1.0))

PIXELS = 350  # of a picture, width and height
SHOWN = 1.4  # the largest coordinate in a picture, unless something is farther out
RED, GREEN, BLUE, GREY = (217, 89, 89), (89, 190, 100), (89, 110, 217), (90, 90, 90)


class Particles(NamedTuple):
    """A state: where everything is, and what was said and meant."""

    position: Float[Array, "E 2"]  # of the agents, then of the landmarks
    velocity: Float[Array, "N 2"]
    goal: Any = ()  # Int[Array, ""]: the landmark that is meant, where one is
    message: Any = ()  # Float[Array, " c"]: what was said last, where someone speaks


@dataclass(frozen=True)
class Bodies:
    """What the agents, and the landmarks after them, are made of."""

    size: tuple[float, ...]  # radius of each
    collide: tuple[bool, ...]
    acceleration: tuple[float, ...]  # of each agent; 0: it does not move
    max_speed: tuple[float, ...]  # of each agent

    @property
    def agents(self) -> int:
        return len(self.acceleration)

    def moved(self, state: Particles, action: Int[Array, " N"]) -> Particles:
        """The state after one step of the world."""
        dtype = state.position.dtype
        gain = jnp.asarray(self.acceleration, dtype)
        force = jnp.asarray(MOVES, dtype)[jnp.where(gain > 0, action, 0)] * gain[:, None]
        force = force + self._contact(state.position)
        free = (gain > 0)[:, None]
        position = state.position.at[: self.agents].add(
            jnp.where(free, state.velocity * TIME_STEP, 0.0)
        )
        velocity = state.velocity * (1 - DAMPING) + force * TIME_STEP
        if np.isfinite(self.max_speed).any():
            speed = jnp.sqrt(jnp.sum(velocity**2, axis=1, keepdims=True))
            most = jnp.asarray(self.max_speed, dtype)[:, None]
            velocity = jnp.where(speed > most, velocity / speed * most, velocity)
        return state._replace(position=position, velocity=jnp.where(free, velocity, 0.0))

    def _contact(self, position: Float[Array, "E 2"]) -> Float[Array, "N 2"]:
        """The force on each agent of all that it touches: a soft wall around each body."""
        count, solid = self.agents, np.asarray(self.collide)
        pairs = solid[:count, None] & solid & ~np.eye(count, len(solid), dtype=bool)
        if not pairs.any():
            return jnp.zeros_like(position[:count])
        apart = position[:count, None] - position[None]
        distance = jnp.sqrt(jnp.sum(apart**2, axis=-1))
        overlap = (jnp.asarray(self._reach, position.dtype) - distance) / CONTACT_MARGIN
        strength = CONTACT_FORCE * CONTACT_MARGIN * jnp.logaddexp(0.0, overlap)
        strength = jnp.where(pairs, strength / jnp.maximum(distance, 1e-12), 0.0)
        return jnp.sum(apart * strength[..., None], axis=1)

    @property
    def _reach(self) -> Float[np.ndarray, "N E"]:
        size = np.asarray(self.size)
        return size[: self.agents, None] + size

    def touching(self, state: Particles) -> Float[Array, "N N"]:
        """1 where two agents overlap, each one with itself as well; else 0."""
        agents = state.position[: self.agents]
        distance = jnp.sqrt(jnp.sum((agents[:, None] - agents[None]) ** 2, axis=-1))
        reach = jnp.asarray(self._reach[:, : self.agents], agents.dtype)
        return (distance < reach).astype(agents.dtype)


def _scattered(
    key: Key[Array, ""], agents: int, landmarks: int, within: float = 1.0
) -> tuple[Float[Array, "E 2"], Float[Array, "N 2"]]:
    """Positions and velocities at the start; landmarks lie within a square of their own."""
    agent_key, landmark_key = jax.random.split(key)
    position = jax.random.uniform(agent_key, (agents, 2), minval=-1.0, maxval=1.0)
    marks = jax.random.uniform(landmark_key, (landmarks, 2), minval=-within, maxval=within)
    return jnp.concatenate([position, marks]), jnp.zeros((agents, 2))


def _box(size: int) -> gymnasium.spaces.Box:
    return gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)


def _spec(id: str, agents: Sequence[tuple[str, int, int]], limit: int | None) -> EnvSpec:
    """Of agents given as (name, features, actions): all padded to the largest."""
    _, features, actions = zip(*agents, strict=True)
    sizes, counts = set(features), set(actions)
    same = len(sizes) == 1, len(counts) == 1
    named = tuple(
        Agent(name, columns.team_of(name), None if same[0] else size, None if same[1] else count)
        for name, size, count in agents
    )
    action_space = gymnasium.spaces.Discrete(max(counts))
    state = _box(sum(features))
    space = columns.observation_space(_box(max(sizes)), named, action_space, state)
    return EnvSpec(id, space, action_space, limit, named)


def _observed(spec: EnvSpec, own: list[Array]) -> Observation:
    """What each agent sees, [N, ...]; all of it side by side is the global state."""
    space: Any = spec.observation_space
    count, most = len(own), space[columns.OWN].shape[0]
    own = [x.astype(jnp.float32) for x in own]
    state = jnp.concatenate(own)
    seen = {
        columns.OWN: jnp.stack([jnp.pad(x, (0, most - len(x))) for x in own]),
        columns.AGENT: jnp.arange(count, dtype=jnp.int32),
    }
    if MASK in space.spaces:
        seen[MASK] = jnp.asarray(columns.own_actions(spec.agents, space[MASK].shape[0]))
    return seen | {GLOBAL: jnp.broadcast_to(state, (count, len(state)))}


def _stepped(spec: EnvSpec, own: list[Array], reward: Float[Array, " N"]) -> Step:
    never = jnp.zeros(len(own), bool)
    return Step(_observed(spec, own), reward.astype(jnp.float32), never, never)


def _others(x: Float[Array, "N 2"], k: int) -> Float[Array, " 2*(N-1)"]:
    """The rows of all agents but one, in their order."""
    return jnp.concatenate([x[:k], x[k + 1 :]]).reshape(-1)


@dataclass(frozen=True)
class SimpleSpread:
    """Agents cover as many landmarks as there are of them, and do not bump into each other.

    Each step, all share minus the sum over landmarks of the distance to the nearest agent, and
    each loses 1 for every agent that it touches; `local_ratio` weighs the second, and
    1 - `local_ratio` the first. An agent sees its velocity and position, and where landmarks and
    the others are from there (and 2 zeros for each of the others, which could speak elsewhere).
    """

    agents: int = 3
    local_ratio: float = 0.5
    max_episode_steps: int | None = 25

    trail: ClassVar[bool] = True  # `render` takes the states before as well

    def __post_init__(self) -> None:
        if not 2 <= self.agents <= 6:
            raise UserError(f"simple-spread has 2 to 6 agents; got agents = {self.agents}.")
        if not 0 <= self.local_ratio <= 1:
            raise UserError(f"local_ratio must lie in [0, 1]; got {self.local_ratio}.")

    @cached_property
    def bodies(self) -> Bodies:
        n = self.agents
        size = (0.15,) * n + (0.05,) * n
        return Bodies(size, (True,) * n + (False,) * n, (5.0,) * n, (np.inf,) * n)

    @cached_property
    def spec(self) -> EnvSpec:
        features = 4 + 2 * self.agents + 4 * (self.agents - 1)
        agents = [(f"agent_{k}", features, 5) for k in range(self.agents)]
        return _spec("simple-spread", agents, self.max_episode_steps)

    def reset(self, key: Key[Array, ""]) -> tuple[Particles, Observation]:
        position, velocity = _scattered(key, self.agents, self.agents)
        state = Particles(position, velocity)
        return state, _observed(self.spec, self._seen(state))

    def step(
        self, key: Key[Array, ""], state: Particles, action: Int[Array, " N"]
    ) -> tuple[Particles, Step]:
        state = self.bodies.moved(state, action)
        agents, landmarks = state.position[: self.agents], state.position[self.agents :]
        distance = jnp.sqrt(jnp.sum((landmarks[:, None] - agents[None]) ** 2, axis=-1))
        shared = -jnp.sum(jnp.min(distance, axis=1))
        bumps = 1.0 - jnp.sum(self.bodies.touching(state), axis=1)
        reward = shared * (1 - self.local_ratio) + bumps * self.local_ratio
        return state, _stepped(self.spec, self._seen(state), reward)

    def _seen(self, state: Particles) -> list[Array]:
        n = self.agents
        position, landmarks = state.position[:n], state.position[n:]
        return [
            jnp.concatenate(
                [
                    state.velocity[k],
                    position[k],
                    (landmarks - position[k][None]).reshape(-1),
                    _others(position - position[k][None], k),
                    jnp.zeros(2 * (n - 1)),
                ]
            )
            for k in range(n)
        ]

    def render(
        self, state: Particles, trail: Sequence[Particles] = ()
    ) -> UInt8[np.ndarray, "h w 3"]:
        colours = [BLUE] * self.agents + [GREY] * self.agents
        return _picture([*trail, state], self.bodies, colours)


@dataclass(frozen=True)
class SimpleSpeakerListener:
    """A speaker sees which of three landmarks is meant, and a listener has to go there.

    The speaker does not move: its action is one of three messages, which the listener hears in the
    next step. Both lose the squared distance from the listener to that landmark in each step.
    """

    max_episode_steps: int | None = 25

    trail: ClassVar[bool] = True
    bodies: ClassVar[Bodies] = Bodies(
        (0.075, 0.075, 0.04, 0.04, 0.04), (False,) * 5, (0.0, 5.0), (np.inf, np.inf)
    )
    colours: ClassVar[Any] = ((0.65, 0.15, 0.15), (0.15, 0.65, 0.15), (0.15, 0.15, 0.65))

    @cached_property
    def spec(self) -> EnvSpec:
        agents = [("speaker_0", 3, 3), ("listener_0", 11, 5)]
        return _spec("simple-speaker-listener", agents, self.max_episode_steps)

    def reset(self, key: Key[Array, ""]) -> tuple[Particles, Observation]:
        goal_key, key = jax.random.split(key)
        goal = jax.random.randint(goal_key, (), 0, 3, jnp.int32)
        state = Particles(*_scattered(key, 2, 3), goal, jnp.zeros(3))
        return state, _observed(self.spec, self._seen(state))

    def step(
        self, key: Key[Array, ""], state: Particles, action: Int[Array, "2"]
    ) -> tuple[Particles, Step]:
        state = self.bodies.moved(state, action)
        said = jax.nn.one_hot(action[0], 3, dtype=state.message.dtype)
        state = state._replace(message=said)
        away = state.position[1] - state.position[2 + state.goal]
        reward = jnp.broadcast_to(-jnp.sum(away**2), (2,))
        return state, _stepped(self.spec, self._seen(state), reward)

    def _seen(self, state: Particles) -> list[Array]:
        colour = jnp.asarray(self.colours, state.position.dtype)[state.goal]
        marks = (state.position[2:] - state.position[1][None]).reshape(-1)
        return [colour, jnp.concatenate([state.velocity[1], marks, state.message])]

    def render(
        self, state: Particles, trail: Sequence[Particles] = ()
    ) -> UInt8[np.ndarray, "h w 3"]:
        marks = [tuple(round(255 * c) for c in colour) for colour in self.colours]
        meant = tuple(round(255 * min(1.0, c + 0.3)) for c in self.colours[int(state.goal)])
        said = "abc"[int(np.argmax(state.message))] if np.any(state.message) else ""
        path = [*trail, state]
        return _picture(path, self.bodies, [GREY, meant, *marks], {0: said})


@dataclass(frozen=True)
class SimpleTag:
    """Slow adversaries chase quick agents around obstacles: two teams, each with its own policy.

    In each step every adversary gains 10 for each pair of an adversary and an agent that touch, and
    the agent loses 10 for each adversary that touches it. Agents also lose for leaving the picture:
    of each coordinate, 10 (|x| - 0.9) from 0.9 to 1, beyond that exp(2 |x| - 2), at most 10.
    """

    good: int = 1
    adversaries: int = 3
    obstacles: int = 2
    max_episode_steps: int | None = 25

    trail: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name, least in (("good", 1), ("adversaries", 1), ("obstacles", 0)):
            if getattr(self, name) < least:
                value = getattr(self, name)
                raise UserError(f"simple-tag needs {name} of at least {least}; got {value}.")

    @property
    def agents(self) -> int:
        return self.adversaries + self.good

    @cached_property
    def bodies(self) -> Bodies:
        bad, good, marks = self.adversaries, self.good, self.obstacles
        return Bodies(
            (0.075,) * bad + (0.05,) * good + (0.2,) * marks,
            (True,) * (self.agents + marks),
            (3.0,) * bad + (4.0,) * good,
            (1.0,) * bad + (1.3,) * good,
        )

    @cached_property
    def spec(self) -> EnvSpec:
        features = 4 + 2 * self.obstacles + 2 * (self.agents - 1) + 2 * self.good
        bad = [(f"adversary_{k}", features, 5) for k in range(self.adversaries)]
        good = [(f"agent_{k}", features - 2, 5) for k in range(self.good)]
        return _spec("simple-tag", bad + good, self.max_episode_steps)

    def reset(self, key: Key[Array, ""]) -> tuple[Particles, Observation]:
        position, velocity = _scattered(key, self.agents, self.obstacles, 0.9)
        state = Particles(position, velocity)
        return state, _observed(self.spec, self._seen(state))

    def step(
        self, key: Key[Array, ""], state: Particles, action: Int[Array, " N"]
    ) -> tuple[Particles, Step]:
        state = self.bodies.moved(state, action)
        bad = self.adversaries
        caught = self.bodies.touching(state)[:bad, bad:]
        x = jnp.abs(state.position[bad : self.agents])
        outside = jnp.minimum(jnp.exp(2 * x - 2), 10.0)
        border = jnp.where(x < 0.9, 0.0, jnp.where(x < 1.0, (x - 0.9) * 10, outside))
        hunters = jnp.full(bad, 10.0 * jnp.sum(caught))
        hunted = -10.0 * jnp.sum(caught, axis=0) - jnp.sum(border, axis=1)
        reward = jnp.concatenate([hunters, hunted])
        return state, _stepped(self.spec, self._seen(state), reward)

    def _seen(self, state: Particles) -> list[Array]:
        n, bad = self.agents, self.adversaries
        position, obstacles = state.position[:n], state.position[n:]
        return [
            jnp.concatenate(
                [
                    state.velocity[k],
                    position[k],
                    (obstacles - position[k][None]).reshape(-1),
                    _others(position - position[k][None], k),
                    *(state.velocity[j] for j in range(bad, n) if j != k),
                ]
            )
            for k in range(n)
        ]

    def render(
        self, state: Particles, trail: Sequence[Particles] = ()
    ) -> UInt8[np.ndarray, "h w 3"]:
        colours = [RED] * self.adversaries + [GREEN] * self.good + [GREY] * self.obstacles
        return _picture([*trail, state], self.bodies, colours)


def _picture(
    path: Sequence[Particles],
    bodies: Bodies,
    colours: Sequence[tuple[int, ...]],
    words: dict[int, str] | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """Where everything is at the end of a path, and behind each agent where it came along."""
    from PIL import Image, ImageDraw, ImageFont

    places = np.stack([np.asarray(state.position, float) for state in path])
    scale = PIXELS / 2 / max(SHOWN, float(np.abs(places).max(initial=0)) + 0.2)
    points = PIXELS / 2 + places * scale * np.array([1, -1])
    image = Image.new("RGB", (PIXELS, PIXELS), "white")
    draw = ImageDraw.Draw(image, "RGBA")

    def disc(k: int, colour: tuple[int, ...], outline: Any) -> None:
        (x, y), r = points[-1, k], bodies.size[k] * scale
        draw.ellipse((x - r, y - r, x + r, y + r), fill=colour, outline=outline)

    count = bodies.agents
    for k in range(count, len(colours)):
        disc(k, colours[k], None)
    for k in range(count):
        for t in range(1, len(points)):
            faint = round(200 * t / len(points))
            line = (*map(tuple, points[t - 1 : t + 1, k]),)
            draw.line(line, fill=(*colours[k], faint), width=3)
    for k in range(count):
        disc(k, (*colours[k], 210), (40, 40, 40))
        if words and words.get(k):
            font = ImageFont.load_default(16)
            draw.text(tuple(points[-1, k]), words[k], "white", font, anchor="mm")
    return np.asarray(image)
