"""Soft actor-critic, recorded: what its critics are fitted to, and what its actor climbs.

The gradient that reaches Q(s, a) is linear in Q, in the reward, in the next value and in the next
log-probability, and the one that reaches the policy is a sum of what comes through Q and of the
entropy's: the factors of a least-squares fit say what the code does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from actorcritic.audit.agents.judge import Judge
from actorcritic.audit.agents.tape import Event, Output, Policy, Tape
from actorcritic.audit.findings import TIME_LIMITS, UNJUDGED, Fault, as_numbers
from actorcritic.audit.losses.cases import normal

CLOSE = 1e-2
TARGET = "y = r + gamma * (1 - terminated) * (min(Q1', Q2') - alpha * log_prob')"
ACTOR = "loss = (alpha * log_prob - min(Q1, Q2)).mean()"
ENTROPY = Fault(
    "entropy-sign",
    "the entropy term of the actor's loss has the wrong sign: minimising it makes the entropy "
    "smaller",
    "The policy becomes deterministic early and stops to explore.",
    ACTOR,
)
NO_Q = Fault(
    "policy-gradient",
    "no gradient of Q reaches the policy: Q is computed without gradient (no_grad, or detached)",
    "The policy learns its entropy alone, and nothing of what is good.",
    "Compute Q(s, a) of the new action with gradient: only the target needs no_grad.",
)
DOWNHILL = Fault(
    "policy-sign",
    "the sign of Q in the actor's loss is wrong: minimising it makes Q smaller",
    "The policy looks for the worst actions.",
    ACTOR,
)
SOFT_TARGET = Fault(
    "soft-target",
    "",
    "The critics learn values of another problem than the one that the policy is to solve.",
    TARGET,
)
MIXES: dict[str, Callable[..., Any]] = {
    "the smaller of the targets": np.min,
    "the first target": lambda q, axis: q[0],
    "the second target": lambda q, axis: q[-1],
    "the mean of the targets": np.mean,
    "the larger of the targets": np.max,
}


def judge(found: Judge) -> None:
    """Every kind of backward in the recording of a method with Q(s, a)."""
    critics, actors = [], []
    for event in found.tape.events:
        outputs = [(o, g) for o, g in event.outputs if o.actions is not None]
        if event.policies:
            actors.append((event, outputs))
        elif outputs:
            critics.append((event, outputs))
    for parts, look in ((critics, _critic), (actors, _actor)):
        if parts:
            look(found, parts[:4])
    if not actors and any(p.roots for p in found.tape.policies if p.draws):
        found.not_checked.append("the actor: no backward reached its policy")


# ------------------------------------------------------------------------------- the critic


def _critic(found: Judge, parts: list[tuple[Event, Any]]) -> None:
    rows: dict[str, list[np.ndarray]] = {
        "g": [],
        "q": [],
        "r": [],
        "ended": [],
        "cut": [],
        "log": [],
    }
    nexts: list[np.ndarray] = []
    for event, outputs in parts:
        output, gradient = outputs[0]
        steps = found.steps_of(output.states, event)
        if steps is None:
            return
        chain = [found.tape.transitions[k] for k in steps]
        after = [t.following for t in chain]
        q_next = _next_values(found, after, event, output)
        logs = _next_logs(found, after, event)
        if q_next is None:
            continue
        rows["g"].append(gradient.ravel() * len(steps))
        rows["q"].append(output.numbers)
        rows["r"].append(np.array([t.reward for t in chain]))
        rows["ended"].append(np.array([float(t.terminated) for t in chain]))
        rows["cut"].append(np.array([float(t.terminated or t.truncated) for t in chain]))
        rows["log"].append(np.zeros(len(steps)) if logs is None else logs)
        nexts.append(q_next)
    if not nexts:
        return
    x = {name: np.concatenate(each) for name, each in rows.items()}
    q_next = np.concatenate(nexts, 1)
    gone = {"terminated": x["ended"], "terminated or truncated": x["cut"], "": 0 * x["cut"]}
    for mask, flag in gone.items():
        for words, mix in MIXES.items():
            columns = [x["q"], x["r"], (1 - flag) * mix(q_next, axis=0), (1 - flag) * x["log"]]
            solution = _solved(columns, x["g"])
            if solution is None or abs(solution[1] / solution[0] + 1) > CLOSE:
                continue
            _said_of_critic(found, solution / solution[0], words, mask, x, len(q_next))
            return
    fault = Fault(
        "value-loss",
        "the gradient that reaches Q agrees with no target that is known here",
        "Nothing is said of it. Tried: r + γ (1 − d) (Q' − α log π'), of five mixtures of Q'.",
        "",
        UNJUDGED,
    )
    found.fail(fault, _example(x))


def _said_of_critic(
    found: Judge, factors: np.ndarray, words: str, mask: str, x: dict[str, np.ndarray], heads: int
) -> None:
    found.judged += 1
    gamma, bonus = -factors[2], factors[3]
    found.choices.append(f"the critics' target has γ = {gamma:.3g} and {words}")
    if not mask and x["cut"].any():
        fault = SOFT_TARGET._replace(
            check="termination-drops-bootstrap",
            wrong="the target bootstraps past a terminal state",
        )
        found.fail(fault, _example(x))
    if mask == "terminated or truncated" and (x["cut"] != x["ended"]).any():
        found.choices.append(TIME_LIMITS)
    if heads > 1 and "larger" in words:
        fault = SOFT_TARGET._replace(
            wrong="the target takes the larger of two critics: max for min"
        )
        found.fail(fault, _example(x))
    if bonus < -1e-3:
        fault = ENTROPY._replace(
            wrong="the entropy has the wrong sign in the critics' target", mend=TARGET
        )
        found.fail(fault, _example(x))
    elif bonus > 1e-3:
        found.hold(ENTROPY.check)
        found.choices.append(f"the target's entropy has the weight {bonus / max(gamma, 1e-6):.3g}")
    else:
        found.choices.append("the target has no entropy")
    found.hold("value-loss", "termination-drops-bootstrap", SOFT_TARGET.check)


def _solved(columns: list[np.ndarray], target: np.ndarray) -> np.ndarray | None:
    matrix = np.stack(columns, -1)
    solution, *_ = np.linalg.lstsq(matrix, target, rcond=1e-9)
    error = np.abs(matrix @ solution - target).max()
    fits = error <= CLOSE * np.abs(target).max() + 1e-9 and abs(solution[0]) > 1e-9
    return np.asarray(solution) if fits else None


def _next_values(found: Judge, after: list[int], event: Event, own: Output) -> np.ndarray | None:
    """[heads, N], of the outputs at the next states that came last before the backward."""
    last: dict[tuple[int, int], Output] = {}
    for output in found.tape.outputs:
        if output.states == after and output.actions is not None and output.gradient is None:
            last[output.head] = output
        if output is own:
            break
    return np.stack([o.numbers for o in last.values()]) if last else None


def _next_logs(found: Judge, after: list[int], event: Event) -> np.ndarray | None:
    """log π of the actions that were drawn at the next states."""
    policies = [
        p for p in found.tape.policies if p.states == after and p.draws and p.means is not None
    ]
    before = [p for p in policies if p.clock <= event.clock and p.order < event.order]
    if not before:
        return None
    policy = before[-1]
    assert policy.means is not None
    u = policy.draws[-1].detach().cpu().double().numpy().reshape(policy.means.shape)
    scale = _scale(found.tape, after, u)
    return _log_prob(u, policy, scale)


def _scale(tape: Tape, states: list[int], u: np.ndarray) -> float | None:
    """Of actions s tanh(u) that were given to a critic; None where they are the draws."""
    for output in reversed(tape.outputs):
        if output.states == states and output.actions is not None:
            a = output.actions.detach().cpu().double().numpy().reshape(u.shape)
            with np.errstate(all="ignore"):
                ratio = a / np.tanh(u)
            if np.isfinite(ratio).all() and np.ptp(ratio) < 1e-3 * abs(ratio.mean()):
                return float(ratio.mean())
    return None


def _log_prob(u: np.ndarray, policy: Policy, scale: float | None) -> np.ndarray:
    assert policy.means is not None
    assert policy.stds is not None
    each = normal(u, policy.means, policy.stds)
    if scale is not None:
        each = each - np.log(abs(scale) * (1 - np.tanh(u) ** 2) + 1e-6)
    return np.asarray(each.sum(-1))


# ------------------------------------------------------------------------------- the actor


def _actor(found: Judge, parts: list[tuple[Event, Any]]) -> None:
    for event, outputs in parts:
        policy = next((p for p, _ in event.policies if p.draws and p.means is not None), None)
        if policy is None:
            continue
        count = len(policy.states)
        if not outputs and event.weight is None:
            found.not_checked.append(
                "the actor: Q(s, a) has no part in its gradient, which is not that of an entropy"
            )
            return
        if not outputs:
            found.judged += 1
            found.fail(NO_Q, f"{count} states: ∂ loss / ∂ Q(s, a) is 0 for every one of them")
            return
        climbed = np.sum([g.ravel() for _, g in outputs], 0) * count
        weight = event.weight
        if weight is None:
            fault = Fault(
                "policy-loss",
                "the gradient that reaches the policy is no sum of Q's and the entropy's",
                "Nothing is said of it. Tried: α log π − Q, of a normal and a squashed draw.",
                "",
                UNJUDGED,
            )
            found.fail(fault, f"∂ loss / ∂ Q, times N: {as_numbers(np.round(climbed[:6], 4))}")
            return
        found.judged += 1
        example = (
            f"∂ loss / ∂ Q(s, a), times N  {as_numbers(np.round(climbed[:6], 4))}\n"
            f"weight of log π, expected    positive\nweight of log π, actual      {weight:.4g}"
        )
        if climbed.mean() > 0:
            found.fail(DOWNHILL, example)
        if weight < -1e-4:
            found.fail(ENTROPY, example)
        elif weight > 1e-4 and event is parts[0][0]:
            found.choices.append(f"the actor's entropy has the weight {weight:.3g}")
    found.hold(DOWNHILL.check, ENTROPY.check, NO_Q.check)


def weigh(tape: Tape, event: Event) -> None:
    """Note, before the parameters change, the weight of log π in an actor's backward."""
    outputs = [(o, g) for o, g in event.outputs if o.actions is not None]
    for policy, gradients in event.policies:
        if policy.draws and policy.means is not None and policy.draws[-1].requires_grad:
            event.weight = _entropy_weight(tape, policy, gradients, outputs)


