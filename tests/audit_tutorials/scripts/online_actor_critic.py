"""One-step actor-critic, online."""

import gymnasium as gym
import torch
import torch.nn as nn
import torch.nn.functional as F

MAX_EPISODES = 500


class PolicyNet(nn.Module):
    def __init__(self, in_features, out_features):
        super().__init__()
        self.hidden = nn.Linear(in_features, 128)
        self.out = nn.Linear(128, out_features)

    def forward(self, x):
        return F.softmax(self.out(F.relu(self.hidden(x))), dim=-1)


class ValueNet(nn.Module):
    def __init__(self, in_features):
        super().__init__()
        self.hidden = nn.Linear(in_features, 128)
        self.out = nn.Linear(128, 1)

    def forward(self, x):
        return self.out(F.relu(self.hidden(x)))


def run_episode(env, policy, value, policy_optimizer, value_optimizer, gamma=0.99):
    obs, _ = env.reset()
    obs = torch.tensor(obs, dtype=torch.float32)
    episode_return = 0
    done = False
    while not done:
        dist = torch.distributions.Categorical(policy(obs))
        action = dist.sample()
        next_obs, reward, terminated, truncated, _ = env.step(action.item())
        next_obs = torch.tensor(next_obs, dtype=torch.float32)
        done = terminated or truncated

        with torch.no_grad():
            target = reward + gamma * value(next_obs) * (1 - int(truncated))
        v = value(obs)
        delta = target - v.detach()

        policy_loss = -(delta * dist.log_prob(action)).sum()
        policy_optimizer.zero_grad()
        policy_loss.backward()
        policy_optimizer.step()

        value_loss = F.mse_loss(v, target)
        value_optimizer.zero_grad()
        value_loss.backward()
        value_optimizer.step()

        obs = next_obs
        episode_return += reward
    return episode_return


def main():
    env = gym.make("CartPole-v1")
    policy = PolicyNet(4, 2)
    value = ValueNet(4)
    policy_optimizer = torch.optim.Adam(policy.parameters(), lr=1e-3)
    value_optimizer = torch.optim.Adam(value.parameters(), lr=1e-3)
    for episode in range(MAX_EPISODES):
        episode_return = run_episode(env, policy, value, policy_optimizer, value_optimizer)
        print("Episode", episode, "return", episode_return)


if __name__ == "__main__":
    main()
