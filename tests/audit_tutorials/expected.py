"""What the audit has to say of every subject in this folder.

Their author knew what the audit is for, and not how it works. Verdicts: `right`; `choice`, right
with a convention that the report has to name; `risky`, right except where `cause` says; `wrong`,
with exactly one error. The finding's own text (of a choice or risk, the line that names it), in
lower case, has to contain one of `words`: all the words of one of them, in any order. A `name` of
None is the whole file. A `kind` is what a person has to give, None where the audit finds it.
"""

from typing import Literal, NamedTuple


class Subject(NamedTuple):
    file: str
    name: str | None
    verdict: Literal["right", "choice", "risky", "wrong"]
    cause: str = ""
    words: tuple[str, ...] = ()
    kind: str | None = None


LISTS = "numpy_lists.py"
SCALARS = "torch_scalars.py"
BATCHES = "torch_batches.py"

NUMPY_LISTS = [
    Subject(LISTS, "discount_rewards", "right"),
    Subject(LISTS, "rewards_to_go", "right"),
    Subject(LISTS, "compute_gae", "right"),
    Subject(LISTS, "td_target", "right"),
    Subject(LISTS, "process_memory", "right"),
    Subject(
        LISTS,
        "normalized_returns",
        "choice",
        "the returns are normalised",
        ("normalis", "normaliz", "standardis"),
    ),
    Subject(
        LISTS,
        "calculate_returns",
        "wrong",
        "the sum is reset one step too late: the done flag acts on the step before",
        ("done one step", "shifted", "step before", "off by one"),
    ),
    Subject(
        LISTS,
        "gae_advantages",
        "wrong",
        "the step that ends an episode bootstraps from the next episode's value",
        ("bootstrap terminat", "bootstrap next episode", "bootstrap end"),
    ),
    Subject(
        LISTS,
        "n_step_targets",
        "wrong",
        "the bootstrap is discounted once too little: gamma**k for gamma**(k + 1)",
        ("bootstrap gamma", "bootstrap discount"),
    ),
    Subject(
        LISTS,
        "monte_carlo_returns",
        "wrong",
        "the list is returned backwards: it is never reversed",
        ("revers", "backward", "order"),
    ),
    Subject(
        LISTS,
        "get_discounted_rewards",
        "wrong",
        "the step's own reward is discounted too: every sum is multiplied by gamma once more",
        ("gamma", "discount"),
    ),
    Subject(
        LISTS,
        "compute_advantages",
        "wrong",
        "the sign: value minus return",
        ("sign", "negative", "negated"),
    ),
]

TORCH_SCALARS = [
    Subject(SCALARS, "actor_critic_step", "right"),
    Subject(SCALARS, "reinforce_loss", "right"),
    Subject(
        SCALARS,
        "finish_episode",
        "risky",
        "an episode of one step gives NaN: the deviation of one number",
        ("nan", "one element", "of one", "single"),
    ),
    Subject(
        SCALARS,
        "episode_policy_loss",
        "choice",
        "every step's term is weighted with gamma**t",
        ("gamma^t", "gamma**t", "γ^t", "γᵗ"),
    ),
    Subject(SCALARS, "select_action", "right"),
    Subject(SCALARS, "transition_loss", "right"),
    Subject(
        SCALARS,
        "td_loss",
        "wrong",
        "the actor's gradient flows through the TD error into the critic",
        ("gradient advantage", "detach advantage", "gradient td error", "gradient critic"),
    ),
    Subject(
        SCALARS,
        "compute_losses",
        "wrong",
        "the policy is weighted with the TD target, where the advantage belongs",
        ("target advantage", "baseline", "without value"),
    ),
    Subject(
        SCALARS,
        "step_loss",
        "wrong",
        "the entropy has no gradient: .item() makes a number of it",
        ("entropy gradient", "entropy detach", "entropy .item"),
    ),
    Subject(
        SCALARS,
        "actor_and_critic_loss",
        "wrong",
        "the critic's target is not detached: the gradient reaches the next value",
        ("target detach", "target gradient", "next_value gradient"),
    ),
    Subject(
        SCALARS,
        "choose_action",
        "wrong",
        "the log-probability is that of another draw than the action",
        ("log-prob another", "log-prob second", "log-prob again", "log-prob different"),
    ),
    Subject(
        SCALARS,
        "policy_gradient_loss",
        "wrong",
        "log-probabilities in order are paired with returns from the end: the times do not match",
        ("revers", "backward", "order", "paired"),
    ),
]

