"""Whether the log-probability that comes with an action is that of the action.

Whatever form a density p has, E[1(a in I) / p(a)] is the size of I: no mean, deviation or limit is
asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np

from actorcritic.audit import calling
from actorcritic.audit.agents.judge import Judge
from actorcritic.audit.agents.tape import Policy
from actorcritic.audit.findings import Fault, as_numbers
from actorcritic.audit.losses.cases import normal
from actorcritic.audit.truths import integrates

MANY, SECONDS = 2000, 2.0  # actions at one state; fewer, where they take long
NORMAL = ("means", "stds")
FAR = 6.0  # standard deviations from what was expected
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
    return int(flat[0]) if flat.size == 1 and float(flat[0]).is_integer() else None


def judge(
    found: Judge, act: Callable[[Any], Any], draw: Callable[[], Any], continuous: bool
) -> None:
    """Many actions at one state, with their log-probabilities if there are any."""
    tape, observation = found.tape, draw()
    state, before = tape.state(observation), len(tape.policies)
    rows: list[tuple[Any, float | None]] = []
    checks = mock.patch.object(tape.torch.distributions.Distribution, "_validate_args", False)
    with tape.running(), calling.quiet(), checks:  # as checked as they were before
        started = time.process_time()
        while len(rows) < (MANY if continuous else MANY // 4):
            rows.append(parts_of(act(observation), continuous))
            if rows[-1][0] is None or (continuous and rows[-1][1] is None):
                return
            if len(rows) >= MANY // 8 and time.process_time() - started > SECONDS:
                break
    policies = [p for p in tape.policies[before:] if state in p.states]
    policies = [p for p in policies if not p.raw] or policies
    actions = np.array([action for action, _ in rows])
    logs = np.array([np.nan if log is None else log for _, log in rows])
    if continuous:
        _continuous(found, actions, logs, policies)
    elif policies and policies[0].probs is not None:
        _discrete(found, actions, logs, policies[0].probs[0])


def _discrete(found: Judge, actions: np.ndarray, logs: np.ndarray, p: np.ndarray) -> None:
    if len(set(actions.tolist())) < 2:
        return
    known = np.log(np.maximum(p, 1e-45))
    # What comes with an action may be its value, too: only what is a log-probability is judged.
    if np.isclose(logs[:, None], known, 1e-3, 1e-4).any(-1).all():
        expected = known[actions]
        wrong = ~np.isclose(logs, expected, 1e-3, 1e-4)
        k = int(np.argmax(wrong))
        example = (
            f"probabilities   {as_numbers(np.round(p, 4))}\naction          {actions[k]}\n"
            f"log-probability, expected  {expected[k]:.4f}\n"
            f"log-probability, actual    {logs[k]:.4f}"
        )
        found.verdict(ANOTHER, bool(wrong.any()), example)
        found.hold(*([] if wrong.any() else ["sample-density"]))
        found.judged += 1
    expected = len(actions) * p / p.sum()
    off = np.abs(np.bincount(actions, minlength=len(p))[: len(p)] - expected)
    if (off <= FAR * np.sqrt(expected) + 1).all():
        found.hold("samples")
        found.judged += 1


def _continuous(
    found: Judge, actions: np.ndarray, logs: np.ndarray, policies: list[Policy]
) -> None:
    if not np.isfinite(logs).all() or len(set(actions[:, 0].tolist())) < 10 or np.ptp(logs) < 1e-9:
        return
    found.judged += 1
    own = [p for p in policies if p.draws and p.means is not None]
    draws = np.array([p.drawn[0] for p in own])
    if draws.shape == actions.shape:
        moved = np.abs(draws - actions).max(-1) > 1e-4
        ends = (actions == actions.max(0)) | (actions == actions.min(0))
        at_bounds = (ends & (ends.sum(0) > 3)).any(-1)  # the largest or smallest of many
        of_draws = normal(draws, *(np.array([getattr(p, x)[0] for p in own]) for x in NORMAL))
        theirs = np.allclose(of_draws.sum(-1), logs, 1e-3, 1e-3)
        if theirs and moved.any() and not (moved & ~at_bounds).any():
            k = int(np.argmax(moved))
            example = (
                f"{moved.mean():.0%} of the actions are clipped\n"
                f"draw             {as_numbers(np.round(draws[k], 4))}\n"
                f"action           {as_numbers(np.round(actions[k], 4))}\n"
                f"log-probability  {logs[k]:.4f}, that of the draw"
            )
            found.fail(CLIPPED, example)
            return
    if integrates(actions, logs):
        found.hold("sample-density", CLIPPED.check)
    else:
        found.judged -= 1
        found.not_checked.append(
            "what comes with an action is no density of it: taken for something else"
        )
