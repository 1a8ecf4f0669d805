"""Does an environment keep its promises: its spaces, its seeds, its flags, its arrays?

What is an error fails. What only makes learning harder (scales, endless episodes) is advice, and
stands among the choices.
"""

from __future__ import annotations

import random
import re
import time
import warnings
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, VectorEnv

from actorcritic.audit.findings import CannotCall, Ledger, Report
from actorcritic.core.errors import UserError
from actorcritic.core.types import Environment
from actorcritic.envs import pettingzoo
from actorcritic.envs.as_gymnasium import AsGymnasium
from actorcritic.envs.catalogue import compiled_environment
from actorcritic.envs.host import checks, finding

STEPS, SECONDS = 3000, 6.0  # of the random episodes: whichever comes first
SEEDED_STEPS = 100  # in which trajectories of one seed are compared
TRIED_SEEDS = 5
OFTEN = 0.25  # share of observations beyond their bounds that no one can have meant
LIMIT_NAME = re.compile(r"(max|limit|horizon|length|steps|duration)", re.IGNORECASE)

Make = Callable[[], gymnasium.Env]


class Step(NamedTuple):
    observation: Any  # a copy of what was returned
    reward: float
    terminated: bool
    truncated: bool


class Episode(NamedTuple):
    seed: int
    first: Any
    steps: list[Step]

    @property
    def ended(self) -> bool:
        return bool(self.steps) and (self.steps[-1].terminated or self.steps[-1].truncated)


class Broken(Exception):
    """The interface itself is broken, so that nothing more can be asked."""


@dataclass
class Notes(Ledger):
    """What was found in an environment."""

    beyond: list[str] = field(default_factory=list)  # observations beyond their space, told
    looked_at: int = 0


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
            if isinstance(environment, VectorEnv):
                return _check_vector(environment)
            return _check_single(environment, options)
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)


def _maker(environment: Any, options: dict[str, Any]) -> tuple[str, Make, bool]:
    """Its name, what makes one, and whether that is a new one each time."""
    if isinstance(environment, gymnasium.Env):
        if options:
            raise CannotCall(f"The options {options} came with an environment that is made.")
        spec = environment.spec
        name = spec.id if spec is not None else type(environment.unwrapped).__name__
        return name, lambda: environment, False
    if pettingzoo.is_several(environment):
        return type(environment).__name__, lambda: environment, False
    if isinstance(environment, Environment) and not isinstance(environment, type):
        return environment.spec.id, lambda: AsGymnasium(environment), True
    try:
        if isinstance(environment, type) or (isinstance(environment, str) and ":" in environment):
            compiled = compiled_environment(environment, **options)
            if compiled is not None:
                return compiled.spec.id, lambda: AsGymnasium(compiled), True
        name, factory = finding.find(environment)
        return name, lambda: finding.made(name, factory, options), True
    except UserError as error:
        raise CannotCall(str(error)) from error


# ------------------------------------------------------------------------------- one environment


def _check_single(given: Any, options: dict[str, Any]) -> Report:
    name, make, fresh = _maker(given, options)
    try:
        environment: Any = make()
        if pettingzoo.is_several(environment):
            from actorcritic.audit.environments import several  # which has what is here below it

            return several.check(name, environment)
        environment = finding.wrapped(name, environment)
    except UserError as error:
        raise CannotCall(str(error)) from error
    notes = Notes()
    episodes: list[Episode] = []
    try:
        for space in ("observation_space", "action_space"):
            if not isinstance(getattr(environment, space, None), gymnasium.Space):
                notes.say(
                    "spaces-declared",
                    f"The environment has no {space}.",
                    "No library can make a policy for it.",
                    f"expected a space of gymnasium.spaces, actual "
                    f"{getattr(environment, space, None)!r}",
                    f"Set self.{space} in the constructor.",
                )
                return notes.report(name, "environment", "nothing: it has no spaces")
        notes.hold("spaces-declared")
        before = _global_state()
        episodes = _random_episodes(environment, notes)
        _seeding(environment, make if fresh else None, notes, before)
        _time_limit(environment, episodes, notes)
        _scales(environment, episodes, notes)
        _after_end(environment, notes)
    except Broken:
        pass
    _gymnasium_checker(environment, notes)
    if fresh:
        environment.close()
    count = sum(len(episode.steps) for episode in episodes)
    return notes.report(
        name, "environment", f"{count} steps of {len(episodes)} episodes with random actions"
    )


