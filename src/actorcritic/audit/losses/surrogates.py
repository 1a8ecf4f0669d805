"""PPO's surrogate, and every known way of getting it wrong, a row each."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from actorcritic.audit.findings import Fault

# ------------------------------------------------------------------------------ targets


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


def clipped(lp: np.ndarray, old: np.ndarray, a: np.ndarray, e: float) -> np.ndarray:
    ratio = np.exp(lp - old)
    return -np.minimum(ratio * a, np.clip(ratio, 1 - e, 1 + e) * a)


def dual(limit: float) -> Surrogate:
    def rows(lp: np.ndarray, old: np.ndarray, a: np.ndarray, e: float) -> np.ndarray:
        return np.where(
            a < 0, np.minimum(clipped(lp, old, a, e), -limit * a), clipped(lp, old, a, e)
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


def unclipped(lp: np.ndarray, old: np.ndarray, a: np.ndarray, e: float) -> np.ndarray:
    return -np.exp(lp - old) * a


RATIO_MEND = "ratio = exp(new_log_probs - old_log_probs)"
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
            RATIO_MEND,
        ),
    ),
    (
        lambda lp, old, a, e: -np.exp(old - lp) * a,
        Fault(
            "ratio-direction",
            "the probability ratio is inverted (π_old / π_new), and nothing is clipped",
            "The gradient has the opposite sign: good actions are made less likely.",
            RATIO_MEND,
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
            RATIO_MEND,
        ),
    ),
    (
        _of_ratio(lambda lp, old: np.exp(np.mean(lp - old)) * np.ones_like(lp)),
        Fault(
            "ratio-per-sample",
            "one ratio for the whole batch: log-probabilities are averaged over it before exp",
            "Every action is weighted by what happened to all the others.",
            RATIO_MEND,
        ),
    ),
    (
        _of_ratio(lambda lp, old: np.exp(lp).sum() / np.exp(old).sum() * np.ones_like(lp)),
        Fault(
            "ratio-per-sample",
            "the ratio is one of probabilities summed over the batch",
            "Every action is weighted by what happened to all the others.",
            RATIO_MEND,
        ),
    ),
    (
        _of_ratio(lambda lp, old: lp - old),
        Fault(
            "ratio-exp",
            "exp is missing: the ratio is the difference of log-probabilities",
            "It is 0 where it should be 1, so that the clip always acts on it.",
            RATIO_MEND,
        ),
    ),
    (
        _of_ratio(lambda lp, old: lp / old),
        Fault(
            "ratio-exp",
            "the ratio is one of log-probabilities, not of probabilities",
            "Log-probabilities are negative: likelier actions have a smaller ratio.",
            RATIO_MEND,
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
