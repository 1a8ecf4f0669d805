"""The policies of a run: what acts, what evaluates it, and which was the best while it trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from actorcritic.core.errors import UserError
from actorcritic.core.types import Environment
from actorcritic.runners.evaluate import CompiledEvaluation, Evaluation, evaluate_host
from actorcritic.runners.seeds import stacked
from actorcritic.runs import checkpoints
from actorcritic.runs.console import warn

Evaluator = Callable[[Any, Sequence[int]], Evaluation]


def evaluator(
    algorithms: Sequence[Any],
    environment: Any,
    actors: Any,
    episodes: int,
    deterministic: bool = True,
) -> Evaluator:
    """What evaluates actors, one for each algorithm, compiled where the environment is.

    The leaves of `actors` lead with [S]; `jax.ShapeDtypeStruct`s are enough.
    """
    if not isinstance(environment, Environment):
        return partial(evaluate_host, algorithms[0], environment, episodes, not deterministic)
    return CompiledEvaluation(stacked(algorithms), environment, actors, episodes, not deterministic)


def actors_of(algorithms: Sequence[Any], learners: Any) -> Any:
    """What acting needs of learners, one for each algorithm; leaves [S]."""
    return jax.vmap(lambda algorithm, learner: algorithm.actor(learner))(
        stacked(algorithms), learners
    )


def rows_of(tree: Any, rows: Sequence[int]) -> Any:
    """Some entries of a tree whose leaves lead with all."""
    return jax.tree.map(lambda x: x[np.asarray(rows, int)], tree)


def finite(actors: Any) -> Bool[np.ndarray, " S"]:
    """Which actors, of a tree whose leaves lead with [S], have finite numbers only."""
    found = [np.ones(len(jax.tree.leaves(actors)[0]), bool)]
    for leaf in jax.tree.leaves(actors):
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            rows = np.isfinite(np.asarray(leaf, np.float32)).reshape(len(leaf), -1)
            found.append(np.asarray(rows.all(axis=1)))
    return np.all(found, axis=0)


def check_finite(actors: Any, seeds: Sequence[int], name: str) -> None:
    """UserError where a policy would act by numbers that are not finite."""
    bad = [seed for seed, good in zip(seeds, finite(actors), strict=True) if not good]
    if bad:
        which = ", ".join(map(str, bad))
        raise UserError(
            f"{name} has parameters that are not finite (seed {which}): the training diverged, and "
            "such a policy decides nothing. Train again with a lower learning_rate, or choose "
            "another seed."
        )


@dataclass
class Best:
    """The policy of each seed that evaluated best while it trained."""

    seeds: tuple[int, ...]
    actors: Any  # leaves [S]
    scores: list[float]  # mean returns; -inf of a seed that was not evaluated
    steps: list[int]  # of each seed, when it was as good

    @classmethod
    def of(cls, seeds: tuple[int, ...], actors: Any) -> Self:
        """Before anything is known: the actors only give the form."""
        return cls(seeds, actors, [-np.inf] * len(seeds), [0] * len(seeds))

    def offer(self, row: int, score: float, step: int, actor: Any) -> bool:
        """Keep an actor, leaves [1], if it scores higher than the one that is kept; whether so."""
        if not score > self.scores[row]:
            return False
        self.scores[row], self.steps[row] = score, step
        self.actors = jax.tree.map(
            lambda x, new: jnp.asarray(x).at[row].set(new[0]), self.actors, actor
        )
        return True

    def save(self, folder: Path) -> None:
        scores = [x if np.isfinite(x) else None for x in self.scores]
        about = {"update": max(self.steps), "steps": self.steps, "scores": scores}
        checkpoints.save(folder, self.actors, about)

    @classmethod
    def read(cls, folder: Path, seeds: tuple[int, ...], like: Any) -> Self:
        """UserError where there is none."""
        if checkpoints.newest(folder) is None:
            raise UserError(
                f"{folder.parent} has no best policy. Train with evaluate_every and keep_best "
                "(--evaluate-every 10000 --keep-best), or take the last one."
            )
        actors, about = checkpoints.load(folder, like, warn)
        scores = [-np.inf if x is None else x for x in about["scores"]]
        return cls(seeds, actors, scores, about["steps"])
