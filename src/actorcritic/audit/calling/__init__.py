"""Calling anyone's function: which parameter is which, in which framework, and what came back.

Nothing here knows what is audited: the roles a function may take (rewards, values, …) come from
the kind of audit, with the names that people usually give them.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import importlib.util
import inspect
import re
import types
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from actorcritic.audit.calling.functions import (  # noqa: F401  (names of the package)
    BARE,
    codes,
    globals_read,
    literals,
    load,
    load_module,
    name_of,
    note,
    numbers,
    one_line,
    quiet,
    root,
    underlying,
)
from actorcritic.audit.calling.parameters import (  # noqa: F401
    Case,
    Matched,
    match_name,
    names_taken,
    recognise,
    takes_network,
)
from actorcritic.audit.findings import CannotCall, Report

_NAMES = {
    "numpy": "NumPy arrays",
    "list": "plain lists",
    "torch": "PyTorch tensors",
    "torch-list": "lists of PyTorch tensors",
    "jax": "JAX arrays",
}


@dataclass(frozen=True)
class Framework:
    """What arrays are made of. `dtype` is that of the numbers given to the function."""

    name: str
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
        words = _NAMES[self.name]
        return words if self.dtype == "float64" else f"{words} ({self.dtype})"


_ANNOTATIONS = {
    "torch": r"torch|Tensor",
    "jax": r"jax|jnp",
    "numpy": r"numpy|np\.|NDArray|ndarray",
    "list": r"\b[Ll]ist\b|Sequence|Iterable",
}


def frameworks(function: Callable[..., Any], matched: Matched | None = None) -> list[Framework]:
    """Which to try, the likeliest first: by annotations, by what its code uses, then the rest."""
    text = " ".join(map(str, getattr(underlying(function), "__annotations__", {}).values()))
    likely = [name for name, words in _ANNOTATIONS.items() if re.search(words, text)]
    used = {root(value) for value in globals_read(function).values()}
    used |= {name for code in codes(function) for name in code.co_names}
    likely += [name for name in ("torch", "jax") if name in used]
    options = []
    for name in dict.fromkeys([*likely, "numpy", "list", "torch", "jax"]):
        if name in ("numpy", "list"):
            options.append(Framework(name))
        elif name == "jax" or importlib.util.find_spec("torch") is not None:
            forms = ("torch", "torch-list") if name == "torch" else ("jax",)
            options += [Framework(f, dtype) for dtype in ("float64", "float32") for f in forms]
    return options


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


def to_numpy_or_none(y: Any) -> Any:
    """Its numbers, or an array that no one takes for a scalar."""
    try:
        return to_numpy(y)
    except Exception:
        return np.zeros(1)


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
        result = self.result
        fields = as_mapping(result)
        if fields is not None:
            parts = [(str(name), value) for name, value in fields.items()]
        elif isinstance(result, (list, tuple)) and not _is_array(result, length):
            parts = [("", value) for value in result]
        else:
            return [] if result is None else [("", to_numpy(result))]
        found = []
        for name, value in parts:
            with contextlib.suppress(Exception):
                found.append((name, to_numpy(value)))
        return found


def as_mapping(x: Any) -> Mapping[Any, Any] | None:
    """What has names: a mapping, a named tuple, a data class, a namespace."""
    if isinstance(x, Mapping):
        return x
    if hasattr(x, "_asdict"):
        return dict(x._asdict())
    if hasattr(x, "__dataclass_fields__") and not isinstance(x, type):
        return {name: getattr(x, name) for name in x.__dataclass_fields__}
    return vars(x) if isinstance(x, SimpleNamespace) else None


def _is_array(result: list[Any] | tuple[Any, ...], length: int | None) -> bool:
    """Whether a sequence is the rows of one array."""
    right = length in (None, len(result))
    scalars = all(np.ndim(to_numpy_or_none(x)) == 0 for x in result)
    return right and (scalars or (isinstance(result, list) and length is not None))


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
    Whatever the function raises is raised here.
    """
    framework = framework or Framework("numpy")
    with framework.context(), quiet():

        def handed(role: str, value: Any) -> Any:
            if not (convert and isinstance(value, np.ndarray)):
                return value
            one = framework.name == "torch-list" and role in whole
            return (Framework("torch", framework.dtype) if one else framework).array(value)

        given = {role: handed(role, v) for role, v in values.items() if matched.takes(role)}
        if matched.takes_case:
            case = Case(given, matched.roles)
            return Returned(_collected(function(case)), given, None, frozenset(case._read))
        target: Any = function
        instance = getattr(function, "__self__", None)
        if matched.attributes or id(instance) in BARE:
            instance = copy.copy(instance)
            for role, name in matched.attributes.items():
                if role in given:
                    setattr(instance, name, given[role])
            target = types.MethodType(function.__func__, instance)  # type: ignore[attr-defined]
        arguments = {p: given[role] for role, p in matched.parameters.items() if role in given}
        arguments |= {p: held.filled(given) for p, held in matched.containers.items()}
        first = [
            arguments.pop(name)
            for name, parameter in inspect.signature(function).parameters.items()
            if parameter.kind is parameter.POSITIONAL_ONLY and name in arguments
        ]
        return Returned(_collected(target(*first, **arguments)), given, instance)


def _collected(result: Any) -> Any:
    return list(result) if isinstance(result, Iterator) else result


def first_that_runs(
    function: Callable[..., Any], matched: Matched, audit: Callable[[Framework], Report]
) -> Report:
    """The report in the first framework in which the function runs."""
    failed: BaseException | None = None
    for framework in frameworks(function, matched):
        try:
            return audit(framework)
        except (Exception, SystemExit) as error:  # another framework may fit
            failed = failed or error
    if isinstance(failed, CannotCall):
        raise failed
    why = one_line(failed) if failed else "no framework fits"
    raise CannotCall(f"{name_of(function)} failed when called with {matched.describe()}: {why}")
