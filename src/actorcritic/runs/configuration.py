"""run.json: how a run is described, and how its parts are found, checked and built again.

Nothing that `run.json` names is imported: what is not this library's or Gymnasium's own has to be
passed again.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias, get_type_hints

import jax
import numpy as np

from actorcritic.algorithms.catalogue import ALGORITHMS, find
from actorcritic.core import files, hyperparameters, importing, words
from actorcritic.core.errors import UserError
from actorcritic.core.types import Agent, Algorithm, Environment, EnvSpec, check_protocol
from actorcritic.data.dataset import Dataset
from actorcritic.data.finding import dataset
from actorcritic.envs.catalogue import COMPILED, compiled_environment
from actorcritic.envs.compiled import check_compiled
from actorcritic.envs.host.environment import HostEnvironment
from actorcritic.maths import spaces
from actorcritic.runners.promises import check_algorithm
from actorcritic.runs.settings import EnvironmentSettings

FORMAT = 1
# What comes of values that are something else than was expected.
_UNFIT: tuple[type[Exception], ...] = (LookupError, TypeError, ValueError, AttributeError)
_UNFIT += (OverflowError, AssertionError)
MOST_SEEDS = 10_000


def describe(
    algorithm: Any,
    world: World,
    seeds: Sequence[int],
    total_steps: int,
    spread: int | None,
    data: Dataset | None = None,
) -> dict[str, Any]:
    """What run.json holds. `spread` is over how many devices the rows of a seed are spread."""
    names = ("actorcritic", "jax", "jaxlib", "optax", "numpy", "gymnasium")
    return {
        "format": FORMAT,
        "algorithm": _algorithm_to_json(algorithm),
        "environment": _environment_to_json(world),
        "seeds": list(seeds),
        "total_steps": total_steps,
        "versions": {name: importlib.metadata.version(name) for name in names}
        | {"python": platform.python_version()},
        "spread": spread,
        "data": None if data is None else _data_to_json(data),
        "step": "update" if algorithm.draws else "environment step",
        "devices": f"{jax.device_count()} × {jax.devices()[0].device_kind}",
    }


def _data_to_json(data: Dataset) -> dict[str, Any]:
    return {
        "source": data.source,
        "id": data.spec.id,
        "episodes": data.episodes,
        "steps": data.steps,
        "sha256": data.fingerprint,
    }


def data_again(run: dict[str, Any], out: Path, given: Any = None) -> Dataset | None:
    """The data set that a run learns from, to go on with it; UserError where it is another."""
    was = run.get("data")
    if was is None or run.get("step") != "update":
        return None
    source = was["source"] if given is None else given
    if source is None:
        raise UserError(
            f"{out} learned from a data set that was in memory. Name it again, to go on: data=…"
        )
    found = dataset(source)
    if found.fingerprint != was["sha256"]:
        raise UserError(
            f"The data set {source} is not the one that {out} learned from: that had "
            f"{was['steps']:,} steps in {was['episodes']:,} episodes, and another checksum. Name "
            "where it is now with --data (Python: data=…), or start a new run."
        )
    return found


@dataclass(frozen=True)
class SpacesOnly:
    """Stands for an environment where only its spaces are known or needed."""

    spec: EnvSpec


def _algorithm_to_json(algorithm: Any) -> dict[str, Any]:
    values = {f.name: _plain(getattr(algorithm, f.name)) for f in dataclasses.fields(algorithm)}
    known = ALGORITHMS.get(algorithm.name) is type(algorithm)
    own = [] if known else [f"the class {type(algorithm).__name__}"]
    for name, value in list(values.items()):
        if not _is_plain(value):
            own.append(name)
            del values[name]
    kind = None if known else importing.address(type(algorithm))
    return {"name": algorithm.name, "hyperparameters": values, "own": own, "class": kind}


def _plain(value: Any) -> Any:
    """A number of NumPy's as one of Python's."""
    return value.item() if isinstance(value, np.generic) else value


def _is_plain(value: Any) -> bool:
    return isinstance(value, bool | int | float | str | None) or type(value) is tuple


def difference(before: dict[str, Any], after: dict[str, Any]) -> str:
    """What two descriptions of runs differ in, in words: "learning_rate = 0.001 (was 0.0003)"."""
    one, other = before["algorithm"], after["algorithm"]
    said = []
    if (one["name"], one["own"]) != (other["name"], other["own"]):
        said.append(f"the algorithm is {other['name']} (was {one['name']})")
    was, now = one["hyperparameters"], other["hyperparameters"]
    for name in now:
        if was.get(name) != now[name]:
            said.append(f"{name} = {words.shown(now[name])} (was {words.shown(was.get(name))})")
    was, now = before["environment"], after["environment"]
    differing = [name for name in now if was.get(name) != now[name]]
    if differing:
        said.append(f"the environment has another {words.listed(differing)}")
    return words.listed(said)


def same(stored: Any, now: Any) -> bool:
    """Whether two parts of descriptions say the same; an earlier version had less to say."""
    if isinstance(stored, dict) and isinstance(now, dict):
        return all(name in now and same(value, now[name]) for name, value in stored.items())
    return bool(stored == now)


def words_of(run: dict[str, Any]) -> tuple[str, str]:
    """The algorithm and the environment of a run, as a command takes them."""
    algorithm, world = run["algorithm"], run["environment"]
    own = world.get("class") or world["make"] or world["id"]
    return (
        _address(algorithm.get("class")) if algorithm["own"] else algorithm["name"],
        (world["make"] or world["id"]) if _is_ours(world) else _address(own),
    )


def again(run: dict[str, Any]) -> str:
    """The options that name what is the user's own in a run, " --env module:Name"; "" without."""
    algorithm, environment = words_of(run)
    said = f" --algorithm {algorithm}" if run["algorithm"]["own"] else ""
    return said if _is_ours(run["environment"]) else f"{said} --env {environment}"


