"""Classes and functions with networks of PyTorch: made from sizes, fed, and recorded.

An agent is asked for actions and given batches, as its training loop would; what its networks say
and what gradient reaches them is held against the definitions (judge.py, soft.py).
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from actorcritic.audit import calling
from actorcritic.audit.agents import samplers, soft
from actorcritic.audit.agents.judge import Judge, Numbers
from actorcritic.audit.agents.tape import Enough, Tape, Transition, lightly
from actorcritic.audit.findings import CannotCall, Report
from actorcritic.audit.losses.calls import ROLES as LOSSES

STATE, CHOICES, ACTION, STEPS, ROUNDS = 5, 3, 2, 6, 4


def _usual(**names: str) -> dict[str, tuple[str, ...]]:
    return {role: tuple(words.split()) for role, words in names.items()}


SIZES = _usual(
    state_size="state_dim obs_dim input_dim in_dim n_states n_inputs num_inputs in_features "
    "n_input n_observations observation_dim obs_size state_size input_size num_states n_features "
    "s_dim dim_state num_obs observation_size inputs n_obs nb_states num_state",
    action_size="action_dim act_dim output_dim out_dim n_actions num_actions out_features n_output "
    "action_size n_outputs output_size a_dim dim_action num_outputs nb_actions outputs n_acts "
    "num_action",
    limit="max_action action_scale act_limit action_limit action_bound limit high",
    device="",
    rate="lr learning_rate alpha actor_lr critic_lr lr_actor lr_critic",
    gamma="discount",
)
USUAL = {"limit": 1.0, "device": "cpu", "rate": 1e-3, "gamma": 0.97}
ROLES = _usual(
    states="state obs observations observation s batch_states b_obs o ob",
    next_states="next_state next_obs next_observations new_states s_next s2 o2 state_ new_state "
    "states_ next_observation",
    network="model policy net policy_net network actor_critic agent actor critic pi value_net "
    "policy_network value value_network ac q",
    dones=" ".join(("ends", *LOSSES["dones"])),
    old_log_probs=" ".join(("log_probs", *LOSSES["log_probs"], *LOSSES["old_log_probs"])),
) | {role: LOSSES[role] for role in ("actions", "rewards", "continues", "returns", "advantages")}
ACTING = re.compile(r"^((select|choose|get|take|sample)_?(action|act)s?|act|sample|predict)$")
LEARNING = re.compile(
    r"^(update|learn|train|train_step|optimi[sz]e|optimi[sz]e_model|finish_episode|improve|"
    r"train_model|update_model|learn_step|update_policy|end_episode|train_net)$"
)
FIRST = re.compile("^(update|learn|train|act)$|_?action$")
FLOAT = re.compile(  # but not in 1.0 - done
    r"(?<![\w.])(?:\d*\.\d+(?:e-?\d+)?|\d+e-\d+|(?<==)\s*1\b(?!\.))(?!\d|\s*-\s)"
)
SINGLE = {"state", "reward", "next_state", "obs", "done"}  # what a single step is called


class Way(NamedTuple):
    """How an agent is fed."""

    continuous: bool
    arrays: str  # numpy, torch, list

    def form(self, value: Any) -> Any:
        if self.arrays == "numpy" or not isinstance(value, np.ndarray):
            return value
        if self.arrays == "list":
            return list(value) if value.ndim else value.item()
        return importlib.import_module("torch").as_tensor(value)


def is_agent(found: Any) -> bool:
    """A class that acts or learns, and is no network by itself."""
    return inspect.isclass(found) and any(
        LEARNING.match(name) and callable(value)
        for base in found.__mro__
        if base.__module__ == found.__module__
        for name, value in vars(base).items()
    )


# ------------------------------------------------------------------------------- its numbers


def numbers_in(module: Any, instance: Any = None) -> Numbers:
    """γ, λ and ε: what stands on lines that name them, else whatever fits."""
    lines: list[str] = []
    with contextlib.suppress(OSError, TypeError):
        lines = [line.partition(" #")[0] for line in inspect.getsource(module).splitlines()]
    spaces = {**vars(module), **getattr(instance, "__dict__", {})}
    lines += [f"{name} = {value!r}" for name, value in spaces.items() if isinstance(value, float)]

    def of(pattern: str, low: float, *usual: float) -> tuple[float, ...]:
        def fitting(where: Iterable[str]) -> list[float]:
            found = (float(word) for line in where for word in FLOAT.findall(line))
            return [number for number in found if low <= number <= 1]

        told = fitting(line for line in lines if re.search(pattern, line, re.I))
        return tuple(dict.fromkeys(told or (*fitting(lines), *usual)))[:6]

    clips = dict.fromkeys((*of(r"clip|eps", 0.01), 0.2, 0.1, 0.3))
    return Numbers(of("gamma|discount", 0.4, 0.99), of("lam|lmbda", 0.3)[:3], tuple(clips)[:4])


# ------------------------------------------------------------------------------- making them


def made(cls: Any, continuous: bool) -> Any:
    """An instance, from sizes; raises where something else is needed."""
    sizes = {"state_size": STATE, "action_size": ACTION if continuous else CHOICES}
    arguments: dict[str, Any] = {}
    for name, parameter in inspect.signature(cls).parameters.items():
        role = calling.match_name(name, SIZES)
        if role in sizes:
            arguments[name] = sizes[role]
        elif parameter.default is not parameter.empty or str(parameter).startswith("*"):
            continue
        elif role is not None:
            arguments[name] = USUAL[role]
        elif re.search("hidden|size|units|dim", name):
            arguments[name] = 16
        elif "env" in name:
            arguments[name] = _spaces(continuous)
        else:
            raise CannotCall(f"{cls.__name__} cannot be made: what is its parameter '{name}'?")
    return cls(**arguments)


def _spaces(continuous: bool) -> Any:
    """An environment as far as its spaces go."""
    from gymnasium import spaces

    observed = spaces.Box(-np.inf, np.inf, (STATE,), np.float32)
    box = spaces.Box(-1.0, 1.0, (ACTION,), np.float32)
    acted = box if continuous else spaces.Discrete(CHOICES)
    return SimpleNamespace(
        observation_space=observed, single_observation_space=observed,
        action_space=acted, single_action_space=acted, num_envs=1,
    )  # fmt: skip


def first_of(name: str, ways: Iterable[Callable[[], Report]]) -> Report:
    """The report of the first way that works."""
    failed: list[str] = []
    for audited in ways:
        try:
            return audited()
        except CannotCall as error:
            failed.append(str(error))
        except (Exception, SystemExit) as error:
            failed.append(calling.one_line(error))
    said = "; ".join(dict.fromkeys(failed)) or "no network of its file"
    raise CannotCall(f"{name} could not be trained. Tried: {said}")


# ------------------------------------------------------------------------------- batches


class Feed:
    """Random steps, and what is made of them for a function's parameters."""

    def __init__(self, tape: Tape, way: Way, matched: calling.Matched, network: Any = None) -> None:
        self.tape, self.way, self.matched, self.network = tape, way, matched, network
        self.rng = np.random.default_rng(0)
        self.roles = matched.held | set(matched.parameters)
        self.whole = not self.roles & {"dones", "continues"}  # its steps are one episode

    def observation(self) -> np.ndarray:
        return np.asarray(self.rng.normal(size=STATE).astype(np.float32))

    def action(self) -> Any:
        if self.way.continuous:
            return np.asarray(self.rng.uniform(-0.9, 0.9, ACTION).astype(np.float32))
        return int(self.rng.integers(CHOICES))

    def columns(self, act: Callable[[np.ndarray], Any] | None) -> dict[str, Any]:
        """Some steps, by an agent that is asked for every action."""
        n, rng = STEPS, self.rng
        ends = np.zeros(n, bool)
        ends[-1 if self.whole else int(rng.integers(1, n - 2))] = True
        states, following, actions, logs = [], [], [], []
        now = self.observation()
        for k in range(n):
            states.append(now)
            following.append(self.observation())
            now = self.observation() if ends[k] else following[-1]
        for state in states:
            self.tape.state(state)
            answer = act(state) if act is not None else None
            action, log_prob = samplers.parts_of(answer, self.way.continuous)
            actions.append(self.action() if action is None else action)
            logs.append(log_prob)
        said = rng.normal(-1.5, 0.3, n)
        known = [s if v is None else v for v, s in zip(logs, said, strict=True)]
        columns = {
            "states": states,
            "next_states": following,
            "actions": actions,
            "old_log_probs": np.array(known) + rng.uniform(-0.5, 0.5, n),
            "rewards": rng.normal(0.5, 2.0, n),
            "dones": ends,
            "continues": 1.0 - ends,
            "returns": rng.normal(0.5, 3.0, n),
            "advantages": rng.normal(0.3, 2.0, n),
        }
        whole = {"actions": np.array(actions)} if not self.way.continuous else {}
        return {r: np.array(v, np.float32) for r, v in columns.items()} | whole

    def give(self, learn: Callable[..., Any], columns: Mapping[str, Any]) -> Any:
        """Steps are noted in the recording, and learnt from: together, or one at a time."""
        single = bool(SINGLE & set(inspect.signature(learn).parameters))
        for k in range(STEPS):
            self.tape.updated |= single or k == 0
            self._note({role: column[k] for role, column in columns.items()}, k == STEPS - 1)
            if single:
                row = {r: v[k] if v.ndim > 1 else v[k].item() for r, v in columns.items()}
                learn(**self.arguments(row | {"dones": bool(row["dones"])}))
        return None if single else learn(**self.arguments(columns))

    def _note(self, row: Mapping[str, Any], last: bool) -> None:
        handed = {"returns", "advantages", "old_log_probs"} & self.roles
        given = {role: float(row[role]) for role in handed}
        now, after = self.tape.state(row["states"]), self.tape.state(row["next_states"])
        ended = bool(row["dones"]) and (last or not self.whole)
        step = Transition(now, row["actions"], float(row["rewards"]), after, ended, False, 0, given)
        self.tape.step(step)

    def arguments(self, values: Mapping[str, Any]) -> dict[str, Any]:
        formed = {role: self.way.form(value) for role, value in values.items()}
        formed |= {} if self.network is None else {"network": self.network}
        taken = self.matched.parameters.items()
        given = {name: formed[role] for role, name in taken if role in formed}
        return given | {name: c.filled(formed) for name, c in self.matched.containers.items()}

    @property
    def names(self) -> str:
        return ", ".join([*self.matched.parameters.values(), *self.matched.containers])


