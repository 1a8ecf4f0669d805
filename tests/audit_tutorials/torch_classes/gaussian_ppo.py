import numpy as np
import torch
import torch.nn as nn
from torch.distributions import MultivariateNormal


class GaussianPPO:
    def __init__(self, state_dim, action_dim, max_action=1.0, lr=3e-4):
        self.actor = nn.Sequential(nn.Linear(state_dim, 64), nn.Tanh(), nn.Linear(64, action_dim))
        self.critic = nn.Sequential(nn.Linear(state_dim, 64), nn.Tanh(), nn.Linear(64, 1))
        self.cov_mat = torch.diag(torch.full((action_dim,), 0.5))
        self.max_action = max_action
        self.actor_optim = torch.optim.Adam(self.actor.parameters(), lr=lr)
        self.critic_optim = torch.optim.Adam(self.critic.parameters(), lr=lr)

    def get_action(self, state):
        mean = self.actor(torch.tensor(np.asarray(state), dtype=torch.float32))
        dist = MultivariateNormal(mean, self.cov_mat)
        action = dist.sample()
        log_prob = dist.log_prob(action)
        action = torch.clamp(action, -self.max_action, self.max_action)
        return action.numpy(), log_prob.detach()

    def evaluate(self, states, actions):
        values = self.critic(states).squeeze(-1)
        dist = MultivariateNormal(self.actor(states), self.cov_mat)
        return values, dist.log_prob(actions)

    def update(self, states, actions, log_probs, returns, n_updates=5, clip=0.2):
        states = torch.as_tensor(states, dtype=torch.float32)
        actions = torch.as_tensor(actions, dtype=torch.float32)
        log_probs = torch.as_tensor(log_probs, dtype=torch.float32)
        returns = torch.as_tensor(returns, dtype=torch.float32)

        values, _ = self.evaluate(states, actions)
        advantages = returns - values.detach()

        for _ in range(n_updates):
            values, current_log_probs = self.evaluate(states, actions)
            ratios = torch.exp(current_log_probs - log_probs)
            surr1 = ratios * advantages
            surr2 = torch.clamp(ratios, 1 - clip, 1 + clip) * advantages
            actor_loss = (-torch.min(surr1, surr2)).mean()
            critic_loss = nn.MSELoss()(values, returns)

            self.actor_optim.zero_grad()
            actor_loss.backward()
            self.actor_optim.step()

            self.critic_optim.zero_grad()
            critic_loss.backward()
            self.critic_optim.step()
