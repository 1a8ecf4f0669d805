"""Runs: what a training is and was, in memory or in a folder: evaluate it, load it, draw it.

    run.json          the resolved configuration: enough to build the same run again
    metrics.csv       one row an update (of tiny ones, one row every 8 steps); of each seed the
                      first 8,192, then every second, later every fourth, and so on
    episodes.csv      one row a finished training episode; likewise from 65,536 on
    speed.csv         one row a stretch of training: what depends on the clock, and no table else
    tensorboard/      the same for TensorBoard, one point a stretch of updates
    checkpoints/      safetensors and a JSON manifest; the newest two
    early/            the policies of an eighth of the training;  best/: those that evaluated best
    evaluation.json   the final evaluation;  curve.png: the learning curve
    warnings.txt      what looked wrong on the way, if anything did

No file of a run can execute code: nothing is pickled, and a class or module named in `run.json`
is never imported; it has to be passed again.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from actorcritic.core import files, hyperparameters
from actorcritic.core.errors import UserError
from actorcritic.core.types import EnvSpec
from actorcritic.core.words import listed, printable
from actorcritic.data.dataset import Dataset
from actorcritic.figures import plots
from actorcritic.runners.evaluate import Policy
from actorcritic.runners.host import call_inline
from actorcritic.runners.seeds import use_all_cores
from actorcritic.runners.session import EpisodeTable, MetricTable, Report, Thinned, by_seed
from actorcritic.runs import checkpoints, configuration, notebook, trackers
from actorcritic.runs.configuration import SpacesOnly, World
from actorcritic.runs.console import warn
from actorcritic.runs.evaluated import Evaluated, evaluated, read_evaluation, save_evaluation
from actorcritic.runs.folder import new_folder
from actorcritic.runs.policies import Best, actors_of, check_finite, evaluator, rows_of
from actorcritic.runs.settings import SEED

WARNINGS, CHECKPOINTS, BEST, EARLY = "warnings.txt", "checkpoints", "best", "early"
Which = Literal["last", "best", "early"]  # of the policies of a run
EVALUATION_SEED = 1_000_000  # added to a seed, for the randomness of its evaluation


@dataclass
class Run:
    """A training, in memory or in a folder, finished or not."""

    algorithm: Any
    environment: World
    seeds: tuple[int, ...]
    total_steps: int
    out: Path | None
    steps_per_second: float = float("nan")  # of all seeds together, without compilation
    spread: int | None = None  # over how many devices the rows of a seed are spread
    workers: int | None = None  # of a cluster, that collected for it
    data: Dataset | None = field(default=None, repr=False)  # that it learns from, or began with
    steps: int = 0  # that each seed has made, but those that failed
    stopped: str | None = None  # why it ended before its steps were made, if it did
    phases: list[dict[str, Any]] = field(default_factory=list)  # what it was before, until when
    origin: dict[str, Any] | None = None  # the run whose learners it began with
    looks: dict[str, Any] = field(default_factory=dict)  # how it is evaluated on the way
    best: Best | None = field(default=None, repr=False)
    finished: bool = False
    final_evaluation: Evaluated | None = None
    variant: str = ""  # what a comparison calls it
    failed: dict[int, str] = field(default_factory=dict)  # seeds that diverged, and how
    warnings: list[str] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list, repr=False)  # of a run without a folder
    stored: dict[str, Any] | None = field(default=None, repr=False)  # run.json, if only read
    trained: Any = field(default=None, repr=False)  # the learners, of a run that was trained here
    state: Any = field(default=None, repr=False)  # all that goes on, of the same

    @property
    def spec(self) -> EnvSpec:
        return self.environment.spec

    @property
    def trained_steps(self) -> int:
        """The steps that each seed has made: a little more than was asked for, in whole updates."""
        return self.steps or self.total_steps

    @property
    def learns_from_data(self) -> bool:
        """Whether its steps are updates, and its episodes those of evaluations."""
        if self.stored is not None:
            return bool(self.stored.get("step") == "update")
        return self.algorithm.draws is not None

    @property
    def step_unit(self) -> str:
        """What its steps are: "updates" of a training from a data set, else "steps"."""
        return "updates" if self.learns_from_data else "steps"

    @property
    def across(self) -> str:
        """What its learning curve is drawn against."""
        return plots.UPDATES if self.learns_from_data else plots.STEPS

    @property
    def label(self) -> str:
        return f"{self.algorithm.name} on {self.spec.id}"

    @property
    def learners(self) -> Any:
        """Everything that was learned, leaves [S]. Of a run that was opened, it is read now."""
        return self.trained if self.trained is not None else _load_learners(self)

    @property
    def actors(self) -> Any:
        """What acting needs of the learners, leaves [S]; nothing else is read."""
        if self.trained is None:
            return _load_actors(self)
        return actors_of([self.algorithm] * len(self.seeds), self.trained)

    def actors_of(self, which: Which) -> Any:
        """The last actors, those that evaluated best, or those of an eighth of the training;
        leaves [S]. UserError without them.
        """
        if which == "last":
            return self.actors
        if which == "early":
            return _load_early(self)
        if which != "best":
            raise UserError(f"which must be 'last', 'best' or 'early'; got {which!r}.")
        if self.best is None:
            if self.out is None:
                raise UserError(
                    f"{self.name} kept no best policy. Train with evaluate_every=… and "
                    "keep_best=True."
                )
            shapes = _actor_shapes(self)
            self.best = Best.read(self.out / BEST, self.seeds, shapes)
        return self.best.actors

    @property
    def evaluations(self) -> EpisodeTable:
        """The episodes of the evaluations while it trained; `step` is when each policy acted."""
        if path := self._written(trackers.EVALUATIONS):
            return trackers.read_episodes(path)
        found = [report.evaluations for report in self.reports if report.evaluations is not None]
        return by_seed(EpisodeTable.join(found))

    @property
    def name(self) -> str:
        """Its folder, or its label where it has none."""
        return self.label if self.out is None else str(self.out)

    @property
    def trained_seeds(self) -> tuple[int, ...]:
        """The seeds that did not fail."""
        return tuple(seed for seed in self.seeds if seed not in self.failed)

    def _written(self, table: str) -> Path | None:
        """The file of a table, if there is one."""
        path = None if self.out is None else self.out / table
        return path if path is not None and path.exists() else None

    def least_steps(self, steps: Sequence[int]) -> int:
        """Of the steps of its seeds, those that each has made, but the ones that failed."""
        made = dict(zip(self.seeds, steps, strict=True))
        return min((made[seed] for seed in self.trained_seeds), default=max(steps))

    @property
    def command(self) -> str:
        """Its folder as a command takes it, with what it has to be told of again."""
        return f"{self.out}{configuration.again(self.configuration())}"

    @property
    def episodes(self) -> EpisodeTable:
        """The finished training episodes: seed, step, returns, length. Read from the folder.

        A training from a data set steps no environment: they are those of its evaluations.
        """
        if self.learns_from_data:
            return self.evaluations
        if path := self._written(trackers.EPISODES):
            return trackers.read_episodes(path)
        return by_seed(EpisodeTable.join([report.episodes for report in self.reports]))

    @property
    def metrics(self) -> MetricTable:
        """What updates reported. Read from the folder."""
        if path := self._written(trackers.METRICS):
            return trackers.read_metrics(path)
        return by_seed(MetricTable.join([report.metrics for report in self.reports]))

    def configuration(self) -> dict[str, Any]:
        """What `run.json` holds."""
        if self.stored is not None:
            return self.stored
        found = configuration.describe(
            self.algorithm, self.environment, self.seeds, self.total_steps, self.spread, self.data
        )
        cluster = {"workers": self.workers} if self.workers else None
        more: dict[str, Any] = {"phases": self.phases, "origin": self.origin, "looks": self.looks}
        more["cluster"] = cluster
        return found | {name: value for name, value in more.items() if value}

    def begin_phase(self) -> list[str]:
        """Of a run that goes on as another than `run.json` says: keep what it was until now.

        Returns what is worth a word.
        """
        assert self.out is not None
        stored = configuration.read(self.out)
        now = json.loads(json.dumps(self.configuration()))
        parts = ("algorithm", "environment", "total_steps")
        changed = [n for n in parts if not configuration.same(stored[n], now[n])]
        if not changed or not self.steps:
            return []
        before = {name: stored[name] for name in parts}
        self.phases.append({"until_step": self.steps, **before})
        notes = []
        if changed != ["total_steps"]:
            what = configuration.difference(stored, now)
            notes.append(f"from step {self.steps:,} on {what}; run.json keeps both phases.")
        falling = [
            name.removesuffix("_schedule")
            for name, value in now["algorithm"]["hyperparameters"].items()
            if name.endswith("_schedule") and value == "linear"
        ]
        if "total_steps" in changed and falling:
            left = 1 - self.steps / self.total_steps
            was = max(0.0, 1 - self.steps / stored["total_steps"])
            notes.append(
                f"{listed(falling)} fell towards 0 at {stored['total_steps']:,} steps, now "
                f"towards 0 at {self.total_steps:,}: it goes on at {left:.0%} of its first value, "
                f"where it was at {was:.0%}."
            )
        return notes

    def evaluate(
        self,
        episodes: int = 100,
        *,
        deterministic: bool = True,
        seed: int = EVALUATION_SEED,
        which: Which = "last",
    ) -> Evaluated:
        """Complete episodes with the parameters as they are; statistics stay frozen.

        `which` says whether with the last policies, or with those that evaluated best while the
        run trained. Seeds that failed in the training are left out. Raises UserError where none is
        left.
        """
        hyperparameters.check_number("episodes", episodes, int, None)
        if episodes < 1:
            raise UserError(f"evaluate needs at least one episode; got {episodes}.")
        hyperparameters.check_number("episodes", episodes, int, "[1, 1000000]")
        hyperparameters.check_number("seed", seed, int, SEED)
        if not isinstance(deterministic, bool):
            raise UserError(f"deterministic must be True or False; got {deterministic!r}.")
        seeds = self.trained_seeds
        if not seeds:
            raise UserError(f"{self.name} cannot be evaluated: {' '.join(self.failed.values())}")
        if isinstance(self.environment, SpacesOnly):
            raise UserError(
                f"{self.name} has no environment to be evaluated in. Name one: --env "
                "(Python: open_run(…, environment=…)); or estimate from data: --data DIR."
            )
        actors = rows_of(self.actors_of(which), [self.seeds.index(s) for s in seeds])
        check_finite(actors, seeds, self.name)
        algorithms = [self.algorithm] * len(seeds)
        evaluate = evaluator(algorithms, self.environment, actors, episodes, deterministic)
        result = evaluate(actors, [seed + s for s in seeds])
        return evaluated(self.spec, seeds, deterministic, result)

    def policy(self, seed: int | None = None, *, which: Which = "last") -> Policy:
        """The trained policy of a seed; by default of the best seed, by final evaluation.

        `which` as in `evaluate`.
        """
        chosen, why = self._choose(seed)
        if seed is None and len(self.seeds) > 1:
            print(printable(f"Using seed {chosen}, {why}."), file=sys.stderr)
        actors = rows_of(self.actors_of(which), [self.seeds.index(chosen)])
        check_finite(actors, (chosen,), self.name)
        return Policy(self.algorithm, jax.tree.map(itemgetter(0), actors), self.spec)

    def _choose(self, seed: int | None) -> tuple[int, str]:
        if seed is not None:
            if seed not in self.seeds:
                raise UserError(f"This run has no seed {seed}; it has {list(self.seeds)}.")
            if seed in self.failed:
                raise UserError(f"{self.name} has no policy of this seed. {self.failed[seed]}")
            return seed, "as asked"
        if self.final_evaluation is not None:
            return self.final_evaluation.best_seed, "the best by final evaluation"
        seeds = self.trained_seeds
        if not seeds:
            raise UserError(f"{self.name} has no policy: {' '.join(self.failed.values())}")
        if len(seeds) == 1:
            return seeds[0], "the only one" if len(self.seeds) == 1 else "the only one left"
        try:
            table = self.episodes
        except UserError as error:  # a policy needs no table; which is best is a smaller question
            return seeds[0], f"the first, because the best cannot be told: {error}"
        last = [table.returns[table.seed == s][-100:] for s in seeds]
        means = [float(returns.mean()) if len(returns) else -np.inf for returns in last]
        return seeds[int(np.argmax(means))], "the best by its last 100 training episodes"

    def save(self, path: str | Path) -> Path:
        """Keep a run that was trained in memory as a folder, to be opened, resumed, compared."""
        if self.out is not None:
            raise UserError(f"{self.name} is kept in {self.out} already; copy that folder.")
        if self.state is None:
            raise UserError(f"{self.name} was not trained here; there is nothing to keep.")
        out = configuration.folder(path)
        with new_folder(out):
            kept = dataclasses.replace(self, out=out)
            save_configuration(kept)
            tables = trackers.CsvWriter(out)
            for report in self.reports:
                tables.write(report)
            trackers.settle(out)
            if self.warnings:
                files.write(out / WARNINGS, "".join(f"{text}\n" for text in self.warnings))
            if self.best is not None:
                self.best.save(out / BEST)
            save_evaluation(out, self.final_evaluation)
            state, thinned = self.state
            save_checkpoint(kept, state, thinned, None)
            kept.plot(out / "curve.png")
        return out

    def to_pandas(self, table: Literal["metrics", "episodes"] = "metrics") -> Any:
        """What updates reported, or the finished training episodes, as a `pandas.DataFrame`."""
        return notebook.frame_of(self, table)

    def __repr__(self) -> str:
        return f"Run({', '.join([self.label, *notebook.facts_of(self).values()])})"

    def _repr_html_(self) -> str:
        return notebook.card_of(self)

    def plot(self, path: str | Path) -> Path:
        """Draw the learning curve; the ending of `path` says PNG or SVG."""
        picture = files.as_path(path, "The file of a picture, .png or .svg,")
        curves = [(self.label, self.episodes)]
        between = None if self.learns_from_data else self.evaluations
        return plots.learning_curve(
            curves, picture, self.label, across=self.across, evaluations=between
        )


# ------------------------------------------------------------------------------------ opening


def open_run(
    path: str | Path, *, algorithm: Any = None, environment: Any = None, restore: bool = True
) -> Run:
    """A run from its folder. UserError names what is missing or cannot be rebuilt.

    What is your own, a run never imports by itself: pass it again. An `algorithm` that is a class
    or "module:Name" gets the hyperparameters of the run; an object is taken as it is.
    """
    prepare_jax()
    out = configuration.folder(path)
    data = configuration.read(out)
    algorithm = configuration.rebuild_algorithm(data, out, algorithm)
    environment = configuration.rebuild_environment(data, out, environment)
    run = Run(algorithm, environment, tuple(data["seeds"]), data["total_steps"], out)
    run.spread, run.phases = data.get("spread"), data.get("phases", [])
    run.origin, looks = data.get("origin"), data.get("looks")
    run.looks = looks if isinstance(looks, dict) else {}
    if restore:
        restore_results(run)
    return run


def restore_results(run: Run) -> None:
    """Fill a run with what its folder says of it: how far it is, its evaluation, its warnings.

    Raises UserError where it has no checkpoint.
    """
    assert run.out is not None
    _, about = checkpoints.load(run.out / CHECKPOINTS, (), warn, partial=True)
    restore_progress(run, about)
    run.warnings, run.final_evaluation = (
        _read_warnings(run.out),
        read_evaluation(run.out, run.seeds),
    )


def _read_warnings(out: Path) -> list[str]:
    path = out / WARNINGS
    if not path.exists():
        return []
    return printable(files.read(path).decode(errors="replace")).splitlines()


def load(
    path: str | Path, *, seed: int | None = None, which: Which = "last", algorithm: Any = None
) -> Policy:
    """The trained policy of a run folder; by default its best seed, and it says which.

    `which="best"` takes the policy that evaluated best while the run trained, not the last one.
    Neither the environment nor any code of the run is needed; `algorithm` is, where the run was
    trained with a class or network of your own.
    """
    prepare_jax()
    out = configuration.folder(path)
    data = configuration.read(out)
    algorithm = configuration.rebuild_algorithm(data, out, algorithm)
    world = SpacesOnly(configuration.spec_from_json(data["environment"]))
    run = Run(algorithm, world, tuple(data["seeds"]), data["total_steps"], out)
    restore_results(run)
    return run.policy(seed, which=which)


def read_run(path: str | Path) -> Run:
    """A run as its folder tells it: tables and evaluation, without what could train or act.

    Neither the environment nor any code of the run is needed.
    """
    out = configuration.folder(path)
    data = configuration.read(out)
    world = SpacesOnly(configuration.spec_from_json(data["environment"]))
    name = _NameOnly(data["algorithm"]["name"])
    seeds, total_steps = tuple(data["seeds"]), data["total_steps"]
    run = Run(name, world, seeds, total_steps, out, stored=data)  # type: ignore[arg-type]
    if checkpoints.newest(out / CHECKPOINTS) is not None:
        restore_results(run)
    return run


@dataclass(frozen=True)
class _NameOnly:
    """Stands for an algorithm where only its name is needed."""

    name: str


class _Learners(NamedTuple):
    """The part of a checkpoint that every runner's state has."""

    learner: Any


