"""What every runner offers to the code that keeps runs: train a while, report, save, resume."""

from __future__ import annotations

from typing import NamedTuple, Protocol

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


class Report(NamedTuple):
    """What a stretch of training gave."""

    metrics: MetricTable
    episodes: EpisodeTable
    seconds: float  # of training, compilation left out


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

    def advance(self, seconds: float) -> Report:
        """Train for about that long (at least one update)."""
        ...

    def close(self) -> None: ...
