"""The loop that trains language models, whatever the task: supervised, reward model, DPO, PPO.

A task says what a step is; `run` owns the folder, the checkpoints, the progress and Ctrl-C. A step
depends on the learner and on its number alone, so that a training that was stopped, or killed, goes
on bit for bit when its command is repeated.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

from actorcritic.core import files, hyperparameters
from actorcritic.core.errors import UserError
from actorcritic.core.hyperparameters import hyperparameter as setting
from actorcritic.core.types import Metrics
from actorcritic.core.waiting import beside, wait_for
from actorcritic.core.words import listed, nearest, shown
from actorcritic.language import lora
from actorcritic.language.decoder import Params
from actorcritic.language.model import Model
from actorcritic.runs import checkpoints
from actorcritic.runs.console import TrainingDisplay, warn
from actorcritic.runs.folder import check_empty, folder_of_its_own
from actorcritic.runs.interruption import Interruption, interruptible

ABOUT, METRICS, EVALUATIONS = "language.json", "metrics.csv", "evaluations.csv"
FORMAT = 1
FINISHED = "finished"  # in ABOUT, once everything is written
STRETCH = 0.3  # seconds between two looks at the numbers
Row = dict[str, float]  # "step", and metrics by name


@dataclass(frozen=True)
class TrainingSettings:
    """How a language model is trained. Each task adds its own, and changes defaults."""

    total_steps: int | None = setting(None, "gradient steps (default: by epochs)", "[1, 1e9]")
    batch_size: int = setting(8, "sequences of a gradient step", "[1, 65536]")
    accumulate: int = setting(
        1, "parts that a batch is cut into, one in memory at a time", "[1, 65536]"
    )
    learning_rate: float = setting(1e-4, "AdamW's, at its highest", "[0, 10]")
    schedule: Literal["constant", "linear", "cosine"] = setting(
        "cosine", "how the learning rate falls to 0, after the warm-up"
    )
    warmup: float = setting(0.05, "share of the steps in which it rises from 0", "[0, 1]")
    weight_decay: float = setting(0.0, "AdamW's, of matrices", "[0, 1]")
    adam_epsilon: float = setting(1e-8, "ε beside the root of Adam's second moment", "(0, 1]")
    max_grad_norm: float = setting(1.0, "the gradient is scaled down to this norm", "(0, 1e9]")
    lora_rank: int | None = setting(
        None, "train an adapter of this rank, not all parameters", "[1, 4096]"
    )
    lora_alpha: float = setting(16.0, "the adapter's change is scaled by alpha / rank", "(0, 1e6]")
    rematerialise: bool = setting(
        False, "compute whole layers again for the gradient: less memory, up to a third more time"
    )
    seed: int = setting(0, "of everything that is drawn", "[0, 2147473647]")
    out: str | Path | None = setting(None, "run folder")
    evaluate_every: int | None = setting(
        None, "steps between evaluations on held-out data (default: at the end)", "[1, 1e9]"
    )
    checkpoint_seconds: float = setting(30.0, "seconds between checkpoints", "[0, 1e9]")
    quiet: bool = setting(False, "show no progress")

    @classmethod
    def of(cls, given: Self | None, options: Mapping[str, Any]) -> Self:
        """The settings that were given, with these fields on top; UserError where one is wrong."""
        known = [field.name for field in dataclasses.fields(cls)]
        for name in options:
            if name not in known:
                raise UserError(
                    f"There is no setting '{name}'.{nearest(name, known)} Known: "
                    f"{', '.join(known)}."
                )
        settings = dataclasses.replace(given or cls(), **options)
        settings.check()
        return settings

    def check(self) -> None:
        """UserError for the first setting of the wrong type or out of its range."""
        hyperparameters.check(self, owner="")
        if self.batch_size % self.accumulate:
            raise UserError(
                f"batch_size ({self.batch_size}) must be a multiple of accumulate "
                f"({self.accumulate})."
            )


@dataclass(frozen=True)
class PairSettings(TrainingSettings):
    """Of what learns from pairs of answers: the reward model, and DPO."""

    batch_size: int = setting(32, "pairs of a gradient step", "[1, 65536]")
    learning_rate: float = setting(1e-5, "AdamW's, at its highest", "[0, 10]")
    schedule: Literal["constant", "linear", "cosine"] = setting(
        "linear", "how the learning rate falls to 0, after the warm-up"
    )
    epochs: float = setting(
        1.0, "passes over the pairs, where total_steps says nothing", "(0, 1e6]"
    )
    max_length: int = setting(
        512, "tokens of prompt and answer; a longer prompt loses its beginning", "[2, 1048576]"
    )
    evaluation_share: float = setting(
        0.05, "of the prompts, held out where no evaluation data is named", "[0, 0.9]"
    )


class Task(Protocol):
    """What is trained.

    The learner is a pytree of arrays with all that a step changes; `step` may donate it.
    """

    @property
    def kind(self) -> str:
        """A word for it: sft."""
        ...

    @property
    def total_steps(self) -> int: ...

    @property
    def headline(self) -> str:
        """The metric that the progress shows."""
        ...

    def init(self) -> PyTree:
        """A fresh learner. It must be traceable: a checkpoint is read by its shapes."""
        ...

    def step(self, learner: PyTree, number: int) -> tuple[PyTree, Metrics]:
        """One step. `number` counts from 0, and all that is drawn depends on it and the learner."""
        ...

    def evaluate(self, learner: PyTree) -> Mapping[str, float]:
        """Numbers on held-out data, by name; none where there is no such data."""
        ...

    def finish(self, learner: PyTree, out: Path | None) -> Any:
        """What was trained. With `out`, its files are written there, and over earlier ones."""
        ...


@dataclass(eq=False)
class Trained:
    """A training, to its end or to where it was stopped."""

    out: Path | None
    finished: bool
    steps: int
    metrics: list[Row]  # a row for each step
    evaluations: list[Row]
    result: Any  # what `Task.finish` gave: a Model; None where it was stopped


def run(
    task: Task,
    settings: TrainingSettings,
    about: Mapping[str, Any],
    page: Callable[[Trained], object] | None = None,
) -> Trained:
    """Train a task to its end, or until Ctrl-C; with a folder, from where it was stopped before.

    `about` is JSON that says what is trained, on what: a folder goes on only where it is the same.
    `page` writes the page of a finished training into its folder. Nothing is written to a folder
    that was finished before.
    """
    out = None if settings.out is None else Path(settings.out)
    described = {
        "format": FORMAT,
        "kind": task.kind,
        "total_steps": task.total_steps,
        "settings": _plain(settings),
        **json.loads(json.dumps(about)),
    }
    with _folder(out, described) as finished:
        loop = _Loop(task, settings, out)
        with (
            interruptible() as interruption,
            TrainingDisplay(_title(task, out), task.total_steps, settings.quiet) as display,
        ):
            if finished:
                loop.read_again(display, interruption)
            else:
                loop.go(display, interruption)
        if out is not None and loop.trained.finished and not finished:
            if page is not None:
                page(loop.trained)
            files.write(out / ABOUT, _text(described | {FINISHED: True}))
        if interruption.signal == signal.SIGTERM:
            warn("SIGTERM came. Everything is saved; to go on, repeat the command.")
        return loop.trained


class _Loop:
    def __init__(self, task: Task, settings: TrainingSettings, out: Path | None) -> None:
        self._task, self._settings, self._out = task, settings, out
        self._learner: PyTree = None
        self._saved = -1  # the steps of the newest checkpoint
        self._pending: list[tuple[int, Metrics]] = []  # not yet fetched from the device
        self.trained = Trained(out, False, 0, [], [], None)

    def read_again(self, display: TrainingDisplay, interruption: Interruption) -> None:
        """What was trained before, to its end."""
        display.say(f"{_title(self._task, self._out)}: finished before, and only read again")
        with interruption.beginning():
            wait_for(beside(self._restore))
        if self.trained.steps != self._task.total_steps:
            raise UserError(
                f"{self._out} was finished, but no checkpoint of its end is there any more. Choose "
                "another folder to train again."
            )
        display.advance(self.trained.steps)
        self.trained.result = self._task.finish(self._learner, None)
        self.trained.finished = True

    def go(self, display: TrainingDisplay, interruption: Interruption) -> None:
        task, trained, total = self._task, self.trained, self._task.total_steps
        display.say(f"{_title(task, self._out)}: {total:,} steps")
        with interruption.beginning():
            wait_for(beside(self._restore))
        display.advance(trained.steps)
        began = time.monotonic()
        saved, stretch = began, 0
        every = self._settings.evaluate_every
        first = True
        while trained.steps < total and not interruption():
            if first:  # its programs are compiled meanwhile
                with interruption.beginning():
                    wait_for(beside(self._step))
                first = False
            else:
                self._step()
            stretch += 1
            due = every is not None and trained.steps % every == 0
            now = time.monotonic()
            if due or now - began >= STRETCH or trained.steps == total:
                self._fetch()
                now = time.monotonic()
                display.step(stretch, now - began, self._said())
                began, stretch = now, 0
            if due and trained.steps < total:
                self._evaluate(display)
                began = time.monotonic()
            if time.monotonic() - saved >= self._settings.checkpoint_seconds:
                self._save()
                saved = began = time.monotonic()
        self._fetch()
        if trained.steps == total and not interruption():
            self._evaluate(display)
        self._save()
        if trained.steps == total and not interruption():
            display.say_what("saving …")
            trained.result = task.finish(self._learner, self._out)
            trained.finished = True

    def _step(self) -> None:
        number = self.trained.steps
        self._learner, metrics = self._task.step(self._learner, number)
        self._pending.append((number + 1, metrics))
        self.trained.steps = number + 1

    def _fetch(self) -> None:
        """Wait for the metrics of the latest steps. UserError where they are no numbers."""
        for step, metrics in jax.device_get(self._pending):
            row = {"step": float(step)} | {name: float(x) for name, x in metrics.items()}
            if not math.isfinite(row.get(self._task.headline, 0.0)):
                raise UserError(
                    f"Training stopped at step {step}: {self._task.headline} is no longer finite. "
                    "Start again with a lower learning_rate."
                )
            self.trained.metrics.append(row)
        self._pending = []

    def _said(self) -> str:
        rows = self.trained.metrics[-20:]
        name = self._task.headline
        values = [row[name] for row in rows if name in row]
        return f"{name.replace('_', ' ')} {np.mean(values):.4g}" if values else ""

    def _evaluate(self, display: TrainingDisplay) -> None:
        done = self.trained.evaluations
        if done and done[-1]["step"] == self.trained.steps:
            return  # before it was stopped
        display.say_what("evaluating …")
        found = self._task.evaluate(self._learner)
        if found:
            row = {"step": float(self.trained.steps)} | {k: float(v) for k, v in found.items()}
            done.append(row)
            said = ", ".join(f"{k.replace('_', ' ')} {v:.4g}" for k, v in found.items())
            display.say(f"  step {self.trained.steps:,}: {said}")

    def _save(self) -> None:
        if self._out is None:
            return
        self._fetch()
        for name, rows in (
            (METRICS, self.trained.metrics),
            (EVALUATIONS, self.trained.evaluations),
        ):
            if rows:
                files.write(self._out / name, _csv(rows))
        if self._saved != self.trained.steps:
            about = {"update": self.trained.steps}
            checkpoints.save(self._out / "checkpoints", self._learner, about)
            self._saved = self.trained.steps

    def _restore(self) -> None:
        trained, out = self.trained, self._out
        if out is None or checkpoints.newest(out / "checkpoints") is None:
            self._learner = self._task.init()
            return
        like = jax.eval_shape(self._task.init)
        self._learner, about = checkpoints.load(out / "checkpoints", like, warn)
        trained.steps = self._saved = int(about["update"])
        for name, rows in ((METRICS, trained.metrics), (EVALUATIONS, trained.evaluations)):
            rows += [row for row in read_rows(out / name) if row["step"] <= trained.steps]


def _title(task: Task, out: Path | None) -> str:
    return task.kind if out is None else f"{task.kind} → {out}"


# ------------------------------------------------------------------------------------ the folder


@contextlib.contextmanager
def _folder(out: Path | None, about: dict[str, Any]) -> Iterator[bool]:
    """A locked folder: new, or that of the same training. Whether that was finished before."""
    if out is None:
        yield False
        return
    if not (out / ABOUT).exists():
        check_empty(out)
    elif _check_same(out, about):
        yield True  # nothing is written any more, so that there is nothing to lock
        return
    with folder_of_its_own(out):
        files.write(out / ABOUT, _text(about))
        yield False


def _text(about: dict[str, Any]) -> str:
    return json.dumps(about, indent=2, sort_keys=True)


def _check_same(out: Path, about: dict[str, Any]) -> bool:
    """Whether a folder's training is finished. UserError where the folder holds another one."""
    try:
        there = json.loads(files.read(out / ABOUT, 2**24))
        assert isinstance(there, dict)
    except (ValueError, AssertionError, RecursionError):
        raise UserError(f"{out / ABOUT} is damaged. Choose another folder.") from None
    finished = there.pop(FINISHED, False) is True
    now = _flat(json.loads(json.dumps(about)))
    before = _flat(there)
    others = [k for k in sorted(now.keys() | before.keys()) if now.get(k) != before.get(k)]
    if others:
        said = listed(
            [f"{k} = {shown(before.get(k))} (now {shown(now.get(k))})" for k in others[:5]]
        )
        raise UserError(
            f"{out} holds another training: {said}. Repeat its own command to go on with it, or "
            "choose another folder."
        )
    return finished


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in tree.items():
        bare = f"{prefix}{name}" if prefix != "settings." else name
        found |= _flat(value, f"{name}.") if isinstance(value, dict) else {bare: value}
    return found


