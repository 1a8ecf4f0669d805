"""Off-policy evaluation: what a policy is worth, from episodes that others recorded.

All of it is of the discounted return from the start of an episode, Σ_t γ^t r_t.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from actorcritic.algorithms.fitted_q import Choices, FittedQ
from actorcritic.algorithms.offline import inside
from actorcritic.core import hyperparameters
from actorcritic.core.errors import UserError
from actorcritic.core.types import Observation
from actorcritic.data.dataset import Dataset
from actorcritic.figures import statistics
from actorcritic.figures.statistics import Estimate, figures
from actorcritic.maths import spaces
from actorcritic.maths.distributions import Gaussian, TanhGaussian
from actorcritic.runners.dataset import DatasetSession
from actorcritic.runners.evaluate import Policy

AT_ONCE = 65_536  # observations
DRAWS = 4  # of a stochastic policy's continuous actions at a state
LARGEST_LOG = 700.0


class Ratios(NamedTuple):
    """Of every episode, padded to the longest [E, T]: what it paid, and log Π π(a|s) / μ(a|s)."""

    reward: Float[np.ndarray, "E T"]  # times γ^t; 0 after the end
    log_ratio: Float[np.ndarray, "E T"]  # of the steps up to t; after the end as at it


@dataclass(frozen=True)
class OffPolicy:
    """Estimates of a policy's discounted return; None where one cannot be had, and `notes` why."""

    data: Estimate  # of the policies that recorded the data
    fitted_q: Estimate | None
    weighted: Estimate | None  # importance sampling of whole episodes
    per_decision: Estimate | None
    effective_episodes: float  # of how many the weights are worth
    episodes: int
    gamma: float
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        named = {
            "recorded by others": self.data,
            "fitted Q evaluation": self.fitted_q,
            "weighted importance sampling": self.weighted,
            "the same per decision": self.per_decision,
        }
        known = {name: one for name, one in named.items() if one is not None}
        write = figures(*(x for one in known.values() for x in one))
        lines = [f"Discounted return from the start of an episode, γ = {self.gamma:g}:"]
        lines += [f"  {name:<30} {one.text(write)}" for name, one in known.items()]
        if self.weighted is not None:
            lines.append(
                f"The weights are worth {self.effective_episodes:,.1f} of {self.episodes:,} "
                "episodes."
            )
        return "\n".join([*lines, *self.notes])

    def json(self) -> dict[str, Any]:
        """The same as plain JSON."""
        return {
            name: value._asdict() if isinstance(value, Estimate) else value
            for name, value in vars(self).items()
        }


def evaluate_off_policy(
    policy: Policy,
    data: Dataset,
    *,
    gamma: float | None = None,
    deterministic: bool = True,
    updates: int = 10_000,
    bootstraps: int = 16,
    seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
    **options: Any,
) -> OffPolicy:
    """What a policy is worth, from a data set alone.

    - Fitted Q evaluation learns Q of the policy (`options` are hyperparameters of `FittedQ`), for
      `updates` updates. Its interval is from the deviation of as many fits of episodes that were
      drawn anew, `bootstraps` of them, by Student's t. A note says where it has not settled.
    - Weighted importance sampling weighs the returns of episodes by the likelihood of their actions
      (Precup, Sutton & Singh 2000), whole or per decision. It needs `log_prob` in the data. Its
      interval is of a percentile bootstrap over episodes.

    `deterministic` is of the policy that is judged; `say` is told how far it is. γ is the policy's
    own, where none is given.
    Raises UserError where the data are of other spaces.
    """
    if not isinstance(policy, Policy):
        raise UserError(f"policy must be a Policy, as run.policy() gives it; got {policy!r}.")
    if not isinstance(data, Dataset):
        raise UserError(f"data must be a Dataset, as ac.dataset(…) opens it; got {data!r}.")
    data.check(policy.spec)
    gamma = float(getattr(policy.algorithm, "gamma", 0.99) if gamma is None else gamma)
    if not 0 < gamma <= 1:
        raise UserError(f"gamma must lie in (0, 1]; got {gamma}.")
    notes: list[str] = []
    rng = np.random.default_rng(seed)
    returns = data.returns_to_go(gamma)[data.starts]
    recorded = _percentile(returns.mean(), returns[_resampled(rng, len(returns))].mean(1))
    fitted, drift = _fitted(
        policy, data, gamma, deterministic, updates, bootstraps, seed, options, say
    )
    half = fitted.high - fitted.value
    if drift > half / 2:
        notes.append(
            f"Fitted Q evaluation has not settled: the last quarter of its {updates:,} updates "
            f"moved it by {drift:.2g}, and its interval is only ± {half:.2g}. Give it more "
            "(--updates; Python: updates=…)."
        )
    weighted = per_decision = None
    effective = float("nan")
    log_prob = _log_prob(policy, data, deterministic)
    if isinstance(log_prob, str):
        notes.append(log_prob)
    else:
        found = ratios(data, log_prob, gamma)
        (weighted, per_decision), effective = _weighted(found, rng)
        if weighted is None:
            notes.append(
                "No importance sampling: in no recorded episode is every action one that the "
                "policy would take. Judge the one that explores: --stochastic (Python: "
                "deterministic=False)."
            )
    cut = int((~data.terminated[data.starts + data.lengths - 1]).sum())
    if cut and weighted is not None:
        notes.append(
            f"{cut:,} of {data.episodes:,} episodes were truncated: importance sampling counts "
            "only what they paid until then."
        )
    return OffPolicy(
        recorded,
        fitted,
        weighted,
        per_decision,
        effective,
        data.episodes,
        gamma,
        tuple(notes),
    )


