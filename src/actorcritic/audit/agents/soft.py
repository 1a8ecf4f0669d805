"""Learning by Q(s, a), recorded: what critics are fitted to, and what an actor climbs.

The gradient that reaches Q(s, a) is linear in Q, in the reward, in the next value and in the next
log-probability, and the one that reaches the policy is a sum of what comes through Q and of the
entropy's: the factors of a least-squares fit say what the code does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from actorcritic.audit.agents.judge import Judge, least_squares, unexplained
from actorcritic.audit.agents.tape import Event, Output, Policy, Tape, Transition, array
from actorcritic.audit.findings import TIME_LIMITS, Fault, as_numbers
from actorcritic.audit.losses.cases import normal
from actorcritic.audit.losses.rows import SIGNS

CLOSE = 1e-2
ENOUGH = 64  # rows of the critics' batches
TARGET = "y = r + gamma * (1 - terminated) * (min(Q1', Q2') - alpha * log_prob')"
ACTOR = "loss = (alpha * log_prob - min(Q1, Q2)).mean()"
ENTROPY = SIGNS["entropy"]._replace(
    wrong="the entropy term of the actor's loss has the wrong sign: minimising it makes the "
    "entropy smaller",
    mend=ACTOR,
)
TARGET_ENTROPY = ENTROPY._replace(
    wrong="the entropy has the wrong sign in the critics' target", mend=TARGET
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
LARGER = Fault(
    "soft-target",
    "the target takes the larger of two critics: max for min",
    "The critics learn values of another problem than the one that the policy is to solve.",
    TARGET,
)
PAST_END = LARGER._replace(
    check="termination-drops-bootstrap", wrong="the target bootstraps past a terminal state"
)
OTHER_TARGET = unexplained(
    "value-loss",
    "the gradient that reaches Q agrees with no target that is known here",
    "Tried: r + γ (1 − d) (Q' − α log π'), of five mixtures of Q'.",
)
OTHER_ACTOR = unexplained(
    "policy-loss",
    "the gradient that reaches the policy is no sum of Q's and the entropy's",
    "Tried: α log π − Q, of a normal and a squashed draw.",
)
MIXES: dict[str, Callable[..., Any]] = {
    "the smaller of the targets": np.min,
    "the first target": lambda q, axis: q[0],
    "the second target": lambda q, axis: q[-1],
    "the mean of the targets": np.mean,
    "the larger of the targets": np.max,
}
SHOWN = {"r": "rewards", "ended": "terminated", "q": "Q(s, a)", "log": "log π(a'|s')",
         "g": "gradient"}  # fmt: skip


def judge(found: Judge) -> None:
    """All that a recording shows: by Q(s, a) where there is one, else by the terms of losses."""
    found.general()
    tape = found.tape
    if not any(o.actions is not None for o in tape.outputs):
        found.terms()
        return
    critics, actors = [], []
    for event in tape.events:
        outputs = [(o, g) for o, g in event.outputs if o.actions is not None]
        if event.policies or any(o.actions.requires_grad for o, _ in outputs):
            actors.append((event, outputs))
        elif outputs:
            critics.append((event, outputs))
    _critic(found, critics[:4])
    _actor(found, actors[:4])
    if not actors and any(p.roots for p in tape.policies if p.draws):
        found.not_checked.append("the actor: no backward reached its policy")


# ------------------------------------------------------------------------------- the critic


def _critic(found: Judge, parts: list[tuple[Event, Any]]) -> None:
    batches: list[dict[str, np.ndarray]] = []
    for event, outputs in parts:
        output, gradient = outputs[0]
        steps = found.steps_of(output.states, event)
        if steps is None:
            return
        chain = [found.tape.transitions[k] for k in steps]
        q_next = _next_values(found.tape, chain, output)
        if q_next is not None:
            batch = {
                "g": gradient.ravel() * len(steps),
                "q": output.numbers,
                "r": [t.reward for t in chain],
                "ended": [float(t.terminated) for t in chain],
                "cut": [float(t.terminated or t.truncated) for t in chain],
                "log": _next_logs(found.tape, chain, output),
                "next": q_next,
            }
            batches.append({name: np.asarray(column) for name, column in batch.items()})
        if sum(len(b["q"]) for b in batches) >= ENOUGH:
            break
    if not batches:
        return
    x = {name: np.concatenate([b[name] for b in batches], -1) for name in batches[0]}
    example = "\n".join(f"{word:<13} {as_numbers(np.round(x[k][:4], 4))}"
                        for k, word in SHOWN.items())  # fmt: skip
    gone = {"terminated": x["ended"], "terminated or truncated": x["cut"], "": 0 * x["cut"]}
    for mask, flag in gone.items():
        for words, mix in MIXES.items():
            columns = [x["q"], x["r"], (1 - flag) * mix(x["next"], axis=0), (1 - flag) * x["log"]]
            solution, error = least_squares(np.stack(columns, -1), x["g"])
            if error > CLOSE or abs(solution[0]) < 1e-9:
                continue
            factors = solution / solution[0]
            if abs(factors[1] + 1) <= CLOSE:
                _say_of_critic(found, factors, words, mask, x, example)
                return
    found.fail(OTHER_TARGET, example)


def _say_of_critic(
    found: Judge, factors: np.ndarray, words: str, mask: str, x: dict[str, np.ndarray], example: str
) -> None:
    found.judged += 1
    gamma, bonus = -factors[2], factors[3]
    words = words if len(x["next"]) > 1 else "one target"
    found.choices.append(f"the critics' target has γ = {gamma:.3g} and {words}")
    if mask == "terminated or truncated" and (x["cut"] != x["ended"]).any():
        found.choices.append(TIME_LIMITS)
    for fault, is_so in (
        (PAST_END, not mask and x["cut"].any()),
        (LARGER, "larger" in words),
        (TARGET_ENTROPY, bonus < -1e-3),
    ):
        if is_so:
            found.fail(fault, example)
    if bonus > 1e-3:
        found.hold(ENTROPY.check)
        found.choices.append(f"the target's entropy has the weight {bonus / max(gamma, 1e-6):.3g}")
    elif bonus >= -1e-3:
        found.choices.append("the target has no entropy")
    found.hold("value-loss", PAST_END.check, LARGER.check)


def _follow(states: list[int], chain: list[Transition]) -> bool:
    """Whether these are the next states; of one after the end, any."""
    if len(states) != len(chain):
        return False
    return all(t.terminated or t.following == s for s, t in zip(states, chain, strict=True))


def _next_values(tape: Tape, chain: list[Transition], own: Output) -> np.ndarray | None:
    """[heads, N], of the outputs at the next states that came last before the backward."""
    last = {
        output.head: output.numbers
        for output in tape.outputs
        if output.actions is not None and output.order < own.order
        and _follow(output.states, chain)
    }  # fmt: skip
    return np.stack(list(last.values())) if last else None


def _next_logs(tape: Tape, chain: list[Transition], own: Output) -> np.ndarray:
    """log π of the actions that were drawn at the next states; 0 where none were."""
    for policy in reversed(tape.policies):
        if policy.order < own.order and _normal(policy) and _follow(policy.states, chain):
            u = policy.drawn
            each, scale = normal(u, policy.means, policy.stds), _scale(tape, policy.states, u)
            if scale is not None:
                each = each - np.log(abs(scale) * (1 - np.tanh(u) ** 2) + 1e-6)
            return np.asarray(each.sum(-1))
    return np.zeros(len(chain))


def _normal(policy: Policy) -> bool:
    return bool(policy.draws) and policy.means is not None


def _scale(tape: Tape, states: list[int], u: np.ndarray) -> float | None:
    """Of actions s tanh(u) that were given to a critic; None where they are the draws."""
    for output in reversed(tape.outputs):
        if output.states == states and output.actions is not None:
            with np.errstate(all="ignore"):
                ratio = array(output.actions).reshape(u.shape) / np.tanh(u)
            if np.isfinite(ratio).all() and np.ptp(ratio) < 1e-3 * abs(ratio.mean()):
                return float(ratio.mean())
    return None


# ------------------------------------------------------------------------------- the actor


def _actor(found: Judge, parts: list[tuple[Event, Any]]) -> None:
    for event, outputs in parts:
        if event.policies and not any(_normal(p) for p, _ in event.policies):
            continue
        weight = event.weight if event.policies else 0.0  # a deterministic actor has no entropy
        if not outputs and weight is None:
            found.not_checked.append(
                "the actor: Q(s, a) has no part in its gradient, which is not that of an entropy"
            )
            return
        if not outputs:
            found.judged += 1
            count = len(event.policies[0][0].states)
            found.fail(NO_Q, f"{count} states: ∂ loss / ∂ Q(s, a) is 0 for every one of them")
            return
        climbed = np.sum([g.ravel() for _, g in outputs], 0) * len(outputs[0][0].states)
        example = f"∂ loss / ∂ Q(s, a), times N  {as_numbers(np.round(climbed[:6], 4))}"
        if weight is None:
            found.fail(OTHER_ACTOR, example)
            return
        found.judged += 1
        expected = "weight of log π, expected    positive\nweight of log π, actual     "
        example += f"\n{expected} {weight:.4g}" if event.policies else ""
        found.verdict(DOWNHILL, bool(climbed.mean() > 0), example)
        found.verdict(ENTROPY, weight < -1e-4, example, bool(event.policies))
        found.hold(NO_Q.check)
        if weight > 1e-4 and event is parts[0][0]:
            found.choices.append(f"the actor's entropy has the weight {weight:.3g}")


def weigh(tape: Tape, event: Event) -> None:
    """Note, before the parameters change, the weight of log π in an actor's backward."""
    outputs = [(o, g) for o, g in event.outputs if o.actions is not None]
    for policy, gradients in event.policies:
        if _normal(policy) and policy.draws[-1].requires_grad:
            elsewhere = tape.elsewhere
            event.weight = _entropy_weight(tape, policy, gradients, outputs)
            tape.elsewhere = elsewhere  # which is no gradient of theirs


