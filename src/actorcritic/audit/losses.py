"""The audit of losses: of the actor, of the critic, and of both together (PPO, A2C).

A loss is a sum of at most four terms: policy, value, entropy bonus, KL penalty. Each is isolated by
differences of calls in which nothing else changes, and compared with a table of *readings*:
definitions in float64, one line each, first the right ones (with their conventions), then the
usual mistakes. The reading that reproduces the numbers names what the code does. Gradients are the
user's own (PyTorch, JAX), against finite differences of that reading.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
import math
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from actorcritic.audit import calling
from actorcritic.audit.findings import CannotCall, Finding, Report

Case = dict[str, Any]  # our role → float64 array [B] (or [T, B]), or a number
Rows = Callable[[Case], np.ndarray]

# Our roles and their usual names.
ROLES: dict[str, tuple[str, ...]] = {
    role: tuple(names.split())
    for role, names in {
        "log_probs": (
            "log_prob logp logps logprobs new_log_probs new_logprob newlogprob log_probs_new "
            "logp_new new_logp log_pi logpi action_log_probs curr_log_probs current_log_probs "
            "saved_log_probs logpac log_pi_a"
        ),
        "old_log_probs": (
            "old_log_prob log_probs_old log_prob_old old_logprobs logprobs_old old_logp "
            "logp_old behavior_log_probs behaviour_log_probs log_pi_old old_action_log_probs "
            "old_logpac prev_log_probs logpi_old fixed_log_probs sample_log_prob old_log_pi"
        ),
        "ref_log_probs": "ref_log_prob reference_log_probs ref_logprobs ref_logp logp_ref",
        "advantages": "advantage adv advs gae adv_targ td_error delta advantage_t",
        "values": (
            "value vs v vf vpred vpreds new_value new_values newvalue newvalues state_values "
            "state_value critic_values predictions value_pred values_pred baseline baselines "
            "v_pred pred_values current_values"
        ),
        "old_values": (
            "old_value values_old value_old old_vpred value_preds old_value_preds oldvpred "
            "prev_values old_v v_old rollout_values"
        ),
        "returns": (
            "return ret rets target targets value_target value_targets td_target td_targets "
            "target_values discounted_returns rewards_to_go reward_to_go rtg rtgs R G Gs "
            "discounted_rewards v_target lambda_returns q_values"
        ),
        "rewards": "reward rew rews r",
        "next_values": "next_value next_state_values v_next next_v next_vpred vs_next",
        "dones": "done terminated terminal terminals terminations is_terminal d",
        "continues": "mask masks not_done not_dones nonterminal next_nonterminal",
        "truncated": "truncations truncation timeouts time_outs",
        "gamma": "discount discount_factor γ",
        "entropy": "entropies ent dist_entropy policy_entropy",
        "logits": "logit policy_logits action_logits new_logits",
        "probs": "prob probabilities action_probs policy pi",
        "actions": "action acts act a",
        "clip_range": (
            "clip eps_clip clip_eps clip_epsilon clip_ratio clip_coef clip_param epsilon eps "
            "cliprange ppo_clip clipping ε"
        ),
        "value_clip_range": (
            "clip_range_vf clip_vf vf_clip value_clip clip_range_value vf_clip_param "
            "value_clip_eps clip_vloss_coef cliprange_value"
        ),
        "value_coefficient": (
            "vf_coef value_coef c1 value_loss_coef critic_coef value_coeff vf_coeff "
            "value_weight value_loss_weight critic_weight val_loss_coef"
        ),
        "entropy_coefficient": (
            "ent_coef entropy_coef c2 entropy_coeff beta_entropy entropy_weight entropy_bonus "
            "ent_weight entropy_beta ent_coeff entropy_scale"
        ),
        "kl_coefficient": "beta kl_coef kl_coeff kl_beta kl_weight kl_penalty β",
    }.items()
}

# What a network puts out: the roles whose gradients a loss is for.
NETWORK = ("log_probs", "logits", "probs", "values", "entropy")
# Handed in as data; whether to stop their gradient inside is a matter of style.
DATA = ("advantages", "old_log_probs", "ref_log_probs", "returns", "old_values", "rewards")
NUMBERS = {
    "gamma": 0.9,
    "clip_range": 0.2,
    "value_clip_range": 0.2,
    "value_coefficient": 0.6,
    "entropy_coefficient": 0.3,
    "kl_coefficient": 0.4,
}
CHOICES = 3  # discrete actions

CLOSE = 2e-4  # relative: float32, and an ε of 1e-5 in a normalisation, are both within it


# ------------------------------------------------------------------------------ the definitions


class Fault(NamedTuple):
    """What a wrong reading is called, and what to say about it."""

    check: str
    wrong: str
    effect: str
    mend: str


class Reading(NamedTuple):
    """One way to compute a term, a number a row (any shape: the mean is what counts)."""

    rows: Rows
    said: tuple[str, ...] = ()  # conventions
    fault: Fault | None = None
    right: Rows | None = None  # what should have been computed


@dataclass(frozen=True)
class Term:
    """A part of a loss that is compared as a whole."""

    name: str
    roles: frozenset[str]
    strength: str  # the role of its coefficient; "" where the function takes none
    live: tuple[str, ...]  # roles that its gradient must reach
    readings: list[Reading]
    required: bool

    def weight(self, x: Case) -> float:
        return float(x[self.strength]) if self.strength else 1.0


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _all_log_probs(x: Case) -> np.ndarray:
    return log_softmax(x["logits"]) if "logits" in x else np.log(x["probs"])


def _new(x: Case) -> np.ndarray:
    """log π(a|s), an action's dimensions summed."""
    if "log_probs" in x:
        return _joint(x["log_probs"], x)
    chosen = np.expand_dims(x["actions"], -1)
    return np.take_along_axis(_all_log_probs(x), chosen, -1)[..., 0]


def _joint(log_probs: np.ndarray, x: Case) -> np.ndarray:
    return log_probs.sum(-1) if log_probs.ndim > x["actions"].ndim else log_probs


def _old(x: Case) -> np.ndarray:
    return _joint(x["old_log_probs"], x)


def _ref(x: Case) -> np.ndarray:
    return _joint(x["ref_log_probs"], x)


def _going_on(x: Case) -> np.ndarray:
    return 1 - x["dones"] if "dones" in x else x.get("continues", 1.0)


def _to_go(x: Case, gamma: float | None) -> np.ndarray:
    """Discounted sums of the rewards that follow, by the definition."""
    rewards, steps = x["rewards"], np.arange(len(x["rewards"]))
    discount = NUMBERS["gamma"] if gamma is None else gamma
    powers = np.triu(discount ** np.abs(steps[None] - steps[:, None]).astype(float))
    return np.tensordot(powers, rewards, 1)


class Target(NamedTuple):
    """What the critic is to predict, where a function computes it itself."""

    value: Rows
    said: tuple[str, ...] = ()
    fault: Fault | None = None


def _targets(roles: frozenset[str], gammas: tuple[float, ...]) -> list[Target]:
    if "returns" in roles:
        return [Target(lambda x: x["returns"])]
    found: list[Target] = []
    if {"rewards", "next_values"} <= roles:
        for gamma in (None,) if "gamma" in roles else gammas:
            found += _one_step(gamma, roles)
        return [t for t in found if not t.fault] + [t for t in found if t.fault]
    if {"advantages", "old_values"} <= roles:
        return [Target(lambda x: x["advantages"] + x["old_values"], ("target is A + V_old",))]
    if "rewards" in roles:
        return [
            _summed(gamma, words, norm)
            for words, norm in _normalisations()
            for gamma in ((None,) if "gamma" in roles else gammas)
        ]
    return []


def _summed(gamma: float | None, words: str, norm: Norm) -> Target:
    said = "discounted returns are computed inside"
    return Target(lambda x: norm(_to_go(x, gamma)), (f"{said}, {words}" if words else said,))


def _one_step(gamma: float | None, roles: frozenset[str]) -> list[Target]:
    def discount(x: Case) -> float:
        return NUMBERS["gamma"] if gamma is None else gamma

    def target(go: Rows, past: float = 1.0) -> Rows:
        return lambda x: x["rewards"] + discount(x) ** past * go(x) * x["next_values"]

    said = ("one-step TD target" + ("" if gamma is None else f" with γ = {gamma:g} inside"),)

    def wrong(text: str, effect: str, check: str = "td-target") -> Fault:
        return Fault(
            check, text, effect, "target = rewards + gamma * (1 - terminated) * next_values"
        )

    cut: list[Target] = []
    if "truncated" in roles:
        limited = target(lambda x: _going_on(x) * (1 - x["truncated"]))
        cut = [Target(limited, (*said, "time limits are treated as terminations"))]
    return [
        Target(target(_going_on), said),
        *cut,
        Target(
            target(lambda x: np.ones_like(x["rewards"])),
            said,
            wrong(
                "the TD target bootstraps past a termination",
                "The value of a state that does not exist is added at the end of every episode.",
                "termination-bootstraps",
            ),
        ),
        Target(
            target(lambda x: 1 - _going_on(x)),
            said,
            wrong(
                "the done flag is used inverted: the target bootstraps only at terminations",
                "Values are one-step rewards; nothing later is learnt.",
                "termination-bootstraps",
            ),
        ),
        Target(
            target(_going_on, 0.0),
            said,
            wrong(
                "γ is missing on the bootstrap of the TD target",
                "Values are undiscounted and grow without bound in long episodes.",
            ),
        ),
        Target(
            lambda x: discount(x) * (x["rewards"] + _going_on(x) * x["next_values"]),
            said,
            wrong("γ multiplies the reward as well", "All values are too small by a factor γ."),
        ),
    ]


