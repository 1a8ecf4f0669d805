"""A data set as a folder of two files, which cannot execute code.

    dataset.json       the spaces, the counts, where the data come from, the sum of the other file
    rows.safetensors   one tensor a column; observations by their path in the space

The folder is written beside its place and renamed to it, so that it is there as a whole or not at
all. Before anything is read, its size is known and small enough, and it is a regular file.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy

from actorcritic.core import files
from actorcritic.core.errors import UserError
from actorcritic.core.types import EnvSpec
from actorcritic.core.words import printable
from actorcritic.data.dataset import NAMES, Dataset
from actorcritic.maths import spaces

FORMAT = 1
ABOUT, ROWS = "dataset.json", "rows.safetensors"
LONGEST_ABOUT = 2**24  # bytes of dataset.json
LARGEST = 2**36  # bytes of rows


def save(data: Dataset, folder: str | Path) -> Path:
    """Write a data set as a new folder. UserError where there is something already."""
    folder = Path(folder)
    if folder.is_symlink():
        files.refuse_link(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there already, and not empty. Choose a new folder.")
    rows = safetensors.numpy.save(_named(data.columns()))
    about = {
        "format": FORMAT,
        **data.described(),
        "steps": data.steps,
        "episodes": data.episodes,
        "about": dict(data.about),
        "rows": {"bytes": len(rows), "sha256": hashlib.sha256(rows).hexdigest()},
    }
    files.make_folder(folder.parent)
    beside = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.saving")
    try:
        beside.mkdir()
        files.write_new(beside / ROWS, rows)
        files.write_new(beside / ABOUT, json.dumps(about, indent=2).encode())
        files.sync(beside)
        os.replace(beside, folder)  # also over an empty folder
        files.sync(folder.parent)
    except OSError as error:
        files.remove(beside)
        raise UserError(
            f"Could not write {folder}: {files.reason(error)}. Free some space or choose a place "
            "that can be written to, then try again."
        ) from error
    return folder


# What comes of entries that are something else than was written; Gymnasium's spaces assert.
_UNFIT = (
    *(safetensors.SafetensorError, LookupError, TypeError, ValueError, AttributeError),
    *(AssertionError, OverflowError, RecursionError, MemoryError),
)


def load(folder: str | Path) -> Dataset:
    """The data set of a folder. UserError says what is wrong with it."""
    folder = Path(folder)
    try:
        about = json.loads(_read(folder / ABOUT, LONGEST_ABOUT))
        assert isinstance(about, dict)
        number, size = about["format"], about["rows"]["bytes"]
        assert type(size) is int
    except (ValueError, KeyError, TypeError, AssertionError, RecursionError):
        raise _unlike(folder / ABOUT) from None
    if number != FORMAT:
        raise UserError(
            f"{folder / ABOUT} has format {printable(number)}; this version of actorcritic reads "
            f"{FORMAT}. Upgrade actorcritic to open it."
        )
    rows = _read(folder / ROWS, min(size, LARGEST))  # a longer file is not even read
    if len(rows) != size or hashlib.sha256(rows).hexdigest() != about["rows"].get("sha256"):
        raise UserError(
            f"{folder / ROWS} is not as it was written (its size or its checksum differs). Restore "
            "it from a copy."
        )
    try:
        spec = EnvSpec(
            printable(about["id"]),
            spaces.from_json(about["observation_space"]),
            spaces.from_json(about["action_space"]),
            about["max_episode_steps"],
        )
        spaces.check(spec)
        views = dict(safetensors.deserialize(rows))
        columns = _columns(spec, views)
    except _UNFIT as error:
        raise _unlike(folder / ROWS) from error
    known = about.get("about")
    return Dataset(
        spec, **columns, about=known if isinstance(known, dict) else {}, source=str(folder)
    )


def _unlike(path: Path) -> UserError:
    return UserError(
        f"{path} is not what a data set of actorcritic has. Restore it from a copy, or collect the "
        "data again."
    )


def _read(path: Path, most: int) -> bytes:
    """A regular file, of a size that is known before it is read."""
    if not path.parent.is_dir() or not path.exists():
        raise UserError(
            f"There is no data set in {path.parent}: it has no {path.name}. Name a folder that "
            "`actorcritic collect` has written, or minari:ID."
        )
    files.refuse_link(path)
    size = path.stat()
    if not stat.S_ISREG(size.st_mode):
        raise UserError(f"{path} is not a regular file.")
    if size.st_size > most:
        raise UserError(f"{path} has {size.st_size:,} bytes; expected at most {most:,}.")
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {files.reason(error)}.") from None


def _named(columns: dict[str, Any]) -> dict[str, np.ndarray]:
    pairs, _ = jax.tree_util.tree_flatten_with_path(columns)
    return {jax.tree_util.keystr(path): np.ascontiguousarray(leaf) for path, leaf in pairs}


def _columns(spec: EnvSpec, views: dict[str, Any]) -> dict[str, Any]:
    """The columns of a file, each of the shape and the kind that the spaces say."""
    steps, episodes = views["['reward']"]["shape"][0], views["['lengths']"]["shape"][0]
    box = spaces.choices(spec.action_space) == ()
    like: dict[str, Any] = {
        "observation": _room(spec.observation_space, steps + episodes),
        "action": ((steps, *(spec.action_space.shape or ())), np.float32 if box else np.int32),
        "reward": ((steps,), np.float32),
        "terminated": ((steps,), np.bool_),
        "truncated": ((steps,), np.bool_),
        "lengths": ((episodes,), np.int64),
    }
    if "['log_prob']" in views:
        like["log_prob"] = ((steps,), np.float32)

    def is_leaf(x: Any) -> bool:
        return isinstance(x, tuple) and len(x) == 2 and isinstance(x[1], type | np.dtype)

    pairs, structure = jax.tree_util.tree_flatten_with_path(like, is_leaf=is_leaf)
    found = []
    for path, (shape, dtype) in pairs:
        view = views[jax.tree_util.keystr(path)]
        leaf = np.frombuffer(view["data"], dtype).reshape(view["shape"])
        if leaf.shape != tuple(shape):
            raise ValueError(f"a column of shape {leaf.shape}, not {shape}")
        found.append(leaf)
    columns = dict(jax.tree.unflatten(structure, found))
    lengths = columns["lengths"]
    if not episodes or (lengths < 1).any() or lengths.sum() != steps:
        raise ValueError("lengths of episodes that do not come to the steps")
    assert set(NAMES) <= set(columns)
    return columns


def _room(space: Any, rows: int) -> Any:
    """(shape, dtype) of the observations' leaves."""
    if hasattr(space, "spaces"):
        parts = space.spaces
        if isinstance(parts, dict):
            return {name: _room(part, rows) for name, part in parts.items()}
        return tuple(_room(part, rows) for part in parts)
    return (rows, *(space.shape or ())), spaces.kept_dtype(space)
