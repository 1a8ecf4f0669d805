"""Comparisons, ablations, sweeps and reports: what is trained, what is kept, what is refused."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from command_line import command, start, table
from hypothesis import given
from hypothesis import strategies as st

import actorcritic as ac
from actorcritic.core import hyperparameters
from actorcritic.core.errors import UserError
from actorcritic.experiments import compare, search, together
from actorcritic.experiments.together import Stopped
from actorcritic.runs.run import read_run
from actorcritic.runs.training import Training

SMALL = ac.PPO(num_envs=4, num_steps=16, num_minibatches=2, num_epochs=2, hidden_sizes=(8,))
QUICK = {"total_steps": 1024, "seeds": 3, "evaluation_episodes": 5, "quiet": True}
SIZES = ("--total-steps", "1024", "--episodes", "5", "--quiet")


def varied(**changes: float) -> ac.PPO:
    return hyperparameters.replace(SMALL, **changes)


RATES = {"low": varied(learning_rate=1e-4), "high": varied(learning_rate=1e-2)}


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Three variants, of which two are one program, in a folder."""
    folder = tmp_path_factory.mktemp("compared") / "study"
    variants = RATES | {"a2c": ac.A2C(hidden_sizes=(8,))}
    return ac.compare(variants, "CartPole-v1", out=folder, **QUICK), folder


def plain(data):
    """As JSON, without the speed, which a folder tells less exactly."""
    if isinstance(data, dict):
        return {k: plain(v) for k, v in data.items() if k != "steps_per_second"}
    return [plain(each) for each in data] if isinstance(data, list | tuple) else data


# ------------------------------------------------------------------------------------ training


@pytest.mark.long
def test_trained_together_as_trained_alone(compared):
    together, _ = compared
    for label, algorithm in RATES.items():
        alone = ac.train(algorithm, "CartPole-v1", **QUICK)
        run = together.runs[label]
        np.testing.assert_array_equal(run.final_evaluation.returns, alone.final_evaluation.returns)
        for name in ("seed", "step", "returns", "length"):
            mine, theirs = (getattr(r.episodes, name) for r in (run, alone))
            order = [np.lexsort((r.episodes.step, r.episodes.seed)) for r in (run, alone)]
            np.testing.assert_array_equal(mine[order[0]], theirs[order[1]])
    low, high = (together.runs[label].episodes.returns for label in RATES)
    assert low.shape != high.shape or (low != high).any()


def test_variants_that_differ_in_floats_are_one_program(monkeypatch):
    groups = []

    class Counted(Training):
        def __init__(self, runs, settings, **options):
            groups.append([run.variant for run in runs])
            super().__init__(runs, settings, **options)

    monkeypatch.setattr(together, "Training", Counted)
    variants = RATES | {"wide": varied(hidden_sizes=(16,))}
    ac.compare(variants, "CartPole-v1", **QUICK)
    assert sorted(groups) == [["low", "high"], ["wide"]]


def test_seeds_are_those_asked_for():
    quick = QUICK | {"seeds": [7, 3, 11]}
    comparison = ac.compare({"one": SMALL}, "CartPole-v1", **quick)
    assert comparison.seeds == {"one": (3, 7, 11)}


def test_on_the_host():
    quick = QUICK | {"total_steps": 256, "seeds": 1}
    comparison = ac.compare(RATES, "CartPole-v1", host=True, **quick)
    assert all(len(run.episodes.returns) > 3 for run in comparison.runs.values())


def test_without_a_budget_the_largest_of_the_presets(monkeypatch):
    seen = {}
    monkeypatch.setattr(compare, "train_all", lambda runs, *_: seen.update(runs) or stop())

    def stop():
        raise Stopped("enough")

    with pytest.raises(Stopped):
        ac.compare(["reinforce", "ppo"], "CartPole-v1", seeds=1)
    assert {run.total_steps for run in seen.values()} == {200_000}


def test_where_settings_come_from_is_said_before_anything_is_trained(capsys):
    quick = {"total_steps": 512, "seeds": 1, "evaluation_episodes": 1}
    ac.compare(["ppo", "ppo:num_steps=8,num_envs=8"], "GridWorld-v0", **quick)
    said = capsys.readouterr().err
    assert "ppo has no preset for GridWorld-v0; its defaults for " in said


