"""The analysis of finished runs: scores, differences, speed of learning, and a verdict in words.

It trains nothing and opens nothing. It knows of a run what its folder tells (`Run.configuration`,
episodes, final evaluation), so that a run can be compared without its environment or any code.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from jaxtyping import Float

from actorcritic.core.errors import UserError
from actorcritic.core.words import listed
from actorcritic.experiments import comparable
from actorcritic.figures import plots, statistics
from actorcritic.figures.html import Table
from actorcritic.figures.statistics import FEWEST_SEEDS, RESAMPLES, Estimate, figures
from actorcritic.runners.session import EpisodeTable, some_rows
from actorcritic.runs.run import Run

LAST_EPISODES = 100  # of the training, where nothing was evaluated
ENOUGH_SEEDS = 8  # with fewer, bootstrap intervals are too narrow (see `statistics.interval`)
NONE = "–"  # in a cell


class Variant(NamedTuple):
    """What the seeds of one variant scored."""

    iqm: Estimate
    mean: float
    median: float
    spread: statistics.Spread
    worst_seed: int
    worst_score: float
    area: Estimate  # under the learning curve, as IQM; NaN where a seed finished no episode
    steps_per_second: float  # NaN where it is not known


class Against(NamedTuple):
    """One variant less another, of the IQM of their scores."""

    difference: Estimate
    probability: Estimate  # of improvement
    word: str


class Until(NamedTuple):
    """How long the seeds of one variant took to a threshold."""

    threshold: float
    label: str
    reached: int  # so many of the seeds
    steps: Estimate
    episodes: Estimate
    most_steps: int  # what a seed that did not reach it had made, at the least
    most_episodes: int


@dataclass(frozen=True)
class Analysis:
    """Several variants of a training on one task; the first is the reference.

    Seeds are paired where all variants have the same ones: they are then drawn together, so that
    what a seed has in common for all takes no part in a difference. Every interval draws from a
    generator of its own with a fixed seed: the same runs give the same numbers.
    """

    title: str
    runs: dict[str, Run]
    thresholds: tuple[float, ...]
    command: str | None = None
    failed_runs: dict[str, Run] = field(default_factory=dict)  # variants without a seed left

    @classmethod
    def of(
        cls,
        runs: Sequence[Run] | Mapping[str, Run],
        *,
        title: str | None = None,
        thresholds: Sequence[float] | None = None,
        command: str | None = None,
    ) -> Self:
        """Compare finished runs of one environment; UserError says what cannot be compared.

        A mapping names the variants. Otherwise they are named by their `Run.variant`, or by the
        algorithm and the hyperparameters that differ, and runs of the very same configuration
        with different seeds become one variant. Without `thresholds`, Gymnasium's
        `reward_threshold` of the environment is taken, where it has one.
        """
        if not isinstance(runs, Iterable) or isinstance(runs, str):
            raise UserError(f"A comparison is of runs, in a list or by name; got {runs!r}.")
        every = list(runs.values()) if isinstance(runs, Mapping) else list(runs)
        about = [comparable.About.of(run) for run in every]
        comparable.check(about)
        if isinstance(runs, Mapping):
            named = {str(label): run for label, run in runs.items()}
        else:
            variants = comparable.merged(about)
            named = dict(zip(comparable.labels(variants), (v.run for v in variants), strict=True))
        if thresholds is None:
            thresholds = about[0].reward_threshold
        if title is None:
            names = dict.fromkeys(run.algorithm.name for run in every)
            title = f"{', '.join(names)} on {about[0].environment_name}"
        left = {label: run for label, run in named.items() if run.trained_seeds}
        failed = {label: run for label, run in named.items() if not run.trained_seeds}
        if not left:
            reasons = " ".join(f"{label}: {_first_failure(run)}" for label, run in failed.items())
            raise UserError(f"There is nothing to compare: every variant failed. {reasons}")
        found = cls(title, left, _numbers(thresholds), command, failed)
        found.scores  # noqa: B018 — whatever is wrong with them, it is said at once
        return found

    # ------------------------------------------------------------------------ scores

    @property
    def reference(self) -> str:
        return next(iter(self.runs))

    @cached_property
    def seeds(self) -> dict[str, tuple[int, ...]]:
        """Those that each variant is scored by: without the ones that failed."""
        return {label: tuple(sorted(run.trained_seeds)) for label, run in self.runs.items()}

    @cached_property
    def failures(self) -> dict[str, Run]:
        """The variants that failed on a seed or more."""
        every = self.runs | self.failed_runs
        return {label: run for label, run in every.items() if run.failed}

    @property
    def environment(self) -> str:
        """Its id, and the options that are not as usual."""
        return comparable.About.of(self.runs[self.reference]).environment_name

    @property
    def across(self) -> str:
        """What learning curves are drawn against: environment steps, or updates."""
        return self.runs[self.reference].across

    @property
    def counted(self) -> str:
        return self.across.partition(",")[0]

    @property
    def unit(self) -> str:
        return self.runs[self.reference].step_unit

    @property
    def paired(self) -> bool:
        """Whether all variants have the same seeds."""
        return len(self.runs) > 1 and len(set(self.seeds.values())) == 1

    @property
    def score(self) -> str:
        """What a seed's score is."""
        run = self.runs[self.reference]
        done = run.final_evaluation
        if done is not None:
            kind = "deterministic" if done.deterministic else "stochastic"
            what = f"{done.returns.shape[1]:,} {kind} episodes"
            return f"mean return of {what} after {run.trained_steps:,} {run.step_unit}"
        fewest = min(
            int((self.episodes[label].seed == seed).sum())
            for label, seeds in self.seeds.items()
            for seed in seeds
        )
        at_most = "at most " * (fewest < LAST_EPISODES)
        return (
            f"mean return of the last {at_most}{LAST_EPISODES} training episodes of "
            f"{run.trained_steps:,} steps"
        )

    @cached_property
    def scores(self) -> dict[str, Float[np.ndarray, " S"]]:
        """The score of each seed, in the order of `seeds`."""
        return {
            label: np.array(
                [_score(run, self.episodes[label], seed, label) for seed in self.seeds[label]]
            )
            for label, run in self.runs.items()
        }

    @property
    def window(self) -> int:
        """How many episodes are averaged where a learning curve is smoothed."""
        return statistics.WINDOW

    @cached_property
    def variants(self) -> dict[str, Variant]:
        found = {}
        for label, run in self.runs.items():
            scores = self.scores[label]
            worst = int(np.argmin(scores))
            found[label] = Variant(
                iqm=statistics.aggregate(scores, rng=_rng()),
                mean=float(scores.mean()),
                median=float(np.median(scores)),
                spread=statistics.spread(scores),
                worst_seed=self.seeds[label][worst],
                worst_score=float(scores[worst]),
                area=statistics.aggregate(self.areas[label], rng=_rng()),
                steps_per_second=comparable.speed_of(run),
            )
        return found

    @cached_property
    def areas(self) -> dict[str, Float[np.ndarray, " S"]]:
        """The area under each seed's learning curve, as its mean height."""
        return {
            label: statistics.area_under_curve(
                self.episodes[label], self.seeds[label], run.total_steps, self.window
            )
            for label, run in self.runs.items()
        }

    def against(self, label: str, other: str) -> Against:
        """How one variant's scores differ from another's."""
        x, y = self.scores[label], self.scores[other]
        difference = statistics.difference(x, y, rng=_rng(), paired=self.paired)
        probability = statistics.probability_of_improvement(x, y, rng=_rng(), paired=self.paired)
        if np.isnan(difference.low):
            word = "too few seeds"
        elif (np.concatenate([x, y]) == x[0]).all():
            word = "the same"
        elif difference.low > 0:
            word = "higher"
        else:
            word = "lower" if difference.high < 0 else "cannot be told apart"
        return Against(difference, probability, word)

    @cached_property
    def until(self) -> list[Until]:
        """For each threshold and variant, when its seeds reached it in training."""
        return [
            self._until(threshold, label) for threshold in self.thresholds for label in self.runs
        ]

    def _reached(self, threshold: float, label: str) -> statistics.Reached:
        table, seeds = self.episodes[label], self.seeds[label]
        return statistics.steps_until(table, seeds, threshold, self.window)

    def _until(self, threshold: float, label: str) -> Until:
        table, run, seeds = self.episodes[label], self.runs[label], self.seeds[label]
        found = self._reached(threshold, label)
        ended = np.array([(table.seed == seed).sum() for seed in seeds])
        never = np.isinf(found.steps)
        return Until(
            threshold,
            label,
            int((~never).sum()),
            statistics.censored_median(found.steps, rng=_rng()),
            statistics.censored_median(found.episodes, rng=_rng()),
            run.total_steps,
            int(ended[never].min()) if never.any() else 0,
        )

    @cached_property
    def episodes(self) -> dict[str, EpisodeTable]:
        """The training episodes of the seeds that are scored."""
        found = {}
        for label, run in self.runs.items():
            table = run.episodes
            found[label] = some_rows(table, np.isin(table.seed, self.seeds[label]))
        return found

    # ------------------------------------------------------------------------ in words

    @property
    def verdict(self) -> str:
        """One sentence: which variant scored highest, by how much, and how sure that is.

        One variant is called better only where the intervals of its differences from every other
        one exclude 0. A second sentence names the variants that failed.
        """
        return f"{self._verdict} {self.failed}".rstrip()

    @property
    def failed(self) -> str:
        """Which variants diverged, and on how many seeds; "" where none did."""
        said = [
            f"{label} on {len(run.failed)} of {len(run.seeds)} seeds"
            for label, run in self.failures.items()
        ]
        return f"Diverged, and not scored: {listed(said)}." if said else ""

    @property
    def _verdict(self) -> str:
        few = [label for label, seeds in self.seeds.items() if len(seeds) < FEWEST_SEEDS]
        if few:
            return (
                f"No verdict: {listed(few)} {'has' if len(few) == 1 else 'have'} fewer than three "
                "seeds, which do not show how far seeds differ. Train three or more, better ten."
            )
        number, counts = len(self.runs), sorted({len(seeds) for seeds in self.seeds.values()})
        seeds = f"{counts[0]} seeds" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"
        write = self._figures
        iqm = {label: variant.iqm for label, variant in self.variants.items()}
        if number == 1:
            label = self.reference
            return f"{label} scored an IQM of {iqm[label].text(write)} with {seeds}."
        best, *others = sorted(self.runs, key=lambda label: -iqm[label].value)
        compared = {label: self.against(best, label) for label in others}
        near = [label for label in others if compared[label].word != "higher"]
        rival = (near or others)[0]
        of = f"of {number} variants, " * (number > 2)

        def than(label: str) -> str:
            roles = ["the reference"] * (label == self.reference)
            roles += ["the runner-up"] * (label == others[0] and number > 2)
            return (
                f"{compared[label].difference.text(write)} above {label}"
                f"{f' ({listed(roles)})' if roles else ''}, probability of improvement "
                f"{compared[label].probability.text(_two)}"
            )

        said = than(rival)
        if self.reference not in (best, rival):
            said += f"; {than(self.reference)}"
        if near and len({write(iqm[label].value) for label in [best, *near]}) == 1:
            group = [best, *near]
            who = _all_of(len(group)) if len(group) == number else listed(group)
            text = f"{who} reach {write(iqm[best].value)} with {seeds}"
            if clear := [label for label in others if label not in near]:
                text += f"; {listed(clear)} {'score' if len(clear) > 1 else 'scores'} lower"
                text += f" (the next by {compared[clear[0]].difference.text(write)})"
            worst = min(group, key=lambda label: self.variants[label].worst_score)
            lowest = write(self.variants[worst].worst_score)
            if lowest != write(iqm[best].value):
                text += f" (IQM; the worst seed, of {worst}, scores {lowest})"
            return f"{text}; {self._sooner(group)}.".replace("; .", ".")
        if near:
            text = (
                f"{of}{listed([best, *near])} cannot be told apart with {seeds}: {best} has the "
                f"highest IQM, {iqm[best].text(write)}, {said}"
            )
        else:
            text = f"{of}{best} scored highest with {seeds}: IQM {iqm[best].text(write)}, {said}"
            if counts[0] < ENOUGH_SEEDS:
                text += f" (intervals of fewer than {ENOUGH_SEEDS} seeds are too narrow)"
        said = (text[0].upper() + text[1:] if of else text) + "."
        sooner = self._sooner([best, *near]) if near else ""
        return f"{said} {sooner[:1].upper()}{sooner[1:]}.".removesuffix(" .")

    def _sooner(self, group: Sequence[str]) -> str:
        """Which of variants that end alike gets there first, if that can be told; else ""."""
        threshold = max(self.thresholds, default=None)
        if threshold is None:
            return self._higher_on_the_way(group)
        steps = {label: self._reached(threshold, label).steps for label in group}
        median = {k: statistics.censored_median(x, rng=_rng()).value for k, x in steps.items()}
        first, *others = sorted(group, key=median.__getitem__)
        if np.isinf(median[first]):
            return ""
        said = []
        for label in others:
            times = statistics.times_sooner(
                steps[first], steps[label], rng=_rng(), paired=self.paired
            )
            if np.isinf(times.value):
                said.append(f"half of the seeds of {label} never get there")
            elif times.low > 1:
                said.append(f"{times.text(_two)} times sooner than {label}")
        if not said:
            return f"how soon they reach {threshold:g} cannot be told apart"
        return f"{first} gets to {threshold:g} in {median[first]:,.0f} {self.unit}, {listed(said)}"

    def _higher_on_the_way(self, group: Sequence[str]) -> str:
        """Without a threshold: whose learning curve is higher over the whole training."""
        area = {label: self.variants[label].area.value for label in group}
        if not np.isfinite(list(area.values())).all():
            return ""
        first, second, *_ = sorted(group, key=area.__getitem__, reverse=True)
        more = statistics.difference(
            self.areas[first], self.areas[second], rng=_rng(), paired=self.paired
        )
        if not more.low > 0:
            return ""
        return (
            f"{first} learns faster: over the whole training its mean return is "
            f"{more.text(self._figures)} above that of {second}"
        )

    def __str__(self) -> str:
        table = self._scores_table()
        text = aligned([table.columns, *table.rows])
        return f"{self.title}\nScore: {self.score}.\n\n{text}\n\n{self.verdict}"

    # ------------------------------------------------------------------------ tables

    def tables(self) -> list[Table]:
        """Everything as text. Which tables there are depends on what is known."""
        tables = [self._scores_table()]
        if self.failures:
            tables.append(self._failures_table())
        if len(self.runs) > 1:
            tables.append(self._against_table())
        if any(np.isfinite(areas).any() for areas in self.areas.values()):
            tables.append(self._areas_table())
        if self.thresholds:
            tables.append(self._until_table())
        if any(np.isfinite(variant.steps_per_second) for variant in self.variants.values()):
            tables.append(self._speed_table())
        return tables

    def _scores_table(self) -> Table:
        write = self._figures
        rows = [
            (
                label,
                v.iqm.text(write),
                write(v.mean),
                write(v.median),
                _or_none(v.spread.deviation, write),
                _or_none(v.spread.interquartile, write),
                f"{write(v.worst_score)} (seed {v.worst_seed})",
                str(len(self.seeds[label])),
            )
            for label, v in self.variants.items()
        ]
        columns = ("variant", "IQM", "mean", "median", "SD", "IQR", "worst seed", "seeds")
        note = (
            "SD and IQR: standard deviation and interquartile range between seeds. "
            f"{self.how_many} {self._how_scored} {self._how_sure}"
        )
        return Table("scores", "Scores", columns, tuple(rows), note)

    def _failures_table(self) -> Table:
        rows = [
            (label, str(seed), why)
            for label, run in self.failures.items()
            for seed, why in sorted(run.failed.items())
        ]
        note = "These seeds are in no score: where many fail, a score is of the lucky ones."
        columns = ("variant", "failed seed", "how")
        return Table("failures", "Failed", columns, tuple(rows), note)

    def _against_table(self) -> Table:
        found = {label: self.against(label, self.reference) for label in list(self.runs)[1:]}
        write = figures(*(x for a in found.values() for x in a.difference))
        rows = [
            (label, a.difference.text(write), a.probability.text(_two), a.word)
            for label, a in found.items()
        ]
        columns = ("variant", "difference of IQM", "probability of improvement", "score is")
        together = (
            "Seeds are the same for all, and are drawn together. "
            if self.paired
            else "Seeds are not the same for all, and are drawn apart. "
        )
        many = (
            f"{len(rows)} comparisons, none adjusted for the others: of such intervals one in "
            "twenty excludes 0 by chance. "
        )
        note = (
            f"Against {self.reference}. Probability of improvement: of a seed scoring above one of "
            f"the reference, a tie as half, over all pairs. {together}{many * (len(rows) > 1)}"
            f"{self.how_many} {self._how_scored} {self._how_sure}"
        )
        title = f"Against the reference, {self.reference}"
        return Table("against-reference", title, columns, tuple(rows), note)

    def _areas_table(self) -> Table:
        estimates = {label: variant.area for label, variant in self.variants.items()}
        write = figures(*(x for e in estimates.values() for x in e))
        rows = []
        for label, estimate in estimates.items():
            deviation = statistics.spread(self.areas[label]).deviation
            known = NONE if np.isnan(estimate.value) else estimate.text(write)
            rows.append((label, known, _or_none(deviation, write)))
        total = self.runs[self.reference].total_steps
        note = (
            f"The mean height of a seed's learning curve over {self.counted} 0 to "
            f"{total:,}: the mean of its last {self.window} training returns, before the first "
            "episode's end that episode's return. It is of the training, not of the score. "
            f"{self.how_many} {self._how_sure}"
        )
        columns = ("variant", "IQM", "SD")
        return Table("area-under-curve", "Area under the learning curve", columns, (*rows,), note)

    def _until_table(self) -> Table:
        rows = []
        for u in self.until:
            seeds = len(self.seeds[u.label])
            steps = u.steps.text(statistics.counts(u.most_steps))
            episodes = u.episodes.text(statistics.counts(u.most_episodes))
            rows.append((f"{u.threshold:g}", u.label, f"{u.reached} of {seeds}", steps, episodes))
        columns = ("threshold", "variant", "reached", self.unit, "episodes")
        note = (
            f"When the mean of a seed's last {self.window} training returns was first the "
            "threshold or more: the median over seeds, by which half of them were there. A seed "
            "that never was counts as later than all that were, and is not left out; 'more than' "
            "so many steps or episodes says that training ended before. "
            f"{self.how_many} {self._how_sure}"
        )
        title = "Steps and episodes until a threshold"
        return Table("until-threshold", title, columns, tuple(rows), note)

    def _speed_table(self) -> Table:
        rows = []
        for label, variant in self.variants.items():
            speed = _or_none(variant.steps_per_second, lambda x: f"{x:,.0f}")
            rows.append((label, speed, str(len(self.seeds[label]))))
        note = (
            f"{self.counted.capitalize()} a second of all seeds together while training, without "
            "compiling. Comparable only between trainings of as many seeds on the same idle "
            f"machine. {self.how_many}"
        )
        columns = ("variant", f"{self.unit} per second", "seeds")
        return Table("speed", "Speed of training", columns, tuple(rows), note)

    @cached_property
    def _figures(self) -> statistics.Writer:
        """How scores are written, the same in all places."""
        return figures(*(x for scores in self.scores.values() for x in scores))

    @property
    def how_many(self) -> str:
        """How many seeds there are, and which."""
        if len(set(self.seeds.values())) == 1:
            return f"{_seeds(self.seeds[self.reference])}{' each' * (len(self.runs) > 1)}."
        return "; ".join(f"{label}: {_seeds(seeds)}" for label, seeds in self.seeds.items()) + "."

    @property
    def _how_scored(self) -> str:
        return f"Score: {self.score}."

    @property
    def _how_sure(self) -> str:
        counts = {label: len(seeds) for label, seeds in self.seeds.items()}
        few = [label for label, n in counts.items() if n < FEWEST_SEEDS]
        none = "fewer than three seeds: no intervals"
        if len(few) == len(counts):
            return f"{none.capitalize()}."
        text = f"Intervals: 95 %, percentile bootstrap over seeds, {RESAMPLES:,} draws"
        if min(n for n in counts.values() if n >= FEWEST_SEEDS) < ENOUGH_SEEDS:
            text += f"; of fewer than {ENOUGH_SEEDS} seeds they are too narrow"
        return f"{text}. {listed(few)}: {none}." if few else f"{text}."

    # ------------------------------------------------------------------------ pages

    def plot(self, path: str | Path) -> Path:
        """Draw returns and episode lengths of all; the ending of `path` says PNG or SVG."""
        curves = list(self.episodes.items())
        figure = plots.returns_and_lengths(curves, self.title, self.thresholds, across=self.across)
        return plots.save(figure, Path(path))

    # ------------------------------------------------------------------------ numbers

    def data(self) -> dict[str, Any]:
        """The same numbers for a file: plain JSON, null in place of NaN and infinity."""
        variants = {
            label: {
                "seeds": list(self.seeds[label]),
                "scores": self.scores[label],
                "iqm": v.iqm._asdict(),
                "mean": v.mean,
                "median": v.median,
                "standard_deviation": v.spread.deviation,
                "interquartile_range": v.spread.interquartile,
                "worst_seed": v.worst_seed,
                "worst_score": v.worst_score,
                "areas": self.areas[label],
                "area_under_curve": v.area._asdict(),
                "steps_per_second": v.steps_per_second,
                "configuration": self.runs[label].configuration(),
            }
            for label, v in self.variants.items()
        }
        against = {
            label: {
                "difference": found.difference._asdict(),
                "probability_of_improvement": found.probability._asdict(),
                "score_is": found.word,
            }
            for label in list(self.runs)[1:]
            for found in [self.against(label, self.reference)]
        }
        until = [
            {
                "threshold": u.threshold,
                "variant": u.label,
                "reached": u.reached,
                "seeds": len(self.seeds[u.label]),
                "steps": u.steps._asdict(),
                "episodes": u.episodes._asdict(),
            }
            for u in self.until
        ]
        run = self.runs[self.reference]
        return plain(
            {
                "title": self.title,
                "command": self.command,
                "environment": run.spec.id,
                "total_steps": run.total_steps,
                "score": self.score,
                "reference": self.reference,
                "paired": self.paired,
                "window": self.window,
                "interval": f"95 %, percentile bootstrap over seeds, {RESAMPLES} draws",
                "verdict": self.verdict,
                "variants": variants,
                "failed": {label: run.failed for label, run in self.failures.items()},
                "against_reference": against,
                "until_threshold": until,
            }
        )