def _over_values(target: Target) -> Target:
    said = "the advantage is computed inside, as target − values"
    return target._replace(value=lambda x: target.value(x) - x["values"], said=(*target.said, said))


def _advantages(roles: frozenset[str], gammas: tuple[float, ...]) -> list[Target]:
    if "advantages" in roles:
        return [Target(lambda x: x["advantages"])]
    found = []
    for target in _targets(roles, gammas):
        if "values" in roles:
            found.append(_over_values(target))
    bare = [t for t in _targets(roles, gammas) if not t.fault]
    if "next_values" in roles and "values" in roles:
        fault = Fault(
            "advantage-baseline",
            "the TD target stands where the advantage belongs",
            "Without the baseline V(s) every gradient carries the value of the state: its "
            "variance is many times larger.",
            "advantage = target - values",
        )
        found += [t._replace(fault=fault) for t in bare]
    else:
        found += [t._replace(said=(*t.said, "the return itself, without a baseline")) for t in bare]
    return found


Norm = Callable[[np.ndarray], np.ndarray]


def _std(a: np.ndarray, degrees: int, axis: int | None = None) -> np.ndarray:
    with warnings.catch_warnings():  # of one element it is NaN, which is what is looked for
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.std(a, ddof=degrees, axis=axis, keepdims=True)


def _along(axis: int | None, degrees: int, e: float = 1e-8) -> Norm:
    """Normalised along an axis of many (the wrong one whichever it is), or over all (None)."""
    return lambda a: (a - a.mean(axis, keepdims=True)) / (_std(a, degrees, axis) + e)


def _divided(degrees: int) -> Norm:
    return lambda a: a / (_std(a, degrees) + 1e-8)


@functools.cache
def _normalisations() -> tuple[tuple[str, Norm], ...]:
    """In words, and as a function; as it is first."""
    found: list[tuple[str, Norm]] = [("", lambda a: a)]
    for words, degrees in (("population", 0), ("sample", 1)):
        said = f"normalised inside ({words} deviation)"
        found += [(said, _along(None, degrees, e)) for e in (1e-8, 1e-4, 1e-3, 1e-2)]
        found.append((f"divided inside by the {words} deviation, not centred", _divided(degrees)))
    return (*found, ("centred inside, not divided", lambda a: a - a.mean()))


AXIS = Fault(
    "normalisation-axis",
    "advantages are normalised along one axis instead of over the whole batch",
    "Each row or column is forced to mean 0, so that differences between them (which environment "
    "or moment went better) are thrown away; an axis of length 1 leaves nothing or NaN.",
    "advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)",
)
BROADCAST = Fault(
    "broadcast",
    "(B,) and (B, 1) are mixed, so that every element meets every other: a [B, B] table",
    "Each prediction is compared with the data of other states, and learns their average.",
    "Give both the same shape: values.squeeze(-1), or values.reshape(returns.shape).",
)

Surrogate = Callable[[np.ndarray, np.ndarray, np.ndarray, float], np.ndarray]


def _clipped(lp: np.ndarray, old: np.ndarray, a: np.ndarray, e: float) -> np.ndarray:
    ratio = np.exp(lp - old)
    return -np.minimum(ratio * a, np.clip(ratio, 1 - e, 1 + e) * a)


def _dual(limit: float) -> Surrogate:
    def rows(lp: np.ndarray, old: np.ndarray, a: np.ndarray, e: float) -> np.ndarray:
        return np.where(
            a < 0, np.minimum(_clipped(lp, old, a, e), -limit * a), _clipped(lp, old, a, e)
        )

    return rows