def _load_learners(run: Run, shapes: Any = None) -> Any:
    assert run.out is not None
    like = _Learners(_learner_shapes(run) if shapes is None else shapes)
    return checkpoints.load(run.out / CHECKPOINTS, like, warn, partial=True)[0].learner


def _load_actors(run: Run) -> Any:
    """Only those leaves of the learners that the actors are made of: no optimiser, no buffer."""
    assert run.out is not None
    shapes, structure = jax.tree.flatten(_learner_shapes(run))
    make = partial(actors_of, [run.algorithm] * len(run.seeds))
    program = jax.make_jaxpr(lambda *x: make(jax.tree.unflatten(structure, x)))(*shapes).jaxpr
    used = {id(v) for v in [*program.outvars, *(v for eqn in program.eqns for v in eqn.invars)]}
    needed = [id(variable) in used for variable in program.invars]
    like = [x if need else None for x, need in zip(shapes, needed, strict=True)]
    wanted = _Learners(jax.tree.unflatten(structure, like))
    state, _ = checkpoints.load(run.out / CHECKPOINTS, wanted, warn, partial=True)
    loaded = iter(jax.tree.leaves(state))
    leaves = [next(loaded) if need else _nothing(x) for x, need in zip(shapes, needed, strict=True)]
    return make(jax.tree.unflatten(structure, leaves))


