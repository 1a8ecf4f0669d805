"""REINFORCE: the Monte Carlo member of the policy-gradient family."""

from __future__ import annotations

from typing import ClassVar, Literal

from jaxtyping import Array, Float

from actorcritic.algorithms.family import STANDARDISE, JointGradient
from actorcritic.core.errors import UserError
from actorcritic.core.hyperparameters import hyperparameter, hyperparameters
from actorcritic.core.types import Collects, EnvSpec, Transition
from actorcritic.maths import estimators


@hyperparameters
class Reinforce(JointGradient):
    """REINFORCE (Williams 1992): ∇ log π(a_t|s_t) G_t over whole episodes.

    With `baseline`, a value network is regressed on G_t and subtracted from it. An update takes
    one complete episode of each environment, so that no return is cut; an episode longer than
    `num_steps` is cut there all the same and counts as truncated.
    """

    name: ClassVar[str] = "reinforce"

    num_steps: int = hyperparameter(1000, "longest episode that is collected", "[1, 1e6]")
    baseline: bool = hyperparameter(True, "subtract a learned V(s_t) from the return")
    normalize_advantage: bool = hyperparameter(True, STANDARDISE)

    @property
    def critic(self) -> Literal["state", "action"] | None:
        return "state" if self.baseline else None

    @property
    def collects(self) -> Collects:
        return super().collects._replace(whole_episodes=True)

    def check(self, spec: EnvSpec) -> None:
        super().check(spec)
        if not self.baseline and self.value_coefficient != type(self).value_coefficient:
            raise UserError(
                "value_coefficient weighs the loss of the baseline, and baseline is off: it would "
                "have no effect. Leave one of the two out."
            )

    def advantages(
        self, batch: Transition, reward: Array, value: Array, next_value: Array
    ) -> tuple[Float[Array, "T B"], Float[Array, "T B"]]:
        returns = estimators.monte_carlo_returns(
            reward, next_value, batch.terminated, batch.truncated, self.gamma
        )
        return returns - value, returns