# ------------------------------------------------------------------------------ fitted Q evaluation


def _fitted(
    policy: Policy,
    data: Dataset,
    gamma: float,
    deterministic: bool,
    updates: int,
    bootstraps: int,
    seed: int,
    options: dict[str, Any],
    say: Callable[[str], None],
) -> tuple[Estimate, float]:
    """The estimate, and by how much the last quarter of the updates moved it."""
    usual = {"hidden_sizes": (64, 64), "learning_rate_schedule": "linear"}
    chosen: dict[str, Any] = {"gamma": gamma} | usual | options
    algorithm = FittedQ(**chosen)
    hyperparameters.check(algorithm)
    place = data.place
    key = jax.random.key(seed)
    choose = partial(_choices, policy, deterministic)
    before = jax.tree.map(lambda x: x[place[data.starts]], data.observation)
    after = jax.tree.map(lambda x: x[place + 1], data.observation)
    at_start, ahead = (
        choose(before, jax.random.fold_in(key, 0)),
        choose(after, jax.random.fold_in(key, 1)),
    )
    rng = np.random.default_rng(seed)
    pools = [np.arange(data.steps, dtype=np.int32)]
    drawn = [np.arange(data.episodes)]
    for _ in range(bootstraps):
        episodes = rng.integers(data.episodes, size=data.episodes)
        rows = np.concatenate(
            [np.arange(data.starts[e], data.starts[e] + data.lengths[e]) for e in episodes]
        )
        # All pools are of one length: repeated from the beginning, or cut.
        pools.append(np.resize(rows, data.steps).astype(np.int32))
        drawn.append(episodes)
    session = DatasetSession(
        algorithm,
        data,
        policy.spec,
        range(seed, seed + 1 + bootstraps),
        updates,
        own=ahead,
        pools=np.stack(pools),
    )
    worth = jax.jit(jax.vmap(algorithm.worth, (0, None, None)))

    def means(until: int) -> Float[np.ndarray, " fits"]:
        """The estimate of each fit, after so many updates."""
        while int(session.steps.min()) < until:
            session.advance(1.0, until=np.full(len(session.seeds), until))
            say(f"fitted Q evaluation, {int(session.steps.min()):,} of {updates:,} updates")
        found = np.asarray(worth(session.state.learner, before, at_start), np.float64)
        return np.array([x[episodes].mean() for x, episodes in zip(found, drawn, strict=True)])

    early, late = means(updates - updates // 4), means(updates)
    value, drift = float(late[0]), abs(float(late[0] - early[0]))
    if bootstraps < 2:
        return Estimate(value, np.nan, np.nan), drift
    from scipy.special import stdtrit  # here, because training imports this module

    half = float(stdtrit(bootstraps - 1, 0.975) * late[1:].std(ddof=1))
    return Estimate(value, value - half, value + half), drift


def _choices(
    policy: Policy, deterministic: bool, observation: Observation, key: Key[Array, ""]
) -> Choices:
    """What the policy does at observations [n]."""
    count = len(jax.tree.leaves(observation)[0])
    discrete = isinstance(policy.spec.action_space, gymnasium.spaces.Discrete)

    algorithm, actor = _with_policy(policy), policy.actor

    @jax.jit
    def some(observation: Observation, key: Array) -> Choices:
        if discrete:
            found = algorithm.policy(actor, observation)
            logits = found.logits
            hot = jax.nn.one_hot(found.mode(), logits.shape[-1])
            return Choices(probability=hot if deterministic else jax.nn.softmax(logits))
        keys = jax.random.split(key, 1 if deterministic else DRAWS)
        drawn = [
            spaces.executable(
                policy.spec.action_space,
                algorithm.act(actor, observation, k, explore=not deterministic).action,
            )
            for k in keys
        ]
        flat = [x.reshape(*x.shape[:1], -1) for x in drawn]
        return Choices(draws=jnp.stack(flat, axis=1))

    parts = []
    for number, start in enumerate(range(0, count, AT_ONCE)):
        rows = slice(start, start + AT_ONCE)
        part = jax.tree.map(lambda x, rows=rows: x[rows], observation)
        parts.append(jax.tree.map(np.asarray, some(part, jax.random.fold_in(key, number))))
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)