def _global_state() -> tuple[Any, bytes, Any]:
    numpy_state: Any = np.random.get_state()
    return random.getstate(), numpy_state[1].tobytes(), numpy_state[2]


def _action(environment: gymnasium.Env, info: Any) -> Any:
    """A random action, one that is allowed where the infos say so."""
    mask = info.get("action_mask") if isinstance(info, dict) else None
    if isinstance(mask, np.ndarray) and isinstance(environment.action_space, spaces.Discrete):
        if mask.any():
            return environment.action_space.sample(mask.astype(np.int8))
        return environment.action_space.start
    return environment.action_space.sample()


def _reset(environment: gymnasium.Env, notes: Notes, seed: int | None) -> tuple[Any, dict]:
    try:
        result: Any = environment.reset(seed=seed)
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        notes.say(
            "reset-answers",
            "reset raises an exception.",
            "Nothing can be trained.",
            f"reset(seed={seed})\nexpected (observation, info), actual {what}",
            f"Write `{checks.RESET_FORM}`.",
        )
        raise Broken from error
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
        notes.say(
            "reset-answers",
            "reset does not return (observation, info), info being a dict.",
            "Libraries unpack two values: they raise, or take a part of the observation for it.",
            f"reset(seed={seed})\nexpected a tuple of 2, actual {checks.kind_of(result)}",
            f"Write `{checks.RESET_FORM}`.",
        )
        raise Broken
    notes.hold("reset-answers")
    return result


def _step(environment: gymnasium.Env, action: Any, notes: Notes) -> Any:
    try:
        result: Any = environment.step(deepcopy(action))
    except Exception as error:
        notes.say(
            "step-answers",
            "step raises an exception for an action of its action space.",
            "Training stops there.",
            f"step({action!r})\nexpected five values, actual {type(error).__name__}: {error}",
            f"Write `{checks.STEP_FORM}`.",
        )
        raise Broken from error
    if not (isinstance(result, tuple) and len(result) == 5 and isinstance(result[4], dict)):
        notes.say(
            "step-answers",
            "step does not return observation, reward, terminated, truncated and an info dict.",
            "With four values, a time limit and the end of the task cannot be told apart.",
            f"step({action!r})\nexpected a tuple of 5, the last a dict, "
            f"actual {checks.kind_of(result)}",
            f"Write `{checks.STEP_FORM}`.",
        )
        raise Broken
    return result


def _random_episodes(environment: gymnasium.Env, notes: Notes) -> list[Episode]:
    """Episodes with random actions, every third with one action kept; each answer is checked."""
    episodes: list[Episode] = []
    deadline, count = time.monotonic() + SECONDS, 0
    limit = environment.spec.max_episode_steps if environment.spec else None
    environment.action_space.seed(0)
    while count < STEPS and time.monotonic() < deadline:
        seed = len(episodes)
        observation, info = _reset(environment, notes, seed)
        _check_observation(environment, observation, "reset", notes)
        episode = Episode(seed, deepcopy(observation), [])
        episodes.append(episode)
        kept = _action(environment, info) if seed % 3 == 2 else None
        while count < STEPS and time.monotonic() < deadline:
            action = _action(environment, info) if kept is None else kept
            # Two observations are held, and must be the same after the step as before it.
            held = deepcopy(observation)
            after, reward, terminated, truncated, info = _step(environment, action, notes)
            count += 1
            where = f"step {len(episode.steps) + 1} of the episode with seed {seed}"
            if not _equal(observation, held):
                _fail_aliased(held, observation, where, notes)
            _check_observation(environment, after, where, notes)
            _check_numbers(reward, terminated, truncated, where, notes)
            number = float(np.asarray(reward, np.float64).ravel()[0])
            step = Step(deepcopy(after), number, bool(terminated), bool(truncated))
            episode.steps.append(step)
            observation = after
            if terminated or truncated:
                break
            if limit is not None and len(episode.steps) > limit:
                break
    _judge_bounds(notes)
    for name in (
        "step-answers",
        "observation-in-space",
        "observation-dtype",
        "observations-finite",
        "rewards-finite",
        "flags-are-booleans",
        "observations-copied",
    ):
        notes.hold(name)
    return episodes


