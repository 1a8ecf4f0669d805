"""S11: which tool to call; and what a badly calibrated critic does when requests are routed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from actorcritic import lab
from actorcritic.algorithms import PPO
from actorcritic.algorithms.presets import PRESETS
from actorcritic.core.hyperparameters import hyperparameter, hyperparameters
from actorcritic.core.types import Transition
from actorcritic.decisions import simulated, simulation
from actorcritic.envs import Routing
from actorcritic.experiments.folder import Part
from actorcritic.figures import statistics
from actorcritic.figures.html import Table
from actorcritic.figures.statistics import Estimate
from actorcritic.runs.console import working
from actorcritic.runs.run import Run
from actorcritic.studies.bench import Answer, Bench
from actorcritic.studies.comparing import fixed_rng

QUESTION = (
    "Does the actor-critic choose tools as well as LinUCB and logistic regression, and what does a "
    "badly calibrated critic do to an actor that routes requests?"
)
OFFSET = 0.5
PLAIN = "as learned, λ = 0.95"


@hyperparameters
class OffsetCriticPPO(PPO):
    """PPO whose advantages see a critic that is off by a constant wherever the episode goes on.

    What the critic learns stays right: only its use is wrong, by as much at all times.
    """

    name: ClassVar[str] = "offset-critic-ppo"

    value_offset: float = hyperparameter(0.0, "added to V(s) in the advantages", "[-100, 100]")

    def advantages(
        self, batch: Transition, reward: Array, value: Array, next_value: Array
    ) -> tuple[Float[Array, "T B"], Float[Array, "T B"]]:
        _, target = super().advantages(batch, reward, value, next_value)
        moved = value + self.value_offset, next_value + self.value_offset
        advantage, _ = super().advantages(batch, reward, *moved)
        return advantage, target


class Routed(NamedTuple):
    """What the deterministic policy of a seed does, exactly."""

    share: float  # of the best return
    questions: float  # an episode
    escalated: float  # episodes that go to a person at once or later
    error: float  # of the critic that the actor saw: mean of V − exact V where the policy goes


def answer(bench: Bench) -> Answer:
    chosen = _tools(bench)
    routing = _routing(bench)
    return Answer(
        (*simulated.sentences(chosen), *routing.sentences),
        (routing.part,),
        (simulated.table(chosen), routing.table),
        simulated.curves(chosen),
        {"tools": simulated.data(chosen), "routing": routing.numbers},
    )


def _tools(bench: Bench) -> simulation.Simulated:
    world = simulation.ToolWorld(4, 64) if bench.quick else simulation.ToolWorld(12)
    decisions = 200 if bench.quick else 5_000
    with working("Choosing tools", quiet=bench.quiet) as say:

        def of(seed: int) -> dict[str, np.ndarray]:
            tell: Callable[[int, str], None] = lambda count, text: say(text)  # noqa: E731
            return simulation.simulate(world, decisions, (seed,), tell=tell).arrays()

        found = [bench.kept(f"tools-{seed}", partial(of, seed)) for seed in bench.seeds]
    return simulation.Simulated.of(found)


# ------------------------------------------------------------------------------------ routing


class _Found(NamedTuple):
    part: Part
    table: Table
    sentences: tuple[str, ...]
    numbers: dict[str, Any]


def variants(quick: bool) -> dict[str, PPO]:
    """PPO's preset with critics that are right, or off by a constant, at several λ."""
    preset = PRESETS["ppo", "routing"].hyperparameters

    def offset(value: float, gae_lambda: float) -> PPO:
        return OffsetCriticPPO(**{**preset, "gae_lambda": gae_lambda, "value_offset": value})

    found = {
        PLAIN: offset(0.0, 0.95),
        f"V + {OFFSET}, λ = 0": offset(OFFSET, 0.0),
    }
    if not quick:
        found |= {
            "as learned, λ = 0": offset(0.0, 0.0),
            f"V + {OFFSET}, λ = 0.95": offset(OFFSET, 0.95),
            f"V + {OFFSET}, λ = 1": offset(OFFSET, 1.0),
            f"V − {OFFSET}, λ = 0": offset(-OFFSET, 0.0),
            f"V − {OFFSET}, λ = 0.95": offset(-OFFSET, 0.95),
        }
    return found


