"""Critics: exact ones, and ones whose error is known."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from actorcritic.core.errors import UserError
from actorcritic.lab.exact import values
from actorcritic.lab.process import MDP


@dataclass(frozen=True, eq=False)
class Critic:
    """V̂(s) = `table[s]`, plus a normal error of deviation `std`, drawn anew for every occurrence.

    An occurrence is a moment of a trajectory: V̂(s_{t+1}) is the same number as the successor of
    step t and as the state of step t + 1. Terminal states have no value, whatever `table` says.
    """

    table: Float[np.ndarray, " S"]
    std: float = 0.0

    def shifted(self, bias: float) -> Critic:
        """Wrong by the same amount in every state."""
        return dataclasses.replace(self, table=self.table + bias)

    def scaled(self, factor: float) -> Critic:
        """Miscalibrated: every value times `factor`."""
        return dataclasses.replace(self, table=self.table * factor)

    def perturbed(self, std: float, rng: np.random.Generator) -> Critic:
        """With an error for each state, drawn once."""
        return dataclasses.replace(self, table=self.table + std * rng.normal(size=len(self.table)))

    def noisy(self, std: float) -> Critic:
        """With an error that is drawn anew for every occurrence."""
        if std < 0:
            raise UserError("A critic's std must not be negative.")
        return dataclasses.replace(self, std=float(std))


def exact_critic(mdp: MDP, policy: Float[np.ndarray, "S A"]) -> Critic:
    return Critic(values(mdp, policy))


def constant_critic(mdp: MDP, value: float = 0.0) -> Critic:
    return Critic(np.full(mdp.states, float(value)))
