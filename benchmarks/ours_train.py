"""Train with this library: `ours_train.py CONFIG` prints a JSON line, as the peers' scripts do.

CONFIG is a JSON object (see `speed.py`). `Run.steps_per_second` leaves out compilation, and
counts the steps of all seeds.
"""

import json
import sys
from importlib.metadata import version
from typing import Any

import actorcritic as ac
from actorcritic.algorithms import ALGORITHMS


def main(config: dict[str, Any]) -> None:
    hyperparameters = config["hyperparameters"]
    if "hidden_sizes" in hyperparameters:  # JSON knows no tuples
        hyperparameters["hidden_sizes"] = tuple(hyperparameters["hidden_sizes"])
    algorithm = ALGORITHMS[config["algorithm"].lower()](**hyperparameters)
    run = ac.train(
        algorithm,
        config["environment"],
        total_steps=config["total_steps"],
        seeds=config["seeds"],
        seed=config["seed"],
        host=config["host"],
        out=None,
        evaluation_episodes=0,
        quiet=True,
    )
    names = ("actorcritic", "jax", "jaxlib", "gymnasium", "numpy")
    reply = {
        "steps_per_second": run.steps_per_second,
        "versions": {name: version(name) for name in names},
    }
    print(json.dumps(reply))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
