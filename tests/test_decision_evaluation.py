"""Off-policy evaluation beside the truth; simulation; replay; the commands of `decide`."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from actorcritic import cli
from actorcritic.core.errors import UserError
from actorcritic.decisions import evaluation, records, simulation
from actorcritic.decisions.evaluation import Logged, evaluate
from actorcritic.decisions.replay import replay


def logged_of(action, probability, reward, actions: int = 2, features=None) -> Logged:
    n = len(action)
    x = np.ones((n, 1), np.float32) if features is None else features
    return Logged(
        x, np.ones((n, actions), bool), np.asarray(action), np.asarray(probability, float),
        np.asarray(reward, float),
    )  # fmt: skip


def test_estimates_are_unbiased_by_enumeration_of_every_log():
    """Over all logs of three decisions, the means of IPS and DR are the value itself, for any q."""
    rng = np.random.default_rng(0)
    mu, pi, q = rng.dirichlet(np.ones(3), 3), rng.dirichlet(np.ones(3), 3), rng.normal(size=(3, 3))
    mean, every = rng.normal(size=(3, 3)), np.arange(3)
    ips = dr = 0.0
    for action in itertools.product(range(3), repeat=3):
        a = np.array(action)
        chance = float(np.prod(mu[every, a]))
        found = evaluate(logged_of(a, mu[every, a], mean[every, a], 3), pi, q)
        ips, dr = ips + chance * found.ips.value, dr + chance * found.dr.value
    truth = float((pi * mean).sum(1).mean())
    assert ips == pytest.approx(truth, abs=1e-12)
    assert dr == pytest.approx(truth, abs=1e-12)


def test_estimates_written_out():
    found = evaluate(
        logged_of([0, 1, 0, 0], [0.5, 0.25, 0.5, 0.8], [1, 2, 3, -1]),
        np.tile([0.25, 0.75], (4, 1)),
        np.tile([0.5, 1.0], (4, 1)),
    )
    w = np.array([0.5, 3.0, 0.5, 0.3125])
    r = np.array([1, 2, 3, -1])
    assert found.ips.value == pytest.approx((w * r).mean())
    assert found.snips.value == pytest.approx((w * r).sum() / w.sum())
    dr = 0.25 * 0.5 + 0.75 + w * (r - np.array([0.5, 1, 0.5, 0.5]))
    assert found.dr.value == pytest.approx(dr.mean())
    assert found.dr.high - found.dr.value == pytest.approx(1.96 * dr.std(ddof=1) / 2, rel=1e-3)
    assert found.effective == pytest.approx(w.sum() ** 2 / (w**2).sum())
    assert found.mean_weight.value == pytest.approx(w.mean())


def coverage(logs: int, rows: int = 400) -> dict[str, float]:
    world, inside = simulation.ToolWorld(3, 8), {"ips": 0, "snips": 0, "dr": 0}
    for seed in range(logs):
        rng = np.random.default_rng([seed, 5])
        tasks = world.draw(20_000, rng)
        mu, pi = (_policy(tasks.features, rng) for _ in range(2))
        mu = 0.7 * mu + 0.1
        truth, every = float((pi * tasks.mean).sum(1).mean()), np.arange(rows)
        action = (rng.random((rows, 1)) > np.cumsum(mu[:rows], 1)).sum(1).clip(0, 2)
        logged = logged_of(
            action, mu[every, action], tasks.reward[every, action], 3, tasks.features[:rows]
        )
        found = evaluate(logged, pi[:rows])
        for name in inside:
            inside[name] += getattr(found, name).low <= truth <= getattr(found, name).high
    return {name: count / logs for name, count in inside.items()}


def _policy(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    powers = np.exp(4 * x @ rng.normal(size=(x.shape[1], 3)))
    return powers / powers.sum(1, keepdims=True)


@pytest.mark.long
def test_intervals_contain_the_truth_as_often_as_they_say():
    found = coverage(200)
    for name, share in found.items():
        assert 0.9 <= share <= 0.99, (name, share)


def test_cross_fitting_knows_nothing_of_its_own_row():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 30)).astype(np.float32)
    noise = logged_of(rng.integers(2, size=60), np.full(60, 0.5), rng.normal(size=60), features=x)
    model = evaluation.cross_fitted(noise)
    own = model[np.arange(60), noise.action]
    # Rewards are noise: a model that had seen a row would be near its reward.
    assert abs(np.corrcoef(own, noise.reward)[0, 1]) < 0.3
    seen = evaluation.RidgeModel.fit(noise, np.ones(60, bool), 2).predict(x)
    assert np.corrcoef(seen[np.arange(60), noise.action], noise.reward)[0, 1] > 0.5


def test_both_forms_of_the_ridge_regression_solve_the_normal_equations():
    rng = np.random.default_rng(0)
    for rows in (5, 40):  # fewer than features, and more
        x = rng.normal(size=(rows, 10)).astype(np.float32)
        logged = logged_of(np.zeros(rows, int), np.ones(rows), rng.normal(size=rows), 1, x)
        model = evaluation.RidgeModel.fit(logged, np.ones(rows, bool), 1)
        z, left = x.astype(float), logged.reward - model.bias[0]
        gradient = z.T @ (z @ model.weight[:, 0] - left) + evaluation.RIDGE * model.weight[:, 0]
        np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_it_says_where_the_data_cannot_answer():
    n, rng = 2_000, np.random.default_rng(0)
    reward = rng.normal(size=n)
    never = evaluate(logged_of(np.zeros(n, int), np.ones(n), reward), np.tile([0.3, 0.7], (n, 1)))
    assert not never.answerable
    assert "70% of what it would do was never tried" in never.verdict
    rare = (rng.random(n) < 0.005).astype(int)
    mu = np.where(rare, 0.005, 0.995)
    found = evaluate(logged_of(rare, mu, reward), np.tile([0.0, 1.0], (n, 1)))
    assert "count as" in found.verdict
    even = rng.integers(2, size=n)
    good = evaluate(logged_of(even, np.full(n, 0.5), even + reward), np.tile([0.0, 1.0], (n, 1)))
    assert good.verdict == "better than what acted"
    bad = evaluate(logged_of(even, np.full(n, 0.5), even + reward), np.tile([1.0, 0.0], (n, 1)))
    assert bad.verdict == "worse than what acted"
    same = evaluate(logged_of(even, np.full(n, 0.5), reward), np.full((n, 2), 0.5))
    assert same.gain.low <= 0 <= same.gain.high
    assert same.verdict == "not told apart from what acted"


def test_what_cannot_be_evaluated_is_refused():
    with pytest.raises(UserError, match="2 decisions"):
        evaluate(logged_of([0], [1], [1]), np.ones((1, 2)) / 2)
    with pytest.raises(UserError, match="probability"):
        evaluate(logged_of([0, 0], [0, 1], [1, 1]), np.ones((2, 2)) / 2)
    with pytest.raises(UserError, match="sum to 1"):
        evaluate(logged_of([0, 0], [1, 1], [1, 1]), np.ones((2, 2)))


# ------------------------------------------------------------------------------------ simulation


@pytest.mark.long
def test_contenders_learn_and_the_best_is_best():
    world = simulation.ToolWorld(3, 16, noise=0.3)
    found = simulation.simulate(world, 400, (0, 1))
    assert set(found.earned) == set(simulation.CONTENDERS)
    for name in simulation.CONTENDERS:
        assert (found.earned[name] <= found.best + 1e-12).all()
    np.testing.assert_allclose(found.shares("random", 100), 0, atol=1e-12)
    for name in ("actor-critic", "LinUCB", "logistic regression"):
        assert found.shares(name, 100).mean() > 0.5, name
    again = simulation.simulate(world, 400, (0, 1), names=("actor-critic",))
    np.testing.assert_array_equal(found.earned["actor-critic"], again.earned["actor-critic"])


def test_linucb_is_ridge_regression_with_its_width():
    rng = np.random.default_rng(0)
    bandit = simulation.LinUCB(4, 2, alpha=0.7)
    x, r = rng.normal(size=(20, 4)).astype(np.float32), rng.normal(size=20)
    for i in range(20):
        bandit.learn(x[i], i % 2, r[i])
    new = rng.normal(size=4).astype(np.float32)
    upper = []
    for a in range(2):
        z, own = x[a::2].astype(float), r[a::2]
        gram = z.T @ z + np.eye(4)
        theta = np.linalg.solve(gram, z.T @ own)
        np.testing.assert_allclose(bandit.values(new[None])[0, a], new @ theta, rtol=1e-3)
        upper.append(new @ theta + 0.7 * np.sqrt(new @ np.linalg.solve(gram, new)))
    assert bandit.choose(new) == int(np.argmax(upper))


# ------------------------------------------------------------------------------------ replay


def lines_of(count: int, seed: int = 0) -> list[dict]:
    rng, rows = np.random.default_rng(seed), []
    for i in range(count):
        kind = int(rng.integers(2))
        action = ["a", "b"][int(rng.integers(2))]
        right = action == ["a", "b"][kind]
        rows.append(
            {
                "context": ["add the numbers", "find the way"][kind] + f" {i % 5}",
                "actions": ["a", "b"],
                "action": action,
                "probability": 0.5,
                "success": bool(rng.random() < (0.9 if right else 0.1)),
                "time": i,
            }
        )
    return rows


def written(path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_replay_learns_and_evaluates_and_leaves_an_agent(tmp_path, capsys):
    source = written(tmp_path / "log.jsonl", lines_of(500))
    assert cli.main(["decide", "replay", source, "--out", str(tmp_path / "out"), "--quiet"]) == 0
    said = capsys.readouterr().out
    assert "the agent" in said
    assert "better than what acted" in said
    numbers = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert numbers["policies"]["the agent"]["dr"]["value"] > 0.6
    assert numbers["policies"]["always a"]["verdict"] == "not told apart from what acted"
    assert "Before deploying" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")

    import actorcritic as ac

    with ac.Decider(tmp_path / "out" / "agent.db", learning="on call") as agent:
        assert agent.learned == 500
        assert agent.choose("add the numbers 3", allowed=["a", "b"]).predicted is not None
    with pytest.raises(UserError, match="not empty"):
        replay(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2, is no JSON"),
        ("[]", "Expected an object"),
        ('{"action": "a"}', "'probability' is missing"),
        ('{"action": "a", "probability": 0, "context": "x"}', "above 0"),
        ('{"action": "a", "probability": NaN, "context": "x"}', "no number of JSON"),
        ('{"action": "a", "probability": true, "context": "x"}', "above 0"),
        ('{"action": "c", "actions": ["a"], "probability": 1, "context": "x"}', "one of those"),
        ('{"action": "a", "probability": 1}', "has a context"),
        ('{"action": "a", "probability": 1, "context": 3}', "a text or an object"),
        ('{"action": "a", "probability": 1, "context": "x", "reward": "1"}', "finite number"),
        ('{"action": "a", "probability": 1, "vector": [1, null]}', "vector"),
        ("[" * 100_000, "is no JSON"),
    ],
)
def test_a_record_that_is_none_is_named_and_nothing_is_written(tmp_path, line, said):
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps(lines_of(1)[0]) + "\n" + line + "\n")
    with pytest.raises(UserError, match=said) as caught:
        list(records.read(path))
    assert "line 2" in str(caught.value)
    with pytest.raises(UserError):
        replay(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_too_few_records_and_mixed_vectors(tmp_path):
    with pytest.raises(UserError, match="has 3 decisions with a reward"):
        replay(written(tmp_path / "few.jsonl", lines_of(3)), tmp_path / "out")
    rows = lines_of(40)
    rows[3] = {**rows[3], "context": None, "vector": [1, 2]}
    rows[4] = {**rows[4], "context": None, "vector": [1, 2, 3]}
    with pytest.raises(UserError, match=r"vector of 3 numbers, others of 2"):
        replay(written(tmp_path / "mixed.jsonl", rows), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------ commands


def test_simulate_prints_and_draws(tmp_path, capsys):
    words = [
        "decide",
        "simulate",
        "tools",
        "--tools",
        "3",
        "--features",
        "16",
        "--decisions",
        "1e2",
        "--seeds",
        "1",
        "--quiet",
    ]
    assert cli.main([*words, "--out", str(tmp_path / "s")]) == 0
    assert (
        "the share of the way from random to the best possible (1 seed)" in capsys.readouterr().out
    )
    assert {p.name for p in (tmp_path / "s").iterdir()} == {
        "report.html", "report.json", "report-pictures"
    }  # fmt: skip


def test_export_and_report_of_the_command(tmp_path, capsys, monkeypatch):
    import actorcritic as ac

    monkeypatch.chdir(tmp_path)
    with ac.Decider("t.db", ["a", "b"], learning="on call") as agent:
        agent.feedback(agent.choose("x").id, success=True)
    assert cli.main(["decide", "export", "t.db"]) == 0
    assert "1 decisions, 1 with a reward" in capsys.readouterr().out
    assert json.loads((tmp_path / "decisions.jsonl").read_text())["reward"] == 1
    assert cli.main(["decide", "report", "t.db", "--out", "page.html"]) == 0
    assert (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["replya"], "Did you mean 'replay'"),
        (["simulate", "tolls"], "Did you mean 'tools'"),
        (["simulate", "tools", "--decisions", "0"], "must be 1 or more"),
        (["simulate", "tools", "--tools", "1"], "2 to 1,000 tools"),
        (["replay", "none.jsonl"], "Could not read none.jsonl"),
        (["report", "none.db"], "There is no log none.db"),
        (["export", "none.db"], "There is no log none.db"),
        (["serve", "none.db", "--host", "0.0.0.0"], "token|Starlette"),
        (["serve", "none.db"], "a new log needs actions|Starlette"),
    ],
)
def test_mistakes_at_the_command_line(words, said, capsys, tmp_path, monkeypatch):
    import re

    monkeypatch.chdir(tmp_path)
    assert cli.main(["decide", *words]) == 1
    assert re.search(said, capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []
