"""Studies S6 and S7: bias and variance of estimators, and the correction of squashed actions.

Nothing is trained. What is measured by sampling stands beside what is known exactly: the closed
forms of `lab`, or an integral. docs/lab.md derives them. The sentences are computed from what was
measured, and say that something is larger only where intervals leave no other choice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from actorcritic import lab
from actorcritic.figures import plots
from actorcritic.figures.html import Picture, Table
from actorcritic.figures.statistics import figures
from actorcritic.lab import Critic, Estimator, Measured
from actorcritic.studies.bench import Answer, Bench, Question

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# ------------------------------------------------------------------------------------ in words


class Beside(NamedTuple):
    """A number that was measured, beside its closed form."""

    measured: Measured
    exact: float

    @property
    def deviations(self) -> float:
        """How many standard errors they are apart."""
        apart = abs(float(self.measured.value) - self.exact)
        # What has no error at all must be the same but for rounding.
        return apart / max(float(self.measured.error), 1e-9 * (1 + abs(self.exact)))

    @property
    def cells(self) -> tuple[str, str]:
        estimate = self.measured.estimate
        write = figures(*estimate, self.exact)
        return estimate.text(write), write(self.exact)

    def data(self) -> dict[str, float]:
        value, low, high = (float(x) for x in self.measured.estimate)
        return {"measured": value, "low": low, "high": high, "exact": self.exact}


def _agreement(found: Sequence[Beside]) -> str:
    apart = np.array([each.deviations for each in found])
    # Numbers of one sample move together: more of them are far off at once, or none is.
    return (
        f"{(apart <= 1.96).sum()} of {len(apart)} measured numbers have their closed form inside "
        f"their 95 % interval; the furthest is {apart.max():.1f} standard errors away"
        f" ({'as' if apart.max() < 4.5 else 'more than'} chance would have it)."
    )


def _least(name: str, values: Sequence[float], found: Sequence[Beside]) -> tuple[int, str]:
    """Where the least was measured, in words, with what cannot be told apart from it."""
    measured = [each.measured for each in found]
    best = int(np.argmin([each.value for each in measured]))
    alike = [
        f"{value:g}"
        for i, value in enumerate(values)
        if i != best and _more(measured[i], measured[best]) != "more than"
    ]
    tie = f" (not told apart from {', '.join(alike)})" if alike else ""
    return best, f"least at {name} = {values[best]:g}{tie}"


def _more(x: Measured, y: Measured) -> str:
    """Whether x is larger than y; both were measured by themselves."""
    gap, error = x.value - y.value, np.hypot(x.error, y.error)
    if abs(gap) < 1.96 * error:
        return "cannot be told apart from"
    return "more than" if gap > 0 else "less than"


def _with_formula(
    curves: Sequence[tuple[str, Float[np.ndarray, " n"], Sequence[Beside]]],
    xlabel: str,
    ylabel: str,
    **options: Any,
) -> Figure:
    """Measured curves with their 95 % bands, the closed form dashed over each."""
    series = []
    for label, x, found in curves:
        value, low, high = (
            np.array(column, float)
            for column in zip(*(each.measured.estimate for each in found), strict=True)
        )
        series.append(plots.Series(label, x, value, low, high))
    figure = plots.lines(series, xlabel, ylabel, markers=True, **options)
    _dashed(figure, [(x, np.array([each.exact for each in found])) for _, x, found in curves])
    return figure


def _dashed(
    figure: Figure, curves: Sequence[tuple[np.ndarray, np.ndarray]], name: str = "closed form"
) -> None:
    axes = figure.axes[0]
    for x, y in curves:
        axes.plot(x, y, color=plots.INK, lw=1.1, ls=(0, (4, 3)), zorder=6)
    axes.annotate(
        f"dashed: {name}",
        (1, 1.02),
        xycoords="axes fraction",
        ha="right",
        color=plots.FAINT,
        fontsize=8,
    )


# ------------------------------------------------------------------------------------ S6: n-step

CHAIN = 25  # states
SIGMA, BIAS, STD, GAMMA = 0.5, 1.0, 1.0, 0.9  # of rewards; of the critic; the discount
STEPS = (1, 2, 3, 4, 6, 8, 12, 16, 20, 24)

Parts = dict[str, list[Beside]]
PARTS = ("squared bias", "variance", "mean squared error")


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
    figure = _with_formula([(p, x, found[p]) for p in PARTS], "n", "n-step return")
    what = (
        f"A chain of {CHAIN} states, γ = {GAMMA:g}, rewards of deviation {SIGMA:g}, a critic whose "
        f"errors have the mean {BIAS:g} and the deviation {STD:g}; from the first state. "
    )
    picture = Picture("n-step", "n-step returns", figure, what + "Bands: 95 % intervals.")
    mse = found["mean squared error"]
    _, least = _least("n", STEPS, mse)
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


# ------------------------------------------------------------------------------------ S6: λ

FIXED = 3.0  # deviation, between states, of the critic's lasting errors
LAMBDAS = (0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)


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
    figure = _with_formula(
        [(p, np.array(LAMBDAS), found[p]) for p in PARTS], "λ", "λ-return = GAE(λ) + critic"
    )
    what = (
        f"A random process of 8 states, γ = {GAMMA:g}, with random rewards; a critic with an error "
        f"of deviation {FIXED:g} fixed for each state, and one of deviation {STD:g} drawn anew at "
        "every step. Means over states, weighted as they are visited. "
    )
    picture = Picture("lambda", "λ-returns", figure, what + "Bands: 95 % intervals.")
    values = [each.measured for each in found["mean squared error"]]
    best, least = _least("λ", LAMBDAS, found["mean squared error"])
    between = 0 < best < len(values) - 1 and all(
        _more(values[end], values[best]) == "more than" for end in (0, -1)
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


# ------------------------------------------------------------------------------------ S6: gradient

TOO_LARGE = 3.0


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
    bars = plots.score_intervals(rows, "total variance of the gradient of one episode")
    for y, each in enumerate(found.values()):
        bars.axes[0].plot(
            [each.trace.exact] * 2, [y - 0.3, y + 0.3], color=plots.INK, lw=1.1, zorder=6
        )
    note = what + "Dots: measured; upright lines: closed form."
    pictures = [Picture("gradient-forms", "Variance of the policy gradient", bars, note)]

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
        figure = _with_formula(curves, "λ", name)
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
        f"the exact values as baseline {trace[critic]} ({_more(trace[critic], trace[none])} "
        f"without), with the optimal baseline {trace[best]}, and with a critic {TOO_LARGE:g} times "
        f"too large {trace[large]} ({_more(trace[large], trace[none])} without).",
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


def _s6(bench: Bench) -> Answer:
    samples = 3_000 if bench.quick else 40_000
    n_steps, n_picture, n_table, n_sentences = _n_steps(10 * samples)
    lambdas, l_picture, l_table, l_sentences = _lambdas(samples // 4)
    limits, limit_table = _limits(samples)
    gradient, beside = _gradients(2 * samples)
    for parts in (n_steps, lambdas, limits):
        beside += [each for part in parts.values() for each in part]
    numbers = {
        "n_step": _parts_data("n", STEPS, n_steps),
        "lambda": _parts_data("lambda", LAMBDAS, lambdas),
        "gae_limits": _parts_data("lambda", (0.0, 1.0), limits),
        **gradient.numbers,
    }
    return Answer(
        (*n_sentences, *l_sentences, *gradient.sentences, _agreement(beside)),
        tables=(n_table, l_table, limit_table, *gradient.tables),
        pictures=(n_picture, l_picture, *gradient.pictures),
        numbers=numbers,
    )


def _parts_data(name: str, values: Sequence[float], found: Parts) -> list[dict[str, Any]]:
    return [
        {name: value, **{part.replace(" ", "_"): found[part][i].data() for part in found}}
        for i, value in enumerate(values)
    ]


# ------------------------------------------------------------------------------------ S7: squashing


class Setting(NamedTuple):
    """A squashed normal policy of one dimension."""

    mean: float
    std: float
    low: float
    high: float

    @property
    def half(self) -> float:
        """What tanh u is multiplied with."""
        return (self.high - self.low) / 2

    def __str__(self) -> str:
        return f"μ = {self.mean:g}, σ = {self.std:g}, [{self.low:g}, {self.high:g}]"


DRAWN = Setting(0.5, 0.8, -2.0, 2.0)
SETTINGS = (
    DRAWN,
    Setting(0.0, 0.3, -2.0, 2.0),
    Setting(0.0, 1.5, -1.0, 1.0),
    Setting(-1.0, 1.0, -0.1, 0.1),
    Setting(0.5, 0.8, 0.0, 20.0),
)
RIGHT, NO_JACOBIAN, NO_SCALE, NEITHER = VARIANTS = (
    "complete",
    "no Jacobian",
    "no scale",
    "neither",
)
COLOUR = dict(zip(VARIANTS, plots.COLOURS, strict=False))
POINTS = 20_001  # of a quadrature
ALPHA, DISCOUNT = 0.2, 0.99  # of soft values


def _distribution(setting: Setting, count: int) -> Any:
    """The library's, for so many actions of one dimension, in the precision of the moment."""
    import jax.numpy as jnp

    from actorcritic.distributions import TanhGaussian

    return TanhGaussian(
        jnp.full((count, 1), setting.mean),
        jnp.full((count, 1), np.log(setting.std)),
        jnp.array([setting.low]),
        jnp.array([setting.high]),
    )


