"""Learning curves: files that open, and that show what they were given."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from actorcritic import plots
from actorcritic.runners.session import EpisodeTable
from actorcritic.types import UserError

EMPTY = EpisodeTable.join([])
BLUE, ORANGE = "#0072b2", "#d55e00"


def episodes(seeds: int, count: int, level: float = 0.0, scale: float = 10.0) -> EpisodeTable:
    rng = np.random.default_rng(0)
    return EpisodeTable.join(
        [
            EpisodeTable(
                np.full(count, s),
                50 * np.arange(1, count + 1),
                level + scale * rng.normal(size=count),
                np.full(count, 50),
            )
            for s in range(seeds)
        ]
    )


def svg(tmp_path, runs, title="Title", **more) -> str:
    plots.learning_curve(runs, tmp_path / "curve.svg", title, **more)
    return (tmp_path / "curve.svg").read_text()


def notes(picture: str) -> set[str]:
    """The texts of an SVG: Matplotlib draws them as paths, each with a comment that says it."""
    return {part.split(" -->")[0] for part in picture.split("<!-- ")[1:]}


@pytest.mark.parametrize(("seeds", "count"), [(1, 1), (1, 2), (1, 300), (2, 50), (4, 300), (3, 1)])
@pytest.mark.parametrize(("level", "scale"), [(0.0, 0.0), (1e7, 0.0), (-1500.0, 10.0)])
def test_png(tmp_path, seeds, count, level, scale):
    path = tmp_path / "curve.png"
    table = episodes(seeds, count, level, scale)
    assert plots.learning_curve([("A2C", table)], path, "A2C", threshold=475) == path
    image = np.asarray(Image.open(path).convert("RGB"), int)
    assert image.shape == (960, 1140, 3)
    # The bold line (or the marker of a single point) is in both panels.
    blue = np.abs(image - [0, 0x72, 0xB2]).sum(-1) < 12
    assert blue[:480].sum() > 20
    assert blue[480:].sum() > 20


def test_svg_names_everything(tmp_path):
    runs = [("PPO", episodes(3, 40)), ("A2C", episodes(5, 40))]
    picture = svg(tmp_path, runs, "CartPole-v1", threshold=475)
    assert {
        "CartPole-v1",
        "PPO",
        "A2C",
        "Return",
        "Episode length (steps)",
        "threshold 475",
        "environment steps, per seed",
        "500",
        "2k",
        "dots: episodes · thin: seeds, mean of 4 episodes · bold: interquartile mean of "
        "3 to 5 seeds · band: 95 % interval",
    } <= notes(picture)
    assert BLUE in picture
    assert ORANGE in picture


def test_what_is_not_drawn_is_not_explained(tmp_path):
    one = notes(svg(tmp_path, [("A2C", episodes(1, 40))]))
    assert "dots: episodes · line: mean of 4 episodes, one seed" in one
    assert "A2C" not in one  # a single run needs no legend
    two = " ".join(notes(svg(tmp_path, [("A2C", episodes(2, 6000))])))
    assert "interquartile mean of 2 seeds" in two
    assert "band" not in two
    assert "mean of 100 episodes" in two
    assert "(a sample)" in two


@pytest.mark.parametrize("runs", [[], [("A2C", EMPTY)], [("A2C", EMPTY), ("PPO", EMPTY)]])
def test_no_episode_finished(tmp_path, runs):
    assert "no episode finished" in notes(svg(tmp_path, runs, threshold=1.0))


def test_one_of_two_runs_without_episodes(tmp_path):
    picture = svg(tmp_path, [("A2C", EMPTY), ("PPO", episodes(2, 5))])
    assert "no episode finished" not in notes(picture)
    assert {"A2C", "PPO"} <= notes(picture)


def test_diverged_returns_leave_gaps(tmp_path):
    table = episodes(3, 400)
    table.returns[50:60] = np.nan
    assert "Return" in notes(svg(tmp_path, [("A2C", table)]))
    table.returns[:] = np.nan
    assert "Return" in notes(svg(tmp_path, [("A2C", table)]))


def test_the_same_training_gives_the_same_file(tmp_path):
    runs = [("A2C", episodes(3, 4000))]
    assert svg(tmp_path, runs) == svg(tmp_path, runs)


def test_large_tables_stay_small_pictures(tmp_path):
    small = len(svg(tmp_path, [("A2C", episodes(2, 2500))]))
    assert len(svg(tmp_path, [("A2C", episodes(2, 30_000))])) < 1.5 * small


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (0, "0"),
        (500, "500"),
        (1000, "1k"),
        (2500, "2.5k"),
        (100_000, "100k"),
        (1.5e6, "1.5M"),
        (1e7, "10M"),
        (2e9, "2G"),
    ],
)
def test_short(x, text):
    assert plots.short(x) == text


def test_other_files(tmp_path):
    with pytest.raises(UserError, match=r"must end in \.png or \.svg; got .*curve\.pdf"):
        plots.learning_curve([], tmp_path / "curve.pdf", "")
    with pytest.raises(UserError, match=r"Could not write the picture .*: No such file"):
        plots.learning_curve([], tmp_path / "missing" / "curve.png", "")


def test_matplotlib_costs_no_start_up_and_pyplot_is_never_used(tmp_path):
    code = """
        import sys
        from actorcritic import plots
        assert "matplotlib" not in sys.modules
        plots.learning_curve([], sys.argv[1], "")
        assert "matplotlib" in sys.modules and "matplotlib.pyplot" not in sys.modules
    """
    lines = "\n".join(line.strip() for line in code.splitlines())
    subprocess.run([sys.executable, "-c", lines, tmp_path / "curve.png"], check=True)
