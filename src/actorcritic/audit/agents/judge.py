"""What a recording shows: whose gradient reached the policy and the values, and what it was of.

Each backward() is held against the readings of losses/rows.py, by the gradient of every row: no
number of the code's own is needed but what its networks said and what the environment gave.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from actorcritic.audit.agents.tape import Event, Output, Policy, Tape, Transition
from actorcritic.audit.findings import UNJUDGED, WRONG, Fault, Ledger, as_numbers
from actorcritic.audit.losses import rows as loss_rows
from actorcritic.audit.losses.cases import LOG_2PI, Case, Reading, normal
from actorcritic.audit.losses.rows import DEAD, SIGNS, SOFTMAX, leak

CLOSE = 3e-3  # relative: gradients are float32
ROWS = 12  # of a batch, whose gradients are compared
EVENTS = 4  # of a kind, that are compared, beside some with ends


class Numbers(NamedTuple):
    """What stands in the code, where γ, λ and ε may be."""

    gammas: tuple[float, ...]
    lams: tuple[float, ...]
    clips: tuple[float, ...]


class Part(NamedTuple):
    """One backward, as far as one thing goes: gradients by the rows of a case."""

    x: Case
    role: str  # log_probs or values: what the gradient is of
    rows: np.ndarray  # which of its rows are compared
    gradient: np.ndarray  # [rows, …] of the loss by what the network said there
    slopes: np.ndarray  # [rows, D] of the role by the same
    bonus: np.ndarray  # [rows, D] of minus the mean entropy
    free: int = 0  # how many numbers of the gradient do not follow from others
    several: bool = False  # the gradient is a sum over distributions at the same states


class Fit(NamedTuple):
    reading: Reading
    scale: float  # of the mean over the batch
    bonus: float  # that of the entropy
    error: float  # relative


STALE = Fault(
    "gradients-zeroed",
    "gradients of earlier updates are added to the next: zero_grad is not called",
    "Each step repeats all the steps before it; the batch that it was meant for drowns in them.",
    "optimizer.zero_grad() before loss.backward()",
)
UNOPTIMISED = Fault(
    "optimiser-parameters",
    "no optimiser has the parameters of a network that the loss trains",
    "They are never changed: what they compute stays as it was drawn at the beginning.",
    "Give each network's parameters to an optimiser: Adam(critic.parameters(), …).",
)
NO_POLICY = DEAD["policy"]._replace(
    wrong="no gradient reaches the policy: nothing that is minimised depends on it",
    mend="Do not detach the log-probabilities, and do not compute them under no_grad.",
)
OLD_LIVE = leak("policy", "old_log_probs")._replace(
    wrong="the old log-probability is computed anew with its gradient: the ratio is always one, "
    "and the policy term has no gradient",
    effect="The actor learns from the entropy bonus alone.",
    mend="old_log_probs = … under torch.no_grad(), before the first epoch",
)


def unexplained(check: str, wrong: str, tried: str) -> Fault:
    return Fault(check, wrong, f"Nothing is said of it. {tried}", "", UNJUDGED)


NO_SUM = "It is no sum of ∇ log π of the actions and ∇ H, whatever the weights."
SHOWN = (
    *("rewards", "dones", "truncated", "values", "next_values", "returns", "advantages"),
    *("log_probs", "old_log_probs"),
)


@dataclass
class Judge(Ledger):
    """The findings of one recording."""

    tape: Tape = field(kw_only=True)
    numbers: Numbers = field(kw_only=True)
    whole: bool = False  # all of what it does was seen
    drawn: bool = False  # actions are taken as drawn, not as the environment got them
    windows: dict[tuple[int, ...], Case] = field(default_factory=dict)
    judged: int = 0  # backwards that are explained

    def verdict(self, fault: Fault, is_so: bool, example: str = "", seen: bool = True) -> None:
        """It is wrong, or it holds where there was something to see of it."""
        if is_so:
            self.fail(fault, example)
        elif seen:
            self.hold(fault.check)

    # -- what needs no definition

    def general(self) -> None:
        tape = self.tape
        example = "the second update: its gradient is the sum of the first two"
        self.verdict(STALE, tape.stale, example, tape.steps > 1)
        discrete = [p for p in tape.policies if p.probs is not None]
        p = next((p.probs for p in discrete if p.softmax_twice), np.zeros((1, 1)))
        example = f"{p.shape[1]} actions; the largest probability seen is {p.max():.3f}"
        self.verdict(SOFTMAX, bool(p.any()), example, bool(discrete))
        left = set(self.left_alone()) if tape.stepped else set()
        fault = UNOPTIMISED._replace(wrong=f"{UNOPTIMISED.wrong}: {min(left, default='')}")
        example = "its gradient is not 0, and its parameters are the same after every step"
        self.verdict(fault, bool(left), example, tape.steps > 0)

    def left_alone(self) -> Iterator[str]:
        """Networks that gradients reach, and that no optimiser has."""
        for module in {o.module for e in self.tape.events for o, _ in e.outputs}:
            own = [p for p in module.parameters() if p.requires_grad]
            still = all((p == self.tape.initial[p]).all() for p in own)
            if own and still and self.tape.stepped.isdisjoint(own):
                yield f"{type(module).__name__} with {sum(p.numel() for p in own)} numbers"

    # -- which rows of which case

    def parts(self, event: Event) -> Iterator[Part]:
        """The gradients by policies and by values, each with the case that they belong to."""
        for policy, flow, several in _merged(event.policies):
            if (steps := self.steps_of(policy.states, event)) is not None:
                actions = [self.action(self.tape.transitions[k], policy) for k in steps]
                logs, entropy, slopes, by_entropy = _said(policy, actions)
                x, rows = self.case(steps, event), _spread(len(steps), ROWS)
                x["log_probs"], x["entropy"] = logs, entropy
                bonus, free = -by_entropy[rows] / len(steps), slopes[rows].size
                free -= 0 if policy.probs is None else len(rows)
                yield Part(x, "log_probs", rows, flow[rows], slopes[rows], bonus, free, several)
        heads: dict[tuple[int, int], list[tuple[Output, np.ndarray]]] = defaultdict(list)
        for output, gradient in event.outputs:
            if self.is_value(output):
                heads[output.head].append((output, gradient))
        for same in heads.values():
            states = [s for output, _ in same for s in output.states]
            whole = len(set(states)) == len(states)
            for group in [same] if whole else [[one] for one in same]:
                steps = self.steps_of([s for output, _ in group for s in output.states], event)
                if steps is not None:
                    x, rows = self.case(steps, event), _spread(len(steps), ROWS)
                    x["values"] = np.concatenate([output.numbers for output, _ in group])
                    flow = np.concatenate([gradient for _, gradient in group])
                    one = np.ones((len(rows), 1))
                    yield Part(x, "values", rows, flow[rows], one, 0 * one)

    @functools.cached_property
    def asked(self) -> dict[int, list[tuple[Policy, int]]]:
        """The policies that were made at a state, and in which of their rows."""
        found = defaultdict(list)
        for policy in self.tape.policies:
            for row, state in enumerate(policy.states):
                found[state].append((policy, row))
        return found

    def action(self, step: Transition, policy: Policy) -> Any:
        """As it was first drawn, where the environment was given a clipped one."""
        if not self.drawn or policy.means is None:
            return step.action
        asked = self.asked.get(step.state, ())
        drawn = (p.drawn[row] for p, row in asked if p.draws and p.means is not None)
        return next(drawn, step.action)

    def is_value(self, output: Output) -> bool:
        """Whether it is a number for each state, and no policy has it for mean or deviation."""
        if output.numbers.ndim > 1 or output.actions is not None:
            return False
        column = output.numbers[:, None]
        asked = (p for p, _ in self.asked.get(output.states[0], ()) if p.states == output.states)
        normal = [p for p in asked if p.means is not None and p.means.shape[1] == 1]
        return not any(np.allclose(own, column) for p in normal for own in (p.means, p.stds))

    def steps_of(self, states: Sequence[int], event: Event) -> list[int] | None:
        """The steps that began in these states, the latest of each."""
        latest = {t.state: k for k, t in enumerate(self.tape.transitions[: event.clock])}
        found = [latest.get(s) for s in states]
        return None if None in found else [k for k in found if k is not None]

    def case(self, steps: list[int], event: Event) -> Case:
        """The rows of a batch, and the window of steps that their targets are taken from."""
        window, index = list(range(event.begin, event.clock)), np.array(steps) - event.begin
        if min(index) < 0:  # from a replay buffer: each row by itself
            window, index = steps, np.arange(len(steps))
        place = (*window, -event.since)
        if place not in self.windows:
            self.windows[place] = self.known([self.tape.transitions[k] for k in window], event)
        x = self.windows[place]
        flat = {r: v.ravel()[index] if isinstance(v, np.ndarray) else v for r, v in x.items()}
        batch = Case(flat, actions=np.zeros(len(steps), int))  # actions tell the shape
        batch.window, batch.index = x, index
        return batch

    def known(self, chain: list[Transition], event: Event) -> Case:
        """What is known of a window of steps: their rewards and ends, and what networks said."""
        values = self.values_at([t.state for t in chain], event)
        x = Case(
            rewards=np.array([t.reward for t in chain]),
            dones=np.array([float(t.terminated) for t in chain]),
            truncated=np.array([float(t.truncated) for t in chain]),
        )
        if not np.isnan(values).all():
            x["values"] = x["old_values"] = values
            x["next_values"] = self.values_at([t.following for t in chain], event)
        logs = self.old_log_probs(chain, event)
        if logs is not None:
            x["old_log_probs"] = logs
        for role in chain[0].given:
            x[role] = np.array([t.given[role] for t in chain])
        envs = sorted({t.env for t in chain})
        if [t.env for t in chain] == envs * (len(chain) // len(envs)):  # side by side: [T, B]
            return Case({r: v.reshape(-1, len(envs)) for r, v in x.items()})
        return x

    @functools.cached_property
    def valued(self) -> dict[int, list[tuple[int, float]]]:
        """All that value networks said of a state, in its order."""
        outputs = [o for event in self.tape.events for o, _ in event.outputs]
        heads = {o.head for o in outputs if self.is_value(o)}
        found = defaultdict(list)
        for output in self.tape.outputs:
            if output.head in heads and output.numbers.ndim == 1:
                for state, number in zip(output.states, output.numbers.tolist(), strict=True):
                    found[state].append((output.order, number))
        return found

    def values_at(self, states: list[int], event: Event) -> np.ndarray:
        """The first number that a value network gave for each state in this phase; NaN if none."""

        def first(state: int) -> float:
            said = self.valued.get(state, ())
            return next((number for order, number in said if order > event.since), np.nan)

        return np.array([first(state) for state in states])

    def old_log_probs(self, chain: list[Transition], event: Event) -> np.ndarray | None:
        """log π of the actions when they were first asked for in this phase."""
        if "old_log_probs" in chain[0].given:
            return None
        found = []
        for t in chain:
            asked = self.asked.get(t.state, ())
            first = next(((p, row) for p, row in asked if p.order > event.since), None)
            if first is None:
                return None
            policy, row = first
            found.append(_said(policy, [self.action(t, policy)], [row])[0][0])
        return np.array(found)

    # -- the terms

    def terms(self) -> None:
        """The policy's and the value's, in every backward."""
        tape = self.tape
        parts = [part for event in tape.events for part in self.parts(event)]
        for name, role in (("policy", "log_probs"), ("value", "values")):
            chosen = _telling([part for part in parts if part.role == role])
            if chosen:
                self.term(name, chosen)
        acted = any(t.requires_grad for p in tape.policies for t in p.roots.values())
        trained = any(event.policies for event in tape.events) or tape.elsewhere
        if tape.events and acted and not trained:
            # A program may have been stopped before its policy's turn.
            self.fail(NO_POLICY._replace(severity=WRONG if self.whole else UNJUDGED), "")

    def term(self, name: str, parts: list[Part]) -> None:
        """−log π A, with its entropy bonus; or the critic's error."""
        roles, n = self.roles(parts), self.numbers
        if name == "policy":
            if all(map(_entropy_only, parts)):
                fault = OLD_LIVE if any(p.several for p in parts) else DEAD["policy"]
                self.fail(fault, _example(parts[0]))
                return
            moved = any(_moved(part.x) for part in parts)
            roles -= {"entropy"} if moved else {"entropy", "old_log_probs"}
            sums = all(map(_is_sum, parts))
            made = loss_rows.policy(roles, n.clips, n.gammas, n.lams, False) if sums else []
        else:
            roles -= {"log_probs", "old_log_probs", "entropy"}
            roles -= {"advantages"} if "returns" not in roles and "rewards" in roles else set()
            made = loss_rows.value(roles, n.clips, n.gammas, n.lams)
        fit = fitted(made, parts)
        example = _example(parts[0])
        if fit is None:
            tried = f"Tried: {len(made)} readings." if made or name == "value" else NO_SUM
            wrong = (
                f"the gradient that reaches the {name}'s network agrees with no definition that is "
                "known here, and with no known mistake"
            )
            self.fail(unexplained(f"{name}-loss", wrong, tried), example)
            return
        self.judged += len(parts)
        self.choices += fit.reading.said
        if fit.reading.fault is not None:
            self.fail(fit.reading.fault, example)
        else:
            self.hold(f"{name}-loss")
        self.verdict(SIGNS[name], fit.scale < 0 and not self.tape.upwards, example)
        self.hold(DEAD[name].check)
        if abs(fit.bonus) > 1e-3 * abs(fit.scale):
            upwards = fit.scale < 0 and self.tape.upwards
            self.verdict(SIGNS["entropy"], (fit.bonus < 0) is not upwards, example)
            if (fit.bonus < 0) is upwards:
                self.choices.append(f"entropy: with the weight {fit.bonus:.3g} inside")

    def roles(self, parts: list[Part]) -> frozenset[str]:
        have = set.intersection(*(set(part.x) for part in parts)) | {"window"}
        if not any(part.x["truncated"].any() for part in parts):
            have.discard("truncated")
        windows = [part.x.window or part.x for part in parts]
        if not any(np.isfinite(w.get("next_values", np.nan)).any() for w in windows):
            have.discard("next_values")
        return frozenset(have - {"actions"} - ({"rewards"} if "returns" in have else set()))


