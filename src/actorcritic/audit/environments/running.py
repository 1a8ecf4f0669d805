"""Random episodes, each answer held against what the spaces promise; and episodes of one seed."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from actorcritic.audit.environments import faults
from actorcritic.audit.environments.asking import Alone, Answer, Broken, Notes, shown

STEPS, SECONDS = 3000, 6.0  # of the random episodes: whichever comes first
SEEDED_STEPS = 100  # in which trajectories of one seed are compared
TRIED_SEEDS = 5
OFTEN = 0.25  # share of observations beyond their bounds that no one can have meant


@dataclass(eq=False)
class Episode:
    """Copies of all that one episode gave."""

    seed: int
    steps: list[Answer] = field(default_factory=list)
    ended: bool = False

    def says(self, flag: str) -> bool:
        """Whether the last step sets it, for any agent."""
        return any(map(bool, getattr(self.steps[-1], flag).values()))


def episodes_of(world: Alone) -> list[Episode]:
    """Episodes with random actions; of one agent, every third with one action kept."""
    notes, episodes = world.notes, list[Episode]()
    deadline, count = time.monotonic() + SECONDS, 0
    limit = (world.spec and world.spec.max_episode_steps) or STEPS
    world.seed_actions(0)

    def more() -> bool:
        return count < STEPS and time.monotonic() < deadline

    while more():
        episode = Episode(len(episodes))
        episodes.append(episode)
        answer = world.reset(episode.seed)
        _check_answer(world, answer, "reset")
        kept = world.actions() if episode.seed % 3 == 2 and not world.several else None
        while world.agents and more() and len(episode.steps) <= limit:
            # Two observations are held, and must be the same after the step as before it.
            before, held = answer.observations, deepcopy(answer.observations)
            where = f"step {len(episode.steps) + 1} of the episode with seed {episode.seed}"
            answer = world.step(kept or world.actions(), where)
            count += 1
            if not equal(before, held):
                was, now = (shown(x.get("", x)) for x in (held, before))
                example = f"{where}: the observation before it\nexpected, still {was}, actual {now}"
                world.fail_aliased(example)
            _check_answer(world, answer, where)
            episode.steps.append(deepcopy(answer))
        episode.ended = not world.agents
        if not episode.steps:
            break
    judge_bounds(notes)
    notes.hold(*(fault.check for fault in world.promises))
    return episodes


def _check_answer(world: Alone, answer: Answer, where: str) -> None:
    for agent, own in answer.observations.items():
        check_observation(world.space(agent), own, where + world.who(agent), world.notes)
    for agent in answer.rewards:
        numbers = [part[agent] for part in answer[1:]]
        check_numbers(numbers, where + world.who(agent), world.notes)


def leaves(space: gymnasium.Space, x: Any) -> list[tuple[gymnasium.Space, Any]]:
    """The parts of an observation with the spaces they are of; none where the forms differ."""
    if isinstance(space, spaces.Dict):
        if not isinstance(x, Mapping) or set(x) != set(space.spaces):
            return []
        return [leaf for k, part in space.spaces.items() for leaf in leaves(part, x[k])]
    if isinstance(space, spaces.Tuple):
        if not isinstance(x, tuple) or len(x) != len(space.spaces):
            return []
        pairs = zip(space.spaces, x, strict=True)
        return [leaf for part, value in pairs for leaf in leaves(part, value)]
    return [(space, x)]


def check_observation(space: gymnasium.Space, x: Any, where: str, notes: Notes) -> None:
    pairs = [(part, np.asarray(y)) for part, y in leaves(space, x) if isinstance(part, spaces.Box)]
    for part, array in pairs:
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            example = f"{where}\nexpected finite numbers, actual {shown(array)}"
            notes.fail(faults.NOT_FINITE, example)
            return
        if array.dtype.kind in "fiub" and not np.can_cast(array.dtype, part.dtype):
            example = f"{where}\nexpected {part.dtype}, actual {array.dtype}"
            notes.fail(faults.DTYPE, example, got=array.dtype, dtype=part.dtype)
            return
    notes.looked_at += 1
    for part, array in pairs:
        if array.shape != part.shape:
            continue
        bad = np.argwhere((array < part.low) | (array > part.high))
        if len(bad):
            at = tuple(bad[0].tolist())
            notes.beyond.append(
                f"{where}, number {list(at)}\nexpected {part.low[at]:.6g} to "
                f"{part.high[at]:.6g}, actual {float(array[at]):.6g}"
            )
            return
    try:
        inside = bool(space.contains(x))
    except Exception:
        inside = False
    if not inside:
        notes.fail(faults.OUTSIDE, f"{where}\nexpected one of {shown(space)}, actual {shown(x)}")


def judge_bounds(notes: Notes) -> None:
    """Bounds that are left now and then are loose ends; left often, they are wrong."""
    share = len(notes.beyond) / max(notes.looked_at, 1)
    if share > OFTEN:
        notes.fail(faults.OUTSIDE, f"{share:.0%} of the observations; {notes.beyond[0]}")
    elif notes.beyond:
        example = notes.beyond[0].replace("\n", ": ")
        notes.advise(f"{share:.1%} of the observations leave their bounds, as at {example}")


def check_numbers(numbers: list[Any], where: str, notes: Notes) -> None:
    reward, terminated, truncated = numbers
    try:
        right = np.ndim(reward) == 0 and bool(np.isfinite(float(reward)))
    except (TypeError, ValueError):
        right = False
    if not right:
        notes.fail(faults.REWARD, f"{where}\nexpected a finite number, actual {reward!r}")
        if np.size(reward) != 1:
            raise Broken
    for name, flag in (("terminated", terminated), ("truncated", truncated)):
        if not isinstance(flag, (bool, np.bool_)):
            example = f"{where}\nexpected True or False, actual {flag!r}"
            notes.fail(faults.FLAG, example, name=name)
            if np.ndim(flag):
                raise Broken


def equal(a: Any, b: Any, tolerance: float = 0.0) -> bool:
    if isinstance(a, Mapping):
        same = isinstance(b, Mapping) and a.keys() == b.keys()
        return same and all(equal(a[k], b[k], tolerance) for k in a)
    if isinstance(a, (tuple, list)):
        same = isinstance(b, (tuple, list)) and len(a) == len(b)
        return same and all(equal(x, y, tolerance) for x, y in zip(a, b, strict=True))
    x, y = np.asarray(a), np.asarray(b)
    if x.shape != y.shape:
        return False
    if x.dtype.kind in "fiub" and y.dtype.kind in "fiub":
        return bool(np.allclose(x, y, rtol=tolerance, atol=tolerance, equal_nan=True))
    return bool(np.all(x == y))


# ------------------------------------------------------------------------------- seeds


def generators() -> dict[str, Any]:
    """The states of those that everyone draws from."""
    state: Any = np.random.get_state()
    return {"random": random.getstate(), "np.random": (state[1].tobytes(), state[2])}


def _trajectory(world: Alone, seed: int, count: int = SEEDED_STEPS) -> list[Answer]:
    """What the same actions lead to; of one agent, through episodes."""
    world.seed_actions(1)
    seen = [deepcopy(world.reset(seed))]
    for t in range(count):
        answer = world.step(world.actions(), f"step {t + 1}")
        seen.append(deepcopy(answer))
        if not world.agents and world.several:
            break
        if not world.agents:
            seen.append(deepcopy(world.reset(None)))
    return seen


def _first_difference(a: list[Answer], b: list[Answer], tolerance: float = 1e-4) -> int | None:
    for k, (x, y) in enumerate(zip(a, b, strict=False)):
        if not equal(x, y, tolerance):
            return k
    return None if len(a) == len(b) else min(len(a), len(b))


def _told(ways: tuple[list[Answer], ...], k: int) -> str:
    """The observation and the reward of the same step in each."""
    parts = [[x.get("", x) for x in way[k][:2] if x] if k < len(way) else "none" for way in ways]
    return " and ".join(map(shown, parts))


def check_seeds(world: Alone, make: Callable[[], Alone] | None, before: Mapping[str, Any]) -> None:
    """Does a seed say what happens, in one environment and in another? `make` makes a new one."""
    notes, name = world.notes, world.unseeded.check
    used = _trajectory(world, 1)
    if make is None:
        one, two = used, _trajectory(world, 1)
    else:
        new = [make(), make()]
        one, two = (_trajectory(each, 1) for each in new)
        for each in new:
            each.environment.close()
    changed = generators()
    drawn = " and ".join(name for name, state in before.items() if changed[name] != state)
    differs, leaves_at = _first_difference(one, two), _first_difference(one, used)
    if world.spec is not None and world.spec.nondeterministic:
        notes.choices.append("its specification says that it is not deterministic")
    elif differs is not None:
        notes.fail(
            world.unseeded,
            f"twice reset(seed=1) and the same actions; step {differs}\nexpected the same "
            f"observation and reward, actual {_told((one, two), differs)}",
            drawn=f". It draws from the global generator {drawn}" if drawn else "",
        )
    elif leaves_at is not None and leaves_at <= 10:
        notes.fail(
            faults.NOT_CLEARED,
            f"step {leaves_at}, observation and reward\nexpected, as in a new one, actual "
            f"{_told((one, used), leaves_at)}",
        )
    else:
        notes.hold(name)
        if leaves_at is not None:  # as of physics engines, which keep what they start from
            notes.choices.append(
                f"a used instance leaves the way of a new one after {leaves_at} steps of one seed"
            )
        elif make is not None:
            notes.hold(faults.NOT_CLEARED.check)
    if drawn and name not in notes.found:
        notes.advise(
            f"it changes the state of the global generator {drawn}, which others "
            "draw from too; use self.np_random"
        )
    if name not in notes.found:
        _compare_seeds(world)


def _compare_seeds(world: Alone) -> None:
    ways = [_trajectory(world, seed, 20) for seed in range(2, 2 + TRIED_SEEDS)]
    if all(_first_difference(ways[0], way, 0.0) is None for way in ways[1:]):
        world.notes.choices.append(
            f"{TRIED_SEEDS} different seeds give the same episode: the environment is "
            "deterministic, or ignores its seed"
        )
        return
    world.notes.hold("seeds-differ")
    if all(equal(ways[0][0], way[0]) for way in ways[1:]):
        world.notes.choices.append("every episode starts in the same state")
