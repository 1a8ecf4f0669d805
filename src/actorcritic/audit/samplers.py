"""Whether the log-probability that comes with an action is that of the action.

Whatever form a density p has, E[1(a in I) / p(a)] is the size of I: no mean, deviation or limit is
asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import stats

from actorcritic.audit import calling
from actorcritic.audit.findings import Fault, as_numbers
from actorcritic.audit.recorded import Judge
from actorcritic.audit.tape import Policy, Tape
from actorcritic.audit.truths import integrates

MANY = 2000  # actions at one state
LEVEL = 1e-9
ANOTHER = Fault(
    "action-and-log-prob-agree",
    "the log-probability is that of another draw, not of the action that is returned",
    "The gradient makes other actions likelier than those that earned the reward.",
    "action = dist.sample(); log_prob = dist.log_prob(action), of one and the same draw",
)
CLIPPED = Fault(
    "clipped-action",
    "the action is clipped, and the log-prob that comes with it is that of the action before",
    "The stored action and its log-probability belong to different actions: the next update's "
    "ratios are wrong for every action at a bound.",
    "Return the action as it was drawn, and clip only what the environment is given.",
)
DENSITY = Fault(
    "sample-density",
    "the log-probability that comes with an action is not that of the action",
    "Gradients and ratios belong to another action than the one that is executed.",
    "Compute the log-probability from the draw that becomes the action.",
)


def parts_of(answer: Any, continuous: bool) -> tuple[Any, float | None]:
    """The action and its log-probability in what a function for acting returned."""
    parts = list(answer) if isinstance(answer, tuple) else [answer]
    action, log_prob = None, None
    for part in parts:
        try:
            numbers = calling.to_numpy(part)
        except Exception:
            continue
        if action is None:
            action = numbers.astype(np.float32).ravel() if continuous else _whole(numbers)
        elif log_prob is None and numbers.size == 1:
            log_prob = float(numbers.ravel()[0])
    return action, log_prob


def _whole(numbers: np.ndarray) -> int | None:
    flat = numbers.ravel()
    return int(flat[0]) if flat.size == 1 and float(flat[0]) == round(float(flat[0])) else None


def judge(
    found: Judge, tape: Tape, act: Callable[[Any], Any], draw: Callable[[], Any], continuous: bool
) -> None:
    """Many actions at one state, with their log-probabilities if there are any."""
    observation = draw()
    state = tape.state(observation)
    rows = []
    before = len(tape.policies)
    with tape.running(), calling.quiet():
        for _ in range(MANY if continuous else MANY // 4):
            rows.append(parts_of(act(observation), continuous))
            if len(rows) == 1 and rows[0][0] is None:
                return
    policies = [p for p in tape.policies[before:] if state in p.states]
    policies = [p for p in policies if not p.raw] or policies
    del tape.policies[before + 1 :]
    actions = [a for a, _ in rows]
    logs = np.array([np.nan if log is None else log for _, log in rows])
    if any(a is None for a in actions):
        return
    if continuous:
        _continuous(found, np.array(actions), logs, policies)
    elif policies and policies[0].probs is not None:
        _discrete(found, np.array(actions), logs, policies[0].probs[0])


def _discrete(found: Judge, actions: np.ndarray, logs: np.ndarray, p: np.ndarray) -> None:
    if np.isfinite(logs).all():
        expected = np.log(np.maximum(p[actions], 1e-45))
        wrong = ~np.isclose(logs, expected, 1e-3, 1e-4)
        if wrong.any():
            k = int(np.argmax(wrong))
            known = np.isclose(logs[:, None], np.log(np.maximum(p, 1e-45)), 1e-3, 1e-4).any(-1)
            example = (
                f"probabilities   {as_numbers(np.round(p, 4))}\naction          {actions[k]}\n"
                f"log-probability, expected  {expected[k]:.4f}\n"
                f"log-probability, actual    {logs[k]:.4f}"
            )
            found.fail(ANOTHER if known.all() else DENSITY, example)
        else:
            found.hold(ANOTHER.check, DENSITY.check)
        found.judged += 1
    p = p / p.sum()
    counts = np.bincount(actions, minlength=len(p))[: len(p)]
    if len(set(actions.tolist())) > 1 and stats.chisquare(counts, len(actions) * p).pvalue > LEVEL:
        found.hold("samples")
        found.judged += 1


def _continuous(
    found: Judge, actions: np.ndarray, logs: np.ndarray, policies: list[Policy]
) -> None:
    if not np.isfinite(logs).all() or len(np.unique(actions[:, 0])) < 10:
        return
    found.judged += 1
    for column in actions.T:
        for bound in (column.max(), column.min()):
            at = column == bound
            if at.sum() > max(3, 0.002 * len(column)):
                first = int(np.argmax(at))
                example = (
                    f"{at.mean():.0%} of the actions are {bound:g}\n"
                    f"action           {as_numbers(np.round(actions[first], 4))}\n"
                    f"log-probability  {logs[first]:.4f}, that of the draw before the clip"
                )
                found.fail(CLIPPED, example)
                return
    if integrates(actions, logs):
        found.hold(DENSITY.check, CLIPPED.check)
    else:
        example = (
            f"action           {as_numbers(np.round(actions[0], 4))}\n"
            f"log-probability  {logs[0]:.4f}"
        )
        found.fail(DENSITY, example)
    del policies
