"""The compiled environments, by id."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, get_type_hints

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
        "routing": Entry(f"{HERE}.routing:Routing", "customers' requests: answer, ask or escalate"),
        "simple-spread": Entry(
            f"{HERE}.particles:SimpleSpread", "2 to 6 agents cover as many landmarks"
        ),
        "simple-speaker-listener": Entry(
            f"{HERE}.particles:SimpleSpeakerListener", "one agent tells another where to go"
        ),
        "simple-tag": Entry(f"{HERE}.particles:SimpleTag", "two teams: three chase one"),
    },
)


def compiled_environment(environment: Any, **options: Any) -> Environment | None:
    """The compiled environment that this stands for, or None where it is one of the host.

    It is an id of ours, `gymnax:NAME`, a class of the user's or `module:Class`, or an object.
    Options are the environment's own fields, `compiled_environment("Pendulum-v1", gravity=0.0)`,
    or of gymnax those of its EnvParams.
    """
    if isinstance(environment, str):
        if environment.startswith("gymnax:"):
            from actorcritic.envs.gymnax import from_gymnax

            return from_gymnax(environment.removeprefix("gymnax:"), **options)
        if environment in COMPILED:
            return _made(environment, COMPILED[environment], options)
        if ":" not in environment or environment.startswith("pettingzoo:"):
            return None
    from actorcritic.envs.compiled import compiled_class

    found = compiled_class(environment)
    if isinstance(found, type):
        return _made(found.__name__, found, options)
    if found is not None and options:
        raise UserError(
            f"The options {options} came with an environment that is made already; give them to "
            "its class instead."
        )
    return found


def _made(name: str, cls: Any, options: dict[str, Any]) -> Any:
    try:
        kinds = get_type_hints(cls)
    except NameError:  # types that are imported for checkers only
        kinds = {}
    known = {f.name: kinds.get(f.name, f.type) for f in fields(cls)} if is_dataclass(cls) else {}
    check_options(name, options, known)
    given = {k: _checked(f"{name}: {k}", known[k], v) for k, v in options.items()}
    try:
        return cls(**given)
    except TypeError as error:
        raise UserError(
            f"{name} could not be made: {error}. Give each field a default, or name it as an "
            "option."
        ) from error


KINDS = {float: "a number", int: "a whole number", int | None: "a whole number or None"}


def _checked(name: str, kind: Any, value: Any) -> Any:
    """The value of an option, as the environment wants it; JSON knows neither 1.0 nor tuples."""
    if kind is float and type(value) is int:
        return float(value)
    if kind in KINDS and (isinstance(value, bool) or not isinstance(value, kind)):
        raise UserError(f"{name} must be {KINDS[kind]}, not {value!r}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{name} must be finite, not {value!r}.")
    return _as_tuple(value)


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value
