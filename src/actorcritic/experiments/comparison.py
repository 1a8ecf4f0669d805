"""A comparison: the analysis of finished runs, and its page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actorcritic.core.frames import data_frame
from actorcritic.experiments import page
from actorcritic.experiments.analysis import Analysis
from actorcritic.figures import card, statistics
from actorcritic.figures.html import Section


@dataclass(frozen=True)
class Comparison(Analysis):
    __doc__ = Analysis.__doc__

    def __repr__(self) -> str:
        return f"Comparison({self.title}: {self.verdict})"

    def _repr_html_(self) -> str:
        series = []
        for label, table in self.episodes.items():
            curve = statistics.smoothed_curve(table)
            series.append(card.Series(label, curve.step, curve.iqm, curve.low, curve.high))
        scored = {label: f"IQM {found.iqm}" for label, found in self.variants.items()}
        return card.card(self.title, self.verdict, scored, card.curves(series))

    def to_pandas(self) -> Any:
        """The score of each seed of each variant, a row each, as a `pandas.DataFrame`."""
        rows = [
            (label, seed, score)
            for label, scores in self.scores.items()
            for seed, score in zip(self.seeds[label], scores.tolist(), strict=True)
        ]
        columns = zip(*rows, strict=True)
        return data_frame(dict(zip(("variant", "seed", "score"), columns, strict=True)))

    def sections(self) -> list[Section]:
        """The parts of its page."""
        return [page.section(self)]

    def report(self, path: str | Path) -> Path:
        """Write everything as one HTML page, with pictures and numbers beside it."""
        return page.publish(path, self.title, self.sections(), [self], self.data(), self.command)