def _leaves(space: gymnasium.Space, x: Any) -> list[tuple[gymnasium.Space, Any]]:
    """The parts of an observation with the spaces they are of; none where the forms differ."""
    if isinstance(space, spaces.Dict):
        if not isinstance(x, Mapping) or set(x) != set(space.spaces):
            return []
        return [leaf for k, part in space.spaces.items() for leaf in _leaves(part, x[k])]
    if isinstance(space, spaces.Tuple):
        if not isinstance(x, tuple) or len(x) != len(space.spaces):
            return []
        pairs = zip(space.spaces, x, strict=True)
        return [leaf for part, value in pairs for leaf in _leaves(part, value)]
    return [(space, x)]


def _check_observation(environment: Any, x: Any, where: str, notes: Notes) -> None:
    space = environment.observation_space
    for part, leaf in _leaves(space, x):
        if not isinstance(part, spaces.Box):
            continue
        array = np.asarray(leaf)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            _fail_not_finite(leaf, where, notes)
            return
        if array.dtype.kind in "fiub" and not np.can_cast(array.dtype, part.dtype):
            notes.say(
                "observation-dtype",
                f"Observations are of dtype {array.dtype}, their space of {part.dtype}.",
                "Buffers made after the space round or truncate what is written to them.",
                f"{where}\nexpected {part.dtype}, actual {array.dtype}",
                f"Return observation.astype(np.{part.dtype}).",
            )
            return
    notes.looked_at += 1
    beyond = []
    for part, leaf in _leaves(space, x):
        array = np.asarray(leaf)
        if isinstance(part, spaces.Box) and array.shape == part.shape:
            bad = np.argwhere((array < part.low) | (array > part.high))
            if len(bad):
                at = tuple(int(k) for k in bad[0])
                beyond.append(
                    f"{where}, number {list(at)}\nexpected {part.low[at]:.6g} to "
                    f"{part.high[at]:.6g}, actual {float(array[at]):.6g}"
                )
    if beyond:
        notes.beyond.append(beyond[0])
        return
    try:
        inside = bool(space.contains(x))
    except Exception:
        inside = False
    if not inside:
        _fail_outside(f"{where}\nexpected one of {_show(space)}, actual {_show(x)}", notes)


def _fail_outside(example: str, notes: Notes) -> None:
    notes.say(
        "observation-in-space",
        "Observations are outside their observation space.",
        "What is normalised, clipped or made room for by the space is wrong.",
        example,
        "Mend the observation, or state the space that it is really in.",
    )


def _judge_bounds(notes: Notes) -> None:
    """Bounds that are left now and then are loose ends; left often, they are wrong."""
    share = len(notes.beyond) / max(notes.looked_at, 1)
    if share > OFTEN:
        _fail_outside(f"{share:.0%} of the observations; {notes.beyond[0]}", notes)
    elif notes.beyond:
        example = notes.beyond[0].replace("\n", ": ")
        notes.advise(f"{share:.1%} of the observations leave their bounds, as at {example}")


