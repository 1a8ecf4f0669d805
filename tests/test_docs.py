"""The docs against the code: links, line numbers, defaults, what they say is to be typed."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import actorcritic as ac
from actorcritic import cli
from actorcritic.algorithms import ALGORITHMS
from actorcritic.algorithms.catalogue import FROM_DATA
from actorcritic.algorithms.presets import preset
from actorcritic.core import hyperparameters
from actorcritic.data import folder
from actorcritic.envs import CartPole, Pendulum
from actorcritic.runs import configuration
from actorcritic.runs.collecting import Part, recorded
from actorcritic.runs.settings import TrainSettings

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))


def script(name: str) -> Any:
    """One of the scripts of the docs, as a module."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def lines() -> Any:
    return script("lines")


@pytest.fixture(scope="module")
def pictures() -> Any:
    return script("pictures")


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in a language."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [block for kind, block in found if kind == language]


# -------------------------------------------------------------------------------------- links


def anchors(page: Path) -> set[str]:
    """What GitHub calls the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@each_page
def test_every_relative_link_leads_somewhere(page):
    text = re.sub(
        r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    for target in re.findall(r"\]\(([^()\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        to = (page.parent / name).resolve() if name else page
        assert to.exists(), target
        if anchor and to.suffix == ".md":
            assert anchor in anchors(to), target


def test_line_numbers_are_true():
    check = [sys.executable, str(DOCS / "lines.py"), "--check"]
    done = subprocess.run(check, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("maths.losses.value_loss", "def value_loss(", "    return inside *"),
        ("algorithms.ppo.PPO", "@hyperparameters", "        return carry, jax.tree.map("),
        ("algorithms.ppo.PPO._clip", "    def _clip(", "        return optimizers.sch"),
        ("algorithms.a2c.A2C.critic", None, None),  # inherited: not defined there
        ("algorithms.ppo.PPO.target_kl", "    target_kl: float | None", "    )"),
        ("runs.diagnosis.GRACE", "GRACE = ", "GRACE = "),
        ("runners.compiled.collect", "def collect(", "    return gather("),
        ("maths.losses.nothing", None, None),
        ("nothing.at_all", None, None),
    ],
)
def test_a_name_is_found_in_the_sources(lines, name, first, last):
    if first is None:
        with pytest.raises(KeyError):
            lines.lines(name)
        return
    path, begin, end = lines.lines(name)
    source = path.read_text(encoding="utf-8").splitlines()
    assert source[begin - 1].startswith(first)
    assert source[end - 1].startswith(last)


def test_a_stale_link_is_renewed_and_a_broken_one_named(lines):
    good = lines.link("maths.losses.value_loss", DOCS / "algorithms")
    assert good.startswith("[`maths.losses.value_loss`](../../src/actorcritic/maths/losses.py#L")
    bad = re.sub(r"#L.*\)", "#L1-L2)", good)
    assert lines.renewed(f"a {bad} b", DOCS / "algorithms") == (f"a {good} b", [bad], [])
    assert lines.renewed(good, DOCS / "algorithms") == (good, [], [])
    for text in ("`maths.losses.nothing`", "its code"):
        broken = f"[{text}](../src/actorcritic/losses.py#L1)"
        assert lines.renewed(broken, DOCS) == (broken, [], [broken])


# ----------------------------------------------------------------------------------- algorithms


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_algorithm_has_a_page_with_its_defaults(name):
    text = (DOCS / "algorithms" / f"{name}.md").read_text(encoding="utf-8")
    section = re.search(r"^## Defaults$(.*?)^## ", text, re.DOTALL | re.MULTILINE)
    assert section is not None
    rows = re.findall(r"^\| `(\w+)` \| `(.+?)` \| .*\S.* \|$", section[1], re.MULTILINE)
    written = {field: ast.literal_eval(default) for field, default in rows}
    assert len(rows) == len(written)
    fields = dataclasses.fields(ALGORITHMS[name])
    defaults = {f.name: f.default for f in fields if f.name != "axis"}  # which the runner sets
    assert {k: repr(v) for k, v in written.items()} == {k: repr(v) for k, v in defaults.items()}


def test_the_index_names_every_page():
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    for page in DOCS.rglob("*.md"):
        assert page.name == "README.md" or f"({page.relative_to(DOCS).as_posix()})" in index


# ---------------------------------------------------------------------------- what is to be typed


class Trained(Exception):
    """Everything was right up to the first step."""


def check_only(algorithm: Any, environment: Any, settings: Any = None, **options: Any) -> None:
    """In the place of `train`: all that it checks, and no training."""
    settings, overrides = TrainSettings.split(settings, options)
    data = None if settings.data is None else ac.dataset(settings.data)
    world = configuration.world_of(environment, settings, data)
    if isinstance(algorithm, str):
        algorithm = preset(algorithm, world.spec, settings.total_steps, overrides).algorithm
    algorithm = hyperparameters.replace(algorithm, **overrides)
    configuration.check(algorithm, world, settings.total_steps or 1_000_000, data)
    raise Trained


ALGORITHM_PAGES = [*sorted((DOCS / "algorithms").glob("*.md")), DOCS / "continuous-actions.md"]


@pytest.mark.parametrize("page", ALGORITHM_PAGES, ids=lambda p: p.stem)
def test_command_lines_and_snippets_are_right_up_to_the_first_step(page, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    if page.stem in FROM_DATA:  # such a page names data sets
        for world in (Pendulum(), CartPole()):
            data = recorded(world, [Part("random", None, (), 20)], seed=0)
            folder.save(data, Path("data") / world.spec.id.removesuffix("-v1").lower())
    # Ray is an extra, and no first step is made here.
    monkeypatch.setattr("actorcritic.runs.settings.check_installed", lambda: None)
    monkeypatch.setattr(ac, "train", check_only)  # first: it is looked up when it is first used
    monkeypatch.setattr("actorcritic.runs.train.train", check_only)
    commands = "".join(blocks(page, "")).splitlines()
    assert commands
    for command in commands:
        program, *words = shlex.split(command, comments=True)
        assert program == "actorcritic"
        with pytest.raises(Trained):
            cli.main(words)
    snippets = blocks(page, "python")
    assert snippets
    for snippet in snippets:
        if "ac.train(" in snippet:
            with pytest.raises(Trained):
                exec(snippet, {})
        else:
            exec(snippet, {})


def test_every_picture_is_drawn_by_a_command(pictures, monkeypatch):
    monkeypatch.setattr(ac, "train", check_only)  # first: it is looked up when it is first used
    monkeypatch.setattr("actorcritic.runs.train.train", check_only)
    shown = {
        (page.parent / target).resolve()
        for page in PAGES
        for target in re.findall(r"!\[[^\]]*\]\(([^()\s]+)\)", page.read_text(encoding="utf-8"))
    }
    assert shown == {DOCS / name for name in pictures.PICTURES}
    for name in pictures.PICTURES:
        with pytest.raises(Trained):
            pictures.draw(name)


@pytest.mark.long
def test_the_snippets_of_the_training_loop_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for snippet in blocks(DOCS / "training.md", "python"):
        exec(snippet, {})
    assert "{0: 10240} {0: " in capsys.readouterr().out
    assert (tmp_path / "runs" / "kept" / "run.json").exists()


# ---------------------------------------------------------------------------- the audit's words


def test_the_gallery_shows_what_the_audit_says():
    gallery = script("gallery")
    page = gallery.PAGE.read_text(encoding="utf-8")
    torch = importlib.util.find_spec("torch") is not None
    shown = [name for name in gallery.FUNCTIONS if torch or "torch" not in name]
    assert len(shown) >= 3
    for name in shown:
        words = gallery.said(name)
        assert "1. " in words  # each of them is wrong
        assert gallery.section(name, words) in page
