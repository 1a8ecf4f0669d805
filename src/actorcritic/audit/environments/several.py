"""Does an environment of PettingZoo keep its promises, for each of its agents?

The parallel interface is held against what its documentation says of it: who has a space, who is
announced, who answers in each step, who stays away once it is out.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from copy import deepcopy
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from actorcritic.audit.environments.single import (
    SECONDS,
    SEEDED_STEPS,
    STEPS,
    Broken,
    Notes,
    _check_numbers,
    _check_observation,
    _equal,
    _show,
)
from actorcritic.audit.findings import Report
from actorcritic.core.words import listed
from actorcritic.envs.pettingzoo import PARTS, as_parallel

RESET_FORM = "def reset(self, seed=None, options=None): ...; return observations, infos"
STEP_FORM = f"def step(self, actions): ...; return {', '.join(PARTS)}"
ANSWERS = PARTS[:4]  # infos may leave agents out


class Seen(NamedTuple):
    """What one step gave, by agent; a copy."""

    parts: tuple[dict[str, Any], ...]  # in the order of `ANSWERS`
    agents: tuple[str, ...]  # who is left after it


class _Part(NamedTuple):
    """Stands for an environment where one agent's observation is held against its space."""

    observation_space: gymnasium.Space


def check(name: str, environment: Any) -> Report:
    """Audit an environment of several agents."""
    notes = Notes()
    environment = as_parallel(environment, name)
    lengths: list[tuple[int, bool, bool]] = []
    count = 0
    try:
        _check_spaces(environment, notes)
        deadline = time.monotonic() + SECONDS
        while count < STEPS and time.monotonic() < deadline:
            episode = _episode(environment, len(lengths), STEPS - count, deadline, notes)
            count += len(episode)
            last = episode[-1].parts if episode else ({}, {}, {}, {})
            ended = not episode[-1].agents if episode else True
            cut = any(map(bool, last[3].values()))
            lengths.append((len(episode), ended, cut))
            if not episode:
                break
        for held in (
            "reset-answers",
            "step-answers",
            "every-agent-answers",
            "agents-announced",
            "agents-stay-out",
            "observation-in-space",
            "observation-dtype",
            "observations-finite",
            "rewards-finite",
            "flags-are-booleans",
            "observations-copied",
            "state-has-one-shape",
        ):
            notes.hold(held)
        _check_seeds(environment, notes)
        _advise_of_limit(lengths, notes)
    except Broken:
        pass
    return notes.report(
        name, "environment", f"{count} steps of {len(lengths)} episodes with random actions"
    )


def _check_spaces(environment: Any, notes: Notes) -> None:
    agents = getattr(environment, "possible_agents", None)
    if not agents or len(set(agents)) < len(agents):
        notes.say(
            "agents-announced",
            "possible_agents does not name every agent once.",
            "Nobody can make room for agents that are not announced.",
            f"expected a list of names, actual {agents!r}",
            "Set self.possible_agents in the constructor.",
        )
        raise Broken
    for agent in agents:
        for kind in ("observation", "action"):
            try:
                found = getattr(environment, f"{kind}_space")(agent)
                again = getattr(environment, f"{kind}_space")(agent)
            except Exception as error:
                found = again = f"{type(error).__name__}: {error}"
            if not isinstance(found, gymnasium.Space):
                notes.say(
                    "spaces-declared",
                    f"Agent '{agent}' has no {kind} space.",
                    "No library can make a policy for it.",
                    f"{kind}_space({agent!r})\nexpected a space of gymnasium.spaces, "
                    f"actual {found}",
                    f"Write `def {kind}_space(self, agent): return …`, for every agent.",
                )
            elif found is not again:
                notes.say(
                    "spaces-kept",
                    f"{kind}_space makes another space at every call.",
                    "Seeding the space that was asked for first seeds no other: random actions "
                    "differ between runs of one seed.",
                    f"{kind}_space({agent!r})\nexpected the same object twice, actual two objects",
                    "Keep the spaces in the constructor, or cache the method "
                    "(functools.lru_cache).",
                )
    if "spaces-declared" in notes.found:
        raise Broken
    notes.hold("spaces-declared", "spaces-kept")


