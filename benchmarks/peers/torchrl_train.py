"""Train MAPPO with TorchRL, in an environment of its own: `torchrl_train.py CONFIG`.

It is mpe2's simple_spread with three agents. CONFIG is a JSON object with `steps`. After a first
batch, prints a JSON line with the environment steps per second of collecting and learning.
"""

import json
import sys
import time
from importlib.metadata import version
from typing import Any

import torch
from mpe2 import simple_spread_v3
from tensordict.nn import TensorDictModule
from torchrl.collectors import Collector
from torchrl.data.replay_buffers import LazyTensorStorage, ReplayBuffer, SamplerWithoutReplacement
from torchrl.envs import SerialEnv
from torchrl.envs.libs.pettingzoo import PettingZooWrapper
from torchrl.modules import MultiAgentMLP, ProbabilisticActor
from torchrl.objectives import ClipPPOLoss, ValueEstimators

ENVS, STEPS, EPOCHS, PARTS, AGENTS = 4, 100, 4, 4, 3


def made() -> Any:
    environment = simple_spread_v3.parallel_env()
    return PettingZooWrapper(environment, return_state=False, categorical_actions=True)


def network(outputs: int, centralised: bool) -> Any:
    return MultiAgentMLP(
        n_agent_inputs=18,
        n_agent_outputs=outputs,
        n_agents=AGENTS,
        centralised=centralised,
        share_params=True,
        depth=2,
        num_cells=64,
        activation_class=torch.nn.Tanh,
    )


def main(config: dict[str, Any]) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(2)
    environment = SerialEnv(ENVS, made)
    seen, group = ("agent", "observation"), "agent"
    policy = ProbabilisticActor(
        TensorDictModule(network(5, False), in_keys=[seen], out_keys=[(group, "logits")]),
        in_keys=[(group, "logits")],
        out_keys=[(group, "action")],
        distribution_class=torch.distributions.Categorical,
        return_log_prob=True,
        log_prob_key=(group, "sample_log_prob"),
    )
    critic = TensorDictModule(network(1, True), in_keys=[seen], out_keys=[(group, "state_value")])
    loss = ClipPPOLoss(
        policy, critic, clip_epsilon=0.2, entropy_coeff=0.01, normalize_advantage=False
    )
    loss.set_keys(
        reward=(group, "reward"),
        action=(group, "action"),
        value=(group, "state_value"),
        done=(group, "done"),
        terminated=(group, "terminated"),
        sample_log_prob=(group, "sample_log_prob"),
    )
    loss.make_value_estimator(ValueEstimators.GAE, gamma=0.99, lmbda=0.95)
    optimizer = torch.optim.Adam(loss.parameters(), 2.5e-4)
    rows = ENVS * STEPS
    collector = Collector(
        environment, policy, frames_per_batch=rows, total_frames=config["steps"] + rows
    )
    buffer = ReplayBuffer(
        storage=LazyTensorStorage(rows),
        sampler=SamplerWithoutReplacement(),
        batch_size=rows // PARTS,
    )
    start, counted = 0.0, 0
    for batch in collector:
        if not start:
            start = time.perf_counter()  # the first batch warms up
        else:
            counted += batch.numel()
        with torch.no_grad():
            loss.value_estimator(
                batch,
                params=loss.critic_network_params,
                target_params=loss.target_critic_network_params,
            )
        buffer.extend(batch.reshape(-1))
        for _ in range(EPOCHS * PARTS):
            found = loss(buffer.sample())
            total = found["loss_objective"] + found["loss_critic"] + found["loss_entropy"]
            total.backward()
            torch.nn.utils.clip_grad_norm_(loss.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad()
    rate = counted / (time.perf_counter() - start)
    print(json.dumps({"steps_per_second": rate, "version": version("torchrl")}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