# ------------------------------------------------------------------------------- fitting


def least_squares(columns: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, float]:
    """The factors of the columns, and the largest error as a part of what is to be explained."""
    solution, *_ = np.linalg.lstsq(columns, target, rcond=1e-9)
    error = np.abs(columns @ solution - target).max()
    return np.asarray(solution), float(error / (np.abs(target).max() + 3e-6))


def fitted(readings: list[Reading], parts: list[Part]) -> Fit | None:
    """The first reading whose gradient is that of every part, up to one factor."""
    for faulty in (False, True):
        found: list[Fit] = []
        for reading in readings:
            if (reading.fault is not None) is faulty and (fit := _fit(reading, parts)):
                found.append(fit)
                if faulty or len(found) == 4:
                    break
        fits = [fit for fit in found if fit.scale > 0] or found
        if fits:  # of several, the first, unless another is much closer
            best = min(fits, key=lambda fit: fit.error)
            return best if best.error < fits[0].error / 3 else fits[0]
    return None


def _fit(reading: Reading, parts: list[Part]) -> Fit | None:
    scales, bonuses, sizes, worst = [], [], [], 0.0
    for part in parts:
        with np.errstate(all="ignore"):
            s = _slopes(reading, part)
        if not np.all(np.isfinite(s)) or not np.any(s):
            return None
        columns = [(s[:, None] * part.slopes).ravel(), part.bonus.ravel()]
        columns = columns if part.bonus.any() else columns[:1]
        solution, error = least_squares(np.stack(columns, -1), part.gradient.ravel())
        if error > CLOSE:
            return None
        worst = max(worst, error)
        scales.append(solution[0])
        bonuses.append(solution[1] if part.bonus.any() else 0.0)
        sizes.append(len(part.x["actions"]))
    ratios = (np.array(scales), np.array(scales) / sizes)
    if not any(np.ptp(r) <= 0.05 * np.abs(r).max() for r in ratios):
        return None
    return Fit(reading, float(scales[0]), float(bonuses[0]), worst)


