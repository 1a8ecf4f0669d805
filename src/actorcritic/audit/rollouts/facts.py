"""One run of a function that collects: its batches, and what the diaries say is true of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from actorcritic.audit.findings import Fault, Ledger
from actorcritic.audit.rollouts import worlds
from actorcritic.audit.rollouts.batches import Rows
from actorcritic.audit.rollouts.worlds import Key, World

# Where each flag should be set.
FLAGS: dict[str, Callable[[Key], bool]] = {
    "terminated": worlds.terminates,
    "truncated": worlds.truncates,
    "dones": worlds.ends,
    "starts": lambda key: key[2] == 0,
}


def placed(key: Key) -> str:
    return f"environment {key[0]}, episode {key[1]}, time {key[2]}"


def shown(x: Any) -> str:
    array = np.asarray(x, np.float64)
    if array.ndim == 0:
        return f"{float(array):.8g}"
    return "(" + ", ".join(f"{v:.4g}" for v in array.ravel()) + ")"


def by_time(key: Key) -> tuple[int, int, int]:
    return key[1], key[2], key[0]


def same(got: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Row by row: equal, but for what float32 loses."""
    equal = np.isclose(np.asarray(got, np.float64), true, rtol=2e-6, atol=1e-4)
    return np.asarray(equal.reshape(len(equal), -1).all(axis=1))


class Facts:
    """One run of the function, beside the diaries of its environments."""

    def __init__(self, world: World, batches: list[Rows], has: set[str]) -> None:
        self.world, self.batches, self.has = world, batches, has
        self.verdict = Ledger()
        self.keys = [key for rows in batches for key in rows.keys]  # later, of experience alone
        self.steps = {d.index: [s.key for s in d.steps] for d in world.diaries}
        self.place = {key: k for keys in self.steps.values() for k, key in enumerate(keys)}
        self.executed = {s.key: s.action for d in world.diaries for s in d.steps}
        self.call_of = {s.key: s.call for d in world.diaries for s in d.steps}
        self.draw = {(d.index, r.episode): r.draw for d in world.diaries for r in d.resets}

    def observation(self, key: Key) -> np.ndarray:
        return np.array([*key, self.draw.get(key[:2], np.nan)])

    def beside(self, key: Key, offset: int) -> Key | None:
        """The step of the same environment that came so many steps later."""
        keys, at = self.steps[key[0]], self.place[key] + offset
        return keys[at] if 0 <= at < len(keys) else None

    def column(self, role: str) -> np.ndarray | None:
        """A field, of the rows that are experience."""
        if not all(role in rows.fields for rows in self.batches):
            return None
        return np.concatenate([rows.fields[role][rows.kept] for rows in self.batches])

    def expected(self, role: str, keys: Iterable[Key]) -> np.ndarray:
        """What a field should hold in the rows of these steps."""
        continuous = self.world.continuous
        tell: dict[str, Callable[[Key], Any]] = {
            "rewards": worlds.code,
            "actions": lambda k: self.executed[k],
            "actions as drawn": lambda k: worlds.drawn(k, continuous),
            "log_probs": lambda k: worlds.log_prob(k, continuous),
            "values": worlds.value,
            "next_observations": lambda k: self.observation(worlds.successor(k)),
            "next_values": lambda k: worlds.value(worlds.successor(k)),
            **FLAGS,
        }
        return np.array([tell[role](k) for k in keys], np.float64)

    def first(self, which: np.ndarray) -> int:
        """Of the rows for which this holds, the one that comes first in time."""
        return min(np.flatnonzero(which).tolist(), key=lambda k: by_time(self.keys[k]))

    def shift(self, role: str, got: np.ndarray | None = None) -> int:
        """How many steps later than its row a field's numbers belong: 0, 1 or −1."""
        got, share = self.column(role) if got is None else got, {}
        if got is None:
            return 0
        for offset in (0, 1, -1):
            beside = [self.beside(key, offset) for key in self.keys]
            at = [k for k, key in enumerate(beside) if key is not None]
            true = self.expected(role, [key for key in beside if key is not None])
            if not at or got[at].size != true.size:
                return 0
            share[offset] = same(got[at].reshape(true.shape), true).mean()
        best = max(share, key=lambda offset: share[offset])
        clear = share[best] > 0.9 or (share[best] > 0.6 and share[best] > share[0] + 0.3)
        return best if clear else 0

    def fail(self, fault: Fault, key: Key, name: str, true: Any, got: Any, **words: Any) -> None:
        """In the row of this step one number was expected, and another came."""
        example = f"{placed(key)}\nexpected {name} {shown(true)}, actual {shown(got)}"
        self.verdict.fail(fault, example, **words)
