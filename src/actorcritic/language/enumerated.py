"""PPO and DPO in the lab's enumerated world, where the best policy is a known table of numbers.

The losses, the advantages and the updates are those of language models (`ppo_on_tokens.py`,
`dpo_on_pairs.py`); only the network is another: a table of logits, a row a prompt and prefix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from actorcritic.lab import responses as enumeration
from actorcritic.lab.responses import Pairs, ResponseWorld
from actorcritic.language.decoder import Scores
from actorcritic.language.dpo_on_pairs import DPO, Answers
from actorcritic.language.policy import Responses
from actorcritic.language.ppo_on_tokens import PPO


@dataclass(frozen=True)
class Table:
    """A `Network` whose parameters are logits [P·N, V]: a row for each prompt and prefix.

    A prompt is one token, its number.
    """

    prompts: int
    vocabulary: int
    longest: int
    end: int | None

    @classmethod
    def of(cls, world: ResponseWorld) -> Table:
        return cls(world.prompts, world.vocabulary, world.longest, world.end)

    @property
    def width(self) -> int:
        return self.prompts * len(self._after)

    @property
    def _after(self) -> Int[np.ndarray, "N V"]:
        return _tree(self.vocabulary, self.longest, self.end)[0]

    def hidden(
        self, trained: PyTree, fixed: PyTree, tokens: Int[Array, "B T"], valid: Bool[Array, "B T"]
    ) -> Float[Array, "B T d"]:
        after = jnp.asarray(self._after)
        first, place = tokens[:, 0] * len(after), jnp.zeros(len(tokens), jnp.int32)
        rows = [first]
        for column in range(1, tokens.shape[1]):
            place = after[place, tokens[:, column]]
            rows.append(first + place)
        return jax.nn.one_hot(jnp.stack(rows, 1), self.width)

    def scores(
        self,
        trained: PyTree,
        fixed: PyTree,
        hidden: Float[Array, "B T d"],
        tokens: Int[Array, "B T"],
        temperature: float | Float[Array, ""],
    ) -> Scores:
        log_prob = jax.nn.log_softmax(hidden @ trained["logits"] / temperature)
        entropy = -(jnp.exp(log_prob) * log_prob).sum(-1)
        return Scores(jnp.take_along_axis(log_prob, tokens[..., None], -1)[..., 0], entropy)

    def reference(self, trained: PyTree, fixed: PyTree) -> PyTree:
        return fixed

    def respond(
        self,
        trained: PyTree,
        fixed: PyTree,
        tokens: Int[Array, "B P"],
        valid: Bool[Array, "B P"],
        key: Key[Array, ""],
        temperature: float | Float[Array, ""],
    ) -> Responses:
        after = jnp.asarray(self._after)
        first, place = tokens[:, 0] * len(after), jnp.zeros(len(tokens), jnp.int32)
        going_on = jnp.ones(len(tokens), bool)
        said, valid_at = [], []
        for draw in jax.random.split(key, self.longest):
            token = jax.random.categorical(draw, trained["logits"][first + place] / temperature)
            said.append(jnp.where(going_on, token, 0))
            valid_at.append(going_on)
            going_on = going_on & (token != (-1 if self.end is None else self.end))
            place = after[place, said[-1]]
        return Responses(jnp.stack(said, 1), jnp.stack(valid_at, 1), ~going_on)


@lru_cache
def _tree(
    vocabulary: int, longest: int, end: int | None
) -> tuple[Int[np.ndarray, "N V"], Int[np.ndarray, "N V"]]:
    """Where a token leads from each prefix: to which prefix, and to which response, if it ends.

    0 where the other of the two is meant.
    """
    number = {prefix: k for k, prefix in enumerate(enumeration.prefixes(vocabulary, longest, end))}
    row = {said: i for i, said in enumerate(enumeration.responses(vocabulary, longest, end))}
    after = np.zeros((len(number), vocabulary), np.int32)
    ended = np.zeros_like(after)
    for prefix, k in number.items():
        for token in range(vocabulary):
            longer = (*prefix, token)
            after[k, token], ended[k, token] = number.get(longer, 0), row.get(longer, 0)
    return after, ended


def reference_of(world: ResponseWorld) -> PyTree:
    """The reference as the parameters of a `Table`."""
    logits = np.log(world.reference).reshape(-1, world.vocabulary)
    return {"logits": jnp.asarray(logits, jnp.float32)}


def distributions(
    world: ResponseWorld, tables: Float[Array, "S P·N V"]
) -> Float[np.ndarray, "S P R"]:
    """Exact distributions over responses, in float64, of each seed's table."""
    logits = np.asarray(tables, np.float64).reshape(len(tables), *world.reference.shape)
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    policies = powers / powers.sum(-1, keepdims=True)
    return np.exp([world.log_probs(policy) for policy in policies])


