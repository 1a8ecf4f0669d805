"""Calling anyone's estimator: the ways in which it may be meant, and those that run."""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from actorcritic.audit import calling
from actorcritic.audit.calling import Framework
from actorcritic.audit.estimates.roles import N_ROLES, OUTPUTS, ROLES, VTRACE_ROLES
from actorcritic.audit.estimates.trajectories import SHAPES, Scope, drawn
from actorcritic.audit.findings import CannotCall
from actorcritic.audit.mistakes import shifted
from actorcritic.audit.truths import Numbers, Trajectory
from actorcritic.core.errors import UserError

FLAGS = ("dones", "terminated", "truncated", "episode_starts", "last_done")
PER_ENVIRONMENT = ("last_value", "last_done", "next_value", "next_done")
ENDS = ("dones", "masks", "terminated", "truncated", "discounts", "episode_starts")
LAYOUTS = {
    "TB": "arrays [T, B]",
    "T": "single trajectories [T]",
    "TV": "single trajectories [T], values [T, 1]",
    "T1": "single trajectories [T, 1]",
    "BT": "arrays [B, T]",
    "S": "one step at a time",
}
COLUMNS = ("T", "TV", "T1", "S")  # it never sees more than one trajectory
_BATCH_FIRST = re.compile(
    r"[\[(]\s*(B|N|batch|batch_size|num_envs|n_envs|envs)\s*,\s*(T|time|steps|num_steps|L)\b", re.I
)
# What each kind is given, and which of several results is wanted.
KINDS = {
    "advantages": (ROLES, "advantages"),
    "returns": (N_ROLES, "returns"),
    "vtrace": (VTRACE_ROLES, "returns"),
}
Outputs: TypeAlias = list[tuple[str, Numbers]]


class Form(NamedTuple):
    """One way of calling: the first part says what the arguments mean, the rest how they look."""

    successors: bool = False  # next_values is V(s_{t+1}) of every step, else of the last only
    longer: bool = False  # values has T + 1 rows, the last being the bootstrap
    shifted: bool = False  # done[t] says that observation t starts an episode
    discounted: bool = False  # discounts[t] contains γ
    terminations: bool = False  # dones are terminations alone
    framework: Framework = Framework("numpy")
    layout: str = "TB"
    flags: type = float
    last: str = "float"  # the last value of one trajectory: a float, one (element), or 0-d

    def __str__(self) -> str:
        return f"{self.framework}, {LAYOUTS[self.layout]}"


def given_of(x: Trajectory, form: Form) -> dict[str, Any]:
    """Every role's value on this trajectory, arrays [T, B] or, of what comes after it, [B]."""
    starts = shifted(x.ended, 1, x.before)
    flag = starts if form.shifted else x.terminated if form.terminations else x.ended
    last = x.next_values[-1] if form.successors else x.following[-1]
    discounts = 1.0 - (x.terminated if form.successors else x.ended)
    behaviour = -1.0 - 0.1 * np.arange(x.ratio.size).reshape(x.ratio.shape)
    values: dict[str, Any] = {
        "rewards": x.rewards,
        "values": np.concatenate([x.values, last[None]]) if form.longer else x.values,
        "next_values": x.next_values if form.successors else last,
        "last_value": last,
        "dones": flag,
        "terminated": x.terminated,
        "truncated": x.truncated,
        "masks": 1.0 - flag,
        "discounts": discounts * (x.gamma if form.discounted else 1.0),
        "episode_starts": starts,
        "last_done": x.ended[-1],
        "gamma": x.gamma,
        "lam": x.lam,
        "n": x.n,
        "num_steps": len(x.rewards),
        "num_envs": x.rewards.shape[1],
        "advantages": np.zeros(x.rewards.shape),
        "returns": np.zeros(x.rewards.shape),
        "ratio": x.ratio,
        "log_ratio": np.log(x.ratio),
        "behaviour_log_prob": behaviour,
        "target_log_prob": behaviour + np.log(x.ratio),
        "rho_clip": x.rho_clip,
        "pg_rho_clip": x.rho_clip,
        "c_clip": x.c_clip,
    }
    values |= {role: values[role].astype(form.flags) for role in FLAGS}
    # What a function of one case may ask for.
    return values | {"next_value": last, "next_done": values["last_done"]}


class WrongShape(Exception):
    """It ran, and what it gave has another shape than the rewards."""

    def __init__(self, shapes: list[tuple[int, ...]], wanted: tuple[int, ...]) -> None:
        super().__init__(f"it gave {', '.join(map(str, shapes)) or 'nothing'}, not {wanted}")
        self.shapes, self.wanted = shapes, wanted

    @property
    def broadcast(self) -> tuple[int, ...] | None:
        """A shape that only (N,) against (N, 1) gives."""
        for shape in self.shapes:
            if len(shape) == len(self.wanted) + 1 and shape[-1] == shape[-2] != 1:
                return shape
            if len(shape) > len(self.wanted) and sorted(set(shape)) == sorted(set(self.wanted)):
                return shape
        return None