def _entropy_weight(
    tape: Tape, policy: Policy, gradients: dict[str, np.ndarray], outputs: list[Any]
) -> float | None:
    """The factor of log π in the loss: what is left of the gradient, without that of Q."""
    torch = tape.torch
    names = [n for n in policy.roots if n in gradients]
    roots = [policy.roots[n] for n in names]
    u = policy.draws[-1]
    count = len(policy.states)
    total = np.concatenate([gradients[n] for n in names], -1).ravel()

    def by_roots(tensors: list[Any], weights: list[Any]) -> np.ndarray:
        found_there = torch.autograd.grad(
            tensors, roots, weights, retain_graph=True, allow_unused=True
        )
        each = [
            np.zeros(gradients[n].shape)
            if g is None
            else g.detach().double().numpy().reshape(gradients[n].shape)
            for n, g in zip(names, found_there, strict=True)
        ]
        return np.concatenate(each, -1).ravel()

    with tape.aside():
        live = [o for o, _ in outputs if o.tensor is not None and o.tensor.requires_grad]
        weights = [torch.as_tensor(g).to(o.tensor).reshape(o.tensor.shape)
                   for o, g in outputs if o in live]  # fmt: skip
        through_q = by_roots([o.tensor for o in live], weights) if live else np.zeros(len(total))
        scale = _scale(tape, policy.states, u.detach().double().numpy().reshape(count, -1))
        std = policy.roots.get("stds", torch.as_tensor(policy.stds).to(u))
        mean = policy.roots["means"]
        each = -0.5 * ((u - mean) / std) ** 2 - std.log()
        if scale is not None:
            each = each - torch.log(abs(scale) * (1 - torch.tanh(u) ** 2) + 1e-6)
        log_prob = each.reshape(count, -1).sum(-1).mean()
        through_log = by_roots([log_prob], [torch.ones_like(log_prob)])
    columns = np.stack([through_q, through_log], -1)
    solution, *_ = np.linalg.lstsq(columns, total, rcond=1e-9)
    error = float(np.linalg.norm(columns @ solution - total))
    fits = bool(error <= CLOSE * np.linalg.norm(total) + 1e-8)
    fits = fits and (not live or abs(solution[0] - 1) < 0.05)
    return float(solution[1]) if fits else None


def _example(x: dict[str, np.ndarray]) -> str:
    names = {
        "r": "rewards",
        "ended": "terminated",
        "q": "Q(s, a)",
        "log": "log π(a'|s')",
        "g": "gradient",
    }
    lines = [f"{word:<13} {as_numbers(np.round(x[k][:4], 4))}" for k, word in names.items()]
    return "\n".join(lines)
