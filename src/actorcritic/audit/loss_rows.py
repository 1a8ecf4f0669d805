"""Losses as rows: every known reading of each term, in float64, one line each.

A term is the policy's, the value's, the entropy bonus or a KL penalty. First stand the right
readings, with the choices that they show, then the known mistakes. What a function computes
inside (returns, advantages) is defined in truths.py; the mistakes in it stand in mistakes.py.
"""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from actorcritic.audit import mistakes
from actorcritic.audit.findings import TIME_LIMITS, Fault
from actorcritic.audit.truths import QUANTITIES, Trajectory

LOG_2PI = float(np.log(2 * np.pi))


class Case(dict[str, Any]):
    """Our role → float64 array [B] (or [T, B]), or a number. Targets are computed once a case."""

    def __init__(self, *values: Any, **named: Any) -> None:
        super().__init__(*values, **named)
        self.memo: dict[int, np.ndarray] = {}
        self.fixed: Case = self  # where targets are taken, while something else is moved
        self.window: Case | None = None  # the steps that these rows are some of
        self.index: np.ndarray | None = None  # which of them

    def __or__(self, other: Mapping[str, Any]) -> Case:  # type: ignore[override]
        return Case({**self, **other})

    def moved(self, role: str, value: np.ndarray, frozen: bool) -> Case:
        """With another array; `frozen`: the targets stay what they are."""
        found = self | {role: value}
        found.window, found.index = self.window, self.index
        if frozen or self.window is not None:
            found.fixed = self.fixed
        return found


Rows = Callable[[Case], np.ndarray]


class Reading(NamedTuple):
    """One way to compute a term, a number a row (any shape: the mean is what counts)."""

    rows: Rows
    said: tuple[str, ...] = ()  # choices
    fault: Fault | None = None
    right: Rows | None = None  # what should have been computed


@dataclass(frozen=True)
class Term:
    """A part of a loss that is compared as a whole."""

    name: str
    roles: frozenset[str]
    strength: str  # the role of its coefficient; "" where the function takes none
    live: tuple[str, ...]  # roles that its gradient must reach
    readings: list[Reading] = field(repr=False)
    required: bool = True

    def weight(self, x: Case) -> float:
        return float(x[self.strength]) if self.strength else 1.0


# ------------------------------------------------------------------------------ the policy


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def all_log_probs(x: Case) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return log_softmax(x["logits"]) if "logits" in x else np.log(x["probs"])


def deviations(x: Case) -> np.ndarray:
    return np.asarray(np.exp(x["log_stds"]) if "log_stds" in x else x["stds"])


