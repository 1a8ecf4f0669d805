"""Customer service: answer, ask, or escalate, when it is not certain what is wanted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from actorcritic.core.errors import UserError
from actorcritic.core.types import EnvSpec, Step


class RoutingState(NamedTuple):
    """The whole state; only `type` is hidden from the agent."""

    type: Int[Array, ""]
    evidence: Int[Array, " types"]  # how often each sign was seen
    tried: Int[Array, " answers"]  # 1: this answer was given, and was wrong
    strain: Int[Array, ""]  # on the customer's patience


@dataclass(frozen=True)
class Routing:
    """A request of a hidden type; answer it, ask a clarifying question, or escalate.

    With N answers there are N + 1 types: type k < N is solved by answer k, and the last one only
    by a person. Actions 0 to N − 1 give that answer, N asks, N + 1 escalates. The first message,
    and each reply to a question, shows one sign: that of the type with probability `clarity`,
    else any other.

        answer, right      +1, and the episode ends
        answer, wrong      −`wrong_cost`, strain + 2
        ask                −`ask_cost`, strain + 1, one more sign
        escalate           1 − `escalation_cost`, and the episode ends

    After a question or a wrong answer the customer leaves with probability `leaving[strain]`
    (surely, beyond its end), which costs `dissatisfaction` and ends the episode. Strain only
    grows, so that no episode is longer than `leaving` has numbers.

    The observation is what a careful clerk would have noted: how often each sign was seen, which
    answers failed, and the strain. It never tells the type, but is all that a belief about it
    needs, so that a policy without memory can be the best one; how counts become beliefs has to
    be learned.
    """

    prior: tuple[float, ...] = (0.3, 0.3, 0.25, 0.15)
    clarity: float = 0.65
    wrong_cost: float = 0.8
    ask_cost: float = 0.05
    escalation_cost: float = 0.8
    leaving: tuple[float, ...] = (0.0, 0.0, 0.02, 0.06, 0.15, 0.35, 0.7)
    dissatisfaction: float = 1.0

    def __post_init__(self) -> None:
        if len(self.prior) < 2 or min(self.prior) < 0 or abs(sum(self.prior) - 1) > 1e-6:
            raise UserError(
                "routing: prior has the probability of each type, of 2 or more, which sum to 1; "
                f"got {self.prior}."
            )
        if not 0 <= self.clarity <= 1:
            raise UserError(f"routing: clarity is a probability; got {self.clarity}.")
        if not self.leaving or min(self.leaving) < 0 or max(self.leaving) > 1:
            raise UserError(f"routing: leaving has probabilities; got {self.leaving}.")

    @property
    def types(self) -> int:
        return len(self.prior)

    @property
    def answers(self) -> int:
        return self.types - 1

    @property
    def signs(self) -> Float[np.ndarray, "types types"]:
        """P(sign | type), a row for each type."""
        n = self.types
        other = (1 - self.clarity) / (n - 1)
        return np.full((n, n), other) + (self.clarity - other) * np.eye(n)

    def leaves(self, strain: int) -> float:
        """The probability that a customer leaves who is under so much strain."""
        return self.leaving[strain] if strain < len(self.leaving) else 1.0

    @property
    def spec(self) -> EnvSpec:
        longest = len(self.leaving)
        high = [longest + 1] * self.types + [1] * self.answers + [longest + 1]
        return EnvSpec(
            id="routing",
            observation_space=gymnasium.spaces.Box(
                np.zeros(len(high), np.float32), np.array(high, np.float32)
            ),
            action_space=gymnasium.spaces.Discrete(self.answers + 2),
            max_episode_steps=longest + 1,
        )

    def reset(self, key: Key[Array, ""]) -> tuple[RoutingState, Float[Array, " n"]]:
        type_key, sign_key = jax.random.split(key)
        kind = jax.random.categorical(type_key, jnp.log(jnp.asarray(self.prior)))
        state = RoutingState(
            kind.astype(jnp.int32),
            jnp.zeros(self.types, jnp.int32),
            jnp.zeros(self.answers, jnp.int32),
            jnp.int32(0),
        )
        state = self._seen(sign_key, state)
        return state, self.observation(state)

    def step(
        self, key: Key[Array, ""], state: RoutingState, action: Int[Array, ""]
    ) -> tuple[RoutingState, Step]:
        sign_key, leave_key = jax.random.split(key)
        action = action.astype(jnp.int32)
        answered, asked = action < self.answers, action == self.answers
        right, escalated = answered & (action == state.type), action == self.answers + 1
        strain = state.strain + jnp.where(asked, 1, 2).astype(jnp.int32)
        table = jnp.asarray([self.leaves(s) for s in range(len(self.leaving) + 2)])
        goes_on = ~(right | escalated)
        left = goes_on & (jax.random.uniform(leave_key) < table[strain])
        reward = jnp.where(right, 1.0, jnp.where(escalated, 1 - self.escalation_cost, 0.0))
        reward = reward - jnp.where(asked, self.ask_cost, 0.0)
        reward = reward - jnp.where(answered & ~right, self.wrong_cost, 0.0)
        reward = reward - jnp.where(left, self.dissatisfaction, 0.0)
        seen = self._seen(sign_key, state)
        tried = jnp.maximum(state.tried, jax.nn.one_hot(action, self.answers, dtype=jnp.int32))
        after = RoutingState(
            state.type,
            jnp.where(asked, seen.evidence, state.evidence),
            jnp.where(answered & ~right, tried, state.tried),
            jnp.where(goes_on, strain, state.strain),
        )
        return after, Step(
            observation=self.observation(after),
            reward=reward.astype(float),
            terminated=~goes_on | left,
            truncated=jnp.zeros_like(left),
        )

    def observation(self, state: RoutingState) -> Float[Array, " n"]:
        parts = (state.evidence, state.tried, state.strain[None])
        return jnp.concatenate(parts).astype(jnp.float32)

    def _seen(self, key: Key[Array, ""], state: RoutingState) -> RoutingState:
        """With one more sign."""
        odds = jnp.log(jnp.asarray(self.signs, jnp.float32)[state.type])
        sign = jax.random.categorical(key, odds)
        shown = jax.nn.one_hot(sign, self.types, dtype=jnp.int32)
        return state._replace(evidence=state.evidence + shown)
