"""From the log to the policy: outcomes are learned one after another, in their order.

What is learned is a function of the log alone. After outcome n, where n is a multiple of
`stride(n)`, `steps(n)` gradient steps are made; the batch of each is the newest outcomes and others
drawn from the last `MEMORY` ones by a generator that starts from (seed, n, step). So
every process that learns from a log comes to the same numbers, bit for bit (on one machine, with
the same versions), and a snapshot of them is a cache: nothing is in it that the log does not tell.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Bool, Float, Int

from actorcritic.core.errors import UserError
from actorcritic.core.machine import cores
from actorcritic.decisions import features
from actorcritic.decisions.log import Log, Outcome, numbers_of
from actorcritic.decisions.policy import TINY, Arrays, Policy, Scale

if TYPE_CHECKING:
    from actorcritic.decisions.learning import DecisionActorCritic, Learner

RULE = 1  # of learning, default hyperparameters included: another number rebuilds every learner
MEMORY = 10_000  # outcomes that are learned from again
FEWEST_ACTIONS = 8  # outputs of a network; doubled when there are more actions
AT_ONCE = 256  # outcomes that are read together
SNAPSHOT_EVERY = 2_000  # outcomes
PRIOR = 2.0  # rewards, that their scale is shrunk by


def stride(n: int) -> int:
    """Outcomes for each time that is learned: after 16,384 of them, every fourth."""
    return 1 if n <= 16_384 else 4


def steps(n: int) -> int:
    """Gradient steps each time: more of them while there is little to learn from."""
    return 4 if n <= 2048 else 1


@dataclasses.dataclass
class _Sums:
    """Of the rewards so far."""

    count: float = 0.0
    total: float = 0.0
    squares: float = 0.0

    def add(self, reward: float) -> None:
        self.count, self.total, self.squares = (
            self.count + 1,
            self.total + reward,
            self.squares + reward * reward,
        )

    @property
    def mean_and_deviation(self) -> tuple[float, float]:
        if not self.count:
            return 0.0, 1.0
        mean, square = self.total / self.count, self.squares / self.count
        spread = max(square - mean * mean, 0.0)
        variance = (self.count * spread + PRIOR * square / 4) / (self.count + PRIOR)
        return mean, np.sqrt(variance) if variance > TINY else 1.0


class _Memory:
    """The last outcomes as arrays; outcome number n lies at (n − 1) % MEMORY."""

    def __init__(self, size: int) -> None:
        self._size, self._room = size, 0
        self.features: Float[np.ndarray, "M d"] = np.zeros((0, size), np.float32)
        self.given: Bool[np.ndarray, " M"] = np.zeros(0, bool)
        self.allowed: list[list[int]] = []
        self.action: Int[np.ndarray, " M"] = np.zeros(0, np.int32)
        self.log_prob: Float[np.ndarray, " M"] = np.zeros(0, np.float32)
        self.reward: Float[np.ndarray, " M"] = np.zeros(0)

    def put(self, number: int, outcome: Outcome) -> int:
        """Keep an outcome; returns its place."""
        place = (number - 1) % MEMORY
        if place >= self._room:
            self._grow(min(MEMORY, max(1024, 2 * place)))
        found = features.numbers_of(outcome.context, outcome.vector, self._size)
        self.features[place], self.given[place] = found, outcome.vector is not None
        self.allowed[place] = numbers_of(outcome.allowed)
        self.action[place] = outcome.action
        self.log_prob[place] = np.log(outcome.probability)
        self.reward[place] = outcome.reward
        return place

    def _grow(self, room: int) -> None:
        for name in ("features", "given", "action", "log_prob", "reward"):
            old = getattr(self, name)
            new = np.zeros((room, *old.shape[1:]), old.dtype)
            new[: len(old)] = old
            setattr(self, name, new)
        self.allowed += [[]] * (room - len(self.allowed))
        self._room = room

    def masks(self, places: Int[np.ndarray, " N"], actions: int) -> Bool[np.ndarray, "N K"]:
        found = np.zeros((len(places), actions), bool)
        for row, place in enumerate(places):
            found[row, self.allowed[place]] = True
        return found


class OnlineLearner:
    """Learns from one log. It has a connection of its own, so that reading keeps nobody waiting."""

    def __init__(self, path: Path, settings: dict[str, Any], synchronous: Any = "normal") -> None:
        self.log = Log(path, synchronous=synchronous)
        self._size, self._seed = int(settings["features"]), int(settings["seed"])
        self._hyperparameters = dict(settings["hyperparameters"])
        self._algorithm: DecisionActorCritic | None = None
        self._learner: Learner | None = None
        self._step: Callable[..., Any] | None = None
        self._made_by = made_by()
        self._saved = 0
        self._forget()
        self._restore()

    def _forget(self) -> None:
        self.learned, self._scale, self._rewards = 0, Scale.start(self._size), _Sums()
        self._outcomes: Int[np.ndarray, " K"] = np.zeros(FEWEST_ACTIONS, np.int64)
        self._stored: dict[str, np.ndarray] | None = None
        self._memory: _Memory | None = None
        self._learner = None

    def close(self) -> None:
        self.log.close()

    # ------------------------------------------------------------------ learning

    def learn(
        self, until: int | None = None, *, stopped: Callable[[], bool] = lambda: False
    ) -> int:
        """Learn from all outcomes up to number `until`; returns how many are learned now.

        What another process has learned already is taken over, where it is far ahead.
        """
        _, last = self.log.counts()
        until = last if until is None else min(until, last)
        if until - self.learned > SNAPSHOT_EVERY:
            self._restore(until)
        while self.learned < until and not stopped():
            after = self.learned
            found = self.log.outcomes(after, min(until, after + AT_ONCE))
            for number, outcome in enumerate(found, after + 1):
                if outcome.number != number:
                    raise self._lacks(number)
                self._learn_one(outcome)
            if not found:
                raise self._lacks(after + 1)
            if self.learned - self._saved >= SNAPSHOT_EVERY:
                self.save()
        return self.learned

    def _lacks(self, number: int) -> UserError:
        return UserError(
            f"The log {self.log.path} lacks its outcome number {number}: rows were removed from "
            "it. Restore it from a copy."
        )

    def _learn_one(self, outcome: Outcome) -> None:
        if self._memory is None:
            self._recall()
        assert self._memory is not None
        place = self._memory.put(self.learned + 1, outcome)
        self.learned += 1
        named = max(outcome.action, *numbers_of(outcome.allowed))
        while named >= len(self._outcomes):
            self._outcomes = np.pad(self._outcomes, (0, len(self._outcomes)))
        self._outcomes[outcome.action] += 1
        self._rewards.add(outcome.reward)
        if self._memory.given[place]:
            self._scale.add(self._memory.features[place])
        if self.learned % stride(self.learned) == 0:
            for turn in range(steps(self.learned)):
                self._gradient_step(turn)

    def _recall(self) -> None:
        """Fill the memory with what was learned before."""
        self._memory = _Memory(self._size)
        for first in range(max(0, self.learned - MEMORY), self.learned, AT_ONCE):
            last = min(first + AT_ONCE, self.learned)
            for number, outcome in enumerate(self.log.outcomes(first, last), first + 1):
                self._memory.put(number, outcome)

    def _gradient_step(self, turn: int) -> None:
        from actorcritic.decisions.learning import Decisions

        self._make_learner()
        memory, n, actions = self._memory, self.learned, len(self._outcomes)
        assert memory is not None
        assert self._algorithm is not None
        assert self._step is not None
        rng, rows = np.random.default_rng([self._seed, n, turn]), self._algorithm.batch_size
        back = rng.integers(min(n, MEMORY), size=rows)
        newest = min(stride(n), rows, n)
        back[:newest] = np.arange(newest)
        places = (n - 1 - back) % MEMORY
        x, given = memory.features[places], memory.given[places]
        if given.any():
            x = np.where(given[:, None], self._scale.fixed()(x), x)
        mean, deviation = self._rewards.mean_and_deviation
        batch = Decisions(
            x,  # type: ignore[arg-type]
            memory.masks(places, actions),  # type: ignore[arg-type]
            memory.action[places],  # type: ignore[arg-type]
            memory.log_prob[places],  # type: ignore[arg-type]
            ((memory.reward[places] - mean) / deviation).astype(np.float32),  # type: ignore[arg-type]
        )
        self._learner = self._step(self._algorithm, self._learner, batch)

    # ------------------------------------------------------------------ the learner and its cache

    def _make_learner(self) -> None:
        """The learner in JAX, with an output for each action."""
        import gymnasium
        import jax

        from actorcritic.core.types import EnvSpec
        from actorcritic.decisions.learning import DecisionActorCritic

        if self._algorithm is None:
            self._algorithm = DecisionActorCritic(**self._hyperparameters)
            key, progress = jax.random.key(0), np.float32(0)

            def step(algorithm: Any, learner: Any, batch: Any) -> Any:
                return algorithm.update(learner, batch, key, progress)[0]

            self._step = jax.jit(step)
        if self._learner is None:
            actions = FEWEST_ACTIONS
            if self._stored is not None:
                actions = len(self._stored[_NAMES[3]])
            observations = gymnasium.spaces.Box(-np.inf, np.inf, (self._size,))
            spec = EnvSpec("decisions", observations, gymnasium.spaces.Discrete(actions))
            learner = self._algorithm.init(jax.random.key(self._seed), spec)
            if self._stored is not None:
                paths, shape = jax.tree_util.tree_flatten_with_path(learner)
                leaves = [self._stored[jax.tree_util.keystr(path)] for path, _ in paths]
                learner = jax.tree_util.tree_unflatten(shape, leaves)
                self._stored = None
            self._learner = learner
        if self._learner.actions < len(self._outcomes):
            self._learner = self._algorithm.widened(self._learner, len(self._outcomes))

    def _leaves(self) -> dict[str, np.ndarray] | None:
        """Parameters and moments by name; None where nothing was learned."""
        if self._learner is None:
            return self._stored
        import jax

        paths, _ = jax.tree_util.tree_flatten_with_path(self._learner)
        return {jax.tree_util.keystr(path): np.array(leaf) for path, leaf in paths}

    def save(self) -> None:
        """Keep what is learned as a snapshot."""
        leaves = self._leaves()
        if leaves is None or self.learned == self._saved:
            return
        self.log.save_snapshot(self.learned, self._made_by, self.state())
        self._saved = self.learned

    def state(self) -> bytes:
        """Everything that was learned, as bytes: the same for the same log."""
        own = {
            "outcomes": self._outcomes,
            "scale": np.stack([self._scale.total, self._scale.squares]),
            "sums": np.array([self._scale.count, *dataclasses.astuple(self._rewards)]),
        }
        return safetensors.numpy.save({**own, **(self._leaves() or {})})

    def _restore(self, most: int | None = None) -> None:
        """Take over the newest snapshot that is ahead."""
        _, last = self.log.counts()
        found = self.log.snapshot(self._made_by, last if most is None else min(most, last))
        if found is None or found[0] <= self.learned:
            return
        try:
            leaves = safetensors.numpy.load(found[1])
        except safetensors.SafetensorError:
            return  # a cache that is damaged is made anew
        if not _fits(leaves, self._size):
            return
        self._forget()
        self.learned = self._saved = found[0]
        self._outcomes = leaves.pop("outcomes")
        total, squares = leaves.pop("scale")
        count, *sums = leaves.pop("sums").tolist()
        self._scale, self._rewards = Scale(count, total, squares), _Sums(*sums)
        self._stored = leaves

    # ------------------------------------------------------------------ acting

    def policy(self) -> Policy:
        """What acts by all that is learned so far."""
        actor: Arrays | None = None
        critic: Arrays | None = None
        if self._learner is not None:
            params = self._learner.params
            actor, critic = (
                Arrays(*(np.array(x) for x in (*head.hidden, *head.output)))
                for head in (params.actor, params.critic)
            )
        elif self._stored is not None:
            actor, critic = (
                Arrays(*(self._stored[name.replace("actor", network)] for name in _NAMES))
                for network in ("actor", "critic")
            )
        if critic is not None:
            mean, deviation = (np.float32(x) for x in self._rewards.mean_and_deviation)
            critic = critic._replace(
                out_weight=critic.out_weight * deviation,
                out_bias=critic.out_bias * deviation + mean,
            )
        return Policy(actor, critic, self._scale.fixed(), self._outcomes.copy(), self.learned)


# Of the actor's arrays in a snapshot.
_NAMES = tuple(
    f".params.actor.{layer}.{part}" for layer in ("hidden", "output") for part in ("weight", "bias")
)


def _fits(leaves: dict[str, np.ndarray], size: int) -> bool:
    known = {"outcomes", "scale", "sums", *_NAMES} <= leaves.keys()
    return known and leaves["scale"].shape == (2, size) and len(leaves[_NAMES[0]]) == size


def made_by() -> str:
    """What the bits of a learner depend on beside its log."""
    versions = ", ".join(f"{x} {importlib.metadata.version(x)}" for x in ("jax", "jaxlib", "numpy"))
    return f"rule {RULE}, {versions}, {platform.machine()}, {cores()} cores"