def normal(x: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """The log-density of each dimension."""
    return np.asarray(-0.5 * ((x - mean) / std) ** 2 - np.log(std) - 0.5 * LOG_2PI)


NORMAL = Fault(
    "normal-density",
    "",
    "Probabilities do not sum to one: ratios, entropies and their gradients are wrong.",
    "-0.5 * ((x - mean) / std)**2 - log(std) - 0.5 * log(2 * pi)",
)
Normal = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
WRONG_NORMALS: list[tuple[str, Normal]] = [
    ("the normal density lacks −½ log 2π", lambda x, m, s: normal(x, m, s) + 0.5 * LOG_2PI),
    ("the normal density lacks −log σ", lambda x, m, s: normal(x, m, s) + np.log(s)),
    (
        "the normal density has + log σ for − log σ",
        lambda x, m, s: normal(x, m, s) + 2 * np.log(s),
    ),
    (
        "the normal density lacks both of its constants, −log σ − ½ log 2π",
        lambda x, m, s: normal(x, m, s) + np.log(s) + 0.5 * LOG_2PI,
    ),
    ("the variance is used as the standard deviation", lambda x, m, s: normal(x, m, s**2)),
    ("the standard deviation is used as the variance", lambda x, m, s: normal(x, m, np.sqrt(s))),
    (
        "the distance is divided by the standard deviation, where the variance belongs",
        lambda x, m, s: -0.5 * (x - m) ** 2 / s - np.log(s) - 0.5 * LOG_2PI,
    ),
    ("log σ is used as σ", lambda x, m, s: normal(x, m, np.abs(np.log(s)))),
    ("σ is used as log σ", lambda x, m, s: normal(x, m, np.exp(s))),
    (
        "the quadratic term lacks its ½",
        lambda x, m, s: normal(x, m, s) - 0.5 * ((x - m) / s) ** 2,
    ),
    (
        "the square of the distance is missing: |x − μ| / σ",
        lambda x, m, s: normal(x, m, s) + 0.5 * ((x - m) / s) ** 2 - 0.5 * np.abs(x - m) / s,
    ),
    ("the density is returned, not its logarithm", lambda x, m, s: np.exp(normal(x, m, s))),
]


def new_log_probs(x: Case) -> np.ndarray:
    """log π(a|s), an action's dimensions summed."""
    if "log_probs" in x:
        return _joint(x["log_probs"], x)
    if "means" in x:
        return np.asarray(normal(x["actions"], x["means"], deviations(x)).sum(-1))
    return np.take_along_axis(all_log_probs(x), x["actions"][..., None], -1)[..., 0]


def shape_of(x: Case) -> tuple[int, ...]:
    """That of the rows; a continuous action has an axis of its own."""
    shape: tuple[int, ...] = x["actions"].shape
    return shape[:-1] if x["actions"].dtype.kind == "f" else shape


def rows_of(x: Case) -> int:
    return int(np.prod(shape_of(x)))


def _joint(log_probs: np.ndarray, x: Case) -> np.ndarray:
    return log_probs.sum(-1) if log_probs.ndim > len(shape_of(x)) else log_probs


def _old(x: Case) -> np.ndarray:
    return _joint(x["old_log_probs"], x)


def _ref(x: Case) -> np.ndarray:
    return _joint(x["ref_log_probs"], x)


# ------------------------------------------------------------------------------ targets


class Target(NamedTuple):
    """What the critic is to predict, where a function computes it itself."""

    value: Rows
    said: tuple[str, ...] = ()
    fault: Fault | None = None
    weight: Rows | None = None  # of each row of the policy term, where it is not 1


def _once(value: Rows) -> Rows:
    """Computed once a case, and where its targets are fixed."""

    def remembered(x: Case) -> np.ndarray:
        x = x.fixed
        whole = x if x.window is None else x.window
        if id(value) not in whole.memo:
            with np.errstate(all="ignore"):
                whole.memo[id(value)] = value(whole)
        found = whole.memo[id(value)]
        return found if x.index is None else found.ravel()[x.index]

    remembered.kept = value  # type: ignore[attr-defined]  # alive, so that no id is another's
    return remembered


def trajectory(x: Case, gamma: float | None, lam: float | None) -> Trajectory:
    """The rows as steps, [T] as [T, 1]; without a value of what follows, the last one ends."""

    def wide(role: str) -> np.ndarray:
        return np.asarray(x[role], float).reshape(shape[0], -1)

    shape = np.shape(x["rewards"])
    rewards = wide("rewards")
    values = wide("values") if "values" in x else np.zeros(rewards.shape)
    ends = wide("dones") if "dones" in x else np.zeros(rewards.shape)
    if "continues" in x and "dones" not in x:
        ends = 1 - wide("continues")
    truncated = wide("truncated") > 0 if "truncated" in x else np.zeros(rewards.shape, bool)
    terminated = (ends > 0) & ~truncated
    last = np.broadcast_to(np.asarray(x.get("last_value", 0.0), float), rewards[0].shape)
    following = np.concatenate([values[1:], last[None]])
    return Trajectory(
        rewards=rewards,
        values=values,
        next_values=wide("next_values") if "next_values" in x else following,
        following=following,
        terminated=terminated,
        truncated=truncated,
        cut=terminated | truncated,
        gamma=float(x["gamma"]) if gamma is None else gamma,
        lam=float(x.get("lam", 1.0)) if lam is None else lam,
        ratio=np.ones(rewards.shape),
    )


WHOLE = "the return to the end of the episode or batch"
LAMBDA = "generalised advantages, plus V"
_COMPUTED = {
    "the TD target": "the TD target is computed inside",
    WHOLE: "discounted returns are computed inside",
    LAMBDA: "λ-returns are computed inside (generalised advantages + V)",
}


def targets(
    roles: frozenset[str], gammas: tuple[float, ...], lams: tuple[float, ...]
) -> list[Target]:
    """Right ones first."""
    if "returns" in roles:
        return [Target(lambda x: x["returns"])]
    if {"advantages", "old_values"} <= roles:
        return [Target(lambda x: x["advantages"] + x["old_values"], ("the target is A + V_old",))]
    if "rewards" not in roles:
        return []
    successors = "next_values" in roles
    quantities = [WHOLE] if not successors or "last_value" in roles or "window" in roles else []
    quantities += ["the TD target"] if successors or "values" in roles else []
    if successors or "values" in roles:
        quantities += [LAMBDA] if "lam" in roles or lams else []
    if successors and WHOLE not in quantities:
        quantities.append(WHOLE)
    right, wrong = [], []
    for quantity in quantities:
        for gamma in (None,) if "gamma" in roles else gammas:
            for lam in (None,) if "lam" in roles or quantity != LAMBDA else lams:
                found = list(_computed(quantity, gamma, lam, roles))
                right += [t for t in found if not t.fault]
                wrong += [t for t in found if t.fault]
    return right + wrong


_WEIGHTED = "each step is weighted by γ^t, as the gradient of the discounted return is"


def _powers(gamma: float | None) -> Rows:
    """γ^t, along the first axis."""

    def weight(x: Case) -> np.ndarray:
        shape = shape_of(x)
        power = float(x["gamma"] if gamma is None else gamma) ** np.arange(shape[0])
        return np.broadcast_to(power.reshape(-1, *([1] * (len(shape) - 1))), shape)

    return weight


def _computed(
    quantity: str, gamma: float | None, lam: float | None, roles: frozenset[str]
) -> Iterator[Target]:
    words = _COMPUTED[quantity]
    for name, number in (("γ", gamma), ("λ", lam)):
        words += "" if number is None else f", {name} = {number:g}"
    truth = QUANTITIES[quantity]

    def of(change: Callable[[Trajectory], Trajectory], mistake: mistakes.Mistake | None) -> Rows:
        def value(x: Case) -> np.ndarray:
            found = change(trajectory(x, gamma, lam))
            y = mistake.applied(found, truth) if mistake else truth(found)
            return np.asarray(y).reshape(np.shape(x["rewards"]))

        return _once(value)

    plain = of(lambda x: x, None)
    yield Target(plain, (words,))
    if quantity == WHOLE:
        yield Target(plain, (words, _WEIGHTED), weight=_powers(gamma))
    if "truncated" in roles:
        as_ends = of(lambda x: x._replace(terminated=x.ended), None)
        yield Target(as_ends, (words, TIME_LIMITS))
    known = mistakes.table("returns", "next_values" in roles)
    beside = {"returns-include-value"}
    beside |= set() if "gamma" in roles else {"gamma-used", "gamma-in-the-trace"}
    if "lam" not in roles:
        beside |= {"lambda-applied-once", "gamma-in-the-trace"}
    if not {"dones", "continues"} & roles:
        beside |= {"returns-stop-at-episode-end", "termination-drops-bootstrap"}
        beside |= {"done-flag-aligned"}
    for mistake in known:
        if mistake.check not in beside:
            yield Target(of(lambda x: x, mistake), (words,), mistake.fault)


def advantages(
    roles: frozenset[str], gammas: tuple[float, ...], lams: tuple[float, ...]
) -> list[Target]:
    if "advantages" in roles:
        return [Target(lambda x: x["advantages"])]
    aims = targets(roles, gammas, lams)
    if "returns" in roles:
        aims += [
            aims[0]._replace(weight=_powers(gamma), said=(_WEIGHTED,))
            for gamma in ((None,) if "gamma" in roles else gammas)
        ]
    found = []
    if "values" in roles:
        said = "the advantage is computed inside, as target − values"
        for t in aims:
            found.append(t._replace(value=_minus_values(t.value), said=(*t.said, said)))
            if "old_values" in roles and "returns" not in roles:
                found.append(t._replace(value=_minus_old_values(t.value), said=(*t.said, said)))
    bare = [t for t in aims if not t.fault]
    one_step = "next_values" in roles and "values" in roles
    fault = Fault(
        "advantage-baseline",
        "the TD target stands where the advantage belongs",
        "Without the baseline V(s) every gradient carries the value of the state: its "
        "variance is many times larger.",
        "advantage = target - values",
    )
    if one_step:
        return found + [t._replace(fault=fault) for t in bare]
    said = "the return itself, without a baseline"
    found += [t._replace(said=(*t.said, said)) for t in bare]
    if "values" not in roles:
        found += [t for t in aims if t.fault]
    return [t for t in found if not t.fault] + [t for t in found if t.fault]


def _minus_old_values(value: Rows) -> Rows:
    return lambda x: value(x) - x["old_values"]


def _minus_values(value: Rows) -> Rows:
    return lambda x: value(x) - x["values"]


# ------------------------------------------------------------------------------ normalisation

Norm = Callable[[np.ndarray], np.ndarray]


def _std(a: np.ndarray, degrees: int, axis: int | None = None) -> np.ndarray:
    with warnings.catch_warnings():  # of one element it is NaN, which is what is looked for
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(np.std(a, ddof=degrees, axis=axis, keepdims=True))


def along(axis: int | None, degrees: int, e: float = 1e-8) -> Norm:
    """Normalised along an axis of many (the wrong one whichever it is), or over all (None)."""
    return lambda a: (a - a.mean(axis, keepdims=True)) / (_std(a, degrees, axis) + e)


def _divided(degrees: int) -> Norm:
    return lambda a: a / (_std(a, degrees) + 1e-8)


NORMALISED = "normalised inside"


@functools.cache
def normalisations() -> tuple[tuple[str, Norm], ...]:
    """In words, and as a function; as it is first."""
    found: list[tuple[str, Norm]] = [("", lambda a: a)]
    for words, degrees in (("population", 0), ("sample", 1)):
        said = f"{NORMALISED} ({words} deviation)"
        found += [(said, along(None, degrees, e)) for e in (1e-8, 1e-4, 1e-3, 1e-2)]
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
SQUARED = Fault(
    "policy-advantage",
    "the advantage is squared in the policy term",
    "Bad actions are reinforced like good ones.",
    "-(log_prob * advantage).mean()",
)
ABSOLUTE = SQUARED._replace(wrong="the absolute value of the advantage is taken")


def policy(
    roles: frozenset[str],
    clips: tuple[float, ...],
    gammas: tuple[float, ...],
    lams: tuple[float, ...],
    bounded: bool,
) -> list[Reading]:
    """Readings of the policy term. `bounded`: a ratio that nothing bounds is a mistake."""
    off_policy, hidden = "old_log_probs" in roles, "clip_range" not in roles
    found: list[Reading] = []
    form = _clipped if off_policy else _plain

    def rows(
        form: Surrogate,
        t: Target,
        norm: Norm,
        e: float,
        table: bool = False,
        of: Norm | None = None,
        log_probs: Rows = new_log_probs,
    ) -> Rows:
        def computed(x: Case) -> np.ndarray:
            new = log_probs(x)
            old, advantage = _old(x) if off_policy else new, norm(t.value(x))
            advantage = advantage if of is None else of(advantage)
            if t.weight:
                advantage = advantage * t.weight(x)
            if table:
                new, old, advantage = new.ravel()[:, None], old.ravel()[:, None], advantage.ravel()
            return form(new, old, advantage, e if hidden else x["clip_range"])

        return computed

    def add(t: Target, words: str, norm: Norm, e: float) -> None:
        said = (*t.said, *((words,) if words else ()))
        right = rows(form, t, norm, e)
        at = (*said, *((f"ε = {e:g} is written inside",) if hidden and off_policy else ()))
        if t.fault:
            found.append(Reading(right, said, t.fault, rows(form, meant, norm, e)))
            return
        found.append(Reading(right, at))
        if t.weight:
            return
        for axis, degrees in () if words else itertools.product((0, -1), (0, 1)):
            wrong = rows(form, t, along(axis, degrees), e)
            found.append(Reading(wrong, said, AXIS, rows(form, t, along(None, degrees), e)))
        found.append(Reading(rows(form, t, norm, e, table=True), said, BROADCAST, right))
        for fault, of in ((SQUARED, np.square), (ABSOLUTE, np.abs)):
            found.append(Reading(rows(form, t, norm, e, of=of), said, fault, right))
        for fault, wrong in _wrong_log_probs(roles):
            rows_of_it = rows(form, t, norm, e, log_probs=wrong)
            found.append(Reading(rows_of_it, said, fault, right))
        if not off_policy:
            found.append(Reading(rows(_probability, t, norm, e), said, NOT_LOGARITHM, right))
            return
        unbounded = Reading(rows(_unclipped, t, norm, e), said, NOT_CLIPPED, right)
        if not bounded:
            said_so = (*said, "the ratio is not clipped")
            unbounded = unbounded._replace(said=said_so, fault=None, right=None)
        found.append(unbounded)
        for limit in (3.0, 2.0):
            found.append(Reading(rows(_dual(limit), t, norm, e), (*at, f"dual clip at {limit:g}")))
        found.extend(Reading(rows(f, t, norm, e), at, fault, right) for f, fault in SURROGATES)

    aims = advantages(roles, gammas, lams)
    meant = next((t for t in aims if not t.fault), aims[0])
    for t in aims:
        for words, norm in normalisations():
            for e in clips if off_policy else (0.0,):
                add(t, words, norm, e)
        if "advantages" not in roles and not t.fault:
            continue
    if not {"advantages", "returns"} & roles:  # returns normalised before the baseline is taken
        plain = [t for t in targets(roles, gammas, lams) if not t.fault and "values" in roles]
        for t in plain:
            for words, norm in normalisations()[1:]:
                value = _minus_values(_normalised(t.value, norm))
                add(t._replace(value=value, said=(*t.said, f"returns {words}")), "", _same, 0.0)
    return found


def _wrong_log_probs(roles: frozenset[str]) -> list[tuple[Fault, Rows]]:
    """Known mistakes in the density itself, where a loss computes it."""
    if "log_probs" in roles:
        return []
    if "means" in roles:
        return [
            (NORMAL._replace(wrong=text), lambda x, w=wrong: w(*_three(x)).sum(-1))  # type: ignore[misc]
            for text, wrong in WRONG_NORMALS
        ] + [
            (
                NORMAL._replace(
                    check="dimensions-summed",
                    wrong="the log-probability is averaged over the action's dimensions, not "
                    "summed",
                ),
                lambda x: normal(*_three(x)).mean(-1),
            )
        ]

    def chosen(table: Callable[[Case], np.ndarray]) -> Rows:
        return lambda x: np.take_along_axis(table(x), x["actions"][..., None], -1)[..., 0]

    if "logits" in roles:
        wrong = "the logit of the action stands where its log-probability belongs: no softmax"
        return [(SOFTMAX._replace(wrong=wrong), chosen(lambda x: x["logits"]))]
    return [(SOFTMAX, chosen(lambda x: log_softmax(x["probs"])))]


def _three(x: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return x["actions"], x["means"], deviations(x)


SOFTMAX = Fault(
    "softmax-once",
    "softmax is applied twice: probabilities are taken for logits",
    "The policy can never become certain: no probability exceeds e / (e + n − 1).",
    "Categorical(probs=probs), or Categorical(logits=logits) without a softmax in the network.",
)


def _same(a: np.ndarray) -> np.ndarray:
    return a


def _normalised(value: Rows, norm: Norm) -> Rows:
    return lambda x: norm(value(x))


MEAN_ERROR = Fault(
    "value-loss",
    "the square of the mean error, not the mean of the squared errors",
    "Only the average over the batch is fitted: states are not told apart.",
    "((values - targets) ** 2).mean()",
)


def value(
    roles: frozenset[str],
    clips: tuple[float, ...],
    gammas: tuple[float, ...],
    lams: tuple[float, ...],
) -> list[Reading]:
    aims = targets(roles, gammas, lams)
    if not aims:
        return []
    if "returns" not in roles and "advantages" not in roles:
        plain = [t for t in aims if not t.fault and not t.weight]
        aims = aims + [
            t._replace(value=_normalised(t.value, norm), said=(*t.said, f"returns {words}"))
            for t in plain
            for words, norm in normalisations()[1:]
        ]
    return [r for t in aims if not t.weight for r in _errors(t, aims[0], roles, clips)]


def _errors(
    target: Target, meant: Target, roles: frozenset[str], clips: tuple[float, ...]
) -> list[Reading]:
    """Readings of the value term for one target."""
    t, said = target.value, target.said

    def square(x: Case) -> np.ndarray:
        return np.asarray((x["values"] - t(x)) ** 2)

    def huber(x: Case) -> np.ndarray:
        d = np.abs(x["values"] - t(x))
        return np.where(d < 1, 0.5 * d**2, d - 0.5)

    def table(x: Case) -> np.ndarray:
        return np.asarray((x["values"].ravel()[:, None] - t(x).ravel()) ** 2)

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
    fault = MEAN_ERROR._replace(
        check="value-target",
        wrong="the critic's target is the advantage, where the return belongs",
        effect="Advantages are 0 on average: the critic forgets the values.",
        mend="((values - returns) ** 2).mean(), with returns = advantages + values",
    )

    def to_advantage(x: Case) -> np.ndarray:
        """With the values in the target held fixed: they are data there."""
        return np.asarray((x["values"] - (t(x) - x.fixed["values"])) ** 2)

    found.append(Reading(to_advantage, said, fault, square))
    if "advantages" in roles:
        found.append(Reading(lambda x: (x["values"] - x["advantages"]) ** 2, said, fault, square))
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


def entropy_of(x: Case) -> np.ndarray:
    """Of the distribution that the network puts out."""
    if "entropy" in x:
        return np.asarray(x["entropy"])
    if "means" in x:
        each = np.log(deviations(x)) + 0.5 + 0.5 * LOG_2PI
        return np.asarray((each + 0 * x["means"]).sum(-1))
    log_p = all_log_probs(x)
    return np.asarray(-(np.exp(log_p) * log_p).sum(-1))


def entropy(roles: frozenset[str]) -> list[Reading]:
    """Readings of minus the bonus: a loss."""
    readings = []
    if {"entropy", "means", "logits", "probs"} & roles:
        readings = [Reading(lambda x: -entropy_of(x))]
    if {"logits", "probs"} & roles and "entropy" not in roles:
        fault = Fault(
            "entropy-definition",
            "the entropy is −Σ log p: the weights p are missing",
            "It pushes hardest on the rarest actions, and is not bounded.",
            "entropy = -(p * log_p).sum(-1)",
        )
        right = readings[0].rows
        readings.append(Reading(lambda x: all_log_probs(x).sum(-1), (), fault, right))
        said = ("the entropy is averaged over the actions, not summed",)
        count = lambda x: all_log_probs(x).shape[-1]  # noqa: E731
        readings.append(Reading(lambda x: -entropy_of(x) / count(x), said))
    if "means" in roles and "entropy" not in roles:
        said = ("the entropy is averaged over the action's dimensions, not summed",)
        readings.append(Reading(lambda x: -entropy_of(x) / x["means"].shape[-1], said))
    if "entropy_coefficient" in roles and "entropy" not in roles:
        said = (
            "the entropy is estimated by −log π of the sampled actions, whose gradient is 0 on "
            "average: prefer the entropy itself",
        )
        readings.append(Reading(new_log_probs, said))
    return readings


def kl(roles: frozenset[str]) -> list[Reading]:
    """Estimators of the KL divergence from samples, as losses. d is log π - log π_ref."""
    if "ref_log_probs" not in roles:
        # The samples are the old policy's: -d is then unbiased, and so is its gradient.
        def since(x: Case) -> np.ndarray:
            return new_log_probs(x) - _old(x)

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
        return new_log_probs(x) - _ref(x)

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
            Reading(
                lambda x: np.exp(new_log_probs(x) - _old(x)) * d(x), ("k1, weighted by the ratio",)
            ),
            Reading(
                lambda x: np.exp(new_log_probs(x) - _old(x)) * k3(x), ("k3, weighted by the ratio",)
            ),
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


def leak(term: str, role: str) -> Fault:
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
