"""What a recording shows: whose gradient reached the policy and the values, and what it was of.

Each backward() is held against the readings of loss_rows.py, by the gradient of every row: no
number of the code's own is needed but what its networks said and what the environment gave.
"""

from __future__ import annotations

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
    rows: np.ndarray  # which of its rows are compared
    gradient: np.ndarray  # [rows, …] of the loss by what the network said there
    policy: Policy | None = None
    actions: tuple[Any, ...] = ()  # of all rows
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
    "",
    "They are never changed: what they compute stays as it was drawn at the beginning.",
    "Give each network's parameters to an optimiser: Adam(critic.parameters(), …).",
)
NO_POLICY = Fault(
    "policy-gradient",
    "no gradient reaches the policy: nothing that is minimised depends on it",
    "The actor does not learn.",
    "Do not detach the log-probabilities, and do not compute them under no_grad.",
)
OLD = leak("policy", "old_log_probs")
OLD_LIVE = OLD._replace(
    wrong="the old log-probability is computed anew with its gradient: the ratio is always one, "
    "and the policy term has no gradient",
    effect="The actor learns from the entropy bonus alone.",
    mend="old_log_probs = … under torch.no_grad(), before the first epoch",
)


@dataclass
class Judge(Ledger):
    """The findings of one recording."""

    tape: Tape = field(kw_only=True)
    numbers: Numbers = field(kw_only=True)
    whole: bool = False  # all of what it does was seen
    drawn: bool = False  # actions are taken as drawn, not as the environment got them
    windows: dict[tuple[int, ...], Case] = field(default_factory=dict)
    draws: dict[int, Any] = field(default_factory=dict)  # the action drawn at a state
    judged: int = 0  # backwards that are explained

    def run(self) -> None:
        tape = self.tape
        self.general()
        if any(o.actions is not None for o in tape.outputs):
            from actorcritic.audit.agents import soft  # which has what is here below it

            soft.judge(self)
            return
        groups: dict[str, list[Part]] = {"policy": [], "value": []}
        for event in tape.events:
            for name, part in self.parts(event):
                groups[name].append(part)
        for name, parts in groups.items():
            chosen = _telling(parts)
            if chosen:
                (self.policy if name == "policy" else self.values)(chosen)
        trained = any(e.policies for e in tape.events) or groups["policy"]
        acted = any(p for p in tape.policies if any(t.requires_grad for t in p.roots.values()))
        if tape.events and not trained and acted and not tape.elsewhere:
            # A program may have been stopped before its policy's turn.
            self.fail(NO_POLICY._replace(severity=WRONG if self.whole else UNJUDGED), "")

    # -- what needs no definition

    def general(self) -> None:
        tape = self.tape
        if tape.stale:
            self.fail(STALE, "the second update: its gradient is the sum of the first two")
        elif tape.steps > 1:
            self.hold(STALE.check)
        if any(p.softmax_twice for p in tape.policies):
            policy = next(p for p in tape.policies if p.softmax_twice)
            assert policy.probs is not None
            worst = float(policy.probs.max())
            example = (
                f"{policy.probs.shape[1]} actions; the largest probability seen is {worst:.3f}"
            )
            self.fail(SOFTMAX, example)
        elif any(p.kind == "categorical" for p in tape.policies):
            self.hold(SOFTMAX.check)
        self.optimisers()

    def optimisers(self) -> None:
        """Networks that gradients reach, and that no optimiser has."""
        left = set()
        for event in self.tape.events:
            for output, _ in event.outputs:
                module = output.module
                if module is None or not self.tape.stepped:
                    continue
                own = [p for p in module.parameters() if p.requires_grad]
                still = all(
                    id(p) in self.tape.initial and (p == self.tape.initial[id(p)][1]).all()
                    for p in own
                )
                if own and still and not any(id(p) in self.tape.stepped for p in own):
                    left.add(type(module).__name__ + f" with {sum(p.numel() for p in own)} numbers")
        if left:
            wrong = (
                f"no optimiser has the parameters of a network that the loss trains: {min(left)}"
            )
            example = "its gradient is not 0, and its parameters are the same after every step"
            self.fail(UNOPTIMISED._replace(wrong=wrong), example)
        elif self.tape.steps:
            self.hold(UNOPTIMISED.check)

    # -- which rows of which case

    def parts(self, event: Event) -> Iterator[tuple[str, Part]]:
        """The gradients by policies and by values, each with the case that they belong to."""
        for policy, flow, several in _merged(event.policies):
            steps = self.steps_of(policy.states, event)
            if steps is None:
                continue
            actions = tuple(self.action(self.tape.transitions[k], policy) for k in steps)
            x = self.case(steps, event)
            x["log_probs"], x["entropy"] = _said(policy, actions)
            taken = np.array(_spread(list(range(len(steps))), ROWS))
            yield "policy", Part(x, taken, flow[taken], policy, actions, several)
        heads: dict[tuple[int, int], list[tuple[Output, np.ndarray]]] = {}
        for output, gradient in event.outputs:
            if output.numbers.ndim == 1 and output.actions is None and not self.is_mean(output):
                heads.setdefault(output.head, []).append((output, gradient))
        for same in heads.values():
            states = [s for output, _ in same for s in output.states]
            whole = len(set(states)) == len(states)
            for group in [same] if whole else [[one] for one in same]:
                steps = self.steps_of([s for output, _ in group for s in output.states], event)
                if steps is None:
                    continue
                x = self.case(steps, event)
                x["values"] = np.concatenate([output.numbers for output, _ in group])
                flow = np.concatenate([gradient for _, gradient in group])
                taken = np.array(_spread(list(range(len(steps))), ROWS))
                yield "value", Part(x, taken, flow[taken])

    def action(self, step: Transition, policy: Policy) -> Any:
        """As it was drawn, where the environment was given a clipped one."""
        if not self.drawn or policy.means is None:
            return step.action
        if step.state not in self.draws:
            for first in self.tape.policies:
                if first.draws and first.means is not None:
                    rows = first.draws[-1].detach().cpu().numpy().reshape(len(first.states), -1)
                    for state, row in zip(first.states, rows, strict=True):
                        self.draws.setdefault(state, row)
            self.draws.setdefault(step.state, step.action)
        return self.draws[step.state]

    def is_mean(self, output: Output) -> bool:
        """Whether a policy has these very numbers for its mean or deviation."""
        for policy in self.tape.policies:
            if policy.states == output.states and policy.means is not None:
                for own in (policy.means, policy.stds):
                    if (
                        own is not None
                        and own.shape[1] == 1
                        and np.allclose(own[:, 0], output.numbers)
                    ):
                        return True
        return False

    def steps_of(self, states: Sequence[int], event: Event) -> list[int] | None:
        """The steps that began in these states, the latest of each."""
        latest = {t.state: k for k, t in enumerate(self.tape.transitions[: event.clock])}
        found = [latest.get(s) for s in states]
        return None if None in found else [k for k in found if k is not None]

    def case(self, steps: list[int], event: Event) -> Case:
        """The rows of a batch, and the window of steps that their targets are taken from."""
        window = list(range(event.begin, event.clock))
        if not set(steps) <= set(window):  # from a replay buffer: each row by itself
            window = list(steps)
        place = (*window, -event.since)
        if place not in self.windows:
            self.windows[place] = self.known([self.tape.transitions[k] for k in window], event)
        x = self.windows[place]
        index = np.array([window.index(k) for k in steps])
        flat = {r: v.ravel()[index] if isinstance(v, np.ndarray) else v for r, v in x.items()}
        batch = Case(flat)
        batch.window, batch.index = x, index
        batch["actions"] = np.zeros(len(steps), int)  # tell the shape
        return batch

    def known(self, chain: list[Transition], event: Event) -> Case:
        """What is known of a window of steps: their rewards and ends, and what networks said."""
        values = self.values_at([t.state for t in chain], event)
        after = self.values_at([t.following for t in chain], event)
        x = Case(
            rewards=np.array([t.reward for t in chain]),
            dones=np.array([float(t.terminated) for t in chain]),
            truncated=np.array([float(t.truncated) for t in chain]),
        )
        if values is not None:
            x["values"] = x["old_values"] = values
            x["next_values"] = np.full(len(chain), np.nan) if after is None else after
        logs = self.old_log_probs(chain, event)
        if logs is not None:
            x["old_log_probs"] = logs
        for role in chain[0].given:
            x[role] = np.array([t.given[role] for t in chain])
        envs = sorted({t.env for t in chain})
        if [t.env for t in chain] == envs * (len(chain) // len(envs)):  # side by side: [T, B]
            return Case({r: v.reshape(-1, len(envs)) for r, v in x.items()})
        return x

    def values_at(self, states: list[int], event: Event) -> np.ndarray | None:
        """The first number that a value network gave for each state in this phase; NaN if none."""
        heads = self.value_heads()
        first: dict[int, float] = {}
        for output in self.tape.outputs:
            if output.head in heads and output.order > event.since and output.numbers.ndim == 1:
                for state, number in zip(output.states, output.numbers, strict=True):
                    first.setdefault(state, float(number))
        if not any(s in first for s in states):
            return None
        return np.array([first.get(s, np.nan) for s in states])

    def value_heads(self) -> set[tuple[int, int]]:
        return {
            output.head
            for event in self.tape.events
            for output, _ in event.outputs
            if output.numbers.ndim == 1 and output.actions is None and not self.is_mean(output)
        }

    def old_log_probs(self, chain: list[Transition], event: Event) -> np.ndarray | None:
        """log π of the actions when they were first asked for in this phase."""
        if all("old_log_probs" in t.given for t in chain):
            return None
        first: dict[int, tuple[Policy, int]] = {}
        for policy in self.tape.policies:
            if policy.order > event.since:
                for row, state in enumerate(policy.states):
                    first.setdefault(state, (policy, row))
        found = []
        for t in chain:
            if t.state not in first:
                return None
            policy, row = first[t.state]
            found.append(_said(policy, [self.action(t, policy)], [row])[0][0])
        return np.array(found)

    # -- the terms

    def roles(self, parts: list[Part], *more: str) -> frozenset[str]:
        have = set.intersection(*(set(part.x) for part in parts)) | set(more)
        if "truncated" in have and not any(part.x["truncated"].any() for part in parts):
            have.discard("truncated")
        x = [part.x.window or part.x for part in parts]
        if not any(np.isfinite(w["next_values"]).any() for w in x if "next_values" in w):
            have.discard("next_values")
        if "returns" in have:
            have -= {"rewards"}
        return frozenset(have - {"actions"} | {"window"})

    def policy(self, parts: list[Part]) -> None:
        """−log π A, with its entropy bonus."""
        moved = any(self.ratio_moved(part) for part in parts)
        roles = self.roles(parts) - {"entropy"}
        if not moved:
            roles -= {"old_log_probs"}
        n = self.numbers
        if self.entropy_only(parts):
            fault = OLD_LIVE if any(p.several for p in parts) else DEAD["policy"]
            self.fail(fault, self.example(parts[0], None))
            return
        readings = loss_rows.policy(roles, n.clips, n.gammas, n.lams, bounded=False)
        fit, negative = self.fitted(readings, parts, "log_probs")
        if fit is None:
            self.unknown("policy", readings, parts)
            return
        self.explained("policy", fit, negative, parts)
        if abs(fit.bonus) > 1e-3 * abs(fit.scale):
            if (fit.bonus < 0) is not (negative and self.tape.upwards):
                self.fail(SIGNS["entropy"], self.example(parts[0], fit))
            else:
                self.hold(SIGNS["entropy"].check)
                self.choices.append(f"entropy: with the weight {fit.bonus:.3g} inside")

    def ratio_moved(self, part: Part) -> bool:
        old = part.x.get("old_log_probs")
        return old is not None and bool(np.max(np.abs(part.x["log_probs"] - old)) > 1e-4)

    def values(self, parts: list[Part]) -> None:
        roles = self.roles(parts) | {"values"}
        n = self.numbers
        roles -= {"log_probs", "old_log_probs", "entropy"}
        if "returns" not in roles and "rewards" in roles:
            roles -= {"advantages"}
        readings = loss_rows.value(roles, n.clips, n.gammas, n.lams)
        fit, negative = self.fitted(readings, parts, "values")
        if fit is None:
            self.unknown("value", readings, parts)
            return
        self.explained("value", fit, negative, parts)

    def explained(self, term: str, fit: Fit, negative: bool, parts: list[Part]) -> None:
        self.judged += len(parts)
        self.choices += fit.reading.said
        if fit.reading.fault is not None:
            self.fail(fit.reading.fault, self.example(parts[0], fit))
        else:
            self.hold(f"{term}-loss", *(r.fault.check for r in [fit.reading] if r.fault))
        if negative and not self.tape.upwards:
            self.fail(SIGNS[term], self.example(parts[0], fit))
        else:
            self.hold(SIGNS[term].check)
        self.hold(DEAD[term].check)

    def unknown(self, term: str, readings: list[Reading], parts: list[Part]) -> None:
        fault = Fault(
            f"{term}-loss",
            f"the gradient that reaches the {term}'s network agrees with no definition that is "
            "known here, and with no known mistake",
            f"Nothing is said of it. Tried: {len(readings)} readings.",
            "",
            UNJUDGED,
        )
        self.fail(fault, self.example(parts[0], None))

    def example(self, part: Part, fit: Fit | None) -> str:
        """A few rows: what came, the reward, and the gradient."""
        x, lines = part.x, []
        for role in ("rewards", "dones", "truncated", "values", "next_values", "returns",
                     "advantages", "log_probs", "old_log_probs"):  # fmt: skip
            if role in x:
                lines.append(f"{role:<14} {as_numbers(np.round(x[role][part.rows[:4]], 4))}")
        got = part.gradient[:4]
        lines.append(f"{'gradient':<14} {as_numbers(np.round(got, 4))}")
        return "\n".join(lines)

    # -- fitting

    def fitted(
        self, readings: list[Reading], parts: list[Part], role: str
    ) -> tuple[Fit | None, bool]:
        """The first reading whose gradient is that of every part, up to one factor."""
        for faulty in (False, True):
            found: list[Fit] = []
            for reading in readings:
                if (reading.fault is not None) is not faulty or not _may(reading, parts[0], role):
                    continue
                fit = self.fits(reading, parts, role)
                if fit is not None:
                    found.append(fit)
                if found and (faulty or len(found) == 4):
                    break
            upright = [fit for fit in found if fit.scale > 0]
            for fits in (upright, found):
                if fits:  # of several, the first, unless another is much closer
                    best = min(fits, key=lambda fit: fit.error)
                    return (best if best.error < fits[0].error / 3 else fits[0]), not upright
        return None, False

    def fits(self, reading: Reading, parts: list[Part], role: str) -> Fit | None:
        scales, bonuses, sizes, worst = [], [], [], 0.0
        for part in parts:
            with np.errstate(all="ignore"):
                s = _slopes(reading, part, role)
            if s is None or not np.all(np.isfinite(s)) or not np.any(s):
                return None
            columns = _columns(part, s, role)
            target = part.gradient.ravel()
            solution, *_ = np.linalg.lstsq(columns, target, rcond=1e-9)
            error = np.abs(columns @ solution - target).max()
            if error > CLOSE * np.abs(target).max() + 1e-8:
                return None
            worst = max(worst, float(error / (np.abs(target).max() + 1e-12)))
            scales.append(float(solution[0]))
            bonuses.append(float(solution[1]) if len(solution) > 1 else 0.0)
            sizes.append(len(part.x["actions"]))
        ratios = [np.array(scales), np.array(scales) / np.array(sizes)]
        if not any(np.ptp(r) <= 0.05 * np.abs(r).max() for r in ratios):
            return None
        return Fit(reading, scales[0], bonuses[0], worst)

    def entropy_only(self, parts: list[Part]) -> bool:
        """Whether all that reaches the policy is an entropy bonus."""
        for part in parts:
            bonus = _columns(part, np.zeros(len(part.rows)), "log_probs")[:, 1:]
            total = part.gradient.ravel()
            width = part.gradient.shape[-1] - (
                part.policy is not None and part.policy.means is None
            )
            if not np.any(bonus) or len(part.rows) * width < 4:
                return False
            solution, *_ = np.linalg.lstsq(bonus, total, rcond=1e-9)
            error = np.abs(bonus @ solution - total).max()
            if error > CLOSE * np.abs(total).max() + 1e-8:
                return False
        return True


def _merged(
    policies: list[tuple[Policy, dict[str, np.ndarray]]],
) -> Iterator[tuple[Policy, np.ndarray, bool]]:
    """Distributions of one backward: those at the same states summed, those at others joined."""
    grouped: dict[tuple[int, ...], list[tuple[Policy, np.ndarray]]] = {}
    for policy, gradients in policies:
        flow = _by_parameters(policy, gradients)
        grouped.setdefault(tuple(policy.states), []).append((policy, flow))
    found = []
    for same in grouped.values():
        made = [one for one in same if not one[0].raw] or same
        found.append((made[0][0], np.sum([flow for _, flow in made], 0), len(made) > 1))
    states = [s for policy, _, _ in found for s in policy.states]
    alike = len({(p.kind, *p.roots) for p, _, _ in found}) == 1
    if len(found) < 2 or len(set(states)) < len(states) or not alike:
        yield from found
        return

    def joined(name: str) -> np.ndarray | None:
        each = [getattr(p, name) for p, _, _ in found]
        return None if each[0] is None else np.concatenate(each)

    first = found[0][0]
    whole = Policy(
        states,
        first.kind,
        joined("probs"),
        joined("means"),
        joined("stds"),
        first.clock,
        first.roots,
    )
    yield whole, np.concatenate([f for _, f, _ in found]), any(s for _, _, s in found)


def _telling(parts: list[Part]) -> list[Part]:
    """Some backwards from first to last, and some whose rows have ends of both kinds."""
    chosen = {id(part): part for part in _spread(parts, EVENTS)}
    for role in ("dones", "truncated"):
        ended = [part for part in parts if part.x[role].any()]
        chosen |= {id(part): part for part in _spread(ended, 2)}
    return list(chosen.values())


def _spread(items: list[Any], most: int) -> list[Any]:
    """Some of them, from first to last."""
    if len(items) <= most:
        return items
    places = np.linspace(0, len(items) - 1, most).round().astype(int)
    return [items[k] for k in dict.fromkeys(places.tolist())]


def _said(
    policy: Policy, actions: Sequence[Any], rows: list[int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """log π of actions, and the entropies, at some rows of a distribution."""
    rows = list(range(len(actions))) if rows is None else rows
    if policy.probs is not None:
        p = np.maximum(policy.probs[rows], 1e-45)
        chosen = [int(np.asarray(a).ravel()[0]) for a in actions]
        return np.log(p[np.arange(len(rows)), chosen]), -(p * np.log(p)).sum(-1)
    assert policy.means is not None
    assert policy.stds is not None
    taken = np.stack([np.asarray(a, float).ravel() for a in actions])
    mean, std = policy.means[rows], policy.stds[rows]
    logs = normal(taken, mean, std).sum(-1)
    return logs, (np.log(std) + 0.5 + 0.5 * LOG_2PI).sum(-1)


def _by_parameters(policy: Policy, gradients: dict[str, np.ndarray]) -> np.ndarray:
    """By unnormalised logits, or by means and deviations side by side; [N, …]."""
    if policy.probs is not None:
        p = policy.probs
        g = next(iter(gradients.values()))
        if "probs" in gradients:
            return np.asarray(p * (g - (p * g).sum(-1, keepdims=True)))
        return np.asarray(g - p * g.sum(-1, keepdims=True))
    shape = policy.means.shape if policy.means is not None else (0, 0)
    parts = [gradients.get(name, np.zeros(shape)) for name in policy.roots]
    return np.concatenate(parts, -1)


def _slopes(reading: Reading, part: Part, role: str) -> np.ndarray | None:
    """The gradient of the mean by some rows, by central differences; targets are data."""
    x, step, found = part.x, 1e-5, []
    for i in part.rows:
        ends = []
        for sign in (1, -1):
            moved = x[role].copy()
            moved[i] += sign * step
            ends.append(np.mean(reading.rows(x.moved(role, moved, True))))
        found.append((ends[0] - ends[1]) / (2 * step))
    return np.array(found)


def _may(reading: Reading, part: Part, role: str) -> bool:
    """Whether it fits a few rows of the first backward: most readings do not."""
    few = part._replace(rows=part.rows[:4], gradient=part.gradient[:4])
    with np.errstate(all="ignore"):
        s = _slopes(reading, few, role)
    if s is None or not np.all(np.isfinite(s)):
        return False
    columns, target = _columns(few, s, role), few.gradient.ravel()
    if len(target) <= columns.shape[1]:
        return True
    solution, *_ = np.linalg.lstsq(columns, target, rcond=1e-9)
    size = np.abs(part.gradient).max()
    return bool(np.abs(columns @ solution - target).max() <= CLOSE * size + 1e-8)


def _columns(part: Part, slopes: np.ndarray, role: str) -> np.ndarray:
    """What a gradient is a sum of: the reading's, and, for a policy, the entropy bonus'."""
    if role == "values" or part.policy is None:
        return slopes[:, None]
    log_slopes, entropy_slopes = policy_slopes(part.policy, part)
    first = (slopes[:, None] * log_slopes).ravel()
    second = (-entropy_slopes / len(part.actions)).ravel()
    columns = [first, second] if np.any(second) else [first]
    return np.stack(columns, -1)


def policy_slopes(policy: Policy, part: Part) -> tuple[np.ndarray, np.ndarray]:
    """∂ log π(a|s) and ∂ H by what `_by_parameters` gives the gradient of."""
    rows = part.rows
    actions = part.actions
    if policy.probs is not None:
        p = policy.probs[rows]
        chosen = np.eye(p.shape[1])[[int(np.asarray(actions[i]).ravel()[0]) for i in rows]]
        log_p = np.log(np.maximum(p, 1e-45))
        h = -(p * log_p).sum(-1, keepdims=True)
        return chosen - p, -p * (log_p + h)
    assert policy.means is not None
    assert policy.stds is not None
    taken = np.stack([np.asarray(actions[i], float).ravel() for i in rows])
    mean, std = policy.means[rows], policy.stds[rows]
    z = (taken - mean) / std
    parts = [z / std]
    entropy = [np.zeros_like(mean)]
    if "stds" in policy.roots:
        parts.append((z**2 - 1) / std)
        entropy.append(1 / std)
    return np.concatenate(parts, -1), np.concatenate(entropy, -1)
