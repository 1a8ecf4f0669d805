"""Advantages, returns and V-trace as people write them: right ones, and ones with one mistake.

`RIGHT` and `WRONG` say how each is audited and, of the wrong ones, which check must find it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

GAMMA = 0.97
LAM = 0.9

# ------------------------------------------------------------------------------- right


def loop(rewards, values, dones, last_value, gamma, gae_lambda):
    advantages = np.zeros_like(rewards)
    running = 0
    for t in reversed(range(len(rewards))):
        following = last_value if t == len(rewards) - 1 else values[t + 1]
        delta = rewards[t] + gamma * following * (1 - dones[t]) - values[t]
        running = delta + gamma * gae_lambda * (1 - dones[t]) * running
        advantages[t] = running
    return advantages, advantages + values


def lists(rewards, values, next_value, dones, gamma=0.99, lam=0.95):
    gae, returns = 0, []
    values = [*values, next_value]
    for step in reversed(range(len(rewards))):
        if dones[step]:
            gae = rewards[step] - values[step]
        else:
            delta = rewards[step] + gamma * values[step + 1] - values[step]
            gae = delta + gamma * lam * gae
        returns.insert(0, gae + values[step])
    return returns


def cleanrl_style(rewards, values, dones, next_value, next_done, gamma, gae_lambda):
    """dones[t] says that observation t starts an episode."""
    advantages = np.zeros_like(rewards)
    lastgaelam = 0
    for t in reversed(range(rewards.shape[0])):
        if t == rewards.shape[0] - 1:
            nextnonterminal = 1.0 - next_done
            nextvalues = next_value
        else:
            nextnonterminal = 1.0 - dones[t + 1]
            nextvalues = values[t + 1]
        delta = rewards[t] + gamma * nextvalues * nextnonterminal - values[t]
        lastgaelam = delta + gamma * gae_lambda * nextnonterminal * lastgaelam
        advantages[t] = lastgaelam
    return advantages, advantages + values


class Buffer:
    """Keeps everything itself, and needs arguments to be made."""

    def __init__(self, size: int, gamma: float, gae_lambda: float) -> None:
        self.buffer_size, self.gamma, self.gae_lambda = size, gamma, gae_lambda
        self.rewards = self.values = self.episode_starts = self.advantages = np.zeros(size)

    def compute(self, last_values: np.ndarray, dones: np.ndarray) -> None:
        last = 0
        for step in reversed(range(self.buffer_size)):
            if step == self.buffer_size - 1:
                alive, following = 1.0 - dones.astype(np.float32), last_values
            else:
                alive, following = 1.0 - self.episode_starts[step + 1], self.values[step + 1]
            delta = self.rewards[step] + self.gamma * following * alive - self.values[step]
            last = delta + self.gamma * self.gae_lambda * alive * last
            self.advantages[step] = last
        self.returns = self.advantages + self.values


class Agent:
    def __init__(self, gamma=0.9, lam=0.8):
        self.gamma, self.lam = gamma, lam

    def gae(self, rewards, values, masks):
        """values has one more than rewards."""
        out, g = [], 0.0
        for i in reversed(range(len(rewards))):
            delta = rewards[i] + self.gamma * values[i + 1] * masks[i] - values[i]
            g = delta + self.gamma * self.lam * masks[i] * g
            out.append(g)
        return np.array(out[::-1])

    def broken(self, rewards, values, masks):
        out, g = [], 0.0
        for i in reversed(range(len(rewards))):
            delta = rewards[i] + self.gamma * values[i + 1] * masks[i] - values[i]
            g = delta + self.gamma * self.lam * self.lam * masks[i] * g
            out.append(g)
        return np.array(out[::-1])


def full(rewards, values, next_values, terminated, truncated, gamma, lam):
    delta = rewards + gamma * (1 - terminated) * next_values - values
    ended = np.maximum(terminated, truncated)
    out, g = np.zeros_like(delta), 0
    for t in reversed(range(len(delta))):
        g = delta[t] + gamma * lam * (1 - ended[t]) * g
        out[t] = g
    return out


def done_means_terminated(rewards, values, next_values, dones, truncated, gamma, lam):
    return full(rewards, values, next_values, dones, truncated, gamma, lam)


def done_and_truncated(rewards, values, next_values, dones, truncated, gamma, lam):
    return full(rewards, values, next_values, dones - truncated, truncated, gamma, lam)


def in_place(rewards, values, dones, last_value, advantages, gamma, lam):
    advantages[:] = loop(rewards, values, dones, last_value, gamma, lam)[0]


def generated(rewards, values, dones, last_value, gamma, lam) -> Iterator[Any]:
    yield from loop(rewards, values, dones, last_value, gamma, lam)[0]


def as_dict(rewards, values, dones, last_value, gamma, lam):
    print("noise that must not show")
    advantages, returns = loop(rewards, values, dones, last_value, gamma, lam)
    return {"returns": returns, "note": "words", "advantages": advantages}


@jax.jit
def scanned(rewards, values, dones, last_value, gamma, lam):
    following = jnp.concatenate([values[1:], last_value[None]])
    delta = rewards + gamma * following * (1 - dones) - values

    def back(carry, row):
        delta, done = row
        carry = delta + gamma * lam * (1 - done) * carry
        return carry, carry

    return jax.lax.scan(back, jnp.zeros_like(last_value), (delta, dones), reverse=True)[1]


def flags(rewards, values, dones, last_value, gamma, lam):
    """Works on booleans only."""
    alive = (~dones).astype(float)
    return loop(rewards, values, 1 - alive, last_value, gamma, lam)[0]


def normalised(rewards, values, dones, last_value, gamma, lam):
    advantages, returns = loop(rewards, values, dones, last_value, gamma, lam)
    return (advantages - advantages.mean()) / (advantages.std() + 1e-8), returns


def module_constants(rewards, values, dones, last_value):
    return loop(rewards, values, dones, last_value, GAMMA, LAM)[0]


def literals(rewards, values, dones, last_value):
    out, g = [0.0] * len(rewards), 0.0
    for t in range(len(rewards) - 1, -1, -1):
        v = last_value if t + 1 == len(rewards) else values[t + 1]
        g = rewards[t] + 0.98 * v * (1 - dones[t]) - values[t] + 0.98 * 0.9 * (1 - dones[t]) * g
        out[t] = g
    return np.array(out)


def last_axis(rewards, values, dones, last_value, gamma, lam):
    """One trajectory at a time."""
    following = np.append(values[..., 1:], np.expand_dims(last_value, -1), -1)
    delta = rewards + gamma * following * (1 - dones) - values
    out, g = np.zeros_like(delta), 0
    for t in range(delta.shape[-1] - 1, -1, -1):
        g = delta[..., t] + gamma * lam * (1 - dones[..., t]) * g
        out[..., t] = g
    return out


def last_axis_successors(rewards, values, next_values, dones, gamma, lam):
    """One trajectory, or a batch of them with the time behind."""
    delta = rewards + gamma * next_values * (1 - dones) - values
    out, g = np.zeros_like(delta), 0
    for t in range(delta.shape[-1] - 1, -1, -1):
        g = delta[..., t] + gamma * lam * (1 - dones[..., t]) * g
        out[..., t] = g
    return out


def appending(rewards, values, next_value, gamma, lam):
    """Of lists: with arrays, + would add the last value to all the others."""
    following = (values + [next_value])[1:]  # noqa: RUF005
    out, g = [], 0.0
    for r, v, after in list(zip(rewards, values, following, strict=False))[::-1]:
        g = r + gamma * after - v + gamma * lam * g
        out.insert(0, g)
    return out


def td_error(reward, value, next_value, terminated, gamma):
    return reward + gamma * next_value * (1 - terminated) - value


def single_precision(rewards, values, dones, last_value, gamma, lam):
    f = np.float32
    return loop(f(rewards), f(values), f(dones), f(last_value), f(gamma), f(lam))[0] + 0.0


def terminal_on_purpose(rewards, values, next_values, terminated, truncated, gamma, lam):
    return full(
        rewards, values, next_values, np.maximum(terminated, truncated), truncated, gamma, lam
    )


def odd_names(rr, vv, dones, boot, gamma, lam):
    return loop(rr, vv, dones, boot, gamma, lam)[0]


def reward_to_go(rewards, gamma):
    total, out = 0.0, []
    for r in rewards[::-1]:
        total = r + gamma * total
        out.insert(0, total)
    return out


def standardised_returns(rewards, dones, gamma=0.99):
    out, total = np.zeros_like(rewards), 0
    for t in reversed(range(len(rewards))):
        total = rewards[t] + gamma * total * (1 - dones[t])
        out[t] = total
    return (out - out.mean()) / (out.std() + 1e-5)


def bootstrapped_returns(rewards, dones, last_value, gamma):
    out, total = np.zeros_like(rewards), last_value
    for t in reversed(range(len(rewards))):
        total = rewards[t] + gamma * total * (1 - dones[t])
        out[t] = total
    return out


def n_step(rewards, dones, values, last_value, gamma, n):
    steps = len(rewards)
    extended = np.concatenate([values, np.asarray(last_value)[None]])
    out = np.zeros_like(rewards)
    for t in range(steps):
        alive, discount = np.ones_like(rewards[0]), 1.0
        for k in range(t, min(t + n, steps)):
            out[t] += alive * discount * rewards[k]
            alive = alive * (1 - dones[k])
            discount *= gamma
        out[t] += alive * discount * extended[min(t + n, steps)]
    return out


def lambda_return(rewards, values, dones, last_value, gamma, lam):
    return loop(rewards, values, dones, last_value, gamma, lam)[1]


def td_target(rewards, next_values, dones, gamma):
    return rewards + gamma * (1 - dones) * next_values


def vtrace(
    log_rhos, discounts, rewards, values, bootstrap_value,
    clip_rho_threshold=1.0, clip_pg_rho_threshold=1.0, clip_c_threshold=1.0,
):  # fmt: skip
    ratio = np.exp(log_rhos)
    rho, c = np.minimum(clip_rho_threshold, ratio), np.minimum(clip_c_threshold, ratio)
    following = np.concatenate([values[1:], bootstrap_value[None]])
    delta = rho * (rewards + discounts * following - values)
    corrections, total = np.zeros_like(values), 0
    for t in reversed(range(len(values))):
        total = delta[t] + discounts[t] * c[t] * total
        corrections[t] = total
    vs = corrections + values
    after = np.concatenate([vs[1:], bootstrap_value[None]])
    weight = np.minimum(clip_pg_rho_threshold, ratio)
    return vs, weight * (rewards + discounts * after - values)


def vtrace_errors(v_tm1, v_t, r_t, discount_t, rho_tm1, lambda_=1.0, clip_rho_threshold=1.0):
    """v_t is the value of the next state, c is clipped at 1."""
    rho, c = np.minimum(clip_rho_threshold, rho_tm1), lambda_ * np.minimum(1.0, rho_tm1)
    delta = rho * (r_t + discount_t * v_t - v_tm1)
    out, total = np.zeros_like(delta), 0
    for t in reversed(range(len(delta))):
        total = delta[t] + discount_t[t] * c[t] * total
        out[t] = total
    return out


def discounts_and_longer_values(r_t, discount_t, lambda_, values):
    delta = r_t + discount_t * values[1:] - values[:-1]
    out, total = np.zeros_like(delta), 0
    for t in reversed(range(len(delta))):
        total = delta[t] + discount_t[t] * lambda_ * total
        out[t] = total
    return out


class Plan(NamedTuple):
    """How a function is audited."""

    function: Any
    kind: str = "advantages"
    options: Mapping[str, Any] = MappingProxyType({})
    says: str = ""  # part of a convention that the report must name


RIGHT = {
    "loop": Plan(loop, says="dones alone"),
    "lists": Plan(lists, "returns", says="λ-return"),
    "cleanrl_style": Plan(cleanrl_style, says="observation t starts an episode"),
    "method_of_buffer": Plan(Buffer(5, 0.9, 0.9).compute, says="observation t starts"),
    "method": Plan(Agent().gae, says="T + 1 rows"),
    "full": Plan(full),
    "done_means_terminated": Plan(done_means_terminated, says="done means terminated"),
    "done_and_truncated": Plan(done_and_truncated),
    "in_place": Plan(in_place),
    "generated": Plan(generated),
    "as_dict": Plan(as_dict),
    "scanned": Plan(scanned),
    "flags": Plan(flags),
    "normalised": Plan(normalised, says="population deviation"),
    "module_constants": Plan(module_constants, says="gamma = 0.97, of its module"),
    "literals": Plan(literals, says="lam = 0.9, not a parameter"),
    "last_axis": Plan(last_axis, says="dones alone"),
    "last_axis_successors": Plan(last_axis_successors, says="time is the last axis"),
    "appending": Plan(appending),
    "batch_first": Plan(last_axis, options={"layout": "BT"}),
    "td_error": Plan(td_error, says="TD error"),
    "single_precision": Plan(single_precision),
    "terminal_on_purpose": Plan(
        terminal_on_purpose, options={"time_limits": "terminal"}, says="counts as a termination"
    ),
    "odd_names": Plan(
        odd_names, options={"mapping": {"rr": "rewards", "vv": "values", "boot": "last_value"}}
    ),
    "reward_to_go": Plan(reward_to_go, "returns", says="the last step ends its episode"),
    "standardised_returns": Plan(standardised_returns, "returns", says="population"),
    "bootstrapped_returns": Plan(bootstrapped_returns, "returns"),
    "n_step": Plan(n_step, "returns", says="n-step"),
    "lambda_return": Plan(lambda_return, "returns", says="λ-return"),
    "td_target": Plan(td_target, "returns", says="TD target"),
    "vtrace": Plan(vtrace, "vtrace"),
    "vtrace_errors": Plan(vtrace_errors, "vtrace", says="V-trace targets minus V"),
    "discounts_and_longer_values": Plan(discounts_and_longer_values, says="discounts contain"),
    "case": Plan(
        lambda case: loop(
            case.rewards, case.values, case.dones, case.last_value, case.gamma, case.gae_lambda
        )
    ),
    "case_next_done": Plan(
        lambda case: cleanrl_style(
            case.rewards, case.values, case.dones, case.next_value, case.next_done, case.gamma,
            case.lam,
        )
    ),
    "case_full": Plan(
        lambda case: full(
            case.rewards, case.values, case.next_values, case.terminated, case.truncated,
            case.gamma, case.gae_lambda,
        )
    ),
}  # fmt: skip

# ------------------------------------------------------------------------------- wrong


def truncation_zeroes(rewards, values, next_values, terminated, truncated, gamma, lam):
    done = np.maximum(terminated, truncated)
    return full(rewards, values, next_values, done, done, gamma, lam)


def truncation_zeroes_by_done(rewards, values, next_values, dones, truncated, gamma, lam):
    return full(rewards, values, next_values, dones, dones, gamma, lam)


def termination_bootstraps(rewards, values, dones, last_value, gamma, lam):
    out, g = np.zeros_like(rewards), 0
    for t in reversed(range(len(rewards))):
        following = last_value if t == len(rewards) - 1 else values[t + 1]
        g = rewards[t] + gamma * following - values[t] + gamma * lam * (1 - dones[t]) * g
        out[t] = g
    return out


def termination_bootstraps_successors(
    rewards, values, next_values, terminated, truncated, gamma, lam
):
    return full(
        rewards, values, next_values, 0 * terminated, np.maximum(terminated, truncated), gamma, lam
    )


def ends_ignored(rewards, values, dones, last_value, gamma, lam):
    return loop(rewards, values, 0 * dones, last_value, gamma, lam)[0]


def reset_observation(rewards, values, next_values, terminated, truncated, gamma, lam):
    following = np.concatenate([values[1:], next_values[-1:]])
    return full(rewards, values, following, terminated, truncated, gamma, lam)


def reset_observation_without_successors(
    rewards, values, last_value, terminated, truncated, gamma, lam
):
    following = np.concatenate([values[1:], np.asarray(last_value)[None]])
    return full(rewards, values, following, terminated, truncated, gamma, lam)


def done_late(rewards, values, dones, last_value, gamma, lam):
    late = np.concatenate([0 * dones[:1], dones[:-1]])
    return loop(rewards, values, late, last_value, gamma, lam)


def done_early(rewards, values, dones, last_value, gamma, lam):
    early = np.concatenate([dones[1:], dones[-1:]])
    return loop(rewards, values, early, last_value, gamma, lam)


def leaking_trace(rewards, values, next_values, terminated, truncated, gamma, lam):
    return full(rewards, values, next_values, terminated, terminated, gamma, lam)


def no_lambda(rewards, values, dones, last_value, gamma, lam):
    return loop(rewards, values, dones, last_value, gamma, 1.0)[0]


def lambda_twice(rewards, values, dones, last_value, gamma, lam):
    return loop(rewards, values, dones, last_value, gamma, lam * lam)[0]


def bootstrap_not_discounted(rewards, values, dones, last_value, gamma, lam):
    following = np.concatenate([values[1:], np.asarray(last_value)[None]])
    delta = rewards + following * (1 - dones) - values
    out, g = np.zeros_like(delta), 0
    for t in reversed(range(len(delta))):
        g = delta[t] + gamma * lam * (1 - dones[t]) * g
        out[t] = g
    return out


def last_doubled(rewards, values, dones, last_value, gamma, lam):
    rewards = rewards.copy()
    rewards[-1] += gamma * last_value * (1 - dones[-1])
    return loop(rewards, values, dones, last_value, gamma, lam)[0]


def last_dropped(rewards, values, dones, last_value, gamma, lam):
    return loop(rewards, values, dones, 0 * last_value, gamma, lam)[0]


def axes_swapped(rewards, values, next_values, dones, gamma, lam):
    delta = rewards + gamma * next_values * (1 - dones) - values
    out, g = np.zeros_like(delta), 0
    for t in reversed(range(delta.shape[1])):
        g = delta[:, t] + gamma * lam * (1 - dones[:, t]) * g
        out[:, t] = g
    return out


def returns_without_value(rewards, values, dones, last_value, gamma, lam):
    advantages, _ = loop(rewards, values, dones, last_value, gamma, lam)
    return advantages, advantages.copy()


def only_returns_without_value(rewards, values, dones, last_value, gamma, lam):
    return loop(rewards, values, dones, last_value, gamma, lam)[0]


def returns_after_normalisation(rewards, values, dones, last_value, gamma, lam):
    advantages = normalised(rewards, values, dones, last_value, gamma, lam)[0]
    return advantages, advantages + values


def normalised_by_environment(rewards, values, dones, last_value, gamma, lam):
    advantages, _ = loop(rewards, values, dones, last_value, gamma, lam)
    return (advantages - advantages.mean(0)) / (advantages.std(0) + 1e-8)


def normalised_by_time(rewards, values, dones, last_value, gamma, lam):
    advantages, _ = loop(rewards, values, dones, last_value, gamma, lam)
    mean, deviation = advantages.mean(1, keepdims=True), advantages.std(1, keepdims=True)
    return (advantages - mean) / (deviation + 1e-8)


def nan_for_one(rewards, values, dones, last_value, gamma, lam):
    advantages, _ = loop(rewards, values, dones, last_value, gamma, lam)
    return (advantages - advantages.mean()) / (advantages.std(ddof=1) + 1e-8)


def broadcast(rewards, values, next_values, dones, gamma):
    values, next_values = values.reshape(-1, 1), next_values.reshape(-1, 1)
    return rewards + gamma * next_values * (1 - dones) - values


def target_for_advantage(rewards, values, next_values, dones, gamma):
    return rewards + gamma * next_values * (1 - dones)


def return_for_advantage(rewards, values, dones, last_value, gamma, lam):
    return loop(rewards, values, dones, last_value, gamma, lam)[1]


def two_mistakes(rewards, values, dones, last_value, gamma, lam):
    return loop(rewards, values, dones, 0 * last_value, gamma, lam * lam)[0]


def unheard_of(rewards, values, dones, last_value, gamma, lam):
    return loop(rewards, values, dones, last_value, gamma, lam)[0] + 0.1 * rewards**2


def n_step_over_ends(rewards, dones, values, last_value, gamma, n):
    return n_step(rewards, 0 * dones, values, last_value, gamma, n)


def returns_over_ends(rewards, dones, gamma):
    return standardless(rewards, 0 * dones, gamma)


def standardless(rewards, dones, gamma):
    return bootstrapped_returns(rewards, dones, 0 * rewards[0], gamma)


def clips_swapped(log_rhos, discounts, rewards, values, bootstrap_value, rho_bar, c_bar):
    return vtrace(log_rhos, discounts, rewards, values, bootstrap_value, c_bar, c_bar, rho_bar)[0]


def rho_not_clipped(log_rhos, discounts, rewards, values, bootstrap_value, rho_bar, c_bar):
    return vtrace(log_rhos, discounts, rewards, values, bootstrap_value, 1e9, 1e9, c_bar)[0]


def ratio_inverted(log_rhos, discounts, rewards, values, bootstrap_value, rho_bar, c_bar):
    return vtrace(-log_rhos, discounts, rewards, values, bootstrap_value, rho_bar, rho_bar, c_bar)[
        0
    ]


WRONG = {
    "truncation-bootstraps": [Plan(truncation_zeroes), Plan(truncation_zeroes_by_done)],
    "termination-drops-bootstrap": [
        Plan(termination_bootstraps),
        Plan(termination_bootstraps_successors),
    ],
    "bootstrap-from-true-successor": [
        Plan(reset_observation),
        Plan(reset_observation_without_successors),
    ],
    "done-flag-aligned": [Plan(done_late), Plan(done_early)],
    "trace-cut-at-episode-end": [Plan(leaking_trace), Plan(ends_ignored)],
    "lambda-applied-once": [Plan(no_lambda), Plan(lambda_twice), Plan(Agent().broken)],
    "bootstrap-discounted": [Plan(bootstrap_not_discounted)],
    "last-bootstrap-once": [Plan(last_doubled)],
    "last-bootstrap-used": [Plan(last_dropped)],
    "time-axis": [Plan(axes_swapped)],
    "returns-include-value": [
        Plan(returns_without_value),
        Plan(only_returns_without_value, "returns"),
        Plan(returns_after_normalisation),
    ],
    "normalisation-axis": [Plan(normalised_by_environment), Plan(normalised_by_time)],
    "normalisation-of-one-element": [Plan(nan_for_one)],
    "output-shape": [Plan(broadcast)],
    "baseline-subtracted": [Plan(target_for_advantage), Plan(return_for_advantage)],
    "returns-stop-at-episode-end": [
        Plan(n_step_over_ends, "returns"),
        Plan(returns_over_ends, "returns"),
    ],
    "rho-and-c-clips": [Plan(clips_swapped, "vtrace")],
    "clips-applied": [Plan(rho_not_clipped, "vtrace")],
    "ratio-of-target-to-behaviour": [Plan(ratio_inverted, "vtrace")],
}
