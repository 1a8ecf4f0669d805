"""Whole files: a training script is run in environments that tell every step, and recorded.

`gymnasium.make` gives an environment with the spaces that were asked for, whose observations are
random vectors, none twice; its episodes are short, and end by termination or by a time limit. After
a few steps of an optimiser the run is stopped.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import inspect
import sys
import tempfile
import time
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from actorcritic import audit
from actorcritic.audit import calling
from actorcritic.audit.agents import classes as agents
from actorcritic.audit.agents import soft
from actorcritic.audit.agents.judge import Judge
from actorcritic.audit.agents.tape import Enough, Tape, Transition, lightly
from actorcritic.audit.findings import CannotCall, Report, Reports

SECONDS, MOST = 30.0, 48  # of processor time of a run, and steps of its optimisers
LENGTHS = (7, 4, 9, 5, 3)  # of episodes, over and over
CHANGING = (  # wrappers that are left out: observations must be those that the environment gave
    *("NormalizeObservation", "NormalizeReward", "TransformObservation", "TransformReward"),
    *("RecordVideo", "ClipAction", "RecordEpisodeStatistics"),
)


class Recorded:
    """What makes environments, and the tape that they write to."""

    def __init__(self, old: bool) -> None:
        import gymnasium

        self.old = old  # written for Gym before 0.26: step gives four things, reset one
        self.original = gymnasium.make
        self.tape: Tape | None = None
        self.stack = contextlib.ExitStack()
        self.count, self.started = 0, time.process_time()

    def make(self, name: Any, *_: Any, **__: Any) -> Any:
        import gymnasium

        real = self._real(name) if isinstance(name, str) else name
        observed, acted = real.observation_space, real.action_space
        if self.tape is None:
            choices = int(acted.n) if isinstance(acted, gymnasium.spaces.Discrete) else None
            self.tape = Tape(observed.shape[-1], choices, MOST, soft.weigh)
            self.stack.enter_context(self.tape.running())
        made = _environment(self, self.tape, observed, acted)
        made.spec = real.spec
        real.close()
        return made

    def _real(self, name: str) -> Any:
        """The environment of that name; of a version that is gone, the latest that there is."""
        import gymnasium

        base = name.rpartition("-v")[0]
        later = [known for known in gymnasium.registry if known.rpartition("-v")[0] == base]
        for tried in (name, *sorted(later, reverse=True)):
            with contextlib.suppress(Exception):
                return self.original(tried)
        return self.original(name)  # which says what is wrong

    @contextlib.contextmanager
    def patched(self) -> Iterator[None]:
        """`gymnasium.make` gives these, and the tape runs from the first of them on."""
        import gymnasium
        from gymnasium import vector, wrappers

        side = vector.SyncVectorEnv

        class Side(side):  # type: ignore[valid-type, misc]
            """With the last observations under their old name, too."""

            def step(self, actions: Any) -> Any:
                *parts, infos = super().step(actions)
                if "final_obs" in infos:
                    infos = infos | {"final_observation": infos["final_obs"]}
                return *parts, infos

        def same_step(env_fns: Any, *args: Any, **named: Any) -> Any:
            mode = vector.AutoresetMode.SAME_STEP  # as it was when most scripts were written
            return Side(env_fns, *args, **({"autoreset_mode": mode} | named))

        with self.stack:
            for owner, name, stand_in in (
                (gymnasium, "make", self.make),
                (vector, "SyncVectorEnv", same_step),
                *((wrappers, name, lambda env, *_, **__: env) for name in CHANGING),
            ):
                self.stack.enter_context(mock.patch.object(owner, name, stand_in))
            self.stack.enter_context(_modules(_stand_ins()))
            yield


@contextlib.contextmanager
def _modules(stand_ins: dict[str, Any]) -> Iterator[None]:
    """Under their names; what is imported meanwhile stays imported."""
    before = {name: sys.modules.get(name) for name in stand_ins}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name, module in before.items():
            sys.modules.pop(name, None)
            sys.modules.update({} if module is None else {name: module})


def _stand_ins() -> dict[str, Any]:
    """For what only records training, and for the old name of Gymnasium, where they are missing."""
    import gymnasium

    found: dict[str, Any] = {}
    if importlib.util.find_spec("gym") is None:
        below = {n: m for n, m in sys.modules.items() if n.startswith("gymnasium.")}
        found |= {f"gym.{n.partition('.')[2]}": m for n, m in below.items()} | {"gym": gymnasium}
    for name in ("wandb", "tensorboard", "torch.utils.tensorboard", "tensorboardX"):
        if "." in name or importlib.util.find_spec(name) is None:
            found[name] = mock.MagicMock()
    return found


def _environment(recorded: Recorded, tape: Tape, observed: Any, acted: Any) -> Any:
    import gymnasium

    class Environment(gymnasium.Env):
        """Random observations and rewards; every step is written down."""

        observation_space, action_space = observed, acted
        metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

        def __init__(self) -> None:
            self.number = self.episode = recorded.count
            recorded.count += 1
            self.rng = np.random.default_rng(self.number)
            self.time = self.state = 0

        def _observe(self) -> np.ndarray:
            row = self.rng.normal(size=observed.shape).astype(observed.dtype)
            self.state = tape.state(row)
            return np.asarray(row)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            super().reset(seed=seed)
            self.episode, self.time = self.episode + 1, 0
            row = self._observe()
            return row if recorded.old else (row, {})

        def seed(self, seed: int | None = None) -> None:
            self.rng = np.random.default_rng(seed)

        def step(self, action: Any) -> Any:
            if time.process_time() - recorded.started > SECONDS:
                raise Enough
            before, reward = self.state, float(self.rng.normal(0.5, 2.0))
            self.time += 1
            row = self._observe()
            ended = self.time >= LENGTHS[self.episode % len(LENGTHS)]
            by_limit = ended and self.episode % 2 == 1
            terminated = ended and not by_limit
            tape.step(
                Transition(
                    before, np.array(action), reward, self.state, terminated, by_limit, self.number
                )
            )
            if recorded.old:
                return row, reward, ended, {"TimeLimit.truncated": by_limit}
            return row, reward, terminated, by_limit, {}

        def render(self) -> None:
            return None

    return Environment()


def _run(path: Path) -> tuple[Any, Tape | None, str]:
    """A file, run as a program: what it defined, what was recorded, and how it failed."""
    name = f"_audited_{path.stem}"
    module = sys.modules[name] = types.ModuleType("__main__")
    module.__file__ = str(path)
    text = path.read_text(encoding="utf-8")
    recorded, error = Recorded(_of_old_gym(ast.parse(text))), ""
    with (
        tempfile.TemporaryDirectory(prefix="actorcritic-audit-") as scratch,
        mock.patch.object(sys, "argv", [str(path)]),
        mock.patch.object(sys, "path", [str(path.parent), *sys.path]),
        _modules({"__main__": module}),
        contextlib.chdir(scratch),
        lightly(importlib.import_module("torch")),
        calling.quiet(),
        recorded.patched(),
    ):
        try:
            exec(compile(text, str(path), "exec"), vars(module))
        except Enough:
            pass
        except (Exception, SystemExit) as raised:
            error = calling.one_line(raised)
    module.__name__ = name
    for value in vars(module).values():
        if getattr(value, "__module__", "") == "__main__":
            with contextlib.suppress(AttributeError):
                value.__module__ = name
    return module, recorded.tape, error


def _of_old_gym(tree: ast.AST) -> bool:
    """Whether what `step` gives is taken apart into four."""
    return any(
        isinstance(n, ast.Assign)
        and isinstance(n.targets[0], ast.Tuple)
        and len(n.targets[0].elts) == 4
        and isinstance(n.value, ast.Call)
        and getattr(n.value.func, "attr", "") == "step"
        for n in ast.walk(tree)
    )


def _is_script(path: Path) -> bool:
    """Whether running the file trains something: it makes an environment and an optimiser."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {getattr(n, "attr", getattr(n, "id", "")) for n in ast.walk(tree)}
    top = any(isinstance(n, (ast.For, ast.While, ast.If)) for n in tree.body)
    return top and {"make", "backward"} <= names


