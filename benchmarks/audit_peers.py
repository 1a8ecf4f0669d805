"""No false alarm on correct code: `python benchmarks/audit_peers.py --cleanrl CHECKOUT [options]`.

Audits functions of Stable-Baselines3, TorchRL, rlax, CleanRL and this library, with as many seeds
as it takes to have given each 1,000 different random arguments (`--cases`). It runs in an
environment of its own, which has the libraries:

  pip install stable-baselines3 torchrl rlax distrax dm-env actorcritic tfp-nightly
  git clone https://github.com/vwxyzjn/cleanrl CHECKOUT

CleanRL and the `train` methods of Stable-Baselines3 have their estimates and losses inline: those
lines are found by what is written in them, and run as they stand. Nothing is copied from there.
Writes benchmarks/results/audit_peers.json; exit code 1 where there was a false alarm. What is found
and is so, as a call outside the audit proves, is counted by itself ("true").
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import importlib.metadata
import inspect
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from actorcritic import audit
from actorcritic.audit import calling

HERE = Path(__file__).resolve().parent
PACKAGES = (
    "actorcritic",
    "stable_baselines3",
    "torchrl",
    "tensordict",
    "rlax",
    "distrax",
    "torch",
    "jax",
    "numpy",
    "gymnasium",
)


@dataclass(frozen=True)
class Subject:
    """A function that is right, and how it is audited."""

    library: str
    name: str  # of what it calls, in its library
    kind: str
    function: Callable[..., Any]
    mapping: Mapping[str, str] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    declared: str = ""  # a deviation that its documentation states, if it has one
    undefined_for_one: bool = False  # NaN for a batch of one element, which is proved by a call


# ------------------------------------------------------------------------------- excerpts


def excerpt(text: str, first: str, end: str, where: str) -> Any:
    """The lines from the one with `first` up to the one with `end`, compiled."""
    lines = text.splitlines()
    starts = [i for i, line in enumerate(lines) if first in line]
    stops = [i for i, line in enumerate(lines) if end in line and starts and i > starts[0]]
    if len(starts) != 1 or not stops:
        raise SystemExit(f"{where}: '{first}' … '{end}' is not there once; other version?")
    return compile(textwrap.dedent("\n".join(lines[starts[0] : stops[0]])), where, "exec")


# ------------------------------------------------------------------------------- the libraries


def stable_baselines3(cleanrl: Path | None) -> Iterator[Subject]:
    import gymnasium
    import torch
    import torch.nn.functional as functional
    from stable_baselines3 import A2C, PPO
    from stable_baselines3.common import distributions
    from stable_baselines3.common.buffers import RolloutBuffer

    made = functools.partial(Subject, "Stable-Baselines3")
    spaces = gymnasium.spaces.Box(-1, 1, (1,)), gymnasium.spaces.Discrete(2)

    def rollout_buffer(rewards, values, episode_starts, last_values, dones, gamma, gae_lambda):
        steps, envs = np.shape(rewards)
        buffer = RolloutBuffer(steps, *spaces, "cpu", gae_lambda, gamma, envs)
        for t in range(steps):
            actions, value = np.zeros((envs, 1)), torch.as_tensor(values[t])
            observation, log_prob = np.zeros((envs, 1)), torch.zeros(envs)
            buffer.add(observation, actions, rewards[t], episode_starts[t], value, log_prob)
        buffer.compute_returns_and_advantage(torch.as_tensor(last_values), np.asarray(dones))
        return buffer.advantages, buffer.returns

    def gaussian(actions: torch.Tensor, mean_actions, log_std):
        found = distributions.DiagGaussianDistribution(mean_actions.shape[-1])
        return found.proba_distribution(mean_actions, log_std).log_prob(actions)

    def squashed(gaussian_actions: torch.Tensor, mean_actions, log_std):
        found = distributions.SquashedDiagGaussianDistribution(mean_actions.shape[-1])
        found = found.proba_distribution(mean_actions, log_std)
        return found.log_prob(torch.tanh(gaussian_actions), gaussian_actions)

    def squashed_inverse(actions: torch.Tensor, mean_actions, log_std):
        found = distributions.SquashedDiagGaussianDistribution(mean_actions.shape[-1])
        return found.proba_distribution(mean_actions, log_std).log_prob(actions)

    def squashed_sample(mean_actions: torch.Tensor, log_std):
        found = distributions.SquashedDiagGaussianDistribution(mean_actions.shape[-1])
        return found.log_prob_from_params(mean_actions, log_std)

    def gaussian_sample(mean_actions: torch.Tensor, log_std):
        found = distributions.DiagGaussianDistribution(mean_actions.shape[-1])
        return found.log_prob_from_params(mean_actions, log_std)

    def categorical(logits: torch.Tensor, actions):
        found = distributions.CategoricalDistribution(logits.shape[-1])
        return found.proba_distribution(logits).log_prob(actions)

    ppo_lines = excerpt(
        inspect.getsource(PPO.train), "values = values.flatten()", "# Calculate approx", "PPO.train"
    )
    a2c_lines = excerpt(
        inspect.getsource(A2C.train), "values = values.flatten()", "# Optimization", "A2C.train"
    )

    def ppo(normalized: bool, clipped: bool) -> Callable[..., Any]:
        def ppo_loss(
            log_prob: torch.Tensor, old_log_prob, advantages, values, old_values, returns, entropy,
            clip_range, clip_range_vf, vf_coef, ent_coef,
        ):  # fmt: skip
            data = SimpleNamespace(
                advantages=advantages, old_log_prob=old_log_prob, old_values=old_values,
                returns=returns,
            )  # fmt: skip
            self = SimpleNamespace(
                normalize_advantage=normalized, clip_range_vf=clip_range_vf if clipped else None,
                ent_coef=ent_coef, vf_coef=vf_coef,
            )  # fmt: skip
            space: dict[str, Any] = {
                "self": self, "rollout_data": data, "values": values, "log_prob": log_prob,
                "entropy": entropy,
                "clip_range": clip_range, "clip_range_vf": clip_range_vf,
                "th": torch, "F": functional,
                "pg_losses": [], "value_losses": [], "entropy_losses": [], "clip_fractions": [],
            }  # fmt: skip
            exec(ppo_lines, space)
            return space["loss"]

        return ppo_loss

    def a2c(normalized: bool) -> Callable[..., Any]:
        def a2c_loss(
            log_prob: torch.Tensor, advantages, values, returns, entropy, vf_coef, ent_coef
        ):
            data = SimpleNamespace(advantages=advantages, returns=returns)
            self = SimpleNamespace(
                normalize_advantage=normalized, ent_coef=ent_coef, vf_coef=vf_coef
            )
            space: dict[str, Any] = {
                "self": self, "rollout_data": data, "values": values, "log_prob": log_prob,
                "entropy": entropy,
                "th": torch, "F": functional,
            }  # fmt: skip
            exec(a2c_lines, space)
            return space["loss"]

        return a2c_loss

    epsilon = "1e-6 is added inside the logarithm of the tanh correction (`epsilon`)"
    yield made("RolloutBuffer.compute_returns_and_advantage", "advantages", rollout_buffer)
    yield made("PPO.train: loss, as it is by default", "ppo-loss", ppo(True, False))
    yield made("PPO.train: loss, clipped values", "ppo-loss", ppo(False, True))
    yield made("A2C.train: loss", "actor-loss", a2c(False))
    yield made(
        "A2C.train: loss, normalised advantages", "actor-loss", a2c(True), undefined_for_one=True
    )
    yield made("DiagGaussianDistribution.log_prob", "distribution", gaussian)
    yield made("DiagGaussianDistribution.log_prob_from_params", "distribution", gaussian_sample)
    name = "SquashedDiagGaussianDistribution"
    yield made(f"{name}.log_prob", "distribution", squashed, declared=epsilon)
    yield made(f"{name}.log_prob of actions", "distribution", squashed_inverse, declared=epsilon)
    yield made(f"{name}.log_prob_from_params", "distribution", squashed_sample, declared=epsilon)
    yield made("CategoricalDistribution.log_prob", "distribution", categorical)


def torchrl(cleanrl: Path | None) -> Iterator[Subject]:
    import torch
    from tensordict import TensorDict
    from tensordict.nn import (
        ProbabilisticTensorDictModule,
        ProbabilisticTensorDictSequential,
        TensorDictModule,
    )
    from torchrl.modules.distributions import IndependentNormal, TanhNormal
    from torchrl.objectives import ClipPPOLoss
    from torchrl.objectives.value import functional

    made = functools.partial(Subject, "TorchRL")

    def turned(*arrays: torch.Tensor) -> list[torch.Tensor]:
        """[T, B] to [B, T, 1], as it wants them."""
        return [x.T.unsqueeze(-1) for x in arrays]

    def back(x: torch.Tensor) -> torch.Tensor:
        return x.squeeze(-1).T

    def advantages(name: str) -> Callable[..., Any]:
        estimate = getattr(functional, name)

        def gae(rewards: torch.Tensor, values, next_values, dones, terminated, gamma, lmbda):
            r, v, v2, d, t = turned(rewards, values, next_values, dones.bool(), terminated.bool())
            advantage, target = estimate(gamma, lmbda, v, v2, r, d, t)
            return back(advantage), back(target)

        return gae

    def lambda_returns(name: str) -> Callable[..., Any]:
        estimate = getattr(functional, name)

        def td_lambda_return(rewards: torch.Tensor, next_values, dones, terminated, gamma, lmbda):
            r, v2, d, t = turned(rewards, next_values, dones.bool(), terminated.bool())
            return back(estimate(gamma, lmbda, v2, r, d, t))

        return td_lambda_return

    def td1_returns(name: str) -> Callable[..., Any]:
        estimate = getattr(functional, name)

        def td1_return(rewards: torch.Tensor, next_values, dones, terminated, gamma):
            r, v2, d, t = turned(rewards, next_values, dones.bool(), terminated.bool())
            return back(estimate(gamma, v2, r, d, t))

        return td1_return

    def td1_advantage(rewards: torch.Tensor, values, next_values, dones, terminated, gamma):
        r, v, v2, d, t = turned(rewards, values, next_values, dones.bool(), terminated.bool())
        return back(functional.td1_advantage_estimate(gamma, v, v2, r, d, t))

    def td0_return(rewards: torch.Tensor, next_values, terminated, gamma):
        r, v2, t = turned(rewards, next_values, terminated.bool())
        return back(functional.td0_return_estimate(gamma, v2, r, t))

    def td0_advantage(rewards: torch.Tensor, values, next_values, dones, terminated, gamma):
        r, v, v2, d, t = turned(rewards, values, next_values, dones.bool(), terminated.bool())
        return back(functional.td0_advantage_estimate(gamma, v, v2, r, d, t))

    def reward_to_go(rewards: torch.Tensor, dones, gamma):
        r, d = turned(rewards, dones.bool())
        return back(functional.reward2go(r, d, gamma))

    def vtrace(
        target_log_prob: torch.Tensor, behaviour_log_prob, values, next_values, rewards, dones,
        terminated, gamma, rho_clip, c_clip,
    ):  # fmt: skip
        arrays = (target_log_prob, behaviour_log_prob, values, next_values, rewards)
        turned_ = turned(*arrays, dones.bool(), terminated.bool())
        found = functional.vtrace_advantage_estimate(gamma, *turned_, rho_clip, c_clip)
        return dict(zip(("advantages", "targets"), map(back, found), strict=True))

    def tanh_normal(action: torch.Tensor, mean, std, low, high):
        return TanhNormal(mean, std, low=low, high=high).log_prob(action)

    def tanh_normal_sample(mean: torch.Tensor, std, low, high):
        return TanhNormal(mean, std, low=low, high=high).rsample_and_log_prob()

    def normal(action: torch.Tensor, mean, std):
        return IndependentNormal(mean, std).log_prob(action)

    def clip_ppo(normalized: bool) -> Callable[..., Any]:
        actor = ProbabilisticTensorDictSequential(
            TensorDictModule(torch.nn.Identity(), in_keys=["scores"], out_keys=["logits"]),
            ProbabilisticTensorDictModule(
                in_keys=["logits"], out_keys=["action"], return_log_prob=True,
                distribution_class=torch.distributions.Categorical,
            ),
        )  # fmt: skip
        critic = TensorDictModule(
            torch.nn.Identity(), in_keys=["estimates"], out_keys=["state_value"]
        )

        def clip_ppo_loss(
            logits: torch.Tensor, actions, old_log_probs, advantages, values, returns, clip_range,
            vf_coef, ent_coef,
        ):  # fmt: skip
            loss = ClipPPOLoss(
                actor, critic, clip_epsilon=clip_range, critic_coeff=vf_coef,
                entropy_coeff=ent_coef, loss_critic_type="l2", normalize_advantage=normalized,
            )  # fmt: skip
            batch = {
                "scores": logits, "action": actions, "action_log_prob": old_log_probs,
                "advantage": advantages.unsqueeze(-1), "value_target": returns.unsqueeze(-1),
                "estimates": values.unsqueeze(-1),
            }  # fmt: skip
            found = loss(TensorDict(batch, [len(actions)]))
            return (
                found["loss_objective"] + found.get("loss_critic", 0) + found.get("loss_entropy", 0)
            )

        return clip_ppo_loss

    for name in ("generalized_advantage_estimate", "vec_generalized_advantage_estimate"):
        yield made(name, "advantages", advantages(name))
    for name in ("td_lambda_advantage_estimate", "vec_td_lambda_advantage_estimate"):
        estimate = getattr(functional, name)

        def td_lambda_advantage(
            rewards: torch.Tensor, values, next_values, dones, terminated, gamma, lmbda,
            estimate=estimate,
        ):  # fmt: skip
            arrays = (values, next_values, rewards, dones.bool(), terminated.bool())
            return back(estimate(gamma, lmbda, *turned(*arrays)))

        yield made(name, "advantages", td_lambda_advantage)
    yield made("td0_advantage_estimate", "advantages", td0_advantage)
    yield made("td1_advantage_estimate", "advantages", td1_advantage)
    for name in ("td_lambda_return_estimate", "vec_td_lambda_return_estimate"):
        yield made(name, "returns", lambda_returns(name))
    yield made("td0_return_estimate", "returns", td0_return)
    for name in ("td1_return_estimate", "vec_td1_return_estimate"):
        yield made(name, "returns", td1_returns(name))
    yield made("reward2go", "returns", reward_to_go)
    yield made("vtrace_advantage_estimate", "vtrace", vtrace)
    yield made("ClipPPOLoss", "ppo-loss", clip_ppo(False))
    yield made("ClipPPOLoss, normalised advantages", "ppo-loss", clip_ppo(True))
    yield made("IndependentNormal.log_prob", "distribution", normal)
    yield made("TanhNormal.log_prob", "distribution", tanh_normal)
    yield made("TanhNormal.rsample_and_log_prob", "distribution", tanh_normal_sample)


def rlax(cleanrl: Path | None) -> Iterator[Subject]:
    import jax
    import jax.numpy as jnp
    import rlax

    made = functools.partial(Subject, "rlax")

    def n_step(r_t: jax.Array, discount_t, v_t, n):
        return rlax.n_step_bootstrapped_returns(r_t, discount_t, v_t, n)

    def surrogate(log_probs: jax.Array, old_log_probs, advantages, epsilon):
        return rlax.clipped_surrogate_pg_loss(
            jnp.exp(log_probs - old_log_probs), advantages, epsilon
        )

    def policy_gradient(logits: jax.Array, actions, advantages):
        return rlax.policy_gradient_loss(logits, actions, advantages, jnp.ones_like(advantages))

    def with_entropy(logits: jax.Array, actions, advantages, entropy_coef):
        weights = jnp.ones_like(advantages)
        loss = rlax.policy_gradient_loss(logits, actions, advantages, weights)
        return loss + entropy_coef * rlax.entropy_loss(logits, weights)

    def softmax(action: jax.Array, logits):
        return rlax.softmax().logprob(action, logits)

    def softmax_sample(key: jax.Array, logits):
        action = rlax.softmax().sample(key, logits)
        return action, rlax.softmax().logprob(action, logits)

    def gaussian(action: jax.Array, mean, std):
        return rlax.gaussian_diagonal().logprob(action, mean, std)

    gae = rlax.truncated_generalized_advantage_estimation
    yield made("truncated_generalized_advantage_estimation", "advantages", gae)
    yield made("lambda_returns", "returns", rlax.lambda_returns)
    yield made("discounted_returns", "returns", rlax.discounted_returns)
    yield made("n_step_bootstrapped_returns", "returns", n_step)
    yield made("vtrace", "vtrace", rlax.vtrace)
    name = "vtrace_td_error_and_advantage"
    yield made(name, "vtrace", getattr(rlax, name))
    yield made("clipped_surrogate_pg_loss", "ppo-loss", surrogate)
    yield made("policy_gradient_loss", "actor-loss", policy_gradient)
    yield made("policy_gradient_loss + entropy_loss", "actor-loss", with_entropy)
    yield made("softmax().logprob", "distribution", softmax)
    yield made("softmax().sample, logprob", "distribution", softmax_sample)
    yield made("gaussian_diagonal().logprob", "distribution", gaussian)


def cleanrl(checkout: Path | None) -> Iterator[Subject]:
    if checkout is None:
        return
    import torch

    made = functools.partial(Subject, "CleanRL")

    def lines(file: str, first: str, end: str) -> Any:
        return excerpt((checkout / "cleanrl" / file).read_text(), first, end, f"cleanrl/{file}")

    def gae(file: str) -> Callable[..., Any]:
        code = lines(file, "# bootstrap value if not done", "# flatten the batch")

        def compute_gae(
            rewards: torch.Tensor, values, dones, next_value, next_done, gamma, gae_lambda
        ):
            args = SimpleNamespace(num_steps=len(rewards), gamma=gamma, gae_lambda=gae_lambda)
            agent = SimpleNamespace(get_value=lambda observation: observation)
            space: dict[str, Any] = {
                "torch": torch, "args": args, "agent": agent, "next_obs": next_value,
                "rewards": rewards,
                "values": values, "dones": dones, "next_done": next_done, "device": "cpu",
            }  # fmt: skip
            exec(code, space)
            return space["advantages"], space["returns"]

        return compute_gae

    def computed(file: str, given: Mapping[str, Any], **choices: Any) -> dict[str, Any]:
        """What the lines of the loss leave behind."""
        args = SimpleNamespace(**({"norm_adv": False, "clip_vloss": False} | choices))
        space: dict[str, Any] = {
            "torch": torch, "args": args, "mb_inds": slice(None), "clipfracs": [], **given
        }  # fmt: skip
        exec(losses[file], space)
        return space

    files = ("ppo.py", "ppo_continuous_action.py")
    first, end = "logratio = newlogprob - b_logprobs", "optimizer.zero_grad()"
    losses = {file: lines(file, first, end) for file in files}

    def whole(file: str, normalized: bool, clipped: bool) -> Callable[..., Any]:
        def ppo_loss(
            newlogprob: torch.Tensor, old_logprobs, advantages, newvalue, returns, old_values,
            entropy, clip_coef, vf_coef, ent_coef,
        ):  # fmt: skip
            given = {
                "newlogprob": newlogprob, "b_logprobs": old_logprobs,
                "b_advantages": advantages,
                "newvalue": newvalue, "b_returns": returns, "b_values": old_values,
                "entropy": entropy,
            }  # fmt: skip
            return computed(
                file, given, norm_adv=normalized, clip_vloss=clipped, clip_coef=clip_coef,
                vf_coef=vf_coef, ent_coef=ent_coef,
            )["loss"]  # fmt: skip

        return ppo_loss

    def policy(file: str, normalized: bool) -> Callable[..., Any]:
        def policy_loss(newlogprob: torch.Tensor, old_logprobs, advantages, clip_coef):
            nothing = torch.zeros(1)
            given = {
                "newlogprob": newlogprob, "b_logprobs": old_logprobs,
                "b_advantages": advantages,
                "newvalue": nothing, "b_returns": nothing, "b_values": nothing, "entropy": nothing,
            }  # fmt: skip
            return computed(
                file, given, norm_adv=normalized, clip_coef=clip_coef, vf_coef=0, ent_coef=0
            )["pg_loss"]

        return policy_loss

    def clipped_values(newvalue: torch.Tensor, returns, old_values, clip_coef):
        nothing = torch.zeros(1)
        given = {
            "newlogprob": nothing, "b_logprobs": nothing, "b_advantages": nothing,
            "newvalue": newvalue,
            "b_returns": returns, "b_values": old_values, "entropy": nothing,
        }  # fmt: skip
        return computed(
            "ppo.py", given, clip_vloss=True, clip_coef=clip_coef, vf_coef=0, ent_coef=0
        )["v_loss"]

    def plain_values(newvalue: torch.Tensor, returns):
        nothing = torch.zeros(1)
        given = {
            "newlogprob": nothing, "b_logprobs": nothing, "b_advantages": nothing,
            "newvalue": newvalue,
            "b_returns": returns, "b_values": nothing, "entropy": nothing,
        }  # fmt: skip
        return computed("ppo.py", given, clip_coef=0, vf_coef=0, ent_coef=0)["v_loss"]

    sac = lines("sac_continuous_action.py", "normal = torch.distributions", "mean = torch.tanh")

    def sac_sample(mean: torch.Tensor, std, action_scale, action_bias):
        """Squashed by tanh."""
        self = SimpleNamespace(action_scale=action_scale, action_bias=action_bias)
        space: dict[str, Any] = {"torch": torch, "self": self, "mean": mean, "std": std}
        exec(sac, space)
        return space["action"], space["log_prob"]

    for file in files:
        yield made(f"{file}: advantages and returns", "advantages", gae(file))
        yield made(
            f"{file}: loss, as it is by default",
            "ppo-loss",
            whole(file, True, True),
            undefined_for_one=True,
        )
        yield made(
            f"{file}: loss, no norm_adv, no clip_vloss", "ppo-loss", whole(file, False, False)
        )
        yield made(f"{file}: pg_loss", "ppo-loss", policy(file, False))
        yield made(
            f"{file}: pg_loss, norm_adv", "ppo-loss", policy(file, True), undefined_for_one=True
        )
    yield made("ppo.py: v_loss", "critic-loss", plain_values)
    yield made("ppo.py: v_loss, clip_vloss", "critic-loss", clipped_values)
    epsilon = "1e-6 is added inside the logarithm of the tanh correction"
    yield made(
        "sac_continuous_action.py: Actor.get_action", "distribution", sac_sample, declared=epsilon
    )


def actorcritic(cleanrl: Path | None) -> Iterator[Subject]:
    from actorcritic.maths import estimators, losses
    from actorcritic.maths.distributions import Categorical, Gaussian, TanhGaussian

    made = functools.partial(Subject, "actorcritic")

    def gaussian(action, mean, log_std):
        return Gaussian(mean, log_std).log_prob(action)

    def squashed(u, mean, log_std, low, high):
        return TanhGaussian(mean, log_std, low, high).log_prob(u)

    def categorical(logits, action):
        return Categorical(logits).log_prob(action)

    def gaussian_sample(key, mean, log_std):
        u = Gaussian(mean, log_std).sample(key)
        return u, Gaussian(mean, log_std).log_prob(u)

    def squashed_sample(key, mean, log_std, low, high):
        policy = TanhGaussian(mean, log_std, low, high)
        u = policy.sample(key)
        return policy.action(u), policy.log_prob(u)

    def categorical_sample(key, logits):
        action = Categorical(logits).sample(key)
        return action, Categorical(logits).log_prob(action)

    yield made("estimators.gae", "advantages", estimators.gae)
    yield made("estimators.td_errors", "advantages", estimators.td_errors)
    yield made("estimators.monte_carlo_returns", "returns", estimators.monte_carlo_returns)
    yield made("estimators.vtrace", "vtrace", estimators.vtrace)
    yield made("losses.policy_gradient_loss", "actor-loss", losses.policy_gradient_loss)
    yield made("losses.surrogate_loss", "actor-loss", losses.surrogate_loss)
    yield made("losses.clipped_surrogate_loss", "ppo-loss", losses.clipped_surrogate_loss)
    yield made("losses.value_loss", "critic-loss", losses.value_loss)
    yield made("losses.clipped_value_loss", "critic-loss", losses.clipped_value_loss)
    yield made("Gaussian.log_prob", "distribution", gaussian)
    yield made("Gaussian.sample, log_prob", "distribution", gaussian_sample)
    yield made("TanhGaussian.log_prob", "distribution", squashed)
    yield made("TanhGaussian.sample, action, log_prob", "distribution", squashed_sample)
    yield made("Categorical.log_prob", "distribution", categorical)
    yield made("Categorical.sample, log_prob", "distribution", categorical_sample)


LIBRARIES = {f.__name__: f for f in (actorcritic, stable_baselines3, cleanrl, torchrl, rlax)}


# ------------------------------------------------------------------------------- many audits


def fingerprint(values: tuple[Any, ...]) -> bytes:
    """Of the arguments of a call, whatever they are made of."""
    found = hashlib.sha256()
    for value in values:
        while hasattr(value, "primal"):  # JAX differentiates
            value = value.primal
        try:
            found.update(np.ascontiguousarray(calling.to_numpy(value)).tobytes())
        except Exception:
            found.update(str(value).encode())
    return found.digest()


def counted(function: Callable[..., Any], seen: set[bytes]) -> Callable[..., Any]:
    """The same function, which keeps what it was given."""

    @functools.wraps(function)
    def counting(*arguments: Any, **named: Any) -> Any:
        seen.add(fingerprint((*arguments, *named.values())))
        return function(*arguments, **named)

    return counting


@contextlib.contextmanager
def reseeded(seed: int) -> Iterator[None]:
    """Other random numbers for an audit that has no option for it."""
    made = np.random.default_rng

    def default_rng(own: Any = None) -> np.random.Generator:
        return made([seed, *np.atleast_1d(own)] if seed and own is not None else own)

    np.random.default_rng = default_rng  # type: ignore[assignment]
    try:
        yield
    finally:
        np.random.default_rng = made


UNDEFINED = "normalisation-finite"


def undefined_for_one(loss: Callable[..., Any]) -> bool:
    """Whether a loss of PyTorch tensors is NaN for one element, found out without the audit."""
    import torch

    names = inspect.signature(loss).parameters
    coefficients = {name: 0.2 for name in names if name.endswith(("_coef", "_range"))}
    one = {name: torch.full((1,), -0.5) for name in names if name not in coefficients}
    return bool(loss(**one, **coefficients).isnan())


def audited(subject: Subject, seed: int, function: Callable[..., Any]) -> audit.Report:
    options = dict(subject.options)
    found = audit._found(audit.KINDS[subject.kind])
    if "seed" in inspect.signature(found).parameters:
        return found(function, mapping=subject.mapping, seed=seed, **options)
    with reseeded(seed):
        return found(function, mapping=subject.mapping, **options)


@dataclass
class Row:
    library: str
    function: str
    kind: str
    cases: int = 0  # different arguments that it was given
    audits: int = 0  # seeds
    false_alarms: int = 0  # audits that found something wrong, or could not be made
    true_findings: int = 0  # audits that found only what `finding` says, which is so
    finding: str = ""
    seconds: float = 0.0  # all its audits
    seconds_of_one: float = 0.0  # the first, which compiles
    checks: int = 0
    choices: list[str] = field(default_factory=list)
    not_checked: list[str] = field(default_factory=list)
    declared: str = ""
    alarms: list[str] = field(default_factory=list)  # the first few, in full


def measured(library: str, index: int, checkout: Path | None, cases: int, limit: float) -> Row:
    """All the audits of one function."""
    if "torch" in sys.modules or library in ("stable_baselines3", "torchrl", "cleanrl"):
        import torch

        torch.set_num_threads(1)
    subject = list(LIBRARIES[library](checkout))[index]
    row = Row(subject.library, subject.name, subject.kind, declared=subject.declared)
    seen: set[bytes] = set()
    function = counted(subject.function, seen)
    proved = subject.undefined_for_one and undefined_for_one(subject.function)
    if proved:
        row.finding = f"{UNDEFINED}: the loss of a batch of one element is NaN"
    start, seed = time.perf_counter(), 0
    while len(seen) < cases and time.perf_counter() - start < limit:
        try:
            report = audited(subject, seed, function)
            true = proved and [found.check for found in report.risks] == [UNDEFINED]
            row.true_findings += true
            wrong = "" if report.ok and (true or not report.risks) else str(report)
        except Exception as error:
            report, wrong = None, calling.one_line(error)
        if wrong:
            row.false_alarms += 1
            row.alarms += [f"seed {seed}: {wrong}"] if len(row.alarms) < 3 else []
        if report is not None:
            row.checks = max(row.checks, len(report.passed))
            row.choices += [c for c in report.choices if c not in row.choices]
            row.not_checked += [n for n in report.not_checked if n not in row.not_checked]
        if seed == 0:
            row.seconds_of_one = round(time.perf_counter() - start, 2)
        seed += 1
        if row.false_alarms >= 20:
            break
    row.cases, row.audits = len(seen), seed
    row.seconds = round(time.perf_counter() - start, 1)
    return row


# ------------------------------------------------------------------------------- as commands

COMMANDS = (
    ("actorcritic.maths.estimators:gae",),
    ("actorcritic.maths.estimators:vtrace",),
    ("actorcritic.maths.losses:clipped_surrogate_loss",),
    ("actorcritic.maths.losses:clipped_value_loss",),
    ("rlax:truncated_generalized_advantage_estimation", "--kind", "advantages"),
    ("torchrl.objectives.value.functional:td0_return_estimate", "--kind", "returns",
     "--map", "next_state_value=next_values"),
)  # fmt: skip


def commands() -> dict[str, float]:
    """Seconds of `actorcritic audit …`, start-up included."""
    found = {}
    for words in COMMANDS:
        start = time.perf_counter()
        line = [sys.executable, "-m", "actorcritic", "audit", *words]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        name = " ".join(("actorcritic audit", *words))
        if done.returncode:
            print(f"{name}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        found[name] = round(time.perf_counter() - start, 2)
    return found


def every_own_audit() -> float:
    """Seconds of one audit of each of our own functions, in one fresh process."""
    code = (
        "import audit_peers as a\n"
        "for s in a.actorcritic(None):\n"
        "    assert a.audited(s, 0, s.function).ok, s.name\n"
    )
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], cwd=HERE, check=True)
    return round(time.perf_counter() - start, 2)


def versions(checkout: Path | None) -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    if checkout is not None:
        head = (checkout / ".git" / "HEAD").read_text().strip()
        branch = head.removeprefix("ref: ")
        known = checkout / ".git" / branch
        found["cleanrl"] = known.read_text().strip() if known.is_file() else head
    return found


def table(rows: list[Row]) -> str:
    columns = ("library", "function", "kind", "cases", "audits", "false alarms", "true", "seconds")
    cells = [
        (
            r.library,
            r.function,
            r.kind,
            r.cases,
            r.audits,
            r.false_alarms,
            r.true_findings,
            r.seconds,
        )
        for r in rows
    ]
    text = [columns, *(tuple(map(str, line)) for line in cells)]
    widths = [max(len(line[i]) for line in text) for i in range(len(columns))]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in text
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cleanrl", type=Path, metavar="CHECKOUT", help="a clone of CleanRL")
    parser.add_argument("--only", nargs="*", choices=LIBRARIES, default=list(LIBRARIES))
    parser.add_argument("--match", default="", help="only functions whose names contain this")
    parser.add_argument("--cases", type=int, default=1000, help="random cases of each function")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds of each, at most")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--times", action="store_true", help="measure only the commands")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "audit_peers.json")
    options = parser.parse_args()
    checkout = options.cleanrl.resolve() if options.cleanrl else None
    data: dict[str, Any] = {"versions": versions(checkout), "cases_asked": options.cases}
    rows: list[Row] = []
    if not options.times:
        wanted = [
            (library, index)
            for library in options.only
            for index, subject in enumerate(LIBRARIES[library](checkout))
            if options.match in subject.name
        ]
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(options.jobs, context) as pool:
            waiting = {
                pool.submit(measured, *what, checkout, options.cases, options.limit): what
                for what in wanted
            }
            order = {}
            for done in as_completed(waiting):
                row = done.result()
                order[wanted.index(waiting[done])] = row
                print(table([row]).splitlines()[1], flush=True)
                for alarm in row.alarms:
                    print(textwrap.indent(alarm, "    "), flush=True)
        rows = [order[i] for i in sorted(order)]
        print(f"\n{table(rows)}\n")
        for row in rows:
            said = [*row.choices, *([f"declared: {row.declared}"] if row.declared else [])]
            said += [f"true finding: {row.finding}"] if row.true_findings else []
            print(f"{row.library} {row.function}: {'; '.join(said) or '–'}")
    seconds = commands()
    own = every_own_audit() if "actorcritic" in options.only else float("nan")
    print("\nSeconds:", *(f"  {value:6.2f}  {name}" for name, value in seconds.items()), sep="\n")
    print(f"  {own:6.2f}  one audit of each function of ours, in one process")
    data |= {"command_seconds": seconds, "every_own_audit_seconds": own}
    data |= {"cores": os.cpu_count(), "rows": [asdict(row) for row in rows]}
    if not options.times:
        options.out.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")
    short = [row.function for row in rows if row.cases < options.cases]
    if short:
        print(f"\nToo few cases within {options.limit:g} s: {', '.join(short)}")
    return 1 if any(row.false_alarms for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