def _check_numbers(reward: Any, terminated: Any, truncated: Any, where: str, notes: Notes) -> None:
    try:
        number = float(reward)
        scalar = np.ndim(reward) == 0
    except (TypeError, ValueError):
        number, scalar = np.nan, False
    if not scalar or not np.isfinite(number):
        notes.say(
            "rewards-finite",
            "A reward is not one finite number.",
            "One NaN makes every parameter NaN at the next update; an array is broadcast.",
            f"{where}\nexpected a finite number, actual {reward!r}",
            "Return float(reward), and look for a division by zero or an overflow.",
        )
        if not scalar and np.size(reward) != 1:
            raise Broken
    for name, flag in (("terminated", terminated), ("truncated", truncated)):
        if not isinstance(flag, (bool, np.bool_)):
            notes.say(
                "flags-are-booleans",
                f"{name} is not True or False.",
                "An array or None is taken for either, depending on the library.",
                f"{where}\nexpected True or False, actual {flag!r}",
                f"Return bool({name}).",
            )
            if np.ndim(flag):
                raise Broken


def _fail_not_finite(x: Any, where: str, notes: Notes) -> None:
    notes.say(
        "observations-finite",
        "An observation is not finite.",
        "One NaN makes every parameter NaN at the next update, without a word.",
        f"{where}\nexpected finite numbers, actual {_show(x)}",
        "Look for a division by zero or an overflow in the environment.",
    )


def _fail_aliased(held: Any, now: Any, where: str, notes: Notes) -> None:
    notes.say(
        "observations-copied",
        "An observation that was returned is changed by the next step: its array is used again.",
        "Buffers that keep it hold the last observation in every row: actions are attributed to "
        "states in which they were not taken.",
        f"{where}: the observation before it\nexpected, still {_show(held)}, actual {_show(now)}",
        "Return a copy: np.array(self.state, dtype=np.float32).",
    )


def _equal(a: Any, b: Any, tolerance: float = 0.0) -> bool:
    if isinstance(a, Mapping):
        return isinstance(b, Mapping) and all(k in b and _equal(a[k], b[k], tolerance) for k in a)
    if isinstance(a, (tuple, list)):
        same = isinstance(b, (tuple, list)) and len(a) == len(b)
        return same and all(_equal(x, y, tolerance) for x, y in zip(a, b, strict=True))
    try:
        x, y = np.asarray(a), np.asarray(b)
        if x.shape != y.shape:
            return False
        if x.dtype.kind in "fiub" and y.dtype.kind in "fiub":
            return bool(np.allclose(x, y, rtol=tolerance, atol=tolerance, equal_nan=True))
        return bool(np.all(x == y))
    except (TypeError, ValueError):
        return bool(a == b)


def _show(x: Any) -> str:
    text = " ".join(str(x).split())
    return text if len(text) <= 120 else f"{text[:117]}..."


# ------------------------------------------------------------------------------- seeds


def _trajectory(environment: gymnasium.Env, seed: int, count: int, notes: Notes) -> list[tuple]:
    """(observation, reward, terminated, truncated) of the same actions, through episodes."""
    environment.action_space.seed(1)
    observation, info = _reset(environment, notes, seed)
    seen: list[tuple] = [(deepcopy(observation), 0.0, False, False)]
    for _ in range(count):
        after, reward, terminated, truncated, info = _step(
            environment, _action(environment, info), notes
        )
        seen.append((deepcopy(after), deepcopy(reward), bool(terminated), bool(truncated)))
        if terminated or truncated:
            observation, info = _reset(environment, notes, None)
            seen.append((deepcopy(observation), 0.0, False, False))
    return seen


def _first_difference(a: list[tuple], b: list[tuple], tolerance: float) -> int | None:
    for k, (x, y) in enumerate(zip(a, b, strict=False)):
        if not _equal(x, y, tolerance):
            return k
    return None if len(a) == len(b) else min(len(a), len(b))


def _of_a_new_one(make: Make, notes: Notes) -> list[tuple]:
    environment = make()
    try:
        return _trajectory(environment, 1, SEEDED_STEPS, notes)
    finally:
        environment.close()