# ------------------------------------------------------------------------------- an agent


def agent(cls: Any, *, mapping: Mapping[str, str] | None = None) -> Report:
    """Audit a class that acts and learns."""
    ways = [Way(c, arrays) for c in (False, True) for arrays in ("numpy", "torch", "list")]
    return first_of(cls.__name__, (functools.partial(_agent, cls, way, mapping) for way in ways))


def _agent(cls: Any, way: Way, mapping: Mapping[str, str] | None) -> Report:
    tape = Tape(STATE, None if way.continuous else CHOICES, 40, soft.weigh)
    with lightly(tape.torch), calling.quiet():
        instance = made(cls, way.continuous)
    act = next(iter(_methods(instance, ACTING)), None)
    learn = next(iter(_methods(instance, LEARNING)), None)
    if learn is None:
        raise CannotCall(f"{cls.__name__} has no method that learns.")
    feed = Feed(tape, way, calling.recognise(learn, ROLES, mapping))
    with tape.running(), calling.quiet(), contextlib.suppress(Enough):
        for _ in range(ROUNDS):
            feed.give(learn, feed.columns(act))
    judge = Judge(tape=tape, numbers=numbers_in(inspect.getmodule(cls), instance), whole=True)
    soft.judge(judge)
    if act is not None:
        samplers.judge(judge, act, feed.observation, way.continuous)
    called = (
        f"PyTorch, {'continuous' if way.continuous else 'discrete'} actions: {len(tape.events)} "
        f"backwards in {ROUNDS} calls of {calling.name_of(learn)}({feed.names})"
    )
    return concluded(judge, cls.__name__, "agent", called)


