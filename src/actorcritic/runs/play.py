"""Watch a policy: in a window where there is a screen, as a GIF or MP4 elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import jax
import numpy as np

from actorcritic.core.errors import UserError
from actorcritic.core.types import Environment
from actorcritic.envs import (
    Acrobot,
    AsGymnasium,
    CartPole,
    MountainCar,
    MountainCarContinuous,
    Pendulum,
    columns,
)
from actorcritic.runners.evaluate import MAX_STEPS, Policy
from actorcritic.runs import clips
from actorcritic.runs.configuration import SpacesOnly
from actorcritic.runs.console import working
from actorcritic.runs.run import Run, Which

MOST_NUMBERS = 6  # of an action, in a caption

# Gymnasium draws the classic-control environments; it is handed the state that ours is in.
STATES: dict[type, Callable[[Any], Any]] = {
    CartPole: lambda s: np.asarray(s.vector, np.float64),
    MountainCar: lambda s: np.asarray(s.vector, np.float64),
    MountainCarContinuous: lambda s: np.asarray(s.vector, np.float64),
    Acrobot: lambda s: np.asarray([s.theta1, s.theta2, s.theta1_dot, s.theta2_dot], np.float64),
    Pendulum: lambda s: np.asarray([s.theta, s.theta_dot], np.float64),
}


def play(
    run: Run,
    *,
    out: str | Path | None = None,
    seed: int | None = None,
    episodes: int = 1,
    deterministic: bool = True,
    which: Which = "last",
) -> str:
    """Play episodes of a run's policy; returns a sentence on what was seen and where it is.

    Without `out`, a window opens where there is a screen; else a GIF is written to the run's
    folder. `out` ends in .gif or .mp4; what is written has the step, the return and the action
    below each frame. Raises UserError where the environment cannot draw itself.
    """
    if episodes < 1:
        raise UserError(f"play needs at least one episode; got {episodes}.")
    window = out is None and _has_screen()
    if out is None and not window:
        if run.out is None:
            raise UserError("There is no screen; say where to write the clip: out='clip.gif'.")
        out = run.out / "play.gif"
    if out is not None:
        clips.check(Path(out))
    policy = run.policy(seed, which=which)

    if not _has_screen():  # or pygame complains of it
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    returns = [0.0] * episodes
    with working(f"Playing {run.label}") as say:
        view = _viewer(run, "human" if window else "rgb_array")

        def watched() -> Iterator[Moment]:
            for episode in range(episodes):
                for moment in _episode(view, policy, episode, deterministic):
                    returns[episode] = moment.episode_return
                    say(", ".join(moment.said(episode)))
                    yield moment

        def frames() -> Iterator[np.ndarray]:
            for moment in watched():
                if moment.frame is None:
                    raise UserError(f"{run.spec.id} gave no picture in render mode 'rgb_array'.")
                yield clips.captioned(moment.frame, moment.caption)

        try:
            if window:
                for _ in watched():
                    pass
            else:
                assert out is not None
                clips.write(Path(out), frames(), float(view.metadata.get("render_fps") or 30))
        finally:
            view.close()
    seen = f"return {', '.join(f'{r:.1f}' for r in returns)}"
    if window:
        return f"Played {episodes} episode(s): {seen}."
    return f"Wrote {out} ({episodes} episode(s), {seen})."


class Moment(NamedTuple):
    """What is seen after so many steps of an episode."""

    frame: np.ndarray | None
    step: int
    episode_return: float
    action: Any = None  # that led here; None at the start

    def said(self, episode: int) -> tuple[str, ...]:
        return f"episode {episode + 1}", f"step {self.step}", f"return {self.episode_return:.1f}"

    @property
    def caption(self) -> tuple[str, str]:
        """Two lines below the frame."""
        first = f"step {self.step}    return {self.episode_return:.1f}"
        if self.action is None:
            return first, ""
        numbers = [f"{x:.2f}" if x % 1 else f"{x:g}" for x in np.ravel(self.action).tolist()]
        more = " …" if len(numbers) > MOST_NUMBERS else ""
        return first, f"action {' '.join(numbers[:MOST_NUMBERS])}{more}"


def _has_screen() -> bool:
    return sys.platform in ("win32", "darwin") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )


def _viewer(run: Run, mode: str) -> Any:
    if isinstance(run.environment, SpacesOnly):
        raise UserError(
            f"{run.name} learned from data alone, and has no environment to play in. Name one: "
            "--env (Python: open_run(…, environment=…))."
        )
    if not isinstance(run.environment, Environment):
        return run.environment.make_single(render_mode=mode)
    kind = type(run.environment)
    if kind in STATES:
        return _Classic(run.environment, mode)
    if not hasattr(run.environment, "render"):
        raise UserError(f"{run.spec.id} cannot be drawn: it has no render method.")
    return AsGymnasium(run.environment, render_mode="rgb_array")


class _Classic(AsGymnasium):
    """A compiled classic-control environment, drawn by Gymnasium's own of the same name."""

    def __init__(self, environment: Environment, mode: str) -> None:
        super().__init__(environment)
        try:
            self._artist: Any = gymnasium.make(environment.spec.id, render_mode=mode).unwrapped
            self._artist.reset()
            self._artist.render()
        except gymnasium.error.DependencyNotInstalled as error:
            raise UserError(
                f"Drawing {environment.spec.id} needs pygame. "
                'Install it: pip install "actorcritic[classic]"'
            ) from error
        self.metadata = self._artist.metadata

    def step(self, action: Any) -> Any:
        self._artist.last_u = float(np.ravel(action)[0])  # the pendulum draws its torque
        return super().step(action)

    def render(self) -> np.ndarray | None:
        self._artist.state = STATES[type(self.environment)](self._state)
        return self._artist.render()

    def close(self) -> None:
        self._artist.close()


def _episode(view: Any, policy: Policy, seed: int, deterministic: bool) -> Iterator[Moment]:
    observation, _ = view.reset(seed=seed)
    yield Moment(view.render(), 0, 0.0)
    total = 0.0
    agents, team = policy.spec.agents, list(policy.spec.first_team)
    for step in range(1, MAX_STEPS + 1):
        observation = jax.tree.map(np.asarray, observation)
        seen = observation[columns.COLUMNS] if agents else observation
        action = policy(seen, deterministic=deterministic)
        observation, reward, terminated, truncated, _ = view.step(action)
        total += float(observation[columns.REWARD][team].mean() if agents else reward)
        yield Moment(view.render(), step, total, action)
        if terminated or truncated:
            return
