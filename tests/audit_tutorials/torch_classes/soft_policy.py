import torch
import torch.nn as nn
from torch.distributions import Normal


class SoftActorCritic:
    """Soft actor-critic with one critic and its slow copy."""

    def __init__(self, state_dim, action_dim, action_scale=1.0, alpha=0.1, gamma=0.99, lr=3e-4):
        self.policy = nn.Sequential(
            nn.Linear(state_dim, 64), nn.ReLU(), nn.Linear(64, 2 * action_dim)
        )
        self.critic = nn.Sequential(
            nn.Linear(state_dim + action_dim, 64), nn.ReLU(), nn.Linear(64, 1)
        )
        self.target_critic = nn.Sequential(
            nn.Linear(state_dim + action_dim, 64), nn.ReLU(), nn.Linear(64, 1)
        )
        self.target_critic.load_state_dict(self.critic.state_dict())
        self.policy_optimizer = torch.optim.Adam(self.policy.parameters(), lr=lr)
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), lr=lr)
        self.action_scale = action_scale
        self.alpha = alpha
        self.gamma = gamma

    def sample(self, states):
        mean, log_std = self.policy(states).chunk(2, dim=-1)
        normal = Normal(mean, log_std.clamp(-5, 2).exp())
        z = normal.rsample()
        actions = self.action_scale * torch.tanh(z)
        correction = torch.log(self.action_scale * (1 - torch.tanh(z).pow(2)) + 1e-6)
        return actions, (normal.log_prob(z) - correction).sum(-1)

    def select_action(self, state):
        with torch.no_grad():
            action, _ = self.sample(torch.as_tensor(state, dtype=torch.float32))
        return action.numpy()

    def q(self, critic, states, actions):
        return critic(torch.cat([states, actions], dim=-1)).squeeze(-1)

    def update_critic(self, states, actions, rewards, next_states, dones):
        with torch.no_grad():
            next_actions, next_log_prob = self.sample(next_states)
            next_q = self.q(self.target_critic, next_states, next_actions)
            soft_value = next_q - self.alpha * next_log_prob
            target = rewards + self.gamma * (1 - dones) * soft_value
        loss = (self.q(self.critic, states, actions) - target).pow(2).mean()
        self.critic_optimizer.zero_grad()
        loss.backward()
        self.critic_optimizer.step()

    def update_policy(self, states):
        actions, log_prob = self.sample(states)
        q = self.q(self.critic, states, actions)
        loss = (-self.alpha * log_prob - q).mean()
        self.policy_optimizer.zero_grad()
        loss.backward()
        self.policy_optimizer.step()

    def update(self, states, actions, rewards, next_states, dones):
        self.update_critic(states, actions, rewards, next_states, dones)
        self.update_policy(states)
        with torch.no_grad():
            pairs = zip(self.critic.parameters(), self.target_critic.parameters())
            for parameter, slow in pairs:
                slow.mul_(0.995).add_(0.005 * parameter)
