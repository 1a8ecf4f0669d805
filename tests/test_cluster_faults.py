"""A training or an experiment on a cluster whose parts are killed, stopped or taken away.

Each fault a few times; `benchmarks/cluster_faults.py` does each often, and measures it.
"""

from __future__ import annotations

import signal

import pytest
from command_line import benchmark

pytestmark = [pytest.mark.extras, pytest.mark.faults, pytest.mark.long]
pytest.importorskip("ray", reason="the extra ray is not installed")
faults = benchmark("cluster_faults")


def worker_faults(folder, algorithm, number, count):
    faults.workers(folder, algorithm, number, count, "a fault of a worker")


@pytest.mark.parametrize("algorithm", ["impala", "ppo"])
def test_a_worker_that_is_killed_is_replaced_and_no_update_is_lost(tmp_path, algorithm):
    worker_faults(tmp_path, algorithm, signal.SIGKILL, 3)


def test_a_worker_that_hangs_is_replaced(tmp_path):
    worker_faults(tmp_path, "impala", signal.SIGSTOP, 1)


def test_a_learner_that_is_killed_goes_on_from_its_checkpoint(tmp_path):
    faults.drivers(tmp_path, 1)


def test_ctrl_c_leaves_no_process(tmp_path):
    faults.interrupts(tmp_path, 1)


def test_a_node_that_leaves_a_training_costs_its_batch_alone(tmp_path):
    faults.a_node_leaves(tmp_path)


def test_a_node_that_leaves_an_experiment_costs_its_tasks_alone(tmp_path):
    faults.a_node_leaves_an_experiment(tmp_path)
