"""Comparisons of finished runs, whose numbers are known where they are made by hand."""

import dataclasses
import json

import numpy as np
import pytest

import actorcritic as ac
from actorcritic.core.errors import UserError
from actorcritic.core.hyperparameters import hyperparameters
from actorcritic.envs.host.environment import HostEnvironment
from actorcritic.experiments.comparison import Comparison
from actorcritic.figures import plots
from actorcritic.runners.session import EpisodeTable, MetricTable, Report
from actorcritic.runs.evaluated import Evaluated
from actorcritic.runs.run import Run, read_run

CARTPOLE = ac.envs.CartPole()
NO_METRICS = MetricTable.join([])
TEN = np.array([410.0, 455, 462, 470, 478, 481, 486, 490, 497, 500])


def run(scores=None, algorithm=None, environment=CARTPOLE, seeds=None, episodes=(), **changes):
    """A finished run; `episodes` are, for each seed, the ends and returns of training episodes."""
    count = len(episodes) if scores is None else len(scores)
    seeds = tuple(range(count)) if seeds is None else tuple(seeds)
    evaluation = None
    if scores is not None:
        returns = np.asarray(scores, float)[:, None] + [-1.0, 1.0, 0.0, 0.0]  # of these means
        evaluation = Evaluated(seeds, returns, np.ones(returns.shape, int), True)
    ended = EpisodeTable.join(
        [
            EpisodeTable(
                np.full(len(end), seed), np.array(end), np.array(r, float), np.diff(end, prepend=0)
            )
            for seed, (end, r) in zip(seeds, episodes, strict=False)
        ]
    )
    return Run(
        **{
            "algorithm": ac.A2C() if algorithm is None else algorithm,
            "environment": environment,
            "seeds": seeds,
            "total_steps": 1000,
            "out": None,
            "finished": True,
            "final_evaluation": evaluation,
            "reports": [Report(NO_METRICS, ended, 1.0)],
        }
        | changes
    )


def table(comparison, name):
    (found,) = (t for t in comparison.tables() if t.name == name)
    assert all(len(row) == len(found.columns) for row in found.rows)
    return found


def cells(comparison, name):
    """The cells of a table by the first column and the column's name."""
    found = table(comparison, name)
    return {row[0]: dict(zip(found.columns, row, strict=True)) for row in found.rows}


@pytest.fixture(scope="module")
def trained():
    options = {"total_steps": 2000, "seeds": 3, "quiet": True, "evaluation_episodes": 5}
    return [
        ac.train("a2c", "CartPole-v1", **options),
        ac.train("a2c", "CartPole-v1", gae_lambda=0.5, **options),
    ]


# ---------------------------------------------------------------------------- trained runs


def test_runs_as_they_are_trained(trained):
    comparison = Comparison.of(trained, thresholds=(20, 1e6))
    assert list(comparison.runs) == ["a2c gae_lambda=1", "a2c gae_lambda=0.5"]
    assert comparison.reference == "a2c gae_lambda=1"
    assert comparison.paired
    for run, scores in zip(trained, comparison.scores.values(), strict=True):
        np.testing.assert_allclose(scores, run.final_evaluation.returns.mean(1))
    names = [t.name for t in comparison.tables()]
    assert names == ["scores", "against-reference", "area-under-curve", "until-threshold", "speed"]
    for t in comparison.tables():
        assert "3 seeds (0–2)" in t.note
        assert all(isinstance(cell, str) and cell for row in t.rows for cell in row)
    assert comparison.score == "mean return of 5 deterministic episodes after 2,000 steps"
    assert comparison.score in table(comparison, "scores").note
    for part in (comparison.title, comparison.score, comparison.verdict, "worst seed"):
        assert part in str(comparison)


def test_the_same_runs_give_the_same_numbers(trained):
    one, again = (Comparison.of(trained, thresholds=(20,)) for _ in range(2))
    assert one.tables() == again.tables()
    assert one.data() == again.data()