def _with_policy(policy: Policy) -> Any:
    """The algorithm; UserError where it does not offer π(·|s) as a distribution."""
    if not hasattr(policy.algorithm, "policy"):
        raise UserError(
            f"{policy.algorithm.name} does not say how likely its actions are. Give it a method "
            "policy(actor, observation) that returns a distribution of maths.distributions."
        )
    return policy.algorithm


# ------------------------------------------------------------------------------ importance sampling


def _log_prob(policy: Policy, data: Dataset, deterministic: bool) -> Float[np.ndarray, " N"] | str:
    """log π(a|s) of the recorded actions; or why it cannot be had."""
    if data.log_prob is None:
        return (
            "No importance sampling: the data do not say how likely their actions were (log_prob). "
            "`actorcritic collect` records it where the policy has it."
        )
    algorithm = _with_policy(policy)

    @jax.jit
    def some(observation: Observation, action: Array) -> Array | None:
        found = algorithm.policy(policy.actor, observation)
        if isinstance(found, TanhGaussian):
            return None if deterministic else found.log_prob(found.unsquash(action))
        if isinstance(found, Gaussian):
            return None
        if deterministic:
            same = (found.mode() == action).reshape(len(action), -1).all(axis=-1)
            return jnp.where(same, 0.0, -jnp.inf)
        return found.log_prob(action)

    action = spaces.as_drawn(data.spec.action_space, data.action)
    parts = []
    for start in range(0, data.steps, AT_ONCE):
        rows = slice(start, min(start + AT_ONCE, data.steps))
        before = jax.tree.map(lambda x, rows=rows: x[data.place[rows]], data.observation)
        part = some(before, action[rows])
        if part is None:
            return (
                "No importance sampling: a deterministic policy of continuous actions draws none "
                "of those that were recorded. Judge the one that explores: --stochastic (Python: "
                "deterministic=False)."
                if deterministic
                else "No importance sampling: the policy's draws are clipped to the bounds, so "
                "that its actions have no density there."
            )
        parts.append(np.asarray(part, np.float64))
    return np.concatenate(parts)


def ratios(data: Dataset, log_prob: Float[np.ndarray, " N"], gamma: float) -> Ratios:
    """Discounted rewards and cumulative ratios of every episode, in float64."""
    assert data.log_prob is not None
    longest = int(data.lengths.max())
    reward, log_ratio = np.zeros((data.episodes, longest)), np.zeros((data.episodes, longest))
    each = log_prob - data.log_prob.astype(np.float64)
    time = np.arange(data.steps) - data.starts[data.episode]
    reward[data.episode, time] = data.reward.astype(np.float64) * gamma**time
    log_ratio[data.episode, time] = each
    return Ratios(reward, np.cumsum(log_ratio, axis=1))


def weighted(found: Ratios, counts: Float[np.ndarray, "R E"]) -> Float[np.ndarray, " R"]:
    """Σ_i w_i G_i / Σ_i w_i, episodes counted so many times; w_i is the ratio at its end."""
    weight = _weights(found.log_ratio[:, -1:])[:, 0]
    with np.errstate(invalid="ignore"):
        return (counts @ (weight * found.reward.sum(1))) / (counts @ weight)


def per_decision(found: Ratios, counts: Float[np.ndarray, "R E"]) -> Float[np.ndarray, " R"]:
    """Σ_t Σ_i w_it γ^t r_it / Σ_i w_it; w_it is the ratio of the steps up to t."""
    weight = _weights(found.log_ratio)
    with np.errstate(invalid="ignore"):
        return ((counts @ (weight * found.reward)) / (counts @ weight)).sum(1)


