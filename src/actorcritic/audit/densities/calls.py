"""Calling anyone's distribution: its roles, where it is asked, and what is said of it."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from actorcritic.audit import calling
from actorcritic.audit.densities import rows
from actorcritic.audit.densities.rows import Each, Match, Point
from actorcritic.audit.findings import CannotCall, Fault, Ledger, listing
from actorcritic.audit.losses.cases import AVERAGED, NORMAL, NOT_SUMMED

Case = dict[str, Any]  # role → what is handed over

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


@dataclass(kw_only=True)
class Audit(Ledger):
    """The user's function, and what was found."""

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
        return rows.squashed_of if self.claimed else rows.at_u

    # -- what it is given

    def point(
        self, rng: np.random.Generator, count: int, dimensions: int, same: bool = False
    ) -> Point:
        """Draws; `same`: all of one distribution."""
        shape = (1 if same else count, dimensions)
        mean = np.broadcast_to(rng.uniform(-0.6, 0.6, shape), (count, dimensions))
        std = np.broadcast_to(rng.uniform(0.35, 0.8, shape), (count, dimensions))
        return self.at(mean + std * rng.normal(size=(count, dimensions)), mean, std)

    def at(self, u: np.ndarray, mean: np.ndarray, std: np.ndarray) -> Point:
        """With the scale and bias of the box that the function can be told of."""
        dimensions = u.shape[-1]
        scale, bias = np.ones(dimensions), np.zeros(dimensions)
        if self.inside is not None or self.takes("max_action"):
            scale = scale * (self.inside or 2.0)
        else:
            if self.boxed:
                scale = np.array([2.0, 0.5, 3.0])[:dimensions]
            if self.takes("low", "action_bias"):
                bias = np.array([0.5, -0.2, 1.0])[:dimensions]
        return Point(u, bias + scale * np.tanh(u), mean, std, scale, bias)

    def of(self, action: np.ndarray, asked: Point, squashed: bool) -> Point:
        """Where the density of a returned action is."""
        p = self.at(action, asked.mean, asked.std)
        if not squashed:
            return p
        with np.errstate(all="ignore"):
            return p._replace(u=np.arctanh((action - p.bias) / p.scale), action=action)

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

    # -- what it returns

    def returned(self, values: Case, convert: bool = True) -> calling.Returned:
        given = values | {"key": self.key()}
        return calling.call(self.function, self.matched, given, self.framework, convert)

    def call(self, values: Case, count: int) -> list[np.ndarray]:
        """The arrays that came back."""
        return [np.asarray(y, float) for _, y in self.returned(values).outputs(count)]

    def log_probs(self, values: Case, count: int) -> np.ndarray:
        """[N], or [N, dimensions], or whatever it is; of all rows at once, or one by one."""

        def row(i: int) -> Case:
            one = {r: v[i] if r in _OF_ROWS else v for r, v in values.items()}
            return {r: int(v) if isinstance(v, np.integer) else v for r, v in one.items()}

        def only(found: list[np.ndarray]) -> np.ndarray:
            if not found:
                raise CannotCall(f"{self.name} returned no numbers.")
            return found[len(found) == 2 and found[0].ndim > found[1].ndim]

        if self.batched:
            return only(self.call(values, count))
        return np.stack([only(self.call(row(i), 0)) for i in range(count)])

    # -- what is said

    def table(self, values: Case, compared: list[tuple[str, Any, Any]], action: Any = None) -> str:
        """What it was given, and the action if it drew one; what is expected, and what came."""
        names = self.matched.names
        given = [(names.get(r, r), v) for r, v in values.items() if self.takes(r)]
        drawn = [] if action is None else [("returned action", action)]
        return listing([*drawn, *given], compared)

    def verdict(
        self, holds: bool, fault: Fault, values: Case, compared: list[tuple[str, Any, Any]]
    ) -> None:
        if holds:
            self.hold(fault.check)
        else:
            self.fail(fault, self.table(values, compared))

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
        if match.reading.each is rows.squashed_of:
            self.hold("tanh-jacobian", "scaled-action", *(["action-scale"] if self.boxed else []))

    def best(
        self, points: Mapping[bool, list[Point]], found: Mapping[bool, list[np.ndarray]]
    ) -> Match | None:
        """The reading that gives what was found, a right one if there is; by squashed or not."""
        matches = [
            Match(reading, squashed, how)
            for reading in rows.readings(self.claimed, self.boxed)
            for squashed, got in found.items()
            if reading.from_action in (None, squashed) and squashed in points
            for how in [rows.reduced(reading, points[squashed], got)]
            if how is not None
        ]
        # Of equal ones the first.
        return min(
            matches, key=lambda m: (m.reading.fault is not None, m.how != "sum"), default=None
        )


def one_row(values: Case) -> Case:
    return {r: v[:1] if r in _OF_ROWS else v for r, v in values.items()}


def without_rows(values: Case) -> Case:
    return {r: v for r, v in values.items() if r not in _OF_ROWS}
