"""Calling anyone's function: which parameter is which, in which framework, and what came back.

Nothing here knows what is audited: the roles a function may take (rewards, values, …) come from
the kind of audit, with the names that people usually give them.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import dis
import importlib
import importlib.util
import inspect
import io
import random
import re
import sys
import types
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from actorcritic.audit.calling.containers import Container, held_in
from actorcritic.audit.findings import CannotCall

# ------------------------------------------------------------------------------- the function


def load(path: str) -> Callable[..., Any]:
    """The function that `FILE.py:NAME`, `FILE.py:Class.method` or `module:NAME` names.

    A method is bound to an instance: made without arguments where that works, else bare, with
    the attributes it reads set by every call (`note(function)` says which).
    """
    place, colon, name = path.rpartition(":")
    if not colon or not place or not name:
        raise CannotCall(f"Name the function as FILE.py:FUNCTION or module:FUNCTION; got '{path}'.")
    module = load_module(place)
    found: Any = module
    owner: Any = None
    for part in name.split("."):
        owner, found = found, getattr(found, part, None)
        if found is None:
            known = [n for n in vars(owner) if not n.startswith("_") and callable(vars(owner)[n])]
            raise CannotCall(
                f"{place} has no function '{name}'. It has: {', '.join(known) or 'none'}."
            )
    if inspect.isclass(owner) and not isinstance(
        inspect.getattr_static(owner, name.split(".")[-1]), (staticmethod, classmethod)
    ):
        return types.MethodType(found, _instance(owner))
    if not callable(found):
        raise CannotCall(f"'{name}' of {place} is not a function but a {type(found).__name__}.")
    return found


def load_module(place: str) -> Any:
    is_file = place.endswith(".py") or "/" in place or "\\" in place
    try:
        if not is_file:
            with _on_path(Path.cwd()):
                return importlib.import_module(place)
        file = Path(place).expanduser().resolve()
        if not file.is_file():
            raise CannotCall(f"There is no file {place}.")
        name = f"_audited_{re.sub(r'[^0-9A-Za-z_]', '_', file.stem)}"
        spec = importlib.util.spec_from_file_location(name, file)
        if spec is None or spec.loader is None:
            raise CannotCall(f"{place} is not a Python file.")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look their module up
        with _on_path(file.parent):
            spec.loader.exec_module(module)
        return module
    except CannotCall:
        raise
    except (Exception, SystemExit) as error:
        raise CannotCall(f"Importing {place} failed: {one_line(error)}") from error


@contextlib.contextmanager
def _on_path(folder: Path) -> Iterator[None]:
    """Files import their neighbours, as they do when Python runs them."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))


# Instances made without running their __init__; kept alive, so that no id is ever another's.
_BARE: dict[int, Any] = {}


def _instance(cls: Any) -> Any:
    try:
        with quiet():
            return cls()
    except Exception:
        try:
            made = object.__new__(cls)
        except TypeError as error:
            raise CannotCall(
                f"No instance of {cls.__name__} can be made without arguments: {one_line(error)}"
            ) from error
        if type(made).__mro__[-2].__module__.startswith("torch"):
            with contextlib.suppress(Exception):
                sys.modules["torch"].nn.Module.__init__(made)
        _BARE[id(made)] = made
        return made


def name_of(function: Callable[..., Any]) -> str:
    """The function's name, for the report."""
    name = getattr(function, "__qualname__", None) or type(function).__name__
    return "lambda" if name.endswith("<lambda>") else name.rpartition("<locals>.")[2]


