"""Studies S1 to S5: what is trained, and what is said of it.

The sentences are computed from what was measured: something is said to be higher, fewer or lower
only where a 95 % interval leaves no other choice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from actorcritic.algorithms import A2C, Reinforce
from actorcritic.algorithms.presets import preset
from actorcritic.comparison import NONE, Comparison
from actorcritic.envs import CartPole, GridWorld, Pendulum
from actorcritic.envs.grid_world import GOAL_REWARD, MOVES, STEP_REWARD
from actorcritic.experiments import Part
from actorcritic.figures import plots, statistics
from actorcritic.figures.html import Animation, Picture, Table
from actorcritic.figures.statistics import Estimate, figures
from actorcritic.hyperparameters import replace
from actorcritic.runners.seeds import CompiledSession
from actorcritic.runs import Run
from actorcritic.studies.bench import Answer, Bench, Question

# ------------------------------------------------------------------------------------ in words


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def _median(x: Float[np.ndarray, "... S"]) -> Any:
    """As `statistics.censored_median`: infinity stays what it is."""
    return np.quantile(x, 0.5, axis=-1, method="inverted_cdf")


def _deviation(x: Float[np.ndarray, "... S"]) -> Any:
    return np.std(x, axis=-1, ddof=1)


def _ratio(
    x: Float[np.ndarray, " S"],
    y: Float[np.ndarray, " S"],
    statistic: Callable[[np.ndarray], Any],
) -> Estimate:
    """statistic(x) / statistic(y) of the same seeds, drawn together."""
    rows = _rng().integers(len(x), size=(statistics.RESAMPLES, len(x)))
    with np.errstate(invalid="ignore", divide="ignore"):
        value = float(statistic(x) / statistic(y))
        drawn = statistic(x[rows]) / statistic(y[rows])
    if len(x) < statistics.FEWEST_SEEDS or not np.isfinite(value):
        return Estimate(value, np.nan, np.nan)
    # Where a draw does not tell the ratio it may be anything: that widens the interval both ways.
    low, high = (
        float(np.quantile(np.where(np.isnan(drawn), unknown, drawn), q, method="inverted_cdf"))
        for unknown, q in ((0.0, 0.025), (np.inf, 0.975))
    )
    return Estimate(value, low, high)


def _side(estimate: Estimate, even: float, below: str, above: str) -> str:
    """On which side of `even` an estimate's interval is, in words."""
    if np.isnan(estimate.low):
        return "not known to differ"
    if estimate == (even, even, even):
        return "the same"
    if estimate.high < even:
        return below
    return above if estimate.low > even else "cannot be told apart"


def _two(x: float) -> str:
    return f"{x:.2f}"


def _signed(estimate: Estimate) -> str:
    write = figures(*estimate)
    return estimate.text(lambda x: "+" * bool(x > 0) + write(x))


def _area_gained(comparison: Comparison, label: str, other: str) -> Estimate:
    """How much more area one variant has under its learning curve than another."""
    x, y = comparison.areas[label], comparison.areas[other]
    return statistics.difference(x, y, rng=_rng(), paired=comparison.paired)


def _versus(comparison: Comparison, label: str, other: str) -> str:
    """One variant beside another: how fast it learned, and where it ended."""
    area, score = _area_gained(comparison, label, other), comparison.against(label, other)
    return (
        f"{label} against {other}: area under the learning curve {_signed(area)} "
        f"({_side(area, 0, 'smaller', 'larger')}), score at the end {_signed(score.difference)} "
        f"({_side(score.difference, 0, 'lower', 'higher')})."
    )


def _learning(name: str, title: str, comparison: Comparison) -> Table:
    """How fast and how evenly variants learned, and where they ended."""
    rows = tuple(
        (
            label,
            str(found.area),
            f"{statistics.spread(comparison.areas[label]).deviation:.1f}",
            str(found.iqm),
            f"{found.spread.deviation:.1f}",
        )
        for label, found in comparison.variants.items()
    )
    columns = ("variant", "area under curve", "its SD", "score at the end", "its SD")
    note = (
        f"Area: the mean height of a seed's learning curve, the mean of its last "
        f"{comparison.window} training returns. IQM over seeds with 95 % bootstrap intervals; SD "
        f"between seeds. Score: {comparison.score}."
    )
    return Table(name, title, columns, rows, note)