def test_data_is_plain_json(trained):
    comparison = Comparison.of(trained, thresholds=(1e6,), command="actorcritic compare …")
    text = json.dumps(comparison.data(), allow_nan=False)
    data = json.loads(text)
    assert data["variants"]["a2c gae_lambda=1"]["seeds"] == [0, 1, 2]
    scores = data["variants"]["a2c gae_lambda=0.5"]["scores"]
    np.testing.assert_allclose(scores, trained[1].final_evaluation.returns.mean(1))
    until = data["until_threshold"][0]
    assert (until["reached"], until["seeds"], until["steps"]["value"]) == (0, 3, None)
    assert data["verdict"] == comparison.verdict
    assert data["command"] == "actorcritic compare …"


def test_a_run_from_its_folder_is_the_same_run(trained, tmp_path):
    settings = {"total_steps": 2000, "quiet": True, "evaluation_episodes": 5}
    more = ac.train("a2c", "CartPole-v1", seed=3, seeds=2, out=tmp_path / "more", **settings)
    read = read_run(tmp_path / "more")
    comparison = Comparison.of([trained[0], read])  # one is read from JSON, one is in memory
    assert comparison.seeds == {"a2c": (0, 1, 2, 3, 4)}
    np.testing.assert_allclose(comparison.scores["a2c"][3:], more.final_evaluation.returns.mean(1))
    assert comparison.variants["a2c"].steps_per_second > 0
    with pytest.raises(UserError, match="share the seeds"):
        Comparison.of([more, read])


# ---------------------------------------------------------------------------- scores


def test_scores_by_hand():
    row = cells(Comparison.of([run(TEN)]), "scores")["a2c"]
    assert row["IQM"].startswith("477.8 [")  # the middle six
    assert row["mean"] == "472.9"
    assert row["median"] == "479.5"
    assert row["SD"] == f"{TEN.std(ddof=1):.1f}"
    assert row["IQR"] == "25.0"
    assert row["worst seed"] == "410.0 (seed 0)"
    assert row["seeds"] == "10"


def test_scores_go_by_seed_whatever_the_order():
    mixed = run([3, 1, 2], seeds=(7, 5, 6))
    comparison = Comparison.of({"x": mixed, "y": run([10, 20, 30], ac.PPO(), seeds=(5, 6, 7))})
    assert comparison.seeds["x"] == comparison.seeds["y"] == (5, 6, 7)
    np.testing.assert_array_equal(comparison.scores["x"], [1, 2, 3])
    assert comparison.paired
    assert comparison.variants["x"].worst_seed == 5
    elsewhere = run([1, 2, 3], seeds=(5, 6, 7)).final_evaluation  # evaluated in another order
    mixed.final_evaluation = elsewhere
    np.testing.assert_array_equal(Comparison.of([mixed]).scores["a2c"], [1, 2, 3])


def test_without_evaluation_the_last_training_episodes_are_the_score():
    end = list(range(5, 5 * 121, 5))
    episodes = [(end, [0.0] * 20 + [seed + 1.0] * 100) for seed in range(3)]
    comparison = Comparison.of([run(episodes=episodes)])
    np.testing.assert_array_equal(comparison.scores["a2c"], [1, 2, 3])
    assert comparison.score == "mean return of the last 100 training episodes of 1,000 steps"
    few = Comparison.of([run(episodes=[(end[:3], [1, 2, 6])])])
    np.testing.assert_array_equal(few.scores["a2c"], [3])
    assert "at most 100 training" in few.score


def test_different_seeds_are_not_paired():
    some = Comparison.of([run(TEN), run(TEN[:9], ac.PPO(), seeds=range(20, 29))])
    assert not some.paired
    note = table(some, "against-reference").note
    assert "drawn apart" in note
    assert "a2c: 10 seeds (0–9); ppo: 9 seeds (20–28)." in note
    same = Comparison.of([run(TEN), run(TEN, ac.PPO())])
    assert "drawn together" in table(same, "against-reference").note


