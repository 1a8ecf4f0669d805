"""Classes and functions with networks of PyTorch: made from sizes, fed, and recorded.

An agent is asked for actions and given batches, as its training loop would; what its networks say
and what gradient reaches them is held against the definitions (recorded.py).
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from actorcritic.audit import calling
from actorcritic.audit.agents import samplers, soft
from actorcritic.audit.agents.judge import Judge, Numbers
from actorcritic.audit.agents.tape import Enough, Tape, Transition
from actorcritic.audit.calling.containers import held_in
from actorcritic.audit.findings import CannotCall, Report

STATE, CHOICES, ACTION, STEPS, ROUNDS = 5, 3, 2, 6, 4

SIZES: dict[str, tuple[str, ...]] = {
    role: tuple(names.split())
    for role, names in {
        "state_size": (
            "state_dim obs_dim input_dim in_dim n_states n_inputs num_inputs in_features n_input "
            "n_observations observation_dim obs_size state_size input_size num_states n_features "
            "s_dim dim_state num_obs observation_size inputs n_obs nb_states num_state"
        ),
        "action_size": (
            "action_dim act_dim output_dim out_dim n_actions num_actions out_features n_output "
            "action_size n_outputs output_size a_dim dim_action num_outputs nb_actions outputs "
            "n_acts num_action"
        ),
        "limit": "max_action action_scale act_limit action_limit action_bound limit high",
        "device": "",
        "rate": "lr learning_rate alpha actor_lr critic_lr lr_actor lr_critic",
        "gamma": "discount",
    }.items()
}
ROLES: dict[str, tuple[str, ...]] = {
    role: tuple(names.split())
    for role, names in {
        "states": "state obs observations observation s batch_states b_obs o ob",
        "next_states": "next_state next_obs next_observations new_states s_next s2 o2 state_ "
        "new_state states_ next_observation",
        "actions": "action acts act a",
        "rewards": "reward rew rews r",
        "dones": "done terminated terminal terminals terminations d ends",
        "continues": "mask masks not_done not_dones",
        "old_log_probs": (
            "log_probs log_prob logprobs logps logp old_log_prob old_logp old_logprobs"
        ),
        "returns": "return ret rets targets target G Gs discounted_rewards R",
        "advantages": "advantage adv advs",
        "network": (
            "model policy net policy_net network actor_critic agent actor critic pi value_net "
            "policy_network value value_network ac q"
        ),
        "optimizer": "optim opt optimiser",
    }.items()
}
ACTING = re.compile(r"^((select|choose|get|take|sample)_?(action|act)s?|act|sample|predict)$")
LEARNING = re.compile(
    r"^(update|learn|train|train_step|optimi[sz]e|optimi[sz]e_model|finish_episode|improve|"
    r"train_model|update_model|learn_step|update_policy|end_episode|train_net)$"
)
STORING = re.compile(r"^(store|remember|push|add|store_transition|put_data|record|save|append)$")


class Way(NamedTuple):
    """How an agent is fed."""

    continuous: bool
    arrays: str  # numpy, torch, list
    single: bool  # a transition at a time


# ------------------------------------------------------------------------------- what is there


def is_agent(found: Any) -> bool:
    """A class that acts or learns, and is no network by itself."""
    if not inspect.isclass(found):
        return False
    methods = [
        name
        for base in found.__mro__
        if base.__module__ == found.__module__
        for name, value in vars(base).items()
        if callable(value)
    ]
    return any(map(LEARNING.match, methods))


def takes_network(function: Callable[..., Any]) -> bool:
    """Whether a parameter is a network."""
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return False
    return any(calling.match_name(name, ROLES) == "network" for name in names)


def numbers_in(module: Any, instance: Any = None) -> Numbers:
    """γ, λ and ε: what is named so in the file, else whatever fits."""
    named: list[tuple[str, float]] = []
    every: list[float] = []
    try:
        tree: ast.AST = ast.parse(inspect.getsource(module))
    except (OSError, TypeError, SyntaxError):
        tree = ast.Module([], [])
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                pairs = [(target, node.value)]
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    pairs = list(zip(target.elts, node.value.elts, strict=False))
                named += [(_name(a), _float(b)) for a, b in pairs]
        if isinstance(node, ast.AnnAssign) and node.value is not None:
            named.append((_name(node.target), _float(node.value)))
        if isinstance(node, ast.arguments):
            plain = [*node.posonlyargs, *node.args]
            named += [
                (a.arg, _float(d))
                for a, d in zip(
                    plain[len(plain) - len(node.defaults) :], node.defaults, strict=True
                )
            ]
            named += [
                (a.arg, _float(d))
                for a, d in zip(node.kwonlyargs, node.kw_defaults, strict=True)
                if d is not None
            ]
        if isinstance(node, ast.keyword):
            named.append((node.arg or "", _float(node.value)))
        if isinstance(node, ast.Call) and node.args:
            words = [a.value for a in node.args if isinstance(a, ast.Constant)]
            named += [(str(w), _float(k.value)) for w in words for k in node.keywords]
        if isinstance(node, ast.Constant) and isinstance(node.value, float):
            every.append(node.value)
    for source in (vars(module), vars(instance) if hasattr(instance, "__dict__") else {}):
        named += [
            (name, float(value))
            for name, value in source.items()
            if isinstance(value, float) and not isinstance(value, bool)
        ]

    def of(pattern: str, low: float, usual: Sequence[float]) -> tuple[float, ...]:
        told = [v for name, v in named if re.search(pattern, name, re.I) and low <= v <= 1]
        rest = [v for v in every if low <= v <= 1] + list(usual)
        return tuple(dict.fromkeys(told or rest))[:6]

    clips = tuple(dict.fromkeys((*of(r"clip|eps", 0.01, ()), 0.2, 0.1, 0.3)))
    return Numbers(of("gamma|discount", 0.4, (0.99,)), of("lam|lmbda", 0.3, ())[:3], clips[:4])


def _name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else getattr(node, "attr", "")


def _float(node: ast.AST) -> float:
    value = node.value if isinstance(node, ast.Constant) else None
    return float(value) if isinstance(value, (int, float)) else float("nan")


# ------------------------------------------------------------------------------- making them


def made(cls: Any, continuous: bool, module: Any, deep: bool = False) -> Any:
    """An instance, from sizes; raises where something else is needed."""
    arguments: dict[str, Any] = {}
    for name, parameter in inspect.signature(cls).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        role = calling.match_name(name, SIZES)
        has_default = parameter.default is not parameter.empty
        if role == "state_size":
            arguments[name] = STATE
        elif role == "action_size":
            arguments[name] = ACTION if continuous else CHOICES
        elif has_default:
            continue
        elif role == "limit":
            arguments[name] = 1.0
        elif role == "rate":
            arguments[name] = 1e-3
        elif role == "gamma":
            arguments[name] = 0.97
        elif role == "device":
            arguments[name] = "cpu"
        elif re.search("hidden|size|units|dim", name):
            arguments[name] = 16
        elif re.search("env", name) and not deep:
            arguments[name] = _Spaces(continuous)
        else:
            raise CannotCall(f"{cls.__name__} cannot be made: what is its parameter '{name}'?")
    with calling.quiet():
        return cls(**arguments)


class _Spaces:
    """An environment as far as its spaces go."""

    def __init__(self, continuous: bool) -> None:
        from gymnasium import spaces

        self.observation_space = spaces.Box(-np.inf, np.inf, (STATE,), np.float32)
        box = spaces.Box(-1.0, 1.0, (ACTION,), np.float32)
        self.action_space = box if continuous else spaces.Discrete(CHOICES)
        self.single_observation_space = self.observation_space
        self.single_action_space = self.action_space
        self.num_envs = 1


def networks_of(module: Any) -> list[Any]:
    """The classes of networks that a file defines."""
    torch = importlib.import_module("torch")
    return [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, torch.nn.Module)
        and value.__module__ == module.__name__
    ]


# ------------------------------------------------------------------------------- batches


class Feed:
    """Random steps, and what is made of them for a function's parameters."""

    def __init__(self, tape: Tape, way: Way, seed: int) -> None:
        self.tape, self.way, self.rng = tape, way, np.random.default_rng(seed)
        self.torch = tape.torch

    def episode(self, act: Callable[[np.ndarray], Any] | None, whole: bool) -> dict[str, Any]:
        """Columns of some steps. `whole`: they are one episode, which ends with them."""
        n, rng = STEPS, self.rng
        ends = np.zeros(n, bool)
        ends[-1] = whole
        if not whole:
            ends[int(rng.integers(1, n - 2))] = True
        states, following = [], []
        now = self.observation()
        for k in range(n):
            after = self.observation()
            states.append(now)
            following.append(after)
            now = self.observation() if ends[k] else after
        actions, logs = [], []
        for state in states:
            self.tape.state(state)
            answer = act(state) if act is not None else None
            action, log_prob = samplers.parts_of(answer, self.way.continuous)
            actions.append(self.action() if action is None else action)
            logs.append(log_prob)
        said = self.rng.normal(-1.5, 0.3, n)
        known = [s if v is None else v for v, s in zip(logs, said, strict=True)]
        old = np.array(known) + rng.uniform(-0.5, 0.5, n)
        return {
            "states": np.array(states),
            "next_states": np.array(following),
            "actions": np.array(actions),
            "rewards": rng.normal(0.5, 2.0, n).astype(np.float32),
            "dones": ends.astype(np.float32),
            "continues": 1 - ends.astype(np.float32),
            "old_log_probs": old.astype(np.float32),
            "returns": rng.normal(0.5, 3.0, n).astype(np.float32),
            "advantages": rng.normal(0.3, 2.0, n).astype(np.float32),
        }

    def observation(self) -> np.ndarray:
        return np.asarray(self.rng.normal(size=STATE).astype(np.float32))

    def action(self) -> Any:
        if self.way.continuous:
            return np.asarray(self.rng.uniform(-0.9, 0.9, ACTION).astype(np.float32))
        return int(self.rng.integers(CHOICES))

    def note(self, columns: Mapping[str, Any], roles: frozenset[str]) -> None:
        """The steps, in the recording."""
        for k in range(STEPS):
            self.note_one(columns, roles, k)

    def note_one(self, columns: Mapping[str, Any], roles: frozenset[str], k: int) -> None:
        given: dict[str, float] = {
            role: float(columns[role][k])
            for role in ("returns", "advantages", "old_log_probs")
            if role in roles
        }
        self.tape.step(
            Transition(
                self.tape.state(columns["states"][k]),
                columns["actions"][k],
                float(columns["rewards"][k]),
                self.tape.state(columns["next_states"][k]),
                bool(columns["dones"][k])
                and bool({"dones", "continues"} & roles or k == STEPS - 1),
                False,
                0,
                given,
            )
        )

    def form(self, value: Any) -> Any:
        if self.way.arrays == "numpy" or not isinstance(value, np.ndarray):
            return value
        if self.way.arrays == "list":
            return list(value) if value.ndim else value.item()
        return self.torch.as_tensor(value)