def _median_seed(comparison: Comparison, label: str) -> int:
    """The seed in the middle by its score; of an even number, the lower one of the two."""
    order = np.argsort(comparison.scores[label], kind="stable")
    return comparison.seeds[label][order[(len(order) - 1) // 2]]


# ------------------------------------------------------------------------------------ S1: critics

CARTPOLE_THRESHOLDS = (195.0, 475.0)  # where CartPole-v0 and CartPole-v1 count as solved

# For 100,000 steps, chosen on seeds 100 to 104 (docs/studies.md says among what): a REINFORCE that
# is slower than it has to be would be no comparison.
REINFORCE = Reinforce(num_envs=1, baseline=False, learning_rate=6e-3)
A2C_GAE = A2C(num_envs=4, num_steps=16, gae_lambda=0.95, optimizer="adam", learning_rate=3e-3)


def _cartpole(bench: Bench) -> tuple[int, tuple[float, ...]]:
    """Environment steps, and the returns to reach."""
    return (10_000, (50.0, 100.0)) if bench.quick else (100_000, CARTPOLE_THRESHOLDS)


def _s1(bench: Bench) -> Answer:
    steps, thresholds = _cartpole(bench)
    references: tuple[str, ...] = ("REINFORCE", "REINFORCE preset")
    critics = ("one-step actor-critic", "A2C + GAE")
    variants = {
        references[0]: REINFORCE,
        references[1]: preset("reinforce", "CartPole-v1").algorithm,
        critics[0]: preset("td-actor-critic", "CartPole-v1").algorithm,
        critics[1]: A2C_GAE,
    }
    if bench.quick:
        references = references[:1]
        del variants["REINFORCE preset"]
    runs = bench.train(variants, CartPole(), steps)
    part = Part("REINFORCE and actor-critics on CartPole-v1", runs, thresholds)
    comparison = part.comparison(None)
    reached = {
        (threshold, label): statistics.steps_until(
            run.episodes, comparison.seeds[label], threshold, comparison.window
        )
        for threshold in thresholds
        for label, run in runs.items()
    }
    beside = {
        (reference, threshold, label): _Beside.of(
            reached[threshold, label].episodes,
            reached[threshold, reference].episodes,
            runs[reference],
        )
        for reference in references
        for threshold in thresholds
        for label in critics
    }
    rows, took = [], []
    for found in comparison.until:
        own = reached[found.threshold, found.label].episodes
        episodes = found.episodes.text(statistics.counts(found.most_episodes))
        got = f"{found.reached} of {len(own)}"
        spread = f"{_deviation(own):,.0f}" if np.isfinite(own).all() else NONE
        made = found.steps.text(statistics.counts(found.most_steps))
        rows.append((f"{found.threshold:g}", found.label, got, episodes, spread, made))
        took.append((found.threshold, f"{found.label} {episodes} ({got} seeds)"))
    until = Table(
        "until",
        "Episodes and steps until a return is reached",
        ("return", "variant", "reached", "episodes", "SD", "steps"),
        tuple(rows),
        f"Reached: the mean of a seed's last {comparison.window} training returns, the same for "
        "all. Medians over seeds with 95 % bootstrap intervals; a seed that never got there counts "
        "as later than all that did. SD: of the episodes, between seeds, where all got there. "
        "REINFORCE has no critic and learns from one episode at a time; its preset learns from "
        "eight, with V(s) as a baseline.",
    )
    against = Table(
        "against",
        "Episodes beside those of REINFORCE",
        ("return", "variant", "beside", "times the episodes", "times the SD", "what holds"),
        tuple(
            (f"{threshold:g}", label, reference, *each.cells, each.claim)
            for (reference, threshold, label), each in beside.items()
        ),
        "Ratios of medians and of standard deviations, seeds drawn together. ≤: half of the "
        "reference's seeds were not there when training ended.",
    )
    sentences = (
        *(_claimed(reference, beside) for reference in references),
        *(
            f"Episodes to a mean return of {threshold:g} (median): "
            f"{'; '.join(text for t, text in took if t == threshold)}."
            for threshold in thresholds
        ),
    )
    numbers = {
        "until": [
            {"threshold": threshold, "variant": label, **each._asdict()}
            for (threshold, label), each in reached.items()
        ],
        "against": [
            {"reference": reference, "threshold": threshold, "variant": label, **each.data()}
            for (reference, threshold, label), each in beside.items()
        ],
    }
    return Answer(sentences, (part,), (until, against), numbers=numbers)


class _Beside(NamedTuple):
    """How many episodes, and how far apart between seeds, beside those of a reference."""

    episodes: Estimate
    at_most: bool  # the reference was not there when its training ended
    spread: Estimate

    @classmethod
    def of(cls, mine: Float[np.ndarray, " S"], other: Float[np.ndarray, " S"], run: Run) -> _Beside:
        at_most = bool(np.isinf(_median(other)))
        ended = np.array([(run.episodes.seed == seed).sum() for seed in sorted(run.seeds)])
        least = np.where(np.isinf(other), ended, other) if at_most else other
        return cls(_ratio(mine, least, _median), at_most, _ratio(mine, other, _deviation))

    @property
    def known(self) -> bool:
        return bool(np.isfinite(self.episodes.low))

    @property
    def cells(self) -> tuple[str, str]:
        episodes = "≤ " * self.at_most + self.episodes.text(_two) if self.known else NONE
        return episodes, self.spread.text(_two) if np.isfinite(self.spread.value) else NONE

    @property
    def claim(self) -> str:
        """What of "about half the episodes, with lower spread" the intervals leave."""
        ratio, spread = self.episodes, self.spread
        if not self.known:
            half = "episodes not known"
        elif ratio.high < 0.5:
            half = "fewer than half"
        elif ratio.high >= 1:
            more = ratio.low > 1 and not self.at_most
            half = "more episodes" if more else "not known to be fewer"
        elif self.at_most:
            half = "fewer, perhaps half"
        else:
            half = "about half" if ratio.low <= 0.5 else "fewer, but more than half"
        even = _side(spread, 1, "lower spread", "higher spread")
        return f"{half}, {even if np.isfinite(spread.low) else 'spread not known'}".replace(
            "cannot be told apart", "spread not told apart"
        )

    @property
    def half(self) -> bool:
        """Whether it took half the episodes or fewer, or the interval allows it and not as many."""
        return self.known and self.episodes.high < 1 and self.episodes.low <= 0.5

    def data(self) -> dict[str, Any]:
        return {
            "ratio_of_episodes": self.episodes._asdict(),
            "at_most": self.at_most,
            "ratio_of_spread": self.spread._asdict(),
            "claim": self.claim,
        }


def _claimed(reference: str, beside: Mapping[tuple[str, float, str], _Beside]) -> str:
    """What comparisons with one reference leave of the claim."""
    mine = {key: each for key, each in beside.items() if key[0] == reference}
    half = sum(each.half for each in mine.values())
    lower = sum(each.spread.high < 1 for each in mine.values())
    each = "; ".join(f"{label} at {t:g}: {found.claim}" for (_, t, label), found in mine.items())
    return (
        f"'About half the episodes, with lower spread', beside {reference}: half or fewer in "
        f"{half} of {len(mine)} comparisons, a lower spread in {lower} ({each})."
    )


# ------------------------------------------------------------------------------------ S2: λ


def _s2(bench: Bench) -> Answer:
    steps, thresholds = _cartpole(bench)
    # One whole episode an update, so that λ = 1 is the Monte Carlo return itself.
    whole = replace(A2C_GAE, num_envs=1, num_steps=500, whole_episodes=True)
    td, middle, monte_carlo = labels = ("λ=0", "λ=0.95", "λ=1")
    variants = {
        label: replace(whole, gae_lambda=value)
        for label, value in zip(labels, (0.0, 0.95, 1.0), strict=True)
    }
    part = Part(
        "A2C with each λ on CartPole-v1", bench.train(variants, CartPole(), steps), thresholds
    )
    comparison = part.comparison(None)
    ends = {end: _area_gained(comparison, middle, end) for end in (td, monte_carlo)}
    better = [end for end, gained in ends.items() if gained.low > 0]
    worse = [end for end, gained in ends.items() if gained.high < 0]
    spread = _ratio(comparison.areas[monte_carlo], comparison.areas[td], _deviation)
    claim = "holds" if len(better) == 2 else "does not hold" if worse else "is not shown"
    sentences = (
        *(_versus(comparison, middle, end) for end in ends),
        f"Spread between seeds of the area, {monte_carlo} beside {td}: {spread.text(_two)} times "
        f"({_side(spread, 1, 'smaller', 'larger')}).",
        f"That a λ between the ends learns faster than both of them {claim} here: larger area than "
        f"{' and '.join(better) or 'neither'}.",
    )
    numbers = {
        "area_gained_by_middle": {end: gained._asdict() for end, gained in ends.items()},
        "spread_ratio": spread._asdict(),
    }
    table = _learning("learning", "Learning with each λ", comparison)
    return Answer(sentences, (part,), (table,), numbers=numbers)


# ------------------------------------------------------------------------------------ S3: Pendulum

PENDULUM_EPISODE = 200  # steps
PENDULUM_TARGET = -250.0

# Chosen on seeds 100 to 105, λ at 0.92 (docs/studies.md); the preset is for ten times the steps.
PENDULUM_A2C = A2C(
    num_envs=4,
    num_steps=8,
    gamma=0.93,
    optimizer="adam",
    learning_rate=1e-3,
    critic_learning_rate=5e-3,
    learning_rate_schedule="linear",
    max_grad_norm=1.0,
    activation="relu",
    initial_log_std=0.5,
    normalize_observation=True,
    normalize_reward=True,
)


def _s3(bench: Bench) -> Answer:
    values = (0.0, 0.95) if bench.quick else (0.0, 0.5, 0.9, 0.95, 1.0)
    variants = {f"λ={value:g}": replace(PENDULUM_A2C, gae_lambda=value) for value in values}
    parts, pictures, tables, sentences, numbers = [], [], [], [], {}
    for name, world in (("gravity", Pendulum()), ("no gravity", Pendulum(gravity=0.0))):
        for episodes in (30,) if bench.quick else (500, 1_000, 2_000, 5_000):
            folder = f"{name}-{episodes}".replace(" ", "-")
            runs = bench.train(variants, world, episodes * PENDULUM_EPISODE, folder)
            title = f"Pendulum-v1, {name}, {episodes:,} episodes"
            part = Part(title, runs, (PENDULUM_TARGET,))
            comparison = part.comparison(None)
            found = comparison.variants
            best = max(found, key=lambda label: found[label].iqm.value)
            learned = bool(found[best].iqm.value >= PENDULUM_TARGET)
            parts.append(part)
            sentences.append(
                f"With {name}, {episodes:,} episodes {'suffice' if learned else 'do not suffice'} "
                f"for {PENDULUM_TARGET:g}: {best} scored highest, IQM {found[best].iqm}, after "
                f"{_first_returns(runs[best]):,.0f} in its first ten episodes of training; "
                + _ranked(comparison, best)
            )
            numbers[folder] = {"best": best, "learned": learned, **found[best].iqm._asdict()}
            tables.append(_learning(folder, title, comparison))
            if learned or bench.quick:
                break
        pictures.append(_policies(name, runs, comparison))
    return Answer(tuple(sentences), tuple(parts), tuple(tables), tuple(pictures), numbers)


def _first_returns(run: Run) -> float:
    """The mean return of the first ten training episodes of each seed."""
    table = run.episodes
    return float(np.mean([table.returns[table.seed == seed][:10].mean() for seed in run.seeds]))


def _ranked(comparison: Comparison, best: str) -> str:
    """Which variants the best one is known to beat, by its score at the end."""
    words = {
        label: comparison.against(best, label).word for label in comparison.runs if label != best
    }
    lower = [label for label, word in words.items() if word == "higher"]
    near = [label for label in words if label not in lower]
    said = [f"{', '.join(lower)} lower"] if lower else []
    said += [f"{', '.join(near)} not told apart from it"] if near else []
    return f"{' and '.join(said)}."


def _policies(name: str, runs: Mapping[str, Run], comparison: Comparison) -> Picture:
    """The torque of each variant's median seed in every state of the pendulum."""
    angle, speed = np.linspace(-np.pi, np.pi, 73), np.linspace(-8, 8, 65)
    speeds, angles = np.meshgrid(speed, angle, indexing="ij")
    states = np.stack([np.cos(angles), np.sin(angles), speeds], axis=-1).astype(np.float32)
    fields = []
    for label, run in runs.items():
        seed = _median_seed(comparison, label)
        torque = run.policy(seed)(states.reshape(-1, 3)).reshape(angles.shape)
        fields.append(plots.Field(f"{label} (seed {seed})", torque))
    figure = plots.action_against_state(
        fields,
        angle,
        speed,
        xlabel="angle from upright (rad)",
        ylabel="angular velocity (rad/s)",
        label="torque (N·m)",
        limits=(-2.0, 2.0),
    )
    note = (
        "The deterministic action in each state, of the seed whose final evaluation is the median. "
        "Upright is the middle; positive torque pushes towards a larger angle."
    )
    return Picture(f"policy-{name}".replace(" ", "-"), f"What was learned, {name}", figure, note)


# ------------------------------------------------------------------------------------ S4: ablation


def _s4(bench: Bench) -> Answer:
    steps, thresholds = _cartpole(bench)
    a2c, reinforce = "A2C + GAE", "REINFORCE"
    lengths = (1, 16) if bench.quick else (1, 5, 20, 100)
    bonuses = (0.01,) if bench.quick else (0.001, 0.01)
    lambdas = (0.0,) if bench.quick else (0.0, 0.5, 0.9, 1.0)
    groups: dict[str, dict[str, Any]] = {
        "With and without a critic": {
            reinforce: REINFORCE,
            **({} if bench.quick else {f"{reinforce} + V(s)": replace(REINFORCE, baseline=True)}),
            a2c: A2C_GAE,
        },
        "n-step returns": {
            f"n={n}": replace(A2C_GAE, num_steps=n, gae_lambda=1.0) for n in lengths
        },
        "Entropy bonus": {a2c: A2C_GAE}
        | {f"entropy {c:g}": replace(A2C_GAE, entropy_coefficient=c) for c in bonuses},
        "GAE λ": {a2c: A2C_GAE} | {f"λ={v:g}": replace(A2C_GAE, gae_lambda=v) for v in lambdas},
    }
    variants = {label: each for group in groups.values() for label, each in group.items()}
    runs = bench.train(variants, CartPole(), steps)
    parts = tuple(
        Part(title, {label: runs[label] for label in group}, thresholds)
        for title, group in groups.items()
    )
    comparisons = {part.title: part.comparison(None) for part in parts}
    sentences = []
    for title, comparison in comparisons.items():
        fast = max(comparison.runs, key=lambda label: comparison.variants[label].area.value)
        others = [label for label in comparison.runs if label != fast]
        slower = [label for label in others if _area_gained(comparison, fast, label).low > 0]
        near = [label for label in others if label not in slower]
        score = comparison.variants
        top = max(score, key=lambda label: score[label].iqm.value)
        sentences.append(
            f"{title}: {fast} has the largest area under its learning curve, {score[fast].area}"
            + f", larger than {_listed(slower)}" * bool(slower)
            + f", not told apart from {_listed(near)}" * bool(near)
            + f"; {top} scored highest at the end, IQM {score[top].iqm}; {_ranked(comparison, top)}"
        )
    sentences.append(
        "All A2C variants share one step size, chosen for rollouts of 16 steps: with its own, each "
        "might do better."
    )
    tables = tuple(
        _learning(f"learning-{i}", title, each)
        for i, (title, each) in enumerate(comparisons.items(), 1)
    )
    return Answer(tuple(sentences), parts, tables)


def _listed(labels: Sequence[str]) -> str:
    return ", ".join(labels)


# ------------------------------------------------------------------------------------ S5: a grid

GRID = GridWorld(width=5, height=5, walls=((1, 1), (1, 2), (1, 3), (3, 2), (3, 3)))
FRAMES = 40


def exact_values(
    world: GridWorld, policy: Float[np.ndarray, "cells 4"], gamma: float
) -> Float[np.ndarray, " cells"]:
    """V of each of `world.cells` under the policy's probabilities: (I − γP) V = r, in float64.

    The time limit is ignored: it is no part of the state, and training bootstraps at it.
    """
    transition, reward = _decisions(world, policy)
    return np.linalg.solve(np.eye(len(reward)) - gamma * transition, reward)


def visited(
    world: GridWorld, policy: Float[np.ndarray, "cells 4"], gamma: float
) -> Float[np.ndarray, " cells"]:
    """How often the policy is in each cell, from the start, discounted; 1 in sum, 0 at the goal."""
    transition, _ = _decisions(world, policy)
    start = np.array([float(cell == world.start) for cell in world.cells])
    often = np.linalg.solve(np.eye(len(start)) - gamma * transition.T, start)
    often[world.cells.index(_goal(world))] = 0
    return often / often.sum()


def _decisions(
    world: GridWorld, policy: Float[np.ndarray, "cells 4"]
) -> tuple[Float[np.ndarray, "cells cells"], Float[np.ndarray, " cells"]]:
    """Where the policy goes from each cell (nowhere from the goal), and what it expects there."""
    after, entered = _moves(world)
    policy = np.asarray(policy, np.float64)
    cells, goal = np.arange(len(world.cells)), world.cells.index(_goal(world))
    transition = np.zeros((len(cells), len(cells)))
    for action in range(len(MOVES)):
        np.add.at(transition, (cells, after[:, action]), policy[:, action])
    reward = (policy * np.where(entered, GOAL_REWARD, STEP_REWARD)).sum(1)
    transition[goal], reward[goal] = 0, 0
    return transition, reward


def optimal_values(world: GridWorld, gamma: float) -> Float[np.ndarray, " cells"]:
    """V* of each of `world.cells` by the formula that `GridWorld` gives; NaN without a path."""
    steps = [world.distance(cell) for cell in world.cells]
    return np.array([np.nan if n is None else _after_steps(n, gamma) for n in steps])


def _after_steps(n: int, gamma: float) -> float:
    """The discounted return of a shortest path of n steps."""
    if n == 0:
        return 0.0
    return gamma ** (n - 1) * GOAL_REWARD + STEP_REWARD * sum(gamma**t for t in range(n - 1))


def _goal(world: GridWorld) -> tuple[int, int]:
    assert world.goal is not None  # filled in when the world was made
    return world.goal


@cache
def _moves(world: GridWorld) -> tuple[Int[np.ndarray, "cells 4"], Bool[np.ndarray, "cells 4"]]:
    """The index of the cell that each move leads to, and whether that enters the goal."""

    def ahead(cell: tuple[int, int], action: int) -> tuple[int, ...]:
        return tuple(np.asarray(world.move(world.state(cell), jnp.int32(action)).cell).tolist())

    numbers = {cell: i for i, cell in enumerate(world.cells)}
    after = np.array(
        [[numbers[ahead(cell, a)] for a in range(len(MOVES))] for cell in world.cells]  # type: ignore[index]
    )
    return after, after == numbers[_goal(world)]


class Watched(NamedTuple):
    """What learners thought of each cell, and did there, at several moments of a training."""

    steps: Float[np.ndarray, " moments"]  # of the environment, the mean over seeds
    values: Float[np.ndarray, "moments S cells"] | None  # the critic's, where there is one
    policy: Float[np.ndarray, "moments S cells 4"]
    exact: Float[np.ndarray, "moments S cells"]  # V of that policy
    visited: Float[np.ndarray, "moments S cells"]  # how often it is in each cell, 1 in sum


def watch(algorithm: Any, world: GridWorld, seeds: Sequence[int], totals: Sequence[int]) -> Watched:
    """Train again, in memory, and look at the start and at each of these numbers of steps.

    The looking changes nothing: it is bit for bit the training in one go (with constant
    schedules; others depend on where the training is to end).
    """
    cells = jnp.asarray(world.cells, jnp.int32)

    @jax.jit
    @jax.vmap
    def look(learner: Any) -> tuple[Array | None, Array]:
        policy = algorithm._policy(learner, cells)
        actions = [jnp.full(len(world.cells), a, jnp.int32) for a in range(len(MOVES))]
        chances = jnp.stack([jnp.exp(policy.log_prob(a)) for a in actions], axis=-1)
        if algorithm.critic is None:
            return None, chances
        model, encoded = algorithm._model(learner.spec), algorithm._encode(learner, cells)
        return model.value(learner.params, encoded), chances

    session = CompiledSession(algorithm, world, seeds, totals[-1])
    steps, seen = [], []
    for total in (0, *totals):
        session.total_steps = total
        while not session.finished:
            session.advance(1.0)
        steps.append(float(session.steps.mean()))
        seen.append(jax.tree.map(np.asarray, look(session.state.learner)))
    values, policy = jax.tree.map(lambda *x: np.stack(x), *seen)
    exact, often = (
        np.array([[of(world, each, algorithm.gamma) for each in rows] for rows in policy])
        for of in (exact_values, visited)
    )
    return Watched(np.array(steps), values, policy, exact, often)


def _s5(bench: Bench) -> Answer:
    total = 4_000 if bench.quick else 50_000
    gamma = 0.95
    shared: dict[str, Any] = {"num_envs": 8, "gamma": gamma, "learning_rate": 3e-3}
    a2c, baseline, alone = "A2C", "REINFORCE with a critic", "REINFORCE without a critic"
    variants = {
        a2c: A2C(num_steps=16, gae_lambda=0.95, optimizer="adam", **shared),
        baseline: Reinforce(baseline=True, **shared),
        alone: Reinforce(baseline=False, **shared),
    }
    if bench.quick:
        del variants[baseline]
    part = Part("Grid world, with and without a critic", bench.train(variants, GRID, total), (0.8,))
    comparison = part.comparison(None)
    moments = np.unique(np.geomspace(200, total, 8 if bench.quick else FRAMES).astype(int)).tolist()
    watched = {label: watch(each, GRID, bench.seeds, moments) for label, each in variants.items()}
    optimal = optimal_values(GRID, gamma)

    counted = np.array([float(cell != GRID.goal) for cell in GRID.cells])
    alike = counted / counted.sum()

    def size(difference: np.ndarray, weight: np.ndarray) -> Float[np.ndarray, "moments S"]:
        return np.sqrt((difference**2 * weight).sum(-1))

    critics, on_policy = (
        {
            label: size(each.values - each.exact, each.visited if weigh else alike)
            for label, each in watched.items()
            if each.values is not None
        }
        for weigh in (False, True)
    )
    policies = {label: size(each.exact - optimal, alike) for label, each in watched.items()}
    start, end, end_visited, gap = (
        {label: statistics.aggregate(error[k], rng=_rng()) for label, error in errors.items()}
        for errors, k in ((critics, 0), (critics, -1), (on_policy, -1), (policies, -1))
    )
    seed = _median_seed(comparison, a2c)
    note = (
        "Root of the mean square over all cells but walls and the goal; 'where it goes' weighs "
        "cells by how often the policy is in them. IQM of seeds with 95 % intervals."
    )
    solved = (
        f"Exact: (I − γP) V = r solved in float64, γ = {gamma:g}, the time limit ignored; the "
        f"goal, after which nothing comes, is 0. Of A2C, seed {seed}, the median by its score."
    )
    frames = _frames(watched[a2c], bench.seeds.index(seed), optimal)
    across = ("environment steps, per seed", "root mean square difference")
    steps = {label: each.steps for label, each in watched.items()}
    pictures = (
        Animation("values", "The critic as it learns", plots.value_animation(frames), solved),
        Picture("values-at-the-end", "At the end", plots.value_maps(frames[-1]), solved),
        Picture(
            "critic-error",
            "The critic less the exact value of its own policy",
            plots.lines(
                _curves(
                    [(label, steps[label], error) for label, error in critics.items()]
                    + [
                        (f"{label}, where it goes", steps[label], error)
                        for label, error in on_policy.items()
                    ]
                ),
                *across,
            ),
            note,
        ),
        Picture(
            "policy-error",
            "The exact value of the policy less the optimal one",
            plots.lines(
                _curves([(label, steps[label], error) for label, error in policies.items()]),
                *across,
            ),
            note,
        ),
    )
    length = GRID.distance(GRID.start)
    assert length is not None
    shortest = GOAL_REWARD + STEP_REWARD * (length - 1)
    rows = tuple(
        (
            label,
            str(start[label]) if label in start else NONE,
            str(end[label]) if label in end else NONE,
            str(end_visited[label]) if label in end else NONE,
            str(gap[label]),
            str(comparison.variants[label].iqm),
        )
        for label in variants
    )
    table = Table(
        "values",
        "How far from exact",
        (
            "variant",
            "critic at the start",
            "critic at the end",
            "where it goes",
            "policy from optimal",
            "score",
        ),
        rows,
        f"{note} Score: {comparison.score}; a shortest path scores {shortest:.2f}.",
    )
    sentences = (
        *(_versus(comparison, label, alone) for label in critics),
        *(
            f"The critic of {label} starts {start[label]} from the exact value of its policy (root "
            f"mean square over cells) and ends {end[label]} from it; weighed by where the policy "
            f"goes, {end_visited[label]}."
            for label in critics
        ),
        "The exact values of the policies end below the optimal ones (likewise) by "
        + "; ".join(f"{gap[label]} ({label})" for label in variants)
        + ".",
    )
    numbers = {
        "gamma": gamma,
        "cells": GRID.cells,
        "optimal": optimal,
        "steps": steps,
        "critic_error": critics,
        "critic_error_where_it_goes": on_policy,
        "policy_error": policies,
    }
    return Answer(sentences, (part,), (table,), pictures, numbers)


def _frames(watched: Watched, row: int, optimal: np.ndarray) -> list[list[plots.Map]]:
    """The critic of one seed beside what is exact, at each moment."""
    assert watched.values is not None
    moments = zip(watched.steps, watched.values[:, row], watched.exact[:, row], strict=True)
    return [
        [
            plots.Map(f"critic, {step:,.0f} steps", _on_grid(GRID, values)),
            plots.Map("exact, of its policy", _on_grid(GRID, exact)),
            plots.Map("exact, optimal", _on_grid(GRID, optimal)),
        ]
        for step, values, exact in moments
    ]


def _on_grid(world: GridWorld, values: Float[np.ndarray, " cells"]) -> Float[np.ndarray, "W H"]:
    """Values of the cells as a map: NaN where there are walls, 0 at the goal."""
    grid = np.full((world.width, world.height), np.nan)
    for cell, value in zip(world.cells, values, strict=True):
        grid[cell] = 0.0 if cell == world.goal else value
    return grid


def _curves(errors: Sequence[tuple[str, np.ndarray, np.ndarray]]) -> list[plots.Series]:
    """IQM and interval over the seeds of each [moments, S], against steps."""
    curves = []
    for label, steps, error in errors:
        found = [statistics.aggregate(each, rng=_rng()) for each in error]
        value, low, high = (np.array(column) for column in zip(*found, strict=True))
        curves.append(plots.Series(label, steps, value, low, high))
    return curves


# ------------------------------------------------------------------------------------ all of them

TRAINING: dict[str, Question] = {
    "S1": Question(
        "REINFORCE, one-step actor-critic and A2C + GAE on CartPole-v1",
        "Does an actor-critic need about half the episodes of REINFORCE, with lower spread?",
        _s1,
    ),
    "S2": Question(
        "λ = 0, 0.95 and 1 on CartPole-v1",
        "Does a λ between the TD error and the Monte Carlo return learn faster than both?",
        _s2,
    ),
    "S3": Question(
        "Continuous A2C on Pendulum-v1, with gravity and without",
        "Are 500 episodes enough, with which λ, and what is learned?",
        _s3,
    ),
    "S4": Question(
        "Ablation of A2C on CartPole-v1: critic, n, entropy bonus, λ",
        "What does each part do to how fast it learns, and where it ends?",
        _s4,
    ),
    "S5": Question(
        "A grid world, with and without a critic",
        "How does the critic come to the exact values, and what does it do for the policy?",
        _s5,
    ),
}
