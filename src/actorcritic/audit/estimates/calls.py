"""Calling anyone's estimator: its roles, what they mean, and how they are handed over."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from actorcritic.audit import calling
from actorcritic.audit.calling import Framework, Matched
from actorcritic.audit.mistakes import shifted
from actorcritic.audit.truths import (
    Numbers,
    Trajectory,
)

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
OUTPUTS = _named(
    {
        "advantages": "advantages adv advs advantage pg_advantages gae deltas",
        "returns": (
            "returns ret rets targets value_targets returns_to_go vs v_target lambda_returns target"
        ),
    }
)
FLAGS = ("dones", "terminated", "truncated", "episode_starts", "last_done")
PER_ENVIRONMENT = ("last_value", "last_done")
ENDS = ("dones", "masks", "terminated", "truncated", "discounts", "episode_starts")


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


def given_of(x: Trajectory, form: Form) -> dict[str, Any]:
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
    for role in FLAGS:
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
        given = given_of(x, form)
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
            column = {k: column_of(k, v, b, form) for k, v in given.items()}
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
        whole = {*PER_ENVIRONMENT, *(() if form.successors else ("next_values",))}
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
                if (role := calling.match_name(name, OUTPUTS)) and role not in kept
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


def column_of(role: str, value: Any, b: int, form: Form) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    if role in PER_ENVIRONMENT or value.ndim == 1:
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


# ------------------------------------------------------------------------------- the audit


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


LAYOUTS = {
    "TB": "arrays [T, B]",
    "BT": "arrays [B, T]",
    "T": "single trajectories [T]",
    "TV": "single trajectories [T], values [T, 1]",
    "T1": "single trajectories [T, 1]",
    "S": "one step at a time",
}


COLUMNS = ("T", "TV", "T1", "S")  # it never sees more than one trajectory