def _actor_shapes(run: Run) -> Any:
    make = partial(actors_of, [run.algorithm] * len(run.seeds))
    return jax.eval_shape(make, _learner_shapes(run))


def _load_early(run: Run) -> Any:
    if run.out is None or checkpoints.newest(run.out / EARLY) is None:
        raise UserError(
            f"{run.name} kept no early policy: a run with a folder keeps one after an eighth of "
            "its steps. Train it again, or name another run."
        )
    return checkpoints.load(run.out / EARLY, _actor_shapes(run), warn)[0]


def _nothing(like: jax.ShapeDtypeStruct) -> Any:
    """Stands for a leaf that nobody looks at; takes no memory."""
    if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        return jnp.broadcast_to(jax.random.key(0), like.shape)
    return np.broadcast_to(np.zeros((), like.dtype), like.shape)


def learners_from(origin: str | Path, run: Run, like: Any) -> tuple[Any, dict[str, Any]]:
    """The learners of another run, one for each seed of this one; and where they come from.

    A seed takes the learner of the same seed, where the other run has all of this one's seeds;
    else all take the best one's. Raises UserError where they do not fit.
    """
    source = read_run(origin)  # which needs no code of the user's
    for part, mine, theirs in (
        ("observations", run.spec.observation_space, source.spec.observation_space),
        ("actions", run.spec.action_space, source.spec.action_space),
    ):
        if mine != theirs:
            raise UserError(
                f"{origin} cannot be started from: its {part} are {theirs}, and those of "
                f"{run.spec.id} are {mine}. Name a run of the same spaces."
            )
    alike = set(run.seeds) <= set(source.trained_seeds)
    chosen = list(run.seeds) if alike else [source._choose(None)[0]] * len(run.seeds)
    only: dict[str, Any] = {}
    try:
        every = _load_learners(source, _shapes_for(like, len(source.seeds)))
    except UserError as error:
        every = _load_parameters(source, like)
        only = {"only": "parameters"}
        if every is None:
            raise UserError(
                f"{origin} cannot be started from, because {source.algorithm.name} there and "
                f"{run.algorithm.name} here do not keep the same: {error} Take the same algorithm "
                "and network, or of another one the same networks (cql, then sac)."
            ) from None
    rows = rows_of(every, [source.seeds.index(seed) for seed in chosen])
    where = source.out.name if source.out is not None else str(origin)
    return rows, {"run": where, "seeds": chosen, "steps": source.steps} | only