def _at(seen: list[tuple], k: int) -> str:
    return _show(seen[k][:2]) if k < len(seen) else "none"


def _seeding(environment: gymnasium.Env, make: Make | None, notes: Notes, before: Any) -> None:
    used = _trajectory(environment, 1, SEEDED_STEPS, notes)
    if make is None:
        one, two = used, _trajectory(environment, 1, SEEDED_STEPS, notes)
    else:
        one, two = (_of_a_new_one(make, notes) for _ in range(2))
    changed = _global_state()
    drawn = [
        name
        for name, same in (
            ("random", changed[0] == before[0]),
            ("np.random", changed[1:] == before[1:]),
        )
        if not same
    ]
    told = f" It draws from the global generator {' and '.join(drawn)}." if drawn else ""
    name = "same-seed-same-trajectory"
    nondeterministic = environment.spec is not None and environment.spec.nondeterministic
    differs = _first_difference(one, two, 1e-4)
    leaves = _first_difference(one, used, 1e-4)
    if nondeterministic:
        notes.choices.append("its specification says that it is not deterministic")
    elif differs is not None:
        notes.say(
            name,
            f"The same seed and actions give another trajectory.{told}",
            "No run can be repeated, and environments side by side may share their randomness.",
            f"twice reset(seed=1) and the same actions; step {differs}\nexpected the same "
            f"observation and reward, actual {_at(one, differs)} and {_at(two, differs)}",
            "Call super().reset(seed=seed) first, and draw from self.np_random only.",
        )
    elif leaves is not None and leaves <= 10:
        notes.say(
            "reset-clears-state",
            "After the same reset(seed=1), an environment that was used goes another way than a "
            "new one.",
            "Episodes depend on those before them in a way that no observation shows.",
            f"step {leaves}, observation and reward\nexpected, as in a new one, "
            f"{_at(one, leaves)}, actual {_at(used, leaves)}",
            "Set everything that step changes in reset.",
        )
    else:
        notes.hold(name)
        if leaves is not None:  # as of physics engines, which keep what they start from
            notes.choices.append(
                f"a used instance leaves the way of a new one after {leaves} steps of one seed"
            )
        elif make is not None:
            notes.hold("reset-clears-state")
    if drawn and name not in notes.found:
        notes.advise(
            f"it changes the state of the global generator {' and '.join(drawn)}, which others "
            "draw from too; use self.np_random"
        )
    ways = [_trajectory(environment, seed, 20, notes) for seed in range(2, 2 + TRIED_SEEDS)]
    if name in notes.found:
        return
    if all(_first_difference(ways[0], way, 0.0) is None for way in ways[1:]):
        notes.choices.append(
            f"{TRIED_SEEDS} different seeds give the same episode: the environment is "
            "deterministic, or ignores its seed"
        )
    else:
        notes.hold("seeds-differ")
        starts = [way[0][0] for way in ways]
        if all(_equal(starts[0], start) for start in starts[1:]):
            notes.choices.append("every episode starts in the same state")


# ------------------------------------------------------------------------------- ends


def _limits(environment: gymnasium.Env) -> dict[str, int]:
    """Numbers of the environment that may be a limit of its own: max_steps = 100."""
    found = {}
    own = environment.unwrapped
    attributes = {**{k: v for c in type(own).__mro__ for k, v in vars(c).items()}, **vars(own)}
    for name, value in attributes.items():
        is_number = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        if is_number and value > 1 and LIMIT_NAME.search(name):
            found[name] = int(value)
    return found


