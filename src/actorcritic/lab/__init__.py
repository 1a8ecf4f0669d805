"""The lab: finite Markov decision processes in which everything an agent estimates is known.

Values, advantages, the state distribution and the policy gradient come from linear solves in
float64; so do the bias and variance of the usual estimators. `measure` and `measure_gradient`
apply an estimator, the library's own or yours, to sampled trajectories and say how far it is from
the truth. Everything is NumPy, except for the estimators of `maths.estimators` themselves.

S states, A actions. A policy is a table of probabilities [S, A]. docs/lab.md derives the formulas.
"""

from actorcritic.lab.beliefs import (
    POMDP,
    Solution,
    Visited,
    belief_after,
    solve,
    value_of,
    values_of,
)
from actorcritic.lab.closed_forms import GradientMoments, Moments, gradient_moments, moments
from actorcritic.lab.critics import Critic, constant_critic, exact_critic
from actorcritic.lab.estimators import (
    Batch,
    Estimator,
    Exact,
    evaluated,
    exact_estimator,
    gae,
    lambda_return,
    monte_carlo,
    n_step,
    n_step_returns,
    td,
    td_error,
    vtrace,
)
from actorcritic.lab.exact import (
    action_values,
    advantages,
    clipped_policy,
    discounted_distribution,
    objective,
    optimal_baseline,
    optimal_values,
    policy_gradient,
    softmax,
    values,
)
from actorcritic.lab.measurements import (
    GradientQuality,
    Measured,
    Quality,
    measure,
    measure_gradient,
)
from actorcritic.lab.process import MDP
from actorcritic.lab.recording import record
from actorcritic.lab.responses import ResponseWorld, best_of_n_kl_bound, random_world
from actorcritic.lab.return_moments import PairMoments
from actorcritic.lab.sampling import Trajectories, horizon, sample
from actorcritic.lab.service import from_routing, routing_observation
from actorcritic.lab.support import seen, supported_values
from actorcritic.lab.sycophancy import Sycophancy
from actorcritic.lab.worlds import chain, cliff, from_grid_world, layers, random_mdp

__all__ = [
    "MDP",
    "POMDP",
    "Batch",
    "Critic",
    "Estimator",
    "Exact",
    "GradientMoments",
    "GradientQuality",
    "Measured",
    "Moments",
    "PairMoments",
    "Quality",
    "ResponseWorld",
    "Solution",
    "Sycophancy",
    "Trajectories",
    "Visited",
    "action_values",
    "advantages",
    "belief_after",
    "best_of_n_kl_bound",
    "chain",
    "cliff",
    "clipped_policy",
    "constant_critic",
    "discounted_distribution",
    "evaluated",
    "exact_critic",
    "exact_estimator",
    "from_grid_world",
    "from_routing",
    "gae",
    "gradient_moments",
    "horizon",
    "lambda_return",
    "layers",
    "measure",
    "measure_gradient",
    "moments",
    "monte_carlo",
    "n_step",
    "n_step_returns",
    "objective",
    "optimal_baseline",
    "optimal_values",
    "policy_gradient",
    "random_mdp",
    "random_world",
    "record",
    "routing_observation",
    "sample",
    "seen",
    "softmax",
    "solve",
    "supported_values",
    "td",
    "td_error",
    "value_of",
    "values",
    "values_of",
    "vtrace",
]