def _entropy_weight(
    tape: Tape, policy: Policy, gradients: dict[str, np.ndarray], outputs: list[Any]
) -> float | None:
    """The factor of log π in the loss: what is left of the gradient, without that of Q."""
    torch, u = tape.torch, policy.draws[-1]
    roots = [policy.roots[name] for name in gradients]

    def by_roots(tensors: list[Any], weights: list[Any]) -> np.ndarray:
        by_each = torch.autograd.grad(
            tensors, roots, weights, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return np.concatenate([array(g).ravel() for g in by_each])

    live = [(o.tensor, torch.as_tensor(g).to(o.tensor).reshape(o.tensor.shape))
            for o, g in outputs if o.tensor.requires_grad]  # fmt: skip
    total = np.concatenate([g.ravel() for g in gradients.values()])
    through_q = by_roots(*map(list, zip(*live, strict=True))) if live else 0 * total
    std = policy.roots.get("stds", torch.as_tensor(policy.stds).to(u))
    each = -0.5 * ((u - policy.roots["means"]) / std) ** 2 - std.log()
    scale = _scale(tape, policy.states, policy.drawn)
    if scale is not None:
        each = each - torch.log(abs(scale) * (1 - torch.tanh(u) ** 2) + 1e-6)
    log_prob = each.sum() / len(policy.states)
    through_log = by_roots([log_prob], [torch.ones_like(log_prob)])
    columns = np.stack([through_q, through_log], -1)
    factors, _ = least_squares(columns, total)
    rest = np.linalg.norm(columns @ factors - total)
    fits = rest <= CLOSE * np.linalg.norm(total) + 1e-8
    fits = fits and (not live or abs(factors[0] - 1) < 0.05)
    return float(factors[1]) if fits else None
