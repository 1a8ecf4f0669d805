# The cells of a notebook, one after another: a short run to see that it works.

import gymnasium as gym
import torch
from torch import nn
from torch.distributions import Categorical

env = gym.make("CartPole-v1", max_episode_steps=50)
gamma = 0.99
num_episodes = 3

policy = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
optimizer = torch.optim.Adam(policy.parameters(), lr=0.01)


def run_episode(env, policy):
    log_probs = []
    rewards = []
    state, _ = env.reset()
    done = False
    while not done:
        dist = Categorical(logits=policy(torch.as_tensor(state)))
        action = dist.sample()
        state, reward, terminated, truncated, _ = env.step(action.item())
        done = terminated or truncated
        log_probs.append(dist.log_prob(action))
        rewards.append(reward)
    return log_probs, rewards


def returns_from(rewards):
    result = [0.0] * len(rewards)
    future = 0.0
    for i in range(len(rewards) - 1, -1, -1):
        future = rewards[i] + gamma * future
        result[i] = future
    return result


def reinforce_loss(log_probs, returns):
    return -sum(lp * G for lp, G in zip(log_probs, returns))


for episode in range(num_episodes):
    log_probs, rewards = run_episode(env, policy)
    loss = reinforce_loss(log_probs, returns_from(rewards))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(episode, sum(rewards))
