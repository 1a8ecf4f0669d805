"""Actor-critic on Acrobot, with a rollout per update."""

import gymnasium as gym
import torch
import torch.nn as nn

UPDATES = 500
ROLLOUT = 128
GAMMA = 0.99


class Net(nn.Module):
    def __init__(self, obs_dim, n_actions):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(obs_dim, 64), nn.ReLU())
        self.pi = nn.Linear(64, n_actions)
        self.v = nn.Linear(64, 1)

    def forward(self, obs):
        h = self.body(obs)
        return self.pi(h), self.v(h).squeeze(-1)


def compute_returns(rewards, dones, next_value, gamma=GAMMA):
    returns = [0.0] * len(rewards)
    running = 0.0 if dones[-1] else next_value
    for t in reversed(range(len(rewards))):
        running = rewards[t] + gamma * running
        returns[t] = running
    return returns


def loss_function(net, obs, actions, returns):
    logits, values = net(obs)
    dist = torch.distributions.Categorical(logits=logits)
    advantages = (returns - values).detach()
    pg_loss = -(dist.log_prob(actions) * advantages).mean()
    v_loss = (returns - values).pow(2).mean()
    return pg_loss + 0.5 * v_loss - 0.01 * dist.entropy().mean()


def main():
    env = gym.make("Acrobot-v1")
    net = Net(env.observation_space.shape[0], int(env.action_space.n))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    obs, _ = env.reset()
    for _ in range(UPDATES):
        observations, actions, rewards, dones = [], [], [], []
        for _ in range(ROLLOUT):
            with torch.no_grad():
                logits, _ = net(torch.as_tensor(obs))
            action = torch.distributions.Categorical(logits=logits).sample().item()
            next_obs, reward, terminated, truncated, _ = env.step(action)
            observations.append(torch.as_tensor(obs))
            actions.append(action)
            rewards.append(float(reward))
            dones.append(terminated or truncated)
            obs = env.reset()[0] if dones[-1] else next_obs
        with torch.no_grad():
            _, next_value = net(torch.as_tensor(obs))
        returns = compute_returns(rewards, dones, next_value.item())
        loss = loss_function(
            net, torch.stack(observations), torch.tensor(actions), torch.tensor(returns)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


if __name__ == "__main__":
    main()
