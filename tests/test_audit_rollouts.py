"""The audit of functions that collect batches: finds planted errors, leaves right ones alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import audit_subjects_rollouts as subjects
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from actorcritic.audit.findings import CannotCall
from actorcritic.audit.rollouts.audit import rollout
from actorcritic.core.types import Algorithm, Collects, Decision, Extras, Transition
from actorcritic.envs.host.environment import HostEnvironment
from actorcritic.runners.host import HostSession

RIGHT = {
    subjects.next_step_masked: "NEXT_STEP yes",
    subjects.next_step_transitions: "one flag for both ends",
    subjects.same_step: "SAME_STEP yes",
    subjects.disabled: "DISABLED yes",
    subjects.single_loop: "",
    subjects.one_episode: "one flag for both ends",
    subjects.from_factory: "",
    subjects.continues: "NEXT_STEP yes",
    subjects.flat_off_policy: "NEXT_STEP yes",
    subjects.clipped_well: "",
    subjects.reward_bootstrapped: "r + 0.9 V(last observation)",
    subjects.off_policy: "done means terminated",
    subjects.starts_and_bootstrapped_rewards: "a flag says that the row begins an episode",
    subjects.one_observation_more: "DISABLED yes",
    subjects.transitions_one_by_one: "done means terminated",
    subjects.many_episodes: "done-in-its-row: the batch has no flags",
    subjects.Collector().collect: "self.n_steps",
}
WRONG = {
    subjects.reset_rows_kept: "reset-rows-dropped",
    subjects.reset_rows_kept_without_successors: "reset-rows-dropped",
    subjects.cleanrl_arrays: "reset-rows-dropped",
    subjects.successor_after_reset: "final-observation-kept",
    subjects.single_successor_after_reset: "final-observation-kept",
    subjects.next_value_after_reset: "final-observation-kept",
    subjects.last_value_after_reset: "final-observation-kept",
    subjects.reward_bootstrapped_after_reset: "final-observation-kept",
    subjects.aliased: "observations-copied",
    subjects.observation_never_replaced: "observation-in-its-row",
    subjects.seeded_alike: "environments-seeded-apart",
    subjects.factory_seeded_alike: "environments-seeded-apart",
    subjects.seeded_at_every_episode: "environments-seeded-apart",
    subjects.clipped_action_stored: "action-as-drawn",
    subjects.done_one_late: "done-in-its-row",
    subjects.done_one_early: "done-in-its-row",
    subjects.dones_one_late: "done-in-its-row",
    subjects.truncation_merged: "truncation-told-apart",
    subjects.terminated_means_done: "truncation-told-apart",
    subjects.truncation_lost: "truncation-told-apart",
    subjects.rewards_one_late: "reward-in-its-row",
    subjects.rewards_one_early: "reward-in-its-row",
    subjects.rewards_swapped: "axes-agree",
    subjects.flattened_apart: "axes-agree",
    subjects.reshaped: "axes-agree",
    subjects.ends_lost: "no-step-lost",
    subjects.episode_without_its_end: "no-step-lost",
    subjects.end_row_left_out: "no-step-lost",
    subjects.never_resets: "reset-after-end",
    subjects.resets_all: "only-ended-episodes-reset",
    subjects.action_of_the_next_step: "action-in-its-row",
    subjects.observation_of_the_next_step: "observation-in-its-row",
    subjects.acts_on_the_last_of_the_old: "acts-on-current-observation",
    subjects.log_probs_one_late: "log-prob-in-its-row",
}
DECLARED = {  # the mode, which some cannot show by what they do
    subjects.never_resets: "disabled",
}


def names(functions: Any) -> list[str]:
    return [f.__name__ if f.__name__ != "collect" else "shifted" for f in functions]


@pytest.mark.parametrize("function", RIGHT, ids=names(RIGHT))
def test_right_functions_are_left_alone(function: Any) -> None:
    report = rollout(function)
    assert report.ok, str(report)
    assert RIGHT[function] in str(report)
    assert {"reward-in-its-row", "action-in-its-row", "observations-copied"} <= set(report.passed)


@pytest.mark.parametrize("function", WRONG, ids=names(WRONG))
def test_planted_errors_are_found_by_name(function: Any) -> None:
    report = rollout(function, autoreset=DECLARED.get(function))
    assert [found.check for found in report.failures] == [WRONG[function]], str(report)
    assert all(report.failures[0])
    assert WRONG[function] not in report.passed


def test_cleanrl_arrays_are_right_in_the_mode_they_are_made_for() -> None:
    report = rollout(subjects.cleanrl_arrays, autoreset="same_step")
    assert report.ok, str(report)
    assert "a flag says that the row begins an episode" in str(report)
    assert {"done-in-its-row", "log-prob-in-its-row", "value-in-its-row"} <= set(report.passed)


@pytest.mark.parametrize("function", [subjects.not_copied, subjects.not_copied_vector])
def test_arrays_have_to_be_copied_where_environments_reuse_them(function: Any) -> None:
    by_default = rollout(function)
    assert by_default.ok, str(by_default)
    assert "kept without a copy" in str(by_default)
    (found,) = rollout(function, reused_buffers=True).failures
    assert found.check == "observations-copied"


def test_what_a_mode_would_do_is_told() -> None:
    report = rollout(subjects.next_step_masked)
    (modes,) = (text for text in report.choices if text.startswith("autoreset"))
    assert "SAME_STEP no (" in modes
    assert "final-observation-kept" in modes
    assert "DISABLED no (never resets)" in modes
    # The modes that are handled by what is looked up there, and by what is done there.
    assert "judged in SAME_STEP" in str(rollout(subjects.same_step))
    assert "DISABLED yes" in str(rollout(subjects.disabled))
    report = rollout(subjects.same_step, autoreset="next_step")
    assert [found.check for found in report.failures] == ["reset-rows-dropped"]


def test_the_smallest_case_is_told_in_numbers() -> None:
    found = rollout(subjects.single_successor_after_reset).failures[0]
    assert "environment 3, episode 2, time 2, cut by the time limit" in found.example
    assert "(3, 2, 3), the last observation of episode 2" in found.example
    assert "(3, 3, 0), the first of episode 3" in found.example
    found = rollout(subjects.rewards_one_late).failures[0]
    assert "one row late" in found.wrong
    assert "environment 3, episode 1, time 0\nexpected reward 3001, actual" in found.example


def test_names_can_be_mapped() -> None:
    def collect(world: Any, chooser: Any, rows: int) -> Any:
        batch = subjects.single_loop(world, chooser, rows)
        return {"seen" if k == "observations" else k: x for k, x in batch.items()}

    mapping = {"world": "env", "chooser": "policy", "rows": "num_steps"}
    with pytest.raises(CannotCall, match="no observations"):
        rollout(collect, mapping=mapping)
    assert rollout(collect, mapping=mapping | {"seen": "observations"}).ok


def test_what_cannot_be_called_is_said() -> None:
    with pytest.raises(CannotCall, match="KeyError: 'no table'"):
        rollout(subjects.raises)
    with pytest.raises(CannotCall, match="rewards"):
        rollout(subjects.no_environment)
    with pytest.raises(CannotCall, match="same_step"):
        rollout(subjects.same_step, autoreset="sometimes")
    with pytest.raises(CannotCall, match="no option layout"):
        rollout(subjects.same_step, layout="TB")


# ------------------------------------------------------------------------------- ours


@jax.tree_util.register_static
@dataclass(frozen=True, eq=False)
class Scripted(Algorithm):
    """Acts as it is told; what it has learned is its last batch."""

    policy: Any
    num_envs: int
    num_steps: int
    name: ClassVar[str] = "scripted"

    @property
    def collects(self) -> Collects:
        return Collects(self.num_envs, self.num_steps)

    def _told(self, observation: Any) -> Any:
        action, log_prob, _ = self.policy(np.asarray(observation))
        return action.astype(np.float32 if action.ndim > 1 else np.int32), log_prob

    def init(self, key: Any, spec: Any) -> Any:
        lead = (self.num_steps, self.num_envs)
        kind = jnp.float32 if spec.action_space.shape else jnp.int32
        observation, flags = jnp.zeros((*lead, 4)), jnp.zeros(lead, bool)
        action = jnp.zeros((*lead, *spec.action_space.shape), kind)
        zeros = jnp.zeros(lead)
        extras = Extras(log_prob=zeros)
        return Transition(observation, action, zeros, flags, flags, observation, extras, flags)

    def actor(self, learner: Any) -> Any:
        return learner.action[0]

    def act(self, actor: Any, observation: Any, key: Any, *, explore: bool = True) -> Decision:
        lead = jax.ShapeDtypeStruct(actor.shape[:1], jnp.float32)
        shapes = [jax.ShapeDtypeStruct(actor.shape, actor.dtype), lead]
        action, log_prob = jax.pure_callback(self._told, shapes, observation)
        return Decision(action, Extras(log_prob=log_prob))

    def update(self, learner: Any, batch: Any, key: Any, progress: Any) -> Any:
        every = jnp.ones_like(batch.terminated)
        valid = every if batch.valid is None else batch.valid
        return batch._replace(valid=valid), {"progress": progress}


def our_runner(envs: Any, policy: Any, num_steps: int, seed: int) -> Any:
    """One batch of the host runner."""
    algorithm = Scripted(policy, envs.num_envs, num_steps)
    session = HostSession(algorithm, HostEnvironment(envs), [seed], total_steps=1)
    session.advance(0.0)
    batch = jax.tree.map(lambda x: np.asarray(x[0]), session.state.learner)
    return batch._asdict() | {"log_probs": batch.extras.log_prob}


def test_our_host_runner_collects_what_happened_in_all_modes() -> None:
    report = rollout(our_runner)
    assert report.ok, str(report)
    (modes,) = (text for text in report.choices if text.startswith("autoreset"))
    assert "NEXT_STEP yes; SAME_STEP yes; DISABLED yes" in modes
    expected = "reset-rows-dropped final-observation-kept action-as-drawn observations-copied"
    assert set(expected.split()) <= set(report.passed)