def _time_limit(environment: gymnasium.Env, episodes: list[Episode], notes: Notes) -> None:
    name = "time-limit-truncates"
    limit = environment.spec.max_episode_steps if environment.spec else None
    ended = [episode for episode in episodes if episode.ended]
    longest = max(episodes, key=lambda e: len(e.steps))
    if limit is not None and len(longest.steps) > limit:
        notes.say(
            name,
            f"Its time limit of {limit} steps does not end the episode.",
            "Episodes go on for ever where the task does not end them: few resets, and returns "
            "that mean something else than those published.",
            f"seed {longest.seed}, step {limit}\nexpected truncated = True, actual: terminated "
            "and truncated are False",
            "Wrap it: gymnasium.wrappers.TimeLimit(env, max_episode_steps), or "
            "gymnasium.make(id) without .unwrapped.",
        )
        return
    both = [e for e in ended if e.steps[-1].terminated and e.steps[-1].truncated]
    if both:
        notes.choices.append(
            f"terminated and truncated are both set at the end of an episode of "
            f"{len(both[0].steps)} steps: bootstrap unless terminated, and it counts as terminated"
        )
    if not ended:
        if limit is None:
            notes.advise(
                f"no episode ended in {len(longest.steps)} random steps and there is no time "
                "limit: give max_episode_steps, or returns and resets never come"
            )
        notes.not_checked.append(f"{name}: no episode ended")
        return
    lengths = [len(e.steps) for e in ended]
    at_end = [e for e in ended if len(e.steps) == max(lengths) and e not in both]
    terminated = [e for e in at_end if e.steps[-1].terminated]
    named = [k for k, v in _limits(environment).items() if v == max(lengths)]
    if max(lengths) > 1 and len(terminated) >= 2 and len(terminated) == len(at_end):
        if named:
            notes.say(
                name,
                f"Episodes that reach the limit ({named[0]} = {max(lengths)}) are terminated, not "
                "truncated.",
                "The value after a time limit is taken as 0: the critic learns that good states "
                "near the limit are worthless, which the observation cannot show it.",
                f"seed {terminated[0].seed}, step {max(lengths)}\nexpected terminated = False, "
                "truncated = True; actual terminated = True, truncated = False",
                "Return truncated = True there, or leave limits to max_episode_steps (if the "
                "observation holds the time, the end belongs to the task: rename the attribute).",
            )
            return
        if len(set(lengths)) == 1 and len(lengths) >= 5:
            notes.advise(
                f"every episode terminates after {lengths[0]} steps: if that is a time limit, set "
                "truncated instead"
            )
    notes.hold(name)


def _after_end(environment: gymnasium.Env, notes: Notes) -> None:
    """Does a step after the end go on without a word?"""
    deadline = time.monotonic() + 0.3
    _, info = _reset(environment, notes, 0)
    ended = False
    while not ended and time.monotonic() < deadline:
        _, _, terminated, truncated, info = _step(environment, _action(environment, info), notes)
        ended = bool(terminated or truncated)
    if not ended:
        return
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            environment.step(environment.action_space.sample())
    except Exception:
        return
    if not said:
        notes.choices.append("a step after the end goes on, without an exception or a warning")


# ------------------------------------------------------------------------------- scales


