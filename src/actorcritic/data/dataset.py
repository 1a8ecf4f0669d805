"""A data set: recorded episodes, of whatever policy, to learn from without an environment.

Every observation is kept once: an episode of T steps has T + 1 of them, so that what follows a step
is its true successor, also where the episode was cut.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import gymnasium
import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from actorcritic.core.errors import UserError
from actorcritic.core.types import EnvSpec, Extras, Observation, Transition
from actorcritic.data import checks
from actorcritic.maths import spaces

NAMES = ("observation", "action", "reward", "terminated", "truncated")
OPTIONAL = ("log_prob",)


@dataclass(frozen=True, eq=False)
class Dataset:
    """N steps in E episodes, one after another.

    `observation` has N + E rows: those of an episode of T steps are T + 1. Actions are as the
    environment took them. `log_prob` is that of each action by the policy that recorded it, where
    it is known. `about` says where the data come from.
    """

    spec: EnvSpec
    observation: Observation  # leaves [N + E, ...]
    action: np.ndarray  # [N, ...]
    reward: Float[np.ndarray, " N"]
    terminated: Bool[np.ndarray, " N"]
    truncated: Bool[np.ndarray, " N"]
    lengths: Int[np.ndarray, " E"]
    log_prob: Float[np.ndarray, " N"] | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    source: str | None = None  # where it was opened: a folder, or minari:ID

    # ------------------------------------------------------------------ made of

    @classmethod
    def from_episodes(
        cls,
        episodes: Iterable[Mapping[str, Any]],
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
        *,
        id: str = "data",
        max_episode_steps: int | None = None,
        about: Mapping[str, Any] | None = None,
        source: str | None = None,
    ) -> Self:
        """Of episodes, each a mapping with

        - `observation` [T + 1, …] (or of a Dict or Tuple space, its parts), the last one included,
        - `action` [T, …] and `reward` [T],
        - `terminated` and `truncated`: [T], or one truth value for the episode's end,
        - `log_prob` [T], where it is known.

        Raises UserError where the parts of an episode do not fit each other or the spaces.
        """
        spec = EnvSpec(id, observation_space, action_space, max_episode_steps)
        spaces.check(spec)
        found = [checks.fitted(spec, number, episode) for number, episode in enumerate(episodes)]
        if not found:
            raise UserError("A data set needs at least one episode; got none.")
        known = ["log_prob" in episode for episode in found]
        if any(known) and not all(known):
            raise UserError(
                f"Episode {known.index(False)} (counted from 0) has no log_prob, and others have: "
                "give it for all of them, or leave it out."
            )
        columns: dict[str, Any] = {
            name: jax.tree.map(lambda *x: np.concatenate(x), *(each[name] for each in found))
            for name in found[0]
        }
        lengths = np.array([len(each["reward"]) for each in found], np.int64)
        return cls(spec, **columns, lengths=lengths, about=dict(about or {}), source=source)

    @classmethod
    def from_arrays(
        cls,
        observation: Observation,
        action: Any,
        reward: Any,
        terminated: Any,
        truncated: Any,
        next_observation: Observation | None = None,
        *,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
        log_prob: Any = None,
        **about: Any,
    ) -> Self:
        """Of steps one after another [N, …], as D4RL and others keep them.

        Where a step neither terminated nor was truncated, the row behind it follows it. Without
        `next_observation`, the observation after a truncated step is not known, and UserError says
        so. `about` are `id`, `max_episode_steps` and `about` of `from_episodes`.
        """
        ends = _flags("terminated", terminated) | _flags("truncated", truncated)
        count = len(ends)
        if not count:
            raise UserError("A data set needs at least one step; got none.")
        after = next_observation
        if after is None:
            cut = np.flatnonzero(_flags("truncated", truncated) & ~_flags("terminated", terminated))
            if len(cut):
                raise UserError(
                    f"Step {cut[0]} (counted from 0) was truncated, and the observation after it "
                    "is not known; its value counts. Give next_observation, or leave such steps "
                    "out and mark the ones before them as truncated, with their successors."
                )
            # What follows a terminal step counts nothing: any observation stands for it.
            after = jax.tree.map(
                lambda x: np.concatenate([np.asarray(x)[1:], np.asarray(x)[-1:]]), observation
            )
        checks.check_lengths(
            count, observation=observation, action=action, reward=reward, next_observation=after
        )
        if next_observation is not None:
            checks.check_successors(observation, next_observation, ends)
        stops = np.flatnonzero(ends) + 1
        if not len(stops) or stops[-1] != count:
            stops = np.append(stops, count)  # an episode without an end, which `check` refuses

        def episodes() -> Iterable[dict[str, Any]]:
            for start, stop in zip([0, *stops[:-1]], stops, strict=True):
                rows = slice(start, stop)
                joined = jax.tree.map(
                    lambda x, y, rows=rows: np.concatenate(
                        [np.asarray(x)[rows], np.asarray(y)[rows][-1:]]
                    ),
                    observation,
                    after,
                )
                one = {"observation": joined, "action": np.asarray(action)[rows]}
                one["reward"] = np.asarray(reward)[rows]
                one["terminated"] = np.asarray(terminated)[rows]
                one["truncated"] = np.asarray(truncated)[rows]
                if log_prob is not None:
                    one["log_prob"] = np.asarray(log_prob)[rows]
                yield one

        return cls.from_episodes(episodes(), observation_space, action_space, **about)

    # ------------------------------------------------------------------ what is in it

    @property
    def steps(self) -> int:
        return len(self.reward)

    @property
    def episodes(self) -> int:
        return len(self.lengths)

    @cached_property
    def starts(self) -> Int[np.ndarray, " E"]:
        """The first step of each episode."""
        return np.cumsum(self.lengths) - self.lengths

    @cached_property
    def episode(self) -> Int[np.ndarray, " N"]:
        """Which episode each step is of."""
        return np.repeat(np.arange(self.episodes), self.lengths)

    @cached_property
    def place(self) -> Int[np.ndarray, " N"]:
        """Where in `observation` each step's own lies; its successor lies one further."""
        return (np.arange(self.steps) + self.episode).astype(np.int32)

    @cached_property
    def returns(self) -> Float[np.ndarray, " E"]:
        """The sum of rewards of each episode."""
        return np.add.reduceat(self.reward.astype(np.float64), self.starts)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all that is learned from: two data sets are equal where these are."""
        digest = hashlib.sha256(json.dumps(self.described(), sort_keys=True).encode())
        for leaf in jax.tree.leaves(self.columns()):
            digest.update(f"{leaf.dtype}{leaf.shape}".encode())
            digest.update(np.ascontiguousarray(leaf).tobytes())
        return digest.hexdigest()

    def columns(self) -> dict[str, Any]:
        """Everything that is an array."""
        names = (*NAMES, "lengths", *(["log_prob"] if self.log_prob is not None else []))
        return {name: getattr(self, name) for name in names}

    def described(self) -> dict[str, Any]:
        """The spaces, as plain JSON."""
        return {
            "id": self.spec.id,
            "observation_space": spaces.to_json(self.spec.observation_space),
            "action_space": spaces.to_json(self.spec.action_space),
            "max_episode_steps": self.spec.max_episode_steps,
        }

    def returns_to_go(self, gamma: float) -> Float[np.ndarray, " N"]:
        """Σ_k γ^k r_{t+k} up to the end of the episode, in float64."""
        found, ahead = np.zeros(self.steps), 0.0
        last = np.zeros(self.steps, bool)
        last[self.starts + self.lengths - 1] = True
        for t in range(self.steps - 1, -1, -1):
            ahead = float(self.reward[t]) + gamma * (0.0 if last[t] else ahead)
            found[t] = ahead
        return found

    def at(self, rows: Any) -> Transition:
        """Steps [n] as a batch that leads with [1, n], as an algorithm learns from them."""
        place = self.place[rows]

        def column(x: np.ndarray) -> Any:
            return x[rows][None]

        return Transition(
            jax.tree.map(lambda x: x[place][None], self.observation),
            column(spaces.as_drawn(self.spec.action_space, self.action)),
            column(self.reward),
            column(self.terminated),
            column(self.truncated),
            jax.tree.map(lambda x: x[place + 1][None], self.observation),
            Extras(),
        )

    def check(self, spec: EnvSpec | None = None) -> None:
        """UserError for the first thing wrong; with `spec`, also where its spaces are others."""
        if spec is not None:
            checks.check_spaces(self.spec, spec)
        wrong = next(checks.problems(self), None)
        if wrong is not None:
            raise UserError(wrong)

    def problems(self) -> list[str]:
        """All that is wrong, a sentence for each kind."""
        return list(checks.problems(self))

    @property
    def counts(self) -> str:
        return f"{self.steps:,} steps in {self.episodes:,} episodes"

    def __repr__(self) -> str:
        return f"Dataset({self.spec.id}: {self.counts})"


def _flags(name: str, given: Any) -> Bool[np.ndarray, " N"]:
    return checks.flags(name, given, "")
