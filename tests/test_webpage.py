"""Reports: one file that needs nothing else, that reads everywhere and tells the right numbers."""

import json
import re
import shutil
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

NASTY = '</script><b title="x">& a$b$c'  # what a label may hold
STEPS = np.linspace(0, 1000, 101)


def curves():
    rising = Series(NASTY, STEPS, STEPS / 10, STEPS / 10 - 5, STEPS / 10 + 5)
    gaps = np.where(STEPS < 300, np.nan, 50.0)
    return plots.lines([rising, Series("flat", STEPS, gaps, gaps, gaps * np.nan)], "steps", "score")


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
    frames = [[Map("learned", np.full((2, 2), i / 3))] for i in range(3)]
    return [
        Section(
            f"First {NASTY}",
            f"PPO beats {NASTY}.",
            ("A remark.",),
            (
                Picture("curve", "The curves", curves(), "Bands are intervals."),
                Picture("scores", "The scores", plots.score_intervals(ends, "score")),
                Picture("curve", "The curves again", curves()),
            ),
            (scores,),
            (seeds,),
        ),
        Section(
            "Second",
            "Nothing to see.",
            pictures=(Animation("Values!", "Learning", plots.value_animation(frames)),),
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


def hovers(html: str) -> list:
    found = re.findall(r'<script type="application/json">(.*?)</script>', html, re.DOTALL)

    def refuse(constant):
        raise AssertionError(constant)

    return [json.loads(text, parse_constant=refuse) for text in found]


# ---------------------------------------------------------------------------- the file


def test_every_element_is_closed(page):
    assert page.open == []


def test_nothing_is_loaded(html, page):
    assert "://" not in html
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
    assert ("caption", "All scores") in page.texts


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
    assert len(page.of("figcaption")) == len(page.of("figure")) == 4


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
    )
    for file in folder.glob("*.png"):
        assert Image.open(file).width > 900
    assert {file.name for file in path.parent.iterdir()} == {"out.html", "out-pictures"}


def test_values_to_look_up(html):
    first, again = hovers(html)
    assert first == again
    (panel,) = first
    left, top, width, height = panel["box"]
    assert 0 < left < left + width < 1
    assert 0 < top < top + height < 1
    rising, flat = panel["series"]
    assert rising["label"] == NASTY
    assert rising["x"][:3] == [0, 10, 20]
    assert rising["y"][:3] == [0, 1, 2]
    assert rising["low"][:3] == [-5, -4, -3]
    assert flat["x"][0] == 300  # nothing is known before
    assert "high" not in flat


def test_long_series_are_thinned(tmp_path):
    x = np.arange(100_000)
    figure = plots.lines([Series("a", x, np.sin(x / 1e4))], "x", "y")
    out = write(
        tmp_path / "t.html",
        "T",
        [Section("S", "V", pictures=(Picture("p", "P", figure),))],
        command=None,
        versions={},
    )
    ((panel,),) = hovers(out.read_text())
    shown = panel["series"][0]["x"]
    assert 100 < len(shown) < 200
    assert shown[-1] == pytest.approx(99_999, rel=1e-4)


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


def at(page, fraction: float) -> tuple[float, float]:
    """A point in the first plot's panel, so far across it; the panel is brought into view."""
    plot = page.locator(".plot.live").first
    plot.scroll_into_view_if_needed()
    frame = plot.bounding_box()
    panel = json.loads(plot.locator("script").text_content())[0]
    left, top, width, height = panel["box"]
    low, high = panel["limits"]
    across = left + width * (fraction * 1000 - low) / (high - low)
    return frame["x"] + frame["width"] * across, frame["y"] + frame["height"] * (top + height / 2)


def test_pointing_shows_the_values(opened):
    page = opened(viewport={"width": 1000, "height": 900})
    box = page.locator(".values").first
    assert not box.is_visible()
    page.mouse.move(*at(page, 0.5))
    assert box.is_visible()
    rows = box.locator("tr").all_inner_texts()
    assert box.inner_text().startswith("steps: 500")
    assert rows[0].split("\t") == [NASTY, "50", "45 to 55"]
    assert rows[1].split("\t")[:2] == ["flat", "50"]
    page.mouse.move(*at(page, 0.1))
    assert box.locator("tr").all_inner_texts()[0].split("\t") == [NASTY, "10", "5 to 15"]
    assert box.locator("tr").count() == 1  # the other has no value there
    line = page.locator(".line").first.bounding_box()
    assert line["x"] == pytest.approx(at(page, 0.1)[0], abs=1.5)
    page.mouse.move(1, 1)
    assert not box.is_visible()


def test_a_finger_and_the_keys_do_too(opened):
    page = opened(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    page.touchscreen.tap(*at(page, 0.8))
    box = page.locator(".values").first
    assert "80\t75 to 85" in box.inner_text()
    frame = box.bounding_box()
    assert frame["x"] >= 0
    assert frame["x"] + frame["width"] <= 360
    page.locator(".plot.live").first.focus()
    page.keyboard.press("ArrowRight")
    assert "82\t77 to 87" in box.inner_text()
    page.keyboard.press("Escape")
    assert not box.is_visible()


def test_a_phone_scrolls_tables_not_the_page(opened):
    page = opened(viewport={"width": 360, "height": 740})
    sizes = "e => [e.scrollWidth, e.clientWidth]"
    whole, seen = page.locator("html").evaluate(sizes)
    assert whole <= seen == 360
    whole, seen = page.locator(".scroll").first.evaluate(sizes)
    assert whole > seen
    assert all(svg.bounding_box()["width"] <= 328 for svg in page.locator(".plot svg").all())
    # Letters are larger than they would be if they only shrank with the picture.
    assert page.locator("svg text").first.bounding_box()["height"] > 5


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
                ("svg text", "fill"),
            )
        ]
    assert colours["light"][0] > 700
    assert colours["dark"][0] < 120
    for ink in (1, 2):  # of the page and of its pictures
        assert colours["light"][ink] < 350
        assert colours["dark"][ink] > 450


def test_paper(opened):
    page = opened(color_scheme="dark")
    cell = page.locator("details td").first
    assert not cell.is_visible()
    assert page.pdf(format="A4").startswith(b"%PDF")
    page.emulate_media(media="print", color_scheme="dark")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0  # where style alone cannot open them
    assert cell.is_visible()
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
