"""The algorithms, by the name the command line knows them by."""

from __future__ import annotations

from actorcritic.core.catalogue import Catalogue, Entry

HERE = "actorcritic.algorithms"

ALGORITHMS = Catalogue(
    "algorithm",
    {
        "reinforce": Entry(f"{HERE}.reinforce:Reinforce", "Monte Carlo returns, with a baseline"),
        "q-actor-critic": Entry(
            f"{HERE}.one_step:QActorCritic", "a critic of Q(s, a), step by step"
        ),
        "td-actor-critic": Entry(f"{HERE}.one_step:TDActorCritic", "the TD error, step by step"),
        "a2c": Entry(f"{HERE}.a2c:A2C", "advantage actor-critic: n steps, GAE(λ)"),
        "ppo": Entry(f"{HERE}.ppo:PPO", "proximal policy optimisation: a clipped ratio, epochs"),
        "trpo": Entry(f"{HERE}.trpo:TRPO", "natural gradient steps of bounded KL divergence"),
        "sac": Entry(f"{HERE}.sac:SAC", "soft actor-critic: off-policy, for continuous actions"),
    },
)