def _weights(log_ratio: Float[np.ndarray, "E T"]) -> Float[np.ndarray, "E T"]:
    """Ratios up to a factor of each column, which takes no part in a weighted mean."""
    top = log_ratio.max(axis=0, keepdims=True)
    return np.exp(log_ratio - np.where(np.isfinite(top), top, 0.0))


def _weighted(
    found: Ratios, rng: np.random.Generator
) -> tuple[tuple[Estimate | None, Estimate | None], float]:
    episodes = len(found.reward)
    once, rows = np.ones((1, episodes)), _resampled(rng, episodes)
    counts = np.zeros((len(rows), episodes))
    np.add.at(counts, (np.arange(len(rows))[:, None], rows), 1)
    weight = _weights(found.log_ratio[:, -1:])[:, 0]
    if not weight.sum():
        return (None, None), 0.0
    effective = float(weight.sum() ** 2 / (weight**2).sum())
    estimates = [
        _percentile(float(estimate(found, once)[0]), estimate(found, counts))
        for estimate in (weighted, per_decision)
    ]
    return (estimates[0], estimates[1]), effective


def _resampled(rng: np.random.Generator, episodes: int) -> Int[np.ndarray, "R E"]:
    return rng.integers(episodes, size=(min(statistics.RESAMPLES, 1000), episodes))


def _percentile(value: float, drawn: Float[np.ndarray, " R"]) -> Estimate:
    known = drawn[np.isfinite(drawn)]
    if not len(known):
        return Estimate(float(value), np.nan, np.nan)
    low, high = np.quantile(known, [0.025, 0.975])
    return Estimate(float(value), float(low), float(high))


# ------------------------------------------------------------------------------ beside a training


@dataclass(frozen=True)
class Known:
    """What data alone tell of a trained policy. Means over the steps of the data set."""

    steps: int
    recorded_return: float  # Σ γ^k r_{t+k} of the data, up to the end of each episode
    value: float | None  # Q(s, a) of the recorded actions, or V(s) where that is what is learned
    correlation: float | None  # of the two
    agreement: float | None  # discrete: the share of the recorded actions that are the policy's
    distance: float | None  # continuous: between the two, in a dimension, where the box is 2 wide

    @property
    def _correlation(self) -> str:
        return "" if self.correlation is None else f"(correlation {self.correlation:.2f})"

    def __str__(self) -> str:
        lines = ["What the data alone tell:"]
        if self.value is not None:
            lines.append(
                f"  value of the recorded actions {self.value:,.2f}, their discounted returns "
                f"{self.recorded_return:,.2f} {self._correlation}"
            )
        if self.agreement is not None:
            lines.append(f"  the policy takes the recorded action in {self.agreement:.0%} of steps")
        if self.distance is not None:
            lines.append(
                f"  the policy's actions are {self.distance:.3f} from the recorded ones, in a "
                "dimension, of bounds that are 2 apart"
            )
        return "\n".join(lines)


def known_from(algorithm: Any, learner: Any, data: Dataset) -> Known:
    """What a data set tells of a learner, without any environment."""
    gamma = float(getattr(algorithm, "gamma", 0.99))
    recorded = data.returns_to_go(gamma)
    actor, spec = algorithm.actor(learner), data.spec
    values = hasattr(algorithm, "value")

    @jax.jit
    def some(observation: Observation, action: Array) -> tuple[Array, Array]:
        chosen, _ = algorithm.act(actor, observation, jax.random.key(0), explore=False)
        value = algorithm.value(learner, observation, action) if values else jnp.zeros(len(action))
        if isinstance(spec.action_space, gymnasium.spaces.Box):
            gap = jnp.abs(inside(spec, chosen) - inside(spec, action))
            return value, gap.mean(axis=-1)
        return value, (chosen == action).reshape(len(action), -1).all(axis=-1).astype(jnp.float32)

    action = spaces.as_drawn(spec.action_space, data.action)
    found = []
    for start in range(0, data.steps, AT_ONCE):
        rows = slice(start, min(start + AT_ONCE, data.steps))
        before = jax.tree.map(lambda x, rows=rows: x[data.place[rows]], data.observation)
        found.append([np.asarray(x, np.float64) for x in some(before, action[rows])])
    value, gap = (np.concatenate(x) for x in zip(*found, strict=True))
    box = isinstance(spec.action_space, gymnasium.spaces.Box)
    spread = values and value.std() > 0 and recorded.std() > 0
    return Known(
        data.steps,
        float(recorded.mean()),
        float(value.mean()) if values else None,
        float(np.corrcoef(value, recorded)[0, 1]) if spread else None,
        None if box else float(gap.mean()),
        float(gap.mean()) if box else None,
    )