# ------------------------------------------------------------------------------------ folders


@pytest.mark.long
def test_a_finished_study_is_read_and_not_trained_again(compared, monkeypatch):
    first, folder = compared
    monkeypatch.setattr(together, "Training", None)
    variants = RATES | {"a2c": ac.A2C(hidden_sizes=(8,))}
    again = ac.compare(variants, "CartPole-v1", out=folder, **QUICK)
    assert plain(again.data()) == plain(first.data())
    assert again.runs["low"].policy(0)(np.zeros(4, np.float32)) in (0, 1)


@pytest.mark.long
def test_a_stopped_study_goes_on_where_it_was(compared, tmp_path, monkeypatch):
    whole, reference = compared
    variants = RATES | {"a2c": ac.A2C(hidden_sizes=(8,))}
    # As at Ctrl-C: the first program ends, the second one is stopped in its middle.
    train = Training._train

    def stopped(self, display, interrupted):
        if self.runs[0].variant == "a2c":
            looks = iter([False, False])
            return train(self, display, lambda: next(looks, True))
        return train(self, display, interrupted)

    monkeypatch.setattr("actorcritic.runs.training.CHUNK_SECONDS", 0.0)
    monkeypatch.setattr(Training, "_train", stopped)
    with pytest.raises(Stopped, match="saved"):
        ac.compare(variants, "CartPole-v1", out=tmp_path / "s", **QUICK)
    part = read_run(tmp_path / "s" / "variants" / "02-a2c")
    assert not part.finished
    assert 0 < len(part.metrics.seed) < len(whole.runs["a2c"].metrics.seed)
    with pytest.raises(UserError, match="02-a2c"):
        ac.report([tmp_path / "s"], tmp_path / "r.html")
    kept = tmp_path / "s" / "variants" / "00-low" / "evaluation.json"
    before = kept.stat().st_mtime_ns

    monkeypatch.setattr(Training, "_train", train)
    ac.compare(variants, "CartPole-v1", out=tmp_path / "s", **QUICK)
    assert kept.stat().st_mtime_ns == before
    for name in ("00-low", "01-high", "02-a2c"):
        one, other = tmp_path / "s" / "variants" / name, reference / "variants" / name
        assert sorted(table(one / "episodes.csv")) == sorted(table(other / "episodes.csv"))
        assert (one / "evaluation.json").read_text() == (other / "evaluation.json").read_text()


@pytest.mark.faults
@pytest.mark.long
def test_killed_and_repeated(tmp_path):
    words = ("compare", "reinforce", "a2c", "--env", "CartPole-v1", "--seeds", "3", "--seed", "5")
    sizes = ("--total-steps", "20000", "--episodes", "5", "--quiet", "--out")
    process = start(*words, *sizes, tmp_path / "killed")
    first = tmp_path / "killed" / "variants" / "00-reinforce" / "evaluation.json"
    deadline = time.monotonic() + 90
    while not first.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = first.stat().st_mtime_ns
    again = command(*words, *sizes, tmp_path / "killed")
    assert again.returncode == 0, again.stderr
    assert first.stat().st_mtime_ns == before
    plain = command(*words, *sizes, tmp_path / "plain")
    assert plain.returncode == 0, plain.stderr
    for name in ("00-reinforce", "01-a2c"):
        one, other = (
            tmp_path / k / "variants" / name / "episodes.csv" for k in ("killed", "plain")
        )
        assert sorted(table(one)) == sorted(table(other))


# ------------------------------------------------------------------------------------ ablations


