"""Watch a policy: in a window where there is a screen, as a GIF elsewhere."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import jax
import numpy as np

from actorcritic.core import files
from actorcritic.core.errors import UserError
from actorcritic.core.types import Environment
from actorcritic.envs import (
    Acrobot,
    AsGymnasium,
    CartPole,
    MountainCar,
    MountainCarContinuous,
    Pendulum,
)
from actorcritic.runners.evaluate import MAX_STEPS, Policy
from actorcritic.runs.run import Run

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
) -> str:
    """Play episodes of a run's policy; returns a sentence on what was seen and where it is.

    Without `out`, a window opens where there is a screen; else a GIF is written to the run's
    folder. Raises UserError where the environment cannot draw itself.
    """
    if episodes < 1:
        raise UserError(f"play needs at least one episode; got {episodes}.")
    policy = run.policy(seed)
    window = out is None and _has_screen()
    if out is None and not window:
        if run.out is None:
            raise UserError("There is no screen; say where to write the clip: out='clip.gif'.")
        out = run.out / "play.gif"
    if out is not None and Path(out).suffix.lower() != ".gif":
        raise UserError(f"play writes GIF files; got {out}. Name it {Path(out).stem}.gif.")

    if not _has_screen():  # or pygame complains of it
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    view = _viewer(run, "human" if window else "rgb_array")
    frames: list[np.ndarray] = []
    returns = []
    try:
        for episode in range(episodes):
            episode_return = 0.0
            for frame, reward in _episode(view, policy, episode, deterministic):
                episode_return += reward
                if frame is not None:
                    frames.append(frame)
            returns.append(episode_return)
        rate = float(view.metadata.get("render_fps") or 30)
    finally:
        view.close()
    seen = f"return {', '.join(f'{r:.1f}' for r in returns)}"
    if window:
        return f"Played {episodes} episode(s): {seen}."
    assert out is not None
    if not frames:
        raise UserError(f"{run.spec.id} gave no picture in render mode 'rgb_array'.")
    _write_gif(Path(out), frames, rate)
    return f"Wrote {out} ({episodes} episode(s), {seen})."


def _has_screen() -> bool:
    return sys.platform in ("win32", "darwin") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )


def _viewer(run: Run, mode: str) -> Any:
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


def _episode(
    view: Any, policy: Policy, seed: int, deterministic: bool
) -> Iterator[tuple[np.ndarray | None, float]]:
    observation, _ = view.reset(seed=seed)
    yield view.render(), 0.0
    for _ in range(MAX_STEPS):
        observation = jax.tree.map(np.asarray, observation)
        action = policy(observation, deterministic=deterministic)
        observation, reward, terminated, truncated, _ = view.step(action)
        yield view.render(), float(reward)
        if terminated or truncated:
            return


def _write_gif(path: Path, frames: list[np.ndarray], rate: float) -> None:
    from PIL import Image

    # A GIF's clock ticks in 1/100 s and viewers slow down below 2 ticks: drop frames instead.
    keep = max(1, round(rate / 30))
    pictures = [Image.fromarray(np.asarray(frame, np.uint8)) for frame in frames[::keep]]
    pictures = [p.convert("P", palette=Image.Palette.ADAPTIVE, colors=64) for p in pictures]
    clip = io.BytesIO()
    pictures[0].save(
        clip,
        format="GIF",
        save_all=True,
        append_images=pictures[1:],
        loop=0,
        duration=max(20, round(1000 * keep / rate / 10) * 10),
    )
    files.make_folder(path.parent)
    files.write(path, clip.getvalue())