def taken(function: Callable[..., Any]) -> tuple[dict[str, str], dict[str, Any]]:
    """Parameter → role, and those that hold several."""
    roles, containers = {}, {}
    for name, parameter in inspect.signature(function).parameters.items():
        role = calling.match_name(name, ROLES)
        if role is not None:
            roles[name] = role
        elif parameter.default is parameter.empty:
            inside = held_in(
                calling.underlying(function), name, lambda n: calling.match_name(n, ROLES)
            )
            if inside is not None:
                containers[name] = inside
            elif parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise CannotCall(
                    f"{calling.name_of(function)}: what is its parameter '{name}'? "
                    f"Add --map {name}=NAME, with NAME one of: {', '.join(ROLES)}."
                )
    return roles, containers


def used(roles: Mapping[str, str], containers: Mapping[str, Any]) -> frozenset[str]:
    inside = [r for c in containers.values() for r in c.roles.values()]
    return frozenset([*roles.values(), *inside])


def arguments(
    roles: Mapping[str, str],
    containers: Mapping[str, Any],
    columns: Mapping[str, Any],
    form: Callable[[Any], Any],
) -> dict[str, Any]:
    formed = {role: form(value) for role, value in columns.items()}
    given = {name: formed[role] for name, role in roles.items() if role in formed}
    return given | {name: c.filled(formed) for name, c in containers.items()}


