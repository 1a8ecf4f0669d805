"""What a function that collects gave back, as rows: by names first, else by their numbers."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from actorcritic.audit import calling
from actorcritic.audit.findings import CannotCall
from actorcritic.audit.rollouts.worlds import FIELDS, NUM_ENVS, Key

# ------------------------------------------------------------------------------- names

ROLES: dict[str, tuple[str, ...]] = {
    "envs": ("env", "environment", "environments", "vec_env", "venv", "vector_env"),
    "env_fns": ("env_factories",),
    "make_env": ("env_fn", "env_factory", "make_environment", "make", "factory", "env_creator"),
    "policy": ("act", "agent", "actor", "model", "policy_fn", "act_fn", "actor_critic", "network",
               "select_action", "get_action", "choose_action", "pi"),
    "value_function": ("value_fn", "critic", "value_net", "get_value", "vf"),
    "num_steps": ("n_steps", "length", "steps", "horizon", "rollout_length", "t", "nsteps", "n",
                  "batch_size", "n_rollout_steps", "unroll_length", "rollout_steps", "num_rows",
                  "steps_per_epoch", "total_steps", "buffer_size"),
    "num_envs": ("n_envs", "b", "nenvs"),
    "num_episodes": ("n_episodes", "episodes"),
    "max_steps": ("max_episode_steps", "max_length", "max_len", "max_ep_len", "max_t"),
    "seed": (),
    "gamma": ("discount",),
    "key": ("rng_key", "prng_key"),
    "rng": ("random", "generator"),
    "observation": ("obs", "observations", "state", "next_obs", "last_obs", "initial_obs"),
    "done": ("dones", "next_done", "last_done"),
    "params": ("parameters", "learner"),
    "device": (),
}  # fmt: skip

FIELD_NAMES: dict[str, tuple[str, ...]] = {
    "observations": ("obs", "states", "o", "s", "obses", "ob"),
    "next_observations": ("next_obs", "next_states", "new_obs", "new_observations", "successors",
                          "obs_next", "obs2", "next_o", "s_next", "s2", "sp", "new_states",
                          "next_obses", "real_next_obs", "observations_next"),
    "actions": ("a", "acts", "act"),
    "rewards": ("r", "rews", "rew"),
    "terminated": ("terminations", "terminals", "terms", "term"),
    "truncated": ("truncations", "truncs", "trunc", "timeouts", "time_outs"),
    "dones": ("d", "ends", "ended", "finished"),
    "starts": ("episode_starts", "is_first", "firsts", "first", "begins"),
    "not_dones": ("nonterminals", "continues", "not_done", "alive"),
    "valid": ("is_valid", "valids", "real", "experience"),
    "masks": ("mask",),
    "log_probs": ("logp", "logprobs", "log_pi", "logpi", "old_log_probs", "action_log_probs",
                  "log_probabilities", "logpac"),
    "values": ("v", "vals", "vpreds", "state_values", "value_preds"),
    "next_values": ("next_v", "next_vals", "bootstrap_values"),
    "last_value": ("bootstrap", "bootstrap_value", "last_values", "final_value", "last_val"),
    "last_observation": ("last_obs", "final_obs", "last_observations", "current_obs"),
    "last_done": ("next_done", "next_dones", "last_dones"),
}  # fmt: skip

AFTER_LAST = ("last_value", "last_observation", "last_done")  # the others have a number in each row


# ------------------------------------------------------------------------------- what came back


def returned_names(function: Callable[..., Any]) -> list[str]:
    """The names in the last `return a, b, c` of the function's own source, if it has one."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(calling.underlying(function))))
    except (OSError, TypeError, SyntaxError):
        return []
    returns = [node for node in ast.walk(tree) if isinstance(node, ast.Return)]
    returns.sort(key=lambda node: node.lineno)
    if not returns or not isinstance(returns[-1].value, ast.Tuple):
        return []
    names = []
    for element in returns[-1].value.elts:
        found = [n for n in ast.walk(element) if isinstance(n, (ast.Name, ast.Attribute))]
        said = [n.id if isinstance(n, ast.Name) else n.attr for n in found]
        named = [name for name in said if calling.match_name(name, FIELD_NAMES)]
        names.append(named[0] if named else "")
    return names