def test_a_paired_difference_is_seen_where_seeds_differ_more():
    seeds = np.arange(10) * 100.0
    better = seeds + 5 + np.arange(10) % 2
    paired = Comparison.of([run(seeds), run(better, ac.PPO())])
    assert paired.against("ppo", "a2c").word == "higher"
    assert paired.against("a2c", "ppo").word == "lower"
    apart = Comparison.of([run(seeds), run(better, ac.PPO(), seeds=range(10, 20))])
    assert apart.against("ppo", "a2c").word == "cannot be told apart"


# ---------------------------------------------------------------------------- variants and names


@pytest.mark.parametrize(
    ("algorithms", "labels"),
    [
        ([ac.PPO()], ["ppo"]),
        ([ac.PPO(), ac.A2C(learning_rate=1e-4)], ["ppo", "a2c"]),
        (
            [ac.PPO(gae_lambda=0.95), ac.PPO(gae_lambda=0.5)],
            ["ppo gae_lambda=0.95", "ppo gae_lambda=0.5"],
        ),
        (
            [ac.A2C(), ac.A2C(hidden_sizes=(8, 8), learning_rate=3e-4), ac.PPO()],
            [
                "a2c learning_rate=0.0007 hidden_sizes=64x64",
                "a2c learning_rate=0.0003 hidden_sizes=8x8",
                "ppo",
            ],
        ),
    ],
)
def test_variants_are_named_by_what_differs(algorithms, labels):
    assert list(Comparison.of([run(TEN, a) for a in algorithms]).runs) == labels


def test_names_that_were_given():
    one, other = run(TEN, variant="plain"), run(TEN, ac.A2C(gae_lambda=0.5), variant="short")
    assert list(Comparison.of([one, other]).runs) == ["plain", "short"]
    again = run(TEN, seeds=range(10, 20), variant="again")  # named differently: not merged
    assert list(Comparison.of([one, again]).runs) == ["plain", "again"]
    assert list(Comparison.of({"A": one, "B": other}).runs) == ["A", "B"]
    assert Comparison.of([one, other], title="Mine").title == "Mine"
    assert Comparison.of([one, other]).title == "a2c on CartPole-v1"


def test_runs_of_one_configuration_become_one_variant():
    parts = [
        run(TEN[4:], seeds=range(4, 10), episodes=[([10], [8.0])] * 6, steps_per_second=50.0),
        run(TEN[:4], seeds=range(4), episodes=[([10], [2.0])] * 4, steps_per_second=100.0),
    ]
    comparison = Comparison.of([*parts, run(TEN, ac.PPO())])
    assert comparison.seeds["a2c"] == tuple(range(10))
    assert comparison.paired
    np.testing.assert_array_equal(comparison.scores["a2c"], TEN)
    np.testing.assert_array_equal(comparison.areas["a2c"], [2.0] * 4 + [8.0] * 6)
    # 6,000 steps in 120 s and 4,000 in 40 s.
    assert comparison.variants["a2c"].steps_per_second == pytest.approx(10_000 / 160)
    assert comparison.runs["ppo"].out is None
    assert list(Comparison.of(dict(zip("xy", parts, strict=True))).runs) == ["x", "y"]  # as named


@hyperparameters
class Own(ac.A2C):
    name = "a2c"


def test_what_is_the_users_own_is_told_apart():
    network = ac.MLP((8,))
    own = run(TEN, Own(network=network))
    same = run(TEN, Own(network=network), seeds=range(10, 20))
    assert Comparison.of([own, same]).seeds == {"a2c": tuple(range(20))}
    another = run(TEN, Own(network=ac.MLP((16,))), seeds=range(10, 20))
    for other in (another, run(TEN, seeds=range(10, 20))):
        with pytest.raises(UserError, match=r"Several variants would be called 'a2c'. Name them"):
            Comparison.of([own, other])
    assert len(Comparison.of({"own": own, "ours": run(TEN)}).runs) == 2
    # Of a run that was only read it is not known which network it was: not merged.
    stored = [r.configuration() for r in (own, same)]
    read = [
        dataclasses.replace(r, stored=data, algorithm=None)
        for r, data in zip((own, same), stored, strict=True)
    ]
    for r in read:
        r.algorithm = type("Name", (), {"name": "a2c"})()
    with pytest.raises(UserError, match="Several variants"):
        Comparison.of(read)


