"""S6: bias and variance of returns, advantages and policy gradients.

Nothing is trained. What is measured by sampling stands beside the closed forms of `lab`, which
docs/lab.md derives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from actorcritic import lab
from actorcritic.figures import plots
from actorcritic.figures.html import Picture, Table
from actorcritic.lab import Critic, Estimator, Measured
from actorcritic.runs.console import working
from actorcritic.studies.bench import Answer, Bench
from actorcritic.studies.beside_exact import (
    Beside,
    Parts,
    agreement,
    least_at,
    more_or_less,
    parts_data,
    with_formula,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUESTION = (
    "How biased and how noisy are n-step returns, λ-returns and policy gradients, measured and by "
    "the formula, and what does a perfect critic leave?"
)

CHAIN = 25  # states
SIGMA, BIAS, STD, GAMMA = 0.5, 1.0, 1.0, 0.9  # of rewards; of the critic; the discount
STEPS = (1, 2, 3, 4, 6, 8, 12, 16, 20, 24)
PARTS = ("squared bias", "variance", "mean squared error")
FIXED = 3.0  # deviation, between states, of the critic's lasting errors
LAMBDAS = (0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
TOO_LARGE = 3.0


def answer(bench: Bench) -> Answer:
    samples = 3_000 if bench.quick else 40_000
    with working("Measuring", quiet=bench.quiet) as say:
        say("n-step returns")
        n_steps, n_picture, n_table, n_sentences = _n_steps(10 * samples)
        say("λ-returns")
        lambdas, l_picture, l_table, l_sentences = _lambdas(samples // 4)
        limits, limit_table = _limits(samples)
        say("policy gradients")
        gradient, beside = _gradients(2 * samples)
    for parts in (n_steps, lambdas, limits):
        beside += [each for part in parts.values() for each in part]
    numbers = {
        "n_step": parts_data("n", STEPS, n_steps),
        "lambda": parts_data("lambda", LAMBDAS, lambdas),
        "gae_limits": parts_data("lambda", (0.0, 1.0), limits),
        **gradient.numbers,
    }
    return Answer(
        (*n_sentences, *l_sentences, *gradient.sentences, agreement(beside)),
        tables=(n_table, l_table, limit_table, *gradient.tables),
        pictures=(n_picture, l_picture, *gradient.pictures),
        numbers=numbers,
    )


# ------------------------------------------------------------------------------------ n-step


def n_step_formula(n: int) -> tuple[float, float]:
    """Bias γⁿ b, and variance σ² (1 − γ²ⁿ) / (1 − γ²) + γ²ⁿ s², of the return from state 0."""
    left = GAMMA ** (2 * n)
    return GAMMA**n * BIAS, SIGMA**2 * (1 - left) / (1 - GAMMA**2) + left * STD**2


def _n_steps(samples: int) -> tuple[Parts, Picture, Table, list[str]]:
    mdp = lab.chain(CHAIN, (1.0,), reward_std=SIGMA, gamma=GAMMA)
    policy = np.ones((mdp.states, 1))
    critic = lab.exact_critic(mdp, policy).shifted(BIAS).noisy(STD)
    rng = np.random.default_rng(0)
    found: Parts = {part: [] for part in PARTS}
    for n in STEPS:
        bias, variance = n_step_formula(n)
        quality = lab.measure(mdp, policy, lab.n_step(n), critic, rng, samples=samples, states=[0])
        _append(found, quality, bias**2, variance)
    x = np.array(STEPS, float)
    figure = with_formula([(p, x, found[p]) for p in PARTS], "n", "n-step return")
    what = (
        f"A chain of {CHAIN} states, γ = {GAMMA:g}, rewards of deviation {SIGMA:g}, a critic whose "
        f"errors have the mean {BIAS:g} and the deviation {STD:g}; from the first state. "
    )
    picture = Picture("n-step", "Bias and variance over n", figure, what + "Bands: 95 % intervals.")
    mse = found["mean squared error"]
    _, least = least_at("n", STEPS, mse)
    by_critic, by_rewards = BIAS**2 + STD**2, SIGMA**2 / (1 - GAMMA**2)
    sentences = [
        f"n-step returns: from n = {STEPS[0]} to n = {STEPS[-1]} the squared bias goes from "
        f"{_arrow(found['squared bias'])}, the variance from {_arrow(found['variance'])}; the mean "
        f"squared error is {least}. The formula is a straight "
        f"line in γ²ⁿ, from {by_critic:.4g} (the critic alone) to {by_rewards:.4g} (rewards "
        "alone), so that the best n is an end and never in between.",
    ]
    return found, picture, _table("n-step", "n-step returns", "n", STEPS, found, what), sentences


def _append(found: Parts, quality: lab.Quality, squared_bias: float, variance: float) -> None:
    for part, measured, exact in zip(
        PARTS,
        (quality.overall_squared_bias, quality.overall_variance, quality.overall_mse),
        (squared_bias, variance, squared_bias + variance),
        strict=True,
    ):
        found[part].append(Beside(measured, float(exact)))


def _arrow(found: Sequence[Beside]) -> str:
    first, last = (each.measured.estimate for each in (found[0], found[-1]))
    return f"{first} to {last}"


def _table(
    name: str, title: str, column: str, values: Sequence[float], found: Parts, note: str
) -> Table:
    columns = [column]
    for part in found:
        columns += [part, "exact"]
    rows = [
        (f"{value:g}", *(cell for part in found for cell in found[part][i].cells))
        for i, value in enumerate(values)
    ]
    note += "Measured with 95 % intervals; beside it the closed form."
    return Table(name, title, tuple(columns), tuple(rows), note)


# ------------------------------------------------------------------------------------ λ


def _lambdas(samples: int) -> tuple[Parts, Picture, Table, list[str]]:
    rng = np.random.default_rng(1)
    mdp = lab.random_mdp(8, 3, 3, 0.1, rng, gamma=GAMMA, reward_std=SIGMA)
    policy = lab.softmax(rng.normal(size=(8, 3)))
    critic = lab.exact_critic(mdp, policy).perturbed(FIXED, rng).noisy(STD)
    weight = lab.discounted_distribution(mdp, policy)
    weight = weight / weight.sum()
    found: Parts = {part: [] for part in PARTS}
    for lam in LAMBDAS:
        estimator = lab.lambda_return(lam)
        exact = lab.moments(mdp, policy, estimator, critic)
        quality = lab.measure(mdp, policy, estimator, critic, rng, samples=samples)
        _append(found, quality, weight @ exact.bias**2, weight @ exact.variance)
    figure = with_formula(
        [(p, np.array(LAMBDAS), found[p]) for p in PARTS], "λ", "λ-return = GAE(λ) + critic"
    )
    what = (
        f"A random process of 8 states, γ = {GAMMA:g}, with random rewards; a critic with an error "
        f"of deviation {FIXED:g} fixed for each state, and one of deviation {STD:g} drawn anew at "
        "every step. Means over states, weighted as they are visited. "
    )
    picture = Picture("lambda", "Bias and variance over λ", figure, what + "Bands: 95 % intervals.")
    values = [each.measured for each in found["mean squared error"]]
    best, least = least_at("λ", LAMBDAS, found["mean squared error"])
    between = 0 < best < len(values) - 1 and all(
        more_or_less(values[end], values[best]) == "more than" for end in (0, -1)
    )
    sentences = [
        f"λ-returns: from λ = 0 to λ = 1 the squared bias goes from "
        f"{_arrow(found['squared bias'])}, the variance from {_arrow(found['variance'])}; the mean "
        f"squared error is {least}, {values[best]}"
        + (", less than at both ends" if between else "")
        + f" (λ = 0: {values[0]}, λ = 1: {values[-1]}).",
    ]
    return found, picture, _table("lambda", "λ-returns", "λ", LAMBDAS, found, what), sentences


class Limit(NamedTuple):
    """A limit of GAE on the chain, from its first state."""

    lam: float
    what: str
    bias: float
    variance: float


def gae_limits() -> tuple[Limit, Limit]:
    """λ = 0 is δ, λ = 1 the Monte Carlo return minus V̂(s): their bias and variance."""
    rewards = SIGMA**2 * (1 - GAMMA ** (2 * CHAIN)) / (1 - GAMMA**2)
    return (
        Limit(0.0, "δ", (GAMMA - 1) * BIAS, SIGMA**2 + (1 + GAMMA**2) * STD**2),
        Limit(1.0, "G − V̂", -BIAS, rewards + STD**2),
    )


def _limits(samples: int) -> tuple[Parts, Table]:
    mdp = lab.chain(CHAIN, (1.0,), reward_std=SIGMA, gamma=GAMMA)
    policy = np.ones((mdp.states, 1))
    critic = lab.exact_critic(mdp, policy).shifted(BIAS).noisy(STD)
    rng = np.random.default_rng(2)
    found: Parts = {"bias": [], "variance": []}
    for limit in gae_limits():
        quality = lab.measure(
            mdp, policy, lab.gae(limit.lam), critic, rng, samples=samples, states=[0]
        )
        found["bias"].append(Beside(quality.overall_bias, limit.bias))
        found["variance"].append(Beside(quality.overall_variance, limit.variance))
    rows = tuple(
        (f"{limit.lam:g}", limit.what, *found["bias"][i].cells, *found["variance"][i].cells)
        for i, limit in enumerate(gae_limits())
    )
    columns = ("λ", "what it is", "bias", "exact", "variance", "exact")
    note = (
        "On the chain of the n-step returns. At λ = 1 the bias is that of the baseline −V̂(s), "
        "which depends on no action and so does not bias the policy gradient."
    )
    return found, Table("limits", "GAE's two limits", columns, rows, note)


# ------------------------------------------------------------------------------------ gradients


class Form(NamedTuple):
    """What stands in the place of the advantage, and what its critic is."""

    label: str
    estimator: Estimator
    critic: Critic


class Gradient(NamedTuple):
    """Squared bias and total variance of a policy gradient of one episode."""

    squared_bias: Beside
    trace: Beside


def _forms(mdp: lab.MDP, policy: np.ndarray) -> list[Form]:
    exact = lab.exact_critic(mdp, policy)
    large, wrong = exact.scaled(TOO_LARGE), f"critic ×{TOO_LARGE:g}"
    monte_carlo = lab.monte_carlo()
    best = monte_carlo.minus(lab.optimal_baseline(mdp, policy), "optimal baseline")
    return [
        Form("no baseline: G", monte_carlo, exact),
        Form("optimal baseline: G − b", best, exact),
        Form("exact critic: G − V", lab.gae(1.0), exact),
        Form(f"{wrong}: G − {TOO_LARGE:g}V", lab.gae(1.0), large),
        Form("exact critic: GAE(0.95)", lab.gae(0.95), exact),
        Form("exact critic: TD error", lab.td_error(), exact),
        Form(f"{wrong}: TD error", lab.td_error(), large),
        Form("exact Q", lab.exact_estimator("Q", lab.action_values(mdp, policy)), exact),
        Form("exact A = Q − V", lab.exact_estimator("A", lab.advantages(mdp, policy)), exact),
    ]


def _gradient(
    mdp: lab.MDP, logits: np.ndarray, form: Form, rng: np.random.Generator, episodes: int
) -> Gradient:
    found = lab.measure_gradient(mdp, logits, form.estimator, form.critic, rng, episodes=episodes)
    exact = lab.gradient_moments(mdp, logits, form.estimator, form.critic)
    return Gradient(
        Beside(found.squared_bias, float((exact.bias**2).sum())), Beside(found.trace, exact.trace)
    )


def _gradients(episodes: int) -> tuple[Answer, list[Beside]]:
    rng = np.random.default_rng(3)
    mdp = lab.layers(6, 3, 3, rng, gamma=0.95, reward_std=SIGMA)
    logits = 0.5 * rng.normal(size=(mdp.states, mdp.actions))
    policy = lab.softmax(logits)
    forms = _forms(mdp, policy)
    found = {form.label: _gradient(mdp, logits, form, rng, episodes) for form in forms}

    size = float((lab.policy_gradient(mdp, logits) ** 2).sum())
    what = (
        "Six layers of three states, three actions, random rewards and moves. Total variance of "
        f"the gradient of one episode (trace of its covariance); ‖∇J‖² is {size:.3g}. "
    )
    rows = [
        plots.Scores(label, np.zeros(0), *each.trace.measured.estimate)
        for label, each in found.items()
    ]
    wide, narrow = (_bars(rows, found, width) for width in (plots.WIDTH, plots.NARROW))
    note = what + "Dots: measured; upright lines: closed form."
    pictures = [Picture("gradient-forms", "Variance of the policy gradient", wide, note, narrow)]

    exact = lab.exact_critic(mdp, policy)
    critics = {"exact critic": exact, f"critic ×{TOO_LARGE:g}": exact.scaled(TOO_LARGE)}
    by_lambda = {
        label: [
            _gradient(mdp, logits, Form(label, lab.gae(lam), critic), rng, episodes)
            for lam in LAMBDAS
        ]
        for label, critic in critics.items()
    }
    x = np.array(LAMBDAS)
    for part, name, title in (
        ("trace", "total variance", "Variance of the gradient with GAE(λ)"),
        ("squared_bias", "squared bias ‖E g − ∇J‖²", "Bias of the gradient with GAE(λ)"),
    ):
        curves = [(label, x, [getattr(g, part) for g in all_]) for label, all_ in by_lambda.items()]
        figure = with_formula(curves, "λ", name)
        pictures.append(Picture(f"gradient-{part}", title, figure, what))

    table = Table(
        "gradients",
        "Policy gradients of one episode",
        ("in the place of the advantage", "total variance", "exact", "squared bias", "exact"),
        tuple((label, *g.trace.cells, *g.squared_bias.cells) for label, g in found.items()),
        what + "Measured with 95 % intervals; beside it the closed form. ‖bias‖² is estimated "
        "without bias, so that it may be below 0.",
    )
    everything = [*found.values(), *(g for all_ in by_lambda.values() for g in all_)]
    numbers = {
        "gradient": {label: _gradient_data(g) for label, g in found.items()},
        "gradient_by_lambda": {
            label: [{"lambda": lam, **_gradient_data(g)} for lam, g in zip(x, all_, strict=True)]
            for label, all_ in by_lambda.items()
        },
        "squared_norm_of_gradient": size,
    }
    answer = Answer(
        tuple(_gradient_sentences(found)),
        tables=(table,),
        pictures=tuple(pictures),
        numbers=numbers,
    )
    return answer, [each for g in everything for each in g]


def _bars(rows: Sequence[plots.Scores], found: Mapping[str, Gradient], width: float) -> Figure:
    """Total variances as they were measured, with the closed form over each."""
    figure = plots.score_intervals(rows, "total variance", width=width)
    for y, each in enumerate(found.values()):
        figure.axes[0].plot(
            [each.trace.exact] * 2, [y - 0.3, y + 0.3], color=plots.INK, lw=1.1, zorder=6
        )
    return figure


def _gradient_data(gradient: Gradient) -> dict[str, Any]:
    return {name: each.data() for name, each in gradient._asdict().items()}


def _gradient_sentences(found: Mapping[str, Gradient]) -> list[str]:
    none, best, critic, large = list(found)[:4]
    advantage, wrong_td = "exact A = Q − V", f"critic ×{TOO_LARGE:g}: TD error"
    trace = {label: each.trace.measured for label, each in found.items()}
    left, rest = trace[advantage], trace[critic]
    wrong = found[wrong_td].squared_bias.measured
    baseline = found[large].squared_bias.measured
    return [
        f"Without a baseline the gradient of an episode has the total variance {trace[none]}; with "
        f"the exact values as baseline {trace[critic]} ({more_or_less(trace[critic], trace[none])} "
        f"without), with the optimal baseline {trace[best]}, and with a critic {TOO_LARGE:g} times "
        f"too large {trace[large]} ({more_or_less(trace[large], trace[none])} without).",
        f"A perfect critic does not take the variance to 0: even the exact advantage leaves "
        f"{left}, {100 * left.value / rest.value:.0f} % of what the exact baseline leaves, because "
        "actions and states are drawn; the rest is what happens after them.",
        f"The critic that is {TOO_LARGE:g} times too large: as a baseline it {_biases(baseline)}, "
        f"in the TD error it {_biases(wrong)}.",
    ]


def _biases(squared_bias: Measured) -> str:
    if squared_bias.value < 1.96 * squared_bias.error:
        return "showed no bias of the gradient"
    return f"biases the gradient, ‖bias‖² = {squared_bias}"
