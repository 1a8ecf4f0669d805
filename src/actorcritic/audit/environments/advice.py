"""Time limits that are none, and what makes learning harder without being an error."""

from __future__ import annotations

import re
import time
import warnings

import numpy as np
from gymnasium import spaces

from actorcritic.audit.environments import faults
from actorcritic.audit.environments.asking import Alone, Notes
from actorcritic.audit.environments.running import Episode, leaves

LIMIT_NAME = re.compile(r"(max|limit|horizon|length|steps|duration)", re.IGNORECASE)


def of_limit(episodes: list[Episode], notes: Notes) -> None:
    """Episodes of several agents that all end after as many steps were cut by a time limit."""
    whole = [episode for episode in episodes if episode.ended and episode.steps]
    lengths = {len(episode.steps) for episode in whole}
    if len(whole) < 3 <= len(episodes):
        notes.advise(
            "no time limit: with random actions, episodes do not end. Let truncations say when "
            "they are long enough"
        )
    elif len(whole) >= 3 and len(lengths) == 1 and not any(e.says("truncated") for e in whole):
        notes.advise(
            f"every episode terminates after {lengths.pop()} steps, as if by a time limit. A time "
            "limit is a truncation: the value of what would have followed counts"
        )


def _limits(environment: object) -> dict[int, str]:
    """Numbers of the environment that may be a limit of its own: max_steps = 100."""
    kinds = type(environment).__mro__
    own = {k: v for kind in kinds for k, v in vars(kind).items()} | vars(environment)
    return {
        int(value): name
        for name, value in reversed(own.items())
        if isinstance(value, (int, np.integer)) and value > 1 and LIMIT_NAME.search(name)
    }


def time_limit(world: Alone, episodes: list[Episode]) -> None:
    """Does it end episodes, and as truncations?"""
    name, notes = faults.LIMIT_IGNORED.check, world.notes
    limit = world.spec.max_episode_steps if world.spec else None
    longest = max(episodes, key=lambda e: len(e.steps))
    if limit is not None and len(longest.steps) > limit:
        example = (
            f"seed {longest.seed}, step {limit}\nexpected truncated = True, actual: terminated "
            "and truncated are False"
        )
        notes.fail(faults.LIMIT_IGNORED, example, limit=limit)
        return
    ended = [episode for episode in episodes if episode.ended]
    if not ended:
        if limit is None:
            notes.advise(
                f"no episode ended in {len(longest.steps)} random steps and there is no time "
                "limit: give max_episode_steps, or returns and resets never come"
            )
        notes.not_checked.append(f"{name}: no episode ended")
        return
    both = [e for e in ended if e.says("terminated") and e.says("truncated")]
    if both:
        notes.choices.append(
            f"terminated and truncated are both set at the end of an episode of "
            f"{len(both[0].steps)} steps: bootstrap unless terminated, and it counts as terminated"
        )
    lengths = [len(e.steps) for e in ended]
    most = max(lengths)
    at_end = [e for e in ended if len(e.steps) == most and e not in both]
    if most > 1 and len(at_end) >= 2 and all(e.says("terminated") for e in at_end):
        named = _limits(world.environment.unwrapped).get(most)
        if named:
            example = (
                f"seed {at_end[0].seed}, step {most}\nexpected terminated = False, "
                "truncated = True; actual terminated = True, truncated = False"
            )
            notes.fail(faults.LIMIT_TERMINATES, example, limit=f"{named} = {most}")
        elif len(lengths) >= 5 and min(lengths) == most:
            notes.advise(
                f"every episode terminates after {most} steps: if that is a time limit, set "
                "truncated instead"
            )
    notes.hold(name)


def after_end(world: Alone) -> None:
    """Does a step after the end go on without a word?"""
    deadline = time.monotonic() + 0.3
    world.reset(0)
    while world.agents and time.monotonic() < deadline:
        world.step(world.actions(), "")
    if world.agents:
        return
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            world.environment.step(world.environment.action_space.sample())
    except Exception:
        return
    if not said:
        world.notes.choices.append(
            "a step after the end goes on, without an exception or a warning"
        )


def scales(world: Alone, episodes: list[Episode]) -> None:
    """Advice about the sizes of actions, rewards and observations."""
    steps = [step for episode in episodes for step in episode.steps]
    _actions(world.environment.action_space, world.notes)
    given = [np.asarray(step.rewards[""], np.float64).ravel()[0] for step in steps]
    _rewards(np.array(given)[np.isfinite(given)], world.notes)
    parts = [leaves(world.space(""), step.observations[""]) for step in steps]
    if len({len(part) for part in parts}) != 1:
        return
    for pairs in zip(*parts, strict=True):
        part, arrays = pairs[0][0], [np.asarray(x) for _, x in pairs]
        floats = isinstance(part, spaces.Box) and part.dtype.kind == "f" and len(part.shape) < 2
        if floats and len({x.shape for x in arrays}) == 1:
            table = np.stack([x.ravel() for x in arrays]).astype(np.float64)
            _observations(table[np.isfinite(table).all(axis=1)], world.notes)


def _actions(space: spaces.Space, notes: Notes) -> None:
    if not isinstance(space, spaces.Box):
        return
    centre, reach = (space.low + space.high) / 2, (space.high - space.low) / 2
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        notes.advise(
            "the action space is unbounded: state bounds, or no policy knows the scale of "
            "its actions"
        )
    elif (reach > 10).any() or (reach < 0.1).any() or (np.abs(centre) > reach * 1.01).any():
        notes.advise(
            f"actions lie between {space.low.min():.4g} and {space.high.max():.4g}, far "
            "from [-1, 1]: rescale them, gymnasium.wrappers.RescaleAction(env, -1, 1)"
        )


def _rewards(rewards: np.ndarray, notes: Notes) -> None:
    given = np.abs(rewards[rewards != 0])
    if len(rewards) > 100 and not len(given):
        notes.advise(
            "no random step was rewarded: exploration has to find the first reward by chance"
        )
    if len(given) <= 10:
        return
    typical = float(np.median(given))
    if not 1e-3 <= typical <= 100:
        notes.advise(
            f"rewards are typically of size {typical:.3g}: scale them to about 1, or errors of "
            "the critic drown (or are drowned by) everything else"
        )
    if np.ptp(rewards) == 0:
        notes.advise(
            f"the reward is always {rewards[0]:.4g}: only the length of an episode tells "
            "actions apart"
        )


def _observations(table: np.ndarray, notes: Notes) -> None:
    if len(table) < 100:
        return
    deviation, count = table.std(axis=0), table.shape[1]
    large, constant = np.flatnonzero(deviation > 100), np.flatnonzero(np.ptp(table, 0) == 0)
    if len(large):
        notes.advise(
            f"{len(large)} of {count} numbers of the observation have a standard "
            f"deviation over 100 (number {large[0]}: {deviation[large[0]]:.4g}): normalise them"
        )
    if len(constant):
        notes.advise(
            f"{len(constant)} of {count} numbers of the observation never change "
            f"(number {constant[0]} is always {table[0, constant[0]]:.4g})"
        )
