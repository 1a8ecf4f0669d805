"""Reports: one file that needs nothing else, that reads everywhere and tells the right numbers."""

import csv
import io
import json
import re
import shutil
import tomllib
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from actorcritic.core.errors import UserError
from actorcritic.figures import plots
from actorcritic.figures.html import Animation, Picture, Section, Table, write
from actorcritic.figures.plots import Map, Scores, Series
from actorcritic.runners.session import EpisodeTable

NASTY = '</script><b title="x">& a$b$c'  # what a label may hold
STEPS = np.linspace(0, 1000, 101)


def curves():
    rising = Series(NASTY, STEPS, STEPS / 10, STEPS / 10 - 5, STEPS / 10 + 5)
    gaps = np.where(STEPS < 300, np.nan, 50.0)
    return plots.lines([rising, Series("flat", STEPS, gaps, gaps, gaps * np.nan)], "steps", "score")


def training():
    """Two variants of three seeds; returns rise with the number of the episode."""

    def table(episodes: int) -> EpisodeTable:
        number = np.tile(np.arange(1, episodes + 1), 3)
        seed = np.repeat(np.arange(3), episodes)
        return EpisodeTable(seed, 25 * number, number + 10.0 * seed, 20 + number % 9)

    told = [("A2C", table(40)), ("PPO", table(60))]
    seconds = {"A2C": 0.01, "PPO": 0.02}
    return plots.returns_and_lengths(told, "", (65.0,), window=4, seconds=seconds)


def sections() -> list[Section]:
    wide = tuple(f"column {i}" for i in range(12))
    scores = Table(
        "scores",
        "All scores",
        ("variant", "IQM (95 % interval)", "seconds", *wide),
        (
            (NASTY, "−12.5 (−20 to 1e-3)", "1,234", *wide),
            ("PPO", "–", "2.5k", *wide),
        ),
        "A note.",
    )
    seeds = Table("seeds", "Every seed", ("seed", "score"), (("0", "1.5"), ("1", "2.5")))
    ends = [Scores("PPO", np.arange(3.0), 1.0, 0.5, 1.5), Scores(NASTY, np.ones(2), 1.0)]
    bars, narrow = (
        plots.score_intervals(ends, "score", width=width) for width in (plots.WIDTH, plots.NARROW)
    )
    frames = [[Map("learned", np.full((2, 2), i / 3))] for i in range(3)]
    return [
        Section(
            f"First {NASTY}",
            f"PPO beats {NASTY}.",
            ("A remark.",),
            (
                Picture("curve", "The curves", curves(), "Bands are intervals."),
                Picture("scores", "The scores", bars, narrow=narrow),
                Picture("curve", "The curves again", curves()),
            ),
            (scores,),
            (seeds,),
        ),
        Section(
            "Second",
            "Nothing to see.",
            pictures=(
                Picture("training", "Training", training(), "A figure's note."),
                Animation("Values!", "Learning", plots.value_animation(frames)),
            ),
        ),
    ]