def test_folders_name_what_has_no_name(tmp_path):
    runs = [run(TEN, Own()), run(TEN, seeds=range(10, 20))]
    for r, name in zip(runs, ["one", "two"], strict=True):
        r.out = tmp_path / name
    assert list(Comparison.of(runs).runs) == ["a2c (one)", "a2c (two)"]


def test_the_host_and_the_compiled_environment_are_one_task():
    host = HostEnvironment("CartPole-v1")
    comparison = Comparison.of([run(TEN), run(TEN, environment=host)])
    first, second = comparison.runs
    assert "host=False" in first
    assert "host=True" in second
    gravity = HostEnvironment("Pendulum-v1", options={"g": 1.0})
    with pytest.raises(UserError, match=r"Pendulum-v1 \(gravity=1.0\) and Pendulum-v1 \(g=1.0\)"):
        Comparison.of(
            [
                run(TEN, ac.PPO(), environment=ac.envs.Pendulum(gravity=1.0)),
                run(TEN, ac.PPO(), environment=gravity),
            ]
        )


# ---------------------------------------------------------------------------- what does not fit

BAD = {
    "nothing": (list, "nothing to compare"),
    "folder": (lambda: ["runs/a"], r"not 'runs/a'. Read a run's folder first"),
    "unfinished": (
        lambda: [run(TEN), run(TEN, ac.PPO(), finished=False)],
        "ppo on CartPole-v1 is not finished",
    ),
    "environments": (
        lambda: [run(TEN), run(TEN, environment=ac.envs.Acrobot())],
        "different environments, CartPole-v1 and Acrobot-v1",
    ),
    "options": (
        lambda: [run(TEN), run(TEN, environment=ac.envs.CartPole(max_episode_steps=200))],
        r"different environments, CartPole-v1 and CartPole-v1 \(max_episode_steps=200\)",
    ),
    "total_steps": (
        lambda: [run(TEN), run(TEN, ac.PPO(), total_steps=2000)],
        "total_steps are 1,000 and 2,000",
    ),
    "evaluated": (
        lambda: [run(TEN), run(TEN, ac.PPO(), final_evaluation=None)],
        "they were evaluated and not evaluated",
    ),
    "stochastic": (
        lambda: [
            run(TEN),
            run(
                TEN,
                ac.PPO(),
                final_evaluation=dataclasses.replace(
                    run(TEN).final_evaluation, deterministic=False
                ),
            ),
        ],
        "their evaluations are deterministic and stochastic",
    ),
    "episodes": (
        lambda: [
            run(TEN),
            run(
                TEN,
                ac.PPO(),
                final_evaluation=Evaluated(
                    tuple(range(10)), np.ones((10, 7)), np.ones((10, 7)), True
                ),
            ),
        ],
        "their evaluations have 4 episodes and 7 episodes",
    ),
    "repeated seed": (lambda: [run(TEN[:3], seeds=(1, 2, 1))], r"a seed twice: \[1, 2, 1\]"),
    "shared seeds": (
        lambda: [run(TEN), run(TEN[:4], seeds=(8, 9, 10, 11))],
        r"same configuration and share the seeds \[8, 9\]",
    ),
    "evaluated others": (
        lambda: [run(TEN, final_evaluation=run(TEN, seeds=range(1, 11)).final_evaluation)],
        "was evaluated with seeds",
    ),
    "no score": (
        lambda: [run(episodes=[([5], [1.0]), ([], [])])],
        "Seed 1 of a2c has no score",
    ),
    "not finite": (lambda: [run([1.0, np.nan, 2.0])], "Seed 1 of a2c has returns that are not"),
}


@pytest.mark.parametrize("name", BAD)
def test_runs_that_cannot_be_compared(name):
    make, message = BAD[name]
    with pytest.raises(UserError, match=message):
        Comparison.of(make())


@pytest.mark.parametrize("threshold", [np.nan, np.inf, "475", True])
def test_thresholds_are_finite_numbers(threshold):
    with pytest.raises(UserError, match="A threshold must be a finite number"):
        Comparison.of([run(TEN)], thresholds=[threshold])


