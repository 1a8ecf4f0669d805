"""A seed that diverges is a result: it is marked as failed, and costs the others nothing."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import jax
import numpy as np
import pytest

import actorcritic as ac
from actorcritic import cli
from actorcritic.core.errors import UserError
from actorcritic.core.hyperparameters import hyperparameters
from actorcritic.envs import Pendulum
from actorcritic.experiments.search import Choice
from actorcritic.runs.run import read_run

QUICK: dict[str, Any] = {"evaluation_episodes": 4, "quiet": True}
TINY: dict[str, Any] = {"num_envs": 4, "num_steps": 16, "hidden_sizes": (8,)}


@hyperparameters
class Unlucky(ac.A2C):
    """A2C that diverges where the first action's sign is negative: on some seeds only."""

    def update(self, learner, batch, key, progress):
        learner, metrics = super().update(learner, batch, key, progress)
        lost = (progress > 0.4) & (learner.params["policy_head"].weight[0, 0] < 0)
        poison = jax.numpy.where(lost, np.nan, 1.0)
        params = jax.tree.map(lambda x: x * poison, learner.params)
        metrics = metrics | {"policy_loss": metrics["policy_loss"] * poison}
        return dataclasses.replace(learner, params=params), metrics


@pytest.fixture(scope="module", params=[False, True], ids=["compiled", "host"])
def some(request, tmp_path_factory):
    """A run of six seeds, some of which diverge."""
    out = tmp_path_factory.mktemp("some") / "run"
    host = request.param
    run = ac.train(
        Unlucky(**TINY), "Pendulum-v1", total_steps=1024, seeds=6, out=out, host=host, **QUICK
    )
    return run, host


@pytest.mark.long
def test_the_other_seeds_are_trained_and_evaluated(some):
    run, host = some
    assert run.finished
    assert 0 < len(run.failed) < 6
    for seed, why in run.failed.items():
        assert why.startswith(f"Seed {seed}: the training diverged")
    healthy = tuple(seed for seed in range(6) if seed not in run.failed)
    assert run.trained_seeds == run.final_evaluation.seeds == healthy
    assert run.final_evaluation.returns.shape == (len(healthy), 4)
    assert np.isfinite(run.final_evaluation.returns).all()
    for seed in healthy:  # bit for bit what it would have been alone
        alone = ac.train(
            Unlucky(**TINY), "Pendulum-v1", total_steps=1024, seed=seed, host=host, **QUICK
        )
        np.testing.assert_array_equal(
            alone.final_evaluation.returns[0],
            run.final_evaluation.returns[healthy.index(seed)],
        )
        break
    assert run.policy().spec.id == "Pendulum-v1"
    with pytest.raises(UserError, match="has no policy of this seed"):
        run.policy(next(iter(run.failed)))


def test_the_folder_remembers_it(some):
    run, _ = some
    again = read_run(run.out)
    assert again.finished
    assert again.failed == run.failed
    opened = ac.open_run(run.out, algorithm=Unlucky(**TINY))
    assert opened.evaluate(2).seeds == run.trained_seeds
    resumed = ac.resume(run.out, algorithm=Unlucky(**TINY), total_steps=1536, **QUICK)
    assert resumed.finished
    assert set(resumed.failed) >= set(run.failed)
    for seed in run.failed:
        rows = resumed.metrics.seed == seed
        assert resumed.metrics.step[rows].max() < 1536


def test_all_seeds_lost_ends_a_run_of_its_own(tmp_path):
    with pytest.raises(UserError, match="Training stopped: Seed"):
        ac.train(
            ac.A2C(**TINY, learning_rate=10.0, max_grad_norm=1e9, optimizer="sgd"),
            "Pendulum-v1",
            seeds=2,
            total_steps=8000,
            out=tmp_path / "run",
            **QUICK,
        )
    assert np.isfinite(ac.load(tmp_path / "run", seed=0)(np.zeros(3))).all()


VARIANTS = {
    "steady": ac.A2C(**TINY),
    "wild": ac.A2C(**TINY, learning_rate=10.0, max_grad_norm=1e9, optimizer="sgd"),
    "unlucky": Unlucky(**TINY),
}


@pytest.mark.parametrize("host", [False, True], ids=["compiled", "host"])
@pytest.mark.long
def test_a_comparison_trains_and_reports_the_rest(host, tmp_path):
    out = tmp_path / "compared"

    def compared() -> Any:
        return ac.compare(
            VARIANTS, "Pendulum-v1", total_steps=6000, seeds=4, out=out, host=host, **QUICK
        )

    comparison = compared()
    assert list(comparison.runs) == ["steady", "unlucky"]
    assert list(comparison.failed_runs) == ["wild"]
    lost = len(comparison.runs["unlucky"].failed)
    assert 0 < lost < 4
    said = f"Diverged, and not scored: unlucky on {lost} of 4 seeds and wild on 4 of 4 seeds."
    assert comparison.verdict.endswith(said)
    assert said in str(comparison)
    table = next(table for table in comparison.tables() if table.name == "failures")
    assert len(table.rows) == 4 + lost
    assert "wild" in (out / "report.html").read_text()
    data = json.loads((out / "report.json").read_text())
    assert len(data["failed"]["wild"]) == 4
    again = compared()  # nothing is trained again, and nothing is in the way
    np.testing.assert_array_equal(again.scores["steady"], comparison.scores["steady"])
    assert again.verdict == comparison.verdict
    assert cli.main(["report", str(out), "--out", str(tmp_path / "again.html")]) == 0


def test_a_comparison_in_which_everything_fails(tmp_path):
    with pytest.raises(
        UserError, match=r"every variant failed\. wild: Seed 0: the training diverged"
    ):
        ac.compare({"wild": VARIANTS["wild"]}, Pendulum(), total_steps=6000, seeds=3, **QUICK)


@pytest.mark.long
def test_a_sweep_goes_on_beside_a_trial_that_diverges(tmp_path):
    result = ac.sweep(
        ac.A2C(**TINY, max_grad_norm=1e9, optimizer="sgd"),
        "Pendulum-v1",
        space={"learning_rate": Choice((1e-5, 10.0))},
        trials=4,
        method="random",
        seeds=3,
        confirm_seeds=3,
        total_steps=6000,
        out=tmp_path / "sweep",
        **QUICK,
    )
    assert len(result.search.failed_runs) == 1  # the same points are drawn every time
    assert result.best == {"learning_rate": 1e-5}
    assert [row[2] for row in result.trials().rows][-1] == "failed"
