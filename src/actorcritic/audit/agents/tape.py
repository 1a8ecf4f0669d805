"""A recording of what PyTorch code does: its networks' outputs, their gradients, its optimisers.

Observations are told by their numbers, so that every row of every output is known to belong to a
step of the environment. What reaches an output in `backward()` is the gradient of the loss by what
the network said: the same thing that the audit of a loss looks at, in a class or a script.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

ENOUGH, FEW = 2048, 12  # steps of an environment, where so many of an optimiser were seen


class Transition(NamedTuple):
    """One step of an environment; states are known by the order in which they were first seen."""

    state: int
    action: Any
    reward: float
    following: int  # the true successor
    terminated: bool
    truncated: bool
    env: int = 0
    given: Mapping[str, float] = MappingProxyType({})  # handed to the learner: returns, …


@dataclass(eq=False)
class Output:
    """What a network gave at some observations: a number or a vector for each."""

    states: list[int]
    numbers: np.ndarray  # [N], or [N, D]
    head: tuple[int, int]  # which network, and which of its outputs
    actions: Any  # that it was given beside the observations, [N, D]
    tensor: Any
    module: Any
    order: int = 0


@dataclass(eq=False)
class Policy:
    """A distribution that was made at some observations."""

    states: list[int]
    probs: Any = None  # [N, A]; or, where it is a normal one:
    means: Any = None  # [N, D]
    stds: Any = None
    roots: dict[str, Any] = field(default_factory=dict)  # the tensors that its gradient arrives at
    draws: list[Any] = field(default_factory=list)  # tensors of its samples
    softmax_twice: bool = False
    raw: bool = False  # a network's output, of which no distribution need have been made
    order: int = 0  # when it was made, among policies and backwards

    @property
    def drawn(self) -> np.ndarray:
        """The last sample, in the shape of the means."""
        return np.asarray(array(self.draws[-1]).reshape(self.means.shape))


@dataclass(eq=False)
class Event:
    """One call of backward()."""

    clock: int  # how many steps had been taken
    begin: int  # the first step since the parameters changed before it
    since: int  # when the parameters changed before those steps
    order: int
    policies: list[tuple[Policy, dict[str, np.ndarray]]]
    outputs: list[tuple[Output, np.ndarray]]
    weight: float | None = None  # of log π, where an actor climbs Q


class Enough(BaseException):
    """There is nothing more to be learnt from running on."""


def array(tensor: Any) -> np.ndarray:
    return np.array(tensor.detach().cpu().double().numpy())


def are_probabilities(rows: np.ndarray) -> bool:
    return bool(np.all(rows >= 0) and np.allclose(rows.sum(-1), 1, atol=1e-5))


class Tape:
    """Recorder; `with tape.running():` around the code."""

    def __init__(
        self, width: int, choices: int | None, most: int, look: Callable[[Tape, Event], None]
    ) -> None:
        self.torch: Any = importlib.import_module("torch")
        self.width, self.choices, self.most = width, choices, most
        self.look = look  # after every backward
        self.known: dict[bytes, int] = {}  # observations
        self.transitions: list[Transition] = []
        self.outputs: list[Output] = []
        self.policies: list[Policy] = []
        self.events: list[Event] = []
        self.begin, self.updated, self.steps = 0, True, 0
        self.marks: dict[Any, str] = {}  # of parameters, by what a step did with their gradient
        self.stepped: set[Any] = set()  # parameters that an optimiser has
        self.initial: dict[Any, Any] = {}  # parameters as they were when first reached
        self.upwards = False  # an optimiser that maximises
        self.elsewhere = False  # gradients that are taken by torch.autograd.grad
        self.stale = False  # a step with a gradient that was used before
        self._flows: dict[Any, dict[str, np.ndarray]] = {}  # of the backward that is going on
        self._last: list[int] = []  # the states that the network at work was given
        self._lead: tuple[int, ...] = ()
        self._before = self._depth = self._order = self._changed = self.since = 0

    # -- observations and steps

    def state(self, observation: Any) -> int:
        """The number of an observation; a new one for new numbers."""
        row = np.asarray(observation, np.float32).ravel()
        return self.known.setdefault(row.tobytes(), len(self.known))

    def step(self, transition: Transition) -> None:
        long = len(self.transitions) - self.begin > 1  # there are many steps to an update
        if long and self.steps >= FEW and len(self.transitions) >= ENOUGH:
            raise Enough
        if self.updated:
            self.begin, self.updated = len(self.transitions), False
            self.since = self._changed
        self.transitions.append(transition)

    def _floats(self, tensor: Any) -> bool:
        return bool(self.torch.is_tensor(tensor) and tensor.dtype.is_floating_point)

    def _rows(self, tensor: Any) -> list[int] | None:
        """The states in the rows of a tensor, if all of them are known."""
        if not self._floats(tensor) or tensor.ndim == 0 or tensor.numel() == 0:
            return None
        if tensor.shape[-1] < self.width:
            return None
        rows = tensor.detach().reshape(-1, tensor.shape[-1])[:, : self.width].float().cpu().numpy()
        found = [self.known.get(row.tobytes()) for row in rows]
        return None if None in found else [k for k in found if k is not None]

    # -- networks

    def _enter(self, module: Any, inputs: Sequence[Any]) -> None:
        self._depth += 1
        if self._depth > 1:
            return
        self._before = len(self.policies)
        for tensor in inputs:
            if (states := self._rows(tensor)) is not None:
                self._last, self._lead = states, tuple(tensor.shape[:-1])
                return

    def _leave(self, module: Any, inputs: Sequence[Any], output: Any) -> None:
        self._depth -= 1
        if self._depth > 0 or not self._last:
            return
        beside = self._beside(inputs)
        if beside is not None and any(not p.raw for p in self.policies[self._before :]):
            return  # log-probabilities of actions that a policy was given: no Q(s, a)
        parts = list(output.values()) if isinstance(output, dict) else output
        count, lead = len(self._last), self._lead
        for index, tensor in enumerate(parts if isinstance(parts, (tuple, list)) else [parts]):
            if not self._floats(tensor) or lead not in (tensor.shape, tensor.shape[:-1]):
                continue
            numbers = array(tensor).reshape(count, -1)
            numbers = numbers[:, 0] if numbers.shape[1] == 1 else numbers
            head = (id(module), index)
            made = Output(self._last, numbers, head, beside, tensor, module)
            self._follow(made, {"": tensor})
            self.outputs.append(made)
            if self.choices and numbers.ndim == 2 and numbers.shape[1] == self.choices:
                self._raw(tensor, numbers)

    def _raw(self, tensor: Any, numbers: np.ndarray) -> None:
        """Logits or probabilities, as a policy."""
        if are_probabilities(numbers):
            root, probs = "probs", numbers
        else:
            root, probs = "logits", np.exp(numbers - numbers.max(-1, keepdims=True))
        policy = Policy(self._last, probs / probs.sum(-1, keepdims=True), raw=True)
        policy.roots = {root: tensor}
        self._follow(policy, policy.roots)
        self.policies.append(policy)

    def _beside(self, inputs: Sequence[Any]) -> Any:
        """The actions that a network was given together with the observations."""
        tensors = [t for t in inputs if self.torch.is_tensor(t)]
        if not tensors or self._rows(tensors[0]) is None:
            return None
        if len(tensors) > 1 and tensors[1].ndim:
            return tensors[1]
        return tensors[0][..., self.width :] if tensors[0].shape[-1] > self.width else None

    def _tick(self) -> int:
        self._order += 1
        return self._order

    def _follow(self, made: Output | Policy, tensors: dict[str, Any]) -> None:
        """Note when it was made, and what gradients reach it."""
        made.order = self._tick()
        for name, tensor in tensors.items():
            if tensor.requires_grad:
                tensor.register_hook(lambda g, n=name: self._flow(made, n, g))

    def _flow(self, made: Output | Policy, name: str, gradient: Any) -> None:
        flows = self._flows.setdefault(made, {})
        found = array(gradient).reshape(len(made.states), -1)
        flows[name] = flows[name] + found if name in flows else found

    # -- distributions

    def _made(
        self, names: tuple[str, ...], original: Callable[..., Any], dist: Any,
        *args: Any, **named: Any,
    ) -> None:  # fmt: skip
        original(dist, *args, **named)
        if not self._last:
            return
        given = dict(zip(names, args, strict=False)) | named
        count, policy = len(self._last), Policy(self._last)
        if isinstance(dist, self.torch.distributions.Categorical):
            if int(np.prod(dist.batch_shape)) != count:
                return
            root = "probs" if given.get("probs") is not None else "logits"
            policy.roots = {root: getattr(dist, root)}
            policy.probs = array(dist.probs).reshape(count, -1)
            if given.get("logits") is not None:
                policy.softmax_twice = are_probabilities(array(given["logits"]).reshape(count, -1))
        else:
            if dist.loc.numel() % count or dist.loc.numel() == 0:
                return
            policy.roots = {"means": dist.loc}
            if hasattr(dist, "scale"):
                policy.roots["stds"] = dist.scale
            scale = policy.roots.get("stds")
            scale = dist.variance.sqrt() if scale is None else scale
            policy.means, policy.stds = (array(x).reshape(count, -1) for x in (dist.loc, scale))
        dist._recorded = policy
        self._follow(policy, policy.roots)
        self.policies.append(policy)

    def _drawn(self, original: Callable[..., Any], dist: Any, *args: Any, **named: Any) -> Any:
        found = original(dist, *args, **named)
        if hasattr(dist, "_recorded"):
            dist._recorded.draws.append(found)
        return found

    # -- gradients and steps

    def _backward(self, original: Callable[..., Any], loss: Any, *args: Any, **named: Any) -> Any:
        for p, mark in self.marks.items():
            if p.grad is None or not p.grad.any():
                self.marks[p] = "fresh"
            elif mark == "used":
                self.marks[p] = "used twice"
        self._flows = {}
        result = original(loss, *args, **{**named, "retain_graph": True})
        flows = sorted(self._flows.items(), key=lambda item: item[0].order)
        self._flows = {}
        outputs = [
            (o, flow[""].reshape(o.numbers.shape)) for o, flow in flows if isinstance(o, Output)
        ]
        policies = [(p, flow) for p, flow in flows if isinstance(p, Policy)]
        event = Event(
            len(self.transitions), self.begin, self.since, self._tick(), policies, outputs
        )
        self.events.append(event)
        for module in {o.module for o, _ in outputs}:
            for p in module.parameters():
                if p not in self.initial:
                    self.initial[p] = p.detach().clone()
        self.look(self, event)
        return result

    def _taken(self, original: Callable[..., Any], *args: Any, **named: Any) -> Any:
        self.elsewhere = True
        return original(*args, **named)

    def _optimised(self, optimizer: Any, *_: Any) -> None:
        for group in optimizer.param_groups:
            self.upwards |= bool(group.get("maximize"))
            self.stepped.update(group["params"])
            for p in group["params"]:
                if p.grad is not None:
                    self.stale |= self.marks.get(p) == "used twice"
                    self.marks[p] = "used"
        self.steps += 1
        self.updated, self._changed = True, self._tick()
        if self.steps >= self.most:
            raise Enough

    @contextlib.contextmanager
    def running(self) -> Iterator[Tape]:
        """With everything patched that has to be seen; as it was afterwards."""
        torch, stack = self.torch, contextlib.ExitStack()
        hooks = torch.nn.modules.module
        optimizers = importlib.import_module("torch.optim.optimizer")

        def patch(owner: Any, name: str, stand_in: Callable[..., Any]) -> None:
            """`stand_in` is given what it stands for, and then what that is given."""
            original = getattr(owner, name)
            stack.enter_context(
                mock.patch.object(owner, name, lambda *a, **k: stand_in(original, *a, **k))
            )

        with lightly(torch), stack:
            for handle in (
                hooks.register_module_forward_pre_hook(self._enter),
                hooks.register_module_forward_hook(self._leave, always_call=True),
                optimizers.register_optimizer_step_pre_hook(self._optimised),
            ):
                stack.callback(handle.remove)
            patch(torch.autograd, "grad", self._taken)
            patch(torch.Tensor, "backward", self._backward)
            for name, parameters in (
                ("Categorical", ("probs", "logits")),
                ("Normal", ("loc", "scale")),
                ("MultivariateNormal", ("loc", "covariance_matrix")),
            ):
                cls = getattr(torch.distributions, name)
                patch(cls, "__init__", functools.partial(self._made, parameters))
                for method in {"sample", "rsample"} & set(vars(cls)):
                    patch(cls, method, self._drawn)
            yield self
        self._depth = 0


# ------------------------------------------------------------------------------- PyTorch, quicker


class _Compiler(types.ModuleType):
    """For torch._dynamo, which optimisers import to be left alone by it; it takes a second.

    Where more is wanted of it, the real one is imported.
    """

    @staticmethod
    def graph_break(*_: Any, **__: Any) -> None:
        return None

    @staticmethod
    def disable(function: Any, *_: Any, **__: Any) -> Any:
        return function

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


@contextlib.contextmanager
def lightly(torch: Any) -> Iterator[None]:
    """On one thread, since what is audited is small, and without the compiler."""
    threads, name = torch.get_num_threads(), "torch._dynamo"
    stand_in = _Compiler(name)
    if sys.modules.setdefault(name, stand_in) is stand_in:
        torch._dynamo = stand_in
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if sys.modules.get(name) is stand_in:
            del sys.modules[name]
            del torch._dynamo
