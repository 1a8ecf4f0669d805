# A policy gradient in fifty lines.

import gymnasium as gym
import torch
import torch.nn as nn
from torch.distributions import Categorical

GAMMA = 0.99
N_EPISODES = 3


class Policy(nn.Module):
    def __init__(self, n_inputs=4, n_actions=2):
        super().__init__()
        self.linear1 = nn.Linear(n_inputs, 32)
        self.linear2 = nn.Linear(32, n_actions)

    def forward(self, x):
        return torch.softmax(self.linear2(torch.relu(self.linear1(x))), dim=-1)


def discounted(rewards, gamma=GAMMA):
    out, G = [], 0.0
    for r in rewards[::-1]:
        G = r + gamma * G
        out.append(G)
    return torch.tensor(out[::-1])


def update_policy(policy, optimizer, states, actions, rewards):
    returns = discounted(rewards)
    log_probs = Categorical(policy(states)).log_prob(actions)
    loss = (log_probs * returns).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


env = gym.make("CartPole-v1", max_episode_steps=60)
policy = Policy()
optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)

for i in range(N_EPISODES):
    states, actions, rewards = [], [], []
    state, _ = env.reset()
    finished = False
    while not finished:
        state = torch.as_tensor(state)
        action = Categorical(policy(state)).sample()
        states.append(state)
        actions.append(action)
        state, reward, terminated, truncated, _ = env.step(action.item())
        rewards.append(float(reward))
        finished = terminated or truncated
    loss = update_policy(policy, optimizer, torch.stack(states), torch.stack(actions), rewards)
    print(f"{i:4d} {sum(rewards):6.1f} {loss:8.3f}")
