"""Collects a batch from a vector of environments, with Gymnasium's default autoreset."""

import numpy as np


def collect_rollout(envs, policy, num_steps):
    observations, actions, rewards, dones = [], [], [], []
    obs, _ = envs.reset(seed=0)
    for _ in range(num_steps):
        action = policy(obs)
        next_obs, reward, terminated, truncated, _ = envs.step(action)
        observations.append(obs)
        actions.append(action)
        rewards.append(reward)
        dones.append(np.logical_or(terminated, truncated))
        obs = next_obs
    return {
        "observations": np.array(observations),
        "actions": np.array(actions),
        "rewards": np.array(rewards),
        "dones": np.array(dones),
    }
