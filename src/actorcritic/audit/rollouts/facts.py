"""One run of a function that collects: its batches, and what the diaries say is true of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from actorcritic.audit.findings import Ledger
from actorcritic.audit.rollouts.batches import Rows
from actorcritic.audit.rollouts.worlds import Key, World, code, length, log_prob, terminates, value


def placed(key: Key) -> str:
    return f"environment {key[0]}, episode {key[1]}, time {key[2]}"


def shown(x: Any) -> str:
    array = np.asarray(x, np.float64)
    if array.ndim == 0:
        return f"{float(array):.8g}"
    return "(" + ", ".join(f"{v:.4g}" for v in array.ravel()) + ")"


def by_time(key: Key) -> tuple[int, int, int]:
    return key[1], key[2], key[0]


class Facts:
    """One run of the function, beside the diaries of its environments."""

    def __init__(self, world: World, batches: list[Rows], called_fields: set[str]) -> None:
        self.world, self.batches, self.has = world, batches, called_fields
        self.verdict = Ledger()
        self.keys: list[Key] = []  # of all rows, once they are known
        self.steps = {d.index: [s.key for s in d.steps] for d in world.diaries}
        self.place = {key: k for keys in self.steps.values() for k, key in enumerate(keys)}
        self.executed = {s.key: s.action for d in world.diaries for s in d.steps}
        self.draw = {(d.index, r.episode): r.draw for d in world.diaries for r in d.resets}
        self.call_of = {s.key: s.call for d in world.diaries for s in d.steps}

    def observation(self, key: Key) -> np.ndarray:
        return np.array([*key, self.draw.get((key[0], key[1]), np.nan)])

    def is_end(self, key: Key) -> bool:
        return key[2] + 1 == length(key[0], key[1])

    def terminated(self, key: Key) -> bool:
        return self.is_end(key) and terminates(key[0], key[1])

    def truncated(self, key: Key) -> bool:
        return self.is_end(key) and not terminates(key[0], key[1])

    def successor(self, key: Key) -> Key:
        return (key[0], key[1], key[2] + 1)

    def beside(self, key: Key, offset: int) -> Key | None:
        """The step of the same environment that came so many steps later."""
        keys, at = self.steps[key[0]], self.place[key] + offset
        return keys[at] if 0 <= at < len(keys) else None

    def column(self, role: str) -> np.ndarray | None:
        """A field, of the rows that are experience."""
        if not all(role in rows.fields for rows in self.batches):
            return None
        parts = [rows.fields[role][rows.fields["_kept"]] for rows in self.batches]
        return np.concatenate([np.asarray(part) for part in parts])

    def expected(self, role: str, keys: list[Key]) -> np.ndarray | None:
        """What a field should hold; None where that is a matter of convention."""
        continuous = self.world.continuous
        tell: dict[str, Callable[[Key], Any]] = {
            "rewards": code,
            "actions": lambda k: self.executed[k],
            "log_probs": lambda k: log_prob(k, continuous),
            "values": value,
            "next_observations": lambda k: self.observation(self.successor(k)),
            "terminated": self.terminated,
            "truncated": self.truncated,
            "dones": self.is_end,
        }
        return np.array([tell[role](k) for k in keys], np.float64) if role in tell else None

    def offset(self, role: str) -> int:
        """How many steps later than its row a field's numbers belong: 0, 1 or −1."""
        got = self.column(role)
        if got is None:
            return 0
        share = {}
        for offset in (0, 1, -1):
            pairs = [(k, self.beside(key, offset)) for k, key in enumerate(self.keys)]
            at = [k for k, key in pairs if key is not None]
            true = self.expected(role, [key for _, key in pairs if key is not None])
            if true is None or not at or got[at].size != true.size:
                return 0
            share[offset] = self.same(got[at].reshape(true.shape), true).mean()
        if share[0] > 0.99:
            return 0
        best = max(share, key=lambda d: share[d])
        return best if share[best] > 0.6 and share[best] > share[0] + 0.3 else 0

    def shift_words(self, offset: int) -> str:
        return {1: " (they are one row early)", -1: " (they are one row late)"}.get(offset, "")

    def flagged_as_cut(self, key: Key) -> bool:
        for rows in self.batches:
            for role in ("truncated", "dones"):
                if role in rows.fields and key in rows.keys:
                    return bool(rows.fields[role][rows.keys.index(key)])
        return key not in {k for rows in self.batches for k in rows.keys}

    @staticmethod
    def same(got: np.ndarray, true: np.ndarray) -> np.ndarray:
        """Row by row: equal to float32's precision."""
        got, true = np.asarray(got, np.float64), np.asarray(true, np.float64)
        equal = np.isclose(got, true, rtol=2e-6, atol=2e-6)
        return np.asarray(equal.reshape(len(equal), -1).all(axis=1))

    def say_merged(self) -> None:
        if any("bootstrapped in the reward" in text for text in self.verdict.choices):
            return
        self.verdict.choices.append(
            "one flag for both ends: time limits count as terminations, so that the value of what "
            "would have followed is lost there"
        )

    def fail_merged(self, said: str = "Time limits are flagged as terminated.") -> None:
        key = min((k for k in self.keys if self.truncated(k)), key=by_time, default=None)
        if key is None:
            return
        self.verdict.say(
            "truncation-told-apart",
            said,
            "The value of what would have followed a time limit is taken as 0: the critic learns "
            "that good states near the limit are worthless.",
            f"{placed(key)}: the episode is cut by its time limit\n"
            "expected terminated 0, truncated 1; actual terminated 1",
            "Store terminated and truncated as envs.step gives them; bootstrap unless terminated.",
        )

    def fail_final(self, key: Key, what: str, actual: str = "") -> None:
        after = (key[0], key[1] + 1, 0)
        self.verdict.say(
            "final-observation-kept",
            f"At the end of an episode, {what} is taken from the observation after the reset.",
            "Time limits are bootstrapped with the value of a fresh start: values near the limit "
            "are too high or too low by the difference.",
            f"{placed(key)}, cut by the time limit\nexpected {what}: of "
            f"{shown(np.array(self.successor(key)))}, the last observation of episode {key[1]}\n"
            f"actual: {actual or 'of ' + shown(np.array(after))}, the first of episode "
            f"{after[1]}",
            'In SAME_STEP mode take infos["final_obs"][k] where done; in the other modes take the '
            "observation of the step, before any reset.",
        )