def test_own_environments_are_told_apart_by_their_options():
    @dataclasses.dataclass(frozen=True)
    class Mine(ac.envs.CartPole):
        pole: float = 1.0

    def of(a, b):
        return Comparison.of([run(TEN, environment=a), run(TEN, ac.PPO(), environment=b)])

    assert len(of(Mine(), Mine()).runs) == 2
    with pytest.raises(UserError, match=r"CartPole-v1 and CartPole-v1 \(pole=2.0\)"):
        of(Mine(), Mine(pole=2.0))


# ---------------------------------------------------------------------------- thresholds


def test_steps_until_a_threshold_by_hand():
    def seed(reaches):
        end = list(range(10, 390, 10))  # 38 episodes, and the window is 20
        return end, [100.0 if reaches is not None and e >= reaches else 0.0 for e in end]

    runs = [
        run(TEN[:5], episodes=[seed(r) for r in (20, 30, 40, 50, None)]),
        run(TEN[:5], ac.PPO(), episodes=[seed(r) for r in (20, None, None, None, None)]),
    ]
    comparison = Comparison.of(runs, thresholds=[100.0])
    assert comparison.window == 20
    rows = {row[1]: row for row in table(comparison, "until-threshold").rows}
    # All of the 20 last episodes are there 19 episodes (190 steps) after the first one is.
    assert rows["a2c"][:3] == ("100", "a2c", "4 of 5")
    assert rows["a2c"][3].startswith("230 [210, ")
    assert rows["a2c"][4].startswith("23 [21, ")
    assert rows["a2c"][3].endswith("more than 1,000]")
    assert rows["a2c"][4].endswith("more than 38]")
    assert rows["ppo"][2:4] == ("1 of 5", "more than 1,000 [210, more than 1,000]")
    assert "mean of a seed's last 20 training returns" in table(comparison, "until-threshold").note
    end, returns = seed(None)
    longer = Comparison.of(
        [run(TEN[:5], episodes=[(end[:n], returns[:n]) for n in (25, *[38] * 4)])]
    )
    (row,) = table(longer, "until-threshold").rows  # none: each made 25 episodes at the least
    assert row[2:] == ("0 of 5", "more than 1,000", "more than 25")
    data = comparison.data()["until_threshold"]
    assert data[0]["steps"] == {"value": 230.0, "low": 210.0, "high": None}
    assert (data[1]["reached"], data[1]["steps"]["value"]) == (1, None)


def test_default_thresholds_are_gymnasiums():
    assert Comparison.of([run(TEN)]).thresholds == (475.0,)
    assert Comparison.of([run(TEN)], thresholds=()).thresholds == ()
    # With other options, what Gymnasium calls solved may not even be possible.
    short = ac.envs.CartPole(max_episode_steps=100)
    assert Comparison.of([run(TEN, environment=short)]).thresholds == ()
    assert Comparison.of([run(TEN, environment=short)]).environment == (
        "CartPole-v1 (max_episode_steps=100)"
    )
    assert Comparison.of([run(TEN)]).environment == "CartPole-v1"
    assert Comparison.of([run(TEN, environment=ac.envs.GridWorld())]).thresholds == ()
    names = [t.name for t in Comparison.of([run(TEN)], thresholds=()).tables()]
    assert names == ["scores"]  # no thresholds, no episodes, no speed, nothing to set against


# ---------------------------------------------------------------------------- other tables


def test_area_under_the_curve_is_of_the_training():
    runs = [
        run(TEN[:3], episodes=[([500], [4.0]), ([500], [6.0]), ([500], [8.0])]),
        run(TEN[:3], ac.PPO(), episodes=[([500], [4.0]), ([500], [6.0]), ([], [])]),
    ]
    rows = cells(Comparison.of(runs), "area-under-curve")
    assert rows["a2c"]["IQM"] == "6.000 [4.000, 8.000]"
    assert rows["a2c"]["SD"] == "2.000"
    assert rows["ppo"]["IQM"] == rows["ppo"]["SD"] == "–"


