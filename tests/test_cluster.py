"""Training on a cluster: a Ray of this machine, with two workers."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import gymnasium
import jax
import numpy as np
import pytest
from command_line import benchmark

import actorcritic as ac
from actorcritic.core import files
from actorcritic.core.errors import UserError
from actorcritic.envs import CartPole
from actorcritic.envs.host.environment import HostEnvironment
from actorcritic.experiments import tasks, together
from actorcritic.runners.cluster import Cluster
from actorcritic.runners.distributed import ClusterSession
from actorcritic.runners.host import HostSession

pytestmark = [pytest.mark.extras, pytest.mark.long]
ray: Any = pytest.importorskip("ray", reason="the extra ray is not installed")


@pytest.fixture(scope="module", autouse=True)
def a_cluster():
    """One for all tests here: to start it takes seconds."""
    cluster = Cluster("local", cpus=max(2, jax.device_count()))
    yield cluster
    cluster.close()
    ray.shutdown()


def trained(session: Any) -> Any:
    with contextlib.closing(session):
        reports = []
        while not session.finished:
            reports.append(session.advance(1.0))
        return session.state, reports


SMALL: dict[str, Any] = {"num_envs": 4, "num_steps": 8, "hidden_sizes": (8,)}
TOGETHER = {
    "a2c": ac.A2C(**SMALL),
    "ppo": ac.PPO(**SMALL, normalize_observation=True, normalize_reward=True),
    "whole episodes": ac.A2C(**{**SMALL, "num_steps": 64}, whole_episodes=True),
    "agents": ac.MAPPO(**SMALL),
    "sac": ac.SAC(num_envs=4, hidden_sizes=(8,), buffer_size=64, batch_size=8, learning_starts=32),
}


@pytest.mark.parametrize("kind", TOGETHER)
def test_what_is_collected_together_is_what_the_host_runner_collects(kind):
    """The same numbers: parameters, steps, and the episodes with their steps.

    Of whole episodes one batch: what an environment drew while others went on, it draws only there.
    """
    algorithm, steps = TOGETHER[kind], {"whole episodes": 4, "sac": 900}.get(kind, 512)
    name = {"sac": "Pendulum-v1", "agents": "pettingzoo:agents_environments"}.get(
        kind, "CartPole-v1"
    )
    of = [
        trained(HostSession(algorithm, HostEnvironment(name), [3, 4], steps)),
        trained(ClusterSession(algorithm, HostEnvironment(name), [3, 4], steps, "local", 2)),
    ]
    (host, host_reports), (cluster, cluster_reports) = of
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6),
        host.learner.params,
        cluster.learner.params,
    )
    np.testing.assert_array_equal(host.steps.numbers, cluster.steps.numbers)
    episodes = [
        np.concatenate([np.stack(report.episodes, axis=1) for report in reports])
        for reports in (host_reports, cluster_reports)
    ]
    assert len(episodes[0]) > 1
    np.testing.assert_allclose(*episodes, rtol=1e-6)


ASYNCHRONOUS = {
    "a3c": ac.A3C(num_envs=2, hidden_sizes=(8,), normalize_observation=True, normalize_reward=True),
    "impala": ac.IMPALA(num_envs=2, hidden_sizes=(8,), normalize_observation=True),
}
WORLDS = {
    "gymnasium": lambda: HostEnvironment("CartPole-v1"),
    "workers": lambda: HostEnvironment("CartPole-v1", vectorization="async"),
    "vector": lambda: HostEnvironment(gymnasium.make_vec("CartPole-v1", num_envs=2)),
    "next step": lambda: HostEnvironment("CartPole-v1", autoreset="next_step"),
    "compiled": CartPole,
}


@pytest.mark.parametrize(
    ("kind", "world"), [*(("impala", world) for world in WORLDS), ("a3c", "gymnasium")]
)
def test_workers_that_do_not_wait_train_any_environment(kind, world):
    session = ClusterSession(ASYNCHRONOUS[kind].worker(), WORLDS[world](), [0], 400, "local", 2)
    state, reports = trained(session)
    assert state.steps.numbers[0] >= 400
    before = trained_not(ASYNCHRONOUS[kind].worker())
    assert not np.allclose(before, state.learner.params["policy_head"].weight[0])
    staleness = np.concatenate([report.metrics.column("staleness") for report in reports])
    assert staleness.min() >= 0
    assert 0 < np.median(staleness) < 4  # one batch of each worker is under way, and no more
    lengths = np.concatenate([report.episodes.length for report in reports])
    assert 0 < lengths.sum() <= 400 + 40


def test_an_environment_that_a_worker_cannot_make_says_why():
    here = os.getpid()

    def only_here() -> Any:
        if os.getpid() != here:
            raise RuntimeError("there is no display")
        return gymnasium.make("CartPole-v1")

    algorithm = ASYNCHRONOUS["impala"].worker()
    session = ClusterSession(algorithm, HostEnvironment(only_here), [0], 400, "local", 2)
    with pytest.raises(UserError, match="there is no display"):
        trained(session)


def trained_not(algorithm: Any) -> Any:
    from actorcritic.runners.host import begin

    return begin(algorithm, CartPole().spec, jax.random.key(0)).learner.params["policy_head"].weight


# ------------------------------------------------------------------------------- experiments


content = benchmark("cluster_experiment").content


def test_an_experiments_folders_come_back_as_they_would_be_here(tmp_path, monkeypatch):
    variants = ["a2c", "a2c:learning_rate=1e-3", "impala:lag=2"]
    options: dict[str, Any] = {"seeds": 2, "total_steps": 600, "quiet": True}
    ac.compare(variants, "CartPole-v1", out=tmp_path / "here", **options)
    there = tmp_path / "there"
    ac.compare(variants, "CartPole-v1", out=there, cluster="local", workers=2, **options)
    assert content(there / "variants") == content(tmp_path / "here" / "variants")

    # What is finished is kept; what was begun goes on. No task is needed for either.
    asked = []
    train = tasks.train_on_cluster
    monkeypatch.setattr(tasks, "train_on_cluster", lambda *given: asked.append(given))
    monkeypatch.setattr(together, "train_on_cluster", tasks.train_on_cluster)
    ac.compare(variants, "CartPole-v1", out=there, cluster="local", **options)
    assert not asked
    monkeypatch.setattr(together, "train_on_cluster", train)
    files.remove(there / "variants" / "02-impala-lag=2")
    ac.compare(variants, "CartPole-v1", out=there, cluster="local", **options)
    assert content(there / "variants") == content(tmp_path / "here" / "variants")


def test_an_experiment_from_data_is_the_same(tmp_path):
    run = ac.train(ac.A2C(**SMALL), CartPole(), total_steps=300, quiet=True)
    options: dict[str, Any] = {
        "data": ac.collect(run, 500),
        "seeds": 2,
        "total_steps": 60,
        "evaluation_episodes": 2,
        "quiet": True,
    }
    for place, more in (("here", {}), ("there", {"cluster": "local"})):
        ac.compare(["bc", "cql"], "CartPole-v1", out=tmp_path / place, **options, **more)
    assert content(tmp_path / "there" / "variants") == content(tmp_path / "here" / "variants")


def test_an_experiment_on_a_cluster_needs_a_folder():
    with pytest.raises(UserError, match="needs a folder"):
        ac.compare(["a2c"], "CartPole-v1", cluster="local", total_steps=100, quiet=True)


def test_an_address_at_which_nobody_is_is_named_at_once(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(UserError, match=r"No cluster answers at '127\.0\.0\.1:1'"):
        Cluster("127.0.0.1:1")
