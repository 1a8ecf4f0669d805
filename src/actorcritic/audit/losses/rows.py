"""Losses as rows: every known reading of each term, in float64.

A term is the policy's, the value's, the entropy bonus or a KL penalty. First stand the right
readings, with the choices that they show, then the known mistakes. What a function computes
inside (returns, advantages) is defined in truths.py; the mistakes in it stand in mistakes.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np

from actorcritic.audit.findings import Fault
from actorcritic.audit.losses import surrogates as sur
from actorcritic.audit.losses.cases import (
    AVERAGED,
    NORMAL,
    WRONG_NORMALS,
    Case,
    Reading,
    Rows,
    all_log_probs,
    deviations,
    entropy_of,
    k3,
    log_softmax,
    new_log_probs,
    normal,
    old_log_probs,
    ref_log_probs,
    told,
)
from actorcritic.audit.losses.targets import (
    Norm,
    Target,
    advantages,
    along,
    as_it_is,
    normalisations,
    normalised,
    targets,
)

# ------------------------------------------------------------------------------ the policy

AXIS = Fault(
    "normalisation-axis",
    "advantages are normalised along one axis instead of over the whole batch",
    "Which environment or moment went better is thrown away; an axis of length 1 gives 0 or NaN.",
    "advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)",
)
BROADCAST = Fault(
    "broadcast",
    "(B,) and (B, 1) are mixed, so that every element meets every other: a [B, B] table",
    "Each prediction is compared with the data of other states, and learns their average.",
    "Give both the same shape: values.squeeze(-1), or values.reshape(returns.shape).",
)
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
SOFTMAX = Fault(
    "softmax-once",
    "softmax is applied twice: probabilities are taken for logits",
    "The policy can never become certain: no probability exceeds e / (e + n − 1).",
    "Categorical(probs=probs), or Categorical(logits=logits) without a softmax in the network.",
)
NO_SOFTMAX = SOFTMAX._replace(
    wrong="the logit of the action stands where its log-probability belongs: no softmax"
)


def policy(
    roles: frozenset[str],
    clips: tuple[float, ...],
    gammas: tuple[float, ...],
    lams: tuple[float, ...],
    bounded: bool,
) -> list[Reading]:
    """Readings of the policy term. `bounded`: a ratio that nothing bounds is a mistake."""
    off_policy, hidden = "old_log_probs" in roles, "clip_range" not in roles
    whole = sur.clipped if off_policy else sur.plain
    forms: list[tuple[str | Fault, sur.Surrogate]] = [
        ("", whole),
        (BROADCAST, lambda new, old, a, e: whole(_column(new), _column(old), a.ravel(), e)),
        (SQUARED, lambda new, old, a, e: whole(new, old, np.square(a), e)),
        (ABSOLUTE, lambda new, old, a, e: whole(new, old, np.abs(a), e)),
    ]
    if off_policy:
        free = sur.NOT_CLIPPED if bounded else "the ratio is not clipped"
        forms += [(f"dual clip at {limit:g}", sur.dual(limit)) for limit in (3.0, 2.0)]
        forms += [(free, sur.unclipped), *sur.SURROGATES]
    else:
        forms.append((NOT_LOGARITHM, sur.probability))
    aims = advantages(roles, gammas, lams)
    meant = next((t for t in aims if not t.fault), aims[0])

    def rows(
        t: Target, norm: Norm, e: float, form: sur.Surrogate = whole, of: Rows = new_log_probs
    ) -> Rows:
        def computed(x: Case) -> np.ndarray:
            new, advantage = of(x), norm(t.value(x))
            old = old_log_probs(x) if off_policy else new
            if t.weight:
                advantage = advantage * t.weight(x)
            return form(new, old, advantage, e if hidden else x["clip_range"])

        return computed

    def of_one(t: Target, words: str, norm: Norm, e: float) -> Iterator[Reading]:
        said = (*t.said, *((words,) if words else ()))
        right = rows(t, norm, e)
        if t.fault:
            yield Reading(right, said, t.fault, rows(meant, norm, e))
            return
        at = (*said, *((f"ε = {e:g} is written inside",) if hidden and off_policy else ()))
        if t.weight:
            yield Reading(right, at)
            return
        for what, form in forms:
            yield told(what, rows(t, norm, e, form), right, said if form is sur.unclipped else at)
        for fault, of in _wrong_log_probs(roles):
            yield told(fault, rows(t, norm, e, of=of), right, at)
        for axis, degrees in () if words else itertools.product((0, -1), (0, 1)):
            over_all = rows(t, along(None, degrees), e)
            yield told(AXIS, rows(t, along(axis, degrees), e), over_all, said)

    ways = [(t, words, norm) for t in aims for words, norm in normalisations()]
    if not {"advantages", "returns"} & roles and "values" in roles:
        # Returns may be normalised before the baseline is taken.
        inside = normalised(targets(roles, gammas, lams))
        ways += [(t.less("values"), "", as_it_is) for t in inside]
    each = itertools.product(ways, clips if off_policy else (0.0,))
    return [reading for way, e in each for reading in of_one(*way, e)]


def _column(x: np.ndarray) -> np.ndarray:
    return x.reshape(-1, 1)


def _wrong_log_probs(roles: frozenset[str]) -> list[tuple[Fault, Rows]]:
    """Known mistakes in the density itself, where a loss computes it."""

    def chosen(table: Rows) -> Rows:
        return lambda x: np.take_along_axis(table(x), x["actions"][..., None], -1)[..., 0]

    def three(x: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return x["actions"], x["means"], deviations(x)

    if "log_probs" in roles:
        return []
    if "means" in roles:
        return [
            *(
                (NORMAL._replace(wrong=text), lambda x, wrong=wrong: wrong(*three(x)).sum(-1))
                for text, wrong in WRONG_NORMALS.items()
            ),
            (AVERAGED, lambda x: normal(*three(x)).mean(-1)),
        ]
    if "logits" in roles:
        return [(NO_SOFTMAX, chosen(lambda x: x["logits"]))]
    return [(SOFTMAX, chosen(lambda x: log_softmax(x["probs"])))]


# ------------------------------------------------------------------------------ the values

MEAN_ERROR = Fault(
    "value-loss",
    "the square of the mean error, not the mean of the squared errors",
    "Only the average over the batch is fitted: states are not told apart.",
    "((values - targets) ** 2).mean()",
)
TO_ADVANTAGE = Fault(
    "value-target",
    "the critic's target is the advantage, where the return belongs",
    "Advantages are 0 on average: the critic forgets the values.",
    "((values - returns) ** 2).mean(), with returns = advantages + values",
)


def square(v: np.ndarray, target: np.ndarray) -> np.ndarray:
    return np.asarray((v - target) ** 2)


def huber(v: np.ndarray, target: np.ndarray) -> np.ndarray:
    d = np.abs(v - target)
    return np.where(d < 1, 0.5 * d**2, d - 0.5)


# Of values and targets: the words of a choice, or the mistake.
ERRORS: list[tuple[str | Fault, sur.Two]] = [
    ("", square),
    ("smooth L1 (Huber) instead of the square: less moved by outliers, a little biased", huber),
    (
        "absolute error instead of the square: values estimate the median return",
        lambda v, target: np.abs(v - target),
    ),
    (BROADCAST, lambda v, target: square(v.ravel()[:, None], target.ravel())),
    (MEAN_ERROR, lambda v, target: square(v.mean(keepdims=True), target.mean())),
]
# Of values, old values and ε: what is held against the target.
Limit = Callable[[np.ndarray, np.ndarray, float], np.ndarray]


def around_old(v: np.ndarray, old: np.ndarray, e: float) -> np.ndarray:
    return old + np.clip(v - old, -e, e)


def around_zero(v: np.ndarray, old: np.ndarray, e: float) -> np.ndarray:
    return np.clip(v, -e, e)


_AROUND_ZERO = "values are clipped to [−ε, ε] themselves, not their change since V_old"
# The words, the effect of a mistake; what is held against the target, and which of the two losses.
CLIPS: list[tuple[str, str, Limit, sur.Two]] = [
    ("the value is clipped around V_old (the larger of two losses)", "", around_old, np.maximum),
    ("the value is clipped around V_old (only the clipped loss)", "", around_old, sur.second),
    (
        "the value clip takes the smaller of the two losses: min for max",
        "Leaving the range is rewarded: a value that is far off has no gradient, and stays there.",
        around_old,
        np.minimum,
    ),
    (
        _AROUND_ZERO,
        "Values outside [−ε, ε] are compared with a constant.",
        around_zero,
        np.maximum,
    ),
    (
        _AROUND_ZERO,
        "Values outside [−ε, ε] have no gradient: they cannot be learnt.",
        around_zero,
        sur.second,
    ),
    (
        "the value is clipped to a multiple of V_old: (1 ± ε) V_old",
        "The range depends on the sign and size of the value; at 0 nothing may change.",
        lambda v, old, e: np.clip(v, old * (1 - e), old * (1 + e)),
        np.maximum,
    ),
    (
        "the clipped change is added to V instead of V_old",
        "The clipped value moves twice, and its gradient is doubled.",
        lambda v, old, e: v + np.clip(v - old, -e, e),
        np.maximum,
    ),
]
_CLIP_MEND = "max((V - R)², (V_old + clip(V - V_old, -ε, ε) - R)²)"


def value(
    roles: frozenset[str],
    clips: tuple[float, ...],
    gammas: tuple[float, ...],
    lams: tuple[float, ...],
) -> list[Reading]:
    """Readings of the value term."""
    aims = [t for t in targets(roles, gammas, lams) if not t.weight]
    if aims and not {"returns", "advantages"} & roles:
        aims += normalised(aims)
    named = [r for r in ("value_clip_range", "clip_range") if r in roles]

    def of(t: Target, form: sur.Two = square) -> Rows:
        return lambda x: form(x["values"], t.value(x))

    def limited(t: Target, limit: Limit, of: sur.Two, e: float) -> Rows:
        def rows(x: Case) -> np.ndarray:
            v, target = x["values"], t.value(x)
            bounded = limit(v, x["old_values"], float(x[named[0]]) if named else e)
            return of(square(v, target), square(bounded, target))

        return rows

    def of_one(t: Target) -> Iterator[Reading]:
        if t.fault:
            yield told(t.fault, of(t), of(aims[0]), t.said)
            return
        for what, form in ERRORS:
            yield told(what, of(t, form), of(t), t.said)
        yield told(TO_ADVANTAGE, of(t.less("values", fixed=True)), of(t), t.said)
        if "advantages" in roles:
            given = Target(lambda x: x["advantages"])
            yield told(TO_ADVANTAGE, of(given), of(t), t.said)
        for e in clips if "old_values" in roles else ():
            at = (*t.said, *(() if named else (f"value clip ε = {e:g} is written inside",)))
            right = limited(t, around_old, np.maximum, e)
            for words, effect, limit, chosen in CLIPS:
                what = Fault("value-clip", words, effect, _CLIP_MEND) if effect else words
                yield told(what, limited(t, limit, chosen, e), right, at)

    return [reading for t in aims for reading in of_one(t)]


# ------------------------------------------------------------------------------ entropy and KL

WEIGHTS_MISSING = Fault(
    "entropy-definition",
    "the entropy is −Σ log p: the weights p are missing",
    "It pushes hardest on the rarest actions, and is not bounded.",
    "entropy = -(p * log_p).sum(-1)",
)


def entropy(roles: frozenset[str]) -> list[Reading]:
    """Readings of minus the bonus: a loss."""
    found: list[tuple[str | Fault, Rows]] = []
    if {"entropy", "logits", "probs", "means"} & roles:
        found.append(("", _bonus))
    if "entropy" not in roles:
        found += [(what, rows) for sources, what, rows in _ENTROPIES if sources & roles]
    return [told(what, rows, _bonus) for what, rows in found]


def _bonus(x: Case) -> np.ndarray:
    return -entropy_of(x)


_ENTROPIES: list[tuple[set[str], str | Fault, Rows]] = [
    ({"logits", "probs"}, WEIGHTS_MISSING, lambda x: all_log_probs(x).sum(-1)),
    (
        {"logits", "probs"},
        "the entropy is averaged over the actions, not summed",
        lambda x: _bonus(x) / all_log_probs(x).shape[-1],
    ),
    (
        {"means"},
        "the entropy is averaged over the action's dimensions, not summed",
        lambda x: _bonus(x) / x["means"].shape[-1],
    ),
    (
        {"entropy_coefficient"},
        "the entropy is estimated by −log π of the sampled actions, whose gradient is 0 on "
        "average: prefer the entropy itself",
        new_log_probs,
    ),
]
# Of d = log π − log π_old: the samples are the old policy's, and −d is unbiased, its gradient too.
SINCE_OLD: list[tuple[str | Fault, Norm]] = [
    ("KL(π_old ‖ π) by −log ratio", lambda d: -d),
    ("KL(π_old ‖ π) by k3", lambda d: k3(-d)),
    ("KL(π_old ‖ π) by k2", lambda d: 0.5 * d**2),
    ("KL(π_old ‖ π) by the squared log ratio", lambda d: d**2),
    ("KL(π ‖ π_old), weighted by the ratio", lambda d: np.exp(d) * d),
    ("KL(π ‖ π_old) by k3", k3),
]
# Of d = log π − log π_ref.
TO_REFERENCE: list[tuple[str | Fault, Norm]] = [
    ("KL to the reference by the k3 estimator", k3),
    ("KL to the reference by the k2 estimator", lambda d: 0.5 * d**2),
    ("KL to the reference by the squared log ratio", lambda d: d**2),
    ("KL to the reference by |log ratio|", np.abs),
    ("KL of the reference from π, by k3", lambda d: k3(-d)),
    (
        Fault(
            "kl-estimator",
            "the KL penalty is the k1 estimator, log π − log π_ref of samples, used as a loss",
            "Its gradient is that of log π, whose mean over the policy's own samples is zero "
            "whatever the reference is: noise instead of a pull towards the reference.",
            "Use k3 as the loss: d = ref_log_probs - log_probs; kl = exp(d) - 1 - d. "
            "Or put k1, detached, into the reward.",
        ),
        as_it_is,
    ),
]
WEIGHTED: list[tuple[str | Fault, Norm]] = [
    ("k1, weighted by the ratio", as_it_is),
    ("k3, weighted by the ratio", k3),
]


def kl(roles: frozenset[str]) -> list[Reading]:
    """Estimators of the KL divergence from samples, as losses."""
    anchored = "ref_log_probs" in roles
    other = ref_log_probs if anchored else old_log_probs

    def of(form: Norm) -> Rows:
        return lambda x: form(new_log_probs(x) - other(x))

    def weighted(rows: Rows) -> Rows:
        return lambda x: np.exp(new_log_probs(x) - old_log_probs(x)) * rows(x)

    found = [(what, of(form)) for what, form in (TO_REFERENCE if anchored else SINCE_OLD)]
    if anchored and "old_log_probs" in roles:
        found += [(what, weighted(of(form))) for what, form in WEIGHTED]
    return [told(what, rows, found[0][1]) for what, rows in found]


# ------------------------------------------------------------------------------ of every term

# What it is called; what minimising it with the wrong sign makes, and what that comes to; what
# comes of it without a gradient, and the mend of that; the plain form.
_TERMS = {
    "policy": (
        ("policy term", "good actions less likely"),
        "The policy is trained to get the smallest return.",
        "The actor does not learn.",
        "Do not detach the log-probabilities of the current policy.",
        "loss = -(log_prob * advantage).mean(), or PPO's clipped surrogate",
    ),
    "value": (
        ("value term", "the error larger"),
        "The critic diverges.",
        "The critic does not learn.",
        "Detach the target, not the values.",
        "loss = ... + value_coefficient * ((values - targets) ** 2).mean()",
    ),
    "entropy": (
        ("entropy bonus", "the entropy smaller"),
        "The policy becomes deterministic early and stops to explore.",
        "The bonus moves the reported loss and nothing else: exploration is not encouraged.",
        "Compute the entropy from the current policy's output, without detach or no_grad.",
        "loss = policy_loss - entropy_coefficient * entropy.mean()",
    ),
    "kl": (
        ("KL penalty", "the divergence larger"),
        "The policy is driven away from the reference.",
        "It moves the reported loss and nothing else: nothing holds the policy near the reference.",
        "Compute it from the current log-probabilities, without detach or no_grad.",
        "loss = ... + kl_coefficient * (exp(d) - 1 - d).mean(), d = ref_log_probs - log_probs",
    ),
}
SIGNS = {
    term: Fault(
        f"{term}-sign",
        f"the {name} has the wrong sign: minimising it makes {worse}",
        effect,
        plain_form,
    )
    for term, ((name, worse), effect, _, _, plain_form) in _TERMS.items()
}
DEAD = {
    term: Fault(f"{term}-gradient", f"the {name} carries no gradient", effect, mend)
    for term, ((name, _), _, effect, mend, _) in _TERMS.items()
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
_OLD_VALUES_LEAK = Fault(
    "old-values-detached",
    "the gradient of the value term flows into the old values",
    "The clip range moves with the value that it should bound.",
    "old_values = old_values.detach()",
)
_LOGS_LEAK = {
    role: Fault(
        check,
        f"gradient flows into {role}",
        "The ratio's gradient cancels where the two policies share parameters.",
        f"{role} = {role}.detach()",
    )
    for role, check in (
        ("old_log_probs", "old-log-probs-detached"),
        ("ref_log_probs", "reference-detached"),
    )
}


def leak(term: str, role: str) -> Fault:
    if term == "value":
        return _OLD_VALUES_LEAK if role == "old_values" else _TARGET_LEAK
    return _LOGS_LEAK.get(role, _ADVANTAGE_LEAK)
