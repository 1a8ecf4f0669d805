"""Is what a function collects really what happened?

It is run in environments whose observation says which step of which episode of which environment
it belongs to, with rewards, actions, log-probabilities and values that say so too, and which keep
a diary of what was done to them. Every row of the batch is then compared with the diary. Nothing
here collects a batch, so that no error can be made twice.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from actorcritic.audit import calling
from actorcritic.audit.findings import CannotCall, Finding, Ledger, Report

NUM_ENVS = 5  # not 2, 3 or 4: so many actions must not be taken for a tuple
NUM_STEPS = 20  # environment 3 is truncated in the very last row, environment 1 terminated
GAMMA, SEED = 0.9, 7
MAX_STEPS = 20_000  # of one environment: a function that never stops is told so
CALLS = 6  # at most, of a function that collects one episode at a time
FIELDS = 4  # of an observation: environment and episode (from 1), time (from 0), a random draw
MODES = {mode.name.lower(): mode for mode in AutoresetMode}  # Gymnasium's default comes first

# ------------------------------------------------------------------------------- what is true

Key = tuple[int, int, int]  # environment, episode, time


def length(index: int, episode: int) -> int:
    """Steps of an episode: 1 to 5, in another order in each environment."""
    return 1 + (2 * (index - 1) + 3 * (episode - 1)) % 5


def terminates(index: int, episode: int) -> bool:
    """Whether an episode ends by termination, the others being truncated."""
    return (index + episode) % 2 == 0


def code(key: Key) -> float:
    """A number for each step that float32 holds exactly: 2003.5 is environment 2, 3, time 4."""
    index, episode, time = key
    return 1000 * index + episode + time / 8


def value(key: Key) -> float:
    return 10_000 + code(key)


def drawn(key: Key, continuous: bool) -> np.ndarray:
    """What the policy draws there; where continuous, often beyond the bounds, which are ±1."""
    index, episode, time = key
    if not continuous:
        return np.array((7 * index + 3 * episode + 5 * time) % 11)
    turn = index + 2 * episode + 3 * time
    return np.array([1.5 * np.sin(turn), 2.0 * np.cos(1.7 * turn)], np.float32)


def density(action: np.ndarray) -> float:
    """The log-density of a standard normal distribution, as the policy's."""
    return float(-0.5 * np.sum(np.square(action, dtype=np.float64)) - np.log(2 * np.pi))


def log_prob(key: Key, continuous: bool) -> float:
    return density(drawn(key, True)) if continuous else -code(key) / 1000


class SteppedAfterEnd(Exception):
    """An environment was stepped on, after its episode had ended."""


class Reset(NamedTuple):
    call: int
    episode: int
    seed: int | None
    draw: float


class Stepped(NamedTuple):
    call: int
    key: Key
    action: np.ndarray


@dataclass
class Diary:
    """What was done to one environment."""

    index: int
    events: list[Reset | Stepped] = field(default_factory=list)

    @property
    def steps(self) -> list[Stepped]:
        return [event for event in self.events if isinstance(event, Stepped)]

    @property
    def resets(self) -> list[Reset]:
        return [event for event in self.events if isinstance(event, Reset)]


class World:
    """The environments of one run, and their diaries."""

    def __init__(self, continuous: bool, reusing: bool) -> None:
        self.continuous, self.reusing = continuous, reusing
        self.diaries: list[Diary] = []
        self.call = 0
        self.sought_final = False  # it looked for the last observation in the infos
        self.policy_called = False

    def make(self, *_: Any, **__: Any) -> Marked:
        self.diaries.append(Diary(len(self.diaries) + 1))
        return Marked(self, self.diaries[-1])

    def make_first(self) -> Marked:
        """One alone: the environment whose first episode is the longest."""
        self.diaries.append(Diary(3))
        return Marked(self, self.diaries[-1])


class Marked(gymnasium.Env):
    """Whatever is done, the observation says where it belongs."""

    observation_space: gymnasium.Space = spaces.Box(-np.inf, np.inf, (FIELDS,), np.float32)
    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(self, world: World, diary: Diary) -> None:
        self.action_space = (
            spaces.Box(-1.0, 1.0, (2,), np.float32) if world.continuous else spaces.Discrete(11)
        )
        self._world, self._diary = world, diary
        self._episode, self._time, self._draw, self._ended = 0, 0, 0.0, True
        self._buffers = itertools.cycle([np.zeros(FIELDS, np.float32) for _ in range(2)])

    def _observe(self) -> np.ndarray:
        now = np.array([self._diary.index, self._episode, self._time, self._draw], np.float32)
        if not self._world.reusing:
            return now
        buffer = next(self._buffers)
        buffer[:] = now
        return buffer

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self._episode, self._time, self._ended = self._episode + 1, 0, False
        self._draw = float(np.float32(self.np_random.random()))
        self._diary.events.append(Reset(self._world.call, self._episode, seed, self._draw))
        return self._observe(), {}

    def step(self, action: Any) -> Any:
        if self._ended:
            raise SteppedAfterEnd
        action = np.array(action)
        if action.shape != self.action_space.shape:
            raise TypeError(f"an action of shape {action.shape}, not {self.action_space.shape}")
        if not self._world.continuous and action.dtype.kind not in "iu":
            raise TypeError(f"an action of type {action.dtype}, not a whole number")
        key = (self._diary.index, self._episode, self._time)
        self._diary.events.append(Stepped(self._world.call, key, action))
        if len(self._diary.events) > MAX_STEPS:
            raise RuntimeError(f"an environment was stepped {MAX_STEPS} times")
        self._time += 1
        index, episode, _ = key
        self._ended = self._time == length(index, episode)
        ends = terminates(index, episode)
        return self._observe(), code(key), self._ended and ends, self._ended and not ends, {}


class _Infos(dict):
    """Notes when someone looks for the last observation of an episode."""

    world: World

    def _note(self, name: Any) -> None:
        self.world.sought_final |= str(name).removeprefix("_").startswith("final")

    def __contains__(self, name: Any) -> bool:
        self._note(name)
        return super().__contains__(name)

    def __getitem__(self, name: Any) -> Any:
        self._note(name)
        return super().__getitem__(name)

    def get(self, name: Any, default: Any = None) -> Any:
        self._note(name)
        return super().get(name, default)


class Side(SyncVectorEnv):
    """Environments side by side; reusing, each of two arrays of observations in turn."""

    def __init__(self, world: World, mode: AutoresetMode) -> None:
        self._world = world
        # Single environments must not reuse theirs: Gymnasium itself keeps final observations.
        self._reusing, world.reusing = world.reusing, False
        super().__init__([world.make] * NUM_ENVS, autoreset_mode=mode)
        room = [np.zeros((NUM_ENVS, FIELDS), np.float32) for _ in range(2)]
        self._buffers = itertools.cycle(room)

    def _hand_out(self, observation: Any) -> Any:
        if not self._reusing:
            return observation
        buffer = next(self._buffers)
        buffer[:] = observation
        return buffer

    def reset(self, **arguments: Any) -> Any:
        observation, infos = super().reset(**arguments)
        return self._hand_out(observation), infos

    def step(self, actions: Any) -> Any:
        if self.autoreset_mode is AutoresetMode.DISABLED and self._autoreset_envs.any():
            raise SteppedAfterEnd
        observation, *rest, infos = super().step(actions)
        watched = _Infos(infos)
        watched.world = self._world
        return self._hand_out(observation), *rest, watched


