"""From recorded decisions to an agent, evaluated on later ones before it is let loose."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actorcritic.core import files
from actorcritic.core.errors import UserError
from actorcritic.core.words import printable
from actorcritic.decisions import evaluation, records
from actorcritic.decisions.agent import FEATURES
from actorcritic.decisions.evaluation import Evaluation, Interval, Logged
from actorcritic.decisions.log import Log
from actorcritic.decisions.online import OnlineLearner
from actorcritic.decisions.pages import write
from actorcritic.decisions.policy import Policy
from actorcritic.figures.html import Section, Table

DATABASE, PAGE, NUMBERS = "agent.db", "report.html", "evaluation.json"
FEWEST = 20  # outcomes, of which some are learned from and some are held out
EXPLORATION = 0.02
MOST_FIXED = 12  # actions that are evaluated as "always this one"

AGENT, LINUCB, EVEN = "the agent", "LinUCB", "any action alike"


@dataclass(frozen=True)
class Replayed:
    """What a replay made and found."""

    out: Path
    decisions: int
    outcomes: int
    learned: int  # outcomes, before those that evaluate
    acted: Interval  # mean reward of the policy that acted, in the rows held out
    found: dict[str, Evaluation]

    def __str__(self) -> str:
        lines = [
            f"{self.decisions:,} decisions, {self.outcomes:,} with a reward; learned from the "
            f"first {self.learned:,}, evaluated on the rest. What acted earned {self.acted}.",
            "",
            *(
                f"{name}: {each.dr} doubly robust; {each.verdict}"
                for name, each in self.found.items()
            ),
        ]
        return printable("\n".join(lines))


def replay(
    source: str | Path,
    out: str | Path,
    *,
    holdout: float = 0.3,
    tell: Callable[[str], None] = lambda text: None,
    command: str | None = None,
) -> Replayed:
    """Learn from the lines of `source`, evaluate on the last of them, keep an agent in `out`.

    The policies that are evaluated learned from the first 1 − `holdout` of the outcomes, and are
    evaluated on the others, which they have not seen. The agent in `out/agent.db` then learns from
    all, and goes on deciding from there. Raises UserError before anything is written where the
    file is not as `records` says.
    """
    source, out = Path(source), Path(out)
    if not 0 < holdout < 1:
        raise UserError(f"holdout is a share between 0 and 1; got {holdout}.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already and not empty. Name a new folder.")
    tell("reading")
    rows = list(
        records.read(source, lambda n: tell(f"reading, line {n:,}") if n % 1000 == 0 else None)
    )
    known = sum(row.reward is not None for row in rows)
    if known < FEWEST:
        raise UserError(
            f"{source} has {known} decisions with a reward, of {len(rows)}; it takes {FEWEST} to "
            "learn and to evaluate."
        )
    rows.sort(key=lambda row: row.time)
    size = next((len(row.vector) // 4 for row in rows if row.vector is not None), FEATURES)
    files.make_folder(out)
    database = out / DATABASE
    log = Log(database)
    try:
        settings = {"features": size, "seed": 0, "hyperparameters": {}}
        log.save_settings(settings)
        tell("writing the log")
        records.write(log, rows, size)
        first = max(1, min(known - 2, round((1 - holdout) * known)))
        learner = OnlineLearner(database, settings)
        try:
            _learn(learner, first, tell)
            policy = learner.policy()
            tell("evaluating")
            found, acted = _evaluate(log, size, first, known, policy)
            _learn(learner, known, tell)
            learner.save()
        finally:
            learner.close()
        result = Replayed(out, len(rows), known, first, acted, found)
        _write(result, source, command)
    except BaseException:
        log.close()
        files.remove(out)
        raise
    log.close()
    return result


def _learn(learner: OnlineLearner, until: int, tell: Callable[[str], None]) -> None:
    while learner.learned < until:
        learner.learn(min(until, learner.learned + 256))
        tell(f"learning, {learner.learned:,} of {until:,} outcomes")


def _evaluate(
    log: Log, size: int, first: int, known: int, policy: Policy
) -> tuple[dict[str, Evaluation], Interval]:
    """Of each policy that learned from the first outcomes, what the others say of it."""
    early, late = (_arrays(log, size, *ends, policy) for ends in ((0, first), (first, known)))
    names = [name for name, _ in log.actions()]
    model = evaluation.cross_fitted(late)
    policies = {
        AGENT: policy.probabilities(late.features, late.allowed, EXPLORATION, None, 0),
        LINUCB: evaluation.greedy(_ridge(early, len(names), late), late.allowed),
        EVEN: evaluation.uniform(late.allowed),
    }
    for a, name in enumerate(names[:MOST_FIXED]):
        if late.allowed[:, a].all():
            policies[f"always {name}"] = np.eye(len(names))[np.full(len(late.reward), a)]
    found = {name: evaluation.evaluate(late, each, model) for name, each in policies.items()}
    return found, evaluation.mean_interval(late.reward)


def _arrays(log: Log, size: int, after: int, until: int, policy: Policy) -> Logged:
    """Outcomes as arrays, vectors standardised as the policy has it."""
    logged, given = records.as_arrays(log, size, after, until)
    return logged._replace(features=policy.scaled(logged.features, given))


def _ridge(early: Logged, actions: int, late: Logged) -> np.ndarray:
    """The rewards that LinUCB expects: a ridge regression for each action (Li et al. 2010)."""
    everything = np.ones(len(early.reward), bool)
    return evaluation.RidgeModel.fit(early, everything, actions).predict(late.features)


def tables(found: dict[str, Evaluation]) -> tuple[Table, ...]:
    """Estimates side by side, and what they are worth."""
    rows = tuple(
        (
            name,
            str(each.dr),
            str(each.snips),
            str(each.ips),
            f"{each.effective:,.0f} of {each.rows:,}",
            f"{each.mean_weight.value:.2f}",
            each.verdict,
        )
        for name, each in found.items()
    )
    note = (
        "Mean reward of a decision with 95 % intervals. Effective: as how many decisions the rows "
        "count for this policy. Weight: the mean of π / μ; far below 1, the log lacks what the "
        "policy would do. Better and worse: the interval of the difference to what acted, on the "
        "same rows, excludes 0. Of 20 policies that are alike, one will seem so by chance."
    )
    columns = ("policy", "doubly robust", "SNIPS", "IPS", "effective", "weight", "verdict")
    return (Table("policies", "What each policy would have earned", columns, rows, note),)


def numbers(found: dict[str, Evaluation]) -> dict[str, Any]:
    """The same as plain JSON."""
    return {
        name: {
            **{
                part: dict(zip(("value", "low", "high"), getattr(each, part), strict=True))
                for part in ("dr", "snips", "ips", "gain", "mean_weight")
            },
            "effective": each.effective,
            "rows": each.rows,
            "answerable": each.answerable,
            "verdict": each.verdict,
        }
        for name, each in found.items()
    }


def _write(result: Replayed, source: Path, command: str | None) -> None:
    agent = result.found[AGENT]
    section = Section(
        "Before deploying",
        f"The agent would have earned {agent.dr} a decision, and what acted {result.acted}: "
        f"{agent.verdict}.",
        (
            f"{result.decisions:,} decisions of {source.name}, {result.outcomes:,} with a reward. "
            f"Everything learned from the first {result.learned:,} outcomes and is evaluated on "
            "the others, in the order of time.",
            "Decisions without a reward are left out, as if whether a reward came did not depend "
            "on what it was.",
        ),
        tables=tables(result.found),
    )
    shown = command or shlex.join(["actorcritic", "decide", "replay", str(source)])
    write(result.out / PAGE, f"Replay of {source.name}", [section], shown)
    data = {
        "decisions": result.decisions,
        "outcomes": result.outcomes,
        "learned": result.learned,
        "acted": dict(zip(("value", "low", "high"), result.acted, strict=True)),
        "policies": numbers(result.found),
    }
    files.write(result.out / NUMBERS, json.dumps(data, indent=1))