def _routing(bench: Bench) -> _Found:
    world = Routing()
    made = variants(bench.quick)
    steps = 8_192 if bench.quick else PRESETS["ppo", "routing"].total_steps
    runs = bench.train(made, world, steps)
    part = Part("Routing, with critics of several calibrations", runs)
    with working("Following every history exactly", quiet=bench.quiet):
        found = {label: _of_run(world, run) for label, run in runs.items()}
    columns = ("critic", "share of the best", "questions", "to a person", "V − exact")
    rows = tuple(
        (
            label,
            *(_over_seeds(each, name).text(simulated.two) for name in Routed._fields),
        )
        for label, each in found.items()
    )
    best = lab.solve(lab.from_routing(world)).value
    note = (
        "Of the deterministic policies after training, by enumeration of what can happen; IQM over "
        f"seeds with 95 % intervals. The best return over beliefs is {best:.4f}. V − exact: of the "
        "critic that the actor was shown, where its policy goes."
    )
    table = Table("routing", "What the critic did to the actor", columns, rows, note)
    sentences = tuple(
        _versus(label, each, found[PLAIN]) for label, each in found.items() if label != PLAIN
    )
    seen = (
        "How one sees it: the explained variance does not, since a constant changes no variance. "
        "The mean of V less the return does: it is the offset, in the last column. With λ = 1 the "
        "offset cancels from every difference between actions, as any baseline does; with λ < 1 an "
        "end of the episode (an answer, a person) is held against a future that is valued wrongly."
    )
    numbers = {
        "best": best,
        **{label: [each._asdict() for each in rows] for label, rows in found.items()},
    }
    return _Found(part, table, (*sentences, seen), numbers)


def _over_seeds(found: list[Routed], name: str) -> Estimate:
    values = np.array([getattr(each, name) for each in found])
    return statistics.aggregate(values, rng=fixed_rng())


def _versus(label: str, found: list[Routed], plain: list[Routed]) -> str:
    """A variant beside the critic as it learned, by what is known to differ."""

    def change(name: str, more: str, less: str) -> str:
        x, y = (np.array([getattr(each, name) for each in rows]) for rows in (found, plain))
        gap = statistics.difference(x, y, rng=fixed_rng(), paired=True)
        if gap.low > 0:
            return f"{more} ({gap.text(lambda v: f'{v:+.3f}')})"
        if gap.high < 0:
            return f"{less} ({gap.text(lambda v: f'{v:+.3f}')})"
        return ""

    said = [
        text
        for text in (
            change(
                "share", "a larger share of the best return", "a smaller share of the best return"
            ),
            change("questions", "more questions", "fewer questions"),
            change("escalated", "more to a person", "less to a person"),
        )
        if text
    ]
    return f"{label}, beside {PLAIN}: {', '.join(said) or 'not told apart'}."


def _of_run(world: Routing, run: Run) -> list[Routed]:
    algorithm: Any = run.algorithm
    found = []
    for row, seed in enumerate(run.seeds):
        learner = jax.tree.map(lambda leaf, row=row: leaf[row], run.learners)

        def critic(x: np.ndarray, learner: Any = learner) -> np.ndarray:
            return np.asarray(algorithm.value(learner, x)) + float(algorithm.value_offset)

        found.append(_followed(world, run.policy(seed), critic))
    return found


def _followed(
    world: Routing,
    policy: Callable[[np.ndarray], Any],
    critic: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Routed:
    """What a deterministic policy of the environment's observations does, exactly."""
    pomdp = lab.from_routing(world)
    acts = _table(world, policy)

    def action(history: tuple[int, ...]) -> int:
        return acts[lab.routing_observation(world, history).tobytes()]

    found = lab.values_of(pomdp, lambda history: np.eye(pomdp.actions)[action(history)])
    reach = np.array([each.reach for each in found.values()])
    value = np.array([each.value for each in found.values()])
    chosen = np.array([action(history) for history in found])
    first = np.array([len(history) == 1 for history in found])
    error = 0.0
    if critic is not None:
        x = np.stack([lab.routing_observation(world, history) for history in found])
        error = float((reach * (critic(x) - value)).sum() / reach.sum())
    best = lab.solve(pomdp).value
    return Routed(
        float((reach * value)[first].sum()) / best,
        float(reach[chosen == world.answers].sum()),
        float(reach[chosen == world.answers + 1].sum()),
        error,
    )


def _table(world: Routing, policy: Callable[[np.ndarray], Any]) -> dict[bytes, int]:
    """The action at every observation that can be made."""
    strains = len(world.leaving) + 2
    rows = []
    for tried in np.ndindex(*(2,) * world.answers):
        for asked in range(strains):
            # A wrong answer that is given again strains again.
            wrong = range(sum(tried), strains if any(tried) else 1)
            for strain in (asked + 2 * count for count in wrong):
                if strain < strains:
                    signs = _compositions(asked + 1, world.types)
                    rows += [(*each, *tried, strain) for each in signs]
    x = np.array(rows, np.float32)
    actions = np.asarray(policy(x)).astype(int)
    return {row.tobytes(): int(a) for row, a in zip(x, actions, strict=True)}


def _compositions(total: int, parts: int) -> list[tuple[int, ...]]:
    """All ways to write `total` as a sum of so many counts."""
    if parts == 1:
        return [(total,)]
    return [
        (first, *rest)
        for first in range(total + 1)
        for rest in _compositions(total - first, parts - 1)
    ]


def exact_share(world: Routing, policy: Callable[[np.ndarray], Any]) -> float:
    """The exact return of a deterministic policy as a share of the best one."""
    return _followed(world, policy).share
