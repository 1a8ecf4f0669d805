"""Environments of one agent and of several are asked alike: every answer is a dict by agent.

What does not have the form of an answer ends the audit: `Broken`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn

import gymnasium
import numpy as np
from gymnasium import spaces

from actorcritic.audit.environments import faults
from actorcritic.audit.findings import Fault, Ledger
from actorcritic.core.words import listed
from actorcritic.envs.host import checks
from actorcritic.envs.pettingzoo import PARTS


class Broken(Exception):
    """The interface itself is broken, so that nothing more can be asked."""


@dataclass
class Notes(Ledger):
    """What was found in an environment."""

    beyond: list[str] = field(default_factory=list)  # observations beyond their space, told
    looked_at: int = 0


class Answer(NamedTuple):
    """What one step gave, by agent that acted, and all that is seen; of a reset, that alone."""

    observations: Mapping[str, Any]
    rewards: Mapping[str, Any]
    terminated: Mapping[str, Any]
    truncated: Mapping[str, Any]

    def ended(self, agent: str) -> bool:
        return bool(np.any(self.terminated[agent]) or np.any(self.truncated[agent]))


def shown(x: Any) -> str:
    text = " ".join(str(x).split())
    return text if len(text) <= 120 else f"{text[:117]}..."


def drawn(space: Any, holder: Any) -> Any:
    """A random action, one that is allowed where there is a mask."""
    mask = holder.get("action_mask") if isinstance(holder, Mapping) else None
    if mask is None or not isinstance(space, spaces.Discrete):
        return space.sample()
    return space.sample(np.asarray(mask).astype(np.int8))


class Alone:
    """An environment of Gymnasium; its one agent has no name."""

    several = False
    returned = (
        "(observation, info), info being a dict",
        "observation, reward, terminated, truncated and an info dict",
    )
    forms = checks.RESET_FORM, checks.STEP_FORM
    space_form = "Set self.{kind}_space in the constructor."
    promises: tuple[Fault, ...] = faults.OF_ALL
    unseeded = faults.UNSEEDED

    def __init__(self, environment: Any, notes: Notes) -> None:
        self.environment, self.notes = environment, notes
        self.agents: list[str] = []
        self._mask: Any = {}  # of infos, which may have one

    @property
    def spec(self) -> Any:
        return getattr(self.environment, "spec", None)

    @property
    def possible(self) -> list[str]:
        """All who may ever act."""
        return [""]

    def who(self, agent: str) -> str:
        return ""

    def space(self, agent: str, kind: str = "observation") -> Any:
        return getattr(self.environment, f"{kind}_space", None)

    def check_spaces(self) -> None:
        for agent, kind in itertools.product(self.possible, ("observation", "action")):
            try:
                found, again = (self.space(agent, kind) for _ in range(2))
            except Exception as error:
                found = again = f"{type(error).__name__}: {error}"
            where, who = f"{kind}_space{self.who(agent)}\nexpected", self.who(agent)
            if not isinstance(found, gymnasium.Space):
                example = f"{where} a space of gymnasium.spaces, actual {found}"
                mend = self.space_form.format(kind=kind)
                who = who.replace(",", " for")
                self.notes.fail(faults.SPACES, example, who=who, kind=kind, mend=mend)
            elif self.several and found is not again:
                example = f"{where} the same object twice, actual two objects"
                self.notes.fail(faults.SPACES_KEPT, example, kind=kind)
        if faults.SPACES.check in self.notes.found:
            raise Broken
        self.notes.hold(faults.SPACES.check, *[faults.SPACES_KEPT.check] * self.several)

    def _ask(self, call: Callable[[], Any], where: str, is_step: bool) -> Any:
        """What a call gives, if it has the form that the interface promises."""
        fault, returned = (faults.RESET, faults.STEP)[is_step], self.returned[is_step]
        fails = f"does not return {returned}"
        try:
            result = call()
            told = checks.kind_of(result)
        except Exception as error:
            result, told = None, f"{type(error).__name__}: {error}"
            fails = "raises an exception" + " for actions of the action space" * is_step
        right = isinstance(result, tuple) and len(result) == (2, 5)[is_step]
        if not right or not self._fits(result):
            example = f"{where}\nexpected {returned}, actual {told}"
            self.fail(fault, example, fails=fails, form=self.forms[is_step])
        self.notes.hold(fault.check)
        return result

    def fail(self, fault: Fault, example: str, **words: Any) -> NoReturn:
        self.notes.fail(fault, example, **words)
        raise Broken

    def fail_aliased(self, example: str) -> None:
        self.notes.fail(faults.ALIASED, example)

    def _fits(self, result: tuple[Any, ...]) -> bool:
        return isinstance(result[-1], dict)

    def seed_actions(self, seed: int) -> None:
        self.environment.action_space.seed(seed)

    def actions(self) -> dict[str, Any]:
        return {"": drawn(self.environment.action_space, self._mask)}

    def reset(self, seed: int | None) -> Answer:
        result = self._ask(lambda: self.environment.reset(seed=seed), f"reset(seed={seed})", False)
        self.agents, self._mask = [""], result[1]
        return Answer({"": result[0]}, {}, {}, {})

    def step(self, actions: dict[str, Any], where: str) -> Answer:
        result = self._ask(
            lambda: self.environment.step(deepcopy(actions[""])), f"step({actions['']!r})", True
        )
        answer = Answer(*({"": part} for part in result[:4]))
        self.agents, self._mask = [] if answer.ended("") else [""], result[4]
        return answer


class Several(Alone):
    """An environment of PettingZoo's parallel interface."""

    several = True
    returned = "(observations, infos), each a dict by agent", f"{', '.join(PARTS)}, dicts by agent"
    forms = (
        "def reset(self, seed=None, options=None): ...; return observations, infos",
        f"def step(self, actions): ...; return {', '.join(PARTS)}",
    )
    space_form = "Write `def {kind}_space(self, agent): return …`, for every agent."
    promises = faults.OF_ALL + faults.OF_SEVERAL

    @property
    def possible(self) -> list[str]:
        agents = getattr(self.environment, "possible_agents", None)
        if not agents or len(set(agents)) < len(agents):
            self.fail(faults.NOT_NAMED, f"expected a list of names, actual {agents!r}")
        return agents

    def who(self, agent: str) -> str:
        return f", agent '{agent}'"

    def space(self, agent: str, kind: str = "observation") -> Any:
        return getattr(self.environment, f"{kind}_space")(agent)

    def _fits(self, result: tuple[Any, ...]) -> bool:
        return all(isinstance(part, Mapping) for part in result)

    def seed_actions(self, seed: int) -> None:
        for k, agent in enumerate(self.possible):
            self.space(agent, "action").seed(seed + k)

    def actions(self) -> dict[str, Any]:
        return {a: drawn(self.space(a, "action"), self._seen.get(a)) for a in self.agents}

    def reset(self, seed: int | None) -> Answer:
        where = f"reset(seed={seed})"
        result = self._ask(lambda: self.environment.reset(seed=seed), where, False)
        self._out: set[str] = set()
        self._shape = self._state_shape()
        self._look(result[0], "reset")
        return Answer(dict(result[0]), {}, {}, {})

    def step(self, actions: dict[str, Any], where: str) -> Answer:
        result = self._ask(lambda: self.environment.step(deepcopy(actions)), where, True)
        for name, part in zip(PARTS[:4], result, strict=False):
            if actions.keys() - part.keys():
                came = listed(list(part)) if part else "none"
                example = f"{where}\nexpected {listed(list(actions))}, actual {came}"
                self.fail(faults.SILENT, example, part=name)
        numbers = ({agent: part[agent] for agent in actions} for part in result[1:4])
        answer = Answer(dict(result[0]), *numbers)
        self._out |= {agent for agent in actions if answer.ended(agent)}
        self._look(answer.observations, where)
        shape = self._state_shape()
        if shape != self._shape:
            self.notes.fail(faults.STATE, f"{where}\nexpected {self._shape}, actual {shape}")
        return answer

    def _look(self, observations: Mapping[str, Any], where: str) -> None:
        """Who is there after a reset or a step, and may act?"""
        self._seen, self.agents = observations, list(self.environment.agents)
        if strangers := [agent for agent in observations if agent not in self.possible]:
            example = f"expected some of {listed(self.possible)}, actual also {listed(strangers)}"
            self.fail(faults.STRANGER, f"{where}\n{example}")
        if back := [agent for agent in self.agents if agent in self._out]:
            example = f"expected without {listed(back)}, actual {listed(self.agents)}"
            self.fail(faults.BACK, f"{where}\n{example}")
        for agent in self.agents:
            own = observations.get(agent)
            if isinstance(own, Mapping) and "action_mask" in own:
                self.notes.hold(faults.MASK.check)
                if not np.any(own["action_mask"]):
                    example = (
                        f"{where}{self.who(agent)}\nexpected at least one allowed, actual none"
                    )
                    self.notes.fail(faults.MASK, example)

    def _state_shape(self) -> Any:
        """The shape of `state()`; None where there is none."""
        try:
            return np.shape(self.environment.state())
        except (NotImplementedError, AttributeError):
            return None
        except Exception as error:
            return f"{type(error).__name__}: {error}"
