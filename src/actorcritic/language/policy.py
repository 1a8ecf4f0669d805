"""What RLHF asks of a policy over tokens, whatever network it is: hidden states, scores, responses.

`Transformer` is the decoder, trained whole or by an adapter. The lab's enumerated world has a table
with the same methods (`enumerated.py`), so that the same losses are held against exact truth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from actorcritic.language import decoder, generation, training
from actorcritic.language.decoder import Config


class Responses(NamedTuple):
    """What a policy said to B prompts."""

    tokens: Int[Array, "B N"]
    valid: Bool[Array, "B N"]  # up to and with the token that stops
    stopped: Bool[Array, " B"]  # False: cut off


class Network(Protocol):
    """A policy over tokens. Hashable; `trained` is what learning changes, `fixed` what it keeps.

    `fixed` is the reference: all parameters of the policy that training started from.
    """

    @property
    def width(self) -> int:
        """d of the hidden states."""
        ...

    def hidden(
        self, trained: PyTree, fixed: PyTree, tokens: Int[Array, "B T"], valid: Bool[Array, "B T"]
    ) -> Float[Array, "B T d"]:
        """States before a choice: that of column t sees the tokens up to t. float32."""
        ...

    def scores(
        self,
        trained: PyTree,
        fixed: PyTree,
        hidden: Float[Array, "B T d"],
        tokens: Int[Array, "B T"],
        temperature: float | Float[Array, ""],
    ) -> decoder.Scores:
        """log π of the tokens in these states, and the entropy of π there."""
        ...

    def reference(self, trained: PyTree, fixed: PyTree) -> PyTree:
        """What to pass as `trained` to have the reference."""
        ...

    def respond(
        self,
        trained: PyTree,
        fixed: PyTree,
        tokens: Int[Array, "B P"],
        valid: Bool[Array, "B P"],
        key: Key[Array, ""],
        temperature: float,
    ) -> Responses:
        """Drawn responses to prompts that are padded on the left."""
        ...


@dataclass(frozen=True)
class Transformer:
    """A `Network`: a decoder whose parameters are trained, or an adapter over them.

    With an adapter the reference is the decoder without it: there is no second copy.
    """

    config: Config
    dtype: str = "float32"  # that it computes in
    rematerialise: bool = False
    max_new_tokens: int = 64

    @property
    def width(self) -> int:
        return self.config.hidden_size

    def _parts(self, trained: PyTree, fixed: PyTree) -> tuple[PyTree, PyTree]:
        if trained is None:  # the reference of an adapter
            return fixed, None
        return training.applied(trained, fixed, jnp.dtype(self.dtype))

    def hidden(
        self, trained: PyTree, fixed: PyTree, tokens: Int[Array, "B T"], valid: Bool[Array, "B T"]
    ) -> Float[Array, "B T d"]:
        params, adapter = self._parts(trained, fixed)
        found, _ = decoder.hidden(
            params,
            self.config,
            tokens,
            valid,
            adapter=adapter,
            rematerialise=self.rematerialise,
        )
        return found

    def scores(
        self,
        trained: PyTree,
        fixed: PyTree,
        hidden: Float[Array, "B T d"],
        tokens: Int[Array, "B T"],
        temperature: float | Float[Array, ""],
    ) -> decoder.Scores:
        params, _ = self._parts(trained, fixed)
        return decoder.scores(params, self.config, hidden, tokens, temperature)

    def reference(self, trained: PyTree, fixed: PyTree) -> PyTree:
        return None

    def respond(
        self,
        trained: PyTree,
        fixed: PyTree,
        tokens: Int[Array, "B P"],
        valid: Bool[Array, "B P"],
        key: Key[Array, ""],
        temperature: float,
    ) -> Responses:
        params, adapter = self._parts(trained, fixed)
        made = generation.generate(
            params,
            self.config,
            tokens,
            valid,
            key,
            max_new_tokens=self.max_new_tokens,
            temperature=temperature,
            adapter=adapter,
        )
        last = jnp.maximum(made.valid.sum(1) - 1, 0)
        ends = jnp.asarray(self.config.eos or (generation.NO_STOP,))
        final = jnp.take_along_axis(made.tokens, last[:, None], 1)
        return Responses(made.tokens, made.valid, (final == ends[None]).any(1) & made.valid.any(1))


class Experience(NamedTuple):
    """A batch of B prompts (padded on the left) with their responses, of at most N tokens.

    The response's token t was chosen in the state after the prompt and t tokens. Columns that are
    not `valid` are padding, never experience. `score` is what the whole response was worth.
    """

    prompt: Int[Array, "B P"]
    prompt_valid: Bool[Array, "B P"]
    response: Int[Array, "B N"]
    valid: Bool[Array, "B N"]
    stopped: Bool[Array, " B"]
    reference_log_prob: Float[Array, "B N"]
    score: Float[Array, " B"]


def states(
    network: Network,
    trained: PyTree,
    fixed: PyTree,
    prompt: Int[Array, "B P"],
    prompt_valid: Bool[Array, "B P"],
    response: Int[Array, "B N"],
    valid: Bool[Array, "B N"],
) -> Float[Array, "B N d"]:
    """The states in which each token of the responses was chosen."""
    tokens = jnp.concatenate([prompt, response], 1)
    seen = jnp.concatenate([prompt_valid, valid], 1)
    hidden = network.hidden(trained, fixed, tokens, seen)
    return hidden[:, prompt.shape[1] - 1 : -1]


def log_probs(
    network: Network,
    trained: PyTree,
    fixed: PyTree,
    prompt: Int[Array, "B P"],
    prompt_valid: Bool[Array, "B P"],
    response: Int[Array, "B N"],
    valid: Bool[Array, "B N"],
    temperature: float | Float[Array, ""] = 1.0,
) -> Float[Array, "B N"]:
    """log π of each token of the responses; 0 in padding."""
    at = states(network, trained, fixed, prompt, prompt_valid, response, valid)
    found = network.scores(trained, fixed, at, response, temperature).log_prob
    return jnp.where(valid, found, 0.0)


def masked_mean(x: Array, valid: Bool[Array, "..."]) -> Float[Array, ""]:
    """The mean over valid places; 0 where there are none."""
    return jnp.sum(x, where=valid) / jnp.maximum(jnp.sum(valid, dtype=jnp.float32), 1)


def masked_standardised(x: Array, valid: Bool[Array, "..."], *, shift: bool = True) -> Array:
    """Scaled to deviation 1 over the valid places, and with `shift` to mean 0; 0 elsewhere."""
    mean = masked_mean(x, valid)
    scale = jax.lax.rsqrt(masked_mean((x - mean) ** 2, valid) + 1e-8)
    return jnp.where(valid, (x - mean if shift else x) * scale, 0.0)


def value_head(key: Key[Array, ""], width: int) -> PyTree:
    """A head of one number on the hidden states: N(0, 1/(d+1)) (Huang et al. 2024)."""
    kernel = jax.random.normal(key, (width,), jnp.float32) / jnp.sqrt(width + 1.0)
    return {"kernel": kernel, "bias": jnp.zeros((), jnp.float32)}


def head_of(head: PyTree, hidden: Float[Array, "... d"]) -> Float[Array, "..."]:
    """The head's number in each state, float32."""
    found: Array = hidden.astype(jnp.float32) @ head["kernel"] + head["bias"]
    return found