def one_line(error: BaseException) -> str:
    """An exception as one short line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:297]}{'…' if len(text) > 297 else ''}"


# ------------------------------------------------------------------------------- its parameters


class Case:
    """Everything a function may want, as attributes under any usual name. Notes what was read."""

    def __init__(self, values: Mapping[str, Any], roles: Mapping[str, tuple[str, ...]]) -> None:
        self._values, self._roles, self._read = values, roles, set[str]()

    def __getattr__(self, name: str) -> Any:
        role = name if name in self._values else match_name(name, self._roles)
        if role is None or role not in self._values:
            raise AttributeError(f"a case has no '{name}'; it has: {', '.join(self._values)}")
        self._read.add(role)
        return self._values[role]


class Matched(NamedTuple):
    """Which of our roles goes where."""

    parameters: dict[str, str]  # our role → the user's parameter
    attributes: dict[str, str]  # our role → an attribute of the instance whose method it is
    constants: dict[str, float]  # our role → the value of a global of that name that it reads
    left: tuple[str, ...]  # parameters that keep their defaults
    takes_case: bool  # it takes one `Case`
    roles: Mapping[str, tuple[str, ...]]  # that were looked for
    containers: Mapping[str, Container] = types.MappingProxyType({})  # parameters that hold roles

    @property
    def held(self) -> frozenset[str]:
        """The roles that stand inside of a batch, a memory or the like."""
        inside = (c.roles for c in self.containers.values())
        return frozenset(role for roles in inside for role in roles.values())

    @property
    def names(self) -> dict[str, str]:
        """Our role → what they call it."""
        held = {r: n for c in self.containers.values() for n, r in c.roles.items()}
        return held | self.parameters | self.attributes

    def takes(self, role: str) -> bool:
        """Whether the function is given this role; one that takes the case may use any."""
        taken = role in self.parameters or role in self.attributes
        return self.takes_case or taken or role in self.held

    def describe(self) -> str:
        """In words, for the report and for messages."""
        if self.takes_case:
            return "one case object"
        said = [
            theirs if theirs == ours else f"{theirs} as {ours}"
            for ours, theirs in self.parameters.items()
        ]
        said += [c.describe(name) for name, c in self.containers.items()]
        said += [f"self.{theirs} set to {ours}" for ours, theirs in self.attributes.items()]
        said += [f"{ours} = {value:g} from the module" for ours, value in self.constants.items()]
        said += [f"{name} left at its default" for name in self.left]
        return ", ".join(said) or "nothing"


_AFFIXES = re.compile(
    r"^(b|mb|batch|minibatch|the|all|rollout|traj|trajectory)_"
    r"|_(t|tm1|b|batch|buf|buffer|arr|array|tensor|list|seq|traj|np|th|vec|vector)$"
)


def _plain(name: str) -> str:
    return name.lower().replace("_", "")


def _bare(name: str) -> str:
    name = name.strip("_").lower()
    while (shorter := _AFFIXES.sub("", name)) != name and shorter:
        name = shorter
    return name.replace("_", "")


def _singular(name: str) -> str:
    return _bare(name).rstrip("s")


def match_name(
    name: str, roles: Mapping[str, tuple[str, ...]], taken: Collection[str] = ()
) -> str | None:
    """The role that a name usually stands for: read literally first, then ever more loosely."""
    for reading in (_plain, _bare, _singular):
        for role, usual in roles.items():
            known = {reading(word) for word in (role, *usual)}
            if role not in taken and reading(name) in known:
                return role
    return None


def recognise(
    function: Callable[..., Any],
    roles: Mapping[str, tuple[str, ...]],
    mapping: Mapping[str, str] | None = None,
) -> Matched:
    """Which parameter of `function` is which of our `roles` (role → its usual names).

    `mapping` (their name → our role) comes first. A parameter with a default that no role fits
    keeps it; one without must be mapped, or the function cannot be called.
    """
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError) as error:
        raise CannotCall(f"{name_of(function)} has no signature: {one_line(error)}") from error
    mapping = {theirs.removeprefix("self."): ours for theirs, ours in (mapping or {}).items()}
    reads = _attributes_read(function)
    for theirs, ours in mapping.items():
        if theirs not in parameters and theirs not in reads:
            raise CannotCall(
                f"{name_of(function)} has no parameter '{theirs}' to map. "
                f"It has: {', '.join(parameters)}."
            )
        role = ours if ours in roles else match_name(ours, roles)
        if role is None:
            raise CannotCall(
                f"--map {theirs}={ours}: there is no '{ours}'. Known: {', '.join(roles)}."
            )
        mapping[theirs] = role

    named: dict[str, str] = {ours: theirs for theirs, ours in mapping.items()}
    matched = {ours: theirs for ours, theirs in named.items() if theirs in parameters}
    missing, left = [], []
    for name, parameter in parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or name in mapping:
            continue
        role = match_name(name, roles, matched)
        if role is not None:
            matched[role] = name
        elif parameter.default is parameter.empty:
            missing.append(name)
        else:
            left.append(name)

    def known(name: str) -> str | None:
        ours = match_name(name, roles)
        return None if ours in matched else ours

    containers: dict[str, Container] = {}
    for name in list(missing):
        if (container := held_in(underlying(function), name, known)) is not None:
            containers[name] = container
            missing.remove(name)
    if len(missing) == 1 and not matched and not containers:
        return Matched({}, {}, {}, tuple(left), True, roles)
    if missing:
        tried = ", ".join(f"{theirs}={ours}" for ours, theirs in matched.items())
        likely = _likely(missing[0], roles, matched)
        proposed = f"perhaps --map {missing[0]}={likely}; else " if likely else ""
        raise CannotCall(
            f"{name_of(function)}: what is its parameter '{missing[0]}'? "
            f"Add {proposed}--map {missing[0]}=NAME, with NAME one of: {', '.join(roles)}. "
            f"Tried: {tried or 'nothing'}."
        )

    attributes = {ours: theirs for ours, theirs in named.items() if theirs not in parameters}
    for name in reads:
        role = match_name(name, roles)
        if role is not None and role not in matched and role not in attributes:
            attributes[role] = name
    constants: dict[str, float] = {}
    for name, value in _globals_read(function).items():
        role = match_name(name, roles)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if number and role is not None and role not in matched and role not in attributes:
            constants.setdefault(role, float(value))
    return Matched(matched, attributes, constants, tuple(left), False, roles, containers)


_NETWORK = re.compile(
    r"^((policy|actor|critic|value|q)_?)?(net|network|model|nn)$|^(actor_critic|agent|actor|critic)$"
)


def _root(value: Any) -> str:
    """The package that something comes from."""
    name = value.__name__ if inspect.ismodule(value) else getattr(value, "__module__", "")
    return str(name or "").split(".")[0]


def takes_network(function: Callable[..., Any]) -> bool:
    """Whether it is given a network of PyTorch, and states for it."""
    names = list(inspect.signature(function).parameters)
    inside = names_taken(function)
    states = any(match_name(n, {"states": ("obs", "observations", "observation")}) for n in inside)
    uses = {_root(value) for value in _globals_read(function).values()}
    return states and "torch" in uses and any(_NETWORK.match(name) for name in names)


def _likely(name: str, roles: Mapping[str, tuple[str, ...]], taken: Collection[str]) -> str | None:
    """The role whose usual names a name resembles most."""
    usual = {_plain(word): role for role, words in roles.items() for word in (role, *words)}
    free = [word for word, role in usual.items() if role not in taken]
    close = difflib.get_close_matches(_plain(name), free, 1, 0.7)
    return usual[close[0]] if close else None


def names_taken(function: Callable[..., Any]) -> list[str]:
    """The parameters, and the names of what is taken out of those that are batches."""
    names = list(inspect.signature(function).parameters)
    for name in list(names):
        container = held_in(underlying(function), name, lambda inside: inside)
        names += container.names if container is not None else ()
    return names


def underlying(function: Callable[..., Any]) -> Any:
    """The Python function with the code, below partial, jit and callable objects."""
    found: Any = function
    for _ in range(10):
        found = inspect.unwrap(found) if hasattr(found, "__wrapped__") else found
        if hasattr(found, "__func__"):
            found = found.__func__
        elif hasattr(found, "func"):
            found = found.func
        elif not hasattr(found, "__code__") and not inspect.isbuiltin(found):
            method = vars(type(found)).get("__call__")
            if not hasattr(method, "__code__"):
                return found
            found = method
        else:
            return found
    return found


def _attributes_read(function: Callable[..., Any]) -> tuple[str, ...]:
    """The attributes of its instance that a method reads, methods left out."""
    instance = getattr(function, "__self__", None)
    code = getattr(underlying(function), "__code__", None)
    if instance is None or inspect.isclass(instance) or code is None or not code.co_varnames:
        return ()
    self, names, last = code.co_varnames[0], [], ""
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_ATTR", "LOAD_METHOD") and last == self:
            method = callable(inspect.getattr_static(type(instance), instruction.argval, None))
            if not method and instruction.argval not in names:
                names.append(instruction.argval)
        loads = instruction.opname.startswith("LOAD_FAST")
        last = str(instruction.argval) if loads else ""
    return tuple(names)


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _globals_read(function: Callable[..., Any]) -> dict[str, Any]:
    """The globals and closed-over variables that it reads, and helpers of its file through them."""
    found: dict[str, Any] = {}
    seen: set[int] = set()
    waiting = [underlying(function)]
    while waiting:
        current = waiting.pop()
        code = getattr(current, "__code__", None)
        if code is None or id(code) in seen:
            continue
        seen.add(id(code))
        space = dict(current.__globals__)
        cells = zip(code.co_freevars, current.__closure__ or (), strict=False)
        for name, cell in cells:
            with contextlib.suppress(ValueError):
                space[name] = cell.cell_contents
        names = {n for inner in _codes(code) for n in (*inner.co_names, *inner.co_freevars)}
        for name in sorted(names & set(space)):
            value = space[name]
            found.setdefault(name, value)
            below = underlying(value) if callable(value) else None
            if getattr(below, "__module__", None) == getattr(current, "__module__", ""):
                waiting.append(below)
    return found


def numbers(function: Callable[..., Any]) -> tuple[float, ...]:
    """The positive numbers that are written in its code."""
    code = getattr(underlying(function), "__code__", None)
    if code is None:
        return ()
    found = [c for inner in _codes(code) for c in inner.co_consts]
    return tuple(dict.fromkeys(n for n in found if isinstance(n, float) and n > 0.0))


def literals(function: Callable[..., Any]) -> tuple[float, ...]:
    """Those in (0, 1]: where γ is when no parameter has it."""
    return tuple(n for n in numbers(function) if n <= 1.0)


# ------------------------------------------------------------------------------- frameworks


@dataclass(frozen=True)
class Framework:
    """What arrays are made of. `dtype` is that of the numbers given to the function."""

    name: str  # numpy, list, torch, torch-list, jax
    dtype: str = "float64"

    def array(self, x: Any, requires_grad: bool = False) -> Any:
        """A fresh array of this framework, so that the caller's is never changed."""
        x = np.array(x)
        if x.dtype.kind == "f":
            x = x.astype(self.dtype)
        if self.name == "numpy":
            return x
        if self.name == "list":
            return x.tolist()
        if self.name == "jax":
            import jax.numpy as jnp

            return jnp.asarray(x)
        torch = importlib.import_module("torch")
        tensor = torch.tensor(x, requires_grad=requires_grad and x.dtype.kind == "f")
        return list(tensor.unbind()) if self.name == "torch-list" and x.ndim else tensor

    def numpy(self, y: Any) -> np.ndarray:
        """The numbers of anything array-like, in their own precision."""
        return to_numpy(y)

    @contextlib.contextmanager
    def context(self) -> Iterator[None]:
        """Double precision where it is a mode, and JAX's default leniency about types."""
        if self.name != "jax":
            yield
            return
        import jax

        with (
            jax.enable_x64(self.dtype == "float64"),
            jax.numpy_dtype_promotion("standard"),
            jax.numpy_rank_promotion("allow"),
        ):
            yield

    def uncompiled(self) -> contextlib.AbstractContextManager[Any]:
        """Without JAX's compiler: a loop over a few steps is done before it would be compiled."""
        if self.name != "jax":
            return contextlib.nullcontext()
        import jax

        return jax.disable_jit()

    def __str__(self) -> str:
        words = {
            "numpy": "NumPy arrays",
            "list": "plain lists",
            "torch": "PyTorch tensors",
            "torch-list": "lists of PyTorch tensors",
            "jax": "JAX arrays",
        }[self.name]
        return words if self.dtype == "float64" else f"{words} ({self.dtype})"


