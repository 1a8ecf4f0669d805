"""Studies: what they write is there, agrees with itself and with exact truth, and is kept."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_studies_rlhf import check_the_study

from actorcritic.core.errors import UserError
from actorcritic.experiments.report import report
from actorcritic.figures.statistics import Estimate
from actorcritic.studies import STUDIES, study
from actorcritic.studies import s1_critic_against_reinforce as against_reinforce
from actorcritic.studies import s5_critic_against_exact_values as grid
from actorcritic.studies.bench import QUICK, Result
from actorcritic.studies.comparing import deviation, ratio, side

pytestmark = pytest.mark.long


def one_process(name: str) -> pytest.MarkDecorator:
    """Tests of one study share what it leaves, and so run in one process."""
    return pytest.mark.xdist_group(f"study {name}")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The quick version of each study, carried out once: its result and its folder."""
    kept = {}

    def carry_out(name: str) -> tuple[Result, Path]:
        if name not in kept:
            folder = tmp_path_factory.mktemp("studies") / name
            kept[name] = study(name, quick=True, out=folder, quiet=True), folder
        return kept[name]

    return carry_out


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """The files of the runs below a folder: what is in them, and when they were written."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.parent != folder)
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in files
        if path.parent != folder / "report-pictures"
    }


@pytest.mark.parametrize("name", [pytest.param(x, marks=one_process(x)) for x in STUDIES])
def test_a_quick_study_leaves_a_page_and_repeated_trains_nothing(done, name, monkeypatch):
    result, folder = done(name)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert result.title in page
    assert QUICK in page
    for sentence in result.answer.sentences:
        assert sentence in str(result).replace("\n", " ")
    pictures = {path.suffix for path in (folder / "report-pictures").iterdir()}
    assert {".png", ".svg"} <= pictures
    assert (".gif" in pictures) == (name == "S5")
    data = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert data == json.loads(json.dumps(result.data()))
    assert data["study"] == name
    assert data["quick"]
    assert data["sentences"] == list(result.answer.sentences)
    assert len(data["comparisons"]) == len(result.answer.parts)

    if name == "S10":
        check_the_study(result, folder)

    before = contents(folder)

    def train(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr("actorcritic.experiments.together._train_groups", train)
    monkeypatch.setattr("actorcritic.decisions.simulation.simulate", train)
    again = study(name.lower(), quick=True, out=folder, quiet=True)
    assert contents(folder) == before
    assert again.answer.sentences == result.answer.sentences


def test_a_study_is_imported_when_it_is_asked_for():
    code = """
        import sys
        from actorcritic import cli, studies
        cli.main(["study"])
        modules = {entry.target for entry in studies.STUDIES.entries.values()}
        assert modules and not modules & set(sys.modules)
    """
    lines = "\n".join(line.strip() for line in code.splitlines())
    done = subprocess.run(
        [sys.executable, "-c", lines], capture_output=True, text=True, encoding="utf-8", check=True
    )
    assert [line.split()[0] for line in done.stdout.splitlines()[: len(STUDIES)]] == list(STUDIES)


@one_process("S2")
def test_an_interrupted_study_keeps_what_was_finished(done, tmp_path):
    result, folder = done("S2")
    half = tmp_path / "half"
    shutil.copytree(folder, half)
    variants = sorted((half / "variants").iterdir())
    shutil.rmtree(variants[-1])
    for path in half.glob("report*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    before = contents(half)
    again = study("S2", quick=True, out=half, quiet=True)
    after = contents(half)
    assert {name: after[name] for name in before} == before
    assert len(after) > len(before)
    assert again.answer.sentences == result.answer.sentences
    assert (half / "report.html").exists()


@one_process("S1")
def test_a_study_can_be_reported_again_from_its_folder(done, tmp_path):
    _, folder = done("S1")
    page = report([folder], tmp_path / "again.html")
    assert "one-step actor-critic" in page.read_text(encoding="utf-8")


@one_process("S2")
def test_unknown_studies_and_folders_of_others_are_refused(done, tmp_path):
    with pytest.raises(UserError, match=r"There is no study 'S99'.*Known: S1, S2"):
        study("S99", out=tmp_path / "none")
    assert not (tmp_path / "none").exists()
    _, folder = done("S2")
    before = contents(folder)
    with pytest.raises(UserError, match="already holds another experiment"):
        study("S1", quick=True, out=folder, quiet=True)
    with pytest.raises(UserError, match="already holds another experiment"):
        study("S2", out=folder, quiet=True)
    assert contents(folder) == before


@one_process("S1")
def test_what_is_said_of_reinforce_agrees_with_the_numbers(done):
    result, _ = done("S1")
    numbers, sentences = result.answer.numbers, result.answer.sentences
    episodes = {(each["threshold"], each["variant"]): each["episodes"] for each in numbers["until"]}
    for told in result.comparisons[0].until:
        own = episodes[told.threshold, told.label]
        assert told.episodes.value == np.quantile(own, 0.5, method="inverted_cdf")
        assert told.reached == np.isfinite(own).sum()
        said = next(s for s in sentences if f"return of {told.threshold:g} " in s)
        median = f"{told.episodes.value:,.0f}" if np.isfinite(told.episodes.value) else "more than"
        assert f"{told.label} {median}" in said
        assert f"({told.reached} of {len(own)} seeds)" in said
    assert len(numbers["against"]) == 4
    halves = sum(
        "half" in each["claim"] and "more" not in each["claim"] for each in numbers["against"]
    )
    assert f"half or fewer in {halves} of 4 comparisons" in sentences[0]
    for found in numbers["against"]:
        said = next(s for s in sentences if f"beside {found['reference']}: " in s)
        assert f"{found['variant']} at {found['threshold']:g}: {found['claim']}" in said
        mine, base = (
            np.quantile(episodes[found["threshold"], label], 0.5, method="inverted_cdf")
            for label in (found["variant"], found["reference"])
        )
        assert found["at_most"] == np.isinf(base)
        if np.isfinite(mine) and np.isfinite(base):
            assert found["ratio_of_episodes"]["value"] == pytest.approx(mine / base)
        if "half" in found["claim"]:
            assert found["ratio_of_episodes"]["high"] < 1


@pytest.mark.parametrize(
    ("mine", "claim"),
    [
        (np.arange(10.0, 20), "fewer than half"),
        (np.arange(45.0, 55), "about half"),
        (np.arange(85.0, 95), "fewer, but more than half"),
        (np.arange(200.0, 210), "more episodes"),
        (np.full(10, np.inf), "episodes not known"),
    ],
)
def test_the_claim_follows_the_interval(mine, claim):
    other = np.arange(95.0, 105)
    beside = against_reinforce._Beside(
        ratio(mine, other, against_reinforce._median), False, _even()
    )
    assert beside.claim.startswith(claim)


def _even():
    return Estimate(1.0, 0.5, 2.0)


def test_a_spread_is_lower_or_higher_only_where_the_interval_says_so():
    rng = np.random.default_rng(0)
    wide, narrow = rng.normal(size=10) * 10, rng.normal(size=10)
    lower = ratio(narrow, wide, deviation)
    assert side(lower, 1, "lower", "higher") == "lower"
    assert side(_even(), 1, "lower", "higher") == "cannot be told apart"
    censored = np.where(wide > 0, wide, np.inf)
    assert np.isnan(ratio(narrow, censored, deviation).low)


@one_process("S5")
def test_watching_a_training_does_not_change_it(done):
    """The last look at A2C in the grid is at the very learner that the study's run ended with."""
    result, _ = done("S5")
    comparison = result.comparisons[0]
    run = comparison.runs["A2C"]
    watched = grid.watch(run.algorithm, grid.GRID, run.seeds, [600, run.total_steps])
    cells = np.array(grid.GRID.cells, np.int32)
    for row, seed in enumerate(run.seeds):
        policy = run.policy(seed)
        np.testing.assert_array_equal(policy(cells), watched.policy[-1, row].argmax(-1))
    np.testing.assert_allclose(watched.visited.sum(-1), 1)
    goal = grid.GRID.cells.index(grid.GRID.goal)
    assert (watched.visited[..., goal] == 0).all()
    errors = result.answer.numbers["critic_error"]["A2C"]
    assert errors.shape == (len(result.answer.numbers["steps"]["A2C"]), len(run.seeds))
    uniform = (np.array(grid.GRID.cells) != grid.GRID.goal).any(1)
    last = watched.values[-1] - watched.exact[-1]
    np.testing.assert_allclose(errors[-1], np.sqrt((last[:, uniform] ** 2).mean(-1)), rtol=1e-5)


@one_process("S9")
def test_what_is_said_of_stale_actors_follows_from_the_numbers(done):
    result, _ = done("S9")
    lags = {lag: found["score"] for lag, found in result.answer.numbers["repaired"].items()}
    assert list(lags) == [4, 64]
    said = "\n".join(result.answer.sentences)
    for lag, score in lags.items():
        known = "higher" if score["low"] > 0 else "lower" if score["high"] < 0 else "told apart"
        line = next(line for line in said.splitlines() if line.startswith(f"At lag {lag} "))
        assert known in line
    comparison = result.comparisons[0]
    assert set(comparison.runs) == {
        "lag 0",
        *(f"lag {lag}, {how}" for lag in lags for how in ("V-trace", "uncorrected")),
    }
    assert comparison.runs["lag 64, uncorrected"].algorithm.lag == 64
    assert not comparison.runs["lag 64, uncorrected"].algorithm.vtrace
