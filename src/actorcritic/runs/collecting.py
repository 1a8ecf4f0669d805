"""Collecting a data set: episodes of trained policies, of random actions, or of a mixture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from actorcritic.core.errors import UserError
from actorcritic.core.types import (
    Collects,
    Decision,
    Environment,
    EnvSpec,
    Extras,
    Observation,
    Transition,
)
from actorcritic.core.waiting import beside, compiled, wait_for
from actorcritic.core.words import printable
from actorcritic.data.dataset import Dataset
from actorcritic.envs.host.environment import HostEnvironment, environment_seed
from actorcritic.maths import spaces
from actorcritic.maths.distributions import Categorical, MultiCategorical, TanhGaussian
from actorcritic.runners.collector import Collector
from actorcritic.runners.compiled import collect as collect_compiled
from actorcritic.runners.compiled import reset
from actorcritic.runs.policies import check_finite, rows_of
from actorcritic.runs.run import Run, open_run

RANDOM = "random"
NAMED = {"checkpoint-early": "early", "checkpoint-best": "best"}  # of the run itself
MOST_ENVIRONMENTS = 16  # side by side
EPISODES_EACH = 4  # that an environment should see whole, at least
STRETCH = 256  # steps of each environment between two looks


class Part(NamedTuple):
    """Of a mixture: who acts (no algorithm: uniformly random), and how many steps."""

    name: str
    algorithm: Any
    actor: Any
    steps: int


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["algorithm"],
    meta_fields=["collects", "spec", "explore"],
)
@dataclass(frozen=True)
class Acting:
    """A policy as a collector takes it: it records the log-probability, where that is known.

    Without an algorithm, actions are uniformly random.
    """

    algorithm: Any
    collects: Collects
    spec: EnvSpec
    explore: bool = True

    def act(
        self, actor: Any, observation: Observation, key: Key[Array, ""], *, explore: bool = True
    ) -> Decision:
        if self.algorithm is None:
            return uniform(self.spec, observation, key)
        decision = self.algorithm.act(actor, observation, key, explore=self.explore)
        log_prob = None
        if self.explore and hasattr(self.algorithm, "policy"):
            policy = self.algorithm.policy(actor, observation)
            log_prob = log_prob_of(policy, decision.action)
        return Decision(decision.action, Extras(log_prob=log_prob))


def log_prob_of(policy: Any, action: Array) -> Array | None:
    """Of actions as they were executed; None where a policy draws some that are not.

    A Gaussian's are clipped to the bounds, so that many draws are one action.
    """
    if isinstance(policy, TanhGaussian):
        return policy.log_prob(policy.unsquash(action))
    return policy.log_prob(action) if isinstance(policy, Categorical | MultiCategorical) else None


def uniform(spec: EnvSpec, observation: Observation, key: Key[Array, ""]) -> Decision:
    """Uniformly random actions, of those that are allowed; and their log-probabilities."""
    space, count = spec.action_space, jax.tree.leaves(observation)[0].shape[0]
    sizes = spaces.choices(space)
    if not sizes:
        low, high = (jnp.asarray(end.reshape(-1), jnp.float32) for end in (space.low, space.high))  # type: ignore[attr-defined]
        share = jax.random.uniform(key, (count, len(low)))
        low, high = (jnp.broadcast_to(end, share.shape) for end in (low, high))
        log_prob = -jnp.sum(jnp.log(high - low), axis=-1)
        return Decision(low + share * (high - low), Extras(log_prob=log_prob))
    logits = jnp.zeros((count, sum(sizes)))
    single = len(sizes) == 1 and space.shape == ()
    policy: Any = Categorical(logits) if single else MultiCategorical(logits, sizes)
    allowed = spaces.action_mask(spec.observation_space, observation)
    policy = policy if allowed is None else policy.masked(allowed)
    action = policy.sample(key)
    return Decision(action, Extras(log_prob=policy.log_prob(action)))


def collect(
    run: Run | str | Path,
    steps: int,
    *,
    mix: Mapping[str, float] | None = None,
    seed: int = 0,
    policy_seed: int | None = None,
    deterministic: bool = False,
    algorithm: Any = None,
    environment: Any = None,
    say: Callable[[str], None] = lambda text: None,
) -> Dataset:
    """A data set of so many steps by a run's policy, which explores as it does in training.

    `mix` gives shares of the steps to others: "random", "checkpoint-early" (the policy of an eighth
    of the run's training), "checkpoint-best", or the folder of another run on the same environment.
    `seed` is of the collection's own randomness, `policy_seed` the trained seed that acts (by
    default the best one). `deterministic` takes the most likely actions. An episode that was not
    over when the steps were made is truncated there.

    Raises UserError where a part of the mixture cannot be had, before anything is collected.
    """
    if isinstance(run, str | Path):
        run = open_run(run, algorithm=algorithm, environment=environment)
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise UserError(f"steps must be a whole number of at least 1; got {steps!r}.")
    world = run.environment
    if not isinstance(world, Environment | HostEnvironment):
        raise UserError(
            f"{run.name} learned from data alone, and has no environment to collect in. Name one: "
            "--env (Python: environment=…)."
        )
    if world.spec.agents:
        raise UserError(
            f"{world.spec.id} has {world.spec.columns} agents, and a data set is of one agent. "
            "Collect from a run on an environment with one."
        )
    parts = _parts(run, dict(mix or {}), steps, policy_seed)
    return recorded(world, parts, seed, explore=not deterministic, say=say)


def recorded(
    world: Environment | HostEnvironment,
    parts: Sequence[Part],
    seed: int,
    *,
    explore: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> Dataset:
    """A data set of the parts, one after another."""
    found, spec = [], world.spec
    for number, part in enumerate(parts):
        say(f"{part.steps:,} steps of {part.name}")
        acting = Acting(part.algorithm, Collects(1, 1), spec, explore)
        batch = _experience(acting, world, part.actor, part.steps, environment_seed(seed, number))
        found.append(_episodes(spec, batch, part.steps))
    policies = [
        {"policy": part.name, "steps": part.steps, "episodes": len(episodes)}
        for part, episodes in zip(parts, found, strict=True)
    ]
    data = Dataset.from_episodes(
        [episode for episodes in found for episode in episodes],
        spec.observation_space,
        spec.action_space,
        id=spec.id,
        max_episode_steps=spec.max_episode_steps,
        about={"policies": policies, "seed": seed, "deterministic": not explore},
    )
    data.check()
    return data


def _parts(run: Run, mix: dict[str, float], steps: int, policy_seed: int | None) -> list[Part]:
    """The parts of a mixture; what no other has a share in is the run's own."""
    for name, share in mix.items():
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
            raise UserError(f"The share of {name} must lie in (0, 1]; got {share!r}.")
    left = 1 - sum(mix.values())
    if left < -1e-9:
        raise UserError(f"The shares of the mixture sum to {1 - left:g}; expected at most 1.")
    counts = {name: round(share * steps) for name, share in mix.items()}
    parts = []
    rest = steps - sum(counts.values())
    if rest > 0:
        parts.append(Part(run.label, run.algorithm, _actor(run, "last", policy_seed), rest))
    for name, count in counts.items():
        if count < 1:
            raise UserError(f"The share of {name} comes to less than one of {steps:,} steps.")
        if name == RANDOM:
            parts.append(Part(name, None, (), count))
        elif name in NAMED:
            actor = _actor(run, NAMED[name], policy_seed)
            parts.append(Part(name, run.algorithm, actor, count))
        elif not (Path(name) / "run.json").exists():
            raise UserError(
                f"There is no policy '{printable(name)}' to mix in; expected random, "
                f"{', '.join(NAMED)}, or the folder of a run."
            )
        else:
            other = open_run(name, environment=run.environment)
            same = other.spec.observation_space == run.spec.observation_space
            if not same or other.spec.action_space != run.spec.action_space:
                raise UserError(f"{name} was trained on other spaces than {run.name}.")
            parts.append(Part(name, other.algorithm, _actor(other, "last", None), count))
    return parts