def frameworks(function: Callable[..., Any], matched: Matched | None = None) -> list[Framework]:
    """Which to try, the likeliest first: by annotations, by what its code uses, then the rest.

    PyTorch is looked at only if it is installed, and imported only when its turn comes.
    """
    used = []
    text = " ".join(map(str, getattr(underlying(function), "__annotations__", {}).values()))
    for name, words in (
        ("torch", r"torch|Tensor"),
        ("jax", r"jax|jnp"),
        ("numpy", r"numpy|np\.|NDArray|ndarray"),
        ("list", r"\b[Ll]ist\b|Sequence|Iterable"),
    ):
        if re.search(words, text):
            used.append(name)
    roots = {_root(value) for value in _globals_read(function).values()}
    code = getattr(underlying(function), "__code__", None)
    inside = {n for inner in _codes(code) for n in inner.co_names} if code is not None else set()
    used += [name for name in ("torch", "jax") if name in roots or name in inside]
    used += ["numpy", "list", "torch", "jax"]
    installed = importlib.util.find_spec("torch") is not None
    options = {
        "numpy": [Framework("numpy")],
        "list": [Framework("list")],
        "torch": [
            Framework("torch"),
            Framework("torch-list"),
            Framework("torch", "float32"),
            Framework("torch-list", "float32"),
        ]
        if installed
        else [],
        "jax": [Framework("jax"), Framework("jax", "float32")],
    }
    return [option for name in dict.fromkeys(used) for option in options[name]]


