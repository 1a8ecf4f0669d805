"""Does an environment keep its promises: its spaces, its seeds, its flags, its arrays?

What is an error fails. What only makes learning harder (scales, endless episodes) is advice, and
stands among the choices. Of several agents, PettingZoo's parallel interface is asked.
"""

from __future__ import annotations

import random
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import VectorEnv

from actorcritic.audit.environments import advice, faults, running
from actorcritic.audit.environments.asking import Alone, Broken, Notes, Several
from actorcritic.audit.environments.vectors import Vector
from actorcritic.audit.findings import CannotCall, Report
from actorcritic.core.errors import UserError
from actorcritic.core.types import Environment
from actorcritic.envs import pettingzoo
from actorcritic.envs.as_gymnasium import AsGymnasium
from actorcritic.envs.catalogue import compiled_environment
from actorcritic.envs.host import finding


def check(environment: Any, *, mapping: Mapping[str, str] | None = None, **options: Any) -> Report:
    """Audit an environment.

    It is a Gymnasium id, "module:Name", a function or class that makes one, an instance, a
    `VectorEnv`, or a compiled environment of this library; `options` go to what makes it.
    """
    if mapping:
        raise CannotCall("An environment has no parameters to map.")
    state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return _check(environment, options)
    except UserError as error:
        raise CannotCall(str(error)) from error
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)


def _maker(environment: Any, options: dict[str, Any]) -> tuple[str, Callable[[], Any], bool]:
    """Its name, what makes one, and whether that is a new one each time."""
    if isinstance(environment, (gymnasium.Env, VectorEnv)):
        if options:
            raise CannotCall(f"The options {options} came with an environment that is made.")
        spec = environment.spec
        name = spec.id if spec is not None else type(environment.unwrapped).__name__
        return name, lambda: environment, False
    if pettingzoo.is_several(environment):
        return type(environment).__name__, lambda: environment, False
    compiled: Any = None
    if isinstance(environment, type) or (isinstance(environment, str) and ":" in environment):
        compiled = compiled_environment(environment, **options)
    elif isinstance(environment, Environment):
        compiled = environment
    if compiled is not None:
        return compiled.spec.id, lambda: AsGymnasium(compiled), True
    name, factory = finding.find(environment)
    return name, lambda: finding.made(name, factory, options), True


def _asked(name: str, made: Any, notes: Notes) -> Alone:
    """In the way that its interface takes."""
    if isinstance(made, VectorEnv):
        return Vector(made, notes)
    if pettingzoo.is_several(made):
        return Several(pettingzoo.as_parallel(made, name), notes)
    return Alone(finding.wrapped(name, made), notes)


def _check(given: Any, options: dict[str, Any]) -> Report:
    notes = Notes()
    name, make, fresh = _maker(given, options)
    world = _asked(name, make(), notes)
    alone = type(world) is Alone
    episodes: list[running.Episode] = []
    try:
        world.check_spaces()
        before = running.generators()
        episodes = running.episodes_of(world)
        anew = (lambda: Alone(make(), notes)) if fresh and alone else None
        running.check_seeds(world, anew, before)
        if isinstance(world, Vector):
            world.compare()
        elif isinstance(world, Several):
            advice.of_limit(episodes, notes)
        else:
            advice.time_limit(world, episodes)
            advice.scales(world, episodes)
            advice.after_end(world)
    except Broken:
        pass
    if alone:
        _gymnasium_checker(world.environment, notes)
        if fresh:
            world.environment.close()
    count = sum(len(episode.steps) for episode in episodes)
    called = f"{count} steps of {len(episodes)} episodes with random actions"
    if isinstance(world, Vector):
        called = f"{count} random steps of {world.environment.num_envs} environments"
    return notes.report(name, "environment", called)


SAME_CAUSE = {  # what Gymnasium's checker says, and those checks of ours that say it too
    r"share an object": {"observations-copied"},
    r"random|seed|[Dd]eterministic": {"same-seed-same-trajectory", "reset-clears-state"},
    r"observation space|not within": {"observation-in-space", "observation-dtype"},
    r"dtype": {"observation-dtype"},
    r"NaN|Inf|inf|finite": {"observations-finite", "rewards-finite"},
    r"reward": {"rewards-finite"},
    r"terminated|truncated|boolean": {"flags-are-booleans"},
    r"": {"reset-answers", "step-answers", "spaces-declared"},
}
NOISE = ("different from the unwrapped version", "alternative render modes")


def _gymnasium_checker(environment: gymnasium.Env, notes: Notes) -> None:
    """What `gymnasium.utils.env_checker.check_env` says, in its words."""
    failed: Exception | None = None
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            check_env(environment.unwrapped, skip_render_check=True, skip_close_check=True)
        except Exception as error:
            failed = error
    for warning in said:
        text = re.sub(r"\x1b\[[0-9;]*m", "", str(warning.message)).removeprefix("WARN: ")
        if not any(noise in text for noise in NOISE):
            notes.choices.append(f"Gymnasium's checker warns: {text.strip().rstrip('.')}")
    if failed is None:
        notes.hold(faults.CHECKER.check)
        return
    kind, text = type(failed).__name__, " ".join(str(failed).split()).rstrip(".")
    if any(re.search(words, text) and ours & {*notes.found} for words, ours in SAME_CAUSE.items()):
        return  # one cause
    example = f"check_env(env.unwrapped)\nexpected no exception, actual {kind}"
    notes.fail(faults.CHECKER, example, text=text or kind)
