"""A2C: the n-step and GAE(λ) member of the policy-gradient family."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Array, Float

from actorcritic.algorithms.family import LAMBDA, OPTIMIZERS, WHOLE_EPISODES, JointGradient
from actorcritic.core.hyperparameters import hyperparameter, hyperparameters
from actorcritic.core.types import Collects, Transition
from actorcritic.maths import optimizers


@hyperparameters
class A2C(JointGradient):
    """Advantage actor-critic (Mnih et al. 2016, synchronous).

    `gae_lambda` 1 is the n-step form: the return to the end of the `num_steps` steps,
    bootstrapped there; below 1 it is GAE(λ); 0 is the TD error. With `whole_episodes` a batch is
    one complete episode of each environment: λ = 1 is then the Monte Carlo return.
    """

    name: ClassVar[str] = "a2c"
    spreads_rows: ClassVar[bool] = True

    whole_episodes: bool = hyperparameter(False, WHOLE_EPISODES)
    optimizer: optimizers.Kind = hyperparameter("rmsprop", OPTIMIZERS)
    gae_lambda: float = hyperparameter(1.0, LAMBDA, "[0, 1]")

    @property
    def collects(self) -> Collects:
        return super().collects._replace(whole_episodes=self.whole_episodes)

    def advantages(
        self, batch: Transition, reward: Array, value: Array, next_value: Array
    ) -> tuple[Float[Array, "T B"], Float[Array, "T B"]]:
        return self._gae(batch, reward, value, next_value, self.gae_lambda)