def to_numpy(y: Any) -> np.ndarray:
    """The numbers of anything array-like, in their own precision. Raises where there are none."""
    if hasattr(y, "detach"):
        y = y.detach().cpu()
        return np.asarray(y.float().numpy() if "bfloat16" in str(y.dtype) else y.numpy())
    if isinstance(y, (list, tuple)) and y and not np.isscalar(y[0]):
        return np.stack([to_numpy(row) for row in y])
    array = np.asarray(y)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"not numbers but {type(y).__name__}")
    return array


# ------------------------------------------------------------------------------- the call


@dataclass(frozen=True)
class Returned:
    """What one call gave: its result, and what it was given as it is after the call."""

    result: Any
    given: dict[str, Any] = field(default_factory=dict)  # role → the (perhaps changed) argument
    instance: Any = None  # the copy of the instance whose method was called
    read: frozenset[str] = frozenset()  # the roles that a function of one case looked at

    def outputs(self, length: int | None = None) -> list[tuple[str, np.ndarray]]:
        """The arrays that came back, with their names ('' where they have none).

        `length` is that of the first axis: a list of so many rows is one array, not many.
        """
        return list(_outputs(self.result, length))


def _outputs(result: Any, length: int | None) -> Iterator[tuple[str, np.ndarray]]:
    if result is None:
        return
    if hasattr(result, "_asdict"):
        result = result._asdict()
    elif hasattr(result, "__dataclass_fields__") and not isinstance(result, type):
        result = {name: getattr(result, name) for name in result.__dataclass_fields__}
    if isinstance(result, (SimpleNamespace,)):
        result = vars(result)
    if isinstance(result, Mapping):
        for name, value in result.items():
            with contextlib.suppress(Exception):
                yield str(name), to_numpy(value)
        return
    if isinstance(result, (list, tuple)):
        scalars = all(np.ndim(to_numpy_or_none(x)) == 0 for x in result)
        rows = isinstance(result, list) and len(result) == length
        if not ((scalars and (length is None or len(result) == length)) or rows):
            for value in result:
                with contextlib.suppress(Exception):
                    yield "", to_numpy(value)
            return
    yield "", to_numpy(result)