def _slopes(reading: Reading, part: Part) -> np.ndarray:
    """The gradient of the mean by some rows, by central differences; targets are data."""
    count, step = len(part.x["actions"]), 1e-5

    def change(by: np.ndarray) -> np.ndarray:
        up, down = (
            reading.rows(part.x.moved(part.role, part.x[part.role] + sign * by, True))
            for sign in (step, -step)
        )
        return np.asarray((up - down) / (2 * step))

    if reading.fault is not None and reading.fault.check == "ratio-per-sample":
        return np.array([change(np.eye(count)[k]).mean() for k in part.rows])  # rows are mixed
    each = change(np.ones(count))
    own = np.broadcast_to(each.reshape(len(each), -1).mean(-1), count)
    return np.asarray(own[part.rows] / count)


def _is_sum(part: Part) -> bool:
    """Whether any weights of the rows' log π, and any entropy bonus, give this gradient."""
    count, width = part.slopes.shape
    columns = np.zeros((count, width, count + 1))
    columns[np.arange(count), :, np.arange(count)] = part.slopes
    columns[..., count] = part.bonus
    matrix, target = columns.reshape(count * width, -1), part.gradient.ravel()
    rest = matrix @ np.linalg.lstsq(matrix, target, rcond=1e-9)[0] - target
    return bool(np.linalg.norm(rest) <= CLOSE * np.sqrt(len(target)) * np.abs(target).max() + 1e-8)


