"""Checkpoints that survive crashes and cannot execute code when they are loaded.

A folder of checkpoints holds one subfolder each, named by its update:

    000000004096/state.safetensors   one tensor per leaf, named by its path in the tree
    000000004096/manifest.json       {"body": {format, about, leaves, state, rings}, "sha256": of
                                     body}
    rings/<SHA-256>.safetensors      a segment: some rows of a `Ring` of the state

A checkpoint is written beside the others, forced to disk and only then renamed to its name, so
that a name stands for a complete checkpoint. One writer a folder; any number of readers.

The rows of a ring are not in state.safetensors but in segments, those that are filled. A manifest
names its segments, with their sums; checkpoints share those in which no row has changed. A segment
that no checkpoint names any more is removed.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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
from actorcritic.core.errors import UserError
from actorcritic.core.types import Ring

# Of format 1 are those without rings. A later format keeps manifest.json's outer form,
# {"body": {"format": …}, "sha256"}.
FORMAT = 2
STATE, MANIFEST, RINGS = "state.safetensors", "manifest.json", "rings"
SEGMENT = 2**20  # bytes of the rows in a segment, at most: so much is written for one new row
_NAME = re.compile(r"(\d{12,})(?:\.(\d+))?")  # update, and a count where an update is saved again
_SEGMENT_NAME = re.compile(r"[0-9a-f]{64}\.safetensors")
_TEMPORARY = ".saving-"


# What a manifest holds.
_FORM = {
    "format": int,
    "about": dict,
    "leaves": [{"path": str, "shape": [int], "dtype": str}],
    "state": {"sha256": str, "bytes": int},
}
_RING = {
    "path": str,
    "leaves": [str],
    "count": int | list,
    "segments": [{"at": [int], "rows": [int], "sha256": str, "bytes": int}],
}

# What comes of bytes that are something else than was expected.
_UNFIT = (safetensors.SafetensorError, KeyError, IndexError, TypeError, ValueError)


class _Damaged(Exception):
    """A checkpoint that cannot be trusted; the text names the file and what is wrong with it."""


def save(
    folder: Path,
    state: PyTree,
    about: dict[str, Any],
    keep: int = 2,
    since: Path | None = None,
) -> Path:
    """Save `state`, a pytree of JAX or NumPy arrays, and return the new checkpoint's folder.

    `about` is JSON (a tuple comes back as a list); `about["update"]` counts the updates made.
    Once the new one is safe on disk, only the `keep` newest (at least two) are kept. A checkpoint
    of a later update than this one is from a future that was given up, and is removed as well.

    `since` is the checkpoint, of this folder, that the state has grown from by updates: of its
    rings, only what was appended since is read and written.
    """
    folder = Path(folder)
    leaves, rings = _leaves(state), _rings(state)
    apart = {name for _, rows in rings.values() for name in rows}
    tensors = safetensors.numpy.save(
        {name: _data(leaf) for name, leaf in leaves.items() if name not in apart}
    )
    described = [_description(name, leaf) for name, leaf in leaves.items()]
    update = int(about["update"])
    temporary = folder / f"{_TEMPORARY}{update}-{secrets.token_hex(8)}"
    files.refuse_link(folder)
    files.refuse_link(folder / RINGS)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left_over in folder.glob(f"{_TEMPORARY}*"):  # by a writer that was killed
            files.remove(left_over)
        if rings:
            (folder / RINGS).mkdir(exist_ok=True)
        before = _rings_of(since, described)
        body = {
            "format": FORMAT,
            "about": about,
            "leaves": described,
            "state": {"sha256": _sha256(tensors), "bytes": len(tensors)},
            "rings": [
                _save_ring(folder / RINGS, name, count, rows, before.get(name))
                for name, (count, rows) in rings.items()
            ],
        }
        manifest = json.dumps({"body": body, "sha256": _sha256(_canonical(body))}, indent=1)
        if rings:
            files.sync(folder / RINGS)
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
        _remove_segments(folder)
        if isinstance(error, OSError):
            raise UserError(
                f"Could not save a checkpoint in {folder}: {files.reason(error)}. The earlier "
                "checkpoints are as they were; free some space or mend the folder, then resume."
            ) from error
        raise
    _remove_others(folder, target, max(2, keep))
    _remove_segments(folder)
    return target


def load(
    folder: Path, like: PyTree, warn: Callable[[str], None], partial: bool = False
) -> tuple[PyTree, dict[str, Any]]:
    """The newest intact checkpoint of `folder`: (state, about).

    `like` has the tree, shapes and dtypes that the state must have; its leaves may be
    `jax.ShapeDtypeStruct`s. A leaf comes back as NumPy or as a Python number where `like` has
    one, else as a JAX array. With `partial`, the checkpoint may have leaves beside those of
    `like`, and the segments of rings that `like` has not are not read. A damaged checkpoint is
    reported to `warn` and the one before it is taken; where none is intact, or the newest is of
    another architecture or of a later format, this raises UserError.
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
    _verify(file, body["state"])
    filled: dict[str, np.ndarray] = {}
    for ring in body.get("rings", []):
        filled |= _read_ring(checkpoint, ring, leaves)
    try:
        with safetensors.safe_open(file, framework="numpy") as tensors:
            restored = [
                _like(filled[name], leaf)
                if name in filled
                else _restored(tensors.get_tensor(name), leaf, there.get("key"))
                for (name, leaf), there in zip(leaves.items(), saved, strict=True)
            ]
    except (OSError, *_UNFIT) as error:  # it may be gone by now
        raise _Damaged(f"{file} is no safetensors file of this state ({error})") from error
    return jax.tree.unflatten(jax.tree.structure(like), restored), body["about"]