def test_one_at_a_time_and_grid(monkeypatch):
    seen = []
    monkeypatch.setattr(
        compare,
        "_compared",
        lambda kind, found, *rest: seen.append({k: v.algorithm for k, v in found.items()}),
    )
    vary = {"gae_lambda": [0.0, 0.95], "num_steps": [16, 32]}
    ac.ablate(SMALL, "CartPole-v1", vary=vary)
    ac.ablate(SMALL, "CartPole-v1", vary=vary, grid=True)
    # 0.95 and 16 are what the algorithm has: they are the reference.
    assert list(seen[0]) == ["ppo", "gae_lambda=0", "num_steps=32"]
    assert list(seen[1])[1:] == [
        "gae_lambda=0 num_steps=16",
        "gae_lambda=0 num_steps=32",
        "gae_lambda=0.95 num_steps=32",
    ]
    assert seen[1]["gae_lambda=0 num_steps=32"] == varied(gae_lambda=0.0, num_steps=32)


# ------------------------------------------------------------------------------------ sweeps


@given(
    low=st.floats(1e-6, 1.0),
    width=st.floats(1e-3, 100.0),
    share=st.floats(0.0, 1.0, exclude_max=True),
    log=st.booleans(),
)
def test_points_lie_in_their_range(low, width, share, log):
    where = search.Range(low, low + width, log)
    assert low <= where.at(share) <= low + width
    assert where.at(0.0) == pytest.approx(low)


@given(st.integers(1, 50), st.integers(1, 50), st.booleans(), st.floats(0, 1, exclude_max=True))
def test_whole_numbers_are_whole_and_inside(low, width, log, share):
    value = search.Range(low, low + width, log, whole=True).at(share)
    assert isinstance(value, int)
    assert low <= value <= low + width


def test_whole_numbers_are_equally_likely():
    where = search.Range(1, 4, whole=True)
    values = [where.at((k + 0.5) / 4000) for k in range(4000)]
    assert np.bincount(values)[1:].tolist() == [1000] * 4


@pytest.mark.parametrize("method", ["sobol", "random"])
def test_points_depend_on_the_seed_only(method):
    space = {"a": search.Range(1e-4, 1e-2, log=True), "b": search.Choice((8, 16))}
    first, again = (search.draw(space, 13, method, seed=1) for _ in range(2))
    assert first == again
    assert first != search.draw(space, 13, method, seed=2)
    assert len(first) == 13
    assert {point["b"] for point in first} == {8, 16}


def test_sobol_leaves_no_half_empty():
    values = [p["a"] for p in search.draw({"a": search.Range(0.0, 1.0)}, 16, "sobol", 0)]
    assert np.histogram(values, 16, (0, 1))[0].tolist() == [1] * 16


@pytest.mark.long
def test_the_winner_is_trained_again_on_other_seeds(tmp_path):
    space = {"learning_rate": search.Range(1e-4, 1e-2, log=True)}
    quick = QUICK | {"total_steps": 4096}
    found = ac.sweep(
        SMALL, "CartPole-v1", space=space, trials=4, confirm_seeds=3, out=tmp_path / "s", **quick
    )
    scores = {label: v.iqm.value for label, v in found.search.variants.items()}
    assert scores[found.winner] == max(scores.values())
    assert found.search.seeds["trial 01"] == (0, 1, 2)
    assert set(found.confirmation.seeds.values()) == {(3, 4, 5)}
    confirmed = list(found.confirmation.runs.values())
    assert confirmed[0].algorithm == SMALL
    assert confirmed[1].algorithm == varied(**found.best)
    # The page begins with the winner's values on those seeds.
    values = f"learning_rate={found.best['learning_rate']:.3g}"
    assert list(found.confirmation.runs)[1] == values
    first, search_ = found.sections()
    assert first.verdict == found.verdict
    assert found.verdict.startswith(f"{values} won, of 4 trials. On fresh seeds: ")
    assert [picture.name for picture in search_.pictures] == ["learning_rate"]
    ac.report([tmp_path / "s"], tmp_path / "again.html")
    first, again = (json.loads((tmp_path / n).read_text()) for n in ("s/report.json", "again.json"))
    assert plain(again) == plain([first])


def test_a_point_that_comes_again_is_trained_once():
    space = {"num_epochs": search.Choice((1, 2))}
    found = ac.sweep(SMALL, "CartPole-v1", space=space, trials=6, confirm_seeds=1, **QUICK)
    assert len(found.points) == 2