def train_ppo(
    world: ResponseWorld, algorithm: PPO, seeds: Sequence[int]
) -> Float[np.ndarray, "S P R"]:
    """The distributions over responses that PPO ends with, one for each seed; one program."""
    tables = _ppo(
        replace(algorithm, kl_coefficient=1.0),
        Table.of(world),
        reference_of(world),
        jnp.asarray(world.reward, jnp.float32),
        jnp.float32(algorithm.kl_coefficient),
        jnp.asarray(seeds),
    )
    return distributions(world, tables)


@partial(jax.jit, static_argnums=(0, 1))
def _ppo(
    plain: PPO, network: Table, start: PyTree, reward: Array, beta: Array, seeds: Array
) -> Float[Array, "S P·N V"]:
    """β and the rewards are arguments: others are the same program."""
    algorithm = replace(plain, kl_coefficient=beta)  # type: ignore[arg-type]
    updates, batch = plain.total_steps, plain.batch_size
    after, ended = map(jnp.asarray, _tree(network.vocabulary, network.longest, network.end))

    def score(prompt: Array, said: Responses) -> Array:
        place = jnp.zeros(batch, jnp.int32)
        row = place
        for column in range(network.longest):
            token, here = said.tokens[:, column], said.valid[:, column]
            row = jnp.where(here, ended[place, token], row)
            place = after[place, token]
        return reward[prompt, row]

    def one(seed: Array) -> Array:
        key = jax.random.key(seed)

        def step(learner: Any, i: Array) -> tuple[Any, None]:
            asks, acts, learns = jax.random.split(jax.random.fold_in(key, i + 1), 3)
            prompt = jax.random.randint(asks, (batch, 1), 0, network.prompts)
            seen = jnp.ones_like(prompt, bool)
            said = algorithm.act(learner, prompt, seen, acts)
            rows = algorithm.batch(learner, prompt, seen, said, score(prompt[:, 0], said))
            return algorithm.update(learner, rows, learns, i / updates)[0], None

        learner = algorithm.init(jax.random.fold_in(key, 0), network, start, start)
        learner, _ = jax.lax.scan(step, learner, jnp.arange(updates))
        table: Array = learner.params["policy"]["logits"]
        return table

    found: Array = jax.vmap(one)(seeds)
    return found


def train_dpo(
    world: ResponseWorld, algorithm: DPO, pairs: Sequence[Pairs], seeds: Sequence[int]
) -> Float[np.ndarray, "S P R"]:
    """The distributions over responses that DPO ends with; each seed has its own pairs."""
    tables = _dpo(
        replace(algorithm, beta=1.0),
        Table.of(world),
        reference_of(world),
        (jnp.asarray(world.tokens), jnp.asarray(world.valid)),
        tuple(jnp.asarray(np.stack(part)) for part in zip(*pairs, strict=True)),
        jnp.float32(algorithm.beta),
        jnp.asarray(seeds),
    )
    return distributions(world, tables)


@partial(jax.jit, static_argnums=(0, 1))
def _dpo(
    plain: DPO,
    network: Table,
    start: PyTree,
    responses: tuple[Array, Array],
    pairs: tuple[Array, ...],
    beta: Array,
    seeds: Array,
) -> Float[Array, "S P·N V"]:
    assert plain.total_steps is not None
    algorithm = replace(plain, beta=beta)  # type: ignore[arg-type]
    updates, batch, (tokens, valid) = plain.total_steps, plain.batch_size, responses

    def answers(prompt: Array, row: Array) -> Answers:
        return Answers(prompt[:, None], jnp.ones((batch, 1), bool), tokens[row], valid[row])

    def one(seed: Array, mine: tuple[Array, ...]) -> Array:
        key = jax.random.key(seed)

        def step(learner: Any, i: Array) -> tuple[Any, None]:
            part = jax.random.randint(jax.random.fold_in(key, i), (batch,), 0, len(mine[0]))
            prompt, *rows = (x[part] for x in mine)
            chosen, rejected = (answers(prompt, row) for row in rows)
            found = algorithm.pairs(learner, chosen, rejected)
            return algorithm.update(learner, found, key, i / updates)[0], None

        learner = algorithm.init(network, start, start)
        table: Array = jax.lax.scan(step, learner, jnp.arange(updates))[0].params["logits"]
        return table

    found: Array = jax.vmap(one)(seeds, pairs)
    return found
