"""Strict numerics for every test, set before JAX starts."""

import contextlib
import ctypes
import os
import sys
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import gc

import hypothesis
import jax
import jaxtyping
import optax
import pytest

# Two devices, because sessions spread seeds or environments over them.
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Compiled programs are kept between runs of the tests, whose time is mostly compilation.
_cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"), "actorcritic-tests", "jax")
jax.config.update("jax_compilation_cache_dir", str(_cache))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

# Annotated shapes and types are checked at run time, where the mathematics is. Not in modules whose
# dataclasses are pytrees: JAX fills their fields with tracers and other placeholders.
jaxtyping.install_import_hook(
    [
        f"actorcritic.maths.{module}"
        for module in ("distributions", "estimators", "losses", "networks", "optimizers", "spaces")
    ],
    "beartype.beartype",
)

# optax's Adam itself raises a float to an integer power; only inside it, JAX may promote types.
_scale_by_adam = optax.scale_by_adam


def _lenient_adam(**options: float) -> optax.GradientTransformation:
    adam = _scale_by_adam(**options)

    def update(*arguments: object) -> object:
        with jax.numpy_dtype_promotion("standard"):
            return adam.update(*arguments)

    return adam._replace(update=update)


optax.scale_by_adam = _lenient_adam

# The same examples every time: a failure is never a matter of luck, or of how fast a machine is.
hypothesis.settings.register_profile(
    "actorcritic", deadline=None, max_examples=25, derandomize=True, database=None
)
hypothesis.settings.load_profile("actorcritic")


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """Programs of a module's tests are not kept: a worker would grow to several gigabytes."""
    yield
    jax.clear_caches()
    gc.collect()
    if sys.platform == "linux":  # the memory of compilers is many small pieces, kept for later
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)
