"""Which runs can be compared, which are one variant, and what each is called."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from actorcritic.core.errors import UserError
from actorcritic.core.words import shown
from actorcritic.envs.catalogue import COMPILED
from actorcritic.runners.session import Report
from actorcritic.runs import trackers
from actorcritic.runs.diagnosis import solved_from
from actorcritic.runs.evaluated import Evaluated
from actorcritic.runs.run import Run


class About(NamedTuple):
    """What decides whether runs can be compared and are called the same; worked out once a run."""

    run: Run
    environment: dict[str, Any]  # the task; how it is stepped (compiled, in workers) does not count
    settings: dict[str, Any]  # what the training is besides its task and its seeds
    own: list[str]  # what of the algorithm is the user's own, and not among the settings

    @classmethod
    def of(cls, run: Run) -> About:
        if not isinstance(run, Run):
            raise UserError(
                f"Runs can be compared, not {run!r}. Read a run's folder first: "
                "actorcritic.runs.run.read_run(folder)"
            )
        data = run.configuration()
        algorithm, world = data["algorithm"], data["environment"]
        options = dict(world["options"])
        if not world["host"] and world["make"] in COMPILED:
            # Compiled environments name all their options, those of the host only the ones given.
            usual = dataclasses.asdict(COMPILED[world["make"]]())
            options = {name: value for name, value in options.items() if usual.get(name) != value}
        task = ("id", "observation_space", "action_space", "max_episode_steps")
        how = ("host", "vectorization", "autoreset")
        more = {name: world.get(name) for name in how}
        if recorded := data.get("data"):
            more["data"] = recorded["source"] or recorded["sha256"]
        return cls(
            run,
            _as_json({name: world[name] for name in task} | {"options": options}),
            _as_json(algorithm["hyperparameters"] | more),
            algorithm["own"],
        )

    @property
    def environment_name(self) -> str:
        options = ", ".join(f"{k}={v}" for k, v in self.environment["options"].items())
        return f"{self.environment['id']} ({options})" if options else self.environment["id"]

    @property
    def reward_threshold(self) -> tuple[float, ...]:
        """Gymnasium's, which holds for the environment without options."""
        known = solved_from(self.environment["id"])
        return () if known is None or self.environment["options"] else (known,)


def check(every: Sequence[About]) -> None:
    """Everything that keeps runs from being compared, apart from the scores themselves."""
    runs = [about.run for about in every]
    if not runs:
        raise UserError("There is nothing to compare. Name at least one finished run.")
    for run in runs:
        if not run.finished:
            where = f" Finish it: actorcritic resume {run.command}" if run.out is not None else ""
            raise UserError(
                f"{run.name} is not finished, or still being trained; only finished runs can be "
                f"compared.{where}"
            )
        if len(set(run.seeds)) < len(run.seeds):
            raise UserError(
                f"{run.name} has a seed twice: {list(run.seeds)}. The same seed is the same "
                "result, not more evidence; leave the repeated one out."
            )
        done = run.final_evaluation
        if done is not None and sorted(done.seeds) != sorted(run.trained_seeds):
            raise UserError(
                f"{run.name} was evaluated with seeds {list(done.seeds)} but trained with "
                f"{list(run.trained_seeds)}. Train it again, or restore its evaluation.json."
            )
    for about in every[1:]:
        if not _same_environment(every[0], about):
            names = every[0].environment_name, about.environment_name
            same = " (the same name, but other spaces or options)" * (names[0] == names[1])
            raise UserError(
                f"These runs are of different environments, {' and '.join(names)}{same}. Compare "
                "runs of one environment."
            )
        _check_definition(next((run for run in runs if run.trained_seeds), runs[0]), about.run)
    for i, one in enumerate(every):
        for other in every[:i]:
            shared = sorted({*one.run.seeds} & {*other.run.seeds})
            if shared and _same_training(one, other):
                raise UserError(
                    f"{other.run.name} and {one.run.name} are of the same configuration and "
                    f"share the seeds {shared}: the same results twice, not more evidence. Leave "
                    "one out, or train other seeds."
                )


def _check_definition(first: Run, run: Run) -> None:
    """Scores are comparable only where they are defined alike."""

    def differ(what: str, one: str, other: str, advice: str) -> UserError:
        return UserError(
            f"The scores of {first.name} and {run.name} are not defined alike: {what} "
            f"{one} and {other}. {advice}"
        )

    if first.total_steps != run.total_steps:
        steps = f"{first.total_steps:,}", f"{run.total_steps:,}"
        raise differ("total_steps are", *steps, "Train both for as many.")
    a, b = first.final_evaluation, run.final_evaluation
    if not first.trained_seeds or not run.trained_seeds:
        return  # one that failed on every seed has no score to be defined
    if a is None or b is None:
        if a is not b:
            words = ["not evaluated" if done is None else "evaluated" for done in (a, b)]
            raise differ("they were", words[0], words[1], "Evaluate all at the end, or none.")
        return
    if a.deterministic != b.deterministic:
        words = ["deterministic" if done.deterministic else "stochastic" for done in (a, b)]
        raise differ("their evaluations are", words[0], words[1], "Evaluate both alike.")
    if a.returns.shape[1] != b.returns.shape[1]:
        words = [f"{done.returns.shape[1]:,} episodes" for done in (a, b)]
        raise differ("their evaluations have", words[0], words[1], "Evaluate as many of each.")


