"""What a notebook shows: one line, a card with the curve, a frame for pandas, a progress bar."""

from __future__ import annotations

import sys
import types
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import actorcritic as ac
from actorcritic.figures import card
from actorcritic.runs.run import read_run

TINY: dict[str, Any] = {"num_envs": 2, "num_steps": 8, "hidden_sizes": (8,)}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ac.Run:
    out = tmp_path_factory.mktemp("runs") / "a<b>&c"
    return ac.train(
        ac.A2C(**TINY), "CartPole-v1", seeds=3, total_steps=1600, out=out, evaluation_episodes=5,
        quiet=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def comparison() -> ac.Comparison:
    options: dict[str, Any] = {"total_steps": 800, "evaluation_episodes": 5, "quiet": True}
    variants = {"plain": ac.A2C(**TINY), "λ = 0": ac.A2C(gae_lambda=0.0, **TINY)}
    return ac.compare(variants, "CartPole-v1", seeds=3, **options)


def parsed(html: str) -> ElementTree.Element:
    """A card as a tree: it has to be well-formed, without scripts and links."""
    tree = ElementTree.fromstring(html.replace("&emsp;", " "))
    tags = {element.tag for element in tree.iter()}
    assert not tags & {"script", "link", "img", "iframe"}
    return tree


def texts(tree: ElementTree.Element) -> str:
    return " ".join("".join(tree.itertext()).split())


def test_a_run_is_one_line(run):
    score = str(run.final_evaluation)
    assert repr(run) == f"Run(a2c on CartPole-v1, 3 seeds, 1,600 steps, {score}, {run.out})"
    assert repr(run.final_evaluation) == f"Evaluated({score})"
    read = read_run(run.out)
    assert repr(read) == repr(run)
    read.finished, read.failed, read.final_evaluation = False, {1: "it diverged"}, None
    assert "3 seeds, 1 failed, 1,600 steps, not finished, " in repr(read)


def test_the_card_of_a_run(run):
    run.warnings.append("Nothing was <learned>.")
    tree = parsed(run._repr_html_())
    run.warnings.pop()
    said = texts(tree)
    for part in ("a2c on CartPole-v1", str(run.final_evaluation), str(run.out), "<learned>"):
        assert part in said
    (line,) = tree.iter("polyline")
    assert len(line.get("points").split()) > 100
    assert len(list(tree.iter("polygon"))) == 1  # the band of three seeds


def test_the_card_of_an_evaluation_and_of_a_comparison(run, comparison):
    said = texts(parsed(run.final_evaluation._repr_html_()))
    for seed, returns in zip(run.seeds, run.final_evaluation.returns, strict=True):
        assert f"seed {seed}mean return {returns.mean():.2f}" in said
    tree = parsed(comparison._repr_html_())
    assert comparison.verdict in texts(tree)
    assert len(list(tree.iter("polyline"))) == 2
    assert "λ = 0" in texts(tree)
    assert repr(comparison) == f"Comparison({comparison.title}: {comparison.verdict})"


def test_a_card_of_a_run_that_has_no_episodes(tmp_path):
    run = ac.Run(ac.A2C(**TINY), ac.envs.CartPole(), (0,), 100, tmp_path)
    assert "not finished" in texts(parsed(run._repr_html_()))
    assert "<svg" not in run._repr_html_()


def test_curves_lie_inside_their_picture():
    x = np.linspace(0, 1000, 50)
    y = np.where(x < 200, np.nan, np.sin(x))
    drawn = card.curves([card.Series("sine", x, y, y - 1, y + 1)])
    tree = ElementTree.fromstring(drawn)
    for shape in tree:
        for point in shape.get("points", "").split():
            across, down = map(float, point.split(","))
            assert card.LEFT <= across <= card.WIDTH
            assert 0 <= down <= card.HEIGHT - card.BOTTOM
    assert "1,000 steps" in texts(tree)
    assert card.curves([card.Series("nothing", x, np.full(50, np.nan))]) == ""


# ------------------------------------------------------------------------------------ pandas


def test_without_pandas(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ac.UserError, match=r"actorcritic\[pandas\]"):
        run.to_pandas()


def test_what_pandas_is_given(run, comparison, monkeypatch):
    """Whatever pandas makes of it: the columns."""
    monkeypatch.setitem(sys.modules, "pandas", types.SimpleNamespace(DataFrame=dict))
    check_frames(run, comparison)


@pytest.mark.extras
def test_frames(run, comparison):
    pytest.importorskip("pandas", reason="pandas is not installed")
    check_frames(run, comparison)


def check_frames(run: ac.Run, comparison: ac.Comparison) -> None:
    metrics, episodes = run.to_pandas(), run.to_pandas("episodes")
    assert list(metrics)[:3] == ["seed", "update", "step"]
    assert set(run.metrics.names) < set(metrics)
    np.testing.assert_array_equal(metrics["entropy"], run.metrics.column("entropy"))
    assert list(episodes) == ["seed", "step", "return", "length"]
    np.testing.assert_array_equal(episodes["return"], run.episodes.returns)
    with pytest.raises(ac.UserError, match="'metrics' and 'episodes'; got 'steps'"):
        run.to_pandas("steps")
    scores = comparison.to_pandas()
    assert list(scores["variant"]) == ["plain"] * 3 + ["λ = 0"] * 3
    assert list(scores["seed"]) == [0, 1, 2, 0, 1, 2]
    assert list(scores["score"]) == [x for s in comparison.scores.values() for x in s]


# ------------------------------------------------------------------------------------ progress


class ZMQInteractiveShell:
    """As IPython calls the shell of a notebook."""


@pytest.mark.parametrize("shell", [ZMQInteractiveShell(), None])
def test_a_progress_bar_in_a_notebook(shell, monkeypatch, tmp_path: Path):
    shown: list[Any] = []

    def display(what: Any, display_id: bool) -> Any:
        assert display_id
        return types.SimpleNamespace(update=shown.append)

    ipython = types.SimpleNamespace(get_ipython=lambda: shell)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", types.SimpleNamespace(display=display))
    options: dict[str, Any] = {"total_steps": 1600, "evaluation_episodes": 5}
    ac.train(ac.A2C(**TINY), "CartPole-v1", **options)
    if shell is None:
        assert not shown
        return
    assert "compiling …" in repr(shown[0])
    assert any("steps/s" in repr(each) for each in shown)
    assert repr(shown[-1]) == "a2c on CartPole-v1 100% done"
    bar = ElementTree.fromstring(shown[-1]._repr_html_()).find("progress")
    assert float(bar.get("value")) == 1.0
    count = len(shown)
    ac.train(ac.A2C(**TINY), "CartPole-v1", quiet=True, **options)
    assert len(shown) == count