def _address(place: Any) -> str:
    return place if importing.is_address(place) else "module:Name"


def _is_ours(world: dict[str, Any]) -> bool:
    """Can the environment be made without code of the user's?"""
    make = world["make"]
    return bool(world.get("absent")) or (
        make is not None and (":" not in make or (make.startswith("gymnax:") and not world["host"]))
    )


def rebuild_algorithm(run: dict[str, Any], out: Path, given: Any = None) -> Any:
    """The algorithm of a run. What is the user's own has to be given again.

    An object is taken as it is. A class, or module:Name, gets the run's hyperparameters.
    """
    if given is not None and not isinstance(given, str | type):
        check_protocol(given)
        return given
    data = run["algorithm"]
    if given is None and data["own"]:
        raise UserError(
            f"{out} was trained with {' and '.join(data['own'])} of your own, which a run does not "
            f"store and never imports by itself. If you trust it, name it again:{again(run)} "
            "(Python: algorithm=…)."
        )
    values = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in data["hyperparameters"].items()
    }
    if given is None:
        given = ALGORITHMS.known(data["name"])
    plain = find(given) if isinstance(given, str) else hyperparameters.made(given)
    check_protocol(plain)
    kinds = get_type_hints(type(plain))
    for name, value in values.items():
        if value is not None and not hyperparameters.is_plain(kinds.get(name, int)):
            raise UserError(
                f"{out / 'run.json'} has {name} = {value!r}, which no training writes there. "
                "Restore the file from a copy."
            )
    algorithm = hyperparameters.replace(plain, **values)
    hyperparameters.check(algorithm)
    return algorithm


def _environment_to_json(world: World) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "id": world.spec.id,
        "observation_space": spaces.to_json(world.spec.observation_space),
        "action_space": spaces.to_json(world.spec.action_space),
        "max_episode_steps": world.spec.max_episode_steps,
    }
    if world.spec.agents:
        spec["agents"] = [list(agent) for agent in world.spec.agents]
    if isinstance(world, SpacesOnly):
        return spec | {"host": False, "make": None, "class": None, "options": {}, "absent": True}
    if isinstance(world, HostEnvironment):
        return spec | {
            "host": True,
            "make": world.id if world.is_registered else None,
            "class": None if world.is_registered else world.place,
            "options": dict(world.options),
            "vectorization": world.vectorization,
            "autoreset": world.autoreset,
            "info_metrics": list(world.info_metrics),
        }
    known = next((id for id, cls in COMPILED.items() if type(world) is cls), None)
    options = dataclasses.asdict(world) if known is not None else {}  # type: ignore[call-overload]
    if known is None and world.spec.id.startswith("gymnax:"):
        known = world.spec.id
    if known is not None:
        return spec | {"host": False, "make": known, "class": None, "options": options}
    return spec | {
        "host": False,
        "make": None,
        "class": importing.address(type(world)),
        "options": _options_of(world),
    }


def _options_of(world: Any) -> dict[str, Any]:
    """The fields of an environment of the user's that are not as its class has them."""
    if not dataclasses.is_dataclass(world):
        return {}
    values = {f.name: (getattr(world, f.name), f.default) for f in dataclasses.fields(world)}
    return {n: value for n, (value, usual) in values.items() if _is_plain(value) and value != usual}


def spec_from_json(data: dict[str, Any]) -> EnvSpec:
    """What run.json says of an environment; UserError where it says it in no way of ours."""
    found = {}
    for name in ("observation_space", "action_space"):
        try:
            found[name] = spaces.from_json(data[name])
        except _UNFIT as error:
            raise UserError(
                f"The {name} in run.json is not what a training writes ({error}). Restore the "
                "file from a copy."
            ) from None
    agents = agents_from_json(data.get("agents", []))
    return EnvSpec(data["id"], **found, max_episode_steps=data["max_episode_steps"], agents=agents)


