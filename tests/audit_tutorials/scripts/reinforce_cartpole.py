"""REINFORCE on CartPole."""

import gymnasium as gym
import torch
import torch.nn as nn
import torch.optim as optim
from torch.distributions import Categorical

EPISODES = 500
GAMMA = 0.99
LEARNING_RATE = 1e-2


class Policy(nn.Module):
    def __init__(self, n_observations, n_actions):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(n_observations, 128), nn.ReLU(), nn.Linear(128, n_actions)
        )

    def forward(self, x):
        return self.layers(x)


def select_action(policy, state):
    logits = policy(torch.tensor(state, dtype=torch.float32))
    dist = Categorical(logits=logits)
    action = dist.sample()
    return action.item(), dist.log_prob(action)


def compute_returns(rewards, gamma=GAMMA):
    returns = []
    R = 0.0
    for r in reversed(rewards):
        R = r + gamma * R
        returns.insert(0, R)
    return torch.tensor(returns)


def update(optimizer, log_probs, returns):
    loss = (-torch.stack(log_probs) * returns).sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def main():
    env = gym.make("CartPole-v1")
    policy = Policy(env.observation_space.shape[0], env.action_space.n)
    optimizer = optim.Adam(policy.parameters(), lr=LEARNING_RATE)

    for episode in range(EPISODES):
        state, _ = env.reset()
        log_probs, rewards = [], []
        done = False
        while not done:
            action, log_prob = select_action(policy, state)
            state, reward, terminated, truncated, _ = env.step(action)
            log_probs.append(log_prob)
            rewards.append(reward)
            done = terminated or truncated
        update(optimizer, log_probs, compute_returns(rewards))
        if episode % 20 == 0:
            print(f"episode {episode}: return {sum(rewards):.0f}")
    env.close()


if __name__ == "__main__":
    main()
