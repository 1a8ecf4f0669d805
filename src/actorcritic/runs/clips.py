"""Moving pictures as files: GIF, and MP4 with the extra `video`. Frames are taken one by one."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from actorcritic.core import files
from actorcritic.core.errors import UserError

NARROWEST = 240  # pixels: a narrower frame is enlarged, so that its caption can be read
LINE = 17  # pixels, of a caption


def check(path: Path) -> None:
    """UserError where no such clip can be written."""
    kind = path.suffix.lower()
    if kind not in (".gif", ".mp4"):
        raise UserError(f"play writes GIF and MP4 files; got {path}. Name it {path.stem}.gif.")
    if kind == ".mp4":
        _av()


def captioned(frame: Any, lines: tuple[str, ...]) -> np.ndarray:
    """The frame with lines of text below it."""
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.fromarray(np.asarray(frame, np.uint8)).convert("RGB")
    times = -(-NARROWEST // picture.width)
    picture = picture.resize((picture.width * times, picture.height * times), Image.Resampling.BOX)
    height = picture.height + LINE * len(lines) + 6
    whole = Image.new("RGB", (picture.width, height), "white")
    whole.paste(picture)
    draw, font = ImageDraw.Draw(whole), ImageFont.load_default(12)
    for k, line in enumerate(lines):
        draw.text((6, picture.height + 3 + LINE * k), line, "black", font)
    return np.asarray(whole)


def write(path: Path, frames: Iterable[np.ndarray], rate: float) -> None:
    """Write frames [H, W, 3] of one size as a clip of `rate` frames a second."""
    clip = (_gif if path.suffix.lower() == ".gif" else _mp4)(iter(frames), rate)
    files.make_folder(path.parent)
    files.write(path, clip)


def _gif(frames: Iterator[np.ndarray], rate: float) -> bytes:
    from PIL import Image

    # A GIF's clock ticks in 1/100 s and viewers slow down below 2 ticks: drop frames instead.
    keep = max(1, round(rate / 30))
    palette: dict[str, Any] = {"palette": Image.Palette.ADAPTIVE, "colors": 64}
    pictures = (
        Image.fromarray(frame).convert("P", **palette)
        for frame in itertools.islice(frames, 0, None, keep)
    )
    clip = io.BytesIO()
    next(pictures).save(
        clip,
        format="GIF",
        save_all=True,
        append_images=pictures,
        loop=0,
        duration=max(20, round(1000 * keep / rate / 10) * 10),
    )
    return clip.getvalue()


def _mp4(frames: Iterator[np.ndarray], rate: float) -> bytes:
    av, clip = _av(), io.BytesIO()
    first = next(frames)
    height, width = (-(-size // 2) * 2 for size in first.shape[:2])  # H.264 knows no odd ones
    with av.open(clip, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=round(rate))
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for frame in itertools.chain([first], frames):
            room = ((0, height - frame.shape[0]), (0, width - frame.shape[1]), (0, 0))
            even = np.pad(frame, room, mode="edge")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
        container.mux(stream.encode())
    return clip.getvalue()


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise UserError(
            'To write MP4 files takes PyAV. Install it: pip install "actorcritic[video]"; or write '
            "a GIF."
        ) from error
    return av
