"""Plain words about a training that goes wrong, from the metrics it reports."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces
from jaxtyping import Bool, Float, Int

from actorcritic.core.types import EnvSpec
from actorcritic.maths.spaces import has_mask
from actorcritic.runners.session import MetricTable, is_episodic

GRACE = 20  # first updates, which look odd in any training
WINDOW = 20  # updates at least, and …
SHARE = 0.05  # … this share of the training: small batches make metrics that jump about

# The limits below were set on PPO, A2C and REINFORCE learning the classic-control tasks: none of
# those runs reaches them. There, gradients of 400 times max_grad_norm are common and harmless.
WORST_EXPLAINED_VARIANCE = -0.5
NEARLY = 0.75  # of the way from the lowest return to the highest: there, returns are so much
# alike that explained_variance says nothing (-5 on a solved CartPole), and it is not judged.
LEAST_ENTROPY = 0.01  # of the highest possible, in the first half of the training
LARGEST_KL = 0.2
LARGEST_CLIP_FRACTION = 0.6
LARGEST_GRADIENT = 1000.0  # times max_grad_norm


# Returns of an update: HIGH are near the best so far, SOLVED as Gymnasium calls the task solved.
LOW, HIGH, SOLVED = 0, 1, 2


class Finding(NamedTuple):
    """Something wrong with the training of a seed, and what to try."""

    kind: str
    seed: int
    text: str
    update: int = 0  # the row that showed it, where it is one
    step: int = 0


class _Rule(NamedTuple):
    """A metric that must not be beyond a limit for most of a window."""

    kind: str
    metric: str
    limit: float
    below: bool  # the limit is a least value
    text: str  # with places for `figure` (the window's median), `when` and `progress`
    until: float = 1.0  # share of the training in which it counts
    up_to: int = 2  # in updates whose returns are LOW only, or HIGH at most, or whatever they are


def solved_from(environment_id: str) -> float | None:
    """The mean return from which Gymnasium calls a task of its own solved; None of others."""
    entry = gymnasium.registry.get(environment_id)
    return None if entry is None else entry.reward_threshold


def uniform_entropy(space: spaces.Space) -> float | None:
    """Entropy (in nats) of the uniform policy; None where actions are not discrete."""
    match space:
        case spaces.Discrete():
            return math.log(space.n)
        case spaces.MultiDiscrete():
            return float(np.log(space.nvec).sum())
        case spaces.MultiBinary():
            return math.prod(space.shape) * math.log(2)
    return None


class Diagnosis:
    """Looks at the metrics of a training as they come, and speaks of each thing once a seed.

    What it says does not depend on how the training is divided into tables. `max_entropy` is
    that of the uniform policy (see `uniform_entropy`); without it, or without `max_grad_norm`,
    the entropy or the gradient is not judged. `solved` is a return from which on a policy that
    explores no more is no fault.
    """

    def __init__(
        self,
        total_steps: int,
        max_entropy: float | None = None,
        max_grad_norm: float | None = None,
        solved: float | None = None,
    ) -> None:
        self._total_steps = total_steps
        self._solved = np.inf if solved is None else solved
        self._rules = _rules(max_entropy, max_grad_norm)
        self._told: set[tuple[str, int]] = set()
        # Rows that windows to come still need: update, step, level of returns, values.
        self._recent: dict[int, tuple[np.ndarray, ...]] = {}
        self._returns: dict[int, tuple[float, float, float]] = {}  # lowest, highest, last

    @classmethod
    def of(cls, algorithm: Any, spec: EnvSpec, total_steps: int) -> Diagnosis:
        """With what an algorithm and a task tell of gradients and entropies."""
        # Where masks leave little choice, a low entropy is no sign of anything.
        masked = has_mask(spec.observation_space)
        imitates = getattr(algorithm, "draws", None) is not None  # and explores nothing
        return cls(
            total_steps,
            None if masked or imitates else uniform_entropy(spec.action_space),
            getattr(algorithm, "max_grad_norm", None),
            solved_from(spec.id),
        )

    def diverged(self, table: MetricTable) -> list[Finding]:
        """Seeds whose metrics stopped being finite in `table`, which no training recovers from."""
        found = []
        for seed in np.unique(table.seed).tolist():
            rows = table.seed == seed
            found += self._diverged(
                seed, table.update[rows], table.step[rows], table.names, table.values[rows]
            )
        return found

    def look(self, table: MetricTable) -> list[Finding]:
        """What else has gone wrong since the last look; `table` goes on where that one ended."""
        found = []
        for seed in np.unique(table.seed).tolist():
            rows = np.flatnonzero(table.seed == seed)
            update, step, values = table.update[rows], table.step[rows], table.values[rows]
            level, late = self._level(seed, table.names, values), update > GRACE
            new: tuple[np.ndarray, ...] = (update[late], step[late], level[late], values[late])
            if seed in self._recent:
                parts = zip(self._recent[seed], new, strict=True)
                new = tuple(np.concatenate(pair) for pair in parts)
            if len(new[0]):
                found += self._persistent(seed, table.names, *new)
        return found

    def _diverged(
        self,
        seed: int,
        update: Int[np.ndarray, " n"],
        step: Int[np.ndarray, " n"],
        names: tuple[str, ...],
        values: Float[np.ndarray, "n m"],
    ) -> list[Finding]:
        bad = ~np.isfinite(values)
        bad[:, [is_episodic(name) for name in names]] = False
        if not bad.any() or ("diverged", seed) in self._told:
            return []
        self._told.add(("diverged", seed))
        i = int(bad.any(axis=1).argmax())
        which = [f"{name} is {values[i, j]:g}" for j, name in enumerate(names) if bad[i, j]]
        text = (
            f"Seed {seed}: the training diverged at update {update[i]:,} (step {step[i]:,}): "
            f"{', '.join(which)}. Start again with a lower learning_rate; if rewards or "
            "observations are large, with normalize_reward or normalize_observation as well."
        )
        return [Finding("diverged", seed, text, int(update[i]), int(step[i]))]

    def _level(
        self, seed: int, names: tuple[str, ...], values: Float[np.ndarray, "n m"]
    ) -> Int[np.ndarray, " n"]:
        """How high the episodes of each update (or else the last ones before) returned."""
        if "return" not in names:
            return np.zeros(len(values), int)
        lowest, highest, last = self._returns.get(seed, (np.nan,) * 3)
        x = np.concatenate([[last], values[:, names.index("return")]])
        known = np.maximum.accumulate(np.where(np.isfinite(x), np.arange(len(x)), 0))
        x = x[known][1:]
        low = np.fmin.accumulate(np.concatenate([[lowest], x]))[1:]
        high = np.fmax.accumulate(np.concatenate([[highest], x]))[1:]
        self._returns[seed] = (low[-1], high[-1], x[-1])
        near = x > low + NEARLY * (high - low)  # never where all returns are equal
        return np.where(x >= self._solved, SOLVED, np.where(near, HIGH, LOW))

    def _persistent(
        self,
        seed: int,
        names: tuple[str, ...],
        update: Int[np.ndarray, " n"],
        step: Int[np.ndarray, " n"],
        level: Int[np.ndarray, " n"],
        values: Float[np.ndarray, "n m"],
    ) -> list[Finding]:
        # The window that ends at each row; it counts once it is full.
        index, span = np.arange(len(step)), SHARE * self._total_steps
        start = np.minimum(np.searchsorted(step, step - span, side="right"), index - WINDOW + 1)
        full = (start >= 0) & (step - step[0] >= span)
        start = np.maximum(start, 0)
        found = []
        for rule in self._rules:
            if rule.metric not in names or (rule.kind, seed) in self._told:
                continue
            x = values[:, names.index(rule.metric)]
            bad = x < rule.limit if rule.below else x > rule.limit
            bad &= level <= rule.up_to
            hits = np.flatnonzero(
                full & _mostly(bad, start) & (step <= rule.until * self._total_steps)
            )
            if len(hits):
                i = hits[0]
                self._told.add((rule.kind, seed))
                text = rule.text.format(
                    figure=float(np.median(x[start[i] : i + 1])),
                    when=f"updates {update[start[i]]:,} to {update[i]:,}, up to step {step[i]:,}",
                    progress=step[i] / self._total_steps,
                )
                found.append(Finding(rule.kind, seed, f"Seed {seed}: {text}"))
        # One row more than the last window has shows that the next one is full.
        keep = max(0, int(start[-1]) - 1)
        self._recent[seed] = (update[keep:], step[keep:], level[keep:], values[keep:])
        return found


def _mostly(bad: Bool[np.ndarray, " n"], start: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Whether more than half of each window is bad: then so is its median, at far less cost."""
    count = np.concatenate([[0], np.cumsum(bad)])
    end = np.arange(1, len(bad) + 1)
    return 2 * (count[end] - count[start]) > end - start


