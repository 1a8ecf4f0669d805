"""What stands for a data set: an object, a folder, `minari:ID`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from actorcritic.core.errors import UserError
from actorcritic.data import folder
from actorcritic.data.dataset import Dataset

MINARI = "minari:"


def dataset(source: Any) -> Dataset:
    """The data set that a folder, "minari:ID" or an object stands for; UserError without one."""
    if isinstance(source, Dataset):
        return source
    if not isinstance(source, str | os.PathLike):
        raise UserError(
            f"A data set is a folder, 'minari:ID' or a Dataset; got a {type(source).__name__}. Of "
            "arrays or episodes: Dataset.from_arrays(…), Dataset.from_episodes(…)."
        )
    text = str(source)
    if text.startswith(MINARI):
        import actorcritic.data.minari_sets as minari_sets

        return minari_sets.load(text.removeprefix(MINARI))
    return folder.load(text)


def save(data: Dataset, target: str | Path) -> str:
    """Keep a data set as a new folder, or as minari:ID; returns what to call it by."""
    text = str(target)
    if text.startswith(MINARI):
        import actorcritic.data.minari_sets as minari_sets

        minari_sets.save(data, text.removeprefix(MINARI))
        return text
    return str(folder.save(data, text))


def check_free(target: str | Path) -> None:
    """UserError, before any work, where nothing new can be kept there."""
    text = str(target)
    if text.startswith(MINARI):
        import actorcritic.data.minari_sets as minari_sets

        minari_sets.check_free(text.removeprefix(MINARI))
        return
    place = Path(text)
    if place.is_symlink() or (place.exists() and (not place.is_dir() or any(place.iterdir()))):
        raise UserError(f"{text} is there already, and not empty. Choose a new folder.")