def to_numpy_or_none(y: Any) -> Any:
    """Its numbers, or an array that no one takes for a scalar."""
    try:
        return to_numpy(y)
    except Exception:
        return np.zeros(1)


def call(
    function: Callable[..., Any],
    matched: Matched,
    values: Mapping[str, Any],
    framework: Framework | None = None,
    convert: bool = True,
    whole: Collection[str] = (),
) -> Returned:
    """Call it with these values of our roles; roles that it does not take are left out.

    Arrays become fresh ones of `framework` (unless `convert` is False: then the values are handed
    over as they are, inside the framework's context); those of the roles in `whole` are one tensor
    where the others are lists of them. Numbers stay numbers. Quiet, and the same every time.
    Whatever the function raises is raised here: `attempt` turns it into words.
    """
    framework = framework or Framework("numpy")
    with framework.context(), quiet():

        def handed(role: str, value: Any) -> Any:
            if not (convert and isinstance(value, np.ndarray)):
                return value
            one = framework.name == "torch-list" and role in whole
            return (Framework("torch", framework.dtype) if one else framework).array(value)

        if matched.takes_case:
            given = {role: handed(role, value) for role, value in values.items()}
            case = Case(given, matched.roles)
            return Returned(_collected(function(case)), given, None, frozenset(case._read))
        given = {
            r: handed(r, values[r])
            for r in (*matched.parameters, *matched.attributes, *matched.held)
            if r in values
        }
        target: Any = function
        instance = getattr(function, "__self__", None)
        if matched.attributes or (instance is not None and id(instance) in _BARE):
            instance = copy.copy(instance)
            for role, name in matched.attributes.items():
                if role in given:
                    setattr(instance, name, given[role])
            target = types.MethodType(function.__func__, instance)  # type: ignore[attr-defined]
        arguments, keywords = [], {}
        for name, parameter in inspect.signature(function).parameters.items():
            taken = next((r for r, p in matched.parameters.items() if p == name), None)
            if name in matched.containers:
                value = matched.containers[name].filled(given)
            elif taken in given:
                value = given[taken]
            else:
                continue
            if parameter.kind is parameter.POSITIONAL_ONLY:
                arguments.append(value)
            else:
                keywords[name] = value
        return Returned(_collected(target(*arguments, **keywords)), given, instance)


