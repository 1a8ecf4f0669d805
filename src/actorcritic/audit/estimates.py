"""Audits of advantages, returns and V-trace: a function's numbers against exact definitions.

Truth is computed in float64 by explicit sums over the steps of an episode, never by a recursion.
What a function means by its parameters is found out by trial: the readings of them that people
use are tried on random trajectories, and one under which the definition holds is a convention.
Where none does, known mistakes are put into the definition one by one, then in pairs, and the one
that gives the function's very numbers is what is wrong with it.
"""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from actorcritic.audit import calling
from actorcritic.audit.calling import Framework, Matched
from actorcritic.audit.findings import (
    RISKY,
    TIME_LIMITS,
    UNJUDGED,
    CannotCall,
    Finding,
    Ledger,
    Report,
)
from actorcritic.audit.mistakes import Mistake, shifted, table
from actorcritic.audit.truths import (
    QUANTITIES,
    Numbers,
    Quantity,
    Trajectory,
    n_step_returns,
    td_errors,
    vtrace_advantages,
)
from actorcritic.core.errors import UserError


def _transposed(x: Trajectory, quantity: Quantity, successors: bool) -> Numbers:
    turned = {k: v.T for k, v in x._asdict().items() if np.ndim(v) == 2}
    if not successors:  # the axis run along is that of the environments
        after = np.concatenate([x.values.T[1:], x.following.T[-1:]])
        turned |= {"next_values": after, "following": after}
    return quantity(x.but(**turned)).T


# ------------------------------------------------------------------------------- what it takes


