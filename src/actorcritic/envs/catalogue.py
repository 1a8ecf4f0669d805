"""The compiled environments, by id."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from actorcritic.core.catalogue import Catalogue, Entry
from actorcritic.core.errors import UserError
from actorcritic.envs.options import check_options

if TYPE_CHECKING:
    from actorcritic.core.types import Environment

HERE = "actorcritic.envs"

COMPILED = Catalogue(
    "compiled environment",
    {
        "CartPole-v1": Entry(f"{HERE}.classic.cartpole:CartPole", "keep a pole upright on a cart"),
        "Acrobot-v1": Entry(f"{HERE}.classic.acrobot:Acrobot", "swing two links up by the joint"),
        "MountainCar-v0": Entry(
            f"{HERE}.classic.mountain_car:MountainCar", "roll back first to get up the hill"
        ),
        "MountainCarContinuous-v0": Entry(
            f"{HERE}.classic.mountain_car:MountainCarContinuous", "the same, with a throttle"
        ),
        "Pendulum-v1": Entry(f"{HERE}.classic.pendulum:Pendulum", "swing a pendulum up by torque"),
        "GridWorld-v0": Entry(f"{HERE}.grid_world:GridWorld", "walk to a goal, around walls"),
    },
)


def compiled_environment(id: str, **options: Any) -> Environment | None:
    """The compiled environment of this id, or None if there is none.

    Options are the environment's own fields, `compiled_environment("Pendulum-v1", gravity=0.0)`.
    The id `gymnax:NAME` is gymnax's environment NAME, and its options the fields of its EnvParams.
    """
    if id.startswith("gymnax:"):
        from actorcritic.envs.gymnax import from_gymnax

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