# ------------------------------------------------------------------------------- an agent


def agent(cls: Any, *, mapping: Mapping[str, str] | None = None) -> Report:
    """Audit a class that acts and learns."""
    module = inspect.getmodule(cls)
    name = cls.__name__
    failed: list[str] = []
    for continuous in (False, True):
        for arrays in ("numpy", "torch", "list"):
            way = Way(continuous, arrays, False)
            try:
                report = _agent_in(cls, module, way)
            except CannotCall as error:
                failed.append(str(error))
                continue
            except (Exception, SystemExit) as error:
                failed.append(calling.one_line(error))
                continue
            return report
    raise CannotCall(f"{name} could not be trained. {_most_telling(failed)}")


def _most_telling(failed: Sequence[str]) -> str:
    if not failed:
        return "It has no method that learns."
    return "Tried: " + "; ".join(dict.fromkeys(failed))


def _agent_in(cls: Any, module: Any, way: Way) -> Report:
    torch = importlib.import_module("torch")
    with calling.quiet():
        torch.manual_seed(0)
        instance = made(cls, way.continuous, module)
    acting = _methods(instance, ACTING)
    learning = _methods(instance, LEARNING)
    if not learning:
        raise CannotCall(f"{cls.__name__} has no method that learns.")
    learn = learning[0]
    roles, containers = taken(learn)
    tape = Tape(STATE, None if way.continuous else CHOICES, most=40)
    tape.looks.append(soft.weigh)
    feed = Feed(tape, way, 0)
    stores = _methods(instance, STORING)
    with tape.running(), calling.quiet():
        try:
            for _ in range(ROUNDS):
                _round(instance, acting, learn, stores, roles, containers, feed)
        except Enough:
            pass
    judge = Judge(tape=tape, numbers=numbers_in(module, instance), whole=True)
    judge.run()
    for act in acting[:1]:
        samplers.judge(judge, tape, act, feed.observation, way.continuous)
    said = f"{calling.name_of(learn)}({', '.join([*roles, *containers])})"
    called = (
        f"PyTorch, {'continuous' if way.continuous else 'discrete'} actions: {len(tape.events)} "
        f"backwards in {ROUNDS} calls of {said}"
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
    found = [
        getattr(instance, name)
        for name, value in inspect.getmembers(type(instance), callable)
        if pattern.match(name)
        and str(getattr(value, "__module__", "")).partition(".")[0] != "torch"
    ]
    first = re.compile("^(update|learn|train|act)$|_?action$")
    return sorted(found, key=lambda m: (not first.search(m.__name__), m.__name__))


def _round(
    instance: Any,
    acting: list[Any],
    learn: Any,
    stores: list[Any],
    roles: Mapping[str, str],
    containers: Mapping[str, Any],
    feed: Feed,
) -> None:
    """One batch: asked for actions, and learnt from."""
    act = acting[0] if acting else None
    have = used(roles, containers)
    columns = feed.episode(act, whole=not have & {"dones", "continues"})
    names = list(inspect.signature(learn).parameters)
    single = any(n in ("state", "reward", "next_state", "obs", "done") for n in names)
    if single:
        for k in range(STEPS):
            feed.tape.updated = True
            feed.note_one(columns, have, k)
            row = {r: v[k] for r, v in columns.items()}
            row = {r: v.item() if np.ndim(v) == 0 else v for r, v in row.items()}
            row |= {"dones": bool(row["dones"])}
            learn(**arguments(roles, containers, row, feed.form))
        return
    feed.tape.updated = True
    feed.note(columns, have)
    learn(**arguments(roles, containers, columns, feed.form))


# ------------------------------------------------------------------------------- a function


def function(found: Callable[..., Any], *, mapping: Mapping[str, str] | None = None) -> Report:
    """Audit a loss or a sampler that is given networks."""
    module = inspect.getmodule(calling.underlying(found))
    failed: list[str] = []
    torch = importlib.import_module("torch")
    for continuous, cls in _networks(module):
        for arrays in ("torch", "numpy"):
            way = Way(continuous, arrays, False)
            try:
                torch.manual_seed(0)
                network = made(cls, continuous, module)
                return _function_in(found, network, module, way)
            except CannotCall as error:
                failed.append(str(error))
            except (Exception, SystemExit) as error:
                failed.append(calling.one_line(error))
    name = calling.name_of(found)
    raise CannotCall(f"{name} could not be called with a network of its file. {failed[:1]}")


def _networks(module: Any) -> Iterator[tuple[bool, Any]]:
    for cls in networks_of(module):
        for continuous in (False, True):
            yield continuous, cls


def _function_in(found: Callable[..., Any], network: Any, module: Any, way: Way) -> Report:
    roles, containers = taken(found)
    have = used(roles, containers)
    tape = Tape(STATE, None if way.continuous else CHOICES)
    feed = Feed(tape, way, 0)
    networks = {name: network for name, role in roles.items() if role == "network"}
    rest = {n: r for n, r in roles.items() if r != "network"}
    name = calling.name_of(found)
    judge = Judge(tape=tape, numbers=numbers_in(module), whole=True)
    called = f"PyTorch, with a {type(network).__name__}: {', '.join([*roles, *containers])}"
    if have <= {"states", "network", "actions"} and "actions" not in have:
        state = next(n for n, r in rest.items() if r == "states")

        def act(observation: np.ndarray) -> Any:
            return found(**networks, **{state: feed.form(observation)})

        with tape.running(), calling.quiet():
            samplers.judge(judge, tape, act, feed.observation, way.continuous)
        return concluded(judge, name, "distribution", called)
    with tape.running(), calling.quiet():
        for _ in range(ROUNDS):
            columns = feed.episode(None, whole=not have & {"dones", "continues"})
            feed.tape.updated = True
            feed.note(columns, have)
            result = found(**networks, **arguments(rest, containers, columns, feed.form))
            parts = result if isinstance(result, tuple) else (result,)
            sum(part.mean() for part in parts if getattr(part, "requires_grad", False)).backward()
    judge.run()
    return concluded(judge, name, "loss", called)