def _named(names: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    return {role: tuple(words.split()) for role, words in names.items()}


ROLES = _named(
    {
        "rewards": "rewards reward rew rews r r_t rewards_t",
        "last_value": (
            "last_value last_values last_val bootstrap_value bootstrap final_value "
            "v_last last_v value_last bootstrap_v final_v"
        ),
        "values": (
            "values value vals v v_s v_t v_tm1 value_preds v_preds state_values "
            "baseline critic_values value_estimates"
        ),
        "next_values": (
            "next_values next_value next_val values_next value_next next_v v_next "
            "v_tp1 values_tp1 next_state_values next_v_s v_s_ v_t"
        ),
        "dones": ("dones done d ends episode_ends is_done done_flags done_mask end_flag finished"),
        "terminated": "terminated terminateds terminations terminal terminals term is_terminal",
        "truncated": (
            "truncated truncateds truncations trunc timeouts timeout time_limits is_truncated"
        ),
        "masks": (
            "masks mask not_dones not_done nonterminals nonterminal continues "
            "continuations cont alive done_masks"
        ),
        "discounts": "discounts discount_t discounts_t",
        "episode_starts": "episode_starts starts is_first firsts start_flags",
        "last_done": (
            "last_done last_dones next_done next_dones final_done next_terminal last_terminated"
        ),
        "gamma": "gamma discount discount_factor g discount_rate",
        "lam": (
            "lam lambda lambda_ lmbda lambd lamda gae_lambda gae_lam tau lambda_gae "
            "td_lambda trace_decay gae_lmbda gae_tau"
        ),
        "num_steps": (
            "num_steps n_steps horizon steps buffer_size rollout_length num_rollout_steps length"
        ),
        "num_envs": "num_envs n_envs batch_size",
        "advantages": "advantages adv advs advantage",
        "returns": "returns ret rets targets value_targets returns_to_go",
    }
)
# Of returns, n_steps is the n of the n-step return; of advantages it is the length of the batch.
N_ROLES = {role: names for role, names in ROLES.items() if role != "num_steps"} | _named(
    {
        "n": "n n_step n_steps nstep nsteps num_steps",
        "num_steps": "horizon buffer_size rollout_length length",
    }
)
VTRACE_ROLES = {
    role: names for role, names in ROLES.items() if role not in ("advantages", "returns")
} | _named(
    {
        "log_ratio": "log_ratio log_rhos log_rho log_is log_ratios log_importance_weights",
        "ratio": ("ratio ratios rhos rho rho_tm1 rho_t importance_weights is_ratios is_weights"),
        "target_log_prob": (
            "target_log_prob target_log_probs log_probs log_pi pi_log_prob "
            "target_action_log_probs new_log_probs logp learner_log_probs"
        ),
        "behaviour_log_prob": (
            "behaviour_log_prob behaviour_log_probs behavior_log_probs old_log_probs "
            "log_mu mu_log_prob behavior_log_prob behaviour_action_log_probs "
            "behavior_action_log_probs actor_log_probs logp_old old_logp"
        ),
        "rho_clip": ("rho_clip clip_rho clip_rho_threshold rho_bar rho_max max_rho rho_threshold"),
        "c_clip": (
            "c_clip clip_c clip_c_threshold c_bar c_max max_c clip_cs c_threshold clip_cs_threshold"
        ),
        "pg_rho_clip": "pg_rho_clip clip_pg_rho clip_pg_rho_threshold pg_rho_bar",
    }
)
_OUTPUTS = _named(
    {
        "advantages": "advantages adv advs advantage pg_advantages gae deltas",
        "returns": (
            "returns ret rets targets value_targets returns_to_go vs v_target lambda_returns target"
        ),
    }
)
_FLAGS = ("dones", "terminated", "truncated", "episode_starts", "last_done")
_PER_ENVIRONMENT = ("last_value", "last_done")
_ENDS = ("dones", "masks", "terminated", "truncated", "discounts", "episode_starts")


class Form(NamedTuple):
    """One way of calling: the first part says what the arguments mean, the rest how they look."""

    successors: bool = False  # next_values is V(s_{t+1}) of every step, else of the last only
    longer: bool = False  # values has T + 1 rows, the last being the bootstrap
    shifted: bool = False  # done[t] says that observation t starts an episode
    discounted: bool = False  # discounts[t] contains γ
    terminations: bool = False  # dones are terminations alone
    framework: Framework = Framework("numpy")
    layout: str = "TB"  # TB, BT, or a column at a time: T, T1 ([T, 1]), TV (only values [T, 1])
    flags: str = "float"
    last: str = "float"  # the last value of one trajectory: a float, one (element), or 0-d


def _given(x: Trajectory, form: Form) -> dict[str, Any]:
    """Every role's value on this trajectory, arrays [T, B] or, of what comes after it, [B]."""
    ended = x.ended
    starts = shifted(ended, 1, x.before)
    flag = starts if form.shifted else x.terminated if form.terminations else ended
    last = x.following[-1] if not form.successors else x.next_values[-1]
    discounts = 1.0 - (x.terminated if form.successors else ended)
    longer = np.concatenate([x.values, last[None]])
    behaviour = -1.0 - 0.1 * np.arange(x.ratio.size).reshape(x.ratio.shape)
    values: dict[str, Any] = {
        "rewards": x.rewards,
        "values": longer if form.longer else x.values,
        "next_values": x.next_values if form.successors else last,
        "last_value": last,
        "dones": flag,
        "terminated": x.terminated,
        "truncated": x.truncated,
        "masks": 1.0 - flag,
        "discounts": discounts * (x.gamma if form.discounted else 1.0),
        "episode_starts": starts,
        "last_done": ended[-1],
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
    for role in _FLAGS:
        values[role] = values[role].astype(bool if form.flags == "bool" else float)
    return values


@dataclass(frozen=True)
class Subject:
    """The function, with what is known of its parameters."""

    function: Callable[..., Any]
    matched: Matched
    kind: str
    seen: frozenset[str]  # the roles that it uses

    def sees(self, *roles: str) -> bool:
        return any(role in self.seen for role in roles)

    def results(self, x: Trajectory, form: Form) -> list[tuple[str, Numbers]]:
        """Its outputs [T, B] with their names; raises what the function raises."""
        given = _given(x, form)
        if self.matched.takes_case is False and self.sees("episode_starts"):
            given["dones"] = given["last_done"]  # beside the starts, `dones` are of the last step
        if form.layout in ("TB", "BT"):
            turn = form.layout == "BT"
            if turn:
                given = {k: v.T if np.ndim(v) == 2 else v for k, v in given.items()}
            found = self._called(given, form, x.rewards.shape[::-1] if turn else x.rewards.shape)
            return [(name, y.T if turn else y) for name, y in found]
        if form.layout == "S":
            return self._step_by_step(given, form, x.rewards.shape)
        columns = []
        for b in range(x.rewards.shape[1]):
            column = {k: _column(k, v, b, form) for k, v in given.items()}
            column["num_envs"] = 1
            shape = (len(x.rewards), 1) if form.layout == "T1" else (len(x.rewards),)
            columns.append(self._called(column, form, shape))
        names = [name for name, _ in columns[0]]
        return [
            (name, np.stack([column[i][1].reshape(len(x.rewards)) for column in columns], 1))
            for i, name in enumerate(names)
        ]

    def _step_by_step(
        self, given: dict[str, Any], form: Form, shape: tuple[int, ...]
    ) -> list[tuple[str, Numbers]]:
        found: dict[str, Numbers] = {}
        tensors = form.framework.name in ("torch", "jax")
        for place in np.ndindex(*shape):
            step = {k: v[place] if np.ndim(v) == 2 else v for k, v in given.items()}
            step = {
                k: np.asarray(v) if tensors else v.item() if hasattr(v, "item") else v
                for k, v in step.items()
                if np.ndim(v) == 0
            }
            for k, (name, y) in enumerate(self._called(step, form, ())):
                found.setdefault(name or str(k), np.zeros(shape))[place] = y
        return [("" if name.isdigit() else name, y) for name, y in found.items()]

    def _called(
        self, given: dict[str, Any], form: Form, shape: tuple[int, ...]
    ) -> list[tuple[str, Numbers]]:
        whole = {*_PER_ENVIRONMENT, *(() if form.successors else ("next_values",))}
        whole |= {"dones"} if self.sees("episode_starts") else set()
        with form.framework.uncompiled():
            returned = calling.call(self.function, self.matched, given, form.framework, whole=whole)
        outputs = returned.outputs(shape[0] if shape else None)
        fitting = [(n, _fit(y, shape)) for n, y in outputs if _fits(y, shape)]
        if fitting:
            return fitting
        kept = {k: v for k, v in returned.given.items() if k in ("advantages", "returns")}
        if returned.instance is not None:
            kept |= {
                role: value
                for name, value in vars(returned.instance).items()
                if (role := calling.match_name(name, _OUTPUTS)) and role not in kept
            }
        changed = {k: v for k, v in kept.items() if k in self.seen or k not in returned.given}
        if not outputs and not changed:
            changed = {k: v for k, v in returned.given.items() if _was_changed(v, given[k])}
        arrays = []
        for name, value in changed.items():
            y = calling.to_numpy_or_none(value)
            if _fits(y, shape):
                arrays.append((name, _fit(y, shape)))
        if arrays:
            return sorted(arrays)  # advantages before returns
        raise WrongShape([y.shape for _, y in outputs], shape)


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


def _column(role: str, value: Any, b: int, form: Form) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    if role in _PER_ENVIRONMENT or value.ndim == 1:
        wide = form.layout == "T1" or (form.layout == "TV" and role == "last_value")
        if wide or form.last == "one":
            return value[b : b + 1]
        return float(value[b]) if form.last == "float" else np.array(value[b])
    column = form.layout == "T1" or (form.layout == "TV" and role in ("values", "next_values"))
    return value[:, b : b + 1] if column else value[:, b]


def _fits(y: Numbers, shape: tuple[int, ...]) -> bool:
    squeezed = tuple(n for n in y.shape if n != 1) == tuple(n for n in shape if n != 1)
    return bool(y.shape == shape or (squeezed and y.ndim >= 1))


def _fit(y: Numbers, shape: tuple[int, ...]) -> Numbers:
    return y.astype(float).reshape(shape)


def _was_changed(now: Any, before: Any) -> bool:
    if not isinstance(before, np.ndarray):
        return False
    y = calling.to_numpy_or_none(now)
    return y.shape == before.shape and not np.allclose(y, before, equal_nan=True)


# ------------------------------------------------------------------------------- trajectories


class Scope(NamedTuple):
    """What the trajectories may hold, so that the function can know what it needs to."""

    ends: str  # none, terminations, both
    whole: bool  # the last step ends the episode: there is no bootstrap to give
    open: bool  # the last step ends nothing: the flag after it cannot be given
    successors: bool  # what follows a time limit at the last step can be given


def _trajectory(
    seed: int,
    shape: tuple[int, int],
    scope: Scope,
    chance: float = 0.3,
    gamma: float | None = None,
    lam: float | None = None,
) -> Trajectory:
    """A random one. Numbers of one size, so that no mistake is too small to be seen."""
    rng = np.random.default_rng(seed)
    x = Trajectory(
        rewards=rng.uniform(-2, 2, shape).round(3),
        values=rng.uniform(1, 4, shape).round(3) * rng.choice([-1, 1], shape),
        next_values=rng.uniform(5, 8, shape).round(3),
        following=rng.uniform(-4, -2, shape).round(3),
        terminated=(rng.random(shape) < chance) & (scope.ends != "none"),
        truncated=(rng.random(shape) < chance) & (scope.ends == "both"),
        cut=np.zeros(shape, bool),
        gamma=float(rng.choice([0.9, 0.8, 0.7, 0.95]) if gamma is None else gamma),
        lam=float(rng.choice([0.6, 0.5, 0.85, 0.75]) if lam is None else lam),
        ratio=np.exp(rng.normal(0, 0.7, shape)).round(3),
        rho_clip=float(rng.choice([1.25, 1.5, 1.1])),
        c_clip=float(rng.choice([0.7, 0.9, 0.8])),
        n=int(rng.integers(1, shape[0] + 1)),
        before=rng.random(shape[1]) < 0.5,
    )
    return _consistent(x, scope)


def _consistent(x: Trajectory, scope: Scope) -> Trajectory:
    """Its rows made to agree: one end a step, and V(s_{t+1}) = values[t + 1] within episodes."""
    terminated, truncated = x.terminated.copy(), x.truncated.copy()
    if scope.whole:
        terminated[-1] = True
    if scope.open:
        terminated[-1] = False
    if scope.open or not scope.successors:
        truncated[-1] = False
    truncated = truncated & ~terminated
    following = np.concatenate([x.values[1:], x.following[-1:]])
    ended = terminated | truncated
    return x._replace(
        terminated=terminated,
        truncated=truncated,
        following=following,
        next_values=np.where(ended, x.next_values, following),
        cut=ended,
    )


SHAPES = ((5, 3), (6, 2), (5, 3), (6, 2), (5, 3), (6, 2), (5, 3), (6, 2))

# ------------------------------------------------------------------------------- readings


class Normalised(NamedTuple):
    """What was done to the advantages at the end."""

    name: str = ""
    degrees: int = 0  # 1: sample deviation
    epsilon: float = 0.0
    inside: bool = False  # ε is added to the variance, not to the deviation
    axis: int | None = None  # of a wrong normalisation

    def __call__(self, y: Numbers) -> Numbers:
        if not self.name:
            return y
        centred = y - y.mean(axis=self.axis, keepdims=True)
        if self.name == "centred":
            return centred
        if (y.size if self.axis is None else y.shape[self.axis]) <= self.degrees:
            return np.full(y.shape, np.nan)  # the deviation of one element
        with np.errstate(all="ignore"):
            spread = y.std(axis=self.axis, ddof=self.degrees, keepdims=True)
            spread = np.sqrt(spread**2 + self.epsilon) if self.inside else spread + self.epsilon
            return centred / spread

    def describe(self) -> str:
        if self.name == "centred":
            return "the mean is subtracted at the end"
        which = "sample" if self.degrees else "population"
        where = "the variance" if self.inside else "it"
        return (
            f"normalised at the end with the {which} deviation, "
            f"about {self.epsilon:g} added to {where}"
        )


NORMALISED = [
    Normalised(),
    *(
        Normalised("normalised", degrees, epsilon, inside)
        for degrees, epsilon, inside in itertools.product(
            (0, 1), (1e-8, 1e-5, 1e-4, 1e-3, 1e-2), (False, True)
        )
    ),
    Normalised("centred"),
]
WRONGLY_NORMALISED = [
    Normalised("normalised", degrees, epsilon, False, axis)
    for axis, degrees, epsilon in itertools.product((0, 1), (0, 1), (1e-8, 1e-5, 1e-3))
]


class Reading(NamedTuple):
    """What it is taken to compute."""

    form: Form
    quantity: str
    assumed: Mapping[str, float]  # γ and λ that were found in its code
    normalised: Normalised = Normalised()
    output: int = 0
    terminal: bool = False  # time limits count as terminations

    def view(self, x: Trajectory) -> Trajectory:
        x = x.but(**self.assumed)
        return x._replace(terminated=x.ended) if self.terminal else x

    def raw(self, x: Trajectory, *mistakes: Mistake) -> Numbers:
        """By definition, before any normalisation, with these mistakes in it."""
        x = self.view(x)
        for mistake in mistakes:
            x = mistake.change(x) if mistake.change else x
        with np.errstate(all="ignore"):
            y = QUANTITIES[self.quantity](x)
            for mistake in mistakes:
                y = mistake.after(x, y) if mistake.after else y
        return y

    def expected(self, x: Trajectory, *mistakes: Mistake) -> Numbers:
        return self.finish(self.raw(x, *mistakes))

    def finish(self, y: Numbers) -> Numbers:
        if self.form.layout in _COLUMNS:  # it never saw more than one column
            return np.stack([self.normalised(column) for column in y.T], 1)
        return self.normalised(y)


def _size(x: Trajectory, y: Numbers) -> float:
    parts = (x.rewards, x.values, x.next_values, x.following, y)
    finite = [np.abs(part[np.isfinite(part)]) for part in map(np.asarray, parts)]
    return max(1.0, *(float(part.max()) for part in finite if part.size))


def _close(x: Trajectory, got: Numbers, expected: Numbers) -> bool:
    """Equal but for rounding, in a precision of which a function may use less than it returns."""
    if not np.isfinite(got).all():
        return False
    tolerance = 1e-5 * _size(x, expected)
    return bool((np.abs(got - expected) <= tolerance).all())


class Sample(NamedTuple):
    x: Trajectory
    outputs: list[tuple[str, Numbers]]


# ------------------------------------------------------------------------------- the audit


def _told_apart(
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


_HINTS_BATCH_FIRST = re.compile(
    r"[\[(]\s*(B|N|batch|batch_size|num_envs|n_envs|envs)\s*,\s*(T|time|steps|num_steps|L)\b", re.I
)
_LAYOUTS = {
    "TB": "arrays [T, B]",
    "BT": "arrays [B, T]",
    "T": "single trajectories [T]",
    "TV": "single trajectories [T], values [T, 1]",
    "T1": "single trajectories [T, 1]",
    "S": "one step at a time",
}


class _Audit:
    """One audit: how to call it, what it computes, which checks hold, what is wrong."""

    def __init__(
        self,
        function: Callable[..., Any],
        kind: str,
        roles: Mapping[str, tuple[str, ...]],
        mapping: Mapping[str, str] | None,
        layout: str | None,
        time_limits: str | None,
        seed: int,
    ) -> None:
        if layout not in (None, *_LAYOUTS):
            raise UserError(f"layout is one of {', '.join(_LAYOUTS)}; got '{layout}'.")
        if time_limits not in (None, "terminal", "bootstrap"):
            raise UserError(f"time_limits is terminal or bootstrap; got '{time_limits}'.")
        self.kind, self.function, self.time_limits = kind, function, time_limits
        self.seed = 1000 * seed
        self.matched = calling.recognise(function, roles, _told_apart(function, mapping))
        self.layouts = [layout] if layout else list(_LAYOUTS)
        self.layouts.sort(key=["TB", "T", "TV", "T1", "BT", "S"].index)
        text = inspect.getdoc(function) or ""
        if layout is None and _HINTS_BATCH_FIRST.search(text):
            self.layouts = ["BT"]
        self.tried: list[str] = []
        self.broadcast: tuple[Form, WrongShape] | None = None
        self.subject = Subject(function, self.matched, kind, self._seen())
        self.choices: list[str] = []
        self.not_checked: list[str] = []

    # --- how to call it

    def _seen(self) -> frozenset[str]:
        if not self.matched.takes_case:
            matched = self.matched
            return frozenset((*matched.parameters, *matched.attributes, *matched.held))
        x = _trajectory(0, SHAPES[0], Scope("none", False, False, True))
        for framework, layout, flags in itertools.product(
            calling.frameworks(self.function), self.layouts, ("float", "bool")
        ):
            form = Form(True, framework=framework, layout=layout, flags=flags)
            given = _given(x, form)
            given |= {"next_value": given["last_value"], "next_done": given["last_done"]}
            if layout != "TB":
                given = {k: _column(k, v, 0, form) for k, v in given.items()}
            try:
                read = calling.call(self.function, self.matched, given, framework).read
            except Exception as error:
                self.tried.append(calling.one_line(error))
                continue
            return frozenset(read)
        raise CannotCall(
            f"{calling.name_of(self.function)} failed on a case object: {self.tried[0]}"
        )

    @property
    def sees(self) -> Callable[..., bool]:
        return self.subject.sees

    def scope(self, form: Form) -> Scope:
        ends = "terminations" if self.sees(*_ENDS) else "none"
        if self.sees("truncated") or (
            self.sees("terminated") and self.sees("dones", "masks", "episode_starts")
        ):
            ends = "both"
        last = self.sees("last_value", "next_value") or self.sees("next_values") or form.longer
        knows_last = not self.sees("episode_starts") or self.sees("last_done", "dones", "next_done")
        return Scope(ends, not last, not knows_last, form.successors)

    def forms(self, framework: Framework | None = None) -> Iterator[Form]:
        """Ways of calling it that mean different things, each in the first way that runs."""
        next_values = self.matched.names.get("next_values", "s")
        ambiguous = not next_values.endswith("s") and not self.sees("last_value")
        successors = [True, False] if ambiguous else [True]
        successors = successors if self.sees("next_values") else [False]
        bootstraps = self.sees("next_values", "last_value", "next_value")
        longer = [False, True] if self.sees("values") and not bootstraps else [False]
        starts = self.sees("last_done", "next_done") and self.sees("dones", "masks")
        shifted = [True, False] if starts else [False]
        discounted = [False]
        if self.sees("discounts"):
            discounted = [False, True] if self.sees("gamma") else [True, False]
        both = self.sees("truncated") and self.sees("dones", "masks")
        terminations = [False, True] if both and not self.sees("terminated") else [False]
        # The first framework in which it runs at all is its own: others may run by accident, as
        # JAX does when an index is out of bounds.
        for tried in [framework] if framework else self._frameworks():
            known: Form | None = None
            for meaning in itertools.product(successors, longer, shifted, discounted, terminations):
                looks = [] if known is None else [known[6:]]
                for look in itertools.chain(looks, self._looks()):
                    form = Form(*meaning, tried, *look)
                    if self._runs(form):
                        known = form
                        yield form
                        break
            if known is not None or self.broadcast is not None:
                return

    def _frameworks(self) -> list[Framework]:
        return calling.frameworks(self.function, self.matched)

    def _looks(self) -> Iterator[tuple[str, str, str]]:
        for layout in self.layouts:
            if layout == "S" and not self.sees("next_values"):
                continue
            for flag in ("float", "bool") if self.sees(*_FLAGS) else ("float",):
                for last in ("float", "one", "0-d") if layout == "T" else ("float",):
                    yield layout, flag, last

    def _runs(self, form: Form) -> bool:
        """Whether it gives arrays of the right shape, on trajectories with and without ends."""
        if self.broadcast and form.layout == "T1":
            return False
        try:
            for chance in (0.0, 0.4):
                self.outputs(_trajectory(1, SHAPES[0], self.scope(form), chance), form)
        except WrongShape as error:
            if error.broadcast and self.broadcast is None:
                self.broadcast = (form, error)
            self.tried.append(f"{error} ({form.framework}, {_LAYOUTS[form.layout]})")
        except ImportError as error:
            self.tried.append(calling.one_line(error))
        except (Exception, SystemExit) as error:
            text = f"{form.framework}, {_LAYOUTS[form.layout]}"
            self.tried.append(f"{calling.one_line(error)} ({text})")
        else:
            return True
        return False

    def outputs(self, x: Trajectory, form: Form) -> list[tuple[str, Numbers]]:
        found = self.subject.results(x, form)
        wanted = {"advantages": "advantages", "returns": "returns", "vtrace": "returns"}[self.kind]
        # The one whose name says it comes first, else the order is theirs.
        return sorted(found, key=lambda item: calling.match_name(item[0], _OUTPUTS) != wanted)

    def called(self, form: Form) -> str:
        note = calling.note(self.function)
        taken = f"the case's {', '.join(sorted(self.subject.seen))}"
        words = taken if self.matched.takes_case else self.matched.describe()
        return "; ".join(
            part for part in (f"{form.framework}, {_LAYOUTS[form.layout]}", words, note) if part
        )

    # --- what it computes

    def assumptions(self) -> list[dict[str, float]]:
        """γ, λ and clips that it is not given: from its module, its code, or the usual ones."""
        constants = self.matched.constants
        literals = calling.literals(self.function)  # γλ may be there as one number
        options: dict[str, tuple[float, ...]] = {}
        if not self.sees("gamma") and not self.sees("discounts"):
            options["gamma"] = tuple(dict.fromkeys((*literals, 1.0, 0.99)))
        if not self.sees("lam"):
            folded = [a / b for a, b in itertools.permutations(literals, 2) if a < b]
            options["lam"] = (1.0,) if self.kind == "vtrace" else (*literals, *folded, 1.0)
        if self.kind == "vtrace":
            for clip in ("rho_clip", "c_clip"):
                if not self.sees(clip):
                    options[clip] = tuple(dict.fromkeys((1.0, *literals)))
        options |= {role: (constants[role],) for role in options if role in constants}
        names = list(options)
        return [
            dict(zip(names, values, strict=True)) for values in itertools.product(*options.values())
        ]

    def quantities(self) -> list[str]:
        has_lambda = self.sees("lam") or "lam" in self.matched.constants
        if self.kind == "vtrace":
            return ["V-trace targets", "V-trace targets minus V"]
        if self.kind == "advantages":
            rest = "the return to the end of the episode or batch, minus V"
            gae = "generalised advantages"
            return [gae] if has_lambda else ["the TD error", rest, gae]
        if has_lambda:
            return ["the λ-return"]
        if self.sees("n"):
            return ["the n-step return"]
        whole = "the return to the end of the episode or batch"
        one = ["the TD target"] if self.sees("next_values") or self.sees("values") else []
        # What an unfinished last episode would have brought need not be asked of Monte Carlo.
        complete = self.sees("next_values") and self.sees("truncated") and not self.sees("values")
        one += ["the Monte Carlo return of complete episodes"] if complete else []
        first = [whole, *one]
        return [*first, "the λ-return"] if calling.literals(self.function) and one else first

    def readings(self, form: Form, outputs: int) -> Iterator[Reading]:
        terminal = self.scope(form).ends == "both" and (
            not form.successors or self.time_limits == "terminal"
        )
        for quantity, assumed in itertools.product(self.quantities(), self.assumptions()):
            for output in range(outputs):
                yield Reading(form, quantity, assumed, Normalised(), output, terminal)

    def trajectory(self, seed: int, *what: Any, **options: Any) -> Trajectory:
        return _trajectory(self.seed + seed, *what, **options)

    def close(self, x: Trajectory, got: Numbers, expected: Numbers) -> bool:
        return _close(x, got, expected)

    def samples(self, form: Form) -> list[Sample]:
        scope = self.scope(form)
        kept = []
        for seed, shape in enumerate(SHAPES):
            x = self.trajectory(seed + 10, shape, scope)
            try:
                kept.append(Sample(x, self.outputs(x, form)))
            except (Exception, SystemExit) as error:
                raise CannotCall(
                    f"{calling.name_of(self.function)} failed on a case "
                    f"(called with {self.called(form)}): {calling.one_line(error)}"
                ) from error
        return kept

    def agrees(self, reading: Reading, samples: list[Sample], *mistakes: Mistake) -> bool:
        return all(
            self.close(s.x, s.outputs[reading.output][1], reading.expected(s.x, *mistakes))
            for s in samples
        )

    def _normalisations(self, reading: Reading, samples: list[Sample]) -> list[Normalised]:
        """Those that its numbers can have gone through."""
        y = samples[0].outputs[reading.output][1]
        columns = reading.form.layout in _COLUMNS
        means = [abs(part.mean()) for part in ([*y.T] if columns else [y])]
        return NORMALISED if max(means) < 1e-4 and self.kind != "vtrace" else NORMALISED[:1]

    def recognised(self, forms: list[tuple[Form, list[Sample]]]) -> Reading | None:
        """The first reading under which its numbers are right."""
        for form, samples in forms:
            named = any(name for name, _ in samples[0].outputs)
            outputs = 1 if named else len(samples[0].outputs)
            for reading in self.readings(form, outputs):
                for normalised in self._normalisations(reading, samples):
                    tried = reading._replace(normalised=normalised)
                    if self.agrees(tried, samples):
                        return tried
        return None

    # --- what is wrong with it

    def diagnosed(
        self, forms: list[tuple[Form, list[Sample]]]
    ) -> tuple[Reading, tuple[Mistake, ...]] | None:
        """A reading, and the mistakes in it that give its very numbers: one, or two."""
        for form, samples in forms:
            for reading in self.readings(form, 1):
                options = self._normalisations(reading, samples)
                for mistake in self._all_mistakes(reading, samples):
                    for normalised in options:
                        tried = reading._replace(normalised=normalised)
                        if self.agrees(tried, samples, mistake):
                            return tried, (mistake,)
        for form, samples in forms:
            for reading in self.readings(form, 1):
                known = self._known(reading)
                for pair in itertools.combinations(known, 2):
                    if pair[0].check != pair[1].check and self.agrees(reading, samples, *pair):
                        return reading, pair
        return None

    def _known(self, reading: Reading) -> list[Mistake]:
        """The known mistakes, without those in a γ or λ that is not known itself."""
        told = {
            role: self.sees(role) or role in self.matched.constants for role in ("gamma", "lam")
        }
        told["gamma"] |= self.sees("discounts")
        beside = set()
        if not told["lam"]:
            beside |= {"lambda-applied-once", "gamma-in-the-trace"}
        if not told["gamma"]:
            beside |= {"gamma-used", "gamma-in-the-trace"}
        known = table(self.kind, reading.form.successors)
        return [mistake for mistake in known if mistake.check not in beside]

    def _all_mistakes(self, reading: Reading, samples: list[Sample]) -> list[Mistake]:
        quantity = QUANTITIES[reading.quantity]
        swapped = Mistake(
            "time-axis",
            "Time and environment axes are swapped: it sums along the environments.",
            "Rewards of one environment are credited to another.",
            "Arrays here are [T, B]: run over the first axis. (If yours are [B, T] on purpose, "
            "say layout BT.)",
            None,
            lambda x, y: _transposed(x, quantity, reading.form.successors),
        )
        which = {0: "each environment", 1: "each time step"}
        over = [
            Mistake(
                "normalisation-axis",
                f"It normalises over the wrong axis: {which[n.axis or 0]} by itself.",
                "Differences between environments or times, which the advantage is there to show, "
                "are erased.",
                "Subtract the mean and divide by the deviation of the whole batch.",
                None,
                lambda x, y, n=n: n(y),  # type: ignore[misc]
            )
            for n in WRONGLY_NORMALISED
        ]
        out = samples[0].outputs[reading.output][1]
        centred = min(abs(out.mean(0)).max(), abs(out.mean(1)).max()) < 1e-4
        columns = reading.form.layout in _COLUMNS
        known = self._known(reading)
        return [*known, *([] if columns else [swapped]), *(over if centred else [])]

    def mismatch(
        self, reading: Reading, xs: Iterable[Trajectory]
    ) -> tuple[Trajectory, Numbers, Numbers] | None:
        """The first of these on which it is wrong, with what was expected and what it gave."""
        for x in xs:
            try:
                got = self.outputs(x, reading.form)[reading.output][1]
            except (Exception, SystemExit):
                continue
            expected = reading.expected(x)
            if not np.isfinite(expected).all():
                continue
            if not self.close(reading.view(x), got, expected):
                return x, expected, got
        return None

    def example(self, reading: Reading) -> str:
        """The smallest trajectory on which it is wrong."""
        found = self.mismatch(reading, self._small(reading.form))
        if found is None:
            found = self.mismatch(reading, self._random(reading.form))
        if found is None:
            return "only on large numbers, see the check"
        return self._table(reading, *found)

    def _random(self, form: Form) -> list[Trajectory]:
        return [
            self.trajectory(seed + 10, shape, self.scope(form)) for seed, shape in enumerate(SHAPES)
        ]

    def _small(self, form: Form) -> Iterator[Trajectory]:
        """Trajectories of a few steps and whole numbers, the smallest first."""
        scope = self.scope(form)
        kinds = {"none": (0,), "terminations": (0, 1), "both": (0, 1, 2)}[scope.ends]
        for steps, environments in ((1, 1), (2, 1), (3, 1), (4, 1), (2, 2), (3, 2), (4, 2)):
            shape = (steps, environments)
            patterns = sorted(
                itertools.product(kinds, repeat=steps), key=lambda p: sum(k > 0 for k in p)
            )
            if environments == 2:
                patterns = [p for p in patterns if sum(k > 0 for k in p) <= 1]
            grid = np.arange(steps * environments, dtype=float).reshape(shape)
            for pattern in patterns:
                ends = np.zeros(shape, int)
                ends[:, 0] = pattern
                x = Trajectory(
                    rewards=1 + grid,
                    values=np.array([2.0, 4, 1, 3, 5, 2, 6, 1])[grid.astype(int)],
                    next_values=8 + 0 * grid,
                    following=6 + 0 * grid,
                    terminated=ends == 1,
                    truncated=ends == 2,
                    cut=ends > 0,
                    gamma=0.5,
                    lam=0.5,
                    ratio=np.array([2.0, 0.5, 4, 1, 0.5, 2, 1, 4])[grid.astype(int)],
                    n=min(2, steps),
                    before=np.zeros(environments, bool),
                )
                yield _consistent(x, scope)

    def _table(self, reading: Reading, x: Trajectory, expected: Numbers, got: Numbers) -> str:
        view = reading.view(x)
        head = [f"gamma = {view.gamma:g}"]
        if "lam" in self.subject.seen or "λ" in reading.quantity or reading.quantity[0] == "g":
            head.append(f"lambda = {view.lam:g}")
        if self.kind == "vtrace":
            head.append(f"clip of rho = {view.rho_clip:g}, of c = {view.c_clip:g}")
        if self.sees("n"):
            head.append(f"n = {x.n}")
        columns: dict[str, list[str]] = {"t": []}
        shown: dict[str, Numbers] = {"reward": x.rewards}
        if x.rewards.shape[1] > 1:
            columns["env"] = []
        if self.sees("values"):
            shown["value"] = x.values
        shown["next value"] = x.next_values
        if self.kind == "vtrace":
            shown["ratio"] = x.ratio
        if self.scope(reading.form).whole:
            shown.pop("next value")
        shown |= {"expected": expected, "actual": got}
        end = np.where(x.terminated, "terminated", np.where(x.truncated, "truncated", "-"))
        rows = [
            [
                str(t),
                *([str(b)] if "env" in columns else []),
                *(_number(a[t, b]) for name, a in shown.items() if name not in _COMPARED),
                *([end[t, b]] if end.size and (end != "-").any() else []),
                _number(expected[t, b]),
                _number(got[t, b]),
            ]
            for b in range(x.rewards.shape[1])
            for t in range(len(x.rewards))
        ]
        names = [*columns, *(n for n in shown if n not in _COMPARED)]
        names += [*(["end"] if (end != "-").any() else []), *_COMPARED]
        widths = [max(len(r[i]) for r in [names, *rows]) for i in range(len(names))]
        lines = [
            "  ".join(c.rjust(w) for c, w in zip(r, widths, strict=True)) for r in [names, *rows]
        ]
        return "\n".join([", ".join(head), *lines])

    # --- the checks

    def checks(self, reading: Reading) -> dict[str, list[Trajectory]]:
        """Trajectories on which to compare it with the definition, by what they can tell."""
        form, scope = reading.form, self.scope(reading.form)
        shape = SHAPES[0]

        def some(count: int = 2, chance: float = 0.3, **options: Any) -> list[Trajectory]:
            return [self.trajectory(100 + i, shape, scope, chance, **options) for i in range(count)]

        def changed(
            xs: list[Trajectory], change: Callable[[Trajectory], dict[str, Numbers]]
        ) -> list[Trajectory]:
            return [_consistent(x.but(**change(x)), scope) for x in xs]

        plain = some(chance=0.0)
        checks = {"definition": self._random(form)}
        if scope.ends != "none":
            checks["termination-drops-bootstrap"] = changed(
                some(), lambda x: {"next_values": np.where(x.terminated, 1e6, x.next_values)}
            )
            later = [x for x in some(4) if x.ended[:-1].any()]
            ends_cut = (
                "returns-stop-at-episode-end"
                if self.kind == "returns"
                else "trace-cut-at-episode-end"
            )
            # Only the rows up to the first end are told from the poison by their size; the rest
            # are judged against a larger scale, which is why the plain cases come first.
            checks[ends_cut] = later + changed(
                later, lambda x: {"rewards": np.where(_after_an_end(x), 1e6, x.rewards)}
            )
            single = []
            for i in range(shape[0]):
                rows = (np.arange(shape[0])[:, None] + np.arange(shape[1])) % shape[0] == i
                single += changed(plain[:1], lambda x, rows=rows: {"terminated": rows})  # type: ignore[misc]
            checks["done-flag-aligned"] = single
        if scope.ends == "both" and not reading.terminal:
            checks["truncation-bootstraps"] = changed(
                some(), lambda x: {"truncated": x.ended, "terminated": x.ended & False}
            )
        if scope.ends == "both":
            checks["bootstrap-from-true-successor"] = changed(
                some(), lambda x: {"values": np.where(_starts(x), 1e6, x.values)}
            )
        if not scope.whole:
            checks["last-bootstrap-used"] = changed(
                plain, lambda x: {"following": 1e3 + x.following}
            )
            checks["last-bootstrap-once"] = changed(
                plain, lambda x: {"following": 1e3 + x.following, "rewards": 0 * x.rewards}
            )
            checks["bootstrap-discounted"] = some(chance=0.0, gamma=0.3)
        if self.sees("lam"):
            checks["lambda-applied-once"] = [
                x for lam in (0.0, 0.4, 1.0) for x in some(1, 0.0, lam=lam)
            ]
        if self.sees("gamma", "discounts"):
            checks["gamma-used"] = [x for g in (0.5, 0.99, 1.0) for x in some(1, 0.0, gamma=g)]
            checks["gamma-in-the-trace"] = some(1, 0.0, gamma=0.2, lam=0.9)
        if self.kind == "advantages":
            checks["baseline-subtracted"] = changed(
                plain, lambda x: {"values": x.values + 100.0, "following": x.following + 100.0}
            )
        if self.kind == "vtrace":
            high, low = np.full(shape, 4.0), np.full(shape, 0.3)
            checks["rho-and-c-clips"] = changed(plain, lambda x: {"ratio": high})
            checks["clips-applied"] = changed(plain, lambda x: {"ratio": high * 5})
            checks["ratio-of-target-to-behaviour"] = changed(plain, lambda x: {"ratio": low})
        return checks

    def relations(self, reading: Reading) -> dict[str, Callable[[], bool]]:
        """What must hold between its outputs on trajectories that are made from one another."""
        form, scope = reading.form, self.scope(reading.form)
        x = self.trajectory(200, SHAPES[0], scope)

        def got(y: Trajectory) -> Numbers:
            return self.outputs(y, form)[reading.output][1]

        def mapped(change: Callable[[Numbers], Numbers], y: Trajectory) -> Trajectory:
            new = {k: change(v) for k, v in y._asdict().items() if np.ndim(v) == 2}
            return y.but(**new)

        def permuted() -> bool:
            order = np.array([2, 0, 1])
            y = mapped(lambda v: v[:, order], x)._replace(before=np.asarray(x.before)[order])
            return self.close(x, got(y), got(x)[:, order])

        def scaled() -> bool:
            names = ("rewards", "values", "next_values", "following")
            y = x.but(**{name: 4 * getattr(x, name) for name in names})
            return self.close(y, got(y), 4 * got(x))

        def exact() -> bool:
            # A chain whose rewards are what the values say: r_t = V(s_t) − γ V(s_{t+1}).
            view = reading.view(x)
            y = x._replace(rewards=x.values - view.gamma * view.bootstrap)
            zero = np.zeros(x.rewards.shape)
            return self.close(y, got(y), zero if self.kind == "advantages" else y.values)

        def shaped() -> bool:
            view, rng = reading.view(x), np.random.default_rng(3)
            phi = rng.uniform(-3, 3, x.rewards.shape)
            after = np.concatenate([phi[1:], rng.uniform(-3, 3, phi[:1].shape)])
            following = after
            after = np.where(x.ended, rng.uniform(-3, 3, phi.shape), after)
            kept = np.where(view.terminated, 0.0, after)  # a terminal state has no potential
            y = x._replace(
                rewards=x.rewards + view.gamma * kept - phi,
                values=x.values - phi,
                next_values=x.next_values - after,
                following=x.following - following,
            )
            return self.close(y, got(y), got(x))

        def joined() -> bool:
            # Two trajectories, the first of which ends, one after the other.
            first = mapped(lambda v: v[:3], x)
            second = mapped(lambda v: v[:2], self.trajectory(201, SHAPES[0], scope))
            ended = first.terminated.copy()
            ended[-1] = True
            first = _consistent(first._replace(terminated=ended), scope._replace(open=False))
            second = _consistent(
                second._replace(
                    gamma=x.gamma, lam=x.lam, n=x.n, rho_clip=x.rho_clip, c_clip=x.c_clip
                ),
                scope,
            )
            both = {
                k: np.concatenate([v, getattr(second, k)])
                for k, v in first._asdict().items()
                if np.ndim(v) == 2
            }
            apart = np.concatenate([got(first), got(second._replace(before=first.ended[-1]))])
            return self.close(x, got(_consistent(first.but(**both), scope)), apart)

        relations = {"environments-independent": permuted}
        if not reading.normalised.name:
            relations["scaling"] = scaled
            vtrace_values = self.kind == "vtrace" and reading.quantity == "V-trace targets"
            if self.sees("values") and (self.kind == "advantages" or vtrace_values):
                relations["exact-values-give-zero"] = exact
            if scope.ends != "none" and not scope.open:
                relations["episodes-apart-or-joined"] = joined
        if self.kind == "advantages" and self.sees("values"):
            relations["potential-shaping"] = shaped
        return relations

    def run_checks(self, reading: Reading) -> tuple[list[str], list[str]]:
        """Names of the checks that hold, and of those that do not."""
        held: list[str] = []
        failed: list[str] = []
        for name, xs in self.checks(reading).items():
            (failed if self.mismatch(reading, xs) else held).append(name)
        for name, holds in self.relations(reading).items():
            try:
                (held if holds() else failed).append(name)
            except (Exception, SystemExit) as error:
                self.not_checked.append(f"{name}: the function raised {calling.one_line(error)}")
        return held, failed

    # --- the report

    def report(self) -> Report:
        # Trial in order: forms that cannot be told apart by running are told apart by numbers.
        forms: list[tuple[Form, list[Sample]]] = []
        for form in self.forms():
            forms.append((form, self.samples(form)))
            reading = self.recognised(forms[-1:])
            if reading is not None:
                return self._right(reading)
        if not forms:
            if self.broadcast is not None:
                return self._broadcast(*self.broadcast)
            raise CannotCall(
                f"{calling.name_of(self.function)} could not be called: "
                f"{self.tried[0] if self.tried else 'nothing could be tried'}. "
                f"Tried: {self.matched.describe()}. If a parameter was taken for the wrong "
                "thing, add --map THEIRS=OURS."
            )
        found = self.diagnosed(forms)
        if (
            found is None and forms[0][0].framework.name == "numpy"
        ):  # where + adds up, and does not append
            for form in self.forms(Framework("list")):
                if reading := self.recognised([(form, self.samples(form))]):
                    return self._right(reading)
        if found is not None and found[1][0].check == "time-axis" and len(self.layouts) > 1:
            one = replace_layout(found[0].form, "T")
            if self._runs(one) and (reading := self.recognised([(one, self.samples(one))])):
                # It works along the last axis: right for [T], and for batches [B, T].
                self.choices.append("time is the last axis: it takes [T], or batches [B, T]")
                return self._right(reading)
        return self._wrong(forms, found)

    def _right(self, reading: Reading) -> Report:
        held, failed = self.run_checks(reading)
        findings = [self._property(reading, failed)] if failed else []
        for name, finding in self._more(reading):
            if finding is None:
                held.append(name)
            else:
                findings.append(finding)
        return self._reported(reading, held, findings)

    def _wrong(
        self,
        forms: list[tuple[Form, list[Sample]]],
        found: tuple[Reading, tuple[Mistake, ...]] | None,
    ) -> Report:
        if found is None:
            reading = next(self.readings(forms[0][0], 1))
            held, failed = self.run_checks(reading)
            finding = self._property(reading, failed or ["definition"])
            return self._reported(reading, [], [finding._replace(severity=UNJUDGED)])
        reading, mistakes = found
        held, _ = self.run_checks(reading)
        example = self.example(reading)
        named = {m.check for m in mistakes}
        findings = [m.fault.on(example) for m in mistakes]
        return self._reported(reading, [name for name in held if name not in named], findings)

    def _property(self, reading: Reading, failed: list[str]) -> Finding:
        """What can be said when no known mistake gives its numbers."""
        plain = [_trajectory(i, SHAPES[0], self.scope(reading.form), 0.0) for i in range(3)]
        order = [name for name in failed if name in _PROPERTIES and name != "definition"]
        name = "definition" if self.mismatch(reading, plain) or not order else order[0]
        known = {m.check: m for m in reversed(table(self.kind, reading.form.successors))}
        wrong = _PROPERTIES.get(name, _PROPERTIES["definition"])
        others = [other for other in failed if other != name]
        if others:
            wrong += f" (These fail too: {', '.join(others)}.)"
        effect = (
            known[name].effect if name in known else "It learns from numbers that it is not told."
        )
        mend = (
            known[name].mend
            if name in known
            else f"Compare it step by step with {reading.quantity} on the case above."
        )
        xs = self.checks(reading).get(name, [])
        found = self.mismatch(reading, [*self._small(reading.form), *xs])
        example = self._table(reading, *found) if found else "see the check"
        return Finding(name, wrong, effect, example, mend)

    def _broadcast(self, form: Form, error: WrongShape) -> Report:
        shape = " x ".join(map(str, error.wanted))
        finding = Finding(
            "output-shape",
            f"Its result is {error.broadcast} where the rewards are {error.wanted}: arrays of "
            "shape (N,) and (N, 1) were broadcast against each other.",
            "Every step is compared with the values of all the others; a mean over it hides that, "
            "and the critic learns the average.",
            f"rewards, values: {shape}; expected output: {shape}; actual: {error.broadcast}",
            "Give both the same shape before subtracting, as values.reshape(rewards.shape).",
        )
        ledger = Ledger(found={finding.check: finding})
        return ledger.report(calling.name_of(self.function), self.kind, self.called(form))

    def _more(self, reading: Reading) -> Iterator[tuple[str, Finding | None]]:
        """Checks beside the main output: what else it returns, and a single element."""
        if reading.normalised.name == "normalised":
            yield "normalisation-of-one-element", self._one_element(reading)
        x = self._random(reading.form)[0]
        outputs = self.outputs(x, reading.form)
        for index, (name, _) in enumerate(outputs):
            if index == reading.output:
                continue
            role = calling.match_name(name, _OUTPUTS) if name else None
            first = len(outputs) == 2 or role is not None
            if self.kind == "advantages" and (role == "returns" or (not name and first)):
                yield from self._second(reading, index, bool(name))
            elif self.kind == "vtrace" and (role == "advantages" or (not name and first)):
                yield from self._weights(reading, index, bool(name))
            else:
                self.choices.append(f"a further output {name or index + 1} was not looked at")

    def _one_element(self, reading: Reading) -> Finding | None:
        x = _trajectory(7, (1, 1), self.scope(reading.form))
        try:
            got = self.outputs(x, reading.form)[reading.output][1]
        except (Exception, SystemExit) as error:
            self.not_checked.append(
                f"normalisation-of-one-element: it raised {calling.one_line(error)}"
            )
            return None
        if np.isfinite(got).all():
            return None
        return Finding(
            "normalisation-of-one-element",
            "Normalising a single advantage gives a number that is not finite.",
            "One minibatch of one row turns every parameter into NaN, for good.",
            f"one step of one environment: expected a finite number, actual {got.item()}",
            "Use the population deviation, or normalise only if there is more than one element.",
            RISKY,
        )

    def _second(
        self, reading: Reading, index: int, named: bool
    ) -> Iterator[tuple[str, Finding | None]]:
        """The returns beside the advantages: A + V."""
        xs = self._random(reading.form)
        got = [self.outputs(x, reading.form)[index][1] for x in xs]

        def is_(truth: Callable[[Trajectory], Numbers]) -> bool:
            return all(
                self.close(x, y, truth(reading.view(x))) for x, y in zip(xs, got, strict=True)
            )

        def raw(x: Trajectory) -> Numbers:
            return QUANTITIES[reading.quantity](x)

        if is_(lambda x: raw(x) + x.values):
            yield "returns-include-value", None
            return
        for text, truth in (
            ("TD errors", td_errors),
            ("the discounted return", n_step_returns),
            ("TD targets", lambda x: td_errors(x) + x.values),
            ("the advantages once more, normalised", lambda x: NORMALISED[1](raw(x))),
        ):
            if is_(truth):
                self.choices.append(f"the output beside the advantages is {text}")
                return
        example = self._second_example(reading, index)
        finding = Finding(
            "returns-include-value",
            "The returns beside the advantages are not advantages + values.",
            "The critic is trained towards something that is not the value.",
            example,
            "returns = advantages + values, before any normalisation.",
        )
        if is_(raw):
            wrong = "The returns are the advantages again: V(s_t) was not added."
            yield (
                finding.check,
                finding._replace(
                    wrong=wrong,
                    effect="The critic is trained towards the advantage, whose mean is zero: it "
                    "forgets the value.",
                ),
            )
        elif reading.normalised.name and is_(lambda x: reading.finish(raw(x)) + x.values):
            yield (
                finding.check,
                finding._replace(
                    wrong="The returns are values + normalised advantages: they were summed "
                    "after the normalisation.",
                ),
            )
        elif named:
            yield finding.check, finding
        else:
            self.choices.append("a second output was not recognised, and not judged")

    def _second_example(self, reading: Reading, index: int) -> str:
        plain = reading._replace(normalised=Normalised())
        for x in self._small(reading.form):
            try:
                got = self.outputs(x, reading.form)[index][1]
            except (Exception, SystemExit):
                continue
            expected = plain.raw(x) + x.values
            if not self.close(x, got, expected):
                return self._table(plain, x, expected, got)
        return "see the check"

    def _weights(
        self, reading: Reading, index: int, named: bool
    ) -> Iterator[tuple[str, Finding | None]]:
        """V-trace's advantages for the policy gradient."""
        xs = self._random(reading.form)
        got = [self.outputs(x, reading.form)[index][1] for x in xs]

        def blended(x: Trajectory) -> Numbers:
            """With λ, some take λ v_{s+1} + (1 − λ) V(x_{s+1}) for what follows."""
            rho = np.minimum(x.rho_clip, x.ratio)
            return x.lam * vtrace_advantages(x) + (1 - x.lam) * rho * td_errors(x)

        def is_(truth: Callable[[Trajectory], Numbers]) -> bool:
            return all(
                self.close(x, y, truth(reading.view(x))) for x, y in zip(xs, got, strict=True)
            )

        unclipped = lambda x: vtrace_advantages(x) / np.minimum(x.rho_clip, x.ratio)  # noqa: E731
        for text, truth in (
            ("", vtrace_advantages),
            ("advantages blend λ v_{s+1} + (1 − λ) V(x_{s+1})", blended),
            ("advantages are not weighed by ρ", unclipped),
            ("the second output is TD errors", td_errors),
            ("the second output is ρ, clipped", lambda x: np.minimum(x.rho_clip, x.ratio)),
        ):
            if is_(truth):
                if text:
                    self.choices.append(text)
                yield "policy-gradient-advantages", None
                return
        if named:
            yield (
                "policy-gradient-advantages",
                Finding(
                    "policy-gradient-advantages",
                    "The advantages are not rho_s (r_s + gamma v_{s+1} - V(x_s)).",
                    "The policy is improved with another weight than the paper's: biased.",
                    "see the definition in the paper, section 4.1",
                    "advantage = rho * (reward + gamma * v_next - value), v_next the V-trace "
                    "target of the next step, V(s') where an episode was cut, 0 after its end.",
                ),
            )
        else:
            self.choices.append("a second output was not recognised, and not judged")

    def _reported(self, reading: Reading, held: list[str], findings: list[Finding]) -> Report:
        form, scope = reading.form, self.scope(reading.form)
        said = [f"it is taken to compute {reading.quantity}"]
        for name, value in reading.assumed.items():
            relevant = name != "lam" or "λ" in reading.quantity or reading.quantity[0] == "g"
            if relevant and not (name == "lam" and self.kind == "vtrace"):
                source = "of its module" if name in self.matched.constants else "not a parameter"
                said.append(f"{name} = {value:g}, {source}")
        if form.shifted or self.sees("episode_starts"):
            said.append("its flag of row t says that observation t starts an episode")
        if form.terminations:
            said.append("done means terminated, and truncated is beside it")
        if form.longer:
            said.append("values has T + 1 rows, the last one for what follows the last step")
        if form.discounted:
            said.append("discounts contain gamma")
        if scope.whole:
            said.append("it takes no value after the last step: the last step ends its episode")
        if reading.terminal:
            said.append(TIME_LIMITS)
        elif scope.ends == "terminations":
            flag = next(role for role in _ENDS if self.sees(role))
            said.append(
                f"it is told ends by {flag} alone: an episode that a time limit cut counts as "
                "terminated if it is flagged"
            )
        if reading.normalised.name:
            said.append(reading.normalised.describe())
        if reading.output:
            said.append(
                "the advantages are not its first output"
                if self.kind == "advantages"
                else f"what is audited is output {reading.output + 1}"
            )
        if scope.ends == "none":
            self.not_checked.append("ends of episodes: the function is not told of any")
        elif scope.ends == "terminations":
            self.not_checked.append("time limits: the function takes no truncation flag")
        ledger = Ledger(
            found={finding.check: finding for finding in findings},
            choices=[*said, *self.choices],
            not_checked=self.not_checked,
        )
        ledger.hold(*held)
        return ledger.report(calling.name_of(self.function), self.kind, self.called(form))


_COLUMNS = ("T", "TV", "T1", "S")  # it never sees more than one trajectory
_COMPARED = ("expected", "actual")
_PROPERTIES = {
    "termination-drops-bootstrap": "Its result depends on values after a terminal state.",
    "truncation-bootstraps": "It is wrong where a time limit cut an episode.",
    "bootstrap-from-true-successor": "Its result depends on the first value of the next episode.",
    "trace-cut-at-episode-end": "Its result depends on rewards of a later episode.",
    "returns-stop-at-episode-end": "Its result depends on rewards of a later episode.",
    "done-flag-aligned": "It is wrong on trajectories with one end.",
    "last-bootstrap-used": "It is wrong about the value after the last step.",
    "time-axis": "Environments are not kept apart.",
    "environments-independent": "Environments are not kept apart: their order matters.",
    "lambda-applied-once": "Without any end, it is wrong for some lambda of 0, 0.4 and 1.",
    "gamma-used": "Without any end, it is wrong for some gamma.",
    "definition": "Its numbers are not those of the definition.",
    "scaling": "Rewards and values four times as large do not give results four times as large.",
    "exact-values-give-zero": "With exact values its result is not what they say.",
    "potential-shaping": "Shifting rewards and values by a potential changes the advantages.",
    "episodes-apart-or-joined": "Two episodes in one batch give other results than apart.",
}


def replace_layout(form: Form, layout: str) -> Form:
    """The same call with arrays of another layout."""
    return form._replace(layout=layout)


def _starts(x: Trajectory) -> Numbers:
    """The rows that follow a truncation."""
    return shifted(x.truncated, 1, False)


def _after_an_end(x: Trajectory) -> Numbers:
    return np.cumsum(shifted(x.ended, 1, False), 0) > 0


def _number(x: float) -> str:
    return f"{x:.4g}" if np.isfinite(x) else str(x)


def advantages(
    function: Callable[..., Any],
    *,
    mapping: Mapping[str, str] | None = None,
    layout: str | None = None,
    time_limits: str | None = None,
    seed: int = 0,
) -> Report:
    """Audit advantages: TD errors, n-step, GAE(λ), with returns beside them if there are any.

    `layout` BT says that arrays are [B, T]; `time_limits` "terminal" that they are treated as
    terminations on purpose; another `seed` is other random trajectories.
    """
    return _Audit(function, "advantages", ROLES, mapping, layout, time_limits, seed).report()


def returns(
    function: Callable[..., Any],
    *,
    mapping: Mapping[str, str] | None = None,
    layout: str | None = None,
    time_limits: str | None = None,
    seed: int = 0,
) -> Report:
    """Audit returns: Monte Carlo, n-step, λ-returns, TD targets. Options as of `advantages`."""
    return _Audit(function, "returns", N_ROLES, mapping, layout, time_limits, seed).report()


def vtrace(
    function: Callable[..., Any],
    *,
    mapping: Mapping[str, str] | None = None,
    layout: str | None = None,
    time_limits: str | None = None,
    seed: int = 0,
) -> Report:
    """Audit V-trace targets, with the policy gradient's advantages if it returns them."""
    return _Audit(function, "vtrace", VTRACE_ROLES, mapping, layout, time_limits, seed).report()
