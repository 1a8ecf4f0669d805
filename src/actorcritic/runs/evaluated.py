"""What an evaluation of a run found, and evaluation.json, which keeps the final one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from actorcritic.core import files
from actorcritic.core.errors import UserError
from actorcritic.figures import statistics
from actorcritic.runners.evaluate import MAX_STEPS
from actorcritic.runs import configuration, notebook

FILE = "evaluation.json"
_TABLES: dict[str, Any] = {"returns": [[float | int]], "lengths": [[int]], "cut": [[bool]]}
_FORM = {"seeds": [int], "deterministic": bool, "returns": list, "lengths": list}


@dataclass(frozen=True)
class Evaluated:
    """Returns and lengths of the evaluation episodes of each seed, and their summary."""

    seeds: tuple[int, ...]
    returns: Float[np.ndarray, "S E"]
    lengths: Int[np.ndarray, "S E"]
    deterministic: bool
    cut: Bool[np.ndarray, "S E"] | None = None  # left before they ended, if any were

    @property
    def summary(self) -> statistics.Summary:
        return statistics.summary(self.returns)

    mean = property(lambda self: self.summary.mean)
    iqm = property(lambda self: self.summary.iqm)
    interval = property(lambda self: (self.summary.low, self.summary.high))

    @property
    def best_seed(self) -> int:
        return self.seeds[int(np.argmax(self.returns.mean(axis=1)))]

    def __str__(self) -> str:
        return f"{self.summary}{self.remark}"

    def __repr__(self) -> str:
        return f"Evaluated({self})"

    def _repr_html_(self) -> str:
        return notebook.card_of_evaluation(self)

    @property
    def remark(self) -> str:
        """What has to be said of episodes that were cut; "" where none was."""
        number = 0 if self.cut is None else int(self.cut.sum())
        which = "1 episode was" if number == 1 else f"{number:,} episodes were"
        if number == self.returns.size:
            which = "every episode was"
        return f"; {which} cut after {MAX_STEPS:,} steps" if number else ""


def save_evaluation(out: Path | None, result: Evaluated | None) -> None:
    """Keep an evaluation in a run's folder, if there are both."""
    if out is None or result is None:
        return
    text = json.dumps(
        {
            "seeds": list(result.seeds),
            "deterministic": result.deterministic,
            "returns": result.returns.tolist(),
            "lengths": result.lengths.tolist(),
            "cut": None if result.cut is None else result.cut.tolist(),
        }
    )
    files.write(out / FILE, text)


def read_evaluation(out: Path) -> Evaluated | None:
    """The final evaluation in a run folder, if there is one; UserError where it is damaged."""
    path = out / FILE
    if not path.exists():
        return None
    data = configuration.read_json(path)
    names = [name for name in _TABLES if data.get(name) is not None]
    form = _FORM | {name: _TABLES[name] for name in names}
    if not files.fits(data, form) or not _are_alike([data[n] for n in names], len(data["seeds"])):
        raise UserError(
            f"{path} is not what a training writes. Restore it from a copy, or remove it."
        )
    tables = {name: np.asarray(data[name]) for name in names}
    return Evaluated(tuple(data["seeds"]), deterministic=data["deterministic"], **tables)


def _are_alike(tables: list[list[list[float]]], seeds: int) -> bool:
    """Whether all have a row for each seed, and the rows the same number of episodes."""
    lengths = {len(row) for table in tables for row in table}
    return len(lengths) == 1 and 0 not in lengths and {len(table) for table in tables} == {seeds}