def _entropy_only(part: Part) -> bool:
    """Whether all that reaches the policy is an entropy bonus."""
    if part.free < 4 or not part.bonus.any():
        return False
    return least_squares(part.bonus.reshape(-1, 1), part.gradient.ravel())[1] <= CLOSE


def _moved(x: Case) -> bool:
    """Whether the policy is another than the one that acted."""
    old = x.get("old_log_probs")
    return old is not None and bool(np.abs(x["log_probs"] - old).max() > 1e-4)


def _example(part: Part) -> str:
    """A few rows: what came, the reward, and the gradient."""
    shown = [(role, part.x[role][part.rows[:4]]) for role in SHOWN if role in part.x]
    rows = [*shown, ("gradient", part.gradient[:4])]
    return "\n".join(f"{name:<14} {as_numbers(np.round(v, 4))}" for name, v in rows)


def _telling(parts: list[Part]) -> list[Part]:
    """Some backwards from first to last, and some whose rows have ends of both kinds."""
    chosen: dict[int, Part] = {}
    for role, most in (("rewards", EVENTS), ("dones", 2), ("truncated", 2)):
        some = [part for part in parts if part.x[role].any()]
        chosen |= {id(some[k]): some[k] for k in _spread(len(some), most)}
    return list(chosen.values())