def _same_environment(a: About, b: About) -> bool:
    if a.environment != b.environment:
        return False
    # run.json has no options of a compiled environment of the user's own; the object itself does.
    one, other = a.run.environment, b.run.environment
    in_memory = a.run.stored is None and b.run.stored is None
    if in_memory and type(one) is type(other) and dataclasses.is_dataclass(one):
        return one == other
    return True


def _same_training(a: About, b: About) -> bool:
    """Whether two runs differ in nothing but their seeds; where it cannot be known, they do."""
    same_name = a.run.algorithm.name == b.run.algorithm.name
    if not same_name or a.own != b.own or a.settings != b.settings:
        return False
    if not a.own:
        return True
    if a.run.stored is None and b.run.stored is None:
        return bool(a.run.algorithm == b.run.algorithm)
    return a.run.variant == b.run.variant != ""


def merged(every: Sequence[About]) -> list[About]:
    """Runs of one configuration (and not named differently) as one run of all their seeds."""
    groups: list[list[About]] = []
    for about in every:
        for group in groups:
            if group[0].run.variant == about.run.variant and _same_training(group[0], about):
                group.append(about)
                break
        else:
            groups.append([about])
    return [group[0]._replace(run=_together([about.run for about in group])) for group in groups]


def _together(runs: Sequence[Run]) -> Run:
    """One run with the seeds of all; its learners and folder are in the parts."""
    first = runs[0]
    if len(runs) == 1:
        return first
    seeds = tuple(seed for run in runs for seed in run.seeds)
    done = [run.final_evaluation for run in runs if run.final_evaluation is not None]
    evaluation = None
    if done:
        evaluation = Evaluated(
            tuple(seed for part in done for seed in part.seeds),
            np.concatenate([part.returns for part in done]),
            np.concatenate([part.lengths for part in done]),
            done[0].deterministic,
        )
    seconds = [len(run.seeds) * run.total_steps / speed_of(run) for run in runs]
    return dataclasses.replace(
        first,
        seeds=seeds,
        out=None,
        trained=None,
        steps_per_second=len(seeds) * first.total_steps / sum(seconds),
        final_evaluation=evaluation,
        failed={seed: why for run in runs for seed, why in run.failed.items()},
        warnings=[warning for run in runs for warning in run.warnings],
        reports=[Report(run.metrics, run.episodes, 0.0) for run in runs],
        stored=None if first.stored is None else first.stored | {"seeds": list(seeds)},
    )


def labels(every: Sequence[About]) -> list[str]:
    """A name for each: the algorithm, and where several share it, what differs among them."""
    found = []
    for run, _, mine, _ in every:
        name = run.variant or run.algorithm.name
        if not run.variant:
            alike = [
                a.settings for a in every if not a.run.variant and a.run.algorithm.name == name
            ]
            names = dict.fromkeys(key for settings in alike for key in settings)
            differing = [k for k in names if any(s.get(k) != alike[0].get(k) for s in alike)]
            name = " ".join([name, *(f"{k}={shown(mine.get(k))}" for k in differing)])
        found.append(name)
    # What differs may be an object of the user's, which has no name; a folder has one.
    folders = [about.run.out for about in every]
    found = [
        f"{label} ({out.name})" if found.count(label) > 1 and out is not None else label
        for label, out in zip(found, folders, strict=True)
    ]
    if len(set(found)) < len(found):
        raise UserError(
            f"Several variants would be called {max(found, key=found.count)!r}. Name them: "
            "Comparison.of({'one': run, 'other': run})."
        )
    return found


def speed_of(run: Run) -> float:
    """Steps a second: as measured, or as its folder tells it."""
    path = None if run.out is None else run.out / trackers.SPEED
    if np.isfinite(run.steps_per_second) or path is None or not path.exists():
        return run.steps_per_second
    _, seconds, rates = trackers.read_speed(path)
    first = 1 if len(seconds) > 1 else 0  # which warms up
    seconds, rates = seconds[first:], rates[first:]
    return float((seconds * rates).sum() / seconds.sum()) if len(seconds) else float("nan")


def _as_json(data: Any) -> Any:
    """As it would be after a trip through run.json: tuples are lists there."""
    return json.loads(json.dumps(data, default=str))
