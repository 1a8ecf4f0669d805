import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.distributions import Independent, Normal


class Network(nn.Module):
    """Shared layers; the mean and the deviation of the action, and the value."""

    def __init__(self, n_states, n_actions, n_hidden=64):
        super().__init__()
        self.shared = nn.Sequential(nn.Linear(n_states, n_hidden), nn.Tanh())
        self.mu = nn.Linear(n_hidden, n_actions)
        self.sigma = nn.Linear(n_hidden, n_actions)
        self.value = nn.Linear(n_hidden, 1)

    def forward(self, states):
        h = self.shared(states)
        return self.mu(h), F.softplus(self.sigma(h)) + 1e-3, self.value(h)


class ContinuousA2C:
    def __init__(self, n_states, n_actions, lr=1e-3):
        self.network = Network(n_states, n_actions)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=lr)

    def policy(self, states):
        mu, sigma, value = self.network(states)
        return Independent(Normal(mu, sigma), 1), value

    def act(self, state):
        dist, _ = self.policy(torch.as_tensor(state, dtype=torch.float32))
        return dist.sample().numpy()

    def train_step(self, states, actions, returns):
        states = torch.as_tensor(states, dtype=torch.float32)
        actions = torch.as_tensor(actions, dtype=torch.float32)
        returns = torch.as_tensor(returns, dtype=torch.float32).view(-1, 1)

        dist, values = self.policy(states)
        advantages = (returns - values).detach().squeeze(1)
        policy_loss = -torch.mean(dist.log_prob(actions) * advantages)
        value_loss = F.huber_loss(values, returns)
        loss = policy_loss + value_loss - 1e-3 * dist.entropy().mean()

        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return policy_loss.item(), value_loss.item()
