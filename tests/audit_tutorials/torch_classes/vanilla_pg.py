import numpy as np
import torch
import torch.nn as nn
from torch.distributions import Categorical


class VPGAgent:
    def __init__(self, obs_dim, n_actions, lr=1e-2, gamma=0.99):
        self.gamma = gamma
        self.policy = nn.Sequential(nn.Linear(obs_dim, 32), nn.Tanh(), nn.Linear(32, n_actions))
        self.optimizer = torch.optim.Adam(self.policy.parameters(), lr=lr)

    def act(self, obs):
        logits = self.policy(torch.as_tensor(obs, dtype=torch.float32))
        return Categorical(logits=logits).sample().item()

    def discounted_returns(self, rewards):
        returns = np.zeros(len(rewards), dtype=np.float32)
        running = 0.0
        for t in reversed(range(len(rewards))):
            running = rewards[t] + self.gamma * running
            returns[t] = running
        return returns

    def update(self, states, actions, rewards):
        """A whole episode."""
        states = torch.as_tensor(np.array(states), dtype=torch.float32)
        actions = torch.as_tensor(np.array(actions))
        returns = torch.as_tensor(self.discounted_returns(rewards))

        dist = Categorical(logits=self.policy(states))
        loss = -(dist.log_prob(actions) * returns).mean()
        loss.backward()
        self.optimizer.step()
        return loss.item()
