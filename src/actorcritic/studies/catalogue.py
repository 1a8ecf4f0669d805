"""The studies, by name."""

from __future__ import annotations

from actorcritic.core.catalogue import Catalogue, Entry

HERE = "actorcritic.studies"

STUDIES = Catalogue(
    "study",
    {
        "S1": Entry(
            f"{HERE}.s1_critic_against_reinforce",
            "REINFORCE, one-step actor-critic and A2C + GAE on CartPole-v1",
        ),
        "S2": Entry(
            f"{HERE}.s2_lambda_between_td_and_monte_carlo",
            "λ = 0, 0.95 and 1 on CartPole-v1",
        ),
        "S3": Entry(
            f"{HERE}.s3_pendulum_in_500_episodes",
            "Continuous A2C on Pendulum-v1, with gravity and without",
        ),
        "S4": Entry(
            f"{HERE}.s4_what_each_part_of_a2c_does",
            "Ablation of A2C on CartPole-v1: critic, n, entropy bonus, λ",
        ),
        "S5": Entry(
            f"{HERE}.s5_critic_against_exact_values",
            "A grid world, with and without a critic",
        ),
        "S6": Entry(f"{HERE}.s6_estimator_bias_and_variance", "Estimator bias and variance"),
        "S7": Entry(
            f"{HERE}.s7_log_density_of_squashed_actions",
            "The correction of squashed actions",
        ),
        "S8": Entry(
            f"{HERE}.s8_learning_from_recorded_episodes",
            "Behaviour cloning, CQL and IQL from data of three qualities",
        ),
        "S9": Entry(
            f"{HERE}.s9_stale_actors",
            "Actors that are behind, with V-trace and without, on CartPole-v1",
        ),
        "S10": Entry(
            f"{HERE}.s10_from_a2c_to_rlhf",
            "RLHF from nothing: reward model, PPO, DPO, sycophancy",
        ),
        "S11": Entry(
            f"{HERE}.s11_decisions_and_routing",
            "Which tool to call, and routing with a badly calibrated critic",
        ),
    },
)
