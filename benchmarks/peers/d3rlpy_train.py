"""Updates a second of d3rlpy: `d3rlpy_train.py DATA.npz {iql,cql} WIDTH UPDATES`.

The same networks, batch and data as ours; the last line is the rate of the updates after a warm-up
of a fifth as many, without loggers or files.
"""

import sys
import time

import d3rlpy
import numpy as np


def main() -> None:
    path, name, width, updates = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    arrays = np.load(path)
    dataset = d3rlpy.dataset.MDPDataset(
        observations=arrays["observation"].astype(np.float32),
        actions=arrays["action"].astype(np.float32),
        rewards=arrays["reward"].astype(np.float32),
        terminals=np.zeros(len(arrays["reward"]), np.float32),
        timeouts=arrays["truncated"].astype(np.float32),
    )
    encoder = d3rlpy.models.VectorEncoderFactory([width, width])
    networks = {"actor_encoder_factory": encoder, "critic_encoder_factory": encoder}
    if name == "iql":
        config = d3rlpy.algos.IQLConfig(batch_size=256, value_encoder_factory=encoder, **networks)
    else:
        config = d3rlpy.algos.CQLConfig(
            batch_size=256, conservative_weight=5.0, alpha_learning_rate=0.0, **networks
        )
    learner = config.create(device="cpu:0")
    learner.build_with_dataset(dataset)
    buffer = dataset
    for count in (max(1, updates // 5), updates):
        began = time.perf_counter()
        for _ in range(count):
            learner.update(buffer.sample_transition_batch(256))
        rate = count / (time.perf_counter() - began)
    print(rate)


main()
