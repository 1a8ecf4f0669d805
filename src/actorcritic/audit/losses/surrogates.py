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
_CLIP = "clip(ratio, 1 - clip_range, 1 + clip_range)"
_MIN = "-min(ratio * A, clipped * A).mean()"
_OPPOSITE = "The gradient has the opposite sign: good actions are made less likely."
_MIXED = "Every action is weighted by what happened to all the others."
_ALWAYS = "A ratio is near 1, so that it is always clipped: good actions have no gradient."

_RATIOS: list[tuple[str, str, str, Two]] = [
    (
        "ratio-direction",
        "the probability ratio is inverted: π_old / π_new",
        _OPPOSITE,
        lambda new, old: np.exp(old - new),
    ),
    (
        "ratio-per-sample",
        "one ratio for the whole batch: log-probabilities are summed over it before exp",
        _MIXED,
        lambda new, old: np.exp(np.sum(new - old)) * np.ones_like(new),
    ),
    (
        "ratio-per-sample",
        "one ratio for the whole batch: log-probabilities are averaged over it before exp",
        _MIXED,
        lambda new, old: np.exp(np.mean(new - old)) * np.ones_like(new),
    ),
    (
        "ratio-per-sample",
        "the ratio is one of probabilities summed over the batch",
        _MIXED,
        lambda new, old: np.exp(new).sum() / np.exp(old).sum() * np.ones_like(new),
    ),
    (
        "ratio-exp",
        "exp is missing: the ratio is the difference of log-probabilities",
        "It is 0 where it should be 1, so that the clip always acts on it.",
        lambda new, old: new - old,
    ),
    (
        "ratio-exp",
        "the ratio is one of log-probabilities, not of probabilities",
        "Log-probabilities are negative: likelier actions have a smaller ratio.",
        lambda new, old: new / old,
    ),
]
_CLIPS: list[tuple[str, str, Clip]] = [
    (
        "the bounds of the clip are swapped: clip(ratio, 1 + ε, 1 − ε)",
        "The clipped ratio is a constant: most good actions have no gradient.",
        lambda r, e: np.full_like(r, 1 - e),
    ),
    (
        "the ratio is clipped to [−ε, ε] instead of [1 − ε, 1 + ε]",
        _ALWAYS,
        lambda r, e: np.clip(r, -e, e),
    ),
    (
        "the ratio is clipped to [0, ε] instead of [1 − ε, 1 + ε]",
        _ALWAYS,
        lambda r, e: np.clip(r, 0, e),
    ),
    (
        "the ratio is clipped from below only",
        "Good actions are made likelier without bound.",
        lambda r, e: np.maximum(r, 1 - e),
    ),
    (
        "the ratio is clipped from above only",
        "Bad actions are made less likely without bound.",
        lambda r, e: np.minimum(r, 1 + e),
    ),
    (
        "the clip is on the wrong side: the ratio is raised to at least 1 + ε",
        "Bad actions are bounded from the wrong side, and good ones are not bounded at all.",
        lambda r, e: np.maximum(r, 1 + e),
    ),
    (
        "the ratio is pushed out of the clip range instead of into it",
        "Nothing bounds the step.",
        lambda r, e: np.where(r > 1, np.maximum(r, 1 + e), np.minimum(r, 1 - e)),
    ),
    (
        "the log-ratio is clipped to [1 − ε, 1 + ε]",
        "A log-ratio is near 0: it is always clipped.",
        lambda r, e: np.exp(np.clip(np.log(r), 1 - e, 1 + e)),
    ),
]
_WHOLE: list[tuple[Fault, Surrogate]] = [
    (
        Fault(
            "surrogate-min",
            "the surrogate takes the larger of the two terms: max for min",
            "The bound is on the wrong side: steps that leave the trust region are rewarded, and "
            "those that would correct a bad one have no gradient.",
            f"{_MIN}, or equally max(-ratio * A, -clipped * A).mean()",
        ),
        surrogate(of=np.maximum),
    ),
    (
        Fault(
            "surrogate-min",
            "only the clipped ratio is used: the minimum with ratio * A is missing",
            "A step that went too far the wrong way has no gradient, and is never undone.",
            _MIN,
        ),
        surrogate(of=second),
    ),
    (
        Fault(
            "ratio-direction",
            "the probability ratio is inverted (π_old / π_new), and nothing is clipped",
            _OPPOSITE,
            _RATIO,
        ),
        surrogate(ratio=lambda new, old: np.exp(old - new), of=first),
    ),
    (
        Fault(
            "clip-range",
            "the product ratio * A is clipped to [(1 − ε) A, (1 + ε) A], whose bounds are "
            "swapped where A is negative",
            "Bad actions are bounded on the wrong side.",
            _CLIP,
        ),
        _of_product(lambda a, e: (1 - e) * a, lambda a, e: (1 + e) * a),
    ),
    (
        Fault(
            "clip-range",
            "the product ratio * A is clipped instead of the ratio",
            "The bound depends on the size of the advantage: large ones have no gradient.",
            _CLIP,
        ),
        _of_product(lambda a, e: np.asarray(1 - e), lambda a, e: np.asarray(1 + e)),
    ),
]
SURROGATES = [
    *_WHOLE,
    *((Fault(c, wrong, effect, _RATIO), surrogate(ratio)) for c, wrong, effect, ratio in _RATIOS),
    *((Fault("clip-range", w, effect, _CLIP), surrogate(clip=clip)) for w, effect, clip in _CLIPS),
]
NOT_CLIPPED = Fault(
    "clip-range",
    "the ratio is not clipped",
    "Nothing bounds the step: several epochs on the same data tear the policy away from the one "
    "that gathered it.",
    "-min(ratio * A, clip(ratio, 1 - clip_range, 1 + clip_range) * A).mean()",
)