def _is_record(x: Any) -> bool:
    """One transition (or one episode) of several fields."""
    fields = calling.as_mapping(x)
    return len(fields) >= 3 if fields is not None else isinstance(x, tuple) and len(x) >= 3


def _leaves(result: Any, names: list[str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(name, array) of all that came back; a list of transitions is one array of each field."""
    mapping = calling.as_mapping(result)
    if mapping is not None:
        for name, part in mapping.items():
            yield from _leaves(part, [], str(name))
        return
    if isinstance(result, list) and result and all(isinstance(x, list) for x in result):
        inner = [x for part in result for x in part]
        if inner and all(map(_is_record, inner)):  # a list of transitions for each episode
            result = inner
    if isinstance(result, list) and result and all(map(_is_record, result)):
        records = [calling.as_mapping(x) or dict(enumerate(x)) for x in result]
        for name in records[0]:
            joined = _joined([record[name] for record in records if name in record])
            if joined is not None:
                yield name if isinstance(name, str) else "", joined
        return
    if isinstance(result, tuple):
        given = names if len(names) == len(result) else [prefix] * len(result)
        for name, part in zip(given, result, strict=True):
            yield from _leaves(part, [], name)
        return
    try:
        yield prefix, calling.to_numpy(result)
    except Exception:
        joined = _joined(result) if isinstance(result, list) else None
        if joined is not None:  # episodes of unequal lengths
            yield prefix, joined


def _joined(parts: list[Any]) -> np.ndarray | None:
    """One array of them: a row each, or their rows one after the other."""
    arrays = [calling.to_numpy_or_none(part) for part in parts]
    if len({array.shape for array in arrays}) == 1:
        return np.stack(arrays)
    alike = len({array.shape[1:] for array in arrays}) == 1 and all(x.ndim for x in arrays)
    return np.concatenate(arrays) if alike else None


def _guess(array: np.ndarray, known: Mapping[str, Any]) -> str | None:
    """The field that an array without a name holds: every kind has numbers of its own."""
    x = np.asarray(array, np.float64)
    if x.size < 2 or not np.isfinite(x).all():
        return None
    if x.shape[-1] == FIELDS and x.ndim > 1:
        return "observations" if "observations" not in known else "next_observations"
    if array.dtype == bool or set(np.unique(x)) <= {0.0, 1.0}:
        if x.mean() > 0.5:
            return "masks"
        free = [name for name in ("terminated", "truncated") if name not in known]
        return free[0] if free else None
    if x.max() > 9_000:
        return "values" if "values" not in known else "next_values"
    if x.max() > 900:
        return "rewards"
    if (x <= 0).all():
        return "log_probs"
    return "actions" if np.abs(x).max() < 11 else None


def fields_of(result: Any, names: list[str], also: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Role → array, from names first and from the numbers in what has no name."""
    found: dict[str, np.ndarray] = {}
    unnamed = []
    for name, array in _leaves(result, names):
        role = also.get(name) or (calling.match_name(name, FIELD_NAMES) if name else None)
        if role is not None and role not in found:
            found[role] = array
        elif not name:
            unnamed.append(array)
    for array in unnamed:
        guessed = _guess(array, found)
        if guessed is not None and guessed not in found:
            found[guessed] = array
    guessed_flags = unnamed and "terminated" in found and "truncated" not in found
    if guessed_flags and not {"dones", "starts"} & set(found):
        found["dones"] = found.pop("terminated")  # a flag alone, and without a name
    return found


# ------------------------------------------------------------------------------- the rows


@dataclass
class Rows:
    """The rows of a batch, flat, in whatever order they came in."""

    keys: list[Key]
    draws: np.ndarray
    fields: dict[str, np.ndarray]  # role → [N, …]
    layout: str
    lead: tuple[int, ...]
    swapped: list[str]  # fields whose first two axes are those of the observations, exchanged
    kept: np.ndarray  # which rows are experience

    @property
    def experience(self) -> list[Key]:
        return [key for key, kept in zip(self.keys, self.kept, strict=True) if kept]


def rows_of(fields: dict[str, np.ndarray]) -> Rows:
    """Bring all fields to one row per observation."""
    fields = dict(fields)
    observations = fields.get("observations")
    if observations is None or observations.ndim < 2 or observations.shape[-1] != FIELDS:
        shape = "none" if observations is None else f"an array of shape {observations.shape}"
        raise CannotCall(
            f"The batch has no observations of {FIELDS} numbers each: found {shape} among "
            f"{', '.join(fields) or 'nothing'}. Name them observations, actions, rewards, "
            "terminated, truncated, next_observations, or map them: their_name=observations."
        )
    lead = observations.shape[:-1]
    while len(lead) > 2 and 1 in lead:  # an axis of one environment or one number
        at = lead.index(1)
        fields = {
            k: np.squeeze(v, at) if v.ndim > at and v.shape[at] == 1 else v
            for k, v in fields.items()
        }
        observations = fields["observations"]
        lead = observations.shape[:-1]
    # One observation more than there are rewards: the last is what comes after.
    reward = fields.get("rewards")
    if reward is not None and reward.ndim >= len(lead):
        for axis in range(len(lead)):
            longer = [n - (k == axis) for k, n in enumerate(lead)]
            if list(reward.shape[: len(lead)]) == longer:
                cut = np.take(observations, range(lead[axis] - 1), axis)
                fields["last_observation"] = np.take(observations, -1, axis)
                fields["observations"], observations, lead = cut, cut, tuple(longer)
                break
    count = int(np.prod(lead))
    flat = {"observations": observations.reshape(count, FIELDS)}
    swapped = []
    for role, array in fields.items():
        if role in (*AFTER_LAST, "observations"):
            continue
        if array.shape[: len(lead)] == lead:
            flat[role] = array.reshape(count, *array.shape[len(lead) :])
        elif len(lead) == 2 and array.shape[:2] == lead[::-1]:
            swapped.append(role)
            flat[role] = np.swapaxes(array, 0, 1).reshape(count, *array.shape[2:])
        elif array.shape[:1] == (count,):
            flat[role] = array
        elif array.ndim >= 2 and array.shape[0] * array.shape[1] == count:
            flat[role] = array.reshape(count, *array.shape[2:])
        elif role == "next_observations" and array.shape[-1:] == (FIELDS,):
            fields = {"last_observation": array} | fields
        elif role in ("next_values", "values") and array.size <= NUM_ENVS:
            fields = {"last_value": array} | fields
    wide = ("observations", "next_observations", "actions")
    for role, array in flat.items():
        if role not in wide and array.ndim > 1:
            flat[role] = array.reshape(count, -1)[:, 0]
    flat |= {role: fields[role] for role in AFTER_LAST if role in fields}
    table = np.asarray(flat["observations"], np.float64)
    whole = np.abs(table[:, :3] - np.round(table[:, :3])).max(axis=1) < 1e-3
    whole &= np.isfinite(table).all(axis=1)
    ints = np.where(whole[:, None], np.nan_to_num(np.round(table[:, :3])), 0).astype(int)
    keys: list[Key] = [(int(i), int(e), int(t)) for i, e, t in ints]
    rows = Rows(keys, table[:, 3], flat, "rows", lead, swapped, np.ones(count, bool))
    if len(lead) == 2:
        index = np.array([key[0] for key in keys]).reshape(lead)
        rows.layout = "mixed"
        # Padding may belong to no environment; a line of one environment has it twice nowhere.
        if (index == index[:, :1]).all() and len(set(index[:, 0].tolist())) == lead[0]:
            rows.layout = "[environment, time]"
        if (index == index[:1]).all() and len(set(index[0].tolist())) == lead[1]:
            rows.layout = "[time, environment]"
    return rows