def test_the_difference_and_the_probability_of_improvement():
    comparison = Comparison.of([run(TEN), run(TEN + 100, ac.PPO()), run(TEN, ac.TRPO())])
    rows = cells(comparison, "against-reference")
    assert list(rows) == ["ppo", "trpo"]
    assert rows["ppo"]["difference of IQM"] == "100.0 [100.0, 100.0]"  # the same of every seed
    assert rows["ppo"]["probability of improvement"] == "1.00 [1.00, 1.00]"
    assert rows["ppo"]["score is"] == "higher"
    assert rows["trpo"]["difference of IQM"] == "0.0 [0.0, 0.0]"
    assert rows["trpo"]["probability of improvement"].startswith("0.50 [")
    assert rows["trpo"]["score is"] == "cannot be told apart"
    assert "2 comparisons, none adjusted" in table(comparison, "against-reference").note
    two = Comparison.of([run(TEN), run(TEN, ac.PPO())])
    assert "adjusted" not in table(two, "against-reference").note


def test_speed_of_a_run_from_its_folder_is_in_a_table(tmp_path):
    rows = ("step,seconds,steps_per_second", "10,1,10", "20,1,200", "30,4,100")  # a slow start
    (tmp_path / "speed.csv").write_text("".join(f"{row}\n" for row in rows))
    comparison = Comparison.of([run(TEN, out=tmp_path), run(TEN, ac.PPO())])
    assert comparison.variants["a2c"].steps_per_second == pytest.approx(120.0)
    rows = cells(comparison, "speed")
    assert rows["a2c"]["steps per second"] == "120"
    assert rows["ppo"]["steps per second"] == "–"


def test_notes_say_how_sure_they_are():
    note = table(Comparison.of([run(TEN)]), "scores").note
    assert "10 seeds (0–9)." in note
    assert "mean return of 4 deterministic episodes after 1,000 steps" in note
    assert "95 %, percentile bootstrap over seeds, 2,000 draws." in note
    assert "too narrow" not in note
    assert "of fewer than 8 seeds they are too narrow" in (
        table(Comparison.of([run(TEN[:5])]), "scores").note
    )


def test_fewer_than_three_seeds_have_no_intervals():
    few = Comparison.of([run(TEN[:2]), run(TEN[:2], ac.PPO())], thresholds=[475])
    for t in few.tables():
        assert "Fewer than three seeds: no intervals." in t.note
        assert "bootstrap" not in t.note
        assert "[" not in str(t.rows)
    assert cells(few, "scores")["a2c"]["IQM"] == "432.5"
    assert cells(few, "against-reference")["ppo"]["score is"] == "too few seeds"
    mixed = Comparison.of([run(TEN), run(TEN[:1], ac.PPO())])
    rows = cells(mixed, "scores")
    assert "[" in rows["a2c"]["IQM"]
    assert "[" not in rows["ppo"]["IQM"]
    assert rows["ppo"]["SD"] == "–"
    assert "ppo: fewer than three seeds: no intervals." in table(mixed, "scores").note
    json.dumps(mixed.data(), allow_nan=False)


# ---------------------------------------------------------------------------- the verdict


def verdict(*scores, names=("ppo", "a2c", "trpo", "sac")):
    kinds = {"ppo": ac.PPO(), "a2c": ac.A2C(), "trpo": ac.TRPO(), "sac": ac.SAC()}
    pairs = zip(names, scores, strict=False)
    return Comparison.of([run(s, kinds[name]) for name, s in pairs]).verdict


def test_a_clear_verdict():
    text = verdict(TEN - 100, TEN)
    assert text.startswith("a2c scored highest with 10 seeds: IQM 477.8 [")
    assert text.endswith(
        "], 100.0 [100.0, 100.0] above ppo (the reference), probability of improvement "
        "1.00 [1.00, 1.00]."
    )


def test_a_verdict_that_cannot_tell():
    text = verdict(TEN, TEN[::-1] + 1.0)
    assert text.startswith("a2c and ppo cannot be told apart with 10 seeds: a2c has the highest")
    assert "1.0 [-" in text
    assert "scored highest" not in text