class Subject:
    """The function, what is known of its parameters, and the ways of calling it."""

    def __init__(
        self,
        function: Callable[..., Any],
        kind: str,
        mapping: Mapping[str, str] | None,
        layout: str | None,
        time_limits: str | None,
        seed: int,
    ) -> None:
        if layout not in (None, *LAYOUTS):
            raise UserError(f"layout is one of {', '.join(LAYOUTS)}; got '{layout}'.")
        if time_limits not in (None, "terminal", "bootstrap"):
            raise UserError(f"time_limits is terminal or bootstrap; got '{time_limits}'.")
        self.function, self.kind, self.time_limits = function, kind, time_limits
        self.seed, self.name = 1000 * seed, calling.name_of(function)
        roles, self.wanted = KINDS[kind]
        self.matched = calling.recognise(function, roles, told_apart(function, mapping))
        self.literals = calling.literals(function)
        if layout is None and _BATCH_FIRST.search(inspect.getdoc(function) or ""):
            layout = "BT"
        self.layouts = [layout] if layout else list(LAYOUTS)
        self.tried: list[str] = []  # what was raised
        self.broadcast: tuple[Form, WrongShape] | None = None
        self.seen = self._read() if self.matched.takes_case else frozenset(self.matched.names)

    def _read(self) -> frozenset[str]:
        """The roles that a function of one case looks at."""
        x = drawn(0, SHAPES[0], Scope("none", False, False, True))
        for framework, layout, flags in itertools.product(
            calling.frameworks(self.function), self.layouts, (float, bool)
        ):
            form = Form(True, framework=framework, layout=layout, flags=flags)
            _, given, _ = next(self._parts(x, form))
            try:
                return calling.call(self.function, self.matched, given, framework).read
            except Exception as error:
                self.tried.append(calling.one_line(error))
        raise CannotCall(f"{self.name} failed on a case object: {self.tried[0]}")

    def sees(self, *roles: str) -> bool:
        return any(role in self.seen for role in roles)

    def scope(self, form: Form) -> Scope:
        both = self.sees("terminated") and self.sees("dones", "masks", "episode_starts")
        ends = "terminations" if self.sees(*ENDS) else "none"
        last = self.sees("last_value", "next_value", "next_values") or form.longer
        knows_last = not self.sees("episode_starts") or self.sees("last_done", "dones", "next_done")
        return Scope(
            "both" if both or self.sees("truncated") else ends,
            not last,
            not knows_last,
            form.successors,
        )

    def random(self, form: Form) -> list[Trajectory]:
        scope = self.scope(form)
        return [drawn(self.seed + 10 + k, shape, scope) for k, shape in enumerate(SHAPES)]

    def called(self, form: Form) -> str:
        taken = f"the case's {', '.join(sorted(self.seen))}"
        words = taken if self.matched.takes_case else self.matched.describe()
        note = calling.note(self.function)
        return "; ".join(part for part in (str(form), words, note) if part)

    # --- ways of calling it

    def forms(self, framework: Framework | None = None) -> Iterator[Form]:
        """Ways of calling it that mean different things, each in the first way that runs."""
        sees = self.sees
        one = not self.matched.names.get("next_values", "s").endswith("s")
        successors = [True, False] if one and not sees("last_value") else [True]
        bootstraps = sees("next_values", "last_value", "next_value")
        starts = sees("last_done", "next_done") and sees("dones", "masks")
        discounted = [False, True] if sees("gamma") else [True, False]
        both = sees("truncated") and sees("dones", "masks") and not sees("terminated")
        meanings = [
            *itertools.product(
                successors if sees("next_values") else [False],
                [False, True] if sees("values") and not bootstraps else [False],
                [True, False] if starts else [False],
                discounted if sees("discounts") else [False],
                [False, True] if both else [False],
            )
        ]
        # The first framework in which it runs at all is its own: others may run by accident, as
        # JAX does when an index is out of bounds.
        options = calling.frameworks(self.function, self.matched)
        for tried in [framework] if framework else options:
            known: list[tuple[str, type, str]] = []  # the look in which it ran
            for meaning in meanings:
                for look in (*known, *self._looks()):
                    form = Form(*meaning, tried, *look)
                    if self.runs(form):
                        known = [look]
                        yield form
                        break
            if known or self.broadcast is not None:
                return

    def _looks(self) -> Iterator[tuple[str, type, str]]:
        for layout in self.layouts:
            if layout != "S" or self.sees("next_values"):
                yield from itertools.product(
                    [layout],
                    (float, bool) if self.sees(*FLAGS) else (float,),
                    ("float", "one", "0-d") if layout == "T" else ("float",),
                )

    def runs(self, form: Form) -> bool:
        """Whether it gives arrays of the right shape, on trajectories with and without ends."""
        if self.broadcast and form.layout in ("T1", "S"):
            return False
        try:
            for chance in (0.0, 0.4):
                self.outputs(drawn(1, SHAPES[0], self.scope(form), chance), form)
        except ImportError as error:
            self.tried.append(calling.one_line(error))
        except (Exception, SystemExit) as error:
            wrong = isinstance(error, WrongShape)
            self.tried.append(f"{error if wrong else calling.one_line(error)} ({form})")
            if isinstance(error, WrongShape) and error.broadcast and self.broadcast is None:
                self.broadcast = (form, error)
        else:
            return True
        return False

    # --- what it returns

    def outputs(self, x: Trajectory, form: Form) -> Outputs:
        """Its results [T, B] with their names; raises what the function raises."""
        found: dict[tuple[int, str], Numbers] = {}
        for place, given, shape in self._parts(x, form):
            for k, (name, y) in enumerate(self._called(given, form, shape)):
                whole = found.setdefault((k, name), np.full(x.rewards.shape, np.nan))
                whole[place] = y.T if form.layout == "BT" else y.reshape(whole[place].shape)
        results = [(name, y) for (_, name), y in found.items()]
        # The one whose name says it comes first, else the order is theirs.
        return sorted(results, key=lambda one: calling.match_name(one[0], OUTPUTS) != self.wanted)

    def _parts(
        self, x: Trajectory, form: Form
    ) -> Iterator[tuple[Any, dict[str, Any], tuple[int, ...]]]:
        """What each call is given, the shape of what it returns, and its place in [T, B]."""
        given = given_of(x, form)
        shape = x.rewards.shape
        if not self.matched.takes_case and self.sees("episode_starts"):
            given["dones"] = given["last_done"]  # beside the starts, `dones` are of the last step
        if form.layout == "TB":
            yield ..., given, shape
        elif form.layout == "BT":
            turned = {k: v.T if np.ndim(v) == 2 else v for k, v in given.items()}
            yield ..., turned, shape[::-1]
        elif form.layout == "S":
            scalar = np.asarray if form.framework.name in ("torch", "jax") else _plain
            for place in np.ndindex(*shape):
                step = {k: v[place] if np.ndim(v) == 2 else v for k, v in given.items()}
                yield place, {k: scalar(v) for k, v in step.items() if np.ndim(v) == 0}, ()
        else:
            for b in range(shape[1]):
                column = {k: column_of(k, v, b, form) for k, v in given.items()} | {"num_envs": 1}
                length = shape[:1] if form.layout != "T1" else (*shape[:1], 1)
                yield (slice(None), b), column, length

    def _called(self, given: dict[str, Any], form: Form, shape: tuple[int, ...]) -> Outputs:
        """What it returns; else what it left in its arguments, or in its instance."""
        whole = {*PER_ENVIRONMENT, *(() if form.successors else ("next_values",))}
        whole |= {"dones"} if self.sees("episode_starts") else set()
        with form.framework.uncompiled():
            returned = calling.call(self.function, self.matched, given, form.framework, whole=whole)
        outputs = returned.outputs(shape[0] if shape else None)
        kept = {k: v for k, v in returned.given.items() if k in OUTPUTS and k in self.seen}
        for name, value in getattr(returned.instance, "__dict__", {}).items():
            role = calling.match_name(name, OUTPUTS)
            if role is not None:
                kept.setdefault(role, value)
        if not outputs and not kept:
            kept = {k: v for k, v in returned.given.items() if _was_changed(v, given[k])}
        left = [(name, calling.to_numpy_or_none(value)) for name, value in sorted(kept.items())]
        for found in (outputs, left):
            fitting = [(n, y.astype(float).reshape(shape)) for n, y in found if _fits(y, shape)]
            if fitting:
                return fitting
        raise WrongShape([y.shape for _, y in outputs], shape)


def column_of(role: str, value: Any, b: int, form: Form) -> Any:
    """What of a role one environment has."""
    if not isinstance(value, np.ndarray):
        return value
    if role in PER_ENVIRONMENT or value.ndim == 1:
        wide = form.layout == "T1" or (form.layout == "TV" and role == "last_value")
        if wide or form.last == "one":
            return value[b : b + 1]
        return float(value[b]) if form.last == "float" else np.array(value[b])
    column = form.layout == "T1" or (form.layout == "TV" and role in ("values", "next_values"))
    return value[:, b : b + 1] if column else value[:, b]


def _plain(x: Any) -> Any:
    return x.item() if hasattr(x, "item") else x


def _fits(y: Numbers, shape: tuple[int, ...]) -> bool:
    squeezed = tuple(n for n in y.shape if n != 1) == tuple(n for n in shape if n != 1)
    return bool(y.shape == shape or (squeezed and y.ndim >= 1))


def _was_changed(now: Any, before: Any) -> bool:
    if not isinstance(before, np.ndarray):
        return False
    y = calling.to_numpy_or_none(now)
    return y.shape == before.shape and not np.allclose(y, before, equal_nan=True)


def told_apart(
    function: Callable[..., Any], mapping: Mapping[str, str] | None
) -> Mapping[str, str] | None:
    """Beside an r_t and a discount_t, which follow the action, v_t is that of the successor."""
    try:
        names = set(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return mapping
    if {"r_t", "discount_t", "v_t"} <= names and "v_t" not in (mapping or {}):
        return {**(mapping or {}), "v_t": "next_values"}
    return mapping
