"""What stands in each row: rewards, actions, log-probabilities, values, and what follows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from actorcritic.audit.findings import Fault
from actorcritic.audit.rollouts import faults, worlds
from actorcritic.audit.rollouts.facts import Facts, placed, same, shown
from actorcritic.audit.rollouts.worlds import Key

SHIFTS = {0: "", 1: " (they are one row early)", -1: " (they are one row late)"}

# ------------------------------------------------------------------------------- a row's own


def _bootstrapped(judge: Facts, got: np.ndarray, true: np.ndarray, wrong: np.ndarray) -> bool:
    """Recognise γ V(last observation), added to the reward where an episode is truncated."""
    keys = [key for key, is_wrong in zip(judge.keys, wrong, strict=True) if is_wrong]
    if not all(map(worlds.truncates, keys)):
        return False
    for after in (worlds.successor, worlds.after_reset):
        share = (got - true)[wrong] / [worlds.value(after(key)) for key in keys]
        if not 0 < share.mean() <= 1.001 or np.ptp(share) > 1e-5:
            continue
        if after is worlds.after_reset:
            _fail_final(judge, judge.keys[judge.first(wrong)], "the value added to the reward")
        else:
            judge.verdict.choices.append(
                f"time limits are bootstrapped in the reward: r + {share.mean():.3g} "
                "V(last observation)"
            )
            judge.verdict.hold(faults.REWARD.check)
        return True
    return False


def _of_another_action(judge: Facts, got: np.ndarray, true: np.ndarray, wrong: np.ndarray) -> bool:
    return bool({faults.CLIPPED.check, faults.ACTION.check} & set(judge.verdict.found))


class Field(NamedTuple):
    """A field of which each row has its own number, or its own few."""

    role: str
    fault: Fault
    also: str = ""  # what else may stand there
    cause: Callable[[Facts, np.ndarray, np.ndarray, np.ndarray], bool] | None = None  # that is told
    of_policy: bool = False  # the policy's own, which the function need not have kept

    @property
    def what(self) -> str:
        return self.role.removesuffix("s").replace("log_prob", "log-probability")


REWARDS = Field("rewards", faults.REWARD, cause=_bootstrapped)
ACTIONS = Field("actions", faults.ACTION, also="actions as drawn")
LOG_PROBS = Field("log_probs", faults.LOG_PROB, cause=_of_another_action, of_policy=True)
VALUES = Field("values", faults.VALUE, of_policy=True)


def check_field(judge: Facts, field: Field) -> np.ndarray | None:
    """Hold each row against what its step says. The field, if all are right."""
    verdict, name, got = judge.verdict, field.fault.check, judge.column(field.role)
    if got is None or (field.of_policy and not judge.world.policy_called):
        if not field.of_policy:
            verdict.not_checked.append(f"{name}: the batch has no {field.role}")
        return None
    truths = [judge.expected(r, judge.keys) for r in (field.role, field.also) if r]
    if got.size != truths[0].size:
        verdict.not_checked.append(f"{name}: {field.role} have the shape {got.shape}")
        return None
    got = got.reshape(truths[0].shape)
    true = max(truths, key=lambda true: same(got, true).mean())
    wrong = ~same(got, true)
    if not wrong.any():
        verdict.hold(name)
        return got
    if field.cause is not None and field.cause(judge, got, true, wrong):
        return None
    shift = judge.shift(field.role)
    if field.of_policy and wrong.mean() > 0.95 and not shift:
        verdict.not_checked.append(
            f"{name}: the {field.what}s are not those that the policy returned"
        )
        return None
    k = judge.first(wrong)
    judge.fail(field.fault, judge.keys[k], field.what, true[k], got[k], shift=SHIFTS[shift])
    return None


def check_actions(judge: Facts) -> None:
    got = check_field(judge, ACTIONS)
    if got is None:
        return
    executed, policy = (judge.expected(r, judge.keys) for r in (ACTIONS.role, ACTIONS.also))
    _check_acted(judge, executed, policy)
    _check_clipped(judge, got, executed, policy)


def _check_acted(judge: Facts, executed: np.ndarray, policy: np.ndarray) -> None:
    """Does the policy see the observation that it acts on?"""
    name = faults.ACTED.check
    if not judge.world.policy_called:
        judge.verdict.not_checked.append(f"{name}: the function takes no policy")
        return
    ways = [policy, np.clip(policy, -1, 1), np.tanh(policy)]
    ways = ways if judge.world.continuous else ways[:1]
    right = np.any([same(executed, way) for way in ways], axis=0)
    if right.all():
        judge.verdict.hold(name)
    elif right.mean() > 0.05:  # otherwise it transforms actions, or explores, in its own way
        k = judge.first(~right)
        judge.fail(faults.ACTED, judge.keys[k], "action", policy[k], executed[k])


def _check_clipped(judge: Facts, got: np.ndarray, executed: np.ndarray, policy: np.ndarray) -> None:
    """Is the log-probability that of the action beside it?"""
    name, choices = faults.CLIPPED.check, judge.verdict.choices
    logs, other = judge.column("log_probs"), ~same(got, policy)
    if not judge.world.continuous:
        if logs is not None:
            judge.verdict.not_checked.append(
                f"{name}: the function was only called with discrete actions"
            )
    elif not other.any():
        judge.verdict.hold(name)
        if same(got, executed).all():
            choices.append("actions are neither clipped nor squashed: the environment has to")
    elif logs is None:
        choices.append(
            "actions are stored as they are executed (clipped), without log-probabilities"
        )
    else:
        k = judge.first(other)
        drawn, stored = worlds.density(policy[k]), worlds.density(got[k])
        if abs(logs[k] - drawn) > 1e-4:
            choices.append("actions and log-probabilities are those that are executed (clipped)")
            return
        judge.verdict.fail(
            faults.CLIPPED,
            f"{placed(judge.keys[k])}: drawn {shown(policy[k])}, log-probability {drawn:.4f}\n"
            f"stored action {shown(got[k])} has log-probability {stored:.4f}\n"
            f"expected {stored:.4f} beside it, actual {logs[k]:.4f}",
        )


# ------------------------------------------------------------------------------- what follows


def _fail_final(judge: Facts, key: Key, what: str, actual: str = "") -> None:
    now, after = worlds.successor(key), worlds.after_reset(key)
    judge.verdict.fail(
        faults.FINAL,
        f"{placed(key)}, cut by the time limit\nexpected {what}: of {shown(now)}, "
        f"the last observation of episode {key[1]}\n"
        f"actual: {actual or 'of ' + shown(after)}, the first of episode {after[1]}",
        what=what,
    )


def _follows(
    judge: Facts, role: str, keys: Sequence[Key], got: np.ndarray, free: Callable[[Key], bool]
) -> bool | None:
    """Is this what followed these steps? None: but for those that are free."""
    are_values, what = got.ndim == 1, role.removesuffix("s").replace("_", " ")
    true = judge.expected("next_values" if are_values else "next_observations", keys)
    wrong = ~(same(got, true) if are_values else same(got[:, :3], true[:, :3]))
    # A value of 0 says that the time limit is treated as an end: the flags tell of it.
    zero = (got == 0) if are_values else np.zeros(len(got), bool)
    serious = [
        k
        for k in np.flatnonzero(wrong).tolist()
        if not (free(keys[k]) or (zero[k] and worlds.truncates(keys[k])))
    ]
    if not serious:
        return None if wrong.any() else True
    k = min(serious, key=lambda k: (keys[k][1:], keys[k]))
    is_cut = all(worlds.truncates(keys[k]) for k in serious)
    if is_cut and (are_values or tuple(np.round(got[k][:3])) == worlds.after_reset(keys[k])):
        _fail_final(judge, keys[k], f"the {what}", shown(got[k]) if are_values else "")
    else:
        fault = {"next observation": faults.NEXT_OBSERVATION, "next value": faults.NEXT_VALUE}
        at = fault.get(what, faults.AFTER_LAST)
        judge.fail(at, keys[k], what, true[k], got[k], what=what)
    return False


def check_following(judge: Facts) -> None:
    """The observation after each step, or its value."""
    for role, fault in (
        ("next_observations", faults.NEXT_OBSERVATION),
        ("next_values", faults.NEXT_VALUE),
    ):
        got = judge.column(role)
        if got is None:
            continue
        follows = _follows(judge, role, judge.keys, got, worlds.terminates)
        if follows is not False:
            judge.verdict.hold(faults.FINAL.check, fault.check)
        if follows is None and role == "next_observations":
            judge.verdict.choices.append(
                "after a termination the next observation is that of the reset: harmless where "
                "its value is dropped"
            )


def check_after_last(judge: Facts) -> None:
    """The observation, or its value, that the batch is bootstrapped from."""
    for rows in judge.batches:
        indices = sorted({key[0] for key in rows.experience})
        last = [max(k for k in rows.experience if k[0] == index) for index in indices]
        merged = "terminated" not in rows.fields and "truncated" not in rows.fields
        for role in ("last_value", "last_observation"):
            is_value = role == "last_value"
            got: Any = np.asarray(rows.fields.get(role, ()), np.float64)
            got = got.ravel() if is_value else got.reshape(-1, worlds.FIELDS)
            if role not in rows.fields or len(got) != len(last):
                continue
            free = worlds.ends if merged or not is_value else worlds.terminates
            if _follows(judge, role, last, got, free) is False:
                return
            judge.verdict.hold(faults.AFTER_LAST.check)
    if "last_value" in judge.has:
        judge.verdict.hold(faults.FINAL.check)
