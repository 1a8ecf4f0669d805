"""MAPPO: PPO for several agents, each with a policy of what it sees, and a critic that sees more.

Agents are columns of the batch (environment × agent). What is learned from them is PPO's own, for
each group of agents that share a policy; `global_state` in the observations reaches the critic
only (`maths.networks`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, PyTree

from actorcritic.algorithms.ppo import PPO
from actorcritic.core.hyperparameters import hyperparameter, hyperparameters
from actorcritic.core.types import Decision, EnvSpec, Metrics, Observation, Transition
from actorcritic.maths import spaces


@partial(jax.tree_util.register_dataclass, data_fields=["parts"], meta_fields=["spec"])
@dataclass(frozen=True)
class Team:
    """A learner (or an actor) of PPO for each group of agents that share a policy."""

    parts: tuple[Any, ...]
    spec: EnvSpec  # of all agents

    @property
    def params(self) -> tuple[PyTree, ...]:
        """The parameters of each group."""
        return tuple(part.params for part in self.parts)


class Group(NamedTuple):
    """Agents that share a policy."""

    name: str
    columns: tuple[int, ...]  # which of an environment's
    spec: EnvSpec  # as if they were all


@hyperparameters
class MAPPO(PPO):
    """Multi-agent PPO (Yu et al. 2022): decentralised actors, a central critic."""

    name: ClassVar[str] = "mappo"
    spreads_rows: ClassVar[bool] = True

    share_policy: bool = hyperparameter(
        True, "one policy and critic for the agents of a team; else one for each agent"
    )

    def groups(self, spec: EnvSpec) -> list[Group]:
        """Who shares a policy: the agents of a team, or each one with itself."""
        names = [agent.team if self.share_policy else agent.name for agent in spec.agents] or [""]
        found = []
        for name in dict.fromkeys(names):
            columns = tuple(k for k, own in enumerate(names) if own == name)
            agents = tuple(spec.agents[k] for k in columns) if spec.agents else ()
            found.append(Group(name, columns, self._seen(replace(spec, agents=agents))))
        return found

    def _seen(self, spec: EnvSpec) -> EnvSpec:
        """What a group learns from."""
        return spec

    def check(self, spec: EnvSpec) -> None:
        for group in self.groups(spec):
            super().check(group.spec)

    def notes(self, spec: EnvSpec) -> list[str]:
        return super().notes(self.groups(spec)[0].spec)  # groups differ in who they are only

    def spread(self, axis: str, over: int, spec: EnvSpec) -> Any:
        parts = [super(MAPPO, self).spread(axis, over, each.spec) for each in self.groups(spec)]
        return parts[0] if all(part is not None for part in parts) else None

    def init(self, key: Key[Array, ""], spec: EnvSpec) -> Team:  # type: ignore[override]
        groups = self.groups(spec)
        keys = _keys(key, len(groups))
        parts = [
            super(MAPPO, self).init(k, group.spec) for k, group in zip(keys, groups, strict=True)
        ]
        return Team(tuple(parts), spec)

    def actor(self, learner: Team) -> Team:  # type: ignore[override]
        parts = [super(MAPPO, self).actor(part) for part in learner.parts]
        return Team(tuple(parts), learner.spec)

    def act(  # type: ignore[override]
        self, actor: Team, observation: Observation, key: Key[Array, ""], *, explore: bool = True
    ) -> Decision:
        groups = self.groups(actor.spec)
        every = actor.spec.columns
        decisions = [
            super(MAPPO, self).act(
                part, _of(observation, group.columns, every, 0), k, explore=explore
            )
            for part, group, k in zip(actor.parts, groups, _keys(key, len(groups)), strict=True)
        ]
        return _together(decisions, [group.columns for group in groups])

    def value(
        self, learner: Any, observation: Observation, action: Array | None = None
    ) -> Float[Array, "..."]:
        """V(s) of a group's own learner, or of all agents' [B·N, ...]."""
        if not isinstance(learner, Team):
            return super().value(learner, observation, action)
        groups, every = self.groups(learner.spec), learner.spec.columns
        values = [
            super(MAPPO, self).value(part, _of(observation, group.columns, every, 0))
            for part, group in zip(learner.parts, groups, strict=True)
        ]
        return _together(values, [group.columns for group in groups])

    def update(  # type: ignore[override]
        self, learner: Team, batch: Transition, key: Key[Array, ""], progress: Float[Array, ""]
    ) -> tuple[Team, Metrics]:
        groups = self.groups(learner.spec)
        every = learner.spec.columns
        parts, reports = [], []
        for part, group, k in zip(learner.parts, groups, _keys(key, len(groups)), strict=True):
            mine = _of(batch, group.columns, every, 1)
            part, metrics = super().update(part, mine, k, progress)
            parts.append(part)
            reports.append(metrics)
        metrics = jax.tree.map(lambda *x: jnp.mean(jnp.stack(x)), *reports)
        if len(groups) > 1:  # the means of all groups, and each group's own
            for group, own in zip(groups, reports, strict=True):
                metrics |= {f"{name}/{group.name}": value for name, value in own.items()}
        return Team(tuple(parts), learner.spec), metrics


@hyperparameters
class IPPO(MAPPO):
    """Independent PPO (de Witt et al. 2020): MAPPO whose critic sees what its agent sees."""

    name: ClassVar[str] = "ippo"
    spreads_rows: ClassVar[bool] = True

    def _seen(self, spec: EnvSpec) -> EnvSpec:
        return spaces.for_policy(spec)


def _keys(key: Key[Array, ""], count: int) -> Sequence[Any]:
    """A key for each group; of one group, the key itself: it is then PPO bit for bit."""
    return [key] if count == 1 else list(jax.random.split(key, count))


def _of(tree: PyTree, columns: tuple[int, ...], every: int, axis: int) -> PyTree:
    """Some of the `every` columns of each environment, of leaves with all at `axis`."""
    if len(columns) == every:
        return tree
    which = np.asarray(columns)

    def some(x: Array) -> Array:
        lead, rest = x.shape[:axis], x.shape[axis + 1 :]
        apart = jnp.asarray(x).reshape(*lead, -1, every, *rest)
        return jnp.take(apart, which, axis=axis + 1).reshape(*lead, -1, *rest)

    return jax.tree.map(some, tree)


def _together(parts: Sequence[Any], columns: Sequence[tuple[int, ...]]) -> Any:
    """The inverse of `_of` for all groups, at axis 0."""
    if len(parts) == 1:
        return parts[0]
    back = np.argsort(np.concatenate([np.asarray(own) for own in columns]))

    def whole(*leaves: Array) -> Array:
        apart = [
            x.reshape(-1, len(own), *x.shape[1:]) for x, own in zip(leaves, columns, strict=True)
        ]
        joined = jnp.take(jnp.concatenate(apart, axis=1), back, axis=1)
        return joined.reshape(-1, *joined.shape[2:])

    return jax.tree.map(whole, *parts)
