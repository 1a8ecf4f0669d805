"""PettingZoo on the host: what an agent sees and gains, who is there, and what is refused."""

from __future__ import annotations

from typing import Any

import agents_environments as subjects
import jax
import numpy as np
import pytest
from mpe2 import simple_speaker_listener_v4, simple_spread_v3

import actorcritic as ac
from actorcritic.audit.environments.audit import check as audit
from actorcritic.core.errors import UserError
from actorcritic.core.types import Agent, Transition
from actorcritic.envs.columns import AGENT, OWN
from actorcritic.envs.host.environment import HostEnvironment
from actorcritic.envs.pettingzoo import Several
from actorcritic.maths.spaces import GLOBAL, MASK
from actorcritic.runners.collector import Collector
from actorcritic.runners.evaluate import Policy, evaluate_host
from actorcritic.runners.host import HostSession

SMALL: dict[str, Any] = {"num_minibatches": 1, "num_epochs": 1, "hidden_sizes": (4,)}


def collected(environment: HostEnvironment, steps: int, envs: int = 1, **options: Any) -> Any:
    """A batch with random actions, and the episodes that ended in it."""
    algorithm = ac.MAPPO(num_envs=envs, num_steps=steps, **SMALL, **options)
    environment.check()
    learner = algorithm.init(jax.random.key(0), environment.spec)
    collector = Collector(algorithm, environment, algorithm.actor(learner))
    try:
        collector.start(0)
        keys = jax.random.split(jax.random.key(1), algorithm.collects.longest(environment.spec))
        batch, ended = collector.collect(algorithm.actor(learner), keys)
        return jax.tree.map(np.array, batch), ended
    finally:
        collector.close()


def rows(batch: Transition) -> list[tuple]:
    """(agent, episode, time, reward, terminated, truncated, time after) of each valid row."""
    assert batch.valid is not None
    found = []
    for t, b in np.argwhere(batch.valid).tolist():
        seen = batch.observation[OWN][t, b]
        after = batch.next_observation[OWN][t, b]
        flags = bool(batch.terminated[t, b]), bool(batch.truncated[t, b])
        found.append((*seen.astype(int), float(batch.reward[t, b]), *flags, int(after[2])))
    return found


def expected(episodes: int, first: int) -> set[tuple]:
    """What `Relay` gives in so many episodes, the first of which has this number."""
    found = set()
    for episode in range(first, first + episodes):
        for agent, times in ((0, (0, 1, 2, 3)), (1, (0, 1)), (2, (1, 2, 3))):
            for time in times:
                dies = agent == 1 and time == 1
                over = time == 3
                flags = dies or (over and episode % 2 == 0), over and episode % 2 == 1
                found.add(
                    (agent, episode, time, 100.0 * agent + 10 * episode + time, *flags, time + 1)
                )
    return found


@pytest.mark.parametrize("mode", ["disabled", "same_step", "next_step"])
def test_agents_that_come_and_go(mode: Any) -> None:
    environment = HostEnvironment(subjects.Relay, autoreset=mode)
    batch, ended = collected(environment, 12)
    found = rows(batch)
    assert set(found) == expected(3, found[0][1])
    assert len(found) == len(set(found))
    assert int(batch.steps(3)) == 12
    assert [one.length for one in ended] == [4, 4, 4]
    first = found[0][1]
    for k, one in enumerate(ended):
        bonus = 10 * (first + k)
        each = (0 + 1 + 2 + 3 + 4 * bonus, 201 + 2 * bonus, 606 + 3 * bonus)
        assert one.episode_return == pytest.approx(np.mean(each))


def test_whole_episodes() -> None:
    batch, ended = collected(HostEnvironment(subjects.Relay), 6, whole_episodes=True)
    found = rows(batch)
    assert set(found) == expected(1, found[0][1])
    assert [one.length for one in ended] == [4]


@pytest.mark.long
def test_workers_give_the_same() -> None:
    results = []
    for kind in ("sync", "async"):
        environment = HostEnvironment("agents_environments:Steady", vectorization=kind)  # type: ignore[arg-type]
        results.append(collected(environment, 8, envs=2))
    (one, ended), (other, also) = results
    assert [(e.episode_return, e.length) for e in ended] == [
        (e.episode_return, e.length) for e in also
    ]
    np.testing.assert_array_equal(one.reward, other.reward)
    np.testing.assert_array_equal(
        one.observation[OWN][..., [0, 2]], other.observation[OWN][..., [0, 2]]
    )


def test_columns_hold_what_mpe2_gives() -> None:
    """The same seed and actions: every number of a batch, and of the critic's state."""
    batch, _ = collected(HostEnvironment("pettingzoo:mpe2.simple_spread_v3"), 30)
    environment = simple_spread_v3.parallel_env()
    observations, _ = environment.reset(seed=0)
    for t in range(25):
        state = environment.state()
        for k, name in enumerate(environment.possible_agents):
            np.testing.assert_array_equal(batch.observation[OWN][t, k], observations[name])
            np.testing.assert_array_equal(batch.observation[GLOBAL][t, k], state)
            assert batch.observation[AGENT][t, k] == k
        actions = {f"agent_{k}": int(batch.action[t, k]) for k in range(3)}
        observations, rewards, _, truncated, _ = environment.step(actions)
        np.testing.assert_allclose(batch.reward[t], list(rewards.values()), rtol=1e-6)
        assert not batch.terminated[t].any()
        assert batch.truncated[t].tolist() == list(truncated.values())
    after = np.stack([observations[name] for name in environment.possible_agents])
    np.testing.assert_array_equal(batch.next_observation[OWN][24], after)
    assert batch.valid is not None
    assert batch.valid.all()