def _spread(count: int, most: int) -> np.ndarray:
    """Some places, from first to last."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int)


# ------------------------------------------------------------------------------- policies


def _merged(
    policies: list[tuple[Policy, dict[str, np.ndarray]]],
) -> list[tuple[Policy, np.ndarray, bool]]:
    """Distributions of one backward: those at the same states summed, those at others joined."""
    grouped: dict[tuple[int, ...], list[tuple[Policy, np.ndarray]]] = {}
    for policy, gradients in policies:
        flow = _by_parameters(policy, gradients)
        grouped.setdefault(tuple(policy.states), []).append((policy, flow))
    found = []
    for same in grouped.values():
        made = [one for one in same if not one[0].raw] or same
        # One with the gradient of a later one has it because the later is made of it.
        made = [one for k, one in enumerate(made)
                if not any(np.allclose(one[1], later) for _, later in made[k + 1 :])]  # fmt: skip
        found.append((made[0][0], np.sum([flow for _, flow in made], 0), len(made) > 1))
    states = [s for policy, _, _ in found for s in policy.states]
    alike = len({(p.probs is None, *p.roots) for p, _, _ in found}) == 1
    if len(found) < 2 or len(set(states)) < len(states) or not alike:
        return found
    whole = Policy(states, roots=found[0][0].roots)
    if found[0][0].probs is None:
        whole.means = np.concatenate([p.means for p, _, _ in found])
        whole.stds = np.concatenate([p.stds for p, _, _ in found])
    else:
        whole.probs = np.concatenate([p.probs for p, _, _ in found])
    return [(whole, np.concatenate([f for _, f, _ in found]), any(s for _, _, s in found))]


def _said(
    policy: Policy, actions: Sequence[Any], rows: Any = slice(None)
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """log π of actions, the entropies, and both by what `_by_parameters` gives the gradient of."""
    taken = np.stack([np.asarray(a, float).ravel() for a in actions])
    if policy.probs is not None:
        p = policy.probs[rows]
        log_p, chosen = np.log(np.maximum(p, 1e-45)), np.eye(p.shape[1])[taken[:, 0].astype(int)]
        entropy = -(p * log_p).sum(-1, keepdims=True)
        return (chosen * log_p).sum(-1), entropy[:, 0], chosen - p, -p * (log_p + entropy)
    mean, std = policy.means[rows], policy.stds[rows]
    z, own = (taken - mean) / std, len(policy.roots)  # without deviations that nobody gave
    slopes = np.concatenate([z / std, (z**2 - 1) / std][:own], -1)
    by_entropy = np.concatenate([0 * z, 1 / std][:own], -1)
    entropies = (np.log(std) + 0.5 + 0.5 * LOG_2PI).sum(-1)
    return normal(taken, mean, std).sum(-1), entropies, slopes, by_entropy


def _by_parameters(policy: Policy, gradients: dict[str, np.ndarray]) -> np.ndarray:
    """By unnormalised logits, or by means and deviations side by side; [N, …]."""
    if policy.probs is not None:
        p = policy.probs
        g = next(iter(gradients.values()))
        if "probs" in gradients:
            return np.asarray(p * (g - (p * g).sum(-1, keepdims=True)))
        return np.asarray(g - p * g.sum(-1, keepdims=True))
    parts = [gradients.get(name, np.zeros(np.shape(policy.means))) for name in policy.roots]
    return np.concatenate(parts, -1)