# What may be another when a training goes on.
FREE = ("out", "checkpoint_seconds", "quiet")


def _plain(settings: TrainingSettings) -> dict[str, Any]:
    """The settings that decide what is learned, as JSON."""
    found = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}
    return {k: str(v) if isinstance(v, Path) else v for k, v in found.items() if k not in FREE}


def _csv(rows: list[Row]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(names)
    for row in rows:
        table.writerow([f"{row[n]:.9g}" if n in row else "" for n in names])
    return text.getvalue()


def read_rows(path: Path) -> list[Row]:
    """The rows of metrics.csv or evaluations.csv; none where the file is not there."""
    if not path.exists():
        return []
    text = files.read(path, 2**31).decode()
    try:
        return [
            {name: float(x) for name, x in row.items() if x}
            for row in csv.DictReader(text.splitlines())
        ]
    except (ValueError, TypeError):
        raise UserError(f"{path} is damaged. Restore it from a copy, or remove it.") from None


# ------------------------------------------------------------------------------------ parts


def part_of(model: Model, settings: TrainingSettings) -> PyTree:
    """What of a model is trained: all parameters, in float32, or an adapter."""
    if settings.lora_rank is not None:
        key = jax.random.fold_in(jax.random.key(settings.seed), 1)
        return lora.init(key, model.config, settings.lora_rank, settings.lora_alpha)
    return jax.tree.map(lambda x: jnp.array(x, jnp.float32), model.merged().params)


def applied(part: PyTree, frozen: Params | None, dtype: Any) -> tuple[Params, Any]:
    """(params, adapter) as the decoder takes them; `frozen` is what an adapter lies over.

    Parameters of a model in bfloat16 are trained in float32, and rounded here.
    """
    if isinstance(part, lora.Adapter):
        assert frozen is not None
        return frozen, part
    return jax.tree.map(lambda x: x.astype(dtype), part), None


def model_with(model: Model, part: PyTree) -> Model:
    """The model with what was trained of it."""
    if isinstance(part, lora.Adapter):
        return dataclasses.replace(model, adapter=part)
    return dataclasses.replace(model, params=applied(part, None, model.dtype)[0], adapter=None)


# ------------------------------------------------------------------------------------ gradients


class Sums(NamedTuple):
    """A loss as a sum over what it is the mean of: the mean is total / weight.

    So a batch can be cut into parts with different numbers of tokens, and nothing changes.
    """

    total: Float[Array, ""]
    weight: Float[Array, ""]
    metrics: Metrics  # sums as well


def gradient(
    loss: Callable[[PyTree, PyTree], Sums], params: PyTree, batch: PyTree, accumulate: int = 1
) -> tuple[PyTree, Metrics]:
    """The gradient of the mean loss, and the means of the loss and its metrics.

    The leaves [B, …] of `batch` are cut into `accumulate` parts, of which one is in memory at a
    time.
    """

    def part(rows: PyTree) -> tuple[PyTree, Sums]:
        def both(params: PyTree) -> tuple[Array, Sums]:
            found = loss(params, rows)
            return found.total, found

        (_, found), slope = jax.value_and_grad(both, has_aux=True)(params)
        return slope, found

    if accumulate == 1:
        slope, sums = part(batch)
    else:
        parts = jax.tree.map(lambda x: x.reshape(accumulate, -1, *x.shape[1:]), batch)
        first = jax.eval_shape(part, jax.tree.map(lambda x: x[0], parts))
        zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), first)

        def add(sums: PyTree, rows: PyTree) -> tuple[PyTree, None]:
            return jax.tree.map(jnp.add, sums, part(rows)), None

        (slope, sums), _ = jax.lax.scan(add, zero, parts)
    weight = jnp.maximum(sums.weight, 1e-8)
    slope = jax.tree.map(lambda g: (g / weight).astype(g.dtype), slope)
    means = {"loss": sums.total / weight} | {k: x / weight for k, x in sums.metrics.items()}
    return slope, means