def _of_ratio(ratio: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Surrogate:
    """The clipped surrogate with another thing in the place of the ratio."""

    def rows(lp: np.ndarray, old: np.ndarray, a: np.ndarray, e: float) -> np.ndarray:
        r = ratio(lp, old)
        return -np.minimum(r * a, np.clip(r, 1 - e, 1 + e) * a)

    return rows


def _of_clip(clip: Callable[[np.ndarray, float], np.ndarray]) -> Surrogate:
    """The clipped surrogate with another clip."""

    def rows(lp: np.ndarray, old: np.ndarray, a: np.ndarray, e: float) -> np.ndarray:
        r = np.exp(lp - old)
        return -np.minimum(r * a, clip(r, e) * a)

    return rows


def _unclipped(lp: np.ndarray, old: np.ndarray, a: np.ndarray, e: float) -> np.ndarray:
    return -np.exp(lp - old) * a


_RATIO_MEND = "ratio = exp(new_log_probs - old_log_probs)"
_CLIP_MEND = "clip(ratio, 1 - clip_range, 1 + clip_range)"

SURROGATES: list[tuple[Surrogate, Fault]] = [
    (
        lambda lp, old, a, e: (
            -np.maximum(np.exp(lp - old) * a, np.clip(np.exp(lp - old), 1 - e, 1 + e) * a)
        ),
        Fault(
            "surrogate-min",
            "the surrogate takes the larger of the two terms: max for min",
            "The bound is on the wrong side: steps that leave the trust region are rewarded, and "
            "those that would correct a bad one have no gradient.",
            "-min(ratio * A, clipped * A).mean(), or equally max(-ratio * A, -clipped * A).mean()",
        ),
    ),
    (
        _of_ratio(lambda lp, old: np.exp(old - lp)),
        Fault(
            "ratio-direction",
            "the probability ratio is inverted: π_old / π_new",
            "The gradient has the opposite sign: good actions are made less likely.",
            _RATIO_MEND,
        ),
    ),
    (
        lambda lp, old, a, e: -np.exp(old - lp) * a,
        Fault(
            "ratio-direction",
            "the probability ratio is inverted (π_old / π_new), and nothing is clipped",
            "The gradient has the opposite sign: good actions are made less likely.",
            _RATIO_MEND,
        ),
    ),
    (
        lambda lp, old, a, e: -np.clip(np.exp(lp - old), 1 - e, 1 + e) * a,
        Fault(
            "surrogate-min",
            "only the clipped ratio is used: the minimum with ratio * A is missing",
            "A step that went too far the wrong way has no gradient, and is never undone.",
            "-min(ratio * A, clipped * A).mean()",
        ),
    ),
    (
        _of_clip(lambda r, e: np.full_like(r, 1 - e)),
        Fault(
            "clip-range",
            "the bounds of the clip are swapped: clip(ratio, 1 + ε, 1 − ε)",
            "The clipped ratio is a constant: most good actions have no gradient.",
            _CLIP_MEND,
        ),
    ),
    (
        _of_clip(lambda r, e: np.clip(r, -e, e)),
        Fault(
            "clip-range",
            "the ratio is clipped to [−ε, ε] instead of [1 − ε, 1 + ε]",
            "A ratio is near 1, so that it is always clipped: good actions have no gradient.",
            _CLIP_MEND,
        ),
    ),
    (
        _of_clip(lambda r, e: np.clip(r, 0, e)),
        Fault(
            "clip-range",
            "the ratio is clipped to [0, ε] instead of [1 − ε, 1 + ε]",
            "A ratio is near 1, so that it is always clipped: good actions have no gradient.",
            _CLIP_MEND,
        ),
    ),
    (
        _of_clip(lambda r, e: np.maximum(r, 1 - e)),
        Fault(
            "clip-range",
            "the ratio is clipped from below only",
            "Good actions are made likelier without bound.",
            _CLIP_MEND,
        ),
    ),
    (
        _of_clip(lambda r, e: np.minimum(r, 1 + e)),
        Fault(
            "clip-range",
            "the ratio is clipped from above only",
            "Bad actions are made less likely without bound.",
            _CLIP_MEND,
        ),
    ),
    (
        _of_clip(lambda r, e: np.maximum(r, 1 + e)),
        Fault(
            "clip-range",
            "the clip is on the wrong side: the ratio is raised to at least 1 + ε",
            "Bad actions are bounded from the wrong side, and good ones are not bounded at all.",
            _CLIP_MEND,
        ),
    ),
    (
        _of_clip(lambda r, e: np.where(r > 1, np.maximum(r, 1 + e), np.minimum(r, 1 - e))),
        Fault(
            "clip-range",
            "the ratio is pushed out of the clip range instead of into it",
            "Nothing bounds the step.",
            _CLIP_MEND,
        ),
    ),
    (
        lambda lp, old, a, e: (
            -np.minimum(
                np.exp(lp - old) * a, np.clip(np.exp(lp - old) * a, (1 - e) * a, (1 + e) * a)
            )
        ),
        Fault(
            "clip-range",
            "the product ratio * A is clipped to [(1 − ε) A, (1 + ε) A], whose bounds are "
            "swapped where A is negative",
            "Bad actions are bounded on the wrong side.",
            _CLIP_MEND,
        ),
    ),
    (
        lambda lp, old, a, e: (
            -np.minimum(np.exp(lp - old) * a, np.clip(np.exp(lp - old) * a, 1 - e, 1 + e))
        ),
        Fault(
            "clip-range",
            "the product ratio * A is clipped instead of the ratio",
            "The bound depends on the size of the advantage: large ones have no gradient.",
            _CLIP_MEND,
        ),
    ),
    (
        _of_ratio(lambda lp, old: np.exp(np.sum(lp - old)) * np.ones_like(lp)),
        Fault(
            "ratio-per-sample",
            "one ratio for the whole batch: log-probabilities are summed over it before exp",
            "Every action is weighted by what happened to all the others.",
            _RATIO_MEND,
        ),
    ),
    (
        _of_ratio(lambda lp, old: np.exp(np.mean(lp - old)) * np.ones_like(lp)),
        Fault(
            "ratio-per-sample",
            "one ratio for the whole batch: log-probabilities are averaged over it before exp",
            "Every action is weighted by what happened to all the others.",
            _RATIO_MEND,
        ),
    ),
    (
        _of_ratio(lambda lp, old: np.exp(lp).sum() / np.exp(old).sum() * np.ones_like(lp)),
        Fault(
            "ratio-per-sample",
            "the ratio is one of probabilities summed over the batch",
            "Every action is weighted by what happened to all the others.",
            _RATIO_MEND,
        ),
    ),
    (
        _of_ratio(lambda lp, old: lp - old),
        Fault(
            "ratio-exp",
            "exp is missing: the ratio is the difference of log-probabilities",
            "It is 0 where it should be 1, so that the clip always acts on it.",
            _RATIO_MEND,
        ),
    ),
    (
        _of_ratio(lambda lp, old: lp / old),
        Fault(
            "ratio-exp",
            "the ratio is one of log-probabilities, not of probabilities",
            "Log-probabilities are negative: likelier actions have a smaller ratio.",
            _RATIO_MEND,
        ),
    ),
    (
        _of_clip(lambda r, e: np.exp(np.clip(np.log(r), 1 - e, 1 + e))),
        Fault(
            "clip-range",
            "the log-ratio is clipped to [1 − ε, 1 + ε]",
            "A log-ratio is near 0: it is always clipped.",
            _CLIP_MEND,
        ),
    ),
]
NOT_CLIPPED = Fault(
    "clip-range",
    "the ratio is not clipped",
    "Nothing bounds the step: several epochs on the same data tear the policy away from the one "
    "that gathered it.",
    "-min(ratio * A, clip(ratio, 1 - clip_range, 1 + clip_range) * A).mean()",
)


def _plain(lp: np.ndarray, old: np.ndarray, a: np.ndarray, e: float) -> np.ndarray:
    return -lp * a


def _probability(lp: np.ndarray, old: np.ndarray, a: np.ndarray, e: float) -> np.ndarray:
    return -np.exp(lp) * a


NOT_LOGARITHM = Fault(
    "policy-log",
    "the probability stands where its logarithm belongs",
    "Actions that are rare hardly learn: their gradient is scaled by π(a|s).",
    "-(log_prob * advantage).mean()",
)


def _policy(
    roles: frozenset[str], clips: tuple[float, ...], gammas: tuple[float, ...], bounded: bool
) -> list[Reading]:
    """Readings of the policy term. `bounded`: a ratio that nothing bounds is a mistake."""
    off_policy, hidden = "old_log_probs" in roles, "clip_range" not in roles
    found: list[Reading] = []

    def rows(form: Surrogate, a: Rows, norm: Norm, e: float, table: bool = False) -> Rows:
        def computed(x: Case) -> np.ndarray:
            new, old, advantage = _new(x), _old(x) if off_policy else _new(x), norm(a(x))
            if table:
                new, old, advantage = new.ravel()[:, None], old.ravel()[:, None], advantage.ravel()
            return form(new, old, advantage, e if hidden else x["clip_range"])

        return computed

    def add(target: Target, words: str, norm: Norm, e: float) -> None:
        said = (*target.said, *((words,) if words else ()))
        a, form = target.value, _clipped if off_policy else _plain
        right = rows(form, a, norm, e)
        if target.fault:
            meant = next(t.value for t in advantages if not t.fault)
            found.append(Reading(right, said, target.fault, rows(form, meant, norm, e)))
            return
        for axis, degrees in () if words else itertools.product((0, -1), (0, 1)):
            along = rows(form, a, _along(axis, degrees), e)
            found.append(Reading(along, said, AXIS, rows(form, a, _along(None, degrees), e)))
        found.append(Reading(rows(form, a, norm, e, table=True), said, BROADCAST, right))
        if not off_policy:
            found.append(Reading(right, said))
            found.append(Reading(rows(_probability, a, norm, e), said, NOT_LOGARITHM, right))
            return
        unbounded = Reading(rows(_unclipped, a, norm, e), said, NOT_CLIPPED, right)
        if not bounded:
            said_so = (*said, "the ratio is not clipped")
            unbounded = unbounded._replace(said=said_so, fault=None, right=None)
        at = (*said, *((f"ε = {e:g} is written inside",) if hidden else ()))
        found.extend([Reading(right, at), unbounded])
        for limit in (3.0, 2.0):
            dual = rows(_dual(limit), a, norm, e)
            found.append(Reading(dual, (*at, f"dual clip at {limit:g}")))
        found.extend(Reading(rows(f, a, norm, e), at, fault, right) for f, fault in SURROGATES)

    advantages = _advantages(roles, gammas)
    for target in advantages:
        for words, norm in _normalisations():
            for e in clips if off_policy else (0.0,):
                add(target, words, norm, e)
    return found


MEAN_ERROR = Fault(
    "value-loss",
    "the square of the mean error, not the mean of the squared errors",
    "Only the average over the batch is fitted: states are not told apart.",
    "((values - targets) ** 2).mean()",
)


def _value(
    roles: frozenset[str], clips: tuple[float, ...], gammas: tuple[float, ...]
) -> list[Reading]:
    targets = _targets(roles, gammas)
    return [reading for t in targets for reading in _errors(t, targets[0], roles, clips)]


def _errors(
    target: Target, meant: Target, roles: frozenset[str], clips: tuple[float, ...]
) -> list[Reading]:
    """Readings of the value term for one target."""
    t, said = target.value, target.said

    def square(x: Case) -> np.ndarray:
        return (x["values"] - t(x)) ** 2

    def huber(x: Case) -> np.ndarray:
        d = np.abs(x["values"] - t(x))
        return np.where(d < 1, 0.5 * d**2, d - 0.5)

    def table(x: Case) -> np.ndarray:
        return (x["values"].ravel()[:, None] - t(x).ravel()) ** 2

    def of_mean(x: Case) -> np.ndarray:
        return np.array([(x["values"].mean() - t(x).mean()) ** 2])

    if target.fault:
        return [Reading(square, said, target.fault, lambda x: (x["values"] - meant.value(x)) ** 2)]
    smooth = "smooth L1 (Huber) instead of the square: less moved by outliers, a little biased"
    absolute = "absolute error instead of the square: values estimate the median return"
    found = [
        Reading(square, said),
        Reading(huber, (*said, smooth)),
        Reading(lambda x: np.abs(x["values"] - t(x)), (*said, absolute)),
        Reading(table, said, BROADCAST, square),
        Reading(of_mean, said, MEAN_ERROR, square),
    ]
    hidden = not {"clip_range", "value_clip_range"} & roles
    if "old_values" in roles:
        for e in clips:
            at = (f"value clip ε = {e:g} is written inside",) if hidden else ()
            name = "value_clip_range" if "value_clip_range" in roles else "clip_range"
            clipped = _value_clips(t, e if hidden else None, name, square)
            found += [r._replace(said=(*said, *at, *r.said)) for r in clipped]
    return found


def _value_clips(t: Rows, e: float | None, name: str, square: Rows) -> list[Reading]:
    def width(x: Case) -> float:
        return float(x[name]) if e is None else e

    def limited(x: Case) -> np.ndarray:
        step = np.clip(x["values"] - x["old_values"], -width(x), width(x))
        return (x["old_values"] + step - t(x)) ** 2

    def both(x: Case) -> np.ndarray:
        return np.maximum(square(x), limited(x))

    def fault(wrong: str, effect: str) -> Fault:
        mend = "max((V - R)², (V_old + clip(V - V_old, -ε, ε) - R)²)"
        return Fault("value-clip", wrong, effect, mend)

    around_zero = "values are clipped to [−ε, ε] themselves, not their change since V_old"
    return [
        Reading(both, ("the value is clipped around V_old (the larger of two losses)",)),
        Reading(limited, ("the value is clipped around V_old (only the clipped loss)",)),
        Reading(
            lambda x: np.minimum(square(x), limited(x)),
            (),
            fault(
                "the value clip takes the smaller of the two losses: min for max",
                "Leaving the range is rewarded: a value that is far off has no gradient, and "
                "stays far off.",
            ),
            both,
        ),
        Reading(
            lambda x: np.maximum(
                square(x), (np.clip(x["values"], -width(x), width(x)) - t(x)) ** 2
            ),
            (),
            fault(around_zero, "Values outside [−ε, ε] are compared with a constant."),
            both,
        ),
        Reading(
            lambda x: (np.clip(x["values"], -width(x), width(x)) - t(x)) ** 2,
            (),
            fault(around_zero, "Values outside [−ε, ε] have no gradient: they cannot be learnt."),
            both,
        ),
        Reading(
            lambda x: np.maximum(
                square(x),
                (
                    np.clip(
                        x["values"],
                        x["old_values"] * (1 - width(x)),
                        x["old_values"] * (1 + width(x)),
                    )
                    - t(x)
                )
                ** 2,
            ),
            (),
            fault(
                "the value is clipped to a multiple of V_old: (1 ± ε) V_old",
                "The range depends on the sign and size of the value; at 0 nothing may change.",
            ),
            both,
        ),
        Reading(
            lambda x: np.maximum(
                square(x),
                (x["values"] + np.clip(x["values"] - x["old_values"], -width(x), width(x)) - t(x))
                ** 2,
            ),
            (),
            fault(
                "the clipped change is added to V instead of V_old",
                "The clipped value moves twice, and its gradient is doubled.",
            ),
            both,
        ),
    ]


def _entropy(roles: frozenset[str]) -> list[Reading]:
    """Readings of minus the bonus: a loss."""
    if "entropy" in roles:
        return [Reading(lambda x: -x["entropy"])]
    readings = []
    if {"logits", "probs"} & roles:

        def negative_entropy(x: Case) -> np.ndarray:
            log_p = _all_log_probs(x)
            return (np.exp(log_p) * log_p).sum(-1)

        fault = Fault(
            "entropy-definition",
            "the entropy is −Σ log p: the weights p are missing",
            "It pushes hardest on the rarest actions, and is not bounded.",
            "entropy = -(p * log_p).sum(-1)",
        )
        readings = [
            Reading(negative_entropy),
            Reading(lambda x: _all_log_probs(x).sum(-1), (), fault, negative_entropy),
        ]
    said = (
        "the entropy is estimated by −log π of the sampled actions, whose gradient is 0 on "
        "average: prefer the entropy itself"
    )
    return [*readings, Reading(_new, (said,))] if "entropy_coefficient" in roles else readings


def _kl(roles: frozenset[str]) -> list[Reading]:
    """Estimators of the KL divergence from samples, as losses. d is log π - log π_ref."""
    if "ref_log_probs" not in roles:
        # The samples are the old policy's: -d is then unbiased, and so is its gradient.
        def since(x: Case) -> np.ndarray:
            return _new(x) - _old(x)

        return [
            Reading(lambda x: -since(x), ("KL(π_old ‖ π) by −log ratio",)),
            Reading(lambda x: np.expm1(since(x)) - since(x), ("KL(π_old ‖ π) by k3",)),
            Reading(lambda x: 0.5 * since(x) ** 2, ("KL(π_old ‖ π) by k2",)),
            Reading(lambda x: since(x) ** 2, ("KL(π_old ‖ π) by the squared log ratio",)),
            Reading(
                lambda x: np.exp(since(x)) * since(x), ("KL(π ‖ π_old), weighted by the ratio",)
            ),
            Reading(lambda x: np.expm1(-since(x)) + since(x), ("KL(π ‖ π_old) by k3",)),
        ]

    def d(x: Case) -> np.ndarray:
        return _new(x) - _ref(x)

    def k3(x: Case) -> np.ndarray:
        return np.expm1(-d(x)) + d(x)

    readings = [
        Reading(k3, ("KL to the reference by the k3 estimator",)),
        Reading(lambda x: 0.5 * d(x) ** 2, ("KL to the reference by the k2 estimator",)),
        Reading(lambda x: d(x) ** 2, ("KL to the reference by the squared log ratio",)),
        Reading(lambda x: np.abs(d(x)), ("KL to the reference by |log ratio|",)),
        Reading(lambda x: np.expm1(d(x)) - d(x), ("KL of the reference from π, by k3",)),
    ]
    if "old_log_probs" in roles:
        readings += [
            Reading(lambda x: np.exp(_new(x) - _old(x)) * d(x), ("k1, weighted by the ratio",)),
            Reading(lambda x: np.exp(_new(x) - _old(x)) * k3(x), ("k3, weighted by the ratio",)),
        ]
    fault = Fault(
        "kl-estimator",
        "the KL penalty is the k1 estimator, log π − log π_ref of samples, used as a loss",
        "Its gradient is that of log π, whose mean over the policy's own samples is zero whatever "
        "the reference is: noise instead of a pull towards the reference.",
        "Use k3 as the loss: d = ref_log_probs - log_probs; kl = exp(d) - 1 - d. "
        "Or put k1, detached, into the reward.",
    )
    return [*readings, Reading(d, (), fault, k3)]


SIGNS = {
    "policy": Fault(
        "policy-sign",
        "the policy term has the wrong sign: minimising it makes good actions less likely",
        "The policy is trained to get the smallest return.",
        "loss = -(log_prob * advantage).mean()",
    ),
    "value": Fault(
        "value-sign",
        "the value term has the wrong sign: minimising it makes the error larger",
        "The critic diverges.",
        "loss = ... + value_coefficient * ((values - returns) ** 2).mean()",
    ),
    "entropy": Fault(
        "entropy-sign",
        "the entropy bonus has the wrong sign: minimising the loss makes the entropy smaller",
        "The policy becomes deterministic early and stops to explore.",
        "loss = policy_loss - entropy_coefficient * entropy.mean()",
    ),
    "kl": Fault(
        "kl-sign",
        "the KL penalty has the wrong sign: minimising the loss makes the divergence larger",
        "The policy is driven away from the reference.",
        "loss = policy_loss + kl_coefficient * kl.mean()",
    ),
}
DEAD = {
    "policy": Fault(
        "policy-gradient",
        "the policy term carries no gradient",
        "The actor does not learn.",
        "Do not detach the log-probabilities of the current policy.",
    ),
    "value": Fault(
        "value-gradient",
        "the value term carries no gradient",
        "The critic does not learn.",
        "Detach the target, not the values.",
    ),
    "entropy": Fault(
        "entropy-gradient",
        "the entropy carries no gradient",
        "The bonus moves the reported loss and nothing else: exploration is not encouraged.",
        "Compute the entropy from the current policy's output, without detach or no_grad.",
    ),
    "kl": Fault(
        "kl-gradient",
        "the KL penalty carries no gradient",
        "It moves the reported loss and nothing else: nothing holds the policy near the reference.",
        "Compute it from the current log-probabilities, without detach or no_grad.",
    ),
}
_ADVANTAGE_LEAK = Fault(
    "advantage-detached",
    "the gradient of the policy term flows through the advantage",
    "The actor's loss trains the critic: it changes values to make the loss small, not right.",
    "advantage = (returns - values).detach(), or jax.lax.stop_gradient(returns - values)",
)
_TARGET_LEAK = Fault(
    "target-detached",
    "the gradient of the value term flows into the target",
    "Next values are pulled towards present ones as well: the critic no longer follows TD.",
    "target = (rewards + gamma * (1 - terminated) * next_values).detach()",
)


def _leak(term: str, role: str) -> Fault:
    if term == "value":
        if role == "old_values":
            return _TARGET_LEAK._replace(
                check="old-values-detached",
                wrong="the gradient of the value term flows into the old values",
                effect="The clip range moves with the value that it should bound.",
                mend="old_values = old_values.detach()",
            )
        return _TARGET_LEAK
    if role in ("old_log_probs", "ref_log_probs"):
        return Fault(
            "old-log-probs-detached" if role == "old_log_probs" else "reference-detached",
            f"gradient flows into {role}",
            "Two policies are trained against each other: the ratio's gradient cancels where they "
            "share parameters.",
            f"{role} = {role}.detach()",
        )
    return _ADVANTAGE_LEAK


# ------------------------------------------------------------------------------ cases


class Layout(NamedTuple):
    """In which shapes the function is given its arrays."""

    words: str
    shapes: tuple[tuple[int, ...], tuple[int, ...]] = ((4,), (3,))
    columns: tuple[str, ...] = ()  # roles that get a last axis of length 1
    dimensions: int = 0  # of an action whose log-probabilities come one by one


FLAT = Layout("[B]")
COLUMNS = Layout("[B, 1]", columns=tuple(r for r in ROLES if r not in ("logits", "probs")))
MIXED = Layout("[B], values [B, 1]", columns=("values", "old_values", "next_values"))
GRID = Layout("[T, B]", shapes=((3, 2), (2, 2)))
LAYOUTS = (
    *(FLAT, MIXED, COLUMNS, GRID),
    Layout("[B], log-probabilities [B, D]", dimensions=2),
)


def _everything(rng: np.random.Generator, shape: tuple[int, ...], dimensions: int = 0) -> Case:
    """Every role. Ranges are such that each clip acts on some of the elements."""
    wide = (*shape, dimensions) if dimensions else shape
    logits = rng.normal(size=(*shape, CHOICES))
    x: Case = {name: -1.2 + rng.uniform(-0.45, 0.45, wide) for name in list(ROLES)[:3]}
    x |= {
        "advantages": rng.normal(0.3, 1.2, shape),
        "values": 0.5 + rng.uniform(-0.6, 0.6, shape),
        "old_values": 0.5 + rng.uniform(-0.6, 0.6, shape),
        "next_values": 0.5 + rng.uniform(-0.6, 0.6, shape),
        "returns": rng.normal(0.5, 1.0, shape),
        "rewards": rng.normal(0.5, 1.0, shape),
        "dones": (rng.permutation(math.prod(shape)) % 2).reshape(shape).astype(float),
        "truncated": np.zeros(shape),
        "entropy": rng.uniform(0.3, 1.5, shape),
        "logits": logits,
        "probs": np.exp(log_softmax(logits)),
        "actions": rng.integers(CHOICES, size=shape),
    }
    # One bad action has become much likelier: a dual clip acts on it.
    x["log_probs"][0] += 0.6
    x["old_log_probs"][0] -= 0.6
    x["advantages"][0] = -np.abs(x["advantages"][0])
    x["truncated"] = (1 - x["dones"]) * rng.integers(2, size=shape)
    x["continues"] = 1 - x["dones"]
    return x | NUMBERS


# ------------------------------------------------------------------------------ the user's loss


class Measured(NamedTuple):
    total: float
    gradients: dict[str, np.ndarray] | None  # of the roles that were differentiated
    rows: bool  # one number a row came back


_TOTALS = ("total_loss", "loss", "total", "actor_loss", "policy_loss", "pg_loss", "critic_loss")


def _first(result: Any) -> Any:
    """The total among what came back: the value itself, the first, or the one named so."""
    result = result._asdict() if hasattr(result, "_asdict") else result
    result = vars(result) if isinstance(result, SimpleNamespace) else result
    if isinstance(result, Mapping):
        named = [name for name in _TOTALS if name in result]
        return result[named[0]] if named else next(iter(result.values()))
    if isinstance(result, tuple) and result:
        return _first(result[0])
    return result


def _scalar(total: Any) -> tuple[Any, bool]:
    if isinstance(total, list):
        return sum(total) / len(total), True
    return (total.mean(), True) if getattr(total, "ndim", 0) else (total, False)


@dataclass
class Subject:
    """The user's function, as a function of cases."""

    function: Callable[..., Any]
    matched: calling.Matched
    framework: calling.Framework
    layout: Layout
    roles: frozenset[str]
    differentiated: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()  # of PyTorch scalars: the roles that are given so
    read: set[str] = field(default_factory=set)  # roles that a function of one case looked at

    def shown(self, x: Case) -> Case:
        """The case as it is handed over."""
        columns = self.layout.columns
        return {
            r: x[r][..., None] if r in columns and isinstance(x[r], np.ndarray) else x[r]
            for r in ROLES
            if r in self.roles
        }

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Case:
        """A random case of the roles that it takes; `actions` tell its shape in any case."""
        x = _everything(rng, shape, self.layout.dimensions)
        return {r: v for r, v in x.items() if r in self.roles or r == "actions"}

    def __call__(self, x: Case) -> Measured:
        shown, framework = self.shown(x), self.framework
        named = self.differentiated
        if framework.name == "jax":
            total, gradients, rows = self._jax(shown, named)
        elif framework.name.startswith("torch"):
            total, gradients, rows = self._torch(shown, named)
        else:
            result = self._result(shown, framework)
            raw, rows = _scalar(_first(result))
            total, gradients = float(raw), None
        if gradients is not None:
            gradients = {r: np.asarray(g, float).reshape(x[r].shape) for r, g in gradients.items()}
        return Measured(total, gradients, rows)

    def _result(self, given: Case, framework: calling.Framework, convert: bool = True) -> Any:
        returned = calling.call(self.function, self.matched, given, framework, convert)
        self.read |= returned.read
        return returned.result

    def _jax(self, shown: Case, named: tuple[str, ...]) -> tuple[float, Any, bool]:
        import jax

        rows = False
        with self.framework.context():
            made = {
                r: self.framework.array(v) if isinstance(v, np.ndarray) else v
                for r, v in shown.items()
            }

            def loss(wanted: dict[str, Any]) -> Any:
                nonlocal rows
                given = made | wanted
                result = self._result(given, self.framework, convert=False)
                total, rows = _scalar(_first(result))
                return total

            wanted = {r: made[r] for r in named}
            if not wanted:
                return float(loss({})), None, rows
            total, gradients = jax.value_and_grad(loss)(wanted)
            return float(total), {r: np.asarray(g) for r, g in gradients.items()}, rows

    def _torch(self, shown: Case, named: tuple[str, ...]) -> tuple[float, Any, bool]:
        import importlib

        torch = importlib.import_module("torch")
        flat = calling.Framework("torch", self.framework.dtype)
        leaves = {
            r: flat.array(v, requires_grad=r in named)
            for r, v in shown.items()
            if isinstance(v, np.ndarray)
        }
        # Not the leaves themselves: code may change its arguments in place.
        given = {r: leaf * 1 if leaf.requires_grad else leaf for r, leaf in leaves.items()}
        given |= {r: list(given[r].unbind()) for r in self.lists if r in given}
        values = shown | given
        result = self._result(values, flat, convert=False)
        raw, rows = _scalar(_first(result))
        if not named:
            return float(raw), None, rows
        if getattr(raw, "requires_grad", False):
            raw.backward()
        gradients = {
            r: np.zeros(leaves[r].shape) if leaves[r].grad is None else leaves[r].grad.numpy()
            for r in named
        }
        return float(torch.as_tensor(raw).detach()), gradients, rows


def _told_apart(
    function: Callable[..., Any], mapping: Mapping[str, str] | None
) -> Mapping[str, str] | None:
    """Beside a new_value, a plain value is the old one; so are log-probabilities."""
    said = dict(mapping or {})
    with contextlib.suppress(TypeError, ValueError):
        names = [n for n in inspect.signature(function).parameters if n not in said]
        for role in ("log_probs", "values"):
            same = [n for n in names if calling.match_name(n, ROLES) == role]
            new = [n for n in same if re.match(r"new|curr", n)]
            taken = any(calling.match_name(n, ROLES) == f"old_{role}" for n in names)
            if len(same) == 2 and len(new) == 1 and not taken:
                said[next(n for n in same if n not in new)] = f"old_{role}"
    return said or None


def _subjects(
    function: Callable[..., Any], mapping: Mapping[str, str] | None
) -> tuple[list[Subject], str]:
    """Every way in which the function can be called, the likeliest first."""
    matched = calling.recognise(function, ROLES, _told_apart(function, mapping))
    rng = np.random.default_rng(0)
    drawn = {
        layout.words: _everything(rng, layout.shapes[0], layout.dimensions) for layout in LAYOUTS
    }
    failed = ""
    options = calling.frameworks(function, matched)
    if options[0].name in ("numpy", "list"):
        # Code that is bound to no library runs with gradients in the one that its module imports.
        modules = getattr(inspect.unwrap(function), "__globals__", {}).values()
        imported = {m.__name__ for m in modules if inspect.ismodule(m)}
        better = "torch" if "torch" in imported else "jax"
        options.sort(key=lambda option: option.name != better)
    for framework in options:
        found = []
        for layout in LAYOUTS:
            taken = frozenset(r for r in ROLES if matched.takes(r))
            arrays = [r for r in taken if isinstance(drawn[layout.words][r], np.ndarray)]
            if layout.columns and not set(arrays) & set(layout.columns):
                continue
            if layout.dimensions and not {"log_probs", "old_log_probs"} & taken:
                continue
            floats = tuple(r for r in (*NETWORK, *DATA, "next_values") if r in taken)
            lists: tuple[tuple[str, ...], ...] = ((),)
            if framework.name == "torch-list":
                lists = (tuple(arrays), tuple(r for r in arrays if r in NETWORK))
            live = tuple(r for r in floats if r in NETWORK or r == "next_values")
            wanted = (floats, live, ()) if framework.name not in ("numpy", "list") else ((),)
            for listed, named in itertools.product(lists, wanted):
                subject = Subject(function, matched, framework, layout, taken, named, listed)
                try:
                    subject(drawn[layout.words])
                except CannotCall:
                    raise
                except (Exception, SystemExit) as error:
                    failed = failed or calling.one_line(error)
                    continue
                if matched.takes_case:
                    subject.roles = frozenset(subject.read)
                    subject.differentiated = tuple(r for r in named if r in subject.read)
                found.append(subject)
                break
            else:
                continue
        if found:
            return found, ""
    return [], failed


# ------------------------------------------------------------------------------ identification


class Sample(NamedTuple):
    """A signed sum of cases in which only one term counts, and what the function gives for it."""

    cases: tuple[tuple[float, Case], ...]
    total: float
    gradients: dict[str, np.ndarray] | None
    noise: float  # rounding, absolute


@dataclass
class Match:
    """A term whose reading is known."""

    term: Term
    reading: Reading
    scale: float  # for one row; multiplied by rows ** power
    power: int
    flow: set[str] = field(default_factory=set)  # roles through which its gradient flows
    bent: set[str] = field(default_factory=set)  # those of them by which it is not its own
    sloped: set[str] = field(default_factory=set)  # roles by which it has one on these samples

    def factor(self, x: Case) -> float:
        return self.scale * float(_rows_of(x)) ** self.power * self.term.weight(x)

    def total(self, x: Case) -> float:
        return self.factor(x) * float(np.mean(self.reading.rows(x)))


def _rows_of(x: Case) -> int:
    return int(x["actions"].size)


def _slope(rows: Rows, x: Case, role: str) -> np.ndarray:
    """The gradient of the mean, by central differences."""
    if role not in x:
        return np.zeros(0)
    step, flat = 1e-6, x[role].ravel()
    found = np.zeros(flat.size)
    for i in range(flat.size):
        ends = []
        for sign in (1, -1):
            moved = flat.copy()
            moved[i] += sign * step
            ends.append(np.mean(rows(x | {role: moved.reshape(x[role].shape)})))
        found[i] = (ends[0] - ends[1]) / (2 * step)
    return found.reshape(x[role].shape)


def _samples(
    subject: Subject, term: Term, own: set[str], known: list[Match], seed: int
) -> list[list[Sample]]:
    """For each of two batch sizes, some samples that isolate `term`."""
    groups = []
    for size, count in zip(subject.layout.shapes, (3, 2), strict=True):
        rng = np.random.default_rng([seed, *size])
        base = subject.draw(rng, size)
        start = subject(base) if own and not term.strength else None
        group = []
        for _ in range(count):
            x = subject.draw(rng, size)
            if term.strength:
                x = {**x, term.strength: rng.uniform(0.5, 1.5)}
                cases = ((1.0, x), (-1.0, x | {term.strength: 0.0}))
                group.append(_signed(cases, [subject(case) for _, case in cases]))
            elif start is not None:
                x = {r: (v if r in own else base[r]) for r, v in x.items()}
                measured = subject(x)
                sample = _signed(((1.0, x), (-1.0, base)), [measured, start])
                if sample.gradients is not None:
                    # Nothing else depends on these: their gradients need no difference.
                    alone = {r: g for r, g in (measured.gradients or {}).items() if r in own}
                    sample = sample._replace(gradients=sample.gradients | alone)
                group.append(sample)
            else:
                whole = _signed(((1.0, x),), [subject(x)])
                rest = sum(match.total(x) for match in known)
                gradients = whole.gradients
                if gradients is not None:
                    gradients = {
                        r: g
                        - sum(
                            m.factor(x) * _slope(m.reading.rows, x, r) for m in known if r in m.flow
                        )
                        for r, g in gradients.items()
                    }
                group.append(
                    whole._replace(
                        total=whole.total - rest,
                        gradients=gradients,
                        noise=whole.noise + 1e-5 * abs(rest),
                    )
                )
        groups.append(group)
    return groups


def _signed(cases: tuple[tuple[float, Case], ...], results: list[Measured]) -> Sample:
    total = sum(sign * r.total for (sign, _), r in zip(cases, results, strict=True))
    gradients = None
    if results[0].gradients is not None:
        signs = [sign for sign, _ in cases]
        gradients = {
            role: np.tensordot(signs, [(r.gradients or {})[role] for r in results], 1)
            for role in results[0].gradients
        }
    return Sample(cases, total, gradients, 1e-6 * max(abs(r.total) for r in results))


def _expected(reading: Reading, term: Term, sample: Sample) -> float:
    return sum(sign * term.weight(x) * float(np.mean(reading.rows(x))) for sign, x in sample.cases)


def _identify(term: Term, groups: list[list[Sample]]) -> Match | None:
    """The reading that reproduces the numbers, up to a positive factor if there is one such."""
    sizes = [_rows_of(group[0].cases[0][1]) for group in groups]
    best: dict[tuple[bool, bool], list[tuple[float, Match]]] = {}
    for reading in term.readings:
        scales, errors = [], []
        for group in groups:
            u = np.array([s.total for s in group])
            with np.errstate(all="ignore"):
                r = np.array([_expected(reading, term, s) for s in group])
            if not np.all(np.isfinite(r)) or not r @ r > 1e-16:
                break
            scales.append(float(u @ r / (r @ r)))
            slack = CLOSE * np.linalg.norm(u) + np.linalg.norm([s.noise for s in group])
            errors.append(float(np.linalg.norm(u - scales[-1] * r) / (slack + 1e-300)))
        if len(scales) < len(groups) or max(errors) > 1 or scales[0] == 0:
            continue
        ratio = scales[0] / scales[1]
        powers = [k for k in range(3) if abs(ratio / (sizes[0] / sizes[1]) ** k - 1) < 0.02]
        if not powers:
            continue
        match = Match(term, reading, scales[0] / sizes[0] ** powers[0], powers[0])
        wrong = (reading.fault is not None, scales[0] < 0)
        best.setdefault(wrong, []).append((max(errors), match))
    for key in ((False, False), (False, True), (True, False), (True, True)):
        if key in best:
            least = min(error for error, _ in best[key])
            return next(m for error, m in best[key] if error <= 10 * least + 1e-3)
    return None


# ------------------------------------------------------------------------------ the audit


def _terms(
    kind: str, roles: frozenset[str], numbers: Mapping[str, float], literals: tuple[float, ...]
) -> list[Term]:
    gammas = tuple(dict.fromkeys((*_constant(numbers, "gamma"), *literals, 0.99, 0.9, 0.95, 1.0)))

    def clips(role: str) -> tuple[float, ...]:
        if {"clip_range", role} & roles:
            return (NUMBERS[role],)
        usual = (0.2, 0.1, 0.3, 0.15, 0.25, 0.05, 0.4)
        return tuple(dict.fromkeys((*_constant(numbers, role), *literals, *usual)))

    def term(name: str, used: set[str], live: tuple[str, ...], readings: list[Reading]) -> None:
        strong = f"{name}_coefficient" if f"{name}_coefficient" in roles else ""
        asked = {"policy": kind != "critic-loss", "value": kind == "critic-loss"}
        # An entropy that is handed over without a coefficient may be for the record.
        required = asked.get(name, False) or bool(strong and (name != "entropy" or given))
        if readings:
            terms.append(Term(name, frozenset(used & roles), strong, live, readings, required))

    terms: list[Term] = []
    given = {"entropy"} & roles
    new = {"log_probs"} & roles or {"logits", "probs", "actions"} & roles
    acts = "log_probs" in new or len(new) > 1
    step = {"rewards", "next_values", "dones", "continues", "truncated", "gamma"}
    aims = {"returns"} & roles or step
    old_aims = {"advantages", "old_values"}
    clip = {"clip_range"}
    sources = {"advantages"} & roles or {"returns", "rewards"} & roles
    if acts and sources:
        bounded = kind == "ppo-loss" and not {"kl_coefficient", "ref_log_probs"} & roles
        used = new | {"old_log_probs"} | clip | ({"advantages"} & roles or aims | {"values"})
        term("policy", used, _live(roles), _policy(roles, clips("clip_range"), gammas, bounded))
    if "values" in roles:
        used = (aims if {"returns", "rewards"} & roles else old_aims) | clip
        used |= {"values", "old_values", "value_clip_range"}
        term("value", used, ("values",), _value(roles, clips("value_clip_range"), gammas))
    if kind != "critic-loss" and (acts or "entropy" in roles):
        term("entropy", given or new, ("entropy",) if given else _live(roles), _entropy(roles))
    if acts and ("ref_log_probs" in roles or {"kl_coefficient", "old_log_probs"} <= roles):
        term("kl", new | {"ref_log_probs", "old_log_probs"}, _live(roles), _kl(roles))
    return terms


def _constant(numbers: Mapping[str, float], role: str) -> tuple[float, ...]:
    return (numbers[role],) if role in numbers else ()


def _live(roles: frozenset[str]) -> tuple[str, ...]:
    """From where log π comes."""
    return next((r,) for r in ("log_probs", "logits", "probs") if r in roles)


@dataclass
class Audit:
    """The state of one audit: what was recognised, and what was found."""

    subject: Subject
    kind: str
    terms: list[Term]
    strict: bool
    known: list[Match] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)
    failures: list[Finding] = field(default_factory=list)
    conventions: list[str] = field(default_factory=list)
    not_checked: list[str] = field(default_factory=list)
    upside_down: bool = False  # an objective, to be maximised, and named so
    unknown: list[Term] = field(default_factory=list)
    vague: int = 0  # terms that no reading explains
    open: list[str] = field(default_factory=list)  # data whose gradient is not stopped inside

    # -- the right loss, for examples

    def right_total(self, x: Case) -> float:
        total = 0.0
        sign = -1.0 if self.upside_down else 1.0
        for match in self.known:
            rows = match.reading.right or match.reading.rows
            power = min(match.power, 1) if match.reading.fault is not BROADCAST else 0
            scale = sign * abs(match.scale) * _rows_of(x) ** power * match.term.weight(x)
            total += scale * float(np.mean(rows(x)))
        for term in self.unknown:
            right = next(r for r in term.readings if r.fault is None)
            total += sign * term.weight(x) * float(np.mean(right.rows(x)))
        return total

    def fail(self, fault: Fault, example: str) -> None:
        if fault.check not in [f.check for f in self.failures]:
            wrong = fault.wrong[0].upper() + fault.wrong[1:] + "."
            mend = fault.mend
            self.failures.append(Finding(fault.check, wrong, fault.effect, example, mend))

    def hold(self, check: str) -> None:
        if check not in self.passed:
            self.passed.append(check)

    # -- examples

    def example(self, term: Term, differs: Callable[[Case], list[tuple[str, Any, Any]]]) -> str:
        """The smallest simple case on which expected and actual numbers differ.

        Other terms are switched off where the function takes their coefficient.
        """
        off = {t.strength: 0.0 for t in self.terms if t is not term and t.strength}
        grid = self.subject.layout.shapes is GRID.shapes
        first: tuple[Case, list[tuple[str, Any, Any]]] | None = None
        # Zero advantages silence the policy term, unless it would divide them by 0.
        divided = any("inside" in said for m in self.known for said in m.reading.said)
        quiet = {"advantages"} if divided or "advantages" not in self.subject.roles else set()
        for shape in ((1, 2), (2, 1), (2, 2)) if grid else ((1,), (2,), (3,)):
            for seed in range(10):
                x = self.simple(np.random.default_rng([seed, *shape]), shape) | off
                if term.name in ("value", "kl") and "advantages" not in term.roles | quiet:
                    x["advantages"] = np.zeros(shape)
                try:
                    rows = differs(x)
                except Exception as error:
                    rows = [("loss", "a number", calling.one_line(error))]
                if any(_apart(expected, actual) for _, expected, actual in rows):
                    return self.table(x, rows, hidden=self.silent(term))
                first = first or (x, rows)
        assert first is not None
        return self.table(*first)

    def silent(self, term: Term) -> set[str]:
        """Roles that do not matter once the other terms are switched off."""
        heard = [t for t in self.terms if t is term or not t.strength]
        roles = set[str]().union(*(t.roles for t in heard))
        return set().union(*(t.roles for t in self.terms)) - roles

    def table(
        self,
        x: Case,
        rows: list[tuple[str, Any, Any]],
        layout: Layout | None = None,
        hidden: set[str] | None = None,
    ) -> str:
        """Inputs by the user's names; then expected and actual numbers, one below the other."""
        subject = Subject(**(vars(self.subject) | {"layout": layout or self.subject.layout}))
        names = subject.matched.parameters | subject.matched.attributes
        lines = [
            (names.get(role, role), as_numbers(value))
            for role, value in subject.shown(x).items()
            if role not in (hidden or ())
        ]
        for name, expected, actual in rows:
            lines += [
                (f"{name}, expected", as_numbers(expected)),
                (f"{name}, actual", as_numbers(actual)),
            ]
        width = max(len(name) for name, _ in lines)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in lines)

    def simple(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Case:
        """Few digits."""
        x = _everything(rng, shape, self.subject.layout.dimensions)
        wide = x["log_probs"].shape
        for role in ("log_probs", "old_log_probs", "ref_log_probs"):
            x[role] = rng.choice([-0.5, -1.0, -1.5, -2.0], wide)
        for role in ("values", "old_values", "next_values", "entropy"):
            x[role] = rng.choice([0.5, 1.0, 2.0], shape)
        for role in ("returns", "rewards"):
            x[role] = rng.choice([-1.0, 0.0, 1.0, 3.0], shape)
        x["advantages"] = rng.choice([-1.0, 1.0, 2.0], shape)
        x["logits"] = rng.choice([-1.0, 0.0, 1.0], x["logits"].shape)
        x["probs"] = rng.permuted(np.broadcast_to([0.2, 0.3, 0.5], x["probs"].shape), axis=-1)
        x |= {role: 1.0 for role in NUMBERS if role.endswith("_coefficient")}
        return {r: v for r, v in x.items() if r in self.subject.roles or r == "actions"}

    def totals(self, x: Case) -> list[tuple[str, Any, Any]]:
        return [("loss", self.right_total(x), self.subject(x).total)]

    # -- one term

    def run(self) -> None:
        subject = self.subject
        self.finite()
        if self.failures:
            return
        waiting = sorted(
            self.terms, key=lambda t: not self.own(t) and t.strength not in subject.roles
        )
        for number, term in enumerate(waiting):
            own = self.own(term)
            if not (own or term.strength) and self.unknown:
                self.not_checked.append(
                    f"{term.name} term: the {self.unknown[0].name} term hides it"
                )
                continue
            groups = _samples(subject, term, own, self.known, number)
            everything = [sample for group in groups for sample in group]
            if all(abs(s.total) <= 4 * s.noise for s in everything):
                self.absent(term)
                continue
            match = _identify(term, groups)
            if match is None:
                self.unknown.append(term)
                continue
            self.known.append(match)
            if groups[0][0].gradients is not None:
                match.flow = self.flow(match, groups[0])
                match.bent = {r for r in term.live if self.bent(match, r, groups[0], own)}
                cases = [x for sample in groups[0] for _, x in sample.cases]
                match.sloped = {
                    r
                    for r in term.live
                    if any((np.abs(_slope(match.reading.rows, x, r)) > 1e-6).any() for x in cases)
                }
        self.verdicts()
        if self.open:
            names = ", ".join(dict.fromkeys(self.open))
            self.conventions.append(f"give {names} detached: gradients are not stopped inside")
        if not self.failures:
            self.edges()
        if not self.subject.differentiated:
            self.not_checked.append(
                "gradients, and so what must be detached: numbers of "
                f"{self.subject.framework} carry none"
            )

    def own(self, term: Term) -> set[str]:
        """The roles that no other term depends on."""
        others = [t.roles for t in self.terms if t is not term]
        return set(term.roles).difference(*others) - set(NUMBERS)

    def finite(self) -> None:
        x = self.subject.draw(np.random.default_rng(5), self.subject.layout.shapes[0])
        measured = self.subject(x)
        if not math.isfinite(measured.total):
            fault = Fault(
                "finite",
                "the loss of ordinary numbers is not finite",
                "Training stops with NaN.",
                "Look for a logarithm or a division of what may be zero or negative.",
            )
            self.fail(fault, self.table(x, [("loss", "finite", measured.total)]))
        else:
            self.hold("finite")

    def absent(self, term: Term) -> None:
        if not term.required:
            return
        fault = Fault(
            f"{term.name}-loss",
            f"the loss does not depend on its {term.name} term",
            "What it should train stays as it is.",
            "Add the term, with its coefficient, to the value that is returned first.",
        )
        self.unknown.append(term)
        self.vague += 1
        self.fail(fault, self.example(term, self.totals))
        self.unknown.remove(term)

    def flow(self, match: Match, samples: list[Sample]) -> set[str]:
        """Through which roles the term's gradient flows; findings are drawn in `gradients`."""
        flow = set()
        for role in self.subject.differentiated:
            got = np.stack([(s.gradients or {})[role] for s in samples])
            if np.max(np.abs(got), initial=0) > 1e-5 * max(1e-3, abs(match.scale)):
                flow.add(role)
        return flow

    def bent(self, match: Match, role: str, samples: list[Sample], own: set[str]) -> bool:
        """Whether a gradient that does flow is another than that of the term."""
        if role not in match.flow:
            return False
        for sample in samples:
            alone = role in own and not match.term.strength
            cases = sample.cases[:1] if alone else sample.cases
            expected = sum(
                sign * match.factor(x) * _slope(match.reading.rows, x, role) for sign, x in cases
            )
            got = (sample.gradients or {})[role]
            if role in ("probs", "logits"):  # what moves all alike does not count: Σ p = 1
                expected, got = (g - np.mean(g, -1, keepdims=True) for g in (expected, got))
            size = float(np.max(np.abs(expected), initial=0))
            if np.max(np.abs(got - expected), initial=0) > 1e-2 * size + 10 * sample.noise:
                return True
        return False

    # -- what it comes to

    def verdicts(self) -> None:
        self.vague += len(self.unknown)
        for term in self.unknown:
            self.unrecognised(term)
        negative = [m for m in self.known if m.scale < 0]
        named = re.search(
            r"objective|utility|gain|maximi[sz]e", calling.name_of(self.subject.function)
        )
        if negative and len(negative) == len(self.known) and named:
            self.upside_down = True
            self.conventions.append("an objective, to be maximised: its name says so")
            negative = []
        for match in self.known:
            name, fault = match.term.name, match.reading.fault
            if fault is not None:
                self.fail(fault, self.example(match.term, self.totals))
            else:
                self.hold(f"{name}-loss")
                self.hold_all(match)
            if match in negative:
                self.fail(SIGNS[name], self.example(match.term, self.totals))
            else:
                self.hold(SIGNS[name].check)
            self.conventions += [s for s in match.reading.said if s not in self.conventions]
            self.size(match)
            if self.subject.differentiated:
                self.gradients(match)

    def hold_all(self, match: Match) -> None:
        """The names of the mistakes that were looked for and are not there."""
        for reading in match.term.readings:
            if reading.fault is not None and reading.fault is not AXIS:
                self.hold(reading.fault.check)

    def size(self, match: Match) -> None:
        name, scale = match.term.name, abs(match.scale)
        how = ("mean", "sum")[min(match.power, 1)]
        if not match.term.strength and name in ("entropy", "kl"):
            self.conventions.append(f"{name}: {how}, with the weight {scale:.4g} inside")
        elif name == "value":
            half = "½ (V − R)²" if abs(scale - 0.5) < 1e-3 else "(V − R)²"
            extra = "" if min(abs(scale - 0.5), abs(scale - 1)) < 1e-3 else f" times {scale:.4g}"
            self.conventions.append(f"value: {how} of {half}{extra}")
        else:
            extra = "" if abs(scale - 1) < 1e-3 else f", times {scale:.4g}"
            self.conventions.append(f"{name}: {how}{extra}")

    def gradients(self, match: Match) -> None:
        term = match.term
        live = [r for r in term.live if r in self.subject.differentiated]
        # Where every row is clipped, no gradient is the right one.
        dead = [r for r in live if r not in match.flow and r in match.sloped]
        if match.reading.fault is not None and dead and term.name == "kl":
            # A detached k1 estimator is harmless but for that: one cause, one finding.
            self.failures = [f for f in self.failures if f.check != match.reading.fault.check]
        if dead:
            self.fail(DEAD[term.name], self.example(term, self.slopes(match, dead[0], True)))
        elif match.bent:
            fault = DEAD[term.name]._replace(
                wrong=f"the gradient of the {term.name} term is not that of its value",
                effect="What is learnt is not what the reported loss measures.",
                mend="Look for a detach of a part of it, or for no_grad.",
            )
            self.fail(fault, self.example(term, self.slopes(match, min(match.bent), True)))
        elif live:
            self.hold(DEAD[term.name].check)
        for role in self.subject.differentiated:
            if role in term.live or role not in term.roles:
                continue
            fault = _leak(term.name, role)
            if role not in match.flow:
                self.hold(fault.check)
            elif role in DATA and not self.strict:
                self.open.append(role)
            else:
                self.fail(fault, self.example(term, self.slopes(match, role, False)))

    def slopes(
        self, match: Match, role: str, live: bool
    ) -> Callable[[Case], list[tuple[str, Any, Any]]]:
        """The gradient by `role`: as it should be, and as it is."""

        def rows(x: Case) -> list[tuple[str, Any, Any]]:
            gradients = self.subject(x).gradients or {}
            expected = np.zeros(x[role].shape)
            for other in self.known:
                if live if other is match else role in other.flow:
                    expected = expected + other.factor(x) * _slope(other.reading.rows, x, role)
            return [(f"gradient by {role}", expected, gradients[role])]

        return rows

    def unrecognised(self, term: Term) -> None:
        """No reading fits: say which property of every mean over a batch fails, if one does."""
        subject = self.subject
        x = subject.draw(np.random.default_rng(7), subject.layout.shapes[0])
        words = f"the {term.name} term agrees with no definition of it, nor with a known mistake"
        with contextlib.suppress(Exception):
            turned = {
                r: np.roll(v, 1, axis=0) if isinstance(v, np.ndarray) else v for r, v in x.items()
            }
            if _apart(subject(x).total, subject(turned).total):
                words += "; the loss changes with the order of the batch"
        fault = Fault(
            f"{term.name}-loss",
            words,
            "What is minimised is not what the method asks for.",
            {
                "policy": "-(log_prob * advantage).mean(), or PPO's clipped surrogate",
                "value": "((values - targets) ** 2).mean()",
                "entropy": "- entropy_coefficient * entropy.mean()",
                "kl": "+ kl_coefficient * (exp(d) - 1 - d).mean(), d = ref_log_probs - log_probs",
            }[term.name],
        )
        self.fail(fault, self.example(term, self.totals))

    def edges(self) -> None:
        """Small batches and other shapes, where ordinary ones are right."""
        subject = self.subject
        if any("normalised inside" in said for said in self.conventions):
            self.small()
        # An explicit axis shows only on arrays that have more than one.
        for layout in (GRID, COLUMNS):
            if layout is COLUMNS and "log_probs" not in subject.roles:
                continue  # logits have an axis of their own
            if subject.layout is FLAT and any(m.term.name == "policy" for m in self.known):
                self.axis(layout)
        if "values" in subject.roles and {"returns", "rewards"} & subject.roles:
            mixed = Subject(**(vars(subject) | {"layout": MIXED}))
            x = subject.draw(np.random.default_rng(9), (3,))
            with contextlib.suppress(Exception):
                if subject.layout is FLAT and _apart(mixed(x).total, self.right_total(x)):
                    self.conventions.append(
                        "values [B, 1] beside targets [B] would be broadcast to [B, B]: "
                        "give equal shapes"
                    )

    def small(self) -> None:
        """Advantages that cannot be normalised: of one element, and equal ones."""
        grid = self.subject.layout.shapes is GRID.shapes
        for count, what, cause in (
            (1, "one element", "the sample deviation of one is 0 / 0"),
            (3, "equal advantages", "there is no ε beside the deviation"),
        ):
            shape = (count, 1) if grid else (count,)
            x = self.simple(np.random.default_rng(0), shape)
            for role in {"advantages", "returns", "rewards", "values", "next_values", "dones"}:
                x[role] = np.full(shape, 0.5)
            total = math.nan
            with contextlib.suppress(Exception):
                total = self.subject(x).total
            if not math.isfinite(total):
                fault = Fault(
                    "normalisation-finite",
                    f"normalising the advantages of {what} gives {total}: {cause}",
                    "One such minibatch turns every parameter into NaN.",
                    "Leave a single element as it is, and divide by (std + 1e-8).",
                )
                self.fail(fault, self.table(x, [("loss", "finite", total)]))
                return
        self.hold("normalisation-finite")

    def axis(self, layout: Layout) -> None:
        """Whether advantages are normalised over everything when there is more than one axis."""
        other = Subject(**(vars(self.subject) | {"layout": layout}))
        x = other.draw(np.random.default_rng(8), layout.shapes[0])
        try:
            total = other(x).total
        except Exception:
            return
        expected = self.right_total(x)
        if not _apart(expected, total):
            self.hold(AXIS.check)
            return
        policy = next(m for m in self.known if m.term.name == "policy")
        if not any("normalised inside" in said for said in policy.reading.said):
            return
        # The rest of the loss is as it was; does one of the axes explain the policy term?
        rest = expected - policy.total(x)
        seen = x | (other.shown(x) if layout is COLUMNS else {})
        with np.errstate(all="ignore"):
            totals = [
                rest + policy.factor(x) * float(np.mean(reading.rows(seen)))
                for reading in policy.term.readings
                if reading.fault is AXIS
            ]
        if math.isnan(total) or any(not _apart(t, total) for t in totals):
            shape = (2, 2) if layout is GRID else (2,)
            x = self.simple(np.random.default_rng(0), shape)
            x["advantages"] = np.arange(1.0, 1 + math.prod(shape)).reshape(shape)
            rows = [("loss", self.right_total(x), other(x).total)]
            self.fail(AXIS, f"{layout.words}:\n" + self.table(x, rows, layout))


def _apart(expected: Any, actual: Any) -> bool:
    if isinstance(expected, str):
        return True
    expected, actual = np.asarray(expected, float), np.asarray(actual, float)
    size = max(1e-2, float(np.max(np.abs(expected), initial=0)))
    return bool(np.any(~(np.abs(actual - expected) <= 2e-3 * size)))


def as_numbers(value: Any) -> str:
    if isinstance(value, str):
        return value
    array = np.asarray(value)
    if array.ndim:
        return "[" + ", ".join(as_numbers(v) for v in array) + "]"
    return f"{float(array):.4f}".rstrip("0").rstrip(".") if array.dtype.kind == "f" else str(array)


def _audit(
    kind: str,
    function: Callable[..., Any],
    mapping: Mapping[str, str] | None,
    strict: bool,
) -> Report:
    name = calling.name_of(function)
    subjects, failed = _subjects(function, mapping)
    if not subjects:
        matched = calling.recognise(function, ROLES, _told_apart(function, mapping))
        why = failed or "no framework fits"
        raise CannotCall(f"{name} failed when called with {matched.describe()}: {why}")
    first: Audit | None = None
    for subject in subjects:
        constants = subject.matched.constants
        terms = _terms(kind, subject.roles, constants, calling.literals(function))
        wanted = "value" if kind == "critic-loss" else "policy"
        if wanted not in [term.name for term in terms]:
            needs = {
                "value": "values and a target (returns, or rewards and next_values)",
                "policy": "log_probs (or logits and actions) and advantages",
            }[wanted]
            raise CannotCall(
                f"{name}: a {kind} is a function of {needs}; recognised: "
                f"{subject.matched.describe()}. Map its other parameters by --map."
            )
        audit = Audit(subject, kind, terms, strict)
        audit.run()
        first = first or audit
        if not audit.failures:
            first = audit
            break
        if audit.vague < first.vague:
            first = audit
    assert first is not None
    return _report(name, kind, first)


def _report(name: str, kind: str, audit: Audit) -> Report:
    subject = audit.subject
    failed = {f.check for f in audit.failures}
    if subject.framework.name in ("jax", "torch", "torch-list"):
        missed = [r for r in DATA if r in subject.roles and r not in subject.differentiated]
        if missed and subject.differentiated:
            audit.not_checked.append(
                f"whether gradients through {', '.join(missed)} are stopped: the function takes "
                "them only without gradients"
            )
    called = f"{subject.framework}, {subject.layout.words}: {subject.matched.describe()}"
    if subject.matched.takes_case:
        called += f" (it uses {', '.join(sorted(subject.roles))})"
    return Report(
        subject=name,
        kind=kind,
        passed=tuple(check for check in audit.passed if check not in failed),
        failures=tuple(audit.failures),
        conventions=tuple(audit.conventions),
        not_checked=tuple(audit.not_checked),
        called=called,
    )


def actor_loss(
    function: Callable[..., Any], *, mapping: Mapping[str, str] | None = None, strict: bool = False
) -> Report:
    """Audit −log π A, with or without an entropy bonus, a ratio, or advantages computed inside.

    `strict` asks that the function itself stops gradients through data that it is handed.
    """
    return _audit("actor-loss", function, mapping, strict)


def critic_loss(
    function: Callable[..., Any], *, mapping: Mapping[str, str] | None = None, strict: bool = False
) -> Report:
    """Audit (V − target)², clipped or not, the target given or computed as one-step TD."""
    return _audit("critic-loss", function, mapping, strict)


def ppo_loss(
    function: Callable[..., Any], *, mapping: Mapping[str, str] | None = None, strict: bool = False
) -> Report:
    """Audit PPO's loss: clipped surrogate, value, entropy, KL penalty, as far as it has them."""
    return _audit("ppo-loss", function, mapping, strict)