def _rules(max_entropy: float | None, max_grad_norm: float | None) -> list[_Rule]:
    rules = [
        _Rule(
            "critic",
            "explained_variance",
            WORST_EXPLAINED_VARIANCE,
            True,
            "the critic predicts returns worse than a constant would: explained_variance is "
            "{figure:.2f} (median of {when}), where 1 is perfect and 0 is a constant. Try a lower "
            "learning_rate, normalize_reward, or a larger value_coefficient.",
            up_to=LOW,
        ),
        _Rule(
            "kl",
            "approx_kl",
            LARGEST_KL,
            False,
            "each update moves the policy far from the one that collected its data: approx_kl is "
            "{figure:.2g} (median of {when}); 0.01 to 0.05 is usual. Try a lower learning_rate, "
            "fewer num_epochs, or a smaller clip_range.",
        ),
        _Rule(
            "clipping",
            "clip_fraction",
            LARGEST_CLIP_FRACTION,
            False,
            "most of the data no longer teaches the policy anything: clip_fraction is "
            "{figure:.0%} (median of {when}); up to 30% is usual. Try a lower learning_rate, fewer "
            "num_epochs, or fewer num_minibatches.",
        ),
    ]
    if max_entropy is not None and max_entropy > 0:
        rules.append(
            _Rule(
                "entropy",
                "entropy",
                LEAST_ENTROPY * max_entropy,
                True,
                "the policy stopped exploring {progress:.0%} into the training: entropy is "
                f"{{figure:.2g}} (median of {{when}}), and {max_entropy:.2g} would be uniform. "
                "If returns are still low, try a larger entropy_coefficient or a lower "
                "learning_rate.",
                until=0.5,
                up_to=HIGH,
            )
        )
    if max_grad_norm is not None:
        rules.append(
            _Rule(
                "gradient",
                "gradient_norm",
                LARGEST_GRADIENT * max_grad_norm,
                False,
                f"gradients are huge beside max_grad_norm = {max_grad_norm:g}: gradient_norm is "
                "{figure:,.0f} (median of {when}), so clipping leaves less than a thousandth of "
                "each. Try normalize_reward, or a smaller value_coefficient.",
            )
        )
    return rules