def _report(name: str, module: Any, tape: Tape) -> Report:
    """Of what was recorded. Actions are those that were drawn, or else those that were taken."""
    numbers, judges = agents.numbers_in(module), []
    normal = any(policy.means is not None for policy in tape.policies)
    for drawn in (True, False) if normal else (False,):
        judges.append(Judge(tape=tape, numbers=numbers, drawn=drawn))
        soft.judge(judges[-1])
        if not judges[-1].found:
            break
    called = (
        f"PyTorch, run as a program: {len(tape.transitions)} steps of an environment, "
        f"{len(tape.events)} backwards"
    )
    return agents.concluded(min(judges, key=lambda j: len(j.found)), name, "script", called)


def reports(place: Path) -> Reports:
    """Of a file, or of every file of a folder in which something is recognised."""
    if not place.is_dir():
        found, left = _of_file(place)
        return Reports(place.name, tuple(found), tuple(left))
    every: list[Report] = []
    left = []
    for path in sorted(place.rglob("*.py")):
        where = str(path.relative_to(place))
        with contextlib.suppress(CannotCall):
            found, missed = _of_file(path)
            every += [replace(r, subject=f"{where}: {r.subject}") for r in found]
            left += [f"{where}: {text}" for text in missed]
    if not every:
        raise CannotCall(f"In the files of {place} nothing is recognised. Name a function.")
    return Reports(str(place), tuple(every), tuple(left))


def _of_file(path: Path) -> tuple[list[Report], list[str]]:
    """A file as a program, its classes, its functions; and what could not be called."""
    path = path.expanduser().resolve()
    if not path.is_file():
        raise CannotCall(f"There is no file {path}.")
    found: list[Report] = []
    left: list[str] = []
    if _is_script(path):
        module, tape, error = _run(path)
        if tape is not None and tape.events:
            with contextlib.suppress(CannotCall):
                found.append(_report(path.name, module, tape))
        if error and not found:
            left.append(f"{path.name} as a program: {error}")
    else:
        module = calling.load_module(str(path))
    for name, value in list(vars(module).items()):
        if getattr(value, "__module__", None) != module.__name__ or name.startswith("_"):
            continue
        if not (inspect.isfunction(value) or agents.is_agent(value)):
            continue
        try:
            kind = audit.guess(value)
        except CannotCall:
            continue
        if kind == "rollout" or (found and kind == "network"):
            continue  # a program's own rows are judged where it is run
        try:
            found.append(audit.of(value, kind))
        except CannotCall as error:
            left.append(str(error).partition(". ")[0])
    if not found and not left:
        raise CannotCall(
            f"In {path.name} nothing is recognised: no training script, no class that learns, and "
            "no function of a known kind. Name one, as FILE.py:FUNCTION, with --kind."
        )
    return found, left
