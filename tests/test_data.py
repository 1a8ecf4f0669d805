"""Data sets: what they hold, what is refused, and where they are kept."""

from __future__ import annotations

import json
import os

import gymnasium
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorcritic import lab
from actorcritic.core.errors import UserError
from actorcritic.data import folder, summary
from actorcritic.data.dataset import Dataset
from actorcritic.envs import CartPole, Pendulum
from actorcritic.runs.collecting import Part, recorded

BOX = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
TORQUE = gymnasium.spaces.Box(-2.0, 2.0, (1,), np.float32)


def episode(steps=4, first=0.0, **changes):
    """Observations count on, so that a wrong successor is seen."""
    rows = first + np.arange(steps + 1, dtype=np.float32)
    found = {
        "observation": np.stack([rows, -rows], axis=1),
        "action": np.zeros((steps, 1), np.float32),
        "reward": np.ones(steps, np.float32),
        "terminated": False,
        "truncated": True,
    }
    return found | changes


def of(*episodes, action_space=TORQUE):
    return Dataset.from_episodes(episodes, BOX, action_space)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_arrays_and_episodes_are_one_data_set_and_successors_are_true(lengths, random):
    ends = [random.random() < 0.5 for _ in lengths]
    episodes = [
        episode(n, 10.0 * k, terminated=end, truncated=not end)
        for k, (n, end) in enumerate(zip(lengths, ends, strict=True))
    ]
    data = of(*episodes)
    assert (data.steps, data.episodes) == (sum(lengths), len(lengths))
    batch = data.at(np.arange(data.steps))
    before, after = batch.observation[0], batch.next_observation[0]
    np.testing.assert_array_equal(after[:, 0], before[:, 0] + 1)  # also where an episode ended
    again = Dataset.from_arrays(
        before,
        data.action,
        data.reward,
        data.terminated,
        data.truncated,
        after,
        observation_space=BOX,
        action_space=TORQUE,
    )
    assert again.fingerprint == data.fingerprint
    np.testing.assert_allclose(data.returns, lengths)
    togo = data.returns_to_go(0.5)
    for start, n in zip(data.starts, lengths, strict=True):
        for t in range(n):
            assert togo[start + t] == pytest.approx(sum(0.5**k for k in range(n - t)))