def log_slope(u: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """log(1 − tanh² u) = −2 log cosh u, the logarithm of the slope of tanh."""
    return -2 * (np.logaddexp(u, -u) - np.log(2))


def log_densities(
    setting: Setting, u: Float[np.ndarray, " n"]
) -> dict[str, Float[np.ndarray, " n"]]:
    """log π of the action of each u: the library's, and a normal one without one or both terms."""
    import jax

    with jax.enable_x64(True):
        right = np.asarray(_distribution(setting, len(u)).log_prob(jax.numpy.asarray(u)[:, None]))
    z = (u - setting.mean) / setting.std
    normal = -0.5 * z**2 - np.log(setting.std) - 0.5 * np.log(2 * np.pi)
    return {
        RIGHT: right,
        NO_JACOBIAN: normal - np.log(setting.half),
        NO_SCALE: normal - log_slope(u),
        NEITHER: normal,
    }


def _actions(setting: Setting, u: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    import jax

    with jax.enable_x64(True):
        return np.asarray(_distribution(setting, len(u)).action(jax.numpy.asarray(u)[:, None]))[
            :, 0
        ]


def integrals(setting: Setting) -> dict[str, float]:
    """∫ exp(log π(a)) da over the actions: sums of densities times the widths of cells of a."""
    # Cells are even in u, where the density is smooth; their widths are those of the actions.
    edges = setting.mean + setting.std * np.linspace(-9, 9, POINTS)
    widths = np.diff(_actions(setting, edges))
    found = log_densities(setting, (edges[1:] + edges[:-1]) / 2)
    return {name: float(np.exp(log_p) @ widths) for name, log_p in found.items()}


def _mean_slope(setting: Setting) -> float:
    """E[1 − tanh² u], the integral of a density without Jacobian; by Gauss–Hermite quadrature."""
    x, weight = np.polynomial.hermite_e.hermegauss(180)
    slope = np.exp(log_slope(setting.mean + setting.std * x))
    return float(weight @ slope / weight.sum())


def expected_integrals(setting: Setting) -> dict[str, float]:
    """1; E[1 − tanh² u]; m = (high − low) / 2; and the product of the two."""
    slope = _mean_slope(setting)
    return {RIGHT: 1.0, NO_JACOBIAN: slope, NO_SCALE: setting.half, NEITHER: setting.half * slope}


def _entropies(
    setting: Setting, draws: int, rng: np.random.Generator
) -> tuple[dict[str, Measured], float]:
    """Means of −log π over draws, by variant, and the exact entropy."""
    import jax

    u = setting.mean + setting.std * rng.standard_normal(draws)
    found = {
        name: Measured(float(-log_p.mean()), float(log_p.std() / np.sqrt(draws)))
        for name, log_p in log_densities(setting, u).items()
    }
    with jax.enable_x64(True):
        return found, float(_distribution(setting, 1).entropy()[0])


class Cancels(NamedTuple):
    """The greatest difference that a term makes anywhere, in a thing computed with and without."""

    ratio: float  # of π and another policy, in the logarithm, for the same draws
    score: float  # the derivatives of log π(a) by μ and log σ, for a given action
    entropy_by_mean: float  # the derivatives of E[−log π(a)], whose a follows the policy
    entropy_by_log_std: float
    soft_value: float  # what it adds to −α log π, summed over a process without end


def what_cancels(setting: Setting) -> dict[str, Cancels]:
    """Each variant beside the complete density, by central differences."""
    other = setting._replace(mean=setting.mean + 0.3, std=1.2 * setting.std)
    u = setting.mean + setting.std * np.linspace(-3, 3, 61)
    x, weight = np.polynomial.hermite_e.hermegauss(180)
    weight, step = weight / weight.sum(), 1e-4

    def nudged(mean: float, log_std: float) -> Setting:
        return setting._replace(mean=setting.mean + mean, std=setting.std * np.exp(log_std))

    def slopes(of: Callable[[Setting], dict[str, np.ndarray]]) -> dict[str, list[np.ndarray]]:
        """By μ and by log σ."""
        sides = [
            (of(nudged(step, 0)), of(nudged(-step, 0))),
            (of(nudged(0, step)), of(nudged(0, -step))),
        ]
        return {v: [(up[v] - down[v]) / (2 * step) for up, down in sides] for v in VARIANTS}

    def entropy(at: Setting) -> dict[str, np.ndarray]:
        return {v: -weight @ p for v, p in log_densities(at, at.mean + at.std * x).items()}

    here, there = log_densities(setting, u), log_densities(other, u)
    scores = slopes(lambda at: log_densities(at, u))
    by_entropy, level = slopes(entropy), entropy(setting)

    def gap(x: Any, y: Any) -> float:
        return float(np.abs(np.asarray(x) - y).max())

    return {
        v: Cancels(
            gap(here[v] - there[v], here[RIGHT] - there[RIGHT]),
            gap(scores[v], scores[RIGHT]),
            gap(by_entropy[v][0], by_entropy[RIGHT][0]),
            gap(by_entropy[v][1], by_entropy[RIGHT][1]),
            # Every later step adds γ^k α (−log π), k = 1, 2, …, to the soft value.
            ALPHA * DISCOUNT / (1 - DISCOUNT) * float(level[v] - level[RIGHT]),
        )
        for v in VARIANTS[1:]
    }


def _density_picture(draws: int, rng: np.random.Generator) -> Picture:
    u = DRAWN.mean + DRAWN.std * np.linspace(-7, 7, 1201)
    a = _actions(DRAWN, u)
    curves = [
        plots.Series(
            f"{name}: ∫ = {integrals(DRAWN)[name]:.3f}", a, np.exp(log_p), colour=COLOUR[name]
        )
        for name, log_p in log_densities(DRAWN, u).items()
    ]
    figure = plots.lines(curves, "action", "exp(log π) of the action")
    drawn = _actions(DRAWN, DRAWN.mean + DRAWN.std * rng.standard_normal(draws))
    height, edges = np.histogram(drawn, 40, (DRAWN.low, DRAWN.high), density=True)
    _dashed(figure, [((edges[1:] + edges[:-1]) / 2, height)], f"histogram of {draws:,} actions")
    note = f"{DRAWN}. Only the complete density is the one of the actions that are drawn."
    return Picture("densities", "Densities over the range of actions", figure, note)


def _error_picture() -> Picture:
    u = np.linspace(-5, 5, 401)
    found = log_densities(DRAWN, u)
    curves = [
        plots.Series(name, u, found[name] - found[RIGHT], colour=COLOUR[name])
        for name in VARIANTS[1:]
    ]
    figure = plots.lines(curves, "u, the draw before tanh", "error of log π")
    _dashed(figure, [(u, log_slope(u)), (u, np.full_like(u, np.log(DRAWN.half)))])
    note = (
        f"{DRAWN}. Without the Jacobian the error is log(1 − tanh² u), which nears 2 log 2 − 2|u|; "
        "without the scale it is log((high − low) / 2), the same everywhere."
    )
    return Picture("errors", "The error of log π", figure, note)


STDS = np.geomspace(0.1, 5, 15)


def _entropy_picture(draws: int, rng: np.random.Generator) -> tuple[Picture, Parts]:
    """The complete entropy and those without a term, against σ."""
    curves: Parts = {name: [] for name in (RIGHT, NO_JACOBIAN, NO_SCALE)}
    for std in STDS:
        setting = DRAWN._replace(mean=0.0, std=float(std))
        found, exact = _entropies(setting, draws, rng)
        normal = float(np.log(std) + 0.5 * np.log(2 * np.pi * np.e))
        closed = {
            RIGHT: exact,
            NO_JACOBIAN: normal + np.log(setting.half),
            NO_SCALE: exact - np.log(setting.half),
        }
        for name, all_ in curves.items():
            all_.append(Beside(found[name], float(closed[name])))
    figure = _with_formula(
        [(name, STDS, all_) for name, all_ in curves.items()],
        "σ",
        "mean of −log π",
        log_x=True,
    )
    widest = np.log(2 * DRAWN.half)
    note = (
        f"μ = 0, [{DRAWN.low:g}, {DRAWN.high:g}]. No density over this range has more entropy than "
        f"log(high − low) = {widest:.3f}; without the Jacobian it grows with σ for ever."
    )
    picture = Picture("entropy", "Entropy, as −log π estimates it", figure, note)
    return picture, curves


def _s7(bench: Bench) -> Answer:
    draws = 20_000 if bench.quick else 200_000
    rng = np.random.default_rng(4)
    found = {setting: integrals(setting) for setting in SETTINGS}
    expected = {setting: expected_integrals(setting) for setting in SETTINGS}
    table = Table(
        "integrals",
        "What the densities integrate to",
        ("policy", *VARIANTS),
        tuple((str(s), *(f"{found[s][v]:.6f}" for v in VARIANTS)) for s in SETTINGS),
        "Integrals over the range of actions, by quadrature. Without the scale: "
        "m = (high − low) / 2; without the Jacobian: E[1 − tanh² u].",
    )
    cancels = what_cancels(DRAWN)
    rows = tuple(
        (name, *(f"{x:.2g}" for x in each[:-1]), f"{each.soft_value:+.2f}")
        for name, each in cancels.items()
    )
    effects = Table(
        "effects",
        "What cancels",
        (
            "left out",
            "log ratio",
            "∇ log π(a)",
            "∂ entropy / ∂ μ",
            "∂ entropy / ∂ log σ",
            "soft value",
        ),
        rows,
        f"Greatest difference from the complete density, {DRAWN}, by finite differences: what is "
        f"below 1e-8 is rounding. Soft value: −α log π, α = {ALPHA:g}, γ = {DISCOUNT:g}, summed "
        "over a process without end.",
    )
    entropy, curves = _entropy_picture(draws, rng)
    pictures = (_density_picture(draws, rng), _error_picture(), entropy)
    apart = max(abs(found[s][v] - expected[s][v]) for s in SETTINGS for v in VARIANTS)
    numbers = {
        "integrals": [
            {"policy": s._asdict(), "integral": found[s], "expected": expected[s]} for s in SETTINGS
        ],
        "what_cancels": {name: each._asdict() for name, each in cancels.items()},
        "entropy": _parts_data("std", STDS.tolist(), curves),
    }
    # Without the scale it is the same numbers again, and a constant.
    beside = [*curves[RIGHT], *curves[NO_JACOBIAN]]
    sentences = (*_squash_sentences(found, apart, cancels, curves), _agreement(beside))
    return Answer(sentences, tables=(table, effects), pictures=pictures, numbers=numbers)


def _squash_sentences(
    found: Mapping[Setting, Mapping[str, float]],
    apart: float,
    cancels: Mapping[str, Cancels],
    curves: Parts,
) -> list[str]:
    off = max(abs(each[RIGHT] - 1) for each in found.values())
    ranges = {
        v: f"{min(each[v] for each in found.values()):.3g} to "
        f"{max(each[v] for each in found.values()):.3g}"
        for v in VARIANTS
    }
    ones = "integrates to 1" if off < 1e-5 else "does not integrate to 1"
    jacobian, scale = cancels[NO_JACOBIAN], cancels[NO_SCALE]
    same = max(max(each.ratio, each.score) for each in cancels.values())
    peak = int(np.argmax([each.measured.value for each in curves[RIGHT]]))
    grown = curves[NO_JACOBIAN][-1].measured.value
    slope = max(scale.entropy_by_mean, scale.entropy_by_log_std)
    return [
        f"With Jacobian and scale the density {ones} (off by at most {off:.1g} in {len(found)} "
        f"policies); without the Jacobian to {ranges[NO_JACOBIAN]}, without the scale to "
        f"{ranges[NO_SCALE]}, without either to {ranges[NEITHER]}. All agree with E[1 − tanh² u] "
        f"and (high − low) / 2 to {apart:.1g}.",
        f"For an action that is given both terms {'cancel' if same < 1e-8 else 'do not cancel'} in "
        f"the ratio of two policies and in ∇ log π (differences of at most {same:.1g}): PPO's "
        "surrogate and a score-function gradient do not notice.",
        f"In the entropy estimate −log π they stay: without the Jacobian its slope is wrong by "
        f"{jacobian.entropy_by_mean:.2g} in μ and {jacobian.entropy_by_log_std:.2g} in log σ, and "
        f"it goes on growing, to {grown:.2f} at σ = {STDS[-1]:g}, while that of "
        f"the actions is greatest at σ = {STDS[peak]:.2g}; without the scale its level is wrong by "
        f"log m = {np.log(DRAWN.half):.3f} and its slope "
        f"{'not at all' if slope < 1e-8 else f'by {slope:.2g}'}.",
        f"In SAC's targets either is worth something: soft values are wrong by "
        f"{jacobian.soft_value:+.1f} without the Jacobian, by {scale.soft_value:+.1f} without the "
        f"scale (α = {ALPHA:g}, γ = {DISCOUNT:g}, no end), and a target for the entropy means "
        "another σ.",
    ]


LAB: dict[str, Question] = {
    "S6": Question(
        "Estimator bias and variance",
        "How biased and how noisy are n-step returns, λ-returns and policy gradients, measured "
        "and by the formula, and what does a perfect critic leave?",
        _s6,
    ),
    "S7": Question(
        "The correction of squashed actions",
        "What happens to log π where the Jacobian of tanh or the scale of the actions is left "
        "out, and which quantities notice?",
        _s7,
    ),
}
