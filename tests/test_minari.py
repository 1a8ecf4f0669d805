"""Minari's data sets: written, read again, and read as Minari itself wrote them."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

import actorcritic as ac
from actorcritic.core.errors import UserError
from actorcritic.data import finding
from actorcritic.envs import CartPole
from actorcritic.runs.collecting import Part, recorded

minari = pytest.importorskip("minari")
pytestmark = pytest.mark.extras


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


def test_what_was_written_is_read_again():
    data = recorded(CartPole(), [Part("random", None, (), 200)], seed=0)
    assert finding.save(data, "minari:ours/cartpole-v0") == "minari:ours/cartpole-v0"
    again = ac.dataset("minari:ours/cartpole-v0")
    assert again.spec.id == "CartPole-v1"
    assert again.spec.max_episode_steps == 500
    for name in ("observation", "action", "reward", "terminated", "truncated", "lengths"):
        np.testing.assert_array_equal(getattr(again, name), getattr(data, name), name)
    with pytest.raises(UserError, match="already"):
        finding.check_free("minari:ours/cartpole-v0")
    with pytest.raises(UserError, match="Did you mean 'ours/cartpole-v0'"):
        ac.dataset("minari:ours/cartpol-v0")


def test_what_minari_recorded_itself_is_learned_from():
    environment = minari.DataCollector(gymnasium.make("CartPole-v1", max_episode_steps=9))
    for seed in range(6):
        environment.reset(seed=seed)
        done = False
        while not done:
            *_, terminated, truncated, _ = environment.step(environment.action_space.sample())
            done = terminated or truncated
    environment.create_dataset("theirs/cartpole-v0")
    environment.close()
    data = ac.dataset("minari:theirs/cartpole-v0")
    assert data.episodes == 6
    assert not data.problems()
    last = data.starts + data.lengths - 1
    assert (data.truncated[last] | data.terminated[last]).all()
    assert data.truncated.any()  # within nine steps few fall
    run = ac.train(
        ac.BC(hidden_sizes=(8,)), data="minari:theirs/cartpole-v0", total_steps=5, quiet=True
    )
    assert run.steps == 5