class Policy:
    """Draws what `drawn` says for each observation, in the framework that it is asked in."""

    def __init__(self, world: World, returns: str) -> None:
        self._world, self._returns = world, returns

    def _keys(self, arguments: tuple[Any, ...]) -> tuple[Any, list[Key], tuple[int, ...]]:
        self._world.policy_called = True
        for given in arguments:
            shape = getattr(given, "shape", np.shape(given) if isinstance(given, list) else ())
            if shape and shape[-1] == FIELDS:
                rows = np.reshape(np.nan_to_num(calling.to_numpy(given)), (-1, FIELDS))
                whole = np.round(rows[:, :3]).astype(int).tolist()
                keys: list[Key] = [(i, e, t) for i, e, t in whole]
                return given, keys, tuple(shape[:-1])
        raise TypeError("the policy was not given an observation")

    def _like(self, given: Any, rows: list[Any], lead: tuple[int, ...], dtype: Any) -> Any:
        array = np.array(rows, dtype)
        array = array.reshape((*lead, *array.shape[1:]))
        kind = type(given).__module__.partition(".")[0]
        if kind in ("torch", "jax", "jaxlib"):
            name = "torch" if kind == "torch" else "jax"
            return calling.Framework(name, "float32").array(array)
        return array if array.ndim else array[()]

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        given, keys, lead = self._keys((*arguments, *named.values()))
        continuous = self._world.continuous
        kind = np.float32 if continuous else np.int64
        action = self._like(given, [drawn(key, continuous) for key in keys], lead, kind)
        logs = self._like(given, [log_prob(key, continuous) for key in keys], lead, np.float32)
        values = self._like(given, [value(key) for key in keys], lead, np.float32)
        parts = {"action": action, "log_prob": logs, "value": values, "entropy": 0 * logs}
        names = self._returns.split(", ")
        return parts[names[0]] if len(names) == 1 else tuple(parts[name] for name in names)

    def value(self, *arguments: Any, **named: Any) -> Any:
        given, keys, lead = self._keys((*arguments, *named.values()))
        return self._like(given, [value(key) for key in keys], lead, np.float32)

    act = get_action = select_action = sample = predict = forward = get_action_and_value = __call__
    get_value = predict_values = critic = value

    def nothing(self, *_: Any, **__: Any) -> Policy:
        return self

    eval = train = to = nothing


RETURNS = (
    "action, log_prob, value",
    "action, log_prob",
    "action",
    "action, log_prob, entropy, value",
)

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

PER_ROW = (
    "observations", "actions", "rewards", "terminated", "truncated", "dones", "starts",
    "not_dones", "valid", "next_observations", "log_probs", "values", "next_values",
)  # fmt: skip


# ------------------------------------------------------------------------------- what came back


def _returned_names(function: Callable[..., Any]) -> list[str]:
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


def _as_mapping(x: Any) -> Mapping[str, Any] | None:
    if isinstance(x, Mapping):
        return x
    if hasattr(x, "_asdict"):
        return dict(x._asdict())
    if hasattr(x, "__dataclass_fields__") and not isinstance(x, type):
        return {name: getattr(x, name) for name in x.__dataclass_fields__}
    return vars(x) if isinstance(x, SimpleNamespace) else None


def _is_record(x: Any) -> bool:
    """One transition (or one episode) of several fields."""
    fields = _as_mapping(x)
    return len(fields) >= 3 if fields is not None else isinstance(x, tuple) and len(x) >= 3