def optimizer(settings: TrainingSettings, total_steps: int) -> optax.GradientTransformation:
    """AdamW, leaf by leaf, after clipping by the global norm; decay is of matrices only."""
    rate = learning_rate(settings, total_steps)
    return optax.chain(
        optax.clip_by_global_norm(settings.max_grad_norm),
        optax.scale_by_adam(b1=0.9, b2=0.999, eps=settings.adam_epsilon),
        optax.add_decayed_weights(
            settings.weight_decay, mask=partial(jax.tree_util.tree_map_with_path, _decays)
        ),
        optax.scale_by_learning_rate(rate),
    )


def _decays(path: Any, _: Any) -> bool:
    """Biases and the scales of norms are left as they are."""
    return path[-1].key not in ("bias", "scale")


def learning_rate(settings: TrainingSettings, total_steps: int) -> Callable[[Any], Array]:
    """The learning rate of each step: a line up, then constant, a line down or half a cosine."""
    rising = settings.warmup * total_steps

    def at(step: Int[Array, ""]) -> Float[Array, ""]:
        step = jnp.asarray(step, jnp.float32)
        up = jnp.minimum(1.0, (step + 1) / max(rising, 1.0))
        done = jnp.clip((step - rising) / max(total_steps - rising, 1.0), 0, 1)
        down = {
            "constant": jnp.ones_like(done),
            "linear": 1 - done,
            "cosine": 0.5 * (1 + jnp.cos(math.pi * done)),
        }[settings.schedule]
        return settings.learning_rate * up * down

    return at


class Batches(NamedTuple):
    """Which rows of a data set a step takes: every epoch another order, by the seed."""

    rows: int  # of the data set
    size: int  # of a batch
    seed: int

    def at(self, number: int) -> Int[np.ndarray, " size"]:
        """The rows of step `number`; the same whenever it is asked."""
        places = np.arange(number * self.size, (number + 1) * self.size)
        epochs, rows = np.divmod(places, self.rows)
        found = np.empty(self.size, np.int64)
        for epoch in np.unique(epochs).tolist():
            order = np.random.default_rng([self.seed, epoch]).permutation(self.rows)
            found[epochs == epoch] = order[rows[epochs == epoch]]
        return found

    def steps(self, epochs: float) -> int:
        """How many steps so many epochs are, at least one."""
        return max(1, math.ceil(epochs * self.rows / self.size))