class _Parameters(NamedTuple):
    """The part of a learner that another algorithm may have as well."""

    params: Any


def _load_parameters(source: Run, like: Any) -> Any:
    """The parameters of another algorithm's learners, where they are of the same networks: SAC
    goes on where CQL ended. None where they are not, or were made for normalised observations.
    """
    settings = source.configuration()["algorithm"]["hyperparameters"]
    if not hasattr(like, "params") or settings.get("normalize_observation"):
        return None
    wanted = _shapes_for(_Parameters(like.params), len(source.seeds))
    try:
        return _load_learners(source, wanted)
    except UserError:
        return None


def _shapes_for(like: Any, seeds: int) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((seeds, *x.shape[1:]), x.dtype), like)


def _learner_shapes(run: Run) -> Any:
    keys = jax.vmap(jax.random.key)(np.asarray(run.seeds))
    return jax.eval_shape(jax.vmap(lambda key: run.algorithm.init(key, run.spec)), keys)


def restore_progress(run: Run, about: dict[str, Any]) -> None:
    """How far a run is, and which of its seeds failed, as a checkpoint says it."""
    failed = about.get("failed", {})
    fits = files.fits(about, {"steps": [int], "updates": [int]}) and isinstance(failed, dict)
    named = fits and set(failed) <= set(map(str, run.seeds))
    if not named or not len(about["steps"]) == len(about["updates"]) == len(run.seeds):
        raise UserError(
            f"{run.name} has checkpoints that are not of the {len(run.seeds)} seeds that its "
            "run.json names. Restore run.json from a copy."
        )
    run.failed = {int(seed): str(why) for seed, why in failed.items()}
    run.steps, run.stopped = run.least_steps(about["steps"]), about.get("stopped")
    made = not run.trained_seeds or run.steps >= run.total_steps
    run.finished = made or run.stopped is not None


