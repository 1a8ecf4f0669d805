"""Train IPPO with JaxMARL, in an environment of its own: `jaxmarl_train.py CHECKOUT CONFIG`.

It is simple_spread with three agents. CHECKOUT is a clone of its repository; the script that is
timed is its baselines/IPPO/ippo_ff_mpe.py as it is, but for what it sends to a server. CONFIG is a
JSON object with its settings. Runs once to compile, and prints a JSON line with the steps per
second of a second run.
"""

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any


def main(checkout: Path, config: dict[str, Any]) -> None:
    for name in ("wandb", "hydra"):  # one sends what it is told away, the other reads files
        sys.modules[name] = ModuleType(name)
    vars(sys.modules["wandb"])["log"] = lambda *_: None
    vars(sys.modules["hydra"])["main"] = lambda **_: lambda function: function
    sys.path.insert(0, str(checkout / "baselines" / "IPPO"))
    import ippo_ff_mpe
    import jax

    jax.experimental.io_callback = lambda *_: None  # it would wait for the host at every update
    train = jax.jit(ippo_ff_mpe.make_train(dict(config)))
    jax.block_until_ready(train(jax.random.PRNGKey(0)))
    start = time.perf_counter()
    jax.block_until_ready(train(jax.random.PRNGKey(1)))
    seconds = time.perf_counter() - start
    rate = config["TOTAL_TIMESTEPS"] / seconds
    print(json.dumps({"steps_per_second": rate, "version": version("jaxmarl")}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
