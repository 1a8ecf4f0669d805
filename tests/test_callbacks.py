"""Who looks into a training: callbacks, evaluations between, the best policy, a reason to stop."""

import json

import gymnasium as gym
import jax
import numpy as np
import pytest

import actorcritic as ac
from actorcritic.core.errors import UserError
from actorcritic.runs.run import read_run

PPO = ac.PPO(num_envs=4, num_steps=32, num_epochs=2, hidden_sizes=(8,))
HOST = {"host": True}


def train(**options):
    settings = {"total_steps": 2048, "seeds": 2, "quiet": True, "evaluation_episodes": 2}
    return ac.train(options.pop("algorithm", PPO), "CartPole-v1", **settings | options)


def same(one, other):
    equal = jax.tree.map(lambda x, y: bool((np.asarray(x) == np.asarray(y)).all()), one, other)
    return all(jax.tree.leaves(equal))


class Recorder:
    def __init__(self):
        self.reports, self.closed = [], False

    def write(self, report):
        self.reports.append(report)

    def close(self):
        self.closed = True


@pytest.mark.parametrize("how", [{}, HOST], ids=["compiled", "host"])
@pytest.mark.long
def test_looking_changes_nothing(how):
    moments = []
    watched = train(callbacks=[moments.append], evaluate_every=512, keep_best=True, **how)
    alone = train(**how)
    assert same(watched.actors, alone.actors)
    assert moments[-1].finished
    assert moments[-1].steps == {0: 2048, 1: 2048}
    told = sum(len(m.report.metrics.seed) for m in moments)
    assert told == len(watched.metrics.seed) == 2 * 16


@pytest.mark.parametrize("how", [{}, HOST], ids=["compiled", "host"])
@pytest.mark.long
def test_evaluations_between_are_where_they_were_asked_for(how, tmp_path):
    run = train(evaluate_every=512, keep_best=True, out=tmp_path / "run", **how)
    table = run.evaluations
    for seed in (0, 1):
        steps, counts = np.unique(table.step[table.seed == seed], return_counts=True)
        assert steps.tolist() == [512, 1024, 1536, 2048]
        assert counts.tolist() == [20] * 4
        means = [table.returns[(table.seed == seed) & (table.step == s)].mean() for s in steps]
        assert run.best.scores[seed] == pytest.approx(max(means), rel=1e-6)
        assert run.best.steps[seed] == steps[int(np.argmax(means))]
    # The policies that were kept give what was measured when they were.
    again = ac.open_run(tmp_path / "run")
    assert same(again.actors_of("best"), run.best.actors)
    best = ac.load(tmp_path / "run", seed=1, which="best")
    assert same(best.actor, jax.tree.map(lambda x: x[1], run.best.actors))
    assert ac.load(tmp_path / "run", seed=1)(np.zeros(4)).shape == ()
    last, kept = run.evaluate(3), run.evaluate(3, which="best")
    assert last.returns.shape == kept.returns.shape


def test_whole_episodes_are_evaluated_at_the_first_update_after():
    reinforce = ac.Reinforce(num_envs=2, hidden_sizes=(8,))
    run = train(algorithm=reinforce, total_steps=3000, evaluate_every=1000)
    steps = np.unique(run.evaluations.step[run.evaluations.seed == 0])
    assert len(steps) == 3
    # An update is of at most 2 episodes of 500 steps, and here of far fewer.
    assert all(k * 1000 <= s < k * 1000 + 500 for k, s in enumerate(steps, start=1))


def test_a_callback_stops_saves_logs_and_acts(tmp_path):
    actions = []

    def callback(moment):
        moment.log("actions, so far", len(actions), seed=1)
        actions.append(moment.policy(1)(np.zeros(4)))
        if min(moment.steps.values()) >= 512:
            moment.save()
            moment.stop("it was enough")

    sink = Recorder()
    run = train(total_steps=500_000, callbacks=[callback], sinks=[sink], out=tmp_path / "run")
    assert run.stopped == "it was enough"
    assert run.finished
    assert run.final_evaluation is not None
    assert 512 <= run.steps < 500_000
    assert sink.closed
    assert [one.value for report in sink.reports for one in report.logged] == list(
        range(len(actions))
    )
    text = (tmp_path / "run" / "logged.csv").read_text().splitlines()
    assert text[0] == "seed,step,name,value"
    assert text[1].startswith("1,")
    assert text[1].endswith(',"actions, so far",0.0')
    assert read_run(tmp_path / "run").finished
    assert ac.open_run(tmp_path / "run").stopped == "it was enough"
    # It goes on where it was stopped, if it is asked to.
    again = ac.resume(tmp_path / "run", total_steps=run.steps + 512, quiet=True)
    assert (again.stopped, again.finished) == (None, True)
    assert again.steps >= run.steps + 512


