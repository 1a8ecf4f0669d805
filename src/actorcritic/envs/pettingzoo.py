"""Environments of PettingZoo: several agents, as one Gymnasium environment with all in it.

Written against PettingZoo 1.25 to 1.27. Its parallel interface is taken as it is; what acts one
agent after the other (AEC) is made parallel by PettingZoo's own `aec_to_parallel`. An agent is
terminated or truncated as its environment says: a time limit of PettingZoo's is a truncation.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces as gym_spaces

from actorcritic.core import importing
from actorcritic.core.errors import UserError
from actorcritic.core.types import Agent, EnvSpec
from actorcritic.core.words import listed
from actorcritic.envs import columns
from actorcritic.envs.host.checks import check_observation, kind_of
from actorcritic.envs.host.failures import failing
from actorcritic.maths.spaces import GLOBAL, MASK

PREFIX = "pettingzoo:"
PARTS = ("observations", "rewards", "terminations", "truncations", "infos")


def factory_of(name: str) -> Any:
    """Makes the environment of `pettingzoo:MODULE`: by its `parallel_env`, or else its `env`."""
    place = name.removeprefix(PREFIX)
    if not _is_there(place.partition(".")[0]) and not _is_there("pettingzoo"):
        raise UserError(
            f"'{name}' needs PettingZoo, which is not installed. Run: "
            'pip install "actorcritic[pettingzoo]"'
        )
    found = vars(importing.module(place, name))
    for kind in ("parallel_env", "env"):
        if callable(found.get(kind)):
            return found[kind]
    raise UserError(
        f"The module '{place}' has neither `parallel_env` nor `env`, the functions that make an "
        "environment of PettingZoo. Name another module, or a class of yours as module:Name."
    )


def _is_there(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def is_parallel(environment: Any) -> bool:
    """Is this of PettingZoo's parallel interface?"""
    return _has(environment, "possible_agents", "step", "reset") and not _is_aec(environment)


def _is_aec(environment: Any) -> bool:
    return _has(environment, "agent_iter", "last", "step")


def _has(environment: Any, *names: str) -> bool:
    return all(hasattr(environment, name) for name in names)


def is_several(environment: Any) -> bool:
    """Has this several agents, as PettingZoo has them?"""
    return not isinstance(environment, gymnasium.Env) and (
        is_parallel(environment) or _is_aec(environment)
    )


def as_parallel(environment: Any, name: str) -> Any:
    """The parallel environment of one; UserError where PettingZoo cannot make it so."""
    if not _is_aec(environment):
        return environment
    try:
        conversions = importlib.import_module("pettingzoo.utils.conversions")
    except ImportError as error:
        raise UserError(
            f"{name} acts one agent after the other, and takes the package pettingzoo to be made "
            f'parallel ({error}). Install it: pip install "actorcritic[pettingzoo]"'
        ) from error
    try:
        return conversions.aec_to_parallel(environment)
    except (AssertionError, AttributeError) as error:
        raise UserError(
            f"{name} cannot be made parallel ({error}): its agents have to act in turns. Games of "
            "turns are for other methods; where all act at once, set metadata['is_parallelizable']."
        ) from error


