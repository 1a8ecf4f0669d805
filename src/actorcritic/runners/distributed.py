"""Training on a cluster: workers that collect, and a learner that waits for no more than it must.

    together        (any algorithm)   each worker collects its columns of every batch, with the same
                                      actor: the numbers are those of the host runner
    asynchronously  (`Asynchronous`)  a worker takes a snapshot, collects, sends what the learner
                                      absorbs, and takes the next snapshot: it is behind by as many
                                      updates as others made meanwhile, which is counted

A worker has one batch under way, never two, so that nothing queues. One that dies, or is silent for
too long, is replaced by another, which begins new episodes; its batch is lost and nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from actorcritic.core.counting import Count
from actorcritic.core.errors import UserError
from actorcritic.core.machine import cores
from actorcritic.core.types import (
    Asynchronous,
    Collects,
    Decision,
    Environment,
    Observation,
    Transition,
)
from actorcritic.core.waiting import compiled
from actorcritic.core.words import told
from actorcritic.envs.host.environment import HostEnvironment, environment_seed
from actorcritic.runners.cluster import Cluster, Lost
from actorcritic.runners.collector import Abandoned, Collector, Ended
from actorcritic.runners.compiled import collect, reset
from actorcritic.runners.host import HostSession, HostState
from actorcritic.runners.session import never

STARTING = 180.0  # seconds that a worker may take to begin: imports, environments, compilation
SILENT = 60.0  # seconds that a batch may take, where the environment does not say
FUTILE = 5  # workers in a row that may die in one place without a single batch
LOOK = 0.1  # seconds between two looks at whether to stop


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["algorithm"],
    meta_fields=["first", "count", "columns"],
)
@dataclass(frozen=True)
class Share:
    """An algorithm as the worker sees it that collects in some of its environments.

    It acts for all of them and keeps its own, so that they draw what they would have drawn.
    """

    algorithm: Any
    first: int
    count: int
    columns: int  # of the batch, for each environment

    @property
    def collects(self) -> Collects:
        return self.algorithm.collects._replace(num_envs=self.count)

    def act(self, actor: Any, observation: Observation, key: Array) -> Decision:
        first, count = self.first * self.columns, self.count * self.columns
        every = jnp.arange(self.algorithm.collects.num_envs * self.columns)
        whole = jax.tree.map(lambda x: jnp.asarray(x)[(every - first) % count], observation)
        decision = self.algorithm.act(actor, whole, key)
        return jax.tree.map(lambda x: x[first : first + count], decision)


class Order(NamedTuple):
    """What a worker is asked to do, in NumPy's terms."""

    act_keys: np.ndarray  # key data [T, 2]
    key: np.ndarray  # key data
    progress: np.float32
    begin: int | None  # begin new episodes, from this seed
    name: str  # what errors call the batch


class Answer(NamedTuple):
    """What comes back."""

    sent: Any  # what `prepare` gave, or the batch
    ended: list[Ended]
    gained: int  # environment steps


class Gathered(NamedTuple):
    """What there is to learn from."""

    sent: Any
    ended: list[Ended]
    gained: int
    key: Array
    staleness: int  # updates that were made since its snapshot


def is_key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def numbers(x: Any) -> np.ndarray:
    """As NumPy has it, in which messages are written."""
    return np.asarray(jax.random.key_data(x) if is_key(x) else x)


def keys(x: np.ndarray) -> Array:
    return jax.random.wrap_key_data(jnp.asarray(x))


class CompiledCollector:
    """What `Collector` is for Gymnasium's environments, for compiled ones."""

    def __init__(self, algorithm: Any, environment: Environment) -> None:
        self.collects: Collects = algorithm.collects
        count = self.collects.num_envs
        self._reset = jax.jit(lambda key: reset(environment, jax.random.split(key, count)))
        self._collect = jax.jit(partial(_compiled_batch, algorithm, environment))
        self._now: Any = None

    def start(self, seed: int, *, anew: bool = False) -> None:
        self._now = self._reset(jax.random.key(seed))

    def collect(
        self, actor: Any, keys: Array, interrupted: Callable[[], bool] = never, name: str = ""
    ) -> tuple[Transition, list[Ended]]:
        self._now, batch, episodes = self._collect(actor, self._now, keys)
        returns, lengths = (np.asarray(x) for x in episodes)
        t, b = np.nonzero(lengths)
        at = (t * lengths.shape[1] + b + 1).tolist()
        rows = zip(at, returns[t, b].tolist(), lengths[t, b].tolist(), strict=True)
        return batch, [Ended(*row) for row in rows]


