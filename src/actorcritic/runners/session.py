"""What every runner offers to the code that keeps runs: train a while, report, save, resume."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Float, Int, PyTree


class EpisodeTable(NamedTuple):
    """Finished training episodes, one a row, in the order they ended."""

    seed: Int[np.ndarray, " n"]
    step: Int[np.ndarray, " n"]  # environment steps of that seed when the episode ended
    returns: Float[np.ndarray, " n"]
    length: Int[np.ndarray, " n"]

    @classmethod
    def join(cls, tables: list[EpisodeTable]) -> EpisodeTable:
        empty = cls(*(np.zeros(0, kind) for kind in (np.int64, np.int64, np.float64, np.int64)))
        return cls(*(np.concatenate(columns) for columns in zip(empty, *tables, strict=True)))


class MetricTable(NamedTuple):
    """Metrics of updates, one update of one seed a row."""

    seed: Int[np.ndarray, " n"]
    update: Int[np.ndarray, " n"]  # counts from 1
    step: Int[np.ndarray, " n"]  # environment steps of that seed after the update
    names: tuple[str, ...]  # of the columns of `values`
    values: Float[np.ndarray, "n m"]

    @classmethod
    def join(cls, tables: list[MetricTable]) -> MetricTable:
        none = np.zeros(0, np.int64)
        names = tables[0].names if tables else ()
        empty = cls(none, none, none, names, np.zeros((0, len(names))))
        parts = [empty, *tables]
        seed, update, step, values = (
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("seed", "update", "step", "values")
        )
        return cls(seed, update, step, names, values)

    def column(self, name: str) -> Float[np.ndarray, " n"]:
        """One column of `values`."""
        return self.values[:, self.names.index(name)]


# For programs that run once: less time in the compiler, more in the program.
COMPILE_FAST = {"xla_backend_optimization_level": 0}

# Environment steps between two rows of metrics, at least: a learner that updates at every step
# would otherwise report far more than anyone can read or a disk should hold.
STEPS_PER_ROW = 8


def updates_per_row(algorithm: Any) -> int:
    """Every how manieth update is reported: each, but of the tiniest. Stretches end with one."""
    if algorithm.whole_episodes:
        return 1
    return -(-STEPS_PER_ROW // (algorithm.num_envs * algorithm.num_steps))


def is_reported(update: Any, every: int) -> Any:
    """Of updates counted from 1 (one, or an array of them): the first, and every so manieth."""
    return (update % every == 0) | (update == 1)


class Report(NamedTuple):
    """What a stretch of training gave."""

    metrics: MetricTable
    episodes: EpisodeTable
    seconds: float  # of training, compilation left out


def tabulate(metrics: MetricTable, episodes: EpisodeTable, gained: int, seconds: float) -> Report:
    """A report; each row also gets the mean return and length of the episodes that ended since
    the one before (NaN where none did), and the rate of the whole stretch: `gained` steps in
    `seconds`.
    """
    extra = np.full((len(metrics.seed), 3), np.nan)
    for seed in np.unique(metrics.seed):
        rows = np.flatnonzero(metrics.seed == seed)
        ended = episodes.seed == seed
        row = np.searchsorted(metrics.step[rows], episodes.step[ended])
        count = np.bincount(row, minlength=len(rows))[: len(rows)]
        for k, column in enumerate((episodes.returns, episodes.length)):
            total = np.bincount(row, column[ended], minlength=len(rows))[: len(rows)]
            with np.errstate(invalid="ignore", divide="ignore"):
                extra[rows, k] = total / count
    extra[:, 2] = gained / seconds
    names = (*metrics.names, "return", "length", "steps_per_second")
    table = metrics._replace(names=names, values=np.concatenate([metrics.values, extra], axis=1))
    return Report(table, episodes, seconds)


class Session(Protocol):
    """A training under way. `state` is all of it: saved and set again, training goes on."""

    seeds: tuple[int, ...]
    total_steps: int
    state: PyTree  # leaves have leading axis [S], one entry a seed

    @property
    def steps(self) -> Int[np.ndarray, " S"]:
        """Environment steps made so far, per seed."""
        ...

    @property
    def finished(self) -> bool: ...

    @property
    def shapes(self) -> PyTree:
        """The shapes and types of `state` (`jax.ShapeDtypeStruct`), without making one."""
        ...

    def compile(self) -> None:
        """Compile what training needs (once; `advance` does it otherwise)."""
        ...

    def advance(self, seconds: float) -> Report:
        """Train for about that long (at least one update)."""
        ...

    def close(self) -> None: ...