@pytest.mark.extras
def test_optuna_looks_where_it_was_good():
    pytest.importorskip("optuna")
    asked = []

    def score(points):
        asked.extend(point["x"] for point in points)
        return [-((point["x"] - 0.7) ** 2) for point in points]

    search.ask_optuna({"x": search.Range(0.0, 1.0)}, 40, 0, score)
    assert len(asked) == 40
    far = np.abs(np.array(asked) - 0.7)
    assert np.median(far[16:]) < 0.15  # points drawn evenly are 0.25 away, in the median


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("learning_rate=log:1e-4:1e-2", search.Range(1e-4, 1e-2, log=True)),
        ("gae_lambda=uniform:0:1", search.Range(0.0, 1.0)),
        ("num_steps=int:8:64", search.Range(8, 64, whole=True)),
        ("num_steps=logint:8:64", search.Range(8, 64, log=True, whole=True)),
        ("hidden_sizes=choice:8,64x64", search.Choice(((8,), (64, 64)))),
        ("normalize_observation=choice:true,false", search.Choice((True, False))),
    ],
)
def test_spaces_as_text(text, expected):
    assert search.parse(ac.PPO, text) == (text.partition("=")[0], expected)


# ------------------------------------------------------------------------------------ reports


@pytest.mark.long
def test_reports_of_runs_and_of_studies(compared, tmp_path):
    first, folder = compared
    runs = [folder / "variants" / name for name in ("00-low", "01-high")]
    ac.report(runs, tmp_path / "runs.html")
    (data,) = json.loads((tmp_path / "runs.json").read_text())
    assert list(data["variants"]) == ["ppo learning_rate=0.0001", "ppo learning_rate=0.01"]
    assert data["variants"]["ppo learning_rate=0.01"]["scores"] == first.scores["high"].tolist()
    page = ac.report([folder], tmp_path / "study.html").read_text()
    assert first.verdict[:40] in page.replace("&#39;", "'")
    assert len(list((tmp_path / "study-pictures").glob("*.png"))) >= 3


def test_fewer_than_three_seeds_get_no_interval(tmp_path):
    two = ac.compare(RATES, "CartPole-v1", **(QUICK | {"seeds": 2}))
    assert two.verdict.startswith("No verdict")
    page = two.report(tmp_path / "two.html").read_text()
    assert "fewer than three seeds: no intervals" in page.lower()
    assert all(v.iqm.low is None or np.isnan(v.iqm.low) for v in two.variants.values())


# ------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: ac.compare(["pppo"], "CartPole-v1"), "'ppo'"),
        (lambda: ac.compare(["ppo:clip_rang=1"], "CartPole-v1"), "'clip_range'"),
        (lambda: ac.compare(["ppo:clip_range"], "CartPole-v1"), "'clip_range' has no value"),
        (lambda: ac.compare(["ppo:clip_range=wide"], "CartPole-v1"), "PPO.clip_range must be a n"),
        (lambda: ac.compare(["ppo:clip_range=-1"], "CartPole-v1"), "must lie in"),
        (lambda: ac.compare(["ppo", "ppo"], "CartPole-v1"), "'ppo' is named twice"),
        (lambda: ac.compare([], "CartPole-v1"), "at least one algorithm"),
        (lambda: ac.compare(["ppo"], "CartPole-v9"), "CartPole"),
        (lambda: ac.compare(["sac"], "CartPole-v1"), "sac is for actions of Box"),
        (lambda: ac.compare(["ppo"], "CartPole-v1", seeds=[1, 2, 1]), r"\[1\] are named twice"),
        (lambda: ac.compare(["ppo"], "CartPole-v1", seeds=[]), "at least one seed"),
        (lambda: ac.compare(["ppo"], "CartPole-v1", seeds=0), "seeds must lie in"),
        (lambda: ac.ablate("ppo", "CartPole-v1", vary={}), "a setting to vary"),
        (lambda: ac.ablate("ppo", "CartPole-v1", vary={"gae_lamda": [0.0]}), "'gae_lambda'"),
        (lambda: ac.sweep("ppo", "CartPole-v1", space={}), "needs a space"),
        (
            lambda: ac.sweep("ppo", "CartPole-v1", space={"gamma": search.Range(0.5, 2.0)}),
            "PPO.gamma must lie in",
        ),
        (
            lambda: ac.sweep("ppo", "CartPole-v1", space={"gamma": search.Range(0.5, 1)}, trials=1),
            "trials must lie in",
        ),
        (lambda: search.Range(1.0, 0.5), "the lower first"),
        (lambda: search.parse(ac.PPO, "gamma=normal:0:1"), "KIND one of"),
        (lambda: search.parse(ac.PPO, "gama=uniform:0:1"), "'gamma'"),
        (lambda: ac.report([]), "at least one run or experiment"),
    ],
)
def test_mistakes_are_named_before_anything_is_written(call, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=says):
        call()
    assert not list(Path().iterdir())


