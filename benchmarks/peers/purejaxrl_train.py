"""Train PPO with PureJaxRL, in its own virtual environment: `purejaxrl_train.py CHECKOUT CONFIG`.

CONFIG is a JSON object (see `speed.py`). Compiles the whole training, runs it once to warm up,
and prints a JSON line with the steps per second of a second run.
"""

import hashlib
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any


def import_ppo(checkout: Path) -> Any:
    """The checkout's ppo.py. Its wrappers import Brax and NAVIX, which CartPole does not need."""
    for name in ("brax", "brax.envs", "brax.envs.wrappers", "brax.envs.wrappers.training", "navix"):
        sys.modules[name] = ModuleType(name)
    vars(sys.modules["brax"])["envs"] = sys.modules["brax.envs"]
    for name in ("EpisodeWrapper", "AutoResetWrapper"):
        vars(sys.modules["brax.envs.wrappers.training"])[name] = object
    sys.path.insert(0, str(checkout / "purejaxrl"))
    import ppo

    return ppo


def main(checkout: Path, config: dict[str, Any]) -> None:
    ppo = import_ppo(checkout)
    import jax

    hyper = config["hyperparameters"]
    settings = {
        "LR": hyper["learning_rate"],
        "NUM_ENVS": hyper["num_envs"],
        "NUM_STEPS": hyper["num_steps"],
        "TOTAL_TIMESTEPS": config["total_steps"],
        "UPDATE_EPOCHS": hyper["num_epochs"],
        "NUM_MINIBATCHES": hyper["num_minibatches"],
        "GAMMA": hyper["gamma"],
        "GAE_LAMBDA": hyper["gae_lambda"],
        "CLIP_EPS": hyper["clip_range"],
        "ENT_COEF": hyper["entropy_coefficient"],
        "VF_COEF": hyper["value_coefficient"],
        "MAX_GRAD_NORM": hyper["max_grad_norm"],
        "ACTIVATION": hyper.get("activation", "tanh"),
        "ENV_NAME": config["environment"].removeprefix("gymnax:"),
        "ANNEAL_LR": hyper["learning_rate_schedule"] == "linear",
        "DEBUG": False,
    }
    key = jax.random.PRNGKey(config["seed"])
    train = jax.jit(ppo.make_train(settings)).lower(key).compile()
    jax.block_until_ready(train(key))
    start = time.perf_counter()
    jax.block_until_ready(train(key))
    seconds = time.perf_counter() - start
    steps = settings["NUM_UPDATES"] * settings["NUM_ENVS"] * settings["NUM_STEPS"]
    versions = {name: version(name) for name in ("jax", "jaxlib", "flax", "distrax", "gymnax")}
    versions["ppo.py"] = "sha256:" + hashlib.sha256(Path(ppo.__file__).read_bytes()).hexdigest()
    print(json.dumps({"steps_per_second": steps / seconds, "versions": versions}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
