"""GAE over NumPy arrays [T, B], with both of Gymnasium's flags."""

import numpy as np


def compute_gae(rewards, values, next_values, terminated, truncated, gamma=0.99, lam=0.95):
    advantages = np.zeros_like(rewards)
    running = 0.0
    for t in reversed(range(len(rewards))):
        done = np.logical_or(terminated[t], truncated[t])
        delta = rewards[t] + gamma * next_values[t] * (1 - done) - values[t]
        running = delta + gamma * lam * (1 - done) * running
        advantages[t] = running
    return advantages, advantages + values
