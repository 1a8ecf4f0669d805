"""Conservative Q-learning (Kumar et al. 2020, arXiv 2006.04779), its variant CQL(H).

Actions that the data set does not hold are valued by what a network makes of them, and the best of
them are the luckiest errors. So beside the error of the Bellman equation, the critics go down on

  α E_s[log Σ_a exp Q(s, a) - Q(s, a_recorded)]                                        (eq. 4)

which lowers the values of all actions and raises those that were recorded.

  Discrete     double Q-learning (van Hasselt et al. 2016): Q goes towards
               r + γ (1 - terminated) Q'(s', argmax_a Q(s', a)), and the policy takes the argmax
  continuous   soft actor-critic: `SAC.learn`, with the term added to the loss of its critics. The
               integral over actions is estimated by importance sampling: of `proposals` actions
               each from the uniform distribution, from π(s) and from π(s'), all valued at s, and
               each less its log-density (appendix F). No gradient flows through these actions.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from actorcritic.algorithms import sac
from actorcritic.algorithms.family import Actor, Learner, encoded
from actorcritic.algorithms.offline import Offline, Rows, adam_states, chosen, imitation, inside
from actorcritic.core.hyperparameters import hyperparameter, hyperparameters
from actorcritic.core.types import EnvSpec, Metrics, Observation
from actorcritic.maths import losses
from actorcritic.maths.distributions import Categorical, Distribution


class Values(NamedTuple):
    """Parameters where actions are discrete: Q is the policy as well."""

    policy: Any  # of Q(s, ·)
    targets: Any


class Proposals(NamedTuple):
    """Actions to estimate an integral with, and the log-densities that they were drawn with."""

    action: Float[Array, "K N d"]
    log_prob: Float[Array, "K N"]


@hyperparameters
class ConservativeSAC(sac.SAC):
    """Soft actor-critic whose critics' loss has the conservative term."""

    conservative_weight: float = hyperparameter(5.0, "α of the conservative term", "[0, 1e6]")

    def propose(
        self, model: sac.Model, actor: PyTree, sample: sac.Sample, count: int, key: Key[Array, ""]
    ) -> Proposals:
        """Uniform actions, and those of the policy at s and at s', `count` each."""
        rows, d = sample.reward.shape[0], sac.sizes(model.spec)[1]
        uniform_key, here_key, ahead_key = jax.random.split(key, 3)
        uniform = jax.random.uniform(uniform_key, (count, rows, d), minval=-1.0)
        drawn = [(uniform, jnp.full((count, rows), -d * math.log(2)))]
        for at, noise_key in (
            (sample.observation, here_key),
            (sample.next_observation, ahead_key),
        ):
            noise = jax.random.normal(noise_key, (count, rows, d))
            drawn.append(model.draw(actor, jnp.broadcast_to(at, (count, *at.shape)), noise))
        action, log_prob = (jnp.concatenate(part) for part in zip(*drawn, strict=True))
        return jax.lax.stop_gradient(Proposals(action, log_prob))

    def _critics_loss(
        self,
        model: sac.Model,
        critics: sac.Critics,
        sample: sac.Sample,
        target: Float[Array, " N"],
    ) -> tuple[Float[Array, ""], Metrics]:
        loss, said = super()._critics_loss(model, critics, sample, target)
        found: Proposals = sample.own
        x = jnp.broadcast_to(sample.observation, (found.action.shape[0], *sample.observation.shape))
        inputs = jnp.concatenate([x, found.action], axis=-1)
        term = jnp.zeros(())
        for critic in critics:
            log_sum = importance_log_sum_exp(model.q(critic, inputs), found.log_prob)
            term += jnp.mean(losses.conservative_loss(log_sum, model.q(critic, sample.inputs)))
        return loss + self.conservative_weight * term, said | {"conservative_loss": term}


def importance_log_sum_exp(
    q: Float[Array, "K N"], log_prob: Float[Array, "K N"]
) -> Float[Array, " N"]:
    """log (1/K Σ_k exp(Q(s, a_k)) / p(a_k)): an estimate of log ∫ exp Q(s, a) da."""
    return jax.nn.logsumexp(q - log_prob, axis=0) - math.log(q.shape[0])


