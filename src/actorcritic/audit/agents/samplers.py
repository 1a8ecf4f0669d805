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
    return int(flat[0]) if flat.size == 1 and float(flat[0]) == round(float(flat[0])) else None


def judge(
    found: Judge, act: Callable[[Any], Any], draw: Callable[[], Any], continuous: bool
) -> None:
    """Many actions at one state, with their log-probabilities if there are any."""
    tape, observation = found.tape, draw()
    state = tape.state(observation)
    rows = []
    before = len(tape.policies)
    checks = mock.patch.object(tape.torch.distributions.Distribution, "_validate_args", False)
    with tape.running(), calling.quiet(), checks:  # as checked as they were before
        started = time.process_time()
        for count in range(MANY if continuous else MANY // 4):
            if count >= MANY // 8 and time.process_time() - started > SECONDS:
                break
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
    known = np.log(np.maximum(p, 1e-45))
    # What comes with an action may be its value, too: only what is a log-probability is judged.
    are_logs = np.isclose(logs[:, None], known, 1e-3, 1e-4).any(-1).all()
    if are_logs and len(set(actions.tolist())) > 1:
        expected = known[actions]
        wrong = ~np.isclose(logs, expected, 1e-3, 1e-4)
        if wrong.any():
            k = int(np.argmax(wrong))
            example = (
                f"probabilities   {as_numbers(np.round(p, 4))}\naction          {actions[k]}\n"
                f"log-probability, expected  {expected[k]:.4f}\n"
                f"log-probability, actual    {logs[k]:.4f}"
            )
            found.fail(ANOTHER, example)
        else:
            found.hold(ANOTHER.check, "sample-density")
        found.judged += 1
    p = p / p.sum()
    counts = np.bincount(actions, minlength=len(p))[: len(p)]
    off = np.abs(counts - len(actions) * p) - FAR * np.sqrt(len(actions) * p * (1 - p))
    if len(set(actions.tolist())) > 1 and (off <= 1).all():
        found.hold("samples")
        found.judged += 1


def _continuous(
    found: Judge, actions: np.ndarray, logs: np.ndarray, policies: list[Policy]
) -> None:
    if not np.isfinite(logs).all() or len(set(actions[:, 0].tolist())) < 10 or np.ptp(logs) < 1e-9:
        return
    drawn = _draws(policies, actions)
    if drawn is not None:
        draws, own = drawn
        moved = np.abs(draws - actions).max(-1) > 1e-4
        at_bounds = _repeated(actions)
        if np.allclose(own, logs, 1e-3, 1e-3) and (moved & at_bounds).any() and not (
            moved & ~at_bounds
        ).any():  # fmt: skip
            k = int(np.argmax(moved))
            example = (
                f"{moved.mean():.0%} of the actions are clipped\n"
                f"draw             {as_numbers(np.round(draws[k], 4))}\n"
                f"action           {as_numbers(np.round(actions[k], 4))}\n"
                f"log-probability  {logs[k]:.4f}, that of the draw"
            )
            found.judged += 1
            found.fail(CLIPPED, example)
            return
    if integrates(actions, logs):
        found.judged += 1
        found.hold("sample-density", CLIPPED.check)
    else:
        found.not_checked.append(
            "what comes with an action is no density of it: taken for something else"
        )


def _draws(policies: list[Policy], actions: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """What was drawn for every action, with its log-probability."""
    own = [p for p in policies if p.draws and p.means is not None]
    if len(own) != len(actions):
        return None
    draws = np.array([p.draws[-1].detach().cpu().numpy().ravel() for p in own], float)
    if draws.shape != actions.shape:
        return None
    means = np.array([p.means[0] for p in own if p.means is not None])
    stds = np.array([p.stds[0] for p in own if p.stds is not None])
    return draws, normal(draws, means, stds).sum(-1)


def _repeated(actions: np.ndarray) -> np.ndarray:
    """Which rows have a number that is the largest or smallest of many."""
    ends = (actions == actions.max(0)) | (actions == actions.min(0))
    often = ends.sum(0) > 3
    return np.asarray((ends & often).any(-1))