def _compiled_batch(
    algorithm: Any, environment: Environment, actor: Any, now: Any, keys: Array
) -> Any:
    return collect(algorithm, environment, actor, now, keys[0])


class Worker:
    """What is done in the process of a worker."""

    def __init__(
        self, algorithm: Any, environment: Any, snapshot: Any, share: tuple[int, int] | None
    ) -> None:
        """`snapshot` is of `jax.ShapeDtypeStruct`s; `share` is (first column, how many)."""
        self._columns = environment.spec.columns
        who = algorithm if share is None else Share(algorithm, *share, self._columns)
        self._collector: Any = (
            CompiledCollector(who, environment)
            if isinstance(environment, Environment)
            else Collector(who, environment, snapshot)
        )
        self._shapes, self._structure = jax.tree.flatten(snapshot)
        self._settings = jax.tree.map(jnp.asarray, algorithm)
        self._prepare = jax.jit(lambda a, *given: a.prepare(*given)) if share is None else None
        self._started = False

    def collect(self, leaves: list[np.ndarray], order: Order) -> Answer:
        parts = [keys(x) if is_key(s) else x for x, s in zip(leaves, self._shapes, strict=True)]
        snapshot = jax.tree.unflatten(self._structure, parts)
        if order.begin is not None:
            self._collector.start(order.begin, anew=self._started)
            self._started = True
        batch, ended = self._collector.collect(snapshot, keys(order.act_keys), name=order.name)
        gained = int(batch.steps(self._columns))
        sent: Any = batch
        if self._prepare is not None:
            given = snapshot, batch, keys(order.key), order.progress
            sent = self._prepare(self._settings, *given)
        return Answer(jax.tree.map(np.asarray, sent), ended, gained)


@dataclass
class Post:
    """A place where a worker works, and how it is with the one that works there now."""

    number: int
    make: Callable[[], Worker]
    share: tuple[int, int] | None
    worker: Any
    call: Any = None  # under way
    since: float = 0.0
    version: int = 0  # updates that its snapshot had seen
    round: int = 0  # in which it was asked: what comes of an earlier one is dropped
    begun: int = -1  # the round of the episodes that it has under way
    proven: bool = False  # it has answered before
    deaths: int = 0  # of workers here, since one answered
    replaced: int = 0