def _reset(environment: Any, seed: int | None, notes: Notes) -> dict[str, Any]:
    try:
        result: Any = environment.reset(seed=seed)
        told = f"{type(result).__name__}"
    except Exception as error:
        result, told = None, f"{type(error).__name__}: {error}"
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], Mapping)):
        notes.say(
            "reset-answers",
            "reset does not return (observations, infos), each a dict by agent.",
            "Nothing can be trained.",
            f"reset(seed={seed})\nexpected two dicts, actual {told}",
            f"Write `{RESET_FORM}`.",
        )
        raise Broken
    _check_announced(environment, result[0], "reset", notes)
    return dict(result[0])


def _check_announced(environment: Any, got: Mapping[str, Any], where: str, notes: Notes) -> None:
    unknown = [agent for agent in got if agent not in environment.possible_agents]
    if unknown:
        notes.say(
            "agents-announced",
            "An agent appears that possible_agents does not name.",
            "There is no space and no policy for it.",
            f"{where}\nexpected some of {listed(environment.possible_agents)}, actual also "
            f"{listed(unknown)}",
            "Name every agent that may ever appear in possible_agents.",
        )
        raise Broken


def _action(environment: Any, agent: str, observation: Any) -> Any:
    space = environment.action_space(agent)
    if isinstance(observation, Mapping) and "action_mask" in observation:
        mask = np.asarray(observation["action_mask"])
        if mask.any() and isinstance(space, gymnasium.spaces.Discrete):
            return space.sample(mask.astype(np.int8))
    return space.sample()


def _step(environment: Any, actions: dict[str, Any], where: str, notes: Notes) -> Seen:
    try:
        result: Any = environment.step(deepcopy(actions))
        told = f"{type(result).__name__} of {len(result)}"
    except Exception as error:
        result, told = None, f"{type(error).__name__}: {error}"
    if not (
        isinstance(result, tuple)
        and len(result) == 5
        and all(isinstance(part, Mapping) for part in result)
    ):
        notes.say(
            "step-answers",
            "step does not return five dicts by agent.",
            "Training stops there.",
            f"{where}\nexpected {', '.join(PARTS)}, actual {told}",
            f"Write `{STEP_FORM}`.",
        )
        raise Broken
    _check_announced(environment, result[0], where, notes)
    for part, got in zip(ANSWERS, result[:4], strict=True):
        missing = [agent for agent in actions if agent not in got]
        if missing:
            notes.say(
                "every-agent-answers",
                f"An agent that acted is not among the {part} of that step.",
                "What its action led to is lost: of its last step, the reward too.",
                f"{where}\nexpected {listed(list(actions))}, actual {listed(list(got)) or 'none'}",
                "Answer for every agent that acted, and take those that are out from self.agents "
                "afterwards.",
            )
            raise Broken
    return Seen(result[:4], tuple(environment.agents))


