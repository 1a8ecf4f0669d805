"""Losses as rows: every known reading of each term, in float64, one line each.

A term is the policy's, the value's, the entropy bonus or a KL penalty. First stand the right
readings, with the choices that they show, then the known mistakes. What a function computes
inside (returns, advantages) is defined in truths.py; the mistakes in it stand in mistakes.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from actorcritic.audit.findings import Fault
from actorcritic.audit.losses.cases import (
    NORMAL,
    WRONG_NORMALS,
    Case,
    Reading,
    Rows,
    all_log_probs,
    deviations,
    entropy_of,
    log_softmax,
    new_log_probs,
    normal,
    old_log_probs,
    ref_log_probs,
)
from actorcritic.audit.losses.surrogates import (
    AXIS,
    BROADCAST,
    NOT_CLIPPED,
    SURROGATES,
    Surrogate,
    clipped,
    dual,
    unclipped,
)
from actorcritic.audit.losses.targets import (
    Norm,
    Target,
    advantages,
    along,
    minus_values,
    normalisations,
    targets,
)

# ------------------------------------------------------------------------------ targets


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
    form = clipped if off_policy else _plain

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
            old, advantage = old_log_probs(x) if off_policy else new, norm(t.value(x))
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
        unbounded = Reading(rows(unclipped, t, norm, e), said, NOT_CLIPPED, right)
        if not bounded:
            said_so = (*said, "the ratio is not clipped")
            unbounded = unbounded._replace(said=said_so, fault=None, right=None)
        found.append(unbounded)
        for limit in (3.0, 2.0):
            found.append(Reading(rows(dual(limit), t, norm, e), (*at, f"dual clip at {limit:g}")))
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
                value = minus_values(_normalised(t.value, norm))
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
            return new_log_probs(x) - old_log_probs(x)

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
        return new_log_probs(x) - ref_log_probs(x)

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
                lambda x: np.exp(new_log_probs(x) - old_log_probs(x)) * d(x),
                ("k1, weighted by the ratio",),
            ),
            Reading(
                lambda x: np.exp(new_log_probs(x) - old_log_probs(x)) * k3(x),
                ("k3, weighted by the ratio",),
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
