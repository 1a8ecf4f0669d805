"""Checkpoints that survive crashes and cannot execute code when they are loaded.

A folder of checkpoints holds one subfolder each, named by its update:

    000000004096/state.safetensors   one tensor per leaf, named by its path in the tree
    000000004096/manifest.json       {"body": {format, about, leaves, state}, "sha256": of body}

A checkpoint is written beside the others, forced to disk and only then renamed to its name, so
that a name stands for a complete checkpoint. One writer a folder; any number of readers.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Callable
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import PyTree

from actorcritic.core import files
from actorcritic.core.types import UserError

FORMAT = 1  # a later format keeps manifest.json's outer form, {"body": {"format": …}, "sha256"}
STATE, MANIFEST = "state.safetensors", "manifest.json"
_NAME = re.compile(r"(\d{12,})(?:\.(\d+))?")  # update, and a count where an update is saved again
_TEMPORARY = ".saving-"


class _Damaged(Exception):
    """A checkpoint that cannot be trusted; the text names the file and what is wrong with it."""


def save(folder: Path, state: PyTree, about: dict[str, Any], keep: int = 2) -> Path:
    """Save `state`, a pytree of JAX or NumPy arrays, and return the new checkpoint's folder.

    `about` is JSON (a tuple comes back as a list); `about["update"]` counts the updates made.
    Once the new one is safe on disk, only the `keep` newest (at least two) are kept. A checkpoint
    of a later update than this one is from a future that was given up, and is removed as well.
    """
    folder = Path(folder)
    leaves = _leaves(state)
    tensors = safetensors.numpy.save({name: _data(leaf) for name, leaf in leaves.items()})
    body = {
        "format": FORMAT,
        "about": about,
        "leaves": [_description(name, leaf) for name, leaf in leaves.items()],
        "state": {"sha256": _sha256(tensors), "bytes": len(tensors)},
    }
    manifest = json.dumps({"body": body, "sha256": _sha256(_canonical(body))}, indent=1)

    update = int(about["update"])
    temporary = folder / f"{_TEMPORARY}{update}-{secrets.token_hex(8)}"
    files.refuse_link(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left_over in folder.glob(f"{_TEMPORARY}*"):  # by a writer that was killed
            files.remove(left_over)
        temporary.mkdir()
        files.write_new(temporary / STATE, tensors)
        files.write_new(temporary / MANIFEST, manifest.encode())
        files.sync(temporary)
        # Never over an older one: there must be no moment without a complete checkpoint.
        again = [attempt for number, attempt, _ in _listed(folder) if number == update]
        target = folder / (f"{update:012d}" + (f".{max(again) + 1}" if again else ""))
        temporary.rename(target)
        files.sync(folder)
    except BaseException as error:
        files.remove(temporary)
        if isinstance(error, OSError):
            raise UserError(
                f"Could not save a checkpoint in {folder}: {files.reason(error)}. The earlier "
                "checkpoints are as they were; free some space or mend the folder, then resume."
            ) from error
        raise
    _remove_others(folder, target, max(2, keep))
    return target


def load(
    folder: Path, like: PyTree, warn: Callable[[str], None], partial: bool = False
) -> tuple[PyTree, dict[str, Any]]:
    """The newest intact checkpoint of `folder`: (state, about).

    `like` has the tree, shapes and dtypes that the state must have; its leaves may be
    `jax.ShapeDtypeStruct`s. A leaf comes back as NumPy or as a Python number where `like` has
    one, else as a JAX array. With `partial`, the checkpoint may have leaves beside those of
    `like`. A damaged checkpoint is reported to `warn` and the one before it is taken; where none
    is intact, or the newest is of another architecture or of a later format, this raises
    UserError.
    """
    folder = Path(folder)
    files.refuse_link(folder)
    while True:
        reasons, vanished = [], False
        for _, _, checkpoint in reversed(_listed(folder)):
            try:
                return _read(checkpoint, like, partial)
            except _Damaged as damage:
                if not checkpoint.exists():  # another process saved meanwhile, and removed it
                    vanished = True
                    continue
                reasons.append(str(damage))
                warn(f"Checkpoint damaged: {damage}. Trying the one before it.")
        if not vanished:
            break
    if reasons:
        raise UserError(
            f"No checkpoint in {folder} is intact: {'; '.join(reasons)}. Restore one from a copy, "
            "or start a new run in another folder."
        )
    raise UserError(
        f"Expected a checkpoint in {folder}, but there is none. Name the folder of a run that has "
        "saved one, or start a new run."
    )


def newest(folder: Path) -> Path | None:
    """The folder of the newest checkpoint, not yet known to be intact; None if there is none."""
    listed = _listed(Path(folder))
    return listed[-1][2] if listed else None


def hashes(state: PyTree) -> dict[str, str]:
    """SHA-256 of every leaf's dtype, shape and bytes: two states are equal where these are."""
    return {
        name: _sha256(_canonical(_description(name, leaf)) + _data(leaf).tobytes())
        for name, leaf in _leaves(state).items()
    }


# ---------------------------------------------------------------------------- reading