@pytest.mark.parametrize("between", [{"evaluate_every": 512}, {}], ids=["evaluations", "episodes"])
def test_stop_at(between):
    run = train(total_steps=100_000, stop_at=9.0, **between)
    assert "of every seed reached 9" in run.stopped
    assert run.steps < 100_000
    assert train(stop_at=501.0, **between).stopped is None


def test_what_is_wrong_is_said_before_anything_is_trained(tmp_path, monkeypatch):
    for options, words in (
        ({"keep_best": True}, "keep_best needs evaluations.*evaluate_every=10000"),
        ({"callbacks": print}, "callbacks must be a list"),
        ({"callbacks": ["mine"]}, "callbacks must hold a function of one argument; got 'mine'"),
        ({"sinks": [Recorder]}, "sinks must hold an object with write"),
        ({"evaluate_every": 0}, "evaluate_every must lie in"),
        ({"wandb": "mine"}, "only in memory. Name a folder"),
        ({"start_from": tmp_path / "none"}, "not a run folder"),
    ):
        with pytest.raises(UserError, match=words):
            train(**options)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="Weights & Biases is not installed"):
        train(wandb="mine", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    run = train()
    with pytest.raises(UserError, match="kept no best policy"):
        run.policy(0, which="best")
    with pytest.raises(UserError, match="must be 'last', 'best' or 'early'"):
        run.policy(0, which="worst")


# ---------------------------------------------------------------------------- going on


@pytest.mark.long
def test_a_run_in_memory_goes_on_and_is_kept(tmp_path):
    straight = train(total_steps=4096)
    run = train()
    assert ac.resume(run, total_steps=4096, quiet=True, evaluation_episodes=2) is run
    assert same(run.actors, straight.actors)
    assert len(run.metrics.seed) == len(straight.metrics.seed)
    out = run.save(tmp_path / "kept")
    read = ac.open_run(out)
    assert same(read.learners, run.trained)
    assert (read.steps, read.finished) == (4096, True)
    np.testing.assert_array_equal(read.episodes.returns, run.episodes.returns)
    further, beside = (ac.resume(r, total_steps=5120, quiet=True) for r in (out, run))
    assert same(further.trained, beside.trained)
    with pytest.raises(UserError, match=r"kept in .* already"):
        read.save(tmp_path / "twice")
    with pytest.raises(UserError, match="made 5,120 steps already"):
        ac.resume(run, total_steps=100)


@pytest.mark.long
def test_phases_are_kept(tmp_path, capsys):
    out = tmp_path / "run"
    falling = ac.PPO(num_envs=4, num_steps=32, hidden_sizes=(8,), learning_rate_schedule="linear")
    train(algorithm=falling, out=out)
    before = json.loads((out / "run.json").read_text())
    assert "phases" not in before
    ac.resume(out, quiet=False, evaluation_episodes=2)  # the same again is no phase
    assert json.loads((out / "run.json").read_text()) == before
    capsys.readouterr()
    other = ac.PPO(
        num_envs=4, num_steps=32, hidden_sizes=(8,), learning_rate_schedule="linear", gamma=0.9
    )
    ac.resume(out, algorithm=other, total_steps=4096, evaluation_episodes=2)
    said = " ".join(capsys.readouterr().err.split())
    assert "from step 2,048 on gamma = 0.9 (was 0.99); run.json keeps both phases" in said
    assert "it goes on at 50% of its first value, where it was at 0%" in said
    after = json.loads((out / "run.json").read_text())
    (phase,) = after["phases"]
    assert phase["until_step"] == 2048
    assert phase["algorithm"] == before["algorithm"]
    assert after["algorithm"]["hyperparameters"]["gamma"] == 0.9
    assert ac.open_run(out).phases == [phase]


@pytest.mark.long
def test_starting_from_another_run(tmp_path):
    source = train(out=tmp_path / "source")
    # No step is made before the first checkpoint: the learners are the other run's.
    seen = []
    run = train(
        out=tmp_path / "tuned",
        start_from=tmp_path / "source",
        total_steps=128,
        seeds=1,
        seed=1,
        callbacks=[seen.append],
        learning_rate=1e-9,
        algorithm=PPO,
    )
    chosen = jax.tree.map(lambda x: x[1:], source.actors)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), chosen, run.actors)
    origin = json.loads((tmp_path / "tuned" / "run.json").read_text())["origin"]
    assert origin == {"run": "source", "seeds": [1], "steps": 2048}
    for options, words in (
        ({"algorithm": ac.PPO(hidden_sizes=(16,))}, "do not keep the same.*same algorithm and"),
        ({"algorithm": ac.A2C(hidden_sizes=(8, 8))}, "do not keep the same"),
    ):
        with pytest.raises(UserError, match=words):
            train(start_from=tmp_path / "source", out=tmp_path / "wrong", **options)
        assert not (tmp_path / "wrong").exists()
    with pytest.raises(UserError, match="its observations are"):
        ac.train(ac.PPO(hidden_sizes=(8,)), "Acrobot-v1", start_from=tmp_path / "source")