def _actor(run: Run, which: Any, seed: int | None) -> Any:
    chosen, _ = run._choose(seed)
    actors = rows_of(run.actors_of(which), [run.seeds.index(chosen)])
    check_finite(actors, (chosen,), run.name)
    return jax.tree.map(itemgetter(0), actors)


def _experience(acting: Acting, world: Any, actor: Any, count: int, seed: int) -> Transition:
    """At least so many steps [T, B], of environments side by side."""
    limit = world.spec.max_episode_steps or 1000
    num_envs = max(1, min(MOST_ENVIRONMENTS, count // (EPISODES_EACH * limit)))
    own = getattr(world, "vector", None)
    if own is not None:
        num_envs = own.num_envs
    steps = -(-count // num_envs)
    stretch = min(STRETCH, steps)
    acting = replace(acting, collects=Collects(num_envs, stretch))
    key = jax.random.key(seed)
    gather = _compiled if isinstance(world, Environment) else _on_host
    batches = gather(acting, world, actor, key, -(-steps // stretch), seed)
    joined: Transition = jax.tree.map(lambda *x: np.concatenate(x), *batches)
    return joined


def _compiled(
    acting: Acting, world: Environment, actor: Any, key: Array, number: int, seed: int
) -> list[Transition]:
    start_key, act_key = jax.random.split(key)

    @jax.jit
    def begin(key: Array) -> Any:
        return reset(world, jax.random.split(key, acting.collects.num_envs))

    def gather(acting: Acting, actor: Any, now: Any, key: Array) -> Any:
        return collect_compiled(acting, world, actor, now, key)[:2]  # type: ignore[arg-type]

    now = begin(start_key)
    program = compiled(jax.jit(gather).lower(acting, actor, now, act_key))
    batches = []
    for k in range(number):
        made = beside(partial(program, acting, actor, now, jax.random.fold_in(act_key, k)))
        now, batch = wait_for(made)
        batches.append(jax.tree.map(np.asarray, batch))
    return batches


def _on_host(
    acting: Acting, world: HostEnvironment, actor: Any, key: Array, number: int, seed: int
) -> list[Transition]:
    collector = Collector(acting, world, actor)
    try:
        collector.start(seed)
        batches = []
        for k in range(number):
            keys = jax.random.split(jax.random.fold_in(key, k), acting.collects.num_steps)
            batch, _ = collector.collect(actor, keys)
            batches.append(jax.tree.map(np.copy, batch))  # the next one overwrites it
    finally:
        collector.close()
    return batches


def _episodes(spec: EnvSpec, batch: Transition, count: int) -> list[dict[str, Any]]:
    """The first `count` steps as episodes, one environment after another; the last of each cut."""
    executable = spaces.executable(spec.action_space, jnp.asarray(batch.action))
    columns = {
        "action": np.asarray(executable),
        "reward": np.asarray(batch.reward),
        "terminated": np.asarray(batch.terminated),
        "truncated": np.asarray(batch.truncated & ~batch.terminated),
    }
    if batch.extras.log_prob is not None:
        columns["log_prob"] = np.asarray(batch.extras.log_prob)
    num_envs, left, found = batch.reward.shape[1], count, []
    each = -(-count // num_envs)
    for b in range(num_envs):
        valid = np.arange(len(batch.reward))
        if batch.valid is not None:
            valid = np.flatnonzero(batch.valid[:, b])
        rows = valid[: min(each, left)]
        left -= len(rows)
        ends = columns["terminated"][rows, b] | columns["truncated"][rows, b]
        stops = np.flatnonzero(ends) + 1
        cut = not len(stops) or stops[-1] < len(rows)
        if cut and len(rows):
            stops = np.append(stops, len(rows))
        for start, stop in zip([0, *stops[:-1]], stops, strict=True):
            mine = rows[start:stop]
            episode: dict[str, Any] = {name: x[mine, b] for name, x in columns.items()}
            if cut and stop == len(rows):
                episode["truncated"] = episode["truncated"].copy()
                episode["truncated"][-1] = True
            episode["observation"] = jax.tree.map(
                lambda x, y, mine=mine, b=b: np.concatenate([x[mine, b], y[mine[-1:], b]]),
                batch.observation,
                batch.next_observation,
            )
            found.append(episode)
    return found