def written(folder: Path, **more) -> Path:
    options = {"command": f"actorcritic compare '{NASTY}'", "versions": {"jax": "0.10"}} | more
    return write(
        folder / "out.html", f"A {NASTY} report", sections(), summary=("Compared: two.",), **options
    )


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return written(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def html(path) -> str:
    return path.read_text(encoding="utf-8")


class Page(HTMLParser):
    """The tags of a page, and its texts with the tags they are in."""

    void = frozenset({"meta", "img", "source", "br", "link"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append((self.open[-1], data.strip()))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def page(html) -> Page:
    return Page(html)


def charts(html: str) -> list:
    """What the browser is to draw of each picture: its panels."""
    found = re.findall(r'<script type="application/json">(.*?)</script>', html, re.DOTALL)

    def refuse(constant):
        raise AssertionError(constant)

    return [json.loads(text, parse_constant=refuse)["panels"] for text in found]


# ---------------------------------------------------------------------------- the file


def test_every_element_is_closed(page):
    assert page.open == []


def test_nothing_is_loaded(html, page):
    assert html.count("://") == 1  # where uPlot says whose it is
    assert "github.com/leeoniya/uPlot" in html
    assert "@import" not in html
    assert page.of("link") == []
    for tag, attributes in page.tags:
        for name in ("src", "srcset", "href", "data", "action"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/")), (tag, attributes)
    assert all(url.startswith("#") for url in re.findall(r"url\(([^)]*)\)", html))


def test_labels_are_text(html, page):
    assert NASTY not in html
    assert page.of("b") == []
    texts = [text for _, text in page.texts]
    assert f"A {NASTY} report" in texts  # title and heading
    assert f"PPO beats {NASTY}." in texts
    assert ("th", NASTY) in page.texts
    assert ("code", f"actorcritic compare '{NASTY}'") in page.texts
    assert ("text", NASTY) in page.texts  # in a picture, dollars and all


def test_order(page):
    texts = [text for _, text in page.texts]
    order = [
        f"A {NASTY} report",
        "Compared: two.",
        f"First {NASTY}",
        f"PPO beats {NASTY}.",
        "A remark.",
        "The curves",
        "Bands are intervals.",
        "The scores",
        "All scores",
        "A note.",
        "Every seed",
        "Second",
        "How this was made",
        "jax",
    ]
    found = [texts.index(text) for text in order]
    assert found == sorted(found)
    assert ("summary", "Every seed") in page.texts
    assert ("span", "All scores") in page.texts


def test_ids_are_unique_and_all_references_are_met(html, page):
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    references = re.findall(r"url\(#([^)]*)\)", html)
    references += [a["href"][1:] for a in page.of("use")]
    references += [a["aria-labelledby"] for _, a in page.tags if "aria-labelledby" in a]
    assert len(references) > 20
    assert set(references) <= set(ids)


def test_it_can_be_read_aloud(page):
    assert page.of("html")[0]["lang"] == "en"
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))
    assert all(a["scope"] in ("row", "col") for a in page.of("th"))
    assert all(a["alt"] for a in page.of("img"))
    assert len(page.of("figcaption")) == len(page.of("figure")) == 5


def test_columns_of_numbers(page):
    numbers = [a.get("class") == "number" for a in page.of("th") if a["scope"] == "col"]
    assert numbers == [False, True, True] + [False] * 12 + [True, True]


@pytest.mark.parametrize(
    ("cells", "numeric"),
    [
        (("1", "−2.5", "+3"), True),
        (("500.0 (498 to 500)", "–"), True),
        (("12 %", "1e-05", "3.2M", "nan", "≥ 4"), True),
        (("–", ""), False),
        (("1", "PPO"), False),
        (("3 seeds",), False),
        (("lambda 0",), False),
    ],
)
def test_a_column_of_numbers_has_nothing_else(tmp_path, cells, numeric):
    table = Table("t", "T", ("x",), tuple((cell,) for cell in cells))
    out = write(
        tmp_path / "t.html", "T", [Section("S", "V", tables=(table,))], command=None, versions={}
    )
    classes = [a.get("class") for a in Page(out.read_text()).of("td")]
    assert classes == []  # the only column names the rows
    heads = [a for a in Page(out.read_text()).of("th") if a["scope"] == "row"]
    assert [a.get("class") == "number" for a in heads] == [numeric] * len(cells)


def test_a_row_that_does_not_fit(tmp_path):
    table = Table("t", "T", ("x", "y"), (("1",),))
    with pytest.raises(ValueError, match="does not fit"):
        write(
            tmp_path / "t.html", "T", [Section("S", "V", tables=(table,))], command="", versions={}
        )
    assert list(tmp_path.rglob("*.*")) == []


def test_picture_files(path):
    folder = path.parent / "out-pictures"
    name = "first-script-b-title-x-a-b-c"
    assert sorted(file.name for file in folder.iterdir()) == sorted(
        [f"{name}-{which}" for which in ("curve.png", "curve.svg", "curve-2.png", "curve-2.svg")]
        + [f"{name}-scores.png", f"{name}-scores.svg", "second-values.gif"]
        + ["second-training.png", "second-training.svg"]
    )
    for file in folder.glob("*.png"):
        assert Image.open(file).width > 900
    assert {file.name for file in path.parent.iterdir()} == {"out.html", "out-pictures"}


def test_curves_as_the_browser_gets_them(html):
    first, again, _ = charts(html)
    assert first == again
    (panel,) = first
    assert panel["name"] == "score"
    assert panel["log"] == [False, False]
    low, high = panel["limits"]["x"]
    assert low < 0 < 1000 < high
    (view,) = panel["views"]
    assert view["across"] == "steps"
    rising, flat = view["series"]
    assert rising["label"] == NASTY
    assert panel["xs"][rising["x"]][:3] == [0, 10, 20]
    assert rising["y"][:3] == [0, 1, 2]
    assert rising["low"][:3] == [-5, -4, -3]
    assert flat["x"] == rising["x"]
    assert flat["y"][:31] == [None] * 30 + [50]
    assert "high" not in flat


def test_a_training_as_the_browser_gets_it(html):
    *_, panels = charts(html)
    assert [panel["name"] for panel in panels] == ["Return", "Episode length (steps)"]
    returns, length = panels
    assert returns["marks"] == [["threshold 65", 65]]
    assert length["marks"] == []
    assert returns["views"][0]["smoothing"] == "mean of 4 episodes"
    assert len(returns["views"]) == len(length["views"]) == 6
    whole, *seeds = returns["views"][0]["series"][:4]
    assert (whole["label"], whole["seconds"], "part" in whole) == ("A2C", 0.01, False)
    assert [one["part"] for one in seeds] == ["A2C"] * 3


def test_long_series_are_thinned(tmp_path):
    x = np.arange(100_000)
    figure = plots.lines([Series("a", x[::-1], np.sin(x / 1e4))], "x", "y")
    html = page_of(tmp_path, Picture("p", "P", figure)).read_text()
    (((panel),),) = charts(html)
    (shown,) = panel["xs"]
    assert 100 < len(shown) <= 200
    assert shown[0] == 0
    assert shown[-1] == 99_999
    assert shown == sorted(shown)


def page_of(folder: Path, *pictures: Picture) -> Path:
    section = Section("S", "V", pictures=pictures)
    return write(folder / "t.html", "T", [section], command=None, versions={})


def test_a_page_without_curves_carries_no_library(tmp_path):
    html = page_of(tmp_path, Picture("p", "P", plots.value_maps([Map("m", np.zeros((2, 2)))])))
    assert "leeoniya" not in html.read_text()


def test_a_page_carries_the_licence_of_the_library(html):
    comment = html[html.index("<!--") : html.index("-->")]
    assert "Copyright (c) 2022 Leon Sorokin" in comment
    assert "The above copyright notice and this permission notice shall be included" in comment


def test_what_a_page_is_made_of_is_in_the_package():
    root = Path(__file__).resolve().parent.parent
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"]["actorcritic.figures"]
    folder = root / "src" / "actorcritic" / "figures"
    kept = {file for pattern in patterns for file in folder.glob(pattern)}
    files = {file for file in folder.rglob("*") if file.is_file()}
    assert {file for file in files if file.suffix not in (".py", ".pyc")} == kept
    assert len(kept) == 6


def test_a_title_is_said_once(tmp_path):
    section = Section("The whole", "V")
    out = write(tmp_path / "t.html", "The whole", [section], command=None, versions={})
    page = Page(out.read_text())
    assert [kind for kind, text in page.texts if text == "The whole"] == ["title", "h1"]


def test_ink_follows_the_page_and_data_do_not(html):
    drawings = "".join(re.findall(r"<svg.*?</svg>", html, re.DOTALL))
    assert "var(--ink)" in drawings
    assert "var(--grid)" in drawings
    assert plots.COLOURS[1].lower() in drawings
    for colour in (plots.INK, plots.FAINT, plots.GRID, plots.RULE, plots.PAPER):
        assert colour.lower() not in drawings.lower()
    assert "<style" not in drawings  # it would be the whole page's


def test_the_same_report_gives_the_same_file(path, tmp_path):
    assert written(tmp_path).read_bytes() == path.read_bytes()


def test_without_a_command_or_pictures(tmp_path):
    out = write(tmp_path / "new" / "t.html", "T", [], command=None, versions={})
    page = Page(out.read_text())
    assert page.of("code") == []
    assert "pictures" not in out.read_text().split("</style>")[1].split("<script>")[0]


@pytest.mark.parametrize("name", ["out.htm", "out", "out.pdf"])
def test_other_files(tmp_path, name):
    with pytest.raises(UserError, match=rf"must end in \.html; got .*{name}"):
        write(tmp_path / name, "T", [], command=None, versions={})


def test_a_place_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Could not make the folder"):
        written(tmp_path / "file")
    (tmp_path / "out.html").mkdir()
    with pytest.raises(UserError, match=r"Could not write .*out\.html"):
        written(tmp_path)
    assert not [file for file in tmp_path.rglob("*") if file.name.startswith(".")]


# ---------------------------------------------------------------------------- in a browser

OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
OPTIONS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip(f"no browser here: none of {', '.join(names)}")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, path):
    """Opens the report from the disk; at the end, nothing may have gone wrong in it."""
    troubles: list[str] = []
    contexts = []

    def open_page(**options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("request", lambda r: troubles.extend([r.url] * r.url.startswith(("http", "ws"))))
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert troubles == []


def place(page, x: float, *, plot: int = 0, height: float = 0.5) -> tuple[float, float]:
    """A point above that x in a plot's first panel, which is brought into view."""
    chart = page.locator(".plot.chart").nth(plot)
    chart.scroll_into_view_if_needed()
    left, top, across, high = chart.locator(".u-over").first.evaluate(
        "(over, x) => { const r = over.getBoundingClientRect(), u = over.closest('.panel').chart;"
        " return [r.left, r.top, u.valToPos(x, 'x'), r.height]; }",
        x,
    )
    return left + across, top + height * high


def limits(page, plot: int = 0, panel: int = 0) -> list[float]:
    """The ends of the axes of a panel: x, then y."""
    frame = page.locator(".plot.chart").nth(plot).locator(".panel").nth(panel)
    return frame.evaluate(
        "f => { const s = f.chart.scales; return [s.x.min, s.x.max, s.y.min, s.y.max]; }"
    )


def test_pointing_shows_the_values(opened):
    page = opened(viewport={"width": 1000, "height": 900})
    box = page.locator(".values").first
    assert not box.is_visible()
    page.mouse.move(*place(page, 500))
    assert box.is_visible()
    rows = box.locator("tr").all_inner_texts()
    assert box.inner_text().startswith("steps: 500")
    assert rows[0].split("\t") == [NASTY, "50", "45 to 55"]
    assert rows[1].split("\t")[:2] == ["flat", "50"]
    page.mouse.move(*place(page, 100))
    assert box.locator("tr").all_inner_texts()[0].split("\t") == [NASTY, "10", "5 to 15"]
    assert box.locator("tr").count() == 1  # the other has no value there
    page.mouse.move(1, 1)
    assert not box.is_visible()


def test_a_finger_and_the_keys_do_too(opened):
    page = opened(viewport={"width": 375, "height": 740}, has_touch=True, is_mobile=True)
    page.touchscreen.tap(*place(page, 800))
    box = page.locator(".values").first
    assert "80\t75 to 85" in box.inner_text()
    frame = box.bounding_box()
    assert frame["x"] >= 0
    assert frame["x"] + frame["width"] <= 375
    before = box.inner_text()
    page.locator(".panel").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert box.inner_text() > before
    page.keyboard.press("Escape")
    assert not box.is_visible()


def test_dragging_zooms_and_a_button_shows_all_again(opened):
    page = opened(viewport={"width": 1000, "height": 900})
    whole, reset = limits(page), page.get_by_role("button", name="Reset zoom").first
    assert not reset.is_visible()
    page.mouse.move(*place(page, 200))
    page.mouse.down()
    page.mouse.move(*place(page, 400), steps=4)
    page.mouse.up()
    low, high, *ys = limits(page)
    assert (low, high) == pytest.approx((200, 400), abs=4)
    assert ys == whole[2:]  # dragged along, only the horizontal axis is another
    reset.click()
    assert limits(page) == whole
    assert not reset.is_visible()
    # Dragged down as well, both are.
    page.mouse.move(*place(page, 200, height=0.2))
    page.mouse.down()
    page.mouse.move(*place(page, 400, height=0.7), steps=4)
    page.mouse.up()
    _, _, low, high = limits(page)
    assert whole[2] < low < high < whole[3]
    page.mouse.dblclick(*place(page, 300))
    assert limits(page) == whole
    page.locator(".panel").first.focus()
    page.keyboard.press("0")
    assert limits(page) == whole
    page.keyboard.press("+")
    low, high, *_ = limits(page)
    assert high - low == pytest.approx((whole[1] - whole[0]) / 2, rel=0.01)
    page.keyboard.press("-")
    assert limits(page)[:2] == pytest.approx(whole[:2], abs=1e-6)


def test_panels_of_a_picture_are_zoomed_together(opened):
    page = opened(viewport={"width": 1000, "height": 900})
    page.mouse.move(*place(page, 500, plot=2))
    page.mouse.down()
    page.mouse.move(*place(page, 1000, plot=2), steps=4)
    page.mouse.up()
    returns, lengths = limits(page, 2, 0), limits(page, 2, 1)
    assert returns[:2] == pytest.approx((500, 1000), abs=5)
    assert lengths[:2] == returns[:2]


def shown(page, plot: int) -> list[str]:
    """The names of the curves that can be seen in a plot's first panel."""
    frame = page.locator(".plot.chart").nth(plot).locator(".panel").first
    return frame.evaluate(
        "f => f.chart.parts.filter((p, i) => p.role === 'y' && f.chart.series[i + 1].show)"
        ".map((p) => p.s.label)"
    )


def test_a_name_in_the_legend_shows_and_hides_its_curves(opened):
    page = opened()
    chart = page.locator(".plot.chart").nth(2)
    seeds = [f"{label}, seed {k}" for label in ("A2C", "PPO") for k in range(3)]
    assert shown(page, 2) == ["A2C", *seeds[:3], "PPO", *seeds[3:]]
    name = chart.get_by_role("button", name="A2C")
    assert name.get_attribute("aria-pressed") == "true"
    name.focus()
    page.keyboard.press("Enter")
    assert name.get_attribute("aria-pressed") == "false"
    assert shown(page, 2) == ["PPO", *seeds[3:]]
    chart.get_by_role("checkbox", name="Seeds").uncheck()
    assert shown(page, 2) == ["PPO"]
    assert "thin" not in chart.locator(".note").inner_text()
    name.click()
    assert shown(page, 2) == ["A2C", "PPO"]
    page.mouse.move(*place(page, 500, plot=2))
    assert len(chart.locator(".values tr").all()) == 2
    chart.get_by_role("checkbox", name="Intervals").uncheck()
    bands = chart.locator(".panel").first.evaluate("f => f.chart.bands.length")
    assert bands == 0


def ends(page, plot: int, label: str) -> tuple[float, float, float]:
    """The first and the last x of a curve in the first panel, and its last value."""
    frame = page.locator(".plot.chart").nth(plot).locator(".panel").first
    return tuple(
        frame.evaluate(
            "(f, label) => { const u = f.chart;"
            " const i = 1 + u.parts.findIndex((p) => p.s.label === label && p.role === 'y');"
            " const at = [...u.data[i].keys()].filter((k) => u.data[i][k] != null);"
            " return [u.data[0][at[0]], u.data[0][at.at(-1)], u.data[i][at.at(-1)]]; }",
            label,
        )
    )


def test_other_axes_and_smoothing(opened):
    page = opened()
    chart = page.locator(".plot.chart").nth(2)
    across, smoothing = chart.get_by_label("Against"), chart.get_by_label("Smoothing")
    assert across.locator("option").all_inner_texts() == [
        "environment steps, per seed",
        "episodes, per seed",
        "seconds of training, all seeds",
    ]
    assert smoothing.locator("option").all_inner_texts() == [
        "none",
        "mean of 4 episodes",
        "mean of 20 episodes",
    ]
    # The last four episodes of the middle one of three seeds have 1.5 less than the last.
    assert ends(page, 2, "A2C") == (25, 1000, 48.5)
    smoothing.select_option("none")
    assert ends(page, 2, "A2C") == (25, 1000, 50)
    across.select_option("episodes, per seed")
    assert ends(page, 2, "A2C") == (1, 40, 50)
    assert ends(page, 2, "PPO") == (1, 60, 70)
    across.select_option("seconds of training, all seeds")
    assert ends(page, 2, "A2C") == (0.25, 10, 50)
    assert ends(page, 2, "PPO") == (0.5, 30, 70)
    page.mouse.move(*place(page, 10, plot=2))
    assert chart.locator(".values").inner_text().startswith("seconds of training, all seeds: ")


def test_data_and_pictures_can_be_taken_away(opened):
    page = opened(viewport={"width": 1000, "height": 900})
    chart = page.locator(".plot.chart").nth(2)
    chart.get_by_role("checkbox", name="Seeds").uncheck()
    with page.expect_download() as download:
        chart.get_by_role("button", name="Data").click()
    assert download.value.suggested_filename == "second-training.csv"
    rows = list(csv.reader(io.StringIO(Path(download.value.path()).read_text())))
    head = ["panel", "curve", "environment steps, per seed", "value", "low", "high"]
    assert rows[0] == head
    assert {row[0] for row in rows[1:]} == {"Return", "Episode length (steps)"}
    assert {row[1] for row in rows[1:]} == {"A2C", "PPO"}
    last = [row for row in rows if row[:2] == ["Return", "A2C"]][-1]
    assert [float(cell) for cell in last[2:]] == [1000, 48.5, 38.5, 58.5]
    with page.expect_download() as download:
        chart.get_by_role("button", name="Picture").click()
    assert download.value.suggested_filename == "second-training.png"
    image = Image.open(download.value.path())
    assert image.width > 700
    colours = {colour for _, colour in image.convert("RGB").getcolors(10**6)}
    assert {(255, 255, 255), (0xD5, 0x5E, 0)} <= colours


def test_letters_are_large_enough_on_a_phone(opened):
    page = opened(viewport={"width": 375, "height": 740}, is_mobile=True, has_touch=True)
    drawn = page.evaluate(
        "[...document.querySelectorAll('.panel')]"
        ".flatMap((f) => f.chart.axes.map((a) => a.font[0]))"
    )
    assert len(drawn) == 8
    assert min(float(font.split("px")[0]) for font in drawn) >= 11
    widths = page.evaluate("[...document.querySelectorAll('.panel')].map((f) => f.chart.width)")
    assert max(widths) < 345  # drawn anew, not shrunk
    seen = page.locator("svg:visible")
    assert seen.count() == 1  # the narrow drawing of the bars
    sizes = seen.first.evaluate(
        "svg => [...svg.querySelectorAll('text')]"
        ".map((t) => parseFloat(getComputedStyle(t).fontSize)"
        " * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width)"
    )
    assert len(sizes) > 5
    assert min(sizes) >= 11
    html = page.locator("body").evaluate(
        "b => [...b.querySelectorAll('button, label, select, h4, .note, td')]"
        ".map((e) => parseFloat(getComputedStyle(e).fontSize))"
    )
    assert min(html) >= 11


@pytest.mark.parametrize("width", [375, 1000])
def test_without_javascript_pictures_are_there(browser, path, width):
    page = browser.new_page(java_script_enabled=False, viewport={"width": width, "height": 900})
    page.goto(path.as_uri())
    assert page.locator(".panel").count() == 0
    assert page.locator("svg:visible").count() == 4
    whole = page.locator("svg:visible").first.bounding_box()["width"]
    assert whole > 500  # scrolled where there is no room, so that letters stay large
    page.close()


def test_a_phone_scrolls_tables_not_the_page(opened):
    page = opened(viewport={"width": 360, "height": 740})
    sizes = "e => [e.scrollWidth, e.clientWidth]"
    whole, seen = page.locator("html").evaluate(sizes)
    assert whole <= seen == 360
    whole, seen = page.locator(".scroll").first.evaluate(sizes)
    assert whole > seen
    assert all(e.bounding_box()["width"] <= 328 for e in page.locator(".plot, .panel").all())


def test_small_pictures_stay_small(browser, tmp_path):
    maps = plots.value_maps([Map("one", np.zeros((2, 2)))])
    section = Section("S", "V", pictures=(Picture("p", "P", maps),))
    out = write(tmp_path / "t.html", "T", [section], command=None, versions={})
    page = browser.new_page(viewport={"width": 1000, "height": 900})
    page.goto(out.as_uri())
    assert 150 < page.locator("svg").bounding_box()["width"] < 400
    page.close()


def test_dark_and_light(opened):
    colours = {}
    for scheme in ("light", "dark"):
        page = opened(color_scheme=scheme)
        colours[scheme] = [
            page.locator(where).first.evaluate(
                "(e, what) => getComputedStyle(e)[what]"
                ".match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0)",
                what,
            )
            for where, what in (
                ("body", "backgroundColor"),
                ("body", "color"),
                ("svg:visible text", "fill"),
            )
        ]
    assert colours["light"][0] > 700
    assert colours["dark"][0] < 120
    for ink in (1, 2):  # of the page and of its pictures
        assert colours["light"][ink] < 350
        assert colours["dark"][ink] > 450


def test_a_chart_is_drawn_again_when_it_becomes_dark(opened):
    page = opened(color_scheme="light")

    def darkest_and_lightest() -> tuple[int, int]:
        shot = page.locator(".panel").first.locator("canvas").screenshot()
        return Image.open(io.BytesIO(shot)).convert("L").getextrema()

    assert darkest_and_lightest()[1] == 255
    page.emulate_media(color_scheme="dark")
    page.wait_for_timeout(100)
    assert darkest_and_lightest()[1] < 200


def test_paper(opened):
    page = opened(color_scheme="dark")
    cell = page.locator("details td").first
    assert not cell.is_visible()
    assert page.pdf(format="A4").startswith(b"%PDF")
    page.emulate_media(media="print", color_scheme="dark")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0  # where style alone cannot open them
    assert cell.is_visible()
    assert not page.locator(".live").first.is_visible()
    assert page.locator("svg:visible").count() == 4  # what a screen draws anew, and the wide bars
    assert page.locator(".drawn + .note").last.inner_text() == "A figure's note."
    background = page.locator("body").evaluate("e => getComputedStyle(e).backgroundColor")
    assert background == "rgb(255, 255, 255)"
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details[open]").count() == 0


def test_folded_tables_open(opened):
    page = opened()
    page.get_by_text("Every seed").click()
    assert page.locator("details td").first.is_visible()


def test_the_command_is_copied(opened):
    page = opened(permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy the command").click()
    page.get_by_role("button", name="Copied").wait_for(timeout=5000)
