"""A recording of what PyTorch code does: its networks' outputs, their gradients, its optimisers.

Observations are told by their numbers, so that every row of every output is known to belong to a
step of the environment. What reaches an output in `backward()` is the gradient of the loss by what
the network said: the same thing that the audit of a loss looks at, in a class or a script.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np


class Transition(NamedTuple):
    """One step of an environment; states are known by the order in which they were first seen."""

    state: int
    action: Any
    reward: float
    following: int  # the true successor
    terminated: bool
    truncated: bool
    env: int = 0
    given: Mapping[str, float] = MappingProxyType(
        {}
    )  # what the learner was handed beside it: returns, advantages, …


@dataclass(eq=False)
class Output:
    """What a network gave at some observations: a number or a vector for each."""

    states: list[int]
    numbers: np.ndarray  # [N], or [N, D]
    head: tuple[int, int]  # which network, and which of its outputs
    clock: int  # how many steps had been taken
    actions: Any = None  # that it was given beside the observations, [N, D]
    tensor: Any = None
    module: Any = None
    gradient: np.ndarray | None = None  # of the backward that is going on
    order: int = 0


@dataclass(eq=False)
class Policy:
    """A distribution that was made at some observations."""

    states: list[int]
    kind: str  # "categorical" or "normal"
    probs: np.ndarray | None  # [N, A]
    means: np.ndarray | None  # [N, D]
    stds: np.ndarray | None
    clock: int
    roots: dict[str, Any] = field(default_factory=dict)  # the tensors that its gradient arrives at
    gradients: dict[str, np.ndarray] = field(default_factory=dict)
    draws: list[Any] = field(default_factory=list)  # tensors of its samples
    softmax_twice: bool = False
    order: int = 0  # when it was made, among policies and backwards
    raw: bool = False  # a network's output, of which no distribution need have been made


@dataclass(eq=False)
class Event:
    """One call of backward()."""

    loss: float
    clock: int
    begin: int  # the first step since the parameters changed before it
    policies: list[tuple[Policy, dict[str, np.ndarray]]]
    outputs: list[tuple[Output, np.ndarray]]
    number: int  # optimiser steps before it
    order: int
    since: int  # when the parameters changed before those steps
    weight: float | None = None  # of log π, where an actor climbs Q


class Enough(BaseException):
    """There is nothing more to be learnt from running on."""


class Tape:
    """Recorder; `with tape.running():` around the code."""

    def __init__(self, width: int, choices: int | None, most: int = 12) -> None:
        self.torch: Any = importlib.import_module("torch")
        self.width, self.choices, self.most = width, choices, most
        self.looks: list[Callable[[Tape, Event], None]] = []  # after every backward
        self.known: dict[bytes, int] = {}
        self.observations: list[np.ndarray] = []
        self.transitions: list[Transition] = []
        self.outputs: list[Output] = []
        self.policies: list[Policy] = []
        self.events: list[Event] = []
        self.begin, self.updated, self.steps = 0, True, 0
        self.stepped: set[int] = set()  # parameters that an optimiser has
        self.reached: dict[int, Any] = {}  # parameters that some gradient reached
        self.marks: dict[int, str] = {}  # whether a gradient was used by a step: fresh, used, dirty
        self.initial: dict[int, tuple[Any, Any]] = {}  # parameters as they were when first reached
        self.upwards = False  # an optimiser that maximises
        self.elsewhere = False  # gradients that are taken by torch.autograd.grad
        self.stale = False  # a step with a gradient that was used before
        self.first = self.before = 0  # outputs and policies that earlier backwards have seen
        self._last: list[int] = []
        self._lead: tuple[int, ...] = ()
        self._before = self._depth = self._order = self._changed = self.since = 0
        self._busy = False

    # -- observations and steps

    def state(self, observation: Any) -> int:
        """The number of an observation; a new one for new numbers."""
        row = np.asarray(observation, np.float32).ravel()
        key = row.tobytes()
        if key not in self.known:
            self.known[key] = len(self.observations)
            self.observations.append(row)
        return self.known[key]

    def step(self, transition: Transition) -> None:
        if self.updated:
            self.begin, self.updated = len(self.transitions), False
            self.since = self._changed
        self.transitions.append(transition)

    def _rows(self, tensor: Any) -> list[int] | None:
        """The states in the rows of a tensor, if all of them are known."""
        if not self.torch.is_tensor(tensor) or not tensor.dtype.is_floating_point:
            return None
        if tensor.ndim == 0 or tensor.shape[-1] < self.width or tensor.numel() == 0:
            return None
        rows = tensor.detach().reshape(-1, tensor.shape[-1])[:, : self.width]
        array = rows.float().cpu().numpy()
        found = [self.known.get(np.ascontiguousarray(row).tobytes()) for row in array]
        return None if None in found else [k for k in found if k is not None]

    # -- networks

    def _enter(self, module: Any, inputs: Sequence[Any]) -> None:
        self._depth += 1
        if self._depth > 1 or self._busy:
            return
        self._before = len(self.policies)
        for tensor in inputs:
            states = self._rows(tensor)
            if states is not None:
                self._last, self._lead = states, tuple(tensor.shape[:-1])
                return

    def _leave(self, module: Any, inputs: Sequence[Any], output: Any) -> None:
        self._depth -= 1
        if self._depth > 0 or self._busy or not self._last:
            return
        direct = any(self._rows(t) is not None for t in inputs)
        beside = self._beside(inputs)
        if beside is not None and any(not p.raw for p in self.policies[self._before :]):
            return  # log-probabilities of actions that a policy was given: no Q(s, a)
        parts = output if isinstance(output, (tuple, list)) else [output]
        if isinstance(output, dict):
            parts = list(output.values())
        for index, tensor in enumerate(parts):
            if not self.torch.is_tensor(tensor) or not tensor.dtype.is_floating_point:
                continue
            lead, shape = self._lead, tuple(tensor.shape)
            if shape not in (lead, (*lead, 1)) and shape[:-1] != lead:
                continue
            count = len(self._last)
            numbers = tensor.detach().cpu().double().numpy().reshape(count, -1).copy()
            numbers = numbers[:, 0] if numbers.shape[1] == 1 else numbers
            made = Output(
                list(self._last), numbers, (id(module), index), len(self.transitions),
                beside, tensor, module if direct else None,
            )  # fmt: skip
            made.order = self._tick()
            self.outputs.append(made)
            if tensor.requires_grad:
                tensor.register_hook(lambda g, o=made: self._add(o, g))
            if self.choices and numbers.ndim == 2 and numbers.shape[1] == self.choices:
                self._raw(tensor, numbers)

    def _raw(self, tensor: Any, numbers: np.ndarray) -> None:
        """Logits or probabilities, as a policy."""
        is_probs = bool(np.all(numbers >= 0) and np.allclose(numbers.sum(-1), 1, atol=1e-5))
        shifted = np.exp(numbers - numbers.max(-1, keepdims=True))
        probs = numbers if is_probs else shifted / shifted.sum(-1, keepdims=True)
        self._follow(
            Policy(
                list(self._last), "categorical", probs, None, None, len(self.transitions),
                {"probs" if is_probs else "logits": tensor}, raw=True,
            )
        )  # fmt: skip

    def _tick(self) -> int:
        self._order += 1
        return self._order

    def _follow(self, policy: Policy) -> None:
        policy.order = self._tick()
        for name, tensor in policy.roots.items():
            if tensor.requires_grad:
                tensor.register_hook(lambda g, n=name, p=policy: self._flow(p, n, g))
        self.policies.append(policy)

    def _beside(self, inputs: Sequence[Any]) -> Any:
        """The actions that a network was given together with the observations."""
        tensors = [t for t in inputs if self.torch.is_tensor(t)]
        if not tensors or self._rows(tensors[0]) is None:
            return None
        if len(tensors) > 1 and tensors[1].ndim:
            return tensors[1]
        return tensors[0][..., self.width :] if tensors[0].shape[-1] > self.width else None

    def _add(self, output: Output, gradient: Any) -> None:
        found = gradient.detach().cpu().double().numpy().reshape(output.numbers.shape)
        output.gradient = found if output.gradient is None else output.gradient + found

    # -- distributions

    def _made(self, dist: Any, given: dict[str, Any]) -> None:
        if self._busy or not self._last:
            return
        count, torch = len(self._last), self.torch
        policy = Policy(list(self._last), "normal", None, None, None, len(self.transitions))
        if isinstance(dist, torch.distributions.Categorical):
            if int(np.prod(dist.batch_shape)) != count:
                return
            root = "probs" if given.get("probs") is not None else "logits"
            policy.kind, policy.roots = "categorical", {root: getattr(dist, root)}
            policy.probs = self._array(dist.probs, count)
            raw = given.get("logits")
            if raw is not None:
                raw = self._array(raw, count)
                policy.softmax_twice = bool(
                    np.all(raw >= 0) and np.allclose(raw.sum(-1), 1, atol=1e-5)
                )
        else:
            loc = dist.loc
            scale = dist.scale if hasattr(dist, "scale") else dist.variance.sqrt()
            if loc.numel() % count or loc.numel() == 0:
                return
            policy.roots = {"means": loc}
            if hasattr(dist, "scale"):
                policy.roots["stds"] = scale
            policy.means, policy.stds = self._array(loc, count), self._array(scale, count)
        dist._recorded = policy
        self._follow(policy)

    def _flow(self, policy: Policy, name: str, gradient: Any) -> None:
        found = self._array(gradient, len(policy.states))
        policy.gradients[name] = policy.gradients.get(name, 0) + found

    def _array(self, tensor: Any, count: int) -> np.ndarray:
        return np.asarray(tensor.detach().cpu().double().numpy().reshape(count, -1)).copy()

    # -- gradients and steps

    def _backward(self, original: Callable[..., Any], loss: Any, *args: Any, **named: Any) -> Any:
        for number, p in self.reached.items():
            if p.grad is None or not p.grad.any():
                self.marks[number] = "fresh"
            elif self.marks.get(number) == "used":
                self.marks[number] = "dirty"
        for output in self.outputs[self.first :]:
            output.gradient = None
        for policy in self.policies[self.before :]:
            policy.gradients = {}
        result = original(loss, *args, **{**named, "retain_graph": True})
        self.events.append(
            Event(
                float(loss.detach().sum()), len(self.transitions), self.begin,
                [(p, dict(p.gradients)) for p in self.policies[self.before :] if p.gradients],
                [(o, o.gradient) for o in self.outputs[self.first :] if o.gradient is not None],
                self.steps, self._tick(), self.since,
            )
        )  # fmt: skip
        for output in self.outputs[self.first :]:
            if output.gradient is not None and output.module is not None:
                for p in output.module.parameters():
                    if id(p) not in self.initial:
                        self.initial[id(p)] = (p, p.detach().clone())
        for look in self.looks:
            look(self, self.events[-1])
        return result

    def _taken(self, original: Callable[..., Any], *args: Any, **named: Any) -> Any:
        self.elsewhere |= not self._busy
        return original(*args, **named)

    def _optimised(self, optimizer: Any) -> None:
        for group in optimizer.param_groups:
            self.upwards |= bool(group.get("maximize"))
            for p in group["params"]:
                self.stepped.add(id(p))
                if p.grad is not None:
                    self.reached[id(p)] = p
                    self.stale |= self.marks.get(id(p)) == "dirty"
                    self.marks[id(p)] = "used"
        self.steps += 1
        self.updated, self._changed = True, self._tick()
        if self.steps >= self.most:
            raise Enough

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Nothing is recorded."""
        busy, self._busy = self._busy, True
        try:
            yield
        finally:
            self._busy = busy

    @contextlib.contextmanager
    def running(self) -> Iterator[Tape]:
        """With everything patched that has to be seen; as it was afterwards."""
        torch = self.torch
        hooks = torch.nn.modules.module
        optimizers = importlib.import_module("torch.optim.optimizer")
        handles = [
            hooks.register_module_forward_pre_hook(self._enter),
            hooks.register_module_forward_hook(self._leave, always_call=True),
            optimizers.register_optimizer_step_pre_hook(
                lambda optimizer, *_: self._optimised(optimizer)
            ),
        ]
        patched = [
            (torch.Tensor, "backward", torch.Tensor.backward),
            (torch.autograd, "grad", torch.autograd.grad),
        ]
        grad = torch.autograd.grad
        torch.autograd.grad = lambda *a, **k: self._taken(grad, *a, **k)
        backward = torch.Tensor.backward
        torch.Tensor.backward = lambda loss, *a, **k: self._backward(backward, loss, *a, **k)
        for name, parameters in (
            ("Categorical", ("probs", "logits")),
            ("Normal", ("loc", "scale")),
            ("MultivariateNormal", ("loc", "covariance_matrix")),
        ):
            cls = getattr(torch.distributions, name)
            patched.append((cls, "__init__", cls.__init__))
            cls.__init__ = self._noting(cls.__init__, parameters)
            for method in {"sample", "rsample"} & set(vars(cls)):
                patched.append((cls, method, getattr(cls, method)))
                setattr(cls, method, self._drawing(getattr(cls, method)))
        try:
            yield self
        finally:
            for handle in handles:
                handle.remove()
            for owner, name, original in patched:
                setattr(owner, name, original)
            self._depth = 0

    def _noting(self, original: Callable[..., Any], parameters: Sequence[str]) -> Any:
        def made(dist: Any, *args: Any, **named: Any) -> None:
            original(dist, *args, **named)
            given = dict(zip(parameters, args, strict=False)) | named
            self._made(dist, given)

        return made

    def _drawing(self, original: Callable[..., Any]) -> Any:
        def drawn(dist: Any, *args: Any, **named: Any) -> Any:
            found = original(dist, *args, **named)
            policy = getattr(dist, "_recorded", None)
            if policy is not None:
                policy.draws.append(found)
            return found

        return drawn
