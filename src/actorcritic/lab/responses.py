"""A language small enough to write down: every prompt, every response, and the best policy of all.

A response is a sequence of tokens 0 … V-1 that stops with the token `end`, or after `longest`
tokens without it. There are few, so each is a row here, and what RLHF only estimates is a sum over
rows. All of it is float64; P prompts (equally likely), R responses, N prefixes after which a token
is chosen.

The objective of RLHF, of a distribution π over responses and a reference, is

    J(π) = E_π[r(x, y)] − β KL(π ‖ π_ref),

whose maximum is known: π*(y|x) = π_ref(y|x) exp(r(x, y)/β) / Z(x), with the value
J* = E_x[β log Z(x)], Z(x) = E_{y ~ π_ref}[exp(r(x, y)/β)] (Ziegler et al. 2019; Rafailov et al.
2023, eq. 4 and 5). docs/rlhf.md derives it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from actorcritic.core.errors import UserError
from actorcritic.lab.process import check_probabilities, numbers

MOST_RESPONSES = 100_000


class Pairs(NamedTuple):
    """Preferences between two responses to one prompt, as numbers of rows."""

    prompt: Int[np.ndarray, " n"]
    chosen: Int[np.ndarray, " n"]
    rejected: Int[np.ndarray, " n"]


@dataclass(frozen=True, eq=False)
class ResponseWorld:
    """Prompts, their responses with rewards, and a reference policy.

    `reference[p, k]` is the distribution of the next token after prefix k (`prefixes`) of a
    response to prompt p; `reward[p, i]` is what response i (`responses`) to prompt p is worth. With
    `end` None every response has `longest` tokens.
    """

    reference: Float[np.ndarray, "P N V"]
    reward: Float[np.ndarray, "P R"]
    longest: int
    end: int | None = 0

    def __post_init__(self) -> None:
        reference, reward = numbers("reference", self.reference), numbers("reward", self.reward)
        if reference.ndim != 3 or not reference.size:
            raise UserError(f"The reference has the shape [P, N, V], not {list(reference.shape)}.")
        if self.longest < 1 or (self.end is not None and not 0 <= self.end < reference.shape[2]):
            raise UserError("A response has a longest of at least 1, and its end is a token.")
        object.__setattr__(self, "reference", reference)
        object.__setattr__(self, "reward", reward)
        count = count_responses(self.vocabulary, self.longest, self.end)
        if count > MOST_RESPONSES:
            raise UserError(
                f"{self.vocabulary} tokens and up to {self.longest} of them are {count:,} "
                f"responses, more than {MOST_RESPONSES:,}; take fewer tokens or shorter ones."
            )
        expected = (self.prompts, len(self.prefixes), self.vocabulary)
        if reference.shape != expected or reward.shape != (self.prompts, count):
            raise UserError(
                f"With {self.vocabulary} tokens and responses of up to {self.longest}, a world of "
                f"{self.prompts} prompts needs reference {list(expected)} and reward "
                f"{[self.prompts, count]}; got {list(reference.shape)} and {list(reward.shape)}."
            )
        check_probabilities("reference[p, k]", reference)

    @property
    def prompts(self) -> int:
        return self.reference.shape[0]

    @property
    def vocabulary(self) -> int:
        return self.reference.shape[2]

    @cached_property
    def prefixes(self) -> list[tuple[int, ...]]:
        """What may stand before a token, shortest first; the first is empty."""
        return prefixes(self.vocabulary, self.longest, self.end)

    @cached_property
    def responses(self) -> list[tuple[int, ...]]:
        """Every response, its `end` included, in the order of the columns of `reward`."""
        return responses(self.vocabulary, self.longest, self.end)

    @cached_property
    def tokens(self) -> Int[np.ndarray, "R L"]:
        """The responses as rows of tokens; 0 where `valid` is False."""
        rows = np.zeros((len(self.responses), self.longest), np.int32)
        for row, response in zip(rows, self.responses, strict=True):
            row[: len(response)] = response
        return rows

    @cached_property
    def valid(self) -> Bool[np.ndarray, "R L"]:
        lengths = np.array([len(response) for response in self.responses])
        return np.arange(self.longest) < lengths[:, None]

    @cached_property
    def _places(self) -> Int[np.ndarray, "R L"]:
        """The number of the prefix before each token."""
        number = {prefix: k for k, prefix in enumerate(self.prefixes)}
        places = np.zeros((len(self.responses), self.longest), np.int64)
        for row, response in zip(places, self.responses, strict=True):
            row[: len(response)] = [number[response[:t]] for t in range(len(response))]
        return places

    # -------------------------------------------------------------------- distributions

    def log_probs(self, policy: Float[np.ndarray, "P N V"]) -> Float[np.ndarray, "P R"]:
        """log π(y|x) = Σ_t log π(y_t | x, y_<t) of every response; −∞ where it cannot be drawn."""
        with np.errstate(divide="ignore"):
            steps = np.log(policy)[:, self._places, self.tokens]
        return np.where(self.valid, steps, 0.0).sum(-1)

    @cached_property
    def reference_log_probs(self) -> Float[np.ndarray, "P R"]:
        return self.log_probs(self.reference)

    def conditionals(self, distribution: Float[np.ndarray, "P R"]) -> Float[np.ndarray, "P N V"]:
        """The token-by-token policy whose responses are distributed so.

        Uniform after prefixes that it never comes to.
        """
        mass = np.zeros_like(self.reference)
        where = self._places[self.valid], self.tokens[self.valid]
        rows = np.nonzero(self.valid)[0]
        for p in range(self.prompts):
            np.add.at(mass[p], where, distribution[p, rows])
        total = mass.sum(-1, keepdims=True)
        return np.where(total > 0, mass / np.where(total > 0, total, 1), 1 / self.vocabulary)

    def best(self, beta: float) -> Float[np.ndarray, "P R"]:
        """π*(y|x) = π_ref(y|x) exp(r(x, y)/β) / Z(x)."""
        tilted = self.reference_log_probs + self.reward / _positive(beta)
        return np.exp(tilted - _log_sum_exp(tilted)[:, None])

    def best_of(self, n: int) -> Float[np.ndarray, "P R"]:
        """The best of n responses of the reference, by the reward; of equal ones, any.

        With F the distribution of the reference's rewards, the best is worth at most r with
        probability F(r)^n.
        """
        if n < 1:
            raise UserError(f"Best-of-n needs n of at least 1; got {n}.")
        reference, found = np.exp(self.reference_log_probs), np.zeros_like(self.reward)
        for p in range(self.prompts):
            worths, group = np.unique(self.reward[p], return_inverse=True)
            mass = np.bincount(group, reference[p], len(worths))
            up_to = np.concatenate([[0.0], np.cumsum(mass)])
            chance = np.diff((up_to / up_to[-1]) ** n)
            share = np.where(mass > 0, chance / np.where(mass > 0, mass, 1), 0.0)
            found[p] = reference[p] * share[group]
        return found

    # -------------------------------------------------------------------- numbers

    def expected_reward(self, distribution: Float[np.ndarray, "P R"]) -> float:
        """E_x E_{y ~ π}[r(x, y)]."""
        return float((distribution * self.reward).sum(1).mean())

    def kl(self, distribution: Float[np.ndarray, "P R"]) -> float:
        """E_x KL(π(·|x) ‖ π_ref(·|x)), of whole responses, in nats."""
        positive = distribution > 0
        log = np.log(np.where(positive, distribution, 1.0))
        terms = distribution * (log - np.where(positive, self.reference_log_probs, 0.0))
        return float(np.where(positive, terms, 0.0).sum(1).mean())

    def objective(self, distribution: Float[np.ndarray, "P R"], beta: float) -> float:
        """J(π) = E[r] − β KL(π ‖ π_ref)."""
        return self.expected_reward(distribution) - beta * self.kl(distribution)

    def best_objective(self, beta: float) -> float:
        """J* = E_x[β log Σ_y π_ref(y|x) exp(r(x, y)/β)]."""
        tilted = self.reference_log_probs + self.reward / _positive(beta)
        return float(beta * _log_sum_exp(tilted).mean())

    def share(self, distribution: Float[np.ndarray, "P R"], beta: float) -> float:
        """How much of the way from J(π_ref) to J* a policy has come: 0 is the reference, 1 best."""
        start = self.expected_reward(np.exp(self.reference_log_probs))
        best = self.best_objective(beta)
        return (self.objective(distribution, beta) - start) / (best - start)

    # -------------------------------------------------------------------- samples

    def sample_pairs(self, count: int, rng: np.random.Generator) -> Pairs:
        """Two responses of the reference to each of `count` prompts, and which is preferred.

        The first is preferred with probability σ(r_1 − r_2) (Bradley & Terry 1952). Both may be
        the same response; such pairs say nothing, and are drawn again.
        """
        reference = np.exp(self.reference_log_probs)
        if (reference.max(1) > 1 - 1e-9).any():
            raise UserError("The reference always says the same: there is nothing to compare.")
        prompt, drawn = np.zeros(0, np.int64), np.zeros((0, 2), np.int64)
        while len(prompt) < count:
            asked = rng.integers(self.prompts, size=count)
            two = np.stack([_draws(reference[asked], rng) for _ in range(2)], 1)
            kept = two[:, 0] != two[:, 1]
            prompt, drawn = np.append(prompt, asked[kept]), np.concatenate([drawn, two[kept]])
        prompt, drawn = prompt[:count], drawn[:count]
        reward = self.reward[prompt[:, None], drawn]
        first = rng.random(count) < 1 / (1 + np.exp(reward[:, 1] - reward[:, 0]))
        chosen, rejected = np.where(first[:, None], drawn, drawn[:, ::-1]).T
        return Pairs(prompt, chosen, rejected)


def best_of_n_kl_bound(n: int) -> float:
    """log n − (n − 1)/n, which the KL of best-of-n never exceeds (Beirami et al. 2024).

    It comes near where each single response is rare, and stays below where one is likely.
    """
    return float(np.log(n) - (n - 1) / n)


def policy_gradient(
    distribution: Float[np.ndarray, " R"], weight: Float[np.ndarray, " R"]
) -> Float[np.ndarray, " R"]:
    """E_{y ~ π}[weight(y) ∇ log π(y)] for π = softmax(θ), a logit for each response.

    ∇ log π(y) = e_y − π, so the sum over responses is π (weight − E[weight]): exactly zero for a
    weight that is the same for every response.
    """
    scores = np.eye(len(distribution)) - distribution
    return (distribution * weight) @ scores


def random_world(
    rng: np.random.Generator,
    *,
    prompts: int = 2,
    vocabulary: int = 4,
    longest: int = 3,
    concentration: float = 1.0,
) -> ResponseWorld:
    """Token distributions from Dirichlet(`concentration`), rewards N(0, 1); token 0 is the end."""
    before = len(prefixes(vocabulary, longest, 0))
    reference = rng.dirichlet(np.full(vocabulary, concentration), (prompts, before))
    reference = (reference + 0.01) / (1 + 0.01 * vocabulary)  # everything can be drawn
    reward = rng.normal(size=(prompts, count_responses(vocabulary, longest, 0)))
    return ResponseWorld(reference, reward, longest)


def prefixes(vocabulary: int, longest: int, end: int | None) -> list[tuple[int, ...]]:
    """What may stand before a token of a response, shortest first."""
    going_on = [token for token in range(vocabulary) if token != end]
    return [
        prefix for length in range(longest) for prefix in itertools.product(going_on, repeat=length)
    ]


def responses(vocabulary: int, longest: int, end: int | None) -> list[tuple[int, ...]]:
    """Every response, its end included; those that stop are first, by their prefixes."""
    going_on = [token for token in range(vocabulary) if token != end]
    stopped = [] if end is None else [(*p, end) for p in prefixes(vocabulary, longest, end)]
    return [*stopped, *itertools.product(going_on, repeat=longest)]


def count_responses(vocabulary: int, longest: int, end: int | None) -> int:
    """Σ_{k<L} (V−1)^k that stop, and (V−1)^L that do not; V^L where nothing is an end."""
    if end is None:
        return int(vocabulary**longest)
    return int(sum((vocabulary - 1) ** k for k in range(longest + 1)))


def _draws(rows: Float[np.ndarray, "n R"], rng: np.random.Generator) -> Int[np.ndarray, " n"]:
    """A draw from each row's distribution."""
    chance = rng.random((len(rows), 1)) * rows.sum(1, keepdims=True)
    return np.minimum((np.cumsum(rows, 1) <= chance).sum(1), rows.shape[1] - 1)


def _log_sum_exp(x: Float[np.ndarray, "P R"]) -> Float[np.ndarray, " P"]:
    most = x.max(1, keepdims=True)
    return np.log(np.exp(x - most).sum(1)) + most[:, 0]


def _positive(beta: float) -> float:
    if not beta > 0:
        raise UserError(f"β must be more than 0; got {beta:g}.")
    return beta
