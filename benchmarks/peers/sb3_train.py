"""Train with Stable-Baselines3, in its own virtual environment: `sb3_train.py {time,cli} CONFIG`.

CONFIG is a JSON object (see `speed.py`). `time` prints a JSON line with the steps per second of
a second call of `learn`, after one that warmed up; `cli` trains from scratch and prints nothing,
for a caller that takes the time of the whole process.
"""

import json
import sys
import time
from importlib.metadata import version
from typing import Any

import torch
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env


def build(config: dict[str, Any]) -> BaseAlgorithm:
    hyper = config["hyperparameters"]
    env = make_vec_env(config["environment"], n_envs=hyper["num_envs"], seed=config["seed"])

    def schedule(value: float, kind: str) -> Any:
        return (lambda remaining: value * remaining) if kind == "linear" else value

    common = {
        "n_steps": hyper["num_steps"],
        "learning_rate": schedule(
            hyper["learning_rate"], hyper.get("learning_rate_schedule", "constant")
        ),
        "gamma": hyper["gamma"],
        "gae_lambda": hyper["gae_lambda"],
        "ent_coef": hyper["entropy_coefficient"],
        "vf_coef": hyper["value_coefficient"],
        "max_grad_norm": hyper["max_grad_norm"],
        "seed": config["seed"],
        "device": "cpu",
    }
    if config["algorithm"] == "A2C":
        return A2C("MlpPolicy", env, **common)  # the rest are its defaults: RMSprop, 64x64 tanh
    return PPO(
        "MlpPolicy",
        env,
        n_epochs=hyper["num_epochs"],
        batch_size=hyper["num_envs"] * hyper["num_steps"] // hyper["num_minibatches"],
        clip_range=schedule(hyper["clip_range"], hyper["clip_range_schedule"]),
        **common,
    )


def main(mode: str, config: dict[str, Any]) -> None:
    if config["threads"]:
        torch.set_num_threads(config["threads"])
    model = build(config)
    if mode == "cli":
        model.learn(config["total_steps"])
        return
    model.learn(2000)  # rounded up to whole rollouts, as below
    start = time.perf_counter()
    model.learn(config["total_steps"])
    seconds = time.perf_counter() - start
    names = ("stable-baselines3", "torch", "gymnasium", "numpy", "mujoco")
    reply = {
        "steps_per_second": model.num_timesteps / seconds,
        "versions": {name: version(name) for name in names},
    }
    print(json.dumps(reply))


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
