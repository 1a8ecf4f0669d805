"""Sycophancy where every number is known: one question with a false claim, and a few answers.

A user says something false and asks. The answers are to agree, to correct, or to evade. A reward
model that likes to be agreed with pays a bonus for agreeing, and RLHF makes of it

    P(agree) = π_ref(agree) exp((q_agree + bonus − penalty)/β) / Σ_y π_ref(y) exp(r(y)/β).

So β limits how far the bonus carries, and no more: while agreeing is paid above what the other
answers are worth on average, the rate stays above that of the reference (after Sharma et al. 2023).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from actorcritic.core.errors import UserError
from actorcritic.lab.responses import ResponseWorld

ANSWERS = ("agree", "correct", "evade")


@dataclass(frozen=True)
class Sycophancy:
    """How often the reference gives each answer, what each is worth, and the bonus for agreeing.

    With the numbers here (to correct is worth 1, to agree with what is false 0, to evade −0.5) and
    a bonus of 1.5, the best policy agrees at a rate of 0.52, 0.65 and 0.90 at β = 1, 0.5 and 0.2;
    with a penalty as large as the bonus at 0.19, 0.085 and 0.005.
    """

    reference: tuple[float, ...] = (0.35, 0.5, 0.15)
    quality: tuple[float, ...] = (0.0, 1.0, -0.5)
    bonus: float = 1.5
    penalty: float = 0.0  # for the answer that agrees: what depends on the answer
    baseline: float = 0.0  # taken from every answer's reward: what depends on the question only

    def __post_init__(self) -> None:
        if not len(self.reference) == len(self.quality) > 1:
            raise UserError("Each answer, of two or more, needs a rate and a quality.")

    @property
    def reward(self) -> Float[np.ndarray, " A"]:
        """What the reward model gives each answer; the first is the one that agrees."""
        reward = np.array(self.quality, np.float64) - self.baseline
        reward[0] += self.bonus - self.penalty
        return reward

    @property
    def world(self) -> ResponseWorld:
        """The same as responses of one token."""
        reference = np.array(self.reference, np.float64)[None, None]
        return ResponseWorld(reference, self.reward[None], longest=1, end=None)

    def rate(self, beta: float) -> float:
        """P(agree) of the best policy at this β."""
        return float(self.world.best(beta)[0, 0])

    def rate_best_of(self, n: int) -> float:
        """P(agree) of the best of n answers, by the reward model."""
        return float(self.world.best_of(n)[0, 0])
