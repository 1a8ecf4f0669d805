"""The audit of DPO's loss and of KL-shaped rewards: right functions pass, each mistake is named."""

from __future__ import annotations

from pathlib import Path

import audit_subjects_preferences as subjects
import pytest

from actorcritic import audit
from actorcritic.audit import CannotCall
from actorcritic.cli import main

FILE = Path(__file__).parent / "audit_subjects_preferences.py"

RIGHT = {
    "dpo": "dpo-loss",
    "dpo_jax": "dpo-loss",
    "ipo": "dpo-loss",
    "dpo_summed": "dpo-loss",
    "shaped": "token-rewards",
    "shaped_jax": "token-rewards",
}
WRONG = {
    "without_reference": "reference-used",
    "swapped": "chosen-over-rejected",
    "beta_outside": "beta-in-the-margin",
    "beta_ignored": "beta-in-the-margin",
    "beta_divides": "beta-in-the-margin",
    "no_logarithm": "log-of-sigmoid",
    "reference_added": "reference-subtracted",
    "reference_crossed": "reference-subtracted",
    "to_maximise": "loss-to-minimise",
    "something_else": "definition",
    "kl_added": "kl-is-a-cost",
    "coefficient_ignored": "kl-coefficient-used",
    "no_kl": "kl-used",
    "score_everywhere": "score-at-the-end",
    "score_in_padding": "score-at-the-end",
    "score_first": "score-at-the-end",
    "no_score": "score-used",
    "padding_pays": "padding-left-out",
    "kl_positive": "kl-estimate",
    "ratio_for_log_ratio": "kl-estimate",
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_functions_pass(name: str) -> None:
    report = audit.of(getattr(subjects, name))
    assert report.kind == RIGHT[name]
    assert report.ok, str(report)
    assert bool(report.choices) == (name in ("ipo", "dpo_summed"))
    assert report.passed


@pytest.mark.parametrize("name", WRONG)
def test_each_mistake_is_named(name: str) -> None:
    report = audit.of(getattr(subjects, name))
    assert [found.check for found in report.findings] == [WRONG[name]], str(report)
    assert "expected" in report.findings[0].example


def test_the_library_s_own() -> None:
    from actorcritic.language.dpo_on_pairs import DPO

    def loss(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta):  # type: ignore[no-untyped-def]
        margin = (chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps)
        return DPO(beta=beta).preference_loss(margin).mean()

    assert audit.dpo_loss(loss).ok


def test_what_lacks_a_part_is_not_called() -> None:
    with pytest.raises(CannotCall, match="takes rejected_log_probs too"):
        audit.dpo_loss(lambda chosen_logps, beta: chosen_logps)


def test_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", f"{FILE}:dpo"]) == 0
    assert main(["audit", f"{FILE}:swapped", "--kind", "dpo-loss"]) == 1
    assert "wrong way round" in capsys.readouterr().out
