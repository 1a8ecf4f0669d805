"""Hyperparameters of a named algorithm for an environment without a preset.

They follow from its spaces, its time limit and the number of steps, never from its name.
`benchmarks/defaults.py` measures them; docs/defaults.md says what they are and what they reach.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import gymnasium

from actorcritic.algorithms.catalogue import ALGORITHMS, FROM_DATA
from actorcritic.core import hyperparameters
from actorcritic.core.types import EnvSpec
from actorcritic.core.words import shown
from actorcritic.maths import spaces

UPDATES = 128  # that a training has at least, as long as its batches can be smaller
SMALLEST_BATCH, LARGEST_BATCH = 256, 2048  # steps
LONG_EPISODE = 1000
NO_LIMIT = 1000  # steps that an episode is taken to last where no time limit is stated


@dataclass(frozen=True)
class Task:
    """What the defaults depend on. `given` are the hyperparameters that the user chose."""

    observations: Literal["one-hot", "vector", "image"]
    continuous: bool
    limit: int | None
    total_steps: int
    given: Mapping[str, Any]
    unit: str = "steps"  # of a training

    @classmethod
    def of(cls, spec: EnvSpec, total_steps: int, given: Mapping[str, Any]) -> Task:
        observations: Literal["one-hot", "vector", "image"] = "one-hot"
        if spaces.image_parts(spec.observation_space):
            observations = "image"
        elif spaces.is_numeric(spec.observation_space).any():
            observations = "vector"
        return cls(
            observations,
            isinstance(spec.action_space, gymnasium.spaces.Box),
            spec.max_episode_steps,
            total_steps,
            given,
        )

    def __str__(self) -> str:
        kind = "continuous" if self.continuous else "discrete"
        return (
            f"{self.observations} observations, {kind} actions and {self.total_steps:,} {self.unit}"
        )

    @property
    def longest(self) -> int:
        """Steps of an episode."""
        return self.limit or NO_LIMIT

    @property
    def normalization(self) -> dict[str, Any]:
        """Of numbers of unknown scale; one-hot vectors and images have a scale."""
        return {
            "normalize_observation": self.observations == "vector",
            "normalize_reward": True,
        }

    @property
    def entropy_coefficient(self) -> float:
        """Tables often hold their first reward back; a policy must not settle before it."""
        if self.continuous:
            return 0.0
        return 0.05 if self.observations == "one-hot" else 0.01

    def rollout(self, minibatch: int) -> dict[str, Any]:
        """A batch of which there are enough in a training, and its minibatches."""
        size = LARGEST_BATCH
        while size > SMALLEST_BATCH and size * UPDATES > self.total_steps:
            size //= 2
        whole = self.given.get("whole_episodes", False)
        # Long episodes in fewer environments: a rollout should see more of one than a few steps.
        long = self.limit is not None and self.limit >= LONG_EPISODE
        num_envs = self.given.get("num_envs", 2 if long else 8)
        num_steps = self.longest if whole else max(1, size // num_envs)
        num_steps = self.given.get("num_steps", num_steps)
        rows = num_envs * (min(num_steps, self.limit or num_steps) if whole else num_steps)
        return {
            "num_envs": num_envs,
            "num_steps": num_steps,
            "num_minibatches": largest_divisor(rows, rows // minibatch),
        }


def largest_divisor(number: int, most: int) -> int:
    return next((k for k in range(most, 1, -1) if number % k == 0), 1)


def ppo(task: Task) -> dict[str, Any]:
    learning_rate = 1e-3 if task.observations == "one-hot" else 7e-4
    if task.total_steps >= UPDATES * LARGEST_BATCH:
        learning_rate = 3e-4  # there is time to be careful
    return (
        task.rollout(minibatch=64)
        | task.normalization
        | {
            "num_epochs": 10,
            "learning_rate": learning_rate,
            "learning_rate_schedule": "linear",
            "entropy_coefficient": task.entropy_coefficient,
        }
    )


def mappo(task: Task) -> dict[str, Any]:
    """As ppo, with what Yu et al. 2022 found to matter: values are normalised, not rewards."""
    recipe = {
        "normalize_reward": False,
        "normalize_value": True,
        "huber_delta": 10.0,
        "clip_value": True,
        "value_coefficient": 1.0,
        "max_grad_norm": 10.0,
        "entropy_coefficient": 0.01,
    }
    return ppo(task) | recipe


def trpo(task: Task) -> dict[str, Any]:
    return task.rollout(minibatch=128) | task.normalization


def a2c(task: Task) -> dict[str, Any]:
    return task.normalization | {"num_envs": 2, "entropy_coefficient": task.entropy_coefficient}


def a3c(task: Task) -> dict[str, Any]:
    """As A2C: two workers have as many environments as it has."""
    return task.normalization | {"num_workers": 2, "entropy_coefficient": task.entropy_coefficient}


def one_step(task: Task) -> dict[str, Any]:
    return task.normalization


def reinforce(task: Task) -> dict[str, Any]:
    """As many environments as leave enough updates, each of which takes an episode of each."""
    num_envs = max(1, min(8, task.total_steps // (UPDATES * task.longest)))
    return task.normalization | {
        "num_envs": num_envs,
        "num_steps": task.longest,
        "learning_rate": 3e-3,
    }


def from_data(task: Task) -> dict[str, Any]:
    """Numbers of unknown scale, as the other algorithms have them."""
    return {"normalize_observation": task.observations == "vector"}


RULES: dict[str, Callable[[Task], dict[str, Any]]] = {
    "ppo": ppo,
    "mappo": mappo,
    "ippo": mappo,
    "trpo": trpo,
    "a2c": a2c,
    "a3c": a3c,
    "impala": a2c,
    "q-actor-critic": one_step,
    "td-actor-critic": one_step,
    "reinforce": reinforce,
    "bc": from_data,
    "iql": from_data,
    "cql": from_data,
}


def defaults(
    name: str, spec: EnvSpec, total_steps: int, given: Mapping[str, Any]
) -> tuple[dict[str, Any], str]:
    """Hyperparameters beside those that are given; and a sentence that says which and why.

    Raises UserError where what is given is no hyperparameter of the algorithm, or out of range.
    """
    cls = ALGORITHMS[name]
    hyperparameters.check(hyperparameters.replace(cls(), **given))
    task = Task.of(spec, total_steps, given)
    if name in FROM_DATA:
        task = replace(task, unit="updates")
    found = RULES[name](task) if name in RULES else {}
    found = {k: v for k, v in found.items() if k not in given and v != getattr(cls, k)}
    which = " ".join(f"{k}={shown(v)}" for k, v in found.items()) or "the algorithm's own"
    return found, f"{name} has no preset for {spec.id}; its defaults for {task}: {which}."
