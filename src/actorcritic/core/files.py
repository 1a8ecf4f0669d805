"""Files that are written as a whole or not at all, and never through a link.

A run folder may come from a stranger's archive, and archives keep symbolic links. So a new file
gets an unpredictable name and must not be there yet, an open one must not be a link, and nothing
is deleted through one.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, get_args

from actorcritic.core.errors import UserError

_SAVING = ".saving"
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_BINARY = getattr(os, "O_BINARY", 0)
_AT_ONCE = getattr(os, "O_NONBLOCK", 0)
MOST = 2**28  # bytes of a file that is read as a whole, unless more is expected


def write(path: str | Path, content: str | bytes) -> Path:
    """Write a file so that it is there as a whole or, after a crash, as it was before."""
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}{_SAVING}")
    try:
        write_new(temporary, data)
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(
            f"Could not write {path}: {reason(error)}. Free some space or choose a folder that "
            "can be written to, then try again."
        ) from error
    return path


def write_new(path: Path, data: bytes) -> None:
    """Write a file that is not there yet, and force it to disk. Raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK | _BINARY
    with os.fdopen(os.open(path, flags, 0o666), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def regular(path: str | Path) -> Iterator[io.BufferedReader]:
    """A file to read. Raises OSError, also where it is a pipe, a device or a folder."""
    flags = os.O_RDONLY | _AT_ONCE | _BINARY  # a pipe without a writer would be waited for
    with os.fdopen(os.open(path, flags), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        yield file


def check_regular(path: str | Path) -> None:
    """UserError where a path leads to no regular file: a device or a pipe has no end."""
    with _told(path), regular(path):
        pass


def read(path: str | Path, most: int = MOST) -> bytes:
    """What a regular file of at most `most` bytes holds; UserError where it cannot be read."""
    with _told(path), regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise OSError(errno.EFBIG, f"it has {size:,} bytes, and at most {most:,} are read")
        return file.read(most)


def text(path: str | Path, most: int = MOST) -> str:
    """The same as text; UserError also where it is not UTF-8."""
    try:
        return read(path, most).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} cannot be read: it is not UTF-8 ({error.reason}).") from None


@contextlib.contextmanager
def _told(path: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be read: {reason(error)}.") from None


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A place to write a large file to, that becomes `path` as a whole, or not at all."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}{_SAVING}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise UserError(
                f"Could not write {path}: {reason(error)}. Free some space or choose a folder "
                "that can be written to, then try again."
            ) from error
        raise


@contextlib.contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """A file to read and to write in place; it is made where it is missing. Raises OSError."""
    refuse_link(path)
    flags = os.O_RDWR | os.O_CREAT | _NO_LINK | _BINARY
    with os.fdopen(os.open(path, flags, 0o666), "r+b") as file:
        yield file


def as_path(value: Any, name: str) -> Path:
    """UserError where something is no path, or none that a system could have."""
    if not isinstance(value, str | os.PathLike) or isinstance(os.fspath(value), bytes):
        raise UserError(f"{name} must be a path; got {value!r}.")
    if "\0" in os.fspath(value):
        raise UserError(f"{name} must be a path; got {value!r}, with a null character in it.")
    return Path(value)


def make_folder(folder: Path) -> Path:
    """The folder and those above it. UserError where it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"Could not make the folder {folder}: {reason(error)}. Choose a place that can be "
            "written to."
        ) from error
    return folder


def refuse_link(path: Path) -> None:
    """UserError where the path itself is a symbolic link; the folders above it may be links."""
    if path.is_symlink():
        raise UserError(
            f"{path} is a link to {os.readlink(path)}, and nothing is written or removed through "
            "a link inside a run folder. Put the real file or folder in its place, if you trust "
            "it; otherwise remove the link."
        )


def remove(path: Path) -> None:
    """Remove a file, a folder with all that is in it, or a link but not what it leads to.

    What cannot be removed stays: it costs space, and nothing else.
    """
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def fits(data: Any, form: Any) -> bool:
    """Whether data that were read from a file have a form.

    A form is a type (or a union of some), a list with the form of each entry, or a dict with the
    forms of entries that have to be there. A number is no truth value here.
    """
    if isinstance(form, dict):
        return isinstance(data, dict) and all(
            n in data and fits(data[n], f) for n, f in form.items()
        )
    if isinstance(form, list):
        return isinstance(data, list) and all(fits(entry, form[0]) for entry in data)
    kinds = get_args(form) or (form,)
    return bool in kinds if isinstance(data, bool) else isinstance(data, kinds)


def is_left_over(name: str) -> bool:
    """Is this the name of a file that a killed process was still writing?"""
    return name.startswith(".") and name.endswith(_SAVING)


def sync(folder: Path) -> None:
    """Force a folder's list of names to disk. Windows has no such call, and needs none."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def reason(error: OSError) -> str:
    return error.strerror or str(error)
