"""The audit of distributions: log-probabilities of actions, and of samples that come with them.

Truth is the density itself: the normal one, what a change of variables makes of it, and that it
integrates to one. As in `losses`, the usual mistakes are *readings* of one line each, and the one
that reproduces the numbers names what the code does.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from actorcritic.audit import calling
from actorcritic.audit.densities import categorical
from actorcritic.audit.densities.rows import (
    AVERAGED,
    CLIPPED,
    INTEGRAL,
    LEVEL,
    MANY,
    NOT_SUMMED,
    PLAIN,
    SAMPLE_DENSITY,
    SAMPLES,
    SATURATION,
    Case,
    Each,
    Match,
    Point,
    at_u,
    change,
    readings,
    reduced,
    squashed_of,
    truncated,
)
from actorcritic.audit.findings import (
    UNJUDGED,
    WRONG,
    CannotCall,
    Fault,
    Ledger,
    Report,
    as_numbers,
    listing,
)
from actorcritic.audit.losses.cases import NORMAL
from actorcritic.audit.truths import integrates

ROLES: dict[str, tuple[str, ...]] = {
    role: tuple(names.split())
    for role, names in {
        "unsquashed": (
            "pre_tanh pre_tanh_action pre_tanh_value raw_action raw_actions u pretanh z "
            "gaussian_action gaussian_actions unsquashed_action pre_squash x_t latent"
        ),
        "action": "actions act acts a x value sample samples chosen index",
        "mean": "mu loc means mean_action mean_actions μ",
        "log_std": "logstd log_sigma log_scale action_logstd log_stds log_standard_deviation",
        "std": "sigma stddev stds standard_deviation σ",
        "low": "action_low min_action action_min lower low_bound lo a_min",
        "high": "action_high action_max upper high_bound hi a_max",
        "action_scale": "scale half_range act_scale",
        "action_bias": "bias offset act_bias",
        "max_action": "action_limit act_limit bound limit",
        "logits": "logit policy_logits action_logits",
        "probs": "prob probabilities action_probs pi",
        "noise": "eps epsilon ε normal_noise",
        "key": "rng prng_key rng_key generator random_state seed",
    }.items()
}
PER_DIMENSION = re.compile(
    r"per[ _-]?(action[ _-]?)?dim|element[ _-]?wise|each dim|unsummed|unreduced", re.I
)
SQUASHED = re.compile(r"tanh|squash|\bsac\b", re.I)

_BOUNDS = ("low", "high", "action_scale", "max_action")
_OF_ROWS = ("unsquashed", "action", "mean", "std", "log_std", "noise", "logits", "probs")


# ------------------------------------------------------------------------------ the user's function


@dataclass(kw_only=True)
class Audit(Ledger):
    function: Callable[..., Any]
    matched: calling.Matched
    framework: calling.Framework
    roles: frozenset[str]  # that it takes, or looks at in the case that it is given
    batched: bool = True
    inside: float | None = None  # a scale of the action that is written in its code

    def takes(self, *roles: str) -> bool:
        return not self.roles.isdisjoint(roles)

    @property
    def name(self) -> str:
        return calling.name_of(self.function)

    @property
    def words(self) -> str:
        return f"{self.name} {getattr(self.function, '__doc__', '') or ''}"

    @property
    def claimed(self) -> bool:
        """Whether the function says that it squashes: by its roles, words, or what it calls."""
        code = getattr(calling.underlying(self.function), "__code__", None)
        said = f"{self.words} {' '.join(code.co_names) if code is not None else ''}"
        return self.takes("unsquashed", *_BOUNDS) or bool(SQUASHED.search(said))

    @property
    def boxed(self) -> bool:
        return self.takes(*_BOUNDS)

    @property
    def right(self) -> Each:
        """What it should compute, by what it says."""
        return squashed_of if self.claimed else at_u

    def box(self, dimensions: int) -> tuple[np.ndarray, np.ndarray]:
        """Scale and bias of the box that the function can be told of."""
        scale, bias = np.ones(dimensions), np.zeros(dimensions)
        if self.inside is not None or self.takes("max_action"):
            return scale * (self.inside or 2.0), bias
        if self.boxed:
            scale = np.array([2.0, 0.5, 3.0])[:dimensions]
        if self.takes("low", "action_bias"):
            bias = np.array([0.5, -0.2, 1.0])[:dimensions]
        return scale, bias

    def point(
        self, rng: np.random.Generator, rows: int, dimensions: int, same: bool = False
    ) -> Point:
        """Draws; `same`: all of one distribution."""
        shape = (1 if same else rows, dimensions)
        mean = np.broadcast_to(rng.uniform(-0.6, 0.6, shape), (rows, dimensions))
        std = np.broadcast_to(rng.uniform(0.35, 0.8, shape), (rows, dimensions))
        return self.at(mean + std * rng.normal(size=(rows, dimensions)), mean, std)

    def at(self, u: np.ndarray, mean: np.ndarray, std: np.ndarray) -> Point:
        scale, bias = self.box(u.shape[-1])
        return Point(u, bias + scale * np.tanh(u), mean, std, scale, bias)

    def of(self, action: np.ndarray, asked: Point, squashed: bool) -> Point:
        """Where the density of a returned action is."""
        p = self.at(action, asked.mean, asked.std)
        if not squashed:
            return p
        with np.errstate(all="ignore"):
            u = np.arctanh((action - p.bias) / p.scale)
        return Point(u, action, p.mean, p.std, p.scale, p.bias)

    def values(self, p: Point, squashed: bool) -> Case:
        """What is handed over; `squashed`: the action itself and not the draw."""
        return {
            "unsquashed": p.u,
            "action": p.action if squashed else p.u,
            "mean": p.mean,
            "std": p.std,
            "log_std": np.log(p.std),
            "low": p.bias - p.scale,
            "high": p.bias + p.scale,
            "action_scale": p.scale,
            "action_bias": p.bias,
            "max_action": float(p.scale.flat[0]),
            "noise": (p.u - p.mean) / p.std,
        }

    def key(self) -> Any:
        if self.framework.name == "jax":
            import jax

            return jax.random.key(7)
        if self.framework.name.startswith("torch"):
            return importlib.import_module("torch").Generator().manual_seed(7)
        return np.random.default_rng(7)

    def returned(self, values: Case, convert: bool = True) -> calling.Returned:
        given = values | {"key": self.key()}
        return calling.call(self.function, self.matched, given, self.framework, convert)

    def call(self, values: Case, rows: int) -> list[np.ndarray]:
        """The arrays that came back."""
        return [array for _, array in self.returned(values).outputs(rows)]

    def log_probs(self, values: Case, rows: int) -> np.ndarray:
        """[rows], or [rows, dimensions], or whatever it is; of all rows at once, or one by one."""

        def row(i: int) -> Case:
            one = {r: v[i] if r in _OF_ROWS else v for r, v in values.items()}
            return {r: int(v) if isinstance(v, np.integer) else v for r, v in one.items()}

        def only(found: list[np.ndarray]) -> np.ndarray:
            if not found:
                raise CannotCall(f"{self.name} returned no numbers.")
            second = len(found) == 2 and found[0].ndim > found[1].ndim
            return np.asarray(found[second], float)

        if self.batched:
            return only(self.call(values, rows))
        return np.stack([only(self.call(row(i), 0)) for i in range(rows)])

    # -- what is said

    def table(
        self, values: Case, rows: list[tuple[str, Any, Any]], action: np.ndarray | None = None
    ) -> str:
        """What it was given, and the action if it drew one; what is expected, and what came."""
        names = self.matched.names
        given = [(names.get(r, r), v) for r, v in values.items() if self.takes(r)]
        drawn = [] if action is None else [("returned action", action)]
        return listing([*drawn, *given], rows)

    def verdict(
        self, holds: bool, fault: Fault, values: Case, rows: list[tuple[str, Any, Any]]
    ) -> None:
        if holds:
            self.hold(fault.check)
        else:
            self.fail(fault, self.table(values, rows))

    def reduction(self, how: str) -> Fault | None:
        """What is wrong with how dimensions became one number."""
        if how == "per dimension" and PER_DIMENSION.search(self.words):
            self.choices.append("one log-probability for each dimension, as its name says")
            return None
        if how == "sum":
            self.hold(NOT_SUMMED.check)
        return {"per dimension": NOT_SUMMED, "mean": AVERAGED}.get(how)

    def explained(self, match: Match) -> None:
        """What a right reading holds."""
        self.choices.append(match.reading.said)
        self.hold(NORMAL.check)
        if match.reading.each is squashed_of:
            self.hold("tanh-jacobian", "scaled-action", *(["action-scale"] if self.boxed else []))

    def best(
        self, points: Mapping[bool, list[Point]], found: Mapping[bool, list[np.ndarray]]
    ) -> Match | None:
        """The reading that gives what was found, a right one if there is; by squashed or not."""
        matches = []
        for reading in readings(self.claimed, self.boxed):
            for squashed, got in found.items():
                if reading.from_action in (None, squashed) and squashed in points:
                    how = reduced(reading, points[squashed], got)
                    matches += [Match(reading, squashed, how)] if how else []
        # Of equal ones the first.
        return min(
            matches, key=lambda m: (m.reading.fault is not None, m.how != "sum"), default=None
        )

    # -- log-probabilities of given actions

    def densities(self) -> None:
        """The function of an action: which density is it?"""
        rng = np.random.default_rng(3)
        points = [self.point(rng, 6, d) for d in (2, 3, 1)]
        match = self.identify(points)
        if match is None:
            self.unknown(points[0])
            return
        for fault in (self.reduction(match.how), match.reading.fault):
            if fault is not None:
                self.explain(match, fault)
        if match.reading.fault is not None:
            return
        self.explained(match)
        if not self.batched:
            self.choices.append("one action at a time: a batch is summed up or refused")
        self.integral(match)
        self.extremes(match)

    def identify(self, points: list[Point]) -> Match | None:
        for batched in (True, False):
            self.batched = batched
            found: dict[bool, list[np.ndarray]] = {}
            for squashed in (False, True):
                with contextlib.suppress(SystemExit, Exception):
                    found[squashed] = [
                        self.log_probs(self.values(p, squashed), len(p.u)) for p in points
                    ]
            match = self.best({False: points, True: points}, found)
            if match is not None:
                return match
        self.batched = True
        return None

    def explain(self, match: Match, fault: Fault) -> None:
        """The smallest example: one action, of as few dimensions as show it."""
        right = match.reading.each if match.reading.fault is None else self.right
        for d in (1, 2):
            u, mean = np.array([[0.5, -1.0]])[:, :d], np.zeros((1, d))
            p = self.at(u, mean, np.full((1, d), 0.5))
            values = self.values(p, match.squashed)
            expected, got = right(p).sum(-1), self.log_probs(values, 1)
            if got.shape != expected.shape or not np.allclose(got, expected, 1e-3, 1e-3):
                break
        self.fail(fault, self.table(values, [("log-probability", expected, got)]))

    def unknown(self, p: Point) -> None:
        squashed = self.claimed and not self.takes("unsquashed")
        try:
            got = self.log_probs(self.values(p, squashed), len(p.u))
        except (Exception, SystemExit) as error:
            raise CannotCall(
                f"{self.name} failed when called with {self.matched.describe()} "
                f"({self.framework}): {calling.one_line(error)}"
            ) from error
        text = "the log-probability agrees with no density of a normal or squashed normal action"
        severity = UNJUDGED
        if not got.size or not np.all(np.isfinite(got)):
            text = "the log-probability of an ordinary action is not finite"
            severity = WRONG
        one = self.at(p.u[:1], p.mean[:1], p.std[:1])
        rows = [("log-probability", self.right(one).sum(-1), got.ravel()[:1])]
        fault = NORMAL._replace(wrong=text, severity=severity)
        self.fail(fault, self.table(self.values(one, squashed), rows))

    def integral(self, match: Match) -> None:
        """∫ exp(log-probability) over all actions, for one dimension: the trapezoidal rule in u."""
        mean, std = np.full((241, 1), 0.3), np.full((241, 1), 0.6)
        # A truncated normal needs the whole box, whose ends are at infinite u.
        width = 1.0 if match.reading.each is truncated else std
        p = self.at(mean + np.linspace(-8, 8, 241)[:, None] * width, mean, std)
        log_p = self.log_probs(self.values(p, match.squashed), 241).reshape(241, 1)
        if match.reading is not PLAIN:
            log_p = log_p + change(p)
        with np.errstate(over="ignore", invalid="ignore"):
            total = float(np.trapezoid(np.nan_to_num(np.exp(log_p))[:, 0], p.u[:, 0]))
        values = {"mean": mean[:1], "std": std[:1], "log_std": np.log(std[:1])}
        box = {r: v for r, v in self.values(p, False).items() if r not in _OF_ROWS}
        self.verdict(abs(total - 1) < 2e-3, INTEGRAL, values | box, [("integral", 1.0, total)])

    def extremes(self, match: Match) -> None:
        """Saturated draws, and deviations that are tiny or large."""
        u = np.array([[20.0], [-20.0], [12.0], [3.0], [0.0]])
        mean = np.array([[19.0], [-19.0], [9.0], [3.0], [0.0]])
        std = np.array([[1.0], [1.0], [2.0], [7.0], [0.007]])
        if match.squashed:  # the action cannot tell draws apart where tanh is saturated
            u, mean = np.clip(u, -4, 4), np.clip(mean, -4, 4)
        p = self.at(u, mean, std)
        got = self.log_probs(self.values(p, match.squashed), len(u)).reshape(len(u))
        expected, finite = match.reading.each(p)[:, 0], np.isfinite(got)
        one = slice(int(np.argmin(finite)), int(np.argmin(finite)) + 1)
        values = self.values(self.at(u[one], mean[one], std[one]), match.squashed)
        rows = [("log-probability", expected[one], got[one])]
        self.verdict(bool(finite.all()), SATURATION, values, rows)
        if finite.all() and not np.allclose(got, expected, 1e-3, 1e-2):
            self.choices.append(
                "where tanh is saturated the log-probability is cut off (an ε in the logarithm, "
                "or a clip)"
            )

    # -- samples with their log-probabilities

    def samples(self) -> None:
        for dimensions in (1, 2):
            self.drawn(dimensions)
            if self.found:
                return
        self.flow()

    def flow(self) -> None:
        """Whether a gradient reaches the mean through what is drawn (PyTorch)."""
        if self.framework.name != "torch" or self.matched.takes_case:
            return
        values = self.values(self.point(np.random.default_rng(2), 4, 2), False)
        handed = {
            r: self.framework.array(v, requires_grad=r == "mean") if np.ndim(v) else v
            for r, v in values.items()
        }
        result = self.returned(handed, False).result
        parts = result if isinstance(result, tuple) else (result,)
        for name, part in zip(("action", "log-probability"), parts, strict=False):
            if hasattr(part, "requires_grad") and not part.requires_grad:
                self.choices.append(
                    f"no gradient flows through the {name}: right where it is data, and wrong "
                    "where a loss is to train the policy through it (rsample, and no no_grad)"
                )

    def drawn(self, dimensions: int) -> None:
        asked = self.point(np.random.default_rng(11), MANY, dimensions, same=True)
        values = self.values(asked, False)
        found = [np.asarray(f, float) for f in self.call(values, MANY)]
        actions = [f for f in found if f.shape == (MANY, dimensions)]
        logs = [f for f in found if f.shape in ((MANY,), (MANY, 1)) and f is not actions[0]]
        if not actions or not (logs or actions[1:]):
            shapes = ", ".join(str(list(f.shape)) for f in found)
            raise CannotCall(
                f"{self.name} should return actions [N, D] and log-probabilities [N]; for "
                f"N = {MANY} and D = {dimensions} it returned shapes {shapes or 'none'}."
            )
        action, got = actions[0], logs[0].reshape(MANY) if logs else actions[1]

        def fail(fault: Fault, expected: np.ndarray, row: int = 0) -> None:
            one = slice(row, row + 1)
            rows = [("log-probability", expected, got[one])]
            self.fail(fault, self.table(_first(values), rows, action[one]))

        bound = self.clipped(asked, action, got)
        if bound is not None:
            fail(*bound)
            return
        match = self.inside_or_told(asked, action, got)
        if match is None and got.ndim == 1 and integrates(action, got):
            self.choices.append("a density of a form of its own, which its samples do follow")
            self.hold(SAMPLE_DENSITY.check, SAMPLES.check)
            return
        fault: Fault | None = SAMPLE_DENSITY
        if match is not None:
            fault = match.reading.fault or self.reduction(match.how)
        right = match.reading.each if match and match.reading.fault is None else self.right
        p = self.of(action, asked, match.squashed if match else self.claimed)
        if fault is not None:
            fail(fault, right(p).sum(-1)[:1])
        elif match is not None:
            self.explained(match)
            self.hold(SAMPLE_DENSITY.check, CLIPPED.check)
            if match.reading.each is not truncated:
                self.spread(p, values)

    def inside_or_told(self, asked: Point, action: np.ndarray, got: np.ndarray) -> Match | None:
        """With the box that it is told of, else with one that its code or its module has."""
        constants = (self.matched.constants.get(r) for r in ("max_action", "action_scale"))
        written = [c for c in constants if c] + [*calling.numbers(self.function)]
        found = {}
        for inside in [None, *([] if self.boxed else dict.fromkeys(written))]:
            self.inside = inside
            points = {squashed: [self.of(action, asked, squashed)] for squashed in (True, False)}
            if not np.all(np.isfinite(points[True][0].u)):
                del points[True]
            match = self.best(points, {True: [got], False: [got]})
            if match is not None:
                found[inside] = match
        self.inside = min(found, key=lambda i: found[i].reading.fault is not None, default=None)
        if self.inside is not None:
            self.choices.append(f"the limit of the action, {self.inside:g}, is written inside")
        return found.get(self.inside)

    def clipped(
        self, asked: Point, action: np.ndarray, got: np.ndarray
    ) -> tuple[Fault, np.ndarray, int] | None:
        """Whether many samples are one and the same number: a bound, at which there is no density.

        That is right only if the log-probability is that of all draws beyond the bound.
        """
        column = action[:, 0]
        values, counts = np.unique(column, return_counts=True)
        if len(values) < 10 or got.ndim > 1 or action.shape[1] > 1:
            return None
        for bound in values[counts > 0.005 * MANY]:
            at = column == bound
            below = stats.norm.cdf((bound - asked.mean[0, 0]) / asked.std[0, 0])
            mass = math.log(below if bound < np.median(column) else 1 - below)
            if not np.allclose(got[at], mass, 1e-2, 1e-2):
                wrong = (
                    f"{at.mean():.0%} of the actions are clipped to {as_numbers(bound)}, with the "
                    "log-probabilities of the draws before the clip"
                )
                return CLIPPED._replace(wrong=wrong), np.array([mass]), int(np.argmax(at))
        return None

    def spread(self, p: Point, values: Case) -> None:
        """Whether the samples follow the density that came with them (Kolmogorov–Smirnov)."""
        scores, dimensions = (p.u - p.mean) / p.std, p.u.shape[1]
        distance = max(stats.kstest(scores[:, k], "norm").statistic for k in range(dimensions))
        alike = distance < math.sqrt(math.log(2 * dimensions / LEVEL) / (2 * MANY))
        rows = [("mean of u", p.mean[0], p.u.mean(0)), ("deviation of u", p.std[0], p.u.std(0))]
        self.verdict(alike, SAMPLES, _first(values), rows)


def _first(values: Case) -> Case:
    """One row of each."""
    return {r: v[:1] if r in _OF_ROWS else v for r, v in values.items()}


# ------------------------------------------------------------------------------ the audit


def distribution(
    function: Callable[..., Any], *, mapping: Mapping[str, str] | None = None
) -> Report:
    """Audit a log-probability, or a sample with its log-probability.

    Of an action, or of the draw before a tanh, given mean and std or log_std, and the bounds or
    scale of the action; of samples `(action, log_prob)` from mean and std; or of discrete actions
    given logits or probs.
    """
    matched = calling.recognise(function, ROLES, mapping)
    name = calling.name_of(function)
    failed: Exception | None = None
    for framework in calling.frameworks(function, matched):
        taken = frozenset(r for r in ROLES if matched.takes(r))
        audit = Audit(function=function, matched=matched, framework=framework, roles=taken)
        try:
            if matched.takes_case:
                rng = np.random.default_rng(0)
                case = audit.values(audit.point(rng, 3, 2), False)
                case |= categorical.of(rng.normal(size=(3, 4)))
                audit.roles = audit.returned(case).read
            if audit.takes("mean") and audit.takes("action", "unsquashed"):
                audit.densities()
            elif audit.takes("mean"):
                audit.samples()
            elif audit.takes("logits", "probs"):
                categorical.discrete(audit)
            else:
                raise CannotCall(
                    f"{name}: a distribution is a function of mean and std (or log_std), or of "
                    f"logits; recognised: {matched.describe()}. Map its other parameters by --map."
                )
        except Exception as error:
            failed = failed or error
            continue
        layout = "[N, D]" if audit.batched else "one action [D] at a time"
        return audit.report(name, "distribution", f"{framework}, {layout}: {matched.describe()}")
    if isinstance(failed, CannotCall):
        raise failed
    why = calling.one_line(failed) if failed else "no framework fits"
    raise CannotCall(f"{name} failed when called with {matched.describe()}: {why}")