def _leaves(result: Any, names: list[str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(name, array) of all that came back; a list of transitions is one array of each field."""
    mapping = _as_mapping(result)
    if mapping is not None:
        for name, part in mapping.items():
            yield from _leaves(part, [], str(name))
        return
    if isinstance(result, list) and result and all(isinstance(x, list) for x in result):
        inner = [x for part in result for x in part]
        if inner and all(map(_is_record, inner)):  # a list of transitions for each episode
            result = inner
    if isinstance(result, list) and result and all(map(_is_record, result)):
        maps = [_as_mapping(x) for x in result]
        named = [{"": x} if m is None else m for x, m in zip(result, maps, strict=True)]
        if maps[0] is None:
            width = len(result[0])
            columns = [("", [x[k] for x in result if len(x) == width]) for k in range(width)]
        else:
            columns = [(str(n), [m[n] for m in named if n in m]) for n in maps[0]]
        for name, column in columns:
            parts = [calling.to_numpy_or_none(x) for x in column]
            if len({part.shape for part in parts}) == 1:
                yield name, np.stack(parts)
            elif all(part.ndim for part in parts) and len({p.shape[1:] for p in parts}) == 1:
                yield name, np.concatenate(parts)
        return
    if isinstance(result, tuple):
        given = names if len(names) == len(result) else [prefix] * len(result)
        for name, part in zip(given, result, strict=True):
            yield from _leaves(part, [], name)
        return
    try:
        yield prefix, calling.to_numpy(result)
    except Exception:
        parts = [calling.to_numpy_or_none(part) for part in result or []] if _many(result) else []
        if parts and len({p.shape[1:] for p in parts}) == 1 and all(p.ndim for p in parts):
            yield prefix, np.concatenate(parts)  # episodes of unequal lengths


def _many(x: Any) -> bool:
    return isinstance(x, (list, tuple))


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


def _fields(result: Any, names: list[str], also: Mapping[str, str]) -> dict[str, np.ndarray]:
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
    call: int = 0


def _rows(fields: dict[str, np.ndarray], call: int) -> Rows:
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
        if role not in (*PER_ROW, "masks") or role == "observations":
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
    last = ("last_observation", "last_value", "last_done")
    flat |= {role: fields[role] for role in last if role in fields}
    table = np.asarray(flat["observations"], np.float64)
    whole = np.abs(table[:, :3] - np.round(table[:, :3])).max(axis=1) < 1e-3
    whole &= np.isfinite(table).all(axis=1)
    ints = np.where(whole[:, None], np.nan_to_num(np.round(table[:, :3])), 0).astype(int)
    keys: list[Key] = [(int(i), int(e), int(t)) for i, e, t in ints]
    rows = Rows(keys, table[:, 3], flat, "rows", lead, swapped, call)
    if len(lead) == 2:
        index = np.array([key[0] for key in keys]).reshape(lead)
        rows.layout = "mixed"
        # Padding may belong to no environment; a line of one environment has it twice nowhere.
        if (index == index[:, :1]).all() and len(set(index[:, 0].tolist())) == lead[0]:
            rows.layout = "[environment, time]"
        if (index == index[:1]).all() and len(set(index[0].tolist())) == lead[1]:
            rows.layout = "[time, environment]"
    return rows


# ------------------------------------------------------------------------------- the verdict


def _where(key: Key) -> str:
    return f"environment {key[0]}, episode {key[1]}, time {key[2]}"


def _show(x: Any) -> str:
    array = np.asarray(x, np.float64)
    if array.ndim == 0:
        return f"{float(array):.8g}"
    return "(" + ", ".join(f"{v:.4g}" for v in array.ravel()) + ")"


def _order(key: Key) -> tuple[int, int, int]:
    return key[1], key[2], key[0]


class Judge:
    """One run of the function, held against the diaries of its environments."""

    def __init__(self, world: World, batches: list[Rows], called_fields: set[str]) -> None:
        self.world, self.batches, self.has = world, batches, called_fields
        self.verdict = Ledger()
        self.steps = {d.index: [s.key for s in d.steps] for d in world.diaries}
        self.place = {key: k for keys in self.steps.values() for k, key in enumerate(keys)}
        self.executed = {s.key: s.action for d in world.diaries for s in d.steps}
        self.draw = {(d.index, r.episode): r.draw for d in world.diaries for r in d.resets}
        self.call_of = {s.key: s.call for d in world.diaries for s in d.steps}

    # What is true of a step.

    def observation(self, key: Key) -> np.ndarray:
        return np.array([*key, self.draw.get((key[0], key[1]), np.nan)])

    def is_end(self, key: Key) -> bool:
        return key[2] + 1 == length(key[0], key[1])

    def terminated(self, key: Key) -> bool:
        return self.is_end(key) and terminates(key[0], key[1])

    def truncated(self, key: Key) -> bool:
        return self.is_end(key) and not terminates(key[0], key[1])

    def successor(self, key: Key) -> Key:
        return (key[0], key[1], key[2] + 1)

    def beside(self, key: Key, offset: int) -> Key | None:
        """The step of the same environment that came so many steps later."""
        keys, at = self.steps[key[0]], self.place[key] + offset
        return keys[at] if 0 <= at < len(keys) else None

    def judge(self) -> Ledger:
        self._seeds()
        self._resets()
        if not self._observations():
            return self.verdict
        self.keys = [key for rows in self.batches for key in rows.keys]
        self._drop()
        if not self.keys:
            raise CannotCall("The batch has no row with an observation of the environment.")
        self._axes_of_fields()
        self._lost()
        if not self._same_rows():
            return self.verdict
        self._rewards()
        self._actions()
        self._flags()
        self._next_observations()
        self._log_probs()
        self._values()
        self._after_last()
        return self.verdict

    # The environments themselves.

    def _seeds(self) -> None:
        name = "environments-seeded-apart"
        effect = (
            "The environments give the same episodes: fewer different transitions than rows, "
            "gradients averaged over copies, and in the extreme a policy fitted to one start."
        )
        for call in range(self.world.call + 1):
            first: dict[int, int] = {}
            for diary in self.world.diaries:
                seeds = [r for r in diary.resets if r.call == call and r.seed is not None]
                told: dict[int, Reset] = {}
                for reset in seeds:
                    assert reset.seed is not None
                    if reset.seed in told:
                        before = told[reset.seed]
                        self.verdict.say(
                            name,
                            f"An environment is reset with the same seed at every episode "
                            f"(seed={reset.seed}).",
                            effect,
                            f"environment {diary.index}: episodes {before.episode} and "
                            f"{reset.episode} are both reset with seed={reset.seed}\n"
                            f"random number of their starts: expected two different ones, actual "
                            f"{before.draw:.4f} and {reset.draw:.4f}",
                            "Give the seed to the first reset only; later ones call reset().",
                        )
                        return
                    told[reset.seed] = reset
                if not seeds:
                    continue
                seed = seeds[0].seed
                assert seed is not None
                if seed in first:
                    self.verdict.say(
                        name,
                        f"Several environments are given the same seed ({seed}).",
                        effect,
                        f"environments {first[seed]} and {diary.index}: the first reset of both "
                        f"has seed={seed}\nrandom number of their starts: expected two different "
                        f"ones, actual {seeds[0].draw:.4f} in both",
                        "Seed environment k with seed + k; a VectorEnv does so with one number, "
                        "envs.reset(seed=seed).",
                    )
                    return
                first[seed] = diary.index
        self.verdict.hold(name)

    def _resets(self) -> None:
        name = "only-ended-episodes-reset"
        for diary in self.world.diaries:
            last: Key | None = None
            for event in diary.events:
                if isinstance(event, Stepped):
                    last = event.key
                elif last is not None and not self.is_end(last):
                    cut = last
                    last = None
                    same_call = self.call_of[cut] == event.call
                    if same_call and not self._flagged_as_cut(cut):
                        self.verdict.say(
                            name,
                            "An environment whose episode goes on is reset, and no flag says so.",
                            "Its rows run from the middle of one episode into another: returns "
                            "and advantages are summed over two episodes.",
                            f"{_where(cut)}: the episode has {length(cut[0], cut[1])} steps; "
                            f"expected step {cut[2] + 1}, actual: a reset",
                            "Reset only the environments that are done: "
                            'envs.reset(options={"reset_mask": terminated | truncated}).',
                        )
                        return
        self.verdict.hold(name)

    def _flagged_as_cut(self, key: Key) -> bool:
        for rows in self.batches:
            for role in ("truncated", "dones"):
                if role in rows.fields and key in rows.keys:
                    return bool(rows.fields[role][rows.keys.index(key)])
        return key not in {k for rows in self.batches for k in rows.keys}

    # Which row is which.

    def _observations(self) -> bool:
        name, verdict = "observations-copied", self.verdict
        keys = [key for rows in self.batches for key in rows.keys if key != (0, 0, 0)]
        made = sum(map(len, self.steps.values()))
        known = [k for k in keys if (k[0], k[1]) in self.draw and 0 <= k[2] <= length(k[0], k[1])]
        total = sum(len(rows.keys) for rows in self.batches)
        if len(known) < total / 2 and not any(
            role in rows.fields for rows in self.batches for role in ("valid", "masks")
        ):
            row = self.batches[0].fields["observations"][0]
            raise CannotCall(
                "The observations in the batch are not those of the environment: the first row is "
                f"{_show(row)}, the first observation was "
                f"{_show(self.observation(self.world.diaries[0].steps[0].key))}. Leave "
                "normalisation and the like out of what is audited."
            )
        groups = [(rows, index) for rows in self.batches for index in sorted(self.steps)]
        for rows, index in groups:
            mine = [key for key in rows.keys if key[0] == index]
            seen = sorted(set(mine), key=lambda k: k[1:])
            if len(mine) >= 5 and made >= 5 and len(seen) <= max(2, len(mine) // 5):
                steps = [k for k in self.steps[index] if self.call_of[k] == rows.call]
                expected = " ".join(_show(self.observation(k)[:3]) for k in steps[:4])
                actual = " ".join(_show(np.array(k)) for k in mine[:4])
                example = (
                    f"environment {index}, the first four rows as (environment, episode, time):\n"
                    f"expected {expected}\nactual   {actual}"
                )
                if seen[-1] == steps[0]:
                    verdict.say(
                        "observation-in-its-row",
                        "Every row holds the first observation: it is never replaced.",
                        "The policy acts on, and learns from, an observation that is long past.",
                        example,
                        "Set obs = next_obs at the end of each step.",
                    )
                else:
                    verdict.say(
                        name,
                        "Rows share one array: all of them show the last observation written.",
                        "Actions, rewards and returns are attributed to the last observation: "
                        "nothing can be learned, and nothing is raised.",
                        example,
                        "Store a copy: observations.append(np.array(obs)), or write into an array "
                        "of your own, observations[t] = obs.",
                    )
                return False
        verdict.hold(name)
        mixed = [rows for rows in self.batches if rows.layout == "mixed"]
        if mixed:
            order = [k[0] for k in mixed[0].keys]
            table = np.array(order).reshape(mixed[0].lead)
            verdict.say(
                "axes-agree",
                "Neither axis of the observations is that of one environment: the array was "
                "reshaped where its axes had to be exchanged.",
                "Neighbouring rows belong to different environments: every return, advantage and "
                "bootstrap mixes them.",
                f"observations of shape {mixed[0].lead}, the environment of each row\n"
                f"actual, first line: {' '.join(map(str, table[0, :8]))}\n"
                "expected: the same environment along one of the axes",
                "Exchange axes with swapaxes(0, 1), not with reshape.",
            )
        return not mixed

    def _drop(self) -> None:
        """Leave out padding and rows declared not to be experience; find kept reset rows."""
        name = "reset-rows-dropped"
        keep: list[bool] = []
        ignored = 0
        resets: list[tuple[Key, int]] = []
        for rows in self.batches:
            beyond = np.array([key not in self.place for key in rows.keys])
            masks = rows.fields.pop("masks", None)
            if masks is not None:
                is_valid = bool(beyond[masks == 0].all()) and not (beyond & (masks != 0)).any()
                rows.fields.setdefault("valid" if is_valid else "not_dones", masks)
            valid = rows.fields.pop("valid", None)
            declared = np.ones(len(beyond), bool) if valid is None else np.asarray(valid) != 0
            for k, key in enumerate(rows.keys):
                padding = key == (0, 0, 0) and rows.draws[k] == 0
                ok = bool(declared[k]) and not padding
                if not ok:
                    ignored += 1
                    if declared[k] is np.False_ and not beyond[k] and not padding:
                        self.verdict.choices.append("leaves out rows that are experience")
                elif beyond[k]:
                    ok = False
                    resets.append((key, k))
                keep.append(ok)
        if ignored and "rows that are no experience are marked" not in self.verdict.choices:
            self.verdict.choices.append("rows that are no experience are marked or zero")
        finals = [(key, k) for key, k in resets if key[2] == length(key[0], key[1])]
        if finals:
            key, at = min(finals, key=lambda x: _order(x[0]))
            rewards = self.batches[0].fields.get("rewards")
            got = f", reward {_show(rewards[at])}" if rewards is not None else ""
            self.verdict.say(
                name,
                "Rows in which the environment only resets are kept as transitions.",
                "After every episode the policy learns from a transition that never was: from the "
                "end of one episode to the start of the next, with an action that was ignored.",
                f"environment {key[0]}: episode {key[1]} ended with its step at time "
                f"{key[2] - 1}\nexpected next row: episode {key[1] + 1}, time 0\n"
                f"actual next row: episode {key[1]}, time {key[2]}, its last observation{got}",
                "In NEXT_STEP mode, leave out the rows that follow a done (mark them as not "
                "valid), or make the environments with AutoresetMode.SAME_STEP and declare "
                'autoreset="same_step".',
            )
        else:
            self.verdict.hold(name)
        other = [key for key, _ in resets if key[2] != length(key[0], key[1])]
        if other:
            self.verdict.say(
                "observation-in-its-row",
                "Some rows hold an observation that the environment never gave.",
                "The policy learns from rows that never were.",
                f"{len(other)} rows, the first of which reads "
                f"{_where(other[0])}; expected only steps that were made",
                "Return only the rows that were written.",
            )
        self.keys = [key for key, ok in zip(self.keys, keep, strict=True) if ok]
        start = 0
        for rows in self.batches:
            mine = np.array(keep[start : start + len(rows.keys)])
            start += len(rows.keys)
            rows.fields["_kept"] = mine

    def column(self, role: str) -> np.ndarray | None:
        """A field, of the rows that are experience."""
        if not all(role in rows.fields for rows in self.batches):
            return None
        parts = [rows.fields[role][rows.fields["_kept"]] for rows in self.batches]
        return np.concatenate([np.asarray(part) for part in parts])

    # What belongs to a row.

    def expected(self, role: str, keys: list[Key]) -> np.ndarray | None:
        """What a field should hold; None where that is a matter of convention."""
        continuous = self.world.continuous
        tell: dict[str, Callable[[Key], Any]] = {
            "rewards": code,
            "actions": lambda k: self.executed[k],
            "log_probs": lambda k: log_prob(k, continuous),
            "values": value,
            "next_observations": lambda k: self.observation(self.successor(k)),
            "terminated": self.terminated,
            "truncated": self.truncated,
            "dones": self.is_end,
        }
        return np.array([tell[role](k) for k in keys], np.float64) if role in tell else None

    def _axes_of_fields(self) -> None:
        """A field laid out along other axes than the observations."""
        name = "axes-agree"
        for rows in self.batches:
            wrong = rows.swapped[0] if rows.swapped else None
            kept = rows.fields["_kept"]
            number = len({key[0] for key in rows.keys})
            count = len(rows.keys)
            shapes = [rows.lead, rows.lead[::-1]] if len(rows.lead) == 2 else []
            if not shapes and number > 1 and count % number == 0:
                shapes = [(number, count // number), (count // number, number)]
            experienced = [key for key, ok in zip(rows.keys, kept, strict=True) if ok]
            for role in ("rewards", "actions", "dones", "terminated", "log_probs", "values"):
                got = rows.fields.get(role)
                true = self.expected(role, experienced)
                if wrong or got is None or true is None or not experienced:
                    continue
                if got[kept].size != true.size:
                    continue
                if self._same(got[kept].reshape(true.shape), true).mean() > 0.9:
                    continue
                for shape in shapes:
                    turned = got.reshape(*shape, *got.shape[1:]).swapaxes(0, 1)
                    turned = turned.reshape(got.shape)[kept].reshape(true.shape)
                    if self._same(turned, true).mean() > 0.9:
                        wrong = role
                        rows.fields[role] = got.reshape(*shape, *got.shape[1:]).swapaxes(0, 1)
                        rows.fields[role] = rows.fields[role].reshape(got.shape)
                        break
            if wrong:
                shown = rows.lead if len(rows.lead) == 2 else (len(rows.keys),)
                second = experienced[1]
                self.verdict.say(
                    name,
                    f"Time and environment are exchanged between the observations and {wrong}.",
                    "Each row has another row's numbers: credit goes to steps of other "
                    "environments, and training fails without an error.",
                    f"observations {shown}: the second row is {_where(second)}\n"
                    f"expected {wrong} of that step in the second row, "
                    f"actual: {wrong} in the order of the other axis",
                    "Bring every array to [time, environment] before it is flattened.",
                )
        self.verdict.hold(name)

    @staticmethod
    def _same(got: np.ndarray, true: np.ndarray) -> np.ndarray:
        """Row by row: equal to float32's precision."""
        got, true = np.asarray(got, np.float64), np.asarray(true, np.float64)
        equal = np.isclose(got, true, rtol=2e-6, atol=2e-6)
        return np.asarray(equal.reshape(len(equal), -1).all(axis=1))

    def _lost(self) -> None:
        name = "no-step-lost"
        have = set(self.keys)
        lost: list[Key] = []
        for index, steps in self.steps.items():
            present = [k for k, key in enumerate(steps) if key in have]
            if not present:
                continue
            lost += [key for key in steps[present[0] : present[-1]] if key not in have]
            # One extra step at the very end may be no more than a look ahead.
            tail = steps[present[-1] + 1 :]
            if tail and self.is_end(tail[0]) and tail[0][1] == steps[present[-1]][1]:
                others = [s[-1] in have for i, s in self.steps.items() if i != index and s]
                if all(others):
                    lost.append(tail[0])
        if not lost:
            self.verdict.hold(name)
            return
        key = min(lost, key=_order)
        ends = [k for k in lost if self.is_end(k)]
        last = len(ends) > len(lost) / 2
        if len(ends) == len(lost):  # one cause, where it keeps the rows after the ends instead
            self.verdict.found.pop("reset-rows-dropped", None)
        self.verdict.say(
            name,
            f"{len(lost)} steps that were made are in no row"
            + (", the last ones of their episodes." if last else "."),
            "The reward of these steps, often the only one that counts, is never learned from, "
            "and no row says that the episode ended."
            if last
            else "Returns are summed over rows that are not neighbours.",
            f"environment {key[0]}, episode {key[1]} of {length(key[0], key[1])} steps\n"
            f"expected rows at times 0 to {length(key[0], key[1]) - 1}, "
            f"actual: none at time {key[2]} (reward {_show(code(key))})",
            "Store the row before anything is done about the end of the episode.",
        )

    def _offset(self, role: str) -> int:
        """How many steps later than its row a field's numbers belong: 0, 1 or −1."""
        got = self.column(role)
        if got is None:
            return 0
        share = {}
        for offset in (0, 1, -1):
            pairs = [(k, self.beside(key, offset)) for k, key in enumerate(self.keys)]
            at = [k for k, key in pairs if key is not None]
            true = self.expected(role, [key for _, key in pairs if key is not None])
            if true is None or not at or got[at].size != true.size:
                return 0
            share[offset] = self._same(got[at].reshape(true.shape), true).mean()
        if share[0] > 0.99:
            return 0
        best = max(share, key=lambda d: share[d])
        return best if share[best] > 0.6 and share[best] > share[0] + 0.3 else 0

    def _same_rows(self) -> bool:
        """Where action and reward both belong to the step before, the observation is too late."""
        name = "observation-in-its-row"
        offsets = self._offset("rewards"), self._offset("actions")
        if not (offsets[0] == offsets[1] != 0):
            self.verdict.hold(name)
            return True
        key = min((k for k in self.keys if self.beside(k, offsets[0])), key=_order)
        true = self.beside(key, offsets[0])
        assert true is not None
        when = "before" if offsets[0] < 0 else "after"
        # The rest follows from this.
        for consequence in ("reset-rows-dropped", "no-step-lost", name):
            self.verdict.found.pop(consequence, None)
        self.verdict.say(
            name,
            f"The observation of a row is not the one acted on: action and reward are those of "
            f"the step {when}.",
            "The policy is trained to give each observation the action of another one.",
            f"the row with the reward {_show(code(true))}\nexpected observation "
            f"{_show(self.observation(true)[:3])}, actual {_show(np.array(key))} "
            "(environment, episode, time)",
            "Store the observation that the policy was given, before it is replaced.",
        )
        return False

    def _shift_words(self, offset: int) -> str:
        return {1: " (they are one row early)", -1: " (they are one row late)"}.get(offset, "")

    def _rewards(self) -> None:
        name, got = "reward-in-its-row", self.column("rewards")
        true = self.expected("rewards", self.keys)
        if got is None or true is None:
            self.verdict.not_checked.append(f"{name}: the batch has no rewards")
            return
        right = self._same(got, true)
        if not right.all() and self._bootstrapped_rewards(got, true, right):
            return
        if right.all():
            self.verdict.hold(name)
            return
        key = min((k for k, ok in zip(self.keys, right, strict=True) if not ok), key=_order)
        actual = got[self.keys.index(key)]
        offset = self._offset("rewards")
        self.verdict.say(
            name,
            f"Rewards are not in the rows of the steps that earned them"
            f"{self._shift_words(offset)}.",
            "Each action is credited with the reward of another one.",
            f"{_where(key)}\nexpected reward {_show(code(key))}, actual {_show(actual)}",
            "Write the reward of envs.step(action) in the row of that action.",
        )

    def _bootstrapped_rewards(self, got: Any, true: Any, right: np.ndarray) -> bool:
        """Recognise γ V(last observation), added to the reward where an episode is truncated."""
        wrong = [k for k, ok in enumerate(right) if not ok]
        if not all(self.truncated(self.keys[k]) for k in wrong):
            return False
        for after, words in ((True, "last"), (False, "next")):
            share = [
                (got[k] - true[k])
                / value(
                    self.successor(self.keys[k])
                    if after
                    else (self.keys[k][0], self.keys[k][1] + 1, 0)
                )
                for k in wrong
            ]
            if not 0 < np.mean(share) <= 1.001 or np.ptp(share) > 1e-5:
                continue
            if words == "last":
                self.verdict.choices.append(
                    f"time limits are bootstrapped in the reward: r + {np.mean(share):.3g} "
                    "V(last observation)"
                )
                self.verdict.hold("reward-in-its-row")
            else:
                self._fail_final(
                    min((self.keys[k] for k in wrong), key=_order), "the value added to the reward"
                )
            return True
        return False

    def _actions(self) -> None:
        name, got = "action-in-its-row", self.column("actions")
        if got is None:
            self.verdict.not_checked.append(f"{name}: the batch has no actions")
            return
        executed = self.expected("actions", self.keys)
        assert executed is not None
        continuous = self.world.continuous
        policy = np.array([drawn(k, continuous) for k in self.keys], np.float64)
        if got.size != executed.size:
            self.verdict.not_checked.append(f"{name}: actions have the shape {got.shape}")
            return
        got = got.reshape(executed.shape)
        as_executed, as_drawn = self._same(got, executed), self._same(got, policy)
        if not as_executed.all() and not as_drawn.all():
            good = as_drawn if as_drawn.mean() > as_executed.mean() else as_executed
            k = min((k for k, ok in enumerate(good) if not ok), key=lambda k: _order(self.keys[k]))
            offset = self._offset("actions")
            self.verdict.say(
                name,
                f"The action of a row is not the one taken there{self._shift_words(offset)}.",
                "The policy is trained on pairs of observation and action that never were: the "
                "gradient is that of another policy's choices.",
                f"{_where(self.keys[k])}\nexpected action {_show(executed[k])}, "
                f"actual {_show(got[k])}",
                "Store the action before the next one is drawn.",
            )
            return
        self.verdict.hold(name)
        self._acted(executed, policy)
        self._clipped(got, executed, policy, as_executed, as_drawn)

    def _acted(self, executed: np.ndarray, policy: np.ndarray) -> None:
        """Does the policy see the observation that it acts on?"""
        name = "acts-on-current-observation"
        if not self.world.policy_called:
            self.verdict.not_checked.append(f"{name}: the function takes no policy")
            return
        clipped = np.clip(policy, -1, 1) if self.world.continuous else policy
        right = self._same(executed, policy) | self._same(executed, clipped)
        if self.world.continuous:
            right |= self._same(executed, np.tanh(policy))
        if right.all():
            self.verdict.hold(name)
        elif right.mean() > 0.05:  # otherwise it transforms actions, or explores, in its own way
            k = min((k for k, ok in enumerate(right) if not ok), key=lambda k: _order(self.keys[k]))
            self.verdict.say(
                name,
                "The action executed is not the policy's for the observation of that moment.",
                "The policy acts on an observation that is past; its data are of another policy.",
                f"{_where(self.keys[k])}\nexpected action {_show(policy[k])}, executed "
                f"{_show(executed[k])}",
                "After a reset, give the policy the observation of the reset.",
            )

    def _clipped(
        self,
        got: np.ndarray,
        executed: np.ndarray,
        policy: np.ndarray,
        as_executed: np.ndarray,
        as_drawn: np.ndarray,
    ) -> None:
        name = "action-as-drawn"
        logs = self.column("log_probs")
        if not self.world.continuous:
            if logs is not None:
                self.verdict.not_checked.append(
                    f"{name}: the function was only called with discrete actions"
                )
            return
        if as_drawn.all():
            self.verdict.hold(name)
            if as_executed.all():
                self.verdict.choices.append(
                    "actions are neither clipped nor squashed: the environment has to"
                )
            return
        if logs is None:
            self.verdict.choices.append(
                "actions are stored as they are executed (clipped), without log-probabilities"
            )
            return
        k = min((k for k, ok in enumerate(as_drawn) if not ok), key=lambda k: _order(self.keys[k]))
        unclipped = density(policy[k])
        if abs(float(np.ravel(logs[k])[0]) - unclipped) > 1e-4:
            self.verdict.choices.append(
                "actions and log-probabilities are those that are executed (clipped)"
            )
            return
        self.verdict.say(
            name,
            "The clipped action is stored beside the log-probability of the unclipped one.",
            "The ratio of new and old probabilities is not 1 for an unchanged policy: updates are "
            "biased wherever actions reach the bounds, and pushed further beyond them.",
            f"{_where(self.keys[k])}: drawn {_show(policy[k])}, log-probability {unclipped:.4f}\n"
            f"stored action {_show(got[k])} has log-probability {density(got[k]):.4f}\n"
            f"expected {density(got[k]):.4f} beside it, actual {float(np.ravel(logs[k])[0]):.4f}",
            "Store the action as drawn, and clip a copy for the environment: "
            "envs.step(np.clip(action, low, high)).",
        )

    # Ends.

    def _flags(self) -> None:
        verdict = self.verdict
        term, trunc, done = (
            np.array([f(k) for k in self.keys])
            for f in (self.terminated, self.truncated, self.is_end)
        )
        start = np.array([k[2] == 0 for k in self.keys])
        seen: set[tuple[int, int]] = set()
        counted = np.zeros(len(self.keys), bool)  # not the first row of an environment in a call
        for k in sorted(range(len(self.keys)), key=lambda k: self.keys[k]):
            key = self.keys[k]
            place = (key[0], self.call_of[key])
            counted[k] = place in seen
            seen.add(place)
        columns = {
            role: np.asarray(got) != 0
            for role in ("terminated", "truncated", "dones", "starts", "not_dones")
            if (got := self.column(role)) is not None
        }
        if "not_dones" in columns:
            if "dones" not in columns:
                columns["dones"] = ~columns["not_dones"]
                verdict.choices.append("the mask is 1 where the episode goes on, 1 − done")
            del columns["not_dones"]
        if not columns:
            verdict.not_checked.append("done-in-its-row: the batch has no flags of ends")
            return
        if "reset-rows-dropped" in verdict.found and not any(x.any() for x in columns.values()):
            return  # one cause: the flags are those of the rows kept
        starts = columns.pop("starts", None)
        dones = columns.get("dones")

        def are_starts(flags: np.ndarray) -> bool:
            return bool((flags == start)[counted].all() and start[counted].any())

        if starts is None and dones is not None and (dones != done).any() and are_starts(dones):
            if "last_done" in self.has:
                starts, dones = columns.pop("dones"), None
            else:
                self._fail_done("dones", dones, done, " (they are one row late)")
                return
        if starts is not None:
            if not are_starts(starts):
                self._fail_done("starts", starts, start, "")
            else:
                verdict.hold("done-in-its-row")
                verdict.choices.append(
                    "a flag says that the row begins an episode; that of the row after the last "
                    "comes separately"
                )
        if not columns:
            if starts is not None:
                self._say_merged()
            return

        if "terminated" in columns and "truncated" in columns:
            self._both_flags(columns["terminated"], columns["truncated"], term, trunc)
            if dones is not None and (dones != done).any():
                self._fail_done("dones", dones, done, self._flag_shift(dones, self.is_end))
            return
        role = "terminated" if "terminated" in columns else "dones"
        if "truncated" in columns:
            both = columns.get("dones")
            trunc_got = columns["truncated"]
            if (trunc_got != trunc).any():
                shift = self._flag_shift(trunc_got, self.truncated)
                self._fail_done("truncated", trunc_got, trunc, shift)
                return
            if both is None:
                verdict.hold("done-in-its-row")
                verdict.not_checked.append("terminations: the batch has none")
                return
            if (both != done).any() and (both != term).any():
                shift = self._flag_shift(both, self.is_end)
                self._fail_done("dones", both, done, shift)
                return
            verdict.hold("done-in-its-row")
            verdict.hold("truncation-told-apart")
            return
        flags = columns[role]
        if (flags == term).all():
            verdict.hold("done-in-its-row")
            if role == "dones":
                verdict.choices.append("done means terminated; time limits are not flagged")
            return
        if (flags == done).all():
            verdict.hold("done-in-its-row")
            if role == "dones":
                self._say_merged()
            else:
                self._fail_merged()
            return
        truth = self.is_end if role == "dones" else self.terminated
        expected = done if role == "dones" else term
        self._fail_done(role, flags, expected, self._flag_shift(flags, truth))

    def _both_flags(
        self, terminated: np.ndarray, truncated: np.ndarray, term: np.ndarray, trunc: np.ndarray
    ) -> None:
        done = term | trunc
        if (terminated == term).all() and (truncated == trunc).all():
            self.verdict.hold("done-in-its-row")
            self.verdict.hold("truncation-told-apart")
        elif (terminated == done).all():
            self.verdict.hold("done-in-its-row")
            self._fail_merged()
        elif (terminated == trunc).all() and (truncated == term).all():
            self.verdict.hold("done-in-its-row")
            self._fail_merged("Terminated and truncated are exchanged.")
        elif (terminated == term).all() and not truncated.any():
            self.verdict.say(
                "truncation-told-apart",
                "Truncations are lost: no row says that a time limit ended its episode.",
                "Returns and advantages run on into the next episode.",
                self._flag_example("truncated", truncated, trunc),
                "Store the truncated flag of envs.step in the row of its step.",
            )
        elif (truncated == done).all() and (terminated == term).all():
            self.verdict.hold("done-in-its-row")
            self.verdict.choices.append("truncated is set at terminations too")
        else:
            role = "terminated" if (terminated != term).any() else "truncated"
            got, true = (terminated, term) if role == "terminated" else (truncated, trunc)
            fact = self.terminated if role == "terminated" else self.truncated
            self._fail_done(role, got, true, self._flag_shift(got, fact))

    def _flag_shift(self, flags: np.ndarray, fact: Callable[[Key], bool]) -> str:
        for offset in (1, -1):
            beside = [self.beside(key, offset) for key in self.keys]
            at = [k for k, key in enumerate(beside) if key is not None]
            true = np.array([fact(key) for key in beside if key is not None])
            if len(at) and (flags[at] == true).mean() > 0.9:
                return self._shift_words(offset)
        return ""

    def _flag_example(self, role: str, flags: np.ndarray, true: np.ndarray) -> str:
        wrong = [k for k in range(len(flags)) if flags[k] != true[k]]
        worst = min(wrong, key=lambda k: (not true[k], _order(self.keys[k])))
        index = self.keys[worst][0]
        mine = sorted((k for k in range(len(flags)) if self.keys[k][0] == index),
                      key=lambda k: self.keys[k])  # fmt: skip
        at = mine.index(worst)
        shown = mine[max(0, at - 3) : at + 3]
        where = " ".join(f"{self.keys[k][1]}.{self.keys[k][2]}" for k in shown)
        expected = " ".join(f"{int(true[k]):>3}" for k in shown)
        actual = " ".join(f"{int(flags[k]):>3}" for k in shown)
        return (
            f"environment {index}, rows as episode.time:  {where}\n"
            f"expected {role}: {expected}\nactual   {role}: {actual}"
        )

    def _fail_done(self, role: str, flags: np.ndarray, true: np.ndarray, words: str) -> None:
        self.verdict.say(
            "done-in-its-row",
            f"{role} is not set in the rows of the steps that end an episode{words}.",
            "Advantages flow from the start of the next episode into the end of this one, and are "
            "cut where nothing ended.",
            self._flag_example(role, flags, true),
            "Write the flags of envs.step(action) in the row of that action (or return the flag "
            "after the last row too, if dones[t] belongs to the observation of row t).",
        )

    def _say_merged(self) -> None:
        if any("bootstrapped in the reward" in text for text in self.verdict.choices):
            return
        self.verdict.choices.append(
            "one flag for both ends: time limits count as terminations, so that the value of what "
            "would have followed is lost there"
        )

    def _fail_merged(self, said: str = "Time limits are flagged as terminated.") -> None:
        key = min((k for k in self.keys if self.truncated(k)), key=_order, default=None)
        if key is None:
            return
        self.verdict.say(
            "truncation-told-apart",
            said,
            "The value of what would have followed a time limit is taken as 0: the critic learns "
            "that good states near the limit are worthless.",
            f"{_where(key)}: the episode is cut by its time limit\n"
            "expected terminated 0, truncated 1; actual terminated 1",
            "Store terminated and truncated as envs.step gives them; bootstrap unless terminated.",
        )

    # What follows a row.

    def _fail_final(self, key: Key, what: str, actual: str = "") -> None:
        after = (key[0], key[1] + 1, 0)
        self.verdict.say(
            "final-observation-kept",
            f"At the end of an episode, {what} is taken from the observation after the reset.",
            "Time limits are bootstrapped with the value of a fresh start: values near the limit "
            "are too high or too low by the difference.",
            f"{_where(key)}, cut by the time limit\nexpected {what}: of "
            f"{_show(np.array(self.successor(key)))}, the last observation of episode {key[1]}\n"
            f"actual: {actual or 'of ' + _show(np.array(after))}, the first of episode "
            f"{after[1]}",
            'In SAME_STEP mode take infos["final_obs"][k] where done; in the other modes take the '
            "observation of the step, before any reset.",
        )

    def _next_observations(self) -> None:
        name, got = "final-observation-kept", self.column("next_observations")
        if got is None:
            return
        true = self.expected("next_observations", self.keys)
        assert true is not None
        wrong = [k for k, ok in enumerate(self._same(got[:, :3], true[:, :3])) if not ok]
        serious = [k for k in wrong if not self.terminated(self.keys[k])]
        if not serious:
            self.verdict.hold(name)
            self.verdict.hold("next-observation-in-its-row")
            if wrong:
                self.verdict.choices.append(
                    "after a termination the next observation is that of the reset: harmless where "
                    "its value is dropped"
                )
            return
        k = min(serious, key=lambda k: _order(self.keys[k]))
        if all(self.truncated(self.keys[k]) for k in serious):
            key = self.keys[k]
            if tuple(np.round(got[k][:3])) == (key[0], key[1] + 1, 0):
                self._fail_final(key, "the next observation")
                return
        self.verdict.say(
            "next-observation-in-its-row",
            "The next observation of a row is not the one that followed it.",
            "Targets are bootstrapped from the value of another state.",
            f"{_where(self.keys[k])}\nexpected next observation {_show(true[k])}, "
            f"actual {_show(got[k])}",
            "Store a copy of what envs.step(action) returned, in the row of that action.",
        )

    def _log_probs(self) -> None:
        self._compare("log_probs", "log-prob-in-its-row", "log-probability", 1e-3)

    def _values(self) -> None:
        self._compare("values", "value-in-its-row", "value", 1e-2)
        got = self.column("next_values")
        if got is None:
            return
        name = "final-observation-kept"
        for k in sorted(range(len(self.keys)), key=lambda k: _order(self.keys[k])):
            key = self.keys[k]
            if self.terminated(key) or abs(got[k] - value(self.successor(key))) < 1e-2:
                continue
            if self.truncated(key):
                if got[k] == 0:
                    continue  # time limits as terminations: a convention, told by the flags
                self._fail_final(key, "the next value", f"{_show(got[k])}")
                return
            self.verdict.say(
                "next-value-in-its-row",
                "The next value of a row is not that of the observation that followed it.",
                "Targets are bootstrapped from another state.",
                f"{_where(key)}\nexpected {_show(value(self.successor(key)))}, "
                f"actual {_show(got[k])}",
                "Take the value of the observation that envs.step(action) returned.",
            )
            return
        self.verdict.hold(name)

    def _compare(self, role: str, name: str, words: str, tolerance: float) -> None:
        got = self.column(role)
        true = self.expected(role, self.keys)
        if got is None or true is None or not self.world.policy_called:
            return
        wrong = [k for k in range(len(true)) if not abs(got[k] - true[k]) <= tolerance / 10]
        if not wrong:
            self.verdict.hold(name)
            return
        if role == "log_probs" and {"action-as-drawn", "action-in-its-row"} & set(
            self.verdict.found
        ):
            return  # one cause
        offset = self._offset(role)
        right_share = 1 - len(wrong) / len(true)
        if not offset and right_share < 0.05:
            self.verdict.not_checked.append(
                f"{name}: the {words}s are not those that the policy returned"
            )
            return
        k = min(wrong, key=lambda k: _order(self.keys[k]))
        self.verdict.say(
            name,
            f"The {words} of a row is not that of its own step{self._shift_words(offset)}.",
            "Ratios and advantages are formed with another step's numbers.",
            f"{_where(self.keys[k])}\nexpected {words} {_show(true[k])}, actual {_show(got[k])}",
            f"Store the {words} in the row of the action it was computed with.",
        )

    def _after_last(self) -> None:
        """The observation, or its value, that the batch is bootstrapped from."""
        name = "final-observation-kept"
        for rows in self.batches:
            experienced = [k for k, ok in zip(rows.keys, rows.fields["_kept"], strict=True) if ok]
            last = {
                index: max(k for k in experienced if k[0] == index)
                for index in sorted({k[0] for k in experienced})
            }
            merged = "terminated" not in rows.fields and "truncated" not in rows.fields
            for role in ("last_value", "last_observation"):
                got = rows.fields.get(role)
                if got is None:
                    continue
                flat = np.asarray(got, np.float64)
                flat = flat.reshape(-1, FIELDS) if role == "last_observation" else flat.ravel()
                if len(flat) != len(last):
                    continue
                for key, row in zip(last.values(), flat, strict=True):
                    actual: Any = row
                    now = self.successor(key)
                    if role == "last_observation":
                        right = tuple(np.round(actual[:3])) == now or self.is_end(key)
                    else:
                        free = self.terminated(key) or (self.is_end(key) and merged)
                        # 0 there says that the time limit is treated as an end.
                        free = free or (self.truncated(key) and actual == 0)
                        right = free or bool(abs(actual - value(now)) < 1e-2)
                    if right:
                        continue
                    what = role.replace("_", " ")
                    true: Any = value(now) if role == "last_value" else self.observation(now)
                    if self.truncated(key) and role == "last_value":
                        self._fail_final(key, f"the {what}", _show(actual))
                    else:
                        self.verdict.say(
                            "bootstrap-from-successor",
                            f"The {what} is not that of what follows the last row.",
                            "Every return of the batch rests on the value of another state.",
                            f"the last row is {_where(key)}\n"
                            f"expected {_show(true)}, actual {_show(actual)}",
                            "Take the observation that the last step returned.",
                        )
                    return
                self.verdict.hold("bootstrap-from-successor")
        if {"last_value"} & self.has:
            self.verdict.hold(name)


# ------------------------------------------------------------------------------- runs


class Setup(NamedTuple):
    """A way to call the function."""

    place: str  # an autoreset mode, or single, or factory
    continuous: bool
    returns: str  # what the policy returns

    def __str__(self) -> str:
        kind = "continuous" if self.continuous else "discrete"
        place = {
            "single": "one gymnasium.Env",
            "factory": "a function that makes an environment",
        }.get(self.place, f"a SyncVectorEnv of {NUM_ENVS} in mode {self.place.upper()}")
        return f"{place}, {kind} actions, a policy that returns {self.returns}"


class Outcome(NamedTuple):
    setup: Setup
    verdict: Ledger
    world: World
    fields: set[str]
    layout: str


def _run(
    function: Callable[..., Any],
    matched: calling.Matched,
    setup: Setup,
    also: Mapping[str, str],
    reusing: bool = False,
) -> Outcome:
    """Call it, several times if it collects little at a time, and judge what it collected."""
    world = World(setup.continuous, reusing)
    policy = Policy(world, setup.returns)
    single, factory = setup.place == "single", setup.place == "factory"
    environment: Any = None
    if single:
        environment = world.make_first()
    elif not factory:
        environment = Side(world, MODES[setup.place])
    values: dict[str, Any] = {
        "envs": environment, "env": environment, "make_env": world.make,
        "env_fns": [world.make] * NUM_ENVS, "policy": policy, "value_function": policy.value,
        "num_steps": NUM_STEPS, "num_envs": 1 if single else NUM_ENVS, "num_episodes": 6,
        "max_steps": 200, "seed": SEED, "gamma": GAMMA, "params": {}, "device": "cpu",
        "rng": np.random.default_rng(SEED),
    }  # fmt: skip
    if factory:
        del values["envs"], values["env"]
    if matched.takes("key"):
        import jax

        values["key"] = jax.random.PRNGKey(SEED)
    continues = "observation" in matched.parameters and environment is not None
    if continues:
        values["observation"] = environment.reset(seed=SEED)[0]
        values["done"] = False if single else np.zeros(NUM_ENVS, bool)
    names = _returned_names(function)
    batches: list[Rows] = []
    has: set[str] = set()
    for call in range(CALLS):
        world.call, values["seed"] = call, SEED + 100 * call
        result = calling.call(function, matched, values, convert=False).result
        fields = _fields(result, names, also)
        has |= set(fields)
        if np.size(fields.get("observations", 1)):
            batches.append(_rows(fields, call))
        keys = [key for rows in batches for key in rows.keys]
        ended = {terminates(k[0], k[1]) for k in keys if k[2] + 1 == length(k[0], k[1])}
        if continues or not (single or factory) or (len(ended) == 2 and len(keys) >= 8):
            break
    if not batches:
        raise CannotCall(f"{calling.name_of(function)} returned empty batches.")
    verdict = Judge(world, batches, has).judge()
    return Outcome(setup, verdict, world, has, batches[0].layout)


def _first_that_runs(
    function: Callable[..., Any],
    matched: calling.Matched,
    place: str,
    kinds: tuple[bool, ...],
    also: Mapping[str, str],
) -> tuple[list[Outcome], list[tuple[Setup, BaseException]]]:
    """For each kind of action the first policy with which the function runs."""
    outcomes: list[Outcome] = []
    errors: list[tuple[Setup, BaseException]] = []
    for continuous in kinds:
        for returns in RETURNS:
            setup = Setup(place, continuous, returns)
            try:
                outcomes.append(_run(function, matched, setup, also))
                break
            except (Exception, SystemExit) as error:
                errors.append((setup, error))
    return outcomes, errors


def _intent(outcomes: Mapping[str, list[Outcome]]) -> str:
    """The mode that the function is written for, as far as its behaviour tells."""
    worlds = {place: found[0].world for place, found in outcomes.items() if found}
    if any(world.sought_final for world in worlds.values()):
        return "same_step"
    world = worlds.get("disabled")
    if world is not None and any(len(diary.resets) > 1 for diary in world.diaries):
        return "disabled"
    return "next_step"


def _merged(found: list[Outcome]) -> Ledger:
    """Discrete and continuous actions: what holds holds in both, what fails fails in either."""
    verdict = Ledger()
    for outcome in found:
        for finding in outcome.verdict.failures:
            verdict.found.setdefault(finding.check, finding)
        verdict.hold(*outcome.verdict.passed)
        verdict.choices += outcome.verdict.choices
    for outcome in found:
        for text in outcome.verdict.not_checked:
            name = text.partition(":")[0]
            known = (*verdict.passed, *verdict.found)
            if name not in known and text not in verdict.not_checked:
                verdict.not_checked.append(text)
    return verdict


AFTER_END = Finding(
    "reset-after-end",
    "An environment is stepped after its episode has ended, without a reset.",
    "What such a step returns is undefined: some environments go on with a state that is over, "
    "others raise.",
    "environment 1: episode 1 ends with its first step (terminated)\n"
    "expected: reset; actual: another step",
    "Reset where terminated or truncated; a VectorEnv in mode DISABLED by "
    'envs.reset(options={"reset_mask": terminated | truncated}).',
)


def rollout(
    function: Callable[..., Any],
    *,
    mapping: Mapping[str, str] | None = None,
    autoreset: str | None = None,
    reused_buffers: bool = False,
    **options: Any,
) -> Report:
    """Audit a function that collects a batch from an environment and a policy.

    It is given a `gymnasium.vector.VectorEnv` in each autoreset mode, a `gymnasium.Env` or a
    function that makes one, whichever it takes, and `policy(observations)`, which returns actions
    alone or with log-probabilities and values. `autoreset` declares the mode that it is written
    for ("next_step", "same_step", "disabled"); otherwise it has to be right in Gymnasium's
    default NEXT_STEP, or else in the mode that it visibly handles. `reused_buffers` declares that
    its environments write every observation into the same array, so that it has to copy them;
    otherwise, whether it copies is a convention. `mapping` is of parameters (theirs → ours) and of
    fields of the batch.
    """
    if options:
        raise CannotCall(f"An audit of a rollout has no option {', '.join(options)}.")
    if autoreset is not None and autoreset not in MODES:
        raise CannotCall(f"autoreset is {autoreset!r}; expected one of {', '.join(MODES)}.")
    mapping = dict(mapping or {})
    ours = {theirs: calling.match_name(role, FIELD_NAMES) for theirs, role in mapping.items()}
    taken = inspect.signature(function).parameters
    also = {theirs: role for theirs, role in ours.items() if theirs not in taken and role}
    matched = calling.recognise(
        function, ROLES, {theirs: role for theirs, role in mapping.items() if theirs not in also}
    )
    modes = [autoreset] if autoreset else list(MODES)
    makes = matched.takes("make_env") or matched.takes("env_fns")
    takes_env = matched.takes("envs")
    if not takes_env and not makes:
        raise CannotCall(
            f"{calling.name_of(function)} takes neither an environment nor a function that makes "
            f"one. Taken: {matched.describe()}. Map one of its parameters: NAME=envs."
        )
    outcomes: dict[str, list[Outcome]] = {}
    errors: list[tuple[Setup, BaseException]] = []
    kinds: tuple[bool, ...] = (False, True)
    for tried in [*modes, "single"] if takes_env else ["factory"]:
        ran, failed = _first_that_runs(function, matched, tried, kinds, also)
        errors += failed
        if ran:
            outcomes[tried] = ran
    vector = {place: found for place, found in outcomes.items() if place in MODES}
    clean = {p for p, found in outcomes.items() if not _merged(found).failures}
    stepped = {s.place for s, error in errors if isinstance(error, SteppedAfterEnd)}

    chosen = _choose(outcomes, vector, clean, autoreset)
    if chosen is None or (autoreset and autoreset not in outcomes and autoreset in stepped):
        if stepped:
            called = str(next(s for s, e in errors if isinstance(e, SteppedAfterEnd)))
            return Report(calling.name_of(function), "rollout", (), (AFTER_END,), called=called)
        for _, error in errors:
            if isinstance(error, CannotCall):  # it ran, and returned something unknown
                raise error
        raise CannotCall(_why(function, matched, errors))
    place, found = chosen, outcomes[chosen]
    verdict = _merged(found)
    if place in ("single", "disabled", "factory"):
        verdict.hold(AFTER_END.check)
    if vector and place in MODES:
        verdict.choices.append(_modes(place, vector, stepped, modes))
    if not verdict.failures:
        _judge_reuse(function, matched, found[0].setup, also, reused_buffers, verdict)
    for wanted in ("next_observations", "log_probs"):
        if wanted not in found[0].fields:
            verdict.not_checked.append(f"{wanted}: the batch has none")
    layout = found[0].layout
    if layout.startswith("["):
        verdict.choices.append(f"arrays are {layout}")
    called = f"{found[0].setup}; {matched.describe()}"
    if note := calling.note(function):
        called += f"; {note}"
    return verdict.report(calling.name_of(function), "rollout", called)


def _choose(
    outcomes: Mapping[str, list[Outcome]],
    vector: Mapping[str, list[Outcome]],
    clean: set[str],
    autoreset: str | None,
) -> str | None:
    """The way of calling whose verdict counts."""
    if not outcomes:
        return None
    if "factory" in outcomes:
        return "factory"
    if autoreset in vector:
        return autoreset
    if "next_step" in clean:
        return "next_step"
    if "single" in clean:  # taken for vectors, the ends of one environment cannot be right
        return "single"
    intent = _intent(vector)
    if intent in vector:
        return intent
    # A function that refuses the default mode is right if it is right in what it accepts.
    return next((p for p in (*MODES, "single") if p in clean), next(iter(outcomes)))


def _modes(
    place: str, vector: Mapping[str, list[Outcome]], stepped: set[str], modes: list[str]
) -> str:
    said = []
    for mode in modes:
        if mode in vector:
            failed = _merged(vector[mode]).found
            said.append(f"{mode.upper()} " + (f"no ({', '.join(failed)})" if failed else "yes"))
        else:
            said.append(f"{mode.upper()} no ({'never resets' if mode in stepped else 'raises'})")
    return f"autoreset modes handled: {'; '.join(said)} (judged in {place.upper()})"


def _judge_reuse(
    function: Callable[..., Any],
    matched: calling.Matched,
    setup: Setup,
    also: Mapping[str, str],
    declared: bool,
    verdict: Ledger,
) -> None:
    """The same with environments that write their observations into the same two arrays."""
    name = "observations-copied"
    try:
        again = _run(function, matched, setup, also, reusing=True).verdict
    except Exception as error:
        again = Ledger()
        if not isinstance(error, CannotCall):
            verdict.not_checked.append(f"{name}: {calling.one_line(error)}")
            return
    if again.passed and not again.failures:
        return
    if not declared:  # Gymnasium's own vector environments copy, unless they are told not to
        verdict.choices.append(
            "observations are kept without a copy: right where the environments return new arrays "
            "at every step, and wrong with SyncVectorEnv(copy=False); reused_buffers checks that"
        )
        return
    example = again.failures[0].example if again.failures else "rows of other steps"
    verdict.say(
        name,
        "The arrays that the environment hands out are kept without a copy: where it reuses them, "
        "all rows show the last observations.",
        "With SyncVectorEnv(copy=False), or a simulator with a buffer of its own, actions and "
        "returns are attributed to the last observation, and nothing is raised.",
        f"an environment that writes its observations into two arrays in turn; {example}",
        "Store a copy: observations.append(np.array(obs)).",
    )


def _why(
    function: Callable[..., Any],
    matched: calling.Matched,
    errors: list[tuple[Setup, BaseException]],
) -> str:
    """What was tried, and how it failed, each failure once."""
    told: dict[str, str] = {}
    for setup, error in errors:
        told.setdefault(calling.one_line(error), str(setup))
    tried = "\n".join(f"  with {setup}: {error}" for error, setup in list(told.items())[:4])
    return (
        f"{calling.name_of(function)} failed with every environment and policy that was tried; "
        f"called with {matched.describe()}.\n{tried}"
    )
