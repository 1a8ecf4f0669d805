"""REINFORCE with a learnt baseline."""

import gymnasium as gym
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

NUM_EPISODES = 300


class PolicyNetwork(nn.Module):
    def __init__(self, state_size, action_size):
        super().__init__()
        self.fc1 = nn.Linear(state_size, 32)
        self.fc2 = nn.Linear(32, action_size)

    def forward(self, state):
        return F.log_softmax(self.fc2(F.relu(self.fc1(state))), dim=-1)


class ValueNetwork(nn.Module):
    def __init__(self, state_size):
        super().__init__()
        self.fc1 = nn.Linear(state_size, 32)
        self.fc2 = nn.Linear(32, 1)

    def forward(self, state):
        return self.fc2(F.relu(self.fc1(state))).squeeze(-1)


def discount(rewards, gamma=0.99):
    G = np.zeros(len(rewards), dtype=np.float32)
    G[-1] = rewards[-1]
    for t in range(len(rewards) - 2, -1, -1):
        G[t] = rewards[t] + gamma * G[t + 1]
    return G


def update(policy, value_net, policy_optimizer, value_optimizer, states, actions, returns):
    values = value_net(states)
    advantages = returns - values.detach()

    log_probs = policy(states).gather(1, actions.unsqueeze(1)).squeeze(1)
    policy_loss = -(log_probs * advantages).mean()
    policy_optimizer.zero_grad()
    policy_loss.backward()
    policy_optimizer.step()

    value_loss = F.mse_loss(values, advantages)
    value_optimizer.zero_grad()
    value_loss.backward()
    value_optimizer.step()
    return policy_loss.item(), value_loss.item()


def main():
    env = gym.make("CartPole-v1")
    policy = PolicyNetwork(4, 2)
    value_net = ValueNetwork(4)
    policy_optimizer = torch.optim.Adam(policy.parameters(), lr=5e-3)
    value_optimizer = torch.optim.Adam(value_net.parameters(), lr=5e-3)

    for episode in range(NUM_EPISODES):
        states, actions, rewards = [], [], []
        state, _ = env.reset()
        done = False
        while not done:
            with torch.no_grad():
                probs = policy(torch.from_numpy(state)).exp()
            action = torch.multinomial(probs, 1).item()
            next_state, reward, terminated, truncated, _ = env.step(action)
            states.append(state)
            actions.append(action)
            rewards.append(reward)
            state = next_state
            done = terminated or truncated
        update(
            policy,
            value_net,
            policy_optimizer,
            value_optimizer,
            torch.from_numpy(np.array(states)),
            torch.tensor(actions),
            torch.from_numpy(discount(rewards)),
        )
        print(episode, sum(rewards))


if __name__ == "__main__":
    main()