class Several(gymnasium.Env):
    """A parallel environment of PettingZoo as one of Gymnasium, packed as `columns.packed` says.

    An episode ends when no agent is left. `agents_spec` is what an algorithm sees of it.
    """

    def __init__(self, environment: Any, name: str) -> None:
        self.environment, self._name = as_parallel(environment, name), name
        self._agents = tuple(self._possible())
        self._index = {agent: k for k, agent in enumerate(self._agents)}
        self._own = [self._space("observation", agent) for agent in self._agents]
        self._acts = [self._space("action", agent) for agent in self._agents]
        self._reset(seed=None)
        self._state_space = self._find_state()
        self.agents_spec = self._describe()
        packed = columns.packed(self.agents_spec, leaving=True)
        self.observation_space, self.action_space = packed.observation_space, packed.action_space
        self.metadata = dict(getattr(environment, "metadata", {}) or {})
        self.render_mode = getattr(environment, "render_mode", None)
        count = len(self._agents)
        self._latest: Mapping[str, Any] = {}  # observations, as the environment gave them
        self._out = np.zeros((2, count), bool)  # terminated, truncated: for good
        self._there = np.zeros(count, bool)

    # ------------------------------------------------------------------ what it is

    def _possible(self) -> list[str]:
        agents = list(getattr(self.environment, "possible_agents", ()) or ())
        if not agents or not all(isinstance(agent, str) for agent in agents):
            raise UserError(
                f"{self._name} has possible_agents = {agents!r}; expected the names of all agents "
                "that there may be, a list of strings. Set self.possible_agents."
            )
        if len(set(agents)) < len(agents):
            raise UserError(f"{self._name} has an agent twice in possible_agents: {agents}.")
        return agents

    def _space(self, kind: str, agent: str) -> gymnasium.Space:
        form = f"def {kind}_space(self, agent): return …"
        try:
            found = getattr(self.environment, f"{kind}_space")(agent)
        except Exception as error:
            raise UserError(
                f"{self._name} has no {kind} space for agent '{agent}' ({type(error).__name__}: "
                f"{error}); expected one for each of possible_agents. Write `{form}`."
            ) from error
        if not isinstance(found, gymnasium.Space):
            raise UserError(
                f"{self._name} has {kind}_space('{agent}') = {found!r}; expected a space of "
                f"gymnasium.spaces. Write `{form}`."
            )
        return found

    def _find_state(self) -> gymnasium.Space | None:
        """The space of `state()`, once an episode has begun; None where there is none."""
        try:
            state = np.asarray(self.environment.state())
        except (NotImplementedError, AttributeError):
            return None
        except Exception as error:
            raise UserError(
                f"{self._name} failed in state(): {type(error).__name__}: {error}. Mend it, or "
                "take it out: then the observations side by side are the state."
            ) from error
        space = getattr(self.environment, "state_space", None)
        if isinstance(space, gym_spaces.Box) and space.shape == state.shape:
            return space
        return gym_spaces.Box(-np.inf, np.inf, state.shape, np.float32)

    def _describe(self) -> EnvSpec:
        own, features = _common(self._own, self._agents, self._name)
        action, actions = _common_action(self._acts, self._agents, self._name)
        agents = tuple(
            Agent(name, columns.team_of(name), features[k], actions[k])
            for k, name in enumerate(self._agents)
        )
        if columns.AGENT in getattr(own, "spaces", ()):
            raise UserError(
                f"{self._name} has the key '{columns.AGENT}' in its observations, which is where "
                "the agent's number is put. Give it another name."
            )
        state = self._state_space
        if state is None:
            size = sum(gym_spaces.flatdim(space) for space in self._own)
            state = gym_spaces.Box(-np.inf, np.inf, (size,), np.float32)
        space = columns.observation_space(own, agents, action, state)
        return EnvSpec(self._name, space, action, None, agents)

    # ------------------------------------------------------------------ Gymnasium's interface

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        observations = self._latest = self._reset(seed, options)
        self._out[:] = False
        count = len(self._agents)
        self._there = self._present(observations, "reset")
        if not self._there.any():
            raise UserError(f"{self._name}: reset returned no agent's observation.")
        valid = np.zeros(count, bool)
        return self._packed(observations, np.zeros(count, np.float32), valid), {}

    def _reset(self, seed: int | None, options: Any = None) -> Mapping[str, Any]:
        with failing(self._name, "reset"):
            result: Any = self.environment.reset(seed=seed, options=options)
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], Mapping)):
            raise UserError(
                f"{self._name}: reset returned {kind_of(result)}; expected (observations, infos), "
                "each a dict by agent."
            )
        return result[0]

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        acting = self._there
        given = {
            agent: self._executable(k, action[k])
            for k, agent in enumerate(self._agents)
            if acting[k]
        }
        with failing(self._name, "step"):
            result: Any = self.environment.step(given)
        if not (isinstance(result, tuple) and len(result) == 5):
            raise UserError(
                f"{self._name}: step returned {kind_of(result)}; expected five dicts by agent: "
                f"{', '.join(PARTS)}."
            )
        observations, rewards, terminations, truncations, _ = result
        self._latest = observations
        for part, got in zip(PARTS, result[:4], strict=False):
            self._check_agents(part, got, given)
        reward = np.zeros(len(self._agents), np.float32)
        there = self._present(observations, "step")
        for k in np.flatnonzero(acting).tolist():
            agent = self._agents[k]
            reward[k] = self._number(agent, rewards[agent])
            ends = bool(terminations[agent]), bool(truncations[agent])
            self._out[:, k] = ends
            there[k] = not any(ends)
        joined = there & ~acting
        if (joined & self._out.any(axis=0)).any():
            agent = self._agents[int((joined & self._out.any(axis=0)).argmax())]
            raise UserError(
                f"{self._name}: agent '{agent}' had ended its episode, and appeared again in "
                "`step`. An agent that is out stays out until reset."
            )
        self._there = there
        done = not there.any()
        if done:  # whoever never came is out as well
            self._out[0] |= ~self._out.any(axis=0)
        truncated = done and bool(self._out[1].any())
        observation = self._packed(observations, reward, acting)
        return observation, float(reward.mean()), done and not truncated, truncated, {}

    def render(self) -> Any:
        return self.environment.render()

    def close(self) -> None:
        self.environment.close()

    # ------------------------------------------------------------------ its parts

    def _check_agents(self, part: str, got: Any, given: Mapping[str, Any]) -> None:
        """UserError where a dict of `step` does not have every agent that acted."""
        if not isinstance(got, Mapping):
            raise UserError(
                f"{self._name}: step returned {part} as {kind_of(got)}; expected a dict by agent."
            )
        missing = [agent for agent in given if agent not in got]
        if missing:
            raise UserError(
                f"{self._name}: step returned {part} of {len(got)} agents where {len(given)} had "
                f"acted: {listed(missing)} {'is' if len(missing) == 1 else 'are'} missing. Each "
                "agent that acted has an observation, a reward and both flags in that step, its "
                "last one too."
            )

    def _present(self, observations: Mapping[str, Any], where: str) -> np.ndarray:
        """Who has an observation; UserError where someone was never announced."""
        there = np.zeros(len(self._agents), bool)
        for agent in observations:
            k = self._index.get(agent)
            if k is None:
                raise UserError(
                    f"{self._name}: {where} returned an observation of agent '{agent}', which is "
                    f"not among possible_agents ({listed(self._agents)}). Announce every agent "
                    "that may ever appear there."
                )
            there[k] = True
        return there

    def _number(self, agent: str, reward: Any) -> float:
        try:
            return float(reward)
        except (TypeError, ValueError):
            raise UserError(
                f"{self._name}: step returned the reward {reward!r} for agent '{agent}'; expected "
                "one number."
            ) from None

    def _executable(self, k: int, action: Any) -> Any:
        """The action of one agent, as its own space has it."""
        space = self._acts[k]
        if isinstance(space, gym_spaces.Discrete):
            return int(action)
        if isinstance(space, gym_spaces.Box) and action.shape != space.shape:
            action = action[: space.shape[0]]
        if isinstance(space, gym_spaces.Box):
            return np.clip(action, space.low, space.high).astype(space.dtype)
        return np.array(action, space.dtype)

    def _packed(
        self, observations: Mapping[str, Any], reward: np.ndarray, valid: np.ndarray
    ) -> dict[str, Any]:
        everyone = columns.empty(self.agents_spec)
        for k, agent in enumerate(self._agents):
            if agent in observations:
                self._write(everyone, k, observations[agent])
        if self._state_space is not None:
            with failing(self._name, "state"):
                state = np.asarray(self.environment.state(), self._state_space.dtype)
        else:
            state = np.concatenate([self._flat(k, observations) for k in range(len(self._own))])
        everyone[GLOBAL][:] = state
        return {
            columns.COLUMNS: everyone,
            columns.REWARD: reward,
            columns.TERMINATED: self._out[0].astype(np.int8),
            columns.TRUNCATED: self._out[1].astype(np.int8),
            columns.VALID: valid.astype(np.int8),
        }

    def _flat(self, k: int, observations: Mapping[str, Any]) -> np.ndarray:
        """What one agent sees, as numbers; zeros where it is not there."""
        agent, own = self._agents[k], self._own[k]
        if agent not in observations:
            return np.zeros(gym_spaces.flatdim(own), np.float32)
        return np.asarray(gym_spaces.flatten(own, observations[agent]), np.float32)

    def _write(self, everyone: dict[str, Any], k: int, own: Any) -> None:
        space: Any = self.agents_spec.observation_space
        try:
            for part, value in columns.of_agent(self.agents_spec, k, own).items():
                columns.put(space[part], everyone[part], k, value)
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise UserError(
                f"{self._name}: the observation of agent '{self._agents[k]}' is not of its space "
                f"{self._own[k]} ({error}). Change the observation or observation_space."
            ) from error

    def check(self, steps: int) -> None:
        """UserError where some random steps do not keep what the spaces promise."""
        random = np.random.default_rng(0)
        self.reset(seed=0)
        where = "reset"
        for _ in range(steps):
            for agent, own in self._latest.items():
                k = self._index[agent]
                what = f"{self._name}: the observation of {where} for agent '{agent}'"
                check_observation(self._own[k], own, what)
            if not self._there.any():
                break
            action = np.stack([self._drawn(k, random) for k in range(len(self._own))])
            packed, *_ = self.step(action)
            self._check_finite(packed[columns.REWARD])
            where = "step"

    def _drawn(self, k: int, random: Any) -> Any:
        """A random action that is allowed, as the common space of actions has it."""
        space, own = self._acts[k], self._latest.get(self._agents[k])
        if isinstance(space, gym_spaces.Discrete):
            mask = np.ones(int(space.n))
            if isinstance(own, Mapping) and MASK in own:
                mask = np.asarray(own[MASK]) != 0
            return int(space.start) + int(random.choice(np.flatnonzero(mask)))
        drawn = np.zeros(self.agents_spec.action_space.shape or ())
        value = np.asarray(space.sample())
        drawn[tuple(slice(n) for n in value.shape)] = value
        return drawn

    def _check_finite(self, reward: np.ndarray) -> None:
        if not np.isfinite(reward).all():
            k = int((~np.isfinite(reward)).argmax())
            raise UserError(
                f"{self._name}: step returned the reward {reward[k]} for agent "
                f"'{self._agents[k]}'; expected a finite number. Look for a division by zero or "
                "an overflow in the environment."
            )


