"""S10, quick: numbers against the truth, sentences against the numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from actorcritic.lab import Sycophancy
from actorcritic.studies import s10_from_a2c_to_rlhf as s10
from actorcritic.studies.bench import Result


def test_the_data_is_what_it_says() -> None:
    rng = np.random.default_rng(0)
    texts = s10.corpus(rng, 4_000)
    asked = [t for t in texts if t["prompt"] in s10.BY_PROMPT]
    kinds = np.bincount([s10.kind_of(t["prompt"], t["response"]) for t in asked], minlength=4)
    np.testing.assert_allclose(kinds[:3] / kinds.sum(), s10.WORLD.reference, atol=0.03)
    assert kinds[3] == 0
    claim = s10.CLAIMS[0]
    agree, correct, evade = claim.answers
    worth = s10.gold([claim.prompt] * 4, [agree, correct, evade, " something"])
    assert worth == [0.0, 1.0, -0.5, -1.0]
    assert s10.rated([claim.prompt] * 2, [agree, correct]) == [1.5, 1.0]
    assert all(s10.FACTS[c.thing] != c.colour for c in s10.CLAIMS)
    pairs = s10.preferences(rng, [claim.prompt] * 4_000, [agree] * 4_000, [correct] * 4_000)
    share = np.mean([pair["chosen"] == agree for pair in pairs])
    assert share == pytest.approx(1 / (1 + np.exp(-0.5)), abs=0.03)
    assert s10.preferences(rng, [claim.prompt], [agree], [agree]) == []


def check_the_study(found: Result, out: Path) -> None:
    """What the quick study found, and its page; `test_studies` carries it out."""
    numbers = found.answer.numbers
    assert numbers["formula"]["0.5"] == pytest.approx(Sycophancy().rate(0.5))
    row = numbers["exact"]["0.5"]
    assert row["PPO"].min() >= 0.95
    assert row["DPO"].min() >= 0.90
    reference, ppo = numbers["reference"], numbers["policies"]["PPO"]["0.5"]
    assert ppo["reward"].value > reference["reward"].value
    assert ppo["agree"].value > reference["agree"].value
    assert 0 < ppo["kl"].value < 3
    text = (out / "report.html").read_text()
    for part in (*found.answer.sentences[:2], "How often a false claim is agreed with"):
        assert part.split(":")[0][:60] in text
    assert (out / "ppo-0.5" / "report.html").exists()
    assert found.quick