# ---------------------------------------------------------------------------- parts


def _first_failure(run: Run) -> str:
    return next(iter(run.failed.values()), "")


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def _score(run: Run, table: EpisodeTable, seed: int, label: str) -> float:
    done = run.final_evaluation
    if done is not None:
        returns = done.returns[done.seeds.index(seed)]
    else:
        returns = table.returns[table.seed == seed][-LAST_EPISODES:]
    if not len(returns):
        raise UserError(
            f"Seed {seed} of {label} has no score: it was not evaluated and finished no training "
            "episode. Train for longer, or evaluate at the end."
        )
    if not np.isfinite(returns).all():
        raise UserError(
            f"Seed {seed} of {label} has returns that are not finite, so it has no score. Look at "
            "what the environment's rewards are."
        )
    return float(np.mean(returns, dtype=np.float64))


def _numbers(thresholds: Sequence[float]) -> tuple[float, ...]:
    for threshold in thresholds:
        number = isinstance(threshold, int | float | np.number) and not isinstance(threshold, bool)
        if not number or not np.isfinite(threshold):
            raise UserError(f"A threshold must be a finite number, a return; got {threshold!r}.")
    return tuple(float(threshold) for threshold in thresholds)


def plain(data: Any) -> Any:
    if isinstance(data, dict):
        return {str(name): plain(value) for name, value in data.items()}
    if isinstance(data, list | tuple | np.ndarray):
        return [plain(value) for value in data]
    if isinstance(data, np.generic):
        data = data.item()
    if isinstance(data, float) and not np.isfinite(data):
        return None
    return data


def _all_of(number: int) -> str:
    words = ("", "", "Both", "All three", "All four", "All five", "All six", "All seven")
    return words[number] if number < len(words) else f"All {number}"


def _two(x: float) -> str:
    return f"{x:.2f}"


def _or_none(x: float, write: statistics.Writer) -> str:
    return write(x) if np.isfinite(x) else NONE


def _seeds(seeds: Sequence[int]) -> str:
    """Such as "10 seeds (0–9)"."""
    count = f"{len(seeds)} seed{'s' * (len(seeds) > 1)}"
    whole = len(seeds) > 2 and seeds[-1] - seeds[0] == len(seeds) - 1
    which = f"{seeds[0]}–{seeds[-1]}" if whole else ", ".join(map(str, seeds))
    return f"{count} ({which})"


def aligned(rows: Iterable[Sequence[str]]) -> str:
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
