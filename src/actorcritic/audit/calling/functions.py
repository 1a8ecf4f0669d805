"""The function itself: from where it is loaded, and what its code reads."""

from __future__ import annotations

import contextlib
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
from collections.abc import Callable, Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import numpy as np

from actorcritic.audit.findings import CannotCall


def load(path: str) -> Callable[..., Any]:
    """The function that `FILE.py:NAME`, `FILE.py:Class.method` or `module:NAME` names.

    A method is bound to an instance: made without arguments where that works, else bare, with
    the attributes it reads set by every call (`note(function)` says which).
    """
    place, _, name = path.rpartition(":")
    if not place or not name:
        raise CannotCall(f"Name the function as FILE.py:FUNCTION or module:FUNCTION; got '{path}'.")
    owner, found = None, load_module(place)
    for part in name.split("."):
        owner, found = found, getattr(found, part, None)
        if found is None:
            known = [n for n, v in vars(owner).items() if n[0] != "_" and callable(v)]
            raise CannotCall(
                f"{place} has no function '{name}'. It has: {', '.join(known) or 'none'}."
            )
    if inspect.isclass(owner):
        defined = inspect.getattr_static(owner, part)
        if not isinstance(defined, (staticmethod, classmethod)):
            return types.MethodType(found, _instance(owner))
    if not callable(found):
        raise CannotCall(f"'{name}' of {place} is not a function but a {type(found).__name__}.")
    return found


def load_module(place: str) -> Any:
    """The module of a file, or of this name."""
    is_file = place.endswith(".py") or "/" in place or "\\" in place
    file = Path(place).expanduser().resolve()
    if is_file and not file.is_file():
        raise CannotCall(f"There is no file {place}.")
    # Files import their neighbours, as they do when Python runs them.
    folder = str(file.parent if is_file else Path.cwd())
    sys.path.insert(0, folder)
    try:
        if not is_file:
            return importlib.import_module(place)
        name = f"_audited_{re.sub(r'[^0-9A-Za-z_]', '_', file.stem)}"
        loader = SourceFileLoader(name, str(file))
        spec: Any = importlib.util.spec_from_file_location(name, file, loader=loader)
        module = sys.modules[name] = importlib.util.module_from_spec(spec)  # dataclasses look it up
        spec.loader.exec_module(module)
        return module
    except (Exception, SystemExit) as error:
        raise CannotCall(f"Importing {place} failed: {one_line(error)}") from error
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)


# Instances made without running their __init__; kept alive, so that no id is ever another's.
BARE: dict[int, Any] = {}


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
        if cls.__mro__[-2].__module__.startswith("torch"):
            with contextlib.suppress(Exception):
                sys.modules["torch"].nn.Module.__init__(made)
        BARE[id(made)] = made
        return made


def note(function: Callable[..., Any]) -> str:
    """How the instance of a method was made, where it was made here."""
    instance = getattr(function, "__self__", None)
    bare = f"an instance of {type(instance).__name__} made without its __init__"
    return bare if id(instance) in BARE else ""


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


# ------------------------------------------------------------------------------- in words


def name_of(function: Callable[..., Any]) -> str:
    """The function's name, for the report."""
    name = getattr(function, "__qualname__", None) or type(function).__name__
    return "lambda" if name.endswith("<lambda>") else name.rpartition("<locals>.")[2]


def one_line(error: BaseException) -> str:
    """An exception as one short line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:297]}{'…' if len(text) > 297 else ''}"


# ------------------------------------------------------------------------------- its code


def underlying(function: Callable[..., Any]) -> Any:
    """The Python function with the code, below partial, jit and callable objects."""
    found: Any = function
    for _ in range(10):
        found = inspect.unwrap(found)
        below = getattr(found, "__func__", None) or getattr(found, "func", None)
        if below is None and not hasattr(found, "__code__"):
            called = vars(type(found)).get("__call__")
            below = called if hasattr(called, "__code__") else None
        if below is None:
            break
        found = below
    return found


def codes(function: Callable[..., Any]) -> list[types.CodeType]:
    """Its code, and that of the functions inside of it."""
    code = getattr(underlying(function), "__code__", None)
    found = [] if code is None else [code]
    for outer in found:
        found += [c for c in outer.co_consts if isinstance(c, types.CodeType)]
    return found


def root(value: Any) -> str:
    """The package that something comes from."""
    name = value.__name__ if inspect.ismodule(value) else getattr(value, "__module__", "")
    return str(name or "").split(".")[0]


def attributes_read(function: Callable[..., Any]) -> tuple[str, ...]:
    """The attributes of its instance that a method reads, methods left out."""
    instance = getattr(function, "__self__", None)
    code = getattr(underlying(function), "__code__", None)
    if instance is None or inspect.isclass(instance) or code is None or not code.co_varnames:
        return ()
    names, last = [], ""
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_ATTR", "LOAD_METHOD") and last == code.co_varnames[0]:
            names.append(instruction.argval)
        last = instruction.argval if instruction.opname.startswith("LOAD_FAST") else ""
    cls = type(instance)
    return tuple(
        name
        for name in dict.fromkeys(names)
        if not callable(inspect.getattr_static(cls, name, None))
    )


def globals_read(function: Callable[..., Any]) -> dict[str, Any]:
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
        for name, cell in zip(code.co_freevars, current.__closure__ or (), strict=False):
            with contextlib.suppress(ValueError):
                space[name] = cell.cell_contents
        names = {n for inner in codes(current) for n in (*inner.co_names, *inner.co_freevars)}
        for name in sorted(names & set(space)):
            value = space[name]
            found.setdefault(name, value)
            below = underlying(value) if callable(value) else None
            if getattr(below, "__module__", None) == getattr(current, "__module__", ""):
                waiting.append(below)
    return found


def numbers(function: Callable[..., Any]) -> tuple[float, ...]:
    """The positive numbers that are written in its code."""
    written = [c for code in codes(function) for c in code.co_consts]
    return tuple(dict.fromkeys(n for n in written if isinstance(n, float) and n > 0.0))


def literals(function: Callable[..., Any]) -> tuple[float, ...]:
    """Those in (0, 1]: where γ is when no parameter has it."""
    return tuple(n for n in numbers(function) if n <= 1.0)