WRONG = {
    "ragged actions": (episode(action=np.zeros((3, 1))), "Episode 1 .* is ragged: .* 3 actions"),
    "ragged observations": (episode(observation=np.zeros((4, 2))), "expected 5 observations"),
    "another space": (episode(observation=np.zeros((5, 3))), r"shape \(3,\); expected \(2,\)"),
    "lacking": ({"reward": np.ones(3)}, "lacks observation, action, terminated, truncated"),
    "no numbers": (episode(reward=["a"] * 4), "must be an array of numbers"),
    "no flags": (episode(terminated=np.full(4, 0.5)), "terminated must be truth values"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_refused_with_its_episode(name):
    wrong, text = WRONG[name]
    with pytest.raises(UserError, match=text):
        of(episode(), wrong)


NAN = np.array([1, 1, np.nan, 1], np.float32)
LATE = np.eye(1, 4, 1, dtype=bool)[0]
PROBLEMS = {
    "no end": (episode(truncated=False), "Episode 1, step 3 .* neither terminated nor truncated"),
    "an end within": (episode(terminated=LATE), "Episode 1, step 1 .* ends the episode, which"),
    "NaN": (episode(reward=NAN), "Episode 1, step 2 .* a reward that is not finite"),
    "outside": (
        episode(action=np.full((4, 1), 3.0)),
        r"step 0 .* \[3.0\], which is out",
    ),
    "NaN seen last": (
        episode(observation=np.append(np.zeros((4, 2)), [[np.nan, 0]], axis=0)),
        "Episode 1, after its last step 3",
    ),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_what_is_wrong_is_said_with_episode_and_step(name):
    wrong, text = PROBLEMS[name]
    data = of(episode(), wrong)
    with pytest.raises(UserError, match=text):
        data.check()
    assert len(data.problems()) == 1
    assert data.problems()[0] in str(summary.of(data))
    assert not of(episode(), episode()).problems()


def test_where_nothing_ends_it_is_said_once():
    (text,) = of(*[episode(truncated=False)] * 3).problems()
    assert "No episode of the 3 ends" in text


def test_actions_and_observations_must_be_of_the_space():
    choices = gymnasium.spaces.Discrete(3)
    with pytest.raises(UserError, match="whole numbers"):
        of(episode(action=np.full(4, 0.5)), action_space=choices)
    data = of(episode(action=np.array([0, 1, 2, 3])), action_space=choices)
    assert "step 3 (counted from 0) has the action 3" in data.problems()[0]
    states = Dataset.from_episodes(
        [episode(observation=np.array([0, 1, 2, 3, 4]))], gymnasium.spaces.Discrete(4), TORQUE
    )
    assert "step 4" in states.problems()[0]
    with pytest.raises(UserError, match="observations of Discrete"):
        states.check(Pendulum().spec)


def test_a_missing_end_shows_in_the_successors():
    data = of(episode(), episode(first=20.0))
    batch = data.at(np.arange(8))
    ends = np.zeros(8, bool)
    ends[-1] = True
    arguments = batch.observation[0], data.action, data.reward, np.zeros(8, bool), ends
    with pytest.raises(UserError, match="An end is missing: the next_observation of step 3"):
        Dataset.from_arrays(
            *arguments, batch.next_observation[0], observation_space=BOX, action_space=TORQUE
        )
    with pytest.raises(UserError, match=r"Step 7 .* truncated, and the observation after it"):
        Dataset.from_arrays(*arguments, observation_space=BOX, action_space=TORQUE)


# ------------------------------------------------------------------------------ folders


def test_a_folder_gives_back_what_it_was_given(tmp_path):
    space = gymnasium.spaces.Dict({"a": BOX, "b": gymnasium.spaces.Discrete(5)})
    observation = {"a": np.zeros((5, 2), np.float32), "b": np.arange(5)}
    data = Dataset.from_episodes(
        [episode(observation=observation, log_prob=np.arange(4.0))], space, TORQUE, id="mine"
    )
    there = folder.load(folder.save(data, tmp_path / "data"))
    assert there.fingerprint == data.fingerprint
    assert there.spec == data.spec
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == [folder.ABOUT, folder.ROWS]
    with pytest.raises(UserError, match="not empty"):
        folder.save(data, tmp_path / "data")


def test_a_folder_that_was_changed_is_refused(tmp_path):
    place = folder.save(of(episode()), tmp_path / "data")
    rows, about = place / folder.ROWS, place / folder.ABOUT
    good, said = rows.read_bytes(), json.loads(about.read_text())
    rows.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(UserError, match="not as it was written"):
        folder.load(place)
    rows.write_bytes(good)
    for change in ({"format": 99}, {"rows": 3}, {"observation_space": {"kind": "Box"}}):
        about.write_text(json.dumps(said | change))
        with pytest.raises(UserError, match=r"format 99|is not what a data set"):
            folder.load(place)
    about.write_text(json.dumps(said))
    rows.rename(tmp_path / "elsewhere")
    rows.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is a link"):
        folder.load(place)
    rows.unlink()
    os.mkfifo(rows)
    with pytest.raises(UserError, match="not a regular file"):
        folder.load(place)
    with pytest.raises(UserError, match="There is no data set in"):
        folder.load(tmp_path / "nothing")


# ------------------------------------------------------------------------------ collecting


def test_what_is_recorded_of_random_actions_is_what_the_environment_does():
    data = recorded(Pendulum(), [Part("random", None, (), 500)], seed=3)
    assert data.steps == 500
    assert not data.problems()
    assert (data.lengths <= 200).all()
    np.testing.assert_allclose(data.log_prob, -np.log(4.0), rtol=1e-6)
    # Pendulum's reward from what was observed and done.
    before = data.observation[data.place]
    angle = np.arctan2(before[:, 1], before[:, 0])
    cost = angle**2 + 0.1 * before[:, 2] ** 2 + 0.001 * data.action[:, 0] ** 2
    np.testing.assert_allclose(data.reward, -cost, rtol=1e-4, atol=1e-4)
    again = recorded(Pendulum(), [Part("random", None, (), 500)], seed=3)
    assert again.fingerprint == data.fingerprint


def test_on_the_host_ends_are_kept_apart():
    from actorcritic.envs.host.environment import HostEnvironment

    data = recorded(HostEnvironment("CartPole-v1"), [Part("random", None, (), 300)], seed=0)
    last = data.starts + data.lengths - 1
    assert data.terminated[last[:-1]].all()
    assert data.truncated[last[-1]] != data.terminated[last[-1]]
    assert data.steps == 300
    batch = data.at(np.flatnonzero(data.terminated))
    over = np.abs(batch.next_observation[0])
    limits = CartPole().spec.observation_space.high / 2  # Gymnasium's are twice the thresholds
    assert ((over[:, 0] > limits[0]) | (over[:, 2] > limits[2])).all()


def test_a_process_of_the_lab_is_recorded_with_its_probabilities():
    rng = np.random.default_rng(0)
    mdp = lab.layers(3, 2, 2, rng)
    policy = lab.softmax(rng.normal(size=(mdp.states, 2)))
    data = lab.record(mdp, policy, 50, 10, rng)
    assert data.episodes == 50
    assert (data.lengths == 3).all()
    assert data.terminated[data.starts + 2].all()
    states = data.observation[data.place]
    np.testing.assert_allclose(data.log_prob, np.log(policy[states, data.action]), rtol=1e-6)
    support = lab.seen(mdp, states, data.action)
    best = lab.supported_values(mdp, np.ones_like(support))
    np.testing.assert_allclose(best, lab.optimal_values(mdp), atol=1e-12)
    only = np.zeros_like(support)
    only[:, 1] = True
    forced = lab.values(mdp, only.astype(float))
    np.testing.assert_allclose(lab.supported_values(mdp, only), forced, atol=1e-12)