def _manifest(file: Path) -> dict[str, Any]:
    with _opened(file) as (opened, size):
        if size > files.MOST:
            raise _Damaged(f"{file} has {size:,} bytes, more than a manifest")
        data = opened.read(size)
    try:
        manifest = json.loads(data)
        body = manifest["body"]
        intact = _sha256(_canonical(body)) == manifest["sha256"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _Damaged(f"{file} is not a manifest ({type(error).__name__}: {error})") from error
    if not intact:
        raise _Damaged(f"{file} does not have the checksum it was written with")
    if not files.fits(body, {"format": int}):
        raise _Damaged(f"{file} is not a manifest")
    if body["format"] not in (1, FORMAT):
        raise UserError(
            f"{file} has format {body['format']}; this version of actorcritic reads format "
            f"{FORMAT}. Upgrade actorcritic (pip install --upgrade actorcritic), then try again."
        )
    if not files.fits(body, _FORM) or not files.fits(body.get("rings", []), [_RING]):
        raise _Damaged(f"{file} is not a manifest of this format")
    return body


@contextmanager
def _opened(file: Path) -> Iterator[tuple[io.BufferedReader, int]]:
    """A file of a checkpoint, and how many bytes it has."""
    try:
        with files.regular(file) as opened:
            size = os.fstat(opened.fileno()).st_size
            if not size:
                raise _Damaged(f"{file} is empty")
            yield opened, size
    except FileNotFoundError as error:
        raise _Damaged(f"{file} is missing") from error
    except OSError as error:
        raise _Damaged(f"{file} cannot be read ({files.reason(error)})") from error


def _verify(file: Path, written: dict[str, Any]) -> None:
    """_Damaged where a file is not as it was written; it may be larger than the memory."""
    with _opened(file) as (opened, size):
        if size != written["bytes"]:
            raise _Damaged(f"{file} has {size:,} bytes where {written['bytes']:,} were written")
        if hashlib.file_digest(opened, "sha256").hexdigest() != written["sha256"]:
            raise _Damaged(f"{file} does not have the checksum it was written with")


def _restored(tensor: np.ndarray, like: Any, key: str | None) -> Any:
    """The leaf that a tensor of the file stands for; ValueError where it does not fit `like`."""
    dtype = like.dtype if hasattr(like, "dtype") else np.asarray(like).dtype
    _check_dtype(tensor, np.dtype(np.uint32) if key is not None else dtype)
    leaf = tensor if key is None else jax.random.wrap_key_data(jnp.array(tensor), impl=key)
    if leaf.shape != np.shape(like):
        raise ValueError(f"a tensor of shape {leaf.shape}, not {np.shape(like)}")
    if isinstance(like, bool | int | float | np.generic):
        return type(like)(leaf[()])
    return leaf if key is not None else _like(leaf, like)


def _check_dtype(tensor: np.ndarray, dtype: Any) -> None:
    """ValueError where numbers are of another kind, though of the same size perhaps."""
    if tensor.dtype != dtype:
        raise ValueError(f"numbers of {tensor.dtype}, not {np.dtype(dtype)}")


def _like(leaf: np.ndarray, like: Any) -> Any:
    return leaf if isinstance(like, np.ndarray) else jnp.array(leaf)


# ---------------------------------------------------------------------------- rings


def _rings(tree: PyTree) -> dict[str, tuple[np.ndarray, dict[str, Any]]]:
    """Of each ring, by its path: its count, and the leaves of its rows by theirs."""
    pairs, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: isinstance(x, Ring))
    found = {}
    for path, ring in pairs:
        if isinstance(ring, Ring):
            name = jax.tree_util.keystr(path)
            rows = {f"{name}.rows{inner}": leaf for inner, leaf in _leaves(ring.rows).items()}
            found[name] = np.asarray(ring.count), rows
    return found


