"""S7: what log π of a squashed action needs: the Jacobian of tanh and the scale of the actions.

Nothing is trained. The library's density stands beside integrals, and beside a normal density
without one term or both. docs/lab.md derives the formulas.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from actorcritic.figures import plots
from actorcritic.figures.html import Picture, Table
from actorcritic.lab import Measured
from actorcritic.runs.console import working
from actorcritic.studies.bench import Answer, Bench
from actorcritic.studies.beside_exact import (
    Beside,
    Parts,
    agreement,
    dashed,
    parts_data,
    with_formula,
)

QUESTION = (
    "What happens to log π where the Jacobian of tanh or the scale of the actions is left out, and "
    "which quantities notice?"
)


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


def answer(bench: Bench) -> Answer:
    with working("Integrating", quiet=bench.quiet):
        return _answer(20_000 if bench.quick else 200_000)


def _answer(draws: int) -> Answer:
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
        "entropy": parts_data("std", STDS.tolist(), curves),
    }
    # Without the scale it is the same numbers again, and a constant.
    beside = [*curves[RIGHT], *curves[NO_JACOBIAN]]
    sentences = (*_squash_sentences(found, apart, cancels, curves), agreement(beside))
    return Answer(sentences, tables=(table, effects), pictures=pictures, numbers=numbers)


# ------------------------------------------------------------------------------------ densities


def _distribution(setting: Setting, count: int) -> Any:
    """The library's, for so many actions of one dimension, in the precision of the moment."""
    import jax.numpy as jnp

    from actorcritic.maths.distributions import TanhGaussian

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


# ------------------------------------------------------------------------------------ what cancels


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


# ------------------------------------------------------------------------------------ pictures


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
    dashed(figure, [((edges[1:] + edges[:-1]) / 2, height)], f"histogram of {draws:,} actions")
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
    dashed(figure, [(u, log_slope(u)), (u, np.full_like(u, np.log(DRAWN.half)))])
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
    figure = with_formula(
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


# ------------------------------------------------------------------------------------ in words


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
