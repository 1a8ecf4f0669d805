"""Actor-critic that learns after every step."""

import gymnasium as gym
import torch
import torch.nn as nn
from torch.distributions import Categorical

EPISODES = 400
GAMMA = 0.99


class Actor(nn.Module):
    def __init__(self, state_dim, n_actions):
        super().__init__()
        self.model = nn.Sequential(nn.Linear(state_dim, 64), nn.Tanh(), nn.Linear(64, n_actions))

    def forward(self, state):
        return Categorical(logits=self.model(state))


class Critic(nn.Module):
    def __init__(self, state_dim):
        super().__init__()
        self.model = nn.Sequential(nn.Linear(state_dim, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, state):
        return self.model(state)


def to_tensor(x):
    return torch.as_tensor(x, dtype=torch.float32)


def train_episode(env, actor, critic, actor_optimizer, critic_optimizer, gamma=GAMMA):
    state, _ = env.reset()
    total_reward = 0.0
    while True:
        dist = actor(to_tensor(state))
        action = dist.sample()
        next_state, reward, terminated, truncated, _ = env.step(action.item())
        total_reward += reward

        with torch.no_grad():
            next_value = 0.0 if terminated else critic(to_tensor(next_state))
        advantage = reward + gamma * next_value - critic(to_tensor(state))

        critic_loss = advantage.pow(2).mean()
        critic_optimizer.zero_grad()
        critic_loss.backward()
        critic_optimizer.step()

        actor_loss = -dist.log_prob(action) * advantage.detach()
        actor_optimizer.zero_grad()
        actor_loss.backward()
        actor_optimizer.step()

        state = next_state
        if terminated or truncated:
            return total_reward


def main():
    env = gym.make("CartPole-v1")
    actor = Actor(env.observation_space.shape[0], int(env.action_space.n))
    critic = Critic(env.observation_space.shape[0])
    actor_optimizer = torch.optim.Adam(actor.parameters(), lr=1e-3)
    critic_optimizer = torch.optim.Adam(critic.parameters(), lr=5e-3)
    for episode in range(EPISODES):
        total = train_episode(env, actor, critic, actor_optimizer, critic_optimizer)
        print(f"{episode}\t{total}")


if __name__ == "__main__":
    main()
