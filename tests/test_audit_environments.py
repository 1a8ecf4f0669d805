"""The audit of environments: finds planted errors, leaves right ones alone, and advises."""

from __future__ import annotations

import random
from typing import Any

import audit_subjects_rollouts as subjects
import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from actorcritic.audit.environments.audit import check
from actorcritic.audit.findings import CannotCall
from actorcritic.envs import COMPILED

WRONG = {
    subjects.LimitTerminates: "time-limit-truncates",
    subjects.LimitIgnored: "time-limit-truncates",
    subjects.NotFinite: "observations-finite",
    subjects.RewardNotFinite: "rewards-finite",
    subjects.RewardArray: "rewards-finite",
    subjects.FlagsAsNumbers: "flags-are-booleans",
    subjects.ReusedArray: "observations-copied",
    subjects.GlobalGenerator: "same-seed-same-trajectory",
    subjects.GlobalPython: "same-seed-same-trajectory",
    subjects.SeedForgotten: "same-seed-same-trajectory",
    subjects.StateKept: "reset-clears-state",
    subjects.OutsideSpace: "observation-in-space",
    subjects.OutsideDiscrete: "observation-in-space",
    subjects.WrongShape: "observation-in-space",
    subjects.WrongType: "observation-dtype",
    subjects.OldStep: "step-answers",
    subjects.OldReset: "reset-answers",
    subjects.NoInfo: "step-answers",
    subjects.NoSpace: "spaces-declared",
    subjects.Raises: "step-answers",
    subjects.ResetWithoutSeed: "gymnasium-checker",
}
RIGHT = [
    subjects.Right,
    subjects.RightByWrapper.made,
    subjects.RightFixed,
    subjects.RightConstantLength,
    subjects.LimitBoth,
    subjects.GlobalSeeded,
    subjects.Endless,
    subjects.Scales,
    subjects.Unbounded,
]
IDS = [
    "CartPole-v1",
    "Acrobot-v1",
    "MountainCar-v0",
    "MountainCarContinuous-v0",
    "Pendulum-v1",
    "FrozenLake-v1",
    "Taxi-v4",
    "Blackjack-v1",
    "CliffWalking-v1",
    "LunarLander-v3",
    "BipedalWalker-v3",
    "Hopper-v5",
    "HalfCheetah-v5",
    "Swimmer-v5",
    "InvertedPendulum-v5",
]


@pytest.mark.parametrize("make", WRONG, ids=[make.__name__ for make in WRONG])
@pytest.mark.long
def test_planted_errors_are_found_by_name(make: Any) -> None:
    report = check(make)
    assert [found.check for found in report.failures] == [WRONG[make]], str(report)
    assert all(report.failures[0])
    assert WRONG[make] not in report.passed


@pytest.mark.parametrize("make", RIGHT, ids=[make.__qualname__ for make in RIGHT])
@pytest.mark.long
def test_right_environments_are_left_alone(make: Any) -> None:
    report = check(make)
    assert report.ok, str(report)
    assert "gymnasium-checker" in report.passed
    # Also as an instance, of which there is only one.
    assert check(make()).ok, str(report)


@pytest.mark.parametrize("id", IDS)
@pytest.mark.long
def test_known_environments_are_left_alone(id: str) -> None:
    try:
        report = check(id)
    except CannotCall as error:
        if "needs a package" not in str(error):
            raise
        pytest.skip(str(error))
    assert report.ok, str(report)
    assert {"same-seed-same-trajectory", "observations-copied"} <= set(report.passed)


@pytest.mark.parametrize("name", COMPILED)
def test_our_compiled_environments_are_left_alone(name: str) -> None:
    report = check(COMPILED[name]())
    assert report.ok, str(report)
    assert {"same-seed-same-trajectory", "reset-clears-state"} <= set(report.passed)


def said(report: Any) -> str:
    return "\n".join(report.choices)