def test_the_best_of_many_has_to_be_above_every_other():
    noise = np.linspace(60, -60, 10)
    text = verdict(TEN - 100, TEN, TEN - 200, TEN - 300)
    assert text.startswith("Of 4 variants, a2c scored highest with 10 seeds")
    assert "above ppo (the reference and the runner-up)" in text
    near = verdict(TEN - 100, TEN, TEN - 5 + noise)
    assert near.startswith("Of 3 variants, a2c and trpo cannot be told apart with 10 seeds")
    assert "above trpo (the runner-up)" in near
    assert "; 100.0 [100.0, 100.0] above ppo (the reference)" in near
    # The runner-up is clearly below, but a third that differs wildly between seeds is not.
    wild = np.array([-900.0, -500, 100, 300, 400, 440, 500, 900, 1200, 1300])
    third = verdict(TEN - 10, TEN, wild)
    assert third.startswith("Of 3 variants, a2c and trpo cannot be told apart")
    # The highest is the one with the highest IQM, however wide its interval.
    assert "trpo has the highest IQM" in verdict(TEN - 10, TEN, wild + 100)


def test_few_seeds_are_a_caveat_and_fewer_no_verdict():
    assert "(intervals of fewer than 8 seeds are too narrow)" in verdict(TEN[:5] - 100, TEN[:5])
    assert "too narrow" not in verdict(TEN - 100, TEN)
    some = verdict(TEN - 100, TEN[5:])
    assert "scored highest with 5 to 10 seeds" in some
    assert "too narrow" in some
    text = verdict(TEN[:2] - 100, TEN[:2])
    assert text.startswith("No verdict: ppo and a2c have fewer than three seeds")
    one = verdict(TEN - 100, TEN[:1])
    assert one.startswith("No verdict: a2c has fewer than three seeds")


def test_all_equal_scores():
    full = np.full(10, 500.0)
    assert verdict(full, full) == "Both reach 500.0 with 10 seeds."
    assert verdict(full, full, full) == "All three reach 500.0 with 10 seeds."
    assert verdict(full, full - 100, full).startswith(
        "ppo and trpo reach 500.0 with 10 seeds; a2c scores lower (the next by 100.0 [100.0"
    )
    comparison = Comparison.of([run(full), run(full, ac.PPO())])
    assert comparison.against("ppo", "a2c").word == "the same"
    # The same IQM is not the same scores.
    spoilt = full.copy()
    spoilt[0] = 400.0
    assert verdict(full, spoilt) == (
        "Both reach 500.0 with 10 seeds (IQM; the worst seed, of a2c, scores 400.0)."
    )


def test_variants_that_end_alike_are_told_by_how_soon_they_are_there():
    def seed(reaches):
        end = list(range(10, 1000, 10))
        return end, [500.0 if e >= reaches else 0.0 for e in end]

    def of(first, second, thresholds=None):
        full = np.full(10, 500.0)
        runs = [
            run(full, ac.PPO(), episodes=[seed(first + 10 * k) for k in range(10)]),
            run(full, episodes=[seed(second + 10 * k) for k in range(10)]),
        ]
        return Comparison.of(runs, thresholds=thresholds).verdict

    text = of(210, 10)
    assert text.startswith("Both reach 500.0 with 10 seeds; a2c gets to 475 in 230 steps, 1.87 [")
    assert text.endswith("] times sooner than ppo.")
    assert of(10, 10).endswith("; how soon they reach 475 cannot be told apart.")
    assert of(10, 990).endswith("half of the seeds of a2c never get there.")
    assert of(2000, 2000) == "Both reach 500.0 with 10 seeds."
    assert "; a2c learns faster: over the whole training its mean return is " in of(210, 10, ())


def test_a_single_variant_has_nothing_to_be_compared_with():
    assert verdict(TEN).startswith("ppo scored an IQM of 477.8 [")
    assert verdict(TEN).endswith("] with 10 seeds.")


# ---------------------------------------------------------------------------- its pictures


def pictures(runs) -> dict:
    (section,) = Comparison.of(runs).sections()
    return {picture.name: picture for picture in section.pictures}


