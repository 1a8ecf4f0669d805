"""The audit of distributions: log-probabilities of actions, and of samples that come with them.

Truth is the density itself: the normal one, what a change of variables makes of it, and that it
integrates to one. As in `losses`, the usual mistakes are *readings* of one line each, and the one
that reproduces the numbers names what the code does.
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from actorcritic.audit import calling
from actorcritic.audit.densities.categorical import discrete, logits_of
from actorcritic.audit.densities.rows import (
    DIMENSIONS,
    LEVEL,
    MANY,
    Case,
    Each,
    Point,
    Reading,
    normal_of,
    readings,
    reduced,
    slope,
    squashed_of,
    truncated,
)
from actorcritic.audit.findings import (
    RISKY,
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


# ------------------------------------------------------------------------------ the user's function


@dataclass(kw_only=True)
class Audit(Ledger):
    function: Callable[..., Any]
    matched: calling.Matched
    framework: calling.Framework
    roles: frozenset[str]  # that it takes, or looks at in the case that it is given
    batched: bool = True
    inside: float | None = None  # a scale of the action that is written in its code

    def takes(self, role: str) -> bool:
        return role in self.roles

    @property
    def name(self) -> str:
        return calling.name_of(self.function)

    @property
    def words(self) -> str:
        return f"{self.name} {getattr(self.function, '__doc__', '') or ''}"

    @property
    def claimed(self) -> bool:
        """Whether the function says that it squashes."""
        roles = ("unsquashed", "low", "high", "action_scale", "max_action")
        # A name on its own counts; `tanh` among the names that its code uses counts as well.
        code = getattr(calling.underlying(self.function), "__code__", None)
        used = " ".join(code.co_names) if code is not None else ""
        return any(self.takes(r) for r in roles) or bool(
            SQUASHED.search(self.words) or SQUASHED.search(used)
        )

    @property
    def boxed(self) -> bool:
        return any(self.takes(r) for r in ("low", "high", "action_scale", "max_action"))

    def box(self, dimensions: int) -> tuple[np.ndarray, np.ndarray]:
        """Scale and bias of the box that the function can be told of."""
        scale, bias = np.ones(dimensions), np.zeros(dimensions)
        if self.inside is not None:
            return self.inside * scale, bias
        if self.takes("max_action"):
            return 2.0 * scale, bias
        if self.boxed:
            scale = np.array([2.0, 0.5, 3.0])[:dimensions]
        if self.takes("low") or self.takes("action_bias"):
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

    def values(self, p: Point, squashed: bool) -> Case:
        """What is handed over; `squashed`: the action itself and not the draw."""
        given = {
            "unsquashed": p.u,
            "action": p.given(squashed),
            "mean": p.mean,
            "std": p.std,
            "log_std": np.log(p.std),
            "low": p.bias - p.scale,
            "high": p.bias + p.scale,
            "action_scale": p.scale,
            "action_bias": p.bias,
            "max_action": float(p.scale.flat[0]),
            "key": self.key(),
        }
        if self.takes("noise"):
            given["noise"] = (p.u - p.mean) / p.std
        return given

    def key(self) -> Any:
        if self.framework.name == "jax":
            import jax

            return jax.random.key(7)
        if self.framework.name.startswith("torch"):
            return importlib.import_module("torch").Generator().manual_seed(7)
        return np.random.default_rng(7)

    def looked_at(self) -> frozenset[str]:
        """The roles that a function of one case reads."""
        rng = np.random.default_rng(0)
        values = self.values(self.point(rng, 3, 2), False) | logits_of(self, rng, (3, 4))
        values["noise"] = rng.normal(size=(3, 2))
        return calling.call(self.function, self.matched, values, self.framework).read

    def call(self, values: Case, rows: int) -> list[np.ndarray]:
        """The arrays that came back."""
        result = calling.call(self.function, self.matched, values, self.framework)
        return [array for _, array in result.outputs(rows)]

    def log_probs(self, p: Point, squashed: bool) -> np.ndarray:
        """[rows], or [rows, dimensions], or whatever it is."""
        values = self.values(p, squashed)
        rows = len(p.u)
        if self.batched:
            return self.only(self.call(values, rows))
        per_row = ("unsquashed", "action", "mean", "std", "log_std", "noise")
        return np.stack(
            [
                self.only(self.call({r: v[i] if r in per_row else v for r, v in values.items()}, 0))
                for i in range(rows)
            ]
        )

    def only(self, found: list[np.ndarray]) -> np.ndarray:
        if not found:
            raise CannotCall(f"{self.name} returned no numbers.")
        return np.asarray(
            found[-1] if len(found) == 2 and found[0].ndim > found[1].ndim else found[0], float
        )

    # -- what is said

    def table(self, values: Case, rows: list[tuple[str, Any, Any]]) -> str:
        names = self.matched.names
        given = [
            (names.get(r, r), v)
            for r, v in values.items()
            if self.takes(r) and isinstance(v, (np.ndarray, float))
        ]
        return listing(given, rows)

    @property
    def called(self) -> str:
        layout = "[N, D]" if self.batched else "one action [D] at a time"
        return f"{self.framework}, {layout}: {self.matched.describe()}"

    # -- log-probabilities of given actions

    def densities(self) -> None:
        """The function of an action: which density is it?"""
        rng = np.random.default_rng(3)
        points = [self.point(rng, 6, d) for d in (2, 3, 1)]
        match = self.identify(points)
        if match is None:
            self.unknown(points[0])
            return
        reading, squashed, how = match
        if how == "per dimension" and not PER_DIMENSION.search(self.words):
            self.explain(
                reading,
                squashed,
                DIMENSIONS._replace(wrong="a number for each dimension comes back, not their sum"),
            )
        elif how == "per dimension":
            self.choices.append("one log-probability for each dimension, as its name says")
        elif how == "mean":
            text = "the log-probability is averaged over the action's dimensions, not summed"
            self.explain(reading, squashed, DIMENSIONS._replace(wrong=text))
        else:
            self.hold(DIMENSIONS.check)
        if reading.fault is not None:
            self.explain(reading, squashed, reading.fault)
            return
        self.choices.append(reading.said)
        if not self.batched:
            self.choices.append("one action at a time: a batch is summed up or refused")
        self.hold("normal-density")
        if reading.each is squashed_of:
            self.hold("tanh-jacobian", "scaled-action", *(["action-scale"] if self.boxed else []))
        self.integral(reading, squashed)
        self.extremes(reading, squashed)

    def identify(self, points: list[Point]) -> tuple[Reading, bool, str] | None:
        """The reading, whether it is one of the squashed action, and how dimensions are reduced."""
        self.batched = True
        for batched in (True, False):
            self.batched = batched
            found: dict[bool, list[np.ndarray]] = {}
            for squashed in (False, True):
                try:
                    found[squashed] = [self.log_probs(p, squashed) for p in points]
                except CannotCall:
                    raise
                except (Exception, SystemExit):
                    continue
            if not found:
                continue
            matches = []
            for order, reading in enumerate(readings(self.claimed, self.boxed)):
                for squashed, got in found.items():
                    if reading.from_action not in (None, squashed):
                        continue
                    how = reduced(reading, points, got)
                    if how:
                        rank = (reading.fault is not None, how != "sum", order)
                        matches.append((rank, (reading, squashed, how)))
            if matches:
                return min(matches, key=lambda m: m[0])[1]
        self.batched = True
        return None

    def explain(self, reading: Reading, squashed: bool, fault: Fault) -> None:
        """The smallest example: one action, of as few dimensions as show it."""
        for d in (1, 2):
            u, mean = np.array([[0.5, -1.0]])[:, :d], np.zeros((1, d))
            p = self.at(u, mean, np.full((1, d), 0.5))
            right = self.right(reading)
            expected = right(p).sum(-1)
            got = self.log_probs(p, squashed)
            if got.shape != expected.shape or not np.allclose(got, expected, 1e-3, 1e-3):
                break
        values = self.values(p, squashed)
        self.fail(fault, self.table(values, [("log-probability", expected, got)]))

    def right(self, reading: Reading) -> Each:
        if reading.fault is None:
            return reading.each
        return squashed_of if self.claimed else (lambda p: normal_of(p.u, p))

    def unknown(self, p: Point) -> None:
        squashed = self.claimed and not self.takes("unsquashed")
        try:
            got = self.log_probs(p, squashed)
        except (Exception, SystemExit) as error:
            raise CannotCall(
                f"{self.name} failed when called with {self.matched.describe()} "
                f"({self.framework}): {calling.one_line(error)}"
            ) from error
        each = squashed_of if self.claimed else (lambda p: normal_of(p.u, p))
        text = "the log-probability agrees with no density of a normal or squashed normal action"
        if got.size and not np.all(np.isfinite(got)):
            text = "the log-probability of an ordinary action is not finite"
        one = Point(*(x[:1] if x.ndim == 2 else x for x in vars(p).values()))
        rows = [("log-probability", each(one).sum(-1), got.ravel()[:1])]
        severity = UNJUDGED if got.size and np.all(np.isfinite(got)) else WRONG
        fault = NORMAL._replace(wrong=text, severity=severity)
        self.fail(fault, self.table(self.values(one, squashed), rows))

    def integral(self, reading: Reading, squashed: bool) -> None:
        """∫ exp(log-probability) over all actions, for one dimension: the trapezoidal rule in u."""
        mean, std = np.full((241, 1), 0.3), np.full((241, 1), 0.6)
        # A truncated normal needs the whole box, whose ends are at infinite u.
        u = mean + np.linspace(-8, 8, 241)[:, None] * (1.0 if reading.each is truncated else std)
        p = self.at(u, mean, std)
        log_p = self.log_probs(p, squashed).reshape(len(u))
        if reading.said != "normal, not squashed":
            log_p = log_p + (slope(p) + np.log(p.scale))[:, 0]
        with np.errstate(over="ignore", invalid="ignore"):
            total = float(np.trapezoid(np.nan_to_num(np.exp(log_p)), u[:, 0]))
        if abs(total - 1) < 2e-3:
            self.hold("integrates-to-one")
            return
        fault = NORMAL._replace(
            check="integrates-to-one",
            wrong="the density does not integrate to one over all actions",
        )
        values = self.values(self.at(u[:1], mean[:1], std[:1]), squashed)
        values = {r: v for r, v in values.items() if r not in ("action", "unsquashed")}
        self.fail(fault, self.table(values, [("integral", 1.0, total)]))

    def extremes(self, reading: Reading, squashed: bool) -> None:
        """Saturated draws, and deviations that are tiny or large."""
        u = np.array([[20.0], [-20.0], [12.0], [3.0], [0.0]])
        mean = np.array([[19.0], [-19.0], [9.0], [3.0], [0.0]])
        std = np.array([[1.0], [1.0], [2.0], [7.0], [0.007]])
        if squashed:  # the action cannot tell draws apart where tanh is saturated
            u, mean = np.clip(u, -4, 4), np.clip(mean, -4, 4)
        p = self.at(u, mean, std)
        got, expected = self.log_probs(p, squashed).reshape(len(u)), reading.each(p)[:, 0]
        if not np.all(np.isfinite(got)):
            worst = int(np.argmin(np.isfinite(got)))
            one = self.at(u[worst : worst + 1], mean[worst : worst + 1], std[worst : worst + 1])
            fault = Fault(
                "saturation",
                "the log-probability is not finite where tanh is saturated",
                "One such action turns the loss and every parameter into NaN.",
                "log(1 - tanh(u)**2) = 2 * (log(2) - u - softplus(-2 * u))",
                RISKY,
            )
            rows = [("log-probability", expected[worst : worst + 1], got[worst : worst + 1])]
            self.fail(fault, self.table(self.values(one, squashed), rows))
            return
        self.hold("saturation")
        if not np.allclose(got, expected, 1e-3, 1e-2):
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
        result = calling.call(self.function, self.matched, handed, self.framework, False).result
        parts = result if isinstance(result, tuple) else (result,)
        named = dict(zip(("action", "log-probability"), parts, strict=False))
        for name, part in named.items():
            if hasattr(part, "requires_grad") and not part.requires_grad:
                self.choices.append(
                    f"no gradient flows through the {name}: right where it is data, and wrong "
                    "where a loss is to train the policy through it (rsample, and no no_grad)"
                )

    def drawn(self, dimensions: int) -> None:
        rng = np.random.default_rng(11)
        asked = self.point(rng, MANY, dimensions, same=True)
        values = self.values(asked, False)
        found = self.call(values, MANY)
        actions = [f for f in found if f.shape == (MANY, dimensions)]
        log_probs = [f for f in found if f.shape in ((MANY,), (MANY, 1)) and f is not actions[0]]
        per_dimension = [f for f in actions[1:] if not log_probs]
        if not actions or not (log_probs or per_dimension):
            shapes = ", ".join(str(list(f.shape)) for f in found)
            raise CannotCall(
                f"{self.name} should return actions [N, D] and log-probabilities [N]; for "
                f"N = {MANY} and D = {dimensions} it returned shapes {shapes or 'none'}."
            )
        action = np.asarray(actions[0], float)
        got = np.asarray((log_probs or per_dimension)[0], float)
        if log_probs:
            got = got.reshape(MANY)
        if self.clipped(asked, action, got):
            return
        match = self.explained_inside(asked, action, got)
        asked = self.at(asked.u, asked.mean, asked.std)
        one = slice(0, 1)
        if match is None and got.ndim == 1 and integrates(action, got):
            self.choices.append("a density of a form of its own, which its samples do follow")
            self.hold("sample-density", "samples")
            return
        if match is None:
            p = self.point_of(asked, action, self.claimed)
            fault = Fault(
                "sample-density",
                "the log-probability that comes with a sample is not that of the sample",
                "Gradients and ratios belong to another action than the one that is executed.",
                "Compute the log-probability from the draw that becomes the action.",
            )
            expected = (squashed_of if self.claimed else lambda p: normal_of(p.u, p))(p).sum(-1)
            self.fail(fault, self.sample_table(values, action[one], expected[one], got[one]))
            return
        reading, squashed, how = match
        p = self.point_of(asked, action, squashed)
        trouble = reading.fault
        if trouble is None and how == "mean":
            trouble = DIMENSIONS._replace(
                wrong="the log-probability is averaged over the action's dimensions, not summed"
            )
        if trouble is None and how == "per dimension" and not PER_DIMENSION.search(self.words):
            trouble = DIMENSIONS._replace(
                wrong="a number for each dimension comes back, not their sum"
            )
        if trouble is not None:
            expected = self.right(reading)(p).sum(-1)
            self.fail(trouble, self.sample_table(values, action[one], expected[one], got[one]))
            return
        if reading.said:
            self.choices.append(reading.said)
        self.hold("sample-density", "clipped-action", "normal-density", DIMENSIONS.check)
        if reading.each is squashed_of:
            self.hold("tanh-jacobian", "scaled-action", *(["action-scale"] if self.boxed else []))
        self.spread(p, reading, values, action)

    def point_of(self, asked: Point, action: np.ndarray, squashed: bool) -> Point:
        if not squashed:
            return self.at(action, asked.mean, asked.std)
        with np.errstate(all="ignore"):
            u = np.arctanh((action - asked.bias) / asked.scale)
        return Point(u, action, asked.mean, asked.std, asked.scale, asked.bias)

    def explained_inside(
        self, asked: Point, action: np.ndarray, got: np.ndarray
    ) -> tuple[Reading, bool, str] | None:
        """With the box that it is told of, else with one that its code or its module has."""
        constants = (self.matched.constants.get(r) for r in ("max_action", "action_scale"))
        written = [c for c in constants if c] + [*calling.numbers(self.function)]
        options = [None] if self.boxed else [None, *dict.fromkeys(written)]
        found = []
        for inside in options:
            self.inside = inside
            asked = self.at(asked.u, asked.mean, asked.std)
            match = self.explained(asked, action, got)
            if match is not None:
                found.append((match[0].fault is not None, inside, match))
        if not found:
            self.inside = None
            return None
        _, self.inside, match = min(found, key=lambda each: each[0])
        if self.inside is not None:
            self.choices.append(f"the limit of the action, {self.inside:g}, is written inside")
        return match

    def explained(
        self, asked: Point, action: np.ndarray, got: np.ndarray
    ) -> tuple[Reading, bool, str] | None:
        matches = []
        for order, reading in enumerate(readings(self.claimed, self.boxed)):
            for squashed in (True, False):
                if reading.from_action not in (None, squashed):
                    continue
                p = self.point_of(asked, action, squashed)
                if squashed and not np.all(np.isfinite(p.u)):
                    continue
                how = reduced(reading, [p], [got])
                if how:
                    rank = (reading.fault is not None, how != "sum", order)
                    matches.append((rank, (reading, squashed, how)))
        return min(matches, key=lambda m: m[0])[1] if matches else None

    def clipped(self, asked: Point, action: np.ndarray, got: np.ndarray) -> bool:
        """Whether many samples are one and the same number: a bound, at which there is no density.

        That is right only if the log-probability is that of all draws beyond the bound.
        """
        column = action[:, 0]
        values, counts = np.unique(column, return_counts=True)
        bounds = values[counts > 0.005 * MANY]
        if len(bounds) == 0 or len(values) < 10 or got.ndim > 1 or action.shape[1] > 1:
            return False
        mean, std = asked.mean[0, 0], asked.std[0, 0]
        for bound in bounds:
            at = column == bound
            below = stats.norm.cdf((bound - mean) / std)
            mass = math.log(below if bound < np.median(column) else 1 - below)
            if np.allclose(got[at], mass, 1e-2, 1e-2):
                continue
            fault = Fault(
                "clipped-action",
                f"{at.mean():.0%} of the actions are clipped to {as_numbers(bound)}, with the "
                "log-probabilities of the draws before the clip",
                "The stored action and its log-probability belong to different actions: the next "
                "update's ratios are wrong for every action at a bound.",
                "Store the draw itself, and clip only what the environment is given.",
            )
            first = int(np.argmax(at))
            one = slice(first, first + 1)
            self.fail(fault, self.sample_table(
                self.values(asked, False), action[one], np.array([mass]), got[one]))  # fmt: skip
            return True
        return False

    def spread(self, p: Point, reading: Reading, values: Case, action: np.ndarray) -> None:
        """Whether the samples follow the density that came with them (Kolmogorov–Smirnov)."""
        if self.takes("noise"):
            expected = p.mean + p.std * values["noise"]
            ok = np.allclose(p.u, expected, 1e-3, 1e-3)
            distance = float(np.max(np.abs(p.u - expected)))
        elif reading.each is truncated:
            return
        else:
            scores = (p.u - p.mean) / p.std
            distance = max(
                stats.kstest(scores[:, k], "norm").statistic for k in range(p.u.shape[1])
            )
            ok = distance < math.sqrt(math.log(2 * p.u.shape[1] / LEVEL) / (2 * MANY))
        if ok:
            self.hold("samples")
            return
        fault = Fault(
            "samples",
            "the samples do not follow the density that comes with them",
            "The policy that acts is not the one whose log-probabilities are learnt from.",
            "action = mean + std * noise, with the same mean and std as in the log-probability",
        )
        small = {
            r: v[:1] if isinstance(v, np.ndarray) and v.ndim == 2 else v for r, v in values.items()
        }
        rows = [("mean of u", p.mean[0], p.u.mean(0)), ("deviation of u", p.std[0], p.u.std(0))]
        self.fail(fault, self.table(small, rows))

    def sample_table(
        self, values: Case, action: np.ndarray, expected: np.ndarray, got: np.ndarray
    ) -> str:
        small = {
            r: v[:1] if isinstance(v, np.ndarray) and v.ndim == 2 else v for r, v in values.items()
        }
        head = self.table(small, [("log-probability", expected, got)])
        return f"returned action  {as_numbers(action)}\n{head}"


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
                audit.roles = audit.looked_at()
            if audit.takes("mean") and (audit.takes("action") or audit.takes("unsquashed")):
                audit.densities()
            elif audit.takes("mean"):
                audit.samples()
            elif audit.takes("logits") or audit.takes("probs"):
                discrete(audit)
            else:
                raise CannotCall(
                    f"{name}: a distribution is a function of mean and std (or log_std), or of "
                    f"logits; recognised: {matched.describe()}. Map its other parameters by --map."
                )
        except Exception as error:
            failed = failed or error
            continue
        return audit.report(name, "distribution", audit.called)
    if isinstance(failed, CannotCall):
        raise failed
    why = calling.one_line(failed) if failed else "no framework fits"
    raise CannotCall(f"{name} failed when called with {matched.describe()}: {why}")