TORCH_BATCHES = [
    Subject(BATCHES, "a2c_loss", "right"),
    Subject(BATCHES, "gaussian_a2c_loss", "right"),
    Subject(
        BATCHES,
        "ppo_loss",
        "risky",
        "a batch of one gives NaN: the deviation of one advantage",
        ("nan", "one element", "of one", "single"),
    ),
    Subject(BATCHES, "sample_squashed", "right"),
    Subject(BATCHES, "generalized_advantages", "right"),
    Subject(BATCHES, "actor_critic_loss", "right"),
    Subject(
        BATCHES,
        "actor_critic_objective",
        "wrong",
        "the policy term's gradient flows through the advantage into the values",
        ("gradient advantage", "detach advantage", "gradient critic"),
    ),
    Subject(
        BATCHES,
        "gaussian_policy_loss",
        "wrong",
        "the density divides by the deviation where the variance belongs",
        ("variance", "deviation", "square"),
    ),
    Subject(
        BATCHES,
        "clipped_surrogate",
        "wrong",
        "the smaller of two losses: max for min of the surrogates",
        ("max for min", "larger of the two", "smaller of the two losses"),
    ),
    Subject(
        BATCHES,
        "model_loss",
        "wrong",
        "returns [N] minus values [N, 1] is broadcast to [N, N] in the critic's loss",
        ("broadcast",),
    ),
    Subject(
        BATCHES,
        "squashed_gaussian",
        "wrong",
        "the Gaussian's density is taken at the squashed action, not at the draw before tanh",
        ("before tanh", "at the squashed", "at the scaled", "unsquashed"),
    ),
    Subject(
        BATCHES,
        "continuous_loss",
        "wrong",
        "the entropy is added to the loss: the bonus has the wrong sign",
        ("entropy sign",),
    ),
]

TORCH_CLASSES = [
    Subject("torch_classes/reinforce.py", "REINFORCE", "right"),
    Subject("torch_classes/a2c_shared.py", "A2CAgent", "right"),
    Subject("torch_classes/one_step_actor_critic.py", "ActorCriticAgent", "right"),
    Subject(
        "torch_classes/ppo_continuous.py",
        "PPO",
        "choice",
        "the advantages are normalised",
        ("normalis", "normaliz", "standardis"),
    ),
    Subject("torch_classes/sac.py", "SAC", "right"),
    Subject(
        "torch_classes/continuous_a2c.py",
        "ContinuousA2C",
        "choice",
        "the critic's loss is Huber's",
        ("huber", "smooth"),
    ),
    Subject(
        "torch_classes/vanilla_pg.py",
        "VPGAgent",
        "wrong",
        "zero_grad is never called: gradients of earlier updates are added to the next",
        ("zero_grad", "accumulate", "earlier update"),
    ),
    Subject(
        "torch_classes/advantage_actor_critic.py",
        "Agent",
        "wrong",
        "the target bootstraps from the value of the state, not of the next state",
        ("next state", "next_state", "successor"),
    ),
    Subject(
        "torch_classes/td_agent.py",
        "TDActorCritic",
        "wrong",
        "the critic's optimiser has the actor's parameters: the critic never changes",
        ("optimiser", "optimizer"),
    ),
    Subject(
        "torch_classes/ppo_discrete.py",
        "PPOAgent",
        "wrong",
        "softmax is applied twice: probabilities are given to Categorical as logits",
        ("softmax", "probabilities logits"),
    ),
    Subject(
        "torch_classes/gaussian_ppo.py",
        "GaussianPPO",
        "wrong",
        "the action is clipped, its log-probability is that of the action before",
        ("clip log-prob",),
    ),
    Subject(
        "torch_classes/soft_policy.py",
        "SoftActorCritic",
        "wrong",
        "the entropy term of the actor's loss has the wrong sign",
        ("entropy sign",),
    ),
]

SCRIPTS = [
    Subject("scripts/reinforce_cartpole.py", None, "right"),
    Subject(
        "scripts/a2c_cartpole.py",
        None,
        "choice",
        "time limits are taken for terminations: one flag zeroes the bootstrap at both",
        ("time limit terminat",),
    ),
    Subject("scripts/ppo_pendulum.py", None, "right"),
    Subject("scripts/td_actor_critic.py", None, "right"),
    Subject("scripts/sac_pendulum.py", None, "right"),
    Subject("scripts/reinforce_notebook.py", None, "right"),
    Subject(
        "scripts/reinforce_baseline.py",
        None,
        "wrong",
        "update: the critic is fitted to the advantages, not to the returns",
        ("advantage return", "critic target", "value target"),
    ),
    Subject(
        "scripts/actor_critic_rollouts.py",
        None,
        "wrong",
        "compute_returns: only the last flag is used: sums run over ends into the next episode",
        ("next episode", "another episode", "ends are ignored"),
    ),
    Subject(
        "scripts/ppo_cartpole.py",
        None,
        "wrong",
        "update: the old log-probability is the new one with its gradient: the ratio is always one"
        " and the policy term has no gradient",
        ("old log", "old_log", "ratio gradient"),
    ),
    Subject(
        "scripts/online_actor_critic.py",
        None,
        "wrong",
        "run_episode: truncated for terminated: bootstraps past terminations, not at time limits",
        ("terminat truncat", "terminat time limit", "bootstrap terminat"),
    ),
    Subject(
        "scripts/soft_actor_critic.py",
        None,
        "wrong",
        "update_actor: Q is computed without gradient: the policy learns entropy alone",
        ("gradient of q", "through q", "gradient critic", "no_grad"),
    ),
    Subject(
        "scripts/policy_gradient.py",
        None,
        "wrong",
        "update_policy: the sign of the policy's loss",
        ("sign",),
    ),
]

SUBJECTS = [*NUMPY_LISTS, *TORCH_SCALARS, *TORCH_BATCHES, *TORCH_CLASSES, *SCRIPTS]
