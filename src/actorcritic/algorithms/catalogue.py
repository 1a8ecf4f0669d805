"""The algorithms, by the name the command line knows them by."""

from __future__ import annotations

from typing import Any

from actorcritic.core import importing
from actorcritic.core.catalogue import Catalogue, Entry
from actorcritic.core.errors import UserError

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
        "a3c": Entry(f"{HERE}.a3c:A3C", "asynchronous workers, each with a snapshot of its own"),
        "impala": Entry(f"{HERE}.impala:IMPALA", "actors that are behind, and V-trace"),
        "ppo": Entry(f"{HERE}.ppo:PPO", "proximal policy optimisation: a clipped ratio, epochs"),
        "trpo": Entry(f"{HERE}.trpo:TRPO", "natural gradient steps of bounded KL divergence"),
        "mappo": Entry(f"{HERE}.mappo:MAPPO", "PPO for several agents, with a central critic"),
        "ippo": Entry(f"{HERE}.mappo:IPPO", "PPO for several agents, each with its own critic"),
        "sac": Entry(f"{HERE}.sac:SAC", "soft actor-critic: off-policy, for continuous actions"),
        "bc": Entry(f"{HERE}.bc:BC", "behaviour cloning, from a data set"),
        "iql": Entry(f"{HERE}.iql:IQL", "implicit Q-learning, from a data set"),
        "cql": Entry(f"{HERE}.cql:CQL", "conservative Q-learning, from a data set"),
    },
)

FROM_DATA = ("bc", "iql", "cql")  # whose steps are updates, from a data set


def find(name: str) -> Any:
    """The algorithm that a name or module:Name stands for, as it is without settings.

    Name is a class, or an object: an algorithm with a network of the user's, for instance.
    """
    place, _, rest = name.partition(":")
    if "=" in rest:
        raise UserError(
            f"'{name}' names settings as well. Here, name the algorithm alone, and each setting by "
            f"itself: {place} … --gamma 0.99 (Python: gamma=0.99)."
        )
    from actorcritic.core.hyperparameters import made
    from actorcritic.core.types import check_protocol

    if not rest:
        return ALGORITHMS.named(name)()
    found = importing.named(name)
    algorithm = made(found) if isinstance(found, type) else found
    check_protocol(algorithm)
    return algorithm
