"""Which flags of a batch say that an episode ended, and whether they stand in the right rows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from actorcritic.audit.findings import Fault
from actorcritic.audit.rollouts import faults
from actorcritic.audit.rollouts.facts import FLAGS, Facts, by_time
from actorcritic.audit.rollouts.fields import SHIFTS
from actorcritic.audit.rollouts.worlds import truncates

ANY, NEVER = "any", "never"  # whatever it holds, or none; set in no row
ENDS, APART = (faults.DONE.check,), (faults.DONE.check, faults.MERGED.check)
ONE_FLAG = (
    "one flag for both ends: time limits count as terminations, so that the value of what "
    "would have followed is lost there"
)


class Reading(NamedTuple):
    """What is in the place of three flags ('' where there is none), and what follows from it."""

    terminated: str
    truncated: str
    dones: str
    holds: tuple[str, ...] = ENDS
    choice: str = ""
    fault: Fault | None = None
    on: str = "terminated"  # the flag that the fault shows on


READINGS = (
    Reading("terminated", "truncated", ANY, APART),
    Reading("terminated", NEVER, ANY, (), fault=faults.CUT_LOST, on="truncated"),
    Reading("terminated", "dones", ANY, choice="truncated is set at terminations too"),
    Reading("terminated", "", ANY),
    Reading("dones", ANY, ANY, fault=faults.MERGED),
    Reading("truncated", "terminated", ANY, fault=faults.SWAPPED),
    Reading("", "truncated", ""),
    Reading("", "truncated", "dones", APART),
    Reading("", "truncated", "terminated", APART),
    Reading("", "", "terminated", choice="done means terminated; time limits are not flagged"),
    Reading("", "", "dones", choice=ONE_FLAG),
)


def check_flags(judge: Facts) -> None:
    verdict = judge.verdict
    truths = {name: np.array([flag(k) for k in judge.keys]) for name, flag in FLAGS.items()}
    columns = {
        role: np.asarray(got) != 0
        for role in (*FLAGS, "not_dones")
        if (got := judge.column(role)) is not None
    }
    goes_on = columns.pop("not_dones", None)
    if goes_on is not None and "dones" not in columns:
        columns["dones"] = ~goes_on
        verdict.choices.append("the mask is 1 where the episode goes on, 1 − done")
    if not columns:
        verdict.not_checked.append(f"{faults.DONE.check}: the batch has no flags of ends")
        return
    if faults.RESET_ROWS.check in verdict.found and not any(x.any() for x in columns.values()):
        return  # one cause: the flags are those of the rows kept
    if "starts" not in columns and "last_done" in judge.has and "dones" in columns:
        late = (columns["dones"] != truths["dones"]).any()
        if late and _are_starts(judge, columns["dones"], truths["starts"]):
            columns["starts"] = columns.pop("dones")
    starts = columns.pop("starts", None)
    if starts is not None and not _are_starts(judge, starts, truths["starts"]):
        _fail_done(judge, "starts", starts, truths["starts"])
    elif starts is not None:
        verdict.hold(faults.DONE.check)
        verdict.choices.append(
            "a flag says that the row begins an episode; that of the row after the last "
            "comes separately"
        )
    if columns:
        _read(judge, columns, truths)
    else:
        _choose(judge, ONE_FLAG)


def _read(judge: Facts, columns: dict[str, np.ndarray], truths: dict[str, np.ndarray]) -> None:
    """Find the reading that fits, and say what follows from it."""

    def wrong(role: str) -> bool:
        return role in columns and bool((columns[role] != truths[role]).any())

    def holds(role: str, name: str) -> bool:
        if name == ANY or role not in columns:
            return name in (ANY, "")
        return name != "" and bool((columns[role] == truths.get(name, False)).all())

    roles = ("terminated", "truncated", "dones")
    for reading in READINGS:
        fits = all(holds(role, name) for role, name in zip(roles, reading[:3], strict=True))
        if not fits or (reading.fault and not wrong(reading.on)):
            continue
        judge.verdict.hold(*reading.holds)
        _choose(judge, reading.choice)
        if reading.fault:
            on = reading.on
            example = _example(judge, on, columns[on], truths[on])
            judge.verdict.fail(reading.fault, example)
        break
    else:
        role = next(role for role in roles if wrong(role))
        _fail_done(judge, role, columns[role], truths[role])
    if set(columns) == {"truncated"}:
        judge.verdict.not_checked.append("terminations: the batch has none")
    if set(columns) == set(roles) and wrong("dones"):
        _fail_done(judge, "dones", columns["dones"], truths["dones"])


def _choose(judge: Facts, choice: str) -> None:
    bootstrapped = any("bootstrapped in the reward" in text for text in judge.verdict.choices)
    if choice and not (choice == ONE_FLAG and bootstrapped):
        judge.verdict.choices.append(choice)


def _are_starts(judge: Facts, flags: np.ndarray, start: np.ndarray) -> bool:
    """Whether they say where episodes start; of an environment's first row that is no matter."""
    places = [(key[0], judge.call_of[key]) for key in judge.keys]
    first = {place: key for key, place in sorted(zip(judge.keys, places, strict=True))[::-1]}
    counted = np.array([first[p] != k for k, p in zip(judge.keys, places, strict=True)])
    return bool((flags == start)[counted].all() and start[counted].any())


def _fail_done(judge: Facts, role: str, flags: np.ndarray, true: np.ndarray) -> None:
    shift = SHIFTS[judge.shift(role, flags)]
    example = _example(judge, role, flags, true)
    judge.verdict.fail(faults.DONE, example, role=role, shift=shift)


def _example(judge: Facts, role: str, flags: np.ndarray, true: np.ndarray) -> str:
    """The rows around the first that is wrong, one where the flag is missing before others."""
    keys = judge.keys
    wrong = np.flatnonzero(flags != true).tolist()
    worst = min(wrong, key=lambda k: (not true[k], by_time(keys[k])))
    mine = [k for k in range(len(keys)) if keys[k][0] == keys[worst][0]]
    mine.sort(key=lambda k: keys[k])
    at, cut = mine.index(worst), truncates(keys[worst])
    near = mine[max(0, at - 3) : at + 3]
    where = " ".join(f"{keys[k][1]}.{keys[k][2]}" for k in near)
    expected, actual = (" ".join(f"{int(x[k]):>3}" for k in near) for x in (true, flags))
    return (
        f"environment {keys[worst][0]}, rows as episode.time:  {where}\n"
        f"expected {role}: {expected}\nactual   {role}: {actual}"
        + f"\n(at {keys[worst][1]}.{keys[worst][2]} a time limit cuts the episode)"
        * cut
    )