def agents_from_json(data: Any) -> tuple[Agent, ...]:
    """Agents as `run.json` has them; UserError where it is not that."""
    kinds: Any = (str, str, int | None, int | None)
    good = isinstance(data, list) and all(
        isinstance(row, list)
        and len(row) == len(kinds)
        and all(isinstance(part, kind) for part, kind in zip(row, kinds, strict=True))
        for row in data
    )
    if not good:
        raise UserError("The agents of the run are not what a training writes; restore run.json.")
    return tuple(Agent(*row) for row in data)


def rebuild_environment(run: dict[str, Any], out: Path, given: Any = None) -> World:
    """The environment of a run. What is the user's own has to be given again.

    Where it is named as the run has it, it gets the run's options.
    """
    data = run["environment"]
    how = settings_of(data)
    if given is not None:
        known = {data["id"], data["make"], data.get("class")} - {None}
        named = {given} if isinstance(given, str) else {importing.address(given)}
        same = bool(known & (named | {getattr(given, "__name__", None)}))
        return resolve_environment(given, how if same else replace(how, env_options=None))
    if data.get("absent"):
        return SpacesOnly(spec_from_json(data))
    if _is_ours(data):
        return resolve_environment(data["make"], how)
    raise UserError(
        f"{out} was trained on an environment of your own, {data['id']}, and a run never imports "
        f"code by itself. If you trust it, name it again:{again(run)} (Python: environment=…)."
    )


def settings_of(data: dict[str, Any]) -> EnvironmentSettings:
    """How the environment of run.json was stepped."""
    names = ("vectorization", "autoreset", "info_metrics")
    how = {name: data[name] for name in names if name in data}
    return EnvironmentSettings(host=data["host"], env_options=data["options"], **how)


def read_json(path: Path) -> dict[str, Any]:
    """What a file of a run or experiment holds; a stranger's text, without control characters."""

    def cleaned(value: Any) -> Any:
        if isinstance(value, dict):
            return {words.printable(name): cleaned(part) for name, part in value.items()}
        if isinstance(value, list):
            return [cleaned(part) for part in value]
        return words.printable(value) if isinstance(value, str) else value

    try:
        data = cleaned(json.loads(files.read(path)))
    except RecursionError:
        raise UserError(f"{path} cannot be read: it is nested too deeply.") from None
    except ValueError as error:
        raise UserError(f"{path} cannot be read: {error}.") from None
    if not isinstance(data, dict):
        raise UserError(f"{path} holds a {type(data).__name__}; expected a JSON object.")
    return data


def read(out: Path) -> dict[str, Any]:
    path = out / "run.json"
    if not path.exists() and (out / "experiment.json").exists():
        raise UserError(
            f"{out} holds an experiment; its runs are folders in {out / 'variants'}. To go on with "
            "an experiment, repeat the command that began it."
        )
    if not path.exists():
        raise UserError(f"{out} is not a run folder: it has no run.json.")
    data = read_json(path)
    number = data.get("format")
    if isinstance(number, int) and number > FORMAT:
        raise UserError(
            f"{path} has format {number}, written by a later version of actorcritic; this "
            f"one reads up to {FORMAT}. Upgrade actorcritic to open it."
        )
    if number != FORMAT or not files.fits(data, _FORM) or not _are_seeds(data["seeds"]):
        raise UserError(
            f"{path} is not what a training of actorcritic writes. Restore it from a copy, or "
            "start a new run in another folder."
        )
    return data


def _are_seeds(seeds: list[int]) -> bool:
    few = 0 < len(seeds) <= MOST_SEEDS
    return few and len(set(seeds)) == len(seeds) and all(0 <= seed < 2**31 for seed in seeds)


# What of run.json is read again; a type for every value that has to be there.
_FORM: dict[str, Any] = {
    "algorithm": {"name": str, "hyperparameters": dict, "own": [str]},
    "environment": {
        "id": str,
        "observation_space": dict,
        "action_space": dict,
        "max_episode_steps": int | None,
        "host": bool,
        "make": str | None,
        "options": dict,
    },
    "seeds": [int],
    "total_steps": int,
}


def fits(data: Any, form: Any) -> bool:
    if not isinstance(form, dict):
        return isinstance(data, form)
    return isinstance(data, dict) and all(
        name in data and fits(data[name], part) for name, part in form.items()
    )


World: TypeAlias = Environment | HostEnvironment | SpacesOnly