def test_agents_that_act_in_turns_are_made_parallel() -> None:
    environment = HostEnvironment(simple_spread_v3.env)
    assert environment.spec.agents == tuple(Agent(f"agent_{k}", "agent") for k in range(3))
    batch, _ = collected(environment, 4)
    assert np.isfinite(batch.reward).all()


def test_agents_that_differ_are_padded_and_masked() -> None:
    environment = HostEnvironment(subjects.Uneven)
    spec: Any = environment.spec
    assert [agent.features for agent in spec.agents] == [1, 2, 3]
    assert [agent.actions for agent in spec.agents] == [2, 3, 4]
    batch, _ = collected(environment, 8)  # which asserts that actions are each agent's own
    np.testing.assert_array_equal(
        batch.observation[OWN][0], [[0.5, 0, 0], [0.5, 0.5, 0], [0.5] * 3]
    )
    np.testing.assert_array_equal(batch.observation[MASK][0], [[1, 1, 0, 0], [1, 1, 1, 0], [1] * 4])
    # Without `state()`, the critic sees all observations side by side.
    np.testing.assert_array_equal(batch.observation[GLOBAL][0, 0], [0.5] * 6)


def test_evaluation_tells_each_agents_return() -> None:
    environment, algorithm = HostEnvironment(subjects.Relay), ac.MAPPO(**SMALL)
    learner = algorithm.init(jax.random.key(0), environment.spec)
    actors = jax.tree.map(lambda x: x[None], algorithm.actor(learner))
    found = evaluate_host(algorithm, environment, 2, False, actors, [0])
    assert found.agents.shape == (1, 2, 3)
    np.testing.assert_allclose(found.returns, found.agents.mean(axis=-1))
    np.testing.assert_array_equal(np.diff(found.agents[0, :, 0]) % 10, 0)
    assert found.lengths.tolist() == [[4, 4]]


def test_a_policy_acts_in_the_environment_itself() -> None:
    environment = HostEnvironment(simple_speaker_listener_v4.parallel_env)
    algorithm = ac.MAPPO(**SMALL)
    learner = algorithm.init(jax.random.key(0), environment.spec)
    policy = Policy(algorithm, algorithm.actor(learner), environment.spec)
    world = simple_speaker_listener_v4.parallel_env()
    observations, _ = world.reset(seed=0)
    steps = 0
    while world.agents:
        actions = policy(observations, deterministic=False)
        assert all(world.action_space(name).contains(int(a)) for name, a in actions.items())
        observations, *_ = world.step(actions)
        steps += 1
    assert steps == 25


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        (subjects.NoSpace, "no observation space for agent 'runner_2'"),
        (subjects.NotANumberAtOnce, "for agent 'runner_2' is not finite"),
        (subjects.RewardNotANumber, "reward inf for agent 'runner_1'"),
        (subjects.Unannounced, "agent 'stranger', which is not among possible_agents"),
        (subjects.Silent, "rewards of 2 agents where 3 had acted: runner_1 is missing"),
        (subjects.Longer, "agent 'runner_1' is not of its space"),
        (subjects.Returning, "'runner_1' had ended its episode, and appeared again"),
        (subjects.OldGym, "expected five dicts by agent"),
        (subjects.Mixed, "'runner_0' .* and 'runner_1' .* differ in their actions"),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_what_is_refused(environment: Any, wanted: str) -> None:
    with pytest.raises(UserError, match=wanted):
        HostEnvironment(environment).check()


def test_a_number_that_becomes_none_is_told_with_its_agent() -> None:
    with pytest.raises(UserError, match=r"not finite .* at step 3 .* agent 'runner_1'"):
        collected(HostEnvironment(subjects.NotANumber), 6)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("pettingzoo:json", "neither `parallel_env` nor `env`"),
        ("pettingzoo:no_such_module", "no module 'no_such_module'"),
    ],
)
def test_modules_that_are_none(name: str, wanted: str) -> None:
    with pytest.raises(UserError, match=wanted):
        HostEnvironment(name)


def test_what_a_module_makes() -> None:
    environment = HostEnvironment("pettingzoo:agents_environments")
    assert len(environment.spec.agents) == 3
    assert isinstance(environment.make_single(), Several)


WRONG = {
    subjects.NoSpace: "spaces-declared",
    subjects.NotANumber: "observations-finite",
    subjects.NotANumberAtOnce: "observations-finite",
    subjects.RewardNotANumber: "rewards-finite",
    subjects.Unannounced: "agents-announced",
    subjects.Silent: "every-agent-answers",
    subjects.Longer: "observation-in-space",
    subjects.Returning: "agents-stay-out",
    subjects.OldGym: "step-answers",
    subjects.Unreproducible: "same-seed-same-trajectory",
    subjects.Reused: "observations-copied",
}


@pytest.mark.parametrize("environment", WRONG)
def test_the_audit_finds(environment: Any) -> None:
    report = audit(environment)
    assert WRONG[environment] in [finding.check for finding in report.failures], str(report)


@pytest.mark.parametrize("environment", [subjects.Uneven, simple_spread_v3.parallel_env])
def test_the_audit_leaves_right_ones_alone(environment: Any) -> None:
    report = audit(environment)
    assert report.ok, str(report)


def test_the_audit_advises_of_time_limits() -> None:
    advice = " ".join(audit(subjects.TimeLimitTerminates).choices)
    assert "every episode terminates after 4 steps" in advice
    assert "terminates" not in " ".join(audit(subjects.Uneven).choices)


@pytest.mark.long
def test_a_training_on_the_host() -> None:
    session = HostSession(
        ac.MAPPO(num_envs=2, num_steps=10, **SMALL),
        HostEnvironment(subjects.Relay),
        [0],
        40,
    )
    while not session.finished:
        session.advance(5.0)
    assert session.steps.tolist() == [40]
    session.close()