def _episode(environment: Any, seed: int, most: int, deadline: float, notes: Notes) -> list[Seen]:
    observations = _reset(environment, seed, notes)
    for k, agent in enumerate(environment.possible_agents):
        environment.action_space(agent).seed(seed + k)
    _check_each(environment, observations, "reset", notes)
    out: set[str] = set()
    shape = _state_shape(environment)
    seen: list[Seen] = []
    while environment.agents and len(seen) < most and time.monotonic() < deadline:
        acting = list(environment.agents)
        back = [agent for agent in acting if agent in out]
        where = f"step {len(seen) + 1} of the episode with seed {seed}"
        if back:
            notes.say(
                "agents-stay-out",
                "An agent that had terminated or was truncated is among the agents again.",
                "Its episode has ended: what it does now is learned from as another one, or never.",
                f"{where}\nexpected without {listed(back)}, actual {listed(acting)}",
                "Take agents that are out from self.agents until reset.",
            )
            raise Broken
        held = deepcopy(observations)
        actions = {a: _action(environment, a, observations.get(a)) for a in acting}
        step = _step(environment, actions, where, notes)
        if not _equal(held, observations):
            notes.say(
                "observations-copied",
                "An observation that was returned is changed by the next step: its array is used "
                "again.",
                "Buffers that keep it hold the last observation in every row.",
                f"{where}\nexpected, still {_show(held)}, actual {_show(observations)}",
                "Return a copy: np.array(…, dtype=np.float32).",
            )
        observations = dict(step.parts[0])
        _check_each(environment, observations, where, notes)
        for agent in acting:
            reward, terminated, truncated = (part[agent] for part in step.parts[1:])
            who = f"{where}, agent '{agent}'"
            _check_numbers(reward, terminated, truncated, who, notes)
            if bool(terminated) or bool(truncated):
                out.add(agent)
        now = _state_shape(environment)
        if now != shape:
            notes.say(
                "state-has-one-shape",
                "state() changes its shape, or fails later in an episode.",
                "A central critic takes numbers of one shape.",
                f"{where}\nexpected {shape}, actual {now}",
                "Give agents that are out a place in the state too.",
            )
        seen.append(Seen(deepcopy(step.parts), step.agents))
    return seen


def _state_shape(environment: Any) -> Any:
    """The shape of `state()`; None where there is none."""
    try:
        return np.shape(environment.state())
    except (NotImplementedError, AttributeError):
        return None
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _check_each(
    environment: Any, observations: Mapping[str, Any], where: str, notes: Notes
) -> None:
    for agent, own in observations.items():
        space = environment.observation_space(agent)
        _check_observation(_Part(space), own, f"{where}, agent '{agent}'", notes)
        if isinstance(own, Mapping) and "action_mask" in own and agent in environment.agents:
            if np.any(own["action_mask"]):
                notes.hold("masks-allow-something")
            else:
                notes.say(
                    "masks-allow-something",
                    "A mask allows an agent nothing where it has to act.",
                    "There is no action to take: policies raise, or take a forbidden one.",
                    f"{where}, agent '{agent}'\nexpected at least one allowed, actual none",
                    "End the agent's episode one step earlier.",
                )


def _check_seeds(environment: Any, notes: Notes) -> None:
    """The same seed and actions have to give the same episode."""

    def trajectory() -> list[Any]:
        observations = _reset(environment, 1, notes)
        for k, agent in enumerate(environment.possible_agents):
            environment.action_space(agent).seed(k)
        found: list[Any] = [deepcopy(observations)]
        for t in range(SEEDED_STEPS):
            if not environment.agents:
                break
            actions = {a: _action(environment, a, observations.get(a)) for a in environment.agents}
            step = _step(environment, actions, f"step {t + 1}", notes)
            observations = dict(step.parts[0])
            found.append(deepcopy(step.parts))
        return found

    first, second = trajectory(), trajectory()
    differ = len(first) != len(second) or not _equal(first, second)
    if differ:
        pairs = enumerate(zip(first, second, strict=False))
        k = next((k for k, (a, b) in pairs if not _equal(a, b)), min(len(first), len(second)))
        notes.say(
            "same-seed-same-trajectory",
            "The same seed and the same actions give another episode.",
            "No run can be repeated, and no bug found again.",
            f"step {k} of the episodes with seed 1\nexpected twice the same, actual two episodes",
            "Draw all randomness from a generator that reset(seed=…) seeds.",
        )
    notes.hold("same-seed-same-trajectory")


def _advise_of_limit(lengths: list[tuple[int, bool, bool]], notes: Notes) -> None:
    """Episodes that all end after as many steps were cut by a time limit."""
    if len(lengths) < 3:
        return
    whole = [(length, cut) for length, ended, cut in lengths if ended]
    if len(whole) < 3:
        notes.advise(
            "no time limit: with random actions, episodes do not end. Let truncations say when "
            "they are long enough."
        )
    elif len({length for length, _ in whole}) == 1 and not any(cut for _, cut in whole):
        notes.advise(
            f"every episode terminates after {whole[0][0]} steps, as if by a time limit. A time "
            "limit is a truncation: the value of what would have followed counts."
        )
