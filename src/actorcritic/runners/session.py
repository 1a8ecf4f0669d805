"""What every runner offers to the code that keeps runs: train a while, report, save, resume."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int, Num, PyTree

from actorcritic.core.types import Collects

EPISODIC = ("return", "length")  # columns of metrics: means over episodes, NaN where none ended
INFO = "info/"  # before the names of columns that are likewise, of numbers from infos


def is_episodic(name: str) -> bool:
    return name in EPISODIC or name.startswith(INFO)


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


Table = TypeVar("Table", EpisodeTable, MetricTable)


def some_rows(table: Table, which: np.ndarray) -> Table:
    """A table with some of its rows, as an index or a mask has them."""
    columns = table._asdict().items()
    return table._replace(**{n: x[which] for n, x in columns if isinstance(x, np.ndarray)})


def by_seed(table: Table) -> Table:
    """One seed after the other, the rows of each as they are."""
    return some_rows(table, np.argsort(table.seed, kind="stable"))


# For programs that run once: less time in the compiler, more in the program.
COMPILE_FAST = {"xla_backend_optimization_level": 0}

# Environment steps between two rows of metrics, at least: a learner that updates at every step
# would otherwise report far more than anyone can read or a disk should hold.
STEPS_PER_ROW = 8


def updates_per_row(collects: Collects) -> int:
    """So many updates are one row of metrics: 1, but of the tiniest. Stretches end with a row."""
    if collects.whole_episodes:
        return 1
    return -(-STEPS_PER_ROW // (collects.num_envs * collects.num_steps))


def is_reported(update: Any, every: int) -> Any:
    """Whether updates counted from 1 (one, or an array) get a row: the first, and each `every`."""
    return (update % every == 0) | (update == 1)


def never() -> bool:
    return False


class Logged(NamedTuple):
    """A number that a callback logged."""

    seed: int
    step: int
    name: str
    value: float


class Report(NamedTuple):
    """What a stretch of training gave."""

    metrics: MetricTable
    episodes: EpisodeTable
    seconds: float  # of training, compilation left out
    evaluations: EpisodeTable | None = None  # of the policy at a step: deterministic episodes
    logged: tuple[Logged, ...] = ()  # by callbacks
    gained: int = 0  # steps in these seconds, of all seeds together

    @property
    def steps_per_second(self) -> float:
        return self.gained / self.seconds if self.seconds else float("nan")


def tabulate(metrics: MetricTable, episodes: EpisodeTable, gained: int, seconds: float) -> Report:
    """A report; each row also gets the mean return and length of the episodes that ended since
    the one before (NaN where none did).
    """
    extra = np.full((len(metrics.seed), 2), np.nan)
    for seed in np.unique(metrics.seed):
        rows = np.flatnonzero(metrics.seed == seed)
        ended = episodes.seed == seed
        columns = np.ones(ended.sum()), episodes.returns[ended], episodes.length[ended]
        (count, *totals), _ = _sums(metrics.step[rows], episodes.step[ended], columns, (0, 0, 0))
        extra[rows] = np.stack([_ratio(total, count) for total in totals], axis=1)
    names = (*metrics.names, *EPISODIC)
    table = metrics._replace(names=names, values=np.concatenate([metrics.values, extra], axis=1))
    return Report(table, episodes, seconds, gained=gained)


# Rows that are kept one by one, for each seed: beyond them, fewer and fewer.
FULL_UPDATES, FULL_EPISODES = 8_192, 65_536


def is_kept(number: Int[np.ndarray, " n"], full: int) -> Bool[np.ndarray, " n"]:
    """Which of the rows counted from 1 a table keeps.

    All up to `full`, every second up to twice as many, every fourth up to four times as many, and
    so on: n rows become about full · (1 + log2(n / full) / 2).
    """
    doublings = np.frexp((number - 1) // full)[1]
    return number % (1 << doublings.astype(np.int64)) == 0


class Thinned:
    """The rows of a training's reports that are kept, in memory or in files.

    A row of metrics also has the mean return and length of all episodes that ended since the last
    row that was kept. `state` is what has to be known to go on: plain JSON.
    """

    def __init__(self, state: dict[str, list[float]] | None = None) -> None:
        # Per seed: episodes so far; of those since the last row: how many, their sums.
        self.state: dict[str, list[float]] = {} if state is None else dict(state)

    def of(self, report: Report) -> Report:
        """What is kept of a report; reports have to come in their order."""
        metrics, episodes = report.metrics, report.episodes
        values = metrics.values.copy()
        rows = is_kept(metrics.update, FULL_UPDATES)
        kept = np.zeros(len(episodes.seed), bool)
        for seed in np.unique(np.concatenate([metrics.seed, episodes.seed])).tolist():
            count, *sums = self.state.get(str(seed), [0, 0, 0.0, 0])
            mine = np.flatnonzero(episodes.seed == seed)
            kept[mine] = is_kept(int(count) + 1 + np.arange(len(mine)), FULL_EPISODES)
            at = np.flatnonzero((metrics.seed == seed) & rows)
            columns = np.ones(len(mine)), episodes.returns[mine], episodes.length[mine]
            found, rest = _sums(metrics.step[at], episodes.step[mine], columns, sums)
            for name, total in zip(EPISODIC, found[1:], strict=True):
                if name in metrics.names:
                    values[at, metrics.names.index(name)] = _ratio(total, found[0])
            self.state[str(seed)] = [int(count) + len(mine), int(rest[0]), rest[1], int(rest[2])]
        metrics = some_rows(metrics._replace(values=values), rows)
        return report._replace(metrics=metrics, episodes=some_rows(episodes, kept))


def _sums(
    rows: Int[np.ndarray, " r"],
    ended: Int[np.ndarray, " e"],
    columns: Sequence[Num[np.ndarray, " e"]],
    before: Sequence[float],
) -> tuple[list[Float[np.ndarray, " r"]], list[float]]:
    """Sums over the episodes that `ended` up to the step of each row and after the row before it.

    `before` are sums that the first row has as well. The second result is what comes after the
    last row.
    """
    index = np.searchsorted(rows, ended)
    found, rest = [], []
    for column, start in zip(columns, before, strict=True):
        total = np.bincount(index, column, minlength=len(rows) + 1).astype(float)
        total[0] += start
        found.append(total[:-1])
        rest.append(float(total[-1]))
    return found, rest


def _ratio(total: Float[np.ndarray, " r"], count: Float[np.ndarray, " r"]) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return total / count


class Session(Protocol):
    """A training under way. `state` is all of it: saved and set again, training goes on."""

    seeds: tuple[int, ...]
    total_steps: int
    spread: int  # over how many devices the rows of a seed are spread
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

    @property
    def actors(self) -> PyTree:
        """What acting needs of the learners as they are now, leaves [S]."""
        ...

    def advance(
        self,
        seconds: float,
        interrupted: Callable[[], bool] = never,
        until: Int[np.ndarray, " S"] | None = None,
    ) -> Report:
        """Train for about that long (at least one update, unless `interrupted` says to stop).

        An entry of `seeds` makes no update once it has made `until` environment steps.
        """
        ...

    failures: dict[int, str]  # entries of `seeds` that cannot recover, and why

    def give_up(self, entry: int, why: str) -> None:
        """Train this entry of `seeds` no further; `finished` no longer waits for it."""
        ...

    def close(self) -> None: ...
