"""run.json: how a run is described, and how its parts are found, checked and built again.

Nothing that `run.json` names is imported: what is not this library's or Gymnasium's own has to be
passed again.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import jax

from actorcritic.algorithms.catalogue import ALGORITHMS
from actorcritic.core import hyperparameters, words
from actorcritic.core.errors import UserError
from actorcritic.core.types import Environment, EnvSpec, check_protocol
from actorcritic.envs.catalogue import COMPILED, compiled_environment
from actorcritic.envs.host.environment import HostEnvironment
from actorcritic.maths import spaces
from actorcritic.runs.settings import EnvironmentSettings

FORMAT = 1


def describe(
    algorithm: Any,
    world: Environment | HostEnvironment,
    seeds: Sequence[int],
    total_steps: int,
    spread: int | None,
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
        "devices": f"{jax.device_count()} × {jax.devices()[0].device_kind}",
    }


def _algorithm_to_json(algorithm: Any) -> dict[str, Any]:
    values = {f.name: getattr(algorithm, f.name) for f in dataclasses.fields(algorithm)}
    known = ALGORITHMS.get(algorithm.name) is type(algorithm)
    own = [] if known else [f"the class {type(algorithm).__name__}"]
    for name, value in list(values.items()):
        plain = isinstance(value, bool | int | float | str | None) or type(value) is tuple
        if not plain:
            own.append(name)
            del values[name]
    return {"name": algorithm.name, "hyperparameters": values, "own": own}


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


def rebuild_algorithm(data: dict[str, Any], out: Path) -> Any:
    if data["own"]:
        raise UserError(
            f"{out} was trained with {' and '.join(data['own'])} of your own, which a run does not "
            "store. Pass it again from Python: algorithm=…"
        )
    values = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in data["hyperparameters"].items()
    }
    algorithm = hyperparameters.replace(ALGORITHMS.named(data["name"])(), **values)
    hyperparameters.check(algorithm)
    return algorithm


def _environment_to_json(world: Environment | HostEnvironment) -> dict[str, Any]:
    spec = {
        "id": world.spec.id,
        "observation_space": spaces.to_json(world.spec.observation_space),
        "action_space": spaces.to_json(world.spec.action_space),
        "max_episode_steps": world.spec.max_episode_steps,
    }
    if isinstance(world, HostEnvironment):
        return spec | {
            "host": True,
            "make": world.id if world.is_registered else None,
            "options": dict(world.options),
            "vectorization": world.vectorization,
            "autoreset": world.autoreset,
            "info_metrics": list(world.info_metrics),
        }
    known = next((id for id, cls in COMPILED.items() if type(world) is cls), None)
    options = dataclasses.asdict(world) if known is not None else {}  # type: ignore[call-overload]
    if known is None and world.spec.id.startswith("gymnax:"):
        known = world.spec.id
    return spec | {"host": False, "make": known, "options": options}


def spec_from_json(data: dict[str, Any]) -> EnvSpec:
    return EnvSpec(
        data["id"],
        spaces.from_json(data["observation_space"]),
        spaces.from_json(data["action_space"]),
        data["max_episode_steps"],
    )


def rebuild_environment(data: dict[str, Any], out: Path) -> Environment | HostEnvironment:
    if data["make"] is None:
        raise UserError(
            f"{out} was trained on an environment of your own, {data['id']}; a run never imports "
            f"code by itself. Name it again: --env {data['id']} (Python: environment=…)."
        )
    if ":" in data["make"] and (data["host"] or not data["make"].startswith("gymnax:")):
        raise UserError(
            f"{out / 'run.json'} names '{data['make']}'; a run never imports code by itself. If "
            f"you trust it, name it yourself: --env {data['make']} (Python: environment=…)."
        )
    return resolve_environment(data["make"], settings_of(data))


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
        return cleaned(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from None


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
    number = data.get("format") if isinstance(data, dict) else None
    if isinstance(number, int) and number > FORMAT:
        raise UserError(
            f"{path} has format {number}, written by a later version of actorcritic; this "
            f"one reads up to {FORMAT}. Upgrade actorcritic to open it."
        )
    if number != FORMAT or not fits(data, _FORM):
        raise UserError(
            f"{path} is not what a training of actorcritic writes. Restore it from a copy, or "
            "start a new run in another folder."
        )
    return data


# What of run.json is read again; a type for every value that has to be there.
_FORM: dict[str, Any] = {
    "algorithm": {"name": str, "hyperparameters": dict, "own": list},
    "environment": {
        "id": str,
        "observation_space": dict,
        "action_space": dict,
        "max_episode_steps": int | None,
        "host": bool,
        "make": str | None,
        "options": dict,
    },
    "seeds": list,
    "total_steps": int,
}


def fits(data: Any, form: Any) -> bool:
    if not isinstance(form, dict):
        return isinstance(data, form)
    return isinstance(data, dict) and all(
        name in data and fits(data[name], part) for name, part in form.items()
    )


def resolve_environment(
    environment: Any, settings: EnvironmentSettings
) -> Environment | HostEnvironment:
    """The environment that an id, factory or object stands for."""
    host, options = settings.host, dict(settings.env_options or {})
    # A Gymnasium class or vector environment has attributes of the same names as a compiled one.
    gymnasiums = isinstance(environment, type | gymnasium.Env | gymnasium.vector.VectorEnv)
    if isinstance(environment, Environment | HostEnvironment) and not gymnasiums:
        return environment
    if isinstance(environment, str) and not host:
        compiled = compiled_environment(environment, **options)
        if compiled is not None and settings.info_metrics:
            raise UserError(
                f"The compiled {environment} gives no infos to keep. Step it through Gymnasium "
                "with host=True (--host), or leave info_metrics out."
            )
        if compiled is not None:
            return compiled
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


def check(algorithm: Any, world: Environment | HostEnvironment, total_steps: int) -> None:
    """Everything that can be wrong before the first step."""
    check_protocol(algorithm)
    hyperparameters.check(algorithm)
    spaces.check(world.spec)
    suited = algorithm.action_spaces
    if not isinstance(world.spec.action_space, suited):
        raise UserError(
            f"{algorithm.name} is for actions of {' or '.join(kind.__name__ for kind in suited)}; "
            f"{world.spec.id} has {world.spec.action_space}. {_others(world.spec)}"
        )
    collects = algorithm.collects
    if collects is None:
        raise UserError(
            f"{algorithm.name} learns from data and collects none by itself: its `collects` is "
            "None. Let it return Collects(num_envs, num_steps) to train it on an environment."
        )
    algorithm.check(world.spec)
    steps = 1 if collects.whole_episodes else collects.num_steps
    batch = collects.num_envs * steps
    if total_steps < batch:
        raise UserError(
            f"total_steps = {total_steps} is fewer than one update takes: num_envs × num_steps = "
            f"{collects.num_envs} × {steps} = {batch}. Raise it, or lower those."
        )
    if isinstance(world, HostEnvironment):
        world.check()
