"""Who may use a folder: new ones, locked ones, and those that hold somebody else's files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import filelock

from actorcritic.core import files
from actorcritic.core.errors import UserError
from actorcritic.runs import checkpoints, configuration


def is_begun(out: Path) -> bool:
    """Killed before its first checkpoint was complete, a training begins again.

    One that has written rows, but has no checkpoint any more, is not begun again by itself.
    """
    return checkpoints.newest(out / "checkpoints") is not None or (out / "metrics.csv").exists()


# What a training makes in its folder before the first checkpoint is complete.
BEGINNING = ("run.lock", "run.json", "checkpoints", "early", "tensorboard", "wandb")


@contextlib.contextmanager
def new_folder(out: Path | None) -> Iterator[None]:
    """A locked folder for a new run: made, empty, or of a run that was killed before it began.

    What this process made in it is removed again where nothing came of it.
    """
    if out is None:
        yield
        return
    try:
        there_is_one = (out / "run.json").exists()
    except OSError as error:  # a name that is too long
        raise UserError(f"The run folder {out} cannot be used: {files.reason(error)}.") from None
    if there_is_one:
        configuration.read(out)  # UserError where it is not ours
        if is_begun(out):
            raise UserError(
                f"{out} already holds a run. Choose another folder, or go on with it: "
                f"actorcritic resume {out}"
            )
    else:
        check_empty(out)
    there = {path.name for path in out.iterdir()} if out.is_dir() else None
    with folder_of_its_own(out):
        try:
            yield
        except BaseException:
            if checkpoints.newest(out / "checkpoints") is None:
                for name in set(BEGINNING) - (there or set()):
                    files.remove(out / name)
                if there is None:
                    with contextlib.suppress(OSError):
                        out.rmdir()
            raise


def check_empty(out: Path) -> None:
    """UserError where a folder holds files that a killed process of ours cannot have left."""
    if not out.is_dir():
        return  # what else may be wrong with it, the attempt to make it tells
    names = sorted(path.name for path in out.iterdir())
    others = [name for name in names if name != "run.lock" and not files.is_left_over(name)]
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        raise UserError(
            f"{out} is not empty, and nothing of ours: it holds {', '.join(others[:3])}{more}. "
            "Choose a new folder, so that nothing of yours is touched."
        )


@contextlib.contextmanager
def folder_of_its_own(out: Path) -> Iterator[None]:
    """Hold the run folder's lock, so that two processes never train in one folder."""
    files.refuse_link(out / "run.lock")
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(out / "run.lock")
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise UserError(
            f"{out} is in use: another process is training in it. Wait for it, or stop it first."
        ) from None
    except OSError as error:
        raise UserError(f"The run folder {out} cannot be written: {error.strerror}.") from None
    try:
        for path in out.iterdir():
            if files.is_left_over(path.name):  # by a process that was killed while it wrote
                files.remove(path)
        for name in ("tensorboard", "wandb"):
            files.refuse_link(out / name)
        yield
    finally:
        lock.release()