def _read(checkpoint: Path, like: PyTree, partial: bool) -> tuple[PyTree, dict[str, Any]]:
    body = _manifest(checkpoint / MANIFEST)
    leaves = _leaves(like)
    saved = [there for there in body["leaves"] if not partial or there["path"] in leaves]
    expected = [_description(name, leaf) for name, leaf in leaves.items()]
    for there, here in zip_longest(saved, expected):
        if there != here:
            raise UserError(
                f"Checkpoint {checkpoint} is of another architecture: {_in_words(there)} there, "
                f"{_in_words(here)} here. Resume with the settings it was saved with, or start a "
                "new run in another folder."
            )
    file = checkpoint / STATE
    data = _bytes(file)
    size = body["state"]["bytes"]
    if len(data) != size:
        raise _Damaged(f"{file} has {len(data):,} bytes where {size:,} were written")
    if _sha256(data) != body["state"]["sha256"]:
        raise _Damaged(f"{file} does not have the checksum it was written with")
    try:
        views = dict(safetensors.deserialize(data))
        restored = [
            _restored(views[name], leaf, there.get("key"))
            for (name, leaf), there in zip(leaves.items(), saved, strict=True)
        ]
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise _Damaged(f"{file} is no safetensors file of this state ({error})") from error
    return jax.tree.unflatten(jax.tree.structure(like), restored), body["about"]


def _manifest(file: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(_bytes(file))
        body = manifest["body"]
        intact = _sha256(_canonical(body)) == manifest["sha256"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _Damaged(f"{file} is not a manifest ({type(error).__name__}: {error})") from error
    if not intact:
        raise _Damaged(f"{file} does not have the checksum it was written with")
    if body["format"] != FORMAT:
        raise UserError(
            f"{file} has format {body['format']}; this version of actorcritic reads format "
            f"{FORMAT}. Upgrade actorcritic (pip install --upgrade actorcritic), then try again."
        )
    return body


def _bytes(file: Path) -> bytes:
    try:
        data = file.read_bytes()
    except FileNotFoundError as error:
        raise _Damaged(f"{file} is missing") from error
    except OSError as error:
        raise _Damaged(f"{file} cannot be read ({files.reason(error)})") from error
    if not data:
        raise _Damaged(f"{file} is empty")
    return data


def _restored(view: dict[str, Any], like: Any, key: str | None) -> Any:
    """The leaf that a tensor of the file stands for; ValueError where it does not fit `like`."""
    if key is not None:
        data = np.frombuffer(view["data"], np.uint32).reshape(view["shape"])
        leaf = jax.random.wrap_key_data(jnp.array(data), impl=key)
    else:
        dtype = np.asarray(like).dtype if isinstance(like, bool | int | float) else like.dtype
        leaf = np.frombuffer(view["data"], dtype).reshape(view["shape"])
    if leaf.shape != np.shape(like):
        raise ValueError(f"a tensor of shape {leaf.shape}, not {np.shape(like)}")
    if isinstance(like, bool | int | float | np.generic):
        return type(like)(leaf[()])
    return leaf if key is not None or isinstance(like, np.ndarray) else jnp.array(leaf)


# ---------------------------------------------------------------------------- leaves


def _leaves(tree: PyTree) -> dict[str, Any]:
    pairs, _ = jax.tree_util.tree_flatten_with_path(tree)
    leaves = {jax.tree_util.keystr(path): leaf for path, leaf in pairs}
    if len(leaves) != len(pairs):
        raise ValueError("two leaves of the state have the same path, so one would be lost")
    return leaves


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _description(name: str, leaf: Any) -> dict[str, Any]:
    dtype = leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype
    description = {"path": name, "shape": list(np.shape(leaf)), "dtype": str(dtype)}
    if _is_key(leaf):
        # How to make keys of the bits again; a ShapeDtypeStruct tells it by its dtype alone.
        description["key"] = str(jax.random.key_impl(jnp.empty((0,), dtype)))
    return description


def _data(leaf: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf, order="C")


def _in_words(description: dict[str, Any] | None) -> str:
    if description is None:
        return "no further leaf"
    return f"{description['path']} is {description['dtype']}{description['shape']}"


# ---------------------------------------------------------------------------- files


def _listed(folder: Path) -> list[tuple[int, int, Path]]:
    """(update, attempt, path) of each checkpoint, the newest last."""
    if not folder.is_dir():
        return []
    names = [(match, p) for p in folder.iterdir() if (match := _NAME.fullmatch(p.name))]
    return sorted((int(match[1]), int(match[2] or 0), path) for match, path in names)


def _remove_others(folder: Path, saved: Path, keep: int) -> None:
    listed = [path for _, _, path in _listed(folder)]
    kept = listed[: listed.index(saved) + 1][-keep:]
    for path in listed:
        if path not in kept:
            # Renamed first, so that one removed halfway does not pass for a checkpoint. A file
            # that cannot be removed costs space, not the training.
            doomed = folder / f"{_TEMPORARY}removing-{path.name}"
            with suppress(OSError):
                path.rename(doomed)
            files.remove(doomed)


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
