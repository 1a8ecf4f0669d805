"""Advantage actor-critic with rollouts of a fixed length."""

import gymnasium as gym
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.distributions import Categorical

NUM_UPDATES = 1000
NUM_STEPS = 32
GAMMA = 0.99
ENTROPY_BETA = 0.01


class ActorCritic(nn.Module):
    def __init__(self, num_inputs, num_actions, hidden_size=64):
        super().__init__()
        self.actor = nn.Sequential(
            nn.Linear(num_inputs, hidden_size), nn.Tanh(), nn.Linear(hidden_size, num_actions)
        )
        self.critic = nn.Sequential(
            nn.Linear(num_inputs, hidden_size), nn.Tanh(), nn.Linear(hidden_size, 1)
        )

    def forward(self, x):
        return Categorical(logits=self.actor(x)), self.critic(x).squeeze(-1)


def compute_returns(next_value, rewards, masks, gamma=GAMMA):
    """masks: 0 where the episode ended, 1 elsewhere."""
    R = next_value
    returns = []
    for step in reversed(range(len(rewards))):
        R = rewards[step] + gamma * R * masks[step]
        returns.insert(0, R)
    return returns


def collect(env, model, state, num_steps=NUM_STEPS):
    states, actions, rewards, masks = [], [], [], []
    for _ in range(num_steps):
        with torch.no_grad():
            dist, _ = model(torch.as_tensor(state))
        action = dist.sample().item()
        next_state, reward, terminated, truncated, _ = env.step(action)
        done = terminated or truncated
        states.append(state)
        actions.append(action)
        rewards.append(reward)
        masks.append(1.0 - float(done))
        state = env.reset()[0] if done else next_state
    return states, actions, rewards, masks, state


def update(model, optimizer, states, actions, returns):
    dist, values = model(states)
    advantages = returns - values
    actor_loss = -(dist.log_prob(actions) * advantages.detach()).mean()
    critic_loss = F.mse_loss(values, returns)
    loss = actor_loss + 0.5 * critic_loss - ENTROPY_BETA * dist.entropy().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def main():
    env = gym.make("CartPole-v1")
    model = ActorCritic(env.observation_space.shape[0], int(env.action_space.n))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    state, _ = env.reset()
    for _ in range(NUM_UPDATES):
        states, actions, rewards, masks, state = collect(env, model, state)
        with torch.no_grad():
            _, next_value = model(torch.as_tensor(state))
        returns = compute_returns(next_value.item(), rewards, masks)
        states = torch.stack([torch.as_tensor(s) for s in states])
        update(model, optimizer, states, torch.tensor(actions), torch.tensor(returns))
    env.close()


if __name__ == "__main__":
    main()