@pytest.mark.long
def test_choices_and_advice() -> None:
    assert "terminated and truncated are both set" in said(check(subjects.LimitBoth))
    assert "different seeds give the same episode" in said(check(subjects.RightFixed))
    assert "every episode terminates after 10 steps" in said(check(subjects.RightConstantLength))
    assert "global generator np.random" in said(check(subjects.GlobalSeeded))
    endless = check(subjects.Endless)
    assert "there is no time limit" in said(endless)
    assert "time-limit-truncates: no episode ended" in endless.not_checked
    scales = said(check(subjects.Scales))
    assert "actions lie between 0 and 255" in scales
    assert "rewards are typically of size" in scales
    assert "standard deviation over 100 (number 0:" in scales
    assert "never change (number 1 is always 4)" in scales
    unbounded = said(check(subjects.Unbounded))
    assert "the action space is unbounded" in unbounded
    assert "the reward is always 1" in unbounded
    assert "Gymnasium's checker warns: A Box action space" in unbounded
    right = check(subjects.Right)
    assert not [text for text in right.choices if text.startswith("advice")], str(right)


def test_the_examples_are_in_numbers() -> None:
    (found,) = check(subjects.LimitTerminates).failures
    assert "max_steps = 12" in found.wrong
    assert "expected terminated = False, truncated = True" in found.example
    (found,) = check(subjects.GlobalGenerator).failures
    assert "global generator np.random" in found.wrong
    (found,) = check(subjects.OutsideSpace).failures
    assert "number [0]\nexpected -5 to 5, actual" in found.example


def test_the_generators_of_others_are_left_as_they_were() -> None:
    random.seed(3)
    np.random.seed(3)
    before = random.getstate(), np.random.get_state()[1].tobytes()  # type: ignore[index]
    check(subjects.GlobalGenerator)
    check(subjects.GlobalPython)
    assert before == (random.getstate(), np.random.get_state()[1].tobytes())  # type: ignore[index]


def test_what_cannot_be_made_is_said() -> None:
    with pytest.raises(CannotCall, match="No environment 'CartPol-v1'"):
        check("CartPol-v1")
    with pytest.raises(CannotCall, match="map"):
        check("CartPole-v1", mapping={"a": "b"})
    with pytest.raises(CannotCall, match="options"):
        check(subjects.Right(), gravity=1.0)
    with pytest.raises(CannotCall, match="could not be made"):
        check(subjects.Right, gravity=1.0)


def test_options_and_names_of_modules_reach_the_environment() -> None:
    assert check("Pendulum-v1", g=1.0).ok
    assert check("audit_subjects_rollouts:Right").ok
    with pytest.raises(CannotCall):
        check("audit_subjects_rollouts:Left")


# ------------------------------------------------------------------------------- many at once


@pytest.mark.parametrize("mode", AutoresetMode)
def test_vector_environments_in_each_mode_are_left_alone(mode: AutoresetMode) -> None:
    report = check(subjects.vector(mode))
    assert report.ok, str(report)
    assert {"autoreset-as-said", "observations-copied", "environments-seeded-apart"} <= set(
        report.passed
    )
    assert f"autoreset mode {mode.name}" in report.choices


def test_vector_environments_that_reset_otherwise_than_they_say_are_found() -> None:
    same, following = AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP
    for mode, told in ((same, following), (following, same)):
        report = check(subjects.vector(mode, told))
        assert [found.check for found in report.failures] == ["autoreset-as-said"], str(report)
    report = check(subjects.vector(said="by and by"))
    assert [found.check for found in report.failures] == ["autoreset-mode-said"], str(report)


@pytest.mark.long
def test_vector_environments_with_errors_within_are_found() -> None:
    for make, name in (
        (subjects.NotFinite, "observations-finite"),
        (subjects.RewardNotFinite, "rewards-finite"),
        (subjects.GlobalGenerator, "same-seed-same-start"),
        (subjects.OutsideSpace, "observation-in-space"),
    ):
        report = check(subjects.vector(make=make))
        assert [found.check for found in report.failures] == [name], str(report)
    assert "copy=False" in said(check(subjects.vector(copy=False)))
    assert "start alike" in said(check(subjects.vector(make=subjects.RightFixed)))
    made = gymnasium.make_vec("CartPole-v1", num_envs=2, vectorization_mode="sync")
    assert check(made).ok
