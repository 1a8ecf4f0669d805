"""What estimates of returns and advantages are: explicit sums over the steps of an episode.

In float64, and never by a recursion: what is audited is held against these.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

Numbers: TypeAlias = np.ndarray
UNKNOWN = 1e30  # a value that nobody was told of; what depends on it fits nothing


class Trajectory(NamedTuple):
    """Steps of B environments, every array [T, B]."""

    rewards: Numbers
    values: Numbers
    next_values: Numbers  # of the true successor, also where the episode ended
    following: Numbers  # of the observation that comes next: after an end, the reset one
    terminated: Numbers
    truncated: Numbers
    cut: Numbers  # after which steps a sum stops: the ends
    gamma: float
    lam: float
    ratio: Numbers  # π / μ of the action taken
    rho_clip: float = 1.5
    c_clip: float = 0.75
    n: int = 2
    before: Numbers | bool = False  # whether row 0 starts an episode, [B]

    def but(self, **changes: Any) -> Trajectory:
        """The same with other numbers, none of them checked."""
        return self._replace(**changes)

    @property
    def ended(self) -> Numbers:
        return self.terminated | self.truncated

    @property
    def bootstrap(self) -> Numbers:
        return np.where(self.terminated, 0.0, self.next_values)


def td_errors(x: Trajectory) -> Numbers:
    """δ_t = r_t + γ V(s_{t+1}) − V(s_t), with V = 0 after a termination."""
    return x.rewards + x.gamma * x.bootstrap - x.values


def _discounted(x: Trajectory, terms: Numbers, trace: Numbers) -> Numbers:
    """Σ_l γ^l (Π_{i<l} trace_{t+i}) terms_{t+l}, to the first end."""
    total, weight = np.zeros(terms.shape), np.ones(terms.shape)
    for lag in range(len(terms)):
        of = slice(0, len(terms) - lag)
        total[of] += np.where(weight[of] == 0, 0.0, weight[of] * terms[lag:])
        weight[of] *= np.where(x.cut[lag:], 0.0, x.gamma * trace[lag:])
        if not weight[of].any():
            break
    return total


def advantages_by_definition(x: Trajectory) -> Numbers:
    """A_t = Σ_l (γλ)^l δ_{t+l} to the first end (Schulman et al. 2016, eq. 16)."""
    return _discounted(x, td_errors(x), np.full(x.rewards.shape, x.lam))


def n_step_returns(x: Trajectory, n: int | None = None) -> Numbers:
    """G_t of n rewards and γ^n V of what follows them; fewer where the episode or batch ends."""
    steps, total = len(x.rewards), np.zeros(x.rewards.shape)
    bootstrap = np.nan_to_num(x.bootstrap, nan=UNKNOWN)
    alive = np.ones(total.shape, bool)  # whether the sum of step t has not stopped before t + lag
    for lag in range(min(n or steps, steps)):
        of = slice(0, steps - lag)
        stops = x.cut[lag:] | (lag + 1 == (n or steps))
        stops[-1] = True
        more = np.where(stops, x.gamma ** (lag + 1) * bootstrap[lag:], 0.0)
        total[of] += np.where(alive[of], x.gamma**lag * x.rewards[lag:] + more, 0.0)
        alive[of] &= ~stops
    return total


def lambda_returns(x: Trajectory) -> Numbers:
    """(1 − λ) Σ_n λ^{n−1} G^(n), the longest one with all the weight that is left."""
    steps, total = len(x.rewards), np.zeros(x.rewards.shape)
    returns = [n_step_returns(x, n) for n in range(1, steps + 1)]
    for t in range(steps):
        alive = np.ones(x.rewards.shape[1])
        for k in range(t, steps):
            n = k - t + 1
            stops = x.cut[k] if k < steps - 1 else np.ones_like(x.cut[k])
            weight = np.where(stops, x.lam ** (n - 1), (1 - x.lam) * x.lam ** (n - 1))
            total[t] += alive * weight * returns[n - 1][t]
            alive = alive * ~stops
    return total


def vtrace_targets(x: Trajectory) -> Numbers:
    """v_s = V(x_s) + Σ_t γ^{t−s} (Π_{i<t} c_i) ρ_t δ_t (Espeholt et al. 2018, eq. 1)."""
    rho, c = np.minimum(x.rho_clip, x.ratio), x.lam * np.minimum(x.c_clip, x.ratio)
    return x.values + _discounted(x, rho * td_errors(x), c)


def vtrace_advantages(x: Trajectory) -> Numbers:
    """ρ_s (r_s + γ v_{s+1} − V(x_s)): the policy gradient's weight in the same paper."""
    targets = vtrace_targets(x)
    after = np.where(x.cut, x.next_values, np.concatenate([targets[1:], x.next_values[-1:]]))
    after = np.where(x.terminated, 0.0, after)
    return np.minimum(x.rho_clip, x.ratio) * (x.rewards + x.gamma * after - x.values)


Quantity: TypeAlias = Callable[[Trajectory], Numbers]
QUANTITIES: dict[str, Quantity] = {
    "the TD error": td_errors,
    "generalised advantages": advantages_by_definition,
    "the return to the end of the episode or batch, minus V": lambda x: (
        n_step_returns(x) - x.values
    ),
    "the return to the end of the episode or batch": n_step_returns,
    "the Monte Carlo return of complete episodes": lambda x: n_step_returns(
        x.but(next_values=replace_last(x.next_values, x.next_values[-1] * x.ended[-1]))
    ),
    "the n-step return": lambda x: n_step_returns(x, x.n),
    "the TD target": lambda x: td_errors(x) + x.values,
    "the λ-return": lambda_returns,
    "generalised advantages, plus V": lambda x: advantages_by_definition(x) + x.values,
    "V-trace targets": vtrace_targets,
    "V-trace targets minus V": lambda x: vtrace_targets(x) - x.values,
}


def replace_last(x: Numbers, row: Numbers) -> Numbers:
    """The same with another last row."""
    return np.concatenate([x[:-1], row[None]])


# ------------------------------------------------------------------------------- densities


def integrates(actions: np.ndarray, logs: np.ndarray) -> bool:
    """Whether E[1(a in I) / p(a)] is the size of I, for many intervals I."""
    count = 8 if actions.shape[1] == 1 else 3
    cuts = [np.quantile(column, np.linspace(0.15, 0.85, count + 1)) for column in actions.T]
    for place in np.ndindex(*([count] * actions.shape[1])):
        inside, size = np.ones(len(actions), bool), 1.0
        for column, cut, k in zip(actions.T, cuts, place, strict=True):
            inside &= (cut[k] <= column) & (column < cut[k + 1])
            size *= cut[k + 1] - cut[k]
        terms = np.where(inside, np.exp(-np.clip(logs, -50, 50)), 0.0)
        error = terms.std() / math.sqrt(len(terms))
        if not abs(terms.mean() - size) <= 6.5 * error + 1e-3 * size:
            return False
    return True
