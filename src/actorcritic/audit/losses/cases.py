"""Cases of a loss, and what a policy says in them: log-probabilities, densities, entropies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from actorcritic.audit.findings import Fault

LOG_2PI = float(np.log(2 * np.pi))


class Case(dict[str, Any]):
    """Our role → float64 array [B] (or [T, B]), or a number. Targets are computed once a case."""

    def __init__(self, *values: Any, **named: Any) -> None:
        super().__init__(*values, **named)
        self.memo: dict[Rows, np.ndarray] = {}
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


def told(what: str | Fault, rows: Rows, right: Rows, said: tuple[str, ...] = ()) -> Reading:
    """A mistake, or a choice in words ("" for what is as usual)."""
    if isinstance(what, Fault):
        return Reading(rows, said, what, right)
    return Reading(rows, (*said, what) if what else said)


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


def way_of(
    ways: Mapping[str, Callable[[np.ndarray], Any]],
    expected: Sequence[np.ndarray],
    found: Sequence[np.ndarray],
    close: Callable[[np.ndarray, np.ndarray], bool],
) -> str | None:
    """How what a reading expects became what was found in every case; None if it did not."""
    for how, way in ways.items():
        made = [np.asarray(way(e)) for e in expected]
        same = [
            g[..., 0] if g.shape == (*e.shape, 1) else g for e, g in zip(made, found, strict=True)
        ]
        if all(e.shape == g.shape and close(e, g) for e, g in zip(made, same, strict=True)):
            return how
    return None


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
NOT_SUMMED = Fault(
    "dimensions-summed",
    "a number for each dimension comes back, not their sum",
    "Ratios and entropies are those of something else, the more so the more dimensions.",
    "log_prob = log_prob.sum(-1)",
)
AVERAGED = NOT_SUMMED._replace(
    wrong="the log-probability is averaged over the action's dimensions, not summed"
)
Normal = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
WRONG_NORMALS: dict[str, Normal] = {
    "the normal density lacks −½ log 2π": lambda x, m, s: normal(x, m, s) + 0.5 * LOG_2PI,
    "the normal density lacks −log σ": lambda x, m, s: normal(x, m, s) + np.log(s),
    "the normal density has + log σ for − log σ": lambda x, m, s: normal(x, m, s) + 2 * np.log(s),
    "the normal density lacks both of its constants, −log σ − ½ log 2π": (
        lambda x, m, s: -0.5 * ((x - m) / s) ** 2
    ),
    "the variance is used as the standard deviation": lambda x, m, s: normal(x, m, s**2),
    "the standard deviation is used as the variance": lambda x, m, s: normal(x, m, np.sqrt(s)),
    "the distance is divided by the standard deviation, where the variance belongs": (
        lambda x, m, s: normal(x, m, s) + 0.5 * ((x - m) / s) ** 2 - 0.5 * (x - m) ** 2 / s
    ),
    "log σ is used as σ": lambda x, m, s: normal(x, m, np.abs(np.log(s))),
    "σ is used as log σ": lambda x, m, s: normal(x, m, np.exp(s)),
    "the quadratic term lacks its ½": lambda x, m, s: normal(x, m, s) - 0.5 * ((x - m) / s) ** 2,
    "the square of the distance is missing: |x − μ| / σ": (
        lambda x, m, s: normal(x, m, s) + 0.5 * ((x - m) / s) ** 2 - 0.5 * np.abs(x - m) / s
    ),
    "the density is returned, not its logarithm": lambda x, m, s: np.exp(normal(x, m, s)),
}


def new_log_probs(x: Case) -> np.ndarray:
    """log π(a|s), an action's dimensions summed."""
    if "log_probs" in x:
        return joint(x["log_probs"], x)
    if "means" in x:
        return np.asarray(normal(x["actions"], x["means"], deviations(x)).sum(-1))
    return np.take_along_axis(all_log_probs(x), x["actions"][..., None], -1)[..., 0]


def shape_of(x: Case) -> tuple[int, ...]:
    """That of the rows; a continuous action has an axis of its own."""
    shape: tuple[int, ...] = x["actions"].shape
    return shape[:-1] if x["actions"].dtype.kind == "f" else shape


def rows_of(x: Case) -> int:
    return int(np.prod(shape_of(x)))


def joint(log_probs: np.ndarray, x: Case) -> np.ndarray:
    return log_probs.sum(-1) if log_probs.ndim > len(shape_of(x)) else log_probs


def old_log_probs(x: Case) -> np.ndarray:
    return joint(x["old_log_probs"], x)


def ref_log_probs(x: Case) -> np.ndarray:
    return joint(x["ref_log_probs"], x)


def k3(d: np.ndarray) -> np.ndarray:
    """Of d = log p − log q for samples of p: an estimate of KL(p ‖ q) that is never negative."""
    return np.asarray(np.expm1(-d) + d)


def entropy_of(x: Case) -> np.ndarray:
    """Of the distribution that the network puts out."""
    if "entropy" in x:
        return np.asarray(x["entropy"])
    if "means" in x:
        each = np.log(deviations(x)) + 0.5 + 0.5 * LOG_2PI
        return np.asarray((each + 0 * x["means"]).sum(-1))
    log_p = all_log_probs(x)
    return np.asarray(-(np.exp(log_p) * log_p).sum(-1))
