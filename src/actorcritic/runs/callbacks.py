"""What may look into a training while it goes on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from actorcritic.core.errors import UserError
from actorcritic.figures.statistics import WINDOW
from actorcritic.runners.evaluate import Policy
from actorcritic.runners.session import Logged, Report
from actorcritic.runs.run import Run


@dataclass
class Moment:
    """What a callback is given after each stretch of training (about 0.3 seconds).

    It may read all of this, and call the methods. What it does not change, the training does not
    depend on: with callbacks that only look, the parameters are the same to the last bit.
    """

    run: Run
    steps: dict[int, int]  # environment steps so far, by seed; without seeds that failed
    report: Report  # what came since the last call; `report.evaluations` where there was one
    evaluations: dict[int, float]  # the mean return of the newest evaluation, by seed
    act_as: Callable[[int], Policy] = field(repr=False)
    save: Callable[[], None] = field(repr=False)  # write a checkpoint now
    logged: list[Logged] = field(default_factory=list)
    stopped: str | None = None

    @property
    def finished(self) -> bool:
        """Whether all seeds have made their steps."""
        return all(n >= self.run.total_steps for n in self.steps.values())

    def policy(self, seed: int | None = None) -> Policy:
        """The policy as it is now; of the first seed, if none is named."""
        return self.act_as(next(iter(self.steps)) if seed is None else seed)

    def log(self, name: str, value: float, seed: int | None = None) -> None:
        """Keep a number of your own: in logged.csv, TensorBoard, Weights & Biases, your sinks.

        It is the first seed's, if none is named. Raises UserError where it is no number.
        """
        seed = next(iter(self.steps)) if seed is None else seed
        if seed not in self.steps or not isinstance(value, int | float | np.number):
            raise UserError(
                f"log takes a name, a number and one of the seeds {list(self.steps)}; got "
                f"{name!r}, {value!r} and {seed!r}."
            )
        self.logged.append(Logged(seed, self.steps[seed], str(name), float(value)))

    def stop(self, why: str = "a callback asked for it") -> None:
        """End the training after this stretch, as if its steps were made."""
        self.stopped = why


Callback: TypeAlias = Callable[[Moment], Any]


class StopAt:
    """Stops once the mean return of every seed is this high.

    It is that of the newest evaluation, or where nothing is evaluated between, of the last 20
    training episodes.
    """

    def __init__(self, threshold: float, evaluates: bool) -> None:
        self._threshold, self._evaluates = threshold, evaluates
        self._recent: dict[int, deque[float]] = {}

    def __call__(self, moment: Moment) -> None:
        episodes = moment.report.episodes
        for seed in moment.steps:
            recent = self._recent.setdefault(seed, deque(maxlen=WINDOW))
            recent.extend(episodes.returns[episodes.seed == seed].tolist())
        full = {s: np.mean(x) for s, x in self._recent.items() if len(x) == WINDOW}
        means = moment.evaluations if self._evaluates else full
        if moment.steps and all(means.get(s, -np.inf) >= self._threshold for s in moment.steps):
            what = "evaluation" if self._evaluates else f"mean of {WINDOW} training episodes"
            moment.stop(f"the {what} of every seed reached {self._threshold:g}")