def _scales(environment: gymnasium.Env, episodes: list[Episode], notes: Notes) -> None:
    """Advice: what makes learning harder and is no error."""
    space = environment.action_space
    if isinstance(space, spaces.Box):
        if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
            notes.advise(
                "the action space is unbounded: state bounds, or no policy knows the scale of "
                "its actions"
            )
        else:
            centre, reach = (space.low + space.high) / 2, (space.high - space.low) / 2
            if (reach > 10).any() or (reach < 0.1).any() or (np.abs(centre) > reach * 1.01).any():
                notes.advise(
                    f"actions lie between {space.low.min():.4g} and {space.high.max():.4g}, far "
                    "from [-1, 1]: rescale them, gymnasium.wrappers.RescaleAction(env, -1, 1)"
                )
    rewards = np.array([s.reward for e in episodes for s in e.steps])
    rewards = rewards[np.isfinite(rewards)]
    given = np.abs(rewards[rewards != 0])
    if len(rewards) > 100 and not len(given):
        notes.advise(
            "no random step was rewarded: exploration has to find the first reward by chance"
        )
    elif len(given) > 10:
        typical = float(np.median(given))
        if typical > 100 or typical < 1e-3:
            notes.advise(
                f"rewards are typically of size {typical:.3g}: scale them to about 1, or errors of "
                "the critic drown (or are drowned by) everything else"
            )
        if np.ptp(rewards) == 0:
            notes.advise(
                f"the reward is always {rewards[0]:.4g}: only the length of an episode tells "
                "actions apart"
            )
    observations = [s.observation for e in episodes for s in e.steps]
    parts = [_leaves(environment.observation_space, x) for x in observations]
    if not parts or not parts[0] or len({len(p) for p in parts}) != 1:
        return
    for k, (part, _) in enumerate(parts[0]):
        if not isinstance(part, spaces.Box) or part.dtype.kind != "f" or len(part.shape) > 1:
            continue
        try:
            table = np.stack([np.asarray(p[k][1], np.float64).ravel() for p in parts])
        except ValueError:
            continue
        table = table[np.isfinite(table).all(axis=1)]
        if len(table) < 100:
            continue
        deviation = table.std(axis=0)
        large, constant = np.flatnonzero(deviation > 100), np.flatnonzero(np.ptp(table, 0) == 0)
        if len(large):
            notes.advise(
                f"{len(large)} of {table.shape[1]} numbers of the observation have a standard "
                f"deviation over 100 (number {large[0]}: {deviation[large[0]]:.4g}): normalise them"
            )
        if len(constant):
            notes.advise(
                f"{len(constant)} of {table.shape[1]} numbers of the observation never change "
                f"(number {constant[0]} is always {table[0, constant[0]]:.4g})"
            )


# ------------------------------------------------------------------------------- Gymnasium's own

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
    name = "gymnasium-checker"
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
        notes.hold(name)
        return
    text = " ".join(str(failed).split())
    if any(re.search(words, text) and ours & {*notes.found} for words, ours in SAME_CAUSE.items()):
        return  # one cause
    notes.say(
        name,
        f"Gymnasium's own checker says: {text or type(failed).__name__}",
        "Wrappers and libraries rely on the interface that it checks.",
        f"check_env(env.unwrapped)\nexpected no exception, actual {type(failed).__name__}",
        "See gymnasium.utils.env_checker.check_env.",
    )


# ------------------------------------------------------------------------------- many at once


def _check_vector(environments: VectorEnv) -> Report:
    notes = Notes()
    spec = environments.spec
    name = spec.id if spec is not None else type(environments.unwrapped).__name__
    mode = (environments.metadata or {}).get("autoreset_mode")
    try:
        mode = AutoresetMode(mode)
    except ValueError:
        notes.say(
            "autoreset-mode-said",
            "The vector environment does not say how it resets.",
            "Learners guess: reset rows are learned from, or last observations are lost.",
            f"metadata['autoreset_mode']\nexpected one of AutoresetMode, actual {mode!r}",
            "Set metadata['autoreset_mode'] to what it does.",
        )
        mode = None
    else:
        notes.hold("autoreset-mode-said")
        notes.choices.append(f"autoreset mode {mode.name}")
    count = _vector_steps(environments, mode, notes)
    return notes.report(
        name, "environment", f"{count} random steps of {environments.num_envs} environments"
    )


