"""Returns and advantages over lists, in NumPy and plain Python."""

import numpy as np


def discount_rewards(rewards, gamma=0.99):
    discounted = np.zeros(len(rewards))
    running = 0.0
    for t in reversed(range(len(rewards))):
        running = rewards[t] + gamma * running
        discounted[t] = running
    return discounted


def rewards_to_go(rewards, dones, gamma=0.99):
    returns = []
    G = 0
    for reward, done in zip(reversed(rewards), reversed(dones)):
        if done:
            G = 0
        G = reward + gamma * G
        returns.insert(0, G)
    return returns


def compute_gae(rewards, values, dones, next_value, gamma=0.99, lam=0.95):
    values = values + [next_value]
    gae = 0
    advantages = []
    for t in reversed(range(len(rewards))):
        if dones[t]:
            delta = rewards[t] - values[t]
            gae = delta
        else:
            delta = rewards[t] + gamma * values[t + 1] - values[t]
            gae = delta + gamma * lam * gae
        advantages.append(gae)
    advantages.reverse()
    returns = [a + v for a, v in zip(advantages, values)]
    return advantages, returns


def td_target(reward, next_value, done, gamma=0.99):
    if done:
        return reward
    return reward + gamma * next_value


def process_memory(memory, last_value, gamma=0.99):
    """memory: a list of (state, action, reward, value, done)"""
    advantages = []
    G = last_value
    for state, action, reward, value, done in reversed(memory):
        if done:
            G = 0.0
        G = reward + gamma * G
        advantages.append(G - value)
    return np.array(advantages[::-1])


def normalized_returns(rewards, gamma=0.99, eps=1e-8):
    returns = []
    G = 0.0
    for r in rewards[::-1]:
        G = r + gamma * G
        returns.append(G)
    returns = np.array(returns[::-1])
    return (returns - returns.mean()) / (returns.std() + eps)


def calculate_returns(rewards, dones, gamma=0.99):
    returns = []
    G = 0
    for i in range(len(rewards) - 1, -1, -1):
        G = rewards[i] + gamma * G
        returns.insert(0, G)
        if dones[i]:
            G = 0
    return returns


def gae_advantages(rewards, values, dones, next_value, gamma=0.99, lam=0.95):
    advantages = [0.0] * len(rewards)
    last = 0.0
    for t in range(len(rewards) - 1, -1, -1):
        if t + 1 < len(rewards):
            following = values[t + 1]
        else:
            following = next_value
        if dones[t]:
            last = 0.0
        delta = rewards[t] + gamma * following - values[t]
        last = delta + gamma * lam * last
        advantages[t] = last
    return advantages


def n_step_targets(rewards, next_values, dones, n=3, gamma=0.99):
    targets = []
    for t in range(len(rewards)):
        target = 0.0
        for k in range(n):
            target += gamma**k * rewards[t + k]
            if dones[t + k] or t + k == len(rewards) - 1:
                break
        if not dones[t + k]:
            target += gamma**k * next_values[t + k]
        targets.append(target)
    return targets


def monte_carlo_returns(rewards, gamma=0.99):
    G = 0
    returns = []
    for r in reversed(rewards):
        G = r + gamma * G
        returns.append(G)
    return returns


def get_discounted_rewards(rewards, discount=0.99):
    result = []
    for start in range(len(rewards)):
        total = 0.0
        factor = discount
        for r in rewards[start:]:
            total += factor * r
            factor *= discount
        result.append(total)
    return result


def compute_advantages(memory, gamma=0.99):
    advantages = []
    discounted_reward = 0
    for state, action, reward, value, done in reversed(memory):
        if done:
            discounted_reward = 0
        discounted_reward = reward + gamma * discounted_reward
        advantages.insert(0, value - discounted_reward)
    return advantages
