"""What arrays are made of: NumPy, lists, PyTorch, JAX. The last two are imported when used."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from actorcritic.audit.calling.functions import codes, globals_read, root, underlying

if TYPE_CHECKING:
    from actorcritic.audit.calling.parameters import Matched

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