# ---------------------------------------------------------------------------- infos


class Lucky(gym.Env):
    """Ends after three steps; says at the end whether it was lucky, and how often it was reset."""

    observation_space = gym.spaces.Box(-1, 1, (2,))
    action_space = gym.spaces.Discrete(2)

    def __init__(self, told="lucky"):
        self.told, self.episode = told, 0

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.episode = 0, self.episode + 1
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.t += 1
        done = self.t == 3
        info = {self.told: float(self.episode % 2), "text": "no number"} if done else {}
        return np.zeros(2, np.float32), 1.0, done, False, info


@pytest.mark.parametrize("autoreset", ["disabled", "same_step", "next_step"])
@pytest.mark.long
def test_numbers_of_infos_become_metrics(autoreset, tmp_path):
    a2c = ac.A2C(num_envs=2, num_steps=6, hidden_sizes=(8,))
    settings = {"total_steps": 240, "quiet": True, "evaluation_episodes": 1}
    run = ac.train(
        a2c,
        Lucky,
        info_metrics=["lucky", "absent"],
        autoreset=autoreset,
        out=tmp_path / "run",
        **settings,
    )
    lucky = run.metrics.column("info/lucky")
    known = lucky[np.isfinite(lucky)]
    assert len(known) >= 10
    # Every second episode is; an update sees one or two of each environment.
    assert set(known.round(2).tolist()) <= {0.0, 0.5, 1.0}
    assert abs(known.mean() - 0.5) < 0.2
    assert np.isnan(run.metrics.column("info/absent")).all()
    again = ac.resume(tmp_path / "run", total_steps=480, environment=Lucky, quiet=True)
    assert np.isfinite(again.metrics.column("info/lucky")).sum() > len(known)
    with pytest.raises(UserError, match=r"info\['text'\] = 'no number'; info_metrics takes"):
        ac.train(a2c, Lucky, info_metrics=["text"], autoreset=autoreset, **settings)
    with pytest.raises(UserError, match="gives no infos to keep"):
        train(info_metrics=["lucky"])
    with pytest.raises(UserError, match="info_metrics must be a list; got 'lucky'"):
        train(info_metrics="lucky", **HOST)


def test_a_run_of_an_earlier_version_is_no_other_run(tmp_path):
    out = tmp_path / "run"
    train(out=out)
    data = json.loads((out / "run.json").read_text())
    for part, name in (("algorithm", "class"), ("environment", "class")):
        del data[part][name]
    (out / "run.json").write_text(json.dumps(data))
    ac.resume(out, quiet=True, evaluation_episodes=2)
    assert "phases" not in json.loads((out / "run.json").read_text())


@pytest.mark.long
def test_the_best_policy_survives_a_resume(tmp_path):
    out = tmp_path / "run"
    settings = {"evaluate_every": 512, "keep_best": True}
    first = train(out=out, **settings)
    first.best.scores = [1e9] * 2  # what comes is worse
    first.best.save(out / "best")
    kept = ac.open_run(out).actors_of("best")
    found = ac.resume(out, total_steps=2560, quiet=True, evaluation_episodes=0)
    assert found.best.scores == [1e9] * 2
    assert same(kept, found.best.actors)
    assert same(kept, ac.open_run(out).actors_of("best"))
    # How it is evaluated on the way was not said again.
    assert found.evaluations.step.max() == 2560


@pytest.mark.long
def test_a_goal_is_kept_until_it_is_reached(tmp_path):
    out = tmp_path / "run"
    how = {"quiet": True, "evaluation_episodes": 0}
    train(out=out, total_steps=512, stop_at=9.0)
    assert json.loads((out / "run.json").read_text())["looks"] == {"stop_at": 9.0}
    assert ac.resume(out, total_steps=100_000, **how).stopped is not None
    further = ac.resume(out, total_steps=110_000, **how)
    assert (further.stopped, further.steps) == (None, 110_080)