def test_a_folder_of_something_else(compared, tmp_path):
    _, folder = compared
    with pytest.raises(UserError, match="already holds another experiment"):
        ac.compare({"one": SMALL}, "CartPole-v1", out=folder, **QUICK)
    same = {"low": SMALL, "high": RATES["high"], "a2c": ac.A2C(hidden_sizes=(8,))}
    with pytest.raises(UserError, match="another algorithm"):
        ac.compare(same, "CartPole-v1", out=folder, **QUICK)
    run = folder / "variants" / "00-low"
    with pytest.raises(UserError, match="already holds a run"):
        ac.compare({"one": SMALL}, "CartPole-v1", out=run, **QUICK)
    with pytest.raises(UserError, match="neither a run nor an experiment"):
        ac.report([tmp_path], tmp_path / "r.html")
    (tmp_path / "experiment.json").write_text("{}")
    with pytest.raises(UserError, match="not what an experiment writes"):
        ac.report([tmp_path], tmp_path / "r.html")
    empty = json.loads((folder / "experiment.json").read_text()) | {"parts": []}
    (tmp_path / "experiment.json").write_text(json.dumps(empty))
    with pytest.raises(UserError, match="holds no runs yet"):
        ac.report([tmp_path], tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_runs_that_cannot_be_compared(compared, tmp_path):
    _, folder = compared
    low = folder / "variants" / "00-low"
    other = tmp_path / "other"
    ac.train(SMALL, "Acrobot-v1", out=other, **QUICK)
    with pytest.raises(UserError, match=r"different environments.*CartPole-v1.*Acrobot-v1"):
        ac.report([low, other], tmp_path / "r.html")
    with pytest.raises(UserError, match="seed"):
        ac.report([low, low], tmp_path / "r.html")
    shorter = tmp_path / "shorter"
    ac.train(RATES["high"], "CartPole-v1", out=shorter, **(QUICK | {"total_steps": 512}))
    with pytest.raises(UserError, match="not defined alike"):
        ac.report([low, shorter], tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


@pytest.mark.long
def test_the_command_line(tmp_path):
    made = command(
        *("ablate", "ppo:hidden_sizes=8,num_envs=4,num_steps=16,num_minibatches=2", "CartPole-v1"),
        *("--vary", "gae_lambda=0,1", "--vary", "entropy_coefficient=0.01", "--seeds", "3"),
        *SIZES,
        cwd=tmp_path,
    )
    assert made.returncode == 0, made.stderr
    assert "gae_lambda=0" in made.stdout
    (page,) = tmp_path.glob("runs/*/report.html")
    assert "actorcritic ablate" in page.read_text()
    for words, says in [
        (("compare", "ppo"), "needs an environment"),
        (("compare", "--env", "CartPole-v1"), "Usage: actorcritic compare"),
        (("ablate", "ppo", "CartPole-v1", "--vary", "gae_lambda"), "--vary takes SETTING="),
        (("sweep", "ppo", "CartPole-v1", "--space", "gamma=1"), "KIND one of"),
        (("report", "nothing-here"), "neither a run nor an experiment"),
    ]:
        failed = command(*words, cwd=tmp_path)
        assert failed.returncode == 1, (words, failed.stdout)
        assert says in failed.stderr
        assert "Traceback" not in failed.stderr