def save_configuration(run: Run) -> None:
    if run.out is not None:
        run.out.mkdir(parents=True, exist_ok=True)
        files.write(run.out / "run.json", json.dumps(run.configuration(), indent=2))


def save_checkpoint(run: Run, state: Any, thinned: Thinned, since: Path | None) -> Path:
    assert run.out is not None
    about = {
        "update": int(state.updates.numbers.sum()),
        "updates": state.updates.numbers.tolist(),
        "steps": state.steps.numbers.tolist(),
        "failed": {str(seed): why for seed, why in run.failed.items()},
        "stopped": run.stopped,
        "tables": thinned.state,
    }
    return checkpoints.save(run.out / "checkpoints", state, about, since=since)


def plot(paths: Sequence[str | Path], out: str | Path) -> Path:
    """One picture with the learning curves of several run folders."""
    if len(paths) == 1:
        return read_run(paths[0]).plot(out)
    curves, across = [], set[str]()
    for path in map(Path, paths):
        data = configuration.read(path)
        label = f"{data['algorithm']['name']} on {data['environment']['id']}"
        of_data = data.get("step") == "update"
        across.add(plots.UPDATES if of_data else plots.STEPS)
        table = path / (trackers.EVALUATIONS if of_data else trackers.EPISODES)
        if of_data and not table.exists():
            raise UserError(
                f"{path} learned from data and was never evaluated while it did, so that there is "
                "no curve. Train it on an environment: actorcritic train ALGORITHM ENV --data …"
            )
        episodes = trackers.read_episodes(table)
        curves.append((f"{label} ({path.name})", episodes))
    if len(across) > 1:
        raise UserError(
            "Some of these runs count environment steps, and some updates from a data set; they "
            "have no axis in common. Draw them apart."
        )
    return plots.learning_curve(curves, Path(out), title="Learning curves", across=across.pop())


def prepare_jax() -> None:
    """All cores as devices, and compiled programs kept in the user's cache folder."""
    use_all_cores()
    call_inline()
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        folder = os.environ.get("ACTORCRITIC_CACHE_DIR")
        base = Path(folder) if folder else _user_cache() / "actorcritic"
        jax.config.update("jax_compilation_cache_dir", str(base / "programs"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _user_cache() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(
        os.environ.get("LOCALAPPDATA") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    )