def world_of(environment: Any, settings: EnvironmentSettings, data: Dataset | None) -> World:
    """The environment; without one, the spaces of the data set."""
    if environment is not None:
        return resolve_environment(environment, settings)
    if data is None:
        raise UserError(
            "There is neither an environment nor a data set to learn from. Name an environment "
            "behind the algorithm, or a data set with --data (Python: data=…)."
        )
    return SpacesOnly(data.spec)


def resolve_environment(
    environment: Any, settings: EnvironmentSettings
) -> Environment | HostEnvironment:
    """The environment that an id, factory or object stands for."""
    host, options = settings.host, dict(settings.env_options or {})
    if isinstance(environment, str) and environment in ALGORITHMS:
        raise UserError(
            f"'{environment}' is an algorithm, and stands where the environment belongs: first the "
            "algorithm, then the environment."
        )
    by_host = host and isinstance(environment, str | type)
    compiled = None if by_host else compiled_environment(environment, **options)
    if isinstance(environment, str) and compiled is not None and settings.info_metrics:
        raise UserError(
            f"The compiled {environment} gives no infos to keep. Step it through Gymnasium "
            "with host=True (--host), or leave info_metrics out."
        )
    if compiled is not None or isinstance(environment, HostEnvironment):
        return compiled or environment
    try:
        return HostEnvironment(
            environment,
            vectorization=settings.vectorization,
            autoreset=settings.autoreset,
            options=options,
            info_metrics=settings.info_metrics,
        )
    except UserError as error:  # Gymnasium's names are not the only ones
        hint = words.nearest(environment, COMPILED) if type(environment) is str else ""
        if host or not hint or "Did you mean" in str(error):
            raise
        raise UserError(f"{error}{hint}") from None


def _others(spec: EnvSpec) -> str:
    names = (n for n, a in ALGORITHMS.items() if isinstance(spec.action_space, a.action_spaces))
    return f"Suited to it: {', '.join(names)}."


def check(algorithm: Any, world: World, total_steps: int, data: Dataset | None = None) -> None:
    """Everything that can be wrong before the first step."""
    check_protocol(algorithm)
    hyperparameters.check(algorithm)
    if isinstance(world, Environment):
        check_compiled(world)
    spaces.check(world.spec)
    suited = algorithm.action_spaces
    if not isinstance(world.spec.action_space, suited):
        raise UserError(
            f"{algorithm.name} is for actions of {' or '.join(kind.__name__ for kind in suited)}; "
            f"{world.spec.id} has {world.spec.action_space}. {_others(world.spec)}"
        )
    collects = algorithm.collects
    if data is not None:
        _check_data(algorithm, world, data)
    elif algorithm.draws is not None:
        raise UserError(
            f"{algorithm.name} learns from a data set, and none was given. Name one: --data DIR "
            "(Python: data=…). `actorcritic collect RUN` makes one."
        )
    algorithm.check(world.spec)
    if not type(algorithm).__module__.startswith("actorcritic."):
        check_algorithm(algorithm, world.spec)
    if algorithm.draws is not None:
        return
    if collects is None:
        raise UserError(
            f"{algorithm.name} collects nothing by itself: its `collects` is None. Let it return "
            "Collects(num_envs, num_steps) to train it on an environment, or let its `draws` say "
            "how many rows of a data set an update learns from."
        )
    if isinstance(world, SpacesOnly):
        raise UserError(
            f"{algorithm.name} learns from an environment, and none was named. Name it behind the "
            f"algorithm: actorcritic train {algorithm.name} ENV"
        )
    steps = 1 if collects.whole_episodes else collects.num_steps
    batch = collects.num_envs * steps
    if total_steps < batch:
        raise UserError(
            f"total_steps = {total_steps} is fewer than one update takes: num_envs × num_steps = "
            f"{collects.num_envs} × {steps} = {batch}. Raise it, or lower those."
        )
    if isinstance(world, HostEnvironment):
        world.check()


def _check_data(algorithm: Any, world: World, data: Dataset) -> None:
    data.check(world.spec)
    if algorithm.draws is None and type(algorithm).remember is Algorithm.remember:
        keeping = [
            name
            for name, known in ALGORITHMS.items()
            if known().draws or known.remember is not Algorithm.remember
        ]
        raise UserError(
            f"{algorithm.name} neither learns from a data set nor keeps experience. Leave data out "
            f"(--data), or choose one of {', '.join(keeping)}."
        )


def folder(path: Any) -> Path:
    """A path that a user gave; UserError where it is something else."""
    if isinstance(path, str | os.PathLike):
        return files.as_path(path, "The folder of a run")
    hint = " Of a run in memory, use it as it is: run.policy(), run.evaluate()."
    raise UserError(
        f"Expected the folder of a run; got a {type(path).__name__}."
        + hint * hasattr(path, "evaluate")
    )
