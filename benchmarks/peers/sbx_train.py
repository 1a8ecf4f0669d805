"""Train SAC with SBX, in its own virtual environment: `sbx_train.py CONFIG`.

CONFIG is a JSON object (see `speed.py`). Prints a JSON line with the steps per second of a second
call of `learn`, after one that compiled and warmed up.
"""

import json
import sys
import time
from importlib.metadata import version
from typing import Any

from sbx import SAC


def main(config: dict[str, Any]) -> None:
    hyper = config["hyperparameters"]
    model = SAC(
        "MlpPolicy",
        config["environment"],
        learning_rate=hyper["learning_rate"],
        qf_learning_rate=hyper["critic_learning_rate"],
        buffer_size=hyper["buffer_size"],
        learning_starts=hyper["learning_starts"],
        batch_size=hyper["batch_size"],
        tau=hyper["tau"],
        gamma=hyper["gamma"],
        train_freq=hyper["num_steps"],
        gradient_steps=hyper["gradient_steps"],
        policy_kwargs={"net_arch": hyper["hidden_sizes"]},
        seed=config["seed"],
    )
    model.learn(1000)
    start = time.perf_counter()
    model.learn(config["total_steps"], reset_num_timesteps=False)
    seconds = time.perf_counter() - start
    names = ("sbx-rl", "jax", "jaxlib", "flax", "stable-baselines3", "gymnasium", "numpy")
    reply = {
        "steps_per_second": config["total_steps"] / seconds,
        "versions": {name: version(name) for name in names},
    }
    print(json.dumps(reply))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
