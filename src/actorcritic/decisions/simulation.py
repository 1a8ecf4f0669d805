"""A world of tools in which the best choice is known, and others that learn to choose.

A task is one of several kinds, which nobody is told; its features are the kind's centre plus noise,
at unit length. Each kind has one tool that does it well; the others do it now and then.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Float, Int

from actorcritic.core.errors import UserError
from actorcritic.decisions.agent import FAILURE, SUCCESS, Decider

LAST = 1_000  # decisions, whose mean reward is the score
KINDS = 3  # of tasks, for each tool


class Tasks(NamedTuple):
    """What comes, one task a row; the reward of every tool, and its mean."""

    features: Float[np.ndarray, "n d"]
    kind: Int[np.ndarray, " n"]
    reward: Float[np.ndarray, "n K"]
    mean: Float[np.ndarray, "n K"]


@dataclass(frozen=True)
class ToolWorld:
    """`noise` is the length of what is a task's own, beside its kind's centre of length 1."""

    tools: int = 12
    features: int = 512
    noise: float = 1.0

    def __post_init__(self) -> None:
        if not 2 <= self.tools <= 1000 or not 2 <= self.features <= 65_536:
            raise UserError("A world of tools has 2 to 1,000 tools, and 2 to 65,536 features.")

    def draw(self, decisions: int, rng: np.random.Generator) -> Tasks:
        """A world, and so many tasks from it."""
        kinds = KINDS * self.tools
        centres = rng.normal(size=(kinds, self.features)) / np.sqrt(self.features)
        success = rng.beta(1, 4, size=(kinds, self.tools))
        best = rng.integers(self.tools, size=kinds)
        success[np.arange(kinds), best] = rng.uniform(0.8, 0.98, size=kinds)
        kind = rng.integers(kinds, size=decisions)
        own = rng.normal(size=(decisions, self.features)) / np.sqrt(self.features)
        x = centres[kind] + self.noise * own
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        chance = success[kind]
        succeeded = rng.random(chance.shape) < chance
        return Tasks(
            x.astype(np.float32),
            kind,
            np.where(succeeded, SUCCESS, FAILURE),
            FAILURE + (SUCCESS - FAILURE) * chance,
        )


class Contender(Protocol):
    """Something that chooses a tool for features, and is told the reward."""

    def choose(self, x: Float[np.ndarray, " d"]) -> int: ...
    def learn(self, x: Float[np.ndarray, " d"], action: int, reward: float) -> None: ...


class LinUCB:
    """The disjoint linear model of Li et al. 2010 (algorithm 1), with ridge 1."""

    def __init__(self, d: int, actions: int, alpha: float = 0.15) -> None:
        self._alpha = alpha
        self._inverse = np.tile(np.eye(d, dtype=np.float32), (actions, 1, 1))
        self._sum = np.zeros((actions, d), np.float32)
        self._theta = np.zeros((actions, d), np.float32)

    def choose(self, x: Float[np.ndarray, " d"]) -> int:
        width = np.sqrt(np.maximum((self._inverse @ x) @ x, 0))
        return int(np.argmax(self._theta @ x + self._alpha * width))

    def learn(self, x: Float[np.ndarray, " d"], action: int, reward: float) -> None:
        own = self._inverse[action]
        u = own @ x
        own -= np.outer(u, u) / (1 + x @ u)
        self._sum[action] += np.float32(reward) * x
        self._theta[action] = own @ self._sum[action]

    def values(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n K"]:
        """What it expects of every action."""
        return x @ self._theta.T


class Logistic:
    """Logistic regression of success for each tool, by AdaGrad; ε-greedy."""

    def __init__(
        self, d: int, actions: int, rng: np.random.Generator, epsilon: float = 0.05
    ) -> None:
        self._rng, self._epsilon = rng, epsilon
        self._weight = np.zeros((actions, d + 1), np.float32)
        self._squares = np.full((actions, d + 1), 1e-2, np.float32)

    def choose(self, x: Float[np.ndarray, " d"]) -> int:
        actions = len(self._weight)
        if self._rng.random() < self._epsilon:
            return int(self._rng.integers(actions))
        score = self._weight[:, :-1] @ x + self._weight[:, -1]
        # Of equal ones any, so that the first tool is not favoured before anything is known.
        return int(self._rng.choice(np.flatnonzero(score == score.max())))

    def learn(self, x: Float[np.ndarray, " d"], action: int, reward: float) -> None:
        z = np.append(x, np.float32(1))
        chance = 1 / (1 + np.exp(-self._weight[action] @ z))
        target = (reward - FAILURE) / (SUCCESS - FAILURE)
        gradient = ((chance - target) * z).astype(np.float32)
        self._squares[action] += gradient**2
        self._weight[action] -= 0.5 * gradient / np.sqrt(self._squares[action])

    def values(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n K"]:
        return x @ self._weight[:, :-1].T + self._weight[:, -1]


class Ours:
    """The agent itself, with its log in a file."""

    def __init__(self, path: Path, d: int, actions: int, seed: int, **options: Any) -> None:
        self._names = [f"tool {k}" for k in range(actions)]
        self._agent = Decider(
            path,
            self._names,
            features=d,
            learning="on call",
            seed=seed,
            rng=np.random.default_rng(seed),
            **options,
        )
        self._place = {name: k for k, name in enumerate(self._names)}
        self._id = ""

    def choose(self, x: Float[np.ndarray, " d"]) -> int:
        choice = self._agent.choose(x)
        self._id = choice.id
        return self._place[choice.action]

    def learn(self, x: Float[np.ndarray, " d"], action: int, reward: float) -> None:
        self._agent.feedback(self._id, reward=reward)
        self._agent.learn()

    def close(self) -> None:
        self._agent.close()


AGENT, LINUCB, LOGISTIC, RANDOM = "actor-critic", "LinUCB", "logistic regression", "random"
CONTENDERS = (AGENT, LINUCB, LOGISTIC, RANDOM)

_BEST, _UNIFORM = "the best tool", "the mean of all tools"


class Simulated(NamedTuple):
    """Mean rewards [seeds, decisions] of what each chose, of the best tool, and of a random one."""

    earned: dict[str, Float[np.ndarray, "S n"]]
    best: Float[np.ndarray, "S n"]
    random: Float[np.ndarray, "S n"]

    def arrays(self) -> dict[str, np.ndarray]:
        """By name, to be kept in a file."""
        return {**self.earned, _BEST: self.best, _UNIFORM: self.random}

    @classmethod
    def of(cls, seeds: Sequence[dict[str, np.ndarray]]) -> Simulated:
        """What was kept of some seeds, as one."""
        joined = {name: np.concatenate([each[name] for each in seeds]) for name in seeds[0]}
        earned = {name: joined[name] for name in CONTENDERS if name in joined}  # files sort them
        return cls(earned, joined[_BEST], joined[_UNIFORM])

    def shares(self, name: str, last: int = LAST) -> Float[np.ndarray, " S"]:
        """Of each seed: how far of the way from random to best, in the last decisions."""
        own, best, random = (
            x[:, -last:].mean(1) for x in (self.earned[name], self.best, self.random)
        )
        return (own - random) / (best - random)

    def regret(self, name: str) -> Float[np.ndarray, "S n"]:
        """Σ (best − earned) up to each decision."""
        return np.cumsum(self.best - self.earned[name], 1)


def simulate(
    world: ToolWorld,
    decisions: int,
    seeds: tuple[int, ...],
    *,
    names: tuple[str, ...] = CONTENDERS,
    options: dict[str, Any] | None = None,
    tell: Callable[[int, str], None] = lambda count, text: None,
) -> Simulated:
    """Let each contender decide on the same tasks, one world a seed."""
    earned: dict[str, list[np.ndarray]] = {name: [] for name in names}
    best, random = [], []
    for seed in seeds:
        tasks = world.draw(decisions, np.random.default_rng([seed, 16]))
        best.append(tasks.mean.max(1))
        random.append(tasks.mean.mean(1))
        for name in names:
            tell(0, f"{name}, seed {seed}")
            earned[name].append(_one(name, world, tasks, seed, options or {}, tell))
    return Simulated(
        {name: np.stack(rows) for name, rows in earned.items()}, np.stack(best), np.stack(random)
    )


def _one(
    name: str,
    world: ToolWorld,
    tasks: Tasks,
    seed: int,
    options: dict[str, Any],
    tell: Callable[[int, str], None],
) -> Float[np.ndarray, " n"]:
    """The mean reward of what a contender chose in each decision."""
    if name == RANDOM:
        tell(len(tasks.mean), name)
        return tasks.mean.mean(1)
    with tempfile.TemporaryDirectory() as folder:
        rng, d = np.random.default_rng([seed, 17]), world.features
        contender: Any
        match name:
            case "LinUCB":
                contender = LinUCB(d, world.tools)
            case "logistic regression":
                contender = Logistic(d, world.tools, rng)
            case _:
                contender = Ours(Path(folder) / "log.db", d, world.tools, seed, **options)
        earned = np.zeros(len(tasks.mean))
        for i, x in enumerate(tasks.features):
            action = contender.choose(x)
            contender.learn(x, action, float(tasks.reward[i, action]))
            earned[i] = tasks.mean[i, action]
            if i % 50 == 49:
                tell(50, f"{name}, seed {seed}")
        if name == AGENT:
            contender.close()
    return earned