def concluded(judge: Judge, name: str, kind: str, called: str) -> Report:
    """Nothing found and nothing explained is not judged."""
    if not judge.judged and not judge.found:
        raise CannotCall(
            f"{name}: no gradient was seen that reaches a policy or a value of known observations "
            f"({called})."
        )
    return judge.report(name, kind, called)


def _methods(instance: Any, pattern: re.Pattern[str]) -> list[Any]:
    """Those of its own; the usual names first."""
    found = [
        getattr(instance, name)
        for name, value in inspect.getmembers(type(instance), callable)
        if pattern.match(name) and not str(getattr(value, "__module__", "")).startswith("torch")
    ]
    return sorted(found, key=lambda m: (not FIRST.search(m.__name__), m.__name__))


# ------------------------------------------------------------------------------- a function


def function(found: Callable[..., Any], *, mapping: Mapping[str, str] | None = None) -> Report:
    """Audit a loss or a sampler that is given a network: each that its file defines, in turn."""
    module: Any = inspect.getmodule(calling.underlying(found))
    network = importlib.import_module("torch").nn.Module
    ways = (
        functools.partial(_function, found, cls, module, Way(continuous, arrays), mapping)
        for cls in vars(module).values()
        if inspect.isclass(cls) and issubclass(cls, network) and cls.__module__ == module.__name__
        for continuous in (False, True)
        for arrays in ("torch", "numpy")
    )
    return first_of(calling.name_of(found), ways)


def _function(
    found: Callable[..., Any], cls: Any, module: Any, way: Way, mapping: Mapping[str, str] | None
) -> Report:
    tape = Tape(STATE, None if way.continuous else CHOICES, 40, soft.weigh)
    with calling.quiet():
        network = made(cls, way.continuous)
    feed = Feed(tape, way, calling.recognise(found, ROLES, mapping), network)
    judge = Judge(tape=tape, numbers=numbers_in(module), whole=True)
    name, called = calling.name_of(found), f"PyTorch, with a {cls.__name__}: {feed.names}"
    if feed.roles <= {"states", "network"}:

        def act(observation: np.ndarray) -> Any:
            return found(**feed.arguments({"states": observation}))

        samplers.judge(judge, act, feed.observation, way.continuous)
        return concluded(judge, name, "distribution", called)

    def learn(**given: Any) -> None:
        result = found(**given)
        parts = result if isinstance(result, tuple) else (result,)
        sum(part.mean() for part in parts if getattr(part, "requires_grad", False)).backward()

    with tape.running(), calling.quiet():
        for _ in range(ROUNDS):
            feed.give(learn, feed.columns(None))
    soft.judge(judge)
    return concluded(judge, name, "loss", called)