@hyperparameters
class CQL(Offline):
    """Conservative Q-learning, for Discrete and for continuous actions."""

    name: ClassVar[str] = "cql"
    action_spaces: ClassVar[tuple[type, ...]] = (
        gymnasium.spaces.Discrete,
        gymnasium.spaces.Box,
    )

    learning_rate: float = hyperparameter(3e-4, "step size of the critics", "(0, 10]")
    policy_learning_rate: float | None = hyperparameter(
        1e-4, "continuous actions: of the policy; None: learning_rate", "(0, 10]"
    )
    conservative_weight: float = hyperparameter(
        1.0, "α of the conservative term: 0 is double Q-learning, or SAC", "[0, 1e6]"
    )
    proposals: int = hyperparameter(
        10, "continuous actions: so many uniform, of π(s) and of π(s')", "[1, 1e4]"
    )
    gamma: float = hyperparameter(0.99, "discount factor γ", "(0, 1]")
    tau: float = hyperparameter(0.005, "share of the critics that enters their targets", "(0, 1]")
    learn_temperature: bool = hyperparameter(
        True, "continuous actions: adjust the weight of the entropy to its target, -d"
    )
    initial_temperature: float = hyperparameter(
        1.0, "continuous actions: the weight of the entropy", "(0, 1e3]"
    )

    def begin(self, key: Key[Array, ""], spec: EnvSpec) -> tuple[Any, Any]:
        if _discrete(spec):
            q = self._critic(spec).init(key)
            # What is donated must not be shared.
            return Values(q, jax.tree.map(jnp.copy, q)), adam_states(q)
        params = self._model(spec).init(key, self.initial_temperature)
        parts = params.actor, params.critics, params.log_temperature
        return params, sac.Optimizer(*adam_states(*parts))

    def actor(self, learner: Learner) -> Actor:
        params = learner.params.policy if _discrete(learner.spec) else learner.params.actor
        return Actor(params, learner.observations, learner.spec)

    def learn(
        self, learner: Learner, rows: Rows, key: Key[Array, ""], progress: Float[Array, ""]
    ) -> tuple[Learner, Metrics]:
        learn = self._learn_values if _discrete(learner.spec) else self._learn_softly
        return learn(learner, rows, key, progress)

    # ------------------------------------------------------------------ for whoever looks inside

    def value(
        self, learner: Learner, observation: Observation, action: Array
    ) -> Float[Array, "..."]:
        """Q(s, a) for observations [..., *] and actions as `act` gives them: of two, the lesser."""
        x, spec = encoded(learner, observation), learner.spec
        if _discrete(spec):
            return self._critic(spec).q(learner.params.policy, x, action)
        return self._model(spec).least_q(learner.params.critics, x, inside(spec, action))

    # ------------------------------------------------------------------ discrete

    def _policy(
        self, spec: EnvSpec, params: PyTree, x: Array, allowed: Array | None = None
    ) -> Distribution:
        """Discrete: softmax(Q(s, ·)), the distribution μ(a|s) of the paper's CQL(H)."""
        if not _discrete(spec):
            return self._model(spec).policy(params, x)
        policy = Categorical(self._critic(spec).values(params, x))
        return policy if allowed is None else policy.masked(allowed)

    def _learn_values(
        self, learner: Learner, rows: Rows, key: Key[Array, ""], progress: Float[Array, ""]
    ) -> tuple[Learner, Metrics]:
        params, spec, critic = learner.params, learner.spec, self._critic(learner.spec)
        best = self._policy(spec, params.policy, rows.next_observation, rows.next_allowed).mode()
        next_q = critic.q(params.targets, rows.next_observation, best)
        target = rows.reward + self.gamma * (1 - rows.terminated) * next_q

        def loss(params: Any) -> tuple[Float[Array, ""], Metrics]:
            policy = self._policy(spec, params, rows.observation, rows.allowed)
            assert isinstance(policy, Categorical)
            q = chosen(policy.logits, rows.action)
            td_loss = jnp.mean(losses.value_loss(q, target))
            log_sum = jax.nn.logsumexp(policy.logits, axis=-1)
            term = jnp.mean(losses.conservative_loss(log_sum, q))
            said = {"value_loss": td_loss, "conservative_loss": term, "q_value": jnp.mean(q)}
            said |= imitation(policy, rows.action)
            return td_loss + self.conservative_weight * term, said

        rate = self._rate(self.learning_rate, progress)
        q, state, said, norm = self._descend(loss, params.policy, learner.optimizer[0], rate)
        targets = jax.tree.map(lambda t, q: t + self.tau * (q - t), params.targets, q)
        learner = replace(learner, params=Values(q, targets), optimizer=(state,))
        return learner, said | {"gradient_norm": norm, "learning_rate": rate}

    # ------------------------------------------------------------------ continuous

    def _model(self, spec: EnvSpec) -> sac.Model:
        return sac.Model(spec, self._network(spec))

    def _learn_softly(
        self, learner: Learner, rows: Rows, key: Key[Array, ""], progress: Float[Array, ""]
    ) -> tuple[Learner, Metrics]:
        model, rate = self._model(learner.spec), self._rate(self.learning_rate, progress)
        policy_rate = rate
        if self.policy_learning_rate is not None:
            policy_rate = self._rate(self.policy_learning_rate, progress)
        rate_of: Any = {"learning_rate": policy_rate, "critic_learning_rate": rate}
        rate_of["temperature_learning_rate"] = policy_rate
        soft = ConservativeSAC(
            **rate_of,
            max_grad_norm=self.max_grad_norm,
            gamma=self.gamma,
            tau=self.tau,
            learn_temperature=self.learn_temperature,
            network=self._network(learner.spec),
            conservative_weight=self.conservative_weight,
        )
        propose_key, learn_key = jax.random.split(key)
        sample = sac.Sample(
            inputs=rows.inputs,
            observation=rows.observation,
            reward=rows.reward,
            terminated=rows.terminated,
            next_observation=rows.next_observation,
        )
        actor = learner.params.actor
        found = soft.propose(model, actor, sample, self.proposals, propose_key)
        learner, said = soft.learn(learner, sample._replace(own=found), learn_key)  # type: ignore[arg-type,assignment]
        gap = jnp.mean(jnp.abs(jnp.tanh(model.policy(actor, rows.observation).mean) - rows.action))
        return learner, said | {"action_gap": gap, "learning_rate": rate}


def _discrete(spec: EnvSpec) -> bool:
    return isinstance(spec.action_space, gymnasium.spaces.Discrete)