class ClusterSession(HostSession):
    """The seeds of a run, trained one after another; workers of a cluster collect."""

    def __init__(
        self,
        algorithm: Any,
        environment: Environment | HostEnvironment,
        seeds: Sequence[int],
        total_steps: int,
        address: str,
        workers: int | None = None,
    ) -> None:
        self._address, self._wanted = address, workers
        self._alone = isinstance(algorithm, Asynchronous)
        super().__init__(algorithm, environment, seeds, total_steps)

    # ------------------------------------------------------------------ workers

    def _open(self, environment: Any) -> None:
        algorithm, learner = self._algorithm, self._states[0].learner
        self._take = jax.jit(self._snapshot)
        shapes = jax.eval_shape(self._snapshot, self._settings, learner)
        self._silent = getattr(environment, "worker_timeout", SILENT)
        self._round = self._lost = 0
        self._shared: tuple[Any, Any] = (None, None)  # the newest snapshot, and what it is of
        self.notes = []
        self._cluster = Cluster(self._address, self._wanted and max(self._wanted, cores()))
        try:
            count = self._count()
            each = algorithm.collects.num_envs // count
            self._posts = []
            for k in range(count):
                share = None if self._alone else (k * each, each)
                make = partial(Worker, algorithm, environment, shapes, share)
                self._posts.append(Post(k, make, share, self._cluster.worker(make)))
        except BaseException:
            self._cluster.close()
            raise

    @property
    def workers(self) -> int:
        return len(self._posts)

    def _snapshot(self, algorithm: Any, learner: Any) -> Any:
        return algorithm.snapshot(learner) if self._alone else algorithm.behaviour(learner)

    def _count(self) -> int:
        """How many workers there are to be; UserError where so many cannot be."""
        room, columns = self._cluster.cpus, self._algorithm.collects.num_envs
        count = self._wanted
        if count is not None and count > room:
            raise UserError(
                f"The cluster has {room} cores; {count} workers need one each. Name fewer "
                "workers, or start Ray on more machines."
            )
        if self._alone:
            return count or max(1, room)
        if count is None:
            return next(k for k in range(max(1, room), 0, -1) if columns % k == 0)
        if columns % count:
            raise UserError(
                f"{self._algorithm.name} collects {columns} environments together, which do not "
                f"divide among {count} workers. Make num_envs a multiple of the workers."
            )
        return count

    def _replace(self, post: Post, why: str) -> None:
        """Another worker in the place of one that is no good."""
        self._cluster.end(post.worker)
        post.deaths, post.replaced, self._lost = post.deaths + 1, post.replaced + 1, self._lost + 1
        if post.deaths >= FUTILE:
            raise UserError(
                f"{post.deaths} workers in a row were lost before they had a batch; the last one "
                f"{why}. Look for a lack of memory, or for an "
                "environment that ends its process."
            )
        self.notes.append(f"Worker {post.number} {why}; another takes its place.")
        # It waits for no core: where a machine left, the others have to do.
        post.worker = self._cluster.worker(post.make, reserve=False)
        post.call, post.begun, post.proven = None, -1, False

    def _ask(self, post: Post, s: int, given: tuple[Array, Array]) -> None:
        """Ask a worker for a batch, with the newest snapshot."""
        state = self._states[s]
        made = int(state.updates)
        begin = None
        if post.begun != self._round:
            if post.share is None or post.replaced:
                begin = environment_seed(self.seeds[s], made, 1 + post.number, post.replaced)
            else:  # as the host runner begins them
                begin = environment_seed(self.seeds[s], made) + post.share[0]
        act_keys, key = (numbers(k) for k in given)
        progress = state.steps.share(Count.of(self.total_steps))
        name = f"update {made + 1} (seed {self.seeds[s]}, worker {post.number})"
        order = Order(act_keys, key, progress, begin, name)
        post.call = self._cluster.call(post.worker, "collect", self._newest(s), order)
        post.version, post.round, post.begun = made, self._round, self._round
        post.since = time.monotonic()

    def _newest(self, s: int) -> Any:
        """The snapshot of now, shared once."""
        of = self._round, int(self._states[s].updates)
        if self._shared[0] != of:
            leaves = jax.tree.leaves(self._take(self._settings, self._states[s].learner))
            self._shared = of, self._cluster.put([numbers(x) for x in leaves])
        return self._shared[1]

    def _arrived(self) -> tuple[Post, Answer] | None:
        """An answer of this round, or after a moment none.

        Workers that died, or have been silent for too long, are replaced.
        """
        now = time.monotonic()
        for post in self._posts:
            patience = self._silent if post.proven else max(STARTING, self._silent)
            if post.call is not None and now - post.since > patience:
                self._replace(post, f"was silent for {patience:g} seconds")
        by_call = {post.call: post for post in self._posts if post.call is not None}
        for call in self._cluster.ready(by_call, LOOK):
            post = by_call[call]
            try:
                answer = self._cluster.result(call)
            except Lost:
                self._replace(post, "died")
                return None
            except UserError:
                post.call, post.begun = None, -1
                raise
            except Exception as error:
                raise UserError(f"Worker {post.number} failed: {told(error)}.") from error
            post.call, post.proven, post.deaths = None, True, 0
            if post.round == self._round:
                return post, answer
        return None

    # ------------------------------------------------------------------ training

    def compile(self) -> None:
        if self._programs is None:
            state = self._states[0]
            self._programs = compiled(jax.jit(self._draw).lower(state.key)), None

    def _update(
        self, algorithm: Any, learner: Any, sent: Any, key: Array, progress: Array
    ) -> tuple[Any, Array]:
        learn = algorithm.absorb if self._alone else algorithm.update
        learner, metrics = learn(learner, sent, key, progress)
        names = tuple(sorted(metrics))
        self._names = (*names, "staleness", "workers_lost")
        return learner, jnp.stack([metrics[name] for name in names])

    def _train_once(
        self, s: int, interrupted: Callable[[], bool]
    ) -> tuple[np.ndarray, list[Ended]]:
        if self._under_way != s:
            self._round, self._under_way = self._round + 1, s
        try:
            gather = self._one if self._alone else self._all
            sent, ended, gained, key, staleness = gather(s, interrupted)
        except (Abandoned, UserError):
            self._under_way = None
            raise
        state = self._states[s]
        progress = state.steps.share(Count.of(self.total_steps))
        arguments = self._settings, state.learner, sent, key, progress
        assert self._programs is not None
        if self._programs[1] is None:
            update = compiled(jax.jit(self._update, donate_argnums=1).lower(*arguments))
            self._programs = self._programs[0], update
        learner, metrics = self._programs[1](*arguments)
        counts = Count.of(int(state.updates) + 1), Count.of(int(state.steps) + gained)
        self._states[s] = HostState(learner, state.key, *counts)
        return np.append(np.asarray(metrics), [staleness, self._lost]), ended

    def _keys(self, s: int) -> tuple[Array, Array]:
        """New keys, to act and to learn with."""
        assert self._programs is not None
        state = self._states[s]
        key, act_keys, update_key = self._programs[0](state.key)
        self._states[s] = state._replace(key=key)
        return act_keys, update_key

    def _one(self, s: int, interrupted: Callable[[], bool]) -> Gathered:
        """What the first of the workers sent; it is asked for more at once."""
        while not interrupted():
            for post in self._posts:
                if post.call is None:
                    self._ask(post, s, self._keys(s))
            arrived = self._arrived()
            if arrived is not None:
                post, answer = arrived
                staleness = int(self._states[s].updates) - post.version
                self._ask(post, s, self._keys(s))
                _, key = self._keys(s)
                return Gathered(answer.sent, answer.ended, answer.gained, key, staleness)
        raise Abandoned

    def _all(self, s: int, interrupted: Callable[[], bool]) -> Gathered:
        """The shares of all workers, side by side."""
        given = self._keys(s)
        answers: dict[int, Answer] = {}
        while not interrupted():
            for post in self._posts:
                if post.call is None and post.number not in answers:
                    self._ask(post, s, given)
            arrived = self._arrived()
            if arrived is not None:
                answers[arrived[0].number] = arrived[1]
            if len(answers) == len(self._posts):
                parts = [answers[post.number] for post in self._posts]
                batch = jax.tree.map(
                    lambda *x: np.concatenate(x, axis=1), *(part.sent for part in parts)
                )
                gained = sum(part.gained for part in parts)
                return Gathered(batch, self._ended(parts, gained), gained, given[1], 0)
        raise Abandoned

    def _ended(self, parts: Sequence[Answer], gained: int) -> list[Ended]:
        """The episodes of all shares in the order they ended, each at its step of the batch."""
        whole, found = self._algorithm.collects.whole_episodes, []
        for post, part in zip(self._posts, parts, strict=True):
            assert post.share is not None
            first, count = post.share
            for one in part.ended:
                t, b = divmod(one.step - 1, count)
                step = min(t * count * len(parts) + first + b + 1, gained)
                found.append(one._replace(step=gained if whole else step))
        return sorted(found, key=lambda one: one.length if whole else one.step)

    def close(self) -> None:
        """End the workers, and the cluster where it was started for this."""
        self._cluster.close()
