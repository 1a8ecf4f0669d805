import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.distributions import Categorical


class PolicyNet(nn.Module):
    def __init__(self, state_dim, action_dim):
        super().__init__()
        self.fc1 = nn.Linear(state_dim, 64)
        self.fc2 = nn.Linear(64, action_dim)

    def forward(self, x):
        x = F.relu(self.fc1(x))
        return F.softmax(self.fc2(x), dim=-1)


class ValueNet(nn.Module):
    def __init__(self, state_dim):
        super().__init__()
        self.fc1 = nn.Linear(state_dim, 64)
        self.fc2 = nn.Linear(64, 1)

    def forward(self, x):
        return self.fc2(F.relu(self.fc1(x))).squeeze(-1)


class PPOAgent:
    def __init__(self, state_dim, action_dim, lr=3e-4, eps_clip=0.2, k_epochs=4):
        self.policy = PolicyNet(state_dim, action_dim)
        self.value = ValueNet(state_dim)
        self.policy_optimizer = torch.optim.Adam(self.policy.parameters(), lr=lr)
        self.value_optimizer = torch.optim.Adam(self.value.parameters(), lr=lr)
        self.eps_clip = eps_clip
        self.k_epochs = k_epochs

    def distribution(self, states):
        return Categorical(logits=self.policy(states))

    def select_action(self, state):
        state = torch.tensor(state, dtype=torch.float32)
        with torch.no_grad():
            dist = self.distribution(state)
            action = dist.sample()
        return action.item(), dist.log_prob(action).item()

    def update(self, states, actions, old_log_probs, returns):
        states = torch.as_tensor(states, dtype=torch.float32)
        actions = torch.as_tensor(actions, dtype=torch.int64)
        old_log_probs = torch.as_tensor(old_log_probs, dtype=torch.float32)
        returns = torch.as_tensor(returns, dtype=torch.float32)
        advantages = returns - self.value(states).detach()

        for _ in range(self.k_epochs):
            dist = self.distribution(states)
            ratios = torch.exp(dist.log_prob(actions) - old_log_probs)
            surr1 = ratios * advantages
            surr2 = ratios.clamp(1 - self.eps_clip, 1 + self.eps_clip) * advantages
            policy_loss = -torch.min(surr1, surr2).mean() - 0.01 * dist.entropy().mean()
            self.policy_optimizer.zero_grad()
            policy_loss.backward()
            self.policy_optimizer.step()

            value_loss = F.mse_loss(self.value(states), returns)
            self.value_optimizer.zero_grad()
            value_loss.backward()
            self.value_optimizer.step()
