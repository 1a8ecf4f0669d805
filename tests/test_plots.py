"""Pictures: files that open, and that show what they were given."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from actorcritic.core.errors import UserError
from actorcritic.figures import plots
from actorcritic.figures.plots import Field, Map, Scores, Series
from actorcritic.runners.session import EpisodeTable, MetricTable

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
                40 + 70 * (np.arange(count) % 3),
            )
            for s in range(seeds)
        ]
    )


def series(axes):
    """The curves of a panel, as they are drawn."""
    return plots.panel_of(axes).views[0].series


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
    # The bold line (or the marker of a single point) is in each panel; of lengths that are all the
    # same there is none.
    panels = 1 if count == 1 else 2
    assert image.shape == ((660, 960)[panels - 1], 1140, 3)
    blue = np.abs(image - [0, 0x72, 0xB2]).sum(-1) < 12
    for half in np.split(blue, panels):
        assert half.sum() > 20


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
        "dots: episodes · thin: seeds, mean of their last 20 episodes · bold: interquartile mean "
        "of 3 to 5 seeds · band: 95 % interval",
    } <= notes(picture)
    assert BLUE in picture
    assert ORANGE in picture


def test_what_is_not_drawn_is_not_explained(tmp_path):
    one = notes(svg(tmp_path, [("A2C", episodes(1, 40))]))
    assert "dots: episodes · line: mean of the last 20 episodes, one seed" in one
    assert "A2C" not in one  # a single run needs no legend
    two = " ".join(notes(svg(tmp_path, [("A2C", episodes(2, 6000))])))
    assert "interquartile mean of 2 seeds" in two
    assert "band" not in two
    assert "mean of their last 20 episodes" in two
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


def texts(figure) -> set[str]:
    """The texts of a figure, as its SVG has them."""
    return notes(plots.svg(figure).decode())


def image(figure) -> np.ndarray:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return np.asarray(Image.open(file).convert("RGB"), int)


def count(figure, colour: str) -> int:
    """How many of its pixels have about that colour."""
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((np.abs(image(figure) - wanted).sum(-1) < 12).sum())


def test_evaluations_are_drawn_over_the_curve(tmp_path):
    table = episodes(3, 40)
    between = EpisodeTable(
        np.repeat([0, 1, 2], 4),
        np.tile([500, 500, 1000, 1000], 3),
        np.tile([90.0, 110.0, 200.0, 200.0], 3),
        np.full(12, 9),
    )
    found = plots.evaluated("evaluations", between, [0, 1, 2])
    assert (found.x.tolist(), found.y.tolist()) == ([500, 1000], [100, 200])
    assert plots.evaluated("evaluations", between, [0, 1, 2, 3]) is None  # of all seeds, or none
    picture = svg(tmp_path, [("A2C", table)], evaluations=between)
    assert any("circles: evaluations, deterministic" in note for note in notes(picture))
    assert "evaluations" not in svg(tmp_path, [("A2C", table)], evaluations=EpisodeTable.join([]))


def test_several_thresholds_and_no_title():
    figure = plots.returns_and_lengths([("A2C", episodes(3, 40))], thresholds=(1.0, 2.5))
    assert {"threshold 1", "threshold 2.5", "Return"} <= texts(figure)
    assert "" not in texts(figure)
    upper, lower = figure.axes
    (returns, *seeds), (lengths, *_) = series(upper), series(lower)
    assert returns.label == "A2C"
    assert returns.colour == plots.COLOURS[0]
    assert (returns.low <= returns.y).all()
    assert [(one.label, one.look, one.part_of) for one in seeds] == [
        (f"A2C, seed {k}", "thin", "A2C") for k in range(3)
    ]
    assert ((lengths.y >= 40) & (lengths.y <= 180)).all()
    assert plots.panel_of(upper).marks == (("threshold 1", 1.0), ("threshold 2.5", 2.5))


@pytest.mark.parametrize(
    ("returns", "length", "panels"),
    [
        ([10.0, 20, 500], [10, 20, 500], 1),  # one for each step
        ([-9.0, -19, -500], [10, 20, 500], 1),  # less one, but for the last where there is a goal
        ([-5.0, 3, np.nan], [200, 200, 200], 1),
        ([-5.0, 3, np.nan], [200, 200, 199], 2),
        ([1.0, 0, 1], [10, 20, 500], 2),
        ([np.nan, np.nan, np.nan], [10, 20, 30], 2),
    ],
)
def test_lengths_are_shown_where_they_say_more_than_returns(returns, length, panels):
    step = np.cumsum(length)
    table = EpisodeTable(np.zeros(3, int), step, np.array(returns), np.array(length))
    assert len(plots.returns_and_lengths([("A2C", table)]).axes) == panels


def test_a_page_can_draw_curves_against_episodes_and_seconds_and_smoother():
    short, longer = episodes(3, 40), episodes(3, 80)
    told = [("A2C", short), ("PPO", longer)]
    plain = plots.returns_and_lengths(told, window=4)
    assert len(plots.panel_of(plain.axes[0]).views) == 1
    figure = plots.returns_and_lengths(told, window=4, seconds={"A2C": 0.5, "PPO": np.nan})
    steps, episodes_, smoothing = (
        "environment steps, per seed",
        "episodes, per seed",
        ("none", "mean of 4 episodes", "mean of 20 episodes"),
    )
    views = plots.panel_of(figure.axes[0]).views
    assert (views[0].across, views[0].smoothing) == (steps, smoothing[1])
    assert {(v.across, v.smoothing) for v in views} == {
        (across, how) for across in (steps, episodes_) for how in smoothing
    }
    assert len(views) == 6
    a2c, *_, ppo = [one for one in views[0].series if not one.part_of]
    assert a2c.seconds == 0.5
    assert np.isnan(ppo.seconds)
    raw = next(v for v in views if (v.across, v.smoothing) == (episodes_, "none"))
    first = next(one for one in raw.series if one.label == "A2C, seed 1")
    assert (first.x[0], first.x[-1]) == (1, 40)  # each episode, and its own return
    assert first.y[-1] == short.returns[short.seed == 1][-1]
    assert next(one for one in raw.series if one.label == "PPO").x[-1] == 80
    assert raw.note.startswith("thin: seeds, unsmoothed · bold: interquartile mean of 3 seeds")


def test_many_curves_have_no_dots_and_no_seeds(tmp_path):
    runs = [(f"variant {i}", episodes(3, 40)) for i in range(6)]
    few, many = svg(tmp_path, runs[:5]), svg(tmp_path, runs)
    assert few.count("<image") == 2
    assert many.count("<image") == 0
    assert (
        "bold: interquartile mean of 3 seeds, mean of the last 20 episodes · band: 95 % interval"
        in notes(many)
    )


def test_episodes_are_no_axis_where_their_numbers_are_not_known(monkeypatch):
    table = episodes(2, 40)
    monkeypatch.setattr("actorcritic.figures.curves.FULL_EPISODES", 40)
    figure = plots.returns_and_lengths([("A2C", table)], seconds={})
    across = {view.across for view in plots.panel_of(figure.axes[0]).views}
    assert across == {"environment steps, per seed"}


@pytest.mark.parametrize(
    ("extent", "shown"),
    [
        ((499.9, 500.0), (0.0, 500.0)),  # no gulf
        ((20.0, 500.0), (0.0, 500.0)),
        ((-1400.0, -150.0), (-1400.0, 0.0)),
        ((-152.0, -150.0), (-152.0, 0.0)),
        ((-200.0, -110.0), (-200.0, -110.0)),
        ((-200.0, 250.0), (-200.0, 250.0)),
        ((3.0, 3.0), (0.0, 3.0)),
        ((0.0, 0.0), (0.0, 0.0)),
    ],
)
def test_returns_are_on_their_scale(extent, shown):
    assert plots.on_scale(*extent) == shown


def test_many_variants_have_a_colour_each():
    assert plots.colours(7) == list(plots.COLOURS)
    many = plots.colours(20)
    assert len(set(many)) == 20
    # Sequential: ever lighter.
    light = [sum(int(c[i : i + 2], 16) for i in (1, 3, 5)) for c in many]
    assert light == sorted(light)
    runs = [(f"a variant with a longer name, {i}", episodes(2, 20)) for i in range(20)]
    figure = plots.returns_and_lengths(runs, "Title")
    assert {label for label, _ in runs} <= texts(figure)
    for axes in figure.axes:  # the names have not crushed the panels
        assert axes.get_position().height * figure.get_figheight() > 1.5
    top = figure.legends[0].get_window_extent().y0
    assert figure.axes[0].get_window_extent().y1 < top


def metrics(seeds: int, names: tuple[str, ...], level: float = 1.0, rows: int = 60) -> MetricTable:
    return MetricTable.join(
        [
            MetricTable(
                np.full(rows, s),
                np.arange(1, rows + 1),
                10 * np.arange(1, rows + 1),
                names,
                level + s + np.linspace(0, 0.5, rows)[:, None] * np.ones(len(names)),
            )
            for s in range(seeds)
        ]
    )


def test_diagnostics():
    ppo = metrics(5, ("value_loss", "return", "entropy", "steps_per_second", "my_metric"))
    ppo.values[7, 2] = np.nan
    a2c = metrics(2, ("entropy", "gradient_norm"), 10.0)
    figure = plots.diagnostics([("PPO", ppo), ("A2C", a2c)])
    names = [axes.get_title("left") for axes in figure.axes]
    assert names == ["entropy", "value loss", "gradient norm", "my metric"]
    entropy, value_loss, *_ = map(series, figure.axes)
    assert [one.label for one in entropy] == ["PPO", "A2C"]
    assert entropy[0].y[-1] == pytest.approx(3 + 0.5, abs=0.1)  # the IQM of 1 to 5, and the rise
    assert entropy[1].y[-1] == pytest.approx(10.5 + 0.5, abs=0.1)
    assert [one.label for one in value_loss] == ["PPO"]
    assert [one.colour for one in entropy] == list(plots.COLOURS[:2])
    assert {"PPO", "A2C"} <= texts(figure)


def test_diagnostics_are_few_and_an_untrained_critic_flattens_nothing():
    names = ("explained_variance", *(f"metric_{i}" for i in range(20)))
    table = metrics(1, names)
    table.values[:, 0] = np.where(np.arange(60) < 5, -500.0, 0.5)
    figure = plots.diagnostics([("PPO", table)])
    assert len(figure.axes) == 9
    assert figure.axes[0].get_ylim() == (-1.05, 1.05)
    assert figure.legends == []


def test_what_stays_the_same_is_no_diagnostic():
    names = ("learning_rate", "clip_fraction", "entropy", "approx_kl", "explained_variance")
    table = metrics(3, names)
    table.values[:, 0] = 3e-4
    table.values[5, 0] = np.nan
    figure = plots.diagnostics([("PPO", table)], seconds={"PPO": 2.0})
    titles = [axes.get_title("left") for axes in figure.axes]
    assert titles == ["approx kl", "entropy", "explained variance", "clip fraction"]
    assert series(figure.axes[0])[0].seconds == 2
    table.values[-1, 0] = 1e-4  # of one seed, at its end
    assert len(plots.diagnostics([("PPO", table)]).axes) == 5


@pytest.mark.parametrize("runs", [[], [("A2C", MetricTable.join([]))]])
def test_no_diagnostics(runs):
    figure = plots.diagnostics(runs)
    assert "updates reported nothing that changed" in texts(figure)
    assert figure.axes == []


def test_score_intervals():
    rows = [Scores("PPO", np.array([1.0, 2, 3]), 2.0, 1.5, 2.5), Scores("A2C", np.ones(2), 1.0)]
    figure = plots.score_intervals(rows, "mean return")
    assert {"PPO", "A2C", "mean return"} <= texts(figure)
    (axes,) = figure.axes
    drawn = [line.get_xdata() for line in axes.lines]
    # Dots, interval and value of the first; the second has no interval.
    assert list(map(len, drawn)) == [3, 2, 1, 2, 1]
    assert list(drawn[1]) == [1.5, 2.5]
    heights = axes.lines[3].get_ydata()
    assert len(set(heights)) == 2  # equal scores are seen to be two
    assert np.abs(heights - 1).max() < 0.3
    # The first is above.
    assert axes.get_ylim()[0] > axes.get_ylim()[1]


def test_scores_are_on_the_scale_that_was_asked_for():
    rows = [Scores("PPO", np.array([499.9, 500, 500]), 500.0, 499.9, 500.0)]
    for width, inches in ((plots.WIDTH, plots.WIDTH), (plots.NARROW, plots.NARROW)):
        figure = plots.score_intervals(rows, "score", limits=(0.0, 500.0), width=width)
        low, high = figure.axes[0].get_xlim()
        assert low < 0 < 500 < high < 550
        assert figure.get_figwidth() == inches


def setting(values, **more):
    rows = [Scores(f"x={v}", np.array([v, v + 2.0]), v + 1.0, v, v + 2.0) for v in values]
    return plots.scores_over_setting("x", values, rows, **more)


def test_scores_over_a_setting_are_one_curve():
    figure = setting([1.0, 0.0, 0.5], marked=0.5, limits=(0.0, 10.0))
    (axes,) = figure.axes
    assert {"x", "score", "default"} <= texts(figure)
    iqm, first, second, mark = series(axes)
    assert iqm.look == "bars"
    assert list(iqm.x) == [0, 0.5, 1]
    assert list(iqm.y) == [1, 1.5, 2]
    assert (list(iqm.low), list(iqm.high)) == ([0, 0.5, 1], [2, 2.5, 3])
    assert {first.label, second.label} == {"seeds"}
    assert list(second.y) == [2, 2.5, 3]
    assert np.isfinite(mark.y).tolist() == [False, True, False]
    assert axes.get_xscale() == "linear"
    assert axes.get_ylim()[1] > 10
    assert "reference" in texts(setting([1.0, 2.0, 3.0], marked=2.0, mark="reference"))
    assert "default" not in texts(setting([1.0, 2.0, 3.0]))


def test_values_far_apart_are_on_a_logarithmic_axis_or_side_by_side():
    assert setting([1e-4, 1e-3, 1e-2]).axes[0].get_xscale() == "log"
    (axes,) = setting([0.0, 1e-4, 1e-2]).axes
    assert axes.get_xscale() == "linear"
    assert [t.get_text() for t in axes.get_xticklabels()] == ["0", "0.0001", "0.01"]
    assert plots.panel_of(axes).ticks == (("0", 0.0), ("0.0001", 1.0), ("0.01", 2.0))


def test_variants_with_fewer_seeds_have_fewer_dots():
    rows = [Scores("a", np.ones(3), 1.0), Scores("b", np.ones(1), 1.0), Scores("c", np.ones(2), 1)]
    dots = series(plots.scores_over_setting("x", [1, 2, 3], rows).axes[0])[1:]
    assert [np.isfinite(one.y).tolist() for one in dots] == [
        [True, True, True],
        [True, False, True],
        [True, False, False],
    ]


def test_more_curves_are_drawn_over_a_panel_and_kept_with_it():
    x = np.arange(3.0)
    figure = plots.lines([Series("measured", x, x)], "n", "error", markers=True)
    plots.overlay(figure.axes[0], [Series("exact", x, x, colour="#123456", look="dashed")])
    assert [(one.label, one.look) for one in series(figure.axes[0])] == [
        ("measured", "marked"),
        ("exact", "dashed"),
    ]
    assert count(figure, "#123456") > 50


def test_profile():
    tau = np.linspace(0, 10, 11)
    above = np.linspace(1, 0, 11)
    figure = plots.profile([Series("PPO", tau, above, above - 0.1, above + 0.1)])
    (axes,) = figure.axes
    assert axes.get_ylim() == (-0.02, 1.02)
    assert (series(axes)[0].y == above).all()
    assert {"fraction of seeds above τ", "score τ"} <= texts(figure)


def test_lines_and_their_bands():
    x = np.array([1.0, 10, 100, 1000])
    band = Series("a $b$ c", x, 1 / x, 0.5 / x, 2 / x)
    figure = plots.lines([band, Series("d", x, x, colour="#123456")], "n", "error", log_x=True)
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    assert axes.get_yscale() == "linear"
    assert {"a $b$ c", "d", "n", "error", "100", "1k"} <= texts(figure)
    assert len(axes.collections) == 1
    assert [one.colour for one in series(axes)] == [plots.COLOURS[0], "#123456"]
    assert count(figure, "#123456") > 100
    small = plots.lines([Series("one", x, 1e-4 / x)], "n", "error", log_y=True)
    assert "1e−05" in texts(small)
    assert small.legends == []


def test_sweep_scatter():
    values, scores = [1e-4, 1e-3, 1e-2], np.array([1.0, 2.0, np.nan])
    figure = plots.sweep_scatter("learning_rate", values, scores, log=True, best=1)
    assert {"learning_rate", "best", "×: no score", "score", "0.001"} <= texts(figure)
    assert count(figure, plots.COLOURS[1]) > 50
    trials, best = series(figure.axes[0])
    assert list(trials.y) == [1, 2]
    assert np.isfinite(best.y).tolist() == [False, True]
    plain = plots.sweep_scatter("gamma", [0.9, 0.99], np.ones(2))
    assert not {"best", "×: no score"} & texts(plain)


@pytest.mark.parametrize("values", [["tanh", "relu", "tanh"], [True, False, True], [None, 1, None]])
def test_sweep_over_names(values):
    figure = plots.sweep_scatter("kind", values, np.arange(3.0))
    (axes,) = figure.axes
    assert [t.get_text() for t in axes.get_xticklabels()] == [str(v) for v in values[:2]]
    assert list(axes.lines[0].get_xdata()) == [0, 1, 0]
    plots.sweep_scatter("kind", values, np.full(3, np.nan), best=0)


def test_action_against_state():
    x, y = np.linspace(-1, 1, 5), np.linspace(-8, 8, 3)
    fields = [Field(f"λ = {i}", np.full((3, 5), float(i))) for i in range(2)]
    fields[1].values[0, 0] = 2.0  # the lowest y, the lowest x
    figure = plots.action_against_state(fields, x, y, xlabel="angle", ylabel="velocity")
    assert {"λ = 0", "λ = 1", "angle", "velocity", "action"} <= texts(figure)
    first, second = figure.axes[:2]
    assert first.images[0].get_clim() == second.images[0].get_clim() == (0, 2)
    assert first.images[0].get_extent() == [-1.25, 1.25, -12, 12]
    # Blue is low and red is high; the only high cell is at the lower left.
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba()).astype(int)
    box = second.get_window_extent()
    bottom, left = len(pixels) - int(box.y0), int(box.x0)
    red, _, blue, _ = pixels[bottom - 10, left + 10]
    assert red > 2 * blue


def test_value_maps():
    values = np.array([[0.0, 1.0], [np.nan, -0.5], [0.25, 0.5]])
    figure = plots.value_maps([Map("exact", values), Map("learned", values + 1)], label="V")
    assert {"exact", "learned", "V", "0.00", "1.00", "−0.50", "0.25", "2.00"} <= texts(figure)
    assert "nan" not in " ".join(texts(figure))
    assert count(figure, plots.WALL) > 1000
    meshes = [axes.collections[0] for axes in figure.axes[:2]]
    assert {mesh.get_clim() for mesh in meshes} == {(-0.5, 2)}
    # x to the right and y upwards: 1.00 is in the upper left.
    places = {t.get_text(): t.get_position() for t in figure.axes[0].texts}
    assert places["1.00"] == (0.5, 1.5)
    assert places["0.25"] == (2.5, 0.5)
    assert len(figure.axes[0].texts) == 5


def test_maps_stand_below_each_other_where_it_is_narrow():
    maps = [Map("one", np.zeros((5, 5)))] * 3
    wide, narrow = (plots.value_maps(maps, width=w) for w in (plots.WIDTH, plots.NARROW))
    assert wide.get_figwidth() <= plots.WIDTH + 0.15
    assert narrow.get_figwidth() <= plots.NARROW + 0.15
    assert narrow.get_figheight() > 2 * wide.get_figheight()
    fields = [Field("one", np.zeros((3, 5)))] * 3
    x, y = np.arange(5.0), np.arange(3.0)
    tall = plots.action_against_state(fields, x, y, xlabel="x", ylabel="y", width=plots.NARROW)
    assert tall.get_figwidth() == plots.NARROW


def test_numbers_stay_in_their_cells():
    figure = plots.value_maps([Map("large", np.full((9, 9), -12.34))] * 2)
    figure.canvas.draw()
    axes = figure.axes[0]
    cell = axes.get_window_extent().width / 9
    assert all(text.get_window_extent().width < cell for text in axes.texts)


@pytest.mark.long
def test_value_animation():
    frames = [[Map(f"update {i}", np.full((3, 2), i / 99))] for i in range(100)]
    gif = plots.value_animation(frames)
    picture = Image.open(io.BytesIO(gif))
    assert picture.format == "GIF"
    assert picture.n_frames == 60
    assert picture.info["loop"] == 0
    assert len(gif) < 1e6
    shown = []
    for i in (0, 59):
        picture.seek(i)
        shown.append(np.asarray(picture.convert("RGB"), int))
    assert picture.info["duration"] == 2000
    # From viridis' dark violet to its yellow, on white.
    place = (shown[0].shape[0] // 2 + 30, 30)  # in the lower left cell
    assert np.abs(shown[0][place] - [68, 1, 84]).sum() < 12
    assert np.abs(shown[1][place] - [253, 231, 37]).sum() < 12
    assert (shown[0][0, 0] == 255).all()
    assert plots.value_animation(frames) == gif


def test_other_files(tmp_path):
    with pytest.raises(UserError, match=r"must end in \.png or \.svg; got .*curve\.pdf"):
        plots.learning_curve([], tmp_path / "curve.pdf", "")
    with pytest.raises(UserError, match=r"Could not write .*curve.*: No such file"):
        plots.learning_curve([], tmp_path / "missing" / "curve.png", "")


def test_matplotlib_costs_no_start_up_and_pyplot_is_never_used(tmp_path):
    code = """
        import sys
        from actorcritic.figures import plots
        assert "matplotlib" not in sys.modules
        plots.learning_curve([], sys.argv[1], "")
        assert "matplotlib" in sys.modules and "matplotlib.pyplot" not in sys.modules
    """
    lines = "\n".join(line.strip() for line in code.splitlines())
    subprocess.run([sys.executable, "-c", lines, tmp_path / "curve.png"], check=True)
