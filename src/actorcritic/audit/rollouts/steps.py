"""Which row of a batch is which step: nothing lost, nothing twice, none of another episode."""

from __future__ import annotations

import itertools

import numpy as np

from actorcritic.audit.findings import CannotCall
from actorcritic.audit.rollouts import faults
from actorcritic.audit.rollouts.batches import Rows
from actorcritic.audit.rollouts.facts import Facts, by_time, placed, same, shown
from actorcritic.audit.rollouts.worlds import Key, Reset, code, ends, length, successor


def check_seeds(judge: Facts) -> None:
    for call in range(judge.world.call + 1):
        first: dict[int | None, int] = {}
        for diary in judge.world.diaries:
            seeded = [r for r in diary.resets if r.call == call and r.seed is not None]
            told: dict[int | None, Reset] = {}
            for reset in seeded:
                before = told.setdefault(reset.seed, reset)
                if before is not reset:
                    example = (
                        f"environment {diary.index}: episodes {before.episode} and "
                        f"{reset.episode} are both reset with seed={reset.seed}\n"
                        f"random number of their starts: expected two different ones, actual "
                        f"{before.draw:.4f} and {reset.draw:.4f}"
                    )
                    judge.verdict.fail(faults.SEEDED_AGAIN, example, seed=reset.seed)
                    return
            for reset in seeded[:1]:
                other = first.setdefault(reset.seed, diary.index)
                if other != diary.index:
                    example = (
                        f"environments {other} and {diary.index}: the first reset of both "
                        f"has seed={reset.seed}\nrandom number of their starts: expected two "
                        f"different ones, actual {reset.draw:.4f} in both"
                    )
                    judge.verdict.fail(faults.SEEDED_ALIKE, example, seed=reset.seed)
                    return
    judge.verdict.hold(faults.SEEDED_ALIKE.check)


def check_resets(judge: Facts) -> None:
    def flagged(key: Key) -> bool:
        """Whether its row says that the episode is cut there; or there is no such row."""
        for rows in judge.batches:
            for role in ("truncated", "dones"):
                if role in rows.fields and key in rows.keys:
                    return bool(rows.fields[role][rows.keys.index(key)])
        return key not in judge.keys

    for diary in judge.world.diaries:
        for (call, cut, _), (later, after, _) in itertools.pairwise(diary.steps):
            if after == successor(cut) or ends(cut) or later != call or flagged(cut):
                continue
            judge.verdict.fail(
                faults.RESET_EARLY,
                f"{placed(cut)}: the episode has {length(cut)} steps; "
                f"expected step {cut[2] + 1}, actual: a reset",
            )
            return
    judge.verdict.hold(faults.RESET_EARLY.check)


