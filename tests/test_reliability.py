"""A sample of each row of the reliability campaign, and that its rows can fail.

`python benchmarks/reliability.py` runs them in full; docs/reliability.md has what it found. Kills
of whole trainings are sampled in tests/test_cli.py, signals in tests/test_signals.py.
"""

from __future__ import annotations

import errno
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import benchmark

from actorcritic.runs import checkpoints

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="measures as Linux does"),
]


@pytest.fixture(scope="module")
def campaign() -> Any:
    return benchmark("reliability")


SAMPLES = {
    "bytes": 60,
    "strangers": 40,
    "data": 40,
    "workers": 3,
    "soak": 2_000_000,
    "ladder": 3,
}


@pytest.mark.parametrize("row", SAMPLES)
def test_a_sample_of_each_row_holds(row, campaign, tmp_path):
    run, _, _ = campaign.ROWS[row]
    found = run(SAMPLES[row], random.Random(0), tmp_path)
    assert found.broken == []
    assert found.tried >= min(SAMPLES[row], 50)


def states() -> list[Any]:
    return [{"w": np.full(2000, k, np.float32), "key": np.arange(k, k + 3)} for k in range(3)]


def test_a_save_that_fails_at_any_file_operation(campaign, tmp_path):
    found = campaign.Result()
    campaign.at_every_operation(found, "plain", states(), tmp_path, [None, errno.ENOSPC])
    assert found.broken == []
    assert found.tried > 20


def test_a_save_in_place_would_be_found(campaign, tmp_path, monkeypatch):
    """The rows are no use where they cannot fail: here one that writes over the older checkpoint,
    and one that does not look at what it reads."""

    def careless(folder, state, about, since=None):
        if about["update"] == 3:
            for file in sorted(Path(folder).rglob("*.safetensors")):
                file.unlink()
        return save(folder, state, about, since=since)

    save, found = checkpoints.save, campaign.Result()
    with monkeypatch.context() as patch:
        patch.setattr(campaign.checkpoints, "save", careless)
        with pytest.raises(campaign.UserError):
            campaign.at_every_operation(found, "careless", states(), tmp_path, [None])
    monkeypatch.setattr(checkpoints, "_verify", lambda file, written: None)
    assert campaign.every_byte(60, random.Random(0), tmp_path / "bytes").broken
