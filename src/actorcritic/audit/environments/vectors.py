"""Environments side by side, asked as one: do they reset as they say, and do they differ?"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from actorcritic.audit.environments import faults
from actorcritic.audit.environments.asking import Alone, Answer, Notes
from actorcritic.audit.environments.running import leaves

KEPT = "observations are changed by the next step (copy=False): copy what is kept"


class Vector(Alone):
    """A `VectorEnv`: one observation of all, and numbers of each."""

    promises = tuple(fault for fault in faults.OF_ALL if fault is not faults.ALIASED)
    unseeded = faults.OTHER_STARTS

    def __init__(self, environment: Any, notes: Notes) -> None:
        super().__init__(environment, notes)
        self._mode: AutoresetMode | None = None
        said = (environment.metadata or {}).get("autoreset_mode")
        try:
            self._mode = AutoresetMode(said)
            notes.hold(faults.MODE_UNSAID.check)
            notes.choices.append(f"autoreset mode {self._mode.name}")
        except ValueError:
            example = f"metadata['autoreset_mode']\nexpected one of AutoresetMode, actual {said!r}"
            notes.fail(faults.MODE_UNSAID, example)

    def who(self, agent: str) -> str:
        return agent and f", environment {agent}"

    def fail_aliased(self, example: str) -> None:
        self.notes.choices.append(KEPT)

    def reset(self, seed: int | None) -> Answer:
        self._ended = np.zeros(self.environment.num_envs, bool)
        return super().reset(seed)

    def step(self, actions: dict[str, Any], where: str) -> Answer:
        observations, *numbers, infos = self._ask(
            lambda: self.environment.step(deepcopy(actions[""])), where, True
        )
        each = [{str(k): number for k, number in enumerate(part)} for part in numbers]
        answer = Answer({"": observations}, *each)
        done = np.array([answer.ended(k) for k in answer.rewards])
        otherwise = self._otherwise(done, np.asarray(numbers[0]), infos)
        if otherwise:
            self.notes.fail(faults.MODE_WRONG, f"{where}: {otherwise}")
        elif self._mode is not None and done.any():
            self.notes.hold(faults.MODE_WRONG.check)
        self._ended = done
        if self._mode is AutoresetMode.DISABLED and done.any():
            self.environment.reset(options={"reset_mask": done})
            self._ended = np.zeros_like(done)
        return answer

    def _otherwise(self, done: np.ndarray, reward: np.ndarray, infos: Any) -> str:
        """What a step does that its mode does not."""
        mode, final = self._mode, "final_obs" in infos
        again = self._ended & (done | (reward != 0))
        if mode is not None and done.any() and (mode is AutoresetMode.SAME_STEP) is not final:
            expected, actual = "infos['final_obs']", f"{', '.join(infos) or 'nothing'} in infos"
            if final:
                expected = "the last observation from step"
                actual = "it is in infos['final_obs'], as in mode SAME_STEP"
            return (
                f"environment {int(np.argmax(done))} ended in mode {mode.name}\n"
                f"expected {expected}, actual: {actual}"
            )
        if mode is AutoresetMode.NEXT_STEP and again.any():
            k = int(np.argmax(again))
            return (
                f"the step after the end of environment {k} in mode NEXT_STEP\n"
                f"expected reward 0 and no end, actual {float(reward[k]):.6g}, {bool(done[k])}"
            )
        return ""

    def compare(self) -> None:
        """What became of the arrays and the modes, and whether the environments differ."""
        notes, number = self.notes, self.environment.num_envs
        if KEPT not in notes.choices:
            notes.hold(faults.ALIASED.check)
        if self._mode is not None and faults.MODE_WRONG.check not in (*notes.passed, *notes.found):
            notes.not_checked.append(f"{faults.MODE_WRONG.check}: no episode ended")
        start = self.reset(0).observations[""]
        rows = [np.asarray(x) for _, x in leaves(self.environment.observation_space, start)]
        if number > 1 and rows and all((x[1:] == x[:1]).all() for x in rows if x.ndim):
            notes.choices.append(
                f"all {number} environments start alike after reset(seed=0): their starts are "
                "fixed, or they are seeded alike"
            )
        elif number > 1:
            notes.hold("environments-seeded-apart")
