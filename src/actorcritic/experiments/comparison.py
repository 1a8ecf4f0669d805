"""A comparison: the analysis of finished runs, and its page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from actorcritic.experiments import page
from actorcritic.experiments.analysis import Analysis
from actorcritic.figures.html import Section


@dataclass(frozen=True)
class Comparison(Analysis):
    __doc__ = Analysis.__doc__

    def sections(self) -> list[Section]:
        """The parts of its page."""
        return [page.section(self)]

    def report(self, path: str | Path) -> Path:
        """Write everything as one HTML page, with pictures and numbers beside it."""
        return page.publish(path, self.title, self.sections(), [self], self.data(), self.command)
