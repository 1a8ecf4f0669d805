"""The enumerated world against definitions written out, and PPO and DPO against it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actorcritic import UserError
from actorcritic.lab import ResponseWorld, Sycophancy, best_of_n_kl_bound, random_world
from actorcritic.lab.responses import policy_gradient
from actorcritic.language import enumerated
from actorcritic.studies.s10_from_a2c_to_rlhf import exact_dpo, exact_ppo

BETAS = (1.0, 0.5, 0.2, 0.1)


def small(seed: int = 0, **sizes: int) -> ResponseWorld:
    return random_world(np.random.default_rng(seed), **{"prompts": 2, **sizes})  # type: ignore[arg-type]


def probability(world: ResponseWorld, prompt: int, response: tuple[int, ...]) -> float:
    """π_ref of a response, token by token as the words say."""
    product = 1.0
    for t, token in enumerate(response):
        place = world.prefixes.index(response[:t])
        product *= world.reference[prompt, place, token]
    return product


def test_every_response_is_there_once_and_probabilities_sum_to_one() -> None:
    world = small(vocabulary=3, longest=2)
    assert set(world.responses) == {(0,), (1, 0), (2, 0), *itertools.product((1, 2), repeat=2)}
    assert len(set(world.responses)) == len(world.responses)
    expected = [[probability(world, p, y) for y in world.responses] for p in range(2)]
    np.testing.assert_allclose(np.exp(world.reference_log_probs), expected, rtol=1e-12)
    np.testing.assert_allclose(np.sum(expected, 1), 1.0, rtol=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0.05, 5.0))
def test_no_other_distribution_has_a_higher_objective(seed: int, beta: float) -> None:
    world = small(seed, vocabulary=3, longest=2)
    best = world.best(beta)
    assert world.objective(best, beta) == pytest.approx(world.best_objective(beta), abs=1e-9)
    rng = np.random.default_rng(seed)
    for scale in (0.01, 1.0):
        other = best * np.exp(scale * rng.normal(size=best.shape))
        other /= other.sum(1, keepdims=True)
        assert world.objective(other, beta) < world.best_objective(beta)
    assert world.share(np.exp(world.reference_log_probs), beta) == pytest.approx(0, abs=1e-12)


def test_the_objective_is_its_definition() -> None:
    world = small()
    policy = world.best(0.3)
    total = 0.0
    for p, y in itertools.product(range(2), range(len(world.responses))):
        reference = probability(world, p, world.responses[y])
        kl = math.log(policy[p, y] / reference)
        total += 0.5 * policy[p, y] * (world.reward[p, y] - 0.7 * kl)
    assert world.objective(policy, 0.7) == pytest.approx(total, rel=1e-10)


def test_a_policy_of_tokens_has_the_distribution_it_was_made_of() -> None:
    world = small()
    best = world.best(0.2)
    np.testing.assert_allclose(np.exp(world.log_probs(world.conditionals(best))), best, atol=1e-12)


def test_best_of_n_is_what_drawing_n_gives() -> None:
    world = small(vocabulary=2, longest=2, prompts=1)
    reference = np.exp(world.reference_log_probs)[0]
    n, expected = 3, np.zeros(len(reference))
    for drawn in itertools.product(range(len(reference)), repeat=n):
        best = max(drawn, key=lambda y: world.reward[0, y])
        expected[best] += np.prod(reference[list(drawn)])
    np.testing.assert_allclose(world.best_of(n)[0], expected, atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 5, 50])
def test_the_kl_of_best_of_n_keeps_below_its_bound(n: int) -> None:
    for seed in range(5):
        world = small(seed)
        assert -1e-12 <= world.kl(world.best_of(n)) <= best_of_n_kl_bound(n) + 1e-12


def test_equal_rewards_share_by_the_reference() -> None:
    world = Sycophancy(quality=(0.0, 0.0, 0.0), bonus=0.0).world
    np.testing.assert_allclose(world.best_of(7)[0], [0.35, 0.5, 0.15], atol=1e-12)


def test_preferences_follow_bradley_and_terry() -> None:
    world = Sycophancy().world
    pairs = world.sample_pairs(40_000, np.random.default_rng(1))
    mine = np.array([{c, r} == {0, 1} for c, r in zip(*pairs[1:], strict=True)])
    share = (pairs.chosen[mine] == 0).mean()
    expected = 1 / (1 + math.exp(-(1.5 - 1.0)))
    assert share == pytest.approx(expected, abs=4 * math.sqrt(0.25 / mine.sum()))
    assert (pairs.chosen != pairs.rejected).all()


def test_a_baseline_of_the_prompt_has_no_gradient_and_a_penalty_of_the_answer_has() -> None:
    policy = np.array([0.35, 0.5, 0.15])
    np.testing.assert_allclose(policy_gradient(policy, np.full(3, 11.0)), 0, atol=1e-14)
    penalty = policy_gradient(policy, np.array([-1.0, 0.0, 0.0]))
    assert penalty[0] < -0.1
    # By the definition: Σ_y π(y) w(y) (e_y - π).
    expected = sum(
        p * w * (np.eye(3)[i] - policy)
        for i, (p, w) in enumerate(zip(policy, [-1.0, 0.0, 0.0], strict=True))
    )
    np.testing.assert_allclose(penalty, expected, atol=1e-15)


def test_sycophancy_has_its_published_figures() -> None:
    assert [f"{Sycophancy().rate(beta):.2f}" for beta in (1.0, 0.5, 0.2)] == [
        "0.52",
        "0.65",
        "0.90",
    ]
    against = [Sycophancy(penalty=1.5).rate(beta) for beta in (1.0, 0.5, 0.2)]
    assert [round(against[0], 2), round(against[1], 3), round(against[2], 3)] == [
        0.19,
        0.085,
        0.005,
    ]
    # Neither a large β nor a small one takes the rate under that of the reference.
    assert all(Sycophancy().rate(beta) > 0.35 for beta in np.geomspace(0.02, 1e4, 40))
    # A baseline of the question changes no rate at all.
    assert Sycophancy(baseline=3.0).rate(0.3) == pytest.approx(Sycophancy().rate(0.3), rel=1e-12)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"reference": np.ones((1, 1))}, "shape"),
        ({"reward": np.zeros((2, 3))}, "needs reference"),
        ({"longest": 0}, "longest"),
        ({"end": 9}, "end is a token"),
    ],
)
def test_what_is_no_world_is_refused(change: dict[str, object], said: str) -> None:
    world = small()
    given = {"reference": world.reference, "reward": world.reward, "longest": world.longest}
    with pytest.raises(UserError, match=said):
        ResponseWorld(**(given | change))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="β"):
        world.best(0.0)


@pytest.mark.long
@pytest.mark.parametrize("beta", BETAS)
def test_ppo_comes_to_the_best_policy(beta: float) -> None:
    world = small()
    shares = [world.share(d, beta) for d in enumerated.train_ppo(world, exact_ppo(beta), range(5))]
    assert min(shares) >= 0.95


@pytest.mark.long
@pytest.mark.parametrize("beta", BETAS)
def test_dpo_comes_near_it_from_twenty_thousand_preferences(beta: float) -> None:
    world = small()
    pairs = [world.sample_pairs(20_000, np.random.default_rng(seed)) for seed in range(5)]
    found = enumerated.train_dpo(world, exact_dpo(beta), pairs, range(5))
    assert np.median([world.share(d, beta) for d in found]) >= 0.90


@pytest.mark.long
@pytest.mark.parametrize("penalty", [0.0, 1.5])
@pytest.mark.parametrize("beta", [1.0, 0.5, 0.2])
def test_ppo_agrees_as_often_as_the_formula_says(beta: float, penalty: float) -> None:
    world = Sycophancy(penalty=penalty)
    found = enumerated.train_ppo(world.world, exact_ppo(beta), range(5))[:, 0, 0]
    np.testing.assert_allclose(found, world.rate(beta), atol=0.02)