def _rings_of(checkpoint: Path | None, described: list[dict[str, Any]]) -> dict[str, Any]:
    """What the manifest of an earlier checkpoint of the same leaves says of its rings."""
    if checkpoint is None:
        return {}
    try:
        body = _manifest(checkpoint / MANIFEST)
    except (_Damaged, UserError):
        return {}
    return (
        {ring["path"]: ring for ring in body.get("rings", [])}
        if body["leaves"] == described
        else {}
    )


def _save_ring(
    folder: Path,
    path: str,
    count: np.ndarray,
    leaves: dict[str, Any],
    before: dict[str, Any] | None,
) -> dict[str, Any]:
    """Write the segments that are not there yet; what the manifest says of this ring.

    `count` has the leading axes [*lead] that the leaves [*lead, capacity, ...] have as well: there
    are so many rings, one beside the other.
    """
    capacity = next(iter(leaves.values())).shape[count.ndim]
    width = sum(
        int(np.prod(leaf.shape[count.ndim + 1 :])) * leaf.dtype.itemsize for leaf in leaves.values()
    )
    length = min(max(1, SEGMENT // max(width, 1)), capacity)
    known, old = {}, np.zeros_like(count)
    if before is not None:
        known = {(*entry["at"], *entry["rows"]): entry for entry in before["segments"]}
        old = np.asarray(before["count"])
    segments = []
    for at in np.ndindex(count.shape):
        filled = min(int(count[at]), capacity)
        for start in range(0, filled, length):
            stop = min(start + length, filled)
            entry = known.get((*at, start, stop))
            changed = _changed(int(old[at]), int(count[at]), capacity, start, stop)
            if changed or entry is None or not _is_there(folder, entry):
                rows = {name: _rows(leaf, at, start, stop, length) for name, leaf in leaves.items()}
                entry = {"at": list(at), "rows": [start, stop]}
                entry |= _write_segment(folder, safetensors.numpy.save(rows))
            segments.append(entry)
    return {"path": path, "leaves": list(leaves), "count": count.tolist(), "segments": segments}


def _changed(old: int, new: int, capacity: int, start: int, stop: int) -> bool:
    """Did a row come to these places while the count went from `old` to `new`?"""
    if not 0 <= new - old < capacity:
        return True
    first = old % capacity
    end = first + new - old
    return (first < stop and start < end) or start < end - capacity


def _rows(leaf: Any, at: tuple[int, ...], start: int, stop: int, length: int) -> np.ndarray:
    """Rows of the ring at `at`; of an array on a device, only these (and some) leave it."""
    capacity = leaf.shape[len(at)]
    if not isinstance(leaf, jax.Array):
        return np.ascontiguousarray(leaf[at][start:stop])
    for shard in leaf.addressable_shards:
        here = [range(size)[where] for size, where in zip(leaf.shape, shard.index, strict=True)]
        if all(i in place for i, place in zip(at, here, strict=False)):
            break
    else:
        raise ValueError("a ring is not on this machine")
    if shard.data.shape[len(at) :] != leaf.shape[len(at) :]:
        raise ValueError("the rows of a ring are spread over devices")
    # Always as many, so that this is one program.
    first = min(start, capacity - length)
    local = tuple(i - place[0] for i, place in zip(at, here, strict=False))
    rows = np.asarray(_cut(shard.data, np.asarray((*local, first), np.int32), length))
    return np.ascontiguousarray(rows[start - first : stop - first])


@functools.partial(jax.jit, static_argnums=2)
def _cut(x: jax.Array, start: jax.Array, length: int) -> jax.Array:
    lead, rest = start.shape[0] - 1, x.shape[start.shape[0] :]
    starts = (*start, *(jnp.zeros((), start.dtype) for _ in rest))
    piece = jax.lax.dynamic_slice(x, starts, (*(1,) * lead, length, *rest))
    return piece.reshape(length, *rest)


def _file(entry: dict[str, Any]) -> str:
    """The name of a segment's file; ValueError where it is none."""
    name = f"{entry['sha256']}.safetensors"
    if not _SEGMENT_NAME.fullmatch(name):
        raise ValueError(f"{entry['sha256']!r} is no SHA-256")
    return name


def _is_there(folder: Path, entry: dict[str, Any]) -> bool:
    file = folder / _file(entry)
    return file.is_file() and not file.is_symlink() and file.stat().st_size == entry["bytes"]


def _write_segment(folder: Path, data: bytes) -> dict[str, Any]:
    entry = {"sha256": _sha256(data), "bytes": len(data)}
    file = folder / _file(entry)
    if not (_is_there(folder, entry) and file.read_bytes() == data):
        temporary = folder / f"{_TEMPORARY}{secrets.token_hex(8)}"
        files.write_new(temporary, data)
        os.replace(temporary, file)
    return entry


def _read_ring(
    checkpoint: Path, ring: dict[str, Any], leaves: dict[str, Any]
) -> dict[str, np.ndarray]:
    """Those of a ring's leaves that are wanted, zero where no row has come yet."""
    file = checkpoint / MANIFEST
    try:
        wanted = [name for name in ring["leaves"] if name in leaves]
        room = {name: np.zeros(leaves[name].shape, leaves[name].dtype) for name in wanted}
        for entry in ring["segments"] if wanted else []:
            file = checkpoint.parent / RINGS / _file(entry)
            _verify(file, entry)
            start, stop = entry["rows"]
            with safetensors.safe_open(file, framework="numpy") as tensors:
                for name, x in room.items():
                    place = x[tuple(entry["at"])][start:stop]
                    rows = tensors.get_tensor(name)
                    _check_dtype(rows, x.dtype)
                    if rows.shape != place.shape:
                        raise ValueError(f"a tensor of shape {rows.shape}, not {place.shape}")
                    place[...] = rows
    except (OSError, *_UNFIT) as error:
        raise _Damaged(f"{file} does not fit this state ({error})") from error
    return room


def _remove_segments(folder: Path) -> None:
    """Remove what no checkpoint names; nothing, while there is one that cannot be read."""
    rings = folder / RINGS
    if rings.is_symlink() or not rings.is_dir():
        return
    try:
        named = {
            _file(entry)
            for _, _, checkpoint in _listed(folder)
            for ring in _manifest(checkpoint / MANIFEST).get("rings", [])
            for entry in ring["segments"]
        }
        there = list(rings.iterdir())
    except (_Damaged, UserError, OSError, *_UNFIT):
        return
    for file in there:
        unnamed = _SEGMENT_NAME.fullmatch(file.name) and file.name not in named
        if unnamed or file.name.startswith(_TEMPORARY):  # the latter of a writer that was killed
            files.remove(file)


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
