import gymnasium as gym
import numpy as np
import torch
import torch.nn as nn
from torch.distributions import Normal

ITERATIONS = 200
STEPS_PER_ITERATION = 2048
EPOCHS = 10
MINIBATCH = 64
GAMMA = 0.95
LAMBDA = 0.9
CLIP = 0.2


class Actor(nn.Module):
    def __init__(self, state_dim, action_dim):
        super().__init__()
        self.mean = nn.Sequential(nn.Linear(state_dim, 64), nn.Tanh(), nn.Linear(64, action_dim))
        self.log_std = nn.Parameter(torch.zeros(action_dim))

    def forward(self, states):
        return Normal(self.mean(states), self.log_std.exp().expand_as(self.mean(states)))


class Critic(nn.Module):
    def __init__(self, state_dim):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(state_dim, 64), nn.Tanh(), nn.Linear(64, 1))

    def forward(self, states):
        return self.net(states).squeeze(-1)


def compute_gae(rewards, values, next_values, terminated, truncated, gamma=GAMMA, lam=LAMBDA):
    advantages = np.zeros(len(rewards), dtype=np.float32)
    gae = 0.0
    for t in reversed(range(len(rewards))):
        delta = rewards[t] + gamma * next_values[t] * (1.0 - terminated[t]) - values[t]
        if terminated[t] or truncated[t]:
            gae = delta
        else:
            gae = delta + gamma * lam * gae
        advantages[t] = gae
    return advantages


def ppo_loss(actor, critic, states, actions, old_log_probs, advantages, returns):
    dist = actor(states)
    log_probs = dist.log_prob(actions).sum(dim=1)
    ratio = torch.exp(log_probs - old_log_probs)
    surrogate = torch.min(ratio * advantages, ratio.clamp(1 - CLIP, 1 + CLIP) * advantages)
    value_loss = (returns - critic(states)).pow(2).mean()
    return -surrogate.mean() + 0.5 * value_loss


def train(actor, critic, optimizer, states, actions, old_log_probs, advantages, returns):
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(states)).split(MINIBATCH):
            loss = ppo_loss(
                actor,
                critic,
                states[rows],
                actions[rows],
                old_log_probs[rows],
                advantages[rows],
                returns[rows],
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def main():
    env = gym.make("Pendulum-v1")
    state_dim, action_dim = env.observation_space.shape[0], env.action_space.shape[0]
    actor, critic = Actor(state_dim, action_dim), Critic(state_dim)
    optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters()], lr=3e-4)

    state, _ = env.reset(seed=0)
    for iteration in range(ITERATIONS):
        states, actions, log_probs, rewards = [], [], [], []
        next_states, terminations, truncations = [], [], []
        for _ in range(STEPS_PER_ITERATION):
            with torch.no_grad():
                dist = actor(torch.from_numpy(state).unsqueeze(0))
                action = dist.sample()
                log_prob = dist.log_prob(action).sum(dim=1)
            bounded = np.clip(action[0].numpy(), env.action_space.low, env.action_space.high)
            next_state, reward, terminated, truncated, _ = env.step(bounded)
            states.append(state)
            actions.append(action[0])
            log_probs.append(log_prob[0])
            rewards.append(reward)
            next_states.append(next_state)
            terminations.append(terminated)
            truncations.append(truncated)
            state = env.reset()[0] if terminated or truncated else next_state

        states = torch.from_numpy(np.array(states))
        with torch.no_grad():
            values = critic(states)
            next_values = critic(torch.from_numpy(np.array(next_states)))
        advantages = torch.from_numpy(
            compute_gae(rewards, values.numpy(), next_values.numpy(), terminations, truncations)
        )
        returns = advantages + values
        train(
            actor,
            critic,
            optimizer,
            states,
            torch.stack(actions),
            torch.stack(log_probs),
            advantages,
            returns,
        )
        print(iteration, np.mean(rewards))


if __name__ == "__main__":
    main()
