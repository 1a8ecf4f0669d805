"""PPO's surrogate, and every known way of getting it wrong, a row each."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from actorcritic.audit.findings import Fault

# Of log π, log π_old, the advantage and ε: what is minimised, a number a row.
Surrogate = Callable[[np.ndarray, np.ndarray, np.ndarray, float], np.ndarray]
Two = Callable[[np.ndarray, np.ndarray], np.ndarray]
Clip = Callable[[np.ndarray, float], np.ndarray]


def first(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return one


def second(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return other


def surrogate(
    ratio: Two = lambda new, old: np.exp(new - old),
    clip: Clip = lambda r, e: np.clip(r, 1 - e, 1 + e),
    of: Two = np.minimum,
) -> Surrogate:
    """−min(ρ A, clip(ρ) A), or with another ratio, another clip, another choice of the two."""

    def rows(new: np.ndarray, old: np.ndarray, a: np.ndarray, e: float) -> np.ndarray:
        r = ratio(new, old)
        return np.asarray(-of(r * a, clip(r, e) * a))

    return rows


clipped = surrogate()
unclipped = surrogate(of=first)
plain = surrogate(ratio=first, of=first)  # log π stands where the ratio does
probability = surrogate(ratio=lambda new, old: np.exp(new), of=first)


def dual(limit: float) -> Surrogate:
    def rows(new: np.ndarray, old: np.ndarray, a: np.ndarray, e: float) -> np.ndarray:
        found = clipped(new, old, a, e)
        return np.where(a < 0, np.minimum(found, -limit * a), found)

    return rows


def _of_product(low: Clip, high: Clip) -> Surrogate:
    """The product ρ A is clipped."""

    def rows(new: np.ndarray, old: np.ndarray, a: np.ndarray, e: float) -> np.ndarray:
        product = np.exp(new - old) * a
        return -np.minimum(product, np.clip(product, low(a, e), high(a, e)))

    return rows


_RATIO = "ratio = exp(new_log_probs - old_log_probs)"
_MENDS = {
    "surrogate-min": (
        "-min(ratio * A, clipped * A).mean(), or equally max(-ratio * A, -clipped * A).mean()"
    ),
    "ratio-direction": _RATIO,
    "ratio-per-sample": _RATIO,
    "ratio-exp": _RATIO,
    "clip-range": "clip(ratio, 1 - clip_range, 1 + clip_range)",
}
_OPPOSITE = "The gradient has the opposite sign: good actions are made less likely."
_MIXED = "Every action is weighted by what happened to all the others."
_ALWAYS = "A ratio is near 1, so that it is always clipped: good actions have no gradient."
# What is wrong: the check, the effect, and what is computed.
_ROWS: dict[str, tuple[str, str, Surrogate]] = {
    "the surrogate takes the larger of the two terms: max for min": (
        "surrogate-min",
        "Leaving the trust region is rewarded, and what would correct a bad step has no gradient.",
        surrogate(of=np.maximum),
    ),
    "only the clipped ratio is used: the minimum with ratio * A is missing": (
        "surrogate-min",
        "A step that went too far the wrong way has no gradient, and is never undone.",
        surrogate(of=second),
    ),
    "the probability ratio is inverted: π_old / π_new": (
        "ratio-direction",
        _OPPOSITE,
        surrogate(lambda new, old: np.exp(old - new)),
    ),
    "the probability ratio is inverted (π_old / π_new), and nothing is clipped": (
        "ratio-direction",
        _OPPOSITE,
        surrogate(lambda new, old: np.exp(old - new), of=first),
    ),
    "one ratio for the whole batch: log-probabilities are summed over it before exp": (
        "ratio-per-sample",
        _MIXED,
        surrogate(lambda new, old: np.exp(np.sum(new - old)) * np.ones_like(new)),
    ),
    "one ratio for the whole batch: log-probabilities are averaged over it before exp": (
        "ratio-per-sample",
        _MIXED,
        surrogate(lambda new, old: np.exp(np.mean(new - old)) * np.ones_like(new)),
    ),
    "the ratio is one of probabilities summed over the batch": (
        "ratio-per-sample",
        _MIXED,
        surrogate(lambda new, old: np.exp(new).sum() / np.exp(old).sum() * np.ones_like(new)),
    ),
    "exp is missing: the ratio is the difference of log-probabilities": (
        "ratio-exp",
        "It is 0 where it should be 1, so that the clip always acts on it.",
        surrogate(lambda new, old: new - old),
    ),
    "the ratio is one of log-probabilities, not of probabilities": (
        "ratio-exp",
        "Log-probabilities are negative: likelier actions have a smaller ratio.",
        surrogate(lambda new, old: new / old),
    ),
    "the bounds of the clip are swapped: clip(ratio, 1 + ε, 1 − ε)": (
        "clip-range",
        "The clipped ratio is a constant: most good actions have no gradient.",
        surrogate(clip=lambda r, e: np.full_like(r, 1 - e)),
    ),
    "the ratio is clipped to [−ε, ε] instead of [1 − ε, 1 + ε]": (
        "clip-range",
        _ALWAYS,
        surrogate(clip=lambda r, e: np.clip(r, -e, e)),
    ),
    "the ratio is clipped to [0, ε] instead of [1 − ε, 1 + ε]": (
        "clip-range",
        _ALWAYS,
        surrogate(clip=lambda r, e: np.clip(r, 0, e)),
    ),
    "the ratio is clipped from below only": (
        "clip-range",
        "Good actions are made likelier without bound.",
        surrogate(clip=lambda r, e: np.maximum(r, 1 - e)),
    ),
    "the ratio is clipped from above only": (
        "clip-range",
        "Bad actions are made less likely without bound.",
        surrogate(clip=lambda r, e: np.minimum(r, 1 + e)),
    ),
    "the clip is on the wrong side: the ratio is raised to at least 1 + ε": (
        "clip-range",
        "Bad actions are bounded from the wrong side, and good ones are not bounded at all.",
        surrogate(clip=lambda r, e: np.maximum(r, 1 + e)),
    ),
    "the ratio is pushed out of the clip range instead of into it": (
        "clip-range",
        "Nothing bounds the step.",
        surrogate(clip=lambda r, e: np.where(r > 1, np.maximum(r, 1 + e), np.minimum(r, 1 - e))),
    ),
    "the log-ratio is clipped to [1 − ε, 1 + ε]": (
        "clip-range",
        "A log-ratio is near 0: it is always clipped.",
        surrogate(clip=lambda r, e: np.exp(np.clip(np.log(r), 1 - e, 1 + e))),
    ),
    "the product ratio * A is clipped to [(1 − ε) A, (1 + ε) A]: swapped where A is negative": (
        "clip-range",
        "Bad actions are bounded on the wrong side.",
        _of_product(lambda a, e: (1 - e) * a, lambda a, e: (1 + e) * a),
    ),
    "the product ratio * A is clipped instead of the ratio": (
        "clip-range",
        "The bound depends on the size of the advantage: large ones have no gradient.",
        _of_product(lambda a, e: np.asarray(1 - e), lambda a, e: np.asarray(1 + e)),
    ),
}
SURROGATES = [
    (Fault(check, wrong, effect, _MENDS[check]), form)
    for wrong, (check, effect, form) in _ROWS.items()
]
NOT_CLIPPED = Fault(
    "clip-range",
    "the ratio is not clipped",
    "Nothing bounds the step: several epochs tear the policy away from the one that acted.",
    "-min(ratio * A, clip(ratio, 1 - clip_range, 1 + clip_range) * A).mean()",
)