def with_lambdas(*values, **more):
    return {
        f"gae_lambda={value:g}": run(TEN - 10 * value, ac.A2C(gae_lambda=value, **more))
        for value in values
    }


def test_a_numeric_setting_is_a_curve_over_its_values():
    found = pictures({"a2c": run(TEN, ac.A2C(gae_lambda=0.9))} | with_lambdas(1.0, 0.0))
    assert next(iter(found)) == "over-gae_lambda"
    assert "scores" not in found  # it would say the same
    panel = plots.panel_of(found["over-gae_lambda"].figure.axes[0])
    iqm, *_, mark = panel.views[0].series
    assert list(iqm.x) == [0, 0.9, 1]
    assert mark.label == "default"
    assert np.isfinite(mark.y).tolist() == [False, True, False]
    # Where no variant is the algorithm as it was, the reference is one of the values.
    over = pictures(with_lambdas(0.0, 0.5, 1.0))["over-gae_lambda"]
    assert plots.panel_of(over.figure.axes[0]).views[0].series[-1].label == "reference"


def test_settings_that_are_no_numbers_or_have_few_values_are_no_curve():
    base = {"a2c": run(TEN, ac.A2C())}
    two = pictures(base | with_lambdas(0.5))
    kinds = pictures(base | {k: run(TEN, ac.A2C(optimizer=k)) for k in ("adam", "sgd")})
    others = pictures(base | {"p": run(TEN, ac.PPO()), "r": run(TEN, ac.Reinforce())})
    both = pictures(base | with_lambdas(0.5, 0.7, entropy_coefficient=0.1))  # two at once
    for found in (two, kinds, others, both):
        assert not [name for name in found if name.startswith("over-")]
        assert found["scores"].narrow is not None
    # Beside other variants, a curve over one setting, and the scores of all.
    mixed = pictures(base | with_lambdas(0.0, 0.5) | {"p": run(TEN, ac.PPO())})
    assert {"over-gae_lambda", "scores"} <= mixed.keys()


def test_scores_are_on_the_scale_of_the_task():
    begun = [(np.arange(1, 101), np.linspace(20, 500, 100))] * 3
    near = {
        label: run([score] * 3, ac.A2C(gae_lambda=lam), episodes=begun)
        for label, score, lam in (("a", 500, 0.0), ("b", 499.9, 1.0))
    }
    low, high = pictures(near)["scores"].figure.axes[0].get_xlim()
    assert low < 0
    assert 500 < high < 550
    # Where training began far below zero, that is the scale.
    begun = [(np.arange(1, 101), np.linspace(-1500, -150, 100))] * 3
    (figure,) = [pictures({"a": run([-150] * 3, episodes=begun)})["scores"].figure]
    low, high = figure.axes[0].get_xlim()
    assert low < -1400
    assert 0 < high < 100


def test_evaluations_while_training_are_a_curve():
    def evaluated(level):
        rows = [(s, step, level + s + step / 10) for s in range(3) for step in (0, 100, 200)] * 2
        seed, step, returns = map(np.array, zip(*rows, strict=True))
        table = EpisodeTable(seed, step, returns, np.ones(len(rows), int))
        return [Report(NO_METRICS, EpisodeTable.join([]), 1.0, table)]

    found = pictures({"a": run([1] * 3, reports=evaluated(0.0)), "b": run([2] * 3, ac.PPO())})
    (axes,) = found["evaluations"].figure.axes
    assert axes.get_ylim()[1] > 22  # room for the band
    (curve,) = plots.panel_of(axes).views[0].series
    assert (curve.label, curve.look) == ("a", "marked")
    assert list(curve.x) == [0, 100, 200]
    assert curve.y == pytest.approx([1, 11, 21])
    assert (curve.low[0], curve.high[0]) == pytest.approx((0, 2), abs=0.1)
    assert "evaluations" not in pictures({"a": run([1] * 3)})


def test_a_page_says_its_title_once(tmp_path):
    comparison = Comparison.of([run(TEN)])
    page = comparison.report(tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count(f">{comparison.title}<") == 2  # of the window, and the heading
    assert page.count("on CartPole-v1") == 2
