"""Do environments side by side reset as they say, and differ from one another?"""

from __future__ import annotations

import time
from copy import deepcopy
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from actorcritic.audit.environments import faults, running
from actorcritic.audit.environments.asking import Notes, shown
from actorcritic.audit.findings import Report


def check(environments: VectorEnv) -> Report:
    notes, spec = Notes(), environments.spec
    name = spec.id if spec is not None else type(environments.unwrapped).__name__
    said = (environments.metadata or {}).get("autoreset_mode")
    mode: AutoresetMode | None = None
    try:
        mode = AutoresetMode(said)
        notes.hold(faults.MODE_UNSAID.check)
        notes.choices.append(f"autoreset mode {mode.name}")
    except ValueError:
        example = f"metadata['autoreset_mode']\nexpected one of AutoresetMode, actual {said!r}"
        notes.fail(faults.MODE_UNSAID, example)
    environments.action_space.seed(0)
    start = deepcopy(environments.reset(seed=0)[0])
    count = _steps(environments, start, mode, notes)
    _check_starts(environments, start, notes)
    called = f"{count} random steps of {environments.num_envs} environments"
    return notes.report(name, "environment", called)


def _steps(environments: VectorEnv, start: Any, mode: AutoresetMode | None, notes: Notes) -> int:
    space, number, observation = environments.observation_space, environments.num_envs, start
    deadline, count, aliased, seen_end = time.monotonic() + running.SECONDS, 0, False, False
    ended = np.zeros(number, bool)
    while count < running.STEPS // 2 and time.monotonic() < deadline:
        held = deepcopy(observation)
        action = environments.action_space.sample()
        after, reward, terminated, truncated, infos = environments.step(action)
        count += 1
        where = f"step {count}"
        aliased |= not running.equal(observation, held)
        running.check_observation(space, after, where, notes)
        if not np.isfinite(np.asarray(reward, np.float64)).all():
            example = f"{where}\nexpected finite numbers, actual {shown(reward)}"
            notes.fail(faults.REWARD, example)
        done = np.asarray(terminated) | np.asarray(truncated)
        seen_end |= bool(done.any())
        if mode is not None:
            example = _resets_otherwise(mode, ended, done, np.asarray(reward), infos)
            if example:
                notes.fail(faults.MODE_WRONG, f"{where}: {example}")
        ended, observation = done, after
        if mode is AutoresetMode.DISABLED and done.any():
            observation, _ = environments.reset(options={"reset_mask": done.copy()})
            ended = np.zeros(number, bool)
    running.judge_bounds(notes)
    if seen_end and mode is not None:
        notes.hold(faults.MODE_WRONG.check)
    elif mode is not None:
        notes.not_checked.append(f"{faults.MODE_WRONG.check}: no episode ended")
    if aliased:
        notes.choices.append(
            "observations are changed by the next step (copy=False): copy what is kept"
        )
    else:
        notes.hold(faults.ALIASED.check)
    notes.hold(faults.OUTSIDE.check, faults.NOT_FINITE.check, faults.REWARD.check)
    return count


def _resets_otherwise(
    mode: AutoresetMode, ended: np.ndarray, done: np.ndarray, reward: np.ndarray, infos: Any
) -> str:
    """What a step does that its mode does not; `ended`: by the step before."""
    same, final = mode is AutoresetMode.SAME_STEP, "final_obs" in infos
    if done.any() and same is not final:
        expected, actual = "infos['final_obs']", f"{', '.join(infos) or 'nothing'} in infos"
        if final:
            expected = "the last observation from step"
            actual = "it is in infos['final_obs'], as in mode SAME_STEP"
        return (
            f"environment {int(np.argmax(done))} ended in mode {mode.name}\n"
            f"expected {expected}, actual: {actual}"
        )
    again = ended & (done | (reward != 0))
    if mode is AutoresetMode.NEXT_STEP and again.any():
        k = int(np.argmax(again))
        return (
            f"the step after the end of environment {k} in mode NEXT_STEP\n"
            f"expected reward 0 and no end, actual {float(reward[k]):.6g}, {bool(done[k])}"
        )
    return ""


def _check_starts(environments: VectorEnv, start: Any, notes: Notes) -> None:
    again, _ = environments.reset(seed=0)
    if running.equal(start, again, 1e-4):
        notes.hold(faults.OTHER_STARTS.check)
    else:
        example = f"expected the same, actual {shown(start)} and {shown(again)}"
        notes.fail(faults.OTHER_STARTS, f"twice reset(seed=0)\n{example}")
    number = environments.num_envs
    rows = [np.asarray(x) for _, x in running.leaves(environments.observation_space, start)]
    if number > 1 and rows and all((x[1:] == x[:1]).all() for x in rows if x.ndim):
        notes.choices.append(
            f"all {number} environments start alike after reset(seed=0): their starts are fixed, "
            "or they are seeded alike"
        )
    elif number > 1:
        notes.hold("environments-seeded-apart")
