"""S5: a grid world, with and without a critic, beside the exact values of every policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from actorcritic import lab
from actorcritic.algorithms import A2C, Reinforce
from actorcritic.envs import GridWorld
from actorcritic.envs.grid_world import GOAL_REWARD, MOVES, STEP_REWARD
from actorcritic.experiments.analysis import NONE
from actorcritic.experiments.folder import Part
from actorcritic.figures import plots, statistics
from actorcritic.figures.html import Animation, Picture, Table
from actorcritic.runners.seeds import CompiledSession
from actorcritic.studies.bench import Answer, Bench
from actorcritic.studies.comparing import fixed_rng, median_seed, versus

QUESTION = "How does the critic come to the exact values, and what does it do for the policy?"

GRID = GridWorld(width=5, height=5, walls=((1, 1), (1, 2), (1, 3), (3, 2), (3, 3)))
FRAMES = 40


def answer(bench: Bench) -> Answer:
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
    optimal = lab.optimal_values(lab.from_grid_world(GRID, gamma))

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
        {label: statistics.aggregate(error[k], rng=fixed_rng()) for label, error in errors.items()}
        for errors, k in ((critics, 0), (critics, -1), (on_policy, -1), (policies, -1))
    )
    seed = median_seed(comparison, a2c)
    note = (
        "Root of the mean square over all cells but walls and the goal; 'where it goes' weighs "
        "cells by how often the policy is in them. IQM of seeds with 95 % intervals."
    )
    solved = (
        f"Exact: (I − γP) V = r solved in float64, γ = {gamma:g}, the time limit ignored; the "
        f"goal, after which nothing comes, is 0. Of A2C, seed {seed}, the median by its score."
    )
    frames = _frames(watched[a2c], bench.seeds.index(seed), optimal)
    every = np.concatenate([each.values.ravel() for frame in frames for each in frame])
    limits = float(np.nanmin(every)), float(np.nanmax(every))  # one scale of colours for all maps
    at_the_end, narrow = (
        plots.value_maps(frames[-1], limits=limits, width=width)
        for width in (plots.WIDTH, plots.NARROW)
    )
    across = ("environment steps, per seed", "root mean square difference")
    steps = {label: each.steps for label, each in watched.items()}
    pictures = (
        Animation(
            "values",
            "The critic as it learns",
            plots.value_animation(frames, limits=limits),
            solved,
        ),
        Picture("values-at-the-end", "At the end", at_the_end, solved, narrow),
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
        *(versus(comparison, label, alone) for label in critics),
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
        policy = algorithm.policy(algorithm.actor(learner), cells)
        actions = [jnp.full(len(world.cells), a, jnp.int32) for a in range(len(MOVES))]
        chances = jnp.stack([jnp.exp(policy.log_prob(a)) for a in actions], axis=-1)
        if algorithm.critic is None:
            return None, chances
        return algorithm.value(learner, cells), chances

    session = CompiledSession(algorithm, world, seeds, totals[-1])
    steps, seen = [], []
    for total in (0, *totals):
        session.total_steps = total
        while not session.finished:
            session.advance(1.0)
        steps.append(float(session.steps.mean()))
        seen.append(jax.tree.map(np.asarray, look(session.state.learner)))
    values, policy = jax.tree.map(lambda *x: np.stack(x), *seen)
    mdp = lab.from_grid_world(world, algorithm.gamma)
    # As they come from the network they sum to 1 only in its own precision.
    chances = policy / policy.sum(-1, keepdims=True, dtype=np.float64)
    exact, often = (
        np.array([[of(mdp, each) for each in rows] for rows in chances])
        for of in (lab.values, lab.discounted_distribution)
    )
    visited = often / often.sum(-1, keepdims=True)
    return Watched(np.array(steps), values, policy, exact, visited)


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
        found = [statistics.aggregate(each, rng=fixed_rng()) for each in error]
        value, low, high = (np.array(column) for column in zip(*found, strict=True))
        curves.append(plots.Series(label, steps, value, low, high))
    return curves
