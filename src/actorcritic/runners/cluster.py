"""Ray, the engine for more than one process or machine: workers, calls, shared values, tasks.

The one module that imports Ray. It knows nothing of what the workers do.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
import sys
import sysconfig
import warnings
from collections.abc import Callable, Iterable
from typing import Any

from actorcritic.core.errors import UserError
from actorcritic.core.machine import cores
from actorcritic.core.words import told

NO_RAY = 'A cluster needs Ray, which is not installed. Run: pip install "actorcritic[ray]"'
LOCAL = "local"
TRIES = 5  # of a task whose machine was lost
STORE_BYTES = 256 * 2**20  # of a cluster that is started here, for messages on their way
# A node that says nothing is given up after about 6 seconds, where Ray would wait for 15 and more.
HEALTH = {
    "health_check_initial_delay_ms": 2000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 4,
}
# Beside each other, programs that each take all cores are slower than programs that take one.
ONE_THREAD = {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "OMP_NUM_THREADS": "1",
    "JAX_PLATFORMS": "cpu",
}


class Lost(Exception):
    """A worker, or the machine that it was on, is gone."""


def check_installed() -> None:
    """UserError where there is no Ray; nothing is imported."""
    if importlib.util.find_spec("ray") is None:
        raise UserError(NO_RAY)


def _ray() -> Any:
    check_installed()
    # Nothing is sent to anyone; and what Ray has to say to its own users is not ours to print.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    return ray


class Cluster:
    """A connection to Ray, closed by `close`.

    `address` is "local" for a cluster of this machine alone, which is started here and ends with
    the connection; or that of a running one: "HOST:PORT", "ray://HOST:PORT", or "auto". `cpus` are
    how many a local one has: by default the machine's.
    """

    def __init__(self, address: str, cpus: int | None = None) -> None:
        self._ray = ray = _ray()
        self._workers: list[Any] = []
        self._mine = not ray.is_initialized()
        if not self._mine:  # a program that has connected already
            return
        quiet = {"log_to_driver": False, "logging_level": "ERROR"}
        if address == LOCAL:
            quiet |= {
                "include_dashboard": False,
                "num_cpus": cpus or cores(),
                "object_store_memory": STORE_BYTES,
                "_system_config": HEALTH,
            }
        try:
            _check_reachable(address)
            # JAX warns of any new process; this one begins another program at once, and is safe.
            with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
                ray.init(address, **quiet)
        except Exception as error:
            raise UserError(
                f"No cluster answers at '{address}' ({told(error)}). Start one with: ray start "
                "--head; if it asks for a token, set RAY_AUTH_TOKEN (docs/cluster.md). Or take "
                "--cluster local, which starts one on this machine."
            ) from error

    @property
    def cpus(self) -> int:
        return int(self._ray.cluster_resources().get("CPU", 0))

    @property
    def cpus_of_node(self) -> int:
        """Of the smallest machine that has any."""
        nodes = [n["Resources"].get("CPU", 0) for n in self._ray.nodes() if n["Alive"]]
        return int(min((n for n in nodes if n > 0), default=1))

    # ------------------------------------------------------------------ workers

    def worker(
        self, make: Callable[[], Any], reserve: bool = True, *, lasting: bool = False
    ) -> Any:
        """Begin a process with what `make` returns there; `call` calls its methods.

        With `reserve` it waits for a core that nobody else has. One that is `lasting` is made anew
        elsewhere when its machine leaves; until then its calls raise Lost.
        """
        remote = self._ray.remote(_Worker).options(
            num_cpus=1 if reserve else 0,
            max_restarts=-1 if lasting else 0,
            max_concurrency=1,
            scheduling_strategy="SPREAD",
        )
        worker = remote.remote(self.pickled(make))
        worker.begin.remote()
        self._workers.append(worker)
        return worker

    def call(self, worker: Any, method: str, *arguments: Any) -> Any:
        """Call a method of a worker; what is returned becomes ready when it is done."""
        return worker.call.remote(method, *arguments)

    def end(self, worker: Any) -> None:
        """Kill a worker, whatever it does."""
        with contextlib.suppress(ValueError):
            self._workers.remove(worker)
        self._ray.kill(worker)

    # ------------------------------------------------------------------ tasks and values

    def task(self, function: Callable[..., Any], *arguments: Any, cpus: int = 1) -> Any:
        """Call a function once, on some machine that has as many cores; again where one is lost."""
        remote = self._ray.remote(_task).options(
            num_cpus=cpus, max_retries=TRIES, scheduling_strategy="SPREAD"
        )
        return remote.remote(self.pickled(function), *arguments)

    def put(self, value: Any) -> Any:
        """Share a value: sent to each machine once, however many workers ask for it."""
        return self._ray.put(value)

    def ready(self, calls: Iterable[Any], seconds: float) -> list[Any]:
        """Those of the calls that are done, as soon as one is, or none after so many seconds."""
        waiting = list(calls)
        return self._ray.wait(waiting, num_returns=1, timeout=seconds)[0] if waiting else []

    def result(self, call: Any) -> Any:
        """What a call that is done returned, or its exception; Lost where nobody was left to."""
        try:
            return self._ray.get(call)
        except (
            self._ray.exceptions.RayActorError,
            self._ray.exceptions.WorkerCrashedError,
            self._ray.exceptions.NodeDiedError,
            self._ray.exceptions.ObjectLostError,
        ) as error:
            raise Lost(told(error)) from error
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from error

    def cancel(self, calls: Iterable[Any]) -> None:
        for call in calls:
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._ray.cancel(call, force=True)

    def pickled(self, thing: Any) -> bytes:
        """A message. Code of the user's travels in it, so that no other machine needs the file."""
        from ray import cloudpickle

        mine = _modules_of_the_user()
        for module in mine:
            cloudpickle.register_pickle_by_value(module)
        try:
            return cloudpickle.dumps(thing)
        except Exception as error:
            raise UserError(
                f"What the workers need cannot be sent to them ({told(error)}). Give a function "
                "that makes the environment there, instead of one that is made."
            ) from error
        finally:
            for module in mine:
                cloudpickle.unregister_pickle_by_value(module)

    def close(self) -> None:
        """End all workers; and the cluster, if it was started here."""
        for worker in list(self._workers):
            self.end(worker)
        if self._mine:
            self._ray.shutdown()


