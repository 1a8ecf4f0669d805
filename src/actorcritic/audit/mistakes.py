"""Known mistakes in estimates, a row each: a wrong definition, and what to say about it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from actorcritic.audit.findings import Fault
from actorcritic.audit.truths import Numbers, Trajectory, replace_last, td_errors


class Mistake(NamedTuple):
    """A wrong definition, as a change of the trajectory or of the result, and its words."""

    check: str
    wrong: str
    effect: str
    mend: str
    change: Callable[[Trajectory], Trajectory] | None = None
    after: Callable[[Trajectory, Numbers], Numbers] | None = None

    @property
    def fault(self) -> Fault:
        return Fault(self.check, self.wrong, self.effect, self.mend)

    def applied(self, x: Trajectory, quantity: Callable[[Trajectory], Numbers]) -> Numbers:
        """The quantity, with this mistake in it."""
        x = self.change(x) if self.change else x
        y = quantity(x)
        return self.after(x, y) if self.after else y


def shifted(x: Numbers, by: int, fill: Any) -> Numbers:
    """Flags one row late (by = 1: row t has that of t − 1) or early (by = −1)."""
    edge = np.broadcast_to(np.asarray(fill, bool), x[:1].shape)
    return np.concatenate([edge, x[:-1]] if by == 1 else [x[1:], edge])


def _misaligned(x: Trajectory, by: int, fill: str, part: str, successors: bool) -> Trajectory:
    edge = {"no": False, "same": x.ended[-1] if by == -1 else x.before}[fill]
    moved = {
        "terminated": shifted(x.terminated, by, edge),
        "truncated": shifted(x.truncated, by, False),
        "cut": shifted(x.cut, by, edge),
    }
    moved = (
        moved if part == "all" else {k: moved[k] for k in moved if (k == "cut") == (part == "cut")}
    )
    return x.but(**moved, next_values=x.next_values if successors else x.following)


_BIAS = "The critic's error no longer fades: targets are wrong however long it learns."
_LIMIT = (
    "Every state near a time limit is taught that the future is worth nothing, although the "
    "task goes on: values are biased towards zero."
)
_LEAK = "Steps are credited with rewards of another episode, which they did not cause."


def table(kind: str, successors: bool) -> list[Mistake]:
    """Wrong definitions, the likelier first. `successors`: it is given V(s_{t+1}) of every step."""
    given = "next_values[t]" if successors else "values[t + 1]"
    cut = "returns-stop-at-episode-end" if kind == "returns" else "trace-cut-at-episode-end"

    def unmasked(x: Trajectory) -> Numbers:
        return x.next_values if successors else np.where(x.ended, x.following, x.next_values)

    none = partial(np.zeros_like, dtype=bool)
    list_ = [
        Mistake(
            "truncation-bootstraps",
            "The bootstrap is zeroed where a time limit cut the episode.",
            _LIMIT,
            "Zero the bootstrap with `terminated` only: delta = reward + gamma * "
            "(1 - terminated) * next_value - value.",
            lambda x: x._replace(terminated=x.terminated | x.truncated),
        ),
        *(
            Mistake(
                "bootstrap-from-true-successor",
                "After a time limit it bootstraps from values[t + 1], which is the value of the "
                "next episode's first observation.",
                "The value of a start state stands for the value of the state that was cut off: "
                "long episodes are taught to be worth as much as new ones.",
                "Give it the value of the last observation of each episode (next_values[t]) and "
                "use that where the episode was truncated.",
                lambda x, after=after: x._replace(  # type: ignore[misc]
                    terminated=x.terminated & ~x.truncated,
                    next_values=np.where(x.truncated, after(x), x.next_values),
                ),
            )
            for after in (
                lambda x: x.following,
                lambda x: replace_last(x.following, x.next_values[-1]),
            )
        ),
        Mistake(
            "termination-drops-bootstrap",
            f"It bootstraps past a terminal state, from {given}.",
            "A terminal state is worth 0; here failing leads to a fresh future, so failing looks "
            "harmless.",
            f"Multiply the bootstrap by (1 - terminated): gamma * (1 - terminated[t]) * {given}"
            + (", or give it next values that are 0 there." if successors else "."),
            lambda x: x._replace(terminated=none(x.terminated), next_values=unmasked(x)),
        ),
        Mistake(
            "termination-drops-bootstrap",
            "It bootstraps past a terminal state, from values[t + 1] of the next episode.",
            "A terminal state is worth 0; here failing leads to a fresh future, so failing looks "
            "harmless.",
            "Multiply the bootstrap by (1 - terminated).",
            lambda x: x._replace(
                terminated=none(x.terminated),
                next_values=np.where(x.terminated, x.following, x.next_values),
            ),
        ),
        Mistake(
            cut,
            "The sum is not stopped at a time limit: it runs on into the next episode.",
            _LEAK,
            "Stop the sum at every end: multiply the trace by (1 - (terminated | truncated)).",
            lambda x: x._replace(cut=x.terminated & ~x.truncated),
        ),
        Mistake(
            cut,
            "The sum is not stopped where an episode ends: it runs on into the next one.",
            _LEAK,
            "Stop the sum at every end: multiply the trace by (1 - done).",
            lambda x: x._replace(cut=none(x.cut)),
        ),
        Mistake(
            cut,
            "Ends are ignored: the sum and its bootstrap run over them into the next episode.",
            _LEAK,
            "Stop at every end: multiply the bootstrap and the trace by (1 - done).",
            lambda x: x._replace(cut=none(x.cut), terminated=none(x.cut), next_values=unmasked(x)),
        ),
        Mistake(
            "last-bootstrap-used",
            "The value of the observation after the last step is not used.",
            "Each batch ends as if the episode did: the last steps look worse than they are.",
            "Bootstrap the last step: gamma * (1 - terminated[-1]) * last_value.",
            lambda x: x._replace(next_values=replace_last(x.next_values, 0 * x.next_values[-1])),
        ),
        Mistake(
            "last-bootstrap-once",
            "The value after the last step is added twice.",
            "The end of each batch looks better than it is, and with it the steps before.",
            "Add last_value once: either to the last reward or as the last step's next value.",
            lambda x: x._replace(next_values=replace_last(x.next_values, 2 * x.next_values[-1])),
        ),
        Mistake(
            "last-bootstrap-once",
            "The value after the last step is added to the last reward and bootstrapped from too.",
            "The end of each batch looks better than it is, and with it the steps before.",
            "Add last_value once: either to the last reward or as the last step's next value.",
            lambda x: x._replace(
                rewards=replace_last(x.rewards, x.rewards[-1] + x.gamma * x.following[-1])
            ),
        ),
        Mistake(
            "bootstrap-discounted",
            "γ is missing on the bootstrapped value.",
            "The value it converges to is not that of the discounted return; with γ missing it "
            "may not converge at all.",
            f"delta = reward + gamma * {given} - value.",
            lambda x: x._replace(next_values=x.next_values / x.gamma),
        ),
        Mistake(
            "bootstrap-discounted",
            "γ is missing on the value after the last step.",
            "The end of each batch looks better than it is.",
            "Discount it as every other: gamma * last_value.",
            lambda x: x._replace(
                next_values=replace_last(x.next_values, x.next_values[-1] / x.gamma)
            ),
        ),
        Mistake(
            "lambda-applied-once",
            "λ is omitted: its trace decays by γ instead of γλ.",
            "It computes Monte Carlo advantages: no bias, and all of the variance that λ was to "
            "remove.",
            "Multiply the trace by gamma * gae_lambda.",
            lambda x: x._replace(lam=1.0),
        ),
        Mistake(
            "lambda-applied-once",
            "λ is applied twice: the trace decays by γλ².",
            "It computes the advantages of a smaller λ than asked for: more bias.",
            "Multiply the trace by gamma * gae_lambda, once.",
            lambda x: x._replace(lam=x.lam**2),
        ),
        Mistake(
            "lambda-applied-once",
            "λ is applied to the bootstrapped value as well as to the trace.",
            _BIAS,
            "λ belongs to the trace only: delta = reward + gamma * next_value - value.",
            lambda x: x._replace(next_values=x.next_values * x.lam),
        ),
        Mistake(
            "lambda-applied-once",
            "λ is ignored: only the TD error of each step is returned.",
            "It computes λ = 0: least variance, and all of the critic's bias.",
            "Add gamma * gae_lambda times the next step's advantage.",
            lambda x: x._replace(lam=0.0),
        ),
        Mistake(
            "gamma-in-the-trace",
            "γ is missing in the trace, which decays by λ alone.",
            "Far rewards count more than the discounted return says.",
            "Multiply the trace by gamma * gae_lambda.",
            lambda x: x._replace(lam=x.lam / x.gamma),
        ),
        Mistake(
            "gamma-in-the-trace",
            "γ is applied twice in the trace.",
            "Far rewards count less than the discounted return says.",
            "Multiply the trace by gamma * gae_lambda.",
            lambda x: x._replace(lam=x.lam * x.gamma),
        ),
        Mistake(
            "gamma-used",
            "γ is ignored: nothing is discounted.",
            "Values grow without bound where episodes do.",
            "Multiply the bootstrap and the trace by gamma.",
            lambda x: x._replace(gamma=1.0),
        ),
        Mistake(
            "gamma-used",
            "γ is applied twice at every step.",
            "It learns with γ² instead of γ: half of the horizon.",
            "Discount once per step.",
            lambda x: x._replace(gamma=x.gamma**2),
        ),
    ]
    for by, fill, part in itertools.product((-1, 1), ("no", "same"), ("all", "mask", "cut")):
        row = "t + 1" if by == -1 else "t - 1"
        what = {
            "all": "The done flag",
            "mask": "The done flag of the bootstrap",
            "cut": "The done flag of the trace",
        }
        list_.append(
            Mistake(
                "done-flag-aligned",
                f"{what[part]} is shifted by one: step t uses that of step {row}.",
                "One step too early or too late, the bootstrap is dropped from an ordinary step "
                "and kept past a terminal one.",
                "done[t] says whether step t ended its episode: use (1 - done[t]) at step t.",
                partial(_misaligned, by=by, fill=fill, part=part, successors=successors),
            )
        )
    if kind == "advantages":
        target = Mistake(
            "baseline-subtracted",
            "It returns the target (the return), not the advantage: V(s_t) is not subtracted.",
            "An actor that is given targets reinforces every action in a good state: the variance "
            "of the policy gradient grows by that of V².",
            "advantage = target - value.",
            None,
            lambda x, y: y + x.values,
        )
        one = target._replace(
            wrong="It returns the TD target r + γV(s'), not an advantage.",
            after=lambda x, y: td_errors(x) + x.values,
        )
        sign = Mistake(
            "sign",
            "Its sign is wrong: value minus target.",
            "The actor unlearns what was good.",
            "advantage = target - value.",
            None,
            lambda x, y: -y,
        )
        list_ += [target, one, sign]
    if kind == "returns":
        list_ += IN_RETURNS
        list_.append(
            Mistake(
                "returns-include-value",
                "It returns advantages: V(s_t) was not added back.",
                "The critic is trained towards the advantage, whose mean is zero: it forgets the "
                "value.",
                "returns = advantages + values.",
                None,
                lambda x, y: y - x.values,
            )
        )
    if kind == "vtrace":
        clips = (
            "rho_t = min(rho_bar, ratio) weighs delta_t; c_t = lambda * min(c_bar, ratio) is the "
            "trace."
        )
        effect = (
            "ρ̄ decides what is converged to and c̄ how fast: with other clips it converges to the "
            "values of another policy."
        )
        changes: list[tuple[str, str, Callable[[Trajectory], Trajectory]]] = [
            (
                "rho-and-c-clips",
                "The clips of ρ and c are swapped.",
                lambda x: x._replace(rho_clip=x.c_clip, c_clip=x.rho_clip),
            ),
            (
                "rho-and-c-clips",
                "c is clipped at ρ's clip.",
                lambda x: x._replace(c_clip=x.rho_clip),
            ),
            (
                "rho-and-c-clips",
                "ρ is clipped at c's clip.",
                lambda x: x._replace(rho_clip=x.c_clip),
            ),
            ("clips-applied", "ρ is not clipped.", lambda x: x._replace(rho_clip=np.inf)),
            ("clips-applied", "c is not clipped.", lambda x: x._replace(c_clip=np.inf)),
            (
                "clips-applied",
                "Neither ρ nor c is clipped.",
                lambda x: x._replace(c_clip=np.inf, rho_clip=np.inf),
            ),
            (
                "ratio-of-target-to-behaviour",
                "The importance ratio is inverted: μ / π.",
                lambda x: x._replace(ratio=1 / x.ratio),
            ),
            (
                "ratio-of-target-to-behaviour",
                "The importance ratio is not used.",
                lambda x: x._replace(ratio=np.ones_like(x.ratio), rho_clip=1.0, c_clip=1.0),
            ),
        ]
        list_ = [Mistake(c, w, effect, clips, change) for c, w, change in changes] + list_
        list_.append(
            Mistake(
                "targets-include-value",
                "It returns v - V: V(x_s) was not added.",
                "The critic is trained towards corrections, whose mean is zero.",
                "vs = values + corrections.",
                None,
                lambda x, y: y - x.values,
            )
        )
    return list_


IN_RETURNS = [
    Mistake(
        "gamma-used",
        "The step's own reward is discounted too: the whole sum is multiplied by γ once more.",
        "All values are too small by a factor γ.",
        "G[t] = r[t] + gamma * G[t + 1]: the step's own reward has the factor 1.",
        None,
        lambda x, y: x.gamma * y,
    ),
    Mistake(
        "termination-drops-bootstrap",
        "The done flag is used inverted: the target bootstraps only at terminations.",
        "Values are one-step rewards; nothing later is learnt.",
        "target = rewards + gamma * (1 - terminated) * next_values",
        lambda x: x._replace(terminated=~x.terminated),
    ),
    Mistake(
        "bootstrap-discounted",
        "γ multiplies the reward as well.",
        "All values are too small by a factor γ.",
        "target = rewards + gamma * (1 - terminated) * next_values",
        lambda x: x._replace(rewards=x.gamma * x.rewards),
    ),
    Mistake(
        "returns-discounted-backwards",
        "The discount is applied to the past: reward t is multiplied by γ^t, and not summed.",
        "Late rewards count for less wherever they are seen from.",
        "G[t] = r[t] + gamma * G[t + 1], from the end",
        None,
        lambda x, y: x.rewards * (x.gamma ** np.arange(len(x.rewards)))[:, None],
    ),
    Mistake(
        "returns-from-now-on",
        "Every step is given the return of the whole episode, or the past's rewards, not its own.",
        "Actions are credited with rewards that came before them: noise.",
        "G[t] = r[t] + gamma * G[t + 1], from the end",
        None,
        lambda x, y: np.cumsum(x.rewards, 0),
    ),
    Mistake(
        "returns-in-order",
        "The returns are in reversed order: step t has that of step T − 1 − t.",
        "Every action is credited with another step's return.",
        "returns.insert(0, G), or reverse the list at the end",
        None,
        lambda x, y: y[::-1],
    ),
    Mistake(
        "bootstrap-from-true-successor",
        "It bootstraps from the value of the state itself, V(s), not of the next state.",
        "Values settle at r / (1 − γ) of each state by itself: nothing later is learnt.",
        "target = reward + gamma * (1 - terminated) * V(next_state)",
        lambda x: x._replace(next_values=x.values),
    ),
    Mistake(
        "termination-drops-bootstrap",
        "truncated is taken for terminated: it bootstraps past terminations, and not at time "
        "limits.",
        "A terminal state is given a future, and the states before a time limit none.",
        "Use terminated in (1 - terminated), never truncated.",
        lambda x: x._replace(terminated=x.truncated),
    ),
    Mistake(
        "returns-stop-at-episode-end",
        "Ends are ignored but for the last one: sums run over them into the next episode.",
        _LEAK,
        "Stop the sum at every end: multiply it by (1 - done[t]).",
        lambda x: x._replace(
            cut=replace_last(np.zeros_like(x.cut), x.cut[-1]),
            terminated=replace_last(np.zeros_like(x.cut), x.ended[-1]),
            next_values=np.where(x.ended, x.following, x.next_values),
        ),
    ),
]
