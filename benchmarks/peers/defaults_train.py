"""What a peer's defaults reach: `defaults_train.py {sb3,cleanrl,random} CONFIG`.

In the peers' own virtual environment. CONFIG is a JSON object (see `defaults.py`). Prints a JSON
line with the returns of deterministic episodes, a list for each seed.
"""

import json
import os
import runpy
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

FIRST_SEED = 10_000  # of the episodes of an evaluation
MAKE, TRANSFORM = gymnasium.make, gymnasium.wrappers.TransformObservation


def evaluated(
    make: Callable[[], gymnasium.Env], act: Callable[[Any], Any], config: dict[str, Any]
) -> list[float]:
    """Returns of whole episodes, each of an environment of its own, side by side."""
    envs = [make() for _ in range(config["episodes"])]
    seen = [env.reset(seed=FIRST_SEED + k)[0] for k, env in enumerate(envs)]
    returns = np.zeros(len(envs))
    open_ = list(range(len(envs)))
    for _ in range(config["longest"]):
        actions = act(np.stack([seen[k] for k in open_]))
        ended = set()
        for k, action in zip(open_, actions, strict=True):
            seen[k], reward, terminated, truncated, _ = envs[k].step(action)
            returns[k] += float(reward)
            if terminated or truncated:
                ended.add(k)
        open_ = [k for k in open_ if k not in ended]
        if not open_:
            break
    for env in envs:
        env.close()
    return returns.tolist()


def sb3(config: dict[str, Any], seed: int) -> list[float]:
    import stable_baselines3

    env = gymnasium.make(config["environment"])
    space = env.observation_space
    # Tuples, which it does not take, as vectors.
    if isinstance(space, gymnasium.spaces.Tuple):
        env = gymnasium.wrappers.FlattenObservation(env)
    image = isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 3
    kind = getattr(stable_baselines3, config["algorithm"].upper())
    model = kind("CnnPolicy" if image else "MlpPolicy", env, seed=seed, device="cpu")
    model.learn(config["total_steps"])

    def make() -> gymnasium.Env:
        env = gymnasium.make(config["environment"])
        return gymnasium.wrappers.FlattenObservation(env) if space.shape is None else env

    return evaluated(make, lambda x: model.predict(x, deterministic=True)[0], config)


class SameStep(gymnasium.vector.SyncVectorEnv):
    """Environments side by side as CleanRL's scripts know them, from Gymnasium before 1.0."""

    def __init__(self, makers: Any) -> None:
        super().__init__(makers, autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP)

    def step(self, actions: Any) -> Any:
        *row, infos = super().step(actions)
        last = infos.get("final_obs")
        return *row, {} if last is None else {"final_observation": last}


def flat(make: Any) -> Any:
    """`gymnasium.make`, with observations as vectors, where they are none."""

    def made(*args: Any, **options: Any) -> gymnasium.Env:
        env = make(*args, **options)
        box = isinstance(env.observation_space, gymnasium.spaces.Box)
        return env if box else gymnasium.wrappers.FlattenObservation(env)

    return made


def cleanrl(config: dict[str, Any], seed: int) -> list[float]:
    """A script of the checkout as it stands; around it, what Gymnasium has changed since."""
    import torch

    checkout = Path(config["cleanrl"])
    make = flat(MAKE)
    continuous = isinstance(make(config["environment"]).action_space, gymnasium.spaces.Box)
    names = {
        "ppo": "ppo_continuous_action" if continuous else "ppo",
        "sac": "sac_continuous_action",
    }
    script = checkout / "cleanrl" / f"{names[config['algorithm']]}.py"
    vars(gymnasium)["make"] = make
    vars(gymnasium.vector)["SyncVectorEnv"] = SameStep
    vars(gymnasium.wrappers)["TransformObservation"] = lambda env, f: TRANSFORM(
        env, f, env.observation_space
    )
    words = ["--env-id", config["environment"], "--seed", seed, "--total-timesteps"]
    sys.argv = [script.name, *map(str, words), str(config["total_steps"]), "--no-cuda"]
    sys.path.insert(0, str(checkout))
    here, output = Path.cwd(), sys.stdout
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nothing:
        os.chdir(folder)
        sys.stdout = nothing
        try:
            made = runpy.run_path(str(script), run_name="__main__")
        finally:
            sys.stdout = output
            os.chdir(here)

    def act(x: Any) -> Any:
        x = torch.as_tensor(normal(x), dtype=torch.float32)
        with torch.no_grad():
            if config["algorithm"] == "sac":
                return made["actor"].get_action(x)[2].numpy()
            if not continuous:
                return made["agent"].actor(x).argmax(-1).numpy()
            return np.clip(made["agent"].actor_mean(x).numpy(), space.low, space.high)

    space = made["envs"].single_action_space
    normal = normalisation(made["envs"].envs[0])
    return evaluated(lambda: make(config["environment"]), act, config)


def normalisation(env: Any) -> Callable[[Any], Any]:
    """What the environment's wrapper does to observations, by the statistics it has now."""
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, gymnasium.wrappers.NormalizeObservation):
            known = env.obs_rms
            return lambda x: np.clip((x - known.mean) / np.sqrt(known.var + 1e-8), -10, 10)
        env = env.env
    return lambda x: x


def random(config: dict[str, Any], seed: int) -> list[float]:
    """The uniformly random policy, to see by how much others are better."""
    make = flat(gymnasium.make)
    space = make(config["environment"]).action_space
    space.seed(seed)
    return evaluated(
        lambda: make(config["environment"]), lambda x: [space.sample() for _ in x], config
    )


def main(peer: str, config: dict[str, Any]) -> None:
    if peer != "random":
        import torch

        torch.set_num_threads(1)
    measure = {"sb3": sb3, "cleanrl": cleanrl, "random": random}[peer]
    reply = {
        "returns": [measure(config, seed) for seed in config["seeds"]],
        "versions": {name: version(name) for name in ("stable-baselines3", "torch", "gymnasium")},
    }
    print(json.dumps(reply))


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
