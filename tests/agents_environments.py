"""Environments of several agents for the tests; importable, so that worker processes can."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces

NAMES = ("runner_0", "runner_1", "runner_2")


class Relay:
    """Three agents that come and go: one stays, one dies after 2 steps, one joins after 1.

    What each sees is (agent, episode, time); its reward is 100 agent + 10 episode + time, so that
    every number of a batch says where it belongs. Episodes last 4 steps: even ones terminate, odd
    ones are truncated.
    """

    metadata: ClassVar[dict[str, Any]] = {"name": "relay"}
    render_mode = None
    length = 4

    def __init__(self) -> None:
        self.possible_agents = list(NAMES)
        self.agents: list[str] = []
        self.episode, self.time = -1, 0
        self._observations = spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self._actions = spaces.Discrete(2)

    def observation_space(self, agent: str) -> spaces.Space:
        return self._observations

    def action_space(self, agent: str) -> spaces.Space:
        return self._actions

    def seen(self, agent: str) -> Any:
        return np.array([NAMES.index(agent), self.episode, self.time], np.float32)

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.episode, self.time = self.episode + 1, 0
        self.agents = ["runner_0", "runner_1"]
        return {agent: self.seen(agent) for agent in self.agents}, {}

    def step(self, actions: dict[str, Any]) -> Any:
        assert set(actions) == set(self.agents)
        rewards = {a: 100.0 * NAMES.index(a) + 10 * self.episode + self.time for a in actions}
        self.time += 1
        over = self.time == self.length
        dies = {a: a == "runner_1" and self.time == 2 for a in actions}
        terminated = {a: dies[a] or (over and self.episode % 2 == 0) for a in actions}
        truncated = dict.fromkeys(actions, over and self.episode % 2 == 1)
        observations = {a: self.seen(a) for a in actions}
        self.agents = [a for a in self.agents if not (terminated[a] or truncated[a])]
        if self.time == 1:
            self.agents.append("runner_2")
            observations["runner_2"] = self.seen("runner_2")
        return observations, rewards, terminated, truncated, {a: {} for a in actions}

    def state(self) -> Any:
        raise NotImplementedError

    def render(self) -> None:
        return None

    def close(self) -> None:
        pass


class Steady(Relay):
    """The same with all three from the start to the end."""

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.episode, self.time = self.episode + 1, 0
        self.agents = list(NAMES)
        return {agent: self.seen(agent) for agent in self.agents}, {}

    def step(self, actions: dict[str, Any]) -> Any:
        self.time += 1
        over = self.time == self.length
        observations = {a: self.seen(a) for a in actions}
        flags = dict.fromkeys(actions, over)
        if over:
            self.agents = []
        return observations, dict.fromkeys(actions, 1.0), dict.fromkeys(actions, False), flags, {}


class Uneven(Steady):
    """Agents whose vectors and actions differ; the second's mask forbids its last action."""

    def __init__(self) -> None:
        super().__init__()
        self._sees = [spaces.Box(-1.0, 1.0, (1 + k,), np.float32) for k in range(3)]
        self._acts = [spaces.Discrete(2 + k) for k in range(3)]

    def observation_space(self, agent: str) -> spaces.Space:
        return self._sees[NAMES.index(agent)]

    def action_space(self, agent: str) -> spaces.Space:
        return self._acts[NAMES.index(agent)]

    def seen(self, agent: str) -> Any:
        return np.full(1 + NAMES.index(agent), 0.5, np.float32)

    def step(self, actions: dict[str, Any]) -> Any:
        assert all(a in self.action_space(agent) for agent, a in actions.items())
        return super().step(actions)


class NoSpace(Steady):
    def observation_space(self, agent: str) -> spaces.Space:
        return {"runner_0": self._observations, "runner_1": self._observations}[agent]


class NotANumber(Steady):
    """NaN for one agent, in the observation of the third step."""

    def seen(self, agent: str) -> Any:
        x = super().seen(agent)
        return x * np.nan if agent == "runner_1" and self.time == 3 else x


class NotANumberAtOnce(Steady):
    def seen(self, agent: str) -> Any:
        return super().seen(agent) * (np.nan if agent == "runner_2" else 1.0)


class RewardNotANumber(Steady):
    def step(self, actions: dict[str, Any]) -> Any:
        observations, rewards, *rest = super().step(actions)
        return observations, rewards | {"runner_1": float("inf")}, *rest


class Unannounced(Steady):
    def step(self, actions: dict[str, Any]) -> Any:
        observations, *rest = super().step(actions)
        return observations | {"stranger": np.zeros(3, np.float32)}, *rest


class Silent(Steady):
    """One agent's last reward is left out, as if it had never acted."""

    def step(self, actions: dict[str, Any]) -> Any:
        observations, rewards, *rest = super().step(actions)
        rewards.pop("runner_1")
        return observations, rewards, *rest


class Longer(Steady):
    """One agent's observation is longer than its space."""

    def seen(self, agent: str) -> Any:
        x = super().seen(agent)
        return np.append(x, 0.0).astype(np.float32) if agent == "runner_1" and self.time else x


class Returning(Steady):
    """An agent that had terminated acts again."""

    def step(self, actions: dict[str, Any]) -> Any:
        observations, rewards, terminated, truncated, infos = super().step(actions)
        terminated["runner_1"] = self.time == 1
        observations = {name: self.seen(name) for name in NAMES}
        return observations, rewards, terminated, truncated, infos


class OldGym(Steady):
    def step(self, actions: dict[str, Any]) -> Any:
        return super().step(actions)[:4]


class Mixed(Steady):
    def action_space(self, agent: str) -> spaces.Space:
        return spaces.Box(-1, 1, (2,)) if agent == "runner_1" else spaces.Discrete(2)


class Unreproducible(Steady):
    def seen(self, agent: str) -> Any:
        return np.random.default_rng().normal(size=3).astype(np.float32)


class Reused(Steady):
    """All observations are one array, written anew each step."""

    def __init__(self) -> None:
        super().__init__()
        self._arrays = {name: np.zeros(3, np.float32) for name in NAMES}

    def seen(self, agent: str) -> Any:
        array = self._arrays[agent]
        array[:] = super().seen(agent)
        return array


class TimeLimitTerminates(Steady):
    def step(self, actions: dict[str, Any]) -> Any:
        observations, rewards, never, over, infos = super().step(actions)
        return observations, rewards, over, never, infos


def parallel_env(**options: Any) -> Relay:
    """So that this module is one of PettingZoo's form."""
    return Steady(**options)