def _check_reachable(address: str) -> None:
    """OSError where nobody listens: Ray itself would try for a minute."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def tell(worker: Any, method: str, *arguments: Any) -> None:
    """Call a method of a worker, from wherever a task is, and wait for nothing."""
    worker.call.remote(method, *arguments)


def _modules_of_the_user() -> list[Any]:
    """Modules that are neither installed nor ours: other machines do not have them."""
    paths = sysconfig.get_paths()
    installed = tuple(paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    found = []
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        ours = name.partition(".")[0] in ("actorcritic", "__main__")
        if file and not ours and not file.startswith(installed):
            found.append(module)
    return found


class _Worker:
    """What runs in a worker's process."""

    def __init__(self, make: bytes) -> None:
        os.environ.update(ONE_THREAD)  # before JAX is imported
        self._make, self._it = make, None

    def begin(self) -> None:
        """Make it. Where that fails, the first call fails in the same way, and is heard."""
        if self._it is None:
            from ray import cloudpickle

            self._it = cloudpickle.loads(self._make)()

    def call(self, method: str, *arguments: Any) -> Any:
        self.begin()
        return getattr(self._it, method)(*arguments)


def _task(function: bytes, *arguments: Any) -> Any:
    os.environ["JAX_PLATFORMS"] = "cpu"
    from ray import cloudpickle

    return cloudpickle.loads(function)(*arguments)
