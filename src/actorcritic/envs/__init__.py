"""Environments that run inside a JAX program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from actorcritic.core.types import Environment, UserError
from actorcritic.envs.as_gymnasium import AsGymnasium
from actorcritic.envs.classic.acrobot import Acrobot
from actorcritic.envs.classic.cartpole import CartPole
from actorcritic.envs.classic.mountain_car import MountainCar, MountainCarContinuous
from actorcritic.envs.classic.pendulum import Pendulum
from actorcritic.envs.grid_world import GridWorld
from actorcritic.envs.gymnax import from_gymnax
from actorcritic.envs.options import check_options

__all__ = [
    "COMPILED",
    "Acrobot",
    "AsGymnasium",
    "CartPole",
    "GridWorld",
    "MountainCar",
    "MountainCarContinuous",
    "Pendulum",
    "compiled_environment",
    "from_gymnax",
]

COMPILED: dict[str, Callable[..., Environment]] = {
    "CartPole-v1": CartPole,
    "Acrobot-v1": Acrobot,
    "MountainCar-v0": MountainCar,
    "MountainCarContinuous-v0": MountainCarContinuous,
    "Pendulum-v1": Pendulum,
    "GridWorld-v0": GridWorld,
}


def compiled_environment(id: str, **options: Any) -> Environment | None:
    """The compiled environment of this id, or None if there is none.

    Options are the environment's own fields, `compiled_environment("Pendulum-v1", gravity=0.0)`.
    The id `gymnax:NAME` is gymnax's environment NAME, and its options the fields of its EnvParams.
    """
    if id.startswith("gymnax:"):
        return from_gymnax(id.removeprefix("gymnax:"), **options)
    if id not in COMPILED:
        return None
    environment = COMPILED[id]
    known = {field.name: field.type for field in fields(environment)}  # type: ignore[arg-type]
    check_options(id, options, known)
    return environment(**{k: _checked(f"{id}: {k}", known[k], v) for k, v in options.items()})


KINDS = {float: "a number", int: "a whole number", int | None: "a whole number or None"}


def _checked(name: str, kind: Any, value: Any) -> Any:
    """The value of an option, as the environment wants it; JSON knows neither 1.0 nor tuples."""
    if kind is float and type(value) is int:
        return float(value)
    if kind in KINDS and (isinstance(value, bool) or not isinstance(value, kind)):
        raise UserError(f"{name} must be {KINDS[kind]}, not {value!r}.")
    return _as_tuple(value)


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value
