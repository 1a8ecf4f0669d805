import torch
from torch import nn
from torch.distributions import Normal


class GaussianActor(nn.Module):
    def __init__(self, state_dim, action_dim):
        super().__init__()
        self.mean = nn.Sequential(nn.Linear(state_dim, 64), nn.Tanh(), nn.Linear(64, action_dim))
        self.log_std = nn.Parameter(torch.zeros(action_dim))

    def forward(self, states):
        return Normal(self.mean(states), self.log_std.exp())


class PPO:
    def __init__(self, state_dim, action_dim, lr=3e-4, clip_ratio=0.2, epochs=4):
        self.actor = GaussianActor(state_dim, action_dim)
        self.critic = nn.Sequential(nn.Linear(state_dim, 64), nn.Tanh(), nn.Linear(64, 1))
        parameters = list(self.actor.parameters()) + list(self.critic.parameters())
        self.optimizer = torch.optim.Adam(parameters, lr=lr)
        self.clip_ratio = clip_ratio
        self.epochs = epochs

    @torch.no_grad()
    def get_action(self, state):
        """The action as drawn; the environment clips it."""
        dist = self.actor(torch.as_tensor(state, dtype=torch.float32))
        action = dist.sample()
        log_prob = dist.log_prob(action).sum(-1)
        return action.numpy(), log_prob.item()

    def update(self, states, actions, old_log_probs, returns, advantages):
        states = torch.as_tensor(states, dtype=torch.float32)
        actions = torch.as_tensor(actions, dtype=torch.float32)
        old_log_probs = torch.as_tensor(old_log_probs, dtype=torch.float32)
        returns = torch.as_tensor(returns, dtype=torch.float32)
        advantages = torch.as_tensor(advantages, dtype=torch.float32)
        advantages = (advantages - advantages.mean()) / (advantages.std(unbiased=False) + 1e-8)

        for _ in range(self.epochs):
            dist = self.actor(states)
            log_probs = dist.log_prob(actions).sum(-1)
            ratio = torch.exp(log_probs - old_log_probs)
            clipped = torch.clamp(ratio, 1 - self.clip_ratio, 1 + self.clip_ratio)
            policy_loss = -torch.min(ratio * advantages, clipped * advantages).mean()
            value_loss = (self.critic(states).squeeze(-1) - returns).pow(2).mean()
            entropy = dist.entropy().sum(-1).mean()
            loss = policy_loss + 0.5 * value_loss - 0.01 * entropy

            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.actor.parameters(), 0.5)
            self.optimizer.step()