def attempt(
    function: Callable[..., Any],
    matched: Matched,
    values: Mapping[str, Any],
    framework: Framework | None = None,
    convert: bool = True,
) -> Returned:
    """`call`, whose exceptions become a `CannotCall` that says how it was called."""
    try:
        return call(function, matched, values, framework, convert)
    except CannotCall:
        raise
    except (Exception, SystemExit) as error:
        raise CannotCall(
            f"{name_of(function)} failed when called with {matched.describe()} "
            f"({framework or Framework('numpy')}): {one_line(error)}"
        ) from error


def note(function: Callable[..., Any]) -> str:
    """How the instance of a method was made, where it was made here."""
    instance = getattr(function, "__self__", None)
    if id(instance) not in _BARE:
        return ""
    return f"an instance of {type(instance).__name__} made without its __init__"


def _collected(result: Any) -> Any:
    return list(result) if isinstance(result, Iterator) else result


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No output, no warnings, and the same random numbers every time; the caller's are kept."""
    state, numpy_state = random.getstate(), np.random.get_state()
    torch = sys.modules.get("torch")
    with (
        contextlib.redirect_stdout(io.StringIO()),
        warnings.catch_warnings(),
        np.errstate(all="ignore"),
        torch.random.fork_rng(devices=[]) if torch is not None else contextlib.nullcontext(),
    ):
        warnings.simplefilter("ignore")
        random.seed(0)
        np.random.seed(0)
        if torch is not None:
            torch.manual_seed(0)
        try:
            yield
        finally:
            random.setstate(state)
            np.random.set_state(numpy_state)
