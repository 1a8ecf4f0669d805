"""What is in a data set, in a few lines, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from actorcritic.core.words import printable
from actorcritic.data.dataset import Dataset


@dataclass(frozen=True)
class Summary:
    """Counts, returns and lengths of episodes, and a sentence for each thing that is wrong."""

    name: str
    episodes: int
    steps: int
    terminated: int  # episodes that ended because the task did
    returns: Mapping[str, float]
    lengths: Mapping[str, float]
    observation_space: str
    action_space: str
    records_log_prob: bool
    about: Mapping[str, Any]
    problems: tuple[str, ...]

    def data(self) -> dict[str, Any]:
        """The same as plain JSON."""
        return {**vars(self), "problems": list(self.problems), "about": dict(self.about)}

    def __str__(self) -> str:
        known = "recorded" if self.records_log_prob else "not recorded"
        lines = [
            f"{self.name}: {self.steps:,} steps in {self.episodes:,} episodes",
            f"Returns:     {_spread(self.returns)}",
            f"Lengths:     {_spread(self.lengths)}",
            f"Ends:        {self.terminated:,} terminated, {self.episodes - self.terminated:,} not",
            f"Observation: {self.observation_space}",
            f"Action:      {self.action_space}; log-probabilities {known}",
        ]
        for part in self.about.get("policies", ()):
            if isinstance(part, Mapping):
                lines.append(
                    f"Recorded by: {part.get('policy')}, {part.get('steps'):,} steps in "
                    f"{part.get('episodes'):,} episodes"
                )
        lines += [f"Wrong:       {text}" for text in self.problems]
        if not self.problems:
            lines.append("Nothing is wrong with it.")
        return printable("\n".join(lines))


def _spread(of: Mapping[str, float]) -> str:
    return (
        f"mean {of['mean']:,.1f}, median {of['median']:,.1f}, "
        f"{of['lowest']:,.1f} to {of['highest']:,.1f}"
    )


def of(data: Dataset) -> Summary:
    """The summary of a data set, whatever is wrong with it."""
    last = data.starts + data.lengths - 1
    return Summary(
        name=data.spec.id,
        episodes=data.episodes,
        steps=data.steps,
        terminated=int(data.terminated[last].sum()),
        returns=_numbers(data.returns),
        lengths=_numbers(data.lengths),
        observation_space=str(data.spec.observation_space),
        action_space=str(data.spec.action_space),
        records_log_prob=data.log_prob is not None,
        about=data.about,
        problems=tuple(data.problems()),
    )


def _numbers(x: np.ndarray) -> dict[str, float]:
    mean, median = float(np.mean(x)), float(np.median(x))
    return {"mean": mean, "median": median, "lowest": float(x.min()), "highest": float(x.max())}
