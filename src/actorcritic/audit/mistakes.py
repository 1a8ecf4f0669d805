"""Known mistakes in estimates, a row each: a wrong definition, and what to say about it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from actorcritic.audit.findings import Fault
from actorcritic.audit.truths import Numbers, Quantity, Trajectory, replace_last, td_errors

# What a wrong definition makes of a quantity on a trajectory.
Wrong: TypeAlias = Callable[[Trajectory, Quantity], Numbers]


class Mistake(NamedTuple):
    """A wrong definition, and its words: those of its check, where it has none of its own."""

    check: str
    wrong: str
    way: Wrong
    effect: str = ""
    mend: str = ""

    @property
    def fault(self) -> Fault:
        return Fault(self.check, self.wrong, self.effect, self.mend)

    def applied(self, x: Trajectory, quantity: Quantity) -> Numbers:
        """The quantity, with this mistake in it."""
        return self.way(x, quantity)


_LEAK = (
    "Steps are credited with rewards of another episode, which they did not cause.",
    "Stop the sum at every end: multiply it by (1 - done), with done = terminated | truncated.",
)
_RATIO = (
    "ρ̄ decides what is converged to and c̄ how fast: now to the values of another policy.",
    "rho_t = min(rho_bar, ratio) weighs delta_t; c_t = lambda * min(c_bar, ratio) is the trace.",
)
_SUM = "G[t] = r[t] + gamma * G[t + 1], from the end: the step's own reward has the factor 1."
_TARGET = "target = reward + gamma * (1 - terminated) * next_value"
# What each does to learning, and the mend. NEXT is what it calls the value of the next state.
CHECKS = {
    "truncation-bootstraps": (
        "States near a time limit are taught that the future is worth nothing, though the task "
        "goes on: values are biased towards zero.",
        "Zero the bootstrap with `terminated` only: delta = reward + gamma * (1 - terminated) * "
        "next_value - value.",
    ),
    "bootstrap-from-true-successor": (
        "The value of a start state stands for that of the state that was cut off: long episodes "
        "are taught to be worth as much as new ones.",
        "Give it the value of the last observation of each episode (next_values[t]) and use that "
        "where the episode was truncated.",
    ),
    "termination-drops-bootstrap": (
        "A terminal state is worth 0; here failing leads to a fresh future: it looks harmless.",
        "Multiply the bootstrap by (1 - terminated): gamma * (1 - terminated[t]) * NEXT.",
    ),
    "trace-cut-at-episode-end": _LEAK,
    "returns-stop-at-episode-end": _LEAK,
    "last-bootstrap-used": (
        "Each batch ends as if the episode did: the last steps look worse than they are.",
        "Bootstrap the last step: gamma * (1 - terminated[-1]) * last_value.",
    ),
    "last-bootstrap-once": (
        "The end of each batch looks better than it is, and with it the steps before.",
        "Add last_value once: either to the last reward or as the last step's next value.",
    ),
    "bootstrap-discounted": (
        "It converges to another value than the discounted return's, or not at all.",
        "delta = reward + gamma * NEXT - value.",
    ),
    "lambda-applied-once": (
        "It computes the advantages of a smaller λ than asked for: more bias.",
        "Multiply the trace by gamma * gae_lambda, once.",
    ),
    "gamma-in-the-trace": (
        "Far rewards count for more, or for less, than the discounted return says.",
        "Multiply the trace by gamma * gae_lambda.",
    ),
    "gamma-used": (
        "It learns for another horizon: half of it with γ², and one without end without γ.",
        "Discount once per step: multiply the bootstrap and the trace by gamma.",
    ),
    "done-flag-aligned": (
        "The bootstrap is dropped from an ordinary step, and kept past a terminal one.",
        "done[t] says whether step t ended its episode: use (1 - done[t]) at step t.",
    ),
    "baseline-subtracted": (
        "An actor that is given targets reinforces every action in a good state: the variance of "
        "the policy gradient grows by that of V².",
        "advantage = target - value.",
    ),
    "sign": ("The actor unlearns what was good.", "advantage = target - value."),
    "returns-include-value": (
        "The critic is trained towards the advantage, whose mean is zero: it forgets the value.",
        "returns = advantages + values.",
    ),
    "returns-discounted-backwards": ("Late rewards count for less, seen from anywhere.", _SUM),
    "returns-from-now-on": (
        "Actions are credited with rewards that came before them: noise.",
        _SUM,
    ),
    "returns-in-order": (
        "Every action is credited with another step's return.",
        "returns.insert(0, G), or reverse the list at the end",
    ),
    "rho-and-c-clips": _RATIO,
    "clips-applied": _RATIO,
    "ratio-of-target-to-behaviour": _RATIO,
    "targets-include-value": (
        "The critic is trained towards corrections, whose mean is zero.",
        "vs = values + corrections.",
    ),
    "time-axis": (
        "Rewards of one environment are credited to another.",
        "Arrays here are [T, B]: run over the first axis. (If yours are [B, T] on purpose, say "
        "layout BT.)",
    ),
    "normalisation-axis": (
        "Differences between environments or times are erased, which it is there to show.",
        "Subtract the mean and divide by the deviation of the whole batch.",
    ),
}


def but(**changes: Any) -> Wrong:
    """The quantity on a trajectory of other numbers, or of what functions say of it."""

    def wrong(x: Trajectory, of: Quantity) -> Numbers:
        return of(x.but(**{k: v(x) if callable(v) else v for k, v in changes.items()}))

    return wrong


def shifted(x: Numbers, by: int, fill: Any) -> Numbers:
    """Flags one row late (by = 1: row t has that of t − 1) or early (by = −1)."""
    edge = np.broadcast_to(np.asarray(fill, bool), x[:1].shape)
    return np.concatenate([edge, x[:-1]] if by == 1 else [x[1:], edge])


def _misaligned(x: Trajectory, of: Quantity, by: int, same: bool, flags: list[str]) -> Numbers:
    edge = (x.ended[-1] if by == -1 else x.before) if same else False
    ends = {"terminated": edge, "truncated": False, "cut": edge}
    return of(x.but(**{name: shifted(getattr(x, name), by, ends[name]) for name in flags}))


def _none(x: Trajectory) -> Numbers:
    return np.zeros(x.rewards.shape, bool)


def _last(factor: Callable[[Trajectory], float]) -> Wrong:
    """The value after the last step, times a factor."""
    return but(next_values=lambda x: replace_last(x.next_values, factor(x) * x.next_values[-1]))


def _reset(x: Trajectory, of: Quantity, following: Quantity) -> Numbers:
    """After a time limit it takes the value of what is observed next."""
    values = np.where(x.truncated, following(x), x.next_values)
    return of(x.but(terminated=x.terminated & ~x.truncated, next_values=values))


# The likelier first.
COMMON = [
    Mistake(
        "truncation-bootstraps",
        "The bootstrap is zeroed where a time limit cut the episode.",
        but(terminated=lambda x: x.ended),
    ),
    *(
        Mistake(
            "bootstrap-from-true-successor",
            "After a time limit it bootstraps from values[t + 1], which is the value of the next "
            "episode's first observation.",
            partial(_reset, following=following),
        )
        for following in (
            lambda x: x.following,
            lambda x: replace_last(x.following, x.next_values[-1]),
        )
    ),
    Mistake(
        "termination-drops-bootstrap",
        "It bootstraps past a terminal state, from NEXT.",
        but(terminated=_none),
    ),
    Mistake(
        "termination-drops-bootstrap",
        "It bootstraps past a terminal state, from values[t + 1] of the next episode.",
        but(
            terminated=_none,
            next_values=lambda x: np.where(x.terminated, x.following, x.next_values),
        ),
    ),
    Mistake(
        "trace-cut-at-episode-end",
        "The sum is not stopped at a time limit: it runs on into the next episode.",
        but(cut=lambda x: x.terminated & ~x.truncated),
    ),
    Mistake(
        "trace-cut-at-episode-end",
        "The sum is not stopped where an episode ends: it runs on into the next one.",
        but(cut=_none),
    ),
    Mistake(
        "trace-cut-at-episode-end",
        "Ends are ignored: the sum and its bootstrap run over them into the next episode.",
        but(cut=_none, terminated=_none),
        mend="Stop at every end: multiply the bootstrap and the trace by (1 - done).",
    ),
    Mistake(
        "last-bootstrap-used",
        "The value of the observation after the last step is not used.",
        _last(lambda x: 0.0),
    ),
    Mistake(
        "last-bootstrap-once", "The value after the last step is added twice.", _last(lambda x: 2.0)
    ),
    Mistake(
        "last-bootstrap-once",
        "The value after the last step is added to the last reward and bootstrapped from too.",
        but(
            rewards=lambda x: replace_last(x.rewards, x.rewards[-1] + x.gamma * x.following[-1]),
        ),
    ),
    Mistake(
        "bootstrap-discounted",
        "γ is missing on the bootstrapped value.",
        but(next_values=lambda x: x.next_values / x.gamma),
    ),
    Mistake(
        "bootstrap-discounted",
        "γ is missing on the value after the last step.",
        _last(lambda x: 1 / x.gamma),
        "The end of each batch looks better than it is.",
        "Discount it as every other: gamma * last_value.",
    ),
    Mistake(
        "lambda-applied-once",
        "λ is omitted: its trace decays by γ instead of γλ.",
        but(lam=1.0),
        "It computes Monte Carlo advantages: all of the variance that λ was to remove.",
    ),
    Mistake(
        "lambda-applied-once",
        "λ is applied twice: the trace decays by γλ².",
        but(lam=lambda x: x.lam**2),
    ),
    Mistake(
        "lambda-applied-once",
        "λ is applied to the bootstrapped value as well as to the trace.",
        but(next_values=lambda x: x.next_values * x.lam),
        "The critic's error no longer fades: targets are wrong however long it learns.",
        "λ belongs to the trace only: delta = reward + gamma * next_value - value.",
    ),
    Mistake(
        "lambda-applied-once",
        "λ is ignored: only the TD error of each step is returned.",
        but(lam=0.0),
        "It computes λ = 0: least variance, and all of the critic's bias.",
        "Add gamma * gae_lambda times the next step's advantage.",
    ),
    Mistake(
        "gamma-in-the-trace",
        "γ is missing in the trace, which decays by λ alone.",
        but(lam=lambda x: x.lam / x.gamma),
    ),
    Mistake(
        "gamma-in-the-trace",
        "γ is applied twice in the trace.",
        but(lam=lambda x: x.lam * x.gamma),
    ),
    Mistake("gamma-used", "γ is ignored: nothing is discounted.", but(gamma=1.0)),
    Mistake("gamma-used", "γ is applied twice at every step.", but(gamma=lambda x: x.gamma**2)),
    *(
        Mistake(
            "done-flag-aligned",
            f"The done flag{part} is shifted by one: step t uses that of step {row}.",
            partial(_misaligned, by=by, same=same, flags=flags.split()),
        )
        for by, row in ((-1, "t + 1"), (1, "t - 1"))
        for same in (False, True)
        for part, flags in (
            ("", "terminated truncated cut"),
            (" of the bootstrap", "terminated truncated"),
            (" of the trace", "cut"),
        )
    ),
]
IN_ADVANTAGES = [
    Mistake(
        "baseline-subtracted",
        "It returns the target (the return), not the advantage: V(s_t) is not subtracted.",
        lambda x, of: of(x) + x.values,
    ),
    Mistake(
        "baseline-subtracted",
        "It returns the TD target r + γV(s'), not an advantage.",
        lambda x, of: td_errors(x) + x.values,
    ),
    Mistake("sign", "Its sign is wrong: value minus target.", lambda x, of: -of(x)),
]
IN_RETURNS = [
    Mistake(
        "gamma-used",
        "The step's own reward is discounted too: the whole sum is multiplied by γ once more.",
        lambda x, of: x.gamma * of(x),
        "All values are too small by a factor γ.",
        _SUM,
    ),
    Mistake(
        "termination-drops-bootstrap",
        "The done flag is used inverted: the target bootstraps only at terminations.",
        but(terminated=lambda x: ~x.terminated),
        "Values are one-step rewards; nothing later is learnt.",
        _TARGET,
    ),
    Mistake(
        "bootstrap-discounted",
        "γ multiplies the reward as well.",
        but(rewards=lambda x: x.gamma * x.rewards),
        "All values are too small by a factor γ.",
        _TARGET,
    ),
    Mistake(
        "returns-discounted-backwards",
        "The discount is applied to the past: reward t is multiplied by γ^t, and not summed.",
        lambda x, of: x.rewards * (x.gamma ** np.arange(len(x.rewards)))[:, None],
    ),
    Mistake(
        "returns-from-now-on",
        "Every step is given the return of the whole episode, or the past's rewards, not its own.",
        lambda x, of: np.cumsum(x.rewards, 0),
    ),
    Mistake(
        "returns-in-order",
        "The returns are in reversed order: step t has that of step T − 1 − t.",
        lambda x, of: of(x)[::-1],
    ),
    Mistake(
        "bootstrap-from-true-successor",
        "It bootstraps from the value of the state itself, V(s), not of the next state.",
        but(next_values=lambda x: x.values),
        "Values settle at r / (1 − γ) of each state by itself: nothing later is learnt.",
        _TARGET,
    ),
    Mistake(
        "termination-drops-bootstrap",
        "truncated is taken for terminated: it bootstraps past terminations, and not at time "
        "limits.",
        but(terminated=lambda x: x.truncated),
        "A terminal state is given a future, and the states before a time limit none.",
        "Use terminated in (1 - terminated), never truncated.",
    ),
    Mistake(
        "returns-stop-at-episode-end",
        "Ends are ignored but for the last one: sums run over them into the next episode.",
        but(
            cut=lambda x: replace_last(_none(x), x.cut[-1]),
            terminated=lambda x: replace_last(_none(x), x.ended[-1]),
            next_values=lambda x: np.where(x.ended, x.following, x.next_values),
        ),
    ),
    Mistake(
        "returns-include-value",
        "It returns advantages: V(s_t) was not added back.",
        lambda x, of: of(x) - x.values,
    ),
]
IN_VTRACE = [
    Mistake(
        "rho-and-c-clips",
        "The clips of ρ and c are swapped.",
        but(rho_clip=lambda x: x.c_clip, c_clip=lambda x: x.rho_clip),
    ),
    Mistake("rho-and-c-clips", "c is clipped at ρ's clip.", but(c_clip=lambda x: x.rho_clip)),
    Mistake("rho-and-c-clips", "ρ is clipped at c's clip.", but(rho_clip=lambda x: x.c_clip)),
    Mistake("clips-applied", "ρ is not clipped.", but(rho_clip=np.inf)),
    Mistake("clips-applied", "c is not clipped.", but(c_clip=np.inf)),
    Mistake("clips-applied", "Neither ρ nor c is clipped.", but(c_clip=np.inf, rho_clip=np.inf)),
    Mistake(
        "ratio-of-target-to-behaviour",
        "The importance ratio is inverted: μ / π.",
        but(ratio=lambda x: 1 / x.ratio),
    ),
    Mistake(
        "ratio-of-target-to-behaviour",
        "The importance ratio is not used.",
        but(ratio=lambda x: x.ratio**0, rho_clip=1.0, c_clip=1.0),
    ),
]
_WITHOUT_VALUE = Mistake(
    "targets-include-value",
    "It returns v - V: V(x_s) was not added.",
    lambda x, of: of(x) - x.values,
)
_TABLES = {
    "advantages": [*COMMON, *IN_ADVANTAGES],
    "returns": [*COMMON, *IN_RETURNS],
    "vtrace": [*IN_VTRACE, *COMMON, _WITHOUT_VALUE],
}
# What has to be known before it can be told.
NEEDS = {
    "lambda-applied-once": {"lam"},
    "gamma-used": {"gamma"},
    "gamma-in-the-trace": {"gamma", "lam"},
}
CUT = "trace-cut-at-episode-end"
STOPS = {"returns": "returns-stop-at-episode-end"}  # of a kind that has no trace


def table(kind: str, successors: bool) -> list[Mistake]:
    """Wrong definitions, the likelier first. `successors`: it is given V(s_{t+1}) of every step."""
    following = "next_values[t]" if successors else "values[t + 1]"
    rows = []
    for row in _TABLES[kind]:
        effect, mend = row.effect or CHECKS[row.check][0], row.mend or CHECKS[row.check][1]
        check = STOPS.get(kind, CUT) if row.check == CUT else row.check
        wrong, mend = (text.replace("NEXT", following) for text in (row.wrong, mend))
        rows.append(Mistake(check, wrong, row.way, effect, mend))
    return rows
