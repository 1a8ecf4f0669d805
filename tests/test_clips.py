"""Clips of a policy at play: GIF and MP4, with what is seen written below each frame."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import actorcritic as ac
from actorcritic.runs import clips, play

TINY: dict[str, Any] = {"num_envs": 2, "num_steps": 8, "hidden_sizes": (8,)}


@pytest.fixture(scope="module")
def run() -> ac.Run:
    options: dict[str, Any] = {"total_steps": 64, "evaluation_episodes": 0, "quiet": True}
    return ac.train(ac.A2C(**TINY), "Pendulum-v1", **options)


def noise(count: int, height: int, width: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (height, width, 3), np.uint8) for _ in range(count)]


def test_a_caption_lies_below_the_frame_and_changes_nothing_of_it():
    (frame,) = noise(1, 300, 400)
    whole = clips.captioned(frame, ("step 3    return -1.0", "action 0.5"))
    assert whole.shape == (300 + 2 * clips.LINE + 6, 400, 3)
    np.testing.assert_array_equal(whole[:300], frame)
    band = whole[300:]
    assert (band[: clips.LINE] < 100).any()  # ink of the first line
    assert (band[clips.LINE :] < 100).any()
    other = clips.captioned(frame, ("step 4    return -1.0", "action 0.5"))
    assert (whole[300:] != other[300:]).any()


def test_a_small_frame_is_enlarged_so_that_its_caption_can_be_read():
    (frame,) = noise(1, 10, 10)
    whole = clips.captioned(frame, ("step 3",))
    assert whole.shape[1] == clips.NARROWEST
    np.testing.assert_array_equal(whole[:240:24, ::24], frame)


@pytest.mark.parametrize(
    ("action", "line"),
    [
        (None, ""),
        (np.int64(3), "action 3"),
        (np.array([0.25, -1.0]), "action 0.25 -1"),
        (np.arange(9), "action 0 1 2 3 4 5 …"),
    ],
)
def test_what_a_caption_says(action, line):
    moment = play.Moment(None, 12, -3.25, action)
    assert moment.caption == ("step 12    return -3.2", line)


def test_moments_of_an_episode(run):
    view = play._viewer(run, "rgb_array")
    moments = list(play._episode(view, run.policy(), 0, True))
    view.close()
    assert [m.step for m in moments] == list(range(201))  # Pendulum's time limit
    assert (moments[0].action, moments[0].episode_return) == (None, 0.0)
    assert moments[-1].episode_return < moments[100].episode_return < 0
    assert moments[5].action.shape == (1,)
    assert moments[5].frame.shape == moments[0].frame.shape


def test_a_gif_has_every_frame_up_to_30_a_second(tmp_path):
    for rate, expected in ((30, 60), (60, 30)):
        clips.write(tmp_path / "clip.gif", noise(60, 20, 20), rate)
        with Image.open(tmp_path / "clip.gif") as clip:
            assert clip.n_frames == expected
            assert clip.info["duration"] == 30


@pytest.mark.extras
def test_an_mp4_of_odd_sizes(tmp_path: Path):
    av = pytest.importorskip("av", reason="PyAV is not installed")
    frames = [np.full((21, 31, 3), 60 * k, np.uint8) for k in range(4)]
    clips.write(tmp_path / "clip.mp4", frames, 25)
    with av.open(io.BytesIO((tmp_path / "clip.mp4").read_bytes())) as clip:
        (stream,) = clip.streams.video
        found = [frame.to_ndarray(format="rgb24") for frame in clip.decode(stream)]
        assert stream.average_rate == 25
    assert [frame.shape for frame in found] == [(22, 32, 3)] * 4
    assert [round(frame.mean() / 60) for frame in found] == [0, 1, 2, 3]


@pytest.mark.extras
def test_play_writes_an_mp4(run, tmp_path, capsys):
    av = pytest.importorskip("av", reason="PyAV is not installed")
    out = tmp_path / "clip.mp4"
    assert f"Wrote {out} (1 episode(s), return -" in play.play(run, out=out)
    with av.open(str(out)) as clip:
        assert sum(1 for _ in clip.decode(video=0)) == 201