def check_observations(judge: Facts) -> bool:
    """Whether the observations are those of the environments, and each row has its own."""
    known = [k for k in judge.keys if k[:2] in judge.draw and 0 <= k[2] <= length(k)]
    masked = any(role in rows.fields for rows in judge.batches for role in ("valid", "masks"))
    if len(known) < len(judge.keys) / 2 and not masked:
        raise CannotCall(
            "The observations in the batch are not those of the environment: the first row is "
            f"{shown(judge.batches[0].fields['observations'][0])}, the first observation was "
            f"{shown(judge.observation(judge.world.diaries[0].steps[0].key))}. Leave "
            "normalisation and the like out of what is audited."
        )
    for rows, index in ((rows, index) for rows in judge.batches for index in sorted(judge.steps)):
        mine = [key for key in rows.keys if key[0] == index]
        if len(mine) < 5 or len(judge.place) < 5 or len(set(mine)) > max(2, len(mine) // 5):
            continue
        steps = judge.steps[index]
        never_replaced = max(mine) == steps[0]
        judge.verdict.fail(
            faults.NEVER_REPLACED if never_replaced else faults.ONE_ARRAY,
            f"environment {index}, the first four rows as (environment, episode, time):\n"
            f"expected {' '.join(shown(k) for k in steps[:4])}\n"
            f"actual   {' '.join(shown(k) for k in mine[:4])}",
        )
        return False
    judge.verdict.hold(faults.ONE_ARRAY.check)
    for rows in judge.batches:
        if rows.layout == "mixed":
            line = [key[0] for key in rows.keys][: min(8, rows.lead[1])]
            judge.verdict.fail(
                faults.RESHAPED,
                f"observations of shape {rows.lead}, the environment of each row\n"
                f"actual, first line: {' '.join(map(str, line))}\n"
                "expected: the same environment along one of the axes",
            )
            return False
    return True


def check_drop(judge: Facts) -> None:
    """Leave out padding and rows declared not to be experience; find kept reset rows."""
    never: list[tuple[Key, str]] = []  # rows of no step, with their rewards
    for rows in judge.batches:
        fields, choices = rows.fields, judge.verdict.choices
        beyond = np.array([key not in judge.place for key in rows.keys])
        padding = np.array([key == (0, 0, 0) for key in rows.keys]) & (rows.draws == 0)
        if "masks" in fields:
            masks = fields.pop("masks")
            is_valid = ((masks == 0) == beyond).all()
            fields.setdefault("valid" if is_valid else "not_dones", masks)
        declared = fields.pop("valid", np.ones(len(beyond))) != 0
        if (~declared & ~beyond & ~padding).any():
            choices.append("leaves out rows that are experience")
        if (~declared | padding).any():
            choices.append("rows that are no experience are marked or zero")
        rows.kept = declared & ~padding & ~beyond
        for k in np.flatnonzero(declared & ~padding & beyond).tolist():
            reward = f", reward {shown(fields['rewards'][k])}" if "rewards" in fields else ""
            never.append((rows.keys[k], reward))
    finals = [(key, reward) for key, reward in never if key[2] == length(key)]
    others = [key for key, _ in never if key[2] != length(key)]
    if finals:
        key, reward = min(finals, key=lambda final: by_time(final[0]))
        judge.verdict.fail(
            faults.RESET_ROWS,
            f"environment {key[0]}: episode {key[1]} ended with its step at time "
            f"{key[2] - 1}\nexpected next row: episode {key[1] + 1}, time 0\n"
            f"actual next row: episode {key[1]}, time {key[2]}, its last observation{reward}",
        )
    else:
        judge.verdict.hold(faults.RESET_ROWS.check)
    if others:
        judge.verdict.fail(
            faults.NEVER_GIVEN,
            f"{len(others)} rows, the first of which reads {placed(others[0])}; "
            "expected only steps that were made",
        )
    judge.keys = [key for rows in judge.batches for key in rows.experience]


def check_axes(judge: Facts) -> None:
    """Are the other fields laid out along the axes of the observations?"""
    roles = ("rewards", "actions", "dones", "terminated", "log_probs", "values")
    for rows in judge.batches:
        turned = rows.swapped + [role for role in roles if _is_turned(judge, rows, role)]
        if turned:
            lead = rows.lead if len(rows.lead) == 2 else (len(rows.keys),)
            judge.verdict.fail(
                faults.EXCHANGED,
                f"observations {lead}: the second row is {placed(rows.experience[1])}\n"
                f"expected {turned[0]} of that step in the second row, "
                f"actual: {turned[0]} in the order of the other axis",
                role=turned[0],
            )
    judge.verdict.hold(faults.EXCHANGED.check)


def _is_turned(judge: Facts, rows: Rows, role: str) -> bool:
    """Whether a field is right with its axes exchanged, as which it is read from here on."""
    got, true = rows.fields.get(role), judge.expected(role, rows.experience)
    if got is None or not len(true) or got[rows.kept].size != true.size:
        return False

    def right(x: np.ndarray) -> bool:
        return bool(same(x[rows.kept].reshape(true.shape), true).mean() > 0.9)

    count, number = len(rows.keys), len({key[0] for key in rows.keys})
    shape = rows.lead if len(rows.lead) == 2 else (number, count // number)
    if right(got) or np.prod(shape) != count or 1 in shape:
        return False
    for lead in (shape, shape[::-1]):
        turned = got.reshape(*lead, *got.shape[1:]).swapaxes(0, 1).reshape(got.shape)
        if right(turned):
            rows.fields[role] = turned
            return True
    return False


def check_lost(judge: Facts) -> None:
    have = set(judge.keys)
    lost: list[Key] = []
    for index, steps in judge.steps.items():
        present = [k for k, key in enumerate(steps) if key in have]
        if not present:
            continue
        lost += [key for key in steps[present[0] : present[-1]] if key not in have]
        # One extra step at the very end may be no more than a look ahead.
        tail = steps[present[-1] + 1 :]
        if tail and ends(tail[0]) and tail[0][1] == steps[present[-1]][1]:
            others = [s[-1] in have for i, s in judge.steps.items() if i != index and s]
            lost += tail[:1] if all(others) else []
    if not lost:
        judge.verdict.hold(faults.LOST.check)
        return
    key = min(lost, key=by_time)
    count = sum(map(ends, lost))
    if count == len(lost):  # one cause, where it keeps the rows after the ends instead
        judge.verdict.found.pop(faults.RESET_ROWS.check, None)
    judge.verdict.fail(
        faults.ENDS_LOST if count > len(lost) / 2 else faults.LOST,
        f"environment {key[0]}, episode {key[1]} of {length(key)} steps\n"
        f"expected rows at times 0 to {length(key) - 1}, "
        f"actual: none at time {key[2]} (reward {shown(code(key))})",
        count=len(lost),
    )


def check_same_rows(judge: Facts) -> bool:
    """Where action and reward both belong to the step before, the observation is too late."""
    shift = judge.shift("rewards")
    if not shift or judge.shift("actions") != shift:
        judge.verdict.hold(faults.OBSERVATION.check)
        return True
    key, true = min(
        ((key, true) for key in judge.keys if (true := judge.beside(key, shift))),
        key=lambda pair: by_time(pair[0]),
    )
    # The rest follows from this.
    for consequence in (faults.RESET_ROWS, faults.LOST, faults.OBSERVATION):
        judge.verdict.found.pop(consequence.check, None)
    judge.verdict.fail(
        faults.OBSERVATION,
        f"the row with the reward {shown(code(true))}\nexpected observation "
        f"{shown(true)}, actual {shown(key)} (environment, episode, time)",
        when="before" if shift < 0 else "after",
    )
    return False
