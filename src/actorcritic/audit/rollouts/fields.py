"""What stands in each row: rewards, actions, flags, successors, log-probabilities, values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from actorcritic.audit.rollouts.facts import Facts, by_time, placed, shown
from actorcritic.audit.rollouts.worlds import FIELDS, Key, code, density, drawn, value


def check_rewards(judge: Facts) -> None:
    name, got = "reward-in-its-row", judge.column("rewards")
    true = judge.expected("rewards", judge.keys)
    if got is None or true is None:
        judge.verdict.not_checked.append(f"{name}: the batch has no rewards")
        return
    right = judge.same(got, true)
    if not right.all() and check_bootstrapped_rewards(judge, got, true, right):
        return
    if right.all():
        judge.verdict.hold(name)
        return
    key = min((k for k, ok in zip(judge.keys, right, strict=True) if not ok), key=by_time)
    actual = got[judge.keys.index(key)]
    offset = judge.offset("rewards")
    judge.verdict.say(
        name,
        f"Rewards are not in the rows of the steps that earned them{judge.shift_words(offset)}.",
        "Each action is credited with the reward of another one.",
        f"{placed(key)}\nexpected reward {shown(code(key))}, actual {shown(actual)}",
        "Write the reward of envs.step(action) in the row of that action.",
    )


def check_bootstrapped_rewards(judge: Facts, got: Any, true: Any, right: np.ndarray) -> bool:
    """Recognise γ V(last observation), added to the reward where an episode is truncated."""
    wrong = [k for k, ok in enumerate(right) if not ok]
    if not all(judge.truncated(judge.keys[k]) for k in wrong):
        return False
    for after, words in ((True, "last"), (False, "next")):
        share = [
            (got[k] - true[k])
            / value(
                judge.successor(judge.keys[k])
                if after
                else (judge.keys[k][0], judge.keys[k][1] + 1, 0)
            )
            for k in wrong
        ]
        if not 0 < np.mean(share) <= 1.001 or np.ptp(share) > 1e-5:
            continue
        if words == "last":
            judge.verdict.choices.append(
                f"time limits are bootstrapped in the reward: r + {np.mean(share):.3g} "
                "V(last observation)"
            )
            judge.verdict.hold("reward-in-its-row")
        else:
            judge.fail_final(
                min((judge.keys[k] for k in wrong), key=by_time), "the value added to the reward"
            )
        return True
    return False


def check_actions(judge: Facts) -> None:
    name, got = "action-in-its-row", judge.column("actions")
    if got is None:
        judge.verdict.not_checked.append(f"{name}: the batch has no actions")
        return
    executed = judge.expected("actions", judge.keys)
    assert executed is not None
    continuous = judge.world.continuous
    policy = np.array([drawn(k, continuous) for k in judge.keys], np.float64)
    if got.size != executed.size:
        judge.verdict.not_checked.append(f"{name}: actions have the shape {got.shape}")
        return
    got = got.reshape(executed.shape)
    as_executed, as_drawn = judge.same(got, executed), judge.same(got, policy)
    if not as_executed.all() and not as_drawn.all():
        good = as_drawn if as_drawn.mean() > as_executed.mean() else as_executed
        k = min((k for k, ok in enumerate(good) if not ok), key=lambda k: by_time(judge.keys[k]))
        offset = judge.offset("actions")
        judge.verdict.say(
            name,
            f"The action of a row is not the one taken there{judge.shift_words(offset)}.",
            "The policy is trained on pairs of observation and action that never were: the "
            "gradient is that of another policy's choices.",
            f"{placed(judge.keys[k])}\nexpected action {shown(executed[k])}, "
            f"actual {shown(got[k])}",
            "Store the action before the next one is drawn.",
        )
        return
    judge.verdict.hold(name)
    check_acted(judge, executed, policy)
    check_clipped(judge, got, executed, policy, as_executed, as_drawn)


def check_acted(judge: Facts, executed: np.ndarray, policy: np.ndarray) -> None:
    """Does the policy see the observation that it acts on?"""
    name = "acts-on-current-observation"
    if not judge.world.policy_called:
        judge.verdict.not_checked.append(f"{name}: the function takes no policy")
        return
    clipped = np.clip(policy, -1, 1) if judge.world.continuous else policy
    right = judge.same(executed, policy) | judge.same(executed, clipped)
    if judge.world.continuous:
        right |= judge.same(executed, np.tanh(policy))
    if right.all():
        judge.verdict.hold(name)
    elif right.mean() > 0.05:  # otherwise it transforms actions, or explores, in its own way
        k = min((k for k, ok in enumerate(right) if not ok), key=lambda k: by_time(judge.keys[k]))
        judge.verdict.say(
            name,
            "The action executed is not the policy's for the observation of that moment.",
            "The policy acts on an observation that is past; its data are of another policy.",
            f"{placed(judge.keys[k])}\nexpected action {shown(policy[k])}, executed "
            f"{shown(executed[k])}",
            "After a reset, give the policy the observation of the reset.",
        )


def check_clipped(
    judge: Facts,
    got: np.ndarray,
    executed: np.ndarray,
    policy: np.ndarray,
    as_executed: np.ndarray,
    as_drawn: np.ndarray,
) -> None:
    name = "action-as-drawn"
    logs = judge.column("log_probs")
    if not judge.world.continuous:
        if logs is not None:
            judge.verdict.not_checked.append(
                f"{name}: the function was only called with discrete actions"
            )
        return
    if as_drawn.all():
        judge.verdict.hold(name)
        if as_executed.all():
            judge.verdict.choices.append(
                "actions are neither clipped nor squashed: the environment has to"
            )
        return
    if logs is None:
        judge.verdict.choices.append(
            "actions are stored as they are executed (clipped), without log-probabilities"
        )
        return
    k = min((k for k, ok in enumerate(as_drawn) if not ok), key=lambda k: by_time(judge.keys[k]))
    unclipped = density(policy[k])
    if abs(float(np.ravel(logs[k])[0]) - unclipped) > 1e-4:
        judge.verdict.choices.append(
            "actions and log-probabilities are those that are executed (clipped)"
        )
        return
    judge.verdict.say(
        name,
        "The clipped action is stored beside the log-probability of the unclipped one.",
        "The ratio of new and old probabilities is not 1 for an unchanged policy: updates are "
        "biased wherever actions reach the bounds, and pushed further beyond them.",
        f"{placed(judge.keys[k])}: drawn {shown(policy[k])}, log-probability {unclipped:.4f}\n"
        f"stored action {shown(got[k])} has log-probability {density(got[k]):.4f}\n"
        f"expected {density(got[k]):.4f} beside it, actual {float(np.ravel(logs[k])[0]):.4f}",
        "Store the action as drawn, and clip a copy for the environment: "
        "envs.step(np.clip(action, low, high)).",
    )


def check_flags(judge: Facts) -> None:
    verdict = judge.verdict
    term, trunc, done = (
        np.array([f(k) for k in judge.keys])
        for f in (judge.terminated, judge.truncated, judge.is_end)
    )
    start = np.array([k[2] == 0 for k in judge.keys])
    seen: set[tuple[int, int]] = set()
    counted = np.zeros(len(judge.keys), bool)  # not the first row of an environment in a call
    for k in sorted(range(len(judge.keys)), key=lambda k: judge.keys[k]):
        key = judge.keys[k]
        place = (key[0], judge.call_of[key])
        counted[k] = place in seen
        seen.add(place)
    columns = {
        role: np.asarray(got) != 0
        for role in ("terminated", "truncated", "dones", "starts", "not_dones")
        if (got := judge.column(role)) is not None
    }
    if "not_dones" in columns:
        if "dones" not in columns:
            columns["dones"] = ~columns["not_dones"]
            verdict.choices.append("the mask is 1 where the episode goes on, 1 − done")
        del columns["not_dones"]
    if not columns:
        verdict.not_checked.append("done-in-its-row: the batch has no flags of ends")
        return
    if "reset-rows-dropped" in verdict.found and not any(x.any() for x in columns.values()):
        return  # one cause: the flags are those of the rows kept
    starts = columns.pop("starts", None)
    dones = columns.get("dones")

    def are_starts(flags: np.ndarray) -> bool:
        return bool((flags == start)[counted].all() and start[counted].any())

    if starts is None and dones is not None and (dones != done).any() and are_starts(dones):
        if "last_done" in judge.has:
            starts, dones = columns.pop("dones"), None
        else:
            check_fail_done(judge, "dones", dones, done, " (they are one row late)")
            return
    if starts is not None:
        if not are_starts(starts):
            check_fail_done(judge, "starts", starts, start, "")
        else:
            verdict.hold("done-in-its-row")
            verdict.choices.append(
                "a flag says that the row begins an episode; that of the row after the last "
                "comes separately"
            )
    if not columns:
        if starts is not None:
            judge.say_merged()
        return

    if "terminated" in columns and "truncated" in columns:
        check_both_flags(judge, columns["terminated"], columns["truncated"], term, trunc)
        if dones is not None and (dones != done).any():
            check_fail_done(
                judge, "dones", dones, done, check_flag_shift(judge, dones, judge.is_end)
            )
        return
    role = "terminated" if "terminated" in columns else "dones"
    if "truncated" in columns:
        both = columns.get("dones")
        trunc_got = columns["truncated"]
        if (trunc_got != trunc).any():
            shift = check_flag_shift(judge, trunc_got, judge.truncated)
            check_fail_done(judge, "truncated", trunc_got, trunc, shift)
            return
        if both is None:
            verdict.hold("done-in-its-row")
            verdict.not_checked.append("terminations: the batch has none")
            return
        if (both != done).any() and (both != term).any():
            shift = check_flag_shift(judge, both, judge.is_end)
            check_fail_done(judge, "dones", both, done, shift)
            return
        verdict.hold("done-in-its-row")
        verdict.hold("truncation-told-apart")
        return
    flags = columns[role]
    if (flags == term).all():
        verdict.hold("done-in-its-row")
        if role == "dones":
            verdict.choices.append("done means terminated; time limits are not flagged")
        return
    if (flags == done).all():
        verdict.hold("done-in-its-row")
        if role == "dones":
            judge.say_merged()
        else:
            judge.fail_merged()
        return
    truth = judge.is_end if role == "dones" else judge.terminated
    expected = done if role == "dones" else term
    check_fail_done(judge, role, flags, expected, check_flag_shift(judge, flags, truth))


def check_both_flags(
    judge: Facts, terminated: np.ndarray, truncated: np.ndarray, term: np.ndarray, trunc: np.ndarray
) -> None:
    done = term | trunc
    if (terminated == term).all() and (truncated == trunc).all():
        judge.verdict.hold("done-in-its-row")
        judge.verdict.hold("truncation-told-apart")
    elif (terminated == done).all():
        judge.verdict.hold("done-in-its-row")
        judge.fail_merged()
    elif (terminated == trunc).all() and (truncated == term).all():
        judge.verdict.hold("done-in-its-row")
        judge.fail_merged("Terminated and truncated are exchanged.")
    elif (terminated == term).all() and not truncated.any():
        judge.verdict.say(
            "truncation-told-apart",
            "Truncations are lost: no row says that a time limit ended its episode.",
            "Returns and advantages run on into the next episode.",
            check_flag_example(judge, "truncated", truncated, trunc),
            "Store the truncated flag of envs.step in the row of its step.",
        )
    elif (truncated == done).all() and (terminated == term).all():
        judge.verdict.hold("done-in-its-row")
        judge.verdict.choices.append("truncated is set at terminations too")
    else:
        role = "terminated" if (terminated != term).any() else "truncated"
        got, true = (terminated, term) if role == "terminated" else (truncated, trunc)
        fact = judge.terminated if role == "terminated" else judge.truncated
        check_fail_done(judge, role, got, true, check_flag_shift(judge, got, fact))


def check_flag_shift(judge: Facts, flags: np.ndarray, fact: Callable[[Key], bool]) -> str:
    for offset in (1, -1):
        beside = [judge.beside(key, offset) for key in judge.keys]
        at = [k for k, key in enumerate(beside) if key is not None]
        true = np.array([fact(key) for key in beside if key is not None])
        if len(at) and (flags[at] == true).mean() > 0.9:
            return judge.shift_words(offset)
    return ""


def check_flag_example(judge: Facts, role: str, flags: np.ndarray, true: np.ndarray) -> str:
    wrong = [k for k in range(len(flags)) if flags[k] != true[k]]
    worst = min(wrong, key=lambda k: (not true[k], by_time(judge.keys[k])))
    index = judge.keys[worst][0]
    mine = sorted((k for k in range(len(flags)) if judge.keys[k][0] == index),
                  key=lambda k: judge.keys[k])  # fmt: skip
    at = mine.index(worst)
    shown = mine[max(0, at - 3) : at + 3]
    where = " ".join(f"{judge.keys[k][1]}.{judge.keys[k][2]}" for k in shown)
    expected = " ".join(f"{int(true[k]):>3}" for k in shown)
    actual = " ".join(f"{int(flags[k]):>3}" for k in shown)
    return (
        f"environment {index}, rows as episode.time:  {where}\n"
        f"expected {role}: {expected}\nactual   {role}: {actual}"
    )


def check_fail_done(
    judge: Facts, role: str, flags: np.ndarray, true: np.ndarray, words: str
) -> None:
    judge.verdict.say(
        "done-in-its-row",
        f"{role} is not set in the rows of the steps that end an episode{words}.",
        "Advantages flow from the start of the next episode into the end of this one, and are "
        "cut where nothing ended.",
        check_flag_example(judge, role, flags, true),
        "Write the flags of envs.step(action) in the row of that action (or return the flag "
        "after the last row too, if dones[t] belongs to the observation of row t).",
    )


def check_next_observations(judge: Facts) -> None:
    name, got = "final-observation-kept", judge.column("next_observations")
    if got is None:
        return
    true = judge.expected("next_observations", judge.keys)
    assert true is not None
    wrong = [k for k, ok in enumerate(judge.same(got[:, :3], true[:, :3])) if not ok]
    serious = [k for k in wrong if not judge.terminated(judge.keys[k])]
    if not serious:
        judge.verdict.hold(name)
        judge.verdict.hold("next-observation-in-its-row")
        if wrong:
            judge.verdict.choices.append(
                "after a termination the next observation is that of the reset: harmless where "
                "its value is dropped"
            )
        return
    k = min(serious, key=lambda k: by_time(judge.keys[k]))
    if all(judge.truncated(judge.keys[k]) for k in serious):
        key = judge.keys[k]
        if tuple(np.round(got[k][:3])) == (key[0], key[1] + 1, 0):
            judge.fail_final(key, "the next observation")
            return
    judge.verdict.say(
        "next-observation-in-its-row",
        "The next observation of a row is not the one that followed it.",
        "Targets are bootstrapped from the value of another state.",
        f"{placed(judge.keys[k])}\nexpected next observation {shown(true[k])}, "
        f"actual {shown(got[k])}",
        "Store a copy of what envs.step(action) returned, in the row of that action.",
    )


def check_log_probs(judge: Facts) -> None:
    check_compare(judge, "log_probs", "log-prob-in-its-row", "log-probability", 1e-3)


def check_values(judge: Facts) -> None:
    check_compare(judge, "values", "value-in-its-row", "value", 1e-2)
    got = judge.column("next_values")
    if got is None:
        return
    name = "final-observation-kept"
    for k in sorted(range(len(judge.keys)), key=lambda k: by_time(judge.keys[k])):
        key = judge.keys[k]
        if judge.terminated(key) or abs(got[k] - value(judge.successor(key))) < 1e-2:
            continue
        if judge.truncated(key):
            if got[k] == 0:
                continue  # time limits as terminations: a convention, told by the flags
            judge.fail_final(key, "the next value", f"{shown(got[k])}")
            return
        judge.verdict.say(
            "next-value-in-its-row",
            "The next value of a row is not that of the observation that followed it.",
            "Targets are bootstrapped from another state.",
            f"{placed(key)}\nexpected {shown(value(judge.successor(key)))}, actual {shown(got[k])}",
            "Take the value of the observation that envs.step(action) returned.",
        )
        return
    judge.verdict.hold(name)


def check_compare(judge: Facts, role: str, name: str, words: str, tolerance: float) -> None:
    got = judge.column(role)
    true = judge.expected(role, judge.keys)
    if got is None or true is None or not judge.world.policy_called:
        return
    wrong = [k for k in range(len(true)) if not abs(got[k] - true[k]) <= tolerance / 10]
    if not wrong:
        judge.verdict.hold(name)
        return
    if role == "log_probs" and {"action-as-drawn", "action-in-its-row"} & set(judge.verdict.found):
        return  # one cause
    offset = judge.offset(role)
    right_share = 1 - len(wrong) / len(true)
    if not offset and right_share < 0.05:
        judge.verdict.not_checked.append(
            f"{name}: the {words}s are not those that the policy returned"
        )
        return
    k = min(wrong, key=lambda k: by_time(judge.keys[k]))
    judge.verdict.say(
        name,
        f"The {words} of a row is not that of its own step{judge.shift_words(offset)}.",
        "Ratios and advantages are formed with another step's numbers.",
        f"{placed(judge.keys[k])}\nexpected {words} {shown(true[k])}, actual {shown(got[k])}",
        f"Store the {words} in the row of the action it was computed with.",
    )


def check_after_last(judge: Facts) -> None:
    """The observation, or its value, that the batch is bootstrapped from."""
    name = "final-observation-kept"
    for rows in judge.batches:
        experienced = [k for k, ok in zip(rows.keys, rows.fields["_kept"], strict=True) if ok]
        last = {
            index: max(k for k in experienced if k[0] == index)
            for index in sorted({k[0] for k in experienced})
        }
        merged = "terminated" not in rows.fields and "truncated" not in rows.fields
        for role in ("last_value", "last_observation"):
            got = rows.fields.get(role)
            if got is None:
                continue
            flat = np.asarray(got, np.float64)
            flat = flat.reshape(-1, FIELDS) if role == "last_observation" else flat.ravel()
            if len(flat) != len(last):
                continue
            for key, row in zip(last.values(), flat, strict=True):
                actual: Any = row
                now = judge.successor(key)
                if role == "last_observation":
                    right = tuple(np.round(actual[:3])) == now or judge.is_end(key)
                else:
                    free = judge.terminated(key) or (judge.is_end(key) and merged)
                    # 0 there says that the time limit is treated as an end.
                    free = free or (judge.truncated(key) and actual == 0)
                    right = free or bool(abs(actual - value(now)) < 1e-2)
                if right:
                    continue
                what = role.replace("_", " ")
                true: Any = value(now) if role == "last_value" else judge.observation(now)
                if judge.truncated(key) and role == "last_value":
                    judge.fail_final(key, f"the {what}", shown(actual))
                else:
                    judge.verdict.say(
                        "bootstrap-from-successor",
                        f"The {what} is not that of what follows the last row.",
                        "Every return of the batch rests on the value of another state.",
                        f"the last row is {placed(key)}\n"
                        f"expected {shown(true)}, actual {shown(actual)}",
                        "Take the observation that the last step returned.",
                    )
                return
            judge.verdict.hold("bootstrap-from-successor")
    if {"last_value"} & judge.has:
        judge.verdict.hold(name)