Counts = list[int | None]


def _common(
    own: Sequence[gymnasium.Space], agents: Sequence[str], name: str
) -> tuple[gymnasium.Space, Counts]:
    """One space for the observations of all, and how much of it each has, where that differs."""
    if all(space == own[0] for space in own):
        return own[0], [None] * len(own)
    inner = [
        space.spaces[columns.OWN]
        if isinstance(space, gym_spaces.Dict) and set(space.spaces) == {columns.OWN, MASK}
        else space
        for space in own
    ]
    vectors = [s for s in inner if isinstance(s, gym_spaces.Box) and len(s.shape) == 1]
    if len(vectors) < len(inner) or len({s.dtype for s in vectors}) > 1:
        raise UserError(
            f"{name}: {_differ(agents, own)} in their observations; only vectors (Box with one "
            "axis, of one dtype) are padded to one length. Flatten the observations, or give all "
            "agents one space."
        )
    box, sizes = _widest(vectors)
    if all(a is b for a, b in zip(inner, own, strict=True)):
        return box, sizes
    most = max(space[MASK].shape[0] for space in own)  # type: ignore[index]
    return gym_spaces.Dict([(columns.OWN, box), (MASK, gym_spaces.MultiBinary(most))]), sizes


def _common_action(
    acts: Sequence[gymnasium.Space], agents: Sequence[str], name: str
) -> tuple[gymnasium.Space, Counts]:
    """The same of actions."""
    if all(space == acts[0] for space in acts):
        return acts[0], [None] * len(acts)
    discrete = [s for s in acts if isinstance(s, gym_spaces.Discrete) and s.start == 0]
    if len(discrete) == len(acts):
        counts = [int(space.n) for space in discrete]
        return gym_spaces.Discrete(max(counts)), list(counts)
    vectors = [s for s in acts if isinstance(s, gym_spaces.Box) and len(s.shape) == 1]
    if len(vectors) == len(acts) and len({s.dtype for s in vectors}) == 1:
        return _widest(vectors)
    raise UserError(
        f"{name}: {_differ(agents, acts)} in their actions; only Discrete ones (that start at 0), "
        "or vectors of numbers (Box with one axis), are padded to one size. Give all agents one "
        "kind of action."
    )


def _differ(agents: Sequence[str], spaces: Sequence[gymnasium.Space]) -> str:
    k = next(k for k, space in enumerate(spaces) if space != spaces[0])
    return f"agents '{agents[0]}' ({spaces[0]}) and '{agents[k]}' ({spaces[k]}) differ"


def _widest(boxes: Sequence[gym_spaces.Box]) -> tuple[gym_spaces.Box, Counts]:
    """A Box that all of these fit into, and the length of each."""
    most = max(box.shape[0] for box in boxes)
    low = [min(b.low[j] for b in boxes if j < b.shape[0]) for j in range(most)]
    high = [max(b.high[j] for b in boxes if j < b.shape[0]) for j in range(most)]
    dtype: Any = boxes[0].dtype.type
    box = gym_spaces.Box(np.asarray(low, dtype), np.asarray(high, dtype), dtype=dtype)
    return box, [b.shape[0] for b in boxes]
