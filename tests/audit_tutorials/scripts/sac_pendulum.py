import copy
import random
from collections import deque

import gymnasium as gym
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.distributions import Normal

TOTAL_STEPS = 20_000
START_STEPS = 1_000
BATCH_SIZE = 128
GAMMA = 0.99
TAU = 0.005
ALPHA = 0.2


class ReplayBuffer:
    def __init__(self, capacity=100_000):
        self.buffer = deque(maxlen=capacity)

    def push(self, state, action, reward, next_state, terminated):
        self.buffer.append((state, action, reward, next_state, terminated))

    def sample(self, batch_size):
        batch = random.sample(self.buffer, batch_size)
        return [torch.as_tensor(np.array(column), dtype=torch.float32) for column in zip(*batch)]

    def __len__(self):
        return len(self.buffer)


class Actor(nn.Module):
    def __init__(self, state_dim, action_dim, action_limit):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(state_dim, 64), nn.ReLU())
        self.mean = nn.Linear(64, action_dim)
        self.log_std = nn.Linear(64, action_dim)
        self.action_limit = action_limit

    def forward(self, state):
        h = self.trunk(state)
        dist = Normal(self.mean(h), self.log_std(h).clamp(-20, 2).exp())
        u = dist.rsample()
        # log(1 - tanh(u)^2), in a form that does not underflow
        jacobian = 2 * (np.log(2) - u - F.softplus(-2 * u)) + np.log(self.action_limit)
        log_prob = (dist.log_prob(u) - jacobian).sum(-1)
        return self.action_limit * torch.tanh(u), log_prob


class Critic(nn.Module):
    def __init__(self, state_dim, action_dim):
        super().__init__()
        self.q = nn.Sequential(nn.Linear(state_dim + action_dim, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, state, action):
        return self.q(torch.cat([state, action], dim=-1)).squeeze(-1)


def critic_target(actor, target1, target2, rewards, next_states, terminated):
    with torch.no_grad():
        next_actions, log_prob = actor(next_states)
        q = torch.min(target1(next_states, next_actions), target2(next_states, next_actions))
        return rewards + GAMMA * (1 - terminated) * (q - ALPHA * log_prob)


def actor_loss(actor, critic1, critic2, states):
    actions, log_prob = actor(states)
    q = torch.min(critic1(states, actions), critic2(states, actions))
    return (ALPHA * log_prob - q).mean()


def soft_update(net, target):
    for p, p_target in zip(net.parameters(), target.parameters()):
        p_target.data.mul_(1 - TAU)
        p_target.data.add_(TAU * p.data)


def main():
    env = gym.make("Pendulum-v1")
    state_dim, action_dim = env.observation_space.shape[0], env.action_space.shape[0]
    actor = Actor(state_dim, action_dim, float(env.action_space.high[0]))
    critic1, critic2 = Critic(state_dim, action_dim), Critic(state_dim, action_dim)
    target1, target2 = copy.deepcopy(critic1), copy.deepcopy(critic2)
    actor_opt = torch.optim.Adam(actor.parameters(), lr=3e-4)
    critic_opt = torch.optim.Adam([*critic1.parameters(), *critic2.parameters()], lr=3e-4)
    buffer = ReplayBuffer()

    state, _ = env.reset()
    for step in range(TOTAL_STEPS):
        if step < START_STEPS:
            action = env.action_space.sample()
        else:
            with torch.no_grad():
                action = actor(torch.as_tensor(state))[0].numpy()
        next_state, reward, terminated, truncated, _ = env.step(action)
        buffer.push(state, action, reward, next_state, terminated)
        state = env.reset()[0] if terminated or truncated else next_state

        if len(buffer) >= BATCH_SIZE:
            states, actions, rewards, next_states, ends = buffer.sample(BATCH_SIZE)
            target = critic_target(actor, target1, target2, rewards, next_states, ends)
            critic_loss = F.mse_loss(critic1(states, actions), target)
            critic_loss += F.mse_loss(critic2(states, actions), target)
            critic_opt.zero_grad()
            critic_loss.backward()
            critic_opt.step()

            loss = actor_loss(actor, critic1, critic2, states)
            actor_opt.zero_grad()
            loss.backward()
            actor_opt.step()

            soft_update(critic1, target1)
            soft_update(critic2, target2)
    env.close()


if __name__ == "__main__":
    main()