def _vector_steps(environments: VectorEnv, mode: AutoresetMode | None, notes: Notes) -> int:
    number = environments.num_envs
    environments.action_space.seed(0)
    observation, _ = environments.reset(seed=0)
    start = deepcopy(observation)
    deadline, count, aliased = time.monotonic() + SECONDS, 0, False
    ended = np.zeros(number, bool)
    seen_end = False
    mistake = ""
    while count < STEPS // 2 and time.monotonic() < deadline:
        held = deepcopy(observation)
        after, reward, terminated, truncated, infos = environments.step(
            environments.action_space.sample()
        )
        count += 1
        aliased |= not _equal(observation, held)
        where = f"step {count}"
        _check_batch(environments, after, reward, where, notes)
        done = np.asarray(terminated) | np.asarray(truncated)
        final = "final_obs" in infos
        if done.any():
            seen_end = True
            if mode is AutoresetMode.SAME_STEP and not final:
                mistake = mistake or (
                    f"{where}: environment {int(np.argmax(done))} ended in mode SAME_STEP\n"
                    "expected infos['final_obs'], actual: "
                    f"{', '.join(infos) or 'nothing'} in infos"
                )
            elif mode is not None and mode is not AutoresetMode.SAME_STEP and final:
                mistake = mistake or (
                    f"{where}: environment {int(np.argmax(done))} ended in mode {mode.name}\n"
                    "expected the last observation from step, actual: it is in "
                    "infos['final_obs'], as in mode SAME_STEP"
                )
        if mode is AutoresetMode.NEXT_STEP and ended.any():
            again = ended & (done | (np.asarray(reward) != 0))
            if again.any():
                k = int(np.argmax(again))
                mistake = mistake or (
                    f"{where}: the step after the end of environment {k} in mode NEXT_STEP\n"
                    f"expected reward 0 and no end, actual {float(np.asarray(reward)[k]):.6g}, "
                    f"{bool(done[k])}"
                )
        ended = done
        observation = after
        if mode is AutoresetMode.DISABLED and done.any():
            observation, _ = environments.reset(options={"reset_mask": done.copy()})
            ended = np.zeros(number, bool)
    if mistake:
        notes.say(
            "autoreset-as-said",
            "The environments do not reset as their autoreset mode says.",
            "Learners keep rows that only reset, or bootstrap from the observation after a reset.",
            mistake,
            "Set metadata['autoreset_mode'] to what the environments do.",
        )
    elif seen_end and mode is not None:
        notes.hold("autoreset-as-said")
    else:
        notes.not_checked.append("autoreset-as-said: no episode ended")
    if aliased:
        notes.choices.append(
            "observations are changed by the next step (copy=False): copy what is kept"
        )
    else:
        notes.hold("observations-copied")
    notes.hold("observation-in-space", "observations-finite", "rewards-finite")
    again, _ = environments.reset(seed=0)
    if _equal(start, again, 1e-4):
        notes.hold("same-seed-same-start")
    else:
        notes.say(
            "same-seed-same-start",
            "The same seed gives other starts.",
            "No run can be repeated.",
            f"twice reset(seed=0)\nexpected the same, actual {_show(start)} and {_show(again)}",
            "Hand the seed to every environment: seed + k to environment k.",
        )
    first = _leaves(environments.observation_space, start)
    rows = [np.asarray(x) for _, x in first]
    if number > 1 and rows and all((x[1:] == x[:1]).all() for x in rows if x.ndim):
        notes.choices.append(
            f"all {number} environments start alike after reset(seed=0): their starts are fixed, "
            "or they are seeded alike"
        )
    elif number > 1:
        notes.hold("environments-seeded-apart")
    return count


def _check_batch(environments: VectorEnv, x: Any, reward: Any, where: str, notes: Notes) -> None:
    for part, leaf in _leaves(environments.observation_space, x):
        array = np.asarray(leaf)
        is_float = isinstance(part, spaces.Box) and array.dtype.kind == "f"
        if is_float and not np.isfinite(array).all():
            _fail_not_finite(leaf, where, notes)
            return
    if not environments.observation_space.contains(x):
        notes.say(
            "observation-in-space",
            "A batch of observations is outside its observation space.",
            "What is normalised, clipped or made room for by the space is wrong.",
            f"{where}\nexpected one of {_show(environments.observation_space)}, actual {_show(x)}",
            "Mend the observation, or state the space that it is really in.",
        )
    if not np.isfinite(np.asarray(reward, np.float64)).all():
        notes.say(
            "rewards-finite",
            "A reward is not finite.",
            "One NaN makes every parameter NaN at the next update.",
            f"{where}\nexpected finite numbers, actual {_show(reward)}",
            "Look for a division by zero or an overflow in the environment.",
        )
