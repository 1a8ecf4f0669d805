"""What an evaluation of a run found, and evaluation.json, which keeps the final one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from actorcritic.core import files
from actorcritic.core.errors import UserError
from actorcritic.core.types import Agent, EnvSpec
from actorcritic.core.words import listed
from actorcritic.figures import statistics
from actorcritic.runners.evaluate import MAX_STEPS, Evaluation
from actorcritic.runs import configuration, notebook

FILE = "evaluation.json"
_TABLES: dict[str, Any] = {
    "returns": [[float | int]],
    "lengths": [[int]],
    "cut": [[bool]],
    "agent_returns": [[[float | int]]],
}
_FORM = {"seeds": [int], "deterministic": bool, "returns": list, "lengths": list}


@dataclass(frozen=True)
class Evaluated:
    """Returns and lengths of the evaluation episodes of each seed, and their summary."""

    seeds: tuple[int, ...]
    returns: Float[np.ndarray, "S E"]
    lengths: Int[np.ndarray, "S E"]
    deterministic: bool
    cut: Bool[np.ndarray, "S E"] | None = None  # left before they ended, if any were
    # Of several agents: who they are, and the return of each. `returns` are then the means over
    # the agents of the first team.
    agents: tuple[Agent, ...] = ()
    agent_returns: Float[np.ndarray, "S E N"] | None = None

    @property
    def summary(self) -> statistics.Summary:
        return statistics.summary(self.returns)

    mean = property(lambda self: self.summary.mean)
    iqm = property(lambda self: self.summary.iqm)
    interval = property(lambda self: (self.summary.low, self.summary.high))

    @property
    def by_agent(self) -> dict[str, float]:
        """The mean return of each of several agents, by its name."""
        if self.agent_returns is None:
            return {}
        means = self.agent_returns.mean(axis=(0, 1)).tolist()
        return dict(zip([agent.name for agent in self.agents], means, strict=True))

    @property
    def by_team(self) -> dict[str, float]:
        """The mean return of each team: the sum over its agents."""
        teams = {agent.team: 0.0 for agent in self.agents}
        for agent in self.agents:
            teams[agent.team] += self.by_agent[agent.name]
        return teams

    @property
    def of_agents(self) -> list[str]:
        """Lines that say what is counted where there are several agents, and what each reached."""
        if self.agent_returns is None:
            return []
        first = [agent.name for agent in self.agents if agent.team == self.agents[0].team]
        lines = [f"The return above is that of an agent: the mean over {listed(first)}."]
        for team, total in self.by_team.items():
            mine = [agent.name for agent in self.agents if agent.team == team]
            each = ", ".join(f"{name} {self.by_agent[name]:.2f}" for name in mine)
            lines.append(f"Team '{team}': team return {total:.2f} (the sum); each agent's: {each}.")
        return lines

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


def evaluated(
    spec: EnvSpec, seeds: tuple[int, ...], deterministic: bool, found: Evaluation
) -> Evaluated:
    """What an evaluation of these seeds found."""
    each = found.agents if spec.agents else None
    kind = deterministic
    return Evaluated(seeds, found.returns, found.lengths, kind, found.cut, spec.agents, each)


def save_evaluation(out: Path | None, result: Evaluated | None) -> None:
    """Keep an evaluation in a run's folder, if there are both."""
    if out is None or result is None:
        return
    found = {
        "seeds": list(result.seeds),
        "deterministic": result.deterministic,
        "returns": result.returns.tolist(),
        "lengths": result.lengths.tolist(),
        "cut": None if result.cut is None else result.cut.tolist(),
    }
    if result.agent_returns is not None:
        found["agents"] = [list(agent) for agent in result.agents]
        found["agent_returns"] = result.agent_returns.tolist()
    files.write(out / FILE, json.dumps(found))


def read_evaluation(out: Path, seeds: Sequence[int]) -> Evaluated | None:
    """The final evaluation of a run of these seeds, if its folder has one.

    UserError where it is damaged, or of other seeds.
    """
    path = out / FILE
    if not path.exists():
        return None
    data = configuration.read_json(path)
    names = [name for name in _TABLES if data.get(name) is not None]
    form = _FORM | {name: _TABLES[name] for name in names}
    if (
        not files.fits(data, form)
        or not _are_alike([data[n] for n in names], len(data["seeds"]))
        or not set(data["seeds"]) <= set(seeds)
    ):
        raise UserError(
            f"{path} is not what a training writes. Restore it from a copy, or remove it."
        )
    tables = {name: np.asarray(data[name]) for name in names}
    agents = configuration.agents_from_json(data.get("agents", []))
    return Evaluated(
        tuple(data["seeds"]), deterministic=data["deterministic"], agents=agents, **tables
    )


def _are_alike(tables: list[list[list[Any]]], seeds: int) -> bool:
    """Whether all have a row for each seed, and the rows the same number of episodes.

    Where an episode has a number of each agent, there are as many for each.
    """
    rows = [row for table in tables for row in table]
    numbers = {len(each) for row in rows for each in row if isinstance(each, list)}
    lengths = {len(row) for row in rows}
    return (
        len(lengths) == 1
        and 0 not in lengths
        and len(numbers) <= 1
        and {len(table) for table in tables} == {seeds}
    )
